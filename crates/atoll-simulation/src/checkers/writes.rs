//! What each key was written, as far as anybody knows: what several checkers begin with.

use std::collections::BTreeMap;

use crate::{
    linearizability::register::Value,
    load::{Answer, Ending, Event, Operation},
};

/// A write that was done, or may have been.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Write {
    pub called: u64,
    /// When it was acknowledged; else it may have happened, or still happen.
    pub returned: Option<u64>,
    /// `None`: a deletion.
    pub value: Option<Value>,
}

impl Write {
    /// It was over before `other` began.
    pub fn is_before(&self, other: &Write) -> bool {
        self.returned.is_some_and(|returned| returned < other.called)
    }
}

/// The objects' writes by key. What was refused is none.
pub fn of_objects(events: &[Event]) -> BTreeMap<&str, Vec<Write>> {
    let mut writes: BTreeMap<&str, Vec<Write>> = BTreeMap::new();
    for event in events {
        let (key, value) = match &event.operation {
            Operation::Put { key, value, .. }
            | Operation::Copy { to: key, value, .. }
            | Operation::CompleteUpload { key, value, .. } => (key, Some(*value)),
            Operation::Delete { key, .. } => (key, None),
            _ => continue,
        };
        let returned = match &event.ending {
            Ending::Answered { returned, answer: Answer::Done, .. } => Some(*returned),
            Ending::Open => None,
            Ending::Answered { .. } | Ending::Nothing => continue,
        };
        writes.entry(key).or_default().push(Write { called: event.called, returned, value });
    }
    writes
}

/// Whether there is an object, wherever in an interval one looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    Present,
    Absent,
    Unknown,
}

/// Between `from` and `to`.
pub fn presence(writes: &[Write], from: u64, to: u64) -> Presence {
    let relevant = || writes.iter().filter(|write| write.called < to);
    let last = |wanted: bool| {
        // Of those acknowledged before, the newest is the one that most are over before.
        let done = relevant().filter(|write| {
            write.value.is_some() == wanted && write.returned.is_some_and(|returned| returned < from)
        });
        done.max_by_key(|write| write.called).is_some_and(|newest| {
            relevant().all(|other| other.value.is_some() == wanted || other.is_before(newest))
        })
    };
    if last(true) {
        Presence::Present
    } else if last(false) || relevant().all(|write| write.value.is_none()) {
        Presence::Absent
    } else {
        Presence::Unknown
    }
}
