//! The one task that changes packs and index.
//!
//! It takes what is waiting, decides each operation against the index, appends the
//! records of all of them, flushes once, updates the index and then answers everyone.
//! One task means that no two decisions about a chunk interleave: this *is* the lock
//! under which a removal checks its stamp again. Records that arrive during a flush share
//! the next one.

use std::sync::Arc;

use atoll_runtime::{Broken, is_broken};
use atoll_types::ChunkHash;
use bytes::Bytes;
use rand::{Rng, rngs::StdRng};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::{
    ChunkError, Put, Shared,
    index::{Changes, Entry, Position},
    packs,
    record::{PACK_HEADER_BYTES, PackHeader, PackId, PackKey, Place, Record, RecordKind, extent},
};
use crate::{DiskError, File, files::OP_SYNC};

/// Bytes of chunks in one flush. 16 MiB: at 500 MiB/s some 30 ms, so that those who come
/// next don't wait long, and large enough that the flush's own 1–5 ms hardly count.
const BATCH_BYTES_MAX: u64 = 16 << 20;
/// Small operations in one flush: 2,048 × 88 bytes of header = 176 KiB.
const BATCH_OPERATIONS_MAX: usize = 2048;
/// The index is flushed at least after this much was appended: what a start reads again,
/// well under a second on any disk.
const INDEX_FLUSH_BYTES: u64 = 64 << 20;

pub(super) type Reply<T> = oneshot::Sender<Result<T, ChunkError>>;

pub(super) enum Operation {
    Put {
        hash: ChunkHash,
        bytes: Bytes,
        stamp: u64,
        reply: Reply<Put>,
        /// Its share of the bytes that may wait in memory.
        _room: OwnedSemaphorePermit,
    },
    Raise {
        hash: ChunkHash,
        stamp: u64,
        reply: Reply<bool>,
    },
    Remove {
        hash: ChunkHash,
        stamp_at_most: u64,
        reply: Reply<bool>,
    },
    /// Compaction: copy the chunk if it still lies at `from`.
    Move {
        hash: ChunkHash,
        from: Place,
        bytes: Bytes,
        reply: Reply<bool>,
        _room: OwnedSemaphorePermit,
    },
    /// The chunk at `place` doesn't hash to its name.
    MarkDamaged {
        hash: ChunkHash,
        place: Place,
        reply: Reply<()>,
    },
    /// Compaction: nothing in this pack is needed any more.
    DropPack {
        pack: PackId,
        reply: Reply<()>,
    },
    Close {
        reply: Reply<()>,
    },
}

impl Operation {
    fn bytes(&self) -> u64 {
        match self {
            Self::Put { bytes, .. } | Self::Move { bytes, .. } => extent(bytes.len() as u32),
            _ => extent(0),
        }
    }

    /// Handled by itself, after everything before it is durable.
    fn is_alone(&self) -> bool {
        matches!(self, Self::DropPack { .. } | Self::Close { .. })
    }
}

/// The pack that is being appended to.
pub(super) struct CurrentPack {
    pub id: PackId,
    pub file: Arc<dyn File>,
    pub key: PackKey,
    pub len: u64,
}

pub(super) struct Writer {
    pub shared: Arc<Shared>,
    pub operations: mpsc::Receiver<Operation>,
    pub current: Option<CurrentPack>,
    pub next_pack: PackId,
    pub position: Position,
    pub rng: StdRng,
    /// Appended since the index was flushed.
    pub unflushed_bytes: u64,
    /// Why nothing more is written; set when the disk's state is no longer known.
    pub stopped: Option<ChunkError>,
}

/// A batch, decided but not yet written.
struct Plan {
    target: Target,
    records: Vec<Bytes>,
    bytes: u64,
    answers: Vec<Answer>,
    stamp_max: u64,
    stamp_floor: u64,
    /// Of the index, while deciding.
    unreadable: Option<ChunkError>,
}

/// Where a batch goes.
#[derive(Clone)]
struct Target {
    pack: PackId,
    key: PackKey,
    batch_start: u64,
}

/// Sends the result that was decided, or why it did not come to be.
type Answer = Box<dyn FnOnce(Result<(), ChunkError>) + Send>;

fn answer<T: Send + 'static>(reply: Reply<T>, decided: T) -> Answer {
    // Whoever asked may have stopped waiting; the deed is done nonetheless.
    Box::new(move |outcome| drop(reply.send(outcome.map(|()| decided))))
}

