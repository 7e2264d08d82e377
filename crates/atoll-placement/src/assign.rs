//! Gives every item (a slot, a shard) its nodes, moving as few as can be.
//!
//! Rendezvous hashing alone moves little, but balances only as well as chance does: 4,096
//! slots over 30 nodes leave the fullest 10 % above its share, and copies in distinct
//! zones of unequal size bend the shares further. So shares are computed first
//! (`quota.rs`), what is held stays where that respects the rules, and only the surplus
//! moves; rendezvous order says which items, and where copies that are missing go. A join
//! then moves exactly the newcomer's share, and every node is within one item of its own.

use std::collections::{BTreeMap, VecDeque};

use atoll_types::{NodeId, Zone};

use crate::{
    quota::{Part, ZoneRules, divide},
    rendezvous::Preferences,
};

pub(crate) struct Candidate {
    pub(crate) node: NodeId,
    pub(crate) zone: Zone,
    pub(crate) weight: f64,
    /// False while it cannot be reached: it keeps what it has, and gets nothing more.
    pub(crate) receives: bool,
}

/// Which node each item is on: indices of candidates, most preferred first.
pub(crate) type Assignment = Vec<Vec<usize>>;

pub(crate) struct Assigner {
    candidates: Vec<Candidate>,
    preferences: Vec<Preferences>,
    zone_of: Vec<usize>,
    rules: ZoneRules,
    quotas: Vec<u64>,
    items: usize,
}

/// More zones than this are counted on the heap.
const ZONES_ON_STACK: usize = 16;

/// A surplus of 2 % of a node's share stays where it is: no bytes move because a capacity
/// was rounded otherwise. Once something has to move for balance, it moves to the full.
const SURPLUS_IGNORED_FRACTION: u64 = 50;

impl Assigner {
    /// `candidates` in the order of their ids. There must be one.
    pub(crate) fn new(candidates: Vec<Candidate>, purpose: &str, items: usize, copies_wanted: usize) -> Self {
        let mut nodes_of_zone: BTreeMap<&Zone, Vec<usize>> = BTreeMap::new();
        for (at, candidate) in candidates.iter().enumerate() {
            nodes_of_zone.entry(&candidate.zone).or_default().push(at);
        }
        let members: Vec<Vec<usize>> = nodes_of_zone.into_values().collect();
        let mut zone_of = vec![0; candidates.len()];
        for (zone, nodes) in members.iter().enumerate() {
            for node in nodes {
                zone_of[*node] = zone;
            }
        }
        let rules = ZoneRules::new(copies_wanted, &members.iter().map(Vec::len).collect::<Vec<_>>());
        let all = items as u64;
        let zone_part = |(nodes, (lower, upper)): (&Vec<usize>, &(usize, usize))| Part {
            weight: nodes.iter().map(|node| candidates[*node].weight).sum(),
            least: *lower as u64 * all,
            most: *upper as u64 * all,
        };
        let zones: Vec<Part> = members.iter().zip(&rules.bounds).map(zone_part).collect();
        let mut quotas = vec![0; candidates.len()];
        for (nodes, share) in members.iter().zip(divide(rules.copies as u64 * all, &zones)) {
            let part = |node: &usize| Part { weight: candidates[*node].weight, least: 0, most: all };
            let parts: Vec<Part> = nodes.iter().map(part).collect();
            for (node, quota) in nodes.iter().zip(divide(share, &parts)) {
                quotas[*node] = quota;
            }
        }
        let preferences = candidates
            .iter()
            .map(|candidate| Preferences::new(&candidate.node, candidate.weight, purpose, items))
            .collect();
        Self { candidates, preferences, zone_of, rules, quotas, items }
    }

    pub(crate) fn copies(&self) -> usize {
        self.rules.copies
    }

    #[cfg(test)]
    pub(crate) fn quotas(&self) -> &[u64] {
        &self.quotas
    }

