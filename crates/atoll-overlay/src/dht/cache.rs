//! Copies of what is much asked for, at nodes that are not responsible for it: Kademlia's caching
//! along the path (Maymounkov and Mazières 2002, section 2.3). Knows no messages.
//!
//! ```text
//! fetch      each question of the lookup also asks for what is kept under the key; two answers
//!            that have something end it. Then the nearest node that was asked and had nothing
//!            is given a copy
//! ```
//!
//! A copy is gone the sooner, the farther its node is from the key, so that what is hot is soon
//! everywhere and what is not is nowhere for long: "exponentially inversely proportional to the
//! number of nodes between". A copy is what was newest when it was made; how stale it may get is
//! `cache_for`, which is off unless somebody sets it.

use std::{collections::BTreeMap, time::Duration};

use atoll_types::{Instant, WallTime};

use crate::{Entry, Id, entry::Class};

/// Keys of which a node has copies, and bytes of these: some 90 of the largest answers. The
/// first to expire goes first.
pub(super) const CACHED_KEYS_MAX: usize = 256;
pub(super) const CACHED_BYTES_MAX: usize = 4 << 20;

#[derive(Debug, Clone, Default)]
pub(super) struct Cache {
    copies: BTreeMap<(Id, Class), Copies>,
    bytes: usize,
}

#[derive(Debug, Clone)]
struct Copies {
    entries: Vec<Entry>,
    until: Instant,
}

impl Cache {
    /// Takes copies of entries that were checked, all of one key and class, in place of those
    /// that there were.
    pub(super) fn put(&mut self, key: Id, class: Class, entries: Vec<Entry>, until: Instant) {
        let bytes: usize = entries.iter().map(Entry::bytes).sum();
        if entries.is_empty() || bytes > CACHED_BYTES_MAX {
            return;
        }
        self.remove((key, class));
        while self.copies.len() >= CACHED_KEYS_MAX || self.bytes + bytes > CACHED_BYTES_MAX {
            let first = self.copies.iter().min_by_key(|(_, copies)| copies.until);
            let Some(first) = first.map(|(place, _)| *place) else { break };
            self.remove(first);
        }
        self.bytes += bytes;
        self.copies.insert((key, class), Copies { entries, until });
    }

    fn remove(&mut self, place: (Id, Class)) {
        if let Some(gone) = self.copies.remove(&place) {
            self.bytes -= gone.entries.iter().map(Entry::bytes).sum::<usize>();
        }
    }

    pub(super) fn get(&self, now: Instant, wall: WallTime, key: Id, class: Class) -> Vec<Entry> {
        let copies = self.copies.get(&(key, class)).filter(|copies| copies.until > now);
        let entries = copies.into_iter().flat_map(|copies| &copies.entries);
        entries.filter(|entry| entry.expires > wall).cloned().collect()
    }

    pub(super) fn forget_expired(&mut self, now: Instant) {
        let expired = self.copies.iter().filter(|(_, copies)| copies.until <= now);
        let expired: Vec<(Id, Class)> = expired.map(|(place, _)| *place).collect();
        expired.into_iter().for_each(|place| self.remove(place));
    }

    pub(super) fn len(&self) -> usize {
        self.copies.len()
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.bytes + self.copies.len() * size_of::<((Id, Class), Copies)>()
    }
}

/// For how long a node keeps a copy. `neighbours` are its nearest ones' distances to itself, the
/// farthest of them tells how dense nodes are here. With as many nodes between it and the key it
/// is the whole time; with each doubling of them half of it.
pub(super) fn copied_for(cache_for: Duration, to_key: Id, farthest_neighbour: Option<Id>) -> Duration {
    let Some(farthest) = farthest_neighbour else { return cache_for };
    let doublings = farthest.leading_zeros().saturating_sub(to_key.leading_zeros());
    let parts = u32::try_from(doublings).ok().and_then(|doublings| 1_u32.checked_shl(doublings));
    cache_for / parts.unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AuthorKey, Body};

    const WALL: WallTime = WallTime::from_millis(1_800_000_000_000);

    fn entry(number: u32, bytes: usize) -> Entry {
        let key = Id::of(&number.to_be_bytes());
        AuthorKey::from_seed([1; 32]).sign(
            key,
            1,
            WALL + Duration::from_secs(600),
            Body::Value(vec![1; bytes]),
        )
    }

    fn put(cache: &mut Cache, number: u32, bytes: usize, seconds: u64) {
        let entry = entry(number, bytes);
        let until = Instant::ORIGIN + Duration::from_secs(seconds);
        cache.put(entry.key, Class::Value, vec![entry], until);
    }

    #[test]
    fn copies_have_limits_and_the_first_to_expire_goes_first() {
        let mut cache = Cache::default();
        for number in 0..1000 {
            put(&mut cache, number, 10, 1000 - u64::from(number) % 7);
        }
        assert_eq!(cache.len(), CACHED_KEYS_MAX);
        for number in 0..3000 {
            put(&mut cache, number, 4000, 2000);
        }
        assert!(cache.bytes <= CACHED_BYTES_MAX && cache.len() <= CACHED_KEYS_MAX);
        cache.forget_expired(Instant::ORIGIN + Duration::from_secs(2000));
        assert_eq!((cache.len(), cache.bytes), (0, 0));
    }

    #[test]
    fn a_copy_is_told_until_its_time_or_its_authors_is_over() {
        let mut cache = Cache::default();
        put(&mut cache, 1, 10, 60);
        let at = |seconds| Instant::ORIGIN + Duration::from_secs(seconds);
        let key = entry(1, 10).key;
        assert_eq!(cache.get(at(59), WALL, key, Class::Value).len(), 1);
        assert!(cache.get(at(60), WALL, key, Class::Value).is_empty());
        assert!(cache.get(at(1), WALL, key, Class::Posting).is_empty());
        assert!(cache.get(at(1), WALL + Duration::from_secs(600), key, Class::Value).is_empty());
    }

    #[test]
    fn a_copy_lasts_half_as_long_with_each_doubling_of_the_distance() {
        let minute = Duration::from_secs(60);
        let at = |bits: u32| Some(Id::from_halves(1 << (127 - bits), 0));
        let lasts =
            |key: u32, farthest: u32| copied_for(minute, at(key).expect("one"), at(farthest)).as_millis();
        assert_eq!([10, 5, 4, 3].map(|key| lasts(key, 5)), [60_000, 60_000, 30_000, 15_000]);
        assert_eq!(copied_for(minute, at(0).expect("one"), None), minute);
        assert!(lasts(0, 120) == 0);
    }
}
