//! What shards cost: idle ones, and busy ones. On three nodes in one process, over the
//! in-memory network; state and log in memory or in a folder.
//!
//! ```text
//! cargo run --release -p atoll-records --example load -- idle 1000
//! cargo run --release -p atoll-records --example load -- writes NODES SHARDS CLIENTS [FOLDER]
//! cargo run --release -p atoll-records --example load -- reads NODES SHARDS CLIENTS [FOLDER]
//! ```
#![allow(clippy::disallowed_methods, reason = "a program of its own, not part of a node")]

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use atoll_disk::{
    Files, FjallStore, LogSettings, MemoryDisk, MemoryStore, OrderedStore, RealFiles, SharedLog, StoreError,
};
use atoll_records::{
    Command, Procedures, Query, ReadView, Records, RecordsParts, ReplicaAddress, Role, ShardMap,
    ShardReplicas, Verdict, WriteView,
};
use atoll_runtime::{Runtime, watch};
use atoll_transport::{Admission, Protocol, memory::MemoryNetwork};
use atoll_types::{NodeId, ReplicaId, ShardId};
use bytes::Bytes;

struct AdmitAll;

impl Admission for AdmitAll {
    fn admits(&self, _peer: &NodeId, _protocol: Protocol) -> bool {
        true
    }
}

struct Put;

impl Command for Put {
    fn apply(&self, view: &mut dyn WriteView, input: &[u8]) -> Result<Verdict, StoreError> {
        let (key, value) = input.split_at(8);
        view.put(key, Bytes::copy_from_slice(value));
        Ok(Verdict::Commit(Vec::new()))
    }
}

struct Get;

impl Query for Get {
    fn run(&self, view: &dyn ReadView, input: &[u8]) -> Result<Vec<u8>, StoreError> {
        Ok(view.get(input)?.map(Vec::from).unwrap_or_default())
    }
}

/// Processor time that this process has used.
fn processor_time() -> Duration {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux tells");
    let after_name = stat.rsplit(')').next().expect("the name is in brackets");
    let fields: Vec<&str> = after_name.split_whitespace().collect();
    // utime and stime, in hundredths of a second.
    let ticks = |at: usize| fields[at].parse::<u64>().expect("a number");
    Duration::from_millis((ticks(11) + ticks(12)) * 10)
}

fn node_id(number: u64) -> NodeId {
    NodeId([number as u8; 32])
}

fn replica(shard: u64, node: u64) -> ReplicaId {
    ReplicaId(shard * 100 + node)
}

async fn start(nodes: u64, shards: u64, folder: Option<&Path>) -> Vec<Records> {
    let runtime = Runtime::tokio();
    let network = MemoryNetwork::perfect();
    let voters = |shard: u64| -> Vec<ReplicaAddress> {
        (1..=nodes)
            .map(|node| ReplicaAddress { replica: replica(shard, node), node: node_id(node) })
            .collect()
    };
    let map = (1..=shards)
        .map(|shard| (ShardId(shard as u32), ShardReplicas { voters: voters(shard), learners: Vec::new() }))
        .collect();
    let map = watch::Sender::new(Arc::new(ShardMap { version: 1, shards: map }));
    let mut all = Vec::new();
    for node in 1..=nodes {
        let transport = network.endpoint(node_id(node), runtime.clone());
        transport.set_admission(Arc::new(AdmitAll));
        let mut procedures = Procedures::default();
        procedures.command("load/put/1", Put).query("load/get/1", Get);
        let (files, store): (Arc<dyn Files>, Arc<dyn OrderedStore>) = match folder {
            Some(folder) => {
                let folder = folder.join(node.to_string());
                std::fs::create_dir_all(&folder).expect("a folder for the node");
                let files = RealFiles::open(&folder, runtime.clone()).expect("its files");
                let store = FjallStore::open(&folder.join("store")).expect("its store");
                (Arc::new(files), Arc::new(store))
            }
            None => (Arc::new(MemoryDisk::new(node).files(&runtime)), Arc::new(MemoryStore::new())),
        };
        let (log, recovery) =
            SharedLog::open(files, runtime.clone(), LogSettings::default()).await.expect("its log");
        let parts = RecordsParts {
            runtime: runtime.clone(),
            transport,
            store,
            log,
            recovery,
            procedures,
            map: map.subscribe(),
        };
        let records = Records::start(parts).await.expect("its records");
        for shard in 1..=shards {
            records
                .create_replica(ShardId(shard as u32), replica(shard, node), Some(voters(shard)))
                .await
                .expect("a replica");
        }
        all.push(records);
    }
    let mut led = 0;
    while led < shards as usize {
        tokio::time::sleep(Duration::from_millis(200)).await;
        led = 0;
        for records in &all {
            led += records.status().await.iter().filter(|status| status.role == Role::Leader).count();
        }
    }
    all
}

async fn idle(shards: u64) {
    const NODES: u64 = 3;
    const MEASURED: Duration = Duration::from_secs(20);
    let nodes = start(NODES, shards, None).await;
    println!("{shards} shards with {NODES} replicas each have leaders");
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = processor_time();
    tokio::time::sleep(MEASURED).await;
    let used = processor_time() - before;
    let share = used.as_secs_f64() / MEASURED.as_secs_f64() / NODES as f64 * 100.0;
    println!("{shards} idle replicas on a node take {share:.1} % of a core");
    drop(nodes);
}

async fn busy(reads: bool, nodes: u64, shards: u64, clients: u64, folder: Option<&Path>) {
    const MEASURED: Duration = Duration::from_secs(8);
    let all = start(nodes, shards, folder).await;
    let runtime = Runtime::tokio();
    let until = Instant::now() + MEASURED;
    let before = processor_time();
    let tasks: Vec<_> = (0..clients)
        .map(|client| {
            let records = all[(client % nodes) as usize].clone();
            let runtime = runtime.clone();
            tokio::spawn(async move {
                let mut times = Vec::new();
                let mut number = client;
                while Instant::now() < until {
                    let begun = Instant::now();
                    number = number.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
                    let shard = ShardId((number >> 33) as u32 % shards as u32 + 1);
                    let key = (number >> 40).to_be_bytes();
                    let deadline = runtime.now() + Duration::from_secs(10);
                    if reads {
                        let key = Bytes::copy_from_slice(&key);
                        records.query(shard, "load/get/1", key, deadline).await.expect("a read");
                    } else {
                        let input = Bytes::from([&key[..], &[7; 512]].concat());
                        let id = runtime.transaction_id();
                        records.execute(shard, id, "load/put/1", input, deadline).await.expect("a write");
                    }
                    times.push(begun.elapsed());
                }
                times
            })
        })
        .collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.expect("a client"));
    }
    let used = processor_time() - before;
    times.sort_unstable();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!(
        "{} {}/s, p50 {:?}, p99 {:?}, {:.0} µs of processor each",
        if reads { "reads" } else { "writes" },
        times.len() as u64 / MEASURED.as_secs(),
        at(0.5),
        at(0.99),
        used.as_micros() as f64 / times.len() as f64
    );
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |at: usize| arguments.get(at).and_then(|text| text.parse().ok()).expect("a number");
    let folder = arguments.get(4).map(PathBuf::from);
    match arguments.first().map(String::as_str) {
        Some("idle") => idle(number(1)).await,
        Some("writes") => busy(false, number(1), number(2), number(3), folder.as_deref()).await,
        Some("reads") => busy(true, number(1), number(2), number(3), folder.as_deref()).await,
        _ => eprintln!("idle SHARDS | writes|reads NODES SHARDS CLIENTS [FOLDER]"),
    }
}
