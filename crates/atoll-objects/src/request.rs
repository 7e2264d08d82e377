//! What callers ask, and what they get: one type per operation, in S3's words.

use std::ops::Range;

use atoll_types::{Revision, ShardId, TransactionId, WallTime};
use bytes::Bytes;
use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::{
    conditions::{ReadConditions, WriteConditions},
    error::{BoxError, DeleteObjectError, Unavailable},
    names::{BucketId, BucketName, ObjectKey, UploadId},
    object::{
        BodyDigest, ByteRange, Checksum, ChecksumAlgorithm, ETag, ListEntry, ObjectHeaders, ObjectInfo,
    },
};

/// A body on its way in. An error of the stream fails the put with
/// [`crate::PutObjectError::Body`], its cause inside.
pub type BodyIn = BoxStream<'static, Result<Bytes, BoxError>>;

/// A body on its way out. It ends with an error if a chunk can't be had any more: the
/// connection must then be broken, since its length was already promised.
pub type BodyOut = BoxStream<'static, Result<Bytes, Unavailable>>;

/// A bucket as shard 0 knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketInfo {
    pub id: BucketId,
    pub name: BucketName,
    /// The canonical id of who created it; means nothing here.
    pub owner: String,
    pub created: WallTime,
    /// Which shard keeps which keys; a bucket starts as one range (rule 12).
    pub ranges: Vec<KeyRange>,
}

/// The keys from `start` to the next range's start, and the shard that keeps them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRange {
    pub start: Bytes,
    pub shard: ShardId,
}

impl BucketInfo {
    pub fn shard_of(&self, key: &[u8]) -> ShardId {
        let after = self.ranges.partition_point(|range| range.start <= key);
        // The first range starts at the empty key, so something always lies before.
        self.ranges[after.saturating_sub(1)].shard
    }
}

/// A body and what is to hold of it.
pub struct PutBody {
    pub stream: BodyIn,
    /// What the client announced; the body must have exactly that many bytes.
    pub length: Option<u64>,
    pub content_md5: Option<[u8; 16]>,
    pub digests: Vec<Box<dyn BodyDigest>>,
}

impl PutBody {
    pub fn new(stream: BodyIn) -> Self {
        Self { stream, length: None, content_md5: None, digests: Vec::new() }
    }
}

pub struct PutObject {
    pub bucket: BucketName,
    pub key: ObjectKey,
    pub headers: ObjectHeaders,
    pub conditions: WriteConditions,
    /// A client's idempotency key, hashed by the gateway: a retry under the same one
    /// gets the first result.
    pub idempotency: Option<TransactionId>,
    pub body: PutBody,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutResult {
    pub etag: ETag,
    pub size: u64,
    pub revision: Revision,
    pub modified: WallTime,
    pub checksum: Option<Checksum>,
}

#[derive(Debug, Clone)]
pub struct GetObject {
    pub bucket: BucketName,
    pub key: ObjectKey,
    pub range: Option<ByteRange>,
    pub conditions: ReadConditions,
}

pub struct GotObject {
    pub info: ObjectInfo,
    /// The bytes that `body` brings.
    pub range: Range<u64>,
    /// Nothing is fetched before it is polled.
    pub body: BodyOut,
}

#[derive(Debug, Clone)]
pub struct DeleteObject {
    pub bucket: BucketName,
    pub key: ObjectKey,
    pub conditions: WriteConditions,
    pub idempotency: Option<TransactionId>,
}

/// Deleting what is not there succeeds, as in S3.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deleted {
    pub existed: bool,
}

/// One result per key of a multi-delete, in the order asked.
pub type DeletedMany = Vec<(ObjectKey, Result<Deleted, DeleteObjectError>)>;

#[derive(Debug, Clone)]
pub struct ListObjects {
    pub bucket: BucketName,
    pub prefix: Bytes,
    /// Keys that have it after the prefix are rolled up to it. S3 allows any string.
    pub delimiter: Option<Bytes>,
    /// Only what sorts after it: `start-after`, a v1 marker, or `next` of the page before.
    /// If it is itself a common prefix, everything under it is skipped.
    pub start_after: Option<Bytes>,
    /// Keys and common prefixes together; S3's pages have at most 1,000.
    pub limit: usize,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ObjectPage {
    pub entries: Vec<ListEntry>,
    pub common_prefixes: Vec<Bytes>,
    /// `start_after` of the next page; `None` on the last.
    pub next: Option<Bytes>,
}

#[derive(Debug, Clone)]
pub struct CopyObject {
    pub source_bucket: BucketName,
    pub source_key: ObjectKey,
    pub source_conditions: ReadConditions,
    pub bucket: BucketName,
    pub key: ObjectKey,
    pub conditions: WriteConditions,
    /// `None` keeps the source's headers (S3's `COPY` directive).
    pub headers: Option<ObjectHeaders>,
    pub idempotency: Option<TransactionId>,
}

#[derive(Debug, Clone)]
pub struct CreateUpload {
    pub bucket: BucketName,
    pub key: ObjectKey,
    pub headers: ObjectHeaders,
    pub checksum: Option<ChecksumAlgorithm>,
}

pub struct UploadPart {
    pub bucket: BucketName,
    pub key: ObjectKey,
    pub upload: UploadId,
    pub number: u16,
    pub body: PutBody,
}

/// A part whose bytes come from another object.
#[derive(Debug, Clone)]
pub struct UploadPartCopy {
    pub source_bucket: BucketName,
    pub source_key: ObjectKey,
    pub source_range: Option<ByteRange>,
    pub source_conditions: ReadConditions,
    pub bucket: BucketName,
    pub key: ObjectKey,
    pub upload: UploadId,
    pub number: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartInfo {
    pub number: u16,
    pub size: u64,
    pub etag: ETag,
    pub modified: WallTime,
    pub checksum: Option<Checksum>,
}

#[derive(Debug, Clone)]
pub struct ListParts {
    pub bucket: BucketName,
    pub key: ObjectKey,
    pub upload: UploadId,
    /// Only parts with a higher number.
    pub after: u16,
    pub limit: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartPage {
    pub checksum: Option<ChecksumAlgorithm>,
    pub parts: Vec<PartInfo>,
    pub truncated: bool,
}

#[derive(Debug, Clone)]
pub struct ListUploads {
    pub bucket: BucketName,
    pub prefix: Bytes,
    pub delimiter: Option<Bytes>,
    /// Only uploads of keys after this one, or of this key with a greater upload id.
    pub after: Option<(Bytes, Option<UploadId>)>,
    pub limit: usize,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadInfo {
    pub key: ObjectKey,
    pub upload: UploadId,
    pub initiated: WallTime,
    pub checksum: Option<ChecksumAlgorithm>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadPage {
    pub uploads: Vec<UploadInfo>,
    pub common_prefixes: Vec<Bytes>,
    /// `after` of the next page; `None` on the last.
    pub next: Option<(Bytes, Option<UploadId>)>,
}

#[derive(Debug, Clone)]
pub struct CompleteUpload {
    pub bucket: BucketName,
    pub key: ObjectKey,
    pub upload: UploadId,
    /// Number and ETag (as the client wrote it, without quotes), ascending.
    pub parts: Vec<(u16, String)>,
    pub conditions: WriteConditions,
    /// The composite checksum that the gateway made of the parts' checksums, if any.
    pub checksum: Option<Checksum>,
}
