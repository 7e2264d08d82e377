//! Users, access keys and buckets, as JSON.

use std::fmt;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CreateUserRequest {
    /// 1 to 64 letters, digits, `+ = , . @ _ -`.
    pub name: String,
    /// What S3 shows beside the canonical id; the name if it is left out.
    #[serde(default)]
    pub display_name: String,
    #[serde(default)]
    pub email: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct User {
    pub name: String,
    pub canonical_id: String,
    pub display_name: String,
    pub email: String,
    /// `create-buckets`, `everything`.
    pub rights: Vec<String>,
    pub created_millis: u64,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct UserList {
    pub users: Vec<User>,
}

/// Rights to give or to take; none means all there are.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct RightsRequest {
    #[serde(default)]
    pub rights: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CreateKeyRequest {
    pub user: String,
    /// The most that the key may do of what its user may: `read`, `write`, `manage`. None
    /// means all.
    #[serde(default)]
    pub rights: Vec<String>,
}

/// A new key. Its secret is told here and never again.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct CreatedKey {
    pub access_key: String,
    pub secret_key: String,
    pub canonical_id: String,
    pub user: String,
    pub display_name: String,
    pub email: String,
}

impl fmt::Debug for CreatedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "CreatedKey({}, …)", self.access_key)
    }
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Key {
    pub access_key: String,
    pub user: String,
    pub canonical_id: String,
    pub rights: Vec<String>,
    /// Through each node; absent if there is no limit.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_second: Option<u32>,
    pub created_millis: u64,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
pub struct LimitKeyRequest {
    /// Through each node; absent for any number.
    #[serde(default)]
    pub requests_per_second: Option<u32>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct KeyList {
    pub keys: Vec<Key>,
}

#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams, ToSchema)]
pub struct KeyListRequest {
    /// Only this user's.
    #[serde(default)]
    pub user: Option<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CreateBucketRequest {
    pub name: String,
    /// The user who owns it.
    pub owner: String,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct BucketStatus {
    pub name: String,
    /// The owner's name; absent if that user is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    pub owner_canonical_id: String,
    pub created_millis: u64,
    pub grants: Vec<BucketGrant>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct BucketGrant {
    pub user: String,
    pub rights: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct BucketList {
    pub buckets: Vec<BucketStatus>,
}

#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct GrantRequest {
    pub user: String,
    /// `read`, `write`, `manage`; none means all.
    #[serde(default)]
    pub rights: Vec<String>,
}
