//! What callers ask, and what they get: one type per operation, in S3's words.

use std::{collections::BTreeMap, ops::Range};

use atoll_types::{Acl, Format, Revision, ShardId, TransactionId, WallTime};
use bytes::Bytes;
use futures_util::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::{
    conditions::{ReadConditions, WriteConditions},
    encryption::{CustomerKey, Encryption, EncryptionKind},
    error::{BoxError, DeleteObjectError, Unavailable},
    names::{BucketId, BucketName, ObjectKey, UploadId, VersionId},
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

/// Whether a bucket keeps what is replaced and deleted. Once it is set there is no way back
/// to `Unset`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Versioning {
    /// Nobody ever asked for versions, and none are told.
    #[default]
    Unset,
    Enabled,
    /// Writes replace the `null` version; the others stay.
    Suspended,
}

/// What can be set on a bucket besides its versioning. The number is part of its record's
/// key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SettingKind {
    Tags = 0,
    Cors = 1,
    Lifecycle = 2,
}

impl SettingKind {
    pub(crate) const ALL: [SettingKind; 3] = [SettingKind::Tags, SettingKind::Cors, SettingKind::Lifecycle];
}

/// One such setting, as it was set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum BucketSetting {
    Tags(BTreeMap<String, String>),
    Cors(Vec<CorsRule>),
    Lifecycle(Vec<LifecycleRule>),
}

impl BucketSetting {
    pub fn kind(&self) -> SettingKind {
        match self {
            BucketSetting::Tags(_) => SettingKind::Tags,
            BucketSetting::Cors(_) => SettingKind::Cors,
            BucketSetting::Lifecycle(_) => SettingKind::Lifecycle,
        }
    }
}

impl Format for BucketSetting {
    const NAME: &'static str = "bucket setting";
    const VERSION: u8 = 1;
}

/// One rule of S3's CORS configuration. It means nothing here; the gateway obeys it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CorsRule {
    pub id: Option<String>,
    pub origins: Vec<String>,
    pub methods: Vec<String>,
    pub headers: Vec<String>,
    pub expose_headers: Vec<String>,
    pub max_age_seconds: Option<i32>,
}

/// One rule of a bucket's lifecycle: whom it is for, and what becomes of them when. Days
/// are whole ones, and may be shorter in tests.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LifecycleRule {
    pub id: String,
    pub enabled: bool,
    pub filter: LifecycleFilter,
    pub expiration: Option<Expiration>,
    pub noncurrent: Option<NoncurrentExpiration>,
    /// Days after its beginning that an upload is aborted.
    pub abort_uploads_days: Option<u32>,
    /// The filter was given as the older `Prefix` beside it: said again as it came.
    pub plain_prefix: bool,
}

/// All of these must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LifecycleFilter {
    pub prefix: Bytes,
    pub tags: BTreeMap<String, String>,
    /// More bytes than this.
    pub larger_than: Option<u64>,
    /// Fewer.
    pub smaller_than: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expiration {
    /// So long after it was written.
    Days(u32),
    /// From then on, all.
    At(WallTime),
    /// A delete marker goes when it is the only version left of its key.
    LoneMarkers,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NoncurrentExpiration {
    /// So long after a newer one replaced it.
    pub days: u32,
    /// Besides the newest so many noncurrent ones.
    pub keep: u32,
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
    /// `None` is as the bucket has it.
    pub encryption: Option<Encryption>,
    pub body: PutBody,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutResult {
    pub etag: ETag,
    pub size: u64,
    pub revision: Revision,
    pub modified: WallTime,
    pub checksum: Option<Checksum>,
    /// `None` in a bucket whose versioning nobody has touched.
    pub version: Option<VersionId>,
    pub encryption: Option<EncryptionKind>,
}

#[derive(Debug, Clone)]
pub struct GetObject {
    pub bucket: BucketName,
    pub key: ObjectKey,
    /// The newest, if none is named.
    pub version: Option<VersionId>,
    pub range: Option<ByteRange>,
    pub conditions: ReadConditions,
    /// Only of an object that is encrypted with it.
    pub customer_key: Option<CustomerKey>,
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
    /// Deletes this version for good. Without one, a bucket that keeps versions gets a
    /// delete marker.
    pub version: Option<VersionId>,
    /// On the version named, or on the object that is there.
    pub conditions: WriteConditions,
    pub idempotency: Option<TransactionId>,
}

/// Deleting what is not there succeeds, as in S3.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Deleted {
    /// There was an object, or the version named.
    pub existed: bool,
    /// The version named, or that of the delete marker that was written.
    pub version: Option<VersionId>,
    /// A delete marker was written, or it was one that was deleted.
    pub marker: bool,
}

/// One key of a multi-delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteKey {
    pub key: ObjectKey,
    pub version: Option<VersionId>,
    pub conditions: WriteConditions,
}

