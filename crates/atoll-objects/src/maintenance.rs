//! What a node does by itself: repair, moves, reclaim and scrub, which keep the copies
//! whole, its share of buckets' lifecycles, and snapshots of the shards that it leads.
//! Each is one loop in a file of its own, all at a bounded pace.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use atoll_disk::{OrderedStore, StoreError, Table, WriteBatch};
use atoll_runtime::{AbortOnDrop, Runtime};
use atoll_types::{ByteSize, Format, Instant, ShardId};
use serde::{Deserialize, Serialize};

use crate::{
    lifecycle, mover,
    objects::Objects,
    reclaim, repair, scrub,
    snapshot::{self, SnapshotSettings},
};

/// How hard a node works on its copies.
#[derive(Debug, Clone)]
pub struct MaintenanceSettings {
    /// How often each shard is asked for references that are new. 10 s: a copy that a
    /// put didn't wait for is missing for about that long. Lower costs idle queries (64
    /// shards every 10 s are 6 a second), higher leaves two copies instead of three for
    /// longer. Watch `copies_missing`.
    pub check_every: Duration,
    /// How often everything is compared anew, whatever was verified before. A week: it
    /// reads every manifest once.
    pub walk_every: Duration,
    /// The least time between two sweeps (rule 9). An hour: reads that run longer than two
    /// sweeps may lose their object's manifest after it was replaced; what was deleted
    /// takes up space for two to three of these.
    pub sweep_every: Duration,
    /// How long one pass over every stored byte may take. Two weeks: two copies rotting
    /// within one pass is what loses data, and 10 TB in two weeks read 8 MiB/s.
    pub scrub_every: Duration,
    /// For repair and moves together, of this node. 100 MiB/s leaves most of a common
    /// disk and network to users; raise it to replace a node sooner.
    pub copy_bytes_per_second: ByteSize,
    /// A day of buckets' lifecycle rules. Shorter only for tests; the same on all nodes,
    /// since any of them may have the next round.
    pub lifecycle_day: Duration,
    /// `None`: this node takes none.
    pub snapshots: Option<SnapshotSettings>,
    /// Begin with a walk: the chunk store lost something that it can't name.
    pub walk_first: bool,
}

impl Default for MaintenanceSettings {
    fn default() -> Self {
        Self {
            check_every: Duration::from_secs(10),
            walk_every: Duration::from_secs(7 * 86_400),
            sweep_every: Duration::from_secs(3600),
            scrub_every: Duration::from_secs(14 * 86_400),
            copy_bytes_per_second: ByteSize::mib(100),
            lifecycle_day: Duration::from_secs(86_400),
            snapshots: None,
            walk_first: false,
        }
    }
}

/// How far things are, as this node sees its own share.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MaintenanceStatus {
    /// Chunks that this node should have and knows it lacks.
    pub copies_missing: u64,
    /// Restored since the start.
    pub copies_restored: u64,
    /// Slots that this node has still to fill, and to give away.
    pub slots_arriving: u64,
    pub slots_retiring: u64,
    /// Copied for moves since the start, in either direction.
    pub bytes_moved: u64,
    /// The reclaim epoch up to which this node has removed what nobody refers to.
    pub reclaimed_epoch: u64,
    pub chunks_reclaimed: u64,
    /// Read and verified since the start.
    pub bytes_scrubbed: u64,
    pub chunks_found_damaged: u64,
}

/// The running loops; they end with it.
pub struct Maintenance {
    status: Arc<Mutex<MaintenanceStatus>>,
    walks_wanted: Arc<AtomicU64>,
    _loops: [AbortOnDrop; 5],
    _snapshots: Option<AbortOnDrop>,
}

