//! HyParView: each node keeps a few neighbours that it speaks with, and more that it may turn to
//! when one of these fails.
//!
//! Leitão, Pereira, Rodrigues: *HyParView: a membership protocol for reliable gossip-based
//! broadcast*, DSN 2007; "DSN 2007" beside the code. Words and the default sizes are the
//! paper's. Neighbourhood is mutual: who takes a node into its active view tells it so.
//!
//! The paper hears of failures from its TCP connections. A core has none, so it asks each active
//! neighbour once a period whether it is there.

use std::{sync::Arc, time::Duration};

use rand::{Rng, seq::IndexedRandom};
use serde::{Deserialize, Serialize};

use super::*;

/// Contacts in one message; more are not read. Above what a sound node sends (1 + 3 + 4).
const CONTACTS_PER_MESSAGE_MAX: usize = 16;
/// Steps of a walk that a message may ask for; the paper's longest is 6.
const WALK_MAX: u8 = 16;
/// Contacts kept for joining anew when both views are empty.
const KNOWN_MAX: usize = 8;
/// Newcomers that are asked to become neighbours at the end of their walk; the answers of older
/// ones do not count any more.
const INVITED_MAX: usize = 8;
/// How often a neighbour is asked before it counts as gone.
const ATTEMPTS: u8 = 2;

/// How a node keeps its views. The defaults are DSN 2007's, section 5.1, for 10,000 nodes.
#[derive(Debug, Clone)]
pub struct HyParViewConfig {
    /// Neighbours that a node speaks with: 5, which is ln 10,000 less some, and enough for a
    /// connected graph for they are mutual.
    pub active: usize,
    /// Those that it may turn to: 30. As long as one of them lives a node finds back.
    pub passive: usize,
    /// Steps that a newcomer's name walks until somebody takes it into its active view.
    pub active_walk: u8,
    /// After so many steps it is taken into a passive view on the way.
    pub passive_walk: u8,
    /// Of each view, how many are told to others in a shuffle.
    pub shuffle_active: usize,
    pub shuffle_passive: usize,
    /// How often, on average, to ask whether neighbours are there, and to shuffle: 10 s. A
    /// neighbour's failure is noticed in about that time.
    pub upkeep_every: Duration,
    /// How long to wait for an answer: 1 s, more than almost any round trip.
    pub answer_timeout: Duration,
}

