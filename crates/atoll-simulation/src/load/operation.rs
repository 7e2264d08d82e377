//! What is asked of the system, and what it can answer.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;

use crate::linearizability::{
    register::{Action, Condition, Input, Output, Value},
    transactions::Transaction,
};

/// Whoever performs operations: a node of a simulated cluster, or a real one over HTTP.
pub trait Target: Send + Sync + 'static {
    /// Performs one operation. It may take for ever; who asks gives up in time.
    fn perform(self: Arc<Self>, operation: Operation) -> BoxFuture<'static, Outcome>;
}

/// One operation of a client.
///
/// An `id` is the client's idempotency key: it may ask again under the same one, and gets
/// the first result. Without one it does not ask again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    Get {
        key: String,
        span: Option<Span>,
    },
    Put {
        key: String,
        value: Value,
        condition: Condition,
        id: Option<u128>,
    },
    Delete {
        key: String,
        condition: Condition,
        id: Option<u128>,
    },
    /// Copies an object, if it is still `value`.
    Copy {
        from: String,
        value: Value,
        to: String,
        condition: Condition,
        id: Option<u128>,
    },
    /// One page.
    List {
        prefix: String,
        delimiter: Option<String>,
        after: Option<String>,
        limit: usize,
    },
    CreateUpload {
        key: String,
        value: Value,
    },
    /// A part of `value`; parts count from 1.
    UploadPart {
        key: String,
        upload: String,
        value: Value,
        part: u16,
    },
    /// Of all of `value`'s parts. It may be asked again: the upload is its idempotency key.
    CompleteUpload {
        key: String,
        upload: String,
        value: Value,
        condition: Condition,
    },
    AbortUpload {
        key: String,
        upload: String,
    },
    /// Of records.
    Transact {
        transaction: Transaction,
        id: Option<u128>,
    },
    /// Takes a lock for this long.
    Acquire {
        lock: String,
        owner: String,
        ttl: Duration,
        id: Option<u128>,
    },
    /// Begins the lease's time anew.
    Keep {
        lock: String,
        lease: u64,
    },
    Release {
        lock: String,
        lease: u64,
    },
    /// What changed among the records with this prefix after a revision; without one, from
    /// now on. May answer that nothing did, after a while.
    Watch {
        prefix: String,
        after: Option<u64>,
    },
}

/// Bytes of an object, from `first` up to and with `last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub first: u64,
    pub last: u64,
}

/// Kinds of operations, as a report counts them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Get,
    Put,
    Delete,
    Copy,
    List,
    Upload,
    Transact,
    Lock,
    Watch,
}

impl Kind {
    /// As reports call it.
    pub fn name(self) -> &'static str {
        match self {
            Kind::Get => "get",
            Kind::Put => "put",
            Kind::Delete => "delete",
            Kind::Copy => "copy",
            Kind::List => "list",
            Kind::Upload => "upload",
            Kind::Transact => "transact",
            Kind::Lock => "lock",
            Kind::Watch => "watch",
        }
    }
}

/// What came of an operation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Answered(Answer),
    /// It certainly did not happen, and tells nothing: nobody was there to be asked, or
    /// the target has no such operation.
    NotDone,
    /// It may have happened, or still happen.
    Unknown,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// To a get: this, or nothing.
    Found(Option<Value>),
    /// To a get: bytes that nobody wrote, and in what they differ.
    WrongBytes(String),
    /// It was done.
    Done,
    /// Its condition did not hold; nothing was done.
    Refused,
    /// To a copy: the source was not the value to copy; nothing was done.
    SourceRefused,
    Page(Page),
    /// An upload was begun, of this name.
    Upload(String),
    /// To a part, a completion or an abortion: no such upload.
    NoUpload,
    /// To a transaction, with the revision that it wrote, if it wrote.
    Transacted {
        committed: bool,
        read: Vec<Option<Value>>,
        revision: u64,
    },
    Granted {
        lease: u64,
        epoch: u64,
    },
    /// Somebody else has the lock.
    Held {
        epoch: u64,
    },
    /// The lease has ended.
    Gone,
    /// To a watch: all changes after `from`, up to and with `upto`.
    Changes {
        from: u64,
        upto: u64,
        changes: Vec<RecordChange>,
    },
    /// To a watch: that was too long ago.
    Compacted,
}

/// A page of a listing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    pub entries: Vec<PageEntry>,
    pub prefixes: Vec<String>,
    /// `after` of the next page; `None` on the last.
    pub next: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PageEntry {
    pub key: String,
    pub etag: String,
    pub size: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordChange {
    pub revision: u64,
    pub key: String,
    pub value: Option<Value>,
}

impl Operation {
    pub fn kind(&self) -> Kind {
        match self {
            Operation::Get { .. } => Kind::Get,
            Operation::Put { .. } => Kind::Put,
            Operation::Delete { .. } => Kind::Delete,
            Operation::Copy { .. } => Kind::Copy,
            Operation::List { .. } => Kind::List,
            Operation::CreateUpload { .. }
            | Operation::UploadPart { .. }
            | Operation::CompleteUpload { .. }
            | Operation::AbortUpload { .. } => Kind::Upload,
            Operation::Transact { .. } => Kind::Transact,
            Operation::Acquire { .. } | Operation::Keep { .. } | Operation::Release { .. } => Kind::Lock,
            Operation::Watch { .. } => Kind::Watch,
        }
    }

    /// The operation on a register that this is, for targets that are registers.
    pub fn on_register(&self) -> Option<Input> {
        let (key, action) = match self {
            Operation::Get { key, span: None } => (key, Action::Get),
            Operation::Put { key, value, condition, .. } => (key, Action::Put(*value, *condition)),
            Operation::Delete { key, condition, .. } => (key, Action::Delete(*condition)),
            _ => return None,
        };
        Some(Input { key: key.clone(), action })
    }

    /// Asking it twice is no more than asking it once.
    pub fn may_be_asked_again(&self) -> bool {
        match self {
            Operation::Put { id, .. }
            | Operation::Delete { id, .. }
            | Operation::Copy { id, .. }
            | Operation::Transact { id, .. }
            | Operation::Acquire { id, .. } => id.is_some(),
            Operation::CompleteUpload { .. } => true,
            // Reads can, but a fresh one says more; a part's bytes are not worth it.
            _ => false,
        }
    }
}

impl From<Output> for Answer {
    fn from(output: Output) -> Self {
        match output {
            Output::Found(found) => Answer::Found(found),
            Output::Done => Answer::Done,
            Output::Refused => Answer::Refused,
        }
    }
}

impl From<Option<Output>> for Outcome {
    /// `None`: unknown.
    fn from(output: Option<Output>) -> Self {
        output.map_or(Outcome::Unknown, |output| Outcome::Answered(output.into()))
    }
}
