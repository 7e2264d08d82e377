//! Applies committed entries to the store, off the async threads: one batch over all
//! shards that have any, with each shard's applied index in the same batch, so that after
//! a crash the log is applied again from exactly where the store stands.

use std::{
    collections::BTreeMap,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, atomic::Ordering},
};

use atoll_disk::{OrderedStore, StoreError, Table, WriteBatch};
use atoll_runtime::{Broken, Runtime, is_broken};
use atoll_types::{Format, ReplicaId, Revision, WallTime};
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

use crate::{
    Executed, Procedures, Verdict,
    client::Outcome,
    dedup::Results,
    driver::Feedback,
    group::{Committed, ExecuteReply, ReplicaShared, Work},
    lease::LEASE_PREFIX,
    metrics::Metrics,
    snapshot::delete_readable,
    state::{Area, Descriptor, Members, Meta, PREFIX_BYTES, Place},
    view::{CommandView, Pending},
    watch,
    wire::CommandEntry,
};

/// What the apply worker is asked to do, in order.
pub(crate) enum Job {
    Open {
        shared: Arc<ReplicaShared>,
        place: Place,
        meta: Option<Meta>,
    },
    Apply {
        replica: ReplicaId,
        entries: Vec<Committed>,
    },
    /// Makes the store durable and tells the driver up to which entries.
    Checkpoint {
        done: Option<oneshot::Sender<()>>,
    },
    /// Makes a pulled state current; what the replica had is deleted.
    Install {
        place: Place,
        meta: Box<Meta>,
    },
    Close {
        replica: ReplicaId,
        closed: oneshot::Sender<()>,
    },
}

/// Entries applied in one round, at most: results wait for the whole round's batch.
const ENTRIES_PER_ROUND_MAX: usize = 4096;

/// A replica's state as the worker knows it.
struct State {
    shared: Arc<ReplicaShared>,
    place: Place,
    /// `None` until a snapshot fills the replica.
    meta: Option<Meta>,
    results: Results,
    /// Why nothing more is applied.
    failed: Option<String>,
}

/// One replica's share of a round, for the driver.
pub(crate) struct Applied {
    pub replica: ReplicaId,
    pub index: u64,
    pub term: u64,
    pub stamp: WallTime,
    pub hash: [u8; 32],
    pub members: Option<Members>,
}

#[derive(Default)]
struct Done {
    applied: Vec<Applied>,
    replies: Vec<(ReplicaId, ExecuteReply, Outcome<Executed>)>,
    failed: Vec<(ReplicaId, String)>,
    unreadable: Vec<Feedback>,
    installed: Vec<Installed>,
    flushed: Vec<(ReplicaId, u64)>,
}

/// Why an entry can't be applied.
#[derive(Debug, thiserror::Error)]
enum ApplyError {
    /// What the replica has can't be read: it has forgotten, and the others may go on. Or it
    /// makes no sense: nothing on this node can go on.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// This replica can't go on; the others may.
    #[error("{0}")]
    Replica(String),
}

pub(crate) struct Worker {
    pub runtime: Runtime,
    pub store: Arc<dyn OrderedStore>,
    pub procedures: Arc<Procedures>,
    pub feedback: mpsc::UnboundedSender<Feedback>,
    pub metrics: Arc<Metrics>,
}

impl Worker {
    /// Deletes a generation that is not current, beside everything else. If that is cut
    /// short, the next start does it.
    fn delete_later(&self, place: Place) {
        let (store, runtime) = (self.store.clone(), self.runtime.clone());
        drop(self.runtime.spawn("records-delete", async move {
            let deleted = runtime.blocking(move || delete_readable(&*store, &place.whole())).await;
            if let Err(error) = deleted {
                tracing::warn!(error = &error as &dyn std::error::Error, "an old state was not deleted");
            }
        }));
    }

