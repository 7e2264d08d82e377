//! Pastry on a ring so small that one sees what is right; see `testing`. Digits have two bits,
//! so that there are rows.

use rand::{Rng, seq::IndexedRandom};

use super::{lookup::Question, *};
use crate::testing::{At, Net, at};

type Message = PastryMessage<At>;
type Ring = Net<Pastry<At>>;

fn config() -> PastryConfig {
    PastryConfig { bits_per_digit: 2, leaves: 4, neighbours: 3, ..PastryConfig::default() }
}

/// Whoever has the lower number is nearer, from everywhere.
fn round_trip(other: &At) -> Duration {
    Duration::from_millis(other.0.into())
}

fn converged(config: PastryConfig, places: &[u8]) -> Ring {
    let config = Arc::new(config);
    Net::converged(places, |me, ring| Pastry::converged(me, config.clone(), ring, round_trip))
}

fn grown(config: PastryConfig, places: &[u8]) -> Ring {
    let config = Arc::new(config);
    Net::grown(places, |me| Pastry::new(me, config.clone()))
}

fn distance(key: Id, node: Id) -> impl Ord {
    tables::distance(key, node)
}

const PLACES: [u8; 24] = [
    3, 9, 14, 21, 33, 38, 42, 48, 51, 56, 77, 90, 101, 120, 130, 140, 155, 160, 177, 191, 200, 222, 240, 254,
];

/// Each half of each node's leaf set, by the definition.
#[track_caller]
fn check_leaf_sets(net: &Ring) {
    let living = net.living();
    for (index, place) in living.iter().enumerate() {
        let count = living.len();
        let expected = |step: usize| -> Vec<At> {
            (1..=2.min(count - 1)).map(|offset| At(living[(index + step * offset) % count])).collect()
        };
        let [smaller, larger] = net.nodes[place].leaf_set();
        assert_eq!((smaller, larger), (&expected(count - 1)[..], &expected(1)[..]), "{place}");
    }
}

/// Each place of each table is taken by a living node that belongs there, if there is one.
#[track_caller]
fn check_tables(net: &Ring) {
    let living = net.living();
    for place in &living {
        let known = net.nodes[place].contacts();
        for row in 0..4 {
            for digit in 0..4 {
                let belongs = |other: &u8| {
                    let shared = (other ^ place).leading_zeros() as usize / 2;
                    other != place && shared == row && at(*other).digit(row, 2) == digit
                };
                let range: Vec<At> = living.iter().copied().filter(belongs).map(At).collect();
                let is_taken = net.nodes[place].tables.row(row).any(|entry| range.contains(entry));
                assert_eq!(is_taken, !range.is_empty(), "{place}: row {row}, digit {digit}, {known:?}");
            }
        }
    }
}

#[test]
fn tables_are_what_the_paper_says_set_up_or_grown() {
    for net in [converged(config(), &PLACES), grown(config(), &PLACES)] {
        check_leaf_sets(&net);
        check_tables(&net);
    }
    // Row 0 of 77, 01·00·11·01: the nearest of those that begin with 00, 10 and 11.
    let net = converged(config(), &PLACES);
    let rows: Vec<Vec<&At>> = net.nodes[&77].rows().collect();
    assert_eq!(rows[0], [&At(3), &At(130), &At(200)]);
    assert_eq!(rows[1], [&At(90), &At(101), &At(120)]);
}

#[test]
fn every_key_is_found_from_everywhere() {
    for bits_per_digit in [1, 2, 4] {
        let config = PastryConfig { bits_per_digit, ..config() };
        converged(config.clone(), &PLACES).check_all_lookups(distance);
        grown(config, &PLACES).check_all_lookups(distance);
    }
}

