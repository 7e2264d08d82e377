//! What a layout answers: where to write, where to read, what a node has to do.

use std::collections::{BTreeMap, BTreeSet};

use atoll_types::{ByteSize, NodeId, ReplicaId, ShardId, Slot};

use crate::{
    layout::{Layout, NodeState},
    shard::Replica,
    slot::{Holder, HolderSet, SlotEntry, SlotProgress, WriteRule},
};

/// `needed` of `members` must answer. Members that cannot answer any more (lost disks,
/// removed nodes) are left out, but count in what was needed: `needed` may be more than
/// there are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quorum {
    pub members: Vec<NodeId>,
    pub needed: usize,
}

impl Quorum {
    pub fn is_met(&self, answered: &BTreeSet<NodeId>) -> bool {
        self.members.iter().filter(|member| answered.contains(member)).count() >= self.needed
    }

    /// False when too many have failed for it ever to be met.
    pub fn can_be_met(&self, failed: &BTreeSet<NodeId>) -> bool {
        self.members.iter().filter(|member| !failed.contains(member)).count() >= self.needed
    }
}

/// Where a chunk goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriteTargets {
    /// To be sent with the write: holders refuse one under an older layout.
    pub layout_version: u64,
    /// Send to all of these at once.
    pub nodes: Vec<NodeId>,
    /// Stored when each of these is met: one, or while the slot moves the old holders'
    /// and the new ones'.
    pub quorums: Vec<Quorum>,
}

impl WriteTargets {
    pub fn is_met(&self, stored: &BTreeSet<NodeId>) -> bool {
        self.quorums.iter().all(|quorum| quorum.is_met(stored))
    }

    pub fn can_be_met(&self, failed: &BTreeSet<NodeId>) -> bool {
        self.quorums.iter().all(|quorum| quorum.can_be_met(failed))
    }
}

/// A holder's "no" to a write. Nothing was stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WriteRefused {
    /// The writer must fetch a layout of at least this version and look again.
    #[error("the slot's holders changed in layout {changed}, the write came under an older one")]
    StaleLayout { changed: u64 },
    /// The writer knows a newer layout: this node must fetch it before it can tell.
    #[error("this node has layout {have} only")]
    Behind { have: u64 },
    #[error("this node does not hold the slot")]
    NotAHolder,
}

/// A slot over which a node has to make a pass.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyTask {
    pub slot: Slot,
    /// Goes with the report ([`Layout::slots_moved`]): a report on an earlier move of the
    /// same slot changes nothing. A source must know a layout of at least this version
    /// before its list of the slot's chunks counts.
    pub changed: u64,
    /// Whom to copy from, best first; others' copies are as good, if they verify.
    pub sources: Vec<NodeId>,
    /// The pass is complete when the lists of these were read: any write that was ever
    /// acknowledged is in one of them, or here. None may be needed.
    pub quorum: Quorum,
}

/// What a node holds.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SlotsOf {
    /// Holds, whether or not the slot is moving away.
    pub current: Vec<Slot>,
    /// Is getting: takes writes, may lack older chunks.
    pub arriving: Vec<Slot>,
    /// Held before, takes no writes, has to make a final pass and report it.
    pub retiring: Vec<Slot>,
}

/// A shard in the shape that Raft's driver wants: ids and where they are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShardMapEntry {
    pub voters: Vec<(ReplicaId, NodeId)>,
    /// Catching up, kept without a vote, or on their way out.
    pub learners: Vec<(ReplicaId, NodeId)>,
}

impl Layout {
    fn slot(&self, slot: Slot) -> &SlotEntry {
        &self.slots[usize::from(slot.0)]
    }

    fn serving<'a>(&'a self, numbers: impl Iterator<Item = u16> + 'a) -> impl Iterator<Item = Holder> + 'a {
        numbers.map(|number| self.holder(number)).filter(|holder| self.is_serving(*holder))
    }

    fn write_quorum(&self, set: &HolderSet) -> Quorum {
        let (of, needed) = match set.rule {
            WriteRule::Keeper => (&set.members[..1], 1),
            WriteRule::Majority | WriteRule::Gathering => (&set.members[..], set.members.len() / 2 + 1),
        };
        Quorum { members: self.serving(of.iter().copied()).map(|holder| holder.node).collect(), needed }
    }

