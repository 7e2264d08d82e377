//! Rule 16 on virtual time: what a node that is not the keeper of the keys answers, while
//! the network is whole and while it is cut.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use atoll_access::{Access, AccessError, STALENESS_MAX, Secret};
use atoll_disk::{LogSettings, MemoryDisk, MemoryStore, SharedLog};
use atoll_records::{Procedures, Records, RecordsParts, ReplicaAddress, ShardMap, ShardReplicas};
use atoll_runtime::{Runtime, watch};
use atoll_simulation::{Network, Schedule, Seed, Simulation};
use atoll_transport::{Admission, Protocol};
use atoll_types::{NodeId, ReplicaId, ShardId};

const KEEPER: NodeId = NodeId([1; 32]);
const OTHER: NodeId = NodeId([2; 32]);
/// Virtual time; bounds every run.
const LIMIT: Duration = Duration::from_secs(300);
/// What an election and a few retries take at most.
const PATIENCE: Duration = Duration::from_secs(20);
/// For what links and schedules add to a wait that has ended.
const MARGIN: Duration = Duration::from_millis(100);

struct Everyone;

impl Admission for Everyone {
    fn admits(&self, _peer: &NodeId, _protocol: Protocol) -> bool {
        true
    }
}

/// Shard 0 lives on the keeper; the other node only asks.
struct Pair {
    simulation: Simulation,
    network: Network,
    map: watch::Sender<Arc<ShardMap>>,
}

type Side = (Runtime, Access);

impl Pair {
    /// Both nodes, and one key that the other node knows.
    fn new(seed: u64) -> (Self, Side, Side) {
        let simulation = Simulation::new(Seed(seed), Schedule::Shuffled);
        let network = Network::new(&simulation);
        let voters = vec![ReplicaAddress { replica: ReplicaId(1), node: KEEPER }];
        let shards = BTreeMap::from([(ShardId::META, ShardReplicas { voters, learners: Vec::new() })]);
        let map = watch::Sender::new(Arc::new(ShardMap { version: 1, shards }));
        let pair = Self { simulation, network, map };
        let (keeper, other) = (pair.start(KEEPER, "keeper"), pair.start(OTHER, "other"));
        let (at_keeper, at_other) = (keeper.clone(), other.clone());
        pair.run(async move {
            let deadline = at_keeper.0.now() + PATIENCE;
            at_keeper.1.put_key("AK", Secret::new("secret-secret"), "root", deadline).await.unwrap();
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
        let access = self.run(async move {
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
            Access::start(own, records)
        });
        (runtime, access)
    }

    fn run<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> T {
        self.simulation.block_on(LIMIT, future).unwrap()
    }
}

#[test]
fn a_revocation_holds_on_every_node_within_the_promised_time() {
    for seed in 0..5 {
        let (pair, (at, keeper), (runtime, other)) = Pair::new(seed);
        pair.run(async move {
            keeper.delete_key("AK", at.now() + PATIENCE).await.unwrap();
            runtime.sleep(STALENESS_MAX).await;
            assert_eq!(other.lookup("AK").await, Ok(None));
        });
    }
}

#[test]
fn a_node_that_is_cut_off_answers_for_the_promised_time_and_then_says_that_it_can_t() {
    for seed in 0..5 {
        let (pair, (at, keeper), (runtime, other)) = Pair::new(seed);
        pair.network.links().cut(&[KEEPER], &[OTHER]);
        // The keeper's records live as long as their last handle.
        let revoker = keeper.clone();
        pair.run(async move { revoker.delete_key("AK", at.now() + PATIENCE).await.unwrap() });
        let (cut, clock) = (other.clone(), runtime.clone());
        pair.run(async move {
            let revoked = clock.now();
            loop {
                let asked = clock.now();
                let answer = cut.lookup("AK").await;
                let waited = clock.now().saturating_since(asked);
                assert!(waited <= STALENESS_MAX + MARGIN, "no hang: {waited:?}");
                match answer {
                    Ok(known) => {
                        assert!(known.is_some(), "it can't have heard of the revocation");
                        assert!(asked.saturating_since(revoked) <= STALENESS_MAX, "a revoked key was let in");
                    }
                    Err(error) => break assert!(matches!(error, AccessError::Unavailable { .. })),
                }
                clock.sleep(MARGIN).await;
            }
        });
        pair.network.links().heal(KEEPER, OTHER);
        pair.run(async move {
            let deadline = runtime.now() + PATIENCE;
            while other.lookup("AK").await != Ok(None) {
                assert!(runtime.now() < deadline, "it does not come back after the cut");
                runtime.sleep(MARGIN).await;
            }
        });
        drop(keeper);
    }
}

#[test]
fn many_who_wait_for_an_answer_give_up_together() {
    let (pair, _keeper, (runtime, other)) = Pair::new(9);
    pair.network.links().cut(&[KEEPER], &[OTHER]);
    pair.run(async move {
        let asked = runtime.now();
        let lookups: Vec<_> = (0..50)
            .map(|number| {
                let other = other.clone();
                runtime.spawn("lookup", async move { other.lookup(&format!("unknown-{number}")).await })
            })
            .collect();
        for lookup in lookups {
            assert!(matches!(lookup.await.unwrap(), Err(AccessError::Unavailable { .. })));
        }
        let waited = runtime.now().saturating_since(asked);
        assert!(waited <= STALENESS_MAX + MARGIN, "one after the other: {waited:?}");
    });
}
