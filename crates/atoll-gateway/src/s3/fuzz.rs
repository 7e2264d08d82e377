//! The fuzz target of POST forms: what the gateway reads of one, beside what `s3s` does.

use std::sync::{Arc, LazyLock, Mutex};

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, HeaderValue, Method, Request, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use s3s::{
    S3, S3Request, S3Response, S3Result,
    dto::{PostObjectInput, PostObjectOutput},
    service::{S3Service, S3ServiceBuilder},
};

use super::{
    config,
    context::RequestContext,
    form::FORM_FIELDS_BYTES_MAX,
    form_fields::{FormFields, FormRoom, boundary, peek, written},
};

const KINDS: [&str; 6] = [
    "multipart/form-data; boundary=x",
    "multipart/form-data; boundary=\"x\"",
    "multipart/form-data; charset=utf-8; boundary=----x-1",
    "Multipart/Form-Data; boundary=x; boundary=y",
    "multipart/form-data; boundary=\"x;y\"",
    "multipart/form-data",
];
/// Bytes in a frame of the body, as a client may cut it.
const FRAMES: [usize; 4] = [usize::MAX, 1, 7, 100];

/// Keeps what `s3s` read.
#[derive(Default)]
struct Keeper(Mutex<Option<PostObjectInput>>);

struct Kept(Arc<Keeper>);

#[async_trait::async_trait]
impl S3 for Kept {
    async fn post_object(
        &self,
        request: S3Request<PostObjectInput>,
    ) -> S3Result<S3Response<PostObjectOutput>> {
        *self.0.0.lock().expect("no holder panics") = Some(request.input);
        Ok(S3Response::new(PostObjectOutput::default()))
    }
}

static SERVICE: LazyLock<(S3Service, Arc<Keeper>)> = LazyLock::new(|| {
    let keeper = Arc::new(Keeper::default());
    let mut builder = S3ServiceBuilder::new(Kept(keeper.clone()));
    builder.set_config(config());
    (builder.build(), keeper)
});

/// A form is handed on with its fields written anew, and what is none as it came or not at all.
/// And `s3s` reads what was read here.
/// The first byte chooses a content type, the second how the body is cut.
pub fn form(bytes: &[u8]) {
    let Some((&[kind, frame], body)) = bytes.split_first_chunk::<2>() else { return };
    let executor = tokio::runtime::Builder::new_current_thread().build();
    let executor = executor.expect("an executor needs no more than memory");
    let kind = KINDS[usize::from(kind) % KINDS.len()];
    executor.block_on(post(kind, FRAMES[usize::from(frame) % FRAMES.len()], body));
}

async fn post(kind: &'static str, frame_bytes: usize, body: &[u8]) {
    let context = RequestContext::of(&http::Extensions::new());
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    let frames: Vec<_> = body
        .chunks(frame_bytes.min(body.len().max(1)))
        .map(|chunk| Ok::<_, std::io::Error>(Frame::data(Bytes::copy_from_slice(chunk))))
        .collect();
    let posted = s3s::Body::http_body_unsync(StreamBody::new(stream::iter(frames)));
    let (given_on, _place) = peek(posted, &headers, &context, &FormRoom::default()).await;
    let given_on = BodyExt::collect(given_on).await.expect("no frame fails").to_bytes();
    let Some(fields) = context.form() else {
        assert!(given_on.is_empty() || given_on == body);
        return;
    };
    let value_bytes: usize = fields.values().map(String::len).sum();
    assert!(value_bytes <= FORM_FIELDS_BYTES_MAX + body.len());
    let head = written(boundary(&headers).expect("it was read"), fields);
    assert!(given_on.starts_with(head.as_bytes()) && body.ends_with(&given_on[head.len()..]));

    let request = Request::builder().method(Method::POST).uri("http://localhost/bucket");
    let request = request.header(header::HOST, "localhost").header(header::CONTENT_TYPE, kind);
    let request = request.body(s3s::Body::from(given_on)).expect("a sound request");
    let (service, keeper) = &*SERVICE;
    let _ = service.call(request).await;
    let read = keeper.0.lock().expect("no holder panics").take();
    if let Some(read) = read {
        agree(fields, &read);
    }
}

