//! What a client wants kept by every index node: what it has published, and values that it kept
//! for others. Knows no messages and no nodes.

use std::collections::{BTreeMap, BTreeSet};

use atoll_types::WallTime;

use super::index::Place;
use crate::{Entry, Id};

/// Values, and as many things provided, that a node publishes itself.
pub(super) const PUBLISHED_MAX: usize = 1024;
/// Values of others, from an index that this node was, or the kind before this one.
pub(super) const HANDED_MAX: usize = 65_536;

#[derive(Debug, Clone, Default)]
pub(super) struct Own {
    entries: BTreeMap<Place, Entry>,
    /// This node's own values by their keys.
    values: BTreeMap<Id, Place>,
    /// What it provides, by content.
    provided: BTreeMap<Id, Provided>,
    /// Not its own: let go when the index nodes have them.
    handed: BTreeSet<Place>,
}

#[derive(Debug, Clone)]
struct Provided {
    name: String,
    claims: Vec<Place>,
}

impl Own {
    pub(super) fn has_room_for_value(&self, key: Id) -> bool {
        self.values.contains_key(&key) || self.values.len() < PUBLISHED_MAX
    }

    pub(super) fn has_room_to_provide(&self, content: Id) -> bool {
        self.provided.contains_key(&content) || self.provided.len() < PUBLISHED_MAX
    }

    fn add(&mut self, entry: Entry) -> Place {
        let place = (entry.key, entry.tag());
        self.entries.insert(place, entry);
        place
    }

    pub(super) fn set_value(&mut self, entry: Entry) -> Place {
        let key = entry.key;
        let place = self.add(entry);
        // It may have kept it for itself, too; that is no reason to let it go.
        self.handed.remove(&place);
        if let Some(former) = self.values.insert(key, place).filter(|former| *former != place) {
            self.entries.remove(&former);
        }
        place
    }

    pub(super) fn set_provided(&mut self, content: Id, name: String, claims: Vec<Entry>) -> Vec<Place> {
        self.stop_providing(content);
        let places: Vec<Place> = claims.into_iter().map(|entry| self.add(entry)).collect();
        self.provided.insert(content, Provided { name, claims: places.clone() });
        places
    }

    pub(super) fn stop_providing(&mut self, content: Id) -> bool {
        let Some(provided) = self.provided.remove(&content) else { return false };
        for claim in &provided.claims {
            self.entries.remove(claim);
        }
        true
    }

    pub(super) fn hand(&mut self, entry: Entry) {
        if self.handed.len() < HANDED_MAX && !self.entries.contains_key(&(entry.key, entry.tag())) {
            let place = self.add(entry);
            self.handed.insert(place);
        }
    }

    /// All index nodes have it, or refused it.
    pub(super) fn was_handed(&mut self, place: Place) {
        if self.handed.remove(&place) {
            self.entries.remove(&place);
        }
    }

    pub(super) fn take_handed(&mut self) -> Vec<Entry> {
        let handed = std::mem::take(&mut self.handed);
        handed.iter().filter_map(|place| self.entries.remove(place)).collect()
    }

    pub(super) fn is_handed(&self, place: &Place) -> bool {
        self.handed.contains(place)
    }

    pub(super) fn entry(&self, place: &Place) -> Option<&Entry> {
        self.entries.get(place)
    }

    pub(super) fn places(&self) -> BTreeSet<Place> {
        self.entries.keys().copied().collect()
    }

    pub(super) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
    }

    /// What is provided, and whose claims all end by then.
    pub(super) fn to_renew(&self, by: WallTime) -> Vec<(Id, String)> {
        let is_due = |provided: &Provided| {
            provided
                .claims
                .iter()
                .all(|claim| self.entries.get(claim).is_none_or(|entry| entry.expires <= by))
        };
        let due = self.provided.iter().filter(|(_, provided)| is_due(provided));
        due.map(|(content, provided)| (*content, provided.name.clone())).collect()
    }

    pub(super) fn forget_expired(&mut self, wall: WallTime) {
        self.entries.retain(|_, entry| entry.expires > wall);
        self.values.retain(|_, place| self.entries.contains_key(place));
        self.handed.retain(|place| self.entries.contains_key(place));
    }

    /// This node's own values, what it provides by content and name, and what it has of others.
    pub(super) fn take(&mut self) -> (Vec<Entry>, Vec<(Id, String)>, Vec<Entry>) {
        let handed = self.take_handed();
        let Own { mut entries, values, provided, .. } = std::mem::take(self);
        let values = values.values().filter_map(|place| entries.remove(place)).collect();
        (values, provided.into_iter().map(|(content, provided)| (content, provided.name)).collect(), handed)
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let entries = self.entries.values().map(|entry| size_of::<(Place, Entry)>() + entry.bytes());
        let names = self.provided.values().map(|provided| size_of::<(Id, Provided)>() + provided.name.len());
        entries.chain(names).sum::<usize>() + self.values.len() * size_of::<(Id, Place)>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AuthorKey, Body};

    /// Under the kind before this one it was one of those that kept what it published.
    #[test]
    fn what_a_node_publishes_and_kept_itself_is_not_let_go() {
        let (author, expires) = (AuthorKey::from_seed([1; 32]), WallTime::from_millis(60_000));
        let mine = author.sign(Id::of(b"key"), 1, expires, Body::Value(b"value".to_vec()));
        let mut own = Own::default();
        own.hand(mine.clone());
        let place = own.set_value(mine.clone());
        own.was_handed(place);
        assert_eq!(own.entry(&place), Some(&mine));
        assert_eq!(own.take().0, [mine]);
    }
}
