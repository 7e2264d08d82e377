//! A set of slots, as it goes over the wire.

use atoll_types::Slot;
use serde::{Deserialize, Serialize};

const WORDS: usize = Slot::COUNT / 64;

/// 4,096 bits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotSet(Vec<u64>);

impl Default for SlotSet {
    fn default() -> Self {
        Self(vec![0; WORDS])
    }
}

impl SlotSet {
    pub fn insert(&mut self, slot: Slot) {
        // A set from a peer may be short: such a slot is then not in it, which is safe.
        if let Some(word) = self.0.get_mut(usize::from(slot.0) / 64) {
            *word |= 1 << (slot.0 % 64);
        }
    }

    pub fn contains(&self, slot: Slot) -> bool {
        self.0.get(usize::from(slot.0) / 64).is_some_and(|word| word & (1 << (slot.0 % 64)) != 0)
    }

    pub fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }
}

impl FromIterator<Slot> for SlotSet {
    fn from_iter<I: IntoIterator<Item = Slot>>(slots: I) -> Self {
        let mut set = Self::default();
        slots.into_iter().for_each(|slot| set.insert(slot));
        set
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_has_what_was_put_in_and_nothing_else() {
        let set: SlotSet = [Slot(0), Slot(63), Slot(64), Slot(4095)].into_iter().collect();
        let inside: Vec<u16> = Slot::all().filter(|slot| set.contains(*slot)).map(|slot| slot.0).collect();
        assert_eq!(inside, [0, 63, 64, 4095]);
        assert!(!set.is_empty() && SlotSet::default().is_empty());
    }
}
