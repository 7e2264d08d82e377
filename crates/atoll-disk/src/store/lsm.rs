//! The ordered store in production: one `fjall` database, a keyspace for each table.
//!
//! `fjall` keeps one journal for all keyspaces and writes a batch to it whole, so a batch
//! over several tables is atomic; it flushes the journal before it flushes a memtable, so
//! the tables never run ahead of it. What a crash leaves is therefore a prefix of the
//! batches, no shorter than the last [`OrderedStore::flush`].
//!
//! `fjall` by itself would not notice if it were shorter: it ends quietly at the first
//! entry that it can't read. So each flush is numbered, in the store and in a file next
//! to it, and a store whose number is behind the file's does not open. And it refuses to
//! open at all if a power failure tore a batch that was not flushed yet; `journal` cuts
//! that off.

mod journal;

use std::{
    fs::{DirBuilder, File, Permissions},
    io::{self, Write},
    ops::Bound,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable, config::PartitioningPolicy};

use super::{OrderedStore, Pairs, Snapshot, StoreError, Table, WriteBatch, check, holds_nothing};

// Memory, at most: blocks 8 MiB + memtables, each up to twice its limit while a full one
// is being written out: 2 × (2 + 1 + 1) MiB = 8 MiB, and what a skip list adds, which is
// more than the entries are. The rest is tables' filters and indexes, and the allocator's slack.
/// Read blocks kept decompressed; the page cache of the system is behind it.
const BLOCK_CACHE_BYTES: u64 = 8 << 20;
const RECORDS_MEMTABLE_BYTES: u64 = 2 << 20;
/// An index entry is about 60 bytes: some 10,000 chunks, or 10 GiB, per memtable.
const CHUNKS_MEMTABLE_BYTES: u64 = 1 << 20;
const LOCAL_MEMTABLE_BYTES: u64 = 1 << 20;
/// One key.
const META_MEMTABLE_BYTES: u64 = 256 << 10;
/// 128 MiB = two journals of 64 MiB, `fjall`'s fixed size for one: what a start replays at
/// most.
const JOURNALS_BYTES_MAX: u64 = 128 << 20;
/// Under the usual limit of 1,024 open files, with room for packs and sockets.
const OPEN_TABLES_MAX: usize = 256;
/// One to write out and one to merge; the nodes that Atoll is for have few cores.
const WORKER_THREADS: usize = 2;

/// The file with the number of the last flush, in decimal, and its successor until it is
/// renamed.
const NOTE: &str = "flushed";
const NEW_NOTE: &str = "flushed.new";
/// The key, in a keyspace of its own, of the same number.
const FLUSH_KEY: &[u8] = b"flush";

/// Why a store was not opened. Nothing of it was changed.
#[derive(Debug, thiserror::Error)]
enum NotOpened {
    /// Batches are missing that had been flushed: the disk lost them, or somebody brought
    /// back an old copy of a part of the folder.
    #[error("it is older than its last flush: at {found}, but {noted} was noted")]
    Older { found: u64, noted: u64 },
    #[error("the note of its last flush can't be read")]
    BadNote,
    /// `fjall` 3.1 asserts what it reads of a journal's entries, instead of refusing it.
    #[error("its files are damaged, and what reads them gave up")]
    Damaged,
}

/// See the module's header. Closed when it is dropped; only one may be open on a folder.
pub struct FjallStore {
    folder: PathBuf,
    /// The last flush's number.
    flushes: Mutex<u64>,
    meta: Keyspace,
    keyspaces: Keyspaces,
    // Last: the keyspaces let go of the database first.
    database: Database,
}

#[derive(Clone)]
struct Keyspaces {
    records: Keyspace,
    chunks: Keyspace,
    local: Keyspace,
}

impl Keyspaces {
    fn of(&self, table: Table) -> &Keyspace {
        match table {
            Table::Records => &self.records,
            Table::Chunks => &self.chunks,
            Table::Local => &self.local,
        }
    }
}

impl FjallStore {
    /// Opens the store in `folder`, or creates it. Blocks while the journals are replayed.
    pub fn open(folder: &Path) -> Result<Self, StoreError> {
        keep_to_ourselves(folder).map_err(broken("open"))?;
        let database = match open_database(folder).ok_or_else(|| broken("open")(NotOpened::Damaged))? {
            Err(fjall::Error::JournalRecovery(error)) => {
                let cut = journal::cut_torn_end(folder).map_err(broken("open"))?;
                tracing::warn!(bytes = cut, ?error, "cut a torn end off the store's journal");
                open_database(folder).ok_or_else(|| broken("open")(NotOpened::Damaged))?
            }
            result => result,
        }
        .map_err(failed("open"))?;
        let keyspace = |name, memtable_bytes| {
            let options = || {
                let options = KeyspaceCreateOptions::default().max_memtable_size(memtable_bytes);
                // A whole filter or index of a large table is megabytes, more than the cache
                // takes in: each read would load it anew. Level 0 keeps its small ones in memory.
                options
                    .filter_block_partitioning_policy(PartitioningPolicy::new([false, true]))
                    .index_block_partitioning_policy(PartitioningPolicy::new([false, true]))
            };
            database.keyspace(name, options).map_err(failed("open table"))
        };
        let keyspaces = Keyspaces {
            records: keyspace("records", RECORDS_MEMTABLE_BYTES)?,
            chunks: keyspace("chunks", CHUNKS_MEMTABLE_BYTES)?,
            local: keyspace("local", LOCAL_MEMTABLE_BYTES)?,
        };
        let meta = keyspace("meta", META_MEMTABLE_BYTES)?;
        let found = meta.get(FLUSH_KEY).map_err(failed("open"))?;
        let found = found.map_or(Some(0), |value| Some(u64::from_be_bytes(value[..].try_into().ok()?)));
        let noted = read_note(folder).map_err(broken("open"))?;
        match (found, noted) {
            (Some(found), Some(noted)) if found >= noted => {
                Ok(Self { folder: folder.into(), flushes: Mutex::new(found), meta, keyspaces, database })
            }
            (Some(found), Some(noted)) => Err(broken("open")(NotOpened::Older { found, noted })),
            _ => Err(broken("open")(NotOpened::BadNote)),
        }
    }
}

