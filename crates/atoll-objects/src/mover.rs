//! Moves: fills the slots that arrive at this node, and empties those that leave it
//! (rule 7).
//!
//! A slot is filled when everything in the lists of a copy quorum of its old holders is
//! here, lists that were read after their nodes knew of the move: any write that was
//! acknowledged before is in one of them, and later ones come here too. A slot is emptied
//! after the last write that was let in has ended: what its new holders lack is brought
//! to them, then the copies here go.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use atoll_disk::ChunkError;
use atoll_placement::CopyTask;
use atoll_runtime::{Broken, is_broken};
use atoll_types::{ChunkHash, Instant, NodeId, Slot};
use futures_util::{StreamExt, stream};

use crate::{
    chunker::Chunk,
    error::BoxError,
    maintenance::Worker,
    wire::{ChunkReply, LIST_LIMIT_MAX, ListedChunk},
};

/// Slots worked on at once: while one waits for a list, others copy.
const SLOTS_AT_ONCE: usize = 4;
/// Chunks of one slot copied at once.
const COPIES_AT_ONCE: usize = 4;
/// Slots between two reports, so that moves finish bit by bit.
const SLOTS_PER_REPORT: usize = 64;
/// After something failed.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// Reports are made again while the layout doesn't show them: whoever collected them may
/// have been replaced.
const REPORT_AGAIN: Duration = Duration::from_secs(30);
/// How often slots that were never this node's are looked through for leftovers.
const STRAYS_EVERY: Duration = Duration::from_secs(3600);
/// Chunks dropped per hold of the write gate.
const DROP_PAGE: usize = 256;

pub(crate) async fn run(worker: Worker) {
    let mut layout = worker.objects.inner.holders.holder().layout.clone();
    let mut mover = Mover { worker, filled: BTreeMap::new(), strays_at: None };
    loop {
        layout.mark_unchanged();
        let finished = mover.round().await;
        let pause = if finished { REPORT_AGAIN } else { RETRY_PAUSE };
        // Ends early when the layout changes; a closed channel is a node that stops.
        let _ = mover.worker.runtime().timeout(pause, layout.changed()).await;
        if layout.has_changed().is_err() {
            return;
        }
    }
}

struct Mover {
    worker: Worker,
    /// Complete here, and when that was last reported.
    filled: BTreeMap<(Slot, u64), Instant>,
    strays_at: Option<Instant>,
}

/// Why a slot has to be tried again.
type MoveError = BoxError;

impl Mover {
    /// Works on everything the layout asks of this node. False if something is left to
    /// be tried again.
    async fn round(&mut self) -> bool {
        let holder = self.worker.objects.inner.holders.holder().clone();
        let layout = holder.layout();
        let tasks = layout.copy_tasks(&holder.me);
        let wanted: BTreeSet<(Slot, u64)> = tasks.iter().map(|task| (task.slot, task.changed)).collect();
        self.filled.retain(|report, _| wanted.contains(report));
        let retiring = layout.slots_of(&holder.me).retiring;
        self.worker.report(|status| {
            status.slots_arriving = wanted.len() as u64;
            status.slots_retiring = retiring.len() as u64;
        });

        let mut finished = self.report_again().await;
        let todo: Vec<CopyTask> =
            tasks.into_iter().filter(|task| !self.filled.contains_key(&(task.slot, task.changed))).collect();
        for batch in todo.chunks(SLOTS_PER_REPORT) {
            if holder.layout().version() != layout.version() && !self.is_still_wanted(batch) {
                return false;
            }
            finished &= self.fill_batch(batch).await;
        }
        for batch in retiring.chunks(SLOTS_PER_REPORT) {
            finished &= self.empty_batch(batch).await;
        }
        let now = self.worker.runtime().now();
        if self.strays_at.is_none_or(|at| now.saturating_since(at) >= STRAYS_EVERY) {
            self.strays_at = Some(now);
            finished &= self.drop_strays().await;
        }
        finished
    }

    /// A layout that came meanwhile may want other slots first.
    fn is_still_wanted(&self, batch: &[CopyTask]) -> bool {
        let holder = self.worker.objects.inner.holders.holder();
        let now = holder.layout().copy_tasks(&holder.me);
        batch
            .iter()
            .all(|task| now.iter().any(|other| (other.slot, other.changed) == (task.slot, task.changed)))
    }

