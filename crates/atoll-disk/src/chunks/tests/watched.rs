//! Files that count their flushes, and fail when told to.

use std::{
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use bytes::Bytes;

use crate::{DiskError, File, Files, Space};

#[derive(Default, Clone)]
pub(super) struct Watched {
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    flushes: AtomicUsize,
    /// The operation of the next write that fails: before its flush, or by it.
    fail_next: Mutex<Option<&'static str>>,
}

impl Watched {
    pub(super) fn over(&self, inner: Arc<dyn Files>) -> Arc<dyn Files> {
        Arc::new(WatchedFiles { inner, state: self.state.clone() })
    }

    pub(super) fn flushes(&self) -> usize {
        self.state.flushes.load(Ordering::Relaxed)
    }

    pub(super) fn fail_next(&self, operation: &'static str) {
        *self.state.fail_next.lock().unwrap() = Some(operation);
    }
}

struct WatchedFiles {
    inner: Arc<dyn Files>,
    state: Arc<State>,
}

struct WatchedFile {
    inner: Arc<dyn File>,
    state: Arc<State>,
}

#[async_trait]
impl Files for WatchedFiles {
    async fn open(&self, path: &str, create: bool) -> Result<Arc<dyn File>, DiskError> {
        let inner = self.inner.open(path, create).await?;
        Ok(Arc::new(WatchedFile { inner, state: self.state.clone() }))
    }

    async fn exists(&self, path: &str) -> Result<bool, DiskError> {
        self.inner.exists(path).await
    }

    async fn list(&self, folder: &str) -> Result<Vec<String>, DiskError> {
        self.inner.list(folder).await
    }

    async fn create_folder(&self, path: &str) -> Result<(), DiskError> {
        self.inner.create_folder(path).await
    }

    async fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        self.inner.rename(from, to).await
    }

    async fn remove(&self, path: &str) -> Result<(), DiskError> {
        self.inner.remove(path).await
    }

    async fn sync_folder(&self, folder: &str) -> Result<(), DiskError> {
        self.inner.sync_folder(folder).await
    }

    async fn space(&self) -> Result<Space, DiskError> {
        self.inner.space().await
    }
}

#[async_trait]
impl File for WatchedFile {
    async fn len(&self) -> Result<u64, DiskError> {
        self.inner.len().await
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, DiskError> {
        self.inner.read_at(offset, len).await
    }

    async fn write_at(&self, offset: u64, parts: Vec<Bytes>) -> Result<(), DiskError> {
        self.inner.write_at(offset, parts).await
    }

    async fn write_and_sync(&self, offset: u64, parts: Vec<Bytes>) -> Result<(), DiskError> {
        self.state.flushes.fetch_add(1, Ordering::Relaxed);
        let fail = self.state.fail_next.lock().unwrap().take();
        if let Some(operation) = fail {
            // Half of it reaches the disk.
            let half = parts.len().div_ceil(2);
            self.inner.write_at(offset, parts[..half].to_vec()).await?;
            return Err(DiskError::new(operation, "watched", io::Error::other("told to fail")));
        }
        self.inner.write_and_sync(offset, parts).await
    }

    async fn sync(&self) -> Result<(), DiskError> {
        self.inner.sync().await
    }

    async fn set_len(&self, len: u64) -> Result<(), DiskError> {
        self.inner.set_len(len).await
    }
}
