//! What super-peers do: keep leaves, tell each other who came and went, compare tables, and see
//! that there are as many of them as the leaves need.

use rand::seq::IteratorRandom;

use super::{
    centre::{Centre, Change, SUPERS_MAX, word_of},
    message::{RANGES, REPORTS_MAX},
    *,
};

/// Leaves of one super-peer: a million nodes attached to three of 4,096 are 732.
pub(super) const LEAVES_MAX: usize = 768;
/// Reports waiting to be told. If there are more they are told at once.
const PENDING_MAX: usize = 256;
/// A node's state in the simulator, where a contact is four bytes.
const STATE_BYTES_MAX: usize = 64 << 10;
const _: () = assert!(
    SUPERS_MAX * 8 + LEAVES_MAX * size_of::<Leaf<u32>>() + PENDING_MAX * 16 + 8192 <= STATE_BYTES_MAX
);
/// Whoever reports something itself tells it to all: 2³² places far.
const REACH_MAX: u8 = 32;
/// A leaf that was silent for so many `keep_every` is gone: it speaks up after one and a half of
/// them at most, and one message may be lost.
const SILENT_PERIODS: u32 = 3;
/// After it had one promoted a super-peer waits for leaves to go there: this share of
/// `upkeep_every`, a few round trips.
const PROMOTE_AFTER: f64 = 0.5;
/// Who became a super-peer stays one for so long at least, and who was one is not asked again
/// for as long, so that what a crowd brings and takes along changes nobody's role twice.
const ROLE_MIN: Duration = Duration::from_secs(600);
/// After super-peers failed it waits for so many `keep_every` for leaves that have been reached, before
/// it has another one promoted: they come when they have found out.
const COME_BACK_PERIODS: u32 = 2;
/// When it has too few leaves, a super-peer steps down with this chance at each upkeep, so that
/// neighbours do not go together.
const STEP_DOWN_CHANCE: f64 = 0.1;
/// Leaves that are asked for others at the same time.
const VOUCHING_MAX: usize = 8;
/// Comparisons under way.
const RANGES_MAX: usize = 4;
/// A leaf that answers fewer of a hundred promptly is the last to be asked.
const PROMPT_PERCENT_MIN: u8 = 90;

#[derive(Debug, Clone)]
pub(super) struct Leaf<C> {
    since: Instant,
    heard_at: Instant,
    pub(super) contact: C,
    standing: Standing,
    /// It was to be promoted before.
    is_passed_over: bool,
}

/// What a super-peer has besides what leaves have.
#[derive(Debug, Clone)]
pub(super) struct Seat<C> {
    pub(super) centre: Centre<C>,
    incarnation: u32,
    /// Sorted by contact; at most `LEAVES_MAX`.
    pub(super) leaves: Vec<Leaf<C>>,
    /// With how far each is to be told; at most `PENDING_MAX`.
    pending: Vec<(Report<C>, u8)>,
    /// When what is pending is told.
    tell_at: Option<Instant>,
    upkeep_at: Instant,
    /// No comparison before.
    compare_after: Instant,
    discover_at: Instant,
    promote_after: Instant,
    low_since: Option<Instant>,
}

impl<C: Contact> Seat<C> {
    pub(super) fn new(now: Instant, centre: Centre<C>) -> Self {
        Self {
            centre,
            incarnation: 0,
            leaves: Vec::new(),
            pending: Vec::new(),
            tell_at: None,
            upkeep_at: now,
            compare_after: now,
            discover_at: now,
            promote_after: now,
            low_since: None,
        }
    }

    /// Of a network that has been there for long: not in step with the others.
    pub(super) fn begin(&mut self, now: Instant, config: &HybridConfig, rng: &mut dyn RngCore) {
        self.upkeep_at = now + config.upkeep_every.mul_f64(rng.random_range(0.0..1.0));
        self.discover_at = now + config.compare_every.mul_f64(rng.random_range(0.0..1.0));
        self.leaves.shrink_to_fit();
    }

