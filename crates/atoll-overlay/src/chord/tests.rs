//! Chord on a ring so small that one sees what is right: contact n stands at n of 256.
//!
//! The network here delivers at once and in order; time passes only when nothing is on its way.

use std::collections::{BTreeMap, VecDeque};

use rand::{Rng, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use serde::{Deserialize, Serialize};

use super::{search::Step, *};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct At(u8);

impl Contact for At {
    fn id(&self) -> Id {
        at(self.0)
    }
}

type Message = ChordMessage<At>;

fn at(place: u8) -> Id {
    Id::from_halves(u128::from(place) << 120, 0)
}

fn config() -> ChordConfig {
    ChordConfig { successors: 3, ..ChordConfig::default() }
}

struct Net {
    now: Instant,
    rng: StdRng,
    config: Arc<ChordConfig>,
    nodes: BTreeMap<u8, Chord<At>>,
    dead: BTreeSet<u8>,
    wire: VecDeque<(At, At, Message)>,
    transcript: Vec<String>,
    finished: Vec<(u8, Located<At>)>,
}

impl Net {
    fn new(config: ChordConfig) -> Self {
        Net {
            now: Instant::ORIGIN,
            rng: StdRng::seed_from_u64(7),
            config: Arc::new(config),
            nodes: BTreeMap::new(),
            dead: BTreeSet::new(),
            wire: VecDeque::new(),
            transcript: Vec::new(),
            finished: Vec::new(),
        }
    }

    fn converged(config: ChordConfig, places: &[u8]) -> Self {
        let mut net = Self::new(config);
        let ring: Vec<(Id, At)> = places.iter().map(|place| (at(*place), At(*place))).collect();
        for place in places {
            let node = Chord::converged(At(*place), net.config.clone(), &ring);
            net.nodes.insert(*place, node);
        }
        net
    }

    fn grown(config: ChordConfig, places: &[u8]) -> Self {
        let mut net = Self::new(config);
        for (index, place) in places.iter().enumerate() {
            net.join(*place, &places[..index.min(1)]);
            net.run(Duration::from_secs(5));
        }
        net.run(Duration::from_secs(3600));
        net
    }

    fn freeze(&mut self) {
        self.nodes.values_mut().for_each(Overlay::freeze);
    }

    fn join(&mut self, place: u8, known: &[u8]) {
        let known: Vec<At> = known.iter().map(|place| At(*place)).collect();
        self.nodes.insert(place, Chord::new(At(place), self.config.clone()));
        self.with(place, |node, now, rng, out| node.join(now, rng, &known, out));
    }

    fn with<T>(
        &mut self,
        place: u8,
        act: impl FnOnce(&mut Chord<At>, Instant, &mut dyn RngCore, &mut ChordOut<At>) -> T,
    ) -> T {
        let mut out = Out::default();
        let node = self.nodes.get_mut(&place).expect("a node");
        let result = act(node, self.now, &mut self.rng, &mut out);
        for (to, message) in out.sends {
            self.transcript.push(format!("{place} → {}: {message:?}", to.0));
            self.wire.push_back((At(place), to, message));
        }
        for notification in out.notifications {
            if let Notification::LookupFinished(located) = notification {
                self.finished.push((place, located));
            }
        }
        result
    }

    fn deliver(&mut self) {
        while let Some((from, to, message)) = self.wire.pop_front() {
            if self.nodes.contains_key(&to.0) && !self.dead.contains(&to.0) {
                self.with(to.0, |node, now, rng, out| node.handle_message(now, rng, from, message, out));
            }
        }
    }

    fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            self.deliver();
            let living = self.nodes.iter().filter(|(place, _)| !self.dead.contains(place));
            let next = living.filter_map(|(place, node)| Some((node.poll_timeout()?, *place))).min();
            match next.filter(|(when, _)| *when <= end) {
                Some((when, place)) => {
                    self.now = self.now.max(when);
                    self.with(place, |node, now, rng, out| node.handle_timeout(now, rng, out));
                }
                None => break,
            }
        }
        self.now = end;
    }

    fn locate(&mut self, from: u8, key: u8) -> Located<At> {
        let lookup =
            self.with(from, |node, now, rng, out| node.locate(now, rng, at(key), out)).expect("a member");
        self.run(Duration::from_secs(60));
        let found = |(place, located): &(u8, Located<At>)| *place == from && located.lookup == lookup;
        let place = self.finished.iter().position(found).expect("the lookup ended");
        self.finished.remove(place).1
    }

    /// The node that is responsible, by the definition: the first living one at or after the key.
    fn responsible(&self, key: u8) -> u8 {
        let living: Vec<u8> = self.nodes.keys().filter(|place| !self.dead.contains(place)).copied().collect();
        *living.iter().find(|place| **place >= key).unwrap_or(&living[0])
    }

    fn owner(&mut self, from: u8, key: u8) -> At {
        self.locate(from, key).outcome.expect("found")[0]
    }

    fn check_all_lookups(&mut self) {
        for from in self.nodes.keys().filter(|place| !self.dead.contains(place)).copied().collect::<Vec<_>>()
        {
            for key in (0..=255).step_by(5) {
                let expected = At(self.responsible(key));
                let located = self.locate(from, key);
                let found = located.outcome.expect("found");
                assert_eq!(found[0], expected, "{key} asked at {from}");
            }
        }
    }

    fn tables(&self) -> Vec<Known<'_>> {
        let living = self.nodes.iter().filter(|(place, _)| !self.dead.contains(place));
        living.map(|(_, node)| (node.predecessor(), node.successors(), node.fingers())).collect()
    }
}

