//! One request from its headers to its answer's: what is refused at once, the guarded
//! body, `s3s`, and what every answer carries.

use std::sync::Arc;

use atoll_access::{Access, NotedRequest};
use atoll_objects::Objects;
use atoll_runtime::Runtime;
use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, header};
use hyper::body::Body;
use percent_encoding::percent_decode_str;
use s3s::{S3Error, S3Result, service::S3Service};

use super::{
    actions::OTHER,
    body::{GuardedBody, Rest},
    checksum::AnnouncedDigest,
    context::{BodyFailure, RequestContext, RequestIds},
    cors::{self, CrossOrigin},
    domains::Domains,
    encryption,
    error::{RETRY_AFTER_SECONDS, usual_message},
    facts::ConnectionInfo,
    form::FORM_FIELDS_WAIT,
    form_fields::{self, FormRoom},
    metrics::{Counted, S3Metrics},
    unsupported,
};

const REQUEST_ID: HeaderName = HeaderName::from_static("x-amz-request-id");
const SERVER: HeaderValue = HeaderValue::from_static(concat!("Atoll/", env!("CARGO_PKG_VERSION")));

/// The S3 door. Cheap to clone.
#[derive(Clone)]
pub struct S3Gateway {
    inner: Arc<Inner>,
}

struct Inner {
    runtime: Runtime,
    service: S3Service,
    /// For what is answered before `s3s` and after it: a bucket's CORS rules.
    objects: Objects,
    domains: Domains,
    ids: RequestIds,
    metrics: S3Metrics,
    form_room: FormRoom,
    access: Access,
}

/// What stands before `s3s`.
pub(crate) struct Front {
    pub(crate) runtime: Runtime,
    pub(crate) access: Access,
    pub(crate) objects: Objects,
    pub(crate) domains: Domains,
    pub(crate) metrics: S3Metrics,
}

impl S3Gateway {
    pub(crate) fn of(front: Front, service: S3Service, first_id: u64) -> Self {
        let Front { runtime, access, objects, domains, metrics } = front;
        let (ids, form_room) = (RequestIds::new(first_id), FormRoom::default());
        let inner = Inner { runtime, service, objects, domains, ids, metrics, form_room, access };
        Self { inner: Arc::new(inner) }
    }

    pub(crate) fn metrics(&self) -> &S3Metrics {
        &self.inner.metrics
    }

    /// Answers one request. Never fails: what goes wrong is an answer, too.
    pub async fn handle<B>(&self, request: Request<B>) -> Response<s3s::Body>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
    {
        let inner = &*self.inner;
        let started = inner.runtime.now();
        let _in_flight = Counted::in_gauge(&inner.metrics.in_flight);
        let context = RequestContext::new(inner.ids.next());
        let resource = request.uri().path().to_owned();
        let method = request.method().clone();
        let bytes_in = request.body().size_hint().exact().unwrap_or(0);
        let cross_origin = CrossOrigin::of(&method, request.headers()).zip(bucket_of(
            &inner.domains,
            request.uri(),
            request.headers(),
        ));
        let claim = Claim::of(&request);
        let mut response = self.answer(request, &context).await;
        if response.status() == http::StatusCode::FORBIDDEN && !context.is_decided() {
            inner.access.note_refused(claim.refused(&method, &resource, &response));
        }
        if let Some((cross_origin, bucket)) = cross_origin
            && method != Method::OPTIONS
        {
            cors::decorate(&inner.objects, &bucket, &cross_origin, response.headers_mut()).await;
        }
        if let Some(failure) = context.body_failure()
            && !response.status().is_success()
        {
            // Found while `s3s` itself read the body, and lost on the way: say it after all.
            let mut error = error_response(S3Error::with_message(failure.code(), failure.to_string()));
            if let Some(close) = response.headers().get(header::CONNECTION) {
                error.headers_mut().insert(header::CONNECTION, close.clone());
            }
            response = error;
        }
        finish(&mut response, &context, &resource);
        let elapsed = inner.runtime.now().saturating_since(started);
        let operation = context.operation().unwrap_or(OTHER);
        let bytes_out = response.body().size_hint().exact().unwrap_or(0);
        inner.metrics.answered(operation, response.status(), elapsed);
        inner.metrics.moved(bytes_in, if method == Method::HEAD { 0 } else { bytes_out });
        tracing::debug!(
            target: "atoll::access_log",
            id = %context.id().text(),
            %method,
            path = resource,
            operation,
            status = response.status().as_u16(),
            bytes_in,
            bytes_out,
            elapsed_us = elapsed.as_micros() as u64,
        );
        response
    }

