//! Records, locks and watches, through the admin API.

use std::time::Duration;

use atoll_gateway::admin::api::{
    ErrorAnswer, KvCondition, KvDeleteRequest, KvEvent, KvPage, KvPutRequest, KvRecord, KvWritten,
    LeaseRequest, LockAnswer, LockRequest, Status,
};
use atoll_simulation::{
    linearizability::{register::Value, transactions::Transaction},
    load::{Answer, Outcome, RecordChange},
};
use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full};
use serde::{Serialize, de::DeserializeOwned};

use super::{Door, Lost, done};
use crate::client::query;

/// How long a watch listens for news before it is taken that there is none.
const WATCH_TIME: Duration = Duration::from_millis(1500);

/// What the admin API said no to, by its code.
struct Refused(String);

impl Door {
    async fn admin<T: DeserializeOwned>(
        &self,
        path: &str,
        body: Option<&impl Serialize>,
    ) -> Result<Result<T, Refused>, Lost> {
        let request = self.admin_request(path, body)?;
        let reply = self.send(request).await?;
        if reply.status.is_server_error() {
            return Err(Lost::Unknown);
        }
        if reply.status.is_success() {
            return match serde_json::from_slice(&reply.body) {
                Ok(answer) => Ok(Ok(answer)),
                Err(_) => {
                    self.strange.note(format!("{path} was answered {}", reply.text()));
                    Err(Lost::Unknown)
                }
            };
        }
        match serde_json::from_slice::<ErrorAnswer>(&reply.body) {
            Ok(ErrorAnswer { error }) => Ok(Err(Refused(error.code))),
            Err(_) => {
                self.strange.note(format!("{path} was answered {} {}", reply.status, reply.text()));
                Err(Lost::Unknown)
            }
        }
    }

    fn admin_request(&self, path: &str, body: Option<&impl Serialize>) -> Result<Request<Full<Bytes>>, Lost> {
        let admin = self.admin.as_ref().ok_or(Lost::NotSent)?;
        let request = Request::builder()
            .method(if body.is_some() { Method::POST } else { Method::GET })
            .uri(format!("{}{path}", admin.url))
            .header(header::AUTHORIZATION, format!("Bearer {}", admin.token))
            .header(header::CONTENT_TYPE, "application/json");
        let body = body.map(|body| serde_json::to_vec(body).expect("our own types are JSON"));
        request.body(Full::from(body.unwrap_or_default())).map_err(|_| Lost::NotSent)
    }

    fn strange_code(&self, what: &str, Refused(code): &Refused) -> Outcome {
        self.strange.note(format!("{what} was refused: {code}"));
        Outcome::NotDone
    }

    /// One record, read or written.
    pub async fn transact(&self, transaction: Transaction) -> Result<Outcome, Lost> {
        let Transaction { reads, compares, writes } = transaction;
        match (reads.as_slice(), writes.as_slice()) {
            ([key], []) if compares.is_empty() => {
                let path = query("/v1/kv/record", &[("key", key)]);
                match self.admin::<KvRecord>(&path, None::<&()>).await? {
                    Ok(record) => Ok(transacted(true, vec![value_of(&record.value)], 0)),
                    Err(Refused(code)) if code == "no_such_key" => Ok(transacted(true, vec![None], 0)),
                    Err(refused) => Ok(self.strange_code("a read of a record", &refused)),
                }
            }
            ([], [(key, value)]) if compares.iter().all(|(compared, _)| compared == key) => {
                let mut condition = KvCondition::default();
                for (_, compared) in compares {
                    match compared {
                        Some(Value(value)) => condition.if_value = Some(value.to_string()),
                        None => condition.if_absent = true,
                    }
                }
                let written = match value {
                    Some(Value(value)) => {
                        let (key, value) = (key.clone(), Some(value.to_string()));
                        let put = KvPutRequest { key, value, value_base64: None, condition };
                        self.admin::<KvWritten>("/v1/kv/put", Some(&put)).await?
                    }
                    None => {
                        let delete = KvDeleteRequest { key: key.clone(), condition };
                        self.admin::<KvWritten>("/v1/kv/delete", Some(&delete)).await?
                    }
                };
                match written {
                    Ok(written) => Ok(transacted(true, Vec::new(), written.revision)),
                    Err(Refused(code)) if code == "condition_failed" => Ok(transacted(false, Vec::new(), 0)),
                    Err(refused) => Ok(self.strange_code("a write of a record", &refused)),
                }
            }
            // The admin API has no such transaction.
            _ => Err(Lost::NotSent),
        }
    }

