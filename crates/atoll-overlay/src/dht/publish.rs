//! What this node wants kept, and sees to until it expires or is taken back; and the commands
//! that say so.

use std::{collections::BTreeMap, time::Duration};

use atoll_types::{Instant, NodeId, WallTime};
use rand::RngCore;

use super::{
    Dht, DhtOut,
    operation::{Job, What},
};
use crate::{
    Body, Content, ContentError, Entry, Id, Kept, Offered, OperationId, Overlay, Shelf, Unsound,
    entry::{Class, LIFETIME_MAX, NAME_BYTES_MAX, VALUE_BYTES_MAX, keyword_key, keywords_of},
};

/// Values, and as many things provided, that a node publishes itself.
pub(super) const PUBLISHED_MAX: usize = 1024;

/// What a node publishes; at most `PUBLISHED_MAX` of each.
#[derive(Debug, Clone, Default)]
pub(crate) struct Published {
    values: BTreeMap<Id, Value>,
    provided: BTreeMap<Id, Provided>,
}

#[derive(Debug, Clone)]
struct Value {
    entry: Entry,
    again_at: Instant,
}

#[derive(Debug, Clone)]
struct Provided {
    name: String,
    again_at: Instant,
}

impl Published {
    /// Values, and what is provided, by content with its name. All of it is published anew.
    pub(crate) fn from_parts(
        values: impl IntoIterator<Item = Entry>,
        provided: impl IntoIterator<Item = (Id, String)>,
    ) -> Self {
        let again_at = Instant::ORIGIN;
        let values = values.into_iter().map(|entry| (entry.key, Value { entry, again_at }));
        let provided = provided.into_iter().map(|(content, name)| (content, Provided { name, again_at }));
        Self { values: values.collect(), provided: provided.collect() }
    }

    pub(crate) fn into_parts(self) -> (Vec<Entry>, Vec<(Id, String)>) {
        let provided = self.provided.into_iter().map(|(content, provided)| (content, provided.name));
        (self.values.into_values().map(|value| value.entry).collect(), provided.collect())
    }

    /// All of it may be lost.
    pub(super) fn all_again(&mut self, now: Instant) {
        self.values.values_mut().for_each(|value| value.again_at = now);
        self.provided.values_mut().for_each(|provided| provided.again_at = now);
    }

    /// If the entry is what `me` published, it is to be published again.
    pub(super) fn again(&mut self, now: Instant, me: NodeId, entry: &Entry) {
        if entry.author != me {
            return;
        }
        match &entry.body {
            Body::Value(_) => {
                let value = self.values.get_mut(&entry.key);
                value.into_iter().for_each(|value| value.again_at = now);
            }
            Body::Provider | Body::Posting { .. } => {
                let content =
                    if let Body::Posting { content, .. } = &entry.body { content } else { &entry.key };
                let provided = self.provided.get_mut(content);
                provided.into_iter().for_each(|provided| provided.again_at = now);
            }
        }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        let values = self.values.values().map(|value| size_of::<Value>() + value.entry.bytes());
        let provided = self.provided.values().map(|provided| size_of::<Provided>() + provided.name.len());
        values.chain(provided).map(|bytes| bytes + size_of::<Id>()).sum()
    }
}

impl<O: Overlay> Dht<O> {
    fn sign(&mut self, now: Instant, key: Id, lifetime: Duration, body: Body) -> Entry {
        let wall = self.wall(now);
        // Even if the clock was set back, what is said later holds.
        self.sequence = wall.as_millis().max(self.sequence + 1);
        self.author.sign(key, self.sequence, wall + lifetime, body)
    }

    /// That this node has something: where its content belongs, and where each of its words.
    fn claims(&mut self, now: Instant, content: Id, name: &str) -> Vec<Entry> {
        let lifetime = self.config.provide_for;
        let mut entries = vec![self.sign(now, content, lifetime, Body::Provider)];
        for keyword in keywords_of(name) {
            let body = Body::Posting { content, name: name.into() };
            entries.push(self.sign(now, keyword_key(&keyword), lifetime, body));
        }
        entries
    }

