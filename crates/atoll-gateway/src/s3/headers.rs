//! Headers both ways: conditions, ranges, an object's own headers, dates and ETags.

use std::time::{Duration, SystemTime};

use atoll_objects::{
    BucketName, ByteRange, ETagCondition, ObjectHeaders, ObjectKey, ReadConditions, WriteConditions,
};
use atoll_types::{Acl, TransactionId, WallTime};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use s3s::{
    S3Result,
    dto::{self, Timestamp, TimestampFormat},
    s3_error,
};

use super::{error::IntoS3, grants::acl_headers, tags::NewTags};

pub(crate) fn bucket(name: &str) -> S3Result<BucketName> {
    BucketName::new(name).map_err(IntoS3::into_s3)
}

pub(crate) fn key(key: String) -> S3Result<ObjectKey> {
    ObjectKey::new(key).map_err(IntoS3::into_s3)
}

pub(crate) fn etag(etag: &atoll_objects::ETag) -> dto::ETag {
    dto::ETag::Strong(etag.to_string())
}

pub(crate) fn timestamp(time: WallTime) -> Timestamp {
    Timestamp::from(system_time(time))
}

fn system_time(time: WallTime) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(time.as_millis())
}

pub(crate) fn http_date(time: WallTime) -> Option<HeaderValue> {
    HeaderValue::try_from(httpdate::fmt_http_date(system_time(time))).ok()
}

/// A date before 1970 is as old as 1970.
fn parse_http_date(text: &str) -> Option<WallTime> {
    let time = httpdate::parse_http_date(text).ok()?;
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Some(WallTime::from_millis(since.as_millis() as u64))
}

fn format_date(timestamp: &Timestamp) -> Option<String> {
    let mut text = Vec::new();
    timestamp.format(TimestampFormat::HttpDate, &mut text).ok()?;
    String::from_utf8(text).ok()
}

/// One of RFC 9110's entity-tag lists, or `*`. (`s3s` reads a single tag only.) Clients
/// also send bare digits.
fn etag_condition(headers: &HeaderMap, name: &HeaderName) -> Option<ETagCondition> {
    let mut tags = Vec::new();
    for value in headers.get_all(name) {
        for tag in value.to_str().unwrap_or_default().split(',').map(str::trim) {
            match tag {
                "" => {}
                "*" => return Some(ETagCondition::Any),
                _ => tags.push(tag.trim_start_matches("W/").trim_matches('"').to_owned()),
            }
        }
    }
    // A header that is there and names nothing matches nothing.
    headers.contains_key(name).then_some(ETagCondition::OneOf(tags))
}

/// What a client says in a date it can't write right is ignored (RFC 9110 section 13.1.3).
fn date_condition(headers: &HeaderMap, name: &HeaderName) -> Option<WallTime> {
    parse_http_date(headers.get(name)?.to_str().ok()?)
}

pub(crate) fn write_conditions(headers: &HeaderMap) -> WriteConditions {
    WriteConditions {
        if_match: etag_condition(headers, &header::IF_MATCH),
        if_none_match: etag_condition(headers, &header::IF_NONE_MATCH),
    }
}

pub(crate) fn read_conditions(headers: &HeaderMap) -> ReadConditions {
    ReadConditions {
        if_match: etag_condition(headers, &header::IF_MATCH),
        if_none_match: etag_condition(headers, &header::IF_NONE_MATCH),
        if_modified_since: date_condition(headers, &header::IF_MODIFIED_SINCE),
        if_unmodified_since: date_condition(headers, &header::IF_UNMODIFIED_SINCE),
    }
}

pub(crate) fn copy_source_conditions(headers: &HeaderMap) -> ReadConditions {
    let name = HeaderName::from_static;
    ReadConditions {
        if_match: etag_condition(headers, &name("x-amz-copy-source-if-match")),
        if_none_match: etag_condition(headers, &name("x-amz-copy-source-if-none-match")),
        if_modified_since: date_condition(headers, &name("x-amz-copy-source-if-modified-since")),
        if_unmodified_since: date_condition(headers, &name("x-amz-copy-source-if-unmodified-since")),
    }
}

/// `If-Range` (RFC 9110 section 13.1.5): the range counts only for this version.
pub(crate) fn if_range(headers: &HeaderMap) -> Option<ReadConditions> {
    let text = headers.get(header::IF_RANGE)?.to_str().ok()?;
    let conditions = match parse_http_date(text) {
        Some(date) => ReadConditions { if_unmodified_since: Some(date), ..Default::default() },
        // A weak tag keeps its mark, and so matches none of ours: as it must here.
        None => ReadConditions {
            if_match: Some(ETagCondition::OneOf(vec![text.trim_matches('"').to_owned()])),
            ..Default::default()
        },
    };
    Some(conditions)
}

