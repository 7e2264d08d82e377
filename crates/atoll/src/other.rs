//! The other store, which a backup goes to and comes from: any S3.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use rusty_s3::{
    Bucket, Credentials, S3Action, UrlStyle,
    actions::{GetObject, ListObjectsV2, PutObject},
};

use crate::failure::{Failure, Fault, with_causes};

/// Where the other store is, and who asks it.
#[derive(Debug, clap::Args)]
pub struct OtherArgs {
    /// The other store's endpoint. [env: AWS_ENDPOINT_URL] [default: AWS S3 in that region]
    #[arg(long, env = "AWS_ENDPOINT_URL", value_name = "URL", hide_env = true)]
    endpoint: Option<String>,
    /// Its region. [env: AWS_REGION] [default: us-east-1]
    #[arg(long, env = "AWS_REGION", default_value = "us-east-1", hide_env = true, hide_default_value = true)]
    region: String,
    /// An access key of it. [env: AWS_ACCESS_KEY_ID]
    #[arg(long, env = "AWS_ACCESS_KEY_ID", value_name = "KEY", hide_env = true)]
    access_key: Option<String>,
    /// Only from the environment: flags are seen by every user of the machine.
    #[arg(long, env = "AWS_SECRET_ACCESS_KEY", hide = true, hide_env_values = true)]
    secret_key: Option<String>,
    #[arg(long, env = "AWS_SESSION_TOKEN", hide = true, hide_env_values = true)]
    session_token: Option<String>,
}

/// `s3://BUCKET/PREFIX`
#[derive(Debug, Clone)]
pub struct S3Url {
    bucket: String,
    /// Empty, or ends in a slash.
    prefix: String,
}

impl std::str::FromStr for S3Url {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("s3://").ok_or("it looks like s3://BUCKET/PREFIX")?;
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        if bucket.is_empty() {
            return Err("it names no bucket: s3://BUCKET/PREFIX".into());
        }
        let prefix = prefix.trim_matches('/');
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Ok(Self { bucket: bucket.into(), prefix })
    }
}

impl std::fmt::Display for S3Url {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.prefix)
    }
}

pub struct OtherStore {
    http: Client<HttpsConnector<HttpConnector>, Full<Bytes>>,
    bucket: Bucket,
    credentials: Credentials,
    place: S3Url,
}

const SIGNED_FOR: Duration = Duration::from_secs(3600);
/// One request, up and down: 4 MiB at 50 KiB/s, and some.
const ANSWER_TIME: Duration = Duration::from_secs(100);
/// Tries of one request, with pauses of 0.2, 0.4, 0.8 and 1.6 s between them.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(200);

