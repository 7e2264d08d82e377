//! Chunks on real files: what they promise when nothing breaks, when bytes do, and when
//! the index forgets. Crash storms: `crates/atoll-simulation/tests/chunks.rs`.

mod damage;
mod watched;

use std::{path::PathBuf, sync::Arc};

use atoll_runtime::Runtime;
use atoll_types::{ByteSize, ChunkHash, Slot};
use bytes::Bytes;
use futures_util::future::join_all;
use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use super::{CHUNK_BYTES_MAX, ChunkError, ChunkRecovery, ChunkSettings, ChunkStore, Put};
use crate::{MemoryStore, RealFiles};
use watched::Watched;

/// A disk in a temporary folder, and an index that outlives the store.
struct Disk {
    folder: tempfile::TempDir,
    index: MemoryStore,
    settings: ChunkSettings,
    watched: Watched,
}

impl Disk {
    fn new() -> Self {
        let settings = ChunkSettings {
            pack_bytes_max: 64 << 10,
            reserve_percent: 0,
            reserve_bytes_min: ByteSize::mib(1),
        };
        let folder = tempfile::tempdir().unwrap();
        Self { folder, index: MemoryStore::new(), settings, watched: Watched::default() }
    }

    async fn open_any(&self) -> (ChunkStore, ChunkRecovery) {
        let runtime = Runtime::tokio();
        let files = RealFiles::open(self.folder.path(), runtime.clone()).unwrap();
        let files = self.watched.over(Arc::new(files));
        ChunkStore::open(files, Arc::new(self.index.clone()), runtime, self.settings.clone()).await.unwrap()
    }

    /// Opens and expects a sound disk.
    async fn open(&self) -> ChunkStore {
        let (chunks, recovery) = self.open_any().await;
        assert_eq!((&recovery.damage[..], recovery.torn_bytes), (&[][..], 0));
        chunks
    }

    /// Every pack file, in order.
    fn packs(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.folder.path().join("chunks")).unwrap();
        let mut packs: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        packs.sort();
        packs
    }

    fn flip(&self, pack: usize, offset: usize) {
        let path = &self.packs()[pack];
        let mut bytes = std::fs::read(path).unwrap();
        bytes[offset] ^= 0x10;
        std::fs::write(path, bytes).unwrap();
    }
}

fn chunk(seed: u64, len: usize) -> (ChunkHash, Bytes) {
    let mut bytes = vec![0; len];
    StdRng::seed_from_u64(seed).fill(&mut bytes[..]);
    (ChunkHash::of(&bytes), bytes.into())
}

async fn put(chunks: &ChunkStore, (hash, bytes): &(ChunkHash, Bytes), stamp: u64) -> Put {
    chunks.put(*hash, bytes.clone(), stamp).await.unwrap()
}

/// Closes the store and lets go of its files.
async fn close(chunks: ChunkStore) {
    chunks.close().await.unwrap();
}

async fn stamp(chunks: &ChunkStore, hash: ChunkHash) -> Option<u64> {
    let found = chunks.list(hash.slot(), None, 1000).await.unwrap();
    found.into_iter().find(|info| info.hash == hash).map(|info| info.stamp)
}

/// Compacts until nothing is worth it.
async fn compact(chunks: &ChunkStore) {
    for _ in 0..10_000 {
        if chunks.compact_next(10_000).await.unwrap().is_none() {
            return;
        }
    }
    panic!("compaction does not end");
}

#[tokio::test]
async fn a_chunk_is_read_back_under_its_name_and_is_there_after_a_restart() {
    let disk = Disk::new();
    let mut chunks = disk.open().await;
    let cases = [chunk(1, 0), chunk(2, 1), chunk(3, 100), chunk(4, 70_000), chunk(5, 300_000)];
    for case in &cases {
        assert_eq!(chunks.get(case.0).await.unwrap(), None);
        assert!(!chunks.contains(case.0).await.unwrap());
        assert_eq!(put(&chunks, case, 3).await, Put::Stored);
        assert_eq!(put(&chunks, case, 3).await, Put::Had);
        assert!(chunks.contains(case.0).await.unwrap());
    }
    for reopened in [false, true] {
        if reopened {
            close(chunks).await;
            chunks = disk.open().await;
        }
        for (hash, bytes) in &cases {
            assert_eq!(chunks.get(*hash).await.unwrap().as_ref(), Some(bytes));
            assert_eq!(stamp(&chunks, *hash).await, Some(3));
        }
        assert_eq!(chunks.usage().chunks, 5);
    }
}

