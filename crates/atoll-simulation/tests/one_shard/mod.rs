//! The program of a world in which nodes keep one shard of records and nothing else:
//! registers, whose conditions are checked inside the commit.
#![allow(dead_code, reason = "each test takes what it needs")]

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use atoll_disk::{Files, LogSettings, MemoryStore, OrderedStore, SharedLog, StoreError, Table};
use atoll_records::{
    Command, LeaseError, LeaseId, Procedures, Query, ReadView, Records, RecordsError, RecordsParts,
    ReplicaAddress, ShardMap, ShardReplicas, Verdict, WriteView,
};
use atoll_runtime::{Runtime, watch};
use atoll_simulation::{
    checkers::RaftWatch,
    linearizability::register::{Action, Input, Output, Value},
    load::{Answer, Load, Operation, Outcome, Target},
    world::{Inspection, Life, Place, Program, World},
};
use atoll_transport::{Admission, Protocol};
use atoll_types::{Instant, NodeId, ReplicaId, ShardId, TransactionId};
use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};

pub const SHARD: ShardId = ShardId(7);

struct Everyone;

impl Admission for Everyone {
    fn admits(&self, _peer: &NodeId, _protocol: Protocol) -> bool {
        true
    }
}

/// Does an [`Input`] that writes, checking its condition inside the commit.
struct Write;

impl Command for Write {
    fn apply(&self, view: &mut dyn WriteView, input: &[u8]) -> Result<Verdict, StoreError> {
        let input: Input = postcard::from_bytes(input).unwrap();
        let key = key(&input.key);
        let (output, next) = input.action.apply(present(view.get(&key)?));
        match next {
            Some(Value(value)) => view.put(&key, value.to_be_bytes().to_vec().into()),
            None => view.delete(&key),
        }
        Ok(Verdict::Commit(postcard::to_stdvec(&output).unwrap()))
    }
}

struct Read;

impl Query for Read {
    fn run(&self, view: &dyn ReadView, input: &[u8]) -> Result<Vec<u8>, StoreError> {
        let input: Input = postcard::from_bytes(input).unwrap();
        let output = Output::Found(present(view.get(&key(&input.key))?));
        Ok(postcard::to_stdvec(&output).unwrap())
    }
}

/// Says what its stamp is.
struct Stamp;

impl Command for Stamp {
    fn apply(&self, view: &mut dyn WriteView, _input: &[u8]) -> Result<Verdict, StoreError> {
        Ok(Verdict::Commit(view.stamp().0.to_be_bytes().to_vec()))
    }
}

/// A command's name, for [`Records::execute`].
pub const STAMP: &str = "register/stamp/1";

fn key(name: &str) -> Vec<u8> {
    format!("register/{name}").into_bytes()
}

fn present(stored: Option<Bytes>) -> Option<Value> {
    stored.map(|bytes| Value(u64::from_be_bytes(bytes[..].try_into().unwrap())))
}

/// What befalls a disk between two lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Damage {
    /// A sector of the log's newest segment changes, some way before its end.
    Sector,
    /// The log's newest segment loses its end, which had been flushed.
    End,
}

pub struct OneShard {
    view: OneShardView,
}

/// The nodes, as the harness sees them.
#[derive(Clone)]
pub struct OneShardView {
    map: Arc<watch::Sender<Arc<ShardMap>>>,
    nodes: Arc<Mutex<BTreeMap<usize, (Runtime, Records)>>>,
    stores: Arc<Mutex<BTreeMap<usize, MemoryStore>>>,
    damages: Arc<Mutex<BTreeMap<usize, Damage>>>,
    raft: Arc<RaftWatch>,
}

impl OneShard {
    /// Of so many founding voters, on the first nodes.
    pub fn new(voters: usize) -> Self {
        let shards = [(SHARD, ShardReplicas { voters: founders(voters), learners: Vec::new() })].into();
        let map = Arc::new(watch::Sender::new(Arc::new(ShardMap { version: 1, shards })));
        let view = OneShardView {
            map,
            nodes: Arc::default(),
            stores: Arc::default(),
            damages: Arc::default(),
            raft: Arc::default(),
        };
        Self { view }
    }

    /// Keep it: the world takes the program.
    pub fn view(&self) -> OneShardView {
        self.view.clone()
    }
}

