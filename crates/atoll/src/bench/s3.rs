//! `atoll bench s3`: drives any S3 endpoint, ours or another's, with requests that are
//! signed in the query (the payload is not), so that the client's hashing is not measured.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use atoll_runtime::Runtime;
use atoll_types::ByteSize;
use bytes::Bytes;
use hdrhistogram::Histogram;
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rand::RngCore;
use rusty_s3::{
    Bucket, Credentials, S3Action, UrlStyle,
    actions::{CreateBucket, DeleteObject, GetObject, ListObjectsV2, PutObject},
};
use serde::Serialize;

use crate::{
    failure::{Failure, Fault, Outcome},
    output::{Output, table},
};

/// Put, get and list at given sizes, and print operations, bytes and latencies.
#[derive(Debug, clap::Args)]
pub struct BenchS3 {
    /// The S3 endpoint. [env: AWS_ENDPOINT_URL]
    #[arg(long, env = "AWS_ENDPOINT_URL", default_value = "http://127.0.0.1:9000", hide_env_values = true)]
    endpoint: String,
    #[arg(long, env = "AWS_ACCESS_KEY_ID", hide_env_values = true)]
    access_key: String,
    #[arg(long, env = "AWS_SECRET_ACCESS_KEY", hide_env_values = true)]
    secret_key: String,
    #[arg(long, default_value = "us-east-1")]
    region: String,
    /// What to do, in this order; `get` reads what `put` wrote, or writes some first.
    #[arg(long, value_delimiter = ',', default_value = "put,get,list")]
    operations: Vec<Operation>,
    /// The object sizes.
    #[arg(long, value_delimiter = ',', default_value = "4KiB,64MiB", value_name = "SIZES")]
    sizes: Vec<ByteSize>,
    /// Requests in flight.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u16).range(1..))]
    concurrency: u16,
    /// How long each operation runs at each size.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..))]
    seconds: u64,
    /// The bucket; made if it is not there, and its objects of this run are deleted.
    #[arg(long, default_value = "atoll-bench")]
    bucket: String,
    /// Leave the objects.
    #[arg(long)]
    keep: bool,
    #[command(flatten)]
    output: Output,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Operation {
    Put,
    Get,
    List,
}

/// One operation at one size.
#[derive(Serialize)]
struct Row {
    operation: Operation,
    size_bytes: u64,
    concurrency: u16,
    seconds: f64,
    /// For `list`, keys per second.
    operations_per_second: f64,
    mib_per_second: f64,
    p50_millis: f64,
    p99_millis: f64,
    errors: u64,
}

/// As many objects as `get` needs so that it is not one object's speed; large ones are few.
const OBJECTS_TO_READ: u64 = 256;
const BYTES_TO_READ: u64 = 1 << 30;
const PRESIGNED_FOR: Duration = Duration::from_secs(3600);

#[derive(Clone)]
struct Endpoint {
    http: Client<HttpConnector, Full<Bytes>>,
    bucket: Arc<Bucket>,
    credentials: Arc<Credentials>,
}

impl Endpoint {
    fn new(bench: &BenchS3) -> Result<Self, Failure> {
        let bad = |error: &dyn std::error::Error| {
            Failure::new(Fault::Configuration, format!("{} is not an S3 endpoint", bench.endpoint))
                .caused_by(error)
        };
        let url = bench.endpoint.parse().map_err(|error| bad(&error))?;
        let bucket = Bucket::new(url, UrlStyle::Path, bench.bucket.clone(), bench.region.clone())
            .map_err(|error| bad(&error))?;
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        Ok(Self {
            http: Client::builder(TokioExecutor::new()).pool_max_idle_per_host(usize::MAX).build(connector),
            bucket: Arc::new(bucket),
            credentials: Arc::new(Credentials::new(bench.access_key.clone(), bench.secret_key.clone())),
        })
    }

