//! Full and failing disks, many callers at once, old segments, and the end of a log.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use atoll_disk::{
    Append, DiskError, DiskFaults, File, Files, LogEntry, LogError, LogSettings, LogVerdict, MemoryDisk,
    MemoryFiles, SharedLog, Space,
};
use atoll_runtime::Runtime;
use atoll_simulation::{Schedule, Seed, Simulation};
use atoll_types::ReplicaId;
use bytes::Bytes;

use crate::model::{open_with, replica, settings};

const A: ReplicaId = ReplicaId(1);
const B: ReplicaId = ReplicaId(2);

fn simulate<T: Send + 'static, F: Future<Output = T> + Send + 'static>(work: impl FnOnce(Runtime) -> F) -> T {
    let simulation = Simulation::new(Seed(1), Schedule::Shuffled);
    let work = work(simulation.world_runtime());
    simulation.block_on(Duration::from_secs(3600), work).unwrap_or_else(|error| panic!("{error}"))
}

fn entry(index: u64, len: usize) -> LogEntry {
    LogEntry { index, term: 1, bytes: vec![index as u8; len].into() }
}

fn one(replica: ReplicaId, index: u64, len: usize) -> Vec<Append> {
    vec![Append { replica, entries: vec![entry(index, len)], ..Append::default() }]
}

fn state(replica: ReplicaId, state: &'static [u8]) -> Vec<Append> {
    vec![Append { replica, state: Some(Bytes::from_static(state)), ..Append::default() }]
}

#[test]
fn a_full_disk_fails_appends_until_there_is_room_and_nothing_else() {
    simulate(|runtime| async move {
        let disk = MemoryDisk::new(1);
        let (log, _) = open_with(&disk, &runtime, settings()).await;
        log.append(one(A, 1, 100)).await.unwrap();
        let room = disk.contents("log/00000001.segment").unwrap().len() as u64 + 5000;
        disk.set_faults(DiskFaults { capacity: Some(room), ..DiskFaults::default() });
        let (mut index, mut refused) = (1, false);
        while !refused {
            let appended = log.append(one(A, index + 1, 1000));
            let behind = log.append(one(A, index + 2, 10));
            match appended.await {
                Ok(()) => {
                    behind.await.unwrap();
                    index += 2;
                }
                Err(error) => {
                    assert!(matches!(error, LogError::Full(_)), "{error}");
                    // It came to build upon what failed.
                    assert!(matches!(behind.await, Err(LogError::Full(_))));
                    refused = true;
                }
            }
        }
        assert_eq!(log.last_index(A), index, "what failed is not to be seen");
        assert_eq!(replica(&log, A).await.unwrap().last(), index);
        disk.set_faults(DiskFaults::default());
        log.append(one(A, index + 1, 1000)).await.unwrap();
        log.append(state(B, b"new")).await.unwrap();
        drop(log);
        disk.crash(&mut runtime.rng());
        let (log, recovery) = open_with(&disk, &runtime, settings()).await;
        assert!(!matches!(recovery.verdict, LogVerdict::Damaged { .. }), "{:?}", recovery.verdict);
        assert_eq!(replica(&log, A).await.unwrap().last(), index + 1);
        assert_eq!(log.state(B).unwrap(), &b"new"[..]);
    });
}

#[test]
fn after_a_failed_flush_every_append_fails_and_the_next_start_has_what_was_acknowledged() {
    simulate(|runtime| async move {
        let disk = MemoryDisk::new(1);
        let (log, _) = open_with(&disk, &runtime, settings()).await;
        log.append(one(A, 1, 100)).await.unwrap();
        // The note of it is through.
        runtime.sleep(Duration::from_secs(1)).await;
        disk.set_faults(DiskFaults { sync_error: 1.0, ..DiskFaults::default() });
        let (failed, behind) = (log.append(one(A, 2, 100)), log.append(state(B, b"behind")));
        assert!(matches!(failed.await, Err(LogError::Poisoned(_))));
        assert!(matches!(behind.await, Err(LogError::Poisoned(_))));
        disk.set_faults(DiskFaults::default());
        assert!(matches!(log.append(state(B, b"later")).await, Err(LogError::Poisoned(_))));
        assert!(matches!(log.remove(A).await, Err(LogError::Poisoned(_))));
        assert!(matches!(log.close().await, Err(LogError::Poisoned(_))));
        assert_eq!(log.last_index(A), 1);
        drop(log);
        // The process is restarted; the system still shows what never reached the disk. The
        // log takes it, and must have flushed it for good when it says so.
        disk.kill();
        let (log, recovery) = open_with(&disk, &runtime, settings()).await;
        assert_eq!(recovery.verdict, LogVerdict::Clean);
        assert_eq!(log.last_index(A), 2);
        drop(log);
        disk.crash(&mut runtime.rng());
        let (log, _) = open_with(&disk, &runtime, settings()).await;
        assert_eq!(log.last_index(A), 2);
    });
}

