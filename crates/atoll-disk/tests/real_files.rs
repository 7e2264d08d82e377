//! Files of a real file system, cut and flipped where it hurts: the shared log and the
//! ordered store open with all that was flushed, or refuse, or name who has forgotten
//! something. Never do they open with less and say nothing.
//!
//! What other kinds of damage do is tried on the twins, which are faster
//! (`shared_log/damage.rs`); here it is the real system calls and `fjall`'s own files.

use std::{
    collections::BTreeMap,
    ops::Bound::Unbounded,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use atoll_disk::{
    Append, FjallStore, LogEntry, LogSettings, LogVerdict, OpenLogError, OrderedStore, RealFiles, SharedLog,
    StoreError, Table, WriteBatch,
};
use atoll_runtime::Runtime;
use atoll_types::ReplicaId;
use bytes::Bytes;
use tempfile::TempDir;

const SECTOR: usize = 512;

fn copied(from: &Path) -> TempDir {
    let copy = tempfile::tempdir().unwrap();
    for (path, bytes) in files(from) {
        let to = copy.path().join(path.strip_prefix(from).unwrap());
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        std::fs::write(to, bytes).unwrap();
    }
    copy
}

/// All files below, in order.
fn files(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut found = Vec::new();
    let mut entries: Vec<_> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            match std::fs::read(&path) {
                Ok(bytes) => found.push((path, bytes)),
                // A store that is open merges its tables meanwhile.
                Err(error) => assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{path:?}"),
            }
        }
    }
    found
}

/// The bytes without the zeros that were written ahead.
fn used(bytes: &[u8]) -> usize {
    bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)
}

/// Cuts at each sector and just before and after it, and a flipped bit in each sector, at
/// another place each time.
fn damages(bytes: &[u8]) -> Vec<(String, Vec<u8>)> {
    damages_to(bytes, |_, _| true)
}

/// The same for those sectors alone that are `chosen`, by number and of how many.
fn damages_to(bytes: &[u8], chosen: impl Fn(usize, usize) -> bool) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    let count = used(bytes).div_ceil(SECTOR);
    for number in (0..count).filter(|number| chosen(*number, count)) {
        let start = number * SECTOR;
        for cut in [start.saturating_sub(1), start, start + 1] {
            if cut < bytes.len() {
                all.push((format!("cut to {cut}"), bytes[..cut].to_vec()));
            }
        }
        let at = start + (number * 97) % SECTOR;
        if at < bytes.len() {
            let mut flipped = bytes.to_vec();
            flipped[at] ^= 1 << (number % 8);
            all.push((format!("a bit flipped at {at}"), flipped));
        }
    }
    all
}

fn log_settings() -> LogSettings {
    LogSettings {
        segment_bytes: 8 << 10,
        zeros_ahead: 1 << 10,
        note_interval: Duration::from_millis(1),
        ..LogSettings::default()
    }
}

fn entry_bytes(replica: u64, index: u64) -> Bytes {
    vec![(replica * 31 + index) as u8; 200].into()
}

const REPLICAS: u64 = 3;
const ENTRIES: u64 = 24;

async fn write_log(folder: &Path, runtime: &Runtime) {
    let files = Arc::new(RealFiles::open(folder, runtime.clone()).unwrap());
    let (log, _) = SharedLog::open(files, runtime.clone(), log_settings()).await.unwrap();
    for index in 1..=ENTRIES {
        let appends = (1..=REPLICAS).map(|replica| Append {
            replica: ReplicaId(replica),
            state: Some(Bytes::from(format!("state {index}"))),
            entries: vec![LogEntry { index, term: 1, bytes: entry_bytes(replica, index) }],
            ..Append::default()
        });
        log.append(appends.collect()).await.unwrap();
    }
    log.close().await.unwrap();
}

#[tokio::test]
async fn a_real_log_cut_or_flipped_anywhere_opens_with_everything_or_says_who_forgot() {
    let runtime = Runtime::tokio();
    let original = tempfile::tempdir().unwrap();
    write_log(original.path(), &runtime).await;
    let segments = files(&original.path().join("log"));
    assert!(segments.len() >= 3, "several segments and the note: {}", segments.len());
    let (mut noticed, mut tried) = (0, 0);
    for (path, bytes) in segments {
        for (what, damaged) in damages(&bytes) {
            let what = format!("{}: {what}", path.display());
            let copy = copied(original.path());
            std::fs::write(copy.path().join(path.strip_prefix(original.path()).unwrap()), damaged).unwrap();
            tried += 1;
            noticed += u32::from(is_noticed(copy.path(), &runtime, &what).await);
        }
    }
    assert!(noticed > tried / 2, "{noticed} of {tried}");
}

/// False if all is there.
async fn is_noticed(folder: &Path, runtime: &Runtime, what: &str) -> bool {
    let files = Arc::new(RealFiles::open(folder, runtime.clone()).unwrap());
    let (log, recovery) = match SharedLog::open(files, runtime.clone(), log_settings()).await {
        Ok(opened) => opened,
        Err(OpenLogError::NewerVersion { .. }) => return true,
        Err(error) => panic!("{what}: {error}"),
    };
    let forgotten = match &recovery.verdict {
        LogVerdict::Clean | LogVerdict::TornTail { .. } => None,
        LogVerdict::Damaged { forgotten, .. } => Some(forgotten.clone()),
    };
    for replica in (1..=REPLICAS).map(ReplicaId) {
        if forgotten.as_ref().is_some_and(|forgotten| forgotten.contains(&replica))
            || forgotten.is_some() && !recovery.replicas.contains_key(&replica)
        {
            continue;
        }
        let entries = log.read(replica, 1..ENTRIES + 1, usize::MAX).await;
        let entries = entries.unwrap_or_else(|error| panic!("{what}: {replica}: {error}"));
        assert_eq!(entries.len() as u64, ENTRIES, "{what}: {replica}");
        for entry in entries {
            assert_eq!(entry.bytes, entry_bytes(replica.0, entry.index), "{what}: {replica}");
        }
        assert_eq!(log.state(replica), Some(Bytes::from(format!("state {ENTRIES}"))), "{what}: {replica}");
    }
    forgotten.is_some()
}

