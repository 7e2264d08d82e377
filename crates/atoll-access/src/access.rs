//! The handle: a confirmed copy of shard 0's access records, and changes to them.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, RwLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use atoll_records::{Records, RecordsError};
use atoll_runtime::{AbortOnDrop, Runtime};
use atoll_types::{Format, FormatError, Instant, ShardId};
use tokio::sync::Mutex;

use crate::{
    AdminToken, Decision, KeyRecord, Principal, Resource, Secret, TokenRecord,
    decision::decide,
    records::{CHANGE, Change, SNAPSHOT, SnapshotReply, SnapshotRequest},
};

/// The oldest confirmation that an answer may rest on (rule 16).
pub const STALENESS_MAX: Duration = Duration::from_secs(5);

/// How often a node confirms its copy. Two of them and a query's time fit in
/// [`STALENESS_MAX`], so one lost confirmation delays nobody.
pub const REFRESH_EVERY: Duration = Duration::from_millis(1500);

/// How long a lookup waits for shard 0 when the copy is too old: an election (under 3 s)
/// fits in it, and a node that is cut off has said so within 5 s.
const LOOKUP_WAIT: Duration = Duration::from_secs(4);

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
    /// Shard 0's answer is not one this program reads: the cluster is newer.
    #[error("the cluster's access records are not readable by this version")]
    Unreadable {
        #[source]
        source: FormatError,
    },
}

#[derive(Default)]
struct Snapshot {
    version: u64,
    /// When the question that confirmed this copy was sent: a change committed before
    /// then is in it.
    confirmed_at: Option<Instant>,
    /// The number of that question.
    question: u64,
    keys: BTreeMap<String, Arc<KeyRecord>>,
    tokens: Vec<TokenRecord>,
}

impl Snapshot {
    fn is_fresh(&self, now: Instant) -> bool {
        self.confirmed_at.is_some_and(|confirmed| now.saturating_since(confirmed) <= STALENESS_MAX)
    }
}

struct Inner {
    runtime: Runtime,
    records: Records,
    snapshot: RwLock<Arc<Snapshot>>,
    /// One question to shard 0 at a time: whoever waits for it shares the answer, so a
    /// flood of unknown keys costs shard 0 no more than one asker does.
    refreshing: Mutex<()>,
    /// How many questions were sent. Numbers and not times say which came before which:
    /// two things may happen at one instant.
    questions: AtomicU64,
    /// The token in this node's own data folder: signs in here even while shard 0 is
    /// away, which is when an operator needs `status` most.
    local_token: RwLock<Option<AdminToken>>,
}

