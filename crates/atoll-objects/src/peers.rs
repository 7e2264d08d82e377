//! What this node remembers of its peers as holders: who failed lately, how much is on
//! its way to each, and how long reads usually take.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use atoll_types::{Instant, NodeId};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long a peer that failed is asked last and left out of writes that don't need it.
/// Then one request finds out whether it is back.
const SUSPECT_FOR: Duration = Duration::from_secs(2);
/// What may be on its way to one peer: eight of the largest chunks, a third of a second
/// at 100 MiB/s. A peer that is behind by more delays only the writes that need it.
const ROOM_BYTES: usize = 32 << 20;

const _: () = assert!(ROOM_BYTES >= 2 * crate::chunker::CHUNK_BYTES_MAX);

#[derive(Default)]
pub struct Peers {
    states: Mutex<BTreeMap<NodeId, PeerState>>,
}

struct PeerState {
    room: Arc<Semaphore>,
    /// Set by a call that failed, cleared by one that is answered.
    suspect_until: Instant,
    /// Set when another source was faster though asked later. For reads only: a write
    /// that left it out would leave a copy missing.
    slow_until: Instant,
}

impl Default for PeerState {
    fn default() -> Self {
        Self {
            room: Arc::new(Semaphore::new(ROOM_BYTES)),
            suspect_until: Instant::ORIGIN,
            slow_until: Instant::ORIGIN,
        }
    }
}

impl Peers {
    fn with<T>(&self, node: NodeId, act: impl FnOnce(&mut PeerState) -> T) -> T {
        let mut states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        act(states.entry(node).or_default())
    }

    pub fn failed(&self, node: NodeId, now: Instant) {
        self.with(node, |state| state.suspect_until = now + SUSPECT_FOR);
    }

    pub fn answered(&self, node: NodeId) {
        self.with(node, |state| state.suspect_until = Instant::ORIGIN);
    }

    pub fn was_slow(&self, node: NodeId, now: Instant) {
        self.with(node, |state| state.slow_until = now + SUSPECT_FOR);
    }

    pub fn is_suspect_or_slow(&self, node: NodeId, now: Instant) -> bool {
        self.with(node, |state| state.suspect_until > now || state.slow_until > now)
    }

    /// Room for `bytes` more to `node`, unless it is suspect or swamped.
    pub fn room(&self, node: NodeId, bytes: usize, now: Instant) -> Option<OwnedSemaphorePermit> {
        self.with(node, |state| {
            if state.suspect_until > now {
                return None;
            }
            state.room.clone().try_acquire_many_owned(permits(bytes)).ok()
        })
    }

    pub async fn wait_for_room(&self, node: NodeId, bytes: usize) -> OwnedSemaphorePermit {
        let room = self.with(node, |state| state.room.clone());
        room.acquire_many_owned(permits(bytes)).await.expect("the semaphore is never closed")
    }
}

fn permits(bytes: usize) -> u32 {
    bytes.min(ROOM_BYTES) as u32
}

/// How long to wait for a read before a second source is asked: about the 95th
/// percentile, so one read in twenty is asked for twice.
pub struct HedgeDelay {
    nanos: u64,
}

/// The least that a busy disk and a 1 MiB transfer need; below, hedging doubles the load.
const HEDGE_MIN: Duration = Duration::from_millis(20);
/// A reader notices a second.
const HEDGE_MAX: Duration = Duration::from_secs(1);
/// A twentieth of the way up for each slow read, a nineteenth of that down for each fast
/// one: in balance where one in twenty is slower.
const STEP: u64 = 20;
const FAST_PER_SLOW: u64 = 19;

impl Default for HedgeDelay {
    fn default() -> Self {
        Self { nanos: 4 * HEDGE_MIN.as_nanos() as u64 }
    }
}

impl HedgeDelay {
    pub fn delay(&self) -> Duration {
        Duration::from_nanos(self.nanos)
    }

    pub fn observe(&mut self, took: Duration) {
        let step = (self.nanos / STEP).max(1);
        if took.as_nanos() as u64 > self.nanos {
            self.nanos += step;
        } else {
            self.nanos -= step / FAST_PER_SLOW;
        }
        self.nanos = self.nanos.clamp(HEDGE_MIN.as_nanos() as u64, HEDGE_MAX.as_nanos() as u64);
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn the_hedge_delay_settles_near_the_95th_percentile() {
        let mut delay = HedgeDelay::default();
        let mut rng = StdRng::seed_from_u64(1);
        let mut slower = 0;
        for at in 0..20_000 {
            let took = Duration::from_micros(rng.random_range(30_000..230_000));
            slower += usize::from(at >= 10_000 && took > delay.delay());
            delay.observe(took);
        }
        assert!((200..1_200).contains(&slower), "{slower} of 10,000 would be hedged");
    }

    #[test]
    fn a_peer_is_left_out_after_a_failure_until_it_answers_or_time_passes() {
        let (peers, node) = (Peers::default(), NodeId([1; 32]));
        let at = |seconds| Instant::ORIGIN + Duration::from_secs(seconds);
        assert!(peers.room(node, 1, at(1)).is_some());
        peers.failed(node, at(1));
        assert!(peers.is_suspect_or_slow(node, at(2)) && peers.room(node, 1, at(2)).is_none());
        assert!(peers.room(node, 1, at(4)).is_some());
        peers.failed(node, at(5));
        peers.answered(node);
        assert!(peers.room(node, 1, at(5)).is_some());
        peers.was_slow(node, at(5));
        assert!(peers.is_suspect_or_slow(node, at(6)) && !peers.is_suspect_or_slow(node, at(8)));
        let all = peers.room(node, ROOM_BYTES, at(5));
        assert!(all.is_some() && peers.room(node, 1, at(5)).is_none());
    }
}
