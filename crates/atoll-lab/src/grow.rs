//! Experiment *grow*: what one join, one leave and one failure cost as networks grow.
//!
//! A network grows by joining and comes to rest. Then a node joins, says goodbye, or just stops;
//! and again, one after the other. Whether lookups are right again is asked of a *copy* of the
//! world that does no upkeep, so that asking mends nothing.
//!
//! Its keys: such as the node has, or had, are looked up at evenly drawn nodes. They are *right*
//! when all end at who is responsible now, and *clean* when on top of that none meets a node that
//! does not answer.
//!
//! What a kind moves of kept values when keys change hands is not in here: the lab's nodes keep
//! none.

use std::time::Duration;

use atoll_overlay::{Contact, Id, Notification, Overlay};
use rand::{Rng, rngs::StdRng};

use crate::{
    columns::{Column, Row},
    experiment::{Progress, Report, Setup, keepers, network, share},
    kinds::{Kind, Recipe, Settings, Task},
    page::Plot,
    parameters::{Within, parameters, words},
    plot::Scale,
    world::{SimulatedContact, Traffic, World, ring, stream},
};

/// What befalls one node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    Join,
    /// With a goodbye.
    Leave,
    Failure,
}

words!(Change { Join "join", Leave "leave", Failure "failure" });

/// Some must be left when one goes.
type Size = Within<4, 4_000_000>;

parameters! {
    pub struct GrowParameters {
        /// The kinds to run.
        pub overlays: Vec<Kind> = Kind::ALL.to_vec(),
        /// Sizes of the network.
        pub nodes: Vec<Size> = [100, 300, 1_000].map(Within).to_vec(),
        /// What befalls a node: join, leave, failure; a row for each.
        pub changes: Vec<Change> = Change::ALL.to_vec(),
        /// How often, each time another node; the rows have the means.
        pub times: Within<1, 1_000> = Within(5),
        /// Lookups each time it is asked whether all is right again.
        pub lookups: Within<1, 200> = Within(30),
        + pub settings: Settings,
    }
}

const LINES: &[Column] = &[Column::Overlay, Column::Change];

pub(crate) const PLOTS: &[Plot] = &[
    Plot {
        title: "Messages of one change",
        x: (Column::Nodes, Scale::Logarithmic),
        y: (Column::ChangeMessagesMean, Scale::Linear),
        by: LINES,
        theory: &[],
        model: None,
    },
    Plot {
        title: "Until lookups are right again",
        x: (Column::Nodes, Scale::Logarithmic),
        y: (Column::RightAfterSMean, Scale::Linear),
        by: LINES,
        theory: &[],
        model: None,
    },
    Plot {
        title: "Until none meets a node that is gone",
        x: (Column::Nodes, Scale::Logarithmic),
        y: (Column::CleanAfterSMean, Scale::Linear),
        by: LINES,
        theory: &[],
        model: None,
    },
    Plot {
        title: "Contacts of a node",
        x: (Column::Nodes, Scale::Logarithmic),
        y: (Column::ContactsMean, Scale::Linear),
        by: &[Column::Overlay],
        theory: &[],
        model: None,
    },
];

/// Lets nodes come and go one by one. `tell` hears what share of the work is done.
pub fn grow(seed: u64, parameters: GrowParameters, tell: &mut dyn FnMut(f64)) -> Report {
    let GrowParameters { overlays, nodes, .. } = &parameters;
    let sizes: usize = nodes.iter().map(|nodes| nodes.0).sum();
    let mut progress = Progress::new(tell, (sizes * overlays.len()) as f64);
    let mut rows = Vec::new();
    for &Within(nodes) in nodes {
        for &overlay in overlays {
            let row = Row::default().with(Column::Overlay, overlay.name()).with(Column::Nodes, nodes);
            let task = Grow { seed, nodes, parameters: &parameters, row };
            rows.extend(overlay.run(&parameters.settings, task));
            progress.add(nodes as f64);
        }
    }
    Report::new("grow", seed, &parameters, rows)
}

