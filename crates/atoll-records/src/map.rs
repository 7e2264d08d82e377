//! Which replicas each shard has, and where they are: the part of the layout that Raft
//! needs. Told from outside through a watch channel; never decided here.

use std::collections::BTreeMap;

use atoll_types::{NodeId, ReplicaId, ShardId};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaAddress {
    pub replica: ReplicaId,
    pub node: NodeId,
}

/// One shard's replicas as the layout wants them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardReplicas {
    pub voters: Vec<ReplicaAddress>,
    /// Catching up, or kept as copies without a vote (rule 6).
    pub learners: Vec<ReplicaAddress>,
}

impl ShardReplicas {
    pub fn all(&self) -> impl Iterator<Item = &ReplicaAddress> {
        self.voters.iter().chain(&self.learners)
    }
}

/// Every shard of the cluster. `version` only grows; an older map never replaces a newer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardMap {
    pub version: u64,
    pub shards: BTreeMap<ShardId, ShardReplicas>,
}
