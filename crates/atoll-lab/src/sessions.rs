//! How long nodes stay.
//!
//! Drawn without libm, so that one seed is the same run on every machine.

use std::time::Duration;

use rand::{Rng, rngs::StdRng};

use crate::parameters::words;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sessions {
    /// Without memory: how long a node has been there tells nothing.
    Exponential,
    /// Many short ones and a heavy tail: who has been there long stays long. Shifted, with shape
    /// 3: P(longer than t) = (1 + t/β)⁻³, as in Leonard, Rai, Loguinov, *On lifetime-based node
    /// failure and stochastic resilience of decentralized peer-to-peer networks*, SIGMETRICS
    /// 2005.
    Pareto,
}

words!(Sessions { Exponential "exponential", Pareto "pareto" });

/// ln 2, and ∛2 − 1: medians in units of the mean, and of β.
const EXPONENTIAL_MEDIAN: f64 = std::f64::consts::LN_2;
const PARETO_MEDIAN: f64 = 0.259_921_049_894_873_2;

impl Sessions {
    /// A whole session, of a node that just came.
    pub(crate) fn whole(self, median: Duration, rng: &mut StdRng) -> Duration {
        let u = above_zero(rng);
        match self {
            Sessions::Exponential => median.mul_f64(-ln(u) / EXPONENTIAL_MEDIAN),
            Sessions::Pareto => median.mul_f64((1.0 / cube_root(u) - 1.0) / PARETO_MEDIAN),
        }
    }

    /// What is left of the session of a node that is there at a moment when the network has
    /// long been as it is. For a renewal process its distribution is the tail's, by the mean:
    /// the exponential's own, and for Pareto one of shape 2.
    pub(crate) fn rest(self, median: Duration, rng: &mut StdRng) -> Duration {
        match self {
            Sessions::Exponential => self.whole(median, rng),
            Sessions::Pareto => median.mul_f64((1.0 / above_zero(rng).sqrt() - 1.0) / PARETO_MEDIAN),
        }
    }
}

/// Evenly from (0, 1]; at least 2⁻⁵³, so that the longest Pareto session is 800,000 medians.
fn above_zero(rng: &mut StdRng) -> f64 {
    1.0 - rng.random::<f64>()
}

/// Of 0 < x ≤ 1: ln x = e·ln 2 + 2·artanh((m − 1)/(m + 1)) with x = m·2ᵉ and ½ < m ≤ 1.
fn ln(x: f64) -> f64 {
    let (mut m, mut e) = (x, 0.0);
    while m <= 0.5 {
        m *= 2.0;
        e -= 1.0;
    }
    let z = (m - 1.0) / (m + 1.0);
    // |z| ≤ 1/3: the first term left out is below 10⁻¹⁶.
    let (mut term, mut sum) = (z, 0.0);
    for odd in (1..32).step_by(2) {
        sum += term / f64::from(odd);
        term *= z * z;
    }
    e * std::f64::consts::LN_2 + 2.0 * sum
}

/// Of 0 < x ≤ 1, by Newton's method from above, after bringing x near 1.
fn cube_root(x: f64) -> f64 {
    let (mut scaled, mut factor) = (x, 1.0);
    while scaled < 0.125 {
        scaled *= 8.0;
        factor *= 0.5;
    }
    // From ½ to 1; quadratic convergence from at most twice the root.
    let mut root = 1.0_f64;
    for _ in 0..8 {
        root = (2.0 * root + scaled / (root * root)) / 3.0;
    }
    root * factor
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::stream;

    #[test]
    fn logarithms_and_roots_are_right() {
        for x in [1.0, 0.999_999, 0.75, 0.5, 0.3, 1e-3, 1e-9, f64::powi(0.5, 53)] {
            assert!((ln(x) - f64::ln(x)).abs() < 1e-13 * (1.0 + f64::ln(x).abs()), "ln {x}");
            assert!((cube_root(x) / f64::cbrt(x) - 1.0).abs() < 1e-13, "cube root of {x}");
        }
    }

    /// A hundred thousand draws: the share below the median has σ = 0.0016.
    #[test]
    fn half_of_all_sessions_are_shorter_than_the_median() {
        let mut rng = stream(1, "sessions");
        let median = Duration::from_secs(100);
        for sessions in Sessions::ALL {
            let below = (0..100_000).filter(|_| sessions.whole(median, &mut rng) < median).count();
            assert!((49_200..50_800).contains(&below), "{sessions:?}: {below}");
        }
    }

    /// Of those who are there now, those who stay longer than the median: ½ without memory, and
    /// (∛2)⁻² = 0.63 of the heavy tail.
    #[test]
    fn who_is_there_stays_longer_if_sessions_have_a_heavy_tail() {
        let mut rng = stream(2, "sessions");
        let median = Duration::from_secs(100);
        for (sessions, share) in [(Sessions::Exponential, 0.5), (Sessions::Pareto, 0.63)] {
            let longer = (0..100_000).filter(|_| sessions.rest(median, &mut rng) > median).count();
            let measured = longer as f64 / 100_000.0;
            assert!((measured - share).abs() < 0.008, "{sessions:?}: {measured}");
        }
    }
}
