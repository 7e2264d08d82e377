//! What nodes that keep content say to each other.

use serde::{Deserialize, Serialize};

use crate::{
    Entry, Id,
    entry::{ANSWER_BYTES_MAX, Class, ENTRY_OVERHEAD, Unsound, VALUE_BYTES_MAX},
};

/// Entries in one `Offer`: 40 bytes each, some 10 KiB.
pub(super) const OFFERED_MAX: usize = 256;
/// Bytes of entries in one `Keep`. The rest is offered again.
pub(super) const KEEP_BYTES_MAX: usize = 32 << 10;
/// Nodes named in one answer; more are not read.
pub(super) const REPLICAS_MAX: usize = 20;
const _: () = assert!(KEEP_BYTES_MAX >= VALUE_BYTES_MAX + ENTRY_OVERHEAD);
const _: () = assert!(KEEP_BYTES_MAX <= ANSWER_BYTES_MAX);

/// Either the locating core's, or about content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DhtMessage<C, M> {
    Overlay(M),
    Content(ContentMessage<C>),
    /// The locating core's question for its way to a key, which also asks for what is kept there
    /// (Kademlia's FIND_VALUE). Answered by `Sought`.
    Seek {
        class: Class,
        message: M,
    },
    /// The core's answer, and copies or entries that are here. `token`: to be shown with a copy.
    Sought {
        key: Id,
        class: Class,
        token: u64,
        entries: Vec<Entry>,
        message: M,
    },
}

/// A question carries a number of the asker's choice; its answer repeats it and counts only
/// if it comes from the node that was asked.
///
/// Writing is three messages and an answer: what is offered is named before it is sent, so that
/// what is there already, which is the rule when replicas compare, costs 40 bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum ContentMessage<C> {
    /// Would you keep these? Answered by `Wanted`.
    Offer { request: u32, offered: Vec<Named> },
    /// One wish for each, in their order. `token`: to be shown with what is sent.
    /// `replicas`: as `Got`'s, for the first one offered.
    Wanted { request: u32, token: u64, wishes: Vec<Wish>, replicas: Vec<C> },
    /// Answered by `Kept`.
    Keep { request: u32, token: u64, entries: Vec<Entry> },
    /// What became of each entry, in their order.
    Kept { request: u32, outcomes: Vec<Result<(), Refused>> },
    /// What is there under a key? Answered by `Got`.
    Get { request: u32, key: Id, class: Class },
    /// `replicas`: the nodes responsible for the key, as far as the sender can tell.
    Got { request: u32, entries: Vec<Entry>, replicas: Vec<C> },
    /// Copies of what is under one key, for whoever asks the receiver on the way to it.
    Cache { token: u64, entries: Vec<Entry> },
}

/// An entry by its tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Named {
    pub key: Id,
    pub tag: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wish {
    /// It is there.
    Have,
    Want,
    /// It would be `Refused::NotMine`.
    NotMine,
}

/// Why a node does not keep an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, thiserror::Error)]
pub enum Refused {
    #[error(transparent)]
    Unsound(Unsound),
    /// The author has said something else since.
    #[error("the author has a newer one there")]
    Outdated,
    /// The key is others' to keep.
    #[error("it belongs to other nodes")]
    NotMine,
    /// Under the key, of the node's room, or of what it takes from one peer.
    #[error("there is no room for it")]
    Full,
    /// The node has not asked before, or too long ago.
    #[error("it was not asked for")]
    NoToken,
}
