//! Multipart uploads.

use std::sync::Arc;

use atoll_types::Instant;
use futures_util::StreamExt;

use crate::{
    conditions::FailedCondition,
    encryption::{
        CustomerKey, EncryptionKind, Sealing,
        seal::{PartSalt, Seal},
    },
    error::{
        CompleteUploadError, CreateUploadError, GetObjectError, PutObjectError, Unavailable, UploadError,
        UploadPartError,
    },
    get::{Opened, check_conditions, open_checksums, resolve_range},
    ingest::{BODY_BYTES_MAX, Ingested},
    manifest::Storage,
    names::{BucketName, ObjectKey, UploadId, VersionId},
    object::{ByteRange, Checksum, ChecksumAlgorithm, ETag},
    objects::{BUCKET_ATTEMPTS, Objects},
    put::{attempt_id, etag_md5},
    request::{
        BucketInfo, CompleteUpload, CreateUpload, CreatedUpload, ListParts, ListUploads, ListedParts,
        PartInfo, PartPage, PutBody, PutResult, UploadPage, UploadPart, UploadPartCopy, UploadedPart,
    },
    sealing::ENCRYPTION_SINCE,
    shard::{
        Refused, list,
        upload::{self, PARTS_MAX, Upload},
    },
};

/// How a part is sealed: with its upload's data key, as a stream of its own.
struct PartSealing {
    sealing: Sealing,
    salt: PartSalt,
}

/// An upload, as a part finds it.
struct PlaceOfPart {
    info: Arc<BucketInfo>,
    key: ObjectKey,
    upload: UploadId,
    number: u16,
    /// What the upload was created with.
    checksum: Option<ChecksumAlgorithm>,
    sealing: Option<PartSealing>,
}

impl Objects {
    pub async fn create_upload(&self, request: CreateUpload) -> Result<CreatedUpload, CreateUploadError> {
        let CreateUpload { bucket, key, headers, checksum, encryption } = request;
        self.knows_headers(&headers).await?;
        let no_such = || CreateUploadError::NoSuchBucket(bucket.clone());
        let deadline = self.deadline();
        let info = self.bucket(&bucket, deadline).await?.ok_or_else(no_such)?;
        let (mut info, sealing) = self.sealing(info, &key, encryption.as_ref(), deadline).await?;
        let seal = sealing.map(|sealing| sealing.seal);
        let id = UploadId(self.inner.runtime.transaction_id());
        for _ in 0..BUCKET_ATTEMPTS {
            let create = upload::Create {
                upload: Upload { bucket: info.id, key: key.clone(), upload: id },
                headers: headers.clone(),
                checksum,
            };
            let transaction = self.inner.runtime.transaction_id();
            let shard = info.shard_of(key.as_bytes());
            let created = match &seal {
                None => self.execute(shard, transaction, &upload::CREATE, create, deadline).await?,
                Some(seal) => {
                    let create = upload::CreateSealed { create, seal: seal.clone() };
                    self.execute(shard, transaction, &upload::CREATE_SEALED, create, deadline).await?
                }
            };
            match created {
                Ok(()) => {
                    return Ok(CreatedUpload { upload: id, encryption: seal.as_ref().map(Seal::kind) });
                }
                // The bucket's encryption was turned on since: the client's next attempt seals.
                Err(Refused::MustBeSealed) => return Err(self.must_be_sealed(&info).into()),
                Err(refused) => {
                    info = self.follow_bucket(&info, &refused, deadline).await?.ok_or_else(no_such)?;
                }
            }
        }
        Err(Unavailable::Unsettled.into())
    }

    pub async fn upload_part(&self, request: UploadPart) -> Result<UploadedPart, UploadPartError> {
        let UploadPart { bucket, key, upload, number, customer_key, body } = request;
        let to = self.place_of_part(&bucket, key, upload, number, customer_key.as_ref()).await?;
        self.take_part_in(to, body).await
    }

