//! Unstructured networks so small that one sees what is right; see `testing`.

use std::collections::BTreeSet;

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;
use crate::testing::{At, Net};

type Message = UnstructuredMessage<At>;
type Graph = Net<Unstructured<At>>;

const WALL: WallTime = WallTime::from_millis(1_800_000_000_000);

fn flood(ttl: u8) -> UnstructuredConfig {
    UnstructuredConfig { style: SearchStyle::Flood { ttl }, enough: 1, ..UnstructuredConfig::default() }
}

fn author(place: u8) -> AuthorKey {
    AuthorKey::from_seed([place; 32])
}

/// Nodes 0, 1, … with these links, each in both directions.
fn linked(config: UnstructuredConfig, nodes: u8, links: &[(u8, u8)]) -> Graph {
    let config = Arc::new(config);
    let mut net = Graph::new();
    for place in 0..nodes {
        let neighbours = links.iter().filter_map(|link| match link {
            (one, other) if *one == place => Some(At(*other)),
            (other, one) if *one == place => Some(At(*other)),
            _ => None,
        });
        let mut node = Unstructured::linked(At(place), author(place), config.clone(), neighbours.collect());
        node.set_clock(Instant::ORIGIN, WALL);
        net.nodes.insert(place, node);
    }
    net.freeze();
    net
}

fn line(config: UnstructuredConfig, nodes: u8) -> Graph {
    let links: Vec<(u8, u8)> = (1..nodes).map(|place| (place - 1, place)).collect();
    // So that it stays a line.
    let config = UnstructuredConfig { connect_to: 1, ..config };
    let mut net = linked(config, nodes, &links);
    // So that they remember what goes by.
    net.nodes.values_mut().for_each(|node| node.frozen = false);
    net
}

fn provide(net: &mut Graph, place: u8, name: &str) {
    let offered = Offered { content: Id::of(name.as_bytes()), name: name.into() };
    net.with(place, |node, now, rng, out| node.provide(now, rng, offered, out)).expect("there is room");
}

/// The names of what was found.
fn search(net: &mut Graph, place: u8, words: &str) -> BTreeSet<String> {
    let operation =
        net.with(place, |node, now, rng, out| node.search(now, rng, words, out)).expect("a member");
    net.run(Duration::from_secs(300));
    let is_it = |(by, finished): &(u8, Finished<At>)| *by == place && finished.operation == operation;
    let index = net.operations.iter().position(is_it).expect("the search ended");
    let Ok(Answer::Hits(entries)) = net.operations.remove(index).1.outcome else { panic!("hits") };
    let names = entries.into_iter().map(|entry| match entry.body {
        Body::Posting { name, .. } => name,
        other => panic!("{other:?} is no hit"),
    });
    names.collect()
}

fn queries(net: &Graph) -> usize {
    let is_query = |message: &Message| matches!(message, Message::Flood { .. } | Message::Walk { .. });
    net.sent.iter().filter(|(_, _, message)| is_query(message)).count()
}

#[test]
fn a_flood_goes_as_far_as_its_ttl_and_no_farther() {
    let mut net = line(flood(4), 10);
    provide(&mut net, 4, "Blue Atoll");
    provide(&mut net, 5, "Red Atoll");
    assert_eq!(search(&mut net, 0, "blue"), BTreeSet::from(["Blue Atoll".into()]));
    assert_eq!(search(&mut net, 0, "red"), BTreeSet::new());
    assert_eq!(search(&mut net, 1, "ATOLL red"), BTreeSet::from(["Red Atoll".into()]));
    assert_eq!(search(&mut net, 1, "red green"), BTreeSet::new(), "all words are wanted");
}

#[test]
fn a_query_that_is_seen_twice_is_dropped() {
    let all: Vec<(u8, u8)> = (0..6).flat_map(|one| (one + 1..6).map(move |other| (one, other))).collect();
    let mut net = linked(flood(7), 6, &all);
    assert_eq!(search(&mut net, 0, "nothing"), BTreeSet::new());
    // The origin to five; each of these to the four that it did not come from.
    assert_eq!(queries(&net), 5 + 5 * 4);
}

