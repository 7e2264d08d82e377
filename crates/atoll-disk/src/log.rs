//! The shared log: one append-only log for all replicas of a node, so that one flush
//! makes many entries durable (rules 4 and 5).
//!
//! For each replica it keeps entries (index, term, payload) and one opaque state, the
//! newest. It knows nothing of Raft: what the payloads mean, and when entries may be
//! trimmed, is the caller's.
//!
//! # Flow
//!
//! [`SharedLog::append`] lays the entries over the replica's index in memory and queues
//! them; from then on they can be read. One task (`writer`) takes all that is queued,
//! writes it as one batch, flushes, and resolves the callers; what comes in meanwhile
//! is the next batch. Batches go to segment files, which are filled with zeros a step
//! ahead of the batches (see `LogSettings::zeros_ahead`). Another task (`collector`)
//! deletes segments that nobody needs, oldest first, and copies forward the little that
//! quiet replicas still hold in old ones.
//!
//! # What is found after a crash
//!
//! Batches carry a sequence number without gaps. The *note*, a small file apart,
//! remembers a batch that is known to be flushed. From these [`SharedLog::open`] tells a
//! torn tail, which nobody was told about and which is cut, from damage, which is
//! reported ([`LogVerdict`]) and never cut silently. It can't tell a damaged last batch
//! from a torn one if the note is older than that batch ([`LogSettings::note_interval`]).
//!
//! A replica that may have forgotten something is named in the verdict, and the log itself
//! refuses appends to it: it can only be removed.
//!
//! # Invariants
//!
//! - A segment is used only after its header, its name and the note of it are durable.
//!   A restart begins a new one, so what a crash left half-written is never overwritten;
//!   the new header's first sequence says for good where the old one ends.
//! - Segments are deleted oldest first, after the note says so. So what overrides
//!   something (a truncation, a removal, a restart) never goes before what it overrides.
//! - After a failed flush nothing more is written: the kernel may have dropped what it
//!   could not write, and a second flush would say "fine" (fsyncgate). The process must
//!   stop.
//!
//! Tests: in each file; `tests/shared_log` against a model, under crashes, faults and damage
//! of every kind.

mod cache;
mod collector;
mod format;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod note;
mod recovery;
mod replica;
#[cfg(test)]
mod tests;
mod writer;

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    future::Future,
    ops::Range,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll},
    time::Duration,
};

use atoll_runtime::{AbortOnDrop, Runtime};
use atoll_types::ReplicaId;
use bytes::Bytes;
use tokio::sync::{Notify, oneshot};

use self::{
    cache::Cache,
    format::{ENTRY_HEADER, verify_entry},
    note::NoteFile,
    replica::{Live, Place, Replica, Slot},
};
use crate::files::{DiskError, File, Files};

const FOLDER: &str = "log";

/// An entry's payload is at most this long. Raft entries stay under 1 MiB (rule 11); the
/// rest is room for whatever wraps them.
pub const ENTRY_BYTES_MAX: usize = 16 << 20;

/// The bounds within which positions in a segment fit 32 bits: a segment, and a batch
/// begun just before its end, that took one append of any sensible size.
const SEGMENT_BYTES_MAX: u64 = 1 << 30;
const APPEND_BYTES_MAX: usize = 1 << 30;
const _: () = assert!(SEGMENT_BYTES_MAX + 2 * (APPEND_BYTES_MAX as u64) < u32::MAX as u64);

/// One entry of a replica's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    pub index: u64,
    pub term: u64,
    pub bytes: Bytes,
}

/// What one replica wants written; all of it becomes durable together.
#[derive(Debug, Clone, Default)]
pub struct Append {
    pub replica: ReplicaId,
    /// Replaces the replica's state, if given.
    pub state: Option<Bytes>,
    /// Drops all entries, and lets the log begin anew after this index: what a replica
    /// does that was given a snapshot.
    pub start_after: Option<u64>,
    /// Ascending without gaps. The first one's index is at most one past the last entry;
    /// what the replica has from there on is replaced.
    pub entries: Vec<LogEntry>,
}

