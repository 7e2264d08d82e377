//! The in-memory twin: many nodes in one process, driven only by a [`Runtime`], so that
//! it runs on tokio and, to the byte the same, in the deterministic simulation.
//!
//! What it keeps of the real thing: a call runs on the callee's runtime, so a node that
//! died never answers; connections are per direction, have a channel binding, and break
//! as a whole, failing every call in flight; a cut is noticed only after
//! [`DEAD_AFTER`], and until then what was sent arrives late if the link heals; datagrams
//! keep their order unless the policy reorders them; a restarted node has a new endpoint
//! and its peers' old connections are broken.
//!
//! What happens on a link is decided by a [`LinkPolicy`]; [`Links`] is the usual one.
//!
//! The shared suite that this and the TLS transport pass: `tests/suite.rs`.

mod links;
#[cfg(test)]
mod tests;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use atoll_runtime::{AbortOnDrop, Runtime, watch};
use atoll_types::{Instant, NodeId};
use bytes::Bytes;
use rand::{SeedableRng, rngs::StdRng};
use tokio::sync::{Notify, oneshot};

use crate::{
    Admission, CallError, Caller, Handler, Message, Protocol, Refusal, Transport,
    registry::{Registry, answer},
};

pub use links::{DOUBLINGS_MAX, LinkProfile, Links};

/// Three keep-alives of a second: as long as the TLS transport takes to give a silent
/// peer up.
pub const DEAD_AFTER: Duration = Duration::from_secs(3);
const PING_EVERY: Duration = Duration::from_secs(1);
/// What TCP waits before it sends again; doubles each time.
const RETRANSMIT_AFTER: Duration = Duration::from_millis(200);

/// One passage over a link, in one direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Transit {
    pub from: NodeId,
    pub to: NodeId,
    pub kind: TransitKind,
    pub bytes: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum TransitKind {
    /// One way of a handshake.
    Connect,
    Request,
    Reply,
    Ping,
    Datagram,
}

/// What becomes of a passage.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Arrives, and not before what was sent earlier on this link.
    Arrive { after: Duration },
    /// Arrives, perhaps before what was sent earlier. For datagrams; otherwise as `Arrive`.
    ArriveOutOfOrder { after: Duration },
    /// Arrives twice. For datagrams; otherwise as `Arrive` after the first.
    ArriveTwice { after: Duration, again_after: Duration },
    /// Never arrives. A datagram is gone; anything else is sent again until
    /// [`DEAD_AFTER`], as TCP would, and then the connection counts as dead.
    Lose,
    /// The connection breaks: at a `Request` before the callee saw it, at a `Reply`
    /// after the callee acted. A datagram is gone.
    Break,
}

/// Decides what happens on the links. Called with the network's own generator, under the
/// network's lock: it must not call back into the network.
pub trait LinkPolicy: Send + Sync + 'static {
    fn transit(&self, now: Instant, rng: &mut StdRng, transit: &Transit) -> Fate;
}

/// A network in one process.
#[derive(Clone)]
pub struct MemoryNetwork {
    network: Arc<Network>,
}

struct Network {
    policy: Arc<dyn LinkPolicy>,
    state: Mutex<State>,
    addresses_required: AtomicBool,
}

struct State {
    rng: StdRng,
    nodes: BTreeMap<NodeId, Arc<Node>>,
    /// Nodes whose machine lost power: nothing answers, not even "connection refused".
    vanished: BTreeSet<NodeId>,
    /// Connections by (who dialled, who was dialled).
    sessions: BTreeMap<(NodeId, NodeId), Arc<Session>>,
    sessions_made: u64,
    /// When the last datagram on a link arrives, so that the next doesn't overtake it.
    arrivals: BTreeMap<(NodeId, NodeId), Instant>,
    sequence: u64,
}

/// One life of a node.
struct Node {
    runtime: Runtime,
    registry: Registry,
    inbox: Mutex<BTreeMap<(Instant, u64), Arrival>>,
    arrived: Notify,
    addresses: Mutex<BTreeMap<NodeId, Vec<String>>>,
}

enum Arrival {
    Datagram {
        from: Caller,
        protocol: Protocol,
        payload: Bytes,
    },
    Request {
        from: Caller,
        protocol: Protocol,
        request: Message,
        reply: oneshot::Sender<Result<Message, Refusal>>,
    },
}

