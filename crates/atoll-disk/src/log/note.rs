//! The note: a few numbers in a file of their own, which tell at the next start how far
//! the log must reach. Without it a log that lost its end looks just like one whose last
//! write was torn.
//!
//! Two slots are written in turn, so a torn write leaves the older one. It is overwritten
//! in place and never grows.

use std::sync::Arc;

use bytes::Bytes;

use super::{
    FOLDER,
    format::{COUNT_MAX, SECTOR, SEGMENT_MAX},
};
use crate::files::{DiskError, File, Files};

const FILE: &str = "log/note";
const MAGIC: &[u8; 8] = b"ATOLLNOT";
const VERSION: u32 = 1;
const SLOT: usize = 44;
/// Further apart than the largest block a disk writes at once.
const SLOT_OFFSETS: [u64; 2] = [0, 4096];

/// What is known to be on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Note {
    /// The last batch known to be flushed when this was written; 0: none.
    pub flushed: u64,
    /// Segments before it are deleted, or about to be.
    pub oldest: u32,
    /// The last segment whose header was flushed; 0: none.
    pub newest: u32,
}

impl Note {
    pub(super) const EMPTY: Note = Note { flushed: 0, oldest: 1, newest: 0 };

    pub(super) fn encode(&self, generation: u64) -> Bytes {
        let mut bytes = Vec::with_capacity(SECTOR);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_le_bytes());
        bytes.extend_from_slice(&self.oldest.to_le_bytes());
        bytes.extend_from_slice(&self.newest.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes.extend_from_slice(&self.flushed.to_le_bytes());
        bytes.extend_from_slice(&generation.to_le_bytes());
        let crc = crc32c::crc32c(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        bytes.resize(SECTOR, 0);
        bytes.into()
    }

    fn decode(bytes: &[u8]) -> Option<(u64, Note)> {
        let bytes = bytes.get(..SLOT)?;
        let (content, crc) = bytes.split_at(SLOT - 4);
        if !content.starts_with(MAGIC) || crc != crc32c::crc32c(content).to_le_bytes() {
            return None;
        }
        let u32_at = |at: usize| u32::from_le_bytes(content[at..at + 4].try_into().expect("four bytes"));
        let u64_at = |at: usize| u64::from_le_bytes(content[at..at + 8].try_into().expect("eight bytes"));
        let is_version = u32_at(8) == VERSION;
        let counts = [24, 32].iter().all(|at| u64_at(*at) < COUNT_MAX);
        if !is_version || !counts || u32_at(12).max(u32_at(16)) >= SEGMENT_MAX {
            return None;
        }
        Some((u64_at(32), Note { flushed: u64_at(24), oldest: u32_at(12), newest: u32_at(16) }))
    }
}

pub(super) struct NoteFile {
    file: Arc<dyn File>,
    generation: u64,
}

impl NoteFile {
    /// The note, if there is a readable one. Creates the file if there is none.
    pub(super) async fn open(files: &dyn Files) -> Result<(Self, Option<Note>), DiskError> {
        let exists = files.exists(FILE).await?;
        let file = files.open(FILE, true).await?;
        if exists {
            let mut best: Option<(u64, Note)> = None;
            for offset in SLOT_OFFSETS {
                let found = Note::decode(&file.read_at(offset, SECTOR).await?);
                best = best.into_iter().chain(found).max_by_key(|(generation, _)| *generation);
            }
            if let Some((generation, note)) = best {
                return Ok((Self { file, generation }, Some(note)));
            }
        }
        files.sync_folder(FOLDER).await?;
        Ok((Self { file, generation: 0 }, None))
    }

    /// Durable when it returns.
    pub(super) async fn write(&mut self, note: Note) -> Result<(), DiskError> {
        self.generation += 1;
        let offset = SLOT_OFFSETS[(self.generation % 2) as usize];
        self.file.write_and_sync(offset, vec![note.encode(self.generation)]).await
    }

    /// Like [`NoteFile::write`], in both slots: whichever survives says so.
    pub(super) async fn write_both(&mut self, note: Note) -> Result<(), DiskError> {
        self.write(note).await?;
        self.write(note).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_note_of_what_no_log_gets_to_is_none() {
        let note = Note { flushed: 7, oldest: 1, newest: 2 };
        assert_eq!(Note::decode(&note.encode(9)), Some((9, note)));
        // The next sequence and the next generation are counted up from these.
        assert_eq!(Note::decode(&Note { flushed: u64::MAX, ..note }.encode(9)), None);
        assert_eq!(Note::decode(&note.encode(u64::MAX)), None);
        // And the next segment's.
        for newest in [SEGMENT_MAX, u32::MAX] {
            assert_eq!(Note::decode(&Note { newest, ..note }.encode(9)), None);
        }
    }
}