#[test]
fn who_asks_without_end_is_passed_on_so_often_and_others_are_still() {
    // 0 and 1 are neighbours of 2, behind which is 3.
    let mut net = linked(flood(7), 4, &[(0, 2), (1, 2), (2, 3)]);
    let mut number = 0;
    let mut passed_on = |net: &mut Graph, from: u8, count: usize, is_walk: bool| {
        net.sent.clear();
        for _ in 0..count {
            number += 1;
            let (query, wanted) = (number, Wanted::Words(vec!["word".into()]));
            net.hear(
                2,
                from,
                match is_walk {
                    true => Message::Walk { query, wanted, steps_left: 99, origin: At(from) },
                    false => Message::Flood { query, wanted, ttl: 2 },
                },
            );
        }
        net.wire.clear();
        net.sent.iter().filter(|(from, to, _)| (*from, *to) == (2, 3)).count()
    };
    assert_eq!(passed_on(&mut net, 0, 1_000, false), 200);
    assert_eq!(passed_on(&mut net, 0, 10, true), 0);
    assert_eq!(passed_on(&mut net, 1, 10, false), 10);
    net.now = net.now + Duration::from_secs(1);
    assert_eq!(passed_on(&mut net, 0, 1_000, false), 50);
    // To come again does not help.
    net.hear(2, 0, Message::Disconnect);
    net.hear(2, 0, Message::Connect { request: 1 });
    assert_eq!(passed_on(&mut net, 0, 1_000, false), 0);
    net.now = net.now + Duration::from_secs(10);
    assert!(passed_on(&mut net, 0, 1_000, true) > 0);
}

#[test]
fn a_copy_that_came_over_fewer_links_goes_on_again() {
    let mut net = line(flood(7), 4);
    net.sent.clear();
    let flood = |ttl| Message::Flood { query: 5, wanted: Wanted::Words(vec!["word".into()]), ttl };
    let passed_on = |net: &mut Graph| {
        let sent: Vec<Message> = net.sent.drain(..).map(|(_, _, message)| message).collect();
        net.wire.clear();
        sent
    };
    for (ttl, expected) in [(3, vec![flood(2)]), (3, vec![]), (2, vec![]), (6, vec![flood(5)]), (6, vec![])] {
        net.hear(1, 0, flood(ttl));
        assert_eq!(passed_on(&mut net), expected, "TTL {ttl}");
    }
}

#[test]
fn an_expanding_ring_stops_where_enough_is_found() {
    let config = UnstructuredConfig { style: SearchStyle::ExpandingRing { ttl_max: 7 }, ..flood(0) };
    let mut net = line(config.clone(), 10);
    provide(&mut net, 2, "Near");
    provide(&mut net, 9, "Far");
    assert_eq!(search(&mut net, 0, "near").len(), 1);
    assert_eq!(queries(&net), 1 + 2, "one hop, then two");
    assert_eq!(search(&mut net, 0, "far"), BTreeSet::new(), "nine hops are too far");
    assert_eq!(queries(&net), 3 + (1..=7).sum::<usize>());
}

#[test]
fn what_goes_by_is_remembered_along_its_way() {
    let mut net = line(flood(7), 7);
    provide(&mut net, 6, "Popular");
    assert_eq!(search(&mut net, 0, "popular").len(), 1);
    net.dead.insert(6);
    // One hop away, and its provider is gone.
    let set = |net: &mut Graph, ttl| {
        let config = Arc::new(UnstructuredConfig { connect_to: 1, ..flood(ttl) });
        net.nodes.values_mut().for_each(|node| node.config = config.clone());
    };
    set(&mut net, 1);
    assert_eq!(search(&mut net, 3, "popular").len(), 1);
    // Until it expires.
    net.run(Duration::from_secs(3700));
    set(&mut net, 7);
    assert_eq!(search(&mut net, 3, "popular"), BTreeSet::new());
}

