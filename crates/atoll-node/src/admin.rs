//! What the node answers to the admin API.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use async_trait::async_trait;
use atoll_gateway::admin::{
    Admin, AdminError, AdminErrorKind,
    api::{
        AuditWitness, AuditWitnesses, ClusterSettings, CreateTicketRequest, CreatedTicket, KvDeleteRequest,
        KvEvent, KvListRequest, KvPage, KvPutRequest, KvRecord, KvWatchRequest, KvWritten, LeaseRequest,
        LockAnswer, LockRequest, MoveStatus, NodeStatus, OverlayHits, OverlayProviders, OverlayPutRequest,
        OverlayStopped, OverlayStored, OverlayTrace, OverlayValues, OverlayView, ShardStatus, Status,
    },
};
use atoll_membership::{MemberState, View};
use atoll_placement::{ChangeError, Layout, NodeState, SlotProgress, Warning};
use atoll_types::{NodeId, OverlayKind, ParseOverlayKindError, ShardId};
use futures_util::{future::join_all, stream::BoxStream};

use crate::{
    editor::EditError,
    kv::Kv,
    node::Node,
    overlay::{OverlayAdmin, kind_of},
    reports::{Reporter, ask_status, ask_witness},
    truths::{TruthsError, overlay_played_since},
    wire::NodeReport,
};

/// A change to the layout waits through an election.
const CHANGE_TIME: Duration = Duration::from_secs(10);
/// `ready` asks shard 0; a load balancer asks every second or so.
const READY_TIME: Duration = Duration::from_secs(1);
const TICKET_USES_MAX: u32 = 10_000;
/// 30 days: a ticket that lies around longer is a key.
const TICKET_LIFETIME_MAX: Duration = Duration::from_secs(30 * 24 * 3600);

pub struct NodeAdmin {
    node: Node,
    kv: Kv,
}

impl NodeAdmin {
    pub fn new(node: Node) -> Self {
        let kv = Kv { runtime: node.inner.runtime.clone(), records: node.records().clone() };
        Self { node, kv }
    }

    fn overlay(&self) -> OverlayAdmin<'_> {
        let inner = &self.node.inner;
        OverlayAdmin { runtime: &inner.runtime, me: inner.me, overlays: inner.overlay.as_ref() }
    }

    fn find(&self, name: &str) -> Result<NodeId, AdminError> {
        let layout = self.node.layout();
        let name = name.to_ascii_lowercase();
        let mut matching =
            layout.nodes().keys().filter(|node| !name.is_empty() && node.to_string().starts_with(&name));
        match (matching.next(), matching.next()) {
            (Some(node), None) => Ok(*node),
            (None, _) => Err(AdminError::new(
                AdminErrorKind::NotFound,
                "no_such_node",
                format!("there is no node {name}"),
            )
            .hint("atoll node list shows them")),
            (Some(_), Some(_)) => {
                let message = format!("several nodes begin with {name}");
                Err(AdminError::new(AdminErrorKind::Invalid, "ambiguous_node", message)
                    .hint("give more of its id"))
            }
        }
    }

    async fn set_overlay(&self, value: &str) -> Result<(), AdminError> {
        let kinds = || {
            let names: Vec<&str> = OverlayKind::ALL.iter().map(|kind| kind.name()).collect();
            format!("there are {}", names.join(", "))
        };
        let kind: OverlayKind = value.parse().map_err(|error: ParseOverlayKindError| {
            AdminError::new(AdminErrorKind::Invalid, "no_such_kind", error.to_string()).hint(kinds())
        })?;
        let inner = &self.node.inner;
        let deadline = inner.runtime.now() + CHANGE_TIME;
        let info = inner.editor.truths.info(deadline).await.map_err(|error| truths_error(&error))?;
        if info.version < overlay_played_since(kind) {
            let message = format!("some nodes run a program that does not play {kind}");
            return Err(AdminError::new(AdminErrorKind::Conflict, "program_too_old", message)
                .hint("atoll status shows their versions: install the newest everywhere first"));
        }
        self.edit(|layout| Ok(layout.with_overlay(kind))).await.map(|_| ())
    }

    async fn edit(
        &self,
        step: impl Fn(&Layout) -> Result<Option<Layout>, ChangeError>,
    ) -> Result<Arc<Layout>, AdminError> {
        let deadline = self.node.inner.runtime.now() + CHANGE_TIME;
        self.node.inner.editor.edit(deadline, step).await.map_err(|error| match error {
            EditError::Refused(refused) => change_error(&refused),
            EditError::Truths(error) => truths_error(&error),
            EditError::Contended => {
                AdminError::new(AdminErrorKind::Unavailable, "contended", error.to_string())
            }
            EditError::Unreadable => {
                AdminError::new(AdminErrorKind::Internal, "unreadable_layout", error.to_string())
            }
        })
    }
}

