//! Nodes that die, forget what was not flushed, and are cut off; peers that send nonsense.

mod world;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use atoll_disk::Table;
use atoll_records::{RecordsError, ReplicaStatus, Role};
use bytes::Bytes;
use rand::{Rng, SeedableRng, rngs::StdRng};
use world::{PATIENCE, SHARD, World, address, node_id};

impl World {
    fn others(&self, node: u8) -> Vec<u8> {
        self.nodes.keys().copied().filter(|other| *other != node).collect()
    }

    fn cut_off(&self, node: u8) {
        let others: Vec<_> = self.others(node).into_iter().map(node_id).collect();
        self.links.cut(&[node_id(node)], &others);
    }
}

#[tokio::test]
async fn writes_and_reads_go_on_when_the_leader_dies() {
    let mut world = World::founded(3).await;
    world.append(1, "a").await;
    let leader = world.leader().await;
    world.kill(leader);
    let survivor = world.others(leader)[0];
    let died = world.runtime.now();
    assert_eq!(world.append(survivor, "b").await, "ab");
    assert_eq!(world.read(survivor, "log").await, "ab");
    // 3 s is the promise; the rest is for a busy test machine.
    assert!(world.runtime.now() - died < Duration::from_secs(5));
    world.start(leader).await;
    assert_eq!(world.append(leader, "c").await, "abc");
    world.all_equal([1, 2, 3]).await;
}

#[tokio::test]
async fn leadership_is_handed_over_without_a_pause() {
    let world = World::founded(3).await;
    world.append(1, "a").await;
    let leader = world.leader().await;
    let begun = world.runtime.now();
    world.nodes[&leader].hand_over(PATIENCE).await;
    assert_eq!(world.append(leader, "b").await, "ab");
    assert!(world.runtime.now() - begun < Duration::from_secs(1), "an election took place");
    assert_ne!(world.leader().await, leader);
}

#[tokio::test]
async fn a_leader_that_is_cut_off_serves_no_stale_read() {
    let world = World::founded(3).await;
    world.append(1, "a").await;
    let old = world.leader().await;
    world.cut_off(old);
    let reader = async {
        // Asks all the time, before and after the others have elected and written.
        let mut answers = Vec::new();
        for _ in 0..40 {
            let deadline = world.runtime.now() + Duration::from_millis(100);
            answers.push(world.nodes[&old].query(SHARD, "test/get/1", "log".into(), deadline).await);
        }
        answers
    };
    let (answers, written) = tokio::join!(reader, world.append(world.others(old)[0], "b"));
    assert_eq!(written, "ab");
    assert!(answers.iter().all(|answer| *answer == Err(RecordsError::Unavailable { shard: SHARD })));
    world.links.heal_all();
    assert_eq!(world.read(old, "log").await, "ab");
}

#[tokio::test]
async fn a_minority_accepts_no_write() {
    let world = World::founded(3).await;
    world.append(1, "a").await;
    let old = world.leader().await;
    world.cut_off(old);
    let id = world.runtime.transaction_id();
    let deadline = world.runtime.now() + Duration::from_secs(3);
    let refused = world.nodes[&old].execute(SHARD, id, "test/append/1", "x".into(), deadline).await;
    assert_eq!(refused, Err(RecordsError::Unavailable { shard: SHARD }));
    world.append(world.others(old)[0], "b").await;
    world.links.heal_all();
    // Its outcome was unknown; a retry under its id settles it, once.
    world.try_execute(old, id, "test/append/1", "x").await.unwrap();
    assert_eq!(world.read(old, "log").await, "abx");
}

#[tokio::test]
async fn a_replica_that_was_away_catches_up_by_the_log() {
    let mut world = World::founded(3).await;
    let leader = world.leader().await;
    let away = world.others(leader)[0];
    world.kill(away);
    for _ in 0..20 {
        world.append(leader, "x").await;
        // Past what stays in memory: some of it comes from the disk.
        let big = Bytes::from([b"big=".to_vec(), vec![b'v'; 100 << 10]].concat());
        world.execute(leader, "test/put/1", big).await;
    }
    world.nodes[&leader].checkpoint().await;
    world.start(away).await;
    world.all_equal([1, 2, 3]).await;
}

