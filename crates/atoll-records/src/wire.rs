//! What travels between nodes and what lies in the log: our own encoding of Raft's
//! messages and entries (its protobuf parser recurses without bound, RUSTSEC-2024-0437),
//! and the calls to a shard's leader.
//!
//! Nothing here is checked against a group's state: `group.rs` does, before Raft sees it.

use atoll_types::{Format, NodeId, ReplicaId, Revision, ShardId, TransactionId, WallTime};
use bytes::Bytes;
use raft::eraftpb::{Entry, EntryType, Message, MessageType};
use serde::{Deserialize, Serialize};

use crate::{
    lives::{Life, Shown},
    state::Meta,
};

/// Many groups' messages on their way to one peer.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Frame {
    /// Which of its starts the sender is in: nothing is taken from one that was set back to
    /// an old image of its disk (rule 4).
    pub shown: Shown,
    /// The newest start of the receiver that the sender has seen.
    pub seen: Life,
    /// The sender found that the receiver, in this start, was set back.
    pub set_back: Option<Life>,
    pub messages: Vec<PeerMessage>,
}

impl Format for Frame {
    const NAME: &'static str = "raft frame";
    const VERSION: u8 = 1;
}

/// The messages that replicas send each other. Not among them: Raft's local ones,
/// forwarded proposals and forwarded reads (rule 17).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Kind {
    Append,
    AppendResponse,
    RequestVote,
    RequestVoteResponse,
    RequestPreVote,
    RequestPreVoteResponse,
    Heartbeat,
    HeartbeatResponse,
    Snapshot,
    TimeoutNow,
}

impl Kind {
    fn of(kind: MessageType) -> Option<Self> {
        Some(match kind {
            MessageType::MsgAppend => Kind::Append,
            MessageType::MsgAppendResponse => Kind::AppendResponse,
            MessageType::MsgRequestVote => Kind::RequestVote,
            MessageType::MsgRequestVoteResponse => Kind::RequestVoteResponse,
            MessageType::MsgRequestPreVote => Kind::RequestPreVote,
            MessageType::MsgRequestPreVoteResponse => Kind::RequestPreVoteResponse,
            MessageType::MsgHeartbeat => Kind::Heartbeat,
            MessageType::MsgHeartbeatResponse => Kind::HeartbeatResponse,
            MessageType::MsgSnapshot => Kind::Snapshot,
            MessageType::MsgTimeoutNow => Kind::TimeoutNow,
            MessageType::MsgHup
            | MessageType::MsgBeat
            | MessageType::MsgPropose
            | MessageType::MsgUnreachable
            | MessageType::MsgSnapStatus
            | MessageType::MsgCheckQuorum
            | MessageType::MsgTransferLeader
            | MessageType::MsgReadIndex
            | MessageType::MsgReadIndexResp => return None,
        })
    }

    fn into_raft(self) -> MessageType {
        match self {
            Kind::Append => MessageType::MsgAppend,
            Kind::AppendResponse => MessageType::MsgAppendResponse,
            Kind::RequestVote => MessageType::MsgRequestVote,
            Kind::RequestVoteResponse => MessageType::MsgRequestVoteResponse,
            Kind::RequestPreVote => MessageType::MsgRequestPreVote,
            Kind::RequestPreVoteResponse => MessageType::MsgRequestPreVoteResponse,
            Kind::Heartbeat => MessageType::MsgHeartbeat,
            Kind::HeartbeatResponse => MessageType::MsgHeartbeatResponse,
            Kind::Snapshot => MessageType::MsgSnapshot,
            Kind::TimeoutNow => MessageType::MsgTimeoutNow,
        }
    }
}

/// One Raft message; the fields mean what `raft` says they mean for its kind.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PeerMessage {
    pub shard: ShardId,
    pub kind: Kind,
    pub from: ReplicaId,
    pub to: ReplicaId,
    pub term: u64,
    pub log_term: u64,
    pub index: u64,
    pub commit: u64,
    pub commit_term: u64,
    pub reject: bool,
    pub reject_hint: u64,
    /// A read-index round's number, or the mark of a leadership transfer.
    pub context: Bytes,
    pub entries: Vec<PeerEntry>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PeerEntry {
    pub index: u64,
    pub term: u64,
    pub logged: LoggedEntry,
}

