//! An S3 client that can also lie: SigV4 by hand, so that a test can sign one thing and
//! send another, over HTTP by hand, so that nothing is mended on the way.

use std::{
    net::SocketAddr,
    time::{SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use data_encoding::{BASE64, HEXLOWER};
use http::{HeaderMap, HeaderName, HeaderValue};
use s3s::crypto::{Checksum, Sha256};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

const REGION: &str = "us-east-1";

pub fn sha256_hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(&Sha256::checksum(bytes))
}

/// RFC 2104.
fn hmac(key: &[u8], message: &[u8]) -> [u8; 32] {
    let mut block = [0; 64];
    block[..key.len()].copy_from_slice(key);
    let outer: Vec<u8> = block.iter().map(|byte| byte ^ 0x5c).collect();
    let inner: Vec<u8> = block.iter().map(|byte| byte ^ 0x36).collect();
    Sha256::checksum(&[outer, Sha256::checksum(&[&inner, message].concat()).to_vec()].concat())
}

/// `YYYYMMDDTHHMMSSZ`
fn amz_date(seconds: u64) -> String {
    let date = httpdate::fmt_http_date(UNIX_EPOCH + std::time::Duration::from_secs(seconds));
    // "Sun, 06 Nov 1994 08:49:37 GMT"
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = months.iter().position(|month| *month == &date[8..11]).unwrap() + 1;
    let (day, year, time) = (&date[5..7], &date[12..16], date[17..25].replace(':', ""));
    format!("{year}{month:02}{day}T{time}Z")
}

#[allow(clippy::disallowed_methods, reason = "the signature is checked against the real clock")]
pub fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The `Code` of an error.
    pub fn code(&self) -> String {
        let text = self.text();
        let start = text.find("<Code>").map_or(0, |at| at + 6);
        text[start..].split('<').next().unwrap_or_default().to_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// A request that is signed as given; what is changed afterwards is a forgery.
#[derive(Clone)]
pub struct Request {
    pub method: &'static str,
    /// Path and query as they go over the wire; the query sorted.
    pub target: String,
    pub headers: Vec<(String, String)>,
    /// What `x-amz-content-sha256` says; `None` for the body's own hash.
    pub payload: Option<&'static str>,
    pub body: Vec<u8>,
    pub signed_at: u64,
}

impl Request {
    pub fn new(method: &'static str, target: &str, body: &[u8]) -> Self {
        let signed_at = now_seconds();
        Self {
            method,
            target: target.into(),
            headers: Vec::new(),
            payload: None,
            body: body.to_vec(),
            signed_at,
        }
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub fn payload(mut self, payload: &'static str) -> Self {
        self.payload = Some(payload);
        self
    }
}

/// What chunk signatures are made with.
pub struct SigningKey {
    key: [u8; 32],
    date: String,
    scope: String,
    pub seed: String,
}

impl SigningKey {
    /// "Signature Calculations for the Authorization Header: Transferring Payload in
    /// Multiple Chunks", `AWS4-HMAC-SHA256-PAYLOAD`.
    pub fn chunk_signature(&self, previous: &str, chunk: &[u8]) -> String {
        let text = format!(
            "AWS4-HMAC-SHA256-PAYLOAD\n{}\n{}\n{previous}\n{}\n{}",
            self.date,
            self.scope,
            sha256_hex(b""),
            sha256_hex(chunk)
        );
        HEXLOWER.encode(&hmac(&self.key, text.as_bytes()))
    }

    /// "Signature calculations for trailing headers", over `name:value\n` for each of them.
    pub fn trailer_signature(&self, previous: &str, trailers: &str) -> String {
        let hash = sha256_hex(trailers.as_bytes());
        let text = format!("AWS4-HMAC-SHA256-TRAILER\n{}\n{}\n{previous}\n{hash}", self.date, self.scope);
        HEXLOWER.encode(&hmac(&self.key, text.as_bytes()))
    }
}

#[derive(Clone)]
pub struct Client {
    address: SocketAddr,
    access_key: String,
    secret_key: String,
}

impl Client {
    pub fn new(address: SocketAddr, access_key: &str, secret_key: &str) -> Self {
        Self { address, access_key: access_key.into(), secret_key: secret_key.into() }
    }

    /// Adds what SigV4 needs: date, payload hash, host and the signature over them all.
    pub fn sign(&self, request: &mut Request) -> SigningKey {
        let date = amz_date(request.signed_at);
        let day = &date[..8];
        let scope = format!("{day}/{REGION}/s3/aws4_request");
        let payload = request.payload.map_or_else(|| sha256_hex(&request.body), str::to_owned);
        request.headers.push(("host".into(), self.address.to_string()));
        request.headers.push(("x-amz-date".into(), date.clone()));
        request.headers.push(("x-amz-content-sha256".into(), payload.clone()));
        let mut headers = request.headers.clone();
        headers.sort();
        let canonical: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let names = headers.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(";");
        let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        let text = format!("{}\n{path}\n{query}\n{canonical}\n{names}\n{payload}", request.method);
        let text = format!("AWS4-HMAC-SHA256\n{date}\n{scope}\n{}", sha256_hex(text.as_bytes()));
        let key = self.signing_key(day);
        let seed = HEXLOWER.encode(&hmac(&key, text.as_bytes()));
        let credential = format!("{}/{scope}", self.access_key);
        request.headers.push((
            "authorization".into(),
            format!("AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={seed}"),
        ));
        SigningKey { key, date, scope, seed }
    }

    fn signing_key(&self, day: &str) -> [u8; 32] {
        let first = format!("AWS4{}", self.secret_key).into_bytes();
        let parts = [day, REGION, "s3", "aws4_request"];
        let key = parts.iter().fold(first, |key, part| hmac(&key, part.as_bytes()).to_vec());
        key.try_into().unwrap()
    }

    /// A form that uploads to `key` with a policy of this client's, up to its file's bytes, which
    /// end with [`FORM_END`].
    pub fn form_head(&self, bucket: &str, key: &str) -> String {
        let now = now_seconds();
        let (date, later) = (amz_date(now), amz_date(now + 600));
        let (day, time) = (&date[..8], |at: &str| {
            format!(
                "{}-{}-{}T{}:{}:{}Z",
                &at[..4],
                &at[4..6],
                &at[6..8],
                &at[9..11],
                &at[11..13],
                &at[13..15]
            )
        });
        let credential = format!("{}/{day}/{REGION}/s3/aws4_request", self.access_key);
        let policy = format!(
            r#"{{"expiration":"{}","conditions":[{{"bucket":"{bucket}"}},["eq","$key","{key}"],{{"x-amz-algorithm":"AWS4-HMAC-SHA256"}},{{"x-amz-credential":"{credential}"}},{{"x-amz-date":"{date}"}}]}}"#,
            time(&later)
        );
        let policy = BASE64.encode(policy.as_bytes());
        let signature = HEXLOWER.encode(&hmac(&self.signing_key(day), policy.as_bytes()));
        form_head(&[
            ("key", key),
            ("policy", &policy),
            ("x-amz-algorithm", "AWS4-HMAC-SHA256"),
            ("x-amz-credential", &credential),
            ("x-amz-date", &date),
            ("x-amz-signature", &signature),
        ])
    }

    pub async fn send(&self, mut request: Request) -> Answer {
        self.sign(&mut request);
        self.send_as_it_is(request).await
    }

    pub async fn send_as_it_is(&self, request: Request) -> Answer {
        let mut connection = Connection::open(self.address).await;
        connection.send(&request).await;
        connection.answer(request.method).await
    }

    pub async fn put(&self, target: &str, body: &[u8]) -> Answer {
        self.send(Request::new("PUT", target, body)).await
    }

    pub async fn get(&self, target: &str) -> Answer {
        self.send(Request::new("GET", target, b"")).await
    }

    pub async fn delete(&self, target: &str) -> Answer {
        self.send(Request::new("DELETE", target, b"")).await
    }
}

const FORM_BOUNDARY: &str = "form-boundary";
pub const FORM_END: &[u8] = b"\r\n--form-boundary--\r\n";

/// A form with these fields, up to its file's bytes.
pub fn form_head(fields: &[(&str, &str)]) -> String {
    let part = |rest: &str| format!("--{FORM_BOUNDARY}\r\nContent-Disposition: form-data; name={rest}");
    let fields = fields.iter().map(|(name, value)| part(&format!("\"{name}\"\r\n\r\n{value}\r\n")));
    fields.collect::<String>() + &part("\"file\"; filename=\"f\"\r\n\r\n")
}

pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Connection {
    pub async fn open(address: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).await.unwrap(), buffer: Vec::new() }
    }

    /// Errors are not looked at: a server that has heard enough may close early.
    pub async fn send(&mut self, request: &Request) {
        let mut text = format!("{} {} HTTP/1.1\r\n", request.method, request.target);
        for (name, value) in &request.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if !request.headers.iter().any(|(name, _)| name == "content-length") {
            text.push_str(&format!("content-length: {}\r\n", request.body.len()));
        }
        text.push_str("\r\n");
        let _ = self.stream.write_all(text.as_bytes()).await;
        let _ = self.stream.write_all(&request.body).await;
    }

    /// Begins a form with this head, and a file of `file_bytes` bytes.
    pub async fn begin_form(&mut self, bucket: &str, head: &str, file_bytes: usize) {
        let length = head.len() + file_bytes + FORM_END.len();
        let request = Request::new("POST", &format!("/{bucket}"), head.as_bytes())
            .header("host", "localhost")
            .header("content-type", &format!("multipart/form-data; boundary={FORM_BOUNDARY}"))
            .header("content-length", &length.to_string());
        self.send(&request).await;
    }

    /// What was held back until the server asked for it.
    pub async fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    async fn fill(&mut self) -> bool {
        self.stream.read_buf(&mut self.buffer).await.unwrap_or(0) > 0
    }

    pub async fn answer(&mut self, method: &str) -> Answer {
        let head = loop {
            if let Some(at) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") {
                break at;
            }
            assert!(
                self.fill().await,
                "closed without an answer: {:?}",
                self.buffer.escape_ascii().to_string()
            );
        };
        let text = String::from_utf8(self.buffer[..head].to_vec()).unwrap();
        self.buffer.drain(..head + 4);
        let mut lines = text.lines();
        let status = lines.next().unwrap()[9..12].parse().unwrap();
        let headers: HeaderMap = lines
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name.parse::<HeaderName>().unwrap(), HeaderValue::from_str(value).unwrap()))
            .collect();
        let no_body = method == "HEAD" || status == 204 || status == 304;
        let length =
            headers.get("content-length").map_or(0, |length| length.to_str().unwrap().parse().unwrap());
        let length: usize = if no_body { 0 } else { length };
        while self.buffer.len() < length && self.fill().await {}
        let body = self.buffer.drain(..length.min(self.buffer.len())).collect::<Vec<_>>().into();
        Answer { status, headers, body }
    }

    /// The status of an answer, if there is one before the server closes.
    pub async fn status_or_closed(&mut self) -> Option<u16> {
        while self.buffer.len() < 12 {
            if !self.fill().await {
                return None;
            }
        }
        std::str::from_utf8(&self.buffer[9..12]).ok()?.parse().ok()
    }

    /// Whether the server has closed it.
    pub async fn is_closed(&mut self) -> bool {
        !self.fill().await
    }
}
