//! Where nodes are, and how far from each other.
//!
//! The shape is that of Dabek, Cox, Kaashoek and Morris, *Vivaldi: a decentralized network
//! coordinate system*, SIGCOMM 2004: a plane plus a height, which predicted measured round
//! trips between internet hosts better than more dimensions did. The plane is the way through
//! the core of the network; on it nodes lie in clusters, as on continents. The height is the
//! way up from the access link, and is paid at both ends. The clusters' places and sizes and
//! the heights are ours, made up so that round trips are some 20 ms within a cluster and 60 to
//! 260 ms between them; they were fitted to nobody's measurements.
//!
//! Whole microseconds: the same on every machine.

use std::time::Duration;

use rand::{Rng, rngs::StdRng};

/// Centres in microseconds of round trip, and how many nodes of a hundred lie there.
const CLUSTERS: [(i32, i32, u32); 6] = [
    (0, 0, 25),             // like North America's east
    (-60_000, 10_000, 15),  // its west
    (85_000, 5_000, 30),    // Europe
    (20_000, -120_000, 5),  // South America
    (-140_000, 90_000, 20), // East Asia
    (-60_000, 170_000, 5),  // Oceania
];

/// Half of the side of a cluster.
const SPREAD: i32 = 10_000;
/// The greatest height: a slow home link. Most are far lower.
const HEIGHT_MAX: u64 = 30_000;

#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    x: i32,
    y: i32,
    height: u32,
}

impl Place {
    pub(super) fn drawn(rng: &mut StdRng) -> Self {
        let mut left = rng.random_range(0..100);
        let (x, y, _) = CLUSTERS
            .into_iter()
            .find(|(_, _, percent)| {
                let found = left < *percent;
                left = left.saturating_sub(*percent);
                found
            })
            .expect("the clusters' shares sum up to a hundred");
        // The sum of two draws is peaked in the middle, and has no libm in it.
        let mut off = || (rng.random_range(-SPREAD..=SPREAD) + rng.random_range(-SPREAD..=SPREAD)) / 2;
        let (x, y) = (x + off(), y + off());
        // The cube of an even draw: the median is an eighth of the greatest.
        let part = rng.random_range(0..=1000_u64);
        let height = u32::try_from(HEIGHT_MAX * part * part * part / 1_000_000_000).expect("below its limit");
        Place { x, y, height }
    }

    /// One way; half of the round trip.
    pub(super) fn latency(&self, other: &Place) -> Duration {
        let (x, y) = (i64::from(self.x - other.x), i64::from(self.y - other.y));
        let core = (x * x + y * y).unsigned_abs().isqrt();
        let round_trip = core + u64::from(self.height) + u64::from(other.height);
        Duration::from_micros(round_trip / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::world::stream;

    #[test]
    fn the_clusters_shares_sum_up_to_a_hundred() {
        assert_eq!(CLUSTERS.iter().map(|(_, _, percent)| percent).sum::<u32>(), 100);
    }

    #[test]
    fn round_trips_are_those_of_a_wide_area() {
        let mut rng = stream(1, "places");
        let places: Vec<Place> = (0..1000).map(|_| Place::drawn(&mut rng)).collect();
        let mut round_trips: Vec<u128> = places
            .chunks(2)
            .map(|pair| {
                assert_eq!(pair[0].latency(&pair[1]), pair[1].latency(&pair[0]));
                2 * pair[0].latency(&pair[1]).as_millis()
            })
            .collect();
        round_trips.sort_unstable();
        assert!((70..150).contains(&round_trips[250]), "median {} ms", round_trips[250]);
        assert!((150..350).contains(&round_trips[495]), "99th of 100 {} ms", round_trips[495]);
    }
}