/// A log is a node's own; none of these need agree between nodes.
#[derive(Debug, Clone)]
pub struct LogSettings {
    /// A segment is closed when the next batch would not fit. Default 64 MiB: seconds of
    /// writing at full speed, so that closing one (four flushes) does not show, and few
    /// files. At most 1 GiB.
    pub segment_bytes: u64,
    /// One batch takes queued appends until it is this large. Default 4 MiB: 20 ms on a disk
    /// that writes 200 MB/s, so that no caller waits long for others.
    pub batch_bytes: usize,
    /// Zeros are written this far ahead of the batches, together with the batch that
    /// reaches the last ones. A flush then finds the file's size and blocks as they
    /// are, and need not write the file system's journal. Measured (ext4 on a virtual disk,
    /// 4 KiB batches, 150 each): growing the file 0.21 ms a flush, `set_len` or `fallocate`
    /// ahead 0.20, zeros ahead 0.12: a ratio of 1.7. Default 1 MiB; 0 turns it off.
    pub zeros_ahead: usize,
    /// The newest batches stay in memory up to this size, for followers that keep up.
    /// Default 4 MiB: an eighth of a second at 32 MiB/s, some times a follower's round trip, and
    /// behind it is the page cache; a node that is idle keeps them.
    pub cache_bytes: usize,
    /// The note is renewed at most this often, off the path of appends. Default 1 s. A
    /// shorter one narrows what it can't know, and costs a flush each time.
    pub note_interval: Duration,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self {
            segment_bytes: 64 << 20,
            batch_bytes: 4 << 20,
            zeros_ahead: 1 << 20,
            cache_bytes: 4 << 20,
            note_interval: Duration::from_secs(1),
        }
    }
}

/// What the log held when it was opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recovery {
    /// A replica that ought to be here and is not has lost everything it had.
    pub replicas: BTreeMap<ReplicaId, RecoveredReplica>,
    pub verdict: LogVerdict,
}

/// One replica as found: its terms are to be had by [`SharedLog::term_of`], its entries by
/// [`SharedLog::read`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveredReplica {
    pub state: Option<Bytes>,
    /// Of the entries that are there. What was trimmed shortly before may be back.
    pub first_index: u64,
    /// `first_index - 1` if there are none.
    pub last_index: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LogVerdict {
    /// All that was ever written is there.
    Clean,
    /// The last write was cut by the crash. Nobody was told that it was durable.
    TornTail { segment: u32, offset: u64, bytes: u64 },
    /// Something that was flushed is gone.
    Damaged {
        /// They may have lost entries or state, so they must neither vote nor acknowledge:
        /// appends to them fail until they are removed.
        forgotten: BTreeSet<ReplicaId>,
        /// What was found, for people.
        findings: Vec<String>,
    },
}

/// Why the log can't be opened; nothing was changed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OpenLogError {
    /// The disk gave no answer, which is not the same as a wrong one: it may do so again
    /// later, so nothing is judged.
    #[error("can't read or prepare the log")]
    Disk(#[from] DiskError),
    #[error("log segment {segment} has format version {found}: a newer program wrote it")]
    NewerVersion { segment: u32, found: u32 },
}

