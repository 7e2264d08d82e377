//! The nouns of Atoll: ids, hashes, times, sizes, and the versioned encoding that
//! every file, record and frame uses.
//!
//! Everyone depends on this crate, so it holds nouns only: no behaviour that a
//! second crate might want differently, no I/O, no clock, no randomness.

mod acl;
mod format;
pub mod fuzzing;
mod hash;
mod ids;
mod overlay;
mod role;
mod size;
mod time;

pub use acl::{Acl, AclGrant, Grantee, Permission};
pub use format::{Format, FormatError};
pub use hash::{ChunkHash, Slot};
pub use ids::{
    ClusterId, DiskId, Generation, NodeId, ParseIdError, ReplicaId, Revision, ShardId, TransactionId, Zone,
};
pub use overlay::{OverlayKind, ParseOverlayKindError};
pub use role::{ParseRoleError, Role, Roles};
pub use size::{ByteSize, ParseByteSizeError};
pub use time::{Instant, WallTime};
