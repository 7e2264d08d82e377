//! Overlays of whole nodes, with the driver that runs in production, over links that lose,
//! repeat and reorder: what they are asked is answered, and the seed alone decides how.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use atoll_node::{AskError, Operation, OverlaySettings, Overlays};
use atoll_overlay::{Answer, AuthorKey, Body, Contact, ContentError, Finished, Id, LocateError, Offered};
use atoll_simulation::{OverlayWorld, Seed, TraceHash, overlay_lookups, seeds};
use atoll_transport::{Protocol, memory::LinkProfile};
use atoll_types::{NodeId, OverlayKind};
use bytes::Bytes;
use rand::{Rng, SeedableRng, rngs::StdRng};

const COUNT: u8 = 8;

struct Overlay(OverlayWorld);

fn author(number: usize) -> AuthorKey {
    AuthorKey::from_seed([number as u8 + 1; 32])
}

fn id(number: usize) -> NodeId {
    author(number).author()
}

impl Overlay {
    fn new(seed: u64, links: LinkProfile) -> Self {
        let ids: Vec<NodeId> = (0..COUNT.into()).map(id).collect();
        Self(OverlayWorld::new(Seed(seed), links, &ids, author))
    }

    fn settle(&self) {
        self.0.settle().unwrap_or_else(|error| panic!("{error}"));
    }

    fn run(&self, duration: Duration) {
        self.0.simulation.run_for(duration).unwrap_or_else(|error| panic!("{error}"));
    }

    fn on<T, F>(&self, index: usize, ask: impl FnOnce(Arc<Overlays>) -> F) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        self.0.ask(index, ask).unwrap_or_else(|error| panic!("{error}"))
    }

    fn operate(&self, index: usize, operation: Operation) -> Finished<atoll_node::NodeContact> {
        self.on(index, |overlays| async move { overlays.operate(operation).await }).expect("it is begun")
    }

    fn store(&self, index: usize, key: &str) -> Vec<NodeId> {
        let (key, value) = (Id::of(key.as_bytes()), key.as_bytes().to_vec());
        let lifetime = Duration::from_secs(3600);
        let finished = self.operate(index, Operation::Store { key, value, lifetime });
        assert_eq!(finished.outcome, Ok(Answer::Stored), "{key:?}");
        finished.by.iter().map(|contact| contact.node).collect()
    }

    fn fetch(&self, index: usize, key: &str) -> Vec<Vec<u8>> {
        let finished = self.operate(index, Operation::Fetch { key: Id::of(key.as_bytes()) });
        let Ok(Answer::Values(entries)) = finished.outcome else { panic!("{:?}", finished.outcome) };
        let value = |entry: atoll_overlay::Entry| match entry.body {
            Body::Value(value) => value,
            other => panic!("{other:?}"),
        };
        entries.into_iter().map(value).collect()
    }

    /// Every node that runs finds the same node responsible: the ring's next one.
    fn check_lookups(&self, dead: &[usize]) {
        let living = |index: &usize| !dead.contains(index);
        let ring: BTreeMap<Id, NodeId> = (0..self.0.members.len())
            .filter(living)
            .map(|index| self.0.members[index].id)
            .map(|node| (Id::of(node.as_bytes()), node))
            .collect();
        for number in 0..6_u8 {
            let key = Id::of(&[number]);
            let expected = *ring.range(key..).next().or(ring.iter().next()).expect("some node").1;
            for index in (0..self.0.members.len()).filter(living) {
                // A node whose question or answer is lost twice counts as dead, until upkeep
                // hears of it again.
                let found = (0..3).any(|_| {
                    let located = self.on(index, |overlays| async move { overlays.locate(key).await });
                    let outcome = located.expect("it is begun").outcome.expect("it is found");
                    assert_eq!(outcome[0].id(), Id::of(outcome[0].node.as_bytes()));
                    let is_right = outcome[0].node == expected;
                    if !is_right {
                        self.run(Duration::from_secs(5));
                    }
                    is_right
                });
                assert!(found, "seed {:?}: key {number} asked at {index}", self.0.simulation.seed());
            }
        }
    }
}

