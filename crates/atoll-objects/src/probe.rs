//! What somebody wants to see who checks from outside that every referenced chunk has its
//! copies and no other chunk stays: tests, and the simulation.

use std::collections::BTreeSet;

use atoll_types::{ChunkHash, ShardId, Slot};

use crate::{
    error::Unavailable,
    objects::Objects,
    shard::reference::{self, AllReferenced},
    slots::SlotSet,
    snapshot::pins::Pins,
};

const PAGE: u32 = 4096;

/// A chunk on this node's disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldChunk {
    pub hash: ChunkHash,
    /// Found to be damaged: it is not served, and counts as missing.
    pub damaged: bool,
}

impl Objects {
    /// All chunks that any manifest, part or pending upload of the cluster names.
    pub async fn referenced_chunks(&self) -> Result<BTreeSet<ChunkHash>, Unavailable> {
        let slots: SlotSet = Slot::all().collect();
        let data_shards = self.inner.holders.layout().settings().data_shards;
        let mut found = BTreeSet::new();
        let mut pins = Pins::default();
        for shard in (1..=data_shards).map(ShardId) {
            let mut after = None;
            loop {
                let ask = reference::References { after, slots: slots.clone(), limit: PAGE };
                let AllReferenced { page, snapshots, .. } = self.references(shard, ask).await?;
                found.extend(page.chunks.iter().map(|chunk| chunk.hash));
                for root in snapshots {
                    let pinned = self.pinned_by(&root, &mut pins).await?;
                    found.extend(pinned.own.iter().chain(&pinned.objects).map(|chunk| chunk.hash));
                }
                match page.next {
                    Some(next) => after = Some(next),
                    None => break,
                }
            }
        }
        Ok(found)
    }

    /// All chunks on this node's disk.
    pub async fn held_chunks(&self) -> Result<Vec<HeldChunk>, Unavailable> {
        let chunks = &self.inner.holders.holder().chunks;
        let mut found = Vec::new();
        for slot in Slot::all() {
            let mut after = None;
            loop {
                let page = chunks.list(slot, after, PAGE as usize).await;
                let page = page.map_err(|error| Unavailable::Local(error.into()))?;
                after = page.last().map(|last| last.hash);
                found.extend(page.iter().map(|chunk| HeldChunk { hash: chunk.hash, damaged: chunk.damaged }));
                if page.len() < PAGE as usize {
                    break;
                }
            }
        }
        Ok(found)
    }
}
