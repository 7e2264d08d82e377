//! The one number that a run is made from.

use std::{fmt, num::ParseIntError, ops::Range, str::FromStr};

use rand::{SeedableRng, rngs::StdRng};

/// A run's seed. Everything random in the run is drawn from streams derived from it, one
/// per purpose, so that a purpose that draws more does not disturb the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Seed(pub u64);

impl Seed {
    /// The generator for one purpose.
    pub fn stream(self, purpose: &str) -> StdRng {
        let mut hasher = blake3::Hasher::new_derive_key("atoll-simulation seed stream 1");
        hasher.update(&self.0.to_le_bytes());
        hasher.update(purpose.as_bytes());
        StdRng::from_seed(*hasher.finalize().as_bytes())
    }
}

/// The seeds that a test runs: these, or what `ATOLL_SEED` names: one (`0x2a`), to replay
/// what it found, or a range (`100..1100`), to search.
///
/// # Panics
/// If it names neither.
pub fn seeds(usual: Range<u64>) -> Vec<Seed> {
    let Ok(text) = std::env::var("ATOLL_SEED") else { return usual.map(Seed).collect() };
    let parse =
        |text: &str| -> Seed { text.parse().unwrap_or_else(|error| panic!("ATOLL_SEED={text:?}: {error}")) };
    match text.split_once("..") {
        Some((first, end)) => (parse(first).0..parse(end).0).map(Seed).collect(),
        None => vec![parse(&text)],
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#x}", self.0)
    }
}

/// The text is no seed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a seed is a number of 64 bits, such as 0x2a or 42")]
pub struct ParseSeedError(#[from] ParseIntError);

/// Reads what `Display` prints, and plain decimals.
impl FromStr for Seed {
    type Err = ParseSeedError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let number = match text.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16),
            None => text.parse(),
        };
        Ok(Seed(number?))
    }
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;

    #[test]
    fn a_seed_reads_back_what_it_printed() {
        assert_eq!(Seed(0xa7011).to_string().parse(), Ok(Seed(0xa7011)));
        assert_eq!("17".parse(), Ok(Seed(17)));
        assert!("seventeen".parse::<Seed>().is_err());
    }

    #[test]
    fn streams_differ_by_purpose_and_by_seed_and_by_nothing_else() {
        let draw = |seed: u64, purpose: &str| Seed(seed).stream(purpose).random::<u64>();
        assert_eq!(draw(1, "network"), draw(1, "network"));
        assert_ne!(draw(1, "network"), draw(1, "disk"));
        assert_ne!(draw(1, "network"), draw(2, "network"));
    }
}
