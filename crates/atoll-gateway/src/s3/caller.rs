//! Who asks, and about which bucket: what one request carries from the door to the verbs,
//! so that a verb that finds more to decide (the keys of a DeleteObjects) can ask.

use std::sync::{Arc, OnceLock};

use atoll_access::{Access, AccessError, BucketOf, Decision, FoundObject, ObjectAcls, Principal, Request};
use atoll_objects::{
    BucketInfo, ETagCondition, GetObject, GetObjectError, ObjectInfo, ObjectKey, Objects, ReadConditions,
};
use http::{Extensions, HeaderMap};
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
    objects: Objects,
    /// What was decided by which object's ACL. Written once, by the door.
    by_object: OnceLock<ByObject>,
    /// The source of a copy, if its ACL was looked at. Written once, by the door.
    source_etag: OnceLock<String>,
}

struct ByObject {
    action: String,
    key: String,
    acl: FoundObject,
}

/// Looks at an object's ACL, should the decision rest on it.
struct Look<'a> {
    objects: &'a Objects,
    bucket: &'a BucketInfo,
    key: &'a str,
    version: Option<&'a str>,
    /// Written once it was asked: what it saw, and its ETag, empty if there was nothing.
    seen: OnceLock<(FoundObject, String)>,
}

#[async_trait::async_trait]
impl ObjectAcls for Look<'_> {
    async fn found(&self) -> Result<FoundObject, AccessError> {
        let (Ok(key), Ok(version)) =
            (ObjectKey::new(self.key.to_owned()), self.version.map(str::parse).transpose())
        else {
            return Ok(FoundObject::Missing);
        };
        let get = GetObject {
            bucket: self.bucket.name.clone(),
            key,
            version,
            range: None,
            conditions: Default::default(),
            customer_key: None,
        };
        let seen = match self.objects.info(get).await {
            Ok(info) => (FoundObject::There(info.headers.acl), info.etag.to_string()),
            Err(
                GetObjectError::NoSuchBucket(_)
                | GetObjectError::NoSuchKey
                | GetObjectError::NoSuchVersion
                | GetObjectError::Deleted { .. }
                | GetObjectError::DeleteMarker { .. },
            ) => (FoundObject::Missing, String::new()),
            Err(error) => {
                tracing::debug!(%error, "an object's ACL can't be read");
                return Err(AccessError::AclUnknown);
            }
        };
        Ok(self.seen.get_or_init(|| seen).0.clone())
    }
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
        objects: Objects,
    ) -> Self {
        let (by_object, source_etag) = (OnceLock::new(), OnceLock::new());
        Self(Arc::new(Inner { access, principal, bucket, facts, objects, by_object, source_etag }))
    }

    /// The same caller, whose request says what these headers say in place of its own: a form's
    /// fields.
    pub(crate) fn with_amz_headers(&self, headers: &HeaderMap) -> Self {
        let inner = &*self.0;
        let mut facts = inner.facts.clone();
        let names = facts.headers.keys().filter(|name| name.as_str().starts_with("x-amz-"));
        for name in names.cloned().collect::<Vec<_>>() {
            facts.headers.remove(name);
        }
        facts.headers.extend(headers.clone());
        let (access, objects) = (inner.access.clone(), inner.objects.clone());
        Self::new(access, inner.principal.clone(), inner.bucket.clone(), facts, objects)
    }

    pub(crate) fn access(&self) -> &Access {
        &self.0.access
    }

    /// The bucket in the path.
    pub(crate) fn bucket(&self) -> S3Result<&BucketInfo> {
        self.0.bucket.as_deref().ok_or_else(access_denied)
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
        let version = self.0.facts.version();
        let bucket = self.0.bucket.as_deref();
        let look = bucket.zip(key).map(|(bucket, key)| self.look(bucket, key, version.as_deref()));
        self.must_in(bucket, action, key, look.as_ref().map(|look| look as &dyn ObjectAcls)).await?;
        if let Some((look, (acl, _))) = look.and_then(|look| Some((look.key, look.seen.into_inner()?))) {
            let _ = self.0.by_object.set(ByObject { action: action.into(), key: look.into(), acl });
        }
        Ok(())
    }

    /// The same about an object whose ACL is known.
    pub(crate) async fn must_with(
        &self,
        action: &str,
        key: Option<&str>,
        object: &FoundObject,
    ) -> S3Result<()> {
        self.must_in(self.0.bucket.as_deref(), action, key, Some(object)).await
    }

    /// What was decided by an object's ACL is decided again by that of the object that was then
    /// read: another may have been put in between.
    pub(crate) async fn confirm(&self, info: &ObjectInfo) -> S3Result<()> {
        let Some(ByObject { action, key, acl }) = self.0.by_object.get() else { return Ok(()) };
        let read = FoundObject::There(info.headers.acl.clone());
        if read == *acl { Ok(()) } else { self.must_with(action, Some(key), &read).await }
    }

    /// The source of a copy, in whatever bucket.
    pub(crate) async fn must_read_source(
        &self,
        bucket: &BucketInfo,
        key: &str,
        version: Option<&str>,
    ) -> S3Result<()> {
        let action = if version.is_some() { "s3:GetObjectVersion" } else { "s3:GetObject" };
        let look = self.look(bucket, key, version);
        self.must_in(Some(bucket), action, Some(key), Some(&look)).await?;
        if let Some((_, etag)) = look.seen.into_inner() {
            let _ = self.0.source_etag.set(etag);
        }
        Ok(())
    }

    /// Conditions on a copy's source that hold only for what was looked at, if its ACL was.
    pub(crate) fn pinned(&self, mut conditions: ReadConditions) -> ReadConditions {
        if let Some(seen) = self.0.source_etag.get() {
            let wanted = match conditions.if_match {
                Some(ETagCondition::OneOf(tags)) if !tags.contains(seen) => Vec::new(),
                _ => vec![seen.clone()],
            };
            conditions.if_match = Some(ETagCondition::OneOf(wanted));
        }
        conditions
    }

    fn look<'a>(&'a self, bucket: &'a BucketInfo, key: &'a str, version: Option<&'a str>) -> Look<'a> {
        Look { objects: &self.0.objects, bucket, key, version, seen: OnceLock::new() }
    }

    async fn must_in(
        &self,
        bucket: Option<&BucketInfo>,
        action: &str,
        key: Option<&str>,
        object: Option<&dyn ObjectAcls>,
    ) -> S3Result<()> {
        match self.decide(bucket, action, key, object).await? {
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
        object: Option<&dyn ObjectAcls>,
    ) -> S3Result<Decision> {
        let bucket = bucket.map(|bucket| BucketOf {
            id: bucket.id.0,
            name: bucket.name.as_str(),
            owner: &bucket.owner,
        });
        let facts = &self.0.facts;
        let request = Request { principal: &self.0.principal, action, bucket, key, facts, object };
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

    pub(crate) async fn owner_called(&self, id: String) -> S3Result<Owner> {
        let display_name = self.0.access.display_name(&id).await.map_err(IntoS3::into_s3)?;
        Ok(Owner { display_name, id: Some(id) })
    }
}
