//! The log's bytes. All numbers are little-endian.
//!
//! ```text
//! segment  = header, batch*, zeros            file log/<segment, 8 hex digits>.segment
//! header   = "ATOLLLOG", version u32, segment u32, tag u64, first sequence u64, crc u32    one sector
//! batch    = tag u64, crc u32, body bytes u32, sequence u64, body, zeros to the next sector
//! body     = part*
//! part     = replica u64, previous u64, first u64, index u64, state bytes u32, entries u32,
//!            kind u8, flags u8, 6 zeros, state, entry*
//! entry    = term u64, bytes u32, crc u32, payload
//! ```
//!
//! - The *tag* is drawn at random for each segment. A batch that lies in the wrong file,
//!   or a payload made to look like a batch, does not carry it.
//! - A batch's crc covers all that follows it in the batch, an entry's its replica,
//!   index, term and payload, so that an entry can be verified when it is read alone.
//! - Batches begin at sectors: no write ever touches a sector that holds a flushed batch,
//!   and a search for batches beyond a damaged one looks at sectors only.
//! - *previous* is the sequence of the batch in which this replica appeared before (0:
//!   never). It proves, after a damaged batch, which replicas lost nothing in it.
//! - *first* is the replica's first index when the part was made: trimming needs no
//!   record of its own.
//!
//! Not postcard, as the other formats are: where each payload lies must be known, and
//! this is the path of every write.

use atoll_types::ReplicaId;
use bytes::Bytes;

use super::LogEntry;

pub(super) const SECTOR: usize = 512;
pub(super) const BATCH_HEADER: usize = 24;
pub(super) const PART_HEADER: usize = 48;
pub(super) const ENTRY_HEADER: usize = 16;

/// Indexes and sequences end here: a million a second for a hundred thousand years. What says
/// more is damage, whatever its checksum says, and nothing that is counted up from what was read
/// can overflow.
pub(super) const COUNT_MAX: u64 = 1 << 62;
/// As that, for segments: 32 MiB each.
pub(super) const SEGMENT_MAX: u32 = 1 << 31;

const MAGIC: &[u8; 8] = b"ATOLLLOG";
const VERSION: u32 = 1;
const SEGMENT_HEADER: usize = 36;
/// Where the batch's crc ends and what it covers begins.
const CRC_END: usize = 12;
const FLAG_STATE: u8 = 1;
const FLAG_RESTART: u8 = 2;

pub(super) fn round_up(len: usize) -> usize {
    len.next_multiple_of(SECTOR)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight bytes"))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    pub segment: u32,
    pub tag: u64,
    pub first_sequence: u64,
}

