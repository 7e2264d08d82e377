//! The one task that owns all Raft groups of a node. It takes what arrived since it last
//! looked, gives it to the groups, collects what they want done, and hands that on: the
//! messages for one peer in one frame, everything to be persisted in one write of the
//! shared log, committed entries to the apply worker. It waits for none of them.
//!
//! A leader's appends leave before its own write is durable (Raft thesis 10.2.1); what a
//! follower answers is held back until it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex},
};

use atoll_disk::{LogError, SharedLog, StoreError};
use atoll_runtime::{Broken, Runtime, is_broken, watch};
use atoll_transport::{Protocol, Transport};
use atoll_types::{Format, Instant, NodeId, ReplicaId, ShardId};
use bytes::Bytes;
use raft::{
    GetEntriesContext,
    eraftpb::{Entry, Message},
};
use tokio::sync::{Semaphore, mpsc, oneshot};

use crate::{
    ShardMap, ShardReplicas,
    apply::{Applied, Job},
    check::Refused,
    client::Outcome,
    group::{Committed, Group, Proposal, ReplicaShared},
    group_log::{FETCH_BYTES_MAX, Fetch},
    lives::{SET_BACK, Verdict, Witness},
    log::{self, OpenError, Wish},
    metrics::Metrics,
    observe::{Observed, Observer},
    reads::ReadReply,
    records::settle,
    snapshot::{FillError, Filling, Snapshots},
    state::{Meta, Place},
    status::{ReplicaStatus, Role},
    timing::TICK,
    wire::{Frame, Kind, PeerMessage},
};

/// Inputs that wait for the driver. Frames beyond are dropped, as the network might have;
/// callers beyond wait. 4,096 × 1 MiB is the worst case, a few MiB the usual one.
pub(crate) const INBOX_MAX: usize = 4096;
/// Inputs taken before the groups are looked at: large enough to share a flush, small
/// enough that the first does not wait for long.
const INPUTS_PER_ROUND_MAX: usize = 1024;
/// 512 KiB of messages share a frame; a larger one has its own.
const FRAME_BYTES_TARGET: usize = 512 << 10;
/// Replicas that are filled at once: growing is to leave room for serving.
pub(crate) const FILLS_MAX: usize = 2;
/// 32 MiB of entries are applied again after a crash, at most: about a second's work.
const CHECKPOINT_BYTES: usize = 32 << 20;
/// 60 s: and what was written long ago does not stay in the log for its own sake.
const CHECKPOINT_TICKS: u64 = 600;
/// 30 s without anything to apply: the store has time to tidy up.
const SETTLE_TICKS: u64 = 300;
/// 1 s: what a peer has shown is durable here soon after, at the price of one small flush,
/// and none while nobody writes.
const LIVES_TICKS: u64 = 10;
/// 5 s.
const SWEEP_TICKS: u64 = 50;

/// What others want of the driver.
pub(crate) enum Input {
    Frame {
        from: NodeId,
        payload: Bytes,
    },
    Propose {
        shard: ShardId,
        proposal: Proposal,
    },
    Read {
        shard: ShardId,
        reply: ReadReply,
    },
    Add {
        group: Box<Group>,
        added: oneshot::Sender<()>,
    },
    Remove {
        replica: ReplicaId,
        removed: oneshot::Sender<()>,
    },
    Status {
        reply: oneshot::Sender<Vec<ReplicaStatus>>,
    },
    /// Leadership of every shard is to go elsewhere.
    HandOver,
    /// Leadership of one shard is to go to this replica.
    HandTo {
        shard: ShardId,
        replica: ReplicaId,
    },
    /// The store is to be flushed and the log trimmed, now.
    Checkpoint {
        done: oneshot::Sender<()>,
    },
    /// Where the layout wants the shard's members.
    Reconfigure {
        shard: ShardId,
        target: ShardReplicas,
    },
}

/// What comes back of what the driver had done.
pub(crate) enum Feedback {
    /// Readies that are durable.
    Persisted(Vec<(ReplicaId, u64)>),
    Applied {
        applied: Vec<Applied>,
        failed: Vec<(ReplicaId, String)>,
    },
    /// A snapshot was pulled, or could not be.
    Pulled {
        replica: ReplicaId,
        from: ReplicaId,
        term: u64,
        result: Result<(Place, Box<Meta>), FillError>,
    },
    /// A pulled state is current in the store, or was of no use.
    Installed {
        replica: ReplicaId,
        meta: Option<Meta>,
    },
    /// Entries that a follower needs were read from the log.
    Fetched {
        replica: ReplicaId,
        context: GetEntriesContext,
        result: Result<Vec<Entry>, OpenError>,
    },
    /// The store is durable up to these entries.
    Flushed(Vec<(ReplicaId, u64)>),
    /// Something of a replica's state can't be read.
    Unreadable {
        replica: ReplicaId,
        reason: String,
        /// Others of its entries may still be looked at, and more applied.
        goes_on: bool,
    },
    /// The disk fails: nothing can go on.
    Failed {
        reason: String,
    },
}

