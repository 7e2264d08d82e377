//! Records alone, three nodes, in storms: what clients saw is linearizable; and three
//! faults with which it would not be, each of which is found.

mod logs;
mod sabotage;

use std::{sync::Arc, time::Duration};

use atoll_disk::{Files, LogSettings, MemoryStore, OrderedStore, SharedLog, StoreError, Table};
use atoll_records::{
    Command, Procedures, Query, ReadView, Records, RecordsError, RecordsParts, ReplicaAddress, ShardMap,
    ShardReplicas, Verdict as Commit, WriteView,
};
use atoll_runtime::Runtime;
use atoll_simulation::{
    Seed,
    linearizability::register::{Action, Input, Output, Value},
    load::{Load, Operation, Outcome, Target},
    seeds,
    world::{Life, Place, Program, Storm, World, stable},
};
use atoll_transport::{Admission, Protocol};
use atoll_types::{NodeId, ReplicaId, ShardId};
use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use sabotage::FlushedLate;
use tokio::sync::watch;

const SHARD: ShardId = ShardId(7);

struct Everyone;

impl Admission for Everyone {
    fn admits(&self, _peer: &NodeId, _protocol: Protocol) -> bool {
        true
    }
}

/// Does an [`Input`] that writes, checking its condition inside the commit.
struct Write;

