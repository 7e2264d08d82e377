//! Directories so small that one sees what is right; see `testing`.

use std::collections::BTreeSet;

use atoll_types::NodeId;
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{index::By, *};
use crate::{
    Answer, Finished, LookupError,
    dht::Named,
    testing::{At, Net, at},
};

type Message = DirectoryMessage;
type Town = Net<Directory<At>>;

const WALL: WallTime = WallTime::from_millis(1_800_000_000_000);
/// The index nodes of `town`; its clients are 10, 11, ….
const INDEXES: [u8; 3] = [1, 2, 3];

fn author(place: u8) -> AuthorKey {
    AuthorKey::from_seed([place; 32])
}

fn node(place: u8, config: &DirectoryConfig, told: &[u8]) -> Directory<At> {
    let told = told.iter().map(|place| At(*place)).collect();
    let mut node = Directory::new(At(place), author(place), Arc::new(config.clone()), told);
    node.set_clock(Instant::ORIGIN, WALL);
    node
}

/// Three index nodes and so many clients, all of whom joined.
fn town_of(config: &DirectoryConfig, clients: u8) -> Town {
    let mut net = Town::new();
    for place in INDEXES.into_iter().chain((0..clients).map(|number| 10 + number)) {
        net.join(node(place, config, &INDEXES), &[]);
    }
    net.run(Duration::from_secs(120));
    assert_eq!(net.joined.len(), 3 + usize::from(clients));
    net
}

fn town(clients: u8) -> Town {
    town_of(&DirectoryConfig::default(), clients)
}

/// Starts an operation at a node and runs until it has ended.
fn operate(
    net: &mut Town,
    place: u8,
    begin: impl FnOnce(
        &mut Directory<At>,
        Instant,
        &mut dyn RngCore,
        &mut DirectoryOut<At>,
    ) -> Result<OperationId, ContentError>,
) -> Finished<At> {
    let operation = net.with(place, begin).expect("it was begun");
    for _ in 0..100 {
        net.run(Duration::from_millis(100));
        let is_it = |(by, finished): &(u8, Finished<At>)| *by == place && finished.operation == operation;
        if let Some(index) = net.operations.iter().position(is_it) {
            return net.operations.remove(index).1;
        }
    }
    panic!("it never ended");
}

fn store(net: &mut Town, place: u8, key: &str, value: &[u8]) -> Finished<At> {
    let (key, value, lifetime) = (Id::of(key.as_bytes()), value.to_vec(), Duration::from_secs(7200));
    operate(net, place, |node, now, rng, out| node.store(now, rng, key, value, lifetime, out))
}

fn fetch(net: &mut Town, place: u8, key: &str) -> Result<Vec<Vec<u8>>, ContentError> {
    let key = Id::of(key.as_bytes());
    let finished = operate(net, place, |node, now, rng, out| node.fetch(now, rng, key, out));
    finished.outcome.map(|answer| {
        let Answer::Values(entries) = answer else { panic!("values") };
        let value = |entry: Entry| match entry.body {
            Body::Value(value) => value,
            other => panic!("{other:?} is no value"),
        };
        entries.into_iter().map(value).collect()
    })
}

fn provide(net: &mut Town, place: u8, name: &str) -> Finished<At> {
    let offered = Offered { content: Id::of(name.as_bytes()), name: name.into() };
    operate(net, place, |node, now, rng, out| node.provide(now, rng, offered, out))
}

fn search(net: &mut Town, place: u8, words: &str) -> BTreeSet<String> {
    let finished = operate(net, place, |node, now, rng, out| node.search(now, rng, words, out));
    let Ok(Answer::Hits(entries)) = finished.outcome else { panic!("{finished:?}") };
    let name = |entry: Entry| match entry.body {
        Body::Posting { name, .. } => name,
        other => panic!("{other:?} is no hit"),
    };
    entries.into_iter().map(name).collect()
}

fn providers(net: &mut Town, place: u8, name: &str) -> usize {
    let content = Id::of(name.as_bytes());
    let finished = operate(net, place, |node, now, rng, out| node.providers(now, rng, content, out));
    let Ok(Answer::Providers(entries)) = finished.outcome else { panic!("{finished:?}") };
    entries.len()
}

/// The index nodes in the order in which they answer for a key.
fn order(key: Id) -> Vec<u8> {
    rank(key, &INDEXES.map(At)).iter().map(|index| index.0).collect()
}

