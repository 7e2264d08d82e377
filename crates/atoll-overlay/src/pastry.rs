//! Pastry: identifiers are read digit by digit, and each key belongs to the numerically nearest
//! node.
//!
//! Rowstron, Druschel: *Pastry: scalable, decentralized object location and routing for
//! large-scale peer-to-peer systems*, Middleware 2001; sections beside the code are its own,
//! and so are the words.
//!
//! ```text
//! join       step by step to one's own place, taking a row of the table from each node on the
//!            way and the leaf set from the last; then tell all of them
//! locate     pass the question on to somebody who has one digit more in common with the key,
//!            near its end to the numerically nearest leaf; the answer comes back the same way
//! upkeep     each period: ask the leaves next to this node for theirs; now and then compare a
//!            row with somebody's, and prefer who is nearer by round trip
//! failure    a leaf's place is filled from the other leaves', a row's from the same row of others
//! ```
//!
//! - `tables`: whom a node knows, and whom it passes a lookup on to. Pure sums.
//! - `lookup`: questions under way, their deadlines and answers.
//! - `upkeep`: what keeps the tables right.
//!
//! Whoever is named by others is hearsay until it answered, and the answer's time is how far it
//! is. Lookups are passed on, so a node on the way that lies is believed; identifiers are
//! hashes of keys, so at least nobody chooses its place.

mod lookup;
mod message;
mod tables;
#[cfg(test)]
mod tests;
mod upkeep;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use atoll_types::Instant;
use rand::{RngCore, SeedableRng, rngs::StdRng};

pub use self::message::PastryMessage;
use self::{
    lookup::{Call, Lookup},
    message::CONTACTS_PER_MESSAGE_MAX,
    tables::{FAR, NEXT_MAX, Tables},
};
use crate::{
    Contact, Id, LocateError, Located, LookupError, LookupId, Notification, Out, Overlay, Row, Step, Table,
};

/// Lookups of its own that a node has under way. At 40 s for the slowest that is still 6 new
/// ones a second in the worst of times.
const LOOKUPS_MAX: usize = 256;
/// Lookups of others that a node has under way; more are declined, and go round it.
const RELAYS_MAX: usize = 256;
/// Contacts kept for joining anew when all others are gone.
const KNOWN_MAX: usize = 8;
/// Nodes drawn for each place of a table that is set up; the nearest gets it. About what a node
/// compares in an hour.
const SAMPLES: usize = 16;

type PastryOut<C> = Out<C, PastryMessage<C>>;

/// How a node plays Pastry. All nodes of one overlay should agree on `bits_per_digit`.
#[derive(Debug, Clone)]
pub struct PastryConfig {
    /// b: 1, 2 or 4 bits make a digit. 4 by default, the paper's. Fewer is a smaller table, and
    /// more hops: ⌈log₂ᵇN⌉.
    pub bits_per_digit: usize,
    /// |L|: half of them before, half of them behind this node. 16 by default, the paper's: a
    /// lookup is delivered unless half of these fail at once. 2 to 32, even.
    pub leaves: usize,
    /// |M|: the nearest nodes by round trip, named to those who join nearby. 16 by default.
    pub neighbours: usize,
    /// How long to wait for an answer before asking again: 1 s by default, which is more than
    /// almost any round trip on the internet. Too low shows as time-outs of nodes that live.
    pub answer_timeout: Duration,
    /// How often to ask before somebody counts as dead: 2 by default, so that one lost message
    /// does not cost a contact.
    pub attempts: u8,
    /// How often, on average, the two nearest leaves are asked for their leaf sets: 30 s by
    /// default. A gap among the leaves lasts about that long; lower it if nodes stay for
    /// minutes only.
    pub upkeep_every: Duration,
}

