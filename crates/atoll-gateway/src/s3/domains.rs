//! Virtual-hosted style: the bucket as the first part of the host's name.

use s3s::{
    S3Result,
    host::{S3Host, VirtualHost},
};

/// The names under which this door is known: `bucket.name` means the bucket. Any other host
/// is asked in path style.
#[derive(Clone, Debug)]
pub(crate) struct Domains(Vec<String>);

impl Domains {
    pub(crate) fn new(domains: Vec<String>) -> Self {
        Self(domains.into_iter().map(|domain| domain.to_ascii_lowercase()).collect())
    }

    /// The bucket that a `Host` header names.
    pub(crate) fn bucket_of(&self, host: &str) -> Option<String> {
        let name = host.rsplit_once(':').map_or(host, |(name, _)| name).to_ascii_lowercase();
        if self.0.contains(&name) {
            return None;
        }
        // The longest that fits, should one lie under another.
        let found = self.0.iter().filter_map(|domain| name.strip_suffix(domain.as_str())?.strip_suffix('.'));
        found.filter(|bucket| !bucket.is_empty()).min_by_key(|bucket| bucket.len()).map(str::to_owned)
    }
}

impl S3Host for Domains {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        Ok(match self.bucket_of(host) {
            Some(bucket) => VirtualHost::new(host).with_bucket(bucket),
            None => VirtualHost::new(host),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_what_stands_before_the_domain() {
        let domains = Domains::new(vec!["S3.example".into(), "example".into(), "localhost".into()]);
        let bucket = |host| domains.bucket_of(host);
        assert_eq!(bucket("a.b.s3.example:9000").as_deref(), Some("a.b"));
        assert_eq!(bucket("B.Localhost").as_deref(), Some("b"));
        assert_eq!(bucket("s3.example"), None);
        assert_eq!(bucket("localhost:9000"), None);
        assert_eq!(bucket("nolocalhost"), None);
        assert_eq!(bucket(".localhost"), None);
        assert_eq!(bucket("10.0.0.1:9000"), None);
    }
}
