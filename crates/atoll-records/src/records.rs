//! The handle that everyone above uses.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use atoll_disk::{
    LogError, LogVerdict, OrderedStore, RecoveredReplica, Recovery, SharedLog, StoreError, Table, WriteBatch,
};
use atoll_runtime::{AbortOnDrop, Broken, Runtime, is_broken, watch};
use atoll_transport::{Protocol, Transport};
use atoll_types::{Format, Instant, ReplicaId, Revision, ShardId, TransactionId};
use bytes::Bytes;
use rand::Rng;
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::{
    Executed, Procedures, RecordsError, ReplicaAddress, ShardMap, ShardReplicas,
    alone::Alone,
    apply::{Job, Worker},
    client::{Client, RaftHandler, RecordsHandler},
    driver::{Directory, Driver, FILLS_MAX, INBOX_MAX, Input},
    group::{Group, ReplicaShared},
    group_log::GroupLog,
    lease,
    lives::{Lives, NOTED, Witness},
    log::{self, OpenError, Writer},
    logger::logger,
    metrics::{Metrics, RecordsMetrics},
    observe::Observer,
    snapshot::{Snapshots, delete_leftovers, delete_readable},
    state::{Area, Descriptor, Members, Meta, Place},
    status::{ReplicaStatus, Role},
    transaction,
    view::ShardView,
    watch::News,
};

/// What a node hands to its records.
pub struct RecordsParts {
    pub runtime: Runtime,
    pub transport: Arc<dyn Transport>,
    pub store: Arc<dyn OrderedStore>,
    /// The node's log, as [`SharedLog::open`] gave it.
    pub log: SharedLog,
    pub recovery: Recovery,
    pub procedures: Procedures,
    pub map: watch::Receiver<Arc<ShardMap>>,
}

