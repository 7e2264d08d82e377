//! What a Kademlia node knows of others: its k-buckets and replacement caches. Knows no messages
//! and no time.
//!
//! Section 2.2's buckets, one for each bit of the distance; with `bits_per_step` b > 1 each is
//! split into 2^(b−1) as in section 4.2, so that each step of a lookup settles b bits.
//!
//! Buckets are numbered from the farthest on, and all contacts lie in one vector in the order
//! of their buckets: a million nodes have some twenty buckets each, and twenty vectors would
//! cost more than what is in them.

use std::ops::Range;

use atoll_types::Instant;

use crate::{Contact, Id};

/// The largest k that may be set. Lengths of buckets are kept in a byte.
pub(super) const K_MAX: usize = 64;
/// Contacts waiting for a place in one bucket (section 4.1's replacement cache). Each stands
/// ready for one that fails; more only matter if more fail between two times that it is filled,
/// which happens with every message from a stranger.
const SPARES_MAX: usize = 8;
/// Questions in a row that a contact leaves without an answer before it loses its place. The
/// paper's 5 are for datagrams that are sent once; ours are repeated.
const FAILURES_MAX: u8 = 2;

/// Of k contacts of a bucket, one in so many was met otherwise than by refreshing it. Found by
/// measuring networks that grew; a test in `atoll-lab` compares. With contacts from anywhere in
/// the range only, lookups would take half a hop less than they do.
const MET_OTHERWISE: usize = 6;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tables<C> {
    pub(super) me: C,
    /// k and b of the settings.
    k: usize,
    bits: usize,
    contacts_max: usize,
    /// Bucket by bucket; within one the least recently seen first (section 2.2). Never `me`,
    /// none twice, none that has not spoken to this node.
    contacts: Vec<C>,
    /// Bucket by bucket; the most recently seen last.
    spares: Vec<C>,
    /// Contacts that left questions unanswered, and how many in a row.
    suspects: Vec<(C, u8)>,
    /// Up to the nearest one that ever had a contact.
    buckets: Vec<Bucket>,
    /// Counts changes that may move the border of what this node is responsible for.
    neighbourhood: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Bucket {
    /// When nobody will have been looked up in its range for too long.
    refresh_at: Instant,
    contacts: u8,
    spares: u8,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Seen<C> {
    /// It has a place, or it is this node.
    Known,
    Added,
    /// All places are taken; it waits. The one that was not seen for the longest time.
    Full {
        oldest: C,
    },
}

impl<C: Contact> Tables<C> {
    pub(super) fn new(me: C, k: usize, bits: usize, contacts_max: usize) -> Self {
        let (contacts, spares, suspects, buckets) = Default::default();
        Self { me, k, bits, contacts_max, contacts, spares, suspects, buckets, neighbourhood: 0 }
    }

    /// Fills them: each bucket gets k nodes of its range, or all if there are no more. Most stand
    /// side by side, for a bucket is filled by looking up one point in its range, and that ends with the
    /// k nearest to the point; and a few from anywhere in it, met on other ways. `ring` is sorted
    /// by id, has `me` in it, and no id twice.
    pub(super) fn converge(
        &mut self,
        ring: &[(Id, C)],
        mut draw: impl FnMut(usize) -> usize,
        refresh_at: Instant,
    ) {
        let (k, bits) = (self.k, self.bits);
        let my_id = self.me.id();
        // Those who have all digits so far in common with this node.
        let mut near = ring;
        for place in 0..Id::BITS / bits {
            if near.len() <= 1 {
                break;
            }
            let my_digit = my_id.digit(place, bits);
            let starts = |digit: usize| near.partition_point(|(id, _)| id.digit(place, bits) < digit);
            for distance in (1..1 << bits).rev() {
                let digit = my_digit ^ distance;
                let range = &near[starts(digit)..starts(digit + 1)];
                let k = k.min(self.contacts_max - self.contacts.len());
                let mut taken: Vec<usize> = Vec::with_capacity(k);
                if range.len() <= k {
                    taken.extend(0..range.len());
                } else {
                    let count = k.saturating_sub((k / MET_OTHERWISE).max(1));
                    let first = draw(range.len() - count);
                    taken.extend(first..first + count);
                    while taken.len() < k {
                        let one = draw(range.len());
                        if !taken.contains(&one) {
                            taken.push(one);
                        }
                    }
                }
                self.contacts.extend(taken.iter().map(|one| range[*one].1.clone()));
                let contacts = u8::try_from(taken.len()).expect("at most K_MAX");
                self.buckets.push(Bucket { refresh_at, contacts, spares: 0 });
            }
            near = &near[starts(my_digit)..starts(my_digit + 1)];
        }
        while self.buckets.last().is_some_and(|bucket| bucket.contacts == 0) {
            self.buckets.pop();
        }
        self.contacts.shrink_to_fit();
        self.buckets.shrink_to_fit();
    }

    /// The bucket that an id belongs in; none for this node's own.
    fn bucket_of(&self, id: Id) -> Option<usize> {
        let distance = self.me.id().xor(id);
        let zeros = distance.leading_zeros();
        if zeros == Id::BITS {
            return None;
        }
        let place = zeros / self.bits;
        let digits = (1 << self.bits) - 1;
        Some(place * digits + digits - distance.digit(place, self.bits))
    }

    /// The digits that all distances to contacts of a bucket begin with, then zeros; and how
    /// many bits these are.
    fn prefix(&self, bucket: usize) -> (Id, usize) {
        let digits = (1 << self.bits) - 1;
        let (place, digit) = (bucket / digits, digits - bucket % digits);
        (Id::from_digit(digit, place, self.bits), (place + 1) * self.bits)
    }

    /// A point in a bucket's range, from a random one.
    pub(super) fn within(&self, bucket: usize, random: Id) -> Id {
        let (prefix, bits) = self.prefix(bucket);
        let rest = random.xor(random.first_bits(bits));
        self.me.id().xor(prefix).xor(rest)
    }

    fn contacts_range(&self, bucket: usize) -> Range<usize> {
        let start = self.buckets[..bucket].iter().map(|bucket| usize::from(bucket.contacts)).sum();
        start..start + usize::from(self.buckets[bucket].contacts)
    }

    fn spares_range(&self, bucket: usize) -> Range<usize> {
        let start = self.buckets[..bucket].iter().map(|bucket| usize::from(bucket.spares)).sum();
        start..start + usize::from(self.buckets[bucket].spares)
    }

    pub(super) fn neighbourhood(&self) -> u32 {
        self.neighbourhood
    }

    /// A bucket that is about to lose or to gain a contact. One that is full has enough nodes
    /// for any key in its range; and if the nearer ones have enough for all other keys that are
    /// this node's, nothing changes here.
    fn changes(&mut self, bucket: usize) {
        let nearer = self.contacts.len() - self.contacts_range(bucket).end;
        if usize::from(self.buckets[bucket].contacts) < self.k || nearer < self.k {
            self.neighbourhood = self.neighbourhood.wrapping_add(1);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.contacts.is_empty()
    }

    /// Each bucket's contacts, the farthest bucket first.
    pub(super) fn buckets(&self) -> impl Iterator<Item = &[C]> {
        (0..self.buckets.len()).map(|bucket| &self.contacts[self.contacts_range(bucket)])
    }

    /// The rules of section 2.2 for a message from somebody: a known contact moves to the end of
    /// its bucket; a new one takes a free place; if there is none, it waits while somebody looks
    /// whether the oldest is still there.
    pub(super) fn seen(&mut self, contact: C, refresh_at: Instant) -> Seen<C> {
        let Some(bucket) = self.bucket_of(contact.id()) else { return Seen::Known };
        if bucket >= self.buckets.len() {
            let empty = Bucket { refresh_at, contacts: 0, spares: 0 };
            self.buckets.reserve_exact(bucket + 1 - self.buckets.len());
            self.buckets.resize(bucket + 1, empty);
        }
        let range = self.contacts_range(bucket);
        if let Some(place) = self.contacts[range.clone()].iter().position(|other| *other == contact) {
            self.contacts[range][place..].rotate_left(1);
            self.suspects.retain(|(suspect, _)| *suspect != contact);
            return Seen::Known;
        }
        self.remove_spare(bucket, &contact);
        if range.len() < self.k && self.contacts.len() < self.contacts_max {
            self.insert(bucket, contact);
            return Seen::Added;
        }
        if range.is_empty() {
            // Nobody's place could become its.
            return Seen::Known;
        }
        let oldest = self.contacts[range.start].clone();
        let spares = self.spares_range(bucket);
        if spares.len() == SPARES_MAX.min(self.k) {
            self.spares.remove(spares.start);
            self.buckets[bucket].spares -= 1;
        }
        if self.spares.len() == self.spares.capacity() {
            self.spares.reserve_exact(SPARES_MAX);
        }
        self.spares.insert(self.spares_range(bucket).end, contact);
        self.buckets[bucket].spares += 1;
        Seen::Full { oldest }
    }

    /// As the most recently seen of a bucket that has room.
    fn insert(&mut self, bucket: usize, contact: C) {
        if self.contacts.len() == self.contacts.capacity() {
            // Not twice as much: the table is the node.
            self.contacts.reserve_exact(self.k.min(16));
        }
        self.changes(bucket);
        self.contacts.insert(self.contacts_range(bucket).end, contact);
        self.buckets[bucket].contacts += 1;
    }

    fn remove_spare(&mut self, bucket: usize, contact: &C) {
        let range = self.spares_range(bucket);
        if let Some(place) = self.spares[range.clone()].iter().position(|other| other == contact) {
            self.spares.remove(range.start + place);
            self.buckets[bucket].spares -= 1;
        }
    }

    /// A contact left a question without an answer. The second time in a row somebody who waits
    /// takes its place, and is given back; if nobody does, the place is free.
    pub(super) fn failed(&mut self, contact: &C) -> Option<C> {
        let failures = match self.suspects.iter().position(|(suspect, _)| suspect == contact) {
            Some(place) => {
                self.suspects[place].1 += 1;
                self.suspects[place].1
            }
            None if self.has(contact) => {
                self.suspects.push((contact.clone(), 1));
                1
            }
            None => 0,
        };
        if failures >= FAILURES_MAX { self.forget(contact) } else { None }
    }

    fn has(&self, contact: &C) -> bool {
        self.bucket_of(contact.id())
            .filter(|bucket| *bucket < self.buckets.len())
            .is_some_and(|bucket| self.contacts[self.contacts_range(bucket)].contains(contact))
    }

    /// Nobody is there any more. Gives back who has taken its place.
    pub(super) fn forget(&mut self, contact: &C) -> Option<C> {
        self.suspects.retain(|(suspect, _)| suspect != contact);
        let bucket = self.bucket_of(contact.id()).filter(|bucket| *bucket < self.buckets.len())?;
        self.remove_spare(bucket, contact);
        let range = self.contacts_range(bucket);
        let place = self.contacts[range.clone()].iter().position(|other| other == contact)?;
        self.contacts.remove(range.start + place);
        self.buckets[bucket].contacts -= 1;
        self.changes(bucket);
        let spares = self.spares_range(bucket);
        if spares.is_empty() {
            return None;
        }
        let spare = self.spares.remove(spares.end - 1);
        self.buckets[bucket].spares -= 1;
        self.insert(bucket, spare.clone());
        // It was seen some time ago, and the next silence is one too many.
        self.suspects.push((spare.clone(), FAILURES_MAX - 1));
        Some(spare)
    }

    /// The contacts nearest to a key, the nearest first, at most `count`. Suspects only if they
    /// are wanted, or if there is nobody else: when a node's own connection was cut, everybody
    /// looks dead.
    pub(super) fn closest(&self, key: Id, count: usize, suspects_too: bool) -> Vec<C> {
        let target = self.me.id().xor(key);
        // A bucket's range is a subtree, so the order of the buckets' nearest points is that of
        // all their points.
        let mut start = 0;
        let mut order: Vec<(Id, Range<usize>)> = Vec::with_capacity(self.buckets.len());
        for (index, bucket) in self.buckets.iter().enumerate() {
            let range = start..start + usize::from(bucket.contacts);
            start = range.end;
            if !range.is_empty() {
                let (prefix, bits) = self.prefix(index);
                order.push((prefix.xor(target).first_bits(bits), range));
            }
        }
        order.sort_unstable_by_key(|(nearest, _)| *nearest);
        let mut found: Vec<(Id, C)> = Vec::with_capacity(count + self.k);
        for (_, range) in order {
            if found.len() >= count {
                break;
            }
            for contact in &self.contacts[range] {
                if suspects_too || !self.suspects.iter().any(|(suspect, _)| suspect == contact) {
                    found.push((contact.id().xor(key), contact.clone()));
                }
            }
        }
        if found.is_empty() && !suspects_too && !self.is_empty() {
            return self.closest(key, count, true);
        }
        found.sort_unstable();
        found.into_iter().take(count).map(|(_, contact)| contact).collect()
    }

    /// The nearest nodes to a key, this one among them if it is one.
    pub(super) fn responsible(&self, key: Id, count: usize) -> Vec<C> {
        let mut nearest = self.closest(key, count, false);
        let distance = self.me.id().xor(key);
        let place = nearest.partition_point(|contact| contact.id().xor(key) < distance);
        nearest.insert(place, self.me.clone());
        nearest.truncate(count);
        nearest
    }

    /// Somebody is looked up in the range that a key lies in.
    pub(super) fn touch(&mut self, key: Id, refresh_at: Instant) {
        let bucket = self.bucket_of(key).and_then(|bucket| self.buckets.get_mut(bucket));
        if let Some(bucket) = bucket {
            bucket.refresh_at = refresh_at;
        }
    }

    /// The bucket whose turn it is first, and when.
    pub(super) fn refresh_next(&self) -> Option<(Instant, usize)> {
        self.buckets.iter().enumerate().map(|(index, bucket)| (bucket.refresh_at, index)).min()
    }

    pub(super) fn set_refresh(&mut self, bucket: usize, refresh_at: Instant) {
        self.buckets[bucket].refresh_at = refresh_at;
    }

    pub(super) fn buckets_len(&self) -> usize {
        self.buckets.len()
    }

    pub(super) fn heap_bytes(&self) -> usize {
        (self.contacts.capacity() + self.spares.capacity()) * size_of::<C>()
            + self.suspects.capacity() * size_of::<(C, u8)>()
            + self.buckets.capacity() * size_of::<Bucket>()
    }
}
