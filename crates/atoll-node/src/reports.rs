//! What nodes say of themselves, every second: to whoever may lead shard 0, who plans
//! from it; and in answer to whoever shows the status.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use atoll_access::audit::WitnessStatement;
use atoll_placement::Layout;
use atoll_runtime::Runtime;
use atoll_transport::{Caller, Handler, Message, Protocol, Refusal, Transport};
use atoll_types::{Format, Instant, NodeId};

use crate::{
    follower::LayoutFollower,
    wire::{ClusterReply, ClusterRequest, NodeReport},
    witness::WitnessKeeper,
};

/// How often a node reports. A finished move is acted on within this and the controller's
/// own round, so a join is done in seconds; 300 nodes make 300 small calls a second.
pub const REPORT_EVERY: Duration = Duration::from_millis(500);
/// One call of a report, or for a layout.
const CALL_TIME: Duration = Duration::from_secs(2);

/// The newest report of each node, and when it came.
#[derive(Default)]
pub struct ReportBook {
    reports: Mutex<BTreeMap<NodeId, (Instant, NodeReport)>>,
}

impl ReportBook {
    pub fn note(&self, now: Instant, node: NodeId, report: NodeReport) {
        let mut reports = self.reports.lock().unwrap_or_else(PoisonError::into_inner);
        reports.insert(node, (now, report));
    }

    pub fn all(&self) -> BTreeMap<NodeId, (Instant, NodeReport)> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Makes this node's report; the node knows the parts it comes from.
#[async_trait]
pub trait Reporter: Send + Sync + 'static {
    async fn report(&self) -> NodeReport;
}

/// Serves `atoll/cluster/1`.
pub struct ClusterHandler {
    pub runtime: Runtime,
    pub follower: Arc<LayoutFollower>,
    pub book: Arc<ReportBook>,
    pub reporter: Arc<dyn Reporter>,
    pub witness: Arc<WitnessKeeper>,
}

fn malformed(error: impl std::fmt::Display) -> Refusal {
    Refusal { code: 400, reason: error.to_string() }
}

#[async_trait]
impl Handler for ClusterHandler {
    async fn call(&self, from: Caller, message: Message) -> Result<Message, Refusal> {
        let reply = match ClusterRequest::decode(&message.header).map_err(malformed)? {
            ClusterRequest::Layout { newer_than } => {
                let layout = self.follower.current();
                let body = if layout.version() > newer_than { layout.encode() } else { Vec::new() };
                return Ok(Message::with_body(ClusterReply::Layout.encode(), body));
            }
            ClusterRequest::TakeLayout => {
                let layout = Layout::decode(&message.body).map_err(malformed)?;
                self.follower
                    .offer(layout)
                    .await
                    .map_err(|error| Refusal { code: 500, reason: error.to_string() })?;
                ClusterReply::Taken
            }
            ClusterRequest::Report(report) => {
                self.book.note(self.runtime.now(), from.node, *report);
                ClusterReply::Reported { layout_version: self.follower.current().version() }
            }
            ClusterRequest::Witness => {
                let body = self.witness.statement().encode();
                return Ok(Message::with_body(ClusterReply::Witness.encode(), body));
            }
            ClusterRequest::Status => ClusterReply::Status(Box::new(self.reporter.report().await)),
        };
        Ok(Message::header(reply.encode()))
    }
}

/// Asks `peer` how it is; `None` if it does not say so in time.
pub async fn ask_status(transport: &dyn Transport, peer: NodeId) -> Option<NodeReport> {
    let request = Message::header(ClusterRequest::Status.encode());
    let reply = transport.call(peer, Protocol::Cluster, request, CALL_TIME).await.ok()?;
    match ClusterReply::decode(&reply.header) {
        Ok(ClusterReply::Status(report)) => Some(*report),
        _ => None,
    }
}

/// Asks `peer` what it has seen of the audit trail; `None` if it does not say so in time. What
/// it says bears its own signature.
pub async fn ask_witness(transport: &dyn Transport, peer: NodeId) -> Option<WitnessStatement> {
    let request = Message::header(ClusterRequest::Witness.encode());
    let reply = transport.call(peer, Protocol::Cluster, request, CALL_TIME).await.ok()?;
    let statement = WitnessStatement::decode(&reply.body).ok()?;
    Some(statement).filter(|statement| statement.node == peer)
}

/// Asks `peer` for its layout if that is newer, and takes it.
pub async fn fetch_layout(transport: &dyn Transport, follower: &LayoutFollower, peer: NodeId) {
    let newer_than = follower.current().version();
    let request = Message::header(ClusterRequest::Layout { newer_than }.encode());
    // Whoever does not answer is asked again at the next sign of a newer version.
    let Ok(reply) = transport.call(peer, Protocol::Cluster, request, CALL_TIME).await else { return };
    if reply.body.is_empty() {
        return;
    }
    match Layout::decode(&reply.body) {
        Ok(layout) => {
            if let Err(error) = follower.offer(layout).await {
                tracing::error!(%error, "can't keep the new layout");
            }
        }
        Err(error) => tracing::warn!(node = %peer, %error, "a peer sent a layout that can't be read"),
    }
}

/// Reports for ever, to every node that may lead shard 0: the one that does uses it. An
/// answer that tells of a newer layout fetches it.
pub async fn report_loop(
    runtime: Runtime,
    transport: Arc<dyn Transport>,
    follower: Arc<LayoutFollower>,
    reporter: Arc<dyn Reporter>,
) {
    loop {
        let layout = follower.current();
        let message = Message::header(ClusterRequest::Report(Box::new(reporter.report().await)).encode());
        let shard = layout.shards().get(&atoll_types::ShardId::META);
        let voters: Vec<NodeId> =
            shard.into_iter().flat_map(|shard| shard.all()).map(|replica| replica.node).collect();
        for node in voters {
            let (transport, follower) = (transport.clone(), follower.clone());
            let message = message.clone();
            runtime.spawn("report", async move {
                // The next report says it again.
                let Ok(reply) = transport.call(node, Protocol::Cluster, message, CALL_TIME).await else {
                    return;
                };
                if let Ok(ClusterReply::Reported { layout_version }) = ClusterReply::decode(&reply.header)
                    && layout_version > follower.current().version()
                {
                    fetch_layout(transport.as_ref(), &follower, node).await;
                }
            });
        }
        runtime.sleep(REPORT_EVERY).await;
    }
}
