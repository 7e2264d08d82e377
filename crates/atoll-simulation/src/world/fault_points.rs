//! Which named places are dangerous, and what happens there.
//!
//! A seed makes about a third of them dangerous, each to its own degree, and only while a
//! storm that has them lasts.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use rand::{Rng, rngs::StdRng, seq::IndexedRandom};

use super::supervision::Signal;
use crate::{
    NodeIndex, Seed, Stalls,
    executor::{FaultPoints, Strike, lock},
};

/// Long enough to lose leadership, short enough to come back before one is given up.
const STALL_MAX: Duration = Duration::from_secs(10);

pub(super) struct DangerousPlaces {
    seed: Seed,
    state: Mutex<State>,
    signals: Arc<Mutex<Vec<Signal>>>,
}

struct State {
    on: bool,
    /// Where a scenario wants what, whether a storm is on or not.
    slow: BTreeMap<&'static str, Stalls>,
    rng: StdRng,
    /// By name: the chance that something happens, drawn when somebody first comes there.
    chances: BTreeMap<&'static str, f64>,
    struck: BTreeMap<&'static str, u64>,
}

impl DangerousPlaces {
    pub(super) fn new(seed: Seed, signals: Arc<Mutex<Vec<Signal>>>) -> Self {
        let state = State {
            on: false,
            slow: BTreeMap::new(),
            rng: seed.stream("fault points"),
            chances: BTreeMap::new(),
            struck: BTreeMap::new(),
        };
        Self { seed, state: Mutex::new(state), signals }
    }

    pub(super) fn switch(&self, on: bool) {
        lock(&self.state).on = on;
    }

    pub(super) fn slow_down(&self, name: &'static str, stalls: Stalls) {
        lock(&self.state).slow.insert(name, stalls);
    }

    /// How often something happened where.
    pub(super) fn struck(&self) -> BTreeMap<&'static str, u64> {
        lock(&self.state).struck.clone()
    }
}

impl FaultPoints for DangerousPlaces {
    fn reached(&self, node: NodeIndex, name: &'static str) -> Option<Strike> {
        let mut state = lock(&self.state);
        let State { on, slow, rng, chances, struck } = &mut *state;
        if let Some(Stalls { chance, longest }) = slow.get(name) {
            return rng
                .random_bool(*chance)
                .then(|| Strike::Stall(rng.random_range(Duration::ZERO..=*longest)));
        }
        if !*on || node == NodeIndex::WORLD {
            return None;
        }
        let chance = *chances.entry(name).or_insert_with(|| {
            let mut rng = self.seed.stream(&format!("fault point {name}"));
            let chances = [0.0, 0.0, 0.0, 0.0, 0.002, 0.02, 0.2];
            *chances.choose(&mut rng).expect("not empty")
        });
        if chance == 0.0 || !rng.random_bool(chance) {
            return None;
        }
        *struck.entry(name).or_default() += 1;
        let signal = match rng.random_range(0..3) {
            0 => return Some(Strike::Stall(rng.random_range(Duration::ZERO..=STALL_MAX))),
            1 => Signal::PowerLost { node },
            _ => Signal::Killed { node },
        };
        lock(&self.signals).push(signal);
        Some(Strike::Halt)
    }
}
