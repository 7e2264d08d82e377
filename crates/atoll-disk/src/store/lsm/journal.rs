//! Cuts the end off `fjall`'s journal that a power failure tore.
//!
//! Between two flushes the system writes a journal's pages in whatever order it likes, so
//! a power failure may leave a batch with a hole in it. Of a batch that is merely cut
//! short `fjall` rids itself; at one with a hole it refuses to open (its
//! `JournalRecovery` errors). Whatever follows the hole was not flushed either.
//!
//! Should the hole be in what *was* flushed, the store is then too short; the number of
//! its last flush tells.
//!
//! Knows the format of fjall 3.1's journals (`journal/entry.rs` there):
//!
//! ```text
//! batch = 1u8 | items u32 | seqno u64, then its items, then 3u8 | xxh3 of the items u64 | "FJL" 3u8
//! item  = 2u8 | type u8 | compression u8 | keyspace u64 | key len u16 | value len u32
//!         | stored len u32 | key | value as stored
//!       | 4u8 | keyspace u64
//! ```

use std::{
    fs::OpenOptions,
    io,
    path::{Path, PathBuf},
};

use xxhash_rust::xxh3::xxh3_64;

const TRAILER: &[u8; 4] = b"FJL\x03";

/// Shortens the newest journal to its last whole batch. Returns how many bytes went.
pub(super) fn cut_torn_end(folder: &Path) -> io::Result<u64> {
    let Some(path) = newest_journal(folder)? else { return Ok(0) };
    // At most two times 64 MiB, `fjall`'s size for one, and only after an accident.
    let bytes = std::fs::read(&path)?;
    let whole = whole_batches(&bytes);
    let file = OpenOptions::new().write(true).open(&path)?;
    file.set_len(whole as u64)?;
    file.sync_all()?;
    Ok((bytes.len() - whole) as u64)
}

fn newest_journal(folder: &Path) -> io::Result<Option<PathBuf>> {
    let mut newest = None;
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let is_journal = path.extension().is_some_and(|ending| ending == "jnl");
        let number = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
        if is_journal && let Some(number) = number {
            newest = newest.max(Some((number, path)));
        }
    }
    Ok(newest.map(|(_, path)| path))
}

/// Where the last whole batch ends.
fn whole_batches(bytes: &[u8]) -> usize {
    let mut end = 0;
    while let Some(len) = batch_len(&bytes[end..]) {
        end += len;
    }
    end
}

/// The length of the batch at the beginning of `bytes`; `None` if it is not whole.
fn batch_len(bytes: &[u8]) -> Option<usize> {
    let mut rest = Rest { bytes, at: 0 };
    if rest.take(1)? != [1] {
        return None;
    }
    let items = u32::from_le_bytes(rest.take(4)?.try_into().ok()?);
    rest.take(8)?;
    let begin = rest.at;
    for _ in 0..items {
        match rest.take(1)? {
            [2] => {
                rest.take(1 + 1 + 8)?;
                let key = u16::from_le_bytes(rest.take(2)?.try_into().ok()?);
                rest.take(4)?;
                let stored = u32::from_le_bytes(rest.take(4)?.try_into().ok()?);
                rest.take(usize::from(key))?;
                rest.take(stored as usize)?;
            }
            [4] => drop(rest.take(8)?),
            _ => return None,
        }
    }
    let checksum = xxh3_64(&bytes[begin..rest.at]);
    let sound = rest.take(1)? == [3] && rest.take(8)? == checksum.to_le_bytes() && rest.take(4)? == TRAILER;
    sound.then_some(rest.at)
}

struct Rest<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Rest<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let taken = self.bytes.get(self.at..self.at.checked_add(len)?)?;
        self.at += len;
        Some(taken)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{FjallStore, OrderedStore, Table, WriteBatch};

    /// Batch n puts n in two tables.
    fn write(store: &FjallStore, n: u32) {
        let mut batch = WriteBatch::default();
        batch.put(Table::Records, &b"n"[..], n.to_be_bytes().to_vec());
        batch.delete(Table::Records, format!("another {n}"));
        // Longer than what fjall compresses.
        batch.put(Table::Chunks, &b"n"[..], n.to_be_bytes().repeat(2000));
        store.write(batch).unwrap();
    }

    fn read(store: &FjallStore) -> u32 {
        let of = |table| store.get(table, b"n").unwrap().unwrap_or(Bytes::from_static(&[0; 4]));
        let (records, chunks) = (of(Table::Records), of(Table::Chunks));
        assert_eq!(records, chunks.slice(..4));
        u32::from_be_bytes(records[..].try_into().unwrap())
    }

    #[test]
    fn the_batches_that_fjall_writes_are_understood() {
        let folder = tempfile::tempdir().unwrap();
        let store = FjallStore::open(folder.path()).unwrap();
        for n in 1..=5 {
            write(&store, n);
        }
        drop(store);
        let bytes = std::fs::read(newest_journal(folder.path()).unwrap().unwrap()).unwrap();
        let used = bytes.iter().rposition(|&byte| byte != 0).unwrap() + 1;
        assert_eq!(whole_batches(&bytes), used);
    }

    #[test]
    fn a_hole_in_an_unflushed_batch_costs_that_batch_and_what_follows() {
        for hole in [20, 60, 90] {
            let folder = tempfile::tempdir().unwrap();
            let store = FjallStore::open(folder.path()).unwrap();
            write(&store, 1);
            store.flush().unwrap();
            let journal = newest_journal(folder.path()).unwrap().unwrap();
            let flushed = whole_batches(&std::fs::read(&journal).unwrap());
            write(&store, 2);
            write(&store, 3);
            drop(store);
            let mut bytes = std::fs::read(&journal).unwrap();
            bytes[flushed + hole] ^= 1;
            std::fs::write(&journal, &bytes).unwrap();
            let store = FjallStore::open(folder.path()).unwrap();
            assert_eq!(read(&store), 1, "hole at {hole}");
            write(&store, 4);
            store.flush().unwrap();
            drop(store);
            assert_eq!(read(&FjallStore::open(folder.path()).unwrap()), 4);
        }
    }

    #[test]
    fn a_store_without_what_it_flushed_does_not_open() {
        let folder = tempfile::tempdir().unwrap();
        let store = FjallStore::open(folder.path()).unwrap();
        write(&store, 1);
        store.flush().unwrap();
        let journal = newest_journal(folder.path()).unwrap().unwrap();
        let first = whole_batches(&std::fs::read(&journal).unwrap());
        write(&store, 2);
        store.flush().unwrap();
        drop(store);
        let bytes = std::fs::read(&journal).unwrap();
        std::fs::write(&journal, &bytes[..first + 50]).unwrap();
        let error = FjallStore::open(folder.path()).err().expect("refused");
        let source = error.source.to_string();
        assert_eq!(source, "it is older than its last flush: at 1, but 2 was noted");
    }
}
