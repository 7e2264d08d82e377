//! Cuts a body into chunks by its content (FastCDC, Xia et al. 2020), so that the same
//! bytes in another place become the same chunks; or, where they are encrypted, at a fixed
//! size.
//!
//! Pure and synchronous: bytes in, chunks out. It is called off the async threads.

use atoll_types::ChunkHash;
use bytes::{Bytes, BytesMut};
use fastcdc::v2020::{Normalization, cut, select_masks};

use crate::encryption::seal::{StreamKey, TAG_BYTES};

/// No chunk is longer, whatever the settings: a message's body has room for it.
pub const CHUNK_BYTES_MAX: usize = 4 << 20;

const _: () = assert!(CHUNK_BYTES_MAX <= atoll_transport::Message::BODY_BYTES_MAX);

/// Cuts a body, one way or the other.
pub enum Cutter {
    Plain(Chunker),
    Sealing(SealingChunker),
}

impl Cutter {
    pub fn new(sizes: ChunkSizes, key: Option<StreamKey>) -> Self {
        match key {
            None => Cutter::Plain(Chunker::new(sizes)),
            Some(key) => Cutter::Sealing(SealingChunker::new(sizes, key)),
        }
    }

    /// Takes the next bytes of the body and gives the chunks that they complete.
    pub fn push(&mut self, pieces: &[Bytes]) -> Vec<Chunk> {
        match self {
            Cutter::Plain(chunker) => chunker.push(pieces),
            Cutter::Sealing(chunker) => chunker.push(pieces),
        }
    }

    /// The last chunk, if anything is left.
    pub fn finish(self) -> Option<Chunk> {
        match self {
            Cutter::Plain(chunker) => chunker.finish(),
            Cutter::Sealing(chunker) => chunker.finish(),
        }
    }
}

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

/// Cuts at a fixed size, since cuts that follow the content would tell of it (rule 15), and
/// seals what it cuts: a chunk's name is the hash of what is stored.
pub struct SealingChunker {
    key: StreamKey,
    size: usize,
    /// Where `tail` begins.
    offset: u64,
    /// Never empty once there was something: whether a chunk is the last is sealed with it.
    tail: BytesMut,
}

impl SealingChunker {
    fn new(sizes: ChunkSizes, key: StreamKey) -> Self {
        let size = sizes.average.min(CHUNK_BYTES_MAX - TAG_BYTES);
        Self { key, size, offset: 0, tail: BytesMut::new() }
    }

    fn push(&mut self, pieces: &[Bytes]) -> Vec<Chunk> {
        for piece in pieces {
            self.tail.extend_from_slice(piece);
        }
        let mut chunks = Vec::new();
        while self.tail.len() > self.size {
            let bytes = self.tail.split_to(self.size);
            chunks.push(self.seal(false, &bytes));
            self.offset += bytes.len() as u64;
        }
        chunks
    }

    fn finish(self) -> Option<Chunk> {
        (!self.tail.is_empty()).then(|| self.seal(true, &self.tail))
    }

    fn seal(&self, last: bool, bytes: &[u8]) -> Chunk {
        let bytes = self.key.seal(self.offset, last, bytes);
        Chunk { hash: ChunkHash::of(&bytes), bytes }
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
    fn sealed_chunks_are_of_one_size_and_say_nothing_of_the_body() {
        let sizes = ChunkSizes { min: 16, average: 64, max: 256 };
        let key = crate::encryption::seal::stream_key(9);
        for len in [1, 63, 64, 65, 128, 1000] {
            let body = Bytes::from(vec![0; len]);
            let mut cutter = Cutter::new(sizes, Some(key.clone()));
            let mut chunks = cutter.push(&[body.slice(..len / 2), body.slice(len / 2..)]);
            chunks.extend(cutter.finish());
            assert_eq!(chunks.len(), len.div_ceil(64));
            let (last, full) = chunks.split_last().unwrap();
            assert!(full.iter().all(|chunk| chunk.bytes.len() == 64 + TAG_BYTES));
            assert_eq!(last.bytes.len(), (len - 1) % 64 + 1 + TAG_BYTES);
            let names: std::collections::BTreeSet<_> = chunks.iter().map(|chunk| chunk.hash).collect();
            assert_eq!(names.len(), chunks.len(), "equal bytes show");
            for (index, chunk) in chunks.iter().enumerate() {
                let is_last = index + 1 == chunks.len();
                let opened = key.open(64 * index as u64, is_last, &chunk.bytes).unwrap();
                assert!(opened.iter().all(|byte| *byte == 0));
            }
        }
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