impl From<ObjectKey> for DeleteKey {
    fn from(key: ObjectKey) -> Self {
        Self { key, version: None, conditions: WriteConditions::default() }
    }
}

/// One result per key of a multi-delete, in the order asked.
pub type DeletedMany = Vec<(ObjectKey, Result<Deleted, DeleteObjectError>)>;

#[derive(Debug, Clone)]
pub struct ListVersions {
    pub bucket: BucketName,
    pub prefix: Bytes,
    pub delimiter: Option<Bytes>,
    /// Only versions of keys after this one, or of this key older than the version.
    pub after: Option<(Bytes, Option<VersionId>)>,
    pub limit: usize,
}

/// A version or a delete marker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionEntry {
    pub key: ObjectKey,
    pub version: VersionId,
    pub revision: Revision,
    /// The newest of its key.
    pub latest: bool,
    pub delete_marker: bool,
    pub size: u64,
    pub etag: ETag,
    pub modified: WallTime,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionPage {
    /// By key, and within a key from new to old.
    pub versions: Vec<VersionEntry>,
    pub common_prefixes: Vec<Bytes>,
    /// `after` of the next page; `None` on the last.
    pub next: Option<(Bytes, Option<VersionId>)>,
}

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
    pub source_version: Option<VersionId>,
    pub source_conditions: ReadConditions,
    pub source_customer_key: Option<CustomerKey>,
    pub bucket: BucketName,
    pub key: ObjectKey,
    pub conditions: WriteConditions,
    /// `None` is as the bucket has it, however the source is encrypted.
    pub encryption: Option<Encryption>,
    /// `None` keeps the source's headers (S3's `COPY` directive).
    pub headers: Option<ObjectHeaders>,
    /// The copy's, whatever the headers have: the source's is not copied.
    pub acl: Option<Acl>,
    pub idempotency: Option<TransactionId>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Copied {
    pub put: PutResult,
    /// Which version was copied, if its bucket tells versions.
    pub source_version: Option<VersionId>,
}

#[derive(Debug, Clone)]
pub struct CreateUpload {
    pub bucket: BucketName,
    pub key: ObjectKey,
    pub headers: ObjectHeaders,
    pub checksum: Option<ChecksumAlgorithm>,
    /// Of the object and all parts; `None` is as the bucket has it.
    pub encryption: Option<Encryption>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatedUpload {
    pub upload: UploadId,
    pub encryption: Option<EncryptionKind>,
}

pub struct UploadPart {
    pub bucket: BucketName,
    pub key: ObjectKey,
    pub upload: UploadId,
    pub number: u16,
    /// The one that the upload was created with, if it was with one.
    pub customer_key: Option<CustomerKey>,
    pub body: PutBody,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadedPart {
    pub part: PartInfo,
    pub encryption: Option<EncryptionKind>,
}

/// A part whose bytes come from another object.
#[derive(Debug, Clone)]
pub struct UploadPartCopy {
    pub source: GetObject,
    pub bucket: BucketName,
    pub key: ObjectKey,
    pub upload: UploadId,
    pub number: u16,
    pub customer_key: Option<CustomerKey>,
    /// Makes the part's checksum, of the kind that its upload asks for.
    pub digest: fn(ChecksumAlgorithm) -> Box<dyn BodyDigest>,
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
    /// Tells the checksums of parts that are encrypted with it.
    pub customer_key: Option<CustomerKey>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedParts {
    pub page: PartPage,
    pub encryption: Option<EncryptionKind>,
    /// The parts have no checksums here, because only their customer's key tells them.
    pub checksums_sealed: bool,
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
    pub customer_key: Option<CustomerKey>,
}
