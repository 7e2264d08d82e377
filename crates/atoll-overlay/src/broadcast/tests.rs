//! Broadcasts on small networks that deliver in order, time passing when nothing is on its way.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;
use crate::testing::At;

impl Payload for u32 {
    fn id(&self) -> Id {
        Id::of(&self.to_le_bytes())
    }
}

struct Net<B: Broadcast> {
    now: Instant,
    rng: StdRng,
    nodes: BTreeMap<u8, B>,
    dead: BTreeSet<u8>,
    wire: VecDeque<(At, At, B::Message)>,
    /// Payloads sent.
    payloads: usize,
    delivered: BTreeMap<u8, Vec<(u32, u32)>>,
}

impl<B: Broadcast<Contact = At, Payload = u32>> Net<B> {
    fn new(nodes: impl IntoIterator<Item = (u8, B)>) -> Self {
        Self {
            now: Instant::ORIGIN,
            rng: StdRng::seed_from_u64(3),
            nodes: nodes.into_iter().collect(),
            dead: BTreeSet::new(),
            wire: VecDeque::new(),
            payloads: 0,
            delivered: BTreeMap::new(),
        }
    }

    fn with(&mut self, place: u8, act: impl FnOnce(&mut B, Instant, &mut dyn RngCore, &mut OutOf<B>)) {
        let mut out = Out::default();
        act(self.nodes.get_mut(&place).expect("a node"), self.now, &mut self.rng, &mut out);
        for (to, message) in out.sends {
            self.payloads += usize::from(B::carries_payload(&message));
            self.wire.push_back((At(place), to, message));
        }
        for Delivered { payload, hops } in out.notifications {
            self.delivered.entry(place).or_default().push((payload, hops));
        }
    }

    fn broadcast(&mut self, place: u8, payload: u32) {
        self.with(place, |node, now, rng, out| node.broadcast(now, rng, payload, out));
    }

    fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            while let Some((from, to, message)) = self.wire.pop_front() {
                // A microsecond each, so that nothing goes on for ever at one moment.
                self.now = self.now + Duration::from_micros(1);
                if self.nodes.contains_key(&to.0) && !self.dead.contains(&to.0) {
                    self.with(to.0, |node, now, rng, out| node.handle_message(now, rng, from, message, out));
                }
            }
            let living = self.nodes.iter().filter(|(place, _)| !self.dead.contains(place));
            let next = living.filter_map(|(place, node)| Some((node.poll_timeout()?, *place))).min();
            let Some((at, place)) = next.filter(|(at, _)| *at <= end) else { break };
            self.now = self.now.max(at);
            self.with(place, |node, now, rng, out| node.handle_timeout(now, rng, out));
        }
        self.now = self.now.max(end);
    }

    fn who_heard(&self, payload: u32) -> Vec<u8> {
        let heard = |times: &&Vec<(u32, u32)>| times.iter().any(|(heard, _)| *heard == payload);
        self.delivered.iter().filter(|(_, times)| heard(times)).map(|(place, _)| *place).collect()
    }
}

/// 0 – 1 – 2 – 3 – 4 – 0, and 5 beside 2.
const LINKS: [(u8, u8); 6] = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 0), (2, 5)];

fn linked<B>(make: impl Fn(At, Vec<At>) -> B) -> Vec<(u8, B)> {
    let of = |place: u8| {
        let there = LINKS.iter().filter(move |(one, _)| *one == place).map(|(_, other)| At(*other));
        there.chain(LINKS.iter().filter(move |(_, other)| *other == place).map(|(one, _)| At(*one))).collect()
    };
    (0..6).map(|place| (place, make(At(place), of(place)))).collect()
}

#[test]
fn flooding_reaches_all_by_the_shortest_way_and_once_a_link_and_direction() {
    let mut net = Net::new(linked(Push::flooding));
    net.broadcast(0, 7);
    net.run(Duration::from_secs(1));
    let hops: Vec<(u8, u32)> = net.delivered.iter().map(|(place, times)| (*place, times[0].1)).collect();
    assert_eq!(hops, [(1, 1), (2, 2), (3, 2), (4, 1), (5, 3)]);
    // Two from the source, and one less than its links from each other node.
    assert_eq!(net.payloads, 2 + (1 + 2 + 1 + 1));
    net.broadcast(0, 7);
    assert!(net.wire.is_empty(), "it is known");
}