    pub(super) fn add_leaf(&mut self, now: Instant, contact: C, standing: Standing) {
        match self.leaves.binary_search_by(|leaf| leaf.contact.cmp(&contact)) {
            Ok(place) => {
                self.leaves[place].heard_at = now;
                self.leaves[place].standing = standing;
            }
            Err(place) => {
                let leaf = Leaf { since: now, heard_at: now, contact, standing, is_passed_over: false };
                self.leaves.insert(place, leaf);
            }
        }
    }

    fn remove_leaf(&mut self, contact: &C) {
        if let Ok(place) = self.leaves.binary_search_by(|leaf| leaf.contact.cmp(contact)) {
            self.leaves.remove(place);
        }
    }

    fn has_leaf(&self, contact: &C) -> bool {
        self.leaves.binary_search_by(|leaf| leaf.contact.cmp(contact)).is_ok()
    }

    /// The fittest: prompt, and the longest here, of those whom strangers reach. One of the others only
    /// if there is none of these, and that `may_be_unreached`. All are asked once before one is again.
    pub(super) fn candidate(&mut self, may_be_unreached: bool) -> Option<C> {
        let is_any_reached = self.leaves.iter().any(|leaf| leaf.standing.is_reached);
        if !is_any_reached && !may_be_unreached {
            return None;
        }
        let mut eligible: Vec<&mut Leaf<C>> =
            self.leaves.iter_mut().filter(|leaf| leaf.standing.is_reached == is_any_reached).collect();
        if eligible.iter().all(|leaf| leaf.is_passed_over) {
            eligible.iter_mut().for_each(|leaf| leaf.is_passed_over = false);
        }
        let fitness = |leaf: &&mut Leaf<C>| {
            let is_prompt = leaf.standing.prompt_percent >= PROMPT_PERCENT_MIN;
            (!leaf.is_passed_over, is_prompt, std::cmp::Reverse(leaf.since))
        };
        let leaf = eligible.into_iter().max_by_key(fitness)?;
        leaf.is_passed_over = true;
        Some(leaf.contact.clone())
    }

    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>()
            + self.centre.heap_bytes()
            + self.leaves.capacity() * size_of::<Leaf<C>>()
            + self.pending.capacity() * size_of::<(Report<C>, u8)>()
    }
}

/// Tells whether two mean the same super-peers, in the same order.
pub(super) fn hash_of<C: Contact>(contacts: &[C]) -> u32 {
    contacts.iter().fold(contacts.len() as u32, |hash, contact| {
        let word = word_of(contact.id());
        hash.rotate_left(7) ^ (word ^ word >> 32) as u32
    })
}

/// Leaves.
impl<C: Contact> Hybrid<C> {
    pub(super) fn asked_to_find(&self, from: C, request: u32, key: Id, skip: u8, out: &mut HybridOut<C>) {
        let nearest = match self.seat() {
            Some(seat) => seat.centre.nearest(key, skip.into(), NAMED_MAX / 2),
            None => self.attached.clone(),
        };
        out.send(from, HybridMessage::Found { request, is_super: self.is_super(), nearest });
    }

    pub(super) fn asked_to_attach(
        &mut self,
        now: Instant,
        from: C,
        request: u32,
        standing: Standing,
        supers: u32,
        out: &mut HybridOut<C>,
    ) {
        let HybridConfig { attachments, leaves_high, .. } = *self.config;
        let (me, frozen) = (self.me.clone(), self.frozen);
        let Role::Super(seat) = &mut self.role else {
            let supers = self.attached.clone();
            return out.send(from, HybridMessage::Attached { request, is_taken: false, supers });
        };
        let mut nearest = seat.centre.nearest(from.id(), 0, NAMED_MAX.min(2 * attachments + 1));
        // It says that it is a leaf.
        let was_super = nearest.contains(&from);
        nearest.retain(|contact| *contact != from);
        let has_room = seat.has_leaf(&from) || seat.leaves.len() < LEAVES_MAX;
        let is_taken = !frozen && has_room && nearest.contains(&me);
        if is_taken {
            seat.add_leaf(now, from.clone(), standing);
            if seat.leaves.len() > leaves_high {
                // In a crowd it does not wait for the next time.
                seat.upkeep_at = seat.upkeep_at.min(seat.promote_after);
            }
        } else {
            seat.remove_leaf(&from);
        }
        let is_right = hash_of(&nearest[..attachments.min(nearest.len())]) == supers;
        let supers = if is_right { Vec::new() } else { nearest };
        out.send(from.clone(), HybridMessage::Attached { request, is_taken, supers });
        if was_super && !frozen {
            self.report_gone(now, &from, out);
        }
    }

