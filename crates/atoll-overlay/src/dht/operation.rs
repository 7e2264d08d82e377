//! This node's own stores and reads. An operation has a part for each key that it concerns;
//! upkeep has parts of its own.
//!
//! ```text
//! a part: locating ─► asking up to r nodes, those that locate found and those that they name
//!         ─► finished: the operation, if it was its last part
//! ```

use std::collections::BTreeMap;

use atoll_types::{Instant, WallTime};
use rand::RngCore;

use super::{
    Dht, DhtOut,
    exchange::Purpose,
    message::{ContentMessage, DhtMessage, KEEP_BYTES_MAX, Named, REPLICAS_MAX, Refused, Wish},
};
use crate::{
    Answer, Contact, ContentError, Entry, Finished, Id, LocateError, Located, LookupId, Notification,
    OperationId, Overlay,
    entry::{Class, Slot},
};

/// Operations of its callers that a node has under way.
pub(super) const OPERATIONS_MAX: usize = 64;
/// Nodes on the way of a lookup whose answers are remembered: some forty are asked.
const SOUGHT_MAX: usize = 128;
/// Nodes that are asked beyond those that one node named, if these have nothing, or are too few: three
/// steps towards the key of three each. Whoever wants to lead them astray as well needs as many
/// accomplices.
const BEYOND_MAX: usize = 9;
/// Nodes that a read waits for, of those that have something: two do not lie alike by accident,
/// and the third may be the one that is down.
const READ_QUORUM: usize = 2;

#[derive(Debug, Clone)]
pub(super) struct Operation<C> {
    number: u32,
    what: What,
    parts_left: usize,
    /// What each part of a read found.
    found: Vec<Vec<Entry>>,
    by: Vec<C>,
    error: Option<ContentError>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    Store,
    Fetch,
    Providers,
    Search,
}

#[derive(Debug, Clone)]
pub(super) struct Part<C> {
    number: u32,
    /// None: upkeep's.
    pub(super) operation: Option<u32>,
    pub(super) key: Id,
    pub(super) job: Job,
    /// While it locates.
    lookup: Option<LookupId>,
    /// Not asked yet, the best first; at most `REPLICAS_MAX`.
    candidates: Vec<C>,
    pub(super) asked: Vec<Asked<C>>,
    /// Whether the lookup named fewer nodes than there should be, so that the others are known from
    /// the first one alone.
    is_named_by_one: bool,
    /// How many had been asked when it began to ask beyond them.
    beyond: Option<usize>,
    /// Of a read that locates: who was asked on the way for what it has; at most `SOUGHT_MAX`.
    sought: Vec<Sought<C>>,
}

/// A node that was asked on the way of a lookup.
#[derive(Debug, Clone)]
struct Sought<C> {
    contact: C,
    /// What it answered: the token to give it a copy with, and whether it had something.
    answer: Option<(u64, bool)>,
}

#[derive(Debug, Clone)]
pub(super) enum Job {
    /// All of one key, and together at most `KEEP_BYTES_MAX`.
    Store(Vec<Entry>),
    Read {
        class: Class,
        found: BTreeMap<Slot, Entry>,
    },
}

#[derive(Debug, Clone)]
pub(super) struct Asked<C> {
    pub(super) contact: C,
    pub(super) state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Waiting,
    /// It keeps all, or answered.
    Yes,
    /// It answered, and has nothing.
    Empty,
    No(Refused),
    Silent,
}

impl Job {
    pub(super) fn read(class: Class) -> Self {
        Job::Read { class, found: BTreeMap::new() }
    }
}

impl<C: Contact> Part<C> {
    /// Others that are said to be responsible too: behind those that the lookup found; of those that are
    /// asked beyond them in front, for each step names nearer ones.
    fn add_candidates(&mut self, named: Vec<C>) {
        let mut place = if self.beyond.is_some() { 0 } else { self.candidates.len() };
        for contact in named.into_iter().take(REPLICAS_MAX) {
            if self.candidates.len() < REPLICAS_MAX && !self.candidates.contains(&contact) {
                self.candidates.insert(place, contact);
                place += 1;
            }
        }
    }

    /// Whether a read has found nothing, or what is stored has fewer keepers than it should.
    fn is_in_want(&self, replicas: usize) -> bool {
        let has_it = self.count(|state| state == State::Yes);
        match self.job {
            Job::Read { .. } => has_it == 0,
            Job::Store(_) => has_it < replicas,
        }
    }
}

