//! A directory for the lab.

use std::{cell::RefCell, sync::Arc, time::Duration};

use atoll_overlay::{AuthorKey, Contact, Directory, DirectoryConfig, DirectoryMessage, Entry, Id};

use super::{Recipe, Settings};
use crate::world::SimulatedContact;

/// For one network: its first nodes are the index nodes.
pub(crate) struct DirectoryRecipe {
    config: Arc<DirectoryConfig>,
    wanted: usize,
    stay: bool,
    /// One for all: who signs makes no difference to lookups, and keys are dear.
    author: AuthorKey,
    /// In the order in which they came.
    indexes: RefCell<Vec<SimulatedContact>>,
}

impl DirectoryRecipe {
    pub(crate) fn new(settings: &Settings) -> Self {
        // As many clients and entries as there are: who buys a server for a million buys a large
        // one.
        let config = DirectoryConfig {
            reads: settings.directory_reads.0,
            clients_max: usize::MAX,
            entries_max: usize::MAX,
            bytes_max: usize::MAX,
            ..DirectoryConfig::default()
        };
        Self {
            config: Arc::new(config),
            wanted: settings.directory_indexes.0,
            stay: settings.directory_indexes_stay,
            author: AuthorKey::from_seed([1; 32]),
            indexes: RefCell::default(),
        }
    }
}

impl Recipe for DirectoryRecipe {
    type Core = Directory<SimulatedContact>;
    type WithContent = Self::Core;

    fn with_content(&self, core: Self::Core, _author: AuthorKey) -> Self::WithContent {
        core
    }

    fn newcomer(&self, me: SimulatedContact, author: AuthorKey) -> Self::WithContent {
        let mut indexes = self.indexes.borrow_mut();
        if indexes.len() < self.wanted && !indexes.contains(&me) {
            indexes.push(me);
        }
        Directory::new(me, author, self.config.clone(), indexes.clone())
    }

    fn outside(&self, me: SimulatedContact) -> Self::Core {
        self.newcomer(me, self.author.clone())
    }

    fn converged(
        &self,
        me: SimulatedContact,
        ring: &[(Id, SimulatedContact)],
        _round_trip: &dyn Fn(SimulatedContact) -> Duration,
    ) -> Self::Core {
        let mut indexes = self.indexes.borrow_mut();
        if indexes.is_empty() {
            let mut all: Vec<SimulatedContact> = ring.iter().map(|(_, contact)| *contact).collect();
            all.sort_unstable();
            all.truncate(self.wanted);
            *indexes = all;
        }
        let all = ring.iter().map(|(_, contact)| *contact);
        Directory::converged(me, self.author.clone(), self.config.clone(), &indexes, all)
    }

    /// Of the index nodes that live, the first in the key's order; of all if none does, so that
    /// nothing that is found is right.
    fn responsible(&self, key: Id, ring: &[(Id, SimulatedContact)]) -> SimulatedContact {
        let indexes = self.indexes.borrow();
        let lives = |index: &&SimulatedContact| ring.binary_search(&(index.id(), **index)).is_ok();
        let living: Vec<SimulatedContact> = indexes.iter().filter(lives).copied().collect();
        let found = Directory::responsible_among(key, &living);
        found.or_else(|| Directory::responsible_among(key, &indexes)).expect("the first node is one")
    }

    /// About keys there is nothing to lie: who asks an index node for one asks whether it is there.
    fn lie(&self, _: &DirectoryMessage, _: &[(Id, SimulatedContact)]) -> Option<DirectoryMessage> {
        None
    }

    fn hide(&self, question: &DirectoryMessage) -> Option<DirectoryMessage> {
        match question {
            DirectoryMessage::Keep { request, entries, .. } => {
                let outcomes = entries.iter().map(|_| Ok(())).collect();
                Some(DirectoryMessage::Kept { request: *request, outcomes })
            }
            DirectoryMessage::Get { request, .. } => {
                let (entries, is_settled) = (Vec::new(), true);
                Some(DirectoryMessage::Got { request: *request, entries, is_settled })
            }
            _ => None,
        }
    }

    fn brings<'m>(&self, message: &'m mut DirectoryMessage) -> Option<&'m mut Vec<Entry>> {
        match message {
            DirectoryMessage::Keep { entries, .. } => Some(entries),
            _ => None,
        }
    }

    /// An index node is new for two periods of 30 s.
    fn rest(&self) -> Duration {
        Duration::from_secs(2 * 60)
    }

    fn appointed(&self) -> Vec<SimulatedContact> {
        self.indexes.borrow().clone()
    }

    fn stays(&self, contact: SimulatedContact) -> bool {
        self.stay && self.indexes.borrow().contains(&contact)
    }
}

#[cfg(test)]
mod tests {
    use atoll_overlay::Overlay as _;

    use super::*;
    use crate::{
        columns::{Column, Row},
        experiment::{Setup, network},
    };

    /// Who is an index node, and who is registered there: the same in both.
    #[test]
    fn a_directory_set_up_converged_equals_one_that_grew_by_joining() {
        let [grown, converged] = [Setup::Grown, Setup::Converged]
            .map(|setup| network(&DirectoryRecipe::new(&Settings::default()), 2_000, 5, setup));
        let mut compared = 0;
        for ((contact, grown), (_, converged)) in grown.living().zip(converged.living()) {
            assert_eq!(grown.is_index(), converged.is_index(), "{contact:?}");
            assert_eq!(grown.contacts(), converged.contacts(), "{contact:?}");
            assert!(grown.contacts().len() == if grown.is_index() { 1_999 } else { 3 }, "{contact:?}");
            compared += 1;
        }
        assert_eq!(compared, 2_000);
    }

    /// With two of three index nodes gone a key's first is dead in 2 of 3 cases, and the second in
    /// half of these: a time-out on average, until clients have noticed.
    #[test]
    fn a_directory_works_while_one_of_its_index_nodes_does() {
        let recipe = DirectoryRecipe::new(&Settings::default());
        let mut world = network(&recipe, 300, 5, Setup::Converged);
        let indexes = recipe.appointed();
        let measured = |world: &crate::world::World<_>| {
            let mut copy = world.clone();
            copy.freeze();
            let row = crate::experiment::measure(&recipe, &mut copy, 5, 900, Row::default());
            let columns = [Column::LookupsFailedShare, Column::TimeoutsMean];
            columns.map(|column| row.number(column).expect("measured"))
        };
        assert_eq!(measured(&world), [0.0, 0.0]);
        indexes[..2].iter().for_each(|index| world.fail(*index));
        let [failed, timeouts] = measured(&world);
        assert!(failed == 0.0 && (0.9..1.1).contains(&timeouts), "{failed} {timeouts}");
        world.run(Duration::from_secs(120));
        assert_eq!(measured(&world), [0.0, 0.0]);
        world.fail(indexes[2]);
        let [failed, timeouts] = measured(&world);
        assert!(failed == 1.0 && timeouts == 3.0, "{failed} {timeouts}");
    }
}