/// Makes the folder, for this account only: `fjall` makes files that all may read, and secrets are
/// among what they hold. The data folder may be one that the operator made, and open to others.
fn keep_to_ourselves(folder: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    std::fs::set_permissions(folder, Permissions::from_mode(0o700))
}

/// `None` if it panicked over what it found.
fn open_database(folder: &Path) -> Option<fjall::Result<Database>> {
    let builder = Database::builder(folder)
        .cache_size(BLOCK_CACHE_BYTES)
        .max_journaling_size(JOURNALS_BYTES_MAX)
        .max_cached_files(Some(OPEN_TABLES_MAX))
        .worker_threads(WORKER_THREADS);
    // Whatever it had made until then is dropped with it.
    catch_unwind(AssertUnwindSafe(|| builder.open())).ok()
}

/// 0 if there is none yet; `None` if it is not a number.
fn read_note(folder: &Path) -> io::Result<Option<u64>> {
    match std::fs::read_to_string(folder.join(NOTE)) {
        Ok(text) => Ok(text.trim_end().parse().ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Some(0)),
        Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(None),
        Err(error) => Err(error),
    }
}

fn write_note(folder: &Path, flush: u64) -> io::Result<()> {
    let mut file = File::create(folder.join(NEW_NOTE))?;
    writeln!(file, "{flush}")?;
    file.sync_all()?;
    std::fs::rename(folder.join(NEW_NOTE), folder.join(NOTE))?;
    File::open(folder)?.sync_all()
}

impl OrderedStore for FjallStore {
    fn snapshot(&self) -> Result<Box<dyn Snapshot>, StoreError> {
        Ok(Box::new(FjallSnapshot { view: self.database.snapshot(), keyspaces: self.keyspaces.clone() }))
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.keyspaces.of(table).get(key).map(|value| value.map(copied)).map_err(failed("get"))
    }

    fn write(&self, batch: WriteBatch) -> Result<(), StoreError> {
        check(&batch)?;
        let mut writes = self.database.batch();
        for (table, key, value) in &batch.operations {
            let keyspace = self.keyspaces.of(*table);
            match value {
                Some(value) => writes.insert(keyspace, &key[..], &value[..]),
                None => writes.remove(keyspace, &key[..]),
            }
        }
        writes.commit().map_err(failed("write"))
    }

    fn flush(&self) -> Result<(), StoreError> {
        // One at a time, so that the numbers reach the journal in order.
        let mut flushes = self.flushes.lock().unwrap_or_else(PoisonError::into_inner);
        let flush = *flushes + 1;
        let mut writes = self.database.batch();
        writes.insert(&self.meta, FLUSH_KEY, flush.to_be_bytes());
        writes.commit().map_err(failed("flush"))?;
        self.database.persist(PersistMode::SyncAll).map_err(failed("flush"))?;
        *flushes = flush;
        write_note(&self.folder, flush).map_err(broken("flush"))
    }

    // A start goes through every journal, a lookup for each entry. One that was full is deleted when
    // all that it has is in tables.
    fn settle(&self) -> Result<(), StoreError> {
        let Keyspaces { records, chunks, local } = &self.keyspaces;
        for keyspace in [records, chunks, local, &self.meta] {
            keyspace.rotate_memtable().map_err(failed("settle"))?;
        }
        Ok(())
    }

    fn is_settled(&self) -> bool {
        self.database.journal_count() == 1
    }

    fn clear(&self, table: Table) -> Result<(), StoreError> {
        self.keyspaces.of(table).clear().map_err(failed("clear"))
    }
}

struct FjallSnapshot {
    view: fjall::Snapshot,
    keyspaces: Keyspaces,
}

impl Snapshot for FjallSnapshot {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.view.get(self.keyspaces.of(table), key).map(|value| value.map(copied)).map_err(failed("get"))
    }

    fn range(&self, table: Table, start: Bound<&[u8]>, end: Bound<&[u8]>) -> Pairs<'_> {
        if holds_nothing(start, end) {
            return Box::new(std::iter::empty());
        }
        Box::new(self.view.range::<&[u8], _>(self.keyspaces.of(table), (start, end)).map(pair))
    }

    fn range_backwards(&self, table: Table, start: Bound<&[u8]>, end: Bound<&[u8]>) -> Pairs<'_> {
        if holds_nothing(start, end) {
            return Box::new(std::iter::empty());
        }
        Box::new(self.view.range::<&[u8], _>(self.keyspaces.of(table), (start, end)).rev().map(pair))
    }
}

fn pair(guard: fjall::Guard) -> Result<(Bytes, Bytes), StoreError> {
    let (key, value) = guard.into_inner().map_err(failed("iterate"))?;
    Ok((copied(key), copied(value)))
}

/// `fjall`'s slices may keep a whole block alive; what leaves this module does not.
fn copied(slice: fjall::Slice) -> Bytes {
    Bytes::copy_from_slice(&slice)
}

fn broken<E: std::error::Error + Send + Sync + 'static>(
    operation: &'static str,
) -> impl FnOnce(E) -> StoreError {
    move |error| StoreError { operation, source: Box::new(error) }
}

fn failed(operation: &'static str) -> impl FnOnce(fjall::Error) -> StoreError {
    move |error| StoreError { operation, source: Box::new(error) }
}
