//! This node's own lookups.
//!
//! ```text
//! guides     a leaf asks one of its super-peers whose the key is, or `witnesses` of them; a
//!            super-peer has its own table for it
//! contacts   if none of them answers: some of the fallback's contacts, for theirs
//! owner      then the super-peer that most of them name is asked, and is it if it says so
//! fallback   if there are no super-peers to be found: by Kademlia
//! ```

use super::*;

/// Nodes that one lookup asks. With 80 % of all nodes dead at once an owner that lives is among
/// the 21 nearest in 99 % of cases, and a super-peer to ask among as many contacts.
const ASKED_MAX: usize = 64;
/// Contacts that are asked for their super-peers before there are said to be none.
const CONTACTS_MAX: usize = 24;
/// At once.
const CONTACTS_AT_ONCE: usize = 3;
/// The responsible nodes of one answer.
const OWNERS_MAX: usize = 20;

#[derive(Debug, Clone)]
pub(super) struct Lookup<C> {
    pub(super) number: u32,
    key: Id,
    /// To be asked whose the key is, and how many were contacted one after the other until each.
    guides: Vec<(C, u8)>,
    /// To be asked for super-peers.
    contacts: Vec<C>,
    /// In that order; at most `ASKED_MAX`.
    asked: Vec<Asked<C>>,
    /// Sorted by distance to the key.
    owners: Vec<Owner<C>>,
    /// Guides that have answered.
    witnesses: u8,
    /// Where there are more owners to be heard of; none: in this node's own table.
    guide: Option<C>,
    /// How many owners were named so far.
    named: u8,
    fallback: Option<LookupId>,
}

#[derive(Debug, Clone)]
struct Asked<C> {
    contact: C,
    role: As,
    state: State,
    depth: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum As {
    Guide,
    /// A guide, for more owners than it has named.
    GuideAgain,
    Contact,
    Owner,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    /// It was asked again.
    Slow,
    Answered,
    Silent,
}

#[derive(Debug, Clone)]
struct Owner<C> {
    contact: C,
    votes: u8,
    depth: u8,
    state: Ownership,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ownership {
    Named,
    /// It was asked.
    Asked,
    /// It says that it is a super-peer.
    Confirmed,
    /// It is silent, or none.
    No,
}

impl<C: Contact> Lookup<C> {
    pub(super) fn bytes(&self) -> usize {
        size_of::<Self>()
            + self.guides.capacity() * size_of::<(C, u8)>()
            + self.contacts.capacity() * size_of::<C>()
            + self.asked.capacity() * size_of::<Asked<C>>()
            + self.owners.capacity() * size_of::<Owner<C>>()
    }

    fn count(&self, role: As, wanted: impl Fn(State) -> bool) -> usize {
        self.asked.iter().filter(|asked| asked.role == role && wanted(asked.state)).count()
    }

    fn waits(&self, role: As) -> usize {
        self.count(role, |state| state == State::Waiting)
    }

    /// The slow ones too.
    fn hopes(&self, role: As) -> usize {
        self.count(role, |state| matches!(state, State::Waiting | State::Slow))
    }

    fn was_asked(&self, contact: &C, as_one_of: &[As]) -> bool {
        self.asked.iter().any(|asked| asked.contact == *contact && as_one_of.contains(&asked.role))
    }

    /// Adds one vote for each.
    fn name_owners(&mut self, named: &[C], depth: u8) {
        for contact in named.iter().take(NAMED_MAX) {
            let distance = contact.id().xor(self.key);
            match self.owners.binary_search_by_key(&distance, |owner| owner.contact.id().xor(self.key)) {
                Ok(place) => self.owners[place].votes = self.owners[place].votes.saturating_add(1),
                Err(place) if self.owners.len() < ASKED_MAX => {
                    let owner = Owner { contact: contact.clone(), votes: 1, depth, state: Ownership::Named };
                    self.owners.insert(place, owner);
                }
                Err(_) => {}
            }
        }
    }

    fn set_owner(&mut self, contact: &C, state: Ownership) {
        if let Some(owner) = self.owners.iter_mut().find(|owner| owner.contact == *contact) {
            owner.state = state;
        }
    }

