//! Chord for the lab.

use std::{sync::Arc, time::Duration};

use atoll_overlay::{AuthorKey, Chord, ChordConfig, ChordMessage, Dht, Entry, Id, LookupStyle};

use super::{ContentMessageOf, Recipe, Settings, brings_to_dht, dht, hide_in_dht, newcomer};
use crate::world::SimulatedContact;

pub(super) struct ChordRecipe(Arc<ChordConfig>);

impl ChordRecipe {
    pub(super) fn new(settings: &Settings) -> Self {
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
    type WithContent = Dht<Self::Core>;

    fn with_content(&self, core: Self::Core, author: AuthorKey) -> Self::WithContent {
        dht(core, author)
    }

    fn newcomer(&self, me: SimulatedContact, author: AuthorKey) -> Self::WithContent {
        newcomer(self.outside(me), author)
    }

    fn outside(&self, me: SimulatedContact) -> Self::Core {
        Chord::new(me, self.0.clone())
    }

    fn converged(
        &self,
        me: SimulatedContact,
        ring: &[(Id, SimulatedContact)],
        _round_trip: &dyn Fn(SimulatedContact) -> Duration,
    ) -> Self::Core {
        Chord::converged(me, self.0.clone(), ring)
    }

    /// The first at or after the key.
    fn responsible(&self, key: Id, ring: &[(Id, SimulatedContact)]) -> SimulatedContact {
        ring[ring.partition_point(|(id, _)| *id < key) % ring.len()].1
    }

    /// "The key is my fellow's", and the fellow says the same.
    fn lie(
        &self,
        question: &ChordMessage<SimulatedContact>,
        liars: &[(Id, SimulatedContact)],
    ) -> Option<ChordMessage<SimulatedContact>> {
        let following = |key: &Id| {
            let (before, after) = liars.split_at(liars.partition_point(|(id, _)| id < key));
            after.iter().chain(before).map(|(_, contact)| *contact)
        };
        match question {
            ChordMessage::Find { request, key } => {
                let successors = following(key).take(self.0.successors).collect();
                Some(ChordMessage::Closer { request: *request, preceding: Vec::new(), successors })
            }
            ChordMessage::Claim { request, .. } => {
                Some(ChordMessage::Claimed { request: *request, nearer: None })
            }
            ChordMessage::Relay { request, key, .. } => {
                let owner = following(key).next();
                Some(ChordMessage::Relayed { request: *request, owner, hops: 1, timeouts: 0 })
            }
            _ => None,
        }
    }

    fn hide(&self, question: &ContentMessageOf<Self>) -> Option<ContentMessageOf<Self>> {
        hide_in_dht(question)
    }

    fn brings<'m>(&self, message: &'m mut ContentMessageOf<Self>) -> Option<&'m mut Vec<Entry>> {
        brings_to_dht(message)
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
            [Setup::Grown, Setup::Converged].map(|setup| network(&recipe, 10_000, 5, setup));
        let mut compared = 0;
        for ((contact, grown), (_, converged)) in grown.living().zip(converged.living()) {
            assert_eq!(grown.predecessor(), converged.predecessor(), "{contact:?}");
            assert_eq!(grown.successors(), converged.successors(), "{contact:?}");
            assert_eq!(grown.fingers(), converged.fingers(), "{contact:?}");
            compared += 1;
        }
        assert_eq!(compared, 10_000);
    }
}
