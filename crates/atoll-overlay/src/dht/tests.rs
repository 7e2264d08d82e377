//! Content on a network so small that one sees what is right, over Chord, Kademlia, Pastry and the
//! hybrid.

mod cellar;
mod hybrid;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use atoll_types::{Instant, NodeId, WallTime};
use rand::{Rng, RngCore, SeedableRng, rngs::StdRng};

use super::{cellar::*, message::*, operation::OPERATIONS_MAX, publish::PUBLISHED_MAX, *};
use crate::{
    Answer, Body, Chord, ChordConfig, Class, Content, Entry, Finished, Kademlia, KademliaConfig, Kept,
    Offered, OperationId, Pastry, PastryConfig, Unsound, VALUE_BYTES_MAX,
    testing::{At, Net, at},
};

const WALL: WallTime = WallTime::from_millis(1_800_000_000_000);
const TWELVE: [u8; 12] = [3, 20, 41, 60, 81, 99, 120, 142, 161, 180, 203, 230];
const HOUR: Duration = Duration::from_secs(3600);

type OnChord = Dht<Chord<At>>;
type OnKademlia = Dht<Kademlia<At>>;

fn author(place: u8) -> AuthorKey {
    AuthorKey::from_seed([place; 32])
}

fn with_content<O: Overlay<Contact = At>>(core: O) -> Dht<O> {
    let author = author(core.contact().0);
    let mut node = Dht::new(core, author, Arc::new(DhtConfig::default()));
    node.set_clock(Instant::ORIGIN, WALL);
    node
}

/// A list of five of twelve: nodes do not see the whole ring. With twenty they do.
fn on_chord(me: At) -> OnChord {
    with_content(Chord::new(me, Arc::new(ChordConfig { successors: 5, ..ChordConfig::default() })))
}

fn on_wide_chord(me: At) -> OnChord {
    with_content(Chord::new(me, Arc::new(ChordConfig::default())))
}

fn on_kademlia(me: At) -> OnKademlia {
    with_content(Kademlia::new(me, Arc::new(KademliaConfig { k: 4, ..KademliaConfig::default() })))
}

fn on_pastry(me: At) -> Dht<Pastry<At>> {
    with_content(Pastry::new(me, Arc::new(PastryConfig { leaves: 8, ..PastryConfig::default() })))
}

fn chord_net() -> Net<OnChord> {
    grown(on_chord)
}

fn grown<O: Content<Contact = At>>(make: impl Fn(At) -> O) -> Net<O> {
    Net::grown(&TWELVE, make)
}

impl<O: Content<Contact = At>> Net<O> {
    fn operate(
        &mut self,
        place: u8,
        begin: impl FnOnce(
            &mut O,
            Instant,
            &mut dyn RngCore,
            &mut Out<At, O::Message>,
        ) -> Result<OperationId, ContentError>,
    ) -> Finished<At> {
        let operation = self.with(place, begin).expect("it is begun");
        // Longer than two nodes that do not answer, one after the other.
        self.run(Duration::from_secs(12));
        let found = |(by, finished): &(u8, Finished<At>)| *by == place && finished.operation == operation;
        let place = self.operations.iter().position(found).expect("the operation ended");
        self.operations.remove(place).1
    }

    fn store(&mut self, place: u8, key: Id, value: &str, lifetime: Duration) -> Vec<u8> {
        let value = value.as_bytes().to_vec();
        let finished =
            self.operate(place, |node, now, rng, out| node.store(now, rng, key, value, lifetime, out));
        assert_eq!(finished.outcome, Ok(Answer::Stored), "stored at {place}");
        finished.by.iter().map(|contact| contact.0).collect()
    }

    fn fetch(&mut self, place: u8, key: Id) -> Vec<String> {
        let finished = self.operate(place, |node, now, rng, out| node.fetch(now, rng, key, out));
        let Ok(Answer::Values(entries)) = finished.outcome else { panic!("{:?}", finished.outcome) };
        let text = |entry: &Entry| match &entry.body {
            Body::Value(value) => String::from_utf8(value.clone()).expect("text"),
            other => panic!("{other:?}"),
        };
        entries.iter().map(text).collect()
    }

