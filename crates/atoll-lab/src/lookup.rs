//! Experiment *lookup*: hops, latency and messages of lookups as networks grow.

use std::time::Duration;

use crate::{
    columns::{Column, Row},
    experiment::{Progress, Report, Setup, measure, network},
    kinds::{Kind, Recipe, Settings, Task},
    page::{Plot, Theory},
    parameters::{NodeCount, parameters},
    plot::Scale,
};

parameters! {
    pub struct LookupParameters {
        /// The kinds to run.
        pub overlays: Vec<Kind> = Kind::ALL.to_vec(),
        /// Sizes of the network, a row for each.
        pub nodes: Vec<NodeCount> = [100, 1_000, 10_000, 100_000].map(NodeCount).to_vec(),
        /// Lookups for each row.
        pub lookups: usize = 1_000,
        /// Whether the network is set up as if it had come to rest, or grows by joining.
        pub setup: Setup = Setup::Converged,
        /// Seconds for which upkeep is counted, in a copy of the network; 0 leaves it out.
        pub upkeep_s: u64 = 0,
        + pub settings: Settings,
    }
}

pub(crate) const PLOTS: &[Plot] = &[
    Plot {
        title: "Hops of a lookup",
        x: (Column::Nodes, Scale::Logarithmic),
        y: (Column::HopsMean, Scale::Linear),
        by: &[Column::Overlay],
        theory: &[
            Theory {
                // Stoica et al., ToN 2003: to the predecessor; the hop from there is ours.
                label: "½·log₂N + 1: Chord by fingers only (ToN 2003)",
                when: (Column::Overlay, "chord"),
                of: |nodes| nodes.log2() / 2.0 + 1.0,
            },
            Theory {
                label: "log₂N: Kademlia's bound, b = 1 (2002)",
                when: (Column::Overlay, "kademlia"),
                of: f64::log2,
            },
            Theory {
                label: "log₁₆N: Pastry's bound, b = 4 (2001)",
                when: (Column::Overlay, "pastry"),
                of: |nodes| nodes.log2() / 4.0,
            },
            Theory { label: "1: a directory", when: (Column::Overlay, "directory"), of: |_| 1.0 },
            Theory {
                label: "2: a hybrid's super-peer, and the one whose the key is",
                when: (Column::Overlay, "hybrid"),
                of: |_| 2.0,
            },
        ],
        model: None,
    },
    Plot {
        title: "Latency of a lookup",
        x: (Column::Nodes, Scale::Logarithmic),
        y: (Column::LatencyMsMean, Scale::Linear),
        by: &[Column::Overlay],
        theory: &[],
        model: None,
    },
    Plot {
        title: "Messages for a lookup",
        x: (Column::Nodes, Scale::Logarithmic),
        y: (Column::MessagesMean, Scale::Linear),
        by: &[Column::Overlay],
        theory: &[],
        model: None,
    },
    Plot {
        title: "State of a node",
        x: (Column::Nodes, Scale::Logarithmic),
        y: (Column::BytesPerNode, Scale::Linear),
        by: &[Column::Overlay],
        theory: &[],
        model: None,
    },
];

/// Looks evenly drawn keys up in networks at rest, without upkeep meanwhile. `tell` hears now
/// and then what share of the work is done.
pub fn lookup(seed: u64, parameters: LookupParameters, tell: &mut dyn FnMut(f64)) -> Report {
    let sizes: usize = parameters.nodes.iter().map(|nodes| nodes.0).sum();
    let mut progress = Progress::new(tell, (sizes * parameters.overlays.len()) as f64);
    let mut rows = Vec::new();
    for &NodeCount(nodes) in &parameters.nodes {
        for &overlay in &parameters.overlays {
            let row = Row::default().with(Column::Overlay, overlay.name()).with(Column::Nodes, nodes);
            let task = Lookup { seed, nodes, parameters: &parameters, row };
            rows.push(overlay.run(&parameters.settings, task));
            progress.add(nodes as f64);
        }
    }
    Report::new("lookup", seed, &parameters, rows)
}

struct Lookup<'a> {
    seed: u64,
    nodes: usize,
    parameters: &'a LookupParameters,
    row: Row,
}

impl Task for Lookup<'_> {
    type Output = Row;

    fn run<R: Recipe>(self, recipe: &R) -> Row {
        let mut world = network(recipe, self.nodes, self.seed, self.parameters.setup);
        let mut row = self.row;
        let upkeep = Duration::from_secs(self.parameters.upkeep_s);
        if !upkeep.is_zero() {
            let mut copy = world.clone();
            let before = copy.traffic();
            copy.run(upkeep);
            let sent = copy.traffic() - before;
            let node_seconds = self.nodes as f64 * upkeep.as_secs_f64();
            row = row
                .with(Column::UpkeepMessagesPerNodeS, sent.sent as f64 / node_seconds)
                .with(Column::UpkeepBytesPerNodeS, sent.sent_bytes as f64 / node_seconds);
        }
        world.freeze();
        measure(recipe, &mut world, self.seed, self.parameters.lookups, row)
    }
}
