//! How a simulated node performs clients' operations: by the calls that the gateway makes,
//! below HTTP.

use std::sync::Arc;

use atoll_objects::{
    ByteRange, CompleteUpload, CompleteUploadError, CopyObject, CopyObjectError, CreateUpload,
    CreateUploadError, DeleteObject, DeleteObjectError, ETagCondition, GetObject, GetObjectError,
    ListObjects, ListObjectsError, ObjectHeaders, ObjectKey, PutBody, PutObject, PutObjectError,
    ReadConditions, UploadError, UploadId, UploadPart, UploadPartError, WriteConditions,
};
use atoll_records::{
    Compare, Condition as RecordCondition, Done, LeaseError, LeaseId, Operation as Step, Read,
    Transaction as RecordTransaction, TransactionError, WatchError,
};
use atoll_types::{Instant, Revision, ShardId, TransactionId};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream};

use super::{RunningNode, bucket, chain};
use crate::{
    linearizability::{
        register::{Condition, Value},
        transactions::Transaction,
    },
    load::{Answer, Load, Operation, Outcome, Page, PageEntry, RecordChange, Span, Target},
};

/// Where people's records and locks are, as in the admin API.
const RECORDS: ShardId = ShardId(1);
/// The user header that tells an object's value.
const VALUE: &str = "value";
/// Bodies come in pieces, as from a socket.
const PIECE: usize = 64 << 10;

impl Target for RunningNode {
    fn perform(self: Arc<Self>, operation: Operation) -> BoxFuture<'static, Outcome> {
        async move {
            match operation {
                Operation::Get { key, span } => self.get(&key, span).await,
                Operation::Put { key, value, condition, id } => self.put(&key, value, condition, id).await,
                Operation::Delete { key, condition, id } => self.delete(&key, condition, id).await,
                Operation::Copy { from, value, to, condition, id } => {
                    self.copy(&from, value, &to, condition, id).await
                }
                Operation::List { prefix, delimiter, after, limit } => {
                    self.list(prefix, delimiter, after, limit).await
                }
                Operation::CreateUpload { key, value } => self.create_upload(&key, value).await,
                Operation::UploadPart { key, upload, value, part } => {
                    self.upload_part(&key, &upload, value, part).await
                }
                Operation::CompleteUpload { key, upload, value, condition } => {
                    self.complete_upload(&key, &upload, value, condition).await
                }
                Operation::AbortUpload { key, upload } => self.abort_upload(&key, &upload).await,
                Operation::Transact { transaction, id } => self.transact(transaction, id).await,
                Operation::Acquire { lock, owner, ttl, id } => {
                    let (id, lock) = (self.id(id), Some(lock.into()));
                    let deadline = self.deadline();
                    let granted =
                        self.node.records().grant_lease(RECORDS, id, ttl, owner.into(), lock, deadline).await;
                    let granted = granted
                        .map(|granted| Answer::Granted { lease: granted.lease.0, epoch: granted.epoch });
                    lease_outcome(granted)
                }
                Operation::Keep { lease, .. } => {
                    let id = self.runtime.transaction_id();
                    let kept =
                        self.node.records().keep_lease(RECORDS, id, LeaseId(lease), self.deadline()).await;
                    lease_outcome(kept.map(|()| Answer::Done))
                }
                Operation::Release { lease, .. } => {
                    let id = self.runtime.transaction_id();
                    let released =
                        self.node.records().release_lease(RECORDS, id, LeaseId(lease), self.deadline()).await;
                    lease_outcome(released.map(|()| Answer::Done))
                }
                Operation::Watch { prefix, after } => self.watch(&prefix, after).await,
            }
        }
        .boxed()
    }
}

fn object_key(name: &str) -> ObjectKey {
    ObjectKey::new(name.to_owned()).expect("a legal key")
}

fn transaction_id(id: u128) -> TransactionId {
    TransactionId(id.to_be_bytes())
}

fn is(value: Value) -> ETagCondition {
    ETagCondition::OneOf(vec![value.etag()])
}

