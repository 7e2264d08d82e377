//! DELETE, of one key or of many.

use std::{collections::BTreeMap, sync::Arc};

use atoll_types::ShardId;

use crate::{
    conditions::{FailedCondition, WriteConditions},
    error::{DeleteObjectError, Unavailable},
    names::{BucketName, ObjectKey},
    objects::{BUCKET_ATTEMPTS, Objects},
    put::attempt_id,
    request::{BucketInfo, DeleteObject, Deleted, DeletedMany},
    shard::object::{self, Removal},
};

impl From<Removal> for Result<Deleted, DeleteObjectError> {
    fn from(removal: Removal) -> Self {
        match removal {
            Removal::Removed => Ok(Deleted { existed: true }),
            Removal::Absent => Ok(Deleted { existed: false }),
            Removal::Condition(FailedCondition::NoSuchKey) => Err(DeleteObjectError::NoSuchKey),
            Removal::Condition(FailedCondition::PreconditionFailed) => {
                Err(DeleteObjectError::PreconditionFailed)
            }
        }
    }
}

impl Objects {
    pub async fn delete(&self, request: DeleteObject) -> Result<Deleted, DeleteObjectError> {
        let DeleteObject { bucket, key, conditions, idempotency } = request;
        let id = idempotency.unwrap_or_else(|| self.inner.runtime.transaction_id());
        let removals = self.delete_keys(&bucket, vec![(key, conditions)], id).await?;
        removals.into_iter().next().map_or(Ok(Deleted { existed: false }), |(_, removal)| removal.into())
    }

    /// Deletes up to 1,000 keys, in one command per shard.
    pub async fn delete_many(
        &self,
        bucket: &BucketName,
        keys: Vec<ObjectKey>,
    ) -> Result<DeletedMany, DeleteObjectError> {
        let keys = keys.into_iter().map(|key| (key, WriteConditions::default())).collect();
        let id = self.inner.runtime.transaction_id();
        let removals = self.delete_keys(bucket, keys, id).await?;
        Ok(removals.into_iter().map(|(key, removal)| (key, removal.into())).collect())
    }

    async fn delete_keys(
        &self,
        bucket: &BucketName,
        keys: Vec<(ObjectKey, WriteConditions)>,
        id: atoll_types::TransactionId,
    ) -> Result<Vec<(ObjectKey, Removal)>, DeleteObjectError> {
        let no_such = || DeleteObjectError::NoSuchBucket(bucket.clone());
        let deadline = self.deadline();
        let mut info = self.bucket(bucket, deadline).await?.ok_or_else(no_such)?;
        // By its place in the request, so that the answers come in that order.
        let mut removals: BTreeMap<usize, Removal> = BTreeMap::new();
        for attempt in 0..BUCKET_ATTEMPTS {
            let mut refused = None;
            for (shard, at) in by_shard(&info, &keys, &removals) {
                let asked = at.iter().map(|at| keys[*at].clone()).collect();
                let delete = object::Delete { bucket: info.id, keys: asked };
                let id = attempt_id(id, attempt * keys.len().max(1) + at[0]);
                match self.execute(shard, id, &object::DELETE, delete, deadline).await? {
                    Ok(done) => removals.extend(at.into_iter().zip(done)),
                    Err(no) => refused = Some(no),
                }
            }
            match refused {
                None => {
                    return Ok(keys.into_iter().map(|(key, _)| key).zip(removals.into_values()).collect());
                }
                Some(no) => info = self.follow_bucket(&info, &no, deadline).await?.ok_or_else(no_such)?,
            }
        }
        Err(Unavailable::Unsettled.into())
    }
}

/// The keys not yet done, by the shard that keeps them.
fn by_shard(
    info: &Arc<BucketInfo>,
    keys: &[(ObjectKey, WriteConditions)],
    done: &BTreeMap<usize, Removal>,
) -> BTreeMap<ShardId, Vec<usize>> {
    let mut shards: BTreeMap<ShardId, Vec<usize>> = BTreeMap::new();
    for (at, (key, _)) in keys.iter().enumerate() {
        if !done.contains_key(&at) {
            shards.entry(info.shard_of(key.as_bytes())).or_default().push(at);
        }
    }
    shards
}
