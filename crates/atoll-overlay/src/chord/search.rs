//! Whom one lookup asks next: figure 5's `find_successor`, with the next best node tried when
//! one fails (ToN 2003, IV-E.3). Knows no messages and no time.
//!
//! A search has two stages. *Preceding*: ask the contact that most closely precedes the key,
//! among all that were named so far, until one knows the key's successors. *Owners*: ask these,
//! in the ring's order; the first that answers is responsible. If all are dead, back to the
//! first stage with what is left.

use crate::{Contact, Id};

/// Contacts that a search remembers to ask: all that its own node knows at the start (a list of
/// 20 and 20 fingers), and full answers of three steps. Of more, the far ones are dropped, which
/// only matter if all nearer ones are dead.
pub(super) const CANDIDATES_MAX: usize = 64;
/// Contacts that a search asks before it gives up. log₂ N = 20 steps for a million nodes with
/// four failures each; a liar who names ever nearer nodes that do not exist gets no further.
pub(super) const CONTACTS_ASKED_MAX: usize = 100;

#[derive(Debug, Clone)]
pub(super) struct Search<C> {
    pub(super) key: Id,
    /// Sorted by the way to the key, the nearest first.
    preceding: Vec<C>,
    /// In the ring's order from the key on.
    owners: Vec<C>,
    /// Everybody who was asked, and whether an answer came.
    asked: Vec<(C, bool)>,
    /// The owner that answered, while the nearer one that it named is asked.
    answered: Option<C>,
    /// Those behind it, as whoever named it has them.
    behind: Vec<C>,
    /// Whether this node itself may be the answer; not when it asks for its own place.
    may_be_me: bool,
    pub(super) hops: u32,
    pub(super) timeouts: u32,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step<C> {
    Ask {
        to: C,
        /// It is thought to be responsible itself.
        as_owner: bool,
    },
    Found(C),
    Exhausted,
    TooLong,
}

impl<C: Contact> Search<C> {
    pub(super) fn new(key: Id, preceding: Vec<C>, owners: Vec<C>, may_be_me: bool) -> Self {
        let mut search = Self {
            key,
            preceding: Vec::new(),
            owners,
            asked: Vec::new(),
            answered: None,
            behind: Vec::new(),
            may_be_me,
            hops: 0,
            timeouts: 0,
        };
        preceding.into_iter().for_each(|contact| search.add_preceding(contact));
        search
    }

    /// `nearer`: whom this node itself knows to be responsible rather than itself, if the key is
    /// not its own.
    pub(super) fn next(&mut self, me: &C, nearer: Option<C>) -> Step<C> {
        while !self.owners.is_empty() {
            let owner = self.owners.remove(0);
            if owner == *me {
                if !self.may_be_me {
                    continue;
                }
                // Others that call this node responsible may not have heard of who joined
                // before it; this node would tell them, and asks by itself.
                match nearer.filter(|nearer| !self.was_asked(nearer)) {
                    None => return Step::Found(owner),
                    Some(nearer) => {
                        self.behind = std::mem::take(&mut self.owners);
                        self.answered = Some(owner);
                        return self.ask(nearer, true);
                    }
                }
            }
            match self.asked.iter().find(|(asked, _)| *asked == owner) {
                Some((_, true)) => return Step::Found(owner),
                Some((_, false)) => {}
                None => return self.ask(owner, true),
            }
        }
        if let Some(owner) = self.answered.take() {
            return Step::Found(owner);
        }
        while !self.preceding.is_empty() {
            let contact = self.preceding.remove(0);
            if contact != *me && !self.was_asked(&contact) {
                return self.ask(contact, false);
            }
        }
        Step::Exhausted
    }

    fn ask(&mut self, to: C, as_owner: bool) -> Step<C> {
        if self.asked.len() >= CONTACTS_ASKED_MAX {
            return Step::TooLong;
        }
        self.asked.push((to.clone(), false));
        Step::Ask { to, as_owner }
    }

    fn was_asked(&self, contact: &C) -> bool {
        self.asked.iter().any(|(asked, _)| asked == contact)
    }

    /// Somebody who was asked is there.
    pub(super) fn answered_by(&mut self, from: &C) {
        self.hops += 1;
        if let Some((_, answered)) = self.asked.iter_mut().find(|(asked, _)| asked == from) {
            *answered = true;
        }
    }

    /// A step's answer: only what is nearer to the key than who says it counts, so a search
    /// gets on with each step, whatever is said.
    pub(super) fn add_answer(&mut self, from: &C, preceding: Vec<C>, successors: Vec<C>) {
        let way = way_to(self.key, from.id());
        for contact in preceding.into_iter().take(super::message::CONTACTS_PER_MESSAGE_MAX) {
            if way_to(self.key, contact.id()) < way {
                self.add_preceding(contact);
            }
        }
        let mut beyond = None;
        for contact in successors.into_iter().take(super::message::CONTACTS_PER_MESSAGE_MAX) {
            let farther = contact.id().clockwise_from(self.key);
            if beyond.is_none_or(|beyond| farther > beyond) {
                beyond = Some(farther);
                self.owners.push(contact);
            }
        }
    }

    /// The answer of somebody thought responsible, who may name a nearer node: one that joined
    /// before it, of which those who named it have not heard.
    pub(super) fn add_owner(&mut self, from: C, nearer: Option<C>) {
        let beyond = from.id().clockwise_from(self.key);
        self.behind = std::mem::take(&mut self.owners);
        self.owners.extend(nearer.filter(|nearer| nearer.id().clockwise_from(self.key) < beyond));
        self.answered = Some(from);
    }

    fn add_preceding(&mut self, contact: C) {
        let way = way_to(self.key, contact.id());
        let place = self.preceding.partition_point(|other| way_to(self.key, other.id()) < way);
        if self.preceding.get(place) != Some(&contact) && place < CANDIDATES_MAX {
            self.preceding.insert(place, contact);
            self.preceding.truncate(CANDIDATES_MAX);
        }
    }

    /// The owner that was found, and those behind it: as others than the owner say, so that it can't
    /// keep them to itself.
    pub(super) fn with_those_behind(&self, owner: C) -> Vec<C> {
        let way = |contact: &C| contact.id().clockwise_from(self.key);
        let (first, others) = (way(&owner), self.behind.iter().chain(&self.owners));
        let mut behind: Vec<C> = others.filter(|other| way(other) > first).cloned().collect();
        behind.sort_unstable_by_key(way);
        behind.dedup();
        behind.insert(0, owner);
        behind
    }

    /// Whom the search asked, in that order.
    pub(super) fn path(self) -> Vec<crate::Step<C>> {
        self.asked.into_iter().map(|(contact, answered)| crate::Step { contact, answered }).collect()
    }

    pub(super) fn heap_bytes(&self) -> usize {
        (self.preceding.capacity() + self.owners.capacity() + self.behind.capacity()) * size_of::<C>()
            + self.asked.capacity() * size_of::<(C, bool)>()
    }
}

/// The way from a node to a key that it precedes; one that stands at the key does not precede
/// it, and has the whole ring to go.
fn way_to(key: Id, id: Id) -> Id {
    if key == id { Id::from_halves(u128::MAX, u128::MAX) } else { key.clockwise_from(id) }
}
