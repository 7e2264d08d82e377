//! Whom one lookup asks next: section 2.3's node lookup, on disjoint paths as in S/Kademlia.
//! Knows no messages and no time.
//!
//! A path asks the nearest contacts that it was told of, α at a time; when α of them in a
//! row have led no nearer, up to k at a time. It is at its end when the k nearest have answered; who
//! fails is passed over. With several paths each node is asked by one of them only, and what
//! it names is told to that path only, so that a liar leads one path astray and not all. The
//! answer is the nearest of all that answered: nobody is believed to exist because somebody
//! said so.

use super::{message::CONTACTS_PER_MESSAGE_MAX, tables::K_MAX};
use crate::{Contact, Id};

/// Contacts that a path remembers, dead ones included. With 80 % of all nodes dead at once the
/// 20 nearest that live are among the 100 nearest. Of more the far ones are dropped.
const CANDIDATES_MAX: usize = 256;
/// Contacts that a search asks before it gives up: k = 20 for each of 8 paths, and twice as
/// many dead ones. Liars who name nodes that do not exist get no further.
pub(super) const CONTACTS_ASKED_MAX: usize = 512;
const _: () = assert!(K_MAX < CANDIDATES_MAX);

#[derive(Debug, Clone)]
pub(super) struct Search<C> {
    pub(super) key: Id,
    k: usize,
    alpha: usize,
    paths: Vec<Path<C>>,
    /// Everybody who was asked, in that order, and whether an answer came.
    asked: Vec<(C, bool)>,
}

#[derive(Debug, Clone)]
struct Path<C> {
    /// Sorted by distance, none twice.
    candidates: Vec<Candidate<C>>,
    /// Asked, and neither answered nor slow.
    in_flight: usize,
    /// Questions in a row that were answered with nobody nearer, or not in time.
    stalled: usize,
}

#[derive(Debug, Clone)]
struct Candidate<C> {
    distance: Id,
    contact: C,
    /// Nodes contacted one after the other until this one is, itself included.
    depth: u8,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Unasked,
    Asked,
    /// Asked again. It may still answer, and others are asked in its stead meanwhile
    /// (section 2.3: removed from consideration until it responds).
    Slow,
    Answered,
    Failed,
    /// Another path asks it.
    Elsewhere,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<C> {
    Ask {
        to: C,
        path: u8,
    },
    /// Until an answer comes, or does not.
    Wait,
    Done,
    TooLong,
}

/// What a search that is done has found.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Found<C> {
    /// Those that answered, the nearest first, at most k; with how many nodes were contacted
    /// one after the other until each of them was.
    pub(super) nearest: Vec<(C, u8)>,
    pub(super) timeouts: u32,
    /// Everybody who was asked, in that order.
    pub(super) path: Vec<crate::Step<C>>,
}

impl<C: Contact> Search<C> {
    /// From the nearest contacts known, the nearest first. They are dealt out to the paths; if
    /// there are fewer contacts than paths, so are the paths.
    pub(super) fn new(key: Id, k: usize, alpha: usize, paths: usize, seeds: Vec<C>) -> Self {
        let count = paths.min(seeds.len());
        let new_path = || Path { candidates: Vec::new(), in_flight: 0, stalled: 0 };
        let mut search =
            Self { key, k, alpha, paths: (0..count).map(|_| new_path()).collect(), asked: Vec::new() };
        for (index, seed) in seeds.into_iter().enumerate() {
            search.add(index % count, seed, 1);
        }
        search
    }

    pub(super) fn next(&mut self) -> Next<C> {
        let mut waits = false;
        for path in 0..self.paths.len() {
            let Path { candidates, in_flight, stalled } = &mut self.paths[path];
            let limit = if *stalled >= self.alpha { self.k } else { self.alpha };
            let mut window = self.k;
            for candidate in candidates {
                match candidate.state {
                    State::Unasked if *in_flight < limit => {
                        if self.asked.len() >= CONTACTS_ASKED_MAX {
                            return Next::TooLong;
                        }
                        *in_flight += 1;
                        candidate.state = State::Asked;
                        let (to, distance) = (candidate.contact.clone(), candidate.distance);
                        self.asked.push((to.clone(), false));
                        self.tell_others(path, distance, State::Elsewhere);
                        return Next::Ask { to, path: u8::try_from(path).expect("at most PATHS_MAX") };
                    }
                    State::Unasked | State::Asked => waits = true,
                    State::Slow => {
                        waits = true;
                        continue;
                    }
                    State::Answered | State::Elsewhere => {}
                    State::Failed => continue,
                }
                window -= 1;
                if window == 0 {
                    break;
                }
            }
        }
        if waits { Next::Wait } else { Next::Done }
    }

