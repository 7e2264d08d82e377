//! Keys, values and locks for people: the records crate's own commands, in the admin
//! API's words.
//!
//! The default namespace lives in one data shard, so that it is linearizable as a whole.

use std::{collections::VecDeque, time::Duration};

use atoll_gateway::admin::{
    AdminError, AdminErrorKind,
    api::{
        KvCondition, KvDeleteRequest, KvEvent, KvListRequest, KvPage, KvPutRequest, KvRecord, KvWatchRequest,
        KvWritten, LeaseRequest, LockAnswer, LockRequest,
    },
};
use atoll_records::{
    Compare, Condition, Done, LeaseError, LeaseId, Operation, Read, Record, Records, Transaction,
    TransactionError, TransactionResult, Watch, WatchError,
};
use atoll_runtime::Runtime;
use atoll_types::{Instant, Revision, ShardId};
use bytes::Bytes;
use data_encoding::BASE64;
use futures_util::stream::{self, BoxStream};

use crate::admin::unavailable;

/// Where the default namespace lives.
const SHARD: ShardId = ShardId(1);
/// As long as an S3 request waits for an election.
const ANSWER_TIME: Duration = Duration::from_secs(5);
const PAGE_MAX: u32 = 1000;

pub struct Kv {
    pub runtime: Runtime,
    pub records: Records,
}

fn invalid(message: impl Into<String>) -> AdminError {
    AdminError::new(AdminErrorKind::Invalid, "malformed_request", message)
}

/// A value as JSON carries it: text if it is, base64 if not.
fn value_fields(value: &[u8]) -> (Option<String>, Option<String>) {
    match std::str::from_utf8(value) {
        Ok(text) => (Some(text.into()), None),
        Err(_) => (None, Some(BASE64.encode(value))),
    }
}

fn shown(record: Record) -> KvRecord {
    let (value, value_base64) = value_fields(&record.value);
    KvRecord {
        key: String::from_utf8_lossy(&record.key).into_owned(),
        value,
        value_base64,
        revision: record.revision.0,
    }
}

fn conditions(key: &Bytes, condition: KvCondition) -> Vec<Compare> {
    let KvCondition { if_absent, if_revision, if_value } = condition;
    let conditions = [
        if_absent.then_some(Condition::Absent),
        if_revision.map(|revision| Condition::RevisionIs(Revision(revision))),
        if_value.map(|value| Condition::ValueIs(value.into())),
    ];
    conditions.into_iter().flatten().map(|condition| Compare { key: key.clone(), condition }).collect()
}

impl Kv {
    fn deadline(&self) -> Instant {
        self.runtime.now() + ANSWER_TIME
    }

    pub async fn get(&self, key: &str) -> Result<KvRecord, AdminError> {
        let read = Read::Keys(vec![Bytes::copy_from_slice(key.as_bytes())]);
        let result =
            self.records.read(SHARD, &read, self.deadline()).await.map_err(|error| unavailable(&error))?;
        result.records.into_iter().next().map(shown).ok_or_else(|| no_such_key(key))
    }

    async fn transact(&self, transaction: Transaction) -> Result<TransactionResult, AdminError> {
        let id = self.runtime.transaction_id();
        let result = self.records.transact(SHARD, id, &transaction, self.deadline()).await;
        let result = result.map_err(|error| match error {
            TransactionError::Refused(refused) => invalid(refused.to_string()),
            TransactionError::Records(error) => unavailable(&error),
        })?;
        if result.succeeded {
            return Ok(result);
        }
        let now = match result.results.into_iter().next() {
            Some(Done::Got(Some(record))) => format!("it was last written by revision {}", record.revision),
            _ => "it is not there".into(),
        };
        Err(AdminError::new(
            AdminErrorKind::Conflict,
            "condition_failed",
            format!("the key is not as expected: {now}"),
        ))
    }

    pub async fn put(&self, request: KvPutRequest) -> Result<KvWritten, AdminError> {
        let key = Bytes::from(request.key);
        let value = match (request.value, request.value_base64) {
            (Some(text), None) => Bytes::from(text),
            (None, Some(base64)) => {
                BASE64.decode(base64.as_bytes()).map_err(|_| invalid("value_base64 is not base64"))?.into()
            }
            _ => return Err(invalid("give either value or value_base64")),
        };
        let transaction = Transaction {
            compare: conditions(&key, request.condition),
            then: vec![Operation::Put { key: key.clone(), value, lease: None }],
            otherwise: vec![Operation::Get { key }],
        };
        let result = self.transact(transaction).await?;
        Ok(KvWritten { revision: result.revision.0, existed: false })
    }

    pub async fn delete(&self, request: KvDeleteRequest) -> Result<KvWritten, AdminError> {
        let key = Bytes::from(request.key);
        let transaction = Transaction {
            compare: conditions(&key, request.condition),
            then: vec![Operation::Delete { key: key.clone() }],
            otherwise: vec![Operation::Get { key }],
        };
        let result = self.transact(transaction).await?;
        let existed = result.results.iter().any(|done| *done == Done::Deleted(true));
        Ok(KvWritten { revision: result.revision.0, existed })
    }

