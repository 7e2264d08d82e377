//! Several nodes, their network and disks, clients that load them, and what befalls them:
//! a fixture that reads as prose.
//!
//! ```ignore
//! let mut world = World::new(seed, program);
//! world.nodes(3);
//! world.clients(6, Load::default());
//! world.run_until(stable);
//! world.cut([0], [1, 2]);
//! world.run_for(seconds(10));
//! world.crash(1);
//! world.restart(1);
//! world.heal();
//! world.run_until(stable);
//! world.check();
//! ```
//!
//! What runs on the nodes is a [`Program`], started anew for each life of a node. The
//! clients ([`crate::load`]) are tasks of the world; each operation runs as a task of the
//! node that it is sent to, and so ends with it, its outcome unknown. What every client saw
//! goes into one history, which [`World::judge`] has judged by all [`crate::checkers`].

mod fault_points;
mod stations;
mod storm;
mod supervision;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use atoll_disk::{DiskFaults, FaultCounts, Files, MemoryDisk, MemoryStore};
use atoll_runtime::Runtime;
use atoll_transport::Transport;
use atoll_types::{Instant, NodeId, Zone};
use futures_util::{
    FutureExt,
    future::{self, BoxFuture},
};
use rand::{Rng, rngs::StdRng};
use serde::Serialize;

use crate::{
    Faults, Network, NodeIndex, RunError, Schedule, Seed, Simulation, TraceHash,
    checkers::{Census, Evidence, Judgement, liveness},
    executor::lock,
    load::{Audit, Ending, Kind, Load, Promptness, SharedHistory, Target},
};
use fault_points::DangerousPlaces;
use stations::Station;
use supervision::Signals;

pub(crate) use storm::DRIFT_PPM_MAX;
pub use storm::{Damage, Storm};
pub use supervision::GiveUp;

/// What runs on every node.
pub trait Program: Send + Sync + 'static {
    /// One life of a node, started on what the node's disks hold.
    fn start(&self, place: Place) -> BoxFuture<'static, Arc<dyn Life>>;

    /// The node will start with an old disk.
    fn was_set_back(&self, _index: usize) {}

    /// What is to be seen of the nodes from outside, when all is calm; for the checkers.
    fn inspect(&self, _runtime: Runtime) -> BoxFuture<'static, Inspection> {
        future::ready(Inspection::default()).boxed()
    }
}

/// What the harness saw of the nodes themselves.
#[derive(Debug, Clone, Default)]
pub struct Inspection {
    /// What of Raft's invariants was broken ([`crate::checkers::RaftWatch`]).
    pub violations: Vec<String>,
    pub chunks: Option<Census>,
}

/// What the last client found, and what the harness saw.
type Audited = (Vec<Promptness>, Inspection);

/// A node that runs: it performs clients' operations.
pub trait Life: Target {}

/// Where a life takes place: all that a node gets from its machine.
pub struct Place {
    /// Counts from 0.
    pub index: usize,
    pub id: NodeId,
    /// All machines of the world, this one among them.
    pub everyone: Vec<NodeId>,
    /// Counts the lives of this node, from 0.
    pub life: u64,
    pub runtime: Runtime,
    pub transport: Arc<dyn Transport>,
    pub files: Arc<dyn Files>,
    pub store: MemoryStore,
    /// Where the machine stands.
    pub zone: Zone,
    pub give_up: GiveUp,
}

/// What a machine's disk held at some moment.
pub struct DiskImage {
    disk: MemoryDisk,
    store: MemoryStore,
}

impl DiskImage {
    /// The same once more.
    pub fn again(&self) -> DiskImage {
        DiskImage { disk: self.disk.image(), store: self.store.image() }
    }
}

struct Machine {
    node: NodeIndex,
    id: NodeId,
    disk: MemoryDisk,
    store: MemoryStore,
    lives: u64,
    /// From its start to its end, its life may be on the way up.
    running: bool,
    /// Its node is about to be removed, and need not answer.
    leaving: bool,
    /// Taken away for good.
    gone: bool,
    /// In its present life its disk has been full.
    was_full: bool,
    full: bool,
    /// What befell the disks that it had before.
    former: Vec<FaultCounts>,
    station: Arc<Station>,
}

/// How operations of one kind ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Outcomes {
    pub answered: u64,
    /// Nobody answered in time: it may have happened, or still happen.
    pub unknown: u64,
    /// Nobody was there to be asked.
    pub not_done: u64,
}

