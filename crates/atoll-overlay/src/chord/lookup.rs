//! Questions under way: lookups of this node and of others, and the calls of which they
//! consist. Upkeep's calls wait here too, for they time out alike.

use std::time::Duration;

use super::{search::Step, *};

/// How long to wait for the answer to a question that somebody took on: ten steps that go
/// wrong once each. Whoever gives up earlier only asks a second way.
const RELAYED_TIMEOUT: Duration = Duration::from_secs(20);
/// Nodes that a recursive lookup may go through: twice the path of a million nodes, then it
/// is a loop.
const RELAY_HOPS_MAX: u8 = 40;

/// Who wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Caller,
    Join,
    /// Upkeep's, of this node's own place.
    Place,
    Finger(u8),
    /// The node before this one on a recursive lookup's way; its request's number.
    Relay {
        request: u32,
        hops_left: u8,
    },
}

#[derive(Debug, Clone)]
pub(super) struct Lookup<C> {
    pub(super) number: u32,
    pub(super) purpose: Purpose,
    /// For `Purpose::Relay`.
    asker: Option<C>,
    recursive: bool,
    pub(super) search: Search<C>,
}

/// A question that was sent to one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    Neighbours,
    Ping,
    /// Of the lookup with this number.
    Find {
        lookup: u32,
        key: Id,
    },
    Claim {
        lookup: u32,
        key: Id,
    },
    Relay {
        lookup: u32,
        key: Id,
        hops_left: u8,
    },
}

#[derive(Debug, Clone)]
pub(super) struct Call<C> {
    request: u32,
    to: C,
    pub(super) question: Question,
    attempts_left: u8,
    pub(super) deadline: Instant,
}

impl Question {
    fn message<C>(self, request: u32) -> ChordMessage<C> {
        match self {
            Question::Neighbours => ChordMessage::GetNeighbours { request },
            Question::Ping => ChordMessage::Ping { request },
            Question::Find { key, .. } => ChordMessage::Find { request, key },
            Question::Claim { key, .. } => ChordMessage::Claim { request, key },
            Question::Relay { key, hops_left, .. } => ChordMessage::Relay { request, key, hops_left },
        }
    }

    fn lookup(self) -> Option<u32> {
        match self {
            Question::Neighbours | Question::Ping => None,
            Question::Find { lookup, .. }
            | Question::Claim { lookup, .. }
            | Question::Relay { lookup, .. } => Some(lookup),
        }
    }
}

impl<C: Contact> Chord<C> {
    /// A search that begins with what this node knows.
    pub(super) fn search(&self, key: Id) -> Search<C> {
        let by_successors = self.config.route_by_successors;
        let preceding = self.tables.closest_preceding(key, by_successors, search::CANDIDATES_MAX);
        Search::new(key, preceding, self.tables.successors_of(key, by_successors), true)
    }

    pub(super) fn start(
        &mut self,
        now: Instant,
        search: Search<C>,
        purpose: Purpose,
        recursive: bool,
        out: &mut ChordOut<C>,
    ) -> u32 {
        let number = self.number();
        self.advance(now, Lookup { number, purpose, asker: None, recursive, search }, out);
        number
    }

    pub(super) fn is_looking(&self, wanted: impl Fn(Purpose) -> bool) -> bool {
        self.lookups.iter().any(|lookup| wanted(lookup.purpose))
    }

    /// Somebody else's recursive lookup.
    pub(super) fn relay(
        &mut self,
        now: Instant,
        from: C,
        request: u32,
        key: Id,
        hops_left: u8,
        out: &mut ChordOut<C>,
    ) {
        let is_same = |lookup: &Lookup<C>| {
            matches!(lookup.purpose, Purpose::Relay { request: other, .. } if other == request)
                && lookup.asker.as_ref() == Some(&from)
        };
        // Asked again, because our word that we took it was lost.
        if self.lookups.iter().any(is_same) {
            return out.send(from, ChordMessage::Accepted { request });
        }
        let relays =
            self.lookups.iter().filter(|lookup| matches!(lookup.purpose, Purpose::Relay { .. })).count();
        let hops_left = hops_left.min(RELAY_HOPS_MAX);
        if relays >= RELAYS_MAX || hops_left == 0 {
            return out.send(from, ChordMessage::Relayed { request, owner: None, hops: 0, timeouts: 0 });
        }
        out.send(from.clone(), ChordMessage::Accepted { request });
        let purpose = Purpose::Relay { request, hops_left: hops_left - 1 };
        let search = self.search(key);
        let number = self.number();
        self.advance(now, Lookup { number, purpose, asker: Some(from), recursive: true, search }, out);
    }

