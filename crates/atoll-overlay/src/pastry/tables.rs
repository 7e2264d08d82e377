//! What a Pastry node knows of others: leaf set, routing table, neighbourhood set (section 2.2).
//! Knows no messages and no time.

use std::collections::BTreeSet;

use crate::{Contact, Id};

/// Whom a lookup may go on to, the best first. With half of all nodes dead at once one step in
/// 256 finds them all dead.
pub(super) const NEXT_MAX: usize = 8;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tables<C> {
    pub(super) me: C,
    /// b of the settings.
    bits: usize,
    /// Half of |L|, and |M|.
    each: usize,
    neighbours_max: usize,
    /// The leaf set: the nodes before and after this one on the ring, the nearest first.
    pub(super) smaller: Vec<C>,
    pub(super) larger: Vec<C>,
    /// Row by row: at `row · 2^b + digit` a node that has `row` digits in common with this one
    /// and then that digit. Up to the last row that ever had one.
    table: Vec<Option<Near<C>>>,
    /// The neighbourhood set, the nearest first.
    neighbours: Vec<Near<C>>,
    /// Counts changes of the leaf set.
    pub(super) neighbourhood: u32,
}

/// A contact and how far it is: a round trip, in microseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Near<C> {
    contact: C,
    round_trip: u32,
}

/// Of a contact that has spoken, but was not asked yet.
pub(super) const FAR: u32 = u32::MAX;

/// How far a node is from a key on the ring, the shorter way round; of two at the same distance
/// the one with the smaller identifier is nearer (section 2.3: the numerically closest).
pub(super) fn distance(key: Id, id: Id) -> (Id, Id) {
    (key.clockwise_from(id).min(id.clockwise_from(key)), id)
}

impl<C: Contact> Tables<C> {
    pub(super) fn new(me: C, bits: usize, each: usize, neighbours_max: usize) -> Self {
        let (smaller, larger, table, neighbours) = Default::default();
        Self { me, bits, each, neighbours_max, smaller, larger, table, neighbours, neighbourhood: 0 }
    }

    /// The tables of a node in a network that has come to rest: the leaf set is what it should
    /// be, each place of the table has the nearest of `samples` nodes drawn for it, and the
    /// neighbourhood set those of all that were drawn. `ring` is sorted by id, has `me` in it,
    /// and no id twice.
    pub(super) fn set_converged(
        &mut self,
        ring: &[(Id, C)],
        samples: usize,
        mut draw: impl FnMut(usize) -> usize,
        round_trip: impl Fn(&C) -> u32,
    ) {
        let me = self.me.id();
        let mine = ring.partition_point(|(id, _)| *id < me);
        let count = ring.len();
        let at = |offset: usize| ring[(mine + offset) % count].1.clone();
        self.larger = (1..count).take(self.each).map(at).collect();
        self.smaller = (1..count).take(self.each).map(|offset| at(count - offset)).collect();
        let bits = self.bits;
        let digits = 1 << bits;
        let mut near = ring;
        for row in 0..Id::BITS / bits {
            if near.len() <= 1 {
                break;
            }
            let start = |digit: usize| near.partition_point(|(id, _)| id.digit(row, bits) < digit);
            let my_digit = me.digit(row, bits);
            for digit in 0..digits {
                let range = if digit == my_digit { &[] } else { &near[start(digit)..start(digit + 1)] };
                // Side by side on the ring, which says nothing of where they are.
                let first = if range.len() <= samples { 0 } else { draw(range.len()) };
                let drawn = (0..samples.min(range.len())).map(|index| {
                    let contact = range[(first + index) % range.len()].1.clone();
                    Near { round_trip: round_trip(&contact), contact }
                });
                let nearest = drawn.min_by_key(|near| near.round_trip);
                if let Some(near) = &nearest {
                    self.offer_neighbour(&near.contact, near.round_trip);
                }
                self.table.push(nearest);
            }
            near = &near[start(my_digit)..start(my_digit + 1)];
        }
        self.table.shrink_to_fit();
        self.neighbours.shrink_to_fit();
    }

    fn digits(&self) -> usize {
        1 << self.bits
    }

    pub(super) fn rows(&self) -> usize {
        self.table.len() / self.digits()
    }

    /// The place in the table where a node belongs; none for this one.
    fn place(&self, id: Id) -> Option<usize> {
        let shared = self.me.id().xor(id).leading_zeros();
        let row = shared / self.bits;
        (shared < Id::BITS).then(|| row * self.digits() + id.digit(row, self.bits))
    }

