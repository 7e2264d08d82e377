//! What this node asks of index nodes for its callers: lookups, reads and writes; and all the
//! questions under way, with their deadlines.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    index::{By, Place},
    *,
};
use crate::{
    Answer, ContentError, Entry, Finished, Located, LookupError, OperationId, Step,
    entry::{Class, Slot, per_key_max},
    unstructured::Wanted,
};

/// Lookups of its callers that a node has under way.
pub(super) const LOOKUPS_MAX: usize = 256;
/// Operations of its callers that a node has under way.
pub(super) const OPERATIONS_MAX: usize = 64;

/// A question that was sent to one node.
#[derive(Debug, Clone)]
pub(super) struct Call<C> {
    request: u32,
    pub(super) to: C,
    /// To be sent again.
    message: DirectoryMessage,
    attempts_left: u8,
    /// The last time.
    asked_at: Instant,
    pub(super) deadline: Instant,
    pub(super) purpose: Purpose,
}

/// Who wants to know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Purpose {
    Register,
    Keep(Vec<Place>),
    /// The lookup, or the read, with this number.
    Locate(u32),
    Read(u32),
    /// Of an index node that compares.
    Compare,
    Send,
}

#[derive(Debug, Clone)]
pub(super) struct Lookup<C> {
    number: u32,
    key: Id,
    /// Not asked yet, the best first.
    candidates: Vec<C>,
    hops: u32,
    timeouts: u32,
    path: Vec<Step<C>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Fetch,
    Providers,
    Search,
}

#[derive(Debug, Clone)]
pub(super) struct Read<C> {
    number: u32,
    what: What,
    wanted: Wanted,
    candidates: Vec<C>,
    waiting: usize,
    /// Of index nodes that have everything.
    answers: usize,
    has_answer: bool,
    found: BTreeMap<Slot, Entry>,
    by: Vec<C>,
}

#[derive(Debug, Clone)]
pub(super) struct Write<C> {
    number: u32,
    awaited: BTreeSet<(C, Place)>,
    /// Who has kept all so far.
    by: Vec<C>,
    refused: Option<Refused>,
}

impl<C: Contact> Write<C> {
    pub(super) fn places_awaited(&self, of: &C) -> impl Iterator<Item = Place> {
        self.awaited.iter().filter(move |(index, _)| index == of).map(|(_, place)| *place)
    }
}

impl<C: Contact> Directory<C> {
    fn number(&mut self) -> u32 {
        self.numbered = self.numbered.wrapping_add(1);
        self.numbered
    }

    pub(super) fn call(
        &mut self,
        now: Instant,
        to: C,
        purpose: Purpose,
        message: impl FnOnce(u32) -> DirectoryMessage,
        out: &mut DirectoryOut<C>,
    ) {
        let request = self.number();
        let message = message(request);
        out.send(to.clone(), message.clone());
        let attempts_left = self.config.attempts.saturating_sub(1);
        let deadline = now + self.config.answer_timeout;
        self.calls.push(Call { request, to, message, attempts_left, asked_at: now, deadline, purpose });
    }

    /// What this answers, if it was asked of whom it comes from, and `fits`.
    fn answered(
        &mut self,
        now: Instant,
        from: &C,
        request: u32,
        fits: impl Fn(&Purpose) -> bool,
    ) -> Option<Purpose> {
        let is_it = |call: &Call<C>| call.request == request && call.to == *from && fits(&call.purpose);
        let place = self.calls.iter().position(is_it)?;
        let call = self.calls.swap_remove(place);
        if self.calls.is_empty() {
            self.calls = Vec::new();
        }
        self.was_heard(now, from);
        Some(call.purpose)
    }

    pub(super) fn handle_deadlines(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        out: &mut DirectoryOut<C>,
    ) {
        while let Some(place) = self.calls.iter().position(|call| call.deadline <= now) {
            let call = &mut self.calls[place];
            if call.attempts_left > 0 {
                call.attempts_left -= 1;
                call.asked_at = now;
                call.deadline = now + self.config.answer_timeout;
                out.send(call.to.clone(), call.message.clone());
                continue;
            }
            let Call { to, purpose, asked_at, .. } = self.calls.swap_remove(place);
            self.was_silent(&to, asked_at);
            match purpose {
                Purpose::Register => {
                    self.write_lost(&to, None, out);
                    self.not_registered(out);
                }
                Purpose::Keep(_) => self.write_lost(&to, None, out),
                Purpose::Locate(number) => {
                    if let Some(mut lookup) = self.take_lookup(number) {
                        lookup.timeouts += 1;
                        self.advance(now, lookup, out);
                    }
                }
                Purpose::Read(number) => self.read_answered(now, rng, number, &to, None, out),
                Purpose::Compare | Purpose::Send => self.compare_with_next(now, out),
            }
        }
    }

