//! DELETE, of one key or of many.

use std::{collections::BTreeMap, sync::Arc};

use atoll_types::{ShardId, TransactionId};

use crate::{
    conditions::FailedCondition,
    error::{DeleteObjectError, Unavailable},
    names::{BucketName, VersionId},
    objects::{BUCKET_ATTEMPTS, Objects},
    put::attempt_id,
    request::{BucketInfo, DeleteKey, DeleteObject, Deleted, DeletedMany},
    shard::{
        object::{self, Removal},
        version::{self, VersionRemoval},
    },
    versions::Named,
};

type DeletedOne = Result<Deleted, FailedCondition>;

fn of_removal(removal: Removal) -> DeletedOne {
    match removal {
        Removal::Removed => Ok(Deleted { existed: true, ..Deleted::default() }),
        Removal::Absent => Ok(Deleted::default()),
        Removal::Marked { version, existed } => Ok(Deleted { existed, version: Some(version), marker: true }),
        Removal::Condition(failed) => Err(failed),
    }
}

fn of_version_removal(version: VersionId, removal: VersionRemoval) -> DeletedOne {
    let version = Some(version);
    match removal {
        VersionRemoval::Removed { marker } => Ok(Deleted { existed: true, version, marker }),
        VersionRemoval::Absent => Ok(Deleted { existed: false, version, marker: false }),
        VersionRemoval::Condition(failed) => Err(failed),
    }
}

impl From<FailedCondition> for DeleteObjectError {
    fn from(failed: FailedCondition) -> Self {
        match failed {
            FailedCondition::NoSuchKey => DeleteObjectError::NoSuchKey,
            FailedCondition::PreconditionFailed => DeleteObjectError::PreconditionFailed,
        }
    }
}

/// What one shard is asked in one command: keys, or versions of keys.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Ask {
    shard: ShardId,
    by_version: bool,
}

impl Objects {
    pub async fn delete(&self, request: DeleteObject) -> Result<Deleted, DeleteObjectError> {
        let DeleteObject { bucket, key, version, conditions, idempotency } = request;
        let id = idempotency.unwrap_or_else(|| self.inner.runtime.transaction_id());
        let deleted = self.delete_keys(&bucket, vec![DeleteKey { key, version, conditions }], id).await?;
        Ok(deleted.into_iter().next().unwrap_or(Ok(Deleted::default()))?)
    }

    /// Deletes up to 1,000 keys or versions, in one command per shard for each of both.
    pub async fn delete_many(
        &self,
        bucket: &BucketName,
        keys: Vec<DeleteKey>,
    ) -> Result<DeletedMany, DeleteObjectError> {
        let id = self.inner.runtime.transaction_id();
        let names: Vec<_> = keys.iter().map(|asked| asked.key.clone()).collect();
        let deleted = self.delete_keys(bucket, keys, id).await?;
        Ok(names.into_iter().zip(deleted).map(|(key, one)| (key, one.map_err(Into::into))).collect())
    }

    async fn delete_keys(
        &self,
        bucket: &BucketName,
        mut keys: Vec<DeleteKey>,
        id: TransactionId,
    ) -> Result<Vec<DeletedOne>, DeleteObjectError> {
        let no_such = || DeleteObjectError::NoSuchBucket(bucket.clone());
        let deadline = self.deadline();
        let mut info = self.bucket(bucket, deadline).await?.ok_or_else(no_such)?;
        // By its place in the request, so that the answers come in that order.
        let mut deleted: BTreeMap<usize, DeletedOne> = BTreeMap::new();
        for (at, asked) in keys.iter_mut().enumerate() {
            match self.named_version(asked.version, deadline).await? {
                Named::Version(_) => {}
                Named::Newest => asked.version = None,
                Named::Nothing => {
                    deleted.insert(at, Ok(Deleted { version: asked.version, ..Deleted::default() }));
                }
            }
        }
        for attempt in 0..BUCKET_ATTEMPTS {
            let mut refused = None;
            for (ask, at) in by_ask(&info, &keys, &deleted) {
                let id = attempt_id(id, attempt * keys.len().max(1) + at[0]);
                match self.delete_in(&info, ask, at.iter().map(|at| &keys[*at]), id, deadline).await? {
                    Ok(done) => deleted.extend(at.into_iter().zip(done)),
                    Err(no) => refused = Some(no),
                }
            }
            match refused {
                None => return Ok(deleted.into_values().collect()),
                Some(no) => info = self.follow_bucket(&info, &no, deadline).await?.ok_or_else(no_such)?,
            }
        }
        Err(Unavailable::Unsettled.into())
    }

    async fn delete_in(
        &self,
        info: &BucketInfo,
        ask: Ask,
        keys: impl Iterator<Item = &DeleteKey>,
        id: TransactionId,
        deadline: atoll_types::Instant,
    ) -> Result<Result<Vec<DeletedOne>, crate::shard::Refused>, Unavailable> {
        if !ask.by_version {
            let keys = keys.map(|asked| (asked.key.clone(), asked.conditions.clone())).collect();
            let delete = object::Delete { bucket: info.id, keys };
            let done = self.execute(ask.shard, id, &object::DELETE, delete, deadline).await?;
            return Ok(done.map(|done| done.into_iter().map(of_removal).collect()));
        }
        let named = |asked: &DeleteKey| {
            let version = asked.version.unwrap_or(VersionId::Null);
            (asked.key.clone(), version, asked.conditions.clone())
        };
        let versions: Vec<_> = keys.map(named).collect();
        let ids: Vec<VersionId> = versions.iter().map(|(_, version, _)| *version).collect();
        let delete = version::DeleteVersions { bucket: info.id, versions };
        let done = self.execute(ask.shard, id, &version::DELETE, delete, deadline).await?;
        Ok(done.map(|done| ids.into_iter().zip(done).map(|(id, one)| of_version_removal(id, one)).collect()))
    }
}

/// The keys not yet done, by whom to ask and how.
fn by_ask(
    info: &Arc<BucketInfo>,
    keys: &[DeleteKey],
    done: &BTreeMap<usize, DeletedOne>,
) -> BTreeMap<Ask, Vec<usize>> {
    let mut asks: BTreeMap<Ask, Vec<usize>> = BTreeMap::new();
    for (at, DeleteKey { key, version, .. }) in keys.iter().enumerate() {
        if !done.contains_key(&at) {
            let ask = Ask { shard: info.shard_of(key.as_bytes()), by_version: version.is_some() };
            asks.entry(ask).or_default().push(at);
        }
    }
    asks
}
