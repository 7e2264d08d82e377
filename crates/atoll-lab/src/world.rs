//! Discrete events for overlays: a million small nodes in one thread, from one seed.
//!
//! This is not the simulated world of `atoll-simulation`, which runs whole nodes with their
//! disks, tasks and connections: there a node costs megabytes, and its executor is what is
//! tested. An overlay's core has no tasks; here a node is its core, some hundred bytes, and an
//! event is a message or a timeout. So it stands in a crate that builds in seconds, without an
//! executor, a transport or a disk.
//!
//! ```text
//! the earliest event ─► core.handle_message / handle_timeout ─► out.sends ─► events later,
//!                                                                by the links' latency
//! ```
//!
//! Events of one instant go in the order in which they came up. What is drawn comes from
//! streams of the one seed; sums are of whole numbers. So the same seed is the same run, which
//! [`World::trace`] tells: it is a hash over every event.

mod contact;
mod places;
mod remake;
mod wire;

use std::{
    cmp::Ordering,
    collections::BinaryHeap,
    ops::{AddAssign, Sub},
    time::Duration,
};

use atoll_overlay::{Id, Notification, Out, Overlay};
use atoll_types::Instant;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde::Serialize;

use self::places::Place;
pub(crate) use self::wire::message_bytes;
pub use self::{
    contact::SimulatedContact,
    wire::{CONTACT_BYTES, ENVELOPE_BYTES},
};

/// What passages between nodes suffer, besides the way's length.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Links {
    /// The chance of a message to be lost, 0 to 1.
    pub loss: f64,
    /// The share of ordered pairs of nodes, 0 to 1, of which the first never reaches the second;
    /// the way back is another pair. Freedman, Lakshminarayanan, Rhea, Stoica, *Non-transitive
    /// connectivity and DHTs*, WORLDS 2005, found such pairs on the internet.
    pub cut_one_way: f64,
    /// What a node can send, one message after the other; 0 is no limit.
    pub upload_bytes_per_s: u64,
}

/// Messages so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    /// Sent, whatever became of them.
    pub sent: u64,
    /// What they took on the wire.
    pub sent_bytes: u64,
    /// On the way, or because the way is cut.
    pub lost: u64,
    /// Of those sent, what carried a broadcast's payload.
    pub payloads: u64,
    /// Arrived where nobody was any more.
    pub to_failed: u64,
}

impl AddAssign for Traffic {
    fn add_assign(&mut self, more: Traffic) {
        self.sent += more.sent;
        self.sent_bytes += more.sent_bytes;
        self.lost += more.lost;
        self.payloads += more.payloads;
        self.to_failed += more.to_failed;
    }
}

impl Sub for Traffic {
    type Output = Traffic;

    fn sub(self, earlier: Traffic) -> Traffic {
        Traffic {
            sent: self.sent - earlier.sent,
            sent_bytes: self.sent_bytes - earlier.sent_bytes,
            lost: self.lost - earlier.lost,
            payloads: self.payloads - earlier.payloads,
            to_failed: self.to_failed - earlier.to_failed,
        }
    }
}

/// What a node reported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reported<N = Notification<SimulatedContact>> {
    pub at: Instant,
    pub by: SimulatedContact,
    pub notification: N,
}

/// What a node of a world is: any state machine that takes messages and timeouts.
pub trait Core {
    type Message: Clone + Serialize;
    type Notification: Clone;

    fn handle_message(
        &mut self,
        now: Instant,
        rng: &mut StdRng,
        from: SimulatedContact,
        message: Self::Message,
        out: &mut OutOf<Self>,
    );
    fn handle_timeout(&mut self, now: Instant, rng: &mut StdRng, out: &mut OutOf<Self>);
    fn poll_timeout(&self) -> Option<Instant>;
    fn state_bytes(&self) -> usize;

    /// Whether it bears a broadcast's payload.
    fn carries_payload(_message: &Self::Message) -> bool {
        false
    }
}

pub type OutOf<K> = Out<SimulatedContact, <K as Core>::Message, <K as Core>::Notification>;

impl<O: Overlay<Contact = SimulatedContact, Message: Serialize>> Core for O {
    type Message = <O as Overlay>::Message;
    type Notification = Notification<SimulatedContact>;

