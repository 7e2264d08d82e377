//! The replicas' side of the shared log: what Raft keeps in it, how it is read back at the
//! start, and the task that writes what all groups want persisted.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use atoll_disk::{Append, LogEntry, LogError, RecoveredReplica, SharedLog};
use atoll_runtime::{Broken, Runtime, is_broken};
use atoll_types::{Format, ReplicaId};
use raft::eraftpb::{Entry, HardState};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

use crate::{
    driver::Feedback,
    group::Persist,
    group_log::{GroupLog, entry_bytes},
    metrics::Metrics,
    state::{Descriptor, Meta},
    wire::LoggedEntry,
};

/// 8 MiB written at once: some 40 ms of a disk, for which nobody waits who came later.
const WRITE_BYTES_TARGET: usize = 8 << 20;
/// How often a full disk is tried again.
const FULL_PAUSE: Duration = Duration::from_secs(1);
/// 4 MiB read at once when a replica opens.
const READ_BYTES_MAX: usize = 4 << 20;

/// Raft's hard state, kept in the log beside the entries. One without a term is written
/// when the replica is created: a replica without any has lost it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogState {
    pub term: u64,
    pub vote: ReplicaId,
    pub commit: u64,
}

impl Format for LogState {
    const NAME: &'static str = "raft state";
    const VERSION: u8 = 1;
}

impl LogState {
    fn of(state: &HardState) -> Self {
        Self { term: state.term, vote: ReplicaId(state.vote), commit: state.commit }
    }

    fn into_raft(self) -> HardState {
        HardState { term: self.term, vote: self.vote.0, commit: self.commit, ..HardState::default() }
    }
}

/// The log of a new replica, which begins after `index`.
pub(crate) fn founding(replica: ReplicaId, index: u64, term: u64) -> Append {
    let state = LogState { term, vote: ReplicaId(0), commit: index };
    Append { replica, state: Some(state.encode().into()), start_after: Some(index), entries: Vec::new() }
}

