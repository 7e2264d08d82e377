//! Experiment *churn*: nodes come and go all the time.
//!
//! The network is always as large: when a session ends, another node joins at that moment,
//! under an identifier of its own, through a node that is there. (So did Rhea, Geels, Roscoe,
//! Kubiatowicz, *Handling churn in a DHT*, USENIX ATC 2004.) A kind's centre may stay.
//!
//! ```text
//! grow by joining, rest ─► churn begins, warm-up ─► upkeep is counted ─► lookups are asked
//! ```
//!
//! Upkeep and lookups are measured one after the other, for a message does not tell what it is
//! for.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BinaryHeap},
    time::Duration,
};

use atoll_overlay::{Id, LookupId, Notification, Overlay};
use atoll_types::Instant;
use rand::{Rng, rngs::StdRng};

use crate::{
    columns::{Column, Row},
    experiment::{Lookups, Progress, Report, Setup, mean, micros, network_over, share},
    kinds::{Kind, Recipe, Settings, Task},
    page::Plot,
    parameters::{NodeCount, Share, Within, parameters},
    plot::Scale,
    sessions::Sessions,
    world::{Links, Reported, SimulatedContact, World, ring, stream},
};

/// A day: longer is a slip of the finger.
type Seconds = Within<1, 86_400>;

parameters! {
    pub struct ChurnParameters {
        /// The kinds to run.
        pub overlays: Vec<Kind> = Kind::ALL.to_vec(),
        /// Sizes of the network.
        pub nodes: Vec<NodeCount> = vec![NodeCount(1_000)],
        /// Distributions of sessions: exponential, pareto.
        pub sessions: Vec<Sessions> = Sessions::ALL.to_vec(),
        /// Median sessions in seconds.
        pub medians_s: Vec<Seconds> = [300, 900, 3_600, 14_400].map(Within).to_vec(),
        /// Of sessions that end, the share whose nodes say goodbye; the others just stop.
        pub goodbye_share: Share = Share(0.0),
        /// Of all messages, the share that is lost.
        pub loss: Share = Share(0.0),
        /// Of all ordered pairs of nodes, the share of which the first never reaches the second.
        pub cut_one_way: Share = Share(0.0),
        /// Seconds of churn before anything is measured.
        pub warm_up_s: Seconds = Within(900),
        /// Seconds for which upkeep is counted, and then as many with lookups.
        pub measured_s: Seconds = Within(600),
        /// Lookups for each row.
        pub lookups: usize = 2_000,
        + pub settings: Settings,
    }
}

const LINES: &[Column] = &[Column::Overlay, Column::Nodes, Column::Sessions];

pub(crate) const PLOTS: &[Plot] = &[
    Plot {
        title: "Lookups that fail",
        x: (Column::SessionMedianS, Scale::Logarithmic),
        y: (Column::LookupsFailedShare, Scale::Linear),
        by: LINES,
        theory: &[],
        model: None,
    },
    Plot {
        title: "Contacts that are gone",
        x: (Column::SessionMedianS, Scale::Logarithmic),
        y: (Column::StaleShare, Scale::Linear),
        by: LINES,
        theory: &[],
        model: None,
    },
    Plot {
        title: "Upkeep",
        x: (Column::SessionMedianS, Scale::Logarithmic),
        y: (Column::UpkeepBytesPerNodeS, Scale::Linear),
        by: LINES,
        theory: &[],
        model: None,
    },
    Plot {
        title: "Latency of a lookup",
        x: (Column::SessionMedianS, Scale::Logarithmic),
        y: (Column::LatencyMsMean, Scale::Linear),
        by: LINES,
        theory: &[],
        model: None,
    },
];

