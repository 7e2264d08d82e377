//! Neighbours: becoming them, finding more of them by peer exchange, and noticing that one is
//! gone.

use rand::{Rng, seq::IndexedRandom};

use super::{
    index::{INDEX_ENTRIES_MAX, WITHDRAWN_MAX},
    message::NAMED_MAX,
    *,
};

/// Contacts heard of and not tried yet.
const HEARD_MAX: usize = 64;
/// Questions to be neighbours under way at once.
const CONNECTING_MAX: usize = 3;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    Connect,
    Ping,
}

#[derive(Debug, Clone)]
pub(super) struct Call<C> {
    request: u32,
    to: C,
    question: Question,
    attempts_left: u8,
    pub(super) deadline: Instant,
}

impl<C: Contact> Unstructured<C> {
    /// The next period begins after half to one and a half of it, so that nodes that began
    /// together do not go on together.
    pub(super) fn plan_upkeep(&mut self, now: Instant, rng: &mut dyn RngCore) {
        self.upkeep_at = now + self.config.upkeep_every.mul_f64(rng.random_range(0.5..1.5));
    }

    pub(super) fn upkeep(&mut self, now: Instant, rng: &mut dyn RngCore, out: &mut UnstructuredOut<C>) {
        for neighbour in self.neighbours.clone() {
            self.call(now, neighbour, Question::Ping, out);
        }
        self.find_neighbours(now, rng, out);
        let wall = self.wall(now);
        self.shelves.forget_expired(wall);
        self.index.forget_expired(wall);
        let renewed = self.renew_claims(now);
        self.tell_neighbours(renewed, out);
        while self.seen_order.front().is_some_and(|(_, at)| *at + SEEN_FOR <= now) {
            self.forget_oldest_query();
        }
    }

    /// Asks others until there are as many neighbours as are wanted.
    pub(super) fn find_neighbours(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        out: &mut UnstructuredOut<C>,
    ) {
        loop {
            let connecting = self.calls.iter().filter(|call| call.question == Question::Connect).count();
            if self.neighbours.len() + connecting >= self.config.connect_to || connecting >= CONNECTING_MAX {
                break;
            }
            if self.heard_of.is_empty() && self.neighbours.is_empty() && connecting == 0 {
                // Nobody is left: back to those through whom it came.
                self.heard_of.clone_from(&self.known);
            }
            if self.heard_of.is_empty() {
                break;
            }
            let drawn = rng.random_range(0..self.heard_of.len());
            let to = self.heard_of.swap_remove(drawn);
            if !self.is_tried(&to) {
                self.call(now, to, Question::Connect, out);
            }
        }
    }

    pub(super) fn meet_one(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        others: &[C],
        out: &mut UnstructuredOut<C>,
    ) {
        let untried: Vec<&C> = others.iter().filter(|other| !self.is_tried(other)).collect();
        if let Some(other) = untried.choose(rng)
            && self.neighbours.len() < self.config.neighbours_max
        {
            self.call(now, (*other).clone(), Question::Connect, out);
        }
    }

    fn is_tried(&self, contact: &C) -> bool {
        *contact == self.me
            || self.neighbours.contains(contact)
            || self.calls.iter().any(|call| call.question == Question::Connect && call.to == *contact)
    }

    fn call(&mut self, now: Instant, to: C, question: Question, out: &mut UnstructuredOut<C>) {
        if self.calls.iter().any(|call| call.question == question && call.to == to) {
            return;
        }
        self.numbered = self.numbered.wrapping_add(1);
        let request = self.numbered;
        let attempts_left = self.config.attempts.saturating_sub(1);
        let deadline = now + self.config.answer_timeout;
        out.send(to.clone(), message(question, request));
        self.calls.push(Call { request, to, question, attempts_left, deadline });
    }

    /// Whom another node may turn to: half of them neighbours, half heard of, drawn. With
    /// neighbours alone everybody would link to neighbours' neighbours, and the network would be
    /// clusters that a few nodes hold together. Of what is heard, half was a neighbour of who
    /// named it a moment ago, so that nobody who is gone is named for long.
    fn named(&self, rng: &mut dyn RngCore, to: &C) -> Vec<C> {
        let drawn = |from: &[C], count: usize, rng: &mut dyn RngCore| -> Vec<C> {
            let others: Vec<&C> = from.iter().filter(|one| *one != to).collect();
            others.choose_multiple(rng, count).map(|one| (*one).clone()).collect()
        };
        let mut named = drawn(&self.heard_of, NAMED_MAX / 2, rng);
        named.extend(drawn(&self.neighbours, NAMED_MAX - named.len(), rng));
        named
    }

