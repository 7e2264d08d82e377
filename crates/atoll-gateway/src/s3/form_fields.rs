//! The fields of a POST form, read before `s3s` reads them: it hands on only those that it
//! has words for, and what it drops would be accepted and ignored. `${filename}` is filled in
//! here, since a form's policy is about what its fields say then.
//!
//! Two readers of one text must not read two forms: a policy's conditions are checked against
//! what `s3s` reads. So it gets the fields written anew, from what was read here; the fuzz
//! target `form` holds the two against each other.

use std::{
    borrow::Cow,
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use http::{HeaderMap, header};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use percent_encoding::percent_decode_str;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::{
    context::RequestContext,
    form::{FORM_FIELDS_BYTES_MAX, FORMS_AT_ONCE, UNSIGNED_FORMS_AT_ONCE},
};

/// By name, in lower case.
pub(crate) type FormFields = BTreeMap<String, String>;

/// Places for forms whose files lie in memory. A form takes one when its file is first asked
/// for, by when `s3s` has checked its signature; one without a signature waits among its like.
pub(crate) struct FormRoom {
    signed: Arc<Semaphore>,
    unsigned: Arc<Semaphore>,
}

impl Default for FormRoom {
    fn default() -> Self {
        Self {
            signed: Arc::new(Semaphore::new(FORMS_AT_ONCE)),
            unsigned: Arc::new(Semaphore::new(UNSIGNED_FORMS_AT_ONCE)),
        }
    }
}

impl FormRoom {
    fn of(&self, fields: &FormFields) -> Arc<Semaphore> {
        // By SigV2, too, it is refused before its file is read.
        let is_signed = fields.contains_key("x-amz-signature") || fields.contains_key("signature");
        if is_signed { self.signed.clone() } else { self.unsigned.clone() }
    }
}

/// Held until the form is answered: what the file takes of the memory is there until then.
pub(crate) type FormPlace = Arc<OnceLock<OwnedSemaphorePermit>>;

/// `s3s` keeps each frame of a file by itself: single bytes would take it thirty times the room.
const FILE_FRAME_BYTES_MIN: usize = 16 << 10;
/// It gives up if a frame that ends like a boundary begins is followed by one of 64 KiB.
const FILE_FRAME_BYTES_MAX: usize = 32 << 10;

/// Reads a form up to its file, notes its fields in the request's context, and gives the
/// body back with `${filename}` filled in, whose file waits for its place in `room`. Of one that
/// is no form nothing is noted, and nothing given back: `s3s` would begin anew with each frame,
/// to find a form where none is.
pub(crate) async fn peek(
    mut body: s3s::Body,
    headers: &HeaderMap,
    context: &RequestContext,
    room: &FormRoom,
) -> (s3s::Body, FormPlace) {
    let place = FormPlace::default();
    let Some(boundary) = boundary(headers) else { return (body, place) };
    let mut came = BytesMut::new();
    let mut reader = Reader::new(boundary);
    // A body that breaks off says so again when it is read on.
    while let Some(Ok(frame)) = body.frame().await {
        if let Ok(data) = frame.into_data() {
            came.extend_from_slice(&data);
        }
        match reader.read(&came) {
            Head::Whole { fields, end } => {
                let head = Bytes::from(written(boundary, &fields));
                let (room, held) = (room.of(&fields), place.clone());
                context.set_form(fields);
                // By itself, as its size is limited.
                let head = stream::once(std::future::ready(Ok(Frame::data(head))));
                let file = stream::once(async move {
                    let permit = room.acquire_owned().await.expect("never closed");
                    // Asked for once.
                    let _ = held.set(permit);
                    in_large_frames(came.split_off(end), body)
                });
                let whole = head.chain(file.flatten());
                return (s3s::Body::http_body_unsync(StreamBody::new(whole)), place);
            }
            Head::More if came.len() <= FORM_FIELDS_BYTES_MAX => {}
            Head::More | Head::Malformed => return (s3s::Body::empty(), place),
        }
    }
    let whole = in_large_frames(came, body);
    (s3s::Body::http_body_unsync(StreamBody::new(whole)), place)
}

/// What came and what is still to come; what ends a body comes as it is.
fn in_large_frames(
    came: BytesMut,
    body: s3s::Body,
) -> impl Stream<Item = Result<Frame<Bytes>, s3s::StdError>> {
    stream::unfold((came, Some(body)), |(mut came, mut rest)| async {
        while let Some(body) = &mut rest
            && came.len() < FILE_FRAME_BYTES_MIN
        {
            match body.frame().await.map(|frame| frame.map(Frame::into_data)) {
                Some(Ok(Ok(data))) => came.extend_from_slice(&data),
                // Trailers say nothing in a form.
                Some(Ok(Err(_))) => {}
                Some(Err(error)) => return Some((Err(error), (BytesMut::new(), None))),
                None => rest = None,
            }
        }
        let frame = came.split_to(came.len().min(FILE_FRAME_BYTES_MAX)).freeze();
        (!frame.is_empty()).then_some((Ok(Frame::data(frame)), (came, rest)))
    })
}

pub(super) fn boundary(headers: &HeaderMap) -> Option<&str> {
    let kind = headers.get(header::CONTENT_TYPE)?.to_str().ok()?;
    let boundary = kind.split(';').find_map(|part| part.trim().strip_prefix("boundary="))?;
    Some(boundary.trim_matches('"')).filter(|boundary| !boundary.is_empty())
}

/// A form up to its file's bytes. Without the file's headers: its name is used up, and `s3s`
/// takes neither all names that are allowed nor more than two headers.
pub(super) fn written(boundary: &str, fields: &FormFields) -> String {
    let mut head = String::new();
    for (name, value) in fields {
        let disposition = format!("Content-Disposition: form-data; name=\"{name}\"");
        head.push_str(&format!("--{boundary}\r\n{disposition}\r\n\r\n{value}\r\n"));
    }
    head + &format!("--{boundary}\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\n")
}

#[derive(Debug, PartialEq, Eq)]
enum Head {
    /// All that comes before the file, whose bytes begin at `end`.
    Whole {
        fields: FormFields,
        end: usize,
    },
    More,
    Malformed,
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

const LINE_END: &[u8] = b"\r\n";
const HEADERS_END: &[u8] = b"\r\n\r\n";

/// RFC 7578, of a head that grows: what was read once is not read again, or a client that sends
/// it byte by byte would keep a thread busy with it.
struct Reader {
    /// A line's end, and the line that begins with the boundary.
    delimiter: Vec<u8>,
    /// As they came.
    fields: Vec<(String, String)>,
    within: Within,
    /// Where what is being read begins.
    at: usize,
    /// What it ends with does not begin before this.
    searched: usize,
}

#[derive(Debug, PartialEq, Eq)]
enum Within {
    Nothing,
    Headers,
    Value { name: String },
}

impl Reader {
    fn new(boundary: &str) -> Self {
        let delimiter = [LINE_END, b"--", boundary.as_bytes()].concat();
        Self { delimiter, fields: Vec::new(), within: Within::Nothing, at: 0, searched: 0 }
    }

    /// Goes on; `head` is what it was, and more.
    fn read(&mut self, head: &[u8]) -> Head {
        loop {
            let step = match &self.within {
                Within::Nothing => self.first_line(head),
                Within::Headers => self.headers(head),
                Within::Value { .. } => self.value(head),
            };
            if let Err(end) = step {
                return end;
            }
        }
    }

    fn go_on(&mut self, within: Within, at: usize) {
        (self.within, self.at, self.searched) = (within, at, at);
    }

    /// Where `what` begins, from where the last search for it ended.
    fn find(&mut self, head: &[u8], what: &[u8]) -> Result<usize, Head> {
        match find(&head[self.searched..], what) {
            Some(at) => Ok(self.searched + at),
            None => {
                self.searched = self.searched.max((head.len() + 1).saturating_sub(what.len()));
                Err(Head::More)
            }
        }
    }

    /// The boundary, behind an empty line at most.
    fn first_line(&mut self, head: &[u8]) -> Result<(), Head> {
        let line = [&self.delimiter, LINE_END].concat();
        let skipped = if head.starts_with(&LINE_END[..head.len().min(1)]) { 0 } else { LINE_END.len() };
        let line = &line[skipped..];
        if head.len() < line.len() {
            return Err(if line.starts_with(head) { Head::More } else { Head::Malformed });
        }
        if !head.starts_with(line) {
            return Err(Head::Malformed);
        }
        self.go_on(Within::Headers, line.len());
        Ok(())
    }

    fn headers(&mut self, head: &[u8]) -> Result<(), Head> {
        let end = self.find(head, HEADERS_END)?;
        let Disposition { name, file_name } = Disposition::of(&head[self.at..end]).ok_or(Head::Malformed)?;
        let end = end + HEADERS_END.len();
        if name == "file" {
            let fields = self.filled_in(&file_name).ok_or(Head::Malformed)?;
            return Err(Head::Whole { fields, end });
        }
        if name.is_empty() || name.contains(|c: char| c == '"' || c.is_control()) {
            return Err(Head::Malformed);
        }
        self.go_on(Within::Value { name }, end);
        // An empty value's line may be the end of the headers' too.
        self.searched -= LINE_END.len();
        Ok(())
    }

    fn value(&mut self, head: &[u8]) -> Result<(), Head> {
        let delimiter = self.delimiter.clone();
        let end = self.find(head, &delimiter)?;
        let next = end + delimiter.len();
        match head.get(next..next + LINE_END.len()) {
            None => return Err(Head::More),
            Some(LINE_END) => {}
            // The form's end, without a file; or a line that only begins as the boundary does.
            Some(_) => return Err(Head::Malformed),
        }
        let value = head[self.at..end.max(self.at)].to_vec();
        let value = String::from_utf8(value).map_err(|_| Head::Malformed)?;
        if let Within::Value { name } = std::mem::replace(&mut self.within, Within::Headers) {
            self.fields.push((name, value));
        }
        self.go_on(Within::Headers, next + LINE_END.len());
        Ok(())
    }

    /// The last of a name counts. `None` if they get too long, or a value would end where the
    /// file's name has a line of its own.
    fn filled_in(&mut self, file_name: &str) -> Option<FormFields> {
        let delimiter = std::str::from_utf8(&self.delimiter[LINE_END.len()..]).expect("made of a text");
        let (mut fields, mut bytes) = (FormFields::new(), 0);
        for (name, value) in std::mem::take(&mut self.fields) {
            let value =
                filled_in(&value, file_name, FORM_FIELDS_BYTES_MAX.saturating_sub(bytes))?.into_owned();
            if value.split("\r\n").any(|line| line.starts_with(delimiter)) {
                return None;
            }
            bytes += value.len();
            fields.insert(name, value);
        }
        Some(fields)
    }
}

const FILE_NAME: &str = "${filename}";

/// A field's value with the file's name in it; `None` if it gets longer than `room`.
fn filled_in<'a>(value: &'a str, file_name: &str, room: usize) -> Option<Cow<'a, str>> {
    let names = value.matches(FILE_NAME).count();
    if names == 0 {
        return Some(Cow::Borrowed(value));
    }
    let bytes = names.saturating_mul(file_name.len()).saturating_add(value.len());
    (bytes <= room).then(|| Cow::Owned(value.replace(FILE_NAME, file_name)))
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
        // RFC 5987: some clients write what is not ASCII so, behind its charset and language.
        let encoded = value("filename*").and_then(|value| value.splitn(3, '\'').nth(2));
        let path = match encoded {
            Some(encoded) => percent_decode_str(encoded).decode_utf8_lossy(),
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
    use std::convert::Infallible;

    use super::*;

    fn part(name: &str, value: &str) -> String {
        format!("--x\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n")
    }

    fn fields(fields: &[(&str, &str)]) -> FormFields {
        fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
    }

    fn read(head: &[u8]) -> Head {
        Reader::new("x").read(head)
    }

    #[test]
    fn fields_are_read_up_to_the_file_however_they_arrive() {
        let form = part("key", "a/b") + &part("ACL", "public-read") + &part("file", "--x is not the end");
        let want = fields(&[("key", "a/b"), ("acl", "public-read")]);
        let begins = form.find("--x is not").unwrap();
        let mut slowly = Reader::new("x");
        for cut in 0..form.len() {
            let fields = want.clone();
            let expected = if cut < begins { Head::More } else { Head::Whole { fields, end: begins } };
            assert_eq!(read(&form.as_bytes()[..cut]), expected, "{cut}");
            if cut <= begins {
                assert_eq!(slowly.read(&form.as_bytes()[..cut]), expected, "{cut}");
            }
        }
    }

    #[test]
    fn what_is_no_form_has_no_fields() {
        assert_eq!(read(b"--x--"), Head::Malformed);
        assert_eq!(read(b"--x\r\nA: b\r\n\r\nvalue"), Head::Malformed);
        assert_eq!(read((part("key", "k") + "--x--").as_bytes()), Head::Malformed);
        assert_eq!(read(b"hello"), Head::Malformed);
        let no_text = [part("key", "k").as_bytes(), b"\xff\r\n--x\r\n"].concat();
        assert_eq!(read(&no_text), Head::Malformed);
    }

    /// `s3s` takes a line that is the boundary, and no other, for the end of a value. To one who
    /// looks for the boundary alone, such a field had others in it, which no policy's condition
    /// was ever held against.
    #[test]
    fn what_two_readers_would_read_as_two_forms_is_none() {
        let hidden = "--xx\r\nContent-Disposition: form-data; name=\"tagging\"\r\n\r\n<Tagging/>";
        let file = part("file", "bytes");
        for form in [
            part("x-amz-meta-a", &format!("v\r\n{hidden}")) + &file,
            part("key", "a\r\n--x--") + &file,
            "preamble\r\n".to_owned() + &part("key", "k") + &file,
            part("a\n\nb", "value") + &file,
            part("key", "${filename}")
                + "--x\r\nContent-Disposition: form-data; name=file; filename*=UTF-8''%0D%0A--x%0D%0Aa\r\n\r\n",
        ] {
            assert_eq!(read(form.as_bytes()), Head::Malformed, "{form}");
        }
        let empty = "--x\r\nContent-Disposition: form-data; name=\"key\"\r\n\r\n--x\r\n";
        let Head::Whole { fields: read, .. } = read((empty.to_owned() + &file[5..]).as_bytes()) else {
            panic!("it is whole")
        };
        assert_eq!(read, fields(&[("key", "")]));
    }

    /// Each byte in a frame of its own: what was read before is not read again.
    #[test]
    fn a_form_that_comes_byte_by_byte_is_read_once() {
        let form = part("key", &"\r\n--".repeat(FORM_FIELDS_BYTES_MAX / 4));
        let mut reader = Reader::new("x");
        for end in 0..form.len() {
            assert_eq!(reader.read(&form.as_bytes()[..end]), Head::More);
            assert!(end - reader.searched <= reader.delimiter.len().max(HEADERS_END.len()) + 2, "{end}");
        }
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
            ("; filename*=utf-8'en'%C3%BC.txt", "ü.txt"),
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
            read((part("key", &"${filename}".repeat(times)) + &file).as_bytes())
        };
        let Head::Whole { fields, .. } = form(2, "ab") else { panic!("it is whole") };
        assert_eq!(fields["key"], "abab");
        assert_eq!(form(2000, &"n".repeat(1000)), Head::Malformed);
    }

    async fn frames_of(body: &[Bytes]) -> Vec<Bytes> {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, "multipart/form-data; boundary=x".parse().unwrap());
        let context = RequestContext::of(&http::Extensions::new());
        let frames: Vec<_> =
            body.iter().cloned().map(|data| Ok::<_, Infallible>(Frame::data(data))).collect();
        let body = s3s::Body::http_body_unsync(StreamBody::new(stream::iter(frames)));
        let (mut body, _) = peek(body, &headers, &context, &FormRoom::default()).await;
        let mut frames = Vec::new();
        while let Some(frame) = body.frame().await {
            frames.push(frame.unwrap().into_data().unwrap());
        }
        frames
    }

    #[tokio::test]
    async fn a_file_that_comes_byte_by_byte_is_handed_on_in_large_frames() {
        let head =
            Bytes::from(part("key", "a") + "--x\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\n");
        let bytes = Bytes::from(vec![7; 40 << 10]);
        let mut sent: Vec<Bytes> =
            [&head, &bytes].into_iter().flat_map(|part| part.chunks(1)).map(Bytes::copy_from_slice).collect();
        let large = Bytes::from(vec![8; 300 << 10]);
        sent.push(large.clone());
        let frames = frames_of(&sent).await;
        // The head by itself, however much comes with it: `s3s` refuses a long one.
        let sizes: Vec<usize> = frames.iter().map(Bytes::len).collect();
        assert_eq!(sizes[..3], [head.len(), 16 << 10, 16 << 10]);
        assert!(sizes.iter().all(|size| *size <= FILE_FRAME_BYTES_MAX), "{sizes:?}");
        assert!(frames.concat() == [&head[..], &bytes, &large].concat());
        let frames = frames_of(&[[&head[..], &large].concat().into()]).await;
        assert_eq!(frames[0], head);
        assert!(frames.concat() == [&head[..], &large].concat());
    }

    #[tokio::test]
    async fn nothing_is_handed_on_of_what_is_no_form() {
        let almost = "--x\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n\r\n--xyz";
        let endless = Bytes::from(part("a", &"b".repeat(FORM_FIELDS_BYTES_MAX)));
        for head in [Bytes::from(almost), endless] {
            let sent: Vec<Bytes> = head.chunks(1000).map(Bytes::copy_from_slice).collect();
            let line_ends = std::iter::repeat_n(Bytes::from("\r\n"), 1000);
            assert_eq!(frames_of(&[sent, line_ends.collect()].concat()).await, Vec::<Bytes>::new());
        }
        // What breaks off is small, and `s3s` says what is wrong with it.
        assert_eq!(frames_of(&[Bytes::from("--x\r\nCont")]).await, ["--x\r\nCont"]);
    }

    #[tokio::test]
    async fn the_body_is_given_back_whole_with_the_files_name_filled_in() {
        let file = |headers: &str| format!("--x\r\n{headers}\r\n\r\nall of ${{filename}}\r\n--x--\r\n");
        let form = part("KEY", "a/${filename}") + &part("x", "${filename}, $${filename}");
        let headers = "A: b\r\nContent-Disposition: form-data; filename=\"d\\f.txt\"; name=\"file\"\r\nC: d";
        let form = form + &file(headers);
        let mut headers = HeaderMap::new();
        headers.insert(header::CONTENT_TYPE, "multipart/form-data; boundary=\"x\"".parse().unwrap());
        let context = RequestContext::of(&http::Extensions::new());
        let body = s3s::Body::from(Bytes::from(form));
        let (body, _) = peek(body, &headers, &context, &FormRoom::default()).await;
        let given = BodyExt::collect(body).await.unwrap().to_bytes();
        let file = file("Content-Disposition: form-data; name=\"file\"");
        assert_eq!(given, part("key", "a/f.txt") + &part("x", "f.txt, $f.txt") + &file);
        assert_eq!(context.form(), Some(&fields(&[("key", "a/f.txt"), ("x", "f.txt, $f.txt")])));
    }
}
