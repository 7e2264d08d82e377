//! Snapshots: every so often the records of each shard are written to chunks, and pinned there
//! with all that they refer to, so that what was deleted or replaced since can be restored, and
//! a backup has something to copy that does not change under it.
//!
//! Each shard's is a state of its own at one point of its log; a round has them all, which each
//! node takes one after the other of those that it leads. What a round is and how reclaim honours it is in
//! `shard/snapshot.rs`; what the chunks hold, in `snapshot/format.rs`.

pub(crate) mod format;
pub(crate) mod pins;
mod walk;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use atoll_records::{ReadView, ShardView};
use atoll_types::{ChunkHash, Format, Instant, Revision, ShardId, WallTime};
use bytes::Bytes;

pub use crate::shard::snapshot::KeptSnapshot;
use crate::{
    chunker::{CHUNK_BYTES_MAX, Chunk},
    error::Unavailable,
    maintenance::Worker,
    manifest::ChunkRef,
    objects::{Objects, unexpected},
    shard::{
        Refused,
        snapshot::{self, Abandon, Begin, Begun, Keep},
    },
};
use format::Root;
use walk::Walk;

/// From this cluster version on there are snapshots and restored buckets (rule 18).
pub const SNAPSHOTS_SINCE: u32 = 4;

/// How often a node looks whether a round has begun elsewhere: whoever makes a backup waits for
/// that.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// Lets go of old snapshots so many times within the time that they are kept.
const EXPIRIES_PER_KEEP: u32 = 24;
/// A snapshot that could not be made, as when there is no room, is not begun again for so long:
/// reclaim has its turn meanwhile, and may make room.
const TRY_AGAIN: Duration = Duration::from_secs(20);
/// Between two chunks of a snapshot, so that it stays in the background.
const CHUNK_PAUSE: Duration = Duration::from_millis(2);
/// How often the snapshot's chunks are stamped again because a sweep overtook them.
const KEEP_ATTEMPTS: usize = 3;

/// When snapshots are taken, and for how long they are kept.
#[derive(Debug, Clone)]
pub struct SnapshotSettings {
    /// An hour: what is lost by a mistake is at most an hour's work. Each reads all records
    /// once. `None` takes them only when a backup asks.
    pub every: Option<Duration>,
    /// A week: what was deleted takes up space for that long.
    pub keep: Duration,
    /// In shard 0, the prefixes of what other crates keep and a restored cluster needs.
    pub others: Vec<Bytes>,
}

impl Default for SnapshotSettings {
    fn default() -> Self {
        Self {
            every: Some(Duration::from_secs(3600)),
            keep: Duration::from_secs(7 * 86_400),
            others: Vec::new(),
        }
    }
}

pub(crate) async fn run(worker: Worker, settings: SnapshotSettings) {
    let look_every = LOOK_EVERY.min(settings.every.unwrap_or(LOOK_EVERY) / 4).min(settings.keep / 4);
    let mut snapshots = Snapshots {
        worker,
        settings,
        done: BTreeMap::new(),
        failed: BTreeMap::new(),
        expired_at: Instant::default(),
    };
    loop {
        let wanted = snapshots.worker.objects.inner.snapshots_wanted.notified();
        // Either is a reason to look.
        let _ = snapshots.worker.runtime().timeout(look_every, wanted).await;
        if let Err(error) = snapshots.look().await {
            tracing::debug!(error = &error as &dyn std::error::Error, "snapshots wait");
        }
    }
}

struct Snapshots {
    worker: Worker,
    settings: SnapshotSettings,
    /// The round that each shard has its snapshot of, as far as this node made them.
    done: BTreeMap<ShardId, u64>,
    /// Where it failed, and when: at most [`TRY_AGAIN`] ago.
    failed: BTreeMap<ShardId, Instant>,
    expired_at: Instant,
}