    pub(super) fn leaf_goes(&mut self, from: &C) {
        if let Some(seat) = self.seat_mut() {
            seat.remove_leaf(from);
        }
    }

    /// Leaves that have enough others nearer to them, now that there is one more.
    fn release_leaves(&mut self, newcomer: &C, out: &mut HybridOut<C>) {
        let attachments = self.config.attachments;
        let me = self.me.clone();
        let Role::Super(seat) = &mut self.role else { return };
        seat.remove_leaf(newcomer);
        let Seat { leaves, centre, .. } = &mut **seat;
        leaves.retain(|leaf| {
            let id = leaf.contact.id();
            if newcomer.id().xor(id) > me.id().xor(id) {
                return true;
            }
            let supers = centre.nearest(id, 0, attachments);
            let stays = supers.contains(&me);
            if !stays {
                out.send(leaf.contact.clone(), HybridMessage::Supers { supers });
            }
            stays
        });
    }
}

/// Becoming a super-peer, and ceasing to be one.
impl<C: Contact> Hybrid<C> {
    /// The first one, or the first after all were gone.
    pub(super) fn rise_alone(&mut self, now: Instant, out: &mut HybridOut<C>) {
        let seat = Seat::new(now, Centre::new(self.me.clone(), 0));
        self.take_seat(now, Box::new(seat), out);
        for contact in self.kademlia.contacts() {
            out.send(contact, HybridMessage::Supers { supers: vec![self.me.clone()] });
        }
    }

    fn take_seat(&mut self, now: Instant, seat: Box<Seat<C>>, out: &mut HybridOut<C>) {
        if self.is_orphan() && self.phase == Phase::Member {
            self.losses = self.losses.wrapping_add(1);
        }
        self.role = Role::Super(seat);
        self.role_since = now;
        for contact in std::mem::take(&mut self.attached) {
            out.send(contact, HybridMessage::Detach);
        }
        self.spares = Vec::new();
        self.seek = None;
        self.election = Election::Idle;
        self.drop_calls(|call| matches!(call.purpose, Purpose::Attach | Purpose::Seek));
        self.moved();
        self.joined(now, out);
    }

    /// One super-peer found another to have this leaf promoted.
    pub(super) fn asked_to_vouch(&mut self, now: Instant, from: &C, candidate: C, out: &mut HybridOut<C>) {
        let vouching = self.calls.iter().filter(|call| call.purpose == Purpose::Promote).count();
        let Some(seat) = self.seat().filter(|seat| seat.centre.has(from)) else { return };
        if vouching < VOUCHING_MAX && !seat.centre.has(&candidate) && !self.frozen {
            self.call(now, candidate, Purpose::Promote, |request| HybridMessage::Promote { request }, out);
        }
    }

    pub(super) fn promoted(&mut self, from: &C, request: u32) {
        self.answered(from, request, |purpose| purpose == Purpose::Promote);
    }

    /// It learns of the others from one of its own super-peers: who asks is a stranger.
    pub(super) fn asked_to_rise(&mut self, now: Instant, from: C, request: u32, out: &mut HybridOut<C>) {
        let lasts = self.config.answer_timeout * 4;
        let is_chosen = self.chosen.as_ref().is_some_and(|(by, at)| *by == from && *at + lasts > now);
        if !is_chosen && !self.attached.contains(&from) {
            // That it was chosen may be on its way still, and then it is asked again.
            return;
        }
        let is_rested = self.demoted_at.is_none_or(|at| at + ROLE_MIN <= now);
        let is_leaf = matches!(self.role, Role::Leaf) && self.phase == Phase::Member;
        let through = self.attached.first().cloned().filter(|_| is_leaf && is_rested && !self.frozen);
        out.send(from, HybridMessage::Promoted { request, is_willing: through.is_some() });
        if let Some(through) = through {
            let seat = Box::new(Seat::new(now, Centre::new(self.me.clone(), 0)));
            self.role = Role::Rising { through: through.clone(), seat };
            self.compare_ranges(now, through, true, out);
        }
    }

