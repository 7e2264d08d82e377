//! The handle that everyone above uses.

use std::sync::Arc;

use atoll_disk::OrderedStore;
use atoll_runtime::Runtime;
use atoll_transport::Transport;
use atoll_types::{Instant, ReplicaId, ShardId, TransactionId};
use bytes::Bytes;
use tokio::sync::watch;

use crate::{Executed, Procedures, RecordsError, ReplicaAddress, ShardMap, ShardReplicas};

/// What a node hands to its records.
pub struct RecordsParts {
    pub runtime: Runtime,
    pub transport: Arc<dyn Transport>,
    pub store: Arc<dyn OrderedStore>,
    pub procedures: Procedures,
    pub map: watch::Receiver<Arc<ShardMap>>,
}

/// All shards, wherever their replicas are: commands and queries find the leader.
#[derive(Clone)]
pub struct Records {
    _inner: Arc<()>,
}

impl Records {
    /// Runs `command` in `shard` once, however often it is retried under this `id`.
    pub async fn execute(
        &self,
        shard: ShardId,
        _id: TransactionId,
        _command: &'static str,
        _input: Bytes,
        _deadline: Instant,
    ) -> Result<Executed, RecordsError> {
        Err(RecordsError::Unavailable { shard })
    }

    /// Runs `query` on the state that holds every write acknowledged before the call.
    pub async fn query(
        &self,
        shard: ShardId,
        _query: &'static str,
        _input: Bytes,
        _deadline: Instant,
    ) -> Result<Bytes, RecordsError> {
        Err(RecordsError::Unavailable { shard })
    }

    /// Opens a replica on this node: one of the founding voters, or an empty one that a
    /// leader will fill.
    pub async fn create_replica(
        &self,
        _shard: ShardId,
        _replica: ReplicaId,
        _founding: Option<Vec<ReplicaAddress>>,
    ) -> Result<(), RecordsError> {
        Ok(())
    }

    /// Closes a replica on this node and deletes what it kept.
    pub async fn remove_replica(&self, _replica: ReplicaId) -> Result<(), RecordsError> {
        Ok(())
    }

    /// Moves a shard that this node leads towards `target`: learners first, then one
    /// joint change.
    pub async fn reconfigure(&self, _shard: ShardId, _target: ShardReplicas) -> Result<(), RecordsError> {
        Ok(())
    }
}