    /// The nearest that most witnesses name, of those that may be it; if they agree on nobody,
    /// whom most of them name.
    fn best_owner(&self) -> Option<&Owner<C>> {
        let majority = self.witnesses / 2 + 1;
        let left = || self.owners.iter().filter(|owner| owner.state != Ownership::No);
        let agreed = left().find(|owner| owner.votes >= majority || owner.state == Ownership::Confirmed);
        // Of equals the nearest.
        agreed.or_else(|| left().rev().max_by_key(|owner| owner.votes))
    }
}

enum Next<C> {
    Ask {
        to: C,
        role: As,
        depth: u8,
        skip: u8,
    },
    /// This node's table has more owners.
    MoreOwners,
    Wait,
    Done,
    FallBack,
    TooLong,
}

impl<C: Contact> Lookup<C> {
    fn next(&mut self, wanted: usize, me: &C) -> Next<C> {
        if self.asked.len() >= ASKED_MAX {
            return Next::TooLong;
        }
        let has_witnesses =
            usize::from(self.witnesses) >= wanted || self.guide.is_none() && self.witnesses > 0;
        if !has_witnesses {
            while usize::from(self.witnesses) + self.waits(As::Guide) < wanted && !self.guides.is_empty() {
                let (to, depth) = self.guides.remove(0);
                if !self.was_asked(&to, &[As::Guide]) {
                    return Next::Ask { to, role: As::Guide, depth, skip: 0 };
                }
            }
            if self.waits(As::Guide) > 0 {
                return Next::Wait;
            }
        }
        if self.witnesses == 0 {
            while self.waits(As::Contact) < CONTACTS_AT_ONCE && !self.contacts.is_empty() {
                let to = self.contacts.remove(0);
                if !self.was_asked(&to, &[As::Guide, As::Contact]) {
                    return Next::Ask { to, role: As::Contact, depth: 1, skip: 0 };
                }
            }
            let is_hopeless = self.hopes(As::Guide) + self.hopes(As::Contact) == 0;
            return if is_hopeless { Next::FallBack } else { Next::Wait };
        }
        if self.hopes(As::Owner) + self.hopes(As::GuideAgain) > 0 {
            return Next::Wait;
        }
        match self.best_owner() {
            Some(owner) if owner.state == Ownership::Confirmed || owner.contact == *me => Next::Done,
            Some(owner) => {
                Next::Ask { to: owner.contact.clone(), role: As::Owner, depth: owner.depth, skip: 0 }
            }
            None => match &self.guide {
                None => Next::MoreOwners,
                Some(guide) => {
                    let depth = self
                        .asked
                        .iter()
                        .find(|asked| asked.contact == *guide)
                        .map_or(1, |asked| asked.depth);
                    Next::Ask { to: guide.clone(), role: As::GuideAgain, depth, skip: self.named }
                }
            },
        }
    }
}

impl<C: Contact> Hybrid<C> {
    pub(super) fn look_up(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        key: Id,
        out: &mut HybridOut<C>,
    ) -> u32 {
        let number = self.number();
        let mut lookup = Lookup {
            number,
            key,
            guides: Vec::new(),
            contacts: Vec::new(),
            asked: Vec::new(),
            owners: Vec::new(),
            witnesses: 0,
            guide: None,
            named: 0,
            fallback: None,
        };
        if let Some(seat) = self.seat() {
            let owners = seat.centre.nearest(key, 0, NAMED_MAX / 2);
            lookup.name_owners(&owners, 1);
            lookup.witnesses = 1;
            lookup.named = owners.len() as u8;
        } else {
            let mut guides: Vec<C> = self.attached.clone();
            // Each is asked as often as the others.
            if guides.len() > 1 {
                let first = rng.random_range(0..guides.len());
                guides.rotate_left(first);
            }
            lookup.guides = guides.into_iter().map(|guide| (guide, 1)).collect();
            // An orphan that has looked for super-peers in vain goes on without.
            if matches!(self.election, Election::Idle | Election::Look) {
                lookup.contacts = self.kademlia.responsible(key, CONTACTS_MAX);
                lookup.contacts.retain(|contact| *contact != self.me);
            }
        }
        self.advance(now, rng, lookup, out);
        number
    }