/// Chord grows, loses two nodes of three that keep something, gets them back, and becomes
/// an overlay of other kinds, and what was stored and provided is found all the way.
fn story(seed: u64, links: LinkProfile) -> TraceHash {
    let mut overlay = Overlay::new(seed, links);
    overlay.settle();
    overlay.check_lookups(&[]);
    let by = overlay.store(0, "kept");
    assert_eq!(by.len(), 3, "seed {seed}");
    let name = || "Holiday photos".to_string();
    let offered = Offered { content: Id::of(b"photos"), name: name() };
    assert_eq!(overlay.operate(1, Operation::Provide(offered)).outcome, Ok(Answer::Stored));

    let place = |node: &NodeId| overlay.0.members.iter().position(|member| member.id == *node);
    let dead: Vec<usize> = by.iter().filter_map(place).filter(|index| *index > 1).take(2).collect();
    overlay.0.kill(&dead);
    assert_eq!(overlay.fetch(0, "kept"), [b"kept"], "seed {seed}");
    overlay.settle();
    overlay.check_lookups(&dead);
    overlay.0.restart(&dead);
    overlay.settle();
    overlay.check_lookups(&[]);

    let others = [
        OverlayKind::Flood,
        OverlayKind::Directory,
        OverlayKind::Kademlia,
        OverlayKind::Hybrid,
        OverlayKind::Pastry,
        OverlayKind::Hybrid,
    ];
    for kind in others {
        overlay.0.choose(kind);
        overlay.settle();
        for index in 0..overlay.0.members.len() {
            assert_eq!(overlay.fetch(index, "kept"), [b"kept"], "seed {seed}, node {index}, {kind}");
            let shown = overlay.on(index, |overlays| async move { overlays.show().await });
            let shown = shown.expect("it is there");
            assert_eq!((shown.kind, shown.is_member), (kind, true));
            let key = Id::of(b"kept");
            let located = overlay.on(index, |overlays| async move { overlays.locate(key).await });
            let refused = Err(AskError::Refused(LocateError::NotOffered));
            assert_eq!(located.map(drop) == refused, kind == OverlayKind::Flood, "{kind}");
        }
    }
    let found = overlay.operate(5, Operation::Search { words: "PHOTOS".into() });
    let Ok(Answer::Hits(hits)) = found.outcome else { panic!("{:?}", found.outcome) };
    assert!(matches!(&hits[..], [hit] if hit.author == id(1)), "seed {seed}: {hits:?}");
    let failed = check_super_peers_that_fail(&mut overlay);
    if failed.contains(&0) {
        // Its author died with all who kept it, and so nobody has it.
        overlay.settle();
        assert_eq!(overlay.store(0, "kept").len(), 3, "seed {seed}");
    }
    check_a_centre_that_fails(&mut overlay);
    overlay.0.simulation.trace_hash()
}

/// All super-peers of the hybrid die at once. Leaves promote others, and publish anew there. Gives
/// who died.
fn check_super_peers_that_fail(overlay: &mut Overlay) -> Vec<usize> {
    let is_super = |index: &usize| {
        let shown = overlay.on(*index, |overlays| async move { overlays.show().await }).expect("it is there");
        shown.tables.iter().any(|table| table.name == "leaves")
    };
    let (supers, leaves): (Vec<usize>, Vec<usize>) = (0..usize::from(COUNT)).partition(is_super);
    assert!(supers.len() >= 3 && !leaves.is_empty(), "{supers:?}, {leaves:?}");
    overlay.store(leaves[0], "of a leaf");
    overlay.0.kill(&supers);
    overlay.settle();
    for leaf in &leaves {
        assert_eq!(overlay.fetch(*leaf, "of a leaf"), [b"of a leaf"], "of {leaves:?}");
    }
    overlay.0.restart(&supers);
    supers
}

/// The directory's index nodes are those that keep what is stored. Two of the three die; then the
/// last one does, and nothing is found until they are back, empty, and clients have brought again
/// what is theirs.
fn check_a_centre_that_fails(overlay: &mut Overlay) {
    overlay.0.choose(OverlayKind::Directory);
    overlay.settle();
    for index in 0..overlay.0.members.len() {
        assert_eq!(overlay.fetch(index, "kept"), [b"kept"], "node {index}, from the hybrid");
    }
    let by = overlay.store(1, "to see who keeps it");
    assert_eq!(by.len(), 3);
    let place = |node: &NodeId| overlay.0.members.iter().position(|member| member.id == *node);
    let indexes: Vec<usize> = by.iter().filter_map(place).collect();
    let clients: Vec<usize> = (0..usize::from(COUNT)).filter(|index| !indexes.contains(index)).collect();
    overlay.store(clients[0], "of a client");
    overlay.0.kill(&indexes[..2]);
    for client in &clients {
        assert_eq!(overlay.fetch(*client, "of a client"), [b"of a client"]);
    }
    overlay.0.kill(&indexes);
    let fetch = Operation::Fetch { key: Id::of(b"of a client") };
    assert_eq!(overlay.operate(clients[1], fetch).outcome, Err(ContentError::Silent));
    overlay.0.restart(&indexes);
    overlay.settle();
    for client in &clients {
        assert_eq!(overlay.fetch(*client, "of a client"), [b"of a client"]);
    }
}