impl Feedback {
    /// If that is what the error says. What was read and makes no sense would make none to the
    /// next leader either: it must not cost one replica after the other.
    pub fn unreadable(replica: ReplicaId, error: &StoreError, goes_on: bool) -> Option<Self> {
        let reason = format!("its state can't be read: {error}: {}", error.source);
        error.is_unreadable().then_some(Feedback::Unreadable { replica, reason, goes_on })
    }
}

/// A shard's replica on this node, as those who look for a leader see it.
#[derive(Clone)]
pub(crate) struct Local {
    pub replica: Arc<ReplicaShared>,
    pub leads: bool,
    pub term: u64,
    pub leader: Option<NodeId>,
}

/// Which shards have a replica here; written by the driver.
pub(crate) type Directory = Arc<Mutex<BTreeMap<ShardId, Local>>>;

pub(crate) struct Driver {
    pub runtime: Runtime,
    pub transport: Arc<dyn Transport>,
    pub witness: Witness,
    pub directory: Directory,
    pub log: mpsc::UnboundedSender<Wish>,
    pub apply: mpsc::UnboundedSender<Job>,
    /// For what is begun here and reports back.
    pub feedback: mpsc::UnboundedSender<Feedback>,
    pub map: watch::Receiver<Arc<ShardMap>>,
    pub snapshots: Arc<Snapshots>,
    /// Turns to pull a snapshot.
    pub fills: Arc<Semaphore>,
    pub ticks: u64,
    /// Why nothing here can go on.
    pub failed: watch::Sender<Option<String>>,
    pub metrics: Arc<Metrics>,
    pub shared_log: SharedLog,
    /// For tests that check Raft's invariants.
    pub observer: Option<Arc<dyn Observer>>,
    /// Bytes of entries handed to the apply worker since the last checkpoint.
    pub unflushed_bytes: usize,
    /// Ticks since something was applied.
    pub rested: u64,
    /// Replicas of this node that don't run, and why.
    pub absent: BTreeMap<ReplicaId, (ShardId, Role)>,
    pub groups: BTreeMap<ReplicaId, Group>,
    /// Groups that may have something to collect.
    pub dirty: BTreeSet<ReplicaId>,
}

enum Wake {
    Feedback(Feedback),
    Input(Input),
    Tick,
    Stop,
}

impl Driver {
    pub async fn run(
        mut self,
        mut inbox: mpsc::Receiver<Input>,
        mut feedback: mpsc::UnboundedReceiver<Feedback>,
    ) {
        let mut next_tick = self.runtime.now() + TICK;
        let mut sleep = self.runtime.sleep_until(next_tick);
        loop {
            let wake = tokio::select! {
                biased;
                Some(done) = feedback.recv() => Wake::Feedback(done),
                input = inbox.recv() => input.map_or(Wake::Stop, Wake::Input),
                () = &mut sleep => Wake::Tick,
            };
            match wake {
                Wake::Feedback(done) => self.take_feedback(done),
                Wake::Input(input) => self.take_input(input),
                Wake::Tick => {}
                Wake::Stop => return,
            }
            for _ in 0..INPUTS_PER_ROUND_MAX {
                if let Ok(done) = feedback.try_recv() {
                    self.take_feedback(done);
                } else if let Ok(input) = inbox.try_recv() {
                    self.take_input(input);
                } else {
                    break;
                }
            }
            let now = self.runtime.now();
            if now >= next_tick {
                // One tick however late: a process that was stalled has not been
                // without a leader for all that time.
                self.tick(now);
                next_tick = now + TICK;
                sleep = self.runtime.sleep_until(next_tick);
            }
            self.round(now);
        }
    }