impl Maintenance {
    pub fn status(&self) -> MaintenanceStatus {
        self.status.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Everything is to be compared anew, whatever was verified before: this disk may hold
    /// less than its notes say, or than the layout believes.
    pub fn walk_soon(&self) {
        self.walks_wanted.fetch_add(1, Ordering::Relaxed);
    }
}

impl Objects {
    /// Begins to keep this node's copies whole. What must be remembered goes to `store`.
    /// Once per node: a second call finds the reports of missing chunks taken.
    pub fn maintain(&self, store: Arc<dyn OrderedStore>, settings: MaintenanceSettings) -> Maintenance {
        let runtime = self.inner.runtime.clone();
        let status: Arc<Mutex<MaintenanceStatus>> = Arc::default();
        let walks_wanted: Arc<AtomicU64> = Arc::default();
        let worker = Worker {
            objects: self.clone(),
            notes: Notes { runtime: runtime.clone(), store },
            throttle: Throttle::new(runtime.clone(), settings.copy_bytes_per_second.0),
            settings,
            status: status.clone(),
            walks_wanted: walks_wanted.clone(),
        };
        let snapshots = worker.settings.snapshots.clone();
        let snapshots = snapshots
            .map(|settings| runtime.spawn_owned("snapshots", snapshot::run(worker.clone(), settings)));
        let suspicious = self.inner.suspicious.lock().unwrap_or_else(PoisonError::into_inner).take();
        let loops = [
            runtime.spawn_owned("repair", repair::run(worker.clone(), suspicious)),
            runtime.spawn_owned("mover", mover::run(worker.clone())),
            runtime.spawn_owned("reclaim", reclaim::run(worker.clone())),
            runtime.spawn_owned("lifecycle", lifecycle::run(worker.clone())),
            runtime.spawn_owned("scrub", scrub::run(worker)),
        ];
        Maintenance { status, walks_wanted, _loops: loops, _snapshots: snapshots }
    }
}

/// What every loop works with.
#[derive(Clone)]
pub(crate) struct Worker {
    pub objects: Objects,
    pub notes: Notes,
    pub throttle: Throttle,
    pub settings: MaintenanceSettings,
    status: Arc<Mutex<MaintenanceStatus>>,
    /// Counts the calls of [`Maintenance::walk_soon`].
    walks_wanted: Arc<AtomicU64>,
}

impl Worker {
    pub fn walks_wanted(&self) -> u64 {
        self.walks_wanted.load(Ordering::Relaxed)
    }

    pub fn runtime(&self) -> &Runtime {
        &self.objects.inner.runtime
    }

    pub fn report(&self, change: impl FnOnce(&mut MaintenanceStatus)) {
        change(&mut self.status.lock().unwrap_or_else(PoisonError::into_inner));
    }

    pub fn data_shards(&self) -> Vec<ShardId> {
        (1..=self.objects.inner.holders.layout().settings().data_shards).map(ShardId).collect()
    }
}

/// What a node remembers of this across restarts. A lost note makes work, nothing else.
#[derive(Clone)]
pub(crate) struct Notes {
    runtime: Runtime,
    store: Arc<dyn OrderedStore>,
}

/// A number under a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Note<T>(pub T);

impl<T: Serialize + serde::de::DeserializeOwned> Format for Note<T> {
    const NAME: &'static str = "objects note";
    const VERSION: u8 = 1;
}

impl Notes {
    fn key(name: &str) -> Vec<u8> {
        [b"objects/", name.as_bytes()].concat()
    }

    /// `None` if it was never written, can't be read, or has a form that isn't known any
    /// more: what it notes is done anew.
    pub async fn read<T>(&self, name: String) -> Option<T>
    where
        T: Serialize + serde::de::DeserializeOwned + Send + 'static,
    {
        let store = self.store.clone();
        let read = move || store.get(Table::Local, &Self::key(&name));
        let bytes = self.runtime.blocking(read).await.unwrap_or_else(|error| {
            tracing::warn!(error = &error as &dyn std::error::Error, "a note can't be read");
            None
        });
        bytes.and_then(|bytes| Note::<T>::decode(&bytes).ok()).map(|note| note.0)
    }

    pub async fn write<T>(&self, name: String, value: T) -> Result<(), StoreError>
    where
        T: Serialize + serde::de::DeserializeOwned + Send + 'static,
    {
        let store = self.store.clone();
        let write = move || {
            let mut batch = WriteBatch::default();
            batch.put(Table::Local, Self::key(&name), Note(value).encode());
            store.write(batch)
        };
        self.runtime.blocking(write).await
    }
}

/// Paces work to a number of bytes per second. Clones share the pace.
#[derive(Clone)]
pub(crate) struct Throttle {
    runtime: Runtime,
    bytes_per_second: u64,
    /// When the next may begin.
    next: Arc<Mutex<Instant>>,
}

impl Throttle {
    pub fn new(runtime: Runtime, bytes_per_second: u64) -> Self {
        Self { runtime, bytes_per_second: bytes_per_second.max(1), next: Arc::default() }
    }

    /// Returns when `bytes` more may be moved.
    pub async fn take(&self, bytes: u64) {
        let takes = Duration::from_nanos(bytes.saturating_mul(1_000_000_000) / self.bytes_per_second);
        let begin = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let begin = (*next).max(self.runtime.now());
            *next = begin + takes;
            begin
        };
        self.runtime.sleep_until(begin).await;
    }
}
