//! Hybrids so small that one sees what is right.

mod fitness;

use std::collections::BTreeSet;

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};

use super::{
    centre::{Centre, Change, SUPERS_MAX, nearest_of},
    message::{RANGES, REPORTS_MAX},
    *,
};
use crate::{
    KademliaMessage,
    testing::{At, Net, at},
};

type Town = Net<Hybrid<At>>;
type Message = HybridMessage<At>;

const MINUTE: Duration = Duration::from_secs(60);

/// So few leaves are many that a hundred nodes have several super-peers.
fn config() -> HybridConfig {
    HybridConfig { leaves_high: 24, leaves_low: 6, ..HybridConfig::default() }
}

fn node(me: At) -> Hybrid<At> {
    Hybrid::new(me, Arc::new(config()))
}

/// `count` nodes evenly spread.
fn places(count: u8) -> Vec<u8> {
    (0..count).map(|number| number.wrapping_mul(97).wrapping_add(3)).collect()
}

fn grown(count: u8) -> Town {
    Net::grown(&places(count), node)
}

fn supers(net: &Town) -> BTreeSet<u8> {
    net.living().into_iter().filter(|place| net.nodes[place].is_super()).collect()
}

fn nearest(supers: &BTreeSet<u8>, key: Id, count: usize) -> Vec<At> {
    let mut supers: Vec<At> = supers.iter().copied().map(At).collect();
    supers.sort_by_key(|contact| contact.id().xor(key));
    supers.truncate(count);
    supers
}

/// Each super-peer knows all, and each leaf is attached to the three nearest, who have it.
fn check_whole(net: &Town) {
    let supers = supers(net);
    assert!(supers.len() >= SUPERS_MIN.min(net.living().len()), "{supers:?}");
    for place in net.living() {
        let node = &net.nodes[&place];
        if node.is_super() {
            let known: BTreeSet<u8> = node.super_peers().iter().map(|contact| contact.0).collect();
            assert_eq!(known, supers, "as {place} sees it");
            for leaf in node.leaves() {
                assert!(net.nodes[&leaf.0].attached().contains(&At(place)), "{leaf:?} is {place}'s");
            }
        } else {
            assert_eq!(node.attached(), nearest(&supers, at(place), 3), "of leaf {place}");
            for contact in node.attached() {
                assert!(net.nodes[&contact.0].leaves().contains(&At(place)), "{contact:?} has {place}");
            }
        }
    }
}

/// Keys from all over, from every node, without upkeep from here on: how many hops at most.
fn check_lookups(net: &mut Town) -> u32 {
    net.freeze();
    let supers = supers(net);
    let mut hops_max = 0;
    for from in net.living() {
        for key in (0..=255).step_by(15).map(at) {
            let located = net.locate(from, key);
            let first = located.outcome.map(|found| found[0]);
            assert_eq!(first, Ok(nearest(&supers, key, 1)[0]), "{key:?} asked at {from}");
            hops_max = hops_max.max(located.hops);
        }
    }
    hops_max
}

#[test]
fn a_node_alone_is_a_super_peer_and_finds_itself() {
    let mut net = Net::new();
    net.join(node(At(5)), &[]);
    assert_eq!(net.joined, [5]);
    let located = net.locate(5, at(200));
    assert_eq!((located.outcome, located.hops), (Ok(vec![At(5)]), 0));
}

#[test]
fn nodes_that_join_become_leaves_and_as_many_super_peers_as_they_need() {
    for count in [2, 3, 4, 8, 30, 120] {
        let mut net = grown(count);
        assert_eq!(net.joined.len(), usize::from(count));
        check_whole(&net);
        for place in supers(&net) {
            let leaves = net.nodes[&place].leaves().len();
            assert!(leaves <= config().leaves_high, "{place} has {leaves}");
        }
        assert!(check_lookups(&mut net) <= 2);
    }
}

