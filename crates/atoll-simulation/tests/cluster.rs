//! Whole nodes, three of them, in storms: conditional puts, gets and deletes of objects
//! through any node are linearizable, and a minute after the storm all is well again.

mod logs;

use std::time::Duration;

use atoll_node::PROGRAM_VERSION;
use atoll_simulation::{
    Seed,
    cluster::{Cluster, ClusterView},
    load::Load,
    seeds,
    world::{Program, Storm, World, stable},
};

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
    sound_and_seen(seed).0
}

fn sound_and_seen(seed: Seed) -> (World, ClusterView) {
    let cluster = Cluster::new(4);
    let view = cluster.view();
    (settled(seed, cluster, view.clone()), view)
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
    let seeds = seeds(0..3);
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
fn encrypted_objects_are_linearizable_in_a_storm() {
    for seed in seeds(0..1) {
        let cluster = Cluster::new(4).with_encryption();
        let view = cluster.view();
        let mut world = settled(seed, cluster, view);
        world.clients(6, Load::default());
        world.run_until(stable);
        world.storm(Storm::drawn(&mut seed.stream("storm options")), Duration::from_secs(30));
        world.run_until_within(stable, Duration::from_secs(60));
        world.check();
        let (called, unknown) = world.operations();
        assert!(called > 100 && unknown < called / 4, "{unknown} of {called} unknown");
    }
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

/// Clients of a calm cluster: a fourth node comes, the first goes, and every operation is
/// answered all the while.
#[test]
fn a_node_comes_and_another_goes_and_no_client_notices() {
    for seed in seeds(0..1) {
        let (mut world, view) = sound_and_seen(seed);
        world.clients(6, Load::default());
        world.run_for(Duration::from_secs(10));
        world.nodes(1);
        world.clients(2, Load::default());
        let seen = view.clone();
        world.run_until_within(move |_| seen.is_settled(4), Duration::from_secs(600));
        view.drain_and_remove(1, 0);
        let seen = view.clone();
        world.run_until_within(move |_| !seen.is_member(1, 0), Duration::from_secs(600));
        world.take_away(0);
        world.run_until_within(stable, Duration::from_secs(60));
        world.check();
        let (operations, unknown) = world.operations();
        assert!(operations > 300, "only {operations} operations");
        // Those that node 0 had under way when it was taken away.
        assert!(unknown <= 8, "{unknown} of {operations} were not answered");
    }
}

#[test]
fn a_node_comes_and_another_goes_in_a_storm() {
    for seed in seeds(0..1) {
        let (mut world, view) = sound_and_seen(seed);
        world.clients(6, Load::default());
        world.run_for(Duration::from_secs(5));
        world.nodes(1);
        world.clients(2, Load::default());
        let storm = Storm::drawn(&mut seed.stream("storm options"));
        world.storm(storm, Duration::from_secs(30));
        world.run_until_within(stable, Duration::from_secs(60));
        view.drain_and_remove(1, 0);
        world.storm(storm, Duration::from_secs(30));
        world.run_until_within(stable, Duration::from_secs(60));
        // The request may have ended with the node that was asked.
        view.drain_and_remove(1, 0);
        let seen = view.clone();
        world.run_until_within(move |_| !seen.is_member(1, 0), Duration::from_secs(600));
        world.take_away(0);
        world.run_until_within(stable, Duration::from_secs(60));
        world.check();
    }
}

/// A disk that died and was replaced: the node joins again under its key, and has its
/// copies back before another goes.
#[test]
fn a_machine_gets_a_new_empty_disk_and_nothing_is_lost() {
    for seed in seeds(0..1) {
        let (mut world, view) = sound_and_seen(seed);
        world.clients(6, Load { keys: 2, ..Load::default() });
        world.run_for(Duration::from_secs(5));
        world.crash(1);
        world.replace_disk(1);
        world.restart(1);
        world.run_until_within(stable, Duration::from_secs(60));
        world.run_until_within(move |_| view.is_settled(3), Duration::from_secs(300));
        world.crash(2);
        world.run_for(Duration::from_secs(10));
        world.restart(2);
        world.run_until_within(stable, Duration::from_secs(60));
        world.check();
        assert_eq!(world.has_liar(), Some(1));
    }
}

/// Rule 4: a disk that was set back does not vote for what it has forgotten.
#[test]
fn an_old_image_of_a_disk_brings_nothing_old_back() {
    for seed in seeds(0..1) {
        let mut world = sound(seed);
        world.clients(6, Load { keys: 2, ..Load::default() });
        world.run_for(Duration::from_secs(5));
        let image = world.image(1);
        world.run_for(Duration::from_secs(20));
        world.crash(1);
        world.bring_back(1, image);
        world.restart(1);
        // It now gets new replicas; until they are filled, the others must both be there.
        world.run_for(Duration::from_secs(30));
        world.crash(2);
        world.run_for(Duration::from_secs(10));
        world.restart(2);
        world.run_until_within(stable, Duration::from_secs(60));
        world.check();
    }
}

/// Rule 18: a cluster's version is raised when the last of its nodes has a program that knows
/// it, and then there is no way back.
#[test]
fn a_cluster_is_upgraded_node_by_node_and_not_set_back() {
    for seed in seeds(0..1) {
        let (mut world, view) = sound_and_seen(seed);
        let version = |world: &mut World, by: usize| {
            let answer = view.ask_version(by);
            world.run_for(Duration::from_secs(5));
            let version = *answer.lock().unwrap();
            version.expect("the node answers")
        };
        world.clients(3, Load::default());
        for index in 0..3 {
            assert_eq!(version(&mut world, 1), PROGRAM_VERSION, "raised before node {index} knew it");
            view.install(index, PROGRAM_VERSION + 1);
            world.kill(index);
            world.restart(index);
            world.run_until_within(stable, Duration::from_secs(60));
        }
        world.run_for(Duration::from_secs(10));
        assert_eq!(version(&mut world, 1), PROGRAM_VERSION + 1);
        assert_eq!(view.ended(2), None);
        view.install(2, PROGRAM_VERSION);
        world.kill(2);
        world.restart(2);
        let seen = view.clone();
        world.run_until_within(move |_| seen.ended(2).is_some(), Duration::from_secs(60));
        let reason = view.ended(2).unwrap_or_default();
        assert!(reason.contains("install a newer one"), "{reason}");
        view.install(2, PROGRAM_VERSION + 1);
        world.kill(2);
        world.restart(2);
        world.run_until_within(stable, Duration::from_secs(60));
        world.check();
    }
}