impl<C> Part<C> {
    pub(super) fn bytes(&self) -> usize {
        let entries = match &self.job {
            Job::Store(entries) => entries.iter().map(Entry::bytes).sum(),
            Job::Read { found, .. } => found.values().map(Entry::bytes).sum::<usize>(),
        };
        size_of::<Self>()
            + entries
            + self.candidates.capacity() * size_of::<C>()
            + self.asked.capacity() * size_of::<Asked<C>>()
            + self.sought.capacity() * size_of::<Sought<C>>()
    }

    fn count(&self, wanted: impl Fn(State) -> bool) -> usize {
        self.asked.iter().filter(|asked| wanted(asked.state)).count()
    }
}

/// As many entries, from the first on, as one message takes.
pub(crate) fn fitting(entries: impl IntoIterator<Item = Entry>) -> Vec<Entry> {
    let mut bytes = 0;
    let fits = |entry: &Entry| {
        bytes += entry.bytes();
        bytes <= KEEP_BYTES_MAX
    };
    entries.into_iter().take_while(fits).collect()
}

/// Takes an entry in place of an older one of the same slot.
fn merge(found: &mut BTreeMap<Slot, Entry>, entry: Entry) {
    let slot = entry.slot();
    let order = |entry: &Entry| (entry.sequence, entry.tag());
    if found.get(&slot).is_none_or(|known| order(known) < order(&entry)) {
        found.insert(slot, entry);
    }
}

impl<O: Overlay> Dht<O> {
    /// Begins an operation with these parts.
    pub(super) fn begin(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        what: What,
        parts: Vec<(Id, Job)>,
        out: &mut DhtOut<O>,
    ) -> Result<OperationId, ContentError> {
        self.may_begin()?;
        let number = self.number();
        let (parts_left, found, by) = (parts.len(), Vec::new(), Vec::new());
        self.operations.push(Operation { number, what, parts_left, found, by, error: None });
        for (key, job) in parts {
            self.start_part(now, rng, Some(number), key, job, out);
        }
        Ok(OperationId(number))
    }

    pub(super) fn may_begin(&self) -> Result<(), ContentError> {
        if !self.is_member {
            return Err(ContentError::NotLocated(LocateError::NotJoined));
        }
        if self.operations.len() >= OPERATIONS_MAX {
            return Err(ContentError::TooMany { limit: OPERATIONS_MAX });
        }
        Ok(())
    }

    pub(super) fn start_part(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        operation: Option<u32>,
        key: Id,
        job: Job,
        out: &mut DhtOut<O>,
    ) {
        let number = self.number();
        let mut part = Part {
            number,
            operation,
            key,
            job,
            lookup: None,
            candidates: Vec::new(),
            asked: Vec::new(),
            is_named_by_one: false,
            beyond: None,
            sought: Vec::new(),
        };
        match self.core.locate(now, rng, key, &mut self.core_out) {
            Ok(lookup) => {
                part.lookup = Some(lookup);
                self.parts.push(part);
                // It may have ended already.
                self.absorb(now, rng, out);
            }
            Err(error) => self.finish(now, part, Err(ContentError::NotLocated(error)), out),
        }
    }

    pub(super) fn is_part(&self, lookup: LookupId) -> bool {
        self.parts.iter().any(|part| part.lookup == Some(lookup))
    }

    /// What a read looks for whose lookup sends this, if it is one; and remembers whom it asks.
    pub(super) fn seeks(&mut self, to: &O::Contact, message: &O::Message) -> Option<Class> {
        if self.config.cache_for.is_zero() {
            return None;
        }
        let key = O::asks_for(message)?;
        let is_it = |part: &&mut Part<O::Contact>| part.key == key && part.lookup.is_some();
        let part = self.parts.iter_mut().find(is_it)?;
        let Job::Read { class, .. } = part.job else { return None };
        let is_known = part.sought.iter().any(|sought| sought.contact == *to);
        if !is_known && part.sought.len() < SOUGHT_MAX {
            part.sought.push(Sought { contact: to.clone(), answer: None });
        }
        Some(class)
    }

