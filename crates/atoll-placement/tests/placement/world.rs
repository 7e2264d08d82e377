//! A cluster that does what its layout says: nodes come and go, clients write, moves finish
//! when asked to. Every layout that appears is held against the one before it, and every
//! acknowledged chunk must be known to whoever copies or repairs its slot.
//!
//! It is as unkind as the rules allow: a write is only on a smallest set that meets its
//! quorums, a pass reads only a smallest set that meets the copy quorum, and a retiring
//! holder drops what it has without a look.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use atoll_placement::{
    CopyTask, Holder, Layout, LayoutNode, LayoutSettings, MoveReports, NodeState, ObservedMember, Plan,
    PlanSettings, plan,
};
use atoll_types::{ByteSize, DiskId, Format, NodeId, ReplicaId, Roles, ShardId, Slot, Zone};

pub const SLOT_BYTES: u64 = 1 << 20;

pub fn id(number: u8) -> NodeId {
    NodeId([number; 32])
}

pub fn member(number: u8, zone: &str, gigabytes: u64) -> ObservedMember {
    ObservedMember {
        node: id(number),
        zone: Zone(zone.into()),
        capacity: ByteSize::gib(gigabytes),
        disk: DiskId(1000 + u64::from(number)),
        roles: Roles::default(),
        addresses: vec![format!("10.0.0.{number}:9100")],
        unreachable_for: None,
        lost_replicas: BTreeSet::new(),
    }
}

pub struct World {
    pub layout: Layout,
    pub members: BTreeMap<u8, ObservedMember>,
    reports: MoveReports,
    /// Acknowledged chunks: their slot, and who has them.
    chunks: Vec<(Slot, BTreeSet<Holder>)>,
    draws: u64,
    ids_seen: BTreeMap<ReplicaId, (ShardId, NodeId, DiskId)>,
}

impl World {
    pub fn of(first: ObservedMember) -> Self {
        let properties = LayoutNode {
            zone: first.zone.clone(),
            capacity: first.capacity,
            disk: first.disk,
            roles: first.roles,
            state: NodeState::Active,
            addresses: first.addresses.clone(),
        };
        let layout = Layout::genesis(first.node, properties, LayoutSettings::default());
        let members = [(first.node.0[0], first)].into();
        Self {
            layout,
            members,
            reports: MoveReports::default(),
            chunks: Vec::new(),
            draws: 0,
            ids_seen: BTreeMap::new(),
        }
    }

    /// `count` nodes of 100 GiB in one zone, settled.
    pub fn of_nodes(count: u8) -> Self {
        let mut world = Self::of(member(1, "a", 100));
        for number in 2..=count {
            world.join(member(number, "a", 100));
        }
        world.settle();
        world
    }

    pub fn join(&mut self, member: ObservedMember) {
        self.members.insert(member.node.0[0], member);
    }

    pub fn plan(&mut self) -> Plan {
        let observed: Vec<ObservedMember> = self.members.values().cloned().collect();
        let settings = PlanSettings::default();
        let plan = plan(&self.layout, &observed, &settings, |_| ByteSize(SLOT_BYTES));
        assert_eq!(plan.is_change(&self.layout), plan.next != self.layout);
        if plan.is_change(&self.layout) {
            self.adopt(plan.next.clone());
        }
        let again = atoll_placement::plan(&self.layout, &observed, &settings, |_| ByteSize(SLOT_BYTES));
        assert!(!again.is_change(&self.layout), "planning again changed {:?}", again.reasons);
        plan
    }

    /// All moves finish, as often as it takes until nothing is left to do.
    pub fn settle(&mut self) {
        for _ in 0..10 {
            self.plan();
            self.finish_slots(1.0, 0);
            self.finish_shards();
            self.release();
        }
        assert!(self.layout.is_settled(), "{:?}", self.layout.progress_counts());
    }

