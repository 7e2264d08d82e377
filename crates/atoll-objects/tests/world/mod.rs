//! Whole nodes without a gateway in one process: records, chunk stores and objects over
//! the in-memory network and disk, with a layout that the test changes.
#![allow(dead_code, reason = "each test binary uses its part of the fixture")]

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use atoll_disk::{
    ChunkSettings, ChunkStore, LogSettings, MemoryDisk, MemoryStore, OrderedStore, SharedLog, Table,
};
use atoll_objects::{
    BodyDigest, BucketName, Checksum, ChecksumAlgorithm, GetObject, GetObjectError, LayoutLink, Maintenance,
    MaintenanceSettings, MaintenanceStatus, ObjectKey, Objects, ObjectsParts, ObjectsSettings, PutBody,
    PutObject, PutObjectError, PutResult, ReportError, RootKey, SnapshotSettings, VERSIONS_SINCE,
    register_procedures,
};
use atoll_placement::{Layout, LayoutNode, LayoutSettings, NodeState, ObservedMember, PlanSettings};
use atoll_records::{Procedures, Records, RecordsParts, ReplicaAddress, ShardMap, ShardReplicas};
use atoll_runtime::{Runtime, watch};
use atoll_transport::{
    Admission, Protocol,
    memory::{LinkProfile, Links, MemoryNetwork},
};
use atoll_types::{ByteSize, ChunkHash, DiskId, NodeId, ReplicaId, Roles, ShardId, Slot, Zone};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use rand::{RngCore, SeedableRng, rngs::StdRng};

/// Bounds every wait in tests.
pub const PATIENCE: Duration = Duration::from_secs(30);
const DATA_SHARDS: u32 = 3;

struct AdmitAll;

impl Admission for AdmitAll {
    fn admits(&self, _peer: &NodeId, _protocol: Protocol) -> bool {
        true
    }
}

pub fn node_id(number: u8) -> NodeId {
    NodeId([number; 32])
}

pub struct Node {
    pub objects: Objects,
    pub records: Records,
    pub chunks: ChunkStore,
    pub maintenance: Option<Maintenance>,
}

pub struct World {
    pub runtime: Runtime,
    pub network: MemoryNetwork,
    pub links: Arc<Links>,
    pub layout: Arc<watch::Sender<Arc<Layout>>>,
    pub nodes: BTreeMap<u8, Node>,
    /// Of the nodes started from now on.
    pub patience: Duration,
    pub cluster_version: watch::Sender<u32>,
    root_keys: BTreeMap<u8, RootKey>,
    map: watch::Sender<Arc<ShardMap>>,
    disks: BTreeMap<u8, MemoryDisk>,
    stores: BTreeMap<u8, MemoryStore>,
    filled: Reports,
}

/// Who has filled which slot of which move.
type Reports = Arc<Mutex<BTreeMap<(Slot, u64), BTreeSet<NodeId>>>>;

/// Stands in for the layout's controller: a slot has moved when all that it arrives at
/// have said so.
struct Controller {
    me: NodeId,
    layout: Arc<watch::Sender<Arc<Layout>>>,
    filled: Reports,
}

#[async_trait]
impl LayoutLink for Controller {
    fn newer_layout_exists(&self, _version: u64) {}

    async fn slots_filled(&self, slots: Vec<(Slot, u64)>) -> Result<(), ReportError> {
        let mut filled = self.filled.lock().unwrap();
        self.layout.send_modify(|layout| {
            let nodes: Vec<NodeId> = layout.nodes().keys().copied().collect();
            let mut complete = Vec::new();
            for report in slots {
                let reporters = filled.entry(report).or_default();
                reporters.insert(self.me);
                let arriving = |node: &&NodeId| layout.copy_tasks(node).iter().any(|t| t.slot == report.0);
                if nodes.iter().filter(arriving).all(|node| reporters.contains(node)) {
                    complete.push(report);
                }
            }
            if let Some(next) = layout.slots_moved(&complete) {
                *layout = Arc::new(next);
            }
        });
        Ok(())
    }

    async fn slots_released(&self, slots: Vec<Slot>) -> Result<(), ReportError> {
        self.layout.send_modify(|layout| {
            if let Some(next) = layout.slots_released(&self.me, &slots) {
                *layout = Arc::new(next);
            }
        });
        Ok(())
    }
}

fn observed(number: u8) -> ObservedMember {
    ObservedMember {
        node: node_id(number),
        zone: Zone(format!("zone-{number}")),
        capacity: ByteSize::gib(1),
        disk: DiskId(number.into()),
        roles: Roles::default(),
        addresses: vec![MemoryNetwork::address(node_id(number))],
        unreachable_for: None,
        lost_replicas: BTreeSet::new(),
    }
}

