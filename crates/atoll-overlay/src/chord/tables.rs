//! What a Chord node knows of others: predecessor, successor list, finger table. Knows no
//! messages and no time.

use crate::{Contact, Id};

/// The longest successor list that may be set. 2·log₂ 10⁶ = 40 are the paper's choice
/// (ToN 2003, V-D) for a million nodes.
pub(super) const SUCCESSORS_MAX: usize = 64;
/// Contacts named to a node that asks its way. With half of all nodes dead at once, one asker
/// in 256 finds all of these dead, and turns back to what it heard before.
pub(super) const PRECEDING_MAX: usize = 8;
const _: () = assert!(SUCCESSORS_MAX < super::message::CONTACTS_PER_MESSAGE_MAX);

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Tables<C> {
    pub(super) me: C,
    pub(super) predecessor: Option<C>,
    /// The next nodes round the ring, nearest first; never `me`, none twice.
    pub(super) successors: Vec<C>,
    /// `fingers[k]` is the successor of `me + 2^(255 − k)`: the paper's finger table with the
    /// farthest first, without its end, where all fingers are the successor. `None`: not known,
    /// or it was found dead. At most `Id::BITS` entries.
    pub(super) fingers: Vec<Option<C>>,
    /// Counts changes of predecessor and successors.
    pub(super) neighbourhood: u32,
}

impl<C: Contact> Tables<C> {
    pub(super) fn new(me: C) -> Self {
        Self { me, predecessor: None, successors: Vec::new(), fingers: Vec::new(), neighbourhood: 0 }
    }

    /// The tables of a node in a network that has come to rest. `ring` is sorted by id, has
    /// `me` in it, and no id twice.
    pub(super) fn converged(me: C, ring: &[(Id, C)], successors_max: usize) -> Self {
        let mut tables = Self::new(me);
        let count = ring.len();
        let my_id = tables.me.id();
        let mine = ring.partition_point(|(id, _)| *id < my_id);
        let at = |offset: usize| ring[(mine + offset) % count].1.clone();
        if count > 1 {
            tables.predecessor = Some(at(count - 1));
        }
        tables.successors = (1..count).take(successors_max).map(at).collect();
        for k in 0..Id::BITS {
            let start = finger_start(my_id, k);
            if tables.is_finger_trivial(start) {
                break;
            }
            let place = ring.partition_point(|(id, _)| *id < start) % count;
            let finger = &ring[place].1;
            tables.fingers.push((*finger != tables.me).then(|| finger.clone()));
        }
        tables.fingers.shrink_to_fit();
        tables
    }

    /// Whether a finger that starts here is the successor anyway.
    pub(super) fn is_finger_trivial(&self, start: Id) -> bool {
        self.successors.first().is_none_or(|successor| start.is_within(self.me.id(), successor.id()))
    }

    /// `closest_preceding_node` (ToN 2003, figure 5), the best first and the next best behind
    /// it; with `by_successors` the successor list is searched too (IV-E.3).
    pub(super) fn closest_preceding(&self, key: Id, by_successors: bool, max: usize) -> Vec<C> {
        let listed = if by_successors { self.successors.len() } else { self.successors.len().min(1) };
        let me = self.me.id();
        let known = self.fingers.iter().flatten().chain(&self.successors[..listed]);
        let mut preceding: Vec<(Id, &C)> = known
            .map(|contact| (contact.id(), contact))
            .filter(|(id, _)| id.is_between(me, key))
            .map(|(id, contact)| (key.clockwise_from(id), contact))
            .collect();
        preceding.sort_unstable();
        preceding.dedup();
        preceding.into_iter().take(max).map(|(_, contact)| contact.clone()).collect()
    }