#[test]
fn gossip_sends_to_as_many_as_it_is_told() {
    let all: Vec<At> = (0..200).map(At).collect();
    let mut net = Net::new((0..200).map(|place| (place, Push::gossip(At(place), all.iter().copied(), 3))));
    net.broadcast(0, 7);
    net.run(Duration::from_secs(1));
    let heard = net.who_heard(7).len();
    assert_eq!(net.payloads, 3 * (heard + 1));
    // The share r that hears of it: r = 1 − e⁻³ʳ, 0.94.
    assert!((175..200).contains(&heard), "{heard}");
}

#[test]
fn inventories_send_the_payload_once_a_node() {
    let mut net = Net::new(linked(Inventory::new));
    net.broadcast(0, 7);
    net.run(Duration::from_secs(1));
    assert_eq!((net.who_heard(7), net.payloads), (vec![1, 2, 3, 4, 5], 5));
}

#[test]
fn who_announced_and_does_not_answer_is_passed_over() {
    let mut net = Net::new(linked(Inventory::new));
    net.dead.insert(1);
    let id = 7_u32.id();
    // 1 tells 2 that it has it, and is gone; 3 has it too.
    let tell = |net: &mut Net<Inventory<At, u32>>, from| {
        net.with(2, |node, now, rng, out| {
            node.handle_message(now, rng, At(from), InventoryMessage::Inv { id }, out);
        });
    };
    tell(&mut net, 1);
    net.with(3, |node, _, _, _| node.kept.add(id, 7, 2));
    tell(&mut net, 3);
    net.run(Duration::from_secs(30));
    assert_eq!(net.delivered[&2], [(7, 3)]);
}

#[test]
fn nobody_pushes_what_was_not_asked_for_or_fills_the_memory() {
    let mut net = Net::new(linked(Inventory::new));
    net.with(2, |node, now, rng, out| {
        node.handle_message(now, rng, At(1), InventoryMessage::Data { hops: 1, payload: 7 }, out);
        for payload in 0..10_000_u32 {
            let message = InventoryMessage::Inv { id: payload.id() };
            node.handle_message(now, rng, At(1), message, out);
        }
    });
    assert!(net.delivered.is_empty());
    assert!(net.nodes[&2].state_bytes() < 64 << 10, "{}", net.nodes[&2].state_bytes());
}

fn trees(count: u8) -> Net<Tree<At, u32>> {
    let mut net = Net::new([]);
    for place in 0..count {
        let known: Vec<At> = (place > 0).then(|| At(net.rng.random_range(0..place))).into_iter().collect();
        net.nodes.insert(place, Tree::new(At(place), &TreeConfig::default()));
        net.with(place, |node, now, rng, out| node.join(now, rng, &known, out));
        net.run(Duration::from_secs(1));
    }
    net.run(Duration::from_secs(120));
    net
}

#[test]
fn views_are_mutual_and_of_the_size_asked_for() {
    let net = trees(100);
    for (place, node) in &net.nodes {
        let neighbours = node.neighbours();
        assert!((1..=5).contains(&neighbours.len()), "{place}: {neighbours:?}");
        for other in neighbours {
            assert!(net.nodes[&other.0].neighbours().contains(&At(*place)), "{place} and {other:?}");
        }
    }
    let links: usize = net.nodes.values().map(|node| node.neighbours().len()).sum();
    assert!(links >= 450, "{links} of 500");
}

#[test]
fn a_tree_sends_the_payload_once_a_node_when_it_has_settled() {
    let mut net = trees(100);
    for payload in 0..5 {
        net.broadcast(40, payload);
        net.run(Duration::from_secs(5));
    }
    net.payloads = 0;
    net.broadcast(40, 77);
    net.run(Duration::from_secs(5));
    assert_eq!(net.who_heard(77).len(), 99);
    assert_eq!(net.payloads, 99);
}

