//! Weighted rendezvous hashing: every item has its own order of preference among the
//! nodes, in which a node comes first as often as its weight says, and which does not
//! change between two nodes when a third comes or goes.
//!
//! Source: Schindelhauer and Schomaker, "Weighted Distributed Hash Tables" (SPAA 2005),
//! the logarithmic method: the score of a node with weight w and hash h in (0, 1) is
//! −w / ln h.

use atoll_types::NodeId;

/// One node's hashes for all items.
pub(crate) struct Preferences {
    hashes: Vec<u64>,
    weight: f64,
}

impl Preferences {
    /// `purpose` keeps the orders of slots and of shards apart.
    pub(crate) fn new(node: &NodeId, weight: f64, purpose: &str, items: usize) -> Self {
        let mut hasher = blake3::Hasher::new();
        hasher.update(purpose.as_bytes()).update(&[0]).update(node.as_bytes());
        let mut bytes = vec![0; items * 8];
        // One extended output instead of a hash per item: 300 nodes × 4,096 slots in
        // milliseconds.
        hasher.finalize_xof().fill(&mut bytes);
        let hashes = bytes.as_chunks().0.iter().map(|eight| u64::from_le_bytes(*eight)).collect();
        Self { hashes, weight }
    }

    /// Higher is preferred. Positive and finite.
    pub(crate) fn score(&self, item: usize) -> f64 {
        // 53 bits and a half step: strictly between 0 and 1, exact in an f64.
        let h = ((self.hashes[item] >> 11) as f64 + 0.5) / (1u64 << 53) as f64;
        self.weight / -ln(h)
    }
}

/// The natural logarithm of a normal positive number, from operations that IEEE 754
/// defines to the last bit: `f64::ln` may differ between platforms, and a layout must not.
/// Good to about 1e-15, relative.
fn ln(x: f64) -> f64 {
    // x = m · 2^e with m in [√½, √2); ln m = 2 artanh((m − 1) / (m + 1)).
    let bits = x.to_bits();
    let mut exponent = ((bits >> 52) & 0x7ff) as i64 - 1023;
    let mut mantissa = f64::from_bits((bits & ((1 << 52) - 1)) | (1023 << 52));
    if mantissa > std::f64::consts::SQRT_2 {
        mantissa /= 2.0;
        exponent += 1;
    }
    let t = (mantissa - 1.0) / (mantissa + 1.0);
    let square = t * t;
    // |t| ≤ 0.1716, so t²ᵏ⁺¹/(2k+1) is below 1e-17 after 11 terms.
    let series = (0..11).rev().fold(0.0, |sum, k| sum * square + 1.0 / (2 * k + 1) as f64);
    exponent as f64 * std::f64::consts::LN_2 + 2.0 * t * series
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_logarithm_is_the_logarithm() {
        for x in [1e-16, 0.001, 0.3, 0.5, 0.69, 0.72, 0.9999999, 1.0, 1.5, 12345.678] {
            let (ours, theirs) = (ln(x), f64::ln(x));
            assert!((ours - theirs).abs() <= 1e-14 * theirs.abs().max(1e-3), "ln {x}: {ours} {theirs}");
        }
    }

    #[test]
    fn a_node_of_twice_the_weight_comes_first_twice_as_often() {
        let items = 60_000;
        let nodes = [1.0, 2.0, 3.0].map(|w| Preferences::new(&NodeId([w as u8; 32]), w, "test", items));
        let mut firsts = [0; 3];
        for item in 0..items {
            let first = (0..3).max_by(|a, b| nodes[*a].score(item).total_cmp(&nodes[*b].score(item)));
            firsts[first.unwrap()] += 1;
        }
        for (at, expected) in [10_000i32, 20_000, 30_000].into_iter().enumerate() {
            assert!((firsts[at] - expected).abs() < 500, "{firsts:?}");
        }
    }
}
