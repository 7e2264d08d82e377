//! ACLs and ownership controls. Who may do what by them is `atoll-access`'s; here is whose an
//! object becomes, and what is kept and shown.
//!
//! A bucket is as S3 makes them since 2023, with its ACLs disabled (`BucketOwnerEnforced`),
//! until its ownership controls say otherwise: then an ACL that says that the owner has all
//! is accepted, and any other refused.

use atoll_access::{BucketOf, FoundObject, Ownership};
use atoll_objects::{BucketInfo, ObjectInfo};
use atoll_types::{Acl, AclGrant, Grantee};
use http::{HeaderMap, StatusCode};
use s3s::{
    S3Error, S3Request, S3Response, S3Result,
    dto::{
        self, CreateBucketInput, DeleteBucketOwnershipControlsInput, DeleteBucketOwnershipControlsOutput,
        GetBucketAclInput, GetBucketAclOutput, GetBucketOwnershipControlsInput,
        GetBucketOwnershipControlsOutput, GetObjectAclInput, GetObjectAclOutput, ObjectOwnership,
        OwnershipControls, OwnershipControlsRule, PutBucketAclInput, PutBucketAclOutput,
        PutBucketOwnershipControlsInput, PutBucketOwnershipControlsOutput, PutObjectAclInput,
        PutObjectAclOutput,
    },
    s3_error,
};

pub(crate) use super::grants::is_acl_header;
use super::{
    S3Operations,
    caller::Caller,
    error::IntoS3,
    grants::{AskedAcl, BUCKET_OWNER_FULL_CONTROL, shown_grantee},
    headers, versions,
};

/// S3's id for whoever signs nothing: the owner of what anonymous requests write.
const ANONYMOUS_ID: &str = "65a011a29cdf8ec533ec3d1ccaae921c";

/// The operations that an ACL may come with in their headers. A form has it in its fields.
const TAKES_ACL: [&str; 6] =
    ["PutObject", "CopyObject", "CreateMultipartUpload", "CreateBucket", "PutBucketAcl", "PutObjectAcl"];

pub(crate) fn not_supported() -> S3Error {
    s3_error!(AccessControlListNotSupported, "The bucket does not allow ACLs")
}

pub(crate) fn public_blocked() -> S3Error {
    s3_error!(
        AccessDenied,
        "Public ACLs are blocked by the BlockPublicAcls setting of the bucket's public access block."
    )
}

pub(crate) fn enforced() -> S3Error {
    s3_error!(
        InvalidBucketAclWithObjectOwnership,
        "Bucket cannot have ACLs set with ObjectOwnership's BucketOwnerEnforced setting"
    )
}

/// An ACL in the headers of what takes none must not be lost silently.
pub(crate) fn refuse_where_not_taken(operation: &str, headers: &HeaderMap) -> S3Result<()> {
    if TAKES_ACL.contains(&operation) || !headers.keys().any(|name| is_acl_header(name.as_str())) {
        return Ok(());
    }
    match AskedAcl::in_headers(headers)? {
        Some(asked @ AskedAcl::Canned(_)) if asked.is_private("") => Ok(()),
        _ => Err(not_supported()),
    }
}

fn ownership_of(name: &ObjectOwnership) -> S3Result<Ownership> {
    let known = Ownership::ALL.into_iter().find(|known| known.name() == name.as_str());
    known.ok_or_else(|| s3_error!(MalformedXML, "There is no such object ownership"))
}

fn of(bucket: &BucketInfo) -> BucketOf<'_> {
    BucketOf { id: bucket.id.0, name: bucket.name.as_str(), owner: &bucket.owner }
}

/// A bucket's ACL as it is kept: `None` for the private one.
fn kept(grants: Vec<AclGrant>, owner: &str) -> Option<Vec<AclGrant>> {
    (grants != Acl::private(owner).grants).then_some(grants)
}

/// An object's ACL as it counts.
fn counting(info: &ObjectInfo, bucket: &BucketInfo, ownership: Ownership) -> Acl {
    let acl = info.headers.acl.clone().filter(|_| ownership.has_acls());
    acl.unwrap_or_else(|| Acl::private(&*bucket.owner))
}

/// What a bucket is made with besides its name.
pub(crate) struct FirstAcl {
    ownership: Ownership,
    grants: Option<Vec<AclGrant>>,
}

impl Caller {
    /// The ACL of an object that is about to be written; `None` where nothing has to be kept
    /// of it.
    pub(crate) async fn acl_of_new(&self, headers: &HeaderMap, key: &str) -> S3Result<Option<Acl>> {
        let asked = AskedAcl::in_headers(headers)?;
        let bucket = self.bucket()?;
        let ownership = self.ownership(asked.as_ref()).await?;
        if !ownership.has_acls() {
            return Ok(None);
        }
        let asked = asked.unwrap_or(AskedAcl::Canned("private".into()));
        let given =
            ownership == Ownership::BucketOwnerPreferred && asked.is_canned(BUCKET_OWNER_FULL_CONTROL);
        let owner = if given { &bucket.owner } else { self.canonical_id().unwrap_or(ANONYMOUS_ID) };
        let grants = asked.grants(self.access(), owner, Some(&bucket.owner)).await?;
        let acl = Acl { owner: owner.into(), grants };
        if acl == Acl::private(&*bucket.owner) {
            return Ok(None);
        }
        self.not_blocked(&acl.grants).await?;
        let others = |grant: &AclGrant| !matches!(&grant.grantee, Grantee::User(id) if *id == acl.owner || *id == bucket.owner);
        if acl.grants.iter().any(others) {
            self.must_with("s3:PutObjectAcl", Some(key), &FoundObject::There(Some(acl.clone()))).await?;
        }
        Ok(Some(acl))
    }

