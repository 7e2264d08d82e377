//! What is set on buckets (tags, CORS, lifecycle), and the tags of objects.

use std::collections::BTreeMap;

use crate::{
    error::{GetObjectError, HeadBucketError, Unavailable},
    names::{BucketName, ObjectKey, VersionId},
    objects::{BUCKET_ATTEMPTS, Objects},
    request::{BucketSetting, SettingKind},
    shard::{
        Refused,
        setting::{self, Tagged},
    },
    versions::{Named, VERSIONS_SINCE},
};

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
        let no_such = || GetObjectError::NoSuchBucket(bucket.clone());
        let deadline = self.deadline();
        self.needs_version(VERSIONS_SINCE, deadline).await?;
        if let Named::Nothing = self.named_version(version, deadline).await? {
            return Err(GetObjectError::NoSuchVersion);
        }
        let mut info = self.bucket(bucket, deadline).await?.ok_or_else(no_such)?;
        for _ in 0..BUCKET_ATTEMPTS {
            let tag = setting::Tag { bucket: info.id, key: key.clone(), version, tags: tags.clone() };
            let id = self.inner.runtime.transaction_id();
            let refused: Refused =
                match self.execute(info.shard_of(key.as_bytes()), id, &setting::TAG, tag, deadline).await? {
                    Ok(Tagged::Done { version }) => return Ok(version),
                    Ok(Tagged::NoSuchKey) => return Err(GetObjectError::NoSuchKey),
                    Ok(Tagged::NoSuchVersion) => return Err(GetObjectError::NoSuchVersion),
                    Ok(Tagged::Marker { version, modified }) => {
                        return Err(GetObjectError::DeleteMarker { version, modified });
                    }
                    Err(refused) => refused,
                };
            info = self.follow_bucket(&info, &refused, deadline).await?.ok_or_else(no_such)?;
        }
        Err(Unavailable::Unsettled.into())
    }
}