    fn handle_message(
        &mut self,
        now: Instant,
        rng: &mut StdRng,
        from: SimulatedContact,
        message: <O as Overlay>::Message,
        out: &mut OutOf<Self>,
    ) {
        Overlay::handle_message(self, now, rng, from, message, out);
    }

    fn handle_timeout(&mut self, now: Instant, rng: &mut StdRng, out: &mut OutOf<Self>) {
        Overlay::handle_timeout(self, now, rng, out);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        Overlay::poll_timeout(self)
    }

    fn state_bytes(&self) -> usize {
        Overlay::state_bytes(self)
    }
}

#[derive(Clone)]
struct Event<M> {
    at: Instant,
    /// The how-manieth event it is: breaks ties.
    order: u64,
    /// The node's index.
    node: u32,
    what: What<M>,
}

#[derive(Clone)]
enum What<M> {
    Message { from: SimulatedContact, message: M },
    Timeout,
}

impl<M> PartialEq for Event<M> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl<M> Eq for Event<M> {}

impl<M> PartialOrd for Event<M> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl<M> Ord for Event<M> {
    /// The heap gives the greatest first, and we want the earliest.
    fn cmp(&self, other: &Self) -> Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

#[derive(Clone)]
struct Node<K> {
    /// None: failed, or left.
    core: Option<K>,
    place: Place,
    /// Messages that arrived.
    received: u32,
    /// When all that it has sent so far is out, if links have a capacity.
    sent_at: Instant,
    /// Where it stands in `World::living`, while it lives.
    place_among_living: u32,
    /// When its next timeout event is due; other ones for it are stale.
    timeout_at: Option<Instant>,
}

/// Nodes of one kind of overlay and the links between them. A copy goes on by itself, as this
/// one would have.
#[derive(Clone)]
pub struct World<K: Core> {
    now: Instant,
    links: Links,
    contacts_from: SimulatedContact,
    nodes: Vec<Node<K>>,
    /// The indices of those that live, in no order: to draw one at once, however many are gone.
    living: Vec<u32>,
    events: BinaryHeap<Event<K::Message>>,
    /// Events that came up so far.
    ordered: u64,
    traffic: Traffic,
    /// Whose messages are counted besides, and theirs so far.
    watched: Option<(usize, Traffic)>,
    /// Bytes that each node has sent and was sent, if that is counted.
    loads: Option<Vec<u64>>,
    trace: u64,
    places_rng: StdRng,
    links_rng: StdRng,
    nodes_rng: StdRng,
    reports: Vec<Reported<K::Notification>>,
    /// Kept for its room.
    out: OutOf<K>,
}

/// The generator for one purpose, so that one that draws more does not disturb the others.
pub(crate) fn stream(seed: u64, purpose: &str) -> StdRng {
    let mut hasher = blake3::Hasher::new_derive_key("atoll-lab seed stream 1");
    hasher.update(&seed.to_le_bytes());
    hasher.update(purpose.as_bytes());
    StdRng::from_seed(*hasher.finalize().as_bytes())
}

impl<K: Core> World<K> {
    pub fn new(seed: u64, links: Links) -> Self {
        World {
            now: Instant::ORIGIN,
            links,
            contacts_from: SimulatedContact::first_of(seed),
            nodes: Vec::new(),
            living: Vec::new(),
            events: BinaryHeap::new(),
            ordered: 0,
            traffic: Traffic::default(),
            watched: None,
            loads: None,
            trace: 0,
            places_rng: stream(seed, "places"),
            links_rng: stream(seed, "links"),
            nodes_rng: stream(seed, "nodes"),
            reports: Vec::new(),
            out: Out::default(),
        }
    }

    pub fn now(&self) -> Instant {
        self.now
    }

    pub fn traffic(&self) -> Traffic {
        self.traffic
    }

    /// From now on counts what is sent by this node, and what others send to it, besides.
    pub fn watch(&mut self, contact: SimulatedContact) {
        self.watched = Some((self.index(contact), Traffic::default()));
    }

    /// The same for the node that joins next, from its first message on.
    pub fn watch_next(&mut self) {
        self.watched = Some((self.nodes.len(), Traffic::default()));
    }

    /// What was counted since; nothing if nobody is watched.
    pub fn watched(&self) -> Traffic {
        self.watched.map(|(_, traffic)| traffic).unwrap_or_default()
    }

