//! What an overlay is for: keeping values, finding who provides something, and finding things by
//! their words.
//!
//! | kind | locate | values, providers, search |
//! |---|---|---|
//! | chord, kademlia, pastry | native | by [`Dht`](crate::Dht) over the core, at the nodes that `locate` finds |
//! | directory, flood, walk, hybrid | theirs to say | theirs to say, by this trait |
//!
//! An operation is begun by a command, which gives its number at once, and ends with
//! [`Notification::OperationFinished`](crate::Notification). Whoever calls them owns an
//! [`AuthorKey`](crate::AuthorKey), which the kind was made with; it signs what is stored.

use std::time::Duration;

use atoll_types::{Instant, WallTime};
use rand::RngCore;

use crate::{Entry, Id, LocateError, LookupError, Out, Overlay, Unsound, dht::Refused};

/// Tells the operations of one node apart; never sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OperationId(pub u32);

/// How an operation ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finished<C> {
    pub operation: OperationId,
    pub outcome: Result<Answer, ContentError>,
    /// The nodes that keep what was stored, or that answered what was asked.
    pub by: Vec<C>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    Stored,
    /// What authors said under the key, the highest sequence first. Empty: nothing was found.
    Values(Vec<Entry>),
    Providers(Vec<Entry>),
    /// Postings of names that have all the keywords.
    Hits(Vec<Entry>),
}

/// Why an operation was not begun, or came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ContentError {
    /// The kind has no honest way to do it. Another kind may.
    #[error("this kind of overlay does not offer {operation}")]
    NotOffered { operation: &'static str },
    /// The caller's fault; nobody was asked.
    #[error(transparent)]
    Unsound(#[from] Unsound),
    #[error("there is no keyword to look for")]
    NoKeyword,
    /// Ask again when some have ended, or when some of what this node has published has expired.
    #[error("{limit} operations are under way, or things published")]
    TooMany { limit: usize },
    #[error("the responsible nodes were not looked up")]
    NotLocated(#[source] LocateError),
    #[error("the responsible nodes were not found")]
    NotFound(#[source] LookupError),
    /// None of the responsible nodes keeps it, for the reason that the last one gave.
    #[error("nobody keeps it")]
    Refused(#[source] Refused),
    /// They were found, and are silent now. A store may have happened.
    #[error("the responsible nodes did not answer")]
    Silent,
    #[error("this node left the overlay")]
    Left,
}

/// What is provided: content by its name, found by its key and by the name's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offered {
    pub content: Id,
    pub name: String,
}

/// All that a node keeps for others and has published itself, on its way from one core to the
/// next when the cluster changes its kind.
#[derive(Debug, Clone, Default)]
pub struct Shelf {
    pub(crate) kept: Vec<Entry>,
    pub(crate) published: crate::dht::Published,
}

impl Shelf {
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }
}

/// How much a node keeps for others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Kept {
    pub entries: usize,
    pub bytes: usize,
}

/// The content operations of an overlay. Each refuses what its kind cannot do honestly.
pub trait Content: Overlay {
    /// What the wall clock says at `now`: sequences and expiry go by it. Called before anything
    /// is stored, and again now and then, for clocks are set.
    fn set_clock(&mut self, now: Instant, wall: WallTime);

    /// Stores a value, signed by this node, for so long. It replaces this node's former value
    /// under the key, and stands beside those of other authors. Until it expires this node sees
    /// to it that the responsible nodes have it.
    fn store(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        key: Id,
        value: Vec<u8>,
        lifetime: Duration,
        out: &mut Out<Self::Contact, Self::Message>,
    ) -> Result<OperationId, ContentError>;

    /// The values under a key.
    fn fetch(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        key: Id,
        out: &mut Out<Self::Contact, Self::Message>,
    ) -> Result<OperationId, ContentError>;

    /// Lets others find out that this node has something, until it stops to provide it.
    fn provide(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        offered: Offered,
        out: &mut Out<Self::Contact, Self::Message>,
    ) -> Result<OperationId, ContentError>;

    /// From here on nothing is renewed; what others keep expires. False if it was not provided.
    fn stop_providing(&mut self, content: Id) -> bool;

    /// Who has it?
    fn providers(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        content: Id,
        out: &mut Out<Self::Contact, Self::Message>,
    ) -> Result<OperationId, ContentError>;

    /// What is provided under a name with all these words?
    fn search(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        words: &str,
        out: &mut Out<Self::Contact, Self::Message>,
    ) -> Result<OperationId, ContentError>;

    /// Takes everything out, for the core of another kind. To be called when this one has left.
    fn take_shelf(&mut self) -> Shelf;

    /// Puts what another core kept in here; what belongs elsewhere is handed over in time. To be
    /// called before this one joins.
    fn put_shelf(&mut self, now: Instant, shelf: Shelf);

    fn kept(&self) -> Kept;
}
