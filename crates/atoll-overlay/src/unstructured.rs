//! Unstructured overlays: neighbours at random, and queries that go from neighbour to neighbour.
//!
//! ```text
//! join       become the neighbour of somebody, who names others (peer exchange)
//! flood      a query goes to all neighbours, and on, until its TTL is used up; a copy that
//!            would get no farther is dropped. Expanding ring: again with a greater TTL until enough is found
//! walk       k walkers, each to one neighbour at a time; they ask their origin now and then
//!            whether to go on, and tell it when they have used up their steps
//! index      neighbours tell each other what they provide, if that is on, and answer for each other
//! hit        back the way that the query came; whoever it passes remembers what was found
//! ```
//!
//! Flooding is Gnutella's (*The Gnutella protocol specification v0.4*, 2000); expanding rings and
//! walks with checking are Lv, Cao, Cohen, Li, Shenker: *Search and replication in unstructured
//! peer-to-peer networks*, ICS 2002.
//!
//! Nobody is responsible for a key, so nothing can be located: that is refused. A value is kept
//! by whoever stored it, and by whoever saw it go by.
//!
//! - `links`: neighbours. `query`: what is asked and passed on. `kept`: what can be answered.
//!   `index`: what neighbours provide.
//!
//! Against hostile nodes: only neighbours' queries and hits are passed on, no query farther than
//! `TTL_MAX` whatever it says, of one neighbour so many a second, and of hits so many for each query;
//! what is found is believed by its author's signature. A walker names its origin, and a liar can name anybody: that one gets
//! a message of some twenty bytes for every fourth step.

mod index;
mod kept;
mod links;
mod message;
mod query;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use atoll_types::{Instant, WallTime};
use rand::RngCore;

pub use self::message::{UnstructuredMessage, Wanted};
use self::{
    index::Index,
    kept::{PUBLISHED_MAX, Provided, Shelves},
    links::Call,
    query::{Operation, STEPS_MAX, Seen, Waiting, What},
};
use crate::{
    Answer, AuthorKey, Body, Contact, Content, ContentError, Entry, Finished, Id, Kept, LocateError,
    LookupId, Notification, Offered, OperationId, Out, Overlay, Row, Shelf, Table, Unsound,
    dht::Published,
    entry::{Class, LIFETIME_MAX, NAME_BYTES_MAX, VALUE_BYTES_MAX, keyword_key, keywords_of},
};

/// The farthest that a query goes, whatever it says: Gnutella's.
const TTL_MAX: u8 = 7;
/// Lv et al.: a walker asks its origin every fourth step.
const CHECK_EVERY: u8 = 4;
/// How long the way back of a query is remembered.
const SEEN_FOR: Duration = Duration::from_secs(600);
/// Contacts kept for joining anew when all others are gone.
const KNOWN_MAX: usize = 8;

type UnstructuredOut<C> = Out<C, UnstructuredMessage<C>>;

/// How this node searches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SearchStyle {
    /// All at once, as far as `ttl` goes; at most 7.
    Flood { ttl: u8 },
    /// A flood of TTL 1, then 2, up to `ttl_max`, until enough is found.
    ExpandingRing { ttl_max: u8 },
    /// So many walkers, each of which asks every so many steps whether to go on.
    Walk { walkers: u8, check_every: u8 },
}

