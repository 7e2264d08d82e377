//! What Kademlia nodes say to each other.

use serde::{Deserialize, Serialize};

use super::tables::K_MAX;
use crate::Id;

/// Contacts of one answer; more are not read. What a sound node names at most.
pub(super) const CONTACTS_PER_MESSAGE_MAX: usize = K_MAX;

/// A question carries a number of the asker's choice; its answer repeats it and counts only
/// if it comes from the node that was asked. The paper's `STORE` and `FIND_VALUE` are not
/// routing, and live above.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum KademliaMessage<C> {
    /// `PING` (section 2.3).
    Ping {
        request: u32,
    },
    Pong {
        request: u32,
    },
    /// `FIND_NODE` (section 2.3). Answered by `Nodes`.
    FindNode {
        request: u32,
        key: Id,
    },
    /// The k contacts that the sender knows nearest to the key, the nearest first.
    Nodes {
        request: u32,
        contacts: Vec<C>,
    },
    /// The sender leaves; not in the paper, where nodes vanish. It saves a time-out each.
    Leaving,
}
