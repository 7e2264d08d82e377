//! The one space that node ids and keys are hashed into.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A point in the space of 256-bit identifiers: where a node stands, or a key belongs. For
/// Chord it is a ring, counted modulo 2²⁵⁶; for Kademlia a tree, in which each bit from the
/// first on says which way to go.
///
/// Two words, not 32 bytes: distances are worked out for every contact of every step.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(from = "[u8; 32]", into = "[u8; 32]")]
pub struct Id {
    high: u128,
    low: u128,
}

impl Id {
    pub const BITS: usize = 256;

    /// The point of a key, or of a node's public key: its BLAKE3 hash. Nobody chooses a place
    /// in the space, except by drawing keys until one falls there.
    pub fn of(bytes: &[u8]) -> Self {
        Self::from(*blake3::hash(bytes).as_bytes())
    }

    /// From its upper and its lower half.
    pub const fn from_halves(high: u128, low: u128) -> Self {
        Self { high, low }
    }

    /// The way from `earlier` to here in the direction of growing identifiers, round the ring.
    pub(crate) fn clockwise_from(self, earlier: Id) -> Id {
        let (low, borrow) = self.low.overflowing_sub(earlier.low);
        Id { high: self.high.wrapping_sub(earlier.high).wrapping_sub(u128::from(borrow)), low }
    }

    /// `self + 2^exponent`, round the ring.
    pub(crate) fn plus_power_of_two(self, exponent: usize) -> Id {
        debug_assert!(exponent < Self::BITS);
        if exponent >= 128 {
            return Id { high: self.high.wrapping_add(1 << (exponent - 128)), low: self.low };
        }
        let (low, carry) = self.low.overflowing_add(1 << exponent);
        Id { high: self.high.wrapping_add(u128::from(carry)), low }
    }

    /// Kademlia's distance: zero only between equals, the same both ways, and for each point and
    /// distance there is one other point.
    pub fn xor(self, other: Id) -> Id {
        Id { high: self.high ^ other.high, low: self.low ^ other.low }
    }

    /// How many bits from the first on are zero; of the distance between two points, how many
    /// they have in common.
    pub fn leading_zeros(self) -> usize {
        let zeros = if self.high == 0 { 128 + self.low.leading_zeros() } else { self.high.leading_zeros() };
        zeros as usize
    }

    /// The number written by `bits` bits from bit `place · bits` on, the first bit being the
    /// highest. `bits` is 1, 2, 4 or 8, so that no digit lies across the two halves.
    pub(crate) fn digit(self, place: usize, bits: usize) -> usize {
        debug_assert!(matches!(bits, 1 | 2 | 4 | 8) && place < Self::BITS / bits);
        let (half, place) =
            if place * bits < 128 { (self.high, place) } else { (self.low, place - 128 / bits) };
        (half >> (128 - (place + 1) * bits)) as usize & ((1 << bits) - 1)
    }

    /// Its first `count` bits, and zeros.
    pub(crate) fn first_bits(self, count: usize) -> Id {
        let mask = |count: usize| if count == 0 { 0 } else { u128::MAX << (128 - count) };
        Id {
            high: self.high & mask(count.min(128)),
            low: self.low & mask(count.saturating_sub(128).min(128)),
        }
    }

    /// A `digit` at its place (see [`Id::digit`]), and zeros.
    pub(crate) fn from_digit(digit: usize, place: usize, bits: usize) -> Id {
        debug_assert!(digit < 1 << bits && place < Self::BITS / bits);
        let digit = digit as u128;
        if place * bits < 128 {
            Id { high: digit << (128 - (place + 1) * bits), low: 0 }
        } else {
            Id { high: 0, low: digit << (256 - (place + 1) * bits) }
        }
    }

    /// `self ∈ (after, upto]` on the ring; everything, if the two are one point.
    pub(crate) fn is_within(self, after: Id, upto: Id) -> bool {
        after == upto || (self != after && self.clockwise_from(after) <= upto.clockwise_from(after))
    }