    fn allows(&self, nodes: &[usize]) -> bool {
        // A copy count per zone without a heap allocation: this is asked for every slot of
        // every plan.
        let mut copies_of_zone = [0; ZONES_ON_STACK];
        let zones = self.rules.bounds.len();
        if zones <= ZONES_ON_STACK {
            return self.allows_counted(nodes, &mut copies_of_zone[..zones]);
        }
        self.allows_counted(nodes, &mut vec![0; zones])
    }

    fn allows_counted(&self, nodes: &[usize], copies_of_zone: &mut [usize]) -> bool {
        for node in nodes {
            copies_of_zone[self.zone_of[*node]] += 1;
        }
        self.rules.allow(copies_of_zone)
    }

    fn score(&self, item: usize, node: usize) -> f64 {
        self.preferences[node].score(item)
    }

    /// The next assignment. `held` says who has each item now; the first are kept first
    /// where not all can be. An item whose nodes stay keeps their order, another gets its
    /// order of preference.
    pub(crate) fn assign(&self, held: Assignment) -> Assignment {
        let mut work = Work {
            assigner: self,
            sets: Vec::with_capacity(self.items),
            touched: vec![false; self.items],
            loads: vec![0; self.candidates.len()],
        };
        for (item, nodes) in held.into_iter().enumerate() {
            let mut kept = Vec::with_capacity(self.rules.copies);
            for node in &nodes {
                kept.push(*node);
                if kept.len() > self.rules.copies || !self.allows(&kept) {
                    kept.pop();
                }
            }
            for node in &kept {
                work.loads[*node] += 1;
            }
            work.touched[item] = kept.len() < nodes.len();
            work.sets.push(kept);
        }
        work.fill();
        if work.is_unbalanced() {
            work.balance();
        }
        let touched = work.touched;
        for (item, nodes) in work.sets.iter_mut().enumerate().filter(|(item, _)| touched[*item]) {
            nodes.sort_by(|a, b| self.score(item, *b).total_cmp(&self.score(item, *a)).then(a.cmp(b)));
        }
        work.sets
    }
}

struct Work<'a> {
    assigner: &'a Assigner,
    sets: Assignment,
    /// Items whose nodes are not those they were.
    touched: Vec<bool>,
    loads: Vec<u64>,
}

