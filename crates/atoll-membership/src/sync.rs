//! Comparing notes by a call: what gossip has told only to those who were there.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use atoll_transport::{Message, Protocol, Transport};
use atoll_types::{Format, NodeId};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    identity::Life,
    info::{Fact, FactVersion, MemberInfo},
};

/// A reply is some 300 bytes per member; on a link that takes longer nobody is probed in
/// time either.
const LIMIT: Duration = Duration::from_secs(2);

/// "This is me, and this is what I know: what do I lack?"
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SyncRequest {
    pub(crate) me: Fact,
    pub(crate) known: BTreeMap<NodeId, FactVersion>,
}

impl Format for SyncRequest {
    const NAME: &'static str = "membership sync request";
    const VERSION: u8 = 1;
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct SyncReply {
    /// The answerer's life: whom to announce oneself to.
    pub(crate) me: Life,
    /// What the asker lacks; the answerer's own among it.
    pub(crate) facts: Vec<Fact>,
    /// Who is there. The dead are not in it: that somebody died long ago is no news, and
    /// a stale death would have to be contradicted.
    pub(crate) members: Vec<foca::Member<Life>>,
}

impl Format for SyncReply {
    const NAME: &'static str = "membership sync reply";
    const VERSION: u8 = 1;
}

/// Asks `peer`. `None` for whatever reason there is no usable answer: another is asked
/// soon.
pub(crate) async fn ask(
    transport: Arc<dyn Transport>,
    peer: NodeId,
    request: SyncRequest,
) -> Option<SyncReply> {
    let request = Message::with_body(Bytes::new(), request.encode());
    let reply = transport.call(peer, Protocol::Membership, request, LIMIT).await;
    let reply = reply.inspect_err(|error| tracing::debug!(%error, "a member did not compare notes")).ok()?;
    let reply = SyncReply::decode(&reply.body)
        .inspect_err(|error| tracing::warn!(?peer, %error, "a member's notes are malformed"))
        .ok()?;
    let is_sound =
        reply.me.node == peer && reply.facts.iter().all(|fact: &Fact| MemberInfo::check(&fact.info).is_ok());
    is_sound.then_some(reply)
}