    /// Who is heard of last takes the place of somebody drawn, if there is no room.
    fn hear_of(&mut self, rng: &mut dyn RngCore, contacts: Vec<C>) {
        for contact in contacts.into_iter().take(NAMED_MAX) {
            if self.is_tried(&contact) || self.heard_of.contains(&contact) {
                continue;
            }
            if self.heard_of.len() >= HEARD_MAX {
                self.heard_of.swap_remove(rng.random_range(0..HEARD_MAX));
            }
            self.heard_of.push(contact);
        }
    }

    pub(super) fn asked_to_connect(
        &mut self,
        rng: &mut dyn RngCore,
        from: C,
        request: u32,
        out: &mut UnstructuredOut<C>,
    ) {
        let is_there = self.neighbours.contains(&from);
        let is_accepted = is_there || self.neighbours.len() < self.config.neighbours_max;
        let contacts = self.named(rng, &from);
        if is_accepted && !is_there {
            self.neighbours.push(from.clone());
            self.joined(out);
        }
        out.send(from.clone(), UnstructuredMessage::Connected { request, is_accepted, contacts });
        if is_accepted {
            self.introduce(&from, out);
        }
    }

    /// A node with a neighbour is part of the overlay.
    fn joined(&mut self, out: &mut UnstructuredOut<C>) {
        if self.phase == Phase::Joining {
            self.phase = Phase::Member;
            out.notify(Notification::Joined);
        }
    }

    /// The question that this answers, if it was asked of whom it comes from.
    fn answered(&mut self, from: &C, request: u32, question: Question) -> bool {
        let is_it = |call: &Call<C>| call.request == request && call.to == *from && call.question == question;
        let Some(place) = self.calls.iter().position(is_it) else { return false };
        self.calls.swap_remove(place);
        if self.calls.is_empty() {
            self.calls = Vec::new();
        }
        true
    }

    #[allow(clippy::too_many_arguments, reason = "an answer's fields, and who says so when")]
    pub(super) fn connected(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        from: C,
        request: u32,
        is_accepted: bool,
        contacts: Vec<C>,
        out: &mut UnstructuredOut<C>,
    ) {
        if !self.answered(&from, request, Question::Connect) {
            return;
        }
        if is_accepted && !self.neighbours.contains(&from) {
            if self.neighbours.len() < self.config.neighbours_max {
                self.neighbours.push(from.clone());
                self.joined(out);
                self.introduce(&from, out);
            } else {
                out.send(from, UnstructuredMessage::Disconnect);
            }
        }
        self.hear_of(rng, contacts);
        self.find_neighbours(now, rng, out);
        self.check_joining(out);
    }

    #[allow(clippy::too_many_arguments, reason = "an answer's fields, and who says so when")]
    pub(super) fn pong(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        from: &C,
        request: u32,
        contacts: Vec<C>,
        indexed: Option<u32>,
        out: &mut UnstructuredOut<C>,
    ) {
        if self.answered(from, request, Question::Ping) {
            self.hear_of(rng, contacts);
            self.find_neighbours(now, rng, out);
            if let Some(indexed) = indexed.filter(|_| self.config.index_neighbours) {
                self.check_indexed(now, from, indexed, out);
            }
        }
    }

    pub(super) fn pinged(&self, rng: &mut dyn RngCore, from: C, request: u32, out: &mut UnstructuredOut<C>) {
        if self.neighbours.contains(&from) {
            let contacts = self.named(rng, &from);
            let answer = if self.config.index_neighbours {
                let indexed = self.index.count(&from);
                UnstructuredMessage::IndexedPong { request, contacts, indexed }
            } else {
                UnstructuredMessage::Pong { request, contacts }
            };
            out.send(from, answer);
        } else {
            // It takes this node for a neighbour still.
            out.send(from, UnstructuredMessage::Disconnect);
        }
    }

