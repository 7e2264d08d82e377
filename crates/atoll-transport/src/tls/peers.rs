//! The connections that this node dials: for each peer one *control* line, for datagrams
//! and small calls, and a few *bulk* lines, for calls with bodies, so that Raft never
//! waits behind a chunk in a socket's buffer.
//!
//! A line is dialled when it is first needed, by a task of its own: a caller with a short
//! deadline doesn't stop the dialling that the next one waits for. After a failure the
//! next attempt waits a little longer each time, and until then callers are told at once.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use atoll_runtime::watch;
use atoll_types::{Instant, NodeId};
use bytes::Bytes;
use rand::{Rng, rngs::StdRng};

use super::{
    Node,
    connection::{Connection, End},
    dial::dial,
};
use crate::Protocol;

/// Datagrams that wait for a first connection: a few SWIM rounds and Raft heartbeats.
const EARLY_DATAGRAMS_MAX: usize = 64;
/// Larger ones don't wait: who sent them sends again.
const EARLY_DATAGRAM_BYTES_MAX: usize = 16 << 10;

/// After a first failure, doubling up to the next. Short, because a dial within one
/// network costs nothing, and a restarted peer should be found within a second.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// 50 ms × 2⁵ is over the most.
const BACKOFF_DOUBLINGS: u32 = 5;

/// The line for datagrams and small calls; those after it are for bulk.
const CONTROL: usize = 0;

type Dialled = Result<Arc<Connection>, Arc<str>>;

pub(super) struct Peers {
    state: Mutex<State>,
}

struct State {
    peers: BTreeMap<NodeId, Peer>,
    rng: StdRng,
    /// Numbers the dials, so that one that ends late is told from its successor.
    dials: u64,
    closed: bool,
}

struct Peer {
    addresses: Vec<String>,
    lines: Vec<Line>,
    /// Sent before there was a connection.
    early: VecDeque<(Protocol, Bytes)>,
    failures: u32,
    retry_at: Instant,
    last_failure: Arc<str>,
}

enum Line {
    Idle,
    Dialling { number: u64, done: watch::Receiver<Option<Dialled>> },
    Open(Arc<Connection>),
}

/// How to get at a connection.
enum Way {
    Open(Arc<Connection>),
    Dialling(watch::Receiver<Option<Dialled>>),
    None(Arc<str>),
}

impl Line {
    fn open(&self) -> Option<&Arc<Connection>> {
        match self {
            Line::Open(connection) if !connection.has_ended() => Some(connection),
            _ => None,
        }
    }
}

impl Peers {
    pub(super) fn new(rng: StdRng) -> Self {
        Self { state: Mutex::new(State { peers: BTreeMap::new(), rng, dials: 0, closed: false }) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }

    pub(super) fn set_addresses(&self, node: &Arc<Node>, peer: NodeId, addresses: Vec<String>) {
        let mut state = self.state();
        let known = state.peer(node, peer);
        if known.addresses != addresses {
            known.addresses = addresses;
            known.forget_failures();
        }
        // A peer that left for good is not remembered.
        if known.addresses.is_empty() && known.lines.iter().all(|line| matches!(line, Line::Idle)) {
            state.peers.remove(&peer);
        }
    }

    /// The peer is alive: it just dialled us.
    pub(super) fn heard_from(&self, peer: NodeId) {
        if let Some(peer) = self.state().peers.get_mut(&peer) {
            peer.forget_failures();
        }
    }

    /// A connection to `peer`, dialled if need be; or why there is none.
    pub(super) async fn connection(&self, node: &Arc<Node>, peer: NodeId, control: bool) -> Dialled {
        let way = {
            let mut state = self.state();
            if control { state.control(node, peer) } else { state.bulk(node, peer) }
        };
        match way {
            Way::Open(connection) => Ok(connection),
            Way::None(reason) => Err(reason),
            Way::Dialling(mut done) => match done.wait_for(Option::is_some).await {
                Ok(dialled) => dialled.clone().expect("waited for"),
                Err(_) => Err("the dialling was stopped".into()),
            },
        }
    }

    /// Sends a datagram over the control line, or keeps it until that is there. False if
    /// it was dropped.
    pub(super) fn send(&self, node: &Arc<Node>, peer: NodeId, protocol: Protocol, payload: Bytes) -> bool {
        let mut state = self.state();
        match state.control(node, peer) {
            Way::Open(connection) => {
                // What waited longer goes first.
                drop(state);
                connection.send(protocol, payload).is_ok()
            }
            Way::Dialling(_) if payload.len() <= EARLY_DATAGRAM_BYTES_MAX => {
                let early = &mut state.peer(node, peer).early;
                if early.len() == EARLY_DATAGRAMS_MAX {
                    // The newer one says more.
                    early.pop_front();
                    node.counters.datagrams_dropped.count();
                }
                early.push_back((protocol, payload));
                true
            }
            Way::Dialling(_) | Way::None(_) => false,
        }
    }

    pub(super) fn disconnect(&self, peer: NodeId) {
        let mut state = self.state();
        let Some(peer) = state.peers.get_mut(&peer) else { return };
        let lines: Vec<Line> =
            peer.lines.iter_mut().map(|line| std::mem::replace(line, Line::Idle)).collect();
        peer.early.clear();
        drop(state);
        close(&lines, "disconnected");
    }

    /// Closes everything, for good.
    pub(super) fn close(&self) {
        let peers = {
            let mut state = self.state();
            state.closed = true;
            std::mem::take(&mut state.peers)
        };
        for peer in peers.into_values() {
            close(&peer.lines, "the node stops");
        }
    }

    pub(super) fn are_closed(&self) -> bool {
        self.state().closed
    }

    pub(super) fn open(&self) -> usize {
        let state = self.state();
        state.peers.values().flat_map(|peer| &peer.lines).filter(|line| line.open().is_some()).count()
    }

    /// A dial came to its end.
    fn dialled(&self, node: &Arc<Node>, peer: NodeId, line: usize, number: u64, dialled: &Dialled) {
        let mut guard = self.state();
        let state = &mut *guard;
        let is_current =
            |line: &Line| matches!(line, Line::Dialling { number: current, .. } if *current == number);
        let known = state.peers.get_mut(&peer).filter(|peer| is_current(&peer.lines[line]));
        let Some(peer) = known else {
            // Disconnected meanwhile.
            if let Ok(connection) = dialled {
                connection.close(End::Here("disconnected"));
            }
            return;
        };
        match dialled {
            Ok(connection) => {
                node.counters.connections_dialled.count();
                peer.forget_failures();
                if line == CONTROL {
                    for (protocol, payload) in peer.early.drain(..) {
                        if connection.send(protocol, payload).is_err() {
                            node.counters.datagrams_dropped.count();
                        }
                    }
                }
                peer.lines[line] = Line::Open(connection.clone());
            }
            Err(reason) => {
                node.counters.dials_failed.count();
                peer.lines[line] = Line::Idle;
                peer.last_failure = reason.clone();
                let most = BACKOFF_MAX.min(BACKOFF_MIN * 2u32.pow(peer.failures.min(BACKOFF_DOUBLINGS)));
                // Spread out, so that a restarted peer isn't dialled by all at once.
                peer.retry_at = node.runtime.now() + most.mul_f64(state.rng.random_range(0.5..1.0));
                peer.failures = peer.failures.saturating_add(1);
                for _ in peer.early.drain(..) {
                    node.counters.datagrams_dropped.count();
                }
            }
        }
    }
}

impl State {
    fn peer(&mut self, node: &Arc<Node>, peer: NodeId) -> &mut Peer {
        self.peers.entry(peer).or_insert_with(|| Peer {
            addresses: Vec::new(),
            lines: (0..=node.settings.bulk_connections.max(1)).map(|_| Line::Idle).collect(),
            early: VecDeque::new(),
            failures: 0,
            retry_at: Instant::ORIGIN,
            last_failure: "".into(),
        })
    }