    pub(super) fn fail_to_rise(&mut self, silent: &C) {
        if matches!(&self.role, Role::Rising { through, .. } if through == silent) {
            self.role = Role::Leaf;
        }
    }

    /// It knows the others, and they hear of it.
    fn rise(&mut self, now: Instant, out: &mut HybridOut<C>) {
        let Role::Rising { seat, .. } = std::mem::replace(&mut self.role, Role::Leaf) else { return };
        let report = seat.centre.report(&self.me);
        self.take_seat(now, seat, out);
        if let Some(report) = report {
            self.tell_later(now, report, REACH_MAX, out);
        }
    }

    /// Tells leaves and super-peers that this node is none any more.
    pub(super) fn give_up_seat(&mut self, now: Instant, out: &mut HybridOut<C>) {
        let Some(seat) = self.seat_mut() else { return };
        let leaves = std::mem::take(&mut seat.leaves);
        let incarnation = seat.incarnation;
        let me = self.me.clone();
        self.tell_later(now, Report { contact: me.clone(), incarnation, is_up: false }, REACH_MAX, out);
        self.tell(now, out);
        let attachments = self.config.attachments;
        let Role::Super(seat) = &self.role else { return };
        for leaf in leaves {
            let mut supers = seat.centre.nearest(leaf.contact.id(), 0, attachments + 1);
            supers.retain(|contact| *contact != me);
            out.send(leaf.contact, HybridMessage::Supers { supers });
        }
        self.drop_calls(|call| !matches!(call.purpose, Purpose::Lookup(_) | Purpose::Tell));
    }

    fn step_down(&mut self, now: Instant, out: &mut HybridOut<C>) {
        self.give_up_seat(now, out);
        let Role::Super(seat) = std::mem::replace(&mut self.role, Role::Leaf) else { return };
        self.role_since = now;
        self.demoted_at = Some(now);
        self.keep_at = now + self.config.keep_every;
        self.moved();
        let supers = seat.centre.nearest(self.me.id(), 1, self.config.attachments);
        self.begin_seek(now, supers, out);
    }
}

/// What super-peers say to each other.
impl<C: Contact> Hybrid<C> {
    /// Believes what was reported, if it is new, and passes it on.
    fn take_report(&mut self, now: Instant, report: Report<C>, reach: u8, out: &mut HybridOut<C>) -> bool {
        let me = self.me.clone();
        let Some(seat) = self.seat_mut() else { return false };
        if report.contact == me {
            let is_denied = if report.is_up {
                report.incarnation > seat.incarnation
            } else {
                report.incarnation >= seat.incarnation
            };
            let Some(next) = report.incarnation.checked_add(1).filter(|_| is_denied) else { return false };
            seat.incarnation = next;
            let report = Report { contact: me, incarnation: next, is_up: true };
            seat.centre.apply(&report, now);
            self.tell_later(now, report, REACH_MAX, out);
            return true;
        }
        let change = seat.centre.apply(&report, now);
        if change == Change::Nothing {
            return false;
        }
        let matters = change != Change::Again && seat.centre.matters(me.id(), report.contact.id());
        if change == Change::Up {
            self.release_leaves(&report.contact, out);
        }
        if matters {
            self.moved();
        }
        if reach > 0 {
            self.tell_later(now, report, reach, out);
        }
        true
    }

    pub(super) fn report_gone(&mut self, now: Instant, contact: &C, out: &mut HybridOut<C>) {
        let report = self.seat().and_then(|seat| seat.centre.report(contact));
        if let Some(report) = report.filter(|report| report.is_up && !self.frozen) {
            self.take_report(now, Report { is_up: false, ..report }, REACH_MAX, out);
        }
    }

