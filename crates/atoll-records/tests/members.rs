//! Groups that grow, shrink and move while they are used.

mod world;

use atoll_records::{ReplicaAddress, Role};
use atoll_types::ReplicaId;
use world::{SHARD, World, address, node_id};

#[tokio::test]
async fn a_shard_grows_from_one_replica_to_three() {
    let mut world = World::founded(1).await;
    world.append(1, "a").await;
    for node in 2..=3 {
        world.start(node).await;
        world.nodes[&node].create_replica(SHARD, address(node).replica, None).await.unwrap();
    }
    world.reconfigured((1..=3).map(address).collect(), Vec::new()).await;
    world.append(2, "b").await;
    // Two of three carry on without the founder.
    world.kill(1);
    assert_eq!(world.append(3, "c").await, "abc");
    assert_eq!(world.read(2, "log").await, "abc");
}

#[tokio::test]
async fn a_voter_is_replaced_and_the_old_one_may_go() {
    let mut world = World::founded(3).await;
    world.append(1, "a").await;
    world.start(4).await;
    world.nodes[&4].create_replica(SHARD, address(4).replica, None).await.unwrap();
    world.reconfigured([1, 2, 4].map(address).into(), Vec::new()).await;
    world.kill(3);
    world.append(4, "b").await;
    world.kill(1);
    assert_eq!(world.append(2, "c").await, "abc");
}

#[tokio::test]
async fn all_voters_are_replaced_the_leader_among_them() {
    let mut world = World::founded(1).await;
    world.append(1, "a").await;
    world.start(2).await;
    world.nodes[&2].create_replica(SHARD, address(2).replica, None).await.unwrap();
    world.reconfigured(vec![address(2)], Vec::new()).await;
    world.kill(1);
    assert_eq!(world.append(2, "b").await, "ab");
}

#[tokio::test]
async fn a_learner_keeps_a_copy_without_a_vote() {
    let mut world = World::founded(1).await;
    world.append(1, "a").await;
    world.start(2).await;
    world.nodes[&2].create_replica(SHARD, address(2).replica, None).await.unwrap();
    world.reconfigured(vec![address(1)], vec![address(2)]).await;
    assert_eq!(world.append(2, "b").await, "ab");
    world.all_equal([1, 2]).await;
}

#[tokio::test]
async fn a_voter_that_lost_its_disk_is_not_filled_again_under_its_old_name() {
    let mut world = World::founded(3).await;
    world.append(1, "a").await;
    world.kill(3);
    world.disks.remove(&3);
    world.start(3).await;
    world.nodes[&3].create_replica(SHARD, address(3).replica, None).await.unwrap();
    world
        .until(3, "replica 3 is known to have forgotten", |status| {
            matches!(status[0].role, Role::Forgotten { .. })
        })
        .await;
    // Under a new name it is welcome.
    let new = ReplicaAddress { replica: ReplicaId(33), node: node_id(3) };
    world.nodes[&3].remove_replica(ReplicaId(3)).await.unwrap();
    world.nodes[&3].create_replica(SHARD, new.replica, None).await.unwrap();
    world.reconfigured(vec![address(1), address(2), new], Vec::new()).await;
    world.kill(2);
    assert_eq!(world.append(1, "b").await, "ab");
}
