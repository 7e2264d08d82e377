//! A node's name in the simulator: four bytes.

use std::num::NonZeroU32;

use atoll_overlay::{Contact, Id};
use rand::RngCore;

use super::stream;

/// Which of the world's nodes. Its identifier is worked out from the number, not kept: a
/// million nodes with forty contacts each would else spend 1.3 GB on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct SimulatedContact(NonZeroU32);

impl SimulatedContact {
    /// The first node of a world from this seed. Each seed has its own stretch of numbers, and
    /// with them its own identifiers.
    pub(super) fn first_of(seed: u64) -> Self {
        // The lower half of all numbers, so that 2³¹ nodes fit above.
        let drawn = stream(seed, "contacts").next_u32() >> 1;
        Self(NonZeroU32::MIN.saturating_add(drawn))
    }

    pub(super) fn plus(self, index: usize) -> Self {
        let index = u32::try_from(index).expect("at most 2^31 nodes");
        Self(self.0.checked_add(index).expect("at most 2^31 nodes"))
    }

    pub(super) fn minus(self, first: Self) -> usize {
        (self.0.get() - first.0.get()) as usize
    }

    /// Whether this one is of those that never reach the other: such a share of all ordered
    /// pairs, always the same ones. Worked out, not kept, for there are N² of them.
    pub(super) fn is_cut_from(self, to: Self, share: f64) -> bool {
        let pair = u64::from(self.0.get()) << 32 | u64::from(to.0.get());
        // Twice, for neighbouring pairs differ in few bits only. 2⁶⁴ as a number.
        share > 0.0 && (mixed(mixed(pair)) as f64) < share * 18_446_744_073_709_551_616.0
    }
}

/// A step of SplitMix64 (Steele, Lea, Flood 2014): spread like a hash, and a few nanoseconds.
fn mixed(number: u64) -> u64 {
    let mut word = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

impl Contact for SimulatedContact {
    /// Four words, each from a number of its own.
    fn id(&self) -> Id {
        let word = |index: u64| u128::from(mixed(u64::from(self.0.get()) * 4 + index));
        Id::from_halves(word(0) << 64 | word(1), word(2) << 64 | word(3))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_optional_contact_is_four_bytes_too() {
        assert_eq!(size_of::<Option<SimulatedContact>>(), 4);
    }

    /// χ² over 64 equal parts of the space: 63 degrees of freedom, mean 63, 5σ = 56.
    #[test]
    fn identifiers_are_spread_evenly() {
        let mut parts = [0_f64; 64];
        let first = SimulatedContact::first_of(1);
        for index in 0..64_000 {
            let bytes: [u8; 32] = first.plus(index).id().into();
            parts[usize::from(bytes[0] >> 2)] += 1.0;
        }
        let chi: f64 = parts.iter().map(|count| (count - 1000.0).powi(2) / 1000.0).sum();
        assert!((7.0..119.0).contains(&chi), "{chi}");
    }

    #[test]
    fn cuts_are_of_one_direction_and_as_many_as_asked_for() {
        let first = SimulatedContact::first_of(1);
        let (mut there, mut both) = (0, 0);
        for index in 0..10_000 {
            let (one, other) = (first.plus(index), first.plus(index + 1));
            there += u32::from(one.is_cut_from(other, 0.2));
            both += u32::from(one.is_cut_from(other, 0.2) && other.is_cut_from(one, 0.2));
        }
        // σ = 40 and 20.
        assert!((1800..2200).contains(&there) && (300..500).contains(&both), "{there} {both}");
        assert!(!first.is_cut_from(first.plus(1), 0.0));
    }

    #[test]
    fn each_seed_has_identifiers_of_its_own() {
        let first = |seed| SimulatedContact::first_of(seed).id();
        assert_eq!(first(1), first(1));
        assert_ne!(first(1), first(2));
    }
}
