//! The kinds of overlay that the lab can run: the one place to touch when a kind is added.
//!
//! A kind is a name in [`Kind`], its settings in [`Settings`], a [`Recipe`] that makes its cores, in a
//! file of its own, and a line in [`Kind::run`]. Experiments are written once, as a [`Task`] for any recipe.

mod architecture;
mod chord;
mod directory;
mod hybrid;
mod kademlia;
mod pastry;

use std::{sync::Arc, time::Duration};

use atoll_overlay::{AuthorKey, Content, ContentMessage, Dht, DhtConfig, DhtMessage, Entry, Id, Overlay};
use serde::Serialize;

pub use self::architecture::Architecture;
pub(crate) use self::architecture::{ContentRecipe, ContentTask, Family};
use self::{
    chord::ChordRecipe, directory::DirectoryRecipe, hybrid::HybridRecipe, kademlia::KademliaRecipe,
    pastry::PastryRecipe,
};
use crate::{
    parameters::{Within, parameters, words},
    world::SimulatedContact,
};

/// A kind of overlay that the lab can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Directory,
    Chord,
    Kademlia,
    Pastry,
    Hybrid,
}

/// Those of which 256 bits are a whole number of steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BitsPerStep {
    One = 1,
    Two = 2,
    Four = 4,
}

words!(BitsPerStep { One "1", Two "2", Four "4" });

words!(Kind { Directory "directory", Chord "chord", Kademlia "kademlia", Pastry "pastry", Hybrid "hybrid" });

parameters! {
    /// What the kinds can be told; each experiment takes them all.
    pub struct Settings {
        /// The directory's index nodes: the first ones of the network. Each has everything.
        pub directory_indexes: Within<1, 16> = Within(3),
        /// Index nodes that a read asks at once. Lookups of keys ask one.
        pub directory_reads: Within<1, 16> = Within(2),
        /// Whether index nodes stay while others come and go, as servers do.
        pub directory_indexes_stay: bool = true,
        /// Chord's successor list.
        pub chord_successors: Within<1, 64> = Within(20),
        /// Whether Chord routes by its successor list too. Off gives the papers' ½·log₂N to the
        /// predecessor, and one hop more to the responsible node.
        pub chord_route_by_successors: bool = true,
        /// Whether Chord's nodes pass a lookup on, instead of the asker asking each by itself.
        pub chord_recursive: bool = false,
        /// Kademlia's k: contacts in a bucket, and nodes that are responsible for a key.
        pub kademlia_k: Within<1, 64> = Within(20),
        /// Kademlia's α: questions of one lookup under way at once; no more than k count.
        pub kademlia_alpha: Within<1, 64> = Within(3),
        /// Kademlia's b: bits of the key that each step settles.
        pub kademlia_bits_per_step: BitsPerStep = BitsPerStep::One,
        /// S/Kademlia's d: paths of one lookup that have no node in common.
        pub kademlia_disjoint_paths: Within<1, 16> = Within(1),
        /// Pastry's b: bits that make a digit.
        pub pastry_bits_per_digit: BitsPerStep = BitsPerStep::Four,
        /// Pastry's |L| halved: leaves on each side of a node.
        pub pastry_leaves_each: Within<1, 16> = Within(8),
        /// Super-peers that a leaf of a hybrid is attached to.
        pub hybrid_attachments: Within<1, 4> = Within(3),
        /// Leaves of a super-peer from which on it has another promoted; with 3/16 of them it
        /// becomes a leaf itself.
        pub hybrid_leaves_high: Within<16, 768> = Within(256),
        /// Super-peers that a lookup in a hybrid asks whose the key is, to believe most of them.
        pub hybrid_witnesses: Within<1, 4> = Within(1),
    }
}

/// Makes the cores of one kind.
pub(crate) trait Recipe {
    type Core: Overlay<Contact = SimulatedContact, Message: Serialize> + Clone;
    /// The same with content: [`Dht`] over it, or the core itself if it keeps content by itself.
    type WithContent: Content<Contact = SimulatedContact, Message: Serialize> + Clone;

    /// `core` is part of an overlay; what it publishes is signed by `author`, if that is not
    /// settled yet by the core.
    fn with_content(&self, core: Self::Core, author: AuthorKey) -> Self::WithContent;

    /// The same as [`outside`](Self::outside), with content that is signed by `author`.
    fn newcomer(&self, me: SimulatedContact, author: AuthorKey) -> Self::WithContent;