    fn search(&mut self, place: u8, words: &str) -> Vec<String> {
        let finished = self.operate(place, |node, now, rng, out| node.search(now, rng, words, out));
        let Ok(Answer::Hits(entries)) = finished.outcome else { panic!("{:?}", finished.outcome) };
        let name = |entry: &Entry| match &entry.body {
            Body::Posting { name, .. } => name.clone(),
            other => panic!("{other:?}"),
        };
        entries.iter().map(name).collect()
    }

    fn providers(&mut self, place: u8, content: Id) -> Vec<atoll_types::NodeId> {
        let finished = self.operate(place, |node, now, rng, out| node.providers(now, rng, content, out));
        let Ok(Answer::Providers(entries)) = finished.outcome else { panic!("{:?}", finished.outcome) };
        entries.iter().map(|entry| entry.author).collect()
    }
}

fn holders<O: Overlay<Contact = At>>(net: &Net<Dht<O>>, key: Id) -> Vec<u8> {
    let held = |place: &u8| !net.nodes[place].cellar.held(key).is_empty();
    net.living().into_iter().filter(held).collect()
}

fn key(number: u32) -> Id {
    Id::of(&number.to_be_bytes())
}

fn check_values<O: Overlay<Contact = At>>(make: impl Fn(At) -> Dht<O> + Copy) {
    let mut net = grown(make);
    for number in 0..20 {
        let from = TWELVE[number as usize % TWELVE.len()];
        let by = net.store(from, key(number), &format!("value {number}"), HOUR * 20);
        assert_eq!(by.len(), 3, "{by:?}");
        let mut expected = net.locate(from, key(number)).outcome.expect("located");
        expected.truncate(1);
        assert_eq!(expected[0].0, by[0], "the responsible node is one of them");
        assert_eq!(holders(&net, key(number)).len(), 3);
    }
    for place in TWELVE {
        for number in 0..20 {
            assert_eq!(net.fetch(place, key(number)), [format!("value {number}")], "{number} at {place}");
        }
    }
    assert!(net.fetch(3, key(1000)).is_empty());
}

#[test]
fn a_value_stored_through_one_node_is_read_through_every_other() {
    check_values(on_chord);
    check_values(on_wide_chord);
    check_values(on_kademlia);
    check_values(on_pastry);
}

fn on_copying_kademlia(me: At) -> OnKademlia {
    let core = Kademlia::new(me, Arc::new(KademliaConfig { k: 4, ..KademliaConfig::default() }));
    let config = DhtConfig { cache_for: Duration::from_secs(600), ..DhtConfig::default() };
    let mut node = Dht::new(core, author(me.0), Arc::new(config));
    node.set_clock(Instant::ORIGIN, WALL);
    node
}

/// Maymounkov and Mazières 2002, section 2.3.
#[test]
fn what_is_read_is_copied_to_nodes_on_the_way_that_had_nothing() {
    // So many that a reader does not know the keepers at once.
    let places: Vec<u8> = (0..60).map(|number| 4 * number + 1).collect();
    let mut net = Net::grown(&places, on_copying_kademlia);
    let by = net.store(1, key(1), "value", HOUR * 20);
    for place in places.iter().step_by(4) {
        assert_eq!(net.fetch(*place, key(1)), ["value"], "at {place}");
    }
    let has_copies = |place: &u8| net.nodes[place].cached() > 0;
    let copies: Vec<u8> = places.iter().copied().filter(has_copies).collect();
    assert!(!copies.is_empty() && copies.iter().all(|place| !by.contains(place)), "{copies:?}, {by:?}");
    net.run(Duration::from_secs(700));
    assert!(net.nodes.values().all(|node| node.cached() == 0), "and forgotten");
}

