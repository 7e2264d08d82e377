//! One S3 store, ours or another's, behind one or several endpoints. Requests are signed in
//! the query (the payload is not), so that the client's hashing is not measured.

mod clean;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderName, Method, Request, StatusCode, Uri, header};
use http_body_util::BodyExt;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rusty_s3::{
    Bucket, Credentials, S3Action, UrlStyle,
    actions::{CreateBucket, DeleteObject, GetObject, HeadBucket, HeadObject, ListObjectsV2, PutObject},
};

use super::body::{Content, Payload};
use crate::failure::{Failure, Fault, with_causes};

const PRESIGNED_FOR: Duration = Duration::from_secs(3600);
/// Without an answer for so long, and for what the request's bytes take at 1 MiB/s, it has failed;
/// so it has if the rest of an answer does not come.
const ANSWER_TIME: Duration = Duration::from_secs(60);
const BYTES_PER_SECOND_MIN: u64 = 1 << 20;

/// Why a request brought nothing.
#[derive(Debug)]
pub enum RequestError {
    /// A condition did not hold: asked for, and no error.
    Refused,
    Failed {
        /// S3's, or what stands for it where there is none.
        code: String,
        text: String,
    },
}

impl RequestError {
    pub fn failed(code: &str, text: impl ToString) -> Self {
        Self::Failed { code: code.to_owned(), text: text.to_string() }
    }
}

impl std::fmt::Display for RequestError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            RequestError::Refused => f.write_str("a condition did not hold"),
            RequestError::Failed { code, text } => write!(f, "{code}: {text}"),
        }
    }
}

impl std::error::Error for RequestError {}

/// A get that brought other bytes than were put.
pub const WRONG_BYTES: &str = "WrongBytes";
/// A listing that had fewer keys than there are, or more, or others, or that breaks off.
pub const WRONG_LISTING: &str = "WrongListing";
/// A second put succeeded under a condition that the first had made false.
pub const CONDITION_IGNORED: &str = "ConditionIgnored";
/// What makes all figures of a store worthless, those of its warm-up too.
pub const LIES: [&str; 3] = [WRONG_BYTES, WRONG_LISTING, CONDITION_IGNORED];

/// Certificates are read only if an endpoint needs them: machines without any can be measured.
enum Http {
    Plain(Client<HttpConnector, Payload>),
    Tls(Client<HttpsConnector<HttpConnector>, Payload>),
}

impl Http {
    fn new(tls: bool) -> Result<Self, Failure> {
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        let mut builder = Client::builder(TokioExecutor::new());
        builder.pool_max_idle_per_host(usize::MAX);
        if !tls {
            return Ok(Self::Plain(builder.build(connector)));
        }
        connector.enforce_http(false);
        let roots = HttpsConnectorBuilder::new().with_native_roots().map_err(|error| {
            Failure::new(Fault::Configuration, "this machine's root certificates can't be read")
                .caused_by(&error)
                .hint("name a file of them with SSL_CERT_FILE")
        })?;
        Ok(Self::Tls(builder.build(roots.https_or_http().enable_http1().wrap_connector(connector))))
    }
}

struct Answer {
    status: StatusCode,
    bytes: u64,
    etag: Option<String>,
}

pub struct Store {
    http: Http,
    /// The same at each endpoint.
    buckets: Vec<Bucket>,
    credentials: Credentials,
    /// Before every key of this run.
    prefix: String,
    /// The bucket is this run's, and goes with it.
    ours: bool,
    /// Something of this run may be there: set before the first request, cleared by its refusal
    /// and when all is taken away.
    used: AtomicBool,
}

/// What a store is found and signed in with.
pub struct StorePlace<'a> {
    pub endpoints: &'a [String],
    pub access_key: &'a str,
    pub secret_key: &'a str,
    pub region: &'a str,
    pub bucket: &'a str,
    /// The bucket is the user's: this run keeps to keys with this prefix.
    pub prefix: Option<&'a str>,
}

