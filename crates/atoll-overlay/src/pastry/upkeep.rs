//! What keeps the tables right: joining (section 2.4), repair (2.5), and looking for nearer
//! nodes (Castro, Druschel, Hu, Rowstron: *Exploiting network proximity in peer-to-peer overlay
//! networks*, 2002).
//!
//! Whoever is named by others is asked before it gets a place, and the answer's time is how far
//! it is.

use rand::{Rng, seq::IndexedRandom};

use super::{lookup::Question, message::CONTACTS_PER_MESSAGE_MAX, *};

/// Named contacts that wait to be asked: all that one step of a join names. More are named
/// again.
const TO_PROBE_MAX: usize = 4 * CONTACTS_PER_MESSAGE_MAX;
/// Probes under way at once: a joining node asks some two hundred, 16 each round trip.
const PROBING_MAX: usize = 16;
/// Nodes asked on the way to one's own place; see `lookup::RELAY_HOPS_MAX`.
const STEPS_MAX: u8 = 40;
/// In how many periods one row of the table is compared with somebody else's: 2 min at 30 s. The
/// paper of 2002 has 20 min, and rows of nodes that stay for days.
const ROW_EVERY: u8 = 4;

impl<C: Contact> Pastry<C> {
    /// The next period begins after half to one and a half of it, so that nodes that began
    /// together do not go on together.
    pub(super) fn plan_upkeep(&mut self, now: Instant, rng: &mut dyn RngCore) {
        self.upkeep_at = now + self.config.upkeep_every.mul_f64(rng.random_range(0.5..1.5));
    }

    pub(super) fn upkeep(&mut self, now: Instant, rng: &mut dyn RngCore, out: &mut PastryOut<C>) {
        let is_alone = self.tables.leaves().next().is_none();
        if self.phase == Phase::Joining || (is_alone && !self.known.is_empty()) {
            if !self.is_asking(|_| true) && self.to_probe.is_empty() {
                self.look_for_my_place(now, self.known.clone(), out);
            }
            return;
        }
        // The two next to it notice first that it is gone, and the other way round.
        let next = self.tables.smaller.first().into_iter().chain(self.tables.larger.first());
        let mut next: Vec<C> = next.cloned().collect();
        next.dedup();
        for leaf in next {
            self.call(now, leaf, Question::Leaves, out);
        }
        self.periods = self.periods.wrapping_add(1);
        if self.repair_row.is_some() || self.periods.is_multiple_of(ROW_EVERY) {
            self.compare_row(now, rng, out);
        }
    }

    /// Section 2.5: whoever has the same row may know somebody for the hole; if nobody is left
    /// in it, whoever has a row below it has this row too.
    fn compare_row(&mut self, now: Instant, rng: &mut dyn RngCore, out: &mut PastryOut<C>) {
        let rows = self.tables.rows();
        if rows == 0 {
            return;
        }
        let row = self.repair_row.take().unwrap_or_else(|| rng.random_range(0..rows));
        let holders = (row..rows).map(|row| self.tables.row(row).collect::<Vec<_>>());
        let Some(holder) = holders.into_iter().find_map(|row| row.choose(rng).map(|one| (*one).clone()))
        else {
            return;
        };
        let row = u8::try_from(row).expect("at most 256 rows");
        self.call(now, holder, Question::Row(row), out);
    }

    /// Goes to its own place step by step, and takes from each node on the way what it can use.
    pub(super) fn look_for_my_place(&mut self, now: Instant, through: Vec<C>, out: &mut PastryOut<C>) {
        self.way = through;
        self.steps_left = STEPS_MAX;
        self.next_step(now, out);
    }

    pub(super) fn next_step(&mut self, now: Instant, out: &mut PastryOut<C>) {
        if self.steps_left > 0 && !self.way.is_empty() {
            self.steps_left -= 1;
            let to = self.way.remove(0);
            self.call(now, to, Question::Ask, out);
        } else if self.phase == Phase::Joining && self.tables.leaves().next().is_none() {
            out.notify(Notification::JoinFailed);
        }
    }

    pub(super) fn took_step(
        &mut self,
        now: Instant,
        from: C,
        next: Vec<C>,
        named: [Vec<C>; 3],
        out: &mut PastryOut<C>,
    ) {
        let is_there = next.is_empty();
        for contacts in named {
            self.named(now, contacts, false, out);
        }
        if is_there {
            self.way.clear();
            self.is_to_announce = true;
        } else {
            let me = self.tables.me.clone();
            let next = next.into_iter().take(NEXT_MAX).filter(|one| *one != me && *one != from);
            let known = std::mem::take(&mut self.way);
            self.way = next.chain(known).take(2 * NEXT_MAX).collect();
            self.next_step(now, out);
        }
    }

    /// Those who were named wait to be asked, if they are of use.
    pub(super) fn named(&mut self, now: Instant, contacts: Vec<C>, nearer_too: bool, out: &mut PastryOut<C>) {
        if self.frozen {
            return;
        }
        for contact in contacts.into_iter().take(CONTACTS_PER_MESSAGE_MAX) {
            let is_wanted = self.tables.wants(&contact, nearer_too) && !self.to_probe.contains(&contact);
            if is_wanted && self.to_probe.len() < TO_PROBE_MAX {
                self.to_probe.push_back(contact);
            }
        }
        self.probe_next(now, out);
    }

    /// A leaf of this node that somebody should have in its own leaf set, and has not, may be
    /// gone; of the leaves that are not next to it a node hears otherwise only by their silence.
    pub(super) fn doubt(&mut self, from: &C, named: &[C]) {
        let doubtful = self.tables.missing_in(from, &named[..named.len().min(CONTACTS_PER_MESSAGE_MAX)]);
        for leaf in doubtful {
            if !self.frozen && self.to_probe.len() < TO_PROBE_MAX && !self.to_probe.contains(&leaf) {
                self.to_probe.push_back(leaf);
            }
        }
    }

    /// Asks those who wait, and when nobody is left, tells all that this node has joined.
    pub(super) fn probe_next(&mut self, now: Instant, out: &mut PastryOut<C>) {
        let mut probing = self.calls.iter().filter(|call| call.question == Question::Probe).count();
        while probing < PROBING_MAX {
            let Some(contact) = self.to_probe.pop_front() else { break };
            if !self.calls.iter().any(|call| call.is_to(&contact, Question::Probe)) {
                self.call(now, contact, Question::Probe, out);
                probing += 1;
            }
        }
        if self.to_probe.is_empty() {
            self.to_probe = VecDeque::new();
        }
        if self.is_to_announce && probing == 0 {
            self.is_to_announce = false;
            for contact in self.tables.everybody() {
                out.send(contact.clone(), PastryMessage::Hello);
            }
            if self.phase == Phase::Joining {
                self.phase = Phase::Member;
                out.notify(Notification::Joined);
            }
        }
    }

    /// Somebody has spoken.
    pub(super) fn heard(&mut self, from: &C, round_trip: u32) {
        if !self.frozen {
            self.tables.offer(from, round_trip);
        }
    }

    /// Section 2.5: a leaf's place is filled from the leaf set of the farthest on its side, a
    /// place in the table in the next period.
    pub(super) fn forget(&mut self, now: Instant, contact: &C, out: &mut PastryOut<C>) {
        if self.frozen {
            return;
        }
        let (hole, farthest) = self.tables.forget(contact);
        self.repair_row = hole.or(self.repair_row);
        if let Some(leaf) = farthest
            && !self.calls.iter().any(|call| call.is_to(&leaf, Question::Leaves))
        {
            self.call(now, leaf, Question::Leaves, out);
        }
    }
}
