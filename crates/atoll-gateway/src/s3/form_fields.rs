//! The fields of a POST form, read before `s3s` reads them: it hands on only those that it
//! has words for, and what it drops would be accepted and ignored.

use std::collections::BTreeMap;

use bytes::BytesMut;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, header};
use http_body_util::{BodyExt, BodyStream, StreamBody};
use hyper::body::Frame;

use super::{context::RequestContext, form::FORM_FIELDS_BYTES_MAX};

/// By name, in lower case.
pub(crate) type FormFields = BTreeMap<String, String>;

/// Reads a form up to its file, notes its fields in the request's context, and gives the
/// whole body back. Of one that is no form nothing is noted.
pub(crate) async fn peek(mut body: s3s::Body, headers: &HeaderMap, context: &RequestContext) -> s3s::Body {
    let mut head = BytesMut::new();
    if let Some(boundary) = boundary(headers) {
        let delimiter = format!("--{boundary}").into_bytes();
        // A body that breaks off says so again when it is read on.
        while let Some(Ok(frame)) = body.frame().await {
            if let Ok(data) = frame.into_data() {
                head.extend_from_slice(&data);
            }
            match read(&head, &delimiter) {
                Head::Fields(fields) => {
                    context.set_form(fields);
                    break;
                }
                Head::More if head.len() <= FORM_FIELDS_BYTES_MAX => {}
                Head::More | Head::Malformed => break,
            }
        }
    }
    let head = Frame::data(head.freeze());
    let whole = stream::once(std::future::ready(Ok(head))).chain(BodyStream::new(body));
    s3s::Body::http_body_unsync(StreamBody::new(whole))
}

fn boundary(headers: &HeaderMap) -> Option<&str> {
    let kind = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let boundary = kind.split(';').find_map(|part| part.trim().strip_prefix("boundary="))?;
    Some(boundary.trim_matches('"')).filter(|boundary| !boundary.is_empty())
}

#[derive(Debug, PartialEq, Eq)]
enum Head {
    /// All that come before the file.
    Fields(FormFields),
    More,
    Malformed,
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// RFC 7578.
fn read(head: &[u8], delimiter: &[u8]) -> Head {
    let Some(at) = find(head, delimiter) else { return Head::More };
    let mut rest = &head[at + delimiter.len()..];
    let mut fields = FormFields::new();
    loop {
        if rest.starts_with(b"--") {
            return Head::Malformed;
        }
        let Some(end) = find(rest, b"\r\n\r\n") else { return Head::More };
        let Some(name) = name(&rest[..end]) else { return Head::Malformed };
        if name == "file" {
            return Head::Fields(fields);
        }
        rest = &rest[end + 4..];
        let ended = [b"\r\n", delimiter].concat();
        let Some(end) = find(rest, &ended) else { return Head::More };
        fields.insert(name, String::from_utf8_lossy(&rest[..end]).into_owned());
        rest = &rest[end + ended.len()..];
    }
}

/// The name that a part's headers give it.
fn name(headers: &[u8]) -> Option<String> {
    let headers = std::str::from_utf8(headers).ok()?;
    let is_disposition =
        |line: &&str| line.get(..20).is_some_and(|start| start.eq_ignore_ascii_case("content-disposition:"));
    let line = headers.split("\r\n").find(is_disposition)?;
    let name = line.split(';').find_map(|part| part.trim().strip_prefix("name="))?;
    Some(name.trim_matches('"').to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn part(name: &str, value: &str) -> String {
        format!("--x\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    }

    #[test]
    fn fields_are_read_up_to_the_file_however_they_arrive() {
        let form = part("key", "a/b") + &part("ACL", "public-read") + &part("file", "--x is not the end");
        let want: FormFields = [("key", "a/b"), ("acl", "public-read")]
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let begins = form.find("--x is not").unwrap();
        for cut in 0..form.len() {
            let expected = if cut < begins { Head::More } else { Head::Fields(want.clone()) };
            assert_eq!(read(&form.as_bytes()[..cut], b"--x"), expected, "{cut}");
        }
    }

    #[test]
    fn what_is_no_form_has_no_fields() {
        assert_eq!(read(b"--x--", b"--x"), Head::Malformed);
        assert_eq!(read(b"--x\r\nA: b\r\n\r\nvalue", b"--x"), Head::Malformed);
        assert_eq!(read((part("key", "k") + "--x--").as_bytes(), b"--x"), Head::Malformed);
        assert_eq!(read(b"hello", b"--x"), Head::More);
    }

    #[tokio::test]
    async fn the_body_is_given_back_whole() {
        let form = part("key", "a") + &part("file", "bytes") + "--x--\r\n";
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, "multipart/form-data; boundary=\"x\"".parse().unwrap());
        let context = RequestContext::of(&http::Extensions::new());
        let body = peek(s3s::Body::from(Bytes::from(form.clone())), &headers, &context).await;
        assert_eq!(BodyExt::collect(body).await.unwrap().to_bytes(), form);
        assert_eq!(context.form().unwrap()["key"], "a");
    }
}
