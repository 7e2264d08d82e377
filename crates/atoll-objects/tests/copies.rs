//! Several nodes: where copies go, how they come back, how they move, and how they go.

mod world;

use std::{collections::BTreeSet, sync::Arc};

use atoll_objects::*;
use bytes::Bytes;
use world::*;

const MIB: usize = 1 << 20;

async fn three_with_bucket() -> World {
    let world = World::of(3).await;
    world.at(1).create_bucket(&bucket("photos"), "me").await.unwrap();
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn what_one_node_stores_every_node_serves_from_three_copies() {
    let world = three_with_bucket().await;
    let bytes = random_bytes(1, 5 * MIB);
    put(world.at(2), "photos", "k", &bytes).await.unwrap();
    for number in 1..=3 {
        assert!(get(world.at(number), "photos", "k").await.unwrap() == bytes);
    }
    let chunks = world.all_chunks().await;
    assert!(chunks.len() >= 3);
    for hash in chunks {
        world.until("three copies", async || world.copies(hash).await == 3).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_and_writes_go_on_without_one_of_three_and_it_catches_up_when_it_is_back() {
    let mut world = three_with_bucket().await;
    let before = random_bytes(1, 3 * MIB);
    put(world.at(1), "photos", "before", &before).await.unwrap();
    world.kill(3);
    let after = random_bytes(2, 3 * MIB);
    put(world.at(1), "photos", "after", &after).await.unwrap();
    assert!(get(world.at(2), "photos", "before").await.unwrap() == before);
    assert!(get(world.at(2), "photos", "after").await.unwrap() == after);
    world.start(3).await;
    world.maintain();
    for hash in world.all_chunks().await {
        world.until("three copies again", async || world.copies(hash).await == 3).await;
    }
    assert!(get(world.at(3), "photos", "after").await.unwrap() == after);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_gone_is_read_elsewhere_and_restored() {
    let mut world = three_with_bucket().await;
    let bytes = random_bytes(1, 3 * MIB);
    put(world.at(1), "photos", "k", &bytes).await.unwrap();
    let chunks = world.all_chunks().await;
    for hash in &chunks {
        world.until("three copies", async || world.copies(*hash).await == 3).await;
    }
    world.maintain();
    let verified = async || {
        let mut verified = true;
        for number in 1..=3 {
            verified &= world.nodes[&number].maintenance.as_ref().unwrap().status().copies_missing == 0;
        }
        verified
    };
    world.until("everything verified", verified).await;
    for hash in &chunks {
        assert!(world.nodes[&2].chunks.remove_if(*hash, u64::MAX).await.unwrap());
    }
    assert!(get(world.at(2), "photos", "k").await.unwrap() == bytes);
    for hash in &chunks {
        world.until("restored where a reader missed it", async || world.copies(*hash).await == 3).await;
    }
}

/// Two nodes that ask each other for a chunk that is gone did so for ever, and looked for
/// nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_nobody_has_does_not_keep_repair_from_the_others() {
    let mut world = three_with_bucket().await;
    put(world.at(1), "photos", "gone", &random_bytes(1, MIB)).await.unwrap();
    let gone = world.all_chunks().await;
    for hash in &gone {
        world.until("three copies", async || world.copies(*hash).await == 3).await;
        for node in world.nodes.values() {
            assert!(node.chunks.remove_if(*hash, u64::MAX).await.unwrap());
        }
    }
    world.maintain();
    world.links.cut(&[node_id(3)], &[node_id(1), node_id(2)]);
    world
        .until("a leader serves node 1", async || world.at(1).head_bucket(&bucket("photos")).await.is_ok())
        .await;
    put(world.at(1), "photos", "late", &random_bytes(2, MIB)).await.unwrap();
    for number in [1, 2] {
        let objects = world.at(number).clone();
        // It asks everyone, and fails in the end; nobody waits for that.
        drop(world.runtime.spawn("get", async move { get(&objects, "photos", "gone").await }));
    }
    world.links.heal_all();
    for hash in world.all_chunks().await {
        world.until("three copies again", async || world.copies(hash).await == 3).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_refers_to_goes_and_everything_else_stays() {
    let mut world = three_with_bucket().await;
    let (kept, gone) = (random_bytes(1, 4 * MIB), random_bytes(2, 4 * MIB));
    put(world.at(1), "photos", "kept", &kept).await.unwrap();
    let wanted = world.all_chunks().await;
    put(world.at(1), "photos", "gone", &gone).await.unwrap();
    let mut broken = put_request("photos", "never", &random_bytes(3, 4 * MIB));
    broken.body.content_md5 = Some([0; 16]);
    assert!(world.at(1).put(broken).await.is_err());
    assert!(world.all_chunks().await.len() > wanted.len());
    put(world.at(1), "photos", "gone", &Bytes::new()).await.unwrap();
    world.maintain();
    world.until("only what is wanted is left", async || world.all_chunks().await == wanted).await;
    let epoch = async || {
        world.nodes.values().map(|n| n.maintenance.as_ref().unwrap().status().reclaimed_epoch).min().unwrap()
    };
    let now = epoch().await;
    world.until("two more sweeps", async || epoch().await >= now + 2).await;
    assert_eq!(world.all_chunks().await, wanted);
    assert!(get(world.at(3), "photos", "kept").await.unwrap() == kept);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_lasts_through_sweeps_keeps_its_chunks_or_says_no() {
    let mut world = three_with_bucket().await;
    world.maintain();
    let bytes = random_bytes(4, 7 * MIB);
    let status = |world: &World| world.nodes[&1].maintenance.as_ref().unwrap().status().reclaimed_epoch;
    // The body stalls until three sweeps have passed since its first chunks were stored.
    let (tx, rx) = tokio::sync::oneshot::channel::<()>();
    let (first, second, rest) =
        (bytes.slice(..3 * MIB), bytes.slice(3 * MIB..6 * MIB), bytes.slice(6 * MIB..));
    let stream = futures_util::stream::iter([Ok(first), Ok(second)]);
    let stall = futures_util::stream::once(async move {
        let _ = rx.await;
        Ok(rest)
    });
    let request = PutObject {
        body: PutBody::new(Box::pin(futures_util::StreamExt::chain(stream, stall))),
        ..put_request("photos", "slow", &Bytes::new())
    };
    let objects = world.at(2).clone();
    let putting = world.runtime.spawn("slow put", async move { objects.put(request).await });
    world.until("some chunks are stored", async || !world.all_chunks().await.is_empty()).await;
    let epoch = status(&world);
    world.until("three sweeps", async || status(&world) >= epoch + 3).await;
    tx.send(()).unwrap();
    // Its early chunks were reclaimed, and cannot be stamped again: the answer is no. A
    // put in production looks at the epoch long before that.
    match putting.await.unwrap() {
        Ok(_) => assert!(get(world.at(1), "photos", "slow").await.unwrap() == bytes),
        Err(PutObjectError::Unavailable(_)) => {
            let got = get(world.at(1), "photos", "slow").await;
            assert!(matches!(got, Err(GetObjectError::NoSuchKey)));
        }
        Err(error) => panic!("{error}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_joins_and_another_is_drained_while_everything_stays_readable() {
    let mut world = World::with_voters(4, [1, 2, 3]).await;
    // Begin with three, whatever the fixture spread over four.
    let three = settle_all(&world, 1..=3);
    world.layout.send_replace(Arc::new(three));
    world.at(1).create_bucket(&bucket("photos"), "me").await.unwrap();
    world.maintain();
    let bodies: Vec<Bytes> = (0..6).map(|seed| random_bytes(seed, 2 * MIB + 7)).collect();
    for (at, bytes) in bodies.iter().enumerate() {
        put(world.at(1), "photos", format!("{at}"), bytes).await.unwrap();
    }
    let wanted = world.all_chunks().await;

    let grown = plan(&world.layout.borrow().clone(), 1..=4);
    assert!(!grown.slots_of(&node_id(4)).arriving.is_empty());
    world.layout.send_replace(Arc::new(grown));
    let during = random_bytes(77, 3 * MIB);
    put(world.at(2), "photos", "during", &during).await.unwrap();
    move_until_settled(&world, 1..=4).await;
    check_all(&world, &bodies).await;
    assert!(!world.layout.borrow().slots_of(&node_id(4)).current.is_empty());

    let draining = world.layout.borrow().drain(&node_id(1)).unwrap();
    world.layout.send_replace(Arc::new(draining));
    let after = random_bytes(78, 3 * MIB);
    put(world.at(3), "photos", "after", &after).await.unwrap();
    move_until_settled(&world, 1..=4).await;
    assert_eq!(chunks_of(&world.nodes[&1].chunks).await, BTreeSet::new());
    // Its voters stay in this world; what it held does not.
    check_all(&world, &bodies).await;
    for number in 1..=4 {
        assert!(get(world.at(number), "photos", "during").await.unwrap() == during);
        assert!(get(world.at(number), "photos", "after").await.unwrap() == after);
    }
    for hash in wanted {
        world.until("three copies on the three others", async || world.copies(hash).await == 3).await;
    }
}

/// The layout of these members with every move finished; nothing is stored yet.
fn settle_all(world: &World, members: impl IntoIterator<Item = u8> + Clone) -> atoll_placement::Layout {
    let mut layout = world.layout.borrow().as_ref().clone();
    for number in 4..=4 {
        layout = layout.drain(&node_id(number)).unwrap();
    }
    for _ in 0..8 {
        layout = settle(plan(&layout, members.clone()));
    }
    let layout = layout.undrain(&node_id(4)).unwrap();
    assert!(layout.slots_of(&node_id(4)).current.is_empty());
    layout
}

/// Plans on, as the controller does, until nothing moves and nothing more is planned.
async fn move_until_settled(world: &World, members: impl IntoIterator<Item = u8> + Clone) {
    let settled = async || {
        let layout = world.layout.borrow().clone();
        let moving = layout.progress_counts().keys().any(|p| *p != atoll_placement::SlotProgress::Settled);
        if moving {
            return false;
        }
        let next = plan(&layout, members.clone());
        if next.progress_counts() == layout.progress_counts() {
            return true;
        }
        world.layout.send_replace(Arc::new(next));
        false
    };
    world.until("all moves are finished", settled).await;
}

async fn check_all(world: &World, bodies: &[Bytes]) {
    for number in world.nodes.keys() {
        for (at, bytes) in bodies.iter().enumerate() {
            let got = get(world.at(*number), "photos", format!("{at}")).await.unwrap();
            assert!(got == *bytes, "{at} at node {number}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_left_half_made_or_half_gone_is_finished_by_the_next_who_comes() {
    let world = three_with_bucket().await;
    let name = bucket("photos");
    // Every node remembers the bucket; one deletes it and makes it anew.
    for number in 1..=3 {
        put(world.at(number), "photos", format!("{number}"), &Bytes::from("x")).await.unwrap();
    }
    let keys = (1..=3).map(|number| key(format!("{number}")).into()).collect();
    world.at(1).delete_many(&name, keys).await.unwrap();
    world.at(1).delete_bucket(&name).await.unwrap();
    assert!(matches!(
        put(world.at(2), "photos", "k", &Bytes::new()).await,
        Err(PutObjectError::NoSuchBucket(_))
    ));
    world.at(1).create_bucket(&name, "me").await.unwrap();
    put(world.at(3), "photos", "k", &Bytes::from("new")).await.unwrap();
    assert_eq!(get(world.at(2), "photos", "k").await.unwrap(), "new");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_refused_because_of_his_own_success() {
    use atoll_transport::memory::LinkProfile;
    let world = three_with_bucket().await;
    // Connections break in the middle of calls, so answers get lost and are asked for again.
    let flaky = LinkProfile { break_before: 0.1, break_after: 0.3, ..LinkProfile::local_network() };
    world.links.set_all(flaky);
    let puts = (0..60).map(|number| {
        let objects = world.at(1 + number % 3).clone();
        let mut request = put_request("photos", format!("{number}"), &Bytes::from("mine alone"));
        request.conditions.if_none_match = Some(ETagCondition::Any);
        world.runtime.spawn("put", async move { objects.put(request).await })
    });
    for put in futures_util::future::join_all(puts).await {
        match put.unwrap() {
            Ok(_) | Err(PutObjectError::Unavailable(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_get_goes_on_when_the_node_it_reads_from_is_killed_in_the_middle() {
    use futures_util::StreamExt;
    let mut world = World::with_voters(4, [1, 2, 3]).await;
    world.at(1).create_bucket(&bucket("photos"), "me").await.unwrap();
    let bytes = random_bytes(5, 24 * MIB);
    put(world.at(1), "photos", "k", &bytes).await.unwrap();
    for hash in world.all_chunks().await {
        world.until("three copies", async || world.copies(hash).await >= 3).await;
    }
    // Node 4 lacks about a quarter of the chunks, and has no records either.
    let mut got = world.at(4).get(get_request("photos", "k")).await.unwrap();
    let mut read = got.body.next().await.unwrap().unwrap().to_vec();
    world.kill(2);
    while let Some(piece) = got.body.next().await {
        read.extend_from_slice(&piece.unwrap());
    }
    assert!(bytes == read);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_counts_when_two_of_three_have_it_and_not_before() {
    let mut world = three_with_bucket().await;
    world.patience = std::time::Duration::from_secs(3);
    for number in 1..=3 {
        world.kill(number);
    }
    for number in 1..=3 {
        world.start(number).await;
    }
    let others = [node_id(2), node_id(3)];
    world
        .until("a leader serves node 1", async || world.at(1).head_bucket(&bucket("photos")).await.is_ok())
        .await;
    world.links.cut(&[node_id(1)], &others);
    let started = world.runtime.now();
    for size in [10, 2 * MIB] {
        let put = put(world.at(1), "photos", "alone", &random_bytes(1, size)).await;
        assert!(matches!(put, Err(PutObjectError::Unavailable(_))), "{put:?}");
    }
    assert!(matches!(get(world.at(1), "photos", "alone").await, Err(GetObjectError::Unavailable(_))));
    let took = world.runtime.now() - started;
    assert!(took < 4 * world.patience, "no hang: {took:?}");
    put(world.at(2), "photos", "together", &random_bytes(2, 2 * MIB)).await.unwrap();
    world.links.heal_all();
    let healed = async || get(world.at(1), "photos", "together").await.is_ok();
    world.until("the one cut off reads again", healed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_a_sweep_overtook_stamps_its_chunks_again() {
    let world = three_with_bucket().await;
    let bytes = random_bytes(4, 7 * MIB);
    let (go_on, wait) = tokio::sync::oneshot::channel::<()>();
    let (first, rest) = (bytes.slice(..6 * MIB), bytes.slice(6 * MIB..));
    let stream = futures_util::stream::iter([Ok(first.slice(..3 * MIB)), Ok(first.slice(3 * MIB..))]);
    let stall = futures_util::stream::once(async move {
        let _ = wait.await;
        Ok(rest)
    });
    let request = PutObject {
        body: PutBody::new(Box::pin(futures_util::StreamExt::chain(stream, stall))),
        ..put_request("photos", "slow", &Bytes::new())
    };
    let objects = world.at(2).clone();
    let putting = world.runtime.spawn("slow put", async move { objects.put(request).await });
    world.until("some chunks are stored", async || !world.all_chunks().await.is_empty()).await;
    world.raise_epochs(9).await;
    go_on.send(()).unwrap();
    putting.await.unwrap().unwrap();
    assert!(get(world.at(1), "photos", "slow").await.unwrap() == bytes);
    for number in 1..=3 {
        for hash in world.all_chunks().await {
            let found = world.nodes[&number].chunks.list(hash.slot(), None, usize::MAX).await.unwrap();
            assert!(found.iter().all(|chunk| chunk.stamp >= 9), "node {number}: {found:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_was_away_for_many_sweeps_walks_everything() {
    let mut world = three_with_bucket().await;
    put(world.at(1), "photos", "before", &random_bytes(1, MIB)).await.unwrap();
    world.maintain();
    let epoch = |world: &World| world.status(1).reclaimed_epoch;
    world.until("node 3 has verified something", async || world.status(3).reclaimed_epoch > 0).await;
    world.kill(3);
    put(world.at(1), "photos", "after", &random_bytes(2, 2 * MIB)).await.unwrap();
    let then = epoch(&world);
    world.until("the log of references was cut", async || epoch(&world) >= then + 4).await;
    let chunks = world.all_chunks().await;
    world.start(3).await;
    world.maintain_at(3);
    for hash in chunks {
        world.until("three copies again", async || world.copies(hash).await == 3).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_node_holds_up_neither_reads_nor_copies() {
    let mut world = World::of(3).await;
    world.at(1).create_bucket(&bucket("photos"), "me").await.unwrap();
    let bytes = random_bytes(6, 8 * MIB);
    put(world.at(1), "photos", "k", &bytes).await.unwrap();
    for hash in world.all_chunks().await {
        world.until("three copies", async || world.copies(hash).await == 3).await;
        // Node 1 has to read from the others.
        world.nodes[&1].chunks.remove_if(hash, u64::MAX).await.unwrap();
    }
    world.network.vanish(node_id(3));
    world.nodes.remove(&3);
    world
        .until("a leader is there", async || world.at(1).head(get_request("photos", "k")).await.is_ok())
        .await;
    let started = world.runtime.now();
    assert!(get(world.at(1), "photos", "k").await.unwrap() == bytes);
    let copy = CopyObject {
        source_bucket: bucket("photos"),
        source_key: key("k"),
        source_version: None,
        source_conditions: Default::default(),
        source_customer_key: None,
        bucket: bucket("photos"),
        key: key("copied"),
        conditions: Default::default(),
        encryption: None,
        headers: None,
        acl: None,
        idempotency: None,
    };
    let copied = world.at(1).copy(copy).await;
    assert!(copied.is_ok(), "{copied:?}");
    put(world.at(2), "photos", "more", &bytes).await.unwrap();
    let took = world.runtime.now() - started;
    // A call to it would take ten seconds to fail.
    assert!(took < std::time::Duration::from_secs(8), "{took:?}");
}