    /// From now on counts how many bytes each node sends, and is sent.
    pub fn weigh(&mut self) {
        self.loads = Some(Vec::new());
    }

    /// Those of nodes that live, since.
    pub fn loads(&self) -> impl Iterator<Item = (SimulatedContact, u64)> {
        let load = |contact| self.loads.as_ref().and_then(|loads| loads.get(self.index(contact)).copied());
        self.living().map(move |(contact, _)| (contact, load(contact).unwrap_or_default()))
    }

    /// Equal for equal runs.
    pub fn trace(&self) -> u64 {
        self.trace
    }

    /// What the nodes reported since this was last asked, in order.
    pub fn take_reports(&mut self) -> Vec<Reported<K::Notification>> {
        std::mem::take(&mut self.reports)
    }

    /// The contacts of the first nodes of a world from this seed.
    pub(crate) fn contacts(seed: u64, count: usize) -> Vec<SimulatedContact> {
        let first = SimulatedContact::first_of(seed);
        (0..count).map(|index| first.plus(index)).collect()
    }

    /// A new contact, for a node that is added next.
    pub(crate) fn next_contact(&self) -> SimulatedContact {
        self.contacts_from.plus(self.nodes.len())
    }

    /// Adds a node as it is.
    pub(crate) fn add(&mut self, core: K) {
        let place = Place::drawn(&mut self.places_rng);
        self.add_at(place, Some(core));
    }

    /// Leaves the next contact unused.
    pub(crate) fn skip(&mut self) {
        let place = Place::drawn(&mut self.places_rng);
        self.add_at(place, None);
        self.bury(self.nodes.len() - 1);
    }

    fn add_at(&mut self, place: Place, core: Option<K>) {
        let place_among_living = small(self.living.len());
        self.living.push(small(self.nodes.len()));
        let sent_at = Instant::ORIGIN;
        self.nodes.push(Node { core, place, received: 0, sent_at, place_among_living, timeout_at: None });
        self.plan_timeout(self.nodes.len() - 1);
    }

    /// A node that lives, each as likely; none if there is none.
    pub(crate) fn draw_living(&mut self) -> Option<SimulatedContact> {
        let count = self.living.len();
        (count > 0).then(|| {
            let drawn = self.living[self.nodes_rng.random_range(0..count)];
            self.contacts_from.plus(drawn as usize)
        })
    }

    /// Takes a node out, without a word to anybody.
    pub fn fail(&mut self, contact: SimulatedContact) {
        let index = self.index(contact);
        let node = &mut self.nodes[index];
        node.timeout_at = None;
        if node.core.take().is_some() {
            self.bury(index);
        }
    }

    fn bury(&mut self, index: usize) {
        let place = self.nodes[index].place_among_living as usize;
        self.living.swap_remove(place);
        if let Some(moved) = self.living.get(place) {
            self.nodes[*moved as usize].place_among_living = small(place);
        }
    }

    pub fn is_living(&self, contact: SimulatedContact) -> bool {
        self.nodes[self.index(contact)].core.is_some()
    }

    pub fn living(&self) -> impl Iterator<Item = (SimulatedContact, &K)> {
        let cores = self.nodes.iter().enumerate();
        cores.filter_map(|(index, node)| Some((self.contacts_from.plus(index), node.core.as_ref()?)))
    }

    /// None if the node is not there any more.
    pub(crate) fn core(&self, contact: SimulatedContact) -> Option<&K> {
        self.nodes[self.index(contact)].core.as_ref()
    }

    /// Gives a living node a command, and carries out what follows.
    ///
    /// # Panics
    /// If the node is not there any more.
    pub fn with<T>(
        &mut self,
        contact: SimulatedContact,
        command: impl FnOnce(&mut K, Instant, &mut StdRng, &mut OutOf<K>) -> T,
    ) -> T {
        let index = self.index(contact);
        let core = self.nodes[index].core.as_mut().expect("a living node");
        let result = command(core, self.now, &mut self.nodes_rng, &mut self.out);
        self.carry_out(index);
        result
    }

    /// Runs until nothing happens before `end`, and sets the clock there.
    pub fn run_until(&mut self, end: Instant) {
        while self.events.peek().is_some_and(|event| event.at <= end) {
            self.step();
        }
        self.now = end;
    }