/// What was sent since this was last asked, by whether it is wanted.
fn count(net: &mut Town, is_wanted: impl Fn(&Message) -> bool) -> usize {
    net.sent.drain(..).filter(|(_, _, message)| is_wanted(message)).count()
}

#[test]
fn a_key_is_found_at_an_index_node_in_one_hop_and_each_has_its_part_of_the_keys() {
    let mut net = town(6);
    let mut keys = [0; 3];
    for place in [10, 15, 1] {
        for number in 0..=255 {
            let key = at(number);
            let located = net.locate(place, key);
            let first = order(key)[0];
            let found: Vec<u8> = located.outcome.expect("it answers").iter().map(|index| index.0).collect();
            assert_eq!(found, order(key));
            assert_eq!(located.hops, u32::from(first != place), "{key} asked at {place}");
            assert_eq!(located.timeouts, 0);
            keys[usize::from(first - 1)] += 1;
        }
    }
    // 256 a node, σ = 13 if each key were drawn anew, and it is the same ones three times.
    assert!(keys.iter().all(|count| (160..350).contains(count)), "{keys:?}");
}

#[test]
fn what_is_stored_is_at_every_index_node_and_read_anywhere() {
    let mut net = town(4);
    let stored = store(&mut net, 10, "key", b"one");
    assert_eq!((stored.outcome, stored.by), (Ok(Answer::Stored), INDEXES.map(At).to_vec()));
    for place in net.living() {
        assert_eq!(fetch(&mut net, place, "key"), Ok(vec![b"one".to_vec()]), "read at {place}");
    }
    // The same author's next value takes its place, another author's stands beside it.
    store(&mut net, 10, "key", b"two");
    store(&mut net, 2, "key", b"of an index node");
    let values = fetch(&mut net, 12, "key").expect("it answers");
    assert_eq!(BTreeSet::from_iter(values), BTreeSet::from([b"two".to_vec(), b"of an index node".to_vec()]));
    assert_eq!(fetch(&mut net, 12, "nothing"), Ok(Vec::new()));
    net.run(Duration::from_secs(7300));
    assert_eq!(fetch(&mut net, 12, "key"), Ok(Vec::new()), "it has expired");
    assert!(INDEXES.iter().all(|place| net.nodes[place].kept() == Kept::default()));
}

#[test]
fn what_is_provided_is_found_by_all_of_its_words_with_one_question() {
    let mut net = town(4);
    provide(&mut net, 10, "Blue Atoll");
    provide(&mut net, 11, "Red Atoll");
    provide(&mut net, 12, "Red Atoll");
    net.sent.clear();
    assert_eq!(search(&mut net, 13, "ATOLL red"), BTreeSet::from(["Red Atoll".into()]));
    assert_eq!(count(&mut net, |message| matches!(message, Message::Get { .. })), 2, "of two index nodes");
    assert_eq!(search(&mut net, 13, "atoll").len(), 2);
    assert_eq!(search(&mut net, 13, "red green"), BTreeSet::new(), "all words are wanted");
    assert_eq!((providers(&mut net, 13, "Red Atoll"), providers(&mut net, 1, "Blue Atoll")), (2, 1));
    let nothing = net.with(13, |node, now, rng, out| node.search(now, rng, "!", out));
    assert_eq!(nothing, Err(ContentError::NoKeyword));
}

/// An hour is what a claim lasts; it is renewed at half, until it is taken back.
#[test]
fn claims_are_renewed_while_their_client_is_there_and_go_with_it() {
    let mut net = town(4);
    for (place, name) in [(10, "stays"), (11, "stops to provide"), (12, "says goodbye"), (13, "just stops")] {
        provide(&mut net, place, name);
    }
    assert!(net.nodes.get_mut(&11).expect("a node").stop_providing(Id::of(b"stops to provide")));
    net.with(12, |node, now, _, out| node.leave(now, out));
    net.dead.insert(13);
    net.deliver();
    assert_eq!(search(&mut net, 10, "goodbye").len(), 0, "at once");
    assert_eq!(search(&mut net, 10, "just").len(), 1, "nobody knows yet");
    net.run(Duration::from_secs(180));
    assert_eq!(search(&mut net, 10, "just").len(), 0, "it has lapsed");
    assert_eq!(search(&mut net, 10, "provide").len(), 1, "for an hour");
    net.run(Duration::from_secs(4 * 3600));
    assert_eq!(search(&mut net, 10, "provide").len(), 0);
    assert_eq!(search(&mut net, 10, "stays").len(), 1);
}

