//! PUT: the body in, then one commit that makes it the object.

use std::sync::Arc;

use atoll_types::TransactionId;

use crate::{
    conditions::{FailedCondition, WriteConditions},
    encryption::{EncryptionKind, Sealing},
    error::{PutObjectError, Unavailable},
    ingest::{Ingested, IngestedContent},
    manifest::{ChunkRef, ROOT_CHUNKS_MAX, SEGMENT_CHUNKS_MAX},
    names::{ManifestId, ObjectKey},
    object::{ETag, ObjectHeaders},
    objects::{BUCKET_ATTEMPTS, Objects, unexpected},
    request::{BucketInfo, PutObject, PutResult},
    shard::{
        Refused,
        object::{self, Content},
        records::Written,
    },
};

/// How often a commit stamps its chunks again because a sweep overtook it. Sweeps are an
/// hour apart and stamping takes seconds.
const STAMP_ATTEMPTS: usize = 3;

impl From<Written> for PutResult {
    fn from(written: Written) -> Self {
        let Written { revision, modified, size, etag, checksum, version } = written;
        PutResult { etag, size, revision, modified, checksum, version, encryption: None }
    }
}

impl From<FailedCondition> for PutObjectError {
    fn from(failed: FailedCondition) -> Self {
        match failed {
            FailedCondition::NoSuchKey => PutObjectError::NoSuchKey,
            FailedCondition::PreconditionFailed => PutObjectError::PreconditionFailed,
        }
    }
}

/// The same id for the same attempt of the same request, another for the next attempt:
/// an attempt that was refused for good is remembered under its id.
pub(crate) fn attempt_id(id: TransactionId, attempt: usize) -> TransactionId {
    if attempt == 0 {
        return id;
    }
    let mut hasher = blake3::Hasher::new_derive_key("atoll objects: a later attempt of a transaction");
    hasher.update(id.as_bytes()).update(&(attempt as u64).to_be_bytes());
    let mut next = [0; 16];
    next.copy_from_slice(&hasher.finalize().as_bytes()[..16]);
    TransactionId(next)
}

/// What goes into the ETag: with a customer's key, nothing that tells of the bytes.
pub(crate) fn etag_md5(sealing: Option<&Sealing>, md5: [u8; 16]) -> [u8; 16] {
    match sealing {
        Some(Sealing { seal, key }) if seal.kind() == EncryptionKind::Customer => key.etag(md5),
        _ => md5,
    }
}

/// An object that only lacks its commit.
pub(crate) struct NewObject {
    pub key: ObjectKey,
    pub conditions: WriteConditions,
    pub headers: ObjectHeaders,
    pub etag: ETag,
    /// Sealed already, but for its checksum.
    pub ingested: Ingested,
    pub sealing: Option<Sealing>,
    pub idempotency: Option<TransactionId>,
}

impl Objects {
    pub async fn put(&self, request: PutObject) -> Result<PutResult, PutObjectError> {
        let PutObject { bucket, key, headers, conditions, idempotency, encryption, body } = request;
        self.knows_headers(&headers).await?;
        let no_such = || PutObjectError::NoSuchBucket(bucket.clone());
        let deadline = self.deadline();
        let info = self.bucket(&bucket, deadline).await?.ok_or_else(no_such)?;
        let (info, sealing) = self.sealing(info, &key, encryption.as_ref(), deadline).await?;
        let stream = sealing.as_ref().map(|sealing| sealing.key.object_stream());
        let ingested = self.ingest(info.shard_of(key.as_bytes()), body, true, stream).await?;
        let etag = ETag { md5: etag_md5(sealing.as_ref(), ingested.md5), parts: 0 };
        let new = NewObject { key, conditions, headers, etag, ingested, sealing, idempotency };
        self.commit_object(info, new).await
    }