    pub async fn acquire(&self, lock: String, owner: String, ttl: Duration) -> Result<Outcome, Lost> {
        let request = LockRequest { name: lock, owner, for_seconds: ttl.as_secs() };
        match self.admin::<LockAnswer>("/v1/locks/acquire", Some(&request)).await? {
            Ok(LockAnswer { acquired: true, lease: Some(lease), epoch, .. }) => {
                let Ok(lease) = lease.parse() else {
                    return Ok(self.strange_code("a lock", &Refused(format!("lease {lease}"))));
                };
                Ok(Outcome::Answered(Answer::Granted { lease, epoch }))
            }
            Ok(answer) => Ok(Outcome::Answered(Answer::Held { epoch: answer.epoch })),
            Err(refused) => Ok(self.strange_code("a lock", &refused)),
        }
    }

    pub async fn lease(&self, path: &str, lock: String, lease: u64) -> Result<Outcome, Lost> {
        let request = LeaseRequest { name: lock, lease: lease.to_string() };
        match self.admin::<serde_json::Value>(path, Some(&request)).await? {
            Ok(_) => Ok(done()),
            Err(Refused(code)) if code == "lease_gone" => Ok(Outcome::Answered(Answer::Gone)),
            Err(refused) => Ok(self.strange_code("a lease", &refused)),
        }
    }

    /// What comes within a moment. The stream does not say that nothing happened, so an
    /// answer goes as far as its last event.
    pub async fn watch(&self, prefix: &str, after: Option<u64>) -> Result<Outcome, Lost> {
        let changes = |from, upto, changes| Outcome::Answered(Answer::Changes { from, upto, changes });
        let Some(from) = after else {
            let path = query("/v1/kv", &[("prefix", prefix), ("limit", "1")]);
            return match self.admin::<KvPage>(&path, None::<&()>).await? {
                Ok(page) => Ok(changes(page.revision, page.revision, Vec::new())),
                Err(refused) => Ok(self.strange_code("a list of records", &refused)),
            };
        };
        let path = query("/v1/kv/watch", &[("prefix", prefix), ("after_revision", &from.to_string())]);
        let request = self.admin_request(&path, None::<&()>)?;
        let listening = self.http.request(request).await;
        let response =
            listening.map_err(|error| if error.is_connect() { Lost::NotSent } else { Lost::Unknown })?;
        let succeeded = response.status().is_success();
        let mut body = response.into_body();
        let mut text = Vec::new();
        let listen = async {
            while let Some(Ok(frame)) = body.frame().await {
                text.extend_from_slice(frame.data_ref().map_or(&[][..], |data| data));
            }
        };
        // That it goes on is its nature.
        let _ = tokio::time::timeout(WATCH_TIME, listen).await;
        if !succeeded {
            return Err(Lost::Unknown);
        }
        // A last line that is not whole comes again.
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let mut seen = Vec::new();
        for line in text[..whole].split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            match serde_json::from_slice::<KvEvent>(line) {
                Ok(event) => seen.push(RecordChange {
                    revision: event.revision,
                    key: event.key,
                    value: value_of(&event.value),
                }),
                Err(_) => match serde_json::from_slice::<ErrorAnswer>(line) {
                    Ok(ErrorAnswer { error }) if error.code == "compacted" => {
                        return Ok(Outcome::Answered(Answer::Compacted));
                    }
                    _ => return Err(Lost::Unknown),
                },
            }
        }
        let upto = seen.last().map_or(from, |last| last.revision);
        Ok(changes(from, upto, seen))
    }

    /// The cluster as this node sees it.
    pub async fn status(&self) -> Option<Status> {
        self.admin("/v1/status", None::<&()>).await.ok()?.ok()
    }
}

fn transacted(committed: bool, read: Vec<Option<Value>>, revision: u64) -> Outcome {
    Outcome::Answered(Answer::Transacted { committed, read, revision })
}

fn value_of(text: &Option<String>) -> Option<Value> {
    text.as_ref()?.parse().ok().map(Value)
}
