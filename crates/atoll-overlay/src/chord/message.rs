//! What Chord nodes say to each other.

use serde::{Deserialize, Serialize};

use crate::Id;

/// Contacts in one list of a message; more are not read. Above `SUCCESSORS_MAX`, so that a
/// sound list is never cut.
pub(super) const CONTACTS_PER_MESSAGE_MAX: usize = 65;

/// A question carries a number of the asker's choice; its answer repeats it and counts only
/// if it comes from the node that was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChordMessage<C> {
    /// One step of an iterative `find_successor(key)`. Answered by `Closer`.
    Find {
        request: u32,
        key: Id,
    },
    /// `preceding`: the contacts that most closely precede the key, the closest first.
    /// `successors`: the key's, if the sender knows them; itself first, if it is responsible.
    Closer {
        request: u32,
        preceding: Vec<C>,
        successors: Vec<C>,
    },
    /// A lookup's last step: somebody said that the key is the receiver's. Answered by `Claimed`.
    Claim {
        request: u32,
        key: Id,
    },
    /// `nearer`: the sender's predecessor, if the key belongs there rather than to the sender.
    Claimed {
        request: u32,
        nearer: Option<C>,
    },
    /// Recursive `find_successor(key)`: go on by yourself. Answered by `Accepted` at once and
    /// by `Relayed` later, each to the node before, so that nobody is made to send anything to
    /// a node that did not ask.
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
    /// `stabilize` asks for the successor's predecessor, and for its successor list with it.
    GetNeighbours {
        request: u32,
    },
    Neighbours {
        request: u32,
        predecessor: Option<C>,
        successors: Vec<C>,
    },
    /// The sender thinks that it might be the receiver's predecessor.
    Notify,
    /// `check_predecessor`.
    Ping {
        request: u32,
    },
    Pong {
        request: u32,
    },
    /// The sender leaves; these are its neighbours, who may become the receiver's.
    Leaving {
        predecessor: Option<C>,
        successors: Vec<C>,
    },
}
