//! Client–server: a few index nodes keep who has what; the others are their clients, ask them,
//! and then talk to each other.
//!
//! ```text
//! join       register with each index node; one that answers is enough
//! locate     a key is the index node's that comes first for it; it is asked whether it is there,
//!            and if it is silent the next one
//! store      to every index node, by whoever has something to store
//! fetch, providers, search
//!            from `reads` of them at once; the next ones if these are silent or new
//! upkeep     clients register again and again; index nodes compare the values that they have
//! ```
//!
//! So Napster did (1999; its protocol as the OpenNap project wrote it down), and so do
//! BitTorrent's trackers (BEP 3). Both had one server for each file or client; here every index
//! node has everything, so the death of one loses nothing, and the others answer for it.
//!
//! **Who is an index node** no peer says. A node is told, when it is made, when it joins, and by
//! [`Overlay::meet`]: by a list as Napster's clients had one built in, or by the cluster's layout.
//! All of those are index nodes, and it is one itself if it is among them.
//!
//! **Who is responsible for a key**: of the index nodes that answer, the first in an order drawn
//! by key and node (highest random weight; Thaler, Ravishankar, *Using name-based mappings to
//! increase hit rates*, IEEE/ACM ToN 1998), so that each of n is asked for an n-th of the keys.
//! One hop.
//!
//! - `index`: what an index node keeps. `own`: what a client wants kept. Both know no messages.
//! - `session`: a client's side with one index node. `serve`: an index node's side. `ask`: what
//!   this node's callers want to know and stored, and the questions under way.
//!
//! Against hostile nodes: entries are believed by their author's signature; a read asks two index
//! nodes, so that one that hides what it has hides nothing; it can be asked nothing that makes it
//! send something to others. A client fills at most a sixteenth of an index. That most index
//! nodes are honest and there is what this kind stands and falls with: if all are gone, nothing
//! is found until one is back, to which clients then bring all that they have published.

mod ask;
mod index;
mod message;
mod own;
mod serve;
mod session;
#[cfg(test)]
mod tests;

use std::{cmp::Reverse, sync::Arc, time::Duration};

use atoll_types::{Instant, WallTime};
use rand::{Rng, RngCore};

pub use self::message::DirectoryMessage;
use self::{
    ask::{Call, Lookup, Purpose, Read, What, Write},
    index::Index,
    own::{Own, PUBLISHED_MAX},
    serve::Comparison,
    session::Session,
};
use crate::{
    AuthorKey, Body, Contact, Content, ContentError, Entry, Id, Kept, LocateError, LookupId, Notification,
    Offered, OperationId, Out, Overlay, Refused, Row, Shelf, Table, Unsound,
    dht::Published,
    entry::{Class, LIFETIME_MAX, NAME_BYTES_MAX, VALUE_BYTES_MAX, keyword_key, keywords_of},
    unstructured::Wanted,
};

/// More are not listened to. Each of them is sent all that is published, so a handful is right.
const INDEXES_MAX: usize = 16;
/// A client that has not been heard of for so many periods is gone: two missed rounds at least,
/// as a round is up to one and a half.
const LAPSE_ROUNDS: u32 = 4;
/// Clients of an index node that are shown to people.
const CLIENTS_SHOWN: usize = 256;
/// The token of a network that is set up.
const FIRST_TOKEN: u64 = 1;

type DirectoryOut<C> = Out<C, DirectoryMessage>;

