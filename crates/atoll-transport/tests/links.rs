//! What the in-memory network does to what passes over it, on virtual time: delays, loss,
//! duplicates, order, bandwidth, cuts and machines without power.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use atoll_runtime::Runtime;
use atoll_simulation::{NodeIndex, Schedule, Seed, Simulation};
use atoll_transport::{
    Admission, CallError, Caller, Handler, Message, Protocol, Refusal, Transport,
    memory::{DEAD_AFTER, LinkProfile, Links, MemoryNetwork},
};
use atoll_types::NodeId;
use bytes::Bytes;
use rand::{SeedableRng, rngs::StdRng};

const A: NodeId = NodeId([1; 32]);
const B: NodeId = NodeId([2; 32]);
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);

struct Everyone;

impl Admission for Everyone {
    fn admits(&self, _peer: &NodeId, _protocol: Protocol) -> bool {
        true
    }
}

/// Echoes after `delay`, and keeps what it saw.
struct Echo {
    runtime: Runtime,
    delay: Duration,
    calls: Mutex<usize>,
    datagrams: Mutex<Vec<u8>>,
}

#[async_trait]
impl Handler for Echo {
    async fn call(&self, _from: Caller, request: Message) -> Result<Message, Refusal> {
        *self.calls.lock().unwrap() += 1;
        self.runtime.sleep(self.delay).await;
        Ok(request)
    }

    fn datagram(&self, _from: &Caller, payload: Bytes) {
        self.datagrams.lock().unwrap().push(payload[0]);
    }
}

struct World {
    simulation: Simulation,
    links: Arc<Links>,
    network: MemoryNetwork,
    b_node: NodeIndex,
    a: Arc<dyn Transport>,
    _b: Arc<dyn Transport>,
    echo: Arc<Echo>,
}

fn world(profile: LinkProfile, delay: Duration) -> World {
    let simulation = Simulation::new(Seed(1), Schedule::Shuffled);
    let links = Arc::new(Links::new(profile));
    let network = MemoryNetwork::new(links.clone(), StdRng::from_seed([7; 32]));
    let (a_node, b_node) = (simulation.add_node("a"), simulation.add_node("b"));
    let a = network.endpoint(A, simulation.node_runtime(a_node));
    let runtime = simulation.node_runtime(b_node);
    let b = network.endpoint(B, runtime.clone());
    let echo = Arc::new(Echo { runtime, delay, calls: Mutex::default(), datagrams: Mutex::default() });
    b.set_admission(Arc::new(Everyone));
    b.serve(Protocol::Raft, echo.clone());
    World { simulation, links, network, b_node, a, _b: b, echo }
}

impl World {
    /// The result of a call of `bytes`, and how long it took.
    fn call(&self, bytes: usize) -> (Result<Message, CallError>, Duration) {
        self.call_meanwhile(bytes, HOUR, || {})
    }

    /// The same, with `deed` done `after` it began.
    fn call_meanwhile(
        &self,
        bytes: usize,
        after: Duration,
        deed: impl FnOnce() + Send + 'static,
    ) -> (Result<Message, CallError>, Duration) {
        let (a, runtime) = (self.a.clone(), self.simulation.world_runtime());
        let doer = runtime.clone();
        let _deed = runtime.spawn_owned("deed", async move {
            doer.sleep(after).await;
            deed();
        });
        let call = async move {
            let start = runtime.now();
            let request = Message::with_body("", vec![0; bytes]);
            let result = a.call(B, Protocol::Raft, request, HOUR).await;
            (result, runtime.now() - start)
        };
        self.simulation.block_on(2 * HOUR, call).unwrap()
    }

    fn calls_seen(&self) -> usize {
        *self.echo.calls.lock().unwrap()
    }

    /// What arrives of the datagrams 0, 1, … 199.
    fn datagrams(&self) -> Vec<u8> {
        for number in 0..200u8 {
            self.a.send(B, Protocol::Raft, Bytes::from(vec![number]));
        }
        self.simulation.run_for(10 * SECOND).unwrap();
        self.echo.datagrams.lock().unwrap().clone()
    }
}

fn disconnected(result: Result<Message, CallError>) -> bool {
    result == Err(CallError::Disconnected { peer: B })
}

#[test]
fn a_call_takes_as_long_as_its_links() {
    let delay = Duration::from_millis(30)..=Duration::from_millis(30);
    let world = world(LinkProfile { delay, ..LinkProfile::default() }, Duration::ZERO);
    // The first connects: one more round trip.
    assert_eq!(world.call(1).1, Duration::from_millis(120));
    assert_eq!(world.call(1).1, Duration::from_millis(60));
}

#[test]
fn of_a_link_with_a_long_tail_most_passages_are_quick_and_some_are_not() {
    let millisecond = Duration::from_millis(1);
    let profile = LinkProfile { delay: millisecond..=millisecond, tail: 0.2, ..LinkProfile::default() };
    let world = world(profile, Duration::ZERO);
    world.call(1).0.unwrap();
    let took: Vec<Duration> = (0..300).map(|_| world.call(1).1).collect();
    let quick = took.iter().filter(|took| **took == 2 * millisecond).count();
    // 0.8 squared of them, and past 16 ms some fifth power of 0.2 of two tries.
    assert!((150..230).contains(&quick), "{quick}");
    assert!(took.iter().any(|took| *took > 8 * millisecond), "{:?}", took.iter().max());
}

