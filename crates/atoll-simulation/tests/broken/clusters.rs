//! Scenarios of whole nodes, three of them or fewer, with one data shard.

use std::time::Duration;

use atoll_disk::DiskFaults;
use atoll_node::Node;
use atoll_objects::{BucketName, ObjectKey, PutBody, PutObject};
use atoll_runtime::Runtime;
use atoll_simulation::{
    Seed, Stalls,
    checkers::Judgement,
    cluster::{Cluster, ClusterView},
    load::Load,
    world::World,
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use rand::Rng;

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

/// On so many keys that what was put is not replaced at once.
fn many() -> Load {
    Load { keys: 200, gets: 10, deletes: 0, conditional: 0, large: 0, ..Load::default() }
}

/// Nothing happens but what clients do.
pub fn calm(seed: Seed) -> Judgement {
    let (mut world, _) = settled(seed, 3, Cluster::new(1));
    world.clients(4, Load { lists: 30, cold_keys: 10, deletes: 20, ..Load::default() });
    world.run_for(seconds(10));
    world.judge()
}

/// Puts and uploads last through several sweeps. One node, since each holder sweeps for
/// itself.
pub fn sweeps(seed: Seed) -> Judgement {
    let (mut world, view) = settled(seed, 1, Cluster::new(1).waits_for_sweeps());
    let upload_pause = seconds(20)..=seconds(40);
    let think = Duration::ZERO..=seconds(3);
    world.clients(2, Load { uploads: 30, slow_uploads: 100, upload_pause, think, ..many() });
    let mut rng = seed.stream("slow puts");
    // Sweeps are 15 s apart: half of them see none pass, one or two, half see one to five.
    for (number, pauses) in [4..24, 20..70].into_iter().cycle().take(6).enumerate() {
        let (runtime, node) = view.node(0).expect("the node runs");
        let pause = seconds(rng.random_range(pauses));
        drop(runtime.clone().spawn("slow put", slow_put(node, runtime, number, pause)));
    }
    world.run_for(seconds(90));
    world.judge()
}

/// Its client waits before the last third of the body. What came before the second third
/// is stored by then.
async fn slow_put(node: Node, runtime: Runtime, number: usize, pause: Duration) {
    const THIRD: usize = 5 << 19;
    let third = |which: usize| -> Bytes {
        let mut bytes = vec![0; THIRD];
        blake3::Hasher::new().update(&[number as u8, which as u8]).finalize_xof().fill(&mut bytes);
        bytes.into()
    };
    let thirds = [0, 1, 2].map(|which| (which, third(which)));
    let body = stream::iter(thirds).then(move |(which, third)| {
        let pause = runtime.sleep(if which == 2 { pause } else { Duration::ZERO });
        async move {
            pause.await;
            Ok(third)
        }
    });
    let request = PutObject {
        bucket: BucketName::new("simulated").expect("a legal name"),
        key: ObjectKey::new(format!("slow {number}")).expect("a legal key"),
        headers: Default::default(),
        conditions: Default::default(),
        idempotency: None,
        encryption: None,
        body: PutBody { length: Some(3 * THIRD as u64), ..PutBody::new(body.boxed()) },
    };
    // A sweep that overtook it is answered by an error at worst.
    drop(node.objects().put(request).await);
}

/// Uploads are completed, and their clients often hear of it only when they ask again.
pub fn lost_answers(seed: Seed) -> Judgement {
    let (mut world, _) = settled(seed, 3, Cluster::new(1));
    let late = Stalls { chance: 0.7, longest: seconds(30) };
    world.slow_down_at("objects: an upload is complete, nobody is told", late);
    // Sweeps are 15 s apart here, and the second of them forgets.
    world.clients(6, Load { uploads: 60, slow_uploads: 0, remembered: seconds(12), ..many() });
    world.run_for(seconds(30));
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

/// Two disks have no room for chunks for a while; then they have, and the third damages
/// what is read from it.
pub fn full_disks(seed: Seed) -> Judgement {
    let (mut world, _) = settled(seed, 3, Cluster::new(1));
    // All of it is reserved for records.
    let millis = Duration::from_millis;
    let usual = DiskFaults { sync_latency: millis(1)..millis(8), ..DiskFaults::default() };
    let full = DiskFaults { capacity: Some(1 << 30), ..usual.clone() };
    [1, 2].into_iter().for_each(|index| world.set_disk_faults(index, full.clone()));
    world.clients(3, Load { think: Duration::ZERO..=seconds(1), ..many() });
    world.run_for(seconds(6));
    world.set_disk_faults(0, DiskFaults { flipped_bit: 1.0, ..usual.clone() });
    [1, 2].into_iter().for_each(|index| world.set_disk_faults(index, usual.clone()));
    // Long enough for both to look for what they lack.
    world.run_for(seconds(25));
    world.set_disk_faults(0, usual);
    world.judge()
}

/// One node, then another beside it, then only the other.
pub fn relocation(seed: Seed) -> Judgement {
    let (mut world, view) = settled(seed, 1, Cluster::new(1));
    world.clients(2, many());
    world.run_for(seconds(5));
    world.nodes(1);
    let seen = view.clone();
    world.run_until_within(move |_| seen.node(1).is_some() && seen.is_member(1, 1), PATIENCE);
    world.clients(2, many());
    view.drain_and_remove(1, 0);
    let seen = view.clone();
    world.run_until_within(move |_| !seen.is_member(1, 0), PATIENCE);
    world.take_away(0);
    world.judge()
}

/// Each chunk is on one node only, and one of the nodes is drained under many writes, which
/// are slow at this place.
fn retreat(seed: Seed, slow_at: &'static str) -> Judgement {
    let (mut world, view) = settled(seed, 3, Cluster::new(1).with_copies(1));
    world.slow_down_at(slow_at, Stalls { chance: 0.5, longest: seconds(3) });
    world.clients(12, Load { think: Duration::ZERO..=Duration::from_millis(20), gets: 1, ..many() });
    world.run_for(seconds(1));
    view.drain_and_remove(1, 0);
    let seen = view.clone();
    world.run_until_within(move |_| !seen.is_member(1, 0), PATIENCE);
    world.take_away(0);
    world.judge()
}

pub fn late_writers(seed: Seed) -> Judgement {
    retreat(seed, "objects: a chunk is on its way under a layout")
}

pub fn slow_holders(seed: Seed) -> Judgement {
    retreat(seed, "objects: a write was let in, its chunk is not stored")
}

/// One node misses what the others store.
pub fn absence(seed: Seed) -> Judgement {
    let (mut world, _) = settled(seed, 3, Cluster::new(1));
    world.clients(4, Load { elsewhere: 0, ..many() });
    world.crash(2);
    world.run_for(seconds(15));
    world.restart(2);
    world.judge()
}