    /// Takes a lookup's next step; it is put back among those under way, or ends.
    fn advance(&mut self, now: Instant, mut lookup: Lookup<C>, out: &mut ChordOut<C>) {
        let (number, key) = (lookup.number, lookup.search.key);
        match lookup.search.next(&self.tables.me, self.tables.nearer(key)) {
            Step::Ask { to, as_owner } => {
                let question = if as_owner {
                    Question::Claim { lookup: number, key }
                } else if lookup.recursive {
                    let hops_left = match lookup.purpose {
                        Purpose::Relay { hops_left, .. } => hops_left,
                        _ => RELAY_HOPS_MAX,
                    };
                    Question::Relay { lookup: number, key, hops_left }
                } else {
                    Question::Find { lookup: number, key }
                };
                self.lookups.push(lookup);
                self.call(now, to, question, out);
            }
            Step::Found(owner) => self.found(now, lookup, owner, out),
            Step::Exhausted => self.failed(now, lookup, LookupError::Exhausted, out),
            Step::TooLong => self.failed(now, lookup, LookupError::TooLong, out),
        }
    }

    fn found(&mut self, now: Instant, lookup: Lookup<C>, owner: C, out: &mut ChordOut<C>) {
        match lookup.purpose {
            Purpose::Join => self.found_my_place(now, owner, out),
            Purpose::Place => self.checked_my_place(now, owner, out),
            Purpose::Finger(k) => self.found_finger(now, k, Some(owner), out),
            Purpose::Caller | Purpose::Relay { .. } => self.finish(lookup, Ok(owner), out),
        }
    }

    fn failed(&mut self, now: Instant, lookup: Lookup<C>, error: LookupError, out: &mut ChordOut<C>) {
        match lookup.purpose {
            Purpose::Join => out.notify(Notification::JoinFailed),
            Purpose::Place => {}
            Purpose::Finger(k) => self.found_finger(now, k, None, out),
            Purpose::Caller | Purpose::Relay { .. } => self.finish(lookup, Err(error), out),
        }
    }

    /// Tells whoever asked.
    pub(super) fn finish(
        &mut self,
        lookup: Lookup<C>,
        outcome: Result<C, LookupError>,
        out: &mut ChordOut<C>,
    ) {
        let Search { key, hops, timeouts, .. } = lookup.search;
        let found = outcome.clone().map(|owner| lookup.search.with_those_behind(owner));
        let path = lookup.search.path();
        match (lookup.purpose, lookup.asker) {
            (Purpose::Caller, _) => out.notify(Notification::LookupFinished(Located {
                lookup: LookupId(lookup.number),
                key,
                outcome: found,
                hops,
                timeouts,
                path,
            })),
            (Purpose::Relay { request, .. }, Some(asker)) => {
                let small = |number: u32| u8::try_from(number).unwrap_or(u8::MAX);
                let (hops, timeouts) = (small(hops), small(timeouts));
                out.send(asker, ChordMessage::Relayed { request, owner: outcome.ok(), hops, timeouts });
            }
            _ => {}
        }
    }

    fn number(&mut self) -> u32 {
        self.numbered = self.numbered.wrapping_add(1);
        self.numbered
    }

    pub(super) fn call(&mut self, now: Instant, to: C, question: Question, out: &mut ChordOut<C>) {
        let request = self.number();
        let attempts_left = self.config.attempts.saturating_sub(1);
        let deadline = now + self.config.answer_timeout;
        out.send(to.clone(), question.message(request));
        self.calls.push(Call { request, to, question, attempts_left, deadline });
    }

    pub(super) fn is_asking(&self, question: Question) -> bool {
        self.calls.iter().any(|call| call.question == question)
    }

    fn take_lookup(&mut self, number: u32) -> Option<Lookup<C>> {
        let place = self.lookups.iter().position(|lookup| lookup.number == number)?;
        let lookup = self.lookups.swap_remove(place);
        if self.lookups.is_empty() {
            // Most nodes have none most of the time; a million of them keep no room for it.
            self.lookups = Vec::new();
        }
        Some(lookup)
    }