#[test]
fn copies_are_taken_with_a_token_and_the_authors_signature_only() {
    let mut net = grown(on_copying_kademlia);
    let expires = WALL + HOUR * 5;
    let entry = author(7).sign(key(1), 1, expires, Body::Value(b"value".to_vec()));
    let token = net.nodes[&41].tokens.now_for(at(60));
    let forged = Entry { sequence: 2, ..entry.clone() };
    for (from, token, entry, cached) in
        [(60, 0, &entry, 0), (81, token, &entry, 0), (60, token, &forged, 0), (60, token, &entry, 1)]
    {
        let message = ContentMessage::Cache { token, entries: vec![entry.clone()] };
        net.hear(41, from, DhtMessage::Content(message));
        assert_eq!(net.nodes[&41].cached(), cached);
    }
}

/// Two of the three that keep it, at once, and the reader asks before anybody has noticed.
fn check_failures<O: Overlay<Contact = At>>(make: impl Fn(At) -> Dht<O> + Copy) {
    for number in 0..6 {
        let mut net = grown(make);
        let by = net.store(3, key(number), "value", HOUR * 20);
        net.dead.extend(&by[..2]);
        let reader = *net.living().iter().find(|place| !by.contains(place)).expect("some are left");
        assert_eq!(net.fetch(reader, key(number)), ["value"], "{by:?} had it");
        // In time others take their places, and two more may fail.
        net.run(Duration::from_secs(1800));
        let by = holders(&net, key(number));
        assert!(by.len() >= 3, "{by:?}");
        net.dead.extend(&by[..2]);
        let reader = *net.living().iter().find(|place| !by.contains(place)).expect("some are left");
        assert_eq!(net.fetch(reader, key(number)), ["value"], "{by:?} had it");
    }
}

#[test]
fn a_value_outlives_those_who_keep_it() {
    check_failures(on_chord);
    check_failures(on_wide_chord);
    check_failures(on_kademlia);
    check_failures(on_pastry);
}

fn check_newcomer<O: Overlay<Contact = At>>(make: impl Fn(At) -> Dht<O> + Copy) {
    let mut net = grown(make);
    for number in 0..60 {
        net.store(3, key(number), "value", HOUR * 20);
    }
    net.join(make(At(150)), &[3]);
    net.run(Duration::from_secs(120));
    let own: Vec<Id> =
        (0..60).map(key).filter(|key| net.nodes[&150].responsible(*key, 1) == [At(150)]).collect();
    assert!(!own.is_empty());
    for key in own {
        assert!(holders(&net, key).contains(&150), "{key:?} is the newcomer's");
    }
    // It leaves again; nothing is lost, and nothing waits for it.
    net.with(150, |node, now, _, out| node.leave(now, out));
    net.deliver();
    net.dead.insert(150);
    for number in 0..60 {
        assert_eq!(net.fetch(TWELVE[number as usize % 12], key(number)), ["value"], "{number}");
    }
}

#[test]
fn a_node_that_joins_gets_what_is_its_own_and_one_that_leaves_takes_nothing_away() {
    check_newcomer(on_chord);
    check_newcomer(on_wide_chord);
    check_newcomer(on_kademlia);
    check_newcomer(on_pastry);
}

#[test]
fn a_newer_value_takes_the_place_of_an_older_one_and_not_the_other_way_round() {
    let mut net = chord_net();
    let by = net.store(3, key(1), "first", HOUR);
    let first = net.nodes[&by[0]].cellar.held(key(1))[0].entry.clone();
    net.store(3, key(1), "second", HOUR);
    assert_eq!(net.fetch(120, key(1)), ["second"]);
    // Somebody who kept the older one says it again.
    let token = token_for(&net.nodes[&by[0]], 99);
    let message = ContentMessage::Keep { request: 1, token, entries: vec![first] };
    net.sent.clear();
    net.hear(by[0], 99, DhtMessage::Content(message));
    let answer = ContentMessage::Kept { request: 1, outcomes: vec![Err(Refused::Outdated)] };
    assert_eq!(net.sent.last().map(|(_, _, message)| message), Some(&DhtMessage::Content(answer)));
    assert_eq!(net.fetch(120, key(1)), ["second"]);
}