impl Writer {
    pub(super) async fn run(mut self) {
        let mut held_back = None;
        loop {
            let first = match held_back.take() {
                Some(operation) => operation,
                None => match self.operations.recv().await {
                    Some(operation) => operation,
                    None => return,
                },
            };
            match first {
                Operation::Close { reply } => {
                    let result = self.flush_index().await;
                    // First the files, so that whoever hears of it can open them again.
                    drop(self);
                    drop(reply.send(result));
                    return;
                }
                Operation::DropPack { pack, reply } => {
                    let result = self.drop_pack(pack).await;
                    drop(reply.send(result));
                }
                first => {
                    let mut bytes = first.bytes();
                    let mut batch = vec![first];
                    while bytes < BATCH_BYTES_MAX && batch.len() < BATCH_OPERATIONS_MAX {
                        match self.operations.try_recv() {
                            Ok(next) if next.is_alone() => {
                                held_back = Some(next);
                                break;
                            }
                            Ok(next) => {
                                bytes += next.bytes();
                                batch.push(next);
                            }
                            Err(_) => break,
                        }
                    }
                    self.write_batch(batch).await;
                }
            }
        }
    }

    async fn write_batch(&mut self, batch: Vec<Operation>) {
        let (target, header) = self.target();
        let counts = self.shared.counts();
        let mut changes = Changes::new(self.shared.index.clone(), counts);
        let plan = Plan {
            target: target.clone(),
            records: Vec::new(),
            bytes: 0,
            answers: Vec::new(),
            stamp_max: self.position.stamp_max,
            stamp_floor: self.position.stamp_floor,
            unreadable: None,
        };
        let stopped = self.stopped.clone();
        let (mut plan, mut changes) = self
            .shared
            .runtime
            .blocking(move || {
                let mut plan = plan;
                for operation in batch {
                    plan.decide(&mut changes, operation, &stopped);
                }
                (plan, changes)
            })
            .await;
        if let Some(error) = plan.unreadable.take() {
            // What was decided before goes to the packs, which alone count from here on.
            self.shared.condemn_index(&error).await;
            self.stop(error);
        }
        let answers = std::mem::take(&mut plan.answers);
        let result = match self.append(&target, header, &mut plan).await {
            // Nothing but answers that were true already.
            Ok(()) if changes.is_empty() => Ok(()),
            Ok(()) => {
                let position = self.position.clone();
                let committed = self.shared.runtime.blocking(move || changes.commit(Some(&position))).await;
                committed.map(|changed| self.shared.set_counts(changed)).inspect_err(|error| {
                    // What the index holds is unknown, and it is what we decide by.
                    self.stop(error.clone());
                })
            }
            Err(error) => Err(error),
        };
        for answer in answers {
            answer(result.clone());
        }
        if self.unflushed_bytes >= INDEX_FLUSH_BYTES
            && let Err(error) = self.flush_index().await
        {
            self.stop(error);
        }
    }

    /// Where the next batch goes, and the header if that is a new pack.
    fn target(&mut self) -> (Target, Option<PackHeader>) {
        if self.current.as_ref().is_some_and(|pack| pack.len >= self.shared.settings.pack_bytes_max) {
            self.current = None;
        }
        match &self.current {
            Some(CurrentPack { id, key, len, .. }) => {
                (Target { pack: *id, key: key.clone(), batch_start: *len }, None)
            }
            None => {
                let header = PackHeader {
                    id: self.next_pack,
                    stamp_max: self.position.stamp_max,
                    salt: self.rng.random(),
                };
                let (key, batch_start) = (header.key(), PACK_HEADER_BYTES as u64);
                (Target { pack: header.id, key, batch_start }, Some(header))
            }
        }
    }

