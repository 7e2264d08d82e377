//! The admin API over real HTTP: who gets in, and what errors look like. What its answers
//! say is the node's, and tested there.

use std::{net::SocketAddr, sync::Arc};

use crate::{
    client::{Answer, Connection, Request},
    world::Door,
};
use async_trait::async_trait;
use atoll_access::AdminToken;
use atoll_gateway::admin::{Admin, AdminError, AdminErrorKind, api::*, router, serve_admin};
use atoll_runtime::AbortOnDrop;
use futures_util::{
    StreamExt,
    stream::{self, BoxStream},
};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;

/// Answers what the tests expect to see again.
struct Fixed;

fn no() -> AdminError {
    AdminError::new(AdminErrorKind::Conflict, "no_way", "it can't be done").hint("try something else")
}

#[async_trait]
impl Admin for Fixed {
    async fn is_ready(&self) -> bool {
        false
    }

    async fn status(&self) -> Result<Status, AdminError> {
        Err(AdminError::new(AdminErrorKind::Unavailable, "no_quorum", "no quorum"))
    }

    async fn create_ticket(&self, request: CreateTicketRequest) -> Result<CreatedTicket, AdminError> {
        Ok(CreatedTicket { ticket: "T".into(), uses: request.uses, expires_millis: request.for_seconds })
    }

    async fn drain_node(&self, node: &str) -> Result<(), AdminError> {
        if node == "known" { Ok(()) } else { Err(no()) }
    }

    async fn undrain_node(&self, _node: &str) -> Result<(), AdminError> {
        Err(no())
    }

    async fn remove_node(&self, _node: &str, force: bool) -> Result<(), AdminError> {
        if force { Ok(()) } else { Err(no()) }
    }

    async fn kv_get(&self, key: &str) -> Result<KvRecord, AdminError> {
        Ok(KvRecord { key: key.into(), value: Some("v".into()), value_base64: None, revision: 7 })
    }

    async fn kv_put(&self, request: KvPutRequest) -> Result<KvWritten, AdminError> {
        Ok(KvWritten { revision: request.condition.if_revision.unwrap_or(1), existed: false })
    }

    async fn kv_delete(&self, _request: KvDeleteRequest) -> Result<KvWritten, AdminError> {
        Err(no())
    }

    async fn kv_list(&self, request: KvListRequest) -> Result<KvPage, AdminError> {
        Ok(KvPage { records: Vec::new(), revision: 1, next_after: Some(request.prefix) })
    }

    async fn kv_watch(
        &self,
        request: KvWatchRequest,
    ) -> Result<BoxStream<'static, Result<KvEvent, AdminError>>, AdminError> {
        let event = |revision| KvEvent {
            key: request.prefix.clone(),
            deleted: false,
            value: Some("v".into()),
            value_base64: None,
            revision,
        };
        Ok(stream::iter([Ok(event(1)), Ok(event(2)), Err(no())]).boxed())
    }

    async fn acquire_lock(&self, _request: LockRequest) -> Result<LockAnswer, AdminError> {
        Ok(LockAnswer { acquired: true, lease: Some("L".into()), epoch: 3, held_by: None })
    }

    async fn keep_lock(&self, _request: LeaseRequest) -> Result<LockAnswer, AdminError> {
        Err(no())
    }

    async fn release_lock(&self, _request: LeaseRequest) -> Result<(), AdminError> {
        Ok(())
    }

    async fn settings(&self) -> Result<ClusterSettings, AdminError> {
        Err(no())
    }

    async fn set_setting(&self, _name: &str, _value: &str) -> Result<(), AdminError> {
        Ok(())
    }

    async fn audit_witness(&self) -> Result<AuditWitness, AdminError> {
        Err(no())
    }

    async fn audit_witnesses(&self) -> Result<AuditWitnesses, AdminError> {
        Err(no())
    }

    async fn overlay_show(&self) -> Result<OverlayView, AdminError> {
        Err(no())
    }

    async fn overlay_trace(&self, key: &str) -> Result<OverlayTrace, AdminError> {
        Ok(OverlayTrace {
            seen_by: "n".into(),
            kind: "chord".into(),
            key: key.into(),
            identifier: "00".into(),
            steps: Vec::new(),
            responsible: Vec::new(),
            hops: 0,
            timeouts: 0,
            micros: 0,
        })
    }

    async fn overlay_put(&self, request: OverlayPutRequest) -> Result<OverlayStored, AdminError> {
        Ok(OverlayStored { key: request.key, identifier: "00".into(), kept_by: Vec::new() })
    }

    async fn overlay_get(&self, _key: &str) -> Result<OverlayValues, AdminError> {
        Err(no())
    }

    async fn overlay_provide(&self, _name: &str) -> Result<OverlayStored, AdminError> {
        Err(no())
    }

    async fn overlay_stop_providing(&self, _name: &str) -> Result<OverlayStopped, AdminError> {
        Ok(OverlayStopped { was_provided: false })
    }

    async fn overlay_providers(&self, _name: &str) -> Result<OverlayProviders, AdminError> {
        Err(no())
    }

    async fn overlay_search(&self, _words: &str) -> Result<OverlayHits, AdminError> {
        Ok(OverlayHits { hits: Vec::new() })
    }
}

struct AdminDoor {
    door: Door,
    address: SocketAddr,
    token: AdminToken,
    _server: AbortOnDrop,
}