#[test]
fn authors_do_not_replace_each_others_values() {
    let mut net = chord_net();
    for place in [3, 20, 41] {
        net.store(place, key(1), &format!("of {place}"), HOUR);
    }
    assert_eq!(net.fetch(99, key(1)), ["of 41", "of 20", "of 3"], "the newest first");
}

/// One of the three was cut off while the value changed; two of three say what is right.
#[test]
fn a_read_gives_the_newest_of_what_the_nodes_say() {
    let mut net = chord_net();
    let by = net.store(3, key(1), "first", HOUR);
    let stale = net.nodes[&by[0]].cellar.clone();
    net.store(3, key(1), "second", HOUR);
    net.nodes.get_mut(&by[0]).expect("a node").cellar = stale;
    let reader = *net.living().iter().find(|place| !by.contains(place)).expect("some");
    assert_eq!(net.fetch(reader, key(1)), ["second"]);
}

#[test]
fn a_value_is_gone_when_it_expires_and_not_before() {
    let mut net = chord_net();
    net.store(3, key(1), "value", HOUR * 3);
    net.run(HOUR * 3 - Duration::from_secs(120));
    assert_eq!(net.fetch(99, key(1)), ["value"]);
    net.run(Duration::from_secs(120));
    assert!(net.fetch(99, key(1)).is_empty());
    net.run(Duration::from_secs(120));
    assert!(holders(&net, key(1)).is_empty());
    assert!(net.nodes.values().all(|node| node.kept() == Kept::default()));
}

/// All who keep it fail at once; who published it says it again.
#[test]
fn what_was_lost_is_published_again() {
    let mut net = chord_net();
    let by = net.store(3, key(1), "value", HOUR * 20);
    net.dead.extend(by.iter().filter(|place| **place != 3));
    net.nodes.get_mut(&3).expect("the publisher").cellar = Cellar::default();
    assert!(net.fetch(99, key(1)).is_empty());
    net.run(HOUR * 2);
    assert_eq!(net.fetch(99, key(1)), ["value"]);
}

fn check_search<O: Overlay<Contact = At>>(make: impl Fn(At) -> Dht<O> + Copy) {
    let mut net = grown(make);
    let provide = |net: &mut Net<Dht<O>>, place: u8, name: &str| {
        let offered = Offered { content: Id::of(name.as_bytes()), name: name.into() };
        let finished = net.operate(place, |node, now, rng, out| node.provide(now, rng, offered, out));
        assert_eq!(finished.outcome, Ok(Answer::Stored));
    };
    provide(&mut net, 3, "Holiday photos 2024");
    provide(&mut net, 99, "Holiday photos 2024");
    provide(&mut net, 20, "holiday plans");
    let photos = Id::of(b"Holiday photos 2024");
    let mut expected = [author(3).author(), author(99).author()];
    expected.sort();
    assert_eq!(net.providers(180, photos), expected);
    assert_eq!(net.search(180, "PLANS"), ["holiday plans"]);
    assert_eq!(net.search(180, "photos holiday"), ["Holiday photos 2024"; 2]);
    assert_eq!(net.search(41, "holiday").len(), 3);
    assert!(net.search(180, "photos plans").is_empty());
    assert!(net.search(180, "nothing").is_empty());
    // It goes on for as long as the node lives, and ends when it no longer does, or says so.
    net.run(HOUR * 3);
    assert_eq!(net.providers(180, photos), expected);
    assert!(net.nodes.get_mut(&3).expect("a node").stop_providing(photos));
    net.dead.insert(99);
    net.run(HOUR * 2);
    assert!(net.providers(180, photos).is_empty());
    assert_eq!(net.search(41, "holiday"), ["holiday plans"]);
}

#[test]
fn what_is_provided_is_found_by_its_key_and_by_its_words() {
    check_search(on_chord);
    check_search(on_wide_chord);
    check_search(on_kademlia);
    check_search(on_pastry);
}

