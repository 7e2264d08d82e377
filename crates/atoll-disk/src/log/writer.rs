//! The one task that writes: takes what is queued, writes it as a batch, flushes, applies
//! it to the index, and resolves the callers.

use std::sync::Arc;

use atoll_types::ReplicaId;
use bytes::Bytes;
use rand::{Rng, rngs::StdRng};

use super::{
    FOLDER, Inner, LogEntry, LogError, Queued, Shared, Work,
    format::{
        BATCH_HEADER, BatchBuilder, EntryAt, PART_HEADER, PartHeader, PartKind, SECTOR, SegmentHeader,
        part_bytes, round_up,
    },
    note::Note,
    recovery::segment_path,
    replica::{Anchor, Slot},
};
use crate::files::{DiskError, File, OP_WRITE};

/// A batch before it is encoded.
struct Batch {
    parts: Vec<NewPart>,
    queued: Vec<Queued>,
}

/// What one part is made of, and what its being durable changes.
struct NewPart {
    header: PartHeader,
    state: Option<Bytes>,
    entries: Vec<LogEntry>,
    /// For copies: where each entry was.
    from: Vec<Slot>,
    ticket: u64,
}

struct Segment {
    id: u32,
    tag: u64,
    file: Arc<dyn File>,
    /// Where the next batch goes.
    end: u64,
    /// Up to here the file has been written, with zeros if nothing else.
    zeroed: u64,
    zeros_ahead: usize,
}

struct Writer {
    shared: Arc<Shared>,
    rng: StdRng,
    sequence: u64,
    /// `None` before the first batch, and after one that found the disk full.
    current: Option<Segment>,
    zeros: Bytes,
}

pub(super) async fn run(shared: Arc<Shared>, next_sequence: u64) {
    let rng = shared.runtime.rng();
    let zeros = Bytes::from(vec![0; shared.settings.zeros_ahead]);
    let mut writer = Writer { shared: shared.clone(), rng, sequence: next_sequence, current: None, zeros };
    loop {
        match writer.take() {
            Some(batch) => writer.write(batch).await,
            None => shared.queued.notified().await,
        }
    }
}

/// Keeps the note at most `note_interval` behind.
pub(super) async fn keep_note(shared: Arc<Shared>) {
    loop {
        shared.note_due.notified().await;
        if let Err(error) = shared.write_note().await {
            // The disk can't flush: see the module's invariants.
            shared.lock().stopped.get_or_insert(LogError::Poisoned(error));
            shared.queued.notify_one();
            return;
        }
        shared.runtime.sleep(shared.settings.note_interval).await;
    }
}

impl Shared {
    pub(super) async fn write_note(&self) -> Result<(), DiskError> {
        // Looked up behind the lock, so that the note never goes back.
        let mut file = self.note.lock().await;
        let note = self.lock().note();
        file.write(note).await
    }
}

impl Inner {
    pub(super) fn note(&self) -> Note {
        Note { flushed: self.flushed_sequence, oldest: self.oldest, newest: self.newest }
    }
}

impl Writer {
    fn take(&mut self) -> Option<Batch> {
        let mut inner = self.shared.lock();
        if let Some(error) = inner.stopped.clone() {
            let failed = inner.fail_all();
            drop(inner);
            resolve(failed, &Err(error));
            return None;
        }
        let mut queued = Vec::new();
        let mut bytes = 0;
        while let Some(next) = inner.queue.front()
            && (queued.is_empty() || bytes + next.bytes <= self.shared.settings.batch_bytes)
        {
            bytes += next.bytes;
            queued.extend(inner.queue.pop_front());
        }
        if queued.is_empty() {
            return None;
        }
        // Copies first: what they copy is durable, so it is older than all else in here.
        let mut parts = Vec::new();
        let mut later = Vec::new();
        for Queued { ticket, works, .. } in &mut queued {
            for work in works.drain(..) {
                match work {
                    Work::Move { replica, entries } => copies(&inner, *ticket, replica, entries, &mut parts),
                    Work::Append { append, first } => {
                        let index = append.entries.first().map(|entry| entry.index);
                        later.push(NewPart {
                            header: PartHeader {
                                kind: PartKind::Append,
                                replica: append.replica,
                                previous: inner.previous(append.replica),
                                first,
                                index: index.or(append.start_after.map(|after| after + 1)).unwrap_or(first),
                                restart: append.start_after.is_some(),
                            },
                            state: append.state,
                            entries: append.entries,
                            from: Vec::new(),
                            ticket: *ticket,
                        });
                    }
                    Work::Remove { replica } => later.push(NewPart {
                        header: PartHeader {
                            kind: PartKind::Remove,
                            replica,
                            previous: inner.previous(replica),
                            first: 0,
                            index: 0,
                            restart: false,
                        },
                        state: None,
                        entries: Vec::new(),
                        from: Vec::new(),
                        ticket: *ticket,
                    }),
                }
            }
        }
        parts.append(&mut later);
        Some(Batch { parts, queued })
    }

