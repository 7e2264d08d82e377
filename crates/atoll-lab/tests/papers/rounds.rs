//! Searches of a random graph as simulations in papers count them: in rounds of one step, by
//! nobody's messages but queries, and a hit is known at once. To find out why the same searches
//! take another number of messages in the lab; see docs/lab.md.

use std::collections::BTreeSet;

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

/// How somebody counts.
#[derive(Debug, Clone, Copy)]
pub struct Counting {
    /// Whether a node sends what it passes on to whom it comes from, too, and a walker may go
    /// back at once.
    pub to_the_sender: bool,
    /// Rounds until a walker's origin knows of a hit, for each step that the walker has made.
    pub hit_rounds_per_step: u32,
    /// Whether a walker's question whether to go on, and its answer, are messages.
    pub checks: bool,
}

/// Messages of each search, on average.
#[derive(Debug, Default)]
pub struct Messages {
    pub flood: f64,
    /// With the least TTL that finds something.
    pub flood_best: f64,
    pub ring: f64,
    pub walk: f64,
}

type Graph = Vec<Vec<usize>>;

/// Pairs of nodes drawn evenly, as the lab's random graph has them.
fn random_graph(rng: &mut StdRng, nodes: usize, connections: usize) -> Graph {
    let mut graph: Graph = vec![Vec::new(); nodes];
    let mut missing = nodes * connections / 2;
    while missing > 0 {
        let (one, other) = (rng.random_range(0..nodes), rng.random_range(0..nodes));
        if one != other && !graph[one].contains(&other) {
            graph[one].push(other);
            graph[other].push(one);
            missing -= 1;
        }
    }
    graph
}

/// Messages of a flood, and the round in which it first meets a holder.
fn flood(
    graph: &Graph,
    from: usize,
    ttl: u32,
    holders: &BTreeSet<usize>,
    how: Counting,
) -> (u64, Option<u32>) {
    let mut is_seen = vec![false; graph.len()];
    is_seen[from] = true;
    let (mut messages, mut found) = (0, None);
    let mut last = vec![(from, None)];
    for round in 1..=ttl {
        let mut next = Vec::new();
        for (node, sender) in last {
            for neighbour in graph[node].iter().filter(|to| how.to_the_sender || Some(**to) != sender) {
                messages += 1;
                if !std::mem::replace(&mut is_seen[*neighbour], true) {
                    next.push((*neighbour, Some(node)));
                    found = found.or(holders.contains(neighbour).then_some(round));
                }
            }
        }
        last = next;
    }
    (messages, found)
}

/// 32 walkers that check every fourth step.
fn walk(rng: &mut StdRng, graph: &Graph, from: usize, holders: &BTreeSet<usize>, how: Counting) -> u64 {
    let mut walkers = vec![(from, None); 32];
    let (mut messages, mut known_in) = (0, None);
    for round in 1..=1024_u32 {
        for (node, sender) in &mut walkers {
            let to_all: Vec<usize> = graph[*node].clone();
            let onwards: Vec<usize> = to_all.iter().copied().filter(|to| Some(*to) != *sender).collect();
            let choices = if how.to_the_sender || onwards.is_empty() { &to_all } else { &onwards };
            let Some(next) = choices.choose(rng).copied() else { continue };
            messages += 1;
            (*node, *sender) = (next, Some(*node));
            if holders.contains(&next) {
                known_in.get_or_insert(round + how.hit_rounds_per_step * round);
            }
        }
        if round % 4 == 0 {
            messages += if how.checks { 2 * walkers.len() as u64 } else { 0 };
            if known_in.is_some_and(|known| known <= round) {
                break;
            }
        }
    }
    messages
}

/// Of 10,000 nodes with 5 neighbours on average a share has what is searched.
pub fn searches(seed: u64, holder_share: f64, searches: usize, how: Counting) -> Messages {
    const NODES: usize = 10_000;
    let mut rng = StdRng::seed_from_u64(seed);
    let graph = random_graph(&mut rng, NODES, 5);
    let mut sum = Messages::default();
    let mut done = 0;
    while done < searches {
        let from = rng.random_range(0..NODES);
        let count = (NODES as f64 * holder_share) as usize;
        let holders: BTreeSet<usize> = (0..count).map(|_| rng.random_range(0..NODES)).collect();
        let (messages, found) = flood(&graph, from, 7, &holders, how);
        // Nodes without neighbours, one in 150, find nothing by any means.
        let Some(round) = found else { continue };
        done += 1;
        sum.flood += messages as f64;
        sum.flood_best += flood(&graph, from, round, &holders, how).0 as f64;
        sum.ring += (1..=round).map(|ttl| flood(&graph, from, ttl, &holders, how).0).sum::<u64>() as f64;
        sum.walk += walk(&mut rng, &graph, from, &holders, how) as f64;
    }
    let mean = |sum: f64| sum / searches as f64;
    Messages {
        flood: mean(sum.flood),
        flood_best: mean(sum.flood_best),
        ring: mean(sum.ring),
        walk: mean(sum.walk),
    }
}
