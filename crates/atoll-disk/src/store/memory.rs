//! The ordered store's twin: sorted maps in memory that forget like a disk does.
//!
//! A clone is another handle on the same store, so a test keeps one, lets the node use
//! the other, and [`MemoryStore::crash`]es it in between.

use std::{
    collections::VecDeque,
    ops::Bound,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use imbl::OrdMap;
use rand::Rng;

use super::{OrderedStore, Pairs, Snapshot, StoreError, Table, WriteBatch, check, holds_nothing};

/// Past this many unflushed batches the oldest count as flushed, as when `fjall` writes
/// out a memtable on its own. 4,096: more than a test writes between two flushes, and a
/// bound on memory for one that never flushes.
const UNFLUSHED_BATCHES_MAX: usize = 4096;

/// See the module's header.
#[derive(Debug, Default, Clone)]
pub struct MemoryStore {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    current: Tables,
    /// The states that a crash may go back to, oldest first: the one at the last flush,
    /// and each one since except the current. Empty if nothing was written since.
    earlier: VecDeque<Tables>,
}

#[derive(Debug, Default, Clone)]
struct Tables {
    records: OrdMap<Bytes, Bytes>,
    chunks: OrdMap<Bytes, Bytes>,
    local: OrdMap<Bytes, Bytes>,
}

impl Tables {
    fn of(&self, table: Table) -> &OrdMap<Bytes, Bytes> {
        match table {
            Table::Records => &self.records,
            Table::Chunks => &self.chunks,
            Table::Local => &self.local,
        }
    }

    fn of_mut(&mut self, table: Table) -> &mut OrdMap<Bytes, Bytes> {
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
        forgotten
    }

    /// A store of its own with what this one has now, all of it flushed: a disk image, to
    /// be damaged or brought back later.
    pub fn image(&self) -> MemoryStore {
        let state = State { current: self.lock().current.clone(), earlier: VecDeque::new() };
        MemoryStore { state: Arc::new(Mutex::new(state)) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics between two changes that belong together.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OrderedStore for MemoryStore {
    fn snapshot(&self) -> Result<Box<dyn Snapshot>, StoreError> {
        Ok(Box::new(self.lock().current.clone()))
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.lock().current.of(table).get(key).cloned())
    }

    fn write(&self, batch: WriteBatch) -> Result<(), StoreError> {
        check(&batch)?;
        if batch.is_empty() {
            return Ok(());
        }
        let mut state = self.lock();
        let before = state.current.clone();
        state.earlier.push_back(before);
        if state.earlier.len() > UNFLUSHED_BATCHES_MAX {
            state.earlier.pop_front();
        }
        for (table, key, value) in batch.operations {
            let map = state.current.of_mut(table);
            match value {
                Some(value) => map.insert(key, value),
                None => map.remove(&key),
            };
        }
        Ok(())
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.lock().earlier.clear();
        Ok(())
    }
}

impl Snapshot for Tables {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
        Ok(self.of(table).get(key).cloned())
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

fn pair((key, value): (&Bytes, &Bytes)) -> Result<(Bytes, Bytes), StoreError> {
    Ok((key.clone(), value.clone()))
}
