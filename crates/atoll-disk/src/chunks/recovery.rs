//! At the start: bring the index up to date with the packs, and tell a tail that was torn
//! by a crash from damage.
//!
//! The index says up to where it has read; everything behind that is read, verified and
//! taken over. What can't be read there is either
//! - *torn*: part of the last batch, which was being written when the power failed and was
//!   acknowledged to nobody; or
//! - *damage*: a later batch, or a later pack, proves that it had been flushed. Chunks
//!   whose bytes are damaged stay known as such, so that repair replaces them. Records
//!   that are lost may have raised stamps, so from then on every chunk counts as stamped
//!   with the highest stamp there was: reclaim waits two sweeps longer, and errs on the
//!   side of keeping.
//!
//! The last batch is written once more before it counts: after a killed process it may be
//! in the system's memory only, and after a failed flush it stays there without ever
//! reaching the disk, whatever a later flush says.

use std::sync::{Arc, Mutex};

use atoll_runtime::{Runtime, watch};
use atoll_types::ChunkHash;
use bytes::Bytes;
use imbl::OrdMap;
use tokio::sync::{Semaphore, mpsc};

use super::{
    ChunkError, ChunkSettings, Shared, WAITING_BYTES_MAX,
    index::{Changes, Entry, Index, PackCount, Position},
    packs::{self, Found, Packs, Scanner},
    record::{PACK_HEADER_BYTES, PackId, Record, RecordKind},
    writer::{CurrentPack, Operation, Writer},
};
use crate::{Files, OrderedStore};

/// Index entries written at once while reading packs: some 500 KiB.
const COMMIT_ENTRIES: usize = 8192;

/// What was found at the start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ChunkRecovery {
    /// The index was lost, and made again from the packs.
    pub rebuilt: bool,
    /// Records read to bring the index up to date.
    pub records: u64,
    pub bytes_read: u64,
    /// Never acknowledged, and left alone.
    pub torn_bytes: u64,
    /// Empty on a sound disk.
    pub damage: Vec<PackDamage>,
}

/// Something acknowledged that the disk no longer has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PackDamage {
    /// The whole file is gone.
    Missing { pack: u64 },
    /// The file ends before what the index has seen of it.
    Short { pack: u64, expected: u64, found: u64 },
    /// Records can't be read here.
    Unreadable { pack: u64, offset: u64, bytes: u64 },
    /// A chunk that doesn't hash to its name.
    Chunk { hash: ChunkHash },
}

/// What the writer begins with.
pub(super) struct WriterStart {
    current: Option<CurrentPack>,
    next_pack: PackId,
    position: Position,
}

impl WriterStart {
    pub(super) fn into_writer(self, shared: Arc<Shared>, operations: mpsc::Receiver<Operation>) -> Writer {
        let rng = shared.runtime.rng();
        let Self { current, next_pack, position } = self;
        Writer { shared, operations, current, next_pack, position, rng, unflushed_bytes: 0, stopped: None }
    }
}