    /// The number of bytes in the answer's body, or why there was none.
    async fn send(
        &self,
        method: Method,
        url: String,
        body: Bytes,
        keep: Option<&mut Vec<u8>>,
    ) -> Result<u64, String> {
        let request = Request::builder().method(method).uri(url).body(Full::new(body));
        let request = request.map_err(|error| error.to_string())?;
        let response = self.http.request(request).await.map_err(|error| error.to_string())?;
        let status = response.status();
        let mut body = response.into_body();
        let mut kept = keep;
        let mut bytes = 0;
        let mut refusal = Vec::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| error.to_string())?;
            let Some(data) = frame.data_ref() else { continue };
            bytes += data.len() as u64;
            if let Some(kept) = &mut kept {
                kept.extend_from_slice(data);
            }
            if !status.is_success() {
                refusal.extend_from_slice(data);
            }
        }
        if status.is_success() {
            Ok(bytes)
        } else {
            Err(format!("{status} {}", String::from_utf8_lossy(&refusal)))
        }
    }

    async fn put(&self, key: &str, body: Bytes) -> Result<u64, String> {
        let bytes = body.len() as u64;
        let url = PutObject::new(&self.bucket, Some(&self.credentials), key).sign(PRESIGNED_FOR);
        self.send(Method::PUT, url.into(), body, None).await.map(|_| bytes)
    }

    async fn get(&self, key: &str) -> Result<u64, String> {
        let url = GetObject::new(&self.bucket, Some(&self.credentials), key).sign(PRESIGNED_FOR);
        self.send(Method::GET, url.into(), Bytes::new(), None).await
    }

    async fn delete(&self, key: &str) -> Result<u64, String> {
        let url = DeleteObject::new(&self.bucket, Some(&self.credentials), key).sign(PRESIGNED_FOR);
        self.send(Method::DELETE, url.into(), Bytes::new(), None).await
    }

    /// How many keys a page had, and where the next begins.
    async fn list(&self, token: Option<&str>) -> Result<(u64, Option<String>), String> {
        let mut action = ListObjectsV2::new(&self.bucket, Some(&self.credentials));
        if let Some(token) = token {
            action.with_continuation_token(token.to_string());
        }
        let mut text = Vec::new();
        self.send(Method::GET, action.sign(PRESIGNED_FOR).into(), Bytes::new(), Some(&mut text)).await?;
        let text = String::from_utf8(text).map_err(|error| error.to_string())?;
        // Counted, not parsed: the client's XML parser is not what is measured.
        let keys = text.matches("<Key>").count() as u64;
        let token = text
            .split_once("<NextContinuationToken>")
            .and_then(|(_, rest)| rest.split_once("</NextContinuationToken>"))
            .map(|(token, _)| token.to_string());
        Ok((keys, token))
    }

    async fn create_bucket(&self) -> Result<(), Failure> {
        let url = CreateBucket::new(&self.bucket, &self.credentials).sign(PRESIGNED_FOR);
        match self.send(Method::PUT, url.into(), Bytes::new(), None).await {
            Ok(_) => Ok(()),
            Err(error) if error.contains("BucketAlreadyOwnedByYou") => Ok(()),
            Err(error) => Err(Failure::new(Fault::Unavailable, format!("the bucket can't be made: {error}"))
                .hint("is the endpoint right (--endpoint), and the keys (--access-key, --secret-key)?")),
        }
    }
}

/// What one worker saw.
struct Seen {
    micros: Histogram<u64>,
    operations: u64,
    bytes: u64,
    errors: u64,
    first_error: Option<String>,
}

impl Seen {
    fn new() -> Self {
        // 1 µs to an hour, three digits.
        let micros = Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("constant bounds");
        Self { micros, operations: 0, bytes: 0, errors: 0, first_error: None }
    }

    fn add(&mut self, other: Seen) {
        self.micros.add(&other.micros).expect("equal bounds");
        self.operations += other.operations;
        self.bytes += other.bytes;
        self.errors += other.errors;
        self.first_error = self.first_error.take().or(other.first_error);
    }

    fn note(&mut self, took: Duration, result: Result<(u64, u64), String>) {
        match result {
            Ok((operations, bytes)) => {
                self.operations += operations;
                self.bytes += bytes;
                self.micros.saturating_record(took.as_micros() as u64);
            }
            Err(error) => {
                self.errors += 1;
                self.first_error.get_or_insert(error);
            }
        }
    }
}

impl BenchS3 {
    pub async fn run(self) -> Outcome {
        let endpoint = Endpoint::new(&self)?;
        endpoint.create_bucket().await?;
        let mut rows = Vec::new();
        let mut written: Vec<String> = Vec::new();
        for &size in &self.sizes {
            let mut objects = 0;
            for &operation in &self.operations {
                if operation == Operation::List {
                    continue;
                }
                if operation == Operation::Get && objects == 0 {
                    objects = self.prepare(&endpoint, size, &mut written).await?;
                }
                let (row, made) = self.measure(&endpoint, operation, size, objects).await;
                if operation == Operation::Put {
                    objects = made;
                    written.extend((0..made).map(|number| key(size, number)));
                }
                rows.push(row);
            }
        }
        if self.operations.contains(&Operation::List) {
            let (row, _) = self.measure(&endpoint, Operation::List, ByteSize(0), 0).await;
            rows.push(row);
        }
        self.output.show(&rows, |rows| {
            let rows = rows.iter().map(|row| {
                [
                    format!("{:?}", row.operation).to_lowercase(),
                    ByteSize(row.size_bytes).to_string(),
                    row.concurrency.to_string(),
                    format!("{:.0}", row.operations_per_second),
                    format!("{:.1}", row.mib_per_second),
                    format!("{:.2}", row.p50_millis),
                    format!("{:.2}", row.p99_millis),
                    row.errors.to_string(),
                ]
            });
            let header =
                ["OPERATION", "SIZE", "CLIENTS", "PER SECOND", "MIB/S", "P50 MS", "P99 MS", "ERRORS"];
            println!("{}", table(header, rows));
        });
        if !self.keep {
            self.delete(&endpoint, written).await;
        }
        Ok(())
    }

