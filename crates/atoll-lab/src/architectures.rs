//! Experiment *architectures*: one mixed workload on every architecture, and what each costs.
//!
//! ```text
//! grow by joining, rest ─► publish ─► calm ─► churn ─► the busiest nodes fail ─► ten minutes on
//!                                       └────────┴───────────────┴───────────────────┴─► a row each
//! ```
//!
//! Things have names, and a few nodes hold each. In every condition nodes that are drawn ask who
//! provides a thing, or what is called by a word; and meanwhile messages are broadcast over whom nodes
//! know at that moment, be they gone. What is the centre of a network nobody says: it is the nodes that had most to do.
//!
//! What textbooks claim of the architectures is tested on the rows ([`Verdict`]).
//!
//! - `resident`: its nodes. `town`: a network that lives through all of it. `verdicts`: what follows from the rows.

mod resident;
mod town;
mod verdicts;

use std::time::Duration;

use crate::{
    columns::{Column, Row},
    experiment::{Progress, Report},
    kinds::{Architecture, Settings},
    page::Plot,
    parameters::{Share, Within, parameters, words},
    plot::Scale,
};

use self::town::Life;
pub use self::verdicts::{Holds, Verdict, Winner};

/// What a network is measured under, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Condition {
    Calm,
    /// Nodes come and go.
    Churn,
    /// Right after the busiest nodes failed, all at once.
    CentreFails,
    /// Ten minutes later.
    Recovered,
}

words!(Condition {
    Calm "calm", Churn "churn", CentreFails "centre-fails", Recovered "recovered"
});

/// Some must be left when the busiest go.
type Size = Within<16, 100_000>;

parameters! {
    pub struct ArchitecturesParameters {
        /// The architectures to run.
        pub overlays: Vec<Architecture> = Architecture::ALL.to_vec(),
        /// Sizes of the network; what grows is seen between the least and the greatest.
        pub nodes: Vec<Size> = [250, 1_000].map(Within).to_vec(),
        /// Things that are published.
        pub things: Within<1, 10_000> = Within(100),
        /// Nodes that hold each thing, however many nodes there are.
        pub holders: Within<1, 1_000> = Within(3),
        /// Lookups and searches of each node in each condition, as many of the ones as of the
        /// others.
        pub operations_per_node: f64 = 0.4,
        /// Seconds over which they are spread.
        pub measured_s: Within<1, 86_400> = Within(120),
        /// Median session under churn, in seconds; sessions are exponential.
        pub session_median_s: Within<1, 86_400> = Within(1_800),
        /// The share of the nodes that fail at once, the busiest ones, at least one.
        pub centre_share: Share = Share(0.01),
        /// Broadcasts in each condition, while operations are asked.
        pub broadcasts: Within<1, 1_000> = Within(3),
        + pub settings: Settings,
    }
}

const LINES: &[Column] = &[Column::Overlay, Column::Condition];

pub(crate) const PLOTS: &[Plot] = &[
    Plot {
        title: "Found",
        x: (Column::Nodes, Scale::Logarithmic),
        y: (Column::OperationsFoundShare, Scale::Linear),
        by: LINES,
        theory: &[],
        model: None,
    },
    Plot {
        title: "Messages for an operation, upkeep included",
        x: (Column::Nodes, Scale::Logarithmic),
        y: (Column::OperationMessagesMean, Scale::Logarithmic),
        by: LINES,
        theory: &[],
        model: None,
    },
    Plot {
        title: "Time to an answer",
        x: (Column::Nodes, Scale::Logarithmic),
        y: (Column::AnswerMsMean, Scale::Linear),
        by: LINES,
        theory: &[],
        model: None,
    },
    Plot {
        title: "Load of the busiest node",
        x: (Column::Nodes, Scale::Logarithmic),
        y: (Column::BusiestBytesPerS, Scale::Logarithmic),
        by: LINES,
        theory: &[],
        model: None,
    },
];

