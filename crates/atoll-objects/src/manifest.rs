//! Which chunks make up an object (rule 11).
//!
//! A small list of chunks lies in the version's record itself; a longer one in segment
//! records that the root names; a multipart object's root names its parts, whose own
//! manifests stay where the upload wrote them.

use atoll_types::ChunkHash;
use serde::{Deserialize, Serialize};

use crate::{
    encryption::seal::TAG_BYTES,
    names::{ManifestId, UploadId},
};

/// One chunk in its place. Offsets follow from the lengths before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkRef {
    pub hash: ChunkHash,
    /// Of what is stored.
    pub bytes: u32,
}

impl ChunkRef {
    /// How many of the object's own bytes it holds.
    pub fn content_bytes(&self, sealed: bool) -> u64 {
        u64::from(self.bytes).saturating_sub(if sealed { TAG_BYTES as u64 } else { 0 })
    }
}

/// 256 chunks of about 1 MiB: objects up to about a quarter of a GiB need no segments,
/// and their root stays under 10 KiB (36 bytes an entry).
pub const ROOT_CHUNKS_MAX: usize = 256;
/// 4,096 entries of 36 bytes make 144 KiB: far under the 1 MiB that an entry of the log
/// may have (rule 11).
pub const SEGMENT_CHUNKS_MAX: usize = 4096;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Manifest {
    /// The bytes are a record of their own, beside the version.
    Inline,
    Chunks(Vec<ChunkRef>),
    /// The size in bytes of what each segment holds, in order.
    Segments {
        manifest: ManifestId,
        sizes: Vec<u64>,
    },
    /// Number and size of each part, in order.
    Parts {
        upload: UploadId,
        parts: Vec<(u16, u64)>,
    },
}

/// The kind of a [`Manifest`]: what a write must know of the version that it replaces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Storage {
    Inline,
    Chunks,
    Segments,
    Parts,
}

impl Manifest {
    /// Whether what it says of sizes adds up to that of the object or part that it makes: of a
    /// record that may come from anywhere.
    pub fn is_of(&self, size: u64, sealed: bool) -> bool {
        match self {
            Manifest::Inline => true,
            Manifest::Chunks(chunks) => chunks_are_of(chunks, size, sealed),
            Manifest::Segments { sizes, .. } => add_up(sizes.iter().copied(), size),
            Manifest::Parts { parts, .. } => {
                parts.is_sorted_by(|(one, _), (next, _)| one < next)
                    && add_up(parts.iter().map(|(_, bytes)| *bytes), size)
            }
        }
    }

    pub fn storage(&self) -> Storage {
        match self {
            Manifest::Inline => Storage::Inline,
            Manifest::Chunks(_) => Storage::Chunks,
            Manifest::Segments { .. } => Storage::Segments,
            Manifest::Parts { .. } => Storage::Parts,
        }
    }
}

/// Of a part's chunks, an object's, or those of one of its segments.
pub fn chunks_are_of(chunks: &[ChunkRef], size: u64, sealed: bool) -> bool {
    add_up(chunks.iter().map(|chunk| chunk.content_bytes(sealed)), size)
}

fn add_up(mut sizes: impl Iterator<Item = u64>, size: u64) -> bool {
    sizes.try_fold(0_u64, |sum, bytes| sum.checked_add(bytes)) == Some(size)
}

/// A manifest, and how what it names is encrypted, if it is: encoded as a plain manifest is
/// where it is not, as programs before encryption wrote and read it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "SealableWire<S>", into = "SealableWire<S>")]
#[serde(bound(serialize = "S: Serialize + Clone", deserialize = "S: Deserialize<'de>"))]
pub struct Sealable<S> {
    pub manifest: Manifest,
    pub seal: Option<S>,
}

impl<S> Sealable<S> {
    pub fn plain(manifest: Manifest) -> Self {
        Self { manifest, seal: None }
    }
}

/// The variants of [`Manifest`], and one more.
#[derive(Serialize, Deserialize)]
enum SealableWire<S> {
    Inline,
    Chunks(Vec<ChunkRef>),
    Segments { manifest: ManifestId, sizes: Vec<u64> },
    Parts { upload: UploadId, parts: Vec<(u16, u64)> },
    Sealed { seal: S, manifest: Manifest },
}

