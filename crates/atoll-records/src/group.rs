//! One replica: a Raft state machine, its log as Raft sees it, and those who wait for it.
//!
//! Pure bookkeeping: what is to be written, sent and applied comes out of
//! [`Group::collect`] as values, and the driver does it.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use atoll_runtime::{AbortOnDrop, Broken, is_broken, watch};
use atoll_types::{Format, Instant, NodeId, ReplicaId, ShardId, TransactionId, WallTime};
use bytes::Bytes;
use raft::{
    Config, ProgressState, RawNode, ReadOnlyOption, SnapshotStatus, StateRole,
    eraftpb::{Entry, EntryType, HardState, Message, MessageType},
};
use tokio::sync::oneshot;

use crate::{
    Executed, ShardReplicas,
    check::{Refused, check},
    client::Outcome,
    driver::Local,
    group_log::GroupLog,
    reads::{ReadReply, Reads},
    snapshot::{OFFER_LIMIT, Snapshots},
    state::{Members, Meta},
    timing::{ELECTION_TICKS, ELECTION_TICKS_MAX, ELECTION_TICKS_MIN, HEARTBEAT_TICKS},
    wire::{CommandEntry, Kind, PeerMessage},
};

/// 1 MiB: the largest entry fits one message, and a follower that lost messages loses
/// little.
pub(crate) const APPEND_BYTES_MAX: u64 = 1 << 20;
/// 64 appends under way to one follower: 64 MiB at most, 10 ms of a fast disk each.
const APPENDS_IN_FLIGHT_MAX: usize = 64;
/// 16 MiB of entries that wait for a majority; more are refused, and tried again.
const UNCOMMITTED_BYTES_MAX: u64 = 16 << 20;
/// 4 MiB of entries are handed to the apply worker at once.
const COMMITTED_BYTES_MAX: u64 = 4 << 20;
/// 32 MiB of entries wait to be applied; then the rest stays in the log until some are.
const UNAPPLIED_BYTES_MAX: usize = 32 << 20;
/// 4 MiB of commands are proposed at once; the rest waits for the next round.
const PROPOSED_BYTES_MAX: usize = 4 << 20;

/// 256 KiB of applied entries stay in memory for followers that are a little behind: 16
/// MiB with 64 shards, until nothing has been applied for a while.
const RECENT_BYTES_MAX: usize = 256 << 10;
/// 10 s. Whoever is still behind then is sent what the log's files have.
const RECENT_TICKS: u32 = 100;
/// Entries kept for a follower that is behind or away; one further behind is filled by a
/// snapshot. 8,192 of 1 KiB in 64 shards: 512 MiB of disk.
const LAG_ENTRIES_MAX: u64 = 8192;

const _: () = assert!(APPEND_BYTES_MAX < UNCOMMITTED_BYTES_MAX);

/// What a replica's users and its apply worker share.
pub(crate) struct ReplicaShared {
    pub shard: ShardId,
    pub replica: ReplicaId,
    /// The newest entry in the stored state; written by the apply worker.
    pub applied: watch::Sender<u64>,
    /// Counts changes of leases, from 1; written by the apply worker.
    pub lease_changes: AtomicU64,
}

impl ReplicaShared {
    pub fn new(shard: ShardId, replica: ReplicaId, applied: u64) -> Self {
        Self { shard, replica, applied: watch::Sender::new(applied), lease_changes: AtomicU64::new(1) }
    }

    pub fn leases_changed(&self) -> u64 {
        self.lease_changes.load(Ordering::Acquire)
    }
}

pub(crate) type ExecuteReply = oneshot::Sender<Outcome<Executed>>;

/// A command that was not proposed yet.
pub(crate) struct Proposal {
    pub id: TransactionId,
    pub command: &'static str,
    pub input: Bytes,
    pub reply: ExecuteReply,
}

/// A committed entry on its way to the apply worker.
pub(crate) struct Committed {
    pub index: u64,
    pub term: u64,
    pub work: Work,
    /// Who proposed it here and waits.
    pub reply: Option<ExecuteReply>,
}

impl Committed {
    pub fn bytes(&self) -> usize {
        match &self.work {
            Work::Command(bytes) => bytes.len(),
            Work::Nothing | Work::Members(_) => 1,
        }
    }
}

