//! Messages of [`atoll_transport::Protocol::Chunks`]: what nodes ask each other's chunk
//! stores. A chunk's bytes are the message's body; everything else is in the header.
//!
//! There is no request to remove a chunk: each holder decides that for itself (rule 9).

use atoll_types::{ChunkHash, Format, Slot};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChunkRequest {
    /// Store the body under its hash, stamped at least `stamp`. Answered when durable.
    Put {
        hash: ChunkHash,
        stamp: u64,
        layout_version: u64,
    },
    /// Raise the stamps of chunks that should be there; says of each whether it is.
    Stamp {
        hashes: Vec<ChunkHash>,
        stamp: u64,
        layout_version: u64,
    },
    Get {
        hash: ChunkHash,
    },
    /// Of each, whether it is there whole.
    Has {
        hashes: Vec<ChunkHash>,
    },
    /// A page of a slot's chunks in hash order, from a node that knows at least this
    /// layout: it then has taken its last write under an older one.
    List {
        slot: Slot,
        after: Option<ChunkHash>,
        limit: u32,
        layout_version: u64,
    },
}

impl Format for ChunkRequest {
    const NAME: &'static str = "chunk request";
    const VERSION: u8 = 1;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChunkReply {
    Stored,
    /// The chunk is the body.
    Found,
    Missing,
    Flags(Vec<bool>),
    /// Damaged chunks are left out. `next` is where to go on; `None` at the end.
    Listed {
        chunks: Vec<ListedChunk>,
        next: Option<ChunkHash>,
    },
    /// The slot's holders changed in this layout version: look there.
    StaleLayout {
        changed: u64,
    },
    /// The answering node has only this layout.
    Behind {
        have: u64,
    },
    NotAHolder,
    /// No room beside the reserve for records (rule 19).
    Full,
    /// The disk, not the asker, is at fault.
    Failed {
        reason: String,
    },
}

impl Format for ChunkReply {
    const NAME: &'static str = "chunk reply";
    const VERSION: u8 = 1;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedChunk {
    pub hash: ChunkHash,
    pub bytes: u32,
    pub stamp: u64,
}

/// 4,096 entries of about 40 bytes stay under 256 KiB, the limit of a header.
pub const LIST_LIMIT_MAX: u32 = 4096;
/// 4,096 hashes of 32 bytes: 128 KiB.
pub const HASHES_MAX: usize = 4096;

const _: () = assert!(HASHES_MAX * 33 < atoll_transport::Message::HEADER_BYTES_MAX);
const _: () = assert!(LIST_LIMIT_MAX as usize * 48 < atoll_transport::Message::HEADER_BYTES_MAX);
