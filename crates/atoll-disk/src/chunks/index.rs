//! The index: where each chunk lies, kept in [`Table::Chunks`] of the ordered store.
//!
//! ```text
//! 00            → Position: how far into the packs the index has read
//! 01 pack u64be → PackCount
//! 02 hash       → Entry
//! 03 hash       → nothing: the chunk is damaged
//! 04            → nothing: something here could not be read
//! ```
//!
//! Each batch of changes carries the position up to which they take the index, and the
//! store after a crash is at some batch boundary. So the index never claims more than it
//! has, needs no flush of its own, and goes on reading the packs from its position.
//!
//! Everything here blocks: call it inside `Runtime::blocking`.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound::{self, Excluded, Included},
    sync::Arc,
};

use atoll_runtime::{Broken, is_broken};
use atoll_types::{ChunkHash, Format, Slot};
use imbl::OrdMap;
use serde::{Deserialize, Serialize};

use super::{
    ChunkError,
    record::{PackId, Place, Record, RecordKind, extent},
};
use crate::{OrderedStore, Table, WriteBatch};

/// What the index knows of one chunk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Entry {
    pub place: Place,
    pub len: u32,
    pub stamp: u64,
    /// Its bytes no longer hash to its name: to be stored anew.
    pub damaged: bool,
}

impl Format for Entry {
    const NAME: &'static str = "chunk index entry";
    const VERSION: u8 = 1;
}

/// Everything before it in the packs is in the index.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Position {
    /// The pack need not exist if `offset` is 0: it is the next to be begun.
    pub pack: PackId,
    pub offset: u64,
    /// The highest stamp so far.
    pub stamp_max: u64,
    /// Every chunk counts as stamped at least so: raised when records that may have
    /// carried stamps were lost.
    pub stamp_floor: u64,
}

impl Format for Position {
    const NAME: &'static str = "chunk index position";
    const VERSION: u8 = 1;
}

/// What is in a pack, as far as the index has read it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PackCount {
    pub bytes: u64,
    /// With their records' headers.
    pub live_bytes: u64,
    pub live_chunks: u64,
}

impl Format for PackCount {
    const NAME: &'static str = "chunk pack count";
    const VERSION: u8 = 1;
}

const POSITION_KEY: &[u8] = &[0];
const COUNT_PREFIX: u8 = 1;
const ENTRY_PREFIX: u8 = 2;
const DAMAGED_PREFIX: u8 = 3;
const CONDEMNED_KEY: &[u8] = &[4];

fn count_key(pack: PackId) -> Vec<u8> {
    [&[COUNT_PREFIX][..], &pack.0.to_be_bytes()].concat()
}

fn entry_key(hash: &ChunkHash) -> Vec<u8> {
    [&[ENTRY_PREFIX][..], hash.as_bytes()].concat()
}

fn damaged_key(hash: &ChunkHash) -> Vec<u8> {
    [&[DAMAGED_PREFIX][..], hash.as_bytes()].concat()
}

fn hash_of_key(key: &[u8]) -> Result<ChunkHash, ChunkError> {
    key.get(1..).and_then(|hash| hash.try_into().ok()).map(ChunkHash).ok_or(ChunkError::BadIndexKey)
}

#[derive(Clone)]
pub(super) struct Index {
    store: Arc<dyn OrderedStore>,
}

impl Index {
    pub(super) fn new(store: Arc<dyn OrderedStore>) -> Self {
        Self { store }
    }

    /// Durably: the next start makes the index anew from the packs.
    pub(super) fn condemn(&self) -> Result<(), ChunkError> {
        self.store.write(WriteBatch::of(Table::Chunks, CONDEMNED_KEY, Vec::new()))?;
        self.flush()
    }

    pub(super) fn is_condemned(&self) -> Result<bool, ChunkError> {
        Ok(self.store.get(Table::Chunks, CONDEMNED_KEY)?.is_some())
    }

    pub(super) fn position(&self) -> Result<Option<Position>, ChunkError> {
        let value = self.store.get(Table::Chunks, POSITION_KEY)?;
        Ok(value.map(|value| Position::decode(&value)).transpose()?)
    }

