//! Content over a core that can locate: values, providers and search for every structured kind.
//!
//! ```text
//! store     locate, then to each of the r responsible nodes: Offer → Wanted → Keep → Kept
//! fetch     locate, then to each of them: Get → Got, until two have it or all have answered. In
//!           Kademlia whoever is asked for its way answers with what it has, if that is on, and
//!           two that have it are enough there too
//! provide   a store of a provider entry, and of a posting for each word of the name
//! search    a fetch of the postings of each word; hits are in all of them
//! upkeep    whoever is first for a key compares with the others of the r (Offer → Wanted), the
//!           others compare with the first, and send what is missing there; at once when their
//!           neighbours change, and now and then. So a newcomer gets what is its own from those
//!           who had it. Who was one of the r and is none any more offers it to the first, for all
//!           r may be new. A key that does not seem a node's own is looked up, stored where it
//!           belongs, and let go.
//! ```
//!
//! Stoica et al. leave this to the layer above (ToN 2003, section II: "the application"), and
//! DHash, above Chord, replicates to the key's r successors as here; for Kademlia it is the
//! paper's republishing (section 2.5), with the comparison in place of sending everything anew.
//!
//! - `message`: what is said. `cellar`: what is kept, and how much. `cache`: copies of what is
//!   others' to keep. They know nothing of the rest.
//! - `operation`: this node's own stores and reads. `exchange`: questions under way, and other
//!   nodes' answered. `publish`: what this node wants kept. `upkeep`: what keeps copies where
//!   they belong.
//!
//! Against hostile nodes: an entry is believed by its author's signature, whoever sends it, so an
//! index is poisoned only with what somebody signs; reads ask several nodes and take the highest
//! sequence, so one of them can hide nothing alone; where only the first says who the others are (in
//! Pastry, in Chord's recursive lookups, and for the last of a Chord node's list), who finds nothing
//! asks on by its own tables. Each table has a limit, one peer at most a quarter of the room, and the
//! places under a key are shared among peers. What is not prevented: an author that signs false postings, and
//! somebody who draws keys until all r nodes of a key are his (an eclipse); disjoint paths and ids
//! that are hashes make it dear.

mod cache;
mod cellar;
mod exchange;
mod message;
mod operation;
mod publish;
#[cfg(test)]
mod tests;
mod upkeep;

use std::{sync::Arc, time::Duration};

use atoll_types::{Instant, WallTime};
use rand::{Rng, RngCore, SeedableRng, rngs::StdRng};

pub use self::message::{ContentMessage, DhtMessage, Refused};
use self::{
    cache::{Cache, copied_for},
    cellar::Cellar,
    exchange::{Call, Tokens},
    operation::{Operation, Part},
};
pub(crate) use self::{message::Named, operation::fitting, publish::Published};
use crate::{
    AuthorKey, Contact, ContentError, Entry, Id, LocateError, LookupId, Notification, Out, Overlay, Table,
    entry::Class,
};

/// How content is kept. All nodes of one overlay should agree on `replicas`.
#[derive(Debug, Clone)]
pub struct DhtConfig {
    /// r: nodes that keep each entry. 3 by default: what is kept is lost only if three
    /// neighbours fail within one `check_every`. More where nodes come and go: Kademlia's paper
    /// has 20. At most 20.
    pub replicas: usize,
    /// How long to wait for an answer before asking again: 1 s by default.
    pub answer_timeout: Duration,
    /// How often to ask before somebody counts as silent: 2 by default.
    pub attempts: u8,
    /// How often to look for what has expired, and for copies that are missing: 30 s by default.
    pub check_every: Duration,
    /// What others said to have is asked for again after so long: 10 min by default. It finds
    /// nodes that lost it without leaving, and costs 40 bytes an entry and replica.
    pub compare_every: Duration,
    /// How often what a node has published, or keeps for others without being first for it, is
    /// looked up and stored anew: an hour by default, the Kademlia paper's.
    pub republish_every: Duration,
    /// How long others keep that this node provides something, unless it says so again, which it
    /// does at half of it: an hour by default. After a failure false hints stay about that long.
    pub provide_for: Duration,
    /// How long nodes near a key that are not responsible for it may keep copies of what was read
    /// there (Kademlia's caching along the path; other kinds have none); farther ones keep them
    /// for less. Zero by default: off. It spreads the load of what is much read, and for so long
    /// a read may give what was newest before.
    pub cache_for: Duration,
}

impl Default for DhtConfig {
    fn default() -> Self {
        Self {
            replicas: 3,
            answer_timeout: Duration::from_secs(1),
            attempts: 2,
            check_every: Duration::from_secs(30),
            compare_every: Duration::from_secs(600),
            republish_every: Duration::from_secs(3600),
            provide_for: Duration::from_secs(3600),
            cache_for: Duration::ZERO,
        }
    }
}

