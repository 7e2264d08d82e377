//! What lies in a pack file, byte by byte. Pure: no files, no index.
//!
//! ```text
//! pack   = header, then records one after the other
//! header = "ATOLPACK" | version u8, 7 zeros | id u64 | stamp_max u64 | salt [24] | check u64
//! record = "ATCR" | version u8 | kind u8 | 2 zeros | len u32 | 4 zeros | hash [32]
//!          | stamp u64 | batch_start u64 | place: pack u64, offset u64 | check u64
//!          , then `len` bytes of the chunk if the kind is `Chunk`
//! ```
//!
//! Integers are little-endian. A record's check is keyed by its pack's salt, which nobody
//! outside ever sees, and covers its offset: a record found anywhere else, in another
//! pack, or forged inside a chunk's bytes by whoever uploaded it, is not one. The chunk's
//! bytes need no checksum of their own; their name is one.

use atoll_types::ChunkHash;

/// Packs are numbered in the order in which they were begun; only the last is written to.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize,
)]
#[serde(transparent)]
pub(crate) struct PackId(pub u64);

/// Where a chunk's record begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub(crate) struct Place {
    pub pack: PackId,
    pub offset: u64,
}

const PACK_MAGIC: &[u8; 8] = b"ATOLPACK";
const RECORD_MAGIC: &[u8; 4] = b"ATCR";
const PACK_VERSION: u8 = 1;
const RECORD_VERSION: u8 = 1;
pub(crate) const PACK_HEADER_BYTES: usize = 64;
pub(crate) const RECORD_HEADER_BYTES: usize = 88;
const PACK_CHECKED_BYTES: usize = PACK_HEADER_BYTES - 8;
const RECORD_CHECKED_BYTES: usize = RECORD_HEADER_BYTES - 8;

/// The first bytes of a pack.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PackHeader {
    pub id: PackId,
    /// No stamp given out before this pack was begun is higher: what a rebuilt index
    /// falls back on for stamps whose records went with a compacted pack.
    pub stamp_max: u64,
    pub salt: [u8; 24],
}

/// Checks the records of one pack.
#[derive(Debug, Clone)]
pub(crate) struct PackKey([u8; 32]);

impl PackHeader {
    pub(crate) fn encode(&self) -> [u8; PACK_HEADER_BYTES] {
        let mut bytes = [0; PACK_HEADER_BYTES];
        bytes[..8].copy_from_slice(PACK_MAGIC);
        bytes[8] = PACK_VERSION;
        bytes[16..24].copy_from_slice(&self.id.0.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.stamp_max.to_le_bytes());
        bytes[32..56].copy_from_slice(&self.salt);
        let check = pack_check(&bytes[..PACK_CHECKED_BYTES]);
        bytes[PACK_CHECKED_BYTES..].copy_from_slice(&check);
        bytes
    }

    /// `None` if this is not the header of pack `id`.
    pub(crate) fn decode(bytes: &[u8], id: PackId) -> Option<Self> {
        let bytes: &[u8; PACK_HEADER_BYTES] = bytes.get(..PACK_HEADER_BYTES)?.try_into().ok()?;
        if pack_check(&bytes[..PACK_CHECKED_BYTES]) != bytes[PACK_CHECKED_BYTES..]
            || &bytes[..8] != PACK_MAGIC
            || bytes[8] != PACK_VERSION
            || u64_at(bytes, 16) != id.0
        {
            return None;
        }
        let salt = bytes[32..56].try_into().expect("24 bytes");
        Some(Self { id, stamp_max: u64_at(bytes, 24), salt })
    }

    pub(crate) fn key(&self) -> PackKey {
        let header = self.encode();
        PackKey(blake3::derive_key("atoll 2026 chunk pack records", &header[..PACK_CHECKED_BYTES]))
    }
}

fn pack_check(bytes: &[u8]) -> [u8; 8] {
    blake3::hash(bytes).as_bytes()[..8].try_into().expect("8 bytes")
}

/// What a record says of its chunk. Each states the whole truth about one chunk as of
/// then, so the last one wins and reading them twice changes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordKind {
    /// It lies here: its bytes follow.
    Chunk,
    /// It lies at `place`, with this stamp.
    Placed,
    /// It is gone.
    Removed,
}

/// A record without its chunk's bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub kind: RecordKind,
    pub hash: ChunkHash,
    /// Of the chunk.
    pub len: u32,
    pub stamp: u64,
    /// Where the batch that was flushed together with this record begins in this pack.
    /// A batch begins only after the one before was flushed, so a later batch proves that
    /// whatever precedes it was acknowledged.
    pub batch_start: u64,
    /// For `Chunk` its own.
    pub place: Place,
}

impl Record {
    /// Bytes in the pack.
    pub(crate) fn extent(&self) -> u64 {
        extent(if self.kind == RecordKind::Chunk { self.len } else { 0 })
    }

