//! What befalls real nodes: killed, paused, cut off from each other; one thing at a time,
//! or two.

use std::{collections::BTreeMap, time::Duration};

use rand::{Rng, rngs::StdRng};
use tokio::time::{Instant, sleep};

use super::{processes::Process, proxy::Network};
use crate::failure::Failure;

/// How often each thing happened.
pub type Counts = BTreeMap<&'static str, u64>;

/// Calm between two mishaps.
const CALM: std::ops::RangeInclusive<u64> = 1..=4;
/// How long one lasts: shorter and longer than an election (3 s).
const LASTING: std::ops::RangeInclusive<u64> = 1..=8;

/// Breaks and mends until `end`, and leaves everything mended.
pub async fn befall(
    nodes: &mut [Process],
    network: &Network,
    rng: &mut StdRng,
    end: Instant,
) -> Result<Counts, Failure> {
    let mut counts = Counts::new();
    loop {
        sleep(Duration::from_secs(rng.random_range(CALM))).await;
        if Instant::now() >= end {
            return Ok(counts);
        }
        for _ in 0..if rng.random_bool(0.2) { 2 } else { 1 } {
            let what = strike(nodes, network, rng).await;
            *counts.entry(what).or_default() += 1;
        }
        let lasting = Duration::from_secs(rng.random_range(LASTING));
        sleep(lasting.min(end.saturating_duration_since(Instant::now()))).await;
        network.mend();
        for node in nodes.iter_mut() {
            node.resume();
            if !node.is_running() {
                node.start(None)?;
            }
        }
    }
}

async fn strike(nodes: &mut [Process], network: &Network, rng: &mut StdRng) -> &'static str {
    let all = 0..nodes.len();
    let (victim, other) = (rng.random_range(all.clone()), rng.random_range(all.clone()));
    let other = if other == victim { (other + 1) % nodes.len() } else { other };
    match rng.random_range(0..100) {
        0..30 => {
            nodes[victim].kill().await;
            "killed"
        }
        30..35 => {
            for node in nodes {
                node.kill().await;
            }
            "all killed"
        }
        35..60 => {
            nodes[victim].pause();
            "paused"
        }
        60..75 => {
            network.cut(all.filter(|node| *node != victim).flat_map(|node| [(node, victim), (victim, node)]));
            "cut off"
        }
        75..90 => {
            network.cut([(victim, other), (other, victim)]);
            "two cut apart"
        }
        _ => {
            network.cut([(victim, other)]);
            "cut one way"
        }
    }
}