impl Default for HyParViewConfig {
    fn default() -> Self {
        Self {
            active: 5,
            passive: 30,
            active_walk: 6,
            passive_walk: 3,
            shuffle_active: 3,
            shuffle_passive: 4,
            upkeep_every: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(1),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HyParViewMessage<C> {
    /// The sender is new, and knows the receiver only.
    Join,
    ForwardJoin {
        newcomer: C,
        hops_left: u8,
    },
    /// Be my neighbour. `urgent`: the sender has none, and may not be declined.
    Neighbour {
        urgent: bool,
    },
    NeighbourAnswer {
        accepted: bool,
    },
    /// We are neighbours no more.
    Disconnect,
    /// On a walk; whoever it ends at answers the origin with as many.
    Shuffle {
        origin: C,
        contacts: Vec<C>,
        hops_left: u8,
    },
    ShuffleAnswer {
        contacts: Vec<C>,
    },
    Ping,
    Pong,
}

#[derive(Debug, Clone)]
struct Asked<C> {
    contact: C,
    deadline: Instant,
    attempts_left: u8,
}

/// One node's views.
#[derive(Debug, Clone)]
pub(super) struct HyParView<C> {
    me: C,
    config: Arc<HyParViewConfig>,
    /// At most `config.active`; in no view twice.
    active: Vec<C>,
    /// At most `config.passive`.
    passive: Vec<C>,
    known: Vec<C>,
    /// Active neighbours that have not answered yet.
    pinged: Vec<Asked<C>>,
    /// Who is asked to become a neighbour.
    courted: Option<Asked<C>>,
    /// Newcomers that were asked as well; at most `INVITED_MAX`, cleared as they answer.
    invited: Vec<C>,
    /// Who declined; cleared each period.
    declined: Vec<C>,
    /// Whether an answer to a shuffle is due; cleared when it comes.
    shuffled: bool,
    upkeep_at: Option<Instant>,
}

/// What is sent, to be wrapped by the core that has these views.
pub(super) type Sends<C> = Vec<(C, HyParViewMessage<C>)>;

impl<C: Contact> HyParView<C> {
    pub(super) fn new(me: C, config: Arc<HyParViewConfig>) -> Self {
        Self {
            me,
            config,
            active: Vec::new(),
            passive: Vec::new(),
            known: Vec::new(),
            pinged: Vec::new(),
            courted: None,
            invited: Vec::new(),
            declined: Vec::new(),
            shuffled: false,
            upkeep_at: None,
        }
    }

    pub(super) fn active(&self) -> &[C] {
        &self.active
    }

    pub(super) fn join(&mut self, now: Instant, rng: &mut dyn RngCore, known: &[C], sends: &mut Sends<C>) {
        self.known = known.iter().filter(|contact| **contact != self.me).take(KNOWN_MAX).cloned().collect();
        self.plan_upkeep(now, rng);
        sends.extend(self.known.first().cloned().map(|contact| (contact, HyParViewMessage::Join)));
    }

    pub(super) fn handle_message(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        from: C,
        message: HyParViewMessage<C>,
        sends: &mut Sends<C>,
    ) {
        match message {
            HyParViewMessage::Join => {
                self.take_in(rng, from.clone(), sends);
                sends.push((from.clone(), HyParViewMessage::NeighbourAnswer { accepted: true }));
                let hops_left = self.config.active_walk;
                for other in self.active.iter().filter(|other| **other != from) {
                    let newcomer = from.clone();
                    sends.push((other.clone(), HyParViewMessage::ForwardJoin { newcomer, hops_left }));
                }
            }
            HyParViewMessage::ForwardJoin { newcomer, hops_left } => {
                self.forward_join(rng, from, newcomer, hops_left.min(WALK_MAX), sends);
            }
            HyParViewMessage::Neighbour { urgent } => {
                let accepted =
                    urgent || self.active.len() < self.config.active || self.active.contains(&from);
                if accepted {
                    self.take_in(rng, from.clone(), sends);
                }
                sends.push((from, HyParViewMessage::NeighbourAnswer { accepted }));
            }
            HyParViewMessage::NeighbourAnswer { accepted } => {
                // Of whom we asked, or joined through: nobody talks itself into the view.
                let was_courted = self.courted.take_if(|courted| courted.contact == from).is_some();
                let was_invited = self.invited.contains(&from);
                self.invited.retain(|contact| *contact != from);
                let was_joined = self.active.is_empty() && self.known.contains(&from);
                if accepted && (was_courted || was_invited || was_joined) {
                    self.take_in(rng, from, sends);
                } else if accepted && !self.active.contains(&from) {
                    // It answered too late, and has us in its view for nothing.
                    sends.push((from, HyParViewMessage::Disconnect));
                } else if was_courted {
                    self.declined.push(from);
                }
                self.court(now, rng, sends);
            }
            HyParViewMessage::Disconnect => {
                if self.drop_active(&from) {
                    self.add_passive(rng, from);
                    self.court(now, rng, sends);
                }
            }
            HyParViewMessage::Shuffle { origin, contacts, hops_left } => {
                let hops_left = hops_left.min(WALK_MAX).saturating_sub(1);
                let next: Vec<&C> =
                    self.active.iter().filter(|other| **other != from && **other != origin).collect();
                match next.choose(&mut &mut *rng) {
                    Some(next) if hops_left > 0 => {
                        let next = (*next).clone();
                        sends.push((next, HyParViewMessage::Shuffle { origin, contacts, hops_left }));
                    }
                    _ if origin == self.me => {}
                    _ => {
                        let count = contacts.len().min(CONTACTS_PER_MESSAGE_MAX);
                        let told: Vec<C> =
                            self.passive.choose_multiple(&mut &mut *rng, count).cloned().collect();
                        sends.push((origin, HyParViewMessage::ShuffleAnswer { contacts: told }));
                        self.add_all_passive(rng, contacts);
                    }
                }
            }
            HyParViewMessage::ShuffleAnswer { contacts } => {
                if std::mem::take(&mut self.shuffled) {
                    self.add_all_passive(rng, contacts);
                    self.court(now, rng, sends);
                }
            }
            HyParViewMessage::Ping => {
                // Who is not our neighbour thinks it is: it is told.
                let answer = match self.active.contains(&from) {
                    true => HyParViewMessage::Pong,
                    false => HyParViewMessage::Disconnect,
                };
                sends.push((from, answer));
            }
            HyParViewMessage::Pong => self.pinged.retain(|asked| asked.contact != from),
        }
    }

    /// DSN 2007, algorithm 1.
    fn forward_join(
        &mut self,
        rng: &mut dyn RngCore,
        from: C,
        newcomer: C,
        hops_left: u8,
        sends: &mut Sends<C>,
    ) {
        if newcomer == self.me || self.active.contains(&newcomer) {
            return;
        }
        let next: Vec<&C> =
            self.active.iter().filter(|other| **other != from && **other != newcomer).collect();
        match next.choose(&mut &mut *rng) {
            Some(next) if hops_left > 0 => {
                let next = (*next).clone();
                if hops_left == self.config.passive_walk {
                    self.add_passive(rng, newcomer.clone());
                }
                let hops_left = hops_left - 1;
                sends.push((next, HyParViewMessage::ForwardJoin { newcomer, hops_left }));
            }
            _ => {
                // It is asked, so that a made-up name does not enter the view.
                if self.invited.len() >= INVITED_MAX {
                    self.invited.remove(0);
                }
                self.invited.push(newcomer.clone());
                sends.push((newcomer, HyParViewMessage::Neighbour { urgent: true }));
            }
        }
    }

    /// Into the active view; if that is full, somebody else goes (`dropRandomElement`).
    fn take_in(&mut self, rng: &mut dyn RngCore, contact: C, sends: &mut Sends<C>) {
        if contact == self.me || self.active.contains(&contact) {
            return;
        }
        if self.active.len() >= self.config.active {
            let place = rng.random_range(0..self.active.len());
            let dropped = self.active[place].clone();
            self.drop_active(&dropped);
            self.add_passive(rng, dropped.clone());
            sends.push((dropped, HyParViewMessage::Disconnect));
        }
        self.passive.retain(|other| *other != contact);
        self.active.push(contact);
    }

    fn drop_active(&mut self, contact: &C) -> bool {
        self.pinged.retain(|asked| asked.contact != *contact);
        let before = self.active.len();
        self.active.retain(|other| other != contact);
        self.active.len() < before
    }

    fn add_passive(&mut self, rng: &mut dyn RngCore, contact: C) {
        if contact == self.me || self.active.contains(&contact) || self.passive.contains(&contact) {
            return;
        }
        if self.passive.len() >= self.config.passive {
            let place = rng.random_range(0..self.passive.len());
            self.passive.swap_remove(place);
        }
        self.passive.push(contact);
    }

    fn add_all_passive(&mut self, rng: &mut dyn RngCore, contacts: Vec<C>) {
        for contact in contacts.into_iter().take(CONTACTS_PER_MESSAGE_MAX) {
            self.add_passive(rng, contact);
        }
    }

    /// Asks one of the passive view to become a neighbour, if one is missing.
    fn court(&mut self, now: Instant, rng: &mut dyn RngCore, sends: &mut Sends<C>) {
        if self.courted.is_some() || self.active.len() >= self.config.active {
            return;
        }
        let candidates: Vec<&C> =
            self.passive.iter().filter(|contact| !self.declined.contains(contact)).collect();
        let Some(chosen) = candidates.choose(&mut &mut *rng) else { return };
        let contact = (*chosen).clone();
        sends.push((contact.clone(), HyParViewMessage::Neighbour { urgent: self.active.is_empty() }));
        let deadline = now + self.config.answer_timeout;
        self.courted = Some(Asked { contact, deadline, attempts_left: 0 });
    }

    fn plan_upkeep(&mut self, now: Instant, rng: &mut dyn RngCore) {
        // Half to one and a half, so that nodes do not go on together.
        self.upkeep_at = Some(now + self.config.upkeep_every.mul_f64(rng.random_range(0.5..1.5)));
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, rng: &mut dyn RngCore, sends: &mut Sends<C>) {
        let timeout = self.config.answer_timeout;
        let mut gone = Vec::new();
        for asked in self.pinged.iter_mut().filter(|asked| asked.deadline <= now) {
            match asked.attempts_left.checked_sub(1) {
                Some(left) => {
                    asked.attempts_left = left;
                    asked.deadline = now + timeout;
                    sends.push((asked.contact.clone(), HyParViewMessage::Ping));
                }
                None => gone.push(asked.contact.clone()),
            }
        }
        for contact in gone {
            self.drop_active(&contact);
        }
        if let Some(courted) = self.courted.take_if(|courted| courted.deadline <= now) {
            self.passive.retain(|other| *other != courted.contact);
        }
        if self.upkeep_at.is_some_and(|at| at <= now) {
            self.plan_upkeep(now, rng);
            self.upkeep(now, rng, sends);
        }
        self.court(now, rng, sends);
    }

    fn upkeep(&mut self, now: Instant, rng: &mut dyn RngCore, sends: &mut Sends<C>) {
        self.declined.clear();
        if self.active.is_empty() && self.passive.is_empty() {
            // Alone: as in the beginning.
            let again = self.known.choose(&mut &mut *rng).cloned();
            return sends.extend(again.map(|contact| (contact, HyParViewMessage::Join)));
        }
        for contact in &self.active {
            if self.pinged.iter().all(|asked| asked.contact != *contact) {
                let deadline = now + self.config.answer_timeout;
                self.pinged.push(Asked { contact: contact.clone(), deadline, attempts_left: ATTEMPTS - 1 });
                sends.push((contact.clone(), HyParViewMessage::Ping));
            }
        }
        let Some(to) = self.active.choose(&mut &mut *rng).cloned() else { return };
        let HyParViewConfig { shuffle_active, shuffle_passive, active_walk, .. } = *self.config;
        let mut contacts = vec![self.me.clone()];
        contacts.extend(self.active.choose_multiple(&mut &mut *rng, shuffle_active).cloned());
        contacts.extend(self.passive.choose_multiple(&mut &mut *rng, shuffle_passive).cloned());
        self.shuffled = true;
        let origin = self.me.clone();
        sends.push((to, HyParViewMessage::Shuffle { origin, contacts, hops_left: active_walk }));
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let asked = self.pinged.iter().chain(&self.courted).map(|asked| asked.deadline);
        asked.chain(self.upkeep_at).min()
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let contacts = self.active.capacity()
            + self.passive.capacity()
            + self.known.capacity()
            + self.invited.capacity()
            + self.declined.capacity();
        contacts * size_of::<C>() + self.pinged.capacity() * size_of::<Asked<C>>()
    }
}