    /// Whoever could ever answer again. A lost disk cannot, and for a node removed by
    /// force the operator has decided that nobody waits; the dead may come back.
    fn is_answerable(&self, number: u16) -> bool {
        let holder = self.holder(number);
        self.nodes
            .get(&holder.node)
            .is_some_and(|node| node.disk == holder.disk && node.state != NodeState::Removing)
    }

    /// Without the keeper, and where fewer than needed are left, all the others: then
    /// something may be lost, and nobody knows more.
    fn copy_quorum_of(&self, set: &HolderSet) -> Quorum {
        let answerable = set.members.iter().filter(|number| self.is_answerable(**number)).count();
        let (of, needed) = match set.rule {
            WriteRule::Keeper if self.is_answerable(set.members[0]) => (&set.members[..1], 1),
            WriteRule::Keeper => (&set.members[..], answerable),
            // Whoever has the write is among any set of one more than may lack it.
            WriteRule::Majority | WriteRule::Gathering => {
                (&set.members[..], (set.rule.lacking_most(set.members.len()) + 1).min(answerable))
            }
        };
        Quorum { members: self.serving(of.iter().copied()).map(|holder| holder.node).collect(), needed }
    }

    /// Whether holders that cannot answer any more may have taken an acknowledged write
    /// with them.
    pub fn may_have_lost(&self, slot: Slot) -> bool {
        let set = &self.slot(slot).current;
        let answerable = set.members.iter().filter(|number| self.is_answerable(**number)).count();
        match set.rule {
            WriteRule::Keeper => !self.is_answerable(set.members[0]),
            WriteRule::Majority | WriteRule::Gathering => {
                answerable < set.rule.lacking_most(set.members.len()) + 1
            }
        }
    }

    /// Whether so many of the slot's complete holders are given up that no write can be
    /// acknowledged and no move finished before one of them comes back or is removed by
    /// force.
    pub fn waits_for_the_dead(&self, slot: Slot) -> bool {
        let entry = self.slot(slot);
        let quorum = self.copy_quorum_of(&entry.current);
        quorum.members.len() < quorum.needed
    }

    /// Who has to make a pass over a moving slot before it is moved. Newcomers do. Those
    /// who stay do where what a quorum of the new ones must have may be just what they
    /// missed: a holder of three may lack what the two others acknowledged, and the second
    /// of two all that its keeper acknowledged alone.
    fn copiers<'a>(&'a self, entry: &'a SlotEntry) -> impl Iterator<Item = u16> + 'a {
        let current = &entry.current;
        let has_all = |number: u16| current.rule == WriteRule::Keeper && current.members[0] == number;
        let lacking = |set: &HolderSet| set.rule.lacking_most(set.members.len());
        let must = move |target: &HolderSet, number: u16| {
            let stays = current.members.contains(&number);
            let decides = match target.rule {
                WriteRule::Keeper => target.members[0] == number,
                WriteRule::Majority | WriteRule::Gathering => lacking(current) > lacking(target),
            };
            !stays || decides && !has_all(number)
        };
        let target = entry.target.iter();
        target.flat_map(move |target| {
            target.members.iter().copied().filter(move |number| must(target, *number))
        })
    }

    /// Whose passes a moving slot waits for.
    pub fn awaited(&self, slot: Slot) -> Vec<NodeId> {
        self.copiers(self.slot(slot)).map(|number| self.holder(number).node).collect()
    }

    /// Where a chunk of this slot goes, and when it counts as stored (rule 7).
    pub fn write_targets(&self, slot: Slot) -> WriteTargets {
        let entry = self.slot(slot);
        let mut quorums = vec![self.write_quorum(&entry.current)];
        quorums.extend(entry.target.as_ref().map(|target| self.write_quorum(target)));
        let nodes = self.serving(entry.writers()).map(|holder| holder.node).collect();
        WriteTargets { layout_version: self.version, nodes, quorums }
    }