pub(crate) fn byte_range(range: dto::Range) -> ByteRange {
    match range {
        dto::Range::Int { first, last: None } => ByteRange::From(first),
        dto::Range::Int { first, last: Some(last) } => ByteRange::Between(first, last),
        dto::Range::Suffix { length } => ByteRange::Last(length),
    }
}

/// S3's limit on all user metadata of an object, names and values together.
const USER_METADATA_BYTES_MAX: usize = 2048;

/// The headers that are kept with an object, as three of `s3s`'s inputs have them.
#[derive(Default)]
pub(crate) struct GivenHeaders {
    pub(crate) content_type: Option<String>,
    pub(crate) content_encoding: Option<String>,
    pub(crate) content_disposition: Option<String>,
    pub(crate) content_language: Option<String>,
    pub(crate) cache_control: Option<String>,
    pub(crate) expires: Option<Timestamp>,
    pub(crate) website_redirect_location: Option<String>,
    pub(crate) metadata: Option<dto::Metadata>,
    pub(crate) tagging: Option<String>,
    pub(crate) acl: Option<Acl>,
}

impl GivenHeaders {
    pub(crate) fn into_object_headers(self) -> S3Result<ObjectHeaders> {
        let user: std::collections::BTreeMap<_, _> = self.metadata.into_iter().flatten().collect();
        let bytes: usize = user.iter().map(|(name, value)| name.len() + value.len()).sum();
        if bytes > USER_METADATA_BYTES_MAX {
            return Err(s3_error!(
                MetadataTooLarge,
                "Your metadata headers exceed the maximum allowed metadata size of {USER_METADATA_BYTES_MAX} bytes"
            ));
        }
        Ok(ObjectHeaders {
            content_type: self.content_type,
            // `aws-chunked` is how the body travelled, not what it is.
            content_encoding: self.content_encoding.and_then(without_aws_chunked),
            content_disposition: self.content_disposition,
            content_language: self.content_language,
            cache_control: self.cache_control,
            expires: self.expires.as_ref().and_then(format_date),
            website_redirect_location: self.website_redirect_location,
            user,
            tags: self.tagging.as_deref().map(parse_tags).transpose()?.unwrap_or_default(),
            acl: self.acl,
        })
    }
}

fn without_aws_chunked(encoding: String) -> Option<String> {
    let kept: Vec<&str> =
        encoding.split(',').map(str::trim).filter(|one| !one.is_empty() && *one != "aws-chunked").collect();
    (!kept.is_empty()).then(|| kept.join(","))
}

/// `x-amz-tagging`: the form of a URL's query.
fn parse_tags(text: &str) -> S3Result<std::collections::BTreeMap<String, String>> {
    let mut tags = NewTags::of_object();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decode = |text: &str| {
            let decoded = percent_encoding::percent_decode_str(&text.replace('+', " "))
                .decode_utf8()
                .ok()
                .map(|s| s.into_owned());
            decoded.ok_or_else(|| s3_error!(InvalidArgument, "The header 'x-amz-tagging' shall be encoded as UTF-8 then URLEncoded URL query parameters without tag name duplicates."))
        };
        tags.add(decode(key)?, decode(value)?)?;
    }
    Ok(tags.finish())
}

/// What S3 says of an object whose writer said nothing.
pub(crate) const CONTENT_TYPE_DEFAULT: &str = "binary/octet-stream";

pub(crate) fn metadata(headers: &ObjectHeaders) -> Option<dto::Metadata> {
    (!headers.user.is_empty()).then(|| headers.user.clone().into_iter().collect())
}

pub(crate) fn expires(headers: &ObjectHeaders) -> Option<Timestamp> {
    Timestamp::parse(TimestampFormat::HttpDate, headers.expires.as_deref()?).ok()
}

