//! Small files that are read and replaced whole: identities, notes. A crash leaves the
//! old bytes or the new, and damage is found.

use std::sync::Arc;

use bytes::Bytes;

use crate::{DiskError, Files};

/// A small file can't be trusted. Nothing was changed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum WholeFileError {
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The bytes are not those that were written.
    #[error("{path} is damaged: its checksum does not match")]
    Damaged { path: String },
}

/// BLAKE3, cut: a file this small is read once at start, so the cost is nothing.
const CHECKSUM_BYTES: usize = 16;
/// A layout for 300 nodes is under 1 MiB; nothing kept whole is larger.
const WHOLE_FILE_BYTES_MAX: usize = 4 << 20;

fn checksum(bytes: &[u8]) -> Bytes {
    Bytes::copy_from_slice(&blake3::hash(bytes).as_bytes()[..CHECKSUM_BYTES])
}

/// The bytes last put there by [`replace_whole`]; `None` if it never was.
pub async fn read_whole(files: &dyn Files, path: &str) -> Result<Option<Bytes>, WholeFileError> {
    if !files.exists(path).await? {
        return Ok(None);
    }
    let file = files.open(path, false).await?;
    let damaged = || WholeFileError::Damaged { path: path.into() };
    let mut bytes = file.read_at(0, WHOLE_FILE_BYTES_MAX).await?;
    if bytes.len() < CHECKSUM_BYTES {
        return Err(damaged());
    }
    let sum = bytes.split_to(CHECKSUM_BYTES);
    if sum != checksum(&bytes) {
        return Err(damaged());
    }
    Ok(Some(bytes))
}

/// Replaces `folder/name`: written beside, flushed, renamed over, and the folder
/// flushed, so that it is durable on return.
pub async fn replace_whole(
    files: &dyn Files,
    folder: &str,
    name: &str,
    bytes: impl Into<Bytes>,
) -> Result<(), WholeFileError> {
    let bytes = bytes.into();
    assert!(bytes.len() + CHECKSUM_BYTES <= WHOLE_FILE_BYTES_MAX, "{folder}/{name} is not a small file");
    let path = if folder.is_empty() { name.to_string() } else { format!("{folder}/{name}") };
    let beside = format!("{path}.new");
    // One left over from a crash is of no use.
    files.remove(&beside).await?;
    let file: Arc<dyn crate::File> = files.open(&beside, true).await?;
    file.write_and_sync(0, vec![checksum(&bytes), bytes]).await?;
    files.rename(&beside, &path).await?;
    files.sync_folder(folder).await?;
    Ok(())
}
