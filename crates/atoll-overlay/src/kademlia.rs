//! Kademlia: a tree of identifiers in which each key belongs to the nodes nearest to it by XOR.
//!
//! Maymounkov, Mazières: *Kademlia: a peer-to-peer information system based on the XOR metric*,
//! IPTPS 2002 (sections are of its long version); disjoint paths as in Baumgart, Mies:
//! *S/Kademlia: a practicable approach towards secure key-based routing*, ICPADS 2007.
//!
//! ```text
//! join       look one's own id up through any node, then something in each bucket's range
//! locate     ask the nearest known nodes for nearer ones, α at once, until the k nearest of
//!            all that were named have answered
//! upkeep     every message is a sighting; a bucket whose range nobody looked up is refreshed
//! failure    whoever does not answer twice loses its place to one that waits for it
//! ```
//!
//! - `tables`: whom a node knows. `search`: whom a lookup asks next. Both are pure sums.
//! - `lookup`: questions under way, their deadlines and answers.
//! - `upkeep`: what keeps the tables right.
//!
//! Against hostile nodes: who is named by others is hearsay, and gets into no table before it
//! has spoken for itself; who has been there for long is not displaced by who came later, so
//! that a crowd of new identities gets only the places that are free; a lookup ends with nodes
//! that answered, on `disjoint_paths` of which a liar spoils one. An answer names at most k
//! contacts, so a question makes nobody send more than some twenty times its size, and that only
//! to whom the driver vouches for.

mod lookup;
mod message;
mod search;
mod tables;
#[cfg(test)]
mod tests;
mod upkeep;

use std::{sync::Arc, time::Duration};

use atoll_types::Instant;
use rand::{RngCore, SeedableRng, rngs::StdRng};

pub use self::message::KademliaMessage;
use self::{
    lookup::{Call, Lookup, Purpose},
    tables::{K_MAX, Tables},
};
use crate::{
    Contact, Id, LocateError, Located, LookupError, LookupId, Notification, Out, Overlay, Row, Table,
};

/// Lookups of its own that a node has under way. Each asks some forty nodes in a few round
/// trips: at 2 s that is 64 new ones a second.
const LOOKUPS_MAX: usize = 128;
/// The most that may be set: S/Kademlia found no use in more than 8.
const PATHS_MAX: usize = 16;
/// Contacts kept for joining anew when all others are gone.
const KNOWN_MAX: usize = 8;

type KademliaOut<C> = Out<C, KademliaMessage<C>>;

/// How a node plays Kademlia. All nodes of one overlay should agree on `k`; the rest is each
/// node's own.
#[derive(Debug, Clone)]
pub struct KademliaConfig {
    /// k: contacts in a bucket, and nodes that are responsible for a key. 20 by default, the
    /// paper's: so many that they hardly all fail within an hour. At most 64.
    pub k: usize,
    /// α: questions of one lookup under way at once. 3 by default, the paper's. More is quicker
    /// where many contacts are dead, and costs messages.
    pub alpha: usize,
    /// b: bits of the key that each step settles (section 4.2): 1, 2 or 4. 1 by default, a
    /// bucket for each bit. More is fewer hops, and (2^b − 1)/b times as many contacts.
    pub bits_per_step: usize,
    /// d of S/Kademlia: lookups go on so many paths that have no node in common. 1 by default.
    /// 8 where a fifth of the nodes may lie; each costs a few messages. At most 16.
    pub disjoint_paths: usize,
    /// How long to wait for an answer before asking again: 1 s by default, which is more than
    /// almost any round trip on the internet. Meanwhile others are asked, so too high costs
    /// little, too low shows as time-outs of nodes that live.
    pub answer_timeout: Duration,
    /// How often to ask before a question counts as unanswered: 2 by default, so that one lost
    /// message does not cost a contact.
    pub attempts: u8,
    /// A bucket in whose range nobody was looked up for so long, on average, is refreshed by
    /// looking up something there: 15 min by default, as in BitTorrent's DHT (BEP 5); the paper
    /// has an hour. Where nodes stay for minutes only, lower it: dead contacts and missing ones
    /// stay about that long.
    pub refresh_every: Duration,
    /// Contacts in all buckets together: no limit but theirs by default. When it is reached a
    /// newcomer waits, as for a place in a full bucket.
    pub contacts_max: usize,
    /// Contacts that a lookup begins with if k is smaller: none more than k by default. With a small
    /// k the nearest may all be dead at once, and then it goes on with the next.
    pub seeds_min: usize,
    /// Whether a node that joins looks something up in each bucket's range at once, as section 2.3
    /// says: it does by default. Otherwise they are looked up in the first period, which costs a
    /// newcomer a tenth of the messages, and leaves it with what it met on the way until then.
    pub refreshes_at_join: bool,
}

