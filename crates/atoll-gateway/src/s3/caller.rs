//! Who asks, and about which bucket: what one request carries from the door to the verbs,
//! so that a verb that finds more to decide (the keys of a DeleteObjects) can ask.

use std::sync::Arc;

use atoll_access::{Access, BucketOf, Decision, Principal, Request};
use atoll_objects::BucketInfo;
use http::Extensions;
use s3s::{S3Error, S3Result, dto::Owner, s3_error};

use super::{error::IntoS3, facts::RequestFacts};

#[derive(Clone)]
pub(crate) struct Caller(Arc<Inner>);

struct Inner {
    access: Access,
    principal: Principal,
    /// The bucket in the request's path; `None` if there is none, or it is to be made.
    bucket: Option<Arc<BucketInfo>>,
    facts: RequestFacts,
}

pub(crate) fn access_denied() -> S3Error {
    s3_error!(AccessDenied, "Access Denied")
}

impl Caller {
    pub(crate) fn new(
        access: Access,
        principal: Principal,
        bucket: Option<Arc<BucketInfo>>,
        facts: RequestFacts,
    ) -> Self {
        Self(Arc::new(Inner { access, principal, bucket, facts }))
    }

    /// The caller that the door put beside the request. Without one nobody may do anything.
    pub(crate) fn of(extensions: &Extensions) -> S3Result<Self> {
        extensions.get::<Self>().cloned().ok_or_else(access_denied)
    }

    /// Whose buckets are listed, and who owns what is made.
    pub(crate) fn canonical_id(&self) -> S3Result<&str> {
        self.0.principal.canonical_id().ok_or_else(access_denied)
    }

    pub(crate) fn may_everything(&self) -> bool {
        self.0.principal.is_superuser()
    }

    /// Decides about the bucket in the path, and `key` in it.
    pub(crate) async fn must(&self, action: &str, key: Option<&str>) -> S3Result<()> {
        self.must_in(self.0.bucket.as_deref(), action, key).await
    }

    /// The same about another bucket: the source of a copy.
    pub(crate) async fn must_in(
        &self,
        bucket: Option<&BucketInfo>,
        action: &str,
        key: Option<&str>,
    ) -> S3Result<()> {
        match self.decide(bucket, action, key).await? {
            Decision::Allowed { .. } => Ok(()),
            Decision::Denied { rule } => {
                tracing::debug!(action, rule, "denied");
                Err(access_denied())
            }
        }
    }

    async fn decide(
        &self,
        bucket: Option<&BucketInfo>,
        action: &str,
        key: Option<&str>,
    ) -> S3Result<Decision> {
        let bucket = bucket.map(|bucket| BucketOf {
            id: bucket.id.0,
            name: bucket.name.as_str(),
            owner: &bucket.owner,
        });
        let facts = &self.0.facts;
        let request = Request { principal: &self.0.principal, action, bucket, key, facts };
        self.0.access.decide(&request).await.map_err(IntoS3::into_s3)
    }

    /// The bucket's owner, as answers show it.
    pub(crate) async fn owner(&self) -> S3Result<Owner> {
        let id = self.0.bucket.as_ref().map(|bucket| bucket.owner.clone()).unwrap_or_default();
        self.owner_called(id).await
    }

    /// The caller, as answers show it.
    pub(crate) async fn as_owner(&self) -> S3Result<Owner> {
        self.owner_called(self.canonical_id()?.to_owned()).await
    }

    async fn owner_called(&self, id: String) -> S3Result<Owner> {
        let display_name = self.0.access.display_name(&id).await.map_err(IntoS3::into_s3)?;
        Ok(Owner { display_name, id: Some(id) })
    }
}
