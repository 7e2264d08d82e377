//! Joining, from both sides.
//!
//! ```text
//! joiner                                 issuer
//!   TLS by node keys: the ticket names the issuers' keys, so nobody sits between
//!   MAC(secret, session, own key)  ──►   spends the ticket, keyed by the joiner's key
//!                                        writes the joiner into the layout
//!   keeps layout and token         ◄──   Welcome
//! ```
//!
//! Each step may be repeated: spending by the same key costs one use, and a node that is
//! in the layout already is left as it is.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use atoll_access::NotedRequest;
use atoll_placement::{Layout, LayoutNode, NodeState};
use atoll_transport::{CallError, Caller, Handler, Message, Protocol, Refusal, Transport};
use atoll_types::{Format, NodeId};

use crate::{
    editor::LayoutEditor,
    ticket::Ticket,
    truths::TicketRefused,
    wire::{JoinReply, JoinRequest, NodeInfo},
};

/// Spending and the layout's change are a commit each; an election may come between.
const JOIN_TIME: Duration = Duration::from_secs(15);
/// An issuer that can't be reached is passed over after this.
const CONNECT_TIME: Duration = Duration::from_secs(5);

/// Why a node did not become a member.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// Ask for a new one where the cluster runs.
    #[error(transparent)]
    Refused(#[from] TicketRefused),
    #[error("the ticket belongs to another cluster than the nodes it names")]
    OtherCluster,
    /// Its data folder must be emptied; it then has another key.
    #[error("this node's key was removed from the cluster for good")]
    RemovedKey,
    /// Nobody could be reached, or the cluster has no leader right now. Try again.
    #[error("no node of the cluster answered ({tried} tried)")]
    Unreachable {
        tried: usize,
        #[source]
        last: Option<CallError>,
    },
    #[error("the cluster can't admit nodes right now: {reason}")]
    TryAgain { reason: String },
    #[error("the cluster has version {needed}, which this program does not know: install a newer one")]
    ProgramTooOld { needed: u32 },
    #[error("the cluster's answer is not understood; it may run a newer version")]
    Malformed,
}

/// What a new member got.
pub struct Welcome {
    pub layout: Layout,
    pub admin_token: String,
}

/// Asks the ticket's issuers, one after the other, until one decides.
pub async fn join(transport: &dyn Transport, ticket: &Ticket, info: NodeInfo) -> Result<Welcome, JoinError> {
    let mut last = None;
    let (mut try_again, mut is_removed) = (None, false);
    for issuer in &ticket.issuers {
        transport.set_addresses(issuer.node, issuer.addresses.clone());
        match ask(transport, ticket, issuer.node, info.clone()).await {
            Ok(JoinReply::Welcome { layout, admin_token }) => {
                let layout = Layout::decode(&layout).map_err(|_| JoinError::Malformed)?;
                return Ok(Welcome { layout, admin_token });
            }
            Ok(JoinReply::Refused(why)) => return Err(why.into()),
            Ok(JoinReply::OtherCluster) => return Err(JoinError::OtherCluster),
            Ok(JoinReply::RemovedKey) => return Err(JoinError::RemovedKey),
            Ok(JoinReply::ProgramTooOld { needed }) => return Err(JoinError::ProgramTooOld { needed }),
            Ok(JoinReply::TryAgain { reason }) => try_again = Some(reason),
            // Another may know better.
            Err(AskError::Call(CallError::Refused(refusal))) if refusal.code == Refusal::REMOVED => {
                is_removed = true;
            }
            Err(AskError::Call(error)) => last = Some(error),
            Err(AskError::Malformed) => return Err(JoinError::Malformed),
        }
    }
    match try_again {
        _ if is_removed => Err(JoinError::RemovedKey),
        Some(reason) => Err(JoinError::TryAgain { reason }),
        None => Err(JoinError::Unreachable { tried: ticket.issuers.len(), last }),
    }
}

enum AskError {
    Call(CallError),
    Malformed,
}

impl From<CallError> for AskError {
    fn from(error: CallError) -> Self {
        AskError::Call(error)
    }
}

