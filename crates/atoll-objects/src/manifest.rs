//! Which chunks make up an object (rule 11).
//!
//! A small list of chunks lies in the version's record itself; a longer one in segment
//! records that the root names; a multipart object's root names its parts, whose own
//! manifests stay where the upload wrote them.

use atoll_types::ChunkHash;
use serde::{Deserialize, Serialize};

use crate::names::{ManifestId, UploadId};

/// One chunk in its place. Offsets follow from the lengths before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChunkRef {
    pub hash: ChunkHash,
    pub bytes: u32,
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
    pub fn storage(&self) -> Storage {
        match self {
            Manifest::Inline => Storage::Inline,
            Manifest::Chunks(_) => Storage::Chunks,
            Manifest::Segments { .. } => Storage::Segments,
            Manifest::Parts { .. } => Storage::Parts,
        }
    }
}
