//! Commands and queries through Raft, on one node and on three.

mod world;

use atoll_records::RecordsError;
use world::{PATIENCE, World};

#[tokio::test]
async fn a_write_on_one_node_is_read_back() {
    let world = World::founded(1).await;
    assert_eq!(world.append(1, "a").await, "a");
    assert_eq!(world.append(1, "b").await, "ab");
    assert_eq!(world.read(1, "log").await, "ab");
}

#[tokio::test]
async fn revisions_grow_with_every_command() {
    let world = World::founded(1).await;
    let first = world.execute(1, "test/append/1", "a").await.revision;
    let second = world.execute(1, "test/append/1", "b").await.revision;
    assert!(second > first);
}

#[tokio::test]
async fn an_aborted_command_leaves_nothing_behind() {
    let world = World::founded(1).await;
    world.append(1, "a").await;
    world.execute(1, "test/put/1", "other=x").await;
    let executed = world.execute(1, "test/refuse/1", "").await;
    assert!(!executed.committed);
    assert_eq!(&executed.output[..], b"no");
    assert_eq!(world.read(1, "log").await, "a");
    assert_eq!(world.read(1, "other").await, "x");
}

#[tokio::test]
async fn a_retry_under_the_same_id_gets_the_first_result_and_changes_nothing() {
    let world = World::founded(1).await;
    let id = world.runtime.transaction_id();
    let first = world.try_execute(1, id, "test/append/1", "a").await.unwrap();
    world.append(1, "b").await;
    let again = world.try_execute(1, id, "test/append/1", "a").await.unwrap();
    assert_eq!(first, again);
    assert_eq!(world.read(1, "log").await, "ab");
}

#[tokio::test]
async fn what_is_unknown_or_too_large_is_refused_at_once() {
    let world = World::founded(1).await;
    let id = world.runtime.transaction_id();
    let unknown = world.try_execute(1, id, "test/nothing/1", "").await;
    assert!(matches!(unknown, Err(RecordsError::Invalid { .. })), "{unknown:?}");
    let large = world.try_execute(1, id, "test/append/1", vec![0; 1 << 20]).await;
    assert!(matches!(large, Err(RecordsError::Invalid { .. })));
    let deadline = world.runtime.now() + PATIENCE;
    let nowhere = world.nodes[&1].query(atoll_types::ShardId(99), "test/get/1", "log".into(), deadline).await;
    assert_eq!(nowhere, Err(RecordsError::UnknownShard { shard: atoll_types::ShardId(99) }));
}

#[tokio::test]
async fn a_stopped_node_carries_on_with_what_it_has() {
    let mut world = World::founded(1).await;
    world.append(1, "a").await;
    world.kill(1);
    world.start(1).await;
    assert_eq!(world.read(1, "log").await, "a");
    assert_eq!(world.append(1, "b").await, "ab");
}

#[tokio::test]
async fn three_replicas_agree_whichever_node_is_asked() {
    let world = World::founded(3).await;
    assert_eq!(world.append(1, "a").await, "a");
    assert_eq!(world.append(2, "b").await, "ab");
    assert_eq!(world.append(3, "c").await, "abc");
    for node in 1..=3 {
        assert_eq!(world.read(node, "log").await, "abc");
    }
}