/// How a node plays its part in a directory, as a client and as an index node.
#[derive(Debug, Clone)]
pub struct DirectoryConfig {
    /// Index nodes that a read asks at once: 2 by default, so that one that lies by saying
    /// nothing hides nothing. 1 is Napster's, at half the messages.
    pub reads: usize,
    /// How long to wait for an answer before asking again: 1 s by default.
    pub answer_timeout: Duration,
    /// How often to ask before an index node counts as silent: 2 by default.
    pub attempts: u8,
    /// How often, on average, a client registers again with each index node: 30 s by default.
    /// What a client provides that just stops is still named for up to four of these; an index
    /// node that was restarted has everything again after one and a half.
    pub register_every: Duration,
    /// How often index nodes compare what values they have: 10 min by default. It finds what was
    /// lost on the way to one of them, and costs 40 bytes a value.
    pub compare_every: Duration,
    /// How long index nodes keep that this node provides something, unless it says so again,
    /// which it does at half of it: an hour by default. One that hears that the client is gone
    /// forgets it at once.
    pub provide_for: Duration,
    /// Clients of one index node: 65,536 by default, some 4 MiB. The others are turned away.
    pub clients_max: usize,
    /// Entries that an index node keeps: 262,144 by default, a thousand each of 262 clients. A
    /// client may fill a sixteenth.
    pub entries_max: usize,
    /// Bytes of them: 128 MiB by default.
    pub bytes_max: usize,
}

