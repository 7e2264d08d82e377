//! What nodes tell each other about the cluster and about themselves
//! (`atoll/cluster/1`), and what a stranger says to join (`atoll/join/1`).

use atoll_placement::ReplicaSet;
use atoll_types::{
    ByteSize, ClusterId, DiskId, Format, Generation, ReplicaId, Roles, ShardId, Slot, WallTime, Zone,
};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{ticket::TicketId, truths::TicketRefused};

/// What a node says of itself when it joins, and each time it reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeInfo {
    pub disk: DiskId,
    pub generation: Generation,
    pub zone: Zone,
    pub capacity: ByteSize,
    pub roles: Roles,
    pub addresses: Vec<String>,
    /// The newest cluster version that its program knows (rule 18).
    pub program_version: u32,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JoinRequest {
    pub cluster: ClusterId,
    pub ticket: TicketId,
    /// [`crate::ticket::TicketSecret::proof`] over this session.
    pub proof: [u8; 32],
    pub info: NodeInfo,
}

impl Format for JoinRequest {
    const NAME: &'static str = "join request";
    const VERSION: u8 = 1;
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum JoinReply {
    /// A member now. The layout names the joiner and everyone it may turn to.
    Welcome {
        layout: Bytes,
        admin_token: String,
    },
    Refused(TicketRefused),
    /// The ticket is another cluster's.
    OtherCluster,
    /// The key was removed from the cluster, for good.
    RemovedKey,
    /// Shard 0 did not answer; the same ticket may be tried again.
    TryAgain {
        reason: String,
    },
    /// The joiner's program is older than what the cluster writes (rule 18).
    ProgramTooOld {
        needed: u32,
    },
}

impl Format for JoinReply {
    const NAME: &'static str = "join reply";
    const VERSION: u8 = 1;
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum ClusterRequest {
    /// Send your layout if it is newer than this.
    Layout { newer_than: u64 },
    /// The layout that the sender has, in the body.
    TakeLayout,
    /// To whoever leads shard 0.
    Report(Box<NodeReport>),
    /// How are you? Answered with [`ClusterReply::Status`].
    Status,
    /// What have you seen of the audit trail? Asked of programs that know it; others refuse
    /// what they can't read.
    Witness,
}

impl Format for ClusterRequest {
    const NAME: &'static str = "cluster request";
    const VERSION: u8 = 1;
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum ClusterReply {
    /// In the body; empty if there is none newer.
    Layout,
    Taken,
    Reported {
        layout_version: u64,
    },
    Status(Box<NodeReport>),
    /// A statement, in the body.
    Witness,
}

impl Format for ClusterReply {
    const NAME: &'static str = "cluster reply";
    const VERSION: u8 = 1;
}

/// What a node says of itself every second: to the controller as a basis for the next
/// layout, and to whoever asks for the status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeReport {
    pub info: NodeInfo,
    pub layout_version: u64,
    pub wall_time: WallTime,
    pub stored: ByteSize,
    pub chunks: u64,
    /// Slots whose complete pass as a new holder is done, with the move's `changed`.
    pub slots_moved: Vec<(Slot, u64)>,
    /// Slots given up after the final pass.
    pub slots_released: Vec<Slot>,
    /// Shards led here whose group has become what the layout wants.
    pub shards_changed: Vec<(ShardId, ReplicaSet)>,
    pub shards_led: Vec<ShardId>,
    /// Replicas here that may have forgotten something: they need new ids (rule 4).
    pub lost_replicas: Vec<ReplicaId>,
    /// Copies this node should hold and does not yet.
    pub copies_missing: u64,
    pub bytes_to_move: u64,
    pub bytes_per_second: u64,
}