    /// Runs `work` on a group. Where Raft's own assertions fail, that replica stops, and
    /// no other.
    fn with_group<T>(&mut self, replica: ReplicaId, work: impl FnOnce(&mut Group) -> T) -> Option<T> {
        let group = self.groups.get_mut(&replica)?;
        match catch_unwind(AssertUnwindSafe(|| work(group))) {
            Ok(value) => {
                self.dirty.insert(replica);
                Some(value)
            }
            Err(_) => {
                if let (Some(observer), Some(group)) = (&self.observer, self.groups.get(&replica)) {
                    observer.asserted(group.shard, replica);
                }
                self.stop_group(replica, stopped("raft's assertions failed"));
                None
            }
        }
    }

    fn stop_group(&mut self, replica: ReplicaId, role: Role) {
        if let Some(shard) = self.close_group(replica) {
            tracing::error!(%shard, %replica, ?role, "a replica stopped");
            self.metrics.replicas_stopped.add(1);
            if let (Some(observer), Role::Forgotten { .. }) = (&self.observer, &role) {
                observer.forgotten(shard, replica);
            }
            self.absent.insert(replica, (shard, role));
        }
    }

    /// A replica that can't read what it has is as one that has forgotten it (rule 4): others
    /// do its work, and the layout brings it back under a new id. Where it is the only voter
    /// nobody could: it goes on with what can be read.
    fn cannot_read(&mut self, replica: ReplicaId, reason: String, goes_on: bool) {
        let Some(group) = self.groups.get(&replica) else { return };
        if is_broken(Broken::UnreadableStays) {
            return;
        }
        let members = &group.members;
        if members.voters == [replica] && !members.is_joint() {
            tracing::error!(shard = %group.shard, %replica, reason, "a replica that can't be replaced");
            if !goes_on {
                self.stop_group(replica, Role::Stopped { reason });
            }
            return;
        }
        self.stop_group(replica, Role::Forgotten { reason });
        self.witness.note_forgotten(replica);
    }

    /// Ends a group; whoever waits for it is told to look elsewhere.
    fn close_group(&mut self, replica: ReplicaId) -> Option<ShardId> {
        let group = self.groups.remove(&replica)?;
        self.dirty.remove(&replica);
        let shard = group.shard;
        let mut directory = self.directory.lock().expect("nobody panics holding it");
        if directory.get(&shard).is_some_and(|local| local.replica.replica == replica) {
            directory.remove(&shard);
        }
        drop(directory);
        group.stop();
        Some(shard)
    }

    fn of_shard(&self, shard: ShardId) -> Option<ReplicaId> {
        let directory = self.directory.lock().expect("nobody panics holding it");
        directory.get(&shard).map(|local| local.replica.replica)
    }

    fn take_input(&mut self, input: Input) {
        match input {
            Input::Frame { from, payload } => match Frame::decode(&payload) {
                Ok(frame) => self.take_frame(from, frame),
                Err(error) => {
                    self.metrics.frames_refused.add(1);
                    tracing::debug!(?from, %error, "refused a raft frame");
                }
            },
            Input::Propose { shard, proposal } => match self.of_shard(shard) {
                Some(replica) => {
                    self.with_group(replica, |group| group.propose(proposal));
                }
                // The asker may be gone.
                None => drop(proposal.reply.send(Outcome::NotLeader { leader: None })),
            },
            Input::Read { shard, reply } => match self.of_shard(shard) {
                Some(replica) => {
                    self.with_group(replica, |group| group.read(reply));
                }
                None => drop(reply.send(Outcome::NotLeader { leader: None })),
            },
            Input::Add { group, added } => {
                let replica = group.replica;
                if !self.groups.contains_key(&replica) {
                    self.absent.remove(&replica);
                    let local = group.local();
                    self.directory.lock().expect("nobody panics holding it").insert(group.shard, local);
                    self.groups.insert(replica, *group);
                    self.dirty.insert(replica);
                }
                // The node may be stopping.
                let _ = added.send(());
            }
            Input::Status { reply } => {
                let live = self.groups.values().map(ReplicaStatus::of);
                let absent = self
                    .absent
                    .iter()
                    .map(|(replica, (shard, role))| ReplicaStatus::of_absent(*shard, *replica, role.clone()));
                // The asker may be gone.
                let _ = reply.send(live.chain(absent).collect());
            }
            Input::HandOver => {
                for replica in self.groups.keys().copied().collect::<Vec<_>>() {
                    self.with_group(replica, Group::hand_over);
                }
            }
            Input::HandTo { shard, replica: to } => {
                if let Some(replica) = self.of_shard(shard) {
                    self.with_group(replica, |group| group.hand_to(to));
                }
            }
            Input::Checkpoint { done } => self.checkpoint(Some(done)),
            Input::Reconfigure { shard, target } => {
                if let Some(replica) = self.of_shard(shard) {
                    self.with_group(replica, |group| {
                        if group.is_leader() {
                            group.target = Some(target);
                            group.advance_membership();
                        }
                    });
                }
            }
            Input::Remove { replica, removed } => {
                self.close_group(replica);
                self.absent.remove(&replica);
                // Without the writer, which has failed, nobody waits for an answer.
                let _ = self.log.send(Wish::Settle(removed));
            }
        }
    }

