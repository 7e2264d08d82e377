//! The ordered store: sorted byte keys, atomic batches over both tables, snapshots,
//! and an explicit flush. `fjall` in production, a sorted map in the simulation.
//!
//! Every call may block (`fjall` sleeps in writers under back-pressure, and reads touch
//! the disk): call them inside `Runtime::blocking`, never on an async thread.

use std::ops::Bound;

use bytes::Bytes;

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

    pub fn is_empty(&self) -> bool {
        self.operations.is_empty()
    }

    pub fn len(&self) -> usize {
        self.operations.len()
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
}
