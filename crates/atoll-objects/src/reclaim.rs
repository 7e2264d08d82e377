//! Reclaim: chunks that nobody refers to go, and never another (rule 9).
//!
//! A sweep raises the reclaim epoch of every shard to E. From then on no commit that
//! relies on a stamp of E − 2 or older succeeds; those that succeeded before are in the
//! records. So a holder that has seen all shards at E or above, walks all references after
//! that, and finds a chunk with such a stamp in none of them, may remove it. The store
//! looks at the stamp once more, under the lock of the removal.
//!
//! Any node begins the sweep when it is due; shard 0 lets one. Each holder then removes
//! for itself. What snapshots refer to stays as long as they do; while one is being made nothing
//! is removed.

use std::time::Duration;

use atoll_runtime::{Broken, is_broken};
use atoll_types::{ChunkHash, ShardId, Slot};

use crate::{
    error::Unavailable,
    maintenance::Worker,
    objects::unexpected,
    shard::{
        keys,
        reference::{self, AllReferenced, Swept},
    },
    slots::SlotSet,
    snapshot::pins::{Pinned, Pins},
};

/// References kept in memory at a time, 8 bytes each: 8 MiB.
const REFERENCES_MAX: u64 = 1 << 20;
/// Per answer of a shard.
const PAGE_CHUNKS: u32 = 4096;
/// Records per sweeping command: some ten milliseconds of applying.
const SWEEP_RECORDS: u32 = 1000;
/// Between two pages of a walk, so that it stays in the background.
const PAGE_PAUSE: Duration = Duration::from_millis(20);
/// Looked at this many times per sweep interval, so that a sweep is hardly late.
const LOOKS_PER_SWEEP: u32 = 12;
/// Compaction reads this much at a time, at the copy throttle's pace.
const COMPACT_BYTES: u64 = 16 << 20;

const NOTE: &str = "reclaimed";

pub(crate) async fn run(worker: Worker) {
    loop {
        worker.runtime().sleep(worker.settings.sweep_every / LOOKS_PER_SWEEP).await;
        if let Err(error) = sweep(&worker).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "a sweep waits");
        }
        if let Err(error) = collect(&worker).await {
            tracing::debug!(error = &error as &dyn std::error::Error, "reclaim waits");
        }
        compact(&worker).await;
    }
}

/// Begins a sweep if one is due: raises the epochs, and has each shard drop its own
/// records that expired.
async fn sweep(worker: &Worker) -> Result<(), Unavailable> {
    let objects = &worker.objects;
    let claim = reference::ClaimSweep { interval: worker.settings.sweep_every };
    let id = objects.inner.runtime.transaction_id();
    let claimed =
        objects.execute(ShardId::META, id, &reference::CLAIM_SWEEP, claim, objects.deadline()).await?;
    let Some(epoch) = claimed.map_err(unexpected)? else { return Ok(()) };
    for shard in worker.data_shards() {
        let id = objects.inner.runtime.transaction_id();
        let raised = objects.execute(shard, id, &reference::RAISE_EPOCH, epoch, objects.deadline()).await?;
        raised.map_err(unexpected)?;
        worker.runtime().fault_point("objects: a sweep has raised the epoch of some shards").await;
    }
    for shard in worker.data_shards() {
        loop {
            let id = objects.inner.runtime.transaction_id();
            let sweep = reference::Sweep { limit: SWEEP_RECORDS };
            let Swept { more, .. } = objects
                .execute(shard, id, &reference::SWEEP, sweep, objects.deadline())
                .await?
                .map_err(unexpected)?;
            if !more {
                break;
            }
            worker.runtime().sleep(PAGE_PAUSE).await;
        }
    }
    Ok(())
}

