//! What a node keeps for others: entries by key, with the limits on them. Knows no messages
//! and no nodes but by who brought what.

use std::{cmp::Ordering, collections::BTreeMap};

use atoll_types::{Instant, WallTime};

use super::message::{Named, Refused};
use crate::{
    Contact, Entry, Id, Kept,
    entry::{Class, Slot, per_key_max},
    shares::gives_way,
};

/// Entries that a node keeps. A cluster of 300 nodes with three replicas holds 6.5 million.
pub(super) const ENTRIES_MAX: usize = 65_536;
/// Bytes of them: all entries as small ones, or 7,800 values of the largest size.
pub(super) const BYTES_MAX: usize = 32 << 20;
/// Entries that one peer may have brought. A neighbour that hands over all that it had may bring
/// so many; one that wants to fill the room needs accomplices.
pub(super) const ENTRIES_PER_PEER_MAX: usize = ENTRIES_MAX / 4;

#[derive(Debug, Clone)]
pub(super) struct Cellar<C> {
    keys: BTreeMap<Id, Vec<Held<C>>>,
    /// Entries that each peer brought; none of them 0.
    brought: BTreeMap<C, usize>,
    total: Kept,
}

/// An entry, and what is known of the other copies of it.
#[derive(Debug, Clone)]
pub(super) struct Held<C> {
    pub(super) entry: Entry,
    pub(super) tag: u64,
    /// None: it is this node's own, or came with the former kind.
    by: Option<C>,
    /// Who said that it has the same, since `compared_at`. At most the replicas.
    pub(super) confirmed: Vec<C>,
    /// Who said that it is not its own, since this node's neighbours last changed. As many.
    pub(super) refused_by: Vec<C>,
    pub(super) compared_at: Instant,
    /// When this node last looked up where it belongs, or found that it belongs here; never, if
    /// it has not succeeded, or everything may be elsewhere since.
    pub(super) sought_at: Option<Instant>,
}

impl<C> Default for Cellar<C> {
    fn default() -> Self {
        Self { keys: BTreeMap::new(), brought: BTreeMap::new(), total: Kept::default() }
    }
}

impl<C: Contact> Cellar<C> {
    pub(super) fn kept(&self) -> Kept {
        self.total
    }

    pub(super) fn has(&self, named: &Named) -> bool {
        self.keys.get(&named.key).is_some_and(|held| held.iter().any(|held| held.tag == named.tag))
    }

    /// Keeps an entry that was checked.
    pub(super) fn put(&mut self, entry: Entry, by: Option<C>) -> Result<(), Refused> {
        let slot = entry.slot();
        let held = self.keys.get(&entry.key).map_or(&[][..], Vec::as_slice);
        let former = held.iter().find(|held| held.entry.slot() == slot);
        if let Some(former) = former {
            // Of two with one number the one with the higher tag holds: everywhere the same one.
            match (entry.sequence, entry.tag()).cmp(&(former.entry.sequence, former.tag)) {
                Ordering::Less => return Err(Refused::Outdated),
                Ordering::Equal => return Ok(()),
                Ordering::Greater => {}
            }
        }
        let count = held.iter().filter(|held| held.entry.class() == slot.class).count();
        let gives_way = match former {
            None if count >= per_key_max(slot.class) => {
                let of_class = held.iter().filter(|held| held.entry.class() == slot.class);
                let held = of_class.map(|held| (&held.entry, held.by.as_ref()));
                Some(gives_way(held, &entry, by.as_ref()).ok_or(Refused::Full)?)
            }
            _ => None,
        };
        let (freed, freed_bytes) = former.map_or((0, 0), |former| (1, former.entry.bytes()));
        let brought = by.as_ref().and_then(|by| self.brought.get(by)).copied().unwrap_or(0);
        let is_full = self.total.entries - freed >= ENTRIES_MAX
            || self.total.bytes - freed_bytes + entry.bytes() > BYTES_MAX
            || brought >= ENTRIES_PER_PEER_MAX;
        if is_full {
            return Err(Refused::Full);
        }
        self.remove(entry.key, slot);
        if let Some(other) = gives_way {
            self.remove(entry.key, other);
        }
        if let Some(by) = &by {
            *self.brought.entry(by.clone()).or_insert(0) += 1;
        }
        self.total.entries += 1;
        self.total.bytes += entry.bytes();
        let tag = entry.tag();
        let compared_at = Instant::ORIGIN;
        let (confirmed, refused_by, sought_at) = (Vec::new(), Vec::new(), None);
        let held = Held { tag, by, confirmed, refused_by, compared_at, sought_at, entry };
        self.keys.entry(held.entry.key).or_default().push(held);
        Ok(())
    }

