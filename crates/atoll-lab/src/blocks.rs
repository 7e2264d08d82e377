//! Experiment *blocks*: large payloads by inventories over a random graph, where what a node can
//! send is limited: delay and traffic against connections, bandwidth and size. Beside it stands
//! a model.
//!
//! The question, the random graph and the model's kind are those of Shahsavari, Zhang, Talhi,
//! *Performance modeling and analysis of the Bitcoin inventory protocol*, DAPPCON 2019. We know
//! its abstract only; the equations here are ours:
//!
//! ```text
//! asking     of U nodes that have not asked for the block yet, in a random graph with c
//!            neighbours on average, U·(1 − e^(−c·F/(N − 1))) hear of it first from one of F
//!            nodes that have just got it, and ask: k = that by F for each
//! sending    the j-th that asks a node has the block three trips (inv, getdata, the block's
//!            first byte) and j uploads of a block after that node had it, for uploads go one
//!            after the other
//! traffic    of a node: c announcements, one request, one block
//! ```
//!
//! It is a mean over all nodes, stepped through time; that some nodes are far from others, and
//! some have few neighbours, is not in it.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    columns::{Column, Row},
    experiment::{Progress, Report},
    page::Plot,
    parameters::{Within, parameters},
    plot::Scale,
    spread::{Method, PAYLOAD_BYTES_MAX, Spread, mean_latency, random_graph},
    world::ENVELOPE_BYTES,
};

parameters! {
    pub struct BlocksParameters {
        /// Sizes of the network.
        pub nodes: Vec<Within<2, 100_000>> = vec![Within(1_000)],
        /// Neighbours of a node, on average; they are mutual. Bitcoin's open eight and accept as
        /// many: 16.
        pub connections: Vec<Within<1, 512>> = [4, 8, 16, 32, 64].map(Within).to_vec(),
        /// What a node can send, in Mbit/s.
        pub upload_mbit_per_s: Vec<Within<1, 100_000>> = [10, 50].map(Within).to_vec(),
        /// Bytes of a block.
        pub payload_bytes: Vec<Within<0, PAYLOAD_BYTES_MAX>> = [100_000, 1_000_000].map(Within).to_vec(),
        /// Blocks for each row, one after the other.
        pub broadcasts: Within<1, 10_000> = Within(3),
    }
}

const LINES: &[Column] = &[Column::Method, Column::Nodes, Column::UploadMbitPerS, Column::PayloadBytes];

pub(crate) const PLOTS: &[Plot] = &[
    Plot {
        title: "Until half of the nodes have the block",
        x: (Column::Connections, Scale::Logarithmic),
        y: (Column::HalfMsMean, Scale::Logarithmic),
        by: LINES,
        theory: &[],
        model: Some(Column::ModelHalfMs),
    },
    Plot {
        title: "Until the last node has it",
        x: (Column::Connections, Scale::Logarithmic),
        y: (Column::LastMsMean, Scale::Logarithmic),
        by: LINES,
        theory: &[],
        model: Some(Column::ModelLastMs),
    },
    Plot {
        title: "Traffic besides the block itself",
        x: (Column::Connections, Scale::Logarithmic),
        y: (Column::OverheadBytesPerNode, Scale::Linear),
        by: LINES,
        theory: &[],
        model: Some(Column::ModelOverheadBytesPerNode),
    },
];

