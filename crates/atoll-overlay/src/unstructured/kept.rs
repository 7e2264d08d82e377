//! What a node has to answer with: what it published itself, and what it saw go by. Knows no
//! messages and no nodes.

use std::collections::{BTreeMap, VecDeque};

use atoll_types::WallTime;

use super::message::{HIT_ENTRIES_MAX, Wanted};
use crate::{Entry, Id, Kept, entry::Slot};

/// Entries of others that a node remembers: a hit is kept on its way back, so that popular things
/// are soon near everybody. The oldest goes first.
pub(super) const CACHE_MAX: usize = 512;
/// Values, and as many things provided, that a node publishes itself.
pub(super) const PUBLISHED_MAX: usize = 1024;

#[derive(Debug, Clone, Default)]
pub(super) struct Shelves {
    /// This node's own values by their keys.
    pub(super) values: BTreeMap<Id, Entry>,
    /// What it provides, by content.
    pub(super) provided: BTreeMap<Id, Provided>,
    cache: BTreeMap<(Id, Slot), Entry>,
    /// In the order in which they came.
    cached: VecDeque<(Id, Slot)>,
}

#[derive(Debug, Clone)]
pub(super) struct Provided {
    pub(super) name: String,
    /// The provider entry, and a posting if the name has a keyword.
    pub(super) claims: Vec<Entry>,
}

impl Shelves {
    /// At most `HIT_ENTRIES_MAX`, this node's own first, then the neighbours'.
    pub(super) fn find<'a>(
        &'a self,
        indexed: impl Iterator<Item = &'a Entry>,
        wanted: &Wanted,
        wall: WallTime,
    ) -> Vec<Entry> {
        let all = self.values.values().chain(self.claims()).chain(indexed).chain(self.cache.values());
        let found = all.filter(|entry| entry.expires > wall && wanted.fits(entry));
        found.take(HIT_ENTRIES_MAX).cloned().collect()
    }

    /// Remembers an entry that was checked.
    pub(super) fn cache(&mut self, entry: Entry) {
        let place = (entry.key, entry.slot());
        match self.cache.get(&place) {
            Some(known) if known.sequence >= entry.sequence => return,
            Some(_) => {}
            None => self.cached.push_back(place),
        }
        self.cache.insert(place, entry);
        if self.cached.len() > CACHE_MAX
            && let Some(oldest) = self.cached.pop_front()
        {
            self.cache.remove(&oldest);
        }
    }

    pub(super) fn forget_expired(&mut self, wall: WallTime) {
        self.values.retain(|_, entry| entry.expires > wall);
        self.cache.retain(|_, entry| entry.expires > wall);
        self.cached.retain(|place| self.cache.contains_key(place));
    }

    pub(super) fn take_cache(&mut self) -> Vec<Entry> {
        self.cached.clear();
        std::mem::take(&mut self.cache).into_values().collect()
    }

    /// That this node has what it provides.
    pub(super) fn claims(&self) -> impl Iterator<Item = &Entry> {
        self.provided.values().flat_map(|provided| &provided.claims)
    }

    fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.values.values().chain(self.claims()).chain(self.cache.values())
    }

    pub(super) fn kept(&self) -> Kept {
        Kept { entries: self.entries().count(), bytes: self.entries().map(Entry::bytes).sum() }
    }
}
