//! The layout itself: what it says, how it begins, and what makes one well-formed.

use std::collections::{BTreeMap, BTreeSet};

use atoll_types::{
    ByteSize, DiskId, Format, FormatError, NodeId, OverlayKind, ReplicaId, Role, Roles, ShardId, Slot, Zone,
};
use serde::{Deserialize, Serialize};

use crate::{
    shard::{Replica, ReplicaSet, ShardPlacement},
    slot::{Holder, HolderSet, SlotEntry, WriteRule},
};

/// What the whole cluster agrees on. Set when it is created, changed by `atoll cluster set`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayoutSettings {
    /// How many nodes hold each chunk, where there are as many. Three outlives one loss
    /// and still acknowledges writes; more cost space, fewer lose data with one disk.
    pub copies: u8,
    /// Shards for users' records, numbered from 1. Fixed when the cluster is created.
    pub data_shards: u32,
    /// How nodes find each other and content. `None`: the cluster was founded before its founder
    /// wrote one, and nobody has chosen since.
    pub overlay: Option<OverlayKind>,
}

impl LayoutSettings {
    /// A holder set and its majority stay small; S3 stores of this kind keep three.
    pub const COPIES_MAX: u8 = 7;
}

impl Default for LayoutSettings {
    fn default() -> Self {
        Self { copies: 3, data_shards: 64, overlay: None }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum NodeState {
    /// Takes part. It may be unreachable for a while; that is not in the layout.
    Active,
    /// Asked to leave: serves and votes on until others have taken over, gets nothing new.
    Draining,
    /// Unreachable for so long that others replace it. When it comes back it is again what
    /// it was: active, or draining.
    Dead { draining: bool },
    /// Removed by force while it still held something: refused for good from this version
    /// on, and gone from the layout when others have taken over.
    Removing,
}

impl NodeState {
    /// Whether the node may be asked for what it holds.
    pub fn serves(self) -> bool {
        matches!(self, NodeState::Active | NodeState::Draining)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayoutNode {
    pub zone: Zone,
    /// How much it offers, relative to the others: placement is in proportion.
    pub capacity: ByteSize,
    /// The data folder it has now. Holdings and replicas of another one are lost.
    pub disk: DiskId,
    pub roles: Roles,
    pub state: NodeState,
    /// Where it listens for its peers, best first.
    pub addresses: Vec<String>,
}

impl LayoutNode {
    pub fn stores(&self) -> bool {
        self.roles.has(Role::Storage) && self.capacity.0 > 0
    }

    /// Whether the planner may give it something to keep.
    pub fn is_eligible(&self) -> bool {
        self.stores() && self.state == NodeState::Active
    }
}

/// One decision on who holds what. Made by [`Layout::genesis`], [`crate::plan`] and the
/// steps in `change.rs`; each gives a higher version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "LayoutWire")]
pub struct Layout {
    pub(crate) version: u64,
    /// Raised by `atoll recover`, so that nodes which were given up cannot return.
    pub(crate) epoch: u64,
    pub(crate) settings: LayoutSettings,
    pub(crate) nodes: BTreeMap<NodeId, LayoutNode>,
    /// Keys that are refused for good.
    pub(crate) removed: BTreeSet<NodeId>,
    pub(crate) shards: BTreeMap<ShardId, ShardPlacement>,
    /// What the numbers in `slots` stand for: 4,096 × 3 node ids would be 400 KB, their
    /// numbers are 12 KB.
    pub(crate) holders: Vec<Holder>,
    pub(crate) slots: Vec<SlotEntry>,
    /// The next replica gets this id; ids are never used twice (rule 4).
    pub(crate) next_replica: ReplicaId,
}

/// A [`Layout`] as it arrived, not yet checked; its settings are of this version or the first.
#[derive(Deserialize)]
struct LayoutWire<S = LayoutSettings> {
    version: u64,
    epoch: u64,
    settings: S,
    nodes: BTreeMap<NodeId, LayoutNode>,
    removed: BTreeSet<NodeId>,
    shards: BTreeMap<ShardId, ShardPlacement>,
    holders: Vec<Holder>,
    slots: Vec<SlotEntry>,
    next_replica: ReplicaId,
}

/// As version 1 had them.
#[derive(Serialize, Deserialize)]
struct FirstSettings {
    copies: u8,
    data_shards: u32,
}

/// A layout in version 1, on its way out.
#[derive(Serialize)]
struct FirstLayout<'a> {
    version: u64,
    epoch: u64,
    settings: FirstSettings,
    nodes: &'a BTreeMap<NodeId, LayoutNode>,
    removed: &'a BTreeSet<NodeId>,
    shards: &'a BTreeMap<ShardId, ShardPlacement>,
    holders: &'a [Holder],
    slots: &'a [SlotEntry],
    next_replica: ReplicaId,
}

impl From<LayoutWire<FirstSettings>> for LayoutWire {
    fn from(wire: LayoutWire<FirstSettings>) -> Self {
        let FirstSettings { copies, data_shards } = wire.settings;
        let settings = LayoutSettings { copies, data_shards, overlay: None };
        let LayoutWire { version, epoch, nodes, removed, shards, holders, slots, next_replica, .. } = wire;
        Self { version, epoch, settings, nodes, removed, shards, holders, slots, next_replica }
    }
}

impl TryFrom<LayoutWire> for Layout {
    type Error = LayoutError;

    fn try_from(wire: LayoutWire) -> Result<Self, LayoutError> {
        let LayoutWire { version, epoch, settings, nodes, removed, shards, holders, slots, next_replica } =
            wire;
        let layout =
            Layout { version, epoch, settings, nodes, removed, shards, holders, slots, next_replica };
        layout.check()?;
        Ok(layout)
    }
}

/// Version 1 had no overlay. A layout that names none is still written so: nothing
/// newer is written before every member knows it (rule 18).
impl Format for Layout {
    const NAME: &'static str = "layout";
    const VERSION: u8 = 2;

    fn encode(&self) -> Vec<u8> {
        let encoded = |version, layout: Result<Vec<u8>, _>| {
            let body: Vec<u8> = layout.expect("derived types always encode");
            [&[version], body.as_slice()].concat()
        };
        if self.settings.overlay.is_some() {
            return encoded(Self::VERSION, postcard::to_stdvec(self));
        }
        let Layout { version, epoch, settings, nodes, removed, shards, holders, slots, next_replica } = self;
        let settings = FirstSettings { copies: settings.copies, data_shards: settings.data_shards };
        let first = FirstLayout {
            version: *version,
            epoch: *epoch,
            settings,
            nodes,
            removed,
            shards,
            holders,
            slots,
            next_replica: *next_replica,
        };
        encoded(1, postcard::to_stdvec(&first))
    }

    fn decode_older(version: u8, rest: &[u8]) -> Result<Self, FormatError> {
        if version != 1 {
            let (format, current) = (Self::NAME, Self::VERSION);
            return Err(FormatError::UnknownVersion { format, found: version, current });
        }
        let malformed = FormatError::Malformed { format: Self::NAME };
        match postcard::take_from_bytes::<LayoutWire<FirstSettings>>(rest) {
            Ok((wire, [])) => Layout::try_from(LayoutWire::from(wire)).map_err(|_| malformed),
            _ => Err(malformed),
        }
    }
}

/// What is wrong with a layout that was read or received. It is not used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LayoutError {
    #[error("settings are out of range")]
    Settings,
    #[error("there are {found} slots instead of {}", Slot::COUNT)]
    SlotCount { found: usize },
    #[error("slot {slot} names an unknown holder, none, or one twice")]
    SlotHolders { slot: Slot },
    #[error("a holder is named twice, or its node {node:?} is not in the layout")]
    Holder { node: NodeId },
    #[error("shard {shard} has no voter, an unknown node, or an id twice or not given out yet")]
    Replica { shard: ShardId },
    #[error("shards are not numbered 0 to {}", .data_shards)]
    ShardCount { data_shards: u32 },
    #[error("node {node:?} is both in the layout and removed")]
    RemovedNode { node: NodeId },
}

impl Layout {
    /// The layout of a cluster of one.
    pub fn genesis(node: NodeId, properties: LayoutNode, settings: LayoutSettings) -> Self {
        let disk = properties.disk;
        let mut next_replica = ReplicaId(1); // 0 is nobody to Raft
        let shards = (0..=settings.data_shards)
            .map(|shard| {
                let replica = Replica { id: next_replica, node, disk };
                next_replica.0 += 1;
                let current = ReplicaSet { voters: vec![replica], learners: Vec::new() };
                (ShardId(shard), ShardPlacement { current, target: None, leaving: Vec::new(), changed: 1 })
            })
            .collect();
        let only = HolderSet { rule: WriteRule::Keeper, members: vec![0] };
        let slots = Slot::all()
            .map(|_| SlotEntry { current: only.clone(), target: None, retiring: Vec::new(), changed: 1 })
            .collect();
        Self {
            version: 1,
            epoch: Layout::FIRST_EPOCH,
            settings,
            nodes: [(node, properties)].into(),
            removed: BTreeSet::new(),
            shards,
            holders: vec![Holder { node, disk }],
            slots,
            next_replica,
        }
    }

    pub fn version(&self) -> u64 {
        self.version
    }

    /// Of a cluster that was never recovered.
    pub const FIRST_EPOCH: u64 = 1;

    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    pub fn settings(&self) -> &LayoutSettings {
        &self.settings
    }

    pub fn nodes(&self) -> &BTreeMap<NodeId, LayoutNode> {
        &self.nodes
    }

    pub fn node(&self, node: &NodeId) -> Option<&LayoutNode> {
        self.nodes.get(node)
    }

    /// Keys that are refused for good, those on their way out by force included.
    pub fn is_removed(&self, node: &NodeId) -> bool {
        self.removed.contains(node)
            || self.nodes.get(node).is_some_and(|properties| properties.state == NodeState::Removing)
    }

    pub fn shards(&self) -> &BTreeMap<ShardId, ShardPlacement> {
        &self.shards
    }

    /// Storage nodes that are not on their way out: what the number of copies and of
    /// voters goes by.
    pub fn storage_nodes(&self) -> impl Iterator<Item = (&NodeId, &LayoutNode)> {
        self.nodes.iter().filter(|(_, node)| node.is_eligible())
    }

    pub(crate) fn holder(&self, number: u16) -> Holder {
        self.holders[usize::from(number)]
    }

    /// The number of this holder, given out if it has none.
    pub(crate) fn holder_number(&mut self, holder: Holder) -> u16 {
        let known = self.holders.iter().position(|other| *other == holder);
        let number = known.unwrap_or_else(|| {
            self.holders.push(holder);
            self.holders.len() - 1
        });
        u16::try_from(number).expect("the table is compacted: at most the cluster's disks, twice")
    }

    /// Drops numbers that no slot uses. Numbers mean nothing outside one layout.
    pub(crate) fn compact_holders(&mut self) {
        let used: BTreeSet<u16> = self.slots.iter().flat_map(SlotEntry::numbers).collect();
        if used.len() == self.holders.len() {
            return;
        }
        let mut renumbered = vec![0; self.holders.len()];
        for (new, old) in used.iter().enumerate() {
            renumbered[usize::from(*old)] = new as u16;
        }
        self.holders = used.iter().map(|old| self.holders[usize::from(*old)]).collect();
        for slot in &mut self.slots {
            slot.renumber(&renumbered);
        }
    }

    /// A holder that can still answer for what it was given: its node is neither given up
    /// nor removed and has the same disk.
    pub(crate) fn is_serving(&self, holder: Holder) -> bool {
        self.nodes.get(&holder.node).is_some_and(|node| node.state.serves() && node.disk == holder.disk)
    }

    /// What every layout must be, whoever made it.
    pub fn check(&self) -> Result<(), LayoutError> {
        if !(1..=LayoutSettings::COPIES_MAX).contains(&self.settings.copies) {
            return Err(LayoutError::Settings);
        }
        if let Some(node) = self.removed.iter().find(|node| self.nodes.contains_key(node)) {
            return Err(LayoutError::RemovedNode { node: *node });
        }
        let mut distinct = BTreeSet::new();
        for holder in &self.holders {
            if !distinct.insert(holder) || !self.nodes.contains_key(&holder.node) {
                return Err(LayoutError::Holder { node: holder.node });
            }
        }
        if self.slots.len() != Slot::COUNT {
            return Err(LayoutError::SlotCount { found: self.slots.len() });
        }
        for (slot, entry) in Slot::all().zip(&self.slots) {
            if !entry.is_well_formed(self.holders.len()) {
                return Err(LayoutError::SlotHolders { slot });
            }
        }
        let data_shards = self.settings.data_shards;
        if self.shards.len() as u64 != u64::from(data_shards) + 1
            || self.shards.keys().zip(0..).any(|(shard, number)| shard.0 != number)
        {
            return Err(LayoutError::ShardCount { data_shards });
        }
        let mut ids = BTreeSet::new();
        for (shard, placement) in &self.shards {
            let mut of_shard = placement.all();
            let sound = of_shard.all(|replica| {
                replica.id.0 > 0
                    && replica.id < self.next_replica
                    && self.nodes.contains_key(&replica.node)
                    && ids.insert(replica.id)
            });
            if !sound || !placement.has_voters() {
                return Err(LayoutError::Replica { shard: *shard });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(number: u8) -> (NodeId, LayoutNode) {
        let properties = LayoutNode {
            zone: Zone::default(),
            capacity: ByteSize::gib(100),
            disk: DiskId(number.into()),
            roles: Roles::default(),
            state: NodeState::Active,
            addresses: vec!["127.0.0.1:9100".into()],
        };
        (NodeId([number; 32]), properties)
    }

    fn of_one() -> (NodeId, Layout) {
        let (id, properties) = node(1);
        (id, Layout::genesis(id, properties, LayoutSettings::default()))
    }

    #[test]
    fn a_cluster_of_one_writes_and_reads_at_its_only_node() {
        let (id, layout) = of_one();
        assert_eq!(layout.check(), Ok(()));
        let targets = layout.write_targets(Slot(77));
        assert_eq!(targets.nodes, [id]);
        assert!(targets.is_met(&[id].into()));
        assert!(!targets.can_be_met(&[id].into()));
        assert_eq!(layout.read_candidates(Slot(77), &id), [id]);
        assert_eq!(layout.check_write(&id, Slot(77), 1), Ok(()));
        assert_eq!(layout.slots_of(&id).current.len(), Slot::COUNT);
        assert_eq!(layout.replicas_on(&id).count(), 65);
        assert_eq!(layout.remove(&id, true), Err(crate::ChangeError::LastNode { node: id }));
    }

    #[test]
    fn a_layout_reads_back_as_it_was_written_and_a_broken_one_is_refused() {
        let (_, layout) = of_one();
        assert_eq!(Layout::decode(&layout.encode()), Ok(layout.clone()));
        let mut unknown_holder = layout.clone();
        unknown_holder.slots[9].current.members = vec![7];
        assert!(Layout::decode(&unknown_holder.encode()).is_err());
        let mut id_from_the_future = layout.clone();
        id_from_the_future.next_replica = ReplicaId(3);
        assert!(Layout::decode(&id_from_the_future.encode()).is_err());
        let mut short = layout;
        short.slots.pop();
        assert!(Layout::decode(&short.encode()).is_err());
    }
}