/// Why an append, a removal or a read failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum LogError {
    /// No room on the disk. Nothing of it is in the log, nor of what was queued behind it;
    /// it may be tried again.
    #[error("no room for the log")]
    Full(#[source] DiskError),
    /// A write or flush failed, and nothing can be trusted that was not acknowledged before.
    /// Every later append fails too: stop the process.
    #[error("the log can't be written")]
    Poisoned(#[source] DiskError),
    /// Parts of this replica's log were lost before the last start (see [`LogVerdict`]).
    /// Nothing was changed.
    #[error("replica {replica} lost parts of its log and may only be removed")]
    Forgotten { replica: ReplicaId },
    /// It is being removed. Nothing was changed.
    #[error("replica {replica} is removed")]
    Removed { replica: ReplicaId },
    /// The caller's mistake. Nothing was changed.
    #[error("entry {index} can't follow the log of replica {replica}, which holds {first}..={last}")]
    OutOfPlace { replica: ReplicaId, index: u64, first: u64, last: u64 },
    /// The caller's mistake. Nothing was changed.
    #[error("replica {replica} wants to append {bytes} bytes, which is too much")]
    TooLarge { replica: ReplicaId, bytes: usize },
    /// Trimmed, replaced or never there.
    #[error("entry {index} of replica {replica} is not in the log")]
    NotHeld { replica: ReplicaId, index: u64 },
    /// The bytes on disk are not those that were written: the replica can't be trusted
    /// to remember.
    #[error("entry {index} of replica {replica} is damaged on disk (segment {segment}, offset {offset})")]
    Damaged { replica: ReplicaId, index: u64, segment: u32, offset: u32 },
    #[error("can't read the log")]
    Read(#[source] DiskError),
    /// The log was closed, or its last handle dropped; for an append the outcome is unknown.
    #[error("the log is closed")]
    Closed,
}

/// Resolves when what was appended is durable, or can't be. Dropping it does not take the
/// append back.
#[must_use = "nothing is durable before this resolves"]
pub struct Appended(AppendedInner);

enum AppendedInner {
    Refused(Option<LogError>),
    Queued(oneshot::Receiver<Result<(), LogError>>),
}

impl Future for Appended {
    type Output = Result<(), LogError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            AppendedInner::Refused(error) => Poll::Ready(Err(error.take().unwrap_or(LogError::Closed))),
            AppendedInner::Queued(receiver) => {
                Pin::new(receiver).poll(cx).map(|result| result.unwrap_or(Err(LogError::Closed)))
            }
        }
    }
}

/// A handle on the log; its tasks end with the last one.
#[derive(Clone)]
pub struct SharedLog {
    shared: Arc<Shared>,
    _tasks: Arc<[AbortOnDrop; 3]>,
}

struct Shared {
    files: Arc<dyn Files>,
    runtime: Runtime,
    settings: LogSettings,
    /// Never held over an await, nor while encoding or copying payloads.
    inner: Mutex<Inner>,
    /// Something is queued.
    queued: Notify,
    /// A batch was flushed that the note does not know.
    note_due: Notify,
    /// Something was trimmed, removed or closed.
    collect_due: Notify,
    note: tokio::sync::Mutex<NoteFile>,
}

struct Inner {
    replicas: BTreeMap<ReplicaId, Replica>,
    /// All segments there are, the one being written included.
    segments: BTreeMap<u32, Arc<dyn File>>,
    /// The first that is not deleted or about to be.
    oldest: u32,
    /// The last whose header is durable; 0: none.
    newest: u32,
    live: Live,
    cache: Cache,
    queue: VecDeque<Queued>,
    ticket: u64,
    flushed_sequence: u64,
    stopped: Option<LogError>,
}

struct Queued {
    ticket: u64,
    works: Vec<Work>,
    bytes: usize,
    done: oneshot::Sender<Result<(), LogError>>,
}

enum Work {
    Append {
        append: Append,
        first: u64,
    },
    /// From the collector: copies of durable entries, and where they were.
    Move {
        replica: ReplicaId,
        entries: Vec<(LogEntry, Slot)>,
    },
    Remove {
        replica: ReplicaId,
    },
}

impl SharedLog {
    /// How far the log is durable, counted in batches since it was begun; where it left off
    /// when it was opened. It never falls, unless the disk forgot what it had flushed.
    pub fn flushed(&self) -> u64 {
        self.shared.lock().flushed_sequence
    }

    /// Opens the log in `files`, or begins one. Reads all of it.
    pub async fn open(
        files: Arc<dyn Files>,
        runtime: Runtime,
        settings: LogSettings,
    ) -> Result<(SharedLog, Recovery), OpenLogError> {
        let settings =
            LogSettings { segment_bytes: settings.segment_bytes.min(SEGMENT_BYTES_MAX), ..settings };
        let (opened, recovery) = recovery::recover(&files).await?;
        let next_sequence = opened.next_sequence;
        let shared = Arc::new(Shared {
            files,
            runtime: runtime.clone(),
            inner: Mutex::new(Inner {
                replicas: opened.replicas,
                segments: opened.segments,
                oldest: opened.note.oldest,
                newest: opened.note.newest,
                live: opened.live,
                cache: Cache::new(settings.cache_bytes),
                queue: VecDeque::new(),
                ticket: 0,
                flushed_sequence: next_sequence - 1,
                stopped: None,
            }),
            settings,
            queued: Notify::new(),
            note_due: Notify::new(),
            collect_due: Notify::new(),
            note: tokio::sync::Mutex::new(opened.note_file),
        });
        let tasks = Arc::new([
            runtime.spawn_owned("log writer", writer::run(shared.clone(), next_sequence)),
            runtime.spawn_owned("log note", writer::keep_note(shared.clone())),
            runtime.spawn_owned("log collector", collector::run(shared.clone())),
        ]);
        shared.collect_due.notify_one();
        Ok((SharedLog { shared, _tasks: tasks }, recovery))
    }