#[test]
fn the_death_of_an_index_node_loses_nothing_and_costs_one_time_out() {
    let mut net = town(4);
    let key = Id::of(b"key");
    let [first, second, _] = order(key).try_into().expect("three");
    store(&mut net, 10, "key", b"kept");
    provide(&mut net, 10, "Something");
    net.dead.insert(first);
    let located = net.locate(11, key);
    assert_eq!((located.timeouts, located.hops), (1, 1));
    assert_eq!(located.outcome.expect("it answers")[0], At(second));
    // By now it is held for silent.
    assert_eq!(net.locate(11, key).timeouts, 0);
    for place in net.living() {
        assert_eq!(fetch(&mut net, place, "key"), Ok(vec![b"kept".to_vec()]), "read at {place}");
        assert_eq!(search(&mut net, place, "something").len(), 1, "searched at {place}");
    }
    let stored = store(&mut net, 11, "after it", b"kept");
    assert_eq!((stored.outcome, stored.by.len()), (Ok(Answer::Stored), 2));
}

/// A question that was lost while it was off says nothing about one that was heard since.
#[test]
fn an_index_node_that_is_back_is_not_held_for_silent_by_an_older_question() {
    let mut net = town(2);
    let key = Id::of(b"key");
    let first = order(key)[0];
    net.dead.insert(first);
    net.with(11, |node, now, rng, out| node.locate(now, rng, key, out)).expect("a member");
    net.run(Duration::from_millis(1500));
    net.dead.remove(&first);
    net.with(11, |node, now, _, out| node.register(now, out));
    // By now nobody waits for an answer to it any more.
    net.run(Duration::from_secs(1));
    assert_eq!(store(&mut net, 11, "key", b"kept").by.len(), 3);
}

/// It remembers nothing: clients bring what they provide, its fellows have the values of authors
/// who are gone.
#[test]
fn an_index_node_that_comes_back_empty_has_everything_again_soon() {
    let mut net = town(4);
    store(&mut net, 10, "of one who goes", b"kept");
    provide(&mut net, 11, "Something");
    net.dead.extend([10, 2]);
    net.run(Duration::from_secs(60));
    net.dead.remove(&2);
    net.join(node(2, &DirectoryConfig::default(), &INDEXES), &[]);
    // While it is new it is not asked alone: what it lacks others have.
    for place in [1, 2, 3, 11, 12] {
        assert_eq!(fetch(&mut net, place, "of one who goes"), Ok(vec![b"kept".to_vec()]));
        assert_eq!(search(&mut net, place, "something").len(), 1);
    }
    net.run(Duration::from_secs(60));
    let now = net.now;
    let index = net.nodes[&2].index.as_ref().expect("it is an index node");
    assert!(index.is_settled(now));
    assert_eq!(index.kept().entries, 3, "the value, and two claims");
    // It alone answers for all.
    net.dead.extend([1, 3]);
    assert_eq!(fetch(&mut net, 12, "of one who goes"), Ok(vec![b"kept".to_vec()]));
    assert_eq!(search(&mut net, 12, "something").len(), 1);
}

#[test]
fn when_all_index_nodes_are_gone_nothing_is_found_until_one_is_back() {
    let mut net = town(3);
    provide(&mut net, 10, "Something");
    store(&mut net, 11, "key", b"kept");
    net.dead.extend(INDEXES);
    let located = net.locate(12, Id::of(b"key"));
    assert_eq!((located.outcome, located.timeouts), (Err(LookupError::Exhausted), 3));
    assert_eq!(fetch(&mut net, 12, "key"), Err(ContentError::Silent));
    net.run(Duration::from_secs(60));
    assert_eq!(store(&mut net, 12, "meanwhile", b"too").outcome, Err(ContentError::Silent));
    // Who comes meanwhile waits, and says so.
    net.join(node(20, &DirectoryConfig::default(), &INDEXES), &[]);
    net.run(Duration::from_secs(60));
    assert!(!net.joined.contains(&20));

    net.dead.remove(&3);
    net.join(node(3, &DirectoryConfig::default(), &INDEXES), &[]);
    net.run(Duration::from_secs(30));
    assert!(net.joined.contains(&20));
    assert_eq!(search(&mut net, 20, "something").len(), 1);
    assert_eq!(fetch(&mut net, 20, "key"), Ok(vec![b"kept".to_vec()]));
    assert_eq!(fetch(&mut net, 20, "meanwhile"), Ok(vec![b"too".to_vec()]), "it was owed");
    assert_eq!(net.locate(20, Id::of(b"key")).outcome.expect("it answers")[0], At(3));
}

