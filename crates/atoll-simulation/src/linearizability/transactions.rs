//! Transactions over several keys: read some, compare some, write some, all at once.

use std::collections::BTreeMap;

use super::{Acts, Model, register::Value};

/// Compares all; if all are as said, does all writes. Answers with what `reads` held
/// before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transaction {
    pub reads: Vec<String>,
    /// Key and what it must hold; `None` means nothing.
    pub compares: Vec<(String, Option<Value>)>,
    /// Key and what it shall hold; `None` deletes.
    pub writes: Vec<(String, Option<Value>)>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub committed: bool,
    /// In the order of the transaction's `reads`.
    pub read: Vec<Option<Value>>,
}

pub type Contents = BTreeMap<String, Value>;

impl Transaction {
    fn keys(&self) -> impl Iterator<Item = &String> {
        let compared = self.compares.iter().map(|(key, _)| key);
        let written = self.writes.iter().map(|(key, _)| key);
        self.reads.iter().chain(compared).chain(written)
    }

    /// What a single copy answers, and holds then.
    pub fn apply(&self, contents: &mut Contents) -> Answer {
        let read = self.reads.iter().map(|key| contents.get(key).copied()).collect();
        let committed = self.compares.iter().all(|(key, value)| contents.get(key) == value.as_ref());
        if committed {
            for (key, value) in &self.writes {
                match value {
                    Some(value) => contents.insert(key.clone(), *value),
                    None => contents.remove(key),
                };
            }
        }
        Answer { committed, read }
    }
}

fn held((key, value): &(String, Option<Value>)) -> Option<(String, Value)> {
    Some((key.clone(), (*value)?))
}

/// One store. Keys that some transaction names together belong together.
#[derive(Debug, Clone, Copy, Default)]
pub struct Store;

impl Model for Store {
    type Input = Transaction;
    type Output = Answer;
    type State = Contents;
    /// A key and the value it holds.
    type Trigger = (String, Value);
    /// The smallest of the keys that belong together.
    type Part = String;

    fn initial(&self) -> Contents {
        Contents::new()
    }

    fn step(&self, state: &Contents, input: &Transaction, output: Option<&Answer>) -> Option<Contents> {
        let mut next = state.clone();
        let answer = input.apply(&mut next);
        (output.is_none() || output == Some(&answer)).then_some(next)
    }

    fn changes_nothing(&self, input: &Transaction, output: Option<&Answer>) -> bool {
        input.writes.is_empty() || output.is_some_and(|answer| !answer.committed)
    }

    fn acts(&self, input: &Transaction) -> Acts<Self::Trigger> {
        input.compares.iter().find_map(held).map_or(Acts::Perhaps, Acts::Where)
    }

    fn triggers(&self, state: &Contents) -> impl IntoIterator<Item = Self::Trigger> {
        state.iter().map(|(key, value)| (key.clone(), *value))
    }

    fn needs(&self, input: &Transaction, answer: &Answer) -> impl IntoIterator<Item = Self::Trigger> {
        let read = input.reads.iter().zip(&answer.read);
        let read = read.filter_map(|(key, value)| Some((key.clone(), (*value)?)));
        read.chain(input.compares.iter().filter(|_| answer.committed).filter_map(held))
    }

    fn gives(&self, input: &Transaction) -> impl IntoIterator<Item = Self::Trigger> {
        input.writes.iter().filter_map(held)
    }

    fn parts(&self, inputs: &[&Transaction]) -> Vec<String> {
        let mut groups = Groups::default();
        for input in inputs {
            if let Some(first) = input.keys().next() {
                input.keys().for_each(|key| groups.join(first, key));
            }
        }
        inputs
            .iter()
            .map(|input| input.keys().next().map(|key| groups.smallest(key)).unwrap_or_default())
            .collect()
    }
}

/// Keys that belong together, each with a smaller one that it belongs to (union–find).
#[derive(Default)]
struct Groups {
    smaller: BTreeMap<String, String>,
}

impl Groups {
    fn smallest(&mut self, key: &str) -> String {
        let mut root = key.to_owned();
        while let Some(next) = self.smaller.get(&root) {
            root = next.clone();
        }
        // Straight there the next time.
        if root != key {
            self.smaller.insert(key.to_owned(), root.clone());
        }
        root
    }

    fn join(&mut self, a: &str, b: &str) {
        let (a, b) = (self.smallest(a), self.smallest(b));
        match a.cmp(&b) {
            std::cmp::Ordering::Less => self.smaller.insert(b, a),
            std::cmp::Ordering::Greater => self.smaller.insert(a, b),
            std::cmp::Ordering::Equal => None,
        };
    }
}
