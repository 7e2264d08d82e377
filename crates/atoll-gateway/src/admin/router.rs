//! The admin API's paths. Everything under `/v1` asks for the token; `/health`, `/ready`
//! and the description do not, so that load balancers and browsers can look.

mod access;
mod audit;
mod overlay;
mod recovery;

use std::{convert::Infallible, sync::Arc};

use atoll_access::{Access, AdminToken, Decision, Facts, NotedRequest, Request as Asked};
use atoll_objects::Objects;
use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{DefaultBodyLimit, FromRequest, FromRequestParts, MatchedPath, Path, Query, Request, State},
    http::{Method, StatusCode, header, request::Parts},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::{get, post, put},
};
use futures_util::StreamExt;
use prometheus_client::registry::Registry;
use serde::{Deserialize, de::DeserializeOwned};
use utoipa::OpenApi;

use super::{Admin, AdminError, AdminErrorKind, api};
use crate::s3::ConnectionInfo;

/// A kv value of 512 KiB in JSON or base64, with room.
const REQUEST_BYTES_MAX: usize = 1 << 20;

#[derive(Clone)]
struct Doors {
    admin: Arc<dyn Admin>,
    access: Access,
    objects: Objects,
    metrics: Arc<Registry>,
}

/// The admin API over `admin`; `access` has users and keys and says which tokens sign in,
/// `objects` has the buckets, and `metrics` is what Prometheus gets to see.
pub fn router(admin: Arc<dyn Admin>, access: Access, objects: Objects, metrics: Registry) -> Router {
    let doors = Doors { admin, access, objects, metrics: Arc::new(metrics) };
    let signed_in = Router::new()
        .route("/status", get(status))
        .route("/tickets", post(create_ticket))
        .route("/nodes/{node}/drain", post(drain_node))
        .route("/nodes/{node}/undrain", post(undrain_node))
        .route("/nodes/{node}/remove", post(remove_node))
        .route("/kv", get(kv_list))
        .route("/kv/record", get(kv_get))
        .route("/kv/put", post(kv_put))
        .route("/kv/delete", post(kv_delete))
        .route("/kv/watch", get(kv_watch))
        .route("/locks/acquire", post(acquire_lock))
        .route("/locks/keep", post(keep_lock))
        .route("/locks/release", post(release_lock))
        .route("/settings", get(settings))
        .route("/settings/{name}", put(set_setting))
        .route("/overlay", get(overlay::overlay_show))
        .route("/overlay/trace", get(overlay::overlay_trace))
        .route("/overlay/values", get(overlay::overlay_get).post(overlay::overlay_put))
        .route("/overlay/providers", get(overlay::overlay_providers).post(overlay::overlay_provide))
        .route("/overlay/providers/stop", post(overlay::overlay_stop_providing))
        .route("/overlay/search", get(overlay::overlay_search))
        .merge(access::routes())
        .merge(audit::routes())
        .merge(recovery::routes())
        .layer(middleware::from_fn_with_state(doors.clone(), sign_in));
    Router::new()
        .nest("/v1", signed_in)
        .route("/health", get(|| async { "ok\n" }))
        .route("/ready", get(ready))
        .route("/metrics", get(show_metrics))
        .route("/openapi.json", get(|| async { Json(Description::openapi()) }))
        .fallback(|| async { AdminError::new(AdminErrorKind::NotFound, "no_such_path", "no such path") })
        .method_not_allowed_fallback(|| async {
            error_answer(
                StatusCode::METHOD_NOT_ALLOWED,
                "wrong_method",
                "this path has no such method".into(),
                None,
            )
        })
        .layer(DefaultBodyLimit::max(REQUEST_BYTES_MAX))
        .with_state(doors)
}