#[test]
fn a_narrow_link_makes_large_bodies_wait_in_line() {
    let world = world(LinkProfile { bandwidth: Some(1 << 20), ..LinkProfile::default() }, Duration::ZERO);
    let took = world.call(1 << 20).1;
    assert_eq!(took, 2 * SECOND, "a second there, a second back");
}

#[test]
fn loss_takes_datagrams_and_no_calls() {
    let world = world(LinkProfile { loss: 0.3, ..LinkProfile::default() }, Duration::ZERO);
    let seen = world.datagrams();
    assert!((100..180).contains(&seen.len()), "{}", seen.len());
    assert!(seen.is_sorted());
    for _ in 0..50 {
        world.call(10).0.unwrap();
    }
}

#[test]
fn datagrams_arrive_twice_or_out_of_order_only_if_the_link_does_that() {
    let delay = Duration::ZERO..=Duration::from_millis(10);
    let calm = LinkProfile { delay, ..LinkProfile::default() };
    let all: Vec<u8> = (0..200).collect();
    assert_eq!(world(calm.clone(), Duration::ZERO).datagrams(), all);

    let reordering = LinkProfile { reordering: 0.2, ..calm.clone() };
    let mut seen = world(reordering, Duration::ZERO).datagrams();
    assert!(!seen.is_sorted());
    seen.sort_unstable();
    assert_eq!(seen, all);

    let duplicating = LinkProfile { duplication: 0.2, ..calm };
    let mut seen = world(duplicating, Duration::ZERO).datagrams();
    assert!(seen.len() > 220, "{}", seen.len());
    seen.sort_unstable();
    seen.dedup();
    assert_eq!(seen, all);
}

#[test]
fn what_was_sent_into_a_short_cut_arrives_late_and_once() {
    let world = world(LinkProfile::default(), Duration::ZERO);
    world.call(1).0.unwrap();
    world.links.cut(&[A], &[B]);
    let links = world.links.clone();
    let (result, took) = world.call_meanwhile(1, SECOND, move || links.heal_all());
    result.unwrap();
    assert!(took >= SECOND && took < DEAD_AFTER, "{took:?}");
    assert_eq!(world.calls_seen(), 2);
}

#[test]
fn a_long_cut_breaks_the_connection_and_the_next_call_finds_nobody() {
    let world = world(LinkProfile::default(), Duration::ZERO);
    world.call(1).0.unwrap();
    world.links.cut(&[A], &[B]);
    let (result, took) = world.call(1);
    assert!(disconnected(result));
    assert!(took >= DEAD_AFTER && took < 2 * DEAD_AFTER, "{took:?}");
    assert!(matches!(world.call(1).0, Err(CallError::Unreachable { .. })));
    assert_eq!(world.calls_seen(), 1);
    world.links.heal_all();
    world.call(1).0.unwrap();
}

#[test]
fn a_call_over_a_link_that_is_cut_on_the_way_back_has_happened() {
    let world = world(LinkProfile::default(), SECOND);
    world.call(1).0.unwrap();
    let links = world.links.clone();
    let half = SECOND / 2;
    let (result, took) = world.call_meanwhile(1, half, move || links.cut_one_way(B, A));
    assert!(disconnected(result));
    assert!(took >= DEAD_AFTER, "{took:?}");
    assert_eq!(world.calls_seen(), 2);
}

#[test]
fn a_long_call_notices_a_cut_that_comes_while_it_waits() {
    let world = world(LinkProfile::default(), HOUR / 2);
    let links = world.links.clone();
    let (result, took) = world.call_meanwhile(1, 10 * SECOND, move || links.cut(&[A], &[B]));
    assert!(disconnected(result));
    assert!(took < 20 * SECOND, "{took:?}");
}

#[test]
fn a_process_that_dies_says_so_and_a_machine_without_power_does_not() {
    let (died, lost_power) = (world(LinkProfile::default(), HOUR), world(LinkProfile::default(), HOUR));
    let network = died.network.clone();
    let (result, took) = died.call_meanwhile(1, 10 * SECOND, move || network.stop(B));
    assert!(disconnected(result));
    assert_eq!(took, 10 * SECOND);
    assert_eq!(died.call(1).1, Duration::ZERO, "connection refused");

    let network = lost_power.network.clone();
    let (result, took) = lost_power.call_meanwhile(1, 10 * SECOND, move || network.vanish(B));
    assert!(disconnected(result));
    assert!(took >= 12 * SECOND, "{took:?}");
    let (result, took) = lost_power.call(1);
    assert!(matches!(result, Err(CallError::Unreachable { .. })));
    assert!(took >= DEAD_AFTER, "{took:?}");
}

#[test]
fn a_node_whose_tasks_are_gone_never_answers() {
    let world = world(LinkProfile::default(), 20 * SECOND);
    let runtime = world.simulation.world_runtime();
    let a = world.a.clone();
    let call =
        runtime.spawn("call", async move { a.call(B, Protocol::Raft, Message::default(), HOUR).await });
    world.simulation.run_for(SECOND).unwrap();
    assert_eq!(world.calls_seen(), 1);
    world.simulation.faults().crash(world.b_node);
    let result = world.simulation.block_on(HOUR, call).unwrap().unwrap();
    assert!(disconnected(result));
}
