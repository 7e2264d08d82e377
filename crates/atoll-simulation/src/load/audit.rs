//! The last client: when the faults have stopped, it asks each target for one operation
//! of each kind until it is answered (liveness), and reads everything that was ever
//! written.
//!
//! What it sees is part of the history like everybody's.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use atoll_runtime::Runtime;
use rand::rngs::StdRng;

use super::{
    Answer, Kind, Load, Note, Operation, Outcome, SharedHistory, Size, Target, client::Caller, records,
};
use crate::{
    executor::lock,
    linearizability::{
        register::{Condition, Value},
        transactions::Transaction,
    },
};

/// Not one of the clients' numbers, nor one of their assistants'.
const AUDITOR: u64 = (1 << 36) - 1;
/// How often a read is tried that nobody answers.
const TRIES: usize = 20;
/// Objects per page of the last listing.
const PAGE: usize = 50;

/// How long one target took to answer one kind of operation, from the beginning of the
/// audit; `None`: longer than the limit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Promptness {
    pub target: usize,
    pub kind: Kind,
    pub took: Option<Duration>,
}

pub struct Audit {
    caller: Caller,
    kinds: BTreeSet<Kind>,
    count: u64,
}

impl Audit {
    /// `kinds`: what the load had.
    pub fn new(
        kinds: BTreeSet<Kind>,
        runtime: Runtime,
        rng: StdRng,
        targets: Vec<Arc<dyn Target>>,
        history: SharedHistory,
        note: Note,
    ) -> Self {
        let (elsewhere, remembered) = (100, Duration::ZERO);
        let caller = Caller { number: AUDITOR, runtime, rng, targets, history, note, elsewhere, remembered };
        Self { caller, kinds, count: 0 }
    }

    /// Asks every target for everything until it answers, or `limit` has passed.
    pub async fn try_everything(&mut self, limit: Duration) -> Vec<Promptness> {
        let (began, kinds) = (self.caller.runtime.now(), self.kinds.clone());
        let mut found = Vec::new();
        for target in 0..self.caller.targets.len() {
            for kind in kinds.iter().copied() {
                let took = loop {
                    let answered = self.try_once(target, kind).await;
                    let passed = self.caller.runtime.now().saturating_since(began);
                    if answered || passed > limit {
                        break (answered && passed <= limit).then_some(passed);
                    }
                };
                found.push(Promptness { target, kind, took });
            }
        }
        found
    }

    async fn try_once(&mut self, target: usize, kind: Kind) -> bool {
        self.count += 1;
        let key = "audit".to_owned();
        let value = Value::sized(AUDITOR * 1_000_000 + self.count, Size::OverInline, false);
        let (condition, id) = (Condition::None, None);
        let operation = match kind {
            Kind::Get => Operation::Get { key, span: None },
            Kind::Put => Operation::Put { key, value, condition, id },
            Kind::Delete => Operation::Delete { key, condition, id },
            // Of what is not there: refused is an answer, too.
            Kind::Copy => Operation::Copy { from: key, value, to: "audited".to_owned(), condition, id },
            Kind::List => Operation::List { prefix: key, delimiter: None, after: None, limit: PAGE },
            Kind::Upload => Operation::CreateUpload { key, value },
            Kind::Transact => {
                let writes = vec![(format!("{}audit", records::PREFIX), Some(Value(value.0)))];
                let transaction = Transaction { writes, ..Transaction::default() };
                Operation::Transact { transaction, id }
            }
            Kind::Lock => Operation::Acquire {
                lock: format!("audit {}", self.count),
                owner: "auditor".to_owned(),
                ttl: Duration::from_secs(1),
                id: None,
            },
            Kind::Watch => Operation::Watch { prefix: records::PREFIX.to_owned(), after: None },
        };
        matches!(self.caller.ask_at(target, operation).await, Outcome::Answered(_))
    }

    /// Reads everything that anybody has written. What can't be read after many tries is
    /// no evidence; [`Audit::try_everything`] tells of it.
    pub async fn read_everything(&mut self) {
        let mut objects = BTreeSet::new();
        let mut groups: BTreeSet<Vec<String>> = BTreeSet::new();
        for event in lock(&self.caller.history).events() {
            match &event.operation {
                Operation::Put { key, .. }
                | Operation::Delete { key, .. }
                | Operation::Copy { to: key, .. }
                | Operation::CompleteUpload { key, .. } => drop(objects.insert(key.clone())),
                Operation::Transact { transaction, .. } => {
                    let keys = transaction.writes.iter().map(|(key, _)| vec![key.clone()]);
                    groups.extend(keys);
                }
                _ => {}
            }
        }
        for key in objects {
            self.until_answered(Operation::Get { key, span: None }).await;
        }
        for reads in groups {
            let transaction = Transaction { reads, ..Transaction::default() };
            self.until_answered(Operation::Transact { transaction, id: None }).await;
        }
        if self.kinds.contains(&Kind::List) {
            self.list_everything().await;
        }
    }

    async fn list_everything(&mut self) {
        let mut after = None;
        loop {
            let list = Operation::List { prefix: String::new(), delimiter: None, after, limit: PAGE };
            match self.until_answered(list).await {
                Some(Answer::Page(page)) if page.next.is_some() => after = page.next,
                _ => return,
            }
        }
    }

    async fn until_answered(&mut self, operation: Operation) -> Option<Answer> {
        for _ in 0..TRIES {
            if let Outcome::Answered(answer) = self.caller.ask(operation.clone()).await {
                return Some(answer);
            }
            self.caller.runtime.sleep(Load::REFUSED).await;
        }
        None
    }
}
