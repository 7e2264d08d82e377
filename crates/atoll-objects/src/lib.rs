//! Buckets and objects: cutting bodies into chunks, spreading those over their holders,
//! manifests and listings in the records, and keeping the copies whole.
//!
//! It knows nothing of HTTP, of signatures or of who may do what: the gateway translates
//! and asks, and maps each operation's error enum to S3's codes.

mod buckets;
mod chunker;
mod conditions;
mod copy;
mod delete;
mod encryption;
mod error;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod get;
mod holder;
mod holders;
mod ingest;
mod layout_link;
mod lifecycle;
mod list;
mod maintenance;
mod manifest;
mod mover;
mod names;
mod object;
mod objects;
mod peers;
mod probe;
mod put;
mod read;
mod reclaim;
mod repair;
mod request;
mod restore;
mod scrub;
mod sealing;
mod settings;
mod shard;
mod slots;
mod snapshot;
mod upload;
mod versions;
mod wire;

pub use chunker::ChunkSizes;
pub use conditions::{ETagCondition, FailedCondition, FailedRead, ReadConditions, WriteConditions};
pub use encryption::{
    CustomerKey, Encryption, EncryptionError, EncryptionKind, ParseRootKeyError, RootKey, RootKeyId,
};
pub use error::*;
pub use layout_link::{LayoutLink, ReportError};
pub use maintenance::{Maintenance, MaintenanceSettings, MaintenanceStatus};
pub use manifest::ChunkRef;
pub use names::{
    BucketId, BucketName, InvalidBucketName, InvalidKey, ManifestId, ObjectKey, ParseVersionIdError,
    UploadId, VersionId,
};
pub use object::{
    BodyDigest, ByteRange, Checksum, ChecksumAlgorithm, ETag, ListEntry, ObjectHeaders, ObjectInfo,
    ParseETagError,
};
pub use objects::{Objects, ObjectsParts, ObjectsSettings};
pub use probe::HeldChunk;
pub use request::*;
pub use restore::Restoring;
pub use sealing::{ENCRYPTION_SINCE, VERSION_HEARD_WITHIN};
pub use settings::ACLS_SINCE;
pub use shard::register_procedures;
pub use snapshot::{
    KeptSnapshot, SNAPSHOTS_SINCE, SnapshotSettings,
    format::{BucketRecord, Entries, Entry, OpenedBucket, References, Root},
};
pub use versions::VERSIONS_SINCE;
