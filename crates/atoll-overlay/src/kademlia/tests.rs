//! Kademlia on a tree so small that one sees what is right; see `testing`.

use std::collections::BTreeSet;

use rand::{Rng, seq::IndexedRandom};

use super::{message::CONTACTS_PER_MESSAGE_MAX, search::Next, search::Search, tables::Seen, *};
use crate::testing::{At, Net, at};

type Message = KademliaMessage<At>;
type Tree = Net<Kademlia<At>>;

/// Buckets of 4, so that some are full.
fn config() -> KademliaConfig {
    KademliaConfig { k: 4, ..KademliaConfig::default() }
}

fn converged(config: KademliaConfig, places: &[u8]) -> Tree {
    let config = Arc::new(config);
    Net::converged(places, |me, ring| Kademlia::converged(me, config.clone(), ring))
}

fn grown(config: KademliaConfig, places: &[u8]) -> Tree {
    let config = Arc::new(config);
    Net::grown(places, |me| Kademlia::new(me, config.clone()))
}

fn xor(key: Id, node: Id) -> Id {
    key.xor(node)
}

/// Twenty-four, of which fourteen lie in the lower half.
const PLACES: [u8; 24] = [
    3, 9, 14, 21, 33, 38, 42, 48, 51, 56, 77, 90, 101, 120, 130, 140, 155, 160, 177, 191, 200, 222, 240, 254,
];

fn buckets(node: &Kademlia<At>) -> Vec<BTreeSet<u8>> {
    node.buckets().map(|bucket| bucket.iter().map(|contact| contact.0).collect()).collect()
}

/// All nodes of the bucket's range, by the definition of section 2.2.
fn range(me: u8, bucket: usize, places: &[u8]) -> BTreeSet<u8> {
    places.iter().copied().filter(|place| (place ^ me).leading_zeros() as usize == bucket).collect()
}

#[track_caller]
fn check_buckets(net: &Tree, k: usize) {
    let living = net.living();
    for place in &living {
        let buckets = buckets(&net.nodes[place]);
        for bucket in 0..8 {
            let range = range(*place, bucket, &living);
            let known = buckets.get(bucket).cloned().unwrap_or_default();
            assert!(known.is_subset(&range), "{place}, bucket {bucket}: {known:?} of {range:?}");
            assert_eq!(known.len(), range.len().min(k), "{place}, bucket {bucket}: {known:?} of {range:?}");
        }
    }
}

#[test]
fn every_bucket_is_full_of_its_range_set_up_or_grown() {
    check_buckets(&converged(config(), &PLACES), 4);
    check_buckets(&grown(config(), &PLACES), 4);
}

/// Section 4.2: with b = 2 a step's two bits make three buckets, 11, 10 and 01.
#[test]
fn with_two_bits_a_step_each_bucket_is_a_quarter() {
    let node = &converged(KademliaConfig { bits_per_step: 2, k: 20, ..config() }, &PLACES).nodes[&3];
    let expected: [&[u8]; 9] = [
        &[200, 222, 240, 254],
        &[130, 140, 155, 160, 177, 191],
        &[77, 90, 101, 120],
        &[48, 51, 56],
        &[33, 38, 42],
        &[21],
        &[14],
        &[9],
        &[],
    ];
    let expected: Vec<BTreeSet<u8>> =
        expected.iter().map(|places| places.iter().copied().collect()).collect();
    assert_eq!(buckets(node), expected[..8]);
}

#[test]
fn every_key_is_found_from_everywhere() {
    for bits_per_step in [1, 2, 4] {
        for disjoint_paths in [1, 3] {
            let config = KademliaConfig { bits_per_step, disjoint_paths, ..config() };
            converged(config.clone(), &PLACES).check_all_lookups(xor);
            grown(config, &PLACES).check_all_lookups(xor);
        }
    }
}

#[test]
fn an_answer_names_the_k_nearest_in_order() {
    let mut net = converged(config(), &PLACES);
    let located = net.locate(3, at(150));
    let mut nearest = PLACES.map(|place| (place ^ 150, At(place)));
    nearest.sort_unstable();
    assert_eq!(located.outcome, Ok(nearest[..4].iter().map(|(_, contact)| *contact).collect()));
    assert_eq!(located.timeouts, 0);
    // Everybody who is in the answer was asked, and answered.
    assert!(
        nearest[..4]
            .iter()
            .all(|(_, one)| { located.path.iter().any(|step| step.contact == *one && step.answered) })
    );
}

