//! Questions under way: lookups, and the calls of which they consist.

use super::{
    search::{Found, Next, Search},
    *,
};

/// A probe often has nobody else's answers beside it. Whoever was heard of so shortly before it
/// ended is enough: if the connection was cut in between, five probes of 2 s each cost five
/// contacts.
const HEARD_LATELY: Duration = Duration::from_secs(10);

/// Who wants to know.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    Caller,
    /// This node's own id, while it joins and from time to time afterwards.
    Place,
    /// A bucket's range.
    Refresh,
}

#[derive(Debug, Clone)]
pub(super) struct Lookup<C> {
    number: u32,
    pub(super) purpose: Purpose,
    pub(super) search: Search<C>,
}

/// A question that was sent to one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Question {
    /// Is the oldest of a full bucket, or who took a place, still there?
    Probe,
    Find {
        lookup: u32,
        path: u8,
        key: Id,
    },
}

#[derive(Debug, Clone)]
pub(super) struct Call<C> {
    request: u32,
    to: C,
    question: Question,
    attempts_left: u8,
    asked_at: Instant,
    pub(super) deadline: Instant,
}

impl Question {
    fn message<C>(self, request: u32) -> KademliaMessage<C> {
        match self {
            Question::Probe => KademliaMessage::Ping { request },
            Question::Find { key, .. } => KademliaMessage::FindNode { request, key },
        }
    }
}

impl<C: Contact> Kademlia<C> {
    pub(super) fn start(&mut self, now: Instant, key: Id, purpose: Purpose, out: &mut KademliaOut<C>) -> u32 {
        let mut seeds = self.tables.closest(key, self.config.k.max(self.config.seeds_min), true);
        if seeds.is_empty() {
            seeds.clone_from(&self.known);
        }
        self.start_from(now, seeds, key, purpose, out)
    }

    pub(super) fn start_from(
        &mut self,
        now: Instant,
        seeds: Vec<C>,
        key: Id,
        purpose: Purpose,
        out: &mut KademliaOut<C>,
    ) -> u32 {
        let KademliaConfig { k, alpha, disjoint_paths, .. } = *self.config;
        // A bucket that is refreshed by a liar's word is one bucket.
        let paths = if purpose == Purpose::Refresh { 1 } else { disjoint_paths };
        let number = self.number();
        let search = Search::new(key, k, alpha, paths, seeds);
        self.advance(now, Lookup { number, purpose, search }, out);
        number
    }

    pub(super) fn is_probing(&self) -> bool {
        self.calls.iter().any(|call| call.question == Question::Probe)
    }

    pub(super) fn is_looking(&self, wanted: impl Fn(Purpose) -> bool) -> bool {
        self.lookups.iter().any(|lookup| wanted(lookup.purpose))
    }

    /// Takes a lookup's next steps; it is put back among those under way, or ends.
    fn advance(&mut self, now: Instant, mut lookup: Lookup<C>, out: &mut KademliaOut<C>) {
        let (number, key) = (lookup.number, lookup.search.key);
        loop {
            match lookup.search.next() {
                Next::Ask { to, path } => {
                    self.call(now, to, Question::Find { lookup: number, path, key }, out);
                }
                Next::Wait => return self.lookups.push(lookup),
                Next::Done => return self.finish(now, lookup, None, out),
                Next::TooLong => return self.finish(now, lookup, Some(LookupError::TooLong), out),
            }
        }
    }

    pub(super) fn finish(
        &mut self,
        now: Instant,
        lookup: Lookup<C>,
        error: Option<LookupError>,
        out: &mut KademliaOut<C>,
    ) {
        let Lookup { number, purpose, search } = lookup;
        // Of those that a path has passed by; their answers are no longer needed. Whoever let the
        // first deadline go by counts as silent now, lest the dead are passed by for ever.
        let is_of_it =
            |call: &mut Call<C>| matches!(call.question, Question::Find { lookup, .. } if lookup == number);
        let passed_by: Vec<Call<C>> = self.calls.extract_if(.., is_of_it).collect();
        let attempts_left = self.config.attempts.saturating_sub(1);
        let silent = passed_by.iter().filter(|call| call.attempts_left < attempts_left);
        silent.for_each(|call| self.unanswered(now, call, out));
        self.give_room_back();
        let key = search.key;
        let Found { mut nearest, timeouts, path } = search.found();
        match purpose {
            Purpose::Place => self.found_my_place(now, !nearest.is_empty(), out),
            Purpose::Refresh => {}
            Purpose::Caller => {
                let is_alone = self.tables.is_empty() && self.known.is_empty();
                let error = error.or((nearest.is_empty() && !is_alone).then_some(LookupError::Exhausted));
                let my_distance = self.tables.me.id().xor(key);
                let place = nearest.partition_point(|(contact, _)| contact.id().xor(key) < my_distance);
                nearest.insert(place, (self.tables.me.clone(), 0));
                nearest.truncate(self.config.k);
                let hops = nearest[0].1.into();
                let nearest = nearest.into_iter().map(|(contact, _)| contact).collect();
                let outcome = error.map_or(Ok(nearest), Err);
                let lookup = LookupId(number);
                let located = Located { lookup, key, outcome, hops, timeouts, path };
                out.notify(Notification::LookupFinished(located));
            }
        }
    }