/// An entry as it lies in the log; index and term are kept beside it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LoggedEntry {
    pub kind: EntryKind,
    /// A [`CommandEntry`], or Raft's own encoding of a membership change, which only the
    /// leader that proposed it ever parses.
    pub data: Bytes,
    /// A [`ChangeEntry`] in membership changes.
    pub context: Bytes,
}

impl Format for LoggedEntry {
    const NAME: &'static str = "log entry";
    const VERSION: u8 = 1;
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum EntryKind {
    Command,
    Change,
}

impl LoggedEntry {
    pub fn of(entry: &Entry) -> Self {
        let kind = match entry.get_entry_type() {
            EntryType::EntryNormal => EntryKind::Command,
            EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => EntryKind::Change,
        };
        Self { kind, data: entry.data.clone(), context: entry.context.clone() }
    }

    pub fn into_raft(self, index: u64, term: u64) -> Entry {
        let mut entry = Entry::default();
        entry.set_entry_type(match self.kind {
            EntryKind::Command => EntryType::EntryNormal,
            EntryKind::Change => EntryType::EntryConfChangeV2,
        });
        entry.index = index;
        entry.term = term;
        entry.data = self.data;
        entry.context = self.context;
        entry
    }
}

impl PeerMessage {
    /// `None` for what never leaves a node.
    pub fn of(shard: ShardId, message: Message) -> Option<Self> {
        let kind = Kind::of(message.get_msg_type())?;
        let (mut index, mut log_term) = (message.index, message.log_term);
        if kind == Kind::Snapshot {
            // A snapshot travels apart (`snapshot.rs`); this only offers it.
            let metadata = message.get_snapshot().get_metadata();
            (index, log_term) = (metadata.index, metadata.term);
        }
        Some(Self {
            shard,
            kind,
            from: ReplicaId(message.from),
            to: ReplicaId(message.to),
            term: message.term,
            log_term,
            index,
            commit: message.commit,
            commit_term: message.commit_term,
            reject: message.reject,
            reject_hint: message.reject_hint,
            context: message.context.clone(),
            entries: message
                .entries
                .iter()
                .map(|entry| PeerEntry {
                    index: entry.index,
                    term: entry.term,
                    logged: LoggedEntry::of(entry),
                })
                .collect(),
        })
    }

    pub fn into_raft(self) -> Message {
        let mut message = Message::default();
        message.set_msg_type(self.kind.into_raft());
        message.from = self.from.0;
        message.to = self.to.0;
        message.term = self.term;
        message.log_term = self.log_term;
        message.index = self.index;
        message.commit = self.commit;
        message.commit_term = self.commit_term;
        message.reject = self.reject;
        message.reject_hint = self.reject_hint;
        message.context = self.context;
        let entries: Vec<Entry> =
            self.entries.into_iter().map(|entry| entry.logged.into_raft(entry.index, entry.term)).collect();
        message.set_entries(entries.into());
        message
    }

    /// About what it weighs in a frame.
    pub fn bytes(&self) -> usize {
        const MESSAGE_BYTES: usize = 48;
        const ENTRY_BYTES: usize = 24;
        let entry = |entry: &PeerEntry| ENTRY_BYTES + entry.logged.data.len() + entry.logged.context.len();
        MESSAGE_BYTES + self.context.len() + self.entries.iter().map(entry).sum::<usize>()
    }
}

/// One command in the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct CommandEntry {
    pub id: TransactionId,
    pub stamp: WallTime,
    pub command: String,
    pub input: Bytes,
}

impl Format for CommandEntry {
    const NAME: &'static str = "command";
    const VERSION: u8 = 1;
}

/// One membership change in the log. No changes at all: leave the joint configuration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChangeEntry {
    pub changes: Vec<Change>,
}

impl Format for ChangeEntry {
    const NAME: &'static str = "membership change";
    const VERSION: u8 = 1;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Change {
    Voter { replica: ReplicaId, node: NodeId },
    Learner { replica: ReplicaId, node: NodeId },
    Remove { replica: ReplicaId },
}

/// Asks a node for something of a replica there (`Protocol::Records`). A command's or
/// query's input is the message's body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Call {
    Execute { shard: ShardId, id: TransactionId, command: String, limit_millis: u64 },
    Query { shard: ShardId, query: String, limit_millis: u64 },
    Watch { shard: ShardId, prefix: Bytes, since: Revision, limit_millis: u64 },
}