    pub async fn run(self, mut jobs: mpsc::UnboundedReceiver<Job>) {
        let mut states: BTreeMap<ReplicaId, State> = BTreeMap::new();
        while let Some(first) = jobs.recv().await {
            let mut round = Vec::new();
            // After the round's entries: those that came later are older than the
            // snapshot, or Raft would not have been offered it.
            let mut installs = Vec::new();
            let mut checkpoints = Vec::new();
            let mut entries = 0;
            let mut next = Some(first);
            while let Some(job) = next.take() {
                match job {
                    Job::Open { shared, place, meta } => {
                        let state = State { shared, place, meta, results: Results::new(), failed: None };
                        states.insert(place.replica, state);
                    }
                    Job::Apply { replica, entries: more } => {
                        entries += more.len();
                        round.push((replica, more));
                    }
                    Job::Checkpoint { done } => checkpoints.push(done),
                    Job::Install { place, meta } => installs.push((place, *meta)),
                    Job::Close { replica, closed } => {
                        states.remove(&replica);
                        // Whoever closes waits unless the node stops.
                        let _ = closed.send(());
                    }
                }
                if entries < ENTRIES_PER_ROUND_MAX {
                    next = jobs.try_recv().ok();
                }
            }
            if round.is_empty() && installs.is_empty() && checkpoints.is_empty() {
                continue;
            }
            let (store, procedures) = (self.store.clone(), self.procedures.clone());
            let checkpoint = !checkpoints.is_empty();
            self.metrics.entries_applied.add(entries as u64);
            self.metrics.apply_rounds.add(1);
            let done = self
                .runtime
                .blocking(move || {
                    let mut done = apply_round(&*store, &procedures, &mut states, round);
                    for (place, meta) in installs {
                        done = done.and_then(|mut done| {
                            done.installed.push(install(&*store, &mut states, place, meta)?);
                            Ok(done)
                        });
                    }
                    if checkpoint {
                        done = done.and_then(|mut done| {
                            if !is_broken(Broken::TrimUnflushed) {
                                store.flush()?;
                            }
                            let applied = |state: &State| Some(state.meta.as_ref()?.applied.0);
                            done.flushed = states
                                .iter()
                                .filter_map(|(replica, state)| Some((*replica, applied(state)?)))
                                .collect();
                            Ok(done)
                        });
                    }
                    (states, done)
                })
                .await;
            states = done.0;
            let done = match done.1 {
                Ok(done) => done,
                Err(error) => {
                    let error: &dyn std::error::Error = &error;
                    let reason = format!("{error}: {:?}", error.source().map(ToString::to_string));
                    // The driver stops everything; if it is gone, so are we.
                    let _ = self.feedback.send(Feedback::Failed { reason });
                    return;
                }
            };
            self.runtime.fault_point("records: commands are applied, their callers are not told").await;
            for (_, reply, outcome) in done.replies {
                // A caller whose time is up doesn't wait any more.
                let _ = reply.send(outcome);
            }
            for unreadable in done.unreadable {
                // As above.
                let _ = self.feedback.send(unreadable);
            }
            if checkpoint {
                // As above.
                let _ = self.feedback.send(Feedback::Flushed(done.flushed));
            }
            for done in checkpoints.into_iter().flatten() {
                // Whoever asked may not wait.
                let _ = done.send(());
            }
            for Installed { meta, replaced } in done.installed {
                // As above.
                let _ = self.feedback.send(Feedback::Installed { replica: replaced.replica, meta });
                self.delete_later(replaced);
            }
            if self.feedback.send(Feedback::Applied { applied: done.applied, failed: done.failed }).is_err() {
                return;
            }
        }
    }
}

/// Makes a pulled state current, durably: the log is about to forget what led to it.
fn install(
    store: &dyn OrderedStore,
    states: &mut BTreeMap<ReplicaId, State>,
    place: Place,
    meta: Meta,
) -> Result<Installed, StoreError> {
    let replica = place.replica;
    let useless = Installed { meta: None, replaced: place };
    let Some(state) = states.get_mut(&replica).filter(|state| state.failed.is_none()) else {
        return Ok(useless);
    };
    if let Some(current) = &state.meta {
        if meta.applied == current.applied && meta.applied_term == current.applied_term {
            // What is here stays, and the copy goes; Raft has yet to hear of it.
            return Ok(Installed { meta: Some(meta), replaced: place });
        }
        if meta.applied <= current.applied {
            return Ok(useless);
        }
    }
    let old = state.place;
    let descriptor = Descriptor {
        shard: state.shared.shard,
        replica,
        generation: place.generation,
        began_at: meta.applied.0,
    };
    let mut batch = WriteBatch::default();
    batch.put(Table::Records, place.key(Area::Meta, &[]), meta.encode());
    batch.put(Table::Local, Descriptor::key(replica), descriptor.encode());
    store.write(batch)?;
    store.flush()?;
    (state.place, state.meta, state.results) = (place, Some(meta.clone()), Results::new());
    state.shared.lease_changes.fetch_add(1, Ordering::Release);
    state.shared.applied.send_replace(meta.applied.0);
    Ok(Installed { meta: Some(meta), replaced: old })
}

