//! Buckets: create, delete, head, list, location.

use atoll_access::Access;
use atoll_objects::BucketId;
use s3s::{
    S3Request, S3Response, S3Result,
    dto::{
        Bucket, BucketLocationConstraint, CreateBucketInput, CreateBucketOutput, DeleteBucketInput,
        DeleteBucketOutput, GetBucketLocationInput, GetBucketLocationOutput, HeadBucketInput,
        HeadBucketOutput, ListBucketsInput, ListBucketsOutput,
    },
    s3_error,
};

use super::{S3Operations, caller::Caller, error::IntoS3, headers};

/// The region whose name S3 leaves out of a location.
const REGION_DEFAULT: &str = "us-east-1";

impl S3Operations {
    pub(crate) async fn create(
        &self,
        req: S3Request<CreateBucketInput>,
    ) -> S3Result<S3Response<CreateBucketOutput>> {
        let name = headers::bucket(&req.input.bucket)?;
        let caller = Caller::of(&req.extensions)?;
        let owner = caller.canonical_id()?;
        let first = self.first_acl(&req, owner).await?;
        let bucket = self.objects.create_bucket(&name, owner).await.map_err(IntoS3::into_s3)?;
        if let Some(first) = first {
            self.put_first_acl(&bucket, first).await?;
        }
        Ok(S3Response::new(CreateBucketOutput { location: Some(format!("/{name}")) }))
    }

    pub(crate) async fn delete_empty(
        &self,
        req: S3Request<DeleteBucketInput>,
    ) -> S3Result<S3Response<DeleteBucketOutput>> {
        let name = headers::bucket(&req.input.bucket)?;
        let known = self.objects.known_bucket(&name).await.map_err(IntoS3::into_s3)?;
        self.objects.delete_bucket(&name).await.map_err(IntoS3::into_s3)?;
        if let Some(bucket) = known {
            forget_rules(&self.access, bucket.id).await;
        }
        Ok(S3Response::with_status(DeleteBucketOutput::default(), http::StatusCode::NO_CONTENT))
    }

    pub(crate) async fn must_exist(&self, bucket: &str) -> S3Result<()> {
        let name = headers::bucket(bucket)?;
        self.objects.head_bucket(&name).await.map_err(IntoS3::into_s3)?;
        Ok(())
    }

    pub(crate) async fn head_existing(
        &self,
        req: S3Request<HeadBucketInput>,
    ) -> S3Result<S3Response<HeadBucketOutput>> {
        self.must_exist(&req.input.bucket).await?;
        let output = HeadBucketOutput { bucket_region: Some(self.region.clone()), ..Default::default() };
        Ok(S3Response::new(output))
    }

    pub(crate) async fn location(
        &self,
        req: S3Request<GetBucketLocationInput>,
    ) -> S3Result<S3Response<GetBucketLocationOutput>> {
        self.must_exist(&req.input.bucket).await?;
        let named = self.region != REGION_DEFAULT;
        let location_constraint = named.then(|| BucketLocationConstraint::from(self.region.clone()));
        Ok(S3Response::new(GetBucketLocationOutput { location_constraint }))
    }

    /// Names in order; `prefix`, `max-buckets` and the token as S3 has them since 2024.
    pub(crate) async fn list_all(
        &self,
        req: S3Request<ListBucketsInput>,
    ) -> S3Result<S3Response<ListBucketsOutput>> {
        let caller = Caller::of(&req.extensions)?;
        let (owner, everything) = (caller.as_owner().await?, caller.may_everything());
        let input = req.input;
        let limit = match input.max_buckets {
            None => usize::MAX,
            Some(limit @ 1..=10_000) => limit as usize,
            Some(_) => {
                return Err(s3_error!(InvalidArgument, "Argument max-buckets must be between 1 and 10000"));
            }
        };
        let prefix = input.prefix.as_deref().unwrap_or_default();
        let after = input.continuation_token.as_deref().unwrap_or_default();
        let all = self.objects.list_buckets().await.map_err(IntoS3::into_s3)?;
        let mut matching = all
            .iter()
            .filter(|bucket| everything || Some(&bucket.owner) == owner.id.as_ref())
            .filter(|bucket| bucket.name.as_str().starts_with(prefix) && bucket.name.as_str() > after)
            .map(|bucket| Bucket {
                bucket_region: Some(self.region.clone()),
                creation_date: Some(headers::timestamp(bucket.created)),
                name: Some(bucket.name.to_string()),
            });
        let buckets: Vec<_> = matching.by_ref().take(limit).collect();
        let more = matching.next().is_some();
        let continuation_token = buckets.last().filter(|_| more).and_then(|bucket| bucket.name.clone());
        let output = ListBucketsOutput {
            buckets: Some(buckets),
            continuation_token,
            owner: Some(owner.clone()),
            prefix: input.prefix,
        };
        Ok(S3Response::new(output))
    }
}

/// What was said of who may do what in a bucket that is gone. It is found by the bucket's
/// id, so no later bucket inherits it, and if it stays it only takes room.
pub(crate) async fn forget_rules(access: &Access, bucket: BucketId) {
    if let Err(error) = access.forget_bucket(bucket.0, access.deadline()).await {
        tracing::debug!(%error, bucket = bucket.0, "the rules of a deleted bucket stay");
    }
}