    fn take_call(&mut self, place: usize) -> Call<C> {
        let call = self.calls.swap_remove(place);
        if self.calls.is_empty() {
            self.calls = Vec::new();
        }
        call
    }

    /// An answer counts if it comes from whom we asked and fits the question.
    pub(super) fn handle_answer(
        &mut self,
        now: Instant,
        from: C,
        answer: ChordMessage<C>,
        out: &mut ChordOut<C>,
    ) {
        let (ChordMessage::Closer { request, .. }
        | ChordMessage::Claimed { request, .. }
        | ChordMessage::Accepted { request }
        | ChordMessage::Relayed { request, .. }
        | ChordMessage::Neighbours { request, .. }
        | ChordMessage::Pong { request }) = answer
        else {
            return;
        };
        let Some(place) = self.calls.iter().position(|call| call.request == request && call.to == from)
        else {
            return;
        };
        let question = self.calls[place].question;
        match (question, answer) {
            (Question::Ping, ChordMessage::Pong { .. }) => {
                self.take_call(place);
            }
            (Question::Neighbours, ChordMessage::Neighbours { predecessor, successors, .. }) => {
                self.take_call(place);
                self.stabilized(now, from, predecessor, successors, out);
            }
            (Question::Find { lookup, .. }, ChordMessage::Closer { preceding, successors, .. }) => {
                self.take_call(place);
                let Some(mut lookup) = self.take_lookup(lookup) else { return };
                lookup.search.answered_by(&from);
                lookup.search.add_answer(&from, preceding, successors);
                self.advance(now, lookup, out);
            }
            (Question::Claim { lookup, .. }, ChordMessage::Claimed { nearer, .. }) => {
                self.take_call(place);
                let Some(mut lookup) = self.take_lookup(lookup) else { return };
                lookup.search.answered_by(&from);
                lookup.search.add_owner(from, nearer);
                self.advance(now, lookup, out);
            }
            (Question::Relay { lookup, .. }, ChordMessage::Accepted { .. }) => {
                let call = &mut self.calls[place];
                // Once: a node that says so again and again would be waited for for ever.
                if call.attempts_left == ACCEPTED {
                    return;
                }
                call.attempts_left = ACCEPTED;
                call.deadline = now + RELAYED_TIMEOUT;
                if let Some(lookup) = self.lookups.iter_mut().find(|other| other.number == lookup) {
                    lookup.search.answered_by(&from);
                }
            }
            (Question::Relay { lookup, .. }, ChordMessage::Relayed { owner, hops, timeouts, .. }) => {
                let accepted = self.take_call(place).attempts_left == ACCEPTED;
                let Some(mut lookup) = self.take_lookup(lookup) else { return };
                if !accepted {
                    lookup.search.answered_by(&from);
                }
                lookup.search.hops += u32::from(hops);
                lookup.search.timeouts += u32::from(timeouts);
                match owner {
                    Some(owner) => self.found(now, lookup, owner, out),
                    None => self.advance(now, lookup, out),
                }
            }
            // An answer to another question than ours: as if it had not come.
            _ => {}
        }
    }

    pub(super) fn handle_deadlines(&mut self, now: Instant, out: &mut ChordOut<C>) {
        while let Some(place) = self.calls.iter().position(|call| call.deadline <= now) {
            let call = &mut self.calls[place];
            if (1..ACCEPTED).contains(&call.attempts_left) {
                call.attempts_left -= 1;
                call.deadline = now + self.config.answer_timeout;
                out.send(call.to.clone(), call.question.message(call.request));
                continue;
            }
            let call = self.take_call(place);
            // Who took a lookup on and lost it behind itself is alive.
            if call.attempts_left != ACCEPTED {
                self.forget(&call.to);
            }
            match call.question.lookup() {
                Some(number) => {
                    let Some(mut lookup) = self.take_lookup(number) else { continue };
                    lookup.search.timeouts += 1;
                    self.advance(now, lookup, out);
                }
                None if call.question == Question::Neighbours && !self.frozen => self.stabilize(now, out),
                None => {}
            }
        }
    }
}

/// In place of the attempts left: the question was taken on, and is not asked again.
const ACCEPTED: u8 = u8::MAX;