impl Store {
    pub fn new(place: &StorePlace) -> Result<Self, Failure> {
        let mut buckets = Vec::new();
        for endpoint in place.endpoints {
            let bad = |error: &dyn std::error::Error| {
                Failure::new(Fault::Configuration, format!("{endpoint:?} is not an S3 endpoint"))
                    .caused_by(error)
                    .hint("one looks like http://127.0.0.1:9000")
            };
            let url = endpoint.parse().map_err(|error| bad(&error))?;
            let bucket = Bucket::new(url, UrlStyle::Path, place.bucket.to_owned(), place.region.to_owned());
            buckets.push(bucket.map_err(|error| bad(&error))?);
        }
        let tls = place.endpoints.iter().any(|endpoint| endpoint.starts_with("https://"));
        Ok(Self {
            http: Http::new(tls)?,
            buckets,
            credentials: Credentials::new(place.access_key, place.secret_key),
            prefix: place.prefix.map(|prefix| format!("{prefix}/")).unwrap_or_default(),
            ours: place.prefix.is_none(),
            used: AtomicBool::new(false),
        })
    }

    pub fn endpoints(&self) -> usize {
        self.buckets.len()
    }

    pub fn bucket_name(&self) -> &str {
        self.buckets[0].name()
    }

    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Where what this run makes is, as users name it.
    pub fn place(&self) -> String {
        format!("s3://{}/{}", self.bucket_name(), self.prefix)
    }

