//! What commands and queries see of a replica's state: the store's snapshot, under what
//! this round of applied entries has written so far.

use std::{
    collections::{BTreeMap, btree_map},
    iter::Peekable,
    ops::Bound,
    sync::Arc,
};

use atoll_disk::{Snapshot, StoreError, Table, WriteBatch};
use atoll_types::{ReplicaId, Revision, TransactionId, WallTime};
use bytes::Bytes;

use crate::{
    procedure::{KEY_BYTES_MAX, Pairs, ReadView, VALUE_BYTES_MAX, WriteView},
    state::{Area, Bounds, PREFIX_BYTES, Place, as_slices, replica_of},
};

/// The owner's bounds as bounds of the store; `None` if nothing lies between them.
fn bounds(place: Place, start: Bound<&[u8]>, end: Bound<&[u8]>) -> Option<Bounds> {
    let empty = match (start, end) {
        (Bound::Included(start), Bound::Included(end)) => start > end,
        (Bound::Included(start) | Bound::Excluded(start), Bound::Included(end) | Bound::Excluded(end)) => {
            start >= end
        }
        _ => false,
    };
    if empty {
        return None;
    }
    let area = place.area(Area::Records);
    let full = |key: &[u8]| place.key(Area::Records, key).to_vec();
    let start = match start {
        Bound::Unbounded => area.0,
        bound => bound.map(full),
    };
    let end = match end {
        Bound::Unbounded => area.1,
        bound => bound.map(full),
    };
    Some((start, end))
}

fn without_prefix(pairs: Pairs<'_>) -> Pairs<'_> {
    Box::new(pairs.map(|pair| pair.map(|(key, value)| (key.slice(PREFIX_BYTES..), value))))
}

/// One shard's records in a snapshot.
pub(crate) struct StateView<'a> {
    pub snapshot: &'a dyn Snapshot,
    pub place: Place,
    pub revision: Revision,
}

impl ReadView for StateView<'_> {
    fn revision(&self) -> Revision {
        self.revision
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.snapshot.get(Table::Records, &self.place.key(Area::Records, key))
    }

    fn range(&self, start: Bound<&[u8]>, end: Bound<&[u8]>) -> Pairs<'_> {
        range_of(self.place, start, end, |start, end| self.snapshot.range(Table::Records, start, end))
    }

    fn range_backwards(&self, start: Bound<&[u8]>, end: Bound<&[u8]>) -> Pairs<'_> {
        range_of(self.place, start, end, |start, end| {
            self.snapshot.range_backwards(Table::Records, start, end)
        })
    }
}

fn range_of<'a>(
    place: Place,
    start: Bound<&[u8]>,
    end: Bound<&[u8]>,
    read: impl FnOnce(Bound<&[u8]>, Bound<&[u8]>) -> Pairs<'a>,
) -> Pairs<'a> {
    match bounds(place, start, end) {
        None => Box::new(std::iter::empty()),
        Some(range) => {
            let (start, end) = as_slices(&range);
            without_prefix(read(start, end))
        }
    }
}

/// A shard's records at one revision, for as long as it is kept: many reads of one state. It
/// pins that state in the store, and every read may block.
pub struct ShardView {
    pub(crate) snapshot: Arc<dyn Snapshot>,
    pub(crate) place: Place,
    pub(crate) revision: Revision,
}

impl ReadView for ShardView {
    fn revision(&self) -> Revision {
        self.revision
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.snapshot.get(Table::Records, &self.place.key(Area::Records, key))
    }

    fn range(&self, start: Bound<&[u8]>, end: Bound<&[u8]>) -> Pairs<'_> {
        range_of(self.place, start, end, |start, end| self.snapshot.range(Table::Records, start, end))
    }

    fn range_backwards(&self, start: Bound<&[u8]>, end: Bound<&[u8]>) -> Pairs<'_> {
        range_of(self.place, start, end, |start, end| {
            self.snapshot.range_backwards(Table::Records, start, end)
        })
    }
}

/// The writes of one round of applied entries over the snapshot that it began with. Keys
/// are the store's, of all replicas in the round.
pub(crate) struct Pending<'a> {
    pub snapshot: &'a dyn Snapshot,
    writes: BTreeMap<Bytes, Option<Bytes>>,
}

impl<'a> Pending<'a> {
    pub fn new(snapshot: &'a dyn Snapshot) -> Self {
        Self { snapshot, writes: BTreeMap::new() }
    }