#[test]
fn appends_that_come_during_a_flush_share_the_next_one() {
    let simulation = Simulation::new(Seed(1), Schedule::Shuffled);
    let runtime = simulation.world_runtime();
    let disk = MemoryDisk::new(1);
    let flush = Duration::from_millis(4);
    disk.set_faults(DiskFaults { sync_latency: flush..flush, ..DiskFaults::default() });
    let syncs = Arc::new(AtomicU64::new(0));
    let files = Arc::new(Counting { files: disk.files(&runtime), syncs: syncs.clone() });
    simulation
        .block_on(Duration::from_secs(60), async move {
            let large =
                LogSettings { segment_bytes: 8 << 20, batch_bytes: 1 << 20, ..LogSettings::default() };
            let (log, _) = SharedLog::open(files, runtime.clone(), large).await.unwrap();
            log.append(one(A, 1, 1)).await.unwrap();
            syncs.store(0, Ordering::Relaxed);
            let begun = runtime.now();
            // 64 callers, each 50 appends one after the other, as 64 clients would.
            let callers = (10..74).map(|id| {
                let log = log.clone();
                runtime.spawn("caller", async move {
                    for index in 1..=50 {
                        log.append(one(ReplicaId(id), index, 500)).await.unwrap();
                    }
                })
            });
            for caller in callers.collect::<Vec<_>>() {
                caller.await.unwrap();
            }
            let took = runtime.now() - begun;
            let syncs = syncs.load(Ordering::Relaxed);
            // 3,200 entries: 50 rounds, each of two flushes at most, as the first of a round
            // may go alone; and the note now and then.
            assert!(syncs <= 105, "{syncs} flushes");
            assert!(took <= 102 * flush, "{took:?}");
        })
        .unwrap();
}

/// Counts flushes of segments.
struct Counting {
    files: MemoryFiles,
    syncs: Arc<AtomicU64>,
}

struct CountingFile(Arc<dyn File>, Arc<AtomicU64>);

#[async_trait]
impl Files for Counting {
    async fn open(&self, path: &str, create: bool) -> Result<Arc<dyn File>, DiskError> {
        Ok(Arc::new(CountingFile(self.files.open(path, create).await?, self.syncs.clone())))
    }
    async fn exists(&self, path: &str) -> Result<bool, DiskError> {
        self.files.exists(path).await
    }
    async fn list(&self, folder: &str) -> Result<Vec<String>, DiskError> {
        self.files.list(folder).await
    }
    async fn create_folder(&self, path: &str) -> Result<(), DiskError> {
        self.files.create_folder(path).await
    }
    async fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        self.files.rename(from, to).await
    }
    async fn remove(&self, path: &str) -> Result<(), DiskError> {
        self.files.remove(path).await
    }
    async fn sync_folder(&self, folder: &str) -> Result<(), DiskError> {
        self.files.sync_folder(folder).await
    }
    async fn space(&self) -> Result<Space, DiskError> {
        self.files.space().await
    }
}

#[async_trait]
impl File for CountingFile {
    async fn len(&self) -> Result<u64, DiskError> {
        self.0.len().await
    }
    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, DiskError> {
        self.0.read_at(offset, len).await
    }
    async fn write_at(&self, offset: u64, parts: Vec<Bytes>) -> Result<(), DiskError> {
        self.0.write_at(offset, parts).await
    }
    async fn write_and_sync(&self, offset: u64, parts: Vec<Bytes>) -> Result<(), DiskError> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.write_and_sync(offset, parts).await
    }
    async fn sync(&self) -> Result<(), DiskError> {
        self.1.fetch_add(1, Ordering::Relaxed);
        self.0.sync().await
    }
    async fn set_len(&self, len: u64) -> Result<(), DiskError> {
        self.0.set_len(len).await
    }
}

fn segments(disk: &MemoryDisk) -> usize {
    disk.paths().iter().filter(|path| path.ends_with(".segment")).count()
}

