//! Repair: a holder makes sure that it has every chunk of its slots that a record refers
//! to, and brings what it lacks from the others.
//!
//! For each shard it remembers the revision up to which it has verified its slots, and
//! asks the shard's log of references for what came after. So it knows what it missed
//! while it was away, without comparing everything. Where that log doesn't reach back
//! far enough, and once a week, it walks all references instead.
//!
//! Slots that are new to this node are filled by `mover`, from lists that were read
//! after this node knew that it would hold them; references that come later than that are
//! found here. A reference that this loop passed before the node held its slot was
//! therefore stored before those lists were read, and is in them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use atoll_runtime::{Broken, is_broken};
use atoll_types::{ChunkHash, Instant, Revision, ShardId};
use futures_util::{StreamExt, stream};
use tokio::sync::mpsc;

use crate::{
    error::Unavailable,
    maintenance::Worker,
    manifest::ChunkRef,
    objects::unexpected,
    shard::reference::{self, AllReferenced, Changed, Referenced},
    slots::SlotSet,
    snapshot::pins::{Pinned, Pins},
    wire::ChunkReply,
};

/// Chunks per answer of a shard: 4,096 of 36 bytes.
const PAGE_CHUNKS: u32 = 4096;
/// Missing chunks noted per shard before the search for more waits.
const MISSING_MAX: usize = 16_384;
/// Chunks fetched at once: the throttle sets the pace, this covers its round trips.
const FETCHES: usize = 4;
/// A chunk that was not to be had is not looked for again for so long, unless something
/// refers to it. Who is asked in vain looks for it too, and asks back: two nodes would
/// never stop asking each other for a chunk that is gone for good.
const LOOK_AGAIN: Duration = Duration::from_secs(60);
/// Damaged chunks looked at per round.
const DAMAGED_PER_ROUND: usize = 256;

pub(crate) async fn run(worker: Worker, suspicious: Option<mpsc::Receiver<ChunkHash>>) {
    let mut repair = Repair { worker, shards: BTreeMap::new(), in_vain: BTreeMap::new() };
    // Without a receiver (a second set of loops on one node) the checks still run.
    let (_kept_open, mut suspicious) = match suspicious {
        Some(receiver) => (None, receiver),
        None => {
            let (sender, receiver) = mpsc::channel(1);
            (Some(sender), receiver)
        }
    };
    loop {
        let shards = repair.worker.data_shards();
        let pause = repair.worker.settings.check_every / (shards.len().max(1) as u32);
        for shard in shards {
            let until = repair.worker.runtime().now() + pause;
            if let Err(error) = repair.check_shard(shard).await {
                tracing::debug!(%shard, error = &error as &dyn std::error::Error, "a shard's references wait");
            }
            repair.look_into(&mut suspicious, until).await;
        }
        repair.restore_damaged().await;
    }
}

/// How far one shard's references are verified.
struct ShardProgress {
    verified: Revision,
    /// Walk everything, from this page on.
    walk: Option<Walk>,
    walked_at: Instant,
    /// The walks that were wanted when the last one began.
    walks_wanted: u64,
    missing: BTreeSet<ChunkHash>,
}

#[derive(Clone)]
struct Walk {
    after: Option<bytes::Bytes>,
    /// Of the first page: everything up to it is verified when the walk ends.
    covers: Option<Revision>,
}

struct Repair {
    worker: Worker,
    shards: BTreeMap<ShardId, ShardProgress>,
    /// What was looked for in vain, and when: at most [`LOOK_AGAIN`] ago.
    in_vain: BTreeMap<ChunkHash, Instant>,
}

fn note(shard: ShardId) -> String {
    format!("verified/{shard}")
}