    /// Whoever has not answered yet is not held for silent.
    pub(super) fn drop_lookup(&mut self, number: u32) {
        self.lookups.retain(|lookup| lookup.number != number);
        let is_of_it =
            |call: &Call<C>| matches!(call.question, Question::Find { lookup, .. } if lookup == number);
        self.calls.retain(|call| !is_of_it(call));
        self.give_room_back();
    }

    fn number(&mut self) -> u32 {
        self.numbered = self.numbered.wrapping_add(1);
        self.numbered
    }

    pub(super) fn call(&mut self, now: Instant, to: C, question: Question, out: &mut KademliaOut<C>) {
        let request = self.number();
        let attempts_left = self.config.attempts.saturating_sub(1);
        let deadline = now + self.config.answer_timeout;
        out.send(to.clone(), question.message(request));
        self.calls.push(Call { request, to, question, attempts_left, asked_at: now, deadline });
    }

    fn take_lookup(&mut self, number: u32) -> Option<Lookup<C>> {
        let place = self.lookups.iter().position(|lookup| lookup.number == number)?;
        Some(self.lookups.swap_remove(place))
    }

    /// Most nodes ask nothing most of the time; a million of them keep no room for it.
    fn give_room_back(&mut self) {
        if self.calls.is_empty() {
            self.calls = Vec::new();
        }
        if self.lookups.is_empty() {
            self.lookups = Vec::new();
        }
    }

    /// An answer counts if it comes from whom we asked and fits the question.
    pub(super) fn handle_answer(
        &mut self,
        now: Instant,
        from: C,
        request: u32,
        contacts: Option<Vec<C>>,
        out: &mut KademliaOut<C>,
    ) {
        let is_asked = |call: &Call<C>| call.request == request && call.to == from;
        let Some(place) = self.calls.iter().position(is_asked) else { return };
        match (self.calls[place].question, contacts) {
            (Question::Probe, None) => {
                self.calls.swap_remove(place);
                self.give_room_back();
            }
            (Question::Find { lookup, path, .. }, Some(contacts)) => {
                self.calls.swap_remove(place);
                let Some(mut lookup) = self.take_lookup(lookup) else { return };
                lookup.search.answered(path, &from, &self.tables.me, contacts);
                self.advance(now, lookup, out);
            }
            // An answer to another question than ours: as if it had not come.
            _ => {}
        }
    }

    pub(super) fn handle_deadlines(&mut self, now: Instant, out: &mut KademliaOut<C>) {
        while let Some(place) = self.calls.iter().position(|call| call.deadline <= now) {
            let call = &mut self.calls[place];
            let (to, question) = (call.to.clone(), call.question);
            let is_over = call.attempts_left == 0;
            if is_over {
                let call = self.calls.swap_remove(place);
                self.unanswered(now, &call, out);
                self.give_room_back();
            } else {
                call.attempts_left -= 1;
                call.deadline = now + self.config.answer_timeout;
                out.send(to.clone(), question.message(call.request));
            }
            if let Question::Find { lookup, path, .. } = question
                && let Some(mut lookup) = self.take_lookup(lookup)
            {
                if is_over {
                    lookup.search.failed(path, &to);
                } else {
                    lookup.search.slow(path, &to);
                }
                self.advance(now, lookup, out);
            }
        }
    }

    /// Section 4.1 keeps unresponsive contacts as long as nobody waits for their place, lest a
    /// node whose own connection was cut empties its table. We ask what is meant: whether
    /// anybody was heard of meanwhile.
    fn unanswered(&mut self, now: Instant, call: &Call<C>, out: &mut KademliaOut<C>) {
        let promoted = match call.question {
            _ if self.frozen => None,
            Question::Probe if self.heard_at + HEARD_LATELY > now => self.tables.forget(&call.to),
            Question::Find { .. } if self.heard_at > call.asked_at => self.tables.failed(&call.to),
            _ => None,
        };
        self.probe(now, promoted, out);
    }

    /// Who waited for a place was seen some time ago, and may be dead itself.
    pub(super) fn probe(&mut self, now: Instant, promoted: Option<C>, out: &mut KademliaOut<C>) {
        if let Some(promoted) = promoted {
            self.call(now, promoted, Question::Probe, out);
        }
    }
}
