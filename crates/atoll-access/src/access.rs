//! The handle: a confirmed copy of shard 0's access records, and who signed.

use std::{
    sync::{
        Arc, OnceLock, RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use atoll_records::{Records, RecordsError};
use atoll_runtime::{AbortOnDrop, Runtime};
use atoll_types::{Format, FormatError, Instant, ShardId, WallTime};
use bytes::Bytes;
use tokio::sync::Mutex;

use crate::{
    AdminToken, Decision, FoundObject, KeyRecord, Principal, Request,
    audit::Auditor,
    content::Content,
    decision::{decide, decide_by_object},
    limit::Limits,
    records::{BucketId, BucketRules, CHANGES, ChangesReply, ChangesRequest, Ownership, UserRecord, first},
};

/// The oldest confirmation that an answer may rest on (rule 16).
pub const STALENESS_MAX: Duration = Duration::from_secs(5);

/// How often a node confirms its copy. Two of them and a query's time fit in
/// [`STALENESS_MAX`], so one lost confirmation delays nobody.
pub const REFRESH_EVERY: Duration = Duration::from_millis(1500);

/// How long a lookup waits for shard 0 when the copy is too old: an election (under 3 s)
/// fits in it, and a node that is cut off has said so within 5 s.
pub(crate) const LOOKUP_WAIT: Duration = Duration::from_secs(4);

/// How long a change waits for shard 0: an election, and a retry after it.
const CHANGE_WAIT: Duration = Duration::from_secs(10);

/// How long the background confirmation waits before it tries again.
const REFRESH_WAIT: Duration = Duration::from_secs(2);

const _: () = assert!(2 * REFRESH_EVERY.as_millis() < STALENESS_MAX.as_millis());

/// Why there is no answer. Nothing was decided; the caller says "try again" (503).
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AccessError {
    /// The copy is older than [`STALENESS_MAX`], and shard 0 did not answer.
    #[error("access keys can't be confirmed right now")]
    Unavailable {
        #[source]
        source: RecordsError,
    },
    /// The decision rests on an object's ACL, and its shard did not answer.
    #[error("the object's ACL can't be read right now")]
    AclUnknown,
    /// Shard 0's answer is not one this program reads: the cluster is newer.
    #[error("the cluster's access records are not readable by this version")]
    Unreadable {
        #[source]
        source: FormatError,
    },
}

impl AccessError {
    /// What was just written is gone again, or shard 0 is: asking again helps.
    pub(crate) fn gone() -> Self {
        AccessError::Unavailable { source: RecordsError::Unavailable { shard: ShardId::META } }
    }
}

#[derive(Clone, Default)]
pub(crate) struct Snapshot {
    pub(crate) content: Arc<Content>,
    version: u64,
    /// The newest version when the log was last read from its beginning.
    began_at: u64,
    /// When the question that confirmed this copy was sent: a change committed before
    /// then is in it.
    confirmed_at: Option<Instant>,
    /// The number of that question.
    question: u64,
}

impl Snapshot {
    fn is_fresh(&self, now: Instant) -> bool {
        self.confirmed_at.is_some_and(|confirmed| now.saturating_since(confirmed) <= STALENESS_MAX)
    }
}

pub(crate) struct Inner {
    pub(crate) runtime: Runtime,
    pub(crate) records: Records,
    snapshot: RwLock<Arc<Snapshot>>,
    /// One question to shard 0 at a time: whoever waits for it shares the answer, so a
    /// flood of unknown keys costs shard 0 no more than one asker does.
    refreshing: Mutex<()>,
    /// How many questions were sent. Numbers and not times say which came before which:
    /// two things may happen at one instant.
    questions: AtomicU64,
    /// The token in this node's own data folder: signs in here even while shard 0 is
    /// away, which is when an operator needs `status` most.
    pub(crate) local_token: RwLock<Option<AdminToken>>,
    /// All nodes read what acts write (rule 18). Set once, never cleared.
    pub(crate) acts_allowed: AtomicBool,
    /// Set once, by the node; without it nothing is noted.
    pub(crate) auditor: OnceLock<Auditor>,
    limits: Limits,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Access {
    pub(crate) inner: Arc<Inner>,
    _refresher: Arc<AbortOnDrop>,
}

impl Access {
    /// Starts with nothing known; the first lookup asks shard 0.
    pub fn start(runtime: Runtime, records: Records) -> Self {
        let inner = Arc::new(Inner {
            runtime: runtime.clone(),
            records,
            snapshot: RwLock::default(),
            refreshing: Mutex::new(()),
            questions: AtomicU64::new(0),
            local_token: RwLock::default(),
            acts_allowed: AtomicBool::new(false),
            auditor: OnceLock::new(),
            limits: Limits::default(),
        });
        let refresher = runtime.spawn_owned("access refresh", keep_fresh(inner.clone()));
        Self { inner, _refresher: Arc::new(refresher) }
    }

    /// The key's record, or `None` if there is no such key (or no longer).
    pub async fn lookup(&self, access_key: &str) -> Result<Option<Arc<KeyRecord>>, AccessError> {
        self.find(|content| content.keys.get(access_key).cloned()).await
    }

    /// Who speaks with this key; `None` if there is no such key, or its user is gone.
    pub async fn principal(&self, access_key: &str) -> Result<Option<Principal>, AccessError> {
        self.find(|content| {
            let key = content.keys.get(access_key)?.clone();
            let user = content.users.get(&key.user)?.clone();
            Some(Principal::User { user, key })
        })
        .await
    }

    /// Whether one more request by `principal` is within its key's limit. Asked once for each
    /// request that is proven to be its own.
    pub fn is_within_limit(&self, principal: &Principal) -> bool {
        match principal {
            Principal::User { key, .. } => self.inner.limits.admits(key, self.inner.runtime.now()),
            Principal::Anonymous | Principal::Operator { .. } => true,
        }
    }

    /// Who the bearer of `token` is, or `None` if nobody knows it.
    pub async fn sign_in(&self, token: &AdminToken) -> Result<Option<Principal>, AccessError> {
        let hash = token.hash();
        let local = self.inner.local_token.read().expect("never poisoned").as_ref().map(AdminToken::hash);
        if local == Some(hash) {
            return Ok(Some(Principal::Operator { name: "local".into() }));
        }
        self.find(|content| {
            let found = content.tokens().find(|record| record.hash == hash);
            found.map(|record| Principal::Operator { name: record.name.clone() })
        })
        .await
    }

    /// What was said of the bucket; nothing for most.
    pub async fn rules(&self, bucket: BucketId) -> Result<BucketRules, AccessError> {
        let content = self.inner.fresh().await?;
        Ok(content.buckets.get(&bucket).map(|guarded| guarded.rules.clone()).unwrap_or_default())
    }

    /// Whose objects are in the bucket, and whether its ACLs are enabled.
    pub async fn ownership(&self, bucket: BucketId) -> Result<Ownership, AccessError> {
        let content = self.inner.fresh().await?;
        Ok(content.buckets.get(&bucket).map(|guarded| guarded.rules.ownership).unwrap_or_default())
    }

    /// The name to show for a canonical id; `None` if it is nobody's (any more).
    pub async fn display_name(&self, canonical_id: &str) -> Result<Option<String>, AccessError> {
        let content = self.inner.fresh().await?;
        let user = content.users.values().find(|user| user.canonical_id == canonical_id);
        Ok(user.map(|user| user.display_name.clone()))
    }

    /// What requests are decided by that ask for the time.
    pub fn wall_now(&self) -> WallTime {
        self.inner.runtime.wall_now()
    }

    /// Until when a change is waited for: an election fits in it.
    pub fn deadline(&self) -> Instant {
        self.inner.runtime.now() + CHANGE_WAIT
    }

    /// All users, by name.
    pub async fn users(&self) -> Result<Vec<Arc<UserRecord>>, AccessError> {
        Ok(self.inner.refreshed(LOOKUP_WAIT).await?.content.users.values().cloned().collect())
    }

    /// All keys, by name.
    pub async fn keys(&self) -> Result<Vec<Arc<KeyRecord>>, AccessError> {
        Ok(self.inner.refreshed(LOOKUP_WAIT).await?.content.keys.values().cloned().collect())
    }

    /// May this be done? The one place where that is decided. What is denied goes into the
    /// audit trail; an administrative act is in it before this returns.
    pub async fn decide(&self, request: &Request<'_>) -> Result<Decision, AccessError> {
        let guarded = match &request.bucket {
            Some(bucket) => self.inner.fresh().await?.buckets.get(&bucket.id).cloned(),
            None => None,
        };
        let decision = match (decide(request, guarded.as_deref()), guarded, request.object) {
            (Ok(decision), ..) => decision,
            (Err(rests), Some(guarded), Some(object)) => {
                decide_by_object(request, &guarded, rests, &object.found().await?)
            }
            (Err(rests), guarded, _) => {
                let private = FoundObject::There(None);
                decide_by_object(request, &guarded.unwrap_or_default(), rests, &private)
            }
        };
        self.note(request, &decision).await?;
        Ok(decision)
    }

    /// What the confirmed copy has, or, if it has nothing, what shard 0 has now: it may have
    /// been created on another node a moment ago.
    async fn find<T>(&self, find: impl Fn(&Content) -> Option<T>) -> Result<Option<T>, AccessError> {
        let snapshot = self.inner.current();
        if snapshot.is_fresh(self.inner.runtime.now())
            && let Some(found) = find(&snapshot.content)
        {
            return Ok(Some(found));
        }
        Ok(find(&self.inner.refreshed(LOOKUP_WAIT).await?.content))
    }
}

impl Inner {
    fn current(&self) -> Arc<Snapshot> {
        self.snapshot.read().expect("never poisoned").clone()
    }

    /// The copy, if it was confirmed in time, or one that is confirmed now.
    async fn fresh(&self) -> Result<Arc<Content>, AccessError> {
        let snapshot = self.current();
        if snapshot.is_fresh(self.runtime.now()) {
            return Ok(snapshot.content.clone());
        }
        Ok(self.refreshed(LOOKUP_WAIT).await?.content.clone())
    }

    /// A copy confirmed by a question that is sent after this call.
    pub(crate) async fn refreshed(&self, wait: Duration) -> Result<Arc<Snapshot>, AccessError> {
        let sent_before = self.questions.load(Ordering::SeqCst);
        let deadline = self.runtime.now() + wait;
        // The wait for one's turn counts too: behind a shard that does not answer, all
        // give up together and not one after the other.
        let turn = self.runtime.timeout_at(deadline, self.refreshing.lock()).await;
        let _turn = turn.map_err(|_| AccessError::gone())?;
        let current = self.current();
        if current.question > sent_before {
            return Ok(current);
        }
        let asked_at = self.runtime.now();
        let question = self.questions.fetch_add(1, Ordering::SeqCst) + 1;
        let mut next = self.newest(Snapshot::clone(&current), deadline).await?;
        next.confirmed_at = Some(asked_at);
        next.question = question;
        let next = Arc::new(next);
        *self.snapshot.write().expect("never poisoned") = next.clone();
        Ok(next)
    }

    /// The log from where the copy ends to its end, page after page. Changes that come in
    /// between are in the last page; so what is confirmed is the state at the last question,
    /// which is later than the first.
    async fn newest(&self, mut copy: Snapshot, deadline: Instant) -> Result<Snapshot, AccessError> {
        let unreadable = |source| AccessError::Unreadable { source };
        loop {
            let request = ChangesRequest { newer_than: copy.version, began_at: copy.began_at };
            let reply = match self.ask(CHANGES, request.encode(), deadline).await {
                // The leader's program is older than the log.
                Err(RecordsError::Invalid { .. }) => return self.newest_first(deadline).await,
                reply => reply.map_err(|source| AccessError::Unavailable { source })?,
            };
            match ChangesReply::decode(&reply).map_err(unreadable)? {
                ChangesReply::NotKept => return self.newest_first(deadline).await,
                ChangesReply::Page { anew, changed, version, newest } => {
                    if anew {
                        copy = Snapshot { began_at: newest, ..Snapshot::default() };
                    }
                    if !changed.is_empty() {
                        let content = Arc::make_mut(&mut copy.content);
                        for change in &changed {
                            content.apply(change).map_err(unreadable)?;
                        }
                    }
                    copy.version = version;
                    if version >= newest {
                        return Ok(copy);
                    }
                }
            }
        }
    }

    /// The same from a cluster that keeps no log yet: everything, each time. It is keys of
    /// one user.
    async fn newest_first(&self, deadline: Instant) -> Result<Snapshot, AccessError> {
        let request = first::SnapshotRequest { newer_than: 0 };
        let reply = self.ask(first::SNAPSHOT, request.encode(), deadline).await;
        let reply = reply.map_err(|source| AccessError::Unavailable { source })?;
        let reply =
            first::SnapshotReply::decode(&reply).map_err(|source| AccessError::Unreadable { source })?;
        // Version 0: once there is a log, it is read from its beginning.
        let content = Arc::new(Content::first(reply.content.unwrap_or_default()));
        Ok(Snapshot { content, ..Snapshot::default() })
    }

    async fn ask(
        &self,
        query: &'static str,
        request: Vec<u8>,
        deadline: Instant,
    ) -> Result<Bytes, RecordsError> {
        self.records.query(ShardId::META, query, request.into(), deadline).await
    }
}

/// Confirms the copy for as long as the handle lives. Failures need no report: lookups
/// meet them and say so.
async fn keep_fresh(inner: Arc<Inner>) {
    loop {
        if let Err(error) = inner.refreshed(REFRESH_WAIT).await {
            tracing::debug!(%error, "access records not confirmed");
        }
        inner.runtime.sleep(REFRESH_EVERY).await;
    }
}
