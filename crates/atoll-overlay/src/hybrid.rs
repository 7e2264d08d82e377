//! The hybrid: super-peers that know each other, and leaves that are attached to some of them.
//!
//! ```text
//! join       ask anybody for super-peers, attach to the three nearest to one's own id
//! locate     ask one of them whose the key is, then that one: two hops, whatever the size
//! upkeep     leaves tell their super-peers that they are there; each super-peer asks the next one,
//!            tells what changed along a tree of all, and compares tables now and then
//! promote    a super-peer with too many leaves has another one, a stranger to the leaf, ask the
//!            fittest; with too few it becomes a leaf itself
//! failure    when all super-peers are gone, lookups go on by Kademlia, and leaves promote
//!            themselves, the longest there first
//! ```
//!
//! A key belongs to the super-peer nearest to it by XOR, so that there is one distance in all of
//! this, the fallback's too. What is kept under keys, and found by words, is [`Dht`](crate::Dht)'s
//! to say, over this core: each word's postings are kept by three super-peers.
//!
//! Two tiers are KaZaA's, and Gnutella's ultrapeers (Singla, Rohrs, *Ultrapeers: another step towards
//! Gnutella scalability*, 2002); tables of everybody, kept by telling along trees, are D1HT's
//! (Monnerat, Amorim, *D1HT: a distributed one hop hash table*, IPDPS 2006); a DHT besides the
//! centre is BitTorrent's (BEP 5). Why it is so and not otherwise: ADR 12.
//!
//! - `centre`: the table of super-peers. `message`: what is said. Both know nothing of the rest.
//! - `calls`: questions under way. `lookup`: what a lookup asks next. `leaf`: attaching, and what
//!   orphans do. `seat`: what super-peers do. `rest`: networks that have come to rest.
//!
//! Against hostile nodes: a lookup may ask several super-peers and believe what most of them say
//! (`witnesses`); who is reported gone and is not says so with a higher incarnation; only those
//! in the table are believed about others; a leaf becomes a super-peer only if a stranger reaches it.
//! What is not prevented: super-peers that report others that do not exist (each is found out by
//! whoever calls it, one by one), and many identities that behave well until they are promoted.

mod calls;
mod centre;
mod leaf;
mod lookup;
mod message;
mod rest;
mod seat;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use atoll_types::Instant;
use rand::{Rng, RngCore};

use self::{
    calls::{Call, Purpose},
    centre::word_of,
    leaf::{Election, Seek},
    lookup::Lookup,
    message::NAMED_MAX,
    seat::Seat,
};
pub use self::{
    message::{HybridMessage, Report, Standing},
    rest::AtRest,
};
use crate::{
    Contact, Id, Kademlia, KademliaConfig, LocateError, Located, LookupError, LookupId, Notification, Out,
    Overlay, Row, Table,
};

/// Lookups of its own that a node has under way. Each asks two nodes: at 1 s that is 128 a second.
const LOOKUPS_MAX: usize = 128;
/// Contacts kept for joining anew when all others are gone.
const KNOWN_MAX: usize = 8;
/// Super-peers that there should be, whatever the load: as many as keep an entry.
const SUPERS_MIN: usize = 3;
/// What each node keeps of a Kademlia tree, for when no super-peer is left.
const FALLBACK_MAX: usize = 64;

type HybridOut<C> = Out<C, HybridMessage<C>>;