/// The cluster changes its kind: the same nodes, with what they keep, as another overlay.
#[test]
fn another_kind_takes_over_what_is_kept() {
    let mut net = chord_net();
    for number in 0..40 {
        net.store(TWELVE[number as usize % 12], key(number), &format!("value {number}"), HOUR * 20);
    }
    let mut other: Net<OnKademlia> = Net::new();
    other.now = net.now;
    for (index, place) in TWELVE.into_iter().enumerate() {
        let mut node = on_kademlia(At(place));
        let now = net.now;
        net.with(place, |node, now, _, out| node.leave(now, out));
        let shelf = net.nodes.get_mut(&place).expect("a node").take_shelf();
        node.put_shelf(now, shelf);
        other.join(node, &TWELVE[..index.min(1)]);
        other.run(Duration::from_secs(1));
    }
    other.run(Duration::from_secs(120));
    for number in 0..40 {
        assert_eq!(other.fetch(TWELVE[(number as usize + 5) % 12], key(number)), [format!("value {number}")]);
    }
    // Each is where this kind wants it, and nowhere else.
    other.run(HOUR * 3);
    for number in 0..40 {
        let mut nearest = TWELVE;
        nearest.sort_by_key(|place| at(*place).xor(key(number)));
        let mut nearest = nearest[..3].to_vec();
        nearest.sort_unstable();
        assert_eq!(holders(&other, key(number)), nearest, "value {number}");
    }
}

#[test]
fn limits_are_kept_to_and_said() {
    let mut net = chord_net();
    let store = |net: &mut Net<OnChord>, number, bytes: usize, lifetime| {
        net.with(3, |node, now, rng, out| node.store(now, rng, key(number), vec![0; bytes], lifetime, out))
    };
    let large = store(&mut net, 1, VALUE_BYTES_MAX + 1, HOUR);
    assert_eq!(large, Err(ContentError::Unsound(Unsound::TooLarge)));
    assert_eq!(store(&mut net, 1, 1, HOUR * 25), Err(ContentError::Unsound(Unsound::TooLong)));
    let words = net.with(3, |node, now, rng, out| node.search(now, rng, "- .", out));
    assert_eq!(words, Err(ContentError::NoKeyword));
    let begun = (0..1000).filter(|number| store(&mut net, *number, 1, HOUR).is_ok()).count();
    assert_eq!(begun, OPERATIONS_MAX);
    assert_eq!(store(&mut net, 1, 1, HOUR), Err(ContentError::TooMany { limit: OPERATIONS_MAX }));
    net.run(Duration::from_secs(60));
    let mut published = OPERATIONS_MAX;
    while store(&mut net, 1000 + published as u32, 1, HOUR).is_ok() {
        published += 1;
        net.run(Duration::from_millis(1));
    }
    assert_eq!(published, PUBLISHED_MAX);
    net.with(3, |node, now, _, out| node.leave(now, out));
    assert!(store(&mut net, 1, 1, HOUR).is_err());
}