struct Grow<'a> {
    seed: u64,
    nodes: usize,
    parameters: &'a GrowParameters,
    row: Row,
}

/// When it is asked whether all is right again: after these, then every `PROBE_EVERY`.
const FIRST_PROBES_MILLIS: [u64; 7] = [250, 500, 1_000, 2_000, 3_000, 5_000, 10_000];
const PROBE_EVERY: Duration = Duration::from_secs(10);
/// So many times in a row it must be so, before it counts.
const IN_A_ROW: usize = 3;
/// A node that joins is found before its own tables are full: 14 fingers, looked up one after the
/// other, take Chord 10 s with 10⁴ nodes.
const COUNTED_AT_LEAST: Duration = Duration::from_secs(20);
/// After that, 10 min, it counts as never: a node of Chord has looked its fingers up once by then.
const PROBES_MAX: usize = 66;
/// Longer than any lookup of a network that is nearly right.
const LOOKUPS_END_WITHIN: Duration = Duration::from_secs(60);

/// One change's cost.
struct Cost {
    traffic: Traffic,
    /// None: not within `PROBES_MAX` probes.
    right_after: Option<Duration>,
    clean_after: Option<Duration>,
}

impl Task for Grow<'_> {
    type Output = Vec<Row>;

    fn run<R: Recipe>(self, recipe: &R) -> Vec<Row> {
        let GrowParameters { changes, times, lookups, .. } = self.parameters;
        let mut world = network(recipe, self.nodes, self.seed, Setup::Grown);
        let mut rng = stream(self.seed, "changes");
        let bytes_per_node = world.bytes_per_node();
        let contacts: usize = world.living().map(|(_, core)| core.contacts().len()).sum();
        let mut rows = Vec::new();
        for &change in changes {
            let costs: Vec<Cost> = (0..times.0)
                .map(|_| {
                    let cost = befall(recipe, &mut world, change, lookups.0, &mut rng);
                    // As many as before, and at rest.
                    match change {
                        Change::Join => {}
                        Change::Leave | Change::Failure => {
                            world.join(|contact| recipe.outside(contact));
                        }
                    }
                    world.run(BETWEEN);
                    cost
                })
                .collect();
            let sum =
                |of: fn(&Traffic) -> u64| costs.iter().map(|cost| of(&cost.traffic)).sum::<u64>() as f64;
            let mean_s = |of: fn(&Cost) -> Option<Duration>| {
                let all: Option<Vec<f64>> = costs.iter().map(|cost| Some(of(cost)?.as_secs_f64())).collect();
                share(all?.iter().sum(), costs.len())
            };
            rows.push(
                self.row
                    .clone()
                    .with(Column::Change, change.name())
                    .with_some(Column::ChangeMessagesMean, share(sum(|traffic| traffic.sent), costs.len()))
                    .with_some(Column::ChangeBytesMean, share(sum(|traffic| traffic.sent_bytes), costs.len()))
                    .with_some(Column::RightAfterSMean, mean_s(|cost| cost.right_after))
                    .with_some(Column::CleanAfterSMean, mean_s(|cost| cost.clean_after))
                    .with_some(Column::ContactsMean, share(contacts as f64, self.nodes))
                    .with(Column::BytesPerNode, bytes_per_node),
            );
        }
        rows
    }
}

/// Between one change and the next.
const BETWEEN: Duration = Duration::from_secs(120);

