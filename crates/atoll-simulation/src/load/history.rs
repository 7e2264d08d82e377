//! What all clients saw, as it happened.

use std::sync::{Arc, Mutex};

use atoll_types::Instant;

use super::{Answer, Kind, Operation};

/// One operation as its client saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    pub client: u64,
    pub operation: Operation,
    /// Its place in the order of all calls and returns: exact, where times may be equal.
    pub called: u64,
    pub called_at: Instant,
    pub ending: Ending,
}

/// How an operation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// Not yet, or never: it may have happened, or still happen.
    Open,
    /// It did not happen.
    Nothing,
    Answered {
        returned: u64,
        returned_at: Instant,
        answer: Answer,
    },
}

impl Event {
    pub fn answer(&self) -> Option<&Answer> {
        match &self.ending {
            Ending::Answered { answer, .. } => Some(answer),
            Ending::Open | Ending::Nothing => None,
        }
    }

    /// Its place among all calls and returns, if it returned.
    pub fn returned(&self) -> Option<u64> {
        match &self.ending {
            Ending::Answered { returned, .. } => Some(*returned),
            Ending::Open | Ending::Nothing => None,
        }
    }

    pub fn is_open(&self) -> bool {
        self.ending == Ending::Open
    }
}

/// Shared by all clients. Times are by the one clock that they all have.
#[derive(Debug, Clone, Default)]
pub struct History {
    events: Vec<Event>,
    order: u64,
}

/// A call that has not returned yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Call(usize);

pub type SharedHistory = Arc<Mutex<History>>;

impl History {
    /// The operation stays open until it ends, perhaps for ever.
    pub fn called(&mut self, client: u64, operation: Operation, now: Instant) -> Call {
        self.order += 1;
        let (called, ending) = (self.order, Ending::Open);
        self.events.push(Event { client, operation, called, called_at: now, ending });
        Call(self.events.len() - 1)
    }

    pub fn returned(&mut self, call: Call, answer: Answer, now: Instant) {
        self.order += 1;
        self.events[call.0].ending = Ending::Answered { returned: self.order, returned_at: now, answer };
    }

    /// It never happened.
    pub fn not_done(&mut self, call: Call) {
        self.events[call.0].ending = Ending::Nothing;
    }

    pub fn events(&self) -> &[Event] {
        &self.events
    }

    /// Everything from here on is called later than all that was called so far.
    pub fn order(&self) -> u64 {
        self.order
    }

    /// Operations that happened or may have, and how many of them have no outcome.
    pub fn count(&self) -> (usize, usize) {
        self.count_if(|_| true)
    }

    pub fn count_of(&self, kind: Kind) -> (usize, usize) {
        self.count_if(|event| event.operation.kind() == kind)
    }

    fn count_if(&self, wanted: impl Fn(&Event) -> bool) -> (usize, usize) {
        let happened = self.events.iter().filter(|event| event.ending != Ending::Nothing && wanted(event));
        happened.fold((0, 0), |(all, open), event| (all + 1, open + usize::from(event.is_open())))
    }
}
