//! Pastry for the lab.

use std::{sync::Arc, time::Duration};

use atoll_overlay::{AuthorKey, Dht, Entry, Id, Pastry, PastryConfig, PastryMessage};

use super::{ContentMessageOf, Recipe, Settings, brings_to_dht, dht, hide_in_dht, newcomer};
use crate::world::SimulatedContact;

pub(super) struct PastryRecipe(Arc<PastryConfig>);

impl PastryRecipe {
    pub(super) fn new(settings: &Settings) -> Self {
        Self(Arc::new(PastryConfig {
            bits_per_digit: settings.pastry_bits_per_digit as usize,
            leaves: 2 * settings.pastry_leaves_each.0,
            ..PastryConfig::default()
        }))
    }
}

impl Recipe for PastryRecipe {
    type Core = Pastry<SimulatedContact>;
    type WithContent = Dht<Self::Core>;

    fn with_content(&self, core: Self::Core, author: AuthorKey) -> Self::WithContent {
        dht(core, author)
    }

    fn newcomer(&self, me: SimulatedContact, author: AuthorKey) -> Self::WithContent {
        newcomer(self.outside(me), author)
    }

    fn outside(&self, me: SimulatedContact) -> Self::Core {
        Pastry::new(me, self.0.clone())
    }

    fn converged(
        &self,
        me: SimulatedContact,
        ring: &[(Id, SimulatedContact)],
        round_trip: &dyn Fn(SimulatedContact) -> Duration,
    ) -> Self::Core {
        Pastry::converged(me, self.0.clone(), ring, |other| round_trip(*other))
    }

    /// The numerically nearest: the one before the key, or the one behind it.
    fn responsible(&self, key: Id, ring: &[(Id, SimulatedContact)]) -> SimulatedContact {
        let behind = ring.partition_point(|(id, _)| *id < key);
        let around = [(behind + ring.len() - 1) % ring.len(), behind % ring.len()];
        let nearest =
            around.into_iter().min_by_key(|place| Pastry::<SimulatedContact>::distance(key, ring[*place].0));
        ring[nearest.expect("one of two")].1
    }

    /// "The key is my fellow's."
    fn lie(
        &self,
        question: &PastryMessage<SimulatedContact>,
        liars: &[(Id, SimulatedContact)],
    ) -> Option<PastryMessage<SimulatedContact>> {
        let PastryMessage::Relay { request, key, .. } = question else { return None };
        let owner = Some(self.responsible(*key, liars));
        Some(PastryMessage::Relayed { request: *request, owner, hops: 1, timeouts: 0 })
    }

    fn hide(&self, question: &ContentMessageOf<Self>) -> Option<ContentMessageOf<Self>> {
        hide_in_dht(question)
    }

    fn brings<'m>(&self, message: &'m mut ContentMessageOf<Self>) -> Option<&'m mut Vec<Entry>> {
        brings_to_dht(message)
    }

    /// A row is compared with somebody's every 2 min, and there are six: twice each.
    fn rest(&self) -> Duration {
        Duration::from_secs(25 * 60)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        columns::{Column, Row},
        experiment::{Setup, network},
    };

    /// Every leaf set is the same. Which of several nodes has a place in a table depends on whom
    /// a node was compared with; what is the same is which places are taken, and so the hops; and
    /// how much longer than direct a route is, ± 0.1.
    #[test]
    fn a_pastry_network_set_up_converged_equals_one_that_grew_by_joining() {
        let recipe = PastryRecipe::new(&Settings::default());
        let [mut grown, mut converged] =
            [Setup::Grown, Setup::Converged].map(|setup| network(&recipe, 2_000, 5, setup));
        let (mut taken, mut compared) = ([0, 0], 0);
        for ((contact, grown), (_, converged)) in grown.living().zip(converged.living()) {
            assert_eq!(grown.leaf_set(), converged.leaf_set(), "{contact:?}");
            taken[0] += grown.rows().map(|row| row.len()).sum::<usize>();
            taken[1] += converged.rows().map(|row| row.len()).sum::<usize>();
            compared += 1;
        }
        assert_eq!(compared, 2_000);
        assert!(taken[1].abs_diff(taken[0]) <= taken[1] / 1_000, "{taken:?} places are taken");
        let rows = [&mut grown, &mut converged].map(|world| {
            world.freeze();
            crate::experiment::measure(&recipe, world, 5, 2_000, Row::default())
        });
        for (column, tolerance) in
            [(Column::HopsMean, 0.05), (Column::Stretch, 0.1), (Column::LookupsFailedShare, 0.0)]
        {
            let [grown, converged] = [0, 1].map(|index| rows[index].number(column).expect("it was measured"));
            let name = column.name();
            assert!((grown - converged).abs() <= tolerance, "{name}: grown {grown}, set up {converged}");
        }
    }
}
