//! The overlay's paths.

use axum::{Json, extract::State};

use super::{Answer, Doors, Input, Params, api};

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

/// Store a value, signed by this node, until it expires.
#[utoipa::path(post, path = "/v1/overlay/values", request_body = api::OverlayPutRequest,
    responses((status = 200, body = api::OverlayStored), (status = 503, body = api::ErrorAnswer)))]
pub async fn overlay_put(
    State(doors): State<Doors>,
    Input(request): Input<api::OverlayPutRequest>,
) -> Answer<api::OverlayStored> {
    doors.admin.overlay_put(request).await.map(Json)
}

/// The values under a key.
#[utoipa::path(get, path = "/v1/overlay/values", params(api::OverlayKey),
    responses((status = 200, body = api::OverlayValues), (status = 404, body = api::ErrorAnswer)))]
pub async fn overlay_get(
    State(doors): State<Doors>,
    Params(request): Params<api::OverlayKey>,
) -> Answer<api::OverlayValues> {
    doors.admin.overlay_get(&request.key).await.map(Json)
}

/// Let others find out that this node has something, until it stops or is told to.
#[utoipa::path(post, path = "/v1/overlay/providers", request_body = api::OverlayProvideRequest,
    responses((status = 200, body = api::OverlayStored)))]
pub async fn overlay_provide(
    State(doors): State<Doors>,
    Input(request): Input<api::OverlayProvideRequest>,
) -> Answer<api::OverlayStored> {
    doors.admin.overlay_provide(&request.name).await.map(Json)
}

/// No longer renew it; what others know of it expires.
#[utoipa::path(post, path = "/v1/overlay/providers/stop", request_body = api::OverlayProvideRequest,
    responses((status = 200, body = api::OverlayStopped)))]
pub async fn overlay_stop_providing(
    State(doors): State<Doors>,
    Input(request): Input<api::OverlayProvideRequest>,
) -> Answer<api::OverlayStopped> {
    doors.admin.overlay_stop_providing(&request.name).await.map(Json)
}

/// Who has the content of this name.
#[utoipa::path(get, path = "/v1/overlay/providers", params(api::OverlayKey),
    responses((status = 200, body = api::OverlayProviders)))]
pub async fn overlay_providers(
    State(doors): State<Doors>,
    Params(request): Params<api::OverlayKey>,
) -> Answer<api::OverlayProviders> {
    doors.admin.overlay_providers(&request.key).await.map(Json)
}

/// What is provided under a name with all these words.
#[utoipa::path(get, path = "/v1/overlay/search", params(api::OverlayWords),
    responses((status = 200, body = api::OverlayHits)))]
pub async fn overlay_search(
    State(doors): State<Doors>,
    Params(request): Params<api::OverlayWords>,
) -> Answer<api::OverlayHits> {
    doors.admin.overlay_search(&request.words).await.map(Json)
}
