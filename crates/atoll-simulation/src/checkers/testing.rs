//! Histories made by hand, for the checkers' tests.

use std::time::Duration;

use atoll_types::Instant;

use super::Evidence;
use crate::{
    linearizability::register::{Condition, Value},
    load::{Answer, Call, History, Operation},
};

/// One client's story, or several clients' with what they have under way.
#[derive(Debug, Clone, Default)]
pub struct Story {
    history: History,
    now: Instant,
}

impl Story {
    pub fn evidence(&self) -> Evidence<'_> {
        Evidence { events: self.history.events(), ..Evidence::default() }
    }

    pub fn pass(&mut self, time: Duration) {
        self.now = self.now + time;
    }

    pub fn call(&mut self, operation: Operation) -> Call {
        self.history.called(0, operation, self.now)
    }

    pub fn returned(&mut self, call: Call, answer: Answer) {
        self.history.returned(call, answer, self.now);
    }

    pub fn answered(&mut self, operation: Operation, answer: Answer) {
        let call = self.call(operation);
        self.returned(call, answer);
    }

    pub fn call_put(&mut self, key: &str, value: u64) -> Call {
        let (key, condition) = (key.to_owned(), Condition::None);
        self.call(Operation::Put { key, value: Value(value), condition, id: None })
    }

    pub fn put(&mut self, key: &str, value: u64) {
        let call = self.call_put(key, value);
        self.done(call);
    }

    pub fn unknown_put(&mut self, key: &str, value: u64) {
        self.call_put(key, value);
    }

    pub fn call_delete(&mut self, key: &str) -> Call {
        self.call(Operation::Delete { key: key.to_owned(), condition: Condition::None, id: None })
    }

    pub fn delete(&mut self, key: &str) {
        let call = self.call_delete(key);
        self.done(call);
    }

    pub fn done(&mut self, call: Call) {
        self.returned(call, Answer::Done);
    }

    pub fn get(&mut self, key: &str, found: Option<u64>) {
        let get = Operation::Get { key: key.to_owned(), span: None };
        self.answered(get, Answer::Found(found.map(Value)));
    }
}
