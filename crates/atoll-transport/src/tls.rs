//! The production transport: TLS 1.3 over TCP between nodes that reach each other.
//!
//! ```text
//! TlsTransport ── Peers ── per peer: 1 control line, n bulk lines (dialled by us)
//!       │                        │
//!    accept ──────────────► Connection: reader, writer, ticker
//!                                │
//!              Outbox (what goes next) · frame (bytes) · stream (TLS) · identity (keys)
//! ```
//!
//! Each side dials its own connections for its own calls and datagrams; the other side
//! only answers on them. A connection's peer is proven by its key before a byte of it is
//! looked at, and what it may speak is asked for each request and datagram, so a removed
//! key is refused at once.
//!
//! Sockets are tokio's; time, tasks and randomness come from the [`Runtime`].
//!
//! The suite that this and the in-memory twin pass: `tests/suite.rs`; keys, malformed
//! frames and silent peers: `tls/tests.rs`.

mod connection;
mod counters;
mod dial;
mod frame;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod identity;
mod outbox;
mod peers;
mod stream;
#[cfg(test)]
mod tests;

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use atoll_runtime::{AbortOnDrop, Runtime};
use atoll_types::{ClusterId, Instant, NodeId};
use bytes::Bytes;
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use crate::{
    Admission, CallError, Caller, Handler, Message, NodeKey, Protocol, Transport,
    registry::{Registry, answer},
};
use connection::{CallEnd, Connection, End};
use counters::Counters;
use identity::Identity;
use peers::Peers;

pub use counters::TransportCounters;

/// The transport's deadlines and limits. The defaults suit machines within one or a few
/// sites; nothing here must agree across the cluster, except that `dead_after` leaves room
/// for a peer's `keep_alive_every` three times.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// For TCP to be connected. 2 s: one lost SYN and its retransmission.
    pub connect_limit: Duration,
    /// For TLS and hello after that. 5 s: three round trips of a slow satellite link. Also
    /// what a stranger's half-finished handshake may hold a place for.
    pub handshake_limit: Duration,
    /// How often a connection without traffic says that it is alive.
    pub keep_alive_every: Duration,
    /// Without a byte from the peer for this long, its connection is closed and calls in
    /// flight fail. Shorter notices dead machines sooner, and takes a stalled one for dead.
    /// Metric: `peers_silent`.
    pub dead_after: Duration,
    /// A peer that is alive but takes no bytes for this long is closed.
    pub write_limit: Duration,
    /// Bulk connections dialled to one peer at most; further ones are dialled while all are
    /// busy. More use more cores for encryption, up to what a machine has to spare. At least 1.
    pub bulk_connections: usize,
    /// Then an unused connection is closed: bulk ones soon, since their buffers are large.
    pub bulk_unused_limit: Duration,
    pub control_unused_limit: Duration,
    /// A stranger joins or goes.
    pub stranger_unused_limit: Duration,
    /// Handshakes in flight, by whoever; the next is dropped. 128: a thousand nodes that
    /// all restart are through in seconds.
    pub handshakes_max: usize,
    /// Connections that one peer may hold with us; the oldest is closed for the next.
    /// At least twice what a peer dials, because its dead ones linger.
    pub accepted_per_peer_max: usize,
    /// Connections by all strangers together.
    pub strangers_max: usize,
}

impl Default for TlsSettings {
    fn default() -> Self {
        Self {
            connect_limit: Duration::from_secs(2),
            handshake_limit: Duration::from_secs(5),
            keep_alive_every: Duration::from_millis(750),
            dead_after: Duration::from_secs(3),
            write_limit: Duration::from_secs(10),
            bulk_connections: 4,
            bulk_unused_limit: Duration::from_secs(60),
            control_unused_limit: Duration::from_secs(600),
            stranger_unused_limit: Duration::from_secs(30),
            handshakes_max: 128,
            accepted_per_peer_max: 16,
            strangers_max: 64,
        }
    }
}

