//! Records for everyone: keys and values with the revision that wrote them, changed by
//! transactions that compare before they write. What `atoll kv` is made of.
//!
//! They live under a prefix of their own, beside what other crates' commands keep in the
//! same shard.

use std::ops::Bound;

use atoll_disk::StoreError;
use atoll_types::{Format, Instant, Revision, ShardId, TransactionId};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    Change, Command, Pairs, Procedures, Query, ReadView, Records, RecordsError, Verdict, Watch, WriteView,
    lease::{self, LeaseId},
    state::decode,
};

const TRANSACTION: &str = "records/transaction/1";
const READ: &str = "records/read/1";

/// Before each key; the area's key is `records/kv/` and the user's key, byte for byte.
pub const KV_PREFIX: &[u8] = b"records/kv/";

/// 4 KiB: names, not contents.
pub const KEY_BYTES_MAX: usize = 4 << 10;
/// 512 KiB: with keys and comparisons an entry stays under 1 MiB (rule 11).
pub const VALUE_BYTES_MAX: usize = 512 << 10;
/// Comparisons, and operations of either branch: 1,024 of a KiB fill an entry.
pub const STEPS_MAX: usize = 1024;
/// 512 KiB of records that a transaction reads: its result is remembered (rule 2).
const GOT_BYTES_MAX: usize = 512 << 10;
/// 2 MiB: a page of a range; the rest is read from where it ends.
const READ_BYTES_MAX: usize = 2 << 20;
/// Records in a page, at most.
pub const READ_RECORDS_MAX: usize = 10_000;

/// A record as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stored {
    /// The transaction that wrote it last, and the one that made it.
    revision: Revision,
    created: Revision,
    lease: Option<LeaseId>,
    value: Bytes,
}

impl Format for Stored {
    const NAME: &'static str = "record";
    const VERSION: u8 = 1;
}

/// A record as it is read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    pub key: Bytes,
    pub value: Bytes,
    /// The transaction that wrote it last.
    pub revision: Revision,
    /// The transaction that made it.
    pub created: Revision,
    /// It goes when this lease does.
    pub lease: Option<LeaseId>,
}

/// What a transaction insists on about one key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Condition {
    Exists,
    Absent,
    /// Was last written by this transaction.
    RevisionIs(Revision),
    ValueIs(Bytes),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Compare {
    pub key: Bytes,
    pub condition: Condition,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Operation {
    /// With a lease, the record goes when the lease does. Without, a lease that it had
    /// lets go of it.
    Put {
        key: Bytes,
        value: Bytes,
        lease: Option<LeaseId>,
    },
    Delete {
        key: Bytes,
    },
    Get {
        key: Bytes,
    },
}

/// If everything in `compare` holds then `then`, otherwise `otherwise`; in order, each
/// operation seeing those before it, and all of them or none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transaction {
    pub compare: Vec<Compare>,
    pub then: Vec<Operation>,
    pub otherwise: Vec<Operation>,
}

impl Format for Transaction {
    const NAME: &'static str = "transaction";
    const VERSION: u8 = 1;
}