    pub(super) fn counts(&self) -> Result<OrdMap<PackId, PackCount>, ChunkError> {
        let view = self.store.snapshot()?;
        let mut counts = OrdMap::new();
        for pair in view.range(Table::Chunks, Included(&[COUNT_PREFIX]), Excluded(&[COUNT_PREFIX + 1])) {
            let (key, value) = pair?;
            let id = key[1..].try_into().map_err(|_| ChunkError::BadIndexKey)?;
            counts.insert(PackId(u64::from_be_bytes(id)), PackCount::decode(&value)?);
        }
        Ok(counts)
    }

    pub(super) fn entry(&self, hash: &ChunkHash) -> Result<Option<Entry>, ChunkError> {
        let value = self.store.get(Table::Chunks, &entry_key(hash))?;
        Ok(value.map(|value| Entry::decode(&value)).transpose()?)
    }

    /// Up to `limit` entries in hash order: those of `slot`, or all, after `after`, for
    /// which `wanted` holds.
    pub(super) fn entries(
        &self,
        slot: Option<Slot>,
        after: Option<ChunkHash>,
        limit: usize,
        wanted: impl Fn(&Entry) -> bool,
    ) -> Result<Vec<(ChunkHash, Entry)>, ChunkError> {
        let slot_key = |slot: u32| vec![ENTRY_PREFIX, (slot >> 4) as u8, (slot << 4) as u8];
        let (mut start, mut end) = (vec![ENTRY_PREFIX], vec![ENTRY_PREFIX + 1]);
        if let Some(Slot(slot)) = slot {
            start = slot_key(slot.into());
            if usize::from(slot) + 1 < Slot::COUNT {
                end = slot_key(u32::from(slot) + 1);
            }
        }
        let after = after.map(|after| entry_key(&after));
        let start = match &after {
            Some(after) if *after >= start => Excluded(&after[..]),
            _ => Included(&start[..]),
        };
        let view = self.store.snapshot()?;
        let mut found = Vec::new();
        for pair in view.range(Table::Chunks, start, Excluded(&end)) {
            if found.len() >= limit {
                break;
            }
            let (key, value) = pair?;
            let entry = Entry::decode(&value)?;
            if wanted(&entry) {
                found.push((hash_of_key(&key)?, entry));
            }
        }
        Ok(found)
    }

    pub(super) fn damaged(
        &self,
        after: Option<ChunkHash>,
        limit: usize,
    ) -> Result<Vec<ChunkHash>, ChunkError> {
        let start = after.map_or(vec![DAMAGED_PREFIX], |after| damaged_key(&after));
        let start: Bound<&[u8]> = if after.is_some() { Excluded(&start) } else { Included(&start) };
        let view = self.store.snapshot()?;
        let mut found = Vec::new();
        for pair in view.range(Table::Chunks, start, Excluded(&[DAMAGED_PREFIX + 1])).take(limit) {
            found.push(hash_of_key(&pair?.0)?);
        }
        Ok(found)
    }

    /// Forgets everything, for a rebuild from the packs.
    pub(super) fn clear(&self) -> Result<(), ChunkError> {
        Ok(self.store.clear(Table::Chunks)?)
    }

    pub(super) fn flush(&self) -> Result<(), ChunkError> {
        Ok(self.store.flush()?)
    }
}

/// Changes that are not in the store yet; reads see them over it.
pub(super) struct Changes {
    index: Index,
    entries: BTreeMap<ChunkHash, Option<Entry>>,
    /// All packs, as they will be.
    counts: OrdMap<PackId, PackCount>,
    changed_counts: BTreeSet<PackId>,
    /// Chunks that became damaged, or whole again.
    changed_damage: BTreeMap<ChunkHash, bool>,
}

impl Changes {
    pub(super) fn new(index: Index, counts: OrdMap<PackId, PackCount>) -> Self {
        Self {
            index,
            entries: BTreeMap::new(),
            counts,
            changed_counts: BTreeSet::new(),
            changed_damage: BTreeMap::new(),
        }
    }

    pub(super) fn counts(&self) -> &OrdMap<PackId, PackCount> {
        &self.counts
    }

    /// True if a commit would change nothing but the position.
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.changed_counts.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn entry(&self, hash: &ChunkHash) -> Result<Option<Entry>, ChunkError> {
        match self.entries.get(hash) {
            Some(entry) => Ok(entry.clone()),
            None => self.index.entry(hash),
        }
    }

