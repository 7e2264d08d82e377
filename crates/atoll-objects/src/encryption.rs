//! Encryption at rest (ADR 15): which keys there are, and what of them is written down.
//!
//! ```text
//! root key (a file at every node) or a customer's key (comes with each request)
//!   └─ wraps a data key, one per object or upload; the wrapped one is the record's `Seal`
//!        └─ a key for each stream of bytes: the object's, or a part's
//!             └─ seals each chunk under its offset, and whether it is the last
//! ```
//!
//! No key is ever written: a data key lies in its record wrapped, and that it does not open
//! is how a wrong key shows. Nothing here knows records, chunks' places or HTTP. Tests are
//! below, and beside [`seal`].

pub(crate) mod seal;

use std::fmt;

use rand::Rng;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use seal::{DataKey, Seal, SealedBy};

pub(crate) type KeyBytes = Zeroizing<[u8; 32]>;

/// Which root key: the start of a hash of it, so that a wrong one is recognised.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootKeyId(pub [u8; 8]);

impl fmt::Display for RootKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&data_encoding::HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for RootKeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RootKeyId({self})")
    }
}

/// The text is no root key. It is not repeated here: it may be one that was cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a root key is 32 bytes, written as 64 hexadecimal digits or in base64")]
pub struct ParseRootKeyError;

/// What wraps the data keys of SSE-S3. The same at every node of a cluster, kept by its
/// operator, never in a data folder.
#[derive(Clone)]
pub struct RootKey {
    bytes: KeyBytes,
    id: RootKeyId,
}

impl RootKey {
    pub fn generate(rng: &mut impl Rng) -> Self {
        Self::new(Zeroizing::new(rng.random()))
    }

    fn new(bytes: KeyBytes) -> Self {
        let hash = blake3::derive_key("atoll 2026 root key id", &bytes[..]);
        let mut id = [0; 8];
        id.copy_from_slice(&hash[..8]);
        Self { bytes, id: RootKeyId(id) }
    }

    /// As it stands in a key file: what [`RootKey::to_text`] gives, `openssl rand -hex 32`
    /// or `openssl rand -base64 32`.
    pub fn parse(text: &str) -> Result<Self, ParseRootKeyError> {
        let text = text.trim();
        let decoded = data_encoding::HEXLOWER_PERMISSIVE
            .decode(text.as_bytes())
            .or_else(|_| data_encoding::BASE64.decode(text.as_bytes()));
        let decoded = Zeroizing::new(decoded.map_err(|_| ParseRootKeyError)?);
        let mut bytes = Zeroizing::new([0; 32]);
        if decoded.len() != bytes.len() {
            return Err(ParseRootKeyError);
        }
        bytes.copy_from_slice(&decoded);
        Ok(Self::new(bytes))
    }

    /// For a key file, and nothing else.
    pub fn to_text(&self) -> Zeroizing<String> {
        Zeroizing::new(data_encoding::HEXLOWER.encode(&self.bytes[..]))
    }

    pub fn id(&self) -> RootKeyId {
        self.id
    }
}

impl fmt::Debug for RootKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RootKey({}, …)", self.id)
    }
}

/// A key that a client sends with each request on an object (SSE-C). Kept nowhere.
#[derive(Clone)]
pub struct CustomerKey(KeyBytes);

impl CustomerKey {
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }
}

impl fmt::Debug for CustomerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CustomerKey(…)")
    }
}

/// How an object is to be encrypted.
#[derive(Debug, Clone)]
pub enum Encryption {
    /// SSE-S3: by the root key.
    Managed,
    /// SSE-C: by a key that only its sender has.
    Customer(CustomerKey),
}

impl Encryption {
    pub(crate) fn kind(&self) -> EncryptionKind {
        match self {
            Encryption::Managed => EncryptionKind::Managed,
            Encryption::Customer(_) => EncryptionKind::Customer,
        }
    }
}

/// How an object is encrypted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EncryptionKind {
    Managed,
    Customer,
}

/// Why something is not sealed or not opened. Nothing was changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EncryptionError {
    /// The operator's to mend: this node cannot, others may.
    #[error("this node was started without a root key")]
    NoRootKey,
    /// The same.
    #[error("this node was started with the root key {has}, and this needs {needs}")]
    OtherRootKey { has: RootKeyId, needs: RootKeyId },
    /// The client's: the object is encrypted by a key that the request did not bring.
    #[error("the object is encrypted with a customer's key, and the request has none")]
    CustomerKeyMissing,
    /// The client's: another key, or a record that was altered.
    #[error("the key does not open the object")]
    CustomerKeyWrong,
    /// The client's: it brought a key for what is encrypted by the root key, or not at all.
    #[error("the object is not encrypted with a customer's key")]
    CustomerKeyUseless,
    /// Nobody's request: what lies in the record is not what was written there.
    #[error("the object's wrapped key was altered")]
    Altered,
}

/// A new data key, wrapped, and in the clear for as long as something is sealed with it.
pub(crate) struct Sealing {
    pub seal: Seal,
    pub key: DataKey,
}

