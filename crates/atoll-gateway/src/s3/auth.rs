//! Who signed, and whether they may: `s3s` checks signatures with the secrets it asks
//! for here; the decision is `atoll-access`'s.

use atoll_access::{Access, Decision, Principal, ROOT_USER, Resource, canonical_id};
use s3s::{
    S3Result,
    access::{S3Access, S3AccessContext},
    auth::{S3Auth, SecretKey},
    path::S3Path,
    s3_error,
};

use super::{context::RequestContext, error::IntoS3};

pub(crate) struct Doorkeeper {
    access: Access,
}

impl Doorkeeper {
    pub(crate) fn new(access: Access) -> Self {
        Self { access }
    }
}

#[async_trait::async_trait]
impl S3Auth for Doorkeeper {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        match self.access.lookup(access_key).await.map_err(IntoS3::into_s3)? {
            Some(record) => Ok(SecretKey::from(record.secret.expose())),
            None => Err(s3_error!(
                InvalidAccessKeyId,
                "The AWS Access Key Id you provided does not exist in our records."
            )),
        }
    }
}

#[async_trait::async_trait]
impl S3Access for Doorkeeper {
    async fn check(&self, cx: &mut S3AccessContext<'_>) -> S3Result<()> {
        let operation = static_name(cx.s3_op().name());
        RequestContext::of(cx.extensions_mut()).set_operation(operation);
        let principal = match cx.credentials() {
            None => Principal::Anonymous,
            Some(credentials) => {
                let record = self.access.lookup(&credentials.access_key).await.map_err(IntoS3::into_s3)?;
                // Revoked between the signature's check and here.
                let record = record.ok_or_else(|| s3_error!(AccessDenied, "Access Denied"))?;
                Principal::User { user: record.user.clone(), access_key: record.access_key.clone() }
            }
        };
        for header in ["x-amz-expected-bucket-owner", "x-amz-source-expected-bucket-owner"] {
            // Every bucket belongs to the root user.
            if cx.headers().get(header).is_some_and(|owner| owner != canonical_id(ROOT_USER).as_str()) {
                return Err(s3_error!(AccessDenied, "The bucket belongs to another account than expected"));
            }
        }
        let resource = match cx.s3_path() {
            S3Path::Root => Resource::Cluster,
            S3Path::Bucket { bucket } => Resource::Bucket { bucket },
            S3Path::Object { bucket, key } => Resource::Object { bucket, key },
        };
        match self.access.decide(&principal, action(operation), resource) {
            Decision::Allowed { .. } => {
                cx.extensions_mut().insert(principal);
                Ok(())
            }
            Decision::Denied { rule } => {
                tracing::debug!(operation, rule, "denied");
                Err(s3_error!(AccessDenied, "Access Denied"))
            }
        }
    }
}

/// The operations that exist here: S3's name for each, its action in policies, and the
/// label that metrics and logs have. An operation that is not among them is refused
/// later, as not implemented, whatever it is called.
const OPERATIONS: [(&str, &str); 45] = [
    ("GetObject", "s3:GetObject"),
    ("HeadObject", "s3:GetObject"),
    ("PutObject", "s3:PutObject"),
    ("CopyObject", "s3:PutObject"),
    ("DeleteObject", "s3:DeleteObject"),
    ("DeleteObjects", "s3:DeleteObject"),
    ("GetObjectAttributes", "s3:GetObjectAttributes"),
    ("GetObjectTagging", "s3:GetObjectTagging"),
    ("PutObjectTagging", "s3:PutObjectTagging"),
    ("DeleteObjectTagging", "s3:DeleteObjectTagging"),
    ("GetObjectAcl", "s3:GetObjectAcl"),
    ("PutObjectAcl", "s3:PutObjectAcl"),
    ("PostObject", "s3:PutObject"),
    ("ListObjects", "s3:ListBucket"),
    ("ListObjectsV2", "s3:ListBucket"),
    ("ListObjectVersions", "s3:ListBucketVersions"),
    ("CreateBucket", "s3:CreateBucket"),
    ("DeleteBucket", "s3:DeleteBucket"),
    ("HeadBucket", "s3:ListBucket"),
    ("ListBuckets", "s3:ListAllMyBuckets"),
    ("GetBucketLocation", "s3:GetBucketLocation"),
    ("GetBucketVersioning", "s3:GetBucketVersioning"),
    ("PutBucketVersioning", "s3:PutBucketVersioning"),
    ("GetBucketAcl", "s3:GetBucketAcl"),
    ("GetBucketPolicy", "s3:GetBucketPolicy"),
    ("PutBucketAcl", "s3:PutBucketAcl"),
    ("GetBucketOwnershipControls", "s3:GetBucketOwnershipControls"),
    ("PutBucketOwnershipControls", "s3:PutBucketOwnershipControls"),
    ("GetBucketCors", "s3:GetBucketCORS"),
    ("PutBucketCors", "s3:PutBucketCORS"),
    ("DeleteBucketCors", "s3:PutBucketCORS"),
    ("GetBucketTagging", "s3:GetBucketTagging"),
    ("PutBucketTagging", "s3:PutBucketTagging"),
    ("DeleteBucketTagging", "s3:PutBucketTagging"),
    ("GetBucketLifecycleConfiguration", "s3:GetLifecycleConfiguration"),
    ("PutBucketLifecycleConfiguration", "s3:PutLifecycleConfiguration"),
    ("DeleteBucketLifecycle", "s3:PutLifecycleConfiguration"),
    ("GetBucketEncryption", "s3:GetEncryptionConfiguration"),
    ("CreateMultipartUpload", "s3:PutObject"),
    ("UploadPart", "s3:PutObject"),
    ("UploadPartCopy", "s3:PutObject"),
    ("CompleteMultipartUpload", "s3:PutObject"),
    ("AbortMultipartUpload", "s3:AbortMultipartUpload"),
    ("ListParts", "s3:ListMultipartUploadParts"),
    ("ListMultipartUploads", "s3:ListBucketMultipartUploads"),
];

/// What other operations are counted under.
pub(crate) const OTHER: &str = "Other";

fn static_name(operation: &str) -> &'static str {
    OPERATIONS.iter().find(|row| row.0 == operation).map_or(OTHER, |row| row.0)
}

fn action(operation: &str) -> &'static str {
    OPERATIONS.iter().find(|row| row.0 == operation).map_or("s3:Other", |row| row.1)
}
