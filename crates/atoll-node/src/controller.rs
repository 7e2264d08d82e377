//! The layout controller: on shard 0's leader, turns what nodes report and what the
//! membership sees into the next layout, and finishes the moves of the last one.
//!
//! It remembers nothing that it needs: reports come again every half second, so a new
//! leader knows in one round what the former knew.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    sync::{Arc, Mutex},
    time::Duration,
};

use atoll_membership::View;
use atoll_placement::{Layout, MoveReports, ObservedMember, PlanSettings, Reason, Warning, plan};
use atoll_records::Records;
use atoll_runtime::watch;
use atoll_types::{ByteSize, Instant, NodeId, ShardId, Slot};

use crate::{
    editor::LayoutEditor,
    replicas::leads,
    reports::{REPORT_EVERY, ReportBook},
    wire::NodeReport,
};

/// One round. Planning 4,096 slots takes milliseconds; see [`Rest`].
const ROUND_EVERY: Duration = REPORT_EVERY;
/// An edit that takes longer is begun again in a later round.
const EDIT_TIME: Duration = Duration::from_secs(10);
/// A report older than this says nothing of now: ten were missed.
const REPORT_AGE_MAX: Duration = Duration::from_secs(5);
const _: () = assert!(REPORT_AGE_MAX.as_millis() >= 10 * REPORT_EVERY.as_millis());

pub struct Controller {
    pub editor: LayoutEditor,
    pub records: Records,
    pub book: Arc<ReportBook>,
    pub view: watch::Receiver<Arc<View>>,
    pub settings: PlanSettings,
    pub program_version: u32,
    /// When this node began to look.
    pub started: Instant,
    /// What the last plan warned of, for `status`.
    pub warnings: watch::Sender<Vec<Warning>>,
    pub rest: Rest,
}

/// The last plan that changed nothing. The same layout and observations give the same plan,
/// so until one of them changes there is nothing to work out.
#[derive(Default)]
pub struct Rest(Mutex<Option<(u64, u64, Vec<ObservedMember>)>>);

impl Rest {
    fn lasts(&self, layout: &Layout, observed: &[ObservedMember]) -> bool {
        let rest = self.0.lock().expect("nobody panics with it");
        rest.as_ref().is_some_and(|(epoch, version, seen)| {
            (*epoch, *version) == (layout.epoch(), layout.version()) && seen == observed
        })
    }

    fn begin(&self, layout: &Layout, observed: Vec<ObservedMember>) {
        *self.0.lock().expect("nobody panics with it") = Some((layout.epoch(), layout.version(), observed));
    }

    fn end(&self) {
        *self.0.lock().expect("nobody panics with it") = None;
    }
}

impl Controller {
    pub async fn run(self) {
        let runtime = self.editor.truths.runtime.clone();
        let mut epoch_settled = false;
        loop {
            if leads(&self.records, ShardId::META).await {
                if !epoch_settled {
                    let deadline = runtime.now() + EDIT_TIME;
                    // Tried again in the next round.
                    epoch_settled = self.editor.settle_epoch(deadline).await.unwrap_or(false);
                } else {
                    self.round(runtime.now()).await;
                }
            } else {
                self.rest.end();
                self.warnings.send_if_modified(|warnings| !std::mem::take(warnings).is_empty());
            }
            runtime.sleep(ROUND_EVERY).await;
        }
    }

    async fn round(&self, now: Instant) {
        let mut reports = self.book.all();
        reports.retain(|_, (when, _)| now.saturating_since(*when) < REPORT_AGE_MAX);
        let reports: BTreeMap<NodeId, NodeReport> =
            reports.into_iter().map(|(node, (_, report))| (node, report)).collect();
        let edited =
            self.editor.edit(now + EDIT_TIME, |layout| Ok::<_, Infallible>(self.next(now, layout, &reports)));
        if let Err(error) = edited.await {
            // Leadership may have moved; whoever leads now does it.
            tracing::debug!(%error, "the layout was not changed");
        }
        self.raise_version(now, &reports).await;
    }

