//! Files of a log that was closed in good order, damaged in every way we can think of:
//! the log opens with everything, or says who may have forgotten something.

use std::{collections::BTreeMap, time::Duration};

use atoll_disk::{Append, LogError, LogSettings, LogVerdict, MemoryDisk, Recovery, SharedLog};
use atoll_runtime::Runtime;
use atoll_simulation::{Schedule, Seed, Simulation, seeds};
use atoll_types::ReplicaId;
use rand::Rng;

use crate::model::{Call, Model, call, is_trimmed, open_with, replica};

/// Several segments within a few kilobytes, so that every byte can have its turn.
fn settings() -> LogSettings {
    LogSettings { segment_bytes: 4 << 10, zeros_ahead: 1 << 10, ..crate::model::settings() }
}

fn ids() -> Vec<ReplicaId> {
    (1..=4).map(ReplicaId).collect()
}

struct Closed {
    disk: MemoryDisk,
    model: Model,
    trimmed: BTreeMap<ReplicaId, u64>,
    /// As it was halfway.
    earlier: MemoryDisk,
}

fn in_simulation<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    seed: Seed,
    work: impl FnOnce(Runtime) -> F,
) -> T {
    let simulation = Simulation::new(seed, Schedule::Shuffled);
    let work = work(simulation.world_runtime());
    simulation.block_on(Duration::from_secs(3600), work).unwrap_or_else(|error| panic!("{error}"))
}

fn closed(seed: Seed) -> Closed {
    in_simulation(seed, move |runtime| async move {
        let mut rng = seed.stream("calls");
        let disk = MemoryDisk::new(seed.0);
        let (log, _) = open_with(&disk, &runtime, settings()).await;
        let mut model = Model::default();
        let mut trimmed = BTreeMap::new();
        let mut earlier = disk.image();
        for round in 0..40 {
            let drawn = model.draw(&mut rng, &ids(), &trimmed);
            model.apply(&drawn);
            if let Call::Remove(id) = &drawn {
                trimmed.remove(id);
            }
            call(&log, drawn).await.unwrap();
            if round == 20 {
                earlier = disk.image();
            }
            let id = ids()[rng.random_range(0..ids().len())];
            if let Some(replica) = model.replicas.get(&id)
                && rng.random_bool(0.2)
            {
                let through = replica.last().saturating_sub(rng.random_range(0..5));
                log.trim(id, through);
                let trim: &mut u64 = trimmed.entry(id).or_default();
                *trim = through.max(*trim);
            }
        }
        log.close().await.unwrap();
        Closed { disk, model, trimmed, earlier }
    })
}

impl Closed {
    /// Opens a damaged copy. True if the damage was noticed.
    fn check(&self, seed: Seed, what: &str, damage: impl FnOnce(&MemoryDisk)) -> bool {
        let disk = self.disk.image();
        damage(&disk);
        let (model, trimmed, what) = (self.model.clone(), self.trimmed.clone(), what.to_owned());
        in_simulation(seed, move |runtime| async move {
            let (log, recovery) = open_with(&disk, &runtime, settings()).await;
            let forgotten = match &recovery.verdict {
                LogVerdict::Clean | LogVerdict::TornTail { .. } => None,
                LogVerdict::Damaged { forgotten, .. } => Some(forgotten),
            };
            for (id, expected) in &model.replicas {
                if forgotten.is_some_and(|forgotten| forgotten.contains(id))
                    // Whoever is not there has lost all, which its owner knows better.
                    || forgotten.is_some() && !recovery.replicas.contains_key(id)
                {
                    continue;
                }
                let found = replica(&log, *id).await.unwrap();
                let least = trimmed.get(id).copied().unwrap_or(0);
                assert!(is_trimmed(&found, expected, least), "{what}: {:?}\n{found:?}", recovery.verdict);
            }
            assert!(forgotten.is_some() || recovery.replicas.len() == model.replicas.len(), "{what}");
            if forgotten.is_some() {
                stays_forgotten(&disk, &runtime, log, &recovery, &what).await;
            }
            forgotten.is_some()
        })
    }
}

