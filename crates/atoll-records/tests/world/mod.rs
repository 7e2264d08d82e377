//! Several nodes with nothing but records on them, in one process: real drivers over the
//! in-memory network and store.
#![allow(dead_code, reason = "each test binary uses its part of the fixture")]

use std::{
    collections::BTreeMap,
    sync::{Arc, RwLock},
    time::Duration,
};

use atoll_disk::{
    LogSettings, MemoryDisk, MemoryStore, OrderedStore, SharedLog, Snapshot, StoreError, Table, WriteBatch,
};
use atoll_records::{
    Command, Executed, Procedures, Query, ReadView, Records, RecordsError, RecordsParts, ReplicaAddress,
    ReplicaStatus, Role, ShardMap, ShardReplicas, Verdict, WriteView,
};
use atoll_runtime::{Runtime, watch};
use atoll_transport::{
    Admission, Protocol,
    memory::{LinkProfile, Links, MemoryNetwork},
};
use atoll_types::{NodeId, ReplicaId, ShardId, TransactionId};
use bytes::Bytes;
use rand::{SeedableRng, rngs::StdRng};

pub const SHARD: ShardId = ShardId(7);
/// Bounds every wait: far above an election, far below a test runner's patience.
pub const PATIENCE: Duration = Duration::from_secs(20);

struct AdmitAll;

impl Admission for AdmitAll {
    fn admits(&self, _peer: &NodeId, _protocol: Protocol) -> bool {
        true
    }
}

/// Appends the input to the value of `log`; answers the whole value.
struct Append;

impl Command for Append {
    fn apply(&self, view: &mut dyn WriteView, input: &[u8]) -> Result<Verdict, StoreError> {
        let mut value = view.get(b"log")?.map(|value| value.to_vec()).unwrap_or_default();
        value.extend_from_slice(input);
        view.put(b"log", value.clone().into());
        Ok(Verdict::Commit(value))
    }
}

/// Writes, and then says no.
struct Refuse;

impl Command for Refuse {
    fn apply(&self, view: &mut dyn WriteView, _input: &[u8]) -> Result<Verdict, StoreError> {
        view.put(b"log", Bytes::from_static(b"never seen"));
        view.delete(b"other");
        Ok(Verdict::Abort(b"no".to_vec()))
    }
}

/// Puts `key=value`.
struct Put;

impl Command for Put {
    fn apply(&self, view: &mut dyn WriteView, input: &[u8]) -> Result<Verdict, StoreError> {
        let at = input.iter().position(|byte| *byte == b'=').expect("tests write key=value");
        view.put(&input[..at], Bytes::copy_from_slice(&input[at + 1..]));
        Ok(Verdict::Commit(Vec::new()))
    }
}

struct Get;

impl Query for Get {
    fn run(&self, view: &dyn ReadView, input: &[u8]) -> Result<Vec<u8>, StoreError> {
        Ok(view.get(input)?.map(|value| value.to_vec()).unwrap_or_default())
    }
}

/// Finds that what is stored makes no sense to it.
struct Nonsense;

impl Query for Nonsense {
    fn run(&self, _view: &dyn ReadView, _input: &[u8]) -> Result<Vec<u8>, StoreError> {
        Err(StoreError { operation: "decode", source: "of a version that is not known".into() })
    }
}

pub fn procedures() -> Procedures {
    let mut procedures = Procedures::default();
    procedures.command("test/append/1", Append);
    procedures.command("test/refuse/1", Refuse);
    procedures.command("test/put/1", Put);
    procedures.query("test/get/1", Get).query("test/nonsense/1", Nonsense);
    procedures
}

pub fn node_id(number: u8) -> NodeId {
    NodeId([number; 32])
}

pub fn address(number: u8) -> ReplicaAddress {
    ReplicaAddress { replica: ReplicaId(u64::from(number)), node: node_id(number) }
}

/// Callers await operations in spawned tasks.
fn sendable<T: Send>(future: T) -> T {
    future
}

/// What of a node outlives its process.
#[derive(Clone)]
pub struct Disk {
    pub store: MemoryStore,
    pub files: MemoryDisk,
    /// The store as the present life sees it.
    life: Option<LifeStore>,
}

