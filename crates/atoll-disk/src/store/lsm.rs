//! The ordered store in production: one `fjall` database, a keyspace for each table.
//!
//! `fjall` keeps one journal for all keyspaces and writes a batch to it whole, so a batch
//! over several tables is atomic; it flushes the journal before it flushes a memtable, so
//! the tables never run ahead of it. What a crash leaves is therefore a prefix of the
//! batches, no shorter than the last [`OrderedStore::flush`].

use std::{ops::Bound, path::Path};

use bytes::Bytes;
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode, Readable};

use super::{OrderedStore, Pairs, Snapshot, StoreError, Table, WriteBatch, check, holds_nothing};

// Memory, at most: blocks 8 MiB + memtables, each up to twice its limit while a full one
// is being written out: 2 × (4 + 2 + 1) MiB = 14 MiB. The rest is tables' filters and
// indexes, and the allocator's slack. See below for what is measured.
/// Read blocks kept decompressed; the page cache of the system is behind it.
const BLOCK_CACHE_BYTES: u64 = 8 << 20;
const RECORDS_MEMTABLE_BYTES: u64 = 4 << 20;
/// An index entry is about 60 bytes: some 20,000 chunks, or 20 GiB, per memtable.
const CHUNKS_MEMTABLE_BYTES: u64 = 2 << 20;
const LOCAL_MEMTABLE_BYTES: u64 = 1 << 20;
/// 128 MiB = two journals of 64 MiB, `fjall`'s fixed size for one: what a start replays at
/// most.
const JOURNALS_BYTES_MAX: u64 = 128 << 20;
/// Under the usual limit of 1,024 open files, with room for packs and sockets.
const OPEN_TABLES_MAX: usize = 256;
/// One to write out and one to merge; the nodes that Atoll is for have few cores.
const WORKER_THREADS: usize = 2;

/// See the module's header. Closed when it is dropped; only one may be open on a folder.
pub struct FjallStore {
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
        let database = Database::builder(folder)
            .cache_size(BLOCK_CACHE_BYTES)
            .max_journaling_size(JOURNALS_BYTES_MAX)
            .max_cached_files(Some(OPEN_TABLES_MAX))
            .worker_threads(WORKER_THREADS)
            .open()
            .map_err(failed("open"))?;
        let keyspace = |name, memtable_bytes| {
            database
                .keyspace(name, || KeyspaceCreateOptions::default().max_memtable_size(memtable_bytes))
                .map_err(failed("open table"))
        };
        let keyspaces = Keyspaces {
            records: keyspace("records", RECORDS_MEMTABLE_BYTES)?,
            chunks: keyspace("chunks", CHUNKS_MEMTABLE_BYTES)?,
            local: keyspace("local", LOCAL_MEMTABLE_BYTES)?,
        };
        Ok(Self { keyspaces, database })
    }
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
        self.database.persist(PersistMode::SyncAll).map_err(failed("flush"))
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

fn failed(operation: &'static str) -> impl FnOnce(fjall::Error) -> StoreError {
    move |error| StoreError { operation, source: Box::new(error) }
}
