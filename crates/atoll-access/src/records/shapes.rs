//! The records: one versioned format each.

use std::collections::BTreeMap;

use atoll_types::{AclGrant, Format, FormatError, WallTime};
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
    pub ownership: Ownership,
    /// `None` is private. Says nothing while ACLs are disabled.
    pub acl: Option<Vec<AclGrant>>,
}

/// Version 1 knew neither ownership nor ACLs.
#[derive(Serialize, Deserialize)]
struct FirstRules {
    grants: BTreeMap<String, Rights>,
    policy: Option<PolicyRecord>,
    public_access_block: Option<PublicAccessBlock>,
}

impl Format for FirstRules {
    const NAME: &'static str = "bucket rules";
    const VERSION: u8 = 1;
}

/// What version 1 can say is written in it still (rule 18).
impl Format for BucketRules {
    const NAME: &'static str = "bucket rules";
    const VERSION: u8 = 2;

    fn encode(&self) -> Vec<u8> {
        if !self.has_acls() {
            let (grants, policy) = (self.grants.clone(), self.policy.clone());
            return FirstRules { grants, policy, public_access_block: self.public_access_block }.encode();
        }
        postcard::to_extend(self, vec![Self::VERSION]).expect("derived types always encode")
    }

    fn decode_older(version: u8, rest: &[u8]) -> Result<Self, FormatError> {
        let FirstRules { grants, policy, public_access_block } =
            FirstRules::decode(&[&[version], rest].concat())?;
        Ok(Self { grants, policy, public_access_block, ..Self::default() })
    }
}

/// S3's object ownership: whose an object is that another than the bucket's owner writes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ownership {
    /// The bucket owner's, and ACLs are disabled.
    #[default]
    BucketOwnerEnforced,
    /// The bucket owner's if its writer gives that all control, as the canned ACL says it.
    BucketOwnerPreferred,
    /// Its writer's.
    ObjectWriter,
}

impl Ownership {
    pub const ALL: [Ownership; 3] =
        [Ownership::BucketOwnerEnforced, Ownership::BucketOwnerPreferred, Ownership::ObjectWriter];

    /// S3's name for it.
    pub fn name(self) -> &'static str {
        match self {
            Ownership::BucketOwnerEnforced => "BucketOwnerEnforced",
            Ownership::BucketOwnerPreferred => "BucketOwnerPreferred",
            Ownership::ObjectWriter => "ObjectWriter",
        }
    }

    pub fn has_acls(self) -> bool {
        self != Ownership::BucketOwnerEnforced
    }
}

impl BucketRules {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Says something of ACLs, which programs before them can't read.
    pub fn has_acls(&self) -> bool {
        self.ownership.has_acls() || self.acl.is_some()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_without_acls_are_written_and_read_as_before_there_were_any() {
        let block = Some(PublicAccessBlock { ignore_public_acls: true, ..Default::default() });
        let grants = BTreeMap::from([("id".to_owned(), Rights::READ)]);
        let former = FirstRules { grants: grants.clone(), policy: None, public_access_block: block }.encode();
        let mut rules = BucketRules { grants, public_access_block: block, ..BucketRules::default() };
        assert_eq!(rules.encode(), former);
        assert_eq!(BucketRules::decode(&former).as_ref(), Ok(&rules));
        rules.ownership = Ownership::ObjectWriter;
        rules.acl = Some(vec![AclGrant::full_control("id".into())]);
        assert_eq!(rules.encode()[0], 2);
        assert_eq!(BucketRules::decode(&rules.encode()), Ok(rules));
    }
}
