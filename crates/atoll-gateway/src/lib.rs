//! Protocols at the edge: S3 ([`s3`]) and the admin API over HTTP ([`admin`]).
//!
//! Translates between what clients speak and what the services offer. It decides nothing
//! (who may do what is asked of `atoll-access`) and keeps nothing, so any node's gateway
//! answers for the whole cluster.

pub mod admin;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
pub mod s3;
mod serve;