    fn advance(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        mut lookup: Lookup<C>,
        out: &mut HybridOut<C>,
    ) {
        let (number, key) = (lookup.number, lookup.key);
        loop {
            match lookup.next(self.config.witnesses, &self.me) {
                Next::Ask { to, role, depth, skip } => {
                    lookup.asked.push(Asked { contact: to.clone(), role, state: State::Waiting, depth });
                    if role == As::Owner {
                        lookup.set_owner(&to, Ownership::Asked);
                    }
                    let message = |request| HybridMessage::Find { request, key, skip };
                    self.call(now, to, Purpose::Lookup(number), message, out);
                }
                Next::MoreOwners => {
                    let more =
                        self.seat().map(|seat| seat.centre.nearest(key, lookup.named.into(), NAMED_MAX / 2));
                    let more = more.unwrap_or_default();
                    if more.is_empty() {
                        return self.finish(lookup, Err(LookupError::Exhausted), out);
                    }
                    lookup.named = lookup.named.saturating_add(more.len() as u8);
                    lookup.name_owners(&more, 1);
                }
                Next::Wait => return self.lookups.push(lookup),
                Next::Done => return self.found_owner(lookup, out),
                Next::FallBack => return self.fall_back(now, rng, lookup, out),
                Next::TooLong => return self.finish(lookup, Err(LookupError::TooLong), out),
            }
        }
    }

    fn take_lookup(&mut self, wanted: impl Fn(&Lookup<C>) -> bool) -> Option<Lookup<C>> {
        let place = self.lookups.iter().position(wanted)?;
        let lookup = self.lookups.swap_remove(place);
        if self.lookups.is_empty() {
            self.lookups = Vec::new();
        }
        Some(lookup)
    }

    /// The responsible one, and those who come next for the key.
    fn found_owner(&mut self, lookup: Lookup<C>, out: &mut HybridOut<C>) {
        let Some(owner) = lookup.best_owner() else {
            return self.finish(lookup, Err(LookupError::Exhausted), out);
        };
        let (first, hops) = (owner.contact.clone(), owner.depth);
        let hops = if first == self.me { 0 } else { hops.into() };
        let distance = first.id().xor(lookup.key);
        let others = lookup
            .owners
            .iter()
            .filter(|owner| owner.state != Ownership::No && owner.contact.id().xor(lookup.key) > distance);
        let others = others.map(|owner| owner.contact.clone());
        let found = std::iter::once(first).chain(others).take(OWNERS_MAX).collect();
        self.finish(lookup, Ok((found, hops)), out);
    }

    pub(super) fn finish(
        &mut self,
        lookup: Lookup<C>,
        outcome: Result<(Vec<C>, u32), LookupError>,
        out: &mut HybridOut<C>,
    ) {
        let Lookup { number, key, asked, .. } = lookup;
        self.drop_calls(|call| call.purpose == Purpose::Lookup(number));
        let timeouts =
            asked.iter().filter(|asked| matches!(asked.state, State::Slow | State::Silent)).count();
        let steps = asked.into_iter();
        let path = steps
            .map(|asked| crate::Step { contact: asked.contact, answered: asked.state == State::Answered });
        let (outcome, hops) = match outcome {
            Ok((found, hops)) => (Ok(found), hops),
            Err(error) => (Err(error), 0),
        };
        let (lookup, timeouts, path) = (LookupId(number), timeouts as u32, path.collect());
        out.notify(Notification::LookupFinished(Located { lookup, key, outcome, hops, timeouts, path }));
    }

    fn fall_back(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        mut lookup: Lookup<C>,
        out: &mut HybridOut<C>,
    ) {
        let key = lookup.key;
        let mut its = Out::default();
        match self.kademlia.locate(now, rng, key, &mut its) {
            Ok(number) => {
                lookup.fallback = Some(number);
                self.lookups.push(lookup);
            }
            Err(_) => self.finish(lookup, Err(LookupError::Exhausted), out),
        }
        // It may have ended at once.
        out.sends.extend(its.sends.into_iter().map(|(to, message)| (to, HybridMessage::Kademlia(message))));
        for notification in its.notifications {
            if let Notification::LookupFinished(located) = notification {
                self.fell_back(located, out);
            }
        }
    }

    pub(super) fn fell_back(&mut self, located: Located<C>, out: &mut HybridOut<C>) {
        let Some(mut lookup) = self.take_lookup(|lookup| lookup.fallback == Some(located.lookup)) else {
            return;
        };
        let asked = located.path.into_iter().map(|step| {
            let state = if step.answered { State::Answered } else { State::Silent };
            Asked { contact: step.contact, role: As::Owner, state, depth: 0 }
        });
        lookup.asked.extend(asked);
        let hops = located.hops;
        self.finish(lookup, located.outcome.map(|found| (found, hops)), out);
    }