fn change_error(error: &ChangeError) -> AdminError {
    let message = error.to_string();
    match error {
        ChangeError::UnknownNode { .. } => AdminError::new(AdminErrorKind::NotFound, "no_such_node", message),
        ChangeError::NotEmpty { node } => {
            AdminError::new(AdminErrorKind::Conflict, "node_not_empty", message).hint(format!(
                "atoll node drain {}, and wait until it is empty; --force if it is dead",
                node.short()
            ))
        }
        ChangeError::LastNode { .. } => AdminError::new(AdminErrorKind::Conflict, "last_node", message),
        ChangeError::WithoutQuorum { .. } => {
            AdminError::new(AdminErrorKind::Conflict, "without_quorum", message)
                .hint("bring a dead node back, or wait until `atoll status` shows the shards settled")
        }
        ChangeError::BeingRemoved { .. } => {
            AdminError::new(AdminErrorKind::Conflict, "being_removed", message)
        }
        ChangeError::CopiesOutOfRange => AdminError::new(AdminErrorKind::Invalid, "out_of_range", message),
    }
}

pub(crate) fn unavailable(error: &dyn std::error::Error) -> AdminError {
    AdminError::new(AdminErrorKind::Unavailable, "unavailable", error.to_string())
        .hint("is a majority of the nodes up? atoll status")
}

fn truths_error(error: &TruthsError) -> AdminError {
    match error {
        TruthsError::Records(error) => unavailable(error),
        TruthsError::Unreadable { .. } => {
            AdminError::new(AdminErrorKind::Internal, "unreadable", error.to_string())
        }
    }
}

#[async_trait]
impl Admin for NodeAdmin {
    async fn is_ready(&self) -> bool {
        let inner = &self.node.inner;
        let deadline = inner.runtime.now() + READY_TIME;
        inner.editor.truths.layout(u64::MAX, deadline).await.is_ok()
    }

