//! Who may do what: access keys, admin tokens, and the one decision point that every
//! door asks ([`Access::decide`]).
//!
//! The truth is records in shard 0; each node keeps a copy that it confirms every
//! [`REFRESH_EVERY`]. An answer rests on a copy that was confirmed at most
//! [`STALENESS_MAX`] ago, or on shard 0 itself, or there is none
//! ([`AccessError::Unavailable`]): so a revocation holds everywhere within 5 s (rule 16).
//!
//! It knows nothing of HTTP or of how a request was signed: a door finds the secret
//! here, checks the signature itself, and asks for the decision.

mod access;
mod decision;
mod records;
mod secret;

pub use access::{Access, AccessError, REFRESH_EVERY, STALENESS_MAX};
pub use decision::{Decision, Principal, Resource, canonical_id};
pub use records::{KeyRecord, ROOT_USER, TokenRecord, register};
pub use secret::{AdminToken, Secret, TokenHash};
