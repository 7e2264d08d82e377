//! Chunks in pack files: immutable bytes named by their BLAKE3 hash, each with a stamp
//! that reclaim goes by (rule 9).
//!
//! - [`ChunkStore::put`] answers when the chunk, its stamp and its pack's name are durable.
//!   Puts that arrive during a flush share the next one.
//! - Nothing is served that does not hash to its name, whatever the disk does.
//! - Packs are append-only. A stamp raised and a chunk removed are small records in the
//!   same packs, so that the packs alone say what is there; the index in the ordered store
//!   is only ever behind them, and catches up at the next start.
//! - An index of which something can't be read is made anew from the packs at the next
//!   start; [`ChunkStore::failed`] asks for it.
//! - Space comes back when somebody calls [`ChunkStore::compact_next`], at the pace that
//!   they choose.
//!
//! Against temporaries that are flushed together, renamed, and their folder flushed, packs
//! store 1 MiB chunks 1 to 3 times as fast (at the disk's own speed), 16 KiB ones 2.5 to 5
//! times, 1 KiB ones 4 to 15 times (`examples/measure.rs`; docs/adr/0003-chunks-in-packs.md
//! has the numbers, docs/formats.md the bytes).
//!
//! It does not know who refers to a chunk, nor where its other copies are: that is
//! `atoll-objects`, which calls for scrubbing, repair and removal.
//!
//! `record` says what lies in a pack, `packs` reads them, `index` says where things are,
//! `writer` is the one task that changes either, `recovery` brings the index up to date at
//! the start, `compaction` gives space back. Tests: `chunks/tests`, and crash storms in
//! `crates/atoll-simulation/tests/chunks.rs`.

mod compaction;
mod index;
mod packs;
mod record;
mod recovery;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use atoll_runtime::{Broken, Runtime, is_broken, watch};
use atoll_types::{ByteSize, ChunkHash, FormatError, Instant, Slot};
use bytes::Bytes;
use futures_util::future::try_join_all;
use imbl::OrdMap;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use crate::{DiskError, Files, OrderedStore, Space, StoreError};
use compaction::Victim;
use index::{Entry, Index, PackCount};
use packs::Packs;
use record::{PackId, Place, RECORD_HEADER_BYTES};
use writer::{Operation, Reply};

pub use compaction::Compacted;
pub use recovery::{ChunkRecovery, PackDamage};

/// 8 MiB: a chunk is at most 4 MiB, and what a frame between nodes carries is 8 MiB.
pub const CHUNK_BYTES_MAX: usize = 8 << 20;
/// Chunks that wait for their flush, in memory: four full batches, so that the next is
/// always ready when one is flushed; who comes then waits.
const WAITING_BYTES_MAX: usize = 64 << 20;
/// Two full batches of small operations.
const WAITING_OPERATIONS_MAX: usize = 4096;
/// Hashing 16 KiB takes some 10 µs, about what a trip to another thread costs.
const HASH_IN_PLACE_BYTES_MAX: usize = 16 << 10;
/// How long a measurement of free space counts. In a second, a disk writes some 1 GiB:
/// half of the smallest reserve.
const SPACE_AGE_MAX: Duration = Duration::from_secs(1);
/// A read is tried again when the chunk moved meanwhile, or its bytes look damaged. A
/// chunk moves once per compaction of its pack, so the third attempt finds it.
const READ_ATTEMPTS: usize = 3;

/// Half of a batch of small operations, so that others' still fit in.
const REMOVALS_AT_ONCE: usize = 1024;

/// How packs are written.
#[derive(Debug, Clone)]
pub struct ChunkSettings {
    /// A pack is closed when it has grown to this. 256 MiB: compaction copies at most half
    /// of it, under a second of disk time, and a terabyte is 4,096 files. Smaller gives
    /// space back sooner, larger keeps fewer files.
    pub pack_bytes_max: u64,
    /// Puts stop when less than this share of the file system is left, in percent...
    pub reserve_percent: u64,
    /// ...or less than this (rule 19): what is left is for records, so that deletes and
    /// votes still work. 5 % and 2 GiB by default; lower the second on small disks.
    pub reserve_bytes_min: ByteSize,
}

impl Default for ChunkSettings {
    fn default() -> Self {
        Self { pack_bytes_max: 256 << 20, reserve_percent: 5, reserve_bytes_min: ByteSize::gib(2) }
    }
}

