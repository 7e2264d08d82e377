//! Content over a core that can locate: values, providers and search for every structured kind.
//!
//! ```text
//! store     locate, then to each of the r responsible nodes: Offer → Wanted → Keep → Kept
//! fetch     locate, then to each of them: Get → Got, until two have it or all have answered
//! provide   a store of a provider entry, and of a posting for each word of the name
//! search    a fetch of the postings of each word; hits are in all of them
//! upkeep    whoever is first for a key compares with the others of the r (Offer → Wanted), the
//!           others compare with the first, and send what is missing there; at once when their
//!           neighbours change, and now and then. So a newcomer gets what is its own from those
//!           who had it. A key that does not seem a node's own is looked up, stored where it
//!           belongs, and let go.
//! ```
//!
//! Stoica et al. leave this to the layer above (ToN 2003, section II: "the application"), and
//! DHash, above Chord, replicates to the key's r successors as here; for Kademlia it is the
//! paper's republishing (section 2.5), with the comparison in place of sending everything anew.
//!
//! - `message`: what is said. `cellar`: what is kept, and how much. Both know nothing of the rest.
//! - `operation`: this node's own stores and reads. `exchange`: questions under way, and other
//!   nodes' answered. `publish`: what this node wants kept. `upkeep`: what keeps copies where
//!   they belong.
//!
//! Against hostile nodes: an entry is believed by its author's signature, whoever sends it, so an
//! index is poisoned only with what somebody signs; reads ask several nodes and take the highest
//! sequence, so one of them can hide nothing alone; each table has a limit, and one peer at most a
//! quarter of the room. What is not prevented: an author that signs false postings, and somebody
//! who draws keys until all r nodes of a key are his (an eclipse); disjoint paths and ids that are
//! hashes make it dear.

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
use rand::RngCore;

pub use self::message::{ContentMessage, DhtMessage, Refused};
use self::{
    cellar::Cellar,
    exchange::{Call, Tokens},
    operation::{Operation, Part},
};
pub(crate) use self::{message::Named, operation::fitting, publish::Published};
use crate::{AuthorKey, ContentError, Id, LocateError, LookupId, Notification, Out, Overlay, Table};

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
        }
    }
}

type DhtOut<O> = Out<<O as Overlay>::Contact, Message<O>>;
type Message<O> = DhtMessage<<O as Overlay>::Contact, <O as Overlay>::Message>;

/// A core that locates, and content over it.
#[derive(Debug)]
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
        let upkeep = upkeep::Round::new(core.neighbourhood());
        Self {
            config,
            author,
            core,
            core_out: Out::default(),
            clock: (Instant::ORIGIN, WallTime::default()),
            is_member: false,
            frozen: false,
            cellar: Cellar::default(),
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
            let sends = self.core_out.sends.drain(..);
            out.sends.extend(sends.map(|(to, message)| (to, DhtMessage::Overlay(message))));
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
                        self.upkeep.hurry(now);
                        out.notify(Notification::Joined);
                    }
                    other => out.notify(other),
                }
            }
        }
        self.notice_neighbours(now);
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
            self.finish(part, Err(ContentError::Left), out);
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
            + self.published.heap_bytes()
            + self.calls.capacity() * size_of::<Call<O::Contact>>()
            + self.parts.iter().map(Part::bytes).sum::<usize>()
    }
}
