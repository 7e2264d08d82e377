//! What is put, made from an object's number, and whether what is got is the same.
//!
//! A pattern that no store can compress, repeated, with a stamp in each block, so that no two
//! blocks of a run are equal: a store that keeps equal chunks once has none to keep once. Any
//! part of an object can be made or checked without the rest, so no object is ever in memory.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use rand::{RngCore, rngs::StdRng};

/// Smaller than any chunk.
const BLOCK_BYTES: u64 = 4096;
/// The object's number, the run, the block and the object's size, 8 bytes each. Numbers come
/// first: they are all that tells apart objects of 8 bytes.
const STAMP_BYTES: usize = 32;
/// Further apart than compressors look back, and small enough for a processor's cache.
const PATTERN_BYTES: u64 = 1 << 20;
/// One write to the socket, and all that a put keeps in memory.
const FRAME_BYTES: u64 = 256 << 10;

const _: () = assert!(PATTERN_BYTES.is_multiple_of(BLOCK_BYTES), "a block's pattern is in one piece");

/// Makes the contents of all objects of one run.
#[derive(Debug, Clone)]
pub struct Contents {
    pattern: Bytes,
    run: u64,
}

impl Contents {
    pub fn new(mut rng: StdRng) -> Self {
        let mut pattern = vec![0; PATTERN_BYTES as usize];
        rng.fill_bytes(&mut pattern);
        Self { pattern: pattern.into(), run: rng.next_u64() }
    }

    pub fn of(&self, number: u64, size: u64) -> Content {
        Content { contents: self.clone(), number, size }
    }
}

/// The bytes of one object.
#[derive(Debug, Clone)]
pub struct Content {
    contents: Contents,
    number: u64,
    size: u64,
}

impl Content {
    /// Whether `data` is what lies at `offset`.
    pub fn has(&self, offset: u64, data: &[u8]) -> bool {
        offset + data.len() as u64 <= self.size
            && self.pieces(offset, data.len(), |at, piece| data[at..at + piece.len()] == *piece)
    }

    fn write(&self, offset: u64, into: &mut [u8]) {
        self.pieces(offset, into.len(), |at, piece| {
            into[at..at + piece.len()].copy_from_slice(piece);
            true
        });
    }

    /// Gives `take` what lies at `offset` piece by piece, each with its place from there, until
    /// it says no. Gives whether it never did.
    fn pieces(&self, offset: u64, bytes: usize, mut take: impl FnMut(usize, &[u8]) -> bool) -> bool {
        let mut at = 0;
        while at < bytes {
            let place = offset + at as u64;
            let (block, within) = (place / BLOCK_BYTES, (place % BLOCK_BYTES) as usize);
            let rest = bytes - at;
            let taken = if within < STAMP_BYTES {
                let mut stamp = [0; STAMP_BYTES];
                stamp[..8].copy_from_slice(&self.number.to_le_bytes());
                stamp[8..16].copy_from_slice(&self.contents.run.to_le_bytes());
                stamp[16..24].copy_from_slice(&block.to_le_bytes());
                stamp[24..].copy_from_slice(&self.size.to_le_bytes());
                let length = rest.min(STAMP_BYTES - within);
                take(at, &stamp[within..within + length]).then_some(length)
            } else {
                let start = (place % PATTERN_BYTES) as usize;
                let length = rest.min(BLOCK_BYTES as usize - within);
                take(at, &self.contents.pattern[start..start + length]).then_some(length)
            };
            match taken {
                Some(length) => at += length,
                None => return false,
            }
        }
        true
    }
}

/// A request's body.
#[derive(Debug)]
pub enum Payload {
    Bytes(Bytes),
    /// Made while it is sent, from `sent` on.
    Content {
        content: Content,
        sent: u64,
    },
}

impl Payload {
    pub fn empty() -> Self {
        Self::Bytes(Bytes::new())
    }

    fn left(&self) -> u64 {
        match self {
            Payload::Bytes(bytes) => bytes.len() as u64,
            Payload::Content { content, sent } => content.size - sent,
        }
    }
}

impl From<Content> for Payload {
    fn from(content: Content) -> Self {
        Self::Content { content, sent: 0 }
    }
}

impl Body for Payload {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let payload = self.get_mut();
        let left = payload.left();
        if left == 0 {
            return Poll::Ready(None);
        }
        let frame = match payload {
            Payload::Bytes(bytes) => std::mem::take(bytes),
            Payload::Content { content, sent } => {
                let mut frame = vec![0; left.min(FRAME_BYTES) as usize];
                content.write(*sent, &mut frame);
                *sent += frame.len() as u64;
                frame.into()
            }
        };
        Poll::Ready(Some(Ok(Frame::data(frame))))
    }

    fn is_end_stream(&self) -> bool {
        self.left() == 0
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left())
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    fn content(number: u64, size: u64) -> (Content, Vec<u8>) {
        let content = Contents::new(StdRng::seed_from_u64(1)).of(number, size);
        let mut bytes = vec![0; size as usize];
        content.write(0, &mut bytes);
        (content, bytes)
    }

    #[test]
    fn every_part_of_a_content_is_known_and_no_other_is_taken_for_it() {
        let (content, bytes) = content(7, PATTERN_BYTES + 3 * BLOCK_BYTES + 5);
        for (start, end) in [(0, bytes.len()), (1, 2), (10, 5000), (4090, 4200), (1 << 20, (1 << 20) + 9)] {
            assert!(content.has(start as u64, &bytes[start..end]), "{start}..{end}");
        }
        for changed in [0, 31, 32, 4095, 4096, bytes.len() - 1] {
            let mut bytes = bytes.clone();
            bytes[changed] ^= 1;
            assert!(!content.has(0, &bytes), "the byte at {changed} differs");
        }
        assert!(!content.has(1, &bytes[..100]), "from elsewhere");
        assert!(!content.has(1, &bytes), "too long");
    }

    #[test]
    fn no_two_blocks_of_a_run_are_equal() {
        // Objects of each size are counted from 0.
        let objects =
            [(1, 2 << 20), (2, 2 << 20), (1, 1 << 20)].map(|(number, size)| content(number, size).1);
        let blocks: std::collections::BTreeSet<&[u8]> =
            objects.iter().flat_map(|bytes| bytes.chunks(BLOCK_BYTES as usize)).collect();
        assert_eq!(blocks.len(), 512 + 512 + 256);
    }
}
