//! What is found, and never served, when the disk or the index forgets or lies.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{FutureExt, future::BoxFuture};

use super::*;
use crate::{OrderedStore, PackDamage, Table, WriteBatch};

/// Puts, then damages all that the index holds, with nothing left to be opened.
async fn unreadable_index(cases: &[(ChunkHash, Bytes)]) -> (Disk, ChunkStore) {
    let disk = Disk::new();
    let chunks = disk.open().await;
    for (number, case) in cases.iter().enumerate() {
        put(&chunks, case, number as u64).await;
    }
    disk.index.damage_table(Table::Chunks);
    (disk, chunks)
}

async fn is_made_anew(disk: &Disk, cases: &[(ChunkHash, Bytes)]) {
    let (chunks, recovery) = disk.open_any().await;
    assert!(recovery.rebuilt && recovery.damage.is_empty(), "{recovery:?}");
    for (hash, bytes) in cases {
        assert_eq!(chunks.get(*hash).await.unwrap().as_ref(), Some(bytes));
        // Stamps may be lost with the index: as high as any was.
        assert_eq!(stamp(&chunks, *hash).await, Some(cases.len() as u64 - 1));
    }
    assert_eq!(chunks.usage().chunks, cases.len() as u64);
    close(chunks).await;
    let (_, recovery) = disk.open_any().await;
    assert!(!recovery.rebuilt, "once is enough");
}

#[tokio::test]
async fn an_index_that_cannot_be_read_at_the_start_is_made_anew_from_the_packs() {
    let cases: Vec<_> = (0..5).map(|seed| chunk(seed, 3000)).collect();
    let (disk, chunks) = unreadable_index(&cases).await;
    drop_handle(chunks, &disk).await;
    is_made_anew(&disk, &cases).await;
}

#[tokio::test]
async fn an_index_that_turns_out_to_be_unreadable_is_made_anew_at_the_next_start() {
    type Use = for<'a> fn(&'a ChunkStore, &'a (ChunkHash, Bytes)) -> BoxFuture<'a, bool>;
    let uses: [Use; 3] = [
        |chunks, case| async { matches!(chunks.get(case.0).await, Err(ChunkError::Index(_))) }.boxed(),
        |chunks, case| {
            async { matches!(chunks.list(case.0.slot(), None, 10).await, Err(ChunkError::Index(_))) }.boxed()
        },
        // Decided by the one task that writes.
        |chunks, case| {
            async { matches!(chunks.remove_if(case.0, 9).await, Err(ChunkError::Index(_))) }.boxed()
        },
    ];
    for notice in uses {
        let cases: Vec<_> = (0..5).map(|seed| chunk(seed, 3000)).collect();
        let (disk, chunks) = unreadable_index(&cases).await;
        assert!(notice(&chunks, &cases[2]).await);
        assert!(chunks.failed().await.contains("index"));
        // What is written over is readable again; the next start does not believe it.
        let position = WriteBatch::of(Table::Chunks, vec![0], Vec::new());
        disk.index.write(position).unwrap();
        drop_handle(chunks, &disk).await;
        is_made_anew(&disk, &cases).await;
    }
}

#[tokio::test]
async fn an_index_that_forgot_catches_up_to_the_same_answer() {
    for seed in 0..40 {
        let mut rng = StdRng::seed_from_u64(seed);
        let disk = Disk::new();
        let mut model: BTreeMap<ChunkHash, (u64, Bytes)> = BTreeMap::new();
        let mut chunks = disk.open().await;
        for _ in 0..rng.random_range(1..4) {
            for _ in 0..rng.random_range(0..60) {
                let case = chunk(rng.random_range(0..30), 3000);
                let (hash, epoch) = (case.0, rng.random_range(0..10));
                match rng.random_range(0..10) {
                    0..5 => {
                        put(&chunks, &case, epoch).await;
                        let known = model.entry(hash).or_insert((epoch, case.1));
                        known.0 = known.0.max(epoch);
                    }
                    5..7 => {
                        assert_eq!(chunks.raise_stamp(hash, epoch).await.unwrap(), model.contains_key(&hash));
                        model.entry(hash).and_modify(|known| known.0 = known.0.max(epoch));
                    }
                    7..9 => {
                        let removed = chunks.remove_if(hash, epoch).await.unwrap();
                        assert_eq!(removed, model.get(&hash).is_some_and(|known| known.0 <= epoch));
                        if removed {
                            model.remove(&hash);
                        }
                    }
                    _ => drop(chunks.compact_next(10_000).await.unwrap()),
                }
            }
            drop_handle(chunks, &disk).await;
            disk.index.crash(&mut rng);
            chunks = disk.open().await;
            check(&chunks, &model, seed).await;
        }
    }
}