    /// Whether something of this run may be there.
    pub fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    /// Makes the bucket, if it is to be this run's, and asks every endpoint for it.
    pub async fn open(&self) -> Result<(), Failure> {
        let failure = |what: String, error: RequestError| {
            Failure::new(Fault::Unavailable, what)
                .caused_by(&error)
                .hint("is the endpoint right (--endpoint), and the keys (--access-key, --secret-key)?")
        };
        if self.ours {
            self.used.store(true, Ordering::Relaxed);
            let action = CreateBucket::new(&self.buckets[0], &self.credentials);
            let (url, body) = (action.sign(PRESIGNED_FOR), Bytes::from(action.body()));
            let made = self.send(Method::PUT, url.as_str(), &[], Payload::Bytes(body), &mut |_| true).await;
            made.map_err(|error| {
                self.used.store(false, Ordering::Relaxed);
                failure(format!("the bucket {} can't be made", self.bucket_name()), error)
            })?;
        }
        for bucket in &self.buckets {
            let url = HeadBucket::new(bucket, Some(&self.credentials)).sign(PRESIGNED_FOR);
            let asked = self.send(Method::HEAD, url.as_str(), &[], Payload::empty(), &mut |_| true).await;
            asked.map_err(|error| {
                let origin = url.origin().ascii_serialization();
                failure(format!("{origin} does not show the bucket {}", bucket.name()), error)
            })?;
        }
        self.used.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Gives the ETag, if the answer has one: what only serves files may have none.
    pub async fn put(
        &self,
        endpoint: usize,
        key: &str,
        content: Content,
        condition: Option<(HeaderName, &str)>,
    ) -> Result<Option<String>, RequestError> {
        let mut action = PutObject::new(&self.buckets[endpoint], Some(&self.credentials), key);
        if let Some((name, value)) = &condition {
            action.headers_mut().insert(name.as_str().to_owned(), *value);
        }
        let url = action.sign(PRESIGNED_FOR);
        let answer =
            self.send(Method::PUT, url.as_str(), condition.as_slice(), content.into(), &mut |_| true).await?;
        Ok(answer.etag)
    }

    /// The whole object, or `range` bytes from an offset, each byte compared with `content`.
    pub async fn get(
        &self,
        endpoint: usize,
        key: &str,
        content: &Content,
        (offset, bytes): (u64, u64),
        whole: bool,
    ) -> Result<(), RequestError> {
        let url = GetObject::new(&self.buckets[endpoint], Some(&self.credentials), key).sign(PRESIGNED_FOR);
        let range = format!("bytes={offset}-{}", offset + bytes.max(1) - 1);
        let headers = [(header::RANGE, range.as_str())];
        let mut at = offset;
        let mut same = |data: &[u8]| {
            let same = content.has(at, data);
            at += data.len() as u64;
            same
        };
        let headers = if whole { &headers[..0] } else { &headers[..] };
        let answer = self.send(Method::GET, url.as_str(), headers, Payload::empty(), &mut same).await?;
        let expected = if whole { StatusCode::OK } else { StatusCode::PARTIAL_CONTENT };
        if answer.status != expected || answer.bytes != bytes {
            let text = format!("{} with {} bytes of {key}, not {bytes}", answer.status, answer.bytes);
            return Err(RequestError::failed(WRONG_BYTES, text));
        }
        Ok(())
    }

    pub async fn delete(&self, endpoint: usize, key: &str) -> Result<(), RequestError> {
        let url =
            DeleteObject::new(&self.buckets[endpoint], Some(&self.credentials), key).sign(PRESIGNED_FOR);
        self.send(Method::DELETE, url.as_str(), &[], Payload::empty(), &mut |_| true).await.map(|_| ())
    }

    pub async fn etag(&self, endpoint: usize, key: &str) -> Result<String, RequestError> {
        let url = HeadObject::new(&self.buckets[endpoint], Some(&self.credentials), key).sign(PRESIGNED_FOR);
        let answer = self.send(Method::HEAD, url.as_str(), &[], Payload::empty(), &mut |_| true).await?;
        answer.etag.ok_or_else(|| RequestError::failed("NoETag", "a head was answered without one"))
    }

    /// How many keys a page had, and where the next begins.
    pub async fn list(
        &self,
        endpoint: usize,
        prefix: &str,
        token: Option<&str>,
    ) -> Result<(u64, Option<String>), RequestError> {
        let text = self.page(endpoint, prefix, token).await?;
        // Counted, not parsed: the client's XML parser is not what is measured.
        let keys = text.matches("<Key>").count() as u64;
        Ok((keys, next_page(&text)?))
    }

    async fn page(&self, endpoint: usize, prefix: &str, token: Option<&str>) -> Result<String, RequestError> {
        let mut action = ListObjectsV2::new(&self.buckets[endpoint], Some(&self.credentials));
        action.with_prefix(prefix);
        if let Some(token) = token {
            action.with_continuation_token(token);
        }
        let url = action.sign(PRESIGNED_FOR);
        let mut text = Vec::new();
        let mut keep = |data: &[u8]| {
            text.extend_from_slice(data);
            true
        };
        self.send(Method::GET, url.as_str(), &[], Payload::empty(), &mut keep).await?;
        String::from_utf8(text).map_err(|error| RequestError::failed("NotText", error))
    }

    /// `take` sees a good answer's body piece by piece, and says whether it is as expected.
    async fn send(
        &self,
        method: Method,
        url: &str,
        headers: &[(HeaderName, &str)],
        payload: Payload,
        take: &mut (dyn FnMut(&[u8]) -> bool + Send),
    ) -> Result<Answer, RequestError> {
        let conditional =
            headers.iter().any(|(name, _)| [header::IF_MATCH, header::IF_NONE_MATCH].contains(name));
        let mut request = Request::builder().method(method).uri(url);
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let request = request.body(payload).map_err(|error| RequestError::failed("BadRequest", error))?;
        let bytes = hyper::body::Body::size_hint(request.body()).exact().unwrap_or_default();
        let patience = ANSWER_TIME + Duration::from_secs(bytes / BYTES_PER_SECOND_MIN);
        let late = |_| RequestError::failed("NoAnswer", format!("nothing came within {patience:?}"));
        let lost = |error: &dyn std::error::Error| RequestError::failed("ConnectionLost", with_causes(error));
        let response = match &self.http {
            Http::Plain(client) => client.request(request),
            Http::Tls(client) => client.request(request),
        };
        let response = tokio::time::timeout(patience, response).await.map_err(late)?;
        let response = response.map_err(|error| lost(&error))?;
        let status = response.status();
        let etag = response.headers().get(header::ETAG).and_then(|etag| etag.to_str().ok());
        let etag = etag.map(str::to_owned);
        let mut body = response.into_body();
        let (mut bytes, mut refusal) = (0, Vec::new());
        while let Some(frame) = tokio::time::timeout(patience, body.frame()).await.map_err(late)? {
            let frame = frame.map_err(|error| lost(&error))?;
            let Some(data) = frame.data_ref() else { continue };
            bytes += data.len() as u64;
            if !status.is_success() {
                refusal.extend_from_slice(data);
            } else if !take(data) {
                let text = format!("other bytes than were put, among the {bytes} first of the answer");
                return Err(RequestError::failed(WRONG_BYTES, text));
            }
        }
        match status {
            _ if status.is_success() => Ok(Answer { status, bytes, etag }),
            // AWS answers 409 where two conditional writes meet.
            StatusCode::PRECONDITION_FAILED | StatusCode::CONFLICT if conditional => {
                Err(RequestError::Refused)
            }
            _ => {
                let text = String::from_utf8_lossy(&refusal);
                let code = between(&text, "<Code>", "</Code>");
                let code = code.map_or_else(|| format!("HTTP{}", status.as_u16()), str::to_owned);
                Err(RequestError::Failed { code, text: format!("{status} {}", text.trim()) })
            }
        }
    }
}

fn between<'a>(text: &'a str, begin: &str, end: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(begin)?;
    rest.split_once(end).map(|(inner, _)| inner)
}

