//! What experiments have in common: networks, the lookups that fill rows, and what a run gives.

use std::{collections::BTreeMap, time::Duration};

use atoll_overlay::{AuthorKey, Content, Id, LookupId, Notification, Overlay};
use atoll_types::{Instant, WallTime};
use rand::Rng;
use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::{
    architectures::{Verdict, Winner},
    columns::{Column, Row},
    kinds::Recipe,
    parameters::{Parameters, words},
    value::Value,
    world::{Links, Reported, SimulatedContact, World, ring, stream},
};

/// Lookups begin this far apart, so that they do not all run at once; no more than that is
/// meant by it, for links have no capacity.
const LOOKUP_EVERY: Duration = Duration::from_millis(10);
/// While a network grows, nodes join this far apart.
pub(crate) const JOIN_EVERY: Duration = Duration::from_millis(20);
/// When a network's time begins: any day.
pub(crate) const WALL: WallTime = WallTime::from_millis(1_800_000_000_000);

/// How a network comes to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setup {
    /// Made as if it had come to rest; a test shows that it equals a grown one.
    Converged,
    /// Every node joins through one that is there already.
    Grown,
}

words!(Setup { Converged "converged", Grown "grown" });

/// What an experiment gives: `{"experiment", "seed", "parameters", "rows"}`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    pub experiment: &'static str,
    pub seed: u64,
    #[serde(serialize_with = "as_map")]
    pub parameters: Vec<(&'static str, Value)>,
    pub rows: Vec<Row>,
    /// What follows from the rows; of `architectures` only.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub verdicts: Vec<Verdict>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub winners: Vec<Winner>,
}

impl Report {
    pub(crate) fn new(
        experiment: &'static str,
        seed: u64,
        parameters: &impl Parameters,
        rows: Vec<Row>,
    ) -> Self {
        let (verdicts, winners) = (Vec::new(), Vec::new());
        Report { experiment, seed, parameters: parameters.values(), rows, verdicts, winners }
    }
}

