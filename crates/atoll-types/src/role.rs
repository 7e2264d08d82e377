//! What a node does for the cluster.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A node may have several; the default is storage and gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Role {
    /// Keeps durable replicas and votes.
    Storage = 1,
    /// Caches, and may vanish at any time.
    Edge = 2,
    /// Speaks to clients.
    Gateway = 4,
    /// Rendezvous and traffic relay for nodes that cannot reach each other.
    Relay = 8,
}

impl Role {
    pub const ALL: [Role; 4] = [Role::Storage, Role::Edge, Role::Gateway, Role::Relay];

    pub const fn name(self) -> &'static str {
        match self {
            Role::Storage => "storage",
            Role::Edge => "edge",
            Role::Gateway => "gateway",
            Role::Relay => "relay",
        }
    }
}

/// Why a textual role was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a role is storage, edge, gateway or relay, got {got:?}")]
pub struct ParseRoleError {
    pub got: String,
}

impl FromStr for Role {
    type Err = ParseRoleError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Role::ALL
            .into_iter()
            .find(|role| role.name() == text)
            .ok_or_else(|| ParseRoleError { got: text.chars().take(100).collect() })
    }
}

/// A set of roles. Bits that this program does not know are kept as they are: a newer
/// node may have roles that an older one only passes on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Roles(u8);

impl Roles {
    pub const NONE: Roles = Roles(0);

    #[must_use]
    pub const fn with(self, role: Role) -> Self {
        Self(self.0 | role as u8)
    }

    pub const fn has(self, role: Role) -> bool {
        self.0 & role as u8 != 0
    }

    pub fn iter(self) -> impl Iterator<Item = Role> {
        Role::ALL.into_iter().filter(move |role| self.has(*role))
    }
}

impl Default for Roles {
    fn default() -> Self {
        Self::NONE.with(Role::Storage).with(Role::Gateway)
    }
}

impl FromIterator<Role> for Roles {
    fn from_iter<I: IntoIterator<Item = Role>>(roles: I) -> Self {
        roles.into_iter().fold(Self::NONE, Self::with)
    }
}

impl fmt::Display for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.iter().map(Role::name).collect();
        f.write_str(&names.join("+"))
    }
}

impl fmt::Debug for Roles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Roles({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_stores_and_serves_by_default() {
        let roles = Roles::default();
        assert!(roles.has(Role::Storage) && roles.has(Role::Gateway) && !roles.has(Role::Edge));
        assert_eq!(roles.to_string(), "storage+gateway");
    }

    #[test]
    fn roles_are_read_by_their_names() {
        assert_eq!("relay".parse(), Ok(Role::Relay));
        assert!("king".parse::<Role>().is_err());
        assert_eq!(
            ["edge", "gateway"].iter().filter_map(|name| name.parse().ok()).collect::<Roles>().to_string(),
            "edge+gateway"
        );
    }
}
