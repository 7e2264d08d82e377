//! Experiment *failure*: a share of all nodes fails at once, and lookups go on.

use std::time::Duration;

use rand::seq::SliceRandom;

use crate::{
    columns::{Column, Row},
    experiment::{Progress, Report, Setup, keepers, measure_after_failure, network},
    kinds::{Kind, Recipe, Settings, Task},
    page::{Plot, Theory},
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
        /// Whether the network grows by joining, or is set up as if it had come to rest.
        pub setup: Setup = Setup::Grown,
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
        title: "Keys whose only copy is lost",
        x: (Column::FailedShare, Scale::Linear),
        y: (Column::KeysLostShare, Scale::Linear),
        by: LINES,
        theory: &[Theory {
            label: "p: the share that failed (SIGCOMM 2001)",
            when: (Column::Overlay, "chord"),
            of: |share| share,
        }],
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
    let FailureParameters { overlays, nodes, .. } = &parameters;
    let mut progress = Progress::new(tell, (nodes.len() * overlays.len()) as f64);
    let mut rows = Vec::new();
    for &NodeCount(nodes) in nodes {
        for &overlay in overlays {
            let row = Row::default().with(Column::Overlay, overlay.name()).with(Column::Nodes, nodes);
            let task = Failure { seed, nodes, parameters: &parameters, row };
            rows.extend(overlay.run(&parameters.settings, task));
            progress.add(1.0);
        }
    }
    Report::new("failure", seed, &parameters, rows)
}

struct Failure<'a> {
    seed: u64,
    nodes: usize,
    parameters: &'a FailureParameters,
    row: Row,
}

impl Task for Failure<'_> {
    type Output = Vec<Row>;

    /// One network, and copies of it that lose their nodes.
    fn run<R: Recipe>(self, recipe: &R) -> Vec<Row> {
        let FailureParameters { lookups, failed_shares, repairs_s, setup, .. } = self.parameters;
        let whole = network(recipe, self.nodes, self.seed, *setup);
        let before = keepers(&whole);
        let mut all: Vec<SimulatedContact> = whole.living().map(|(contact, _)| contact).collect();
        all.shuffle(&mut stream(self.seed, "failures"));
        let mut rows = Vec::new();
        for &Share(failed_share) in failed_shares {
            let failing = ((failed_share * all.len() as f64).round() as usize).min(all.len() - 1);
            for &repair_s in repairs_s {
                let mut world = whole.clone();
                all[..failing].iter().for_each(|contact| world.fail(*contact));
                world.run(Duration::from_secs(repair_s));
                world.freeze();
                let row = self.row.clone();
                let row = row.with(Column::FailedShare, failed_share).with(Column::RepairS, repair_s);
                rows.push(measure_after_failure(recipe, &mut world, self.seed, *lookups, &before, row));
            }
        }
        rows
    }
}
