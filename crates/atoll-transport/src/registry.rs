//! What a node serves, and to whom: shared by all implementations of [`Transport`], so
//! that they refuse in the same way.
//!
//! [`Transport`]: crate::Transport

use std::{
    collections::BTreeMap,
    sync::{
        Arc, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use atoll_types::NodeId;
use bytes::Bytes;

use crate::{Admission, Caller, Handler, Message, Protocol, Refusal};

#[derive(Default)]
pub(crate) struct Registry {
    handlers: RwLock<BTreeMap<Protocol, Arc<dyn Handler>>>,
    /// None until the node knows its members: then only `Join` is open.
    admission: RwLock<Option<Arc<dyn Admission>>>,
    /// The node stops: peers get no new calls in. Never cleared.
    stopping: AtomicBool,
}

impl Registry {
    pub(crate) fn serve(&self, protocol: Protocol, handler: Arc<dyn Handler>) {
        self.handlers.write().expect("no holder panics").insert(protocol, handler);
    }

    pub(crate) fn set_admission(&self, admission: Arc<dyn Admission>) {
        *self.admission.write().expect("no holder panics") = Some(admission);
    }

    /// From now on, calls by peers are told that the node is busy.
    pub(crate) fn stop(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// Lets go of handlers and admission: they tend to hold the transport in turn.
    pub(crate) fn clear(&self) {
        self.handlers.write().expect("no holder panics").clear();
        *self.admission.write().expect("no holder panics") = None;
    }

    pub(crate) fn admits(&self, peer: &NodeId, protocol: Protocol) -> bool {
        // Cloned out: the rule is the caller's code, and may come back to us.
        let admission = self.admission.read().expect("no holder panics").clone();
        match admission {
            Some(admission) => admission.admits(peer, protocol),
            None => protocol == Protocol::Join,
        }
    }

    /// Whether the peer's key was removed, which it is told.
    pub(crate) fn is_removed(&self, peer: &NodeId) -> bool {
        let admission = self.admission.read().expect("no holder panics").clone();
        admission.is_some_and(|admission| admission.is_removed(peer))
    }

    fn handler(&self, protocol: Protocol) -> Option<Arc<dyn Handler>> {
        self.handlers.read().expect("no holder panics").get(&protocol).cloned()
    }

    /// The handler for a call by `peer`, or why there is none.
    pub(crate) fn route(&self, peer: &NodeId, protocol: Protocol) -> Result<Arc<dyn Handler>, Refusal> {
        if !self.admits(peer, protocol) {
            let is_removed = self.is_removed(peer);
            return Err(if is_removed { Refusal::removed() } else { Refusal::not_admitted(protocol) });
        }
        if self.stopping.load(Ordering::Relaxed) {
            return Err(Refusal { code: Refusal::BUSY, reason: "the node stops".into() });
        }
        self.route_own(protocol)
    }

    /// The handler for a call by the node itself, which needs no admission.
    pub(crate) fn route_own(&self, protocol: Protocol) -> Result<Arc<dyn Handler>, Refusal> {
        self.handler(protocol).ok_or_else(|| Refusal {
            code: Refusal::NOT_SERVED,
            reason: format!("{} is not served here", protocol.name()),
        })
    }

    /// Hands a datagram to its handler; false if it was refused.
    pub(crate) fn datagram(&self, from: &Caller, protocol: Protocol, payload: Bytes) -> bool {
        match self.route(&from.node, protocol) {
            Ok(handler) => {
                handler.datagram(from, payload);
                true
            }
            Err(_) => false,
        }
    }
}

/// Runs a call to its end. A reply over the limits is the handler's fault and becomes a
/// refusal, so that the caller learns of it.
pub(crate) async fn answer(
    handler: Arc<dyn Handler>,
    from: Caller,
    protocol: Protocol,
    request: Message,
) -> Result<Message, Refusal> {
    let reply = handler.call(from, request).await?;
    if let Some(bytes) = reply.bytes_over_limit() {
        tracing::error!(protocol = protocol.name(), bytes, "a handler's reply is over the limit");
        return Err(Refusal {
            code: Refusal::REPLY_TOO_LARGE,
            reason: format!("the reply of {bytes} bytes is over the limit"),
        });
    }
    Ok(reply)
}
