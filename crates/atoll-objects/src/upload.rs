//! Multipart uploads.

use std::sync::Arc;

use atoll_types::Instant;

use crate::{
    conditions::FailedCondition,
    error::{
        CompleteUploadError, CreateUploadError, GetObjectError, PutObjectError, Unavailable, UploadError,
        UploadPartError,
    },
    ingest::Ingested,
    names::{BucketName, ObjectKey, UploadId, VersionId},
    object::{ByteRange, ETag},
    objects::{BUCKET_ATTEMPTS, Objects},
    put::attempt_id,
    request::{
        BucketInfo, CompleteUpload, CreateUpload, GetObject, ListParts, ListUploads, PartInfo, PartPage,
        PutBody, PutResult, UploadPage, UploadPart, UploadPartCopy,
    },
    shard::{
        Refused, list,
        upload::{self, PARTS_MAX, Upload},
    },
};

impl Objects {
    pub async fn create_upload(&self, request: CreateUpload) -> Result<UploadId, CreateUploadError> {
        let CreateUpload { bucket, key, headers, checksum } = request;
        let no_such = || CreateUploadError::NoSuchBucket(bucket.clone());
        let deadline = self.deadline();
        let mut info = self.bucket(&bucket, deadline).await?.ok_or_else(no_such)?;
        let id = UploadId(self.inner.runtime.transaction_id());
        for _ in 0..BUCKET_ATTEMPTS {
            let create = upload::Create {
                upload: Upload { bucket: info.id, key: key.clone(), upload: id },
                headers: headers.clone(),
                checksum,
            };
            let transaction = self.inner.runtime.transaction_id();
            let shard = info.shard_of(key.as_bytes());
            match self.execute(shard, transaction, &upload::CREATE, create, deadline).await? {
                Ok(()) => return Ok(id),
                Err(refused) => {
                    info = self.follow_bucket(&info, &refused, deadline).await?.ok_or_else(no_such)?;
                }
            }
        }
        Err(Unavailable::Unsettled.into())
    }

    pub async fn upload_part(&self, request: UploadPart) -> Result<PartInfo, UploadPartError> {
        let UploadPart { bucket, key, upload, number, body } = request;
        if !(1..=PARTS_MAX).contains(&number) {
            return Err(UploadPartError::InvalidPartNumber { max: PARTS_MAX });
        }
        let info = self.upload_bucket(&bucket, &key, upload).await?;
        let shard = info.shard_of(key.as_bytes());
        let ingested = self.ingest(shard, body, false).await.map_err(UploadPartError::Put)?;
        self.commit_part(info, key, upload, number, ingested).await
    }

    /// A part whose bytes come from another object, and which version of that. They are read and stored like any
    /// other's, because a part's ETag is their MD5; chunks that are there already are
    /// not stored twice.
    pub async fn upload_part_copy(
        &self,
        request: UploadPartCopy,
    ) -> Result<(PartInfo, Option<VersionId>), UploadPartError> {
        let UploadPartCopy {
            source_bucket,
            source_key,
            source_version,
            source_range,
            source_conditions,
            bucket,
            key,
            upload,
            number,
        } = request;
        let get = GetObject {
            bucket: source_bucket,
            key: source_key,
            version: source_version,
            range: source_range,
            conditions: source_conditions,
        };
        let source = self.get(get).await.map_err(UploadPartError::Source)?;
        let size = source.info.size;
        if let Some(ByteRange::Between(_, last)) = source_range
            && last >= size
        {
            // A get would bring what there is; a part that is shorter than asked is a hole.
            return Err(UploadPartError::Source(GetObjectError::InvalidRange { size }));
        }
        let length = source.range.end - source.range.start;
        let stream = futures_util::StreamExt::map(source.body, |piece| piece.map_err(Into::into));
        let mut body = PutBody::new(Box::pin(stream));
        body.length = Some(length);
        let part = self.upload_part(UploadPart { bucket, key, upload, number, body }).await?;
        Ok((part, source.info.version))
    }

