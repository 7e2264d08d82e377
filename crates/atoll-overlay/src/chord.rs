//! Chord: a ring of identifiers on which each key belongs to the first node at or after it.
//!
//! Stoica, Morris, Liben-Nowell, Karger, Kaashoek, Dabek, Balakrishnan: *Chord: a scalable
//! peer-to-peer lookup protocol for internet applications*, IEEE/ACM ToN 11(1), 2003; "ToN
//! 2003" beside the code. Words are the paper's.
//!
//! ```text
//! join       ask any node for one's own successor; then stabilize
//! upkeep     each period: stabilize with the successor (which answers with its predecessor
//!            and list, and is notified), check_predecessor, and fix one finger
//! locate     iterative: this node asks each node of the path by itself
//!            recursive: each asks the next, and the answer comes back the same way
//! leave      tell the two neighbours about each other
//! failure    whoever does not answer is forgotten; the successor list closes the gap
//! ```
//!
//! - `tables`: whom a node knows. `search`: whom a lookup asks next. Both are pure sums.
//! - `lookup`: questions under way, their deadlines and answers.
//! - `upkeep`: what keeps the tables right.
//!
//! What a message claims about others is hearsay: it fills places in bounded tables, never
//! more of them, and who does not answer loses its place again. A lookup asks the node that the
//! key is said to belong to whether it does; who is sent astray before that is lost, and the
//! lab's experiment `lie` shows how often. Identifiers are hashes of keys, so nobody chooses its
//! place.

mod lookup;
mod message;
mod search;
mod tables;
#[cfg(test)]
mod tests;
mod upkeep;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use atoll_types::Instant;
use rand::RngCore;

pub use self::message::ChordMessage;
use self::{
    lookup::{Call, Lookup, Purpose},
    search::Search,
    tables::{SUCCESSORS_MAX, Tables},
};
use crate::{
    Contact, Id, LocateError, Located, LookupError, LookupId, Notification, Out, Overlay, Row, Table,
};

/// Lookups of its own that a node has under way. At 40 s for the slowest (20 steps of which
/// each fails once) that is still 6 new ones a second in the worst of times.
const LOOKUPS_MAX: usize = 256;
/// Recursive lookups of others that a node has under way; more are declined, and go round it.
const RELAYS_MAX: usize = 256;
/// Contacts kept for joining anew when all others are gone.
const KNOWN_MAX: usize = 8;

type ChordOut<C> = Out<C, ChordMessage<C>>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LookupStyle {
    /// The asker contacts every node on the path. It sees each failure and cannot be led
    /// astray in silence; each step costs a round trip from the asker.
    Iterative,
    /// Nodes pass the question on, and the answer comes back the same way: as many trips as
    /// iterative, but each node speaks only with contacts of its own, to which it is connected
    /// anyway. A node that fails after it took the question on costs a long wait.
    Recursive,
}

/// How a node plays Chord. All nodes of one overlay should agree.
#[derive(Debug, Clone)]
pub struct ChordConfig {
    /// r, the length of the successor list: the ring holds together while no r neighbours fail
    /// at once. 20 (the default) is the paper's 2·log₂N for a thousand nodes, and at half of
    /// all nodes failing at once leaves one in a million without a successor. At most 64.
    pub successors: usize,
    /// Whether routing also uses the successor list (IV-E.3), not only fingers (figure 5). On by
    /// default: ½·log₂r − 1 hops less. Off is for comparing with the paper's figures.
    pub route_by_successors: bool,
    /// Iterative by default, as in the paper's simulations.
    pub style: LookupStyle,
    /// How long to wait for an answer before asking again: 1 s by default, which is more than
    /// almost any round trip on the internet. Too low shows as time-outs of nodes that live.
    pub answer_timeout: Duration,
    /// How often to ask before somebody counts as dead: 2 by default, so that one lost message
    /// does not cost a contact.
    pub attempts: u8,
    /// How often, on average, to stabilise and to fix one finger: 30 s by default, the paper's
    /// (V-E). A gap in the ring lasts about that long; lower it if nodes stay for minutes only.
    pub upkeep_every: Duration,
}