/// How a node plays its part in an unstructured overlay. Each node may search in its own style.
#[derive(Debug, Clone)]
pub struct UnstructuredConfig {
    /// An expanding ring to 7 by default: what is common is found nearby at little cost, and
    /// what is rare at worst as by flooding, twice. Walks (32 walkers, checking every 4 steps)
    /// cost least, and take longest.
    pub style: SearchStyle,
    /// Steps that a walker takes at most: 128 by default, and at most. It is times the walkers how
    /// many nodes are looked at for what is not there; fewer where there are only hundreds.
    pub walk_steps: u16,
    /// Neighbours that a node looks for: 3 by default, so that with those that look for it it has
    /// six on average. More find farther with the same TTL, and cost messages.
    pub connect_to: usize,
    /// Neighbours that a node accepts: 10 by default.
    pub neighbours_max: usize,
    /// Whether neighbours tell each other what they provide, and answer for each other (Gia's
    /// one-hop replication): off by default. A walk then looks at as many nodes in one step as a
    /// node has neighbours; publishing, and renewing it, costs a message for each of them. For
    /// floods it is of little use, for they ask everybody anyway.
    pub index_neighbours: bool,
    /// A search ends when so many entries were found: 16 by default.
    pub enough: usize,
    /// How long a query may take for one hop: 300 ms by default. Times twice the TTL a flood is
    /// waited for.
    pub hop_timeout: Duration,
    /// How long to wait for a neighbour's answer before asking again: 1 s by default.
    pub answer_timeout: Duration,
    /// How often to ask before a neighbour counts as gone: 2 by default.
    pub attempts: u8,
    /// How often, on average, neighbours are asked whether they are there: 30 s by default.
    pub upkeep_every: Duration,
    /// How long others remember that this node provides something, unless they hear it again: an
    /// hour by default. After a failure false hints stay about that long.
    pub provide_for: Duration,
}

