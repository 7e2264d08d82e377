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

use atoll_runtime::Runtime;
use atoll_transport::{Protocol, Transport};
use atoll_types::{Format, Generation, Instant, NodeId, ReplicaId, ShardId};
use bytes::Bytes;
use raft::eraftpb::Message;
use tokio::sync::{mpsc, oneshot};

use crate::{
    apply::{Applied, Job},
    client::Outcome,
    group::{Group, Proposal},
    log::Wish,
    reads::ReadReply,
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

/// What others want of the driver.
pub(crate) enum Input {
    Frame { from: NodeId, payload: Bytes },
    Propose { shard: ShardId, proposal: Proposal },
    Read { shard: ShardId, reply: ReadReply },
    Add { group: Box<Group>, added: oneshot::Sender<()> },
    Remove { replica: ReplicaId, removed: oneshot::Sender<()> },
}

/// What comes back of what the driver had done.
pub(crate) enum Feedback {
    /// Readies that are durable.
    Persisted(Vec<(ReplicaId, u64)>),
    Applied {
        applied: Vec<Applied>,
        failed: Vec<(ReplicaId, String)>,
    },
    /// The disk fails: nothing can go on.
    Failed {
        reason: String,
    },
}

/// A shard's replica on this node, as those who look for a leader see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Local {
    pub replica: ReplicaId,
    pub leads: bool,
    pub leader: Option<NodeId>,
}

/// Which shards have a replica here; written by the driver.
pub(crate) type Directory = Arc<Mutex<BTreeMap<ShardId, Local>>>;

pub(crate) struct Driver {
    pub runtime: Runtime,
    pub transport: Arc<dyn Transport>,
    /// This node's life, shown to peers with every frame.
    pub life: Generation,
    pub directory: Directory,
    pub log: mpsc::UnboundedSender<Wish>,
    pub apply: mpsc::UnboundedSender<Job>,
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
                self.stop_group(replica, "raft's assertions failed");
                None
            }
        }
    }

    fn stop_group(&mut self, replica: ReplicaId, reason: &str) {
        if let Some(group) = self.groups.remove(&replica) {
            tracing::error!(shard = %group.shard, %replica, reason, "a replica stopped");
            self.dirty.remove(&replica);
            let shard = group.shard;
            let mut directory = self.directory.lock().expect("nobody panics holding it");
            if directory.get(&shard).is_some_and(|local| local.replica == replica) {
                directory.remove(&shard);
            }
            drop(directory);
            group.stop();
        }
    }

    fn of_shard(&self, shard: ShardId) -> Option<ReplicaId> {
        let directory = self.directory.lock().expect("nobody panics holding it");
        directory.get(&shard).map(|local| local.replica)
    }

    fn take_input(&mut self, input: Input) {
        match input {
            Input::Frame { from, payload } => match Frame::decode(&payload) {
                Ok(frame) => self.take_frame(from, frame),
                Err(error) => tracing::debug!(?from, %error, "refused a raft frame"),
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
                    let local = Local { replica, leads: group.is_leader(), leader: group.leader_node() };
                    self.directory.lock().expect("nobody panics holding it").insert(group.shard, local);
                    self.groups.insert(replica, *group);
                    self.dirty.insert(replica);
                }
                // The node may be stopping.
                let _ = added.send(());
            }
            Input::Remove { replica, removed } => {
                self.stop_group(replica, "removed");
                let _ = removed.send(());
            }
        }
    }

    fn take_frame(&mut self, from: NodeId, frame: Frame) {
        for message in frame.messages {
            let replica = message.to;
            let Some(group) = self.groups.get(&replica) else { continue };
            let known = group.members.nodes.get(&message.from) == Some(&from)
                || (group.empty && matches!(message.kind, Kind::Heartbeat | Kind::Append | Kind::Snapshot));
            if message.shard != group.shard || !known || message.kind == Kind::Snapshot {
                continue;
            }
            if let Some(Err(refused)) = self.with_group(replica, |group| group.step(message)) {
                tracing::debug!(?from, %replica, %refused, "refused a raft message");
            }
        }
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
                        group.applied(applied.index, applied.term, applied.members.as_ref());
                    });
                }
                for (replica, reason) in failed {
                    self.stop_group(replica, &reason);
                }
            }
            Feedback::Failed { reason } => {
                for replica in self.groups.keys().copied().collect::<Vec<_>>() {
                    self.stop_group(replica, &reason);
                }
            }
        }
    }

    fn tick(&mut self, now: Instant) {
        for replica in self.groups.keys().copied().collect::<Vec<_>>() {
            let Some(group) = self.groups.get_mut(&replica) else { continue };
            match catch_unwind(AssertUnwindSafe(|| group.tick(now))) {
                Ok(true) => {
                    self.dirty.insert(replica);
                }
                Ok(false) => {}
                Err(_) => self.stop_group(replica, "raft's assertions failed"),
            }
        }
    }

    /// Looks at every group that something happened to.
    fn round(&mut self, now: Instant) {
        let wall = self.runtime.wall_now();
        let mut frames = Outgoing::default();
        let mut wish = Wish::new();
        while let Some(replica) = self.dirty.pop_first() {
            while let Some(Some(effects)) = self.with_group(replica, |group| group.collect(now, wall)) {
                frames.add(&self.groups, replica, effects.send);
                if let Some(persist) = effects.persist {
                    wish.push((replica, persist));
                }
                if !effects.apply.is_empty() {
                    // The worker outlives the driver but in a stop, when nobody waits.
                    let _ = self.apply.send(Job::Apply { replica, entries: effects.apply });
                }
            }
            self.dirty.remove(&replica);
            self.publish(replica);
        }
        frames.send(self);
        if !wish.is_empty() {
            // As above.
            let _ = self.log.send(wish);
        }
    }

    fn publish(&self, replica: ReplicaId) {
        let Some(group) = self.groups.get(&replica) else { return };
        let local = Local { replica, leads: group.is_leader(), leader: group.leader_node() };
        let mut directory = self.directory.lock().expect("nobody panics holding it");
        match directory.get(&group.shard) {
            Some(known) if *known == local || known.replica != replica => {}
            _ => {
                directory.insert(group.shard, local);
            }
        }
    }
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
            let Some(node) = group.members.nodes.get(&ReplicaId(message.to)) else { continue };
            if let Some(message) = PeerMessage::of(group.shard, message) {
                self.by_node.entry(*node).or_default().push(message);
            }
        }
    }

    fn send(self, driver: &Driver) {
        for (node, messages) in self.by_node {
            let mut frame = Frame { life: driver.life, messages: Vec::new() };
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