    /// Somebody on the way has answered. As many as a read waits for are enough here too, and the
    /// lookup need not go on.
    pub(super) fn was_sought(
        &mut self,
        now: Instant,
        from: &O::Contact,
        (key, class): (Id, Class),
        token: u64,
        entries: Vec<Entry>,
        out: &mut DhtOut<O>,
    ) {
        let wall = self.wall(now);
        let waits = |part: &Part<O::Contact>| {
            let is_asked = |one: &Sought<O::Contact>| one.contact == *from && one.answer.is_none();
            let is_read = matches!(part.job, Job::Read { class: wanted, .. } if wanted == class);
            part.key == key && part.lookup.is_some() && is_read && part.sought.iter().any(is_asked)
        };
        let Some(mut part) = self.take_part(waits) else { return };
        let sound = sound(entries, key, class, wall);
        let has_some = !sound.is_empty();
        if let Some(sought) = part.sought.iter_mut().find(|sought| sought.contact == *from) {
            sought.answer = Some((token, has_some));
        }
        if has_some && let Job::Read { found, .. } = &mut part.job {
            sound.into_iter().for_each(|entry| merge(found, entry));
            part.asked.push(Asked { contact: from.clone(), state: State::Yes });
        }
        if part.count(|state| state == State::Yes) < READ_QUORUM.min(self.config.replicas) {
            return self.parts.push(part);
        }
        if let Some(lookup) = part.lookup.take() {
            self.core.abandon(lookup);
        }
        self.conclude(now, part, out);
    }

    /// Section 2.3: the nearest node that was asked and had nothing is given a copy.
    fn give_copy(&self, part: &Part<O::Contact>, out: &mut DhtOut<O>) {
        let Job::Read { found, .. } = &part.job else { return };
        let without = part.sought.iter().filter_map(|sought| match sought.answer {
            Some((token, false)) => Some((sought.contact.id().xor(part.key), &sought.contact, token)),
            _ => None,
        });
        if let Some((_, nearest, token)) = without.min_by_key(|(distance, ..)| *distance)
            && !found.is_empty()
        {
            let entries = fitting(found.values().cloned());
            out.send(nearest.clone(), DhtMessage::Content(ContentMessage::Cache { token, entries }));
        }
    }

    fn take_part(&mut self, wanted: impl Fn(&Part<O::Contact>) -> bool) -> Option<Part<O::Contact>> {
        let place = self.parts.iter().position(wanted)?;
        let part = self.parts.swap_remove(place);
        if self.parts.is_empty() {
            self.parts = Vec::new();
        }
        Some(part)
    }

    /// Whom to ask is known.
    pub(super) fn located(&mut self, now: Instant, located: Located<O::Contact>, out: &mut DhtOut<O>) {
        let Some(mut part) = self.take_part(|part| part.lookup == Some(located.lookup)) else { return };
        part.lookup = None;
        let owners = match located.outcome {
            Ok(owners) => owners,
            Err(error) => return self.finish(now, part, Err(ContentError::NotFound(error)), out),
        };
        part.is_named_by_one = owners.len() < self.config.replicas;
        part.candidates.extend(owners);
        part.candidates.truncate(REPLICAS_MAX);
        self.go_on(now, part, out);
    }

    /// Asks until there are as many as are wanted, or nobody is left; then it is finished.
    fn go_on(&mut self, now: Instant, mut part: Part<O::Contact>, out: &mut DhtOut<O>) {
        let replicas = self.config.replicas;
        loop {
            let is_enough = match part.beyond {
                None => {
                    part.count(|state| matches!(state, State::Waiting | State::Yes | State::Empty))
                        >= replicas
                }
                Some(from) => {
                    part.asked.len() - from >= BEYOND_MAX
                        || part.count(|state| state == State::Waiting) >= replicas
                        || !part.is_in_want(replicas)
                }
            };
            if is_enough || part.candidates.is_empty() {
                break;
            }
            let contact = part.candidates.remove(0);
            if part.asked.iter().any(|asked| asked.contact == contact) {
                continue;
            }
            let state = if contact == *self.core.contact() {
                self.ask_myself(now, &mut part)
            } else {
                self.ask(now, &part, contact.clone(), out);
                State::Waiting
            };
            part.asked.push(Asked { contact, state });
        }
        let is_quorum = matches!(part.job, Job::Read { .. })
            && part.count(|state| state == State::Yes) >= READ_QUORUM.min(replicas);
        if is_quorum || part.count(|state| state == State::Waiting) == 0 {
            if part.is_named_by_one && part.beyond.is_none() && part.is_in_want(replicas) {
                // Whom this node's own tables have nearest to the key, and whom these name.
                part.beyond = Some(part.asked.len());
                let own = self.replicas(part.key);
                part.add_candidates(own);
                return self.go_on(now, part, out);
            }
            self.conclude(now, part, out);
        } else {
            self.parts.push(part);
        }
    }