fn first_layout() -> Layout {
    let ObservedMember { node, zone, capacity, disk, roles, addresses, .. } = observed(1);
    let properties = LayoutNode { zone, capacity, disk, roles, state: NodeState::Active, addresses };
    Layout::genesis(
        node,
        properties,
        LayoutSettings { data_shards: DATA_SHARDS, ..LayoutSettings::default() },
    )
}

pub fn plan(layout: &Layout, members: impl IntoIterator<Item = u8>) -> Layout {
    let members: Vec<_> = members.into_iter().map(observed).collect();
    atoll_placement::plan(layout, &members, &PlanSettings::default(), |_| ByteSize(0)).next
}

/// Finishes every move of slots at once: for a world that has no data yet.
pub fn settle(mut layout: Layout) -> Layout {
    let tasks: BTreeSet<(Slot, u64)> = layout
        .nodes()
        .keys()
        .flat_map(|node| layout.copy_tasks(node))
        .map(|task| (task.slot, task.changed))
        .collect();
    if let Some(next) = layout.slots_moved(&tasks.into_iter().collect::<Vec<_>>()) {
        layout = next;
    }
    for node in layout.nodes().keys().copied().collect::<Vec<_>>() {
        let retiring = layout.slots_of(&node).retiring;
        if let Some(next) = layout.slots_released(&node, &retiring) {
            layout = next;
        }
    }
    layout
}

impl World {
    /// One node.
    pub async fn one() -> Self {
        Self::of(1).await
    }

    /// Nodes `1..=count`, all with a voter of every shard, and the slots spread over them.
    pub async fn of(count: u8) -> Self {
        Self::with_voters(count, 1..=count).await
    }

    /// Nodes `1..=count`, of which some vote.
    pub async fn with_voters(count: u8, voters: impl IntoIterator<Item = u8>) -> Self {
        Self::with_keys(count, voters, BTreeMap::new()).await
    }

    /// The same, where some have root keys.
    pub async fn with_keys(
        count: u8,
        voters: impl IntoIterator<Item = u8>,
        root_keys: BTreeMap<u8, RootKey>,
    ) -> Self {
        let runtime = Runtime::tokio();
        let links = Arc::new(Links::new(LinkProfile::local_network()));
        let network = MemoryNetwork::new(links.clone(), StdRng::seed_from_u64(1));
        let mut layout = first_layout();
        // The planner moves in steps; without data each is settled at once.
        for _ in 0..8 {
            layout = settle(plan(&layout, 1..=count));
        }
        let voters: Vec<u8> = voters.into_iter().collect();
        let mut shards = BTreeMap::new();
        for shard in 0..=DATA_SHARDS {
            let voters = voters.iter().map(|number| replica(shard, *number)).collect();
            shards.insert(ShardId(shard), ShardReplicas { voters, learners: Vec::new() });
        }
        let mut world = Self {
            runtime,
            network,
            links,
            layout: Arc::new(watch::Sender::new(Arc::new(layout))),
            nodes: BTreeMap::new(),
            patience: PATIENCE,
            cluster_version: watch::Sender::new(VERSIONS_SINCE),
            root_keys,
            map: watch::Sender::new(Arc::new(ShardMap { version: 1, shards })),
            disks: BTreeMap::new(),
            stores: BTreeMap::new(),
            filled: Arc::default(),
        };
        for number in 1..=count {
            world.start(number).await;
        }
        world
    }

    pub async fn start(&mut self, number: u8) {
        let runtime = self.runtime.clone();
        let store = Arc::new(self.stores.entry(number).or_default().clone());
        let disk = self.disks.entry(number).or_insert_with(|| MemoryDisk::new(number.into()));
        let files = Arc::new(disk.files(&runtime));
        let settings = ChunkSettings { reserve_bytes_min: ByteSize(0), ..ChunkSettings::default() };
        let (log, recovery) =
            SharedLog::open(files.clone(), runtime.clone(), LogSettings::default()).await.unwrap();
        let (chunks, _) = ChunkStore::open(files, store.clone(), runtime.clone(), settings).await.unwrap();
        let transport = self.network.endpoint(node_id(number), runtime.clone());
        transport.set_admission(Arc::new(AdmitAll));
        let mut procedures = Procedures::default();
        register_procedures(&mut procedures);
        let records = Records::start(RecordsParts {
            runtime: runtime.clone(),
            transport: transport.clone(),
            store,
            log,
            recovery,
            procedures,
            map: self.map.subscribe(),
        })
        .await
        .unwrap();
        let shards = self.map.borrow().shards.clone();
        for (shard, replicas) in shards {
            if let Some(own) = replicas.voters.iter().find(|voter| voter.node == node_id(number)) {
                records.create_replica(shard, own.replica, Some(replicas.voters.clone())).await.unwrap();
            }
        }
        let objects = Objects::new(ObjectsParts {
            runtime,
            transport,
            records: records.clone(),
            chunks: chunks.clone(),
            layout: self.layout.subscribe(),
            link: Arc::new(Controller {
                me: node_id(number),
                layout: self.layout.clone(),
                filled: self.filled.clone(),
            }),
            cluster_version: self.cluster_version.subscribe(),
            root_key: self.root_keys.get(&number).cloned(),
            settings: ObjectsSettings { patience: self.patience, ..ObjectsSettings::default() },
        });
        self.nodes.insert(number, Node { objects, records, chunks, maintenance: None });
    }