/// Predecessor, successors, fingers.
type Known<'a> = (Option<&'a At>, &'a [At], &'a [Option<At>]);

const TEN: [u8; 10] = [1, 8, 14, 21, 32, 38, 42, 48, 51, 56];

/// The network of ToN 2003, figures 3 to 5, whose ring has 64 places: the upper three quarters
/// of ours are empty, so figure 4's fingers are the last six of eight.
#[test]
fn tables_and_path_are_those_of_the_papers_figures() {
    let config = ChordConfig { route_by_successors: false, ..config() };
    let mut net = Net::converged(config, &TEN);
    let n8 = &net.nodes[&8];
    assert_eq!(n8.predecessor(), Some(&At(1)));
    assert_eq!(n8.successors(), [At(14), At(21), At(32)]);
    // 8+128 and 8+64 wrap to N1; then figure 4: 8+32 → N42, 8+16 → N32, 8+8 → N21, and 8+4, 8+2
    // and 8+1 → N14, which is the successor, so the table ends.
    assert_eq!(n8.fingers(), [1, 1, 42, 32, 21].map(|place| Some(At(place))));
    assert_eq!(n8.contacts(), [1, 14, 21, 32, 42].map(At));
    // Figure 5: K54 asked at N8 goes by N42 and N51 to N56.
    net.freeze();
    let located = net.locate(8, 54);
    // And who stands behind it, from N51's list.
    assert_eq!((located.outcome, located.hops, located.timeouts), (Ok([56, 1, 8].map(At).to_vec()), 3, 0));
    let said: Vec<_> =
        net.transcript.iter().filter_map(|line| line.split_once(" { ")).map(|(said, _)| said).collect();
    assert_eq!(
        said,
        [
            "8 → 42: Find",
            "42 → 8: Closer",
            "8 → 51: Find",
            "51 → 8: Closer",
            "8 → 56: Claim",
            "56 → 8: Claimed"
        ]
    );
}

#[test]
fn a_ring_that_grew_by_joining_equals_one_that_was_set_up() {
    let grown = Net::grown(config(), &[38, 1, 56, 8, 51, 14, 48, 21, 42, 32]);
    let set_up = Net::converged(config(), &TEN);
    assert_eq!(grown.tables(), set_up.tables());
}

#[test]
fn every_key_is_found_from_everywhere_in_both_styles() {
    for style in [LookupStyle::Iterative, LookupStyle::Recursive] {
        for route_by_successors in [true, false] {
            Net::converged(ChordConfig { style, route_by_successors, ..config() }, &TEN).check_all_lookups();
        }
    }
}

#[test]
fn both_styles_take_the_same_path() {
    for key in [54, 10, 200, 1] {
        let paths = [LookupStyle::Iterative, LookupStyle::Recursive].map(|style| {
            let located = Net::converged(ChordConfig { style, ..config() }, &TEN).locate(8, key);
            (located.outcome.map(|found| found[0]), located.hops)
        });
        assert_eq!(paths[0], paths[1], "{key}");
    }
}

#[test]
fn one_node_alone_is_responsible_for_all_and_two_share() {
    let mut net = Net::grown(config(), &[9]);
    assert_eq!(net.owner(9, 200), At(9));
    net.join(100, &[9]);
    net.run(Duration::from_secs(1));
    net.check_all_lookups();
}