impl Snapshots {
    async fn look(&mut self) -> Result<(), Unavailable> {
        let objects = self.worker.objects.clone();
        if !objects.has_version(SNAPSHOTS_SINCE, objects.deadline()).await? {
            return Ok(());
        }
        let mut newest = objects.snapshot_round().await?;
        if let Some(every) = self.settings.every {
            // By this node's clock only a guess; shard 0 decides by its own.
            let now = objects.inner.runtime.wall_now();
            if newest.is_none_or(|(_, begun)| now.saturating_since(begun) >= every) {
                objects.claim_round(Some(every)).await?;
                newest = objects.snapshot_round().await?;
            }
        }
        let mut led = objects.inner.records.led_here();
        led.sort_unstable();
        if let Some((round, _)) = newest {
            let now = objects.inner.runtime.now();
            self.failed.retain(|_, at| now.saturating_since(*at) < TRY_AGAIN);
            for shard in &led {
                if self.done.get(shard) == Some(&round) || self.failed.contains_key(shard) {
                    continue;
                }
                match self.take(*shard, round).await {
                    Ok(()) => drop(self.done.insert(*shard, round)),
                    Err(error) => {
                        self.failed.insert(*shard, objects.inner.runtime.now());
                        tracing::warn!(%shard, error = &error as &dyn std::error::Error, "no snapshot yet");
                    }
                }
            }
        }
        let now = objects.inner.runtime.now();
        if now.saturating_since(self.expired_at) >= self.settings.keep / EXPIRIES_PER_KEEP {
            self.expired_at = now;
            for shard in led.into_iter().filter(|shard| *shard != ShardId::META) {
                let id = objects.inner.runtime.transaction_id();
                let expire = objects
                    .execute(shard, id, &snapshot::EXPIRE, self.settings.keep, objects.deadline())
                    .await?;
                expire.map_err(unexpected)?;
            }
        }
        Ok(())
    }

    async fn take(&self, of: ShardId, round: u64) -> Result<(), Unavailable> {
        let objects = &self.worker.objects;
        let (home, id) = (snapshot::home(of), objects.inner.runtime.transaction_id());
        // Before the intent: a sweep in between is noticed when the snapshot is recorded.
        let epoch = objects.reclaim_epoch(home).await?;
        let begin = Begin { of, round };
        let begun = objects.execute(home, id, &snapshot::BEGIN, begin, objects.deadline()).await?;
        let Begun::Intended { intent } = begun.map_err(unexpected)? else { return Ok(()) };
        let taken = self.take_under(of, round, intent, epoch).await;
        if taken.is_err() {
            let id = objects.inner.runtime.transaction_id();
            let abandon = Abandon { of, intent };
            let done = objects.execute(home, id, &snapshot::ABANDON, abandon, objects.deadline()).await?;
            done.map_err(unexpected)?;
        }
        taken
    }

    async fn take_under(
        &self,
        of: ShardId,
        round: u64,
        intent: Revision,
        mut epoch: u64,
    ) -> Result<(), Unavailable> {
        let objects = &self.worker.objects;
        let runtime = &objects.inner.runtime;
        // Of now, so the intent came before. Without it the leader is another by now.
        let Some(view) = objects.inner.records.view(of, objects.deadline()).await else {
            return Err(Unavailable::Unsettled);
        };
        let revision = view.revision();
        runtime.fault_point("objects: a snapshot was begun, its state is read").await;
        let Written { own, root } = self.write(of, view, epoch).await?;
        runtime.fault_point("objects: a snapshot's chunks are durable, its record is not").await;
        for _ in 0..KEEP_ATTEMPTS {
            let keep = Keep { of, round, intent, epoch, revision, root: root.clone() };
            let (home, id) = (snapshot::home(of), runtime.transaction_id());
            match objects.execute(home, id, &snapshot::KEEP, keep, objects.deadline()).await? {
                Ok(true) => return Ok(()),
                Ok(false) => return Err(Unavailable::Unsettled),
                Err(Refused::StaleEpoch { current }) => {
                    objects.stamp_chunks(&own, current).await?;
                    epoch = current;
                }
                Err(refused) => return Err(unexpected(refused)),
            }
        }
        Err(Unavailable::Unsettled)
    }