/// Spreads blocks, and works out what the model says. `tell` hears what share of the work is
/// done.
pub fn blocks(seed: u64, parameters: BlocksParameters, tell: &mut dyn FnMut(f64)) -> Report {
    let BlocksParameters { nodes, connections, upload_mbit_per_s, payload_bytes, broadcasts } = &parameters;
    let sizes: usize = nodes.iter().map(|nodes| nodes.0).sum();
    let rows_each = connections.len() * upload_mbit_per_s.len() * payload_bytes.len();
    let mut progress = Progress::new(tell, (sizes * rows_each) as f64);
    let mut rows = Vec::new();
    for &Within(nodes) in nodes {
        for &Within(connections) in connections {
            let graph = random_graph(nodes, connections, seed);
            // Not more than there are.
            let neighbours = graph.iter().map(Vec::len).sum::<usize>() as f64 / nodes as f64;
            for &Within(mbit) in upload_mbit_per_s {
                for &Within(payload_bytes) in payload_bytes {
                    let upload_bytes_per_s = mbit as u64 * 125_000;
                    let model = Model {
                        nodes: nodes as f64,
                        neighbours,
                        payload_bytes: payload_bytes as f64,
                        upload_bytes_per_ms: upload_bytes_per_s as f64 / 1000.0,
                        trip_ms: mean_latency(seed, nodes).as_secs_f64() * 1000.0,
                    };
                    let (half_ms, last_ms) = model.delays_ms();
                    let spread = Spread {
                        seed,
                        nodes,
                        fanout: 0,
                        failed_share: 0.0,
                        repair: Duration::ZERO,
                        broadcasts: broadcasts.0,
                        payload_bytes,
                        upload_bytes_per_s,
                    };
                    let row = Row::default()
                        .with(Column::Overlay, "random")
                        .with(Column::Method, Method::Inventory.name())
                        .with(Column::Nodes, nodes)
                        .with(Column::Connections, connections)
                        .with(Column::UploadMbitPerS, mbit)
                        .with(Column::PayloadBytes, payload_bytes)
                        .with_some(Column::ModelHalfMs, half_ms)
                        .with(Column::ModelLastMs, last_ms)
                        .with(Column::ModelOverheadBytesPerNode, model.overhead_bytes());
                    let row = spread.over(Method::Inventory, &graph, row);
                    let overhead = row
                        .number(Column::BroadcastBytesPerNode)
                        .zip(row.number(Column::PayloadsPerNode))
                        .map(|(bytes, payloads)| bytes - payloads * payload_bytes as f64);
                    rows.push(row.with_some(Column::OverheadBytesPerNode, overhead));
                    progress.add(nodes as f64);
                }
            }
        }
    }
    Report::new("blocks", seed, &parameters, rows)
}

/// `inv` and `getdata` are an identifier and a word; a block has a few bytes more than its own.
const WORD_BYTES: f64 = ENVELOPE_BYTES as f64 + 33.0;
const BLOCK_EXTRA_BYTES: f64 = ENVELOPE_BYTES as f64 + 6.0;

struct Model {
    nodes: f64,
    neighbours: f64,
    payload_bytes: f64,
    upload_bytes_per_ms: f64,
    trip_ms: f64,
}

impl Model {
    /// Until half and until the last of those that are reached; half is absent if fewer are.
    fn delays_ms(&self) -> (Option<f64>, f64) {
        let upload_ms = (self.payload_bytes + BLOCK_EXTRA_BYTES) / self.upload_bytes_per_ms;
        // Fine enough to tell one upload from the next, coarse enough for 10⁵ steps in a minute.
        let step_ms = (upload_ms / 8.0).max(1.0);
        let steps = |ms: f64| ((ms / step_ms).round() as u64).max(1);
        // How many get the block in each step to come.
        let mut due = BTreeMap::from([(0_u64, 1.0)]);
        let (mut lacking, mut has, mut half_ms, mut last_ms) = (self.nodes - 1.0, 0.0, None, 0.0);
        while let Some((step, fresh)) = due.pop_first() {
            let now_ms = step as f64 * step_ms;
            // The last half of a node is none.
            if has <= self.nodes - lacking - 0.5 {
                last_ms = now_ms;
            }
            has += fresh;
            if half_ms.is_none() && has >= self.nodes / 2.0 {
                half_ms = Some(now_ms);
            }
            let asking = lacking * (1.0 - exp_minus(self.neighbours * fresh / (self.nodes - 1.0)));
            lacking -= asking;
            // Too few to matter, and there is no end of them.
            if asking < 1e-6 {
                continue;
            }
            let each = asking / fresh;
            let mut sent = 0.0;
            for upload in 1.. {
                let now = (each - sent).min(1.0);
                if now <= 0.0 {
                    break;
                }
                sent += now;
                let after = steps(3.0 * self.trip_ms + f64::from(upload) * upload_ms);
                *due.entry(step + after).or_default() += now * fresh;
            }
        }
        (half_ms, last_ms)
    }