    /// A question to somebody was left without an answer once, and is asked again.
    pub(super) fn slow(&mut self, path: u8, contact: &C) {
        self.land(path, contact);
        if let Some(path) = self.paths.get_mut(usize::from(path)) {
            path.stalled += 1;
        }
    }

    /// A question is no longer in flight.
    fn land(&mut self, path: u8, contact: &C) {
        if let Some(candidate) = self.candidate(path, contact)
            && candidate.state == State::Asked
        {
            candidate.state = State::Slow;
            self.paths[usize::from(path)].in_flight -= 1;
        }
    }

    pub(super) fn failed(&mut self, path: u8, contact: &C) {
        self.land(path, contact);
        if let Some(candidate) = self.candidate(path, contact) {
            candidate.state = State::Failed;
            let distance = candidate.distance;
            self.tell_others(path.into(), distance, State::Failed);
        }
    }

    pub(super) fn answered(&mut self, path: u8, from: &C, me: &C, contacts: Vec<C>) {
        self.land(path, from);
        let Some(candidate) = self.candidate(path, from) else { return };
        candidate.state = State::Answered;
        let depth = candidate.depth.saturating_add(1);
        if let Some((_, answered)) = self.asked.iter_mut().find(|(asked, _)| asked == from) {
            *answered = true;
        }
        let path = usize::from(path);
        let nearest = self.nearest(path);
        for contact in contacts.into_iter().take(CONTACTS_PER_MESSAGE_MAX) {
            if contact != *me {
                self.add(path, contact, depth);
            }
        }
        let nearer = self.nearest(path) < nearest;
        let stalled = &mut self.paths[path].stalled;
        *stalled = if nearer { 0 } else { *stalled + 1 };
    }

    pub(super) fn found(self) -> Found<C> {
        let all = || self.paths.iter().flat_map(|path| &path.candidates);
        let timeouts = all().filter(|one| matches!(one.state, State::Slow | State::Failed)).count();
        let mut nearest: Vec<&Candidate<C>> = all().filter(|one| one.state == State::Answered).collect();
        nearest.sort_unstable_by_key(|candidate| candidate.distance);
        let nearest = nearest.into_iter().take(self.k).map(|one| (one.contact.clone(), one.depth)).collect();
        let timeouts = u32::try_from(timeouts).expect("at most CONTACTS_ASKED_MAX");
        let asked = self.asked.into_iter();
        let path = asked.map(|(contact, answered)| crate::Step { contact, answered }).collect();
        Found { nearest, timeouts, path }
    }

    fn nearest(&self, path: usize) -> Option<Id> {
        let living = |candidate: &&Candidate<C>| candidate.state != State::Failed;
        self.paths[path].candidates.iter().find(living).map(|candidate| candidate.distance)
    }

    fn candidate(&mut self, path: u8, contact: &C) -> Option<&mut Candidate<C>> {
        let distance = contact.id().xor(self.key);
        let candidates = &mut self.paths.get_mut(usize::from(path))?.candidates;
        let place = candidates.binary_search_by_key(&distance, |candidate| candidate.distance).ok()?;
        Some(&mut candidates[place]).filter(|one| matches!(one.state, State::Asked | State::Slow))
    }

    fn add(&mut self, path: usize, contact: C, depth: u8) {
        let distance = contact.id().xor(self.key);
        let search =
            |path: &Path<C>| path.candidates.binary_search_by_key(&distance, |candidate| candidate.distance);
        let Err(place) = search(&self.paths[path]) else { return };
        if place >= CANDIDATES_MAX {
            return;
        }
        let state_in = |other: &Path<C>| search(other).ok().map(|place| other.candidates[place].state);
        let state = match self.paths.iter().filter_map(state_in).find(|state| *state != State::Unasked) {
            None => State::Unasked,
            Some(State::Failed) => State::Failed,
            Some(_) => State::Elsewhere,
        };
        let candidates = &mut self.paths[path].candidates;
        candidates.insert(place, Candidate { distance, contact, depth, state });
        if candidates.len() > CANDIDATES_MAX
            && let Some(dropped) = candidates.pop()
            && dropped.state == State::Asked
        {
            self.paths[path].in_flight -= 1;
        }
    }

    fn tell_others(&mut self, path: usize, distance: Id, state: State) {
        for (index, other) in self.paths.iter_mut().enumerate() {
            let place = other.candidates.binary_search_by_key(&distance, |candidate| candidate.distance);
            if let Ok(place) = place
                && index != path
            {
                other.candidates[place].state = state;
            }
        }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let candidates = self.paths.iter().map(|path| path.candidates.capacity());
        self.paths.capacity() * size_of::<Path<C>>() + candidates.sum::<usize>() * size_of::<Candidate<C>>()
    }
}
