//! Experiment *broadcast*: one message to all nodes, before and after many of them crash.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    columns::{Column, Row},
    experiment::{Progress, Report, Setup},
    kinds::{Kind, Settings},
    page::Plot,
    parameters::{Share, Within, parameters},
    plot::Scale,
    spread::{Graph, GraphOfKind, Method, PAYLOAD_BYTES_MAX, Spread, random_graph},
};

parameters! {
    pub struct BroadcastParameters {
        /// The kinds whose tables give neighbours.
        pub overlays: Vec<Kind> = Kind::ALL.to_vec(),
        /// Whether a random graph is run besides.
        pub random_graph: bool = true,
        /// Neighbours in the random graph, on average; they are mutual.
        pub connections: Within<1, 512> = Within(8),
        /// flood, gossip, inventory, tree; a tree has neighbours of its own.
        pub methods: Vec<Method> = Method::ALL.to_vec(),
        /// Neighbours that gossip goes on to, drawn anew each time.
        pub fanout: Within<1, 512> = Within(8),
        /// Sizes of the network.
        pub nodes: Vec<Within<2, 1_000_000>> = vec![Within(1_000)],
        /// Shares of the nodes that crash, all at once.
        pub failed_shares: Vec<Share> = vec![Share(0.0), Share(0.4), Share(0.8)],
        /// Seconds between the crash and the first broadcast; only trees use them.
        pub repairs_s: Vec<u64> = vec![0, 60],
        /// Broadcasts for each row, one after the other.
        pub broadcasts: Within<1, 10_000> = Within(10),
        /// Bytes of a payload.
        pub payload_bytes: Within<0, PAYLOAD_BYTES_MAX> = Within(1_000),
        /// Whether the networks whose tables are used grow by joining, or are set up as if they
        /// had come to rest; trees always grow.
        pub setup: Setup = Setup::Grown,
        + pub settings: Settings,
    }
}

const LINES: &[Column] = &[Column::Method, Column::Overlay, Column::Nodes, Column::RepairS];

pub(crate) const PLOTS: &[Plot] = &[
    Plot {
        title: "Reliability: nodes that are reached",
        x: (Column::FailedShare, Scale::Linear),
        y: (Column::ReachedShareMean, Scale::Linear),
        by: LINES,
        theory: &[],
        model: None,
    },
    Plot {
        title: "Redundancy: payloads sent",
        x: (Column::FailedShare, Scale::Linear),
        y: (Column::PayloadsPerNode, Scale::Logarithmic),
        by: LINES,
        theory: &[],
        model: None,
    },
    Plot {
        title: "Last delivery",
        x: (Column::FailedShare, Scale::Linear),
        y: (Column::LastMsMean, Scale::Linear),
        by: LINES,
        theory: &[],
        model: None,
    },
    Plot {
        title: "Depth",
        x: (Column::FailedShare, Scale::Linear),
        y: (Column::DepthMean, Scale::Linear),
        by: LINES,
        theory: &[],
        model: None,
    },
];

