//! One message to all nodes: cores of their own, over the neighbours that any overlay gives.
//!
//! | core | who sends what | cost of one broadcast |
//! |---|---|---|
//! | [`Push`] | whoever hears of it sends it on: to all neighbours (flooding), or to a few drawn ones (push gossip) | the payload once a link, or a few times a node |
//! | [`Inventory`] | announces it to all neighbours, who ask for it if they need it (`inv` and `getdata`) | the payload once a node, announcements once a link, three trips a step |
//! | [`Tree`] | along a tree that builds and repairs itself (Plumtree) over neighbours that it keeps by itself (HyParView) | the payload once a node, announcements on the other links |
//!
//! A payload is known by its identifier, which a driver works out from the bytes that came
//! ([`Payload::id`]) and nobody sends: whoever alters it has made another one. Each core
//! remembers a limited number of identifiers and payloads, so that nobody can fill its memory;
//! a payload that comes again after its identifier was forgotten is delivered and sent on again.
//!
//! Tests are beside the code; networks of thousands are in `atoll-lab`.

mod hyparview;
mod inventory;
mod push;
mod seen;
#[cfg(test)]
mod tests;
mod tree;

use std::fmt::Debug;

use atoll_types::Instant;
use rand::RngCore;

pub use self::{
    hyparview::{HyParViewConfig, HyParViewMessage},
    inventory::{Inventory, InventoryMessage},
    push::{Push, PushMessage},
    tree::{Tree, TreeConfig, TreeMessage},
};
use crate::{Contact, Id, Out};

/// What is broadcast.
pub trait Payload: Clone + Debug {
    /// Its hash: the same for the same bytes, and for no others.
    fn id(&self) -> Id;
}

/// A payload came that this node did not know. Not said of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivered<P> {
    pub payload: P,
    /// Nodes that it went through from its source, this one included.
    pub hops: u32,
}

/// What a broadcast's core wants done and known.
pub type BroadcastOut<C, M, P> = Out<C, M, Delivered<P>>;

type OutOf<B> = BroadcastOut<<B as Broadcast>::Contact, <B as Broadcast>::Message, <B as Broadcast>::Payload>;

/// A way to reach all nodes, as a state machine; driven as an [`Overlay`](crate::Overlay) is.
pub trait Broadcast {
    type Contact: Contact;
    type Payload: Payload;
    type Message: Clone + Debug;

    /// Sends a payload to all. One that is known already is not sent again.
    fn broadcast(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        payload: Self::Payload,
        out: &mut OutOf<Self>,
    );

    /// Takes what a peer sent, whatever it is.
    fn handle_message(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        from: Self::Contact,
        message: Self::Message,
        out: &mut OutOf<Self>,
    );

    /// Does what is due. Too early is harmless, too late only late.
    fn handle_timeout(&mut self, now: Instant, rng: &mut dyn RngCore, out: &mut OutOf<Self>);

    /// When something is due next; to be asked again after each other call.
    fn poll_timeout(&self) -> Option<Instant>;

    /// Whom this node sends to, sorted.
    fn neighbours(&self) -> Vec<Self::Contact>;

    /// Whether a message bears the payload itself, not only word of it.
    fn carries_payload(message: &Self::Message) -> bool;

    /// Bytes of this node's state, payloads not included.
    fn state_bytes(&self) -> usize;
}

/// Neighbours that a core keeps; more are not taken. Above what any overlay's tables hold: Kademlia's
/// at a million nodes are some 300, a super-peer's with all others 4,864, and an index node has 65,536
/// clients, none of whom may be left out, for nobody else knows them.
const NEIGHBOURS_MAX: usize = 1 << 17;

fn neighbours_of<C: Contact>(me: &C, neighbours: impl IntoIterator<Item = C>) -> Vec<C> {
    let mut kept: Vec<C> = neighbours.into_iter().filter(|contact| contact != me).collect();
    kept.sort_unstable();
    kept.dedup();
    kept.truncate(NEIGHBOURS_MAX);
    kept
}