/// How a node plays its part in a hybrid. All nodes of one overlay should agree on all of it but
/// the times.
#[derive(Debug, Clone)]
pub struct HybridConfig {
    /// Super-peers that a leaf is attached to: 3 by default, so that it is on its own only if
    /// three fail within `keep_every`. 1 to 4.
    pub attachments: usize,
    /// A super-peer with more leaves has one of them promoted: 256 by default. With three
    /// attachments each there is about one super-peer to 64 nodes then. Lower is less work for
    /// each of them, and more tables of everybody to keep. At most 1,024.
    pub leaves_high: usize,
    /// A super-peer with fewer leaves for ten minutes becomes a leaf, if there are more than three:
    /// 48 by default. Under a quarter of `leaves_high`, or promotions and demotions chase each
    /// other.
    pub leaves_low: usize,
    /// Super-peers that a lookup asks whose the key is: 1 by default. What most of them say is
    /// believed, so 3 where some may lie; each costs two messages. Not more than `attachments`
    /// are there to be asked.
    pub witnesses: usize,
    /// How long to wait for an answer before asking again: 1 s by default.
    pub answer_timeout: Duration,
    /// How often to ask before a question counts as unanswered: 2 by default.
    pub attempts: u8,
    /// How often, on average, a leaf tells its super-peers that it is there, and hears if others
    /// are nearer: 60 s by default. Lookups find out sooner that a super-peer is gone, and go on with
    /// the next.
    pub keep_every: Duration,
    /// How often a super-peer asks the next one: 10 s by default. A table is wrong about one that
    /// failed for half of that on average, and some `tell_every` more.
    pub upkeep_every: Duration,
    /// What a super-peer has heard is told further after so long, together: 1 s by default.
    pub tell_every: Duration,
    /// How often tables that differ are compared, and others asked for super-peers that are not in
    /// them: 60 s by default. It finds what was lost on the way, and parts that were cut off.
    pub compare_every: Duration,
    /// The fallback: k = 3, so up to 64 contacts, of which each bucket is refreshed once an hour.
    pub kademlia: Arc<KademliaConfig>,
}