impl Work<'_> {
    fn surplus(&self, node: usize) -> u64 {
        self.loads[node].saturating_sub(self.assigner.quotas[node])
    }

    /// What `node` could still take.
    fn deficit(&self, node: usize) -> u64 {
        if !self.assigner.candidates[node].receives {
            return 0;
        }
        self.assigner.quotas[node].saturating_sub(self.loads[node])
    }

    /// Missing copies go where the item's order of preference says, among nodes below
    /// their share; if the rules leave none of those, to the relatively emptiest.
    fn fill(&mut self) {
        let assigner = self.assigner;
        for item in 0..self.sets.len() {
            while self.sets[item].len() < assigner.rules.copies {
                let fullness = |node: usize| self.loads[node] as f64 / assigner.candidates[node].weight;
                let better = |a: &usize, b: &usize| {
                    let has_room = (self.deficit(*a) > 0).cmp(&(self.deficit(*b) > 0));
                    let emptier = || match self.deficit(*a) {
                        0 => fullness(*b).total_cmp(&fullness(*a)),
                        _ => std::cmp::Ordering::Equal,
                    };
                    let preferred = || assigner.score(item, *a).total_cmp(&assigner.score(item, *b));
                    has_room.then_with(emptier).then_with(preferred)
                };
                let choice = (0..assigner.candidates.len())
                    .filter(|node| assigner.candidates[*node].receives && self.can_add(item, *node))
                    .max_by(better);
                let Some(node) = choice else { break };
                self.sets[item].push(node);
                self.touched[item] = true;
                self.loads[node] += 1;
            }
        }
    }

    fn can_add(&self, item: usize, node: usize) -> bool {
        if self.sets[item].contains(&node) {
            return false;
        }
        let mut with = self.sets[item].clone();
        with.push(node);
        self.assigner.allows(&with)
    }

    fn can_replace(&self, item: usize, from: usize, to: usize) -> bool {
        let set = &self.sets[item];
        if set.contains(&to) {
            return false;
        }
        let with: Vec<usize> = set.iter().map(|node| if *node == from { to } else { *node }).collect();
        self.assigner.allows(&with)
    }

    fn replace(&mut self, item: usize, from: usize, to: usize) {
        if let Some(node) = self.sets[item].iter_mut().find(|node| **node == from) {
            *node = to;
            self.touched[item] = true;
            self.loads[from] -= 1;
            self.loads[to] += 1;
        }
    }

    fn is_unbalanced(&self) -> bool {
        let ignored = |node: usize| (self.assigner.quotas[node] / SURPLUS_IGNORED_FRACTION).max(1);
        let nodes = 0..self.loads.len();
        nodes.clone().any(|node| self.deficit(node) > ignored(node))
            || nodes.clone().any(|node| self.surplus(node) > ignored(node))
                && nodes.clone().any(|node| self.deficit(node) > 0)
    }

    /// Items of a node, those that prefer `to` most first.
    fn items_for(&self, from: usize, to: usize) -> Vec<usize> {
        let mut items: Vec<usize> =
            (0..self.sets.len()).filter(|item| self.sets[*item].contains(&from)).collect();
        let score = |item: &usize| self.assigner.score(*item, to);
        items.sort_by(|a, b| score(b).total_cmp(&score(a)).then(a.cmp(b)));
        items
    }

    /// Moves the surplus to where there is a deficit: directly where the rules allow it,
    /// then along chains of nodes of which each passes one item on.
    fn balance(&mut self) {
        for to in 0..self.loads.len() {
            for from in 0..self.loads.len() {
                if self.surplus(from) == 0 || self.deficit(to) == 0 {
                    continue;
                }
                for item in self.items_for(from, to) {
                    if self.surplus(from) == 0 || self.deficit(to) == 0 {
                        break;
                    }
                    if self.can_replace(item, from, to) {
                        self.replace(item, from, to);
                    }
                }
            }
        }
        while let Some(chain) = self.chain() {
            for (item, from, to) in chain {
                self.replace(item, from, to);
            }
        }
    }

    /// The shortest chain of moves from a node with a surplus to one with a deficit. Each
    /// node appears once, so at most one item of each is touched; two links may touch
    /// one item only if they do so in a way that the rules still allow, which is checked
    /// by replaying.
    fn chain(&self) -> Option<Vec<(usize, usize, usize)>> {
        let nodes = self.loads.len();
        let mut reached_by: Vec<Option<(usize, usize)>> = vec![None; nodes];
        let mut seen: Vec<bool> = (0..nodes).map(|node| self.surplus(node) > 0).collect();
        let mut queue: VecDeque<usize> = (0..nodes).filter(|node| seen[*node]).collect();
        let mut held: Vec<Vec<usize>> = vec![Vec::new(); nodes];
        for (item, set) in self.sets.iter().enumerate() {
            for node in set {
                held[*node].push(item);
            }
        }
        while let Some(from) = queue.pop_front() {
            for to in 0..nodes {
                if seen[to] || !self.assigner.candidates[to].receives {
                    continue;
                }
                let Some(item) = held[from].iter().find(|item| self.can_replace(**item, from, to)) else {
                    continue;
                };
                seen[to] = true;
                reached_by[to] = Some((*item, from));
                queue.push_back(to);
                if self.deficit(to) == 0 {
                    continue;
                }
                let mut chain = Vec::new();
                let mut end = to;
                while let Some((item, from)) = reached_by[end] {
                    chain.push((item, from, end));
                    end = from;
                }
                // Two links on one item could undo what made each of them allowed.
                let mut items: Vec<usize> = chain.iter().map(|(item, ..)| *item).collect();
                items.sort_unstable();
                if items.windows(2).all(|pair| pair[0] != pair[1]) {
                    return Some(chain);
                }
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ITEMS: usize = 4096;

    fn candidates(nodes: &[(u8, &str, f64)]) -> Vec<Candidate> {
        let candidate = |&(id, zone, weight): &(u8, &str, f64)| Candidate {
            node: NodeId([id; 32]),
            zone: Zone(zone.into()),
            weight,
            receives: true,
        };
        nodes.iter().map(candidate).collect()
    }

    fn check(nodes: &[(u8, &str, f64)], copies: usize) -> (Assigner, Assignment) {
        let assigner = Assigner::new(candidates(nodes), "test", ITEMS, copies);
        let assignment = assigner.assign(vec![Vec::new(); ITEMS]);
        for set in &assignment {
            assert_eq!(set.len(), assigner.copies());
            assert!(assigner.allows(set), "{set:?}");
        }
        for (node, load) in loads(&assigner, &assignment).into_iter().enumerate() {
            let quota = assigner.quotas()[node];
            assert!(
                load.abs_diff(quota) <= (quota / 50).max(1),
                "node {node} has {load}, its share is {quota}"
            );
        }
        (assigner, assignment)
    }

    fn loads(assigner: &Assigner, assignment: &Assignment) -> Vec<u64> {
        let mut loads = vec![0; assigner.candidates.len()];
        for node in assignment.iter().flatten() {
            loads[*node] += 1;
        }
        loads
    }

    #[test]
    fn every_node_holds_its_share_in_one_zone_and_in_many() {
        check(&[(1, "a", 1.0), (2, "a", 1.0), (3, "a", 1.0), (4, "a", 2.0), (5, "a", 1.0)], 3);
        check(&[(1, "a", 1.0), (2, "a", 2.0), (3, "b", 1.0), (4, "b", 2.0), (5, "c", 3.0), (6, "c", 1.0)], 3);
        check(&[(1, "a", 1.0), (2, "b", 1.0), (3, "b", 1.0), (4, "b", 5.0)], 3);
        check(&[(1, "a", 1.0), (2, "b", 2.0), (3, "c", 1.0), (4, "d", 5.0), (5, "e", 1.0)], 3);
        let hundred: Vec<(u8, &str, f64)> =
            (0..100).map(|n| (n, ["a", "b", "c", "d"][n as usize % 4], 1.0 + f64::from(n % 3))).collect();
        check(&hundred, 3);
    }

    #[test]
    fn a_newcomer_gets_its_share_and_nothing_else_moves() {
        let before = [(1, "a", 1.0), (2, "a", 1.0), (3, "a", 1.0), (4, "a", 1.0)];
        let (_, held) = check(&before, 3);
        let mut after = before.to_vec();
        after.push((5, "a", 1.0));
        let assigner = Assigner::new(candidates(&after), "test", ITEMS, 3);
        let next = assigner.assign(held.clone());
        let moved: usize = held
            .iter()
            .zip(&next)
            .map(|(old, new)| new.iter().filter(|node| !old.contains(node)).count())
            .sum();
        assert_eq!(moved as u64, assigner.quotas()[4]);
        assert!(
            next.iter().zip(&held).all(|(new, old)| new.iter().all(|node| old.contains(node) || *node == 4))
        );
    }

    #[test]
    fn a_balanced_assignment_stays_as_it_is() {
        let (assigner, held) = check(&[(1, "a", 1.0), (2, "b", 1.0), (3, "c", 1.5), (4, "d", 1.0)], 3);
        assert_eq!(assigner.assign(held.clone()), held);
    }

    #[test]
    fn a_node_out_of_reach_keeps_what_it_has_and_gets_nothing() {
        let nodes = [(1, "a", 1.0), (2, "a", 1.0), (3, "a", 1.0), (4, "a", 1.0)];
        let mut away = candidates(&nodes);
        away[3].receives = false;
        let assigner = Assigner::new(away, "test", ITEMS, 3);
        let held: Assignment = vec![vec![0, 1, 2]; ITEMS];
        assert_eq!(loads(&assigner, &assigner.assign(held)), [4096, 4096, 4096, 0]);
        let held: Assignment = vec![vec![0, 1, 3]; ITEMS];
        let next = assigner.assign(held);
        assert_eq!(loads(&assigner, &next)[3], 3072, "the surplus leaves it");
    }
}
