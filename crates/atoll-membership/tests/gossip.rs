//! Membership over the in-memory network, on virtual time and with the default settings.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use atoll_membership::{Counts, Member, MemberInfo, MemberState, Membership, MembershipSettings, View};
use atoll_runtime::watch;
use atoll_simulation::{NodeIndex, Schedule, Seed, Simulation};
use atoll_transport::{
    Admission, Message, Protocol, Transport,
    memory::{LinkProfile, Links, MemoryNetwork},
};
use atoll_types::{ByteSize, DiskId, Generation, NodeId, Roles, Zone};
use bytes::Bytes;

fn id(number: u16) -> NodeId {
    let mut bytes = [7; 32];
    bytes[..2].copy_from_slice(&number.to_be_bytes());
    NodeId(bytes)
}

fn info(number: u16, generation: u64) -> MemberInfo {
    MemberInfo {
        node: id(number),
        generation: Generation(generation),
        zone: Zone(format!("zone-{}", number % 3)),
        capacity: ByteSize::gib(100),
        disk: DiskId(number.into()),
        roles: Roles::default(),
        addresses: vec![MemoryNetwork::address(id(number))],
        s3_address: Some("127.0.0.1:9000".into()),
        admin_address: None,
        layout_version: 1,
        supports: 1,
    }
}

struct Everyone;

impl Admission for Everyone {
    fn admits(&self, _peer: &NodeId, _protocol: Protocol) -> bool {
        true
    }
}

struct Node {
    place: NodeIndex,
    generation: u64,
    transport: Arc<dyn Transport>,
    membership: Membership,
    view: watch::Receiver<Arc<View>>,
}

struct World {
    simulation: Simulation,
    links: Arc<Links>,
    network: MemoryNetwork,
    nodes: BTreeMap<u16, Node>,
}

impl World {
    fn new(seed: u64, profile: LinkProfile) -> Self {
        let links = Arc::new(Links::new(profile));
        let network = MemoryNetwork::new(links.clone(), Seed(seed).stream("network"));
        network.require_addresses();
        let simulation = Simulation::new(Seed(seed), Schedule::Shuffled);
        Self { simulation, links, network, nodes: BTreeMap::new() }
    }

    /// Nodes 1 to `count`, all of which know one address: the first one's.
    fn of(count: u16, seed: u64, profile: LinkProfile) -> Self {
        let mut world = Self::new(seed, profile);
        for number in 1..=count {
            world.start(number);
            world.join(number, 1);
        }
        world.wait("all see all", |world| world.all_see_all());
        world
    }

    /// Starts a node, or starts it again.
    fn start(&mut self, number: u16) {
        let generation = self.nodes.get(&number).map_or(1, |node| node.generation + 1);
        self.start_as(number, generation);
    }

    fn start_as(&mut self, number: u16, generation: u64) {
        let former = self.nodes.remove(&number);
        let place = match &former {
            Some(node) => node.place,
            None => self.simulation.add_node(format!("node {number}")),
        };
        let runtime = self.simulation.node_runtime(place);
        let transport = self.network.endpoint(id(number), runtime.clone());
        transport.set_admission(Arc::new(Everyone));
        let settings = MembershipSettings::default();
        let membership =
            Membership::start(runtime, transport.clone(), info(number, generation), settings).unwrap();
        let view = membership.view();
        self.nodes.insert(number, Node { place, generation, transport, membership, view });
    }

    fn join(&self, number: u16, seed: u16) {
        let node = &self.nodes[&number];
        node.transport.set_addresses(id(seed), vec![MemoryNetwork::address(id(seed))]);
        let membership = node.membership.clone();
        self.simulation.block_on(SECOND, async move { membership.join(vec![id(seed)]).await }).unwrap();
    }

    /// As `kill -9`: connections break, nobody is told.
    fn kill(&mut self, number: u16) {
        self.simulation.faults().crash(self.nodes[&number].place);
        self.network.stop(id(number));
    }

    fn member(&self, seen_by: u16, number: u16) -> Option<Member> {
        self.nodes[&seen_by].view.borrow().get(&id(number)).cloned()
    }

    fn state(&self, seen_by: u16, number: u16) -> Option<MemberState> {
        self.member(seen_by, number).map(|member| member.state)
    }

