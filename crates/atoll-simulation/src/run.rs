//! One run from one seed: a cluster of whole nodes under load, storms, and the verdict.
//!
//! A run is a story of episodes. In each there is a storm, drawn from the seed; then all is
//! mended, and within [`LIVELY_WITHIN`] every node must answer again (liveness). At the end
//! the clients come to rest, and what they saw is judged (safety). The first thing that
//! fails ends the run. Two runs of one program with the same options are the same run.
//!
//! It prints nothing and reads no clock: `atoll simulate` does, and so do tests.

use std::{collections::BTreeMap, fmt, time::Duration};

use rand::Rng;
use serde::Serialize;

use crate::{
    RunError, Seed,
    checkers::Judgement,
    cluster::{Cluster, ClusterView},
    executor::StopReason,
    load::Load,
    world::{Outcomes, Storm, World, stable},
};

/// What a run is made from.
#[derive(Debug, Clone, PartialEq)]
pub struct RunOptions {
    pub seed: Seed,
    /// Virtual time under load, the storms included.
    pub duration: Duration,
    pub nodes: usize,
    pub clients: usize,
    /// What the clients do; drawn from the seed if not given.
    pub load: Option<Load>,
}

impl RunOptions {
    /// As `atoll simulate --seed …` without further flags.
    pub fn new(seed: Seed) -> Self {
        Self { seed, duration: Duration::from_secs(600), nodes: 5, clients: 20, load: None }
    }

    /// Five sites of ten: what one layout and one thread carry easily.
    pub const NODES_MAX: usize = 50;
}

/// After the last fault of an episode.
pub const LIVELY_WITHIN: Duration = Duration::from_secs(60);
/// For a cluster to form on a sound network.
const FORMED_WITHIN: Duration = Duration::from_secs(300);
/// Data shards: enough that some are led elsewhere, few enough for a fast run.
const DATA_SHARDS: u32 = 4;

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// As the command line reads it.
    pub seed: String,
    pub nodes: usize,
    pub clients: usize,
    /// The duration that was asked for: with seed and nodes, what replays the run.
    pub minutes: f64,
    /// Until the end, or the failure.
    pub virtual_seconds: f64,
    pub storms: u64,
    pub operations: usize,
    /// How many operations ended how.
    pub outcomes: BTreeMap<&'static str, Outcomes>,
    /// How often what has befallen the cluster.
    pub faults: BTreeMap<&'static str, u64>,
    /// What was checked, in order; after a failure nothing more is.
    pub checks: Vec<Check>,
    /// How many times a task had its turn.
    pub steps: u64,
    /// Equal traces are the same run.
    pub trace: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    pub name: &'static str,
    /// `None`: it holds.
    pub failure: Option<Failure>,
}

/// What does not hold, in words.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub struct Failure(pub String);

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Report {
    pub fn failure(&self) -> Option<&Check> {
        self.checks.iter().find(|check| check.failure.is_some())
    }
}

/// Runs it to its end. Call it on a thread that no other executor has entered.
pub fn run(options: &RunOptions) -> Report {
    let mut story = Story::begin(options);
    // Whether it failed, and in what, is in the checks.
    let _ = story.tell();
    story.report()
}

/// A check failed, and the story ends.
struct TheEnd;

struct Story<'a> {
    options: &'a RunOptions,
    world: World,
    cluster: ClusterView,
    checks: Vec<Check>,
    storms: u64,
}

impl<'a> Story<'a> {
    fn begin(options: &'a RunOptions) -> Self {
        let program = Cluster::new(DATA_SHARDS);
        let cluster = program.view();
        let world = World::new(options.seed, program);
        world.network().memory().require_addresses();
        Self { options, world, cluster, checks: Vec::new(), storms: 0 }
    }

    fn tell(&mut self) -> Result<(), TheEnd> {
        self.form()?;
        let load = self.options.load.clone();
        let load = load.unwrap_or_else(|| Load::drawn(&mut self.options.seed.stream("load")));
        self.world.clients(self.options.clients, load);
        let end = self.world.simulation().now() + self.options.duration;
        let mut rng = self.options.seed.stream("episodes");
        let storm = Storm::drawn(&mut self.options.seed.stream("storm options"));
        while self.world.simulation().now() < end {
            // From one accident to a dozen.
            let left = end.saturating_since(self.world.simulation().now());
            let lasting = Duration::from_secs(rng.random_range(10..=90)).min(left);
            let stormed = self.world.weather(storm, lasting);
            self.storms += 1;
            self.unbroken(stormed)?;
            self.be_lively()?;
        }
        self.pass("every node answers again within 60 s after each storm");
        let judgement = match self.world.conclude() {
            Ok(judgement) => judgement,
            Err(error) => return self.unbroken(Err(error)),
        };
        self.pass("no node panics, and none waits for ever");
        for checker in Judgement::checkers() {
            let mut findings = judgement.findings.iter();
            let finding = findings.find(|finding| finding.checker == checker);
            let failure = finding.map(|finding| Failure(finding.problem.clone()));
            self.checks.push(Check { name: checker, failure });
        }
        if judgement.is_sound() { Ok(()) } else { Err(TheEnd) }
    }

    /// All nodes become one cluster.
    fn form(&mut self) -> Result<(), TheEnd> {
        let (cluster, nodes) = (self.cluster.clone(), self.options.nodes);
        self.world.nodes(nodes);
        let formed = self.world.go_on_until(move |_| cluster.is_settled(nodes), FORMED_WITHIN);
        self.check("the nodes become one cluster", formed.err().map(words))
    }

    fn be_lively(&mut self) -> Result<(), TheEnd> {
        match self.world.go_on_until(stable, LIVELY_WITHIN) {
            Ok(()) => Ok(()),
            Err(RunError { reason: StopReason::LimitReached { .. }, at, .. }) => {
                let name = "every node answers again within 60 s after each storm";
                let why = format!("at {:?}: {}", at - atoll_types::Instant::ORIGIN, self.world.unwell());
                self.check(name, Some(Failure(why)))
            }
            Err(error) => self.unbroken(Err(error)),
        }
    }

    /// The world itself went on.
    fn unbroken(&mut self, result: Result<(), RunError>) -> Result<(), TheEnd> {
        match result {
            Ok(()) => Ok(()),
            Err(error) => self.check("no node panics, and none waits for ever", Some(words(error))),
        }
    }

    fn pass(&mut self, name: &'static str) {
        self.checks.push(Check { name, failure: None });
    }

    fn check(&mut self, name: &'static str, failure: Option<Failure>) -> Result<(), TheEnd> {
        let failed = failure.is_some();
        self.checks.push(Check { name, failure });
        if failed { Err(TheEnd) } else { Ok(()) }
    }

    fn report(self) -> Report {
        let Self { options, world, checks, storms, .. } = self;
        let simulation = world.simulation();
        Report {
            seed: options.seed.to_string(),
            nodes: options.nodes,
            clients: options.clients,
            minutes: options.duration.as_secs_f64() / 60.0,
            virtual_seconds: (simulation.now() - atoll_types::Instant::ORIGIN).as_secs_f64(),
            storms,
            operations: world.operations().0,
            outcomes: world.outcomes().into_iter().map(|(kind, outcomes)| (kind.name(), outcomes)).collect(),
            faults: world.befallen(),
            checks,
            steps: simulation.steps(),
            trace: simulation.trace_hash().to_string(),
        }
    }
}

fn words(error: RunError) -> Failure {
    Failure(error.to_string())
}
