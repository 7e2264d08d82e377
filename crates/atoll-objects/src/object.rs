//! What is known of an object besides its bytes: size, ETag, headers, checksum.

use std::{collections::BTreeMap, fmt, ops::Range, str::FromStr};

use atoll_types::{Acl, Revision, WallTime};
use bytes::Bytes;
use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};

use crate::{
    encryption::EncryptionKind,
    names::{ObjectKey, VersionId},
};

/// S3's ETag: the MD5 of the content, or for a multipart object the MD5 of the parts'
/// MD5s with their number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct ETag {
    pub md5: [u8; 16],
    /// 0 if the object was put in one piece.
    pub parts: u16,
}

impl fmt::Display for ETag {
    /// Without the quotes that HTTP puts around it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A listing has a thousand of them: formatted byte by byte they took a seventh of it.
        let mut digits = [0; 32];
        HEXLOWER.encode_mut(&self.md5, &mut digits);
        f.write_str(std::str::from_utf8(&digits).map_err(|_| fmt::Error)?)?;
        if self.parts > 0 {
            write!(f, "-{}", self.parts)?;
        }
        Ok(())
    }
}

impl fmt::Debug for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ETag({self})")
    }
}

/// The text is nobody's ETag.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not an ETag")]
pub struct ParseETagError;

impl FromStr for ETag {
    type Err = ParseETagError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (digits, parts) = match text.split_once('-') {
            Some((digits, parts)) => (digits, parts.parse().map_err(|_| ParseETagError)?),
            None => (text, 0),
        };
        if digits.len() != 32 || !digits.is_ascii() {
            return Err(ParseETagError);
        }
        let mut md5 = [0; 16];
        for (byte, pair) in md5.iter_mut().zip(digits.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).map_err(|_| ParseETagError)?;
            *byte = u8::from_str_radix(pair, 16).map_err(|_| ParseETagError)?;
        }
        Ok(Self { md5, parts })
    }
}

/// The headers that a client gave with an object and gets back with it. Not looked at.
///
/// Encoded as programs before ACLs wrote and read them, unless there is one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "HeadersWire", into = "HeadersWire")]
pub struct ObjectHeaders {
    pub content_type: Option<String>,
    pub content_encoding: Option<String>,
    pub content_disposition: Option<String>,
    pub content_language: Option<String>,
    pub cache_control: Option<String>,
    pub expires: Option<String>,
    pub website_redirect_location: Option<String>,
    /// `x-amz-meta-…`, without that prefix.
    pub user: BTreeMap<String, String>,
    /// S3's limit of ten tags is the gateway's to enforce.
    pub tags: BTreeMap<String, String>,
    /// `None`: the bucket's owner owns it, and it is private.
    pub acl: Option<Acl>,
}

#[derive(Serialize, Deserialize)]
struct HeadersWire {
    content_type: Option<String>,
    content_encoding: Option<String>,
    content_disposition: Option<String>,
    content_language: Option<String>,
    cache_control: Option<String>,
    expires: Option<String>,
    location: LocationWire,
    user: BTreeMap<String, String>,
    tags: BTreeMap<String, String>,
}

/// The first two are encoded as the `Option` is that programs before ACLs have here.
#[derive(Serialize, Deserialize)]
enum LocationWire {
    None,
    Some(String),
    WithAcl { acl: Acl, location: Option<String> },
}

impl From<ObjectHeaders> for HeadersWire {
    fn from(headers: ObjectHeaders) -> Self {
        let location = match (headers.acl, headers.website_redirect_location) {
            (Some(acl), location) => LocationWire::WithAcl { acl, location },
            (None, Some(location)) => LocationWire::Some(location),
            (None, None) => LocationWire::None,
        };
        Self {
            content_type: headers.content_type,
            content_encoding: headers.content_encoding,
            content_disposition: headers.content_disposition,
            content_language: headers.content_language,
            cache_control: headers.cache_control,
            expires: headers.expires,
            location,
            user: headers.user,
            tags: headers.tags,
        }
    }
}

impl From<HeadersWire> for ObjectHeaders {
    fn from(wire: HeadersWire) -> Self {
        let (acl, website_redirect_location) = match wire.location {
            LocationWire::None => (None, None),
            LocationWire::Some(location) => (None, Some(location)),
            LocationWire::WithAcl { acl, location } => (Some(acl), location),
        };
        Self {
            content_type: wire.content_type,
            content_encoding: wire.content_encoding,
            content_disposition: wire.content_disposition,
            content_language: wire.content_language,
            cache_control: wire.cache_control,
            expires: wire.expires,
            website_redirect_location,
            user: wire.user,
            tags: wire.tags,
            acl,
        }
    }
}

/// S3's additional checksums. They are computed by the gateway's [`BodyDigest`]s and
/// kept here as they came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum ChecksumAlgorithm {
    Crc32,
    Crc32c,
    Crc64Nvme,
    Sha1,
    Sha256,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checksum {
    pub algorithm: ChecksumAlgorithm,
    pub value: Bytes,
    /// The number of parts if this is a checksum of the parts' checksums; 0 if of the
    /// whole content.
    pub parts: u16,
}

/// A further hash over a body as it streams in, run off the async threads beside MD5.
pub trait BodyDigest: Send + 'static {
    fn update(&mut self, bytes: &[u8]);
    /// Called after the last byte; a trailer has arrived by then. The checksum to keep,
    /// or `Err` with the algorithm's name if the client announced another value.
    fn finish(self: Box<Self>) -> Result<Option<Checksum>, String>;
}

