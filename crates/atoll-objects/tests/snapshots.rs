//! Snapshots on several nodes: what they keep from the sweeps, and for how long.

mod world;

use std::{collections::BTreeSet, time::Duration};

use atoll_objects::*;
use atoll_types::{ChunkHash, Format};
use bytes::Bytes;
use world::*;

const MIB: usize = 1 << 20;

fn kept_for(keep: Duration) -> Option<SnapshotSettings> {
    Some(SnapshotSettings { every: Some(Duration::from_secs(1)), keep, others: Vec::new() })
}

async fn delete(world: &World, name: &str, at: &'static str) {
    let conditions = WriteConditions::default();
    let (bucket, key) = (bucket(name), key(at));
    let delete = DeleteObject { bucket, key, version: None, conditions, idempotency: None };
    world.at(1).delete(delete).await.unwrap();
}

/// The snapshots of all shards in one round, once they are there.
async fn complete(world: &World, round: u64) -> Vec<KeptSnapshot> {
    let found = async || {
        let (mut kept, shards) = world.at(2).snapshots().await.ok()?;
        kept.retain(|snapshot| snapshot.round == round);
        (kept.len() == shards.len()).then_some(kept)
    };
    world.until("the round is complete", async || found().await.is_some()).await;
    found().await.expect("it was there a moment ago")
}

async fn decoded<T: Format>(world: &World, chunks: &[ChunkRef]) -> T {
    let mut bytes = Vec::new();
    for chunk in chunks {
        bytes.extend_from_slice(&world.at(2).chunk(chunk.hash).await.unwrap());
    }
    T::decode(&bytes).unwrap()
}

async fn entries(world: &World, snapshots: &[KeptSnapshot]) -> Vec<Entry> {
    let mut all = Vec::new();
    for snapshot in snapshots {
        let root: Root = decoded(world, &snapshot.root).await;
        for chunk in root.entries {
            all.extend(decoded::<Entries>(world, &[chunk]).await.0);
        }
    }
    all
}

