//! What an overlay keeps under a key: small, signed by its author, expiring.
//!
//! Values, providers and postings are one thing to whoever keeps them. What may be kept is
//! decided here, by everyone alike, from the entry alone: an entry that is believed was signed
//! by its author for this key, until this time, and no node on the way can change or prolong it.

use std::time::Duration;

use atoll_types::{Format, NodeId, WallTime};
use ed25519_dalek::{Signature, Signer, SigningKey, VerifyingKey};
use serde::{Deserialize, Serialize};

use crate::Id;

/// The largest value: what fits a page, as in a name record or a pointer to something larger.
/// Big bytes are not an overlay's to keep.
pub const VALUE_BYTES_MAX: usize = 4096;
/// The longest name of a posting, in bytes.
pub const NAME_BYTES_MAX: usize = 128;
/// The longest keyword, in bytes.
pub const KEYWORD_BYTES_MAX: usize = 64;
/// Keywords of one name, and of one search. Each is a lookup.
pub const KEYWORDS_MAX: usize = 8;
/// An author that lives renews what it wants kept; what nobody renews is gone in a day.
pub const LIFETIME_MAX: Duration = Duration::from_secs(24 * 3600);
/// Clocks that differ by more make entries vanish early, or be refused.
pub const CLOCK_SKEW_MAX: Duration = Duration::from_secs(300);

/// The most that an entry takes beside its value or name, in a frame or in memory: key, author
/// and signature 128 bytes, content 32, numbers and lengths up to 36.
pub(crate) const ENTRY_OVERHEAD: usize = 200;

/// Entries of one class under one key that a node keeps and tells. The first come stay, and their
/// authors may renew them; but whoever brought many gives way to who brought fewer, and an author
/// with many to others that the same peer brings ([`gives_way`](crate::shares::gives_way)).
pub(crate) const fn per_key_max(class: Class) -> usize {
    match class {
        Class::Value => 8,
        Class::Provider | Class::Posting => 128,
    }
}

/// The largest answer of all that is kept under one key.
pub(crate) const ANSWER_BYTES_MAX: usize = 48 << 10;
const _: () = assert!(per_key_max(Class::Value) * (VALUE_BYTES_MAX + ENTRY_OVERHEAD) <= ANSWER_BYTES_MAX);
const _: () = assert!(per_key_max(Class::Posting) * (NAME_BYTES_MAX + ENTRY_OVERHEAD) <= ANSWER_BYTES_MAX);

/// What an author says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Body {
    Value(Vec<u8>),
    /// The author has the content that the key names.
    Provider,
    /// The author has this content, whose name has the keyword that the key is of.
    Posting {
        content: Id,
        name: String,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Class {
    Value,
    Provider,
    Posting,
}

/// A body under a key, signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub key: Id,
    pub author: NodeId,
    /// Of entries with one [`Slot`] the one with the highest number holds.
    pub sequence: u64,
    pub expires: WallTime,
    pub body: Body,
    /// Ed25519, over all of the above; its two halves.
    pub(crate) signature: ([u8; 32], [u8; 32]),
}

/// Which entry under a key replaces which: an author has one value, is one provider, and posts
/// each content once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Slot {
    pub(crate) class: Class,
    author: NodeId,
    content: Option<Id>,
}

#[derive(Serialize, Deserialize)]
struct Signed {
    key: Id,
    author: NodeId,
    sequence: u64,
    expires: WallTime,
    body: Body,
}

impl Format for Signed {
    const NAME: &'static str = "overlay entry";
    const VERSION: u8 = 1;
}

/// So that a signature for something else is never one for an entry.
const CONTEXT: &[u8] = b"atoll overlay entry 1\0";

/// Why nobody keeps an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, thiserror::Error)]
pub enum Unsound {
    #[error("a value is at most {VALUE_BYTES_MAX} bytes, a name {NAME_BYTES_MAX}")]
    TooLarge,
    #[error("it has expired")]
    Expired,
    /// The author's clock may be wrong.
    #[error("it is to last for more than a day")]
    TooLong,
    #[error("its signature does not hold")]
    Forged,
}