fn write_store(folder: &Path) -> BTreeMap<Bytes, Bytes> {
    let store = FjallStore::open(folder).unwrap();
    let mut expected = BTreeMap::new();
    for number in 0..40u32 {
        let mut batch = WriteBatch::default();
        let (key, value) = (format!("key {}", number % 25), vec![number as u8; 150]);
        batch.put(Table::Records, key.clone().into_bytes(), value.clone());
        batch.put(Table::Local, key.clone().into_bytes(), value.clone());
        expected.insert(Bytes::from(key.into_bytes()), Bytes::from(value));
        store.write(batch).unwrap();
        if number % 10 == 9 {
            store.flush().unwrap();
        }
    }
    expected
}

fn read_store(folder: &Path) -> Result<BTreeMap<Bytes, Bytes>, StoreError> {
    let store = FjallStore::open(folder)?;
    let records: Result<BTreeMap<_, _>, _> =
        store.snapshot()?.range(Table::Records, Unbounded, Unbounded).collect();
    let local: Result<BTreeMap<_, _>, _> =
        store.snapshot()?.range(Table::Local, Unbounded, Unbounded).collect();
    assert_eq!(records.as_ref().ok(), local.as_ref().ok(), "half of a batch");
    records
}

/// Bytes that nothing can compress, others for each number.
fn noise(number: u32) -> Vec<u8> {
    let mut bytes = vec![0; 128 << 10];
    blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// So much that `fjall` has written out tables. Everything is flushed.
fn write_tables(folder: &Path) -> BTreeMap<Bytes, Bytes> {
    let store = FjallStore::open(folder).unwrap();
    let mut expected = BTreeMap::new();
    let has_tables = || files(folder).iter().any(|(path, bytes)| bytes.len() > 1 << 20 && !is_journal(path));
    // A memtable of records is written out past 2 MiB: 16 of them.
    for number in 0..400u32 {
        if number > 40 && has_tables() {
            break;
        }
        let (key, value) = (Bytes::from(format!("key {number}")), Bytes::from(noise(number)));
        store.write(WriteBatch::of(Table::Records, key.clone(), value.clone())).unwrap();
        store.flush().unwrap();
        expected.insert(key, value);
    }
    assert!(has_tables(), "tables are written out");
    expected
}

fn is_journal(path: &Path) -> bool {
    path.extension().is_some_and(|ending| ending == "jnl")
}

/// All that is there, by key and in order.
fn read_records(folder: &Path, keys: &BTreeMap<Bytes, Bytes>) -> Result<BTreeMap<Bytes, Bytes>, StoreError> {
    let store = FjallStore::open(folder)?;
    let all: BTreeMap<_, _> =
        store.snapshot()?.range(Table::Records, Unbounded, Unbounded).collect::<Result<_, _>>()?;
    for key in keys.keys() {
        assert_eq!(store.get(Table::Records, key)?.as_ref(), all.get(key), "{key:?}");
    }
    Ok(all)
}

#[test]
fn a_real_table_cut_or_flipped_is_noticed_when_the_store_is_opened_or_read() {
    let original = tempfile::tempdir().unwrap();
    let expected = write_tables(original.path());
    assert!(read_records(original.path(), &expected).unwrap() == expected);
    let (mut noticed, mut tried) = (0, 0);
    for (path, bytes) in files(original.path()).into_iter().filter(|(path, _)| !is_journal(path)) {
        // All of a short file and of a long one's end, where its index is; elsewhere some.
        let chosen =
            |number: usize, count: usize| number.is_multiple_of(count / 8 + 1) || number + 8 >= count;
        for (what, damaged) in damages_to(&bytes, chosen) {
            let copy = copied(original.path());
            std::fs::write(copy.path().join(path.strip_prefix(original.path()).unwrap()), damaged).unwrap();
            tried += 1;
            match read_records(copy.path(), &expected) {
                Ok(found) => assert!(found == expected, "{}: {what}: not all is there", path.display()),
                Err(_) => noticed += 1,
            }
        }
    }
    assert!(noticed > tried / 3, "{noticed} of {tried}");
}

/// The store is `fjall`'s, which reads its own files: whatever is wrong with them, the
/// node must see it, for then it rebuilds the state from its peers.
#[test]
fn a_real_store_cut_or_flipped_anywhere_opens_with_everything_flushed_or_not_at_all() {
    let original = tempfile::tempdir().unwrap();
    let expected = write_store(original.path());
    assert_eq!(read_store(original.path()).unwrap(), expected);
    let (mut refused, mut tried) = (0, 0);
    for (path, bytes) in files(original.path()) {
        for (what, damaged) in damages(&bytes) {
            let copy = copied(original.path());
            std::fs::write(copy.path().join(path.strip_prefix(original.path()).unwrap()), damaged).unwrap();
            tried += 1;
            match read_store(copy.path()) {
                Ok(found) => assert_eq!(found, expected, "{}: {what}", path.display()),
                Err(_) => refused += 1,
            }
        }
    }
    assert!(refused > 0 && refused < tried, "{refused} of {tried}");
}