    /// A peer has seen newer of this disk than it holds (rule 4).
    fn was_set_back(&mut self, found_by: NodeId) {
        tracing::error!(?found_by, "this disk was set back to an old state");
        for replica in self.groups.keys().copied().collect::<Vec<_>>() {
            self.stop_group(replica, Role::Forgotten { reason: SET_BACK.into() });
        }
        self.witness.forget(self.absent.keys().copied());
    }

    fn take_frame(&mut self, from: NodeId, frame: Frame) {
        match self.witness.check(from, &frame) {
            Verdict::Take => {}
            Verdict::Refuse(answer) => {
                self.transport.send(from, Protocol::Raft, answer.encode().into());
                return;
            }
            Verdict::WeWereSetBack => {
                self.was_set_back(from);
                return;
            }
        }
        for message in frame.messages {
            let replica = message.to;
            let Some(group) = self.groups.get_mut(&replica) else { continue };
            if message.shard != group.shard {
                continue;
            }
            if group.members.nodes.get(&message.from) != Some(&from) {
                // One that has yet to catch up does not know the newest members; the map
                // may. One that is empty knows nobody, and takes only its filling.
                let filling = matches!(message.kind, Kind::Heartbeat | Kind::Append | Kind::Snapshot);
                if !(group.empty && filling || is_at(&self.map, message.shard, message.from, from)) {
                    tracing::debug!(?from, %replica, refused = %Refused::UnknownSender, "refused a raft message");
                    continue;
                }
                group.learned.insert(message.from, from);
            }
            let result = if message.kind == Kind::Snapshot {
                match self.with_group(replica, |group| group.offered(&message)) {
                    Some(Ok(true)) => {
                        self.pull(from, &message);
                        Ok(())
                    }
                    Some(Err(refused)) => Err(refused),
                    Some(Ok(false)) | None => Ok(()),
                }
            } else {
                self.with_group(replica, |group| group.step(message)).unwrap_or(Ok(()))
            };
            if let Err(refused) = result {
                self.metrics.messages_refused.add(1);
                tracing::debug!(?from, %replica, %refused, "refused a raft message");
            }
        }
    }

    /// Begins to pull the snapshot that was offered.
    fn pull(&mut self, node: NodeId, offer: &PeerMessage) {
        let Some(group) = self.groups.get_mut(&offer.to) else { return };
        let (replica, from, term) = (offer.to, offer.from, offer.term);
        let filling = Filling {
            runtime: self.runtime.clone(),
            transport: self.transport.clone(),
            store: self.snapshots.store.clone(),
            shard: group.shard,
            replica,
            from,
            node,
            newer_than: group.raw.raft.raft_log.committed,
        };
        let (fills, feedback) = (self.fills.clone(), self.feedback.clone());
        group.filling = Some(self.runtime.spawn_owned("records-fill", async move {
            let Ok(_turn) = fills.acquire().await else { return };
            let runtime = filling.runtime.clone();
            let result = filling.pull().await.map(|(place, meta)| (place, Box::new(meta)));
            runtime.fault_point("records: a snapshot is pulled, not installed").await;
            // The driver may be gone; then nobody is filled.
            let _ = feedback.send(Feedback::Pulled { replica, from, term, result });
        }));
    }