impl IntoResponse for AdminError {
    fn into_response(self) -> Response {
        let status = match self.kind {
            AdminErrorKind::Invalid => StatusCode::BAD_REQUEST,
            AdminErrorKind::NotFound => StatusCode::NOT_FOUND,
            AdminErrorKind::Conflict => StatusCode::CONFLICT,
            AdminErrorKind::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
            AdminErrorKind::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        error_answer(status, self.code, self.message, self.hint)
    }
}

fn error_answer(status: StatusCode, code: &str, message: String, hint: Option<String>) -> Response {
    let error = api::ErrorBody { code: code.into(), message, hint };
    (status, Json(api::ErrorAnswer { error })).into_response()
}

/// Whose bodies say whom an act is about, or what is to hold, and never a secret.
const TOLD: [&str; 6] = ["/v1/users", "/v1/keys", "/v1/buckets", "/v1/settings", "/v1/tickets", "/v1/nodes"];

/// What an act is about, for the audit trail: what the path names, for the route alone does not
/// say whom, and what the body says.
async fn told(request: Request, path: &str) -> Result<(Request, String), Response> {
    let uri = request.uri().path().to_owned();
    let named = if uri == path { String::new() } else { uri };
    if request.method() == Method::GET || !TOLD.iter().any(|told| path.starts_with(told)) {
        return Ok((request, named));
    }
    let (parts, body) = request.into_parts();
    let bytes = axum::body::to_bytes(body, REQUEST_BYTES_MAX).await.map_err(|error| {
        error_answer(StatusCode::BAD_REQUEST, "malformed_request", format!("the body: {error}"), None)
    })?;
    let said = serde_json::from_slice::<serde_json::Value>(&bytes).ok();
    let said = said.filter(|said| said.as_object().is_some_and(|fields| !fields.is_empty()));
    let both = [named, said.map(|said| said.to_string()).unwrap_or_default()];
    let about = both.into_iter().filter(|text| !text.is_empty()).collect::<Vec<_>>().join(" ");
    Ok((Request::from_parts(parts, Body::from(bytes)), about))
}

async fn sign_in(State(doors): State<Doors>, request: Request, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str).to_owned();
    let action = format!("admin:{} {path}", request.method());
    let uri = request.uri().path().to_owned();
    let peer = request.extensions().get::<ConnectionInfo>().map(|connection| connection.peer.ip());
    let from = Whence(peer.map(|peer| peer.to_canonical().to_string()).unwrap_or_default());
    let refused = |rule: &str| {
        doors.access.note_refused(NotedRequest {
            who: "anonymous".into(),
            what: action.clone(),
            on: uri.clone(),
            from: from.0.clone(),
            rule: rule.into(),
        });
    };
    let token = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.strip_prefix("Bearer "))
        .map(AdminToken::new);
    let Some(token) = token else {
        refused("no token");
        let message = "a token is needed: Authorization: Bearer …".to_string();
        return error_answer(StatusCode::UNAUTHORIZED, "token_missing", message, None);
    };
    match doors.access.sign_in(&token).await {
        Ok(Some(principal)) => {
            let (request, about) = match told(request, &path).await {
                Ok(told) => told,
                Err(answer) => return answer,
            };
            let about = Some(about.as_str()).filter(|about| !about.is_empty());
            let asked = Asked {
                principal: &principal,
                action: &action,
                bucket: None,
                key: about,
                facts: &from,
                object: None,
            };
            match doors.access.decide(&asked).await {
                Ok(Decision::Allowed { .. }) => next.run(request).await,
                Ok(Decision::Denied { rule }) => {
                    tracing::info!(?principal, action, rule, "denied");
                    let message = "this token may not do that".to_string();
                    error_answer(StatusCode::FORBIDDEN, "denied", message, None)
                }
                Err(error) => {
                    error_answer(StatusCode::SERVICE_UNAVAILABLE, "unavailable", error.to_string(), None)
                }
            }
        }
        Ok(None) => {
            refused("unknown token");
            let hint =
                "the token is in the data folder of every node that runs: give that folder with --data";
            let message = "the token is not known to this cluster".to_string();
            error_answer(StatusCode::UNAUTHORIZED, "token_unknown", message, Some(hint.into()))
        }
        Err(error) => error_answer(StatusCode::SERVICE_UNAVAILABLE, "unavailable", error.to_string(), None),
    }
}

/// No rule of the admin API has conditions; the trail wants to know from where.
struct Whence(String);

impl Facts for Whence {
    fn values(&self, key: &str) -> Option<Vec<String>> {
        (key == "aws:sourceip").then(|| vec![self.0.clone()])
    }
}