impl Default for PastryConfig {
    fn default() -> Self {
        Self {
            bits_per_digit: 4,
            leaves: 16,
            neighbours: 16,
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

/// One node's side of Pastry.
#[derive(Debug, Clone)]
pub struct Pastry<C> {
    config: Arc<PastryConfig>,
    phase: Phase,
    frozen: bool,
    tables: Tables<C>,
    /// Whom this node may join through; at most `KNOWN_MAX`.
    known: Vec<C>,
    /// At most `LOOKUPS_MAX` and `RELAYS_MAX`.
    lookups: Vec<Lookup<C>>,
    /// At most one for each lookup, one to ask the way, one for each leaf, one for a row each
    /// period, and probes.
    calls: Vec<Call<C>>,
    /// The number of the last call or lookup.
    numbered: u32,
    upkeep_at: Instant,
    periods: u8,
    /// Whom to ask next on the way to this node's own place; at most twice `NEXT_MAX`.
    way: Vec<C>,
    steps_left: u8,
    /// Named by others, not asked yet.
    to_probe: VecDeque<C>,
    /// Tell all contacts of this node, as soon as nobody is left to be asked.
    is_to_announce: bool,
    /// A row with a hole.
    repair_row: Option<usize>,
}

impl<C: Contact> Pastry<C> {
    /// A node outside of any network.
    pub fn new(me: C, config: Arc<PastryConfig>) -> Self {
        assert!(matches!(config.bits_per_digit, 1 | 2 | 4), "a digit has 1, 2 or 4 bits");
        assert!(
            matches!(config.leaves, 2..=32) && config.leaves.is_multiple_of(2),
            "a leaf set has 2 to 32, even"
        );
        assert!(config.neighbours <= 32, "a neighbourhood set has at most 32");
        let tables = Tables::new(me, config.bits_per_digit, config.leaves / 2, config.neighbours);
        Self {
            config,
            phase: Phase::Outside,
            frozen: false,
            tables,
            known: Vec::new(),
            lookups: Vec::new(),
            calls: Vec::new(),
            numbered: 0,
            upkeep_at: Instant::ORIGIN,
            periods: 0,
            way: Vec::new(),
            steps_left: 0,
            to_probe: VecDeque::new(),
            is_to_announce: false,
            repair_row: None,
        }
    }

    /// A node of a network that has come to rest; it begins at `Instant::ORIGIN`. Of several
    /// nodes that were drawn for a place of the table the nearest has it, by `round_trip`.
    /// `ring` is sorted by id, has `me` in it, and no id twice.
    pub fn converged(
        me: C,
        config: Arc<PastryConfig>,
        ring: &[(Id, C)],
        round_trip: impl Fn(&C) -> Duration,
    ) -> Self {
        let mut node = Self::new(me, config);
        // By the node's id alone: the same for the same network, whoever is made first.
        let mut rng = StdRng::from_seed(node.tables.me.id().into());
        node.plan_upkeep(Instant::ORIGIN, &mut rng);
        let draw = |below: usize| rand::Rng::random_range(&mut rng, 0..below);
        let micros = |contact: &C| u32::try_from(round_trip(contact).as_micros()).unwrap_or(FAR - 1);
        node.tables.set_converged(ring, SAMPLES, draw, micros);
        node.phase = Phase::Member;
        node
    }

    /// How far a node is from a key: the least is responsible for it. The shorter way round the
    /// ring; of two at the same distance the smaller identifier is nearer.
    pub fn distance(key: Id, node: Id) -> impl Ord {
        tables::distance(key, node)
    }

    /// The leaf set's halves, each with the nearest first: before this node on the ring, and
    /// behind it.
    pub fn leaf_set(&self) -> [&[C]; 2] {
        [&self.tables.smaller, &self.tables.larger]
    }

    /// Rows of the routing table, from the one of no digit in common on.
    pub fn rows(&self) -> impl Iterator<Item = Vec<&C>> {
        (0..self.tables.rows()).map(|row| self.tables.row(row).collect())
    }
}

impl<C: Contact> Overlay for Pastry<C> {
    type Contact = C;
    type Message = PastryMessage<C>;

    fn contact(&self) -> &C {
        &self.tables.me
    }

    fn join(&mut self, now: Instant, rng: &mut dyn RngCore, known: &[C], out: &mut PastryOut<C>) {
        if self.phase != Phase::Outside {
            return;
        }
        self.known =
            known.iter().filter(|contact| **contact != self.tables.me).take(KNOWN_MAX).cloned().collect();
        self.plan_upkeep(now, rng);
        if self.known.is_empty() {
            self.phase = Phase::Member;
            out.notify(Notification::Joined);
        } else {
            self.phase = Phase::Joining;
            self.look_for_my_place(now, self.known.clone(), out);
        }
    }

    fn leave(&mut self, _now: Instant, out: &mut PastryOut<C>) {
        // Not in the paper, where nodes vanish. It saves a time-out each.
        for contact in self.tables.everybody() {
            out.send(contact.clone(), PastryMessage::Leaving);
        }
        for lookup in std::mem::take(&mut self.lookups) {
            self.finish(lookup, Err(LookupError::Left), out);
        }
        let (me, config) = (self.tables.me.clone(), self.config.clone());
        *self = Self { numbered: self.numbered, frozen: self.frozen, ..Self::new(me, config) };
    }

    fn locate(
        &mut self,
        now: Instant,
        _rng: &mut dyn RngCore,
        key: Id,
        out: &mut PastryOut<C>,
    ) -> Result<LookupId, LocateError> {
        if self.phase != Phase::Member {
            return Err(LocateError::NotJoined);
        }
        let mine = self.lookups.iter().filter(|lookup| lookup.asker.is_none()).count();
        if mine >= LOOKUPS_MAX {
            return Err(LocateError::TooManyLookups { limit: LOOKUPS_MAX });
        }
        Ok(LookupId(self.start(now, key, out)))
    }

    fn responsible(&self, key: Id, count: usize) -> Vec<C> {
        self.tables.responsible(key, count)
    }

    fn neighbourhood(&self) -> u32 {
        self.tables.neighbourhood
    }

    /// Goes to its own place through them, and tells those whom it met there of itself.
    fn meet(&mut self, now: Instant, _rng: &mut dyn RngCore, others: &[C], out: &mut PastryOut<C>) {
        let me = &self.tables.me;
        let others: Vec<C> = others.iter().filter(|other| *other != me).take(KNOWN_MAX).cloned().collect();
        if self.phase == Phase::Member && !others.is_empty() && self.way.is_empty() {
            self.look_for_my_place(now, others, out);
        }
    }

    fn tables(&self) -> Vec<Table<C>> {
        let row = |place: String, contact: &C| Row { place, contact: contact.clone() };
        let smaller = self.tables.smaller.iter().enumerate().rev();
        let larger = self.tables.larger.iter().enumerate();
        let leaves = smaller
            .map(|(index, contact)| row(format!("-{}", index + 1), contact))
            .chain(larger.map(|(index, contact)| row(format!("+{}", index + 1), contact)));
        let entries = self.rows().enumerate().flat_map(|(index, entries)| {
            entries.into_iter().map(move |contact| row(format!("{index}"), contact)).collect::<Vec<_>>()
        });
        let neighbours = self.tables.neighbours().map(|contact| row(String::new(), contact));
        vec![
            Table { name: "leaf set", rows: leaves.collect() },
            Table { name: "routing table", rows: entries.collect() },
            Table { name: "neighbourhood set", rows: neighbours.collect() },
        ]
    }

    fn handle_message(
        &mut self,
        now: Instant,
        _rng: &mut dyn RngCore,
        from: C,
        message: PastryMessage<C>,
        out: &mut PastryOut<C>,
    ) {
        if self.phase == Phase::Outside || from == self.tables.me {
            return;
        }
        match message {
            PastryMessage::Ping { request } => out.send(from, PastryMessage::Pong { request }),
            // While it joins, a node knows nothing that it could tell.
            PastryMessage::Relay { .. }
            | PastryMessage::Ask { .. }
            | PastryMessage::GetLeaves { .. }
            | PastryMessage::GetRow { .. }
                if self.phase == Phase::Joining => {}
            PastryMessage::Relay { request, key, hops_left } => {
                self.heard(&from, FAR);
                self.relay(now, from, request, key, hops_left, out);
            }
            // Whoever asks this is no member yet.
            PastryMessage::Ask { request, key } => out.send(from.clone(), self.state(&from, request, key)),
            PastryMessage::GetLeaves { request } => {
                self.heard(&from, FAR);
                let contacts = self.tables.leaves().cloned().collect();
                out.send(from, PastryMessage::Leaves { request, contacts });
            }
            PastryMessage::GetRow { request, row } => {
                self.heard(&from, FAR);
                let contacts = self.tables.row(row.into()).cloned().collect();
                out.send(from, PastryMessage::Row { request, contacts });
            }
            PastryMessage::Hello => {
                self.heard(&from, FAR);
                self.named(now, vec![from], true, out);
            }
            PastryMessage::Leaving => self.forget(now, &from, out),
            answer => self.handle_answer(now, from, answer, out),
        }
    }

    fn handle_timeout(&mut self, now: Instant, rng: &mut dyn RngCore, out: &mut PastryOut<C>) {
        self.handle_deadlines(now, out);
        if self.phase != Phase::Outside && !self.frozen && self.upkeep_at <= now {
            self.plan_upkeep(now, rng);
            self.upkeep(now, rng, out);
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
        self.tables.everybody().into_iter().cloned().collect()
    }

    fn state_bytes(&self) -> usize {
        size_of::<Self>()
            + self.tables.heap_bytes()
            + (self.known.capacity() + self.way.capacity() + self.to_probe.capacity()) * size_of::<C>()
            + self.calls.capacity() * size_of::<Call<C>>()
            + self.lookups.capacity() * size_of::<Lookup<C>>()
            + self.lookups.iter().map(Lookup::heap_bytes).sum::<usize>()
    }
}

impl<C: Contact> Pastry<C> {
    /// What somebody on the way to its own place can use.
    fn state(&self, from: &C, request: u32, key: Id) -> PastryMessage<C> {
        let shared = self.tables.me.id().xor(key).leading_zeros() / self.config.bits_per_digit;
        // The last rows first: they are the ones that few have.
        let rows = (0..=shared.min(self.tables.rows())).rev().flat_map(|row| self.tables.row(row));
        PastryMessage::State {
            request,
            next: self.tables.next(key, |contact| contact == from),
            rows: rows.take(CONTACTS_PER_MESSAGE_MAX).cloned().collect(),
            leaves: self.tables.leaves().cloned().collect(),
            neighbours: self.tables.neighbours().cloned().collect(),
        }
    }
}
