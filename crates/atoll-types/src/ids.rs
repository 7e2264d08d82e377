//! Names of things that exist once: nodes, clusters, shards, replicas, transactions.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Why a textual id was refused; nothing else happened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} must be {expected} hexadecimal digits, got {got:?}")]
pub struct ParseIdError {
    pub what: &'static str,
    pub expected: usize,
    pub got: String,
}

macro_rules! hex_id {
    ($(#[$doc:meta])* $name:ident, $bytes:literal, $what:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub struct $name(pub [u8; $bytes]);

        impl $name {
            pub const fn from_bytes(bytes: [u8; $bytes]) -> Self {
                Self(bytes)
            }

            pub const fn as_bytes(&self) -> &[u8; $bytes] {
                &self.0
            }

            /// The first ten digits: what tables and logs show.
            pub fn short(&self) -> String {
                data_encoding::HEXLOWER.encode(&self.0[..5])
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.short())
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                data_encoding::HEXLOWER_PERMISSIVE
                    .decode(text.as_bytes())
                    .ok()
                    .and_then(|bytes| bytes.try_into().ok())
                    .map(Self)
                    .ok_or_else(|| ParseIdError { what: $what, expected: 2 * $bytes, got: text.chars().take(100).collect() })
            }
        }
    };
}
pub(crate) use hex_id;

hex_id!(
    /// A node's ed25519 public key; who a node is, on every wire and in every record.
    NodeId, 32, "a node id"
);
hex_id!(
    /// Drawn once when a cluster is created; nodes of other clusters are refused by it.
    ClusterId, 16, "a cluster id"
);
hex_id!(
    /// Drawn at random for each transaction by whoever first asks for it. A retry
    /// carries the same id and gets the first result.
    TransactionId, 16, "a transaction id"
);

macro_rules! number_id {
    ($(#[$doc:meta])* $name:ident, $inner:ty) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number_id!(
    /// One Raft group. Shard 0 keeps the cluster's own truths (members, layout,
    /// bucket map, keys); the others keep users' records.
    ShardId, u32
);
number_id!(
    /// One node's copy of a shard, for one disk and one incarnation of it. Given out
    /// by shard 0 and never reused, so a replica that lost its memory has no name to
    /// vote under. Raft calls this the peer id; 0 is nobody.
    ReplicaId, u64
);
number_id!(
    /// A shard's commit counter: the Raft log index of the entry that wrote. Orders
    /// all writes of one shard; means nothing across shards.
    Revision, u64
);
number_id!(
    /// Raised at each start of a node, so that the view tells its lives apart.
    Generation, u64
);
number_id!(
    /// One data folder of a node. Drawn at random when the folder is made, and anew when
    /// it is found emptied or older than what the cluster remembers of it (rule 4): what
    /// was kept under the former id is then lost to the cluster.
    DiskId, u64
);

impl ShardId {
    /// The shard that keeps the cluster's own truths.
    pub const META: ShardId = ShardId(0);
}

/// A failure domain and a place: rack, room, site. Compared byte for byte.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Zone(pub String);

impl Zone {
    /// Zone names go into tables, metrics labels and records.
    pub const BYTES_MAX: usize = 64;
}

impl Default for Zone {
    fn default() -> Self {
        Self("default".into())
    }
}

impl fmt::Display for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Zone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Zone({})", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_reads_back_what_it_printed() {
        let id = NodeId([0xa7; 32]);
        assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn a_malformed_id_says_what_was_expected() {
        let error = "xyz".parse::<NodeId>().unwrap_err();
        assert_eq!(error.to_string(), "a node id must be 64 hexadecimal digits, got \"xyz\"");
    }
}