    fn ask(&mut self, now: Instant, part: &Part<O::Contact>, to: O::Contact, out: &mut DhtOut<O>) {
        let (key, purpose) = (part.key, Purpose::Part(part.number));
        match &part.job {
            Job::Store(entries) => {
                let offered = entries.iter().map(|entry| Named { key, tag: entry.tag() }).collect();
                self.call(now, to, purpose, |request| ContentMessage::Offer { request, offered }, out);
            }
            Job::Read { class, .. } => {
                let class = *class;
                self.call(now, to, purpose, |request| ContentMessage::Get { request, key, class }, out);
            }
        }
    }

    fn ask_myself(&mut self, now: Instant, part: &mut Part<O::Contact>) -> State {
        let own = self.replicas(part.key);
        part.add_candidates(own);
        match &mut part.job {
            Job::Store(entries) => {
                let kept = entries.iter().map(|entry| self.cellar.put(entry.clone(), None));
                match kept.collect::<Result<Vec<()>, Refused>>() {
                    Ok(_) => State::Yes,
                    Err(refused) => State::No(refused),
                }
            }
            Job::Read { class, found } => {
                let entries = self.cellar.get(part.key, *class, self.wall(now));
                let state = if entries.is_empty() { State::Empty } else { State::Yes };
                entries.into_iter().for_each(|entry| merge(found, entry));
                state
            }
        }
    }

    /// The part that asked this node and waits for its answer.
    fn asking(&mut self, number: u32, from: &O::Contact) -> Option<Part<O::Contact>> {
        self.take_part(|part| {
            let waits = |asked: &Asked<O::Contact>| asked.contact == *from && asked.state == State::Waiting;
            part.number == number && part.asked.iter().any(waits)
        })
    }

    fn answer(
        &mut self,
        now: Instant,
        mut part: Part<O::Contact>,
        from: &O::Contact,
        state: State,
        out: &mut DhtOut<O>,
    ) {
        if let Some(asked) = part.asked.iter_mut().find(|asked| asked.contact == *from) {
            asked.state = state;
        }
        self.go_on(now, part, out);
    }

    pub(super) fn was_silent(&mut self, now: Instant, number: u32, to: &O::Contact, out: &mut DhtOut<O>) {
        if let Some(part) = self.asking(number, to) {
            self.answer(now, part, to, State::Silent, out);
        }
    }

    #[allow(clippy::too_many_arguments, reason = "an answer's fields, and who says so when")]
    pub(super) fn part_wanted(
        &mut self,
        now: Instant,
        number: u32,
        from: &O::Contact,
        token: u64,
        wishes: &[Wish],
        replicas: Vec<O::Contact>,
        out: &mut DhtOut<O>,
    ) {
        let Some(mut part) = self.asking(number, from) else { return };
        let Job::Store(entries) = &part.job else { return self.parts.push(part) };
        let wanted: Vec<Entry> = entries
            .iter()
            .zip(wishes)
            .filter(|(_, wish)| **wish == Wish::Want)
            .map(|(entry, _)| entry.clone())
            .collect();
        let is_refused = wishes.len() < entries.len() || wishes.contains(&Wish::NotMine);
        part.add_candidates(replicas);
        if is_refused {
            self.answer(now, part, from, State::No(Refused::NotMine), out);
        } else if wanted.is_empty() {
            self.answer(now, part, from, State::Yes, out);
        } else {
            let message = |request| ContentMessage::Keep { request, token, entries: wanted };
            self.call(now, from.clone(), Purpose::Part(number), message, out);
            self.go_on(now, part, out);
        }
    }

