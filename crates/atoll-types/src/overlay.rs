//! The kinds of overlay, by name.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// How nodes find each other and content. A cluster agrees on one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OverlayKind {
    Directory,
    Chord,
    Kademlia,
    Pastry,
    Flood,
    Walk,
    Hybrid,
}

/// There is no such kind.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{got:?} is no kind of overlay")]
pub struct ParseOverlayKindError {
    pub got: String,
}

impl OverlayKind {
    pub const ALL: [OverlayKind; 7] = [
        OverlayKind::Directory,
        OverlayKind::Chord,
        OverlayKind::Kademlia,
        OverlayKind::Pastry,
        OverlayKind::Flood,
        OverlayKind::Walk,
        OverlayKind::Hybrid,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            OverlayKind::Directory => "directory",
            OverlayKind::Chord => "chord",
            OverlayKind::Kademlia => "kademlia",
            OverlayKind::Pastry => "pastry",
            OverlayKind::Flood => "flood",
            OverlayKind::Walk => "walk",
            OverlayKind::Hybrid => "hybrid",
        }
    }

    /// Its number in frames between nodes. Never changes.
    pub const fn code(self) -> u8 {
        match self {
            OverlayKind::Directory => 0,
            OverlayKind::Chord => 1,
            OverlayKind::Kademlia => 2,
            OverlayKind::Pastry => 3,
            OverlayKind::Flood => 4,
            OverlayKind::Walk => 5,
            OverlayKind::Hybrid => 6,
        }
    }
}

impl fmt::Display for OverlayKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for OverlayKind {
    type Err = ParseOverlayKindError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let got = || text.chars().take(100).collect();
        let named = Self::ALL.into_iter().find(|kind| kind.name() == text);
        named.ok_or_else(|| ParseOverlayKindError { got: got() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_name_and_a_number_of_its_own() {
        for (number, kind) in OverlayKind::ALL.into_iter().enumerate() {
            assert_eq!(kind.name().parse(), Ok(kind));
            assert_eq!(usize::from(kind.code()), number);
        }
        assert!("ring".parse::<OverlayKind>().is_err());
    }
}
