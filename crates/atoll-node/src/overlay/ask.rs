//! What the admin API asks of the overlay.

use std::{fmt::Display, sync::atomic::Ordering, time::Duration};

use atoll_gateway::admin::{
    AdminError, AdminErrorKind,
    api::{
        OverlayFrames, OverlayHit, OverlayHits, OverlayProvider, OverlayProviders, OverlayPutRequest,
        OverlayRow, OverlayStep, OverlayStopped, OverlayStored, OverlayTable, OverlayTrace, OverlayValue,
        OverlayValues, OverlayView,
    },
};
use atoll_overlay::{Answer, Body, Contact, ContentError, Entry, Finished, Id, LocateError, Offered};
use atoll_runtime::Runtime;
use atoll_types::NodeId;

use super::{AskError, Counters, NodeContact, Operation, Overlays};

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
            entries_kept: shown.kept.entries as u64,
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

    pub async fn put(&self, request: OverlayPutRequest) -> Result<OverlayStored, AdminError> {
        let value = match (request.value, request.value_base64) {
            (Some(text), None) => text.into_bytes(),
            (None, Some(base64)) => data_encoding::BASE64.decode(base64.as_bytes()).map_err(|error| {
                AdminError::new(AdminErrorKind::Invalid, "malformed_value", format!("value_base64: {error}"))
            })?,
            _ => {
                let message = "give either value or value_base64";
                return Err(AdminError::new(AdminErrorKind::Invalid, "malformed_value", message));
            }
        };
        let lifetime = Duration::from_secs(request.for_seconds);
        let key = Id::of(request.key.as_bytes());
        let finished = self.operate(Operation::Store { key, value, lifetime }).await?;
        Ok(OverlayStored { key: request.key, identifier: key.to_string(), kept_by: names(&finished.1) })
    }

    pub async fn get(&self, key: &str) -> Result<OverlayValues, AdminError> {
        let id = Id::of(key.as_bytes());
        let (answer, by) = self.operate(Operation::Fetch { key: id }).await?;
        let values: Vec<OverlayValue> = entries(answer).into_iter().filter_map(value).collect();
        if values.is_empty() {
            let message = format!("there is no value under {key:?}");
            return Err(AdminError::new(AdminErrorKind::NotFound, "no_such_value", message)
                .hint("it may have expired: atoll overlay put stores it again"));
        }
        let (identifier, told_by) = (id.to_string(), names(&by));
        Ok(OverlayValues { key: key.into(), identifier, values, told_by })
    }

    pub async fn provide(&self, name: &str) -> Result<OverlayStored, AdminError> {
        let content = Id::of(name.as_bytes());
        let offered = Offered { content, name: name.into() };
        let (_, by) = self.operate(Operation::Provide(offered)).await?;
        Ok(OverlayStored { key: name.into(), identifier: content.to_string(), kept_by: names(&by) })
    }

    pub async fn stop_providing(&self, name: &str) -> Result<OverlayStopped, AdminError> {
        let content = Id::of(name.as_bytes());
        let was_provided = self.in_time(self.overlays()?.stop_providing(content)).await?;
        Ok(OverlayStopped { was_provided })
    }

    pub async fn providers(&self, name: &str) -> Result<OverlayProviders, AdminError> {
        let content = Id::of(name.as_bytes());
        let (answer, _) = self.operate(Operation::Providers { content }).await?;
        let provider = |entry: Entry| OverlayProvider {
            node: entry.author.to_string(),
            expires_millis: entry.expires.as_millis(),
        };
        let providers = entries(answer).into_iter().map(provider).collect();
        Ok(OverlayProviders { name: name.into(), identifier: content.to_string(), providers })
    }

    pub async fn search(&self, words: &str) -> Result<OverlayHits, AdminError> {
        let (answer, _) = self.operate(Operation::Search { words: words.into() }).await?;
        let hit = |entry: Entry| match entry.body {
            Body::Posting { content, name } => Some(OverlayHit {
                name,
                identifier: content.to_string(),
                provider: entry.author.to_string(),
                expires_millis: entry.expires.as_millis(),
            }),
            Body::Value(_) | Body::Provider => None,
        };
        Ok(OverlayHits { hits: entries(answer).into_iter().filter_map(hit).collect() })
    }

    /// What came of it, and who keeps it or told.
    async fn operate(&self, operation: Operation) -> Result<(Answer, Vec<NodeContact>), AdminError> {
        let Finished { outcome, by, .. } = self.in_time(self.overlays()?.operate(operation)).await?;
        Ok((outcome.map_err(|error| content_error(&error))?, by))
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

fn names(contacts: &[NodeContact]) -> Vec<String> {
    contacts.iter().map(|contact| contact.node.to_string()).collect()
}

fn entries(answer: Answer) -> Vec<Entry> {
    match answer {
        Answer::Stored => Vec::new(),
        Answer::Values(entries) | Answer::Providers(entries) | Answer::Hits(entries) => entries,
    }
}

fn value(entry: Entry) -> Option<OverlayValue> {
    let Body::Value(bytes) = entry.body else { return None };
    let (value, value_base64) = match String::from_utf8(bytes) {
        Ok(text) => (Some(text), None),
        Err(error) => (None, Some(data_encoding::BASE64.encode(error.as_bytes()))),
    };
    Some(OverlayValue {
        value,
        value_base64,
        author: entry.author.to_string(),
        sequence: entry.sequence,
        expires_millis: entry.expires.as_millis(),
    })
}

fn ask_error(error: AskError) -> AdminError {
    match error {
        AskError::Content(error) => content_error(&error),
        AskError::Refused(LocateError::NotOffered) => not_offered(error.to_string()),
        AskError::Gone | AskError::Refused(_) => unavailable("overlay_unavailable", &error),
    }
}

fn not_offered(message: String) -> AdminError {
    AdminError::new(AdminErrorKind::Conflict, "not_offered", message)
        .hint("another kind may: atoll cluster set overlay KIND")
}

fn content_error(error: &ContentError) -> AdminError {
    // The cause is what a person needs.
    let message = match std::error::Error::source(error) {
        Some(cause) => format!("{error}: {cause}"),
        None => error.to_string(),
    };
    match error {
        ContentError::NotOffered { .. } => not_offered(message),
        ContentError::Unsound(_) | ContentError::NoKeyword => {
            AdminError::new(AdminErrorKind::Invalid, "out_of_range", message)
        }
        ContentError::Refused(_) => AdminError::new(AdminErrorKind::Conflict, "not_kept", message),
        ContentError::TooMany { .. }
        | ContentError::NotLocated(_)
        | ContentError::NotFound(_)
        | ContentError::Silent
        | ContentError::Left => unavailable("overlay_unavailable", &message),
    }
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