/// Section 2.3: each hop has one digit more in common with the key, until a leaf set reaches
/// round it.
#[test]
fn a_lookup_goes_digit_by_digit_and_the_answer_comes_back_the_same_way() {
    let mut net = converged(config(), &PLACES);
    net.freeze();
    // 11·11·11·10; 3 is 00·00·00·11.
    let located = net.locate(48, at(222));
    assert_eq!((located.outcome, located.hops, located.timeouts), (Ok(vec![At(222)]), 2, 0));
    let said: Vec<(u8, u8, &str)> = net
        .sent
        .iter()
        .map(|(from, to, message)| match message {
            Message::Relay { .. } => (*from, *to, "relay"),
            Message::Accepted { .. } => (*from, *to, "accepted"),
            Message::Relayed { .. } => (*from, *to, "relayed"),
            _ => (*from, *to, "?"),
        })
        .collect();
    assert_eq!(
        said,
        [
            (48, 200, "relay"),
            (200, 48, "accepted"),
            (200, 222, "relay"),
            (222, 200, "relayed"),
            (200, 48, "relayed")
        ]
    );
    assert_eq!(net.locate(48, at(49)).hops, 0, "one's own key costs no hop");
}

#[test]
fn one_node_alone_is_responsible_for_all_and_two_share() {
    let mut net = grown(config(), &[9]);
    assert_eq!(net.locate(9, at(200)).outcome, Ok(vec![At(9)]));
    net.join(Pastry::new(At(100), Arc::new(config())), &[9]);
    net.run(Duration::from_secs(5));
    assert_eq!(net.joined, [9, 100]);
    net.check_all_lookups(distance);
}

#[test]
fn a_node_whose_only_acquaintance_is_silent_joins_when_it_is_back() {
    let mut net = grown(config(), &PLACES);
    net.dead.insert(42);
    net.join(Pastry::new(At(7), Arc::new(config())), &[42]);
    net.run(Duration::from_secs(20));
    assert!(!net.joined.contains(&7));
    net.dead.clear();
    net.run(Duration::from_secs(120));
    assert!(net.joined.contains(&7));
    net.run(Duration::from_secs(3600));
    check_leaf_sets(&net);
}

/// Section 2.5.
#[test]
fn the_places_of_failed_nodes_are_filled_by_others() {
    let mut net = converged(config(), &PLACES);
    net.dead.extend([14, 48, 56, 130, 155, 222]);
    // Before any repair the leaf sets are enough, for no half of one is dead.
    net.freeze();
    net.check_all_lookups(distance);
    net.nodes.values_mut().for_each(|node| node.frozen = false);
    net.run(Duration::from_secs(4 * 3600));
    check_leaf_sets(&net);
    check_tables(&net);
}

#[test]
fn who_leaves_is_gone_at_once() {
    let mut net = converged(config(), &PLACES);
    net.with(51, |node, now, _, out| node.leave(now, out));
    net.dead.insert(51);
    net.run(Duration::from_secs(5));
    assert!(net.living().iter().all(|place| {
        let node = &net.nodes[place];
        !node.leaf_set().concat().contains(&At(51))
    }));
    check_leaf_sets(&net);
    net.check_all_lookups(distance);
    assert_eq!(net.nodes[&51].poll_timeout(), None);
}

#[test]
fn the_nearer_of_two_gets_the_place_in_the_table() {
    let mut tables = Tables::new(At(0), 2, 2, 3);
    tables.offer(&At(130), FAR);
    tables.offer(&At(140), 30);
    tables.offer(&At(150), 40);
    assert_eq!(tables.row(0).collect::<Vec<_>>(), [&At(140)], "measured before unmeasured");
    tables.offer(&At(160), 20);
    tables.offer(&At(170), 25);
    tables.offer(&At(160), 50);
    assert_eq!(tables.row(0).collect::<Vec<_>>(), [&At(160)], "and its round trip is what it was last");
    tables.offer(&At(170), 25);
    assert_eq!(tables.row(0).collect::<Vec<_>>(), [&At(170)]);
    assert_eq!(tables.neighbours().collect::<Vec<_>>(), [&At(170), &At(140), &At(160)]);
}