    async fn answer<B>(&self, request: Request<B>, context: &RequestContext) -> Response<s3s::Body>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
    {
        let inner = &*self.inner;
        let runtime = &inner.runtime;
        let (mut parts, body) = request.into_parts();
        let awaits_continue = parts.headers.contains_key(header::EXPECT);
        let is_empty = body.is_end_stream();
        let http1 = parts.version < http::Version::HTTP_2;
        if parts.method == Method::OPTIONS {
            context.set_operation("Preflight");
            let bucket = bucket_of(&inner.domains, &parts.uri, &parts.headers);
            let answer = cors::preflight(&inner.objects, bucket.as_deref(), &parts.headers).await;
            return answer.unwrap_or_else(error_response);
        }
        let is_form = is_form(&parts.headers) && parts.method == Method::POST;
        let (mut answer, rest) = match look_at(&mut parts) {
            Err(error) => (error_response(error), Some(Rest::unread(body))),
            Ok(None) if is_empty => {
                parts.extensions.insert(context.clone());
                (self.call(Request::from_parts(parts, s3s::Body::empty()), context).await, None)
            }
            Ok(digest) => {
                parts.extensions.insert(context.clone());
                let aws_chunked = is_aws_chunked(&parts.headers);
                let (body, mut rest) =
                    GuardedBody::new(body, runtime.clone(), context.clone(), aws_chunked, digest);
                let body = body.into_s3s();
                let answer = match is_form {
                    false => self.call(Request::from_parts(parts, body), context).await,
                    true => self.call_with_form(parts, body, context).await,
                };
                (answer, rest.try_recv().ok())
            }
        };
        let is_over = match rest {
            Some(rest) => !rest.drain(runtime, awaits_continue).await,
            // Nobody is told to go on with nothing, and botocore, which waited for that, does
            // not send the body of its next request on this connection.
            None => is_empty && awaits_continue,
        };
        if is_over && http1 {
            // Said aloud, so that the client does not send its next request into a closed
            // connection.
            answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }

    async fn call_with_form(
        &self,
        parts: http::request::Parts,
        body: s3s::Body,
        context: &RequestContext,
    ) -> Response<s3s::Body> {
        let inner = &*self.inner;
        let peeked = form_fields::peek(body, &parts.headers, context, &inner.form_room);
        let Ok((body, _place)) = inner.runtime.timeout(FORM_FIELDS_WAIT, peeked).await else {
            context.fail_body(BodyFailure::TimedOut);
            return error_response(s3s::s3_error!(RequestTimeout));
        };
        self.call(Request::from_parts(parts, body), context).await
    }

    async fn call(&self, request: Request<s3s::Body>, context: &RequestContext) -> Response<s3s::Body> {
        self.inner.service.call(request).await.unwrap_or_else(|error| {
            tracing::error!(id = %context.id().text(), ?error, "a request failed inside");
            internal_error()
        })
    }
}

/// Whom a request claims to be of, for the audit trail, should it be refused before anything
/// was decided.
struct Claim {
    key: Option<String>,
    from: String,
}

impl Claim {
    fn of<B>(request: &Request<B>) -> Self {
        let peer = request.extensions().get::<ConnectionInfo>().map(|connection| connection.peer.ip());
        let header = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let after = |text: &str, mark: &str| text.split_once(mark).map(|(_, rest)| rest.to_owned());
        let credential = header
            .and_then(|header| after(header, "Credential="))
            .or_else(|| request.uri().query().and_then(|query| after(query, "X-Amz-Credential=")));
        let key =
            credential.map(|text| text.split(['/', '%', '&', ',']).next().unwrap_or_default().to_owned());
        Self { key, from: peer.map(|peer| peer.to_canonical().to_string()).unwrap_or_default() }
    }

    fn refused(self, method: &Method, resource: &str, response: &Response<s3s::Body>) -> NotedRequest {
        let body = response.body().bytes();
        let text = body.as_deref().and_then(|body| std::str::from_utf8(body).ok()).unwrap_or_default();
        let code = text.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
        NotedRequest {
            who: self.key.map_or("anonymous".into(), |key| format!("key {key}, not proven")),
            what: format!("s3:{method}"),
            on: percent_decode_str(resource.trim_start_matches('/')).decode_utf8_lossy().into_owned(),
            from: self.from,
            rule: code.map_or("refused", |(code, _)| code).into(),
        }
    }
}

/// What can be said by the headers alone: whether the request is refused, and what else is
/// to be verified of its body. (Where an object or a part is put, its bytes are verified
/// as they are stored.)
fn look_at(parts: &mut http::request::Parts) -> S3Result<Option<AnnouncedDigest>> {
    lift_presigned(&parts.uri, &mut parts.headers);
    encryption::hide_keys(&mut parts.headers);
    unsupported::refuse(&parts.headers, &parts.uri)?;
    if parts.method != Method::POST {
        return Ok(None);
    }
    if is_form(&parts.headers) {
        return Ok(None);
    }
    AnnouncedDigest::of(&parts.headers)
}

/// The bucket that a request is about, in either style.
fn bucket_of(domains: &Domains, uri: &Uri, headers: &HeaderMap) -> Option<String> {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok());
    let host = host.or_else(|| uri.authority().map(|authority| authority.as_str()));
    if let Some(bucket) = host.and_then(|host| domains.bucket_of(host)) {
        return Some(bucket);
    }
    let name = uri.path().trim_start_matches('/').split('/').next()?;
    Some(percent_decode_str(name).decode_utf8().ok()?.into_owned()).filter(|name| !name.is_empty())
}

fn error_response(error: S3Error) -> Response<s3s::Body> {
    error.to_http_response().unwrap_or_else(|_| internal_error())
}