/// Why a chunk could not be stored, read or removed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ChunkError {
    /// The sender's fault: these bytes have another name. Nothing was stored.
    #[error("the bytes hash to {found}, not to {claimed}")]
    WrongHash { claimed: ChunkHash, found: ChunkHash },
    /// The sender's fault. Nothing was stored.
    #[error("a chunk of {len} bytes; {CHUNK_BYTES_MAX} is the most")]
    TooLarge { len: usize },
    /// What is left on the disk is kept for records. Nothing was stored; removing and
    /// compacting help, or a larger disk.
    #[error("the disk is full: {available} left, {reserve} of it reserved", available = ByteSize(*available), reserve = ByteSize(*reserve))]
    Full { available: u64, reserve: u64 },
    /// The stored bytes no longer hash to their name. They were not served, and the chunk
    /// is on [`ChunkStore::list_damaged`] until it is put again or removed.
    #[error("chunk {hash} is damaged on this disk")]
    Damaged { hash: ChunkHash },
    /// The disk refused. A write's outcome is unknown until the next start; a read may be
    /// tried again.
    #[error("chunk packs")]
    Disk(#[from] DiskError),
    #[error("chunk index")]
    Index(#[source] Arc<StoreError>),
    #[error("chunk index")]
    Malformed(#[from] FormatError),
    #[error("chunk index: a key of the wrong length")]
    BadIndexKey,
    /// An earlier write failed in a way that leaves the disk's state unknown. Reads go on;
    /// writes are refused until the node is started again.
    #[error("the chunk store takes no more writes until the node is started again")]
    Stopped {
        #[source]
        cause: Arc<ChunkError>,
    },
    /// The store was closed, or its runtime stopped.
    #[error("the chunk store is closed")]
    Closed,
}

impl From<StoreError> for ChunkError {
    fn from(error: StoreError) -> Self {
        Self::Index(Arc::new(error))
    }
}

/// How a put ended; in both cases the chunk is durable with at least the given stamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Put {
    Stored,
    /// It was here already.
    Had,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkInfo {
    pub hash: ChunkHash,
    pub len: u32,
    pub stamp: u64,
    pub damaged: bool,
}

/// What the packs take on the disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChunkUsage {
    pub chunks: u64,
    /// Of chunks that are still wanted, their headers included.
    pub live_bytes: u64,
    /// Removed or superseded, and not yet given back.
    pub dead_bytes: u64,
    pub packs: u64,
}

/// What one [`ChunkStore::scrub_next`] read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Scrubbed {
    pub chunks: u64,
    pub bytes: u64,
    /// Found damaged by this call.
    pub damaged: Vec<ChunkHash>,
    /// Where to go on; `None` when everything has been read.
    pub next: Option<ChunkHash>,
}

/// A handle on one disk's chunks; clones share them. The store closes when the last is
/// gone; [`ChunkStore::close`] waits for it.
#[derive(Clone)]
pub struct ChunkStore {
    shared: Arc<Shared>,
    operations: mpsc::Sender<Operation>,
}

/// What handles, writer and compaction share.
struct Shared {
    runtime: Runtime,
    settings: ChunkSettings,
    index: Index,
    packs: Packs,
    /// What is in each pack, as of the last batch. Written by the writer.
    counts: Mutex<OrdMap<PackId, PackCount>>,
    /// See `Position::stamp_floor`; changes only at a start.
    stamp_floor: u64,
    /// Why the node is to be started again.
    failed: watch::Sender<Option<String>>,
    space: Mutex<Option<(Instant, Space)>>,
    /// In bytes.
    room: Arc<Semaphore>,
    /// The pack being compacted, between two calls.
    victim: tokio::sync::Mutex<Option<Victim>>,
}

enum ReadOutcome {
    Whole(Bytes),
    /// Short, or of another hash.
    Damaged,
    /// Its pack is gone.
    Gone,
}

impl ChunkStore {
    /// Opens the packs in the folder `chunks` of `files`, and brings the index in `store`
    /// up to date with them. Reads what was appended since the index was last flushed; if
    /// the index is lost, everything.
    pub async fn open(
        files: Arc<dyn Files>,
        store: Arc<dyn OrderedStore>,
        runtime: Runtime,
        settings: ChunkSettings,
    ) -> Result<(Self, ChunkRecovery), ChunkError> {
        let (shared, writer_start, recovery) = recovery::recover(files, store, runtime, settings).await?;
        let shared = Arc::new(shared);
        let (operations, receiver) = mpsc::channel(WAITING_OPERATIONS_MAX);
        let writer = writer_start.into_writer(shared.clone(), receiver);
        // Ends by itself when the last handle is gone.
        drop(shared.runtime.spawn("chunk writer", writer.run()));
        Ok((Self { shared, operations }, recovery))
    }

