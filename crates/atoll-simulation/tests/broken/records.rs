//! Scenarios of records alone: small, so that a seed costs little.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use atoll_disk::DiskFaults;
use atoll_simulation::{
    Seed, Stalls,
    checkers::{Finding, Judgement},
    load::Load,
    world::{Storm, World, stable},
};
use atoll_transport::memory::LinkProfile;
use atoll_types::{ReplicaId, Revision};
use bytes::Bytes;
use rand::Rng;

use crate::one_shard::{Damage, OneShard, OneShardView, SHARD, STAMP};

const MINUTE: Duration = Duration::from_secs(60);

/// Few keys and no pauses: what goes wrong is seen at once. Each client keeps to its node,
/// so those of the others go on when one is cut off.
fn hot() -> Load {
    let think = Duration::ZERO..=Duration::from_millis(60);
    Load { keys: 4, think, elsewhere: 0, ..Load::default() }
}

/// Where something else is looked at: enough to see that all nodes answer.
fn calm() -> Load {
    Load { think: Duration::ZERO..=Duration::from_secs(2), ..Load::default() }
}

fn three(seed: Seed) -> (World, OneShardView) {
    three_under(seed, hot())
}

fn three_under(seed: Seed, load: Load) -> (World, OneShardView) {
    let program = OneShard::new(3);
    let view = program.view();
    let mut world = World::new(seed, program);
    world.nodes(3);
    world.clients(6, load);
    world.run_until(stable);
    (world, view)
}

/// Applying takes its time, longer than an election, and leaders are killed one after the other.
pub fn busy(seed: Seed) -> Judgement {
    let (mut world, view) = three(seed);
    let late = Stalls { chance: 0.05, longest: MINUTE / 10 };
    (0..3).for_each(|index| world.keep_busy(index, late));
    for round in 0..9 {
        world.run_for(Duration::from_secs(4));
        world.kill(round % 3);
        world.run_for(Duration::from_secs(4));
        world.restart(round % 3);
    }
    (0..3).for_each(|index| world.keep_busy(index, Stalls::NONE));
    judge(world, &view)
}

fn judge(mut world: World, view: &OneShardView) -> Judgement {
    let mut judgement = world.judge();
    let mut agreement = replicas_agree(view);
    for _ in 0..10 {
        // Followers hear of the last commits, leases end: not at the same instant.
        if agreement.is_ok() {
            return judgement;
        }
        world.run_for(Duration::from_millis(700));
        agreement = replicas_agree(view);
    }
    if let Err(problem) = agreement {
        judgement.findings.push(Finding { checker: "replicas", problem });
    }
    judgement
}

fn replicas_agree(view: &OneShardView) -> Result<(), String> {
    let states = view.states();
    let (_, first) = states.first_key_value().expect("a shard has voters");
    for (index, state) in &states {
        if state != first {
            return Err(format!("node {index} holds {} pairs, the first {}", state.len(), first.len()));
        }
    }
    Ok(())
}

/// Networks are cut and nodes stand still, so that leaders are deposed and answers lost.
pub fn partitions(seed: Seed) -> Judgement {
    let (mut world, view) = three(seed);
    let storm = Storm { cuts: true, one_way_cuts: true, pauses: true, bad_links: true, ..Storm::NONE };
    world.storm(storm, Duration::from_secs(40));
    judge(world, &view)
}

/// One node after the other is cut off, or stands still, and comes back: two leaders at a
/// time, if ever.
pub fn depositions(seed: Seed) -> Judgement {
    let (mut world, view) = three(seed);
    // Whoever only reads is not held up by a write that nobody answers; nor is whoever
    // comes only now and then.
    world.clients(3, Load { gets: 1, puts: 0, deletes: 0, ..hot() });
    world.clients(6, Load { gets: 0, think: Duration::ZERO..=Duration::from_secs(3), ..hot() });
    let mut rng = seed.stream("depositions");
    for round in 0..6 {
        let victim = rng.random_range(0..3);
        if round % 2 == 0 {
            world.cut([victim], (0..3).filter(|index| *index != victim));
        } else {
            world.pause(victim);
        }
        world.run_for(Duration::from_millis(rng.random_range(2500..5000)));
        world.network().links().heal_all();
        world.resume(victim);
        world.run_for(Duration::from_millis(rng.random_range(0..2000)));
    }
    judge(world, &view)
}

