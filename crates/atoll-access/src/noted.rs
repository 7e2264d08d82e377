//! What of the decisions goes into the audit trail, and in which words.

use std::sync::atomic::Ordering;

use atoll_types::Instant;

use crate::{
    Access, AccessError, Action, Decision, Principal, Request,
    audit::{Auditor, Entry, Head, LinkedBatch},
};

/// Paths of the admin API on which clients work with data, all the time: reading and writing
/// there is no administrative act.
const DATA_PATHS: [&str; 5] = ["/v1/kv", "/v1/locks", "/v1/overlay", "/v1/chunks", "/v1/restore/records"];

/// A request on which another than [`Access::decide`] decides: refused before there was anything
/// to decide (no such key or token, a signature that does not hold), or of a node and not of a
/// user.
#[derive(Debug, Clone, Default)]
pub struct NotedRequest {
    /// Whom it claims to be of.
    pub who: String,
    pub what: String,
    pub on: String,
    pub from: String,
    pub rule: String,
}

fn is_act(action: &str) -> bool {
    match action.strip_prefix("admin:") {
        Some(path) => !path.starts_with("GET ") && !DATA_PATHS.iter().any(|data| path.contains(data)),
        None => Action::find(action).is_some_and(Action::is_act),
    }
}

fn who(principal: &Principal) -> String {
    match principal {
        Principal::Anonymous => "anonymous".into(),
        Principal::User { user, key } => format!("user {}, key {}", user.name, key.access_key),
        Principal::Operator { name } => format!("operator {name}"),
    }
}

fn on(request: &Request<'_>) -> String {
    match (&request.bucket, request.key) {
        (Some(bucket), Some(key)) => format!("{}/{key}", bucket.name),
        (Some(bucket), None) => bucket.name.into(),
        (None, key) => key.unwrap_or_default().into(),
    }
}

impl Access {
    /// From now on decisions are noted by `auditor`. Once.
    pub fn audit_with(&self, auditor: Auditor) {
        // A second one is the same node's.
        let _ = self.inner.auditor.set(auditor);
    }

    /// The trail begins with the cluster version that all nodes know it from.
    fn auditor(&self) -> Option<&Auditor> {
        self.inner.auditor.get().filter(|_| self.inner.acts_allowed.load(Ordering::Acquire))
    }

    pub(crate) async fn note(&self, request: &Request<'_>, decision: &Decision) -> Result<(), AccessError> {
        let act = is_act(request.action);
        let Some(auditor) = self.auditor().filter(|_| act || !decision.is_allowed()) else { return Ok(()) };
        let from = request.facts.values("aws:sourceip").unwrap_or_default().into_iter().next();
        let entry = Entry {
            at: self.inner.runtime.wall_now(),
            who: who(request.principal),
            what: request.action.into(),
            on: on(request),
            from: from.unwrap_or_default(),
            allowed: decision.is_allowed(),
            rule: decision.rule().into(),
        };
        match entry.allowed {
            true => auditor.act(entry).await,
            false => {
                auditor.denied(entry);
                Ok(())
            }
        }
    }

    /// Notes a request that never came to a decision.
    pub fn note_refused(&self, refused: NotedRequest) {
        if let Some(auditor) = self.auditor() {
            auditor.denied(self.entry(refused, false));
        }
    }

    /// Notes an act of a node, or of an operator at its data folder; it is in the trail once this
    /// returns, and may be done then.
    pub async fn note_act(&self, act: NotedRequest) -> Result<(), AccessError> {
        match self.auditor() {
            Some(auditor) => auditor.act(self.entry(act, true)).await,
            None => Ok(()),
        }
    }

    fn entry(&self, noted: NotedRequest, allowed: bool) -> Entry {
        let NotedRequest { who, what, on, from, rule } = noted;
        Entry { at: self.inner.runtime.wall_now(), who, what, on, from, allowed, rule }
    }

    /// Links after the one with this index, some of them, and where the trail ends.
    pub async fn audit_page(
        &self,
        after: u64,
        limit: u32,
        deadline: Instant,
    ) -> Result<(Vec<LinkedBatch>, Head), AccessError> {
        match self.auditor() {
            Some(auditor) => auditor.page(after, limit, deadline).await,
            None => Ok((Vec::new(), Head::default())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn acts_are_what_changes_the_cluster_or_who_may_do_what() {
        for act in [
            "admin:POST /v1/users",
            "admin:DELETE /v1/keys/{key}",
            "admin:PUT /v1/settings/{name}",
            "s3:PutBucketPolicy",
            "s3:DeleteBucket",
            "s3:CreateBucket",
            "s3:PutObjectAcl",
        ] {
            assert!(is_act(act), "{act}");
        }
        for none in [
            "admin:GET /v1/status",
            "admin:POST /v1/kv/put",
            "admin:POST /v1/locks/keep",
            "s3:PutObject",
            "s3:GetBucketPolicy",
            "s3:ListBucket",
            "s3:DeleteObject",
        ] {
            assert!(!is_act(none), "{none}");
        }
    }
}
