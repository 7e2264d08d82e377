//! What keeps copies where they belong.

use std::{collections::BTreeMap, time::Duration};

use atoll_types::Instant;
use rand::{Rng, RngCore};

use super::{
    Dht, DhtOut,
    exchange::Purpose,
    message::{ContentMessage, Named, OFFERED_MAX, REPLICAS_MAX, Wish},
    operation::{Job, Part, State, fitting},
};
use crate::{Entry, Id, Overlay};

/// Keys looked at in one go: a few milliseconds.
const KEYS_AT_ONCE: usize = 1024;
/// Lookups of upkeep under way.
const BACKGROUND_MAX: usize = 16;
/// Nodes that are offered something at the same time.
const OFFERS_MAX: usize = 32;
/// After a change of neighbours, until their tables have settled: some round trips.
const SETTLES_IN: Duration = Duration::from_millis(200);
/// When there is more to do than is done at once.
const GOES_ON_AFTER: Duration = Duration::from_millis(100);

/// How far the look at all keys is.
#[derive(Debug)]
pub(super) struct Round {
    /// When it goes on; never while this node is outside.
    at: Option<Instant>,
    /// The last key that was looked at.
    cursor: Option<Id>,
    /// Keys that this round has still to look at.
    left: usize,
    /// Something could not be done yet.
    is_behind: bool,
    /// The core's, when it was last asked.
    neighbourhood: u32,
    losses: u32,
}

impl Round {
    pub(super) fn new(neighbourhood: u32) -> Self {
        Self { at: None, cursor: None, left: 0, is_behind: false, neighbourhood, losses: 0 }
    }

    pub(super) fn begin_at(&mut self, at: Instant) {
        self.at = Some(at);
    }

    /// Begins anew, soon.
    pub(super) fn hurry(&mut self, now: Instant) {
        let soon = now + SETTLES_IN;
        self.at = Some(self.at.map_or(soon, |at| at.min(soon)));
        self.left = 0;
    }

    /// Something is left to do: soon again.
    pub(super) fn fall_behind(&mut self) {
        self.is_behind = true;
    }

    fn go_on(&mut self, now: Instant) {
        let soon = now + GOES_ON_AFTER;
        self.at = Some(self.at.map_or(soon, |at| at.min(soon)));
    }
}

impl<O: Overlay> Dht<O> {
    pub(super) fn notice_neighbours(&mut self, now: Instant) {
        let losses = self.core.losses();
        if losses != self.upkeep.losses {
            self.upkeep.losses = losses;
            self.published.all_again(now);
            self.upkeep.hurry(now);
        }
        let neighbourhood = self.core.neighbourhood();
        if neighbourhood != self.upkeep.neighbourhood {
            self.upkeep.neighbourhood = neighbourhood;
            if self.is_member {
                self.upkeep.hurry(now);
            }
        }
    }

    pub(super) fn upkeep_at(&self) -> Option<Instant> {
        self.upkeep.at.filter(|_| self.is_member && !self.frozen)
    }

    pub(super) fn is_upkeep_due(&self, now: Instant) -> bool {
        self.upkeep_at().is_some_and(|at| at <= now)
    }

    pub(super) fn keep_up(&mut self, now: Instant, rng: &mut dyn RngCore, out: &mut DhtOut<O>) {
        self.tokens.refresh(now, rng);
        self.cellar.forget_expired(self.wall(now));
        self.cache.forget_expired(now);
        let round = &mut self.upkeep;
        round.is_behind = false;
        if round.left == 0 {
            round.left = self.cellar.kept().entries;
        }
        let keys = self.cellar.keys_after(round.cursor, KEYS_AT_ONCE.min(round.left));
        round.left = if keys.is_empty() { 0 } else { round.left.saturating_sub(keys.len()) };
        round.cursor = keys.last().copied();
        self.publish_again(now, rng, out);
        self.compare(now, rng, &keys, out);
        // Not in step with the neighbours.
        let pause = match self.upkeep.left > 0 || self.upkeep.is_behind {
            true => GOES_ON_AFTER,
            false => self.config.check_every.mul_f64(rng.random_range(0.5..1.5)),
        };
        self.upkeep.at = Some(now + pause);
    }