    /// A node outside of any overlay.
    fn outside(&self, me: SimulatedContact) -> Self::Core;

    /// A node of a network at rest; `ring` is all of it, sorted by id, and `round_trip` how long
    /// a message to another takes, and back.
    fn converged(
        &self,
        me: SimulatedContact,
        ring: &[(Id, SimulatedContact)],
        round_trip: &dyn Fn(SimulatedContact) -> Duration,
    ) -> Self::Core;

    /// The node that a key belongs to; `ring` is all [`keepers`](crate::experiment::keepers), sorted
    /// by id, and not empty.
    fn responsible(&self, key: Id, ring: &[(Id, SimulatedContact)]) -> SimulatedContact;

    /// What a lying node answers to a question, so that the asker goes on to, and ends with,
    /// those who lie together with it; none where it does as all do. `liars` are sorted by id.
    fn lie(&self, question: &MessageOf<Self>, liars: &[(Id, SimulatedContact)]) -> Option<MessageOf<Self>>;

    /// What a node answers that hides what it should keep: "I have that", and later "there is
    /// nothing"; none where it does as all do.
    fn hide(&self, question: &ContentMessageOf<Self>) -> Option<ContentMessageOf<Self>>;

    /// The entries that a message brings to be kept; none if it brings none.
    fn brings<'m>(&self, message: &'m mut ContentMessageOf<Self>) -> Option<&'m mut Vec<Entry>>;

    /// How long a network that grew needs to come to rest.
    fn rest(&self) -> Duration;

    /// Those whom every node is told of by somebody else than its peers, as by a cluster's layout;
    /// while a network grows it hears of it when there are more. Nobody in kinds without a centre.
    fn appointed(&self) -> Vec<SimulatedContact> {
        Vec::new()
    }

    /// Whether a node stays while others come and go.
    fn stays(&self, _contact: SimulatedContact) -> bool {
        false
    }
}

pub(crate) type MessageOf<R> = <<R as Recipe>::Core as Overlay>::Message;
pub(crate) type ContentMessageOf<R> = <<R as Recipe>::WithContent as Overlay>::Message;

/// What is done with one network of any kind.
pub(crate) trait Task {
    type Output;

    fn run<R: Recipe>(self, recipe: &R) -> Self::Output;
}

impl Kind {
    pub(crate) fn run<T: Task>(self, settings: &Settings, task: T) -> T::Output {
        match self {
            Kind::Directory => task.run(&DirectoryRecipe::new(settings)),
            Kind::Chord => task.run(&ChordRecipe::new(settings)),
            Kind::Kademlia => task.run(&KademliaRecipe::new(settings)),
            Kind::Pastry => task.run(&PastryRecipe::new(settings)),
            Kind::Hybrid => task.run(&HybridRecipe::new(settings)),
        }
    }
}

/// As its defaults are for home computers: three replicas.
pub(crate) fn dht<O: Overlay>(core: O, author: AuthorKey) -> Dht<O> {
    Dht::converged(core, author, Arc::new(DhtConfig::default()))
}

/// The same outside of any overlay.
fn newcomer<O: Overlay>(core: O, author: AuthorKey) -> Dht<O> {
    Dht::new(core, author, Arc::new(DhtConfig::default()))
}

/// [`Recipe::brings`] for kinds whose content is a [`Dht`]'s.
pub(crate) fn brings_to_dht<C, M>(message: &mut DhtMessage<C, M>) -> Option<&mut Vec<Entry>> {
    match message {
        DhtMessage::Content(ContentMessage::Keep { entries, .. }) => Some(entries),
        _ => None,
    }
}

/// [`Recipe::hide`] for kinds whose content is a [`Dht`]'s.
pub(crate) fn hide_in_dht<C, M>(question: &DhtMessage<C, M>) -> Option<DhtMessage<C, M>> {
    let DhtMessage::Content(question) = question else { return None };
    let answer = match question {
        ContentMessage::Keep { request, entries, .. } => {
            let outcomes = entries.iter().map(|_| Ok(())).collect();
            ContentMessage::Kept { request: *request, outcomes }
        }
        ContentMessage::Get { request, .. } => {
            let (entries, replicas) = (Vec::new(), Vec::new());
            ContentMessage::Got { request: *request, entries, replicas }
        }
        _ => return None,
    };
    Some(DhtMessage::Content(answer))
}
