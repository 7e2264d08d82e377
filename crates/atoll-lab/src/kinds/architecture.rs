//! Every architecture with content over it: the kinds that locate, and those that only search.
//!
//! A [`ContentTask`] is to content what a [`Task`] is to lookups: written once, for any of them.

use std::{sync::Arc, time::Duration};

use atoll_overlay::{AuthorKey, Content, SearchStyle, Unstructured, UnstructuredConfig};
use serde::Serialize;

use super::{Kind, Recipe, Settings, Task};
use crate::{parameters::words, world::SimulatedContact};

/// What a cluster could be set to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Architecture {
    Directory,
    Chord,
    Kademlia,
    Pastry,
    /// Expanding rings.
    Flood,
    Walk,
    Hybrid,
}

words!(Architecture {
    Directory "directory",
    Chord "chord",
    Kademlia "kademlia",
    Pastry "pastry",
    Flood "flood",
    Walk "walk",
    Hybrid "hybrid"
});

/// The textbooks' word for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Family {
    ClientServer,
    Structured,
    Unstructured,
    Hybrid,
}

/// Makes nodes with content, of one architecture.
pub(crate) trait ContentRecipe {
    type Core: Content<Contact = SimulatedContact, Message: Serialize>;

    /// A node outside of any overlay, that signs with this key.
    fn newcomer(&self, me: SimulatedContact, author: AuthorKey) -> Self::Core;

    /// How long a network that grew needs to come to rest.
    fn rest(&self) -> Duration;

    /// Whether a node stays while others come and go.
    fn stays(&self, _contact: SimulatedContact) -> bool {
        false
    }
}

pub(crate) trait ContentTask {
    type Output;

    fn run<R: ContentRecipe>(self, recipe: &R) -> Self::Output;
}

impl Architecture {
    pub(crate) fn family(self) -> Family {
        match self {
            Architecture::Directory => Family::ClientServer,
            Architecture::Chord | Architecture::Kademlia | Architecture::Pastry => Family::Structured,
            Architecture::Flood | Architecture::Walk => Family::Unstructured,
            Architecture::Hybrid => Family::Hybrid,
        }
    }

    pub(crate) fn run<T: ContentTask>(self, settings: &Settings, task: T) -> T::Output {
        let searching = |style| {
            let config = UnstructuredConfig {
                style,
                enough: 1,
                provide_for: PROVIDE_FOR,
                ..UnstructuredConfig::default()
            };
            Searching(Arc::new(config))
        };
        match self {
            Architecture::Directory => Kind::Directory.run(settings, Located(task)),
            Architecture::Chord => Kind::Chord.run(settings, Located(task)),
            Architecture::Kademlia => Kind::Kademlia.run(settings, Located(task)),
            Architecture::Pastry => Kind::Pastry.run(settings, Located(task)),
            Architecture::Hybrid => Kind::Hybrid.run(settings, Located(task)),
            Architecture::Flood => task.run(&searching(SearchStyle::ExpandingRing { ttl_max: TTL_MAX })),
            Architecture::Walk => {
                let style = SearchStyle::Walk { walkers: WALKERS, check_every: CHECK_EVERY };
                task.run(&searching(style))
            }
        }
    }
}

/// Lv et al., ICS 2002: 16 to 64 walkers, which ask every fourth step.
const WALKERS: u8 = 32;
const CHECK_EVERY: u8 = 4;
/// Who provides something in a network without structure tells nobody, so renewing it costs
/// nothing, and what is remembered along paths may be short-lived.
const PROVIDE_FOR: Duration = Duration::from_secs(600);
/// Gnutella's.
const TTL_MAX: u8 = 7;

/// A task on content, for the kinds that locate.
struct Located<T>(T);

impl<T: ContentTask> Task for Located<T> {
    type Output = T::Output;

    fn run<R: Recipe>(self, recipe: &R) -> T::Output {
        self.0.run(&OfRecipe(recipe))
    }
}

struct OfRecipe<'a, R>(&'a R);

impl<R: Recipe> ContentRecipe for OfRecipe<'_, R> {
    type Core = R::WithContent;

    fn newcomer(&self, me: SimulatedContact, author: AuthorKey) -> R::WithContent {
        self.0.newcomer(me, author)
    }

    fn rest(&self) -> Duration {
        self.0.rest()
    }

    fn stays(&self, contact: SimulatedContact) -> bool {
        self.0.stays(contact)
    }
}

/// A network without structure.
struct Searching(Arc<UnstructuredConfig>);

impl ContentRecipe for Searching {
    type Core = Unstructured<SimulatedContact>;

    fn newcomer(&self, me: SimulatedContact, author: AuthorKey) -> Self::Core {
        Unstructured::new(me, author, self.0.clone())
    }

    /// Neighbours are looked for every 30 s.
    fn rest(&self) -> Duration {
        Duration::from_secs(5 * 60)
    }
}
