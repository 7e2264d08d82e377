//! Performs the clients' operations through a node's two doors, S3 and the admin API.
//!
//! What can't have reached the node was not done; what was sent and not answered, or
//! answered with a 5xx, is unknown. An answer that no client should get is kept: it counts
//! as found.

mod admin;
mod s3;

use std::sync::{Arc, Mutex};

use atoll_simulation::load::{Answer, Operation, Outcome, Target};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rusty_s3::{Bucket, Credentials};

/// Strange answers beyond these say nothing new.
const STRANGE_MAX: usize = 20;

/// Where the admin API is, and what it wants to see.
#[derive(Clone)]
pub struct AdminDoor {
    pub url: String,
    pub token: String,
}

/// One node, as its clients reach it.
pub struct Door {
    pub http: Client<HttpConnector, Full<Bytes>>,
    pub bucket: Bucket,
    pub credentials: Credentials,
    /// Without it, there are no records, locks and watches.
    pub admin: Option<AdminDoor>,
    pub strange: Strange,
}

/// Answers that no client of a sound system gets, such as a 400 or an unreadable page.
#[derive(Clone, Default)]
pub struct Strange(Arc<Mutex<Vec<String>>>);

impl Strange {
    fn note(&self, what: String) {
        let mut answers = self.0.lock().expect("nobody panics holding it");
        if answers.len() < STRANGE_MAX {
            answers.push(what);
        }
    }

    pub fn first(&self) -> Option<String> {
        self.0.lock().expect("nobody panics holding it").first().cloned()
    }
}

/// An answer, whole.
struct Reply {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
}

/// Why there is none.
pub enum Lost {
    NotSent,
    Unknown,
}

impl From<Lost> for Outcome {
    fn from(lost: Lost) -> Self {
        match lost {
            Lost::NotSent => Outcome::NotDone,
            Lost::Unknown => Outcome::Unknown,
        }
    }
}

pub fn http_client() -> Client<HttpConnector, Full<Bytes>> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new()).build(connector)
}

fn done() -> Outcome {
    Outcome::Answered(Answer::Done)
}

impl Target for Door {
    fn perform(self: Arc<Self>, operation: Operation) -> BoxFuture<'static, Outcome> {
        Box::pin(async move {
            let performed = match operation {
                Operation::Get { key, span } => self.get(&key, span).await,
                Operation::Put { key, value, condition, id } => self.put(&key, value, condition, id).await,
                Operation::Delete { key, condition, id } => self.delete(&key, condition, id).await,
                Operation::Copy { from, value, to, condition, id } => {
                    self.copy(&from, value, &to, condition, id).await
                }
                Operation::List { prefix, delimiter, after, limit } => {
                    self.list(prefix, delimiter, after, limit).await
                }
                Operation::CreateUpload { key, value } => self.create_upload(&key, value).await,
                Operation::UploadPart { key, upload, value, part } => {
                    self.upload_part(&key, &upload, value, part).await
                }
                Operation::CompleteUpload { key, upload, value, condition } => {
                    self.complete_upload(&key, &upload, value, condition).await
                }
                Operation::AbortUpload { key, upload } => self.abort_upload(&key, &upload).await,
                Operation::Transact { transaction, .. } => self.transact(transaction).await,
                Operation::Acquire { lock, owner, ttl, .. } => self.acquire(lock, owner, ttl).await,
                Operation::Keep { lock, lease } => self.lease("/v1/locks/keep", lock, lease).await,
                Operation::Release { lock, lease } => self.lease("/v1/locks/release", lock, lease).await,
                Operation::Watch { prefix, after } => self.watch(&prefix, after).await,
            };
            performed.unwrap_or_else(Outcome::from)
        })
    }
}

impl Door {
    async fn send(&self, request: Request<Full<Bytes>>) -> Result<Reply, Lost> {
        let response = self
            .http
            .request(request)
            .await
            .map_err(|error| if error.is_connect() { Lost::NotSent } else { Lost::Unknown })?;
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map_err(|_| Lost::Unknown)?.to_bytes();
        Ok(Reply { status: parts.status, headers: parts.headers, body })
    }
}