    /// A part whose bytes come from another object, and which version of that. A whole object
    /// whose ETag is a part's ETag, the MD5 of its bytes, is taken as it lies there; otherwise
    /// the bytes are read and stored like any other's, though chunks that are there already are
    /// not stored twice.
    pub async fn upload_part_copy(
        &self,
        request: UploadPartCopy,
    ) -> Result<(UploadedPart, Option<VersionId>), UploadPartError> {
        let UploadPartCopy { source, bucket, key, upload, number, customer_key, digest } = request;
        let to = self.place_of_part(&bucket, key, upload, number, customer_key.as_ref()).await?;
        let shard = to.info.shard_of(to.key.as_bytes());
        // Before the source is read, so that a sweep in between is noticed at the commit.
        let epoch = self.recent_epoch(shard).await.map_err(|error| UploadPartError::Put(error.into()))?;
        let looked_up = self.look_up(&source, true).await.map_err(UploadPartError::Source)?;
        let opened = self.open_object(looked_up, &source).map_err(UploadPartError::Source)?;
        check_conditions(&source, &opened.info).map_err(UploadPartError::Source)?;
        let range = resolve_range(&source, &opened.info).map_err(UploadPartError::Source)?;
        let size = opened.info.size;
        if let Some(ByteRange::Between(_, last)) = source.range
            && last >= size
        {
            // A get would bring what there is; a part that is shorter than asked is a hole.
            return Err(UploadPartError::Source(GetObjectError::InvalidRange { size }));
        }
        let version = opened.info.version;
        let algorithm = to.checksum.unwrap_or(ChecksumAlgorithm::Crc64Nvme);
        let Opened { bucket: from, got, key: object_key, info } = opened;
        let in_the_clear = object_key.is_none() && to.sealing.is_none();
        let checksum = info.checksum.filter(|kept| kept.algorithm == algorithm && kept.parts == 0);
        let has_checksum = to.checksum.is_none() || checksum.is_some();
        let as_it_lies = in_the_clear
            && has_checksum
            && range == (0..size)
            && size <= BODY_BYTES_MAX
            && info.etag.parts == 0
            && got.version.content.manifest.storage() != Storage::Inline;
        if as_it_lies {
            let adopted = self.adopt(&from, &source.key, got, epoch).await;
            let adopted = adopted.map_err(|error| UploadPartError::Source(error.into()))?;
            let ingested = Ingested { checksum, ..adopted };
            let part = self.commit_part(to, ingested).await?;
            return Ok((UploadedPart { part, encryption: None }, version));
        }
        let length = range.end - range.start;
        let stream = self.body_of(&from, got, object_key, &source.key, range);
        let stream = stream.map_err(UploadPartError::Source)?;
        let mut body = PutBody::new(stream.map(|piece| piece.map_err(Into::into)).boxed());
        body.length = Some(length);
        body.digests.push(digest(algorithm));
        let part = self.take_part_in(to, body).await?;
        Ok((part, version))
    }

    async fn take_part_in(&self, to: PlaceOfPart, body: PutBody) -> Result<UploadedPart, UploadPartError> {
        let encryption = to.sealing.as_ref().map(|part| part.sealing.seal.kind());
        let stream = to.sealing.as_ref().map(|part| part.sealing.key.part_stream(to.number, &part.salt));
        let shard = to.info.shard_of(to.key.as_bytes());
        let ingested = self.ingest(shard, body, false, stream).await.map_err(UploadPartError::Put)?;
        let part = self.commit_part(to, ingested).await?;
        Ok(UploadedPart { part, encryption })
    }

    /// Where a part is to go, and how it is sealed there: a client should hear of a wrong number,
    /// upload id or key before it has sent 5 GiB.
    async fn place_of_part(
        &self,
        bucket: &BucketName,
        key: ObjectKey,
        upload: UploadId,
        number: u16,
        customer_key: Option<&CustomerKey>,
    ) -> Result<PlaceOfPart, UploadPartError> {
        if !(1..=PARTS_MAX).contains(&number) {
            return Err(UploadPartError::InvalidPartNumber { max: PARTS_MAX });
        }
        match self.list_parts_in(bucket, &key, upload, 0, 0).await {
            Ok((info, PartPage { checksum, .. }, seal)) => {
                let opened = self.open_seal(seal.as_ref(), customer_key, &key);
                let opened =
                    opened.map_err(|error| UploadPartError::Put(PutObjectError::Encryption(error)))?;
                let sealing = opened.zip(seal).map(|(key, seal)| {
                    let salt = PartSalt::draw(&mut self.inner.runtime.rng());
                    PartSealing { sealing: Sealing { seal, key }, salt }
                });
                Ok(PlaceOfPart { info, key, upload, number, checksum, sealing })
            }
            Err(UploadError::NoSuchUpload) => Err(UploadPartError::NoSuchUpload),
            Err(UploadError::NoSuchBucket(name)) => {
                Err(UploadPartError::Put(PutObjectError::NoSuchBucket(name)))
            }
            Err(UploadError::Encryption(error)) => {
                Err(UploadPartError::Put(PutObjectError::Encryption(error)))
            }
            Err(UploadError::Unavailable(error)) => Err(UploadPartError::Put(error.into())),
        }
    }