/// The next start must find the same, whatever is written in between, until the forgetful
/// replicas have been removed.
async fn stays_forgotten(disk: &MemoryDisk, runtime: &Runtime, log: SharedLog, first: &Recovery, what: &str) {
    let LogVerdict::Damaged { forgotten, .. } = &first.verdict else { return };
    for id in forgotten {
        let refused = log.append(vec![Append { replica: *id, ..Append::default() }]).await;
        assert!(matches!(refused, Err(LogError::Forgotten { .. })), "{what}");
    }
    let others = (1..=5).map(ReplicaId).filter(|id| !forgotten.contains(id));
    for replica in others {
        for _ in 0..4 {
            let state = Some(vec![7; 900].into());
            log.append(vec![Append { replica, state, ..Append::default() }]).await.unwrap();
        }
    }
    // Time for the note and the collector.
    runtime.sleep(Duration::from_millis(200)).await;
    drop(log);
    disk.kill();
    let (log, second) = open_with(disk, runtime, settings()).await;
    match &second.verdict {
        LogVerdict::Damaged { forgotten: found, .. } => {
            let missing: Vec<_> = forgotten
                .iter()
                .filter(|id| !found.contains(id) && second.replicas.contains_key(id))
                .collect();
            assert!(missing.is_empty(), "{what}: {missing:?} would have been believed");
            let more: Vec<_> = found.difference(forgotten).collect();
            assert!(more.is_empty(), "{what}: {more:?} lost nothing between the starts");
        }
        _ => assert!(forgotten.is_empty(), "{what}"),
    }
    for id in forgotten {
        log.remove(*id).await.unwrap();
    }
    log.close().await.unwrap();
    drop(log);
    disk.kill();
    let (_log, third) = open_with(disk, runtime, settings()).await;
    if let LogVerdict::Damaged { forgotten: found, .. } = &third.verdict {
        assert!(found.is_empty(), "{what}: {found:?} are back: {:?}", third.verdict);
    }
}

fn files(disk: &MemoryDisk) -> Vec<(String, Vec<u8>)> {
    disk.paths().into_iter().map(|path| (path.clone(), disk.contents(&path).unwrap())).collect()
}

#[test]
fn a_flipped_bit_anywhere_is_harmless_or_noticed() {
    let (mut noticed, mut harmless) = (0, 0);
    for seed in seeds(0..2) {
        let closed = closed(seed);
        let mut rng = seed.stream("flips");
        for (path, bytes) in files(&closed.disk) {
            assert!(closed.disk.paths().len() >= 4, "several segments and the note");
            let mut at = rng.random_range(0..7);
            while at < bytes.len() {
                let bit = rng.random_range(0..8);
                let what = format!("seed {seed}, {path}, byte {at}, bit {bit}");
                let hit = closed.check(seed, &what, |disk| {
                    let mut bytes = bytes.clone();
                    bytes[at] ^= 1 << bit;
                    disk.set_contents(&path, &bytes);
                });
                *(if hit { &mut noticed } else { &mut harmless }) += 1;
                at += rng.random_range(1..40);
            }
        }
    }
    println!("{noticed} noticed, {harmless} harmless");
    // The files are mostly batches, and those are mostly payload.
    assert!(noticed > harmless / 2 && harmless > 0);
}

#[test]
fn a_file_cut_anywhere_is_harmless_or_noticed() {
    for seed in seeds(0..2) {
        let closed = closed(seed);
        for (path, bytes) in files(&closed.disk) {
            for len in (0..bytes.len()).step_by(61) {
                let what = format!("seed {seed}, {path} cut to {len} of {}", bytes.len());
                let noticed = closed.check(seed, &what, |disk| disk.set_contents(&path, &bytes[..len]));
                if path.ends_with(".segment") && bytes[len..].iter().any(|byte| *byte != 0) {
                    assert!(noticed, "{what}: something was there");
                }
            }
        }
    }
}

