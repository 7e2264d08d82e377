//! What the experiments on broadcasts have in common: nodes, graphs of neighbours, and the
//! broadcasts that fill rows.

use std::{collections::BTreeMap, time::Duration};

use atoll_overlay::{
    Broadcast, BroadcastOut, Delivered, Id, Inventory, Overlay, Payload, Push, Tree, TreeConfig,
};
use atoll_types::Instant;
use rand::{Rng, rngs::StdRng, seq::SliceRandom};
use serde::{Serialize, Serializer};

use crate::{
    columns::{Column, Row},
    experiment::{JOIN_EVERY, Setup, micros, network, share},
    kinds::{Recipe, Task},
    parameters::words,
    world::{Core, Links, Reported, SimulatedContact, Traffic, World, stream},
};

/// How a message reaches all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// On to all neighbours.
    Flood,
    /// On to a few drawn neighbours.
    Gossip,
    /// Announced to all neighbours, sent to whoever asks.
    Inventory,
    /// Along a tree that mends itself, over neighbours of its own.
    Tree,
}

words!(Method { Flood "flood", Gossip "gossip", Inventory "inventory", Tree "tree" });

/// The largest payload that can be simulated: a block of 4 MB, as Bitcoin's weight allows.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 4_000_000;

/// A payload of which only the length matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SimulatedPayload {
    number: u32,
    bytes: u32,
}

impl SimulatedPayload {
    pub(crate) fn new(number: u32, bytes: u32) -> Self {
        Self { number, bytes }
    }

    pub(crate) fn number(self) -> u32 {
        self.number
    }
}

static ZEROS: [u8; PAYLOAD_BYTES_MAX] = [0; PAYLOAD_BYTES_MAX];

impl Serialize for SimulatedPayload {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&ZEROS[..self.bytes as usize])
    }
}

impl Payload for SimulatedPayload {
    fn id(&self) -> Id {
        Id::of(&self.number.to_le_bytes())
    }
}

/// A broadcast's core as a node of a world.
#[derive(Clone)]
pub(crate) struct Spreader<B>(B);

impl<B> Core for Spreader<B>
where
    B: Broadcast<Contact = SimulatedContact, Payload = SimulatedPayload, Message: Serialize>,
{
    type Message = B::Message;
    type Notification = Delivered<SimulatedPayload>;

    fn handle_message(
        &mut self,
        now: Instant,
        rng: &mut StdRng,
        from: SimulatedContact,
        message: B::Message,
        out: &mut BroadcastOut<SimulatedContact, B::Message, SimulatedPayload>,
    ) {
        self.0.handle_message(now, rng, from, message, out);
    }

    fn handle_timeout(
        &mut self,
        now: Instant,
        rng: &mut StdRng,
        out: &mut BroadcastOut<SimulatedContact, B::Message, SimulatedPayload>,
    ) {
        self.0.handle_timeout(now, rng, out);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.0.poll_timeout()
    }

    fn state_bytes(&self) -> usize {
        self.0.state_bytes()
    }

    fn carries_payload(message: &B::Message) -> bool {
        B::carries_payload(message)
    }
}

/// Each node's neighbours, by index.
pub(crate) type Graph = Vec<Vec<SimulatedContact>>;

/// Pairs of nodes drawn evenly, until a node has so many neighbours on average; both ways.
pub(crate) fn random_graph(nodes: usize, connections: usize, seed: u64) -> Graph {
    let contacts = World::<Spreader<Flooding>>::contacts(seed, nodes);
    let mut graph = vec![Vec::new(); nodes];
    let mut rng = stream(seed, "graph");
    let possible = nodes * (nodes - 1) / 2;
    let mut missing = (nodes * connections / 2).min(possible);
    while missing > 0 {
        let (one, other) = (rng.random_range(0..nodes), rng.random_range(0..nodes));
        if one != other && !graph[one].contains(&contacts[other]) {
            graph[one].push(contacts[other]);
            graph[other].push(contacts[one]);
            missing -= 1;
        }
    }
    graph
}

/// One way, over a thousand drawn pairs of a network's nodes.
pub(crate) fn mean_latency(seed: u64, nodes: usize) -> Duration {
    const PAIRS: u32 = 1000;
    let mut world: World<Spreader<Flooding>> = World::new(seed, Links::default());
    for _ in 0..nodes {
        let me = world.next_contact();
        world.add(Spreader(Push::flooding(me, [])));
    }
    let contacts = World::<Spreader<Flooding>>::contacts(seed, nodes);
    let mut rng = stream(seed, "pairs");
    let mut drawn = || contacts[rng.random_range(0..nodes)];
    (0..PAIRS).map(|_| world.latency(drawn(), drawn())).sum::<Duration>() / PAIRS
}

type Flooding = Push<SimulatedContact, SimulatedPayload>;

/// Everybody in the tables of each node of a network of some kind at rest.
pub(crate) struct GraphOfKind {
    pub(crate) nodes: usize,
    pub(crate) seed: u64,
    pub(crate) setup: Setup,
}

impl Task for GraphOfKind {
    type Output = Graph;