    pub fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        match self.writes.get(key) {
            Some(written) => Ok(written.clone()),
            None => self.snapshot.get(Table::Records, key),
        }
    }

    pub fn put(&mut self, key: Bytes, value: Bytes) {
        self.writes.insert(key, Some(value));
    }

    pub fn delete(&mut self, key: Bytes) {
        self.writes.insert(key, None);
    }

    /// Takes back all that this round wrote of a replica.
    pub fn take_back(&mut self, replica: ReplicaId) {
        self.writes.retain(|key, _| replica_of(key) != Some(replica));
    }

    /// What this round wrote to `key`, if it did.
    pub fn written(&self, key: &[u8]) -> Option<&Option<Bytes>> {
        self.writes.get(key)
    }

    pub fn range(&self, range: &Bounds) -> Pairs<'_> {
        let (start, end) = as_slices(range);
        Box::new(Merged {
            stored: self.snapshot.range(Table::Records, start, end).peekable(),
            written: self.writes.range::<[u8], _>((start, end)).peekable(),
            goes_first: |stored, written| stored < written,
        })
    }

    pub fn range_backwards(&self, range: &Bounds) -> Pairs<'_> {
        let (start, end) = as_slices(range);
        Box::new(Merged {
            stored: self.snapshot.range_backwards(Table::Records, start, end).peekable(),
            written: self.writes.range::<[u8], _>((start, end)).rev().peekable(),
            goes_first: |stored, written| stored > written,
        })
    }

    pub fn into_batch(self) -> WriteBatch {
        let mut batch = WriteBatch::default();
        for (key, value) in self.writes {
            match value {
                Some(value) => batch.put(Table::Records, key, value),
                None => batch.delete(Table::Records, key),
            }
        }
        batch
    }
}

/// Stored pairs and written ones in one order; a written one hides the stored.
struct Merged<'a, W: Iterator<Item = (&'a Bytes, &'a Option<Bytes>)>> {
    stored: Peekable<Pairs<'a>>,
    written: Peekable<W>,
    goes_first: fn(&[u8], &[u8]) -> bool,
}

impl<'a, W: Iterator<Item = (&'a Bytes, &'a Option<Bytes>)>> Iterator for Merged<'a, W> {
    type Item = Result<(Bytes, Bytes), StoreError>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let stored_next = match (self.stored.peek(), self.written.peek()) {
                (Some(Err(_)), _) => true,
                (Some(Ok((stored, _))), Some((written, _))) => {
                    if stored == *written {
                        self.stored.next();
                        continue;
                    }
                    (self.goes_first)(stored, written)
                }
                (Some(Ok(_)), None) => true,
                (None, _) => false,
            };
            if stored_next {
                return self.stored.next();
            }
            if let (key, Some(value)) = self.written.next()? {
                return Some(Ok((key.clone(), value.clone())));
            }
        }
    }
}

/// A command's view. Its writes go into the round at once, and are taken back if it
/// aborts.
pub(crate) struct CommandView<'a, 'b> {
    pub pending: &'a mut Pending<'b>,
    pub place: Place,
    pub revision: Revision,
    pub stamp: WallTime,
    pub id: TransactionId,
    /// What the round held for each key before this command touched it.
    undo: BTreeMap<Bytes, Option<Option<Bytes>>>,
    /// It wrote what can't be kept.
    oversized: bool,
}

impl<'a, 'b> CommandView<'a, 'b> {
    pub fn new(
        pending: &'a mut Pending<'b>,
        place: Place,
        revision: Revision,
        stamp: WallTime,
        id: TransactionId,
    ) -> Self {
        Self { pending, place, revision, stamp, id, undo: BTreeMap::new(), oversized: false }
    }

    /// Then none of its writes may stay: the store would refuse them, and with them the
    /// whole round.
    pub fn is_oversized(&self) -> bool {
        self.oversized
    }

    fn write(&mut self, key: &[u8], value: Option<Bytes>) {
        if key.len() > KEY_BYTES_MAX || value.as_ref().is_some_and(|value| value.len() > VALUE_BYTES_MAX) {
            self.oversized = true;
            return;
        }
        let key = self.place.key(Area::Records, key);
        let before = self.pending.writes.insert(key.clone(), value);
        if let btree_map::Entry::Vacant(vacant) = self.undo.entry(key) {
            vacant.insert(before);
        }
    }

    /// Keeps the writes; names the keys written, in order, as the store has them.
    pub fn keep(self) -> Vec<Bytes> {
        self.undo.into_keys().collect()
    }

    /// Takes all writes back.
    pub fn undo(self) {
        for (key, before) in self.undo {
            match before {
                Some(before) => self.pending.writes.insert(key, before),
                None => self.pending.writes.remove(&key),
            };
        }
    }
}

impl ReadView for CommandView<'_, '_> {
    fn revision(&self) -> Revision {
        self.revision
    }

    fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.pending.get(&self.place.key(Area::Records, key))
    }

    fn range(&self, start: Bound<&[u8]>, end: Bound<&[u8]>) -> Pairs<'_> {
        match bounds(self.place, start, end) {
            None => Box::new(std::iter::empty()),
            Some(range) => without_prefix(self.pending.range(&range)),
        }
    }

    fn range_backwards(&self, start: Bound<&[u8]>, end: Bound<&[u8]>) -> Pairs<'_> {
        match bounds(self.place, start, end) {
            None => Box::new(std::iter::empty()),
            Some(range) => without_prefix(self.pending.range_backwards(&range)),
        }
    }
}

impl WriteView for CommandView<'_, '_> {
    fn stamp(&self) -> WallTime {
        self.stamp
    }

    fn transaction_id(&self) -> TransactionId {
        self.id
    }

    fn put(&mut self, key: &[u8], value: Bytes) {
        self.write(key, Some(value));
    }

    fn delete(&mut self, key: &[u8]) {
        self.write(key, None);
    }
}