/// What signs entries: the key whose public half is the author.
#[derive(Clone)]
pub struct AuthorKey {
    signing: SigningKey,
}

impl AuthorKey {
    /// The key pair that RFC 8032 derives from a seed: with a node's own, the author is the node.
    pub fn from_seed(seed: [u8; 32]) -> Self {
        Self { signing: SigningKey::from_bytes(&seed) }
    }

    pub fn author(&self) -> NodeId {
        NodeId(self.signing.verifying_key().to_bytes())
    }

    pub fn sign(&self, key: Id, sequence: u64, expires: WallTime, body: Body) -> Entry {
        let author = self.author();
        let mut entry = Entry { key, author, sequence, expires, body, signature: ([0; 32], [0; 32]) };
        let signature = self.signing.sign(&entry.signed_bytes());
        entry.signature = (*signature.r_bytes(), *signature.s_bytes());
        entry
    }
}

impl std::fmt::Debug for AuthorKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AuthorKey").field("author", &self.author()).finish_non_exhaustive()
    }
}

impl Entry {
    pub fn class(&self) -> Class {
        match self.body {
            Body::Value(_) => Class::Value,
            Body::Provider => Class::Provider,
            Body::Posting { .. } => Class::Posting,
        }
    }

    pub(crate) fn slot(&self) -> Slot {
        let content = match &self.body {
            Body::Posting { content, .. } => Some(*content),
            Body::Value(_) | Body::Provider => None,
        };
        Slot { class: self.class(), author: self.author, content }
    }

    /// Tells this entry from all others under its key without sending it. Whoever wants two
    /// entries with one tag has to try 2⁶⁴ signatures, and has hidden one of its own.
    pub(crate) fn tag(&self) -> u64 {
        let mut hasher = blake3::Hasher::new();
        hasher.update(&self.signature.0).update(&self.signature.1);
        let hash = hasher.finalize();
        u64::from_be_bytes(*hash.as_bytes().first_chunk().expect("32 bytes"))
    }

    /// About what it takes to keep or send it.
    pub(crate) fn bytes(&self) -> usize {
        ENTRY_OVERHEAD
            + match &self.body {
                Body::Value(value) => value.len(),
                Body::Provider => 0,
                Body::Posting { name, .. } => name.len(),
            }
    }

    fn signed_bytes(&self) -> Vec<u8> {
        let Entry { key, author, sequence, expires, body, .. } = self.clone();
        [CONTEXT, &Signed { key, author, sequence, expires, body }.encode()].concat()
    }

    /// Whether it may be kept at `wall`.
    pub fn check(&self, wall: WallTime) -> Result<(), Unsound> {
        let is_large = match &self.body {
            Body::Value(value) => value.len() > VALUE_BYTES_MAX,
            Body::Provider => false,
            Body::Posting { name, .. } => name.len() > NAME_BYTES_MAX,
        };
        if is_large {
            return Err(Unsound::TooLarge);
        }
        if self.expires <= wall {
            return Err(Unsound::Expired);
        }
        if self.expires > wall + LIFETIME_MAX + CLOCK_SKEW_MAX {
            return Err(Unsound::TooLong);
        }
        // Strict: one signature has one encoding, and keys under which anything verifies are
        // refused.
        let signature = Signature::from_components(self.signature.0, self.signature.1);
        VerifyingKey::from_bytes(self.author.as_bytes())
            .and_then(|key| key.verify_strict(&self.signed_bytes(), &signature))
            .map_err(|_| Unsound::Forged)
    }
}

/// Where the postings of a keyword belong.
pub(crate) fn keyword_key(keyword: &str) -> Id {
    Id::of(&[b"keyword\0", keyword.as_bytes()].concat())
}

