//! Experiment *lookup*: hops, latency and messages of lookups as networks grow.

use crate::{
    columns::{Column, Row},
    experiment::{Progress, Report, Setup, measure, network},
    kinds::{Kind, Recipe, Settings, Task},
    parameters::{NodeCount, parameters},
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
        + pub settings: Settings,
    }
}

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
        world.freeze();
        measure(recipe, &mut world, self.seed, self.parameters.lookups, self.row)
    }
}