#[test]
fn hops_count_the_nodes_that_led_to_the_nearest() {
    // A line: each node knows the next one only.
    let mut net = Tree::new();
    let shared = Arc::new(KademliaConfig { alpha: 1, ..config() });
    for (place, knows) in [(1, 128), (128, 192), (192, 224), (224, 240), (240, 1)] {
        let ring =
            [(at(place.min(knows)), At(place.min(knows))), (at(place.max(knows)), At(place.max(knows)))];
        net.nodes.insert(place, Kademlia::converged(At(place), shared.clone(), &ring));
    }
    net.freeze();
    let located = net.locate(1, at(241));
    assert_eq!((located.outcome.map(|found| found[0]), located.hops), (Ok(At(240)), 4));
    assert_eq!(net.locate(1, at(1)).hops, 0, "one's own key costs no hop");
}

#[test]
fn alpha_questions_are_under_way_and_k_when_they_lead_no_nearer() {
    let mut net = converged(KademliaConfig { k: 8, alpha: 2, ..config() }, &PLACES);
    net.freeze();
    net.sent.clear();
    net.with(3, |node, now, rng, out| node.locate(now, rng, at(255), out)).expect("a member");
    assert_eq!(net.sent.len(), 2);
    // Nobody answers: both are asked again, and others in their stead.
    net.wire.clear();
    net.now = net.now + Duration::from_secs(1);
    net.with(3, |node, now, rng, out| node.handle_timeout(now, rng, out));
    let asked: BTreeSet<u8> = net.sent.iter().map(|(_, to, _)| *to).collect();
    assert_eq!((net.sent.len(), asked.len()), (4 + 6, 8), "two again, and more up to k = 8");
}

#[test]
fn one_node_alone_is_responsible_for_all_and_two_share() {
    let mut net = grown(config(), &[9]);
    assert_eq!(net.locate(9, at(200)).outcome, Ok(vec![At(9)]));
    net.join(Kademlia::new(At(100), Arc::new(config())), &[9]);
    net.run(Duration::from_secs(1));
    assert_eq!(net.joined, [9, 100]);
    net.check_all_lookups(xor);
}

#[test]
fn a_node_whose_only_acquaintance_is_silent_joins_when_it_is_back() {
    let mut net = grown(config(), &PLACES);
    net.dead.insert(42);
    net.join(Kademlia::new(At(7), Arc::new(config())), &[42]);
    net.run(Duration::from_secs(60));
    assert!(!net.joined.contains(&7));
    net.dead.clear();
    net.run(Duration::from_secs(60));
    assert!(net.joined.contains(&7));
    net.run(Duration::from_secs(3600));
    check_buckets(&net, 4);
}

#[test]
fn failed_nodes_are_gone_after_the_buckets_were_refreshed() {
    let mut net = converged(config(), &PLACES);
    net.dead.extend([14, 21, 48, 130, 140, 155, 254]);
    let dead = net.dead.clone();
    net.check_all_lookups(xor);
    net.run(Duration::from_secs(3600));
    check_buckets(&net, 4);
    for place in net.living() {
        assert!(buckets(&net.nodes[&place]).iter().all(|bucket| bucket.is_disjoint(&dead)), "{place}");
    }
}

#[test]
fn who_leaves_is_gone_at_once_from_its_neighbours() {
    let mut net = converged(config(), &PLACES);
    net.with(51, |node, now, _, out| node.leave(now, out));
    net.deliver();
    net.dead.insert(51);
    for neighbour in [48, 56] {
        assert!(!buckets(&net.nodes[&neighbour]).iter().any(|bucket| bucket.contains(&51)), "{neighbour}");
    }
    net.check_all_lookups(xor);
    assert_eq!(net.nodes[&51].poll_timeout(), None);
}

