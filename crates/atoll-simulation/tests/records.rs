//! Records alone, three nodes, in storms: what clients saw is linearizable. That broken
//! records are found: `tests/broken`.

mod logs;
mod one_shard;

use std::time::Duration;

use atoll_simulation::{
    Seed,
    load::Load,
    seeds,
    world::{Storm, World, stable},
};
use one_shard::OneShard;

fn stormy(seed: Seed) -> World {
    logs::if_asked();
    let mut world = World::new(seed, OneShard::new(3));
    world.nodes(3);
    world.clients(6, Load::default());
    world.run_until(stable);
    world.storm(Storm::drawn(&mut seed.stream("storm options")), Duration::from_secs(60));
    world
}

#[test]
fn records_are_linearizable_in_any_storm() {
    let (mut operations, mut unknown) = (0, 0);
    let seeds = seeds(0..10);
    for &seed in &seeds {
        let mut world = stormy(seed);
        // Liveness: a minute after the last fault all is well again.
        world.run_until_within(stable, Duration::from_secs(60));
        world.check();
        let (called, open) = world.operations();
        operations += called;
        unknown += open;
    }
    assert!(operations > 500 * seeds.len(), "only {operations} operations in {} storms", seeds.len());
    assert!(unknown < operations / 4, "{unknown} of {operations} unknown");
}

#[test]
fn the_same_seed_is_the_same_run_of_records() {
    let hash = |seed| stormy(Seed(seed)).trace_hash();
    assert_eq!(hash(3), hash(3));
    assert_ne!(hash(3), hash(4));
}
