//! Snapshots, chunks, and restoring from them, as JSON. Hashes are hexadecimal.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// A round of snapshots, one of each shard.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SnapshotBegun {
    pub round: u64,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams, ToSchema)]
pub struct SnapshotListRequest {
    /// Only this round.
    #[serde(default)]
    pub round: Option<u64>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct SnapshotList {
    /// By number.
    pub rounds: Vec<SnapshotRound>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct SnapshotRound {
    pub round: u64,
    /// Of the shard whose snapshot was taken last.
    pub taken_millis: u64,
    /// Every shard's is there.
    pub complete: bool,
    pub shards: Vec<ShardSnapshot>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ShardSnapshot {
    pub shard: u32,
    /// Everything up to it is in the snapshot, nothing after it.
    pub revision: u64,
    pub taken_millis: u64,
    /// The chunks of its root, from which all others are found.
    pub root: Vec<ChunkName>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ChunkName {
    pub hash: String,
    pub bytes: u32,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RestoreBucketRequest {
    pub name: String,
    pub owner_canonical_id: String,
    pub created_millis: u64,
    /// Which bucket of which snapshot: what was begun from one is not mixed with another.
    pub source: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RestoreBucketAnswer {
    /// It was restored from this source before, and is there.
    pub done: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Imported {
    /// Chunks that the records refer to and nobody has. If there are any, nothing was taken:
    /// bring them, and send the records again.
    pub missing: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct FinishRestoreRequest {
    /// `unset`, `enabled`, `suspended`.
    pub versioning: String,
    /// Of all versions that were brought.
    pub newest_revision: u64,
    /// Everything put into it is encrypted.
    pub encrypted: bool,
    /// Grants, policy and public access block: the record, hexadecimal.
    #[serde(default)]
    pub rules: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RestoreUserRequest {
    /// The record, hexadecimal.
    pub record: String,
}
