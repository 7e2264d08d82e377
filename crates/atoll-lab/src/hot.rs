//! What caching along the path does for a key that everybody reads.

use std::{sync::Arc, time::Duration};

use atoll_overlay::{Answer, AuthorKey, Content, Dht, DhtConfig, Id, Kademlia, KademliaConfig, Notification};
use atoll_types::{Instant, WallTime};
use rand::Rng;

use crate::world::{Links, SimulatedContact, World, stream};

const NODES: usize = 1_000;
const READS: usize = 1_000;

/// Messages that the busiest node gets, and all nodes, for each read of one value; ten a second.
fn reads(cache_for: Duration) -> (f64, f64) {
    let config = Arc::new(DhtConfig { cache_for, ..DhtConfig::default() });
    let kademlia = Arc::new(KademliaConfig::default());
    let mut world = World::new(1, Links::default());
    world.set_up(NODES, |contact, ring, _| {
        let core = Kademlia::converged(contact, kademlia.clone(), ring);
        let mut node = Dht::converged(core, AuthorKey::from_seed([1; 32]), config.clone());
        node.set_clock(Instant::ORIGIN, WallTime::from_millis(1_800_000_000_000));
        node
    });
    world.freeze();
    let contacts: Vec<SimulatedContact> = world.living().map(|(contact, _)| contact).collect();
    let key = Id::of(b"hot");
    world
        .with(contacts[0], |core, now, rng, out| {
            core.store(now, rng, key, b"value".to_vec(), Duration::from_secs(3600), out)
        })
        .expect("a member");
    world.run_until_quiet();
    world.take_reports();
    let before: Vec<u32> = world.received().collect();
    let mut rng = stream(1, "reads");
    for _ in 0..READS {
        let asker = contacts[rng.random_range(0..NODES)];
        world.with(asker, |core, now, rng, out| core.fetch(now, rng, key, out)).expect("a member");
        world.run(Duration::from_millis(100));
    }
    world.run_until_quiet();
    let found = world.take_reports().into_iter().filter(|reported| match &reported.notification {
        Notification::OperationFinished(finished) => {
            matches!(&finished.outcome, Ok(Answer::Values(values)) if values.len() == 1)
        }
        _ => false,
    });
    assert_eq!(found.count(), READS, "every read finds it");
    let got: Vec<u32> = world.received().zip(before).map(|(now, before)| now - before).collect();
    let mean = |count: u32| f64::from(count) / READS as f64;
    (mean(got.iter().copied().max().expect("nodes")), mean(got.iter().sum()))
}

/// Maymounkov and Mazières 2002, section 2.3. Without copies everybody asks the nodes nearest to
/// the key, and the three that keep it twice.
#[test]
fn copies_along_the_path_spread_a_hot_keys_load() {
    let (busiest, all) = reads(Duration::ZERO);
    let (busiest_with_copies, all_with_copies) = reads(Duration::from_secs(600));
    println!("without: {busiest} of {all}; with copies: {busiest_with_copies} of {all_with_copies}");
    assert!(busiest > 1.0, "the busiest node gets {busiest} messages for each read");
    assert!(busiest_with_copies < busiest / 2.0, "{busiest_with_copies} next to {busiest}");
    assert!(all_with_copies < all / 2.0, "{all_with_copies} next to {all}");
}