#[test]
fn values_are_read_where_they_were_stored_and_providers_are_found() {
    let mut net = line(flood(7), 4);
    let key = Id::of(b"key");
    let store = |net: &mut Graph, value: &[u8]| {
        let (value, lifetime) = (value.to_vec(), Duration::from_secs(600));
        net.with(3, |node, now, rng, out| node.store(now, rng, key, value, lifetime, out))
            .expect("there is room");
        assert_eq!(net.operations.pop().map(|(_, finished)| finished.outcome), Some(Ok(Answer::Stored)));
    };
    for value in [b"one", b"two"] {
        store(&mut net, value);
        net.with(2, |node, now, rng, out| node.fetch(now, rng, key, out)).expect("a member");
        net.run(Duration::from_secs(60));
        let Some((2, Finished { outcome: Ok(Answer::Values(found)), by, .. })) = net.operations.pop() else {
            panic!("values")
        };
        assert_eq!((&found[0].body, by), (&Body::Value(value.to_vec()), vec![At(3)]));
        // What 2 remembers would be found first.
        net.nodes.values_mut().for_each(|node| drop(node.shelves.take_cache()));
    }
    provide(&mut net, 3, "Something");
    net.operations.clear();
    let content = Id::of(b"Something");
    net.with(0, |node, now, rng, out| node.providers(now, rng, content, out)).expect("a member");
    net.run(Duration::from_secs(60));
    let Some((0, Finished { outcome: Ok(Answer::Providers(found)), .. })) = net.operations.pop() else {
        panic!("providers")
    };
    assert_eq!(found.iter().map(|entry| entry.author).collect::<Vec<_>>(), [author(3).author()]);
}

/// A ring with chords, of 60 nodes.
fn small_world(config: UnstructuredConfig) -> Graph {
    let chord = |one: u8| u8::try_from((u16::from(one) * 7 + 3) % 60).expect("below 60");
    let links: Vec<(u8, u8)> = (0..60).flat_map(|one| [(one, (one + 1) % 60), (one, chord(one))]).collect();
    let mut links: Vec<(u8, u8)> = links.into_iter().filter(|(one, other)| one != other).collect();
    links.sort_unstable_by_key(|(one, other)| (*one.min(other), *one.max(other)));
    links.dedup_by_key(|(one, other)| (*one.min(other), *one.max(other)));
    linked(config, 60, &links)
}

/// Lv et al., section 5: with checking, walkers end soon after enough was found.
#[test]
fn walkers_find_what_a_flood_finds_with_fewer_messages() {
    let walk = SearchStyle::Walk { walkers: 4, check_every: 4 };
    let mut sent = Vec::new();
    for style in [walk, SearchStyle::Flood { ttl: 7 }] {
        let mut net = small_world(UnstructuredConfig { style, ..flood(0) });
        for place in [11, 29, 47] {
            provide(&mut net, place, "Common");
        }
        for place in [0, 20, 40] {
            assert!(!search(&mut net, place, "common").is_empty(), "{style:?} from {place}");
        }
        sent.push(queries(&net));
    }
    assert!(sent[0] * 2 < sent[1], "{sent:?}");
}

#[test]
fn walkers_for_what_does_not_exist_come_to_an_end() {
    let style = SearchStyle::Walk { walkers: 4, check_every: 4 };
    let mut net = small_world(UnstructuredConfig { style, ..flood(0) });
    assert_eq!(search(&mut net, 0, "nothing"), BTreeSet::new());
    assert!(queries(&net) <= 4 * 128, "{}", queries(&net));
    assert!(net.nodes.values().all(|node| node.waiting.is_empty() && node.operations.is_empty()));
}