    fn take_feedback(&mut self, feedback: Feedback) {
        match feedback {
            Feedback::Persisted(readies) => {
                let mut frames = Outgoing::default();
                for (replica, number) in readies {
                    if let Some(send) = self.with_group(replica, |group| group.persisted(number)) {
                        frames.add(&self.groups, replica, send);
                    }
                }
                frames.send(self);
            }
            Feedback::Applied { applied, failed } => {
                for applied in applied {
                    self.with_group(applied.replica, |group| {
                        group.saw_stamp(applied.stamp);
                        group.hash = applied.hash;
                        group.applied(applied.index, applied.term, applied.members.as_ref());
                    });
                }
                for (replica, reason) in failed {
                    self.stop_group(replica, Role::Stopped { reason });
                }
            }
            Feedback::Pulled { replica, from, term, result } => {
                let Some(group) = self.groups.get_mut(&replica) else { return };
                match result {
                    Err(error) => {
                        group.filling = None;
                        let shard = group.shard;
                        tracing::warn!(%shard, %replica, error = &error as &dyn std::error::Error, "a replica was not filled");
                        if let FillError::Store(error) = &error
                            && let Some(unreadable) = Feedback::unreadable(replica, error, true)
                        {
                            self.take_feedback(unreadable);
                        }
                    }
                    Ok((_, meta))
                        if group.empty
                            && meta.members.is_voter(replica)
                            && !is_broken(Broken::EmptyVotes) =>
                    {
                        // A replica becomes a voter only once it is filled: this one was,
                        // and its disk does not know (rule 4).
                        let reason = "it was a voter, and is empty".into();
                        self.stop_group(replica, Role::Forgotten { reason });
                        // After the next start it may be filled by who does not call it a voter any more, or yet.
                        self.witness.note_forgotten(replica);
                    }
                    Ok((place, meta)) => {
                        group.fill_source = (from, term);
                        // The worker outlives the driver but in a stop.
                        let _ = self.apply.send(Job::Install { place, meta });
                    }
                }
            }
            Feedback::Installed { replica, meta } => {
                self.with_group(replica, |group| group.filling = None);
                if let Some(meta) = meta {
                    self.metrics.snapshots_installed.add(1);
                    self.with_group(replica, |group| {
                        let (from, term) = group.fill_source;
                        group.installed(from, term, meta);
                    });
                }
            }
            Feedback::Fetched { replica, context, result } => match result {
                Ok(entries) => {
                    self.with_group(replica, |group| {
                        group.raw.mut_store().put_fetched(entries);
                        group.raw.on_entries_fetched(context);
                    });
                }
                // Trimmed or replaced meanwhile: Raft comes to it again.
                Err(OpenError::Log(
                    LogError::NotHeld { .. } | LogError::Removed { .. } | LogError::Closed,
                )) => {}
                Err(error) => {
                    let reason = error.to_string();
                    self.stop_group(replica, Role::Forgotten { reason });
                }
            },
            Feedback::Flushed(flushed) => {
                for (replica, applied) in flushed {
                    if let Some(Some(through)) = self.with_group(replica, |group| group.trim(applied)) {
                        self.shared_log.trim(replica, through);
                    }
                }
            }
            Feedback::Unreadable { replica, reason, goes_on } => self.cannot_read(replica, reason, goes_on),
            Feedback::Failed { reason } => self.fail(&reason),
        }
    }

    /// Nothing here can go on.
    fn fail(&mut self, reason: &str) {
        for replica in self.groups.keys().copied().collect::<Vec<_>>() {
            self.stop_group(replica, stopped(reason));
        }
        self.failed.send_replace(Some(reason.into()));
    }

    fn tick(&mut self, now: Instant) {
        self.ticks += 1;
        if self.unflushed_bytes >= CHECKPOINT_BYTES
            || (self.unflushed_bytes > 0 && self.ticks.is_multiple_of(CHECKPOINT_TICKS))
        {
            self.checkpoint(None);
        }
        self.rested += 1;
        if self.rested == SETTLE_TICKS {
            let (runtime, store) = (self.runtime.clone(), self.snapshots.store.clone());
            drop(self.runtime.spawn("records-settle", async move { settle(&runtime, store).await }));
        }
        if self.ticks.is_multiple_of(LIVES_TICKS) {
            self.witness.keep_news();
        }
        if self.ticks.is_multiple_of(SWEEP_TICKS) {
            self.snapshots.sweep(now);
        }
        for replica in self.groups.keys().copied().collect::<Vec<_>>() {
            let Some(group) = self.groups.get_mut(&replica) else { continue };
            match catch_unwind(AssertUnwindSafe(|| group.tick(now, &self.snapshots))) {
                Ok(true) => {
                    self.dirty.insert(replica);
                }
                Ok(false) => {}
                Err(_) => self.stop_group(replica, stopped("raft's assertions failed")),
            }
        }
    }

