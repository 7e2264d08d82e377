//! Chunk names, and the slots they fall into.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::ids::{ParseIdError, hex_id};

hex_id!(
    /// The BLAKE3 hash of a chunk's stored bytes, which is its name: any copy that
    /// hashes to it is as good as any other, whoever sent it.
    ChunkHash, 32, "a chunk hash"
);

impl ChunkHash {
    pub fn of(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }

    /// The slot this chunk is placed by: the first 12 bits of its name.
    pub fn slot(&self) -> Slot {
        Slot(u16::from_be_bytes([self.0[0], self.0[1]]) >> 4)
    }
}

/// The unit of placement: a 4,096th of all chunks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Slot(pub u16);

impl Slot {
    pub const COUNT: usize = 4096;

    pub fn all() -> impl Iterator<Item = Slot> {
        (0..Self::COUNT as u16).map(Slot)
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:03x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slot_is_the_first_twelve_bits() {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&[0xab, 0xcd]);
        assert_eq!(ChunkHash(bytes).slot(), Slot(0xabc));
        assert_eq!(ChunkHash([0xff; 32]).slot(), Slot(4095));
    }
}