pub struct World {
    simulation: Simulation,
    faults: Faults,
    network: Network,
    program: Arc<dyn Program>,
    machines: Vec<Machine>,
    history: SharedHistory,
    clients: u64,
    /// Kinds of operations that clients have.
    kinds: BTreeSet<Kind>,
    clients_go_on: Arc<AtomicBool>,
    /// For which bytes of a disk survive a crash, and other accidents.
    rng: StdRng,
    /// When something was last broken or mended.
    disturbed: Instant,
    /// How often what has befallen the machines and their network.
    befallen: BTreeMap<&'static str, u64>,
    storms: u64,
    /// Machines lie in as many places.
    zones: usize,
    /// The only machine whose disk may lie.
    liar: Option<usize>,
    fault_points: Arc<DangerousPlaces>,
    signals: Signals,
    /// Nodes that are to be started again, and when.
    to_start: BTreeMap<(Instant, usize), ()>,
}

/// An hour of virtual time: what has not settled by then never will.
const PATIENCE: Duration = Duration::from_secs(3600);

/// For [`World::run_until`]: all nodes are up, and since the last disturbance each has
/// answered an operation.
pub fn stable(world: &World) -> bool {
    world.machines.iter().filter(|machine| machine.must_answer()).all(|machine| {
        let answered = *lock(&machine.station.answered);
        machine.is_up() && answered.is_some_and(|at| at >= world.disturbed)
    })
}

impl Drop for World {
    /// A node's endpoint holds what it serves, which holds the endpoint.
    fn drop(&mut self) {
        for machine in &self.machines {
            self.faults.crash(machine.node);
            let life = lock(&machine.station.life).take();
            drop(life);
            self.network.memory().stop(machine.id);
        }
    }
}

impl World {
    /// Why it is not [`stable`], in words.
    pub fn unwell(&self) -> String {
        let silent = self.machines.iter().enumerate().filter(|(_, machine)| machine.must_answer());
        let complaints = silent.filter_map(|(index, machine)| {
            let answered = *lock(&machine.station.answered);
            if !machine.is_up() {
                Some(format!("node {index} has not come up"))
            } else if answered.is_none_or(|at| at < self.disturbed) {
                Some(format!("node {index} has answered no operation"))
            } else {
                None
            }
        });
        complaints.collect::<Vec<_>>().join(", ")
    }
}

/// A common cloud disk: a flush takes some 4 ms.
fn usual_disk() -> DiskFaults {
    DiskFaults { sync_latency: Duration::from_millis(1)..Duration::from_millis(8), ..DiskFaults::default() }
}

impl Machine {
    fn is_up(&self) -> bool {
        lock(&self.station.life).is_some()
    }

    fn must_answer(&self) -> bool {
        !self.gone && !self.leaving
    }
}

impl World {
    pub fn new(seed: Seed, program: impl Program) -> Self {
        let simulation = Simulation::new(seed, Schedule::Shuffled);
        let signals = Signals::default();
        let fault_points = Arc::new(DangerousPlaces::new(seed, signals.clone()));
        simulation.set_fault_points(fault_points.clone());
        Self {
            faults: simulation.faults(),
            network: Network::new(&simulation),
            program: Arc::new(program),
            machines: Vec::new(),
            history: Arc::default(),
            clients: 0,
            kinds: BTreeSet::new(),
            clients_go_on: Arc::new(AtomicBool::new(true)),
            rng: seed.stream("world"),
            disturbed: Instant::ORIGIN,
            befallen: BTreeMap::new(),
            storms: 0,
            zones: 1,
            liar: None,
            fault_points,
            signals,
            to_start: BTreeMap::new(),
            simulation,
        }
    }

    pub fn network(&self) -> &Network {
        &self.network
    }

    pub fn simulation(&self) -> &Simulation {
        &self.simulation
    }

    /// Machines lie in so many places from now on, one after the other; between two the
    /// way is longer.
    ///
    /// # Panics
    /// If there are machines already: they do not move.
    pub fn set_zones(&mut self, zones: usize) {
        assert!(self.machines.is_empty() && zones > 0, "machines do not move");
        self.zones = zones;
    }

    fn zone(&self, index: usize) -> usize {
        index % self.zones
    }

    /// The node's key. Any bytes will do: the in-memory network proves nothing.
    pub fn id(index: usize) -> NodeId {
        NodeId([index as u8 + 1; 32])
    }