    /// Stores `bytes` under `hash`, stamped at least `stamp`, durable when it returns.
    /// The hash is checked.
    pub async fn put(&self, hash: ChunkHash, bytes: Bytes, stamp: u64) -> Result<Put, ChunkError> {
        check_len(&bytes)?;
        let found = self.shared.hash(&bytes).await;
        if found != hash {
            return Err(ChunkError::WrongHash { claimed: hash, found });
        }
        self.put_verified(hash, bytes, stamp).await
    }

    /// [`ChunkStore::put`] for a caller that has hashed these very bytes itself.
    pub async fn put_verified(&self, hash: ChunkHash, bytes: Bytes, stamp: u64) -> Result<Put, ChunkError> {
        check_len(&bytes)?;
        // The index holds only what is durable, so this answer needs no flush.
        let least = if is_broken(Broken::StampNotRaised) { 0 } else { stamp };
        if self.raise_stamp(hash, least).await? {
            return Ok(Put::Had);
        }
        self.shared.check_space(bytes.len() as u64).await?;
        let _room = self.shared.room(bytes.len()).await?;
        self.ask(|reply| Operation::Put { hash, bytes, stamp, reply, _room }).await
    }

    /// The whole chunk, verified; `None` if it isn't here.
    pub async fn get(&self, hash: ChunkHash) -> Result<Option<Bytes>, ChunkError> {
        let Some(mut entry) = self.entry(hash).await? else { return Ok(None) };
        for _ in 0..READ_ATTEMPTS {
            if entry.damaged {
                break;
            }
            if let ReadOutcome::Whole(bytes) = self.shared.read(hash, &entry).await? {
                return Ok(Some(bytes));
            }
            // It may have moved to another pack while we read.
            match self.entry(hash).await? {
                Some(latest) => entry = latest,
                None => return Ok(None),
            }
        }
        self.condemn(hash, entry).await
    }

    /// [`ChunkStore::get`] for those who must get past a chunk that the disk can't read:
    /// if it fails twice, the chunk counts as damaged.
    async fn get_or_condemn(&self, hash: ChunkHash) -> Result<Option<Bytes>, ChunkError> {
        match self.get(hash).await {
            Err(ChunkError::Disk(_)) => {}
            result => return result,
        }
        match self.get(hash).await {
            Err(ChunkError::Disk(error)) => {
                tracing::error!(%hash, %error, "a stored chunk can't be read");
                let Some(entry) = self.entry(hash).await? else { return Ok(None) };
                self.condemn(hash, entry).await
            }
            result => result,
        }
    }

    /// Marks the chunk as damaged where it lies, and says so.
    async fn condemn<T>(&self, hash: ChunkHash, entry: Entry) -> Result<T, ChunkError> {
        if !entry.damaged {
            let place = entry.place;
            tracing::error!(%hash, pack = place.pack.0, offset = place.offset, "a stored chunk is damaged");
            self.ask(|reply| Operation::MarkDamaged { hash, place, reply }).await?;
        }
        Err(ChunkError::Damaged { hash })
    }

    /// True if it is here and not known to be damaged.
    pub async fn contains(&self, hash: ChunkHash) -> Result<bool, ChunkError> {
        Ok(self.entry(hash).await?.is_some_and(|entry| !entry.damaged))
    }

    /// Its stamp is durably `stamp` or higher when this returns true; false if the chunk
    /// isn't here whole.
    pub async fn raise_stamp(&self, hash: ChunkHash, stamp: u64) -> Result<bool, ChunkError> {
        match self.entry(hash).await? {
            None => Ok(false),
            Some(entry) if entry.damaged => Ok(false),
            Some(entry) if entry.stamp >= stamp => Ok(true),
            Some(_) => self.ask(|reply| Operation::Raise { hash, stamp, reply }).await,
        }
    }

    /// Removes the chunk if its stamp is `stamp_at_most` or lower, decided at the moment
    /// of the removal: a put or raise that was answered before is seen. True if this
    /// removed it.
    pub async fn remove_if(&self, hash: ChunkHash, stamp_at_most: u64) -> Result<bool, ChunkError> {
        self.ask(|reply| Operation::Remove { hash, stamp_at_most, reply }).await
    }

