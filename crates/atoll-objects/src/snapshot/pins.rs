//! What snapshots refer to, for reclaim and repair: their own chunks, and those of the objects
//! in them, whether or not a record still names these.

use std::collections::BTreeSet;

use atoll_types::{ChunkHash, Format};

use super::format::{References, Root};
use crate::{
    error::Unavailable,
    manifest::ChunkRef,
    objects::Objects,
    shard::reference::{self, AllReferenced},
};

/// What was read of snapshots in one walk. They share most of their chunks, so each is read once.
#[derive(Default)]
pub(crate) struct Pins {
    /// All chunks of each: long roots that differ at their end begin with the same.
    roots: BTreeSet<Vec<ChunkHash>>,
    lists: BTreeSet<ChunkHash>,
}

impl Pins {
    fn is_new(&mut self, root: &[ChunkRef]) -> bool {
        !root.is_empty() && self.roots.insert(root.iter().map(|chunk| chunk.hash).collect())
    }
}

/// What one snapshot refers to.
#[derive(Default)]
pub(crate) struct Pinned {
    /// Its own chunks.
    pub own: Vec<ChunkRef>,
    /// Those of the objects in it.
    pub objects: Vec<ChunkRef>,
}

impl Objects {
    /// One page of the walk over all references.
    pub(crate) async fn references(
        &self,
        shard: atoll_types::ShardId,
        ask: reference::References,
    ) -> Result<AllReferenced, Unavailable> {
        let deadline = self.deadline();
        if self.has_version(super::SNAPSHOTS_SINCE, deadline).await? {
            let answer = self.query(shard, &reference::ALL_REFERENCES, ask, deadline).await?;
            return answer.map_err(crate::objects::unexpected);
        }
        let answer = self.query(shard, &reference::REFERENCES, ask, deadline).await?;
        let page = answer.map_err(crate::objects::unexpected)?;
        Ok(AllReferenced { page, snapshots: Vec::new(), snapshot_begun: false })
    }

    /// Everything that a snapshot refers to and that `pins` did not see yet.
    pub(crate) async fn pinned_by(
        &self,
        root_chunks: &[ChunkRef],
        pins: &mut Pins,
    ) -> Result<Pinned, Unavailable> {
        if !pins.is_new(root_chunks) {
            return Ok(Pinned::default());
        }
        let root = self.snapshot_root(root_chunks).await?;
        let mut pinned = Pinned { own: root_chunks.to_vec(), objects: Vec::new() };
        pinned.own.extend(&root.entries);
        for list in root.references {
            pinned.own.push(list);
            if pins.lists.insert(list.hash) {
                let bytes = self.chunk(list.hash).await?;
                pinned.objects.extend(References::decode(&bytes)?.0);
            }
        }
        Ok(pinned)
    }

    pub(crate) async fn snapshot_root(&self, chunks: &[ChunkRef]) -> Result<Root, Unavailable> {
        let mut bytes = Vec::new();
        for chunk in chunks {
            bytes.extend_from_slice(&self.chunk(chunk.hash).await?);
        }
        Ok(Root::decode(&bytes)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roots_that_begin_alike_are_two() {
        let chunk = |text: &str| ChunkRef { hash: ChunkHash::of(text.as_bytes()), bytes: 1 };
        let mut pins = Pins::default();
        assert!(!pins.is_new(&[]));
        assert!(pins.is_new(&[chunk("the same"), chunk("an end")]));
        assert!(!pins.is_new(&[chunk("the same"), chunk("an end")]));
        assert!(pins.is_new(&[chunk("the same"), chunk("another end")]));
        assert!(pins.is_new(&[chunk("another beginning"), chunk("an end")]));
    }
}