/// One is replaced by another, as when a cluster's layout names another voter; then all are.
#[test]
fn index_nodes_are_replaced_and_nothing_is_lost() {
    let mut net = town(6);
    store(&mut net, 10, "of one who goes", b"kept");
    provide(&mut net, 11, "Something");
    net.dead.insert(10);
    for (indexes, gone) in [([1, 2, 12], 3), ([1, 13, 12], 2), ([14, 13, 12], 1)] {
        let indexes = indexes.map(At);
        for place in net.living() {
            net.with(place, |node, now, rng, out| node.meet(now, rng, &indexes, out));
        }
        assert_eq!(fetch(&mut net, 15, "of one who goes"), Ok(vec![b"kept".to_vec()]), "without {gone}");
        assert_eq!(search(&mut net, 15, "something").len(), 1, "without {gone}");
        assert_eq!(net.nodes[&gone].kept(), Kept::default());
        net.dead.insert(gone);
        net.run(Duration::from_secs(120));
        for index in indexes {
            assert_eq!(net.nodes[&index.0].kept().entries, 3, "at {index:?}, without {gone}");
        }
    }
    assert_eq!(fetch(&mut net, 15, "of one who goes"), Ok(vec![b"kept".to_vec()]));
}

/// There is only one, and it hands what it has to the one that is named in its place.
#[test]
fn the_only_index_node_hands_its_values_over_when_it_is_one_no_more() {
    let mut net = Town::new();
    let config = DirectoryConfig::default();
    net.join(node(1, &config, &[]), &[]);
    for place in [2, 3] {
        net.join(node(place, &config, &[]), &[1]);
    }
    net.run(Duration::from_secs(90));
    assert!(net.nodes[&1].is_index() && !net.nodes[&2].is_index());
    store(&mut net, 3, "of one who goes", b"kept");
    net.dead.insert(3);
    for place in [1, 2] {
        net.with(place, |node, now, rng, out| node.meet(now, rng, &[At(2)], out));
    }
    net.run(Duration::from_secs(90));
    assert_eq!(fetch(&mut net, 1, "of one who goes"), Ok(vec![b"kept".to_vec()]));
    assert_eq!((net.nodes[&1].kept().entries, net.nodes[&2].kept().entries), (0, 1));
    assert_eq!(net.nodes[&1].own.entries().count(), 0, "what was handed over is let go");
}

#[test]
fn values_go_from_one_kind_to_the_next_on_a_shelf() {
    let mut net = town(3);
    store(&mut net, 10, "key", b"kept");
    provide(&mut net, 10, "Mine");
    let shelves: Vec<(u8, Shelf)> = net
        .living()
        .into_iter()
        .map(|place| {
            net.with(place, |node, now, _, out| node.leave(now, out));
            (place, net.nodes.get_mut(&place).expect("a node").take_shelf())
        })
        .collect();
    assert!(shelves.iter().all(|(_, shelf)| shelf.kept.len() == 3 || shelf.is_empty()));
    // Who kept them is a client now.
    let mut net = Town::new();
    for (place, shelf) in shelves {
        let mut node = node(place, &DirectoryConfig::default(), &[11, 12]);
        node.put_shelf(Instant::ORIGIN, shelf);
        net.join(node, &[]);
    }
    net.run(Duration::from_secs(5));
    assert_eq!(fetch(&mut net, 1, "key"), Ok(vec![b"kept".to_vec()]));
    assert_eq!(search(&mut net, 2, "mine").len(), 1);
    net.dead.insert(10);
    net.run(Duration::from_secs(180));
    assert_eq!(fetch(&mut net, 1, "key"), Ok(vec![b"kept".to_vec()]));
    assert_eq!(search(&mut net, 2, "mine").len(), 0, "its client is gone");
}