    async fn write(&mut self, batch: Batch) {
        // Nothing to write is durable already: all before it is.
        let result = if batch.parts.is_empty() { Ok(()) } else { self.write_parts(batch.parts).await };
        let mut done = batch.queued;
        if let Err(error) = &result {
            tracing::error!(%error, "log: writing failed");
            let mut inner = self.shared.lock();
            if matches!(error, LogError::Poisoned(_)) {
                inner.stopped.get_or_insert(error.clone());
            }
            // What was queued behind may build upon what failed.
            done.extend(inner.fail_all());
        }
        resolve(done, &result);
    }

    async fn write_parts(&mut self, parts: Vec<NewPart>) -> Result<(), LogError> {
        let body: usize = parts.iter().map(|part| part_bytes(part.state.as_ref(), &part.entries)).sum();
        let len = round_up(BATCH_HEADER + body) as u64;
        let full = |segment: &Segment| {
            segment.end > SECTOR as u64 && segment.end + len > self.shared.settings.segment_bytes
        };
        if self.current.as_ref().is_none_or(full) {
            self.current = None;
            self.current = Some(self.begin_segment().await.map_err(failure)?);
        }
        let segment = self.current.as_mut().expect("just ensured");

        let mut builder = BatchBuilder::new(segment.tag, self.sequence, body);
        let places: Vec<Vec<EntryAt>> =
            parts.iter().map(|part| builder.part(part.header, part.state.as_ref(), &part.entries)).collect();
        let batch = builder.finish();
        let offset = segment.end;
        if let Err(error) = segment.write(&batch, &self.zeros, self.shared.settings.segment_bytes).await {
            // If there is room again the next batch takes this sequence, in a new segment.
            self.current = None;
            return Err(failure(error));
        }
        let id = segment.id;
        self.apply(parts, places, id, offset as u32, batch);
        self.sequence += 1;
        self.shared.note_due.notify_one();
        Ok(())
    }

    /// Makes a segment that can be written to: its header, its name and the note of it
    /// are durable.
    async fn begin_segment(&mut self) -> Result<Segment, DiskError> {
        let shared = &self.shared;
        let id = shared.lock().newest + 1;
        let tag = self.rng.random();
        let path = segment_path(id);
        let file = shared.files.open(&path, true).await?;
        // What an earlier attempt left there.
        file.set_len(0).await?;
        let mut segment = Segment {
            id,
            tag,
            file: file.clone(),
            end: 0,
            zeroed: 0,
            zeros_ahead: shared.settings.zeros_ahead,
        };
        let header = SegmentHeader { segment: id, tag, first_sequence: self.sequence }.encode();
        segment.write(&header, &self.zeros, shared.settings.segment_bytes).await?;
        shared.files.sync_folder(FOLDER).await?;
        {
            let mut inner = shared.lock();
            inner.segments.insert(id, file);
            inner.newest = id;
        }
        shared.write_note().await?;
        shared.collect_due.notify_one();
        Ok(segment)
    }

