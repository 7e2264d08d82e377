//! Chunks on real files: what they promise when nothing breaks, and when bytes do.
//! The crash storms are in `tests/storms.rs`.

use std::sync::Arc;

use atoll_runtime::Runtime;
use atoll_types::{ByteSize, ChunkHash, Slot};
use bytes::Bytes;
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{ChunkError, ChunkRecovery, ChunkSettings, ChunkStore, Put};
use crate::{MemoryStore, OrderedStore, RealFiles};

/// A disk in a temporary folder, and an index that outlives the store.
struct Disk {
    folder: tempfile::TempDir,
    index: MemoryStore,
    settings: ChunkSettings,
}

impl Disk {
    fn new() -> Self {
        let settings = ChunkSettings {
            pack_bytes_max: 64 << 10,
            reserve_percent: 0,
            reserve_bytes_min: ByteSize::mib(1),
        };
        Self { folder: tempfile::tempdir().unwrap(), index: MemoryStore::new(), settings }
    }

    async fn try_open(&self) -> Result<(ChunkStore, ChunkRecovery), ChunkError> {
        let runtime = Runtime::tokio();
        let files = Arc::new(RealFiles::open(self.folder.path(), runtime.clone()).unwrap());
        ChunkStore::open(files, Arc::new(self.index.clone()), runtime, self.settings.clone()).await
    }

    /// Opens and expects a sound disk.
    async fn open(&self) -> ChunkStore {
        let (chunks, recovery) = self.try_open().await.unwrap();
        assert_eq!((&recovery.damage[..], recovery.torn_bytes), (&[][..], 0));
        chunks
    }

    fn packs(&self) -> Vec<std::path::PathBuf> {
        let mut packs: Vec<_> = std::fs::read_dir(self.folder.path().join("chunks"))
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect();
        packs.sort();
        packs
    }
}

fn chunk(seed: u64, len: usize) -> (ChunkHash, Bytes) {
    let mut bytes = vec![0; len];
    StdRng::seed_from_u64(seed).fill(&mut bytes[..]);
    (ChunkHash::of(&bytes), bytes.into())
}

async fn close(chunks: ChunkStore) {
    chunks.close().await.unwrap();
}

async fn stamp(chunks: &ChunkStore, hash: ChunkHash) -> Option<u64> {
    let found = chunks.list(hash.slot(), None, 1000).await.unwrap();
    found.into_iter().find(|info| info.hash == hash).map(|info| info.stamp)
}

#[tokio::test]
async fn a_chunk_is_read_back_under_its_name_and_is_there_after_a_restart() {
    let disk = Disk::new();
    let mut chunks = disk.open().await;
    let cases = [chunk(1, 0), chunk(2, 1), chunk(3, 100), chunk(4, 70_000), chunk(5, 300_000)];
    for (hash, bytes) in &cases {
        assert_eq!(chunks.get(*hash).await.unwrap(), None);
        assert_eq!(chunks.put(*hash, bytes.clone(), 3).await.unwrap(), Put::Stored);
        assert_eq!(chunks.put(*hash, bytes.clone(), 3).await.unwrap(), Put::Had);
        assert!(chunks.contains(*hash).await.unwrap());
    }
    for reopened in [false, true] {
        if reopened {
            chunks.close().await.unwrap();
            drop(chunks);
            chunks = disk.open().await;
        }
        for (hash, bytes) in &cases {
            assert_eq!(chunks.get(*hash).await.unwrap().as_ref(), Some(bytes));
            assert_eq!(stamp(&chunks, *hash).await, Some(3));
        }
        assert_eq!(chunks.usage().chunks, 5);
    }
}