struct Session {
    callee: Arc<Node>,
    binding: [u8; 32],
    broken: watch::Sender<bool>,
}

impl Session {
    fn break_off(&self) {
        self.broken.send_replace(true);
    }

    async fn broken(&self) {
        // The sender lives in `self`, so this only ends when the session breaks.
        let _ = self.broken.subscribe().wait_for(|broken| *broken).await;
    }
}

impl MemoryNetwork {
    /// A network whose links behave as `policy` says, with `rng` for its chances.
    pub fn new(policy: Arc<dyn LinkPolicy>, rng: StdRng) -> Self {
        Self {
            network: Arc::new(Network {
                policy,
                state: Mutex::new(State {
                    rng,
                    nodes: BTreeMap::new(),
                    vanished: BTreeSet::new(),
                    sessions: BTreeMap::new(),
                    sessions_made: 0,
                    arrivals: BTreeMap::new(),
                    sequence: 0,
                }),
                addresses_required: AtomicBool::new(false),
            }),
        }
    }

    /// No delay, no loss, no cuts.
    pub fn perfect() -> Self {
        Self::new(Arc::new(Links::default()), StdRng::from_seed([0; 32]))
    }

    /// From now on a peer is only reachable by who was told its [`address`] with
    /// [`Transport::set_addresses`], as in production. Off by default.
    ///
    /// [`address`]: MemoryNetwork::address
    pub fn require_addresses(&self) {
        self.network.addresses_required.store(true, Ordering::Relaxed);
    }

    /// Where `node` listens.
    pub fn address(node: NodeId) -> String {
        format!("{node}.memory:1")
    }

    /// Starts a life of `node`; an earlier one ends as by [`stop`](Self::stop). What the
    /// node serves runs on `runtime`.
    pub fn endpoint(&self, node: NodeId, runtime: Runtime) -> Arc<dyn Transport> {
        self.stop(node);
        let life = Arc::new(Node {
            runtime: runtime.clone(),
            registry: Registry::default(),
            inbox: Mutex::new(BTreeMap::new()),
            arrived: Notify::new(),
            addresses: Mutex::new(BTreeMap::new()),
        });
        let mut state = self.network.state();
        state.vanished.remove(&node);
        state.nodes.insert(node, life.clone());
        let inbox = runtime.spawn_owned("memory inbox", life.clone().run());
        Arc::new(Endpoint { id: node, life, network: self.network.clone(), _inbox: inbox })
    }

    /// The node's process died: its connections break at once, dialling it is refused.
    /// Its runtime is the caller's to stop.
    pub fn stop(&self, node: NodeId) {
        let mut state = self.network.state();
        let life = state.nodes.remove(&node);
        state.break_sessions(|(from, to)| *from == node || *to == node);
        drop(state);
        if let Some(life) = life {
            life.stop();
        }
    }

    /// The node's machine lost power: nobody is told, its peers notice after
    /// [`DEAD_AFTER`]. It comes back with [`endpoint`](Self::endpoint).
    pub fn vanish(&self, node: NodeId) {
        let mut state = self.network.state();
        state.vanished.insert(node);
        let life = state.nodes.remove(&node);
        drop(state);
        if let Some(life) = life {
            life.stop();
        }
    }
}

impl Network {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    fn fate(&self, state: &mut State, now: Instant, transit: &Transit) -> Fate {
        if state.vanished.contains(&transit.from) || state.vanished.contains(&transit.to) {
            return Fate::Lose;
        }
        self.policy.transit(now, &mut state.rng, transit)
    }

    /// Brings something over the link as TCP does; the error says that it can't be.
    async fn carry(&self, runtime: &Runtime, transit: Transit) -> Result<(), ()> {
        let give_up = runtime.now() + DEAD_AFTER;
        let mut pause = RETRANSMIT_AFTER;
        loop {
            let fate = self.fate(&mut self.state(), runtime.now(), &transit);
            match fate {
                Fate::Arrive { after }
                | Fate::ArriveOutOfOrder { after }
                | Fate::ArriveTwice { after, .. } => {
                    if after > Duration::ZERO {
                        runtime.sleep(after).await;
                    }
                    return Ok(());
                }
                Fate::Break => return Err(()),
                Fate::Lose if runtime.now() >= give_up => return Err(()),
                Fate::Lose => {
                    runtime.sleep(pause).await;
                    pause *= 2;
                }
            }
        }
    }
}