#[test]
fn what_is_refused_says_why() {
    let config = DirectoryConfig { entries_max: 16, ..DirectoryConfig::default() };
    let mut net = town_of(&config, 3);
    // One client's part is a sixteenth of the room.
    assert_eq!(store(&mut net, 10, "one", b"1").outcome, Ok(Answer::Stored));
    assert_eq!(store(&mut net, 10, "one", b"2").outcome, Err(ContentError::Refused(Refused::Full)));
    assert_eq!(store(&mut net, 11, "other", b"3").outcome, Ok(Answer::Stored));
    let outside = node(9, &config, &INDEXES);
    net.nodes.insert(9, outside);
    let early = net.with(9, |node, now, rng, out| node.fetch(now, rng, Id::of(b"one"), out));
    assert_eq!(early, Err(ContentError::NotLocated(LocateError::NotJoined)));
    let large = vec![0; VALUE_BYTES_MAX + 1];
    let large =
        net.with(10, |node, now, rng, out| node.store(now, rng, at(1), large, Duration::from_secs(1), out));
    assert_eq!(large, Err(ContentError::Unsound(Unsound::TooLarge)));
    let long = LIFETIME_MAX + Duration::from_secs(1);
    let long = net.with(10, |node, now, rng, out| node.store(now, rng, at(1), vec![1], long, out));
    assert_eq!(long, Err(ContentError::Unsound(Unsound::TooLong)));
    for number in 0..LOOKUPS_AT_ONCE {
        let located = net.with(10, |node, now, rng, out| node.locate(now, rng, at(7), out));
        assert_eq!(located.is_ok(), number < ask::LOOKUPS_MAX, "{number}");
    }
    net.with(10, |node, now, _, out| node.leave(now, out));
    assert_eq!(net.finished.len(), ask::LOOKUPS_MAX);
    assert!(net.finished.iter().all(|(_, located)| located.outcome == Err(LookupError::Left)));
}

const LOOKUPS_AT_ONCE: usize = ask::LOOKUPS_MAX + 1;

/// Authors are keys that anybody makes; clients were let in.
#[test]
fn one_client_does_not_fill_a_key_with_authors_that_it_makes_up() {
    let config = DirectoryConfig::default();
    let mut index: Index<At> = Index::new(Instant::ORIGIN);
    let value = |seed: u8| {
        let expires = WALL + Duration::from_secs(3600);
        author(seed).sign(Id::of(b"key"), 1, expires, Body::Value(vec![seed]))
    };
    for seed in 100..120 {
        let _ = index.put(value(seed), By::Client(&At(20)), &config);
    }
    for client in 10..17 {
        assert_eq!(index.put(value(client), By::Client(&At(client)), &config), Ok(()), "{client}");
        assert_eq!(index.put(value(120 + client), By::Client(&At(20)), &config), Err(Refused::Full));
    }
    index.check_limits(&config);
    let wanted = Wanted::Under { key: Id::of(b"key"), class: Class::Value };
    let authors: BTreeSet<NodeId> =
        index.find(&mut StdRng::seed_from_u64(1), &wanted, WALL).iter().map(|entry| entry.author).collect();
    assert_eq!(authors.len(), 8);
    assert!((10..17).all(|client| authors.contains(&author(client).author())));
}

#[test]
fn an_index_node_that_is_full_of_clients_turns_others_away() {
    let config = DirectoryConfig { clients_max: 3, ..DirectoryConfig::default() };
    let mut net = Town::new();
    net.join(node(1, &config, &[]), &[]);
    for place in [10, 11, 12, 13] {
        net.join(node(place, &config, &[]), &[1]);
        net.run(Duration::from_secs(5));
    }
    assert_eq!(net.joined, [1, 10, 11, 12]);
    net.dead.insert(10);
    net.run(Duration::from_secs(240));
    assert!(net.joined.contains(&13), "one lapsed, so there is room");
}