#[test]
fn a_lookup_is_two_hops_from_a_leaf_and_one_from_a_super_peer() {
    let mut net = grown(30);
    let supers = supers(&net);
    let leaf = net.living().into_iter().find(|place| !supers.contains(place)).expect("a leaf");
    let far = |net: &Town, from: u8| {
        let near = net.nodes[&from].attached().to_vec();
        *supers.iter().find(|place| **place != from && !near.contains(&At(**place))).expect("another")
    };
    let target = far(&net, leaf);
    let located = net.locate(leaf, at(target));
    assert_eq!((located.hops, located.timeouts, located.path.len()), (2, 0, 2));
    assert_eq!(located.outcome.expect("found")[0], At(target));
    let from = *supers.first().expect("one");
    let target = far(&net, from);
    assert_eq!(net.locate(from, at(target)).hops, 1);
    assert_eq!(net.locate(from, at(from)).hops, 0);
}

#[test]
fn a_goodbye_is_heard_by_all_and_lookups_go_on() {
    for wait in [Duration::from_secs(5), 10 * MINUTE] {
        let mut net = grown(30);
        let place = *supers(&net).first().expect("one");
        net.with(place, |node, now, _, out| node.leave(now, out));
        net.deliver();
        net.dead.insert(place);
        net.run(wait);
        assert!(net.nodes.values().all(|node| !node.super_peers().contains(&At(place))));
        if wait > MINUTE {
            check_whole(&net);
        }
        assert!(check_lookups(&mut net) <= 2);
    }
}

#[test]
fn lookups_pass_by_a_super_peer_that_failed_and_it_is_made_up_for() {
    let mut frozen = grown(60);
    let place = *supers(&frozen).iter().nth(1).expect("another");
    frozen.dead.insert(place);
    check_lookups(&mut frozen);
    let mut net = grown(60);
    net.dead.insert(place);
    net.run(10 * MINUTE);
    check_whole(&net);
    assert!(check_lookups(&mut net) <= 2);
}

/// The three super-peers of a leaf at once: its contacts know others.
#[test]
fn a_leaf_whose_super_peers_are_all_gone_finds_others() {
    let mut net = grown(120);
    let supers = supers(&net);
    let leaf = net.living().into_iter().find(|place| !supers.contains(place)).expect("a leaf");
    let gone: Vec<At> = net.nodes[&leaf].attached().to_vec();
    net.dead.extend(gone.iter().map(|contact| contact.0));
    net.freeze();
    let left: BTreeSet<u8> = supers.into_iter().filter(|place| !gone.contains(&At(*place))).collect();
    for key in (0..=255).step_by(10).map(at) {
        let located = net.locate(leaf, key);
        assert_eq!(located.outcome.map(|found| found[0]), Ok(nearest(&left, key, 1)[0]), "{key:?}");
    }
}

#[test]
fn without_any_super_peer_lookups_go_on_by_kademlia() {
    let mut net = grown(60);
    net.dead = supers(&net);
    net.freeze();
    let living = net.living();
    for from in living.iter().take(8) {
        for key in (0..=255).step_by(40).map(at) {
            let located = net.locate(*from, key);
            let expected = living.iter().map(|place| At(*place)).min_by_key(|one| one.id().xor(key));
            assert_eq!(located.outcome.map(|found| found[0]).ok(), expected, "{key:?} asked at {from}");
        }
    }
}

#[test]
fn when_all_super_peers_fail_at_once_leaves_promote_others() {
    let mut net = grown(60);
    let gone = supers(&net);
    net.dead = gone.clone();
    net.run(30 * MINUTE);
    check_whole(&net);
    assert!(supers(&net).is_disjoint(&gone));
    assert!(check_lookups(&mut net) <= 2);
    assert!(net.living().iter().all(|place| net.nodes[place].losses() > 0), "what was kept is gone");
}

#[test]
fn of_two_leaves_the_longer_attached_one_is_promoted() {
    let mut net = Net::new();
    for place in [10, 200, 90] {
        net.join(node(At(place)), if place == 10 { &[] } else { &[10] });
        // 10 has nobody else until the next one is there.
        net.run(Duration::from_millis(900));
    }
    net.run(MINUTE);
    // Three are wanted, so both of them are by now; who was first says when.
    let since = |place: u8| net.nodes[&place].role_since;
    assert!(net.nodes[&200].is_super() && net.nodes[&90].is_super());
    assert!(since(200) < since(90));
}