    async fn fill_batch(&mut self, batch: &[CopyTask]) -> bool {
        let worker = &self.worker;
        let fills = stream::iter(batch.to_vec())
            .map(|task| async move {
                let result = fill(worker, &task).await;
                (task, result)
            })
            .buffer_unordered(SLOTS_AT_ONCE);
        let results: Vec<(CopyTask, Result<(), MoveError>)> = fills.collect().await;
        let mut complete = Vec::new();
        for (task, result) in results {
            match result {
                Ok(()) => complete.push((task.slot, task.changed)),
                Err(error) => {
                    tracing::debug!(slot = %task.slot, error, "a slot can't be filled yet");
                }
            }
        }
        let all = complete.len() == batch.len();
        self.tell_filled(complete).await && all
    }

    async fn tell_filled(&mut self, slots: Vec<(Slot, u64)>) -> bool {
        if slots.is_empty() {
            return true;
        }
        let link = self.worker.objects.inner.holders.holder().link.clone();
        let now = self.worker.runtime().now();
        self.filled.extend(slots.iter().map(|slot| (*slot, now)));
        let told = link.slots_filled(slots).await;
        if let Err(error) = &told {
            tracing::debug!(error = error as &dyn std::error::Error, "filled slots are reported later");
        }
        told.is_ok()
    }

    async fn report_again(&mut self) -> bool {
        let now = self.worker.runtime().now();
        let due = |at: &Instant| now.saturating_since(*at) >= REPORT_AGAIN;
        let slots = self.filled.iter().filter(|(_, at)| due(at)).map(|(slot, _)| *slot).collect();
        self.tell_filled(slots).await
    }

    async fn empty_batch(&self, slots: &[Slot]) -> bool {
        // No write that an older layout let in is under way any more.
        self.worker.objects.inner.holders.holder().settle_writes().await;
        let mut released = Vec::new();
        for slot in slots {
            match empty(&self.worker, *slot).await {
                Ok(true) => released.push(*slot),
                Ok(false) => {}
                Err(error) => {
                    tracing::debug!(%slot, error, "a slot can't be given away yet");
                }
            }
        }
        let all = released.len() == slots.len();
        let link = &self.worker.objects.inner.holders.holder().link;
        !released.is_empty() && link.slots_released(released).await.is_ok() && all
    }

    /// Chunks in slots that this node has nothing to do with: it was away while they
    /// moved. They take the same way out, without a report.
    async fn drop_strays(&self) -> bool {
        let holder = self.worker.objects.inner.holders.holder();
        let layout = holder.settle_writes().await;
        let slots = layout.slots_of(&holder.me);
        let known: BTreeSet<Slot> =
            slots.current.into_iter().chain(slots.arriving).chain(slots.retiring).collect();
        let mut finished = true;
        for slot in Slot::all().filter(|slot| !known.contains(slot)) {
            finished &= empty(&self.worker, slot).await.is_ok();
        }
        finished
    }
}

/// Brings everything in a slot here.
async fn fill(worker: &Worker, task: &CopyTask) -> Result<(), MoveError> {
    if is_broken(Broken::MoveWithoutCopy) {
        return Ok(());
    }
    let holders = &worker.objects.inner.holders;
    let me = holders.holder().me;
    let mut listed: BTreeMap<ChunkHash, ListedChunk> = BTreeMap::new();
    let mut answered: BTreeSet<NodeId> = BTreeSet::new();
    let mut last_error = String::new();
    for source in &task.quorum.members {
        if task.quorum.is_met(&answered) {
            break;
        }
        let list = async {
            if *source == me {
                own_list(worker, task.slot).await
            } else {
                list_all(worker, *source, task).await
            }
        };
        match list.await {
            Ok(chunks) => {
                answered.insert(*source);
                for chunk in chunks {
                    let known = listed.entry(chunk.hash).or_insert(chunk);
                    known.stamp = known.stamp.max(chunk.stamp);
                }
            }
            Err(error) => last_error = error.to_string(),
        }
    }
    if !task.quorum.is_met(&answered) {
        return Err(format!("{} of {} lists: {last_error}", answered.len(), task.quorum.needed).into());
    }
    let copies = stream::iter(listed.into_values())
        .map(|chunk| copy_here(worker, chunk))
        .buffer_unordered(COPIES_AT_ONCE);
    let results: Vec<Result<(), MoveError>> = copies.collect().await;
    worker.runtime().fault_point("objects: a slot is filled, the controller is not told").await;
    results.into_iter().collect()
}

async fn own_list(worker: &Worker, slot: Slot) -> Result<Vec<ListedChunk>, MoveError> {
    let holder = worker.objects.inner.holders.holder();
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let (chunks, next) = holder.page(slot, after, LIST_LIMIT_MAX as usize).await?;
        all.extend(chunks);
        match next {
            Some(hash) => after = Some(hash),
            None => return Ok(all),
        }
    }
}

