//! The S3 door: `s3s` reads requests and checks signatures, these files translate each
//! operation to `atoll-objects`, one file per verb.
//!
//! A request's way: [`serve_s3`] (connections, slow clients) → [`gateway`] (what is refused
//! at once, the guarded body, ids, metrics) → `s3s` (signature, XML) → [`auth`] (the
//! decision) → one of the verbs below → `atoll_objects::Objects`.
//!
//! Mind of `s3s` 0.14.1: it accepts SigV2 ([`unsupported`] refuses it first), buffers a
//! declared `aws-chunked` chunk whole ([`body`] caps it), verifies no checksum and no
//! decoded length (both are checked as the body is stored), and logs signatures and
//! malformed bodies ([`may_log`] keeps it quiet).

mod acl;
mod actions;
mod attributes;
mod auth;
mod body;
mod bucket;
mod caller;
mod checksum;
mod context;
mod copy;
mod cors;
mod delete;
mod domains;
mod encryption;
mod error;
mod facts;
mod form;
mod form_fields;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod gateway;
mod get;
mod grants;
mod headers;
mod lifecycle;
mod list;
mod metrics;
mod multipart;
mod operations;
mod policy;
mod put;
mod tags;
mod unsupported;
mod versions;
mod whole_checksum;

use std::sync::Arc;

use atoll_access::Access;
use atoll_objects::Objects;
use atoll_runtime::Runtime;
use rand::Rng;
use s3s::{
    config::{S3Config, StaticConfigProvider},
    service::S3ServiceBuilder,
};

pub use crate::serve::serve_s3;
pub(crate) use bucket::forget_rules;
pub use facts::ConnectionInfo;
pub use gateway::S3Gateway;
pub(crate) use metrics::Counted;
pub use metrics::S3Metrics;

/// 8 MiB: a DeleteObjects of 1,000 keys of 1,024 bytes, each written as `&quot;`, is 6 MiB;
/// a CompleteMultipartUpload of 10,000 parts with SHA-256s is 2.
const XML_BYTES_MAX: usize = 8 << 20;

/// What a node hands to its S3 door.
pub struct S3Parts {
    pub runtime: Runtime,
    pub objects: Objects,
    pub access: Access,
    /// What `GetBucketLocation` says. Requests signed for any region are served.
    pub region: String,
    /// The door's names: under `bucket.name` a bucket is asked in virtual-hosted style.
    pub domains: Vec<String>,
    pub metrics: S3Metrics,
}

/// The operations on objects, in S3's words. Holds no state.
struct S3Operations {
    objects: Objects,
    access: Access,
    region: String,
}

impl S3Gateway {
    pub fn new(parts: S3Parts) -> Self {
        let S3Parts { runtime, objects, access, region, domains, metrics } = parts;
        let domains = domains::Domains::new(domains);
        let operations = S3Operations { objects: objects.clone(), access: access.clone(), region };
        let mut builder = S3ServiceBuilder::new(operations);
        builder.set_host(domains.clone());
        builder.set_auth(auth::Doorkeeper::new(access.clone(), objects.clone()));
        builder.set_access(auth::Doorkeeper::new(access.clone(), objects.clone()));
        builder.set_config(config());
        let first_id = runtime.rng().random();
        let front = gateway::Front { runtime, access, objects, domains, metrics };
        Self::of(front, builder.build(), first_id)
    }
}

fn config() -> Arc<StaticConfigProvider> {
    let mut config = S3Config::default();
    config.xml_max_body_size = XML_BYTES_MAX;
    config.post_object_max_file_size = form::FORM_FILE_BYTES_MAX;
    config.form_max_fields_size = form::FORM_FIELDS_BYTES_MAX;
    config.form_max_field_size = form::FORM_FIELDS_BYTES_MAX;
    Arc::new(StaticConfigProvider::new(Arc::new(config)))
}

/// Whether an event may be logged at all: `s3s` logs computed signatures at debug and
/// malformed bodies at error, and everything it could tell is in our own access log. To be
/// put over every subscriber, whatever filter the user chose.
pub fn may_log(metadata: &tracing::Metadata<'_>) -> bool {
    let target = metadata.target();
    target != "s3s" && !target.starts_with("s3s::")
}
