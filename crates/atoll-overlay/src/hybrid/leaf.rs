//! A leaf's side: attaching to super-peers, looking for some when all are gone, and becoming one
//! when there are none.
//!
//! ```text
//! orphan: look for super-peers ─► none ─► wait ─► look once more ─► none ─► become one
//! ```

use std::collections::VecDeque;

use rand::seq::SliceRandom;

use super::{seat::hash_of, *};

/// Nodes that are asked for super-peers before it counts as certain that there are none.
const SOUGHT_MAX: usize = 48;
/// At once.
const SOUGHT_AT_ONCE: usize = 3;
/// Contacts of the fallback that an orphan asks. If one node in four still knows a super-peer that
/// lives, sixteen miss it once in a hundred times.
const CONTACTS_SOUGHT: usize = 16;
/// An orphan waits for up to so many `upkeep_every`, drawn, before it promotes itself, so that the
/// first ones are heard of before the others do: each tells its 64 contacts, and one node in 64
/// should be one.
const ELECTION_SPREAD: f64 = 2.0;
/// On top of that a newcomer waits for so many, and half of it whoever has been there for
/// `UPTIME_HALVES_WAIT`.
const ELECTION_WAIT_MAX: f64 = 2.0;
const UPTIME_HALVES_WAIT: Duration = Duration::from_secs(600);
/// And for so many whom no stranger has reached: others go first.
const UNREACHED_WAIT: f64 = ELECTION_SPREAD + ELECTION_WAIT_MAX;
/// Of two super-peers that fail within so many `keep_every` the second tells that more may have
/// failed, all three of some key among them, though this node has others.
const TOGETHER_PERIODS: u32 = 3;

/// A search for super-peers: it ends when one takes this node as its leaf.
#[derive(Debug, Clone)]
pub(super) struct Seek<C> {
    /// Not asked yet; at most `SOUGHT_MAX`.
    queue: VecDeque<C>,
    /// At most `SOUGHT_MAX`.
    tried: Vec<C>,
}

impl<C> Seek<C> {
    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>() + (self.queue.capacity() + self.tried.capacity()) * size_of::<C>()
    }
}

/// How far an orphan is with promoting itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Election {
    /// It has super-peers, or looks for them.
    #[default]
    Idle,
    /// The last one is gone.
    Look,
    /// There are none: a time is to be drawn.
    Draw,
    At(Instant),
    /// The last look is under way.
    Last,
    /// It was in vain.
    Rise,
}

impl<C: Contact> Hybrid<C> {
    fn standing(&self) -> Standing {
        let (asked, prompt) = self.asked;
        let percent = (u32::from(prompt) * 100).checked_div(asked.into()).unwrap_or(100);
        Standing { is_reached: self.is_reached, prompt_percent: u8::try_from(percent).unwrap_or(100) }
    }

    pub(super) fn sort_by_distance(&self, contacts: &mut Vec<C>) {
        contacts.sort_by_key(|contact| contact.id().xor(self.me.id()));
        contacts.dedup();
    }

    pub(super) fn begin_seek(&mut self, now: Instant, contacts: Vec<C>, out: &mut HybridOut<C>) {
        if self.seek.is_some() || self.frozen {
            return;
        }
        let queue = contacts.into_iter().filter(|contact| *contact != self.me).take(SOUGHT_MAX).collect();
        self.seek = Some(Box::new(Seek { queue, tried: Vec::new() }));
        self.go_on_seeking(now, out);
    }

    /// From who is in reserve, and some of the fallback's contacts.
    fn seek_anew(&mut self, now: Instant, rng: &mut dyn RngCore, out: &mut HybridOut<C>) {
        let mut contacts = self.kademlia.contacts();
        contacts.shuffle(rng);
        contacts.truncate(CONTACTS_SOUGHT);
        let reserve = std::mem::take(&mut self.spares).into_iter();
        let all = reserve.chain(contacts).chain(self.known.iter().cloned()).collect();
        self.begin_seek(now, all, out);
    }

    pub(super) fn go_on_seeking(&mut self, now: Instant, out: &mut HybridOut<C>) {
        loop {
            let Some(seek) = &mut self.seek else { return };
            let is_its = |purpose| matches!(purpose, Purpose::Seek | Purpose::Attach);
            let under_way = self.calls.iter().filter(|call| is_its(call.purpose)).count();
            if under_way >= SOUGHT_AT_ONCE {
                return;
            }
            let next = if seek.tried.len() < SOUGHT_MAX { seek.queue.pop_front() } else { None };
            match next {
                Some(contact) if seek.tried.contains(&contact) => {}
                Some(contact) => {
                    seek.tried.push(contact.clone());
                    let key = self.me.id();
                    let message = |request| HybridMessage::Find { request, key, skip: 0 };
                    self.call(now, contact, Purpose::Seek, message, out);
                }
                None if under_way > 0 => return,
                None => {
                    self.seek = None;
                    return self.sought_in_vain(out);
                }
            }
        }
    }