    /// The bucket, if the upload is in it: a client should hear of a wrong upload id
    /// before it has sent 5 GiB.
    async fn upload_bucket(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        upload: UploadId,
    ) -> Result<Arc<BucketInfo>, UploadPartError> {
        let check = ListParts { bucket: bucket.clone(), key: key.clone(), upload, after: 0, limit: 0 };
        match self.list_parts_in(check).await {
            Ok((info, _)) => Ok(info),
            Err(UploadError::NoSuchUpload) => Err(UploadPartError::NoSuchUpload),
            Err(UploadError::NoSuchBucket(name)) => {
                Err(UploadPartError::Put(PutObjectError::NoSuchBucket(name)))
            }
            Err(UploadError::Unavailable(error)) => Err(UploadPartError::Put(error.into())),
        }
    }

    async fn commit_part(
        &self,
        info: Arc<BucketInfo>,
        key: ObjectKey,
        upload: UploadId,
        number: u16,
        mut ingested: Ingested,
    ) -> Result<PartInfo, UploadPartError> {
        let failed = |error: Unavailable| UploadPartError::Put(error.into());
        let shard = info.shard_of(key.as_bytes());
        let deadline = self.deadline();
        for _ in 0..BUCKET_ATTEMPTS {
            let refused = match self.content(&info, &key, &ingested.content).await.map_err(failed)? {
                Err(refused) => refused,
                Ok((content, epoch)) => {
                    let part = upload::PutPart {
                        upload: Upload { bucket: info.id, key: key.clone(), upload },
                        number,
                        epoch,
                        size: ingested.size,
                        etag: ETag { md5: ingested.md5, parts: 0 },
                        checksum: ingested.checksum.clone(),
                        content,
                    };
                    let id = self.inner.runtime.transaction_id();
                    match self.execute(shard, id, &upload::PUT_PART, part, deadline).await.map_err(failed)? {
                        Ok(info) => return Ok(info),
                        Err(refused) => refused,
                    }
                }
            };
            match refused {
                Refused::StaleEpoch { .. } | Refused::NoSuchManifest => {
                    self.stamp_again(shard, &mut ingested.content).await.map_err(failed)?;
                }
                Refused::NoSuchUpload
                | Refused::UnknownBucket
                | Refused::SealedBucket
                | Refused::FreedBucket => return Err(UploadPartError::NoSuchUpload),
                refused => return Err(failed(crate::objects::unexpected(refused))),
            }
        }
        Err(failed(Unavailable::Unsettled))
    }

    pub async fn list_parts(&self, request: ListParts) -> Result<PartPage, UploadError> {
        self.list_parts_in(request).await.map(|(_, page)| page)
    }

    async fn list_parts_in(&self, request: ListParts) -> Result<(Arc<BucketInfo>, PartPage), UploadError> {
        let ListParts { bucket, key, upload, after, limit } = request;
        let no_such = || UploadError::NoSuchBucket(bucket.clone());
        let deadline = self.deadline();
        let mut info = self.bucket(&bucket, deadline).await?.ok_or_else(no_such)?;
        for _ in 0..BUCKET_ATTEMPTS {
            let ask = upload::PartList {
                upload: Upload { bucket: info.id, key: key.clone(), upload },
                after,
                limit: limit.min(list::PAGE_LIMIT_MAX) as u32,
            };
            match self.query(info.shard_of(key.as_bytes()), &upload::LIST_PARTS, ask, deadline).await? {
                Ok(page) => return Ok((info, page)),
                Err(Refused::NoSuchUpload) => return Err(UploadError::NoSuchUpload),
                Err(refused) => {
                    info = self.follow_bucket(&info, &refused, deadline).await?.ok_or_else(no_such)?;
                }
            }
        }
        Err(Unavailable::Unsettled.into())
    }