/// Churns networks that grew, and looks evenly drawn keys up meanwhile.
pub fn churn(seed: u64, parameters: ChurnParameters, tell: &mut dyn FnMut(f64)) -> Report {
    let ChurnParameters { overlays, nodes, sessions, medians_s, .. } = &parameters;
    let sizes: usize = nodes.iter().map(|nodes| nodes.0).sum();
    let mut progress =
        Progress::new(tell, (sizes * overlays.len() * sessions.len() * medians_s.len()) as f64);
    let mut rows = Vec::new();
    for &NodeCount(nodes) in nodes {
        for &sessions in sessions {
            for &Within(median_s) in medians_s {
                for &overlay in overlays {
                    let row = Row::default()
                        .with(Column::Overlay, overlay.name())
                        .with(Column::Nodes, nodes)
                        .with(Column::Sessions, sessions.name())
                        .with(Column::SessionMedianS, median_s);
                    let median = Duration::from_secs(median_s as u64);
                    let task = Churn { seed, nodes, sessions, median, parameters: &parameters, row };
                    rows.push(overlay.run(&parameters.settings, task));
                    progress.add(nodes as f64);
                }
            }
        }
    }
    Report::new("churn", seed, &parameters, rows)
}

struct Churn<'a> {
    seed: u64,
    nodes: usize,
    sessions: Sessions,
    median: Duration,
    parameters: &'a ChurnParameters,
    row: Row,
}

impl Task for Churn<'_> {
    type Output = Row;

    fn run<R: Recipe>(self, recipe: &R) -> Row {
        let ChurnParameters { loss, cut_one_way, warm_up_s, measured_s, lookups, .. } = self.parameters;
        let links = Links { loss: loss.0, cut_one_way: cut_one_way.0, ..Links::default() };
        let world = network_over(recipe, self.nodes, self.seed, Setup::Grown, links);
        let mut town = Town::new(recipe, world, &self);
        let measured = Duration::from_secs(measured_s.0 as u64);
        town.run(Duration::from_secs(warm_up_s.0 as u64));

        let before = town.world.traffic();
        town.join_millis.clear();
        let mut stale = Vec::new();
        for _ in 0..STALE_SAMPLES {
            town.run(measured / STALE_SAMPLES);
            stale.extend(town.world.stale_share());
        }
        let upkeep = town.world.traffic() - before;
        let node_seconds = self.nodes as f64 * measured.as_secs_f64();
        let bytes_per_node = town.world.bytes_per_node();

        let mut rng = stream(self.seed, "lookups");
        for _ in 0..*lookups {
            town.look_up(&mut rng);
            town.run(measured / (*lookups).max(1) as u32);
        }
        town.run(LOOKUPS_END_WITHIN);

        let wrong = town.wrong as f64;
        let made = town.made.timeouts.len();
        town.made
            .into_row(self.row)
            .with_some(Column::LookupsWrongShare, share(wrong, made))
            .with_some(Column::StaleShare, share(stale.iter().sum(), stale.len()))
            .with(Column::UpkeepMessagesPerNodeS, upkeep.sent as f64 / node_seconds)
            .with(Column::UpkeepBytesPerNodeS, upkeep.sent_bytes as f64 / node_seconds)
            .with_some(Column::JoinMsMean, mean(&town.join_millis))
            .with(Column::BytesPerNode, bytes_per_node)
    }
}

/// Moments at which tables are looked through.
const STALE_SAMPLES: u32 = 10;
/// Far longer than any lookup takes that is not stuck.
const LOOKUPS_END_WITHIN: Duration = Duration::from_secs(120);

/// A network whose nodes come and go.
struct Town<'a, R: Recipe> {
    recipe: &'a R,
    world: World<R::Core>,
    sessions: Sessions,
    median: Duration,
    goodbye_share: f64,
    rng: StdRng,
    /// The earliest end first.
    ends: BinaryHeap<Reverse<(Instant, SimulatedContact)>>,
    /// Of nodes that are still joining: since when.
    joining: BTreeMap<SimulatedContact, Instant>,
    /// Who has joined and lives, sorted by id.
    members: Vec<(Id, SimulatedContact)>,
    begun: BTreeMap<(SimulatedContact, LookupId), Begun>,
    made: Lookups,
    /// Lookups that ended with a node that is not responsible.
    wrong: usize,
    join_millis: Vec<u32>,
}

struct Begun {
    at: Instant,
    responsible: SimulatedContact,
}

