//! What experiments have in common: their rows, and the lookups that fill them.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use atoll_overlay::{Chord, ChordConfig, Id, LookupId, Notification, Overlay};
use atoll_types::Instant;
use rand::Rng;
use serde::Serialize;

use crate::world::{Links, Reported, SimulatedContact, World, ring, stream};

/// Lookups begin this far apart, so that they do not all run at once; no more than that is
/// meant by it, for links have no capacity.
const LOOKUP_EVERY: Duration = Duration::from_millis(10);
/// While a network grows, nodes join this far apart.
const JOIN_EVERY: Duration = Duration::from_millis(20);
/// Given to a grown network to come to rest. Chord looks one finger up every 30 s, and has
/// about log₂N + 3: twice round at a million nodes is 23 min.
const REST: Duration = Duration::from_secs(25 * 60);

/// A kind of overlay that the lab can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    Chord,
}

impl Kind {
    pub const ALL: [Kind; 1] = [Kind::Chord];

    pub fn name(self) -> &'static str {
        match self {
            Kind::Chord => "chord",
        }
    }
}

/// How a network comes to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Setup {
    /// Made as if it had come to rest; a test shows that it equals a grown one.
    Converged,
    /// Every node joins through one that is there already.
    Grown,
}

/// What an experiment gives: `{"experiment", "seed", "parameters", "rows"}`.
#[derive(Debug, Clone, Serialize)]
pub struct Report<P> {
    pub experiment: &'static str,
    pub seed: u64,
    pub parameters: P,
    pub rows: Vec<Row>,
}

/// One network, measured. A column means the same in every experiment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Row {
    pub overlay: Kind,
    /// Nodes before any failed.
    pub nodes: usize,
    pub lookups: usize,
    /// The share of the nodes that failed, all at once.
    pub failed_share: f64,
    /// Seconds of upkeep between the failure and the lookups.
    pub repair_s: u64,
    /// Remote nodes contacted one after the other that answered, the responsible one included;
    /// over the lookups that found it.
    pub hops_mean: f64,
    pub hops_p1: u32,
    pub hops_p50: u32,
    pub hops_p99: u32,
    /// Nodes contacted that did not answer, per lookup.
    pub timeouts_mean: f64,
    pub timeouts_p1: u32,
    pub timeouts_p99: u32,
    /// Lookups that ended without an answer, or with a node that is not responsible.
    pub lookups_failed_share: f64,
    /// Messages sent by anybody, per lookup.
    pub messages_mean: f64,
    pub latency_ms_mean: f64,
    pub latency_ms_p99: f64,
    /// Mean latency of a lookup by the mean round trip to the responsible node.
    pub stretch: f64,
    /// State of the overlay's core.
    pub bytes_per_node: f64,
}

/// A Chord network from a seed.
pub(crate) fn chord(
    nodes: usize,
    seed: u64,
    setup: Setup,
    config: &ChordConfig,
) -> World<Chord<SimulatedContact>> {
    let config = Arc::new(config.clone());
    let mut world = World::new(seed, Links::default());
    match setup {
        Setup::Converged => {
            world.set_up(nodes, |contact, ring| Chord::converged(contact, config.clone(), ring));
        }
        Setup::Grown => {
            for _ in 0..nodes {
                world.join(|contact| Chord::new(contact, config.clone()));
                world.run(JOIN_EVERY);
            }
            world.run(REST);
            world.take_reports();
        }
    }
    world
}

/// Looks keys up in a network without upkeep, and tells how it went. Keys and askers are drawn
/// evenly.
pub(crate) fn measure<O: Overlay<Contact = SimulatedContact>>(
    world: &mut World<O>,
    seed: u64,
    lookups: usize,
    row: RowBegun,
) -> Row {
    let mut rng = stream(seed, "lookups");
    let bytes_per_node = world.bytes_per_node();
    let ring = ring(world.living().map(|(contact, _)| contact));
    let sent_before = world.traffic().sent;
    let mut begun: BTreeMap<(SimulatedContact, LookupId), Instant> = BTreeMap::new();
    let mut lookups_made = Lookups::default();
    for _ in 0..lookups {
        let (_, asker) = ring[rng.random_range(0..ring.len())];
        let key = Id::from_halves(rng.random(), rng.random());
        let began = world.now();
        let lookup = world
            .with(asker, |core, now, rng, out| core.locate(now, rng, key, out))
            .expect("askers are members, and have few lookups");
        begun.insert((asker, lookup), began);
        lookups_made.take_ends(world, &ring, &mut begun);
        world.run(LOOKUP_EVERY);
        lookups_made.take_ends(world, &ring, &mut begun);
    }
    while !begun.is_empty() {
        world.run(LOOKUP_EVERY);
        lookups_made.take_ends(world, &ring, &mut begun);
    }
    let messages = (world.traffic().sent - sent_before) as f64;
    lookups_made.into_row(row, lookups, messages / lookups.max(1) as f64, bytes_per_node)
}