    /// A part of the passes that can be made is made and reported.
    pub fn finish_slots(&mut self, part: f64, seed: u64) {
        let nodes: Vec<NodeId> =
            self.layout.nodes().keys().copied().filter(|node| self.is_reachable(node)).collect();
        for node in nodes {
            let mut tasks = self.layout.copy_tasks(&node);
            tasks.retain(|task| (hash(seed ^ u64::from(task.slot.0)) as f64 / u64::MAX as f64) < part);
            tasks.retain(|task| self.make_pass(node, task));
            let passes: Vec<(Slot, u64)> = tasks.iter().map(|task| (task.slot, task.changed)).collect();
            self.reports.record(&self.layout, node, &passes);
        }
        let finished = self.reports.finished(&self.layout);
        if let Some(next) = self.layout.slots_moved(&finished) {
            self.adopt(next);
        }
    }

    /// False if too few sources can be reached.
    fn make_pass(&mut self, node: NodeId, task: &CopyTask) -> bool {
        let quorum = std::slice::from_ref(&task.quorum);
        let Some(read) = self.smallest(&task.quorum.members, |set| quorum.iter().all(|q| q.is_met(set)))
        else {
            return false;
        };
        let own = Holder { node, disk: self.layout.node(&node).unwrap().disk };
        for (slot, holders) in &mut self.chunks {
            if *slot == task.slot && holders.iter().any(|holder| read.contains(&holder.node)) {
                holders.insert(own);
            }
        }
        true
    }

    fn is_reachable(&self, node: &NodeId) -> bool {
        self.members.values().any(|member| member.node == *node && member.unreachable_for.is_none())
    }

    /// One of the smallest sets of reachable nodes that meet what is asked, drawn at random.
    fn smallest(
        &mut self,
        of: &[NodeId],
        is_met: impl Fn(&BTreeSet<NodeId>) -> bool,
    ) -> Option<BTreeSet<NodeId>> {
        let mut chosen: BTreeSet<NodeId> =
            of.iter().copied().filter(|node| self.is_reachable(node)).collect();
        if !is_met(&chosen) {
            return None;
        }
        let mut order: Vec<NodeId> = chosen.iter().copied().collect();
        self.draws += 1;
        let draws = self.draws;
        order.sort_by_key(|node| hash(draws ^ u64::from(node.0[0]) << 32));
        for node in order {
            chosen.remove(&node);
            if !is_met(&chosen) {
                chosen.insert(node);
            }
        }
        Some(chosen)
    }

    /// A client writes a chunk to each of some slots, where that is possible.
    pub fn write(&mut self) {
        for slot in Slot::all().step_by(131) {
            let targets = self.layout.write_targets(slot);
            let Some(nodes) = self.smallest(&targets.nodes, |set| targets.is_met(set)) else { continue };
            let holder = |node: NodeId| Holder { node, disk: self.layout.node(&node).unwrap().disk };
            let holders = nodes.into_iter().map(holder).collect();
            self.chunks.push((slot, holders));
        }
    }

    /// Everyone who copies or repairs finds every acknowledged chunk, whomever they ask.
    fn check_chunks(&self) {
        let layout = &self.layout;
        let has_disk =
            |holder: &&Holder| layout.node(&holder.node).is_some_and(|node| node.disk == holder.disk);
        for (slot, holders) in &self.chunks {
            let having: BTreeSet<NodeId> =
                holders.iter().filter(has_disk).map(|holder| holder.node).collect();
            let quorum = layout.copy_quorum(*slot);
            let lacking: BTreeSet<NodeId> =
                quorum.members.iter().copied().filter(|node| !having.contains(node)).collect();
            assert!(
                quorum.needed > 0 && !quorum.is_met(&lacking),
                "slot {slot}: {having:?} have it, {quorum:?}"
            );
        }
    }

    /// Nodes that can be reached let go of what they held before.
    pub fn release(&mut self) {
        let nodes: Vec<NodeId> =
            self.layout.nodes().keys().copied().filter(|node| self.is_reachable(node)).collect();
        for node in nodes {
            let retiring = self.layout.slots_of(&node).retiring;
            for (slot, holders) in &mut self.chunks {
                if retiring.contains(slot) {
                    holders.retain(|holder| holder.node != node);
                }
            }
            if let Some(next) = self.layout.slots_released(&node, &retiring) {
                self.adopt(next);
            }
        }
    }

    pub fn finish_shards(&mut self) {
        let targets = self.layout.shards().iter();
        let reached =
            targets.filter_map(|(shard, placement)| Some((*shard, placement.target.clone()?))).collect();
        if let Some(next) = self.layout.shards_changed(&reached) {
            self.adopt(next);
        }
    }