    pub(super) fn handle_answer(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        from: &C,
        message: DirectoryMessage,
        out: &mut DirectoryOut<C>,
    ) {
        match message {
            DirectoryMessage::Registered { request, token: Some(token) } => {
                if self.answered(now, from, request, |purpose| *purpose == Purpose::Register).is_some() {
                    self.registered(now, from, token, out);
                }
            }
            // There is no room: as good as silence, and not to be asked again before it is over.
            DirectoryMessage::Registered { request, token: None } => {
                let is_it = |call: &&mut Call<C>| {
                    call.request == request && call.to == *from && call.purpose == Purpose::Register
                };
                if let Some(call) = self.calls.iter_mut().find(is_it) {
                    call.attempts_left = 0;
                }
            }
            DirectoryMessage::Located { request, is_index } => {
                let purpose =
                    self.answered(now, from, request, |purpose| matches!(purpose, Purpose::Locate(_)));
                if let Some(Purpose::Locate(number)) = purpose
                    && let Some(lookup) = self.take_lookup(number)
                {
                    self.located(now, lookup, is_index, out);
                }
            }
            DirectoryMessage::Kept { request, outcomes } => {
                let purpose =
                    self.answered(now, from, request, |purpose| matches!(purpose, Purpose::Keep(_)));
                if let Some(Purpose::Keep(places)) = purpose {
                    self.kept_there(now, from, &places, &outcomes, out);
                }
            }
            DirectoryMessage::Got { request, entries, is_settled } => {
                let purpose =
                    self.answered(now, from, request, |purpose| matches!(purpose, Purpose::Read(_)));
                if let Some(Purpose::Read(number)) = purpose {
                    self.read_answered(now, rng, number, from, Some((entries, is_settled)), out);
                }
            }
            DirectoryMessage::Names { request, named, is_last } => {
                if self.answered(now, from, request, |purpose| *purpose == Purpose::Compare).is_some() {
                    self.names_came(now, &named, is_last, out);
                }
            }
            DirectoryMessage::Sent { request, entries } => {
                if self.answered(now, from, request, |purpose| *purpose == Purpose::Send).is_some() {
                    self.values_came(now, from, entries, out);
                }
            }
            DirectoryMessage::Register { .. }
            | DirectoryMessage::Goodbye
            | DirectoryMessage::Locate { .. }
            | DirectoryMessage::Keep { .. }
            | DirectoryMessage::Get { .. }
            | DirectoryMessage::Compare { .. }
            | DirectoryMessage::Send { .. } => {}
        }
    }

    fn is_silent(&self, contact: &C) -> bool {
        self.sessions.iter().any(|session| session.index == *contact && session.is_silent)
    }

    /// The index nodes in the key's order, those that are held for silent behind the others.
    pub(super) fn candidates(&self, key: Id) -> Vec<C> {
        let mut ranked = rank(key, &self.indexes);
        ranked.sort_by_key(|contact| self.is_silent(contact));
        ranked
    }

    pub(super) fn start_lookup(
        &mut self,
        now: Instant,
        key: Id,
        out: &mut DirectoryOut<C>,
    ) -> Result<LookupId, LocateError> {
        if self.phase != Phase::Member {
            return Err(LocateError::NotJoined);
        }
        if self.lookups.len() >= LOOKUPS_MAX {
            return Err(LocateError::TooManyLookups { limit: LOOKUPS_MAX });
        }
        let (number, candidates) = (self.number(), self.candidates(key));
        self.advance(now, Lookup { number, key, candidates, hops: 0, timeouts: 0, path: Vec::new() }, out);
        Ok(LookupId(number))
    }

    fn take_lookup(&mut self, number: u32) -> Option<Lookup<C>> {
        let place = self.lookups.iter().position(|lookup| lookup.number == number)?;
        let lookup = self.lookups.swap_remove(place);
        if self.lookups.is_empty() {
            self.lookups = Vec::new();
        }
        Some(lookup)
    }