    #[allow(clippy::too_many_arguments, reason = "an answer's fields, and who says so when")]
    pub(super) fn found(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        from: C,
        request: u32,
        is_super: bool,
        nearest: Vec<C>,
        out: &mut HybridOut<C>,
    ) {
        let is_its = |purpose| matches!(purpose, Purpose::Lookup(_) | Purpose::Seek | Purpose::Discover);
        let Some(purpose) = self.answered(&from, request, is_its) else { return };
        if !is_super && !self.frozen {
            self.is_leaf_now(now, &from, out);
        }
        match purpose {
            Purpose::Lookup(number) => {
                let Some(mut lookup) = self.take_lookup(|lookup| lookup.number == number) else { return };
                take_answer(&mut lookup, &from, is_super, &nearest, &self.me);
                self.advance(now, rng, lookup, out);
            }
            Purpose::Seek => self.sought(now, is_super, nearest, out),
            _ => self.discovered(now, from, is_super, nearest, out),
        }
    }

    /// Whom this node took for a super-peer says otherwise.
    fn is_leaf_now(&mut self, now: Instant, contact: &C, out: &mut HybridOut<C>) {
        if self.is_super() {
            self.report_gone(now, contact, out);
        } else if self.attached.contains(contact) {
            self.detached_from(now, contact, out);
        }
    }

    pub(super) fn was_slow(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        number: u32,
        contact: &C,
        out: &mut HybridOut<C>,
    ) {
        let Some(mut lookup) = self.take_lookup(|lookup| lookup.number == number) else { return };
        set_state(&mut lookup, contact, State::Slow);
        self.advance(now, rng, lookup, out);
    }

    pub(super) fn silent_in_lookup(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        number: u32,
        contact: &C,
        out: &mut HybridOut<C>,
    ) {
        let Some(mut lookup) = self.take_lookup(|lookup| lookup.number == number) else { return };
        set_state(&mut lookup, contact, State::Silent);
        lookup.set_owner(contact, Ownership::No);
        if lookup.guide.as_ref() == Some(contact) {
            // It named some, and cannot name more.
            lookup.owners.iter_mut().for_each(|owner| owner.state = Ownership::No);
            lookup.witnesses = 0;
            lookup.guide = None;
        }
        self.advance(now, rng, lookup, out);
    }
}

fn set_state<C: Contact>(lookup: &mut Lookup<C>, contact: &C, state: State) -> Option<(As, u8)> {
    let waits = |asked: &&mut Asked<C>| {
        asked.contact == *contact && matches!(asked.state, State::Waiting | State::Slow)
    };
    let asked = lookup.asked.iter_mut().find(waits)?;
    asked.state = state;
    Some((asked.role, asked.depth))
}

fn take_answer<C: Contact>(lookup: &mut Lookup<C>, from: &C, is_super: bool, nearest: &[C], me: &C) {
    let Some((role, depth)) = set_state(lookup, from, State::Answered) else { return };
    let nearest: Vec<C> = nearest.iter().take(NAMED_MAX).filter(|contact| *contact != me).cloned().collect();
    match role {
        As::Guide | As::Contact | As::GuideAgain if is_super => {
            if lookup.guide.is_none() || role == As::GuideAgain {
                lookup.guide = Some(from.clone());
                lookup.named = lookup.named.saturating_add(nearest.len() as u8);
            }
            if role == As::GuideAgain && nearest.is_empty() {
                // Nobody is left whom it could name.
                lookup.guide = None;
                lookup.witnesses = 0;
                return;
            }
            if role != As::GuideAgain {
                lookup.witnesses = lookup.witnesses.saturating_add(1);
            }
            lookup.name_owners(&nearest, depth.saturating_add(1));
            // It has answered, whosoever the key is.
            if let Some(owner) = lookup.owners.iter_mut().find(|owner| owner.contact == *from) {
                owner.state = Ownership::Confirmed;
                owner.depth = depth;
            }
        }
        As::Guide | As::Contact | As::GuideAgain => {
            let depth = depth.saturating_add(1);
            lookup.guides.extend(nearest.into_iter().map(|guide| (guide, depth)));
            lookup.guides.truncate(ASKED_MAX);
        }
        As::Owner if is_super => {
            lookup.set_owner(from, Ownership::Confirmed);
            lookup.name_owners(&nearest, depth.saturating_add(1));
        }
        As::Owner => lookup.set_owner(from, Ownership::No),
    }
}
