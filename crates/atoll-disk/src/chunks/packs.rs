//! The pack files: their names, a bounded number of open handles, and reading one from
//! end to end.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;

use super::record::{
    PACK_HEADER_BYTES, PackHeader, PackId, PackKey, RECORD_HEADER_BYTES, Record, RecordKind,
};
use crate::{DiskError, File, Files};

pub(super) const FOLDER: &str = "chunks";
const SUFFIX: &str = ".pack";
/// 128 handles on packs of 256 MiB: 32 GiB of chunks read without opening a file, and an
/// eighth of the usual limit of 1,024 open files.
const OPEN_PACKS_MAX: usize = 128;
/// Read at a time while scanning. Several chunks, so that it is sequential for the disk.
const SCAN_WINDOW_BYTES: usize = 4 << 20;

pub(super) fn path(pack: PackId) -> String {
    format!("{FOLDER}/{:016x}{SUFFIX}", pack.0)
}

/// The pack of that file name; `None` for a file that isn't ours.
fn parse_name(name: &str) -> Option<PackId> {
    let digits = name.strip_suffix(SUFFIX)?;
    let canonical =
        digits.len() == 16 && digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f'));
    u64::from_str_radix(digits, 16).ok().filter(|_| canonical).map(PackId)
}

/// Open handles, the least recently used closed first.
pub(super) struct Packs {
    files: Arc<dyn Files>,
    open: Mutex<OpenPacks>,
}

#[derive(Default)]
struct OpenPacks {
    handles: BTreeMap<PackId, (Arc<dyn File>, u64)>,
    uses: u64,
}

impl Packs {
    pub(super) fn new(files: Arc<dyn Files>) -> Self {
        Self { files, open: Mutex::default() }
    }

    pub(super) fn files(&self) -> &Arc<dyn Files> {
        &self.files
    }

    /// Every pack in the folder, in order.
    pub(super) async fn list(&self) -> Result<Vec<PackId>, DiskError> {
        let mut packs: Vec<PackId> =
            self.files.list(FOLDER).await?.iter().filter_map(|name| parse_name(name)).collect();
        packs.sort_unstable();
        Ok(packs)
    }

    /// `None` if there is no such pack, or no longer.
    pub(super) async fn open(&self, pack: PackId) -> Result<Option<Arc<dyn File>>, DiskError> {
        if let Some(file) = self.opened(pack) {
            return Ok(Some(file));
        }
        match self.files.open(&path(pack), false).await {
            Ok(file) => {
                self.keep(pack, file.clone());
                Ok(Some(file))
            }
            Err(error) if error.source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn opened(&self, pack: PackId) -> Option<Arc<dyn File>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.uses += 1;
        let uses = open.uses;
        let (file, used) = open.handles.get_mut(&pack)?;
        *used = uses;
        Some(file.clone())
    }

    pub(super) fn keep(&self, pack: PackId, file: Arc<dyn File>) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.uses += 1;
        let uses = open.uses;
        open.handles.insert(pack, (file, uses));
        if open.handles.len() > OPEN_PACKS_MAX {
            let oldest = open.handles.iter().min_by_key(|(_, (_, used))| *used).map(|(pack, _)| *pack);
            oldest.map(|pack| open.handles.remove(&pack));
        }
    }

    pub(super) fn forget(&self, pack: PackId) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).handles.remove(&pack);
    }
}

/// Reads a pack from some offset to its end, over what can't be read.
pub(super) struct Scanner {
    pub(super) file: Arc<dyn File>,
    pub(super) header: PackHeader,
    key: PackKey,
    /// Of the file, when the scan began.
    pub(super) len: u64,
    pub(super) offset: u64,
    window: Bytes,
    window_offset: u64,
}

pub(super) enum Found {
    Record {
        record: Record,
        offset: u64,
        /// What follows the header of a `Chunk`: not verified, and `None` if the file
        /// ends within it.
        bytes: Option<Bytes>,
    },
    /// No record begins in these bytes.
    Unreadable { offset: u64, bytes: u64 },
}

impl Scanner {
    /// `None` if the pack's header can't be read: nothing in it can be told from noise.
    pub(super) async fn open(
        file: Arc<dyn File>,
        pack: PackId,
        offset: u64,
    ) -> Result<Option<Self>, DiskError> {
        let len = file.len().await?;
        let header = PackHeader::decode(&file.read_at(0, PACK_HEADER_BYTES).await?, pack);
        Ok(header.map(|header| Self {
            file,
            key: header.key(),
            header,
            len,
            offset: offset.max(PACK_HEADER_BYTES as u64),
            window: Bytes::new(),
            window_offset: 0,
        }))
    }

    pub(super) fn key(&self) -> &PackKey {
        &self.key
    }

    pub(super) async fn next(&mut self) -> Result<Option<Found>, DiskError> {
        if self.offset >= self.len {
            return Ok(None);
        }
        let offset = self.offset;
        let header = self.bytes(offset, RECORD_HEADER_BYTES).await?;
        let Some(record) = Record::decode(&header, &self.key, offset) else {
            self.offset = self.next_record(offset + 1).await?;
            return Ok(Some(Found::Unreadable { offset, bytes: self.offset - offset }));
        };
        self.offset = (offset + record.extent()).min(self.len);
        let mut bytes = None;
        if record.kind == RecordKind::Chunk && offset + record.extent() <= self.len {
            bytes = Some(self.bytes(offset + RECORD_HEADER_BYTES as u64, record.len as usize).await?);
        }
        Ok(Some(Found::Record { record, offset, bytes }))
    }

    /// Where the next record begins at or after `from`, or the end.
    async fn next_record(&mut self, from: u64) -> Result<u64, DiskError> {
        let mut at = from;
        while at + RECORD_HEADER_BYTES as u64 <= self.len {
            let window = self.bytes(at, SCAN_WINDOW_BYTES).await?;
            let mut candidate = Record::next_candidate(&window, 0);
            while let Some(within) = candidate {
                if Record::decode(&window[within..], &self.key, at + within as u64).is_some() {
                    return Ok(at + within as u64);
                }
                candidate = Record::next_candidate(&window, within + 1);
            }
            if at + window.len() as u64 >= self.len {
                break;
            }
            // A header may lie across the window's end.
            at += (window.len() - RECORD_HEADER_BYTES + 1) as u64;
        }
        Ok(self.len)
    }

    /// Up to `len` bytes, fewer only at the end of the file.
    async fn bytes(&mut self, offset: u64, len: usize) -> Result<Bytes, DiskError> {
        let len = len.min(usize::try_from(self.len - offset).unwrap_or(usize::MAX));
        let end = offset + len as u64;
        let covered = self.window_offset <= offset && end <= self.window_offset + self.window.len() as u64;
        if !covered {
            self.window = self.file.read_at(offset, len.max(SCAN_WINDOW_BYTES)).await?;
            self.window_offset = offset;
        }
        let from = (offset - self.window_offset) as usize;
        Ok(self.window.slice(from.min(self.window.len())..(from + len).min(self.window.len())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_are_packs() {
        assert_eq!(path(PackId(0x1f)), "chunks/000000000000001f.pack");
        assert_eq!(parse_name("000000000000001f.pack"), Some(PackId(0x1f)));
        for other in ["1f.pack", "000000000000001F.pack", "000000000000001f", "+00000000000001f.pack"] {
            assert_eq!(parse_name(other), None, "{other}");
        }
    }
}