    /// The operator has accepted that chunks are gone which only the removed had.
    pub fn adopt_loss(&mut self, next: Layout) {
        let remain = |holder: &Holder| !next.is_removed(&holder.node);
        self.chunks.retain(|(_, holders)| holders.iter().any(remain));
        self.adopt(next);
    }

    /// What every transition must keep.
    pub fn adopt(&mut self, next: Layout) {
        let before = std::mem::replace(&mut self.layout, next);
        self.check_chunks();
        let after = &self.layout;
        if after.epoch() == before.epoch() {
            assert_eq!(after.version(), before.version() + 1);
        } else {
            assert!(after.epoch() > before.epoch() && after.version() > before.version());
        }
        assert_eq!(after.check(), Ok(()));
        assert_eq!(Layout::decode(&after.encode()).as_ref(), Ok(after));
        for (shard, placement) in after.shards() {
            for replica in placement.all() {
                let meaning = (*shard, replica.node, replica.disk);
                let first = *self.ids_seen.entry(replica.id).or_insert(meaning);
                assert_eq!(first, meaning, "replica id {} was used twice", replica.id);
            }
            let goal = placement.goal();
            let nodes: BTreeSet<NodeId> = goal.voters.iter().map(|voter| voter.node).collect();
            assert_eq!(nodes.len(), goal.voters.len(), "two voters of {shard} on one node");
            assert!(matches!(nodes.len(), 1 | 3), "{shard} has {} voters", nodes.len());
            // Nobody who may be a voter of the real group vanishes without a report.
            let was = &before.shards()[shard];
            if placement.current == was.current && placement.target.is_some() {
                let now: BTreeSet<ReplicaId> = placement.all().map(|replica| replica.id).collect();
                assert!(
                    was.all().all(|replica| now.contains(&replica.id)),
                    "{shard} lost a replica in mid-change"
                );
            }
        }
        for slot in Slot::all().step_by(97) {
            writes_stay_visible(&before, after, slot);
        }
        for slot in Slot::all() {
            let live = |layout: &Layout| {
                let serves = |holder: &Holder| {
                    layout
                        .node(&holder.node)
                        .is_some_and(|node| node.state.serves() && node.disk == holder.disk)
                };
                layout.complete_holders(slot).filter(|holder| serves(holder)).count()
            };
            let possible = after.storage_nodes().count().min(after.settings().copies.into());
            if before.nodes() == after.nodes() {
                assert!(live(after) >= live(&before).min(possible), "slot {slot} lost a copy");
            }
        }
    }
}

/// Every write acknowledged under the former layout is seen by whoever copies or repairs
/// under the next: any set of nodes that met the former quorums has a member in any set
/// that meets the copy quorum.
fn writes_stay_visible(before: &Layout, after: &Layout, slot: Slot) {
    let writes = before.write_targets(slot);
    let copies = after.copy_quorum(slot);
    let nodes: Vec<NodeId> = {
        let members = writes.quorums.iter().flat_map(|quorum| &quorum.members).chain(&copies.members);
        members.copied().collect::<BTreeSet<_>>().into_iter().collect()
    };
    assert!(nodes.len() <= 12);
    let subset = |mask: u32| -> BTreeSet<NodeId> {
        nodes.iter().enumerate().filter(|(at, _)| mask & (1 << at) != 0).map(|(_, node)| *node).collect()
    };
    // A node with a new disk is another holder: its former acknowledgements are gone.
    let same_disk = |node: &NodeId| {
        let disk = |layout: &Layout| layout.node(node).map(|properties| properties.disk);
        disk(before) == disk(after) && after.node(node).is_some_and(|properties| properties.state.serves())
    };
    for mask in 0..1u32 << nodes.len() {
        let stored = subset(mask);
        if writes.is_met(&stored) && stored.iter().all(same_disk) {
            // Quorums only grow with their sets: if anyone misses the write, all others do.
            let others = subset(!mask);
            assert!(!copies.is_met(&others), "slot {slot}: a write on {stored:?} is missed by {others:?}");
        }
    }
}

/// SplitMix64, for choices that depend on a seed alone.
pub fn hash(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

pub fn minutes(minutes: u64) -> Option<Duration> {
    Some(Duration::from_secs(60 * minutes))
}
