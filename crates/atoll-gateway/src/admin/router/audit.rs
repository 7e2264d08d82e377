//! Paths of the audit trail.

use axum::{Json, Router, extract::State, routing::get};

use super::{Answer, Doors, Params, api};
use crate::admin::AdminError;

pub fn routes() -> Router<Doors> {
    Router::new()
        .route("/audit", get(audit_page))
        .route("/audit/witness", get(audit_witness))
        .route("/audit/witnesses", get(audit_witnesses))
}

/// Of one page, unless fewer are asked for: what fits in an answer decides.
const LINKS_MAX: u32 = 1000;

/// The trail, link after link.
#[utoipa::path(get, path = "/v1/audit", params(api::AuditRequest),
    responses((status = 200, body = api::AuditPage)))]
pub async fn audit_page(
    State(doors): State<Doors>,
    Params(request): Params<api::AuditRequest>,
) -> Answer<api::AuditPage> {
    let limit = request.limit.unwrap_or(LINKS_MAX).min(LINKS_MAX);
    let page = doors.access.audit_page(request.after, limit, doors.access.deadline()).await;
    let (links, head) = page.map_err(|error| AdminError::from(atoll_access::ChangeError::from(error)))?;
    Ok(Json(api::AuditPage { links: links.iter().map(api::AuditLink::from).collect(), end: head.index }))
}

/// What this node has seen of the trail, signed by it.
#[utoipa::path(get, path = "/v1/audit/witness", responses((status = 200, body = api::AuditWitness)))]
pub async fn audit_witness(State(doors): State<Doors>) -> Answer<api::AuditWitness> {
    doors.admin.audit_witness().await.map(Json)
}

/// What each node has seen of it.
#[utoipa::path(get, path = "/v1/audit/witnesses", responses((status = 200, body = api::AuditWitnesses)))]
pub async fn audit_witnesses(State(doors): State<Doors>) -> Answer<api::AuditWitnesses> {
    doors.admin.audit_witnesses().await.map(Json)
}
