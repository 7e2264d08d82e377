//! A disk that says "flushed" of a log's batches a moment too early: what a node would be
//! that acknowledged before the flush.
//!
//! The moment is short, and the heads of segments, the note and other files are flushed in
//! time: of anything grosser the log itself notices at its next start that it has
//! forgotten, and its replicas do not vote.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use atoll_disk::{DiskError, File, Files, Space};
use atoll_runtime::Runtime;
use bytes::Bytes;

const LATE: Duration = Duration::from_millis(20);

pub struct FlushedLate {
    pub files: Arc<dyn Files>,
    pub runtime: Runtime,
}

struct LateFile {
    file: Arc<dyn File>,
    runtime: Runtime,
    has_batches: bool,
}

#[async_trait]
impl Files for FlushedLate {
    async fn open(&self, path: &str, create: bool) -> Result<Arc<dyn File>, DiskError> {
        let has_batches = path.starts_with("log/") && path != "log/note";
        let file = self.files.open(path, create).await?;
        Ok(Arc::new(LateFile { file, runtime: self.runtime.clone(), has_batches }))
    }

    async fn exists(&self, path: &str) -> Result<bool, DiskError> {
        self.files.exists(path).await
    }

    async fn list(&self, folder: &str) -> Result<Vec<String>, DiskError> {
        self.files.list(folder).await
    }

    async fn create_folder(&self, path: &str) -> Result<(), DiskError> {
        self.files.create_folder(path).await
    }

    async fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        self.files.rename(from, to).await
    }

    async fn remove(&self, path: &str) -> Result<(), DiskError> {
        self.files.remove(path).await
    }

    async fn sync_folder(&self, folder: &str) -> Result<(), DiskError> {
        self.files.sync_folder(folder).await
    }

    async fn space(&self) -> Result<Space, DiskError> {
        self.files.space().await
    }
}

#[async_trait]
impl File for LateFile {
    async fn len(&self) -> Result<u64, DiskError> {
        self.file.len().await
    }

    async fn read_at(&self, offset: u64, len: usize) -> Result<Bytes, DiskError> {
        self.file.read_at(offset, len).await
    }

    async fn write_at(&self, offset: u64, parts: Vec<Bytes>) -> Result<(), DiskError> {
        self.file.write_at(offset, parts).await
    }

    async fn write_and_sync(&self, offset: u64, parts: Vec<Bytes>) -> Result<(), DiskError> {
        if self.has_batches && offset > 0 {
            self.file.write_at(offset, parts).await?;
            let (file, runtime) = (self.file.clone(), self.runtime.clone());
            drop(self.runtime.spawn("late flush", async move {
                runtime.sleep(LATE).await;
                // Nobody waits to be told.
                let _ = file.sync().await;
            }));
            return Ok(());
        }
        self.file.write_and_sync(offset, parts).await
    }

    async fn sync(&self) -> Result<(), DiskError> {
        self.file.sync().await
    }

    async fn set_len(&self, len: u64) -> Result<(), DiskError> {
        self.file.set_len(len).await
    }
}