/// A crowd comes and goes: roles follow, and do not oscillate while it stays.
#[test]
fn roles_change_with_the_load_and_rest_while_it_rests() {
    let mut net = grown(150);
    let many = supers(&net);
    let roles = |net: &Town| -> Vec<Instant> { net.nodes.values().map(|node| node.role_since).collect() };
    let before = roles(&net);
    net.run(120 * MINUTE);
    assert_eq!(roles(&net), before, "nobody's role changes in two hours of rest");
    let leaves: Vec<u8> = net.living().into_iter().filter(|place| !many.contains(place)).collect();
    for place in leaves.iter().take(120) {
        net.with(*place, |node, now, _, out| node.leave(now, out));
        net.deliver();
        net.dead.insert(*place);
    }
    net.run(120 * MINUTE);
    check_whole(&net);
    assert!(supers(&net).len() < many.len(), "{} of {}", supers(&net).len(), many.len());
}

#[test]
fn two_towns_that_meet_become_one() {
    let mut net = grown(20);
    let others: Vec<u8> = (0..20).map(|number: u8| number.wrapping_mul(97).wrapping_add(4)).collect();
    for (index, place) in others.iter().enumerate() {
        net.join(node(At(*place)), &others[..index.min(1)]);
        net.run(Duration::from_secs(5));
    }
    net.run(10 * MINUTE);
    assert!(supers(&net).len() >= 6, "they are two");
    for place in net.living() {
        net.with(place, |node, now, rng, out| node.meet(now, rng, &[At(others[0])], out));
        net.run(Duration::from_secs(1));
    }
    net.run(60 * MINUTE);
    check_whole(&net);
    assert!(check_lookups(&mut net) <= 2);
}

/// Its own voice counts more than what is said of it.
#[test]
fn who_is_said_to_be_gone_and_is_not_says_so() {
    let mut net = grown(60);
    let all: Vec<u8> = supers(&net).into_iter().collect();
    let (liar, slandered) = (all[0], all[1]);
    let report = Report { contact: At(slandered), incarnation: 0, is_up: false };
    for place in &all[2..] {
        let tell = Message::Tell { request: 900, reach: 0, reports: vec![report.clone()] };
        net.hear(*place, liar, tell);
        assert!(!net.nodes[place].super_peers().contains(&At(slandered)));
    }
    net.run(10 * MINUTE);
    check_whole(&net);
    assert!(net.nodes[&slandered].is_super());
}

/// Else one message would make a super-peer of whom somebody likes.
#[test]
fn a_leaf_follows_no_strangers_invitation() {
    let mut net = grown(60);
    let all = supers(&net);
    let leaf = net.living().into_iter().find(|place| !all.contains(place)).expect("a leaf");
    let stranger =
        *all.iter().find(|place| !net.nodes[&leaf].attached().contains(&At(**place))).expect("one");
    net.hear(leaf, stranger, Message::Promote { request: 1 });
    net.run(MINUTE);
    assert!(!net.nodes[&leaf].is_super());
    let own = net.nodes[&leaf].attached()[0];
    net.hear(leaf, own.0, Message::Chosen { voucher: At(stranger) });
    net.hear(leaf, stranger, Message::Promote { request: 2 });
    net.run(MINUTE);
    assert!(net.nodes[&leaf].is_super());
}

#[test]
fn a_leaf_tells_super_peers_nothing() {
    let mut net = grown(60);
    let all = supers(&net);
    let leaf = net.living().into_iter().find(|place| !all.contains(place)).expect("a leaf");
    let (first, second) = (*all.first().expect("one"), *all.last().expect("another"));
    let gone = Report { contact: At(second), incarnation: 9, is_up: false };
    let made_up = Report { contact: At(251), incarnation: 9, is_up: true };
    net.hear(first, leaf, Message::Tell { request: 1, reach: 30, reports: vec![gone, made_up] });
    let known: BTreeSet<u8> = net.nodes[&first].super_peers().iter().map(|contact| contact.0).collect();
    assert_eq!(known, all);
}