    /// What holds at `wall`, of one class.
    pub(super) fn get(&self, key: Id, class: Class, wall: WallTime) -> Vec<Entry> {
        let held = self.keys.get(&key).into_iter().flatten().map(|held| &held.entry);
        held.filter(|entry| entry.class() == class && entry.expires > wall).cloned().collect()
    }

    /// All of a key, to be compared with other nodes'.
    pub(super) fn held_mut(&mut self, key: Id) -> &mut [Held<C>] {
        self.keys.get_mut(&key).map_or(&mut [], Vec::as_mut_slice)
    }

    pub(super) fn held(&self, key: Id) -> &[Held<C>] {
        self.keys.get(&key).map_or(&[], Vec::as_slice)
    }

    /// The next keys in order, round and round, beginning after `after`.
    pub(super) fn keys_after(&self, after: Option<Id>, count: usize) -> Vec<Id> {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        let Some(after) = after else { return self.keys.keys().take(count).copied().collect() };
        let behind = self.keys.range((Excluded(after), Unbounded));
        let before = self.keys.range((Unbounded, Included(after)));
        behind.chain(before).map(|(key, _)| *key).take(count).collect()
    }

    pub(super) fn remove(&mut self, key: Id, slot: Slot) {
        let Some(held) = self.keys.get_mut(&key) else { return };
        let Some(place) = held.iter().position(|held| held.entry.slot() == slot) else { return };
        let gone = held.swap_remove(place);
        if held.is_empty() {
            self.keys.remove(&key);
        }
        self.total.entries -= 1;
        self.total.bytes -= gone.entry.bytes();
        if let Some(by) = gone.by
            && let Some(brought) = self.brought.get_mut(&by)
        {
            *brought -= 1;
            if *brought == 0 {
                self.brought.remove(&by);
            }
        }
    }

    pub(super) fn forget_expired(&mut self, wall: WallTime) {
        let held = self.keys.values().flatten().map(|held| &held.entry);
        let expired: Vec<(Id, Slot)> =
            held.filter(|entry| entry.expires <= wall).map(|entry| (entry.key, entry.slot())).collect();
        for (key, slot) in expired {
            self.remove(key, slot);
        }
    }

    /// Where each belongs is to be looked up anew.
    pub(super) fn seek_all(&mut self) {
        self.keys.values_mut().flatten().for_each(|held| held.sought_at = None);
    }

    /// Others than before may be responsible, and those that were not may be.
    pub(super) fn forget_refusals(&mut self) {
        self.keys.values_mut().flatten().for_each(|held| held.refused_by = Vec::new());
    }

    pub(super) fn take_all(&mut self) -> Vec<Entry> {
        let cellar = std::mem::take(self);
        cellar.keys.into_values().flatten().map(|held| held.entry).collect()
    }

    pub(super) fn heap_bytes(&self) -> usize {
        // The maps' own nodes are some tens of bytes an entry, which the overhead covers.
        let bookkeeping = size_of::<Held<C>>() * self.total.entries;
        self.total.bytes + bookkeeping + self.brought.len() * size_of::<(C, usize)>()
    }
}