#[test]
fn a_quiet_replica_does_not_keep_old_segments_and_loses_nothing_when_they_go() {
    simulate(|runtime| async move {
        let disk = MemoryDisk::new(1);
        let (log, _) = open_with(&disk, &runtime, settings()).await;
        let quiet = Append {
            replica: A,
            state: Some(Bytes::from_static(b"quiet")),
            start_after: Some(99),
            entries: (100..110).map(|index| entry(index, 100)).collect(),
        };
        log.append(vec![quiet]).await.unwrap();
        log.trim(A, 102);
        let before = replica(&log, A).await.unwrap();
        for index in 1..=600 {
            log.append(one(B, index, 400)).await.unwrap();
            log.trim(B, index.saturating_sub(20));
        }
        runtime.sleep(Duration::from_secs(1)).await;
        assert!(!disk.paths().contains(&"log/00000001.segment".into()));
        let kept = segments(&disk);
        assert!(kept <= 6, "{kept} segments for a few live entries");
        assert_eq!(replica(&log, A).await.unwrap(), before);
        // The same on the disk, with the first index of what was trimmed.
        drop(log);
        disk.crash(&mut runtime.rng());
        let (log, recovery) = open_with(&disk, &runtime, settings()).await;
        assert!(!matches!(recovery.verdict, LogVerdict::Damaged { .. }), "{:?}", recovery.verdict);
        assert_eq!(replica(&log, A).await.unwrap(), before);
        assert_eq!(log.last_index(B), 600);
        // It can go on from there.
        log.append(one(A, 110, 10)).await.unwrap();
        assert_eq!(log.last_index(A), 110);
    });
}

#[test]
fn a_removed_replica_stays_away_and_its_segments_go() {
    simulate(|runtime| async move {
        let disk = MemoryDisk::new(1);
        let (log, _) = open_with(&disk, &runtime, settings()).await;
        for index in 1..=200 {
            log.append(one(A, index, 400)).await.unwrap();
        }
        assert!(segments(&disk) > 5);
        let (pending, removed) = (log.append(one(A, 201, 400)), log.remove(A));
        assert!(matches!(log.append(one(A, 202, 1)).await, Err(LogError::Removed { .. })));
        assert_eq!((log.first_index(A), log.last_index(A), log.state(A)), (1, 0, None));
        pending.await.unwrap();
        removed.await.unwrap();
        log.remove(A).await.unwrap();
        runtime.sleep(Duration::from_secs(1)).await;
        assert_eq!(segments(&disk), 1);
        drop(log);
        disk.crash(&mut runtime.rng());
        let (_log, recovery) = open_with(&disk, &runtime, settings()).await;
        assert!(recovery.replicas.is_empty());
    });
}

#[test]
fn appends_out_of_place_are_refused_whole() {
    simulate(|runtime| async move {
        let disk = MemoryDisk::new(1);
        let (log, _) = open_with(&disk, &runtime, settings()).await;
        log.append((1..=5).flat_map(|index| one(A, index, 10)).collect()).await.unwrap();
        log.trim(A, 2);
        let gap = [state(B, b"not written"), one(A, 7, 10)].concat();
        let error = log.append(gap).await.unwrap_err();
        assert_eq!(error.to_string(), "entry 7 can't follow the log of replica 1, which holds 3..=5");
        assert_eq!(log.state(B), None);
        assert!(matches!(log.append(one(A, 2, 10)).await, Err(LogError::OutOfPlace { .. })));
        let holes = Append { replica: A, entries: vec![entry(6, 1), entry(8, 1)], ..Append::default() };
        assert!(matches!(log.append(vec![holes]).await, Err(LogError::OutOfPlace { .. })));
        let large = one(A, 6, atoll_disk::ENTRY_BYTES_MAX + 1);
        assert!(matches!(log.append(large).await, Err(LogError::TooLarge { .. })));
        log.append(one(A, 6, 10)).await.unwrap();
    });
}