async fn check(chunks: &ChunkStore, model: &BTreeMap<ChunkHash, (u64, Bytes)>, seed: u64) {
    let mut found = BTreeMap::new();
    let slots: BTreeSet<Slot> = (0..30).map(|n| chunk(n, 3000).0.slot()).collect();
    for slot in slots {
        for info in chunks.list(slot, None, 1000).await.unwrap() {
            assert!(!info.damaged);
            found.insert(info.hash, (info.stamp, chunks.get(info.hash).await.unwrap().unwrap()));
        }
    }
    assert_eq!(&found, model, "seed {seed}");
    assert_eq!(chunks.usage().chunks, model.len() as u64, "seed {seed}");
}

#[tokio::test]
async fn a_lost_index_is_made_again_and_no_stamp_is_lower() {
    let mut disk = Disk::new();
    let chunks = disk.open().await;
    let cases: Vec<_> = (0..50).map(|seed| chunk(seed, 4000)).collect();
    for (n, case) in cases.iter().enumerate() {
        put(&chunks, case, n as u64).await;
    }
    // The record of this stamp goes with the pack that compaction drops.
    assert!(chunks.raise_stamp(cases[0].0, 100).await.unwrap());
    for (hash, _) in &cases[1..40] {
        assert!(chunks.remove_if(*hash, 100).await.unwrap());
    }
    compact(&chunks).await;
    close(chunks).await;

    disk.index = MemoryStore::new();
    let (chunks, recovery) = disk.open_any().await;
    assert!(recovery.rebuilt);
    for (hash, bytes) in cases[..1].iter().chain(&cases[40..]) {
        assert_eq!(chunks.get(*hash).await.unwrap().as_ref(), Some(bytes));
        assert_eq!(stamp(&chunks, *hash).await, Some(100));
        assert!(!chunks.remove_if(*hash, 99).await.unwrap(), "the safe side of what was forgotten");
    }
    close(chunks).await;
    assert!(!disk.open_any().await.1.rebuilt, "once is enough");
}

#[tokio::test]
async fn a_flipped_byte_anywhere_is_never_served() {
    let disk = Disk::new();
    let chunks = disk.open().await;
    let cases: Vec<_> = (0..3).map(|seed| chunk(seed, 40)).collect();
    for case in &cases {
        put(&chunks, case, 1).await;
    }
    chunks.raise_stamp(cases[0].0, 2).await.unwrap();
    chunks.remove_if(cases[2].0, 1).await.unwrap();
    close(chunks).await;
    let pack = disk.packs().remove(0);
    let sound = std::fs::read(&pack).unwrap();
    for index_is_lost in [false, true] {
        let mut unharmed = 0;
        // An intact index reads none of the headers, so fewer cases do.
        for offset in (0..sound.len()).step_by(if index_is_lost { 1 } else { 5 }) {
            let index = if index_is_lost { MemoryStore::new() } else { disk.index.image() };
            let scratch = Disk { index, ..Disk::new() };
            let folder = scratch.folder.path().join("chunks");
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(folder.join(pack.file_name().unwrap()), &sound).unwrap();
            scratch.flip(0, offset);
            let (chunks, _) = scratch.open_any().await;
            let mut served = 0;
            for (hash, bytes) in &cases {
                match chunks.get(*hash).await {
                    Ok(Some(found)) => {
                        assert_eq!(found, bytes, "byte {offset}");
                        served += 1;
                    }
                    Ok(None) => {}
                    Err(ChunkError::Damaged { .. }) => {
                        let damaged = chunks.list_damaged(None, 10).await.unwrap();
                        assert_eq!(damaged, [*hash], "byte {offset}");
                    }
                    Err(error) => panic!("byte {offset}: {error}"),
                }
                // Whatever was lost can be put again.
                assert!(chunks.put(*hash, bytes.clone(), 1).await.is_ok());
                assert_eq!(chunks.get(*hash).await.unwrap().as_ref(), Some(bytes), "byte {offset}");
            }
            assert_eq!(chunks.list_damaged(None, 10).await.unwrap(), []);
            unharmed += usize::from(served >= 2);
        }
        assert!(unharmed > 0, "headers of records matter only to a lost index");
    }
}

