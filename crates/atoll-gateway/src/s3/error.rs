//! What went wrong, in S3's own codes. Every error enum of `atoll-objects` and
//! `atoll-access` is mapped here and nowhere else.

use atoll_access::AccessError;
use atoll_objects::{
    CompleteUploadError, CopyObjectError, CreateBucketError, CreateUploadError, DeleteBucketError,
    DeleteObjectError, GetObjectError, HeadBucketError, InvalidBucketName, InvalidKey, ListObjectsError,
    PutObjectError, Unavailable, UploadError, UploadPartError, VersionId,
};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use s3s::{S3Error, S3ErrorCode, s3_error};

use super::{context::RequestContext, encryption, headers};

/// How long a client is asked to wait after a 503: an election takes under 3 s.
pub(crate) const RETRY_AFTER_SECONDS: &str = "1";

/// An error that S3 has a code for.
pub(crate) trait IntoS3 {
    fn into_s3(self) -> S3Error;
}

pub(crate) fn no_such_bucket() -> S3Error {
    s3_error!(NoSuchBucket, "The specified bucket does not exist")
}

pub(crate) fn no_such_key() -> S3Error {
    s3_error!(NoSuchKey, "The specified key does not exist.")
}

pub(crate) fn no_such_upload() -> S3Error {
    s3_error!(
        NoSuchUpload,
        "The specified upload does not exist. The upload ID may be invalid, or the upload may have been aborted or completed."
    )
}

pub(crate) fn precondition_failed() -> S3Error {
    s3_error!(PreconditionFailed, "At least one of the pre-conditions you specified did not hold")
}

impl IntoS3 for Unavailable {
    fn into_s3(self) -> S3Error {
        if let Unavailable::DiskFull = self {
            let code = S3ErrorCode::Custom("InsufficientStorage".into());
            let mut error = S3Error::with_message(
                code,
                "The cluster has no room left for objects. Deleting objects or adding a node helps.",
            );
            error.set_status_code(StatusCode::INSUFFICIENT_STORAGE);
            return error;
        }
        let mut error =
            s3_error!(ServiceUnavailable, "The cluster can't answer right now. Please try again.");
        error.set_source(Box::new(self));
        error
    }
}

impl IntoS3 for AccessError {
    fn into_s3(self) -> S3Error {
        let mut error =
            s3_error!(ServiceUnavailable, "Your key can't be confirmed right now. Please try again.");
        error.set_source(Box::new(self));
        error
    }
}

impl IntoS3 for InvalidBucketName {
    fn into_s3(self) -> S3Error {
        s3_error!(InvalidBucketName, "The specified bucket is not valid: {}", self.reason)
    }
}

impl IntoS3 for InvalidKey {
    fn into_s3(self) -> S3Error {
        match self {
            InvalidKey::Empty => s3_error!(InvalidArgument, "The key must not be empty"),
            InvalidKey::TooLong { .. } => s3_error!(KeyTooLongError, "Your key is too long"),
        }
    }
}

impl IntoS3 for CreateBucketError {
    fn into_s3(self) -> S3Error {
        match self {
            CreateBucketError::AlreadyOwnedByYou(_) => s3_error!(
                BucketAlreadyOwnedByYou,
                "Your previous request to create the named bucket succeeded and you already own it."
            ),
            CreateBucketError::AlreadyExists(_) => {
                s3_error!(BucketAlreadyExists, "The requested bucket name is not available.")
            }
            CreateBucketError::Unavailable(cause) => cause.into_s3(),
        }
    }
}

impl IntoS3 for DeleteBucketError {
    fn into_s3(self) -> S3Error {
        match self {
            DeleteBucketError::NoSuchBucket(_) => no_such_bucket(),
            DeleteBucketError::NotEmpty(_) => {
                s3_error!(BucketNotEmpty, "The bucket you tried to delete is not empty")
            }
            DeleteBucketError::Unavailable(cause) => cause.into_s3(),
        }
    }
}

impl IntoS3 for HeadBucketError {
    fn into_s3(self) -> S3Error {
        match self {
            HeadBucketError::NoSuchBucket(_) => no_such_bucket(),
            HeadBucketError::Unavailable(cause) => cause.into_s3(),
        }
    }
}

impl IntoS3 for ListObjectsError {
    fn into_s3(self) -> S3Error {
        match self {
            ListObjectsError::NoSuchBucket(_) => no_such_bucket(),
            ListObjectsError::Unavailable(cause) => cause.into_s3(),
        }
    }
}

