//! What keeps the tables right: `join`, `stabilize`, `notify`, `fix_fingers` and
//! `check_predecessor` of ToN 2003, figure 6, with successor lists as in IV-E.3.

use rand::Rng;

use super::{lookup::Question, *};

/// How often `stabilize` goes on to a nearer successor within one period. One would do in a
/// ring at rest; this many nodes may join one gap in a period, and no liar costs more.
pub(super) const STABILIZE_STEPS_MAX: u8 = 32;

impl<C: Contact> Chord<C> {
    /// The next period begins after half to one and a half of it (V-E), so that nodes that
    /// began together do not go on together.
    pub(super) fn plan_upkeep(&mut self, now: Instant, rng: &mut dyn RngCore) {
        self.upkeep_at = now + self.config.upkeep_every.mul_f64(rng.random_range(0.5..1.5));
    }

    pub(super) fn upkeep(&mut self, now: Instant, out: &mut ChordOut<C>) {
        if self.phase == Phase::Joining {
            return self.look_for_my_place(now, out);
        }
        self.steps_left = STABILIZE_STEPS_MAX;
        if !self.is_asking(Question::Neighbours) {
            self.stabilize(now, out);
        }
        self.check_predecessor(now, out);
        self.fix_finger(now, out);
    }

    /// `join` (figure 6): asks a known node for the successor of one's own identifier.
    pub(super) fn look_for_my_place(&mut self, now: Instant, out: &mut ChordOut<C>) {
        if self.is_looking(|purpose| purpose == Purpose::Join) {
            return;
        }
        let search = Search::new(self.tables.me.id(), self.known.clone(), Vec::new(), false);
        self.start(now, search, Purpose::Join, false, out);
    }

    pub(super) fn found_my_place(&mut self, now: Instant, successor: C, out: &mut ChordOut<C>) {
        self.tables.set_successors([successor], self.config.successors);
        if self.phase == Phase::Joining {
            self.phase = Phase::Member;
            out.notify(Notification::Joined);
        }
        self.stabilize(now, out);
        self.fix_finger(now, out);
    }

    /// `stabilize` (figure 6): asks the successor for its predecessor, and for its list.
    pub(super) fn stabilize(&mut self, now: Instant, out: &mut ChordOut<C>) {
        if self.tables.successors.is_empty() {
            // All of the list failed at once: whoever is next round the ring as far as we know.
            // Step by step its predecessors lead back to the true successor.
            let me = self.tables.me.id();
            let others = self.tables.fingers.iter().flatten().chain(&self.tables.predecessor);
            let next = others.min_by_key(|contact| contact.id().clockwise_from(me)).cloned();
            match next {
                Some(next) => self.tables.set_successors([next], self.config.successors),
                None if !self.known.is_empty() => return self.look_for_my_place(now, out),
                None => return,
            }
        }
        let successor = self.tables.successors[0].clone();
        // One at a time: what a former successor still answers would not count.
        self.calls.retain(|call| call.question != Question::Neighbours);
        self.call(now, successor, Question::Neighbours, out);
    }

    /// The successor's answer: if a node stands between, it is the successor (figure 6); the
    /// rest of the list is the successor's, without its last (IV-E.3).
    ///
    /// A nearer successor is asked in its turn at once, not a period later as in the paper: of
    /// many nodes that join one gap together each then finds its place in seconds. One step a
    /// period would take as many periods as there are such nodes.
    pub(super) fn stabilized(
        &mut self,
        now: Instant,
        from: C,
        predecessor: Option<C>,
        successors: Vec<C>,
        out: &mut ChordOut<C>,
    ) {
        if self.tables.successors.first() != Some(&from) {
            return; // A nearer one came up meanwhile.
        }
        let me = self.tables.me.id();
        let between: Option<C> = predecessor.filter(|other| other.id().is_between(me, from.id()));
        let named = successors.into_iter().take(message::CONTACTS_PER_MESSAGE_MAX);
        let goes_on = between.is_some() && self.steps_left > 0;
        let list = between.into_iter().chain([from]).chain(named);
        self.tables.set_successors(list, self.config.successors);
        if let Some(successor) = self.tables.successors.first() {
            out.send(successor.clone(), ChordMessage::Notify);
        }
        if goes_on {
            self.steps_left -= 1;
            self.stabilize(now, out);
        }
    }