    /// Writes what `get` alone is to read.
    async fn prepare(
        &self,
        endpoint: &Endpoint,
        size: ByteSize,
        written: &mut Vec<String>,
    ) -> Result<u64, Failure> {
        let objects = OBJECTS_TO_READ.min(BYTES_TO_READ / size.0.max(1)).max(1);
        let (body, run) = (random_body(size), Runtime::tokio().rng().next_u64());
        for number in 0..objects {
            let key = key(size, number);
            endpoint.put(&key, stamped(&body, number, run)).await.map_err(|error| {
                Failure::new(Fault::Unavailable, format!("can't write what to read: {error}"))
            })?;
            written.push(key);
        }
        Ok(objects)
    }

    async fn measure(
        &self,
        endpoint: &Endpoint,
        operation: Operation,
        size: ByteSize,
        objects: u64,
    ) -> (Row, u64) {
        let next = Arc::new(AtomicU64::new(0));
        let started = Instant::now();
        let end = started + Duration::from_secs(self.seconds);
        let run = Runtime::tokio().rng().next_u64();
        let body = if operation == Operation::Put { random_body(size) } else { Bytes::new() };
        let mut workers = tokio::task::JoinSet::new();
        for _ in 0..self.concurrency {
            let (endpoint, next, body) = (endpoint.clone(), next.clone(), body.clone());
            workers.spawn(async move {
                let mut seen = Seen::new();
                let mut token: Option<String> = None;
                while Instant::now() < end {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let body =
                        if operation == Operation::Put { stamped(&body, number, run) } else { Bytes::new() };
                    let sent = Instant::now();
                    let result = match operation {
                        Operation::Put => {
                            endpoint.put(&key(size, number), body).await.map(|bytes| (1, bytes))
                        }
                        Operation::Get => {
                            endpoint.get(&key(size, number % objects.max(1))).await.map(|bytes| (1, bytes))
                        }
                        Operation::List => endpoint.list(token.as_deref()).await.map(|(keys, following)| {
                            token = following;
                            (keys, 0)
                        }),
                    };
                    seen.note(sent.elapsed(), result);
                }
                seen
            });
        }
        let mut seen = Seen::new();
        while let Some(worker) = workers.join_next().await {
            seen.add(worker.expect("a worker does not panic"));
        }
        if let Some(error) = &seen.first_error {
            eprintln!("{} of {operation:?} failed; the first: {error}", seen.errors);
        }
        let seconds = started.elapsed().as_secs_f64();
        let millis = |quantile| seen.micros.value_at_quantile(quantile) as f64 / 1000.0;
        let row = Row {
            operation,
            size_bytes: size.0,
            concurrency: self.concurrency,
            seconds,
            operations_per_second: seen.operations as f64 / seconds,
            mib_per_second: seen.bytes as f64 / f64::from(1 << 20) / seconds,
            p50_millis: millis(0.50),
            p99_millis: millis(0.99),
            errors: seen.errors,
        };
        (row, next.load(Ordering::Relaxed))
    }

    async fn delete(&self, endpoint: &Endpoint, written: Vec<String>) {
        let mut workers = tokio::task::JoinSet::new();
        let keys = Arc::new(std::sync::Mutex::new(written));
        for _ in 0..self.concurrency {
            let (endpoint, keys) = (endpoint.clone(), keys.clone());
            workers.spawn(async move {
                loop {
                    let Some(key) = keys.lock().expect("nobody panics holding it").pop() else { return };
                    // What stays is in a bucket that says what it is.
                    let _ = endpoint.delete(&key).await;
                }
            });
        }
        workers.join_all().await;
    }
}

fn key(size: ByteSize, number: u64) -> String {
    format!("{}/{:08}", size.0, number)
}

/// Not compressible.
fn random_body(size: ByteSize) -> Bytes {
    let mut body = vec![0; size.0 as usize];
    Runtime::tokio().rng().fill_bytes(&mut body);
    body.into()
}

/// Blocks in which each body differs from every other: smaller than any chunk, so that a
/// store that keeps equal chunks once has none to keep once.
const BLOCK_BYTES: usize = 4096;

/// `body` made unlike any other of this run, at the price of a copy.
fn stamped(body: &Bytes, number: u64, run: u64) -> Bytes {
    let mut body = body.to_vec();
    for block in body.chunks_mut(BLOCK_BYTES) {
        for (byte, stamp) in block.iter_mut().zip([number.to_le_bytes(), run.to_le_bytes()].concat()) {
            *byte ^= stamp;
        }
    }
    body.into()
}