    fn control(&mut self, node: &Arc<Node>, peer: NodeId) -> Way {
        self.line(node, peer, CONTROL)
    }

    /// The bulk line with the least to do; another is dialled while all are busy.
    fn bulk(&mut self, node: &Arc<Node>, peer: NodeId) -> Way {
        let lines = &self.peer(node, peer).lines;
        let bulk = || lines.iter().enumerate().skip(CONTROL + 1);
        let open = bulk().filter_map(|(_, line)| line.open());
        let best = open.min_by_key(|connection| connection.load()).cloned();
        if let Some(connection) = &best
            && connection.load() == 0
        {
            return Way::Open(connection.clone());
        }
        let dialling = bulk().find(|(_, line)| matches!(line, Line::Dialling { .. }));
        let free = bulk().find(|(_, line)| line.open().is_none());
        let way = match dialling.or(free).map(|(at, _)| at) {
            Some(at) => self.line(node, peer, at),
            None => Way::None("no line is free".into()),
        };
        match best {
            Some(connection) => Way::Open(connection),
            None => way,
        }
    }

    fn line(&mut self, node: &Arc<Node>, id: NodeId, at: usize) -> Way {
        if self.closed {
            return Way::None("the node stops".into());
        }
        let number = self.dials + 1;
        let now = node.runtime.now();
        let peer = self.peer(node, id);
        match &peer.lines[at] {
            Line::Dialling { done, .. } => return Way::Dialling(done.clone()),
            line => {
                if let Some(connection) = line.open() {
                    return Way::Open(connection.clone());
                }
            }
        }
        if peer.addresses.is_empty() {
            return Way::None("no address is known".into());
        }
        if now < peer.retry_at {
            return Way::None(peer.last_failure.clone());
        }
        let (tx, done) = watch::channel(None);
        peer.lines[at] = Line::Dialling { number, done: done.clone() };
        let addresses = peer.addresses.clone();
        self.dials = number;
        let node = node.clone();
        // Let go of: it reports back by itself, and has deadlines of its own.
        drop(node.clone().runtime.spawn("dial", async move {
            let dialled = dial(&node, id, &addresses, at == CONTROL).await;
            let dialled = dialled.map_err(|error| Arc::from(error.to_string()));
            node.peers.dialled(&node, id, at, number, &dialled);
            tx.send_replace(Some(dialled));
        }));
        Way::Dialling(done)
    }
}

impl Peer {
    fn forget_failures(&mut self) {
        self.failures = 0;
        self.retry_at = Instant::ORIGIN;
    }
}

fn close(lines: &[Line], why: &'static str) {
    for line in lines {
        if let Line::Open(connection) = line {
            connection.close(End::Here(why));
        }
    }
}
