//! The one interface of all kinds of overlay.
//!
//! ```text
//! join, leave, locate ─┐                    ┌─► sends: (contact, message)
//! handle_message ──────┼─► a core's state ──┤
//! handle_timeout ──────┘                    └─► notifications: what has become true
//!                        poll_timeout: when to call handle_timeout next
//! ```
//!
//! A driver calls in with the time and a generator, sends what it finds in [`Out`], and asks
//! `poll_timeout` again after each call. What a kind cannot do honestly it refuses with an
//! error. A command has one shape everywhere: a number at once, and a notification that bears it
//! later.
//!
//! What a structured kind adds to this is only how to *locate*. What is kept under a key, and
//! how it is handed over, is the same for all of them; so it is written once, over what a core
//! says of itself in [`Overlay::responsible`] and [`Overlay::neighbourhood`].

use std::fmt::Debug;

use atoll_types::Instant;
use rand::RngCore;

use crate::Id;

/// How a core names another node: enough to reach it and to know where it stands.
///
/// The driver vouches for the contact that a message came from (on the wire, TLS proves its
/// key). A contact that is *mentioned* in a message is hearsay until it has answered.
pub trait Contact: Clone + Ord + Debug {
    /// Called for every comparison: a look-up in a field, or as cheap.
    fn id(&self) -> Id;
}

/// Tells the lookups of one node apart; never sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LookupId(pub u32);

/// What a core wants done and known, in the order in which it came up. The driver takes it out
/// after each call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Out<C, M, N = Notification<C>> {
    pub sends: Vec<(C, M)>,
    pub notifications: Vec<N>,
}

impl<C, M, N> Default for Out<C, M, N> {
    fn default() -> Self {
        Self { sends: Vec::new(), notifications: Vec::new() }
    }
}

impl<C, M, N> Out<C, M, N> {
    pub(crate) fn send(&mut self, to: C, message: M) {
        self.sends.push((to, message));
    }

    pub(crate) fn notify(&mut self, notification: N) {
        self.notifications.push(notification);
    }
}

/// What has become true.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notification<C> {
    /// This node is part of the overlay: it knows whom it needs to know to be found.
    Joined,
    /// None of the contacts that this node was given, or knew, led anywhere. It tries again by
    /// itself.
    JoinFailed,
    LookupFinished(Located<C>),
    OperationFinished(crate::Finished<C>),
}

/// How a lookup ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Located<C> {
    pub lookup: LookupId,
    pub key: Id,
    /// The responsible nodes, the first one first; never empty.
    pub outcome: Result<Vec<C>, LookupError>,
    /// Remote nodes contacted one after the other that answered, the responsible one included.
    pub hops: u32,
    /// Nodes contacted that did not answer.
    pub timeouts: u32,
    /// Whom this node asked, in that order. Of a lookup that others passed on it sees the first
    /// step only.
    pub path: Vec<Step<C>>,
}

/// One node asked on the way of a lookup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step<C> {
    pub contact: C,
    pub answered: bool,
}

/// Part of what a node knows of others, to be shown to people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Table<C> {
    /// The paper's word: `successors`, `fingers`, `leaf set`, `bucket`.
    pub name: &'static str,
    pub rows: Vec<Row<C>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row<C> {
    /// What this place of the table is for.
    pub place: String,
    pub contact: C,
}

/// Why a lookup ended without an answer. The overlay is unchanged but for contacts that turned
/// out dead; asking again later is right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    #[error("no contact is left that could know more")]
    Exhausted,
    /// Somebody on the way lies, or the overlay is badly broken.
    #[error("the lookup went through more nodes than any sound overlay needs")]
    TooLong,
    /// Recursive lookups only: a node on the way took the question and was not heard of again.
    #[error("no answer came in time")]
    TimedOut,
    #[error("this node left the overlay")]
    Left,
}

/// Why a lookup was not begun; nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LocateError {
    #[error("this node is not part of the overlay yet")]
    NotJoined,
    /// Ask again when one has ended.
    #[error("{limit} lookups are under way")]
    TooManyLookups { limit: usize },
    /// In a kind without structure nobody is responsible for a key.
    #[error("this kind of overlay has nobody responsible for a key")]
    NotOffered,
}

/// A kind of overlay as a state machine.
pub trait Overlay {
    type Contact: Contact;
    type Message: Clone + Debug;

    /// This node.
    fn contact(&self) -> &Self::Contact;

    /// Becomes part of the overlay that the `known` contacts are part of; with none, the first
    /// node of a new one. Ends with [`Notification::Joined`].
    fn join(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        known: &[Self::Contact],
        out: &mut Out<Self::Contact, Self::Message>,
    );

    /// Says goodbye. From here on the node answers nobody and does nothing until it joins again.
    fn leave(&mut self, now: Instant, out: &mut Out<Self::Contact, Self::Message>);

    /// Which nodes are responsible for the key? Ends with [`Notification::LookupFinished`],
    /// at the earliest in the same `out`.
    fn locate(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        key: Id,
        out: &mut Out<Self::Contact, Self::Message>,
    ) -> Result<LookupId, LocateError>;

    /// Of a message that asks a node on the way of a lookup for its way: the key. Whoever keeps
    /// something under it can answer at once, and the lookup need not go on
    /// ([`abandon`](Self::abandon)). None of any other message, and in kinds whose lookups do not
    /// come nearer to the key by XOR.
    fn asks_for(_message: &Self::Message) -> Option<Id>
    where
        Self: Sized,
    {
        None
    }

    /// Nobody waits for the lookup any more: it may end without a notification.
    fn abandon(&mut self, _lookup: LookupId) {}

    /// The first `count` nodes for the key, this node among them if it is one, as far as its own
    /// tables tell and without asking anybody. The first is the responsible one, or else nearer
    /// to it than this node is.
    fn responsible(&self, key: Id, count: usize) -> Vec<Self::Contact>;

    /// Another number whenever [`responsible`](Self::responsible) may give something else than
    /// before for a key that this node keeps.
    fn neighbourhood(&self) -> u32;

    /// Whether keys can be this node's at all: in a hybrid they are super-peers' only.
    fn is_keeper(&self) -> bool {
        true
    }

    /// Another number whenever so many keepers were lost at once that what was stored may be
    /// gone: whoever published it then does so again.
    fn losses(&self) -> u32 {
        0
    }

    /// Others that are thought to be part of the overlay. A node that knows them all hears
    /// nothing new; one whose part of the overlay was cut off from theirs finds back.
    fn meet(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        others: &[Self::Contact],
        out: &mut Out<Self::Contact, Self::Message>,
    );

    /// Whom this node knows, for people.
    fn tables(&self) -> Vec<Table<Self::Contact>>;

    /// Takes what a peer sent, whatever it is.
    fn handle_message(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        from: Self::Contact,
        message: Self::Message,
        out: &mut Out<Self::Contact, Self::Message>,
    );

    /// Does what is due. Too early is harmless, too late only late.
    fn handle_timeout(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        out: &mut Out<Self::Contact, Self::Message>,
    );

    /// When something is due next; to be asked again after each other call.
    fn poll_timeout(&self) -> Option<Instant>;

    /// Stops upkeep, and learning from what lookups meet: for measuring an overlay as a failure
    /// left it, as the papers do. There is no way back.
    fn freeze(&mut self);

    /// Everyone in this node's tables, sorted, nobody twice: whom it would turn to.
    fn contacts(&self) -> Vec<Self::Contact>;

    /// Bytes of this node's state, the struct and what it holds on the heap.
    fn state_bytes(&self) -> usize;
}