impl OneShardView {
    /// The map's version, and the voters it wants.
    fn shard(&self) -> (u64, Vec<ReplicaAddress>) {
        let map = self.map.borrow();
        (map.version, map.shards[&SHARD].voters.clone())
    }

    /// A node's records in its present life, if it has begun.
    pub fn records(&self, index: usize) -> Option<(Runtime, Records)> {
        self.nodes.lock().unwrap().get(&index).cloned()
    }

    /// The shard is to have these voters: replicas and their nodes.
    pub fn reconfigure(&self, voters: &[(u64, usize)]) {
        let voters = voters
            .iter()
            .map(|(replica, node)| ReplicaAddress { replica: ReplicaId(*replica), node: World::id(*node) })
            .collect();
        let shards = [(SHARD, ShardReplicas { voters, learners: Vec::new() })].into();
        let version = self.map.borrow().version + 1;
        self.map.send_replace(Arc::new(ShardMap { version, shards }));
    }

    /// The node's next life finds its disk like that.
    pub fn damage(&self, index: usize, damage: Damage) {
        self.damages.lock().unwrap().insert(index, damage);
    }

    /// Nothing of the node's state can be read from now on.
    pub fn damage_state(&self, index: usize) {
        self.stores.lock().unwrap()[&index].damage_table(Table::Records);
    }

    /// What each voter holds, its results of transactions included, without
    /// what replicas may differ in.
    pub fn states(&self) -> BTreeMap<usize, Vec<(Bytes, Bytes)>> {
        /// Of a stored key: replica, generation; an area and the owner's key follow.
        const PLACE_BYTES: usize = 8 + 4;
        let stores = self.stores.lock().unwrap();
        let state = |store: &MemoryStore| {
            let snapshot = store.snapshot().unwrap();
            let all = (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);
            let pairs: Vec<_> = snapshot.range(Table::Records, all.0, all.1).map(Result::unwrap).collect();
            // The newest generation is the last.
            let place = pairs.last().map(|(key, _)| key.slice(..PLACE_BYTES)).unwrap_or_default();
            let current = pairs.into_iter().filter(|(key, _)| key.starts_with(&place));
            current.map(|(key, value)| (key.slice(PLACE_BYTES..), value)).collect()
        };
        let (_, voters) = self.shard();
        let votes = |index: usize| voters.iter().any(|voter| voter.node == World::id(index));
        let voting = stores.iter().filter(|(index, _)| votes(**index));
        voting.map(|(index, store)| (*index, state(store))).collect()
    }
}

/// What a node does for the map: it has the replica that the map gives it, and moves
/// what it leads to where the map wants it.
async fn follow(view: OneShardView, runtime: Runtime, me: NodeId, records: Records) {
    loop {
        let (_, voters) = view.shard();
        if let Some(own) = voters.iter().find(|voter| voter.node == me)
            && records.create_replica(SHARD, own.replica, None).await.is_err()
        {
            return;
        }
        let target = ShardReplicas { voters, learners: Vec::new() };
        if records.reconfigure(SHARD, target).await.is_err() {
            return;
        }
        runtime.sleep(Duration::from_millis(500)).await;
    }
}

fn founders(count: usize) -> Vec<ReplicaAddress> {
    (0..count)
        .map(|index| ReplicaAddress { replica: ReplicaId(index as u64 + 1), node: World::id(index) })
        .collect()
}

struct Node {
    runtime: Runtime,
    records: Records,
}

