//! The CLI's side of the admin API: the only door it has.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use atoll_gateway::admin::api::ErrorAnswer;
use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Serialize, de::DeserializeOwned};

use crate::{
    dev::token_file,
    failure::{Failure, Fault},
};

/// How a command finds its node, and signs in.
#[derive(Debug, Clone, clap::Args)]
pub struct AdminArgs {
    /// The node's admin API. [env: ATOLL_ADMIN] [default: http://127.0.0.1:9001]
    #[arg(long, global = true, value_name = "URL")]
    pub admin: Option<String>,
    /// The node's data folder, where `up` left the token (unless ATOLL_TOKEN is set).
    #[arg(long, global = true, value_name = "FOLDER")]
    pub data: Option<PathBuf>,
}

const ADMIN_DEFAULT: &str = "http://127.0.0.1:9001";
/// A command waits through an election (5 s at the gateway) and says so then.
const ANSWER_TIME: Duration = Duration::from_secs(30);
/// Status of 300 nodes and 64 shards is far below; a runaway answer is not read on.
const ANSWER_BYTES_MAX: usize = 64 << 20;

pub struct AdminClient {
    http: Client<HttpConnector, Full<Bytes>>,
    url: String,
    token: Option<String>,
    token_file: Option<PathBuf>,
}

impl AdminClient {
    pub fn new(url: &str, token: Option<String>, data: Option<&Path>) -> Self {
        let file = data.map(token_file);
        let token = token.or_else(|| {
            let text = std::fs::read_to_string(file.as_ref()?).ok()?;
            Some(text.trim().to_string())
        });
        let url = if url.contains("://") { url.to_string() } else { format!("http://{url}") };
        Self {
            http: Client::builder(TokioExecutor::new()).build_http(),
            url: url.trim_end_matches('/').to_string(),
            token,
            token_file: file,
        }
    }

    pub fn from_args(args: &AdminArgs) -> Self {
        let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let url = args.admin.clone().or_else(|| variable("ATOLL_ADMIN")).unwrap_or(ADMIN_DEFAULT.into());
        let data = args
            .data
            .clone()
            .or_else(|| variable("ATOLL_DATA").map(PathBuf::from))
            .or_else(|| atoll_node::settings::home_data(variable).map(|folder| folder.join("atoll")));
        Self::new(&url, variable("ATOLL_TOKEN"), data.as_deref())
    }

    pub async fn is_ready(&self) -> bool {
        let sent = self.send(Method::GET, "/ready", None).await;
        sent.is_ok_and(|response| response.status() == StatusCode::OK)
    }

    pub async fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Failure> {
        self.ask(Method::GET, path, None).await
    }

    pub async fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Failure> {
        self.ask(Method::POST, path, Some(serde_json::to_vec(body).expect("our own types are JSON"))).await
    }

    pub async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<T, Failure> {
        let response = self.open(method, path, body).await?;
        let bytes = self.whole(response).await?;
        serde_json::from_slice(&bytes).map_err(|error| {
            Failure::new(
                Fault::Internal,
                format!("{}{path} gave an answer this program does not know", self.url),
            )
            .caused_by(&error)
            .hint("is the node of another version? compare `atoll --version` and `atoll status`")
        })
    }

    /// The same for an answer that is no JSON.
    pub async fn bytes(&self, method: Method, path: &str, body: Option<Vec<u8>>) -> Result<Bytes, Failure> {
        let response = self.open(method, path, body).await?;
        self.whole(response).await
    }

    /// Sends, and turns an error answer into a failure; the body is still to be read.
    pub async fn open(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<http::Response<Incoming>, Failure> {
        let response = match tokio::time::timeout(ANSWER_TIME, self.send(method, path, body)).await {
            Ok(Ok(response)) => response,
            Ok(Err(error)) => {
                return Err(Failure::new(Fault::Unavailable, format!("no node answers at {}", self.url))
                    .caused_by(&error)
                    .hint("start one with `atoll up`, or name another with --admin URL or ATOLL_ADMIN"));
            }
            Err(_) => {
                return Err(Failure::new(
                    Fault::Unavailable,
                    format!("{} did not answer within {ANSWER_TIME:?}", self.url),
                ));
            }
        };
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        if status == StatusCode::UNAUTHORIZED {
            let failure =
                Failure::new(Fault::Configuration, format!("{} does not accept this token", self.url));
            return Err(match &self.token_file {
                Some(file) => failure.hint(format!(
                    "`atoll up` left it in {} on its machine: name that folder with --data, or set ATOLL_TOKEN",
                    file.display()
                )),
                None => failure.hint("set ATOLL_TOKEN, or name the node's data folder with --data"),
            });
        }
        let fault = match status {
            StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT => Fault::Unavailable,
            status if status.is_client_error() => Fault::Request,
            _ => Fault::Internal,
        };
        let bytes = self.whole(response).await?;
        match serde_json::from_slice::<ErrorAnswer>(&bytes) {
            Ok(ErrorAnswer { error }) => {
                let failure = Failure::new(fault, format!("{} ({})", error.message, error.code));
                Err(match error.hint {
                    Some(hint) => failure.hint(hint),
                    None => failure,
                })
            }
            Err(_) => Err(Failure::new(fault, format!("{}{path} answered {status}", self.url))),
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<Vec<u8>>,
    ) -> Result<http::Response<Incoming>, hyper_util::client::legacy::Error> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.url));
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        if body.is_some() {
            request = request.header(header::CONTENT_TYPE, "application/json");
        }
        let request = request.body(Full::from(body.unwrap_or_default()));
        // An address that is no URI fails like one where nobody listens.
        let request = request.unwrap_or_else(|_| Request::new(Full::default()));
        self.http.request(request).await
    }

    async fn whole(&self, response: http::Response<Incoming>) -> Result<Bytes, Failure> {
        let body = http_body_util::Limited::new(response.into_body(), ANSWER_BYTES_MAX);
        let collected = tokio::time::timeout(ANSWER_TIME, body.collect()).await;
        match collected {
            Ok(Ok(collected)) => Ok(collected.to_bytes()),
            Ok(Err(error)) => Err(Failure::new(
                Fault::Unavailable,
                format!("the answer of {} broke off: {error}", self.url),
            )),
            Err(_) => {
                Err(Failure::new(Fault::Unavailable, format!("the answer of {} did not end", self.url)))
            }
        }
    }
}

/// Everything but what RFC 3986 leaves unreserved.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// One segment of a path.
pub fn path_segment(text: &str) -> String {
    utf8_percent_encode(text, RESERVED).to_string()
}

/// A path with parameters.
pub fn query(path: &str, parameters: &[(&str, &str)]) -> String {
    let pairs: Vec<String> = parameters
        .iter()
        .map(|(name, value)| format!("{name}={}", utf8_percent_encode(value, RESERVED)))
        .collect();
    format!("{path}?{}", pairs.join("&"))
}
