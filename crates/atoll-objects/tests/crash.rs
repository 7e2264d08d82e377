//! The power fails at all nodes at once, again and again: what was acknowledged is
//! there, what was not is there whole or not at all.

mod world;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use atoll_objects::*;
use bytes::Bytes;
use rand::{Rng, SeedableRng, rngs::StdRng};
use world::*;

/// What a client knows of a key: the body last acknowledged, and those sent after it.
#[derive(Default, Clone)]
struct Known {
    acknowledged: Option<u64>,
    unknown: Vec<u64>,
}

type Ledger = Arc<Mutex<BTreeMap<String, Known>>>;

/// Around the inline limit, and with several chunks.
fn body_of(seed: u64) -> Bytes {
    let sizes = [0, 100, 16 << 10, (16 << 10) + 1, 300 << 10, 1_300 << 10];
    random_bytes(seed, sizes[seed as usize % sizes.len()])
}

/// Puts to keys of its own, some new, one again and again, until told to stop.
async fn client(number: u64, objects: Objects, ledger: Ledger, stop: Arc<AtomicBool>, mut rng: StdRng) {
    while !stop.load(Ordering::Relaxed) {
        let seed: u64 = rng.random();
        let at = if rng.random_bool(0.3) { format!("{number}/hot") } else { format!("{number}/{seed}") };
        ledger.lock().unwrap().entry(at.clone()).or_default().unknown.push(seed);
        if put(&objects, "photos", at.clone(), &body_of(seed)).await.is_ok() {
            ledger.lock().unwrap().insert(at, Known { acknowledged: Some(seed), unknown: Vec::new() });
        } else {
            return;
        }
    }
}

async fn check(world: &World, ledger: &Ledger) -> usize {
    let known = ledger.lock().unwrap().clone();
    for (at, Known { acknowledged, unknown }) in &known {
        let possible = || acknowledged.iter().chain(unknown);
        match get(world.at(1), "photos", at.clone()).await {
            Ok(body) => assert!(possible().any(|seed| body_of(*seed) == body), "{at} has another body"),
            Err(GetObjectError::NoSuchKey) => assert!(acknowledged.is_none(), "{at} was acknowledged"),
            Err(error) => panic!("{at}: {error:?}"),
        }
    }
    known.values().filter(|known| known.acknowledged.is_some()).count()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_failure_everywhere_at_once_loses_nothing_acknowledged() {
    let mut world = World::of(3).await;
    world.at(1).create_bucket(&bucket("photos"), "me").await.unwrap();
    let mut rng = StdRng::seed_from_u64(42);
    let ledger = Ledger::default();
    for round in 0..4 {
        let stop = Arc::new(AtomicBool::new(false));
        let clients: Vec<_> = (0..6)
            .map(|number| {
                let objects = world.at(1 + (number % 3) as u8).clone();
                let rng = StdRng::seed_from_u64(rng.random());
                let client = client(round * 10 + number, objects, ledger.clone(), stop.clone(), rng);
                world.runtime.spawn("client", client)
            })
            .collect();
        world.runtime.sleep(Duration::from_millis(rng.random_range(200..900))).await;
        world.power_failure(&mut rng);
        stop.store(true, Ordering::Relaxed);
        // What they still wait for will never come.
        clients.iter().for_each(|client| client.abort());
        for number in 1..=3 {
            world.start(number).await;
        }
        let back = async || world.at(1).head_bucket(&bucket("photos")).await.is_ok();
        world.until("the cluster is back", back).await;
        let acknowledged = check(&world, &ledger).await;
        assert!(acknowledged > 0, "a test that puts nothing shows nothing");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rot_on_a_disk_is_found_by_the_scrub_never_served_and_restored() {
    let mut world = World::of(3).await;
    world.at(1).create_bucket(&bucket("photos"), "me").await.unwrap();
    let bytes = random_bytes(1, 3 << 20);
    put(world.at(1), "photos", "k", &bytes).await.unwrap();
    let chunks = world.all_chunks().await;
    for hash in &chunks {
        world.until("three copies", async || world.copies(*hash).await == 3).await;
    }
    world.rot(2, "chunks/");
    assert!(get(world.at(2), "photos", "k").await.unwrap() == bytes);
    world.maintain();
    world
        .until("found", async || world.status(2).chunks_found_damaged + world.status(2).copies_restored > 0)
        .await;
    for hash in &chunks {
        world.until("whole again", async || world.nodes[&2].chunks.get(*hash).await.is_ok()).await;
    }
}