impl AdminDoor {
    async fn open() -> Self {
        let door = Door::open().await;
        let token = AdminToken::generate(&mut door.runtime.rng());
        let deadline = door.runtime.now() + std::time::Duration::from_secs(20);
        door.access.register_token("node a", &token, deadline).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (access, objects) = (door.access.clone(), door.objects.clone());
        let router = router(Arc::new(Fixed), access, objects, Registry::default());
        let server = serve_admin(listener, router, door.runtime.clone(), std::future::pending());
        let _server = door.runtime.spawn_owned("admin door", server);
        Self { door, address, token, _server }
    }

    async fn ask(&self, token: Option<&str>, method: &'static str, target: &str, body: &str) -> Answer {
        let mut request = Request::new(method, target, body.as_bytes()).header("host", "atoll");
        if let Some(token) = token {
            request = request.header("authorization", &format!("Bearer {token}"));
        }
        let mut connection = Connection::open(self.address).await;
        connection.send(&request).await;
        connection.answer(method).await
    }

    async fn ask_as_operator(&self, method: &'static str, target: &str, body: &str) -> Answer {
        self.ask(Some(self.token.expose()), method, target, body).await
    }
}

#[tokio::test]
async fn only_a_known_token_opens_the_door_and_some_paths_need_none() {
    let admin = AdminDoor::open().await;
    for path in ["/v1/status", "/v1/kv", "/v1/settings"] {
        let none = admin.ask(None, "GET", path, "").await;
        assert_eq!(none.status, 401);
        assert!(none.text().contains("\"code\":\"token_missing\""), "{}", none.text());
        let wrong = admin.ask(Some("atoll_guess"), "GET", path, "").await;
        assert_eq!(wrong.status, 401);
        assert!(wrong.text().contains("\"code\":\"token_unknown\""), "{}", wrong.text());
    }
    assert_eq!(admin.ask(None, "GET", "/health", "").await.status, 200);
    assert_eq!(admin.ask(None, "GET", "/ready", "").await.status, 503);
    assert_eq!(admin.ask(None, "GET", "/metrics", "").await.status, 200);
    let description = admin.ask(None, "GET", "/openapi.json", "").await;
    assert!(description.text().contains("/v1/locks/acquire"));
    assert_eq!(admin.ask_as_operator("POST", "/v1/nodes/known/drain", "").await.text(), "{}");
}

#[tokio::test]
async fn a_token_of_another_node_signs_in_and_one_taken_away_does_not() {
    let admin = AdminDoor::open().await;
    let access = &admin.door.access;
    let deadline = admin.door.runtime.now() + std::time::Duration::from_secs(20);
    let other = AdminToken::generate(&mut admin.door.runtime.rng());
    // What another node would write; here it takes the place of this node's own as well.
    access.register_token("node b", &other, deadline).await.unwrap();
    access.set_local_token(AdminToken::new("this node's own"));
    assert_eq!(admin.ask(Some(other.expose()), "POST", "/v1/nodes/known/drain", "").await.status, 200);
    assert_eq!(admin.ask_as_operator("POST", "/v1/nodes/known/drain", "").await.status, 200);
    access.delete_token("node b", deadline).await.unwrap();
    while admin.ask(Some(other.expose()), "POST", "/v1/nodes/known/drain", "").await.status != 401 {
        assert!(admin.door.runtime.now() < deadline, "still accepted");
        admin.door.runtime.sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn every_error_has_a_stable_code_and_the_same_shape() {
    let admin = AdminDoor::open().await;
    let refused = admin.ask_as_operator("POST", "/v1/nodes/unknown/drain", "").await;
    assert_eq!(refused.status, 409);
    assert_eq!(
        refused.text(),
        r#"{"error":{"code":"no_way","message":"it can't be done","hint":"try something else"}}"#
    );
    let unavailable = admin.ask_as_operator("GET", "/v1/status", "").await;
    assert_eq!((unavailable.status, unavailable.text().contains("no_quorum")), (503, true));
    for (method, target, body, status, code) in [
        ("POST", "/v1/locks/acquire", "{", 400, "malformed_request"),
        ("POST", "/v1/locks/acquire", "{\"name\":7}", 400, "malformed_request"),
        ("GET", "/v1/kv?limit=many", "", 400, "malformed_request"),
        ("GET", "/v1/kv/record", "", 400, "malformed_request"),
        ("GET", "/v1/nothing", "", 404, "no_such_path"),
        ("DELETE", "/v1/status", "", 405, "wrong_method"),
    ] {
        let answer = admin.ask_as_operator(method, target, body).await;
        assert_eq!(answer.status, status, "{method} {target}: {}", answer.text());
        assert!(
            answer.text().contains(&format!("\"code\":\"{code}\"")),
            "{method} {target}: {}",
            answer.text()
        );
    }
}

#[tokio::test]
async fn defaults_names_and_events_come_through() {
    let admin = AdminDoor::open().await;
    let ticket = admin.ask_as_operator("POST", "/v1/tickets", "").await;
    assert_eq!(ticket.text(), r#"{"ticket":"T","uses":10,"expires_millis":3600}"#);
    let record = admin.ask_as_operator("GET", "/v1/kv/record?key=a%2Fb%20c", "").await;
    assert_eq!(record.text(), r#"{"key":"a/b c","value":"v","revision":7}"#);
    let put = admin.ask_as_operator("POST", "/v1/kv/put", r#"{"key":"k","value":"v","if_revision":5}"#).await;
    assert_eq!(put.text(), r#"{"revision":5,"existed":false}"#);
}