    pub(super) fn leaves(&self) -> impl Iterator<Item = &C> {
        self.smaller.iter().chain(&self.larger)
    }

    pub(super) fn neighbours(&self) -> impl Iterator<Item = &C> {
        self.neighbours.iter().map(|near| &near.contact)
    }

    pub(super) fn row(&self, row: usize) -> impl Iterator<Item = &C> {
        let entries = self.table.iter().skip(row.saturating_mul(self.digits())).take(self.digits());
        entries.flatten().map(|near| &near.contact)
    }

    /// Everybody, nobody twice.
    pub(super) fn everybody(&self) -> BTreeSet<&C> {
        let table = self.table.iter().flatten().map(|near| &near.contact);
        self.leaves().chain(table).chain(self.neighbours()).collect()
    }

    /// Whether the leaf set reaches round the key (section 2.3, line 1 of the pseudo code).
    fn covers(&self, key: Id) -> bool {
        let me = self.me.id();
        // Fewer than half a leaf set are there at all.
        let (Some(first), Some(last)) = (self.smaller.last(), self.larger.last()) else { return true };
        if self.smaller.len() < self.each || self.larger.len() < self.each {
            return true;
        }
        let (first, last) = (first.id(), last.id());
        // The two halves meet on the other side of the ring.
        last.clockwise_from(me) >= first.clockwise_from(me)
            || key.clockwise_from(first) <= last.clockwise_from(first)
    }

    /// Figure 3's `route`, for all steps that could be taken, the best first; nobody, if the key
    /// is this node's own. `is_out`: who was tried already.
    pub(super) fn next(&self, key: Id, is_out: impl Fn(&C) -> bool) -> Vec<C> {
        let me = self.me.id();
        let mine = distance(key, me);
        if self.covers(key) {
            let nearer = self.leaves().filter(|leaf| !is_out(leaf));
            let mut nearer: Vec<((Id, Id), &C)> = nearer
                .map(|leaf| (distance(key, leaf.id()), leaf))
                .filter(|(leaf, _)| *leaf < mine)
                .collect();
            nearer.sort_unstable();
            nearer.dedup();
            return nearer.into_iter().take(NEXT_MAX).map(|(_, leaf)| leaf.clone()).collect();
        }
        let entry = self.place(key).and_then(|place| self.table.get(place)).and_then(Option::as_ref);
        let entry = entry.map(|near| &near.contact).filter(|contact| !is_out(contact));
        // The rare case: at least as many digits in common, and numerically nearer.
        let shared = |id: Id| key.xor(id).leading_zeros() / self.bits;
        let my_shared = shared(me);
        let is_nearer = |id: Id| shared(id) >= my_shared && distance(key, id) < mine;
        let others = self.everybody().into_iter().filter(|one| is_nearer(one.id()) && !is_out(one));
        let mut others: Vec<&C> = others.filter(|one| Some(*one) != entry).collect();
        others.sort_by_cached_key(|one| (std::cmp::Reverse(shared(one.id())), distance(key, one.id())));
        entry.into_iter().chain(others).take(NEXT_MAX).cloned().collect()
    }

    /// The numerically nearest of the leaf set and this node.
    pub(super) fn responsible(&self, key: Id, count: usize) -> Vec<C> {
        let mut nearest: Vec<&C> = self.leaves().chain([&self.me]).collect();
        if !self.covers(key) {
            // At least it is told on to somebody nearer.
            nearest.extend(self.everybody());
        }
        nearest.sort_by_cached_key(|one| distance(key, one.id()));
        nearest.dedup();
        nearest.into_iter().take(count).cloned().collect()
    }

    /// Whether somebody who was named is worth asking: it would get a place that is free, or one
    /// in the leaf set; with `nearer_too` also where somebody has the place who may be farther.
    pub(super) fn wants(&self, contact: &C, nearer_too: bool) -> bool {
        let Some(place) = self.place(contact.id()) else { return false };
        let holder = self.table.get(place).and_then(Option::as_ref).map(|near| &near.contact);
        let is_new_leaf = self.is_leaf(contact) && !self.leaves().any(|leaf| leaf == contact);
        is_new_leaf || holder.is_none() || (nearer_too && holder != Some(contact))
    }