/// Removes what nobody refers to, once all shards have reached a new epoch.
async fn collect(worker: &Worker) -> Result<(), Unavailable> {
    let mut epoch = u64::MAX;
    for shard in worker.data_shards() {
        epoch = epoch.min(worker.objects.reclaim_epoch(shard).await?);
    }
    let done: Option<u64> = worker.notes.read(NOTE.into()).await;
    let behind = if is_broken(Broken::ReclaimEarly) { 0 } else { 2 };
    let Some(stamp_at_most) = epoch.checked_sub(behind) else { return Ok(()) };
    if done.is_some_and(|done| done >= epoch) {
        return Ok(());
    }
    let holder = worker.objects.inner.holders.holder();
    let slots = holder.layout().slots_of(&holder.me);
    let slots: Vec<Slot> = slots.current.into_iter().chain(slots.arriving).collect();
    let usage = holder.chunks.usage();
    let per_slot = (usage.chunks / slots.len().max(1) as u64).max(1);
    let group = (REFERENCES_MAX / per_slot).clamp(1, Slot::COUNT as u64) as usize;
    for group in slots.chunks(group) {
        let candidates = candidates(worker, group, stamp_at_most).await?;
        if candidates.is_empty() || is_broken(Broken::GarbageKept) {
            continue;
        }
        let referenced = references(worker, group.iter().copied().collect()).await?;
        let unreferenced: Vec<ChunkHash> =
            candidates.into_iter().filter(|hash| referenced.binary_search(&short(hash)).is_err()).collect();
        worker.runtime().fault_point("objects: the references are read, nothing is reclaimed").await;
        let removed = holder.chunks.remove_all_if(&unreferenced, stamp_at_most).await.map_err(local)?;
        worker.report(|status| status.chunks_reclaimed += removed);
    }
    worker.notes.write(NOTE.into(), epoch).await.map_err(local)?;
    worker.report(|status| status.reclaimed_epoch = epoch);
    Ok(())
}

/// This node's chunks in some slots that are old enough to go.
async fn candidates(
    worker: &Worker,
    slots: &[Slot],
    stamp_at_most: u64,
) -> Result<Vec<ChunkHash>, Unavailable> {
    let chunks = &worker.objects.inner.holders.holder().chunks;
    let mut found = Vec::new();
    for slot in slots {
        let mut after = None;
        loop {
            let page = chunks.list(*slot, after, PAGE_CHUNKS as usize).await.map_err(local)?;
            found.extend(page.iter().filter(|chunk| chunk.stamp <= stamp_at_most).map(|chunk| chunk.hash));
            match page.last() {
                Some(last) if page.len() == PAGE_CHUNKS as usize => after = Some(last.hash),
                _ => break,
            }
        }
    }
    Ok(found)
}

/// Half of a hash's second half is enough to tell chunks apart; two that are taken for
/// one keep each other, which is safe.
fn short(hash: &ChunkHash) -> u64 {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hash.as_bytes()[8..16]);
    u64::from_be_bytes(bytes)
}

/// Everything that any shard refers to in these slots, sorted.
async fn references(worker: &Worker, slots: SlotSet) -> Result<Vec<u64>, Unavailable> {
    let objects = &worker.objects;
    let mut all = Vec::new();
    let mut pins = Pins::default();
    for shard in worker.data_shards() {
        let mut after = None;
        if is_broken(Broken::PartsUnreferenced) {
            after = keys::after_prefix(keys::PART.to_vec()).map(Into::into);
        }
        loop {
            let ask = reference::References { after, slots: slots.clone(), limit: PAGE_CHUNKS };
            let AllReferenced { page, snapshots, snapshot_begun } = objects.references(shard, ask).await?;
            all.extend(page.chunks.iter().map(|chunk| short(&chunk.hash)));
            if snapshot_begun {
                return Err(Unavailable::Unsettled);
            }
            for root in snapshots {
                let Pinned { own, objects } = objects.pinned_by(&root, &mut pins).await?;
                let here = own.iter().chain(&objects).filter(|chunk| slots.contains(chunk.hash.slot()));
                all.extend(here.map(|chunk| short(&chunk.hash)));
            }
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
            worker.runtime().sleep(PAGE_PAUSE).await;
        }
    }
    all.sort_unstable();
    all.dedup();
    Ok(all)
}

async fn compact(worker: &Worker) {
    let chunks = &worker.objects.inner.holders.holder().chunks;
    loop {
        match chunks.compact_next(COMPACT_BYTES).await {
            Ok(Some(compacted)) => {
                worker.throttle.take(compacted.bytes_read + compacted.bytes_copied).await;
            }
            Ok(None) => return,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "compaction failed");
                return;
            }
        }
    }
}

fn local(error: impl Into<crate::error::BoxError>) -> Unavailable {
    Unavailable::Local(error.into())
}