    /// `self ∈ (after, before)` on the ring; everything but the point, if the two are one.
    pub(crate) fn is_between(self, after: Id, before: Id) -> bool {
        self != before && self != after && self.is_within(after, before)
    }
}

impl From<[u8; 32]> for Id {
    fn from(bytes: [u8; 32]) -> Self {
        let half = |half: &[u8]| u128::from_be_bytes(half.try_into().expect("half of 32 bytes"));
        Self { high: half(&bytes[..16]), low: half(&bytes[16..]) }
    }
}

impl From<Id> for [u8; 32] {
    fn from(id: Id) -> Self {
        let mut bytes = [0; 32];
        bytes[..16].copy_from_slice(&id.high.to_be_bytes());
        bytes[16..].copy_from_slice(&id.low.to_be_bytes());
        bytes
    }
}

impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}{:032x}", self.high, self.low)
    }
}

impl fmt::Debug for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Id({:010x})", self.high >> 88)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn low(number: u128) -> Id {
        Id::from_halves(0, number)
    }

    const LAST: Id = Id::from_halves(u128::MAX, u128::MAX);

    #[test]
    fn an_interval_goes_round_the_ring() {
        // (id, after, upto, in (after, upto], in (after, upto))
        for (id, after, upto, within, between) in [
            (low(5), low(3), low(8), true, true),
            (low(8), low(3), low(8), true, false),
            (low(3), low(3), low(8), false, false),
            (low(9), low(3), low(8), false, false),
            (LAST, low(8), low(3), true, true),
            (low(0), low(8), low(3), true, true),
            (low(3), low(8), low(3), true, false),
            (low(8), low(8), low(3), false, false),
            (low(4), low(3), low(3), true, true),
            (low(3), low(3), low(3), true, false),
        ] {
            assert_eq!(id.is_within(after, upto), within, "{id} in ({after}, {upto}]");
            assert_eq!(id.is_between(after, upto), between, "{id} in ({after}, {upto})");
        }
    }

    #[test]
    fn sums_and_distances_carry_over_the_middle_and_the_end() {
        let middle = low(u128::MAX).plus_power_of_two(0);
        assert_eq!(middle, Id::from_halves(1, 0));
        assert_eq!(middle.clockwise_from(low(u128::MAX)), low(1));
        assert_eq!(LAST.plus_power_of_two(0), low(0));
        assert_eq!(low(0).clockwise_from(LAST), low(1));
        assert_eq!(low(7).plus_power_of_two(255).plus_power_of_two(255), low(7));
    }

    #[test]
    fn digits_are_read_and_written_at_their_places() {
        let id = Id::from_halves(0x1234_5678_9abc_def0_1122_3344_5566_7788, 0xfedc << 112 | 7);
        for (place, bits, digit) in [(0, 4, 1), (3, 4, 4), (32, 4, 15), (63, 4, 7), (1, 8, 0x34), (3, 1, 1)] {
            assert_eq!(id.digit(place, bits), digit, "digit {place} of {bits} bits");
        }
        for bits in [1, 2, 4, 8] {
            let places = 0..Id::BITS / bits;
            let sum =
                places.fold(low(0), |sum, place| sum.xor(Id::from_digit(id.digit(place, bits), place, bits)));
            assert_eq!(sum, id, "from digits of {bits} bits");
        }
    }

    #[test]
    fn first_bits_and_leading_zeros_count_over_the_middle() {
        for count in [0, 1, 127, 128, 129, 255, 256] {
            let first = LAST.first_bits(count);
            assert_eq!(first.xor(LAST).leading_zeros(), count);
            assert_eq!(LAST.first_bits(count).first_bits(count), first);
        }
        assert_eq!(low(0).leading_zeros(), 256);
        assert_eq!(low(1).leading_zeros(), 255);
    }

    #[test]
    fn an_id_is_its_bytes_in_order() {
        let bytes: [u8; 32] = std::array::from_fn(|index| index as u8);
        assert_eq!(<[u8; 32]>::from(Id::from(bytes)), bytes);
        assert!(Id::from([1; 32]) < Id::from([2; 32]));
    }
}