    /// The next layout, if there is something to change.
    fn next(&self, now: Instant, layout: &Layout, reports: &BTreeMap<NodeId, NodeReport>) -> Option<Layout> {
        let mut next: Option<Layout> = None;
        let shards: BTreeMap<_, _> =
            reports.values().flat_map(|report| report.shards_changed.iter().cloned()).collect();
        next = layout.shards_changed(&shards).or(next);
        let base = next.as_ref().unwrap_or(layout);
        let mut passes = MoveReports::default();
        for (node, report) in reports {
            passes.record(base, *node, &report.slots_moved);
        }
        next = base.slots_moved(&passes.finished(base)).or(next);
        for (node, report) in reports {
            let base = next.as_ref().unwrap_or(layout);
            next = base.slots_released(node, &report.slots_released).or(next);
        }
        let base = next.as_ref().unwrap_or(layout);
        let observed = self.observed(now, base, reports);
        if next.is_none() && self.rest.lasts(layout, &observed) {
            return None;
        }
        let planned = plan(base, &observed, &self.settings, |_: Slot| slot_bytes(base, reports));
        for reason in &planned.reasons {
            log_reason(reason);
        }
        self.warnings.send_if_modified(|warnings| {
            let changed = *warnings != planned.warnings;
            warnings.clone_from(&planned.warnings);
            changed
        });
        if planned.is_change(base) {
            tracing::info!(
                version = planned.next.version(),
                slots = planned.slot_moves.len(),
                shards = planned.shard_changes.len(),
                bytes = %planned.bytes_to_move,
                "a new layout"
            );
            next = Some(planned.next);
        } else if next.is_none() {
            self.rest.begin(layout, observed);
        }
        next
    }

    /// The layout's nodes as they are now: there if the membership sees them or they
    /// report, with what they said last.
    fn observed(
        &self,
        now: Instant,
        layout: &Layout,
        reports: &BTreeMap<NodeId, NodeReport>,
    ) -> Vec<ObservedMember> {
        let view = self.view.borrow().clone();
        let member = |(node, known): (&NodeId, &atoll_placement::LayoutNode)| {
            let report = reports.get(node);
            let unreachable_for = match (report, view.get(node)) {
                (Some(_), _) => None,
                // There and silent: it starts, or its report is on its way.
                (None, Some(member)) if member.is_reachable() => None,
                (None, Some(member)) => Some(now.saturating_since(member.since)),
                // Never seen since this process began: at least for so long.
                (None, None) => Some(now.saturating_since(self.started)),
            };
            ObservedMember {
                node: *node,
                zone: report.map_or_else(|| known.zone.clone(), |report| report.info.zone.clone()),
                capacity: report.map_or(known.capacity, |report| report.info.capacity),
                disk: report.map_or(known.disk, |report| report.info.disk),
                roles: report.map_or(known.roles, |report| report.info.roles),
                addresses: report
                    .map_or_else(|| known.addresses.clone(), |report| report.info.addresses.clone()),
                unreachable_for,
                lost_replicas: report
                    .map(|report| report.lost_replicas.iter().copied().collect())
                    .unwrap_or_default(),
            }
        };
        layout.nodes().iter().map(member).collect()
    }

    /// Rule 18: raised when every member supports it, and not before.
    async fn raise_version(&self, now: Instant, reports: &BTreeMap<NodeId, NodeReport>) {
        let layout = self.editor.follower.current();
        let all_reported = layout.nodes().keys().all(|node| reports.contains_key(node));
        let supported = reports.values().map(|report| report.info.program_version).min();
        let (true, Some(supported)) = (all_reported, supported) else { return };
        let deadline = now + EDIT_TIME;
        let Ok(info) = self.editor.truths.info(deadline).await else { return };
        let supported = supported.min(self.program_version);
        if supported > info.version {
            match self.editor.truths.raise_version(supported, deadline).await {
                Ok(_) => tracing::info!(version = supported, "the cluster's version is raised"),
                Err(error) => tracing::debug!(%error, "the cluster's version was not raised"),
            }
        }
    }
}

/// What one copy of a slot holds, about: hashes spread evenly.
fn slot_bytes(layout: &Layout, reports: &BTreeMap<NodeId, NodeReport>) -> ByteSize {
    let stored: u64 = reports.values().map(|report| report.stored.0).sum();
    let copies = (layout.storage_nodes().count() as u64).min(u64::from(layout.settings().copies)).max(1);
    ByteSize(stored / copies / Slot::COUNT as u64)
}

fn log_reason(reason: &Reason) {
    match reason {
        Reason::Joined { node } => tracing::info!(%node, "joined"),
        Reason::PropertiesChanged { node } => {
            tracing::info!(%node, "changed its zone, capacity, roles or addresses")
        }
        Reason::DiskReplaced { node } => {
            tracing::warn!(%node, "has another disk; what the former held is copied anew")
        }
        Reason::Returned { node } => tracing::info!(%node, "is back"),
        Reason::DeclaredDead { node, unreachable_for } => {
            tracing::warn!(%node, ?unreachable_for, "is given up; others take over what it held");
        }
        Reason::Forgotten { node } => tracing::info!(%node, "is gone from the layout"),
    }
}