    /// Queues `appends`, in the order of calls; they are durable, all or none of them,
    /// when the result resolves. They are read back from now on.
    ///
    /// Nothing bounds the queue but its callers: each replica has a few appends under way
    /// at most, as Raft bounds what is in flight.
    pub fn append(&self, appends: Vec<Append>) -> Appended {
        let mut inner = self.shared.lock();
        match inner.append(appends) {
            Err(error) => Appended(AppendedInner::Refused(Some(error))),
            Ok(receiver) => {
                drop(inner);
                self.shared.queued.notify_one();
                Appended(AppendedInner::Queued(receiver))
            }
        }
    }

    /// Forgets `replica`; it is gone from now on, and for good when the result resolves.
    /// Removing what is not there succeeds.
    pub fn remove(&self, replica: ReplicaId) -> Appended {
        let mut inner = self.shared.lock();
        if let Some(error) = &inner.stopped {
            return Appended(AppendedInner::Refused(Some(error.clone())));
        }
        let works = if let Some(found) = inner.replicas.get(&replica)
            && !found.is_removed()
        {
            let ticket = inner.ticket + 1;
            inner.replicas.get_mut(&replica).expect("found above").remove(ticket);
            vec![Work::Remove { replica }]
        } else {
            // Still behind a removal that may be under way.
            Vec::new()
        };
        let receiver = inner.enqueue(works, format::PART_HEADER);
        drop(inner);
        self.shared.queued.notify_one();
        Appended(AppendedInner::Queued(receiver))
    }

    /// The replicas that have something here.
    pub fn replicas(&self) -> Vec<ReplicaId> {
        let inner = self.shared.lock();
        inner.replicas.iter().filter(|(_, replica)| !replica.is_removed()).map(|(id, _)| *id).collect()
    }

    /// Index of the first entry; 1 for a replica that is not here.
    pub fn first_index(&self, replica: ReplicaId) -> u64 {
        self.shared.lock().visible(replica).map_or(1, Replica::first)
    }

    /// Index of the last entry, durable or not; one before the first if there are none.
    pub fn last_index(&self, replica: ReplicaId) -> u64 {
        self.shared.lock().visible(replica).map_or(0, Replica::last)
    }

    /// The newest state, durable or not.
    pub fn state(&self, replica: ReplicaId) -> Option<Bytes> {
        self.shared.lock().visible(replica)?.state().cloned()
    }

    /// The term of an entry that is here, durable or not.
    pub fn term_of(&self, replica: ReplicaId, index: u64) -> Option<u64> {
        self.shared.lock().visible(replica)?.term_of(index)
    }

    /// Entries of `range`, in order: at least one, and then as many as fit `bytes_max` of
    /// payload.
    pub async fn read(
        &self,
        replica: ReplicaId,
        range: Range<u64>,
        bytes_max: usize,
    ) -> Result<Vec<LogEntry>, LogError> {
        let plan = self.shared.lock().plan(replica, range, bytes_max)?;
        self.shared.fetch(replica, plan).await
    }

    /// Like [`SharedLog::read`], at once: `None` if some of it must be read from the disk.
    pub fn read_cached(
        &self,
        replica: ReplicaId,
        range: Range<u64>,
        bytes_max: usize,
    ) -> Result<Option<Vec<LogEntry>>, LogError> {
        let plan = self.shared.lock().plan(replica, range, bytes_max)?;
        let entries = plan.into_iter().map(|planned| match planned.place {
            PlannedPlace::Memory(bytes) => Some(LogEntry { index: planned.index, term: planned.term, bytes }),
            PlannedPlace::Disk(..) => None,
        });
        Ok(entries.collect())
    }

