//! What Raft sees of one replica's log: the newest entries in memory, the terms of all.
//!
//! It never touches a disk. The driver puts entries here when it hands them to the shared
//! log, so Raft may read them before they are durable, as its asynchronous mode requires.
//! Entries that were applied long ago leave memory; a follower that still needs them gets
//! them by way of [`GroupLog::take_fetches`], and one that needs what was trimmed gets a
//! snapshot.

use std::{cell::RefCell, collections::VecDeque};

use raft::{
    Error, GetEntriesContext, RaftState, Storage, StorageError,
    eraftpb::{ConfState, Entry, HardState, Snapshot},
};

/// A wish for entries that are on disk only.
pub(crate) struct Fetch {
    pub low: u64,
    pub high: u64,
    pub context: GetEntriesContext,
}

/// 1 MiB: one append's worth. A follower that reads faster asks again.
pub(crate) const FETCH_BYTES_MAX: usize = 1 << 20;

pub(crate) struct GroupLog {
    pub hard_state: HardState,
    /// The configuration Raft starts from.
    pub conf_state: ConfState,
    /// What a snapshot made now would carry: the applied index, its term, the members there.
    pub applied: (u64, u64, ConfState),
    /// Index and term of the entry before the first that the log still has.
    base: (u64, u64),
    last: u64,
    /// The first index of each run of equal terms, ascending; empty if there is no entry.
    terms: Vec<(u64, u64)>,
    /// A suffix of the log: the last is `last`.
    recent: VecDeque<Entry>,
    recent_bytes: usize,
    fetches: RefCell<Vec<Fetch>>,
    /// What the last fetch brought.
    fetched: Vec<Entry>,
}

pub(crate) fn entry_bytes(entry: &Entry) -> usize {
    entry.data.len() + entry.context.len() + 24
}

impl GroupLog {
    pub fn new(
        hard_state: HardState,
        conf_state: ConfState,
        base: (u64, u64),
        last: u64,
        terms: Vec<(u64, u64)>,
        recent: VecDeque<Entry>,
        applied: (u64, u64),
    ) -> Self {
        debug_assert!(recent.back().is_none_or(|entry| entry.index == last));
        let recent_bytes = recent.iter().map(entry_bytes).sum();
        Self {
            hard_state,
            applied: (applied.0, applied.1, conf_state.clone()),
            conf_state,
            base,
            last,
            terms,
            recent,
            recent_bytes,
            fetches: RefCell::default(),
            fetched: Vec::new(),
        }
    }

    pub fn base(&self) -> (u64, u64) {
        self.base
    }

    #[cfg(test)]
    fn last(&self) -> u64 {
        self.last
    }

    /// The first index in memory; `last + 1` if there is none.
    fn recent_first(&self) -> u64 {
        self.last + 1 - self.recent.len() as u64
    }

    /// Adds entries; those from the first's index on are replaced.
    pub fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else { return };
        assert!(first.index > self.base.0 && first.index <= self.last + 1, "the log has no holes");
        while self.recent.back().is_some_and(|entry| entry.index >= first.index) {
            let dropped = self.recent.pop_back().expect("just seen");
            self.recent_bytes -= entry_bytes(&dropped);
        }
        while self.terms.last().is_some_and(|run| run.0 >= first.index) {
            self.terms.pop();
        }
        self.fetched.retain(|entry| entry.index < first.index);
        for entry in entries {
            if self.terms.last().is_none_or(|run| run.1 != entry.term) {
                self.terms.push((entry.index, entry.term));
            }
            self.recent_bytes += entry_bytes(entry);
            self.recent.push_back(entry.clone());
        }
        self.last = entries.last().expect("not empty").index;
    }

    /// Forgets the whole log: a snapshot took its place.
    pub fn reset(&mut self, index: u64, term: u64) {
        self.base = (index, term);
        self.last = index;
        self.terms.clear();
        self.recent.clear();
        self.recent_bytes = 0;
        self.fetched.clear();
    }

    /// The log lost its entries up to `index`, which is in it.
    pub fn trimmed(&mut self, index: u64) {
        if index <= self.base.0 {
            return;
        }
        let term = self.term_of(index).expect("the log is trimmed at an entry it has");
        self.base = (index, term);
        while self.recent.front().is_some_and(|entry| entry.index <= index) {
            let dropped = self.recent.pop_front().expect("just seen");
            self.recent_bytes -= entry_bytes(&dropped);
        }
        let keep = self.terms.iter().rposition(|run| run.0 <= index + 1).unwrap_or(0);
        self.terms.drain(..keep);
        match self.terms.first_mut() {
            Some(run) if index < self.last => run.0 = run.0.max(index + 1),
            _ => self.terms.clear(),
        }
    }

    /// Drops applied entries from memory until at most `bytes` are left.
    pub fn shrink(&mut self, bytes: usize) {
        while self.recent_bytes > bytes
            && self.recent.front().is_some_and(|entry| entry.index <= self.applied.0)
        {
            let dropped = self.recent.pop_front().expect("just seen");
            self.recent_bytes -= entry_bytes(&dropped);
        }
        if self.recent.is_empty() {
            self.recent.shrink_to_fit();
        }
        self.fetched = Vec::new();
    }

    pub fn term_of(&self, index: u64) -> Option<u64> {
        if index == self.base.0 {
            return Some(self.base.1);
        }
        if index < self.base.0 || index > self.last {
            return None;
        }
        let run = self.terms.partition_point(|run| run.0 <= index);
        Some(self.terms[run - 1].1)
    }

    /// The last index that is on disk only: what is newer is kept for slow followers.
    pub fn left_memory(&self) -> u64 {
        self.recent_first() - 1
    }

    pub fn take_fetches(&mut self) -> Vec<Fetch> {
        std::mem::take(self.fetches.get_mut())
    }

    pub fn put_fetched(&mut self, entries: Vec<Entry>) {
        self.fetched = entries;
    }

    fn limited<'a>(entries: impl Iterator<Item = &'a Entry>, max_bytes: Option<u64>) -> Vec<Entry> {
        let mut total = 0;
        let mut taken = Vec::new();
        for entry in entries {
            total += entry_bytes(entry) as u64;
            if !taken.is_empty() && max_bytes.is_some_and(|max| total > max) {
                break;
            }
            taken.push(entry.clone());
        }
        taken
    }
}

