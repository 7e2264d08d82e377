//! The bytes that a value stands for.
//!
//! A value's upper byte tells its size, and whether it is of those for short chunks; the
//! rest is a number that no other has. Objects
//! carry the value beside their bytes (S3's user metadata), because some sizes leave no
//! room for it: the empty object, and those that are the same for all on purpose, so that
//! different objects share chunks.

use atoll_objects::ChunkSizes;
use bytes::Bytes;
use md5::{Digest, Md5};
use rand::{Rng, rngs::StdRng};

use crate::linearizability::register::Value;

/// The chunks of simulated clusters: bodies of many chunks are short, and a run is not spent on
/// hashing and copying them.
pub const SHORT_CHUNKS: ChunkSizes = ChunkSizes { min: 20 << 10, average: 64 << 10, max: 256 << 10 };
/// In a value: its size is one for [`SHORT_CHUNKS`].
const SHORT: u64 = 1 << 63;

/// Sizes around what the system treats differently: the inline limit (16 KiB), and the
/// least, usual and greatest length of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Size {
    Word = 0,
    Empty = 1,
    Small = 2,
    /// Just inline.
    Inline = 3,
    /// Just not inline any more.
    OverInline = 4,
    OneChunk = 5,
    /// As short as a chunk gets that is not the last.
    LeastChunk = 6,
    /// As long as it gets, and a byte: the same byte all over, so it is never cut before.
    /// The same for all.
    Flat = 7,
    Several = 8,
    /// Begins with more than a chunk that it has in common with others of its size.
    Shared = 9,
    /// All of it in common with others of its size.
    Same = 10,
    /// An upload of one small part.
    OnePart = 11,
    /// An upload of two parts: 5 MiB, in common with others, and a small one.
    TwoParts = 12,
    /// An upload of one part of several chunks.
    LargePart = 13,
}

/// What S3 demands of a part that is not the last.
const PART_BYTES_MIN: usize = 5 << 20;
const TAIL_BYTES: usize = 64;

impl Size {
    const ALL: [Size; 14] = [
        Size::Word,
        Size::Empty,
        Size::Small,
        Size::Inline,
        Size::OverInline,
        Size::OneChunk,
        Size::LeastChunk,
        Size::Flat,
        Size::Several,
        Size::Shared,
        Size::Same,
        Size::OnePart,
        Size::TwoParts,
        Size::LargePart,
    ];

    /// For objects put at once. `large`: of a hundred, how many have several chunks.
    pub fn drawn(rng: &mut StdRng, large: u32) -> Size {
        use Size::{
            Empty, Flat, Inline, LeastChunk, OneChunk, OverInline, Same, Several, Shared, Small, Word,
        };
        const USUAL: [Size; 10] =
            [Word, Empty, Small, Small, Inline, OverInline, OverInline, OneChunk, LeastChunk, Same];
        const LARGE: [Size; 4] = [Several, Shared, Shared, Flat];
        let from: &[Size] = if rng.random_range(0..100) < large { &LARGE } else { &USUAL };
        from[rng.random_range(0..from.len())]
    }

    /// For objects uploaded in parts.
    pub fn drawn_in_parts(rng: &mut StdRng, large: u32) -> Size {
        if rng.random_range(0..100) >= large {
            Size::OnePart
        } else if rng.random_bool(0.5) {
            Size::TwoParts
        } else {
            Size::LargePart
        }
    }

    /// All values of this size have the same bytes, and the same ETag.
    fn is_the_same_for_all(self) -> bool {
        matches!(self, Size::Empty | Size::Flat | Size::Same)
    }
}

impl Value {
    /// `number` below 2^56. `short`: for a cluster that cuts [`SHORT_CHUNKS`].
    pub fn sized(number: u64, size: Size, short: bool) -> Self {
        debug_assert!(number >> 56 == 0);
        Value(if short { SHORT } else { 0 } | (size as u64) << 56 | number)
    }

    fn is_short(self) -> bool {
        self.0 & SHORT != 0
    }

    /// Of a number that is no value's, the first.
    pub fn size(self) -> Size {
        Size::ALL.get(((self.0 & !SHORT) >> 56) as usize).copied().unwrap_or(Size::Word)
    }

    /// Tells values with the same bytes from others: what an ETag can tell.
    pub fn content(self) -> u64 {
        if self.size().is_the_same_for_all() { self.0 >> 56 << 56 } else { self.0 }
    }

    fn unique(self, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new().update(&self.0.to_le_bytes()).finalize_xof().fill(&mut bytes);
        bytes
    }

    fn chunks(self) -> ChunkSizes {
        if self.is_short() { SHORT_CHUNKS } else { ChunkSizes::default() }
    }

    /// A chunk at least.
    fn shared_bytes(self) -> usize {
        self.chunks().average * 3 / 2
    }