impl<S> From<Sealable<S>> for SealableWire<S> {
    fn from(Sealable { manifest, seal }: Sealable<S>) -> Self {
        match (seal, manifest) {
            (Some(seal), manifest) => SealableWire::Sealed { seal, manifest },
            (None, Manifest::Inline) => SealableWire::Inline,
            (None, Manifest::Chunks(chunks)) => SealableWire::Chunks(chunks),
            (None, Manifest::Segments { manifest, sizes }) => SealableWire::Segments { manifest, sizes },
            (None, Manifest::Parts { upload, parts }) => SealableWire::Parts { upload, parts },
        }
    }
}

impl<S> From<SealableWire<S>> for Sealable<S> {
    fn from(wire: SealableWire<S>) -> Self {
        match wire {
            SealableWire::Inline => Self::plain(Manifest::Inline),
            SealableWire::Chunks(chunks) => Self::plain(Manifest::Chunks(chunks)),
            SealableWire::Segments { manifest, sizes } => Self::plain(Manifest::Segments { manifest, sizes }),
            SealableWire::Parts { upload, parts } => Self::plain(Manifest::Parts { upload, parts }),
            SealableWire::Sealed { seal, manifest } => Self { manifest, seal: Some(seal) },
        }
    }
}

#[cfg(test)]
mod tests {
    use atoll_types::TransactionId;

    use super::*;

    /// In a backup that somebody made up: a reader that adds such sizes up comes out before where
    /// it began.
    #[test]
    fn sizes_that_do_not_add_up_make_no_object() {
        let id = TransactionId([7; 16]);
        let chunk = |bytes| ChunkRef { hash: ChunkHash::of(b"a"), bytes };
        let segments = |sizes| Manifest::Segments { manifest: ManifestId(id), sizes };
        let parts = |parts| Manifest::Parts { upload: UploadId(id), parts };
        for (fits, size, manifest) in [
            (true, 3, Manifest::Inline),
            (true, 3, Manifest::Chunks(vec![chunk(1), chunk(2)])),
            (false, 4, Manifest::Chunks(vec![chunk(1), chunk(2)])),
            (true, 301, segments(vec![1, 300])),
            (false, 300, segments(vec![1, 300])),
            (false, 1, segments(vec![u64::MAX, 2])),
            (true, 301, parts(vec![(1, 1), (3, 300)])),
            (false, 301, parts(vec![(3, 1), (1, 300)])),
            (false, 1, parts(vec![(1, u64::MAX), (3, 2)])),
        ] {
            assert_eq!(manifest.is_of(size, false), fits, "{manifest:?}");
        }
        let sealed = Manifest::Chunks(vec![chunk(1 + TAG_BYTES as u32)]);
        assert!(sealed.is_of(1, true) && !sealed.is_of(1, false));
    }

    #[test]
    fn what_is_not_sealed_is_encoded_as_it_always_was() {
        let id = TransactionId([7; 16]);
        let chunk = ChunkRef { hash: ChunkHash::of(b"a"), bytes: 300 };
        let manifests = [
            Manifest::Inline,
            Manifest::Chunks(vec![chunk]),
            Manifest::Segments { manifest: ManifestId(id), sizes: vec![1, 300] },
            Manifest::Parts { upload: UploadId(id), parts: vec![(1, 300)] },
        ];
        for manifest in manifests {
            let plain = Sealable::<u8>::plain(manifest.clone());
            let bytes = postcard::to_stdvec(&plain).unwrap();
            assert_eq!(bytes, postcard::to_stdvec(&manifest).unwrap());
            assert_eq!(postcard::from_bytes::<Sealable<u8>>(&bytes).unwrap(), plain);
            let sealed = Sealable { manifest, seal: Some(9_u8) };
            let bytes = postcard::to_stdvec(&sealed).unwrap();
            assert_eq!(postcard::from_bytes::<Sealable<u8>>(&bytes).unwrap(), sealed);
            assert!(postcard::from_bytes::<Manifest>(&bytes).is_err());
        }
    }
}
