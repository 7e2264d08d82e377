//! The overlay's paths.

use axum::{Json, extract::State};

use super::{Answer, Doors, Params, api};

/// The overlay as this node sees it.
#[utoipa::path(get, path = "/v1/overlay", responses((status = 200, body = api::OverlayView)))]
pub async fn overlay_show(State(doors): State<Doors>) -> Answer<api::OverlayView> {
    doors.admin.overlay_show().await.map(Json)
}

/// Who is responsible for a key, and who was asked on the way.
#[utoipa::path(get, path = "/v1/overlay/trace", params(api::OverlayKey),
    responses((status = 200, body = api::OverlayTrace), (status = 503, body = api::ErrorAnswer)))]
pub async fn overlay_trace(
    State(doors): State<Doors>,
    Params(request): Params<api::OverlayKey>,
) -> Answer<api::OverlayTrace> {
    doors.admin.overlay_trace(&request.key).await.map(Json)
}