    /// As it is known here; if an ACL is asked for that it forbids, as it is now.
    async fn ownership(&self, asked: Option<&AskedAcl>) -> S3Result<Ownership> {
        let bucket = self.bucket()?;
        let known = self.access().ownership(bucket.id.0).await.map_err(IntoS3::into_s3)?;
        if known.has_acls() || asked.is_none_or(|asked| asked.is_private(&bucket.owner)) {
            return Ok(known);
        }
        let rules = self.access().newest_rules(bucket.id.0).await.map_err(IntoS3::into_s3)?;
        if rules.ownership.has_acls() { Ok(rules.ownership) } else { Err(not_supported()) }
    }

    async fn not_blocked(&self, grants: &[AclGrant]) -> S3Result<()> {
        if !grants.iter().any(|grant| grant.grantee.is_public()) {
            return Ok(());
        }
        let rules = self.access().newest_rules(self.bucket()?.id.0).await.map_err(IntoS3::into_s3)?;
        let blocks = rules.public_access_block.is_some_and(|block| block.block_public_acls);
        if blocks { Err(public_blocked()) } else { Ok(()) }
    }

    async fn shown(&self, grants: &[AclGrant]) -> S3Result<Vec<dto::Grant>> {
        let mut shown = Vec::with_capacity(grants.len());
        for AclGrant { grantee, permission } in grants {
            let display_name = match grantee {
                Grantee::User(id) => self.owner_called(id.clone()).await?.display_name,
                Grantee::AllUsers | Grantee::AuthenticatedUsers => None,
            };
            shown.push(dto::Grant {
                grantee: Some(shown_grantee(grantee, display_name)),
                permission: Some(dto::Permission::from_static(permission.name())),
            });
        }
        Ok(shown)
    }
}

/// What a Put…Acl asks for: either in its headers or in its body.
fn asked(headers: &HeaderMap, document: Option<dto::AccessControlPolicy>, owner: &str) -> S3Result<AskedAcl> {
    match (AskedAcl::in_headers(headers)?, document) {
        (Some(asked), None) => Ok(asked),
        (None, Some(document)) => AskedAcl::in_document(document, owner),
        (None, None) => Err(s3_error!(
            MissingSecurityHeader,
            "Your request was missing a required header: an ACL is in its headers or its body"
        )),
        (Some(_), Some(_)) => Err(s3_error!(UnexpectedContent, "This request does not support content")),
    }
}

impl S3Operations {
    /// What `CreateBucket` says of ownership and ACLs, before anything is done.
    pub(crate) async fn first_acl(
        &self,
        req: &S3Request<CreateBucketInput>,
        owner: &str,
    ) -> S3Result<Option<FirstAcl>> {
        let ownership =
            req.input.object_ownership.as_ref().map(ownership_of).transpose()?.unwrap_or_default();
        let asked = AskedAcl::in_headers(&req.headers)?;
        if !ownership.has_acls() {
            return match asked {
                Some(asked) if !asked.is_private(owner) => Err(enforced()),
                _ => Ok(None),
            };
        }
        self.objects.knows_acls().await.map_err(IntoS3::into_s3)?;
        let grants = match asked {
            Some(asked) => kept(asked.grants(&self.access, owner, None).await?, owner),
            None => None,
        };
        Ok(Some(FirstAcl { ownership, grants }))
    }

    pub(crate) async fn put_first_acl(&self, bucket: &BucketInfo, first: FirstAcl) -> S3Result<()> {
        let FirstAcl { ownership, grants } = first;
        let put = self.access.put_acl(of(bucket), Some(ownership), Some(grants), self.access.deadline());
        put.await.map_err(IntoS3::into_s3)
    }

    pub(crate) async fn bucket_acl(
        &self,
        req: S3Request<GetBucketAclInput>,
    ) -> S3Result<S3Response<GetBucketAclOutput>> {
        let bucket = self.whole_bucket(&req.input.bucket).await?;
        let caller = Caller::of(&req.extensions)?;
        let rules = self.access.newest_rules(bucket.id.0).await.map_err(IntoS3::into_s3)?;
        let grants = rules.acl.filter(|_| rules.ownership.has_acls());
        let grants = grants.unwrap_or_else(|| Acl::private(&*bucket.owner).grants);
        let (grants, owner) = (Some(caller.shown(&grants).await?), Some(caller.owner().await?));
        Ok(S3Response::new(GetBucketAclOutput { grants, owner }))
    }