/// Broadcasts by each method over each graph of neighbours. `tell` hears what share of the work
/// is done.
pub fn broadcast(seed: u64, parameters: BroadcastParameters, tell: &mut dyn FnMut(f64)) -> Report {
    let mut runs: Vec<(usize, &'static str, Option<Kind>, Method)> = Vec::new();
    for &Within(nodes) in &parameters.nodes {
        let random = parameters.random_graph.then_some(("random", None));
        let kinds = parameters.overlays.iter().map(|kind| (kind.name(), Some(*kind)));
        for (name, kind) in random.into_iter().chain(kinds) {
            let over = parameters.methods.iter().filter(|method| **method != Method::Tree);
            runs.extend(over.map(|method| (nodes, name, kind, *method)));
        }
        if parameters.methods.contains(&Method::Tree) {
            runs.push((nodes, "hyparview", None, Method::Tree));
        }
    }
    let sizes: usize = runs.iter().map(|(nodes, ..)| nodes).sum();
    let mut progress = Progress::new(tell, (sizes * parameters.failed_shares.len()) as f64);
    let mut rows = Vec::new();
    let mut graphs: BTreeMap<(usize, &str), Graph> = BTreeMap::new();
    for (nodes, name, kind, method) in runs {
        let graph = graphs.entry((nodes, name)).or_insert_with(|| match kind {
            Some(kind) => {
                kind.run(&parameters.settings, GraphOfKind { nodes, seed, setup: parameters.setup })
            }
            None if method == Method::Tree => Vec::new(),
            None => random_graph(nodes, parameters.connections.0, seed),
        });
        for &Share(failed_share) in &parameters.failed_shares {
            for &repair_s in &parameters.repairs_s {
                let is_tree = method == Method::Tree;
                // Nothing is mended over a graph that stays as it is, nor before anybody failed.
                if repair_s > 0 && (!is_tree || failed_share == 0.0) && parameters.repairs_s.len() > 1 {
                    continue;
                }
                let row = Row::default()
                    .with(Column::Overlay, name)
                    .with(Column::Method, method.name())
                    .with(Column::Nodes, nodes)
                    .with(Column::FailedShare, failed_share)
                    .with(Column::RepairS, repair_s);
                let spread = Spread {
                    seed,
                    nodes,
                    fanout: parameters.fanout.0,
                    failed_share,
                    repair: Duration::from_secs(repair_s),
                    broadcasts: parameters.broadcasts.0,
                    payload_bytes: parameters.payload_bytes.0,
                    upload_bytes_per_s: 0,
                };
                rows.push(spread.over(method, graph, row));
            }
            progress.add(nodes as f64);
        }
    }
    Report::new("broadcast", seed, &parameters, rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(change: impl FnOnce(&mut BroadcastParameters)) -> Vec<Row> {
        let mut parameters = BroadcastParameters {
            overlays: vec![Kind::Chord],
            nodes: vec![Within(300)],
            broadcasts: Within(5),
            ..BroadcastParameters::default()
        };
        change(&mut parameters);
        broadcast(2, parameters, &mut |_| ()).rows
    }

    fn of(rows: &[Row], method: Method, overlay: &str, failed: f64, repair: f64, column: Column) -> f64 {
        let fits = |row: &&Row| {
            row.shown(Column::Method) == method.name()
                && row.shown(Column::Overlay) == overlay
                && row.number(Column::FailedShare) == Some(failed)
                && row.number(Column::RepairS) == Some(repair)
        };
        rows.iter().find(fits).expect("a row").number(column).expect("measured")
    }

    #[test]
    fn each_method_costs_what_it_says() {
        let rows = run(|parameters| parameters.failed_shares = vec![Share(0.0)]);
        let payloads = |method, overlay| of(&rows, method, overlay, 0.0, 0.0, Column::PayloadsPerNode);
        let reached = |method, overlay| of(&rows, method, overlay, 0.0, 0.0, Column::ReachedShareMin);
        // Once a link and direction, but for the link that it came by: 8 − 1 of 8.
        assert!((payloads(Method::Flood, "random") - 7.0).abs() < 0.1);
        assert!(reached(Method::Flood, "chord") == 1.0 && payloads(Method::Flood, "chord") > 20.0);
        assert!((payloads(Method::Gossip, "chord") - 8.0).abs() < 0.2);
        assert!(reached(Method::Gossip, "chord") > 0.98);
        for (method, overlay) in [(Method::Inventory, "random"), (Method::Tree, "hyparview")] {
            let copies = payloads(method, overlay);
            assert!(
                reached(method, overlay) > 0.98 && (0.98..1.03).contains(&copies),
                "{method:?}: {copies}"
            );
        }
        let half = |method| of(&rows, method, "random", 0.0, 0.0, Column::HalfMsMean);
        // Three ways a step instead of one.
        let slower = half(Method::Inventory) / half(Method::Flood);
        assert!((1.5..4.0).contains(&slower), "{slower}");
    }

    #[test]
    fn a_tree_mends_itself_after_four_fifths_crashed_and_a_graph_does_not() {
        let rows = run(|parameters| parameters.failed_shares = vec![Share(0.8)]);
        let reached =
            |method, overlay, repair| of(&rows, method, overlay, 0.8, repair, Column::ReachedShareMean);
        let before = reached(Method::Tree, "hyparview", 0.0);
        let after = reached(Method::Tree, "hyparview", 60.0);
        let flood = reached(Method::Flood, "random", 0.0);
        // 1.6 neighbours left hold 64 % of the nodes together, r = 1 − e^(−1.6 r), and a source that
        // is not one of these reaches next to nobody.
        assert!(after > 0.99 && before < after && flood < 0.7, "{before} {after} {flood}");
    }
}
