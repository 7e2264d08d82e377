//! A bucket's versioning, listings of versions, and what may be asked of a cluster that
//! is being upgraded.

use atoll_types::Instant;

use crate::{
    error::{HeadBucketError, ListObjectsError, Unavailable},
    names::{BucketName, VersionId},
    objects::{BUCKET_ATTEMPTS, Objects},
    request::{ListVersions, VersionPage, Versioning},
    shard::{bucket, list, version},
};

/// From this cluster version on there are versions, and settings of buckets: a shard may be asked for what replicas
/// of older programs do not know (rule 18).
pub const VERSIONS_SINCE: u32 = 3;

/// What a version id means before a shard is asked.
pub(crate) enum Named {
    Newest,
    /// There can be no such version.
    Nothing,
    Version(VersionId),
}

impl Objects {
    /// The cluster's version, once this node has heard it.
    async fn cluster_version(&self, deadline: Instant) -> Result<u32, Unavailable> {
        let mut version = self.inner.cluster_version.clone();
        let heard = version.wait_for(|version| *version > 0);
        match self.inner.runtime.timeout_at(deadline, heard).await {
            Ok(Ok(version)) => Ok(*version),
            _ => Err(Unavailable::Upgrading { has: 0, needs: VERSIONS_SINCE }),
        }
    }

    /// Refuses what some member of the cluster does not know yet.
    pub(crate) async fn needs_version(&self, needs: u32, deadline: Instant) -> Result<(), Unavailable> {
        let has = self.cluster_version(deadline).await?;
        if has < needs { Err(Unavailable::Upgrading { has, needs }) } else { Ok(()) }
    }

    pub(crate) async fn has_version(&self, needs: u32, deadline: Instant) -> Result<bool, Unavailable> {
        Ok(self.cluster_version(deadline).await? >= needs)
    }

    /// While the cluster has no versions yet, an object is its own `null` version, and there
    /// is no other.
    pub(crate) async fn named_version(
        &self,
        version: Option<VersionId>,
        deadline: Instant,
    ) -> Result<Named, Unavailable> {
        let Some(version) = version else { return Ok(Named::Newest) };
        if self.has_version(VERSIONS_SINCE, deadline).await? {
            return Ok(Named::Version(version));
        }
        Ok(if version == VersionId::Null { Named::Newest } else { Named::Nothing })
    }

    pub async fn versioning(&self, bucket: &BucketName) -> Result<Versioning, HeadBucketError> {
        let no_such = || HeadBucketError::NoSuchBucket(bucket.clone());
        let deadline = self.deadline();
        if !self.has_version(VERSIONS_SINCE, deadline).await? {
            self.head_bucket(bucket).await?;
            return Ok(Versioning::Unset);
        }
        let versioning = self.ask_bucket(bucket, &bucket::VERSIONING, |bucket| bucket, deadline).await?;
        versioning.ok_or_else(no_such)
    }

    /// Holds for every write that is committed after it. `Unset` can't be set.
    pub async fn set_versioning(
        &self,
        bucket: &BucketName,
        versioning: Versioning,
    ) -> Result<(), HeadBucketError> {
        let no_such = || HeadBucketError::NoSuchBucket(bucket.clone());
        let deadline = self.deadline();
        self.needs_version(VERSIONS_SINCE, deadline).await?;
        let set = |bucket| bucket::SetVersioning { bucket, versioning };
        let done = self.tell_bucket(bucket, &bucket::SET_VERSIONING, set, deadline).await?;
        done.ok_or_else(no_such)
    }

    /// One page, read at one moment.
    pub async fn list_versions(&self, request: ListVersions) -> Result<VersionPage, ListObjectsError> {
        let no_such = || ListObjectsError::NoSuchBucket(request.bucket.clone());
        let deadline = self.deadline();
        self.needs_version(VERSIONS_SINCE, deadline).await?;
        let mut info = self.bucket(&request.bucket, deadline).await?.ok_or_else(no_such)?;
        for _ in 0..BUCKET_ATTEMPTS {
            let from = match &request.after {
                Some((after, _)) if *after > request.prefix => after,
                _ => &request.prefix,
            };
            let ask = version::VersionList {
                bucket: info.id,
                prefix: request.prefix.clone(),
                delimiter: request.delimiter.clone(),
                after: request.after.clone(),
                limit: request.limit.min(list::PAGE_LIMIT_MAX) as u32,
            };
            match self.query(info.shard_of(from), &version::LIST, ask, deadline).await? {
                Ok(page) => return Ok(page),
                Err(refused) => {
                    info = self.follow_bucket(&info, &refused, deadline).await?.ok_or_else(no_such)?;
                }
            }
        }
        Err(Unavailable::Unsettled.into())
    }
}
