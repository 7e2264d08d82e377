//! Buckets: a name in shard 0 and a descriptor in a data shard, made and unmade in
//! idempotent steps (rule 13).
//!
//! ```text
//! create   reserve the name (shard 0)  →  open the descriptor (data shard)
//! delete   seal the descriptor if nothing is in it  →  abort uploads
//!          →  free the name (shard 0)  →  mark the descriptor freed
//! ```
//!
//! A bucket exists from the reservation on. Whoever stops half-way leaves a state that
//! the next operation on the bucket recognises and finishes.

use std::sync::Arc;

use atoll_types::{Instant, ShardId};

use crate::{
    error::{CreateBucketError, DeleteBucketError, HeadBucketError, Unavailable},
    names::BucketName,
    objects::{BUCKET_ATTEMPTS, Objects, unexpected},
    request::BucketInfo,
    shard::{Refused, bucket, list, name, upload},
};

/// Names per query of a list of all buckets: 1,000 of about 150 bytes.
const NAMES_PER_PAGE: u32 = 1000;

impl Objects {
    /// Creates a bucket; the second creation by the same owner is an error that says so.
    pub async fn create_bucket(
        &self,
        bucket: &BucketName,
        owner: &str,
    ) -> Result<Arc<BucketInfo>, CreateBucketError> {
        let deadline = self.deadline();
        for _ in 0..BUCKET_ATTEMPTS {
            let reserve = name::Reserve {
                name: bucket.clone(),
                owner: owner.to_owned(),
                data_shards: self.inner.holders.layout().settings().data_shards,
            };
            let id = self.inner.runtime.transaction_id();
            let reserved = self
                .execute(ShardId::META, id, &name::RESERVE, reserve, deadline)
                .await?
                .map_err(unexpected)?;
            let name::Reserved { bucket: info, fresh } = reserved;
            match self.open_bucket(&info, deadline).await? {
                Ok(()) if fresh => {
                    return self
                        .look_up_bucket(bucket, deadline)
                        .await?
                        .ok_or(CreateBucketError::Unavailable(Unavailable::Unsettled));
                }
                Ok(()) if info.owner == owner => {
                    return Err(CreateBucketError::AlreadyOwnedByYou(bucket.clone()));
                }
                Ok(()) => return Err(CreateBucketError::AlreadyExists(bucket.clone())),
                // Somebody was deleting it: finish that, then the name is free.
                Err(Refused::SealedBucket | Refused::FreedBucket) => {
                    self.free_bucket(&info, deadline).await?
                }
                Err(refused) => return Err(unexpected(refused).into()),
            }
        }
        Err(Unavailable::Unsettled.into())
    }

    /// Deletes an empty bucket, with the uploads that were never completed.
    pub async fn delete_bucket(&self, bucket: &BucketName) -> Result<(), DeleteBucketError> {
        let deadline = self.deadline();
        let no_such = || DeleteBucketError::NoSuchBucket(bucket.clone());
        let mut info = self.bucket(bucket, deadline).await?.ok_or_else(no_such)?;
        for _ in 0..BUCKET_ATTEMPTS {
            // One range, one shard, so emptiness and the seal are one commit. A bucket of
            // several ranges will seal each, and unseal what it sealed if one is not empty.
            let [range] = &info.ranges[..] else { return Err(Unavailable::Unsettled.into()) };
            let id = self.inner.runtime.transaction_id();
            match self.execute(range.shard, id, &bucket::SEAL, info.id, deadline).await? {
                Ok(()) => return Ok(self.free_bucket(&info, deadline).await?),
                Err(Refused::NotEmpty) => return Err(DeleteBucketError::NotEmpty(bucket.clone())),
                Err(refused) => {
                    info = self.follow_bucket(&info, &refused, deadline).await?.ok_or_else(no_such)?;
                }
            }
        }
        Err(Unavailable::Unsettled.into())
    }

    /// The rest of a deletion, from the seal on.
    pub(crate) async fn free_bucket(&self, info: &BucketInfo, deadline: Instant) -> Result<(), Unavailable> {
        for range in &info.ranges {
            self.abort_all_uploads(info, range.shard, deadline).await?;
        }
        let free = name::Free { name: info.name.clone(), bucket: info.id };
        let id = self.inner.runtime.transaction_id();
        self.execute(ShardId::META, id, &name::FREE, free, deadline).await?.map_err(unexpected)?;
        self.forget_bucket(&info.name);
        for range in &info.ranges {
            let id = self.inner.runtime.transaction_id();
            self.execute(range.shard, id, &bucket::FREE, info.id, deadline).await?.map_err(unexpected)?;
        }
        Ok(())
    }

    async fn abort_all_uploads(
        &self,
        info: &BucketInfo,
        shard: ShardId,
        deadline: Instant,
    ) -> Result<(), Unavailable> {
        loop {
            let ask = list::UploadList {
                bucket: info.id,
                prefix: Default::default(),
                delimiter: None,
                after: None,
                limit: list::PAGE_LIMIT_MAX as u32,
            };
            let page = match self.query(shard, &list::UPLOADS, ask, deadline).await? {
                Ok(page) => page,
                // Freed, or never opened: there is nothing.
                Err(_) => return Ok(()),
            };
            if page.uploads.is_empty() {
                return Ok(());
            }
            for found in page.uploads {
                let upload = upload::Upload { bucket: info.id, key: found.key, upload: found.upload };
                let id = self.inner.runtime.transaction_id();
                // Another finisher may have been faster.
                let _aborted = self.execute(shard, id, &upload::ABORT, upload, deadline).await?;
            }
        }
    }

    pub async fn head_bucket(&self, bucket: &BucketName) -> Result<Arc<BucketInfo>, HeadBucketError> {
        self.look_up_bucket(bucket, self.deadline())
            .await?
            .ok_or_else(|| HeadBucketError::NoSuchBucket(bucket.clone()))
    }

    /// All buckets, by name.
    pub async fn list_buckets(&self) -> Result<Vec<BucketInfo>, Unavailable> {
        let deadline = self.deadline();
        let mut buckets: Vec<BucketInfo> = Vec::new();
        loop {
            let after = buckets.last().map(|bucket| bucket.name.clone());
            let names = name::Names { after, limit: NAMES_PER_PAGE };
            let page = self.query(ShardId::META, &name::LIST, names, deadline).await?.map_err(unexpected)?;
            let full = page.len() == NAMES_PER_PAGE as usize;
            buckets.extend(page);
            if !full {
                return Ok(buckets);
            }
        }
    }
}