impl<'a, R: Recipe> Town<'a, R> {
    /// Takes a network at rest; churn begins.
    fn new(recipe: &'a R, world: World<R::Core>, churn: &Churn) -> Self {
        let members = ring(world.living().map(|(contact, _)| contact));
        let mut town = Self {
            recipe,
            sessions: churn.sessions,
            median: churn.median,
            goodbye_share: churn.parameters.goodbye_share.0,
            rng: stream(churn.seed, "sessions"),
            ends: BinaryHeap::new(),
            joining: BTreeMap::new(),
            members,
            begun: BTreeMap::new(),
            made: Lookups::default(),
            wrong: 0,
            join_millis: Vec::new(),
            world,
        };
        let all: Vec<SimulatedContact> = town.world.living().map(|(contact, _)| contact).collect();
        for contact in all.into_iter().filter(|contact| !recipe.stays(*contact)) {
            let rest = town.sessions.rest(town.median, &mut town.rng);
            town.ends.push(Reverse((town.world.now() + rest, contact)));
        }
        town
    }

    fn run(&mut self, duration: Duration) {
        let end = self.world.now() + duration;
        while let Some(Reverse((at, contact))) =
            self.ends.peek().copied().filter(|Reverse((at, _))| *at <= end)
        {
            self.ends.pop();
            self.world.run_until(at);
            self.take_reports();
            self.replace(contact);
        }
        self.world.run_until(end);
        self.take_reports();
    }

    /// A node goes, and another comes.
    fn replace(&mut self, gone: SimulatedContact) {
        if self.rng.random_bool(self.goodbye_share) {
            self.world.leave(gone);
        } else {
            self.world.fail(gone);
        }
        self.joining.remove(&gone);
        self.members.retain(|(_, contact)| *contact != gone);
        // Nobody waits for its lookups any more.
        self.begun.retain(|(asker, _), _| *asker != gone);
        let recipe = self.recipe;
        let came = self.world.join(|contact| recipe.outside(contact));
        let now = self.world.now();
        self.joining.insert(came, now);
        self.ends.push(Reverse((now + self.sessions.whole(self.median, &mut self.rng), came)));
        self.take_reports();
    }

    fn look_up(&mut self, rng: &mut StdRng) {
        let key = Id::from_halves(rng.random(), rng.random());
        let at = self.world.now();
        if self.members.is_empty() {
            return;
        }
        let (_, asker) = self.members[rng.random_range(0..self.members.len())];
        let responsible = self.responsible(key);
        // A member may have lost everybody and be joining anew: it is not part of the overlay
        // then, and whoever asks it is told so at once.
        match self.world.with(asker, |core, now, rng, out| core.locate(now, rng, key, out)) {
            Ok(lookup) => {
                self.begun.insert((asker, lookup), Begun { at, responsible });
            }
            Err(_) => self.made.timeouts.push(0),
        }
        self.take_reports();
    }

    /// Of the members to whom keys can belong now.
    fn responsible(&self, key: Id) -> SimulatedContact {
        let is_keeper = |contact| self.world.core(contact).is_some_and(Overlay::is_keeper);
        let keepers: Vec<_> =
            self.members.iter().copied().filter(|(_, contact)| is_keeper(*contact)).collect();
        self.recipe.responsible(key, if keepers.is_empty() { &self.members } else { &keepers })
    }

