//! Who may do what: users, access keys, admin tokens, grants, bucket policies, and the one
//! decision point that every door asks ([`Access::decide`]).
//!
//! The truth is records in shard 0; each node keeps a copy that it confirms every
//! [`REFRESH_EVERY`]. An answer rests on a copy that was confirmed at most
//! [`STALENESS_MAX`] ago, or on shard 0 itself, or there is none
//! ([`AccessError::Unavailable`]): so a revocation holds everywhere within 5 s (rule 16).
//!
//! What it denies, and what administrators do, is in the [`audit`] trail.
//!
//! It knows nothing of HTTP or of how a request was signed: a door finds the secret
//! here, checks the signature itself, and asks for the decision.

mod access;
mod acl;
mod action;
mod administration;
pub mod audit;
mod content;
mod decision;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod guard;
mod limit;
mod noted;
pub mod policy;
mod records;
mod restore;
mod rights;
mod secret;

pub use access::{Access, AccessError, REFRESH_EVERY, STALENESS_MAX};
pub use acl::{FoundObject, ObjectAcls};
pub use action::{Action, Scope};
pub use administration::{ChangeError, NewUser, draw_key};
pub use decision::{BucketOf, Decision, Principal, Request, canonical_id};
pub use guard::{KeptPolicy, PutPolicyError};
pub use noted::NotedRequest;
pub use policy::{Facts, iso_time, parse_time};
pub use records::{
    BucketId, BucketRules, KeyRecord, Ownership, PolicyRecord, PublicAccessBlock, ROOT_USER, Refused,
    TokenRecord, UserRecord, register,
};
pub use restore::{KEPT_PREFIXES, KeptRecord};
pub use rights::{ParseRightError, Rights, UserRights};
pub use secret::{AdminToken, Secret, TokenHash};
