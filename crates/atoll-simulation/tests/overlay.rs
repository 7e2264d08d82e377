//! Overlays of whole nodes, with the driver that runs in production, over links that lose,
//! repeat and reorder: what they are asked is answered, and the seed alone decides how.

use std::{
    collections::BTreeMap,
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use atoll_membership::{Member, MemberState, View};
use atoll_node::{Operation, OverlayParts, OverlaySettings, Overlays};
use atoll_overlay::{Answer, AuthorKey, Body, Contact, Finished, Id, Offered};
use atoll_placement::{Layout, LayoutNode, LayoutSettings, NodeState};
use atoll_runtime::watch;
use atoll_simulation::{Network, NodeIndex, Schedule, Seed, Simulation, TraceHash, seeds};
use atoll_transport::{Admission, Protocol, Transport, memory::LinkProfile};
use atoll_types::{ByteSize, DiskId, Generation, Instant, NodeId, OverlayKind, Role, Roles, Zone};
use bytes::Bytes;
use rand::{Rng, SeedableRng, rngs::StdRng};

const COUNT: u8 = 8;
/// Upkeep finds who is missing within some of its rounds of 2 to 5 s, even where datagrams are
/// lost.
const SETTLED: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(30);

struct Everyone;

impl Admission for Everyone {
    fn admits(&self, _peer: &NodeId, _protocol: Protocol) -> bool {
        true
    }
}

struct Machine {
    node: NodeIndex,
    id: NodeId,
    transport: Arc<dyn Transport>,
    overlays: Arc<Overlays>,
}

struct Overlay {
    simulation: Simulation,
    network: Network,
    layout: watch::Sender<Arc<Layout>>,
    view: watch::Sender<Arc<View>>,
    machines: Vec<Machine>,
}

fn key_seed(number: u8) -> [u8; 32] {
    [number + 1; 32]
}

fn id(number: u8) -> NodeId {
    AuthorKey::from_seed(key_seed(number)).author()
}

/// A layout that names all of them, chosen by nobody yet.
fn layout() -> Layout {
    let node = |number: u8| LayoutNode {
        zone: Zone::default(),
        capacity: ByteSize(1 << 30),
        disk: DiskId(number.into()),
        roles: Roles::NONE.with(Role::Storage),
        state: NodeState::Active,
        addresses: Vec::new(),
    };
    let first = Layout::genesis(id(0), node(0), LayoutSettings { data_shards: 1, ..Default::default() });
    let admit = |layout: Layout, number| {
        layout.admit(id(number), node(number)).expect("it is well-formed").expect("it is new")
    };
    (1..COUNT).fold(first, admit)
}

fn view(alive: impl Fn(u8) -> bool) -> View {
    let member = |number: u8| Member {
        node: id(number),
        generation: Generation(1),
        state: if alive(number) { MemberState::Alive } else { MemberState::Dead },
        since: Instant::ORIGIN,
        info: None,
    };
    View { members: (0..COUNT).map(|number| (id(number), member(number))).collect() }
}

impl Overlay {
    fn new(seed: u64, links: LinkProfile) -> Self {
        let simulation = Simulation::new(Seed(seed), Schedule::Shuffled);
        let network = Network::new(&simulation);
        network.links().set_all(links);
        let (layout, _) = watch::channel(Arc::new(layout()));
        let (view, _) = watch::channel(Arc::new(view(|_| true)));
        let mut overlay = Self { simulation, network, layout, view, machines: Vec::new() };
        for number in 0..COUNT {
            let node = overlay.simulation.add_node(format!("node {number}"));
            let machine = overlay.start(number, node);
            overlay.machines.push(machine);
        }
        overlay
    }

    fn start(&self, number: u8, node: NodeIndex) -> Machine {
        let runtime = self.simulation.node_runtime(node);
        let transport = self.network.memory().endpoint(id(number), runtime.clone());
        transport.set_admission(Arc::new(Everyone));
        let overlays = Arc::new(Overlays::start(OverlayParts {
            runtime,
            transport: transport.clone(),
            layout: self.layout.subscribe(),
            view: self.view.subscribe(),
            author: AuthorKey::from_seed(key_seed(number)),
            settings: OverlaySettings::default(),
        }));
        Machine { node, id: id(number), transport, overlays }
    }

    fn run(&self, duration: Duration) {
        self.simulation.run_for(duration).unwrap_or_else(|error| panic!("{error}"));
    }

    fn kill(&self, index: usize) {
        self.simulation.faults().crash(self.machines[index].node);
        self.network.memory().stop(self.machines[index].id);
    }

    fn on<T, F>(&self, index: usize, ask: impl FnOnce(Arc<Overlays>) -> F) -> T
    where
        T: Send + 'static,
        F: Future<Output = T> + Send + 'static,
    {
        let asked = ask(self.machines[index].overlays.clone());
        self.simulation.block_on(PATIENCE, asked).unwrap_or_else(|error| panic!("{error}"))
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

    fn choose(&self, kind: OverlayKind) {
        let next = self.layout.borrow().with_overlay(kind).expect("another kind");
        self.layout.send_replace(Arc::new(next));
    }

    /// Every node that runs finds the same node responsible: the ring's next one.
    fn check_lookups(&self, dead: &[usize]) {
        let living = |index: &usize| !dead.contains(index);
        let ring: BTreeMap<Id, NodeId> = (0..self.machines.len())
            .filter(living)
            .map(|index| self.machines[index].id)
            .map(|node| (Id::of(node.as_bytes()), node))
            .collect();
        for number in 0..6_u8 {
            let key = Id::of(&[number]);
            let expected = *ring.range(key..).next().or(ring.iter().next()).expect("some node").1;
            for index in (0..self.machines.len()).filter(living) {
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
                assert!(found, "seed {:?}: key {number} asked at {index}", self.simulation.seed());
            }
        }
    }
}

/// Chord grows, loses two nodes of three that keep something, gets them back, and becomes
/// Kademlia and then Pastry, and what was stored and provided is found all the way.
fn story(seed: u64, links: LinkProfile) -> TraceHash {
    let mut overlay = Overlay::new(seed, links);
    overlay.run(SETTLED);
    overlay.check_lookups(&[]);
    let by = overlay.store(0, "kept");
    assert_eq!(by.len(), 3, "seed {seed}");
    let name = || "Holiday photos".to_string();
    let offered = Offered { content: Id::of(b"photos"), name: name() };
    assert_eq!(overlay.operate(1, Operation::Provide(offered)).outcome, Ok(Answer::Stored));

    let place = |node: &NodeId| overlay.machines.iter().position(|machine| machine.id == *node);
    let dead: Vec<usize> = by.iter().filter_map(place).filter(|index| *index > 1).take(2).collect();
    dead.iter().for_each(|index| overlay.kill(*index));
    overlay.view.send_replace(Arc::new(view(|number| !dead.contains(&usize::from(number)))));
    assert_eq!(overlay.fetch(0, "kept"), [b"kept"], "seed {seed}");
    overlay.run(SETTLED);
    overlay.check_lookups(&dead);
    for index in dead {
        overlay.machines[index] = overlay.start(index as u8, overlay.machines[index].node);
    }
    overlay.view.send_replace(Arc::new(view(|_| true)));
    overlay.run(SETTLED);
    overlay.check_lookups(&[]);

    for kind in [OverlayKind::Kademlia, OverlayKind::Pastry] {
        overlay.choose(kind);
        overlay.run(SETTLED);
        for index in 0..overlay.machines.len() {
            assert_eq!(overlay.fetch(index, "kept"), [b"kept"], "seed {seed}, node {index}, {kind}");
            let shown = overlay.on(index, |overlays| async move { overlays.show().await });
            let shown = shown.expect("it is there");
            assert_eq!((shown.kind, shown.is_member), (kind, true));
        }
    }
    let found = overlay.operate(5, Operation::Search { words: "PHOTOS".into() });
    let Ok(Answer::Hits(hits)) = found.outcome else { panic!("{:?}", found.outcome) };
    assert!(matches!(&hits[..], [hit] if hit.author == id(1)), "seed {seed}: {hits:?}");
    overlay.simulation.trace_hash()
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
    overlay.run(SETTLED);
    assert_eq!(overlay.store(0, "kept").len(), 3);
    let hostile = overlay.machines[7].transport.clone();
    let mut rng = StdRng::seed_from_u64(1);
    let victims: Vec<NodeId> = overlay.machines[..7].iter().map(|machine| machine.id).collect();
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
    overlay.run(SETTLED);
    for (index, machine) in overlay.machines[..7].iter().enumerate() {
        let counters = machine.overlays.counters();
        let refused = counters.malformed.load(Ordering::Relaxed);
        assert!(refused >= 30, "node {index}: {refused} malformed");
        assert_eq!(counters.other_kind.load(Ordering::Relaxed), 15, "node {index}");
    }
    assert!(overlay.machines[0].overlays.counters().dropped.load(Ordering::Relaxed) > 0);
    overlay.check_lookups(&[]);
    assert_eq!(overlay.fetch(3, "kept"), [b"kept"]);
}