/// Section 2.2: the least recently seen is asked, and stays if it answers.
#[test]
fn a_newcomer_gets_the_place_of_the_oldest_only_if_that_one_is_dead() {
    for oldest_lives in [true, false] {
        let mut net = converged(config(), &PLACES);
        let oldest = net.nodes[&3].buckets().next().expect("a far bucket")[0];
        if !oldest_lives {
            net.dead.insert(oldest.0);
        }
        net.hear(3, 199, Message::Ping { request: 1 });
        assert!(!buckets(&net.nodes[&3])[0].contains(&199), "the bucket is full");
        // Somebody is heard of meanwhile, so this node is not the one that was cut off.
        net.run(Duration::from_millis(1500));
        net.hear(3, 9, Message::Ping { request: 2 });
        net.run(Duration::from_secs(1));
        let far = &buckets(&net.nodes[&3])[0];
        assert_eq!((far.contains(&oldest.0), far.contains(&199)), (oldest_lives, !oldest_lives));
        let last = net.nodes[&3].buckets().next().expect("a far bucket")[3];
        assert_eq!(last, if oldest_lives { oldest } else { At(199) }, "the most recently seen is the last");
        // It is asked in its turn, and there is no such node.
        net.run(Duration::from_secs(5));
        assert!(!buckets(&net.nodes[&3])[0].contains(&199));
    }
}

#[test]
fn strangers_make_a_node_probe_now_and_then_and_no_more() {
    let mut net = converged(config(), &PLACES);
    for stranger in 128..=255 {
        net.hear(3, stranger, Message::Nodes { request: 0, contacts: vec![] });
    }
    let pings = net.sent.iter().filter(|(_, _, message)| matches!(message, Message::Ping { .. })).count();
    assert_eq!(pings, 1);
}

/// Section 4.1's reason to keep contacts that do not answer.
#[test]
fn a_node_that_was_cut_off_keeps_its_contacts() {
    let mut net = converged(config(), &PLACES);
    let before = buckets(&net.nodes[&3]);
    net.dead.extend(PLACES.iter().filter(|place| **place != 3));
    assert_eq!(net.locate(3, at(200)).outcome, Err(LookupError::Exhausted));
    net.run(Duration::from_secs(3600));
    assert_eq!(buckets(&net.nodes[&3]), before);
    net.dead.clear();
    assert_eq!(net.locate(3, at(200)).outcome.map(|found| found[0]), Ok(At(200)));
}

#[test]
fn who_was_only_named_is_in_no_table() {
    let mut net = converged(config(), &[3, 9, 200]);
    net.with(3, |node, now, rng, out| node.locate(now, rng, at(210), out)).expect("a member");
    // Everybody names somebody who does not exist.
    let asked: Vec<_> = net.sent.drain(..).filter(|(from, ..)| *from == 3).collect();
    for (_, to, message) in asked {
        let Message::FindNode { request, .. } = message else { continue };
        net.hear(3, to, Message::Nodes { request, contacts: vec![At(209), At(211)] });
    }
    net.wire.clear();
    net.run(Duration::from_secs(60));
    let known: BTreeSet<u8> = buckets(&net.nodes[&3]).into_iter().flatten().collect();
    assert_eq!(known, BTreeSet::from([9, 200]));
    assert_eq!(net.finished[0].1.outcome, Ok(vec![At(200), At(3), At(9)]));
    assert_eq!(net.finished[0].1.timeouts, 2);
}

/// Two parts of a network that forgot each other.
#[test]
fn parts_whose_nodes_meet_become_one() {
    let mut net = grown(config(), &[3, 33, 77, 130, 200]);
    for (index, place) in [9, 42, 101, 155, 240].into_iter().enumerate() {
        net.join(Kademlia::new(At(place), Arc::new(config())), if index == 0 { &[] } else { &[9] });
        net.run(Duration::from_secs(60));
    }
    assert!(net.nodes[&3].contacts().iter().all(|contact| contact.0 != 9), "they are two");
    for place in [3, 33, 77, 130, 200] {
        net.with(place, |node, now, rng, out| node.meet(now, rng, &[At(9)], out));
        net.run(Duration::from_secs(5));
    }
    net.run(Duration::from_secs(3600));
    check_buckets(&net, 4);
    net.check_all_lookups(xor);
}