    async fn status(&self) -> Result<Status, AdminError> {
        let inner = &self.node.inner;
        let layout = self.node.layout();
        let view = inner.membership.view().borrow().clone();
        let asked = layout.nodes().keys().map(|node| {
            let node = *node;
            async move {
                if node == inner.me {
                    return (node, Some((inner.reporter.report().await, Duration::ZERO)));
                }
                let before = inner.runtime.now();
                let report = ask_status(inner.transport.as_ref(), node).await;
                (node, report.map(|report| (report, inner.runtime.now() - before)))
            }
        });
        let reports: BTreeMap<NodeId, Option<(NodeReport, Duration)>> =
            join_all(asked).await.into_iter().collect();
        let deadline = inner.runtime.now() + READY_TIME;
        let info = inner.editor.truths.info(deadline).await.ok();
        let now_millis = inner.runtime.wall_now().as_millis() as i64;

        let mut leaders: BTreeMap<ShardId, NodeId> = BTreeMap::new();
        for (node, report) in &reports {
            for shard in report.iter().flat_map(|(report, _)| &report.shards_led) {
                leaders.insert(*shard, *node);
            }
        }
        let nodes: Vec<NodeStatus> = layout
            .nodes()
            .iter()
            .map(|(node, properties)| {
                let report = reports.get(node).and_then(Option::as_ref);
                let slots = layout.slots_of(node);
                NodeStatus {
                    id: node.to_string(),
                    liveness: liveness(&view, inner.me, node).into(),
                    state: match properties.state {
                        NodeState::Active => "active",
                        NodeState::Draining => "draining",
                        NodeState::Dead { .. } => "dead",
                        NodeState::Removing => "removing",
                    }
                    .into(),
                    zone: properties.zone.to_string(),
                    roles: properties.roles.iter().map(|role| role.name().to_string()).collect(),
                    addresses: properties.addresses.clone(),
                    capacity_bytes: properties.capacity.0,
                    stored_bytes: report.map(|(report, _)| report.stored.0),
                    slots: (slots.current.len() + slots.arriving.len()) as u64,
                    shards_led: leaders.values().filter(|leader| *leader == node).count() as u64,
                    replicas: layout.replicas_on(node).count() as u64,
                    // The answer was given about half a round trip ago.
                    clock_skew_millis: report.map(|(report, round_trip)| {
                        report.wall_time.as_millis() as i64 + round_trip.as_millis() as i64 / 2 - now_millis
                    }),
                    program_version: report.map(|(report, _)| report.info.program_version),
                    is_empty: layout.is_empty(node),
                }
            })
            .collect();
        let shards: Vec<ShardStatus> = layout
            .shards()
            .iter()
            .map(|(shard, placement)| {
                let names = |replicas: &[atoll_placement::Replica]| {
                    replicas.iter().map(|replica| replica.node.to_string()).collect()
                };
                ShardStatus {
                    shard: shard.0,
                    leader: leaders.get(shard).map(NodeId::to_string),
                    voters: names(&placement.current.voters),
                    learners: names(&placement.current.learners),
                    changing: !placement.is_settled(),
                }
            })
            .collect();
        let moves = move_status(&layout, reports.values().flatten().map(|(report, _)| report));
        let missing = reports.values().filter(|report| report.is_none()).count();
        let leaderless = shards.iter().filter(|shard| shard.leader.is_none()).count();
        let mut notes = Vec::new();
        if leaderless > 0 {
            notes.push(format!("{leaderless} shards have no leader that this node can see"));
        }
        if missing > 0 {
            notes.push(format!("{missing} of {} nodes did not answer", layout.nodes().len()));
        }
        let storage = layout.storage_nodes().count();
        // Between its admission and the next plan a newcomer has nothing, and nothing moves.
        let unplaced = layout.storage_nodes().any(|(node, _)| layout.is_empty(node));
        if storage < 3 {
            notes.push(match storage {
                2 => "not yet fault tolerant: add a third node (atoll ticket create)".into(),
                _ => "one machine keeps everything: add two for fault tolerance (atoll ticket create)"
                    .to_string(),
            });
        }
        notes.extend(inner.standing.doubt());
        notes.extend(inner.witness.complaint().map(|complaint| format!("{complaint}: atoll audit verify")));
        notes.extend(inner.warnings.borrow().iter().filter_map(warning_note));
        let health = if leaderless > 0 {
            "unavailable"
        } else if missing > 0 {
            "degraded"
        } else if !layout.is_settled() || unplaced || moves.copies_missing > 0 {
            "moving"
        } else {
            "healthy"
        };
        Ok(Status {
            cluster: inner.cluster.to_string(),
            seen_by: inner.me.to_string(),
            layout_version: layout.version(),
            cluster_version: info.map_or(0, |info| info.version),
            root_key: self.node.objects().root_key_id().map(|id| id.to_string()),
            health: health.into(),
            notes,
            nodes,
            shards,
            moves,
        })
    }

    async fn create_ticket(&self, request: CreateTicketRequest) -> Result<CreatedTicket, AdminError> {
        let lifetime = Duration::from_secs(request.for_seconds);
        let out_of_range =
            |message: String| AdminError::new(AdminErrorKind::Invalid, "out_of_range", message);
        if !(1..=TICKET_USES_MAX).contains(&request.uses) {
            return Err(out_of_range(format!("uses are 1 to {TICKET_USES_MAX}")));
        }
        if lifetime.is_zero() || lifetime > TICKET_LIFETIME_MAX {
            return Err(out_of_range("a ticket is good for a second to 30 days".into()));
        }
        let (ticket, expires_millis) =
            self.node.create_ticket(request.uses, lifetime).await.map_err(|error| truths_error(&error))?;
        Ok(CreatedTicket { ticket: ticket.to_string(), uses: request.uses, expires_millis })
    }

