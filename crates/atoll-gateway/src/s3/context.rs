//! What one request carries along besides what it asks: its id, which operation it turned
//! out to be, and why its body broke off.

use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicU64, Ordering},
};

use http::Extensions;
use s3s::S3ErrorCode;

use super::form_fields::FormFields;

/// Why a body ended before its end: said by whoever stopped it, read by whoever answers.
/// (`s3s` wraps a body's errors so that their type is lost on the way.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyFailure {
    #[error("a chunk of {declared} bytes was declared, {max} are allowed")]
    ChunkTooLarge { declared: u64, max: u64 },
    #[error("the aws-chunked framing is malformed")]
    MalformedChunk,
    #[error("nothing arrived for too long")]
    TimedOut,
    #[error("the connection was closed in the middle of the body")]
    Disconnected,
    #[error("the body does not have the announced digest")]
    BadDigest,
}

impl BodyFailure {
    pub(crate) fn code(self) -> S3ErrorCode {
        match self {
            BodyFailure::ChunkTooLarge { .. } | BodyFailure::MalformedChunk => S3ErrorCode::InvalidRequest,
            BodyFailure::TimedOut => S3ErrorCode::RequestTimeout,
            BodyFailure::Disconnected => S3ErrorCode::IncompleteBody,
            BodyFailure::BadDigest => S3ErrorCode::BadDigest,
        }
    }
}

/// Shared by the layers that one request passes through.
#[derive(Clone)]
pub(crate) struct RequestContext(Arc<Inner>);

struct Inner {
    id: RequestId,
    /// Written once the operation is known and allowed; never cleared.
    operation: OnceLock<&'static str>,
    /// Written when it has come to a decision; never cleared.
    decided: OnceLock<()>,
    /// Written by the body when it breaks off; never cleared.
    failure: OnceLock<BodyFailure>,
    /// Written when a form's fields have arrived; never cleared.
    form: OnceLock<FormFields>,
}

impl RequestContext {
    pub(crate) fn new(id: RequestId) -> Self {
        Self(Arc::new(Inner {
            id,
            operation: OnceLock::new(),
            decided: OnceLock::new(),
            failure: OnceLock::new(),
            form: OnceLock::new(),
        }))
    }

    /// The context that the front put beside the request. A request that came another
    /// way gets one of its own.
    pub(crate) fn of(extensions: &Extensions) -> Self {
        extensions.get::<Self>().cloned().unwrap_or_else(|| Self::new(RequestId(0)))
    }

    pub(crate) fn id(&self) -> RequestId {
        self.0.id
    }

    pub(crate) fn set_operation(&self, name: &'static str) {
        let _ = self.0.operation.set(name);
    }

    pub(crate) fn operation(&self) -> Option<&'static str> {
        self.0.operation.get().copied()
    }

    pub(crate) fn set_form(&self, fields: FormFields) {
        let _ = self.0.form.set(fields);
    }

    pub(crate) fn form(&self) -> Option<&FormFields> {
        self.0.form.get()
    }

    /// From here on whoever denies it notes that.
    pub(crate) fn set_decided(&self) {
        let _ = self.0.decided.set(());
    }

    pub(crate) fn is_decided(&self) -> bool {
        self.0.decided.get().is_some()
    }

    pub(crate) fn fail_body(&self, failure: BodyFailure) {
        let _ = self.0.failure.set(failure);
    }

    pub(crate) fn body_failure(&self) -> Option<BodyFailure> {
        self.0.failure.get().copied()
    }
}

/// `x-amz-request-id`: finds a request in the logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RequestId(pub(crate) u64);

impl RequestId {
    /// S3's look: 16 capital hexadecimal digits.
    pub(crate) fn text(self) -> String {
        format!("{:016X}", self.0)
    }
}

/// Gives out ids: a random start per process, then one after another, mixed so that they
/// do not look alike.
pub(crate) struct RequestIds {
    next: AtomicU64,
}

impl RequestIds {
    pub(crate) fn new(start: u64) -> Self {
        Self { next: AtomicU64::new(start) }
    }

    pub(crate) fn next(&self) -> RequestId {
        // An odd multiplier is a permutation of u64: no id comes twice.
        RequestId(self.next.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }
}