    pub(crate) async fn put_bucket_acl_to(
        &self,
        req: S3Request<PutBucketAclInput>,
    ) -> S3Result<S3Response<PutBucketAclOutput>> {
        let bucket = self.whole_bucket(&req.input.bucket).await?;
        let caller = Caller::of(&req.extensions)?;
        let asked = asked(&req.headers, req.input.access_control_policy, &bucket.owner)?;
        if caller.ownership(Some(&asked)).await?.has_acls() {
            let grants = asked.grants(&self.access, &bucket.owner, None).await?;
            let acl = Some(kept(grants, &bucket.owner));
            let put = self.access.put_acl(of(&bucket), None, acl, self.access.deadline());
            put.await.map_err(IntoS3::into_s3)?;
        }
        Ok(S3Response::new(PutBucketAclOutput::default()))
    }

    pub(crate) async fn object_acl(
        &self,
        req: S3Request<GetObjectAclInput>,
    ) -> S3Result<S3Response<GetObjectAclOutput>> {
        let caller = Caller::of(&req.extensions)?;
        let info = self.info(&req.input.bucket, req.input.key, req.input.version_id.as_deref()).await?;
        caller.confirm(&info).await?;
        let ownership = caller.ownership(None).await?;
        let acl = counting(&info, caller.bucket()?, ownership);
        let grants = caller.shown(&acl.grants).await?;
        let owner = caller.owner_called(acl.owner).await?;
        Ok(S3Response::new(GetObjectAclOutput {
            grants: Some(grants),
            owner: Some(owner),
            request_charged: None,
        }))
    }

    pub(crate) async fn put_object_acl_to(
        &self,
        req: S3Request<PutObjectAclInput>,
    ) -> S3Result<S3Response<PutObjectAclOutput>> {
        let caller = Caller::of(&req.extensions)?;
        let input = req.input;
        let version = versions::version(input.version_id.as_deref())?;
        let info = self.info(&input.bucket, input.key.clone(), input.version_id.as_deref()).await?;
        caller.confirm(&info).await?;
        let bucket = caller.bucket()?;
        let known = caller.ownership(None).await?;
        let owner = counting(&info, bucket, known).owner;
        let asked = asked(&req.headers, input.access_control_policy, &owner)?;
        if caller.ownership(Some(&asked)).await?.has_acls() {
            let owner = info.headers.acl.as_ref().map_or(&bucket.owner, |acl| &acl.owner).clone();
            let grants = asked.grants(&self.access, &owner, Some(&bucket.owner)).await?;
            caller.not_blocked(&grants).await?;
            let acl = Acl { owner, grants };
            let (name, key) = (headers::bucket(&input.bucket)?, headers::key(input.key)?);
            let set = self.objects.set_acl(&name, &key, version, &info, acl).await;
            set.map_err(IntoS3::into_s3)?;
        }
        Ok(S3Response::new(PutObjectAclOutput::default()))
    }

    pub(crate) async fn ownership(
        &self,
        req: S3Request<GetBucketOwnershipControlsInput>,
    ) -> S3Result<S3Response<GetBucketOwnershipControlsOutput>> {
        let bucket = self.whole_bucket(&req.input.bucket).await?;
        let rules = self.access.newest_rules(bucket.id.0).await.map_err(IntoS3::into_s3)?;
        let object_ownership = ObjectOwnership::from_static(rules.ownership.name());
        let rules = vec![OwnershipControlsRule { object_ownership }];
        let output =
            GetBucketOwnershipControlsOutput { ownership_controls: Some(OwnershipControls { rules }) };
        Ok(S3Response::new(output))
    }

    pub(crate) async fn set_ownership(
        &self,
        req: S3Request<PutBucketOwnershipControlsInput>,
    ) -> S3Result<S3Response<PutBucketOwnershipControlsOutput>> {
        let [rule] = &req.input.ownership_controls.rules[..] else {
            return Err(s3_error!(MalformedXML, "Ownership controls have one rule"));
        };
        self.own(&req.input.bucket, ownership_of(&rule.object_ownership)?).await?;
        Ok(S3Response::new(PutBucketOwnershipControlsOutput::default()))
    }

    /// Back to what a bucket is made with.
    pub(crate) async fn delete_ownership(
        &self,
        req: S3Request<DeleteBucketOwnershipControlsInput>,
    ) -> S3Result<S3Response<DeleteBucketOwnershipControlsOutput>> {
        self.own(&req.input.bucket, Ownership::default()).await?;
        Ok(S3Response::with_status(DeleteBucketOwnershipControlsOutput::default(), StatusCode::NO_CONTENT))
    }

    async fn own(&self, bucket: &str, ownership: Ownership) -> S3Result<()> {
        let bucket = self.whole_bucket(bucket).await?;
        let rules = self.access.newest_rules(bucket.id.0).await.map_err(IntoS3::into_s3)?;
        if rules.ownership == ownership {
            return Ok(());
        }
        self.objects.knows_acls().await.map_err(IntoS3::into_s3)?;
        let put = self.access.put_acl(of(&bucket), Some(ownership), None, self.access.deadline());
        put.await.map_err(IntoS3::into_s3)
    }
}