/// Lets one node come or go, and sees how long it takes to be right again.
fn befall<R: Recipe>(
    recipe: &R,
    world: &mut World<R::Core>,
    change: Change,
    lookups: usize,
    rng: &mut StdRng,
) -> Cost {
    let began = world.now();
    let before = keepers(world);
    let whom = match change {
        Change::Join => {
            world.watch_next();
            world.join(|contact| recipe.outside(contact))
        }
        Change::Leave | Change::Failure => {
            let all = ring(world.living().map(|(contact, _)| contact));
            let whom = all[rng.random_range(0..all.len())].1;
            world.watch(whom);
            match change {
                Change::Leave => world.leave(whom),
                Change::Join | Change::Failure => world.fail(whom),
            }
            whom
        }
    };
    let after = ring(world.living().map(|(contact, _)| contact));
    let with = if change == Change::Join { keepers(world) } else { before };
    let keys: Vec<Id> = (0..lookups).map(|_| key_of(recipe, whom, &with, rng)).collect();
    let askers: Vec<SimulatedContact> =
        after.iter().map(|(_, contact)| *contact).filter(|contact| *contact != whom).collect();

    let first = FIRST_PROBES_MILLIS.iter().map(|millis| Duration::from_millis(*millis));
    let then = (1..).map(|times| Duration::from_millis(FIRST_PROBES_MILLIS[6]) + PROBE_EVERY * times);
    let (mut right, mut clean) = (Streak::default(), Streak::default());
    let mut traffic = Traffic::default();
    for passed in first.chain(then).take(PROBES_MAX) {
        world.run_until(began + passed);
        let asked: Vec<SimulatedContact> =
            keys.iter().map(|_| askers[rng.random_range(0..askers.len())]).collect();
        let (is_right, is_clean) = probe(recipe, world, &asked, &keys);
        right.add(passed, is_right);
        if clean.since.is_none() || passed <= COUNTED_AT_LEAST {
            traffic = world.watched();
        }
        clean.add(passed, is_right && is_clean);
        if clean.holds() && right.holds() && passed >= COUNTED_AT_LEAST {
            break;
        }
    }
    world.take_reports();
    Cost {
        traffic,
        right_after: right.since.filter(|_| right.holds()),
        clean_after: clean.since.filter(|_| clean.holds()),
    }
}

/// Since when something has been so without a break.
#[derive(Default)]
struct Streak {
    since: Option<Duration>,
    length: usize,
}

impl Streak {
    fn add(&mut self, passed: Duration, is_so: bool) {
        if is_so {
            self.since.get_or_insert(passed);
            self.length += 1;
        } else {
            *self = Streak::default();
        }
    }

    fn holds(&self) -> bool {
        self.length >= IN_A_ROW
    }
}

/// A key that is the node's in this network: near its identifier, drawn until it is. A leaf of a
/// hybrid has none; then its own identifier is asked for.
fn key_of<R: Recipe>(
    recipe: &R,
    whom: SimulatedContact,
    ring: &[(Id, SimulatedContact)],
    rng: &mut StdRng,
) -> Id {
    if ring.binary_search(&(whom.id(), whom)).is_err() {
        return whom.id();
    }
    // As many first bits in common as tell N nodes apart; if there are no such keys, more.
    let mut common = ring.len().ilog2();
    for drawn in 0_u32.. {
        // A node with a close neighbour has few keys.
        common += u32::from(drawn % 32 == 31);
        let key = keep_bits(whom.id(), common, Id::from_halves(rng.random(), rng.random()));
        if recipe.responsible(key, ring) == whom {
            return key;
        }
        if common >= 255 {
            break;
        }
    }
    // Its own identifier is always its own.
    whom.id()
}

/// The first bits of one, the rest of the other.
fn keep_bits(first: Id, bits: u32, rest: Id) -> Id {
    let (first, rest) = (<[u8; 32]>::from(first), <[u8; 32]>::from(rest));
    let mixed: [u8; 32] = std::array::from_fn(|index| {
        let here = bits.saturating_sub(index as u32 * 8).min(8);
        let mask = !(u8::MAX.checked_shr(here).unwrap_or(0));
        first[index] & mask | rest[index] & !mask
    });
    Id::from(mixed)
}