#[test]
fn a_walk_is_over_when_its_walkers_are_and_no_node_alone_can_end_it() {
    let style = SearchStyle::Walk { walkers: 8, check_every: 4 };
    let mut net = small_world(UnstructuredConfig { style, ..flood(0) });
    let begin = |net: &mut Graph| {
        net.with(0, |node, now, rng, out| node.search(now, rng, "nothing", out)).expect("a member")
    };
    begin(&mut net);
    net.run(Duration::from_millis(100));
    assert_eq!(net.operations.len(), 1, "not after 58 s, its time");
    // One that says so again and again, and swallows its walkers.
    begin(&mut net);
    let query = net.nodes[&0].operations[0].query;
    net.wire.clear();
    for _ in 0..100 {
        net.hear(0, 7, Message::WalkEnded { query });
    }
    net.run(Duration::from_secs(50));
    assert_eq!(net.operations.len(), 1);
    net.run(Duration::from_secs(10));
    assert_eq!(net.operations.len(), 2);
}

#[test]
fn nodes_that_join_through_one_find_neighbours_of_their_own() {
    let config = Arc::new(flood(7));
    let places: Vec<u8> = (0..40).collect();
    let mut net = Graph::grown(&places, |me| Unstructured::new(me, author(me.0), config.clone()));
    assert_eq!(net.joined.len(), 40);
    let check = |net: &Graph| {
        for place in net.living() {
            let neighbours = net.nodes[&place].neighbours();
            assert!((3..=10).contains(&neighbours.len()), "{place}: {neighbours:?}");
            for neighbour in neighbours {
                assert!(
                    net.nodes[&neighbour.0].neighbours().contains(&At(place)),
                    "{place} and {neighbour:?}"
                );
            }
        }
    };
    check(&net);
    provide(&mut net, 39, "Anything");
    assert_eq!(search(&mut net, 1, "anything").len(), 1);
    // Those who fail, and those who leave, are replaced.
    net.dead.extend([0, 1, 2, 3, 4]);
    net.with(5, |node, now, _, out| node.leave(now, out));
    net.deliver();
    net.dead.insert(5);
    net.run(Duration::from_secs(600));
    assert!(net.living().iter().all(|place| {
        net.nodes[place].neighbours().iter().all(|neighbour| !net.dead.contains(&neighbour.0))
    }));
    check(&net);
    assert_eq!(search(&mut net, 17, "anything").len(), 1);
}

#[test]
fn a_node_whose_only_acquaintance_is_silent_joins_when_it_is_back() {
    let config = Arc::new(flood(7));
    let mut net = Graph::grown(&[0, 1, 2], |me| Unstructured::new(me, author(me.0), config.clone()));
    net.dead.insert(1);
    net.join(Unstructured::new(At(9), author(9), config), &[1]);
    net.run(Duration::from_secs(10));
    assert!(!net.joined.contains(&9));
    net.dead.clear();
    net.run(Duration::from_secs(90));
    assert!(net.joined.contains(&9));
}

#[test]
fn two_networks_whose_nodes_meet_become_one() {
    let config = Arc::new(flood(7));
    let mut net = Graph::new();
    for (place, known) in [(0, None), (1, Some(0)), (10, None), (11, Some(10))] {
        net.join(Unstructured::new(At(place), author(place), config.clone()), known.as_slice());
        net.run(Duration::from_secs(5));
    }
    net.nodes.values_mut().for_each(|node| node.set_clock(Instant::ORIGIN, WALL));
    provide(&mut net, 10, "Elsewhere");
    assert_eq!(search(&mut net, 0, "elsewhere"), BTreeSet::new());
    net.with(0, |node, now, rng, out| node.meet(now, rng, &[At(11)], out));
    net.run(Duration::from_secs(5));
    assert_eq!(search(&mut net, 0, "elsewhere").len(), 1);
}

fn indexed_walk(walkers: u8) -> UnstructuredConfig {
    let style = SearchStyle::Walk { walkers, check_every: 4 };
    UnstructuredConfig { style, index_neighbours: true, ..flood(0) }
}

