//! A shard's replicas, and how the layout follows a joint change.
//!
//! ```text
//! settled   current
//! changing  current + target + leaving   the leader: new learners, then one joint change
//! settled   current (was target)         whoever is named no more deletes its replica
//! ```
//!
//! What the group really is lives in its Raft log; the layout says what it shall become.
//! A target may be replaced before it was reached, and the group may meanwhile have gone
//! there: so nobody who was ever named since the last settled state may delete its
//! replica before a change was reported finished. Those wait in `leaving`.

use std::collections::BTreeSet;

use atoll_types::{DiskId, NodeId, ReplicaId};
use serde::{Deserialize, Serialize};

/// One copy of a shard. A node that lost its disk, or whose log is damaged, gets a new
/// one under a new id (rule 4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Replica {
    pub id: ReplicaId,
    pub node: NodeId,
    pub disk: DiskId,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaSet {
    pub voters: Vec<Replica>,
    /// Copies without a vote: with two nodes the second's (rule 6).
    pub learners: Vec<Replica>,
}

impl ReplicaSet {
    pub fn all(&self) -> impl Iterator<Item = &Replica> {
        self.voters.iter().chain(&self.learners)
    }

    /// The same replicas in the same parts, in whatever order.
    pub fn is_same(&self, other: &ReplicaSet) -> bool {
        let same = |a: &[Replica], b: &[Replica]| {
            a.len() == b.len() && a.iter().collect::<BTreeSet<_>>() == b.iter().collect()
        };
        same(&self.voters, &other.voters) && same(&self.learners, &other.learners)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShardPlacement {
    /// As last reported.
    pub current: ReplicaSet,
    /// What the shard's leader is to bring about; `None` when settled.
    pub target: Option<ReplicaSet>,
    /// Named in a target that was replaced before anyone reported it reached.
    pub leaving: Vec<Replica>,
    /// The layout version that last changed any of the above.
    pub changed: u64,
}

impl ShardPlacement {
    /// Every replica that must exist, each once: voters of now first.
    pub fn all(&self) -> impl Iterator<Item = &Replica> {
        let mut seen = BTreeSet::new();
        let target = self.target.iter().flat_map(ReplicaSet::all);
        self.current.all().chain(target).chain(&self.leaving).filter(move |replica| seen.insert(replica.id))
    }

    /// What the shard is on its way to be, or is.
    pub fn goal(&self) -> &ReplicaSet {
        self.target.as_ref().unwrap_or(&self.current)
    }

    pub fn is_settled(&self) -> bool {
        self.target.is_none()
    }

    pub(crate) fn has_voters(&self) -> bool {
        !self.current.voters.is_empty() && !self.goal().voters.is_empty()
    }
}