#[test]
fn nobody_keeps_what_was_not_asked_for_or_is_not_signed_or_not_its_own() {
    let mut net = chord_net();
    let expires = WALL + net.now.saturating_since(Instant::ORIGIN) + HOUR;
    let mine = (0..).map(key).find(|key| net.nodes[&99].responsible(*key, 1) == [At(99)]).expect("one");
    // Between 99 and its next successor: not 99's, and not its predecessors'.
    let others = (0..).map(key).find(|key| net.nodes[&120].responsible(*key, 1) == [At(120)]).expect("one");
    let sound = |key| author(7).sign(key, 1, expires, Body::Value(b"x".to_vec()));
    let mut ask = |token: Option<u64>, entry: Entry| {
        let token = token.unwrap_or_else(|| token_for(&net.nodes[&99], 20));
        let message = ContentMessage::Keep { request: 9, token, entries: vec![entry] };
        net.sent.clear();
        net.hear(99, 20, DhtMessage::Content(message));
        match net.sent.pop() {
            Some((99, 20, DhtMessage::Content(ContentMessage::Kept { outcomes, .. }))) => outcomes[0],
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(ask(Some(1), sound(mine)), Err(Refused::NoToken));
    assert_eq!(ask(None, sound(others)), Err(Refused::NotMine));
    let forged = Entry { author: author(8).author(), ..sound(mine) };
    assert_eq!(ask(None, forged), Err(Refused::Unsound(Unsound::Forged)));
    let old = author(7).sign(mine, 1, WALL, Body::Provider);
    assert_eq!(ask(None, old), Err(Refused::Unsound(Unsound::Expired)));
    assert_eq!(ask(None, sound(mine)), Ok(()));
}

/// All who answer lie: about the value, its author, its key, and who else has it.
#[test]
fn forged_answers_are_as_good_as_none() {
    let mut net = chord_net();
    net.store(3, key(1), "value", HOUR);
    let expires = WALL + net.now.saturating_since(Instant::ORIGIN) + HOUR;
    let sound = author(7).sign(key(1), 1, expires, Body::Value(b"true".to_vec()));
    let lies = vec![
        Entry { body: Body::Value(b"lie".to_vec()), sequence: u64::MAX, ..sound.clone() },
        author(7).sign(key(2), 1, expires, Body::Value(b"of another key".to_vec())),
        author(7).sign(key(1), 1, expires, Body::Provider),
        author(7).sign(key(1), 1, WALL, Body::Value(b"expired".to_vec())),
    ];
    net.with(120, |node, now, rng, out| node.fetch(now, rng, key(1), out)).expect("begun");
    for _ in 0..1000 {
        let Some((from, to, message)) = net.wire.pop_front() else { break };
        let message = match message {
            DhtMessage::Content(ContentMessage::Got { request, .. }) => {
                let (entries, replicas) = (lies.clone(), vec![At(77); 500]);
                DhtMessage::Content(ContentMessage::Got { request, entries, replicas })
            }
            message => message,
        };
        if net.nodes.contains_key(&to.0) {
            net.hear(to.0, from.0, message);
        }
    }
    net.run(Duration::from_secs(30));
    let (_, finished) = net.operations.pop().expect("it ended");
    assert_eq!(finished.outcome, Ok(Answer::Values(Vec::new())));
}

/// In Pastry a lookup names the first alone, who says who else has it. If it hides what it has, and names
/// nobody, the reader finds the others by itself.
#[test]
fn the_first_who_is_named_alone_hides_nothing_alone() {
    let mut net = grown(on_pastry);
    let mut hidden = 0;
    for number in 0..12 {
        let by = net.store(3, key(number), "value", HOUR);
        let owner = At(by[0]);
        let reader = *TWELVE.iter().find(|place| !by.contains(place)).expect("one that has it not");
        net.with(reader, |node, now, rng, out| node.fetch(now, rng, key(number), out)).expect("begun");
        while let Some((from, to, message)) = net.wire.pop_front() {
            let message = match message {
                DhtMessage::Content(ContentMessage::Got { request, .. }) if from == owner => {
                    hidden += 1;
                    let (entries, replicas) = (Vec::new(), Vec::new());
                    DhtMessage::Content(ContentMessage::Got { request, entries, replicas })
                }
                message => message,
            };
            net.hear(to.0, from.0, message);
        }
        let (_, finished) = net.operations.pop().expect("it ended");
        let Ok(Answer::Values(entries)) = finished.outcome else { panic!("{:?}", finished.outcome) };
        assert_eq!(entries.len(), 1, "{number}, kept by {by:?}");
    }
    assert!(hidden >= 12);
}

fn any_content(rng: &mut StdRng, numbered: u32, token: u64) -> ContentMessage<At> {
    let request = numbered.wrapping_sub(rng.random_range(0..4));
    let named = |rng: &mut StdRng| Named { key: key(rng.random_range(0..20)), tag: rng.random_range(0..3) };
    let contacts = |rng: &mut StdRng| (0..rng.random_range(0..100)).map(|_| At(rng.random())).collect();
    let refused = [Refused::Full, Refused::NotMine, Refused::Unsound(Unsound::Forged)];
    let wish = [Wish::Have, Wish::Want, Wish::NotMine];
    let entries = |rng: &mut StdRng| -> Vec<Entry> {
        let sign = |rng: &mut StdRng| {
            let body = match rng.random_range(0..3) {
                0 => Body::Value(vec![1; rng.random_range(0..5000)]),
                1 => Body::Provider,
                _ => Body::Posting { content: key(1), name: "n".repeat(rng.random_range(0..200)) },
            };
            let expires = WALL + Duration::from_secs(rng.random_range(0..20_000));
            author(rng.random_range(0..20)).sign(key(rng.random_range(0..20)), rng.random(), expires, body)
        };
        (0..rng.random_range(0..4)).map(|_| sign(rng)).collect()
    };
    match rng.random_range(0..7) {
        6 => ContentMessage::Cache { token, entries: entries(rng) },
        0 => {
            let count = rng.random_range(0..600);
            ContentMessage::Offer { request, offered: (0..count).map(|_| named(rng)).collect() }
        }
        1 => {
            let wishes = (0..rng.random_range(0..600)).map(|_| wish[rng.random_range(0..3)]).collect();
            ContentMessage::Wanted { request, token, wishes, replicas: contacts(rng) }
        }
        2 => ContentMessage::Keep { request, token, entries: entries(rng) },
        3 => {
            let outcome =
                |rng: &mut StdRng| rng.random_bool(0.5).then_some(()).ok_or(refused[rng.random_range(0..3)]);
            let outcomes = (0..rng.random_range(0..20)).map(|_| outcome(rng)).collect();
            ContentMessage::Kept { request, outcomes }
        }
        4 => ContentMessage::Get { request, key: key(rng.random_range(0..20)), class: Class::Value },
        _ => ContentMessage::Got { request, entries: entries(rng), replicas: contacts(rng) },
    }
}

/// Any message, with numbers and tokens that are often right, from anybody, at any time.
#[test]
fn no_message_makes_a_node_panic_or_grow() {
    let rest = chord_net();
    for seed in 0..20 {
        let mut net: Net<OnChord> = Net::new();
        net.now = rest.now;
        net.join(on_chord(At(99)), &[]);
        let mut rng = StdRng::seed_from_u64(seed);
        for place in [3, 120, 203] {
            let message = DhtMessage::Overlay(crate::ChordMessage::Notify);
            net.hear(99, place, message);
        }
        for _ in 0..150 {
            let from = At(TWELVE[rng.random_range(0..12)]);
            let node = &net.nodes[&99];
            let token = token_for(node, from.0);
            let message = any_content(&mut rng, node.numbered, token);
            net.hear(99, from.0, DhtMessage::Content(message));
            if rng.random_bool(0.1) {
                let key = key(rng.random_range(0..20));
                net.with(99, |node, now, rng, out| node.fetch(now, rng, key, out)).ok();
                net.with(99, |node, now, rng, out| node.store(now, rng, key, vec![1; 99], HOUR, out)).ok();
            }
            if rng.random_bool(0.05) {
                net.now = net.now + Duration::from_secs(rng.random_range(0..60));
                net.with(99, |node, now, rng, out| node.handle_timeout(now, rng, out));
            }
            net.wire.clear();
            net.sent.clear();
            let node = &net.nodes[&99];
            assert!(node.operations.len() <= OPERATIONS_MAX);
            assert!(node.parts.len() <= OPERATIONS_MAX + 16);
            assert!(node.calls.len() <= node.parts.len() * 3 + 32);
        }
    }
}

#[test]
fn messages_are_the_same_after_the_wire() {
    let mut rng = StdRng::seed_from_u64(1);
    for _ in 0..300 {
        let message = any_content(&mut rng, 1000, 7);
        let bytes = postcard::to_extend(&message, Vec::new()).unwrap();
        assert_eq!(postcard::from_bytes::<ContentMessage<At>>(&bytes).unwrap(), message);
    }
}

fn token_for<O: Overlay>(node: &Dht<O>, from: u8) -> u64 {
    node.tokens.now_for(at(from))
}
