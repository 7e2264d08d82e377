//! What a member says of itself, and how it spreads.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
};

use atoll_types::{ByteSize, DiskId, Format, FormatError, Generation, NodeId, Roles, Zone};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::identity::Life;

/// Facts about a node, told by itself. Small: they travel in gossip.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberInfo {
    pub node: NodeId,
    pub generation: Generation,
    pub zone: Zone,
    pub capacity: ByteSize,
    pub disk: DiskId,
    pub roles: Roles,
    /// Where it listens for its peers, best first (`host:port`). Told to the transport.
    pub addresses: Vec<String>,
    /// Where its S3 endpoint and admin API are, if it has any.
    pub s3_address: Option<String>,
    pub admin_address: Option<String>,
    /// The newest layout it knows: whoever has an older one asks it.
    pub layout_version: u64,
    /// The newest cluster version that its program supports (rule 18).
    pub supports: u32,
}

/// Why facts were refused. Nothing was told to anyone.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InfoError {
    /// Shorten the list of addresses or the zone's name.
    #[error("what a member tells of itself takes {bytes} bytes, {} are allowed", MemberInfo::BYTES_MAX)]
    TooLarge { bytes: usize },
}

impl MemberInfo {
    /// A datagram of 1,200 bytes, less foca's header of two lives and a message with a
    /// third (3 × 50 bytes), less counts and lengths, and room for a few updates.
    pub const BYTES_MAX: usize = 900;

    pub(crate) fn check(&self) -> Result<(), InfoError> {
        let bytes = Fact { revision: u64::MAX, info: Arc::new(self.clone()) }.encode().len();
        if bytes > Self::BYTES_MAX { Err(InfoError::TooLarge { bytes }) } else { Ok(()) }
    }
}

/// A member's facts with their place in the order in which it told them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Fact {
    pub(crate) revision: u64,
    #[serde(serialize_with = "serialize_info", deserialize_with = "deserialize_info")]
    pub(crate) info: Arc<MemberInfo>,
}

fn serialize_info<S: Serializer>(info: &Arc<MemberInfo>, serializer: S) -> Result<S::Ok, S::Error> {
    (**info).serialize(serializer)
}

fn deserialize_info<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Arc<MemberInfo>, D::Error> {
    MemberInfo::deserialize(deserializer).map(Arc::new)
}

impl Format for Fact {
    const NAME: &'static str = "member info";
    const VERSION: u8 = 1;
}

/// What of two facts about one node is newer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct FactVersion {
    pub(crate) generation: Generation,
    pub(crate) revision: u64,
}

impl Fact {
    pub(crate) fn version(&self) -> FactVersion {
        FactVersion { generation: self.info.generation, revision: self.revision }
    }
}

/// Everything known, newest per node. Shared between the driver and foca's broadcasts.
#[derive(Clone, Default)]
pub(crate) struct Facts {
    state: Arc<Mutex<FactsState>>,
}

#[derive(Default)]
struct FactsState {
    own: Option<NodeId>,
    known: BTreeMap<NodeId, Fact>,
    /// Nodes of which something new was learned and that the driver has not seen to.
    fresh: Vec<NodeId>,
}

impl Facts {
    pub(crate) fn new(own: NodeId) -> Self {
        let facts = Self::default();
        facts.lock().own = Some(own);
        facts
    }

    fn lock(&self) -> MutexGuard<'_, FactsState> {
        self.state.lock().expect("no holder panics")
    }

    /// What the node tells of itself. Only it may.
    pub(crate) fn set_own(&self, fact: Fact) {
        let node = fact.info.node;
        self.lock().known.insert(node, fact);
    }

    /// Keeps a fact that somebody told, if it is news and not about ourselves.
    pub(crate) fn learn(&self, fact: Fact) -> bool {
        let mut state = self.lock();
        let node = fact.info.node;
        let is_news = state.known.get(&node).is_none_or(|known| known.version() < fact.version());
        if !is_news || state.own == Some(node) {
            return false;
        }
        state.known.insert(node, fact);
        state.fresh.push(node);
        true
    }

    pub(crate) fn forget(&self, node: &NodeId) {
        let mut state = self.lock();
        if state.own != Some(*node) {
            state.known.remove(node);
        }
    }

    pub(crate) fn take_fresh(&self) -> Vec<NodeId> {
        std::mem::take(&mut self.lock().fresh)
    }

    pub(crate) fn info_of(&self, node: &NodeId) -> Option<Arc<MemberInfo>> {
        self.lock().known.get(node).map(|fact| fact.info.clone())
    }

    pub(crate) fn nodes(&self) -> Vec<NodeId> {
        self.lock().known.keys().copied().collect()
    }

    pub(crate) fn versions(&self) -> BTreeMap<NodeId, FactVersion> {
        self.lock().known.iter().map(|(node, fact)| (*node, fact.version())).collect()
    }

    /// What somebody who knows `versions` lacks.
    pub(crate) fn newer_than(&self, versions: &BTreeMap<NodeId, FactVersion>) -> Vec<Fact> {
        let state = self.lock();
        let lacks = |fact: &&Fact| versions.get(&fact.info.node).is_none_or(|known| *known < fact.version());
        state.known.values().filter(lacks).cloned().collect()
    }
}

/// A fact on its way through the cluster; a newer one about the same node replaces it.
pub(crate) struct FactKey {
    node: NodeId,
    version: FactVersion,
}

impl foca::Invalidates for FactKey {
    fn invalidates(&self, other: &Self) -> bool {
        self.node == other.node && self.version >= other.version
    }
}

/// Foca's view of [`Facts`].
pub(crate) struct FactBroadcasts(pub(crate) Facts);

impl foca::BroadcastHandler<Life> for FactBroadcasts {
    type Key = FactKey;
    type Error = FormatError;

    fn receive_item(&mut self, data: &[u8], sender: Option<&Life>) -> Result<Option<FactKey>, FormatError> {
        let fact = Fact::decode(data)?;
        let key = FactKey { node: fact.info.node, version: fact.version() };
        // Without a sender it is ours to spread: our own, or what a call has just taught us.
        let is_news = self.0.learn(fact) || sender.is_none();
        Ok(is_news.then_some(key))
    }
}