    fn take_reports(&mut self) {
        for Reported { at, by, notification } in self.world.take_reports() {
            match notification {
                Notification::Joined => {
                    if let Some(since) = self.joining.remove(&by) {
                        let millis = micros(at.saturating_since(since)) / 1000;
                        self.join_millis.push(u32::try_from(millis).unwrap_or(u32::MAX));
                        let entry = (atoll_overlay::Contact::id(&by), by);
                        let place = self.members.partition_point(|member| *member < entry);
                        self.members.insert(place, entry);
                    }
                }
                Notification::LookupFinished(located) => {
                    let Some(begun) = self.begun.remove(&(by, located.lookup)) else { continue };
                    self.made.timeouts.push(located.timeouts);
                    let Some(found) = located.outcome.ok().and_then(|found| found.first().copied()) else {
                        continue;
                    };
                    // Right is who was responsible when it was asked, or is now.
                    let responsible = self.responsible(located.key);
                    if found != responsible && found != begun.responsible {
                        self.wrong += 1;
                        continue;
                    }
                    self.made.hops.push(located.hops);
                    self.made.latencies_micros.push(micros(at.saturating_since(begun.at)));
                    self.made.direct_micros += 2 * micros(self.world.latency(by, found));
                }
                Notification::JoinFailed | Notification::OperationFinished(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(change: impl FnOnce(&mut ChurnParameters)) -> Vec<Row> {
        let mut parameters = ChurnParameters {
            overlays: vec![Kind::Chord],
            nodes: vec![NodeCount(150)],
            lookups: 300,
            sessions: vec![Sessions::Exponential],
            ..ChurnParameters::default()
        };
        change(&mut parameters);
        churn(1, parameters, &mut |_| ()).rows
    }

    fn column(rows: &[Row], column: Column) -> Vec<f64> {
        rows.iter().map(|row| row.number(column).expect("measured")).collect()
    }

    #[test]
    fn the_shorter_nodes_stay_the_more_goes_wrong_and_the_more_is_stale() {
        let rows = run(|parameters| parameters.medians_s = vec![Within(120), Within(1_200), Within(80_000)]);
        for worse in [Column::LookupsFailedShare, Column::StaleShare, Column::TimeoutsMean] {
            let measured = column(&rows, worse);
            assert!(measured.is_sorted_by(|one, next| one >= next), "{worse:?}: {measured:?}");
            assert!(measured[0] > 2.0 * measured[2], "{worse:?}: {measured:?}");
        }
        let failed = column(&rows, Column::LookupsFailedShare);
        assert!(failed[2] < 0.01 && failed[0] > 0.01, "{failed:?}");
        // Who comes must be told, so more churn is more upkeep.
        assert!(column(&rows, Column::UpkeepBytesPerNodeS).is_sorted_by(|one, next| one > next));
    }

    #[test]
    fn a_directory_goes_as_its_index_nodes_do() {
        let of = |stay| {
            let rows = run(|parameters| {
                parameters.overlays = vec![Kind::Directory];
                parameters.medians_s = vec![Within(300)];
                parameters.settings.directory_indexes_stay = stay;
            });
            column(&rows, Column::LookupsFailedShare)[0]
        };
        // Three sessions of whose kind one in 32 is longer than the 25 minutes.
        assert_eq!((of(true), of(false)), (0.0, 1.0));
    }

    #[test]
    fn goodbyes_leave_fewer_contacts_that_are_gone_and_fewer_lookups_that_fail() {
        let of = |goodbye_share| {
            let rows = run(|parameters| {
                parameters.medians_s = vec![Within(300)];
                parameters.goodbye_share = Share(goodbye_share);
            });
            [Column::StaleShare, Column::LookupsFailedShare].map(|measured| column(&rows, measured)[0])
        };
        // Chord's goodbye goes to the two neighbours only: fingers learn nothing of it.
        let ([stale, failed], [stale_with, failed_with]) = (of(0.0), of(0.99));
        assert!(
            stale_with < stale && failed_with < 0.7 * failed,
            "{stale} {failed} {stale_with} {failed_with}"
        );
    }

    #[test]
    fn lost_messages_and_one_way_cuts_cost_time_outs() {
        let of = |loss, cut_one_way| {
            let rows = run(|parameters| {
                parameters.medians_s = vec![Within(80_000)];
                (parameters.loss, parameters.cut_one_way) = (Share(loss), Share(cut_one_way));
            });
            column(&rows, Column::TimeoutsMean)[0]
        };
        let [calm, lossy, cut] = [of(0.0, 0.0), of(0.2, 0.0), of(0.0, 0.05)];
        assert!(calm < 0.05 && lossy > 0.1 && cut > 0.1, "{calm} {lossy} {cut}");
    }
}