impl SegmentHeader {
    pub(super) fn encode(&self) -> Bytes {
        let mut bytes = Vec::with_capacity(SECTOR);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.segment.to_le_bytes());
        bytes.extend_from_slice(&self.tag.to_le_bytes());
        bytes.extend_from_slice(&self.first_sequence.to_le_bytes());
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes.resize(SECTOR, 0);
        bytes.into()
    }

    /// What a segment's first sector says, if it is whole, and which version it has.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, HeaderError> {
        let intact = bytes.len() >= SEGMENT_HEADER
            && bytes.starts_with(MAGIC)
            && u32_at(bytes, SEGMENT_HEADER - 4) == crc32c::crc32c(&bytes[..SEGMENT_HEADER - 4]);
        if !intact {
            return Err(HeaderError::Damaged);
        }
        match u32_at(bytes, 8) {
            VERSION if u32_at(bytes, 12) >= SEGMENT_MAX || !(1..COUNT_MAX).contains(&u64_at(bytes, 24)) => {
                Err(HeaderError::Damaged)
            }
            VERSION => Ok(Self {
                segment: u32_at(bytes, 12),
                tag: u64_at(bytes, 16),
                first_sequence: u64_at(bytes, 24),
            }),
            found => Err(HeaderError::UnknownVersion { found }),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HeaderError {
    Damaged,
    /// A newer program wrote it: not damage, and nothing to be done but to refuse.
    UnknownVersion {
        found: u32,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PartKind {
    /// Entries that replace the replica's log from `index` on, a new state, or both.
    Append,
    /// Entries that stand elsewhere in the log too, rewritten so that their segment can go.
    Moved,
    /// The replica is gone.
    Remove,
}

/// A part without its state and entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PartHeader {
    pub kind: PartKind,
    pub replica: ReplicaId,
    pub previous: u64,
    pub first: u64,
    /// Of the first entry.
    pub index: u64,
    /// The replica's log begins anew at `index`, whatever it held.
    pub restart: bool,
}

/// Where an entry lies, in a batch or in a segment: the offset of its header there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EntryAt {
    pub term: u64,
    pub offset: u32,
    pub len: u32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub header: PartHeader,
    pub state: Option<Bytes>,
    pub entries: Vec<EntryAt>,
}

/// What a part takes in a batch.
pub(super) fn part_bytes(state: Option<&Bytes>, entries: &[LogEntry]) -> usize {
    PART_HEADER
        + state.map_or(0, Bytes::len)
        + entries.iter().map(|entry| ENTRY_HEADER + entry.bytes.len()).sum::<usize>()
}

fn entry_crc(replica: ReplicaId, index: u64, term: u64, payload: &[u8]) -> u32 {
    let mut name = [0; 24];
    name[..8].copy_from_slice(&replica.0.to_le_bytes());
    name[8..16].copy_from_slice(&index.to_le_bytes());
    name[16..].copy_from_slice(&term.to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c(&name), payload)
}

/// The payload in `bytes` (header and payload of one entry), if it is the wanted one, whole.
pub(super) fn verify_entry(replica: ReplicaId, index: u64, term: u64, bytes: &Bytes) -> Option<Bytes> {
    if bytes.len() < ENTRY_HEADER || u64_at(bytes, 0) != term {
        return None;
    }
    let payload = bytes.slice(ENTRY_HEADER..);
    let intact = u32_at(bytes, 8) as usize == payload.len()
        && u32_at(bytes, 12) == entry_crc(replica, index, term, &payload);
    intact.then_some(payload)
}

/// Builds one batch.
pub(super) struct BatchBuilder {
    bytes: Vec<u8>,
}

impl BatchBuilder {
    pub(super) fn new(tag: u64, sequence: u64, body_bytes: usize) -> Self {
        let mut bytes = Vec::with_capacity(round_up(BATCH_HEADER + body_bytes));
        bytes.extend_from_slice(&tag.to_le_bytes());
        bytes.extend_from_slice(&[0; 8]); // crc and length: see `finish`
        bytes.extend_from_slice(&sequence.to_le_bytes());
        Self { bytes }
    }

    /// Adds a part; says for each entry where it lies in the batch.
    pub(super) fn part(
        &mut self,
        header: PartHeader,
        state: Option<&Bytes>,
        entries: &[LogEntry],
    ) -> Vec<EntryAt> {
        let bytes = &mut self.bytes;
        bytes.extend_from_slice(&header.replica.0.to_le_bytes());
        bytes.extend_from_slice(&header.previous.to_le_bytes());
        bytes.extend_from_slice(&header.first.to_le_bytes());
        bytes.extend_from_slice(&header.index.to_le_bytes());
        bytes.extend_from_slice(&(state.map_or(0, Bytes::len) as u32).to_le_bytes());
        bytes.extend_from_slice(&(entries.len() as u32).to_le_bytes());
        bytes.push(match header.kind {
            PartKind::Append => 1,
            PartKind::Moved => 2,
            PartKind::Remove => 3,
        });
        let flags =
            if state.is_some() { FLAG_STATE } else { 0 } | if header.restart { FLAG_RESTART } else { 0 };
        bytes.push(flags);
        bytes.extend_from_slice(&[0; 6]);
        if let Some(state) = state {
            bytes.extend_from_slice(state);
        }
        entries
            .iter()
            .map(|entry| {
                let at =
                    EntryAt { term: entry.term, offset: bytes.len() as u32, len: entry.bytes.len() as u32 };
                let crc = entry_crc(header.replica, entry.index, entry.term, &entry.bytes);
                bytes.extend_from_slice(&entry.term.to_le_bytes());
                bytes.extend_from_slice(&at.len.to_le_bytes());
                bytes.extend_from_slice(&crc.to_le_bytes());
                bytes.extend_from_slice(&entry.bytes);
                at
            })
            .collect()
    }

    pub(super) fn finish(self) -> Bytes {
        let mut bytes = self.bytes;
        let body = (bytes.len() - BATCH_HEADER) as u32;
        bytes[12..16].copy_from_slice(&body.to_le_bytes());
        let crc = crc32c::crc32c(&bytes[CRC_END..]);
        bytes[8..CRC_END].copy_from_slice(&crc.to_le_bytes());
        bytes.resize(round_up(bytes.len()), 0);
        bytes.into()
    }
}

/// A batch with any body.
#[cfg(any(test, fuzzing))]
pub(super) fn batch_of(tag: u64, sequence: u64, body: &[u8]) -> Bytes {
    let mut builder = BatchBuilder::new(tag, sequence, body.len());
    builder.bytes.extend_from_slice(body);
    builder.finish()
}

/// How long the batch is that seems to begin here, its padding left out; `None` if it
/// does not look like a batch of the segment with this tag.
pub(super) fn batch_len(header: &[u8], tag: u64) -> Option<usize> {
    if header.len() < BATCH_HEADER || u64_at(header, 0) != tag {
        return None;
    }
    Some(BATCH_HEADER + u32_at(header, CRC_END) as usize)
}

/// Sequence and parts of a whole batch, `None` if it is damaged in any way.
pub(super) fn decode_batch(batch: &Bytes) -> Option<(u64, Vec<Part>)> {
    let sequence = u64_at(batch, 16);
    let is_whole = u32_at(batch, 8) == crc32c::crc32c(&batch[CRC_END..]);
    if !is_whole || !(1..COUNT_MAX).contains(&sequence) {
        return None;
    }
    let mut parts = Vec::new();
    let mut at = BATCH_HEADER;
    while at < batch.len() {
        let (part, end) = decode_part(batch, at)?;
        parts.push(part);
        at = end;
    }
    Some((sequence, parts))
}

fn decode_part(batch: &Bytes, at: usize) -> Option<(Part, usize)> {
    let bytes = batch.get(at..at + PART_HEADER)?;
    let header = PartHeader {
        replica: ReplicaId(u64_at(bytes, 0)),
        previous: u64_at(bytes, 8),
        first: u64_at(bytes, 16),
        index: u64_at(bytes, 24),
        kind: match bytes[40] {
            1 => PartKind::Append,
            2 => PartKind::Moved,
            3 => PartKind::Remove,
            _ => return None,
        },
        restart: bytes[41] & FLAG_RESTART != 0,
    };
    // Of a replica that is gone both are 0.
    let indexes = if header.kind == PartKind::Remove { 0..COUNT_MAX } else { 1..COUNT_MAX };
    if !indexes.contains(&header.first) || !indexes.contains(&header.index) {
        return None;
    }
    let state_len = u32_at(bytes, 32) as usize;
    let count = u32_at(bytes, 36) as usize;
    let mut end = at + PART_HEADER;
    let state = batch.get(end..end + state_len)?;
    // A copy: a few dozen bytes must not hold on to the whole segment's buffer.
    let state = (bytes[41] & FLAG_STATE != 0).then(|| Bytes::copy_from_slice(state));
    end += state_len;
    let mut entries = Vec::with_capacity(count.min(batch.len() / ENTRY_HEADER));
    for _ in 0..count {
        let header = batch.get(end..end + ENTRY_HEADER)?;
        let entry = EntryAt { term: u64_at(header, 0), offset: end as u32, len: u32_at(header, 8) };
        end += ENTRY_HEADER + entry.len as usize;
        if end > batch.len() {
            return None;
        }
        entries.push(entry);
    }
    Some((Part { header, state, entries }, end))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries() -> Vec<LogEntry> {
        (0..3).map(|i| LogEntry { index: 7 + i, term: 2, bytes: vec![i as u8; 300].into() }).collect()
    }

    fn header(kind: PartKind) -> PartHeader {
        PartHeader { kind, replica: ReplicaId(9), previous: 4, first: 3, index: 7, restart: false }
    }

    #[test]
    fn a_batch_reads_back_and_any_flipped_bit_in_it_shows() {
        let mut builder = BatchBuilder::new(77, 5, 0);
        let state = Bytes::from_static(b"state");
        let places = builder.part(header(PartKind::Append), Some(&state), &entries());
        builder.part(header(PartKind::Remove), None, &[]);
        let padded = builder.finish();
        assert_eq!(padded.len() % SECTOR, 0);
        let len = batch_len(&padded, 77).expect("a batch");
        let batch = padded.slice(..len);
        let (sequence, parts) = decode_batch(&batch).expect("intact");
        assert_eq!(sequence, 5);
        assert_eq!(parts.len(), 2);
        assert_eq!(
            parts[0],
            Part { header: header(PartKind::Append), state: Some(state), entries: places.clone() }
        );
        assert_eq!(parts[1], Part { header: header(PartKind::Remove), state: None, entries: vec![] });
        for (entry, at) in entries().iter().zip(places) {
            let bytes = batch.slice(at.offset as usize..at.offset as usize + ENTRY_HEADER + at.len as usize);
            assert_eq!(
                verify_entry(ReplicaId(9), entry.index, entry.term, &bytes),
                Some(entry.bytes.clone())
            );
            assert_eq!(verify_entry(ReplicaId(9), entry.index + 1, entry.term, &bytes), None);
            assert_eq!(verify_entry(ReplicaId(8), entry.index, entry.term, &bytes), None);
        }
        for bit in 0..len * 8 {
            let mut flipped = padded.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            let found = batch_len(&flipped, 77)
                .filter(|&len| len <= flipped.len())
                .and_then(|len| decode_batch(&Bytes::from(flipped).slice(..len)));
            assert_eq!(found, None, "bit {bit}");
        }
    }

    /// What is counted up from such numbers overflowed: a panic in a debug build, and in a release
    /// build a replica with 2^64 entries.
    #[test]
    fn numbers_that_no_log_gets_to_are_damage() {
        let batch = |sequence, header| {
            let mut builder = BatchBuilder::new(77, sequence, 0);
            builder.part(header, None, &[]);
            let padded = builder.finish();
            decode_batch(&padded.slice(..batch_len(&padded, 77).expect("a batch")))
        };
        let sound = header(PartKind::Append);
        assert!(batch(COUNT_MAX - 1, sound).is_some());
        for sequence in [0, COUNT_MAX, u64::MAX] {
            assert_eq!(batch(sequence, sound), None, "{sequence}");
        }
        for index in [0, COUNT_MAX, u64::MAX] {
            assert_eq!(batch(5, PartHeader { index, ..sound }), None, "{index}");
            assert_eq!(batch(5, PartHeader { first: index, ..sound }), None, "{index}");
        }
        let gone = PartHeader { first: 0, index: 0, ..header(PartKind::Remove) };
        assert!(batch(5, gone).is_some());
        for segment in [SEGMENT_MAX, u32::MAX] {
            let header = SegmentHeader { segment, tag: 1, first_sequence: 1 };
            assert!(matches!(SegmentHeader::decode(&header.encode()), Err(HeaderError::Damaged)));
        }
        for first_sequence in [0, COUNT_MAX, u64::MAX] {
            let header = SegmentHeader { segment: 3, tag: 0xabcd, first_sequence };
            assert_eq!(SegmentHeader::decode(&header.encode()), Err(HeaderError::Damaged));
        }
    }

    #[test]
    fn a_segment_header_reads_back_and_any_flipped_bit_in_it_shows() {
        let header = SegmentHeader { segment: 3, tag: 0xabcd, first_sequence: 99 };
        let bytes = header.encode();
        assert_eq!(bytes.len(), SECTOR);
        assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
        for bit in 0..SEGMENT_HEADER * 8 {
            let mut flipped = bytes.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&flipped), Err(HeaderError::Damaged), "bit {bit}");
        }
    }
}