#[test]
fn who_was_only_named_is_in_no_table() {
    let mut net = converged(config(), &[3, 9, 200]);
    net.sent.clear();
    net.run(Duration::from_secs(50));
    let (asked, request) = net
        .sent
        .iter()
        .find_map(|(from, to, message)| match message {
            Message::GetLeaves { request } if *from == 3 => Some((*to, *request)),
            _ => None,
        })
        .expect("leaves are asked for theirs");
    let node = net.nodes.get_mut(&3).expect("a node");
    node.call(net.now, At(asked), Question::Leaves, &mut Out::default());
    let request = request.max(node.numbered);
    net.hear(3, asked, Message::Leaves { request, contacts: vec![At(5), At(250)] });
    assert!(net.sent.iter().any(|(_, to, message)| *to == 5 && matches!(message, Message::Ping { .. })));
    net.run(Duration::from_secs(10));
    assert_eq!(net.nodes[&3].contacts(), [9, 200].map(At), "nobody is there");
}

/// Two rings that forgot each other.
#[test]
fn rings_whose_nodes_meet_become_one() {
    let mut net = grown(config(), &[3, 33, 77, 130, 200]);
    for (index, place) in [9, 42, 101, 155, 240].into_iter().enumerate() {
        net.join(Pastry::new(At(place), Arc::new(config())), if index == 0 { &[] } else { &[9] });
        net.run(Duration::from_secs(60));
    }
    assert!(!net.nodes[&3].contacts().contains(&At(9)), "they are two");
    for place in [3, 33, 77, 130, 200] {
        net.with(place, |node, now, rng, out| node.meet(now, rng, &[At(9)], out));
        net.run(Duration::from_secs(5));
    }
    net.run(Duration::from_secs(3600));
    check_leaf_sets(&net);
    net.check_all_lookups(distance);
}

#[test]
fn a_node_tells_who_is_responsible_from_its_own_tables() {
    let mut net = converged(config(), &PLACES);
    let responsible = |net: &Ring, key, count| net.nodes[&51].responsible(at(key), count);
    assert_eq!(responsible(&net, 51, 3), [51, 48, 56].map(At));
    assert_eq!(responsible(&net, 55, 2), [56, 51].map(At));
    let before = net.nodes[&51].neighbourhood();
    net.hear(51, 53, Message::Hello);
    assert_ne!(net.nodes[&51].neighbourhood(), before);
    assert_eq!(responsible(&net, 54, 2), [53, 56].map(At));
}

#[test]
fn nothing_is_looked_up_outside_and_no_more_than_the_limit_inside() {
    let mut node = Pastry::new(At(5), Arc::new(config()));
    let mut rng = StdRng::seed_from_u64(1);
    let outside = node.locate(Instant::ORIGIN, &mut rng, at(1), &mut Out::default());
    assert_eq!(outside, Err(LocateError::NotJoined));

    let mut net = converged(config(), &PLACES);
    let locate = |net: &mut Ring| net.with(3, |node, now, rng, out| node.locate(now, rng, at(150), out));
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
    net.with(3, |node, now, rng, out| node.locate(now, rng, at(150), out)).expect("a member");
    let (_, asked, Message::Relay { request, .. }) = net.sent[0].clone() else { panic!("a question") };
    let owner = Some(At(77));
    // From the wrong node, with a wrong number, and of the wrong kind.
    for (from, answer) in [
        (77, Message::Relayed { request, owner, hops: 0, timeouts: 0 }),
        (asked, Message::Relayed { request: request + 1, owner, hops: 0, timeouts: 0 }),
        (asked, Message::Leaves { request, contacts: vec![At(77)] }),
    ] {
        net.hear(3, from, answer);
    }
    assert_eq!((net.finished.len(), net.sent.len()), (0, 1));
}

