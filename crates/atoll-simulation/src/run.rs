//! One run from one seed: a cluster of whole nodes under load, storms, and the verdict.
//!
//! A run is a story of episodes. In each there is a storm, of the kind that the seed drew
//! ([`Swarm`]), and perhaps a node comes or goes or gets another disk; then all is mended,
//! and within [`LIVELY_WITHIN`] every node must answer again (liveness; not in an
//! asynchronous run, where one storm follows the other). At the end
//! the clients come to rest, and what they saw is judged (safety). The first thing that
//! fails ends the run. Two runs of one program with the same options are the same run.
//!
//! It prints nothing and reads no clock: `atoll simulate` does, and so do tests.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    time::Duration,
};

use atoll_types::Instant;
use rand::{
    Rng,
    rngs::StdRng,
    seq::{IndexedRandom, IteratorRandom},
};
use serde::Serialize;

use crate::{
    Change, RunError, Seed, Swarm, Synchrony,
    checkers::Judgement,
    cluster::{Cluster, ClusterView},
    executor::StopReason,
    world::{DiskImage, Outcomes, World, stable},
};

/// What a run is made from.
#[derive(Debug, Clone, PartialEq)]
pub struct RunOptions {
    pub seed: Seed,
    /// Virtual time under load, the storms included.
    pub duration: Duration,
    pub nodes: usize,
    pub clients: usize,
    /// No faults, and small objects only: to measure the simulation itself.
    pub calm: bool,
}

impl RunOptions {
    /// As `atoll simulate --seed …` without further flags.
    pub fn new(seed: Seed) -> Self {
        Self { seed, duration: Duration::from_secs(600), nodes: 5, clients: 20, calm: false }
    }

    /// Five sites of ten: what one layout and one thread carry easily.
    pub const NODES_MAX: usize = 50;
}

/// After the last fault of an episode.
pub const LIVELY_WITHIN: Duration = Duration::from_secs(60);
/// For a cluster to form on a sound network.
const FORMED_WITHIN: Duration = Duration::from_secs(300);
/// For a node to come, or to be drained and removed, once all is calm.
const CHANGED_WITHIN: Duration = Duration::from_secs(600);
/// Old disks that are kept to be brought back: more would only cost memory.
const IMAGES_MAX: usize = 3;
/// Data shards: enough that some are led elsewhere, few enough for a fast run.
const DATA_SHARDS: u32 = 4;

const LIVELY: &str = "every node answers again within 60 s after each storm";
const UNBROKEN: &str = "no node panics, none waits for ever, none gives up on a sound disk";

/// What came of a run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// As the command line reads it.
    pub seed: String,
    pub nodes: usize,
    pub synchrony: Synchrony,
    /// What was switched on.
    pub swarm: Vec<&'static str>,
    pub zones: usize,
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
    swarm: Swarm,
    world: World,
    cluster: ClusterView,
    members: BTreeSet<usize>,
    /// Of the disk of the one that may lie.
    images: Vec<DiskImage>,
    checks: Vec<Check>,
    storms: u64,
}

impl<'a> Story<'a> {
    fn begin(options: &'a RunOptions) -> Self {
        let swarm = if options.calm { Swarm::calm() } else { Swarm::drawn(options.seed, options.nodes) };
        let program = Cluster::new(DATA_SHARDS);
        let cluster = program.view();
        let mut world = World::new(options.seed, program);
        world.set_zones(swarm.zones);
        world.network().memory().require_addresses();
        let (members, images) = ((0..options.nodes).collect(), Vec::new());
        Self { options, swarm, world, cluster, members, images, checks: Vec::new(), storms: 0 }
    }

    fn tell(&mut self) -> Result<(), TheEnd> {
        self.form()?;
        self.world.clients(self.options.clients.max(self.options.nodes), self.swarm.load.clone());
        let end = self.world.simulation().now() + self.options.duration;
        let mut rng = self.options.seed.stream("episodes");
        while self.world.simulation().now() < end {
            // From one accident to a dozen.
            let left = end.saturating_since(self.world.simulation().now());
            let lasting = Duration::from_secs(rng.random_range(10..=90)).min(left);
            self.episode(&mut rng, lasting)?;
        }
        if self.asks_for_liveness() {
            self.pass(LIVELY);
        }
        let judgement = match self.world.conclude() {
            Ok(judgement) => judgement,
            Err(error) => return self.unbroken(Err(error)),
        };
        self.pass(UNBROKEN);
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
        self.check("the nodes become one cluster", formed.err().map(words))?;
        // The founder's names nobody but itself.
        self.cluster.renew_ticket(nodes - 1);
        let second = self.world.go_on_for(Duration::from_secs(1));
        self.unbroken(second)
    }

