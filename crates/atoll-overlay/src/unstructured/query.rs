//! Queries: this node's own, and those of others on their way through it.

use std::collections::BTreeMap;

use rand::{Rng, seq::IteratorRandom};

use super::{
    message::{HIT_ENTRIES_MAX, Wanted},
    *,
};
use crate::{Answer, ContentError, Entry, Finished, OperationId, entry::Slot};

/// Operations of its callers that a node has under way.
pub(super) const OPERATIONS_MAX: usize = 64;
/// Queries whose way back a node remembers; the oldest is forgotten first. At 100 a second that
/// is 40 s, longer than any query is waited for.
const SEEN_MAX: usize = 4096;
/// Hits that go back for one query through one node: a liar that answers without end is cut off.
const HITS_MAX: u16 = 256;
/// New queries, and walkers' steps, of one neighbour that a node takes on: one in 20 ms, and so many
/// at once. A query makes a whole network work, so it is the neighbours of who asks without end that
/// have to stop it. In a network of a thousand each of which asks every five minutes, by rings of seven
/// floods, 23 a second come over a link.
const QUERY_EVERY: Duration = Duration::from_millis(20);
const QUERIES_AT_ONCE: u32 = 200;
/// Neighbours whose pace is known, those included that were neighbours a moment ago, so that nobody
/// begins anew by coming again.
const PACES_MAX: usize = 64;
/// Walkers that wait here for their origin's word.
const WAITING_MAX: usize = 256;
/// Steps of a walker, whatever it says: with 32 of them a third of a network of ten thousand.
pub(super) const STEPS_MAX: u16 = 128;

/// A query that was seen.
#[derive(Debug, Clone)]
pub(super) struct Seen<C> {
    /// Who sent it first; none: it is this node's own.
    from: Option<C>,
    hits_left: u16,
    /// Of a flood: how far it went on from here.
    ttl: u8,
    /// Of a walk: whether this node has answered it.
    answered: bool,
}

#[derive(Debug, Clone)]
pub(super) struct Operation<C> {
    number: u32,
    what: What,
    wanted: Wanted,
    /// The round that is under way: each has a query of its own.
    pub(super) query: u64,
    ttl: u8,
    found: BTreeMap<Slot, Entry>,
    by: Vec<C>,
    /// Of a walk: where walkers have used up their steps; at most as many as there are.
    ends: Vec<C>,
    began: Instant,
    /// When the round is over.
    pub(super) deadline: Instant,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Fetch,
    Providers,
    Search,
}

/// A walker that has asked its origin whether to go on.
#[derive(Debug, Clone)]
pub(super) struct Waiting<C> {
    query: u64,
    wanted: Wanted,
    steps_left: u16,
    origin: C,
    from: C,
    pub(super) deadline: Instant,
}

impl<C: Contact> Unstructured<C> {
    pub(super) fn begin(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        what: What,
        wanted: Wanted,
        out: &mut UnstructuredOut<C>,
    ) -> Result<OperationId, ContentError> {
        if self.phase != Phase::Member {
            return Err(ContentError::NotLocated(LocateError::NotJoined));
        }
        if self.operations.len() >= OPERATIONS_MAX {
            return Err(ContentError::TooMany { limit: OPERATIONS_MAX });
        }
        self.numbered = self.numbered.wrapping_add(1);
        let number = self.numbered;
        let wall = self.wall(now);
        let own = self.shelves.find(self.index.entries(), &wanted, wall);
        let by = if own.is_empty() { Vec::new() } else { vec![self.me.clone()] };
        let found = own.into_iter().map(|entry| (entry.slot(), entry)).collect();
        let (ends, began, deadline) = (Vec::new(), now, now);
        let operation =
            Operation { number, what, wanted, query: 0, ttl: 0, found, by, ends, began, deadline };
        self.go_on(now, rng, operation, out);
        Ok(OperationId(number))
    }

