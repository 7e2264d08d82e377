//! Entries, batches and links, their hashes and signatures.

use std::fmt;

use atoll_types::{Format, NodeId, WallTime};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

/// Longer texts are cut: an S3 key has at most 1,024 bytes, and is the longest thing there
/// is to say.
const TEXT_BYTES_MAX: usize = 1200;

/// BLAKE3, under a context for each use.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Hash(pub [u8; 32]);

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

/// One decision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// By the clock of the node that decided.
    pub at: WallTime,
    /// `user ann, key AK…`, `operator node …`, `anonymous`, or `unknown key …`.
    pub who: String,
    /// S3's action, or `admin:` with the method and path of the admin API.
    pub what: String,
    /// Bucket and key, or nothing.
    pub on: String,
    /// The address that the request came from.
    pub from: String,
    pub allowed: bool,
    /// The rule that decided.
    pub rule: String,
}

impl Entry {
    /// Cuts what is too long.
    pub(super) fn bounded(mut self) -> Self {
        for text in [&mut self.who, &mut self.what, &mut self.on, &mut self.from, &mut self.rule] {
            if text.len() > TEXT_BYTES_MAX {
                let mut end = TEXT_BYTES_MAX;
                while !text.is_char_boundary(end) {
                    end -= 1;
                }
                text.truncate(end);
            }
        }
        self
    }

    pub(super) fn bytes(&self) -> usize {
        self.who.len() + self.what.len() + self.on.len() + self.from.len() + self.rule.len() + 32
    }
}

/// What one node decided, in its order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Batch {
    pub node: NodeId,
    /// From 1, without gaps.
    pub number: u64,
    /// Of the node's batch before; zeros for the first.
    pub previous: Hash,
    pub entries: Vec<Entry>,
    /// Denied requests since the batch before that found no room.
    pub missed: u64,
}

impl Format for Batch {
    const NAME: &'static str = "audit batch";
    const VERSION: u8 = 1;
}

const BATCH_HASH: &str = "atoll 2026 audit batch";
const LINK_HASH: &str = "atoll 2026 audit link";
/// So that a signature for something else is never one for a batch.
const BATCH_SIGNED: &[u8] = b"atoll audit batch 1\0";

impl Batch {
    pub fn hash(&self) -> Hash {
        Hash(blake3::derive_key(BATCH_HASH, &self.encode()))
    }

    pub(super) fn sign(self, key: &SigningKey) -> SignedBatch {
        let signature = signature_of(key, BATCH_SIGNED, &self.hash().0);
        SignedBatch { batch: self, signature }
    }
}

/// Ed25519's two halves: serde knows arrays up to 32.
pub(super) type Halves = ([u8; 32], [u8; 32]);

pub(super) fn signature_of(key: &SigningKey, context: &[u8], message: &[u8]) -> Halves {
    let signature = key.sign(&[context, message].concat());
    (*signature.r_bytes(), *signature.s_bytes())
}

pub(super) fn is_signed(node: &NodeId, context: &[u8], message: &[u8], signature: &Halves) -> bool {
    let signature = Signature::from_components(signature.0, signature.1);
    VerifyingKey::from_bytes(node.as_bytes())
        .is_ok_and(|key| key.verify_strict(&[context, message].concat(), &signature).is_ok())
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedBatch {
    pub batch: Batch,
    pub signature: Halves,
}

impl Format for SignedBatch {
    const NAME: &'static str = "signed audit batch";
    const VERSION: u8 = 1;
}

impl SignedBatch {
    pub fn is_genuine(&self) -> bool {
        is_signed(&self.batch.node, BATCH_SIGNED, &self.batch.hash().0, &self.signature)
    }
}

/// The place of a batch among those of all nodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// From 1, without gaps.
    pub index: u64,
    /// Of the link before; zeros for the first.
    pub previous: Hash,
    pub batch: Hash,
    /// The stamp of the leader of shard 0.
    pub stamp: WallTime,
}

impl Format for Link {
    const NAME: &'static str = "audit link";
    const VERSION: u8 = 1;
}

impl Link {
    pub fn hash(&self) -> Hash {
        Hash(blake3::derive_key(LINK_HASH, &self.encode()))
    }
}

/// As shard 0 keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LinkedBatch {
    pub link: Link,
    pub signed: SignedBatch,
}

impl Format for LinkedBatch {
    const NAME: &'static str = "linked audit batch";
    const VERSION: u8 = 1;
}

/// The end of a chain: of links, or of one node's batches. Index 0 is before the first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Head {
    pub index: u64,
    pub hash: Hash,
}

impl Format for Head {
    const NAME: &'static str = "audit head";
    const VERSION: u8 = 1;
}
