//! The fields of a POST form, read before `s3s` reads them: it hands on only those that it
//! has words for, and what it drops would be accepted and ignored. `${filename}` is filled in
//! here, since a form's policy is about what its fields say then.

use std::{borrow::Cow, collections::BTreeMap};

use bytes::{Bytes, BytesMut};
use futures_util::{StreamExt, stream};
use http::{HeaderMap, header};
use http_body_util::{BodyExt, BodyStream, StreamBody};
use hyper::body::Frame;
use percent_encoding::percent_decode_str;

use super::{context::RequestContext, form::FORM_FIELDS_BYTES_MAX};

/// By name, in lower case.
pub(crate) type FormFields = BTreeMap<String, String>;

/// Reads a form up to its file, notes its fields in the request's context, and gives the
/// body back with `${filename}` filled in. Of one that is no form nothing is noted.
pub(crate) async fn peek(mut body: s3s::Body, headers: &HeaderMap, context: &RequestContext) -> s3s::Body {
    let mut came = BytesMut::new();
    let mut head = None;
    if let Some(boundary) = boundary(headers) {
        let delimiter = format!("--{boundary}").into_bytes();
        // A body that breaks off says so again when it is read on.
        while let Some(Ok(frame)) = body.frame().await {
            if let Ok(data) = frame.into_data() {
                came.extend_from_slice(&data);
            }
            match read(&came, &delimiter) {
                Head::Whole { fields, bytes } => {
                    context.set_form(fields);
                    head = Some(bytes);
                    break;
                }
                Head::More if came.len() <= FORM_FIELDS_BYTES_MAX => {}
                Head::More | Head::Malformed => break,
            }
        }
    }
    let head = Frame::data(head.unwrap_or_else(|| came.freeze()));
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
    /// All that comes before the file.
    Whole {
        fields: FormFields,
        /// What came, as it is handed on.
        bytes: Bytes,
    },
    More,
    Malformed,
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

/// RFC 7578.
fn read(came: &[u8], delimiter: &[u8]) -> Head {
    let Some(at) = find(came, delimiter) else { return Head::More };
    let mut rest = &came[at + delimiter.len()..];
    let mut parts: Vec<(&[u8], String, &[u8])> = Vec::new();
    let (file_headers, file_name) = loop {
        if rest.starts_with(b"--") {
            return Head::Malformed;
        }
        let Some(end) = find(rest, b"\r\n\r\n") else { return Head::More };
        let headers = &rest[..end];
        rest = &rest[end + 4..];
        let Some(Disposition { name, file_name }) = Disposition::of(headers) else { return Head::Malformed };
        if name == "file" {
            break (headers, file_name);
        }
        let ended = [b"\r\n", delimiter].concat();
        let Some(end) = find(rest, &ended) else { return Head::More };
        parts.push((headers, name, &rest[..end]));
        rest = &rest[end + ended.len()..];
    };
    let mut fields = FormFields::new();
    let mut bytes = BytesMut::from(&came[..at]);
    for (headers, name, value) in parts {
        let room = FORM_FIELDS_BYTES_MAX.saturating_sub(bytes.len());
        let Some(value) = filled_in(value, &file_name, room) else { return Head::Malformed };
        for piece in [delimiter, headers, b"\r\n\r\n", &value, b"\r\n"] {
            bytes.extend_from_slice(piece);
        }
        fields.insert(name, String::from_utf8_lossy(&value).into_owned());
    }
    // Without the file's name, which is used up: `s3s` does not take all that are allowed.
    bytes.extend_from_slice(delimiter);
    for (number, line) in file_headers.split(|byte| *byte == b'\n').enumerate() {
        let line = line.trim_ascii_end();
        let line = if is_disposition(line) { b"Content-Disposition: form-data; name=\"file\"" } else { line };
        bytes.extend_from_slice(if number > 0 { b"\r\n" } else { b"" });
        bytes.extend_from_slice(line);
    }
    bytes.extend_from_slice(b"\r\n\r\n");
    bytes.extend_from_slice(rest);
    Head::Whole { fields, bytes: bytes.freeze() }
}

const FILE_NAME: &[u8] = b"${filename}";

/// A field's value with the file's name in it; `None` if it gets longer than `room`.
fn filled_in<'a>(value: &'a [u8], file_name: &str, room: usize) -> Option<Cow<'a, [u8]>> {
    let (mut whole, mut rest) = (Vec::new(), value);
    while let Some(at) = find(rest, FILE_NAME) {
        whole.extend_from_slice(&rest[..at]);
        whole.extend_from_slice(file_name.as_bytes());
        if whole.len() > room {
            return None;
        }
        rest = &rest[at + FILE_NAME.len()..];
    }
    if rest.len() == value.len() {
        return Some(Cow::Borrowed(value));
    }
    whole.extend_from_slice(rest);
    Some(Cow::Owned(whole))
}

fn is_disposition(line: &[u8]) -> bool {
    line.get(..20).is_some_and(|start| start.eq_ignore_ascii_case(b"content-disposition:"))
}

/// What a part's headers say of it.
struct Disposition {
    /// In lower case.
    name: String,
    /// Without the folders that some clients send along; empty if there is none.
    file_name: String,
}