#[test]
fn a_node_tells_who_is_responsible_from_its_own_tables() {
    let mut net = converged(config(), &PLACES);
    let responsible = |net: &Tree, key, count| net.nodes[&51].responsible(at(key), count);
    assert_eq!(responsible(&net, 51, 3), [51, 48, 56].map(At));
    assert_eq!(responsible(&net, 57, 3), [56, 48, 51].map(At));
    let before = net.nodes[&51].neighbourhood();
    net.hear(51, 50, Message::Ping { request: 1 });
    assert_ne!(net.nodes[&51].neighbourhood(), before);
    assert_eq!(responsible(&net, 51, 3), [51, 50, 48].map(At));
    let before = net.nodes[&51].neighbourhood();
    net.hear(51, 129, Message::Ping { request: 1 });
    assert_eq!(net.nodes[&51].neighbourhood(), before, "the far half is full, and none of its keys are ours");
}

#[test]
fn nothing_is_looked_up_outside_and_no_more_than_the_limit_inside() {
    let mut node = Kademlia::new(At(5), Arc::new(config()));
    let mut rng = StdRng::seed_from_u64(1);
    let outside = node.locate(Instant::ORIGIN, &mut rng, at(1), &mut Out::default());
    assert_eq!(outside, Err(LocateError::NotJoined));

    let mut net = converged(config(), &PLACES);
    let locate = |net: &mut Tree| net.with(3, |node, now, rng, out| node.locate(now, rng, at(250), out));
    for _ in 0..LOOKUPS_MAX {
        locate(&mut net).expect("below the limit");
    }
    assert_eq!(locate(&mut net), Err(LocateError::TooManyLookups { limit: LOOKUPS_MAX }));
    net.run(Duration::from_secs(1));
    assert_eq!(net.finished.len(), LOOKUPS_MAX);
    locate(&mut net).expect("there is room again");
    net.with(3, |node, now, _, out| node.leave(now, out));
    assert_eq!(net.finished[LOOKUPS_MAX].1.outcome, Err(LookupError::Left));
}

#[test]
fn answers_that_nobody_asked_for_do_not_count() {
    let mut net = converged(config(), &PLACES);
    net.sent.clear();
    net.with(3, |node, now, rng, out| node.locate(now, rng, at(250), out)).expect("a member");
    let (_, asked, Message::FindNode { request, .. }) = net.sent[0].clone() else { panic!("a question") };
    let sent = net.sent.len();
    // From the wrong node, with a wrong number, and of the wrong kind.
    for (from, answer) in [
        (77, Message::Nodes { request, contacts: vec![At(251)] }),
        (asked, Message::Nodes { request: request + 100, contacts: vec![At(251)] }),
        (asked, Message::Pong { request }),
    ] {
        net.hear(3, from, answer);
    }
    assert_eq!((net.finished.len(), net.sent.len()), (0, sent));
}

/// S/Kademlia, section 4.4: no node is asked on two paths.
#[test]
fn paths_have_no_node_in_common_and_a_liar_spoils_one() {
    let seeds: Vec<At> = (1..=4).map(At).collect();
    let mut search = Search::new(at(100), 4, 3, 4, seeds);
    let mut asked: Vec<(u8, At)> = Vec::new();
    while let Next::Ask { to, path } = search.next() {
        assert!(asked.iter().all(|(_, other)| *other != to), "{to:?} is asked twice");
        asked.push((path, to));
        // Path 0 is led astray from its first step on.
        let named: Vec<At> = match path {
            0 => (0..8).map(|one| At(200 + one)).collect(),
            _ => [97, 98, 99, 101, 102, 103].map(At).to_vec(),
        };
        search.answered(path, &to, &At(0), named);
    }
    assert!(asked.iter().all(|(path, to)| *path == 0 || to.0 < 200), "{asked:?}");
    let nearest: Vec<u8> = search.found().nearest.iter().map(|(contact, _)| contact.0).collect();
    assert_eq!(nearest, [101, 102, 103, 97]);
}

#[test]
fn a_liar_who_names_ever_nearer_nodes_ends_a_lookup_and_no_more() {
    let mut search = Search::new(at(0), 4, 3, 1, vec![At(255)]);
    let mut asked = 0;
    loop {
        match search.next() {
            Next::Ask { to, path } => {
                asked += 1;
                search.answered(path, &to, &At(0), (1..to.0).map(At).rev().take(200).collect());
            }
            Next::Done | Next::TooLong => break,
            Next::Wait => panic!("nothing is under way"),
        }
    }
    assert!(asked <= search::CONTACTS_ASKED_MAX);
    assert!(search.heap_bytes() < 64 * 1024, "{}", search.heap_bytes());
}