    /// Begins the next round, or ends the operation.
    fn go_on(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        mut operation: Operation<C>,
        out: &mut UnstructuredOut<C>,
    ) {
        let is_enough = operation.found.len() >= self.config.enough || self.neighbours.is_empty();
        let is_over = match self.config.style {
            SearchStyle::Flood { .. } | SearchStyle::Walk { .. } => operation.query != 0,
            SearchStyle::ExpandingRing { ttl_max } => operation.ttl >= ttl_max.min(TTL_MAX),
        };
        if is_enough || is_over {
            return self.finish(operation, out);
        }
        let query = rng.random_range(1..=u64::MAX);
        operation.query = query;
        self.remember(now, query, None);
        let wanted = operation.wanted.clone();
        let wait = match self.config.style {
            SearchStyle::Flood { ttl } => {
                operation.ttl = ttl.min(TTL_MAX);
                self.send_flood(query, &wanted, operation.ttl, None, out);
                self.config.hop_timeout * 2 * u32::from(operation.ttl)
            }
            SearchStyle::ExpandingRing { .. } => {
                operation.ttl += 1;
                self.send_flood(query, &wanted, operation.ttl, None, out);
                self.config.hop_timeout * 2 * u32::from(operation.ttl)
            }
            SearchStyle::Walk { walkers, check_every } => {
                let steps = self.config.walk_steps.clamp(1, STEPS_MAX);
                for _ in 0..walkers {
                    self.walk_on(rng, query, wanted.clone(), steps, self.me.clone(), None, out);
                }
                // Each step a passage, each check a round trip.
                let steps = u32::from(steps);
                self.config.hop_timeout * (steps + 2 * steps / u32::from(check_every.max(1)))
            }
        };
        operation.deadline = now + wait;
        self.operations.push(operation);
    }

    fn finish(&mut self, operation: Operation<C>, out: &mut UnstructuredOut<C>) {
        let mut entries: Vec<Entry> = operation.found.into_values().collect();
        let answer = match operation.what {
            What::Fetch => {
                entries.sort_by_key(|entry| std::cmp::Reverse(entry.sequence));
                Answer::Values(entries)
            }
            What::Providers => Answer::Providers(entries),
            What::Search => Answer::Hits(entries),
        };
        let (operation, by) = (OperationId(operation.number), operation.by);
        out.notify(Notification::OperationFinished(Finished { operation, outcome: Ok(answer), by }));
    }

    pub(super) fn end_all(&mut self, out: &mut UnstructuredOut<C>) {
        for operation in std::mem::take(&mut self.operations) {
            let operation = OperationId(operation.number);
            let (outcome, by) = (Err(ContentError::Left), Vec::new());
            out.notify(Notification::OperationFinished(Finished { operation, outcome, by }));
        }
    }

    pub(super) fn handle_rounds(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        out: &mut UnstructuredOut<C>,
    ) {
        // Who does not answer a walker has what it wanted, or is gone.
        self.waiting.retain(|waiting| waiting.deadline > now);
        while let Some(place) = self.operations.iter().position(|operation| operation.deadline <= now) {
            let operation = self.operations.swap_remove(place);
            self.go_on(now, rng, operation, out);
        }
    }

    fn remember(&mut self, now: Instant, query: u64, from: Option<C>) {
        self.seen.insert(query, Seen { from, hits_left: HITS_MAX, ttl: 0, answered: false });
        self.seen_order.push_back((query, now));
        while self.seen_order.len() > SEEN_MAX {
            self.forget_oldest_query();
        }
    }

    pub(super) fn forget_oldest_query(&mut self) {
        if let Some((query, _)) = self.seen_order.pop_front() {
            self.seen.remove(&query);
        }
    }

    fn send_flood(
        &self,
        query: u64,
        wanted: &Wanted,
        ttl: u8,
        from: Option<&C>,
        out: &mut UnstructuredOut<C>,
    ) {
        for neighbour in self.neighbours.iter().filter(|neighbour| Some(*neighbour) != from) {
            let wanted = wanted.clone();
            out.send(neighbour.clone(), UnstructuredMessage::Flood { query, wanted, ttl });
        }
    }

