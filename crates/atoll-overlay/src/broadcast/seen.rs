//! What a node remembers of broadcasts, within limits.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::Id;

/// Identifiers that are remembered. At a hundred broadcasts a second a node still knows those
/// of the last 40 s, longer than any of these cores takes to reach everybody.
const SEEN_MAX: usize = 4096;
/// Payloads that are kept for whoever asks for them. At ten a second the last 6 s.
const KEPT_MAX: usize = 64;

/// Identifiers that came, the oldest forgotten first.
#[derive(Debug, Clone, Default)]
pub(super) struct Seen {
    known: BTreeSet<Id>,
    order: VecDeque<Id>,
}

impl Seen {
    /// Whether it is new.
    pub(super) fn add(&mut self, id: Id) -> bool {
        if !self.known.insert(id) {
            return false;
        }
        self.order.push_back(id);
        if self.order.len() > SEEN_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
        true
    }

    pub(super) fn contains(&self, id: Id) -> bool {
        self.known.contains(&id)
    }

    pub(super) fn heap_bytes(&self) -> usize {
        (self.known.len() + self.order.capacity()) * size_of::<Id>()
    }
}

/// Payloads that are kept, the oldest dropped first.
#[derive(Debug, Clone)]
pub(super) struct Kept<P> {
    payloads: BTreeMap<Id, (P, u32)>,
    order: VecDeque<Id>,
}

impl<P> Default for Kept<P> {
    fn default() -> Self {
        Self { payloads: BTreeMap::new(), order: VecDeque::new() }
    }
}

impl<P: Clone> Kept<P> {
    /// `hops`: how far from its source.
    pub(super) fn add(&mut self, id: Id, payload: P, hops: u32) {
        if self.payloads.insert(id, (payload, hops)).is_none() {
            self.order.push_back(id);
        }
        if self.order.len() > KEPT_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.payloads.remove(&oldest);
        }
    }

    pub(super) fn find(&self, id: Id) -> Option<(P, u32)> {
        self.payloads.get(&id).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(number: usize) -> Id {
        Id::from_halves(number as u128, 0)
    }

    #[test]
    fn the_oldest_is_forgotten_first() {
        let mut seen = Seen::default();
        assert!((0..SEEN_MAX).all(|number| seen.add(id(number))));
        assert!(!seen.add(id(0)), "still known");
        assert!(seen.add(id(SEEN_MAX)));
        assert!(!seen.contains(id(0)) && seen.contains(id(1)));

        let mut kept = Kept::default();
        (0..=KEPT_MAX).for_each(|number| kept.add(id(number), number, 3));
        assert_eq!((kept.find(id(0)), kept.find(id(1))), (None, Some((1, 3))));
    }
}
