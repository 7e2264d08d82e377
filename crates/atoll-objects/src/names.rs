//! Names that users choose (buckets, keys) and ids that we give out (buckets, uploads,
//! manifests).

use std::fmt;

use atoll_types::{Revision, TransactionId};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Why a bucket name was refused: the client's fault, S3's `InvalidBucketName`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the bucket name {name:?} is not allowed: {reason}")]
pub struct InvalidBucketName {
    pub name: String,
    pub reason: &'static str,
}

/// A bucket's name, valid by S3's rules (Amazon S3 User Guide, "Bucket naming rules").
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct BucketName(String);

impl BucketName {
    pub fn new(name: &str) -> Result<Self, InvalidBucketName> {
        let refuse = |reason| Err(InvalidBucketName { name: name.chars().take(100).collect(), reason });
        let alphanumeric = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
        let bytes = name.as_bytes();
        if !(3..=63).contains(&bytes.len()) {
            return refuse("it must have 3 to 63 characters");
        }
        if !bytes.iter().all(|&b| alphanumeric(b) || b == b'.' || b == b'-') {
            return refuse("only lowercase letters, digits, dots and hyphens are allowed");
        }
        if !alphanumeric(bytes[0]) || !alphanumeric(bytes[bytes.len() - 1]) {
            return refuse("it must begin and end with a letter or a digit");
        }
        if name.contains("..") {
            return refuse("it must not contain two dots in a row");
        }
        if name.split('.').count() == 4 && name.split('.').all(|part| part.parse::<u8>().is_ok()) {
            return refuse("it must not look like an IP address");
        }
        if ["xn--", "sthree-", "amzn-s3-demo-"].iter().any(|prefix| name.starts_with(prefix))
            || ["-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"].iter().any(|s| name.ends_with(s))
        {
            return refuse("this prefix or suffix is reserved");
        }
        Ok(Self(name.to_owned()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BucketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why a key was refused: the client's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKey {
    #[error("an object key must not be empty")]
    Empty,
    /// S3's `KeyTooLongError`.
    #[error("an object key of {bytes} bytes is over the limit of {}", ObjectKey::BYTES_MAX)]
    TooLong { bytes: usize },
}

/// An object's key: 1 to 1,024 bytes, whatever they are.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ObjectKey(Bytes);

impl ObjectKey {
    /// S3's limit.
    pub const BYTES_MAX: usize = 1024;

    pub fn new(key: impl Into<Bytes>) -> Result<Self, InvalidKey> {
        let key = key.into();
        match key.len() {
            0 => Err(InvalidKey::Empty),
            bytes if bytes > Self::BYTES_MAX => Err(InvalidKey::TooLong { bytes }),
            _ => Ok(Self(key)),
        }
    }

    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}

impl fmt::Debug for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

/// A bucket for as long as it lives; a new bucket of the same name has another one. It
/// is the revision of shard 0 that reserved the name, so it is never given out twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct BucketId(pub u64);

impl fmt::Display for BucketId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One multipart upload; random, so that nobody guesses another's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct UploadId(pub TransactionId);

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for UploadId {
    type Err = atoll_types::ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// Names one version of an object: S3's version id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum VersionId {
    /// The one written while the bucket had no versioning, or had it suspended.
    Null,
    /// The shard's revision that wrote it.
    At(Revision),
}

/// The text is nobody's version id: the client's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a version id")]
pub struct ParseVersionIdError;

impl fmt::Display for VersionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            VersionId::Null => f.write_str("null"),
            VersionId::At(revision) => write!(f, "{:016x}", revision.0),
        }
    }
}

impl std::str::FromStr for VersionId {
    type Err = ParseVersionIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "null" {
            return Ok(VersionId::Null);
        }
        let is_ours = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        match u64::from_str_radix(text, 16) {
            Ok(revision) if is_ours => Ok(VersionId::At(Revision(revision))),
            _ => Err(ParseVersionIdError),
        }
    }
}

/// Names the segments of one large manifest; random.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ManifestId(pub TransactionId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bucket_names_are_checked_as_s3_checks_them() {
        for good in ["abc", "my.bucket-1", "123", "a-b", "1.2.3.4.5", "300.1.1.1", &"a".repeat(63)] {
            assert!(BucketName::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "ab",
            &"a".repeat(64),
            "Abc",
            "a_b",
            "-abc",
            "abc-",
            ".abc",
            "a..b",
            "192.168.0.1",
            "xn--abc",
            "äbc",
            "abc-s3alias",
            "../x",
        ] {
            assert!(BucketName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_version_id_reads_back_what_it_printed_and_nothing_else() {
        for id in [VersionId::Null, VersionId::At(Revision(0)), VersionId::At(Revision(u64::MAX))] {
            assert_eq!(id.to_string().parse(), Ok(id));
        }
        for bad in ["", "Null", "1", "+000000000000001", "00000000000000AB", "00000000000000000"] {
            assert_eq!(bad.parse::<VersionId>(), Err(ParseVersionIdError), "{bad}");
        }
    }

    #[test]
    fn a_key_is_any_bytes_up_to_the_limit() {
        assert!(ObjectKey::new(vec![0; 1024]).is_ok());
        assert!(ObjectKey::new("../..//").is_ok());
        assert_eq!(ObjectKey::new(Bytes::new()), Err(InvalidKey::Empty));
        assert_eq!(ObjectKey::new(vec![b'a'; 1025]), Err(InvalidKey::TooLong { bytes: 1025 }));
    }
}
