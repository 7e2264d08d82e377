use std::sync::atomic::AtomicUsize;

use super::*;

const A: NodeId = NodeId([1; 32]);
const B: NodeId = NodeId([2; 32]);
const LIMIT: Duration = Duration::from_secs(10);

/// Echoes, and counts what it saw.
#[derive(Default)]
struct Echo {
    calls: AtomicUsize,
    datagrams: Mutex<Vec<Bytes>>,
    arrived: Notify,
}

#[async_trait]
impl Handler for Echo {
    async fn call(&self, _from: Caller, request: Message) -> Result<Message, Refusal> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        Ok(request)
    }

    fn datagram(&self, _from: &Caller, payload: Bytes) {
        self.datagrams.lock().unwrap().push(payload);
        self.arrived.notify_one();
    }
}

struct Everyone;

impl Admission for Everyone {
    fn admits(&self, _peer: &NodeId, _protocol: Protocol) -> bool {
        true
    }
}

struct World {
    links: Arc<Links>,
    network: MemoryNetwork,
    a: Arc<dyn Transport>,
    echo: Arc<Echo>,
    _b: Arc<dyn Transport>,
}

fn world(profile: LinkProfile) -> World {
    let links = Arc::new(Links::new(profile));
    let network = MemoryNetwork::new(links.clone(), StdRng::from_seed([7; 32]));
    let a = network.endpoint(A, Runtime::tokio());
    let b = network.endpoint(B, Runtime::tokio());
    let echo = Arc::new(Echo::default());
    b.set_admission(Arc::new(Everyone));
    b.serve(Protocol::Bench, echo.clone());
    World { links, network, a, echo, _b: b }
}

impl World {
    async fn call(&self) -> Result<Message, CallError> {
        self.a.call(B, Protocol::Bench, Message::header("hello"), LIMIT).await
    }
}

#[tokio::test]
async fn a_call_is_answered() {
    let world = world(LinkProfile::default());
    assert_eq!(world.call().await, Ok(Message::header("hello")));
}

#[tokio::test]
async fn a_connection_that_breaks_before_or_after_delivery_is_told_apart_by_the_callee_only() {
    let world = world(LinkProfile { break_before: 1.0, ..LinkProfile::default() });
    assert_eq!(world.call().await, Err(CallError::Disconnected { peer: B }));
    assert_eq!(world.echo.calls.load(Ordering::Relaxed), 0);

    world.links.set_all(LinkProfile { break_after: 1.0, ..LinkProfile::default() });
    assert_eq!(world.call().await, Err(CallError::Disconnected { peer: B }));
    assert_eq!(world.echo.calls.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn a_stopped_node_refuses_connections_and_a_new_life_answers() {
    let world = world(LinkProfile::default());
    world.call().await.unwrap();
    world.network.stop(B);
    assert!(matches!(world.call().await, Err(CallError::Unreachable { .. })));

    let again = world.network.endpoint(B, Runtime::tokio());
    let refused = world.call().await;
    assert!(
        matches!(refused, Err(CallError::Refused(Refusal { code: Refusal::NOT_ADMITTED, .. }))),
        "{refused:?}"
    );
    again.set_admission(Arc::new(Everyone));
    again.serve(Protocol::Bench, world.echo.clone());
    assert_eq!(world.call().await, Ok(Message::header("hello")));
}

#[tokio::test]
async fn datagrams_keep_their_order_under_random_delays() {
    let delay = Duration::ZERO..=Duration::from_millis(3);
    let world = world(LinkProfile { delay, ..LinkProfile::default() });
    for n in 0..100u8 {
        world.a.send(B, Protocol::Bench, Bytes::from(vec![n]));
    }
    while world.echo.datagrams.lock().unwrap().len() < 100 {
        world.echo.arrived.notified().await;
    }
    let seen: Vec<u8> = world.echo.datagrams.lock().unwrap().iter().map(|payload| payload[0]).collect();
    assert_eq!(seen, (0..100).collect::<Vec<u8>>());
}

#[tokio::test]
async fn an_address_is_required_where_asked_for() {
    let world = world(LinkProfile::default());
    world.network.require_addresses();
    assert!(matches!(world.call().await, Err(CallError::Unreachable { .. })));
    world.a.set_addresses(B, vec![MemoryNetwork::address(B)]);
    world.call().await.unwrap();
}

/// A handler whose answer never comes.
struct Silent;

#[async_trait]
impl Handler for Silent {
    async fn call(&self, _from: Caller, _request: Message) -> Result<Message, Refusal> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn stopping_a_node_fails_the_calls_in_flight_at_once() {
    let world = world(LinkProfile::default());
    world._b.serve(Protocol::Bench, Arc::new(Silent));
    let (result, ()) = tokio::join!(biased; world.call(), async {
        tokio::task::yield_now().await;
        world.network.stop(B);
    });
    assert_eq!(result, Err(CallError::Disconnected { peer: B }));
}
