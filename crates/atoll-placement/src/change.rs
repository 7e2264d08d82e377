//! Steps that an operator asks for, and steps that finish what the planner began.

use std::collections::{BTreeMap, BTreeSet};

use atoll_types::{NodeId, OverlayKind, ShardId, Slot};

use crate::{
    layout::{Layout, LayoutNode, LayoutSettings, NodeState},
    shard::{Replica, ReplicaSet, ShardPlacement},
};

/// Why an operator's step was refused. The layout is unchanged.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    #[error("node {node:?} is not in the layout")]
    UnknownNode { node: NodeId },
    /// Drain it first, or wait until the drain is done.
    #[error("node {node:?} still holds something")]
    NotEmpty { node: NodeId },
    /// A cluster needs someone to keep it.
    #[error("node {node:?} is the last storage node")]
    LastNode { node: NodeId },
    /// With the others that are dead or on their way out, most of this shard's voters
    /// would be gone. Bring one back, wait until the shard has moved, or recover.
    #[error("shard {shard} would lose its quorum")]
    WithoutQuorum { shard: ShardId },
    #[error("node {node:?} is being removed")]
    BeingRemoved { node: NodeId },
    #[error("copies are 1 to {}", LayoutSettings::COPIES_MAX)]
    CopiesOutOfRange,
}

impl Layout {
    /// The next version of this layout, to be edited before anyone sees it.
    pub(crate) fn successor(&self) -> Layout {
        let mut next = self.clone();
        next.version += 1;
        next
    }

    fn require(&self, node: &NodeId) -> Result<NodeState, ChangeError> {
        self.nodes.get(node).map(|known| known.state).ok_or(ChangeError::UnknownNode { node: *node })
    }

    fn require_another(&self, node: &NodeId) -> Result<(), ChangeError> {
        if self.storage_nodes().any(|(other, _)| other != node) {
            return Ok(());
        }
        Err(ChangeError::LastNode { node: *node })
    }

    /// The node proved that it may be here; the planner gives it its share. `None` if it
    /// is here already.
    pub fn admit(&self, node: NodeId, properties: LayoutNode) -> Result<Option<Layout>, ChangeError> {
        if self.is_removed(&node) {
            return Err(ChangeError::BeingRemoved { node });
        }
        if self.nodes.contains_key(&node) {
            return Ok(None);
        }
        let mut next = self.successor();
        next.nodes.insert(node, properties);
        Ok(Some(next))
    }

    /// The number of copies wanted from now on; the planner moves towards it.
    pub fn with_copies(&self, copies: u8) -> Result<Option<Layout>, ChangeError> {
        if !(1..=LayoutSettings::COPIES_MAX).contains(&copies) {
            return Err(ChangeError::CopiesOutOfRange);
        }
        if self.settings.copies == copies {
            return Ok(None);
        }
        let mut next = self.successor();
        next.settings.copies = copies;
        Ok(Some(next))
    }

    /// The kind of overlay from now on; every node changes to it when it has this layout.
    pub fn with_overlay(&self, kind: OverlayKind) -> Option<Layout> {
        if self.settings.overlay == Some(kind) {
            return None;
        }
        let mut next = self.successor();
        next.settings.overlay = Some(kind);
        Some(next)
    }

    /// The node is to leave; the planner moves everything away from it.
    pub fn drain(&self, node: &NodeId) -> Result<Layout, ChangeError> {
        if self.require(node)? == NodeState::Removing {
            return Err(ChangeError::BeingRemoved { node: *node });
        }
        self.require_another(node)?;
        let is_dead = matches!(self.nodes[node].state, NodeState::Dead { .. });
        let state = if is_dead { NodeState::Dead { draining: true } } else { NodeState::Draining };
        Ok(self.with_state(node, state))
    }

    /// The node is to stay after all.
    pub fn undrain(&self, node: &NodeId) -> Result<Layout, ChangeError> {
        if self.require(node)? == NodeState::Removing {
            return Err(ChangeError::BeingRemoved { node: *node });
        }
        let is_dead = matches!(self.nodes[node].state, NodeState::Dead { .. });
        let state = if is_dead { NodeState::Dead { draining: false } } else { NodeState::Active };
        Ok(self.with_state(node, state))
    }

    /// The node's key is refused for good. Without `force` it must hold nothing any more;
    /// with it, what it held is copied from the others, if they have it.
    pub fn remove(&self, node: &NodeId, force: bool) -> Result<Layout, ChangeError> {
        self.require(node)?;
        if self.is_empty(node) {
            let mut next = self.successor();
            next.forget(node);
            return Ok(next);
        }
        if !force {
            return Err(ChangeError::NotEmpty { node: *node });
        }
        self.require_another(node)?;
        if let Some(shard) = self.shard_in_need_of(node) {
            return Err(ChangeError::WithoutQuorum { shard });
        }
        Ok(self.with_state(node, NodeState::Removing))
    }