/// A JSON body; anything else gets our own error shape.
struct Input<T>(T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Input<T> {
    type Rejection = AdminError;

    async fn from_request(request: Request, state: &S) -> Result<Self, AdminError> {
        let invalid =
            |message: String| AdminError::new(AdminErrorKind::Invalid, "malformed_request", message);
        let bytes =
            Bytes::from_request(request, state).await.map_err(|rejection| invalid(rejection.body_text()))?;
        let bytes = if bytes.is_empty() { &b"{}"[..] } else { &bytes[..] };
        serde_json::from_slice(bytes).map(Input).map_err(|error| invalid(format!("the body: {error}")))
    }
}

/// A query; anything else gets our own error shape, too.
struct Params<T>(T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = AdminError;

    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, AdminError> {
        Query::try_from_uri(&parts.uri).map(|Query(params)| Params(params)).map_err(|rejection| {
            AdminError::new(AdminErrorKind::Invalid, "malformed_request", rejection.body_text())
        })
    }
}

type Answer<T> = Result<Json<T>, AdminError>;

fn done(outcome: Result<(), AdminError>) -> Answer<api::Done> {
    outcome.map(|()| Json(api::Done {}))
}

/// Whether this node can serve clients now.
#[utoipa::path(get, path = "/ready", responses((status = 200), (status = 503)))]
async fn ready(State(doors): State<Doors>) -> (StatusCode, &'static str) {
    if doors.admin.is_ready().await {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not ready\n")
    }
}

/// This node's counters, as Prometheus text.
#[utoipa::path(get, path = "/metrics", responses((status = 200, body = String)))]
async fn show_metrics(State(doors): State<Doors>) -> Response {
    let mut text = String::new();
    match prometheus_client::encoding::text::encode(&mut text, &doors.metrics) {
        Ok(()) => ([(header::CONTENT_TYPE, METRICS_TYPE)], text).into_response(),
        Err(error) => AdminError::new(AdminErrorKind::Internal, "metrics", error.to_string()).into_response(),
    }
}

const METRICS_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The cluster as this node sees it.
#[utoipa::path(get, path = "/v1/status", responses((status = 200, body = api::Status)))]
async fn status(State(doors): State<Doors>) -> Answer<api::Status> {
    doors.admin.status().await.map(Json)
}

/// A ticket with which new nodes join.
#[utoipa::path(post, path = "/v1/tickets", request_body = api::CreateTicketRequest,
    responses((status = 200, body = api::CreatedTicket)))]
async fn create_ticket(
    State(doors): State<Doors>,
    Input(request): Input<api::CreateTicketRequest>,
) -> Answer<api::CreatedTicket> {
    doors.admin.create_ticket(request).await.map(Json)
}

/// Move everything away from a node; it serves meanwhile.
#[utoipa::path(post, path = "/v1/nodes/{node}/drain", params(("node" = String, Path)),
    responses((status = 200, body = api::Done)))]
async fn drain_node(State(doors): State<Doors>, Path(node): Path<String>) -> Answer<api::Done> {
    done(doors.admin.drain_node(&node).await)
}

/// Let a draining node stay after all.
#[utoipa::path(post, path = "/v1/nodes/{node}/undrain", params(("node" = String, Path)),
    responses((status = 200, body = api::Done)))]
async fn undrain_node(State(doors): State<Doors>, Path(node): Path<String>) -> Answer<api::Done> {
    done(doors.admin.undrain_node(&node).await)
}

/// Refuse a node's key for good. Without force it must be empty.
#[utoipa::path(post, path = "/v1/nodes/{node}/remove", params(("node" = String, Path)),
    request_body = api::RemoveNodeRequest, responses((status = 200, body = api::Done)))]
async fn remove_node(
    State(doors): State<Doors>,
    Path(node): Path<String>,
    Input(request): Input<api::RemoveNodeRequest>,
) -> Answer<api::Done> {
    done(doors.admin.remove_node(&node, request.force).await)
}

/// The keys with a prefix, in order, a page at a time.
#[utoipa::path(get, path = "/v1/kv", params(api::KvListRequest), responses((status = 200, body = api::KvPage)))]
async fn kv_list(
    State(doors): State<Doors>,
    Params(request): Params<api::KvListRequest>,
) -> Answer<api::KvPage> {
    doors.admin.kv_list(request).await.map(Json)
}

#[derive(Deserialize)]
struct KeyOnly {
    key: String,
}

/// One key's value, by a linearizable read.
#[utoipa::path(get, path = "/v1/kv/record", params(("key" = String, Query)),
    responses((status = 200, body = api::KvRecord), (status = 404, body = api::ErrorAnswer)))]
async fn kv_get(State(doors): State<Doors>, Params(request): Params<KeyOnly>) -> Answer<api::KvRecord> {
    doors.admin.kv_get(&request.key).await.map(Json)
}

/// Write one key, if the conditions hold.
#[utoipa::path(post, path = "/v1/kv/put", request_body = api::KvPutRequest,
    responses((status = 200, body = api::KvWritten), (status = 409, body = api::ErrorAnswer)))]
async fn kv_put(
    State(doors): State<Doors>,
    Input(request): Input<api::KvPutRequest>,
) -> Answer<api::KvWritten> {
    doors.admin.kv_put(request).await.map(Json)
}

/// Delete one key, if the conditions hold.
#[utoipa::path(post, path = "/v1/kv/delete", request_body = api::KvDeleteRequest,
    responses((status = 200, body = api::KvWritten), (status = 409, body = api::ErrorAnswer)))]
