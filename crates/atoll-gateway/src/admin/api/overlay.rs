//! The overlay's nouns. Identifiers of nodes and keys are 64 hexadecimal digits.

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// The overlay as one node sees it.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct OverlayView {
    /// The node that answered: what follows is its view.
    pub seen_by: String,
    pub kind: String,
    /// Where that node stands in the space of identifiers.
    pub identifier: String,
    /// False while it looks for others that let it in.
    pub is_member: bool,
    pub tables: Vec<OverlayTable>,
    /// Bytes of the core's state, what it keeps for others included.
    pub state_bytes: u64,
    /// Values, providers and postings that it keeps for others.
    pub entries_kept: u64,
    pub frames: OverlayFrames,
}

/// Part of what a node knows of others, in the words of its kind.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct OverlayTable {
    pub name: String,
    pub rows: Vec<OverlayRow>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct OverlayRow {
    /// What this place of the table is for.
    pub place: String,
    pub node: String,
    pub identifier: String,
}

/// Datagrams of the overlay since the node started.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct OverlayFrames {
    pub sent: u64,
    pub received: u64,
    /// Refused: too large, or not what the protocol says.
    pub malformed: u64,
    /// Of another kind of overlay, while the cluster changes from one to the other.
    pub other_kind: u64,
    /// Refused for want of room: a peer sends faster than this node reads.
    pub dropped: u64,
}

/// A key by its name.
#[derive(Debug, Clone, Serialize, Deserialize, IntoParams, ToSchema)]
pub struct OverlayKey {
    pub key: String,
}

/// One lookup, step by step.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct OverlayTrace {
    /// The node that looked.
    pub seen_by: String,
    pub kind: String,
    pub key: String,
    /// The key's place among the identifiers.
    pub identifier: String,
    /// Whom it asked, in that order.
    pub steps: Vec<OverlayStep>,
    /// The responsible nodes, the first one first.
    pub responsible: Vec<String>,
    /// Remote nodes that were asked one after the other and answered.
    pub hops: u32,
    /// Nodes that were asked and did not answer.
    pub timeouts: u32,
    pub micros: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct OverlayStep {
    pub node: String,
    pub identifier: String,
    pub answered: bool,
}

/// A value to store under a key, by its name. Binary values are base64 in `value_base64`.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct OverlayPutRequest {
    #[serde(default)]
    pub key: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_base64: Option<String>,
    /// How long it is kept; a day at most.
    #[serde(default = "OverlayPutRequest::seconds_default")]
    pub for_seconds: u64,
}

impl OverlayPutRequest {
    fn seconds_default() -> u64 {
        3600
    }
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct OverlayStored {
    pub key: String,
    /// The key's place among the identifiers.
    pub identifier: String,
    /// The nodes that keep it.
    pub kept_by: Vec<String>,
}

/// What is stored under a key: one value of each author, the newest first.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct OverlayValues {
    pub key: String,
    pub identifier: String,
    pub values: Vec<OverlayValue>,
    /// The nodes that told.
    pub told_by: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct OverlayValue {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value_base64: Option<String>,
    /// The node that signed it.
    pub author: String,
    pub sequence: u64,
    pub expires_millis: u64,
}

/// Content by its name.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct OverlayProvideRequest {
    pub name: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct OverlayStopped {
    /// Whether this node provided it.
    pub was_provided: bool,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct OverlayProviders {
    pub name: String,
    pub identifier: String,
    pub providers: Vec<OverlayProvider>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct OverlayProvider {
    pub node: String,
    pub expires_millis: u64,
}

/// Words to look for.
#[derive(Debug, Clone, Serialize, Deserialize, IntoParams, ToSchema)]
pub struct OverlayWords {
    pub words: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct OverlayHits {
    pub hits: Vec<OverlayHit>,
}

/// Content whose name has all the words.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct OverlayHit {
    pub name: String,
    /// The content's place among the identifiers.
    pub identifier: String,
    /// The node that says it has it.
    pub provider: String,
    pub expires_millis: u64,
}