/// As an operator does it, from the entries of a round.
async fn restore_into(world: &World, entries: &[Entry], from: &str, to: &str, source: &str) {
    let info = entries.iter().find_map(|entry| match entry {
        Entry::Bucket(info) if info.name.as_str() == from => Some(info.clone()),
        _ => None,
    });
    let info = info.expect("the bucket was there");
    let name = bucket(to);
    let begin = || world.at(1).begin_restore(&name, info.owner.clone(), info.created, source.into());
    assert!(matches!(begin().await, Ok(Restoring::Begun(_))));
    let records = entries.iter().filter_map(|entry| match entry {
        Entry::Record { bucket, record } if *bucket == info.id => Some(record.clone()),
        _ => None,
    });
    let records: Vec<BucketRecord> = records.collect();
    // Twice, as after an interruption, and by another node.
    for number in world.nodes.keys().copied().chain([1]) {
        assert_eq!(world.at(number).import(&bucket(to), records.clone()).await.unwrap(), []);
    }
    assert!(matches!(world.at(1).head_bucket(&bucket(to)).await, Err(HeadBucketError::NoSuchBucket(_))));
    let open = entries.iter().find_map(|entry| match entry {
        Entry::Open(open) if open.bucket == info.id => Some(*open),
        _ => None,
    });
    world.at(1).finish_restore(&bucket(to), open.expect("it was open")).await.unwrap();
    assert_eq!(begin().await.unwrap(), Restoring::Done);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_stays_as_long_as_a_snapshot_of_it_and_can_be_restored() {
    let mut world = World::of(3).await;
    world.cluster_version.send_replace(SNAPSHOTS_SINCE);
    world.at(1).create_bucket(&bucket("photos"), "me").await.unwrap();
    let (large, small) = (random_bytes(1, 5 * MIB), Bytes::from_static(b"small"));
    put(world.at(1), "photos", "large", &large).await.unwrap();
    put(world.at(2), "photos", "small", &small).await.unwrap();
    let of_large = world.all_chunks().await;
    for number in 1..=3 {
        world.maintain_with(number, kept_for(Duration::from_secs(3600)));
    }
    let round = world.at(2).begin_snapshots().await.unwrap();
    let snapshots = complete(&world, round).await;
    delete(&world, "photos", "large").await;
    delete(&world, "photos", "small").await;
    // Nothing but the snapshots refers to them; sweeps come and go.
    let epoch = |world: &World| (1..=3).map(|number| world.status(number).reclaimed_epoch).min().unwrap();
    let then = epoch(&world);
    world.until("three sweeps", async || epoch(&world) >= then + 3).await;
    let referenced = world.at(1).referenced_chunks().await.unwrap();
    let is_there = async |world: &World, hash: &ChunkHash| world.copies(*hash).await > 0;
    for hash in &of_large {
        assert!(referenced.contains(hash) && is_there(&world, hash).await);
    }
    let entries = entries(&world, &snapshots).await;
    restore_into(&world, &entries, "photos", "again", "round").await;
    assert!(get(world.at(3), "again", "large").await.unwrap() == large);
    assert!(get(world.at(2), "again", "small").await.unwrap() == small);
    assert!(matches!(get(world.at(1), "photos", "large").await, Err(GetObjectError::NoSuchKey)));
    // A restored bucket is one like any other.
    put(world.at(1), "again", "small", &large).await.unwrap();
    assert!(get(world.at(2), "again", "small").await.unwrap() == large);
    delete(&world, "again", "small").await;
    delete(&world, "again", "large").await;

    // Rounds come by themselves, old ones go, and with them what only they referred to.
    for number in 1..=3 {
        world.maintain_with(number, kept_for(Duration::from_secs(1)));
    }
    let gone = async || {
        let all: BTreeSet<ChunkHash> = world.all_chunks().await;
        of_large.iter().all(|hash| !all.contains(hash))
    };
    world.until("the chunks are reclaimed", gone).await;
    let (kept, _) = world.at(1).snapshots().await.unwrap();
    assert!(kept.iter().all(|snapshot| snapshot.round > round));
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_cluster_that_is_being_upgraded_there_are_no_snapshots() {
    let mut world = World::of(1).await;
    world.maintain_with(1, kept_for(Duration::from_secs(3600)));
    let refused = world.at(1).begin_snapshots().await;
    assert!(matches!(refused, Err(Unavailable::Upgrading { needs: SNAPSHOTS_SINCE, .. })));
    let begun = begin(&world, "photos", "a").await;
    assert!(matches!(begun, Err(RestoreError::Unavailable(Unavailable::Upgrading { .. }))));
}

async fn begin(world: &World, name: &str, source: &str) -> Result<Restoring, RestoreError> {
    let name = bucket(name);
    world.at(1).begin_restore(&name, "me".into(), Default::default(), source.into()).await
}

#[tokio::test(flavor = "multi_thread")]
async fn another_cluster_says_what_it_misses_and_takes_nothing_until_that_is_there() {
    let mut old = World::of(3).await;
    old.cluster_version.send_replace(SNAPSHOTS_SINCE);
    old.at(1).create_bucket(&bucket("photos"), "me").await.unwrap();
    let bytes = random_bytes(1, 3 * MIB);
    put(old.at(1), "photos", "k", &bytes).await.unwrap();
    let chunks = old.all_chunks().await;
    (1..=3).for_each(|number| old.maintain_with(number, kept_for(Duration::from_secs(3600))));
    let round = old.at(1).begin_snapshots().await.unwrap();
    let entries = entries(&old, &complete(&old, round).await).await;
    let records = entries.iter().filter_map(|entry| match entry {
        Entry::Record { record, .. } => Some(record.clone()),
        _ => None,
    });
    let records: Vec<BucketRecord> = records.collect();

    let new = World::of(1).await;
    new.cluster_version.send_replace(SNAPSHOTS_SINCE);
    new.at(1).create_bucket(&bucket("photos"), "me").await.unwrap();
    assert!(matches!(begin(&new, "photos", "a").await, Err(RestoreError::BucketExists(_))));
    let import = async |records: &[BucketRecord]| new.at(1).import(&bucket("again"), records.to_vec()).await;
    assert!(matches!(import(&records).await, Err(RestoreError::NotBegun(_))));
    assert!(matches!(begin(&new, "again", "a").await, Ok(Restoring::Begun(_))));
    assert!(matches!(begin(&new, "again", "b").await, Err(RestoreError::OtherSource { .. })));
    let malformed = BucketRecord { value: Bytes::from_static(b"?"), ..records[0].clone() };
    assert!(matches!(import(&[malformed]).await, Err(RestoreError::Malformed)));
    // One that can be read, and whose sizes do not add up.
    let altered = (0..records[0].value.len()).map(|at| {
        let mut value = records[0].value.to_vec();
        value[at] ^= 1;
        BucketRecord { value: value.into(), ..records[0].clone() }
    });
    let unsound: Vec<BucketRecord> =
        altered.filter(|record| record.references().is_ok() && !record.is_sound()).collect();
    assert!(!unsound.is_empty());
    for record in unsound {
        assert!(matches!(import(&[record]).await, Err(RestoreError::Malformed)));
    }

    let missing: BTreeSet<ChunkHash> = import(&records).await.unwrap().into_iter().collect();
    assert_eq!(missing, chunks);
    let hash = *missing.first().unwrap();
    let other = new.at(1).bring_chunk(hash, random_bytes(2, MIB)).await;
    assert!(matches!(other, Err(RestoreError::OtherBytes(of)) if of == hash));
    assert_eq!(new.all_chunks().await, BTreeSet::new());
    for hash in missing {
        let chunk = old.at(2).chunk(hash).await.unwrap();
        new.at(1).bring_chunk(hash, chunk).await.unwrap();
    }
    restore_into(&new, &entries, "photos", "again", "a").await;
    assert!(get(new.at(1), "again", "k").await.unwrap() == bytes);
}
