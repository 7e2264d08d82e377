//! A node's identity: an ed25519 key pair, whose public half is its [`NodeId`].

use std::fmt;

use atoll_types::NodeId;
use ed25519_dalek::{
    Signature, Signer, SigningKey, VerifyingKey,
    pkcs8::{DecodePrivateKey, EncodePrivateKey},
};
use rand::{Rng, rngs::StdRng};

/// The secret half stays in here: it is not printed, and leaves only by
/// [`to_pkcs8`](NodeKey::to_pkcs8), to be kept in a file that only the node reads.
#[derive(Clone)]
pub struct NodeKey {
    signing: SigningKey,
}

/// The bytes are not a node's key. They were damaged, or are another file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not an ed25519 private key in PKCS#8 form")]
pub struct NodeKeyError;

impl NodeKey {
    pub fn generate(rng: &mut StdRng) -> Self {
        Self::from_seed(rng.random())
    }

    /// The key pair that RFC 8032 derives from a seed.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self { signing: SigningKey::from_bytes(&seed) }
    }

    /// Reads what [`to_pkcs8`](Self::to_pkcs8) wrote, checking that the halves belong together.
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, NodeKeyError> {
        let signing = SigningKey::from_pkcs8_der(der).map_err(|_| NodeKeyError)?;
        Ok(Self { signing })
    }

    /// PKCS#8 (RFC 5958), DER: what `openssl pkey -inform DER` reads too. Secret.
    pub fn to_pkcs8(&self) -> Vec<u8> {
        let document = self.signing.to_pkcs8_der().expect("a fixed-size key always encodes");
        document.as_bytes().to_vec()
    }

    pub fn node_id(&self) -> NodeId {
        NodeId(self.signing.verifying_key().to_bytes())
    }

    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.signing.sign(message).to_bytes()
    }
}

/// Whether `node` signed `message`. Strict: one signature has one encoding, and keys
/// under which anything verifies are refused.
pub fn verify(node: &NodeId, message: &[u8], signature: &[u8; 64]) -> bool {
    VerifyingKey::from_bytes(node.as_bytes())
        .and_then(|key| key.verify_strict(message, &Signature::from_bytes(signature)))
        .is_ok()
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NodeKey").field("node_id", &self.node_id()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_survives_its_file() {
        let key = NodeKey::from_seed([7; 32]);
        let again = NodeKey::from_pkcs8(&key.to_pkcs8()).unwrap();
        assert_eq!(again.node_id(), key.node_id());
        assert!(verify(&key.node_id(), b"hello", &again.sign(b"hello")));
    }

    #[test]
    fn a_damaged_file_is_refused() {
        let der = NodeKey::from_seed([7; 32]).to_pkcs8();
        assert!(NodeKey::from_pkcs8(&der[..der.len() - 1]).is_err());
        assert!(NodeKey::from_pkcs8(b"").is_err());
        let mut other_half = der.clone();
        *other_half.last_mut().unwrap() ^= 1;
        assert!(NodeKey::from_pkcs8(&other_half).is_err());
    }

    #[test]
    fn a_signature_holds_for_one_node_and_one_message() {
        let key = NodeKey::from_seed([7; 32]);
        let signature = key.sign(b"hello");
        assert!(!verify(&key.node_id(), b"hullo", &signature));
        assert!(!verify(&NodeKey::from_seed([8; 32]).node_id(), b"hello", &signature));
    }

    #[test]
    fn the_secret_is_not_printed() {
        let key = NodeKey::from_seed([0xab; 32]);
        let printed = format!("{key:?}");
        assert!(printed.contains(&key.node_id().short()), "{printed}");
        assert!(!printed.contains("abab") && !printed.contains("171"), "{printed}");
    }
}