    /// Of a node, besides the block. Nobody announces it to who sent it, but for the source.
    fn overhead_bytes(&self) -> f64 {
        (self.neighbours - 1.0) * WORD_BYTES + WORD_BYTES + BLOCK_EXTRA_BYTES
    }
}

/// e⁻ˣ for x ≥ 0, without libm, so that it is the same everywhere: e⁻ˣ = (e^(−x/2ᵏ))^(2ᵏ).
fn exp_minus(x: f64) -> f64 {
    if x > 700.0 {
        return 0.0;
    }
    let (mut small, mut doublings) = (x, 0);
    while small > 0.5 {
        small /= 2.0;
        doublings += 1;
    }
    // The first term left out is below 10⁻¹⁶.
    let (mut term, mut sum) = (1.0, 1.0);
    for k in 1..14 {
        term *= -small / f64::from(k);
        sum += term;
    }
    (0..doublings).fold(sum, |power, _| power * power)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exponentials_are_right() {
        for x in [0.0, 1e-9, 0.3, 0.5, 1.0, 7.7, 60.0] {
            assert!((exp_minus(x) / f64::exp(-x) - 1.0).abs() < 1e-12, "{x}");
        }
    }

    #[test]
    fn in_the_model_a_source_sends_to_one_neighbour_after_the_other() {
        // Three trips of 50 ms, and the upload of the block for each of four neighbours; of five
        // nodes 2.5 are half.
        let model = Model {
            nodes: 5.0,
            neighbours: 1_000.0,
            payload_bytes: 1000.0 - BLOCK_EXTRA_BYTES,
            upload_bytes_per_ms: 10.0,
            trip_ms: 50.0,
        };
        let (half_ms, last_ms) = model.delays_ms();
        let near = |ms: f64, wanted: f64| (ms - wanted).abs() < 15.0;
        assert!(half_ms.is_some_and(|ms| near(ms, 350.0)) && near(last_ms, 550.0), "{half_ms:?} {last_ms}");
    }

    #[test]
    fn the_simulation_is_near_the_model_and_moves_as_it_does() {
        let parameters = BlocksParameters {
            nodes: vec![Within(400)],
            connections: [8, 32].map(Within).to_vec(),
            ..BlocksParameters::default()
        };
        let rows = blocks(1, parameters, &mut |_| ()).rows;
        let of = |row: &Row, column| row.number(column).expect("measured");
        for row in &rows {
            let half = of(row, Column::HalfMsMean) / of(row, Column::ModelHalfMs);
            assert!((0.4..1.3).contains(&half), "{half} of the model's: {row:?}");
            let last = of(row, Column::LastMsMean) / of(row, Column::ModelLastMs);
            assert!((0.6..1.7).contains(&last), "{last} of the model's: {row:?}");
            let overhead = of(row, Column::OverheadBytesPerNode) / of(row, Column::ModelOverheadBytesPerNode);
            assert!((0.9..1.1).contains(&overhead), "overhead {overhead}");
            assert!((0.95..1.1).contains(&of(row, Column::PayloadsPerNode)));
        }
        // The larger the block, and the narrower the links, the longer it takes.
        let last = |mbit: f64, bytes: f64| {
            let fits = |row: &&Row| {
                of(row, Column::UploadMbitPerS) == mbit
                    && of(row, Column::PayloadBytes) == bytes
                    && of(row, Column::Connections) == 8.0
            };
            of(rows.iter().find(fits).expect("a row"), Column::LastMsMean)
        };
        assert!(last(10.0, 1e6) > 3.0 * last(50.0, 1e6) && last(50.0, 1e6) > last(50.0, 1e5));
    }
}