/// What became of a pulled state.
struct Installed {
    /// `None`: it was of no use any more.
    meta: Option<Meta>,
    /// Where the one lies that is not current.
    replaced: Place,
}

fn apply_round(
    store: &dyn OrderedStore,
    procedures: &Procedures,
    states: &mut BTreeMap<ReplicaId, State>,
    round: Vec<(ReplicaId, Vec<Committed>)>,
) -> Result<Done, StoreError> {
    let mut done = Done::default();
    if round.is_empty() {
        return Ok(done);
    }
    let snapshot = store.snapshot()?;
    let mut pending = Pending::new(&*snapshot);
    let mut touched: BTreeMap<ReplicaId, Applied> = BTreeMap::new();
    for (replica, entries) in round {
        let Some(state) = states.get_mut(&replica) else { continue };
        for entry in entries {
            if state.failed.is_some() {
                break;
            }
            let (index, term, reply) = (entry.index, entry.term, entry.reply);
            let members = match &entry.work {
                Work::Members(members) => Some(members.clone()),
                Work::Nothing | Work::Command(_) => None,
            };
            match state.apply(&mut pending, procedures, index, term, entry.work) {
                Ok(outcome) => {
                    if let Some(reply) = reply {
                        done.replies.push((replica, reply, outcome));
                    }
                    let meta = state.meta.as_ref().expect("an entry was applied to it");
                    let applied = touched.entry(replica).or_insert(Applied {
                        replica,
                        index,
                        term,
                        stamp: meta.stamp,
                        hash: meta.hash,
                        members: None,
                    });
                    (applied.index, applied.term) = (index, term);
                    (applied.stamp, applied.hash) = (meta.stamp, meta.hash);
                    applied.members = members.or(applied.members.take());
                }
                Err(ApplyError::Store(error)) => {
                    let Some(unreadable) = Feedback::unreadable(replica, &error, false) else {
                        return Err(error);
                    };
                    // Nobody may see half an entry: the whole round of this replica goes,
                    // and whoever waits for one of its entries asks the next leader.
                    state.failed = Some(error.to_string());
                    state.meta = None;
                    pending.take_back(replica);
                    touched.remove(&replica);
                    done.replies.retain(|(of, ..)| *of != replica);
                    done.unreadable.push(unreadable);
                }
                Err(ApplyError::Replica(reason)) => {
                    state.failed = Some(reason.clone());
                    done.failed.push((replica, reason));
                }
            }
        }
        if let Some(meta) = &state.meta {
            pending.put(state.place.key(Area::Meta, &[]), meta.encode().into());
            if is_broken(Broken::TornState) {
                store.write(WriteBatch::of(
                    Table::Records,
                    state.place.key(Area::Meta, &[]),
                    meta.encode(),
                ))?;
            }
        }
    }
    store.write(pending.into_batch())?;
    for applied in touched.into_values() {
        if let Some(meta) = states.get(&applied.replica).and_then(|state| state.meta.as_ref()) {
            states[&applied.replica].shared.applied.send_replace(meta.applied.0);
        }
        done.applied.push(applied);
    }
    Ok(done)
}

