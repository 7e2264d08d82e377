//! What a policy's conditions may look at of a request: read when one asks, since most
//! requests meet no policy.

use std::net::SocketAddr;

use atoll_access::{Facts, iso_time};
use atoll_types::WallTime;
use http::{HeaderMap, Uri};
use percent_encoding::percent_decode_str;

/// Whose connection a request came over; put beside it by the server.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionInfo {
    pub peer: SocketAddr,
    pub secure: bool,
}

/// One request's headers and query.
#[derive(Clone)]
pub(crate) struct RequestFacts {
    pub(crate) connection: Option<ConnectionInfo>,
    pub(crate) uri: Uri,
    pub(crate) headers: HeaderMap,
    pub(crate) now: WallTime,
}

impl RequestFacts {
    fn header(&self, name: &str) -> Option<String> {
        let value = self.headers.get(name)?;
        Some(String::from_utf8_lossy(value.as_bytes()).into_owned())
    }

    fn parameter(&self, name: &str) -> Option<String> {
        parameters(self.uri.query()?).find(|(known, _)| known == name).map(|(_, value)| value)
    }

    /// The version that the request names.
    pub(crate) fn version(&self) -> Option<String> {
        self.parameter("versionId").filter(|version| !version.is_empty())
    }

    fn is_presigned(&self) -> bool {
        self.parameter("X-Amz-Signature").is_some()
    }

    /// When it was signed, in milliseconds since 1970.
    fn signed_at(&self) -> Option<i64> {
        let date = self.header("x-amz-date").or_else(|| self.parameter("X-Amz-Date"))?;
        // 20261126T235959Z
        let digits = |range: std::ops::Range<usize>| date.get(range).map(str::to_owned);
        let (year, month, day) = (digits(0..4)?, digits(4..6)?, digits(6..8)?);
        let (hour, minute, second) = (digits(9..11)?, digits(11..13)?, digits(13..15)?);
        atoll_access::parse_time(&format!("{year}-{month}-{day}T{hour}:{minute}:{second}Z"))
    }

    /// Of the tags that a put sends along.
    fn tags(&self) -> Option<Vec<(String, String)>> {
        Some(parameters(&self.header("x-amz-tagging")?).collect())
    }
}

impl Facts for RequestFacts {
    fn values(&self, key: &str) -> Option<Vec<String>> {
        if let Some(tag) = key.strip_prefix("s3:requestobjecttag/") {
            let value = self.tags()?.into_iter().find(|(name, _)| name == tag)?.1;
            return Some(vec![value]);
        }
        let one = match key {
            "aws:currenttime" => Some(iso_time(self.now)),
            "aws:epochtime" => Some((self.now.as_millis() / 1000).to_string()),
            "aws:referer" => self.header("referer"),
            "aws:useragent" => self.header("user-agent"),
            "aws:securetransport" => self.connection.map(|connection| connection.secure.to_string()),
            "aws:sourceip" => {
                self.connection.map(|connection| connection.peer.ip().to_canonical().to_string())
            }
            "s3:requestobjecttagkeys" => {
                return Some(self.tags()?.into_iter().map(|(name, _)| name).collect());
            }
            "s3:authtype" => match (self.is_presigned(), self.headers.contains_key("authorization")) {
                (true, _) => Some("REST-QUERY-STRING".into()),
                (false, true) => Some("REST-HEADER".into()),
                (false, false) => None,
            },
            "s3:signatureversion" => (self.is_presigned() || self.headers.contains_key("authorization"))
                .then(|| "AWS4-HMAC-SHA256".into()),
            "s3:signatureage" => {
                self.signed_at().map(|signed| (self.now.as_millis() as i64 - signed).max(0).to_string())
            }
            "s3:delimiter" | "s3:max-keys" | "s3:prefix" => self.parameter(&key[3..]),
            "s3:versionid" => self.parameter("versionId"),
            "s3:if-match" | "s3:if-none-match" => self.header(&key[3..]),
            key => key.strip_prefix("s3:x-amz-").and_then(|name| self.header(&format!("x-amz-{name}"))),
        };
        one.map(|value| vec![value])
    }
}

/// The pairs of a query, decoded.
fn parameters(query: &str) -> impl Iterator<Item = (String, String)> {
    query.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let decode =
            |text: &str| percent_decode_str(&text.replace('+', " ")).decode_utf8_lossy().into_owned();
        (decode(name), decode(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(uri: &'static str, headers: &[(&'static str, &str)]) -> RequestFacts {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        let peer = "[::ffff:192.0.2.7]:1234".parse().unwrap();
        RequestFacts {
            connection: Some(ConnectionInfo { peer, secure: false }),
            uri: Uri::from_static(uri),
            headers: map,
            now: WallTime::from_millis(1_795_737_599_000),
        }
    }

    #[test]
    fn a_request_s_facts_are_what_it_says() {
        let list =
            facts("/b?list-type=2&prefix=home%2Fann+b&max-keys=7&versionId=3", &[("user-agent", "x/1")]);
        let one = |key: &str| list.values(key).map(|values| values.join(","));
        assert_eq!(one("s3:prefix").unwrap(), "home/ann b");
        assert_eq!(one("s3:max-keys").unwrap(), "7");
        assert_eq!(one("s3:versionid").unwrap(), "3");
        assert_eq!(one("s3:delimiter"), None);
        assert_eq!(one("aws:useragent").unwrap(), "x/1");
        assert_eq!(one("aws:sourceip").unwrap(), "192.0.2.7");
        assert_eq!(one("aws:securetransport").unwrap(), "false");
        assert_eq!(one("aws:currenttime").unwrap(), "2026-11-26T23:59:59Z");
        assert_eq!(one("s3:authtype"), None);
        let headers = [
            ("x-amz-tagging", "Team=red&b=c%20d"),
            ("x-amz-acl", "private"),
            ("authorization", "AWS4-x"),
            ("x-amz-date", "20261126T235958Z"),
        ];
        let put = facts("/b/k", &headers);
        let one = |key: &str| put.values(key).map(|values| values.join(","));
        assert_eq!(one("s3:requestobjecttag/Team").unwrap(), "red");
        assert_eq!(one("s3:requestobjecttag/team"), None);
        assert_eq!(one("s3:requestobjecttagkeys").unwrap(), "Team,b");
        assert_eq!(one("s3:x-amz-acl").unwrap(), "private");
        assert_eq!(one("s3:x-amz-copy-source"), None);
        assert_eq!(one("s3:authtype").unwrap(), "REST-HEADER");
        assert_eq!(one("s3:signatureage").unwrap(), "1000");
    }
}