    /// Asks the next; whoever says that it is there is responsible.
    fn advance(&mut self, now: Instant, mut lookup: Lookup<C>, out: &mut DirectoryOut<C>) {
        if lookup.candidates.is_empty() {
            return self.lookup_ended(lookup, Err(LookupError::Exhausted), out);
        }
        let next = lookup.candidates.remove(0);
        if next == self.me {
            return self.lookup_ended(lookup, Ok(next), out);
        }
        lookup.path.push(Step { contact: next.clone(), answered: false });
        let (number, key) = (lookup.number, lookup.key);
        self.lookups.push(lookup);
        let message = |request| DirectoryMessage::Locate { request, key };
        self.call(now, next, Purpose::Locate(number), message, out);
    }

    fn located(&mut self, now: Instant, mut lookup: Lookup<C>, is_index: bool, out: &mut DirectoryOut<C>) {
        lookup.hops += 1;
        let Some(step) = lookup.path.last_mut() else { return };
        step.answered = true;
        let found = step.contact.clone();
        match is_index {
            true => self.lookup_ended(lookup, Ok(found), out),
            false => self.advance(now, lookup, out),
        }
    }

    fn lookup_ended(&self, lookup: Lookup<C>, found: Result<C, LookupError>, out: &mut DirectoryOut<C>) {
        let Lookup { number, key, candidates, hops, timeouts, path } = lookup;
        let outcome = found.map(|found| std::iter::once(found).chain(candidates).collect());
        let located = Located { lookup: LookupId(number), key, outcome, hops, timeouts, path };
        out.notify(Notification::LookupFinished(located));
    }

    fn check_operations(&self) -> Result<(), ContentError> {
        if self.phase != Phase::Member {
            return Err(ContentError::NotLocated(LocateError::NotJoined));
        }
        if self.reads.len() + self.writes.len() >= OPERATIONS_MAX {
            return Err(ContentError::TooMany { limit: OPERATIONS_MAX });
        }
        Ok(())
    }

    /// Asks the first index nodes in the order of `at`.
    pub(super) fn start_read(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        what: What,
        at: Id,
        wanted: Wanted,
        out: &mut DirectoryOut<C>,
    ) -> Result<OperationId, ContentError> {
        self.check_operations()?;
        let (number, candidates) = (self.number(), self.candidates(at));
        let (found, by) = (BTreeMap::new(), Vec::new());
        let (waiting, answers, has_answer) = (0, 0, false);
        let read = Read { number, what, wanted, candidates, waiting, answers, has_answer, found, by };
        self.go_on_reading(now, rng, read, out);
        Ok(OperationId(number))
    }

    fn go_on_reading(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        mut read: Read<C>,
        out: &mut DirectoryOut<C>,
    ) {
        while read.waiting + read.answers < self.config.reads && !read.candidates.is_empty() {
            // Whoever is held for silent is waited for only if nobody else has an answer.
            if self.is_silent(&read.candidates[0]) && (read.waiting > 0 || read.has_answer) {
                break;
            }
            let next = read.candidates.remove(0);
            if next != self.me {
                read.waiting += 1;
                let (number, wanted) = (read.number, read.wanted.clone());
                let message = |request| DirectoryMessage::Get { request, wanted };
                self.call(now, next, Purpose::Read(number), message, out);
            } else if let Some(index) = &self.index {
                let entries = index.find(rng, &read.wanted, self.wall(now));
                read.take(next, entries, index.is_settled(now));
            }
        }
        if read.waiting > 0 {
            return self.reads.push(read);
        }
        let mut found: Vec<Entry> = read.found.into_values().collect();
        let outcome = match (read.has_answer, read.what) {
            (false, _) => Err(ContentError::Silent),
            (true, What::Fetch) => {
                found.sort_by_key(|entry| std::cmp::Reverse(entry.sequence));
                Ok(Answer::Values(found))
            }
            (true, What::Providers) => Ok(Answer::Providers(found)),
            (true, What::Search) => Ok(Answer::Hits(found)),
        };
        let (operation, by) = (OperationId(read.number), read.by);
        out.notify(Notification::OperationFinished(Finished { operation, outcome, by }));
    }

    fn read_answered(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        number: u32,
        from: &C,
        answer: Option<(Vec<Entry>, bool)>,
        out: &mut DirectoryOut<C>,
    ) {
        let Some(place) = self.reads.iter().position(|read| read.number == number) else { return };
        let mut read = self.reads.swap_remove(place);
        read.waiting -= 1;
        if let Some((entries, is_settled)) = answer {
            let wall = self.wall(now);
            let limit = match &read.wanted {
                Wanted::Under { class, .. } => per_key_max(*class),
                Wanted::Words(_) => per_key_max(Class::Posting),
            };
            let entries = entries.into_iter().take(limit);
            let sound =
                entries.filter(|entry| read.wanted.fits(entry) && entry.check(wall).is_ok()).collect();
            read.take(from.clone(), sound, is_settled);
        }
        self.go_on_reading(now, rng, read, out);
    }

