//! What the admin API asks of the overlay.

use std::{fmt::Display, sync::atomic::Ordering, time::Duration};

use atoll_gateway::admin::{
    AdminError, AdminErrorKind,
    api::{OverlayFrames, OverlayRow, OverlayStep, OverlayTable, OverlayTrace, OverlayView},
};
use atoll_overlay::{Contact, Id};
use atoll_runtime::Runtime;
use atoll_types::NodeId;

use super::{AskError, Counters, NodeContact, Overlays};

/// A lookup past six silent nodes takes as long, and so does a change of the kind.
const ANSWER_TIME: Duration = Duration::from_secs(10);

/// One node's overlay, as its admin API shows it.
pub struct OverlayAdmin<'a> {
    pub runtime: &'a Runtime,
    pub me: NodeId,
    pub overlays: Option<&'a Overlays>,
}

impl OverlayAdmin<'_> {
    pub async fn show(&self) -> Result<OverlayView, AdminError> {
        let overlays = self.overlays()?;
        let shown = self.in_time(overlays.show()).await?;
        let row = |row: atoll_overlay::Row<NodeContact>| OverlayRow {
            place: row.place,
            node: row.contact.node.to_string(),
            identifier: row.contact.id().to_string(),
        };
        let tables = shown.tables.into_iter().map(|table| OverlayTable {
            name: table.name.into(),
            rows: table.rows.into_iter().map(row).collect(),
        });
        Ok(OverlayView {
            seen_by: self.me.to_string(),
            kind: shown.kind.to_string(),
            identifier: shown.me.id().to_string(),
            is_member: shown.is_member,
            tables: tables.collect(),
            state_bytes: shown.state_bytes as u64,
            frames: frames(overlays.counters()),
        })
    }

    pub async fn trace(&self, key: &str) -> Result<OverlayTrace, AdminError> {
        let overlays = self.overlays()?;
        let before = self.runtime.now();
        let kind = self.in_time(overlays.show()).await?.kind;
        let located = self.in_time(overlays.locate(Id::of(key.as_bytes()))).await?;
        let responsible = located.outcome.as_ref().map_err(|error| unavailable("lookup_failed", error))?;
        let step = |step: &atoll_overlay::Step<NodeContact>| OverlayStep {
            node: step.contact.node.to_string(),
            identifier: step.contact.id().to_string(),
            answered: step.answered,
        };
        Ok(OverlayTrace {
            seen_by: self.me.to_string(),
            kind: kind.to_string(),
            key: key.into(),
            identifier: located.key.to_string(),
            steps: located.path.iter().map(step).collect(),
            responsible: responsible.iter().map(|contact| contact.node.to_string()).collect(),
            hops: located.hops,
            timeouts: located.timeouts,
            micros: u64::try_from((self.runtime.now() - before).as_micros()).unwrap_or(u64::MAX),
        })
    }

    fn overlays(&self) -> Result<&Overlays, AdminError> {
        self.overlays.ok_or_else(|| ask_error(AskError::Gone))
    }

    async fn in_time<T>(&self, asked: impl Future<Output = Result<T, AskError>>) -> Result<T, AdminError> {
        match self.runtime.timeout(ANSWER_TIME, asked).await {
            Ok(answer) => answer.map_err(ask_error),
            Err(_) => Err(unavailable("overlay_slow", &format!("no answer within {ANSWER_TIME:?}"))),
        }
    }
}

fn ask_error(error: AskError) -> AdminError {
    unavailable("overlay_unavailable", &error)
}

fn unavailable(code: &'static str, error: &dyn Display) -> AdminError {
    AdminError::new(AdminErrorKind::Unavailable, code, error.to_string())
        .hint("atoll overlay show tells whether this node has joined")
}

fn frames(counters: &Counters) -> OverlayFrames {
    OverlayFrames {
        sent: counters.sent.load(Ordering::Relaxed),
        received: counters.received.load(Ordering::Relaxed),
        malformed: counters.malformed.load(Ordering::Relaxed),
        other_kind: counters.other_kind.load(Ordering::Relaxed),
        dropped: counters.dropped.load(Ordering::Relaxed),
    }
}