#[tokio::test]
async fn bytes_under_another_name_or_too_many_of_them_are_refused() {
    let disk = Disk::new();
    let chunks = disk.open().await;
    let (hash, bytes) = chunk(1, 50_000);
    let error = chunks.put(hash, bytes.slice(1..), 0).await.unwrap_err();
    assert!(matches!(error, ChunkError::WrongHash { claimed, .. } if claimed == hash));
    assert_eq!(chunks.get(hash).await.unwrap(), None);
    let error = chunks.put(hash, vec![0; CHUNK_BYTES_MAX + 1].into(), 0).await.unwrap_err();
    assert!(matches!(error, ChunkError::TooLarge { .. }));
}

#[tokio::test]
async fn a_stamp_only_rises_and_by_whatever_asks_for_more() {
    let disk = Disk::new();
    let chunks = disk.open().await;
    let case = chunk(1, 10);
    let hash = case.0;
    assert!(!chunks.raise_stamp(hash, 1).await.unwrap());
    put(&chunks, &case, 5).await;
    put(&chunks, &case, 3).await;
    assert_eq!(stamp(&chunks, hash).await, Some(5));
    put(&chunks, &case, 6).await;
    assert_eq!(stamp(&chunks, hash).await, Some(6));
    assert!(chunks.raise_stamp(hash, 9).await.unwrap());
    assert!(chunks.raise_stamp(hash, 2).await.unwrap());
    assert_eq!(stamp(&chunks, hash).await, Some(9));
}

#[tokio::test]
async fn a_removal_asks_the_stamp_and_the_chunk_can_be_put_again() {
    let disk = Disk::new();
    let chunks = disk.open().await;
    let case = chunk(1, 10);
    let hash = case.0;
    assert!(!chunks.remove_if(hash, 100).await.unwrap());
    put(&chunks, &case, 5).await;
    assert!(!chunks.remove_if(hash, 4).await.unwrap());
    assert!(chunks.contains(hash).await.unwrap());
    assert!(chunks.remove_if(hash, 5).await.unwrap());
    assert_eq!(chunks.get(hash).await.unwrap(), None);
    assert!(!chunks.remove_if(hash, 5).await.unwrap());
    assert_eq!(put(&chunks, &case, 1).await, Put::Stored);
    assert_eq!(stamp(&chunks, hash).await, Some(1), "the old stamp went with the old chunk");
}

#[tokio::test]
async fn removals_of_many_share_their_flushes_and_ask_each_stamp() {
    let disk = Disk::new();
    let chunks = disk.open().await;
    let cases: Vec<_> = (0..300).map(|seed| chunk(seed, 50)).collect();
    join_all(cases.iter().enumerate().map(|(n, case)| put(&chunks, case, n as u64 % 3))).await;
    let before = disk.watched.flushes();
    let hashes: Vec<_> = cases.iter().map(|case| case.0).collect();
    assert_eq!(chunks.remove_all_if(&hashes, 1).await.unwrap(), 200);
    assert_eq!(chunks.remove_all_if(&hashes, 1).await.unwrap(), 0);
    assert!(disk.watched.flushes() - before <= 10);
    assert_eq!(chunks.usage().chunks, 100);
}