#[test]
fn what_is_asked_of_an_overlay_is_answered_though_nodes_die_and_the_kind_changes() {
    for Seed(seed) in seeds(0..3) {
        println!("seed {seed}");
        story(seed, LinkProfile::between_sites());
        story(seed, LinkProfile { loss: 0.01, ..LinkProfile::hostile() });
    }
}

#[test]
fn the_same_seed_is_the_same_story() {
    let links = || LinkProfile { loss: 0.01, ..LinkProfile::hostile() };
    assert_eq!(story(7, links()), story(7, links()));
    assert_ne!(story(7, links()), story(8, links()));
}

/// A member that sends what it likes: noise, frames too large, frames of another kind, and as
/// many as it can. They are counted, and the others go on.
#[test]
fn a_hostile_member_is_counted_and_changes_nothing() {
    let overlay = Overlay::new(1, LinkProfile::local_network());
    overlay.settle();
    assert_eq!(overlay.store(0, "kept").len(), 3);
    let hostile = overlay.0.members[7].transport.clone();
    let mut rng = StdRng::seed_from_u64(1);
    let victims: Vec<NodeId> = overlay.0.members[..7].iter().map(|member| member.id).collect();
    for round in 0..60_usize {
        for victim in &victims {
            let mut noise = |bytes: usize| -> Vec<u8> { (0..bytes).map(|_| rng.random()).collect() };
            let frame = match round % 4 {
                0 => noise(200),
                1 => vec![1; (64 << 10) + 1],
                2 => [vec![1, OverlayKind::Kademlia.code()], noise(40)].concat(),
                _ => [vec![1, OverlayKind::Chord.code()], noise(40)].concat(),
            };
            hostile.send(*victim, Protocol::Overlay, Bytes::from(frame));
        }
        overlay.run(Duration::from_millis(10));
    }
    // A flood, all at once.
    for _ in 0..500 {
        hostile.send(victims[0], Protocol::Overlay, Bytes::from_static(&[1, 1, 0]));
    }
    overlay.settle();
    for (index, member) in overlay.0.members[..7].iter().enumerate() {
        let counters = member.overlays.counters();
        let refused = counters.malformed.load(Ordering::Relaxed);
        assert!(refused >= 30, "node {index}: {refused} malformed");
        assert_eq!(counters.other_kind.load(Ordering::Relaxed), 15, "node {index}");
    }
    assert!(overlay.0.members[0].overlays.counters().dropped.load(Ordering::Relaxed) > 0);
    overlay.check_lookups(&[]);
    assert_eq!(overlay.fetch(3, "kept"), [b"kept"]);
}

/// What `atoll lab run lookup --real` compares real processes with.
#[test]
fn lookups_of_a_calm_network_find_the_key_in_every_kind() {
    let ids: Vec<NodeId> = (0..16).map(id).collect();
    let asked: Vec<(usize, Id)> =
        (0..40_u8).map(|number| (number as usize % 16, Id::of(&[number]))).collect();
    for (kind, centre) in [
        (OverlayKind::Chord, &[][..]),
        (OverlayKind::Kademlia, &[]),
        (OverlayKind::Pastry, &[]),
        (OverlayKind::Directory, &ids[5..8]),
        (OverlayKind::Hybrid, &ids[5..8]),
    ] {
        let located = overlay_lookups(Seed(1), kind, &OverlaySettings::default(), &ids, centre, &asked);
        for (located, (asker, _)) in located.unwrap_or_else(|error| panic!("{error}")).iter().zip(&asked) {
            let located = located.as_ref().expect("it was asked");
            let first = located.outcome.as_ref().expect("it was found")[0].node;
            let expected = u32::from(first != ids[*asker]);
            assert_eq!((located.hops.min(1), located.timeouts), (expected, 0), "{kind}");
            assert!(centre.is_empty() || centre.contains(&first), "{kind}: {first} is not in the centre");
        }
    }
}