/// Calls with more than this go by a bulk line.
const CONTROL_CALL_BYTES_MAX: usize = 64 << 10;
/// A call of which nothing was sent is tried on another connection, so often.
const ATTEMPTS_MAX: usize = 3;
/// The kernel has no socket or memory to give; it may have soon.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Between two looks at whether all replies are written.
const DRAIN_PAUSE: Duration = Duration::from_millis(5);

/// Why there is no transport. Nothing is left open.
#[derive(Debug, thiserror::Error)]
#[error("can't listen on {address}")]
pub struct BindError {
    pub address: String,
    pub source: io::Error,
}

/// See the [module](self). Closed when dropped, or by [`close`](Self::close).
pub struct TlsTransport {
    node: Arc<Node>,
    local_addr: SocketAddr,
    listener: Mutex<Option<AbortOnDrop>>,
}

/// What all connections of one node share.
struct Node {
    id: NodeId,
    runtime: Runtime,
    settings: TlsSettings,
    registry: Registry,
    counters: Counters,
    identity: Identity,
    server_config: Arc<ServerConfig>,
    cluster: Mutex<Option<ClusterId>>,
    peers: Peers,
    /// Connections dialled by others, oldest first.
    accepted: Mutex<Vec<Arc<Connection>>>,
}

impl TlsTransport {
    /// Listens on `listen` (`host:port`, port 0 for any). `cluster` is None until the
    /// node belongs to one. Must be called within the tokio runtime.
    pub async fn bind(
        key: &NodeKey,
        cluster: Option<ClusterId>,
        listen: &str,
        runtime: Runtime,
        settings: TlsSettings,
    ) -> Result<Arc<Self>, BindError> {
        let error = |source| BindError { address: listen.to_owned(), source };
        let listener = TcpListener::bind(listen).await.map_err(error)?;
        let local_addr = listener.local_addr().map_err(error)?;
        let node = Arc::new(Node::new(key, cluster, runtime.clone(), settings));
        let accepting = runtime.spawn_owned("accept", node.clone().accept(listener));
        Ok(Arc::new(Self { node, local_addr, listener: Mutex::new(Some(accepting)) }))
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// The node joined: from now on, nodes of other clusters are refused.
    pub fn set_cluster(&self, cluster: ClusterId) {
        *self.node.cluster.lock().expect("no holder panics") = Some(cluster);
    }

    pub fn counters(&self) -> TransportCounters {
        let accepted = self.node.accepted().iter().filter(|connection| !connection.has_ended()).count();
        TransportCounters {
            connections_dialled_open: self.node.peers.open() as u64,
            connections_accepted_open: accepted as u64,
            ..self.node.counters.read()
        }
    }

    /// Stops as a good neighbour: takes no more connections and calls, waits until the calls
    /// that are being served have their replies, for at most `limit`, and closes. Calls of
    /// its own still go out meanwhile.
    pub async fn shut_down(&self, limit: Duration) {
        let runtime = &self.node.runtime;
        self.stop_listening();
        self.node.registry.stop();
        let drained = async {
            while !self.node.accepted().iter().all(|connection| connection.is_drained()) {
                runtime.sleep(DRAIN_PAUSE).await;
            }
        };
        if runtime.timeout(limit, drained).await.is_err() {
            tracing::warn!(?limit, "stopping with calls of peers unanswered");
        }
        self.close();
    }

    fn stop_listening(&self) {
        self.listener.lock().expect("no holder panics").take();
    }

    /// Stops listening, closes all connections and lets go of the handlers, for good.
    pub fn close(&self) {
        self.stop_listening();
        self.node.peers.close();
        for connection in std::mem::take(&mut *self.node.accepted()) {
            connection.close(End::Here("the node stops"));
        }
        self.node.registry.clear();
    }

    async fn connection(
        &self,
        peer: NodeId,
        control: bool,
        deadline: Instant,
    ) -> Result<Arc<Connection>, CallError> {
        let Node { runtime, peers, .. } = &*self.node;
        match runtime.timeout_at(deadline, peers.connection(&self.node, peer, control)).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(reason)) => Err(CallError::Unreachable { peer, reason: reason.to_string() }),
            Err(_) => Err(CallError::Unreachable { peer, reason: "no connection in time".into() }),
        }
    }

    async fn call_own(
        &self,
        protocol: Protocol,
        request: Message,
        deadline: Instant,
    ) -> Result<Message, CallError> {
        let Node { id, runtime, registry, .. } = &*self.node;
        let handler = registry.route_own(protocol)?;
        let task = runtime.spawn("own call", answer(handler, Caller::own(*id), protocol, request));
        match runtime.timeout_at(deadline, task).await {
            Ok(Some(result)) => Ok(result?),
            Ok(None) => Err(CallError::Disconnected { peer: *id }),
            Err(_) => Err(CallError::TimedOut { peer: *id }),
        }
    }

    async fn call_peer(
        &self,
        peer: NodeId,
        protocol: Protocol,
        request: Message,
        deadline: Instant,
    ) -> Result<Message, CallError> {
        let control = is_control(protocol, &request);
        for _ in 0..ATTEMPTS_MAX {
            let connection = self.connection(peer, control, deadline).await?;
            let call = connection.call(protocol, request.clone());
            match self.node.runtime.timeout_at(deadline, call).await {
                Ok(Ok(reply)) => return Ok(reply),
                Ok(Err(CallEnd::Refused(refusal))) => return Err(refusal.into()),
                Ok(Err(CallEnd::Broken)) => return Err(CallError::Disconnected { peer }),
                Ok(Err(CallEnd::NotSent)) => {}
                Err(_) => return Err(CallError::TimedOut { peer }),
            }
        }
        Err(CallError::Unreachable { peer, reason: "its connections break".into() })
    }
}