    pub fn run(&mut self, duration: Duration) {
        self.run_until(self.now + duration);
    }

    /// Runs until nothing is left to happen. Ends only for nodes without upkeep.
    pub fn run_until_quiet(&mut self) {
        while self.step() {}
    }

    /// The time that a message takes between two nodes, one way.
    pub fn latency(&self, from: SimulatedContact, to: SimulatedContact) -> Duration {
        let place = |contact| &self.nodes[self.index(contact)].place;
        place(from).latency(place(to))
    }

    /// How many messages each node got so far.
    pub fn received(&self) -> impl Iterator<Item = u32> {
        self.nodes.iter().map(|node| node.received)
    }

    /// The mean over living nodes, of the core's state alone.
    pub fn bytes_per_node(&self) -> f64 {
        let (count, bytes) = self
            .living()
            .fold((0_u64, 0), |(count, bytes), (_, core)| (count + 1, bytes + core.state_bytes()));
        bytes as f64 / count.max(1) as f64
    }

    fn index(&self, contact: SimulatedContact) -> usize {
        contact.minus(self.contacts_from)
    }

    fn step(&mut self) -> bool {
        let Some(event) = self.events.pop() else { return false };
        let index = event.node as usize;
        if matches!(event.what, What::Timeout) && self.nodes[index].timeout_at != Some(event.at) {
            return true;
        }
        self.now = event.at;
        self.note(event.at.as_nanos());
        self.note(u64::from(event.node));
        let node = &mut self.nodes[index];
        match (event.what, &mut node.core) {
            (What::Message { .. }, None) => self.traffic.to_failed += 1,
            (What::Timeout, None) => {}
            (What::Message { from, message }, Some(core)) => {
                node.received += 1;
                core.handle_message(event.at, &mut self.nodes_rng, from, message, &mut self.out);
                self.carry_out(index);
            }
            (What::Timeout, Some(core)) => {
                node.timeout_at = None;
                core.handle_timeout(event.at, &mut self.nodes_rng, &mut self.out);
                self.carry_out(index);
            }
        }
        true
    }

    /// Sends what a core wants sent, and asks when it wants to be called again.
    fn carry_out(&mut self, index: usize) {
        let from = self.contacts_from.plus(index);
        let mut sends = std::mem::take(&mut self.out.sends);
        for (to, message) in sends.drain(..) {
            let node = to.minus(self.contacts_from);
            assert!(node < self.nodes.len(), "a core made a contact up");
            let (sent_bytes, payloads) = (message_bytes(&message), u64::from(K::carries_payload(&message)));
            let sent = Traffic { sent: 1, sent_bytes, payloads, ..Traffic::default() };
            self.traffic += sent;
            if let Some((_, traffic)) =
                self.watched.as_mut().filter(|(watched, _)| [index, node].contains(watched))
            {
                *traffic += sent;
            }
            if let Some(loads) = &mut self.loads {
                loads.resize(self.nodes.len().max(loads.len()), 0);
                loads[index] += sent_bytes;
                loads[node] += sent_bytes;
            }
            let leaves_at = self.leaves_at(index, sent_bytes);
            let is_cut = from.is_cut_from(to, self.links.cut_one_way);
            if is_cut || self.links.loss > 0.0 && self.links_rng.random_bool(self.links.loss) {
                self.traffic.lost += 1;
                continue;
            }
            let at = leaves_at + self.nodes[index].place.latency(&self.nodes[node].place);
            self.push(at, node, What::Message { from, message });
        }
        self.out.sends = sends;
        let (at, notifications) = (self.now, self.out.notifications.drain(..));
        self.reports.extend(notifications.map(|notification| Reported { at, by: from, notification }));
        self.plan_timeout(index);
    }

