//! A slot's holders, and the three steps of moving it (rule 7).
//!
//! ```text
//! settled   current                                 writes: quorum of current
//! moving    current + target                        writes: quorum of each
//! retiring  current (was target) + retiring (left)  writes: quorum of current; the left
//!                                                   ones run a final pass, then drop
//! ```
//!
//! A move is finished when every new holder has made a pass over the slot that read from
//! a [`copy quorum`](crate::Layout::copy_tasks) of the old ones, each of which knew the
//! layout that began the move. Retiring holders take no writes, so what they have by then
//! is all they will ever have; a pass that begins after that finds everything.

use atoll_types::{DiskId, NodeId};
use serde::{Deserialize, Serialize};

/// One disk of one node: a node that lost its disk is another holder.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Holder {
    pub node: NodeId,
    pub disk: DiskId,
}

/// How many of a set of holders must have a chunk before a put counts it as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum WriteRule {
    /// With one or two storage nodes: the first member, which has the voter. Waiting for
    /// the second would make two nodes stop more often than one.
    Keeper,
    /// More than half of the members.
    Majority,
    /// More than half; but what was written before may be on any single one of them.
    /// Left by a recovery, and ended by the move that the next plan begins.
    Gathering,
}

impl WriteRule {
    /// How many of `members` may lack an acknowledged write.
    pub(crate) fn lacking_most(self, members: usize) -> usize {
        match self {
            WriteRule::Keeper | WriteRule::Gathering => members - 1,
            WriteRule::Majority => (members - 1) / 2,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct HolderSet {
    pub(crate) rule: WriteRule,
    /// Numbers in the layout's table of holders, in rendezvous order.
    pub(crate) members: Vec<u16>,
}

impl HolderSet {
    fn is_well_formed(&self, known: usize) -> bool {
        let members = &self.members;
        let distinct = members.iter().enumerate().all(|(at, member)| !members[..at].contains(member));
        !members.is_empty() && distinct && members.iter().all(|member| usize::from(*member) < known)
    }
}

/// One slot's line in the layout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SlotEntry {
    pub(crate) current: HolderSet,
    /// While the slot moves: who will hold it.
    pub(crate) target: Option<HolderSet>,
    /// Held it before, take no writes any more, and may still have something that
    /// `current` lacks, until they report their final pass.
    pub(crate) retiring: Vec<u16>,
    /// The layout version that last changed who takes this slot's writes.
    pub(crate) changed: u64,
}

impl SlotEntry {
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u16> + '_ {
        let target = self.target.iter().flat_map(|target| &target.members);
        self.current.members.iter().chain(target).chain(&self.retiring).copied()
    }

    /// Those that take writes.
    pub(crate) fn writers(&self) -> impl Iterator<Item = u16> + '_ {
        let target = self.target.iter().flat_map(|target| &target.members);
        let added = target.filter(|number| !self.current.members.contains(number));
        self.current.members.iter().chain(added).copied()
    }

    pub(crate) fn renumber(&mut self, renumbered: &[u16]) {
        let target = self.target.iter_mut().flat_map(|target| &mut target.members);
        for number in self.current.members.iter_mut().chain(target).chain(&mut self.retiring) {
            *number = renumbered[usize::from(*number)];
        }
    }

    pub(crate) fn is_well_formed(&self, known: usize) -> bool {
        let writes = |number| self.writers().any(|writer| writer == number);
        self.current.is_well_formed(known)
            && self.target.as_ref().is_none_or(|target| target.is_well_formed(known))
            && self.retiring.iter().all(|number| usize::from(*number) < known && !writes(*number))
    }

    pub(crate) fn progress(&self) -> SlotProgress {
        match (&self.target, self.retiring.is_empty()) {
            (Some(_), _) => SlotProgress::Moving,
            (None, false) => SlotProgress::Retiring,
            (None, true) => SlotProgress::Settled,
        }
    }
}

/// How far a slot is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum SlotProgress {
    Settled,
    /// New holders are copying; writes go to old and new.
    Moving,
    /// The new ones have it; the old ones look through theirs a last time.
    Retiring,
}
