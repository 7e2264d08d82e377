//! What was said of one bucket, ready to decide by; and putting policies.

use std::collections::BTreeMap;

use atoll_types::Instant;

use crate::{
    Access, AccessError, BucketOf, ChangeError,
    access::LOOKUP_WAIT,
    policy::{MalformedPolicy, Policy},
    records::{Act, BucketId, BucketRules, PolicyRecord, PublicAccessBlock},
};

/// A bucket's rules, with its policy read.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct GuardedBucket {
    pub(crate) rules: BucketRules,
    pub(crate) policy: Option<ReadPolicy>,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum ReadPolicy {
    Policy {
        policy: Policy,
        is_public: bool,
    },
    /// Written by a program that knows more of the language: what it denies is not known
    /// here, so it denies everything.
    Unreadable,
}

impl GuardedBucket {
    pub(crate) fn of(rules: BucketRules) -> Self {
        let policy = rules.policy.as_ref().map(|record| match Policy::read(&record.text) {
            Ok(policy) => {
                let is_public = policy.is_public();
                ReadPolicy::Policy { policy: policy.with_users(record.users.clone()), is_public }
            }
            Err(_) => ReadPolicy::Unreadable,
        });
        Self { rules, policy }
    }
}

/// A bucket's policy as it was put.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeptPolicy {
    pub text: String,
    /// Lets in people whom nobody named.
    pub is_public: bool,
}

/// Why a policy was not put. The one before holds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PutPolicyError {
    #[error(transparent)]
    Malformed(#[from] MalformedPolicy),
    /// The bucket's public access block forbids public policies.
    #[error("public policies are blocked")]
    PublicBlocked,
    #[error(transparent)]
    Change(#[from] ChangeError),
}

impl From<AccessError> for PutPolicyError {
    fn from(error: AccessError) -> Self {
        PutPolicyError::Change(error.into())
    }
}

impl Access {
    /// Puts a bucket's policy in the place of the one before.
    pub async fn put_policy(
        &self,
        bucket: BucketOf<'_>,
        text: &str,
        deadline: Instant,
    ) -> Result<(), PutPolicyError> {
        let policy = Policy::parse(text, bucket.name)?;
        let content = self.inner.refreshed(LOOKUP_WAIT).await?.content.clone();
        let (names, ids) = policy.names();
        let invalid = |who: &str| MalformedPolicy { reason: format!("Invalid principal in policy: {who:?}") };
        let mut users = BTreeMap::new();
        for name in names {
            let user = content.users.get(name).ok_or_else(|| invalid(name))?;
            users.insert(name.to_owned(), user.canonical_id.clone());
        }
        for id in ids {
            if !content.users.values().any(|user| user.canonical_id == id) {
                return Err(invalid(id).into());
            }
        }
        let guarded = content.buckets.get(&bucket.id);
        let block = guarded.and_then(|guarded| guarded.rules.public_access_block).unwrap_or_default();
        if block.block_public_policy && policy.is_public() {
            return Err(PutPolicyError::PublicBlocked);
        }
        let policy = Some(PolicyRecord { text: text.into(), users });
        Ok(self.act(Act::PutPolicy { bucket: bucket.id, policy }, deadline).await?)
    }

    /// The bucket's policy as shard 0 has it now.
    pub async fn policy(&self, bucket: BucketId) -> Result<Option<KeptPolicy>, AccessError> {
        let snapshot = self.inner.refreshed(LOOKUP_WAIT).await?;
        let Some(guarded) = snapshot.content.buckets.get(&bucket) else { return Ok(None) };
        let is_public = match guarded.policy {
            Some(ReadPolicy::Policy { is_public, .. }) => is_public,
            Some(ReadPolicy::Unreadable) | None => false,
        };
        Ok(guarded.rules.policy.as_ref().map(|record| KeptPolicy { text: record.text.clone(), is_public }))
    }

    pub async fn delete_policy(&self, bucket: BucketId, deadline: Instant) -> Result<(), ChangeError> {
        self.act(Act::PutPolicy { bucket, policy: None }, deadline).await
    }

    pub async fn put_public_access_block(
        &self,
        bucket: BucketId,
        block: Option<PublicAccessBlock>,
        deadline: Instant,
    ) -> Result<(), ChangeError> {
        self.act(Act::PutPublicAccessBlock { bucket, block }, deadline).await
    }

    /// What shard 0 has of the bucket now.
    pub async fn newest_rules(&self, bucket: BucketId) -> Result<BucketRules, AccessError> {
        let snapshot = self.inner.refreshed(LOOKUP_WAIT).await?;
        Ok(snapshot.content.buckets.get(&bucket).map(|guarded| guarded.rules.clone()).unwrap_or_default())
    }
}