#[test]
fn who_leaves_is_gone_at_once_from_its_neighbours() {
    let mut net = Net::converged(config(), &TEN);
    net.with(42, |node, now, _, out| node.leave(now, out));
    net.deliver();
    net.dead.insert(42);
    assert_eq!(net.nodes[&48].predecessor(), Some(&At(38)));
    assert_eq!(net.nodes[&38].successors(), [At(48), At(51), At(56)]);
    net.check_all_lookups();
}

#[test]
fn the_ring_closes_over_failed_nodes_and_is_whole_again() {
    for style in [LookupStyle::Iterative, LookupStyle::Recursive] {
        let mut net = Net::converged(ChordConfig { style, ..config() }, &TEN);
        net.dead.extend([14, 21, 48]);
        // Before any repair the successor lists are enough.
        net.freeze();
        net.check_all_lookups();
        for node in net.nodes.values_mut() {
            node.frozen = false;
        }
        net.run(Duration::from_secs(3600));
        let rest = Net::converged(config(), &[1, 8, 32, 38, 42, 51, 56]);
        assert_eq!(net.tables(), rest.tables());
    }
}

#[test]
fn more_neighbours_than_the_list_is_long_may_fail() {
    let mut net = Net::converged(config(), &TEN);
    net.dead.extend([14, 21, 32, 38]);
    net.run(Duration::from_secs(3600));
    net.check_all_lookups();
}

#[test]
fn an_arc_that_came_off_the_ring_grows_together_with_it() {
    let arc = [32, 38, 42];
    let rest: Vec<u8> = TEN.into_iter().filter(|place| !arc.contains(place)).collect();
    let mut net = Net::converged(config(), &rest);
    net.nodes.extend(Net::converged(config(), &arc).nodes);
    net.run(Duration::from_secs(3600));
    assert_eq!(net.nodes[&21].successors()[0], At(48), "nobody knows anybody of the other ring");
    // What 38 knew before the arc came off; it comes to the end of its finger table first.
    let node = net.nodes.get_mut(&38).expect("a node");
    node.tables.set_finger(0, Some(At(56)));
    node.finger_next = 255;
    net.run(Duration::from_secs(3600));
    assert_eq!(net.tables(), Net::converged(config(), &TEN).tables());
}

#[test]
fn a_node_that_just_joined_is_found_through_its_successor() {
    let mut net = Net::converged(config(), &TEN);
    // 48 has heard of 45, and nobody else.
    net.nodes.insert(45, Chord::converged(At(45), net.config.clone(), &[(at(45), At(45)), (at(48), At(48))]));
    net.with(48, |node, now, rng, out| node.handle_message(now, rng, At(45), Message::Notify, out));
    net.freeze();
    assert_eq!(net.owner(1, 44), At(45));
    // 48 itself is told by others that the key is its own.
    assert_eq!(net.owner(48, 44), At(45));
    net.dead.insert(45);
    assert_eq!(net.owner(48, 44), At(48));
    net.dead.clear();
    assert_eq!(net.owner(1, 46), At(48));
}

#[test]
fn nothing_is_looked_up_outside_and_no_more_than_the_limit_inside() {
    let mut net = Net::new(config());
    net.nodes.insert(5, Chord::new(At(5), net.config.clone()));
    let outside = net.with(5, |node, now, rng, out| node.locate(now, rng, at(1), out));
    assert_eq!(outside, Err(LocateError::NotJoined));

    let mut net = Net::converged(config(), &TEN);
    for _ in 0..LOOKUPS_MAX {
        net.with(8, |node, now, rng, out| node.locate(now, rng, at(54), out)).expect("below the limit");
    }
    let over = net.with(8, |node, now, rng, out| node.locate(now, rng, at(54), out));
    assert_eq!(over, Err(LocateError::TooManyLookups { limit: LOOKUPS_MAX }));
    net.run(Duration::from_secs(1));
    assert_eq!(net.finished.len(), LOOKUPS_MAX);
    net.with(8, |node, now, rng, out| node.locate(now, rng, at(54), out)).expect("there is room again");
}

#[test]
fn who_leaves_tells_those_who_wait_for_a_lookup() {
    let mut net = Net::converged(config(), &TEN);
    net.with(8, |node, now, rng, out| node.locate(now, rng, at(54), out)).expect("a member");
    net.with(8, |node, now, _, out| node.leave(now, out));
    assert_eq!(net.finished[0].1.outcome, Err(LookupError::Left));
    assert_eq!(net.nodes[&8].poll_timeout(), None);
}