impl State {
    fn break_sessions(&mut self, which: impl Fn(&(NodeId, NodeId)) -> bool) {
        self.sessions.retain(|link, session| {
            let breaks = which(link);
            if breaks {
                session.break_off();
            }
            !breaks
        });
    }

    fn break_session(&mut self, link: (NodeId, NodeId), session: &Arc<Session>) {
        session.break_off();
        if self.sessions.get(&link).is_some_and(|current| Arc::ptr_eq(current, session)) {
            self.sessions.remove(&link);
        }
    }

    fn make_session(&mut self, link: (NodeId, NodeId)) -> Option<Arc<Session>> {
        if let Some(session) = self.sessions.get(&link) {
            return Some(session.clone());
        }
        let callee = self.nodes.get(&link.1)?.clone();
        self.sessions_made += 1;
        let mut material = blake3::Hasher::new();
        material
            .update(link.0.as_bytes())
            .update(link.1.as_bytes())
            .update(&self.sessions_made.to_be_bytes());
        let binding = *material.finalize().as_bytes();
        let session = Arc::new(Session { callee, binding, broken: watch::Sender::new(false) });
        self.sessions.insert(link, session.clone());
        Some(session)
    }

    fn next_sequence(&mut self) -> u64 {
        self.sequence += 1;
        self.sequence
    }
}

impl Node {
    fn put(&self, at: Instant, sequence: u64, arrival: Arrival) {
        self.inbox.lock().expect("no holder panics").insert((at, sequence), arrival);
        self.arrived.notify_one();
    }

    fn stop(&self) {
        self.registry.clear();
        // Dropping a request's reply channel tells its caller.
        self.inbox.lock().expect("no holder panics").clear();
    }

    /// What is due, in order; or when the next is.
    fn due(&self) -> Result<Arrival, Option<Instant>> {
        let mut inbox = self.inbox.lock().expect("no holder panics");
        match inbox.first_entry() {
            Some(first) if first.key().0 <= self.runtime.now() => Ok(first.remove()),
            Some(first) => Err(Some(first.key().0)),
            None => Err(None),
        }
    }

    async fn run(self: Arc<Self>) {
        loop {
            match self.due() {
                Ok(Arrival::Datagram { from, protocol, payload }) => {
                    self.registry.datagram(&from, protocol, payload);
                }
                Ok(Arrival::Request { from, protocol, request, reply }) => {
                    let routed = self.registry.route(&from.node, protocol);
                    // Let go of: it runs to its end even if the caller stops waiting.
                    drop(self.runtime.spawn("memory call", async move {
                        let result = match routed {
                            Ok(handler) => answer(handler, from, protocol, request).await,
                            Err(refusal) => Err(refusal),
                        };
                        let _ = reply.send(result);
                    }));
                }
                Err(None) => self.arrived.notified().await,
                Err(Some(at)) => {
                    tokio::select! {
                        biased;
                        () = self.arrived.notified() => {}
                        () = self.runtime.sleep_until(at) => {}
                    }
                }
            }
        }
    }
}

struct Endpoint {
    id: NodeId,
    life: Arc<Node>,
    network: Arc<Network>,
    _inbox: AbortOnDrop,
}

impl Endpoint {
    fn caller(&self, session: &Session) -> Caller {
        Caller { node: self.id, channel_binding: session.binding }
    }

    /// A stopped life's endpoint may still be held by somebody: it reaches nobody.
    fn is_alive(&self, state: &State) -> bool {
        state.nodes.get(&self.id).is_some_and(|life| Arc::ptr_eq(life, &self.life))
    }

    fn knows_address(&self, peer: NodeId) -> bool {
        if !self.network.addresses_required.load(Ordering::Relaxed) {
            return true;
        }
        let addresses = self.life.addresses.lock().expect("no holder panics");
        addresses.get(&peer).is_some_and(|known| known.contains(&MemoryNetwork::address(peer)))
    }

    fn transit(&self, kind: TransitKind, peer: NodeId, bytes: usize) -> Transit {
        Transit { from: self.id, to: peer, kind, bytes }
    }

    fn transit_back(&self, kind: TransitKind, peer: NodeId, bytes: usize) -> Transit {
        Transit { from: peer, to: self.id, kind, bytes }
    }

