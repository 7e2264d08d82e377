//! Who signed, and whether they may: `s3s` checks signatures with the secrets it asks
//! for here; the decision is `atoll-access`'s.

use std::sync::Arc;

use atoll_access::{Access, Principal};
use atoll_objects::{BucketInfo, Objects};
use s3s::{
    S3Result,
    access::{S3Access, S3AccessContext},
    auth::{S3Auth, SecretKey},
    dto::CopySource,
    path::S3Path,
    s3_error,
};

use super::{
    acl,
    actions::{OTHER, Operation},
    caller::{Caller, access_denied},
    context::RequestContext,
    error::{IntoS3, no_such_bucket, not_implemented},
    facts::{ConnectionInfo, RequestFacts},
    headers,
};

pub(crate) struct Doorkeeper {
    access: Access,
    objects: Objects,
}

impl Doorkeeper {
    pub(crate) fn new(access: Access, objects: Objects) -> Self {
        Self { access, objects }
    }

    async fn bucket(&self, name: &str) -> S3Result<Arc<BucketInfo>> {
        let name = headers::bucket(name)?;
        let found = self.objects.known_bucket(&name).await.map_err(IntoS3::into_s3)?;
        found.ok_or_else(no_such_bucket)
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
        let operation = Operation::find(cx.s3_op().name());
        RequestContext::of(cx.extensions_mut()).set_operation(operation.map_or(OTHER, |found| found.name));
        let principal = match cx.credentials() {
            None => Principal::Anonymous,
            Some(credentials) => {
                let known = self.access.principal(&credentials.access_key).await;
                // Revoked between the signature's check and here.
                known.map_err(IntoS3::into_s3)?.ok_or_else(access_denied)?
            }
        };
        if !self.access.is_within_limit(&principal) {
            return Err(s3_error!(SlowDown, "Please reduce your request rate."));
        }
        let Some(operation) = operation else {
            return Err(match principal {
                Principal::Anonymous => access_denied(),
                Principal::User { .. } | Principal::Operator { .. } => not_implemented("This operation"),
            });
        };
        acl::refuse_where_not_taken(operation.name, cx.headers())?;
        let bucket = match cx.s3_path() {
            S3Path::Root => None,
            S3Path::Bucket { .. } if operation.name == "CreateBucket" => None,
            S3Path::Bucket { bucket } | S3Path::Object { bucket, .. } => Some(self.bucket(bucket).await?),
        };
        let expected = |header: &str, bucket: Option<&BucketInfo>| match cx.headers().get(header) {
            Some(owner) if bucket.is_some_and(|bucket| owner != bucket.owner.as_str()) => {
                Err(s3_error!(AccessDenied, "The bucket belongs to another account than expected"))
            }
            _ => Ok(()),
        };
        expected("x-amz-expected-bucket-owner", bucket.as_deref())?;
        let source = match cx.headers().get("x-amz-copy-source") {
            None => None,
            Some(source) => {
                let (bucket, key, version) = source_of(source)?;
                Some((self.bucket(&bucket).await?, key, version))
            }
        };
        expected("x-amz-source-expected-bucket-owner", source.as_ref().map(|(bucket, ..)| &**bucket))?;

        let key = match cx.s3_path() {
            S3Path::Object { key, .. } => Some(key.to_string()),
            // What is to be made has no bucket yet, but a name.
            S3Path::Bucket { bucket: name } if bucket.is_none() => Some(name.to_string()),
            S3Path::Root | S3Path::Bucket { .. } => None,
        };
        let facts = RequestFacts {
            connection: cx.extensions_mut().get::<ConnectionInfo>().copied(),
            uri: cx.uri().clone(),
            headers: cx.headers().clone(),
            now: self.access.wall_now(),
        };
        RequestContext::of(cx.extensions_mut()).set_decided();
        let caller = Caller::new(self.access.clone(), principal, bucket, facts, self.objects.clone());
        // The keys of a DeleteObjects and of a form are in its body: they are decided as they
        // are read.
        if !["DeleteObjects", "PostObject"].contains(&operation.name) {
            let action = match names_version(cx.uri()) {
                true => operation.of_version,
                false => operation.action,
            };
            caller.must(action, key.as_deref()).await?;
        }
        if let Some((bucket, key, version)) = &source {
            caller.must_read_source(bucket, key, version.as_deref()).await?;
        }
        if cx.headers().contains_key("x-amz-tagging") {
            caller.must("s3:PutObjectTagging", key.as_deref()).await?;
        }
        cx.extensions_mut().insert(caller);
        Ok(())
    }
}

/// Bucket, key, and the version if one is named.
fn source_of(header: &http::HeaderValue) -> S3Result<(String, String, Option<String>)> {
    let malformed = || s3_error!(InvalidArgument, "Invalid copy source");
    let text = header.to_str().map_err(|_| malformed())?;
    match CopySource::parse(text).map_err(|_| malformed())? {
        CopySource::Bucket { bucket, key, version_id } => {
            Ok((bucket.into(), key.into(), version_id.map(Into::into)))
        }
        CopySource::AccessPoint { .. } | CopySource::Outpost { .. } => {
            Err(not_implemented("Copying from an access point"))
        }
    }
}

fn names_version(uri: &http::Uri) -> bool {
    uri.query().is_some_and(|query| query.split('&').any(|pair| pair.starts_with("versionId=")))
}