    /// A super-peer names those that this node should be attached to; a leaf names its own, which
    /// are asked next.
    pub(super) fn sought(&mut self, now: Instant, is_super: bool, nearest: Vec<C>, out: &mut HybridOut<C>) {
        if is_super {
            for contact in nearest.into_iter().take(self.config.attachments) {
                self.attach_to(now, contact, out);
            }
        } else if let Some(seek) = &mut self.seek {
            for contact in nearest.into_iter().take(NAMED_MAX).filter(|contact| *contact != self.me) {
                if seek.queue.len() < SOUGHT_MAX {
                    seek.queue.push_front(contact);
                }
            }
        }
        self.go_on_seeking(now, out);
    }

    fn sought_in_vain(&mut self, out: &mut HybridOut<C>) {
        match (self.phase, self.has_fallback) {
            (Phase::Joining, None) => {}
            (Phase::Joining, Some(false)) => out.notify(Notification::JoinFailed),
            _ if self.election == Election::Last => self.election = Election::Rise,
            _ => self.election = Election::Draw,
        }
    }

    /// Those that let this node in, or whom they know, may have no super-peers either.
    pub(super) fn fallback_joined(&mut self, now: Instant, out: &mut HybridOut<C>) {
        self.has_fallback = Some(true);
        if self.phase == Phase::Joining && self.seek.is_none() {
            self.begin_seek(now, self.kademlia.contacts(), out);
        }
    }

    /// The fallback tries again now and then.
    pub(super) fn check_joining(&mut self, now: Instant, out: &mut HybridOut<C>) {
        self.has_fallback = Some(false);
        if self.phase == Phase::Joining {
            self.begin_seek(now, self.known.clone(), out);
        }
    }

    fn attach_to(&mut self, now: Instant, contact: C, out: &mut HybridOut<C>) {
        let is_asked = self.is_calling(|call| call.to == contact && call.purpose == Purpose::Attach);
        if contact != self.me && !is_asked && !self.is_super() && !self.frozen {
            let (standing, supers) = (self.standing(), hash_of(&self.attached));
            let message = |request| HybridMessage::Attach { request, standing, supers };
            self.call(now, contact, Purpose::Attach, message, out);
        }
    }

    pub(super) fn attached_to(
        &mut self,
        now: Instant,
        from: C,
        request: u32,
        is_taken: bool,
        supers: Vec<C>,
        out: &mut HybridOut<C>,
    ) {
        if self.answered(&from, request, |purpose| purpose == Purpose::Attach).is_none() {
            return;
        }
        if self.is_super() || self.frozen {
            return if is_taken {
                out.send(from, HybridMessage::Detach)
            };
        }
        if is_taken && !self.attached.contains(&from) {
            if self.attached.is_empty() {
                self.has_centre(now, out);
            }
            let mut attached = std::mem::take(&mut self.attached);
            attached.push(from.clone());
            self.sort_by_distance(&mut attached);
            if attached.len() > self.config.attachments
                && let Some(farthest) = attached.pop()
            {
                out.send(farthest, HybridMessage::Detach);
            }
            attached.shrink_to_fit();
            self.attached = attached;
            self.moved();
        } else if !is_taken {
            self.let_go(&from);
        }
        if !supers.is_empty() {
            let others = supers.into_iter().filter(|other| *other != from).collect();
            self.turn_to(now, others, out);
        }
        self.look_if_orphaned();
        self.go_on_seeking(now, out);
    }

    /// There are super-peers, and this node has one.
    fn has_centre(&mut self, now: Instant, out: &mut HybridOut<C>) {
        self.seek = None;
        self.election = Election::Idle;
        // Who stepped down has lost nothing.
        let stepped_down = self.demoted_at.is_some_and(|at| at + self.config.keep_every > now);
        if self.phase == Phase::Member && !stepped_down {
            self.losses = self.losses.wrapping_add(1);
        }
        self.joined(now, out);
    }

    /// A super-peer of this node's, or of its table, failed.
    pub(super) fn note_failure(&mut self, now: Instant) {
        let together = self.config.keep_every * TOGETHER_PERIODS;
        if self.failed_at.is_some_and(|at| at + together > now) && self.phase == Phase::Member {
            self.losses = self.losses.wrapping_add(1);
        }
        self.failed_at = Some(now);
    }

