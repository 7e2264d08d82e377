//! COPY: the source read at one version, its chunks stamped for the destination (rule
//! 9), and a commit there with the destination's conditions. No byte of a chunk moves, unless
//! either side is encrypted: then they are opened and sealed anew.

use atoll_types::ShardId;
use futures_util::StreamExt;

use crate::{
    encryption::{EncryptionKind, Sealing},
    error::{CopyObjectError, GetObjectError, PutObjectError, Unavailable},
    get::Opened,
    ingest::{BODY_BYTES_MAX, Ingested, IngestedContent},
    manifest::Manifest,
    names::ObjectKey,
    object::{ETag, ObjectHeaders, ObjectInfo},
    objects::Objects,
    put::{NewObject, etag_md5},
    request::{BucketInfo, Copied, CopyObject, GetObject, PutBody},
    shard::{object::Got, records::VersionRecord},
};

impl Objects {
    pub async fn copy(&self, request: CopyObject) -> Result<Copied, CopyObjectError> {
        let CopyObject {
            source_bucket,
            source_key,
            source_version,
            source_conditions,
            source_customer_key,
            bucket,
            key,
            conditions,
            encryption,
            headers,
            acl,
            idempotency,
        } = request;
        let no_such = || CopyObjectError::Destination(PutObjectError::NoSuchBucket(bucket.clone()));
        let deadline = self.deadline();
        let destination = self
            .bucket(&bucket, deadline)
            .await
            .map_err(|error| CopyObjectError::Destination(error.into()))?
            .ok_or_else(no_such)?;
        let (destination, sealing) = self
            .sealing(destination, &key, encryption.as_ref(), deadline)
            .await
            .map_err(|error| CopyObjectError::Destination(error.into()))?;
        if acl.is_some() {
            self.knows_acls().await.map_err(|error| CopyObjectError::Destination(error.into()))?;
        }
        // The source's ACL is not copied.
        let headers_of = |source| ObjectHeaders { acl, ..headers.unwrap_or(source) };
        let shard = destination.shard_of(key.as_bytes());
        // Before the source is read, so that a sweep in between is noticed at the commit.
        let epoch =
            self.recent_epoch(shard).await.map_err(|error| CopyObjectError::Destination(error.into()))?;

        let get = GetObject {
            bucket: source_bucket,
            key: source_key,
            version: source_version,
            range: None,
            conditions: source_conditions,
            customer_key: source_customer_key,
        };
        let looked_up = self.look_up(&get, true).await.map_err(CopyObjectError::Source)?;
        let opened = self.open_object(looked_up, &get).map_err(CopyObjectError::Source)?;
        crate::get::check_conditions(&get, &opened.info).map_err(CopyObjectError::Source)?;
        let source_version = opened.info.version;
        if opened.key.is_some() || sealing.is_some() {
            let (source, ingested) = self.take_in_again(shard, opened, &get.key, sealing.as_ref()).await?;
            let is_customers = |kind: Option<EncryptionKind>| kind == Some(EncryptionKind::Customer);
            let kind = sealing.as_ref().map(|sealing| sealing.seal.kind());
            // The source's own, as in a copy in the clear, unless a customer's key hides it.
            let etag = match is_customers(source.encryption) || is_customers(kind) {
                true => ETag { md5: etag_md5(sealing.as_ref(), ingested.md5), parts: 0 },
                false => source.etag,
            };
            let ingested = Ingested { checksum: source.checksum, ..ingested };
            let headers = headers_of(source.headers);
            let new = NewObject { key, conditions, headers, etag, ingested, sealing, idempotency };
            let put = self.commit_object(destination, new).await.map_err(CopyObjectError::Destination)?;
            return Ok(Copied { put, source_version });
        }
        let Opened { bucket: source, got, .. } = opened;
        if got.version.size > BODY_BYTES_MAX {
            return Err(CopyObjectError::Destination(PutObjectError::EntityTooLarge { max: BODY_BYTES_MAX }));
        }
        let headers = headers_of(got.version.headers.clone());
        let etag = got.version.etag;
        let adopted = self.adopt(&source, &get.key, got, epoch).await;
        let ingested =
            adopted.map_err(|error| CopyObjectError::Source(GetObjectError::Unavailable(error)))?;
        let new = NewObject { key, conditions, headers, etag, ingested, sealing: None, idempotency };
        let put = self.commit_object(destination, new).await.map_err(CopyObjectError::Destination)?;
        Ok(Copied { put, source_version })
    }

    /// What an object in the clear is made of, for another object or a part: its chunks are
    /// stamped for there with `epoch` (rule 9), which was read before the object was.
    pub(crate) async fn adopt(
        &self,
        source: &BucketInfo,
        key: &ObjectKey,
        Got { version, inline, .. }: Got,
        epoch: u64,
    ) -> Result<Ingested, Unavailable> {
        let content = match (version.content.manifest, inline) {
            (Manifest::Inline, Some(bytes)) => IngestedContent::Inline(bytes),
            (manifest, _) => {
                let from = source.shard_of(key.as_bytes());
                let chunks = self.all_chunks(source.id, from, manifest, version.size).await?;
                self.stamp_chunks(&chunks, epoch).await?;
                IngestedContent::Chunks { chunks, epoch, sealed: false }
            }
        };
        let VersionRecord { size, etag, checksum, .. } = version;
        Ok(Ingested { content, size, md5: etag.md5, checksum })
    }

    /// The source's bytes, read and stored anew; and what it was.
    async fn take_in_again(
        &self,
        shard: ShardId,
        opened: Opened,
        source: &ObjectKey,
        sealing: Option<&Sealing>,
    ) -> Result<(ObjectInfo, Ingested), CopyObjectError> {
        let Opened { bucket, got, info, key } = opened;
        let size = info.size;
        if size > BODY_BYTES_MAX {
            return Err(CopyObjectError::Destination(PutObjectError::EntityTooLarge { max: BODY_BYTES_MAX }));
        }
        let stream = self.body_of(&bucket, got, key, source, 0..size).map_err(CopyObjectError::Source)?;
        let mut body = PutBody::new(stream.map(|piece| piece.map_err(Into::into)).boxed());
        body.length = Some(size);
        let key = sealing.map(|sealing| sealing.key.object_stream());
        let ingested = self.ingest(shard, body, true, key).await.map_err(CopyObjectError::Destination)?;
        Ok((info, ingested))
    }
}