fn conditions(condition: Condition) -> WriteConditions {
    match condition {
        Condition::None => WriteConditions::default(),
        Condition::Absent => {
            WriteConditions { if_none_match: Some(ETagCondition::Any), ..WriteConditions::default() }
        }
        Condition::Is(value) => WriteConditions { if_match: Some(is(value)), ..WriteConditions::default() },
    }
}

fn headers(Value(value): Value) -> ObjectHeaders {
    ObjectHeaders { user: [(VALUE.to_owned(), value.to_string())].into(), ..ObjectHeaders::default() }
}

fn body(bytes: &Bytes) -> PutBody {
    let pieces: Vec<_> = bytes.chunks(PIECE).map(|piece| Ok(bytes.slice_ref(piece))).collect();
    PutBody { length: Some(bytes.len() as u64), ..PutBody::new(stream::iter(pieces).boxed()) }
}

/// What no client of a sound system should hear.
fn unexpected(what: &str, error: &dyn std::error::Error) -> ! {
    panic!("{what}: {}", chain(error))
}

/// Keys of the bucket are text, since clients chose them.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn put_outcome<T>(what: &str, result: Result<T, PutObjectError>) -> Outcome {
    match result {
        Ok(_) => Outcome::Answered(Answer::Done),
        Err(PutObjectError::PreconditionFailed | PutObjectError::NoSuchKey) => {
            Outcome::Answered(Answer::Refused)
        }
        Err(PutObjectError::Unavailable(_)) => Outcome::Unknown,
        Err(error) => unexpected(what, &error),
    }
}

fn lease_outcome(result: Result<Answer, LeaseError>) -> Outcome {
    match result {
        Ok(answer) => Outcome::Answered(answer),
        Err(LeaseError::Held(held)) => Outcome::Answered(Answer::Held { epoch: held.epoch }),
        Err(LeaseError::Gone { .. }) => Outcome::Answered(Answer::Gone),
        Err(LeaseError::Records(_)) => Outcome::Unknown,
    }
}

fn stored(Value(value): Value) -> Bytes {
    Bytes::copy_from_slice(&value.to_le_bytes())
}

fn read_back(bytes: &[u8]) -> Value {
    Value(u64::from_le_bytes(bytes.try_into().expect("clients write eight bytes")))
}

/// Reads before it writes; what was read comes with either branch.
fn as_record_transaction(transaction: Transaction) -> RecordTransaction {
    let compare = transaction.compares.into_iter().map(|(key, value)| Compare {
        key: key.into(),
        condition: value.map_or(RecordCondition::Absent, |value| RecordCondition::ValueIs(stored(value))),
    });
    let reads: Vec<Step> = transaction.reads.into_iter().map(|key| Step::Get { key: key.into() }).collect();
    let writes = transaction.writes.into_iter().map(|(key, value)| match value {
        Some(value) => Step::Put { key: key.into(), value: stored(value), lease: None },
        None => Step::Delete { key: key.into() },
    });
    RecordTransaction {
        compare: compare.collect(),
        then: reads.iter().cloned().chain(writes).collect(),
        otherwise: reads,
    }
}

impl RunningNode {
    fn id(&self, id: Option<u128>) -> TransactionId {
        id.map_or_else(|| self.runtime.transaction_id(), transaction_id)
    }

    fn deadline(&self) -> Instant {
        self.runtime.now() + Load::LIMIT / 2
    }

    async fn get(&self, key: &str, span: Option<Span>) -> Outcome {
        let request = GetObject {
            bucket: bucket(),
            key: object_key(key),
            version: None,
            range: span.map(|span| ByteRange::Between(span.first, span.last)),
            conditions: ReadConditions::default(),
            customer_key: None,
        };
        let mut got = match self.node.objects().get(request).await {
            Ok(got) => got,
            Err(GetObjectError::NoSuchKey) => return Outcome::Answered(Answer::Found(None)),
            // A shorter object than the one that the client saw.
            Err(GetObjectError::InvalidRange { .. }) => return Outcome::NotDone,
            Err(GetObjectError::Unavailable(_)) => return Outcome::Unknown,
            Err(error) => unexpected("get", &error),
        };
        let mut bytes = Vec::new();
        while let Some(piece) = got.body.next().await {
            let Ok(piece) = piece else { return Outcome::Unknown };
            bytes.extend_from_slice(&piece);
        }
        let value = got.info.headers.user.get(VALUE).and_then(|value| value.parse().ok()).map(Value);
        let wrong = match value {
            None => Some("an object that tells no value".to_owned()),
            Some(value) => value.difference(got.range.start, &bytes, span.is_none()),
        };
        Outcome::Answered(wrong.map_or(Answer::Found(value), Answer::WrongBytes))
    }