#[test]
fn a_tree_mends_itself_when_half_of_it_fails() {
    let mut net = trees(100);
    net.broadcast(40, 1);
    net.run(Duration::from_secs(5));
    net.dead.extend((0..100).filter(|place| place % 2 == 1));
    net.run(Duration::from_secs(60));
    net.broadcast(40, 2);
    net.run(Duration::from_secs(10));
    assert_eq!(net.who_heard(2).len(), 49);
}

#[test]
fn a_lost_payload_is_asked_for_where_it_was_announced() {
    let mut net = trees(30);
    for payload in 0..5 {
        net.broadcast(3, payload);
        net.run(Duration::from_secs(5));
    }
    // What goes to 9 along the tree is lost on its way.
    net.broadcast(3, 50);
    let mut lost = 0;
    while let Some((from, to, message)) = net.wire.pop_front() {
        if to == At(9) && Tree::<At, u32>::carries_payload(&message) && lost < 3 {
            lost += 1;
            continue;
        }
        net.with(to.0, |node, now, rng, out| node.handle_message(now, rng, from, message, out));
    }
    assert!(lost > 0 && !net.who_heard(50).contains(&9));
    net.run(Duration::from_secs(5));
    assert!(net.who_heard(50).contains(&9));
}

#[test]
fn no_message_makes_a_tree_panic_or_grow() {
    let mut net = trees(10);
    let mut rng = StdRng::seed_from_u64(5);
    for round in 0..20_000_u32 {
        let from = At(rng.random_range(0..=255));
        let contacts: Vec<At> =
            (0..rng.random_range(0..100)).map(|_| At(rng.random_range(0..=255))).collect();
        let message = match rng.random_range(0..12) {
            0 => TreeMessage::View(HyParViewMessage::Join),
            1 => TreeMessage::View(HyParViewMessage::ForwardJoin { newcomer: from, hops_left: rng.random() }),
            2 => TreeMessage::View(HyParViewMessage::Neighbour { urgent: rng.random() }),
            3 => TreeMessage::View(HyParViewMessage::NeighbourAnswer { accepted: rng.random() }),
            4 => TreeMessage::View(HyParViewMessage::Disconnect),
            5 => TreeMessage::View(HyParViewMessage::Shuffle {
                origin: from,
                contacts,
                hops_left: rng.random(),
            }),
            6 => TreeMessage::View(HyParViewMessage::ShuffleAnswer { contacts }),
            7 => TreeMessage::Gossip { hops: rng.random(), payload: round },
            8 => TreeMessage::IHave { id: round.id() },
            9 => TreeMessage::Graft { id: round.id() },
            10 => TreeMessage::View(HyParViewMessage::Ping),
            _ => TreeMessage::Prune,
        };
        net.with(3, |node, now, rng, out| node.handle_message(now, rng, from, message, out));
        net.wire.clear();
    }
    let node = &net.nodes[&3];
    assert!(node.neighbours().len() <= 5, "{:?}", node.neighbours());
    // 4096 identifiers twice, 256 missing, and the views.
    assert!(node.state_bytes() < (2 * 4096 * 32 + (64 << 10)) * 2, "{}", node.state_bytes());
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Client(u32);

impl Contact for Client {
    fn id(&self) -> Id {
        Id::of(&self.0.to_le_bytes())
    }
}

/// Nobody but an index node knows its clients.
#[test]
fn as_many_as_a_directory_has_clients_are_all_told() {
    let clients = crate::DirectoryConfig::default().clients_max as u32;
    let mut node = Inventory::new(Client(0), (1..=clients).map(Client));
    let (mut out, mut rng) = (Out::default(), StdRng::seed_from_u64(1));
    node.broadcast(Instant::ORIGIN, &mut rng, 7_u32, &mut out);
    assert_eq!(out.sends.len(), clients as usize);
}