impl Default for HybridConfig {
    fn default() -> Self {
        Self {
            attachments: 3,
            leaves_high: 256,
            leaves_low: 48,
            witnesses: 1,
            answer_timeout: Duration::from_secs(1),
            attempts: 2,
            keep_every: Duration::from_secs(60),
            upkeep_every: Duration::from_secs(10),
            tell_every: Duration::from_secs(1),
            compare_every: Duration::from_secs(60),
            // 3 in each of log₂N buckets: 63 with two million nodes.
            kademlia: Arc::new(KademliaConfig {
                k: 3,
                contacts_max: FALLBACK_MAX,
                seeds_min: 16,
                refresh_every: Duration::from_secs(3600),
                refreshes_at_join: false,
                ..KademliaConfig::default()
            }),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Outside,
    Joining,
    Member,
}

#[derive(Debug, Clone)]
enum Role<C> {
    Leaf,
    /// It learns of the others, and is a leaf until it knows them.
    Rising {
        through: C,
        seat: Box<Seat<C>>,
    },
    Super(Box<Seat<C>>),
}

/// A filter of contacts, by a bit of 512 each. Whom it may have and has not only counts as no
/// stranger, and there are more strangers.
#[derive(Debug, Clone, Default)]
struct Spoken([u64; 8]);

impl Spoken {
    fn place<C: Contact>(contact: &C) -> (usize, u64) {
        // Spread by Fibonacci hashing: nine bits of 64.
        let place = word_of(contact.id()).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 55;
        (place as usize / 64, 1 << (place % 64))
    }

    fn add<C: Contact>(&mut self, contact: &C) {
        let (word, bit) = Self::place(contact);
        self.0[word] |= bit;
    }

    fn may_have<C: Contact>(&self, contact: &C) -> bool {
        let (word, bit) = Self::place(contact);
        self.0[word] & bit != 0
    }
}

/// One node's side of a hybrid.
#[derive(Debug, Clone)]
pub struct Hybrid<C> {
    config: Arc<HybridConfig>,
    me: C,
    phase: Phase,
    frozen: bool,
    role: Role<C>,
    /// Since when it has it.
    role_since: Instant,
    kademlia: Kademlia<C>,
    /// Whether it is part of the fallback; none as long as it is not known.
    has_fallback: Option<bool>,
    /// Whom this node may join through; at most `KNOWN_MAX`.
    known: Vec<C>,
    joined_at: Instant,
    /// When it was a super-peer last.
    demoted_at: Option<Instant>,
    /// When it last found that a super-peer had failed.
    failed_at: Option<Instant>,
    /// When the fallback is refreshed once more, after all super-peers were gone.
    refresh_again_at: Option<Instant>,
    /// Who was to invite it to become one, and since when.
    chosen: Option<(C, Instant)>,
    /// Of a leaf: who keeps it as theirs; at most `attachments`, sorted by distance.
    attached: Vec<C>,
    /// Of a leaf: others that were named, sorted by distance; at most `NAMED_MAX`.
    spares: Vec<C>,
    keep_at: Instant,
    /// A leaf without super-peers looks for some.
    seek: Option<Box<Seek<C>>>,
    election: Election,
    is_reached: bool,
    /// Those that it has sent something to, as long as nobody else has reached it.
    spoken_to: Option<Box<Spoken>>,
    /// Of its own questions to super-peers lately: all, and those answered at the first attempt.
    asked: (u16, u16),
    /// At most `LOOKUPS_MAX`.
    lookups: Vec<Lookup<C>>,
    calls: Vec<Call<C>>,
    /// The number of the last call or lookup.
    numbered: u32,
    neighbourhood: u32,
    losses: u32,
}

impl<C: Contact> Hybrid<C> {
    /// A node outside of any network.
    pub fn new(me: C, config: Arc<HybridConfig>) -> Self {
        assert!((1..=NAMED_MAX / 2).contains(&config.attachments), "a leaf is attached to 1 to 4");
        assert!(config.leaves_low * 4 <= config.leaves_high, "or roles change to and fro");
        assert!(config.leaves_high <= seat::LEAVES_MAX, "there must be room for them");
        assert!(config.witnesses >= 1, "a lookup asks somebody");
        let kademlia = Kademlia::new(me.clone(), config.kademlia.clone());
        Self::with(me, config, kademlia)
    }

    fn with(me: C, config: Arc<HybridConfig>, kademlia: Kademlia<C>) -> Self {
        Self {
            config,
            me,
            phase: Phase::Outside,
            frozen: false,
            role: Role::Leaf,
            role_since: Instant::ORIGIN,
            kademlia,
            has_fallback: None,
            known: Vec::new(),
            joined_at: Instant::ORIGIN,
            demoted_at: None,
            failed_at: None,
            refresh_again_at: None,
            chosen: None,
            attached: Vec::new(),
            spares: Vec::new(),
            keep_at: Instant::ORIGIN,
            seek: None,
            election: Election::default(),
            is_reached: false,
            spoken_to: None,
            asked: (0, 0),
            lookups: Vec::new(),
            calls: Vec::new(),
            numbered: 0,
            neighbourhood: 0,
            losses: 0,
        }
    }

    pub fn is_super(&self) -> bool {
        matches!(self.role, Role::Super(_))
    }

    /// Whom a leaf is attached to, the nearest first.
    pub fn attached(&self) -> &[C] {
        &self.attached
    }

    /// All super-peers that one of them knows, itself among them, sorted by id; of a leaf none.
    pub fn super_peers(&self) -> Vec<C> {
        self.seat().map(|seat| seat.centre.all().cloned().collect()).unwrap_or_default()
    }

    /// A super-peer's leaves, sorted.
    pub fn leaves(&self) -> Vec<C> {
        self.seat()
            .map(|seat| seat.leaves.iter().map(|leaf| leaf.contact.clone()).collect())
            .unwrap_or_default()
    }

    fn seat(&self) -> Option<&Seat<C>> {
        match &self.role {
            Role::Super(seat) => Some(seat),
            Role::Leaf | Role::Rising { .. } => None,
        }
    }

    fn seat_mut(&mut self) -> Option<&mut Seat<C>> {
        match &mut self.role {
            Role::Super(seat) => Some(seat),
            Role::Leaf | Role::Rising { .. } => None,
        }
    }

    /// Neither a super-peer nor attached to one.
    fn is_orphan(&self) -> bool {
        self.attached.is_empty() && !self.is_super()
    }

    fn moved(&mut self) {
        self.neighbourhood = self.neighbourhood.wrapping_add(1);
    }

    fn number(&mut self) -> u32 {
        self.numbered = self.numbered.wrapping_add(1);
        self.numbered
    }

    /// Half to one and a half of it, so that nodes that began together do not go on together.
    fn about(period: Duration, rng: &mut dyn RngCore) -> Duration {
        period.mul_f64(rng.random_range(0.5..1.5))
    }

    fn joined(&mut self, now: Instant, out: &mut HybridOut<C>) {
        if self.phase == Phase::Joining {
            self.phase = Phase::Member;
            self.joined_at = now;
            out.notify(Notification::Joined);
        }
    }

    /// Lets the fallback act, and takes what follows.
    fn with_kademlia<T>(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        out: &mut HybridOut<C>,
        act: impl FnOnce(&mut Kademlia<C>, &mut dyn RngCore, &mut Out<C, crate::KademliaMessage<C>>) -> T,
    ) -> T {
        let mut its = Out::default();
        let result = act(&mut self.kademlia, rng, &mut its);
        out.sends.extend(its.sends.into_iter().map(|(to, message)| (to, HybridMessage::Kademlia(message))));
        for notification in its.notifications {
            match notification {
                Notification::Joined => self.fallback_joined(now, out),
                Notification::JoinFailed => self.check_joining(now, out),
                Notification::LookupFinished(located) => self.fell_back(located, out),
                Notification::OperationFinished(_) => {}
            }
        }
        result
    }

    /// Who reaches this node without having been spoken to: nobody has opened a way for it.
    fn notice_stranger(&mut self, from: &C) {
        if !self.is_reached && self.spoken_to.as_ref().is_none_or(|spoken| !spoken.may_have(from)) {
            self.is_reached = true;
            self.spoken_to = None;
        }
    }

    fn note_spoken_to(&mut self, out: &HybridOut<C>) {
        if !self.is_reached && !out.sends.is_empty() {
            let spoken = self.spoken_to.get_or_insert_default();
            out.sends.iter().for_each(|(to, _)| spoken.add(to));
        }
    }
}

impl<C: Contact> Overlay for Hybrid<C> {
    type Contact = C;
    type Message = HybridMessage<C>;

    fn contact(&self) -> &C {
        &self.me
    }

    fn join(&mut self, now: Instant, rng: &mut dyn RngCore, known: &[C], out: &mut HybridOut<C>) {
        if self.phase != Phase::Outside {
            return;
        }
        self.known = known.iter().filter(|contact| **contact != self.me).take(KNOWN_MAX).cloned().collect();
        self.phase = Phase::Joining;
        self.joined_at = now;
        self.role_since = now;
        self.keep_at = now + Self::about(self.config.keep_every, rng);
        if self.known.is_empty() {
            self.rise_alone(now, out);
        } else {
            self.begin_seek(now, self.known.clone(), out);
        }
        let known = self.known.clone();
        self.with_kademlia(now, rng, out, |kademlia, rng, out| kademlia.join(now, rng, &known, out));
        self.note_spoken_to(out);
    }

    fn leave(&mut self, now: Instant, out: &mut HybridOut<C>) {
        self.give_up_seat(now, out);
        for contact in std::mem::take(&mut self.attached) {
            out.send(contact, HybridMessage::Detach);
        }
        let mut its = Out::default();
        self.kademlia.leave(now, &mut its);
        out.sends.extend(its.sends.into_iter().map(|(to, message)| (to, HybridMessage::Kademlia(message))));
        self.phase = Phase::Outside;
        self.role = Role::Leaf;
        for lookup in std::mem::take(&mut self.lookups) {
            self.finish(lookup, Err(LookupError::Left), out);
        }
        self.calls = Vec::new();
        self.spares = Vec::new();
        self.seek = None;
        self.election = Election::default();
        self.has_fallback = None;
        self.refresh_again_at = None;
        self.moved();
    }

    fn locate(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        key: Id,
        out: &mut HybridOut<C>,
    ) -> Result<LookupId, LocateError> {
        if self.phase != Phase::Member {
            return Err(LocateError::NotJoined);
        }
        if self.lookups.len() >= LOOKUPS_MAX {
            return Err(LocateError::TooManyLookups { limit: LOOKUPS_MAX });
        }
        let lookup = LookupId(self.look_up(now, rng, key, out));
        self.note_spoken_to(out);
        Ok(lookup)
    }

    /// Of a leaf its own super-peers, of which none is nearer than the responsible one; without
    /// any, what the fallback says.
    fn responsible(&self, key: Id, count: usize) -> Vec<C> {
        if let Some(seat) = self.seat() {
            return seat.centre.nearest(key, 0, count);
        }
        if self.attached.is_empty() {
            return self.kademlia.responsible(key, count);
        }
        let mut supers = self.attached.clone();
        supers.sort_by_key(|contact| contact.id().xor(key));
        supers.truncate(count);
        supers
    }

    fn neighbourhood(&self) -> u32 {
        let fallback = if self.is_orphan() { self.kademlia.neighbourhood() } else { 0 };
        self.neighbourhood.wrapping_add(fallback)
    }

    fn is_keeper(&self) -> bool {
        self.is_super()
    }

    fn losses(&self) -> u32 {
        self.losses
    }

    /// A super-peer asks them for super-peers that it does not know; the trees of all become one.
    fn meet(&mut self, now: Instant, rng: &mut dyn RngCore, others: &[C], out: &mut HybridOut<C>) {
        if self.phase != Phase::Member || self.frozen {
            return;
        }
        self.with_kademlia(now, rng, out, |kademlia, rng, out| kademlia.meet(now, rng, others, out));
        if self.is_super() {
            for other in others.iter().take(KNOWN_MAX) {
                self.discover(now, other.clone(), out);
            }
        } else if self.is_orphan() {
            self.begin_seek(now, others.to_vec(), out);
        }
        self.note_spoken_to(out);
    }

    fn tables(&self) -> Vec<Table<C>> {
        let row = |place: &str, contact: &C| Row { place: place.into(), contact: contact.clone() };
        let own = |contact: &C| if *contact == self.me { "this node" } else { "" };
        let table = |name, rows| Table { name, rows };
        let mut tables = match self.seat() {
            Some(seat) => vec![
                table("super-peers", seat.centre.all().map(|contact| row(own(contact), contact)).collect()),
                table("leaves", seat.leaves.iter().map(|leaf| row("", &leaf.contact)).collect()),
            ],
            None => {
                let attached = self.attached.iter().map(|contact| row("attached to", contact));
                let spares = self.spares.iter().filter(|spare| !self.attached.contains(spare));
                let spares = spares.map(|contact| row("in reserve", contact));
                vec![table("super-peers", attached.chain(spares).collect())]
            }
        };
        tables.extend(self.kademlia.tables());
        tables
    }

    fn handle_message(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        from: C,
        message: HybridMessage<C>,
        out: &mut HybridOut<C>,
    ) {
        if self.phase == Phase::Outside || from == self.me {
            return;
        }
        self.notice_stranger(&from);
        match message {
            HybridMessage::Kademlia(message) => {
                self.with_kademlia(now, rng, out, |kademlia, rng, out| {
                    kademlia.handle_message(now, rng, from, message, out);
                });
            }
            HybridMessage::Find { request, key, skip } => self.asked_to_find(from, request, key, skip, out),
            HybridMessage::Found { request, is_super, nearest } => {
                self.found(now, rng, from, request, is_super, nearest, out);
            }
            HybridMessage::Attach { request, standing, supers } => {
                self.asked_to_attach(now, from, request, standing, supers, out);
            }
            HybridMessage::Attached { request, is_taken, supers } => {
                self.attached_to(now, from, request, is_taken, supers, out);
            }
            HybridMessage::Detach => self.leaf_goes(&from),
            HybridMessage::Supers { supers } => self.told_supers(now, &from, supers, out),
            HybridMessage::Vouch { candidate } => self.asked_to_vouch(now, &from, candidate, out),
            HybridMessage::Chosen { voucher } => {
                self.chosen = self.attached.contains(&from).then_some((voucher, now));
            }
            HybridMessage::Promote { request } => self.asked_to_rise(now, from, request, out),
            HybridMessage::Promoted { request, .. } => self.promoted(&from, request),
            HybridMessage::Tell { request, reach, reports } => {
                self.told(now, from, request, reach, reports, out);
            }
            HybridMessage::Told { request } => {
                self.answered(&from, request, |purpose| matches!(purpose, Purpose::Tell));
            }
            HybridMessage::Compare { request, digest } => {
                self.asked_to_compare(now, from, request, digest, out)
            }
            HybridMessage::Compared { request, digest } => self.compared(now, from, request, digest, out),
            HybridMessage::Ranges { request, digests, is_return } => {
                self.asked_for_ranges(now, rng, from, request, &digests, is_return, out);
            }
            HybridMessage::Page { request, reports } => self.page(now, from, request, reports, out),
            HybridMessage::NotSuper { request } => self.is_no_super(now, from, request, out),
        }
        self.note_spoken_to(out);
    }

    fn handle_timeout(&mut self, now: Instant, rng: &mut dyn RngCore, out: &mut HybridOut<C>) {
        self.with_kademlia(now, rng, out, |kademlia, rng, out| kademlia.handle_timeout(now, rng, out));
        self.handle_deadlines(now, rng, out);
        if self.phase != Phase::Outside && !self.frozen {
            if self.refresh_again_at.is_some_and(|at| at <= now) {
                self.refresh_again_at = None;
                // Who is still nearly alone may have been forgotten by all others.
                match self.seat().is_some_and(|seat| seat.centre.len() < SUPERS_MIN) {
                    true => self.refresh_fallback(now),
                    false => self.kademlia.refresh_all(now),
                }
            }
            self.keep_up_as_leaf(now, rng, out);
            self.keep_up_as_super(now, rng, out);
        }
        self.note_spoken_to(out);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let has_upkeep = self.phase != Phase::Outside && !self.frozen;
        let upkeep =
            [self.leaf_upkeep_at(), self.seat_upkeep_at(), self.refresh_again_at].into_iter().flatten();
        let calls = self.calls.iter().map(|call| call.deadline);
        calls.chain(self.kademlia.poll_timeout()).chain(upkeep.filter(|_| has_upkeep)).min()
    }

    fn freeze(&mut self) {
        self.frozen = true;
        self.kademlia.freeze();
    }

    fn contacts(&self) -> Vec<C> {
        let mut contacts = self.kademlia.contacts();
        contacts.extend(self.attached.iter().cloned());
        if let Some(seat) = self.seat() {
            contacts.extend(seat.centre.all().filter(|contact| **contact != self.me).cloned());
            contacts.extend(seat.leaves.iter().map(|leaf| leaf.contact.clone()));
        }
        contacts.sort_unstable();
        contacts.dedup();
        contacts
    }

    fn state_bytes(&self) -> usize {
        let seat = match &self.role {
            Role::Leaf => 0,
            Role::Rising { seat, .. } | Role::Super(seat) => seat.bytes(),
        };
        let contacts = self.known.capacity() + self.attached.capacity() + self.spares.capacity();
        size_of::<Self>() - size_of::<Kademlia<C>>()
            + self.kademlia.state_bytes()
            + seat
            + contacts * size_of::<C>()
            + self.seek.as_ref().map_or(0, |seek| seek.bytes())
            + self.spoken_to.as_ref().map_or(0, |_| size_of::<Spoken>())
            + self.calls.iter().map(Call::bytes).sum::<usize>()
            + self.lookups.iter().map(Lookup::bytes).sum::<usize>()
    }
}