/// The words by which a name is found: runs of letters and digits, in lower case, none twice, of
/// two bytes at least. At most [`KEYWORDS_MAX`], the first ones; too long ones are left out.
pub fn keywords_of(name: &str) -> Vec<String> {
    let mut keywords: Vec<String> = Vec::new();
    for word in name.split(|letter: char| !letter.is_alphanumeric()) {
        let word = word.to_lowercase();
        if (2..=KEYWORD_BYTES_MAX).contains(&word.len()) && !keywords.contains(&word) {
            keywords.push(word);
        }
    }
    keywords.truncate(KEYWORDS_MAX);
    keywords
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: WallTime = WallTime::from_millis(1_800_000_000_000);

    fn author() -> AuthorKey {
        AuthorKey::from_seed([7; 32])
    }

    fn value(bytes: usize) -> Entry {
        author().sign(Id::of(b"key"), 1, NOW + Duration::from_secs(60), Body::Value(vec![1; bytes]))
    }

    #[test]
    fn a_signed_entry_holds_until_it_expires() {
        let entry = value(10);
        assert_eq!(entry.check(NOW), Ok(()));
        assert_eq!(entry.check(NOW + Duration::from_secs(60)), Err(Unsound::Expired));
        assert_eq!(entry.author, author().author());
    }

    #[test]
    fn whatever_is_changed_about_an_entry_its_signature_does_not_hold() {
        let later = NOW + Duration::from_secs(61);
        let body = Body::Posting { content: Id::of(b"x"), name: "x".into() };
        let other = AuthorKey::from_seed([8; 32]).author();
        for changed in [
            Entry { key: Id::of(b"other"), ..value(10) },
            Entry { author: other, ..value(10) },
            Entry { sequence: 2, ..value(10) },
            Entry { expires: later, ..value(10) },
            Entry { body: Body::Value(vec![2; 10]), ..value(10) },
            Entry { body: Body::Provider, ..value(10) },
            Entry { body, ..value(10) },
            Entry { signature: ([0; 32], [0; 32]), ..value(10) },
            Entry { signature: (value(10).signature.1, value(10).signature.0), ..value(10) },
        ] {
            assert_eq!(changed.check(NOW), Err(Unsound::Forged), "{changed:?}");
        }
    }

    #[test]
    fn large_and_everlasting_entries_are_refused() {
        assert_eq!(value(VALUE_BYTES_MAX).check(NOW), Ok(()));
        assert_eq!(value(VALUE_BYTES_MAX + 1).check(NOW), Err(Unsound::TooLarge));
        let name = "n".repeat(NAME_BYTES_MAX + 1);
        let posting = Body::Posting { content: Id::of(b"x"), name };
        let posting = author().sign(Id::of(b"key"), 1, NOW + Duration::from_secs(60), posting);
        assert_eq!(posting.check(NOW), Err(Unsound::TooLarge));
        let long = author().sign(Id::of(b"key"), 1, NOW + LIFETIME_MAX * 2, Body::Provider);
        assert_eq!(long.check(NOW), Err(Unsound::TooLong));
    }

    #[test]
    fn an_entry_is_no_larger_than_it_says() {
        let name = "n".repeat(NAME_BYTES_MAX);
        let posting = Body::Posting { content: Id::of(b"x"), name };
        let expires = WallTime::from_millis(u64::MAX);
        for entry in [author().sign(Id::of(b"key"), u64::MAX, expires, posting), value(VALUE_BYTES_MAX)] {
            let encoded = postcard::to_extend(&entry, Vec::new()).unwrap();
            assert!(encoded.len() <= entry.bytes(), "{} > {}", encoded.len(), entry.bytes());
        }
    }

    #[test]
    fn a_name_is_found_by_its_words() {
        assert_eq!(keywords_of("Holiday Photos, 2024 (holiday)"), ["holiday", "photos", "2024"]);
        assert_eq!(keywords_of("a, b; Ünï-cödé"), ["ünï", "cödé"]);
        assert_eq!(keywords_of(&"word ".repeat(20)), ["word"]);
        assert!(keywords_of(&"x".repeat(KEYWORD_BYTES_MAX + 1)).is_empty());
        let many: String = (10..40).map(|number| format!("{number} ")).collect();
        assert_eq!(keywords_of(&many).len(), KEYWORDS_MAX);
    }

    #[test]
    fn the_secret_is_not_printed() {
        let printed = format!("{:?}", AuthorKey::from_seed([0xab; 32]));
        assert!(!printed.contains("abab") && !printed.contains("171"), "{printed}");
    }
}
