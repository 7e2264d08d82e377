//! A node's life after life on one disk, each ended by a crash at any moment.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use atoll_disk::{DiskFaults, LogError, LogVerdict, MemoryDisk, SharedLog};
use atoll_runtime::Runtime;
use atoll_simulation::{Schedule, Seed, Simulation, seeds};
use atoll_types::ReplicaId;
use rand::{Rng, rngs::StdRng};

use crate::model::{Call, Model, Replica, call, contents, is_trimmed, open_with, replica, settings};

const LIVES: usize = 12;
const CLIENTS: usize = 4;

/// What was called, in order, since the state that is known for sure.
#[derive(Default, Clone)]
struct History {
    sure: Model,
    calls: Vec<(Call, bool)>,
    /// After all calls.
    visible: Model,
    trimmed: BTreeMap<ReplicaId, u64>,
    torn_tails: usize,
    acknowledged: usize,
    /// Clients are to end.
    stopped: bool,
    /// The disk may break what it holds.
    faulty: bool,
}

impl History {
    /// What was recovered must be the state after some call that was not acknowledged yet,
    /// or after the last one that was.
    fn recovered(&mut self, found: &Model, seed: Seed) {
        let least = self.calls.iter().rposition(|(_, acknowledged)| *acknowledged).map_or(0, |last| last + 1);
        let mut model = self.sure.clone();
        let mut tried = String::new();
        for (position, (call, _)) in std::mem::take(&mut self.calls).into_iter().enumerate() {
            if position >= least {
                if self.matches(found, &model) {
                    break;
                }
                tried += &format!("after call {position}:\n{}", self.outline(&model));
            }
            model.apply(&call);
        }
        assert!(
            self.matches(found, &model),
            "seed {seed}: not a state of the log:\n{}{tried}after all:\n{}",
            self.outline(found),
            self.outline(&model),
        );
        self.sure = model.clone();
        self.visible = model;
    }

    fn outline(&self, model: &Model) -> String {
        let line = |(id, replica): (&ReplicaId, &Replica)| {
            format!(
                "  replica {id}: {}..={}, trimmed to {:?}, state {:?}, last {:?}\n",
                replica.first,
                replica.last(),
                self.trimmed.get(id),
                replica.state.as_ref().map(|state| state.first()),
                replica.entries.last().map(|(term, bytes)| (term, bytes.len())),
            )
        };
        model.replicas.iter().map(line).collect()
    }

    fn matches(&self, found: &Model, model: &Model) -> bool {
        found.replicas.keys().eq(model.replicas.keys())
            && found.replicas.iter().all(|(id, found)| {
                is_trimmed(found, &model.replicas[id], self.trimmed.get(id).copied().unwrap_or(0))
            })
    }
}

fn ids() -> Vec<ReplicaId> {
    (1..=5).map(ReplicaId).collect()
}

async fn life(disk: MemoryDisk, runtime: Runtime, history: Arc<Mutex<History>>, seed: Seed) {
    let (log, recovery) = open_with(&disk, &runtime, settings()).await;
    match recovery.verdict {
        LogVerdict::Clean => {}
        LogVerdict::TornTail { .. } => history.lock().unwrap().torn_tails += 1,
        LogVerdict::Damaged { .. } => panic!("seed {seed}: {:?}", recovery.verdict),
    }
    let found = contents(&log).await.expect("what was recovered can be read");
    history.lock().unwrap().recovered(&found, seed);
    for _ in 0..CLIENTS {
        runtime.spawn("client", client(log.clone(), runtime.clone(), history.clone()));
    }
}