    /// The key's successors as far as this node knows them: itself and its list, if the key is
    /// its own; else its list from the key on. With `by_successors` off only the successor
    /// itself makes a node know (figure 5's `id ∈ (n, successor]`).
    pub(super) fn successors_of(&self, key: Id, by_successors: bool) -> Vec<C> {
        let me = self.me.id();
        let alone = self.successors.is_empty() && self.predecessor.is_none();
        let mine = self.predecessor.as_ref().is_some_and(|predecessor| key.is_within(predecessor.id(), me));
        if alone || mine {
            return std::iter::once(&self.me).chain(&self.successors).cloned().collect();
        }
        let listed = if by_successors { self.successors.len() } else { self.successors.len().min(1) };
        let first = self.successors[..listed].iter().position(|contact| key.is_within(me, contact.id()));
        first.map_or(Vec::new(), |first| self.successors[first..].to_vec())
    }

    /// The predecessor, if the key belongs to it, or to somebody before it, rather than here.
    pub(super) fn nearer(&self, key: Id) -> Option<C> {
        let predecessor = self.predecessor.as_ref()?;
        let me = self.me.id();
        (!key.is_within(predecessor.id(), me)).then(|| predecessor.clone())
    }

    /// The key's first `count` nodes as far as this one can tell. Of a key that lies behind it
    /// on the ring it knows only that its predecessor is nearer.
    pub(super) fn responsible(&self, key: Id, count: usize) -> Vec<C> {
        let mut known = self.successors_of(key, true);
        if known.is_empty() {
            known.extend(self.predecessor.clone());
        }
        // The predecessor is the last one before this node: the way round goes on from here.
        if known.last() == self.predecessor.as_ref() {
            let onwards = std::iter::once(&self.me).chain(&self.successors);
            let further: Vec<C> = onwards.filter(|contact| !known.contains(contact)).cloned().collect();
            known.extend(further);
        }
        known.truncate(count);
        known
    }

    /// Takes a new successor list. What does not go on round the ring is left out, so a list
    /// that wraps past this node ends there, and a made-up order does no harm.
    pub(super) fn set_successors(&mut self, list: impl IntoIterator<Item = C>, successors_max: usize) {
        let me = self.me.id();
        let mut way = Id::from_halves(0, 0);
        let mut successors = Vec::with_capacity(successors_max);
        for contact in list {
            let farther = contact.id().clockwise_from(me);
            if farther > way && successors.len() < successors_max {
                way = farther;
                successors.push(contact);
            }
        }
        successors.shrink_to_fit();
        if self.successors != successors {
            self.successors = successors;
            self.changed();
        }
    }

    /// `notify` (figure 6): takes the node as predecessor if it stands nearer than the one known.
    pub(super) fn offer_predecessor(&mut self, other: C) {
        let me = self.me.id();
        let nearer = |known: &C| other.id().is_between(known.id(), me);
        if other != self.me && self.predecessor.as_ref().is_none_or(nearer) {
            self.set_predecessor(other);
        }
    }

    pub(super) fn set_predecessor(&mut self, other: C) {
        if self.predecessor.as_ref() != Some(&other) {
            self.predecessor = Some(other);
            self.changed();
        }
    }

    fn changed(&mut self) {
        self.neighbourhood = self.neighbourhood.wrapping_add(1);
    }

    pub(super) fn set_finger(&mut self, k: usize, contact: Option<C>) {
        if k >= self.fingers.len() {
            self.fingers.reserve_exact(k + 1 - self.fingers.len());
            self.fingers.resize(k + 1, None);
        }
        self.fingers[k] = contact.filter(|contact| *contact != self.me);
    }

    /// Nobody is there any more.
    pub(super) fn forget(&mut self, contact: &C) {
        let is_predecessor = self.predecessor.take_if(|predecessor| predecessor == contact).is_some();
        let known = self.successors.len();
        self.successors.retain(|successor| successor != contact);
        if is_predecessor || self.successors.len() < known {
            self.changed();
        }
        for finger in &mut self.fingers {
            finger.take_if(|finger| finger == contact);
        }
    }

    pub(super) fn heap_bytes(&self) -> usize {
        self.successors.capacity() * size_of::<C>() + self.fingers.capacity() * size_of::<Option<C>>()
    }
}

/// Where finger `k` starts: half the ring away for 0, the next point for 255.
pub(super) fn finger_start(me: Id, k: usize) -> Id {
    me.plus_power_of_two(Id::BITS - 1 - k)
}
