//! A node's name in the overlay between real nodes.

use std::cmp::Ordering;

use atoll_overlay::{Contact, Id};
use atoll_types::NodeId;
use serde::{Deserialize, Serialize};

/// A node's id, and where that stands among the overlay's identifiers, which is never sent.
///
/// Where the node listens is not part of it. For members the layout says so; and if it were
/// taken from others' messages, one of them could make all nodes dial any address it likes.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(from = "NodeId", into = "NodeId")]
pub struct NodeContact {
    pub node: NodeId,
    id: Id,
}

impl From<NodeId> for NodeContact {
    fn from(node: NodeId) -> Self {
        Self { node, id: Id::of(node.as_bytes()) }
    }
}

impl From<NodeContact> for NodeId {
    fn from(contact: NodeContact) -> Self {
        contact.node
    }
}

impl Contact for NodeContact {
    fn id(&self) -> Id {
        self.id
    }
}

impl PartialEq for NodeContact {
    fn eq(&self, other: &Self) -> bool {
        self.node == other.node
    }
}

impl Eq for NodeContact {}

impl PartialOrd for NodeContact {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for NodeContact {
    fn cmp(&self, other: &Self) -> Ordering {
        self.node.cmp(&other.node)
    }
}