    async fn put(&self, key: &str, value: Value, condition: Condition, id: Option<u128>) -> Outcome {
        let request = PutObject {
            bucket: bucket(),
            key: object_key(key),
            headers: headers(value),
            conditions: conditions(condition),
            idempotency: id.map(transaction_id),
            encryption: None,
            body: body(&value.body()),
        };
        put_outcome("put", self.node.objects().put(request).await)
    }

    async fn delete(&self, key: &str, condition: Condition, id: Option<u128>) -> Outcome {
        let request = DeleteObject {
            bucket: bucket(),
            key: object_key(key),
            version: None,
            conditions: conditions(condition),
            idempotency: id.map(transaction_id),
        };
        match self.node.objects().delete(request).await {
            Ok(_) => Outcome::Answered(Answer::Done),
            Err(DeleteObjectError::PreconditionFailed | DeleteObjectError::NoSuchKey) => {
                Outcome::Answered(Answer::Refused)
            }
            Err(DeleteObjectError::Unavailable(_)) => Outcome::Unknown,
            Err(error) => unexpected("delete", &error),
        }
    }

    async fn copy(
        &self,
        from: &str,
        value: Value,
        to: &str,
        condition: Condition,
        id: Option<u128>,
    ) -> Outcome {
        let request = CopyObject {
            source_bucket: bucket(),
            source_key: object_key(from),
            source_version: None,
            source_conditions: ReadConditions { if_match: Some(is(value)), ..ReadConditions::default() },
            source_customer_key: None,
            bucket: bucket(),
            key: object_key(to),
            conditions: conditions(condition),
            encryption: None,
            // Those of the source may be another value's with the same bytes.
            headers: Some(headers(value)),
            acl: None,
            idempotency: id.map(transaction_id),
        };
        match self.node.objects().copy(request).await {
            Ok(_) => Outcome::Answered(Answer::Done),
            Err(CopyObjectError::Source(GetObjectError::NoSuchKey | GetObjectError::PreconditionFailed)) => {
                Outcome::Answered(Answer::SourceRefused)
            }
            Err(CopyObjectError::Source(GetObjectError::Unavailable(_))) => Outcome::Unknown,
            Err(CopyObjectError::Destination(error)) => put_outcome::<()>("copy", Err(error)),
            Err(error) => unexpected("copy", &error),
        }
    }

    async fn list(
        &self,
        prefix: String,
        delimiter: Option<String>,
        after: Option<String>,
        limit: usize,
    ) -> Outcome {
        let request = ListObjects {
            bucket: bucket(),
            prefix: prefix.into(),
            delimiter: delimiter.map(Into::into),
            start_after: after.map(Into::into),
            limit,
        };
        match self.node.objects().list(request).await {
            Ok(page) => Outcome::Answered(Answer::Page(Page {
                entries: page
                    .entries
                    .iter()
                    .map(|entry| PageEntry {
                        key: text(entry.key.as_bytes()),
                        etag: entry.etag.to_string(),
                        size: entry.size,
                    })
                    .collect(),
                prefixes: page.common_prefixes.iter().map(|prefix| text(prefix)).collect(),
                next: page.next.as_deref().map(text),
            })),
            Err(ListObjectsError::Unavailable(_)) => Outcome::Unknown,
            Err(error) => unexpected("list", &error),
        }
    }

    async fn create_upload(&self, key: &str, value: Value) -> Outcome {
        let request = CreateUpload {
            bucket: bucket(),
            key: object_key(key),
            headers: headers(value),
            checksum: None,
            encryption: None,
        };
        match self.node.objects().create_upload(request).await {
            Ok(created) => Outcome::Answered(Answer::Upload(created.upload.to_string())),
            Err(CreateUploadError::Unavailable(_)) => Outcome::Unknown,
            Err(error) => unexpected("create upload", &error),
        }
    }