    /// Waits until each index node that this node is registered with has kept the entries in
    /// these places, refused them, or is silent.
    pub(super) fn start_write(
        &mut self,
        now: Instant,
        entries: Vec<Entry>,
        publish: impl FnOnce(&mut Self, Vec<Entry>) -> Vec<Place>,
        out: &mut DirectoryOut<C>,
    ) -> Result<OperationId, ContentError> {
        self.check_operations()?;
        let number = self.number();
        let mut write = Write { number, awaited: BTreeSet::new(), by: Vec::new(), refused: None };
        if let Some(index) = &mut self.index {
            let put = entries.iter().map(|entry| index.put(entry.clone(), By::Myself, &self.config));
            match put.collect::<Result<Vec<()>, Refused>>() {
                Ok(_) => write.by.push(self.me.clone()),
                Err(refused) => write.refused = Some(refused),
            }
        }
        let places = publish(self, entries);
        let sessions = self.sessions.iter();
        for session in sessions.filter(|session| session.token.is_some() && !session.is_silent) {
            write.awaited.extend(places.iter().map(|place| (session.index.clone(), *place)));
            write.by.push(session.index.clone());
        }
        if write.awaited.is_empty() {
            write.finish(out);
        } else {
            self.writes.push(write);
        }
        self.publish(now, &places, out);
        Ok(OperationId(number))
    }

    pub(super) fn write_answered(
        &mut self,
        index: &C,
        place: Place,
        outcome: Result<(), Refused>,
        out: &mut DirectoryOut<C>,
    ) {
        for write in &mut self.writes {
            if write.awaited.remove(&(index.clone(), place))
                && let Err(refused) = outcome
            {
                write.refused = Some(refused);
                write.by.retain(|by| by != index);
            }
        }
        self.end_writes(out);
    }

    /// This index node answers for none of what it was sent.
    pub(super) fn write_lost(&mut self, index: &C, refused: Option<Refused>, out: &mut DirectoryOut<C>) {
        for write in &mut self.writes {
            let before = write.awaited.len();
            write.awaited.retain(|(awaited, _)| awaited != index);
            if write.awaited.len() < before {
                write.refused = refused.or(write.refused);
                write.by.retain(|by| by != index);
            }
        }
        self.end_writes(out);
    }

    fn end_writes(&mut self, out: &mut DirectoryOut<C>) {
        while let Some(place) = self.writes.iter().position(|write| write.awaited.is_empty()) {
            self.writes.swap_remove(place).finish(out);
        }
    }

    /// This node leaves.
    pub(super) fn end_all(&mut self, out: &mut DirectoryOut<C>) {
        self.calls = Vec::new();
        for lookup in std::mem::take(&mut self.lookups) {
            self.lookup_ended(lookup, Err(LookupError::Left), out);
        }
        let reads = std::mem::take(&mut self.reads).into_iter().map(|read| read.number);
        let writes = std::mem::take(&mut self.writes).into_iter().map(|write| write.number);
        for number in reads.chain(writes) {
            let (outcome, by) = (Err(ContentError::Left), Vec::new());
            out.notify(Notification::OperationFinished(Finished {
                operation: OperationId(number),
                outcome,
                by,
            }));
        }
    }
}

impl<C> Read<C> {
    /// Entries that were checked.
    fn take(&mut self, from: C, entries: Vec<Entry>, is_settled: bool) {
        self.has_answer = true;
        self.answers += usize::from(is_settled);
        if !entries.is_empty() {
            self.by.push(from);
        }
        for entry in entries {
            let order = |entry: &Entry| (entry.sequence, entry.tag());
            let known = self.found.get(&entry.slot());
            if known.is_none_or(|known| order(known) < order(&entry)) {
                self.found.insert(entry.slot(), entry);
            }
        }
    }
}

impl<C> Write<C> {
    fn finish<M>(self, out: &mut Out<C, M>) {
        let outcome = match (self.by.is_empty(), self.refused) {
            (false, _) => Ok(Answer::Stored),
            (true, Some(refused)) => Err(ContentError::Refused(refused)),
            (true, None) => Err(ContentError::Silent),
        };
        let (operation, by) = (OperationId(self.number), self.by);
        out.notify(Notification::OperationFinished(Finished { operation, outcome, by }));
    }
}
