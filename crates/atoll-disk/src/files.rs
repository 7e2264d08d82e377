//! The file seam: the few things we ask of a file system, each a future, so that the
//! twin can make them slow, lose them or break them.

mod memory;
mod real;

use std::{io, sync::Arc};

use async_trait::async_trait;
use atoll_types::ChunkHash;
use bytes::Bytes;

pub use memory::{DiskFaults, FaultCounts, MemoryDisk, MemoryFiles};
pub use real::{OpenFolderError, RealFiles};

/// What the disk refused. `source` has the system's word; `path` is relative to the
/// node's data folder.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{operation} {path}")]
pub struct DiskError {
    pub operation: &'static str,
    pub path: String,
    #[source]
    pub source: Arc<io::Error>,
}

/// The [`DiskError::operation`] of a write that failed before anything was flushed.
pub(crate) const OP_WRITE: &str = "write";
/// The [`DiskError::operation`] of a failed flush: what was written before it may be
/// lost although a later flush succeeds, so nobody may go on as if it were there.
pub(crate) const OP_SYNC: &str = "sync";

impl DiskError {
    pub(crate) fn new(operation: &'static str, path: &str, source: io::Error) -> Self {
        Self { operation, path: path.into(), source: Arc::new(source) }
    }

    /// The disk has no room; what failed had no effect that a later success could
    /// build upon, and may be tried again when there is room.
    pub fn is_full(&self) -> bool {
        matches!(self.source.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
    }
}

/// Paths are ours, so a bad one is our bug; it must not become somebody's file.
/// The empty path is the data folder itself.
fn check_path(operation: &'static str, path: &str) -> Result<(), DiskError> {
    let fine = path.is_empty()
        || path.split('/').all(|name| !matches!(name, "" | "." | "..") && !name.contains('\0'));
    if fine {
        return Ok(());
    }
    let source = io::Error::new(io::ErrorKind::InvalidInput, "not a path inside the data folder");
    Err(DiskError::new(operation, path, source))
}

/// Room on the file system that holds the data folder, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    pub total: u64,
    pub available: u64,
}

/// One node's data folder. Paths are relative, `/`-separated, and made by us: no user's
/// key is ever part of one.
#[async_trait]
pub trait Files: Send + Sync + 'static {
    /// Opens for reading and writing; creates it if `create`. The new name is durable
    /// only after [`Files::sync_folder`].
    async fn open(&self, path: &str, create: bool) -> Result<Arc<dyn File>, DiskError>;
    async fn exists(&self, path: &str) -> Result<bool, DiskError>;
    /// The names in a folder, sorted; empty if the folder does not exist.
    async fn list(&self, folder: &str) -> Result<Vec<String>, DiskError>;
    async fn create_folder(&self, path: &str) -> Result<(), DiskError>;
    async fn rename(&self, from: &str, to: &str) -> Result<(), DiskError>;
    /// Removing what is not there succeeds.
    async fn remove(&self, path: &str) -> Result<(), DiskError>;
    /// Makes creations, renames and removals in `folder` durable.
    async fn sync_folder(&self, folder: &str) -> Result<(), DiskError>;
    async fn space(&self) -> Result<Space, DiskError>;
}

// `is_empty` of an open file is nobody's question.
#[allow(clippy::len_without_is_empty)]
#[async_trait]
pub trait File: Send + Sync + 'static {
    async fn len(&self) -> Result<u64, DiskError>;
    /// Up to `len` bytes; fewer only at the end of the file.
    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, DiskError>;
    /// As [`File::read_at`], with the name of what was read.
    async fn read_hashed(&self, offset: u64, len: usize) -> Result<(Bytes, ChunkHash), DiskError> {
        let bytes = self.read_at(offset, len).await?;
        let hash = ChunkHash::of(&bytes);
        Ok((bytes, hash))
    }
    /// Writes all `parts` one after the other from `offset`; not durable before `sync`.
    async fn write_at(&self, offset: u64, parts: Vec<Bytes>) -> Result<(), DiskError>;
    /// `write_at`, then `sync`, in one trip.
    async fn write_and_sync(&self, offset: u64, parts: Vec<Bytes>) -> Result<(), DiskError>;
    /// Everything written before the call is durable after it (`fdatasync`).
    async fn sync(&self) -> Result<(), DiskError>;
    async fn set_len(&self, len: u64) -> Result<(), DiskError>;
}