#[test]
fn answers_that_nobody_asked_for_change_nothing() {
    let mut net = Net::converged(config(), &TEN);
    net.with(8, |node, now, rng, out| node.locate(now, rng, at(54), out)).expect("a member");
    let before = net.nodes[&8].tables.clone();
    let request = net.nodes[&8].numbered;
    let sent = net.wire.len();
    // From the wrong node, with a wrong number, and of the wrong kind.
    for (from, answer) in [
        (At(77), Message::Closer { request, preceding: vec![], successors: vec![At(77)] }),
        (At(51), Message::Closer { request: request + 1, preceding: vec![], successors: vec![At(77)] }),
        (At(51), Message::Neighbours { request, predecessor: Some(At(9)), successors: vec![At(9)] }),
        (At(51), Message::Relayed { request, owner: Some(At(77)), hops: 0, timeouts: 0 }),
    ] {
        net.with(8, |node, now, rng, out| node.handle_message(now, rng, from, answer, out));
    }
    assert_eq!((net.finished.len(), net.wire.len()), (0, sent));
    assert_eq!(net.nodes[&8].tables, before);
}

#[test]
fn a_liar_who_names_ever_nearer_nodes_ends_a_lookup_and_no_more() {
    let mut search = Search::new(at(100), vec![At(1)], vec![], true);
    let mut asked = 0;
    let end = loop {
        match search.next(&At(0), None) {
            Step::Ask { to, .. } => {
                asked += 1;
                search.answered_by(&to);
                let nearer = (to.0 + 1..=99).map(At).collect();
                search.add_answer(&to, nearer, vec![]);
            }
            end => break end,
        }
    };
    assert!(matches!(end, Step::TooLong | Step::Exhausted), "{end:?}");
    assert!(asked <= search::CONTACTS_ASKED_MAX);
    assert!(search.heap_bytes() < 4096);
}

#[test]
fn a_made_up_successor_list_is_cut_where_it_leaves_the_ring() {
    for (list, expected) in [
        (vec![10, 20, 30], vec![10, 20, 30]),
        (vec![10, 20, 30, 40], vec![10, 20, 30]),
        (vec![10, 10, 9, 20], vec![10, 20]),
        (vec![10, 5, 20], vec![10, 20]),
        (vec![250, 3, 5, 7], vec![250, 3]),
        (vec![5], vec![]),
    ] {
        let mut tables = Tables::new(At(5));
        tables.set_successors(list.iter().map(|place| At(*place)), 3);
        assert_eq!(tables.successors, expected.into_iter().map(At).collect::<Vec<_>>(), "{list:?}");
    }
}

/// Any message, with numbers that are often right, from anybody, at any time.
#[test]
fn no_message_makes_a_node_panic_or_grow() {
    for seed in 0..200 {
        let mut net = Net::converged(config(), &TEN);
        let mut rng = StdRng::seed_from_u64(seed);
        for _ in 0..300 {
            let from = At(rng.random_range(0..64));
            let message = any_message(&mut rng, net.nodes[&8].numbered);
            net.with(8, |node, now, rng, out| node.handle_message(now, rng, from, message, out));
            if rng.random_bool(0.1) {
                net.with(8, |node, now, rng, out| node.locate(now, rng, at(200), out)).ok();
            }
            if rng.random_bool(0.05) {
                net.now = net.now + Duration::from_secs(rng.random_range(0..60));
                net.with(8, |node, now, rng, out| node.handle_timeout(now, rng, out));
            }
            net.wire.clear();
            let node = &net.nodes[&8];
            assert!(node.tables.successors.len() <= 3);
            assert!(node.tables.fingers.len() <= Id::BITS);
            assert!(node.lookups.len() <= LOOKUPS_MAX + RELAYS_MAX + 3);
            assert!(node.calls.len() <= node.lookups.len() + 2, "{:?}", node.calls);
            assert!(!node.tables.successors.contains(&At(8)));
            assert!(node.tables.predecessor != Some(At(8)));
        }
    }
}

