//! Objects, through S3: presigned requests, with what else they carry signed as headers.

use std::time::Duration;

use atoll_simulation::{
    linearizability::register::{Condition, Value},
    load::{Answer, Outcome, Page, PageEntry, Span},
};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use rusty_s3::{
    S3Action,
    actions::{
        AbortMultipartUpload, CompleteMultipartUpload, CreateBucket, CreateMultipartUpload, DeleteBucket,
        DeleteObject, GetObject, ListObjectsV2, PutObject, UploadPart,
    },
};

use super::{Door, Lost, Reply, done};

/// The user header that tells an object's value.
const VALUE_HEADER: &str = "x-amz-meta-value";
const PRESIGNED_FOR: Duration = Duration::from_secs(3600);

/// Extra headers of a request to S3.
type Extra = Vec<(&'static str, String)>;

fn conditions(condition: Condition) -> Extra {
    match condition {
        Condition::None => Vec::new(),
        Condition::Absent => vec![("if-none-match", "*".into())],
        Condition::Is(value) => vec![("if-match", quoted(&value.etag()))],
    }
}

fn quoted(etag: &str) -> String {
    format!("\"{etag}\"")
}

fn idempotency(id: Option<u128>) -> Extra {
    id.map(|id| ("x-atoll-idempotency-key", format!("{id:032x}"))).into_iter().collect()
}

impl Reply {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// S3's code in an error's body; it may come with a 200.
    fn code(&self) -> Option<String> {
        self.between("<Code>", "</Code>")
    }

    /// Cut out, not parsed: XML has no word for some of our keys (S3, Amazon S3 User Guide,
    /// "XML related object key constraints").
    fn between(&self, open: &str, close: &str) -> Option<String> {
        let text = self.text();
        let (_, rest) = text.split_once(open)?;
        rest.split_once(close).map(|(found, _)| found.to_owned())
    }
}

impl Door {
    async fn ask<'a, A: S3Action<'a>>(
        &'a self,
        mut action: A,
        extra: Extra,
        body: Bytes,
    ) -> Result<Reply, Lost> {
        let method = match A::METHOD {
            rusty_s3::Method::Get => Method::GET,
            rusty_s3::Method::Put => Method::PUT,
            rusty_s3::Method::Post => Method::POST,
            rusty_s3::Method::Delete => Method::DELETE,
            rusty_s3::Method::Head => Method::HEAD,
        };
        for (name, value) in &extra {
            action.headers_mut().insert(*name, value.clone());
        }
        let mut request = Request::builder().method(method).uri(action.sign(PRESIGNED_FOR).as_str());
        for (name, value) in extra {
            request = request.header(name, value);
        }
        let request = request.body(Full::new(body)).map_err(|_| Lost::NotSent)?;
        self.send(request).await
    }

    /// What is left when an operation's own answers were looked for.
    fn other(&self, what: &str, reply: &Reply) -> Outcome {
        if reply.status.is_server_error() {
            return Outcome::Unknown;
        }
        self.strange.note(format!("{what} was answered {} {}", reply.status, reply.text()));
        Outcome::NotDone
    }

    fn written(&self, what: &str, reply: &Reply) -> Outcome {
        match (reply.status, reply.code().as_deref()) {
            (_, Some("PreconditionFailed")) => Outcome::Answered(Answer::Refused),
            // `If-Match` of what is not there.
            (_, Some("NoSuchKey")) => Outcome::Answered(Answer::Refused),
            (_, Some("NoSuchUpload")) => Outcome::Answered(Answer::NoUpload),
            (_, Some("ServiceUnavailable" | "InternalError")) => Outcome::Unknown,
            (StatusCode::PRECONDITION_FAILED, _) => Outcome::Answered(Answer::Refused),
            (status, None) if status.is_success() => done(),
            _ => self.other(what, reply),
        }
    }

    pub async fn get(&self, key: &str, span: Option<Span>) -> Result<Outcome, Lost> {
        let range = span.map(|span| ("range", format!("bytes={}-{}", span.first, span.last)));
        let action = GetObject::new(&self.bucket, Some(&self.credentials), key);
        let reply = self.ask(action, range.into_iter().collect(), Bytes::new()).await?;
        Ok(match reply.status {
            StatusCode::NOT_FOUND if reply.code().as_deref() == Some("NoSuchKey") => {
                Outcome::Answered(Answer::Found(None))
            }
            // A shorter object than the one that the client saw.
            StatusCode::RANGE_NOT_SATISFIABLE => Outcome::NotDone,
            status if status.is_success() => {
                let value =
                    reply.headers.get(VALUE_HEADER).and_then(|value| value.to_str().ok()?.parse().ok());
                let value = value.map(Value);
                let wrong = match value {
                    None => Some("an object that tells no value".to_owned()),
                    Some(value) => {
                        let first = span.map_or(0, |span| span.first);
                        value.difference(first, &reply.body, span.is_none())
                    }
                };
                Outcome::Answered(wrong.map_or(Answer::Found(value), Answer::WrongBytes))
            }
            _ => self.other("a get", &reply),
        })
    }

    pub async fn put(
        &self,
        key: &str,
        value: Value,
        condition: Condition,
        id: Option<u128>,
    ) -> Result<Outcome, Lost> {
        let mut extra = conditions(condition);
        extra.extend(idempotency(id));
        extra.push((VALUE_HEADER, value.0.to_string()));
        let action = PutObject::new(&self.bucket, Some(&self.credentials), key);
        Ok(self.written("a put", &self.ask(action, extra, value.body()).await?))
    }

    pub async fn delete(&self, key: &str, condition: Condition, id: Option<u128>) -> Result<Outcome, Lost> {
        let mut extra = conditions(condition);
        extra.extend(idempotency(id));
        let action = DeleteObject::new(&self.bucket, Some(&self.credentials), key);
        Ok(self.written("a delete", &self.ask(action, extra, Bytes::new()).await?))
    }

    pub async fn copy(
        &self,
        from: &str,
        value: Value,
        to: &str,
        condition: Condition,
        id: Option<u128>,
    ) -> Result<Outcome, Lost> {
        let mut extra = conditions(condition);
        extra.extend(idempotency(id));
        let source = utf8_percent_encode(from, NON_ALPHANUMERIC);
        extra.extend([
            ("x-amz-copy-source", format!("/{}/{source}", self.bucket.name())),
            ("x-amz-copy-source-if-match", quoted(&value.etag())),
            // The source's headers may be another value's with the same bytes.
            ("x-amz-metadata-directive", "REPLACE".into()),
            (VALUE_HEADER, value.0.to_string()),
        ]);
        let action = PutObject::new(&self.bucket, Some(&self.credentials), to);
        let outcome = self.written("a copy", &self.ask(action, extra, Bytes::new()).await?);
        Ok(match outcome {
            // The destination has no condition, so it was the source's.
            Outcome::Answered(Answer::Refused) if condition == Condition::None => {
                Outcome::Answered(Answer::SourceRefused)
            }
            Outcome::Answered(Answer::Refused) => Outcome::NotDone,
            outcome => outcome,
        })
    }

    pub async fn list(
        &self,
        prefix: String,
        delimiter: Option<String>,
        after: Option<String>,
        limit: usize,
    ) -> Result<Outcome, Lost> {
        let mut action = ListObjectsV2::new(&self.bucket, Some(&self.credentials));
        action.with_prefix(prefix);
        action.with_max_keys(limit);
        if let Some(delimiter) = delimiter {
            action.with_delimiter(delimiter);
        }
        if let Some(after) = after {
            action.with_start_after(after);
        }
        let reply = self.ask(action, Vec::new(), Bytes::new()).await?;
        if !reply.status.is_success() {
            return Ok(self.other("a list", &reply));
        }
        let Ok(listed) = ListObjectsV2::parse_response(&reply.text()) else {
            self.strange.note(format!("a list was answered {}", reply.text()));
            return Ok(Outcome::NotDone);
        };
        let is_last = listed.next_continuation_token.is_none();
        let entries: Vec<PageEntry> = listed
            .contents
            .into_iter()
            .map(|entry| PageEntry {
                key: entry.key,
                etag: entry.etag.unwrap_or_default().trim_matches('"').to_owned(),
                size: entry.size.unwrap_or_default(),
            })
            .collect();
        let prefixes: Vec<String> = listed.common_prefixes.into_iter().map(|found| found.prefix).collect();
        // The next page is asked for by `start-after`, as any page is.
        let last = entries.last().map(|entry| &entry.key).max(prefixes.last()).cloned();
        let next = if is_last { None } else { last };
        Ok(Outcome::Answered(Answer::Page(Page { entries, prefixes, next })))
    }

    pub async fn create_upload(&self, key: &str, value: Value) -> Result<Outcome, Lost> {
        let action = CreateMultipartUpload::new(&self.bucket, Some(&self.credentials), key);
        let extra = vec![(VALUE_HEADER, value.0.to_string())];
        let reply = self.ask(action, extra, Bytes::new()).await?;
        Ok(match reply.between("<UploadId>", "</UploadId>") {
            Some(upload) if reply.status.is_success() => Outcome::Answered(Answer::Upload(upload)),
            _ => self.other("the beginning of an upload", &reply),
        })
    }

    pub async fn upload_part(
        &self,
        key: &str,
        upload: &str,
        value: Value,
        part: u16,
    ) -> Result<Outcome, Lost> {
        let bytes = value.parts().swap_remove(usize::from(part) - 1);
        let action = UploadPart::new(&self.bucket, Some(&self.credentials), key, part, upload);
        Ok(self.written("a part", &self.ask(action, Vec::new(), bytes).await?))
    }

    pub async fn complete_upload(
        &self,
        key: &str,
        upload: &str,
        value: Value,
        condition: Condition,
    ) -> Result<Outcome, Lost> {
        let etags: Vec<String> = value.part_etags().iter().map(|etag| quoted(etag)).collect();
        let etags = etags.iter().map(String::as_str);
        let action = CompleteMultipartUpload::new(&self.bucket, Some(&self.credentials), key, upload, etags);
        let body = action.clone().body();
        Ok(self.written("a completion", &self.ask(action, conditions(condition), body.into()).await?))
    }

    pub async fn abort_upload(&self, key: &str, upload: &str) -> Result<Outcome, Lost> {
        let action = AbortMultipartUpload::new(&self.bucket, Some(&self.credentials), key, upload);
        Ok(self.written("an abortion", &self.ask(action, Vec::new(), Bytes::new()).await?))
    }

    /// Makes the bucket; that it is there already is as good.
    pub async fn make_bucket(&self) -> Result<(), String> {
        let action = CreateBucket::new(&self.bucket, &self.credentials);
        match self.ask(action, Vec::new(), Bytes::new()).await {
            Ok(reply) if reply.status.is_success() => Ok(()),
            Ok(reply) if reply.code().as_deref() == Some("BucketAlreadyOwnedByYou") => Ok(()),
            Ok(reply) => Err(format!("{} {}", reply.status, reply.text())),
            Err(Lost::NotSent) => Err("nobody listens there".into()),
            Err(Lost::Unknown) => Err("it did not answer".into()),
        }
    }

    /// Removes the bucket and all that is in it.
    pub async fn remove_bucket(&self) -> Result<(), String> {
        loop {
            let page = match self.list(String::new(), None, None, 1000).await {
                Ok(Outcome::Answered(Answer::Page(page))) => page,
                _ => return Err("it can't be listed".into()),
            };
            if page.entries.is_empty() {
                break;
            }
            for entry in page.entries {
                if !matches!(self.delete(&entry.key, Condition::None, None).await, Ok(outcome) if outcome == done())
                {
                    return Err(format!("{:?} can't be deleted", entry.key));
                }
            }
        }
        let action = DeleteBucket::new(&self.bucket, &self.credentials);
        match self.ask(action, Vec::new(), Bytes::new()).await {
            Ok(reply) if reply.status.is_success() => Ok(()),
            Ok(reply) => Err(reply.text()),
            Err(_) => Err("it did not answer".into()),
        }
    }
}