fn as_map<S: Serializer>(values: &[(&'static str, Value)], serializer: S) -> Result<S::Ok, S::Error> {
    let mut map = serializer.serialize_map(Some(values.len()))?;
    for (name, value) in values {
        map.serialize_entry(name, value)?;
    }
    map.end()
}

/// Tells how far a run has come, in parts that are worth what they cost.
pub(crate) struct Progress<'a> {
    /// Called with the share that is done, 0 to 1.
    tell: &'a mut dyn FnMut(f64),
    total: f64,
    done: f64,
}

impl<'a> Progress<'a> {
    pub(crate) fn new(tell: &'a mut dyn FnMut(f64), total: f64) -> Self {
        Self { tell, total: total.max(f64::MIN_POSITIVE), done: 0.0 }
    }

    pub(crate) fn add(&mut self, done: f64) {
        self.done += done;
        (self.tell)((self.done / self.total).min(1.0));
    }
}

/// A network from a seed, over links that lose nothing.
pub(crate) fn network<R: Recipe>(recipe: &R, nodes: usize, seed: u64, setup: Setup) -> World<R::Core> {
    network_over(recipe, nodes, seed, setup, Links::default())
}

pub(crate) fn network_over<R: Recipe>(
    recipe: &R,
    nodes: usize,
    seed: u64,
    setup: Setup,
    links: Links,
) -> World<R::Core> {
    let mut world = World::new(seed, links);
    match setup {
        Setup::Converged => {
            world.set_up(nodes, |contact, ring, round_trip| recipe.converged(contact, ring, round_trip));
        }
        Setup::Grown => grow_network(recipe, &mut world, nodes, 1),
    }
    world
}

/// The same with content; each node signs with the key that `author` has for it.
pub(crate) fn content_network<R: Recipe>(
    recipe: &R,
    nodes: usize,
    seed: u64,
    setup: Setup,
    author: impl Fn(SimulatedContact) -> AuthorKey,
) -> World<R::WithContent> {
    let mut world = World::new(seed, Links::default());
    let with_clock = |mut node: R::WithContent| {
        node.set_clock(Instant::ORIGIN, WALL);
        node
    };
    match setup {
        Setup::Converged => world.set_up(nodes, |contact, ring, round_trip| {
            let core = recipe.converged(contact, ring, round_trip);
            with_clock(recipe.with_content(core, author(contact)))
        }),
        Setup::Grown => grow_network_of(recipe, &mut world, nodes, 1, |contact| {
            with_clock(recipe.newcomer(contact, author(contact)))
        }),
    }
    world
}

/// Lets so many nodes join, each through so many others that it knows, and come to rest.
pub(crate) fn grow_network<R: Recipe>(recipe: &R, world: &mut World<R::Core>, nodes: usize, known: usize) {
    grow_network_of(recipe, world, nodes, known, |contact| recipe.outside(contact));
}

/// The same with nodes that are made otherwise.
fn grow_network_of<R: Recipe, O>(
    recipe: &R,
    world: &mut World<O>,
    nodes: usize,
    known: usize,
    make: impl Fn(SimulatedContact) -> O,
) where
    O: Overlay<Contact = SimulatedContact, Message: Serialize>,
{
    for _ in 0..nodes {
        let before = recipe.appointed().len();
        world.join_through(known, &make);
        let appointed = recipe.appointed();
        if appointed.len() != before {
            let all: Vec<SimulatedContact> = world.living().map(|(contact, _)| contact).collect();
            for contact in all {
                world.with(contact, |core, now, rng, out| core.meet(now, rng, &appointed, out));
            }
        }
        world.run(JOIN_EVERY);
    }
    world.run(recipe.rest());
    world.take_reports();
}

/// Stops all upkeep, and lets what is under way end.
pub(crate) fn hold_still<O>(world: &mut World<O>)
where
    O: Overlay<Contact = SimulatedContact, Message: Serialize>,
{
    world.freeze();
    world.run_until_quiet();
    world.take_reports();
}

/// The nodes that keys can belong to, sorted by id: in a hybrid its super-peers, unless there are
/// none.
pub(crate) fn keepers<O>(world: &World<O>) -> Vec<(Id, SimulatedContact)>
where
    O: Overlay<Contact = SimulatedContact, Message: Serialize>,
{
    let keepers = ring(world.living().filter(|(_, core)| core.is_keeper()).map(|(contact, _)| contact));
    if keepers.is_empty() { ring(world.living().map(|(contact, _)| contact)) } else { keepers }
}

/// Looks keys up in a network without upkeep, and adds to the row how it went. Keys and askers
/// are drawn evenly.
pub(crate) fn measure<R: Recipe>(
    recipe: &R,
    world: &mut World<R::Core>,
    seed: u64,
    lookups: usize,
    row: Row,
) -> Row {
    measure_among(recipe, world, seed, lookups, |_| true, row)
}

/// A key, and with whom its lookup ended.
type LookedUp = (Id, Option<SimulatedContact>);

/// The same after nodes failed; `before` are those that keys could belong to until then, sorted
/// by id.
pub(crate) fn measure_after_failure<R: Recipe>(
    recipe: &R,
    world: &mut World<R::Core>,
    seed: u64,
    lookups: usize,
    before: &[(Id, SimulatedContact)],
    row: Row,
) -> Row {
    let (made, row) = measure_lookups(recipe, world, seed, lookups, |_| true, row);
    let is_lost = |(key, found): &&LookedUp| *found != Some(recipe.responsible(*key, before));
    row.with_some(Column::KeysLostShare, share(made.iter().filter(is_lost).count() as f64, made.len()))
}

/// The same with askers, and keys of nodes, that are wanted; at least one node must be.
pub(crate) fn measure_among<R: Recipe>(
    recipe: &R,
    world: &mut World<R::Core>,
    seed: u64,
    lookups: usize,
    is_wanted: impl Fn(SimulatedContact) -> bool,
    row: Row,
) -> Row {
    measure_lookups(recipe, world, seed, lookups, is_wanted, row).1
}

/// Also gives with whom the lookup of each key ended.
fn measure_lookups<R: Recipe>(
    recipe: &R,
    world: &mut World<R::Core>,
    seed: u64,
    lookups: usize,
    is_wanted: impl Fn(SimulatedContact) -> bool,
    row: Row,
) -> (Vec<LookedUp>, Row) {
    let mut rng = stream(seed, "lookups");
    let mut ends = Vec::new();
    let bytes_per_node = world.bytes_per_node();
    let state_bytes_max = world.living().map(|(_, core)| core.state_bytes()).max();
    let ring = ring(world.living().map(|(contact, _)| contact));
    let keepers = keepers(world);
    let traffic_before = world.traffic();
    let mut begun: BTreeMap<(SimulatedContact, LookupId), Instant> = BTreeMap::new();
    let mut made = Lookups::default();
    let mut take_ends = |world: &mut World<R::Core>, begun: &mut BTreeMap<_, Instant>| {
        for Reported { at, by: asker, notification } in world.take_reports() {
            let Notification::LookupFinished(located) = notification else { continue };
            let Some(began) = begun.remove(&(asker, located.lookup)) else { continue };
            made.timeouts.push(located.timeouts);
            let responsible = recipe.responsible(located.key, &keepers);
            let found = located.outcome.ok().and_then(|found| found.first().copied());
            ends.push((located.key, found));
            if found != Some(responsible) {
                continue;
            }
            made.hops.push(located.hops);
            made.latencies_micros.push(micros(at.saturating_since(began)));
            made.direct_micros += 2 * micros(world.latency(asker, responsible));
        }
    };
    for _ in 0..lookups {
        let asker = loop {
            let (_, drawn) = ring[rng.random_range(0..ring.len())];
            if is_wanted(drawn) {
                break drawn;
            }
        };
        let key = loop {
            let drawn = Id::from_halves(rng.random(), rng.random());
            if is_wanted(recipe.responsible(drawn, &keepers)) {
                break drawn;
            }
        };
        let began = world.now();
        let lookup = world
            .with(asker, |core, now, rng, out| core.locate(now, rng, key, out))
            .expect("askers are members, and have few lookups");
        begun.insert((asker, lookup), began);
        take_ends(world, &mut begun);
        world.run(LOOKUP_EVERY);
        take_ends(world, &mut begun);
    }
    while !begun.is_empty() {
        world.run(LOOKUP_EVERY);
        take_ends(world, &mut begun);
    }
    let traffic = world.traffic() - traffic_before;
    let row = made
        .into_row(row)
        .with_some(Column::MessagesMean, share(traffic.sent as f64, lookups))
        .with_some(Column::BytesMean, share(traffic.sent_bytes as f64, lookups))
        .with(Column::BytesPerNode, bytes_per_node)
        .with_some(Column::StateBytesMax, state_bytes_max);
    (ends, row)
}

/// How lookups ended.
#[derive(Default)]
pub(crate) struct Lookups {
    /// Of those that found the responsible node.
    pub(crate) hops: Vec<u32>,
    pub(crate) latencies_micros: Vec<u64>,
    /// The round trips straight to it, summed up.
    pub(crate) direct_micros: u64,
    /// Of all.
    pub(crate) timeouts: Vec<u32>,
}

impl Lookups {
    pub(crate) fn into_row(mut self, row: Row) -> Row {
        self.hops.sort_unstable();
        self.timeouts.sort_unstable();
        self.latencies_micros.sort_unstable();
        let lookups = self.timeouts.len();
        let latency_micros: u64 = self.latencies_micros.iter().sum();
        row.with(Column::Lookups, lookups)
            .with_some(Column::HopsMean, mean(&self.hops))
            .with_some(Column::HopsP1, percentile(&self.hops, 1))
            .with_some(Column::HopsP50, percentile(&self.hops, 50))
            .with_some(Column::HopsP99, percentile(&self.hops, 99))
            .with_some(Column::TimeoutsMean, mean(&self.timeouts))
            .with_some(Column::TimeoutsP1, percentile(&self.timeouts, 1))
            .with_some(Column::TimeoutsP99, percentile(&self.timeouts, 99))
            .with_some(Column::LookupsFailedShare, share((lookups - self.hops.len()) as f64, lookups))
            .with_some(
                Column::LatencyMsMean,
                share(latency_micros as f64 / 1000.0, self.latencies_micros.len()),
            )
            .with_some(
                Column::LatencyMsP99,
                percentile(&self.latencies_micros, 99).map(|micros| micros as f64 / 1000.0),
            )
            .with_some(
                Column::Stretch,
                (self.direct_micros > 0).then(|| latency_micros as f64 / self.direct_micros as f64),
            )
    }
}

pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

/// A sum by how many it is of; nothing of none.
pub(crate) fn share(sum: f64, of: usize) -> Option<f64> {
    (of > 0).then(|| sum / of as f64)
}

pub(crate) fn mean(numbers: &[u32]) -> Option<f64> {
    share(numbers.iter().map(|number| u64::from(*number)).sum::<u64>() as f64, numbers.len())
}

/// The smallest number that at least so many percent do not exceed; nothing of none.
pub(crate) fn percentile<T: Copy>(sorted: &[T], percent: usize) -> Option<T> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use atoll_overlay::{Chord, ChordConfig};

    use super::*;

    #[test]
    fn percentiles_are_numbers_that_occurred() {
        let hundred: Vec<u32> = (1..=100).collect();
        assert_eq!([1, 50, 99].map(|percent| percentile(&hundred, percent)), [Some(1), Some(50), Some(99)]);
        assert_eq!([1, 50, 99].map(|percent| percentile(&[7_u32, 9], percent)), [Some(7), Some(7), Some(9)]);
        assert_eq!(percentile::<u32>(&[], 50), None);
    }

    #[test]
    fn lookups_of_which_none_ended_well_have_no_hops() {
        let row = Lookups { timeouts: vec![3, 5], ..Lookups::default() }.into_row(Row::default());
        assert_eq!(row.number(Column::HopsMean), None);
        assert_eq!(row.number(Column::TimeoutsMean), Some(4.0));
        assert_eq!(row.number(Column::LookupsFailedShare), Some(1.0));
    }

    #[test]
    fn the_same_seed_is_the_same_run_and_another_seed_another() {
        let run = |seed| {
            let mut world =
                World::new(seed, Links { loss: 0.05, cut_one_way: 0.01, upload_bytes_per_s: 20_000 });
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
