//! A witness: the last link that a node has seen grow out of the one it had seen before.

use atoll_types::{Format, NodeId, WallTime};
use ed25519_dalek::SigningKey;
use serde::{Deserialize, Serialize};

use super::batch::{Halves, Head, LinkedBatch, is_signed, signature_of};

/// So that a signature for something else is never one for a statement.
const STATED: &[u8] = b"atoll audit witness 1\0";

/// What a node keeps on its own disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WitnessNote {
    pub head: Head,
}

impl Format for WitnessNote {
    const NAME: &'static str = "audit witness";
    const VERSION: u8 = 1;
}

impl WitnessNote {
    /// Says it to others.
    pub fn state(self, key: &SigningKey, at: WallTime) -> WitnessStatement {
        let node = NodeId(key.verifying_key().to_bytes());
        let signature = signature_of(key, STATED, &message(&self.head, at));
        WitnessStatement { node, head: self.head, at, signature }
    }
}

fn message(head: &Head, at: WallTime) -> Vec<u8> {
    [&head.index.to_be_bytes()[..], &head.hash.0, &at.as_millis().to_be_bytes()].concat()
}

/// "I have seen this link, and everything before it in one chain."
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WitnessStatement {
    pub node: NodeId,
    pub head: Head,
    pub at: WallTime,
    pub signature: Halves,
}

impl Format for WitnessStatement {
    const NAME: &'static str = "audit witness statement";
    const VERSION: u8 = 1;
}

impl WitnessStatement {
    pub fn is_genuine(&self) -> bool {
        is_signed(&self.node, STATED, &message(&self.head, self.at), &self.signature)
    }
}

/// What was shown does not continue what was seen. The witness stays where it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("what comes after link {seen} of the audit trail does not continue it")]
pub struct NotExtended {
    pub seen: u64,
}

/// Moves on along the chain only.
#[derive(Debug, Clone, Copy, Default)]
pub struct Witness {
    pub note: WitnessNote,
}

impl Witness {
    /// Follows links that were shown. On an error it has followed those before the one that
    /// does not fit.
    pub fn follow(&mut self, links: &[LinkedBatch]) -> Result<(), NotExtended> {
        for linked in links {
            let head = &mut self.note.head;
            let continues = linked.link.index == head.index + 1
                && linked.link.previous == head.hash
                && linked.link.batch == linked.signed.batch.hash();
            if !continues {
                return Err(NotExtended { seen: head.index });
            }
            *head = Head { index: linked.link.index, hash: linked.link.hash() };
        }
        Ok(())
    }
}
