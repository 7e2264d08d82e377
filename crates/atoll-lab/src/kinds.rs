//! The kinds of overlay that the lab can run: the one place to touch when a kind is added.
//!
//! A kind is a name in [`Kind`], its settings in [`Settings`], a [`Recipe`] that makes its cores,
//! and a line in [`Kind::run`]. Experiments are written once, as a [`Task`] for any recipe.

use std::{sync::Arc, time::Duration};

use atoll_overlay::{Chord, ChordConfig, Id, Kademlia, KademliaConfig, LookupStyle, Overlay};

use serde::Serialize;

use crate::{
    parameters::{Within, parameters, words},
    world::SimulatedContact,
};

/// A kind of overlay that the lab can run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    Chord,
    Kademlia,
}

words!(Kind { Chord "chord", Kademlia "kademlia" });

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
        /// Kademlia's k: contacts in a bucket, and nodes that are responsible for a key.
        pub kademlia_k: usize = KademliaConfig::default().k,
        /// Kademlia's α: questions of one lookup under way at once.
        pub kademlia_alpha: usize = KademliaConfig::default().alpha,
        /// Kademlia's b, 1, 2 or 4: bits of the key that each step settles.
        pub kademlia_bits_per_step: usize = KademliaConfig::default().bits_per_step,
        /// S/Kademlia's d: paths of one lookup that have no node in common.
        pub kademlia_disjoint_paths: usize = KademliaConfig::default().disjoint_paths,
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
            Kind::Kademlia => task.run(&KademliaRecipe::new(settings)),
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

struct KademliaRecipe(Arc<KademliaConfig>);

impl KademliaRecipe {
    fn new(settings: &Settings) -> Self {
        Self(Arc::new(KademliaConfig {
            k: settings.kademlia_k,
            alpha: settings.kademlia_alpha,
            bits_per_step: settings.kademlia_bits_per_step,
            disjoint_paths: settings.kademlia_disjoint_paths,
            ..KademliaConfig::default()
        }))
    }
}

impl Recipe for KademliaRecipe {
    type Core = Kademlia<SimulatedContact>;

    fn outside(&self, me: SimulatedContact) -> Self::Core {
        Kademlia::new(me, self.0.clone())
    }

    fn converged(&self, me: SimulatedContact, ring: &[(Id, SimulatedContact)]) -> Self::Core {
        Kademlia::converged(me, self.0.clone(), ring)
    }

    /// The nearest by XOR.
    fn responsible(&self, key: Id, ring: &[(Id, SimulatedContact)]) -> SimulatedContact {
        nearest_by_xor(key, ring)
    }

    /// Every bucket is refreshed after 15 min on average, 22.5 min at most: twice each.
    fn rest(&self) -> Duration {
        Duration::from_secs(45 * 60)
    }
}

/// Those who have the most first bits in common with the key stand together in the ring, on one
/// side of it or on both; among these it goes on with the next bit.
fn nearest_by_xor(key: Id, ring: &[(Id, SimulatedContact)]) -> SimulatedContact {
    let mut near = ring;
    while near.len() > 1 {
        // The bits that all of them share do not matter: the first at which they part does.
        let (first, last) = (near[0].0, near[near.len() - 1].0);
        let parts = first.xor(last).leading_zeros();
        let has_one = |id: Id| id.xor(first).leading_zeros() == parts;
        let (zeros, ones) = near.split_at(near.partition_point(|(id, _)| !has_one(*id)));
        near = if key.xor(zeros[0].0) < key.xor(ones[0].0) { zeros } else { ones };
    }
    near[0].1
}

#[cfg(test)]
mod tests {
    use rand::Rng;

    use super::*;
    use crate::experiment::{Setup, network};

    #[test]
    fn the_nearest_by_xor_is_found_without_asking_all() {
        let recipe = KademliaRecipe::new(&Settings::default());
        let world = network(&recipe, 500, 3, Setup::Converged);
        let ring = crate::world::ring(world.living().map(|(contact, _)| contact));
        let mut rng = crate::world::stream(3, "keys");
        for _ in 0..1000 {
            let key = Id::from_halves(rng.random(), rng.random());
            let nearest = ring.iter().min_by_key(|(id, _)| id.xor(key)).expect("some").1;
            assert_eq!(nearest_by_xor(key, &ring), nearest, "{key}");
        }
    }

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