    /// A shard that can only reach a majority with this node's vote, if it can at all.
    fn shard_in_need_of(&self, node: &NodeId) -> Option<ShardId> {
        let votes = |voter: &&Replica| {
            let known = self.nodes.get(&voter.node);
            known.is_some_and(|known| known.state.serves() && known.disk == voter.disk)
        };
        let in_need = |(_, placement): &(&ShardId, &ShardPlacement)| {
            let voters = &placement.current.voters;
            let others = voters.iter().filter(votes).filter(|voter| voter.node != *node).count();
            // The dead take no vote away by being removed.
            others <= voters.len() / 2 && voters.iter().filter(votes).any(|voter| voter.node == *node)
        };
        self.shards.iter().find(in_need).map(|(shard, _)| *shard)
    }

    fn with_state(&self, node: &NodeId, state: NodeState) -> Layout {
        let mut next = self.successor();
        if let Some(properties) = next.nodes.get_mut(node) {
            properties.state = state;
        }
        next.drop_lost_retirees();
        next
    }

    pub(crate) fn forget(&mut self, node: &NodeId) {
        self.nodes.remove(node);
        self.removed.insert(*node);
        self.compact_holders();
    }

    /// Holders that will never report their final pass are not waited for.
    pub(crate) fn drop_lost_retirees(&mut self) {
        let serving: Vec<bool> = self.holders.iter().map(|holder| self.is_serving(*holder)).collect();
        for slot in &mut self.slots {
            slot.retiring.retain(|number| serving[usize::from(*number)]);
        }
    }

    /// Every new holder of these slots has made its complete pass
    /// ([`Layout::copy_tasks`]): the new holders are the holders, the former ones retire.
    /// The second of each pair is the task's `changed`; reports on earlier moves are
    /// ignored. `None` if nothing changes.
    pub fn slots_moved(&self, finished: &[(Slot, u64)]) -> Option<Layout> {
        let is_current = |&&(slot, changed): &&(Slot, u64)| {
            let entry = self.slots.get(usize::from(slot.0));
            entry.is_some_and(|entry| entry.target.is_some() && entry.changed == changed)
        };
        let finished: Vec<Slot> = finished.iter().filter(is_current).map(|(slot, _)| *slot).collect();
        if finished.is_empty() {
            return None;
        }
        let mut next = self.successor();
        for slot in finished {
            let entry = &mut next.slots[usize::from(slot.0)];
            let Some(target) = entry.target.take() else { continue };
            let former = std::mem::replace(&mut entry.current, target);
            for number in former.members {
                if !entry.current.members.contains(&number) && !entry.retiring.contains(&number) {
                    entry.retiring.push(number);
                }
            }
            entry.changed = next.version;
        }
        next.finish_step();
        Some(next)
    }

    /// `node` has made its final pass over these slots and dropped its copies. `None` if
    /// nothing changes.
    pub fn slots_released(&self, node: &NodeId, slots: &[Slot]) -> Option<Layout> {
        let own: BTreeSet<u16> =
            (0..self.holders.len() as u16).filter(|n| self.holder(*n).node == *node).collect();
        let is_retiring = |slot: &&Slot| {
            let entry = self.slots.get(usize::from(slot.0));
            entry.is_some_and(|entry| entry.retiring.iter().any(|number| own.contains(number)))
        };
        let released: Vec<Slot> = slots.iter().filter(is_retiring).copied().collect();
        if released.is_empty() {
            return None;
        }
        let mut next = self.successor();
        for slot in released {
            next.slots[usize::from(slot.0)].retiring.retain(|number| !own.contains(number));
        }
        next.finish_step();
        Some(next)
    }

    /// The leaders of these shards report what their groups have become. Where that is
    /// the target, the shard is settled; anything else changes nothing (the report is on a
    /// target that was replaced). `None` if nothing changes.
    pub fn shards_changed(&self, reported: &BTreeMap<ShardId, ReplicaSet>) -> Option<Layout> {
        let is_reached = |(shard, now): &(&ShardId, &ReplicaSet)| {
            let target = self.shards.get(shard).and_then(|placement| placement.target.as_ref());
            target.is_some_and(|target| target.is_same(now))
        };
        let reached: Vec<ShardId> = reported.iter().filter(is_reached).map(|(shard, _)| *shard).collect();
        if reached.is_empty() {
            return None;
        }
        let mut next = self.successor();
        for shard in reached {
            let placement = next.shards.get_mut(&shard).expect("it was found above");
            placement.current = placement.target.take().unwrap_or_default();
            placement.leaving.clear();
            placement.changed = next.version;
        }
        next.finish_step();
        Some(next)
    }

    /// What every step ends with: the lost are not waited for, nodes removed by force go
    /// when nothing names them, unused numbers go.
    pub(crate) fn finish_step(&mut self) {
        self.drop_lost_retirees();
        self.compact_holders();
        let removing = self.nodes.iter().filter(|(_, node)| node.state == NodeState::Removing);
        let gone: Vec<NodeId> = removing.map(|(node, _)| *node).filter(|node| self.is_empty(node)).collect();
        for node in gone {
            self.forget(&node);
        }
    }
}
