//! Networks that have come to rest, as growing would have left them.

use std::collections::BTreeMap;

use super::{
    centre::{Centre, SUPERS_MAX, nearest_of},
    seat::LEAVES_MAX,
    *,
};

/// Who is a super-peer in a network at rest, and of whom.
#[derive(Debug, Clone)]
pub struct AtRest<C> {
    /// Sorted by id.
    centre: Vec<C>,
    /// By super-peer.
    leaves: BTreeMap<C, Vec<C>>,
    /// By leaf, the nearest first.
    attached: BTreeMap<C, Vec<C>>,
}

impl<C: Contact> AtRest<C> {
    /// As growing goes on: whoever has too many leaves has one of them promoted, one after the
    /// other, until nobody has. `ring` is sorted by id, and has no id twice.
    pub fn new(ring: &[(Id, C)], config: &HybridConfig) -> Self {
        // By the ends of ids, which have nothing to do with their places.
        let mut drawn: Vec<&C> = ring.iter().map(|(_, contact)| contact).collect();
        let first = SUPERS_MIN.min(drawn.len());
        if first < drawn.len() {
            drawn.select_nth_unstable_by_key(first, |contact| end_of(contact.id()));
        }
        let mut centre: Vec<C> = drawn[..first].iter().map(|contact| (*contact).clone()).collect();
        centre.sort_unstable_by_key(Contact::id);
        loop {
            let mut at_rest = Self::attach(ring, centre, config.attachments);
            let has_many = |leaves: &&Vec<C>| leaves.len() > config.leaves_high;
            let crowds = at_rest.leaves.values().filter(has_many);
            let mut promoted: Vec<C> = crowds
                .filter_map(|leaves| leaves.iter().min_by_key(|leaf| end_of(leaf.id())).cloned())
                .collect();
            promoted.truncate(SUPERS_MAX - at_rest.centre.len());
            if promoted.is_empty() {
                return at_rest;
            }
            centre = std::mem::take(&mut at_rest.centre);
            centre.extend(promoted);
            centre.sort_unstable_by_key(Contact::id);
            centre.dedup();
        }
    }

    /// Each to the nearest that have room.
    fn attach(ring: &[(Id, C)], centre: Vec<C>, attachments: usize) -> Self {
        let is_full = centre.len() == SUPERS_MAX;
        let mut leaves: BTreeMap<C, Vec<C>> = BTreeMap::new();
        let mut attached = BTreeMap::new();
        for (id, contact) in ring {
            if centre.binary_search_by_key(id, Contact::id).is_ok() {
                continue;
            }
            let mut nearest = Vec::new();
            nearest_of(&centre, &Contact::id, *id, 2 * attachments, &mut nearest);
            let has_room = |super_peer: &&C| {
                !is_full || leaves.get(*super_peer).is_none_or(|leaves| leaves.len() < LEAVES_MAX)
            };
            let supers: Vec<C> = nearest
                .into_iter()
                .take(2 * attachments)
                .filter(has_room)
                .take(attachments)
                .cloned()
                .collect();
            for super_peer in &supers {
                leaves.entry(super_peer.clone()).or_default().push(contact.clone());
            }
            attached.insert(contact.clone(), supers);
        }
        Self { centre, leaves, attached }
    }
}

fn end_of(id: Id) -> u128 {
    let bytes: [u8; 32] = id.into();
    u128::from_be_bytes(*bytes.last_chunk().expect("32 bytes"))
}

impl<C: Contact> Hybrid<C> {
    /// A node of a network that has come to rest. It begins at `Instant::ORIGIN`. `ring` is sorted by id,
    /// has `me` in it, and no id twice; `at_rest` was made of it.
    pub fn converged(me: C, config: Arc<HybridConfig>, ring: &[(Id, C)], at_rest: &AtRest<C>) -> Self {
        let kademlia = Kademlia::converged(me.clone(), config.kademlia.clone(), ring);
        let mut node = Self::with(me, config, kademlia);
        let mut rng = rand::SeedableRng::from_seed(node.me.id().into());
        let rng: &mut rand::rngs::StdRng = &mut rng;
        let now = Instant::ORIGIN;
        node.phase = Phase::Member;
        node.has_fallback = Some(true);
        node.keep_at = now + Self::about(node.config.keep_every, rng);
        node.is_reached = true;
        let my_id = node.me.id();
        if at_rest.centre.binary_search_by_key(&my_id, Contact::id).is_ok() {
            let mut seat = Seat::new(now, Centre::of(&at_rest.centre));
            let standing = Standing { is_reached: true, prompt_percent: 100 };
            for leaf in at_rest.leaves.get(&node.me).into_iter().flatten() {
                seat.add_leaf(now, leaf.clone(), standing);
            }
            seat.begin(now, &node.config, rng);
            node.role = Role::Super(Box::new(seat));
        } else {
            node.attached = at_rest.attached.get(&node.me).cloned().unwrap_or_default();
        }
        node
    }
}
