//! The fuzz target of the log: a disk with a log on it, damaged or made up.

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
};

use atoll_runtime::Runtime;
use atoll_types::ReplicaId;
use bytes::Bytes;

use super::{
    Append, LogEntry, LogError, LogSettings, LogVerdict, Recovery, SharedLog,
    format::{PART_HEADER, SECTOR, SegmentHeader},
    note, recovery,
};
use crate::MemoryDisk;

const NOTE: &str = "log/note";
/// In so many places a sector may be hit before its checksum could agree by chance: CRC-32C finds
/// any three flipped bits at these lengths (Koopman, "32-Bit Cyclic Redundancy Codes for Internet
/// Applications", 2002).
const FLIPS_MAX: usize = 3;
const DAMAGES_MAX: usize = 8;
/// One that made-up logs hardly ever have.
const NEW: ReplicaId = ReplicaId(u64::MAX);
/// Of a made-up replica that are read.
const ENTRIES_READ_MAX: u64 = 64;

/// An even first byte: the rest says how a sound log is damaged. An odd one: the rest is what
/// batches hold that are sound otherwise, as only another program could have written them.
pub fn log(bytes: &[u8]) {
    let Some((which, rest)) = bytes.split_first() else { return };
    // Ends with everything that the log started on it.
    let executor = tokio::runtime::Builder::new_current_thread().enable_time().build();
    let executor = executor.expect("an executor needs no more than memory");
    match which % 2 {
        0 => executor.block_on(damaged(rest)),
        _ => executor.block_on(made_up(rest)),
    }
}

fn settings() -> LogSettings {
    LogSettings {
        segment_bytes: 8 << 10,
        batch_bytes: 2 << 10,
        zeros_ahead: 1 << 10,
        ..LogSettings::default()
    }
}

async fn open(disk: &MemoryDisk) -> Option<(SharedLog, Recovery)> {
    let runtime = Runtime::tokio();
    SharedLog::open(Arc::new(disk.files(&runtime)), runtime, settings()).await.ok()
}

/// All that a replica has.
type Held = (Option<Bytes>, Vec<LogEntry>);

/// A log that was written and closed.
struct Written {
    files: BTreeMap<String, Vec<u8>>,
    /// By replica: what is in it at the end.
    held: BTreeMap<ReplicaId, Held>,
    /// Every entry that ever was, and every state.
    entries: Vec<(ReplicaId, LogEntry)>,
    states: Vec<(ReplicaId, Bytes)>,
}

static WRITTEN: LazyLock<Written> = LazyLock::new(|| {
    // It may be first asked for within another executor.
    let write = || {
        let executor = tokio::runtime::Builder::new_current_thread().enable_time().build();
        executor.expect("an executor needs no more than memory").block_on(written())
    };
    std::thread::scope(|scope| scope.spawn(write).join().expect("the log is written"))
});

async fn written() -> Written {
    let disk = MemoryDisk::new(1);
    let (log, _) = open(&disk).await.expect("an empty disk");
    let (mut entries, mut states) = (Vec::new(), Vec::new());
    for round in 1..=40_u64 {
        let replica = ReplicaId(1 + round % 3);
        // Now and then the last entry is replaced.
        let next = (log.last_index(replica) + 1).saturating_sub(u64::from(round % 7 == 0)).max(1);
        let new = (next..next + 1 + round % 3).map(|index| LogEntry {
            index,
            term: round,
            bytes: vec![round as u8; 40 * (index as usize % 9)].into(),
        });
        let state = (round % 4 == 0).then(|| Bytes::from(format!("state {round}")));
        let append = Append { replica, state: state.clone(), entries: new.collect(), start_after: None };
        entries.extend(append.entries.iter().map(|entry| (replica, entry.clone())));
        states.extend(state.map(|state| (replica, state)));
        log.append(vec![append]).await.expect("there is room");
        if round == 20 {
            log.remove(ReplicaId(3)).await.expect("there is room");
        }
    }
    log.close().await.expect("it is sound");
    drop(log);
    let files = disk.paths().into_iter().map(|path| (path.clone(), disk.contents(&path).expect("a path")));
    let files: BTreeMap<String, Vec<u8>> = files.collect();
    assert!(files.len() > 3, "segments enough that some are between others");
    let (log, recovery) = open(&disk).await.expect("it is sound");
    assert_eq!(recovery.verdict, LogVerdict::Clean);
    let mut held = BTreeMap::new();
    for replica in recovery.replicas.keys() {
        held.insert(*replica, contents(&log, &recovery, *replica).await.expect("it is sound"));
    }
    Written { files, held, entries, states }
}

