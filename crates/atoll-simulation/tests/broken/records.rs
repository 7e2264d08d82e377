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
use atoll_records::LeaseError;
use atoll_simulation::{
    Seed,
    world::{Load, Storm, World, stable},
};
use atoll_types::{Instant, Revision};
use bytes::Bytes;
use rand::Rng;

use crate::one_shard::{Damage, OneShard, OneShardView, SHARD, STAMP};

const MINUTE: Duration = Duration::from_secs(60);

/// Few keys and no pauses: what goes wrong is seen at once.
fn hot() -> Load {
    Load { keys: 4, think: Duration::ZERO..=Duration::from_millis(60), ..Load::default() }
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

/// A minute after the last accident all is well, and always was.
fn judge(mut world: World, view: &OneShardView) {
    world.run_until_within(stable, MINUTE);
    world.check();
    replicas_agree(view);
}

/// Asked when all have applied everything.
fn replicas_agree(view: &OneShardView) {
    let states = view.states();
    let (_, first) = states.first_key_value().expect("a shard has voters");
    for (index, state) in &states {
        if state != first {
            panic!("replicas differ: node {index} holds {} pairs, the first {}", state.len(), first.len());
        }
    }
}

/// Networks are cut and nodes stand still, so that leaders are deposed and answers lost.
pub fn partitions(seed: Seed) {
    let (mut world, view) = three(seed);
    let storm = Storm { cuts: true, one_way_cuts: true, pauses: true, bad_links: true, ..Storm::NONE };
    world.storm(storm, Duration::from_secs(40));
    judge(world, &view);
}

/// One node after the other is cut off and comes back: two leaders at a time, if ever.
pub fn depositions(seed: Seed) {
    let (mut world, view) = three(seed);
    let mut rng = seed.stream("depositions");
    for _ in 0..10 {
        let victim = rng.random_range(0..3);
        world.cut([victim], (0..3).filter(|index| *index != victim));
        world.run_for(Duration::from_millis(rng.random_range(2500..4000)));
        world.network().links().heal_all();
        world.run_for(Duration::from_millis(rng.random_range(0..2000)));
    }
    judge(world, &view);
}

/// All machines lose power, again and again, with slow disks.
pub fn blackouts(seed: Seed) {
    let (mut world, view) = three(seed);
    let millis = Duration::from_millis;
    let slow = DiskFaults { sync_latency: millis(5)..millis(40), ..DiskFaults::default() };
    (0..3).for_each(|index| world.set_disk_faults(index, slow.clone()));
    let mut rng = seed.stream("blackouts");
    for _ in 0..8 {
        world.run_for(rng.random_range(millis(100)..millis(1000)));
        (0..3).for_each(|index| world.crash(index));
        (0..3).for_each(|index| world.restart(index));
        world.run_until_within(stable, MINUTE);
    }
    judge(world, &view);
}

/// Node 2 misses what 0 and 1 acknowledge; then 1 is away, and 0 comes back with less than
/// it had. Until 1 is back, nothing may happen.
fn forgetful(
    mut world: World,
    view: &OneShardView,
    seed: Seed,
    forget: impl FnOnce(&mut World, &OneShardView),
) {
    let mut rng = seed.stream("forgetful");
    world.run_for(rng.random_range(Duration::from_secs(1)..Duration::from_secs(4)));
    world.cut([2], [0, 1]);
    world.run_for(rng.random_range(Duration::from_secs(2)..Duration::from_secs(4)));
    world.crash(1);
    world.crash(0);
    forget(&mut world, view);
    world.network().links().heal_all();
    world.restart(0);
    world.run_for(Duration::from_secs(10));
    world.restart(1);
    world.run_until_within(stable, MINUTE);
    world.check();
}

pub fn damaged_log(seed: Seed) {
    let (world, view) = three(seed);
    forgetful(world, &view, seed, |_, view| view.damage(0, Damage::Sector));
}

pub fn shortened_log(seed: Seed) {
    let (world, view) = three(seed);
    forgetful(world, &view, seed, |_, view| view.damage(0, Damage::End));
}

pub fn emptied_disk(seed: Seed) {
    let program = OneShard::new(3);
    let view = program.view();
    let mut world = World::new(seed, program);
    world.nodes(3);
    // Before anything ran.
    let empty = world.image(0);
    world.clients(6, hot());
    world.run_until(stable);
    forgetful(world, &view, seed, |world, _| world.bring_back(0, empty));
}

/// The disk goes back two lives, as far as its peers have seen.
pub fn old_disk(seed: Seed) {
    let (mut world, view) = three(seed);
    let image = world.image(0);
    for _ in 0..2 {
        world.run_for(Duration::from_secs(1));
        world.kill(0);
        world.restart(0);
        world.run_until_within(stable, MINUTE);
    }
    forgetful(world, &view, seed, |world, _| world.bring_back(0, image));
}

/// A node joins in the place of another: it is filled by a snapshot.
pub fn replacement(seed: Seed) {
    let (mut world, view) = three(seed);
    world.nodes(1);
    world.clients(2, hot());
    world.run_for(Duration::from_secs(2));
    view.reconfigure(&[(1, 0), (2, 1), (4, 3)]);
    world.run_for(Duration::from_secs(5));
    judge(world, &view);
}

/// A checkpoint is made, and all machines lose power.
pub fn checkpoint(seed: Seed) {
    let (mut world, view) = three(seed);
    world.run_for(Duration::from_secs(3));
    for index in 0..3 {
        let (runtime, records) = view.records(index).expect("the node runs");
        runtime.spawn("checkpoint", async move { records.checkpoint().await });
    }
    world.run_for(Duration::from_secs(1));
    (0..3).for_each(|index| world.crash(index));
    (0..3).for_each(|index| world.restart(index));
    judge(world, &view);
}

/// Clocks jump while leaders change, and everybody asks for stamps.
pub fn clocks(seed: Seed) {
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
    let storm = Storm { clock_jumps: true, crashes: true, cuts: true, ..Storm::NONE };
    world.storm(storm, Duration::from_secs(40));
    going_on.store(false, Ordering::Relaxed);
    judge(world, &view);
    let stamps = stamps.lock().unwrap();
    assert!(stamps.len() > 100, "only {} stamps", stamps.len());
    for ((before, earlier), (after, later)) in stamps.iter().zip(stamps.iter().skip(1)) {
        assert!(earlier <= later, "a stamp went back: {earlier} at {before}, {later} at {after}");
    }
}

/// What the holders of a lock know of it. Times are the world's.
#[derive(Default)]
struct Holding {
    /// Until when each may believe that the lock is its own.
    until: BTreeMap<u64, Instant>,
    /// The greatest epoch that was granted.
    epoch: u64,
    grants: u64,
    /// Nobody wants it any more.
    is_over: bool,
    complaint: Option<String>,
}

/// Four want one lock, keep it for a while and let it go, while nodes and networks fail.
pub fn locks(seed: Seed) {
    let (mut world, view) = three_under(seed, calm());
    let holding: Arc<Mutex<Holding>> = Arc::default();
    for number in 0..4 {
        let clock = world.simulation().world_runtime();
        let wants = want_lock(number, clock.clone(), view.clone(), holding.clone(), seed);
        drop(clock.spawn("holder", wants));
    }
    let storm = Storm { crashes: true, kills: true, cuts: true, ..Storm::NONE };
    world.storm(storm, Duration::from_secs(60));
    holding.lock().unwrap().is_over = true;
    judge(world, &view);
    let holding = holding.lock().unwrap();
    if let Some(complaint) = &holding.complaint {
        panic!("{complaint}");
    }
    assert!(holding.grants > 5, "only {} grants", holding.grants);
}

async fn want_lock(
    number: u64,
    clock: atoll_runtime::Runtime,
    view: OneShardView,
    holding: Arc<Mutex<Holding>>,
    seed: Seed,
) {
    const TTL: Duration = Duration::from_secs(3);
    const LIMIT: Duration = Duration::from_secs(2);
    let mut rng = seed.stream(&format!("holder {number}"));
    while !holding.lock().unwrap().is_over {
        clock.sleep(rng.random_range(Duration::ZERO..Duration::from_secs(1))).await;
        let Some((runtime, records)) = view.records(rng.random_range(0..3)) else { continue };
        let (asked, known) = (clock.now(), holding.lock().unwrap().epoch);
        let (own, node) = (records.clone(), runtime.clone());
        let grant = async move {
            let (id, deadline) = (node.transaction_id(), node.now() + LIMIT);
            let lock = Some(Bytes::from_static(b"lock"));
            own.grant_lease(SHARD, id, TTL, Bytes::from_static(b"holder"), lock, deadline).await
        };
        let Ok(Some(Ok(granted))) = clock.timeout(LIMIT, runtime.spawn("grant", grant)).await else {
            continue;
        };
        {
            let mut holding = holding.lock().unwrap();
            let now = clock.now();
            let complaint = if holding.until.values().any(|until| *until > now) {
                Some(format!("a lock has two holders at {:?}", now - Instant::ORIGIN))
            } else if granted.epoch <= known {
                Some(format!("an epoch did not grow: {} after {known}", granted.epoch))
            } else {
                None
            };
            holding.complaint = holding.complaint.take().or(complaint);
            holding.until.insert(number, asked + TTL);
            holding.epoch = holding.epoch.max(granted.epoch);
            holding.grants += 1;
        }
        for _ in 0..rng.random_range(0..8) {
            clock.sleep(TTL / 3).await;
            let asked = clock.now();
            let (own, node, lease) = (records.clone(), runtime.clone(), granted.lease);
            let keep = async move {
                let (id, deadline) = (node.transaction_id(), node.now() + LIMIT);
                own.keep_lease(SHARD, id, lease, deadline).await
            };
            match clock.timeout(LIMIT, runtime.spawn("keep", keep)).await {
                Ok(Some(Ok(()))) => {
                    let mut holding = holding.lock().unwrap();
                    let until = holding.until.get_mut(&number).expect("granted above");
                    *until = (*until).max(asked + TTL);
                }
                Ok(Some(Err(LeaseError::Gone { .. }))) => break,
                _ => {}
            }
        }
        // It lets go before it asks to be relieved.
        holding.lock().unwrap().until.remove(&number);
        let (node, lease) = (runtime.clone(), granted.lease);
        let release = async move {
            let (id, deadline) = (node.transaction_id(), node.now() + LIMIT);
            records.release_lease(SHARD, id, lease, deadline).await
        };
        drop(clock.timeout(LIMIT, runtime.spawn("release", release)).await);
    }
}