    async fn connect(&self, peer: NodeId) -> Result<Arc<Session>, CallError> {
        let unreachable = |reason: &str| CallError::Unreachable { peer, reason: reason.into() };
        {
            let state = self.network.state();
            if !self.is_alive(&state) {
                return Err(unreachable("this node's endpoint was stopped"));
            }
            if let Some(session) = state.sessions.get(&(self.id, peer)) {
                return Ok(session.clone());
            }
        }
        if !self.knows_address(peer) {
            return Err(unreachable("no address is known"));
        }
        let runtime = &self.life.runtime;
        let there = self.network.carry(runtime, self.transit(TransitKind::Connect, peer, 0));
        there.await.map_err(|()| unreachable("no answer to the handshake"))?;
        let back = self.network.carry(runtime, self.transit_back(TransitKind::Connect, peer, 0));
        back.await.map_err(|()| unreachable("no answer to the handshake"))?;
        let mut state = self.network.state();
        if !self.is_alive(&state) {
            return Err(unreachable("this node's endpoint was stopped"));
        }
        state.make_session((self.id, peer)).ok_or_else(|| unreachable("connection refused"))
    }

    /// The peer's answer, or the connection's end.
    async fn exchange(
        &self,
        session: &Arc<Session>,
        peer: NodeId,
        protocol: Protocol,
        request: Message,
    ) -> Result<Message, CallError> {
        let disconnected = || CallError::Disconnected { peer };
        let (reply_tx, reply) = oneshot::channel();
        let bytes = request.header.len() + request.body.len();
        let arrival = Arrival::Request { from: self.caller(session), protocol, request, reply: reply_tx };
        self.dispatch(session, self.transit(TransitKind::Request, peer, bytes), arrival);

        let result = tokio::select! {
            biased;
            result = reply => result,
            () = session.broken() => return Err(disconnected()),
            () = self.keep_alive(session, peer) => return Err(disconnected()),
        };
        let Ok(result) = result else {
            // The callee's task was stopped with its node.
            return Err(disconnected());
        };
        let bytes = result.as_ref().map_or(0, |reply| reply.header.len() + reply.body.len());
        let back = self.network.carry(&self.life.runtime, self.transit_back(TransitKind::Reply, peer, bytes));
        tokio::select! {
            biased;
            carried = back => if carried.is_err() {
                self.network.state().break_session((self.id, peer), session);
                return Err(disconnected());
            },
            () = session.broken() => return Err(disconnected()),
        }
        Ok(result?)
    }

    /// Puts a request on its way. It travels on even if the caller stops waiting.
    fn dispatch(&self, session: &Arc<Session>, transit: Transit, arrival: Arrival) {
        let runtime = &self.life.runtime;
        let mut state = self.network.state();
        let fate = self.network.fate(&mut state, runtime.now(), &transit);
        match fate {
            Fate::Arrive { after } | Fate::ArriveOutOfOrder { after } | Fate::ArriveTwice { after, .. } => {
                let sequence = state.next_sequence();
                session.callee.put(runtime.now() + after, sequence, arrival);
            }
            Fate::Break => state.break_session((transit.from, transit.to), session),
            Fate::Lose => {
                let network = self.network.clone();
                let session = session.clone();
                let caller_runtime = runtime.clone();
                drop(runtime.spawn("memory retransmit", async move {
                    caller_runtime.sleep(RETRANSMIT_AFTER).await;
                    let carried = network.carry(&caller_runtime, transit).await;
                    let mut state = network.state();
                    if carried.is_err() {
                        state.break_session((transit.from, transit.to), &session);
                    } else if !*session.broken.borrow() {
                        let sequence = state.next_sequence();
                        session.callee.put(caller_runtime.now(), sequence, arrival);
                    }
                }));
            }
        }
    }

    /// Ends when the peer was silent for [`DEAD_AFTER`], having broken the session.
    async fn keep_alive(&self, session: &Arc<Session>, peer: NodeId) {
        let runtime = &self.life.runtime;
        let mut heard = runtime.now();
        loop {
            runtime.sleep(PING_EVERY).await;
            let mut state = self.network.state();
            let now = runtime.now();
            let there = self.network.fate(&mut state, now, &self.transit(TransitKind::Ping, peer, 0));
            let back = self.network.fate(&mut state, now, &self.transit_back(TransitKind::Ping, peer, 0));
            if there != Fate::Lose && back != Fate::Lose {
                heard = now;
            }
            if now.saturating_since(heard) >= DEAD_AFTER || there == Fate::Break || back == Fate::Break {
                state.break_session((self.id, peer), session);
                return;
            }
        }
    }
}