    /// Leaves of this node that belong in the leaf set of another one, which named its own.
    pub(super) fn missing_in(&self, other: &C, named: &[C]) -> Vec<C> {
        let id = other.id();
        let missing = |leaf: &&C| {
            let is_nearest = |way: &dyn Fn(Id) -> Id| {
                let mine = way(leaf.id());
                named.iter().filter(|one| way(one.id()) < mine).count() < self.each
            };
            *leaf != other
                && !named.contains(leaf)
                && (is_nearest(&|leaf| leaf.clockwise_from(id))
                    || is_nearest(&|leaf| id.clockwise_from(leaf)))
        };
        self.leaves().filter(missing).cloned().collect()
    }

    /// Whether it belongs in the leaf set.
    fn is_leaf(&self, contact: &C) -> bool {
        let (me, id) = (self.me.id(), contact.id());
        let reaches = |side: &[C], way: &dyn Fn(Id) -> Id| {
            side.len() < self.each || side.last().is_some_and(|last| way(id) < way(last.id()))
        };
        reaches(&self.larger, &|id| id.clockwise_from(me))
            || reaches(&self.smaller, &|id| me.clockwise_from(id))
    }

    /// Somebody has spoken: it gets each place where it is nearer than who is there.
    pub(super) fn offer(&mut self, contact: &C, round_trip: u32) {
        let Some(place) = self.place(contact.id()) else { return };
        let me = self.me.id();
        let each = self.each;
        let took = [
            offer_leaf(&mut self.larger, contact, each, |id| id.clockwise_from(me)),
            offer_leaf(&mut self.smaller, contact, each, |id| me.clockwise_from(id)),
        ];
        if took.contains(&true) {
            self.neighbourhood = self.neighbourhood.wrapping_add(1);
        }
        if place >= self.table.len() {
            let rows = place / self.digits() + 1;
            self.table.reserve_exact(rows * self.digits() - self.table.len());
            self.table.resize(rows * self.digits(), None);
        }
        let entry = &mut self.table[place];
        let is_better =
            |near: &Near<C>| round_trip < near.round_trip || (near.contact == *contact && round_trip != FAR);
        if entry.as_ref().is_none_or(is_better) {
            *entry = Some(Near { contact: contact.clone(), round_trip });
        }
        if round_trip != FAR {
            self.offer_neighbour(contact, round_trip);
        }
    }

    fn offer_neighbour(&mut self, contact: &C, round_trip: u32) {
        self.neighbours.retain(|near| near.contact != *contact);
        let place = self.neighbours.partition_point(|near| near.round_trip <= round_trip);
        if place < self.neighbours_max {
            if self.neighbours.capacity() == 0 {
                self.neighbours.reserve_exact(self.neighbours_max + 1);
            }
            self.neighbours.insert(place, Near { contact: contact.clone(), round_trip });
            self.neighbours.truncate(self.neighbours_max);
        }
    }

    /// Nobody is there any more. Gives back the row that has a hole now, and the leaf that is
    /// farthest on the side that has one.
    pub(super) fn forget(&mut self, contact: &C) -> (Option<usize>, Option<C>) {
        self.neighbours.retain(|near| near.contact != *contact);
        let mut farthest = None;
        for side in [&mut self.smaller, &mut self.larger] {
            let known = side.len();
            side.retain(|leaf| leaf != contact);
            if side.len() < known {
                farthest = side.last().cloned().or(farthest);
                self.neighbourhood = self.neighbourhood.wrapping_add(1);
            }
        }
        let place = self.place(contact.id()).filter(|place| *place < self.table.len());
        let hole = place
            .filter(|place| self.table[*place].take_if(|near| near.contact == *contact).is_some())
            .map(|place| place / self.digits());
        (hole, farthest)
    }

    pub(super) fn heap_bytes(&self) -> usize {
        (self.smaller.capacity() + self.larger.capacity()) * size_of::<C>()
            + self.table.capacity() * size_of::<Option<Near<C>>>()
            + self.neighbours.capacity() * size_of::<Near<C>>()
    }
}

/// `way`: how far from this node, in this half's direction.
fn offer_leaf<C: Contact>(side: &mut Vec<C>, contact: &C, each: usize, way: impl Fn(Id) -> Id) -> bool {
    let place = side.partition_point(|leaf| way(leaf.id()) < way(contact.id()));
    if place >= each || side.get(place) == Some(contact) {
        return false;
    }
    if side.capacity() == 0 {
        side.reserve_exact(each + 1);
    }
    side.insert(place, contact.clone());
    side.truncate(each);
    true
}