    async fn drain_node(&self, node: &str) -> Result<(), AdminError> {
        let node = self.find(node)?;
        self.edit(|layout| layout.drain(&node).map(Some)).await.map(|_| ())
    }

    async fn undrain_node(&self, node: &str) -> Result<(), AdminError> {
        let node = self.find(node)?;
        self.edit(|layout| layout.undrain(&node).map(Some)).await.map(|_| ())
    }

    async fn remove_node(&self, node: &str, force: bool) -> Result<(), AdminError> {
        let node = self.find(node)?;
        self.edit(|layout| layout.remove(&node, force).map(Some)).await.map(|_| ())
    }

    async fn kv_get(&self, key: &str) -> Result<KvRecord, AdminError> {
        self.kv.get(key).await
    }

    async fn kv_put(&self, request: KvPutRequest) -> Result<KvWritten, AdminError> {
        self.kv.put(request).await
    }

    async fn kv_delete(&self, request: KvDeleteRequest) -> Result<KvWritten, AdminError> {
        self.kv.delete(request).await
    }

    async fn kv_list(&self, request: KvListRequest) -> Result<KvPage, AdminError> {
        self.kv.list(request).await
    }

    async fn kv_watch(
        &self,
        request: KvWatchRequest,
    ) -> Result<BoxStream<'static, Result<KvEvent, AdminError>>, AdminError> {
        self.kv.watch(request).await
    }

    async fn acquire_lock(&self, request: LockRequest) -> Result<LockAnswer, AdminError> {
        self.kv.acquire(request).await
    }

    async fn keep_lock(&self, request: LeaseRequest) -> Result<LockAnswer, AdminError> {
        self.kv.keep(request).await
    }

    async fn release_lock(&self, request: LeaseRequest) -> Result<(), AdminError> {
        self.kv.release(request).await
    }

    async fn settings(&self) -> Result<ClusterSettings, AdminError> {
        let layout = self.node.layout();
        let settings = layout.settings();
        let pairs = [
            ("copies", settings.copies.to_string()),
            ("data_shards", settings.data_shards.to_string()),
            ("overlay", kind_of(&layout).to_string()),
        ];
        Ok(ClusterSettings {
            settings: pairs.into_iter().map(|(name, value)| (name.into(), value)).collect(),
        })
    }

    async fn set_setting(&self, name: &str, value: &str) -> Result<(), AdminError> {
        match name {
            "copies" => {
                let invalid =
                    || AdminError::new(AdminErrorKind::Invalid, "out_of_range", "copies are a small number");
                let copies: u8 = value.parse().map_err(|_| invalid())?;
                self.edit(|layout| layout.with_copies(copies)).await.map(|_| ())
            }
            "overlay" => self.set_overlay(value).await,
            "data_shards" => Err(AdminError::new(
                AdminErrorKind::Conflict,
                "fixed_setting",
                "data_shards is fixed when the cluster is created",
            )),
            _ => {
                let message = format!("there is no setting {name:?}");
                Err(AdminError::new(AdminErrorKind::NotFound, "no_such_setting", message)
                    .hint("atoll cluster settings shows them"))
            }
        }
    }

    async fn audit_witness(&self) -> Result<AuditWitness, AdminError> {
        Ok(AuditWitness::from(&self.node.inner.witness.statement()))
    }

    async fn audit_witnesses(&self) -> Result<AuditWitnesses, AdminError> {
        let inner = &self.node.inner;
        let layout = self.node.layout();
        let asked = layout.nodes().keys().map(|node| async {
            match *node == inner.me {
                true => (*node, Some(inner.witness.statement())),
                false => (*node, ask_witness(inner.transport.as_ref(), *node).await),
            }
        });
        let mut answer = AuditWitnesses { witnesses: Vec::new(), silent: Vec::new() };
        for (node, statement) in join_all(asked).await {
            match statement {
                Some(statement) => answer.witnesses.push(AuditWitness::from(&statement)),
                None => answer.silent.push(node.to_string()),
            }
        }
        Ok(answer)
    }

    async fn overlay_show(&self) -> Result<OverlayView, AdminError> {
        self.overlay().show().await
    }

    async fn overlay_trace(&self, key: &str) -> Result<OverlayTrace, AdminError> {
        self.overlay().trace(key).await
    }

    async fn overlay_put(&self, request: OverlayPutRequest) -> Result<OverlayStored, AdminError> {
        self.overlay().put(request).await
    }

    async fn overlay_get(&self, key: &str) -> Result<OverlayValues, AdminError> {
        self.overlay().get(key).await
    }

    async fn overlay_provide(&self, name: &str) -> Result<OverlayStored, AdminError> {
        self.overlay().provide(name).await
    }

    async fn overlay_stop_providing(&self, name: &str) -> Result<OverlayStopped, AdminError> {
        self.overlay().stop_providing(name).await
    }

    async fn overlay_providers(&self, name: &str) -> Result<OverlayProviders, AdminError> {
        self.overlay().providers(name).await
    }

    async fn overlay_search(&self, words: &str) -> Result<OverlayHits, AdminError> {
        self.overlay().search(words).await
    }
}

