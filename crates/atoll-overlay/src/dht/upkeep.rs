//! What keeps copies where they belong.

use std::{collections::BTreeMap, time::Duration};

use atoll_types::Instant;
use rand::{Rng, RngCore};

use super::{
    Dht, DhtOut,
    exchange::Purpose,
    message::{ContentMessage, Named, OFFERED_MAX, REPLICAS_MAX, Refused, Wish},
    operation::{Job, Part, State, fitting},
};
use crate::{Id, Overlay};

/// Keys looked at in one go: a few milliseconds.
const KEYS_AT_ONCE: usize = 1024;
/// Lookups of upkeep under way, after which no other begins. Those of one thing begin together,
/// nine at most: its content and eight words; so there are never more than 24.
const BACKGROUND_MAX: usize = 16;
/// Nodes that are offered something at the same time.
const OFFERS_MAX: usize = 32;
/// After a change of neighbours, until their tables have settled: some round trips.
const SETTLES_IN: Duration = Duration::from_millis(200);
/// When there is more to do than is done at once.
const GOES_ON_AFTER: Duration = Duration::from_millis(100);

/// How far the look at all keys is.
#[derive(Debug, Clone)]
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
    is_keeper: bool,
}

impl Round {
    pub(super) fn new(core: &impl Overlay) -> Self {
        let (neighbourhood, losses, is_keeper) = (core.neighbourhood(), core.losses(), core.is_keeper());
        Self { at: None, cursor: None, left: 0, is_behind: false, neighbourhood, losses, is_keeper }
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
            self.begin_anew(now);
        }
        let is_keeper = self.core.is_keeper();
        if is_keeper != self.upkeep.is_keeper {
            self.upkeep.is_keeper = is_keeper;
            self.cellar.seek_all();
            self.upkeep.hurry(now);
        }
        let neighbourhood = self.core.neighbourhood();
        if neighbourhood != self.upkeep.neighbourhood {
            self.upkeep.neighbourhood = neighbourhood;
            self.cellar.forget_refusals();
            if self.is_member {
                self.upkeep.hurry(now);
            }
        }
    }

    /// Nothing that this node published, or kept, may be where it was: it is published anew, and
    /// where it belongs is looked up.
    pub(super) fn begin_anew(&mut self, now: Instant) {
        self.published.all_again(now);
        self.cellar.seek_all();
        self.upkeep.hurry(now);
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
        let is_keeper = self.core.is_keeper();
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
                    held.refused_by.clear();
                    held.compared_at = now;
                }
                let named = Named { key, tag: held.tag };
                // Nearer ones may have come faster than they could be given what is theirs, so
                // that none of those who kept it is responsible any more.
                let was_mine = is_keeper && held.sought_at.is_some();
                for target in targets.iter().filter(|_| is_mine || was_mine) {
                    if !held.confirmed.contains(target) && !held.refused_by.contains(target) {
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
            if !self.has_room_in_background() {
                self.upkeep.fall_behind();
                break;
            }
            self.cellar.held_mut(key).iter_mut().for_each(|held| held.sought_at = Some(now));
            let entries = fitting(self.cellar.held(key).iter().map(|held| held.entry.clone()));
            self.start_part(now, rng, None, key, Job::Store(entries), out);
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
                Wish::Have => self.confirm(&from, named),
                // It is not asked again for a while.
                Wish::NotMine => self.note_refusal(&from, named),
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

    fn note_refusal(&mut self, by: &O::Contact, named: &Named) {
        let held = self.cellar.held_mut(named.key).iter_mut();
        for held in held.filter(|held| held.tag == named.tag) {
            if !held.refused_by.contains(by) && held.refused_by.len() < REPLICAS_MAX {
                held.refused_by.push(by.clone());
            }
        }
    }

    /// Whether another lookup of upkeep may begin.
    pub(super) fn has_room_in_background(&self) -> bool {
        self.parts.iter().filter(|part| part.operation.is_none()).count() < BACKGROUND_MAX
    }

    /// As many nodes as should have it say that they do: if this one is none of them, it lets go.
    /// If some did not answer, or were the wrong ones, it is stored again soon.
    pub(super) fn stored(&mut self, now: Instant, part: &Part<O::Contact>, is_located: bool) {
        let Job::Store(entries) = &part.job else { return };
        let copies = part.asked.iter().filter(|asked| asked.state == State::Yes).count();
        let is_mine = part.asked.iter().any(|asked| asked.contact == *self.core.contact());
        let may_work_later = |state| match state {
            State::Silent | State::No(Refused::NotMine | Refused::NoToken) => true,
            State::No(Refused::Full | Refused::Outdated | Refused::Unsound(_)) => false,
            State::Waiting | State::Yes | State::Empty => false,
        };
        let is_short = copies < self.config.replicas
            && (!is_located || part.asked.iter().any(|asked| may_work_later(asked.state)));
        if is_short {
            for entry in entries {
                self.published.again(now, self.author.author(), entry);
                let held = self.cellar.held_mut(entry.key).iter_mut();
                held.filter(|held| held.entry.slot() == entry.slot()).for_each(|held| held.sought_at = None);
            }
        }
        if copies >= self.config.replicas && !is_mine {
            for entry in entries {
                if self.cellar.has(&Named { key: entry.key, tag: entry.tag() }) {
                    self.cellar.remove(entry.key, entry.slot());
                }
            }
        }
    }
}
