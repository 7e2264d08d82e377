//! What is set on buckets (tags, CORS, lifecycle), and the tags and ACLs of objects.

use std::collections::BTreeMap;

use atoll_types::Acl;
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    error::{GetObjectError, HeadBucketError, Unavailable},
    names::{BucketId, BucketName, ObjectKey, VersionId},
    object::{ObjectHeaders, ObjectInfo},
    objects::{BUCKET_ATTEMPTS, Objects},
    request::{BucketSetting, SettingKind},
    shard::{
        CommandName, Refused,
        setting::{self, Tagged},
    },
    versions::{Named, VERSIONS_SINCE},
};

/// From this cluster version on objects may have owners and ACLs, and buckets ownership controls.
pub const ACLS_SINCE: u32 = 5;

impl Objects {
    pub async fn bucket_setting(
        &self,
        bucket: &BucketName,
        kind: SettingKind,
    ) -> Result<Option<BucketSetting>, HeadBucketError> {
        let no_such = || HeadBucketError::NoSuchBucket(bucket.clone());
        let deadline = self.deadline();
        if !self.has_version(VERSIONS_SINCE, deadline).await? {
            self.head_bucket(bucket).await?;
            return Ok(None);
        }
        let get = |bucket| setting::Get { bucket, kind };
        self.ask_bucket(bucket, &setting::GET, get, deadline).await?.ok_or_else(no_such)
    }

    /// Sets it, or takes it away. It lies in the bucket's first range.
    pub async fn set_bucket_setting(
        &self,
        bucket: &BucketName,
        kind: SettingKind,
        setting: Option<BucketSetting>,
    ) -> Result<(), HeadBucketError> {
        let no_such = || HeadBucketError::NoSuchBucket(bucket.clone());
        let deadline = self.deadline();
        self.needs_version(VERSIONS_SINCE, deadline).await?;
        let mut info = self.bucket(bucket, deadline).await?.ok_or_else(no_such)?;
        for _ in 0..BUCKET_ATTEMPTS {
            let set = setting::Set { bucket: info.id, kind, setting: setting.clone() };
            let id = self.inner.runtime.transaction_id();
            match self.execute(info.shard_of(&[]), id, &setting::SET, set, deadline).await? {
                Ok(()) => return Ok(()),
                Err(refused) => {
                    info = self.follow_bucket(&info, &refused, deadline).await?.ok_or_else(no_such)?;
                }
            }
        }
        Err(Unavailable::Unsettled.into())
    }

    /// Replaces an object's tags; gives the version, if the bucket tells versions.
    pub async fn set_tags(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<VersionId>,
        tags: BTreeMap<String, String>,
    ) -> Result<Option<VersionId>, GetObjectError> {
        let deadline = self.deadline();
        self.needs_version(VERSIONS_SINCE, deadline).await?;
        if let Named::Nothing = self.named_version(version, deadline).await? {
            return Err(GetObjectError::NoSuchVersion);
        }
        let tag = |bucket| setting::Tag { bucket, key: key.clone(), version, tags: tags.clone() };
        self.change_object(bucket, key, &setting::TAG, tag).await
    }

    /// Replaces the ACL of the object that `looked_at` is; if it is another by now, or has
    /// another ACL, that is [`Unavailable::Unsettled`].
    pub async fn set_acl(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        version: Option<VersionId>,
        looked_at: &ObjectInfo,
        acl: Acl,
    ) -> Result<Option<VersionId>, GetObjectError> {
        self.knows_acls().await?;
        let set = |bucket| setting::SetAcl {
            bucket,
            key: key.clone(),
            version,
            revision: looked_at.revision,
            before: looked_at.headers.acl.clone(),
            acl: acl.clone(),
        };
        self.change_object(bucket, key, &setting::SET_ACL, set).await
    }

    /// Whether owners and ACLs may be written: all nodes know them.
    pub async fn knows_acls(&self) -> Result<(), Unavailable> {
        self.needs_version(ACLS_SINCE, self.deadline()).await
    }

    /// Refuses headers that not all nodes can read yet.
    pub(crate) async fn knows_headers(&self, headers: &ObjectHeaders) -> Result<(), Unavailable> {
        if headers.acl.is_some() { self.knows_acls().await } else { Ok(()) }
    }

    async fn change_object<I: Serialize + DeserializeOwned>(
        &self,
        bucket: &BucketName,
        key: &ObjectKey,
        command: &CommandName<I, Tagged>,
        input: impl Fn(BucketId) -> I,
    ) -> Result<Option<VersionId>, GetObjectError> {
        let no_such = || GetObjectError::NoSuchBucket(bucket.clone());
        let deadline = self.deadline();
        let mut info = self.bucket(bucket, deadline).await?.ok_or_else(no_such)?;
        for _ in 0..BUCKET_ATTEMPTS {
            let id = self.inner.runtime.transaction_id();
            let shard = info.shard_of(key.as_bytes());
            let refused: Refused = match self.execute(shard, id, command, input(info.id), deadline).await? {
                Ok(Tagged::Done { version }) => return Ok(version),
                Ok(Tagged::NoSuchKey) => return Err(GetObjectError::NoSuchKey),
                Ok(Tagged::NoSuchVersion) => return Err(GetObjectError::NoSuchVersion),
                Ok(Tagged::Marker { version, modified }) => {
                    return Err(GetObjectError::DeleteMarker { version, modified });
                }
                Ok(Tagged::Changed) => return Err(Unavailable::Unsettled.into()),
                Err(refused) => refused,
            };
            info = self.follow_bucket(&info, &refused, deadline).await?.ok_or_else(no_such)?;
        }
        Err(Unavailable::Unsettled.into())
    }
}