    fn let_go(&mut self, contact: &C) {
        let before = self.attached.len();
        self.attached.retain(|attached| attached != contact);
        if self.attached.len() < before {
            self.moved();
        }
    }

    fn look_if_orphaned(&mut self) {
        if self.phase == Phase::Member
            && self.is_orphan()
            && self.election == Election::Idle
            && self.seek.is_none()
        {
            self.election = Election::Look;
        }
    }

    /// Attaches to the nearest of those that are named and those it has.
    fn turn_to(&mut self, now: Instant, named: Vec<C>, out: &mut HybridOut<C>) {
        let mut all: Vec<C> =
            named.into_iter().take(NAMED_MAX).filter(|contact| *contact != self.me).collect();
        all.extend(self.attached.iter().cloned());
        self.sort_by_distance(&mut all);
        let spare = all.split_off(self.config.attachments.min(all.len()));
        for contact in all.into_iter().filter(|contact| !self.attached.contains(contact)).collect::<Vec<C>>()
        {
            self.attach_to(now, contact, out);
        }
        self.spares = spare.into_iter().filter(|spare| !self.attached.contains(spare)).collect();
        self.spares.truncate(NAMED_MAX);
    }

    /// It did not answer, or is no super-peer any more: the next in reserve takes its place.
    pub(super) fn detached_from(&mut self, now: Instant, contact: &C, out: &mut HybridOut<C>) {
        let was_attached = self.attached.contains(contact);
        self.let_go(contact);
        self.spares.retain(|spare| spare != contact);
        if was_attached && !self.spares.is_empty() {
            let next = self.spares.remove(0);
            self.attach_to(now, next, out);
        }
        self.look_if_orphaned();
    }

    /// Somebody says which super-peers this node should have.
    pub(super) fn told_supers(&mut self, now: Instant, from: &C, supers: Vec<C>, out: &mut HybridOut<C>) {
        if self.is_super() || self.frozen {
            return;
        }
        if self.attached.contains(from) {
            if !supers.contains(from) {
                self.let_go(from);
            }
            self.turn_to(now, supers, out);
            self.look_if_orphaned();
        } else if self.is_orphan() {
            for contact in supers.into_iter().take(self.config.attachments) {
                self.attach_to(now, contact, out);
            }
        }
    }

    /// Many of those whom it knows are gone as well. Once more a little later: who is found to be
    /// gone makes room for somebody in reserve, who has not been asked yet and may know nobody else.
    pub(super) fn refresh_fallback(&mut self, now: Instant) {
        self.kademlia.refresh_all(now);
        self.refresh_again_at = Some(now + self.config.compare_every * 2);
    }

    pub(super) fn leaf_upkeep_at(&self) -> Option<Instant> {
        if self.is_super() {
            return None;
        }
        let election = match self.election {
            Election::Idle | Election::Last => None,
            Election::Look | Election::Draw | Election::Rise => Some(Instant::ORIGIN),
            Election::At(at) => Some(at),
        };
        election.into_iter().chain([self.keep_at]).min()
    }

    pub(super) fn keep_up_as_leaf(&mut self, now: Instant, rng: &mut dyn RngCore, out: &mut HybridOut<C>) {
        if self.is_super() {
            return;
        }
        if self.keep_at <= now {
            self.keep_at = now + Self::about(self.config.keep_every, rng);
            for contact in self.attached.clone() {
                self.attach_to(now, contact, out);
            }
        }
        match self.election {
            Election::Look => {
                self.election = Election::Idle;
                self.seek_anew(now, rng, out);
                self.refresh_fallback(now);
            }
            Election::Draw => {
                self.joined(now, out);
                self.election = Election::At(now + self.election_wait(now, rng));
            }
            Election::At(at) if at <= now => {
                self.election = Election::Last;
                self.seek_anew(now, rng, out);
            }
            Election::Rise => self.rise_alone(now, out),
            Election::Idle | Election::At(_) | Election::Last => {}
        }
    }

    pub(super) fn election_wait(&self, now: Instant, rng: &mut dyn RngCore) -> Duration {
        let uptime = now.saturating_since(self.joined_at).as_secs_f64();
        let newness = 1.0 / (1.0 + uptime / UPTIME_HALVES_WAIT.as_secs_f64());
        let periods = ELECTION_SPREAD * rng.random_range(0.0..1.0) + ELECTION_WAIT_MAX * newness;
        // Others may find out that their super-peers are gone a `keep_every` later.
        let HybridConfig { upkeep_every, keep_every, .. } = *self.config;
        let unreached =
            if self.is_reached { Duration::ZERO } else { upkeep_every.mul_f64(UNREACHED_WAIT) + keep_every };
        upkeep_every.mul_f64(periods) + unreached
    }
}