fn liveness(view: &View, me: NodeId, node: &NodeId) -> &'static str {
    if *node == me {
        return "alive";
    }
    match view.get(node).map(|member| member.state) {
        Some(MemberState::Alive) => "alive",
        Some(MemberState::Suspect) => "suspect",
        Some(MemberState::Dead) => "dead",
        None => "unseen",
    }
}

fn move_status<'a>(layout: &Layout, reports: impl Iterator<Item = &'a NodeReport>) -> MoveStatus {
    let counts = layout.progress_counts();
    let mut moves = MoveStatus {
        slots_moving: [SlotProgress::Moving, SlotProgress::Retiring]
            .iter()
            .map(|progress| counts.get(progress).copied().unwrap_or_default() as u64)
            .sum(),
        shards_moving: layout.shards().values().filter(|placement| !placement.is_settled()).count() as u64,
        ..MoveStatus::default()
    };
    for report in reports {
        moves.copies_missing += report.copies_missing;
        moves.bytes_to_move += report.bytes_to_move;
        moves.bytes_per_second += report.bytes_per_second;
    }
    if moves.bytes_to_move > 0 && moves.bytes_per_second > 0 {
        moves.seconds_left = Some(moves.bytes_to_move.div_ceil(moves.bytes_per_second));
    }
    moves
}

/// What a planner's warning tells a person; `None` if `status` says it already.
fn warning_note(warning: &Warning) -> Option<String> {
    match warning {
        Warning::NotFaultTolerant { .. } => None,
        Warning::TooManyUnreachable { unreachable, storage_nodes } => Some(format!(
            "{unreachable} of {storage_nodes} storage nodes are out of reach: nobody is replaced until more are back"
        )),
        Warning::TooFewLeft { node } => {
            Some(format!("node {} is not replaced: too few others are left for all copies", node.short()))
        }
        Warning::OneZoneAtATime { node } => {
            Some(format!("node {} waits to be replaced: another zone's turn is first", node.short()))
        }
        Warning::ShardWithoutQuorum { shard } => {
            Some(format!("shard {shard} has lost a majority of its voters: see atoll recover --help"))
        }
        Warning::CopiesMissing { slots } => {
            Some(format!("{slots} slots have fewer copies than wanted, and nowhere to put more"))
        }
        Warning::DataMayBeLost { slots } => Some(format!(
            "so many holders of {slots} slots are lost that the last copy of something may be gone"
        )),
        Warning::WaitingForTheDead { slots } => Some(format!(
            "{slots} slots take no writes: most of their holders are dead; bring one back, or remove them by force"
        )),
        Warning::NowhereToPlace => Some("no storage node is left to place anything on".into()),
    }
}