    /// `notify` (figure 6).
    pub(super) fn notified(&mut self, now: Instant, from: C, out: &mut ChordOut<C>) {
        self.tables.offer_predecessor(from.clone());
        if self.tables.successors.is_empty() {
            // The second node of a ring: each is the other's successor.
            self.tables.set_successors([from], self.config.successors);
            self.stabilize(now, out);
        }
    }

    /// `check_predecessor` (figure 6).
    fn check_predecessor(&mut self, now: Instant, out: &mut ChordOut<C>) {
        if let Some(predecessor) = self.tables.predecessor.clone()
            && !self.is_asking(Question::Ping)
        {
            self.call(now, predecessor, Question::Ping, out);
        }
    }

    /// `fix_fingers` (figure 6): looks up one finger, the farthest first.
    fn fix_finger(&mut self, now: Instant, out: &mut ChordOut<C>) {
        if self.is_looking(|purpose| matches!(purpose, Purpose::Finger(_))) {
            return;
        }
        let k = self.finger_next;
        let start = tables::finger_start(self.tables.me.id(), k.into());
        if self.tables.is_finger_trivial(start) {
            // From here on they are all the successor: the table ends, and it begins anew.
            self.tables.fingers.truncate(k.into());
            self.finger_next = 0;
            self.fingers_filled |= !self.tables.successors.is_empty();
            return self.check_my_place(now, out);
        }
        let search = self.search(start);
        self.start(now, search, Purpose::Finger(k), false, out);
    }

    /// Asks the farthest node that it knows for its own successor, once each time round the
    /// finger table. `stabilize` alone cannot undo a ring that winds several times round the
    /// identifiers, each node the predecessor of its successor, into which many nodes that join
    /// a small ring together may run: Liben-Nowell, Balakrishnan, Karger, *Analysis of the
    /// evolution of peer-to-peer systems*, PODC 2002, on loopy states.
    fn check_my_place(&mut self, now: Instant, out: &mut ChordOut<C>) {
        // Nobody besides: a nearer one would be asked first, and sees what this node sees.
        let far: Vec<C> = self.tables.fingers.iter().flatten().take(1).cloned().collect();
        self.look_for_my_place_through(now, far, out);
    }

    /// As a node that joins does, but those whom it asks may be of another ring than its own.
    pub(super) fn look_for_my_place_through(&mut self, now: Instant, others: Vec<C>, out: &mut ChordOut<C>) {
        if others.is_empty() || self.is_looking(|purpose| purpose == Purpose::Place) {
            return;
        }
        let search = Search::new(self.tables.me.id(), others, Vec::new(), false);
        self.start(now, search, Purpose::Place, false, out);
    }

    pub(super) fn checked_my_place(&mut self, now: Instant, successor: C, out: &mut ChordOut<C>) {
        let Some(known) = self.tables.successors.first() else {
            // Alone until now.
            return self.found_my_place(now, successor, out);
        };
        let me = self.tables.me.id();
        if successor.id().is_between(me, known.id()) {
            let list = std::iter::once(successor).chain(std::mem::take(&mut self.tables.successors));
            self.tables.set_successors(list, self.config.successors);
            self.stabilize(now, out);
        } else if successor != *known {
            // The others' ring passes this node by, and those around it: an arc of the ring that
            // came off when too many failed, and closed upon itself. Whoever would be notified
            // if this node were the arc's last is told of it, and the two grow together.
            out.send(successor, ChordMessage::Notify);
        }
    }

    pub(super) fn found_finger(&mut self, now: Instant, k: u8, finger: Option<C>, out: &mut ChordOut<C>) {
        self.tables.set_finger(k.into(), finger);
        // The last of 256 is always the successor, so this does not wrap while tables are sound.
        self.finger_next = k.wrapping_add(1);
        if !self.fingers_filled && !self.frozen {
            self.fix_finger(now, out);
        }
    }
}