pub(crate) enum Work {
    /// A new leader's first entry.
    Nothing,
    Command(Bytes),
    Members(Members),
}

/// What one look at a group brought.
#[derive(Default)]
pub(crate) struct Effects {
    pub send: Vec<Message>,
    pub persist: Option<Persist>,
    pub apply: Vec<Committed>,
}

/// What must be durable before `on_persisted(number)`.
pub(crate) struct Persist {
    pub number: u64,
    /// The log is to begin anew after this entry.
    pub reset: Option<(u64, u64)>,
    pub entries: Vec<Entry>,
    pub state: HardState,
}

struct Unpersisted {
    number: u64,
    /// False if it has nothing to persist and only keeps its place in the order.
    written: bool,
    /// The index of the snapshot it holds, if it does.
    reset: Option<u64>,
    send: Vec<Message>,
}

struct Waiter {
    term: u64,
    reply: ExecuteReply,
}

pub(crate) struct Group {
    pub shard: ShardId,
    pub replica: ReplicaId,
    pub shared: Arc<ReplicaShared>,
    pub raw: RawNode<GroupLog>,
    /// The members as of the newest entry handed to the apply worker.
    pub members: Members,
    /// True until a snapshot filled it: it then has no say in anything.
    pub empty: bool,
    pub reads: Reads,
    /// The state's hash, as of the newest applied entry.
    pub hash: [u8; 32],
    /// Where those replicas are that the members don't name: new ones, as seen by one
    /// that has yet to catch up.
    pub learned: BTreeMap<ReplicaId, NodeId>,
    /// The pull that is under way, until what it brought is current: another would take
    /// the same place in the store.
    pub filling: Option<AbortOnDrop>,
    /// Who offered the state that was pulled last, and in which term.
    pub fill_source: (ReplicaId, u64),
    /// States in the store that Raft was told of, by index, until it takes one.
    installing: BTreeMap<u64, Meta>,
    /// Since when each replica is offered a snapshot.
    pub offers: BTreeMap<ReplicaId, Instant>,
    /// Changes of members in entries up to this one are void: they were made before a
    /// recovery (`alone.rs`).
    pub changes_void_through: u64,
    /// Where the layout wants the members; kept until they are there.
    pub target: Option<ShardReplicas>,
    proposals: Vec<Proposal>,
    proposals_bytes: usize,
    waiters: BTreeMap<u64, Waiter>,
    last_stamp: WallTime,
    /// Readies that are not durable yet, and what may be sent when they are.
    unpersisted: VecDeque<Unpersisted>,
    /// What was handed to the apply worker: the last index and the bytes of each piece.
    unapplied: VecDeque<(u64, usize)>,
    unapplied_bytes: usize,
    /// Since something was applied.
    ticks_at_rest: u32,
    election_seed: u64,
    /// Term and role when last looked, to notice changes of either.
    seen: (u64, StateRole),
}