    /// Adds this many machines and starts a node on each.
    pub fn nodes(&mut self, count: usize) {
        let first = self.machines.len();
        for index in first..first + count {
            let node = self.simulation.add_node(format!("n{index}"));
            let disk = MemoryDisk::new(self.seed().stream(&format!("disk {index}")).random());
            disk.set_faults(usual_disk());
            self.machines.push(Machine {
                node,
                id: Self::id(index),
                disk,
                store: MemoryStore::new(),
                lives: 0,
                running: false,
                leaving: false,
                gone: false,
                was_full: false,
                full: false,
                former: Vec::new(),
                station: Arc::default(),
            });
        }
        self.lay_links(false);
        for index in first..first + count {
            self.start(index);
        }
    }

    fn start(&mut self, index: usize) {
        self.disturbed = self.simulation.now();
        let zone = match self.zones {
            1 => Zone::default(),
            _ => Zone(format!("z{}", self.zone(index))),
        };
        let everyone = self.machines.iter().map(|machine| machine.id).collect();
        let machine = &mut self.machines[index];
        let runtime = self.simulation.node_runtime(machine.node);
        let surroundings = self.simulation.surroundings_runtime(machine.node);
        let place = Place {
            index,
            id: machine.id,
            everyone,
            life: machine.lives,
            transport: self.network.memory().endpoint(machine.id, surroundings.clone()),
            files: Arc::new(machine.disk.files(&surroundings)),
            store: machine.store.clone(),
            zone,
            give_up: GiveUp { signals: self.signals.clone(), index, life: machine.lives },
            runtime: runtime.clone(),
        };
        machine.lives += 1;
        machine.running = true;
        machine.was_full = machine.full;
        let (program, station) = (self.program.clone(), machine.station.clone());
        let own = runtime.clone();
        runtime.spawn("start", async move {
            let life = program.start(place).await;
            *lock(&station.life) = Some((own, life));
        });
    }

    fn end(&mut self, index: usize) {
        self.disturbed = self.simulation.now();
        let machine = &mut self.machines[index];
        machine.running = false;
        self.faults.crash(machine.node);
        let life = lock(&machine.station.life).take();
        drop(life);
    }

    /// The machine loses power: nothing is told to anybody, and the disk keeps what was
    /// flushed, and of the rest what it likes.
    pub fn crash(&mut self, index: usize) {
        self.befell("node: lost power");
        self.end(index);
        let machine = &self.machines[index];
        self.network.memory().vanish(machine.id);
        machine.disk.crash(&mut self.rng);
        machine.store.crash(&mut self.rng);
    }

    /// The process ends as by `kill -9`: its connections break, and the operating system
    /// keeps all it wrote.
    pub fn kill(&mut self, index: usize) {
        self.befell("node: process killed");
        self.end(index);
        self.machines[index].disk.kill();
        self.machines[index].store.kill();
        self.network.memory().stop(self.machines[index].id);
    }

    /// The node is about to be removed: from now on it need not answer.
    pub fn is_to_leave(&mut self, index: usize) {
        self.machines[index].leaving = true;
    }

    /// The machine is taken away, and does not come back.
    pub fn take_away(&mut self, index: usize) {
        self.crash(index);
        self.befell("node: taken away");
        self.machines[index].gone = true;
    }

    /// The next life of a node that crashed or was killed.
    ///
    /// # Panics
    /// If it runs.
    pub fn restart(&mut self, index: usize) {
        assert!(!self.machines[index].running, "node {index} runs");
        self.start(index);
    }

    /// How many there are, those taken away included.
    pub fn machines(&self) -> usize {
        self.machines.len()
    }

    pub fn is_up(&self, index: usize) -> bool {
        self.machines[index].is_up()
    }

    /// The node stands still while time goes on.
    pub fn pause(&mut self, index: usize) {
        self.befell("node: stood still");
        self.disturbed = self.simulation.now();
        self.faults.pause(self.machines[index].node);
    }

    pub fn resume(&mut self, index: usize) {
        self.disturbed = self.simulation.now();
        self.faults.resume(self.machines[index].node);
    }

    /// The node's wall clock is set forward, or back.
    pub fn jump_clock(&mut self, index: usize, by: Duration, forward: bool) {
        self.befell("node: clock jumped");
        self.faults.jump_clock(self.machines[index].node, by, forward);
    }

    /// The node's clocks run this many millionths too fast from now on.
    pub fn drift_clock(&mut self, index: usize, ppm: i64) {
        self.befell("node: clock drifted");
        self.faults.drift_clock(self.machines[index].node, ppm);
    }