    async fn upload_part(&self, key: &str, upload: &str, value: Value, part: u16) -> Outcome {
        let bytes = value.parts().swap_remove(usize::from(part) - 1);
        let request = UploadPart {
            bucket: bucket(),
            key: object_key(key),
            upload: upload_id(upload),
            number: part,
            customer_key: None,
            body: body(&bytes),
        };
        match self.node.objects().upload_part(request).await {
            Ok(_) => Outcome::Answered(Answer::Done),
            Err(UploadPartError::NoSuchUpload) => Outcome::Answered(Answer::NoUpload),
            Err(UploadPartError::Put(error)) => put_outcome::<()>("part", Err(error)),
            Err(error) => unexpected("part", &error),
        }
    }

    async fn complete_upload(&self, key: &str, upload: &str, value: Value, condition: Condition) -> Outcome {
        let parts = value.part_etags();
        let request = CompleteUpload {
            bucket: bucket(),
            key: object_key(key),
            upload: upload_id(upload),
            parts: (1..).zip(parts).collect(),
            conditions: conditions(condition),
            checksum: None,
            customer_key: None,
        };
        match self.node.objects().complete_upload(request).await {
            Ok(_) => Outcome::Answered(Answer::Done),
            Err(CompleteUploadError::PreconditionFailed | CompleteUploadError::NoSuchKey) => {
                Outcome::Answered(Answer::Refused)
            }
            Err(CompleteUploadError::NoSuchUpload) => Outcome::Answered(Answer::NoUpload),
            Err(CompleteUploadError::Unavailable(_)) => Outcome::Unknown,
            Err(error) => unexpected("complete upload", &error),
        }
    }

    async fn abort_upload(&self, key: &str, upload: &str) -> Outcome {
        match self.node.objects().abort_upload(&bucket(), &object_key(key), upload_id(upload)).await {
            Ok(()) => Outcome::Answered(Answer::Done),
            Err(UploadError::NoSuchUpload) => Outcome::Answered(Answer::NoUpload),
            Err(UploadError::Unavailable(_)) => Outcome::Unknown,
            Err(error) => unexpected("abort upload", &error),
        }
    }

    async fn transact(&self, transaction: Transaction, id: Option<u128>) -> Outcome {
        let transaction = as_record_transaction(transaction);
        let result = self.node.records().transact(RECORDS, self.id(id), &transaction, self.deadline()).await;
        match result {
            Ok(result) => {
                let read = result.results.into_iter().filter_map(|done| match done {
                    Done::Got(record) => Some(record.map(|record| read_back(&record.value))),
                    Done::Put | Done::Deleted(_) => None,
                });
                Outcome::Answered(Answer::Transacted {
                    committed: result.succeeded,
                    read: read.collect(),
                    revision: result.revision.0,
                })
            }
            Err(TransactionError::Records(_)) => Outcome::Unknown,
            Err(error) => unexpected("transaction", &error),
        }
    }

    async fn watch(&self, prefix: &str, after: Option<u64>) -> Outcome {
        let records = self.node.records();
        let Some(from) = after else {
            let read = records.read(RECORDS, &Read::Keys(Vec::new()), self.deadline()).await;
            let Ok(read) = read else { return Outcome::Unknown };
            let (from, upto) = (read.revision.0, read.revision.0);
            return Outcome::Answered(Answer::Changes { from, upto, changes: Vec::new() });
        };
        let mut watch = records.watch_records(RECORDS, prefix.as_bytes(), Revision(from));
        match watch.next().await {
            Ok(changes) => {
                let told = changes.iter().map(|change| {
                    let (key, record) = change.record().expect("clients write records");
                    let value = record.map(|record| read_back(&record.value));
                    RecordChange { revision: change.revision.0, key: text(&key), value }
                });
                let (changes, upto) = (told.collect(), watch.revision().0);
                Outcome::Answered(Answer::Changes { from, upto, changes })
            }
            Err(WatchError::Compacted { .. }) => Outcome::Answered(Answer::Compacted),
            Err(WatchError::Records(_)) => Outcome::Unknown,
        }
    }
}

fn upload_id(text: &str) -> UploadId {
    text.parse().expect("as the system gave it")
}
