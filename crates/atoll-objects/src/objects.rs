//! The handle that the gateway uses, and how its operations reach the shards.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use atoll_disk::ChunkStore;
use atoll_placement::Layout;
use atoll_records::Records;
use atoll_runtime::{Runtime, watch};
use atoll_transport::{Protocol, Transport};
use atoll_types::{ChunkHash, Format, Instant, NodeId, ShardId, TransactionId};
use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::{Notify, Semaphore, mpsc};

use crate::{
    chunker::ChunkSizes,
    encryption::{RootKey, RootKeyId},
    error::Unavailable,
    holder::{ChunkHandler, Holder},
    holders::Holders,
    ingest::NODE_IN_FLIGHT_BYTES,
    layout_link::LayoutLink,
    names::{BucketId, BucketName},
    request::BucketInfo,
    shard::{Answer, Ask, CommandName, QueryName, Refused, bucket, name, records::OwnedRange},
};

/// What a node hands to its objects.
pub struct ObjectsParts {
    pub runtime: Runtime,
    pub transport: Arc<dyn Transport>,
    pub records: Records,
    pub chunks: ChunkStore,
    pub layout: watch::Receiver<Arc<Layout>>,
    pub link: Arc<dyn LayoutLink>,
    /// What may be written (rule 18); 0 until it is known.
    pub cluster_version: watch::Receiver<u32>,
    /// What SSE-S3 encrypts with; without it, what is so encrypted is refused.
    pub root_key: Option<RootKey>,
    pub settings: ObjectsSettings,
}

#[derive(Debug, Clone)]
pub struct ObjectsSettings {
    /// How long an operation may wait for elections and slow holders before it says
    /// [`Unavailable`]. 4 s: an election takes under 3 s, and a node that is cut off
    /// must have said so within 5, on a busy machine too. A put's clock starts again after its body: the client sets
    /// that pace.
    pub patience: Duration,
    pub chunks: ChunkSizes,
}

impl Default for ObjectsSettings {
    fn default() -> Self {
        Self { patience: Duration::from_secs(4), chunks: ChunkSizes::default() }
    }
}

/// Chunks noted for repair at a time; what is over is found by its walks.
const SUSPICIOUS_MAX: usize = 1024;
/// How often an operation follows a bucket that is being made, freed or moved.
pub(crate) const BUCKET_ATTEMPTS: usize = 4;

/// Buckets and objects of the whole cluster, as seen from any node. Cheap to clone.
#[derive(Clone)]
pub struct Objects {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub runtime: Runtime,
    pub records: Records,
    pub holders: Holders,
    pub settings: ObjectsSettings,
    pub cluster_version: watch::Receiver<u32>,
    pub root_key: Option<RootKey>,
    /// Which one the cluster has. Set by the first who asks, and never changed.
    pub cluster_root_key: OnceLock<RootKeyId>,
    /// When this node first knew that there may be encryption.
    pub encryption_heard: OnceLock<Instant>,
    /// Which buckets take nothing in the clear, and when they were asked.
    encrypted_buckets: Mutex<BTreeMap<BucketId, (bool, Instant)>>,
    /// Where buckets were when somebody last asked. It may be old: the shard that is
    /// asked knows what it owns, and its "no" leads to shard 0.
    buckets: Mutex<BTreeMap<BucketName, Arc<BucketInfo>>>,
    /// Reclaim epochs of shards, and when they were read.
    epochs: Mutex<BTreeMap<ShardId, (u64, Instant)>>,
    /// Bytes of chunks that all puts together may have on their way.
    pub ingest_room: Arc<Semaphore>,
    /// For the repair worker, which takes it.
    pub suspicious: Mutex<Option<mpsc::Receiver<ChunkHash>>>,
    /// Somebody has begun a round of snapshots here, and waits for it.
    pub snapshots_wanted: Notify,
}

