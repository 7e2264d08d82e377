//! Cuts a body into chunks by its content (FastCDC, Xia et al. 2020), so that the same
//! bytes in another place become the same chunks.
//!
//! Pure and synchronous: bytes in, chunks out. It is called off the async threads.

use atoll_types::ChunkHash;
use bytes::{Bytes, BytesMut};
use fastcdc::v2020::{Normalization, cut, select_masks};

/// No chunk is longer, whatever the settings: a message's body has room for it.
pub const CHUNK_BYTES_MAX: usize = 4 << 20;

const _: () = assert!(CHUNK_BYTES_MAX <= atoll_transport::Message::BODY_BYTES_MAX);

/// How long chunks are, all but a body's last one. Any node reads what any sizes have cut;
/// where they differ, the same bytes are stored twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkSizes {
    pub min: usize,
    pub average: usize,
    /// At most [`CHUNK_BYTES_MAX`].
    pub max: usize,
}

impl Default for ChunkSizes {
    /// About 1 MiB: a 64 MiB object is 64 chunks, few enough to name and enough to fetch side
    /// by side.
    fn default() -> Self {
        Self { min: 256 << 10, average: 1 << 20, max: CHUNK_BYTES_MAX }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chunk {
    pub hash: ChunkHash,
    pub bytes: Bytes,
}

/// Holds the bytes after the last cut: fewer than the longest chunk has.
pub struct Chunker {
    sizes: ChunkSizes,
    tail: BytesMut,
}

impl Chunker {
    pub fn new(sizes: ChunkSizes) -> Self {
        assert!(sizes.max <= CHUNK_BYTES_MAX, "a chunk has {CHUNK_BYTES_MAX} bytes at most");
        Self { sizes, tail: BytesMut::new() }
    }

    /// Takes the next bytes of the body and gives the chunks that they complete. Cheapest
    /// with a few MiB at once: what stays behind is looked at again.
    pub fn push(&mut self, pieces: &[Bytes]) -> Vec<Chunk> {
        self.tail.reserve(pieces.iter().map(Bytes::len).sum());
        for piece in pieces {
            self.tail.extend_from_slice(piece);
        }
        let mut chunks = Vec::new();
        while let Some(len) = next_cut(self.sizes, &self.tail) {
            // The chunks share the buffer's memory; only the tail is ever copied on.
            let bytes = self.tail.split_to(len).freeze();
            chunks.push(Chunk { hash: ChunkHash::of(&bytes), bytes });
        }
        chunks
    }

    /// The last chunk, if anything is left.
    pub fn finish(self) -> Option<Chunk> {
        let bytes = self.tail.freeze();
        (!bytes.is_empty()).then(|| Chunk { hash: ChunkHash::of(&bytes), bytes })
    }
}

/// The length of the first chunk in `bytes`, if more bytes can't change it.
fn next_cut(sizes: ChunkSizes, bytes: &[u8]) -> Option<usize> {
    let ChunkSizes { min, average, max } = sizes;
    if bytes.len() <= min {
        return None;
    }
    let (mask_s, mask_l) = select_masks(average, Normalization::Level1);
    let (_, len) = cut(bytes, min, average, max, mask_s, mask_l, mask_s << 1, mask_l << 1);
    // A cut at the very end means that none was found: the true one may lie beyond.
    (len < bytes.len() || len == max).then_some(len)
}

#[cfg(test)]
mod tests {
    use rand::{Rng, RngCore, SeedableRng, rngs::StdRng};

    use super::*;

    fn body(seed: u64, len: usize) -> Bytes {
        let mut bytes = vec![0; len];
        StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
        bytes.into()
    }

    fn chunks_of(body: &Bytes, mut step: impl FnMut() -> usize) -> Vec<Chunk> {
        let (mut chunker, mut chunks, mut rest) =
            (Chunker::new(ChunkSizes::default()), Vec::new(), body.clone());
        while !rest.is_empty() {
            let piece = rest.split_to(step().clamp(1, rest.len()));
            chunks.extend(chunker.push(&[piece]));
        }
        chunks.extend(chunker.finish());
        chunks
    }

    #[test]
    fn the_cuts_do_not_depend_on_how_the_body_arrives() {
        let body = body(1, 12 << 20);
        let whole = chunks_of(&body, || usize::MAX);
        let mut rng = StdRng::seed_from_u64(2);
        let pieces = chunks_of(&body, || rng.random_range(1..3 << 20));
        assert_eq!(whole, pieces);
        let reference: Vec<usize> = fastcdc::v2020::FastCDC::new(&body, 256 << 10, 1 << 20, 4 << 20)
            .map(|chunk| chunk.length)
            .collect();
        assert_eq!(whole.iter().map(|chunk| chunk.bytes.len()).collect::<Vec<_>>(), reference);
        let joined: Vec<u8> = whole.iter().flat_map(|chunk| chunk.bytes.to_vec()).collect();
        assert_eq!(joined, body);
    }

    #[test]
    fn an_insertion_changes_only_the_chunks_around_it() {
        let before = body(3, 16 << 20);
        let after: Bytes = [&before[..5 << 20], b"inserted", &before[5 << 20..]].concat().into();
        let hashes = |body| -> std::collections::BTreeSet<ChunkHash> {
            chunks_of(body, || usize::MAX).into_iter().map(|chunk| chunk.hash).collect()
        };
        let (old, new) = (hashes(&before), hashes(&after));
        assert!(
            new.difference(&old).count() <= 3,
            "{} of {} changed",
            new.difference(&old).count(),
            new.len()
        );
    }

    #[test]
    fn bytes_without_a_cut_are_cut_at_the_limit() {
        let lengths: Vec<usize> = chunks_of(&Bytes::from(vec![0; 9 << 20]), || 700_000)
            .iter()
            .map(|chunk| chunk.bytes.len())
            .collect();
        assert_eq!(lengths, [4 << 20, 4 << 20, 1 << 20]);
    }
}