/// Runs the workload on each architecture. `tell` hears what share of the work is done.
pub fn architectures(seed: u64, parameters: ArchitecturesParameters, tell: &mut dyn FnMut(f64)) -> Report {
    let ArchitecturesParameters { overlays, nodes, .. } = &parameters;
    let sizes: usize = nodes.iter().map(|nodes| nodes.0).sum();
    let mut progress = Progress::new(tell, (sizes * overlays.len()) as f64);
    let mut rows: Vec<Row> = Vec::new();
    for &Within(nodes) in nodes {
        for &overlay in overlays {
            let row = Row::default().with(Column::Overlay, overlay.name()).with(Column::Nodes, nodes);
            let life = Life { seed, nodes, parameters: &parameters, row };
            rows.extend(overlay.run(&parameters.settings, life));
            progress.add(nodes as f64);
        }
    }
    let (verdicts, winners) = (verdicts::verdicts(&rows), verdicts::winners(&rows));
    Report { verdicts, winners, ..Report::new("architectures", seed, &parameters, rows) }
}

/// Between the failure of the busiest nodes and the last rows.
const RECOVERS_IN: Duration = Duration::from_secs(600);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::Family;

    fn run(change: impl FnOnce(&mut ArchitecturesParameters)) -> Report {
        let mut parameters = ArchitecturesParameters {
            nodes: vec![Within(60)],
            things: Within(10),
            operations_per_node: 1.0,
            measured_s: Within(30),
            broadcasts: Within(1),
            // Three of sixty.
            centre_share: Share(0.05),
            ..ArchitecturesParameters::default()
        };
        change(&mut parameters);
        architectures(1, parameters, &mut |_| ())
    }

    fn of(report: &Report, overlay: Architecture, condition: Condition, column: Column) -> f64 {
        let fits = |row: &&Row| {
            row.shown(Column::Overlay) == overlay.name() && row.shown(Column::Condition) == condition.name()
        };
        report.rows.iter().find(fits).expect("a row").number(column).expect("measured")
    }

    #[test]
    fn in_calm_every_architecture_finds_what_there_is_and_all_without_a_centre_recover() {
        let report = run(|_| ());
        assert_eq!(report.rows.len(), Architecture::ALL.len() * Condition::ALL.len());
        for &overlay in Architecture::ALL {
            let found = |condition| of(&report, overlay, condition, Column::OperationsFoundShare);
            // Walkers may miss what three nodes of sixty hold.
            let least = if overlay.name() == "walk" { 0.8 } else { 0.97 };
            assert!(found(Condition::Calm) >= least, "{overlay:?}: {}", found(Condition::Calm));
            // A centre that is gone does not come back by itself.
            let recovered = found(Condition::Recovered);
            match overlay.family() {
                Family::ClientServer => assert_eq!(recovered, 0.0),
                // All three super-peers fail here.
                Family::Hybrid => {
                    let failed = found(Condition::CentreFails);
                    assert!(recovered >= 0.97 && recovered > failed, "{failed}, recovered: {recovered}");
                }
                _ => assert!(recovered >= least - 0.05, "{overlay:?} recovered: {recovered}"),
            }
            for &condition in Condition::ALL {
                let reached = of(&report, overlay, condition, Column::ReachedShareMean);
                let has_centre =
                    overlay.family() != Family::ClientServer || found(Condition::CentreFails) > 0.0;
                match condition {
                    Condition::CentreFails | Condition::Recovered if !has_centre => {
                        assert_eq!(reached, 0.0, "clients know nobody else");
                    }
                    _ => assert!(reached > 0.97, "{overlay:?} {condition:?}: {reached}"),
                }
            }
        }
    }

    #[test]
    fn what_is_sent_for_broadcasts_is_in_the_same_row() {
        let [few, many] = [1, 9].map(|broadcasts| {
            let report = run(|parameters| {
                parameters.overlays = vec![Architecture::Chord];
                parameters.broadcasts = Within(broadcasts);
            });
            let sent = |column| of(&report, Architecture::Chord, Condition::Calm, column);
            let for_one = sent(Column::BroadcastBytesPerNode);
            (for_one, sent(Column::TrafficBytesPerNodeS) * 30.0 - for_one * broadcasts as f64)
        });
        // The rest is the same operations and the same upkeep, but for what chance is in them.
        assert!((few.0 / many.0 - 1.0).abs() < 0.05, "{few:?}, {many:?}");
        assert!((few.1 / many.1 - 1.0).abs() < 0.2, "{few:?}, {many:?}");
    }

    #[test]
    fn the_same_seed_gives_the_same_rows() {
        let once = || run(|parameters| parameters.overlays.truncate(2));
        assert_eq!(once(), once());
    }
}