impl Default for KademliaConfig {
    fn default() -> Self {
        Self {
            k: 20,
            alpha: 3,
            bits_per_step: 1,
            disjoint_paths: 1,
            answer_timeout: Duration::from_secs(1),
            attempts: 2,
            refresh_every: Duration::from_secs(15 * 60),
            contacts_max: usize::MAX,
            seeds_min: 0,
            refreshes_at_join: true,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Outside,
    Joining,
    Member,
}

/// One node's side of Kademlia.
#[derive(Debug, Clone)]
pub struct Kademlia<C> {
    config: Arc<KademliaConfig>,
    phase: Phase,
    frozen: bool,
    tables: Tables<C>,
    /// Whom this node may join through; at most `KNOWN_MAX`.
    known: Vec<C>,
    /// At most `LOOKUPS_MAX`, and one each of this node's place and a bucket.
    lookups: Vec<Lookup<C>>,
    /// At most k for each path of each lookup, and those that are asked again; probes, at most
    /// one for each contact.
    calls: Vec<Call<C>>,
    /// The number of the last call or lookup.
    numbered: u32,
    /// When this node looks itself up next: to join, or to know its neighbours.
    place_at: Instant,
    /// Somebody's last message.
    heard_at: Instant,
    /// No probe before.
    probe_after: Instant,
}

impl<C: Contact> Kademlia<C> {
    /// A node outside of any network.
    pub fn new(me: C, config: Arc<KademliaConfig>) -> Self {
        assert!((1..=K_MAX).contains(&config.k), "a bucket has 1 to {K_MAX}");
        assert!((1..=config.k).contains(&config.alpha), "1 to k questions are under way");
        assert!(matches!(config.bits_per_step, 1 | 2 | 4), "a step settles 1, 2 or 4 bits");
        assert!((1..=PATHS_MAX).contains(&config.disjoint_paths), "a lookup has 1 to {PATHS_MAX} paths");
        let tables = Tables::new(me, config.k, config.bits_per_step, config.contacts_max);
        Self {
            config,
            phase: Phase::Outside,
            frozen: false,
            tables,
            known: Vec::new(),
            lookups: Vec::new(),
            calls: Vec::new(),
            numbered: 0,
            place_at: Instant::ORIGIN,
            heard_at: Instant::ORIGIN,
            probe_after: Instant::ORIGIN,
        }
    }

    /// A node of a network that has come to rest: each bucket has k nodes of its range, or all
    /// that there are, as joining and refreshing would have found them. It begins at
    /// `Instant::ORIGIN`. `ring` is sorted by id, has `me` in it, and no id twice.
    pub fn converged(me: C, config: Arc<KademliaConfig>, ring: &[(Id, C)]) -> Self {
        let mut node = Self::new(me, config);
        // By the node's id alone: the same for the same network, whoever is made first.
        let mut rng = StdRng::from_seed(node.tables.me.id().into());
        let first_at = node.next_refresh(Instant::ORIGIN, &mut rng);
        let draw = |below: usize| rand::Rng::random_range(&mut rng, 0..below);
        node.tables.converge(ring, draw, first_at);
        node.phase = Phase::Member;
        node.place_at = first_at;
        node
    }

    /// Each bucket's contacts, the farthest bucket first; within one the least recently seen
    /// first. With one bit a step, bucket i has the nodes that have the first i bits in common
    /// with this one, and not the next.
    pub fn buckets(&self) -> impl Iterator<Item = &[C]> {
        self.tables.buckets()
    }
}

impl<C: Contact> Overlay for Kademlia<C> {
    type Contact = C;
    type Message = KademliaMessage<C>;

    fn contact(&self) -> &C {
        &self.tables.me
    }

    fn join(&mut self, now: Instant, rng: &mut dyn RngCore, known: &[C], out: &mut KademliaOut<C>) {
        if self.phase != Phase::Outside {
            return;
        }
        self.known =
            known.iter().filter(|contact| **contact != self.tables.me).take(KNOWN_MAX).cloned().collect();
        if self.known.is_empty() {
            self.phase = Phase::Member;
            self.place_at = self.next_refresh(now, rng);
            out.notify(Notification::Joined);
        } else {
            self.phase = Phase::Joining;
            self.place_at = now;
            self.upkeep(now, rng, out);
        }
    }

    fn leave(&mut self, now: Instant, out: &mut KademliaOut<C>) {
        // Those who ask for it most.
        for neighbour in self.tables.closest(self.tables.me.id(), self.config.k, false) {
            out.send(neighbour, KademliaMessage::Leaving);
        }
        self.phase = Phase::Outside;
        for lookup in std::mem::take(&mut self.lookups) {
            self.finish(now, lookup, Some(LookupError::Left), out);
        }
        self.calls = Vec::new();
        let KademliaConfig { k, bits_per_step, contacts_max, .. } = *self.config;
        self.tables = Tables::new(self.tables.me.clone(), k, bits_per_step, contacts_max);
    }

    fn locate(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        key: Id,
        out: &mut KademliaOut<C>,
    ) -> Result<LookupId, LocateError> {
        if self.phase != Phase::Member {
            return Err(LocateError::NotJoined);
        }
        let mine = self.lookups.iter().filter(|lookup| lookup.purpose == Purpose::Caller).count();
        if mine >= LOOKUPS_MAX {
            return Err(LocateError::TooManyLookups { limit: LOOKUPS_MAX });
        }
        let refresh_at = self.next_refresh(now, rng);
        self.tables.touch(key, refresh_at);
        Ok(LookupId(self.start(now, key, Purpose::Caller, out)))
    }

    /// The paper's FIND_VALUE is a FIND_NODE that whoever has the value answers with it.
    fn asks_for(message: &KademliaMessage<C>) -> Option<Id> {
        match message {
            KademliaMessage::FindNode { key, .. } => Some(*key),
            _ => None,
        }
    }

    fn abandon(&mut self, lookup: LookupId) {
        self.drop_lookup(lookup.0);
    }

    fn responsible(&self, key: Id, count: usize) -> Vec<C> {
        self.tables.responsible(key, count)
    }

    fn neighbourhood(&self) -> u32 {
        self.tables.neighbourhood()
    }

    /// Looks itself up through them. Those who are asked learn of this node, and the nearest of
    /// those of whom it learns are its neighbours.
    fn meet(&mut self, now: Instant, _rng: &mut dyn RngCore, others: &[C], out: &mut KademliaOut<C>) {
        let me = self.tables.me.clone();
        let others: Vec<C> = others.iter().filter(|other| **other != me).take(KNOWN_MAX).cloned().collect();
        let is_busy = self.is_looking(|purpose| purpose == Purpose::Place);
        if self.phase == Phase::Member && !others.is_empty() && !is_busy {
            self.start_from(now, others, me.id(), Purpose::Place, out);
        }
    }

    fn tables(&self) -> Vec<Table<C>> {
        let row = |bucket: usize, contact: &C| Row { place: format!("{bucket}"), contact: contact.clone() };
        let buckets = self.buckets().enumerate();
        let rows = buckets.flat_map(|(bucket, contacts)| contacts.iter().map(move |one| row(bucket, one)));
        vec![Table { name: "k-buckets", rows: rows.collect() }]
    }

    fn handle_message(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        from: C,
        message: KademliaMessage<C>,
        out: &mut KademliaOut<C>,
    ) {
        if self.phase == Phase::Outside || from == self.tables.me {
            return;
        }
        if message == KademliaMessage::Leaving {
            let promoted = self.tables.forget(&from);
            return self.probe(now, promoted, out);
        }
        self.seen(now, rng, from.clone(), out);
        match message {
            KademliaMessage::Ping { request } => out.send(from, KademliaMessage::Pong { request }),
            KademliaMessage::FindNode { request, key } => {
                let mut contacts = self.tables.closest(key, self.config.k + 1, false);
                contacts.retain(|contact| *contact != from);
                contacts.truncate(self.config.k);
                out.send(from, KademliaMessage::Nodes { request, contacts });
            }
            KademliaMessage::Pong { request } => self.handle_answer(now, from, request, None, out),
            KademliaMessage::Nodes { request, contacts } => {
                self.handle_answer(now, from, request, Some(contacts), out);
            }
            KademliaMessage::Leaving => {}
        }
    }

    fn handle_timeout(&mut self, now: Instant, rng: &mut dyn RngCore, out: &mut KademliaOut<C>) {
        self.handle_deadlines(now, out);
        if self.phase != Phase::Outside && !self.frozen {
            self.upkeep(now, rng, out);
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.calls.iter().map(|call| call.deadline).chain(self.upkeep_at()).min()
    }

    fn freeze(&mut self) {
        self.frozen = true;
    }

    fn contacts(&self) -> Vec<C> {
        let mut contacts: Vec<C> = self.buckets().flatten().cloned().collect();
        contacts.sort_unstable();
        contacts
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