impl Default for DirectoryConfig {
    fn default() -> Self {
        Self {
            reads: 2,
            answer_timeout: Duration::from_secs(1),
            attempts: 2,
            register_every: Duration::from_secs(30),
            compare_every: Duration::from_secs(600),
            provide_for: Duration::from_secs(3600),
            clients_max: 65_536,
            entries_max: 262_144,
            bytes_max: 128 << 20,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Outside,
    Joining,
    Member,
}

/// One node's side of a directory.
#[derive(Debug, Clone)]
pub struct Directory<C> {
    config: Arc<DirectoryConfig>,
    me: C,
    author: AuthorKey,
    phase: Phase,
    frozen: bool,
    /// Told before this node joined; empty: those that it joins through.
    told: Vec<C>,
    /// In order; at most `INDEXES_MAX`. Empty while this node is outside.
    indexes: Vec<C>,
    /// One for each of them but this node.
    sessions: Vec<Session<C>>,
    /// If this node is one of them.
    index: Option<Index<C>>,
    comparison: Option<Comparison<C>>,
    compared_at: Instant,
    /// Comparisons so far.
    compared: usize,
    own: Own,
    lookups: Vec<Lookup<C>>,
    reads: Vec<Read<C>>,
    writes: Vec<Write<C>>,
    /// One for each lookup, `reads` for each read, two for each session, and one to compare.
    calls: Vec<Call<C>>,
    /// The number of the last call, lookup or operation.
    numbered: u32,
    neighbourhood: u32,
    upkeep_at: Instant,
    /// What the wall clock said, and when.
    clock: (Instant, WallTime),
    /// Of what this node signed last.
    sequence: u64,
}

/// The index nodes in the order in which they answer for a key.
fn rank<C: Contact>(key: Id, indexes: &[C]) -> Vec<C> {
    let weight = |contact: &C| {
        let hash = blake3::hash(&[<[u8; 32]>::from(key), contact.id().into()].concat());
        Reverse(u64::from_be_bytes(*hash.as_bytes().first_chunk().expect("32 bytes")))
    };
    let mut ranked = indexes.to_vec();
    ranked.sort_by_cached_key(weight);
    ranked
}

impl<C: Contact> Directory<C> {
    /// A node outside of any directory; what it publishes is signed by `author`. `told`: the
    /// index nodes, if somebody has said who they are; else it is those that it joins through.
    pub fn new(me: C, author: AuthorKey, config: Arc<DirectoryConfig>, told: Vec<C>) -> Self {
        assert!(config.reads >= 1, "somebody must be asked");
        Self {
            config,
            me,
            author,
            phase: Phase::Outside,
            frozen: false,
            told,
            indexes: Vec::new(),
            sessions: Vec::new(),
            index: None,
            comparison: None,
            compared_at: Instant::ORIGIN,
            compared: 0,
            own: Own::default(),
            lookups: Vec::new(),
            reads: Vec::new(),
            writes: Vec::new(),
            calls: Vec::new(),
            numbered: 0,
            neighbourhood: 0,
            upkeep_at: Instant::ORIGIN,
            clock: (Instant::ORIGIN, WallTime::default()),
            sequence: 0,
        }
    }

    /// A node of a network at rest, in which `all` are registered with the index nodes.
    pub fn converged(
        me: C,
        author: AuthorKey,
        config: Arc<DirectoryConfig>,
        indexes: &[C],
        all: impl Iterator<Item = C>,
    ) -> Self {
        let mut node = Self::new(me, author, config, indexes.to_vec());
        node.phase = Phase::Member;
        node.indexes = indexes.to_vec();
        node.indexes.sort_unstable();
        let others = node.indexes.iter().filter(|index| **index != node.me);
        node.sessions = others.map(|index| Session::new(index.clone(), Some(FIRST_TOKEN))).collect();
        if node.indexes.contains(&node.me) {
            node.index = Some(Index::settled(all.filter(|client| *client != node.me), FIRST_TOKEN));
        }
        // By what hash does not matter: not all at once.
        let [.., a, b] = <[u8; 32]>::from(node.me.id());
        let share = f64::from(u16::from_be_bytes([a, b])) / f64::from(u16::MAX);
        node.upkeep_at = Instant::ORIGIN + node.config.register_every.mul_f64(share);
        node
    }

    /// Of these index nodes, all that live, the one that is responsible for a key.
    pub fn responsible_among(key: Id, indexes: &[C]) -> Option<C> {
        rank(key, indexes).into_iter().next()
    }

    pub fn is_index(&self) -> bool {
        self.index.is_some()
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

    /// Claims are signed anew when half of their time is over.
    fn renew_claims(&mut self, now: Instant, out: &mut DirectoryOut<C>) {
        let soon = self.wall(now) + self.config.provide_for / 2;
        for (content, name) in self.own.to_renew(soon) {
            let claims = self.claims(now, content, &name);
            let places = self.own.set_provided(content, name, claims);
            self.publish(now, &places, out);
        }
    }

    /// Sooner while nobody at all answers.
    fn plan_upkeep(&mut self, now: Instant, rng: &mut dyn RngCore) {
        let is_alone = self.index.is_none() && self.sessions.iter().all(|session| session.is_silent);
        let soon = 2 * u32::from(self.config.attempts) * self.config.answer_timeout;
        let every = if is_alone { soon.min(self.config.register_every) } else { self.config.register_every };
        self.upkeep_at = now + every.mul_f64(rng.random_range(0.5..1.5));
    }
}

impl<C: Contact> Overlay for Directory<C> {
    type Contact = C;
    type Message = DirectoryMessage;

    fn contact(&self) -> &C {
        &self.me
    }

    /// An index node is part of it at once, whether its fellows are there or not.
    fn join(&mut self, now: Instant, rng: &mut dyn RngCore, known: &[C], out: &mut DirectoryOut<C>) {
        if self.phase != Phase::Outside {
            return;
        }
        let me = std::slice::from_ref(&self.me);
        let indexes = [self.told.as_slice(), known, me].into_iter().find(|indexes| !indexes.is_empty());
        let indexes = indexes.map(<[C]>::to_vec).unwrap_or_default();
        self.phase = Phase::Joining;
        if indexes.contains(&self.me) {
            self.phase = Phase::Member;
            out.notify(Notification::Joined);
        }
        self.appoint(now, &indexes, out);
        self.plan_upkeep(now, rng);
    }

    /// What an index node keeps its fellows have too.
    fn leave(&mut self, _now: Instant, out: &mut DirectoryOut<C>) {
        for session in std::mem::take(&mut self.sessions) {
            out.send(session.index, DirectoryMessage::Goodbye);
        }
        self.end_all(out);
        self.phase = Phase::Outside;
        self.indexes = Vec::new();
        self.comparison = None;
        if let Some(index) = &mut self.index {
            index.forget_all_clients();
        }
    }

    fn locate(
        &mut self,
        now: Instant,
        _rng: &mut dyn RngCore,
        key: Id,
        out: &mut DirectoryOut<C>,
    ) -> Result<LookupId, LocateError> {
        self.start_lookup(now, key, out)
    }

    fn responsible(&self, key: Id, count: usize) -> Vec<C> {
        let mut candidates = self.candidates(key);
        candidates.truncate(count);
        candidates
    }

    fn neighbourhood(&self) -> u32 {
        self.neighbourhood
    }

    /// The others are all the index nodes there are from now on; none: nobody has been told.
    fn meet(&mut self, now: Instant, _rng: &mut dyn RngCore, others: &[C], out: &mut DirectoryOut<C>) {
        if others.is_empty() {
            return;
        }
        self.told = others.to_vec();
        if self.phase != Phase::Outside {
            self.appoint(now, others, out);
            if self.phase == Phase::Joining && self.index.is_some() {
                self.phase = Phase::Member;
                out.notify(Notification::Joined);
            }
        }
    }

    fn tables(&self) -> Vec<Table<C>> {
        let index = |session: &Session<C>| Row {
            place: match session {
                Session { is_silent: true, .. } => "silent",
                Session { token: Some(_), .. } => "registered",
                Session { token: None, .. } => "asked",
            }
            .into(),
            contact: session.index.clone(),
        };
        let mut tables = vec![Table { name: "indexes", rows: self.sessions.iter().map(index).collect() }];
        if let Some(index) = &self.index {
            let client = |contact: &C| Row { place: String::new(), contact: contact.clone() };
            let rows = index.clients().take(CLIENTS_SHOWN).map(client).collect();
            tables.push(Table { name: "clients", rows });
        }
        tables
    }

    fn handle_message(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        from: C,
        message: DirectoryMessage,
        out: &mut DirectoryOut<C>,
    ) {
        if self.phase == Phase::Outside || from == self.me {
            return;
        }
        match message {
            DirectoryMessage::Register { .. }
            | DirectoryMessage::Goodbye
            | DirectoryMessage::Locate { .. }
            | DirectoryMessage::Keep { .. }
            | DirectoryMessage::Get { .. }
            | DirectoryMessage::Compare { .. }
            | DirectoryMessage::Send { .. } => self.handle_question(now, rng, from, message, out),
            answer => self.handle_answer(now, rng, &from, answer, out),
        }
    }

    fn handle_timeout(&mut self, now: Instant, rng: &mut dyn RngCore, out: &mut DirectoryOut<C>) {
        self.handle_deadlines(now, rng, out);
        if self.phase != Phase::Outside && !self.frozen && self.upkeep_at <= now {
            self.plan_upkeep(now, rng);
            self.own.forget_expired(self.wall(now));
            self.renew_claims(now, out);
            self.register(now, out);
            self.keep_index(now, out);
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let upkeep = (self.phase != Phase::Outside && !self.frozen).then_some(self.upkeep_at);
        self.calls.iter().map(|call| call.deadline).chain(upkeep).min()
    }

    fn freeze(&mut self) {
        self.frozen = true;
    }

    fn contacts(&self) -> Vec<C> {
        let clients = self.index.iter().flat_map(Index::clients);
        let indexes = self.sessions.iter().map(|session| &session.index);
        let mut contacts: Vec<C> = clients.chain(indexes).cloned().collect();
        contacts.sort_unstable();
        contacts.dedup();
        contacts
    }

    fn state_bytes(&self) -> usize {
        let owed: usize = self.sessions.iter().map(|session| session.owed.len()).sum();
        size_of::<Self>()
            + (self.told.capacity() + self.indexes.capacity()) * size_of::<C>()
            + self.sessions.capacity() * size_of::<Session<C>>()
            + owed * size_of::<index::Place>()
            + self.index.as_ref().map_or(0, Index::heap_bytes)
            + self.own.heap_bytes()
            + self.lookups.capacity() * size_of::<Lookup<C>>()
            + self.reads.capacity() * size_of::<Read<C>>()
            + self.writes.capacity() * size_of::<Write<C>>()
            + self.calls.capacity() * size_of::<Call<C>>()
    }
}

impl<C: Contact> Content for Directory<C> {
    fn set_clock(&mut self, now: Instant, wall: WallTime) {
        self.clock = (now, wall);
    }

    fn store(
        &mut self,
        now: Instant,
        _rng: &mut dyn RngCore,
        key: Id,
        value: Vec<u8>,
        lifetime: Duration,
        out: &mut DirectoryOut<C>,
    ) -> Result<OperationId, ContentError> {
        if value.len() > VALUE_BYTES_MAX {
            return Err(Unsound::TooLarge.into());
        }
        if lifetime > LIFETIME_MAX {
            return Err(Unsound::TooLong.into());
        }
        if !self.own.has_room_for_value(key) {
            return Err(ContentError::TooMany { limit: PUBLISHED_MAX });
        }
        let entry = self.sign(now, key, lifetime, Body::Value(value));
        let publish = |node: &mut Self, entries: Vec<Entry>| {
            entries.into_iter().map(|entry| node.own.set_value(entry)).collect()
        };
        self.start_write(now, vec![entry], publish, out)
    }

    fn fetch(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        key: Id,
        out: &mut DirectoryOut<C>,
    ) -> Result<OperationId, ContentError> {
        self.start_read(now, rng, What::Fetch, key, Wanted::Under { key, class: Class::Value }, out)
    }

    fn provide(
        &mut self,
        now: Instant,
        _rng: &mut dyn RngCore,
        offered: Offered,
        out: &mut DirectoryOut<C>,
    ) -> Result<OperationId, ContentError> {
        let Offered { content, name } = offered;
        if name.len() > NAME_BYTES_MAX {
            return Err(Unsound::TooLarge.into());
        }
        if !self.own.has_room_to_provide(content) {
            return Err(ContentError::TooMany { limit: PUBLISHED_MAX });
        }
        let claims = self.claims(now, content, &name);
        let publish = |node: &mut Self, claims| node.own.set_provided(content, name, claims);
        self.start_write(now, claims, publish, out)
    }

    fn stop_providing(&mut self, content: Id) -> bool {
        self.own.stop_providing(content)
    }

    fn providers(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        content: Id,
        out: &mut DirectoryOut<C>,
    ) -> Result<OperationId, ContentError> {
        let wanted = Wanted::Under { key: content, class: Class::Provider };
        self.start_read(now, rng, What::Providers, content, wanted, out)
    }

    /// Any index node has all postings; a client asks always the same ones, as Napster's did.
    fn search(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        words: &str,
        out: &mut DirectoryOut<C>,
    ) -> Result<OperationId, ContentError> {
        let keywords = keywords_of(words);
        if keywords.is_empty() {
            return Err(ContentError::NoKeyword);
        }
        self.start_read(now, rng, What::Search, self.me.id(), Wanted::Words(keywords), out)
    }

    fn take_shelf(&mut self) -> Shelf {
        let (values, provided, mut kept) = self.own.take();
        kept.extend(self.index.take().into_iter().flat_map(Index::into_entries));
        Shelf { kept, published: Published::from_parts(values, provided) }
    }

    /// Claims of others are left: clients bring theirs to this kind's index nodes anew.
    fn put_shelf(&mut self, now: Instant, shelf: Shelf) {
        let wall = self.wall(now);
        for entry in shelf.kept {
            if entry.class() == Class::Value && entry.expires > wall {
                self.own.hand(entry);
            }
        }
        let (values, provided) = shelf.published.into_parts();
        for entry in values {
            self.own.set_value(entry);
        }
        for (content, name) in provided {
            let claims = self.claims(now, content, &name);
            self.own.set_provided(content, name, claims);
        }
    }

    fn kept(&self) -> Kept {
        self.index.as_ref().map(Index::kept).unwrap_or_default()
    }
}
