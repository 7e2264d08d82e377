//! Whether a peer's message fits the group's state (rule 17). `raft` trusts its peers: it
//! panics on a commit beyond its log, on entries that contradict committed ones and on
//! malformed configurations. What passes here it takes.

use atoll_runtime::{Broken, is_broken};
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
            if message.log_term == 0 {
                // Nobody's log begins at 1, so every append has a predecessor with a
                // term; and Raft takes term 0 for a match with what it does not have.
                return Err(Refused::OutOfRange);
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
            if empty && !is_broken(Broken::EmptyVotes) {
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

#[cfg(test)]
mod tests {
    use std::{
        collections::VecDeque,
        panic::{AssertUnwindSafe, catch_unwind},
        sync::Arc,
    };

    use atoll_types::{Instant, NodeId, ShardId, WallTime};
    use bytes::Bytes;
    use raft::eraftpb::HardState;
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;
    use crate::{
        group::{Group, ReplicaShared},
        group_log::GroupLog,
        logger::logger,
        state::Members,
        wire::{EntryKind, LoggedEntry, PeerEntry},
    };

    const SHARD: ShardId = ShardId(1);

    fn group() -> Group {
        let voters: Vec<_> = (1..=3).map(ReplicaId).collect();
        let nodes = voters.iter().map(|voter| (*voter, NodeId([voter.0 as u8; 32]))).collect();
        let members = Members { voters, nodes, ..Members::default() };
        let mut state = HardState::default();
        (state.term, state.commit) = (1, 1);
        let log = GroupLog::new(state, members.conf_state(), (1, 1), 1, Vec::new(), VecDeque::new(), (1, 1));
        let shared = Arc::new(ReplicaShared::new(SHARD, ReplicaId(1), 1));
        Group::new(shared, members, log, WallTime::default(), [0; 32], &logger()).unwrap()
    }

    /// Does at once what a group wants done.
    fn settle(group: &mut Group) {
        while let Some(effects) = group.collect(Instant::ORIGIN, WallTime::default()) {
            if let Some(last) = effects.apply.last() {
                group.applied(last.index, last.term, None);
            }
            if let Some(persist) = effects.persist {
                group.persisted(persist.number);
            }
        }
    }

    fn any_message(rng: &mut StdRng) -> PeerMessage {
        // Small numbers meet each other; a few large ones overflow.
        let mut number = |max: u64| match rng.random_range(0..40) {
            0 => u64::MAX - rng.random_range(0..3),
            1 => u64::MAX / 4,
            _ => rng.random_range(0..=max),
        };
        let (term, log_term, index) = (number(6), number(6), number(9));
        let (commit, commit_term, reject_hint) = (number(12), number(6), number(9));
        let kinds = [
            Kind::Append,
            Kind::AppendResponse,
            Kind::RequestVote,
            Kind::RequestVoteResponse,
            Kind::RequestPreVote,
            Kind::RequestPreVoteResponse,
            Kind::Heartbeat,
            Kind::HeartbeatResponse,
            Kind::TimeoutNow,
        ];
        let kind = kinds[rng.random_range(0..kinds.len())];
        let mut entries = Vec::new();
        if kind == Kind::Append {
            let mut term_at = log_term.max(1);
            for position in 0..rng.random_range(0..4u64) {
                term_at = term_at.saturating_add(rng.random_range(0..2));
                entries.push(PeerEntry {
                    index: index.saturating_add(position + 1 + u64::from(rng.random_range(0..30) == 0)),
                    term: term_at,
                    logged: LoggedEntry {
                        kind: EntryKind::Command,
                        data: Bytes::from_static(b"x"),
                        context: Bytes::new(),
                    },
                });
            }
        }
        PeerMessage {
            shard: SHARD,
            kind,
            from: ReplicaId(rng.random_range(0..5)),
            to: ReplicaId(if rng.random_range(0..20) == 0 { 2 } else { 1 }),
            term,
            log_term,
            index,
            commit,
            commit_term,
            reject: rng.random(),
            reject_hint,
            context: Bytes::from(vec![0; rng.random_range(0..3)]),
            entries,
        }
    }

    #[test]
    fn no_message_that_passes_trips_raft() {
        let mut passed = 0;
        for seed in 0..200 {
            let mut rng = StdRng::seed_from_u64(seed);
            let mut group = group();
            let mut history = Vec::new();
            for _ in 0..200 {
                let message = any_message(&mut rng);
                history.push(message.clone());
                let ticks = rng.random_range(0..3);
                let unharmed = catch_unwind(AssertUnwindSafe(|| {
                    passed += usize::from(group.step(message).is_ok());
                    for _ in 0..ticks {
                        group.raw.tick();
                    }
                    settle(&mut group);
                }));
                assert!(unharmed.is_ok(), "seed {seed}: {:?}", history.last());
            }
        }
        assert!(passed > 5000, "the check let hardly anything pass: {passed}");
    }

    #[test]
    fn an_empty_replica_takes_no_part_in_votes() {
        let mut rng = StdRng::seed_from_u64(1);
        let mut group = group();
        group.empty = true;
        for _ in 0..2000 {
            let mut message = any_message(&mut rng);
            message.kind = Kind::RequestVote;
            assert!(group.step(message).is_err());
        }
    }
}