impl Repair {
    /// Restores what was found missing before, then looks for more.
    async fn check_shard(&mut self, shard: ShardId) -> Result<(), Unavailable> {
        let now = self.worker.runtime().now();
        if !self.shards.contains_key(&shard) {
            let noted: Option<Revision> = match self.worker.settings.walk_first {
                true => None,
                false => self.worker.notes.read(note(shard)).await,
            };
            let progress = ShardProgress {
                verified: noted.unwrap_or_default(),
                walk: noted.is_none().then_some(Walk { after: None, covers: None }),
                walked_at: now,
                walks_wanted: 0,
                missing: BTreeSet::new(),
            };
            self.shards.insert(shard, progress);
        }
        // A chunk found missing has had the time of one round to arrive by itself: most
        // are copies that a put didn't wait for.
        let missing = std::mem::take(&mut self.progress(shard).missing);
        let still_missing = self.restore_all(missing).await;
        self.progress(shard).missing = still_missing;
        let (walk_every, walks_wanted) = (self.worker.settings.walk_every, self.worker.walks_wanted());
        let progress = self.progress(shard);
        if progress.walks_wanted < walks_wanted {
            // From the first page, even if one is under way; and after a restart, too.
            progress.walks_wanted = walks_wanted;
            progress.walked_at = now;
            progress.verified = Revision::default();
            progress.walk = Some(Walk { after: None, covers: None });
            self.worker.notes.write(note(shard), Revision::default()).await.map_err(store_failed)?;
        } else if now.saturating_since(progress.walked_at) >= walk_every {
            progress.walked_at = now;
            if progress.walk.is_none() {
                progress.walk = Some(Walk { after: None, covers: None });
                // It finds again what is still missing, and leaves out what nobody refers
                // to any more.
                progress.missing.clear();
            }
        }
        let slots = self.own_slots();
        if slots.is_empty() {
            return Ok(());
        }
        loop {
            if self.progress(shard).missing.len() >= MISSING_MAX {
                break;
            }
            let more = match self.progress(shard).walk.clone() {
                Some(walk) => self.walk_page(shard, walk, &slots).await?,
                None => self.changes_page(shard, &slots).await?,
            };
            if !more {
                break;
            }
        }
        let progress = self.progress(shard);
        if progress.missing.is_empty() && progress.walk.is_none() {
            let verified = progress.verified;
            self.worker.notes.write(note(shard), verified).await.map_err(store_failed)?;
        }
        let missing: usize = self.shards.values().map(|progress| progress.missing.len()).sum();
        self.worker.report(|status| status.copies_missing = missing as u64);
        Ok(())
    }

    fn progress(&mut self, shard: ShardId) -> &mut ShardProgress {
        self.shards.get_mut(&shard).expect("check_shard puts it there first")
    }

    fn own_slots(&self) -> SlotSet {
        let holder = self.worker.objects.inner.holders.holder();
        let slots = holder.layout().slots_of(&holder.me);
        slots.current.into_iter().chain(slots.arriving).collect()
    }

    /// One page of the log of references; whether there is more to look at.
    async fn changes_page(&mut self, shard: ShardId, slots: &SlotSet) -> Result<bool, Unavailable> {
        let after = self.progress(shard).verified;
        let ask = reference::Changes { after, slots: slots.clone(), limit: PAGE_CHUNKS };
        let objects = &self.worker.objects;
        let deadline = objects.deadline();
        let Changed { chunks, until, more, cut } =
            objects.query(shard, &reference::CHANGES, ask, deadline).await?.map_err(unexpected)?;
        if cut {
            self.progress(shard).walk = Some(Walk { after: None, covers: None });
            return Ok(true);
        }
        self.find_missing(shard, &chunks).await?;
        self.progress(shard).verified = until;
        Ok(more)
    }