pub(super) async fn recover(
    files: Arc<dyn Files>,
    store: Arc<dyn OrderedStore>,
    runtime: Runtime,
    settings: ChunkSettings,
) -> Result<(Shared, WriterStart, ChunkRecovery), ChunkError> {
    files.create_folder(packs::FOLDER).await?;
    files.sync_folder("").await?;
    files.sync_folder(packs::FOLDER).await?;
    let index = Index::new(store);
    let packs = Packs::new(files);
    let on_disk = packs.list().await?;
    let known = {
        let index = index.clone();
        runtime.blocking(move || read_index(&index)).await?
    };

    let mut report = ChunkRecovery::default();
    let rebuild = known.is_none();
    let start = Position { pack: PackId(0), offset: 0, stamp_max: 0, stamp_floor: 0 };
    let (position, counts) = known.unwrap_or((start, OrdMap::new()));
    if rebuild {
        report.rebuilt = !on_disk.is_empty();
        let index = index.clone();
        // Left by a rebuild that was cut short, or unreadable.
        runtime.blocking(move || index.clear()).await?;
    }
    let mut reader = Reader {
        runtime: &runtime,
        packs: &packs,
        changes: Some(Changes::new(index.clone(), counts)),
        rebuild,
        stamp_max: position.stamp_max,
        unproven: Vec::new(),
        pack: position.pack,
        lost_records: false,
        report,
    };
    if !rebuild {
        reader.check_sealed(&on_disk, &position).await?;
    }
    let mut current = None;
    for &pack in on_disk.iter().filter(|&&pack| pack >= position.pack) {
        let offset = if pack == position.pack { position.offset } else { 0 };
        current = reader.read_pack(pack, offset, on_disk.last() == Some(&pack)).await?;
    }

    let last = on_disk.last().copied();
    // Not the number of a pack that is lost: the index still points into it.
    let unused = position.pack.0 + u64::from(position.offset > 0);
    let next_pack = PackId(last.map_or(unused, |last| unused.max(last.0 + 1)));
    let current = current.filter(|pack| pack.len < settings.pack_bytes_max);
    let Reader { mut changes, stamp_max, unproven, lost_records, mut report, .. } = reader;
    report.torn_bytes = unproven.iter().map(|unproven| unproven.bytes).sum();
    // Stamps may have been in records that compaction dropped since, or that are lost.
    let floor_raised = report.rebuilt || lost_records;
    let position = Position {
        pack: current.as_ref().map_or(next_pack, |pack| pack.id),
        offset: current.as_ref().map_or(0, |pack| pack.len),
        stamp_max,
        stamp_floor: if floor_raised { stamp_max } else { position.stamp_floor },
    };
    let counts = {
        let (index, position) = (index.clone(), position.clone());
        let mut changes = changes.take().expect("put back after each use");
        runtime
            .blocking(move || {
                changes.commit(Some(&position))?;
                // From here on a torn tail lies before the position, and is not judged again.
                index.flush()?;
                Ok::<_, ChunkError>(changes.counts().clone())
            })
            .await?
    };
    if !report.damage.is_empty() {
        tracing::error!(damage = ?report.damage, "chunk packs are damaged");
    }
    let shared = Shared {
        settings,
        index,
        packs,
        counts: Mutex::new(counts),
        stamp_floor: position.stamp_floor,
        failed: watch::Sender::new(None),
        space: Mutex::new(None),
        room: Arc::new(Semaphore::new(WAITING_BYTES_MAX)),
        victim: tokio::sync::Mutex::new(None),
        runtime,
    };
    Ok((shared, WriterStart { current, next_pack, position }, report))
}

/// How far the index has read, and what is in each pack.
type Known = (Position, OrdMap<PackId, PackCount>);

/// `None` if the index is to be made anew: it is not there, or something of it can't be read.
fn read_index(index: &Index) -> Result<Option<Known>, ChunkError> {
    let read = || {
        if index.is_condemned()? {
            return Ok(None);
        }
        let Some(position) = index.position()? else { return Ok(None) };
        Ok(Some((position, index.counts()?)))
    };
    match read() {
        Err(ChunkError::Index(error)) => {
            tracing::error!(%error, "the index of chunks can't be read: it is made anew from the packs");
            Ok(None)
        }
        read => read,
    }
}

/// Unreadable, and not yet proven to have been acknowledged.
struct Unproven {
    offset: u64,
    bytes: u64,
    /// The chunk, if only its bytes are bad.
    chunk: Option<(ChunkHash, Entry)>,
}

struct Reader<'a> {
    runtime: &'a Runtime,
    packs: &'a Packs,
    /// Lent to blocking work.
    changes: Option<Changes>,
    rebuild: bool,
    stamp_max: u64,
    /// The pack that is being read, and what is unreadable in it.
    pack: PackId,
    unproven: Vec<Unproven>,
    lost_records: bool,
    report: ChunkRecovery,
}