/// Chawathe et al., SIGCOMM 2003: one-hop replication.
#[test]
fn a_walker_finds_at_a_node_what_its_neighbours_provide() {
    let mut net = line(indexed_walk(1), 5);
    provide(&mut net, 4, "Blue Atoll");
    net.run(Duration::from_secs(1));
    assert_eq!(search(&mut net, 0, "blue"), BTreeSet::from(["Blue Atoll".into()]));
    let first_hit = net.sent.iter().find(|(_, _, message)| matches!(message, Message::Hit { .. }));
    assert_eq!(first_hit.map(|(from, ..)| *from), Some(3), "the third answers for the fourth");
    // A neighbour of one's own is not even asked.
    net.sent.clear();
    provide(&mut net, 1, "Red Atoll");
    net.run(Duration::from_secs(1));
    assert_eq!(search(&mut net, 0, "red").len(), 1);
    assert_eq!(queries(&net), 0);
}

#[test]
fn nobody_answers_for_what_a_neighbour_took_back_or_for_a_neighbour_that_is_gone() {
    let mut net = line(indexed_walk(4), 4);
    provide(&mut net, 3, "Blue Atoll");
    provide(&mut net, 3, "Red Atoll");
    net.run(Duration::from_secs(1));
    assert_eq!(net.nodes[&2].kept().entries, 4);
    net.with(3, |node, _, _, _| node.stop_providing(Id::of(b"Blue Atoll")));
    net.run(Duration::from_secs(60));
    assert_eq!(net.nodes[&2].kept().entries, 2);
    net.dead.insert(3);
    net.run(Duration::from_secs(120));
    assert_eq!(net.nodes[&2].kept().entries, 0);
    assert_eq!(search(&mut net, 0, "atoll"), BTreeSet::new());
}

#[test]
fn a_new_neighbour_is_told_everything_and_what_got_lost_is_told_again() {
    let config = Arc::new(UnstructuredConfig { connect_to: 1, ..indexed_walk(4) });
    let mut net = Graph::new();
    for (place, known) in [(0, None), (1, Some(0))] {
        net.join(Unstructured::new(At(place), author(place), config.clone()), known.as_slice());
        net.nodes.get_mut(&place).expect("a node").set_clock(net.now, WALL);
        for number in 0..100 {
            provide(&mut net, place, &format!("thing{number} of{place}"));
        }
        // All that was said of it is lost, but for what makes neighbours of them.
        net.wire.retain(|(_, _, message)| !matches!(message, Message::Index { .. }));
        net.run(Duration::from_secs(120));
    }
    assert_eq!([0, 1].map(|place| net.nodes[&place].index.entries().count()), [200, 200]);
    // Taken back, and that is lost too.
    net.with(1, |node, _, _, _| node.stop_providing(Id::of(b"thing7 of1")));
    net.nodes.get_mut(&1).expect("a node").withdrawn.clear();
    net.run(Duration::from_secs(120));
    assert_eq!(net.nodes[&0].index.entries().count(), 198);
}

#[test]
fn a_neighbours_index_has_a_limit_and_no_forgeries() {
    let mut net = line(indexed_walk(4), 3);
    let expires = WALL + Duration::from_secs(600);
    let claim = |number: u32| author(0).sign(Id::of(&number.to_be_bytes()), 1, expires, Body::Provider);
    for first in (0..3000).step_by(64) {
        let entries = (first..first + 64).map(claim).collect();
        net.hear(1, 0, Message::Index { anew: false, entries, withdrawn: Vec::new() });
    }
    assert_eq!(net.nodes[&1].index.entries().count(), index::INDEXED_MAX);
    let one = |entry: Entry| Message::Index { anew: true, entries: vec![entry], withdrawn: Vec::new() };
    net.hear(1, 0, one(Entry { sequence: 2, ..claim(1) }));
    assert_eq!(net.nodes[&1].index.entries().count(), 0, "forged");
    net.hear(1, 9, one(claim(1)));
    assert_eq!(net.nodes[&1].index.entries().count(), 0, "from a stranger");
    let value = author(0).sign(Id::of(b"key"), 1, expires, Body::Value(vec![1]));
    net.hear(1, 0, one(value));
    assert_eq!(net.nodes[&1].index.entries().count(), 0, "values are not indexed");
    net.hear(1, 0, one(claim(1)));
    assert_eq!(net.nodes[&1].index.entries().count(), 1);
}