async fn contents(log: &SharedLog, recovery: &Recovery, replica: ReplicaId) -> Result<Held, LogError> {
    let found = &recovery.replicas[&replica];
    let range = found.first_index..found.last_index.saturating_add(1);
    let entries = if range.is_empty() { Vec::new() } else { log.read(replica, range, usize::MAX).await? };
    Ok((found.state.clone(), entries))
}

/// What is there was written; and who is not named as having forgotten something has all of it.
async fn damaged(damages: &[u8]) {
    let written = &*WRITTEN;
    let mut files = written.files.clone();
    damage(&mut files, damages);
    let disk = disk_of(&files);
    let Some((log, recovery)) = open(&disk).await else { return };
    let forgotten = match &recovery.verdict {
        LogVerdict::Clean | LogVerdict::TornTail { .. } => Default::default(),
        LogVerdict::Damaged { forgotten, .. } => forgotten.clone(),
    };
    for (replica, found) in &recovery.replicas {
        if let Some(state) = &found.state {
            assert!(written.states.contains(&(*replica, state.clone())), "a state that nobody wrote");
        }
        for index in found.first_index..=found.last_index {
            match log.read(*replica, index..index + 1, usize::MAX).await {
                Ok(read) => {
                    let entry = (*replica, read[0].clone());
                    assert!(written.entries.contains(&entry), "an entry that nobody wrote");
                }
                Err(error) => assert!(matches!(error, LogError::Damaged { .. }), "{error}"),
            }
        }
        // An old note over the newer one is a disk set back, which is found elsewhere.
        if forgotten.contains(replica) || files.get(NOTE) != written.files.get(NOTE) {
            continue;
        }
        let Some(all) = written.held.get(replica) else {
            panic!("replica {replica} is back, and nobody wonders");
        };
        let has = contents(&log, &recovery, *replica).await.expect("nothing of it was damaged");
        assert_eq!(has, *all, "replica {replica} lost something, and nobody says so");
    }
}

fn disk_of(files: &BTreeMap<String, Vec<u8>>) -> MemoryDisk {
    static FOLDER: LazyLock<MemoryDisk> = LazyLock::new(|| {
        let disk = MemoryDisk::new(1);
        let make = || {
            let executor = tokio::runtime::Builder::new_current_thread().enable_time().build();
            executor.expect("an executor needs no more than memory").block_on(open(&disk)).map(|_| ())
        };
        std::thread::scope(|scope| scope.spawn(make).join()).expect("an empty log is made");
        disk.paths().iter().for_each(|path| disk.forget(path));
        disk
    });
    let disk = FOLDER.image();
    for (path, bytes) in files {
        disk.set_contents(path, bytes);
    }
    disk
}

/// Each nine bytes are one piece of damage: which file, what, where, how long, and from where.
fn damage(files: &mut BTreeMap<String, Vec<u8>>, damages: &[u8]) {
    let mut flips = 0;
    for one in damages.as_chunks::<9>().0.iter().take(DAMAGES_MAX) {
        let paths: Vec<String> = files.keys().cloned().collect();
        if paths.is_empty() {
            return;
        }
        let two = |at: usize| usize::from(u16::from_le_bytes([one[at], one[at + 1]]));
        let path = &paths[usize::from(one[0]) % paths.len()];
        let other = files[&paths[usize::from(one[8]) % paths.len()]].clone();
        let bytes = files.get_mut(path).expect("it is listed");
        let at = two(2) % bytes.len().max(1);
        let end = (at + two(4)).min(bytes.len());
        match one[1] % 7 {
            0 if flips < FLIPS_MAX && !bytes.is_empty() => {
                flips += 1;
                bytes[at] ^= 1 << (one[4] % 8);
            }
            0 => {}
            1 => bytes.truncate(at),
            2 => bytes[at..end].fill(0),
            3 => bytes[at..end].fill(0xff),
            // A write that landed elsewhere.
            4 => {
                let (to, from) = (at / SECTOR * SECTOR, two(6) % other.len().max(1) / SECTOR * SECTOR);
                let len = two(4).min(other.len() - from).min(bytes.len() - to);
                bytes[to..to + len].copy_from_slice(&other[from..from + len]);
            }
            5 => drop(files.remove(path)),
            _ => bytes.resize(bytes.len() + two(4) % 4096, 0),
        }
    }
}

