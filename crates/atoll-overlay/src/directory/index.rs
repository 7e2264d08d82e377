//! What an index node keeps: entries, the words of names, and who is registered. Knows no
//! messages.

use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet},
    ops::Bound::{Excluded, Included, Unbounded},
    time::Duration,
};

use atoll_types::{Instant, WallTime};
use rand::{Rng, RngCore};

use super::{DirectoryConfig, message::NAMES_MAX};
use crate::{
    Body, Contact, Entry, Id, Kept, Refused,
    dht::Named,
    entry::{Class, Slot, keywords_of, per_key_max},
    shares::gives_way,
    unstructured::Wanted,
};

/// Entries looked at for one question. A search for words that are all common sees so many of the
/// rarest one's names, from another place on each time: some milliseconds.
const LOOKED_AT_MAX: usize = 4096;

/// One client may fill so much of the room. What it publishes by itself is 3,072 entries at most;
/// the rest is for what it kept for others before the cluster changed its kind.
const CLIENT_PART: usize = 16;
/// A fellow index node hands over what others brought, so it may fill more.
const FELLOW_PART: usize = 2;

/// Where an entry stands: its key and its tag.
pub(super) type Place = (Id, u64);

#[derive(Debug, Clone)]
pub(super) struct Index<C> {
    /// When it has come to have all that clients who live have brought: they have heard of it.
    pub(super) settles_at: Instant,
    /// Whether it has got the values that its fellows had.
    pub(super) has_compared: bool,
    values: BTreeMap<Place, Held<C>>,
    /// What clients provide.
    claims: BTreeMap<Place, Held<C>>,
    /// The tag of each slot's entry.
    tags: BTreeMap<(Id, Slot), u64>,
    /// The postings of each word.
    words: BTreeMap<String, BTreeSet<Place>>,
    /// Entries that each peer brought; none of them empty.
    brought: BTreeMap<C, BTreeSet<Place>>,
    clients: BTreeMap<C, Client>,
    total: Kept,
}

#[derive(Debug, Clone)]
struct Held<C> {
    entry: Entry,
    /// None: this node itself.
    by: Option<C>,
}

#[derive(Debug, Clone, Copy)]
struct Client {
    token: u64,
    heard_at: Instant,
}

