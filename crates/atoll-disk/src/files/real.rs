//! Production: one folder of a real file system. Every call leaves the async threads.
//!
//! A second process on the same folder would write into the first one's log, so the
//! folder is locked for as long as any handle of it lives, open files included.

use std::{
    fs::{DirBuilder, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt, FileExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use atoll_runtime::Runtime;
use atoll_types::ChunkHash;
use bytes::Bytes;
use nix::sys::statvfs::statvfs;
use rustix::{
    buffer::spare_capacity,
    io::{Errno, pread},
};

use super::{DiskError, File, Files, OP_SYNC, OP_WRITE, Space, check_path};

/// The file whose lock says that the folder is in use. It stays when the node stops.
const LOCK_FILE: &str = "lock";

/// Why a data folder can't be used; nothing in it was changed.
#[derive(Debug, thiserror::Error)]
pub enum OpenFolderError {
    /// Another node runs on it.
    #[error("the data folder {} is in use by another node; stop it, or choose another folder", folder.display())]
    InUse { folder: PathBuf },
    #[error("can't use the data folder {}", folder.display())]
    Unusable {
        folder: PathBuf,
        #[source]
        source: io::Error,
    },
}

/// A folder of the real file system.
pub struct RealFiles {
    folder: Arc<LockedFolder>,
    runtime: Runtime,
}

struct LockedFolder {
    path: PathBuf,
    /// Unlocked by the kernel when the last handle is gone, however the process ends.
    _lock: std::fs::File,
}

impl RealFiles {
    /// Creates `folder` if it is missing, readable by this account only, and locks it.
    ///
    /// Blocks: called once, before the node starts.
    pub fn open(folder: &Path, runtime: Runtime) -> Result<Self, OpenFolderError> {
        let unusable = |source| OpenFolderError::Unusable { folder: folder.to_path_buf(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(unusable)?;
        let path = folder.canonicalize().map_err(unusable)?;
        let lock = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path.join(LOCK_FILE))
            .map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenFolderError::InUse { folder: path }),
            Err(TryLockError::Error(source)) => return Err(unusable(source)),
        }
        Ok(Self { folder: Arc::new(LockedFolder { path, _lock: lock }), runtime })
    }

    /// Where the folder is, for libraries that open files by themselves.
    pub fn folder(&self) -> &Path {
        &self.folder.path
    }

    async fn run<T: Send + 'static>(
        &self,
        operation: &'static str,
        path: &str,
        work: impl FnOnce(&Path) -> io::Result<T> + Send + 'static,
    ) -> Result<T, DiskError> {
        check_path(operation, path)?;
        let full = self.folder.path.join(path);
        let result = self.runtime.blocking(move || work(&full)).await;
        result.map_err(|source| DiskError::new(operation, path, source))
    }
}

#[async_trait]
impl Files for RealFiles {
    async fn open(&self, path: &str, create: bool) -> Result<Arc<dyn File>, DiskError> {
        let file = self
            .run("open", path, move |full| {
                OpenOptions::new().read(true).write(true).create(create).mode(0o600).open(full)
            })
            .await?;
        Ok(Arc::new(RealFile {
            inner: Arc::new(OpenFile { file, _folder: self.folder.clone() }),
            path: path.into(),
            runtime: self.runtime.clone(),
        }))
    }

    async fn exists(&self, path: &str) -> Result<bool, DiskError> {
        self.run("look for", path, |full| full.try_exists()).await
    }

    async fn list(&self, folder: &str) -> Result<Vec<String>, DiskError> {
        self.run("list", folder, |full| {
            let entries = match std::fs::read_dir(full) {
                Ok(entries) => entries,
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
                Err(error) => return Err(error),
            };
            let mut names = Vec::new();
            for entry in entries {
                // All our names are ASCII; one that isn't even UTF-8 is somebody else's.
                if let Ok(name) = entry?.file_name().into_string() {
                    names.push(name);
                }
            }
            names.sort_unstable();
            Ok(names)
        })
        .await
    }

    async fn create_folder(&self, path: &str) -> Result<(), DiskError> {
        self.run("create folder", path, |full| DirBuilder::new().recursive(true).mode(0o700).create(full))
            .await
    }

    async fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        check_path("rename", to)?;
        let target = self.folder.path.join(to);
        self.run("rename", from, move |full| std::fs::rename(full, target)).await
    }

    async fn remove(&self, path: &str) -> Result<(), DiskError> {
        self.run("remove", path, |full| match std::fs::remove_file(full) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            result => result,
        })
        .await
    }

    async fn sync_folder(&self, folder: &str) -> Result<(), DiskError> {
        self.run("sync folder", folder, |full| std::fs::File::open(full)?.sync_all()).await
    }

    async fn space(&self) -> Result<Space, DiskError> {
        self.run("measure", "", |full| {
            let found = statvfs(full)?;
            // The widths of these fields differ between platforms.
            #[allow(clippy::unnecessary_cast)]
            let (fragment, total, available) =
                (found.fragment_size() as u64, found.blocks() as u64, found.blocks_available() as u64);
            Ok(Space { total: total * fragment, available: available * fragment })
        })
        .await
    }
}

struct OpenFile {
    file: std::fs::File,
    _folder: Arc<LockedFolder>,
}

struct RealFile {
    inner: Arc<OpenFile>,
    path: Arc<str>,
    runtime: Runtime,
}

