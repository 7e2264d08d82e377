//! Reads the whole log at start, and judges what it finds.
//!
//! Every segment is searched for batches that carry its tag and are intact, at each
//! sector, beyond damaged ones too. In order of sequence they are replayed. A gap in
//! the sequence is lost data: every replica known by then is *in doubt*. Its next part
//! clears it if that part's *previous* names the last batch in which the replica was seen; otherwise
//! something of it was in the gap, and it has forgotten. Who stays in doubt has
//! forgotten too, as far as anyone can tell.
//!
//! A log that ends before the note, or in a segment that can't be read, puts all in
//! doubt, and leaves a gap before the next batch, so that the next start finds the same.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

use atoll_runtime::{Broken, is_broken};
use atoll_types::ReplicaId;
use bytes::Bytes;

use super::{
    FOLDER, LogVerdict, OpenLogError, RecoveredReplica, Recovery,
    format::{
        BATCH_HEADER, HeaderError, PART_HEADER, Part, PartKind, SECTOR, SEGMENT_MAX, SegmentHeader,
        batch_len, decode_batch, round_up,
    },
    note::{Note, NoteFile},
    replica::{Anchor, Live, Replica, Slot},
};
use crate::files::{DiskError, File, Files};

const SUFFIX: &str = ".segment";
/// Read at once.
const WINDOW_BYTES: usize = 1 << 20;

pub(super) fn segment_path(id: u32) -> String {
    format!("{FOLDER}/{id:08x}{SUFFIX}")
}

fn parse_name(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(SUFFIX)?;
    let id = u32::from_str_radix(digits, 16).ok()?;
    (digits.len() == 8 && id < SEGMENT_MAX).then_some(id)
}

/// What the log goes on with.
pub(super) struct Opened {
    pub replicas: BTreeMap<ReplicaId, Replica>,
    pub segments: BTreeMap<u32, Arc<dyn File>>,
    pub live: Live,
    pub note: Note,
    pub note_file: NoteFile,
    pub next_sequence: u64,
}

struct FoundSegment {
    id: u32,
    file: Arc<dyn File>,
    header: Option<SegmentHeader>,
}

struct FoundBatch {
    sequence: u64,
    offset: u64,
    parts: Vec<Part>,
}

/// Bytes after the last batch that are neither zeros nor a batch.
struct Tail {
    segment: u32,
    offset: u64,
    bytes: u64,
}

