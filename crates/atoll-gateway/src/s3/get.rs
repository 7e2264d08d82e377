//! GetObject, HeadObject, and what else reads one object.

use std::{
    pin::Pin,
    sync::Mutex,
    task::{Context, Poll},
};

use atoll_objects::{BodyOut, GetObject, GetObjectError, ObjectInfo, ReadConditions};
use bytes::Bytes;
use futures_util::Stream;
use http::{HeaderMap, StatusCode};
use s3s::{
    S3Request, S3Response, S3Result, StdError,
    dto::{
        ChecksumMode, GetObjectInput, GetObjectOutput, HeadObjectInput, HeadObjectOutput, Range,
        StreamingBlob,
    },
    s3_error,
    stream::{ByteStream, DynByteStream, RemainingLength},
};

use super::{
    S3Operations,
    caller::Caller,
    checksum::{ChecksumFields, set_checksums},
    encryption::{Asked, say_encryption},
    error::IntoS3,
    headers,
    versions::{self, version_text},
};

impl S3Operations {
    pub(crate) async fn get(&self, req: S3Request<GetObjectInput>) -> S3Result<S3Response<GetObjectOutput>> {
        let caller = Caller::of(&req.extensions)?;
        let asked = Asked::key_only(&req)?;
        let input = req.input;
        let mut request = self.read_request(
            &req.headers,
            &input.bucket,
            input.key,
            input.range,
            input.part_number,
            input.version_id.as_deref(),
        )?;
        request.customer_key = asked.customer_key();
        let ranged = request.range.is_some();
        let got = match (&request.range, headers::if_range(&req.headers)) {
            (Some(_), Some(version)) => self.get_if_range(request, version).await,
            _ => self.objects.get(request).await,
        };
        let got = visible(&caller, got).await?;
        let info = got.info;
        caller.confirm(&info).await?;
        let bytes = got.range.end - got.range.start;
        let whole = bytes == info.size;
        let mut output = GetObjectOutput {
            accept_ranges: Some("bytes".into()),
            body: Some(StreamingBlob::from(OutgoingBody::boxed(got.body, bytes))),
            cache_control: info.headers.cache_control.clone(),
            content_disposition: info.headers.content_disposition.clone(),
            content_encoding: info.headers.content_encoding.clone(),
            content_language: info.headers.content_language.clone(),
            content_length: Some(bytes as i64),
            content_range: content_range(&info, &got.range, ranged && info.size > 0),
            content_type: content_type(&info),
            e_tag: Some(headers::etag(&info.etag)),
            expires: headers::expires(&info.headers),
            last_modified: Some(headers::timestamp(info.modified)),
            metadata: headers::metadata(&info.headers),
            parts_count: input.part_number.and(parts_count(&info)),
            tag_count: tag_count(&info),
            version_id: version_text(info.version),
            website_redirect_location: info.headers.website_redirect_location.clone(),
            ..Default::default()
        };
        // A checksum of the whole says nothing of a range.
        if wants_checksum(input.checksum_mode.as_ref()) && whole {
            output.checksum_type = set_checksums!(output, ChecksumFields::of(info.checksum.as_ref()));
        }
        say_encryption!(output, asked.said(info.encryption));
        Ok(S3Response::new(output))
    }

    pub(crate) async fn head(
        &self,
        req: S3Request<HeadObjectInput>,
    ) -> S3Result<S3Response<HeadObjectOutput>> {
        let caller = Caller::of(&req.extensions)?;
        let asked = Asked::key_only(&req)?;
        let input = req.input;
        let mut request = self.read_request(
            &req.headers,
            &input.bucket,
            input.key,
            input.range,
            input.part_number,
            input.version_id.as_deref(),
        )?;
        request.customer_key = asked.customer_key();
        let range = request.range;
        let info = visible(&caller, self.objects.head(request).await).await?;
        caller.confirm(&info).await?;
        let range = match range {
            None => None,
            Some(range) => Some(range.resolve(&info).ok_or(GetObjectError::InvalidRange { size: info.size }))
                .transpose()
                .map_err(IntoS3::into_s3)?,
        };
        let bytes = range.as_ref().map_or(info.size, |range| range.end - range.start);
        let content_range = range.as_ref().and_then(|range| content_range(&info, range, info.size > 0));
        let status = content_range.is_some().then_some(StatusCode::PARTIAL_CONTENT);
        let mut output = HeadObjectOutput {
            accept_ranges: Some("bytes".into()),
            cache_control: info.headers.cache_control.clone(),
            content_disposition: info.headers.content_disposition.clone(),
            content_encoding: info.headers.content_encoding.clone(),
            content_language: info.headers.content_language.clone(),
            content_length: Some(bytes as i64),
            content_range,
            content_type: content_type(&info),
            e_tag: Some(headers::etag(&info.etag)),
            expires: headers::expires(&info.headers),
            last_modified: Some(headers::timestamp(info.modified)),
            metadata: headers::metadata(&info.headers),
            parts_count: input.part_number.and(parts_count(&info)),
            version_id: version_text(info.version),
            website_redirect_location: info.headers.website_redirect_location.clone(),
            ..Default::default()
        };
        if wants_checksum(input.checksum_mode.as_ref()) && bytes == info.size {
            output.checksum_type = set_checksums!(output, ChecksumFields::of(info.checksum.as_ref()));
        }
        say_encryption!(output, asked.said(info.encryption));
        let mut response = S3Response::new(output);
        response.status = status;
        Ok(response)
    }