    /// Of its bytes, in all.
    pub fn length(self) -> u64 {
        let of = |usual: usize, short: usize| if self.is_short() { short } else { usual };
        let length = match self.size() {
            Size::Word => 8,
            Size::Empty => 0,
            Size::Small => 100,
            Size::Inline => 16 << 10,
            Size::OverInline => (16 << 10) + 1,
            Size::OneChunk => of(100_000, 18_000),
            Size::LeastChunk => self.chunks().min + 1,
            Size::Flat => self.chunks().max + 1,
            Size::Several => of(2_400_000, 150_000),
            Size::Shared => self.shared_bytes() + TAIL_BYTES,
            Size::Same => of(300 << 10, 24 << 10),
            Size::OnePart => 1_000,
            Size::TwoParts => PART_BYTES_MIN + 1_000,
            Size::LargePart => of(2_000_000, 125_000),
        };
        length as u64
    }

    /// Its bytes, in the parts that they are uploaded in; one part if it is put at once.
    pub fn parts(self) -> Vec<Bytes> {
        let common = |length: usize| {
            let mut bytes = vec![0; length];
            blake3::Hasher::new().update(b"in common").finalize_xof().fill(&mut bytes);
            bytes
        };
        let length = self.length() as usize;
        let whole = match self.size() {
            Size::Word => self.0.to_le_bytes().to_vec(),
            Size::Flat => vec![7; length],
            Size::Same => common(length),
            Size::Shared => [common(self.shared_bytes()), self.unique(TAIL_BYTES)].concat(),
            Size::TwoParts => {
                return vec![common(PART_BYTES_MIN).into(), self.unique(length - PART_BYTES_MIN).into()];
            }
            Size::Empty
            | Size::Small
            | Size::Inline
            | Size::OverInline
            | Size::OneChunk
            | Size::LeastChunk
            | Size::Several
            | Size::OnePart
            | Size::LargePart => self.unique(length),
        };
        vec![whole.into()]
    }

    pub fn is_uploaded(self) -> bool {
        matches!(self.size(), Size::OnePart | Size::TwoParts | Size::LargePart)
    }

    pub fn part_count(self) -> u16 {
        if self.size() == Size::TwoParts { 2 } else { 1 }
    }

    pub fn body(self) -> Bytes {
        let mut parts = self.parts();
        match parts.len() {
            1 => parts.remove(0),
            _ => parts.concat().into(),
        }
    }

    fn part_digests(self) -> Vec<[u8; 16]> {
        self.parts().iter().map(|part| Md5::digest(part).into()).collect()
    }

    /// Of each part by itself.
    pub fn part_etags(self) -> Vec<String> {
        self.part_digests().iter().map(|digest| hex(digest)).collect()
    }

    /// Without quotes; S3's rule: the MD5, or the MD5 of the parts' MD5s and their number.
    pub fn etag(self) -> String {
        let digests = self.part_digests();
        if self.is_uploaded() {
            format!("{}-{}", hex(&Md5::digest(digests.concat())), digests.len())
        } else {
            hex(&digests[0])
        }
    }

    /// What is wrong with `bytes` as this value's, from `first` on.
    pub fn difference(self, first: u64, bytes: &[u8], whole: bool) -> Option<String> {
        let body = self.body();
        let first = usize::try_from(first).ok()?;
        let right = body.get(first..first + bytes.len());
        match right {
            None => Some(format!("{} bytes from {first} on, of {} in all", bytes.len(), body.len())),
            Some(_) if whole && bytes.len() != body.len() => {
                Some(format!("{} bytes instead of {}", bytes.len(), body.len()))
            }
            Some(right) if right != bytes => {
                let at = right.iter().zip(bytes).position(|(a, b)| a != b).unwrap_or_default();
                Some(format!("byte {} is another", first + at))
            }
            Some(_) => None,
        }
    }
}

fn hex(digest: &[u8]) -> String {
    digest.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_value_tells_its_size_and_no_two_share_an_etag_unless_they_share_their_bytes() {
        for short in [false, true] {
            let mut etags = BTreeSet::new();
            for size in Size::ALL {
                let (a, b) = (Value::sized(5, size, short), Value::sized(6, size, short));
                assert_eq!(a.size(), size);
                assert_eq!(a.length(), a.body().len() as u64);
                assert_eq!(a.content() == b.content(), a.body() == b.body(), "{size:?}");
                assert_eq!(a.content() == b.content(), a.etag() == b.etag(), "{size:?}");
                assert!(etags.insert(a.etag()), "{size:?}");
            }
        }
    }

    #[test]
    fn plain_numbers_are_values_too() {
        assert_eq!(Value(17).size(), Size::Word);
        assert_eq!(Value(17).body()[..], 17u64.to_le_bytes());
    }

    #[test]
    fn other_bytes_are_noticed_wherever_they_are() {
        let value = Value::sized(9, Size::Small, false);
        let body = value.body();
        assert_eq!(value.difference(0, &body, true), None);
        assert_eq!(value.difference(10, &body[10..20], false), None);
        assert!(value.difference(11, &body[10..20], false).is_some());
        assert!(value.difference(0, &body[..99], true).is_some());
        assert!(value.difference(95, &body[..10], false).is_some());
        let mut flipped = body.to_vec();
        flipped[99] ^= 1;
        assert_eq!(value.difference(0, &flipped, true).as_deref(), Some("byte 99 is another"));
    }
}
