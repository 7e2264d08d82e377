//! What one seed's run is like: which faults it has, which load, how strong, and what may
//! be believed of time.
//!
//! Each is drawn by itself. Runs that lack some faults find more than runs that have them
//! all (A. Groce et al., "Swarm Testing", 2012), for one often hides what another would
//! show: a cluster that is always cut to pieces commits nothing that a torn write could
//! lose.

use std::fmt;

use rand::{Rng, rngs::StdRng};
use serde::Serialize;

use crate::{
    Seed,
    load::Load,
    world::{Damage, Storm},
};

/// What may be believed of time in a run (C. Dwork, N. Lynch, L. Stockmeyer, "Consensus in
/// the Presence of Partial Synchrony", 1988). Safety is asked for in all three, liveness
/// in the first two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Synchrony {
    /// There is a bound on how long a passage takes and on how far nodes' speeds lie
    /// apart, and it always holds. Nodes crash and disks fail all the same.
    Synchronous,
    /// The bound holds from some moment on that nobody knows: here, after each storm.
    PartiallySynchronous,
    /// There is none. Passages stall and nodes stand still now and then to the very end.
    Asynchronous,
}

impl fmt::Display for Synchrony {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Synchrony::Synchronous => "synchronous",
            Synchrony::PartiallySynchronous => "partially synchronous",
            Synchrony::Asynchronous => "asynchronous",
        })
    }
}

/// How the cluster changes while it is under load and in storms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// A new machine.
    Join,
    /// A node is drained, removed and taken away.
    Leave,
    /// A machine gets a new empty disk in the place of its own.
    EmptyDisk,
    /// A machine gets an image of its disk that was made earlier in the run.
    OldDisk,
}

/// All that a seed decides before its run begins.
#[derive(Debug, Clone, PartialEq)]
pub struct Swarm {
    pub synchrony: Synchrony,
    /// Nodes lie in as many places, between which the way is longer.
    pub zones: usize,
    pub storm: Storm,
    /// Which changes there may be, one in an episode.
    pub changes: Vec<Change>,
    pub load: Load,
}

impl Swarm {
    /// Of `nodes`, one is drawn whose disk may lie, so that each shard and each chunk
    /// keeps a majority of copies that do not.
    pub fn drawn(seed: Seed, nodes: usize) -> Swarm {
        let rng = &mut seed.stream("swarm");
        let synchrony = match rng.random_range(0..10) {
            0..2 => Synchrony::Synchronous,
            2..8 => Synchrony::PartiallySynchronous,
            _ => Synchrony::Asynchronous,
        };
        let mut storm = Storm::drawn(rng);
        // With fewer than three copies there is no majority without the liar.
        if nodes >= 3 && rng.random_bool(0.5) {
            // From a stream of its own: seeds without it are what they were.
            let store = seed.stream("damaged store").random_bool(0.4);
            storm.damage = Some(Damage { store, ..damage(rng, nodes) });
        }
        storm.full_disks = rng.random_bool(0.3);
        storm.fault_points = rng.random_bool(0.5);
        if synchrony == Synchrony::Synchronous {
            storm = storm.bounded();
        }
        let mut changes = Vec::new();
        if nodes >= 3 {
            // They end when all is calm, which an asynchronous run never is.
            if synchrony != Synchrony::Asynchronous {
                let kinds = [Change::Join, Change::Leave];
                changes.extend(kinds.into_iter().filter(|_| rng.random_bool(0.3)));
            }
            if storm.damage.is_some() {
                let kinds = [Change::EmptyDisk, Change::OldDisk];
                changes.extend(kinds.into_iter().filter(|_| rng.random_bool(0.4)));
            }
        }
        Swarm { synchrony, zones: rng.random_range(1..=3), storm, changes, load: Load::drawn(rng) }
    }

    /// No faults, and small objects only: to measure the simulation itself.
    pub fn calm() -> Swarm {
        Swarm {
            synchrony: Synchrony::Synchronous,
            zones: 1,
            storm: Storm::NONE,
            changes: Vec::new(),
            load: Load { large: 0, ..Load::default() },
        }
    }

    /// The names of what is on, for the report.
    pub fn names(&self) -> Vec<&'static str> {
        let mut names = self.storm.names();
        names.extend(self.changes.iter().map(|change| match change {
            Change::Join => "join",
            Change::Leave => "leave",
            Change::EmptyDisk => "empty disk",
            Change::OldDisk => "old disk",
        }));
        names
    }
}

/// A seed's liar lies in one way or several.
fn damage(rng: &mut StdRng, nodes: usize) -> Damage {
    let mut chance = |most: f64| if rng.random_bool(0.4) { rng.random_range(0.0..most) } else { 0.0 };
    Damage {
        read_error: chance(0.002),
        flipped_bit: chance(0.002),
        lost_write: chance(0.002),
        misplaced_write: chance(0.002),
        sync_error: chance(0.002),
        node: rng.random_range(0..nodes),
        store: false,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn drawn(nodes: usize) -> Vec<Swarm> {
        (0..300).map(|seed| Swarm::drawn(Seed(seed), nodes)).collect()
    }

    #[test]
    fn each_fault_is_on_in_some_seeds_and_off_in_others() {
        let all = drawn(5);
        let every: BTreeSet<&str> = all.iter().flat_map(Swarm::names).collect();
        for name in &every {
            let on = all.iter().filter(|swarm| swarm.names().contains(name)).count();
            assert!((20..280).contains(&on), "{name} is on in {on} of 300");
        }
        // Nineteen of storms, four of changes.
        assert_eq!(every.len(), 23, "{every:?}");
        assert_eq!(all.iter().map(|swarm| swarm.zones).collect::<BTreeSet<_>>(), [1, 2, 3].into());
    }

    #[test]
    fn a_synchronous_seed_keeps_its_bound_and_an_asynchronous_one_asks_for_no_calm() {
        let all = drawn(5);
        let of = |kind| all.iter().filter(move |swarm| swarm.synchrony == kind);
        assert!(of(Synchrony::PartiallySynchronous).count() > 100);
        let unbounded = ["cuts", "one-way cuts", "pair cuts", "pauses", "bad links", "stalls", "slow links"];
        for swarm in of(Synchrony::Synchronous) {
            assert!(unbounded.iter().all(|name| !swarm.names().contains(name)), "{:?}", swarm.names());
        }
        for swarm in of(Synchrony::Asynchronous) {
            assert!(!swarm.changes.contains(&Change::Join) && !swarm.changes.contains(&Change::Leave));
        }
    }

    #[test]
    fn no_disk_lies_where_there_are_no_three_copies() {
        let takes_a_disk = |change: &Change| matches!(change, Change::EmptyDisk | Change::OldDisk);
        for swarm in drawn(2) {
            assert!(swarm.storm.damage.is_none() && !swarm.changes.iter().any(takes_a_disk));
        }
        for swarm in drawn(3) {
            assert!(swarm.storm.damage.is_none_or(|damage| damage.node < 3));
        }
    }
}
