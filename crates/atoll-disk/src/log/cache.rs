//! The newest batches, as they were written, found by where they lie: whatever was just
//! appended is read without the disk and without a second copy in memory.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{format::ENTRY_HEADER, replica::Slot};

pub(super) struct Cache {
    batches: BTreeMap<(u32, u32), Bytes>,
    bytes: usize,
    bytes_max: usize,
}

impl Cache {
    pub(super) fn new(bytes_max: usize) -> Self {
        Self { batches: BTreeMap::new(), bytes: 0, bytes_max }
    }

    /// Batches come in the order of their places, so the first is the oldest.
    pub(super) fn insert(&mut self, segment: u32, offset: u32, batch: Bytes) {
        self.bytes += batch.len();
        self.batches.insert((segment, offset), batch);
        while self.bytes > self.bytes_max
            && let Some((_, dropped)) = self.batches.pop_first()
        {
            self.bytes -= dropped.len();
        }
    }

    pub(super) fn payload(&self, slot: Slot) -> Option<Bytes> {
        let ((segment, offset), batch) = self.batches.range(..=(slot.segment, slot.offset)).next_back()?;
        let start = (slot.offset - if *segment == slot.segment { *offset } else { return None }) as usize;
        let payload = start + ENTRY_HEADER..start + ENTRY_HEADER + slot.len as usize;
        (payload.end <= batch.len()).then(|| batch.slice(payload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_batches_go_first_and_only_whole_entries_are_found() {
        let mut cache = Cache::new(250);
        let slot = |segment, offset, len| Slot { term: 1, segment, offset, len };
        cache.insert(1, 512, vec![1; 100].into());
        cache.insert(2, 0, vec![2; 100].into());
        assert_eq!(cache.payload(slot(1, 520, 4)), Some(vec![1; 4].into()));
        cache.insert(2, 512, vec![3; 100].into());
        assert_eq!(cache.payload(slot(1, 520, 4)), None);
        assert_eq!(cache.payload(slot(2, 0, 84)), Some(vec![2; 84].into()));
        assert_eq!(cache.payload(slot(2, 0, 85)), None);
        assert_eq!(cache.payload(slot(2, 200, 4)), None);
        assert_eq!(cache.payload(slot(3, 600, 4)), None);
    }
}