    /// Writes what a view has to chunks.
    async fn write(&self, of: ShardId, view: ShardView, epoch: u64) -> Result<Written, Unavailable> {
        let objects = &self.worker.objects;
        let runtime = &objects.inner.runtime;
        let others = (of == ShardId::META).then(|| self.settings.others.clone());
        let walk = move || Walk::new(Arc::new(view), others.as_deref());
        let mut walk = runtime.blocking(walk).await.map_err(local)?;
        let mut entries = Vec::new();
        loop {
            let read = move || {
                let chunk = walk.next_chunk();
                (walk, chunk)
            };
            let (back, chunk) = runtime.blocking(read).await;
            walk = back;
            let Some(bytes) = chunk.map_err(local)? else { break };
            self.worker.throttle.take(bytes.len() as u64).await;
            entries.push(objects.keep_chunk(bytes, epoch).await?);
            runtime.sleep(CHUNK_PAUSE).await;
        }
        let lists = move || format::cut_references(&walk.into_references());
        let mut references = Vec::new();
        for list in runtime.blocking(lists).await {
            references.push(objects.keep_chunk(list.encode().into(), epoch).await?);
        }
        let mut own: Vec<ChunkRef> = entries.iter().chain(&references).copied().collect();
        let mut root = Vec::new();
        for piece in (Root { entries, references }).encode().chunks(CHUNK_BYTES_MAX / 2) {
            root.push(objects.keep_chunk(Bytes::copy_from_slice(piece), epoch).await?);
        }
        own.extend(&root);
        Ok(Written { own, root })
    }
}

/// A snapshot's chunks: all, and those of its root.
struct Written {
    own: Vec<ChunkRef>,
    root: Vec<ChunkRef>,
}

fn local(error: atoll_disk::StoreError) -> Unavailable {
    Unavailable::Local(Box::new(error))
}

impl Objects {
    /// Begins a round of snapshots now. Each shard's leader then takes one.
    pub async fn begin_snapshots(&self) -> Result<u64, Unavailable> {
        self.needs_version(SNAPSHOTS_SINCE, self.deadline()).await?;
        let round = self.claim_round(None).await?;
        self.inner.snapshots_wanted.notify_one();
        Ok(round)
    }

    async fn claim_round(&self, interval: Option<Duration>) -> Result<u64, Unavailable> {
        let id = self.inner.runtime.transaction_id();
        let claimed = self.execute(ShardId::META, id, &snapshot::CLAIM, interval, self.deadline()).await?;
        claimed.map_err(unexpected)
    }

    async fn snapshot_round(&self) -> Result<Option<(u64, WallTime)>, Unavailable> {
        self.query(ShardId::META, &snapshot::ROUND, (), self.deadline()).await?.map_err(unexpected)
    }

    /// All snapshots that are kept, and which shards there are.
    pub async fn snapshots(&self) -> Result<(Vec<KeptSnapshot>, Vec<ShardId>), Unavailable> {
        self.needs_version(SNAPSHOTS_SINCE, self.deadline()).await?;
        let data_shards = self.inner.holders.layout().settings().data_shards;
        let mut kept = Vec::new();
        for shard in (1..=data_shards).map(ShardId) {
            let page = self.query(shard, &snapshot::LIST, (), self.deadline()).await?;
            kept.extend(page.map_err(unexpected)?);
        }
        Ok((kept, (0..=data_shards).map(ShardId).collect()))
    }

    /// A chunk's bytes, verified.
    pub async fn chunk(&self, hash: ChunkHash) -> Result<Bytes, Unavailable> {
        self.inner.holders.fetch(hash, self.deadline()).await
    }

    /// Stores a chunk, stamped with `epoch`.
    pub(crate) async fn keep_chunk(&self, bytes: Bytes, epoch: u64) -> Result<ChunkRef, Unavailable> {
        let reference = ChunkRef { hash: ChunkHash::of(&bytes), bytes: bytes.len() as u32 };
        let chunk = Chunk { hash: reference.hash, bytes };
        self.inner.holders.store(chunk, epoch, self.deadline()).await?;
        Ok(reference)
    }
}
