//! Authenticated connections between nodes: request–reply with bulk bodies, and
//! datagrams that may be lost. A peer is named by its [`NodeId`]; what was received
//! from it is proven to come from that key.
//!
//! TLS 1.3 over TCP in production ([`tls`]), an in-memory twin in tests and in the
//! simulation ([`memory`]). QUIC for nodes behind NATs comes behind the same trait.
//!
//! It knows nothing of what the messages mean, and keeps no list of members: who may
//! speak which protocol is asked of [`Admission`], where a peer listens is told by
//! [`Transport::set_addresses`].

pub mod bench;
mod key;
pub mod memory;
mod protocol;
mod registry;
pub mod tls;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use atoll_types::NodeId;
use bytes::Bytes;

pub use key::{NodeKey, NodeKeyError, verify};
pub use protocol::Protocol;

/// A request or a reply: a small header, and bulk bytes that are never copied into it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Message {
    pub header: Bytes,
    pub body: Bytes,
}

impl Message {
    /// 256 KiB: a listing page of 1,000 keys of 1 KiB goes in a body, not here.
    pub const HEADER_BYTES_MAX: usize = 256 << 10;
    /// 8 MiB: the largest chunk (4 MiB) or Raft batch, with room.
    pub const BODY_BYTES_MAX: usize = 8 << 20;

    /// 8 MiB, as a body: a datagram is mostly a heartbeat of a hundred bytes, and at
    /// most a Raft append with its largest batch of entries.
    pub const DATAGRAM_BYTES_MAX: usize = Self::BODY_BYTES_MAX;

    pub fn header(header: impl Into<Bytes>) -> Self {
        Self { header: header.into(), body: Bytes::new() }
    }

    pub fn with_body(header: impl Into<Bytes>, body: impl Into<Bytes>) -> Self {
        Self { header: header.into(), body: body.into() }
    }

    /// Its size, if that is over one of the limits.
    pub(crate) fn bytes_over_limit(&self) -> Option<usize> {
        let over = self.header.len() > Self::HEADER_BYTES_MAX || self.body.len() > Self::BODY_BYTES_MAX;
        over.then(|| self.header.len() + self.body.len())
    }
}

/// Who sent something, as the connection proved it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    pub node: NodeId,
    /// Exported keying material of the session, equal on both ends and on no other
    /// session (RFC 9266): what a proof is bound to so that it can't be replayed.
    pub channel_binding: [u8; 32],
}

impl Caller {
    /// A node that calls itself: there is no session to bind anything to.
    pub(crate) fn own(node: NodeId) -> Self {
        Self { node, channel_binding: [0; 32] }
    }
}

/// A handler's "no": travels to the caller as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("refused ({code}): {reason}")]
pub struct Refusal {
    /// Stable within its protocol; from 0xff00 up they are the transport's own, below.
    pub code: u16,
    pub reason: String,
}

impl Refusal {
    /// The callee's [`Admission`] does not let the caller speak this protocol.
    pub const NOT_ADMITTED: u16 = 0xff00;
    /// Nobody serves this protocol there (yet).
    pub const NOT_SERVED: u16 = 0xff01;
    /// Too many calls of this peer are being handled, or the node stops; nothing was done.
    /// Retry later, or elsewhere.
    pub const BUSY: u16 = 0xff02;
    /// The handler's reply was over the limits; it has acted.
    pub const REPLY_TOO_LARGE: u16 = 0xff03;
    /// The handler panicked; what it did is unknown.
    pub const HANDLER_FAILED: u16 = 0xff04;
    /// The callee knows that the caller's key was removed, for good.
    pub const REMOVED: u16 = 0xff05;

    pub(crate) fn not_admitted(protocol: Protocol) -> Self {
        Self { code: Self::NOT_ADMITTED, reason: format!("not admitted to {}", protocol.name()) }
    }

    pub(crate) fn removed() -> Self {
        Self { code: Self::REMOVED, reason: "this key was removed".into() }
    }
}

/// Why a call brought no reply.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// No connection could be made in time. The peer saw nothing; retry elsewhere.
    #[error("peer {peer:?} is unreachable: {reason}")]
    Unreachable { peer: NodeId, reason: String },
    /// The peer answered no. Its state is what its protocol says.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// No reply in time. The peer may have acted, or may still act.
    #[error("peer {peer:?} did not answer in time")]
    TimedOut { peer: NodeId },
    /// The connection broke after the request may have left. The peer may have acted.
    #[error("the connection to peer {peer:?} broke")]
    Disconnected { peer: NodeId },
    /// Ours: the message is over the limits above. Nothing was sent.
    #[error("a message of {bytes} bytes is over the limit")]
    TooLarge { bytes: usize },
}

/// Serves one protocol.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    async fn call(&self, from: Caller, request: Message) -> Result<Message, Refusal>;

    /// A datagram arrived. Runs on the connection's reader: hand it on, don't work here.
    fn datagram(&self, _from: &Caller, _payload: Bytes) {}
}

/// Decides which peer may speak what. A peer that nobody admitted yet may only speak
/// [`Protocol::Join`]; a removed key nothing at all.
pub trait Admission: Send + Sync + 'static {
    fn admits(&self, peer: &NodeId, protocol: Protocol) -> bool;

    /// Whether a peer that is not admitted is told that its key was removed.
    fn is_removed(&self, _peer: &NodeId) -> bool {
        false
    }
}

#[async_trait]
pub trait Transport: Send + Sync + 'static {
    fn node_id(&self) -> NodeId;

    /// Serves `protocol` with `handler`; replaces an earlier one.
    fn serve(&self, protocol: Protocol, handler: Arc<dyn Handler>);

    /// Replaces the rule on who may speak. Until the first call only `Join` is open.
    fn set_admission(&self, admission: Arc<dyn Admission>);

    /// Where `peer` listens, best first (`host:port`). Replaces what was known.
    fn set_addresses(&self, peer: NodeId, addresses: Vec<String>);

    /// Asks `peer`, and waits at most `limit` for the reply, connecting if need be.
    /// A call to the node itself reaches its own handler without a connection.
    async fn call(
        &self,
        peer: NodeId,
        protocol: Protocol,
        request: Message,
        limit: Duration,
    ) -> Result<Message, CallError>;

    /// Sends `payload` if there is room for it now; drops it silently otherwise. Without a
    /// connection it starts one, and a few small payloads wait for that. In order while a
    /// connection lasts.
    fn send(&self, peer: NodeId, protocol: Protocol, payload: Bytes);

    /// The binding of the session over which the next `call` for [`Protocol::Join`] to
    /// `peer` goes, connecting if need be. If the session breaks in between, the proof
    /// made from it fails and is made anew.
    async fn channel_binding(&self, peer: NodeId, limit: Duration) -> Result<[u8; 32], CallError>;

    /// Drops the connections to and from a peer, and with them all calls in flight. What
    /// keeps it from coming back is [`Admission`]; its addresses stay known.
    fn disconnect(&self, peer: NodeId);
}
