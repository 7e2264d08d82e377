//! Who gives way under a key that is full.
//!
//! An author is a key pair, which anybody makes by the thousand; who brings an entry is a peer,
//! whose key the driver has seen proven and somebody let in. So the places under a key are shared
//! out twice: among the peers that bring entries, and each peer's among the authors it brings.
//! Knows no messages; both indexes go by it.

use std::collections::{BTreeMap, BTreeSet};

use atoll_types::NodeId;

use crate::{Entry, entry::Slot};

/// Whose place a newcomer that `by` brings gets: of the peer that brought most, if that is more
/// than `by` will have brought then, the last of the author with most; else of what `by` brought
/// itself the last of the author with most, if that one has more than the newcomer's will have.
/// `held` is all of the newcomer's class under its key. What a peer hands over for others is its
/// own in this sense until they renew it.
pub(crate) fn gives_way<'a, C: Ord + 'a>(
    held: impl Iterator<Item = (&'a Entry, Option<&'a C>)>,
    newcomer: &Entry,
    by: Option<&'a C>,
) -> Option<Slot> {
    let mut shares: BTreeMap<Option<&C>, BTreeMap<NodeId, BTreeSet<Slot>>> = BTreeMap::new();
    for (entry, by) in held {
        shares.entry(by).or_default().entry(entry.author).or_default().insert(entry.slot());
    }
    let size = |share: &BTreeMap<NodeId, BTreeSet<Slot>>| share.values().map(BTreeSet::len).sum::<usize>();
    let last_of_most =
        |share: &BTreeMap<NodeId, BTreeSet<Slot>>| share.values().max_by_key(|slots| slots.len()).cloned();
    let own = shares.get(&by);
    let most = shares.values().max_by_key(|share| size(share))?;
    if own.map_or(0, size) + 1 < size(most) {
        return last_of_most(most)?.last().copied();
    }
    let own = own?;
    let authors = own.get(&newcomer.author).map_or(0, BTreeSet::len);
    let most = last_of_most(own)?;
    if authors + 1 < most.len() { most.last().copied() } else { None }
}
