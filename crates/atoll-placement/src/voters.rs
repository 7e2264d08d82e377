//! Which replicas each shard shall have (rule 6): one voter with one or two storage nodes,
//! the second node a learner; three voters from the third node on, spread over zones and
//! evenly over nodes, moving few.

use std::collections::{BTreeMap, BTreeSet};

use atoll_types::{NodeId, ReplicaId, ShardId};

use crate::{
    assign::{Assigner, Candidate},
    layout::Layout,
    shard::{Replica, ReplicaSet, ShardPlacement},
};

/// A majority of three outlives one; five would outlive two, at the price of two more
/// copies of every record and a slower commit. Rule 6.
pub(crate) const VOTERS: usize = 3;

/// Below this many storage nodes one voter decides alone: two would stop when either stops.
pub(crate) const FAULT_TOLERANT_NODES: usize = 3;

impl Layout {
    /// The node that decides alone while there are fewer than three: whoever does so or is
    /// on the way to, then a voter of now, then anyone; those within reach first, because
    /// a group cannot go where nobody answers.
    pub(crate) fn keeper(&self, candidates: &[Candidate]) -> Option<NodeId> {
        let meta = self.shards.get(&ShardId::META)?;
        let sole = match &meta.goal().voters[..] {
            [sole] => Some(sole),
            _ => None,
        };
        let voters = sole.into_iter().chain(&meta.current.voters).map(|voter| voter.node);
        let preferred: Vec<NodeId> =
            voters.chain(candidates.iter().map(|candidate| candidate.node)).collect();
        let among = |node: &&NodeId, within_reach: bool| {
            candidates
                .iter()
                .any(|candidate| candidate.node == **node && (candidate.receives || !within_reach))
        };
        let reachable = preferred.iter().find(|node| among(node, true));
        reachable.or_else(|| preferred.iter().find(|node| among(node, false))).copied()
    }

    /// Whether this replica can be kept where it is.
    fn is_sound(&self, replica: &Replica, lost: &BTreeSet<ReplicaId>) -> bool {
        self.nodes.get(&replica.node).is_some_and(|node| node.disk == replica.disk && node.is_eligible())
            && !lost.contains(&replica.id)
    }

    /// Sets every shard's target. `candidates`: the nodes that may have replicas, in the
    /// order of their ids; not empty.
    pub(crate) fn place_shards(&mut self, candidates: Vec<Candidate>, lost: &BTreeSet<ReplicaId>) {
        let node_ids: Vec<NodeId> = candidates.iter().map(|candidate| candidate.node).collect();
        let few = candidates.len() < FAULT_TOLERANT_NODES;
        let wanted: Vec<(Vec<NodeId>, Vec<NodeId>)> = if few {
            let Some(keeper) = self.keeper(&candidates) else { return };
            let others: Vec<NodeId> = node_ids.iter().copied().filter(|node| *node != keeper).collect();
            self.shards.keys().map(|_| (vec![keeper], others.clone())).collect()
        } else {
            let held = |placement: &ShardPlacement| {
                // Where the goal is, first; then where a copy exists anyway.
                let sound = |replica: &&Replica| self.is_sound(replica, lost);
                let of_goal = placement.goal().voters.iter().filter(sound);
                let mut nodes: Vec<usize> = Vec::new();
                for replica in of_goal {
                    let at = node_ids.binary_search(&replica.node);
                    nodes.extend(at.ok().filter(|at| !nodes.contains(at)));
                }
                nodes
            };
            let held = self.shards.values().map(held).collect();
            let assigner = Assigner::new(candidates, "shard", self.shards.len(), VOTERS);
            let voters_of =
                |nodes: Vec<usize>| (nodes.into_iter().map(|at| node_ids[at]).collect(), Vec::new());
            assigner.assign(held).into_iter().map(voters_of).collect()
        };
        let shards: Vec<ShardId> = self.shards.keys().copied().collect();
        for (shard, (voters, learners)) in shards.into_iter().zip(wanted) {
            // Two voters tolerate less than one and no more than three: rather wait for
            // whoever is out of reach with those there are.
            if !few && voters.len() < VOTERS {
                continue;
            }
            self.aim_shard(shard, &voters, &learners, lost);
        }
    }