    /// A copy of what the machine's disk holds now, flushed or not.
    pub fn image(&self, index: usize) -> DiskImage {
        let machine = &self.machines[index];
        DiskImage { disk: machine.disk.image(), store: machine.store.image() }
    }

    /// Somebody restores an old image of the disk, as an operator might who found no
    /// better idea.
    ///
    /// # Panics
    /// If the node runs.
    pub fn bring_back(&mut self, index: usize, image: DiskImage) {
        self.lies(index);
        self.befell("node: old disk brought back");
        let machine = &mut self.machines[index];
        assert!(!machine.running, "node {index} runs");
        machine.former.push(machine.disk.counts());
        (machine.disk, machine.store) = (image.disk, image.store);
        self.program.was_set_back(index);
    }

    /// Whoever comes to this named place may wait there, from now on.
    pub fn slow_down_at(&mut self, place: &'static str, stalls: crate::Stalls) {
        self.fault_points.slow_down(place, stalls);
    }

    /// Its processors have other work from now on.
    pub fn keep_busy(&mut self, index: usize, busy: crate::Stalls) {
        self.simulation.faults().keep_busy(self.machines[index].node, busy);
    }

    /// What is kept under one key of the machine's ordered store can't be read from now on;
    /// or a batch in its journal, and it can't be opened again.
    pub fn damage_store(&mut self, index: usize, journal: bool) {
        self.lies(index);
        self.befell(if journal { "disk: store's journal damaged" } else { "disk: store's entry damaged" });
        let machine = &mut self.machines[index];
        if journal {
            machine.store.damage_journal();
        } else {
            machine.store.damage_entry(&mut self.rng);
        }
    }

    /// What goes wrong on the machine's disk from now on.
    pub fn set_disk_faults(&mut self, index: usize, faults: DiskFaults) {
        let machine = &mut self.machines[index];
        machine.full = faults.capacity.is_some();
        machine.was_full |= machine.full;
        machine.disk.set_faults(faults);
    }

    /// Nothing passes between these and those.
    pub fn cut(&mut self, these: impl IntoIterator<Item = usize>, those: impl IntoIterator<Item = usize>) {
        self.befell("network: cut");
        self.disturbed = self.simulation.now();
        let these: Vec<NodeId> = these.into_iter().map(Self::id).collect();
        let those: Vec<NodeId> = those.into_iter().map(Self::id).collect();
        self.network.links().cut(&these, &those);
    }

    /// Nothing passes from this one to that one, while the other direction stays.
    pub fn cut_one_way(&mut self, from: usize, to: usize) {
        self.befell("network: cut one way");
        self.disturbed = self.simulation.now();
        self.network.links().cut_one_way(Self::id(from), Self::id(to));
    }

    /// All cuts are mended, all nodes resumed, all that are down started, but for those
    /// taken away.
    pub fn heal(&mut self) {
        self.network.links().heal_all();
        for index in 0..self.machines.len() {
            self.resume(index);
            let machine = &self.machines[index];
            if !machine.running && !machine.gone {
                self.start(index);
            }
        }
        self.disturbed = self.simulation.now();
    }

    /// # Panics
    /// With the seed, if the run fails.
    pub fn run_for(&mut self, duration: Duration) {
        let result = self.go_on_for(duration);
        self.must(result);
    }

    /// # Panics
    /// With the seed, if the run fails, or if it takes an hour.
    pub fn run_until(&mut self, condition: impl Fn(&World) -> bool) {
        self.run_until_within(condition, PATIENCE);
    }

    /// # Panics
    /// With the seed, if the run fails, or if it takes longer than `limit`.
    pub fn run_until_within(&mut self, condition: impl Fn(&World) -> bool, limit: Duration) {
        let result = self.go_on_until(condition, limit);
        self.must(result);
    }

    fn must(&self, result: Result<(), RunError>) {
        if let Err(error) = result {
            panic!("{error}\n{}", self.replay());
        }
    }

    /// How to see a failure again, if the test takes its seeds from [`crate::seeds`].
    fn replay(&self) -> String {
        let test = std::thread::current().name().unwrap_or("").to_owned();
        let seed = self.seed();
        format!(
            "trace {}\nreplay: ATOLL_SEED={seed} ATOLL_LOG=info cargo test -p atoll-simulation {test} -- --nocapture",
            self.trace_hash()
        )
    }

    pub fn seed(&self) -> Seed {
        self.simulation.seed()
    }

