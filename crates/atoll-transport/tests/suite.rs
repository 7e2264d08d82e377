//! What every transport does, run against the in-memory twin and TLS over TCP alike: a
//! difference between the two would make the simulation prove the wrong thing.
//!
//! Not here: delays, loss and cuts (`src/memory/tests.rs`), keys, malformed frames and
//! silent peers on sockets (`src/tls/tests.rs`).
#![allow(clippy::disallowed_methods, reason = "tests start tasks beside the transport")]

use std::{
    collections::BTreeMap,
    future::Future,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use atoll_runtime::Runtime;
use atoll_transport::{
    Admission, CallError, Caller, Handler, Message, NodeKey, Protocol, Refusal, Transport,
    memory::MemoryNetwork,
    tls::{TlsSettings, TlsTransport},
};
use atoll_types::NodeId;
use bytes::Bytes;
use tokio::sync::Notify;

/// A bound that only a failure reaches.
const LIMIT: Duration = Duration::from_secs(20);

/// Nodes of either kind, that know each other's addresses and admit each other.
enum World {
    Memory(MemoryNetwork),
    Tls(Mutex<BTreeMap<NodeId, Arc<TlsTransport>>>),
}

impl World {
    fn memory() -> Self {
        let network = MemoryNetwork::perfect();
        network.require_addresses();
        World::Memory(network)
    }

    fn tls() -> Self {
        World::Tls(Mutex::default())
    }

    async fn node(&self, number: u8) -> Arc<dyn Transport> {
        let key = NodeKey::from_seed([number; 32]);
        match self {
            World::Memory(network) => network.endpoint(key.node_id(), Runtime::tokio()),
            World::Tls(nodes) => {
                let settings = TlsSettings::default();
                let node =
                    TlsTransport::bind(&key, None, "127.0.0.1:0", Runtime::tokio(), settings).await.unwrap();
                nodes.lock().unwrap().insert(key.node_id(), node.clone());
                node
            }
        }
    }

    fn address(&self, node: NodeId) -> String {
        match self {
            World::Memory(_) => MemoryNetwork::address(node),
            World::Tls(nodes) => nodes.lock().unwrap()[&node].local_addr().to_string(),
        }
    }

    fn introduce(&self, who: &Arc<dyn Transport>, to: NodeId) {
        who.set_addresses(to, vec![self.address(to)]);
    }

    /// As if its process died.
    fn stop(&self, node: NodeId) {
        match self {
            World::Memory(network) => network.stop(node),
            World::Tls(nodes) => nodes.lock().unwrap()[&node].close(),
        }
    }

    /// Node 1, which knows node 2, which serves `handler` to everyone.
    async fn pair(&self, handler: Arc<dyn Handler>) -> (Arc<dyn Transport>, Arc<dyn Transport>) {
        let (a, b) = (self.node(1).await, self.node(2).await);
        self.introduce(&a, b.node_id());
        b.set_admission(Arc::new(Everyone));
        b.serve(Protocol::Bench, handler);
        (a, b)
    }
}

struct Everyone;

impl Admission for Everyone {
    fn admits(&self, _peer: &NodeId, _protocol: Protocol) -> bool {
        true
    }
}

/// A handler of one closure.
struct Serve<F>(F);

#[async_trait]
impl<F, R> Handler for Serve<F>
where
    F: Fn(Caller, Message) -> R + Send + Sync + 'static,
    R: Future<Output = Result<Message, Refusal>> + Send + 'static,
{
    async fn call(&self, from: Caller, request: Message) -> Result<Message, Refusal> {
        (self.0)(from, request).await
    }
}

fn echo() -> Arc<dyn Handler> {
    Arc::new(Serve(|_, request| async { Ok(request) }))
}

fn bytes(len: usize, seed: u8) -> Bytes {
    (0..len).map(|at| (at as u8).wrapping_mul(31).wrapping_add((at >> 8) as u8) ^ seed).collect()
}

async fn ask(
    from: &Arc<dyn Transport>,
    to: &Arc<dyn Transport>,
    request: Message,
) -> Result<Message, CallError> {
    from.call(to.node_id(), Protocol::Bench, request, LIMIT).await
}

fn refusal_code(result: Result<Message, CallError>) -> u16 {
    match result {
        Err(CallError::Refused(refusal)) => refusal.code,
        other => panic!("not refused: {other:?}"),
    }
}

async fn a_request_is_answered(world: World) {
    let (a, b) = world.pair(echo()).await;
    let request = Message::with_body("header", "body");
    assert_eq!(ask(&a, &b, request.clone()).await, Ok(request));
    assert_eq!(ask(&a, &b, Message::default()).await, Ok(Message::default()));
}

async fn the_largest_messages_travel_both_ways(world: World) {
    let (a, b) = world.pair(echo()).await;
    let header = bytes(Message::HEADER_BYTES_MAX, 1);
    for body_len in [0, 1, (256 << 10) - 1, 256 << 10, (256 << 10) + 1, Message::BODY_BYTES_MAX] {
        let request = Message::with_body(header.clone(), bytes(body_len, 2));
        let reply = ask(&a, &b, request.clone()).await.unwrap();
        assert!(reply == request, "a body of {body_len} bytes came back changed");
    }
}

async fn a_message_over_the_limits_is_not_sent(world: World) {
    let (a, b) = world.pair(echo()).await;
    let body = Message::with_body("", vec![0; Message::BODY_BYTES_MAX + 1]);
    assert!(matches!(ask(&a, &b, body).await, Err(CallError::TooLarge { .. })));
    let header = Message::header(vec![0; Message::HEADER_BYTES_MAX + 1]);
    assert!(matches!(ask(&a, &b, header).await, Err(CallError::TooLarge { .. })));
}

async fn a_reply_over_the_limits_becomes_a_refusal(world: World) {
    let reply = |_, _| async { Ok(Message::with_body("", vec![0; Message::BODY_BYTES_MAX + 1])) };
    let (a, b) = world.pair(Arc::new(Serve(reply))).await;
    assert_eq!(refusal_code(ask(&a, &b, Message::default()).await), Refusal::REPLY_TOO_LARGE);
}

async fn many_calls_at_once_get_their_own_answers(world: World) {
    let (a, b) = world.pair(echo()).await;
    let calls = (0..600usize).map(|n| {
        let (a, b) = (a.clone(), b.clone());
        tokio::spawn(async move {
            let request = Message::with_body(n.to_be_bytes().to_vec(), bytes(n * n % 300_000, n as u8));
            assert!(ask(&a, &b, request.clone()).await.unwrap() == request, "call {n} got another's answer");
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
}

async fn a_small_call_does_not_wait_for_large_ones(world: World) {
    let gate = Arc::new(Notify::new());
    let opened = Arc::new(AtomicBool::new(false));
    let handler = {
        let (gate, opened) = (gate.clone(), opened.clone());
        Serve(move |_, request: Message| {
            let (gate, opened) = (gate.clone(), opened.clone());
            async move {
                while !request.body.is_empty() && !opened.load(Ordering::SeqCst) {
                    gate.notified().await;
                }
                Ok(request)
            }
        })
    };
    let (a, b) = world.pair(echo()).await;
    b.serve(Protocol::Raft, Arc::new(handler));
    let ask = async |a: Arc<dyn Transport>, b: Arc<dyn Transport>, request| {
        a.call(b.node_id(), Protocol::Raft, request, LIMIT).await
    };
    let large = (0..24).map(|_| {
        let (a, b) = (a.clone(), b.clone());
        tokio::spawn(async move { ask(a, b, Message::with_body("", vec![1; Message::BODY_BYTES_MAX])).await })
    });
    let large: Vec<_> = large.collect();
    for _ in 0..10 {
        ask(a.clone(), b.clone(), Message::header("small")).await.unwrap();
    }
    opened.store(true, Ordering::SeqCst);
    for call in large {
        while !call.is_finished() {
            gate.notify_waiters();
            tokio::task::yield_now().await;
        }
        call.await.unwrap().unwrap();
    }
}

async fn a_refusal_travels_as_it_is(world: World) {
    let refusal = Refusal { code: 417, reason: "nö".into() };
    let handler = {
        let refusal = refusal.clone();
        Serve(move |_, _| std::future::ready(Err(refusal.clone())))
    };
    let (a, b) = world.pair(Arc::new(handler)).await;
    assert_eq!(ask(&a, &b, Message::default()).await, Err(CallError::Refused(refusal)));
}

async fn a_protocol_that_nobody_serves_is_refused(world: World) {
    let (a, b) = world.pair(echo()).await;
    let result =
        a.call(b.node_id(), Protocol::Chunks, Message::with_body("", bytes(900_000, 1)), LIMIT).await;
    assert_eq!(refusal_code(result), Refusal::NOT_SERVED);
    // The skipped body didn't confuse what follows.
    ask(&a, &b, Message::default()).await.unwrap();
}

async fn a_peer_that_is_not_there_is_unreachable(world: World) {
    let (a, b) = world.pair(echo()).await;
    ask(&a, &b, Message::default()).await.unwrap();
    world.stop(b.node_id());
    // The connection may take a moment to be seen broken.
    loop {
        match ask(&a, &b, Message::default()).await {
            Err(CallError::Unreachable { peer, .. }) => return assert_eq!(peer, b.node_id()),
            Err(CallError::Disconnected { .. }) => {}
            other => panic!("{other:?}"),
        }
    }
}

async fn a_peer_without_an_address_is_unreachable(world: World) {
    let a = world.node(1).await;
    let nobody = NodeKey::from_seed([9; 32]).node_id();
    let result = a.call(nobody, Protocol::Join, Message::default(), LIMIT).await;
    assert!(matches!(result, Err(CallError::Unreachable { .. })), "{result:?}");
}

async fn a_peer_that_dies_in_mid_call_disconnects_it(world: World) {
    let called = Arc::new(Notify::new());
    let handler = {
        let called = called.clone();
        Serve(move |_, _| {
            called.notify_one();
            std::future::pending()
        })
    };
    let (a, b) = world.pair(Arc::new(handler)).await;
    let call = {
        let (a, b) = (a.clone(), b.clone());
        tokio::spawn(async move { ask(&a, &b, Message::default()).await })
    };
    called.notified().await;
    world.stop(b.node_id());
    assert_eq!(call.await.unwrap(), Err(CallError::Disconnected { peer: b.node_id() }));
}

async fn a_call_without_an_answer_times_out_and_its_handler_runs_on(world: World) {
    let gate = Arc::new(Notify::new());
    let finished = Arc::new(Notify::new());
    let handler = {
        let (gate, finished) = (gate.clone(), finished.clone());
        Serve(move |_, request| {
            let (gate, finished) = (gate.clone(), finished.clone());
            async move {
                gate.notified().await;
                finished.notify_one();
                Ok(request)
            }
        })
    };
    let (a, b) = world.pair(Arc::new(handler)).await;
    let result = a.call(b.node_id(), Protocol::Bench, Message::default(), Duration::from_millis(200)).await;
    assert_eq!(result, Err(CallError::TimedOut { peer: b.node_id() }));
    gate.notify_one();
    finished.notified().await;
}

async fn a_stranger_gets_nothing_but_join(world: World) {
    let (a, b) = (world.node(1).await, world.node(2).await);
    world.introduce(&a, b.node_id());
    for protocol in Protocol::ALL {
        b.serve(protocol, echo());
    }
    for protocol in Protocol::ALL {
        let result = a.call(b.node_id(), protocol, Message::default(), LIMIT).await;
        if protocol == Protocol::Join {
            assert_eq!(result, Ok(Message::default()));
        } else {
            assert_eq!(refusal_code(result), Refusal::NOT_ADMITTED, "{protocol:?}");
        }
    }
}

async fn a_removed_key_is_refused_at_once(world: World) {
    struct Members(AtomicBool);

    impl Admission for Members {
        fn admits(&self, _peer: &NodeId, _protocol: Protocol) -> bool {
            self.0.load(Ordering::SeqCst)
        }
    }

    let (a, b) = world.pair(echo()).await;
    let members = Arc::new(Members(AtomicBool::new(true)));
    b.set_admission(members.clone());
    ask(&a, &b, Message::default()).await.unwrap();
    members.0.store(false, Ordering::SeqCst);
    // Over the connection that was admitted.
    assert_eq!(refusal_code(ask(&a, &b, Message::default()).await), Refusal::NOT_ADMITTED);
    b.disconnect(a.node_id());
    let result = a.call(b.node_id(), Protocol::Join, Message::default(), LIMIT).await;
    assert!(result.is_err(), "{result:?}");
}

async fn a_disconnect_ends_calls_in_flight_and_the_next_connects_anew(world: World) {
    let called = Arc::new(Notify::new());
    let handler = {
        let called = called.clone();
        Serve(move |_, request: Message| {
            let called = called.clone();
            async move {
                if request.header.is_empty() {
                    called.notify_one();
                    std::future::pending().await
                }
                Ok(request)
            }
        })
    };
    let (a, b) = world.pair(Arc::new(handler)).await;
    let call = {
        let (a, b) = (a.clone(), b.clone());
        tokio::spawn(async move { ask(&a, &b, Message::default()).await })
    };
    called.notified().await;
    b.disconnect(a.node_id());
    assert_eq!(call.await.unwrap(), Err(CallError::Disconnected { peer: b.node_id() }));
    ask(&a, &b, Message::header("again")).await.unwrap();
}

async fn both_ends_see_the_same_channel_binding_and_no_two_sessions_share_one(world: World) {
    let told = Serve(|from: Caller, _| async move { Ok(Message::header(from.channel_binding.to_vec())) });
    let (a, b) = world.pair(Arc::new(told)).await;
    b.serve(
        Protocol::Join,
        Arc::new(Serve(|from: Caller, _| async move { Ok(Message::header(from.channel_binding.to_vec())) })),
    );
    let mut seen = Vec::new();
    for _ in 0..3 {
        let here = a.channel_binding(b.node_id(), LIMIT).await.unwrap();
        let there = a.call(b.node_id(), Protocol::Join, Message::default(), LIMIT).await.unwrap();
        assert_eq!(there.header, here.as_slice());
        assert!(!seen.contains(&here) && here != [0; 32]);
        seen.push(here);
        a.disconnect(b.node_id());
    }
}

async fn a_caller_is_who_its_key_says(world: World) {
    let told = Serve(|from: Caller, _| async move { Ok(Message::header(from.node.as_bytes().to_vec())) });
    let (a, b) = world.pair(Arc::new(told)).await;
    let reply = ask(&a, &b, Message::default()).await.unwrap();
    assert_eq!(reply.header, a.node_id().as_bytes().as_slice());
}

async fn a_node_can_call_itself(world: World) {
    let a = world.node(1).await;
    a.serve(Protocol::Records, echo());
    let request = Message::with_body("to", "myself");
    assert_eq!(a.call(a.node_id(), Protocol::Records, request.clone(), LIMIT).await, Ok(request));
    let missing = a.call(a.node_id(), Protocol::Chunks, Message::default(), LIMIT).await;
    assert_eq!(refusal_code(missing), Refusal::NOT_SERVED);
}

#[derive(Default)]
struct Datagrams {
    seen: Mutex<Vec<Bytes>>,
    arrived: Notify,
    calls: AtomicUsize,
}

#[async_trait]
impl Handler for Datagrams {
    async fn call(&self, _from: Caller, request: Message) -> Result<Message, Refusal> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        Ok(request)
    }

    fn datagram(&self, _from: &Caller, payload: Bytes) {
        self.seen.lock().unwrap().push(payload);
        self.arrived.notify_one();
    }
}

impl Datagrams {
    async fn wait_for(&self, count: usize) -> Vec<Bytes> {
        let all = async {
            while self.seen.lock().unwrap().len() < count {
                self.arrived.notified().await;
            }
        };
        Runtime::tokio().timeout(LIMIT, all).await.expect("the datagrams arrive");
        self.seen.lock().unwrap().clone()
    }
}

async fn datagrams_arrive_in_order_even_those_sent_before_there_was_a_connection(world: World) {
    let datagrams = Arc::new(Datagrams::default());
    let (a, b) = world.pair(datagrams.clone()).await;
    let early: Vec<Bytes> = (0..20).map(|n| bytes(n * 7, n as u8)).collect();
    for payload in &early {
        a.send(b.node_id(), Protocol::Bench, payload.clone());
    }
    assert_eq!(datagrams.wait_for(20).await, early);
    let large = bytes(1 << 20, 9);
    a.send(b.node_id(), Protocol::Bench, large.clone());
    a.send(b.node_id(), Protocol::Bench, Bytes::from_static(b"after"));
    assert!(datagrams.wait_for(22).await[20..] == [large, Bytes::from_static(b"after")]);
    assert_eq!(datagrams.calls.load(Ordering::SeqCst), 0);
}

async fn a_datagram_to_oneself_arrives(world: World) {
    let a = world.node(1).await;
    let datagrams = Arc::new(Datagrams::default());
    a.serve(Protocol::Membership, datagrams.clone());
    a.send(a.node_id(), Protocol::Membership, Bytes::from_static(b"me"));
    assert_eq!(datagrams.wait_for(1).await, [Bytes::from_static(b"me")]);
}

async fn a_datagram_that_is_not_admitted_or_not_served_is_dropped(world: World) {
    let datagrams = Arc::new(Datagrams::default());
    let (a, b) = world.pair(datagrams.clone()).await;
    a.send(b.node_id(), Protocol::Raft, Bytes::from_static(b"not served"));
    a.send(b.node_id(), Protocol::Raft, bytes(600_000, 1));
    a.send(b.node_id(), Protocol::Bench, Bytes::from_static(b"served"));
    assert_eq!(datagrams.wait_for(1).await, [Bytes::from_static(b"served")]);
}

macro_rules! suite {
    ($($name:ident)*) => {
        mod memory {
            $(#[tokio::test] async fn $name() { super::$name(super::World::memory()).await })*
        }
        mod tls {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() { super::$name(super::World::tls()).await }
            )*
        }
    };
}

suite! {
    a_request_is_answered
    the_largest_messages_travel_both_ways
    a_message_over_the_limits_is_not_sent
    a_reply_over_the_limits_becomes_a_refusal
    many_calls_at_once_get_their_own_answers
    a_small_call_does_not_wait_for_large_ones
    a_refusal_travels_as_it_is
    a_protocol_that_nobody_serves_is_refused
    a_peer_that_is_not_there_is_unreachable
    a_peer_without_an_address_is_unreachable
    a_peer_that_dies_in_mid_call_disconnects_it
    a_call_without_an_answer_times_out_and_its_handler_runs_on
    a_stranger_gets_nothing_but_join
    a_removed_key_is_refused_at_once
    a_disconnect_ends_calls_in_flight_and_the_next_connects_anew
    both_ends_see_the_same_channel_binding_and_no_two_sessions_share_one
    a_caller_is_who_its_key_says
    a_node_can_call_itself
    datagrams_arrive_in_order_even_those_sent_before_there_was_a_connection
    a_datagram_to_oneself_arrives
    a_datagram_that_is_not_admitted_or_not_served_is_dropped
}
