//! What a log should hold after given calls, and a generator of calls.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use atoll_disk::{Append, LogEntry, LogError, LogSettings, MemoryDisk, Recovery, SharedLog};
use atoll_runtime::Runtime;
use atoll_types::ReplicaId;
use bytes::Bytes;
use rand::{Rng, rngs::StdRng};

/// Small, so that a few hundred calls fill several segments.
pub fn settings() -> LogSettings {
    LogSettings {
        segment_bytes: 16 << 10,
        batch_bytes: 4 << 10,
        zeros_ahead: 2 << 10,
        cache_bytes: 4 << 10,
        note_interval: Duration::from_millis(20),
    }
}

pub async fn open_with(disk: &MemoryDisk, runtime: &Runtime, settings: LogSettings) -> (SharedLog, Recovery) {
    let files = Arc::new(disk.files(runtime));
    SharedLog::open(files, runtime.clone(), settings).await.expect("the log opens")
}

#[derive(Debug, Clone)]
pub enum Call {
    Append(Vec<Append>),
    Remove(ReplicaId),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Replica {
    /// Index of the first of `entries`.
    pub first: u64,
    pub entries: Vec<(u64, Bytes)>,
    pub state: Option<Bytes>,
}

impl Replica {
    pub fn last(&self) -> u64 {
        self.first + self.entries.len() as u64 - 1
    }

    pub fn range(&self, from: u64, to: u64) -> Vec<LogEntry> {
        (from..to)
            .map(|index| {
                let (term, bytes) = self.entries[(index - self.first) as usize].clone();
                LogEntry { index, term, bytes }
            })
            .collect()
    }
}

/// The log as it would be if nothing were ever trimmed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Model {
    pub replicas: BTreeMap<ReplicaId, Replica>,
}

impl Model {
    pub fn apply(&mut self, call: &Call) {
        let appends = match call {
            Call::Append(appends) => appends,
            Call::Remove(replica) => {
                self.replicas.remove(replica);
                return;
            }
        };
        for append in appends {
            let replica =
                self.replicas.entry(append.replica).or_insert(Replica { first: 1, ..Replica::default() });
            if let Some(after) = append.start_after {
                replica.first = after + 1;
                replica.entries.clear();
            }
            if let Some(entry) = append.entries.first() {
                replica.entries.truncate((entry.index - replica.first) as usize);
            }
            replica.entries.extend(append.entries.iter().map(|entry| (entry.term, entry.bytes.clone())));
            if append.state.is_some() {
                replica.state = append.state.clone();
            }
        }
    }

    /// A call that fits what is there. Nothing at or below `trimmed` is replaced.
    pub fn draw(&self, rng: &mut StdRng, ids: &[ReplicaId], trimmed: &BTreeMap<ReplicaId, u64>) -> Call {
        if rng.random_bool(0.01) {
            return Call::Remove(ids[rng.random_range(0..ids.len())]);
        }
        // Of the replicas that this call has touched already.
        let mut after = Model::default();
        let mut appends = Vec::new();
        for _ in 0..rng.random_range(1..4) {
            let id = ids[rng.random_range(0..ids.len())];
            if let (None, Some(replica)) = (after.replicas.get(&id), self.replicas.get(&id)) {
                after.replicas.insert(id, replica.clone());
            }
            let append = after.draw_append(rng, id, trimmed.get(&id).copied().unwrap_or(0));
            after.apply(&Call::Append(vec![append.clone()]));
            appends.push(append);
        }
        Call::Append(appends)
    }

    fn draw_append(&self, rng: &mut StdRng, id: ReplicaId, trimmed: u64) -> Append {
        let (first, last) = self.replicas.get(&id).map_or((1, 0), |replica| (replica.first, replica.last()));
        let mut append = Append { replica: id, ..Append::default() };
        let mut next = last + 1;
        if rng.random_bool(0.02) {
            append.start_after = Some(last + rng.random_range(1..20));
            next = append.start_after.map_or(next, |after| after + 1);
        } else if rng.random_bool(0.1) {
            next = next.saturating_sub(rng.random_range(1..4)).max(first).max(trimmed + 1).min(last + 1);
        }
        if rng.random_bool(0.3) {
            append.state = Some(blob(rng, 40));
        }
        let count = rng.random_range(0..6);
        let term = rng.random_range(1..100);
        append.entries =
            (next..next + count).map(|index| LogEntry { index, term, bytes: blob(rng, 400) }).collect();
        append
    }
}

fn blob(rng: &mut StdRng, len_max: usize) -> Bytes {
    let len = rng.random_range(0..len_max);
    (0..len).map(|_| rng.random::<u8>()).collect()
}

pub fn call(log: &SharedLog, call: Call) -> atoll_disk::Appended {
    match call {
        Call::Append(appends) => log.append(appends),
        Call::Remove(replica) => log.remove(replica),
    }
}

/// All that the log holds, read back entry by entry.
pub async fn contents(log: &SharedLog) -> Result<Model, LogError> {
    let mut replicas = BTreeMap::new();
    for id in log.replicas() {
        replicas.insert(id, replica(log, id).await?);
    }
    Ok(Model { replicas })
}

pub async fn replica(log: &SharedLog, id: ReplicaId) -> Result<Replica, LogError> {
    let (first, last) = (log.first_index(id), log.last_index(id));
    let entries = log.read(id, first..last + 1, usize::MAX).await?;
    for entry in &entries {
        assert_eq!(log.term_of(id, entry.index), Some(entry.term));
    }
    let entries = entries.into_iter().map(|entry| (entry.term, entry.bytes)).collect();
    Ok(Replica { first, entries, state: log.state(id) })
}

/// Whether `found` is what `expected` would be after trimming up to `trimmed` at most.
pub fn is_trimmed(found: &Replica, expected: &Replica, trimmed: u64) -> bool {
    found.state == expected.state
        && found.last() == expected.last()
        && found.first >= expected.first
        && found.first <= expected.first.max(trimmed + 1)
        && found.entries == expected.entries[(found.first - expected.first) as usize..]
}
