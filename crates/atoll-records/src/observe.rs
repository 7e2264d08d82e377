//! A look at the Raft groups of a node after each round of their driver, for whoever checks
//! Raft's own invariants from outside: the simulation. Without an observer it costs a
//! comparison per round and replica.

use atoll_types::{ReplicaId, ShardId};

use crate::group::Group;

/// Told of what happens to replicas. It is called by the driver, so it must not wait.
pub trait Observer: Send + Sync + 'static {
    /// Something may have happened to this replica.
    fn stepped(&self, replica: &Observed<'_>);

    /// This replica has found that it may have forgotten something (rule 4): it must have
    /// no say from now on.
    fn forgotten(&self, shard: ShardId, replica: ReplicaId);

    /// An assertion of Raft's failed in this replica, which stops.
    fn asserted(&self, shard: ShardId, replica: ReplicaId);
}

/// A replica as it is between two rounds.
pub struct Observed<'a> {
    pub(crate) group: &'a Group,
}

impl Observed<'_> {
    pub fn shard(&self) -> ShardId {
        self.group.shard
    }

    pub fn replica(&self) -> ReplicaId {
        self.group.replica
    }

    pub fn term(&self) -> u64 {
        self.group.raw.raft.term
    }

    /// For whom it voted in this term.
    pub fn vote(&self) -> Option<ReplicaId> {
        Some(ReplicaId(self.group.raw.raft.vote)).filter(|vote| *vote != ReplicaId(0))
    }

    /// Everything up to here is on disk: term, vote and entries.
    pub fn is_durable(&self) -> bool {
        self.group.is_durable()
    }

    pub fn leads(&self) -> bool {
        self.group.is_leader()
    }

    pub fn committed(&self) -> u64 {
        self.group.raw.raft.raft_log.committed
    }

    pub fn applied(&self) -> u64 {
        self.group.raw.store().applied.0
    }

    /// Everything applied so far, hashed.
    pub fn hash(&self) -> [u8; 32] {
        self.group.hash
    }

    /// The log's entries, first and last; none if the last comes before the first.
    pub fn first_index(&self) -> u64 {
        self.group.raw.raft.raft_log.first_index()
    }

    pub fn last_index(&self) -> u64 {
        self.group.raw.raft.raft_log.last_index()
    }

    /// The last entry that is on disk.
    pub fn persisted(&self) -> u64 {
        self.group.raw.raft.raft_log.persisted
    }

    /// Of an entry that the log has, or of the one before its first.
    pub fn term_of(&self, index: u64) -> Option<u64> {
        self.group.raw.raft.raft_log.term(index).ok()
    }

    /// Each of these groups of voters must have a majority for a commit; two while they
    /// change.
    pub fn voters(&self) -> Vec<Vec<ReplicaId>> {
        let state = self.group.raw.raft.prs().conf().to_conf_state();
        let groups = [state.voters, state.voters_outgoing];
        let ids = |voters: Vec<u64>| {
            let mut ids: Vec<ReplicaId> = voters.into_iter().map(ReplicaId).collect();
            ids.sort_unstable();
            ids
        };
        groups.into_iter().map(ids).filter(|voters| !voters.is_empty()).collect()
    }
}
