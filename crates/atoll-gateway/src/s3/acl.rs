//! ACLs and ownership: every bucket is as S3 makes them since 2023, with ACLs disabled
//! (`BucketOwnerEnforced`). What says the same as that is accepted, anything else refused
//! as S3 refuses it there.

use s3s::{
    S3Error, S3Request, S3Response, S3Result,
    dto::{
        AccessControlPolicy, GetBucketOwnershipControlsInput, GetBucketOwnershipControlsOutput,
        ObjectOwnership, Owner, OwnershipControls, OwnershipControlsRule, Permission, PutBucketAclInput,
        PutBucketAclOutput, PutBucketOwnershipControlsInput, PutBucketOwnershipControlsOutput,
        PutObjectAclInput, PutObjectAclOutput,
    },
};

use super::{S3Operations, caller::Caller, error::not_implemented};

/// Canned ACLs that grant nobody but the bucket's owner.
pub(crate) const PRIVATE: [&str; 3] = ["private", "bucket-owner-full-control", "bucket-owner-read"];

pub(crate) fn not_supported() -> S3Error {
    let code = s3s::S3ErrorCode::Custom("AccessControlListNotSupported".into());
    let mut error = S3Error::with_message(code, "The bucket does not allow ACLs");
    error.set_status_code(http::StatusCode::BAD_REQUEST);
    error
}

impl S3Operations {
    pub(crate) async fn put_bucket_acl_private(
        &self,
        req: S3Request<PutBucketAclInput>,
    ) -> S3Result<S3Response<PutBucketAclOutput>> {
        self.must_exist(&req.input.bucket).await?;
        // A canned one, or grants by header, was looked at before (`unsupported`).
        let owner = Caller::of(&req.extensions)?.owner().await?;
        only_the_owner(&owner, req.input.access_control_policy.as_ref())?;
        Ok(S3Response::new(PutBucketAclOutput::default()))
    }

    pub(crate) async fn put_object_acl_private(
        &self,
        req: S3Request<PutObjectAclInput>,
    ) -> S3Result<S3Response<PutObjectAclOutput>> {
        let owner = Caller::of(&req.extensions)?.owner().await?;
        let input = req.input;
        self.info(&input.bucket, input.key, input.version_id.as_deref()).await?;
        only_the_owner(&owner, input.access_control_policy.as_ref())?;
        Ok(S3Response::new(PutObjectAclOutput::default()))
    }

    pub(crate) async fn ownership(
        &self,
        req: S3Request<GetBucketOwnershipControlsInput>,
    ) -> S3Result<S3Response<GetBucketOwnershipControlsOutput>> {
        self.must_exist(&req.input.bucket).await?;
        let object_ownership = ObjectOwnership::from_static(ObjectOwnership::BUCKET_OWNER_ENFORCED);
        let rules = vec![OwnershipControlsRule { object_ownership }];
        let output =
            GetBucketOwnershipControlsOutput { ownership_controls: Some(OwnershipControls { rules }) };
        Ok(S3Response::new(output))
    }

    pub(crate) async fn set_ownership(
        &self,
        req: S3Request<PutBucketOwnershipControlsInput>,
    ) -> S3Result<S3Response<PutBucketOwnershipControlsOutput>> {
        self.must_exist(&req.input.bucket).await?;
        let rules = &req.input.ownership_controls.rules;
        let enforced = |rule: &OwnershipControlsRule| {
            rule.object_ownership.as_str() == ObjectOwnership::BUCKET_OWNER_ENFORCED
        };
        if !rules.iter().all(enforced) {
            return Err(not_implemented("An object ownership other than BucketOwnerEnforced"));
        }
        Ok(S3Response::new(PutBucketOwnershipControlsOutput::default()))
    }
}

fn only_the_owner(owner: &Owner, policy: Option<&AccessControlPolicy>) -> S3Result<()> {
    let mut grants = policy.and_then(|policy| policy.grants.as_ref()).into_iter().flatten();
    let is_owners = grants.all(|grant| {
        grant.permission.as_ref().is_some_and(|given| given.as_str() == Permission::FULL_CONTROL)
            && grant.grantee.as_ref().is_some_and(|grantee| grantee.id == owner.id && grantee.uri.is_none())
    });
    if is_owners { Ok(()) } else { Err(not_supported()) }
}