impl Objects {
    /// Begins to serve chunks to the other nodes.
    pub fn new(parts: ObjectsParts) -> Self {
        let ObjectsParts {
            runtime,
            transport,
            records,
            chunks,
            layout,
            link,
            cluster_version,
            root_key,
            settings,
        } = parts;
        let me: NodeId = transport.node_id();
        let (suspicious_tx, suspicious) = mpsc::channel(SUSPICIOUS_MAX);
        let holder = Arc::new(Holder::new(runtime.clone(), me, chunks, layout, link, suspicious_tx));
        transport.serve(Protocol::Chunks, Arc::new(ChunkHandler(holder.clone())));
        let holders = Holders::new(runtime.clone(), transport, holder);
        let inner = Inner {
            runtime,
            records,
            holders,
            settings,
            cluster_version,
            root_key,
            cluster_root_key: OnceLock::new(),
            encryption_heard: OnceLock::new(),
            encrypted_buckets: Mutex::default(),
            buckets: Mutex::default(),
            epochs: Mutex::default(),
            ingest_room: Arc::new(Semaphore::new(NODE_IN_FLIGHT_BYTES)),
            suspicious: Mutex::new(Some(suspicious)),
            snapshots_wanted: Notify::new(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Bytes of chunks that this node has sent to others that asked for them.
    pub fn chunk_bytes_served(&self) -> u64 {
        self.inner.holders.holder().bytes_served.load(std::sync::atomic::Ordering::Relaxed)
    }

    /// When an operation that starts now gives up.
    pub(crate) fn deadline(&self) -> Instant {
        self.inner.runtime.now() + self.inner.settings.patience
    }

    /// Asks a shard. The inner error is the shard's definite "no".
    pub(crate) async fn query<I, O>(
        &self,
        shard: ShardId,
        query: &QueryName<I, O>,
        input: I,
        deadline: Instant,
    ) -> Result<Result<O, Refused>, Unavailable>
    where
        I: Serialize + DeserializeOwned,
        O: Serialize + DeserializeOwned,
    {
        let input = Bytes::from(Ask(input).encode());
        let output = self.inner.records.query(shard, query.name, input, deadline).await?;
        Ok(Answer::decode(&output)?.0)
    }

    /// Runs a command in a shard, once under this id however often it is retried.
    pub(crate) async fn execute<I, O>(
        &self,
        shard: ShardId,
        id: TransactionId,
        command: &CommandName<I, O>,
        input: I,
        deadline: Instant,
    ) -> Result<Result<O, Refused>, Unavailable>
    where
        I: Serialize + DeserializeOwned,
        O: Serialize + DeserializeOwned,
    {
        let input = Bytes::from(Ask(input).encode());
        let executed = self.inner.records.execute(shard, id, command.name, input, deadline).await?;
        Ok(Answer::decode(&executed.output)?.0)
    }

    pub(crate) fn epochs(&self) -> std::sync::MutexGuard<'_, BTreeMap<ShardId, (u64, Instant)>> {
        self.inner.epochs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn encrypted_buckets(&self) -> std::sync::MutexGuard<'_, BTreeMap<BucketId, (bool, Instant)>> {
        self.inner.encrypted_buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn buckets(&self) -> std::sync::MutexGuard<'_, BTreeMap<BucketName, Arc<BucketInfo>>> {
        self.inner.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The bucket, as remembered or as shard 0 says. Only shard 0 says that there is none.
    pub(crate) async fn bucket(
        &self,
        bucket: &BucketName,
        deadline: Instant,
    ) -> Result<Option<Arc<BucketInfo>>, Unavailable> {
        if let Some(known) = self.buckets().get(bucket) {
            return Ok(Some(known.clone()));
        }
        self.look_up_bucket(bucket, deadline).await
    }

    /// The bucket as this node knows it, or, if it knows none, as shard 0 does. It may have
    /// been deleted; an operation then goes on with a later bucket of that name only if
    /// that one has the same owner.
    pub async fn known_bucket(&self, bucket: &BucketName) -> Result<Option<Arc<BucketInfo>>, Unavailable> {
        self.bucket(bucket, self.deadline()).await
    }

    pub(crate) async fn look_up_bucket(
        &self,
        bucket: &BucketName,
        deadline: Instant,
    ) -> Result<Option<Arc<BucketInfo>>, Unavailable> {
        let answer = self.query(ShardId::META, &name::LOOKUP, bucket.clone(), deadline).await?;
        let found = answer.map_err(unexpected)?.map(Arc::new);
        match &found {
            Some(info) => drop(self.buckets().insert(bucket.clone(), info.clone())),
            None => drop(self.buckets().remove(bucket)),
        }
        Ok(found)
    }

    /// What to do when a data shard does not know the bucket as we do: the bucket to try
    /// again with, or `None` if there is no such bucket any more. What somebody began and
    /// did not finish, opening or freeing, is finished here.
    pub(crate) async fn follow_bucket(
        &self,
        known: &BucketInfo,
        refused: &Refused,
        deadline: Instant,
    ) -> Result<Option<Arc<BucketInfo>>, Unavailable> {
        let current = self.current_bucket(known, refused, deadline).await?;
        // Whoever asked was let in by the former owner's rules: it asks again.
        match &current {
            Some(current) if current.owner != known.owner => Err(Unavailable::Unsettled),
            Some(_) | None => Ok(current),
        }
    }

    async fn current_bucket(
        &self,
        known: &BucketInfo,
        refused: &Refused,
        deadline: Instant,
    ) -> Result<Option<Arc<BucketInfo>>, Unavailable> {
        match refused {
            Refused::UnknownBucket => {
                let current = self.look_up_bucket(&known.name, deadline).await?;
                if let Some(bucket) = &current {
                    // What it refuses, the next attempt meets as well.
                    let _opened = self.open_bucket(bucket, deadline).await?;
                }
                Ok(current)
            }
            Refused::SealedBucket => {
                self.free_bucket(known, deadline).await?;
                self.look_up_bucket(&known.name, deadline).await
            }
            Refused::FreedBucket | Refused::WrongShard => {
                let current = self.look_up_bucket(&known.name, deadline).await?;
                Ok(current.filter(|current| current.id != known.id || *refused == Refused::WrongShard))
            }
            other => Err(unexpected(other.clone())),
        }
    }

    /// Asks the bucket's first range, wherever that is by now. `None` if there is no such bucket.
    pub(crate) async fn ask_bucket<I, O>(
        &self,
        bucket: &BucketName,
        query: &QueryName<I, O>,
        question: impl Fn(BucketId) -> I,
        deadline: Instant,
    ) -> Result<Option<O>, Unavailable>
    where
        I: Serialize + DeserializeOwned,
        O: Serialize + DeserializeOwned,
    {
        let Some(info) = self.bucket(bucket, deadline).await? else { return Ok(None) };
        let asked = self.ask_known_bucket(info, query, question, deadline).await?;
        Ok(asked.map(|(_, answer)| answer))
    }

    /// The same of a bucket that an operation goes on with; gives where it is by now, too.
    pub(crate) async fn ask_known_bucket<I, O>(
        &self,
        mut info: Arc<BucketInfo>,
        query: &QueryName<I, O>,
        question: impl Fn(BucketId) -> I,
        deadline: Instant,
    ) -> Result<Option<(Arc<BucketInfo>, O)>, Unavailable>
    where
        I: Serialize + DeserializeOwned,
        O: Serialize + DeserializeOwned,
    {
        for _ in 0..BUCKET_ATTEMPTS {
            let refused = match self.query(info.shard_of(&[]), query, question(info.id), deadline).await? {
                Ok(answer) => return Ok(Some((info, answer))),
                Err(refused) => refused,
            };
            let Some(current) = self.follow_bucket(&info, &refused, deadline).await? else { return Ok(None) };
            info = current;
        }
        Err(Unavailable::Unsettled)
    }

    /// Runs a command in every range of the bucket. `None` if there is no such bucket.
    pub(crate) async fn tell_bucket<I>(
        &self,
        bucket: &BucketName,
        command: &CommandName<I, ()>,
        order: impl Fn(BucketId) -> I,
        deadline: Instant,
    ) -> Result<Option<()>, Unavailable>
    where
        I: Serialize + DeserializeOwned,
    {
        let Some(mut info) = self.bucket(bucket, deadline).await? else { return Ok(None) };
        for _ in 0..BUCKET_ATTEMPTS {
            let mut refused: Option<Refused> = None;
            for range in &info.ranges {
                let id = self.inner.runtime.transaction_id();
                let done = self.execute(range.shard, id, command, order(info.id), deadline).await?;
                refused = refused.or(done.err());
            }
            let Some(refused) = refused else { return Ok(Some(())) };
            let Some(current) = self.follow_bucket(&info, &refused, deadline).await? else { return Ok(None) };
            info = current;
        }
        Err(Unavailable::Unsettled)
    }

    /// The second step of a bucket's creation; anyone may do it, any number of times.
    pub(crate) async fn open_bucket(
        &self,
        bucket: &BucketInfo,
        deadline: Instant,
    ) -> Result<Result<(), Refused>, Unavailable> {
        for (at, range) in bucket.ranges.iter().enumerate() {
            let end = bucket.ranges.get(at + 1).map(|next| next.start.clone());
            let owned = vec![OwnedRange { start: range.start.clone(), end }];
            let open = bucket::Open { bucket: bucket.id, owned };
            let id = self.inner.runtime.transaction_id();
            if let Err(refused) = self.execute(range.shard, id, &bucket::OPEN, open, deadline).await? {
                return Ok(Err(refused));
            }
        }
        Ok(Ok(()))
    }

    pub(crate) fn forget_bucket(&self, bucket: &BucketName) {
        self.buckets().remove(bucket);
    }
}

/// A "no" that no caller has a word for.
pub(crate) fn unexpected(refused: Refused) -> Unavailable {
    Unavailable::Refused(format!("{refused:?}"))
}