async fn ask(
    transport: &dyn Transport,
    ticket: &Ticket,
    issuer: NodeId,
    info: NodeInfo,
) -> Result<JoinReply, AskError> {
    let binding = transport.channel_binding(issuer, CONNECT_TIME).await?;
    let request = JoinRequest {
        cluster: ticket.cluster,
        ticket: ticket.id,
        proof: ticket.secret.proof(&binding, &transport.node_id()),
        info,
    };
    let reply = transport.call(issuer, Protocol::Join, Message::header(request.encode()), JOIN_TIME).await?;
    // The layout of 300 nodes is larger than a header may be.
    JoinReply::decode(&reply.body).map_err(|_| AskError::Malformed)
}

/// A member's side.
pub struct JoinHandler {
    pub editor: LayoutEditor,
    pub cluster: atoll_types::ClusterId,
    pub admin_token: atoll_access::AdminToken,
}

impl JoinHandler {
    async fn admit(&self, from: &Caller, request: &JoinRequest) -> JoinReply {
        if request.cluster != self.cluster {
            return JoinReply::OtherCluster;
        }
        let runtime = &self.editor.truths.runtime;
        let deadline = runtime.now() + JOIN_TIME;
        let try_again = |error: &dyn std::error::Error| JoinReply::TryAgain { reason: error.to_string() };
        let record = match self.editor.truths.ticket(request.ticket, deadline).await {
            Ok(Some(record)) => record,
            Ok(None) => return JoinReply::Refused(TicketRefused::Unknown),
            Err(error) => return try_again(&error),
        };
        if !record.secret.verifies(&request.proof, &from.channel_binding, &from.node) {
            return JoinReply::Refused(TicketRefused::NotProven);
        }
        if self.editor.follower.current().is_removed(&from.node) {
            return JoinReply::RemovedKey;
        }
        match self.editor.truths.info(deadline).await {
            Ok(info) if request.info.program_version < info.version => {
                return JoinReply::ProgramTooOld { needed: info.version };
            }
            Ok(_) => {}
            Err(error) => return try_again(&error),
        }
        match self.editor.truths.spend_ticket(request.ticket, from.node, deadline).await {
            Ok(Ok(())) => {}
            Ok(Err(why)) => return JoinReply::Refused(why),
            Err(error) => return try_again(&error),
        }
        if let Err(error) = self.editor.access.note_act(noted(from, request, "the ticket")).await {
            return try_again(&error);
        }
        runtime.fault_point("node: a ticket is spent, its bearer is not admitted").await;
        let properties = layout_node(&request.info);
        let joiner = from.node;
        let edited = self.editor.edit(deadline, |layout| layout.admit(joiner, properties.clone())).await;
        match edited {
            Ok(layout) => JoinReply::Welcome {
                layout: layout.encode().into(),
                admin_token: self.admin_token.expose().into(),
            },
            Err(error) => try_again(&error),
        }
    }
}

/// A join, for the audit trail.
fn noted(from: &Caller, request: &JoinRequest, rule: &str) -> NotedRequest {
    let JoinRequest { ticket, info, .. } = request;
    NotedRequest {
        who: format!("ticket {ticket}"),
        what: "node:join".into(),
        // Whoever asks may say of itself what it likes: an address that was proven is none of these.
        on: format!("{} at {}", from.node, info.addresses.join(", ")),
        from: String::new(),
        rule: rule.into(),
    }
}

/// What a node says of itself, as the layout notes it.
pub fn layout_node(info: &NodeInfo) -> LayoutNode {
    LayoutNode {
        zone: info.zone.clone(),
        capacity: info.capacity,
        disk: info.disk,
        roles: info.roles,
        state: NodeState::Active,
        addresses: info.addresses.clone(),
    }
}

#[async_trait]
impl Handler for JoinHandler {
    async fn call(&self, from: Caller, request: Message) -> Result<Message, Refusal> {
        let request = JoinRequest::decode(&request.header)
            .map_err(|error| Refusal { code: 400, reason: error.to_string() })?;
        let reply = self.admit(&from, &request).await;
        if let JoinReply::Refused(why) = &reply {
            tracing::warn!(node = %from.node, %why, "a join was refused");
            self.editor.access.note_refused(noted(&from, &request, &why.to_string()));
        }
        Ok(Message::with_body("", reply.encode()))
    }
}

/// Joins are rare; nobody holds a handler for long.
pub fn serve(transport: &Arc<dyn Transport>, handler: JoinHandler) {
    transport.serve(Protocol::Join, Arc::new(handler));
}