    /// Whether `node`, which has this layout, may take a write of this slot that was sent
    /// under layout `version`.
    pub fn check_write(&self, node: &NodeId, slot: Slot, version: u64) -> Result<(), WriteRefused> {
        let entry = self.slot(slot);
        if version > self.version {
            return Err(WriteRefused::Behind { have: self.version });
        }
        if version < entry.changed {
            return Err(WriteRefused::StaleLayout { changed: entry.changed });
        }
        if !self.serving(entry.writers()).any(|holder| holder.node == *node) {
            return Err(WriteRefused::NotAHolder);
        }
        Ok(())
    }

    /// Who may have a chunk of this slot, best first for a reader at `near`: itself, its
    /// zone, complete holders before filling ones, those on their way out last. Whether
    /// they can be reached is not in the layout.
    pub fn read_candidates(&self, slot: Slot, near: &NodeId) -> Vec<NodeId> {
        let entry = self.slot(slot);
        let zone = self.nodes.get(near).map(|node| &node.zone);
        let mut ranked: Vec<(u8, bool, usize, NodeId)> = Vec::new();
        for (at, number) in entry.numbers().enumerate() {
            let holder = self.holder(number);
            if ranked.iter().any(|(.., node)| *node == holder.node) || !self.is_serving(holder) {
                continue;
            }
            let complete = entry.current.members.contains(&number);
            let retiring = entry.retiring.contains(&number);
            let rank = match () {
                () if holder.node == *near => 0,
                () if complete => 1,
                () if retiring => 2,
                () => 3,
            };
            let far = zone.is_none_or(|zone| self.nodes[&holder.node].zone != *zone);
            ranked.push((rank, far, at, holder.node));
        }
        ranked.sort();
        ranked.into_iter().map(|(.., node)| node).collect()
    }

