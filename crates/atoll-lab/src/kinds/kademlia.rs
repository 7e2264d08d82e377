//! Kademlia for the lab.

use std::{sync::Arc, time::Duration};

use atoll_overlay::{AuthorKey, Dht, Entry, Id, Kademlia, KademliaConfig, KademliaMessage};

use super::{ContentMessageOf, Recipe, Settings, brings_to_dht, dht, hide_in_dht, newcomer};
use crate::world::SimulatedContact;

pub(super) struct KademliaRecipe(Arc<KademliaConfig>);

impl KademliaRecipe {
    pub(super) fn new(settings: &Settings) -> Self {
        Self(Arc::new(KademliaConfig {
            k: settings.kademlia_k.0,
            alpha: settings.kademlia_alpha.0.min(settings.kademlia_k.0),
            bits_per_step: settings.kademlia_bits_per_step as usize,
            disjoint_paths: settings.kademlia_disjoint_paths.0,
            ..KademliaConfig::default()
        }))
    }
}

impl Recipe for KademliaRecipe {
    type Core = Kademlia<SimulatedContact>;
    type WithContent = Dht<Self::Core>;

    fn with_content(&self, core: Self::Core, author: AuthorKey) -> Self::WithContent {
        dht(core, author)
    }

    fn newcomer(&self, me: SimulatedContact, author: AuthorKey) -> Self::WithContent {
        newcomer(self.outside(me), author)
    }

    fn outside(&self, me: SimulatedContact) -> Self::Core {
        Kademlia::new(me, self.0.clone())
    }

    fn converged(
        &self,
        me: SimulatedContact,
        ring: &[(Id, SimulatedContact)],
        _round_trip: &dyn Fn(SimulatedContact) -> Duration,
    ) -> Self::Core {
        Kademlia::converged(me, self.0.clone(), ring)
    }

    /// The nearest by XOR.
    fn responsible(&self, key: Id, ring: &[(Id, SimulatedContact)]) -> SimulatedContact {
        nearest_by_xor(key, ring)
    }

    /// The liars nearest to the key.
    fn lie(
        &self,
        question: &KademliaMessage<SimulatedContact>,
        liars: &[(Id, SimulatedContact)],
    ) -> Option<KademliaMessage<SimulatedContact>> {
        let KademliaMessage::FindNode { request, key } = question else { return None };
        let mut nearest: Vec<(Id, SimulatedContact)> =
            liars.iter().map(|(id, contact)| (id.xor(*key), *contact)).collect();
        let k = self.0.k.min(nearest.len());
        if k < nearest.len() {
            nearest.select_nth_unstable(k);
        }
        let contacts = nearest[..k].iter().map(|(_, contact)| *contact).collect();
        Some(KademliaMessage::Nodes { request: *request, contacts })
    }

    fn hide(&self, question: &ContentMessageOf<Self>) -> Option<ContentMessageOf<Self>> {
        hide_in_dht(question)
    }

    fn brings<'m>(&self, message: &'m mut ContentMessageOf<Self>) -> Option<&'m mut Vec<Entry>> {
        brings_to_dht(message)
    }

    /// A node that joins refreshes all its buckets one after the other, some twenty lookups of
    /// two seconds at most; those who are asked learn of it, and so does whom it has to know.
    fn rest(&self) -> Duration {
        Duration::from_secs(5 * 60)
    }
}

/// Those who have the most first bits in common with the key stand together in the ring, on one
/// side of it or on both; among these it goes on with the next bit.
pub(super) fn nearest_by_xor(key: Id, ring: &[(Id, SimulatedContact)]) -> SimulatedContact {
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
    use atoll_overlay::Contact;
    use rand::Rng;

    use super::*;
    use crate::{
        columns::{Column, Row},
        experiment::{Setup, network},
    };

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

    /// How many of the places in buckets are taken, and how many could be: k of a bucket's range,
    /// or all nodes there are in it. Every contact is in its range, and lives.
    fn places_taken(world: &crate::world::World<Kademlia<SimulatedContact>>) -> (usize, usize) {
        let ring = crate::world::ring(world.living().map(|(contact, _)| contact));
        let (mut taken, mut all) = (0, 0);
        for (me, node) in world.living() {
            let mut buckets = node.buckets();
            // Those who have the first bits in common with this node, and not the next.
            let mut near = &ring[..];
            let me = me.id();
            for bits in 0.. {
                if near.len() == 1 {
                    break;
                }
                let shared = |id: &Id| me.xor(*id).leading_zeros() > bits;
                let first = near.partition_point(|(id, _)| !shared(id) && *id < me);
                let last = near.partition_point(|(id, _)| shared(id) || *id < me);
                let range = near.len() - (last - first);
                near = &near[first..last];
                let contacts = buckets.next().unwrap_or_default();
                for contact in contacts {
                    assert!(world.is_living(*contact), "{contact:?} is gone");
                    let in_common = contact.id().xor(me).leading_zeros();
                    assert_eq!(in_common, bits, "{contact:?} is in another's place");
                }
                taken += contacts.len();
                all += range.min(20);
            }
        }
        (taken, all)
    }

    /// Which nodes of a far range are in a bucket is chance in both networks, so no table is like
    /// the other's. What is the same: each bucket is as full as its range allows (of the grown
    /// one's places 1 in 1,000 may be free yet), with nodes of its range that live; and lookups
    /// take as many hops (mean ± 0.1, the 1st, 50th and 99th percentile the same), as many
    /// messages, and all find their node.
    #[test]
    fn a_kademlia_network_set_up_converged_equals_one_that_grew_by_joining() {
        let recipe = KademliaRecipe::new(&Settings::default());
        let [grown, converged] = [Setup::Grown, Setup::Converged].map(|setup| {
            let mut world = network(&recipe, 10_000, 5, setup);
            let (taken, all) = places_taken(&world);
            world.freeze();
            let row = crate::experiment::measure(&recipe, &mut world, 5, 3_000, Row::default());
            (taken, all, row)
        });
        assert_eq!((converged.0, grown.1), (converged.1, converged.1));
        assert!(grown.1 - grown.0 <= grown.1 / 1_000, "{} of {} places are taken", grown.0, grown.1);
        let number = |row: &Row, column| row.number(column).expect("it was measured");
        for (column, tolerance) in [
            (Column::HopsMean, 0.1),
            (Column::HopsP1, 0.0),
            (Column::HopsP50, 0.0),
            (Column::HopsP99, 0.0),
            (Column::MessagesMean, 2.0),
            (Column::LookupsFailedShare, 0.0),
        ] {
            let (grown, converged) = (number(&grown.2, column), number(&converged.2, column));
            let name = column.name();
            assert!((grown - converged).abs() <= tolerance, "{name}: grown {grown}, set up {converged}");
        }
    }
}