/// Looks the keys up in a copy without upkeep: whether all were found at who is responsible,
/// and whether nobody met a node that does not answer.
fn probe<R: Recipe>(
    recipe: &R,
    world: &World<R::Core>,
    askers: &[SimulatedContact],
    keys: &[Id],
) -> (bool, bool) {
    let mut copy = world.clone();
    let keepers = keepers(&copy);
    copy.freeze();
    copy.take_reports();
    let mut under_way = 0;
    for (asker, key) in askers.iter().zip(keys) {
        match copy.with(*asker, |core, now, rng, out| core.locate(now, rng, *key, out)) {
            Ok(_) => under_way += 1,
            Err(_) => return (false, false),
        }
    }
    let end = copy.now() + LOOKUPS_END_WITHIN;
    let mut is_clean = true;
    while under_way > 0 && copy.now() < end {
        copy.run(PROBE_STEP);
        for reported in copy.take_reports() {
            let Notification::LookupFinished(located) = reported.notification else { continue };
            under_way -= 1;
            is_clean &= located.timeouts == 0;
            let found = located.outcome.ok().and_then(|found| found.first().copied());
            if found != Some(recipe.responsible(located.key, &keepers)) {
                return (false, false);
            }
        }
    }
    (under_way == 0, is_clean)
}

/// How often a copy is looked at while its lookups run.
const PROBE_STEP: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    fn run(change: impl FnOnce(&mut GrowParameters)) -> Vec<Row> {
        let mut parameters = GrowParameters {
            overlays: vec![Kind::Chord],
            nodes: vec![Within(100)],
            times: Within(4),
            ..GrowParameters::default()
        };
        change(&mut parameters);
        grow(3, parameters, &mut |_| ()).rows
    }

    #[test]
    fn a_goodbye_is_right_at_once_and_a_failure_costs_time_outs_for_a_while() {
        let rows = run(|_| ());
        let of = |change: Change, column| {
            let row = rows.iter().find(|row| row.shown(Column::Change) == change.name()).expect("a row");
            row.number(column).expect("measured")
        };
        let [join, leave, failure] =
            [Change::Join, Change::Leave, Change::Failure].map(|change| of(change, Column::RightAfterSMean));
        assert!(leave < 1.0, "{leave}");
        // Not before the predecessor has stabilised, which is 15 s off on average, 45 at most.
        assert!((0.5..60.0).contains(&join), "{join}");
        assert!(failure < 60.0, "{failure}");
        assert!(of(Change::Failure, Column::CleanAfterSMean) > 5.0);
        assert!(of(Change::Failure, Column::ChangeMessagesMean) >= 1.0, "somebody asks the one who failed");
        assert!(of(Change::Join, Column::ChangeMessagesMean) > of(Change::Leave, Column::ChangeMessagesMean));
        let bytes = of(Change::Join, Column::ChangeBytesMean);
        assert!(bytes > 88.0 * of(Change::Join, Column::ChangeMessagesMean), "{bytes}");
    }

    #[test]
    fn a_join_costs_more_messages_in_a_larger_network_but_not_in_proportion() {
        let rows = run(|parameters| {
            parameters.nodes = vec![Within(50), Within(800)];
            parameters.changes = vec![Change::Join];
        });
        let messages: Vec<f64> =
            rows.iter().map(|row| row.number(Column::ChangeMessagesMean).expect("measured")).collect();
        assert!(messages[1] > messages[0] && messages[1] < 8.0 * messages[0], "{messages:?}");
    }

    #[test]
    fn bits_are_kept_from_the_front() {
        let ones = Id::from([0xff; 32]);
        let kept = |bits| <[u8; 32]>::from(keep_bits(ones, bits, Id::from([0; 32])));
        assert_eq!(kept(0), [0; 32]);
        assert_eq!(kept(11)[..3], [0xff, 0b1110_0000, 0]);
        assert_eq!(kept(256), [0xff; 32]);
    }
}
