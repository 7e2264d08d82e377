//! Two nodes on virtual time: one keeps shard 0, the other asks.

use std::{cell::RefCell, collections::BTreeMap, sync::Arc, time::Duration};

use atoll_access::{Access, Rights, Secret, audit::Auditor};
use atoll_disk::{LogSettings, MemoryDisk, MemoryStore, SharedLog};
use atoll_records::{Procedures, Records, RecordsParts, ReplicaAddress, ShardMap, ShardReplicas};
use atoll_runtime::{Runtime, watch};
use atoll_simulation::{Network, Schedule, Seed, Simulation};
use atoll_transport::{Admission, Protocol};
use atoll_types::{NodeId, ReplicaId, ShardId};

pub const KEEPER: NodeId = NodeId([1; 32]);
pub const OTHER: NodeId = NodeId([2; 32]);
/// Virtual time; bounds every run.
const LIMIT: Duration = Duration::from_secs(300);
/// What an election and a few retries take at most.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// For what links and schedules add to a wait that has ended.
pub const MARGIN: Duration = Duration::from_millis(100);

struct Everyone;

impl Admission for Everyone {
    fn admits(&self, _peer: &NodeId, _protocol: Protocol) -> bool {
        true
    }
}

/// Shard 0 lives on the keeper; the other node only asks.
pub struct Pair {
    simulation: Simulation,
    pub network: Network,
    map: watch::Sender<Arc<ShardMap>>,
    /// What each node's handles stand on.
    records: RefCell<BTreeMap<NodeId, Records>>,
}

pub type Side = (Runtime, Access);

impl Pair {
    /// Both nodes, and one key that the other node knows.
    pub fn new(seed: u64) -> (Self, Side, Side) {
        let simulation = Simulation::new(Seed(seed), Schedule::Shuffled);
        let network = Network::new(&simulation);
        let voters = vec![ReplicaAddress { replica: ReplicaId(1), node: KEEPER }];
        let shards = BTreeMap::from([(ShardId::META, ShardReplicas { voters, learners: Vec::new() })]);
        let map = watch::Sender::new(Arc::new(ShardMap { version: 1, shards }));
        let pair = Self { simulation, network, map, records: RefCell::default() };
        let (keeper, other) = (pair.start(KEEPER, "keeper"), pair.start(OTHER, "other"));
        let (at_keeper, at_other) = (keeper.clone(), other.clone());
        pair.run(async move {
            let deadline = at_keeper.0.now() + PATIENCE;
            let secret = Secret::new("secret-secret");
            at_keeper.1.put_key("AK", secret, "root", Rights::ALL, deadline).await.unwrap();
            assert!(
                at_other.1.lookup("AK").await.unwrap().is_some(),
                "a new key is good at once, everywhere"
            );
        });
        (pair, keeper, other)
    }

    fn start(&self, node: NodeId, name: &str) -> Side {
        let index = self.simulation.add_node(name);
        let runtime = self.simulation.node_runtime(index);
        let transport = self.network.memory().endpoint(node, runtime.clone());
        transport.set_admission(Arc::new(Everyone));
        let (map, own) = (self.map.subscribe(), runtime.clone());
        let (access, records) = self.run(async move {
            let files = Arc::new(MemoryDisk::new(node.0[0].into()).files(&own));
            let (log, recovery) = SharedLog::open(files, own.clone(), LogSettings::default()).await.unwrap();
            let mut procedures = Procedures::default();
            atoll_access::register(&mut procedures);
            let store = Arc::new(MemoryStore::default());
            let parts =
                RecordsParts { runtime: own.clone(), transport, store, log, recovery, procedures, map };
            let records = Records::start(parts).await.unwrap();
            if node == KEEPER {
                let founding = vec![ReplicaAddress { replica: ReplicaId(1), node }];
                records.create_replica(ShardId::META, ReplicaId(1), Some(founding)).await.unwrap();
            }
            let access = Access::start(own.clone(), records.clone());
            access.audit_with(Auditor::start(own, records.clone(), [node.0[0]; 32]));
            access.allow_acts();
            (access, records)
        });
        self.records.borrow_mut().insert(node, records);
        (runtime, access)
    }

    /// Another auditor of a node, as its next start makes one.
    pub fn auditor(&self, node: NodeId, runtime: &Runtime) -> Auditor {
        Auditor::start(runtime.clone(), self.records.borrow()[&node].clone(), [node.0[0]; 32])
    }

    pub fn run<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
        self.simulation.block_on(LIMIT, future).unwrap()
    }
}
