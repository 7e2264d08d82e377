//! One suite for the store and its twin: each test runs on both.

use std::{
    ops::Bound::{self, Excluded, Included, Unbounded},
    sync::Arc,
};

use bytes::Bytes;
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{FjallStore, KEY_BYTES_MAX, MemoryStore, OrderedStore, Snapshot, Table, WriteBatch};

/// A store that can be closed and opened again.
trait Kind {
    fn open(&self) -> Arc<dyn OrderedStore>;
}

struct OnDisk(tempfile::TempDir);

impl Kind for OnDisk {
    fn open(&self) -> Arc<dyn OrderedStore> {
        Arc::new(FjallStore::open(self.0.path()).unwrap())
    }
}

struct Twin(MemoryStore);

impl Kind for Twin {
    fn open(&self) -> Arc<dyn OrderedStore> {
        Arc::new(self.0.clone())
    }
}

fn on_both(test: impl Fn(&dyn Kind)) {
    test(&OnDisk(tempfile::tempdir().unwrap()));
    test(&Twin(MemoryStore::new()));
}

fn put(store: &dyn OrderedStore, table: Table, pairs: &[(&str, &str)]) {
    let mut batch = WriteBatch::default();
    for (key, value) in pairs {
        batch.put(table, Bytes::copy_from_slice(key.as_bytes()), Bytes::copy_from_slice(value.as_bytes()));
    }
    store.write(batch).unwrap();
}

fn keys(view: &dyn Snapshot, start: Bound<&[u8]>, end: Bound<&[u8]>) -> String {
    let forwards: Vec<Bytes> = view.range(Table::Records, start, end).map(|pair| pair.unwrap().0).collect();
    let mut backwards: Vec<Bytes> =
        view.range_backwards(Table::Records, start, end).map(|pair| pair.unwrap().0).collect();
    backwards.reverse();
    assert_eq!(forwards, backwards, "both directions see the same");
    forwards.iter().map(|key| String::from_utf8_lossy(key)).collect::<Vec<_>>().join(" ")
}

#[test]
fn ranges_are_in_key_order_and_respect_their_bounds() {
    on_both(|kind| {
        let store = kind.open();
        put(&*store, Table::Records, &[("b", "2"), ("d", "4"), ("a", "1"), ("c", "3"), ("c0", "3.5")]);
        put(&*store, Table::Chunks, &[("bb", "of another table")]);
        let view = store.snapshot().unwrap();
        assert_eq!(keys(&*view, Unbounded, Unbounded), "a b c c0 d");
        assert_eq!(keys(&*view, Included(b"b"), Excluded(b"d")), "b c c0");
        assert_eq!(keys(&*view, Excluded(b"b"), Included(b"d")), "c c0 d");
        assert_eq!(keys(&*view, Included(b"c"), Included(b"c")), "c");
        assert_eq!(keys(&*view, Included(b"c"), Excluded(b"c")), "");
        assert_eq!(keys(&*view, Excluded(b"c"), Excluded(b"c")), "");
        assert_eq!(keys(&*view, Included(b"d"), Included(b"a")), "");
        assert_eq!(keys(&*view, Excluded(b"d"), Unbounded), "");
    });
}

#[test]
fn a_key_holds_what_was_written_last_until_it_is_deleted() {
    on_both(|kind| {
        let store = kind.open();
        assert_eq!(store.get(Table::Local, b"k").unwrap(), None);
        put(&*store, Table::Local, &[("k", "first")]);
        put(&*store, Table::Local, &[("k", "second")]);
        assert_eq!(store.get(Table::Local, b"k").unwrap().as_deref(), Some(&b"second"[..]));
        assert_eq!(store.get(Table::Records, b"k").unwrap(), None);
        put(&*store, Table::Local, &[("k", "")]);
        assert_eq!(store.get(Table::Local, b"k").unwrap().as_deref(), Some(&b""[..]));
        let mut batch = WriteBatch::default();
        batch.delete(Table::Local, &b"k"[..]);
        batch.delete(Table::Local, &b"never there"[..]);
        store.write(batch).unwrap();
        assert_eq!(store.get(Table::Local, b"k").unwrap(), None);
    });
}

#[test]
fn within_a_batch_the_later_operation_wins() {
    on_both(|kind| {
        let store = kind.open();
        let mut batch = WriteBatch::default();
        batch.put(Table::Records, &b"a"[..], &b"1"[..]);
        batch.delete(Table::Records, &b"a"[..]);
        batch.delete(Table::Records, &b"b"[..]);
        batch.put(Table::Records, &b"b"[..], &b"2"[..]);
        store.write(batch).unwrap();
        assert_eq!(store.get(Table::Records, b"a").unwrap(), None);
        assert_eq!(store.get(Table::Records, b"b").unwrap().as_deref(), Some(&b"2"[..]));
        assert_eq!(keys(&*store.snapshot().unwrap(), Unbounded, Unbounded), "b");
    });
}