impl Storage for GroupLog {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.hard_state.clone(), self.conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let max_size = max_size.into();
        if low <= self.base.0 {
            return Err(Error::Store(StorageError::Compacted));
        }
        let first = self.recent_first();
        if low >= first {
            let (from, to) = ((low - first) as usize, (high - first) as usize);
            return Ok(Self::limited(self.recent.range(from..to), max_size));
        }
        if let Some(start) = self.fetched.iter().position(|entry| entry.index == low) {
            let wanted = self.fetched[start..].iter().take_while(|entry| entry.index < high);
            return Ok(Self::limited(wanted, max_size));
        }
        // Only appends to followers reach back this far: what Raft reads for itself is
        // not applied yet, and stays in memory until it is.
        assert!(context.can_async(), "entry {low} is needed at once but left memory");
        self.fetches.borrow_mut().push(Fetch { low, high, context });
        Err(Error::Store(StorageError::LogTemporarilyUnavailable))
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        self.term_of(index).ok_or(Error::Store(if index < self.base.0 {
            StorageError::Compacted
        } else {
            StorageError::Unavailable
        }))
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.base.0 + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last)
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        let (index, term, members) = &self.applied;
        if *index < request_index || *index == 0 {
            return Err(Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        metadata.index = *index;
        metadata.term = *term;
        metadata.set_conf_state(members.clone());
        Ok(snapshot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, data: vec![0; 76].into(), ..Entry::default() }
    }

    fn log() -> GroupLog {
        let mut log = GroupLog::new(
            HardState::default(),
            ConfState::default(),
            (1, 1),
            1,
            Vec::new(),
            VecDeque::new(),
            (1, 1),
        );
        log.append(&[entry(2, 1), entry(3, 1), entry(4, 2), entry(5, 2), entry(6, 4)]);
        log
    }

    fn terms(log: &GroupLog) -> Vec<Option<u64>> {
        (0..=7).map(|index| log.term_of(index)).collect()
    }

    #[test]
    fn the_term_of_every_entry_is_known_and_of_no_other() {
        let none = None;
        assert_eq!(terms(&log()), [none, Some(1), Some(1), Some(1), Some(2), Some(2), Some(4), none]);
    }

    #[test]
    fn appending_in_the_middle_replaces_what_follows() {
        let mut log = log();
        log.append(&[entry(4, 3)]);
        assert_eq!(log.last(), 4);
        assert_eq!(terms(&log)[..6], [None, Some(1), Some(1), Some(1), Some(3), None]);
        assert_eq!(log.recent_bytes, 300);
    }

    #[test]
    fn trimming_keeps_the_last_trimmed_entrys_term() {
        for index in 1..=6 {
            let whole = terms(&log());
            let mut log = log();
            log.trimmed(index);
            let at = index as usize;
            assert_eq!(terms(&log)[at..], whole[at..], "trimmed at {index}");
            assert!(terms(&log)[..at].iter().all(Option::is_none));
            log.append(&[entry(7, 5)]);
            assert_eq!(log.term_of(7), Some(5));
        }
    }

    #[test]
    fn entries_that_left_memory_are_fetched_and_served_again() {
        let mut log = log();
        log.applied.0 = 6;
        log.shrink(200);
        assert_eq!(log.recent_first(), 5);
        let asked = log.entries(3, 7, None, GetEntriesContext::empty(true));
        assert!(matches!(asked, Err(Error::Store(StorageError::LogTemporarilyUnavailable))));
        let fetch = log.take_fetches().pop().unwrap();
        assert_eq!((fetch.low, fetch.high), (3, 7));
        log.put_fetched(vec![entry(3, 1), entry(4, 2)]);
        let entries = log.entries(3, 7, None, GetEntriesContext::empty(true)).unwrap();
        assert_eq!(entries.iter().map(|entry| entry.index).collect::<Vec<_>>(), [3, 4]);
    }
}