/// All machines lose power, again and again, with slow disks.
pub fn blackouts(seed: Seed) -> Judgement {
    let (mut world, view) = three(seed);
    let millis = Duration::from_millis;
    let slow = DiskFaults { sync_latency: millis(5)..millis(40), ..DiskFaults::default() };
    (0..3).for_each(|index| world.set_disk_faults(index, slow.clone()));
    let mut rng = seed.stream("blackouts");
    for _ in 0..8 {
        world.run_for(rng.random_range(millis(100)..millis(1000)));
        (0..3).for_each(|index| world.crash(index));
        (0..3).for_each(|index| world.restart(index));
        world.run_for(Duration::from_secs(4));
    }
    judge(world, &view)
}

/// Elections last, because messages do, and whose vote decides them ends and starts again.
pub fn elections(seed: Seed) -> Judgement {
    let (mut world, _) = three_under(seed, calm());
    let slow = LinkProfile {
        delay: Duration::from_millis(20)..=Duration::from_millis(250),
        ..LinkProfile::default()
    };
    world.network().links().set_all(slow);
    let mut rng = seed.stream("elections");
    for _ in 0..12 {
        (0..3).for_each(|index| world.kill(index));
        (0..3).for_each(|index| world.restart(index));
        world.run_for(Duration::from_secs(1));
        let voter = rng.random_range(0..3);
        for _ in 0..5 {
            world.run_for(rng.random_range(Duration::from_millis(150)..Duration::from_millis(600)));
            world.kill(voter);
            world.restart(voter);
        }
        world.run_for(Duration::from_secs(2));
    }
    world.network().links().set_all(LinkProfile::local_network());
    world.judge()
}

/// Node 2 misses what 0 and 1 acknowledge; then 1 is away, and 0 comes back with less than
/// it had. Until 1 is back, nothing may happen.
fn forgetful(
    mut world: World,
    view: &OneShardView,
    seed: Seed,
    forget: impl FnOnce(&mut World, &OneShardView),
) -> Judgement {
    let mut rng = seed.stream("forgetful");
    world.run_for(rng.random_range(Duration::from_secs(1)..Duration::from_secs(4)));
    world.cut([2], [0, 1]);
    world.run_for(rng.random_range(Duration::from_secs(4)..Duration::from_secs(6)));
    world.crash(1);
    world.crash(0);
    forget(&mut world, view);
    world.network().links().heal_all();
    world.restart(0);
    world.run_for(Duration::from_secs(10));
    world.restart(1);
    world.judge()
}

pub fn damaged_log(seed: Seed) -> Judgement {
    let (world, view) = three(seed);
    forgetful(world, &view, seed, |_, view| view.damage(0, Damage::Sector))
}

pub fn shortened_log(seed: Seed) -> Judgement {
    let (world, view) = three(seed);
    forgetful(world, &view, seed, |_, view| view.damage(0, Damage::End))
}

pub fn emptied_disk(seed: Seed) -> Judgement {
    let program = OneShard::new(3);
    let view = program.view();
    let mut world = World::new(seed, program);
    world.nodes(3);
    // Before anything ran.
    let empty = world.image(0);
    world.clients(6, hot());
    world.run_until(stable);
    forgetful(world, &view, seed, |world, _| world.bring_back(0, empty))
}

/// The disk goes back two lives, as far as its peers have seen.
pub fn old_disk(seed: Seed) -> Judgement {
    let (mut world, view) = three(seed);
    let image = world.image(0);
    for _ in 0..2 {
        world.run_for(Duration::from_secs(1));
        world.kill(0);
        world.restart(0);
        world.run_until_within(stable, MINUTE);
    }
    forgetful(world, &view, seed, |world, _| world.bring_back(0, image))
}

