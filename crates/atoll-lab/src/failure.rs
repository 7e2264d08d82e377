//! Experiment *failure*: a share of all nodes fails at once, and lookups go on.

use std::time::Duration;

use rand::seq::SliceRandom;

use crate::{
    columns::{Column, Row},
    experiment::{Progress, Report, Setup, measure, network},
    kinds::{Kind, Recipe, Settings, Task},
    page::Plot,
    parameters::{NodeCount, Share, parameters},
    plot::Scale,
    world::{SimulatedContact, stream},
};

parameters! {
    /// By default as in ToN 2003, V-D, with shares up to 0.8 rather than 0.5; and once more
    /// after ten minutes, when each node of Chord has stabilised twenty times.
    pub struct FailureParameters {
        /// The kinds to run.
        pub overlays: Vec<Kind> = Kind::ALL.to_vec(),
        /// Sizes of the network before the failure.
        pub nodes: Vec<NodeCount> = vec![NodeCount(1_000)],
        /// Lookups for each row.
        pub lookups: usize = 10_000,
        /// Shares of the nodes that fail.
        pub failed_shares: Vec<Share> = (0..=8).map(|tenths| Share(f64::from(tenths) / 10.0)).collect(),
        /// Seconds of upkeep after the failure; 0 is before any repair.
        pub repairs_s: Vec<u64> = vec![0, 600],
        + pub settings: Settings,
    }
}

const LINES: &[Column] = &[Column::Overlay, Column::Nodes, Column::RepairS];

pub(crate) const PLOTS: &[Plot] = &[
    Plot {
        title: "Lookups that fail",
        x: (Column::FailedShare, Scale::Linear),
        y: (Column::LookupsFailedShare, Scale::Linear),
        by: LINES,
        theory: &[],
        model: None,
    },
    Plot {
        title: "Hops of those that do not",
        x: (Column::FailedShare, Scale::Linear),
        y: (Column::HopsMean, Scale::Linear),
        by: LINES,
        theory: &[],
        model: None,
    },
    Plot {
        title: "Time-outs of a lookup",
        x: (Column::FailedShare, Scale::Linear),
        y: (Column::TimeoutsMean, Scale::Linear),
        by: LINES,
        theory: &[],
        model: None,
    },
    Plot {
        title: "Messages for a lookup",
        x: (Column::FailedShare, Scale::Linear),
        y: (Column::MessagesMean, Scale::Linear),
        by: LINES,
        theory: &[],
        model: None,
    },
];

/// Fails a share of a network at rest and looks evenly drawn keys up, asked at nodes that live.
/// Nobody learns from what these lookups meet, so each meets the network as it was left.
pub fn failure(seed: u64, parameters: FailureParameters, tell: &mut dyn FnMut(f64)) -> Report {
    let FailureParameters { overlays, nodes, failed_shares, repairs_s, .. } = &parameters;
    let count = nodes.len() * failed_shares.len() * repairs_s.len() * overlays.len();
    let mut progress = Progress::new(tell, count as f64);
    let mut rows = Vec::new();
    for &NodeCount(nodes) in nodes {
        for &Share(failed_share) in failed_shares {
            for &repair_s in repairs_s {
                for &overlay in overlays {
                    let row = Row::default()
                        .with(Column::Overlay, overlay.name())
                        .with(Column::Nodes, nodes)
                        .with(Column::FailedShare, failed_share)
                        .with(Column::RepairS, repair_s);
                    let repair = Duration::from_secs(repair_s);
                    let lookups = parameters.lookups;
                    let task = Failure { seed, nodes, lookups, failed_share, repair, row };
                    rows.push(overlay.run(&parameters.settings, task));
                    progress.add(1.0);
                }
            }
        }
    }
    Report::new("failure", seed, &parameters, rows)
}

struct Failure {
    seed: u64,
    nodes: usize,
    lookups: usize,
    failed_share: f64,
    repair: Duration,
    row: Row,
}

impl Task for Failure {
    type Output = Row;

    fn run<R: Recipe>(self, recipe: &R) -> Row {
        let mut world = network(recipe, self.nodes, self.seed, Setup::Converged);
        let mut all: Vec<SimulatedContact> = world.living().map(|(contact, _)| contact).collect();
        all.shuffle(&mut stream(self.seed, "failures"));
        let failing = (self.failed_share * all.len() as f64).round() as usize;
        all[..failing.min(all.len() - 1)].iter().for_each(|contact| world.fail(*contact));
        world.run(self.repair);
        world.freeze();
        measure(recipe, &mut world, self.seed, self.lookups, self.row)
    }
}