impl RealFile {
    /// `work` names the operation that failed, because one trip may do two.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&std::fs::File) -> Result<T, (&'static str, io::Error)> + Send + 'static,
    ) -> Result<T, DiskError> {
        let inner = self.inner.clone();
        let result = self.runtime.blocking(move || work(&inner.file)).await;
        result.map_err(|(operation, source)| DiskError::new(operation, &self.path, source))
    }
}

/// Up to `len` bytes from `offset`, into memory that is not filled with zeros beforehand: of a
/// chunk that would cost as much as the reading.
fn read_up_to(file: &std::fs::File, offset: u64, len: usize) -> Result<Bytes, (&'static str, io::Error)> {
    let mut buffer = Vec::with_capacity(len);
    while buffer.len() < len {
        let next = offset + buffer.len() as u64;
        match pread(file, spare_capacity(&mut buffer), next) {
            Ok(0) => break,
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(("read", error.into())),
        }
    }
    buffer.truncate(len);
    Ok(buffer.into())
}

fn write_parts(
    file: &std::fs::File,
    mut offset: u64,
    parts: &[Bytes],
) -> Result<(), (&'static str, io::Error)> {
    for part in parts {
        file.write_all_at(part, offset).map_err(|error| (OP_WRITE, error))?;
        offset += part.len() as u64;
    }
    Ok(())
}

#[async_trait]
impl File for RealFile {
    async fn len(&self) -> Result<u64, DiskError> {
        self.run(|file| Ok(file.metadata().map_err(|error| ("measure", error))?.len())).await
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, DiskError> {
        self.run(move |file| read_up_to(file, offset, len)).await
    }

    async fn read_hashed(&self, offset: u64, len: usize) -> Result<(Bytes, ChunkHash), DiskError> {
        self.run(move |file| {
            let bytes = read_up_to(file, offset, len)?;
            // Here, as it may take a millisecond.
            let hash = ChunkHash::of(&bytes);
            Ok((bytes, hash))
        })
        .await
    }

    async fn write_at(&self, offset: u64, parts: Vec<Bytes>) -> Result<(), DiskError> {
        self.run(move |file| write_parts(file, offset, &parts)).await
    }

    async fn write_and_sync(&self, offset: u64, parts: Vec<Bytes>) -> Result<(), DiskError> {
        self.run(move |file| {
            write_parts(file, offset, &parts)?;
            file.sync_data().map_err(|error| (OP_SYNC, error))
        })
        .await
    }

    async fn sync(&self) -> Result<(), DiskError> {
        self.run(|file| file.sync_data().map_err(|error| (OP_SYNC, error))).await
    }

    async fn set_len(&self, len: u64) -> Result<(), DiskError> {
        self.run(move |file| file.set_len(len).map_err(|error| ("resize", error))).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder() -> tempfile::TempDir {
        tempfile::tempdir().expect("a temporary folder")
    }

    #[tokio::test]
    async fn what_is_written_is_read_back_renamed_listed_and_removed() {
        let folder = folder();
        let files = RealFiles::open(folder.path(), Runtime::tokio()).unwrap();
        files.create_folder("log").await.unwrap();
        let file = files.open("log/b", true).await.unwrap();
        file.write_and_sync(3, vec![Bytes::from_static(b"one"), Bytes::from_static(b"two")]).await.unwrap();
        assert_eq!(file.len().await.unwrap(), 9);
        assert_eq!(file.read_at(0, 100).await.unwrap(), &b"\0\0\0onetwo"[..]);
        assert_eq!(file.read_at(6, 2).await.unwrap(), &b"tw"[..]);
        assert!(file.read_at(9, 2).await.unwrap().is_empty());
        file.set_len(6).await.unwrap();
        files.rename("log/b", "log/a").await.unwrap();
        files.open("log/c", true).await.unwrap();
        files.sync_folder("log").await.unwrap();
        assert_eq!(files.list("log").await.unwrap(), ["a", "c"]);
        assert_eq!(files.list("nothing").await.unwrap(), Vec::<String>::new());
        files.remove("log/a").await.unwrap();
        files.remove("log/a").await.unwrap();
        assert!(!files.exists("log/a").await.unwrap());
        assert!(files.open("log/a", false).await.is_err());
        let space = files.space().await.unwrap();
        assert!(0 < space.available && space.available <= space.total);
    }

    #[tokio::test]
    async fn a_folder_in_use_is_refused_until_its_last_handle_is_gone() {
        let folder = folder();
        let files = RealFiles::open(folder.path(), Runtime::tokio()).unwrap();
        let file = files.open("x", true).await.unwrap();
        drop(files);
        let error = RealFiles::open(folder.path(), Runtime::tokio()).err().expect("still open");
        assert!(error.to_string().contains("in use by another node"), "{error}");
        drop(file);
        RealFiles::open(folder.path(), Runtime::tokio()).unwrap();
    }

    #[tokio::test]
    async fn paths_that_leave_the_folder_are_refused() {
        let folder = folder();
        let files = RealFiles::open(folder.path(), Runtime::tokio()).unwrap();
        for path in ["../x", "/etc/passwd", "a/../../x", "a//b", "./a", "a/", "nul\0"] {
            let error = files.open(path, true).await.err().expect("refused");
            assert_eq!(error.source.kind(), io::ErrorKind::InvalidInput, "{path:?}");
            assert!(files.rename("a", path).await.is_err(), "{path:?}");
        }
    }
}