async fn kv_delete(
    State(doors): State<Doors>,
    Input(request): Input<api::KvDeleteRequest>,
) -> Answer<api::KvWritten> {
    doors.admin.kv_delete(request).await.map(Json)
}

/// Changes to keys with a prefix, one JSON object a line, until the client goes. A last
/// line with `error` says why the watch ended.
#[utoipa::path(get, path = "/v1/kv/watch", params(api::KvWatchRequest),
    responses((status = 200, body = api::KvEvent, content_type = "application/x-ndjson")))]
async fn kv_watch(
    State(doors): State<Doors>,
    Params(request): Params<api::KvWatchRequest>,
) -> Result<Response, AdminError> {
    let events = doors.admin.kv_watch(request).await?;
    let lines = events.map(|event| {
        let line = match event {
            Ok(event) => serde_json::to_vec(&event),
            Err(error) => serde_json::to_vec(&api::ErrorAnswer {
                error: api::ErrorBody { code: error.code.into(), message: error.message, hint: error.hint },
            }),
        };
        let mut line = line.expect("our own types are JSON");
        line.push(b'\n');
        Ok::<_, Infallible>(Bytes::from(line))
    });
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], Body::from_stream(lines)).into_response())
}

/// Take a lock, if nobody holds it.
#[utoipa::path(post, path = "/v1/locks/acquire", request_body = api::LockRequest,
    responses((status = 200, body = api::LockAnswer)))]
async fn acquire_lock(
    State(doors): State<Doors>,
    Input(request): Input<api::LockRequest>,
) -> Answer<api::LockAnswer> {
    doors.admin.acquire_lock(request).await.map(Json)
}

/// Show a sign of life, so that the lock is kept.
#[utoipa::path(post, path = "/v1/locks/keep", request_body = api::LeaseRequest,
    responses((status = 200, body = api::LockAnswer), (status = 409, body = api::ErrorAnswer)))]
async fn keep_lock(
    State(doors): State<Doors>,
    Input(request): Input<api::LeaseRequest>,
) -> Answer<api::LockAnswer> {
    doors.admin.keep_lock(request).await.map(Json)
}

/// Give a lock back.
#[utoipa::path(post, path = "/v1/locks/release", request_body = api::LeaseRequest,
    responses((status = 200, body = api::Done)))]
async fn release_lock(
    State(doors): State<Doors>,
    Input(request): Input<api::LeaseRequest>,
) -> Answer<api::Done> {
    done(doors.admin.release_lock(request).await)
}

/// What the whole cluster agrees on.
#[utoipa::path(get, path = "/v1/settings", responses((status = 200, body = api::ClusterSettings)))]
async fn settings(State(doors): State<Doors>) -> Answer<api::ClusterSettings> {
    doors.admin.settings().await.map(Json)
}

#[derive(Deserialize)]
struct ValueOnly {
    value: String,
}

/// Change one setting.
#[utoipa::path(put, path = "/v1/settings/{name}", params(("name" = String, Path)),
    responses((status = 200, body = api::Done), (status = 400, body = api::ErrorAnswer)))]
async fn set_setting(
    State(doors): State<Doors>,
    Path(name): Path<String>,
    Input(request): Input<ValueOnly>,
) -> Answer<api::Done> {
    done(doors.admin.set_setting(&name, &request.value).await)
}

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Atoll admin API",
        description = "What the CLI and the console use; there is no other door."
    ),
    paths(
        ready,
        status,
        create_ticket,
        drain_node,
        undrain_node,
        remove_node,
        kv_list,
        kv_get,
        kv_put,
        kv_delete,
        kv_watch,
        acquire_lock,
        keep_lock,
        release_lock,
        settings,
        set_setting,
        audit::audit_page,
        audit::audit_witness,
        audit::audit_witnesses,
        access::list_users,
        access::create_user,
        access::delete_user,
        access::grant_user,
        access::revoke_user,
        access::list_keys,
        access::create_key,
        access::delete_key,
        access::grant_key,
        access::revoke_key,
        access::limit_key,
        access::list_buckets,
        access::create_bucket,
        access::delete_bucket,
        access::grant_bucket,
        access::revoke_bucket,
        overlay::overlay_show,
        overlay::overlay_trace,
        overlay::overlay_put,
        overlay::overlay_get,
        overlay::overlay_provide,
        overlay::overlay_stop_providing,
        overlay::overlay_providers,
        overlay::overlay_search,
        recovery::begin_snapshots,
        recovery::list_snapshots,
        recovery::read_chunk,
        recovery::bring_chunk,
        recovery::restore_user,
        recovery::begin_restore,
        recovery::import_records,
        recovery::finish_restore
    )
)]
struct Description;