    fn tell_later(&mut self, now: Instant, report: Report<C>, reach: u8, out: &mut HybridOut<C>) {
        let tell_every = self.config.tell_every;
        let Some(seat) = self.seat_mut() else { return };
        seat.tell_at.get_or_insert(now + tell_every);
        // Of one super-peer only the newest counts.
        let known = seat.pending.iter_mut().find(|(known, _)| known.contact == report.contact);
        match known {
            Some(known) => *known = (report, reach.max(known.1)),
            None => seat.pending.push((report, reach)),
        }
        if seat.pending.len() >= PENDING_MAX {
            self.tell(now, out);
        }
    }

    /// D1HT, section IV (EDRA): what was heard goes to those 1, 2, 4, … places further, to each
    /// with how far it is to go from there. So each of n hears of it once, log₂n steps later at the latest.
    fn tell(&mut self, now: Instant, out: &mut HybridOut<C>) {
        let me = self.me.id();
        let Some(seat) = self.seat_mut() else { return };
        seat.tell_at = None;
        let pending = std::mem::take(&mut seat.pending);
        let mut messages = Vec::new();
        let steps = usize::BITS - seat.centre.len().saturating_sub(1).leading_zeros();
        for reach in (0..u8::try_from(steps).unwrap_or(REACH_MAX)).rev() {
            let Some(to) = seat.centre.further(me, 1 << reach) else { continue };
            let told: Vec<&Report<C>> = pending
                .iter()
                .filter(|(report, further)| *further > reach && report.contact != *to)
                .map(|(report, _)| report)
                .collect();
            for reports in told.chunks(REPORTS_MAX) {
                messages.push((to.clone(), reach, reports.iter().map(|report| (*report).clone()).collect()));
            }
        }
        for (to, reach, reports) in messages {
            let message = |request| HybridMessage::Tell { request, reach, reports };
            self.call(now, to, Purpose::Tell, message, out);
        }
    }

    pub(super) fn tell_in_its_stead(
        &mut self,
        now: Instant,
        silent: &C,
        reach: u8,
        reports: Vec<Report<C>>,
        out: &mut HybridOut<C>,
    ) {
        let me = self.me.clone();
        let next = self.seat().and_then(|seat| seat.centre.after(silent.id()).cloned());
        if let Some(next) = next.filter(|next| *next != me && !self.frozen) {
            let message = |request| HybridMessage::Tell { request, reach, reports };
            self.call(now, next, Purpose::Tell, message, out);
        }
    }

    pub(super) fn told(
        &mut self,
        now: Instant,
        from: C,
        request: u32,
        reach: u8,
        reports: Vec<Report<C>>,
        out: &mut HybridOut<C>,
    ) {
        let Some(seat) = self.seat() else { return out.send(from, HybridMessage::NotSuper { request }) };
        let is_believed = seat.centre.has(&from);
        out.send(from.clone(), HybridMessage::Told { request });
        if self.frozen {
            return;
        }
        for report in reports.into_iter().take(REPORTS_MAX) {
            // Of itself anybody may speak.
            if is_believed || report.contact == from {
                self.take_report(now, report, reach.min(REACH_MAX), out);
            }
        }
    }

    pub(super) fn asked_to_compare(
        &mut self,
        now: Instant,
        from: C,
        request: u32,
        _digest: u64,
        out: &mut HybridOut<C>,
    ) {
        let Some(seat) = self.seat() else { return out.send(from, HybridMessage::NotSuper { request }) };
        let digest = seat.centre.digest();
        let known = seat.centre.report(&from);
        out.send(from.clone(), HybridMessage::Compared { request, digest });
        match known {
            Some(report) if report.is_up => {}
            _ if self.frozen => {}
            // It does not know that it is said to be gone.
            Some(report) => {
                let message = |request| HybridMessage::Tell { request, reach: 0, reports: vec![report] };
                self.call(now, from, Purpose::Tell, message, out);
            }
            None => self.compare_ranges(now, from, false, out),
        }
    }

    pub(super) fn compared(
        &mut self,
        now: Instant,
        from: C,
        request: u32,
        digest: u64,
        out: &mut HybridOut<C>,
    ) {
        if self.answered(&from, request, |purpose| purpose == Purpose::Compare).is_none() || self.frozen {
            return;
        }
        let compare_every = self.config.compare_every;
        let Some(seat) = self.seat_mut() else { return };
        if seat.centre.digest() != digest && seat.compare_after <= now {
            seat.compare_after = now + compare_every;
            self.compare_ranges(now, from, false, out);
        }
    }

