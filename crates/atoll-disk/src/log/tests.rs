//! The log as its callers see it.

use std::sync::Arc;

use atoll_runtime::Runtime;
use atoll_types::ReplicaId;
use bytes::Bytes;

use super::*;
use crate::{OpenFolderError, RealFiles};

const A: ReplicaId = ReplicaId(1);
const B: ReplicaId = ReplicaId(2);

fn entry(index: u64, term: u64) -> LogEntry {
    LogEntry { index, term, bytes: format!("entry {index} of term {term}").into_bytes().into() }
}

fn entries(indexes: Range<u64>, term: u64) -> Vec<LogEntry> {
    indexes.map(|index| entry(index, term)).collect()
}

fn append(replica: ReplicaId, entries: Vec<LogEntry>) -> Append {
    Append { replica, entries, ..Append::default() }
}

fn state(replica: ReplicaId, state: &'static str) -> Append {
    Append { replica, state: Some(Bytes::from_static(state.as_bytes())), ..Append::default() }
}

async fn real(folder: &std::path::Path) -> (SharedLog, Recovery) {
    let runtime = Runtime::tokio();
    let files = loop {
        match RealFiles::open(folder, runtime.clone()) {
            // The tasks of a log that was dropped are gone once the executor has seen it.
            Err(OpenFolderError::InUse { .. }) => runtime.sleep(Duration::from_millis(1)).await,
            files => break Arc::new(files.unwrap()),
        }
    };
    SharedLog::open(files, runtime, LogSettings::default()).await.unwrap()
}

#[tokio::test]
async fn what_was_appended_is_read_at_once_and_after_a_restart() {
    let folder = tempfile::tempdir().unwrap();
    let (log, recovery) = real(folder.path()).await;
    assert_eq!(recovery, Recovery { replicas: BTreeMap::new(), verdict: LogVerdict::Clean });
    let first = log.append(vec![append(A, entries(1..4, 1)), state(A, "one"), append(B, entries(1..2, 7))]);
    let second = log.append(vec![append(A, entries(3..6, 2))]);
    // Before anything is durable.
    assert_eq!(log.last_index(A), 5);
    assert_eq!(log.term_of(A, 3), Some(2));
    let expected = [entries(1..3, 1), entries(3..6, 2)].concat();
    assert_eq!(log.read(A, 1..6, usize::MAX).await.unwrap(), expected);
    first.await.unwrap();
    second.await.unwrap();
    assert_eq!(log.read_cached(A, 1..6, usize::MAX).unwrap(), Some(expected.clone()));
    assert_eq!(log.read(A, 2..6, 20).await.unwrap(), entries(2..3, 1));
    assert!(matches!(log.read(A, 2..7, usize::MAX).await, Err(LogError::NotHeld { index: 6, .. })));
    drop(log);

    let (log, recovery) = real(folder.path()).await;
    assert_eq!(recovery.verdict, LogVerdict::Clean);
    assert_eq!(
        recovery.replicas,
        BTreeMap::from([
            (A, RecoveredReplica { state: Some(Bytes::from_static(b"one")), first_index: 1, last_index: 5 }),
            (B, RecoveredReplica { state: None, first_index: 1, last_index: 1 }),
        ])
    );
    assert_eq!(log.read_cached(A, 1..6, usize::MAX).unwrap(), None);
    assert_eq!(log.read(A, 1..6, usize::MAX).await.unwrap(), expected);
    log.append(vec![append(A, entries(6..7, 2))]).await.unwrap();
    log.remove(B).await.unwrap();
    log.close().await.unwrap();
    assert!(matches!(log.append(vec![append(A, entries(7..8, 2))]).await, Err(LogError::Closed)));
    drop(log);

    let (log, recovery) = real(folder.path()).await;
    assert_eq!(recovery.verdict, LogVerdict::Clean);
    assert_eq!(recovery.replicas.keys().collect::<Vec<_>>(), [&A]);
    assert_eq!(log.last_index(A), 6);
}