#[test]
fn one_who_fails_twice_loses_its_place_to_the_one_who_waited_last() {
    let mut tables = Tables::new(At(0), 2, 1, usize::MAX);
    for place in [129, 130, 131, 132] {
        tables.seen(At(place), Instant::ORIGIN);
    }
    let far = |tables: &Tables<At>| tables.buckets().next().expect("one").to_vec();
    assert_eq!(tables.seen(At(131), Instant::ORIGIN), Seen::Full { oldest: At(129) });
    tables.failed(&At(130));
    tables.seen(At(130), Instant::ORIGIN);
    tables.failed(&At(130));
    assert_eq!(far(&tables), [129, 130].map(At), "not twice in a row");
    assert_eq!(tables.closest(at(130), 2, false), [129].map(At), "a suspect is named to nobody");
    tables.failed(&At(130));
    assert_eq!(far(&tables), [129, 131].map(At));
}

/// Any message, with numbers that are often right, from anybody, at any time.
#[test]
fn no_message_makes_a_node_panic_or_grow() {
    for seed in 0..100 {
        let shared = KademliaConfig { disjoint_paths: 1 + seed as usize % 3, ..config() };
        let mut net = converged(shared, &PLACES);
        let mut rng = StdRng::seed_from_u64(seed);
        for _ in 0..300 {
            let message = any_message(&mut rng, net.nodes[&3].numbered);
            net.hear(3, rng.random(), message);
            if rng.random_bool(0.1) {
                net.with(3, |node, now, rng, out| node.locate(now, rng, at(200), out)).ok();
            }
            if rng.random_bool(0.05) {
                net.now = net.now + Duration::from_secs(rng.random_range(0..600));
                net.with(3, |node, now, rng, out| node.handle_timeout(now, rng, out));
            }
            net.wire.clear();
            let node = &net.nodes[&3];
            assert!(node.buckets().enumerate().all(|(bucket, contacts)| {
                let is_right = |contact: &At| (contact.0 ^ 3).leading_zeros() as usize == bucket;
                contacts.len() <= 4 && contacts.iter().all(is_right)
            }));
            assert!(node.lookups.len() <= LOOKUPS_MAX + 2);
            assert!(node.calls.len() <= node.lookups.len() * search::CONTACTS_ASKED_MAX + 32);
            // The table, 128 lookups with up to 256 candidates on each path, and their calls.
            assert!(node.state_bytes() < 2 << 20, "{}", node.state_bytes());
        }
    }
}

fn any_message(rng: &mut StdRng, numbered: u32) -> Message {
    let request = numbered.wrapping_sub(rng.random_range(0..6));
    match rng.random_range(0..5) {
        0 => Message::Ping { request },
        1 => Message::Pong { request },
        2 => Message::FindNode { request, key: at(rng.random()) },
        3 => {
            let count = rng.random_range(0..3 * CONTACTS_PER_MESSAGE_MAX);
            Message::Nodes { request, contacts: (0..count).map(|_| At(rng.random())).collect() }
        }
        _ => Message::Leaving,
    }
}

#[test]
fn messages_are_the_same_after_the_wire() {
    let mut rng = StdRng::seed_from_u64(1);
    for _ in 0..200 {
        let message = any_message(&mut rng, 1000);
        let bytes = postcard::to_extend(&message, Vec::new()).unwrap();
        assert_eq!(postcard::from_bytes::<Message>(&bytes).unwrap(), message);
    }
}

#[test]
fn nodes_come_and_go_at_random_and_the_tree_is_whole_in_the_end() {
    for seed in 0..10 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut net = grown(config(), &PLACES);
        for _ in 0..20 {
            let living = net.living();
            let one = *living.choose(&mut rng).expect("some live");
            let new = rng.random();
            match rng.random_range(0..3) {
                0 if !net.nodes.contains_key(&new) => {
                    net.join(Kademlia::new(At(new), Arc::new(config())), &[one]);
                }
                1 if living.len() > 8 => {
                    net.dead.insert(one);
                }
                _ if living.len() > 8 => {
                    net.with(one, |node, now, _, out| node.leave(now, out));
                    net.deliver();
                    net.dead.insert(one);
                }
                _ => {}
            }
            net.run(Duration::from_secs(rng.random_range(0..90)));
        }
        net.run(Duration::from_secs(2 * 3600));
        check_buckets(&net, 4);
    }
}