    pub(super) fn lost(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        contact: &C,
        out: &mut UnstructuredOut<C>,
    ) {
        self.neighbours.retain(|neighbour| neighbour != contact);
        self.index.forget(contact);
        self.calls.retain(|call| call.to != *contact || call.question == Question::Connect);
        self.find_neighbours(now, rng, out);
    }

    /// Gives a new neighbour all that this node provides.
    fn introduce(&self, to: &C, out: &mut UnstructuredOut<C>) {
        if !self.config.index_neighbours {
            return;
        }
        let claims: Vec<Entry> = self.shelves.claims().cloned().collect();
        for (number, entries) in claims.chunks(INDEX_ENTRIES_MAX).enumerate() {
            let (anew, entries, withdrawn) = (number == 0, entries.to_vec(), Vec::new());
            out.send(to.clone(), UnstructuredMessage::Index { anew, entries, withdrawn });
        }
    }

    /// A neighbour has more or less of what this node provides than there is: something was lost
    /// on the way. To one of them in a period, for one that never has it costs all of it each time.
    fn check_indexed(&mut self, now: Instant, by: &C, indexed: u32, out: &mut UnstructuredOut<C>) {
        let provided = self.shelves.claims().count();
        if indexed as usize == provided || now < self.introduce_after {
            return;
        }
        self.introduce_after = now + self.config.upkeep_every;
        if provided == 0 {
            let (entries, withdrawn) = (Vec::new(), Vec::new());
            out.send(by.clone(), UnstructuredMessage::Index { anew: true, entries, withdrawn });
        }
        self.introduce(by, out);
    }

    /// Gives all neighbours what is new, and takes back what is to be taken back.
    pub(super) fn tell_neighbours(&mut self, claims: Vec<Entry>, out: &mut UnstructuredOut<C>) {
        let mut withdrawn = std::mem::take(&mut self.withdrawn);
        if !self.config.index_neighbours || (claims.is_empty() && withdrawn.is_empty()) {
            return;
        }
        let mut claims = claims.chunks(INDEX_ENTRIES_MAX);
        loop {
            let entries = claims.next().unwrap_or_default().to_vec();
            let rest = withdrawn.split_off(withdrawn.len().min(WITHDRAWN_MAX));
            let withdrawn = std::mem::replace(&mut withdrawn, rest);
            if entries.is_empty() && withdrawn.is_empty() {
                return;
            }
            for neighbour in &self.neighbours {
                let (entries, withdrawn) = (entries.clone(), withdrawn.clone());
                let message = UnstructuredMessage::Index { anew: false, entries, withdrawn };
                out.send(neighbour.clone(), message);
            }
        }
    }

    pub(super) fn told_of(
        &mut self,
        now: Instant,
        from: &C,
        anew: bool,
        entries: Vec<Entry>,
        withdrawn: &[Id],
    ) {
        if self.config.index_neighbours && self.neighbours.contains(from) {
            if anew {
                self.index.forget(from);
            }
            self.index.withdraw(from, withdrawn);
            self.index.add(from, entries, self.wall(now));
        }
    }

    fn check_joining(&mut self, out: &mut UnstructuredOut<C>) {
        if self.phase == Phase::Joining && self.calls.is_empty() {
            out.notify(Notification::JoinFailed);
        }
    }

    pub(super) fn handle_silence(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        out: &mut UnstructuredOut<C>,
    ) {
        while let Some(place) = self.calls.iter().position(|call| call.deadline <= now) {
            let call = &mut self.calls[place];
            if call.attempts_left > 0 {
                call.attempts_left -= 1;
                call.deadline = now + self.config.answer_timeout;
                out.send(call.to.clone(), message(call.question, call.request));
                continue;
            }
            let call = self.calls.swap_remove(place);
            match call.question {
                Question::Ping if self.frozen => {}
                Question::Ping => self.lost(now, rng, &call.to, out),
                Question::Connect => {
                    self.find_neighbours(now, rng, out);
                    self.check_joining(out);
                }
            }
        }
    }
}

fn message<C>(question: Question, request: u32) -> UnstructuredMessage<C> {
    match question {
        Question::Connect => UnstructuredMessage::Connect { request },
        Question::Ping => UnstructuredMessage::Ping { request },
    }
}