    pub async fn list_uploads(&self, request: ListUploads) -> Result<UploadPage, UploadError> {
        let no_such = || UploadError::NoSuchBucket(request.bucket.clone());
        let deadline = self.deadline();
        let mut info = self.bucket(&request.bucket, deadline).await?.ok_or_else(no_such)?;
        for _ in 0..BUCKET_ATTEMPTS {
            let from = match &request.after {
                Some((after, _)) if *after > request.prefix => after,
                _ => &request.prefix,
            };
            let ask = list::UploadList {
                bucket: info.id,
                prefix: request.prefix.clone(),
                delimiter: request.delimiter.clone(),
                after: request.after.clone(),
                limit: request.limit.min(list::PAGE_LIMIT_MAX) as u32,
            };
            match self.query(info.shard_of(from), &list::UPLOADS, ask, deadline).await? {
                Ok(page) => return Ok(page),
                Err(refused) => {
                    info = self.follow_bucket(&info, &refused, deadline).await?.ok_or_else(no_such)?;
                }
            }
        }
        Err(Unavailable::Unsettled.into())
    }

    /// Makes the parts one object. Asked again for the same upload, it answers the same.
    pub async fn complete_upload(&self, request: CompleteUpload) -> Result<PutResult, CompleteUploadError> {
        let CompleteUpload { bucket, key, upload, parts, conditions, checksum } = request;
        if parts.is_empty() || parts.len() > usize::from(PARTS_MAX) {
            return Err(CompleteUploadError::InvalidPartList);
        }
        if !parts.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(CompleteUploadError::InvalidPartOrder);
        }
        let no_such = || CompleteUploadError::NoSuchBucket(bucket.clone());
        let deadline: Instant = self.deadline();
        let mut info = self.bucket(&bucket, deadline).await?.ok_or_else(no_such)?;
        let id = self.inner.runtime.transaction_id();
        for attempt in 0..BUCKET_ATTEMPTS {
            let complete = upload::Complete {
                upload: Upload { bucket: info.id, key: key.clone(), upload },
                parts: parts.clone(),
                conditions: conditions.clone(),
                checksum: checksum.clone(),
            };
            let (shard, id) = (info.shard_of(key.as_bytes()), attempt_id(id, attempt));
            match self.execute(shard, id, &upload::COMPLETE, complete, deadline).await? {
                Ok(written) => {
                    self.inner.runtime.fault_point("objects: an upload is complete, nobody is told").await;
                    return Ok(written.into());
                }
                Err(Refused::NoSuchUpload) => return Err(CompleteUploadError::NoSuchUpload),
                Err(Refused::InvalidPart { number }) => {
                    return Err(CompleteUploadError::InvalidPart { number });
                }
                Err(Refused::PartTooSmall { number, size }) => {
                    return Err(CompleteUploadError::PartTooSmall { number, size });
                }
                Err(Refused::Condition(FailedCondition::NoSuchKey)) => {
                    return Err(CompleteUploadError::NoSuchKey);
                }
                Err(Refused::Condition(FailedCondition::PreconditionFailed)) => {
                    return Err(CompleteUploadError::PreconditionFailed);
                }
                Err(refused) => {
                    info = self.follow_bucket(&info, &refused, deadline).await?.ok_or_else(no_such)?;
                }
            }
        }
        Err(Unavailable::Unsettled.into())
    }

    pub async fn abort_upload(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        upload: UploadId,
    ) -> Result<(), UploadError> {
        let no_such = || UploadError::NoSuchBucket(bucket.clone());
        let deadline = self.deadline();
        let mut info = self.bucket(bucket, deadline).await?.ok_or_else(no_such)?;
        for _ in 0..BUCKET_ATTEMPTS {
            let abort = Upload { bucket: info.id, key: key.clone(), upload };
            let id = self.inner.runtime.transaction_id();
            match self.execute(info.shard_of(key.as_bytes()), id, &upload::ABORT, abort, deadline).await? {
                Ok(()) => return Ok(()),
                Err(Refused::NoSuchUpload) => return Err(UploadError::NoSuchUpload),
                Err(refused) => {
                    info = self.follow_bucket(&info, &refused, deadline).await?.ok_or_else(no_such)?;
                }
            }
        }
        Err(Unavailable::Unsettled.into())
    }
}