/// A store whose user can die: a thread that still works for it then writes nothing more,
/// as if it had gone with its process.
#[derive(Clone)]
struct LifeStore {
    store: MemoryStore,
    alive: Arc<RwLock<bool>>,
}

impl LifeStore {
    fn end(&self) {
        *self.alive.write().unwrap() = false;
    }

    fn while_alive<T>(&self, work: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
        let alive = self.alive.read().unwrap();
        if *alive { work() } else { Err(StoreError { operation: "use", source: "its process died".into() }) }
    }
}

impl OrderedStore for LifeStore {
    fn snapshot(&self) -> Result<Box<dyn Snapshot>, StoreError> {
        self.while_alive(|| self.store.snapshot())
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.while_alive(|| self.store.get(table, key))
    }

    fn write(&self, batch: WriteBatch) -> Result<(), StoreError> {
        self.while_alive(|| self.store.write(batch))
    }

    fn clear(&self, table: Table) -> Result<(), StoreError> {
        self.while_alive(|| self.store.clear(table))
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.while_alive(|| self.store.flush())
    }
}

impl Disk {
    fn new(number: u8) -> Self {
        Self::of(MemoryStore::new(), MemoryDisk::new(u64::from(number)))
    }

    pub fn of(store: MemoryStore, files: MemoryDisk) -> Self {
        Self { store, files, life: None }
    }
}

pub struct World {
    pub runtime: Runtime,
    pub network: MemoryNetwork,
    pub links: Arc<Links>,
    pub map: watch::Sender<Arc<ShardMap>>,
    pub disks: BTreeMap<u8, Disk>,
    pub nodes: BTreeMap<u8, Records>,
}

impl World {
    pub fn new() -> Self {
        let runtime = Runtime::tokio();
        let links = Arc::new(Links::new(LinkProfile::local_network()));
        let network = MemoryNetwork::new(links.clone(), StdRng::seed_from_u64(1));
        let map = watch::Sender::new(Arc::new(ShardMap::default()));
        Self { runtime, network, links, map, disks: BTreeMap::new(), nodes: BTreeMap::new() }
    }

    /// Nodes `1..=count`, each with a founding voter of [`SHARD`].
    pub async fn founded(count: u8) -> Self {
        let mut world = Self::new();
        let founding: Vec<_> = (1..=count).map(address).collect();
        world.set_map(founding.clone(), Vec::new());
        for number in 1..=count {
            world.start(number).await;
            let records = &world.nodes[&number];
            let replica = address(number).replica;
            records.create_replica(SHARD, replica, Some(founding.clone())).await.unwrap();
        }
        world
    }

    pub fn set_map(&self, voters: Vec<ReplicaAddress>, learners: Vec<ReplicaAddress>) {
        self.map.send_modify(|map| {
            let mut next = (**map).clone();
            next.version += 1;
            next.shards.insert(SHARD, ShardReplicas { voters, learners });
            *map = Arc::new(next);
        });
    }

    /// Starts the node on what its disk holds.
    pub async fn start(&mut self, number: u8) {
        let disk = self.disks.entry(number).or_insert_with(|| Disk::new(number));
        let life = LifeStore { store: disk.store.clone(), alive: Arc::new(RwLock::new(true)) };
        disk.life = Some(life.clone());
        let files = Arc::new(disk.files.files(&self.runtime));
        let (log, recovery) =
            SharedLog::open(files, self.runtime.clone(), LogSettings::default()).await.unwrap();
        let transport = self.network.endpoint(node_id(number), self.runtime.clone());
        transport.set_admission(Arc::new(AdmitAll));
        let records = Records::start(RecordsParts {
            runtime: self.runtime.clone(),
            transport,
            store: Arc::new(life),
            log,
            recovery,
            procedures: procedures(),
            map: self.map.subscribe(),
        })
        .await
        .unwrap();
        self.nodes.insert(number, records);
    }

    /// The node's process is gone, without a word.
    pub fn kill(&mut self, number: u8) {
        self.end(number);
        self.disks[&number].files.kill();
    }

    fn end(&mut self, number: u8) {
        self.network.stop(node_id(number));
        self.nodes.remove(&number);
        if let Some(life) = &self.disks[&number].life {
            life.end();
        }
    }

