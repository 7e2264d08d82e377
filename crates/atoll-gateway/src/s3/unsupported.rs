//! What is refused before anything is done: features that are not here and whose silent
//! loss would change what the request means, and SigV2, which `s3s` has no switch for.

use http::{HeaderMap, Uri};
use s3s::{S3Result, s3_error};

use super::error::not_implemented;

/// Headers that begin with these ask for what is not here.
const PREFIXES: [(&str, &str); 3] = [
    ("x-amz-server-side-encryption-aws-kms-", "Server-side encryption with KMS keys"),
    ("x-amz-server-side-encryption-context", "Server-side encryption with KMS keys"),
    ("x-amz-object-lock-", "Object lock"),
];

/// Headers that ask for what is not here, whatever they say.
const NAMES: [(&str, &str); 4] = [
    ("x-amz-write-offset-bytes", "Appending to an object"),
    ("x-amz-if-match-last-modified-time", "A delete on condition of time"),
    ("x-amz-if-match-size", "A delete on condition of size"),
    ("x-amz-rename-source", "Renaming an object"),
];

/// Headers that may only say what is so anyway.
const ONLY: [(&str, &[&str], &str); 3] = [
    (
        "x-amz-server-side-encryption-bucket-key-enabled",
        &["false", "False"],
        "Server-side encryption with KMS keys",
    ),
    ("x-amz-bucket-object-lock-enabled", &["false", "False"], "Object lock"),
    ("x-amz-storage-class", &["STANDARD"], "A storage class other than STANDARD"),
];

pub(crate) fn refuse(headers: &HeaderMap, uri: &Uri) -> S3Result<()> {
    if let Some(authorization) = headers.get(http::header::AUTHORIZATION) {
        let authorization = authorization.as_bytes();
        if authorization.starts_with(b"AWS ") {
            return Err(sig_v2());
        }
        // `s3s` reads the algorithm's name and does not look at it.
        let named = authorization.strip_prefix(b"AWS4-HMAC-SHA256").and_then(|rest| rest.first());
        if !named.is_some_and(u8::is_ascii_whitespace) {
            return Err(s3_error!(InvalidArgument, "Unsupported Authorization Type"));
        }
    }
    if let Some(query) = uri.query()
        && query.split('&').any(|pair| pair.starts_with("Signature=") || pair.starts_with("AWSAccessKeyId="))
    {
        return Err(sig_v2());
    }
    for (name, value) in headers {
        let name = name.as_str();
        // Nearly all headers end here.
        if !name.starts_with("x-amz-") {
            continue;
        }
        let prefix = PREFIXES.iter().find(|row| name.starts_with(row.0)).map(|row| row.1);
        let exact = NAMES.iter().find(|row| name == row.0).map(|row| row.1);
        if let Some(what) = prefix.or(exact) {
            return Err(not_implemented(what));
        }
        if let Some((_, allowed, what)) = ONLY.iter().find(|row| name == row.0)
            && !allowed.iter().any(|allowed| value == allowed)
        {
            return Err(not_implemented(what));
        }
    }
    Ok(())
}

pub(crate) fn sig_v2() -> s3s::S3Error {
    s3_error!(
        InvalidRequest,
        "The authorization mechanism you have provided is not supported. Please use AWS4-HMAC-SHA256."
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(headers: &[(&'static str, &str)], uri: &'static str) -> Result<(), String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        refuse(&map, &Uri::from_static(uri)).map_err(|error| error.code().as_str().to_owned())
    }

    #[test]
    fn what_would_silently_be_lost_is_refused() {
        let not_implemented = Err("NotImplemented".to_owned());
        let kms = "x-amz-server-side-encryption-aws-kms-key-id";
        assert_eq!(check(&[(kms, "a")], "/b/k"), not_implemented);
        let bucket_key = "x-amz-server-side-encryption-bucket-key-enabled";
        assert_eq!(check(&[(bucket_key, "true")], "/b/k"), not_implemented);
        assert_eq!(check(&[("x-amz-object-lock-mode", "COMPLIANCE")], "/b/k"), not_implemented);
        assert_eq!(check(&[("x-amz-storage-class", "GLACIER")], "/b/k"), not_implemented);
        assert_eq!(check(&[("x-amz-acl", "private"), ("x-amz-storage-class", "STANDARD")], "/b/k"), Ok(()));
        assert_eq!(check(&[("x-amz-meta-a", "b"), ("host", "x")], "/b/k"), Ok(()));
    }

    #[test]
    fn sigv2_is_refused_in_headers_and_in_urls() {
        let invalid = Err("InvalidRequest".to_owned());
        assert_eq!(check(&[("authorization", "AWS AK:c2ln")], "/b/k"), invalid);
        assert_eq!(check(&[], "/b/k?AWSAccessKeyId=AK&Expires=1&Signature=c2ln"), invalid);
        assert_eq!(
            check(&[("authorization", "AWS4-HMAC-SHA256 Credential=x")], "/b/k?X-Amz-Signature=a"),
            Ok(())
        );
    }
}