type DhtOut<O> = Out<<O as Overlay>::Contact, Message<O>>;
type Message<O> = DhtMessage<<O as Overlay>::Contact, <O as Overlay>::Message>;

/// A core that locates, and content over it.
#[derive(Debug, Clone)]
pub struct Dht<O: Overlay> {
    config: Arc<DhtConfig>,
    author: AuthorKey,
    core: O,
    /// The core's effects, on their way to the driver; empty between calls.
    core_out: Out<O::Contact, O::Message>,
    /// What the wall clock said, and when.
    clock: (Instant, WallTime),
    is_member: bool,
    frozen: bool,
    cellar: Cellar<O::Contact>,
    /// Of keys that are not this node's to keep.
    cache: Cache,
    published: Published,
    operations: Vec<Operation<O::Contact>>,
    parts: Vec<Part<O::Contact>>,
    calls: Vec<Call<O::Contact>>,
    /// The number of the last call, part and operation.
    numbered: u32,
    /// Of what this node signed last.
    sequence: u64,
    tokens: Tokens,
    upkeep: upkeep::Round,
}

impl<O: Overlay> Dht<O> {
    /// Content over `core`; what this node publishes is signed by `author`.
    pub fn new(core: O, author: AuthorKey, config: Arc<DhtConfig>) -> Self {
        assert!((1..=message::REPLICAS_MAX).contains(&config.replicas), "at most 20 replicas");
        let upkeep = upkeep::Round::new(&core);
        Self {
            config,
            author,
            core,
            core_out: Out::default(),
            clock: (Instant::ORIGIN, WallTime::default()),
            is_member: false,
            frozen: false,
            cellar: Cellar::default(),
            cache: Cache::default(),
            published: Published::default(),
            operations: Vec::new(),
            parts: Vec::new(),
            calls: Vec::new(),
            numbered: 0,
            sequence: 0,
            tokens: Tokens::default(),
            upkeep,
        }
    }

    /// Content over a core that is part of an overlay already, which has kept nothing so far. It
    /// begins at `Instant::ORIGIN`.
    pub fn converged(core: O, author: AuthorKey, config: Arc<DhtConfig>) -> Self {
        let mut node = Self::new(core, author, config);
        node.is_member = true;
        // By the node's id alone: not in step with the others, and the same each time.
        let mut rng = StdRng::from_seed(node.core.contact().id().into());
        node.tokens.draw(Instant::ORIGIN, &mut rng);
        node.upkeep.begin_at(Instant::ORIGIN + node.config.check_every.mul_f64(rng.random_range(0.0..1.0)));
        node
    }

    /// What it locates with.
    pub fn core(&self) -> &O {
        &self.core
    }

    fn wall(&self, now: Instant) -> WallTime {
        let (then, wall) = self.clock;
        wall + now.saturating_since(then)
    }

    fn number(&mut self) -> u32 {
        self.numbered = self.numbered.wrapping_add(1);
        self.numbered
    }

    /// Passes the core's effects on, and takes those lookups' ends that are ours.
    fn absorb(&mut self, now: Instant, rng: &mut dyn RngCore, out: &mut DhtOut<O>) {
        loop {
            for (to, message) in std::mem::take(&mut self.core_out.sends) {
                let message = match self.seeks(&to, &message) {
                    Some(class) => DhtMessage::Seek { class, message },
                    None => DhtMessage::Overlay(message),
                };
                out.send(to, message);
            }
            let notifications = std::mem::take(&mut self.core_out.notifications);
            if notifications.is_empty() {
                break;
            }
            for notification in notifications {
                match notification {
                    Notification::LookupFinished(located) if self.is_part(located.lookup) => {
                        self.located(now, located, out);
                    }
                    Notification::Joined => {
                        self.is_member = true;
                        self.tokens.draw(now, rng);
                        self.begin_anew(now);
                        out.notify(Notification::Joined);
                    }
                    other => out.notify(other),
                }
            }
        }
        self.notice_neighbours(now);
    }

    /// Answers for the way, and with what is here.
    fn asked_on_the_way(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        from: O::Contact,
        class: Class,
        message: O::Message,
        out: &mut DhtOut<O>,
    ) {
        let key = O::asks_for(&message);
        self.core.handle_message(now, rng, from.clone(), message, &mut self.core_out);
        let answer = self.core_out.sends.iter().position(|(to, _)| *to == from);
        if let (Some(key), Some(answer), true) = (key, answer, self.is_member) {
            let (to, message) = self.core_out.sends.remove(answer);
            let token = self.tokens.now_for(from.id());
            let wall = self.wall(now);
            let mut entries = self.cellar.get(key, class, wall);
            if entries.is_empty() {
                entries = self.cache.get(now, wall, key, class);
            }
            out.send(to, DhtMessage::Sought { key, class, token, entries, message });
        }
        self.absorb(now, rng, out);
    }