    fn all_see_all(&self) -> bool {
        self.nodes.values().all(|node| {
            let view = node.view.borrow();
            view.members.len() == self.nodes.len()
                && view.members.values().all(|member| {
                    let number = u16::from_be_bytes([member.node.0[0], member.node.0[1]]);
                    member.state == MemberState::Alive
                        && member.generation.0 >= self.nodes[&number].generation
                        && member.info.as_ref().is_some_and(|info| info.generation == member.generation)
                })
        })
    }

    fn wait(&self, what: &str, condition: impl Fn(&World) -> bool) -> Duration {
        let before = self.simulation.now();
        // Looking is what costs most here: every 20 ms is near enough.
        while !condition(self) {
            let took = self.simulation.now().saturating_since(before);
            assert!(took < 60 * SECOND, "{what}: not within a minute");
            self.simulation.run_for(Duration::from_millis(20)).unwrap();
        }
        self.simulation.now().saturating_since(before)
    }

    fn counts(&self, number: u16) -> Counts {
        self.nodes[&number].membership.counts()
    }
}

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn five_nodes_see_each_other_and_what_they_tell() {
    let world = World::of(5, 1, LinkProfile::local_network());
    for seen_by in 1..=5 {
        for number in 1..=5 {
            let member = world.member(seen_by, number).unwrap();
            assert_eq!(*member.info.unwrap(), info(number, 1));
        }
    }
}

#[test]
fn a_newcomer_is_seen_by_all_within_a_second() {
    let mut world = World::of(8, 2, LinkProfile::local_network());
    world.start(9);
    world.join(9, 4);
    let took = world.wait("nine see nine", World::all_see_all);
    assert!(took < SECOND, "{took:?}");
}

#[test]
fn a_killed_node_is_dead_to_all_within_five_seconds() {
    for seed in 0..10 {
        let mut world = World::of(5, seed, LinkProfile::local_network());
        world.simulation.run_for(3 * SECOND).unwrap();
        world.kill(3);
        let others = [1, 2, 4, 5];
        let dead =
            |world: &World| others.iter().all(|other| world.state(*other, 3) == Some(MemberState::Dead));
        let took = world.wait("3 is dead", dead);
        assert!(took < 5 * SECOND, "{took:?}");
        assert!(took > 2 * SECOND, "a suspect has time to speak up: {took:?}");
        for other in others {
            assert!(others.iter().all(|number| world.state(other, *number) == Some(MemberState::Alive)));
        }
    }
}

#[test]
fn the_last_but_one_is_found_dead_by_the_last() {
    let mut world = World::of(2, 3, LinkProfile::local_network());
    world.kill(1);
    let took = world.wait("1 is dead", |world| world.state(2, 1) == Some(MemberState::Dead));
    assert!(took < 5 * SECOND, "{took:?}");
}

#[test]
fn a_restarted_node_is_alive_at_once_under_its_higher_generation() {
    let mut world = World::of(5, 4, LinkProfile::local_network());
    world.kill(3);
    world.simulation.run_for(SECOND).unwrap();
    world.start(3);
    world.join(3, 5);
    let took = world.wait("3 is back", World::all_see_all);
    assert!(took < SECOND, "before it was found dead: {took:?}");

    world.kill(3);
    world.wait("3 is dead", |world| (1..=5).all(|n| n == 3 || world.state(n, 3) == Some(MemberState::Dead)));
    world.start(3);
    world.join(3, 5);
    let took = world.wait("3 is back again", World::all_see_all);
    assert!(took < SECOND, "after it was found dead: {took:?}");
}

/// Its disk was set back: it counts lives that the others have long seen. Nobody tells it how
/// far they have counted.
#[test]
fn a_node_that_counts_from_an_old_life_is_soon_alive_in_a_new_one() {
    for known in [2, 7, 1_000_000] {
        let mut world = World::of(4, 8, LinkProfile::local_network());
        world.kill(4);
        world.start_as(4, known);
        world.join(4, 1);
        let say = |world: &World, version| {
            let membership = world.nodes[&4].membership.clone();
            let news = MemberInfo { layout_version: version, ..info(4, 1) };
            world
                .simulation
                .block_on(SECOND, async move { membership.update_me(news).await })
                .unwrap()
                .unwrap();
        };
        for version in 2..20 {
            say(&world, version);
        }
        world.wait("all see all", |world| world.all_see_all());
        world.kill(4);
        world.simulation.run_for(Duration::from_secs(8)).unwrap();
        world.start_as(4, 1);
        world.join(4, 1);
        say(&world, 99);
        let is_back = |member: &Member| {
            let told = member.info.as_ref().map(|info| info.layout_version);
            member.state == MemberState::Alive && member.generation.0 >= known && told == Some(99)
        };
        let took = world.wait("all see it", |world| {
            (1..=4).all(|by| world.member(by, 4).is_some_and(|member| is_back(&member)))
        });
        assert!(took < 10 * SECOND, "{took:?} after {known} lives");
        let resurrections = world.counts(4).resurrections;
        assert!(resurrections < 60, "{resurrections} tries after {known} lives");
    }
}

