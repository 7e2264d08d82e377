//! The table of all super-peers, which each of them has. Knows no messages and no nodes but by
//! what is reported of them.

use std::time::Duration;

use atoll_types::Instant;

use super::message::{RANGES, Report};
use crate::{Contact, Id};

/// Super-peers of one network. In the simulator a place takes 8 bytes: 32 KiB, half of what a node
/// may have. With 732 leaves each they serve a million nodes, attached to three.
pub(super) const SUPERS_MAX: usize = 4096;
/// Super-peers that are gone and remembered, so that nobody who has not heard of it brings them
/// back. When more go than that in ten minutes, comparing tables may bring one back for a while.
const GONE_MAX: usize = 256;
/// Longer than two tables stay different.
const GONE_FOR: Duration = Duration::from_secs(600);
/// As many super-peers for a key as may keep what is under it, and one more.
const KEPT_BY: usize = 21;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Centre<C> {
    /// Sorted by id, with their incarnations.
    up: Vec<(C, u32)>,
    /// The oldest first, and since when.
    gone: Vec<(C, u32, Instant)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    Nothing,
    /// It is new.
    Up,
    /// It was there, and has shown so.
    Again,
    Gone,
}

impl<C: Contact> Centre<C> {
    pub(super) fn new(me: C, incarnation: u32) -> Self {
        Self { up: vec![(me, incarnation)], gone: Vec::new() }
    }