    /// The replica needs its entries up to `through` no longer. Advice: it holds at
    /// once, but some of them may be back after a restart.
    pub fn trim(&self, replica: ReplicaId, through: u64) {
        let mut inner = self.shared.lock();
        let Inner { replicas, live, .. } = &mut *inner;
        if let Some(replica) = replicas.get_mut(&replica) {
            replica.trim(through, live);
            drop(inner);
            self.shared.collect_due.notify_one();
        }
    }

    /// Ends the log in good order: what was queued is durable, the note knows it, and all
    /// later appends fail.
    pub async fn close(&self) -> Result<(), LogError> {
        let everything = self.shared.lock().enqueue_or_stopped(Vec::new(), 0)?;
        self.shared.queued.notify_one();
        everything.await.unwrap_or(Err(LogError::Closed))?;
        let late = {
            let mut inner = self.shared.lock();
            inner.stopped.get_or_insert(LogError::Closed);
            std::mem::take(&mut inner.queue)
        };
        drop(late);
        self.shared.write_note().await.map_err(LogError::Poisoned)
    }
}

struct Planned {
    index: u64,
    term: u64,
    place: PlannedPlace,
}

enum PlannedPlace {
    Memory(Bytes),
    Disk(Slot, Arc<dyn File>),
}

impl Inner {
    fn visible(&self, replica: ReplicaId) -> Option<&Replica> {
        self.replicas.get(&replica).filter(|replica| !replica.is_removed())
    }

    fn append(&mut self, appends: Vec<Append>) -> Result<oneshot::Receiver<Result<(), LogError>>, LogError> {
        if let Some(error) = &self.stopped {
            return Err(error.clone());
        }
        let bytes = self.check(&appends)?;
        let ticket = self.ticket + 1;
        let mut works = Vec::with_capacity(appends.len());
        for append in appends {
            let replica = self.replicas.entry(append.replica).or_insert_with(Replica::new);
            replica.append(ticket, &append);
            works.push(Work::Append { first: replica.first(), append });
        }
        Ok(self.enqueue(works, bytes))
    }

    /// All of `appends` or none is taken, so all are checked first.
    fn check(&self, appends: &[Append]) -> Result<usize, LogError> {
        let mut total = 0;
        for (position, append) in appends.iter().enumerate() {
            let replica = append.replica;
            let (mut first, mut last) = match self.replicas.get(&replica) {
                Some(known) if known.forgotten => return Err(LogError::Forgotten { replica }),
                Some(known) if known.is_removed() => return Err(LogError::Removed { replica }),
                Some(known) => (known.first(), known.last()),
                None => (1, 0),
            };
            // What this very call appended to it before.
            for earlier in appends[..position].iter().filter(|earlier| earlier.replica == replica) {
                (first, last) = earlier.leaves(first, last);
            }
            if let Some(after) = append.start_after {
                (first, last) = (after + 1, after);
            }
            let mut expected = None;
            for entry in &append.entries {
                let fits = match expected {
                    None => first <= entry.index && entry.index <= last + 1,
                    Some(expected) => entry.index == expected,
                };
                if !fits {
                    return Err(LogError::OutOfPlace { replica, index: entry.index, first, last });
                }
                expected = Some(entry.index + 1);
            }
            let bytes = format::part_bytes(append.state.as_ref(), &append.entries);
            total += bytes;
            let longest = append.entries.iter().map(|entry| entry.bytes.len()).max().unwrap_or(0);
            if longest > ENTRY_BYTES_MAX || total > APPEND_BYTES_MAX {
                return Err(LogError::TooLarge { replica, bytes: longest.max(bytes) });
            }
        }
        Ok(total)
    }

    fn enqueue(&mut self, works: Vec<Work>, bytes: usize) -> oneshot::Receiver<Result<(), LogError>> {
        let (done, receiver) = oneshot::channel();
        self.ticket += 1;
        self.queue.push_back(Queued { ticket: self.ticket, works, bytes, done });
        receiver
    }

    fn enqueue_or_stopped(
        &mut self,
        works: Vec<Work>,
        bytes: usize,
    ) -> Result<oneshot::Receiver<Result<(), LogError>>, LogError> {
        match &self.stopped {
            Some(error) => Err(error.clone()),
            None => Ok(self.enqueue(works, bytes)),
        }
    }