#[test]
fn an_entry_that_rots_while_the_log_runs_is_never_returned() {
    simulate(|runtime| async move {
        let disk = MemoryDisk::new(1);
        let (log, _) = open_with(&disk, &runtime, LogSettings { cache_bytes: 0, ..settings() }).await;
        log.append(one(A, 1, 300)).await.unwrap();
        log.append(one(A, 2, 300)).await.unwrap();
        let path = "log/00000001.segment";
        let mut bytes = disk.contents(path).unwrap();
        bytes[512 + 200] ^= 4;
        disk.set_contents(path, &bytes);
        let error = log.read(A, 1..3, usize::MAX).await.unwrap_err();
        assert!(matches!(error, LogError::Damaged { index: 1, .. }), "{error}");
        assert_eq!(log.read(A, 2..3, usize::MAX).await.unwrap(), [entry(2, 300)]);
        // A moment's read error is another matter.
        disk.set_faults(DiskFaults { read_error: 1.0, ..DiskFaults::default() });
        assert!(matches!(log.read(A, 2..3, usize::MAX).await, Err(LogError::Read(_))));
    });
}

#[test]
fn a_damaged_end_is_a_torn_tail_before_the_note_of_it_and_damage_after() {
    simulate(|runtime| async move {
        let disk = MemoryDisk::new(1);
        let slow_note = LogSettings { note_interval: Duration::from_secs(1), ..settings() };
        let (log, _) = open_with(&disk, &runtime, slow_note.clone()).await;
        log.append(one(A, 1, 600)).await.unwrap();
        runtime.sleep(Duration::from_millis(500)).await;
        log.append(one(A, 2, 600)).await.unwrap();
        let early = disk.image();
        runtime.sleep(Duration::from_millis(600)).await;
        let late = disk.image();
        drop(log);
        for (disk, noted) in [(early, false), (late, true)] {
            let path = "log/00000001.segment";
            let mut bytes = disk.contents(path).unwrap();
            bytes[512 + 1024 + 300] ^= 4;
            disk.set_contents(path, &bytes);
            let (log, recovery) = open_with(&disk, &runtime, slow_note.clone()).await;
            assert_eq!(log.last_index(A), 1);
            match recovery.verdict {
                LogVerdict::TornTail { segment: 1, offset: 1536, bytes: 1024 } => assert!(!noted),
                LogVerdict::Damaged { forgotten, .. } => assert!(noted && forgotten == [A].into()),
                other => panic!("{other:?}"),
            }
        }
    });
}

#[test]
fn a_newer_format_is_refused_and_left_alone() {
    simulate(|runtime| async move {
        let disk = MemoryDisk::new(1);
        let (log, _) = open_with(&disk, &runtime, settings()).await;
        log.append(one(A, 1, 600)).await.unwrap();
        log.close().await.unwrap();
        drop(log);
        disk.kill();
        let path = "log/00000001.segment";
        let mut bytes = disk.contents(path).unwrap();
        bytes[8] = 2;
        let crc = crc32c::crc32c(&bytes[..32]);
        bytes[32..36].copy_from_slice(&crc.to_le_bytes());
        disk.set_contents(path, &bytes);
        let files = Arc::new(disk.files(&runtime));
        let error = SharedLog::open(files, runtime.clone(), settings()).await.err().expect("refused");
        assert_eq!(error.to_string(), "log segment 1 has format version 2: a newer program wrote it");
        assert_eq!(disk.contents(path).unwrap(), bytes);
    });
}

#[test]
fn what_was_cut_once_stays_cut_even_if_it_can_be_read_again() {
    simulate(|runtime| async move {
        let disk = MemoryDisk::new(1);
        let slow_note = LogSettings { note_interval: Duration::from_secs(3600), ..settings() };
        let (log, _) = open_with(&disk, &runtime, slow_note.clone()).await;
        log.append(one(A, 1, 600)).await.unwrap();
        log.append(state(B, b"cut")).await.unwrap();
        drop(log);
        disk.kill();
        let path = "log/00000001.segment";
        let whole = disk.contents(path).unwrap();
        let mut torn = whole.clone();
        torn[512 + 1024 + 40] ^= 1;
        disk.set_contents(path, &torn);
        let (log, recovery) = open_with(&disk, &runtime, slow_note.clone()).await;
        assert!(matches!(recovery.verdict, LogVerdict::TornTail { .. }));
        log.append(state(B, b"instead")).await.unwrap();
        log.append(one(A, 2, 10)).await.unwrap();
        drop(log);
        disk.kill();
        disk.set_contents(path, &whole);
        let (log, recovery) = open_with(&disk, &runtime, slow_note).await;
        assert_eq!(recovery.verdict, LogVerdict::Clean);
        assert_eq!(log.state(B).unwrap(), &b"instead"[..]);
        assert_eq!(log.last_index(A), 2);
    });
}
