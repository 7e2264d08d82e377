//! Why an operation on buckets and objects did not happen: one enum per operation.
//!
//! In all of them `Unavailable` means that no answer came before the deadline: the
//! outcome of a write is unknown, a retry is safe, users get 503. Every other variant
//! is a definite answer, and nothing was changed.

use atoll_records::RecordsError;
use atoll_types::{ChunkHash, WallTime};

use crate::{
    encryption::EncryptionError,
    names::{BucketName, VersionId},
};

/// A cause from elsewhere.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The parts of the system that an operation needs did not answer in time.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    #[error("the records did not answer")]
    Records(#[from] RecordsError),
    /// Fewer holders than the write quorum took a chunk, or none gave one.
    #[error("too few holders of a chunk answered: {got} of {needed}")]
    Holders {
        got: usize,
        needed: usize,
        #[source]
        last: Option<BoxError>,
    },
    /// The disk keeps its reserve for records (rule 19), here and at the other holders.
    #[error("no room for chunks")]
    DiskFull,
    /// A shard answered what this program does not understand: versions too far apart.
    #[error("a shard's answer is malformed")]
    Malformed(#[from] atoll_types::FormatError),
    /// This node's own disk, in work that nobody waits for.
    #[error("this node's disk")]
    Local(#[source] BoxError),
    /// A shard said no where that makes no sense. Ours, a bug; nothing was changed.
    #[error("a shard refused: {0}")]
    Refused(String),
    /// The bucket or its shard changed under the operation again and again.
    #[error("the bucket keeps changing")]
    Unsettled,
    /// Some member of the cluster is older than what was asked for (rule 18).
    #[error("the cluster is being upgraded: it has version {has}, this needs {needs}")]
    Upgrading { has: u32, needs: u32 },
    /// Of a body: a chunk is not what was sealed for its place: it was altered, moved or cut
    /// off by somebody who writes records.
    #[error("a chunk does not open")]
    Tampered,
    /// Of a body: the object was replaced two sweeps ago or more, and what was left of it
    /// is gone.
    #[error("the object was replaced long ago, while it was being read")]
    Vanished,
}

#[derive(Debug, thiserror::Error)]
pub enum CreateBucketError {
    #[error("the bucket {0} is already yours")]
    AlreadyOwnedByYou(BucketName),
    #[error("the bucket {0} belongs to somebody else")]
    AlreadyExists(BucketName),
    #[error("the bucket could not be created now")]
    Unavailable(#[from] Unavailable),
}

#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    #[error("there is a bucket {0} already; nothing of it was changed")]
    BucketExists(BucketName),
    #[error("the bucket {bucket} is being restored from elsewhere: {from}")]
    OtherSource { bucket: BucketName, from: String },
    #[error("nobody has begun to restore a bucket {0}")]
    NotBegun(BucketName),
    /// Whoever sent it, or whoever kept it.
    #[error("these are not the bytes of chunk {0}")]
    OtherBytes(ChunkHash),
    #[error("this is no record of a bucket, or one of a newer program")]
    Malformed,
    #[error("the bucket could not be restored now")]
    Unavailable(#[from] Unavailable),
}

#[derive(Debug, thiserror::Error)]
pub enum DeleteBucketError {
    #[error("no bucket {0}")]
    NoSuchBucket(BucketName),
    #[error("the bucket {0} is not empty")]
    NotEmpty(BucketName),
    #[error("the bucket could not be deleted now")]
    Unavailable(#[from] Unavailable),
}

#[derive(Debug, thiserror::Error)]
pub enum HeadBucketError {
    #[error("no bucket {0}")]
    NoSuchBucket(BucketName),
    #[error("the bucket could not be read now")]
    Unavailable(#[from] Unavailable),
}

#[derive(Debug, thiserror::Error)]
pub enum SetEncryptionError {
    #[error("no bucket {0}")]
    NoSuchBucket(BucketName),
    #[error("the bucket's encryption")]
    Encryption(#[source] EncryptionError),
    #[error("the bucket's encryption could not be set now")]
    Unavailable(#[from] Unavailable),
}

#[derive(Debug, thiserror::Error)]
pub enum ListObjectsError {
    #[error("no bucket {0}")]
    NoSuchBucket(BucketName),
    #[error("the listing could not be read now")]
    Unavailable(#[from] Unavailable),
}

#[derive(Debug, thiserror::Error)]
pub enum GetObjectError {
    #[error("no bucket {0}")]
    NoSuchBucket(BucketName),
    #[error("no such key")]
    NoSuchKey,
    /// No version was named, and the newest is a delete marker: as good as no key.
    #[error("the object was deleted")]
    Deleted { marker: VersionId },
    /// The version named is a delete marker: it can only be deleted.
    #[error("this version is a delete marker")]
    DeleteMarker { version: VersionId, modified: WallTime },
    #[error("no such version")]
    NoSuchVersion,
    #[error("a precondition does not hold")]
    PreconditionFailed,
    /// 304; boxed because it carries what HTTP wants to see with it.
    #[error("not modified")]
    NotModified(Box<crate::ObjectInfo>),
    #[error("the range lies outside of the object of {size} bytes")]
    InvalidRange { size: u64 },
    #[error("the object's encryption")]
    Encryption(#[from] EncryptionError),
    #[error("the object could not be read now")]
    Unavailable(#[from] Unavailable),
}

#[derive(Debug, thiserror::Error)]
pub enum PutObjectError {
    #[error("no bucket {0}")]
    NoSuchBucket(BucketName),
    /// `If-Match` on a key without an object.
    #[error("no such key")]
    NoSuchKey,
    #[error("a precondition does not hold")]
    PreconditionFailed,
    #[error("the body is over the limit of {max} bytes")]
    EntityTooLarge { max: u64 },
    /// The body ended before the announced length.
    #[error("the body has {got} bytes, {announced} were announced")]
    IncompleteBody { announced: u64, got: u64 },
    /// `Content-MD5` is another.
    #[error("the body does not have the announced MD5")]
    BadDigest,
    /// A checksum of the client's ([`crate::BodyDigest`]) is another; names the algorithm.
    #[error("the body does not have the announced {algorithm}")]
    BadChecksum { algorithm: String },
    /// The client's stream broke.
    #[error("the body could not be read")]
    Body(#[source] BoxError),
    #[error("the object's encryption")]
    Encryption(#[source] EncryptionError),
    #[error("the object could not be written now")]
    Unavailable(#[from] Unavailable),
}

#[derive(Debug, thiserror::Error)]
pub enum DeleteObjectError {
    #[error("no bucket {0}")]
    NoSuchBucket(BucketName),
    #[error("no such key")]
    NoSuchKey,
    #[error("a precondition does not hold")]
    PreconditionFailed,
    #[error("the object could not be deleted now")]
    Unavailable(#[from] Unavailable),
}

#[derive(Debug, thiserror::Error)]
pub enum CopyObjectError {
    #[error("reading the source")]
    Source(#[source] GetObjectError),
    #[error("writing the destination")]
    Destination(#[source] PutObjectError),
}

#[derive(Debug, thiserror::Error)]
pub enum CreateUploadError {
    #[error("no bucket {0}")]
    NoSuchBucket(BucketName),
    #[error("the object's encryption")]
    Encryption(#[source] EncryptionError),
    #[error("the upload could not be created now")]
    Unavailable(#[from] Unavailable),
}

#[derive(Debug, thiserror::Error)]
pub enum UploadPartError {
    #[error("no such upload")]
    NoSuchUpload,
    #[error("part numbers are 1 to {max}")]
    InvalidPartNumber { max: u16 },
    /// Everything that a put can meet, too.
    #[error("storing the part")]
    Put(#[source] PutObjectError),
    /// Of a part copied from another object.
    #[error("reading the source")]
    Source(#[source] GetObjectError),
}

/// Of listing parts or uploads, and of aborting.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    #[error("no bucket {0}")]
    NoSuchBucket(BucketName),
    #[error("no such upload")]
    NoSuchUpload,
    #[error("the upload's encryption")]
    Encryption(#[from] EncryptionError),
    #[error("the uploads could not be reached now")]
    Unavailable(#[from] Unavailable),
}

#[derive(Debug, thiserror::Error)]
pub enum CompleteUploadError {
    #[error("no bucket {0}")]
    NoSuchBucket(BucketName),
    #[error("no such upload")]
    NoSuchUpload,
    /// `If-Match` on a key without an object.
    #[error("no such key")]
    NoSuchKey,
    #[error("a precondition does not hold")]
    PreconditionFailed,
    /// Not in ascending order by number: S3's `InvalidPartOrder`.
    #[error("the parts are not in ascending order")]
    InvalidPartOrder,
    /// Not uploaded, or with another ETag: S3's `InvalidPart`.
    #[error("part {number} is not there with that ETag")]
    InvalidPart { number: u16 },
    /// A part but the last is under 5 MiB: S3's `EntityTooSmall`.
    #[error("part {number} of {size} bytes is too small")]
    PartTooSmall { number: u16, size: u64 },
    /// No parts, or more than S3 has: S3's `MalformedXML`.
    #[error("the list of parts is empty or too long")]
    InvalidPartList,
    #[error("the object's encryption")]
    Encryption(#[from] EncryptionError),
    #[error("the upload could not be completed now")]
    Unavailable(#[from] Unavailable),
}
