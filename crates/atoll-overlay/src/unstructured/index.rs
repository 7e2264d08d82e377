//! One-hop replication of indexes: what the neighbours provide, so that this node can answer for
//! them. A walker then looks at a node and all its neighbours in one step.
//!
//! Chawathe, Ratnasamy, Breslau, Lanham, Shenker: *Making Gnutella-like P2P systems scalable*
//! (Gia), SIGCOMM 2003, section 3: neighbours exchange their indexes when they become neighbours,
//! and tell each other what changes. Believed by its author's signature, as a hit is. Knows no
//! messages.

use std::collections::BTreeMap;

use atoll_types::WallTime;

use super::kept::PUBLISHED_MAX;
use crate::{
    Body, Contact, Entry, Id,
    entry::{Class, Slot},
};

/// Entries of one message: 21 KiB at most.
pub(super) const INDEX_ENTRIES_MAX: usize = 64;
/// Contents that one message takes back: 32 bytes each.
pub(super) const WITHDRAWN_MAX: usize = 256;
/// Entries of one neighbour: all that a sound one provides, a claim that it has it and a posting
/// for each. With ten neighbours at most 7 MB.
pub(super) const INDEXED_MAX: usize = 2 * PUBLISHED_MAX;

#[derive(Debug, Clone)]
pub(super) struct Index<C> {
    /// None of them empty.
    of: BTreeMap<C, BTreeMap<(Id, Slot), Entry>>,
}

impl<C> Default for Index<C> {
    fn default() -> Self {
        Self { of: BTreeMap::new() }
    }
}

impl<C: Contact> Index<C> {
    /// Takes what a neighbour says to provide. What is not sound, or too much, is left out.
    pub(super) fn add(&mut self, neighbour: &C, entries: Vec<Entry>, wall: WallTime) {
        for entry in entries.into_iter().take(INDEX_ENTRIES_MAX) {
            if entry.class() == Class::Value || entry.check(wall).is_err() {
                continue;
            }
            let indexed = self.of.entry(neighbour.clone()).or_default();
            let place = (entry.key, entry.slot());
            match indexed.get(&place) {
                Some(known) if known.sequence >= entry.sequence => {}
                None if indexed.len() >= INDEXED_MAX => {}
                _ => {
                    indexed.insert(place, entry);
                }
            }
        }
    }

    pub(super) fn withdraw(&mut self, neighbour: &C, contents: &[Id]) {
        let Some(indexed) = self.of.get_mut(neighbour) else { return };
        let contents = &contents[..contents.len().min(WITHDRAWN_MAX)];
        indexed.retain(|_, entry| !contents.contains(&content_of(entry)));
        if indexed.is_empty() {
            self.of.remove(neighbour);
        }
    }

    pub(super) fn forget(&mut self, neighbour: &C) {
        self.of.remove(neighbour);
    }

    pub(super) fn forget_expired(&mut self, wall: WallTime) {
        for indexed in self.of.values_mut() {
            indexed.retain(|_, entry| entry.expires > wall);
        }
        self.of.retain(|_, indexed| !indexed.is_empty());
    }

    /// Entries of one neighbour.
    pub(super) fn count(&self, neighbour: &C) -> u32 {
        let count = self.of.get(neighbour).map_or(0, BTreeMap::len);
        u32::try_from(count).expect("at most INDEXED_MAX")
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.of.values().flat_map(BTreeMap::values)
    }
}

fn content_of(entry: &Entry) -> Id {
    match &entry.body {
        Body::Posting { content, .. } => *content,
        Body::Provider | Body::Value(_) => entry.key,
    }
}