pub(super) async fn recover(files: &Arc<dyn Files>) -> Result<(Opened, Recovery), OpenLogError> {
    files.create_folder(FOLDER).await?;
    files.sync_folder("").await?;
    let (mut note_file, note) = NoteFile::open(files.as_ref()).await?;
    let mut ids: Vec<u32> = files.list(FOLDER).await?.iter().filter_map(|name| parse_name(name)).collect();
    ids.sort_unstable();

    let mut replay = Replay::default();
    let mut note = match (note, ids.as_slice()) {
        (Some(note), _) => {
            // It may have been read from the system's memory and not be on the disk yet;
            // segments are deleted by it below.
            note_file.write_both(note).await?;
            note
        }
        (None, []) => {
            note_file.write_both(Note::EMPTY).await?;
            Note::EMPTY
        }
        (None, [oldest, .., newest] | [oldest @ newest]) => {
            replay.distrust_end("the note of how far the log must reach is unreadable".into());
            Note { flushed: 0, oldest: *oldest, newest: *newest }
        }
    };

    let found = open_segments(files.as_ref(), &ids, &mut note, &mut replay).await?;
    // Where the sequence begins is known if the first segment is there.
    match found.first() {
        Some(FoundSegment { id, header: Some(header), .. }) if *id == note.oldest => {
            replay.begin(header.first_sequence);
        }
        _ => replay.begin(1),
    }
    let mut tail = None;
    let mut last_batch = None;
    for (position, segment) in found.iter().enumerate() {
        let Some(header) = segment.header else { continue };
        replay.expect(header.first_sequence, segment.id);
        let end =
            found[position + 1..].iter().find_map(|later| later.header).map(|later| later.first_sequence);
        let Scan { batches, last, tail: torn } = scan(segment, header.tag).await?;
        tail = torn;
        for batch in batches {
            // A new segment begins where the log was cut: what lies beyond was never
            // acknowledged.
            if end.is_some_and(|end| batch.sequence >= end) {
                continue;
            }
            replay.batch(segment.id, &batch);
            if last.as_ref().is_some_and(|(offset, _)| *offset == batch.offset) {
                last_batch = Some((segment.file.clone(), batch.sequence, last.clone()));
            }
        }
    }
    if replay.last_sequence() < note.flushed
        && !is_broken(Broken::NoteIgnored)
        && !is_broken(Broken::CutAtDamage)
    {
        replay.distrust_end(format!(
            "the log ends at batch {}, but batch {} was flushed",
            replay.last_sequence(),
            note.flushed
        ));
    }

    // After a crash of the process alone, or a failed flush, the last batch may be whole in
    // the system's memory and not on the disk. Written again it is flushed for sure; what
    // came before it was, or there would be no next batch.
    if let Some((file, sequence, Some((offset, bytes)))) = last_batch
        && sequence > note.flushed
    {
        file.write_and_sync(offset, vec![bytes]).await?;
    }
    let segments = found.into_iter().map(|segment| (segment.id, segment.file)).collect();
    Ok(replay.finish(segments, note, note_file, tail))
}

/// Opens what belongs to the log and deletes what doesn't: remains of segments that
/// the note has given up, or does not know yet.
async fn open_segments(
    files: &dyn Files,
    ids: &[u32],
    note: &mut Note,
    replay: &mut Replay,
) -> Result<Vec<FoundSegment>, OpenLogError> {
    let mut found: Vec<FoundSegment> = Vec::new();
    for &id in ids {
        let path = segment_path(id);
        if id < note.oldest {
            files.remove(&path).await?;
            continue;
        }
        let file = files.open(&path, false).await?;
        let header = match SegmentHeader::decode(&file.read_at(0, SECTOR).await?) {
            Ok(header) if header.segment == id => Some(header),
            Ok(_) | Err(HeaderError::Damaged) => None,
            Err(HeaderError::UnknownVersion { found }) => {
                return Err(OpenLogError::NewerVersion { segment: id, found });
            }
        };
        let segment = FoundSegment { id, file, header };
        if id > note.newest && is_unused(&segment).await? {
            // A crash came between its making and the note of it, and so before its first
            // batch. Even if it looks whole, nobody knows that it was flushed.
            files.remove(&path).await?;
            continue;
        }
        if segment.header.is_none() {
            replay.findings.push(format!("segment {id} has a damaged header"));
        }
        found.push(segment);
    }
    if note.newest >= note.oldest {
        if found.first().is_none_or(|segment| segment.id != note.oldest) {
            // A gap before the first batch there is: see `begin`.
            replay.findings.push(format!("segment {} is missing", note.oldest));
        }
        match found.last() {
            Some(FoundSegment { id, header: Some(_), .. }) if *id >= note.newest => {}
            _ => {
                replay.distrust_end(format!("segment {}, the newest, is missing or unreadable", note.newest))
            }
        }
    }
    note.newest = note.newest.max(found.last().map_or(0, |segment| segment.id));
    Ok(found)
}

/// No batch can be read in it. Asked of segments that the note does not know: if there is
/// one, it is the note that lost its newest slot.
async fn is_unused(segment: &FoundSegment) -> Result<bool, DiskError> {
    match segment.header {
        None => Ok(true),
        Some(header) => Ok(scan(segment, header.tag).await?.batches.is_empty()),
    }
}