    pub(crate) fn encode(&self, key: &PackKey, offset: u64) -> [u8; RECORD_HEADER_BYTES] {
        let mut bytes = [0; RECORD_HEADER_BYTES];
        bytes[..4].copy_from_slice(RECORD_MAGIC);
        bytes[4] = RECORD_VERSION;
        bytes[5] = match self.kind {
            RecordKind::Chunk => 1,
            RecordKind::Placed => 2,
            RecordKind::Removed => 3,
        };
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[16..48].copy_from_slice(self.hash.as_bytes());
        bytes[48..56].copy_from_slice(&self.stamp.to_le_bytes());
        bytes[56..64].copy_from_slice(&self.batch_start.to_le_bytes());
        bytes[64..72].copy_from_slice(&self.place.pack.0.to_le_bytes());
        bytes[72..80].copy_from_slice(&self.place.offset.to_le_bytes());
        let check = key.check(&bytes[..RECORD_CHECKED_BYTES], offset);
        bytes[RECORD_CHECKED_BYTES..].copy_from_slice(&check);
        bytes
    }

    /// `None` if no record that belongs to this pack and offset begins here.
    pub(crate) fn decode(bytes: &[u8], key: &PackKey, offset: u64) -> Option<Self> {
        let bytes: &[u8; RECORD_HEADER_BYTES] = bytes.get(..RECORD_HEADER_BYTES)?.try_into().ok()?;
        if &bytes[..4] != RECORD_MAGIC || bytes[4] != RECORD_VERSION {
            return None;
        }
        if key.check(&bytes[..RECORD_CHECKED_BYTES], offset) != bytes[RECORD_CHECKED_BYTES..] {
            return None;
        }
        let kind = match bytes[5] {
            1 => RecordKind::Chunk,
            2 => RecordKind::Placed,
            3 => RecordKind::Removed,
            _ => return None,
        };
        Some(Self {
            kind,
            hash: ChunkHash(bytes[16..48].try_into().expect("32 bytes")),
            len: u32::from_le_bytes(bytes[8..12].try_into().expect("4 bytes")),
            stamp: u64_at(bytes, 48),
            batch_start: u64_at(bytes, 56),
            place: Place { pack: PackId(u64_at(bytes, 64)), offset: u64_at(bytes, 72) },
        })
    }

    /// Where a record may begin in `bytes`, from `from` on: a filter before the check.
    pub(crate) fn next_candidate(bytes: &[u8], from: usize) -> Option<usize> {
        let rest = bytes.get(from..)?;
        rest.windows(RECORD_MAGIC.len()).position(|window| window == RECORD_MAGIC).map(|at| from + at)
    }
}

/// What a chunk of `len` bytes takes in its pack.
pub(crate) fn extent(len: u32) -> u64 {
    RECORD_HEADER_BYTES as u64 + u64::from(len)
}

impl PackKey {
    fn check(&self, header: &[u8], offset: u64) -> [u8; 8] {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(&offset.to_le_bytes()).update(header);
        hasher.finalize().as_bytes()[..8].try_into().expect("8 bytes")
    }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> PackHeader {
        PackHeader { id: PackId(7), stamp_max: 5, salt: [9; 24] }
    }

    fn record() -> Record {
        Record {
            kind: RecordKind::Placed,
            hash: ChunkHash::of(b"x"),
            len: 1,
            stamp: 3,
            batch_start: 64,
            place: Place { pack: PackId(2), offset: 64 },
        }
    }

    #[test]
    fn headers_and_records_read_back_as_written() {
        assert_eq!(PackHeader::decode(&header().encode(), PackId(7)), Some(header()));
        let key = header().key();
        for kind in [RecordKind::Chunk, RecordKind::Placed, RecordKind::Removed] {
            let record = Record { kind, ..record() };
            assert_eq!(Record::decode(&record.encode(&key, 100), &key, 100), Some(record));
        }
    }

    #[test]
    fn any_flipped_bit_is_noticed() {
        let (key, bytes) = (header().key(), record().encode(&header().key(), 100));
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Record::decode(&bytes, &key, 100), None, "bit {bit}");
        }
        let bytes = header().encode();
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(PackHeader::decode(&bytes, PackId(7)), None, "bit {bit}");
        }
    }

    #[test]
    fn a_record_in_the_wrong_place_or_pack_is_none() {
        let key = header().key();
        let bytes = record().encode(&key, 100);
        assert_eq!(Record::decode(&bytes, &key, 101), None);
        let other = PackHeader { salt: [8; 24], ..header() };
        assert_eq!(Record::decode(&bytes, &other.key(), 100), None);
        assert_eq!(PackHeader::decode(&header().encode(), PackId(8)), None);
    }
}
