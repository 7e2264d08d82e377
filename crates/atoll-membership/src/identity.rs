//! Who a member is to foca: a node, in one of its lives.

use atoll_types::{Generation, NodeId};
use serde::{Deserialize, Serialize};

/// A node's life. A later one takes the place of an earlier one wherever both are heard of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Life {
    pub(crate) node: NodeId,
    /// Raised by each start, and where others know a later one.
    pub(crate) generation: Generation,
    /// Raised each time the others held this life for dead while it was not: SWIM cannot
    /// take a death back, so the node goes on as another.
    pub(crate) resurrections: u32,
}

impl foca::Identity for Life {
    type Addr = NodeId;

    fn renew(&self) -> Option<Self> {
        let resurrections = self.resurrections.checked_add(1)?;
        // Once is a false alarm. More may mean that the others know a later life, since this
        // disk was set back; nobody says which, so it is looked for in steps that double.
        let raised = match self.resurrections {
            0 => 0,
            again => 1 << again.min(40),
        };
        let generation = Generation(self.generation.0.checked_add(raised)?);
        Some(Self { generation, resurrections, ..*self })
    }

    fn addr(&self) -> NodeId {
        self.node
    }

    fn win_addr_conflict(&self, adversary: &Self) -> bool {
        (self.generation, self.resurrections) > (adversary.generation, adversary.resurrections)
    }
}