/// Everything about one object version but its bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    pub size: u64,
    pub etag: ETag,
    pub modified: WallTime,
    /// The shard's revision that wrote this version: its place among all writes of the
    /// bucket's range.
    pub revision: Revision,
    /// `None` in a bucket whose versioning nobody has touched.
    pub version: Option<VersionId>,
    pub headers: ObjectHeaders,
    pub checksum: Option<Checksum>,
    /// Sizes of the parts of a multipart object, by part number; empty otherwise.
    pub parts: Vec<(u16, u64)>,
    pub encryption: Option<EncryptionKind>,
}

/// What a listing says of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListEntry {
    pub key: ObjectKey,
    pub size: u64,
    pub etag: ETag,
    pub modified: WallTime,
}

/// The part of an object that a reader wants (RFC 9110 section 14.1.2, one range only).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ByteRange {
    /// `bytes=first-`
    From(u64),
    /// `bytes=first-last`, both inclusive.
    Between(u64, u64),
    /// `bytes=-count`
    Last(u64),
    /// S3's `partNumber`.
    Part(u16),
}

impl ByteRange {
    /// The bytes meant, within an object; `None` if there are none (416).
    pub fn resolve(self, info: &ObjectInfo) -> Option<Range<u64>> {
        let size = info.size;
        match self {
            ByteRange::From(first) => (first < size).then_some(first..size),
            ByteRange::Between(first, last) => {
                (first <= last && first < size).then(|| first..last.saturating_add(1).min(size))
            }
            ByteRange::Last(count) => (count > 0 && size > 0).then(|| size.saturating_sub(count)..size),
            ByteRange::Part(1) if info.parts.is_empty() => Some(0..size),
            ByteRange::Part(number) => {
                let mut start = 0;
                for &(part, bytes) in &info.parts {
                    if part == number {
                        return Some(start..start + bytes);
                    }
                    start += bytes;
                }
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(size: u64, parts: &[(u16, u64)]) -> ObjectInfo {
        ObjectInfo {
            size,
            etag: ETag { md5: [0; 16], parts: 0 },
            modified: WallTime(0),
            revision: Revision(1),
            version: None,
            headers: ObjectHeaders::default(),
            checksum: None,
            parts: parts.to_vec(),
            encryption: None,
        }
    }

    #[test]
    fn an_etag_reads_back_what_it_printed() {
        for etag in [ETag { md5: [0xa7; 16], parts: 0 }, ETag { md5: [1; 16], parts: 10_000 }] {
            assert_eq!(etag.to_string().parse(), Ok(etag));
        }
        assert!("abc".parse::<ETag>().is_err());
        assert!("\u{e9}".repeat(16).parse::<ETag>().is_err());
    }

    /// As programs before ACLs had them.
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct FormerHeaders {
        plain: [Option<String>; 6],
        website_redirect_location: Option<String>,
        user: BTreeMap<String, String>,
        tags: BTreeMap<String, String>,
    }

    #[test]
    fn headers_without_an_acl_are_encoded_as_they_always_were() {
        let pair = BTreeMap::from([("a".to_owned(), "b".to_owned())]);
        for location in [None, Some("/there".to_owned())] {
            let now = ObjectHeaders {
                content_type: Some("text/plain".into()),
                expires: Some("soon".into()),
                website_redirect_location: location.clone(),
                user: pair.clone(),
                ..ObjectHeaders::default()
            };
            let bytes = postcard::to_stdvec(&now).unwrap();
            let former: FormerHeaders = postcard::from_bytes(&bytes).unwrap();
            assert_eq!((&former.website_redirect_location, &former.user), (&location, &pair));
            assert_eq!(postcard::to_stdvec(&former).unwrap(), bytes);
            assert_eq!(postcard::from_bytes::<ObjectHeaders>(&bytes).as_ref(), Ok(&now));
            let owned = ObjectHeaders { acl: Some(Acl::private("ann")), ..now };
            let bytes = postcard::to_stdvec(&owned).unwrap();
            assert_eq!(postcard::from_bytes::<ObjectHeaders>(&bytes), Ok(owned));
            assert!(postcard::from_bytes::<FormerHeaders>(&bytes).is_err(), "refused, not misread");
        }
    }

    #[test]
    fn ranges_are_cut_to_the_object_and_refused_outside_of_it() {
        let object = info(10, &[]);
        assert_eq!(ByteRange::From(3).resolve(&object), Some(3..10));
        assert_eq!(ByteRange::From(10).resolve(&object), None);
        assert_eq!(ByteRange::Between(2, 4).resolve(&object), Some(2..5));
        assert_eq!(ByteRange::Between(2, u64::MAX).resolve(&object), Some(2..10));
        assert_eq!(ByteRange::Between(4, 2).resolve(&object), None);
        assert_eq!(ByteRange::Last(3).resolve(&object), Some(7..10));
        assert_eq!(ByteRange::Last(30).resolve(&object), Some(0..10));
        assert_eq!(ByteRange::Last(0).resolve(&object), None);
        assert_eq!(ByteRange::Last(1).resolve(&info(0, &[])), None);
        assert_eq!(ByteRange::Part(1).resolve(&object), Some(0..10));
        assert_eq!(ByteRange::Part(2).resolve(&object), None);
        let multipart = info(10, &[(1, 6), (3, 4)]);
        assert_eq!(ByteRange::Part(3).resolve(&multipart), Some(6..10));
        assert_eq!(ByteRange::Part(2).resolve(&multipart), None);
    }
}