    fn run<R: Recipe>(self, recipe: &R) -> Graph {
        let world = network(recipe, self.nodes, self.seed, self.setup);
        world.living().map(|(_, core)| core.contacts()).collect()
    }
}

/// What is measured, on whatever nodes.
#[derive(Debug, Clone)]
pub(crate) struct Spread {
    pub(crate) seed: u64,
    pub(crate) nodes: usize,
    /// Drawn neighbours that gossip goes on to.
    pub(crate) fanout: usize,
    pub(crate) failed_share: f64,
    pub(crate) repair: Duration,
    pub(crate) broadcasts: usize,
    pub(crate) payload_bytes: usize,
    /// 0 is no limit.
    pub(crate) upload_bytes_per_s: u64,
}

/// Before anything fails: trees take their shape.
const WARM_UP_BROADCASTS: usize = 5;
/// Given to a tree's neighbours to settle after the last one joined: twelve periods of upkeep.
const TREE_REST: Duration = Duration::from_secs(120);
/// For which upkeep is counted, where there is any.
const UPKEEP_COUNTED: Duration = Duration::from_secs(60);
/// A broadcast is over when nothing was delivered for so long.
const OVER_AFTER: Duration = Duration::from_secs(10);
/// The same where links have a capacity: more than an inventory waits for a payload, and than
/// a node takes to send 4 MB to 30 others at a megabyte a second.
const OVER_AFTER_NARROW: Duration = Duration::from_secs(150);
/// How often it is looked whether it is over.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl Spread {
    /// Over the neighbours of a graph.
    pub(crate) fn over(&self, method: Method, graph: &Graph, row: Row) -> Row {
        let neighbours = |index: usize| graph[index].iter().copied();
        match method {
            Method::Flood => self.measure(self.world(|me, index| Push::flooding(me, neighbours(index))), row),
            Method::Gossip => {
                self.measure(self.world(|me, index| Push::gossip(me, neighbours(index), self.fanout)), row)
            }
            Method::Inventory => {
                self.measure(self.world(|me, index| Inventory::new(me, neighbours(index))), row)
            }
            Method::Tree => self.over_tree(row),
        }
    }

    /// Over the neighbours that a tree finds by itself, each node joining through one that is
    /// there.
    fn over_tree(&self, row: Row) -> Row {
        let mut world: World<Spreader<Tree<SimulatedContact, SimulatedPayload>>> =
            World::new(self.seed, self.links());
        let config = TreeConfig::default();
        for _ in 0..self.nodes {
            let known = world.draw_living();
            let me = world.next_contact();
            world.add(Spreader(Tree::new(me, &config)));
            world.with(me, |core, now, rng, out| core.0.join(now, rng, known.as_slice(), out));
            world.run(JOIN_EVERY);
        }
        world.run(TREE_REST);
        self.measure(world, row)
    }

    fn links(&self) -> Links {
        Links { upload_bytes_per_s: self.upload_bytes_per_s, ..Links::default() }
    }

    fn world<B>(&self, make: impl Fn(SimulatedContact, usize) -> B) -> World<Spreader<B>>
    where
        B: Broadcast<Contact = SimulatedContact, Payload = SimulatedPayload, Message: Serialize>,
    {
        let mut world = World::new(self.seed, self.links());
        for index in 0..self.nodes {
            let me = world.next_contact();
            world.add(Spreader(make(me, index)));
        }
        world
    }

    fn measure<B>(&self, mut world: World<Spreader<B>>, row: Row) -> Row
    where
        B: Broadcast<Contact = SimulatedContact, Payload = SimulatedPayload, Message: Serialize> + Clone,
    {
        let mut rng = stream(self.seed, "broadcasts");
        let mut living: Vec<SimulatedContact> = world.living().map(|(contact, _)| contact).collect();
        let neighbours: usize = world.living().map(|(_, core)| core.0.neighbours().len()).sum();
        // Only trees change with it.
        let has_upkeep = world.living().any(|(_, core)| core.0.poll_timeout().is_some());
        let mut number = 0;
        if has_upkeep {
            for _ in 0..WARM_UP_BROADCASTS {
                self.broadcast(&mut world, &living, &mut rng, &mut number);
            }
        }
        living.shuffle(&mut stream(self.seed, "failures"));
        let failing = ((self.failed_share * living.len() as f64).round() as usize).min(living.len() - 1);
        living.drain(..failing).for_each(|contact| world.fail(contact));
        living.sort_unstable();
        world.run(self.repair);

        let mut upkeep_per_s = [0.0; 2];
        if has_upkeep {
            // In a copy, so that what fails is met by the broadcasts first.
            let mut copy = world.clone();
            let before = copy.traffic();
            copy.run(UPKEEP_COUNTED);
            let upkeep = copy.traffic() - before;
            upkeep_per_s =
                [upkeep.sent, upkeep.sent_bytes].map(|sum| sum as f64 / UPKEEP_COUNTED.as_secs_f64());
        }
        let measured: Vec<Measured> = (0..self.broadcasts)
            .map(|_| self.broadcast(&mut world, &living, &mut rng, &mut number))
            .collect();

        let count = living.len() as f64;
        let others = (living.len() - 1).max(1) as f64;
        let reached: Vec<f64> = measured.iter().map(|one| one.after_micros.len() as f64 / others).collect();
        let hops: u64 = measured.iter().map(|one| one.hops).sum();
        let delivered: usize = measured.iter().map(|one| one.after_micros.len()).sum();
        let mean = |of: &dyn Fn(&Measured) -> f64| share(measured.iter().map(of).sum(), measured.len());
        // Without upkeep, which goes on meanwhile.
        let messages = |one: &Measured| (one.traffic.sent as f64 - upkeep_per_s[0] * one.lasted_s) / count;
        let bytes = |one: &Measured| (one.traffic.sent_bytes as f64 - upkeep_per_s[1] * one.lasted_s) / count;
        // Of broadcasts that came so far.
        let after_ms = |share_reached: f64| {
            let needed = (others * share_reached).ceil().max(1.0) as usize;
            let times: Vec<f64> = measured
                .iter()
                .filter_map(|one| one.after_micros.get(needed - 1))
                .map(|micros| *micros as f64 / 1000.0)
                .collect();
            share(times.iter().sum(), times.len())
        };
        let last_ms = mean(&|one| one.after_micros.last().copied().unwrap_or_default() as f64 / 1000.0);
        let row = row
            .with(Column::Broadcasts, self.broadcasts)
            .with_some(Column::ReachedShareMean, share(reached.iter().sum(), reached.len()))
            .with_some(Column::ReachedShareMin, reached.iter().copied().reduce(f64::min))
            .with_some(Column::PayloadsPerNode, mean(&|one| one.traffic.payloads as f64 / count))
            .with_some(Column::BroadcastMessagesPerNode, mean(&messages))
            .with_some(Column::BroadcastBytesPerNode, mean(&bytes))
            .with_some(Column::DepthMean, share(hops as f64, delivered))
            .with_some(Column::DepthMax, measured.iter().map(|one| one.depth).max())
            .with_some(Column::HalfMsMean, after_ms(0.5))
            .with_some(Column::LastMsMean, last_ms)
            .with_some(Column::ContactsMean, share(neighbours as f64, self.nodes))
            .with(Column::BytesPerNode, world.bytes_per_node());
        match has_upkeep {
            true => row
                .with(Column::UpkeepMessagesPerNodeS, upkeep_per_s[0] / count)
                .with(Column::UpkeepBytesPerNodeS, upkeep_per_s[1] / count),
            false => row,
        }
    }

    /// One broadcast from a node that lives, until it is over.
    fn broadcast<B>(
        &self,
        world: &mut World<Spreader<B>>,
        living: &[SimulatedContact],
        rng: &mut StdRng,
        number: &mut u32,
    ) -> Measured
    where
        B: Broadcast<Contact = SimulatedContact, Payload = SimulatedPayload, Message: Serialize>,
    {
        *number += 1;
        let payload = SimulatedPayload::new(*number, self.payload_bytes as u32);
        let source = living[rng.random_range(0..living.len())];
        let (began, before) = (world.now(), world.traffic());
        world.with(source, |core, now, rng, out| core.0.broadcast(now, rng, payload, out));
        let over_after = if self.upload_bytes_per_s == 0 { OVER_AFTER } else { OVER_AFTER_NARROW };
        let mut first_heard: BTreeMap<SimulatedContact, (u64, u32)> = BTreeMap::new();
        let mut last = began;
        while world.now() < last + over_after {
            world.run(LOOK_EVERY);
            for Reported { at, by, notification } in world.take_reports() {
                if notification.payload == payload {
                    first_heard
                        .entry(by)
                        .or_insert_with(|| (micros(at.saturating_since(began)), notification.hops));
                    last = at;
                }
            }
        }
        let mut after_micros: Vec<u64> = first_heard.values().map(|(after, _)| *after).collect();
        after_micros.sort_unstable();
        Measured {
            after_micros,
            hops: first_heard.values().map(|(_, hops)| u64::from(*hops)).sum(),
            depth: first_heard.values().map(|(_, hops)| *hops).max().unwrap_or_default(),
            traffic: world.traffic() - before,
            lasted_s: world.now().saturating_since(began).as_secs_f64(),
        }
    }
}

/// One broadcast.
struct Measured {
    /// When each of those who heard of it did, in order; the source is not one of them.
    after_micros: Vec<u64>,
    /// Of all of them together.
    hops: u64,
    depth: u32,
    traffic: Traffic,
    lasted_s: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_random_graph_has_as_many_mutual_links_as_asked_for() {
        let graph = random_graph(300, 8, 1);
        let contacts = World::<Spreader<Flooding>>::contacts(1, 300);
        assert_eq!(graph.iter().map(Vec::len).sum::<usize>(), 300 * 8);
        for (index, neighbours) in graph.iter().enumerate() {
            for neighbour in neighbours {
                let other = contacts.iter().position(|contact| contact == neighbour).expect("a node");
                assert!(graph[other].contains(&contacts[index]));
            }
        }
        // More than there are pairs: everybody with everybody.
        assert!(random_graph(5, 50, 1).iter().all(|neighbours| neighbours.len() == 4));
    }
}