impl Format for Call {
    const NAME: &'static str = "records call";
    const VERSION: u8 = 1;
}

/// The answer; a command's or query's output is the message's body.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Answer {
    Executed {
        revision: Revision,
        committed: bool,
    },
    Read,
    /// Nothing happened. `leader` is who this node believes leads.
    NotLeader {
        leader: Option<NodeId>,
    },
    /// The node led when it began and does not now, or ran out of time: a command may or
    /// may not take effect.
    Unknown,
    Invalid {
        reason: String,
    },
}

impl Format for Answer {
    const NAME: &'static str = "records answer";
    const VERSION: u8 = 1;
}

/// Pulls one piece of a snapshot from the replica that offered it (`Protocol::Raft`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pull {
    pub shard: ShardId,
    /// The replica that offered the snapshot, and the one that pulls.
    pub from: ReplicaId,
    pub to: ReplicaId,
    /// Which of the node's open snapshots; `None` on the first pull, which opens one.
    pub snapshot: Option<u64>,
    /// The last key received: area and what follows, without replica and generation.
    pub after: Option<Bytes>,
}

impl Format for Pull {
    const NAME: &'static str = "snapshot pull";
    const VERSION: u8 = 1;
}

/// The answer's header. Its body is a sequence of pairs: key length, value length (4 bytes
/// each, big-endian), key, value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Piece {
    pub snapshot: u64,
    /// Of the whole snapshot, the same in every piece.
    pub meta: Meta,
    /// No piece follows.
    pub last: bool,
}

impl Format for Piece {
    const NAME: &'static str = "snapshot piece";
    const VERSION: u8 = 1;
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;
    use crate::lives::Lives;

    fn frame() -> Frame {
        let entry = |index| PeerEntry {
            index,
            term: 3,
            logged: LoggedEntry {
                kind: EntryKind::Command,
                data: Bytes::from(vec![7; 100]),
                context: Bytes::new(),
            },
        };
        let message = |kind| PeerMessage {
            shard: ShardId(5),
            kind,
            from: ReplicaId(1),
            to: ReplicaId(2),
            term: 3,
            log_term: 3,
            index: 900,
            commit: 899,
            commit_term: 3,
            reject: false,
            reject_hint: 0,
            context: Bytes::from_static(b"round 17"),
            entries: vec![entry(901), entry(902)],
        };
        let seen = Life { disk: 1, count: atoll_types::Generation(4), nonce: 9 };
        let messages = vec![message(Kind::Append), message(Kind::Heartbeat)];
        Frame { shown: Lives::default().show(seen, 17), seen, set_back: Some(seen), messages }
    }

    #[test]
    fn a_message_comes_out_of_rafts_hands_as_it_went_in() {
        let message = frame().messages.remove(0);
        let again = PeerMessage::of(message.shard, message.clone().into_raft()).unwrap();
        assert_eq!(format!("{again:?}"), format!("{message:?}"));
    }

    #[test]
    fn a_frame_that_was_altered_is_refused_or_read_but_never_harms() {
        let whole = frame().encode();
        assert!(Frame::decode(&whole).is_ok());
        let mut rng = StdRng::seed_from_u64(1);
        let mut refused = 0;
        for _ in 0..20_000 {
            let mut bytes = whole.clone();
            for _ in 0..rng.random_range(1..4) {
                match rng.random_range(0..3) {
                    0 => bytes.truncate(rng.random_range(0..=bytes.len())),
                    1 => bytes.insert(rng.random_range(0..=bytes.len()), rng.random()),
                    _ if bytes.is_empty() => {}
                    _ => {
                        let at = rng.random_range(0..bytes.len());
                        bytes[at] = rng.random();
                    }
                }
            }
            match Frame::decode(&bytes) {
                Ok(frame) => {
                    for message in frame.messages {
                        let shard = message.shard;
                        PeerMessage::of(shard, message.into_raft());
                    }
                }
                Err(_) => refused += 1,
            }
        }
        assert!(refused > 1000, "hardly anything was refused: {refused}");
    }
}
