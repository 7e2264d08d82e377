//! Bucket policies and the public access block. What they mean is `atoll-access`'s.

use atoll_access::{BucketOf, ChangeError, PublicAccessBlock, PutPolicyError, Refused};
use atoll_objects::BucketInfo;
use s3s::{
    S3Error, S3ErrorCode, S3Request, S3Response, S3Result,
    dto::{
        DeleteBucketPolicyInput, DeleteBucketPolicyOutput, DeletePublicAccessBlockInput,
        DeletePublicAccessBlockOutput, GetBucketPolicyInput, GetBucketPolicyOutput,
        GetBucketPolicyStatusInput, GetBucketPolicyStatusOutput, GetPublicAccessBlockInput,
        GetPublicAccessBlockOutput, PolicyStatus, PublicAccessBlockConfiguration, PutBucketPolicyInput,
        PutBucketPolicyOutput, PutPublicAccessBlockInput, PutPublicAccessBlockOutput,
    },
    s3_error,
};

use super::{S3Operations, acl, error::IntoS3, headers};

impl IntoS3 for ChangeError {
    fn into_s3(self) -> S3Error {
        match self {
            ChangeError::Access(error) => error.into_s3(),
            ChangeError::Refused(Refused::AclsDisabled) => acl::not_supported(),
            ChangeError::Refused(Refused::AclGrantsOthers) => acl::enforced(),
            ChangeError::Refused(Refused::PublicAclBlocked) => acl::public_blocked(),
            // A user that was deleted a moment ago.
            ChangeError::Refused(refused) => s3_error!(OperationAborted, "{refused}"),
            ChangeError::Invalid { reason } => s3_error!(InvalidArgument, "{reason}"),
            ChangeError::ProgramTooOld => {
                super::error::not_implemented("This, while some nodes run an older program,")
            }
        }
    }
}

impl IntoS3 for PutPolicyError {
    fn into_s3(self) -> S3Error {
        match self {
            PutPolicyError::Malformed(malformed) => s3_error!(MalformedPolicy, "{malformed}"),
            PutPolicyError::PublicBlocked => s3_error!(
                AccessDenied,
                "Public policies are blocked by the BlockPublicPolicy setting of the bucket's public access block."
            ),
            PutPolicyError::Change(error) => error.into_s3(),
        }
    }
}

fn no_policy() -> S3Error {
    s3_error!(NoSuchBucketPolicy, "The bucket policy does not exist")
}

impl S3Operations {
    pub(crate) async fn whole_bucket(&self, name: &str) -> S3Result<std::sync::Arc<BucketInfo>> {
        self.objects.head_bucket(&headers::bucket(name)?).await.map_err(IntoS3::into_s3)
    }

    pub(crate) async fn put_policy(
        &self,
        req: S3Request<PutBucketPolicyInput>,
    ) -> S3Result<S3Response<PutBucketPolicyOutput>> {
        let bucket = self.whole_bucket(&req.input.bucket).await?;
        let of = BucketOf { id: bucket.id.0, name: bucket.name.as_str(), owner: &bucket.owner };
        let put = self.access.put_policy(of, &req.input.policy, self.access.deadline()).await;
        put.map_err(IntoS3::into_s3)?;
        Ok(S3Response::new(PutBucketPolicyOutput::default()))
    }

    pub(crate) async fn policy(
        &self,
        req: S3Request<GetBucketPolicyInput>,
    ) -> S3Result<S3Response<GetBucketPolicyOutput>> {
        let bucket = self.whole_bucket(&req.input.bucket).await?;
        let policy = self.access.policy(bucket.id.0).await.map_err(IntoS3::into_s3)?.ok_or_else(no_policy)?;
        Ok(S3Response::new(GetBucketPolicyOutput { policy: Some(policy.text) }))
    }

    pub(crate) async fn policy_status(
        &self,
        req: S3Request<GetBucketPolicyStatusInput>,
    ) -> S3Result<S3Response<GetBucketPolicyStatusOutput>> {
        let bucket = self.whole_bucket(&req.input.bucket).await?;
        let policy = self.access.policy(bucket.id.0).await.map_err(IntoS3::into_s3)?.ok_or_else(no_policy)?;
        let policy_status = Some(PolicyStatus { is_public: Some(policy.is_public) });
        Ok(S3Response::new(GetBucketPolicyStatusOutput { policy_status }))
    }

    pub(crate) async fn delete_policy(
        &self,
        req: S3Request<DeleteBucketPolicyInput>,
    ) -> S3Result<S3Response<DeleteBucketPolicyOutput>> {
        let bucket = self.whole_bucket(&req.input.bucket).await?;
        let deleted = self.access.delete_policy(bucket.id.0, self.access.deadline()).await;
        deleted.map_err(IntoS3::into_s3)?;
        Ok(S3Response::with_status(DeleteBucketPolicyOutput::default(), http::StatusCode::NO_CONTENT))
    }

    pub(crate) async fn put_access_block(
        &self,
        req: S3Request<PutPublicAccessBlockInput>,
    ) -> S3Result<S3Response<PutPublicAccessBlockOutput>> {
        let bucket = self.whole_bucket(&req.input.bucket).await?;
        let asked = req.input.public_access_block_configuration;
        let block = PublicAccessBlock {
            block_public_acls: asked.block_public_acls.unwrap_or(false),
            ignore_public_acls: asked.ignore_public_acls.unwrap_or(false),
            block_public_policy: asked.block_public_policy.unwrap_or(false),
            restrict_public_buckets: asked.restrict_public_buckets.unwrap_or(false),
        };
        let put = self.access.put_public_access_block(bucket.id.0, Some(block), self.access.deadline()).await;
        put.map_err(IntoS3::into_s3)?;
        Ok(S3Response::new(PutPublicAccessBlockOutput::default()))
    }

    pub(crate) async fn access_block(
        &self,
        req: S3Request<GetPublicAccessBlockInput>,
    ) -> S3Result<S3Response<GetPublicAccessBlockOutput>> {
        let bucket = self.whole_bucket(&req.input.bucket).await?;
        let rules = self.access.newest_rules(bucket.id.0).await.map_err(IntoS3::into_s3)?;
        let block = rules.public_access_block.ok_or_else(no_access_block)?;
        let configuration = PublicAccessBlockConfiguration {
            block_public_acls: Some(block.block_public_acls),
            ignore_public_acls: Some(block.ignore_public_acls),
            block_public_policy: Some(block.block_public_policy),
            restrict_public_buckets: Some(block.restrict_public_buckets),
        };
        let output = GetPublicAccessBlockOutput { public_access_block_configuration: Some(configuration) };
        Ok(S3Response::new(output))
    }

    pub(crate) async fn delete_access_block(
        &self,
        req: S3Request<DeletePublicAccessBlockInput>,
    ) -> S3Result<S3Response<DeletePublicAccessBlockOutput>> {
        let bucket = self.whole_bucket(&req.input.bucket).await?;
        let put = self.access.put_public_access_block(bucket.id.0, None, self.access.deadline()).await;
        put.map_err(IntoS3::into_s3)?;
        Ok(S3Response::with_status(DeletePublicAccessBlockOutput::default(), http::StatusCode::NO_CONTENT))
    }
}

fn no_access_block() -> S3Error {
    let code = S3ErrorCode::Custom("NoSuchPublicAccessBlockConfiguration".into());
    let mut error = S3Error::with_message(code, "The public access block configuration was not found");
    error.set_status_code(http::StatusCode::NOT_FOUND);
    error
}