impl Sealing {
    /// For an object or upload at `name`. `root` is needed for [`Encryption::Managed`] only.
    pub fn begin(
        rng: &mut impl Rng,
        encryption: &Encryption,
        root: Option<&RootKey>,
        name: &[u8],
    ) -> Result<Self, EncryptionError> {
        let (by, wrapping) = match encryption {
            Encryption::Managed => {
                let root = root.ok_or(EncryptionError::NoRootKey)?;
                (SealedBy::Root(root.id), &root.bytes)
            }
            Encryption::Customer(key) => (SealedBy::Customer, &key.0),
        };
        let (seal, key) = Seal::begin(rng, by, wrapping, name);
        Ok(Self { seal, key })
    }
}

/// Unwraps the data key of what lies at `name`; `None` if that is not encrypted.
pub(crate) fn open(
    seal: Option<&Seal>,
    root: Option<&RootKey>,
    customer: Option<&CustomerKey>,
    name: &[u8],
) -> Result<Option<DataKey>, EncryptionError> {
    let Some(seal) = seal else {
        return if customer.is_some() { Err(EncryptionError::CustomerKeyUseless) } else { Ok(None) };
    };
    let key = match (seal.by, customer) {
        (SealedBy::Root(_), Some(_)) => return Err(EncryptionError::CustomerKeyUseless),
        (SealedBy::Root(needs), None) => {
            let root = root.ok_or(EncryptionError::NoRootKey)?;
            if root.id != needs {
                return Err(EncryptionError::OtherRootKey { has: root.id, needs });
            }
            seal.unwrap(&root.bytes, name).ok_or(EncryptionError::Altered)?
        }
        (SealedBy::Customer, None) => return Err(EncryptionError::CustomerKeyMissing),
        (SealedBy::Customer, Some(customer)) => {
            seal.unwrap(&customer.0, name).ok_or(EncryptionError::CustomerKeyWrong)?
        }
    };
    Ok(Some(key))
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    fn root(seed: u64) -> RootKey {
        RootKey::generate(&mut StdRng::seed_from_u64(seed))
    }

    #[test]
    fn a_root_key_is_read_as_it_was_written_in_hex_or_base64() {
        let key = root(1);
        let text = key.to_text();
        assert_eq!(RootKey::parse(&format!("{}\n", *text)).unwrap().id(), key.id());
        let base64 = data_encoding::BASE64.encode(&key.bytes[..]);
        assert_eq!(RootKey::parse(&base64).unwrap().bytes, key.bytes);
        for malformed in ["", "abc", &text[1..], &text[2..], &format!("{}00", *text)] {
            assert!(RootKey::parse(malformed).is_err(), "{malformed}");
        }
        assert_ne!(root(2).id(), key.id());
    }

    #[test]
    fn keys_do_not_print_themselves() {
        let (key, customer) = (root(1), CustomerKey::new([0xab; 32]));
        let printed = format!("{key:?} {customer:?} {:?}", Encryption::Customer(customer.clone()));
        assert!(
            !printed.contains(&key.to_text()[..6]) && !printed.contains("ab") && !printed.contains("171")
        );
    }

    #[test]
    fn a_seal_opens_with_its_own_key_at_its_own_name_only() {
        let mut rng = StdRng::seed_from_u64(3);
        let (one, other) = (root(1), root(2));
        let mut begin =
            |encryption: &Encryption| Sealing::begin(&mut rng, encryption, Some(&one), b"k").unwrap();
        let managed = begin(&Encryption::Managed);
        let opened = |seal: &Seal, root, customer, name: &[u8]| {
            open(Some(seal), root, customer, name).map(|key| key.unwrap().bytes().to_vec())
        };
        assert_eq!(opened(&managed.seal, Some(&one), None, b"k").unwrap(), managed.key.bytes());
        let needs = one.id();
        assert_eq!(opened(&managed.seal, None, None, b"k"), Err(EncryptionError::NoRootKey));
        let has = other.id();
        let wrong = Err(EncryptionError::OtherRootKey { has, needs });
        assert_eq!(opened(&managed.seal, Some(&other), None, b"k"), wrong);
        assert_eq!(opened(&managed.seal, Some(&one), None, b"l"), Err(EncryptionError::Altered));

        let (mine, yours) = (CustomerKey::new([1; 32]), CustomerKey::new([2; 32]));
        let sealed = begin(&Encryption::Customer(mine.clone()));
        assert_eq!(opened(&sealed.seal, None, Some(&mine), b"k").unwrap(), sealed.key.bytes());
        let refused = |customer, why| assert_eq!(opened(&sealed.seal, Some(&one), customer, b"k"), Err(why));
        refused(None, EncryptionError::CustomerKeyMissing);
        refused(Some(&yours), EncryptionError::CustomerKeyWrong);
        let useless = Err(EncryptionError::CustomerKeyUseless);
        assert_eq!(opened(&managed.seal, Some(&one), Some(&mine), b"k"), useless);
        assert!(matches!(open(None, None, Some(&mine), b"k"), Err(EncryptionError::CustomerKeyUseless)));
        assert!(matches!(open(None, None, None, b"k"), Ok(None)));
    }

    #[test]
    fn without_a_root_key_nothing_is_sealed_with_it() {
        let mut rng = StdRng::seed_from_u64(3);
        let sealing = Sealing::begin(&mut rng, &Encryption::Managed, None, b"k");
        assert!(matches!(sealing, Err(EncryptionError::NoRootKey)));
    }
}
