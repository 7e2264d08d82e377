//! The handle that the gateway uses.

use std::{sync::Arc, time::Duration};

use atoll_records::Records;
use atoll_runtime::Runtime;
use atoll_transport::Transport;
use atoll_types::NodeId;

use crate::{error::*, names::*, object::*, request::*};

/// What a node hands to its objects. (The chunk store and the layout join here when
/// their crates have them.)
pub struct ObjectsParts {
    pub runtime: Runtime,
    pub transport: Arc<dyn Transport>,
    pub records: Records,
    pub me: NodeId,
    pub settings: ObjectsSettings,
}

#[derive(Debug, Clone)]
pub struct ObjectsSettings {
    /// How many shards share the buckets: 1 to this. Fixed when the cluster is created.
    pub data_shards: u32,
    /// How long an operation may wait for elections and slow holders before it says
    /// [`Unavailable`]. A put's clock starts after its body: the client sets that pace.
    pub patience: Duration,
}

impl Default for ObjectsSettings {
    /// 5 s: a node that is cut off answers 503 within it, an election takes under 3 s.
    fn default() -> Self {
        Self { data_shards: 64, patience: Duration::from_secs(5) }
    }
}

/// Buckets and objects of the whole cluster, as seen from any node. Cheap to clone.
#[derive(Clone)]
pub struct Objects {
    inner: Arc<Inner>,
}

struct Inner {
    parts: ObjectsParts,
}

impl Objects {
    pub fn new(parts: ObjectsParts) -> Self {
        Self { inner: Arc::new(Inner { parts }) }
    }

    fn unavailable(&self) -> Unavailable {
        let _ = &self.inner.parts.runtime;
        Unavailable::Deadline
    }

    /// Creates a bucket; the second creation by the same owner is an error that says so.
    pub async fn create_bucket(
        &self,
        _name: &BucketName,
        _owner: &str,
    ) -> Result<BucketInfo, CreateBucketError> {
        Err(self.unavailable().into())
    }

    /// Deletes an empty bucket, with the uploads that were never completed.
    pub async fn delete_bucket(&self, _name: &BucketName) -> Result<(), DeleteBucketError> {
        Err(self.unavailable().into())
    }

    pub async fn head_bucket(&self, _name: &BucketName) -> Result<BucketInfo, HeadBucketError> {
        Err(self.unavailable().into())
    }

    /// All buckets, by name.
    pub async fn list_buckets(&self) -> Result<Vec<BucketInfo>, Unavailable> {
        Err(self.unavailable())
    }

    pub async fn put(&self, _request: PutObject) -> Result<PutResult, PutObjectError> {
        Err(self.unavailable().into())
    }

    pub async fn get(&self, _request: GetObject) -> Result<GotObject, GetObjectError> {
        Err(self.unavailable().into())
    }

    /// [`Objects::get`] without the bytes; a range is checked all the same.
    pub async fn head(&self, _request: GetObject) -> Result<ObjectInfo, GetObjectError> {
        Err(self.unavailable().into())
    }

    pub async fn delete(&self, _request: DeleteObject) -> Result<Deleted, DeleteObjectError> {
        Err(self.unavailable().into())
    }

    /// Deletes up to 1,000 keys, in one command per shard.
    pub async fn delete_many(
        &self,
        _bucket: &BucketName,
        _keys: Vec<ObjectKey>,
    ) -> Result<DeletedMany, DeleteObjectError> {
        Err(self.unavailable().into())
    }

    /// One page, read at one moment.
    pub async fn list(&self, _request: ListObjects) -> Result<ObjectPage, ListObjectsError> {
        Err(self.unavailable().into())
    }

    pub async fn copy(&self, _request: CopyObject) -> Result<PutResult, CopyObjectError> {
        Err(CopyObjectError::Destination(self.unavailable().into()))
    }

    pub async fn create_upload(&self, _request: CreateUpload) -> Result<UploadId, CreateUploadError> {
        Err(self.unavailable().into())
    }

    pub async fn upload_part(&self, _request: UploadPart) -> Result<PartInfo, UploadPartError> {
        Err(UploadPartError::Put(self.unavailable().into()))
    }

    pub async fn upload_part_copy(&self, _request: UploadPartCopy) -> Result<PartInfo, UploadPartError> {
        Err(UploadPartError::Put(self.unavailable().into()))
    }

    pub async fn list_parts(&self, _request: ListParts) -> Result<PartPage, UploadError> {
        Err(self.unavailable().into())
    }

    pub async fn list_uploads(&self, _request: ListUploads) -> Result<UploadPage, UploadError> {
        Err(self.unavailable().into())
    }

    /// Makes the parts one object. Asked again for the same upload, it answers the same.
    pub async fn complete_upload(&self, _request: CompleteUpload) -> Result<PutResult, CompleteUploadError> {
        Err(self.unavailable().into())
    }

    pub async fn abort_upload(
        &self,
        _bucket: &BucketName,
        _key: &ObjectKey,
        _upload: UploadId,
    ) -> Result<(), UploadError> {
        Err(self.unavailable().into())
    }
}