impl State {
    fn apply(
        &mut self,
        pending: &mut Pending<'_>,
        procedures: &Procedures,
        index: u64,
        term: u64,
        work: Work,
    ) -> Result<Outcome<Executed>, ApplyError> {
        let Some(meta) = &mut self.meta else {
            return Err(ApplyError::Replica(format!("entry {index} was committed on an empty replica")));
        };
        if index <= meta.applied.0 {
            // The store was ahead of the log's commit, after a restart or a snapshot.
            return Ok(Outcome::Unknown);
        }
        if index != meta.applied.0 + 1 {
            return Err(ApplyError::Replica(format!("entry {index} follows {}", meta.applied)));
        }
        let outcome = match work {
            Work::Nothing => Outcome::Unknown,
            Work::Members(members) => {
                meta.members = members;
                Outcome::Unknown
            }
            Work::Command(bytes) => {
                let entry = CommandEntry::decode(&bytes)
                    .map_err(|error| ApplyError::Replica(format!("entry {index}: {error}")))?;
                Outcome::Done(self.command(pending, procedures, Revision(index), entry)?)
            }
        };
        let meta = self.meta.as_mut().expect("seen above");
        meta.applied = Revision(index);
        meta.applied_term = term;
        Ok(outcome)
    }

    fn command(
        &mut self,
        pending: &mut Pending<'_>,
        procedures: &Procedures,
        revision: Revision,
        entry: CommandEntry,
    ) -> Result<Executed, ApplyError> {
        let meta = self.meta.as_mut().expect("only a filled replica gets here");
        // Not only the leader keeps stamps from going back: it can't know the stamps of
        // entries that it had not applied when it was elected.
        let stamp = if is_broken(Broken::StampBack) { entry.stamp } else { meta.stamp.max(entry.stamp) };
        meta.stamp = stamp;
        if let Some(executed) = Results::get(pending, self.place, entry.id)?
            && !is_broken(Broken::DoneTwice)
        {
            return Ok(executed);
        }
        let Some(command) = procedures.commands.get(entry.command.as_str()) else {
            // Its leader knew the command: this program is older. Guessing would fork
            // the state.
            return Err(ApplyError::Replica(format!("command {:?} is not known here", entry.command)));
        };
        let mut view = CommandView::new(pending, self.place, revision, stamp, entry.id);
        let verdict = match catch_unwind(AssertUnwindSafe(|| command.apply(&mut view, &entry.input))) {
            Ok(verdict) => verdict?,
            Err(_) => {
                view.undo();
                let reason = format!("command {:?} panicked at entry {revision}", entry.command);
                return Err(ApplyError::Replica(reason));
            }
        };
        let executed = match verdict {
            Verdict::Commit(_) if view.is_oversized() => {
                view.undo();
                tracing::error!(command = entry.command, "a command wrote a key or value over the limit");
                Executed { revision, committed: false, output: Bytes::new() }
            }
            Verdict::Commit(output) => {
                let written = view.keep();
                if written.iter().any(|key| key[PREFIX_BYTES..].starts_with(LEASE_PREFIX)) {
                    self.shared.lease_changes.fetch_add(1, Ordering::Release);
                }
                let shard = self.shared.shard;
                watch::record(
                    pending,
                    self.place,
                    revision,
                    &written,
                    |key| procedures.is_watched(shard, key),
                    &mut meta.changes,
                )?;
                meta.hash = hash_writes(meta.hash, revision, pending, &written);
                Executed { revision, committed: true, output: output.into() }
            }
            Verdict::Abort(output) => {
                view.undo();
                Executed { revision, committed: false, output: output.into() }
            }
        };
        self.results.remember(pending, self.place, entry.id, stamp, &executed)?;
        Ok(executed)
    }
}

/// The state's hash after an entry: the one before, the revision, and what it wrote.
fn hash_writes(before: [u8; 32], revision: Revision, pending: &Pending<'_>, written: &[Bytes]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&before);
    hasher.update(&revision.0.to_be_bytes());
    for key in written {
        // Without the replica's id, in which replicas do differ.
        let owner_key = &key[PREFIX_BYTES..];
        hasher.update(&(owner_key.len() as u64).to_be_bytes());
        hasher.update(owner_key);
        if let Some(Some(value)) = pending.written(key) {
            hasher.update(&(value.len() as u64 + 1).to_be_bytes());
            hasher.update(value);
        } else {
            hasher.update(&0u64.to_be_bytes());
        }
    }
    *hasher.finalize().as_bytes()
}