    /// The node's process is gone, without a word.
    pub fn kill(&mut self, number: u8) {
        self.network.stop(node_id(number));
        self.nodes.remove(&number);
    }

    /// The power fails everywhere: of what was not flushed, something is lost.
    pub fn power_failure(&mut self, rng: &mut StdRng) {
        for number in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.kill(number);
            self.disks[&number].crash(rng);
            let store = &self.stores[&number];
            store.crash(rng);
            // Tasks of the former life may still write to theirs.
            let next_life = store.image();
            self.stores.insert(number, next_life);
        }
    }

    /// Whether any disk or store has these bytes, as they are, anywhere.
    pub fn holds(&self, bytes: &[u8]) -> bool {
        let holds = |within: &[u8]| within.windows(bytes.len()).any(|window| window == bytes);
        let on_disk = |disk: &MemoryDisk| {
            disk.paths().into_iter().any(|path| disk.contents(&path).is_some_and(|within| holds(&within)))
        };
        let in_store = |store: &MemoryStore| {
            [Table::Records, Table::Local].into_iter().any(|table| {
                let snapshot = store.snapshot().unwrap();
                let mut pairs = snapshot.range(table, Bound::Unbounded, Bound::Unbounded);
                pairs.any(|pair| holds(&pair.unwrap().1))
            })
        };
        self.disks.values().any(on_disk) || self.stores.values().any(in_store)
    }

    /// Flips a bit in every 64 KiB of a node's files under `folder`.
    pub fn rot(&self, number: u8, folder: &str) {
        let disk = &self.disks[&number];
        for path in disk.paths().into_iter().filter(|path| path.starts_with(folder)) {
            let mut bytes = disk.contents(&path).unwrap();
            bytes.iter_mut().skip(40_000).step_by(64 << 10).for_each(|byte| *byte ^= 1);
            disk.set_contents(&path, &bytes);
        }
    }

    /// Whether a node's records have a key with this inside.
    pub fn has_record(&self, number: u8, part: &[u8]) -> bool {
        let snapshot = self.stores[&number].snapshot().unwrap();
        let mut pairs = snapshot.range(Table::Records, Bound::Unbounded, Bound::Unbounded);
        pairs.any(|pair| pair.unwrap().0.windows(part.len()).any(|window| window == part))
    }

    pub fn status(&self, number: u8) -> MaintenanceStatus {
        self.nodes[&number].maintenance.as_ref().expect("maintain was called").status()
    }

    /// What a sweep does first, and nothing else of it.
    pub async fn raise_epochs(&self, to: u8) {
        assert!(to < 128, "one byte as a varint");
        for shard in 1..=DATA_SHARDS {
            let records = &self.nodes.values().next().expect("a node runs").records;
            // Version 1 of the request's encoding, and the number.
            let input = Bytes::from(vec![1, to]);
            let (id, deadline) = (self.runtime.transaction_id(), self.runtime.now() + PATIENCE);
            let raise = records.execute(ShardId(shard), id, "objects/epoch-raise/1", input, deadline);
            assert!(raise.await.unwrap().committed);
        }
    }

    /// Every node keeps its copies whole, much faster than in production.
    pub fn maintain(&mut self) {
        for number in self.nodes.keys().copied().collect::<Vec<_>>() {
            self.maintain_at(number);
        }
    }

    pub fn maintain_at(&mut self, number: u8) {
        self.maintain_with(number, None);
    }

    /// With snapshots, if there are to be any.
    pub fn maintain_with(&mut self, number: u8, snapshots: Option<SnapshotSettings>) {
        let settings = MaintenanceSettings {
            check_every: Duration::from_millis(100),
            sweep_every: Duration::from_millis(600),
            snapshots,
            ..MaintenanceSettings::default()
        };
        let store = Arc::new(self.stores[&number].clone());
        let node = self.nodes.get_mut(&number).expect("the node runs");
        node.maintenance = Some(node.objects.maintain(store, settings));
    }

    pub fn at(&self, number: u8) -> &Objects {
        &self.nodes[&number].objects
    }

    /// Waits for something that background work brings about.
    pub async fn until(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let deadline = self.runtime.now() + PATIENCE;
        while !holds().await {
            assert!(self.runtime.now() < deadline, "not within {PATIENCE:?}: {what}");
            self.runtime.sleep(Duration::from_millis(20)).await;
        }
    }

    /// How many nodes have this chunk whole.
    pub async fn copies(&self, hash: ChunkHash) -> usize {
        let mut copies = 0;
        for node in self.nodes.values() {
            copies += usize::from(node.chunks.contains(hash).await.unwrap());
        }
        copies
    }

    /// Every chunk that some node has.
    pub async fn all_chunks(&self) -> BTreeSet<ChunkHash> {
        let mut all = BTreeSet::new();
        for node in self.nodes.values() {
            all.extend(chunks_of(&node.chunks).await);
        }
        all
    }
}