    /// Everyone who holds the slot or is getting it, whether they can be asked or not.
    pub fn holders(&self, slot: Slot) -> impl Iterator<Item = Holder> + '_ {
        self.slot(slot).writers().map(|number| self.holder(number))
    }

    /// Those who hold everything that was ever written to the slot, as far as the layout
    /// knows.
    pub fn complete_holders(&self, slot: Slot) -> impl Iterator<Item = Holder> + '_ {
        self.slot(slot).current.members.iter().map(|number| self.holder(*number))
    }

    /// The layout version that last changed who takes the slot's writes.
    pub fn slot_changed(&self, slot: Slot) -> u64 {
        self.slot(slot).changed
    }

    /// As many of the complete holders as must be asked so that every acknowledged write
    /// is known to one of them: for copying, repair and verification.
    pub fn copy_quorum(&self, slot: Slot) -> Quorum {
        self.copy_quorum_of(&self.slot(slot).current)
    }

    pub fn progress(&self, slot: Slot) -> SlotProgress {
        self.slot(slot).progress()
    }

    /// Whether new holders are filling.
    pub fn is_moving(&self, slot: Slot) -> bool {
        self.slot(slot).target.is_some()
    }

    /// What `node` holds, on the disk it has now.
    pub fn slots_of(&self, node: &NodeId) -> SlotsOf {
        let mut found = SlotsOf::default();
        let Some(disk) = self.nodes.get(node).map(|node| node.disk) else { return found };
        let holder = Holder { node: *node, disk };
        let Some(own) = self.holders.iter().position(|other| *other == holder) else { return found };
        let own = own as u16;
        for (slot, entry) in Slot::all().zip(&self.slots) {
            if entry.current.members.contains(&own) {
                found.current.push(slot);
            } else if entry.writers().any(|number| number == own) {
                found.arriving.push(slot);
            } else if entry.retiring.contains(&own) {
                found.retiring.push(slot);
            }
        }
        found
    }

    /// Over which slots `node` has to make a pass so that moves can finish: those that
    /// arrive, and some that it has and may not have whole.
    pub fn copy_tasks(&self, node: &NodeId) -> Vec<CopyTask> {
        let Some(disk) = self.nodes.get(node).map(|node| node.disk) else { return Vec::new() };
        let holder = Holder { node: *node, disk };
        let Some(own) = self.holders.iter().position(|other| *other == holder) else { return Vec::new() };
        let task = |slot: Slot| {
            let entry = self.slot(slot);
            let mut sources = self.read_candidates(slot, node);
            sources.retain(|source| source != node);
            let mut quorum = self.copy_quorum_of(&entry.current);
            // What it has itself it need not ask for.
            if let Some(at) = quorum.members.iter().position(|member| member == node) {
                quorum.members.remove(at);
                quorum.needed = quorum.needed.saturating_sub(1);
            }
            CopyTask { slot, changed: entry.changed, sources, quorum }
        };
        let is_awaited =
            |slot: &Slot| self.copiers(self.slot(*slot)).any(|number| usize::from(number) == own);
        Slot::all().filter(is_awaited).map(task).collect()
    }

    /// What is still to be copied, by one copy's size of each slot.
    pub fn bytes_outstanding(&self, slot_bytes: impl Fn(Slot) -> ByteSize) -> ByteSize {
        let arriving = |slot: Slot| {
            let entry = self.slot(slot);
            let target = entry.target.iter().flat_map(|target| &target.members);
            target.filter(|number| !entry.current.members.contains(number)).count() as u64
        };
        ByteSize(Slot::all().map(|slot| arriving(slot) * slot_bytes(slot).0).sum())
    }

    /// How much of users' data the cluster can hold when its moves are done, all copies
    /// counted once: until the node that is fullest for its capacity is full. Zones of
    /// unequal size leave something of the larger unused.
    pub fn usable_capacity(&self) -> ByteSize {
        let mut held: BTreeMap<NodeId, u64> = BTreeMap::new();
        for entry in &self.slots {
            for number in &entry.target.as_ref().unwrap_or(&entry.current).members {
                *held.entry(self.holder(*number).node).or_default() += 1;
            }
        }
        let slots = Slot::COUNT as u128;
        let fits = |(node, held): (NodeId, u64)| {
            let capacity = u128::from(self.nodes.get(&node).map_or(0, |node| node.capacity.0));
            (capacity * slots / u128::from(held)) as u64
        };
        ByteSize(held.into_iter().map(fits).min().unwrap_or(0))
    }

    /// Slots per [`SlotProgress`], in its order.
    pub fn progress_counts(&self) -> BTreeMap<SlotProgress, usize> {
        let mut counts = BTreeMap::new();
        for entry in &self.slots {
            *counts.entry(entry.progress()).or_default() += 1;
        }
        counts
    }

    /// Nothing moves and nothing is left to be dropped.
    pub fn is_settled(&self) -> bool {
        self.slots.iter().all(|slot| slot.progress() == SlotProgress::Settled)
            && self.shards.values().all(|shard| shard.is_settled())
    }

    /// Nothing in the layout names this node's data: it can be removed without a loss.
    pub fn is_empty(&self, node: &NodeId) -> bool {
        !self.holders.iter().enumerate().any(|(number, holder)| {
            holder.node == *node
                && self.slots.iter().any(|slot| slot.numbers().any(|other| usize::from(other) == number))
        }) && self.replicas_on(node).next().is_none()
    }

    /// The replicas that `node` must have. One that it has and that is not named here is
    /// to be deleted, once it is sure that its layout is newer than the replica.
    pub fn replicas_on(&self, node: &NodeId) -> impl Iterator<Item = (ShardId, Replica)> + '_ {
        let node = *node;
        self.shards.iter().flat_map(move |(shard, placement)| {
            placement.all().filter(move |replica| replica.node == node).map(|replica| (*shard, *replica))
        })
    }

    /// All shards with their replicas' places.
    pub fn shard_map(&self) -> BTreeMap<ShardId, ShardMapEntry> {
        let pair = |replica: &Replica| (replica.id, replica.node);
        let entry = |placement: &crate::ShardPlacement| {
            let voters: Vec<_> = placement.current.voters.iter().map(pair).collect();
            let learners = placement.all().map(pair).filter(|replica| !voters.contains(replica)).collect();
            ShardMapEntry { voters, learners }
        };
        self.shards.iter().map(|(shard, placement)| (*shard, entry(placement))).collect()
    }
}