    /// [`ChunkStore::remove_if`] for many, which share their flushes. Returns how many this
    /// removed; after an error some may be.
    pub async fn remove_all_if(&self, hashes: &[ChunkHash], stamp_at_most: u64) -> Result<u64, ChunkError> {
        let mut removed = 0;
        for hashes in hashes.chunks(REMOVALS_AT_ONCE) {
            let removals = hashes.iter().map(|hash| self.remove_if(*hash, stamp_at_most));
            removed += try_join_all(removals).await?.into_iter().filter(|removed| *removed).count() as u64;
        }
        Ok(removed)
    }

    /// Up to `limit` chunks of a slot in hash order, after `after`.
    pub async fn list(
        &self,
        slot: Slot,
        after: Option<ChunkHash>,
        limit: usize,
    ) -> Result<Vec<ChunkInfo>, ChunkError> {
        let entries = self.entries(Some(slot), after, limit).await?;
        Ok(entries
            .into_iter()
            .map(|(hash, Entry { len, stamp, damaged, .. })| ChunkInfo { hash, len, stamp, damaged })
            .collect())
    }

    /// Up to `limit` damaged chunks in hash order, after `after`: repair's work.
    pub async fn list_damaged(
        &self,
        after: Option<ChunkHash>,
        limit: usize,
    ) -> Result<Vec<ChunkHash>, ChunkError> {
        self.shared.look_up(move |index| index.damaged(after, limit)).await
    }

    /// Reads and verifies chunks in hash order after `after`, about `bytes` of them.
    pub async fn scrub_next(&self, after: Option<ChunkHash>, bytes: u64) -> Result<Scrubbed, ChunkError> {
        /// Entries looked up in one trip.
        const PAGE: usize = 64;
        let mut scrubbed = Scrubbed { next: after, ..Scrubbed::default() };
        loop {
            let page = self.entries(None, scrubbed.next, PAGE).await?;
            let last_page = page.len() < PAGE;
            for (hash, entry) in page {
                if scrubbed.bytes >= bytes {
                    return Ok(scrubbed);
                }
                scrubbed.next = Some(hash);
                if entry.damaged {
                    continue;
                }
                scrubbed.chunks += 1;
                scrubbed.bytes += u64::from(entry.len);
                match self.get_or_condemn(hash).await {
                    Ok(_) => {}
                    Err(ChunkError::Damaged { hash }) => scrubbed.damaged.push(hash),
                    Err(error) => return Err(error),
                }
            }
            if last_page {
                scrubbed.next = None;
                return Ok(scrubbed);
            }
        }
    }

    pub fn usage(&self) -> ChunkUsage {
        let mut usage = ChunkUsage::default();
        for count in self.shared.counts().values() {
            usage.packs += 1;
            usage.chunks += count.live_chunks;
            usage.live_bytes += count.live_bytes;
            usage.dead_bytes += count.bytes.saturating_sub(count.live_bytes);
        }
        usage
    }

    /// Waits until the node is to be started again, and says why: the store takes no more
    /// writes, or something of the index can't be read. What it holds is in the packs, from
    /// which the next start knows it.
    pub async fn failed(&self) -> String {
        let mut failed = self.shared.failed.subscribe();
        match failed.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            // The sender lives as long as this handle.
            Err(_) => String::new(),
        }
    }

    /// Waits for what was asked before, flushes the index and stops writing; every later
    /// change is refused. A start after it has nothing to catch up on.
    pub async fn close(&self) -> Result<(), ChunkError> {
        self.ask(|reply| Operation::Close { reply }).await
    }

    /// Has the writer do something, and waits for it.
    async fn ask<T>(&self, operation: impl FnOnce(Reply<T>) -> Operation) -> Result<T, ChunkError> {
        let (reply, result) = oneshot::channel();
        self.operations.send(operation(reply)).await.map_err(|_| ChunkError::Closed)?;
        result.await.map_err(|_| ChunkError::Closed)?
    }

    /// With the stamp that counts.
    async fn entry(&self, hash: ChunkHash) -> Result<Option<Entry>, ChunkError> {
        let entry = self.shared.look_up(move |index| index.entry(&hash)).await?;
        Ok(entry.map(|entry| self.shared.floored(entry)))
    }

    async fn entries(
        &self,
        slot: Option<Slot>,
        after: Option<ChunkHash>,
        limit: usize,
    ) -> Result<Vec<(ChunkHash, Entry)>, ChunkError> {
        let entries = self.shared.look_up(move |index| index.entries(slot, after, limit, |_| true)).await?;
        Ok(entries.into_iter().map(|(hash, entry)| (hash, self.shared.floored(entry))).collect())
    }
}

