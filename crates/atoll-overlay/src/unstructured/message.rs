//! What nodes of an unstructured overlay say to each other.

use serde::{Deserialize, Serialize};

use crate::{
    Entry, Id,
    entry::{Class, KEYWORDS_MAX, keywords_of},
};

/// Contacts named in one answer; more are not read.
pub(super) const NAMED_MAX: usize = 8;
/// Entries in one `Hit`: at most some 70 KiB, if all are values of the largest size. Who has
/// more has said enough.
pub(super) const HIT_ENTRIES_MAX: usize = 16;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum UnstructuredMessage<C> {
    /// Let us be neighbours. Answered by `Connected`.
    Connect {
        request: u32,
    },
    /// `contacts`: others that the sender knows, whatever it decided (peer exchange).
    Connected {
        request: u32,
        is_accepted: bool,
        contacts: Vec<C>,
    },
    /// The sender is no neighbour any more.
    Disconnect,
    Ping {
        request: u32,
    },
    Pong {
        request: u32,
        contacts: Vec<C>,
    },
    /// Gnutella's query: goes on to all neighbours until `ttl` is used up; `query` is drawn by
    /// who asks; who has passed it on as far before drops it.
    Flood {
        query: u64,
        wanted: Wanted,
        ttl: u8,
    },
    /// One walker (Lv et al., section 5): goes on to one neighbour at a time. `origin` is asked
    /// now and then whether it should go on.
    Walk {
        query: u64,
        wanted: Wanted,
        steps_left: u16,
        origin: C,
    },
    /// What was found; goes back the way that the query came.
    Hit {
        query: u64,
        entries: Vec<Entry>,
    },
    /// From a walker to its origin: is more wanted? Answered by `Checked`.
    Check {
        query: u64,
    },
    Checked {
        query: u64,
        go_on: bool,
    },
    /// What the sender provides, or does not provide any more: for its neighbours to answer
    /// with. Sent where `index_neighbours` is on, and ignored where it is off. `anew`: all that
    /// it said before does not count any more.
    Index {
        anew: bool,
        entries: Vec<Entry>,
        withdrawn: Vec<Id>,
    },
    /// In place of `Pong` where `index_neighbours` is on: how many entries of the asker are
    /// indexed here, so that it sends them again if some were lost on the way.
    IndexedPong {
        request: u32,
        contacts: Vec<C>,
        indexed: u32,
    },
    /// From a walker to its origin: it has used up its steps.
    WalkEnded {
        query: u64,
    },
}

/// What is looked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wanted {
    /// What authors say under a key.
    Under { key: Id, class: Class },
    /// What is provided under names with all these words.
    Words(Vec<String>),
}

impl Wanted {
    /// Whether it is one that a sound node asks.
    pub(crate) fn is_sound(&self) -> bool {
        match self {
            Wanted::Under { .. } => true,
            Wanted::Words(words) => {
                (1..=KEYWORDS_MAX).contains(&words.len()) && words.iter().all(|word| word.len() <= 64)
            }
        }
    }

    pub(crate) fn fits(&self, entry: &Entry) -> bool {
        match (self, &entry.body) {
            (Wanted::Under { key, class }, _) => entry.key == *key && entry.class() == *class,
            (Wanted::Words(words), crate::Body::Posting { name, .. }) => {
                let keywords = keywords_of(name);
                words.iter().all(|word| keywords.contains(word))
            }
            (Wanted::Words(_), _) => false,
        }
    }
}
