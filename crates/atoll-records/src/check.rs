//! Whether a peer's message fits the group's state (rule 17). `raft` trusts its peers: it
//! panics on a commit beyond its log, on entries that contradict committed ones and on
//! malformed configurations. What passes here it takes.

use atoll_types::ReplicaId;
use raft::{Raft, Storage};

use crate::wire::{Kind, PeerMessage};

/// Why a message was not given to Raft. The group is unchanged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error("it is for another replica")]
    WrongReplica,
    #[error("its sender is not a member of the group, or not on that node")]
    UnknownSender,
    #[error("its numbers are out of range")]
    OutOfRange,
    #[error("it commits what is not in the log")]
    CommitBeyondLog,
    #[error("its entries do not follow one another")]
    BrokenEntries,
    #[error("it contradicts committed entries")]
    AgainstCommitted,
    #[error("it does not come from the leader")]
    NotFromLeader,
    #[error("an empty replica takes part in nothing but its filling")]
    Empty,
}

/// No honest log or term gets here; Raft adds small numbers to what it is told.
const NUMBER_MAX: u64 = u64::MAX >> 2;

/// Checks `message`, whose sender is known to be who it says. `empty`: the replica was
/// never filled.
pub(crate) fn check<T: Storage>(raft: &Raft<T>, empty: bool, message: &PeerMessage) -> Result<(), Refused> {
    if message.to != ReplicaId(raft.id) || message.from == message.to || message.from == ReplicaId(0) {
        return Err(Refused::WrongReplica);
    }
    let numbers = [
        message.term,
        message.log_term,
        message.index,
        message.commit,
        message.commit_term,
        message.reject_hint,
    ];
    if message.term == 0 || numbers.iter().any(|number| *number > NUMBER_MAX) {
        return Err(Refused::OutOfRange);
    }
    if !message.entries.is_empty() && message.kind != Kind::Append {
        return Err(Refused::BrokenEntries);
    }
    let log = &raft.raft_log;
    match message.kind {
        Kind::Append => {
            if empty && !message.entries.is_empty() && message.index == 0 {
                // Nobody's log begins at 1: the founding state stands before it.
                return Err(Refused::Empty);
            }
            let mut before = (message.index, message.log_term);
            for entry in &message.entries {
                if entry.index != before.0 + 1 || entry.term < before.1 || entry.term > message.term {
                    return Err(Refused::BrokenEntries);
                }
                before = (entry.index, entry.term);
                if entry.index <= log.committed
                    && entry.index >= log.first_index()
                    && log.term(entry.index).is_ok_and(|term| term != entry.term)
                {
                    return Err(Refused::AgainstCommitted);
                }
            }
        }
        Kind::Heartbeat => {
            if message.commit > log.last_index() {
                return Err(Refused::CommitBeyondLog);
            }
        }
        Kind::AppendResponse => {
            if message.index > log.last_index() && message.term <= raft.term {
                return Err(Refused::OutOfRange);
            }
        }
        Kind::Snapshot => {
            if message.index == 0 || message.log_term == 0 || message.log_term > message.term {
                return Err(Refused::OutOfRange);
            }
        }
        Kind::RequestVote | Kind::RequestPreVote => {
            if empty {
                return Err(Refused::Empty);
            }
        }
        Kind::TimeoutNow => {
            if empty {
                return Err(Refused::Empty);
            }
            if message.term == raft.term && raft.leader_id != message.from.0 {
                return Err(Refused::NotFromLeader);
            }
        }
        Kind::RequestVoteResponse | Kind::RequestPreVoteResponse | Kind::HeartbeatResponse => {}
    }
    Ok(())
}