fn check_len(bytes: &Bytes) -> Result<(), ChunkError> {
    if bytes.len() > CHUNK_BYTES_MAX {
        return Err(ChunkError::TooLarge { len: bytes.len() });
    }
    Ok(())
}

impl Shared {
    fn floored(&self, entry: Entry) -> Entry {
        Entry { stamp: entry.stamp.max(self.stamp_floor), ..entry }
    }

    async fn look_up<T: Send + 'static>(
        &self,
        look: impl Fn(&Index) -> Result<T, ChunkError> + Send + 'static,
    ) -> Result<T, ChunkError> {
        let index = self.index.clone();
        // Making the index anew is dear: a disk may say no once.
        let found = self.runtime.blocking(move || look(&index).or_else(|_| look(&index))).await;
        if let Err(error) = &found {
            self.condemn_index(error).await;
        }
        found
    }

    /// If `error` says that something of the index can't be read.
    async fn condemn_index(&self, error: &ChunkError) {
        let ChunkError::Index(reason) = error else { return };
        if self.failed.borrow().is_some() {
            return;
        }
        tracing::error!(%reason, "the index of chunks can't be read");
        let index = self.index.clone();
        if let Err(error) = self.runtime.blocking(move || index.condemn()).await {
            // Who reads it next will notice, too.
            tracing::error!(%error, "and nor can it be written");
        }
        self.fail(error);
    }

    fn fail(&self, error: &ChunkError) {
        let causes = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
        let reason = causes.map(ToString::to_string).collect::<Vec<_>>().join(": ");
        self.failed.send_if_modified(|failed| {
            let first = failed.is_none();
            failed.get_or_insert(reason);
            first
        });
    }

    async fn hash(&self, bytes: &Bytes) -> ChunkHash {
        if bytes.len() <= HASH_IN_PLACE_BYTES_MAX {
            return ChunkHash::of(bytes);
        }
        let bytes = bytes.clone();
        self.runtime.blocking(move || ChunkHash::of(&bytes)).await
    }

    async fn read(&self, hash: ChunkHash, entry: &Entry) -> Result<ReadOutcome, ChunkError> {
        let Place { pack, offset } = entry.place;
        let Some(file) = self.packs.open(pack).await? else { return Ok(ReadOutcome::Gone) };
        let len = entry.len as usize;
        let (bytes, found) = file.read_hashed(offset + RECORD_HEADER_BYTES as u64, len).await?;
        let whole = bytes.len() == len && (found == hash || is_broken(Broken::ServeUnverified));
        Ok(if whole { ReadOutcome::Whole(bytes) } else { ReadOutcome::Damaged })
    }

    /// Waits until `bytes` more may be held in memory.
    async fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit, ChunkError> {
        let permits = u32::try_from(bytes.max(1)).unwrap_or(u32::MAX);
        self.room.clone().acquire_many_owned(permits).await.map_err(|_| ChunkError::Closed)
    }

    /// Refuses `bytes` more if they would eat into the reserve (rule 19).
    async fn check_space(&self, bytes: u64) -> Result<(), ChunkError> {
        let now = self.runtime.now();
        let known = *self.space.lock().unwrap_or_else(PoisonError::into_inner);
        let space = match known {
            Some((measured, space)) if now.saturating_since(measured) < SPACE_AGE_MAX => space,
            _ => {
                let space = self.packs.files().space().await?;
                *self.space.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, space));
                space
            }
        };
        let reserve = self.reserve(space);
        if space.available < reserve.saturating_add(bytes) {
            return Err(ChunkError::Full { available: space.available, reserve });
        }
        Ok(())
    }

    fn reserve(&self, space: Space) -> u64 {
        let share = space.total / 100 * self.settings.reserve_percent;
        share.max(self.settings.reserve_bytes_min.0)
    }

    fn counts(&self) -> OrdMap<PackId, PackCount> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_counts(&self, changed: Vec<(PackId, Option<PackCount>)>) {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        for (pack, count) in changed {
            match count {
                Some(count) => counts.insert(pack, count),
                None => counts.remove(&pack),
            };
        }
    }
}

const _: () = assert!(CHUNK_BYTES_MAX <= WAITING_BYTES_MAX && WAITING_BYTES_MAX <= u32::MAX as usize);
