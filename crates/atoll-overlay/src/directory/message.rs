//! What clients and index nodes say to each other.

use serde::{Deserialize, Serialize};

use crate::{Entry, Id, Refused, dht::Named, unstructured::Wanted};

/// Entries in one `Keep`; bytes are limited besides.
pub(super) const KEEP_ENTRIES_MAX: usize = 256;
/// Values in one `Names`: 40 bytes each, some 10 KiB.
pub(super) const NAMES_MAX: usize = 256;

/// A question carries a number of the asker's choice; its answer repeats it and counts only if it
/// comes from the node that was asked. Nobody is named in any of them: who is an index node is
/// nothing that peers say.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DirectoryMessage {
    /// I am here, as a client. Answered by `Registered`; by nobody, if this is no index node.
    Register { request: u32 },
    /// `token`: to be shown with what is to be kept. Another one than before: the index has
    /// forgotten the client and all that it brought. None: there is no room.
    Registered { request: u32, token: Option<u64> },
    /// The client goes, and what it provides with it.
    Goodbye,
    /// Is the key yours? Answered by `Located`.
    Locate { request: u32, key: Id },
    /// False: the sender is no index node, or none yet.
    Located { request: u32, is_index: bool },
    /// Answered by `Kept`.
    Keep { request: u32, token: u64, entries: Vec<Entry> },
    /// What became of each entry, in their order.
    Kept { request: u32, outcomes: Vec<Result<(), Refused>> },
    /// Answered by `Got`.
    Get { request: u32, wanted: Wanted },
    /// `is_settled`: false if this index is new and may not have everything yet.
    Got { request: u32, entries: Vec<Entry>, is_settled: bool },
    /// Between index nodes: which values are there, behind this one? Answered by `Names`.
    Compare { request: u32, after: Option<Named> },
    /// In order; `is_last`: there are no more behind them.
    Names { request: u32, named: Vec<Named>, is_last: bool },
    /// Between index nodes. Answered by `Sent`.
    Send { request: u32, wanted: Vec<Named> },
    /// As many as one message takes, from the first on.
    Sent { request: u32, entries: Vec<Entry> },
}
