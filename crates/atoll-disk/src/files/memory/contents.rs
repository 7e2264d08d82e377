//! A file's bytes, by pages; what was never written, or only with zeros, takes no room.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;

/// What a disk writes whole or not at all.
pub(super) const SECTOR: usize = 512;

/// A page.
const PAGE: usize = 4096;

/// A page's bytes: its own, or a part of what was written there, which all nodes' disks
/// share that were sent the same bytes.
#[derive(Clone)]
enum Page {
    Own(Arc<[u8; PAGE]>),
    Written(Bytes),
}

impl Page {
    fn bytes(&self) -> &[u8] {
        match self {
            Page::Own(bytes) => &bytes[..],
            Page::Written(bytes) => bytes,
        }
    }

    fn bytes_mut(&mut self) -> &mut [u8; PAGE] {
        if let Page::Written(bytes) = self {
            *self = Page::Own(Arc::new(bytes[..].try_into().expect("a whole page")));
        }
        match self {
            Page::Own(bytes) => Arc::make_mut(bytes),
            Page::Written(_) => unreachable!("made its own above"),
        }
    }
}

/// A clone shares all pages until one side writes to them.
#[derive(Default, Clone)]
pub(super) struct Contents {
    pages: BTreeMap<u64, Page>,
    len: u64,
}

impl Contents {
    pub(super) fn len(&self) -> u64 {
        self.len
    }

    /// Fewer than `len` bytes only at the end.
    pub(super) fn read(&self, offset: u64, len: usize) -> Vec<u8> {
        let end = (offset + len as u64).min(self.len);
        if offset >= end {
            return Vec::new();
        }
        let mut bytes = vec![0; (end - offset) as usize];
        for (index, page) in self.pages.range(offset / PAGE as u64..=(end - 1) / PAGE as u64) {
            let start = index * PAGE as u64;
            let (from, to) = (offset.max(start), end.min(start + PAGE as u64));
            bytes[(from - offset) as usize..(to - offset) as usize]
                .copy_from_slice(&page.bytes()[(from - start) as usize..(to - start) as usize]);
        }
        bytes
    }

    pub(super) fn write(&mut self, offset: u64, bytes: &Bytes) {
        let end = offset + bytes.len() as u64;
        let mut at = offset;
        while at < end {
            let index = at / PAGE as u64;
            let start = index * PAGE as u64;
            let to = end.min(start + PAGE as u64);
            let piece = (at - offset) as usize..(to - offset) as usize;
            let is_empty = bytes[piece.clone()].iter().all(|byte| *byte == 0);
            if piece.len() == PAGE && !is_empty {
                self.pages.insert(index, Page::Written(bytes.slice(piece)));
            } else if piece.len() == PAGE {
                self.pages.remove(&index);
            } else if !is_empty || self.pages.contains_key(&index) {
                let page = self.pages.entry(index).or_insert_with(|| Page::Own(Arc::new([0; PAGE])));
                page.bytes_mut()[(at - start) as usize..(to - start) as usize].copy_from_slice(&bytes[piece]);
            }
            at = to;
        }
        self.len = self.len.max(end);
    }

    /// The pages that a write of `len` bytes touched become those of `other`, shared. As
    /// in a real page cache, a page is flushed whole.
    pub(super) fn take_over(&mut self, other: &Contents, offset: u64, len: usize) {
        if len == 0 {
            return;
        }
        let end = offset + len as u64;
        for index in offset / PAGE as u64..=(end - 1) / PAGE as u64 {
            match other.pages.get(&index) {
                Some(page) => self.pages.insert(index, page.clone()),
                None => self.pages.remove(&index),
            };
        }
        self.len = self.len.max(end.min(other.len));
    }

    pub(super) fn set_len(&mut self, len: u64) {
        if len < self.len {
            let last = len / PAGE as u64;
            self.pages.split_off(&(last + 1));
            if let Some(page) = self.pages.get_mut(&last) {
                page.bytes_mut()[(len % PAGE as u64) as usize..].fill(0);
            }
        }
        self.len = len;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn contents_are_what_a_plain_vector_would_be(
            steps in prop::collection::vec((0u8..3, 0u64..20_000, 0usize..9_000, any::<u8>()), 1..30)
        ) {
            let mut contents = Contents::default();
            let mut plain: Vec<u8> = Vec::new();
            for (kind, offset, len, value) in steps {
                let at = offset as usize;
                match kind {
                    0 => {
                        contents.set_len(offset);
                        plain.resize(at, 0);
                    }
                    // Every other write is of zeros.
                    1 => {
                        let bytes = vec![if value % 2 == 0 { 0 } else { value }; len];
                        contents.write(offset, &Bytes::from(bytes.clone()));
                        plain.resize(plain.len().max(at + len), 0);
                        plain[at..at + len].copy_from_slice(&bytes);
                    }
                    _ => {
                        let end = (at + len).min(plain.len());
                        prop_assert_eq!(contents.read(offset, len), &plain[at.min(end)..end]);
                    }
                }
                prop_assert_eq!(contents.len(), plain.len() as u64);
            }
            prop_assert_eq!(contents.read(0, plain.len()), plain);
        }
    }
}
