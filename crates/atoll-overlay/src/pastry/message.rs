//! What Pastry nodes say to each other.

use serde::{Deserialize, Serialize};

use crate::Id;

/// Contacts in one list of a message; more are not read: six full rows of fifteen.
pub(super) const CONTACTS_PER_MESSAGE_MAX: usize = 96;

/// A question carries a number of the asker's choice; its answer repeats it and counts only
/// if it comes from the node that was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum PastryMessage<C> {
    /// `route(key)` (section 2.3): go on by yourself. Answered by `Accepted` at once and by
    /// `Relayed` later, each to the node before, so that nobody is made to send anything to a
    /// node that did not ask.
    Relay {
        request: u32,
        key: Id,
        hops_left: u8,
    },
    Accepted {
        request: u32,
    },
    /// Hops and timeouts are those behind the sender; no owner, if it found none.
    Relayed {
        request: u32,
        owner: Option<C>,
        hops: u8,
        timeouts: u8,
    },
    /// One step of a join (section 2.4), which the joining node takes by itself: what do you
    /// know that I need? Answered by `State`.
    Ask {
        request: u32,
        key: Id,
    },
    /// `next`: whom to ask next, the best first; nobody, if the sender is numerically nearest.
    /// `rows`: the rows of its table that the asker can use. Then its leaf set and neighbourhood
    /// set.
    State {
        request: u32,
        next: Vec<C>,
        rows: Vec<C>,
        leaves: Vec<C>,
        neighbours: Vec<C>,
    },
    GetLeaves {
        request: u32,
    },
    Leaves {
        request: u32,
        contacts: Vec<C>,
    },
    GetRow {
        request: u32,
        row: u8,
    },
    Row {
        request: u32,
        contacts: Vec<C>,
    },
    /// Is it there, and how far?
    Ping {
        request: u32,
    },
    Pong {
        request: u32,
    },
    /// The sender has joined, and knows the receiver.
    Hello,
    Leaving,
}
