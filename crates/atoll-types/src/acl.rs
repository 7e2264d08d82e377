//! Access control lists, as S3 has them: to whom the owner of a bucket or an object granted
//! what. What they mean is decided in `atoll-access`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An object's owner, who need not be its bucket's, and what it granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Acl {
    /// A canonical id.
    pub owner: String,
    pub grants: Vec<AclGrant>,
}

impl Acl {
    /// `private`: the owner has everything, nobody else anything.
    pub fn private(owner: impl Into<String>) -> Self {
        let owner = owner.into();
        let grants = vec![AclGrant::full_control(owner.clone())];
        Self { owner, grants }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AclGrant {
    pub grantee: Grantee,
    pub permission: Permission,
}

impl AclGrant {
    pub fn full_control(user: String) -> Self {
        Self { grantee: Grantee::User(user), permission: Permission::FullControl }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Grantee {
    /// By canonical id.
    User(String),
    /// Whoever signed the request.
    AuthenticatedUsers,
    AllUsers,
}

impl Grantee {
    /// Lets in people whom nobody named.
    pub fn is_public(&self) -> bool {
        !matches!(self, Grantee::User(_))
    }
}

impl fmt::Display for Grantee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Grantee::User(id) => f.write_str(id),
            Grantee::AuthenticatedUsers => f.write_str("AuthenticatedUsers"),
            Grantee::AllUsers => f.write_str("AllUsers"),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Permission {
    /// All of the others.
    FullControl,
    Read,
    Write,
    /// Read the list itself.
    ReadAcp,
    /// Replace the list itself.
    WriteAcp,
}

impl Permission {
    pub const ALL: [Permission; 5] = [
        Permission::FullControl,
        Permission::Read,
        Permission::Write,
        Permission::ReadAcp,
        Permission::WriteAcp,
    ];

    /// S3's name for it.
    pub const fn name(self) -> &'static str {
        match self {
            Permission::FullControl => "FULL_CONTROL",
            Permission::Read => "READ",
            Permission::Write => "WRITE",
            Permission::ReadAcp => "READ_ACP",
            Permission::WriteAcp => "WRITE_ACP",
        }
    }

    pub fn includes(self, wanted: Permission) -> bool {
        self == Permission::FullControl || self == wanted
    }
}
