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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use atoll_access::audit::{Entry, Hash, Head};
    use atoll_disk::{LogSettings, MemoryDisk, MemoryStore, SharedLog};
    use atoll_records::{Procedures, Records, RecordsParts, ReplicaAddress, ShardMap, ShardReplicas};
    use atoll_runtime::watch;
    use atoll_transport::memory::MemoryNetwork;
    use atoll_types::{NodeId, ReplicaId, ShardId, WallTime};

    use super::*;

    const ME: NodeId = NodeId([1; 32]);

    /// A trail of this node's own, in a shard 0 of which it is the only voter.
    async fn auditor(runtime: &Runtime) -> Auditor {
        let transport = MemoryNetwork::perfect().endpoint(ME, runtime.clone());
        let files = Arc::new(MemoryDisk::new(1).files(runtime));
        let (log, recovery) = SharedLog::open(files, runtime.clone(), LogSettings::default()).await.unwrap();
        let mut procedures = Procedures::default();
        atoll_access::register(&mut procedures);
        let founding = vec![ReplicaAddress { replica: ReplicaId(1), node: ME }];
        let replicas = ShardReplicas { voters: founding.clone(), learners: Vec::new() };
        let shards = BTreeMap::from([(ShardId::META, replicas)]);
        let map = watch::Sender::new(Arc::new(ShardMap { version: 1, shards })).subscribe();
        let store = Arc::new(MemoryStore::default());
        let runtime = runtime.clone();
        let parts =
            RecordsParts { runtime: runtime.clone(), transport, store, log, recovery, procedures, map };
        let records = Records::start(parts).await.unwrap();
        records.create_replica(ShardId::META, ReplicaId(1), Some(founding)).await.unwrap();
        Auditor::start(runtime, records, [1; 32])
    }

    fn entry() -> Entry {
        let [who, what, on, from, rule] = ["operator", "act", "all", "here", "rule"].map(str::to_owned);
        Entry { at: WallTime::from_millis(1), who, what, on, from, allowed: true, rule }
    }

    async fn open(runtime: &Runtime, files: &Arc<dyn Files>, auditor: &Auditor) -> WitnessKeeper {
        WitnessKeeper::open(runtime.clone(), files.clone(), auditor.clone()).await.unwrap()
    }

    #[tokio::test]
    async fn a_witness_follows_the_trail_remembers_over_a_start_and_complains_of_another_one() {
        let runtime = Runtime::tokio();
        let auditor = auditor(&runtime).await;
        let files: Arc<dyn Files> = Arc::new(MemoryDisk::new(2).files(&runtime));
        let keeper = open(&runtime, &files, &auditor).await;
        assert_eq!(keeper.statement().head, Head::default());
        for seen in 1..=3 {
            auditor.act(entry()).await.unwrap();
            while keeper.look().await {}
            let statement = keeper.statement();
            assert_eq!((statement.head.index, keeper.complaint()), (seen, None));
            assert!(statement.is_genuine());
        }
        let seen = keeper.statement().head;
        assert_eq!(open(&runtime, &files, &auditor).await.statement().head, seen);

        // It has seen what this trail is not: longer, or of the same length and another one.
        for index in [5, 3] {
            let other = WitnessNote { head: Head { index, hash: Hash([7; 32]) } };
            replace_whole(files.as_ref(), "", FILE, other.encode()).await.unwrap();
            let keeper = open(&runtime, &files, &auditor).await;
            assert!(!keeper.look().await, "there is nothing more to follow");
            assert_eq!(keeper.statement().head, other.head, "it stays where it was");
            let complaint = keeper.complaint().expect("it complains");
            assert!(complaint.contains(&format!("has seen {index} links")), "{complaint}");
        }

        replace_whole(files.as_ref(), "", FILE, vec![0xff; 3]).await.unwrap();
        assert!(WitnessKeeper::open(runtime, files, auditor).await.is_err(), "a note that can't be read");
    }
}