pub async fn chunks_of(chunks: &ChunkStore) -> BTreeSet<ChunkHash> {
    let mut all = BTreeSet::new();
    for slot in Slot::all() {
        all.extend(chunks.list(slot, None, usize::MAX).await.unwrap().iter().map(|chunk| chunk.hash));
    }
    all
}

fn replica(shard: u32, number: u8) -> ReplicaAddress {
    let replica = ReplicaId(u64::from(shard) * 100 + u64::from(number));
    ReplicaAddress { replica, node: node_id(number) }
}

pub fn bucket(name: &str) -> BucketName {
    BucketName::new(name).unwrap()
}

pub fn key(key: impl Into<Bytes>) -> ObjectKey {
    ObjectKey::new(key).unwrap()
}

/// Bytes that no chunker or compressor finds anything in.
pub fn random_bytes(seed: u64, len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes.into()
}

/// A body in pieces of 64 KiB, as from a socket.
pub fn body(bytes: &Bytes) -> PutBody {
    let mut rest = bytes.clone();
    let pieces = std::iter::from_fn(move || {
        let len = rest.len().min(64 << 10);
        (len > 0).then(|| Ok(rest.split_to(len)))
    });
    PutBody::new(stream::iter(pieces.collect::<Vec<_>>()).boxed())
}

pub fn put_request(name: &str, at: impl Into<Bytes>, bytes: &Bytes) -> PutObject {
    PutObject {
        bucket: bucket(name),
        key: key(at),
        headers: Default::default(),
        conditions: Default::default(),
        idempotency: None,
        encryption: None,
        body: body(bytes),
    }
}

pub async fn put(
    objects: &Objects,
    name: &str,
    at: impl Into<Bytes>,
    bytes: &Bytes,
) -> Result<PutResult, PutObjectError> {
    objects.put(put_request(name, at, bytes)).await
}

pub fn get_request(name: &str, at: impl Into<Bytes>) -> GetObject {
    GetObject {
        bucket: bucket(name),
        key: key(at),
        version: None,
        range: None,
        conditions: Default::default(),
        customer_key: None,
    }
}

pub async fn get_with(objects: &Objects, request: GetObject) -> Result<Bytes, GetObjectError> {
    let mut got = objects.get(request).await?;
    let mut bytes = Vec::new();
    while let Some(piece) = got.body.next().await {
        bytes.extend_from_slice(&piece?);
    }
    assert_eq!(bytes.len() as u64, got.range.end - got.range.start);
    Ok(bytes.into())
}

pub async fn get(objects: &Objects, name: &str, at: impl Into<Bytes>) -> Result<Bytes, GetObjectError> {
    get_with(objects, get_request(name, at)).await
}

/// Sums the bytes; announces another sum if told to.
struct SumDigest {
    sum: u64,
    announced: Option<u64>,
}

impl BodyDigest for SumDigest {
    fn update(&mut self, bytes: &[u8]) {
        self.sum += bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
    }

    fn finish(self: Box<Self>) -> Result<Option<Checksum>, String> {
        if self.announced.is_some_and(|announced| announced != self.sum) {
            return Err("SUM".into());
        }
        let value = Bytes::copy_from_slice(&self.sum.to_be_bytes());
        Ok(Some(Checksum { algorithm: ChecksumAlgorithm::Crc32c, value, parts: 0 }))
    }
}

/// Keeps the sum as if it were a CRC32C.
pub fn sum_digest(announced: Option<u64>) -> Box<dyn BodyDigest> {
    Box::new(SumDigest { sum: 0, announced })
}