impl IntoS3 for GetObjectError {
    fn into_s3(self) -> S3Error {
        match self {
            GetObjectError::NoSuchBucket(_) => no_such_bucket(),
            GetObjectError::NoSuchKey => no_such_key(),
            GetObjectError::NoSuchVersion => {
                s3_error!(NoSuchVersion, "The specified version does not exist.")
            }
            GetObjectError::Deleted { marker } => {
                let mut error = no_such_key();
                error.set_headers(marker_headers(marker));
                error
            }
            GetObjectError::DeleteMarker { version, modified } => {
                let mut error =
                    s3_error!(MethodNotAllowed, "The specified method is not allowed against this resource.");
                let mut map = marker_headers(version);
                map.insert(header::ALLOW, HeaderValue::from_static("DELETE"));
                if let Some(modified) = headers::http_date(modified) {
                    map.insert(header::LAST_MODIFIED, modified);
                }
                error.set_headers(map);
                error
            }
            GetObjectError::PreconditionFailed => precondition_failed(),
            GetObjectError::NotModified(info) => {
                // RFC 9110 section 15.4.5: with the headers that caches key on.
                let mut error = S3Error::new(S3ErrorCode::NotModified);
                let mut map = HeaderMap::new();
                if let Ok(etag) = HeaderValue::try_from(format!("\"{}\"", info.etag)) {
                    map.insert(header::ETAG, etag);
                }
                if let Some(modified) = headers::http_date(info.modified) {
                    map.insert(header::LAST_MODIFIED, modified);
                }
                error.set_headers(map);
                error
            }
            GetObjectError::InvalidRange { size } => {
                let mut error = s3_error!(InvalidRange, "The requested range is not satisfiable");
                let mut map = HeaderMap::new();
                map.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
                if let Ok(range) = HeaderValue::try_from(format!("bytes */{size}")) {
                    map.insert(header::CONTENT_RANGE, range);
                }
                error.set_headers(map);
                error
            }
            GetObjectError::Encryption(cause) => cause.into_s3(),
            GetObjectError::Unavailable(cause) => cause.into_s3(),
        }
    }
}

/// What S3 says beside a refusal that is due to a delete marker.
fn marker_headers(version: VersionId) -> HeaderMap {
    let mut map = HeaderMap::new();
    map.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    map.insert("x-amz-delete-marker", HeaderValue::from_static("true"));
    if let Ok(version) = HeaderValue::try_from(version.to_string()) {
        map.insert("x-amz-version-id", version);
    }
    map
}

impl IntoS3 for PutObjectError {
    fn into_s3(self) -> S3Error {
        match self {
            PutObjectError::NoSuchBucket(_) => no_such_bucket(),
            PutObjectError::NoSuchKey => no_such_key(),
            PutObjectError::PreconditionFailed => precondition_failed(),
            PutObjectError::EntityTooLarge { .. } => {
                s3_error!(EntityTooLarge, "Your proposed upload exceeds the maximum allowed size")
            }
            PutObjectError::IncompleteBody { .. } => s3_error!(
                IncompleteBody,
                "You did not provide the number of bytes specified by the Content-Length HTTP header."
            ),
            PutObjectError::BadDigest => {
                s3_error!(BadDigest, "The Content-MD5 you specified did not match what we received.")
            }
            PutObjectError::BadChecksum { algorithm } => {
                s3_error!(BadDigest, "The {algorithm} you specified did not match the calculated checksum.")
            }
            PutObjectError::Body(source) => body_error(source),
            PutObjectError::Encryption(cause) => encryption::of_upload(cause),
            PutObjectError::Unavailable(cause) => cause.into_s3(),
        }
    }
}

/// A body that broke off inside `s3s`, which keeps its error types to itself but not
/// their text. What broke off before it is in the [`RequestContext`].
fn body_error(source: Box<dyn std::error::Error + Send + Sync>) -> S3Error {
    let text = source.to_string();
    let mut error = if text.contains("Sha256Mismatch") {
        let code = S3ErrorCode::Custom("XAmzContentSHA256Mismatch".into());
        let mut error = S3Error::with_message(
            code,
            "The provided 'x-amz-content-sha256' header does not match what was computed.",
        );
        error.set_status_code(StatusCode::BAD_REQUEST);
        error
    } else if text.contains("SignatureMismatch") {
        s3_error!(SignatureDoesNotMatch, "A chunk's signature does not match its content.")
    } else if text.contains("FormatError") || text.contains("TooLarge") || text.contains("TooMany") {
        s3_error!(InvalidRequest, "The aws-chunked framing of the body is malformed.")
    } else {
        s3_error!(IncompleteBody, "The request body could not be read to its end.")
    };
    error.set_source(source);
    error
}

/// The body's own reason goes before what followed from it.
pub(crate) fn of_body(context: &RequestContext, error: impl IntoS3) -> S3Error {
    match context.body_failure() {
        Some(failure) => S3Error::with_message(failure.code(), failure.to_string()),
        None => error.into_s3(),
    }
}

impl IntoS3 for DeleteObjectError {
    fn into_s3(self) -> S3Error {
        match self {
            DeleteObjectError::NoSuchBucket(_) => no_such_bucket(),
            DeleteObjectError::NoSuchKey => no_such_key(),
            DeleteObjectError::PreconditionFailed => precondition_failed(),
            DeleteObjectError::Unavailable(cause) => cause.into_s3(),
        }
    }
}