    pub async fn list(&self, request: KvListRequest) -> Result<KvPage, AdminError> {
        let limit = request.limit.unwrap_or(PAGE_MAX).clamp(1, PAGE_MAX) as usize;
        let mut read = Read::prefix(request.prefix, limit);
        if let (Some(after), Read::Range { start, .. }) = (request.after, &mut read) {
            // The first key after it.
            let next = Bytes::from([after.as_bytes(), b"\0"].concat());
            *start = next.max(start.clone());
        }
        let result =
            self.records.read(SHARD, &read, self.deadline()).await.map_err(|error| unavailable(&error))?;
        let records: Vec<KvRecord> = result.records.into_iter().map(shown).collect();
        let next_after = if result.more { records.last().map(|record| record.key.clone()) } else { None };
        Ok(KvPage { records, revision: result.revision.0, next_after })
    }

    pub async fn watch(
        &self,
        request: KvWatchRequest,
    ) -> Result<BoxStream<'static, Result<KvEvent, AdminError>>, AdminError> {
        let after = match request.after_revision {
            Some(revision) => Revision(revision),
            // From now on: from what a read sees now.
            None => {
                let read = Read::Keys(Vec::new());
                let now = self.records.read(SHARD, &read, self.deadline()).await;
                now.map_err(|error| unavailable(&error))?.revision
            }
        };
        let watch = self.records.watch_records(SHARD, request.prefix.as_bytes(), after);
        let state = Watching { watch, runtime: self.runtime.clone(), pending: VecDeque::new(), ended: false };
        Ok(Box::pin(stream::unfold(state, Watching::next)))
    }

    pub async fn acquire(&self, request: LockRequest) -> Result<LockAnswer, AdminError> {
        let id = self.runtime.transaction_id();
        let lifetime = Duration::from_secs(request.for_seconds);
        let (holder, name) = (Bytes::from(request.owner), Bytes::from(request.name));
        match self.records.grant_lease(SHARD, id, lifetime, holder, Some(name), self.deadline()).await {
            Ok(granted) => Ok(LockAnswer {
                acquired: true,
                lease: Some(granted.lease.0.to_string()),
                epoch: granted.epoch,
                held_by: None,
            }),
            Err(LeaseError::Held(held)) => Ok(LockAnswer {
                acquired: false,
                lease: None,
                epoch: held.epoch,
                held_by: Some(String::from_utf8_lossy(&held.holder).into_owned()),
            }),
            Err(error) => Err(lease_error(&error)),
        }
    }

    pub async fn keep(&self, request: LeaseRequest) -> Result<LockAnswer, AdminError> {
        let lease = lease_id(&request.lease)?;
        let id = self.runtime.transaction_id();
        let kept = self.records.keep_lease(SHARD, id, lease, self.deadline()).await;
        kept.map_err(|error| lease_error(&error))?;
        Ok(LockAnswer { acquired: true, lease: Some(request.lease), epoch: 0, held_by: None })
    }

    pub async fn release(&self, request: LeaseRequest) -> Result<(), AdminError> {
        let lease = lease_id(&request.lease)?;
        let id = self.runtime.transaction_id();
        match self.records.release_lease(SHARD, id, lease, self.deadline()).await {
            // It is free: what was asked for.
            Ok(()) | Err(LeaseError::Gone { .. }) => Ok(()),
            Err(error) => Err(lease_error(&error)),
        }
    }
}

fn no_such_key(key: &str) -> AdminError {
    AdminError::new(AdminErrorKind::NotFound, "no_such_key", format!("there is no key {key:?}"))
}

fn lease_id(text: &str) -> Result<LeaseId, AdminError> {
    text.parse().map(LeaseId).map_err(|_| invalid("a lease is the number that acquiring gave"))
}

fn lease_error(error: &LeaseError) -> AdminError {
    match error {
        LeaseError::Gone { .. } => AdminError::new(AdminErrorKind::Conflict, "lease_gone", error.to_string()),
        LeaseError::Held(_) => AdminError::new(AdminErrorKind::Conflict, "lock_held", error.to_string()),
        LeaseError::Records(atoll_records::RecordsError::Invalid { reason }) => invalid(reason.clone()),
        LeaseError::Records(error) => unavailable(error),
    }
}

/// A watch as a stream of single events.
struct Watching {
    watch: Watch,
    runtime: Runtime,
    pending: VecDeque<KvEvent>,
    ended: bool,
}

/// Between two tries when no leader answers.
const WATCH_AGAIN: Duration = Duration::from_millis(200);

impl Watching {
    async fn next(mut self) -> Option<(Result<KvEvent, AdminError>, Self)> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Some((Ok(event), self));
            }
            if self.ended {
                return None;
            }
            match self.watch.next().await {
                Ok(changes) => {
                    for change in changes {
                        // A record of a newer program ends the watch like a failure does.
                        let (key, record) = match change.record() {
                            Ok(found) => found,
                            Err(error) => {
                                self.ended = true;
                                let error = AdminError::new(
                                    AdminErrorKind::Internal,
                                    "unreadable",
                                    error.to_string(),
                                );
                                return Some((Err(error), self));
                            }
                        };
                        let (value, value_base64) = match &record {
                            Some(record) => value_fields(&record.value),
                            None => (None, None),
                        };
                        self.pending.push_back(KvEvent {
                            key: String::from_utf8_lossy(&key).into_owned(),
                            deleted: record.is_none(),
                            value,
                            value_base64,
                            revision: change.revision.0,
                        });
                    }
                }
                Err(WatchError::Compacted { compacted }) => {
                    self.ended = true;
                    let message = format!("changes up to revision {compacted} are no longer kept");
                    let error = AdminError::new(AdminErrorKind::Conflict, "compacted", message)
                        .hint("list the keys, and watch from that list's revision");
                    return Some((Err(error), self));
                }
                Err(WatchError::Records(_)) => self.runtime.sleep(WATCH_AGAIN).await,
            }
        }
    }
}