    /// The batch is durable.
    fn apply(&self, parts: Vec<NewPart>, places: Vec<Vec<EntryAt>>, segment: u32, offset: u32, batch: Bytes) {
        let mut inner = self.shared.lock();
        let Inner { replicas, live, .. } = &mut *inner;
        let ticket = parts.iter().map(|part| part.ticket).max().unwrap_or(0);
        for (part, places) in parts.into_iter().zip(places) {
            let NewPart { header, state, entries, from, .. } = part;
            let replica = replicas.get_mut(&header.replica).expect("only this task takes replicas away");
            replica.last_sequence = self.sequence;
            let anchor =
                Anchor { segment, bytes: (PART_HEADER + state.as_ref().map_or(0, Bytes::len)) as u64 };
            let slots = places.into_iter().map(|at| Slot::new(at, segment, offset));
            match header.kind {
                PartKind::Append => {
                    replica.appended(header.restart, header.index, slots, state, anchor, live);
                }
                PartKind::Moved => {
                    replica.re_anchor(anchor, live);
                    for ((entry, from), to) in entries.iter().zip(from).zip(slots) {
                        replica.moved(entry.index, from, to, live);
                    }
                }
                PartKind::Remove => {
                    replica.release(live);
                    replicas.remove(&header.replica);
                    self.shared.collect_due.notify_one();
                    continue;
                }
            }
            replica.settle(ticket);
        }
        inner.cache.insert(segment, offset, batch);
        inner.flushed_sequence = self.sequence;
    }
}

impl Inner {
    /// The batch in which the replica appeared last. This task writes one batch at a time,
    /// so it is known when the next is made.
    fn previous(&self, replica: ReplicaId) -> u64 {
        self.replicas.get(&replica).map_or(0, |replica| replica.last_sequence)
    }
}

/// The parts that copy what still is as the collector found it, one per run of indexes;
/// each carries the state, because the newest part of a replica vouches for it.
fn copies(
    inner: &Inner,
    ticket: u64,
    id: ReplicaId,
    entries: Vec<(LogEntry, Slot)>,
    parts: &mut Vec<NewPart>,
) {
    let Some(replica) = inner.replicas.get(&id) else { return };
    let part = || NewPart {
        header: PartHeader {
            kind: PartKind::Moved,
            replica: id,
            previous: replica.last_sequence,
            first: replica.durable_first(),
            index: replica.durable_first(),
            restart: false,
        },
        state: replica.durable_state().cloned(),
        entries: Vec::new(),
        from: Vec::new(),
        ticket,
    };
    let mut current = part();
    for (entry, slot) in entries.into_iter().filter(|(entry, slot)| replica.slot(entry.index) == Some(*slot))
    {
        if current.entries.last().is_some_and(|last| last.index + 1 != entry.index) {
            parts.push(std::mem::replace(&mut current, part()));
        }
        if current.entries.is_empty() {
            current.header.index = entry.index;
        }
        current.entries.push(entry);
        current.from.push(slot);
    }
    parts.push(current);
}

impl Segment {
    /// Writes and flushes at the end, and zeros beyond it when those written before run out.
    async fn write(&mut self, bytes: &Bytes, zeros: &Bytes, segment_bytes: u64) -> Result<(), DiskError> {
        let end = self.end + bytes.len() as u64;
        let mut zeroed = self.zeroed.max(end);
        if end > self.zeroed && end < segment_bytes && self.zeros_ahead > 0 {
            let ahead = (segment_bytes - end).min(self.zeros_ahead as u64);
            let parts = vec![bytes.clone(), zeros.slice(..ahead as usize)];
            match self.file.write_and_sync(self.end, parts).await {
                Ok(()) => zeroed = end + ahead,
                // The zeros are a luxury.
                Err(error) if error.is_full() => {
                    self.zeros_ahead = 0;
                    self.file.write_and_sync(self.end, vec![bytes.clone()]).await?;
                }
                Err(error) => return Err(error),
            }
        } else {
            self.file.write_and_sync(self.end, vec![bytes.clone()]).await?;
        }
        self.end = end;
        self.zeroed = zeroed;
        Ok(())
    }
}

/// Lack of room that showed before anything was flushed can be lived with; all else can't.
fn failure(error: DiskError) -> LogError {
    if error.is_full() && matches!(error.operation, OP_WRITE | "open" | "resize") {
        LogError::Full(error)
    } else {
        LogError::Poisoned(error)
    }
}

fn resolve(queued: Vec<Queued>, result: &Result<(), LogError>) {
    for Queued { done, .. } in queued {
        // A caller that doesn't wait any more need not know.
        let _ = done.send(result.clone());
    }
}
