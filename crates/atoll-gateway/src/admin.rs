//! The admin API: JSON over HTTP, behind a token. The CLI and the console have no other
//! door. Decides nothing: every answer comes from [`Admin`], which the node implements.

pub mod api;
mod router;

pub use crate::serve::serve_admin;
pub use router::router;

use async_trait::async_trait;
use futures_util::stream::BoxStream;

use api::{
    AuditWitness, AuditWitnesses, ClusterSettings, CreateTicketRequest, CreatedTicket, KvDeleteRequest,
    KvEvent, KvListRequest, KvPage, KvPutRequest, KvRecord, KvWatchRequest, KvWritten, LeaseRequest,
    LockAnswer, LockRequest, OverlayHits, OverlayProviders, OverlayPutRequest, OverlayStopped, OverlayStored,
    OverlayTrace, OverlayValues, OverlayView, Status,
};

/// Why an administrative request failed. The code is stable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct AdminError {
    pub kind: AdminErrorKind,
    pub code: &'static str,
    pub message: String,
    pub hint: Option<String>,
}

/// Whose fault it is, and so which status it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdminErrorKind {
    /// 400: malformed or out of range.
    Invalid,
    /// 404
    NotFound,
    /// 409: the state does not allow it, or a condition failed. Nothing changed.
    Conflict,
    /// 503: no quorum right now. A write's outcome may be unknown.
    Unavailable,
    /// 500: ours.
    Internal,
}

impl AdminError {
    pub fn new(kind: AdminErrorKind, code: &'static str, message: impl Into<String>) -> Self {
        Self { kind, code, message: message.into(), hint: None }
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// What the node does for the admin API.
#[async_trait]
pub trait Admin: Send + Sync + 'static {
    /// Whether this node answers clients: it has a layout, and shard 0 has a leader that
    /// it can reach.
    async fn is_ready(&self) -> bool;
    async fn status(&self) -> Result<Status, AdminError>;
    async fn create_ticket(&self, request: CreateTicketRequest) -> Result<CreatedTicket, AdminError>;
    /// `node` is an id or a unique beginning of one, here and below.
    async fn drain_node(&self, node: &str) -> Result<(), AdminError>;
    async fn undrain_node(&self, node: &str) -> Result<(), AdminError>;
    async fn remove_node(&self, node: &str, force: bool) -> Result<(), AdminError>;
    async fn kv_get(&self, key: &str) -> Result<KvRecord, AdminError>;
    async fn kv_put(&self, request: KvPutRequest) -> Result<KvWritten, AdminError>;
    async fn kv_delete(&self, request: KvDeleteRequest) -> Result<KvWritten, AdminError>;
    async fn kv_list(&self, request: KvListRequest) -> Result<KvPage, AdminError>;
    async fn kv_watch(
        &self,
        request: KvWatchRequest,
    ) -> Result<BoxStream<'static, Result<KvEvent, AdminError>>, AdminError>;
    async fn acquire_lock(&self, request: LockRequest) -> Result<LockAnswer, AdminError>;
    async fn keep_lock(&self, request: LeaseRequest) -> Result<LockAnswer, AdminError>;
    async fn release_lock(&self, request: LeaseRequest) -> Result<(), AdminError>;
    async fn settings(&self) -> Result<ClusterSettings, AdminError>;
    async fn set_setting(&self, name: &str, value: &str) -> Result<(), AdminError>;
    /// What this node has seen of the audit trail.
    async fn audit_witness(&self) -> Result<AuditWitness, AdminError>;
    /// What each node has.
    async fn audit_witnesses(&self) -> Result<AuditWitnesses, AdminError>;
    async fn overlay_show(&self) -> Result<OverlayView, AdminError>;
    async fn overlay_trace(&self, key: &str) -> Result<OverlayTrace, AdminError>;
    async fn overlay_put(&self, request: OverlayPutRequest) -> Result<OverlayStored, AdminError>;
    async fn overlay_get(&self, key: &str) -> Result<OverlayValues, AdminError>;
    async fn overlay_provide(&self, name: &str) -> Result<OverlayStored, AdminError>;
    async fn overlay_stop_providing(&self, name: &str) -> Result<OverlayStopped, AdminError>;
    async fn overlay_providers(&self, name: &str) -> Result<OverlayProviders, AdminError>;
    async fn overlay_search(&self, words: &str) -> Result<OverlayHits, AdminError>;
}
