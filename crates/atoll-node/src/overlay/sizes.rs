//! How large the overlay's tables are, set by name: with those of production every node of a
//! network of a dozen knows all others, and each lookup takes one hop.

use std::{fmt, str::FromStr};

use atoll_overlay::{ChordConfig, KademliaConfig, PastryConfig};

use super::OverlaySettings;

/// Named as the lab's parameters are, which mean the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableSizes {
    /// Chord's successor list, 1 to 64.
    pub chord_successors: usize,
    /// Contacts in one of Kademlia's buckets, 1 to 64. Fewer than α are asked no more at once.
    pub kademlia_k: usize,
    /// Bits of a digit in Pastry: 1, 2 or 4.
    pub pastry_bits_per_digit: usize,
    /// Pastry's leaves on each side of a node, 1 to 16.
    pub pastry_leaves_each: usize,
}

/// A size was refused; nothing was set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TableSizeError {
    #[error("there is no size {name:?}; there are {}", TableSizes::NAMES.join(", "))]
    Unknown { name: String },
    #[error("{name} can't be {text:?}: it is {allowed}")]
    Invalid { name: String, text: String, allowed: &'static str },
}

impl TableSizes {
    pub const NAMES: [&str; 4] =
        ["chord_successors", "kademlia_k", "pastry_bits_per_digit", "pastry_leaves_each"];

    /// Of production.
    pub fn of(settings: &OverlaySettings) -> Self {
        Self {
            chord_successors: settings.chord.successors,
            kademlia_k: settings.kademlia.k,
            pastry_bits_per_digit: settings.pastry.bits_per_digit,
            pastry_leaves_each: settings.pastry.leaves / 2,
        }
    }

    pub fn set(&mut self, name: &str, text: &str) -> Result<(), TableSizeError> {
        let (size, is_allowed, allowed): (&mut usize, fn(usize) -> bool, _) = match name {
            "chord_successors" => {
                (&mut self.chord_successors, |size| (1..=64).contains(&size), "a whole number, 1 to 64")
            }
            "kademlia_k" => {
                (&mut self.kademlia_k, |size| (1..=64).contains(&size), "a whole number, 1 to 64")
            }
            "pastry_bits_per_digit" => {
                (&mut self.pastry_bits_per_digit, |size| matches!(size, 1 | 2 | 4), "1, 2 or 4")
            }
            "pastry_leaves_each" => {
                (&mut self.pastry_leaves_each, |size| (1..=16).contains(&size), "a whole number, 1 to 16")
            }
            _ => return Err(TableSizeError::Unknown { name: name.into() }),
        };
        *size = text
            .parse()
            .ok()
            .filter(|size| is_allowed(*size))
            .ok_or_else(|| TableSizeError::Invalid { name: name.into(), text: text.into(), allowed })?;
        Ok(())
    }

    /// The same settings with tables of these sizes. The hybrid's own Kademlia stays as it is.
    pub fn apply(self, settings: OverlaySettings) -> OverlaySettings {
        let OverlaySettings { chord, kademlia, pastry, .. } = settings;
        OverlaySettings {
            chord: ChordConfig { successors: self.chord_successors, ..chord },
            kademlia: KademliaConfig {
                k: self.kademlia_k,
                alpha: kademlia.alpha.min(self.kademlia_k),
                ..kademlia
            },
            pastry: PastryConfig {
                bits_per_digit: self.pastry_bits_per_digit,
                leaves: 2 * self.pastry_leaves_each,
                ..pastry
            },
            ..settings
        }
    }

    fn values(self) -> [usize; 4] {
        [self.chord_successors, self.kademlia_k, self.pastry_bits_per_digit, self.pastry_leaves_each]
    }
}

/// `name=size`, with commas between.
impl fmt::Display for TableSizes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs = Self::NAMES.iter().zip(self.values()).map(|(name, size)| format!("{name}={size}"));
        f.write_str(&pairs.collect::<Vec<_>>().join(","))
    }
}

/// What is left out is as in production.
impl FromStr for TableSizes {
    type Err = TableSizeError;

    fn from_str(text: &str) -> Result<Self, TableSizeError> {
        let mut sizes = Self::of(&OverlaySettings::default());
        for pair in text.split(',') {
            let (name, size) = pair.split_once('=').unwrap_or((pair, ""));
            sizes.set(name.trim(), size.trim())?;
        }
        Ok(sizes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_set_by_name_and_come_back_from_their_text() {
        let sizes: TableSizes = "chord_successors=1,kademlia_k=2".parse().unwrap();
        assert_eq!(sizes.to_string().parse(), Ok(sizes));
        let settings = sizes.apply(OverlaySettings::default());
        assert_eq!(TableSizes::of(&settings), sizes);
        assert_eq!((settings.kademlia.alpha, settings.pastry.leaves), (2, 16));
        assert_eq!(settings.chord.upkeep_every, OverlaySettings::default().chord.upkeep_every);
    }

    #[test]
    fn what_no_core_takes_is_refused() {
        for text in
            ["fingers=3", "kademlia_k=0", "kademlia_k=65", "pastry_bits_per_digit=3", "kademlia_k", ""]
        {
            assert!(text.parse::<TableSizes>().is_err(), "{text:?}");
        }
    }
}
