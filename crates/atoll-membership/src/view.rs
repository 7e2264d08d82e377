//! What everyone else gets to see.

use std::{collections::BTreeMap, sync::Arc};

use atoll_types::{Generation, Instant, NodeId};

use crate::info::MemberInfo;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MemberState {
    Alive,
    /// Did not answer somebody, and has not contradicted yet.
    Suspect,
    /// Did not contradict in time, or left.
    Dead,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub node: NodeId,
    /// Which of its starts this is about.
    pub generation: Generation,
    pub state: MemberState,
    /// When this node learned of the state, by its own clock.
    pub since: Instant,
    /// What it tells of itself; `None` until it was heard.
    pub info: Option<Arc<MemberInfo>>,
}

impl Member {
    /// A suspect is still asked: most suspicions are wrong.
    pub fn is_reachable(&self) -> bool {
        self.state != MemberState::Dead
    }
}

/// One node's opinion of all, itself included.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct View {
    pub members: BTreeMap<NodeId, Member>,
}

impl View {
    pub fn get(&self, node: &NodeId) -> Option<&Member> {
        self.members.get(node)
    }

    pub fn is_reachable(&self, node: &NodeId) -> bool {
        self.members.get(node).is_some_and(Member::is_reachable)
    }

    pub fn reachable(&self) -> impl Iterator<Item = &Member> {
        self.members.values().filter(|member| member.is_reachable())
    }
}