impl IntoS3 for CopyObjectError {
    fn into_s3(self) -> S3Error {
        match self {
            CopyObjectError::Source(cause) => source_error(cause),
            CopyObjectError::Destination(cause) => cause.into_s3(),
        }
    }
}

/// A copy never answers 304: a source condition that fails is a 412 (CopyObject,
/// "x-amz-copy-source-if-none-match").
pub(crate) fn source_error(error: GetObjectError) -> S3Error {
    match error {
        GetObjectError::DeleteMarker { .. } => s3_error!(
            InvalidRequest,
            "The source of a copy request may not specifically refer to a delete marker by version id."
        ),
        GetObjectError::NotModified(_) => precondition_failed(),
        error => error.into_s3(),
    }
}

impl IntoS3 for CreateUploadError {
    fn into_s3(self) -> S3Error {
        match self {
            CreateUploadError::NoSuchBucket(_) => no_such_bucket(),
            CreateUploadError::Encryption(cause) => cause.into_s3(),
            CreateUploadError::Unavailable(cause) => cause.into_s3(),
        }
    }
}

impl IntoS3 for UploadPartError {
    fn into_s3(self) -> S3Error {
        match self {
            UploadPartError::NoSuchUpload => no_such_upload(),
            UploadPartError::InvalidPartNumber { max } => {
                s3_error!(InvalidArgument, "Part number must be an integer between 1 and {max}, inclusive")
            }
            UploadPartError::Put(cause) => cause.into_s3(),
            UploadPartError::Source(cause) => source_error(cause),
        }
    }
}

impl IntoS3 for UploadError {
    fn into_s3(self) -> S3Error {
        match self {
            UploadError::NoSuchBucket(_) => no_such_bucket(),
            UploadError::NoSuchUpload => no_such_upload(),
            UploadError::Encryption(cause) => encryption::of_upload(cause),
            UploadError::Unavailable(cause) => cause.into_s3(),
        }
    }
}

impl IntoS3 for CompleteUploadError {
    fn into_s3(self) -> S3Error {
        match self {
            CompleteUploadError::NoSuchBucket(_) => no_such_bucket(),
            CompleteUploadError::NoSuchUpload => no_such_upload(),
            CompleteUploadError::NoSuchKey => no_such_key(),
            CompleteUploadError::PreconditionFailed => precondition_failed(),
            CompleteUploadError::Encryption(cause) => encryption::of_upload(cause),
            CompleteUploadError::InvalidPartOrder => s3_error!(
                InvalidPartOrder,
                "The list of parts was not in ascending order. Parts must be ordered by part number."
            ),
            CompleteUploadError::InvalidPart { number } => s3_error!(
                InvalidPart,
                "Part {number} could not be found. It may not have been uploaded, or its entity tag may not match."
            ),
            CompleteUploadError::PartTooSmall { number, size } => s3_error!(
                EntityTooSmall,
                "Part {number} has {size} bytes: every part but the last must have at least 5 MiB"
            ),
            CompleteUploadError::InvalidPartList => {
                s3_error!(MalformedXML, "The list of parts is empty or too long")
            }
            CompleteUploadError::Unavailable(cause) => cause.into_s3(),
        }
    }
}

/// S3's `BadRequest`, which `s3s` does not know.
pub(crate) fn bad_request(message: String) -> S3Error {
    let mut error = S3Error::with_message(S3ErrorCode::Custom("BadRequest".into()), message);
    error.set_status_code(StatusCode::BAD_REQUEST);
    error
}

/// `NotImplemented`, saying what.
pub(crate) fn not_implemented(what: &str) -> S3Error {
    s3_error!(NotImplemented, "{what} is not implemented")
}

/// S3's words for the codes that `s3s` answers without any.
pub(crate) fn usual_message(code: &str) -> &'static str {
    match code {
        "IncompleteBody" => {
            "You did not provide the number of bytes specified by the Content-Length HTTP header."
        }
        "InternalError" => "We encountered an internal error. Please try again.",
        "InvalidBucketName" => "The specified bucket is not valid.",
        "InvalidURI" => "Couldn't parse the specified URI.",
        "KeyTooLongError" => "Your key is too long.",
        "MalformedXML" => {
            "The XML you provided was not well-formed or did not validate against our published schema."
        }
        "MaxMessageLengthExceeded" => "Your request was too big.",
        "MethodNotAllowed" => "The specified method is not allowed against this resource.",
        "MissingContentLength" => "You must provide the Content-Length HTTP header.",
        "MissingRequestBodyError" => "Request body is empty.",
        "SignatureDoesNotMatch" => {
            "The request signature we calculated does not match the signature you provided. Check your key and signing method."
        }
        _ => "The request was refused.",
    }
}