    /// Gnutella 0.4: answered the way it came, and passed on to all the others, once. A copy that
    /// came over fewer links than the one before it is passed on again, so that a flood gets as
    /// far as its TTL says; Gnutella drops it, and what came quickly over many links cuts the
    /// flood short. It is at most seven times, and nobody answers twice.
    pub(super) fn flooded(
        &mut self,
        now: Instant,
        from: C,
        query: u64,
        wanted: Wanted,
        ttl: u8,
        out: &mut UnstructuredOut<C>,
    ) {
        if !self.neighbours.contains(&from) || !wanted.is_sound() {
            return;
        }
        let ttl = ttl.min(TTL_MAX);
        match self.seen.get_mut(&query) {
            Some(seen) if seen.from.is_none() || seen.ttl >= ttl => return,
            Some(seen) => seen.ttl = ttl,
            None => {
                if !self.takes_on(now, &from) {
                    return;
                }
                self.remember(now, query, Some(from.clone()));
                if let Some(seen) = self.seen.get_mut(&query) {
                    seen.ttl = ttl;
                }
                self.answer(now, &from, query, &wanted, out);
            }
        }
        if ttl > 1 {
            self.send_flood(query, &wanted, ttl - 1, Some(&from), out);
        }
    }

    /// Whether another query of this neighbour is within its share; counts it, if so.
    fn takes_on(&mut self, now: Instant, from: &C) -> bool {
        self.paces.retain(|_, until| *until > now);
        let until = self.paces.get(from).copied();
        let ahead = until.unwrap_or(now).saturating_since(now);
        let has_room = until.is_some() || self.paces.len() < PACES_MAX;
        let is_within = has_room && ahead <= QUERY_EVERY * (QUERIES_AT_ONCE - 1);
        if is_within {
            self.paces.insert(from.clone(), now + ahead + QUERY_EVERY);
        }
        is_within
    }

    fn answer(&mut self, now: Instant, to: &C, query: u64, wanted: &Wanted, out: &mut UnstructuredOut<C>) {
        let entries = self.shelves.find(self.index.entries(), wanted, self.wall(now));
        if !entries.is_empty() {
            out.send(to.clone(), UnstructuredMessage::Hit { query, entries });
        }
    }

    /// To a neighbour that is drawn, back only if there is no other.
    #[allow(clippy::too_many_arguments, reason = "a walker's fields, and where it comes from")]
    fn walk_on(
        &self,
        rng: &mut dyn RngCore,
        query: u64,
        wanted: Wanted,
        steps_left: u16,
        origin: C,
        from: Option<&C>,
        out: &mut UnstructuredOut<C>,
    ) {
        let others = self.neighbours.iter().filter(|neighbour| Some(*neighbour) != from);
        if let Some(next) = others.choose(rng).or(from) {
            let message = UnstructuredMessage::Walk { query, wanted, steps_left, origin };
            out.send(next.clone(), message);
        }
    }

    /// Lv et al., section 5.2: each walker asks its origin every fourth step whether it should go
    /// on, and ends there if not.
    #[allow(clippy::too_many_arguments, reason = "a walker's fields, and where it comes from")]
    pub(super) fn walked(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        from: C,
        query: u64,
        wanted: Wanted,
        steps_left: u16,
        origin: C,
        out: &mut UnstructuredOut<C>,
    ) {
        if !self.neighbours.contains(&from) || !wanted.is_sound() || !self.takes_on(now, &from) {
            return;
        }
        if !self.seen.contains_key(&query) {
            self.remember(now, query, Some(from.clone()));
        }
        let Some(seen) = self.seen.get_mut(&query) else { return };
        if let Some(back) = seen.from.clone()
            && !seen.answered
        {
            seen.answered = true;
            self.answer(now, &back, query, &wanted, out);
        }
        // It came round to its origin, which needs no question.
        if origin == self.me && !self.operations.iter().any(|operation| operation.query == query) {
            return;
        }
        let Some(steps_left) = steps_left.min(STEPS_MAX).checked_sub(1).filter(|left| *left > 0) else {
            return if origin == self.me {
                self.walk_ended(now, origin, query);
            } else {
                out.send(origin, UnstructuredMessage::WalkEnded { query });
            };
        };
        let check_every = match self.config.style {
            SearchStyle::Walk { check_every, .. } => u16::from(check_every.max(1)),
            _ => u16::from(CHECK_EVERY),
        };
        if steps_left.is_multiple_of(check_every) && origin != self.me {
            if self.waiting.len() < WAITING_MAX {
                out.send(origin.clone(), UnstructuredMessage::Check { query });
                let deadline = now + 4 * self.config.answer_timeout;
                self.waiting.push(Waiting { query, wanted, steps_left, origin, from, deadline });
            }
        } else {
            self.walk_on(rng, query, wanted, steps_left, origin, Some(&from), out);
        }
    }

