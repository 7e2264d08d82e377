//! The kinds of overlay that the lab can run: the one place to touch when a kind is added.
//!
//! A kind is a name in [`Kind`], its settings in [`Settings`], a [`Recipe`] that makes its cores,
//! and a line in [`Kind::run`]. Experiments are written once, as a [`Task`] for any recipe.

use std::{sync::Arc, time::Duration};

use atoll_overlay::{Chord, ChordConfig, Id, LookupStyle, Overlay};

use serde::Serialize;

use crate::{
    parameters::{Within, parameters, words},
    world::SimulatedContact,
};

/// A kind of overlay that the lab can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Chord,
}

words!(Kind { Chord "chord" });

parameters! {
    /// What the kinds can be told; each experiment takes them all.
    pub struct Settings {
        /// Chord's successor list.
        pub chord_successors: Within<1, 64> = Within(20),
        /// Whether Chord routes by its successor list too. Off gives the papers' ½·log₂N to the
        /// predecessor, and one hop more to the responsible node.
        pub chord_route_by_successors: bool = true,
        /// Whether Chord's nodes pass a lookup on, instead of the asker asking each by itself.
        pub chord_recursive: bool = false,
    }
}

/// Makes the cores of one kind.
pub(crate) trait Recipe {
    type Core: Overlay<Contact = SimulatedContact, Message: Serialize> + Clone;

    /// A node outside of any overlay.
    fn outside(&self, me: SimulatedContact) -> Self::Core;

    /// A node of a network at rest; `ring` is all of it, sorted by id.
    fn converged(&self, me: SimulatedContact, ring: &[(Id, SimulatedContact)]) -> Self::Core;

    /// The node that a key belongs to; `ring` is all that live, sorted by id, and not empty.
    fn responsible(&self, key: Id, ring: &[(Id, SimulatedContact)]) -> SimulatedContact;

    /// How long a network that grew needs to come to rest.
    fn rest(&self) -> Duration;
}

/// What is done with one network of any kind.
pub(crate) trait Task {
    type Output;

    fn run<R: Recipe>(self, recipe: &R) -> Self::Output;
}

impl Kind {
    pub(crate) fn run<T: Task>(self, settings: &Settings, task: T) -> T::Output {
        match self {
            Kind::Chord => task.run(&ChordRecipe::new(settings)),
        }
    }
}

struct ChordRecipe(Arc<ChordConfig>);

impl ChordRecipe {
    fn new(settings: &Settings) -> Self {
        let style = if settings.chord_recursive { LookupStyle::Recursive } else { LookupStyle::Iterative };
        Self(Arc::new(ChordConfig {
            successors: settings.chord_successors.0,
            route_by_successors: settings.chord_route_by_successors,
            style,
            ..ChordConfig::default()
        }))
    }
}

impl Recipe for ChordRecipe {
    type Core = Chord<SimulatedContact>;

    fn outside(&self, me: SimulatedContact) -> Self::Core {
        Chord::new(me, self.0.clone())
    }

    fn converged(&self, me: SimulatedContact, ring: &[(Id, SimulatedContact)]) -> Self::Core {
        Chord::converged(me, self.0.clone(), ring)
    }

    /// The first at or after the key.
    fn responsible(&self, key: Id, ring: &[(Id, SimulatedContact)]) -> SimulatedContact {
        ring[ring.partition_point(|(id, _)| *id < key) % ring.len()].1
    }

    /// One finger is looked up every 30 s, and there are about log₂N + 3: twice round at a
    /// million nodes is 23 min.
    fn rest(&self) -> Duration {
        Duration::from_secs(25 * 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::experiment::{Setup, network};

    /// The grown network's every table, against the converged one's of the same seed.
    #[test]
    fn a_chord_network_set_up_converged_equals_one_that_grew_by_joining() {
        let recipe = ChordRecipe::new(&Settings::default());
        let [grown, converged] =
            [Setup::Grown, Setup::Converged].map(|setup| network(&recipe, 2000, 5, setup));
        let mut compared = 0;
        for ((contact, grown), (_, converged)) in grown.living().zip(converged.living()) {
            assert_eq!(grown.predecessor(), converged.predecessor(), "{contact:?}");
            assert_eq!(grown.successors(), converged.successors(), "{contact:?}");
            assert_eq!(grown.fingers(), converged.fingers(), "{contact:?}");
            compared += 1;
        }
        assert_eq!(compared, 2000);
    }
}
