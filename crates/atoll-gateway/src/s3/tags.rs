//! Tags of objects and of buckets.

use std::collections::BTreeMap;

use atoll_objects::{BucketSetting, SettingKind};
use s3s::{
    S3Request, S3Response, S3Result,
    dto::{
        DeleteBucketTaggingInput, DeleteBucketTaggingOutput, DeleteObjectTaggingInput,
        DeleteObjectTaggingOutput, GetBucketTaggingInput, GetBucketTaggingOutput, GetObjectTaggingInput,
        GetObjectTaggingOutput, PutBucketTaggingInput, PutBucketTaggingOutput, PutObjectTaggingInput,
        PutObjectTaggingOutput, Tag, TagSet,
    },
    s3_error,
};

use super::{
    S3Operations,
    error::{IntoS3, bad_request},
    headers,
    versions::{self, version_text},
};

/// S3's limits.
const OBJECT_TAGS_MAX: usize = 10;
const BUCKET_TAGS_MAX: usize = 50;
const TAG_KEY_CHARS_MAX: usize = 128;
const TAG_VALUE_CHARS_MAX: usize = 256;

/// Tags as they come, checked as S3 checks them.
pub(crate) struct NewTags {
    tags: BTreeMap<String, String>,
    max: usize,
}

impl NewTags {
    pub(crate) fn of_object() -> Self {
        Self { tags: BTreeMap::new(), max: OBJECT_TAGS_MAX }
    }

    fn of_bucket() -> Self {
        Self { tags: BTreeMap::new(), max: BUCKET_TAGS_MAX }
    }

    pub(crate) fn add(&mut self, key: String, value: String) -> S3Result<()> {
        if key.is_empty() || key.chars().count() > TAG_KEY_CHARS_MAX {
            return Err(s3_error!(InvalidTag, "The TagKey you have provided is invalid"));
        }
        if value.chars().count() > TAG_VALUE_CHARS_MAX {
            return Err(s3_error!(InvalidTag, "The TagValue you have provided is invalid"));
        }
        if key.starts_with("aws:") {
            return Err(s3_error!(InvalidTag, "System tags cannot be added/updated by requester"));
        }
        if self.tags.insert(key, value).is_some() {
            return Err(s3_error!(InvalidTag, "Cannot provide multiple Tags with the same key"));
        }
        if self.tags.len() > self.max {
            return Err(bad_request(format!("Tags cannot be greater than {}", self.max)));
        }
        Ok(())
    }

    fn all(mut self, tags: TagSet) -> S3Result<BTreeMap<String, String>> {
        for tag in tags {
            self.add(tag.key.unwrap_or_default(), tag.value.unwrap_or_default())?;
        }
        Ok(self.tags)
    }

    pub(crate) fn finish(self) -> BTreeMap<String, String> {
        self.tags
    }
}

fn tag_set(tags: BTreeMap<String, String>) -> TagSet {
    tags.into_iter().map(|(key, value)| Tag { key: Some(key), value: Some(value) }).collect()
}

impl S3Operations {
    pub(crate) async fn object_tags(
        &self,
        req: S3Request<GetObjectTaggingInput>,
    ) -> S3Result<S3Response<GetObjectTaggingOutput>> {
        let info = self.info(&req.input.bucket, req.input.key, req.input.version_id.as_deref()).await?;
        let version_id = version_text(info.version);
        Ok(S3Response::new(GetObjectTaggingOutput { tag_set: tag_set(info.headers.tags), version_id }))
    }

    pub(crate) async fn put_object_tags(
        &self,
        req: S3Request<PutObjectTaggingInput>,
    ) -> S3Result<S3Response<PutObjectTaggingOutput>> {
        let input = req.input;
        let tags = NewTags::of_object().all(input.tagging.tag_set)?;
        let version = self.tag(&input.bucket, input.key, input.version_id.as_deref(), tags).await?;
        Ok(S3Response::new(PutObjectTaggingOutput { version_id: version }))
    }

    pub(crate) async fn delete_object_tags(
        &self,
        req: S3Request<DeleteObjectTaggingInput>,
    ) -> S3Result<S3Response<DeleteObjectTaggingOutput>> {
        let input = req.input;
        let version =
            self.tag(&input.bucket, input.key, input.version_id.as_deref(), BTreeMap::new()).await?;
        let output = DeleteObjectTaggingOutput { version_id: version };
        Ok(S3Response::with_status(output, http::StatusCode::NO_CONTENT))
    }

    async fn tag(
        &self,
        bucket: &str,
        key: String,
        version: Option<&str>,
        tags: BTreeMap<String, String>,
    ) -> S3Result<Option<String>> {
        let (bucket, key) = (headers::bucket(bucket)?, headers::key(key)?);
        let version = versions::version(version)?;
        let version = self.objects.set_tags(&bucket, &key, version, tags).await.map_err(IntoS3::into_s3)?;
        Ok(version_text(version))
    }

    pub(crate) async fn bucket_tags(
        &self,
        req: S3Request<GetBucketTaggingInput>,
    ) -> S3Result<S3Response<GetBucketTaggingOutput>> {
        match self.setting(&req.input.bucket, SettingKind::Tags).await? {
            Some(BucketSetting::Tags(tags)) => {
                Ok(S3Response::new(GetBucketTaggingOutput { tag_set: tag_set(tags) }))
            }
            _ => Err(s3_error!(NoSuchTagSet, "The TagSet does not exist")),
        }
    }

    pub(crate) async fn put_bucket_tags(
        &self,
        req: S3Request<PutBucketTaggingInput>,
    ) -> S3Result<S3Response<PutBucketTaggingOutput>> {
        let tags = NewTags::of_bucket().all(req.input.tagging.tag_set)?;
        let setting = Some(BucketSetting::Tags(tags));
        self.set(&req.input.bucket, SettingKind::Tags, setting).await?;
        Ok(S3Response::with_status(PutBucketTaggingOutput::default(), http::StatusCode::NO_CONTENT))
    }

    pub(crate) async fn delete_bucket_tags(
        &self,
        req: S3Request<DeleteBucketTaggingInput>,
    ) -> S3Result<S3Response<DeleteBucketTaggingOutput>> {
        self.set(&req.input.bucket, SettingKind::Tags, None).await?;
        Ok(S3Response::with_status(DeleteBucketTaggingOutput::default(), http::StatusCode::NO_CONTENT))
    }

    pub(crate) async fn setting(&self, bucket: &str, kind: SettingKind) -> S3Result<Option<BucketSetting>> {
        let name = headers::bucket(bucket)?;
        self.objects.bucket_setting(&name, kind).await.map_err(IntoS3::into_s3)
    }

    pub(crate) async fn set(
        &self,
        bucket: &str,
        kind: SettingKind,
        setting: Option<BucketSetting>,
    ) -> S3Result<()> {
        let name = headers::bucket(bucket)?;
        self.objects.set_bucket_setting(&name, kind, setting).await.map_err(IntoS3::into_s3)
    }
}
