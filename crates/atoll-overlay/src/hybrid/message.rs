//! What nodes of a hybrid say to each other.

use serde::{Deserialize, Serialize};

use crate::{Id, KademliaMessage};

/// Super-peers named in one answer; more are not read. As many as a leaf attaches to, and as many
/// again to turn to when those fail.
pub(super) const NAMED_MAX: usize = 8;
/// Reports in one message: some 37 bytes each on the wire, so 10 KiB.
pub(super) const REPORTS_MAX: usize = 256;
/// Parts of the space that two super-peers compare. Of four thousand, 64 are in one.
pub(super) const RANGES: usize = 64;

/// A question carries a number of the asker's choice; its answer repeats it and counts only if it
/// comes from the node that was asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum HybridMessage<C> {
    /// Between contacts of the fallback.
    Kademlia(KademliaMessage<C>),
    /// Which super-peers are nearest to the key? The first `skip` are known. Answered by `Found`.
    Find {
        request: u32,
        key: Id,
        skip: u8,
    },
    /// Of a super-peer: those of its table, itself among them. Of a leaf: those that it is attached
    /// to.
    Found {
        request: u32,
        is_super: bool,
        nearest: Vec<C>,
    },
    /// From a leaf, when it comes and now and then: keep me as yours. `supers` tells which it is
    /// attached to. Answered by `Attached`.
    Attach {
        request: u32,
        standing: Standing,
        supers: u32,
    },
    /// The super-peers nearest to the leaf; none if it is attached to the right ones.
    Attached {
        request: u32,
        is_taken: bool,
        supers: Vec<C>,
    },
    /// The leaf goes, or has others.
    Detach,
    /// Those are nearest to you. From one that the leaf is attached to and that is not among them:
    /// the leaf is not its any more.
    Supers {
        supers: Vec<C>,
    },
    /// From one super-peer to another, a stranger to the leaf: if you reach it, make it one of us.
    Vouch {
        candidate: C,
    },
    /// To the leaf: that one will invite you. Nobody else's invitation is followed but that of a
    /// super-peer of its own.
    Chosen {
        voucher: C,
    },
    /// Become a super-peer, and learn of the others from the sender. Answered by `Promoted`.
    Promote {
        request: u32,
    },
    Promoted {
        request: u32,
        is_willing: bool,
    },
    /// Who came and went. Passed on to the super-peers 1, 2, 4, … < 2^`reach` places further, as
    /// D1HT's maintenance messages are. Answered by `Told`.
    Tell {
        request: u32,
        reach: u8,
        reports: Vec<Report<C>>,
    },
    Told {
        request: u32,
    },
    /// Are you there, and is your table like mine? Answered by `Compared`.
    Compare {
        request: u32,
        digest: u64,
    },
    Compared {
        request: u32,
        digest: u64,
    },
    /// What do you know in the ranges where we differ? One digest for each range. `is_return`:
    /// asked because the other asked. Answered by `Page`.
    Ranges {
        request: u32,
        digests: Vec<u32>,
        is_return: bool,
    },
    Page {
        request: u32,
        reports: Vec<Report<C>>,
    },
    /// Of a leaf, to whatever is between super-peers.
    NotSuper {
        request: u32,
    },
}

/// What somebody says of a super-peer, and what all believe in the end: of two reports the one with
/// the higher incarnation holds, of two with the same one that it is gone (as in SWIM; Das, Gupta,
/// Motivala, DSN 2002). Only the super-peer itself raises its incarnation, when it hears that it is
/// said to be gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report<C> {
    pub(super) contact: C,
    pub(super) incarnation: u32,
    pub(super) is_up: bool,
}

/// How fit a leaf is to be a super-peer, as it has measured itself. Who lies gets no further than
/// to be asked: a stranger looks whether it can be reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Standing {
    /// Nodes that it had not spoken to before have reached it.
    pub(super) is_reached: bool,
    /// Of a hundred of its questions so many were answered at the first attempt.
    pub(super) prompt_percent: u8,
}