impl Default for ChordConfig {
    fn default() -> Self {
        Self {
            successors: 20,
            route_by_successors: true,
            style: LookupStyle::Iterative,
            answer_timeout: Duration::from_secs(1),
            attempts: 2,
            upkeep_every: Duration::from_secs(30),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Outside,
    Joining,
    Member,
}

/// One node's side of Chord.
#[derive(Debug, Clone)]
pub struct Chord<C> {
    config: Arc<ChordConfig>,
    phase: Phase,
    tables: Tables<C>,
    /// Whom this node may join through; at most `KNOWN_MAX`.
    known: Vec<C>,
    /// At most `LOOKUPS_MAX` and `RELAYS_MAX`, and one each for joining,
    /// its place and a finger.
    lookups: Vec<Lookup<C>>,
    /// At most one for each lookup, one for `stabilize` and one for `check_predecessor`.
    calls: Vec<Call<C>>,
    /// The number of the last call and of the last lookup.
    numbered: u32,
    upkeep_at: Instant,
    /// The finger that is fixed next (the paper's `next`).
    finger_next: u8,
    /// Whether each finger was looked up since this node joined. Until then they are looked up
    /// one after the other, not one a period.
    fingers_filled: bool,
    /// Of `STABILIZE_STEPS_MAX`, set anew each period.
    steps_left: u8,
    frozen: bool,
}

impl<C: Contact> Chord<C> {
    /// A node outside of any ring.
    pub fn new(me: C, config: Arc<ChordConfig>) -> Self {
        assert!(
            (1..=SUCCESSORS_MAX).contains(&config.successors),
            "a successor list has 1 to {SUCCESSORS_MAX}"
        );
        Self {
            config,
            phase: Phase::Outside,
            tables: Tables::new(me),
            known: Vec::new(),
            lookups: Vec::new(),
            calls: Vec::new(),
            numbered: 0,
            upkeep_at: Instant::ORIGIN,
            finger_next: 0,
            fingers_filled: false,
            steps_left: upkeep::STABILIZE_STEPS_MAX,
            frozen: false,
        }
    }

    /// A node of a network that has come to rest: what joining and upkeep lead to when nobody
    /// comes or goes. It begins at `Instant::ORIGIN`. `ring` is sorted by id, has `me` in it, and no id twice.
    pub fn converged(me: C, config: Arc<ChordConfig>, ring: &[(Id, C)]) -> Self {
        let mut node = Self::new(me, config);
        node.tables = Tables::converged(node.tables.me.clone(), ring, node.config.successors);
        node.phase = Phase::Member;
        node.fingers_filled = true;
        // Somewhere in the first period, so that the network's nodes do not go on together.
        let [a, b, c, d, ..] = <[u8; 32]>::from(node.tables.me.id());
        let part = f64::from(u32::from_be_bytes([a, b, c, d])) / f64::from(u32::MAX);
        node.upkeep_at = Instant::ORIGIN + node.config.upkeep_every.mul_f64(part);
        node
    }

    pub fn predecessor(&self) -> Option<&C> {
        self.tables.predecessor.as_ref()
    }

    /// Nearest first.
    pub fn successors(&self) -> &[C] {
        &self.tables.successors
    }

    /// Farthest first: entry k is the successor of this node + 2^(255 − k). The end, where it is
    /// the node's own successor, is left out.
    pub fn fingers(&self) -> &[Option<C>] {
        &self.tables.fingers
    }

    /// Takes who does not answer out of all tables.
    fn forget(&mut self, contact: &C) {
        if !self.frozen {
            self.tables.forget(contact);
        }
    }

    fn goodbye(&mut self, from: &C, predecessor: Option<C>, successors: Vec<C>) {
        let was_predecessor = self.tables.predecessor.as_ref() == Some(from);
        let was_successor = self.tables.successors.contains(from);
        self.tables.forget(from);
        // Only into the gap that the leaver leaves.
        if let Some(other) = predecessor.filter(|_| was_predecessor)
            && other.id().is_between(self.tables.me.id(), from.id())
        {
            self.tables.set_predecessor(other);
        }
        if was_successor {
            let mut list = std::mem::take(&mut self.tables.successors);
            list.extend(successors.into_iter().take(message::CONTACTS_PER_MESSAGE_MAX));
            self.tables.set_successors(list, self.config.successors);
        }
    }
}

impl<C: Contact> Overlay for Chord<C> {
    type Contact = C;
    type Message = ChordMessage<C>;

    fn contact(&self) -> &C {
        &self.tables.me
    }

    fn join(&mut self, now: Instant, rng: &mut dyn RngCore, known: &[C], out: &mut ChordOut<C>) {
        if self.phase != Phase::Outside {
            return;
        }
        self.known =
            known.iter().filter(|contact| **contact != self.tables.me).take(KNOWN_MAX).cloned().collect();
        self.plan_upkeep(now, rng);
        if self.known.is_empty() {
            // `create` (figure 6).
            self.phase = Phase::Member;
            out.notify(Notification::Joined);
        } else {
            self.phase = Phase::Joining;
            self.look_for_my_place(now, out);
        }
    }

    /// ToN 2003, IV-E.4: the neighbours are told of each other.
    fn leave(&mut self, _now: Instant, out: &mut ChordOut<C>) {
        if self.phase == Phase::Member {
            let predecessor = self.tables.predecessor.clone();
            let successors = self.tables.successors.clone();
            let mut told: Vec<C> = predecessor.iter().chain(successors.first()).cloned().collect();
            told.dedup();
            for neighbour in told {
                let (predecessor, successors) = (predecessor.clone(), successors.clone());
                out.send(neighbour, ChordMessage::Leaving { predecessor, successors });
            }
        }
        for lookup in std::mem::take(&mut self.lookups) {
            self.finish(lookup, Err(LookupError::Left), out);
        }
        self.phase = Phase::Outside;
        self.calls = Vec::new();
        let neighbourhood = self.tables.neighbourhood.wrapping_add(1);
        self.tables = Tables { neighbourhood, ..Tables::new(self.tables.me.clone()) };
        self.finger_next = 0;
        self.fingers_filled = false;
    }

    fn locate(
        &mut self,
        now: Instant,
        _rng: &mut dyn RngCore,
        key: Id,
        out: &mut ChordOut<C>,
    ) -> Result<LookupId, LocateError> {
        if self.phase != Phase::Member {
            return Err(LocateError::NotJoined);
        }
        let mine = self.lookups.iter().filter(|lookup| lookup.purpose == Purpose::Caller).count();
        if mine >= LOOKUPS_MAX {
            return Err(LocateError::TooManyLookups { limit: LOOKUPS_MAX });
        }
        let recursive = self.config.style == LookupStyle::Recursive;
        let search = self.search(key);
        Ok(LookupId(self.start(now, search, Purpose::Caller, recursive, out)))
    }

    fn responsible(&self, key: Id, count: usize) -> Vec<C> {
        self.tables.responsible(key, count)
    }

    fn neighbourhood(&self) -> u32 {
        self.tables.neighbourhood
    }

    /// Asks one of them for this node's own successor, as it asks its farthest finger each time
    /// round the finger table.
    fn meet(&mut self, now: Instant, _rng: &mut dyn RngCore, others: &[C], out: &mut ChordOut<C>) {
        if self.phase == Phase::Member {
            let others = others.iter().filter(|other| **other != self.tables.me).take(KNOWN_MAX);
            self.look_for_my_place_through(now, others.cloned().collect(), out);
        }
    }

    fn tables(&self) -> Vec<Table<C>> {
        let row = |place: String, contact: &C| Row { place, contact: contact.clone() };
        let predecessor = self.tables.predecessor.iter();
        let successors = self.tables.successors.iter().enumerate();
        let fingers = self.tables.fingers.iter().enumerate();
        let fingers = fingers.filter_map(|(k, finger)| Some((Id::BITS - 1 - k, finger.as_ref()?)));
        let tables = [
            ("predecessor", predecessor.map(|contact| row(String::new(), contact)).collect()),
            ("successors", successors.map(|(k, contact)| row(format!("{}", k + 1), contact)).collect()),
            ("fingers", fingers.map(|(power, contact)| row(format!("+2^{power}"), contact)).collect()),
        ];
        tables.into_iter().map(|(name, rows)| Table { name, rows }).collect()
    }

    fn handle_message(
        &mut self,
        now: Instant,
        _rng: &mut dyn RngCore,
        from: C,
        message: ChordMessage<C>,
        out: &mut ChordOut<C>,
    ) {
        if self.phase == Phase::Outside || from == self.tables.me {
            return;
        }
        let by_successors = self.config.route_by_successors;
        let tables = &mut self.tables;
        match message {
            // While it joins, a node knows nothing that it could tell.
            ChordMessage::Find { .. }
            | ChordMessage::Claim { .. }
            | ChordMessage::Relay { .. }
            | ChordMessage::GetNeighbours { .. }
            | ChordMessage::Notify
                if self.phase == Phase::Joining => {}
            ChordMessage::Find { request, key } => {
                let preceding = tables.closest_preceding(key, by_successors, tables::PRECEDING_MAX);
                let successors = tables.successors_of(key, by_successors);
                out.send(from, ChordMessage::Closer { request, preceding, successors });
            }
            ChordMessage::Claim { request, key } => {
                out.send(from, ChordMessage::Claimed { request, nearer: tables.nearer(key) });
            }
            ChordMessage::Relay { request, key, hops_left } => {
                self.relay(now, from, request, key, hops_left, out);
            }
            ChordMessage::GetNeighbours { request } => {
                let (predecessor, successors) = (tables.predecessor.clone(), tables.successors.clone());
                out.send(from, ChordMessage::Neighbours { request, predecessor, successors });
            }
            ChordMessage::Notify => self.notified(now, from, out),
            ChordMessage::Ping { request } => out.send(from, ChordMessage::Pong { request }),
            ChordMessage::Leaving { predecessor, successors } => self.goodbye(&from, predecessor, successors),
            answer => self.handle_answer(now, from, answer, out),
        }
    }

    fn handle_timeout(&mut self, now: Instant, rng: &mut dyn RngCore, out: &mut ChordOut<C>) {
        self.handle_deadlines(now, out);
        if self.phase != Phase::Outside && !self.frozen && self.upkeep_at <= now {
            self.plan_upkeep(now, rng);
            self.upkeep(now, out);
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
        let Tables { predecessor, successors, fingers, .. } = &self.tables;
        let all = predecessor.iter().chain(successors).chain(fingers.iter().flatten());
        all.collect::<BTreeSet<_>>().into_iter().cloned().collect()
    }

    fn state_bytes(&self) -> usize {
        size_of::<Self>()
            + self.tables.heap_bytes()
            + self.known.capacity() * size_of::<C>()
            + self.calls.capacity() * size_of::<Call<C>>()
            + self.lookups.capacity() * size_of::<Lookup<C>>()
            + self.lookups.iter().map(|lookup| lookup.search.heap_bytes()).sum::<usize>()
    }
}