#[test]
fn a_snapshot_does_not_see_what_is_written_after_it() {
    on_both(|kind| {
        let store = kind.open();
        put(&*store, Table::Records, &[("a", "old"), ("b", "old")]);
        let view = store.snapshot().unwrap();
        put(&*store, Table::Records, &[("a", "new"), ("c", "new")]);
        let mut batch = WriteBatch::default();
        batch.delete(Table::Records, &b"b"[..]);
        store.write(batch).unwrap();
        assert_eq!(view.get(Table::Records, b"a").unwrap().as_deref(), Some(&b"old"[..]));
        assert_eq!(view.get(Table::Records, b"c").unwrap(), None);
        assert_eq!(keys(&*view, Unbounded, Unbounded), "a b");
        assert_eq!(keys(&*store.snapshot().unwrap(), Unbounded, Unbounded), "a c");
    });
}

#[test]
fn a_snapshot_lasts_through_enough_writes_to_move_everything() {
    on_both(|kind| {
        let store = kind.open();
        put(&*store, Table::Records, &[("key", "the first")]);
        let view = store.snapshot().unwrap();
        // 24 MiB: several memtables are written out while the snapshot is held.
        for round in 0..24u32 {
            let mut batch = WriteBatch::default();
            batch.put(Table::Records, &b"key"[..], round.to_be_bytes().to_vec());
            batch.put(Table::Records, round.to_be_bytes().to_vec(), vec![round as u8; 1 << 20]);
            store.write(batch).unwrap();
        }
        assert_eq!(view.get(Table::Records, b"key").unwrap().as_deref(), Some(&b"the first"[..]));
        assert_eq!(keys(&*view, Unbounded, Unbounded), "key");
    });
}

#[test]
fn what_was_flushed_is_there_when_the_store_is_opened_again() {
    on_both(|kind| {
        let store = kind.open();
        put(&*store, Table::Records, &[("a", "1")]);
        put(&*store, Table::Chunks, &[("b", "2")]);
        put(&*store, Table::Local, &[("c", "3")]);
        store.flush().unwrap();
        drop(store);
        let store = kind.open();
        assert_eq!(store.get(Table::Records, b"a").unwrap().as_deref(), Some(&b"1"[..]));
        assert_eq!(store.get(Table::Chunks, b"b").unwrap().as_deref(), Some(&b"2"[..]));
        assert_eq!(store.get(Table::Local, b"c").unwrap().as_deref(), Some(&b"3"[..]));
    });
}

#[test]
fn a_key_or_value_that_cannot_be_kept_is_refused_and_nothing_of_its_batch_is_written() {
    on_both(|kind| {
        let store = kind.open();
        for bad in [Bytes::new(), Bytes::from(vec![7; KEY_BYTES_MAX + 1])] {
            let mut batch = WriteBatch::default();
            batch.put(Table::Records, &b"good"[..], &b"1"[..]);
            batch.put(Table::Records, bad, &b"2"[..]);
            assert!(store.write(batch).is_err());
            assert_eq!(store.get(Table::Records, b"good").unwrap(), None);
        }
        put(&*store, Table::Records, &[(&"k".repeat(KEY_BYTES_MAX), "the longest key")]);
    });
}

#[test]
fn the_store_and_its_twin_agree_after_random_batches() {
    let folder = tempfile::tempdir().unwrap();
    let disk = FjallStore::open(folder.path()).unwrap();
    let twin = MemoryStore::new();
    let mut rng = StdRng::seed_from_u64(5);
    for _ in 0..300 {
        let mut batch = WriteBatch::default();
        for _ in 0..rng.random_range(0..20) {
            let key = rng.random_range(0..200u8);
            if rng.random_bool(0.3) {
                batch.delete(Table::Records, vec![key]);
            } else {
                batch.put(Table::Records, vec![key], vec![rng.random::<u8>(); rng.random_range(0..300)]);
            }
        }
        disk.write(batch.clone()).unwrap();
        twin.write(batch).unwrap();
    }
    let all = |store: &dyn OrderedStore| -> Vec<(Bytes, Bytes)> {
        store.snapshot().unwrap().range(Table::Records, Unbounded, Unbounded).map(Result::unwrap).collect()
    };
    assert_eq!(all(&disk), all(&twin));
    let (low, high): (&[u8], &[u8]) = (&[50], &[60]);
    let some = |store: &dyn OrderedStore| -> Vec<(Bytes, Bytes)> {
        let view = store.snapshot().unwrap();
        view.range_backwards(Table::Records, Included(low), Excluded(high)).map(Result::unwrap).collect()
    };
    assert_eq!(some(&disk), some(&twin));
}