    pub(super) fn part_kept(
        &mut self,
        now: Instant,
        number: u32,
        from: &O::Contact,
        outcomes: &[Result<(), Refused>],
        out: &mut DhtOut<O>,
    ) {
        let Some(part) = self.asking(number, from) else { return };
        let refused = outcomes.iter().find_map(|outcome| outcome.err());
        let state = match refused {
            None if outcomes.is_empty() => State::No(Refused::Full),
            None => State::Yes,
            Some(refused) => State::No(refused),
        };
        self.answer(now, part, from, state, out);
    }

    pub(super) fn part_got(
        &mut self,
        now: Instant,
        number: u32,
        from: &O::Contact,
        entries: Vec<Entry>,
        replicas: Vec<O::Contact>,
        out: &mut DhtOut<O>,
    ) {
        let wall = self.wall(now);
        let Some(mut part) = self.asking(number, from) else { return };
        let Job::Read { class, found } = &mut part.job else { return self.parts.push(part) };
        let sound = sound(entries, part.key, *class, wall);
        let state = if sound.is_empty() { State::Empty } else { State::Yes };
        sound.into_iter().for_each(|entry| merge(found, entry));
        part.add_candidates(replicas);
        self.answer(now, part, from, state, out);
    }

    fn conclude(&mut self, now: Instant, part: Part<O::Contact>, out: &mut DhtOut<O>) {
        self.give_copy(&part, out);
        let refused = part.asked.iter().find_map(|asked| match asked.state {
            State::No(refused) => Some(refused),
            _ => None,
        });
        let answered = part.count(|state| matches!(state, State::Yes | State::Empty));
        let outcome = match (answered, refused) {
            (1.., _) => Ok(()),
            (0, Some(refused)) => Err(ContentError::Refused(refused)),
            (0, None) => Err(ContentError::Silent),
        };
        self.finish(now, part, outcome, out);
    }

    /// Counts the part off its operation, and ends that if it was the last.
    pub(super) fn finish(
        &mut self,
        now: Instant,
        part: Part<O::Contact>,
        outcome: Result<(), ContentError>,
        out: &mut DhtOut<O>,
    ) {
        use ContentError::{Left, NotFound, NotLocated};
        self.stored(now, &part, !matches!(outcome, Err(Left | NotFound(_) | NotLocated(_))));
        let Some(number) = part.operation else { return };
        let Some(place) = self.operations.iter().position(|operation| operation.number == number) else {
            return;
        };
        let operation = &mut self.operations[place];
        operation.parts_left -= 1;
        operation.error = operation.error.or(outcome.err());
        for asked in part.asked.into_iter().filter(|asked| asked.state == State::Yes) {
            if !operation.by.contains(&asked.contact) {
                operation.by.push(asked.contact);
            }
        }
        if let Job::Read { found, .. } = part.job {
            operation.found.push(found.into_values().collect());
        }
        if operation.parts_left > 0 {
            return;
        }
        let operation = self.operations.swap_remove(place);
        if self.operations.is_empty() {
            self.operations = Vec::new();
        }
        let outcome = match operation.error {
            Some(error) => Err(error),
            None => Ok(answer(operation.what, operation.found)),
        };
        let (operation, by) = (OperationId(number), operation.by);
        out.notify(Notification::OperationFinished(Finished { operation, outcome, by }));
    }
}

/// What may be believed of what a peer says is under a key.
pub(super) fn sound(entries: Vec<Entry>, key: Id, class: Class, wall: WallTime) -> Vec<Entry> {
    let asked = |entry: &Entry| entry.key == key && entry.class() == class;
    let limit = crate::entry::per_key_max(class);
    let entries = entries.into_iter().take(limit);
    entries.filter(|entry| asked(entry) && entry.check(wall).is_ok()).collect()
}

fn answer(what: What, mut found: Vec<Vec<Entry>>) -> Answer {
    // The part with the fewest is what all others must agree with.
    found.sort_by_key(Vec::len);
    let mut found = found.into_iter();
    let mut first = found.next().unwrap_or_default();
    match what {
        What::Store => Answer::Stored,
        What::Fetch => {
            first.sort_by_key(|entry| std::cmp::Reverse(entry.sequence));
            Answer::Values(first)
        }
        What::Providers => Answer::Providers(first),
        What::Search => {
            for others in found {
                let slots: std::collections::BTreeSet<Slot> = others.iter().map(Entry::slot).collect();
                first.retain(|entry| slots.contains(&entry.slot()));
            }
            Answer::Hits(first)
        }
    }
}