/// Whatever batches say, the log opens or refuses, and what it holds is there to be read.
async fn made_up(bytes: &[u8]) {
    let Some((numbers, bodies)) = bytes.split_first_chunk::<32>() else { return };
    let u64_at = |at: usize| u64::from_le_bytes(numbers[at..at + 8].try_into().expect("eight bytes"));
    let (mut sequence, tag) = (u64_at(0), 7);
    let header = SegmentHeader { segment: 1, tag, first_sequence: u64_at(8) };
    let mut segment = header.encode().to_vec();
    let mut rest = bodies;
    while let Some((&[low, high], after)) = rest.split_first_chunk::<2>() {
        let len = usize::from(u16::from_le_bytes([low, high])).min(after.len());
        segment.extend(super::format::batch_of(tag, sequence, &after[..len]));
        sequence = sequence.wrapping_add(1);
        rest = &after[len..];
    }
    let mut files = BTreeMap::from([(recovery::segment_path(1), segment)]);
    if numbers[31] % 2 == 0 {
        let note = note::Note { flushed: u64_at(16), oldest: 1, newest: u32::from(numbers[30]) };
        files.insert(NOTE.into(), note.encode(u64_at(24) >> 16).to_vec());
    }
    let Some((log, recovery)) = open(&disk_of(&files)).await else { return };
    for (replica, found) in &recovery.replicas {
        assert!(found.first_index >= 1 && found.last_index >= found.first_index - 1);
        assert_eq!(log.first_index(*replica), found.first_index);
        assert_eq!(log.last_index(*replica), found.last_index);
        let end = found.last_index.min(found.first_index.saturating_add(ENTRIES_READ_MAX));
        for index in found.first_index..=end {
            match log.read(*replica, index..index + 1, usize::MAX).await {
                Ok(read) => assert_eq!((read.len(), read[0].index), (1, index)),
                Err(error) => assert!(matches!(error, LogError::Damaged { .. }), "{error}"),
            }
        }
    }
    // It goes on behind what it found.
    let new = LogEntry { index: 1, term: 1, bytes: Bytes::from_static(b"new") };
    let append = Append { replica: NEW, entries: vec![new], ..Append::default() };
    if !recovery.replicas.contains_key(&NEW) {
        log.append(vec![append]).await.expect("there is room");
    }
    log.close().await.expect("there is room");
}

pub fn log_seeds() -> Vec<Vec<u8>> {
    let mut seeds = vec![vec![0]];
    for what in 0..7 {
        for file in 0..4 {
            seeds.push(vec![0, file, what, 0, 2 + what, 0, 2, 0, 4, file + 1]);
        }
    }
    // One replica in two batches: with entries and a state, then gone.
    let numbers = |sequence: u64| {
        let mut numbers = [sequence, sequence, sequence, 1].map(u64::to_le_bytes).concat();
        numbers[30] = 1;
        numbers
    };
    let header = |previous: u64, count: u32, kind: u8, flags: u8, state: u32| {
        let mut part = Vec::with_capacity(PART_HEADER);
        for number in [1, previous, 1, 1] {
            part.extend(u64::to_le_bytes(number));
        }
        part.extend(state.to_le_bytes());
        part.extend(count.to_le_bytes());
        part.extend([kind, flags, 0, 0, 0, 0, 0, 0]);
        part
    };
    let entry = [&1_u64.to_le_bytes()[..], &3_u32.to_le_bytes(), &0_u32.to_le_bytes(), b"abc"].concat();
    let first = [header(0, 2, 1, 1, 5), b"state".to_vec(), entry.clone(), entry].concat();
    let second = header(1, 0, 3, 0, 0);
    let sized = |body: &[u8]| [&(body.len() as u16).to_le_bytes()[..], body].concat();
    for odd in [1, 3] {
        seeds.push([vec![odd], numbers(1), sized(&first)].concat());
        seeds.push([vec![odd], numbers(1), sized(&first), sized(&second)].concat());
    }
    seeds
}