#[test]
fn what_a_kind_without_structure_cannot_do_it_refuses() {
    let mut net = line(flood(7), 2);
    let located = net.with(0, |node, now, rng, out| node.locate(now, rng, Id::of(b"key"), out));
    assert_eq!(located, Err(LocateError::NotOffered));
    assert_eq!(net.nodes[&0].responsible(Id::of(b"key"), 3), []);
    let nothing = net.with(0, |node, now, rng, out| node.search(now, rng, "!", out));
    assert_eq!(nothing, Err(ContentError::NoKeyword));
}

#[test]
fn what_was_published_goes_from_one_node_to_the_next_on_its_shelf() {
    let mut net = line(flood(7), 3);
    provide(&mut net, 2, "Mine");
    assert_eq!(search(&mut net, 0, "mine").len(), 1);
    let shelf = net.nodes.get_mut(&2).expect("a node").take_shelf();
    assert_eq!(net.nodes[&2].kept(), Kept::default());
    let mut net = line(flood(7), 3);
    net.with(2, |node, now, _, _| node.put_shelf(now, shelf));
    assert_eq!(search(&mut net, 0, "mine").len(), 1);
}

#[test]
fn strangers_and_forgers_are_not_listened_to() {
    let mut net = line(flood(7), 3);
    net.sent.clear();
    let wanted = Wanted::Words(vec!["word".into()]);
    // From nobody's neighbour; with no word; farther than Gnutella goes.
    net.hear(1, 9, Message::Flood { query: 1, wanted: wanted.clone(), ttl: 7 });
    net.hear(1, 0, Message::Flood { query: 2, wanted: Wanted::Words(vec![]), ttl: 7 });
    assert!(net.sent.is_empty());
    net.hear(1, 0, Message::Flood { query: 3, wanted: wanted.clone(), ttl: 255 });
    assert_eq!(net.sent, [(1, 2, Message::Flood { query: 3, wanted, ttl: 6 })]);
    // A hit that its author did not sign goes nowhere.
    let forged = |name: &str| {
        let body = Body::Posting { content: Id::of(b"x"), name: "Word".into() };
        let expires = WALL + Duration::from_secs(600);
        let mut entry = author(2).sign(keyword_key("word"), 1, expires, body);
        entry.body = Body::Posting { content: Id::of(b"x"), name: name.into() };
        vec![entry]
    };
    net.sent.clear();
    net.hear(1, 2, Message::Hit { query: 3, entries: forged("Other word") });
    assert!(net.sent.is_empty());
    net.hear(1, 2, Message::Hit { query: 3, entries: forged("Word") });
    assert_eq!(net.sent.len(), 1, "and what it signed goes back");
    assert_eq!(net.sent[0].1, 0);
    for _ in 0..1000 {
        net.hear(1, 2, Message::Hit { query: 3, entries: forged("Word") });
    }
    assert!(net.sent.len() <= 256, "{} hits for one query", net.sent.len());
}

