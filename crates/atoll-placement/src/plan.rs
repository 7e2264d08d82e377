//! The planner: from what is, and what is observed, to the next layout.
//!
//! It is run on shard 0's leader whenever something changed, and is idempotent: planning
//! again on its own result, with the same observations, changes nothing. It never waits
//! for anything; a change that it began is finished by the steps in `change.rs`.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use atoll_types::{ByteSize, DiskId, NodeId, ReplicaId, Roles, ShardId, Slot, Zone};

use crate::{
    assign::{Assigner, Assignment, Candidate},
    layout::{Layout, LayoutNode, NodeState},
    slot::{Holder, HolderSet, WriteRule},
    voters::FAULT_TOLERANT_NODES,
};

/// What is known of an admitted node now: its own word on itself, and the membership's on
/// whether it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObservedMember {
    pub node: NodeId,
    pub zone: Zone,
    pub capacity: ByteSize,
    pub disk: DiskId,
    pub roles: Roles,
    pub addresses: Vec<String>,
    /// `None` while it can be reached. Its properties above count only then.
    pub unreachable_for: Option<Duration>,
    /// Replicas of its that may have forgotten something: they get new ids (rule 4).
    pub lost_replicas: BTreeSet<ReplicaId>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PlanSettings {
    /// How long a node may be out of reach before others take over what it holds. Ten
    /// minutes outlive a restart or an upgrade; copying everything it had costs more than
    /// running with two copies for a while.
    pub replace_after: Duration,
}

impl Default for PlanSettings {
    fn default() -> Self {
        Self { replace_after: Duration::from_secs(600) }
    }
}

/// What changed in the layout, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    Joined {
        node: NodeId,
    },
    /// Zone, capacity, roles or addresses.
    PropertiesChanged {
        node: NodeId,
    },
    /// It has another disk: what the former held is copied from the others.
    DiskReplaced {
        node: NodeId,
    },
    Returned {
        node: NodeId,
    },
    DeclaredDead {
        node: NodeId,
        unreachable_for: Duration,
    },
    Forgotten {
        node: NodeId,
    },
}

/// What the planner would have done and did not, or what people should know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Warning {
    /// With fewer than three storage nodes one decides alone: add a third.
    NotFaultTolerant { storage_nodes: usize },
    /// Over a third of the storage nodes is out of reach: rather a cut in the network than
    /// as many dead machines, so nobody is replaced.
    TooManyUnreachable { unreachable: usize, storage_nodes: usize },
    /// Replacing it would leave fewer reachable nodes than copies wanted.
    TooFewLeft { node: NodeId },
    /// Another zone is being replaced; this one waits.
    OneZoneAtATime { node: NodeId },
    /// A majority of its voters is lost or given up: only `atoll recover` helps.
    ShardWithoutQuorum { shard: ShardId },
    /// These slots have fewer copies than wanted, and nowhere to put them.
    CopiesMissing { slots: usize },
    /// So many of these slots' holders lost their disks or were removed by force that the
    /// last copy of something may be gone. What the others have is kept.
    DataMayBeLost { slots: usize },
    /// So many of these slots' holders are dead that nothing can be written to them, and
    /// what they have cannot be told to be all: bring one back, or remove them by force.
    WaitingForTheDead { slots: usize },
    /// No storage node is left to place anything on: the layout stays as it is.
    NowhereToPlace,
}

/// One slot on its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotMove {
    pub slot: Slot,
    pub from: Vec<NodeId>,
    pub to: Vec<NodeId>,
    /// Those of `to` that have to copy everything.
    pub copying: Vec<NodeId>,
}

/// One shard on its way: look the replicas up in the layout.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ShardChange {
    pub shard: ShardId,
    /// Replicas that have to be filled from nothing.
    pub filling: usize,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The layout itself if nothing is to change, otherwise its successor.
    pub next: Layout,
    /// What this plan sets moving; what was moving before is not repeated.
    pub slot_moves: Vec<SlotMove>,
    pub shard_changes: Vec<ShardChange>,
    /// What `slot_moves` will copy, by the sizes that were handed in.
    pub bytes_to_move: ByteSize,
    pub reasons: Vec<Reason>,
    pub warnings: Vec<Warning>,
}

impl Plan {
    pub fn is_change(&self, from: &Layout) -> bool {
        self.next.version() != from.version()
    }
}

