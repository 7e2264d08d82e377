//! What there is to say about a replica: for `status`, metrics, and tests that compare
//! replicas.

use atoll_types::{NodeId, ReplicaId, Revision, ShardId};
use raft::{ProgressState, StateRole};

use crate::group::Group;

/// What a replica does in its group at the moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    Leader,
    Follower,
    /// Asks for votes.
    Candidate,
    /// Follows without a vote.
    Learner,
    /// Was never filled; has no say.
    Empty,
    /// May have promised what it does not know any more (rule 4): is to be removed, and
    /// to come back under a new id.
    Forgotten {
        reason: String,
    },
    /// Met what it can't go on from: a broken invariant, a failing disk, or a command of a
    /// newer program.
    Stopped {
        reason: String,
    },
}

/// How far one replica is, as its leader sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FollowerStatus {
    pub replica: ReplicaId,
    pub node: Option<NodeId>,
    /// The newest entry it is known to have durably.
    pub matched: u64,
    /// Entries of the leader's log that it is not known to have.
    pub lag: u64,
    /// It was heard of within the last election time-out or so.
    pub active: bool,
    /// It is being filled by a snapshot.
    pub filling: bool,
}

/// One replica on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaStatus {
    pub shard: ShardId,
    pub replica: ReplicaId,
    pub role: Role,
    pub term: u64,
    pub leader: Option<ReplicaId>,
    pub leader_node: Option<NodeId>,
    /// The newest entry known to be committed, and the newest in the stored state.
    pub committed: Revision,
    pub applied: Revision,
    /// The newest entry in the log.
    pub last_index: u64,
    pub voters: Vec<ReplicaId>,
    pub learners: Vec<ReplicaId>,
    /// A change of voters is under way.
    pub joint: bool,
    /// Everything applied so far, hashed: equal on replicas with equal `applied`.
    pub hash: [u8; 32],
    /// At the leader only; without itself.
    pub followers: Vec<FollowerStatus>,
}

impl ReplicaStatus {
    pub(crate) fn of(group: &Group) -> Self {
        let raft = &group.raw.raft;
        let members = &group.members;
        let role = match raft.state {
            _ if group.empty => Role::Empty,
            StateRole::Leader => Role::Leader,
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
            StateRole::Follower if members.is_voter(group.replica) => Role::Follower,
            StateRole::Follower => Role::Learner,
        };
        let last_index = raft.raft_log.last_index();
        let mut followers: Vec<FollowerStatus> = Vec::new();
        if role == Role::Leader {
            let others = raft.prs().iter().filter(|(replica, _)| **replica != raft.id);
            followers = others
                .map(|(replica, progress)| FollowerStatus {
                    replica: ReplicaId(*replica),
                    node: group.node_of(ReplicaId(*replica)),
                    matched: progress.matched,
                    lag: last_index.saturating_sub(progress.matched),
                    active: progress.recent_active,
                    filling: progress.state == ProgressState::Snapshot,
                })
                .collect();
            // Raft keeps them in a hash map.
            followers.sort_unstable_by_key(|follower| follower.replica);
        }
        Self {
            shard: group.shard,
            replica: group.replica,
            role,
            term: raft.term,
            leader: group.leader(),
            leader_node: group.leader_node(),
            committed: Revision(raft.raft_log.committed),
            applied: Revision(raft.store().applied.0),
            last_index,
            voters: members.voters.clone(),
            learners: members.learners.clone(),
            joint: members.is_joint(),
            hash: group.hash,
            followers,
        }
    }

    /// Of a replica that does not run.
    pub(crate) fn of_absent(shard: ShardId, replica: ReplicaId, role: Role) -> Self {
        Self {
            shard,
            replica,
            role,
            term: 0,
            leader: None,
            leader_node: None,
            committed: Revision(0),
            applied: Revision(0),
            last_index: 0,
            voters: Vec::new(),
            learners: Vec::new(),
            joint: false,
            hash: [0; 32],
            followers: Vec::new(),
        }
    }
}
