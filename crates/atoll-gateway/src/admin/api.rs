//! The admin API's nouns, as JSON: what the server sends and the CLI reads. Sizes are
//! bytes, times milliseconds since 1970, durations seconds; names say so.

mod access;
mod audit;
mod overlay;
mod recovery;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

pub use access::*;
pub use audit::*;
pub use overlay::*;
pub use recovery::*;

/// The body of every answer that is not a success.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ErrorAnswer {
    pub error: ErrorBody,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// Stable; the message may change.
    pub code: String,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// The cluster as one node sees it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Status {
    pub cluster: String,
    /// The node that answered: what follows is its view.
    pub seen_by: String,
    pub layout_version: u64,
    pub cluster_version: u32,
    /// Which root key that node has, by its key file.
    #[serde(default)]
    pub root_key: Option<String>,
    /// `healthy`, `moving` (copies or replicas are on their way), `degraded` (fewer copies
    /// or voters than wanted), `unavailable` (a shard has no leader).
    pub health: String,
    /// What a person should know or do, a sentence each.
    pub notes: Vec<String>,
    pub nodes: Vec<NodeStatus>,
    pub shards: Vec<ShardStatus>,
    pub moves: MoveStatus,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct NodeStatus {
    pub id: String,
    /// `alive`, `suspect`, `dead`.
    pub liveness: String,
    /// `active`, `draining`, `dead`, `removing`: what the layout says.
    pub state: String,
    pub zone: String,
    pub roles: Vec<String>,
    pub addresses: Vec<String>,
    pub capacity_bytes: u64,
    pub stored_bytes: Option<u64>,
    pub slots: u64,
    pub shards_led: u64,
    pub replicas: u64,
    /// Its clock minus that of the node that answers, when it could be asked.
    pub clock_skew_millis: Option<i64>,
    pub program_version: Option<u32>,
    /// Nothing is kept here any more: `remove` will be accepted.
    pub is_empty: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ShardStatus {
    pub shard: u32,
    pub leader: Option<String>,
    pub voters: Vec<String>,
    pub learners: Vec<String>,
    /// What the layout wants is not reached yet.
    pub changing: bool,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct MoveStatus {
    pub slots_moving: u64,
    pub shards_moving: u64,
    pub copies_missing: u64,
    pub bytes_to_move: u64,
    pub bytes_per_second: u64,
    /// At the current speed; absent while nothing moves or nothing is known.
    pub seconds_left: Option<u64>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CreateTicketRequest {
    #[serde(default = "CreateTicketRequest::uses_default")]
    pub uses: u32,
    #[serde(default = "CreateTicketRequest::seconds_default")]
    pub for_seconds: u64,
}

impl CreateTicketRequest {
    fn uses_default() -> u32 {
        10
    }

    fn seconds_default() -> u64 {
        3600
    }
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CreatedTicket {
    pub ticket: String,
    pub uses: u32,
    pub expires_millis: u64,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams, ToSchema)]
pub struct RemoveNodeRequest {
    /// The node is gone for good: others take over what it held, from their copies.
    #[serde(default)]
    pub force: bool,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct Done {}

/// A key's value. Binary values are base64 in `value_base64`.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct KvRecord {
    pub key: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_base64: Option<String>,
    /// The revision that last wrote it: what `cas` compares.
    pub revision: u64,
}

/// When a write to a key is to happen; all that are given must hold.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct KvCondition {
    /// Only if the key is not there.
    #[serde(default)]
    pub if_absent: bool,
    /// Only if this revision last wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_revision: Option<u64>,
    /// Only if this is its value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_value: Option<String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct KvPutRequest {
    #[serde(default)]
    pub key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_base64: Option<String>,
    #[serde(flatten)]
    pub condition: KvCondition,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct KvDeleteRequest {
    pub key: String,
    #[serde(flatten)]
    pub condition: KvCondition,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct KvWritten {
    pub revision: u64,
    /// For a deletion: whether the key was there.
    pub existed: bool,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams, ToSchema)]
pub struct KvListRequest {
    #[serde(default)]
    pub prefix: String,
    /// Keys after this one only.
    #[serde(default)]
    pub after: Option<String>,
    #[serde(default)]
    pub limit: Option<u32>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct KvPage {
    pub records: Vec<KvRecord>,
    /// The state this page shows; a watch from here misses nothing.
    pub revision: u64,
    /// Where the next page begins (`after`), if there is one.
    pub next_after: Option<String>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams, ToSchema)]
pub struct KvWatchRequest {
    #[serde(default)]
    pub prefix: String,
    /// Changes after this revision; without it, those from now on.
    #[serde(default)]
    pub after_revision: Option<u64>,
}

/// One line of a watch.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct KvEvent {
    pub key: String,
    pub deleted: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_base64: Option<String>,
    pub revision: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LockRequest {
    pub name: String,
    /// Who asks, in its own words; shown to those who wait.
    #[serde(default)]
    pub owner: String,
    /// How long the lock outlives its holder's last sign of life.
    #[serde(default = "LockRequest::seconds_default")]
    pub for_seconds: u64,
}

impl LockRequest {
    fn seconds_default() -> u64 {
        10
    }
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LockAnswer {
    /// Whether the asker holds it now.
    pub acquired: bool,
    /// Names this holding; keeping alive and releasing take it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lease: Option<String>,
    /// Only grows, per lock: what the lock protects refuses lower ones.
    pub epoch: u64,
    /// Who holds it, when it was not acquired.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub held_by: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct LeaseRequest {
    pub name: String,
    pub lease: String,
}

/// Settings that the whole cluster agrees on.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct ClusterSettings {
    pub settings: BTreeMap<String, String>,
}