/// Plans the next layout. `observed` holds admitted members only: whoever is in it and not
/// in the layout joins. A node of the layout that is not in `observed` counts as out of
/// reach since just now. `slot_bytes` says how much one copy of a slot holds.
pub fn plan(
    layout: &Layout,
    observed: &[ObservedMember],
    settings: &PlanSettings,
    slot_bytes: impl Fn(Slot) -> ByteSize,
) -> Plan {
    let observed: BTreeMap<NodeId, &ObservedMember> =
        observed.iter().map(|member| (member.node, member)).collect();
    let mut planner = Planner {
        before: layout,
        next: layout.successor(),
        observed,
        reasons: Vec::new(),
        warnings: Vec::new(),
    };
    planner.take_in_members();
    planner.declare_dead(settings.replace_after);
    planner.place();
    planner.finish(slot_bytes)
}

#[derive(Clone)]
struct Planner<'a> {
    before: &'a Layout,
    next: Layout,
    observed: BTreeMap<NodeId, &'a ObservedMember>,
    reasons: Vec<Reason>,
    warnings: Vec<Warning>,
}

impl Planner<'_> {
    fn is_reachable(&self, node: &NodeId) -> bool {
        self.observed.get(node).is_some_and(|member| member.unreachable_for.is_none())
    }

    /// Newcomers, changed properties, replaced disks, and the dead who are back.
    fn take_in_members(&mut self) {
        for (node, member) in &self.observed {
            if member.unreachable_for.is_some() || self.next.is_removed(node) {
                continue;
            }
            let Some(known) = self.next.nodes.get_mut(node) else {
                let properties = LayoutNode {
                    zone: member.zone.clone(),
                    capacity: member.capacity,
                    disk: member.disk,
                    roles: member.roles,
                    state: NodeState::Active,
                    addresses: member.addresses.clone(),
                };
                self.next.nodes.insert(*node, properties);
                self.reasons.push(Reason::Joined { node: *node });
                continue;
            };
            if let NodeState::Dead { draining } = known.state {
                known.state = if draining { NodeState::Draining } else { NodeState::Active };
                self.reasons.push(Reason::Returned { node: *node });
            }
            if known.disk != member.disk {
                known.disk = member.disk;
                self.reasons.push(Reason::DiskReplaced { node: *node });
            }
            let is_same = known.zone == member.zone
                && known.capacity == member.capacity
                && known.roles == member.roles
                && known.addresses == member.addresses;
            if !is_same {
                known.zone = member.zone.clone();
                known.capacity = member.capacity;
                known.roles = member.roles;
                known.addresses = member.addresses.clone();
                self.reasons.push(Reason::PropertiesChanged { node: *node });
            }
        }
    }

    /// Gives up nodes that were out of reach for too long, as far as the guards allow:
    /// not while over a third is out of reach, one zone at a time, and never so many that
    /// fewer reachable ones are left than copies wanted.
    fn declare_dead(&mut self, replace_after: Duration) {
        while let Some((unreachable_for, node)) = self.next_dead(replace_after) {
            if let Some(properties) = self.next.nodes.get_mut(&node) {
                properties.state = NodeState::Dead { draining: properties.state == NodeState::Draining };
                self.reasons.push(Reason::DeclaredDead { node, unreachable_for });
            }
        }
    }

    /// The one that is given up next; if none is, warns of those that the guards hold back.
    fn next_dead(&mut self, replace_after: Duration) -> Option<(Duration, NodeId)> {
        let serving =
            self.next.nodes.iter().filter(|(_, properties)| properties.stores() && properties.state.serves());
        let mut overdue: Vec<(Duration, NodeId)> = serving
            .filter_map(|(node, _)| Some((self.observed.get(node)?.unreachable_for?, *node)))
            .filter(|(since, _)| *since >= replace_after)
            .collect();
        if overdue.is_empty() {
            return None;
        }
        // The dead who hold nothing any more are history, and stand in nobody's way: those, too, from
        // whom this plan takes the last, or planning again would go on where it ended.
        let mut placed = self.clone();
        let is_dead = |properties: &LayoutNode| matches!(properties.state, NodeState::Dead { .. });
        let held =
            |(node, properties): (&NodeId, &LayoutNode)| is_dead(properties) && !self.next.is_empty(node);
        if self.next.nodes.iter().any(held) {
            placed.place();
        }
        let counts = |node: &NodeId, properties: &LayoutNode| match properties.state {
            NodeState::Active | NodeState::Draining => properties.stores(),
            NodeState::Dead { .. } => !placed.next.is_empty(node),
            NodeState::Removing => false,
        };
        let nodes = self.next.nodes.iter().filter(|(node, properties)| counts(node, properties));
        let storage: Vec<(&NodeId, &LayoutNode)> = nodes.collect();
        let unreachable = storage.iter().filter(|(node, _)| !self.is_reachable(node)).count();
        if unreachable * 3 > storage.len() {
            let storage_nodes = storage.len();
            self.warnings.push(Warning::TooManyUnreachable { unreachable, storage_nodes });
            return None;
        }
        overdue.sort_by(|a, b| b.0.cmp(&a.0).then(a.1.cmp(&b.1)));
        let dead = storage.iter().find(|(_, properties)| is_dead(properties));
        let zone = dead.map(|(_, properties)| &properties.zone);
        let copies = usize::from(self.next.settings.copies);
        let mut held_back = Vec::new();
        for (unreachable_for, node) in overdue {
            if zone.is_some_and(|zone| *zone != self.next.nodes[&node].zone) {
                held_back.push(Warning::OneZoneAtATime { node });
                continue;
            }
            let left =
                self.next.storage_nodes().filter(|(other, _)| **other != node && self.is_reachable(other));
            if left.count() < copies {
                held_back.push(Warning::TooFewLeft { node });
                continue;
            }
            return Some((unreachable_for, node));
        }
        self.warnings.extend(held_back);
        None
    }

    /// Puts everything where it belongs, and ends the steps that are done.
    fn place(&mut self) {
        if self.candidates().is_empty() {
            self.warnings.push(Warning::NowhereToPlace);
        } else {
            self.place_slots();
            let lost =
                self.observed.values().flat_map(|member| member.lost_replicas.iter().copied()).collect();
            self.next.place_shards(self.voter_candidates(), &lost);
            self.warn_of_lost_quorums(&lost);
        }
        self.warn_of_lost_data();
        self.next.finish_step();
    }

    fn candidates(&self) -> Vec<Candidate> {
        let candidate = |(node, properties): (&NodeId, &LayoutNode)| Candidate {
            node: *node,
            zone: properties.zone.clone(),
            weight: properties.capacity.0 as f64,
            receives: self.is_reachable(node),
        };
        self.next.storage_nodes().map(candidate).collect()
    }

    /// Records are small: every node carries as many voters as any other.
    fn voter_candidates(&self) -> Vec<Candidate> {
        let mut candidates = self.candidates();
        for candidate in &mut candidates {
            candidate.weight = 1.0;
        }
        candidates
    }

    fn place_slots(&mut self) {
        let candidates = self.candidates();
        let few = candidates.len() < FAULT_TOLERANT_NODES;
        if few {
            self.warnings.push(Warning::NotFaultTolerant { storage_nodes: candidates.len() });
        }
        let keeper = if few { self.next.keeper(&candidates) } else { None };
        let holders: Vec<Holder> = candidates
            .iter()
            .map(|candidate| Holder { node: candidate.node, disk: self.next.nodes[&candidate.node].disk })
            .collect();
        let held = self.held(&holders);
        let assigner = Assigner::new(candidates, "slot", Slot::COUNT, usize::from(self.next.settings.copies));
        let numbers: Vec<u16> = holders.iter().map(|holder| self.next.holder_number(*holder)).collect();
        let mut short = 0;
        for (slot, nodes) in assigner.assign(held).into_iter().enumerate() {
            if nodes.len() < assigner.copies() {
                short += 1;
                // Someone who ought to get a copy is out of reach. Fewer holders than now
                // would be worse than waiting with those there are.
                let entry = &self.next.slots[slot];
                let goal = entry.target.as_ref().unwrap_or(&entry.current);
                let serving =
                    goal.members.iter().filter(|number| self.next.is_serving(self.next.holder(**number)));
                if serving.count() >= nodes.len() {
                    continue;
                }
            }
            let mut members: Vec<u16> = nodes.iter().map(|node| numbers[*node]).collect();
            if let Some(keeper) = keeper {
                // The keeper has everything, and first: it is whom a put waits for.
                members.retain(|number| self.next.holder(*number).node != keeper);
                let own = holders.iter().position(|holder| holder.node == keeper);
                members.splice(0..0, own.map(|own| numbers[own]));
                members.truncate(assigner.copies());
            }
            if members.is_empty() {
                continue;
            }
            let rule = if few { WriteRule::Keeper } else { WriteRule::Majority };
            self.aim_slot(slot, HolderSet { rule, members });
        }
        if short > 0 {
            self.warnings.push(Warning::CopiesMissing { slots: short });
        }
    }

    /// Which candidates each slot is on, or on its way to: complete copies first.
    fn held(&self, holders: &[Holder]) -> Assignment {
        let at: Vec<Option<usize>> = self
            .next
            .holders
            .iter()
            .map(|holder| holders.iter().position(|candidate| candidate == holder))
            .collect();
        let of_slot = |entry: &crate::slot::SlotEntry| {
            let goal = entry.target.as_ref().unwrap_or(&entry.current);
            let (complete, filling): (Vec<u16>, Vec<u16>) =
                goal.members.iter().partition(|number| entry.current.members.contains(number));
            complete.into_iter().chain(filling).filter_map(|number| at[usize::from(number)]).collect()
        };
        self.next.slots.iter().map(of_slot).collect()
    }

    /// Points one slot at `wanted`.
    fn aim_slot(&mut self, slot: usize, wanted: HolderSet) {
        let version = self.next.version;
        let entry = &mut self.next.slots[slot];
        let same = |set: &HolderSet| {
            if *set == wanted {
                return true; // as nearly always
            }
            let mut members = set.members.clone();
            let mut wanted_members = wanted.members.clone();
            members.sort_unstable();
            wanted_members.sort_unstable();
            // For a keeper it matters who is first.
            set.rule == wanted.rule
                && members == wanted_members
                && (set.rule != WriteRule::Keeper || set.members[0] == wanted.members[0])
        };
        if same(entry.target.as_ref().unwrap_or(&entry.current)) {
            return;
        }
        let takes_part = |entry: &crate::slot::SlotEntry| entry.writers().collect::<BTreeSet<u16>>();
        let before = takes_part(entry);
        entry.target = if same(&entry.current) { None } else { Some(wanted) };
        let after = takes_part(entry);
        // Whoever was to get the slot and is no longer may have taken writes meanwhile.
        entry.retiring.retain(|number| !after.contains(number));
        for number in before.difference(&after) {
            if !entry.retiring.contains(number) {
                entry.retiring.push(*number);
            }
        }
        entry.changed = version;
    }

    fn warn_of_lost_quorums(&mut self, lost: &BTreeSet<ReplicaId>) {
        for (shard, placement) in &self.next.shards {
            let voters = &placement.current.voters;
            let can_vote = |voter: &&crate::Replica| {
                let node = self.next.nodes.get(&voter.node);
                node.is_some_and(|node| node.state.serves() && node.disk == voter.disk)
                    && !lost.contains(&voter.id)
            };
            if voters.iter().filter(can_vote).count() <= voters.len() / 2 {
                self.warnings.push(Warning::ShardWithoutQuorum { shard: *shard });
            }
        }
    }

    fn warn_of_lost_data(&mut self) {
        let slots = Slot::all().filter(|slot| self.next.may_have_lost(*slot)).count();
        if slots > 0 {
            self.warnings.push(Warning::DataMayBeLost { slots });
        }
        let slots = Slot::all().filter(|slot| self.next.waits_for_the_dead(*slot)).count();
        if slots > 0 {
            self.warnings.push(Warning::WaitingForTheDead { slots });
        }
    }

    fn finish(mut self, slot_bytes: impl Fn(Slot) -> ByteSize) -> Plan {
        let gone = self.before.nodes.keys().filter(|node| !self.next.nodes.contains_key(node));
        self.reasons.extend(gone.map(|node| Reason::Forgotten { node: *node }));
        let mut plan = Plan {
            next: self.before.clone(),
            slot_moves: Vec::new(),
            shard_changes: Vec::new(),
            bytes_to_move: ByteSize(0),
            reasons: self.reasons,
            warnings: self.warnings,
        };
        let version = self.next.version;
        self.next.version = self.before.version;
        if self.next == *self.before {
            return plan;
        }
        self.next.version = version;
        for slot in Slot::all() {
            let at = usize::from(slot.0);
            let (entry, former) = (&self.next.slots[at], &self.before.slots[at]);
            let Some(target) = entry.target.as_ref().filter(|_| entry.changed == version) else { continue };
            let had: BTreeSet<Holder> = former.writers().map(|number| self.before.holder(number)).collect();
            let node_of = |number: &u16| self.next.holder(*number).node;
            let copying: Vec<NodeId> = target
                .members
                .iter()
                .filter(|number| !had.contains(&self.next.holder(**number)))
                .map(node_of)
                .collect();
            plan.bytes_to_move.0 += slot_bytes(slot).0 * copying.len() as u64;
            plan.slot_moves.push(SlotMove {
                slot,
                from: entry.current.members.iter().map(node_of).collect(),
                to: target.members.iter().map(node_of).collect(),
                copying,
            });
        }
        for (shard, placement) in &self.next.shards {
            let Some(former) = self.before.shards.get(shard).filter(|_| placement.changed == version) else {
                continue;
            };
            let had: BTreeSet<ReplicaId> = former.all().map(|replica| replica.id).collect();
            let filling = placement.all().filter(|replica| !had.contains(&replica.id)).count();
            plan.shard_changes.push(ShardChange { shard: *shard, filling });
        }
        plan.next = self.next;
        plan
    }
}