async fn client(log: SharedLog, runtime: Runtime, history: Arc<Mutex<History>>) {
    let mut rng = runtime.rng();
    while !history.lock().unwrap().stopped {
        match rng.random_range(0..10) {
            0..6 => {
                let called = {
                    let mut history = history.lock().unwrap();
                    let drawn = history.visible.draw(&mut rng, &ids(), &history.trimmed);
                    // In truth an id is never used again; here it is, once its removal is through.
                    if history.calls.iter().any(|(call, done)| !done && matches!(call, Call::Remove(_))) {
                        None
                    } else {
                        history.visible.apply(&drawn);
                        history.calls.push((drawn.clone(), false));
                        Some((history.calls.len() - 1, call(&log, drawn)))
                    }
                };
                let Some((position, appended)) = called else {
                    runtime.sleep(Duration::from_millis(1)).await;
                    continue;
                };
                appended.await.expect("the disk has no faults but crashes");
                let mut history = history.lock().unwrap();
                history.calls[position].1 = true;
                if let Call::Remove(id) = history.calls[position].0 {
                    history.trimmed.remove(&id);
                }
                history.acknowledged += 1;
            }
            6 => {
                let mut history = history.lock().unwrap();
                // Only what is durable, and will not be replaced by what is under way.
                let through = pick(&mut rng, &history.visible)
                    .filter(|(id, _)| history.calls.iter().all(|(call, done)| *done || !touches(call, *id)))
                    .filter(|(_, replica)| replica.last() > 0)
                    .map(|(id, replica)| (id, rng.random_range(0..=replica.last())));
                if let Some((id, through)) = through {
                    log.trim(id, through);
                    let trimmed = history.trimmed.entry(id).or_default();
                    *trimmed = through.max(*trimmed);
                }
            }
            7..9 => {
                let picked = pick(&mut rng, &history.lock().unwrap().visible);
                let Some((id, expected)) = picked else { continue };
                let (first, last) = (log.first_index(id), log.last_index(id));
                assert_eq!(last, expected.last());
                assert_eq!(log.state(id), expected.state);
                if first <= last {
                    let from = rng.random_range(first..=last);
                    let to = rng.random_range(from..=last) + 1;
                    match log.read(id, from..to, usize::MAX).await {
                        Ok(read) => assert_eq!(read, expected.range(from, to)),
                        Err(LogError::Damaged { .. }) if history.lock().unwrap().faulty => {}
                        Err(error) => panic!("{error}"),
                    }
                }
            }
            _ => runtime.sleep(Duration::from_micros(rng.random_range(0..4000))).await,
        }
    }
}

fn touches(call: &Call, id: ReplicaId) -> bool {
    match call {
        Call::Append(appends) => appends.iter().any(|append| append.replica == id),
        Call::Remove(removed) => *removed == id,
    }
}

/// Names are `log/<number, 8 hex digits>.segment`.
fn oldest_segment(disk: &MemoryDisk) -> u32 {
    let segments = disk.paths().into_iter().filter(|path| path.ends_with(".segment"));
    segments.map(|path| u32::from_str_radix(&path[4..12], 16).unwrap()).min().unwrap_or(1)
}

fn pick(rng: &mut StdRng, model: &Model) -> Option<(ReplicaId, Replica)> {
    let count = model.replicas.len();
    let (id, replica) = model.replicas.iter().nth(rng.random_range(0..count.max(1)))?;
    Some((*id, replica.clone()))
}

fn storm(seed: Seed) -> (History, atoll_disk::FaultCounts, u32) {
    let simulation = Simulation::new(seed, Schedule::Shuffled);
    let node = simulation.add_node("node");
    let disk = MemoryDisk::new(seed.0);
    disk.set_faults(DiskFaults {
        sync_latency: Duration::from_micros(100)..Duration::from_millis(5),
        stall_chance: 0.01,
        stall: Duration::from_millis(30),
        ..DiskFaults::default()
    });
    let history = Arc::new(Mutex::new(History::default()));
    let mut rng = seed.stream("crashes");
    for _ in 0..LIVES {
        let runtime = simulation.node_runtime(node);
        runtime.spawn("life", life(disk.clone(), runtime.clone(), history.clone(), seed));
        let duration = Duration::from_micros(rng.random_range(0..120_000));
        simulation.run_for(duration).unwrap_or_else(|error| panic!("{error}"));
        simulation.faults().crash(node);
        let files = disk.paths().len();
        assert!(files < 45, "seed {seed}: {files} files: old segments are not collected");
        if rng.random_bool(0.3) {
            disk.kill();
        } else {
            disk.crash(&mut rng);
        }
    }
    drop(simulation);
    let history = Arc::into_inner(history).expect("all tasks are gone").into_inner().unwrap();
    (history, disk.counts(), oldest_segment(&disk) - 1)
}