    /// Makes the plan's records durable, their pack's name included.
    async fn append(
        &mut self,
        target: &Target,
        header: Option<PackHeader>,
        plan: &mut Plan,
    ) -> Result<(), ChunkError> {
        if plan.records.is_empty() {
            return Ok(());
        }
        let mut parts = std::mem::take(&mut plan.records);
        if let Some(header) = header {
            parts.insert(0, Bytes::copy_from_slice(&header.encode()));
            // Never used twice, whatever becomes of it.
            self.next_pack = PackId(target.pack.0 + 1);
            if let Err(error) = self.begin_pack(target, parts).await {
                self.current = None;
                return Err(error);
            }
        } else {
            let file = self.current.as_ref().expect("a batch without header goes to the current pack");
            let file = file.file.clone();
            let written = if is_broken(Broken::ChunkUnflushed) {
                file.write_at(target.batch_start, parts).await
            } else {
                file.write_and_sync(target.batch_start, parts).await
            };
            if let Err(error) = written {
                return Err(self.undo(&file, target.batch_start, error).await);
            }
        }
        let current = self.current.as_mut().expect("just written to");
        current.len = target.batch_start + plan.bytes;
        self.unflushed_bytes += plan.bytes;
        self.position = Position {
            pack: target.pack,
            offset: current.len,
            stamp_max: plan.stamp_max,
            stamp_floor: plan.stamp_floor,
        };
        Ok(())
    }

    async fn begin_pack(&mut self, target: &Target, parts: Vec<Bytes>) -> Result<(), ChunkError> {
        let files = self.shared.packs.files();
        let file = files.open(&packs::path(target.pack), true).await?;
        if let Err(error) = file.write_and_sync(0, parts).await {
            return Err(self.undo(&file, 0, error).await);
        }
        if !is_broken(Broken::NameNotFlushed)
            && let Err(error) = files.sync_folder(packs::FOLDER).await
        {
            // The name may or may not be durable, so the records may come back.
            return Err(self.undo(&file, 0, error).await);
        }
        self.shared.packs.keep(target.pack, file.clone());
        self.current = Some(CurrentPack { id: target.pack, file, key: target.key.clone(), len: 0 });
        Ok(())
    }

    /// A failed batch must not be found by a later start: what comes after it may
    /// already say otherwise.
    async fn undo(&mut self, file: &Arc<dyn File>, batch_start: u64, error: DiskError) -> ChunkError {
        // After a failed flush the system may call lost pages clean: no later flush of
        // this file proves anything.
        let undone = error.operation != OP_SYNC
            && file.set_len(batch_start).await.is_ok()
            && file.sync().await.is_ok();
        let full = error.is_full();
        let error = ChunkError::Disk(error);
        if undone && full {
            return ChunkError::Full { available: 0, reserve: 0 };
        }
        if !undone {
            self.stop(error.clone());
        }
        error
    }

    fn stop(&mut self, error: ChunkError) {
        if self.stopped.is_none() {
            tracing::error!(%error, "the chunk store takes no more writes until the node is started again");
            self.shared.fail(&error);
            self.stopped = Some(ChunkError::Stopped { cause: Arc::new(error) });
        }
    }

    async fn flush_index(&mut self) -> Result<(), ChunkError> {
        let index = self.shared.index.clone();
        self.shared.runtime.blocking(move || index.flush()).await?;
        self.unflushed_bytes = 0;
        Ok(())
    }

    async fn drop_pack(&mut self, pack: PackId) -> Result<(), ChunkError> {
        if let Some(stopped) = &self.stopped {
            return Err(stopped.clone());
        }
        let mut changes = Changes::new(self.shared.index.clone(), self.shared.counts());
        changes.forget_pack(pack);
        let position = self.position.clone();
        let changed = self.shared.runtime.blocking(move || changes.commit(Some(&position))).await?;
        // An index from before the copies would look for them in this pack.
        self.flush_index().await?;
        self.shared.set_counts(changed);
        self.shared.packs.forget(pack);
        let files = self.shared.packs.files();
        files.remove(&packs::path(pack)).await?;
        Ok(files.sync_folder(packs::FOLDER).await?)
    }
}

impl Plan {
    /// Decides one operation against the index as the operations before it leave it.
    fn decide(&mut self, changes: &mut Changes, operation: Operation, stopped: &Option<ChunkError>) {
        macro_rules! settle {
            ($reply:expr, $decide:expr) => {{
                let decided = match stopped {
                    Some(stopped) => Err(stopped.clone()),
                    None => $decide,
                };
                match decided {
                    Ok(decided) => self.answers.push(answer($reply, decided)),
                    Err(error) => {
                        if matches!(error, ChunkError::Index(_)) {
                            self.unreadable.get_or_insert(error.clone());
                        }
                        drop($reply.send(Err(error)));
                    }
                }
            }};
        }
        match operation {
            Operation::Put { hash, bytes, stamp, reply, .. } => {
                settle!(reply, self.put(changes, hash, bytes, stamp))
            }
            Operation::Raise { hash, stamp, reply } => settle!(reply, self.raise(changes, hash, stamp)),
            Operation::Remove { hash, stamp_at_most, reply } => {
                settle!(reply, self.remove(changes, hash, stamp_at_most))
            }
            Operation::Move { hash, from, bytes, reply, .. } => {
                settle!(reply, self.relocate(changes, hash, from, bytes))
            }
            Operation::MarkDamaged { hash, place, reply } => {
                settle!(reply, mark_damaged(changes, hash, place))
            }
            Operation::DropPack { reply, .. } | Operation::Close { reply } => {
                unreachable!("never in a batch: {}", reply.is_closed())
            }
        }
    }