/// What a segment holds.
struct Scan {
    /// All intact batches, by sequence.
    batches: Vec<FoundBatch>,
    /// The one that lies last, as it is on disk.
    last: Option<(u64, Bytes)>,
    /// What lies behind it.
    tail: Option<Tail>,
}

async fn scan(segment: &FoundSegment, tag: u64) -> Result<Scan, DiskError> {
    let len = segment.file.len().await?;
    let mut window = Window { file: segment.file.as_ref(), start: 0, bytes: Bytes::new() };
    let mut batches = Vec::new();
    let mut last = None;
    let mut tail: Option<Tail> = None;
    let mut at = SECTOR as u64;
    while at < len {
        let header = window.bytes(at, BATCH_HEADER).await?;
        if let Some(batch_bytes) = batch_len(&header, tag)
            && at + batch_bytes as u64 <= len
        {
            let bytes = window.bytes(at, batch_bytes).await?;
            if bytes.len() == batch_bytes
                && let Some((sequence, parts)) = decode_batch(&bytes)
            {
                batches.push(FoundBatch { sequence, offset: at, parts });
                last = Some((at, bytes));
                at += round_up(batch_bytes) as u64;
                tail = None;
                continue;
            }
        }
        if window.bytes(at, SECTOR).await?.iter().any(|byte| *byte != 0) {
            let tail = tail.get_or_insert(Tail { segment: segment.id, offset: at, bytes: 0 });
            tail.bytes = (at + SECTOR as u64).min(len) - tail.offset;
        }
        at += SECTOR as u64;
    }
    batches.sort_by_key(|batch| batch.sequence);
    Ok(Scan { batches, last, tail })
}

/// Reads a file forward, a large piece at a time.
struct Window<'a> {
    file: &'a dyn File,
    start: u64,
    bytes: Bytes,
}

impl Window<'_> {
    /// Fewer only at the end of the file.
    async fn bytes(&mut self, offset: u64, len: usize) -> Result<Bytes, DiskError> {
        let end = self.start + self.bytes.len() as u64;
        if offset < self.start || offset + len as u64 > end {
            self.bytes = self.file.read_at(offset, len.max(WINDOW_BYTES)).await?;
            self.start = offset;
        }
        let from = ((offset - self.start) as usize).min(self.bytes.len());
        Ok(self.bytes.slice(from..(from + len).min(self.bytes.len())))
    }
}

#[derive(Default)]
struct Replaying {
    first: u64,
    entries: BTreeMap<u64, Slot>,
    state: Option<Bytes>,
    anchor: Option<Anchor>,
    last_sequence: u64,
    in_doubt: bool,
    forgotten: bool,
}

/// The log's contents, batch after batch.
#[derive(Default)]
struct Replay {
    replicas: BTreeMap<ReplicaId, Replaying>,
    /// Batches before it were given up in good order.
    start: u64,
    expected: u64,
    findings: Vec<String>,
    end_distrusted: bool,
}

impl Replay {
    fn begin(&mut self, first_sequence: u64) {
        self.start = first_sequence;
        self.expected = first_sequence;
    }

    fn last_sequence(&self) -> u64 {
        self.expected - 1
    }

    /// Something is wrong with the end of the log, and nobody can tell who lost what.
    fn distrust_end(&mut self, finding: String) {
        self.findings.push(finding);
        self.end_distrusted = true;
    }

    /// How a log reads that takes damage for its end.
    fn is_cut(&self, sequence: u64) -> bool {
        sequence > self.expected && is_broken(Broken::CutAtDamage)
    }

    /// The next batch there is has this sequence.
    fn expect(&mut self, sequence: u64, segment: u32) {
        if sequence > self.expected && !self.is_cut(sequence) {
            self.findings.push(format!(
                "batches {} to {} are missing or damaged (found in segment {segment})",
                self.expected,
                sequence - 1
            ));
            for replica in self.replicas.values_mut() {
                replica.in_doubt = true;
            }
            self.expected = sequence;
        }
    }