    /// A walker has used up its steps. When all have, what they found is here or on its way back,
    /// which takes about as long as the way out did. Walkers that vanish are waited for to the
    /// deadline. Of one node so many count at most that it cannot end a search by itself.
    pub(super) fn walk_ended(&mut self, now: Instant, from: C, query: u64) {
        let SearchStyle::Walk { walkers, .. } = self.config.style else { return };
        let walkers = usize::from(walkers);
        let Some(operation) = self.operations.iter_mut().find(|operation| operation.query == query) else {
            return;
        };
        let of_it = operation.ends.iter().filter(|end| **end == from).count();
        if of_it < walkers.div_ceil(4) && operation.ends.len() < walkers {
            operation.ends.push(from);
            if operation.ends.len() == walkers {
                let back = now.saturating_since(operation.began);
                operation.deadline = operation.deadline.min(now + back);
            }
        }
    }

    pub(super) fn asked_whether(&self, from: C, query: u64, out: &mut UnstructuredOut<C>) {
        let go_on = self.operations.iter().any(|operation| operation.query == query);
        out.send(from, UnstructuredMessage::Checked { query, go_on });
    }

    pub(super) fn checked(
        &mut self,
        rng: &mut dyn RngCore,
        from: &C,
        query: u64,
        go_on: bool,
        out: &mut UnstructuredOut<C>,
    ) {
        let is_it = |waiting: &Waiting<C>| waiting.query == query && waiting.origin == *from;
        let Some(place) = self.waiting.iter().position(is_it) else { return };
        let Waiting { query, wanted, steps_left, origin, from, .. } = self.waiting.swap_remove(place);
        if go_on {
            self.walk_on(rng, query, wanted, steps_left, origin, Some(&from), out);
        }
    }

    /// A hit for this node, or on its way back through it: then it is remembered here too.
    pub(super) fn hit(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        from: C,
        query: u64,
        entries: Vec<Entry>,
        out: &mut UnstructuredOut<C>,
    ) {
        if !self.neighbours.contains(&from) {
            return;
        }
        let wall = self.wall(now);
        let Some(seen) = self.seen.get_mut(&query).filter(|seen| seen.hits_left > 0) else { return };
        seen.hits_left -= 1;
        let back = seen.from.clone();
        let entries: Vec<Entry> =
            entries.into_iter().take(HIT_ENTRIES_MAX).filter(|entry| entry.check(wall).is_ok()).collect();
        if entries.is_empty() {
            return;
        }
        if !self.frozen {
            entries.iter().for_each(|entry| self.shelves.cache(entry.clone()));
        }
        if let Some(back) = back {
            return out.send(back, UnstructuredMessage::Hit { query, entries });
        }
        let Some(place) = self.operations.iter().position(|operation| operation.query == query) else {
            return;
        };
        let operation = &mut self.operations[place];
        for entry in entries.into_iter().filter(|entry| operation.wanted.fits(entry)) {
            let known = operation.found.get(&entry.slot());
            if known.is_none_or(|known| known.sequence < entry.sequence) {
                operation.found.insert(entry.slot(), entry);
            }
        }
        if !operation.by.contains(&from) {
            operation.by.push(from);
        }
        if operation.found.len() >= self.config.enough {
            let operation = self.operations.swap_remove(place);
            self.go_on(now, rng, operation, out);
        }
    }
}