impl Program for OneShard {
    fn start(&self, place: Place) -> BoxFuture<'static, Arc<dyn Life>> {
        let view = self.view.clone();
        async move {
            place.transport.set_admission(Arc::new(Everyone));
            let mut procedures = Procedures::default();
            procedures
                .command("register/write/1", Write)
                .command(STAMP, Stamp)
                .query("register/read/1", Read);
            let damage = view.damages.lock().unwrap().remove(&place.index);
            if let Some(damage) = damage {
                damage.befall(&*place.files).await;
            }
            let settings = LogSettings::default();
            let (log, recovery) =
                SharedLog::open(place.files, place.runtime.clone(), settings).await.unwrap();
            view.stores.lock().unwrap().insert(place.index, place.store.clone());
            let parts = RecordsParts {
                runtime: place.runtime.clone(),
                transport: place.transport,
                store: Arc::new(place.store),
                log,
                recovery,
                procedures,
                map: view.map.subscribe(),
            };
            let records = Records::start_observed(parts, Some(view.raft.of(place.index))).await.unwrap();
            // One that finds its disk empty later comes back empty.
            if place.life == 0
                && let (1, voters) = view.shard()
                && let Some(own) = voters.iter().find(|voter| voter.node == place.id)
            {
                records.create_replica(SHARD, own.replica, Some(voters.clone())).await.unwrap();
            }
            let follower = follow(view.clone(), place.runtime.clone(), place.id, records.clone());
            drop(place.runtime.spawn("follow the map", follower));
            view.nodes.lock().unwrap().insert(place.index, (place.runtime.clone(), records.clone()));
            Arc::new(Node { runtime: place.runtime, records }) as Arc<dyn Life>
        }
        .boxed()
    }

    fn inspect(&self, _runtime: Runtime) -> BoxFuture<'static, Inspection> {
        let violations = self.view.raft.violations();
        std::future::ready(Inspection { violations, ..Inspection::default() }).boxed()
    }
}

impl Damage {
    async fn befall(self, files: &dyn Files) {
        let segments = files.list("log").await.unwrap();
        let newest = segments.iter().filter(|name| name.ends_with(".segment")).max().unwrap();
        let file = files.open(&format!("log/{newest}"), false).await.unwrap();
        let bytes = file.read_at(0, file.len().await.unwrap() as usize).await.unwrap();
        let end = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) as u64;
        let place = end / 8 * 7;
        match self {
            Damage::Sector => file.write_at(place, vec![Bytes::from(vec![0x5a; 512])]).await.unwrap(),
            Damage::End => file.set_len(place).await.unwrap(),
        }
        file.sync().await.unwrap();
    }
}

impl Life for Node {}

impl Target for Node {
    fn perform(self: Arc<Self>, operation: Operation) -> BoxFuture<'static, Outcome> {
        async move {
            let (records, deadline) = (&self.records, self.runtime.now() + Load::LIMIT);
            let id = self.runtime.transaction_id();
            let leased = match &operation {
                Operation::Acquire { lock, owner, ttl, id: own } => {
                    let (lock, owner) = (lock.clone().into(), owner.clone().into());
                    let id = own.map_or(id, |own| TransactionId(own.to_be_bytes()));
                    let granted = records.grant_lease(SHARD, id, *ttl, owner, Some(lock), deadline).await;
                    granted.map(|granted| Answer::Granted { lease: granted.lease.0, epoch: granted.epoch })
                }
                Operation::Keep { lease, .. } => {
                    records.keep_lease(SHARD, id, LeaseId(*lease), deadline).await.map(|()| Answer::Done)
                }
                Operation::Release { lease, .. } => {
                    records.release_lease(SHARD, id, LeaseId(*lease), deadline).await.map(|()| Answer::Done)
                }
                _ => {
                    let Some(input) = operation.on_register() else { return Outcome::NotDone };
                    return self.on_register(input, id, deadline).await.into();
                }
            };
            match leased {
                Ok(answer) => Outcome::Answered(answer),
                Err(LeaseError::Held(held)) => Outcome::Answered(Answer::Held { epoch: held.epoch }),
                Err(LeaseError::Gone { .. }) => Outcome::Answered(Answer::Gone),
                Err(LeaseError::Records(_)) => Outcome::Unknown,
            }
        }
        .boxed()
    }
}

impl Node {
    /// `None`: the outcome is unknown.
    async fn on_register(&self, input: Input, id: TransactionId, deadline: Instant) -> Option<Output> {
        let bytes = Bytes::from(postcard::to_stdvec(&input).unwrap());
        let answer = if input.action == Action::Get {
            self.records.query(SHARD, "register/read/1", bytes, deadline).await
        } else {
            let executed = self.records.execute(SHARD, id, "register/write/1", bytes, deadline).await;
            executed.map(|executed| executed.output)
        };
        match answer {
            Ok(output) => Some(postcard::from_bytes(&output).unwrap()),
            Err(RecordsError::Unavailable { .. }) => None,
            Err(error) => panic!("{error}"),
        }
    }
}