#[test]
fn whatever_was_acknowledged_survives_crashes_at_any_moment() {
    let (mut acknowledged, mut torn_tails, mut torn_writes, mut dropped_names) = (0, 0, 0, 0);
    let mut segments_deleted = 0;
    for seed in seeds(0..40) {
        let (history, counts, deleted) = storm(seed);
        segments_deleted += deleted;
        acknowledged += history.acknowledged;
        torn_tails += history.torn_tails;
        torn_writes += counts.torn_writes;
        dropped_names += counts.dropped_names;
    }
    // A storm that was a breeze proves nothing.
    println!(
        "{acknowledged} acknowledged, {torn_tails} torn tails, {torn_writes} torn writes, {dropped_names} names lost, {segments_deleted} segments deleted"
    );
    if std::env::var_os("ATOLL_SEED").is_none() {
        assert!(torn_tails > 8 && torn_writes > 8 && dropped_names > 30);
        assert!(acknowledged > 4_000 && segments_deleted > 100);
    }
}

/// One write is lost or lands elsewhere, or one bit flips, at some time in each life; then
/// the note catches up and the power fails. (Before it has caught up, a lost last batch
/// can't be told from one that was never written.)
fn storm_with_faults(seed: Seed) -> (usize, usize) {
    let simulation = Simulation::new(seed, Schedule::Shuffled);
    let node = simulation.add_node("node");
    let disk = MemoryDisk::new(seed.0);
    let mut rng = seed.stream("faults");
    let history = Arc::new(Mutex::new(History::default()));
    history.lock().unwrap().faulty = true;
    let (mut faults, mut noticed) = (0, 0);
    for _ in 0..8 {
        let runtime = simulation.node_runtime(node);
        let calm = DiskFaults {
            sync_latency: Duration::from_micros(100)..Duration::from_millis(5),
            ..DiskFaults::default()
        };
        disk.set_faults(calm.clone());
        let opened = simulation
            .block_on(Duration::from_secs(60), rejoin(disk.clone(), runtime.clone(), history.clone(), seed))
            .unwrap_or_else(|error| panic!("{error}"));
        noticed += opened.1 as usize;
        let log = opened.0;
        for _ in 0..CLIENTS {
            runtime.spawn("client", client(log.clone(), runtime.clone(), history.clone()));
        }
        simulation.run_for(Duration::from_micros(rng.random_range(0..100_000))).unwrap();
        let fault = rng.random_range(0..3);
        let armed = DiskFaults {
            lost_write: if fault == 0 { 1.0 } else { 0.0 },
            misplaced_write: if fault == 1 { 1.0 } else { 0.0 },
            flipped_bit: if fault == 2 { 1.0 } else { 0.0 },
            ..calm.clone()
        };
        disk.set_faults(armed);
        let before = disk.counts();
        let struck = || disk.counts() != before;
        if simulation.run_until(struck, Duration::from_millis(30)).is_ok() {
            faults += 1;
        }
        disk.set_faults(calm);
        simulation.run_for(Duration::from_micros(rng.random_range(0..60_000))).unwrap();
        // The clients stop; what they asked for, and the note of it, gets through.
        history.lock().unwrap().stopped = true;
        simulation.run_for(Duration::from_millis(200)).unwrap();
        simulation.faults().crash(node);
        drop(log);
        disk.crash(&mut rng);
        history.lock().unwrap().stopped = false;
    }
    (faults, noticed)
}

