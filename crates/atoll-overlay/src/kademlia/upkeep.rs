//! What keeps the tables right: joining, refreshing, and probing the oldest of a full bucket
//! (sections 2.2 and 2.3).

use rand::Rng;

use super::{
    lookup::{Purpose, Question},
    tables::Seen,
    *,
};

/// After a join that led nowhere.
const JOIN_AGAIN: Duration = Duration::from_secs(30);
/// The oldest contact of a full bucket is probed at most this often, whatever number of
/// strangers comes by: 0.2 messages a second, answers included. Lookups notice who is dead too.
const PROBE_EVERY: Duration = Duration::from_secs(10);

impl<C: Contact> Kademlia<C> {
    /// After half to one and a half of the period, so that nodes that began together do not go on
    /// together.
    pub(super) fn next_refresh(&self, now: Instant, rng: &mut dyn RngCore) -> Instant {
        now + self.config.refresh_every.mul_f64(rng.random_range(0.5..1.5))
    }

    /// One lookup at a time, so that a node that joins a network of a million does not ask
    /// twenty buckets' worth of nodes at once.
    pub(super) fn upkeep(&mut self, now: Instant, rng: &mut dyn RngCore, out: &mut KademliaOut<C>) {
        if self.is_looking(|purpose| purpose != Purpose::Caller) {
            return;
        }
        if self.place_at <= now {
            self.place_at = match self.phase {
                Phase::Joining => now + JOIN_AGAIN,
                _ => self.next_refresh(now, rng),
            };
            self.start(now, self.tables.me.id(), Purpose::Place, out);
        } else if let Some((_, bucket)) = self.tables.refresh_next().filter(|(at, _)| *at <= now) {
            self.tables.set_refresh(bucket, self.next_refresh(now, rng));
            let random = Id::from_halves(rng.random(), rng.random());
            self.start(now, self.tables.within(bucket, random), Purpose::Refresh, out);
        }
    }

    pub(super) fn upkeep_at(&self) -> Option<Instant> {
        let is_upkeep_under_way = || self.is_looking(|purpose| purpose != Purpose::Caller);
        if self.phase == Phase::Outside || self.frozen || is_upkeep_under_way() {
            return None;
        }
        let refresh = self.tables.refresh_next().map(|(at, _)| at);
        refresh.into_iter().chain([self.place_at]).min()
    }

    /// Many may be gone: looks its own place up soon, and somebody in each bucket's range. Those who
    /// are asked know this node then, even if it knew nobody else who lives.
    pub(crate) fn refresh_all(&mut self, now: Instant) {
        if self.phase == Phase::Member {
            self.place_at = now;
            (0..self.tables.buckets_len()).for_each(|bucket| self.tables.set_refresh(bucket, now));
        }
    }

    /// Section 2.3: a node that joins looks itself up, and then refreshes all buckets farther
    /// away than its nearest neighbour. By then others have it in their buckets.
    pub(super) fn found_my_place(&mut self, now: Instant, answered: bool, out: &mut KademliaOut<C>) {
        if self.phase != Phase::Joining {
            return;
        }
        if !answered {
            return out.notify(Notification::JoinFailed);
        }
        self.phase = Phase::Member;
        for bucket in (0..self.tables.buckets_len()).filter(|_| self.config.refreshes_at_join) {
            self.tables.set_refresh(bucket, now);
        }
        out.notify(Notification::Joined);
    }

    /// Somebody sent a message, so it is there.
    pub(super) fn seen(&mut self, now: Instant, rng: &mut dyn RngCore, from: C, out: &mut KademliaOut<C>) {
        self.heard_at = now;
        if self.frozen {
            return;
        }
        let refresh_at = self.next_refresh(now, rng);
        if let Seen::Full { oldest } = self.tables.seen(from, refresh_at)
            && self.probe_after <= now
            && !self.is_probing()
        {
            self.probe_after = now + PROBE_EVERY;
            self.call(now, oldest, Question::Probe, out);
        }
    }
}