#[test]
fn a_node_that_leaves_is_dead_to_all_at_once() {
    let world = World::of(5, 5, LinkProfile::local_network());
    let membership = world.nodes[&2].membership.clone();
    world.simulation.block_on(SECOND, async move { membership.leave().await }).unwrap();
    let gone = |world: &World| [1, 3, 4, 5].iter().all(|n| world.state(*n, 2) == Some(MemberState::Dead));
    let took = world.wait("2 is gone", gone);
    assert!(took < SECOND, "{took:?}");
    world.simulation.run_for(20 * SECOND).unwrap();
    assert!(gone(&world), "it does not come back");
}

#[test]
fn after_a_cut_both_sides_find_back() {
    for (count, some, others) in
        [(5, vec![1, 2], vec![3, 4, 5]), (2, vec![1], vec![2]), (3, vec![1], vec![2, 3])]
    {
        let world = World::of(count, 6, LinkProfile::local_network());
        let ids = |numbers: &[u16]| -> Vec<NodeId> { numbers.iter().map(|number| id(*number)).collect() };
        world.links.cut(&ids(&some), &ids(&others));
        world.wait("each side holds the other for dead", |world| {
            some.iter().all(|one| {
                others.iter().all(|other| {
                    world.state(*one, *other) == Some(MemberState::Dead)
                        && world.state(*other, *one) == Some(MemberState::Dead)
                })
            })
        });
        world.simulation.run_for(30 * SECOND).unwrap();
        world.links.heal_all();
        let took = world.wait("all see all again", World::all_see_all);
        assert!(took < 15 * SECOND, "{count} nodes: {took:?}");
        assert!((1..=count).any(|number| world.counts(number).resurrections > 0));
    }
}

#[test]
fn a_node_that_is_out_of_reach_of_one_stays_alive_to_all() {
    let world = World::of(5, 7, LinkProfile::local_network());
    world.links.cut(&[id(1)], &[id(2)]);
    for _ in 0..60 {
        world.simulation.run_for(SECOND).unwrap();
        for number in 1..=5 {
            assert!(world.nodes[&number].view.borrow().members.values().all(Member::is_reachable));
        }
    }
}

#[test]
fn what_a_node_tells_of_itself_reaches_all_and_those_who_join_later() {
    let mut world = World::of(5, 8, LinkProfile::local_network());
    let mut news = info(2, 1);
    news.layout_version = 17;
    news.generation = Generation(99); // not to be changed
    let membership = world.nodes[&2].membership.clone();
    world.simulation.block_on(SECOND, async move { membership.update_me(news).await }).unwrap().unwrap();
    let knows = |world: &World, n: u16| {
        let info = world.member(n, 2).and_then(|member| member.info);
        info.is_some_and(|info| info.layout_version == 17 && info.generation == Generation(1))
    };
    let took = world.wait("all know", |world| (1..=5).all(|n| knows(world, n)));
    assert!(took < 2 * SECOND, "{took:?}");
    world.simulation.run_for(60 * SECOND).unwrap();
    world.start(6);
    world.join(6, 4);
    let took = world.wait("the newcomer knows", |world| knows(world, 6));
    assert!(took < SECOND, "{took:?}");
}

#[test]
fn nobody_dies_of_a_bad_network() {
    for seed in 0..5 {
        let world = World::of(5, seed, LinkProfile { loss: 0.1, ..LinkProfile::hostile() });
        for _ in 0..120 {
            world.simulation.run_for(SECOND).unwrap();
            for number in 1..=5 {
                let view = world.nodes[&number].view.borrow().clone();
                assert!(view.members.values().all(Member::is_reachable), "seed {seed}: {view:?}");
            }
        }
    }
}

