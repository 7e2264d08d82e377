//! COPY: the source read at one version, its chunks stamped for the destination (rule
//! 9), and a commit there with the destination's conditions. No byte of a chunk moves.

use crate::{
    error::{CopyObjectError, GetObjectError, PutObjectError},
    get::LookedUp,
    ingest::{BODY_BYTES_MAX, Ingested, IngestedContent},
    manifest::Manifest,
    objects::Objects,
    put::NewObject,
    request::{Copied, CopyObject, GetObject},
    shard::object::Got,
};

impl Objects {
    pub async fn copy(&self, request: CopyObject) -> Result<Copied, CopyObjectError> {
        let CopyObject {
            source_bucket,
            source_key,
            source_version,
            source_conditions,
            bucket,
            key,
            conditions,
            headers,
            idempotency,
        } = request;
        let no_such = || CopyObjectError::Destination(PutObjectError::NoSuchBucket(bucket.clone()));
        let destination = self
            .bucket(&bucket, self.deadline())
            .await
            .map_err(|error| CopyObjectError::Destination(error.into()))?
            .ok_or_else(no_such)?;
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
        };
        let LookedUp { bucket: source, got, info } =
            self.look_up(&get, true).await.map_err(CopyObjectError::Source)?;
        let Got { version, inline, .. } = got;
        crate::get::check_conditions(&get, &info).map_err(CopyObjectError::Source)?;
        if version.size > BODY_BYTES_MAX {
            return Err(CopyObjectError::Destination(PutObjectError::EntityTooLarge { max: BODY_BYTES_MAX }));
        }
        let content = match (version.manifest, inline) {
            (Manifest::Inline, Some(bytes)) => IngestedContent::Inline(bytes),
            (manifest, _) => {
                let from = source.shard_of(get.key.as_bytes());
                let source_failed = |error| CopyObjectError::Source(GetObjectError::Unavailable(error));
                let chunks =
                    self.all_chunks(source.id, from, manifest, version.size).await.map_err(source_failed)?;
                self.stamp_chunks(&chunks, epoch).await.map_err(source_failed)?;
                IngestedContent::Chunks { chunks, epoch }
            }
        };
        let new = NewObject {
            key,
            conditions,
            headers: headers.unwrap_or(version.headers),
            etag: version.etag,
            ingested: Ingested {
                content,
                size: version.size,
                md5: version.etag.md5,
                checksum: version.checksum,
            },
            idempotency,
        };
        let put = self.commit_object(destination, new).await.map_err(CopyObjectError::Destination)?;
        Ok(Copied { put, source_version: info.version })
    }
}