/// One operation's result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Done {
    Put,
    /// Whether there was something to delete.
    Deleted(bool),
    Got(Option<Record>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TransactionResult {
    pub revision: Revision,
    /// Which branch was taken: `then` if true.
    pub succeeded: bool,
    /// Of that branch's operations.
    pub results: Vec<Done>,
}

/// Why a transaction did nothing, for good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
pub enum TransactionRefused {
    #[error("a key has 1 to {KEY_BYTES_MAX} bytes")]
    Key,
    #[error("a value has at most {VALUE_BYTES_MAX} bytes")]
    Value,
    #[error("a transaction has at most {STEPS_MAX} steps")]
    TooManySteps,
    #[error("what the transaction reads is over {GOT_BYTES_MAX} bytes")]
    TooMuchRead,
    #[error("lease {0} does not exist")]
    NoLease(LeaseId),
    #[error("the transaction is malformed")]
    Malformed,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TransactionError {
    /// The caller's; nothing happened.
    #[error(transparent)]
    Refused(#[from] TransactionRefused),
    /// See there.
    #[error(transparent)]
    Records(#[from] RecordsError),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Output {
    Done { succeeded: bool, results: Vec<Done> },
    Refused(TransactionRefused),
}

impl Format for Output {
    const NAME: &'static str = "transaction output";
    const VERSION: u8 = 1;
}

pub(crate) fn register(procedures: &mut Procedures) {
    procedures.command(TRANSACTION, Transact).query(READ, RunRead).watched(KV_PREFIX);
}

fn stored_key(key: &[u8]) -> Vec<u8> {
    [KV_PREFIX, key].concat()
}

fn stored(view: &dyn ReadView, key: &[u8]) -> Result<Option<Stored>, StoreError> {
    view.get(&stored_key(key))?.map(|bytes| decode(&bytes)).transpose()
}

fn record(key: Bytes, stored: Stored) -> Record {
    let Stored { revision, created, lease, value } = stored;
    Record { key, value, revision, created, lease }
}

/// Removes a record, and its lease's hold on it. For leases too.
pub(crate) fn delete(view: &mut dyn WriteView, key: &[u8]) -> Result<bool, StoreError> {
    let Some(found) = stored(view, key)? else { return Ok(false) };
    if let Some(lease) = found.lease {
        lease::detach(view, lease, key);
    }
    view.delete(&stored_key(key));
    Ok(true)
}

/// Why an operation ends the transaction.
enum Stop {
    Refused(TransactionRefused),
    Store(StoreError),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Stop::Store(error)
    }
}

struct Transact;

impl Command for Transact {
    fn apply(&self, view: &mut dyn WriteView, input: &[u8]) -> Result<Verdict, StoreError> {
        match transact(view, input) {
            Ok((succeeded, results)) => {
                let wrote = results.iter().any(|done| !matches!(done, Done::Got(_) | Done::Deleted(false)));
                let output = Output::Done { succeeded, results }.encode();
                Ok(if wrote { Verdict::Commit(output) } else { Verdict::Abort(output) })
            }
            Err(Stop::Refused(refused)) => Ok(Verdict::Abort(Output::Refused(refused).encode())),
            Err(Stop::Store(error)) => Err(error),
        }
    }
}

fn check(transaction: &Transaction) -> Result<(), TransactionRefused> {
    let Transaction { compare, then, otherwise } = transaction;
    if compare.len() > STEPS_MAX || then.len() > STEPS_MAX || otherwise.len() > STEPS_MAX {
        return Err(TransactionRefused::TooManySteps);
    }
    let operations = then.iter().chain(otherwise);
    for operation in operations.clone() {
        if let Operation::Put { value, .. } = operation
            && value.len() > VALUE_BYTES_MAX
        {
            return Err(TransactionRefused::Value);
        }
    }
    let keys = operations.map(|operation| match operation {
        Operation::Put { key, .. } | Operation::Delete { key } | Operation::Get { key } => key,
    });
    let mut keys = keys.chain(compare.iter().map(|compare| &compare.key));
    if keys.any(|key| key.is_empty() || key.len() > KEY_BYTES_MAX) {
        return Err(TransactionRefused::Key);
    }
    Ok(())
}

fn transact(view: &mut dyn WriteView, input: &[u8]) -> Result<(bool, Vec<Done>), Stop> {
    let transaction = Transaction::decode(input).map_err(|_| Stop::Refused(TransactionRefused::Malformed))?;
    check(&transaction).map_err(Stop::Refused)?;
    let mut succeeded = true;
    for Compare { key, condition } in &transaction.compare {
        let found = stored(view, key)?;
        succeeded &= match condition {
            Condition::Exists => found.is_some(),
            Condition::Absent => found.is_none(),
            Condition::RevisionIs(revision) => found.is_some_and(|found| found.revision == *revision),
            Condition::ValueIs(value) => found.is_some_and(|found| found.value == *value),
        };
    }
    let branch = if succeeded { transaction.then } else { transaction.otherwise };
    let mut got_bytes = 0;
    let mut results = Vec::with_capacity(branch.len());
    for operation in branch {
        results.push(match operation {
            Operation::Put { key, value, lease } => {
                put(view, &key, value, lease)?;
                Done::Put
            }
            Operation::Delete { key } => Done::Deleted(delete(view, &key)?),
            Operation::Get { key } => {
                let found = stored(view, &key)?;
                got_bytes += found.as_ref().map_or(0, |found| found.value.len() + key.len());
                if got_bytes > GOT_BYTES_MAX {
                    return Err(Stop::Refused(TransactionRefused::TooMuchRead));
                }
                Done::Got(found.map(|found| record(key, found)))
            }
        });
    }
    Ok((succeeded, results))
}

fn put(view: &mut dyn WriteView, key: &[u8], value: Bytes, lease: Option<LeaseId>) -> Result<(), Stop> {
    let before = stored(view, key)?;
    let held_by = before.as_ref().and_then(|before| before.lease);
    if held_by != lease {
        if let Some(old) = held_by {
            lease::detach(view, old, key);
        }
        if let Some(lease) = lease
            && !lease::attach(view, lease, key)?
        {
            return Err(Stop::Refused(TransactionRefused::NoLease(lease)));
        }
    }
    let revision = view.revision();
    let created = before.map_or(revision, |before| before.created);
    view.put(&stored_key(key), Stored { revision, created, lease, value }.encode().into());
    Ok(())
}

/// What to read; all of it at one revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Read {
    Keys(Vec<Bytes>),
    /// Records from `start` to before `end` (to the last without one), in key order, or
    /// from the last one down.
    Range {
        start: Bytes,
        end: Option<Bytes>,
        limit: usize,
        backwards: bool,
    },
}

impl Read {
    /// All records whose key begins with `prefix`, from the first on.
    pub fn prefix(prefix: impl Into<Bytes>, limit: usize) -> Self {
        let start = prefix.into();
        Read::Range { end: after_prefix(&start).map(Bytes::from), start, limit, backwards: false }
    }
}

/// The first key after all that begin with `prefix`; `None` if there can't be one.
pub(crate) fn after_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|byte| *byte < u8::MAX)?;
    let mut after = prefix[..=last].to_vec();
    after[last] += 1;
    Some(after)
}