    /// Sets or forgets one chunk's entry, and counts it.
    pub(super) fn set(&mut self, hash: ChunkHash, new: Option<Entry>) -> Result<(), ChunkError> {
        let old = self.entry(&hash)?;
        let places = |entry: &Option<Entry>| entry.as_ref().map(|entry| (entry.place, entry.len));
        if places(&old) != places(&new) {
            if let Some((place, len)) = places(&old) {
                self.count(place.pack, |count| {
                    count.live_bytes = count.live_bytes.saturating_sub(extent(len));
                    count.live_chunks = count.live_chunks.saturating_sub(1);
                });
            }
            if let Some((place, len)) = places(&new) {
                self.count(place.pack, |count| {
                    count.live_bytes += extent(len);
                    count.live_chunks += 1;
                });
            }
        }
        let damaged = |entry: &Option<Entry>| entry.as_ref().is_some_and(|entry| entry.damaged);
        if damaged(&old) != damaged(&new) {
            self.changed_damage.insert(hash, damaged(&new));
        }
        self.entries.insert(hash, new);
        Ok(())
    }

    /// A damaged chunk may name a pack that is gone; there is nothing to count there.
    fn count(&mut self, pack: PackId, change: impl FnOnce(&mut PackCount)) {
        if let Some(count) = self.counts.get_mut(&pack) {
            change(count);
            self.changed_counts.insert(pack);
        }
    }

    /// The index has read `pack` up to `bytes`; begins it if it is new.
    pub(super) fn extend_pack(&mut self, pack: PackId, bytes: u64) {
        self.counts.entry(pack).or_default().bytes = bytes;
        self.changed_counts.insert(pack);
    }

    pub(super) fn forget_pack(&mut self, pack: PackId) {
        self.counts.remove(&pack);
        self.changed_counts.insert(pack);
    }

    /// Takes over what a record says.
    pub(super) fn apply(&mut self, record: &Record) -> Result<(), ChunkError> {
        let Record { kind, hash, len, stamp, place, .. } = *record;
        let new = Entry { place, len, stamp, damaged: false };
        match kind {
            RecordKind::Chunk => self.set(hash, Some(new)),
            RecordKind::Removed => self.set(hash, None),
            RecordKind::Placed => match self.entry(&hash)? {
                Some(old) if old.place == place => self.set(hash, Some(Entry { stamp, ..old })),
                // In a rebuild: compaction has moved it since, and said so further on,
                // or an older pack's record of it could not be read.
                _ if !self.counts.contains_key(&place.pack) => Ok(()),
                _ => self.set(hash, Some(new)),
            },
        }
    }

    /// Writes everything, and the position that it takes the index to, in one batch.
    /// Returns the packs whose counts changed; `None` for one that is gone.
    pub(super) fn commit(
        &mut self,
        position: Option<&Position>,
    ) -> Result<Vec<(PackId, Option<PackCount>)>, ChunkError> {
        let mut batch = WriteBatch::default();
        for (hash, entry) in std::mem::take(&mut self.entries) {
            match &entry {
                Some(entry) => batch.put(Table::Chunks, entry_key(&hash), entry.encode()),
                None => batch.delete(Table::Chunks, entry_key(&hash)),
            }
        }
        for (hash, damaged) in std::mem::take(&mut self.changed_damage) {
            match damaged {
                true => batch.put(Table::Chunks, damaged_key(&hash), Vec::new()),
                false => batch.delete(Table::Chunks, damaged_key(&hash)),
            }
        }
        let mut changed = Vec::new();
        for pack in std::mem::take(&mut self.changed_counts) {
            let count = self.counts.get(&pack).copied();
            match &count {
                Some(count) => batch.put(Table::Chunks, count_key(pack), count.encode()),
                None => batch.delete(Table::Chunks, count_key(pack)),
            }
            changed.push((pack, count));
        }
        if let Some(position) = position {
            if is_broken(Broken::TornIndex) {
                let first = WriteBatch::of(Table::Chunks, POSITION_KEY.to_vec(), position.encode());
                self.index.store.write(first)?;
            }
            batch.put(Table::Chunks, POSITION_KEY.to_vec(), position.encode());
        }
        if !batch.is_empty() {
            self.index.store.write(batch)?;
        }
        Ok(changed)
    }
}