#[test]
fn sectors_lost_exchanged_or_written_over_others_are_harmless_or_noticed() {
    const SECTOR: usize = 512;
    let mut noticed = 0;
    for seed in seeds(10..14) {
        let closed = closed(seed);
        let mut rng = seed.stream("sectors");
        let files = files(&closed.disk);
        for round in 0..150 {
            let mut place = || {
                let (path, bytes) = &files[rng.random_range(0..files.len())];
                let sectors = bytes.len().div_ceil(SECTOR);
                let from = rng.random_range(0..sectors) * SECTOR;
                let to = (from + rng.random_range(1..4) * SECTOR).min(bytes.len());
                (path.as_str(), bytes.clone(), from..to)
            };
            let (path, mut bytes, range) = place();
            let (source_path, source_bytes, source) = place();
            let what = match round % 3 {
                0 => {
                    bytes[range.clone()].fill(0);
                    format!("seed {seed}, {path}, lost {range:?}")
                }
                1 => {
                    let len = source.len().min(bytes.len() - range.start);
                    bytes[range.start..range.start + len]
                        .copy_from_slice(&source_bytes[source.start..source.start + len]);
                    format!("seed {seed}, {path} at {} got {source_path} {source:?}", range.start)
                }
                _ => {
                    let other = range.start.max(SECTOR) - SECTOR;
                    let len = SECTOR.min(bytes.len() - range.start).min(range.start - other);
                    let (left, right) = bytes.split_at_mut(range.start);
                    left[other..other + len].swap_with_slice(&mut right[..len]);
                    format!("seed {seed}, {path}, {other} and {} exchanged", range.start)
                }
            };
            noticed += closed.check(seed, &what, |disk| disk.set_contents(path, &bytes)) as usize;
        }
    }
    println!("{noticed} noticed");
    assert!(noticed > 100);
}

#[test]
fn a_file_that_is_missing_exchanged_or_an_old_one_is_noticed() {
    let empty = |disk: &MemoryDisk, path: &str| disk.set_contents(path, &[]);
    for seed in seeds(20..40) {
        let closed = closed(seed);
        let files = files(&closed.disk);
        for (position, (path, bytes)) in files.iter().enumerate() {
            let what = format!("seed {seed}, {path} emptied");
            assert!(closed.check(seed, &what, |disk| empty(disk, path)), "{what}");
            let what = format!("seed {seed}, {path} removed");
            assert!(closed.check(seed, &what, |disk| disk.forget(path)), "{what}");
            let (other, other_bytes) = &files[(position + 1) % files.len()];
            let what = format!("seed {seed}, {path} and {other} exchanged");
            let noticed = closed.check(seed, &what, |disk| {
                disk.set_contents(path, other_bytes);
                disk.set_contents(other, bytes);
            });
            assert!(noticed, "{what}");
            // What lost writes leave.
            if let Some(old) = closed.earlier.contents(path) {
                let what = format!("seed {seed}, {path} as it was earlier");
                closed.check(seed, &what, |disk| disk.set_contents(path, &old));
            }
        }
    }
}

#[test]
fn a_damaged_batch_costs_only_those_who_were_in_it() {
    let seed = Seed(1);
    in_simulation(seed, move |runtime| async move {
        let disk = MemoryDisk::new(1);
        let (log, _) = open_with(&disk, &runtime, crate::model::settings()).await;
        let state = |id: u64, state: &'static [u8]| {
            vec![Append {
                replica: ReplicaId(id),
                state: Some(bytes::Bytes::from_static(state)),
                ..Append::default()
            }]
        };
        log.append(state(1, b"before")).await.unwrap();
        log.append(state(2, b"before")).await.unwrap();
        log.append(state(3, b"before")).await.unwrap();
        log.append(state(1, b"a vote")).await.unwrap();
        log.append(state(1, b"after")).await.unwrap();
        log.append(state(2, b"after")).await.unwrap();
        log.close().await.unwrap();
        drop(log);
        disk.kill();
        // The fourth batch: sector 0 has the header, and each batch takes one.
        let path = "log/00000001.segment";
        let mut bytes = disk.contents(path).unwrap();
        bytes[4 * 512 + 75] ^= 1;
        disk.set_contents(path, &bytes);
        let (log, recovery) = open_with(&disk, &runtime, crate::model::settings()).await;
        let LogVerdict::Damaged { forgotten, findings } = recovery.verdict else { panic!("not noticed") };
        // 2 wrote afterwards, and its part says that it was not in the lost batch. 3 did
        // not, so nobody can tell.
        assert_eq!(forgotten, [ReplicaId(1), ReplicaId(3)].into());
        assert_eq!(findings, ["batches 4 to 4 are missing or damaged (found in segment 1)"]);
        log.append(state(2, b"goes on")).await.unwrap();
    });
}