impl Format for Read {
    const NAME: &'static str = "read";
    const VERSION: u8 = 1;
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadResult {
    /// The newest entry that this read saw: where a watch goes on.
    pub revision: Revision,
    /// Keys that have no record are left out.
    pub records: Vec<Record>,
    /// More follow: the limit, or the page's size, was reached.
    pub more: bool,
}

impl Format for ReadResult {
    const NAME: &'static str = "read result";
    const VERSION: u8 = 1;
}

struct RunRead;

impl Query for RunRead {
    fn run(&self, view: &dyn ReadView, input: &[u8]) -> Result<Vec<u8>, StoreError> {
        let mut result = ReadResult { revision: view.revision(), ..ReadResult::default() };
        match Read::decode(input) {
            Ok(Read::Keys(keys)) => {
                let mut bytes = 0;
                for key in keys {
                    if bytes > READ_BYTES_MAX {
                        result.more = true;
                        break;
                    }
                    if let Some(found) = stored(view, &key)? {
                        bytes += key.len() + found.value.len();
                        result.records.push(record(key, found));
                    }
                }
            }
            Ok(Read::Range { start, end, limit, backwards }) => {
                read_range(view, &start, end.as_deref(), limit, backwards, &mut result)?;
            }
            // A newer caller's: to it an answer without any record is as malformed as
            // this was to us.
            Err(_) => return Ok(Vec::new()),
        }
        Ok(result.encode())
    }
}

fn read_range(
    view: &dyn ReadView,
    start: &[u8],
    end: Option<&[u8]>,
    limit: usize,
    backwards: bool,
    result: &mut ReadResult,
) -> Result<(), StoreError> {
    let start = stored_key(start);
    let end = match end {
        Some(end) => stored_key(end),
        None => after_prefix(KV_PREFIX).expect("the prefix is not all ones"),
    };
    let (start, end) = (Bound::Included(&start[..]), Bound::Excluded(&end[..]));
    let pairs: Pairs<'_> = if backwards { view.range_backwards(start, end) } else { view.range(start, end) };
    let mut bytes = 0;
    for pair in pairs {
        let (key, value) = pair?;
        if result.records.len() >= limit.min(READ_RECORDS_MAX) || bytes > READ_BYTES_MAX {
            result.more = true;
            break;
        }
        bytes += key.len() + value.len();
        result.records.push(record(key.slice(KV_PREFIX.len()..), decode(&value)?));
    }
    Ok(())
}

impl Records {
    /// Runs a transaction on the shard's records, once under this `id`.
    pub async fn transact(
        &self,
        shard: ShardId,
        id: TransactionId,
        transaction: &Transaction,
        deadline: Instant,
    ) -> Result<TransactionResult, TransactionError> {
        check(transaction)?;
        let executed = self.execute(shard, id, TRANSACTION, transaction.encode().into(), deadline).await?;
        match Output::decode(&executed.output) {
            Ok(Output::Done { succeeded, results }) => {
                Ok(TransactionResult { revision: executed.revision, succeeded, results })
            }
            Ok(Output::Refused(refused)) => Err(refused.into()),
            Err(error) => Err(RecordsError::Invalid { reason: error.to_string() }.into()),
        }
    }

    /// Reads records of the shard, as of now or later.
    pub async fn read(
        &self,
        shard: ShardId,
        read: &Read,
        deadline: Instant,
    ) -> Result<ReadResult, RecordsError> {
        let output = self.query(shard, READ, read.encode().into(), deadline).await?;
        ReadResult::decode(&output).map_err(|error| RecordsError::Invalid { reason: error.to_string() })
    }
}

impl Records {
    /// Watches records whose keys begin with `prefix`; [`Change::record`] reads what comes.
    pub fn watch_records(&self, shard: ShardId, prefix: &[u8], revision: Revision) -> Watch {
        self.watch(shard, stored_key(prefix), revision)
    }
}

impl Record {
    /// What lies under `key` in a shard, if that is a record of this module.
    pub fn stored(key: &Bytes, value: &[u8]) -> Result<Option<Record>, StoreError> {
        if !key.starts_with(KV_PREFIX) {
            return Ok(None);
        }
        Ok(Some(record(key.slice(KV_PREFIX.len()..), decode(value)?)))
    }
}

impl Change {
    /// The record's key and what it became, `None` if it was deleted. An error for what is
    /// no record of this module.
    pub fn record(&self) -> Result<(Bytes, Option<Record>), StoreError> {
        let key = self.key.slice(KV_PREFIX.len().min(self.key.len())..);
        let found = self.value.as_ref().map(|value| decode(value)).transpose()?;
        Ok((key.clone(), found.map(|found| record(key, found))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_follows_a_prefix_is_the_next_key_that_has_it_not() {
        assert_eq!(after_prefix(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(after_prefix(b"a\xff\xff"), Some(b"b".to_vec()));
        assert_eq!(after_prefix(b"\xff"), None);
        assert_eq!(after_prefix(b""), None);
    }
}
