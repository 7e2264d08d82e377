//! Commands and queries: what other crates run inside a shard.

use std::{collections::BTreeMap, ops::Bound, sync::Arc};

use atoll_disk::StoreError;
use atoll_types::{Revision, ShardId, TransactionId, WallTime};
use bytes::Bytes;

/// Key and value, in key order.
pub type Pairs<'a> = Box<dyn Iterator<Item = Result<(Bytes, Bytes), StoreError>> + 'a>;

/// One shard's records at one revision. Keys are the owner's; which replica they are
/// kept for is not visible.
pub trait ReadView {
    /// The revision of the newest entry in this view; in a command, of its own entry.
    fn revision(&self) -> Revision;
    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError>;
    /// Ascending and lazy: a reader that stops early has paid for what it took.
    fn range(&self, start: Bound<&[u8]>, end: Bound<&[u8]>) -> Pairs<'_>;
    fn range_backwards(&self, start: Bound<&[u8]>, end: Bound<&[u8]>) -> Pairs<'_>;
}

/// 16 KiB: an object's key of 1,024 bytes, escaped, and what its owner puts around it.
pub const KEY_BYTES_MAX: usize = 16 << 10;
/// 2 MiB: a command's input is under 1 MiB, and what grows by commands has a bound.
pub const VALUE_BYTES_MAX: usize = 2 << 20;

/// A [`ReadView`] that sees its own writes. A command that commits a key over
/// [`KEY_BYTES_MAX`] or a value over [`VALUE_BYTES_MAX`] is aborted, with an empty output.
pub trait WriteView: ReadView {
    /// The leader's stamp on this entry: its clock, but never earlier than the stamp of an
    /// entry before (rule 3). Entries close to each other may have the same.
    fn stamp(&self) -> WallTime;
    fn transaction_id(&self) -> TransactionId;
    fn put(&mut self, key: &[u8], value: Bytes);
    fn delete(&mut self, key: &[u8]);
}

/// What becomes of a command's writes; the bytes go back to the caller either way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Commit(Vec<u8>),
    /// All writes are dropped.
    Abort(Vec<u8>),
}

/// Changes a shard. Must be a pure function of the view and the input: it runs once on
/// every replica, and again after a crash. Input that does not decode is an `Abort`,
/// never a panic. A changed meaning is a new name.
pub trait Command: Send + Sync + 'static {
    fn apply(&self, view: &mut dyn WriteView, input: &[u8]) -> Result<Verdict, StoreError>;
}

/// Reads a shard.
pub trait Query: Send + Sync + 'static {
    fn run(&self, view: &dyn ReadView, input: &[u8]) -> Result<Vec<u8>, StoreError>;
}

/// All that may run in a shard, by name (`objects/put/1`). Filled once, at start, the
/// same on every node of one cluster version.
#[derive(Clone, Default)]
pub struct Procedures {
    pub(crate) commands: BTreeMap<&'static str, Arc<dyn Command>>,
    pub(crate) queries: BTreeMap<&'static str, Arc<dyn Query>>,
    watched: Vec<&'static [u8]>,
}

impl Procedures {
    /// # Panics
    /// If the name is taken: two crates claim one meaning.
    pub fn command(&mut self, name: &'static str, command: impl Command) -> &mut Self {
        assert!(
            self.commands.insert(name, Arc::new(command)).is_none(),
            "command {name} is registered twice"
        );
        self
    }

    /// # Panics
    /// If the name is taken.
    pub fn query(&mut self, name: &'static str, query: impl Query) -> &mut Self {
        assert!(self.queries.insert(name, Arc::new(query)).is_none(), "query {name} is registered twice");
        self
    }

    /// Lets watches tell of keys with this prefix, in any shard. (In shard 0 they tell of
    /// all.) Each write to such a key is stored twice.
    pub fn watched(&mut self, prefix: &'static [u8]) -> &mut Self {
        self.watched.push(prefix);
        self
    }

    pub(crate) fn is_watched(&self, shard: ShardId, key: &[u8]) -> bool {
        shard == ShardId::META || self.watched.iter().any(|prefix| key.starts_with(prefix))
    }
}