/// Where a listing goes on. A page that is not cut short may carry a token, which leads nowhere,
/// or an empty one.
fn next_page(text: &str) -> Result<Option<String>, RequestError> {
    let truncated = between(text, "<IsTruncated>", "</IsTruncated>");
    let token = between(text, "<NextContinuationToken>", "</NextContinuationToken>");
    match (truncated, token.filter(|token| !token.is_empty())) {
        (Some("false"), _) | (None, None) => Ok(None),
        (_, Some(token)) => Ok(Some(token.to_owned())),
        (_, None) => Err(RequestError::failed(WRONG_LISTING, "a page is cut short and has no next")),
    }
}

/// Whether it is a URL of a store, as far as one can see.
pub fn is_endpoint(text: &str) -> bool {
    text.parse::<Uri>().is_ok_and(|uri| {
        matches!(uri.scheme_str(), Some("http" | "https"))
            && uri.host().is_some_and(|host| !host.is_empty())
            && uri.query().is_none()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_goes_on_only_if_it_says_that_it_is_cut_short() {
        let page = |truncated: &str, token: &str| {
            next_page(&format!("<Key>k</Key>{truncated}{token}")).map_err(|error| error.to_string())
        };
        let (yes, no) = ("<IsTruncated>true</IsTruncated>", "<IsTruncated>false</IsTruncated>");
        let token = "<NextContinuationToken>t</NextContinuationToken>";
        let empty = "<NextContinuationToken></NextContinuationToken>";
        assert_eq!(page(yes, token), Ok(Some("t".to_owned())));
        assert_eq!(page("", token), Ok(Some("t".to_owned())));
        for (truncated, token) in [(no, token), (no, empty), (no, ""), ("", empty), ("", "")] {
            assert_eq!(page(truncated, token), Ok(None), "{truncated} {token}");
        }
        for token in [empty, "", "<NextContinuationToken/>"] {
            let refused = page(yes, token).expect_err("there is no next page");
            assert!(refused.starts_with(WRONG_LISTING), "{refused}");
        }
    }
}
