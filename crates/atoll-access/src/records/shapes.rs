//! The records: one versioned format each.

use std::collections::BTreeMap;

use atoll_types::{Format, FormatError, WallTime};
use serde::{Deserialize, Serialize};

use super::first;
use crate::{Rights, Secret, TokenHash, UserRights};

/// A bucket's id in `atoll-objects`: a later bucket of the same name has another, so it
/// inherits no grant.
pub type BucketId = u64;

/// A user: who owns buckets, and whom keys speak for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UserRecord {
    pub name: String,
    /// The id that S3 shows wherever it shows an owner: 64 hexadecimal digits that say
    /// nothing and never change. A later user of the same name has another.
    pub canonical_id: String,
    pub display_name: String,
    /// Empty if none was given; unique otherwise.
    pub email: String,
    pub rights: UserRights,
    /// The leader's stamp when it was created, here and below.
    pub created: WallTime,
}

impl Format for UserRecord {
    const NAME: &'static str = "user";
    const VERSION: u8 = 1;
}

/// An access key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyRecord {
    pub access_key: String,
    pub secret: Secret,
    pub user: String,
    /// The most that this key may do of what its user may.
    pub rights: Rights,
    /// On each node by itself; `None` is without a limit.
    pub requests_per_second: Option<u32>,
    pub created: WallTime,
}

impl Format for KeyRecord {
    const NAME: &'static str = "access key";
    const VERSION: u8 = 2;

    fn decode_older(version: u8, rest: &[u8]) -> Result<Self, FormatError> {
        first::KeyRecord::decode_rest(version, rest).map(Self::from)
    }
}

/// A token that may use the admin API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    pub hash: TokenHash,
    /// Who holds it: `node <id>` for the token that a node leaves in its data folder.
    pub name: String,
    pub created: WallTime,
}

impl Format for TokenRecord {
    const NAME: &'static str = "admin token";
    const VERSION: u8 = 1;
}

/// Who else than its owner may do what to one bucket.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketRules {
    /// By canonical id.
    pub grants: BTreeMap<String, Rights>,
    pub policy: Option<PolicyRecord>,
    /// `None`: nobody has set one.
    pub public_access_block: Option<PublicAccessBlock>,
}

impl Format for BucketRules {
    const NAME: &'static str = "bucket rules";
    const VERSION: u8 = 1;
}

impl BucketRules {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A bucket policy as it was put, and whom its names meant then.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PolicyRecord {
    /// The document, byte for byte.
    pub text: String,
    /// Canonical ids of the users it names: a later user of such a name is not meant.
    pub users: BTreeMap<String, String>,
}

/// S3's four switches against public access.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PublicAccessBlock {
    /// Refuse ACLs that grant to everyone.
    pub block_public_acls: bool,
    /// Treat such ACLs as if they were not there.
    pub ignore_public_acls: bool,
    /// Refuse policies that grant to everyone.
    pub block_public_policy: bool,
    /// Under such a policy let only the bucket's owner in.
    pub restrict_public_buckets: bool,
}