/// Enough for several levels of tables, whose filters and indexes are in parts.
#[test]
fn a_store_of_many_tables_gives_what_was_written_last_of_each_key() {
    let folder = tempfile::tempdir().unwrap();
    let store = FjallStore::open(folder.path()).unwrap();
    let mut expected: std::collections::BTreeMap<Bytes, Bytes> = Default::default();
    let mut rng = StdRng::seed_from_u64(11);
    let key = |number: u32| Bytes::from(format!("a key as long as those of objects are/{number:06}"));
    for round in 0..200_u32 {
        let mut batch = WriteBatch::default();
        for _ in 0..500 {
            let key = key(rng.random_range(0..40_000));
            if rng.random_ratio(1, 5) {
                batch.delete(Table::Records, key.clone());
                expected.remove(&key);
            } else {
                let value = Bytes::from(vec![round as u8; rng.random_range(100..400)]);
                batch.put(Table::Records, key.clone(), value.clone());
                expected.insert(key, value);
            }
        }
        store.write(batch).unwrap();
    }
    let check = |store: &FjallStore| {
        for number in 0..40_000 {
            let key = key(number);
            assert_eq!(store.get(Table::Records, &key).unwrap().as_ref(), expected.get(&key), "{key:?}");
        }
        let view = store.snapshot().unwrap();
        let mut rng = StdRng::seed_from_u64(12);
        for _ in 0..100 {
            let (start, count) = (key(rng.random_range(0..40_000)), rng.random_range(1..2000));
            let pairs = |backwards: bool| -> Vec<(Bytes, Bytes)> {
                let pairs = match backwards {
                    false => view.range(Table::Records, Included(&start), Unbounded),
                    true => view.range_backwards(Table::Records, Unbounded, Excluded(&start)),
                };
                pairs.take(count).map(Result::unwrap).collect()
            };
            let copied = |(key, value): (&Bytes, &Bytes)| (key.clone(), value.clone());
            let after: Vec<_> = expected.range(start.clone()..).take(count).map(copied).collect();
            assert_eq!(pairs(false), after);
            let before: Vec<_> = expected.range(..start.clone()).rev().take(count).map(copied).collect();
            assert_eq!(pairs(true), before);
        }
    };
    check(&store);
    drop(store);
    check(&FjallStore::open(folder.path()).unwrap());
}

#[test]
fn a_store_that_has_settled_keeps_one_journal_and_everything_in_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = FjallStore::open(folder.path()).unwrap();
    put(&store, Table::Local, &[("one", "stays in memory, and its journal with it")]);
    // Random, so that it is as long in the journal, too, of which one takes 64 MiB.
    let mut value = vec![0; 1 << 20];
    StdRng::seed_from_u64(1).fill(&mut value[..]);
    let value = Bytes::from(value);
    for key in 0..80u32 {
        let mut batch = WriteBatch::default();
        batch.put(Table::Records, key.to_be_bytes().to_vec(), value.clone());
        store.write(batch).unwrap();
    }
    store.flush().unwrap();
    let journals = || {
        let files = std::fs::read_dir(folder.path()).unwrap().map(|file| file.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|suffix| suffix == "jnl")).count()
    };
    assert!(journals() > 1);
    store.settle().unwrap();
    while !store.is_settled() {
        std::thread::yield_now();
    }
    assert_eq!(journals(), 1);
    drop(store);
    let store = FjallStore::open(folder.path()).unwrap();
    assert!(store.get(Table::Local, b"one").unwrap().is_some());
    for key in 0..80u32 {
        assert!(store.get(Table::Records, &key.to_be_bytes()).unwrap() == Some(value.clone()));
    }
}

#[test]
fn a_cleared_table_is_empty_for_good_and_the_others_stay() {
    on_both(|kind| {
        let store = kind.open();
        put(&*store, Table::Chunks, &[("a", "1"), ("b", "2")]);
        put(&*store, Table::Records, &[("a", "1")]);
        store.flush().unwrap();
        store.clear(Table::Chunks).unwrap();
        put(&*store, Table::Chunks, &[("c", "3")]);
        store.flush().unwrap();
        drop(store);
        let store = kind.open();
        let view = store.snapshot().unwrap();
        let left: Vec<Bytes> =
            view.range(Table::Chunks, Unbounded, Unbounded).map(|pair| pair.unwrap().0).collect();
        assert_eq!(left, ["c"]);
        assert_eq!(keys(&*view, Unbounded, Unbounded), "a");
    });
}