/// The records can't be opened; the node can't start with this disk.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the replicas' state can't be read")]
    Store(#[from] StoreError),
    #[error("replica {replica} can't be opened")]
    Raft {
        replica: ReplicaId,
        #[source]
        source: raft::Error,
    },
    #[error("the shared log can't be used")]
    Log(#[from] LogError),
}

/// Between two looks at how far a hand-over is.
const HAND_OVER_PAUSE: Duration = Duration::from_millis(20);

/// A stop waits so long for the store, and looks so often.
const SETTLE_TIME_MAX: Duration = Duration::from_secs(2);
const SETTLE_PAUSE: Duration = Duration::from_millis(10);

/// All shards, wherever their replicas are: commands and queries find the leader.
/// The last clone that goes stops what runs here.
#[derive(Clone)]
pub struct Records {
    inner: Arc<Inner>,
}

struct Inner {
    runtime: Runtime,
    store: Arc<dyn OrderedStore>,
    log: SharedLog,
    client: Arc<Client>,
    apply: mpsc::UnboundedSender<Job>,
    failed: watch::Sender<Option<String>>,
    _tasks: [AbortOnDrop; 4],
}

impl Records {
    /// Opens every replica that this node has, and serves them.
    pub async fn start(parts: RecordsParts) -> Result<Records, StartError> {
        Self::start_observed(parts, None).await
    }

    /// As [`Records::start`], with somebody who watches the groups.
    pub async fn start_observed(
        parts: RecordsParts,
        observer: Option<Arc<dyn Observer>>,
    ) -> Result<Records, StartError> {
        let RecordsParts { runtime, transport, store, log, recovery, procedures, map } = parts;
        let mut procedures = procedures;
        transaction::register(&mut procedures);
        lease::register(&mut procedures);
        let procedures = Arc::new(procedures);
        let directory = Directory::default();
        let metrics = Arc::new(Metrics::default());
        let failed = watch::Sender::new(None);
        let (inbox_tx, inbox) = mpsc::channel(INBOX_MAX);
        let (feedback_tx, feedback) = mpsc::unbounded_channel();
        let (log_tx, log_rx) = mpsc::unbounded_channel();
        let (apply_tx, apply_rx) = mpsc::unbounded_channel();

        let found = {
            let mut rng = runtime.rng();
            let (store, log_end) = (store.clone(), log.flushed());
            let random = [rng.random(), rng.random()];
            runtime.blocking(move || {
                let found = read_replicas(&*store)?;
                let replicas = found.iter().map(|(descriptor, _)| descriptor.replica).collect();
                Ok::<_, StoreError>((Lives::begin(&*store, log_end, &replicas, random)?, found))
            })
        };
        let (lives, found) = found.await?;
        let forgotten = match recovery.verdict {
            LogVerdict::Clean | LogVerdict::TornTail { .. } => BTreeSet::new(),
            LogVerdict::Damaged { forgotten, findings } => {
                tracing::error!(?findings, "the log is damaged");
                forgotten
            }
        };
        let mut groups = BTreeMap::new();
        let mut absent = BTreeMap::new();
        let mut known = BTreeSet::new();
        for (descriptor, found) in found {
            let (shard, replica) = (descriptor.shard, descriptor.replica);
            known.insert(replica);
            let reading = store.clone();
            let alone = runtime.blocking(move || Alone::read(&*reading, replica)).await;
            let (meta, alone) = match (found, alone) {
                (Ok(meta), Ok(alone)) => (Ok(meta), alone),
                (Err(error), _) | (_, Err(error)) => (Err(error), None),
            };
            let opened = match &meta {
                _ if forgotten.contains(&replica) && !is_broken(Broken::DamagedVotes) => {
                    Err(OpenError::Forgotten("its log is damaged"))
                }
                _ if lives.forgotten.contains(&replica) => Err(OpenError::Forgotten(NOTED)),
                Err(error) if error.is_unreadable() => {
                    tracing::error!(%shard, %replica, error = error as &dyn std::error::Error, "unreadable");
                    Err(OpenError::Forgotten("its state can't be read"))
                }
                Err(_) => return Err(StartError::Store(meta.expect_err("seen here"))),
                Ok(meta) => {
                    log::open(&log, &descriptor, recovery.replicas.get(&replica), meta.as_ref()).await
                }
            };
            match opened {
                Ok(group_log) => {
                    let group = open(&descriptor, meta?, alone, group_log, &apply_tx)?;
                    directory.lock().expect("nobody panics holding it").insert(shard, group.local());
                    groups.insert(replica, group);
                }
                Err(OpenError::Forgotten(reason)) => {
                    tracing::error!(%shard, %replica, reason, "a replica has forgotten");
                    if let Some(observer) = &observer {
                        observer.forgotten(shard, replica);
                    }
                    absent.insert(replica, (shard, Role::Forgotten { reason: reason.into() }));
                }
                Err(OpenError::Log(LogError::Damaged { .. })) => {
                    let reason = "an entry in its log is damaged".into();
                    if let Some(observer) = &observer {
                        observer.forgotten(shard, replica);
                    }
                    absent.insert(replica, (shard, Role::Forgotten { reason }));
                }
                Err(OpenError::Log(error)) => return Err(error.into()),
            }
        }
        for orphan in recovery.replicas.keys().filter(|replica| !known.contains(replica)) {
            // Its creation or removal was cut short, or the store has lost it; it comes
            // back, if it does, as an empty one.
            log.remove(*orphan).await?;
        }
        let dirty: BTreeSet<ReplicaId> = groups.keys().copied().collect();

        let client = Arc::new(Client {
            runtime: runtime.clone(),
            transport: transport.clone(),
            store: store.clone(),
            procedures: procedures.clone(),
            map: map.clone(),
            directory: directory.clone(),
            inbox: inbox_tx.clone(),
            leaders: Mutex::default(),
            metrics: metrics.clone(),
            feedback: feedback_tx.clone(),
        });
        let worker = Worker {
            runtime: runtime.clone(),
            store: store.clone(),
            procedures,
            feedback: feedback_tx.clone(),
            metrics: metrics.clone(),
        };
        let snapshots = Arc::new(Snapshots {
            runtime: runtime.clone(),
            store: store.clone(),
            open: Mutex::default(),
            feedback: feedback_tx.clone(),
        });
        let driver = Driver {
            runtime: runtime.clone(),
            transport: transport.clone(),
            witness: Witness::new(runtime.clone(), store.clone(), log.clone(), lives),
            directory,
            log: log_tx,
            apply: apply_tx.clone(),
            feedback: feedback_tx.clone(),
            map,
            snapshots: snapshots.clone(),
            fills: Arc::new(Semaphore::new(FILLS_MAX)),
            ticks: 0,
            failed: failed.clone(),
            metrics: metrics.clone(),
            shared_log: log.clone(),
            observer: observer.clone(),
            unflushed_bytes: 0,
            rested: 0,
            absent,
            groups,
            dirty,
        };
        let writer = Writer { runtime: runtime.clone(), log: log.clone(), feedback: feedback_tx, metrics };
        let tasks = [
            runtime.spawn_owned("records-log", writer.run(log_rx)),
            runtime.spawn_owned("records-apply", worker.run(apply_rx)),
            runtime.spawn_owned(
                "records-leases",
                lease::Keeper { runtime: runtime.clone(), client: client.clone() }.run(),
            ),
            runtime.spawn_owned("records-driver", driver.run(inbox, feedback)),
        ];
        transport.serve(Protocol::Raft, Arc::new(RaftHandler { inbox: inbox_tx, snapshots }));
        transport.serve(Protocol::Records, Arc::new(RecordsHandler(client.clone())));
        Ok(Records {
            inner: Arc::new(Inner { runtime, store, log, client, apply: apply_tx, failed, _tasks: tasks }),
        })
    }

    /// Runs `command` in `shard` once, however often it is retried under this `id`.
    pub async fn execute(
        &self,
        shard: ShardId,
        id: TransactionId,
        command: &'static str,
        input: Bytes,
        deadline: Instant,
    ) -> Result<Executed, RecordsError> {
        self.inner.client.execute(shard, id, command, input, deadline).await
    }

    /// Runs `query` on the state that holds every write acknowledged before the call.
    pub async fn query(
        &self,
        shard: ShardId,
        query: &'static str,
        input: Bytes,
        deadline: Instant,
    ) -> Result<Bytes, RecordsError> {
        self.inner.client.query(shard, query, input, deadline).await
    }

    /// All of a shard as of now, to be read at leisure; `None` if this node does not lead it.
    pub async fn view(&self, shard: ShardId, deadline: Instant) -> Option<ShardView> {
        self.inner.client.view(shard, deadline).await
    }

    /// The shards that a replica here leads.
    pub fn led_here(&self) -> Vec<ShardId> {
        self.inner.client.led_here().into_iter().map(|(shard, ..)| shard).collect()
    }

    pub(crate) async fn news(
        &self,
        shard: ShardId,
        prefix: Bytes,
        since: Revision,
        deadline: Instant,
    ) -> Result<News, RecordsError> {
        self.inner.client.news(shard, prefix, since, deadline).await
    }

    pub(crate) fn now(&self) -> Instant {
        self.inner.runtime.now()
    }

    /// Opens a replica on this node: one of the founding voters, or an empty one that a
    /// leader will fill. Doing it again changes nothing.
    pub async fn create_replica(
        &self,
        shard: ShardId,
        replica: ReplicaId,
        founding: Option<Vec<ReplicaAddress>>,
    ) -> Result<(), RecordsError> {
        if replica == ReplicaId(0) {
            return Err(RecordsError::Invalid { reason: "replica 0 is nobody".into() });
        }
        if founding.as_ref().is_some_and(|voters| voters.iter().all(|voter| voter.replica != replica)) {
            let reason = format!("replica {replica} is not among the founding voters");
            return Err(RecordsError::Invalid { reason });
        }
        let invalid = |error: &dyn std::error::Error| RecordsError::Invalid { reason: error.to_string() };
        let store = self.inner.store.clone();
        let known = self.inner.runtime.blocking(move || read_replica(&*store, replica)).await;
        if known.map_err(|error| invalid(&error))?.is_some() {
            return Ok(());
        }
        let meta = founding.map(founding_meta);
        let (index, term) = meta.as_ref().map_or((0, 0), |meta| (meta.applied.0, meta.applied_term));
        // The log first: a replica whose log knows nothing of it counts as one that has
        // forgotten.
        self.inner
            .log
            .append(vec![log::founding(replica, index, term)])
            .await
            .map_err(|error| invalid(&error))?;
        let generation = u32::from(meta.is_some());
        let descriptor = Descriptor { shard, replica, generation, began_at: index };
        let (store, written) = (self.inner.store.clone(), (descriptor.clone(), meta.clone()));
        self.inner
            .runtime
            .blocking(move || create(&*store, &written.0, written.1.as_ref()))
            .await
            .map_err(|error| invalid(&error))?;
        let recovered = RecoveredReplica {
            state: self.inner.log.state(replica),
            first_index: self.inner.log.first_index(replica),
            last_index: self.inner.log.last_index(replica),
        };
        let group_log = log::open(&self.inner.log, &descriptor, Some(&recovered), meta.as_ref())
            .await
            .map_err(|error| invalid(&error))?;
        let group =
            open(&descriptor, meta, None, group_log, &self.inner.apply).map_err(|error| invalid(&error))?;
        let (added_tx, added) = oneshot::channel();
        let input = Input::Add { group: Box::new(group), added: added_tx };
        if self.inner.client.inbox.send(input).await.is_err() || added.await.is_err() {
            return Err(RecordsError::Unavailable { shard });
        }
        Ok(())
    }

    /// Closes a replica on this node and deletes what it kept.
    pub async fn remove_replica(&self, replica: ReplicaId) -> Result<(), RecordsError> {
        let (removed_tx, removed) = oneshot::channel();
        let (closed_tx, closed) = oneshot::channel();
        let stopped =
            self.inner.client.inbox.send(Input::Remove { replica, removed: removed_tx }).await.is_ok()
                && removed.await.is_ok()
                && self.inner.apply.send(Job::Close { replica, closed: closed_tx }).is_ok()
                && closed.await.is_ok();
        if !stopped {
            return Err(RecordsError::Invalid { reason: "this node is stopping".into() });
        }
        let store = self.inner.store.clone();
        self.inner
            .runtime
            .blocking(move || delete(&*store, replica))
            .await
            .map_err(|error| RecordsError::Invalid { reason: error.to_string() })?;
        self.inner
            .log
            .remove(replica)
            .await
            .map_err(|error| RecordsError::Invalid { reason: error.to_string() })
    }

    /// Every replica on this node, in no particular order of shards.
    pub async fn status(&self) -> Vec<ReplicaStatus> {
        let (reply, status) = oneshot::channel();
        if self.inner.client.inbox.send(Input::Status { reply }).await.is_err() {
            return Vec::new();
        }
        status.await.unwrap_or_default()
    }

    /// What was counted since the start.
    pub fn metrics(&self) -> RecordsMetrics {
        self.inner.client.metrics.read()
    }

    /// Waits until nothing here can go on, because the disk failed, and says why. The
    /// process should stop then: wrong is worse than down.
    pub async fn failed(&self) -> String {
        let mut failed = self.inner.failed.subscribe();
        match failed.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            // The sender lives as long as this handle.
            Err(_) => String::new(),
        }
    }

    /// Gives leadership of all shards to others, as a node does before it stops. Waits
    /// until that is done, or `limit`.
    pub async fn hand_over(&self, limit: Duration) {
        let all_gone = async {
            loop {
                // A node that is stopping leads nothing for long.
                let _ = self.inner.client.inbox.send(Input::HandOver).await;
                let status = self.status().await;
                let alone = |replica: &ReplicaStatus| replica.voters.len() < 2;
                if !status.iter().any(|replica| replica.role == Role::Leader && !alone(replica)) {
                    return;
                }
                self.inner.runtime.sleep(HAND_OVER_PAUSE).await;
            }
        };
        if self.inner.runtime.timeout(limit, all_gone).await.is_err() {
            tracing::warn!("leadership could not be handed over in time");
        }
    }

    /// Gives leadership of a shard that this node leads to one of its voters, if that has
    /// the whole log and was heard of lately. Returns at once; `status` shows who leads.
    pub async fn hand_to(&self, shard: ShardId, replica: ReplicaId) -> Result<(), RecordsError> {
        let input = Input::HandTo { shard, replica };
        self.inner.client.inbox.send(input).await.map_err(|_| RecordsError::Unavailable { shard })
    }

    /// Makes the state in the store durable and trims the log. Happens by itself; before
    /// a stop it spares the next start some work.
    pub async fn checkpoint(&self) {
        let (done, finished) = oneshot::channel();
        if self.inner.client.inbox.send(Input::Checkpoint { done }).await.is_ok() {
            // Not if the disk failed, and then nothing can be done.
            let _ = finished.await;
        }
        let Inner { runtime, store, .. } = &*self.inner;
        settle(runtime, store.clone()).await;
        let settled = async {
            while !store.is_settled() {
                runtime.sleep(SETTLE_PAUSE).await;
            }
        };
        // What is left, the next start reads.
        let _ = runtime.timeout(SETTLE_TIME_MAX, settled).await;
    }

    /// Moves a shard that this node leads towards `target`: missing replicas become
    /// learners and catch up, then one joint change makes the target's voters vote and
    /// removes the others. Returns at once; `status` shows how far it is. Does nothing on
    /// a node that does not lead the shard, and nothing when the target is reached, so ask
    /// every node, and again after leadership has moved.
    pub async fn reconfigure(&self, shard: ShardId, target: ShardReplicas) -> Result<(), RecordsError> {
        let input = Input::Reconfigure { shard, target };
        self.inner.client.inbox.send(input).await.map_err(|_| RecordsError::Unavailable { shard })
    }
}