#[tokio::test]
async fn a_replica_that_was_away_for_long_catches_up_by_a_snapshot() {
    let mut world = World::founded(3).await;
    let leader = world.leader().await;
    let away = world.others(leader)[0];
    world.append(leader, "a").await;
    world.kill(away);
    let runtime = world.runtime.clone();
    let world = Arc::new(tokio::sync::RwLock::new(world));
    // More than a leader keeps for one that is away.
    let mut writers = Vec::new();
    for writer in 0..64 {
        let world = world.clone();
        writers.push(runtime.spawn("writer", async move {
            let world = world.read().await;
            for number in 0..160 {
                world.execute(leader, "test/put/1", format!("k{writer}-{number}=v")).await;
            }
        }));
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let Ok(world) = Arc::try_unwrap(world) else { panic!("all writers are done") };
    let mut world = world.into_inner();
    world.nodes[&leader].checkpoint().await;
    world.start(away).await;
    world.all_equal([1, 2, 3]).await;
    // What came by the snapshot is there after a restart, and serves.
    world.kill(away);
    world.start(away).await;
    world.all_equal([1, 2, 3]).await;
    world.kill(leader);
    assert_eq!(world.append(away, "b").await, "ab");
    assert_eq!(world.read(away, "k63-159").await, "v");
}

/// Appends `[token]` over and over on any node, under one id until it is acknowledged.
async fn keep_appending(
    world: Arc<tokio::sync::RwLock<World>>,
    client: u32,
    until: Arc<Mutex<bool>>,
) -> BTreeSet<String> {
    let mut acknowledged = BTreeSet::new();
    let mut rng = StdRng::seed_from_u64(u64::from(client));
    for number in 0.. {
        let token = format!("[{client}.{number}]");
        let id = world.read().await.runtime.transaction_id();
        loop {
            let world = world.read().await;
            let node = rng.random_range(1..=3);
            let deadline = world.runtime.now() + Duration::from_millis(1500);
            let Some(records) = world.nodes.get(&node) else {
                world.runtime.sleep(Duration::from_millis(10)).await;
                continue;
            };
            let records = records.clone();
            drop(world);
            let done = records.execute(SHARD, id, "test/append/1", token.clone().into(), deadline).await;
            if done.is_ok() {
                acknowledged.insert(token);
                break;
            }
            if *until.lock().unwrap() {
                return acknowledged;
            }
        }
        if *until.lock().unwrap() {
            return acknowledged;
        }
    }
    acknowledged
}

#[tokio::test]
async fn crashes_that_lose_all_that_was_not_flushed_lose_nothing_acknowledged_and_repeat_nothing() {
    let world = Arc::new(tokio::sync::RwLock::new(World::founded(3).await));
    let runtime = world.read().await.runtime.clone();
    let stop = Arc::new(Mutex::new(false));
    let clients: Vec<_> = (0..6)
        .map(|client| runtime.spawn("client", keep_appending(world.clone(), client, stop.clone())))
        .collect();
    let mut rng = StdRng::seed_from_u64(42);
    for round in 0..8 {
        let pause = Duration::from_millis(rng.random_range(100..1500));
        runtime.sleep(pause).await;
        let mut world = world.write().await;
        // Now and then all of them at once.
        let victims: Vec<u8> = if round % 4 == 3 { vec![1, 2, 3] } else { vec![rng.random_range(1..=3)] };
        for victim in &victims {
            world.crash(*victim, &mut rng);
        }
        for victim in victims {
            world.start(victim).await;
            let status = world.nodes[&victim].status().await;
            assert!(!matches!(status[0].role, Role::Forgotten { .. } | Role::Stopped { .. }), "{status:?}");
        }
        if rng.random_bool(0.5) {
            world.nodes[&1].checkpoint().await;
        }
    }
    *stop.lock().unwrap() = true;
    let mut acknowledged = BTreeSet::new();
    for client in clients {
        acknowledged.extend(client.await.unwrap());
    }
    let world = world.read().await;
    let log = world.read(1, "log").await;
    let tokens: Vec<String> = log.split_inclusive(']').map(ToString::to_string).collect();
    let distinct: BTreeSet<String> = tokens.iter().cloned().collect();
    assert_eq!(distinct.len(), tokens.len(), "something was applied twice");
    let lost: Vec<_> = acknowledged.difference(&distinct).collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
    assert!(acknowledged.len() > 50, "hardly anything was tried: {}", acknowledged.len());
    world.all_equal([1, 2, 3]).await;
}

#[tokio::test]
async fn a_log_older_than_the_state_means_that_the_replica_has_forgotten() {
    let mut world = World::founded(3).await;
    world.append(1, "a").await;
    let image = world.disks[&3].files.image();
    for _ in 0..3 {
        world.append(1, "b").await;
    }
    world.all_equal([1, 2, 3]).await;
    world.nodes[&3].checkpoint().await;
    world.kill(3);
    let store = world.disks[&3].store.clone();
    world.disks.insert(3, world::Disk::of(store, image));
    world.start(3).await;
    let status = world.nodes[&3].status().await;
    assert!(matches!(status[0].role, Role::Forgotten { .. }), "{status:?}");
    assert_eq!(world.append(1, "c").await, "abbbc");
}

fn has_forgotten(status: &[ReplicaStatus]) -> bool {
    matches!(status[0].role, Role::Forgotten { .. })
}

#[tokio::test]
async fn a_leader_that_cannot_read_what_it_is_asked_for_gives_way_to_the_others() {
    let mut world = World::founded(3).await;
    world.append(1, "a").await;
    world.all_equal([1, 2, 3]).await;
    let leader = world.leader().await;
    let other = leader % 3 + 1;
    world.disks[&leader].store.damage_table(Table::Records);
    assert_eq!(world.read(other, "log").await, "a");
    assert_eq!(world.append(leader, "b").await, "ab");
    assert!(has_forgotten(&world.nodes[&leader].status().await));
    // Nor does it vote after a start that has read nothing of it yet.
    world.kill(leader);
    world.start(leader).await;
    assert!(has_forgotten(&world.nodes[&leader].status().await));
    assert_eq!(world.append(other, "c").await, "abc");
}

#[tokio::test]
async fn a_follower_that_cannot_read_what_an_entry_needs_stops_and_can_be_removed() {
    let mut world = World::founded(3).await;
    world.append(1, "a").await;
    world.all_equal([1, 2, 3]).await;
    let follower = world.leader().await % 3 + 1;
    world.disks[&follower].store.damage_table(Table::Records);
    assert_eq!(world.append(1, "b").await, "ab");
    world.until(follower, "the follower has forgotten", has_forgotten).await;
    let rest: Vec<u8> = (1..=3).filter(|node| *node != follower).collect();
    world.all_equal(rest).await;
    // What can't be read of it stays behind, and is in nobody's way.
    world.nodes[&follower].remove_replica(address(follower).replica).await.unwrap();
    assert!(world.nodes[&follower].status().await.is_empty());
    world.kill(follower);
    world.start(follower).await;
    assert!(world.nodes[&follower].status().await.is_empty());
}

#[tokio::test]
async fn a_replica_without_a_readable_state_is_not_opened_and_the_node_starts() {
    let mut world = World::founded(3).await;
    world.append(1, "a").await;
    world.all_equal([1, 2, 3]).await;
    world.kill(3);
    world.disks[&3].store.damage_table(Table::Records);
    world.start(3).await;
    assert!(has_forgotten(&world.nodes[&3].status().await));
    assert_eq!(world.append(3, "b").await, "ab");
}

#[tokio::test]
async fn what_is_read_and_not_understood_costs_no_replica() {
    let world = World::founded(3).await;
    world.append(1, "a").await;
    let deadline = world.runtime.now() + Duration::from_millis(500);
    let read = world.nodes[&1].query(SHARD, "test/nonsense/1", Bytes::new(), deadline).await;
    assert!(matches!(read, Err(RecordsError::Unavailable { .. })), "{read:?}");
    for node in 1..=3 {
        assert!(!has_forgotten(&world.nodes[&node].status().await), "node {node}");
    }
    assert_eq!(world.append(2, "b").await, "ab");
}

#[tokio::test]
async fn the_only_voter_goes_on_with_what_can_be_read() {
    let world = World::founded(1).await;
    world.append(1, "a").await;
    world.disks[&1].store.damage_table(Table::Records);
    let deadline = world.runtime.now() + Duration::from_millis(300);
    let read = world.nodes[&1].query(SHARD, "test/get/1", "log".into(), deadline).await;
    assert!(matches!(read, Err(RecordsError::Unavailable { .. })), "{read:?}");
    assert_eq!(world.nodes[&1].status().await[0].role, Role::Leader);
}

async fn set_back_after(starts_since: u32) {
    let mut world = World::founded(3).await;
    world.append(1, "a").await;
    world.all_equal([1, 2, 3]).await;
    let old = world::Disk::of(world.disks[&3].store.image(), world.disks[&3].files.image());
    for _ in 0..starts_since {
        world.kill(3);
        world.start(3).await;
    }
    world.append(3, "b").await;
    world.all_equal([1, 2, 3]).await;
    world.kill(3);
    world.disks.insert(3, old);
    world.start(3).await;
    world.until(3, "replica 3 is known to have forgotten", has_forgotten).await;
    assert_eq!(world.append(1, "c").await, "abc");
    // Nor does it remember after another start.
    world.kill(3);
    world.start(3).await;
    assert!(has_forgotten(&world.nodes[&3].status().await));
}

#[tokio::test]
async fn a_node_set_back_to_an_old_image_of_its_disk_is_found_out_by_its_peers() {
    for starts_since in 0..3 {
        set_back_after(starts_since).await;
    }
}