async fn list_all(worker: &Worker, source: NodeId, task: &CopyTask) -> Result<Vec<ListedChunk>, MoveError> {
    let holders = &worker.objects.inner.holders;
    let (mut all, mut after) = (Vec::new(), None);
    loop {
        let (chunks, next) = holders.list_at(source, task.slot, after, LIST_LIMIT_MAX, task.changed).await?;
        all.extend(chunks);
        match next {
            Some(hash) => after = Some(hash),
            None => return Ok(all),
        }
    }
}

/// The stamp comes along: a chunk that a put relies on must not look older here.
async fn copy_here(worker: &Worker, chunk: ListedChunk) -> Result<(), MoveError> {
    let holders = &worker.objects.inner.holders;
    let holder = holders.holder();
    if holder.chunks.raise_stamp(chunk.hash, chunk.stamp).await? {
        return Ok(());
    }
    worker.throttle.take(chunk.bytes.into()).await;
    let bytes = holders.fetch_once(chunk.hash).await?;
    let version = holder.layout().version();
    match holder.put(chunk.hash, bytes, chunk.stamp, version, true).await {
        ChunkReply::Stored => {
            worker.report(|status| status.bytes_moved += u64::from(chunk.bytes));
            Ok(())
        }
        reply => Err(format!("storing it here: {reply:?}").into()),
    }
}

/// Brings to a slot's holders what they lack of this node's copies, and drops those.
/// False if this node holds the slot again.
async fn empty(worker: &Worker, slot: Slot) -> Result<bool, MoveError> {
    let holder = worker.objects.inner.holders.holder();
    let mut after = None;
    loop {
        let page = holder.chunks.list(slot, after, DROP_PAGE).await?;
        if page.is_empty() {
            return Ok(!holder.holds(slot));
        }
        after = page.last().map(|chunk| chunk.hash);
        let hashes: Vec<ChunkHash> = page.iter().map(|chunk| chunk.hash).collect();
        let stamps: BTreeMap<ChunkHash, u64> = page.iter().map(|chunk| (chunk.hash, chunk.stamp)).collect();
        if !is_broken(Broken::MoveWithoutCopy) && !is_broken(Broken::FinalPassSkipped) {
            hand_over(worker, slot, &hashes, &stamps).await?;
        }
        worker.runtime().fault_point("objects: a slot's copies are handed over, not dropped").await;
        if !holder.drop_left(slot, &hashes).await? {
            return Ok(false);
        }
    }
}

/// Makes sure that the slot's quorums have these chunks.
async fn hand_over(
    worker: &Worker,
    slot: Slot,
    hashes: &[ChunkHash],
    stamps: &BTreeMap<ChunkHash, u64>,
) -> Result<(), MoveError> {
    let holders = &worker.objects.inner.holders;
    let targets = holders.layout().write_targets(slot);
    let mut having: BTreeMap<ChunkHash, BTreeSet<NodeId>> = BTreeMap::new();
    let mut last_error = String::new();
    for node in &targets.nodes {
        let flags = match holders.has_at(*node, hashes.to_vec()).await {
            Ok(flags) => flags,
            Err(error) => {
                last_error = error;
                continue;
            }
        };
        for (hash, has) in hashes.iter().zip(flags) {
            if has {
                having.entry(*hash).or_default().insert(*node);
                continue;
            }
            let bytes = match holders.holder().chunks.get(*hash).await {
                Ok(Some(bytes)) => bytes,
                // Nothing here that anyone could want.
                Ok(None) | Err(ChunkError::Damaged { .. }) => continue,
                Err(error) => return Err(error.into()),
            };
            worker.throttle.take(bytes.len() as u64).await;
            let len = bytes.len() as u64;
            match holders.put_at(*node, Chunk { hash: *hash, bytes }, stamps[hash]).await {
                Ok(()) => {
                    worker.report(|status| status.bytes_moved += len);
                    having.entry(*hash).or_default().insert(*node);
                }
                Err(error) => last_error = error,
            }
        }
    }
    let none = BTreeSet::new();
    for hash in hashes {
        if targets.is_met(having.get(hash).unwrap_or(&none)) {
            continue;
        }
        // What can't be read here helps nobody by staying.
        if matches!(holders.holder().chunks.get(*hash).await, Ok(None) | Err(ChunkError::Damaged { .. })) {
            continue;
        }
        return Err(format!("its holders don't all take chunk {hash}: {last_error}").into());
    }
    Ok(())
}