/// Cheap to clone.
#[derive(Clone)]
pub struct Access {
    inner: Arc<Inner>,
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
        });
        let refresher = runtime.spawn_owned("access refresh", keep_fresh(inner.clone()));
        Self { inner, _refresher: Arc::new(refresher) }
    }

    /// The key's record, or `None` if there is no such key (or no longer).
    pub async fn lookup(&self, access_key: &str) -> Result<Option<Arc<KeyRecord>>, AccessError> {
        let now = self.inner.runtime.now();
        let snapshot = self.inner.current();
        if snapshot.is_fresh(now)
            && let Some(key) = snapshot.keys.get(access_key)
        {
            return Ok(Some(key.clone()));
        }
        // Too old, or not there: it may have been created on another node a moment ago.
        let snapshot = self.inner.refreshed(LOOKUP_WAIT).await?;
        Ok(snapshot.keys.get(access_key).cloned())
    }

    /// Who the bearer of `token` is, or `None` if nobody knows it.
    pub async fn sign_in(&self, token: &AdminToken) -> Result<Option<Principal>, AccessError> {
        let hash = token.hash();
        let local = self.inner.local_token.read().expect("never poisoned").as_ref().map(AdminToken::hash);
        if local == Some(hash) {
            return Ok(Some(Principal::Operator { name: "local".into() }));
        }
        let find = |snapshot: &Snapshot| {
            let found = snapshot.tokens.iter().find(|record| record.hash == hash);
            found.map(|record| Principal::Operator { name: record.name.clone() })
        };
        let now = self.inner.runtime.now();
        let snapshot = self.inner.current();
        if snapshot.is_fresh(now)
            && let Some(principal) = find(&snapshot)
        {
            return Ok(Some(principal));
        }
        Ok(find(&*self.inner.refreshed(LOOKUP_WAIT).await?))
    }

    /// May `principal` do `action` to `resource`? The one place where that is decided.
    pub fn decide(&self, principal: &Principal, action: &str, resource: Resource<'_>) -> Decision {
        decide(principal, action, resource)
    }

    /// Creates the cluster's first key unless there is one, and returns the oldest key
    /// of the root user.
    pub async fn found_root(
        &self,
        access_key: &str,
        secret: Secret,
        deadline: Instant,
    ) -> Result<Arc<KeyRecord>, AccessError> {
        self.change(Change::FoundRoot { access_key: access_key.into(), secret }, deadline).await?;
        let snapshot = self.inner.refreshed(LOOKUP_WAIT).await?;
        let oldest = snapshot.keys.values().min_by_key(|key| (key.created, key.access_key.clone()));
        // Deleted between the two steps: gone again, ask again.
        let gone = || AccessError::Unavailable { source: RecordsError::Unavailable { shard: ShardId::META } };
        oldest.cloned().ok_or_else(gone)
    }

    pub async fn put_key(
        &self,
        access_key: &str,
        secret: Secret,
        user: &str,
        deadline: Instant,
    ) -> Result<(), AccessError> {
        let change = Change::PutKey { access_key: access_key.into(), secret, user: user.into() };
        self.change(change, deadline).await
    }

    /// Holds on every node within [`STALENESS_MAX`].
    pub async fn delete_key(&self, access_key: &str, deadline: Instant) -> Result<(), AccessError> {
        self.change(Change::DeleteKey { access_key: access_key.into() }, deadline).await
    }

    /// Makes `token` this node's own: good here at once, and on every node once shard 0
    /// has its hash. `name` is unique; a second token under it replaces the first.
    pub async fn register_token(
        &self,
        name: &str,
        token: &AdminToken,
        deadline: Instant,
    ) -> Result<(), AccessError> {
        self.set_local_token(token.clone());
        self.change(Change::PutToken { hash: token.hash(), name: name.into() }, deadline).await
    }

    /// The part of [`Access::register_token`] that needs no shard.
    pub fn set_local_token(&self, token: AdminToken) {
        *self.inner.local_token.write().expect("never poisoned") = Some(token);
    }

    pub async fn delete_token(&self, name: &str, deadline: Instant) -> Result<(), AccessError> {
        self.change(Change::DeleteToken { name: name.into() }, deadline).await
    }

    async fn change(&self, change: Change, deadline: Instant) -> Result<(), AccessError> {
        let inner = &self.inner;
        let id = inner.runtime.transaction_id();
        inner
            .records
            .execute(ShardId::META, id, CHANGE, change.encode().into(), deadline)
            .await
            .map_err(|source| AccessError::Unavailable { source })?;
        Ok(())
    }
}

impl Inner {
    fn current(&self) -> Arc<Snapshot> {
        self.snapshot.read().expect("never poisoned").clone()
    }

    /// A copy confirmed by a question that is sent after this call.
    async fn refreshed(&self, wait: Duration) -> Result<Arc<Snapshot>, AccessError> {
        let sent_before = self.questions.load(Ordering::SeqCst);
        let deadline = self.runtime.now() + wait;
        let unavailable = |source| AccessError::Unavailable { source };
        // The wait for one's turn counts too: behind a shard that does not answer, all
        // give up together and not one after the other.
        let turn = self.runtime.timeout_at(deadline, self.refreshing.lock()).await;
        let _turn = turn.map_err(|_| unavailable(RecordsError::Unavailable { shard: ShardId::META }))?;
        let current = self.current();
        if current.question > sent_before {
            return Ok(current);
        }
        let asked_at = self.runtime.now();
        let question = self.questions.fetch_add(1, Ordering::SeqCst) + 1;
        let request = SnapshotRequest { newer_than: current.version };
        let reply = self
            .records
            .query(ShardId::META, SNAPSHOT, request.encode().into(), deadline)
            .await
            .map_err(unavailable)?;
        let reply = SnapshotReply::decode(&reply).map_err(|source| AccessError::Unreadable { source })?;
        let next = Arc::new(match reply.content {
            None => Snapshot {
                version: current.version,
                confirmed_at: Some(asked_at),
                question,
                keys: current.keys.clone(),
                tokens: current.tokens.clone(),
            },
            Some(content) => Snapshot {
                version: reply.version,
                confirmed_at: Some(asked_at),
                question,
                keys: content.keys.into_iter().map(|key| (key.access_key.clone(), Arc::new(key))).collect(),
                tokens: content.tokens,
            },
        });
        *self.snapshot.write().expect("never poisoned") = next.clone();
        Ok(next)
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