pub(crate) fn random_bits(seed: u64, salt: u64) -> u64 {
    // SplitMix64 (Steele, Lea, Flood 2014): enough to spread election time-outs.
    let mut bits = seed ^ salt.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

impl Group {
    pub fn new(
        shared: Arc<ReplicaShared>,
        members: Members,
        log: GroupLog,
        stamp: WallTime,
        hash: [u8; 32],
        logger: &slog::Logger,
    ) -> raft::Result<Self> {
        let config = Config {
            id: shared.replica.0,
            election_tick: ELECTION_TICKS,
            min_election_tick: ELECTION_TICKS_MIN,
            max_election_tick: ELECTION_TICKS_MAX,
            heartbeat_tick: HEARTBEAT_TICKS,
            applied: log.applied.0,
            max_size_per_msg: APPEND_BYTES_MAX,
            max_inflight_msgs: APPENDS_IN_FLIGHT_MAX,
            check_quorum: true,
            pre_vote: true,
            read_only_option: ReadOnlyOption::Safe,
            max_uncommitted_size: UNCOMMITTED_BYTES_MAX,
            max_committed_size_per_ready: COMMITTED_BYTES_MAX,
            // Followers learn of a commit with the next append or heartbeat: nobody reads
            // from them, and it saves half of the messages.
            skip_bcast_commit: true,
            ..Config::default()
        };
        let empty = members.voters.is_empty();
        let raw = RawNode::new(&config, log, logger)?;
        let mut group = Self {
            shard: shared.shard,
            replica: shared.replica,
            election_seed: random_bits(shared.replica.0, u64::from(shared.shard.0)),
            shared,
            members,
            empty,
            seen: (raw.raft.term, raw.raft.state),
            raw,
            reads: Reads::default(),
            hash,
            learned: BTreeMap::new(),
            filling: None,
            fill_source: (ReplicaId(0), 0),
            installing: BTreeMap::new(),
            offers: BTreeMap::new(),
            changes_void_through: 0,
            target: None,
            proposals: Vec::new(),
            proposals_bytes: 0,
            waiters: BTreeMap::new(),
            last_stamp: stamp,
            unpersisted: VecDeque::new(),
            unapplied: VecDeque::new(),
            unapplied_bytes: 0,
            ticks_at_rest: 0,
        };
        group.after_step();
        if group.members.voters == [group.replica] && !group.members.is_joint() {
            // Nobody else could win: don't wait for the time-out.
            group.raw.campaign()?;
            group.after_step();
        }
        Ok(group)
    }

    pub fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    /// Whether all that it promised or will promise is on disk.
    pub fn is_durable(&self) -> bool {
        self.unpersisted.is_empty()
    }

    /// What those see of it who look for a leader.
    pub fn local(&self) -> Local {
        Local {
            replica: self.shared.clone(),
            leads: self.is_leader(),
            term: self.raw.raft.term,
            leader: self.leader_node(),
        }
    }

    /// Where the leader is, if one is known.
    pub fn leader_node(&self) -> Option<NodeId> {
        self.node_of(ReplicaId(self.raw.raft.leader_id))
    }

    pub fn node_of(&self, replica: ReplicaId) -> Option<NodeId> {
        self.members.nodes.get(&replica).or_else(|| self.learned.get(&replica)).copied()
    }

    pub fn leader(&self) -> Option<ReplicaId> {
        (self.raw.raft.leader_id != raft::INVALID_ID).then_some(ReplicaId(self.raw.raft.leader_id))
    }

    /// Raft draws its election time-out from the OS whenever it resets; put one in its
    /// place that is a function of replica, shard and term, so that a simulated run
    /// repeats.
    pub fn after_step(&mut self) {
        let raft = &mut self.raw.raft;
        // `raft` lets a leader lead that has removed itself, and ends with an assertion when
        // the others then acknowledge something.
        if raft.state == StateRole::Leader && raft.prs().get(raft.id).is_none() {
            raft.become_follower(raft.term, raft::INVALID_ID);
        }
        let spread = (ELECTION_TICKS_MAX - ELECTION_TICKS_MIN) as u64;
        let ticks = ELECTION_TICKS_MIN + (random_bits(self.election_seed, raft.term) % spread) as usize;
        if raft.randomized_election_timeout() != ticks {
            raft.set_randomized_election_timeout(ticks);
        }
        let now = (raft.term, raft.state);
        if now != self.seen {
            let led = self.seen.1 == StateRole::Leader;
            self.seen = now;
            if led {
                self.lost_leadership();
            }
        }
    }

    fn lost_leadership(&mut self) {
        self.target = None;
        self.offers.clear();
        self.reads.forgotten();
        for (_, waiter) in std::mem::take(&mut self.waiters) {
            // The entry may yet be committed by the next leader.
            let _ = waiter.reply.send(Outcome::Unknown);
        }
    }

    /// One tick of Raft's clock. True if there may be something to collect.
    pub fn tick(&mut self, now: Instant, snapshots: &Snapshots) -> bool {
        self.reads.expire(now);
        if self.is_leader() {
            self.expire_offers(now, snapshots);
            self.advance_membership();
        }
        if !self.is_leader() && !self.unpersisted.is_empty() {
            // Raft requires a candidate's log to be durable; and a replica whose disk
            // hangs should not want to lead.
            return false;
        }
        self.ticks_at_rest = self.ticks_at_rest.saturating_add(1);
        if self.ticks_at_rest == RECENT_TICKS {
            self.raw.mut_store().shrink(0);
        }
        let active = self.raw.tick();
        self.after_step();
        active || self.raw.has_ready() || !self.reads.is_idle() || !self.proposals.is_empty()
    }

    /// Checks a peer's message and gives it to Raft. Snapshots are not for this door.
    pub fn step(&mut self, message: PeerMessage) -> Result<(), Refused> {
        debug_assert_ne!(message.kind, Kind::Snapshot);
        check(&self.raw.raft, self.empty, &message)?;
        // Raft's own refusals (an unknown sender's response) change nothing.
        let _ = self.raw.step(message.into_raft());
        self.after_step();
        Ok(())
    }

    /// A leader offers a snapshot. True if it is to be pulled; otherwise Raft has
    /// answered that it needs none.
    pub fn offered(&mut self, offer: &PeerMessage) -> Result<bool, Refused> {
        check(&self.raw.raft, self.empty, offer)?;
        if offer.term < self.raw.raft.term {
            // Of a leader that is none any more.
            return Ok(false);
        }
        if offer.index > self.raw.raft.raft_log.committed {
            return Ok(self.filling.is_none());
        }
        let members = self.members.clone();
        self.step_snapshot(offer.term, offer.from, offer.index, offer.log_term, &members);
        Ok(false)
    }

    /// A pulled state is current in the store: Raft takes note.
    pub fn installed(&mut self, from: ReplicaId, offered_term: u64, meta: Meta) {
        let raft = &self.raw.raft;
        // Whoever leads now has this state too; its term is the one Raft listens to.
        let (term, from) = match raft.leader_id {
            raft::INVALID_ID => (offered_term.max(raft.term), from),
            leader => (raft.term, ReplicaId(leader)),
        };
        let members = meta.members.clone();
        let (index, index_term) = (meta.applied.0, meta.applied_term);
        self.saw_stamp(meta.stamp);
        self.hash = meta.hash;
        self.installing.insert(index, meta);
        self.step_snapshot(term, from, index, index_term, &members);
    }

    fn step_snapshot(&mut self, term: u64, from: ReplicaId, index: u64, index_term: u64, members: &Members) {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgSnapshot);
        message.from = from.0;
        message.to = self.replica.0;
        message.term = term;
        let metadata = message.mut_snapshot().mut_metadata();
        metadata.index = index;
        metadata.term = index_term;
        metadata.set_conf_state(members.conf_state());
        let _ = self.raw.step(message);
        self.after_step();
    }

    pub fn propose(&mut self, proposal: Proposal) {
        self.proposals_bytes += proposal.input.len();
        self.proposals.push(proposal);
    }

    pub fn read(&mut self, reply: ReadReply) {
        self.reads.wait(reply);
    }

    fn refuse_all(&mut self) {
        let leader = self.leader_node();
        for proposal in std::mem::take(&mut self.proposals) {
            let _ = proposal.reply.send(Outcome::NotLeader { leader });
        }
        self.proposals_bytes = 0;
        for reply in self.reads.drain() {
            let _ = reply.send(Outcome::NotLeader { leader });
        }
    }

    /// The leader's stamp for what is proposed now: its clock, but never behind the last.
    fn stamp(&mut self, wall: WallTime) -> WallTime {
        self.last_stamp = if is_broken(Broken::StampBack) { wall } else { self.last_stamp.max(wall) };
        self.last_stamp
    }

    /// Stamps seen in applied entries: a new leader goes on from them.
    pub fn saw_stamp(&mut self, stamp: WallTime) {
        self.last_stamp = self.last_stamp.max(stamp);
    }

    fn propose_waiting(&mut self, wall: WallTime) {
        if self.proposals.is_empty() || self.raw.raft.lead_transferee.is_some() {
            return;
        }
        let stamp = self.stamp(wall);
        let mut entries = Vec::new();
        let mut bytes = 0;
        let mut replies = Vec::new();
        let mut left = std::mem::take(&mut self.proposals).into_iter();
        for proposal in left.by_ref() {
            if proposal.reply.is_closed() {
                // Its caller's time is up, and it was never in any log.
                continue;
            }
            let mut entry = Entry::default();
            let command = CommandEntry {
                id: proposal.id,
                stamp,
                command: proposal.command.into(),
                input: proposal.input,
            };
            entry.data = command.encode().into();
            bytes += entry.data.len();
            entries.push(entry);
            replies.push(proposal.reply);
            if bytes >= PROPOSED_BYTES_MAX {
                break;
            }
        }
        self.proposals = left.collect();
        self.proposals_bytes = self.proposals.iter().map(|proposal| proposal.input.len()).sum();
        if entries.is_empty() {
            return;
        }
        let first = self.raw.raft.raft_log.last_index() + 1;
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.from = self.replica.0;
        message.set_entries(entries.into());
        let term = self.raw.raft.term;
        if self.raw.raft.step(message).is_err() {
            // Too much waits for a majority already: nothing was appended.
            let leader = self.leader_node();
            for reply in replies {
                let _ = reply.send(Outcome::NotLeader { leader });
            }
            return;
        }
        for (index, reply) in (first..).zip(replies) {
            self.waiters.insert(index, Waiter { term, reply });
        }
    }

    /// Offers whose puller was not heard of for `OFFER_LIMIT`: Raft tries anew.
    fn expire_offers(&mut self, now: Instant, snapshots: &Snapshots) {
        let offered: Vec<ReplicaId> = self
            .raw
            .raft
            .prs()
            .iter()
            .filter(|(_, progress)| progress.state == ProgressState::Snapshot)
            .map(|(replica, _)| ReplicaId(*replica))
            .collect();
        self.offers.retain(|replica, _| offered.contains(replica));
        for replica in offered {
            let since = *self.offers.entry(replica).or_insert(now);
            let heard = snapshots.last_pull(replica).map_or(since, |pulled| pulled.max(since));
            if now - heard >= OFFER_LIMIT {
                self.offers.remove(&replica);
                self.raw.report_snapshot(replica.0, SnapshotStatus::Failure);
            }
        }
    }

    /// Everything to be done now. Call until it says that nothing is left.
    pub fn collect(&mut self, now: Instant, wall: WallTime) -> Option<Effects> {
        if !self.is_leader() {
            self.refuse_all();
        } else {
            self.propose_waiting(wall);
            // Before the term's first commit Raft would drop the question silently.
            if self.reads.wants_round() && self.raw.raft.commit_to_current_term() {
                let context = self.reads.begin_round(now);
                if is_broken(Broken::ReadWithoutRound) {
                    self.reads.confirmed(&context, self.raw.raft.raft_log.committed, &self.shared);
                }
                self.raw.read_index(context);
            }
        }
        if !self.raw.has_ready() {
            return None;
        }
        let mut effects = Effects::default();
        let mut ready = self.raw.ready();
        effects.send = ready.take_messages();
        let number = ready.number();

        let reset = (!ready.snapshot().is_empty()).then(|| {
            let metadata = ready.snapshot().get_metadata();
            let meta = self.installing.remove(&metadata.index).expect("Raft is told of stored states only");
            self.installing.clear();
            self.members = meta.members;
            self.empty = false;
            let log = self.raw.mut_store();
            log.reset(metadata.index, metadata.term);
            log.applied = (metadata.index, metadata.term, metadata.get_conf_state().clone());
            (metadata.index, metadata.term)
        });
        let entries = ready.take_entries();
        self.raw.mut_store().append(&entries);
        if let Some(state) = ready.hs() {
            self.raw.mut_store().hard_state = state.clone();
        }
        let committed = ready.take_committed_entries();
        for state in ready.take_read_states() {
            self.reads.confirmed(&state.request_ctx, state.index, &self.shared);
        }
        let mut held_back = ready.take_persisted_messages();
        if is_broken(Broken::PromiseBeforeFlush) {
            effects.send.append(&mut held_back);
        }
        let must_persist = ready.must_sync();
        self.raw.advance_append_async(ready);

        if !must_persist && self.unpersisted.is_empty() {
            self.raw.on_persist_ready(number);
            effects.send.extend(held_back);
        } else {
            self.unpersisted.push_back(Unpersisted {
                number,
                written: must_persist,
                reset: reset.map(|(index, _)| index),
                send: held_back,
            });
        }
        if must_persist {
            let state = self.raw.store().hard_state.clone();
            effects.persist = Some(Persist { number, reset, entries, state });
        }
        for entry in committed {
            let committed = self.committed(entry);
            effects.apply.push(committed);
        }
        if let Some(last) = effects.apply.last() {
            let bytes = effects.apply.iter().map(Committed::bytes).sum();
            self.unapplied.push_back((last.index, bytes));
            self.unapplied_bytes += bytes;
            self.pace();
        }
        self.after_step();
        Some(effects)
    }

    /// Everything up to ready `number` is durable. What may be sent now.
    pub fn persisted(&mut self, number: u64) -> Vec<Message> {
        let mut send = Vec::new();
        let mut upto = number;
        let mut filled = None;
        // Readies behind it that had nothing to persist were waiting for their turn only.
        while let Some(held) = self.unpersisted.front()
            && (held.number <= number || !held.written)
        {
            let held = self.unpersisted.pop_front().expect("just seen");
            upto = upto.max(held.number);
            filled = held.reset.or(filled);
            send.extend(held.send);
        }
        self.raw.on_persist_ready(upto);
        if is_broken(Broken::CommitAlone) && self.is_leader() {
            let log = &mut self.raw.raft.raft_log;
            log.commit_to(log.persisted);
        }
        if let Some(index) = filled {
            self.raw.advance_apply_to(index);
        }
        self.after_step();
        send
    }

    fn committed(&mut self, entry: Entry) -> Committed {
        let reply = self.waiters.remove(&entry.index).and_then(|waiter| {
            if waiter.term == entry.term {
                return Some(waiter.reply);
            }
            // Another leader's entry took the place.
            let _ = waiter.reply.send(Outcome::Unknown);
            None
        });
        let (index, term) = (entry.index, entry.term);
        let work = match entry.get_entry_type() {
            EntryType::EntryNormal if entry.data.is_empty() => Work::Nothing,
            EntryType::EntryNormal => Work::Command(entry.data),
            EntryType::EntryConfChange | EntryType::EntryConfChangeV2
                if index <= self.changes_void_through =>
            {
                Work::Nothing
            }
            EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
                Work::Members(self.apply_change(&entry.context))
            }
        };
        Committed { index, term, work, reply }
    }

    /// The apply worker has stored everything up to `index`.
    pub fn applied(&mut self, index: u64, term: u64, members: Option<&Members>) {
        let log = self.raw.mut_store();
        if index > log.applied.0 {
            log.applied.0 = index;
            log.applied.1 = term;
            if let Some(members) = members {
                log.applied.2 = members.conf_state();
            }
        }
        log.shrink(RECENT_BYTES_MAX);
        self.ticks_at_rest = 0;
        while let Some((last, bytes)) = self.unapplied.front()
            && *last <= index
        {
            self.unapplied_bytes -= bytes;
            self.unapplied.pop_front();
        }
        self.pace();
        if index > self.raw.raft.raft_log.applied {
            self.raw.advance_apply_to(index);
        }
        self.after_step();
    }

    /// Whether the store is slower than the group commits.
    pub fn applies_slowly(&self) -> bool {
        self.unapplied_bytes > UNAPPLIED_BYTES_MAX
    }

    /// Lets Raft hand out committed entries one by one while too many wait to be applied:
    /// its heartbeats and votes must go on.
    fn pace(&mut self) {
        let size = if self.applies_slowly() { 0 } else { COMMITTED_BYTES_MAX };
        self.raw.raft.set_max_committed_size_per_ready(size);
    }

    /// Lets go of log entries that the stored state makes up for, now that it is durable
    /// up to `flushed`; returns up to which. Keeps what followers lack, within reason.
    pub fn trim(&mut self, flushed: u64) -> Option<u64> {
        let applied = self.raw.raft.raft_log.applied;
        let wanted = if self.is_leader() {
            let others = self.raw.raft.prs().iter().filter(|(replica, _)| **replica != self.replica.0);
            others.map(|(_, progress)| progress.matched).min().unwrap_or(applied)
        } else {
            self.raw.store().left_memory()
        };
        let through = wanted.max(applied.saturating_sub(LAG_ENTRIES_MAX)).min(applied).min(flushed);
        let log = self.raw.mut_store();
        (through > log.base().0).then(|| {
            log.trimmed(through);
            through
        })
    }

    pub fn stop(mut self) {
        self.lost_leadership();
        for proposal in std::mem::take(&mut self.proposals) {
            let _ = proposal.reply.send(Outcome::NotLeader { leader: None });
        }
        for reply in self.reads.drain() {
            let _ = reply.send(Outcome::NotLeader { leader: None });
        }
    }
}