/// One of three lies, and names itself for every key.
#[test]
fn with_three_witnesses_one_liar_among_them_is_outvoted() {
    let honest = |witnesses| {
        let shared = Arc::new(HybridConfig { witnesses, ..config() });
        let mut net = Net::grown(&places(60), |me| Hybrid::new(me, shared.clone()));
        net.freeze();
        let supers = supers(&net);
        let leaf = net.living().into_iter().find(|place| !supers.contains(place)).expect("a leaf");
        let liar = net.nodes[&leaf].attached()[0];
        let mut right = 0;
        for key in (0..=255).step_by(5).map(at).filter(|key| nearest(&supers, *key, 1) != [liar]) {
            let asked =
                net.with(leaf, |node, now, rng, out| node.locate(now, rng, key, out)).expect("a member");
            // The liar's questions never reach it.
            while let Some((from, to, message)) = net.wire.pop_front() {
                match message {
                    Message::Find { request, .. } if to == liar => {
                        let lie = Message::Found { request, is_super: true, nearest: vec![liar] };
                        net.hear(from.0, to.0, lie);
                    }
                    message => net.hear(to.0, from.0, message),
                }
            }
            net.run(Duration::from_secs(10));
            let ended = net.finished.iter().find(|(_, located)| located.lookup == asked).expect("it ended");
            right += usize::from(
                ended.1.outcome.as_ref().is_ok_and(|found| found[0] == nearest(&supers, key, 1)[0]),
            );
        }
        right as f64
            / (0..=255).step_by(5).map(at).filter(|key| nearest(&supers, *key, 1) != [liar]).count() as f64
    };
    assert_eq!(honest(3), 1.0);
    assert!(honest(1) < 0.9, "alone it is believed");
}

#[test]
fn reports_are_believed_by_incarnation() {
    let mut centre = Centre::new(At(1), 0);
    let now = Instant::ORIGIN;
    let up = |incarnation| Report { contact: At(9), incarnation, is_up: true };
    let gone = |incarnation| Report { contact: At(9), incarnation, is_up: false };
    for (report, change) in [
        (gone(3), Change::Nothing),
        (up(1), Change::Up),
        (up(1), Change::Nothing),
        (gone(0), Change::Nothing),
        (up(2), Change::Again),
        (gone(2), Change::Gone),
        (up(2), Change::Nothing),
        (gone(5), Change::Nothing),
        (up(5), Change::Nothing),
        (up(6), Change::Up),
    ] {
        assert_eq!(centre.apply(&report, now), change, "{report:?}");
    }
    centre.apply(&gone(6), now);
    centre.forget_gone(now + Duration::from_secs(601));
    assert_eq!(centre.apply(&up(0), now), Change::Up, "after a while it is forgotten");
}

#[test]
fn the_nearest_are_found_without_looking_at_all() {
    let mut rng = StdRng::seed_from_u64(3);
    for _ in 0..200 {
        let mut ids: Vec<Id> = (0..rng.random_range(0..60)).map(|_| at(rng.random())).collect();
        ids.sort_unstable();
        ids.dedup();
        let (key, count) = (at(rng.random()), rng.random_range(0..8));
        let mut found = Vec::new();
        nearest_of(&ids, &|id| *id, key, count, &mut found);
        let found: Vec<Id> = found.into_iter().take(count).copied().collect();
        ids.sort_by_key(|id| id.xor(key));
        ids.truncate(count);
        assert_eq!(found, ids);
    }
}

#[test]
fn tables_that_differ_agree_after_they_were_compared() {
    let mut rng = StdRng::seed_from_u64(4);
    let mut centres: Vec<Centre<At>> = (0..2).map(|place| Centre::new(At(place), 0)).collect();
    for centre in &mut centres {
        for _ in 0..100 {
            let report = Report {
                contact: At(rng.random()),
                incarnation: rng.random_range(0..3),
                is_up: rng.random_bool(0.8),
            };
            centre.apply(&report, Instant::ORIGIN);
        }
    }
    for round in 0..4 {
        let (from, to) = (round % 2, 1 - round % 2);
        let digests = centres[to].digests();
        let page = centres[from].differing(&digests, rng.random_range(0..RANGES), REPORTS_MAX);
        for report in page {
            centres[to].apply(&report, Instant::ORIGIN);
        }
    }
    assert_eq!(centres[0].digest(), centres[1].digest());
    assert!(centres[0].len() > 50);
}