#[tokio::test]
async fn more_packs_than_may_be_open_are_all_read() {
    let mut disk = Disk::new();
    disk.settings.pack_bytes_max = 1;
    let chunks = disk.open().await;
    let cases: Vec<_> = (0..150).map(|seed| chunk(seed, 50)).collect();
    for case in &cases {
        put(&chunks, case, 1).await;
    }
    assert_eq!(disk.packs().len(), 150);
    for case in &cases {
        assert_eq!(chunks.get(case.0).await.unwrap().as_ref(), Some(&case.1));
    }
    close(chunks).await;
    assert_eq!(disk.open().await.usage().chunks, 150);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunk_put_again_while_it_is_being_removed_survives() {
    let disk = Disk::new();
    let chunks = disk.open().await;
    let case = chunk(1, 5000);
    let hash = case.0;
    for round in 1..300 {
        let others: Vec<_> = (0..3).map(|n| chunk(1000 + 3 * round + n, 100)).collect();
        let (had, removed, ..) = tokio::join!(
            put(&chunks, &case, round),
            chunks.remove_if(hash, round - 1),
            join_all(others.iter().map(|other| put(&chunks, other, round))),
        );
        let found = chunks.get(hash).await.unwrap();
        assert_eq!(found.as_ref(), Some(&case.1), "round {round}: {had:?}, removed: {removed:?}");
        assert_eq!(stamp(&chunks, hash).await, Some(round));
    }
}

#[tokio::test]
async fn puts_that_wait_share_a_flush() {
    let disk = Disk::new();
    let chunks = disk.open().await;
    let before = disk.watched.flushes();
    let cases: Vec<_> = (0..200).map(|seed| chunk(seed, 200)).collect();
    join_all(cases.iter().map(|case| put(&chunks, case, 1))).await;
    let flushes = disk.watched.flushes() - before;
    assert!(flushes <= 20, "{flushes} flushes for 200 puts");
    for (hash, bytes) in &cases {
        assert_eq!(chunks.get(*hash).await.unwrap().as_ref(), Some(bytes));
    }
}

#[tokio::test]
async fn a_slot_is_listed_in_hash_order_page_by_page() {
    let disk = Disk::new();
    let chunks = disk.open().await;
    let cases: Vec<_> = (0..300).map(|seed| chunk(seed, 20)).collect();
    join_all(cases.iter().map(|case| put(&chunks, case, 1))).await;
    let mut listed = Vec::new();
    for slot in Slot::all() {
        let mut after = None;
        loop {
            let page = chunks.list(slot, after, 1).await.unwrap();
            let Some(info) = page.first() else { break };
            assert_eq!((info.hash.slot(), info.len, info.damaged), (slot, 20, false));
            after = Some(info.hash);
            listed.push(info.hash);
        }
    }
    let mut expected: Vec<_> = cases.iter().map(|(hash, _)| *hash).collect();
    expected.sort();
    assert_eq!(listed, expected);
}

#[tokio::test]
async fn a_full_disk_takes_no_chunks_but_stamps_and_removals() {
    let mut disk = Disk::new();
    let kept = chunk(1, 1000);
    let chunks = disk.open().await;
    put(&chunks, &kept, 1).await;
    close(chunks).await;
    disk.settings.reserve_bytes_min = ByteSize(u64::MAX / 2);
    let chunks = disk.open().await;
    let (hash, bytes) = chunk(2, 1000);
    assert!(matches!(chunks.put(hash, bytes, 1).await, Err(ChunkError::Full { .. })));
    assert_eq!(put(&chunks, &kept, 2).await, Put::Had);
    assert!(chunks.raise_stamp(kept.0, 3).await.unwrap());
    assert!(chunks.remove_if(kept.0, 3).await.unwrap());
}

#[tokio::test]
async fn compaction_gives_space_back_and_keeps_what_is_live() {
    let disk = Disk::new();
    let chunks = disk.open().await;
    let cases: Vec<_> = (0..200).map(|seed| chunk(seed, 4000)).collect();
    for cases in cases.chunks(10) {
        join_all(cases.iter().map(|case| put(&chunks, case, 1))).await;
    }
    let full = chunks.usage();
    assert_eq!((full.chunks, full.packs > 8), (200, true));
    assert_eq!(chunks.compact_next(1 << 20).await.unwrap(), None, "nothing is dead");

    let (live, dead): (Vec<_>, Vec<_>) = cases.iter().enumerate().partition(|(n, _)| n % 4 == 0);
    for (_, (hash, _)) in &dead {
        assert!(chunks.remove_if(*hash, 1).await.unwrap());
    }
    for (_, (hash, _)) in &live {
        assert!(chunks.raise_stamp(*hash, 7).await.unwrap());
    }
    compact(&chunks).await;
    let usage = chunks.usage();
    assert_eq!(usage.chunks, 50);
    assert!(usage.live_bytes + usage.dead_bytes < full.live_bytes / 2, "{usage:?}");
    let on_disk: u64 = disk.packs().iter().map(|pack| pack.metadata().unwrap().len()).sum();
    assert!(on_disk <= usage.live_bytes + usage.dead_bytes, "{on_disk} bytes for {usage:?}");

    close(chunks).await;
    let chunks = disk.open().await;
    assert_eq!(chunks.usage(), usage);
    for (_, (hash, bytes)) in &live {
        assert_eq!(chunks.get(*hash).await.unwrap().as_ref(), Some(bytes));
        assert_eq!(stamp(&chunks, *hash).await, Some(7));
    }
    for (_, (hash, _)) in &dead {
        assert_eq!(chunks.get(*hash).await.unwrap(), None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chunk_is_readable_at_every_moment_of_a_compaction() {
    let disk = Disk::new();
    let chunks = disk.open().await;
    let cases: Vec<_> = (0..60).map(|seed| chunk(seed, 20_000)).collect();
    for case in &cases {
        put(&chunks, case, 1).await;
    }
    let readers: Vec<_> = (0..3)
        .map(|seed| {
            let (chunks, cases) = (chunks.clone(), cases.clone());
            Runtime::tokio().spawn("reader", async move {
                let mut rng = StdRng::seed_from_u64(seed);
                for _ in 0..600 {
                    let (hash, bytes) = cases[..20].choose(&mut rng).unwrap();
                    assert_eq!(chunks.get(*hash).await.unwrap().as_ref(), Some(bytes));
                }
            })
        })
        .collect();
    // Interleaved, so that every pack has live and dead.
    for (n, (hash, _)) in cases.iter().enumerate().skip(20) {
        chunks.remove_if(*hash, 1).await.unwrap();
        if n % 3 == 0 {
            chunks.compact_next(30_000).await.unwrap();
        }
    }
    compact(&chunks).await;
    for reader in readers {
        reader.await.expect("no reader failed");
    }
}

#[tokio::test]
async fn a_store_that_was_closed_reads_nothing_at_its_next_start_and_goes_on_in_its_pack() {
    let disk = Disk::new();
    for round in 0..5 {
        let (chunks, recovery) = disk.open_any().await;
        assert_eq!((recovery.records, recovery.rebuilt), (0, false));
        put(&chunks, &chunk(round, 100), 1).await;
        close(chunks).await;
    }
    assert_eq!(disk.packs().len(), 1);
}

#[tokio::test]
async fn after_close_changes_are_refused() {
    let disk = Disk::new();
    let chunks = disk.open().await;
    let (hash, bytes) = chunk(1, 10);
    chunks.close().await.unwrap();
    assert!(matches!(chunks.put(hash, bytes, 1).await, Err(ChunkError::Closed)));
}

#[tokio::test]
async fn a_failed_write_is_an_error_and_the_store_goes_on() {
    let disk = Disk::new();
    let chunks = disk.open().await;
    let (before, failed, after) = (chunk(1, 3000), chunk(2, 3000), chunk(3, 3000));
    put(&chunks, &before, 1).await;
    disk.watched.fail_next("write");
    assert!(matches!(chunks.put(failed.0, failed.1.clone(), 1).await, Err(ChunkError::Disk(_))));
    assert_eq!(chunks.get(failed.0).await.unwrap(), None);
    put(&chunks, &after, 1).await;
    drop_and_forget(chunks, &disk).await;
    let chunks = disk.open().await;
    assert_eq!(chunks.get(before.0).await.unwrap(), Some(before.1));
    assert_eq!(chunks.get(failed.0).await.unwrap(), None);
    assert_eq!(chunks.get(after.0).await.unwrap(), Some(after.1));
}

#[tokio::test]
async fn after_a_failed_flush_nothing_is_written_until_the_next_start() {
    let disk = Disk::new();
    let chunks = disk.open().await;
    let (before, failed, after) = (chunk(1, 3000), chunk(2, 3000), chunk(3, 3000));
    put(&chunks, &before, 1).await;
    disk.watched.fail_next("sync");
    assert!(matches!(chunks.put(failed.0, failed.1.clone(), 1).await, Err(ChunkError::Disk(_))));
    let error = chunks.put(after.0, after.1.clone(), 1).await.unwrap_err();
    assert!(matches!(error, ChunkError::Stopped { .. }), "{error}");
    assert!(chunks.failed().await.contains("chunk packs"), "it asks to be started again");
    assert!(matches!(chunks.remove_if(before.0, 9).await, Err(ChunkError::Stopped { .. })));
    assert_eq!(chunks.get(before.0).await.unwrap().as_ref(), Some(&before.1));
    drop_and_forget(chunks, &disk).await;
    let (chunks, recovery) = disk.open_any().await;
    assert_eq!((&recovery.damage[..], recovery.torn_bytes > 0), (&[][..], true));
    assert_eq!(chunks.get(before.0).await.unwrap(), Some(before.1));
    put(&chunks, &after, 1).await;
}

/// The process is killed, and the index falls back to its last flush.
async fn drop_and_forget(chunks: ChunkStore, disk: &Disk) {
    drop_handle(chunks, disk).await;
    disk.index.crash(&mut Zeros);
}

/// Not a close: its flush of the index would leave nothing to forget.
async fn drop_handle(chunks: ChunkStore, disk: &Disk) {
    // The writer lets go of its files when it notices that nobody can ask any more.
    drop(chunks);
    for _ in 0..10_000 {
        if RealFiles::open(disk.folder.path(), Runtime::tokio()).is_ok() {
            return;
        }
        tokio::task::yield_now().await;
    }
    panic!("the store's files stay open");
}

/// Draws the lowest of every range.
struct Zeros;

impl rand::RngCore for Zeros {
    fn next_u32(&mut self) -> u32 {
        0
    }

    fn next_u64(&mut self) -> u64 {
        0
    }

    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        bytes.fill(0);
    }
}
