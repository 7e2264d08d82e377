//! The records that a shard keeps for objects: one versioned format each.

use atoll_types::{Format, Revision, WallTime};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    manifest::{ChunkRef, Manifest, Storage},
    names::{BucketId, ManifestId, UploadId},
    object::{Checksum, ChecksumAlgorithm, ETag, ObjectHeaders},
    request::BucketInfo,
};

macro_rules! format {
    ($type:ty, $name:literal) => {
        impl Format for $type {
            const NAME: &'static str = $name;
            const VERSION: u8 = 1;
        }
    };
}

/// What a data shard knows of a bucket: the truth for every read and write in it. It is
/// never deleted: a late `bucket-open` must find that the bucket is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketDescriptor {
    pub state: BucketState,
    /// The ranges of keys owned here, ascending.
    pub owned: Vec<OwnedRange>,
}
format!(BucketDescriptor, "bucket descriptor");

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BucketState {
    Open,
    /// Found empty, takes no more writes; its name is about to be freed.
    Sealed,
    /// Gone for good.
    Freed,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnedRange {
    pub start: Bytes,
    /// Exclusive; `None` is the end of all keys.
    pub end: Option<Bytes>,
}

#[cfg(test)]
impl OwnedRange {
    pub fn everything() -> Self {
        Self { start: Bytes::new(), end: None }
    }
}

impl BucketDescriptor {
    pub fn owns(&self, key: &[u8]) -> bool {
        self.owned.iter().any(|range| range.start <= key && range.end.as_ref().is_none_or(|end| key < end))
    }
}

/// What a listing returns of an object, and where its version lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CurrentRecord {
    pub revision: Revision,
    pub size: u64,
    pub etag: ETag,
    pub modified: WallTime,
    pub storage: Storage,
}
format!(CurrentRecord, "current object");

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRecord {
    pub size: u64,
    pub etag: ETag,
    pub modified: WallTime,
    /// Written while the bucket had no versioning: S3's version id `null`.
    pub null: bool,
    pub delete_marker: bool,
    pub headers: ObjectHeaders,
    pub checksum: Option<Checksum>,
    pub manifest: Manifest,
}
format!(VersionRecord, "object version");

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentRecord {
    pub chunks: Vec<ChunkRef>,
}
format!(SegmentRecord, "manifest segment");

/// Segments that wait for their root. A commit needs `epoch` to be at most one behind,
/// so after two sweeps nobody can commit them any more, and they go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingRecord {
    pub epoch: u64,
}
format!(PendingRecord, "pending manifest");

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadRecord {
    pub initiated: WallTime,
    pub headers: ObjectHeaders,
    pub checksum: Option<ChecksumAlgorithm>,
}
format!(UploadRecord, "multipart upload");

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartRecord {
    pub size: u64,
    pub etag: ETag,
    pub modified: WallTime,
    pub checksum: Option<Checksum>,
    /// `Chunks` or `Segments`.
    pub manifest: Manifest,
}
format!(PartRecord, "part");

/// Completing an upload twice answers the same; kept for two sweeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinishedRecord {
    pub epoch: u64,
    pub written: Written,
}
format!(FinishedRecord, "finished upload");

/// What a write of an object answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    pub revision: Revision,
    pub modified: WallTime,
    pub size: u64,
    pub etag: ETag,
    pub checksum: Option<Checksum>,
}

/// Manifest records that no version names any more. They stay for two sweeps, so that
/// a reader that began before goes on to the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DroppedRecord {
    Segments { bucket: BucketId, manifest: ManifestId },
    Parts { bucket: BucketId, upload: UploadId },
}
format!(DroppedRecord, "dropped manifest");

/// A record that brought new references: its store key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeRecord {
    pub epoch: u64,
    pub key: Bytes,
}
format!(ChangeRecord, "reference change");

/// Shard 0's record of a bucket's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameRecord(pub BucketInfo);
format!(NameRecord, "bucket name");

/// When the last sweep was begun, by shard 0's stamps, and the epoch that it raises all
/// shards to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SweepRecord {
    pub begun: WallTime,
    pub epoch: u64,
}
format!(SweepRecord, "sweep");

/// A plain number: the reclaim epoch, a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NumberRecord(pub u64);
format!(NumberRecord, "number");