/// Opens, compares, and removes whoever has forgotten something.
async fn rejoin(
    disk: MemoryDisk,
    runtime: Runtime,
    history: Arc<Mutex<History>>,
    seed: Seed,
) -> (SharedLog, bool) {
    let (log, recovery) = open_with(&disk, &runtime, settings()).await;
    let (forgotten, noticed) = match &recovery.verdict {
        LogVerdict::Damaged { forgotten, .. } => (forgotten.clone(), true),
        _ => (BTreeSet::new(), false),
    };
    let (expected, trimmed) = {
        let mut history = history.lock().unwrap();
        assert!(history.calls.iter().all(|(_, acknowledged)| *acknowledged), "seed {seed}: they had time");
        history.calls.clear();
        (history.visible.clone(), history.trimmed.clone())
    };
    let mut sure = Model::default();
    for (id, expected) in expected.replicas {
        if noticed && (forgotten.contains(&id) || !recovery.replicas.contains_key(&id)) {
            log.remove(id).await.unwrap();
            history.lock().unwrap().trimmed.remove(&id);
            continue;
        }
        let found = replica(&log, id).await.unwrap();
        let trimmed = trimmed.get(&id).copied().unwrap_or(0);
        assert!(is_trimmed(&found, &expected, trimmed), "seed {seed}: replica {id}: {:?}", recovery.verdict);
        sure.replicas.insert(id, expected);
    }
    for id in forgotten {
        log.remove(id).await.unwrap();
    }
    let mut history = history.lock().unwrap();
    history.visible = sure.clone();
    history.sure = sure;
    (log, noticed)
}

#[test]
fn one_write_lost_or_misplaced_or_one_bit_flipped_is_harmless_or_noticed() {
    let (mut faults, mut noticed) = (0, 0);
    for seed in seeds(0..20) {
        let (had, saw) = storm_with_faults(seed);
        faults += had;
        noticed += saw;
    }
    println!("{faults} faults, {noticed} starts noticed damage");
    if std::env::var_os("ATOLL_SEED").is_none() {
        assert!(faults > 50 && noticed > 25);
    }
}

/// What the system has in memory and not on the disk is seen by the process that is
/// started again, which must not build upon it what the next power failure keeps.
#[test]
fn a_process_killed_at_any_moment_and_a_power_failure_soon_after_lose_nothing() {
    for seed in seeds(0..6) {
        let simulation = Simulation::new(seed, Schedule::Shuffled);
        let node = simulation.add_node("node");
        let disk = MemoryDisk::new(seed.0);
        disk.set_faults(DiskFaults {
            sync_latency: Duration::from_micros(100)..Duration::from_millis(3),
            ..DiskFaults::default()
        });
        let history = Arc::new(Mutex::new(History::default()));
        let runtime = simulation.node_runtime(node);
        runtime.spawn("life", life(disk.clone(), runtime.clone(), history.clone(), seed));
        for moment in 0..150 {
            simulation.run_for(Duration::from_micros(700)).unwrap();
            let history = history.lock().unwrap().clone();
            restart_and_fail(disk.image(), history, seed, moment);
        }
    }
}

fn restart_and_fail(disk: MemoryDisk, history: History, seed: Seed, moment: u64) {
    let mut rng = seed.stream(&format!("moment {moment}"));
    let simulation = Simulation::new(Seed(rng.random()), Schedule::Shuffled);
    let history = Arc::new(Mutex::new(history));
    for _ in 0..2 {
        let node = simulation.add_node("node");
        let runtime = simulation.node_runtime(node);
        let (disk_again, history) = (disk.clone(), history.clone());
        let opened = Arc::new(Mutex::new(None));
        let slot = opened.clone();
        runtime.clone().spawn("life", async move {
            let (log, recovery) = open_with(&disk_again, &runtime, settings()).await;
            let damaged = matches!(recovery.verdict, LogVerdict::Damaged { .. });
            assert!(!damaged, "seed {seed}, moment {moment}: {:?}", recovery.verdict);
            let found = contents(&log).await.unwrap();
            history.lock().unwrap().recovered(&found, seed);
            *slot.lock().unwrap() = Some(log);
        });
        simulation.run_until(|| opened.lock().unwrap().is_some(), Duration::from_secs(10)).unwrap();
        simulation.run_for(Duration::from_micros(rng.random_range(0..5000))).unwrap();
        simulation.faults().crash(node);
        disk.crash(&mut rng);
    }
}
