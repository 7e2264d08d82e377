//! Experiment *failure*: a share of all nodes fails at once, and lookups go on.

use std::time::Duration;

use atoll_overlay::ChordConfig;
use rand::seq::SliceRandom;
use serde::Serialize;

use crate::{
    experiment::{Kind, Report, RowBegun, Setup, chord, measure},
    world::{SimulatedContact, stream},
};

#[derive(Debug, Clone, Serialize)]
pub struct FailureParameters {
    pub overlays: Vec<Kind>,
    pub nodes: usize,
    pub lookups: usize,
    /// Shares of the nodes that fail, 0 to below 1.
    pub failed_shares: Vec<f64>,
    /// Seconds of upkeep after the failure, one row for each; 0 is before any repair.
    pub repairs_s: Vec<u64>,
    /// Chord's successor list, which is used in routing.
    pub successors: usize,
}

impl Default for FailureParameters {
    /// ToN 2003, V-D, with shares up to 0.8 rather than 0.5; and once more after ten minutes,
    /// when each node has stabilised twenty times.
    fn default() -> Self {
        Self {
            overlays: Kind::ALL.to_vec(),
            nodes: 1_000,
            lookups: 10_000,
            failed_shares: (0..=8).map(|tenths| f64::from(tenths) / 10.0).collect(),
            repairs_s: vec![0, 600],
            successors: 20,
        }
    }
}

/// Fails a share of a network at rest and looks evenly drawn keys up, asked at nodes that live.
/// Nobody learns from what these lookups meet, so each meets the network as it was left.
pub fn failure(seed: u64, parameters: FailureParameters) -> Report<FailureParameters> {
    let config = ChordConfig { successors: parameters.successors, ..ChordConfig::default() };
    let mut rows = Vec::new();
    for &failed_share in &parameters.failed_shares {
        for &repair_s in &parameters.repairs_s {
            for &overlay in &parameters.overlays {
                let repair = Duration::from_secs(repair_s);
                let begun = RowBegun { overlay, nodes: parameters.nodes, failed_share, repair };
                rows.push(match overlay {
                    Kind::Chord => {
                        let mut world = chord(parameters.nodes, seed, Setup::Converged, &config);
                        let mut all: Vec<SimulatedContact> =
                            world.living().map(|(contact, _)| contact).collect();
                        all.shuffle(&mut stream(seed, "failures"));
                        let failing = (failed_share * all.len() as f64).round() as usize;
                        all[..failing.min(all.len() - 1)].iter().for_each(|contact| world.fail(*contact));
                        world.run(repair);
                        world.freeze();
                        measure(&mut world, seed, parameters.lookups, begun)
                    }
                });
            }
        }
    }
    Report { experiment: "failure", seed, parameters, rows }
}