    fn keep_copies(&mut self, now: Instant, entries: Vec<Entry>) {
        let Some((key, class)) = entries.first().map(|first| (first.key, first.class())) else { return };
        if self.config.cache_for.is_zero() {
            return;
        }
        let entries = operation::sound(entries, key, class, self.wall(now));
        let me = self.core.contact().id();
        let neighbours = self.core.responsible(me, message::REPLICAS_MAX);
        let farthest = neighbours.iter().map(|neighbour| neighbour.id().xor(me)).max();
        let until = now + copied_for(self.config.cache_for, key.xor(me), farthest);
        self.cache.put(key, class, entries, until);
    }

    /// Keys of which there are copies here.
    pub fn cached(&self) -> usize {
        self.cache.len()
    }
}

impl<O: Overlay> Overlay for Dht<O> {
    type Contact = O::Contact;
    type Message = Message<O>;

    fn contact(&self) -> &O::Contact {
        self.core.contact()
    }

    fn join(&mut self, now: Instant, rng: &mut dyn RngCore, known: &[O::Contact], out: &mut DhtOut<O>) {
        self.core.join(now, rng, known, &mut self.core_out);
        self.absorb(now, rng, out);
    }

    /// What this node keeps is at the other replicas too, and their neighbours having changed
    /// they see to it that there are enough of them again.
    fn leave(&mut self, now: Instant, out: &mut DhtOut<O>) {
        self.is_member = false;
        self.core.leave(now, &mut self.core_out);
        for part in std::mem::take(&mut self.parts) {
            self.finish(now, part, Err(ContentError::Left), out);
        }
        self.calls = Vec::new();
        let sends = self.core_out.sends.drain(..);
        out.sends.extend(sends.map(|(to, message)| (to, DhtMessage::Overlay(message))));
        // The lookups of parts, which are finished, are of no use to anybody else.
        out.notifications.append(&mut self.core_out.notifications);
    }

    fn locate(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        key: Id,
        out: &mut DhtOut<O>,
    ) -> Result<LookupId, LocateError> {
        let lookup = self.core.locate(now, rng, key, &mut self.core_out);
        self.absorb(now, rng, out);
        lookup
    }

    fn responsible(&self, key: Id, count: usize) -> Vec<O::Contact> {
        self.core.responsible(key, count)
    }

    fn neighbourhood(&self) -> u32 {
        self.core.neighbourhood()
    }

    fn is_keeper(&self) -> bool {
        self.core.is_keeper()
    }

    fn losses(&self) -> u32 {
        self.core.losses()
    }

    fn meet(&mut self, now: Instant, rng: &mut dyn RngCore, others: &[O::Contact], out: &mut DhtOut<O>) {
        self.core.meet(now, rng, others, &mut self.core_out);
        self.absorb(now, rng, out);
    }

    fn tables(&self) -> Vec<Table<O::Contact>> {
        self.core.tables()
    }

    fn handle_message(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        from: O::Contact,
        message: Message<O>,
        out: &mut DhtOut<O>,
    ) {
        match message {
            DhtMessage::Overlay(message) => {
                self.core.handle_message(now, rng, from, message, &mut self.core_out);
                self.absorb(now, rng, out);
            }
            DhtMessage::Content(message) if self.is_member && from != *self.core.contact() => {
                self.handle_content(now, from, message, out);
            }
            DhtMessage::Content(_) => {}
            DhtMessage::Seek { class, message } => {
                self.asked_on_the_way(now, rng, from, class, message, out);
            }
            DhtMessage::Sought { key, class, token, entries, message } => {
                self.was_sought(now, &from, (key, class), token, entries, out);
                self.core.handle_message(now, rng, from, message, &mut self.core_out);
                self.absorb(now, rng, out);
            }
        }
    }

    fn handle_timeout(&mut self, now: Instant, rng: &mut dyn RngCore, out: &mut DhtOut<O>) {
        self.core.handle_timeout(now, rng, &mut self.core_out);
        self.absorb(now, rng, out);
        self.handle_deadlines(now, out);
        if self.is_upkeep_due(now) {
            self.keep_up(now, rng, out);
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let deadlines = self.calls.iter().map(|call| call.deadline);
        deadlines.chain(self.core.poll_timeout()).chain(self.upkeep_at()).min()
    }

    fn freeze(&mut self) {
        self.frozen = true;
        self.core.freeze();
    }

    fn contacts(&self) -> Vec<O::Contact> {
        self.core.contacts()
    }

    fn state_bytes(&self) -> usize {
        let own = size_of::<Self>() - size_of::<O>();
        own + self.core.state_bytes()
            + self.cellar.heap_bytes()
            + self.cache.heap_bytes()
            + self.published.heap_bytes()
            + self.calls.capacity() * size_of::<Call<O::Contact>>()
            + self.parts.iter().map(Part::bytes).sum::<usize>()
    }
}