    fn batch(&mut self, segment: u32, batch: &FoundBatch) {
        if batch.sequence < self.expected || self.is_cut(batch.sequence) {
            // A second copy, which a misplaced write may leave.
            return;
        }
        self.expect(batch.sequence, segment);
        self.expected = batch.sequence + 1;
        for part in &batch.parts {
            self.part(segment, batch, part);
        }
    }

    fn part(&mut self, segment: u32, batch: &FoundBatch, part: &Part) {
        let header = part.header;
        let replica = self.replicas.entry(header.replica).or_default();
        if replica.last_sequence != batch.sequence {
            if header.previous == replica.last_sequence {
                replica.in_doubt = false;
            } else if !(replica.last_sequence == 0 && header.previous < self.start) {
                replica.forgotten = true;
            }
            replica.last_sequence = batch.sequence;
        }
        if header.kind == PartKind::Remove {
            self.replicas.remove(&header.replica);
            return;
        }
        if header.restart {
            replica.entries.clear();
        }
        if header.kind == PartKind::Append && !part.entries.is_empty() {
            replica.entries.split_off(&header.index);
        }
        replica.first = header.first;
        let slots = part.entries.iter().map(|at| Slot::new(*at, segment, batch.offset as u32));
        replica.entries.extend((header.index..).zip(slots));
        if part.state.is_some() || replica.state.is_none() {
            let bytes = PART_HEADER + part.state.as_ref().map_or(0, Bytes::len);
            replica.anchor = Some(Anchor { segment, bytes: bytes as u64 });
            replica.state = part.state.clone();
        }
    }

    fn finish(
        self,
        segments: BTreeMap<u32, Arc<dyn File>>,
        note: Note,
        note_file: NoteFile,
        tail: Option<Tail>,
    ) -> (Opened, Recovery) {
        let mut live = Live::default();
        let mut replicas = BTreeMap::new();
        let mut recovered = BTreeMap::new();
        let mut forgotten = BTreeSet::new();
        let last_sequence = self.last_sequence();
        for (id, replica) in self.replicas {
            let lost = replica.forgotten || replica.in_doubt || self.end_distrusted;
            if lost {
                forgotten.insert(id);
            }
            let (first, slots) = contiguous(replica.first, replica.entries);
            recovered.insert(
                id,
                RecoveredReplica {
                    state: replica.state.clone(),
                    first_index: first,
                    last_index: first + slots.len() as u64 - 1,
                },
            );
            let anchor = replica.anchor.expect("a replica's first part anchors it");
            let replica = Replica::recovered(
                first,
                slots,
                replica.state,
                anchor,
                replica.last_sequence,
                lost,
                &mut live,
            );
            replicas.insert(id, replica);
        }
        let verdict = if !self.findings.is_empty() {
            LogVerdict::Damaged { forgotten, findings: self.findings }
        } else if let Some(Tail { segment, offset, bytes }) = tail {
            LogVerdict::TornTail { segment, offset, bytes }
        } else {
            LogVerdict::Clean
        };
        // One left out if the end can't be trusted.
        let next_sequence = last_sequence.max(note.flushed) + if self.end_distrusted { 2 } else { 1 };
        let opened = Opened { replicas, segments, live, note, note_file, next_sequence };
        (opened, Recovery { replicas: recovered, verdict })
    }
}

/// The entries from `first` on, up to the last, without those before a hole: they were
/// trimmed, and the segments between are gone.
fn contiguous(first: u64, entries: BTreeMap<u64, Slot>) -> (u64, VecDeque<Slot>) {
    let mut slots = VecDeque::new();
    let mut start = first;
    let mut expected = None;
    for (index, slot) in entries.into_iter().rev() {
        if index < first || expected.is_some_and(|expected| index != expected) {
            break;
        }
        slots.push_front(slot);
        start = index;
        expected = index.checked_sub(1);
    }
    (start, slots)
}