fn any_message(rng: &mut StdRng, numbered: u32) -> Message {
    let request = numbered.wrapping_sub(rng.random_range(0..4));
    let key = at(rng.random());
    let contact = |rng: &mut StdRng| rng.random_bool(0.7).then(|| At(rng.random()));
    let contacts = |rng: &mut StdRng| (0..rng.random_range(0..200)).map(|_| At(rng.random())).collect();
    match rng.random_range(0..13) {
        0 => Message::Find { request, key },
        1 => Message::Closer { request, preceding: contacts(rng), successors: contacts(rng) },
        2 => Message::Claim { request, key },
        3 => Message::Claimed { request, nearer: contact(rng) },
        4 => Message::Relay { request, key, hops_left: rng.random() },
        5 => Message::Accepted { request },
        6 => Message::Relayed { request, owner: contact(rng), hops: rng.random(), timeouts: rng.random() },
        7 => Message::GetNeighbours { request },
        8 => Message::Neighbours { request, predecessor: contact(rng), successors: contacts(rng) },
        9 => Message::Notify,
        10 => Message::Ping { request },
        11 => Message::Pong { request },
        _ => Message::Leaving { predecessor: contact(rng), successors: contacts(rng) },
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

/// As after a cut that outlasted the memory of each side for the other.
#[test]
fn two_rings_whose_nodes_meet_become_one() {
    let mut net = Net::new(config());
    for (places, first) in [([1, 14, 32, 42, 51], 1), ([8, 21, 38, 48, 56], 8)] {
        for place in places {
            net.join(place, if place == first { &[] } else { std::slice::from_ref(&first) });
            net.run(Duration::from_secs(60));
        }
    }
    net.run(Duration::from_secs(600));
    assert_ne!(net.tables(), Net::converged(config(), &TEN).tables(), "they were two");
    for place in [1, 14, 32, 42, 51] {
        net.with(place, |node, now, rng, out| node.meet(now, rng, &[At(48)], out));
        net.run(Duration::from_secs(60));
    }
    net.run(Duration::from_secs(3600));
    assert_eq!(net.tables(), Net::converged(config(), &TEN).tables());
}

#[test]
fn a_node_alone_that_meets_a_ring_becomes_part_of_it() {
    let mut net = Net::grown(config(), &TEN[1..]);
    net.join(1, &[]);
    net.with(1, |node, now, rng, out| node.meet(now, rng, &[At(48)], out));
    net.run(Duration::from_secs(3600));
    assert_eq!(net.tables(), Net::converged(config(), &TEN).tables());
}

#[test]
fn a_node_tells_who_is_responsible_from_its_own_tables() {
    let mut net = Net::converged(config(), &TEN);
    let responsible = |net: &Net, key, count| net.nodes[&21].responsible(at(key), count);
    assert_eq!(responsible(&net, 21, 3), [At(21), At(32), At(38)]);
    assert_eq!(responsible(&net, 15, 2), [At(21), At(32)]);
    assert_eq!(responsible(&net, 35, 3), [At(38), At(42)], "no more of them are known");
    assert_eq!(responsible(&net, 14, 3), [At(14), At(21), At(32)], "the predecessor is nearer");
    // One that knows the whole ring goes on round it, past itself.
    let wide = Net::converged(ChordConfig { successors: 20, ..config() }, &TEN);
    assert_eq!(responsible(&wide, 10, 3), [At(14), At(21), At(32)]);
    assert_eq!(responsible(&wide, 200, 4), [At(1), At(8), At(14), At(21)]);
    let before = net.nodes[&21].neighbourhood();
    net.with(21, |node, now, rng, out| node.handle_message(now, rng, At(18), Message::Notify, out));
    assert_ne!(net.nodes[&21].neighbourhood(), before);
    assert_eq!(responsible(&net, 17, 2), [At(18), At(21)]);
}

#[test]
fn the_path_of_a_lookup_names_who_was_asked_and_who_was_silent() {
    let mut net = Net::converged(config(), &TEN);
    net.freeze();
    net.dead.insert(42);
    let located = net.locate(8, 54);
    let path: Vec<(u8, bool)> = located.path.iter().map(|step| (step.contact.0, step.answered)).collect();
    assert_eq!(path, [(42, false), (32, true), (48, true), (56, true)]);
}

#[test]
fn nodes_come_and_go_at_random_and_the_ring_is_whole_in_the_end() {
    for seed in 0..10 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut net = Net::grown(config(), &TEN);
        for _ in 0..20 {
            let living: Vec<u8> =
                net.nodes.keys().filter(|place| !net.dead.contains(place)).copied().collect();
            let one = *living.choose(&mut rng).expect("some live");
            let new = rng.random_range(0..=255);
            match rng.random_range(0..3) {
                0 if !net.nodes.contains_key(&new) => net.join(new, &[one]),
                1 if living.len() > 5 => {
                    net.dead.insert(one);
                }
                _ if living.len() > 5 => {
                    net.with(one, |node, now, _, out| node.leave(now, out));
                    net.deliver();
                    net.dead.insert(one);
                }
                _ => {}
            }
            net.run(Duration::from_secs(rng.random_range(0..90)));
        }
        net.run(Duration::from_secs(3600));
        let living: Vec<u8> = net.nodes.keys().filter(|place| !net.dead.contains(place)).copied().collect();
        assert_eq!(net.tables(), Net::converged(config(), &living).tables(), "seed {seed}");
    }
}