#[test]
fn a_node_that_stalls_distrusts_itself_and_comes_back() {
    let world = World::of(5, 9, LinkProfile::local_network());
    let faults = world.simulation.faults();
    for _ in 0..6 {
        faults.pause(world.nodes[&4].place);
        world.simulation.run_for(2 * SECOND).unwrap();
        faults.resume(world.nodes[&4].place);
        world.simulation.run_for(Duration::from_millis(100)).unwrap();
    }
    assert!(world.counts(4).local_health > 0);
    // A longer one: the others give it up, it finds out, and joins them again.
    faults.pause(world.nodes[&4].place);
    world.wait("4 is dead", |world| {
        [1, 2, 3, 5].iter().all(|n| world.state(*n, 4) == Some(MemberState::Dead))
    });
    faults.resume(world.nodes[&4].place);
    let took = world.wait("4 is back", World::all_see_all);
    assert!(took < 10 * SECOND, "{took:?}");
    // From the bottom: nine periods, then eight, …: 45 × 0.5 s.
    world.simulation.run_for(30 * SECOND).unwrap();
    assert_eq!(world.counts(4).local_health, 0);
}

#[test]
fn garbage_and_impersonation_are_refused_and_counted() {
    let world = World::of(3, 10, LinkProfile::local_network());
    // Node 3's transport sends what it never should, in its own name.
    let transport = &world.nodes[&3].transport;
    let refused = || world.counts(1).frames_refused;
    assert_eq!(refused(), 0);
    let send = |payload: Vec<u8>| {
        transport.send(id(1), Protocol::Membership, Bytes::from(payload));
        world.simulation.run_for(Duration::from_millis(10)).unwrap();
    };
    send(vec![]);
    send(vec![9, 9, 9]);
    send(vec![1]);
    send(vec![1; 5000]);
    assert_eq!(refused(), 4);
    // A frame as node 2 would send it: version, its life, no incarnation, to node 1, a ping.
    let mut forged = vec![1];
    for number in [2u16, 1] {
        forged.extend(id(number).0);
        forged.extend([1, 0]);
        if number == 2 {
            forged.push(0);
        }
    }
    forged.extend([0, 0]);
    send(forged);
    assert_eq!(refused(), 5);
    let call = transport.clone();
    let answer = world.simulation.block_on(SECOND, async move {
        call.call(id(1), Protocol::Membership, Message::with_body(Bytes::new(), vec![1, 2, 3]), SECOND).await
    });
    assert!(answer.unwrap().is_err());
    assert_eq!(refused(), 6);
    world.simulation.run_for(5 * SECOND).unwrap();
    assert!(world.all_see_all());
}

#[test]
fn a_removed_dead_member_is_forgotten_when_asked() {
    let mut world = World::of(3, 11, LinkProfile::local_network());
    world.kill(3);
    world.wait("3 is dead", |world| world.state(1, 3) == Some(MemberState::Dead));
    let membership = world.nodes[&1].membership.clone();
    world.simulation.block_on(SECOND, async move { membership.forget(id(3)).await }).unwrap();
    world.wait("3 is forgotten", |world| world.member(1, 3).is_none());
}

#[test]
fn too_many_facts_are_refused_before_anyone_hears_them() {
    let world = World::of(1, 12, LinkProfile::local_network());
    let mut me = info(1, 1);
    me.addresses = vec!["an-address.example:9100".into(); 50];
    let membership = world.nodes[&1].membership.clone();
    let refused = world.simulation.block_on(SECOND, async move { membership.update_me(me).await }).unwrap();
    assert!(refused.is_err());
}

#[test]
fn fifty_nodes_find_each_other_and_miss_the_one_that_dies() {
    let mut world = World::of(50, 13, LinkProfile::local_network());
    world.simulation.run_for(10 * SECOND).unwrap();
    let before = world.counts(1);
    world.simulation.run_for(10 * SECOND).unwrap();
    let sent = world.counts(1).frames_sent - before.frames_sent;
    assert!(sent < 300, "{sent} datagrams in 10 s when nothing happens");
    world.kill(25);
    let took = world.wait("25 is dead", |world| {
        (1..=50).all(|number| number == 25 || world.state(number, 25) == Some(MemberState::Dead))
    });
    assert!(took < 6 * SECOND, "{took:?}");
}