    /// The commit, again with fresh stamps or at the bucket's new place where need be.
    pub(crate) async fn commit_object(
        &self,
        mut info: Arc<BucketInfo>,
        new: NewObject,
    ) -> Result<PutResult, PutObjectError> {
        let NewObject { key, conditions, headers, etag, mut ingested, sealing, idempotency } = new;
        let checksum = match (&sealing, &ingested.checksum) {
            (Some(sealing), Some(checksum)) => Some(sealing.key.seal_checksum(self, checksum)),
            (_, checksum) => checksum.clone(),
        };
        let name = info.name.clone();
        let id = idempotency.unwrap_or_else(|| self.inner.runtime.transaction_id());
        let deadline = self.deadline();
        for attempt in 0..BUCKET_ATTEMPTS + STAMP_ATTEMPTS {
            let refused = match self.content(&info, &key, &ingested.content).await? {
                Err(refused) => refused,
                Ok((content, epoch)) => {
                    let put = object::Put {
                        bucket: info.id,
                        key: key.clone(),
                        conditions: conditions.clone(),
                        epoch,
                        size: ingested.size,
                        etag,
                        headers: headers.clone(),
                        checksum: checksum.clone(),
                        content,
                    };
                    let shard = info.shard_of(key.as_bytes());
                    let id = attempt_id(id, attempt);
                    let here = "objects: an object's bytes are durable, its record is not committed";
                    self.inner.runtime.fault_point(here).await;
                    let written = match &sealing {
                        None => self.execute(shard, id, &object::PUT, put, deadline).await?,
                        Some(Sealing { seal, .. }) => {
                            let put = object::PutSealed { put, seal: seal.clone() };
                            self.execute(shard, id, &object::PUT_SEALED, put, deadline).await?
                        }
                    };
                    match (written, &sealing) {
                        (Err(refused), _) => refused,
                        (Ok(written), None) => return Ok(written.into()),
                        (Ok(written), Some(Sealing { seal, .. })) => {
                            let (checksum, encryption) = (ingested.checksum, Some(seal.kind()));
                            return Ok(PutResult { checksum, encryption, ..written.into() });
                        }
                    }
                }
            };
            match refused {
                Refused::Condition(failed) => return Err(failed.into()),
                Refused::StaleEpoch { .. } | Refused::NoSuchManifest => {
                    self.stamp_again(info.shard_of(key.as_bytes()), &mut ingested.content).await?;
                }
                // The bucket's encryption was turned on since: the client's next attempt seals.
                // To that one the answer to this is remembered under its first id.
                Refused::MustBeSealed if sealing.is_none() => {
                    return Err(self.must_be_sealed(&info).into());
                }
                Refused::MustBeSealed => {}
                refused => {
                    let next = self.follow_bucket(&info, &refused, deadline).await?;
                    info = next.ok_or_else(|| PutObjectError::NoSuchBucket(name.clone()))?;
                }
            }
        }
        Err(Unavailable::Unsettled.into())
    }

    /// The content as the commit names it; a long list of chunks is written as segments
    /// first. The outer error is that no answer came.
    pub(crate) async fn content(
        &self,
        info: &BucketInfo,
        key: &ObjectKey,
        ingested: &IngestedContent,
    ) -> Result<Result<(Content, u64), Refused>, Unavailable> {
        let (chunks, epoch, sealed) = match ingested {
            IngestedContent::Inline(bytes) => return Ok(Ok((Content::Inline(bytes.clone()), 0))),
            IngestedContent::Chunks { chunks, epoch, sealed } => (chunks, *epoch, *sealed),
        };
        if chunks.len() <= ROOT_CHUNKS_MAX {
            return Ok(Ok((Content::Chunks(chunks.clone()), epoch)));
        }
        let manifest = ManifestId(self.inner.runtime.transaction_id());
        let shard = info.shard_of(key.as_bytes());
        let mut sizes = Vec::new();
        for (number, segment) in chunks.chunks(SEGMENT_CHUNKS_MAX).enumerate() {
            let put = object::PutSegment {
                bucket: info.id,
                key: key.clone(),
                manifest,
                number: number as u32,
                epoch,
                chunks: segment.to_vec(),
            };
            let id = self.inner.runtime.transaction_id();
            // Each segment has its own time: 144 KiB through the log.
            let deadline = self.deadline();
            if let Err(refused) = self.execute(shard, id, &object::PUT_SEGMENT, put, deadline).await? {
                return Ok(Err(refused));
            }
            self.inner.runtime.fault_point("objects: a segment is committed, its root is not").await;
            sizes.push(segment.iter().map(|chunk: &ChunkRef| chunk.content_bytes(sealed)).sum());
        }
        Ok(Ok((Content::Segments { manifest, sizes }, epoch)))
    }

    /// Stamps the chunks with the shard's epoch of now, after a sweep overtook them.
    pub(crate) async fn stamp_again(
        &self,
        shard: atoll_types::ShardId,
        content: &mut IngestedContent,
    ) -> Result<(), Unavailable> {
        match content {
            IngestedContent::Inline(_) => Err(unexpected(Refused::NoSuchManifest)),
            IngestedContent::Chunks { chunks, epoch, .. } => {
                let now = self.reclaim_epoch(shard).await?;
                self.stamp_chunks(chunks, now).await?;
                self.inner.runtime.fault_point("objects: stamped again, not committed").await;
                *epoch = now;
                Ok(())
            }
        }
    }
}
