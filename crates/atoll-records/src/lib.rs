//! Linearizable records: shards kept by Raft groups, changed by commands, read by
//! queries, watched by revision.
//!
//! A command is a pure function over a shard's records, registered by name by the crate
//! that owns those records ([`Procedures`]). It runs when its log entry is applied, on
//! every replica alike: it reads no clock (the leader's stamp comes with the entry), no
//! randomness, nothing outside the shard. A query is the same without writes; it runs at
//! the leader after a read-index round (rule 1), over one snapshot. Compare-and-write
//! transactions and leases are commands of this crate's own.
//!
//! It knows nothing of S3, of buckets or of layout decisions: which replicas a shard has
//! is told by [`ShardMap`], and changed by whoever leads the layout.

mod alone;
mod apply;
mod check;
mod client;
mod dedup;
mod driver;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod group;
mod group_log;
mod lease;
mod lives;
mod log;
mod logger;
mod map;
mod membership;
mod metrics;
mod observe;
mod procedure;
mod reads;
mod records;
mod snapshot;
mod state;
mod status;
mod timing;
mod transaction;
mod view;
mod watch;
mod wire;

pub use alone::{go_on_alone, replicas_in};
pub use lease::{Granted, Held, LeaseError, LeaseId, LockStatus};
pub use map::{ReplicaAddress, ShardMap, ShardReplicas};
pub use metrics::RecordsMetrics;
pub use observe::{Observed, Observer};
pub use procedure::{Command, Pairs, Procedures, Query, ReadView, Verdict, WriteView};
pub use records::{Records, RecordsParts, StartError};
pub use status::{FollowerStatus, ReplicaStatus, Role};

pub use transaction::{
    Compare, Condition, Done, KV_PREFIX, Operation, Read, ReadResult, Record, Transaction, TransactionError,
    TransactionRefused, TransactionResult,
};
pub use view::ShardView;
pub use watch::{Change, Watch, WatchError};

use atoll_types::{Revision, ShardId};
use bytes::Bytes;

/// What a command left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Executed {
    /// The entry's place in the shard's history: orders it against every other write.
    pub revision: Revision,
    /// False if the command said [`Verdict::Abort`]: it changed nothing.
    pub committed: bool,
    pub output: Bytes,
}

/// Why a command or query brought no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordsError {
    /// No leader answered before the deadline. For a command the outcome is unknown: a
    /// retry must carry the same transaction id. Users get 503.
    #[error("shard {shard} did not answer in time")]
    Unavailable { shard: ShardId },
    /// The shard is not in the map that this node has.
    #[error("shard {shard} is not known here")]
    UnknownShard { shard: ShardId },
    /// Ours: no such procedure, or the input is over the limit. Nothing happened.
    #[error("{reason}")]
    Invalid { reason: String },
}