/// The columns that are known before anything is measured.
pub(crate) struct RowBegun {
    pub(crate) overlay: Kind,
    pub(crate) nodes: usize,
    pub(crate) failed_share: f64,
    pub(crate) repair: Duration,
}

#[derive(Default)]
struct Lookups {
    hops: Vec<u32>,
    timeouts: Vec<u32>,
    latencies_micros: Vec<u64>,
    direct_micros: u64,
    failed: usize,
}

impl Lookups {
    fn take_ends<O: Overlay<Contact = SimulatedContact>>(
        &mut self,
        world: &mut World<O>,
        ring: &[(Id, SimulatedContact)],
        begun: &mut BTreeMap<(SimulatedContact, LookupId), Instant>,
    ) {
        for Reported { at, by: asker, notification } in world.take_reports() {
            let Notification::LookupFinished(located) = notification else { continue };
            let Some(began) = begun.remove(&(asker, located.lookup)) else { continue };
            self.timeouts.push(located.timeouts);
            let place = ring.partition_point(|(id, _)| *id < located.key) % ring.len();
            let responsible = ring[place].1;
            if located.outcome.ok().and_then(|found| found.first().copied()) != Some(responsible) {
                self.failed += 1;
                continue;
            }
            self.hops.push(located.hops);
            self.latencies_micros.push(micros(at.saturating_since(began)));
            self.direct_micros += 2 * micros(world.latency(asker, responsible));
        }
    }

    fn into_row(mut self, row: RowBegun, lookups: usize, messages_mean: f64, bytes_per_node: f64) -> Row {
        self.hops.sort_unstable();
        self.timeouts.sort_unstable();
        self.latencies_micros.sort_unstable();
        let latency_micros: u64 = self.latencies_micros.iter().sum();
        Row {
            overlay: row.overlay,
            nodes: row.nodes,
            lookups,
            failed_share: row.failed_share,
            repair_s: row.repair.as_secs(),
            hops_mean: mean(&self.hops),
            hops_p1: percentile(&self.hops, 1),
            hops_p50: percentile(&self.hops, 50),
            hops_p99: percentile(&self.hops, 99),
            timeouts_mean: mean(&self.timeouts),
            timeouts_p1: percentile(&self.timeouts, 1),
            timeouts_p99: percentile(&self.timeouts, 99),
            lookups_failed_share: self.failed as f64 / lookups.max(1) as f64,
            messages_mean,
            latency_ms_mean: latency_micros as f64 / 1000.0 / self.latencies_micros.len().max(1) as f64,
            latency_ms_p99: percentile(&self.latencies_micros, 99) as f64 / 1000.0,
            stretch: latency_micros as f64 / self.direct_micros.max(1) as f64,
            bytes_per_node,
        }
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

fn mean(numbers: &[u32]) -> f64 {
    numbers.iter().map(|number| u64::from(*number)).sum::<u64>() as f64 / numbers.len().max(1) as f64
}

/// The smallest number that at least so many percent do not exceed; zero of none.
fn percentile<T: Copy + Default>(sorted: &[T], percent: usize) -> T {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_numbers_that_occurred() {
        let hundred: Vec<u32> = (1..=100).collect();
        assert_eq!([1, 50, 99].map(|percent| percentile(&hundred, percent)), [1, 50, 99]);
        assert_eq!([1, 50, 99].map(|percent| percentile(&[7_u32, 9], percent)), [7, 7, 9]);
        assert_eq!(percentile::<u32>(&[], 50), 0);
    }

    /// The grown network's every table, against the converged one's of the same seed.
    #[test]
    fn a_network_set_up_converged_equals_one_that_grew_by_joining() {
        let config = ChordConfig::default();
        let [grown, converged] = [Setup::Grown, Setup::Converged].map(|setup| chord(2000, 5, setup, &config));
        let mut compared = 0;
        for ((contact, grown), (_, converged)) in grown.living().zip(converged.living()) {
            assert_eq!(grown.predecessor(), converged.predecessor(), "{contact:?}");
            assert_eq!(grown.successors(), converged.successors(), "{contact:?}");
            assert_eq!(grown.fingers(), converged.fingers(), "{contact:?}");
            compared += 1;
        }
        assert_eq!(compared, 2000);
    }

    #[test]
    fn the_same_seed_is_the_same_run_and_another_seed_another() {
        let run = |seed| {
            let mut world = World::new(seed, Links { loss: 0.05 });
            let config = Arc::new(ChordConfig::default());
            for _ in 0..200 {
                world.join(|contact| Chord::new(contact, config.clone()));
                world.run(JOIN_EVERY);
            }
            world.run(Duration::from_secs(300));
            let living: Vec<SimulatedContact> = world.living().map(|(contact, _)| contact).collect();
            living.iter().step_by(3).for_each(|contact| world.fail(*contact));
            world.run(Duration::from_secs(300));
            assert!(world.traffic().lost > 0 && world.traffic().to_failed > 0);
            (world.trace(), world.traffic(), world.take_reports())
        };
        assert_eq!(run(1), run(1));
        assert_ne!(run(1).0, run(2).0);
    }
}