    /// Looks at every group that something happened to.
    fn round(&mut self, now: Instant) {
        let wall = self.runtime.wall_now();
        let mut frames = Outgoing::default();
        let mut round = Vec::new();
        self.metrics.rounds.add(1);
        while let Some(replica) = self.dirty.pop_first() {
            loop {
                let behind = self.groups.get(&replica).is_some_and(Group::applies_slowly);
                let Some(Some(effects)) = self.with_group(replica, |group| group.collect(now, wall)) else {
                    break;
                };
                frames.add(&self.groups, replica, effects.send);
                if let Some(persist) = effects.persist {
                    round.push((replica, persist));
                }
                if !effects.apply.is_empty() {
                    self.rested = 0;
                    self.unflushed_bytes += effects.apply.iter().map(Committed::bytes).sum::<usize>();
                    let job = Job::Apply { replica, entries: effects.apply };
                    if self.apply.send(job).is_err() {
                        self.fail("the apply worker is gone");
                        return;
                    }
                }
                if behind {
                    // What it has to do goes on when some of it was applied.
                    break;
                }
            }
            self.dirty.remove(&replica);
            self.fetch(replica);
            self.publish(replica);
            if let (Some(observer), Some(group)) = (&self.observer, self.groups.get(&replica)) {
                observer.stepped(&Observed { group });
            }
        }
        frames.send(self);
        if !round.is_empty() && self.log.send(Wish::Persist(round)).is_err() {
            self.fail("the log's writer is gone");
        }
    }

    /// Reads from disk what a group's followers need and memory does not have.
    fn fetch(&mut self, replica: ReplicaId) {
        let Some(group) = self.groups.get_mut(&replica) else { return };
        for Fetch { low, high, context } in group.raw.mut_store().take_fetches() {
            let (log, feedback) = (self.shared_log.clone(), self.feedback.clone());
            let read = async move {
                let result = log::read(&log, replica, low, high, FETCH_BYTES_MAX).await;
                // The driver may be gone; then nobody needs them.
                let _ = feedback.send(Feedback::Fetched { replica, context, result });
            };
            drop(self.runtime.spawn("records-fetch", read));
        }
    }

    /// Makes the state durable, so that the log may lose what led to it.
    fn checkpoint(&mut self, done: Option<oneshot::Sender<()>>) {
        self.unflushed_bytes = 0;
        // The worker outlives the driver but in a stop, which makes a checkpoint itself.
        let _ = self.apply.send(Job::Checkpoint { done });
    }

    fn publish(&self, replica: ReplicaId) {
        let Some(group) = self.groups.get(&replica) else { return };
        let mut directory = self.directory.lock().expect("nobody panics holding it");
        match directory.get(&group.shard) {
            Some(known) if known.replica.replica != replica => {}
            Some(known)
                if known.leads == group.is_leader()
                    && known.term == group.raw.raft.term
                    && known.leader == group.leader_node() => {}
            _ => {
                directory.insert(group.shard, group.local());
            }
        }
    }
}

fn stopped(reason: &str) -> Role {
    Role::Stopped { reason: reason.into() }
}

/// Whether the map has this replica on that node.
fn is_at(map: &watch::Receiver<Arc<ShardMap>>, shard: ShardId, replica: ReplicaId, node: NodeId) -> bool {
    let map = map.borrow();
    let replicas = map.shards.get(&shard);
    replicas.is_some_and(|replicas| replicas.all().any(|at| at.replica == replica && at.node == node))
}

/// Messages on their way out, by peer.
#[derive(Default)]
struct Outgoing {
    by_node: BTreeMap<NodeId, Vec<PeerMessage>>,
}

impl Outgoing {
    fn add(&mut self, groups: &BTreeMap<ReplicaId, Group>, replica: ReplicaId, messages: Vec<Message>) {
        let Some(group) = groups.get(&replica) else { return };
        for message in messages {
            let Some(node) = group.node_of(ReplicaId(message.to)) else { continue };
            if let Some(message) = PeerMessage::of(group.shard, message) {
                self.by_node.entry(node).or_default().push(message);
            }
        }
    }

    fn send(self, driver: &Driver) {
        for (node, messages) in self.by_node {
            let mut frame = driver.witness.frame(node);
            let mut bytes = 0;
            for message in messages {
                let more = message.bytes();
                if bytes > 0 && bytes + more > FRAME_BYTES_TARGET {
                    driver.transport.send(node, Protocol::Raft, frame.encode().into());
                    frame.messages.clear();
                    bytes = 0;
                }
                bytes += more;
                frame.messages.push(message);
            }
            driver.transport.send(node, Protocol::Raft, frame.encode().into());
        }
    }
}