impl Command for Write {
    fn apply(&self, view: &mut dyn WriteView, input: &[u8]) -> Result<Commit, StoreError> {
        let input: Input = postcard::from_bytes(input).unwrap();
        let key = key(&input.key);
        let (output, next) = input.action.apply(present(view.get(&key)?));
        match next {
            Some(Value(value)) => view.put(&key, value.to_be_bytes().to_vec().into()),
            None => view.delete(&key),
        }
        Ok(Commit::Commit(postcard::to_stdvec(&output).unwrap()))
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

fn key(name: &str) -> Vec<u8> {
    format!("register/{name}").into_bytes()
}

fn present(stored: Option<Bytes>) -> Option<Value> {
    stored.map(|bytes| Value(u64::from_be_bytes(bytes[..].try_into().unwrap())))
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fault {
    /// Reads what this node's replica has applied, without asking whether it still leads.
    ReadsLocally,
    /// Tries again under another transaction id (rule 2).
    RetriesAsAnother,
    /// Says that the log is on disk a moment before it is (rule 5).
    FlushesLate,
}

struct OneShard {
    map: watch::Sender<Arc<ShardMap>>,
    fault: Option<Fault>,
}

impl OneShard {
    fn new(nodes: usize, fault: Option<Fault>) -> Self {
        let shards = [(SHARD, ShardReplicas { voters: voters(nodes), learners: Vec::new() })].into();
        Self { map: watch::Sender::new(Arc::new(ShardMap { version: 1, shards })), fault }
    }
}

fn voters(nodes: usize) -> Vec<ReplicaAddress> {
    (0..nodes)
        .map(|index| ReplicaAddress { replica: ReplicaId(index as u64 + 1), node: World::id(index) })
        .collect()
}

struct Node {
    runtime: Runtime,
    store: MemoryStore,
    records: Records,
    fault: Option<Fault>,
}

impl Program for OneShard {
    fn start(&self, place: Place) -> BoxFuture<'static, Arc<dyn Life>> {
        let (map, fault) = (self.map.subscribe(), self.fault);
        async move {
            place.transport.set_admission(Arc::new(Everyone));
            let mut procedures = Procedures::default();
            procedures.command("register/write/1", Write).query("register/read/1", Read);
            let files: Arc<dyn Files> = match fault {
                Some(Fault::FlushesLate) => {
                    Arc::new(FlushedLate { files: place.files, runtime: place.runtime.clone() })
                }
                _ => place.files,
            };
            let mut settings = LogSettings::default();
            if fault == Some(Fault::FlushesLate) {
                // With a fresh note of what was flushed, the replicas would know that
                // they forgot, and not vote (rule 4).
                settings.note_interval = Duration::from_secs(3600);
            }
            let (log, recovery) = SharedLog::open(files, place.runtime.clone(), settings).await.unwrap();
            let records = Records::start(RecordsParts {
                runtime: place.runtime.clone(),
                transport: place.transport,
                store: Arc::new(place.store.clone()),
                log,
                recovery,
                procedures,
                map,
            });
            let records = records.await.unwrap();
            let replica = ReplicaId(place.index as u64 + 1);
            let founding = voters(place.everyone.len());
            records.create_replica(SHARD, replica, Some(founding)).await.unwrap();
            Arc::new(Node { runtime: place.runtime, store: place.store, records, fault }) as Arc<dyn Life>
        }
        .boxed()
    }
}

impl Node {
    fn read_locally(&self, name: &str) -> Output {
        let snapshot = self.store.snapshot().unwrap();
        let all = (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded);
        let suffix = key(name);
        let stored = snapshot
            .range(Table::Records, all.0, all.1)
            .map(Result::unwrap)
            .find(|(key, value)| key.ends_with(&suffix) && value.len() == 8);
        Output::Found(present(stored.map(|(_, value)| value)))
    }

    async fn write(&self, bytes: Bytes, limit: Duration) -> Result<Output, RecordsError> {
        let id = self.runtime.transaction_id();
        let deadline = self.runtime.now() + limit;
        let executed = self.records.execute(SHARD, id, "register/write/1", bytes, deadline).await?;
        Ok(postcard::from_bytes(&executed.output).unwrap())
    }
}

impl Life for Node {}

impl Target for Node {
    fn perform(self: Arc<Self>, operation: Operation) -> BoxFuture<'static, Outcome> {
        async move {
            let Some(input) = operation.on_register() else { return Outcome::NotDone };
            let bytes = Bytes::from(postcard::to_stdvec(&input).unwrap());
            let answer = if input.action == Action::Get {
                if self.fault == Some(Fault::ReadsLocally) {
                    return Outcome::Answered(self.read_locally(&input.key).into());
                }
                let deadline = self.runtime.now() + Load::LIMIT;
                let output = self.records.query(SHARD, "register/read/1", bytes, deadline).await;
                output.map(|bytes| postcard::from_bytes(&bytes).unwrap())
            } else if self.fault == Some(Fault::RetriesAsAnother) {
                match self.write(bytes.clone(), Duration::from_secs(2)).await {
                    Err(RecordsError::Unavailable { .. }) => self.write(bytes, Load::LIMIT).await,
                    answer => answer,
                }
            } else {
                self.write(bytes, Load::LIMIT).await
            };
            match answer {
                Ok(output) => Outcome::Answered(output.into()),
                Err(RecordsError::Unavailable { .. }) => Outcome::Unknown,
                Err(error) => panic!("{error}"),
            }
        }
        .boxed()
    }
}

fn stormy(seed: Seed, fault: Option<Fault>) -> World {
    logs::if_asked();
    let mut world = World::new(seed, OneShard::new(3, fault));
    world.nodes(3);
    world.clients(6, Load::default());
    world.run_until(stable);
    world.storm(Storm::drawn(&mut seed.stream("storm options")), Duration::from_secs(60));
    world
}

#[test]
fn records_are_linearizable_in_any_storm() {
    let (mut operations, mut unknown) = (0, 0);
    let seeds = seeds(0..10);
    for &seed in &seeds {
        let mut world = stormy(seed, None);
        // Liveness: a minute after the last fault all is well again.
        world.run_until_within(stable, Duration::from_secs(60));
        world.check();
        let (called, open) = world.operations();
        operations += called;
        unknown += open;
    }
    assert!(operations > 500 * seeds.len(), "only {operations} operations in {} storms", seeds.len());
    assert!(unknown < operations / 4, "{unknown} of {operations} unknown");
}

#[test]
fn the_same_seed_is_the_same_run_of_records() {
    let hash = |seed| stormy(Seed(seed), None).trace_hash();
    assert_eq!(hash(3), hash(3));
    assert_ne!(hash(3), hash(4));
}

fn is_found(fault: Fault) {
    let shows = |seed: &Seed| stormy(*seed, Some(fault)).judge().is_found_by("linearizability");
    assert!(seeds(0..20).iter().any(shows), "twenty storms did not show it");
}

#[test]
fn a_read_that_does_not_ask_the_others_is_found() {
    is_found(Fault::ReadsLocally);
}

#[test]
fn a_retry_under_another_id_is_found() {
    is_found(Fault::RetriesAsAnother);
}

#[test]
fn an_acknowledgement_before_the_flush_is_found() {
    is_found(Fault::FlushesLate);
}