    /// All of them, sorted by id.
    pub(super) fn of(sorted: &[C]) -> Self {
        Self { up: sorted.iter().map(|contact| (contact.clone(), 0)).collect(), gone: Vec::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.up.len()
    }

    pub(super) fn all(&self) -> impl Iterator<Item = &C> {
        self.up.iter().map(|(contact, _)| contact)
    }

    fn place(&self, id: Id) -> Result<usize, usize> {
        self.up.binary_search_by_key(&id, |(contact, _)| contact.id())
    }

    pub(super) fn has(&self, contact: &C) -> bool {
        self.place(contact.id()).is_ok()
    }

    /// What is known of one; nothing if nobody reported it lately.
    pub(super) fn report(&self, contact: &C) -> Option<Report<C>> {
        let report = |incarnation, is_up| Report { contact: contact.clone(), incarnation, is_up };
        match self.place(contact.id()) {
            Ok(place) => Some(report(self.up[place].1, true)),
            Err(_) => {
                let gone = self.gone.iter().find(|(gone, ..)| gone == contact);
                gone.map(|(_, incarnation, _)| report(*incarnation, false))
            }
        }
    }

    /// Believes a report if it is the newest.
    pub(super) fn apply(&mut self, report: &Report<C>, now: Instant) -> Change {
        let Report { contact, incarnation, is_up } = report;
        let gone = self.gone.iter().position(|(gone, ..)| gone == contact);
        match (self.place(contact.id()), is_up) {
            (Ok(place), true) if self.up[place].1 < *incarnation => {
                self.up[place].1 = *incarnation;
                Change::Again
            }
            (Ok(place), false) if self.up[place].1 <= *incarnation => {
                self.up.remove(place);
                self.remember_gone(contact.clone(), *incarnation, now);
                Change::Gone
            }
            (Err(place), true) if self.up.len() < SUPERS_MAX => match gone {
                Some(gone) if self.gone[gone].1 >= *incarnation => Change::Nothing,
                gone => {
                    gone.map(|gone| self.gone.remove(gone));
                    self.up.insert(place, (contact.clone(), *incarnation));
                    Change::Up
                }
            },
            (Err(_), false) => {
                if let Some(gone) = gone {
                    self.gone[gone].1 = self.gone[gone].1.max(*incarnation);
                }
                Change::Nothing
            }
            _ => Change::Nothing,
        }
    }

    fn remember_gone(&mut self, contact: C, incarnation: u32, now: Instant) {
        if self.gone.len() >= GONE_MAX {
            self.gone.remove(0);
        }
        self.gone.push((contact, incarnation, now));
    }

    pub(super) fn forget_gone(&mut self, now: Instant) {
        self.gone.retain(|(.., at)| *at + GONE_FOR > now);
        if self.gone.is_empty() {
            self.gone = Vec::new();
        }
    }

    /// The nearest to a key by XOR, the nearest first, without the first `skip`.
    pub(super) fn nearest(&self, key: Id, skip: usize, count: usize) -> Vec<C> {
        let mut found = Vec::new();
        nearest_of(&self.up, &|(contact, _)| contact.id(), key, skip + count, &mut found);
        found.into_iter().skip(skip).take(count).map(|(contact, _)| contact.clone()).collect()
    }

    /// Whether `other` coming or going may change who keeps a key that is `me`'s: not if the keys
    /// on its side have enough others there, or this node's enough others nearer to it.
    pub(super) fn matters(&self, me: Id, other: Id) -> bool {
        let common = me.xor(other).leading_zeros();
        let with_first_bits = |bits: usize| {
            let first = me.first_bits(bits);
            let start = self.up.partition_point(|(contact, _)| contact.id().first_bits(bits) < first);
            let end = self.up.partition_point(|(contact, _)| contact.id().first_bits(bits) <= first);
            end - start
        };
        let nearer = with_first_bits((common + 1).min(Id::BITS));
        let on_its_side = with_first_bits(common) - nearer;
        on_its_side <= KEPT_BY || nearer <= KEPT_BY
    }

    /// The one so many places further in the order of ids, round and round; none if `me` is not
    /// there or alone.
    pub(super) fn further(&self, me: Id, places: usize) -> Option<&C> {
        let place = self.place(me).ok()?;
        let further = &self.up[(place + places) % self.up.len()].0;
        (further.id() != me).then_some(further)
    }

    /// The first one behind an id in the order of ids, round and round.
    pub(super) fn after(&self, id: Id) -> Option<&C> {
        let place = self.up.partition_point(|(contact, _)| contact.id() <= id);
        self.up.get(place).or(self.up.first()).map(|(contact, _)| contact)
    }

    /// Equal for equal tables.
    pub(super) fn digest(&self) -> u64 {
        self.up.iter().fold(0, |digest, entry| digest ^ mixed(entry))
    }

    /// The same for each range.
    pub(super) fn digests(&self) -> Vec<u32> {
        let mut digests = vec![0; RANGES];
        for entry in &self.up {
            digests[range_of(&entry.0)] ^= mixed(entry) as u32;
        }
        digests
    }

    /// What is known in the ranges where another's digests differ, beginning with a range that was
    /// drawn: what does not fit comes another time. That somebody is gone goes first.
    pub(super) fn differing(&self, theirs: &[u32], first: usize, count: usize) -> Vec<Report<C>> {
        let differs: Vec<bool> =
            self.digests().iter().enumerate().map(|(range, own)| theirs.get(range) != Some(own)).collect();
        let gone = self.gone.iter().filter(|(contact, ..)| differs[range_of(contact)]);
        let gone = gone.map(|(contact, incarnation, _)| (contact, *incarnation, false));
        // The ranges lie one after the other.
        let start = self.up.partition_point(|(contact, _)| range_of(contact) < first % RANGES);
        let up = self.up[start..].iter().chain(&self.up[..start]);
        let up = up.filter(|(contact, _)| differs[range_of(contact)]);
        let up = up.map(|(contact, incarnation)| (contact, *incarnation, true));
        let report = |(contact, incarnation, is_up): (&C, u32, bool)| Report {
            contact: contact.clone(),
            incarnation,
            is_up,
        };
        gone.take(count / 4).chain(up).take(count).map(report).collect()
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.up.capacity() * size_of::<(C, u32)>() + self.gone.capacity() * size_of::<(C, u32, Instant)>()
    }
}

const _: () = assert!(RANGES == 64);

fn range_of<C: Contact>(contact: &C) -> usize {
    let first: [u8; 32] = contact.id().into();
    usize::from(first[0] >> 2)
}

/// Spread like a hash. Who makes two tables look alike has hidden a difference until the next
/// change, and no more.
fn mixed<C: Contact>((contact, incarnation): &(C, u32)) -> u64 {
    let word = word_of(contact.id()) ^ u64::from(*incarnation);
    let word = (word ^ word >> 32 ^ 0x5555).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    word ^ word >> 32
}

/// Both ends of an id, to tell it from others.
pub(super) fn word_of(id: Id) -> u64 {
    let id: [u8; 32] = id.into();
    let ends = id.first_chunk().zip(id.last_chunk()).expect("32 bytes");
    u64::from_be_bytes(*ends.0) ^ u64::from_be_bytes(*ends.1).rotate_left(32)
}

/// The `wanted` nearest to the key by XOR among what is sorted by id, the nearest first; a few
/// more may follow. Those that have a bit in common with the key are nearer than those that do not,
/// and stand together: so it is a way down, not a look at all.
pub(super) fn nearest_of<'a, T>(
    sorted: &'a [T],
    id: &impl Fn(&T) -> Id,
    key: Id,
    wanted: usize,
    found: &mut Vec<&'a T>,
) {
    if found.len() >= wanted {
        return;
    }
    let [first, .., last] = sorted else { return found.extend(sorted) };
    let parts = id(first).xor(id(last)).leading_zeros();
    if sorted.len() <= 4 || parts == Id::BITS {
        let mut all: Vec<&T> = sorted.iter().collect();
        all.sort_by_key(|one| id(one).xor(key));
        return found.extend(all);
    }
    let (zeros, ones) = sorted.split_at(sorted.partition_point(|one| id(one).digit(parts, 1) == 0));
    let (near, far) = if key.digit(parts, 1) == 0 { (zeros, ones) } else { (ones, zeros) };
    nearest_of(near, id, key, wanted, found);
    nearest_of(far, id, key, wanted, found);
}