    /// Stores again what is due, as far as there are lookups for it.
    pub(super) fn publish_again(&mut self, now: Instant, rng: &mut dyn RngCore, out: &mut DhtOut<O>) {
        let wall = self.wall(now);
        self.published.values.retain(|_, value| value.entry.expires > wall);
        let due = self.published.values.iter().filter(|(_, value)| value.again_at <= now);
        let due: Vec<(Id, Entry)> = due.map(|(key, value)| (*key, value.entry.clone())).collect();
        for (key, entry) in due {
            if !self.has_room_in_background() {
                return self.upkeep.fall_behind();
            }
            if let Some(value) = self.published.values.get_mut(&key) {
                value.again_at = now + self.config.republish_every;
            }
            self.start_part(now, rng, None, key, Job::Store(vec![entry]), out);
        }
        let due = self.published.provided.iter().filter(|(_, provided)| provided.again_at <= now);
        let due: Vec<(Id, String)> = due.map(|(key, provided)| (*key, provided.name.clone())).collect();
        for (content, name) in due {
            if !self.has_room_in_background() {
                return self.upkeep.fall_behind();
            }
            if let Some(provided) = self.published.provided.get_mut(&content) {
                provided.again_at = now + self.config.provide_for / 2;
            }
            for entry in self.claims(now, content, &name) {
                self.start_part(now, rng, None, entry.key, Job::Store(vec![entry]), out);
            }
        }
    }
}

impl<O: Overlay> Content for Dht<O> {
    fn set_clock(&mut self, now: Instant, wall: WallTime) {
        self.clock = (now, wall);
    }

    fn store(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        key: Id,
        value: Vec<u8>,
        lifetime: Duration,
        out: &mut DhtOut<O>,
    ) -> Result<OperationId, ContentError> {
        if value.len() > VALUE_BYTES_MAX {
            return Err(Unsound::TooLarge.into());
        }
        if lifetime > LIFETIME_MAX {
            return Err(Unsound::TooLong.into());
        }
        let is_new = !self.published.values.contains_key(&key);
        if is_new && self.published.values.len() >= PUBLISHED_MAX {
            return Err(ContentError::TooMany { limit: PUBLISHED_MAX });
        }
        self.may_begin()?;
        let entry = self.sign(now, key, lifetime, Body::Value(value));
        let again_at = now + self.config.republish_every;
        // Before it begins, which may end it: what fails at once is to be stored again soon.
        self.published.values.insert(key, Value { entry: entry.clone(), again_at });
        self.begin(now, rng, What::Store, vec![(key, Job::Store(vec![entry]))], out)
    }

    fn fetch(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        key: Id,
        out: &mut DhtOut<O>,
    ) -> Result<OperationId, ContentError> {
        self.begin(now, rng, What::Fetch, vec![(key, Job::read(Class::Value))], out)
    }

    fn provide(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        offered: Offered,
        out: &mut DhtOut<O>,
    ) -> Result<OperationId, ContentError> {
        let Offered { content, name } = offered;
        if name.len() > NAME_BYTES_MAX {
            return Err(Unsound::TooLarge.into());
        }
        let is_new = !self.published.provided.contains_key(&content);
        if is_new && self.published.provided.len() >= PUBLISHED_MAX {
            return Err(ContentError::TooMany { limit: PUBLISHED_MAX });
        }
        self.may_begin()?;
        let entries = self.claims(now, content, &name);
        let parts = entries.into_iter().map(|entry| (entry.key, Job::Store(vec![entry]))).collect();
        let again_at = now + self.config.provide_for / 2;
        // As in `store`.
        self.published.provided.insert(content, Provided { name, again_at });
        self.begin(now, rng, What::Store, parts, out)
    }

    fn stop_providing(&mut self, content: Id) -> bool {
        self.published.provided.remove(&content).is_some()
    }

    fn providers(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        content: Id,
        out: &mut DhtOut<O>,
    ) -> Result<OperationId, ContentError> {
        self.begin(now, rng, What::Providers, vec![(content, Job::read(Class::Provider))], out)
    }

    fn search(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        words: &str,
        out: &mut DhtOut<O>,
    ) -> Result<OperationId, ContentError> {
        let keywords = keywords_of(words);
        if keywords.is_empty() {
            return Err(ContentError::NoKeyword);
        }
        let parts = keywords.iter().map(|word| (keyword_key(word), Job::read(Class::Posting))).collect();
        self.begin(now, rng, What::Search, parts, out)
    }

    fn take_shelf(&mut self) -> Shelf {
        Shelf { kept: self.cellar.take_all(), published: std::mem::take(&mut self.published) }
    }

    fn put_shelf(&mut self, now: Instant, shelf: Shelf) {
        let wall = self.wall(now);
        for entry in shelf.kept.into_iter().filter(|entry| entry.expires > wall) {
            // It fitted before, under the same limits.
            let _ = self.cellar.put(entry, None);
        }
        self.published = shelf.published;
    }

    fn kept(&self) -> Kept {
        self.cellar.kept()
    }
}