impl Drop for TlsTransport {
    fn drop(&mut self) {
        self.close();
    }
}

/// A join always goes by the control line, whose binding it proves; chunks, and what
/// measures them, always by a bulk line, since their replies are large.
fn is_control(protocol: Protocol, request: &Message) -> bool {
    match protocol {
        Protocol::Join => true,
        Protocol::Chunks | Protocol::Bench => false,
        _ => request.header.len() + request.body.len() <= CONTROL_CALL_BYTES_MAX,
    }
}

#[async_trait]
impl Transport for TlsTransport {
    fn node_id(&self) -> NodeId {
        self.node.id
    }

    fn serve(&self, protocol: Protocol, handler: Arc<dyn Handler>) {
        self.node.registry.serve(protocol, handler);
    }

    fn set_admission(&self, admission: Arc<dyn Admission>) {
        self.node.registry.set_admission(admission);
    }

    fn set_addresses(&self, peer: NodeId, addresses: Vec<String>) {
        self.node.peers.set_addresses(&self.node, peer, addresses);
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
        let deadline = self.node.runtime.now() + limit;
        if peer == self.node.id {
            return self.call_own(protocol, request, deadline).await;
        }
        let result = self.call_peer(peer, protocol, request, deadline).await;
        let counters = &self.node.counters;
        match &result {
            Ok(_) => counters.calls_answered.count(),
            Err(CallError::Refused(_)) => counters.calls_refused.count(),
            Err(CallError::Unreachable { .. }) => counters.calls_unreachable.count(),
            Err(CallError::TimedOut { .. }) => counters.calls_timed_out.count(),
            Err(CallError::Disconnected { .. }) => counters.calls_disconnected.count(),
            Err(CallError::TooLarge { .. }) => {}
        }
        result
    }

    fn send(&self, peer: NodeId, protocol: Protocol, payload: Bytes) {
        let Node { id, runtime, registry, counters, peers, .. } = &*self.node;
        if peer == *id {
            let Ok(handler) = registry.route_own(protocol) else { return };
            let from = Caller::own(*id);
            drop(runtime.spawn("own datagram", async move { handler.datagram(&from, payload) }));
            return;
        }
        let fits = payload.len() <= Message::DATAGRAM_BYTES_MAX;
        if fits && peers.send(&self.node, peer, protocol, payload) {
            counters.datagrams_sent.count();
        } else {
            counters.datagrams_dropped.count();
        }
    }

    async fn channel_binding(&self, peer: NodeId, limit: Duration) -> Result<[u8; 32], CallError> {
        let deadline = self.node.runtime.now() + limit;
        Ok(self.connection(peer, true, deadline).await?.peer().channel_binding)
    }