/// Why a replica can't be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// It may have promised what it does not know any more (rule 4).
    #[error("{0}")]
    Forgotten(&'static str),
    #[error("the shared log can't be used")]
    Log(#[from] LogError),
}

/// Reads a replica's log, and fits it to the state that the store has.
pub(crate) async fn open(
    log: &SharedLog,
    descriptor: &Descriptor,
    recovered: Option<&RecoveredReplica>,
    meta: Option<&Meta>,
) -> Result<GroupLog, OpenError> {
    let replica = descriptor.replica;
    let recovered = recovered.ok_or(OpenError::Forgotten("its log is gone"))?;
    let state = recovered.state.as_ref().and_then(|bytes| LogState::decode(bytes).ok());
    let mut state = state.ok_or(OpenError::Forgotten("its vote is gone"))?;
    if is_broken(Broken::ForgetVote) {
        state.vote = ReplicaId(0);
    }
    let (applied, applied_term) = meta.map_or((0, 0), |meta| (meta.applied.0, meta.applied_term));
    let (mut first, mut last) = (recovered.first_index, recovered.last_index);
    if applied + 1 < first {
        return Err(OpenError::Forgotten("its state is older than its log"));
    }
    let fits =
        applied <= last && (applied + 1 == first || log.term_of(replica, applied) == Some(applied_term));
    if !fits {
        if applied != descriptor.began_at {
            return Err(OpenError::Forgotten("its log is older than its state"));
        }
        // The crash came between making a snapshot's state current and beginning the log
        // anew. What the log has was overtaken by the snapshot, or belongs to a branch
        // that lost: were an entry after `applied` committed with this replica's help, so
        // would be its predecessor here, and the terms would agree.
        state.commit = applied;
        state.term = state.term.max(applied_term);
        let anew = Append {
            replica,
            state: Some(state.encode().into()),
            start_after: Some(applied),
            entries: Vec::new(),
        };
        log.append(vec![anew]).await?;
        (first, last) = (applied + 1, applied);
    }
    state.commit = state.commit.clamp(applied, last);
    // Raft wants the term of the entry before the first; where that is trimmed, the first
    // takes its place.
    let base = if applied + 1 == first {
        (applied, applied_term)
    } else {
        let term = log.term_of(replica, first).ok_or(LogError::NotHeld { replica, index: first })?;
        (first, term)
    };
    let mut terms: Vec<(u64, u64)> = Vec::new();
    for index in base.0 + 1..=last {
        let term = log.term_of(replica, index).ok_or(LogError::NotHeld { replica, index })?;
        if terms.last().is_none_or(|run| run.1 != term) {
            terms.push((index, term));
        }
    }
    let mut recent = VecDeque::new();
    let mut next = applied + 1;
    while next <= last {
        let entries = read(log, replica, next, last + 1, READ_BYTES_MAX).await?;
        next += entries.len() as u64;
        recent.extend(entries);
    }
    let members = meta.map(|meta| meta.members.conf_state()).unwrap_or_default();
    Ok(GroupLog::new(state.into_raft(), members, base, last, terms, recent, (applied, applied_term)))
}

/// Entries from `low` to before `high`: at least one.
pub(crate) async fn read(
    log: &SharedLog,
    replica: ReplicaId,
    low: u64,
    high: u64,
    bytes_max: usize,
) -> Result<Vec<Entry>, OpenError> {
    let entries = log.read(replica, low..high, bytes_max).await?;
    entries
        .into_iter()
        .map(|entry| {
            // Its checksum was right: we wrote what we can't read.
            let logged = LoggedEntry::decode(&entry.bytes)
                .map_err(|_| OpenError::Forgotten("an entry in its log is malformed"))?;
            Ok(logged.into_raft(entry.index, entry.term))
        })
        .collect()
}

/// What a round of the driver wants persisted.
type Round = Vec<(ReplicaId, Persist)>;

pub(crate) enum Wish {
    Persist(Round),
    /// To be told when everything before is durable: whoever removes a replica from the log
    /// must not be followed by what was still to be written of it.
    Settle(oneshot::Sender<()>),
}

pub(crate) struct Writer {
    pub runtime: Runtime,
    pub log: SharedLog,
    pub feedback: mpsc::UnboundedSender<Feedback>,
    pub metrics: Arc<Metrics>,
}

impl Writer {
    /// Writes one batch after the other; while one is flushed, the next gathers.
    pub async fn run(self, mut wishes: mpsc::UnboundedReceiver<Wish>) {
        while let Some(wish) = wishes.recv().await {
            let mut batch = match wish {
                Wish::Persist(round) => round,
                Wish::Settle(settled) => {
                    let _ = settled.send(());
                    continue;
                }
            };
            let mut settled = None;
            let bytes = |round: &Round| -> usize {
                round.iter().flat_map(|(_, persist)| &persist.entries).map(entry_bytes).sum()
            };
            let mut total = bytes(&batch);
            while total < WRITE_BYTES_TARGET
                && let Ok(more) = wishes.try_recv()
            {
                match more {
                    Wish::Persist(more) => {
                        total += bytes(&more);
                        batch.extend(more);
                    }
                    Wish::Settle(after) => {
                        settled = Some(after);
                        break;
                    }
                }
            }
            self.metrics.log_batches.add(1);
            self.metrics.log_entries.add(batch.iter().map(|(_, persist)| persist.entries.len() as u64).sum());
            let persisted: Vec<_> =
                batch.iter().map(|(replica, persist)| (*replica, persist.number)).collect();
            if is_broken(Broken::AckBeforeFlush) {
                let _ = self.feedback.send(Feedback::Persisted(persisted.clone()));
            }
            let done = match self.write(batch).await {
                Ok(()) => Feedback::Persisted(persisted),
                Err(error) => {
                    let cause =
                        std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                    Feedback::Failed { reason: format!("{error}: {cause}") }
                }
            };
            self.runtime.fault_point("records: entries are durable, nobody is told").await;
            if self.feedback.send(done).is_err() {
                return;
            }
            if let Some(settled) = settled {
                let _ = settled.send(());
            }
        }
    }

    async fn write(&self, batch: Round) -> Result<(), LogError> {
        let mut appends: Vec<Append> = batch.into_iter().map(append).collect();
        loop {
            match self.log.append(appends.clone()).await {
                Err(LogError::Full(error)) => {
                    // Not an end: deletes and votes wait for room, and the reserve that
                    // chunks leave (rule 19) makes it rare.
                    tracing::warn!(%error, "the disk is full");
                    self.runtime.sleep(FULL_PAUSE).await;
                }
                // It was removed in the meantime; nobody waits for it.
                Err(LogError::Removed { replica } | LogError::Forgotten { replica }) => {
                    appends.retain(|append| append.replica != replica);
                }
                other => return other,
            }
        }
    }
}

fn append((replica, persist): (ReplicaId, Persist)) -> Append {
    let entries = persist
        .entries
        .iter()
        .map(|entry| LogEntry {
            index: entry.index,
            term: entry.term,
            bytes: LoggedEntry::of(entry).encode().into(),
        })
        .collect();
    Append {
        replica,
        state: Some(LogState::of(&persist.state).encode().into()),
        start_after: persist.reset.map(|(index, _)| index),
        entries,
    }
}