/// A lying index node: it answers everything, with nothing, or with what nobody has signed.
#[test]
fn one_index_node_that_lies_hides_nothing_and_makes_nothing_up() {
    for reads in [1, 2] {
        let mut net = town_of(&DirectoryConfig { reads, ..DirectoryConfig::default() }, 4);
        let keys: Vec<String> = (0..30).map(|number| format!("key {number}")).collect();
        for key in &keys {
            store(&mut net, 10, key, b"kept");
        }
        // What it forgets it keeps nothing of from now on, and what is in place of it is forged.
        let mut lying = Index::new(Instant::ORIGIN);
        lying.has_compared = true;
        for key in &keys {
            let mut forged =
                author(10).sign(Id::of(key.as_bytes()), u64::MAX, WALL + LIFETIME_MAX, Body::Value(vec![1]));
            forged.body = Body::Value(b"forged".to_vec());
            lying.put(forged, index::By::Myself, &DirectoryConfig::default()).expect("there is room");
        }
        net.nodes.get_mut(&2).expect("a node").index = Some(lying);
        let read = |key: &String| match fetch(&mut net, 11, key).expect("they answer").as_slice() {
            [] => false,
            [value] => {
                assert_eq!(value, b"kept");
                true
            }
            more => panic!("{more:?}"),
        };
        let found = keys.iter().map(read).filter(|found| *found).count();
        match reads {
            1 => assert!((12..28).contains(&found), "a third of all keys are its: {found}"),
            _ => assert_eq!(found, 30),
        }
    }
}

#[test]
fn strangers_forgers_and_false_fellows_are_not_listened_to() {
    let mut net = town(2);
    let entry = |name: &str| {
        let body = Body::Value(name.as_bytes().to_vec());
        author(10).sign(Id::of(b"key"), 1, WALL + Duration::from_secs(600), body)
    };
    let token = net.nodes[&10].sessions[0].token.expect("registered");
    let mut answer = |from: u8, token: u64, entries: Vec<Entry>| {
        net.sent.clear();
        net.hear(1, from, Message::Keep { request: 1, token, entries });
        net.wire.clear();
        match net.sent.pop() {
            Some((1, to, Message::Kept { outcomes, .. })) if to == from => outcomes,
            other => panic!("{other:?}"),
        }
    };
    // A client's token is its own, and what was not signed is not kept, whoever brings it.
    assert_eq!(answer(10, token ^ 1, vec![entry("a")]), [Err(Refused::NoToken)]);
    assert_eq!(answer(99, token, vec![entry("a")]), [Err(Refused::NoToken)]);
    let forged = Entry { key: Id::of(b"other"), ..entry("a") };
    assert_eq!(answer(10, token, vec![forged, entry("a")]), [Err(Refused::Unsound(Unsound::Forged)), Ok(())]);
    assert!(answer(10, token, vec![entry("a"); 1000]).len() <= 256);
    // Who is no index node is told nothing of what there is, and answers that nobody asked for
    // change nothing.
    net.sent.clear();
    for message in [
        Message::Compare { request: 1, after: None },
        Message::Send { request: 1, wanted: vec![Named { key: Id::of(b"key"), tag: entry("a").tag() }] },
        Message::Sent { request: 1, entries: vec![entry("b")] },
        Message::Names { request: 1, named: vec![Named { key: at(1), tag: 1 }], is_last: true },
        Message::Registered { request: 1, token: Some(7) },
    ] {
        net.hear(1, 11, message);
    }
    assert_eq!(net.sent, []);
    assert_eq!(net.nodes[&1].kept().entries, 1);
    // A client says that it is no index node.
    net.hear(11, 10, Message::Locate { request: 5, key: at(1) });
    assert_eq!(net.sent, [(11, 10, Message::Located { request: 5, is_index: false })]);
}

