//! Whole nodes under everything that clients can do, judged by all checkers.

mod logs;

use std::time::Duration;

use atoll_simulation::{
    Seed,
    cluster::Cluster,
    load::{Kind, Load},
    seeds,
    world::{Storm, World},
};

/// Three members, each shard with its three voters, and clients.
fn loaded(seed: Seed, cluster: Cluster, load: Load) -> World {
    logs::if_asked();
    let view = cluster.view();
    let mut world = World::new(seed, cluster);
    world.network().memory().require_addresses();
    world.nodes(3);
    world.run_until_within(move |_| view.is_settled(3), Duration::from_secs(300));
    world.clients(8, load);
    world
}

#[test]
fn in_calm_every_kind_of_operation_is_answered_and_right() {
    for seed in seeds(0..1) {
        let mut world =
            loaded(seed, Cluster::new(3).waits_for_sweeps(), Load { large: 2, ..Load::everything() });
        world.run_for(Duration::from_secs(60));
        world.check();
        let history = world.history();
        let history = history.lock().unwrap();
        for kind in Load::everything().kinds() {
            let (all, unknown) = history.count_of(kind);
            assert!(all > 10, "only {all} of {kind:?}");
            assert_eq!(unknown, 0, "{kind:?}");
        }
        assert!(history.count_of(Kind::Upload).0 > 10);
    }
}

#[test]
fn in_a_storm_what_is_answered_is_right() {
    for seed in seeds(0..2) {
        let mut world = loaded(seed, Cluster::new(3), Load::drawn(&mut seed.stream("load options")));
        world.storm(Storm::drawn(&mut seed.stream("storm options")), Duration::from_secs(60));
        world.check();
        let (operations, unknown) = world.operations();
        assert!(unknown < operations / 2, "{unknown} of {operations} unknown");
    }
}