    /// Points one shard at replicas on these nodes, taking those that exist.
    fn aim_shard(
        &mut self,
        shard: ShardId,
        voters: &[NodeId],
        learners: &[NodeId],
        lost: &BTreeSet<ReplicaId>,
    ) {
        let Some(placement) = self.shards.get(&shard) else { return };
        let mut existing: BTreeMap<NodeId, Replica> = BTreeMap::new();
        for replica in placement.all().filter(|replica| self.is_sound(replica, lost)) {
            // The first wins: voters of now come before what a former target began.
            existing.entry(replica.node).or_insert(*replica);
        }
        let mut next_replica = self.next_replica;
        let mut replica_on = |node: &NodeId| {
            *existing.entry(*node).or_insert_with(|| {
                let replica = Replica { id: next_replica, node: *node, disk: self.nodes[node].disk };
                next_replica.0 += 1;
                replica
            })
        };
        let wanted = ReplicaSet {
            voters: voters.iter().map(&mut replica_on).collect(),
            learners: learners.iter().map(&mut replica_on).collect(),
        };
        if wanted.voters.is_empty() || placement.goal().is_same(&wanted) {
            return;
        }
        self.next_replica = next_replica;
        let version = self.version;
        let Some(placement) = self.shards.get_mut(&shard) else { return };
        let formerly: Vec<Replica> = placement.all().copied().collect();
        placement.target = Some(wanted);
        placement.leaving.clear();
        // The group may have gone to the former target already: its replicas live on until
        // a change is reported finished.
        let named: BTreeSet<ReplicaId> = placement.all().map(|replica| replica.id).collect();
        placement.leaving = formerly.into_iter().filter(|replica| !named.contains(&replica.id)).collect();
        placement.changed = version;
    }

    /// Which voter should lead each shard, so that leaders are spread as evenly as voters
    /// allow. A hint: a shard whose hinted leader is out of reach keeps the one it has.
    pub fn leader_hints(&self) -> BTreeMap<ShardId, ReplicaId> {
        let mut led: BTreeMap<NodeId, usize> = BTreeMap::new();
        let mut hints: BTreeMap<ShardId, Replica> = BTreeMap::new();
        for (shard, placement) in &self.shards {
            let stays =
                |replica: &&Replica| self.nodes.get(&replica.node).is_some_and(|node| node.is_eligible());
            let fewest = |replica: &&Replica| (led.get(&replica.node).copied().unwrap_or(0), replica.id);
            let Some(leader) = placement.current.voters.iter().filter(stays).min_by_key(fewest) else {
                continue;
            };
            *led.entry(leader.node).or_default() += 1;
            hints.insert(*shard, *leader);
        }
        // Greedy choices in order leave early shards badly placed: pass leaderships on while
        // that levels them. Each step lowers the sum of squares, so this ends.
        while let Some((shard, to)) = self.leveling_step(&hints, &led) {
            if let Some(from) = hints.insert(shard, to) {
                *led.entry(from.node).or_default() -= 1;
            }
            *led.entry(to.node).or_default() += 1;
        }
        hints.into_iter().map(|(shard, replica)| (shard, replica.id)).collect()
    }

    fn leveling_step(
        &self,
        hints: &BTreeMap<ShardId, Replica>,
        led: &BTreeMap<NodeId, usize>,
    ) -> Option<(ShardId, Replica)> {
        let count = |node: &NodeId| led.get(node).copied().unwrap_or(0);
        hints.iter().find_map(|(shard, leader)| {
            let voters = &self.shards[shard].current.voters;
            let mut lighter = voters.iter().filter(|voter| {
                count(&voter.node) + 1 < count(&leader.node)
                    && self.nodes.get(&voter.node).is_some_and(|node| node.is_eligible())
            });
            lighter.next().map(|voter| (*shard, *voter))
        })
    }
}
