//! Measures what `src/chunks.rs` and `src/store/lsm.rs` say of themselves. Run it on the
//! disk in question:
//!
//! ```text
//! cargo run --release -p atoll-disk --example measure -- FOLDER [chunks|store]
//! ```
//!
//! - Chunks stored durably, by packs and by the other way that rule 8 allows: temporaries
//!   made durable by one shared flush, renamed, their folder flushed.
//! - Chunks read and verified from the page cache.
//! - Memory and time to open with a million records and a million chunks in the index.

// The clock, and the printing, are the point.
#![allow(clippy::disallowed_methods)]

use std::{io::Write, os::fd::AsFd, path::Path, sync::Arc, time::Instant};

use atoll_disk::{ChunkSettings, ChunkStore, FjallStore, OrderedStore, RealFiles, Table, WriteBatch};
use atoll_runtime::Runtime;
use atoll_types::{ByteSize, ChunkHash};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use rand::{Rng, SeedableRng, rngs::StdRng};

/// Chunks being stored at any time.
const IN_FLIGHT: usize = 64;

#[tokio::main(flavor = "multi_thread")]
async fn main() {
    let folder = std::env::args().nth(1).expect("a folder to measure in");
    let given = Path::new(&folder);
    let folder = given.join(format!("atoll-measure-{}", std::process::id()));
    let part = std::env::args().nth(2).unwrap_or_default();
    if part == "reopen" {
        return reopen_the_store(given);
    }
    if part != "store" {
        measure_chunks(&folder).await;
    }
    if part != "chunks" {
        fill_the_store(&folder.join("store"));
    }
    std::fs::remove_dir_all(&folder).expect("the folder was ours");
}

async fn measure_chunks(folder: &Path) {
    println!("{:<44} {:>10} {:>10}", "", "MiB/s", "chunks/s");
    for (count, len) in [(512, 1 << 20), (8192, 16 << 10), (8192, 1 << 10)] {
        let chunks = random_chunks(count, len);
        let size = ByteSize(len as u64);
        let packs = store_in_packs(&folder.join("packs"), &chunks).await;
        report(&format!("{count} of {size} into packs"), count, len, packs);
        let temporaries = store_as_files(&folder.join("files"), &chunks);
        report(&format!("{count} of {size} as renamed temporaries"), count, len, temporaries);
        println!("{:<44} {:>10.1}", "packs are faster by", temporaries / packs);
    }
    read_from_packs(&folder.join("packs")).await;
}

fn report(what: &str, count: usize, len: usize, seconds: f64) {
    let mib = (count * len) as f64 / f64::from(1 << 20);
    println!("{what:<44} {:>10.0} {:>10.0}", mib / seconds, count as f64 / seconds);
}

fn random_chunks(count: usize, len: usize) -> Vec<(ChunkHash, Bytes)> {
    let mut rng = StdRng::seed_from_u64(len as u64);
    (0..count)
        .map(|_| {
            let mut bytes = vec![0; len];
            rng.fill(&mut bytes[..]);
            (ChunkHash::of(&bytes), bytes.into())
        })
        .collect()
}

async fn open(folder: &Path) -> ChunkStore {
    let runtime = Runtime::tokio();
    let files = Arc::new(RealFiles::open(folder, runtime.clone()).expect("opens"));
    let store = Arc::new(FjallStore::open(&folder.join("store")).expect("opens"));
    let settings = ChunkSettings { reserve_bytes_min: ByteSize::mib(1), ..ChunkSettings::default() };
    ChunkStore::open(files, store, runtime, settings).await.expect("opens").0
}

async fn store_in_packs(folder: &Path, chunks: &[(ChunkHash, Bytes)]) -> f64 {
    let store = open(folder).await;
    let start = Instant::now();
    stream::iter(chunks)
        .for_each_concurrent(IN_FLIGHT, |(hash, bytes)| {
            let (store, hash, bytes) = (store.clone(), *hash, bytes.clone());
            async move {
                store.put_verified(hash, bytes, 1).await.expect("stored");
            }
        })
        .await;
    let seconds = start.elapsed().as_secs_f64();
    store.close().await.expect("closes");
    seconds
}

fn store_as_files(folder: &Path, chunks: &[(ChunkHash, Bytes)]) -> f64 {
    std::fs::create_dir_all(folder).expect("created");
    let start = Instant::now();
    let folder_file = std::fs::File::open(folder).expect("opens");
    for group in chunks.chunks(IN_FLIGHT) {
        for (hash, bytes) in group {
            let mut file = std::fs::File::create(folder.join(format!("{hash}.tmp"))).expect("created");
            file.write_all(bytes).expect("written");
        }
        // One flush for all: nothing narrower than the file system takes several files.
        nix::unistd::syncfs(folder_file.as_fd()).expect("flushed");
        for (hash, _) in group {
            std::fs::rename(folder.join(format!("{hash}.tmp")), folder.join(hash.to_string()))
                .expect("renamed");
        }
        folder_file.sync_all().expect("flushed");
    }
    start.elapsed().as_secs_f64()
}

async fn read_from_packs(folder: &Path) {
    let store = open(folder).await;
    let chunks = random_chunks(512, 1 << 20);
    for in_flight in [1, 4] {
        let start = Instant::now();
        stream::iter(&chunks[..256])
            .map(|(hash, _)| {
                let (store, hash) = (store.clone(), *hash);
                Runtime::tokio().spawn("read", async move { store.get(hash).await })
            })
            .buffered(in_flight)
            .for_each(|bytes| async move {
                bytes.expect("not aborted").expect("read").expect("stored before");
            })
            .await;
        report(
            &format!("256 of 1 MiB read, {in_flight} at a time"),
            256,
            1 << 20,
            start.elapsed().as_secs_f64(),
        );
    }
    store.close().await.expect("closes");
}

fn fill_the_store(folder: &Path) {
    let store = FjallStore::open(folder).expect("opens");
    println!("memory with an empty store: {}", resident());
    let start = Instant::now();
    let mut rng = StdRng::seed_from_u64(0);
    for n in 0..10_000u64 {
        let mut batch = WriteBatch::default();
        for m in 0..100u64 {
            let key = format!("{:016x}/bucket/objects/{:08}", n % 65, n * 100 + m);
            batch.put(Table::Records, key, rng.random::<[u8; 32]>().repeat(4));
            batch.put(Table::Chunks, rng.random::<[u8; 32]>().to_vec(), rng.random::<[u8; 20]>().to_vec());
        }
        store.write(batch).expect("written");
    }
    store.flush().expect("flushed");
    println!("a million records and index entries written in {:.1} s", start.elapsed().as_secs_f64());
    println!("memory after it: {}", resident());
    drop(store);
    // By itself, because freed memory stays with the process for a while.
    let program = std::env::current_exe().expect("this program");
    let status = std::process::Command::new(program).arg(folder).arg("reopen").status().expect("starts");
    assert!(status.success());
}

fn reopen_the_store(folder: &Path) {
    let start = Instant::now();
    let store = FjallStore::open(folder).expect("opens");
    println!("opened again in {:.2} s; memory: {}", start.elapsed().as_secs_f64(), resident());
    let view = store.snapshot().expect("a snapshot");
    let start = Instant::now();
    let mut count = 0;
    for pair in view.range(Table::Records, std::ops::Bound::Unbounded, std::ops::Bound::Unbounded) {
        pair.expect("read");
        count += 1;
    }
    println!(
        "{count} records read in order in {:.1} s; memory: {}",
        start.elapsed().as_secs_f64(),
        resident()
    );
}

fn resident() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("unknown");
    line.trim().to_string()
}