impl Default for UnstructuredConfig {
    fn default() -> Self {
        Self {
            style: SearchStyle::ExpandingRing { ttl_max: TTL_MAX },
            walk_steps: STEPS_MAX,
            connect_to: 3,
            neighbours_max: 10,
            index_neighbours: false,
            enough: 16,
            hop_timeout: Duration::from_millis(300),
            answer_timeout: Duration::from_secs(1),
            attempts: 2,
            upkeep_every: Duration::from_secs(30),
            provide_for: Duration::from_secs(3600),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Outside,
    Joining,
    Member,
}

/// One node's side of an unstructured overlay.
#[derive(Debug, Clone)]
pub struct Unstructured<C> {
    config: Arc<UnstructuredConfig>,
    me: C,
    author: AuthorKey,
    phase: Phase,
    frozen: bool,
    /// Whom this node may join through; at most `KNOWN_MAX`.
    known: Vec<C>,
    /// At most `neighbours_max`, none twice.
    neighbours: Vec<C>,
    /// Named by others, not tried yet.
    heard_of: Vec<C>,
    /// One for each neighbour, and a few to be neighbours.
    calls: Vec<Call<C>>,
    shelves: Shelves,
    /// What the neighbours provide.
    index: Index<C>,
    /// What this node does not provide any more, and its neighbours have not been told; at most
    /// `PUBLISHED_MAX`.
    withdrawn: Vec<Id>,
    /// No neighbour gets all of it again before.
    introduce_after: Instant,
    /// Queries by their numbers, and these in the order in which they came.
    seen: BTreeMap<u64, Seen<C>>,
    seen_order: VecDeque<(u64, Instant)>,
    /// Of who has sent queries lately, until when its share is used up; at most `PACES_MAX`.
    paces: BTreeMap<C, Instant>,
    operations: Vec<Operation<C>>,
    /// Other nodes' walkers.
    waiting: Vec<Waiting<C>>,
    /// The number of the last call or operation.
    numbered: u32,
    upkeep_at: Instant,
    /// What the wall clock said, and when.
    clock: (Instant, WallTime),
    /// Of what this node signed last.
    sequence: u64,
}

impl<C: Contact> Unstructured<C> {
    /// A node outside of any network; what it publishes is signed by `author`.
    pub fn new(me: C, author: AuthorKey, config: Arc<UnstructuredConfig>) -> Self {
        assert!((1..=config.neighbours_max).contains(&config.connect_to), "1 to neighbours_max are wanted");
        Self {
            config,
            me,
            author,
            phase: Phase::Outside,
            frozen: false,
            known: Vec::new(),
            neighbours: Vec::new(),
            heard_of: Vec::new(),
            calls: Vec::new(),
            shelves: Shelves::default(),
            index: Index::default(),
            withdrawn: Vec::new(),
            introduce_after: Instant::ORIGIN,
            seen: BTreeMap::new(),
            seen_order: VecDeque::new(),
            paces: BTreeMap::new(),
            operations: Vec::new(),
            waiting: Vec::new(),
            numbered: 0,
            upkeep_at: Instant::ORIGIN,
            clock: (Instant::ORIGIN, WallTime::default()),
            sequence: 0,
        }
    }

    /// A node of a network that is there, with these neighbours, who have it as theirs.
    pub fn linked(me: C, author: AuthorKey, config: Arc<UnstructuredConfig>, neighbours: Vec<C>) -> Self {
        let mut node = Self::new(me, author, config);
        node.neighbours = neighbours;
        node.phase = Phase::Member;
        node
    }

    pub fn neighbours(&self) -> &[C] {
        &self.neighbours
    }

    fn wall(&self, now: Instant) -> WallTime {
        let (then, wall) = self.clock;
        wall + now.saturating_since(then)
    }

    fn sign(&mut self, now: Instant, key: Id, lifetime: Duration, body: Body) -> Entry {
        let wall = self.wall(now);
        // Even if the clock was set back, what is said later holds.
        self.sequence = wall.as_millis().max(self.sequence + 1);
        self.author.sign(key, self.sequence, wall + lifetime, body)
    }

    /// That this node has something. One posting is enough, for names are compared, not keys.
    fn claims(&mut self, now: Instant, content: Id, name: &str) -> Vec<Entry> {
        let lifetime = self.config.provide_for;
        let mut claims = vec![self.sign(now, content, lifetime, Body::Provider)];
        if let Some(keyword) = keywords_of(name).first() {
            let body = Body::Posting { content, name: name.into() };
            claims.push(self.sign(now, keyword_key(keyword), lifetime, body));
        }
        claims
    }

    /// Claims are signed anew when half of their time is over; gives the new ones.
    fn renew_claims(&mut self, now: Instant) -> Vec<Entry> {
        let soon = self.wall(now) + self.config.provide_for / 2;
        let is_due = |provided: &Provided| provided.claims.iter().all(|claim| claim.expires <= soon);
        let due = self.shelves.provided.iter().filter(|(_, provided)| is_due(provided));
        let due: Vec<(Id, String)> =
            due.map(|(content, provided)| (*content, provided.name.clone())).collect();
        let mut renewed = Vec::new();
        for (content, name) in due {
            let claims = self.claims(now, content, &name);
            renewed.extend(claims.iter().cloned());
            self.shelves.provided.insert(content, Provided { name, claims });
        }
        renewed
    }

    /// What is stored here is stored.
    fn stored(&mut self, out: &mut UnstructuredOut<C>) -> OperationId {
        self.numbered = self.numbered.wrapping_add(1);
        let operation = OperationId(self.numbered);
        let (outcome, by) = (Ok(Answer::Stored), vec![self.me.clone()]);
        out.notify(Notification::OperationFinished(Finished { operation, outcome, by }));
        operation
    }
}

impl<C: Contact> Overlay for Unstructured<C> {
    type Contact = C;
    type Message = UnstructuredMessage<C>;

    fn contact(&self) -> &C {
        &self.me
    }

    fn join(&mut self, now: Instant, rng: &mut dyn RngCore, known: &[C], out: &mut UnstructuredOut<C>) {
        if self.phase != Phase::Outside {
            return;
        }
        self.known = known.iter().filter(|contact| **contact != self.me).take(KNOWN_MAX).cloned().collect();
        self.plan_upkeep(now, rng);
        if self.known.is_empty() {
            self.phase = Phase::Member;
            out.notify(Notification::Joined);
        } else {
            self.phase = Phase::Joining;
            self.find_neighbours(now, rng, out);
        }
    }

    fn leave(&mut self, _now: Instant, out: &mut UnstructuredOut<C>) {
        for neighbour in std::mem::take(&mut self.neighbours) {
            out.send(neighbour, UnstructuredMessage::Disconnect);
        }
        self.end_all(out);
        self.phase = Phase::Outside;
        self.heard_of = Vec::new();
        self.calls = Vec::new();
        self.waiting = Vec::new();
        self.index = Index::default();
        self.withdrawn = Vec::new();
        self.seen = BTreeMap::new();
        self.seen_order = VecDeque::new();
    }

    /// Nobody is responsible for a key.
    fn locate(
        &mut self,
        _now: Instant,
        _rng: &mut dyn RngCore,
        _key: Id,
        _out: &mut UnstructuredOut<C>,
    ) -> Result<LookupId, LocateError> {
        Err(LocateError::NotOffered)
    }

    fn responsible(&self, _key: Id, _count: usize) -> Vec<C> {
        Vec::new()
    }

    fn neighbourhood(&self) -> u32 {
        0
    }

    /// Becomes a neighbour of one of them, if it has room.
    fn meet(&mut self, now: Instant, rng: &mut dyn RngCore, others: &[C], out: &mut UnstructuredOut<C>) {
        if self.phase == Phase::Member && !self.frozen {
            self.meet_one(now, rng, others, out);
        }
    }

    fn tables(&self) -> Vec<Table<C>> {
        let row = |contact: &C| Row { place: String::new(), contact: contact.clone() };
        vec![Table { name: "neighbours", rows: self.neighbours.iter().map(row).collect() }]
    }

    fn handle_message(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        from: C,
        message: UnstructuredMessage<C>,
        out: &mut UnstructuredOut<C>,
    ) {
        if self.phase == Phase::Outside || from == self.me {
            return;
        }
        match message {
            UnstructuredMessage::Connect { request } => self.asked_to_connect(rng, from, request, out),
            UnstructuredMessage::Connected { request, is_accepted, contacts } => {
                self.connected(now, rng, from, request, is_accepted, contacts, out);
            }
            UnstructuredMessage::Disconnect => self.lost(now, rng, &from, out),
            UnstructuredMessage::Ping { request } => self.pinged(rng, from, request, out),
            UnstructuredMessage::Pong { request, contacts } => {
                self.pong(now, rng, &from, request, contacts, None, out);
            }
            UnstructuredMessage::IndexedPong { request, contacts, indexed } => {
                self.pong(now, rng, &from, request, contacts, Some(indexed), out);
            }
            UnstructuredMessage::Flood { query, wanted, ttl } => {
                self.flooded(now, from, query, wanted, ttl, out);
            }
            UnstructuredMessage::Walk { query, wanted, steps_left, origin } => {
                self.walked(now, rng, from, query, wanted, steps_left, origin, out);
            }
            UnstructuredMessage::Hit { query, entries } => {
                self.hit(now, rng, from, query, entries, out);
            }
            UnstructuredMessage::Check { query } => self.asked_whether(from, query, out),
            UnstructuredMessage::Checked { query, go_on } => self.checked(rng, &from, query, go_on, out),
            UnstructuredMessage::WalkEnded { query } => self.walk_ended(now, from, query),
            UnstructuredMessage::Index { anew, entries, withdrawn } => {
                self.told_of(now, &from, anew, entries, &withdrawn);
            }
        }
    }

    fn handle_timeout(&mut self, now: Instant, rng: &mut dyn RngCore, out: &mut UnstructuredOut<C>) {
        self.handle_silence(now, rng, out);
        self.handle_rounds(now, rng, out);
        if self.phase != Phase::Outside && !self.frozen && self.upkeep_at <= now {
            self.plan_upkeep(now, rng);
            self.upkeep(now, rng, out);
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let upkeep = (self.phase != Phase::Outside && !self.frozen).then_some(self.upkeep_at);
        let calls = self.calls.iter().map(|call| call.deadline);
        let rounds = self.operations.iter().map(|operation| operation.deadline);
        let waiting = self.waiting.iter().map(|waiting| waiting.deadline);
        calls.chain(rounds).chain(waiting).chain(upkeep).min()
    }

    fn freeze(&mut self) {
        self.frozen = true;
    }

    fn contacts(&self) -> Vec<C> {
        let mut contacts = self.neighbours.clone();
        contacts.sort_unstable();
        contacts
    }

    fn state_bytes(&self) -> usize {
        let contacts = self.known.capacity() + self.neighbours.capacity() + self.heard_of.capacity();
        size_of::<Self>()
            + contacts * size_of::<C>()
            + self.calls.capacity() * size_of::<Call<C>>()
            + self.seen.len() * (size_of::<(u64, Seen<C>)>() + size_of::<(u64, Instant)>())
            + self.paces.len() * size_of::<(C, Instant)>()
            + self.operations.capacity() * size_of::<Operation<C>>()
            + self.waiting.capacity() * size_of::<Waiting<C>>()
            + self.kept().bytes
    }
}

impl<C: Contact> Content for Unstructured<C> {
    fn set_clock(&mut self, now: Instant, wall: WallTime) {
        self.clock = (now, wall);
    }

    /// Here, and wherever it is seen going by when somebody asks for it.
    fn store(
        &mut self,
        now: Instant,
        _rng: &mut dyn RngCore,
        key: Id,
        value: Vec<u8>,
        lifetime: Duration,
        out: &mut UnstructuredOut<C>,
    ) -> Result<OperationId, ContentError> {
        if value.len() > VALUE_BYTES_MAX {
            return Err(Unsound::TooLarge.into());
        }
        if lifetime > LIFETIME_MAX {
            return Err(Unsound::TooLong.into());
        }
        let values = &self.shelves.values;
        if !values.contains_key(&key) && values.len() >= PUBLISHED_MAX {
            return Err(ContentError::TooMany { limit: PUBLISHED_MAX });
        }
        let entry = self.sign(now, key, lifetime, Body::Value(value));
        self.shelves.values.insert(key, entry);
        Ok(self.stored(out))
    }

    fn fetch(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        key: Id,
        out: &mut UnstructuredOut<C>,
    ) -> Result<OperationId, ContentError> {
        self.begin(now, rng, What::Fetch, Wanted::Under { key, class: Class::Value }, out)
    }

    fn provide(
        &mut self,
        now: Instant,
        _rng: &mut dyn RngCore,
        offered: Offered,
        out: &mut UnstructuredOut<C>,
    ) -> Result<OperationId, ContentError> {
        let Offered { content, name } = offered;
        if name.len() > NAME_BYTES_MAX {
            return Err(Unsound::TooLarge.into());
        }
        let provided = &self.shelves.provided;
        if !provided.contains_key(&content) && provided.len() >= PUBLISHED_MAX {
            return Err(ContentError::TooMany { limit: PUBLISHED_MAX });
        }
        let claims = self.claims(now, content, &name);
        self.shelves.provided.insert(content, Provided { name, claims: claims.clone() });
        self.withdrawn.retain(|withdrawn| *withdrawn != content);
        if self.phase == Phase::Member {
            self.tell_neighbours(claims, out);
        }
        Ok(self.stored(out))
    }

    /// Neighbours that answer for this node are told with the next upkeep.
    fn stop_providing(&mut self, content: Id) -> bool {
        let was_provided = self.shelves.provided.remove(&content).is_some();
        if was_provided && self.config.index_neighbours && self.withdrawn.len() < PUBLISHED_MAX {
            self.withdrawn.push(content);
        }
        was_provided
    }

    fn providers(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        content: Id,
        out: &mut UnstructuredOut<C>,
    ) -> Result<OperationId, ContentError> {
        self.begin(now, rng, What::Providers, Wanted::Under { key: content, class: Class::Provider }, out)
    }

    fn search(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        words: &str,
        out: &mut UnstructuredOut<C>,
    ) -> Result<OperationId, ContentError> {
        let keywords = keywords_of(words);
        if keywords.is_empty() {
            return Err(ContentError::NoKeyword);
        }
        self.begin(now, rng, What::Search, Wanted::Words(keywords), out)
    }

    fn take_shelf(&mut self) -> Shelf {
        let kept = self.shelves.take_cache();
        let Shelves { values, provided, .. } = std::mem::take(&mut self.shelves);
        let provided = provided.into_iter().map(|(content, provided)| (content, provided.name));
        Shelf { kept, published: Published::from_parts(values.into_values(), provided) }
    }

    fn put_shelf(&mut self, now: Instant, shelf: Shelf) {
        let wall = self.wall(now);
        for entry in shelf.kept.into_iter().filter(|entry| entry.expires > wall) {
            self.shelves.cache(entry);
        }
        let (values, provided) = shelf.published.into_parts();
        self.shelves.values.extend(values.into_iter().map(|entry| (entry.key, entry)));
        for (content, name) in provided {
            let claims = self.claims(now, content, &name);
            self.shelves.provided.insert(content, Provided { name, claims });
        }
    }

    fn kept(&self) -> Kept {
        let Kept { entries, bytes } = self.shelves.kept();
        let indexed = self.index.entries();
        indexed.fold(Kept { entries, bytes }, |kept, entry| Kept {
            entries: kept.entries + 1,
            bytes: kept.bytes + entry.bytes(),
        })
    }
}