    fn disconnect(&self, peer: NodeId) {
        self.node.peers.disconnect(peer);
        let of_peer = |connection: &mut Arc<Connection>| connection.peer().node == peer;
        let gone: Vec<_> = self.node.accepted().extract_if(.., of_peer).collect();
        for connection in gone {
            connection.close(End::Here("disconnected"));
        }
    }
}

impl Node {
    fn new(key: &NodeKey, cluster: Option<ClusterId>, runtime: Runtime, settings: TlsSettings) -> Self {
        let identity = Identity::new(key);
        Self {
            id: key.node_id(),
            settings,
            registry: Registry::default(),
            counters: Counters::default(),
            server_config: Arc::new(identity.server_config()),
            identity,
            cluster: Mutex::new(cluster),
            peers: Peers::new(runtime.rng()),
            accepted: Mutex::new(Vec::new()),
            runtime,
        }
    }

    fn cluster(&self) -> Option<ClusterId> {
        *self.cluster.lock().expect("no holder panics")
    }

    fn accepted(&self) -> MutexGuard<'_, Vec<Arc<Connection>>> {
        self.accepted.lock().expect("no holder panics")
    }

    /// May speak nothing, or nothing but `Join`.
    fn is_stranger(&self, peer: &NodeId) -> bool {
        let mut others = Protocol::ALL.into_iter().filter(|protocol| *protocol != Protocol::Join);
        !others.any(|protocol| self.registry.admits(peer, protocol))
    }

    async fn accept(self: Arc<Self>, listener: TcpListener) {
        let handshakes = Arc::new(Semaphore::new(self.settings.handshakes_max));
        loop {
            let socket = match listener.accept().await {
                Ok((socket, _)) => socket,
                Err(error) => {
                    tracing::warn!(%error, "can't accept a connection");
                    self.runtime.sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(place) = handshakes.clone().try_acquire_owned() else {
                self.counters.handshakes_failed.count();
                continue;
            };
            let node = self.clone();
            // Let go of: it has a deadline.
            drop(self.runtime.spawn("accept handshake", async move {
                node.shake_hands(socket).await;
                drop(place);
            }));
        }
    }

    async fn shake_hands(self: &Arc<Self>, socket: TcpStream) {
        match dial::accept(self, socket).await {
            Ok((connection, reader, writer, meter)) => {
                if self.keep_accepted(&connection) {
                    self.counters.connections_accepted.count();
                    self.peers.heard_from(connection.peer().node);
                    connection.start(reader, writer, meter);
                } else {
                    self.counters.connections_refused.count();
                }
            }
            Err(error) => {
                self.counters.handshakes_failed.count();
                tracing::debug!(%error, "a handshake by a peer failed");
            }
        }
    }

    /// Whether there is room for one more; makes room by closing the peer's oldest.
    fn keep_accepted(&self, connection: &Arc<Connection>) -> bool {
        let peer = connection.peer().node;
        let stranger = self.is_stranger(&peer);
        // A removed key has a stranger's place for as long as it takes to be told so.
        let may_ask = || self.registry.admits(&peer, Protocol::Join) || self.registry.is_removed(&peer);
        if stranger && !may_ask() {
            return false;
        }
        if stranger {
            // Asked outside the lock: admission is not our code.
            let others: Vec<NodeId> = self.accepted().iter().map(|other| other.peer().node).collect();
            if others.iter().filter(|other| self.is_stranger(other)).count() >= self.settings.strangers_max {
                return false;
            }
        }
        let mut accepted = self.accepted();
        // Closing marks the peers first, then empties this list.
        if self.peers.are_closed() {
            return false;
        }
        accepted.retain(|connection| !connection.has_ended());
        let of_peer = |other: &&Arc<Connection>| other.peer().node == peer;
        if accepted.iter().filter(of_peer).count() >= self.settings.accepted_per_peer_max
            && let Some(oldest) = accepted.iter().find(of_peer)
        {
            oldest.close(End::Here("the peer opened too many"));
        }
        accepted.push(connection.clone());
        true
    }
}