fn agree(fields: &FormFields, read: &PostObjectInput) {
    let mut texts = vec![("key", Some(read.key.as_str()))];
    texts.extend([
        ("cache-control", read.cache_control.as_deref()),
        ("content-disposition", read.content_disposition.as_deref()),
        ("content-encoding", read.content_encoding.as_deref()),
        ("content-language", read.content_language.as_deref()),
        ("content-type", read.content_type.as_deref()),
        ("x-amz-acl", read.acl.as_ref().map(|acl| acl.as_str())),
        ("x-amz-storage-class", read.storage_class.as_ref().map(|class| class.as_str())),
        ("x-amz-website-redirect-location", read.website_redirect_location.as_deref()),
    ]);
    for (name, text) in texts {
        assert_eq!(fields.get(name).map(String::as_str), text, "{name}");
    }
    for (name, value) in read.metadata.iter().flatten() {
        assert_eq!(fields.get(&format!("x-amz-meta-{name}")), Some(value), "{name}");
    }
    // `s3s` leaves out one without a name, in a form as in headers.
    let names = fields.keys().filter_map(|name| name.strip_prefix("x-amz-meta-"));
    let metadata = names.filter(|name| !name.is_empty()).count();
    assert_eq!(metadata, read.metadata.as_ref().map_or(0, |metadata| metadata.len()));
}

pub fn form_seeds() -> Vec<Vec<u8>> {
    let part = |name: &str, value: &str| {
        format!("--x\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    };
    let file = "--x\r\nContent-Disposition: form-data; name=\"file\"; filename=\"f.txt\"\r\nContent-Type: text/plain\r\n\r\nthe file\r\n--x--\r\n";
    let tags = "<Tagging><TagSet><Tag><Key>a</Key><Value>b</Value></Tag></TagSet></Tagging>";
    // A policy that nobody signed, with a condition or two: {"expiration":"2126-11-27T00:00:00Z",
    // "conditions":[["starts-with","$key",""],{"bucket":"bucket"}]}
    let policy = "eyJleHBpcmF0aW9uIjoiMjEyNi0xMS0yN1QwMDowMDowMFoiLCJjb25kaXRpb25zIjpbWyJzdGFydHMtd2l0aCIsIiRrZXkiLCIiXSx7ImJ1Y2tldCI6ImJ1Y2tldCJ9XX0=";
    let forms = [
        part("key", "a") + file,
        "\r\n".to_owned() + &part("KEY", "a/b") + &part("content-type", "text/plain") + file,
        part("key", "a") + &part("x-amz-meta-a", "one\r\ntwo") + &part("x-amz-meta-b", "") + file,
        part("key", "a")
            + &part("tagging", tags)
            + &part("acl", "private")
            + &part("x-amz-acl", "private")
            + file,
        part("key", "a") + &part("policy", policy) + &part("success_action_status", "201") + file,
        part("key", "a") + &part("key", "again") + &part("x-amz-storage-class", "STANDARD") + file,
        part("key", "a/${filename}") + &part("x-amz-meta-a", "${filename}${filename}") + file,
        part("key", "a${filename}")
            + "--x\r\nA: b\r\nContent-Disposition: form-data; name=file; filename*=UTF-8''a%20b\r\nC: d\r\n\r\nthe file\r\n--x--\r\n",
        part("key", "a") + "--x--\r\n",
        part("key", "a\r\n--xx\r\nContent-Disposition: form-data; name=\"acl\"\r\n\r\nb") + file,
    ];
    let with = |kind: u8, frame: u8, form: &String| [&[kind, frame][..], form.as_bytes()].concat();
    forms
        .iter()
        .zip(0_u8..)
        .flat_map(|(form, at)| [with(0, 0, form), with(at % 2, 1 + at % 3, form)])
        .collect()
}