/// Who brings an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By<'a, C> {
    Myself,
    Client(&'a C),
    Fellow(&'a C),
}

impl<C: Contact> Index<C> {
    pub(super) fn new(settles_at: Instant) -> Self {
        Self {
            settles_at,
            has_compared: false,
            values: BTreeMap::new(),
            claims: BTreeMap::new(),
            tags: BTreeMap::new(),
            words: BTreeMap::new(),
            brought: BTreeMap::new(),
            clients: BTreeMap::new(),
            total: Kept::default(),
        }
    }

    /// One of a network at rest: they are all registered.
    pub(super) fn settled(clients: impl Iterator<Item = C>, token: u64) -> Self {
        let client = Client { token, heard_at: Instant::ORIGIN };
        let clients = clients.map(|contact| (contact, client)).collect();
        Self { has_compared: true, clients, ..Self::new(Instant::ORIGIN) }
    }

    pub(super) fn is_settled(&self, now: Instant) -> bool {
        self.has_compared && self.settles_at <= now
    }

    /// The client's token; a new one if it was not known. None: there is no room.
    pub(super) fn register(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        client: C,
        config: &DirectoryConfig,
    ) -> Option<u64> {
        if let Some(known) = self.clients.get_mut(&client) {
            known.heard_at = now;
            return Some(known.token);
        }
        if self.clients.len() >= config.clients_max {
            return None;
        }
        let token = rng.random();
        self.clients.insert(client, Client { token, heard_at: now });
        Some(token)
    }

    pub(super) fn is_registered(&self, client: &C, token: u64) -> bool {
        self.clients.get(client).is_some_and(|known| known.token == token)
    }

    pub(super) fn clients(&self) -> impl Iterator<Item = &C> {
        self.clients.keys()
    }

    /// Whoever was not heard of for so long is gone, and what it provides with it.
    pub(super) fn forget_lapsed(&mut self, now: Instant, lapse_after: Duration) {
        let lapsed = self.clients.iter().filter(|(_, client)| client.heard_at + lapse_after <= now);
        let lapsed: Vec<C> = lapsed.map(|(client, _)| client.clone()).collect();
        lapsed.iter().for_each(|client| self.forget_client(client));
    }

    /// Values stay: who stores one may go.
    pub(super) fn forget_client(&mut self, client: &C) {
        if self.clients.remove(client).is_none() {
            return;
        }
        let brought = self.brought.get(client).cloned().unwrap_or_default();
        for place in brought {
            if self.claims.contains_key(&place) {
                self.remove(place);
            }
        }
    }

    pub(super) fn forget_all_clients(&mut self) {
        self.clients = BTreeMap::new();
    }

    /// Keeps an entry that was checked.
    pub(super) fn put(
        &mut self,
        entry: Entry,
        by: By<'_, C>,
        config: &DirectoryConfig,
    ) -> Result<(), Refused> {
        let (slot, tag) = (entry.slot(), entry.tag());
        let former = self.tags.get(&(entry.key, slot)).copied();
        let former = former.and_then(|tag| Some((tag, self.held((entry.key, tag))?)));
        if let Some((former_tag, former)) = former {
            // Of two with one number the one with the higher tag holds: everywhere the same one.
            match (entry.sequence, tag).cmp(&(former.entry.sequence, former_tag)) {
                Ordering::Less => return Err(Refused::Outdated),
                Ordering::Equal => return Ok(()),
                Ordering::Greater => {}
            }
        }
        let (by, part) = match by {
            By::Myself => (None, 1),
            By::Client(client) => (Some(client), CLIENT_PART),
            By::Fellow(fellow) => (Some(fellow), FELLOW_PART),
        };
        let is_new_value = former.is_none() && slot.class == Class::Value;
        let gives_way = if is_new_value && self.values_of(entry.key).count() >= per_key_max(slot.class) {
            let held = self.values_of(entry.key).map(|held| (&held.entry, held.by.as_ref()));
            let other = gives_way(held, &entry, by).ok_or(Refused::Full)?;
            self.tags.get(&(entry.key, other)).copied()
        } else {
            None
        };
        let (freed, freed_bytes) = former.map_or((0, 0), |(_, former)| (1, former.entry.bytes()));
        let brought = by.and_then(|by| self.brought.get(by)).map_or(0, BTreeSet::len);
        let is_full = self.total.entries - freed >= config.entries_max
            || self.total.bytes - freed_bytes + entry.bytes() > config.bytes_max
            || brought >= config.entries_max.div_ceil(part);
        if is_full {
            return Err(Refused::Full);
        }
        let replaced = former.map(|(tag, _)| tag).or(gives_way);
        replaced.into_iter().for_each(|tag| self.remove((entry.key, tag)));
        let place = (entry.key, tag);
        if let Some(by) = by {
            self.brought.entry(by.clone()).or_default().insert(place);
        }
        if let Body::Posting { name, .. } = &entry.body {
            for word in keywords_of(name) {
                self.words.entry(word).or_default().insert(place);
            }
        }
        self.total.entries += 1;
        self.total.bytes += entry.bytes();
        self.tags.insert((entry.key, slot), tag);
        let entries = if slot.class == Class::Value { &mut self.values } else { &mut self.claims };
        entries.insert(place, Held { entry, by: by.cloned() });
        Ok(())
    }

    fn held(&self, place: Place) -> Option<&Held<C>> {
        self.values.get(&place).or_else(|| self.claims.get(&place))
    }

    fn values_of(&self, key: Id) -> impl Iterator<Item = &Held<C>> {
        self.values.range((key, 0)..=(key, u64::MAX)).map(|(_, held)| held)
    }

    fn remove(&mut self, place: Place) {
        let Some(Held { entry, by }) = self.values.remove(&place).or_else(|| self.claims.remove(&place))
        else {
            return;
        };
        self.tags.remove(&(entry.key, entry.slot()));
        self.total.entries -= 1;
        self.total.bytes -= entry.bytes();
        if let Body::Posting { name, .. } = &entry.body {
            for word in keywords_of(name) {
                forget(&mut self.words, &word, &place);
            }
        }
        if let Some(by) = by {
            forget(&mut self.brought, &by, &place);
        }
    }

    /// What holds at `wall`. Of more than one answer takes, some that are drawn: who asks for a
    /// popular thing is not always sent to the same providers.
    pub(super) fn find(&self, rng: &mut dyn RngCore, wanted: &Wanted, wall: WallTime) -> Vec<Entry> {
        let holds = |entry: &&Entry| entry.expires > wall && wanted.fits(entry);
        match wanted {
            Wanted::Under { key, class: Class::Value } => {
                self.values_of(*key).map(|held| &held.entry).filter(holds).cloned().collect()
            }
            Wanted::Under { key, class } => {
                // Tags are hashes, so the place to begin at is as good as drawing each.
                let (first, last, from) = ((*key, 0), (*key, u64::MAX), (*key, rng.random()));
                let behind = self.claims.range(from..=last);
                let before = self.claims.range((Included(first), Excluded(from)));
                let entries = behind.chain(before).take(LOOKED_AT_MAX).map(|(_, held)| &held.entry);
                entries.filter(holds).take(per_key_max(*class)).cloned().collect()
            }
            Wanted::Words(words) => {
                let all: Option<Vec<&BTreeSet<Place>>> =
                    words.iter().map(|word| self.words.get(word)).collect();
                let mut all = all.unwrap_or_default();
                all.sort_unstable_by_key(|places| places.len());
                let Some((rarest, others)) = all.split_first() else { return Vec::new() };
                let from = (Id::from_halves(rng.random(), 0), 0);
                let places = rarest.range(from..).chain(rarest.range(..from)).take(LOOKED_AT_MAX);
                let places = places.filter(|place| others.iter().all(|places| places.contains(place)));
                let entries = places.filter_map(|place| Some(&self.claims.get(place)?.entry));
                entries.filter(holds).take(per_key_max(Class::Posting)).cloned().collect()
            }
        }
    }

    /// The next values in order, and whether they are the last.
    pub(super) fn names_after(&self, after: Option<Named>) -> (Vec<Named>, bool) {
        let from = after.map_or(Unbounded, |named| Excluded((named.key, named.tag)));
        let mut behind = self.values.range((from, Unbounded)).map(|((key, tag), _)| (*key, *tag));
        let named = behind.by_ref().take(NAMES_MAX).map(|(key, tag)| Named { key, tag }).collect();
        (named, behind.next().is_none())
    }

    /// False if it is there, or the author has said something newer, as far as a name tells.
    pub(super) fn lacks(&self, named: &Named) -> bool {
        !self.values.contains_key(&(named.key, named.tag))
    }

    pub(super) fn value(&self, named: &Named) -> Option<&Entry> {
        self.values.get(&(named.key, named.tag)).map(|held| &held.entry)
    }

    pub(super) fn forget_expired(&mut self, wall: WallTime) {
        let all = self.values.iter().chain(&self.claims);
        let expired = all.filter(|(_, held)| held.entry.expires <= wall).map(|(place, _)| *place);
        let expired: Vec<Place> = expired.collect();
        expired.into_iter().for_each(|place| self.remove(place));
    }

    pub(super) fn into_values(self) -> impl Iterator<Item = Entry> {
        self.values.into_values().map(|held| held.entry)
    }

    pub(super) fn into_entries(self) -> impl Iterator<Item = Entry> {
        self.values.into_values().chain(self.claims.into_values()).map(|held| held.entry)
    }

    pub(super) fn kept(&self) -> Kept {
        self.total
    }

    pub(super) fn heap_bytes(&self) -> usize {
        // Where an entry stands besides: in its slot, with who brought it, and under some three words.
        let bookkeeping = size_of::<Held<C>>() + size_of::<(Id, Slot)>() + 5 * size_of::<Place>();
        self.total.bytes
            + self.total.entries * bookkeeping
            + self.words.keys().map(String::len).sum::<usize>()
            + self.clients.len() * size_of::<(C, Client)>()
    }

    #[cfg(test)]
    pub(super) fn check_limits(&self, config: &DirectoryConfig) {
        assert!(self.total.entries <= config.entries_max && self.total.bytes <= config.bytes_max);
        assert!(self.clients.len() <= config.clients_max);
        assert_eq!(self.values.len() + self.claims.len(), self.total.entries);
        assert_eq!(self.tags.len(), self.total.entries);
        let brought: usize = self.brought.values().map(BTreeSet::len).sum();
        assert!(brought <= self.total.entries && self.brought.values().all(|places| !places.is_empty()));
        let listed: BTreeSet<Place> = self.words.values().flatten().copied().collect();
        assert!(listed.iter().all(|place| self.claims.contains_key(place)));
    }
}

/// Takes a place out of a list, and the list if it was its last.
fn forget<K: Ord + Clone>(lists: &mut BTreeMap<K, BTreeSet<Place>>, of: &K, place: &Place) {
    if let Some(places) = lists.get_mut(of) {
        places.remove(place);
        if places.is_empty() {
            lists.remove(of);
        }
    }
}