impl Reader<'_> {
    /// Packs that the index has read to their ends.
    async fn check_sealed(&mut self, on_disk: &[PackId], position: &Position) -> Result<(), ChunkError> {
        let counts = self.changes().counts().clone();
        for (&pack, count) in &counts {
            if on_disk.binary_search(&pack).is_err() {
                self.report.damage.push(PackDamage::Missing { pack: pack.0 });
                // Its chunks are found damaged when they are read; scrub sees to that.
                self.changes().forget_pack(pack);
                continue;
            }
            let Some(file) = self.packs.open(pack).await? else { continue };
            let found = file.len().await?;
            if found < count.bytes {
                let damage = PackDamage::Short { pack: pack.0, expected: count.bytes, found };
                self.report.damage.push(damage);
            }
        }
        for &pack in on_disk {
            if pack < position.pack && !counts.contains_key(&pack) {
                // Compacted, and the power failed before the file was gone.
                self.packs.files().remove(&packs::path(pack)).await?;
                self.packs.forget(pack);
            }
        }
        Ok(())
    }

    /// Takes over what lies in a pack from `offset` on. Returns it if it can be appended
    /// to: if it is sound to its last byte.
    async fn read_pack(
        &mut self,
        pack: PackId,
        offset: u64,
        is_last: bool,
    ) -> Result<Option<CurrentPack>, ChunkError> {
        // A pack is begun after everything in the one before was flushed.
        self.prove(u64::MAX).await?;
        self.pack = pack;
        let Some(file) = self.packs.open(pack).await? else { return Ok(None) };
        let len = file.len().await?;
        self.changes().extend_pack(pack, len.max(offset));
        if len < offset {
            // Reported as short; what is left, the index has seen.
            self.lost_records = true;
            return Ok(None);
        }
        let Some(mut scanner) = Scanner::open(file.clone(), pack, offset).await? else {
            self.unproven.push(Unproven { offset: 0, bytes: len - offset, chunk: None });
            if offset > 0 {
                // Its header was flushed with its first batch.
                self.prove(u64::MAX).await?;
            }
            return Ok(None);
        };
        self.stamp_max = self.stamp_max.max(scanner.header.stamp_max);
        let mut sound = true;
        let mut last_batch = None;
        while let Some(found) = scanner.next().await? {
            match found {
                Found::Unreadable { offset, bytes } => {
                    sound = false;
                    self.unproven.push(Unproven { offset, bytes, chunk: None });
                }
                Found::Record { record, offset, bytes } => {
                    self.report.records += 1;
                    self.report.bytes_read += record.extent();
                    self.stamp_max = self.stamp_max.max(record.stamp);
                    self.prove(record.batch_start).await?;
                    last_batch = last_batch.max(Some(record.batch_start));
                    sound &= self.take_over(record, offset, bytes).await?;
                }
            }
        }
        if let Some(batch_start) = last_batch.filter(|_| is_last) {
            // The pack's header goes with its first batch.
            let from = if batch_start == PACK_HEADER_BYTES as u64 { 0 } else { batch_start };
            let bytes = file.read_at(from, (len - from) as usize).await?;
            file.write_and_sync(from, vec![bytes]).await?;
        }
        let key = scanner.key().clone();
        Ok(sound.then_some(CurrentPack { id: pack, file, key, len }))
    }

    /// Takes over what a record says, unless it is a chunk whose bytes are bad.
    async fn take_over(
        &mut self,
        record: Record,
        offset: u64,
        bytes: Option<Bytes>,
    ) -> Result<bool, ChunkError> {
        let (hash, rebuild) = (record.hash, self.rebuild);
        let taken = record.clone();
        let whole = self
            .with_changes(move |changes| {
                let whole = taken.kind != RecordKind::Chunk
                    || bytes.is_some_and(|bytes| ChunkHash::of(&bytes) == taken.hash);
                if whole {
                    changes.apply(&taken)?;
                }
                // A rebuild is all or nothing: without a position it starts over. A
                // normal start reads little, and commits once, when all is judged.
                if rebuild && changes.len() >= COMMIT_ENTRIES {
                    changes.commit(None)?;
                }
                Ok(whole)
            })
            .await?;
        if !whole {
            let Record { len, stamp, place, .. } = record;
            let entry = Entry { place, len, stamp, damaged: true };
            self.unproven.push(Unproven { offset, bytes: record.extent(), chunk: Some((hash, entry)) });
        } else if record.kind == RecordKind::Removed {
            for unproven in &mut self.unproven {
                unproven.chunk.take_if(|(unproven, _)| *unproven == hash);
            }
        }
        Ok(whole)
    }

    /// Everything before `batch_start` in this pack was flushed and acknowledged: what
    /// was unreadable there is damage.
    async fn prove(&mut self, batch_start: u64) -> Result<(), ChunkError> {
        let pack = self.pack.0;
        let (proven, unproven) = std::mem::take(&mut self.unproven)
            .into_iter()
            .partition(|unproven| unproven.offset < batch_start);
        self.unproven = unproven;
        for Unproven { offset, bytes, chunk } in proven {
            match chunk {
                None => {
                    self.lost_records = true;
                    self.report.damage.push(PackDamage::Unreadable { pack, offset, bytes });
                }
                Some((hash, entry)) => {
                    self.report.damage.push(PackDamage::Chunk { hash });
                    self.with_changes(move |changes| {
                        // Another copy of it may be whole: from before, or put since.
                        if changes.entry(&hash)?.is_none_or(|other| other.place == entry.place) {
                            changes.set(hash, Some(entry))?;
                        }
                        Ok(())
                    })
                    .await?;
                }
            }
        }
        Ok(())
    }

    fn changes(&mut self) -> &mut Changes {
        self.changes.as_mut().expect("put back after each use")
    }

    async fn with_changes<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Changes) -> Result<T, ChunkError> + Send + 'static,
    ) -> Result<T, ChunkError> {
        let mut changes = self.changes.take().expect("put back after each use");
        let (changes, result) = self
            .runtime
            .blocking(move || {
                let result = work(&mut changes);
                (changes, result)
            })
            .await;
        self.changes = Some(changes);
        result
    }
}
