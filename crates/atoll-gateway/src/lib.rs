//! Protocols at the edge: S3, and the admin API over HTTP. Translates between what
//! clients speak and what the services offer; decides nothing and keeps nothing.

pub mod admin;