    /// `ingested` is sealed already, but for its checksum.
    async fn commit_part(
        &self,
        to: PlaceOfPart,
        mut ingested: Ingested,
    ) -> Result<PartInfo, UploadPartError> {
        let PlaceOfPart { info, key, upload, number, sealing, .. } = to;
        let etag = ETag { md5: etag_md5(sealing.as_ref().map(|part| &part.sealing), ingested.md5), parts: 0 };
        let checksum = match (&sealing, &ingested.checksum) {
            (Some(part), Some(checksum)) => Some(part.sealing.key.seal_checksum(self, checksum)),
            (_, checksum) => checksum.clone(),
        };
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
                        etag,
                        checksum: checksum.clone(),
                        content,
                    };
                    let id = self.inner.runtime.transaction_id();
                    let done = match &sealing {
                        None => self.execute(shard, id, &upload::PUT_PART, part, deadline).await,
                        Some(PartSealing { salt, .. }) => {
                            let part = upload::PutSealedPart { part, salt: *salt };
                            self.execute(shard, id, &upload::PUT_SEALED_PART, part, deadline).await
                        }
                    };
                    match done.map_err(failed)? {
                        Ok(info) => return Ok(PartInfo { checksum: ingested.checksum, ..info }),
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

    pub async fn list_parts(&self, request: ListParts) -> Result<ListedParts, UploadError> {
        let ListParts { bucket, key, upload, after, limit, customer_key } = request;
        let (_, mut page, seal) = self.list_parts_in(&bucket, &key, upload, after, limit).await?;
        let encryption = seal.as_ref().map(Seal::kind);
        let checksums_sealed = encryption == Some(EncryptionKind::Customer) && customer_key.is_none();
        if checksums_sealed {
            page.parts.iter_mut().for_each(|part| part.checksum = None);
        } else if let Some(key) = self.open_seal(seal.as_ref(), customer_key.as_ref(), &key)? {
            open_checksums(&key, &mut page.parts)?;
        }
        Ok(ListedParts { page, encryption, checksums_sealed })
    }

    /// With the checksums as they lie there, and how the upload is sealed.
    async fn list_parts_in(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        upload: UploadId,
        after: u16,
        limit: usize,
    ) -> Result<(Arc<BucketInfo>, PartPage, Option<Seal>), UploadError> {
        let no_such = || UploadError::NoSuchBucket(bucket.clone());
        let deadline = self.deadline();
        let mut info = self.bucket(bucket, deadline).await?.ok_or_else(no_such)?;
        let may_be_sealed = self.has_version(ENCRYPTION_SINCE, deadline).await?;
        for _ in 0..BUCKET_ATTEMPTS {
            let ask = upload::PartList {
                upload: Upload { bucket: info.id, key: key.clone(), upload },
                after,
                limit: limit.min(list::PAGE_LIMIT_MAX) as u32,
            };
            let shard = info.shard_of(key.as_bytes());
            let found = match may_be_sealed {
                true => self.query(shard, &upload::LIST_SEALED_PARTS, ask, deadline).await?,
                false => {
                    let found = self.query(shard, &upload::LIST_PARTS, ask, deadline).await?;
                    found.map(|page| (page, None))
                }
            };
            match found {
                Ok((page, seal)) => return Ok((info, page, seal)),
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

    /// Makes the parts one object. Asked again for the same upload, it answers the same, but
    /// for what is sealed with the upload: the checksum, and how it is encrypted.
    pub async fn complete_upload(&self, request: CompleteUpload) -> Result<PutResult, CompleteUploadError> {
        let CompleteUpload { bucket, key, upload, parts, conditions, checksum, customer_key } = request;
        if parts.is_empty() || parts.len() > usize::from(PARTS_MAX) {
            return Err(CompleteUploadError::InvalidPartList);
        }
        if !parts.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(CompleteUploadError::InvalidPartOrder);
        }
        let no_such = || CompleteUploadError::NoSuchBucket(bucket.clone());
        let deadline: Instant = self.deadline();
        let mut info = self.bucket(&bucket, deadline).await?.ok_or_else(no_such)?;
        let (stored, encryption) = match &checksum {
            None => (None, None),
            Some(plain) => self.whole_checksum(&bucket, &key, upload, plain, customer_key.as_ref()).await?,
        };
        let id = self.inner.runtime.transaction_id();
        for attempt in 0..BUCKET_ATTEMPTS {
            let complete = upload::Complete {
                upload: Upload { bucket: info.id, key: key.clone(), upload },
                parts: parts.clone(),
                conditions: conditions.clone(),
                checksum: stored.clone(),
            };
            let (shard, id) = (info.shard_of(key.as_bytes()), attempt_id(id, attempt));
            match self.execute(shard, id, &upload::COMPLETE, complete, deadline).await? {
                Ok(written) => {
                    self.inner.runtime.fault_point("objects: an upload is complete, nobody is told").await;
                    let result = PutResult::from(written);
                    return Ok(match encryption {
                        None => result,
                        Some(_) => PutResult { checksum, encryption, ..result },
                    });
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

    /// The checksum of the whole as it is to lie in the record, and how the object is
    /// encrypted.
    async fn whole_checksum(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        upload: UploadId,
        plain: &Checksum,
        customer: Option<&CustomerKey>,
    ) -> Result<(Option<Checksum>, Option<EncryptionKind>), CompleteUploadError> {
        let seal = match self.list_parts_in(bucket, key, upload, 0, 0).await {
            Ok((_, _, seal)) => seal,
            // Complete already, perhaps: the commit knows.
            Err(UploadError::NoSuchUpload | UploadError::NoSuchBucket(_)) => return Ok((None, None)),
            Err(UploadError::Encryption(error)) => return Err(error.into()),
            Err(UploadError::Unavailable(error)) => return Err(error.into()),
        };
        let Some(seal) = seal else { return Ok((Some(plain.clone()), None)) };
        let opened = self.open_seal(Some(&seal), customer, key)?;
        Ok((opened.map(|opened| opened.seal_checksum(self, plain)), Some(seal.kind())))
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