#[async_trait]
impl Transport for Endpoint {
    fn node_id(&self) -> NodeId {
        self.id
    }

    fn serve(&self, protocol: Protocol, handler: Arc<dyn Handler>) {
        self.life.registry.serve(protocol, handler);
    }

    fn set_admission(&self, admission: Arc<dyn Admission>) {
        self.life.registry.set_admission(admission);
    }

    fn set_addresses(&self, peer: NodeId, addresses: Vec<String>) {
        self.life.addresses.lock().expect("no holder panics").insert(peer, addresses);
    }

    async fn call(
        &self,
        peer: NodeId,
        protocol: Protocol,
        request: Message,
        limit: Duration,
    ) -> Result<Message, CallError> {
        if let Some(bytes) = request.bytes_over_limit() {
            return Err(CallError::TooLarge { bytes });
        }
        let runtime = &self.life.runtime;
        let deadline = runtime.now() + limit;
        if peer == self.id {
            let handler = self.life.registry.route_own(protocol)?;
            let from = Caller::own(self.id);
            let task = runtime.spawn("own call", answer(handler, from, protocol, request));
            return match runtime.timeout_at(deadline, task).await {
                Ok(Some(result)) => Ok(result?),
                Ok(None) => Err(CallError::Disconnected { peer }),
                Err(_) => Err(CallError::TimedOut { peer }),
            };
        }
        let session = runtime.timeout_at(deadline, self.connect(peer)).await.unwrap_or_else(|_| {
            Err(CallError::Unreachable { peer, reason: "no connection in time".into() })
        })?;
        let exchanged = runtime.timeout_at(deadline, self.exchange(&session, peer, protocol, request)).await;
        exchanged.unwrap_or(Err(CallError::TimedOut { peer }))
    }

    fn send(&self, peer: NodeId, protocol: Protocol, payload: Bytes) {
        if payload.len() > Message::DATAGRAM_BYTES_MAX {
            return;
        }
        let now = self.life.runtime.now();
        let mut guard = self.network.state();
        let state = &mut *guard;
        if !self.is_alive(state) {
            return;
        }
        if peer == self.id {
            // Admission is for others.
            let Ok(handler) = self.life.registry.route_own(protocol) else { return };
            let from = Caller::own(self.id);
            drop(self.life.runtime.spawn("own datagram", async move { handler.datagram(&from, payload) }));
            return;
        }
        if !self.knows_address(peer) {
            return;
        }
        let Some(session) = state.make_session((self.id, peer)) else { return };
        let fate = self.network.fate(state, now, &self.transit(TransitKind::Datagram, peer, payload.len()));
        let from = self.caller(&session);
        let put = |state: &mut State, at: Instant, payload: Bytes| {
            let sequence = state.next_sequence();
            session.callee.put(at, sequence, Arrival::Datagram { from: from.clone(), protocol, payload });
        };
        let in_order = |state: &mut State, after: Duration| {
            let last = state.arrivals.entry((self.id, peer)).or_default();
            *last = (*last).max(now + after);
            *last
        };
        match fate {
            Fate::Arrive { after } => {
                let at = in_order(state, after);
                put(state, at, payload);
            }
            Fate::ArriveOutOfOrder { after } => put(state, now + after, payload),
            Fate::ArriveTwice { after, again_after } => {
                let at = in_order(state, after);
                put(state, at, payload.clone());
                put(state, at.max(now + again_after), payload);
            }
            Fate::Lose | Fate::Break => {}
        }
    }

    async fn channel_binding(&self, peer: NodeId, limit: Duration) -> Result<[u8; 32], CallError> {
        let connected = self.life.runtime.timeout(limit, self.connect(peer)).await;
        let unreachable = || CallError::Unreachable { peer, reason: "no connection in time".into() };
        Ok(connected.unwrap_or_else(|_| Err(unreachable()))?.binding)
    }

    fn disconnect(&self, peer: NodeId) {
        let id = self.id;
        self.network.state().break_sessions(|link| *link == (id, peer) || *link == (peer, id));
    }
}