    /// Sets a network of `count` nodes up as if it had come to rest: `make` gives each from its
    /// contact, the ring of all, sorted by id, and how long the way to another and back is.
    pub fn set_up(
        &mut self,
        count: usize,
        make: impl Fn(SimulatedContact, &[(Id, SimulatedContact)], &dyn Fn(SimulatedContact) -> Duration) -> K,
    ) {
        assert!(self.nodes.is_empty(), "a network is set up in an empty world");
        let contacts: Vec<SimulatedContact> =
            (0..count).map(|index| self.contacts_from.plus(index)).collect();
        let places: Vec<Place> = contacts.iter().map(|_| Place::drawn(&mut self.places_rng)).collect();
        let ring = ring(contacts.iter().copied());
        let first = self.contacts_from;
        places.iter().for_each(|place| self.add_at(*place, None));
        // In the ring's order: whom a node knows is near whom the one before it knows, so what it
        // looks at is in the cache. In the order of contacts a million nodes of Chord took seven times
        // as long.
        for (_, contact) in &ring {
            let index = contact.minus(first);
            let place = &places[index];
            let round_trip = |other: SimulatedContact| 2 * place.latency(&places[other.minus(first)]);
            self.nodes[index].core = Some(make(*contact, &ring, &round_trip));
        }
        (0..count).for_each(|index| self.plan_timeout(index));
    }

    /// When the last byte of a message is out, behind all that the node sent before.
    fn leaves_at(&mut self, index: usize, bytes: u64) -> Instant {
        match self.links.upload_bytes_per_s {
            0 => self.now,
            rate => {
                let took = Duration::from_nanos(bytes * 1_000_000_000 / rate);
                let sent_at = &mut self.nodes[index].sent_at;
                *sent_at = (*sent_at).max(self.now) + took;
                *sent_at
            }
        }
    }

    fn plan_timeout(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let wanted = node.core.as_ref().and_then(Core::poll_timeout).map(|at| at.max(self.now));
        if node.timeout_at != wanted {
            node.timeout_at = wanted;
            if let Some(at) = wanted {
                self.push(at, index, What::Timeout);
            }
        }
    }

    fn push(&mut self, at: Instant, index: usize, what: What<K::Message>) {
        self.ordered += 1;
        self.events.push(Event { at, order: self.ordered, node: small(index), what });
    }

    fn note(&mut self, number: u64) {
        // FNV's prime: any odd multiplier spreads; nobody attacks this.
        self.trace = (self.trace ^ number).wrapping_mul(0x0000_0100_0000_01b3).rotate_left(23);
    }
}

/// Worlds of overlays.
impl<O: Overlay<Contact = SimulatedContact, Message: Serialize>> World<O> {
    /// Adds a node that knows one living member, drawn; the first one founds the overlay.
    pub fn join(&mut self, make: impl Fn(SimulatedContact) -> O) -> SimulatedContact {
        self.join_through(1, make)
    }

    /// The same, but it knows so many, or fewer if one is drawn twice.
    pub fn join_through(&mut self, members: usize, make: impl Fn(SimulatedContact) -> O) -> SimulatedContact {
        let mut known: Vec<SimulatedContact> = (0..members).filter_map(|_| self.draw_living()).collect();
        known.sort_unstable();
        known.dedup();
        let contact = self.next_contact();
        self.add(make(contact));
        self.with(contact, |core, now, rng, out| core.join(now, rng, &known, out));
        contact
    }

    /// A node says goodbye and is gone.
    ///
    /// # Panics
    /// If the node is not there any more.
    pub fn leave(&mut self, contact: SimulatedContact) {
        self.with(contact, |core, now, _, out| core.leave(now, out));
        self.fail(contact);
    }

    /// Of all contacts in living nodes' tables, the share of nodes that are gone; none if there
    /// are no contacts.
    pub fn stale_share(&self) -> Option<f64> {
        let (mut all, mut stale) = (0_usize, 0_usize);
        for (_, core) in self.living() {
            let contacts = core.contacts();
            all += contacts.len();
            stale += contacts.iter().filter(|contact| !self.is_living(**contact)).count();
        }
        (all > 0).then(|| stale as f64 / all as f64)
    }

    /// All cores stop upkeep.
    pub fn freeze(&mut self) {
        for index in 0..self.nodes.len() {
            if let Some(core) = &mut self.nodes[index].core {
                core.freeze();
                self.plan_timeout(index);
            }
        }
    }
}

fn small(index: usize) -> u32 {
    u32::try_from(index).expect("at most 2^31 nodes")
}

/// Contacts in the order of their identifiers.
pub(crate) fn ring(contacts: impl Iterator<Item = SimulatedContact>) -> Vec<(Id, SimulatedContact)> {
    let mut ring: Vec<_> = contacts.map(|contact| (atoll_overlay::Contact::id(&contact), contact)).collect();
    ring.sort_unstable();
    ring
}