    /// The node's machine loses power: so does its disk what was not flushed.
    pub fn crash(&mut self, number: u8, rng: &mut StdRng) {
        self.end(number);
        self.disks[&number].files.crash(rng);
        self.disks[&number].store.crash(rng);
    }

    /// Waits, with a bound, until `condition` holds of this node's replicas.
    pub async fn until(&self, node: u8, what: &str, condition: impl Fn(&[ReplicaStatus]) -> bool) {
        let deadline = self.runtime.now() + PATIENCE;
        loop {
            let status = self.nodes[&node].status().await;
            if condition(&status) {
                return;
            }
            assert!(self.runtime.now() < deadline, "not in time: {what}: {status:?}");
            self.runtime.sleep(Duration::from_millis(10)).await;
        }
    }

    /// Asks all nodes for these members until they are.
    pub async fn reconfigured(&self, voters: Vec<ReplicaAddress>, learners: Vec<ReplicaAddress>) {
        self.set_map(voters.clone(), learners.clone());
        let target = ShardReplicas { voters, learners };
        let ids = |list: &[ReplicaAddress]| {
            let mut ids: Vec<ReplicaId> = list.iter().map(|at| at.replica).collect();
            ids.sort_unstable();
            ids
        };
        let deadline = self.runtime.now() + PATIENCE;
        loop {
            let mut seen = Vec::new();
            for records in self.nodes.values() {
                records.reconfigure(SHARD, target.clone()).await.unwrap();
                seen.extend(records.status().await);
            }
            let reached = |replica: &ReplicaStatus| {
                replica.role == Role::Leader
                    && !replica.joint
                    && replica.voters == ids(&target.voters)
                    && replica.learners == ids(&target.learners)
            };
            if seen.iter().any(reached) {
                return;
            }
            assert!(self.runtime.now() < deadline, "the members were not reached: {seen:?}");
            self.runtime.sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until these nodes' replicas have applied the same to the same effect.
    pub async fn all_equal(&self, nodes: impl IntoIterator<Item = u8> + Clone) {
        let deadline = self.runtime.now() + PATIENCE;
        loop {
            let mut seen = Vec::new();
            for node in nodes.clone() {
                let status = self.nodes[&node].status().await;
                let replica = status.into_iter().find(|replica| replica.shard == SHARD).unwrap();
                seen.push((replica.applied, replica.hash));
            }
            if seen.windows(2).all(|pair| pair[0] == pair[1]) {
                return;
            }
            assert!(self.runtime.now() < deadline, "not equal: {seen:?}");
            self.runtime.sleep(Duration::from_millis(10)).await;
        }
    }

    /// The node that leads, once one does.
    pub async fn leader(&self) -> u8 {
        let deadline = self.runtime.now() + PATIENCE;
        loop {
            for (number, records) in &self.nodes {
                if records.status().await.iter().any(|replica| replica.role == Role::Leader) {
                    return *number;
                }
            }
            assert!(self.runtime.now() < deadline, "nobody leads");
            self.runtime.sleep(Duration::from_millis(10)).await;
        }
    }

    pub async fn try_execute(
        &self,
        node: u8,
        id: TransactionId,
        command: &'static str,
        input: impl Into<Bytes>,
    ) -> Result<Executed, RecordsError> {
        let deadline = self.runtime.now() + PATIENCE;
        sendable(self.nodes[&node].execute(SHARD, id, command, input.into(), deadline)).await
    }

    pub async fn execute(&self, node: u8, command: &'static str, input: impl Into<Bytes>) -> Executed {
        self.try_execute(node, self.runtime.transaction_id(), command, input).await.unwrap()
    }

    pub async fn append(&self, node: u8, text: &str) -> String {
        let executed = self.execute(node, "test/append/1", text.to_owned()).await;
        assert!(executed.committed);
        String::from_utf8(executed.output.to_vec()).unwrap()
    }

    pub async fn read(&self, node: u8, key: &'static str) -> String {
        let deadline = self.runtime.now() + PATIENCE;
        let query = self.nodes[&node].query(SHARD, "test/get/1", key.into(), deadline);
        let value = sendable(query).await.unwrap();
        String::from_utf8(value.to_vec()).unwrap()
    }
}
