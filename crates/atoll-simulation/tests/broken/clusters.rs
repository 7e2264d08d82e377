//! Scenarios of whole nodes, three of them or fewer, with one data shard.

use std::time::Duration;

use atoll_objects::BucketName;
use atoll_simulation::{
    Seed,
    checkers::Judgement,
    cluster::{Cluster, ClusterView},
    load::Load,
    world::World,
};

const PATIENCE: Duration = Duration::from_secs(600);

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn settled(seed: Seed, nodes: usize, cluster: Cluster) -> (World, ClusterView) {
    let view = cluster.view();
    let mut world = World::new(seed, cluster);
    world.network().memory().require_addresses();
    world.nodes(nodes);
    let seen = view.clone();
    world.run_until_within(move |_| seen.is_settled(nodes), PATIENCE);
    (world, view)
}

/// Objects of one chunk and more on few keys.
fn chunky() -> Load {
    Load { keys: 3, deletes: 10, large: 20, ..Load::default() }
}

/// Nothing happens but what clients do.
pub fn calm(seed: Seed) -> Judgement {
    let (mut world, _) = settled(seed, 3, Cluster::new(1));
    world.clients(4, Load { lists: 30, cold_keys: 10, deletes: 20, ..Load::default() });
    world.run_for(seconds(10));
    world.judge()
}

/// The bucket is deleted and made again, which one of the nodes does not hear.
pub fn another_bucket(seed: Seed) -> Judgement {
    let (mut world, view) = settled(seed, 3, Cluster::new(1));
    let bucket = BucketName::new("simulated").expect("a legal name");
    for index in [1, 0] {
        let (runtime, node) = view.node(index).expect("the node runs");
        let bucket = bucket.clone();
        drop(runtime.spawn("operator", async move {
            // Node 1 remembers where the bucket is, and node 0 makes it another.
            let objects = node.objects();
            let known = objects.head_bucket(&bucket).await.is_ok();
            assert!(known, "the bucket is there");
            if index == 0 {
                objects.delete_bucket(&bucket).await.expect("it is empty");
                objects.create_bucket(&bucket, "simulation").await.expect("its name is free");
            }
        }));
        world.run_for(seconds(2));
    }
    world.clients(6, Load { elsewhere: 0, ..Load::default() });
    world.run_for(seconds(5));
    world.judge()
}

/// One node misses what the others store.
pub fn absence(seed: Seed) -> Judgement {
    let (mut world, _) = settled(seed, 3, Cluster::new(1));
    // Many keys, so that what was stored meanwhile is still there at the end.
    world.clients(4, Load { keys: 30, gets: 10, deletes: 0, elsewhere: 0, large: 0, ..chunky() });
    world.crash(2);
    world.run_for(seconds(15));
    world.restart(2);
    world.judge()
}
