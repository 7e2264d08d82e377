//! Everything durable on one node: the file seam, the shared log, the chunk packs, the
//! ordered store; each over files that a test can tear, lose, flip and misplace.
//!
//! It knows nothing of Raft, of S3 or of the network: a log entry, a chunk and a
//! stored value are bytes with a name. The only crate that touches a file system, and
//! the only one with a library that has threads of its own (`fjall`).

mod chunks;
mod files;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod log;
mod store;
mod whole;

pub use chunks::{
    CHUNK_BYTES_MAX, ChunkError, ChunkInfo, ChunkRecovery, ChunkSettings, ChunkStore, ChunkUsage, Compacted,
    PackDamage, Put, Scrubbed,
};
pub use files::{
    DiskError, DiskFaults, FaultCounts, File, Files, MemoryDisk, MemoryFiles, OpenFolderError, RealFiles,
    Space,
};
pub use log::{
    Append, Appended, ENTRY_BYTES_MAX, LogEntry, LogError, LogSettings, LogVerdict, OpenLogError,
    RecoveredReplica, Recovery, SharedLog,
};
pub use store::{
    FjallStore, KEY_BYTES_MAX, MemoryStore, OrderedStore, Pairs, Snapshot, StoreError, Table,
    VALUE_BYTES_MAX, WriteBatch,
};
pub use whole::{WholeFileError, read_whole, replace_whole};
