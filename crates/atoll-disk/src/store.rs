//! The ordered store: sorted byte keys, atomic batches over both tables, snapshots,
//! and an explicit flush. `fjall` in production, a sorted map in the simulation.
//!
//! Every call may block (`fjall` sleeps in writers under back-pressure, and reads touch
//! the disk): call them inside `Runtime::blocking`, never on an async thread.

mod lsm;
mod memory;
#[cfg(test)]
mod tests;

use std::ops::Bound;

use bytes::Bytes;

pub use lsm::FjallStore;
pub use memory::MemoryStore;

/// Keys of one byte at least: `fjall` has no empty key.
/// 65,535 = what its key length field can say; ours are a replica id and a key of at
/// most a few KiB.
pub const KEY_BYTES_MAX: usize = u16::MAX as usize;
/// 64 MiB: far above a record (an entry stays under 1 MiB, rule 11), far under the 4 GiB
/// of `fjall`'s length field.
pub const VALUE_BYTES_MAX: usize = 64 << 20;

/// The store's tables; a batch may touch several and is atomic over them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Table {
    /// The shards' state, each key prefixed with its replica's id.
    Records,
    /// Where each chunk lies, and its stamp.
    Chunks,
    /// What this node remembers for itself: the last layout it saw, its replicas.
    Local,
}

/// The store can't be read or written. Fatal for what depends on it; nothing of a
/// failed batch is visible.
#[derive(Debug, thiserror::Error)]
#[error("ordered store: {operation}")]
pub struct StoreError {
    pub operation: &'static str,
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

/// What the stores call it when they can't read what they keep.
const READING: [&str; 3] = ["get", "iterate", "read"];

impl StoreError {
    /// The store can't read what it keeps. False for what it read well and what makes no sense
    /// to who asked for it: another copy of it would make none either.
    pub fn is_unreadable(&self) -> bool {
        READING.contains(&self.operation)
    }
}

/// Writes that become visible together, and are lost or kept together.
#[derive(Debug, Default, Clone)]
pub struct WriteBatch {
    pub(crate) operations: Vec<(Table, Bytes, Option<Bytes>)>,
}

impl WriteBatch {
    pub fn put(&mut self, table: Table, key: impl Into<Bytes>, value: impl Into<Bytes>) {
        self.operations.push((table, key.into(), Some(value.into())));
    }

    pub fn delete(&mut self, table: Table, key: impl Into<Bytes>) {
        self.operations.push((table, key.into(), None));
    }

    /// Of one pair.
    pub fn of(table: Table, key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        let mut batch = Self::default();
        batch.put(table, key, value);
        batch
    }

    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    pub fn len(&self) -> usize {
        self.operations.len()
    }
}

/// Refuses what a store could not keep, before any of the batch is written.
fn check(batch: &WriteBatch) -> Result<(), StoreError> {
    for (table, key, value) in &batch.operations {
        let value_bytes = value.as_ref().map_or(0, Bytes::len);
        if key.is_empty() || key.len() > KEY_BYTES_MAX || value_bytes > VALUE_BYTES_MAX {
            let reason = format!("a key of {} bytes with a value of {value_bytes} in {table:?}", key.len());
            return Err(StoreError { operation: "write", source: reason.into() });
        }
    }
    Ok(())
}

/// True if no key lies between the bounds; sorted maps panic on such ranges.
fn holds_nothing(start: Bound<&[u8]>, end: Bound<&[u8]>) -> bool {
    match (start, end) {
        (Bound::Unbounded, _) | (_, Bound::Unbounded) => false,
        (Bound::Included(start), Bound::Included(end)) => start > end,
        (Bound::Included(start) | Bound::Excluded(start), Bound::Included(end) | Bound::Excluded(end)) => {
            start >= end
        }
    }
}

/// Key and value, in key order.
pub type Pairs<'a> = Box<dyn Iterator<Item = Result<(Bytes, Bytes), StoreError>> + 'a>;

/// A view that later writes do not change.
pub trait Snapshot: Send + Sync {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError>;
    /// Pairs from `start` to `end`, ascending. Lazy.
    fn range(&self, table: Table, start: Bound<&[u8]>, end: Bound<&[u8]>) -> Pairs<'_>;
    /// The same, descending from `end`.
    fn range_backwards(&self, table: Table, start: Bound<&[u8]>, end: Bound<&[u8]>) -> Pairs<'_>;
}

pub trait OrderedStore: Send + Sync + 'static {
    fn snapshot(&self) -> Result<Box<dyn Snapshot>, StoreError>;
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError>;
    /// Visible to every later read; survives a crash only after [`OrderedStore::flush`].
    /// After a crash the store is at some state between the last flush and the last
    /// write, in order and never half a batch.
    fn write(&self, batch: WriteBatch) -> Result<(), StoreError>;
    /// Everything written before the call is durable after it.
    fn flush(&self) -> Result<(), StoreError>;
    /// Begins to tidy up: gives back the memory of what was written last, and spares the next start
    /// from reading it again. For when nothing is written for a while.
    fn settle(&self) -> Result<(), StoreError> {
        Ok(())
    }
    /// Whether that is done.
    fn is_settled(&self) -> bool {
        true
    }
    /// Empties a table, whether what it holds can be read or not. As a batch of its own;
    /// to be called while nobody holds a snapshot.
    fn clear(&self, table: Table) -> Result<(), StoreError>;
}
