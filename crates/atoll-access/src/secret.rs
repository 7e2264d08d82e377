//! Things that must not be seen: secret keys and bearer tokens.

use std::fmt;

use rand::Rng;
use serde::{Deserialize, Serialize};

/// An S3 secret access key. Prints as dots; [`Secret::expose`] is the one way to read it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

impl Secret {
    /// AWS's are 40 characters; clients treat them as opaque.
    pub const LENGTH_MIN: usize = 8;
    pub const LENGTH_MAX: usize = 128;

    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// 240 bits, in 40 characters that need no escaping in a shell, a URL or a file.
    pub fn generate(rng: &mut impl Rng) -> Self {
        Self(data_encoding::BASE64URL_NOPAD.encode(&rng.random::<[u8; 30]>()))
    }

    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Signs its bearer in to the admin API. The cluster keeps only its hash.
#[derive(Clone, PartialEq, Eq)]
pub struct AdminToken(String);

impl AdminToken {
    /// Makes a leaked token recognisable to secret scanners.
    const PREFIX: &str = "atoll_";

    /// 256 bits.
    pub fn generate(rng: &mut impl Rng) -> Self {
        let random = data_encoding::BASE32_NOPAD.encode(&rng.random::<[u8; 32]>()).to_ascii_lowercase();
        Self(format!("{}{random}", Self::PREFIX))
    }

    /// As read from a file or from a request; anything may be tried.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    pub fn expose(&self) -> &str {
        &self.0
    }

    pub fn hash(&self) -> TokenHash {
        // A token has 256 bits of entropy, so a fast hash under a context of its own is
        // enough: there is nothing to guess.
        TokenHash(blake3::derive_key("atoll 2026 admin token", self.0.as_bytes()))
    }
}

impl fmt::Debug for AdminToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AdminToken(…)")
    }
}

/// What the cluster remembers of a token. Compared in constant time.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenHash(pub [u8; 32]);

impl PartialEq for TokenHash {
    fn eq(&self, other: &Self) -> bool {
        // blake3's own comparison takes the same time wherever the two differ.
        blake3::Hash::from_bytes(self.0) == blake3::Hash::from_bytes(other.0)
    }
}

impl Eq for TokenHash {}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    #[test]
    fn secrets_and_tokens_do_not_print_themselves() {
        let mut rng = StdRng::seed_from_u64(1);
        let secret = Secret::generate(&mut rng);
        let token = AdminToken::generate(&mut rng);
        assert_eq!(secret.expose().len(), 40);
        assert!(!format!("{secret:?} {token:?}").contains(&secret.expose()[..6]));
        assert!(!format!("{secret:?} {token:?}").contains(&token.expose()[6..12]));
    }

    #[test]
    fn a_token_is_recognised_by_its_hash_alone() {
        let mut rng = StdRng::seed_from_u64(2);
        let token = AdminToken::generate(&mut rng);
        assert_eq!(AdminToken::new(token.expose()).hash(), token.hash());
        assert_ne!(AdminToken::generate(&mut rng).hash(), token.hash());
    }
}