    fn plan(
        &self,
        replica: ReplicaId,
        range: Range<u64>,
        bytes_max: usize,
    ) -> Result<Vec<Planned>, LogError> {
        let not_held = |index| LogError::NotHeld { replica, index };
        let found = self.visible(replica).ok_or(not_held(range.start))?;
        let mut plan = Vec::new();
        let mut bytes = 0;
        for index in range {
            let (term, place) = found.entry(index).ok_or(not_held(index))?;
            let (len, place) = match place {
                Place::Memory(payload) => (payload.len(), PlannedPlace::Memory(payload)),
                Place::Disk(slot) => {
                    let len = slot.len as usize;
                    let place = match self.cache.payload(slot) {
                        Some(payload) => PlannedPlace::Memory(payload),
                        None => PlannedPlace::Disk(slot, self.segments[&slot.segment].clone()),
                    };
                    (len, place)
                }
            };
            bytes += len;
            if !plan.is_empty() && bytes > bytes_max {
                break;
            }
            plan.push(Planned { index, term, place });
        }
        Ok(plan)
    }

    /// Everything queued and under way has failed: nothing of it is to be seen any more.
    fn fail_all(&mut self) -> Vec<Queued> {
        self.replicas.retain(|_, replica| !replica.withdraw());
        std::mem::take(&mut self.queue).into()
    }
}

impl Append {
    /// First and last index after this append, given those before it.
    fn leaves(&self, first: u64, last: u64) -> (u64, u64) {
        let (first, last) = self.start_after.map_or((first, last), |after| (after + 1, after));
        (first, self.entries.last().map_or(last, |entry| entry.index))
    }
}

/// Entries of one replica that lie at most this far apart are read with one read: the
/// disk would read ahead as much anyway.
const READ_GAP_BYTES: u32 = 16 << 10;

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("nobody panics while holding the log's index")
    }

    async fn fetch(&self, replica: ReplicaId, plan: Vec<Planned>) -> Result<Vec<LogEntry>, LogError> {
        let mut entries = Vec::with_capacity(plan.len());
        let mut window: Option<(u32, u32, Bytes)> = None;
        for position in 0..plan.len() {
            let Planned { index, term, place } = &plan[position];
            let bytes = match place {
                PlannedPlace::Memory(bytes) => bytes.clone(),
                PlannedPlace::Disk(slot, file) => {
                    let wanted = ENTRY_HEADER + slot.len as usize;
                    let inside = window.as_ref().filter(|(segment, start, bytes)| {
                        *segment == slot.segment
                            && *start <= slot.offset
                            && (slot.offset - start) as usize + wanted <= bytes.len()
                    });
                    let (start, bytes) = match inside {
                        Some((_, start, bytes)) => (*start, bytes.clone()),
                        None => {
                            let end = read_end(slot, &plan[position + 1..]);
                            let bytes = file
                                .read_at(slot.offset as u64, (end - slot.offset) as usize)
                                .await
                                .map_err(LogError::Read)?;
                            window = Some((slot.segment, slot.offset, bytes.clone()));
                            (slot.offset, bytes)
                        }
                    };
                    let at = (slot.offset - start) as usize;
                    let verified = (at + wanted <= bytes.len())
                        .then(|| verify_entry(replica, *index, *term, &bytes.slice(at..at + wanted)))
                        .flatten();
                    verified.ok_or(LogError::Damaged {
                        replica,
                        index: *index,
                        segment: slot.segment,
                        offset: slot.offset,
                    })?
                }
            };
            entries.push(LogEntry { index: *index, term: *term, bytes });
        }
        Ok(entries)
    }
}

/// Where one read should end that begins with `slot` and takes what follows closely.
fn read_end(slot: &Slot, following: &[Planned]) -> u32 {
    let mut end = slot.offset + ENTRY_HEADER as u32 + slot.len;
    for planned in following {
        match &planned.place {
            PlannedPlace::Disk(next, _)
                if next.segment == slot.segment
                    && next.offset >= end
                    && next.offset - end <= READ_GAP_BYTES =>
            {
                end = next.offset + ENTRY_HEADER as u32 + next.len;
            }
            _ => break,
        }
    }
    end
}