    fn compare_ranges(&mut self, now: Instant, with: C, is_return: bool, out: &mut HybridOut<C>) {
        let comparing = |call: &&Call<C>| call.purpose == Purpose::Ranges;
        if self.calls.iter().filter(comparing).count() >= RANGES_MAX
            || self.is_calling(|call| call.purpose == Purpose::Ranges && call.to == with)
        {
            return;
        }
        let digests = match &self.role {
            Role::Leaf => return,
            Role::Rising { seat, .. } | Role::Super(seat) => seat.centre.digests(),
        };
        let message = |request| HybridMessage::Ranges { request, digests, is_return };
        self.call(now, with, Purpose::Ranges, message, out);
    }

    #[allow(clippy::too_many_arguments, reason = "a question's fields, and who asks when")]
    pub(super) fn asked_for_ranges(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        from: C,
        request: u32,
        digests: &[u32],
        is_return: bool,
        out: &mut HybridOut<C>,
    ) {
        let Some(seat) = self.seat() else { return out.send(from, HybridMessage::NotSuper { request }) };
        let first = rng.random_range(0..RANGES);
        let reports = seat.centre.differing(digests, first, REPORTS_MAX);
        let differs = digests != seat.centre.digests();
        out.send(from.clone(), HybridMessage::Page { request, reports });
        if differs && !is_return && !self.frozen {
            self.compare_ranges(now, from, true, out);
        }
    }

    pub(super) fn page(
        &mut self,
        now: Instant,
        from: C,
        request: u32,
        reports: Vec<Report<C>>,
        out: &mut HybridOut<C>,
    ) {
        if self.answered(&from, request, |purpose| purpose == Purpose::Ranges).is_none() || self.frozen {
            return;
        }
        let is_full = reports.len() >= REPORTS_MAX;
        let reports = reports.into_iter().take(REPORTS_MAX);
        match &mut self.role {
            Role::Super(_) => {
                let mut news = 0;
                for report in reports {
                    news += usize::from(self.take_report(now, report, REACH_MAX, out));
                }
                if is_full && news > 0 {
                    self.compare_ranges(now, from, true, out);
                }
            }
            Role::Rising { through, seat } if *through == from => {
                let mut news = 0;
                for report in reports {
                    if report.contact != self.me {
                        news += usize::from(seat.centre.apply(&report, now) != Change::Nothing);
                    } else if let Some(next) = report.incarnation.checked_add(1) {
                        seat.incarnation = seat.incarnation.max(next);
                        let report = Report { incarnation: seat.incarnation, is_up: true, ..report };
                        seat.centre.apply(&report, now);
                    }
                }
                if is_full && news > 0 {
                    self.compare_ranges(now, from, true, out);
                } else if seat.centre.has(&from) {
                    self.rise(now, out);
                } else {
                    // It has not even named itself.
                    self.fail_to_rise(&from);
                }
            }
            Role::Rising { .. } | Role::Leaf => {}
        }
    }

    /// Whom it takes for a super-peer is a leaf.
    pub(super) fn is_no_super(&mut self, now: Instant, from: C, request: u32, out: &mut HybridOut<C>) {
        let is_between = |purpose| matches!(purpose, Purpose::Compare | Purpose::Tell | Purpose::Ranges);
        let Some(call) = self.take_call(&from, request, is_between) else { return };
        if !self.frozen {
            self.report_gone(now, &from, out);
            self.fail_to_rise(&from);
            self.undelivered(now, call, out);
        }
    }

    /// Asks somebody for super-peers, among which may be one that it does not know.
    pub(super) fn discover(&mut self, now: Instant, contact: C, out: &mut HybridOut<C>) {
        let key = self.me.id();
        if contact != self.me {
            let message = |request| HybridMessage::Find { request, key, skip: 0 };
            self.call(now, contact, Purpose::Discover, message, out);
        }
    }

