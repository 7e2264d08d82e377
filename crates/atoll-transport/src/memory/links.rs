//! The usual policy for links: one profile for all, others for some, and cuts.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    sync::{Mutex, MutexGuard},
    time::Duration,
};

use atoll_types::{Instant, NodeId};
use rand::{Rng, rngs::StdRng};

use super::{Fate, LinkPolicy, Transit, TransitKind};

/// 2^12 times the usual: a passage of a millisecond takes four seconds, which is longer
/// than [`DEAD_AFTER`](super::DEAD_AFTER).
pub const DOUBLINGS_MAX: u32 = 12;

/// How one direction of a link behaves. The default is perfect.
#[derive(Debug, Clone, PartialEq)]
pub struct LinkProfile {
    /// One way, drawn evenly for each passage.
    pub delay: RangeInclusive<Duration>,
    /// The chance that the delay drawn doubles, then again with the same chance, and so
    /// on up to [`DOUBLINGS_MAX`]: a long tail. Nearly all passages are quick, and of some
    /// nobody could say how long is long enough.
    pub tail: f64,
    /// Bytes per second; what doesn't fit waits in line. None: as much as you like.
    pub bandwidth: Option<u64>,
    /// The chance that a datagram is lost.
    pub loss: f64,
    /// The chance that a datagram arrives twice.
    pub duplication: f64,
    /// The chance that a datagram may be overtaken, arriving up to `reordering_delay` later.
    pub reordering: f64,
    pub reordering_delay: Duration,
    /// The chance that the connection breaks before a request is delivered.
    pub break_before: f64,
    /// The chance that the connection breaks after the callee acted, so its reply is lost.
    pub break_after: f64,
}

impl Default for LinkProfile {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO..=Duration::ZERO,
            tail: 0.0,
            bandwidth: None,
            loss: 0.0,
            duplication: 0.0,
            reordering: 0.0,
            reordering_delay: Duration::from_millis(20),
            break_before: 0.0,
            break_after: 0.0,
        }
    }
}

impl LinkProfile {
    /// Between two places, one way: 2 to 10 ms, and now and then some more.
    pub fn between_sites() -> Self {
        Self { delay: Duration::from_millis(2)..=Duration::from_millis(10), tail: 0.02, ..Self::default() }
    }

    /// Machines of one room: 50 to 200 µs.
    pub fn local_network() -> Self {
        Self { delay: Duration::from_micros(50)..=Duration::from_micros(200), ..Self::default() }
    }

    /// A bad day: delays, loss, duplicates, reordering, and now and then a broken connection.
    pub fn hostile() -> Self {
        Self {
            delay: Duration::from_micros(50)..=Duration::from_millis(20),
            loss: 0.05,
            duplication: 0.05,
            reordering: 0.1,
            break_before: 0.005,
            break_after: 0.005,
            ..Self::default()
        }
    }
}

/// All links of a network. Shared with the network, and changed while it runs.
#[derive(Default)]
pub struct Links {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    usual: LinkProfile,
    special: BTreeMap<(NodeId, NodeId), LinkProfile>,
    /// Directions in which nothing passes.
    cuts: BTreeSet<(NodeId, NodeId)>,
    /// Until when a limited link is taken by what was sent earlier.
    busy_until: BTreeMap<(NodeId, NodeId), Instant>,
}

impl Links {
    /// All links behave as `profile`.
    pub fn new(profile: LinkProfile) -> Self {
        let links = Self::default();
        links.state().usual = profile;
        links
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    /// Replaces the profile of all links that have none of their own.
    pub fn set_all(&self, profile: LinkProfile) {
        self.state().usual = profile;
    }

    /// The direction from `from` to `to` has a profile of its own.
    pub fn set(&self, from: NodeId, to: NodeId, profile: LinkProfile) {
        self.state().special.insert((from, to), profile);
    }

    /// All links behave as [`set_all`](Self::set_all) says, those too that had a profile
    /// of their own.
    pub fn unset_each(&self) {
        self.state().special.clear();
    }

    /// Nothing passes from `from` to `to`; the other direction stays.
    pub fn cut_one_way(&self, from: NodeId, to: NodeId) {
        self.state().cuts.insert((from, to));
    }

    /// Nothing passes between anyone of `some` and anyone of `others`.
    pub fn cut(&self, some: &[NodeId], others: &[NodeId]) {
        for &one in some {
            for &other in others {
                self.cut_one_way(one, other);
                self.cut_one_way(other, one);
            }
        }
    }

    /// Undoes a cut in both directions.
    pub fn heal(&self, one: NodeId, other: NodeId) {
        let mut state = self.state();
        state.cuts.remove(&(one, other));
        state.cuts.remove(&(other, one));
    }

    /// Undoes all cuts.
    pub fn heal_all(&self) {
        self.state().cuts.clear();
    }

    pub fn is_cut(&self, from: NodeId, to: NodeId) -> bool {
        self.state().cuts.contains(&(from, to))
    }
}

impl LinkPolicy for Links {
    fn transit(&self, now: Instant, rng: &mut StdRng, transit: &Transit) -> Fate {
        let link = (transit.from, transit.to);
        let mut guard = self.state();
        let State { usual, special, cuts, busy_until } = &mut *guard;
        if cuts.contains(&link) {
            return Fate::Lose;
        }
        let profile = special.get(&link).unwrap_or(usual);
        // A generator is only asked where there is a chance, so that a perfect link
        // leaves the run's other draws as they are.
        let mut happens = |chance: f64| chance > 0.0 && rng.random_bool(chance.min(1.0));

        match transit.kind {
            TransitKind::Datagram if happens(profile.loss) => return Fate::Lose,
            TransitKind::Request if happens(profile.break_before) => return Fate::Break,
            TransitKind::Reply if happens(profile.break_after) => return Fate::Break,
            _ => {}
        }
        let duplicated = transit.kind == TransitKind::Datagram && happens(profile.duplication);
        let reordered = transit.kind == TransitKind::Datagram && happens(profile.reordering);

        let mut after = passage(rng, profile);
        if let Some(bandwidth) = profile.bandwidth {
            let takes = Duration::from_secs_f64(transit.bytes as f64 / bandwidth.max(1) as f64);
            let free = busy_until.entry(link).or_default();
            *free = (*free).max(now) + takes;
            after += free.saturating_since(now);
        }
        if duplicated {
            let again_after = after + passage(rng, profile);
            Fate::ArriveTwice { after, again_after }
        } else if reordered {
            Fate::ArriveOutOfOrder { after: after + draw(rng, Duration::ZERO..=profile.reordering_delay) }
        } else {
            Fate::Arrive { after }
        }
    }
}

fn passage(rng: &mut StdRng, profile: &LinkProfile) -> Duration {
    let mut delay = draw(rng, profile.delay.clone());
    let mut doublings = 0;
    while profile.tail > 0.0 && doublings < DOUBLINGS_MAX && rng.random_bool(profile.tail.min(1.0)) {
        delay *= 2;
        doublings += 1;
    }
    delay
}

fn draw(rng: &mut StdRng, range: RangeInclusive<Duration>) -> Duration {
    if range.start() >= range.end() { *range.start() } else { rng.random_range(range) }
}