fn is_aws_chunked(headers: &HeaderMap) -> bool {
    let kind = headers.get("x-amz-content-sha256");
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"STREAMING-"))
}

fn is_form(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).map(HeaderValue::as_bytes).unwrap_or_default();
    kind.get(..19).is_some_and(|start| start.eq_ignore_ascii_case(b"multipart/form-data"))
}

/// Headers that SDKs move into a presigned URL's query, where they are signed with it and
/// S3 reads them as headers. Not the checksums: SDKs put those of an empty body there.
const LIFTED: [&str; 8] = [
    "x-amz-acl",
    "x-amz-grant-",
    "x-amz-meta-",
    "x-amz-object-lock-",
    "x-amz-server-side-encryption",
    "x-amz-storage-class",
    "x-amz-tagging",
    "x-amz-website-redirect-location",
];

fn lift_presigned(uri: &Uri, headers: &mut HeaderMap) {
    let Some(query) = uri.query().filter(|query| query.contains("X-Amz-Signature=")) else { return };
    for (name, value) in query.split('&').filter_map(|pair| pair.split_once('=')) {
        let name = name.to_ascii_lowercase();
        if !LIFTED.iter().any(|prefix| name.starts_with(prefix)) || headers.contains_key(&name) {
            continue;
        }
        let value = percent_decode_str(value).collect::<Vec<u8>>();
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_bytes(&value)) {
            headers.insert(name, value);
        }
    }
}

fn internal_error() -> Response<s3s::Body> {
    let mut response = Response::new(s3s::Body::empty());
    *response.status_mut() = http::StatusCode::INTERNAL_SERVER_ERROR;
    response
}

/// What every answer carries: the id, who answered, when to come back after a 503; and
/// an error's body says what it was about.
fn finish(response: &mut Response<s3s::Body>, context: &RequestContext, resource: &str) {
    let id = context.id().text();
    let status = response.status();
    if (status.is_client_error() || status.is_server_error())
        && let Some(body) = response.body().bytes()
        && let Ok(xml) = std::str::from_utf8(&body)
        && let Some(xml) = complete_error(xml, resource, &id)
    {
        *response.body_mut() = s3s::Body::from(xml);
        response.headers_mut().remove(header::CONTENT_LENGTH);
    }
    if status == http::StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_SECONDS));
    }
    if let Ok(id) = HeaderValue::try_from(id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response.headers_mut().insert(header::SERVER, SERVER);
}

/// `s3s` writes an error's code, and a message if it has one.
fn complete_error(xml: &str, resource: &str, id: &str) -> Option<String> {
    let start = xml.strip_suffix("</Error>")?;
    let mut out = String::with_capacity(xml.len() + resource.len() + 200);
    out.push_str(start);
    if !start.contains("<Message>") {
        let code = start.split_once("<Code>").and_then(|(_, rest)| rest.split_once("</Code>"));
        out.push_str("<Message>");
        escape_xml(usual_message(code.map_or("", |(code, _)| code)), &mut out);
        out.push_str("</Message>");
    }
    out.push_str("<Resource>");
    escape_xml(resource, &mut out);
    out.push_str(&format!("</Resource><RequestId>{id}</RequestId></Error>"));
    Some(out)
}

fn escape_xml(text: &str, out: &mut String) {
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            c => out.push(c),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_presigned_url_s_headers_count_as_headers() {
        let uri = Uri::from_static(
            "/b/k?X-Amz-Signature=a&x-amz-acl=public-read&X-Amz-Meta-A=b%20c&x-amz-checksum-crc32=AAAAAA%3D%3D",
        );
        let mut headers = HeaderMap::new();
        lift_presigned(&uri, &mut headers);
        assert_eq!(headers.get("x-amz-acl").unwrap(), "public-read");
        assert_eq!(headers.get("x-amz-meta-a").unwrap(), "b c");
        assert_eq!(headers.len(), 2);
        let mut headers = HeaderMap::new();
        lift_presigned(&Uri::from_static("/b/k?x-amz-acl=public-read"), &mut headers);
        assert!(headers.is_empty());
    }

    #[test]
    fn every_error_says_what_where_and_which_request() {
        let complete = |xml: &str| complete_error(xml, "/b/a&b", "ID").unwrap();
        assert_eq!(
            complete("<Error><Code>InvalidURI</Code></Error>"),
            "<Error><Code>InvalidURI</Code><Message>Couldn't parse the specified URI.</Message>\
             <Resource>/b/a&amp;b</Resource><RequestId>ID</RequestId></Error>"
        );
        assert!(
            complete("<Error><Code>X</Code><Message>own words</Message></Error>")
                .contains("own words</Message><Resource>")
        );
        assert_eq!(complete_error("", "/", "ID"), None);
    }

    #[test]
    fn forms_are_recognised_whatever_their_boundary() {
        let form = |kind: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, kind.parse().unwrap());
            is_form(&headers)
        };
        assert!(form("multipart/form-data; boundary=x"));
        assert!(form("Multipart/Form-Data"));
        assert!(!form("text/plain"));
    }
}