/// Who keeps saying that it took the question is not waited for for ever.
#[test]
fn a_lookup_that_was_taken_on_and_lost_ends() {
    let mut net = converged(config(), &PLACES);
    net.freeze();
    net.sent.clear();
    net.with(3, |node, now, rng, out| node.locate(now, rng, at(150), out)).expect("a member");
    let (_, asked, Message::Relay { request, .. }) = net.sent[0].clone() else { panic!("a question") };
    net.wire.clear();
    for _ in 0..30 {
        net.hear(3, asked, Message::Accepted { request });
        net.run(Duration::from_secs(1));
        net.wire.clear();
    }
    assert_eq!(net.finished[0].1.outcome, Err(LookupError::TimedOut));
}

/// Any message, with numbers that are often right, from anybody, at any time.
#[test]
fn no_message_makes_a_node_panic_or_grow() {
    for seed in 0..100 {
        let mut net = converged(config(), &PLACES);
        let mut rng = StdRng::seed_from_u64(seed);
        for _ in 0..300 {
            let message = any_message(&mut rng, net.nodes[&3].numbered);
            net.hear(3, rng.random(), message);
            if rng.random_bool(0.1) {
                net.with(3, |node, now, rng, out| node.locate(now, rng, at(200), out)).ok();
            }
            if rng.random_bool(0.05) {
                net.now = net.now + Duration::from_secs(rng.random_range(0..60));
                net.with(3, |node, now, rng, out| node.handle_timeout(now, rng, out));
            }
            net.wire.clear();
            let node = &net.nodes[&3];
            assert!(node.leaf_set().iter().all(|half| half.len() <= 2 && !half.contains(&At(3))));
            assert!(node.tables.neighbours().count() <= 3);
            assert!(node.lookups.len() <= LOOKUPS_MAX + RELAYS_MAX);
            assert!(node.to_probe.len() <= 4 * CONTACTS_PER_MESSAGE_MAX && node.way.len() <= 2 * NEXT_MAX);
            assert!(node.state_bytes() < 1 << 20, "{}", node.state_bytes());
        }
    }
}

fn any_message(rng: &mut StdRng, numbered: u32) -> Message {
    let request = numbered.wrapping_sub(rng.random_range(0..6));
    let key = at(rng.random());
    let contacts = |rng: &mut StdRng| -> Vec<At> {
        (0..rng.random_range(0..2 * CONTACTS_PER_MESSAGE_MAX)).map(|_| At(rng.random())).collect()
    };
    match rng.random_range(0..13) {
        0 => Message::Relay { request, key, hops_left: rng.random() },
        1 => Message::Accepted { request },
        2 => {
            let owner = rng.random_bool(0.7).then(|| At(rng.random()));
            Message::Relayed { request, owner, hops: rng.random(), timeouts: rng.random() }
        }
        3 => Message::Ask { request, key },
        4 => Message::State {
            request,
            next: contacts(rng),
            rows: contacts(rng),
            leaves: contacts(rng),
            neighbours: contacts(rng),
        },
        5 => Message::GetLeaves { request },
        6 => Message::Leaves { request, contacts: contacts(rng) },
        7 => Message::GetRow { request, row: rng.random() },
        8 => Message::Row { request, contacts: contacts(rng) },
        9 => Message::Ping { request },
        10 => Message::Pong { request },
        11 => Message::Hello,
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
fn nodes_come_and_go_at_random_and_the_leaf_sets_are_right_in_the_end() {
    for seed in 0..10 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut net = grown(config(), &PLACES);
        for _ in 0..20 {
            let living = net.living();
            let one = *living.choose(&mut rng).expect("some live");
            let new = rng.random();
            match rng.random_range(0..3) {
                0 if !net.nodes.contains_key(&new) => {
                    net.join(Pastry::new(At(new), Arc::new(config())), &[one]);
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
        net.run(Duration::from_secs(4 * 3600));
        check_leaf_sets(&net);
        net.check_all_lookups(distance);
    }
}
