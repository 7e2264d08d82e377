//! How a group changes its members: what the layout wants, taken step by step.

use atoll_types::{Format, ReplicaId};
use raft::{
    ProgressState,
    eraftpb::{ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2},
};

use crate::{
    ReplicaAddress,
    group::Group,
    state::Members,
    wire::{Change, ChangeEntry},
};

/// A learner this close to the end of the log may vote: some ms of entries under load.
const CAUGHT_UP_ENTRIES: u64 = 256;

impl Group {
    /// Takes the next step towards the target, if this replica leads and no change is
    /// under way: missing replicas become learners; when those that are to vote have
    /// caught up, one joint change makes them voters and removes the old; what is left
    /// over goes last. One step at a time, each of which finds for itself what is to do,
    /// so that a new leader goes on where the old one stopped.
    pub fn advance_membership(&mut self) {
        if !self.is_leader() || self.raw.raft.has_pending_conf() || self.raw.raft.lead_transferee.is_some() {
            return;
        }
        if self.members.is_joint() {
            if self.members.voters.contains(&self.replica) {
                self.propose_change(Vec::new());
            } else {
                // The new voters leave the joint configuration by themselves.
                self.transfer_to_one_of(&self.members.voters.clone());
            }
            return;
        }
        let Some(target) = self.target.clone() else { return };
        if let Some(new) = target.all().find(|new| self.members.all().all(|member| member != new.replica)) {
            self.propose_change(vec![Change::Learner { replica: new.replica, node: new.node }]);
            return;
        }
        let voters: Vec<ReplicaId> = target.voters.iter().map(|voter| voter.replica).collect();
        let new_voters: Vec<&ReplicaAddress> =
            target.voters.iter().filter(|voter| !self.members.is_voter(voter.replica)).collect();
        let old_voters: Vec<ReplicaId> =
            self.members.voters.iter().copied().filter(|voter| !voters.contains(voter)).collect();
        if !new_voters.is_empty() || !old_voters.is_empty() {
            if voters.is_empty() || !new_voters.iter().all(|new| self.has_caught_up(new.replica)) {
                return;
            }
            let kept: Vec<ReplicaId> =
                voters.iter().copied().filter(|voter| self.members.is_voter(*voter)).collect();
            if old_voters.contains(&self.replica) && !kept.is_empty() {
                // Hand over first: a leader that removes itself leaves an election behind.
                self.transfer_to_one_of(&kept);
                return;
            }
            let added =
                new_voters.into_iter().map(|new| Change::Voter { replica: new.replica, node: new.node });
            let dropped = old_voters.into_iter().map(|old| {
                match target.learners.iter().find(|learner| learner.replica == old) {
                    Some(learner) => Change::Learner { replica: old, node: learner.node },
                    None => Change::Remove { replica: old },
                }
            });
            self.propose_change(added.chain(dropped).collect());
            return;
        }
        if let Some(extra) =
            self.members.learners.iter().find(|old| target.all().all(|wanted| wanted.replica != **old))
        {
            self.propose_change(vec![Change::Remove { replica: *extra }]);
            return;
        }
        self.target = None;
    }

    /// Whether a learner may vote without holding commits up.
    fn has_caught_up(&self, replica: ReplicaId) -> bool {
        self.raw.raft.prs().get(replica.0).is_some_and(|progress| {
            // Filled and then idle, it stays in `Probe` until there is something to send.
            progress.state != ProgressState::Snapshot
                && progress.recent_active
                && progress.matched > 0
                && progress.matched + CAUGHT_UP_ENTRIES >= self.raw.raft.raft_log.last_index()
        })
    }

    fn transfer_to_one_of(&mut self, candidates: &[ReplicaId]) {
        let best = candidates
            .iter()
            .filter(|candidate| **candidate != self.replica && self.has_caught_up(**candidate))
            .max_by_key(|candidate| self.raw.raft.prs().get(candidate.0).map(|progress| progress.matched));
        if let Some(best) = best {
            self.raw.transfer_leader(best.0);
            self.after_step();
        }
    }

    /// Hands leadership to the voter that has most of the log, if there is another.
    pub fn hand_over(&mut self) {
        if self.is_leader() {
            self.transfer_to_one_of(&self.members.voters.clone());
        }
    }

    /// Hands leadership to this voter, if it could take over at once: while it takes over,
    /// nothing can be written.
    pub fn hand_to(&mut self, replica: ReplicaId) {
        let free = self.is_leader()
            && !self.members.is_joint()
            && !self.raw.raft.has_pending_conf()
            && self.raw.raft.lead_transferee.is_none();
        if free && self.members.voters.contains(&replica) {
            self.transfer_to_one_of(&[replica]);
        }
    }

    /// Proposes a membership change; false if one is under way or this is not the leader.
    pub fn propose_change(&mut self, changes: Vec<Change>) -> bool {
        if !self.is_leader() || self.raw.raft.has_pending_conf() {
            return false;
        }
        let context = ChangeEntry { changes };
        let change = raft_change(&context.changes);
        self.raw.propose_conf_change(context.encode(), change).is_ok()
    }

    /// Makes a committed membership change effective, here and now: its entry is behind
    /// all others that were handed to the apply worker.
    pub fn apply_change(&mut self, context: &[u8]) -> Members {
        let change = ChangeEntry::decode(context).expect("a committed change decodes: its leader encoded it");
        let mut nodes = self.members.nodes.clone();
        for change in &change.changes {
            if let Change::Voter { replica, node } | Change::Learner { replica, node } = change {
                nodes.insert(*replica, *node);
            }
        }
        match self.raw.apply_conf_change(&raft_change(&change.changes)) {
            Ok(conf) => self.members = Members::from_conf_state(&conf, nodes),
            // Raft refuses what does not fit the configuration (a second change of the
            // same kind): equally on every replica, so it is a change to nothing.
            Err(error) => tracing::warn!(shard = %self.shard, %error, "a membership change had no effect"),
        }
        self.members.clone()
    }
}

fn raft_change(changes: &[Change]) -> ConfChangeV2 {
    let mut raft = ConfChangeV2::default();
    // We leave the joint configuration ourselves: Raft's automatic way stays in it for
    // good if the leader changes at the wrong moment.
    raft.set_transition(if changes.len() > 1 {
        ConfChangeTransition::Explicit
    } else {
        ConfChangeTransition::Auto
    });
    let singles: Vec<ConfChangeSingle> = changes
        .iter()
        .map(|change| {
            let (kind, replica) = match change {
                Change::Voter { replica, .. } => (ConfChangeType::AddNode, replica),
                Change::Learner { replica, .. } => (ConfChangeType::AddLearnerNode, replica),
                Change::Remove { replica } => (ConfChangeType::RemoveNode, replica),
            };
            let mut single = ConfChangeSingle { node_id: replica.0, ..ConfChangeSingle::default() };
            single.set_change_type(kind);
            single
        })
        .collect();
    raft.set_changes(singles.into());
    raft
}
