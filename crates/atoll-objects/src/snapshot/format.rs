//! What the chunks of a snapshot hold. Each can be read by itself.
//!
//! ```text
//! snapshot record ─► root ─┬─► chunks of entries: the shard's records
//!                          └─► chunks of references: what those records refer to
//! ```
//!
//! Both are cut where their content says so, so that most chunks of a snapshot are those of the
//! one before.

use atoll_types::{ChunkHash, Format, Revision};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use crate::shard::restore::BucketRecord;
use crate::{
    manifest::ChunkRef,
    names::BucketId,
    request::{BucketInfo, Versioning},
};

/// Everything of one shard's snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Root {
    /// Chunks of [`Entries`].
    pub entries: Vec<ChunkRef>,
    /// Chunks of [`References`].
    pub references: Vec<ChunkRef>,
}

impl Format for Root {
    const NAME: &'static str = "snapshot root";
    const VERSION: u8 = 1;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entries(pub Vec<Entry>);

impl Format for Entries {
    const NAME: &'static str = "snapshot entries";
    const VERSION: u8 = 1;
}

/// Something that a shard keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Entry {
    /// Of shard 0: a bucket's name, owner and id.
    Bucket(BucketInfo),
    /// A record of a bucket that has an entry of the kind `Open`.
    Record { bucket: BucketId, record: BucketRecord },
    /// A bucket that was open.
    Open(OpenedBucket),
    /// A key of the default namespace, and its value.
    Kv { key: Bytes, value: Bytes },
    /// Of shard 0: what another crate keeps, under its key there.
    Other { key: Bytes, value: Bytes },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenedBucket {
    pub bucket: BucketId,
    pub versioning: Versioning,
    /// Of all its versions.
    pub newest: Revision,
    /// It takes nothing in the clear.
    pub encrypted: bool,
}

/// Sorted, none twice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct References(pub Vec<ChunkRef>);

impl Format for References {
    const NAME: &'static str = "snapshot references";
    const VERSION: u8 = 1;
}

/// About 16 KiB of small records, and as much as that changes with one of them.
const ENTRIES_PER_CHUNK: u64 = 64;
/// A chunk ends with the entry that makes it this long: with the largest, a value of 512 KiB,
/// far below the longest chunk.
pub(super) const ENTRIES_BYTES_MAX: usize = 256 << 10;
/// About 36 KiB.
const REFERENCES_PER_CHUNK: u64 = 1024;
/// 576 KiB.
const REFERENCES_MAX: usize = 16 << 10;

/// Whether a chunk of entries ends behind the entry that was made of this key.
pub(super) fn ends_entries(key: &[u8], chunk_bytes: usize) -> bool {
    let hash = ChunkHash::of(key);
    let number = u64::from_be_bytes(*hash.as_bytes().last_chunk().expect("a hash has 32 bytes"));
    number.is_multiple_of(ENTRIES_PER_CHUNK) || chunk_bytes >= ENTRIES_BYTES_MAX
}

/// Cuts sorted references into the lists of chunks.
pub(super) fn cut_references(sorted: &[ChunkRef]) -> Vec<References> {
    let mut lists = Vec::new();
    let mut list = Vec::new();
    for reference in sorted {
        list.push(*reference);
        let hash = reference.hash.as_bytes();
        let number = u64::from_be_bytes(*hash.last_chunk().expect("a hash has 32 bytes"));
        if number.is_multiple_of(REFERENCES_PER_CHUNK) || list.len() >= REFERENCES_MAX {
            lists.push(References(std::mem::take(&mut list)));
        }
    }
    if !list.is_empty() {
        lists.push(References(list));
    }
    lists
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_reference_more_changes_one_list() {
        let reference = |number: u64| {
            let hash = ChunkHash::of(&number.to_be_bytes());
            ChunkRef { hash, bytes: 1 }
        };
        let mut all: Vec<ChunkRef> = (0..20_000).map(reference).collect();
        all.sort_by_key(|reference| reference.hash);
        let before = cut_references(&all);
        assert!((10..40).contains(&before.len()), "{}", before.len());
        let one = all.remove(7777);
        let after = cut_references(&all);
        let new = after.iter().filter(|list| !before.contains(list)).count();
        assert!(new <= 1, "{new}");
        assert!(before.iter().any(|list| list.0.contains(&one)));
        let together: Vec<ChunkRef> = before.into_iter().flat_map(|list| list.0).collect();
        assert_eq!(together.len(), 20_000);
    }
}