    pub(super) fn discovered(
        &mut self,
        now: Instant,
        from: C,
        is_super: bool,
        nearest: Vec<C>,
        out: &mut HybridOut<C>,
    ) {
        let Some(seat) = self.seat().filter(|_| !self.frozen) else { return };
        let mut named = is_super.then_some(from).into_iter().chain(nearest.into_iter().take(NAMED_MAX));
        let unknown = named.find(|contact| seat.centre.report(contact).is_none());
        if let Some(unknown) = unknown {
            self.compare_ranges(now, unknown, false, out);
        }
    }

    pub(super) fn seat_upkeep_at(&self) -> Option<Instant> {
        let seat = self.seat()?;
        seat.tell_at.into_iter().chain([seat.upkeep_at, seat.discover_at]).min()
    }

    pub(super) fn keep_up_as_super(&mut self, now: Instant, rng: &mut dyn RngCore, out: &mut HybridOut<C>) {
        let Some(seat) = self.seat() else { return };
        if seat.tell_at.is_some_and(|at| at <= now) {
            self.tell(now, out);
        }
        let HybridConfig { upkeep_every, compare_every, .. } = *self.config;
        let upkeep = Self::about(upkeep_every, rng);
        // So few may be a part that was cut off.
        let are_few = self.seat().is_some_and(|seat| seat.centre.len() < SUPERS_MIN);
        let compare = Self::about(if are_few { upkeep_every } else { compare_every }, rng);
        let me = self.me.id();
        let silent_for = self.config.keep_every * SILENT_PERIODS;
        let Some(seat) = self.seat_mut() else { return };
        let is_discovering = seat.discover_at <= now;
        if is_discovering {
            seat.discover_at = now + compare;
        }
        let mut next = None;
        let is_due = seat.upkeep_at <= now;
        if is_due {
            seat.upkeep_at = now + upkeep;
            seat.centre.forget_gone(now);
            seat.leaves.retain(|leaf| leaf.heard_at + silent_for > now);
            let digest = seat.centre.digest();
            next = seat.centre.further(me, 1).cloned().map(|next| (next, digest));
        }
        if is_discovering && let Some(contact) = self.kademlia.contacts().into_iter().choose(rng) {
            self.discover(now, contact, out);
        }
        if let Some((next, digest)) = next {
            let message = |request| HybridMessage::Compare { request, digest };
            self.call(now, next, Purpose::Compare, message, out);
        }
        if is_due {
            self.balance(now, rng, out);
        }
    }

    /// Has a leaf promoted, or steps down.
    fn balance(&mut self, now: Instant, rng: &mut dyn RngCore, out: &mut HybridOut<C>) {
        let HybridConfig { leaves_high, leaves_low, upkeep_every, keep_every, .. } = *self.config;
        let (me, role_since) = (self.me.clone(), self.role_since);
        let is_settled = self.failed_at.is_none_or(|at| at + keep_every * COME_BACK_PERIODS <= now);
        let Some(seat) = self.seat_mut() else { return };
        let (load, supers) = (seat.leaves.len(), seat.centre.len());
        let is_high = load > leaves_high && supers < SUPERS_MAX;
        if (is_high || supers < SUPERS_MIN) && seat.promote_after <= now {
            seat.promote_after = now + upkeep_every.mul_f64(PROMOTE_AFTER);
            let Some(candidate) = seat.candidate(is_settled) else { return };
            let strangers = seat.centre.all().filter(|contact| **contact != me);
            match strangers.choose(rng).cloned() {
                Some(stranger) => {
                    out.send(candidate.clone(), HybridMessage::Chosen { voucher: stranger.clone() });
                    out.send(stranger, HybridMessage::Vouch { candidate });
                }
                None => {
                    let message = |request| HybridMessage::Promote { request };
                    self.call(now, candidate, Purpose::Promote, message, out);
                }
            }
        } else if load < leaves_low && supers > SUPERS_MIN {
            let since = (*seat.low_since.get_or_insert(now)).max(role_since);
            if since + ROLE_MIN <= now && rng.random_bool(STEP_DOWN_CHANCE) {
                self.step_down(now, out);
            }
        } else {
            seat.low_since = None;
        }
    }
}