    /// Offers what others should have, and looks up whose the rest is.
    fn compare(&mut self, now: Instant, rng: &mut dyn RngCore, keys: &[Id], out: &mut DhtOut<O>) {
        let me = self.core.contact().clone();
        let mut offers: BTreeMap<O::Contact, Vec<Named>> = BTreeMap::new();
        let mut misplaced = Vec::new();
        for key in keys.iter().copied() {
            let replicas = self.replicas(key);
            let is_mine = replicas.contains(&me);
            let targets = if replicas.first() == Some(&me) { &replicas[1..] } else { &replicas[..1] };
            let mut is_misplaced = false;
            for held in self.cellar.held_mut(key) {
                if now.saturating_since(held.compared_at) >= self.config.compare_every {
                    held.confirmed.clear();
                    held.compared_at = now;
                }
                let named = Named { key, tag: held.tag };
                for target in targets.iter().filter(|_| is_mine) {
                    if !held.confirmed.contains(target) {
                        offers.entry(target.clone()).or_default().push(named);
                    }
                }
                is_misplaced |= match held.sought_at {
                    Some(at) => now.saturating_since(at) >= self.config.republish_every,
                    None if is_mine => {
                        held.sought_at = Some(now);
                        false
                    }
                    None => true,
                };
            }
            if is_misplaced {
                misplaced.push(key);
            }
        }
        for (to, named) in offers {
            self.offer(now, to, named, out);
        }
        for key in misplaced {
            if !self.store_in_background(now, rng, key, None, out) {
                self.upkeep.fall_behind();
                break;
            }
            self.cellar.held_mut(key).iter_mut().for_each(|held| held.sought_at = Some(now));
        }
    }

    fn offer(&mut self, now: Instant, to: O::Contact, mut offered: Vec<Named>, out: &mut DhtOut<O>) {
        let handing = self.calls.iter().filter(|call| matches!(call.purpose, Purpose::HandOver(_)));
        // One at a time to each: what is under way is not offered again.
        if handing.clone().any(|call| call.to == to) || handing.count() >= OFFERS_MAX {
            self.upkeep.fall_behind();
            return;
        }
        self.upkeep.is_behind |= offered.len() > OFFERED_MAX;
        offered.truncate(OFFERED_MAX);
        let purpose = Purpose::HandOver(offered.clone());
        self.call(now, to, purpose, |request| ContentMessage::Offer { request, offered }, out);
    }

    pub(super) fn hand_over_wanted(
        &mut self,
        now: Instant,
        from: O::Contact,
        token: u64,
        offered: &[Named],
        wishes: &[Wish],
        out: &mut DhtOut<O>,
    ) {
        let mut wanted = Vec::new();
        for (named, wish) in offered.iter().zip(wishes) {
            match wish {
                // Whoever says that it is not its own is not asked again for a while.
                Wish::Have | Wish::NotMine => self.confirm(&from, named),
                Wish::Want => {
                    let held = self.cellar.held(named.key).iter().find(|held| held.tag == named.tag);
                    wanted.extend(held.map(|held| held.entry.clone()));
                }
            }
        }
        let entries = fitting(wanted);
        if entries.is_empty() {
            return;
        }
        let sent = entries.iter().map(|entry| Named { key: entry.key, tag: entry.tag() }).collect();
        let message = |request| ContentMessage::Keep { request, token, entries };
        self.call(now, from, Purpose::HandOver(sent), message, out);
    }

    /// Taken or refused, it is not offered again before it is compared again.
    pub(super) fn handed_over(&mut self, now: Instant, to: &O::Contact, sent: &[Named]) {
        sent.iter().for_each(|named| self.confirm(to, named));
        self.upkeep.go_on(now);
    }

    fn confirm(&mut self, by: &O::Contact, named: &Named) {
        let held = self.cellar.held_mut(named.key).iter_mut();
        for held in held.filter(|held| held.tag == named.tag) {
            if !held.confirmed.contains(by) && held.confirmed.len() < REPLICAS_MAX {
                held.confirmed.push(by.clone());
            }
        }
    }

    /// Looks up whose the key is, and stores this entry there, or all that is kept here under the
    /// key. False if too many are under way.
    pub(super) fn store_in_background(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        key: Id,
        entry: Option<Entry>,
        out: &mut DhtOut<O>,
    ) -> bool {
        if self.parts.iter().filter(|part| part.operation.is_none()).count() >= BACKGROUND_MAX {
            return false;
        }
        let entries = match entry {
            Some(entry) => vec![entry],
            None => fitting(self.cellar.held(key).iter().map(|held| held.entry.clone())),
        };
        self.start_part(now, rng, None, key, Job::Store(entries), out);
        true
    }

    /// As many nodes as should have it say that they do: if this one is none of them, it lets go.
    pub(super) fn stored_in_background(&mut self, part: Part<O::Contact>) {
        let Job::Store(entries) = &part.job else { return };
        let copies = part.asked.iter().filter(|asked| asked.state == State::Yes).count();
        let is_mine = part.asked.iter().any(|asked| asked.contact == *self.core.contact());
        if copies >= self.config.replicas && !is_mine {
            for entry in entries {
                if self.cellar.has(&Named { key: entry.key, tag: entry.tag() }) {
                    self.cellar.remove(entry.key, entry.slot());
                }
            }
        }
    }
}
