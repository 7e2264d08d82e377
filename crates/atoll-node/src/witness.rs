//! This node as a witness of the audit trail: what it has seen of it lies in its own data
//! folder, where a majority of shard 0 can't change it.

use std::sync::{Arc, Mutex, PoisonError};

use atoll_access::audit::{Auditor, Witness, WitnessNote, WitnessStatement};
use atoll_disk::{Files, WholeFileError, read_whole, replace_whole};
use atoll_runtime::Runtime;
use atoll_types::{Format, FormatError};

const FILE: &str = "audit-witness";
/// A tail that is cut off within this after it grew has been seen by nobody but the node
/// that wrote it.
const LOOK_EVERY: std::time::Duration = std::time::Duration::from_secs(2);
/// A page; a trail that is new here is read from its beginning.
const LINKS_PER_LOOK: u32 = 1000;
const LOOK_TIME: std::time::Duration = std::time::Duration::from_secs(5);

/// The note can't be read. It is left as it was.
#[derive(Debug, thiserror::Error)]
pub enum WitnessError {
    #[error(transparent)]
    File(#[from] WholeFileError),
    #[error(transparent)]
    Format(#[from] FormatError),
}

pub struct WitnessKeeper {
    runtime: Runtime,
    files: Arc<dyn Files>,
    auditor: Auditor,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    witness: Witness,
    /// What is wrong with the trail, since it was seen to be.
    complaint: Option<String>,
}

impl WitnessKeeper {
    pub async fn open(
        runtime: Runtime,
        files: Arc<dyn Files>,
        auditor: Auditor,
    ) -> Result<Self, WitnessError> {
        let note = match read_whole(files.as_ref(), FILE).await? {
            Some(bytes) => WitnessNote::decode(&bytes)?,
            None => WitnessNote::default(),
        };
        let state = Mutex::new(State { witness: Witness { note }, complaint: None });
        Ok(Self { runtime, files, auditor, state })
    }

    /// What this node has seen, signed.
    pub fn statement(&self) -> WitnessStatement {
        self.auditor.state(self.lock().witness.note)
    }

    pub fn complaint(&self) -> Option<String> {
        self.lock().complaint.clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub async fn run(self: Arc<Self>) {
        loop {
            while self.look().await {}
            self.runtime.sleep(LOOK_EVERY).await;
        }
    }

    /// Follows a page of the trail; whether there may be more.
    async fn look(&self) -> bool {
        let mut witness = self.lock().witness;
        let before = witness.note;
        let deadline = self.runtime.now() + LOOK_TIME;
        // Shard 0 may be away, or older than the trail.
        let Ok((links, head)) = self.auditor.page(before.head.index, LINKS_PER_LOOK, deadline).await else {
            return false;
        };
        let mut complaint = witness.follow(&links).err().map(|error| error.to_string());
        let seen = before.head.index;
        if head.index < seen || (head.index == seen && head != before.head) {
            complaint = Some(format!(
                "the audit trail ends at link {} and is not the one of which this node has seen {seen} links",
                head.index
            ));
        }
        if let Some(complaint) = &complaint {
            tracing::error!(complaint, "the audit trail was tampered with");
        }
        let moved = witness.note != before;
        if moved && let Err(error) = replace_whole(self.files.as_ref(), "", FILE, witness.note.encode()).await
        {
            // What is not on disk was not seen: it is looked at again.
            tracing::warn!(%error, "what was seen of the audit trail can't be written down");
            return false;
        }
        let broken = complaint.is_some();
        let mut state = self.lock();
        state.witness = witness;
        state.complaint = complaint;
        moved && !broken
    }
}