    async fn walk_page(&mut self, shard: ShardId, walk: Walk, slots: &SlotSet) -> Result<bool, Unavailable> {
        let ask =
            reference::References { after: walk.after.clone(), slots: slots.clone(), limit: PAGE_CHUNKS };
        let objects = self.worker.objects.clone();
        let AllReferenced { page, snapshots, .. } = objects.references(shard, ask).await?;
        let Referenced { chunks, next, revision } = page;
        self.find_missing(shard, &chunks).await?;
        let mut pins = Pins::default();
        for root in snapshots {
            let Pinned { mut own, objects } = match objects.pinned_by(&root, &mut pins).await {
                Ok(pinned) => pinned,
                Err(error) => {
                    // What is gone for good must not keep the rest from being repaired.
                    tracing::warn!(%shard, error = &error as &dyn std::error::Error, "a snapshot can't be read");
                    continue;
                }
            };
            own.extend(objects);
            own.retain(|chunk| slots.contains(chunk.hash.slot()));
            self.find_missing(shard, &own).await?;
        }
        let covers = walk.covers.unwrap_or(revision);
        let progress = self.progress(shard);
        progress.walk = next.map(|after| Walk { after: Some(after), covers: Some(covers) });
        if progress.walk.is_none() {
            progress.verified = covers;
        }
        Ok(true)
    }

    async fn find_missing(&mut self, shard: ShardId, chunks: &[ChunkRef]) -> Result<(), Unavailable> {
        let store = self.worker.objects.inner.holders.holder().chunks.clone();
        for chunk in chunks {
            let here = store.contains(chunk.hash).await.map_err(disk_failed)?;
            if !here {
                self.progress(shard).missing.insert(chunk.hash);
            }
        }
        Ok(())
    }

    /// Tries to restore each; gives those that are still missing.
    async fn restore_all(&self, missing: BTreeSet<ChunkHash>) -> BTreeSet<ChunkHash> {
        let worker = &self.worker;
        let attempts = stream::iter(missing)
            .map(|hash| async move { (hash, restore(worker, hash).await) })
            .buffered(FETCHES);
        let results: Vec<(ChunkHash, bool)> = attempts.collect().await;
        results.into_iter().filter(|(_, restored)| !restored).map(|(hash, _)| hash).collect()
    }

    /// Chunks that a reader or the scrub met.
    async fn look_into(&mut self, suspicious: &mut mpsc::Receiver<ChunkHash>, until: Instant) {
        let runtime = self.worker.runtime().clone();
        self.in_vain.retain(|_, at| runtime.now().saturating_since(*at) < LOOK_AGAIN);
        // The time-out by itself would not end it while there is always another.
        while runtime.now() < until
            && let Ok(Some(hash)) = runtime.timeout_at(until, suspicious.recv()).await
        {
            if !self.in_vain.contains_key(&hash) && !restore(&self.worker, hash).await {
                self.in_vain.insert(hash, runtime.now());
            }
        }
    }

    async fn restore_damaged(&self) {
        let store = &self.worker.objects.inner.holders.holder().chunks;
        match store.list_damaged(None, DAMAGED_PER_ROUND).await {
            Ok(damaged) => drop(self.restore_all(damaged.into_iter().collect()).await),
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "damaged chunks can't be listed");
            }
        }
    }
}

/// Brings one chunk here if it should be here and isn't. True if nothing is left to do.
async fn restore(worker: &Worker, hash: ChunkHash) -> bool {
    let holders = &worker.objects.inner.holders;
    let holder = holders.holder();
    let wanted = holder.holds(hash.slot()) && !is_broken(Broken::NoRepair);
    if !wanted || holder.chunks.contains(hash).await.unwrap_or(false) {
        return true;
    }
    let bytes = match holders.fetch_once(hash).await {
        Ok(bytes) => bytes,
        Err(reason) => {
            tracing::debug!(%hash, reason, "a missing chunk is not to be had now");
            return false;
        }
    };
    worker.throttle.take(bytes.len() as u64).await;
    // Stamped 0: it is here for its references. Who is about to add another stamps it
    // at a quorum of holders, this one included or not.
    let version = holder.layout().version();
    match holder.put(hash, bytes, 0, version, true).await {
        ChunkReply::Stored => {
            worker.report(|status| status.copies_restored += 1);
            true
        }
        reply => {
            tracing::debug!(%hash, ?reply, "a missing chunk could not be stored");
            false
        }
    }
}

fn store_failed(error: atoll_disk::StoreError) -> Unavailable {
    Unavailable::Local(Box::new(error))
}

fn disk_failed(error: atoll_disk::ChunkError) -> Unavailable {
    Unavailable::Local(Box::new(error))
}