/// The transaction id of a write that its client may retry under the same name: what it
/// sends in `x-atoll-idempotency-key`, or the id that AWS's SDKs send with each attempt
/// of one call. Bound to who asks, what for, and the body's announced content, so that a
/// name used twice by mistake does not swallow a write.
pub(crate) fn idempotency(
    headers: &HeaderMap,
    access_key: Option<&str>,
    method: &http::Method,
    bucket: &str,
    key: &str,
) -> Option<TransactionId> {
    let name = headers.get("x-atoll-idempotency-key").or_else(|| headers.get("amz-sdk-invocation-id"))?;
    let mut hasher = blake3::Hasher::new_derive_key("atoll 2026 idempotency");
    let mut add = |bytes: &[u8]| {
        hasher.update(&(bytes.len() as u64).to_be_bytes());
        hasher.update(bytes);
    };
    add(name.as_bytes());
    add(access_key.unwrap_or_default().as_bytes());
    add(method.as_str().as_bytes());
    add(bucket.as_bytes());
    add(key.as_bytes());
    for header in CONTENT_HEADERS {
        add(headers.get(header).map(HeaderValue::as_bytes).unwrap_or_default());
    }
    // Only where they are: an id that was made before there were any stays what it was.
    for header in ENCRYPTION_HEADERS.into_iter().chain(acl_headers()) {
        if let Some(value) = headers.get(header) {
            add(header.as_bytes());
            add(value.as_bytes());
        }
    }
    let mut id = [0; 16];
    hasher.finalize_xof().fill(&mut id);
    Some(TransactionId(id))
}

const ENCRYPTION_HEADERS: [&str; 2] =
    ["x-amz-server-side-encryption", "x-amz-server-side-encryption-customer-key-md5"];
const CONTENT_HEADERS: [&str; 8] = [
    "content-length",
    "content-md5",
    "x-amz-content-sha256",
    "x-amz-checksum-crc32",
    "x-amz-checksum-crc64nvme",
    "x-amz-copy-source",
    "if-match",
    "if-none-match",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn map(headers: &[(&'static str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        map
    }

    #[test]
    fn entity_tags_are_read_as_lists_quoted_weak_or_bare() {
        let condition = |value| etag_condition(&map(&[("if-match", value)]), &header::IF_MATCH);
        let one_of =
            |tags: &[&str]| Some(ETagCondition::OneOf(tags.iter().map(|tag| tag.to_string()).collect()));
        assert_eq!(condition("*"), Some(ETagCondition::Any));
        assert_eq!(condition("\"abc\""), one_of(&["abc"]));
        assert_eq!(condition("abc"), one_of(&["abc"]));
        assert_eq!(condition("\"a\", W/\"b\""), one_of(&["a", "b"]));
        assert_eq!(etag_condition(&HeaderMap::new(), &header::IF_MATCH), None);
    }

    #[test]
    fn dates_survive_the_way_through_http() {
        let time = WallTime::from_millis(1_700_000_000_000);
        let date = http_date(time).unwrap();
        assert_eq!(date, "Tue, 14 Nov 2023 22:13:20 GMT");
        let headers = map(&[("if-modified-since", date.to_str().unwrap())]);
        assert_eq!(date_condition(&headers, &header::IF_MODIFIED_SINCE), Some(time));
        let headers = map(&[("if-modified-since", "yesterday")]);
        assert_eq!(date_condition(&headers, &header::IF_MODIFIED_SINCE), None);
    }

    #[test]
    fn the_framing_is_not_kept_as_the_content_s_encoding() {
        assert_eq!(without_aws_chunked("aws-chunked".into()), None);
        assert_eq!(without_aws_chunked("aws-chunked, gzip".into()), Some("gzip".into()));
        assert_eq!(without_aws_chunked("gzip".into()), Some("gzip".into()));
    }

    #[test]
    fn tags_are_decoded_and_limited() {
        assert_eq!(
            parse_tags("a=1&b%20c=d+e").unwrap().into_iter().collect::<Vec<_>>(),
            [("a".into(), "1".into()), ("b c".into(), "d e".into())]
        );
        assert!(parse_tags("a=1&a=2").is_err());
        assert!(parse_tags("=1").is_err());
        assert!(parse_tags(&(0..11).map(|i| format!("k{i}=v")).collect::<Vec<_>>().join("&")).is_err());
    }

    #[test]
    fn a_retry_has_its_own_id_and_another_write_another() {
        let put = http::Method::PUT;
        let headers = map(&[("amz-sdk-invocation-id", "id-1"), ("x-amz-content-sha256", "aa")]);
        let id = |headers: &HeaderMap, key| idempotency(headers, Some("AK"), &put, "bucket", key);
        assert_eq!(id(&headers, "a"), id(&headers, "a"));
        assert_ne!(id(&headers, "a"), id(&headers, "b"));
        let other = map(&[("amz-sdk-invocation-id", "id-1"), ("x-amz-content-sha256", "bb")]);
        assert_ne!(id(&headers, "a"), id(&other, "a"));
        assert_eq!(id(&HeaderMap::new(), "a"), None);
    }
}
