//! The audit trail, as JSON. Nothing is left out and nothing added: what is read back hashes
//! to what was signed.

use atoll_access::audit::{Batch, Entry, Hash, Head, Link, LinkedBatch, SignedBatch, WitnessStatement};
use atoll_types::{NodeId, WallTime};
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// Which links to tell.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams, ToSchema)]
pub struct AuditRequest {
    /// Those after this one.
    #[serde(default)]
    pub after: u64,
    #[serde(default)]
    pub limit: Option<u32>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AuditPage {
    pub links: Vec<AuditLink>,
    /// The index of the newest link.
    pub end: u64,
}

/// One batch of one node's decisions, and its place in the trail. Hashes and signatures are
/// hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AuditLink {
    pub index: u64,
    /// Of the link before.
    pub previous: String,
    /// The batch's hash.
    pub batch: String,
    /// When it was linked, by the leader of shard 0.
    pub stamp_millis: u64,
    pub node: String,
    /// Which batch of the node this is.
    pub number: u64,
    /// Of the node's batch before.
    pub node_previous: String,
    pub entries: Vec<AuditEntry>,
    /// Denied requests since the node's batch before that found no room.
    pub missed: u64,
    /// Ed25519, of the node.
    pub signature: String,
}

/// One decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AuditEntry {
    /// By the clock of the node that decided.
    pub at_millis: u64,
    pub who: String,
    pub what: String,
    pub on: String,
    pub from: String,
    pub allowed: bool,
    pub rule: String,
}

/// "I have seen this link, and everything before it in one chain": signed by its node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct AuditWitness {
    pub node: String,
    pub index: u64,
    pub hash: String,
    pub at_millis: u64,
    pub signature: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct AuditWitnesses {
    pub witnesses: Vec<AuditWitness>,
    /// Nodes that could not be asked.
    pub silent: Vec<String>,
}

/// A text that can't be part of a trail.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} is malformed")]
pub struct MalformedAudit {
    field: &'static str,
}

impl From<&LinkedBatch> for AuditLink {
    fn from(linked: &LinkedBatch) -> Self {
        let LinkedBatch { link, signed: SignedBatch { batch, signature } } = linked;
        Self {
            index: link.index,
            previous: link.previous.to_string(),
            batch: link.batch.to_string(),
            stamp_millis: link.stamp.as_millis(),
            node: batch.node.to_string(),
            number: batch.number,
            node_previous: batch.previous.to_string(),
            entries: batch.entries.iter().map(AuditEntry::from).collect(),
            missed: batch.missed,
            signature: signature_text(signature),
        }
    }
}

impl TryFrom<&AuditLink> for LinkedBatch {
    type Error = MalformedAudit;

    fn try_from(link: &AuditLink) -> Result<Self, MalformedAudit> {
        let batch = Batch {
            node: node_of(&link.node)?,
            number: link.number,
            previous: hash_of("node_previous", &link.node_previous)?,
            entries: link.entries.iter().map(Entry::from).collect(),
            missed: link.missed,
        };
        let signed = SignedBatch { batch, signature: signature_of(&link.signature)? };
        let link = Link {
            index: link.index,
            previous: hash_of("previous", &link.previous)?,
            batch: hash_of("batch", &link.batch)?,
            stamp: WallTime::from_millis(link.stamp_millis),
        };
        Ok(LinkedBatch { link, signed })
    }
}

impl From<&Entry> for AuditEntry {
    fn from(entry: &Entry) -> Self {
        let Entry { at, who, what, on, from, allowed, rule } = entry.clone();
        Self { at_millis: at.as_millis(), who, what, on, from, allowed, rule }
    }
}

impl From<&AuditEntry> for Entry {
    fn from(entry: &AuditEntry) -> Self {
        let AuditEntry { at_millis, who, what, on, from, allowed, rule } = entry.clone();
        Self { at: WallTime::from_millis(at_millis), who, what, on, from, allowed, rule }
    }
}

impl From<&WitnessStatement> for AuditWitness {
    fn from(statement: &WitnessStatement) -> Self {
        Self {
            node: statement.node.to_string(),
            index: statement.head.index,
            hash: statement.head.hash.to_string(),
            at_millis: statement.at.as_millis(),
            signature: signature_text(&statement.signature),
        }
    }
}

impl TryFrom<&AuditWitness> for WitnessStatement {
    type Error = MalformedAudit;

    fn try_from(witness: &AuditWitness) -> Result<Self, MalformedAudit> {
        Ok(Self {
            node: node_of(&witness.node)?,
            head: Head { index: witness.index, hash: hash_of("hash", &witness.hash)? },
            at: WallTime::from_millis(witness.at_millis),
            signature: signature_of(&witness.signature)?,
        })
    }
}

fn signature_text(halves: &([u8; 32], [u8; 32])) -> String {
    format!("{}{}", HEXLOWER.encode(&halves.0), HEXLOWER.encode(&halves.1))
}

fn bytes_of(field: &'static str, text: &str) -> Result<[u8; 32], MalformedAudit> {
    let bytes = HEXLOWER.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok());
    bytes.ok_or(MalformedAudit { field })
}

fn hash_of(field: &'static str, text: &str) -> Result<Hash, MalformedAudit> {
    bytes_of(field, text).map(Hash)
}

fn signature_of(text: &str) -> Result<([u8; 32], [u8; 32]), MalformedAudit> {
    let malformed = MalformedAudit { field: "signature" };
    let (first, second) = text.split_at_checked(64).ok_or(malformed)?;
    Ok((bytes_of("signature", first)?, bytes_of("signature", second)?))
}

fn node_of(text: &str) -> Result<NodeId, MalformedAudit> {
    text.parse().map_err(|_| MalformedAudit { field: "node" })
}
