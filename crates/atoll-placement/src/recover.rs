//! `atoll recover`: the cluster goes on with what the survivors have (rule 6).
//!
//! For when a majority is gone for good: no joint change can be agreed on any more, so the
//! survivors' own word becomes the truth. That may undo acknowledged writes, so it is an
//! operator's decision, made offline, with the loss shown first.

use std::collections::BTreeSet;

use atoll_types::{NodeId, ReplicaId, ShardId, Slot};

use crate::{
    layout::{Layout, NodeState},
    shard::{Replica, ReplicaSet},
    slot::{HolderSet, WriteRule},
};

/// An epoch's versions begin far above the last one's: a survivor that saw later layouts than
/// the one recovered from still finds the recovery newer. 2³² are one a second for 136 years.
const EPOCH_VERSION_BITS: u32 = 32;

/// Why there is nothing to recover with. The layout is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecoverError {
    #[error("node {node:?} keeps nothing: recover on a storage node")]
    KeepsNothing { node: NodeId },
    #[error("node {node:?} is not in the layout")]
    UnknownNode { node: NodeId },
}

/// The layout to go on with, and what it may cost.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    pub layout: Layout,
    /// These had their majority among the lost: their newest writes may be missing.
    pub shards_behind: Vec<ShardId>,
    /// No survivor has any copy: they begin empty.
    pub shards_lost: Vec<ShardId>,
    /// An acknowledged chunk may have been on the lost nodes only.
    pub slots_behind: usize,
    /// No survivor holds anything of these.
    pub slots_lost: usize,
}

impl Layout {
    /// Goes on with `keeper`, on whose disk this is decided, and `others`, under a new
    /// epoch; all the rest are removed for good. Each shard gets one voter: the keeper's
    /// replica if it has one that is not `unusable`, or else another survivor's. Which of
    /// several has the newest log is not in the layout. Voters and copies grow again by
    /// planning.
    pub fn recover(
        &self,
        keeper: &NodeId,
        others: &BTreeSet<NodeId>,
        unusable: &BTreeSet<ReplicaId>,
    ) -> Result<Recovery, RecoverError> {
        let mut survivors = others.clone();
        survivors.insert(*keeper);
        if let Some(node) = survivors.iter().find(|node| !self.nodes.contains_key(node)) {
            return Err(RecoverError::UnknownNode { node: *node });
        }
        if !self.nodes[keeper].stores() {
            return Err(RecoverError::KeepsNothing { node: *keeper });
        }
        let mut layout = self.successor();
        layout.epoch += 1;
        layout.version = layout.version.max(layout.epoch << EPOCH_VERSION_BITS);
        for (_, node) in layout.nodes.iter_mut().filter(|(node, _)| survivors.contains(node)) {
            // Whoever answers for the cluster now takes part in it.
            node.state = NodeState::Active;
        }
        let keeper = *keeper;
        let keeper_disk = self.nodes[&keeper].disk;
        let mut recovery = Recovery {
            layout: self.clone(),
            shards_behind: Vec::new(),
            shards_lost: Vec::new(),
            slots_behind: 0,
            slots_lost: 0,
        };

        let survives = |replica: &&Replica| {
            survivors.contains(&replica.node)
                && self.nodes[&replica.node].disk == replica.disk
                && !unusable.contains(&replica.id)
        };
        let version = layout.version;
        for (shard, placement) in &mut layout.shards {
            let voters = &placement.current.voters;
            if voters.iter().filter(survives).count() <= voters.len() / 2 {
                recovery.shards_behind.push(*shard);
            }
            let on_keeper = |replica: &&Replica| replica.node == keeper;
            let candidates: Vec<Replica> = voters
                .iter()
                .filter(survives)
                .filter(on_keeper)
                .chain(voters.iter().filter(survives))
                .chain(placement.all().filter(survives).filter(on_keeper))
                .chain(placement.all().filter(survives))
                .copied()
                .collect();
            let voter = candidates.first().copied().unwrap_or_else(|| {
                recovery.shards_lost.push(*shard);
                let id = layout.next_replica;
                layout.next_replica.0 += 1;
                Replica { id, node: keeper, disk: keeper_disk }
            });
            placement.current = ReplicaSet { voters: vec![voter], learners: Vec::new() };
            placement.target = None;
            placement.leaving.clear();
            placement.changed = version;
        }
        recovery.shards_behind.retain(|shard| !recovery.shards_lost.contains(shard));

        let keeper_number = layout.holder_number(crate::Holder { node: keeper, disk: keeper_disk });
        for slot in Slot::all() {
            let at = usize::from(slot.0);
            let alive = |number: &u16| {
                let holder = self.holders.get(usize::from(*number));
                holder.is_some_and(|holder| {
                    survivors.contains(&holder.node) && self.nodes[&holder.node].disk == holder.disk
                })
            };
            let entry = &self.slots[at];
            let current = &entry.current;
            let kept = current.members.iter().filter(|number| alive(number)).count();
            let misses = match current.rule {
                WriteRule::Keeper => !alive(&current.members[0]),
                WriteRule::Majority | WriteRule::Gathering => {
                    kept <= current.rule.lacking_most(current.members.len())
                }
            };
            // Also those who were only filling, or retiring: a chunk is a chunk.
            let mut members: Vec<u16> = Vec::new();
            for number in entry.numbers().filter(alive) {
                if !members.contains(&number) {
                    members.push(number);
                }
            }
            if members.is_empty() {
                recovery.slots_lost += 1;
                members.push(keeper_number);
            } else {
                recovery.slots_behind += usize::from(misses);
            }
            // A single one is its own keeper. Of several each may have what the others lack.
            let rule = if members.len() == 1 { WriteRule::Majority } else { WriteRule::Gathering };
            let entry = &mut layout.slots[at];
            entry.current = HolderSet { rule, members };
            entry.target = None;
            entry.retiring.clear();
            entry.changed = version;
        }
        let lost: Vec<NodeId> =
            layout.nodes.keys().filter(|node| !survivors.contains(node)).copied().collect();
        for node in lost {
            layout.forget(&node);
        }
        recovery.layout = layout;
        Ok(recovery)
    }

    /// This layout of a recovery, made to follow `stored`, which shard 0 still has from
    /// before: what the former layout gave out since the recovery's own base is not given
    /// out again.
    pub fn following(&self, stored: &Layout) -> Layout {
        let mut next = self.clone();
        next.version = self.version.max(stored.version) + 1;
        next.next_replica = self.next_replica.max(stored.next_replica);
        next.removed.extend(stored.removed.iter().copied());
        next.removed.extend(stored.nodes.keys().filter(|node| !self.nodes.contains_key(node)));
        next
    }
}