    pub fn trace_hash(&self) -> TraceHash {
        self.simulation.trace_hash()
    }

    /// Operations so far, and how many of them have no outcome.
    pub fn operations(&self) -> (usize, usize) {
        lock(&self.history).count()
    }

    /// What all clients have seen so far.
    pub fn history(&self) -> SharedHistory {
        self.history.clone()
    }

    /// Stops the clients, waits for what they have under way, sees whether everything is
    /// answered again, reads everything that was written, and has all checkers judge. Call
    /// it when the faults have stopped.
    ///
    /// # Panics
    /// With the seed, if the run fails.
    pub fn judge(&mut self) -> Judgement {
        let judgement = self.conclude();
        judgement.unwrap_or_else(|error| panic!("{error}\n{}", self.replay()))
    }

    /// As [`World::judge`], for who has something to say of a failure.
    pub fn conclude(&mut self) -> Result<Judgement, RunError> {
        self.clients_go_on.store(false, Ordering::Relaxed);
        self.go_on_for(Load::LIMIT * 2)?;
        let (promptness, inspection) = self.audit()?;
        let history = lock(&self.history);
        Ok(Judgement::of(&Evidence {
            events: history.events(),
            promptness: &promptness,
            violations: &inspection.violations,
            chunks: inspection.chunks.as_ref(),
        }))
    }

    /// What the last client finds, which comes when all is calm.
    fn audit(&mut self) -> Result<Audited, RunError> {
        let runtime = self.simulation.world_runtime();
        let mut audit = Audit::new(
            self.kinds.clone(),
            runtime.clone(),
            self.seed().stream("audit"),
            self.targets("audit"),
            self.history.clone(),
            self.note(),
        );
        let found: Arc<Mutex<Option<Audited>>> = Arc::default();
        let inspect = self.program.inspect(runtime.clone());
        let result = found.clone();
        drop(runtime.spawn("audit", async move {
            let promptness = audit.try_everything(liveness::LIMIT).await;
            audit.read_everything().await;
            let inspection = inspect.await;
            *lock(&result) = Some((promptness, inspection));
        }));
        let done = found.clone();
        self.go_on_until(move |_| lock(&done).is_some(), PATIENCE)?;
        let found = lock(&found).take();
        Ok(found.unwrap_or_default())
    }

    /// How many operations of each kind were answered, and how many were not.
    pub fn outcomes(&self) -> BTreeMap<Kind, Outcomes> {
        let mut outcomes: BTreeMap<Kind, Outcomes> = BTreeMap::new();
        for event in lock(&self.history).events() {
            let of_kind = outcomes.entry(event.operation.kind()).or_default();
            match &event.ending {
                Ending::Open => of_kind.unknown += 1,
                Ending::Nothing => of_kind.not_done += 1,
                Ending::Answered { .. } => of_kind.answered += 1,
            }
        }
        outcomes
    }

    /// How often what has befallen the cluster: machines, links and disks.
    pub fn befallen(&self) -> BTreeMap<&'static str, u64> {
        let mut befallen = self.befallen.clone();
        let mut add = |what, count| {
            if count > 0 {
                *befallen.entry(what).or_default() += count;
            }
        };
        for machine in &self.machines {
            for counts in machine.former.iter().copied().chain([machine.disk.counts()]) {
                add("disk: reads failed", counts.read_errors);
                add("disk: bits flipped", counts.flipped_bits);
                add("disk: writes lost", counts.lost_writes);
                add("disk: writes misplaced", counts.misplaced_writes);
                add("disk: flushes failed", counts.sync_errors);
                add("disk: unflushed writes lost in a crash", counts.dropped_writes);
                add("disk: writes torn in a crash", counts.torn_writes);
                add("disk: names lost in a crash", counts.dropped_names);
            }
        }
        self.fault_points.struck().into_iter().for_each(|(what, count)| add(what, count));
        self.network.tally().into_iter().for_each(|(what, count)| add(what, count));
        befallen
    }

    fn befell(&mut self, what: &'static str) {
        *self.befallen.entry(what).or_default() += 1;
    }

    /// # Panics
    /// With the seed and what was found, if any checker found something.
    pub fn check(&mut self) {
        let judgement = self.judge();
        let (operations, unknown) = self.operations();
        assert!(
            judgement.is_sound(),
            "{judgement}\n({operations} operations, {unknown} with unknown outcome)\n{}",
            self.replay()
        );
    }
}
