//! PutObject.

use atoll_objects::{PutBody, PutObject, PutObjectError};
use futures_util::StreamExt;
use http::HeaderMap;
use s3s::{
    S3Request, S3Response, S3Result,
    dto::{PutObjectInput, PutObjectOutput, StreamingBlob},
    s3_error,
};

use super::{
    S3Operations,
    caller::Caller,
    checksum::{ChecksumFields, RequestChecksum, content_md5, set_checksums},
    context::RequestContext,
    encryption::{Asked, say_encryption},
    error, headers,
    versions::version_text,
};

/// S3's limit for one put, and for one part.
pub(crate) const PUT_BYTES_MAX: u64 = 5 << 30;

impl S3Operations {
    pub(crate) async fn put(&self, req: S3Request<PutObjectInput>) -> S3Result<S3Response<PutObjectOutput>> {
        let context = RequestContext::of(&req.extensions);
        let asked = Asked::of(&req)?;
        let acl = Caller::of(&req.extensions)?.acl_of_new(&req.headers, &req.input.key).await?;
        let access_key = req.credentials.as_ref().map(|credentials| credentials.access_key.as_str());
        let input = req.input;
        let idempotency =
            headers::idempotency(&req.headers, access_key, &req.method, &input.bucket, &input.key);
        let checksum = RequestChecksum::of(&req.headers, req.trailing_headers)?;
        let body = body_of(&req.headers, input.body, input.content_length, checksum)?;
        let object_headers = headers::GivenHeaders {
            content_type: input.content_type,
            content_encoding: input.content_encoding,
            content_disposition: input.content_disposition,
            content_language: input.content_language,
            cache_control: input.cache_control,
            expires: input.expires,
            website_redirect_location: input.website_redirect_location,
            metadata: input.metadata,
            tagging: input.tagging,
            acl,
        };
        let put = PutObject {
            bucket: headers::bucket(&input.bucket)?,
            key: headers::key(input.key)?,
            headers: object_headers.into_object_headers()?,
            conditions: headers::write_conditions(&req.headers),
            idempotency,
            encryption: asked.encryption(),
            body,
        };
        let result = self.objects.put(put).await;
        let result = result.map_err(|error: PutObjectError| error::of_body(&context, error))?;
        let mut output = PutObjectOutput {
            e_tag: Some(headers::etag(&result.etag)),
            version_id: version_text(result.version),
            ..Default::default()
        };
        output.checksum_type = set_checksums!(output, ChecksumFields::of(result.checksum.as_ref()));
        say_encryption!(output, asked.said(result.encryption));
        Ok(S3Response::new(output))
    }
}

/// A request's body with what it must hold to.
pub(crate) fn body_of(
    headers: &HeaderMap,
    body: Option<StreamingBlob>,
    length: Option<i64>,
    checksum: RequestChecksum,
) -> S3Result<PutBody> {
    let length = length.map(u64::try_from).transpose();
    let length = length.map_err(|_| s3_error!(InvalidArgument, "Content-Length is negative"))?;
    if length.is_some_and(|length| length > PUT_BYTES_MAX) {
        return Err(s3_error!(EntityTooLarge, "Your proposed upload exceeds the maximum allowed size"));
    }
    let stream = match body {
        Some(body) => body.boxed(),
        None => futures_util::stream::empty().boxed(),
    };
    let mut put = PutBody::new(stream);
    put.length = length;
    put.content_md5 = content_md5(headers)?;
    put.digests.push(checksum.into_digest());
    Ok(put)
}
