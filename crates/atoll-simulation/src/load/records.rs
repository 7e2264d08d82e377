//! Transactions over few records, in groups that have nothing to do with each other.

use std::collections::BTreeMap;

use rand::Rng;

use super::{Answer, Operation, Outcome, client::Caller};
use crate::linearizability::{register::Value, transactions::Transaction};

/// Few enough that one group's history is found to be in order, or not, in time.
const GROUPS: usize = 3;
const KEYS: usize = 3;
/// All records that clients write have it.
pub(super) const PREFIX: &str = "record ";

/// What a client knows of the records.
#[derive(Default)]
pub(super) struct RecordsClient {
    seen: BTreeMap<String, Option<Value>>,
}

impl RecordsClient {
    /// `fresh` is a number that no other transaction has.
    pub async fn transact(&mut self, caller: &mut Caller, fresh: u64, over_http: bool) {
        let group = caller.rng.random_range(0..GROUPS);
        let key = |number: usize| format!("{PREFIX}{group}/{number}");
        let mut transaction = Transaction::default();
        for number in 0..KEYS {
            let key = key(number);
            if caller.rng.random_bool(0.5) {
                transaction.reads.push(key.clone());
            }
            if let Some(seen) = self.seen.get(&key)
                && caller.rng.random_bool(0.3)
            {
                transaction.compares.push((key.clone(), *seen));
            }
            match caller.rng.random_range(0..100) {
                // Each record of one transaction has a value of its own.
                0..35 => transaction.writes.push((key, Some(Value(fresh * KEYS as u64 + number as u64)))),
                35..40 => transaction.writes.push((key, None)),
                _ => {}
            }
        }
        if transaction == Transaction::default() {
            transaction.reads.push(key(0));
        }
        let mut id = Some(caller.rng.random());
        if over_http {
            (transaction, id) = (one_of(transaction), None);
        }
        let outcome = caller.ask(Operation::Transact { transaction: transaction.clone(), id }).await;
        let Outcome::Answered(Answer::Transacted { committed, read, .. }) = outcome else { return };
        self.seen.extend(transaction.reads.into_iter().zip(read));
        if committed {
            self.seen.extend(transaction.writes);
        }
    }
}

/// One write of the transaction and what it demands of that record, or one of its reads.
fn one_of(transaction: Transaction) -> Transaction {
    let Transaction { mut reads, mut compares, mut writes } = transaction;
    match writes.pop() {
        Some((key, value)) => {
            compares.retain(|(compared, _)| *compared == key);
            Transaction { reads: Vec::new(), compares, writes: vec![(key, value)] }
        }
        None => {
            let key = reads.pop().or_else(|| compares.pop().map(|(key, _)| key));
            Transaction { reads: key.into_iter().collect(), ..Transaction::default() }
        }
    }
}
