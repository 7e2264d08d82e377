//! Whole nodes, three of them, in storms: conditional puts, gets and deletes of objects
//! through any node are linearizable, and a minute after the storm all is well again.

mod logs;
mod sabotage;

use std::{sync::Arc, time::Duration};

use atoll_simulation::{
    Seed,
    cluster::{Cluster, ClusterView},
    linearizability::Verdict,
    seeds,
    world::{Life, Load, Place, Program, Storm, World, stable},
};
use futures_util::future::BoxFuture;
use sabotage::FlushedLate;

/// Three members, each shard with its three voters, before anything is broken.
fn settled(seed: Seed, program: impl Program, view: ClusterView) -> World {
    logs::if_asked();
    let mut world = World::new(seed, program);
    world.network().memory().require_addresses();
    world.nodes(3);
    world.run_until_within(move |_| view.is_settled(3), Duration::from_secs(300));
    world
}

fn sound(seed: Seed) -> World {
    let cluster = Cluster::new(4);
    let view = cluster.view();
    settled(seed, cluster, view)
}

#[test]
fn three_nodes_become_one_cluster_by_themselves() {
    for seed in seeds(0..3) {
        sound(seed);
    }
}

#[test]
fn objects_are_linearizable_in_any_storm() {
    let (mut operations, mut unknown) = (0, 0);
    let seeds = seeds(0..4);
    for &seed in &seeds {
        let mut world = sound(seed);
        world.clients(6, Load::default());
        world.run_until(stable);
        world.storm(Storm::drawn(&mut seed.stream("storm options")), Duration::from_secs(60));
        // Liveness: a minute after the last fault all is well again.
        world.run_until_within(stable, Duration::from_secs(60));
        world.check();
        let (called, open) = world.operations();
        operations += called;
        unknown += open;
    }
    assert!(operations > 300 * seeds.len(), "only {operations} operations in {} storms", seeds.len());
    assert!(unknown < operations / 4, "{unknown} of {operations} unknown");
}

#[test]
fn the_same_seed_is_the_same_run_of_whole_nodes() {
    let hash = |seed| {
        let mut world = sound(Seed(seed));
        world.clients(6, Load::default());
        world.storm(Storm::ALL, Duration::from_secs(20));
        world.trace_hash()
    };
    assert_eq!(hash(3), hash(3));
    assert_ne!(hash(3), hash(4));
}

/// Nodes that acknowledge a moment before the log is on disk.
struct Hasty(Cluster);

impl Program for Hasty {
    fn start(&self, place: Place) -> BoxFuture<'static, Arc<dyn Life>> {
        let files = Arc::new(FlushedLate { files: place.files, runtime: place.runtime.clone() });
        self.0.start(Place { files, ..place })
    }
}

#[test]
fn an_acknowledgement_before_the_flush_is_found() {
    let shows = |seed: &Seed| {
        let cluster = Cluster::new(1);
        let view = cluster.view();
        let mut world = settled(*seed, Hasty(cluster), view);
        world.clients(6, Load { keys: 2, ..Load::default() });
        let storm = Storm { blackouts: true, ..Storm::NONE };
        world.storm(storm, Duration::from_secs(60));
        world.run_for(Duration::from_secs(30));
        matches!(world.verdict(), Verdict::NotLinearizable(_))
    };
    assert!(seeds(0..20).iter().any(shows), "twenty storms did not show it");
}