/// Has the store tidy up. What it fails in costs the next start some work, and nothing else.
pub(crate) async fn settle(runtime: &Runtime, store: Arc<dyn OrderedStore>) {
    if let Err(error) = runtime.blocking(move || store.settle()).await {
        tracing::warn!(error = &error as &dyn std::error::Error, "the store could not tidy up");
    }
}

/// A replica that the store has, and what it knows of itself.
pub(crate) type FoundReplica = (Descriptor, Result<Option<Meta>, StoreError>);

pub(crate) fn read_replicas(store: &dyn OrderedStore) -> Result<Vec<FoundReplica>, StoreError> {
    let descriptors = Descriptor::read_all(store)?;
    delete_leftovers(store, &descriptors)?;
    let snapshot = store.snapshot()?;
    let with_meta = |descriptor: Descriptor| {
        let meta = Meta::read(&*snapshot, descriptor.place());
        (descriptor, meta)
    };
    Ok(descriptors.into_iter().map(with_meta).collect())
}

fn read_replica(store: &dyn OrderedStore, replica: ReplicaId) -> Result<Option<Descriptor>, StoreError> {
    Descriptor::read(&*store.snapshot()?, replica)
}

fn founding_meta(founding: Vec<ReplicaAddress>) -> Meta {
    let mut voters: Vec<ReplicaId> = founding.iter().map(|voter| voter.replica).collect();
    voters.sort_unstable();
    let nodes = founding.into_iter().map(|voter| (voter.replica, voter.node)).collect();
    Meta::founding(Members { voters, nodes, ..Members::default() })
}

