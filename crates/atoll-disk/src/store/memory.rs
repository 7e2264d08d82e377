//! The ordered store's twin: sorted maps in memory that forget like a disk does.
//!
//! A clone is another handle on the same store, so a test keeps one, lets the node use
//! the other, and [`MemoryStore::crash`]es it in between.
//!
//! What a power failure tears is as if it had not been written: `fjall` cuts it off, or
//! [`crate::FjallStore`] does. What is damaged after it was flushed is noticed: an entry in
//! a table when it is read ([`MemoryStore::damage_entry`]), a batch in the journal when the
//! store is opened again ([`MemoryStore::damage_journal`]).

use std::{
    collections::VecDeque,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use imbl::OrdMap;
use rand::{Rng, seq::IndexedRandom};

use super::{OrderedStore, Pairs, Snapshot, StoreError, Table, WriteBatch, check, holds_nothing};

/// Past this many unflushed batches the oldest count as flushed, as when `fjall` writes
/// out a memtable on its own. 4,096: more than a test writes between two flushes, and a
/// bound on memory for one that never flushes.
const UNFLUSHED_BATCHES_MAX: usize = 4096;

const TABLES: [Table; 3] = [Table::Records, Table::Chunks, Table::Local];

/// See the module's header.
#[derive(Debug, Default, Clone)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    current: Tables,
    journal: Journal,
    /// The states that a crash may go back to, oldest first: the one at the last flush,
    /// and each one since except the current. Empty if nothing was written since.
    earlier: VecDeque<Tables>,
}

/// What a start reads of what was written last.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Journal {
    #[default]
    Whole,
    /// Nobody reads it while the store is open.
    Damaged,
    /// The store can't be opened.
    Refused,
}

/// What is kept under a key.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Held {
    Whole(Bytes),
    /// As where a checksum does not fit: every read says so, until the key is written again.
    Damaged,
}

impl Held {
    fn read(&self) -> Result<Bytes, StoreError> {
        match self {
            Held::Whole(value) => Ok(value.clone()),
            Held::Damaged => Err(StoreError { operation: "read", source: "a damaged entry".into() }),
        }
    }
}

#[derive(Debug, Default, Clone)]
struct Tables {
    records: OrdMap<Bytes, Held>,
    chunks: OrdMap<Bytes, Held>,
    local: OrdMap<Bytes, Held>,
}

impl Tables {
    fn of(&self, table: Table) -> &OrdMap<Bytes, Held> {
        match table {
            Table::Records => &self.records,
            Table::Chunks => &self.chunks,
            Table::Local => &self.local,
        }
    }

    fn of_mut(&mut self, table: Table) -> &mut OrdMap<Bytes, Held> {
        match table {
            Table::Records => &mut self.records,
            Table::Chunks => &mut self.chunks,
            Table::Local => &mut self.local,
        }
    }
}

impl MemoryStore {
    pub fn new() -> Self {
        Self::default()
    }

    /// The power fails: the store is now as it was after some batch between the last
    /// flush and the last write, drawn from `rng`. Returns how many batches it forgot.
    pub fn crash(&self, rng: &mut impl Rng) -> usize {
        let mut state = self.lock();
        let kept = rng.random_range(0..=state.earlier.len());
        let forgotten = state.earlier.len() - kept;
        if forgotten > 0 {
            state.current = state.earlier[kept].clone();
        }
        state.earlier.clear();
        state.open_again();
        forgotten
    }

    /// The process ends, and its successor opens the store: nothing is lost.
    pub fn kill(&self) {
        self.lock().open_again();
    }

    /// Damages what is kept under one key, drawn from `rng`. False if there is none.
    pub fn damage_entry(&self, rng: &mut impl Rng) -> bool {
        let mut state = self.lock();
        let filled: Vec<Table> =
            TABLES.into_iter().filter(|table| !state.current.of(*table).is_empty()).collect();
        let Some(table) = filled.choose(rng) else { return false };
        let map = state.current.of_mut(*table);
        let key = map.keys().nth(rng.random_range(0..map.len())).expect("below the length").clone();
        map.insert(key, Held::Damaged);
        true
    }

    /// Damages all that a table holds.
    pub fn damage_table(&self, table: Table) {
        let mut state = self.lock();
        let map = state.current.of_mut(table);
        *map = map.keys().map(|key| (key.clone(), Held::Damaged)).collect();
    }

    /// Damages a batch that was flushed and that only a start reads: from the next on the
    /// store can't be opened.
    pub fn damage_journal(&self) {
        self.lock().journal = Journal::Damaged;
    }

    /// A store of its own with what this one has now, all of it flushed: a disk image, to
    /// be damaged or brought back later.
    pub fn image(&self) -> MemoryStore {
        let state = self.lock();
        let (current, journal) = (state.current.clone(), state.journal);
        let state = State { current, journal, earlier: VecDeque::new() };
        MemoryStore { state: Arc::new(Mutex::new(state)) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// That a crash may go back to the present.
    fn remember(&mut self) {
        self.earlier.push_back(self.current.clone());
        if self.earlier.len() > UNFLUSHED_BATCHES_MAX {
            self.earlier.pop_front();
        }
    }

    fn open_again(&mut self) {
        if self.journal == Journal::Damaged {
            self.journal = Journal::Refused;
        }
    }

    fn opened(&mut self) -> Result<&mut Self, StoreError> {
        match self.journal {
            Journal::Refused => Err(StoreError { operation: "open", source: "a damaged journal".into() }),
            Journal::Whole | Journal::Damaged => Ok(self),
        }
    }
}

impl OrderedStore for MemoryStore {
    fn snapshot(&self) -> Result<Box<dyn Snapshot>, StoreError> {
        Ok(Box::new(self.lock().opened()?.current.clone()))
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.lock().opened()?.current.of(table).get(key).map(Held::read).transpose()
    }

    fn write(&self, batch: WriteBatch) -> Result<(), StoreError> {
        check(&batch)?;
        if batch.is_empty() {
            return Ok(());
        }
        let mut state = self.lock();
        let state = state.opened()?;
        state.remember();
        for (table, key, value) in batch.operations {
            let map = state.current.of_mut(table);
            match value {
                Some(value) => map.insert(key, Held::Whole(value)),
                None => map.remove(&key),
            };
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.lock().opened()?.earlier.clear();
        Ok(())
    }

    fn clear(&self, table: Table) -> Result<(), StoreError> {
        let mut state = self.lock();
        let state = state.opened()?;
        state.remember();
        state.current.of_mut(table).clear();
        Ok(())
    }
}

impl Snapshot for Tables {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        self.of(table).get(key).map(Held::read).transpose()
    }

    fn range(&self, table: Table, start: Bound<&[u8]>, end: Bound<&[u8]>) -> Pairs<'_> {
        if holds_nothing(start, end) {
            return Box::new(std::iter::empty());
        }
        Box::new(self.of(table).range::<_, [u8]>((start, end)).map(pair))
    }

    fn range_backwards(&self, table: Table, start: Bound<&[u8]>, end: Bound<&[u8]>) -> Pairs<'_> {
        if holds_nothing(start, end) {
            return Box::new(std::iter::empty());
        }
        Box::new(self.of(table).range::<_, [u8]>((start, end)).rev().map(pair))
    }
}

fn pair((key, value): (&Bytes, &Held)) -> Result<(Bytes, Bytes), StoreError> {
    Ok((key.clone(), value.read()?))
}