impl OtherStore {
    pub fn new(args: &OtherArgs, place: &S3Url) -> Result<Self, Failure> {
        let missing = |name: &str| {
            Failure::new(Fault::Configuration, format!("{name} is not set"))
                .hint("the other store's keys come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY")
        };
        let key = args.access_key.clone().ok_or_else(|| missing("AWS_ACCESS_KEY_ID"))?;
        let secret = args.secret_key.clone().ok_or_else(|| missing("AWS_SECRET_ACCESS_KEY"))?;
        let credentials = match &args.session_token {
            Some(token) => Credentials::new_with_token(key, secret, token.clone()),
            None => Credentials::new(key, secret),
        };
        let endpoint = args.endpoint.clone().filter(|endpoint| !endpoint.is_empty());
        let endpoint = endpoint.unwrap_or_else(|| format!("https://s3.{}.amazonaws.com", args.region));
        let bad = |error: &dyn std::error::Error| {
            Failure::new(Fault::Configuration, format!("{endpoint} is not an S3 endpoint")).caused_by(error)
        };
        let url = endpoint.parse().map_err(|error| bad(&error))?;
        let bucket = Bucket::new(url, UrlStyle::Path, place.bucket.clone(), args.region.clone())
            .map_err(|error| bad(&error))?;
        let connector = match HttpsConnectorBuilder::new().with_native_roots() {
            Ok(builder) => builder.https_or_http().enable_http1().build(),
            Err(error) => {
                return Err(Failure::new(
                    Fault::Configuration,
                    "this machine's root certificates can't be read",
                )
                .caused_by(&error)
                .hint("name a file of them with SSL_CERT_FILE"));
            }
        };
        let http = Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { http, bucket, credentials, place: place.clone() })
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.place.prefix)
    }

    pub async fn put(&self, name: &str, bytes: Bytes) -> Result<(), Failure> {
        let key = self.key(name);
        let url = PutObject::new(&self.bucket, Some(&self.credentials), &key).sign(SIGNED_FOR);
        // A 404 is no "stored".
        self.send(Method::PUT, url.as_str(), bytes, name).await?.ok_or_else(|| self.no_such_bucket())?;
        Ok(())
    }

    /// `None` if there is no such object.
    pub async fn get(&self, name: &str) -> Result<Option<Bytes>, Failure> {
        let key = self.key(name);
        let url = GetObject::new(&self.bucket, Some(&self.credentials), &key).sign(SIGNED_FOR);
        self.send(Method::GET, url.as_str(), Bytes::new(), name).await
    }

    /// What lies under `folder`, without it, and the sizes.
    pub async fn list(&self, folder: &str) -> Result<BTreeMap<String, u64>, Failure> {
        let prefix = self.key(folder);
        let mut found = BTreeMap::new();
        let mut token: Option<String> = None;
        loop {
            let mut list = ListObjectsV2::new(&self.bucket, Some(&self.credentials));
            list.with_prefix(prefix.as_str());
            if let Some(token) = token.take() {
                list.with_continuation_token(token);
            }
            let bad = |why: String| {
                let message = format!("{} gives no list that this program reads: {why}", self.place);
                Failure::new(Fault::Unavailable, message)
            };
            let url = list.sign(SIGNED_FOR);
            let text = self.send(Method::GET, url.as_str(), Bytes::new(), folder).await?;
            let text = text.ok_or_else(|| self.no_such_bucket())?;
            let text = std::str::from_utf8(&text).map_err(|error| bad(error.to_string()))?;
            let page = ListObjectsV2::parse_response(text).map_err(|error| bad(error.to_string()))?;
            for object in page.contents {
                if let Some(name) = object.key.strip_prefix(&prefix) {
                    found.insert(name.to_owned(), object.size.unwrap_or_default());
                }
            }
            match page.next_continuation_token {
                Some(next) => token = Some(next),
                None => return Ok(found),
            }
        }
    }

    fn no_such_bucket(&self) -> Failure {
        Failure::new(
            Fault::Configuration,
            format!("there is no bucket {:?} in the other store", self.place.bucket),
        )
        .hint("make it there, or name another: s3://BUCKET/PREFIX")
    }

    /// The answer's body, `None` for 404. What may pass is tried again.
    async fn send(
        &self,
        method: Method,
        url: &str,
        body: Bytes,
        what: &str,
    ) -> Result<Option<Bytes>, Failure> {
        let mut pause = PAUSE;
        let mut tries = 0;
        loop {
            tries += 1;
            let why = match tokio::time::timeout(ANSWER_TIME, self.once(&method, url, body.clone())).await {
                Ok(Ok((status, bytes))) if status.is_success() => return Ok(Some(bytes)),
                Ok(Ok((StatusCode::NOT_FOUND, bytes))) => {
                    if String::from_utf8_lossy(&bytes).contains("NoSuchBucket") {
                        return Err(self.no_such_bucket());
                    }
                    return Ok(None);
                }
                Ok(Ok((status, bytes))) => {
                    let text = String::from_utf8_lossy(&bytes).into_owned();
                    if !status.is_server_error() && status != StatusCode::TOO_MANY_REQUESTS {
                        let message = format!("the other store refuses {method} of {}{what}", self.place);
                        return Err(Failure::new(Fault::Request, message)
                            .caused_by(&Answer(format!("{status} {text}")))
                            .hint("are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY of that store, and may they do that?"));
                    }
                    format!("{status} {text}")
                }
                Ok(Err(error)) => error,
                Err(_) => format!("no answer within {ANSWER_TIME:?}"),
            };
            if tries == TRIES {
                let message = format!("the other store does not answer {method} of {}{what}", self.place);
                return Err(Failure::new(Fault::Unavailable, message)
                    .caused_by(&Answer(why))
                    .hint("is --endpoint right? run it again: what is done already is not done again"));
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    async fn once(&self, method: &Method, url: &str, body: Bytes) -> Result<(StatusCode, Bytes), String> {
        let request = Request::builder().method(method).uri(url).body(Full::new(body));
        let request = request.map_err(|error| error.to_string())?;
        let response = self.http.request(request).await.map_err(|error| with_causes(&error))?;
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|error| error.to_string())?;
        Ok((status, body.to_bytes()))
    }
}

/// What the other store said, as a cause.
#[derive(Debug)]
struct Answer(String);

impl std::fmt::Display for Answer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0.trim())
    }
}

impl std::error::Error for Answer {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_a_bucket_and_a_folder_in_it() {
        let place = |text: &str| text.parse::<S3Url>().map(|place| (place.bucket, place.prefix));
        assert_eq!(place("s3://b"), Ok(("b".into(), String::new())));
        assert_eq!(place("s3://b/"), Ok(("b".into(), String::new())));
        assert_eq!(place("s3://b/a/c/"), Ok(("b".into(), "a/c/".into())));
        for bad in ["b/a", "s3://", "s3:///a", "https://b"] {
            assert!(place(bad).is_err(), "{bad}");
        }
    }
}