    /// What is known of an object without its bytes and its key.
    pub(crate) async fn info(
        &self,
        bucket: &str,
        key: String,
        version: Option<&str>,
    ) -> S3Result<ObjectInfo> {
        let request = self.read_request(&HeaderMap::new(), bucket, key, None, None, version)?;
        self.objects.info(request).await.map_err(IntoS3::into_s3)
    }

    pub(crate) fn read_request(
        &self,
        headers: &HeaderMap,
        bucket: &str,
        key: String,
        range: Option<Range>,
        part: Option<i32>,
        version: Option<&str>,
    ) -> S3Result<GetObject> {
        let part = part.map(|part| {
            let number = u16::try_from(part).ok().filter(|number| (1..=10_000).contains(number));
            number.map(atoll_objects::ByteRange::Part).ok_or_else(|| {
                s3_error!(InvalidArgument, "Part number must be an integer between 1 and 10000, inclusive")
            })
        });
        if range.is_some() && part.is_some() {
            return Err(s3_error!(
                InvalidRequest,
                "Cannot specify both Range header and partNumber query parameter"
            ));
        }
        Ok(GetObject {
            bucket: headers::bucket(bucket)?,
            key: headers::key(key)?,
            version: versions::version(version)?,
            range: part.transpose()?.or(range.map(headers::byte_range)),
            conditions: headers::read_conditions(headers),
            customer_key: None,
        })
    }

    /// The range if the object is still the one that the client has, else all of it.
    async fn get_if_range(
        &self,
        request: GetObject,
        version: ReadConditions,
    ) -> Result<atoll_objects::GotObject, GetObjectError> {
        let mut ranged = request.clone();
        if ranged.conditions.if_match.is_none() && ranged.conditions.if_unmodified_since.is_none() {
            ranged.conditions.if_match = version.if_match;
            ranged.conditions.if_unmodified_since = version.if_unmodified_since;
        }
        match self.objects.get(ranged).await {
            Err(GetObjectError::PreconditionFailed) => {
                self.objects.get(GetObject { range: None, ..request }).await
            }
            other => other,
        }
    }
}

/// Who may not list a bucket is not told which keys are missing in it.
async fn visible<T>(caller: &Caller, got: Result<T, GetObjectError>) -> S3Result<T> {
    if let Err(GetObjectError::NoSuchKey) = got {
        caller.must("s3:ListBucket", None).await?;
    }
    got.map_err(IntoS3::into_s3)
}

fn wants_checksum(mode: Option<&ChecksumMode>) -> bool {
    mode.is_some_and(|mode| mode.as_str() == ChecksumMode::ENABLED)
}

fn content_type(info: &ObjectInfo) -> Option<String> {
    let given = info.headers.content_type.clone();
    Some(given.unwrap_or_else(|| headers::CONTENT_TYPE_DEFAULT.into()))
}

fn content_range(info: &ObjectInfo, range: &std::ops::Range<u64>, ranged: bool) -> Option<String> {
    ranged.then(|| format!("bytes {}-{}/{}", range.start, range.end.saturating_sub(1), info.size))
}

fn parts_count(info: &ObjectInfo) -> Option<i32> {
    (!info.parts.is_empty()).then_some(info.parts.len() as i32)
}

fn tag_count(info: &ObjectInfo) -> Option<i32> {
    (!info.headers.tags.is_empty()).then_some(info.headers.tags.len() as i32)
}

/// A body as `s3s` wants it: its remaining length known, and `Sync`, which a boxed
/// stream is not by itself; the lock is never taken.
struct OutgoingBody {
    stream: Mutex<BodyOut>,
    left: u64,
}

impl OutgoingBody {
    fn boxed(stream: BodyOut, bytes: u64) -> DynByteStream {
        Box::pin(Self { stream: Mutex::new(stream), left: bytes })
    }
}

impl Stream for OutgoingBody {
    type Item = Result<Bytes, StdError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        let stream = this.stream.get_mut().expect("never poisoned");
        stream.as_mut().poll_next(cx).map(|item| {
            item.map(|item| match item {
                Ok(bytes) => {
                    this.left = this.left.saturating_sub(bytes.len() as u64);
                    Ok(bytes)
                }
                Err(error) => {
                    // The status is out; all that is left is to break the connection, so
                    // that the client does not take half an object for a whole one.
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        left = this.left,
                        "a body broke off"
                    );
                    Err(error.into())
                }
            })
        })
    }
}

impl ByteStream for OutgoingBody {
    fn remaining_length(&self) -> RemainingLength {
        RemainingLength::new_exact(self.left as usize)
    }
}