#[tokio::test]
async fn scrub_finds_a_flipped_byte_and_a_put_replaces_the_chunk() {
    let disk = Disk::new();
    let chunks = disk.open().await;
    let cases: Vec<_> = (0..100).map(|seed| chunk(seed, 2000)).collect();
    join_all(cases.iter().map(|case| put(&chunks, case, 4))).await;
    disk.flip(0, 5000);
    let (mut next, mut damaged, mut read) = (None, Vec::new(), 0);
    loop {
        let scrubbed = chunks.scrub_next(next, 10_000).await.unwrap();
        damaged.extend(scrubbed.damaged);
        read += scrubbed.chunks;
        next = scrubbed.next;
        if next.is_none() {
            break;
        }
    }
    assert_eq!((read, damaged.len()), (100, 1));
    let hash = damaged[0];
    assert_eq!(chunks.list_damaged(None, 10).await.unwrap(), damaged);
    assert_eq!(chunks.list_damaged(Some(hash), 10).await.unwrap(), []);
    assert!(!chunks.contains(hash).await.unwrap());
    assert!(!chunks.raise_stamp(hash, 9).await.unwrap());
    assert!(matches!(chunks.get(hash).await, Err(ChunkError::Damaged { .. })));
    let case = cases.iter().find(|case| case.0 == hash).unwrap();
    assert_eq!(put(&chunks, case, 1).await, Put::Stored);
    assert_eq!(chunks.get(hash).await.unwrap().as_ref(), Some(&case.1));
    assert_eq!(stamp(&chunks, hash).await, Some(4), "it was stamped so when it was damaged");
    assert_eq!(chunks.list_damaged(None, 10).await.unwrap(), []);
}

#[tokio::test]
async fn a_torn_last_batch_is_not_served_and_everything_before_it_is() {
    let disk = Disk::new();
    let chunks = disk.open().await;
    let (first, last) = (chunk(1, 500), chunk(2, 500));
    put(&chunks, &first, 1).await;
    close(chunks).await;
    let pack = disk.packs().remove(0);
    let acknowledged = std::fs::metadata(&pack).unwrap().len() as usize;
    let chunks = disk.open().await;
    put(&chunks, &last, 1).await;
    drop_and_forget(chunks, &disk).await;
    let whole = std::fs::read(&pack).unwrap();
    for cut in (acknowledged..whole.len()).step_by(7) {
        let scratch = Disk::new();
        std::fs::create_dir(scratch.folder.path().join("chunks")).unwrap();
        let path = scratch.folder.path().join("chunks").join(pack.file_name().unwrap());
        std::fs::write(&path, &whole[..acknowledged]).unwrap();
        close(scratch.open_any().await.0).await;
        std::fs::write(&path, &whole[..cut]).unwrap();
        let (chunks, recovery) = scratch.open_any().await;
        assert_eq!(recovery.damage, [], "cut at {cut}");
        assert_eq!(recovery.torn_bytes > 0, cut > acknowledged, "cut at {cut}");
        assert_eq!(chunks.get(first.0).await.unwrap().as_ref(), Some(&first.1));
        assert_eq!(chunks.get(last.0).await.unwrap(), None);
        assert_eq!(put(&chunks, &last, 1).await, Put::Stored);
        close(chunks).await;
        let chunks = scratch.open().await;
        assert_eq!(chunks.get(last.0).await.unwrap().as_ref(), Some(&last.1));
    }
}