/// Any message, with numbers that are often right, from anybody, at any time.
#[test]
fn no_message_makes_a_node_panic_or_grow() {
    for seed in 0..20 {
        let mut net = grown(20);
        let mut rng = StdRng::seed_from_u64(seed);
        let places = net.living();
        let all: Vec<u8> = supers(&net).into_iter().collect();
        let leaves: Vec<u8> = places.iter().copied().filter(|place| !all.contains(place)).collect();
        let place = *if seed % 2 == 0 { &all } else { &leaves }.choose(&mut rng).expect("one");
        for _ in 0..300 {
            let message = any_message(&mut rng, net.nodes[&place].numbered);
            net.hear(place, rng.random(), message);
            if rng.random_bool(0.1) {
                net.with(place, |node, now, rng, out| node.locate(now, rng, at(200), out)).ok();
            }
            if rng.random_bool(0.05) {
                net.now = net.now + Duration::from_secs(rng.random_range(0..600));
                net.with(place, |node, now, rng, out| node.handle_timeout(now, rng, out));
            }
            net.wire.clear();
            let node = &net.nodes[&place];
            assert!(node.attached.len() <= 3 && node.spares.len() <= NAMED_MAX);
            assert!(node.super_peers().len() <= SUPERS_MAX && node.leaves().len() <= seat::LEAVES_MAX);
            assert!(node.lookups.len() <= LOOKUPS_MAX && node.calls.len() <= 256 + LOOKUPS_MAX * 4);
            // The tables, and 128 lookups that ask up to 64 nodes.
            assert!(node.state_bytes() < 2 << 20, "{}", node.state_bytes());
        }
    }
}

fn any_message(rng: &mut StdRng, numbered: u32) -> Message {
    let request = numbered.wrapping_sub(rng.random_range(0..6));
    let contacts = |rng: &mut StdRng| -> Vec<At> {
        (0..rng.random_range(0..3 * NAMED_MAX)).map(|_| At(rng.random())).collect()
    };
    let reports = |rng: &mut StdRng| -> Vec<Report<At>> {
        let report = |rng: &mut StdRng| Report {
            contact: At(rng.random()),
            incarnation: if rng.random_bool(0.1) { u32::MAX } else { rng.random_range(0..4) },
            is_up: rng.random(),
        };
        (0..rng.random_range(0..2 * REPORTS_MAX)).map(|_| report(rng)).collect()
    };
    let standing = Standing { is_reached: rng.random(), prompt_percent: rng.random() };
    match rng.random_range(0..21) {
        0 => Message::Kademlia(KademliaMessage::FindNode { request, key: at(rng.random()) }),
        1 => Message::Kademlia(KademliaMessage::Nodes { request, contacts: contacts(rng) }),
        2 => Message::Find { request, key: at(rng.random()), skip: rng.random() },
        3 | 4 => Message::Found { request, is_super: rng.random(), nearest: contacts(rng) },
        5 => Message::Attach { request, standing, supers: rng.random() },
        6 => Message::Attached { request, is_taken: rng.random(), supers: contacts(rng) },
        7 => Message::Detach,
        8 => Message::Supers { supers: contacts(rng) },
        9 => Message::Vouch { candidate: At(rng.random()) },
        10 => Message::Promote { request },
        11 => Message::Promoted { request, is_willing: rng.random() },
        12 | 13 => Message::Tell { request, reach: rng.random(), reports: reports(rng) },
        14 => Message::Told { request },
        15 => Message::Compare { request, digest: rng.random() },
        16 => Message::Compared { request, digest: rng.random() },
        17 => {
            let digests = (0..rng.random_range(0..2 * RANGES)).map(|_| rng.random()).collect();
            Message::Ranges { request, digests, is_return: rng.random() }
        }
        18 => Message::Page { request, reports: reports(rng) },
        19 => Message::Chosen { voucher: At(rng.random()) },
        _ => Message::NotSuper { request },
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
fn nodes_come_and_go_at_random_and_the_town_is_whole_in_the_end() {
    for seed in 0..6 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut net = grown(40);
        for _ in 0..30 {
            let living = net.living();
            let one = *living.choose(&mut rng).expect("some live");
            let new: u8 = rng.random();
            match rng.random_range(0..3) {
                0 if !net.nodes.contains_key(&new) => net.join(node(At(new)), &[one]),
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
        net.run(60 * MINUTE);
        check_whole(&net);
        check_lookups(&mut net);
    }
}