/// Any message, with numbers that are often right, from anybody, at any time.
#[test]
fn no_message_makes_a_node_panic_or_grow() {
    for seed in 0..40 {
        let style = match seed % 3 {
            0 => SearchStyle::Flood { ttl: 7 },
            1 => SearchStyle::ExpandingRing { ttl_max: 7 },
            _ => SearchStyle::Walk { walkers: 16, check_every: 4 },
        };
        let index_neighbours = seed % 2 == 0;
        let mut net = line(UnstructuredConfig { style, index_neighbours, ..flood(0) }, 3);
        let mut rng = StdRng::seed_from_u64(seed);
        for _ in 0..300 {
            let query = *net.nodes[&1].seen.keys().next().unwrap_or(&1);
            let message = any_message(&mut rng, net.nodes[&1].numbered, query);
            net.hear(1, rng.random_range(0..6), message);
            if rng.random_bool(0.1) {
                net.with(1, |node, now, rng, out| node.search(now, rng, "word", out)).ok();
            }
            if rng.random_bool(0.05) {
                net.now = net.now + Duration::from_secs(rng.random_range(0..600));
                net.with(1, |node, now, rng, out| node.handle_timeout(now, rng, out));
            }
            net.wire.clear();
            let node = &net.nodes[&1];
            assert!(node.neighbours.len() <= 10 && !node.neighbours.contains(&At(1)));
            assert!(node.heard_of.len() <= 64 && node.calls.len() <= 10 + 3 + 1);
            assert_eq!(node.seen.len(), node.seen_order.len());
            assert!(node.operations.len() <= query::OPERATIONS_MAX && node.waiting.len() <= 256);
            assert!(node.kept().entries <= kept::CACHE_MAX + 10 * index::INDEXED_MAX);
            assert!(index_neighbours || node.index.entries().count() == 0);
        }
    }
}

fn any_message(rng: &mut StdRng, numbered: u32, query: u64) -> Message {
    let request = numbered.wrapping_sub(rng.random_range(0..4));
    let query = if rng.random_bool(0.7) { query } else { rng.random() };
    let contacts =
        |rng: &mut StdRng| (0..rng.random_range(0..30)).map(|_| At(rng.random())).collect::<Vec<At>>();
    let wanted = |rng: &mut StdRng| match rng.random_range(0..3) {
        0 => Wanted::Under { key: Id::of(&[rng.random()]), class: Class::Value },
        1 => Wanted::Words(vec!["word".into(); rng.random_range(0..20)]),
        _ => Wanted::Words(vec!["w".repeat(rng.random_range(0..200))]),
    };
    match rng.random_range(0..13) {
        0 => Message::Connect { request },
        1 => Message::Connected { request, is_accepted: rng.random(), contacts: contacts(rng) },
        2 => Message::Disconnect,
        3 => Message::Ping { request },
        4 => Message::Pong { request, contacts: contacts(rng) },
        5 => Message::Flood { query, wanted: wanted(rng), ttl: rng.random() },
        6 => {
            let origin = At(rng.random());
            Message::Walk { query, wanted: wanted(rng), steps_left: rng.random(), origin }
        }
        7 => {
            let body = Body::Posting { content: Id::of(&[rng.random()]), name: "a word".into() };
            let expires = WALL + Duration::from_secs(rng.random_range(0..6000));
            let entry = author(9).sign(keyword_key("word"), rng.random(), expires, body);
            Message::Hit { query, entries: vec![entry; rng.random_range(0..40)] }
        }
        8 => Message::Check { query },
        9 => {
            let expires = WALL + Duration::from_secs(rng.random_range(0..6000));
            let entry = author(9).sign(Id::of(&[rng.random()]), rng.random(), expires, Body::Provider);
            let entries = vec![entry; rng.random_range(0..80)];
            Message::Index { anew: rng.random_bool(0.1), entries, withdrawn: vec![Id::of(&[rng.random()])] }
        }
        11 => Message::WalkEnded { query },
        10 => Message::IndexedPong { request, contacts: contacts(rng), indexed: rng.random_range(0..3) },
        _ => Message::Checked { query, go_on: rng.random() },
    }
}

#[test]
fn messages_are_the_same_after_the_wire() {
    let mut rng = StdRng::seed_from_u64(1);
    for _ in 0..100 {
        let message = any_message(&mut rng, 1000, 5);
        let bytes = postcard::to_extend(&message, Vec::new()).unwrap();
        assert_eq!(postcard::from_bytes::<Message>(&bytes).unwrap(), message);
    }
}
