//! Bucket policies: S3's access policy language, as far as it is about buckets and
//! objects. A document is read whole or refused: what is not known here is never skipped
//! ([`MalformedPolicy`] says what and where).
//!
//! ```text
//! text ─ json (no duplicate names) ─ document (statements) ─ evaluate (a verdict)
//!                                     ├ pattern: * ? and ${variables}
//!                                     └ condition: operators over a request's facts
//! ```
//!
//! Pure: what a request is, comes in as [`Facts`]. `tests/policies.rs` holds it against a
//! plain model of the language.

mod condition;
mod date;
mod document;
mod evaluate;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod json;
mod pattern;

pub use date::{iso as iso_time, parse as parse_time};
pub use document::{MalformedPolicy, POLICY_BYTES_MAX, Policy};
pub use evaluate::{Ask, Facts, Verdict};