/// Any message, with numbers that are often right, from anybody, at any time.
#[test]
fn no_message_makes_a_node_panic_or_grow() {
    let config = DirectoryConfig { entries_max: 200, clients_max: 4, ..DirectoryConfig::default() };
    for seed in 0..40 {
        let mut net = town_of(&config, 2);
        let mut rng = StdRng::seed_from_u64(seed);
        // An index node, or a client.
        let place = if seed % 2 == 0 { 1 } else { 10 };
        for _ in 0..300 {
            let token = net.nodes[&place].sessions[0].token.unwrap_or_default();
            let message = any_message(&mut rng, net.nodes[&place].numbered, token);
            net.hear(place, rng.random_range(0..14), message);
            match rng.random_range(0..20) {
                0 => drop(net.with(place, |node, now, rng, out| node.search(now, rng, "word", out))),
                1 => drop(net.with(place, |node, now, rng, out| {
                    node.store(now, rng, at(9), vec![1], Duration::from_secs(60), out)
                })),
                2 => {
                    let others: Vec<At> = (0..rng.random_range(0..40)).map(|_| At(rng.random())).collect();
                    net.with(place, |node, now, rng, out| node.meet(now, rng, &others, out));
                }
                3 => {
                    net.now = net.now + Duration::from_secs(rng.random_range(0..600));
                    net.with(place, |node, now, rng, out| node.handle_timeout(now, rng, out));
                }
                _ => {}
            }
            net.wire.clear();
            let node = &net.nodes[&place];
            assert!(node.indexes.len() <= INDEXES_MAX && node.sessions.len() <= INDEXES_MAX);
            assert!(node.reads.len() + node.writes.len() <= ask::OPERATIONS_MAX);
            // Two for each that is or was an index node, and one to compare.
            let asking = node.calls.iter().filter(|call| !matches!(call.purpose, Purpose::Read(_))).count();
            assert!(asking <= 256, "{asking} calls");
            assert!(node.own.entries().count() <= own::HANDED_MAX + 3 * PUBLISHED_MAX);
            if let Some(index) = &node.index {
                index.check_limits(&config);
            }
            if net.nodes[&place].sessions.is_empty() {
                break;
            }
        }
    }
}

fn any_message(rng: &mut StdRng, numbered: u32, token: u64) -> Message {
    let request = numbered.wrapping_sub(rng.random_range(0..4));
    let token = if rng.random_bool(0.7) { token } else { rng.random() };
    let entries = |rng: &mut StdRng| -> Vec<Entry> {
        let expires = WALL + Duration::from_secs(rng.random_range(0..6000));
        let body = match rng.random_range(0..3) {
            0 => Body::Provider,
            1 => Body::Value(vec![7; rng.random_range(0..5000)]),
            _ => Body::Posting { content: Id::of(&[rng.random()]), name: "a word".into() },
        };
        let entry = author(rng.random_range(0..4)).sign(at(rng.random()), rng.random(), expires, body);
        vec![entry; rng.random_range(0..3)]
    };
    let named = |rng: &mut StdRng| {
        let mut named: Vec<Named> = (0..rng.random_range(0..300))
            .map(|_| Named { key: at(rng.random()), tag: rng.random() })
            .collect();
        if rng.random_bool(0.8) {
            named.sort_unstable();
        }
        named
    };
    let wanted = |rng: &mut StdRng| match rng.random_range(0..3) {
        0 => Wanted::Under { key: at(rng.random()), class: Class::Value },
        1 => Wanted::Under { key: at(rng.random()), class: Class::Provider },
        _ => Wanted::Words(vec!["word".into(); rng.random_range(0..20)]),
    };
    match rng.random_range(0..14) {
        0 => Message::Register { request },
        1 => Message::Registered { request, token: rng.random_bool(0.8).then_some(token) },
        2 => Message::Goodbye,
        3 => Message::Locate { request, key: at(rng.random()) },
        4 => Message::Located { request, is_index: rng.random() },
        5 | 6 => Message::Keep { request, token, entries: entries(rng) },
        7 => {
            let outcomes = [Ok(()), Err(Refused::NoToken), Err(Refused::Full), Err(Refused::NotMine)];
            let outcomes = (0..rng.random_range(0..5)).map(|_| outcomes[rng.random_range(0..4)]).collect();
            Message::Kept { request, outcomes }
        }
        8 => Message::Get { request, wanted: wanted(rng) },
        9 => Message::Got { request, entries: entries(rng), is_settled: rng.random() },
        10 => Message::Compare { request, after: named(rng).pop() },
        11 => Message::Names { request, named: named(rng), is_last: rng.random() },
        12 => Message::Send { request, wanted: named(rng) },
        _ => Message::Sent { request, entries: entries(rng) },
    }
}

#[test]
fn messages_are_the_same_after_the_wire() {
    let mut rng = StdRng::seed_from_u64(1);
    for _ in 0..200 {
        let message = any_message(&mut rng, 1000, 5);
        let bytes = postcard::to_extend(&message, Vec::new()).unwrap();
        assert!(bytes.len() <= 64 << 10, "{}", bytes.len());
        assert_eq!(postcard::from_bytes::<Message>(&bytes).unwrap(), message);
    }
}