fn create(store: &dyn OrderedStore, descriptor: &Descriptor, meta: Option<&Meta>) -> Result<(), StoreError> {
    let mut batch = WriteBatch::default();
    batch.put(Table::Local, Descriptor::key(descriptor.replica), descriptor.encode());
    if let Some(meta) = meta {
        batch.put(Table::Records, descriptor.place().key(Area::Meta, &[]), meta.encode());
    }
    store.write(batch)?;
    // A replica that promised anything must not be forgotten.
    store.flush()
}

pub(crate) fn delete(store: &dyn OrderedStore, replica: ReplicaId) -> Result<(), StoreError> {
    let mut batch = WriteBatch::default();
    batch.delete(Table::Local, Descriptor::key(replica));
    batch.delete(Table::Local, Alone::key(replica));
    store.write(batch)?;
    delete_readable(store, &Place::every_generation(replica))?;
    store.flush()
}

fn open(
    descriptor: &Descriptor,
    meta: Option<Meta>,
    alone: Option<Alone>,
    group_log: GroupLog,
    apply: &mpsc::UnboundedSender<Job>,
) -> Result<Group, StartError> {
    let replica = descriptor.replica;
    let index = meta.as_ref().map_or(0, |meta| meta.applied.0);
    let members = meta.as_ref().map(|meta| meta.members.clone()).unwrap_or_default();
    let (stamp, hash) = meta.as_ref().map(|meta| (meta.stamp, meta.hash)).unwrap_or_default();
    let shared = Arc::new(ReplicaShared::new(descriptor.shard, replica, index));
    let job = Job::Open { shared: shared.clone(), place: descriptor.place(), meta };
    // The worker starts before anything is applied, and stops last.
    let _ = apply.send(job);
    let group = Group::new(shared, members, group_log, stamp, hash, &logger());
    let mut group = group.map_err(|source| StartError::Raft { replica, source })?;
    group.changes_void_through = alone.map_or(0, |alone| alone.void_through);
    Ok(group)
}