    /// A storm, and perhaps a change of the cluster that begins before it and ends after.
    fn episode(&mut self, rng: &mut StdRng, lasting: Duration) -> Result<(), TheEnd> {
        let change = self.swarm.changes.choose(rng).copied().filter(|_| rng.random_bool(0.7));
        let leaver = match change {
            Some(Change::Join) => {
                self.members.insert(self.world.machines());
                self.world.nodes(1);
                // So many that the newcomer is somebody's own node.
                self.world.clients(self.members.len(), self.swarm.load.clone());
                None
            }
            // Three copies need three nodes.
            Some(Change::Leave) if self.members.len() > 3 => {
                let leaver = self.members.iter().copied().choose(rng).expect("there are members");
                self.ask_to_leave(leaver);
                Some(leaver)
            }
            _ => None,
        };
        if let Some(damage) = self.swarm.storm.damage
            && self.images.len() < IMAGES_MAX
            && self.swarm.changes.contains(&Change::OldDisk)
        {
            self.images.push(self.world.image(damage.node));
        }
        let half = lasting / 2;
        self.weather(half)?;
        if change == Some(Change::EmptyDisk) {
            self.exchange_disk(|world, victim| world.replace_disk(victim));
        }
        self.weather(lasting - half)?;
        if !self.asks_for_liveness() {
            return Ok(());
        }
        self.be_lively()?;
        if change == Some(Change::OldDisk)
            && let Some(image) = self.images.choose(rng)
        {
            // What nobody is left to have seen can't be noticed (ADR 8): all have spoken with
            // each other since, and kept what they heard.
            let image = image.again();
            let known = self.world.go_on_for(Duration::from_secs(2));
            self.unbroken(known)?;
            self.exchange_disk(|world, victim| world.bring_back(victim, image));
            if rng.random_bool(0.5) {
                self.be_lively()?;
            }
        }
        if change == Some(Change::Join) {
            let (cluster, members) = (self.cluster.clone(), self.members.len());
            let joined = self.world.go_on_until(move |_| cluster.is_settled(members), CHANGED_WITHIN);
            self.within(joined, "a new node becomes a member within 10 min")?;
        }
        if let Some(leaver) = leaver {
            // Who was asked may have ended with the request.
            self.ask_to_leave(leaver);
            let (cluster, by) = (self.cluster.clone(), self.other_than(leaver));
            let left = self.world.go_on_until(move |_| !cluster.is_member(by, leaver), CHANGED_WITHIN);
            self.within(left, "a drained node is removed within 10 min")?;
            self.world.take_away(leaver);
            self.members.remove(&leaver);
            if !self.cluster.ticket_names_one_of(&self.members) {
                self.cluster.renew_ticket(by);
                let made = self.world.go_on_for(Duration::from_secs(5));
                self.unbroken(made)?;
            }
        }
        Ok(())
    }

    fn asks_for_liveness(&self) -> bool {
        self.swarm.synchrony != Synchrony::Asynchronous
    }

    fn weather(&mut self, lasting: Duration) -> Result<(), TheEnd> {
        let stormed = self.world.weather(self.swarm.storm, lasting);
        self.storms += 1;
        self.unbroken(stormed)
    }

    fn other_than(&self, leaver: usize) -> usize {
        let others = self.members.iter().copied().filter(|member| *member != leaver);
        others.into_iter().find(|member| self.world.is_up(*member)).expect("all but one run")
    }

    fn ask_to_leave(&mut self, leaver: usize) {
        self.world.is_to_leave(leaver);
        self.cluster.drain_and_remove(self.other_than(leaver), leaver);
    }

    /// Of the machine whose disk may lie: no other may lose what it has.
    fn exchange_disk(&mut self, exchange: impl FnOnce(&mut World, usize)) {
        let Some(victim) = self.swarm.storm.damage.map(|damage| damage.node) else { return };
        if self.members.contains(&victim) && self.world.is_up(victim) {
            self.world.crash(victim);
            exchange(&mut self.world, victim);
            self.world.restart(victim);
        }
    }

    fn be_lively(&mut self) -> Result<(), TheEnd> {
        let lively = self.world.go_on_until(stable, LIVELY_WITHIN);
        self.within(lively, LIVELY)
    }

    /// What was to happen in time.
    fn within(&mut self, result: Result<(), RunError>, name: &'static str) -> Result<(), TheEnd> {
        match result {
            Err(RunError { reason: StopReason::LimitReached { .. }, at, .. }) => {
                let why = format!("at {:?}: {}", at - Instant::ORIGIN, self.world.unwell());
                self.check(name, Some(Failure(why)))
            }
            result => self.unbroken(result),
        }
    }

    /// The world itself went on.
    fn unbroken(&mut self, result: Result<(), RunError>) -> Result<(), TheEnd> {
        match result {
            Ok(()) => Ok(()),
            Err(error) => self.check(UNBROKEN, Some(words(error))),
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
        let Self { options, swarm, world, checks, storms, .. } = self;
        let simulation = world.simulation();
        Report {
            seed: options.seed.to_string(),
            nodes: options.nodes,
            synchrony: swarm.synchrony,
            swarm: swarm.names(),
            zones: swarm.zones,
            minutes: options.duration.as_secs_f64() / 60.0,
            virtual_seconds: (simulation.now() - Instant::ORIGIN).as_secs_f64(),
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