    fn put(
        &mut self,
        changes: &mut Changes,
        hash: ChunkHash,
        bytes: Bytes,
        stamp: u64,
    ) -> Result<Put, ChunkError> {
        match changes.entry(&hash)? {
            Some(entry) if !entry.damaged => {
                self.raise(changes, hash, stamp)?;
                Ok(Put::Had)
            }
            old => {
                let stamp = old.map_or(stamp, |old| old.stamp.max(stamp));
                self.push_chunk(changes, hash, bytes, stamp)?;
                Ok(Put::Stored)
            }
        }
    }

    fn raise(&mut self, changes: &mut Changes, hash: ChunkHash, stamp: u64) -> Result<bool, ChunkError> {
        let Some(entry) = changes.entry(&hash)?.filter(|entry| !entry.damaged) else {
            return Ok(false);
        };
        if stamp > entry.stamp.max(self.stamp_floor) {
            let (len, place) = (entry.len, entry.place);
            self.push(changes, RecordKind::Placed, hash, len, stamp, Some(place), None)?;
        }
        Ok(true)
    }

    fn remove(
        &mut self,
        changes: &mut Changes,
        hash: ChunkHash,
        stamp_at_most: u64,
    ) -> Result<bool, ChunkError> {
        let Some(entry) = changes.entry(&hash)? else { return Ok(false) };
        let stamp = entry.stamp.max(self.stamp_floor);
        if stamp > stamp_at_most && !is_broken(Broken::RemoveUnseen) {
            return Ok(false);
        }
        if is_broken(Broken::RemovalUnwritten) {
            return changes.set(hash, None).map(|()| true);
        }
        self.push(changes, RecordKind::Removed, hash, entry.len, stamp, Some(entry.place), None)?;
        Ok(true)
    }

    fn relocate(
        &mut self,
        changes: &mut Changes,
        hash: ChunkHash,
        from: Place,
        bytes: Bytes,
    ) -> Result<bool, ChunkError> {
        match changes.entry(&hash)? {
            Some(entry) if entry.place == from => {
                self.push_chunk(changes, hash, bytes, entry.stamp)?;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    fn push_chunk(
        &mut self,
        changes: &mut Changes,
        hash: ChunkHash,
        bytes: Bytes,
        stamp: u64,
    ) -> Result<(), ChunkError> {
        self.push(changes, RecordKind::Chunk, hash, bytes.len() as u32, stamp, None, Some(bytes))
    }

    #[allow(clippy::too_many_arguments, reason = "a record's fields, and where it goes")]
    fn push(
        &mut self,
        changes: &mut Changes,
        kind: RecordKind,
        hash: ChunkHash,
        len: u32,
        stamp: u64,
        place: Option<Place>,
        bytes: Option<Bytes>,
    ) -> Result<(), ChunkError> {
        let Target { pack, batch_start, .. } = self.target;
        let offset = batch_start + self.bytes;
        let place = place.unwrap_or(Place { pack, offset });
        let record = Record { kind, hash, len, stamp, batch_start, place };
        changes.extend_pack(pack, offset + record.extent());
        changes.apply(&record)?;
        self.records.push(Bytes::copy_from_slice(&record.encode(&self.target.key, offset)));
        self.records.extend(bytes);
        self.bytes += record.extent();
        self.stamp_max = self.stamp_max.max(stamp);
        Ok(())
    }
}

fn mark_damaged(changes: &mut Changes, hash: ChunkHash, place: Place) -> Result<(), ChunkError> {
    match changes.entry(&hash)? {
        Some(entry) if entry.place == place => changes.set(hash, Some(Entry { damaged: true, ..entry })),
        // Stored anew or removed since.
        _ => Ok(()),
    }
}