#[test]
fn a_damaged_entry_of_the_twin_is_an_error_until_it_is_written_again() {
    let twin = MemoryStore::new();
    put(&twin, Table::Records, &[("a", "1")]);
    assert!(twin.damage_entry(&mut StdRng::seed_from_u64(1)));
    assert!(twin.get(Table::Records, b"a").is_err_and(|error| error.is_unreadable()));
    assert!(twin.write(WriteBatch::of(Table::Records, "", "1")).is_err_and(|error| !error.is_unreadable()));
    let errors = |twin: &MemoryStore| {
        let view = twin.snapshot().unwrap();
        view.range(Table::Records, Unbounded, Unbounded).filter(Result::is_err).count()
    };
    assert_eq!(errors(&twin), 1);
    put(&twin, Table::Records, &[("a", "2")]);
    assert_eq!(twin.get(Table::Records, b"a").unwrap().as_deref(), Some(&b"2"[..]));
    twin.damage_table(Table::Records);
    twin.clear(Table::Records).unwrap();
    assert_eq!(errors(&twin), 0);
    assert!(!twin.damage_entry(&mut StdRng::seed_from_u64(1)), "nothing is there to be damaged");
}

#[test]
fn a_twin_with_a_damaged_journal_can_be_used_until_it_is_opened_again() {
    for power_fails in [false, true] {
        let twin = MemoryStore::new();
        put(&twin, Table::Records, &[("a", "1")]);
        twin.flush().unwrap();
        twin.damage_journal();
        put(&twin, Table::Records, &[("b", "2")]);
        assert!(twin.get(Table::Records, b"a").is_ok());
        if power_fails {
            twin.crash(&mut StdRng::seed_from_u64(1));
        } else {
            twin.kill();
        }
        assert!(twin.get(Table::Records, b"a").is_err() && twin.snapshot().is_err());
        assert!(twin.write(WriteBatch::of(Table::Records, "c", "3")).is_err() && twin.flush().is_err());
    }
}

/// Batch n writes n under two keys of two tables.
fn write_numbered(store: &dyn OrderedStore, n: u32) {
    let mut batch = WriteBatch::default();
    batch.put(Table::Records, &b"n"[..], n.to_be_bytes().to_vec());
    batch.put(Table::Chunks, &b"n"[..], n.to_be_bytes().to_vec());
    store.write(batch).unwrap();
}

fn number(store: &dyn OrderedStore) -> u32 {
    let of = |table| {
        store.get(table, b"n").unwrap().map_or(0, |value| u32::from_be_bytes(value[..].try_into().unwrap()))
    };
    assert_eq!(of(Table::Records), of(Table::Chunks), "never half a batch");
    of(Table::Records)
}

#[test]
fn a_crashed_twin_is_at_some_batch_between_the_last_flush_and_the_last_write() {
    let mut seen = std::collections::BTreeSet::new();
    for seed in 0..200 {
        let mut rng = StdRng::seed_from_u64(seed);
        let twin = MemoryStore::new();
        for n in 1..=3 {
            write_numbered(&twin, n);
        }
        twin.flush().unwrap();
        for n in 4..=6 {
            write_numbered(&twin, n);
        }
        let forgotten = twin.crash(&mut rng);
        let n = number(&twin);
        assert_eq!(n as usize + forgotten, 6);
        seen.insert(n);
        // What the crash left is all there is: a second one takes nothing more.
        assert_eq!(twin.crash(&mut rng), 0);
        assert_eq!(number(&twin), n);
    }
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), [3, 4, 5, 6], "every outcome happens");
}

#[test]
fn a_journal_cut_anywhere_leaves_whole_batches_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let store = FjallStore::open(folder.path()).unwrap();
    let journal = || {
        let is_journal = |path: &std::path::Path| path.extension().is_some_and(|ending| ending == "jnl");
        std::fs::read_dir(folder.path())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .find(|path| is_journal(path))
            .unwrap()
    };
    for n in 1..=5 {
        write_numbered(&store, n);
    }
    // Not flushed, so that every cut is one that a power failure may make.
    drop(store);
    let whole = std::fs::read(journal()).unwrap();
    let used = whole.iter().rposition(|&byte| byte != 0).unwrap() + 1;
    let mut last = 5;
    for cut in (0..used).rev().step_by(5) {
        std::fs::write(journal(), &whole[..cut]).unwrap();
        let store = FjallStore::open(folder.path()).unwrap();
        let n = number(&store);
        assert!(n <= last, "a shorter journal never has more");
        last = n;
    }
    assert!(last <= 1);
}