/// What the leader has of the shard's state can't be read any more, while the others have it.
pub fn unreadable_state(seed: Seed) -> Judgement {
    let (mut world, view) = three(seed);
    let victim = seed.0 as usize % 3;
    for index in 0..3 {
        let (runtime, records) = view.records(index).expect("the node runs");
        let to_victim = ReplicaId(victim as u64 + 1);
        // Whoever leads does it.
        drop(runtime.spawn("hand over", async move { drop(records.hand_to(SHARD, to_victim).await) }));
    }
    world.run_for(Duration::from_secs(2));
    view.damage_state(victim);
    world.run_for(Duration::from_secs(10));
    world.judge()
}

/// A node joins in the place of another: it is filled by a snapshot.
pub fn replacement(seed: Seed) -> Judgement {
    let (mut world, view) = three(seed);
    world.nodes(1);
    world.clients(2, hot());
    world.run_for(Duration::from_secs(2));
    view.reconfigure(&[(1, 0), (2, 1), (4, 3)]);
    world.run_for(Duration::from_secs(5));
    judge(world, &view)
}

/// A checkpoint is made, and all machines lose power.
pub fn checkpoint(seed: Seed) -> Judgement {
    let (mut world, view) = three(seed);
    world.run_for(Duration::from_secs(3));
    for index in 0..3 {
        let (runtime, records) = view.records(index).expect("the node runs");
        runtime.spawn("checkpoint", async move { records.checkpoint().await });
    }
    // What is seen of peers is flushed once a second, and all else with it.
    world.run_for(Duration::from_millis(300));
    (0..3).for_each(|index| world.crash(index));
    (0..3).for_each(|index| world.restart(index));
    judge(world, &view)
}

/// Clocks jump while leaders change, and everybody asks for stamps.
pub fn clocks(seed: Seed) -> Judgement {
    let (mut world, view) = three_under(seed, calm());
    let stamps: Arc<Mutex<BTreeMap<Revision, u64>>> = Arc::default();
    let going_on = Arc::new(AtomicBool::new(true));
    for number in 0..3 {
        let (view, stamps, go_on) = (view.clone(), stamps.clone(), going_on.clone());
        let world = world.simulation().world_runtime();
        let clock = world.clone();
        drop(world.spawn("stamps", async move {
            while go_on.load(Ordering::Relaxed) {
                clock.sleep(Duration::from_millis(50)).await;
                let Some((runtime, records)) = view.records(number) else { continue };
                let node = runtime.clone();
                let stamp = async move {
                    let deadline = node.now() + Load::LIMIT;
                    records.execute(SHARD, node.transaction_id(), STAMP, Bytes::new(), deadline).await
                };
                let stamped = clock.timeout(Load::LIMIT, runtime.spawn("stamp", stamp)).await;
                if let Ok(Some(Ok(executed))) = stamped {
                    let stamp = u64::from_be_bytes(executed.output[..].try_into().expect("a stamp"));
                    stamps.lock().unwrap().insert(executed.revision, stamp);
                }
            }
        }));
    }
    let mut rng = seed.stream("clocks");
    for _ in 0..8 {
        let [jumps, ends] = [rng.random_range(0..3), rng.random_range(0..3)];
        world.jump_clock(jumps, Duration::from_secs(rng.random_range(1..600)), rng.random_bool(0.5));
        world.run_for(Duration::from_secs(1));
        world.kill(ends);
        world.run_for(Duration::from_millis(2500));
        world.restart(ends);
    }
    going_on.store(false, Ordering::Relaxed);
    let mut judgement = judge(world, &view);
    let stamps = stamps.lock().unwrap();
    assert!(stamps.len() > 100, "only {} stamps", stamps.len());
    for ((before, earlier), (after, later)) in stamps.iter().zip(stamps.iter().skip(1)) {
        if earlier > later {
            let problem = format!("{earlier} at {before}, {later} at {after}");
            judgement.findings.push(Finding { checker: "stamps", problem });
            break;
        }
    }
    judgement
}

/// Locks are taken and kept while nodes and networks fail.
pub fn locks(seed: Seed) -> Judgement {
    let load = Load { locks: 50, keys: 2, think: Duration::ZERO..=Duration::from_secs(1), ..Load::default() };
    let (mut world, view) = three_under(seed, load);
    let storm = Storm { crashes: true, kills: true, cuts: true, ..Storm::NONE };
    world.storm(storm, Duration::from_secs(60));
    judge(world, &view)
}
