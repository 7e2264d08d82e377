//! Experiment *lookup*: hops, latency and messages of lookups as networks grow.

use std::time::Duration;

use atoll_overlay::{ChordConfig, LookupStyle};
use serde::Serialize;

use crate::experiment::{Kind, Report, RowBegun, Setup, chord, measure};

#[derive(Debug, Clone, Serialize)]
pub struct LookupParameters {
    pub overlays: Vec<Kind>,
    /// One row for each.
    pub nodes: Vec<usize>,
    pub lookups: usize,
    pub setup: Setup,
    /// Chord's successor list.
    pub successors: usize,
    /// Whether Chord routes by it too. Off gives the papers' ½·log₂N, to the predecessor: one
    /// hop more to the responsible node.
    pub route_by_successors: bool,
    pub recursive: bool,
}

impl Default for LookupParameters {
    fn default() -> Self {
        let chord = ChordConfig::default();
        Self {
            overlays: Kind::ALL.to_vec(),
            nodes: vec![100, 1_000, 10_000],
            lookups: 1_000,
            setup: Setup::Converged,
            successors: chord.successors,
            route_by_successors: chord.route_by_successors,
            recursive: false,
        }
    }
}

/// Looks evenly drawn keys up in networks at rest, without upkeep meanwhile.
pub fn lookup(seed: u64, parameters: LookupParameters) -> Report<LookupParameters> {
    let config = ChordConfig {
        successors: parameters.successors,
        route_by_successors: parameters.route_by_successors,
        style: if parameters.recursive { LookupStyle::Recursive } else { LookupStyle::Iterative },
        ..ChordConfig::default()
    };
    let mut rows = Vec::new();
    for &nodes in &parameters.nodes {
        for &overlay in &parameters.overlays {
            let begun = RowBegun { overlay, nodes, failed_share: 0.0, repair: Duration::ZERO };
            rows.push(match overlay {
                Kind::Chord => {
                    let mut world = chord(nodes, seed, parameters.setup, &config);
                    world.freeze();
                    measure(&mut world, seed, parameters.lookups, begun)
                }
            });
        }
    }
    Report { experiment: "lookup", seed, parameters, rows }
}
