//! The same network of other nodes.

use super::{Core, Node, Out, SimulatedContact, World};

impl<K: Core> World<K> {
    /// Puts what `make` makes of each living node in its place. What is under way is forgotten, and
    /// so is what was reported.
    pub(crate) fn remake<L: Core>(self, mut make: impl FnMut(SimulatedContact, K) -> L) -> World<L> {
        let first = self.contacts_from;
        let remade = self.nodes.into_iter().enumerate().map(|(index, node)| {
            let Node { core, place, received, sent_at, place_among_living, .. } = node;
            let core = core.map(|core| make(first.plus(index), core));
            Node { core, place, received, sent_at, place_among_living, timeout_at: None }
        });
        let nodes: Vec<Node<L>> = remade.collect();
        let mut world = World {
            now: self.now,
            links: self.links,
            contacts_from: first,
            nodes,
            living: self.living,
            events: Default::default(),
            ordered: self.ordered,
            traffic: self.traffic,
            watched: self.watched,
            loads: self.loads,
            trace: self.trace,
            places_rng: self.places_rng,
            links_rng: self.links_rng,
            nodes_rng: self.nodes_rng,
            reports: Vec::new(),
            out: Out::default(),
        };
        (0..world.nodes.len()).for_each(|index| world.plan_timeout(index));
        world
    }
}