#[tokio::test]
async fn damage_before_an_acknowledged_batch_is_told_from_a_torn_tail() {
    let disk = Disk::new();
    let chunks = disk.open().await;
    let cases: Vec<_> = (0..3).map(|seed| chunk(seed, 500)).collect();
    close(chunks).await;
    let chunks = disk.open().await;
    for case in &cases {
        put(&chunks, case, 6).await;
    }
    drop_and_forget(chunks, &disk).await;
    // The second chunk's bytes, and the first one's header.
    disk.flip(0, 64 + 588 + 100);
    disk.flip(0, 64 + 10);
    let (chunks, recovery) = disk.open_any().await;
    let expected =
        [PackDamage::Unreadable { pack: 0, offset: 64, bytes: 588 }, PackDamage::Chunk { hash: cases[1].0 }];
    assert_eq!((&recovery.damage[..], recovery.torn_bytes), (&expected[..], 0));
    assert_eq!(chunks.get(cases[0].0).await.unwrap(), None, "nothing says that it was there");
    assert_eq!(chunks.list_damaged(None, 10).await.unwrap(), [cases[1].0]);
    assert_eq!(chunks.get(cases[2].0).await.unwrap().as_ref(), Some(&cases[2].1));
}

#[tokio::test]
async fn a_lost_pack_is_reported_and_its_chunks_can_be_put_again() {
    let disk = Disk::new();
    let chunks = disk.open().await;
    let cases: Vec<_> = (0..40).map(|seed| chunk(seed, 4000)).collect();
    for case in &cases {
        put(&chunks, case, 1).await;
    }
    close(chunks).await;
    std::fs::remove_file(&disk.packs()[1]).unwrap();
    let (chunks, recovery) = disk.open_any().await;
    assert_eq!(recovery.damage, [PackDamage::Missing { pack: 1 }]);
    let damaged = chunks.scrub_next(None, u64::MAX).await.unwrap().damaged;
    assert!(!damaged.is_empty());
    for case in &cases {
        let expected = if damaged.contains(&case.0) { Put::Stored } else { Put::Had };
        assert_eq!(put(&chunks, case, 1).await, expected);
        assert_eq!(chunks.get(case.0).await.unwrap().as_ref(), Some(&case.1));
    }
}

#[tokio::test]
async fn compaction_saves_chunks_whose_headers_are_damaged_and_leaves_damaged_ones_to_repair() {
    let disk = Disk::new();
    let chunks = disk.open().await;
    let cases: Vec<_> = (0..40).map(|seed| chunk(seed, 4000)).collect();
    for case in &cases {
        put(&chunks, case, 1).await;
    }
    disk.flip(0, 64 + 10); // the header of the first
    disk.flip(0, 64 + 4088 + 100); // the bytes of the second
    for (hash, _) in &cases[2..14] {
        assert!(chunks.remove_if(*hash, 1).await.unwrap());
    }
    compact(&chunks).await;
    assert!(disk.packs()[0].ends_with("0000000000000001.pack"), "the first pack is gone");
    assert_eq!(chunks.get(cases[0].0).await.unwrap().as_ref(), Some(&cases[0].1));
    assert_eq!(chunks.list_damaged(None, 10).await.unwrap(), [cases[1].0]);
    assert_eq!(put(&chunks, &cases[1], 1).await, Put::Stored);
    assert_eq!(chunks.get(cases[1].0).await.unwrap().as_ref(), Some(&cases[1].1));
}