impl Disposition {
    fn of(headers: &[u8]) -> Option<Self> {
        let headers = std::str::from_utf8(headers).ok()?;
        let line = headers.split("\r\n").find(|line| is_disposition(line.as_bytes()))?;
        let parameters = parameters(line);
        let value = |wanted: &str| Some(&parameters.iter().find(|(name, _)| name == wanted)?.1);
        // RFC 5987: some clients write what is not ASCII so.
        let encoded = value("filename*").and_then(|value| value.split_once("''"));
        let path = match encoded {
            Some((_, encoded)) => percent_decode_str(encoded).decode_utf8_lossy(),
            None => value("filename").map_or("".into(), Cow::from),
        };
        let file_name = path.rsplit(['/', '\\']).next().unwrap_or_default().to_owned();
        Some(Self { name: value("name")?.to_ascii_lowercase(), file_name })
    }
}

/// What follows the first `;`. In quotes a backslash is itself, since browsers send paths as
/// they are; before a quote it escapes that, as some clients do.
fn parameters(line: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = line;
    while let Some((name, value)) = rest.split_once(';').and_then(|(_, after)| after.split_once('=')) {
        let name = name.trim().to_ascii_lowercase();
        let value = value.trim_start();
        if let Some(quoted) = value.strip_prefix('"') {
            let mut quotes = quoted.match_indices('"').map(|(at, _)| at);
            let Some(end) = quotes.find(|at| !quoted[..*at].ends_with('\\')) else { break };
            found.push((name, quoted[..end].replace("\\\"", "\"")));
            rest = &quoted[end + 1..];
        } else {
            let end = value.find(';').unwrap_or(value.len());
            found.push((name, value[..end].trim().to_owned()));
            rest = &value[end..];
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(name: &str, value: &str) -> String {
        format!("--x\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    }

    fn fields(fields: &[(&str, &str)]) -> FormFields {
        fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn fields_are_read_up_to_the_file_however_they_arrive() {
        let form = part("key", "a/b") + &part("ACL", "public-read") + &part("file", "--x is not the end");
        let want = fields(&[("key", "a/b"), ("acl", "public-read")]);
        let begins = form.find("--x is not").unwrap();
        for cut in 0..form.len() {
            let (fields, bytes) = (want.clone(), Bytes::from(form[..cut].to_owned()));
            let expected = if cut < begins { Head::More } else { Head::Whole { fields, bytes } };
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

    #[test]
    fn a_files_name_is_what_follows_its_folders_however_it_is_written() {
        for (parameter, name) in [
            ("", ""),
            (r#"; filename="""#, ""),
            (r#"; filename="a.txt""#, "a.txt"),
            ("; filename=a.txt", "a.txt"),
            (r#"; filename="C:\Program Files\a b.txt""#, "a b.txt"),
            (r#"; filename="x/../a;name=b.txt"; size=3"#, "a;name=b.txt"),
            (r#"; filename="a\"b.txt""#, "a\"b.txt"),
            (r#"; filename="ü.txt""#, "ü.txt"),
            (r#"; filename="u.txt"; filename*=UTF-8''%C3%BC%2fa%20ü.txt"#, "a ü.txt"),
            (r#"; filename="never ends"#, ""),
        ] {
            let headers = "\r\nContent-Type: a; b=c\r\ncontent-disposition: form-data; name=FILE";
            let disposition = Disposition::of(format!("{headers}{parameter}").as_bytes()).unwrap();
            assert_eq!((disposition.name.as_str(), disposition.file_name.as_str()), ("file", name));
        }
    }

    #[test]
    fn a_form_does_not_grow_beyond_its_limit_by_its_files_name() {
        let form = |times: usize, name: &str| {
            let file = format!("--x\r\nContent-Disposition: form-data; name=file; filename={name}\r\n\r\n");
            read((part("key", &"${filename}".repeat(times)) + &file).as_bytes(), b"--x")
        };
        let Head::Whole { fields, .. } = form(2, "ab") else { panic!("it is whole") };
        assert_eq!(fields["key"], "abab");
        assert_eq!(form(2000, &"n".repeat(1000)), Head::Malformed);
    }

    #[tokio::test]
    async fn the_body_is_given_back_whole_with_the_files_name_filled_in() {
        let file = |of: &str| {
            let headers = format!("--x\r\nA: b\r\nContent-Disposition: form-data; name=\"file\"{of}\r\nC: d");
            headers + "\r\n\r\nall of ${filename}\r\n--x--\r\n"
        };
        let form = part("key", "a/${filename}") + &part("x", "${filename}, $${filename}");
        let form = form + &file(r#"; filename="d\f.txt""#);
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, "multipart/form-data; boundary=\"x\"".parse().unwrap());
        let context = RequestContext::of(&http::Extensions::new());
        let body = peek(s3s::Body::from(Bytes::from(form)), &headers, &context).await;
        let given = BodyExt::collect(body).await.unwrap().to_bytes();
        assert_eq!(given, part("key", "a/f.txt") + &part("x", "f.txt, $f.txt") + &file(""));
        assert_eq!(context.form(), Some(&fields(&[("key", "a/f.txt"), ("x", "f.txt, $f.txt")])));
    }
}
