//! ACLs as requests say them: a canned one, grants in headers or form fields, or a document;
//! and what they come to for one owner.

use atoll_access::Access;
use atoll_types::{AclGrant, Grantee, Permission};
use http::HeaderMap;
use s3s::{
    S3Result,
    dto::{self, AccessControlPolicy},
    s3_error,
};

use super::error::{IntoS3, not_implemented};

/// S3's limit.
const GRANTS_MAX: usize = 100;

pub(crate) const CANNED: &str = "x-amz-acl";

const GRANT_HEADERS: [(&str, Permission); 5] = [
    ("x-amz-grant-full-control", Permission::FullControl),
    ("x-amz-grant-read", Permission::Read),
    ("x-amz-grant-write", Permission::Write),
    ("x-amz-grant-read-acp", Permission::ReadAcp),
    ("x-amz-grant-write-acp", Permission::WriteAcp),
];

const ALL_USERS: &str = "http://acs.amazonaws.com/groups/global/AllUsers";
const AUTHENTICATED_USERS: &str = "http://acs.amazonaws.com/groups/global/AuthenticatedUsers";
const LOG_DELIVERY: &str = "http://acs.amazonaws.com/groups/s3/LogDelivery";

pub(crate) const BUCKET_OWNER_FULL_CONTROL: &str = "bucket-owner-full-control";
/// Canned ACLs that grant nothing to others than the bucket's owner.
const PRIVATE: [&str; 3] = ["private", BUCKET_OWNER_FULL_CONTROL, "bucket-owner-read"];

pub(crate) fn acl_headers() -> impl Iterator<Item = &'static str> {
    GRANT_HEADERS.into_iter().map(|(name, _)| name).chain([CANNED])
}

pub(crate) fn is_acl_header(name: &str) -> bool {
    name == CANNED || name.starts_with("x-amz-grant-")
}

/// An ACL as a request asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum AskedAcl {
    Canned(String),
    Grants(Vec<(Named, Permission)>),
}

/// A grantee as a request names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Named {
    Id(String),
    Email(String),
    Group(String),
}

impl AskedAcl {
    pub(crate) fn in_headers(headers: &HeaderMap) -> S3Result<Option<Self>> {
        for name in headers.keys().filter(|name| is_acl_header(name.as_str())) {
            let known = acl_headers().any(|known| name == known);
            // A policy's conditions are about one value.
            if !known || headers.get_all(name).iter().count() > 1 {
                return Err(s3_error!(
                    InvalidArgument,
                    "There is no such grant, or it is there twice: {name}"
                ));
            }
        }
        let text = |name: &str| {
            let value = headers.get(name).map(|value| value.to_str());
            value.transpose().map_err(|_| s3_error!(InvalidArgument, "The header {name} is no text"))
        };
        let mut grants = Vec::new();
        for (name, permission) in GRANT_HEADERS {
            for one in text(name)?.into_iter().flat_map(|list| list.split(',')) {
                grants.push((Named::in_header(one)?, permission));
            }
        }
        match text(CANNED)? {
            Some(_) if !grants.is_empty() => {
                Err(s3_error!(InvalidRequest, "Specifying both Canned ACLs and Header Grants is not allowed"))
            }
            Some(canned) => Ok(Some(AskedAcl::Canned(canned.to_owned()))),
            None if grants.is_empty() => Ok(None),
            None => Ok(Some(AskedAcl::Grants(grants))),
        }
    }

    /// A document, whose owner must be the one that there is.
    pub(crate) fn in_document(policy: AccessControlPolicy, owner: &str) -> S3Result<Self> {
        if policy.owner.and_then(|owner| owner.id).is_some_and(|id| id != owner) {
            return Err(s3_error!(AccessDenied, "The owner can't be changed by an ACL"));
        }
        let malformed = || {
            s3_error!(
                MalformedACLError,
                "The XML you provided was not well-formed or did not validate against our published schema"
            )
        };
        let grants = policy.grants.into_iter().flatten().map(|grant| {
            let permission = grant.permission.ok_or_else(malformed)?;
            let known = Permission::ALL.into_iter().find(|known| known.name() == permission.as_str());
            let dto::Grantee { email_address, id, uri, .. } = grant.grantee.ok_or_else(malformed)?;
            let named = match (id, email_address, uri) {
                (Some(id), None, None) => Named::Id(id),
                (None, Some(email), None) => Named::Email(email),
                (None, None, Some(uri)) => Named::Group(uri),
                _ => return Err(malformed()),
            };
            Ok((named, known.ok_or_else(malformed)?))
        });
        let grants = grants.collect::<S3Result<Vec<_>>>()?;
        if grants.len() > GRANTS_MAX { Err(malformed()) } else { Ok(AskedAcl::Grants(grants)) }
    }

    /// Says what is so anyway where ACLs are disabled.
    pub(crate) fn is_private(&self, owner: &str) -> bool {
        match self {
            AskedAcl::Canned(name) => PRIVATE.contains(&name.as_str()),
            AskedAcl::Grants(grants) => grants.iter().all(|(named, permission)| {
                *permission == Permission::FullControl && matches!(named, Named::Id(id) if id == owner)
            }),
        }
    }

    pub(crate) fn is_canned(&self, name: &str) -> bool {
        matches!(self, AskedAcl::Canned(canned) if canned == name)
    }

    /// The grants that it comes to. `bucket_owner` is `None` if it is a bucket's ACL.
    pub(crate) async fn grants(
        &self,
        access: &Access,
        owner: &str,
        bucket_owner: Option<&str>,
    ) -> S3Result<Vec<AclGrant>> {
        let grants = match self {
            AskedAcl::Canned(name) => return canned(name, owner, bucket_owner),
            AskedAcl::Grants(grants) => grants,
        };
        if grants.len() > GRANTS_MAX {
            return Err(s3_error!(MalformedACLError, "An ACL has at most {GRANTS_MAX} grants"));
        }
        let users = access.users().await.map_err(IntoS3::into_s3)?;
        let resolved = grants.iter().map(|(named, permission)| {
            let grantee = match named {
                Named::Id(id) if users.iter().any(|user| user.canonical_id == *id) => {
                    Grantee::User(id.clone())
                }
                Named::Id(_) => return Err(s3_error!(InvalidArgument, "Invalid id")),
                Named::Email(email) => {
                    let is_it = |known: &str| !email.is_empty() && known.eq_ignore_ascii_case(email);
                    let user = users.iter().find(|user| is_it(&user.email)).ok_or_else(|| {
                        s3_error!(
                            UnresolvableGrantByEmailAddress,
                            "The e-mail address you provided does not match any account on record."
                        )
                    })?;
                    Grantee::User(user.canonical_id.clone())
                }
                Named::Group(uri) => match uri.as_str() {
                    ALL_USERS => Grantee::AllUsers,
                    AUTHENTICATED_USERS => Grantee::AuthenticatedUsers,
                    LOG_DELIVERY => return Err(not_implemented("Access logs of buckets")),
                    _ => return Err(s3_error!(InvalidArgument, "Invalid group uri")),
                },
            };
            Ok(AclGrant { grantee, permission: *permission })
        });
        resolved.collect()
    }
}

impl Named {
    /// `id="…"`, `emailAddress="…"` or `uri="…"`; some clients leave the quotes out.
    fn in_header(text: &str) -> S3Result<Self> {
        let invalid = || s3_error!(InvalidArgument, "Argument format not recognized");
        let (kind, value) = text.trim().split_once('=').ok_or_else(invalid)?;
        let value = value.trim().trim_matches('"').to_owned();
        match kind.trim() {
            kind if kind.eq_ignore_ascii_case("id") => Ok(Named::Id(value)),
            kind if kind.eq_ignore_ascii_case("emailAddress") => Ok(Named::Email(value)),
            kind if kind.eq_ignore_ascii_case("uri") => Ok(Named::Group(value)),
            _ => Err(invalid()),
        }
    }
}

/// "Canned ACL" of S3's user guide.
fn canned(name: &str, owner: &str, bucket_owner: Option<&str>) -> S3Result<Vec<AclGrant>> {
    let to = |grantee, permission| AclGrant { grantee, permission };
    let mut grants = vec![AclGrant::full_control(owner.into())];
    let another = bucket_owner.filter(|bucket_owner| *bucket_owner != owner);
    match name {
        "private" => {}
        "public-read" => grants.push(to(Grantee::AllUsers, Permission::Read)),
        "public-read-write" => {
            grants.push(to(Grantee::AllUsers, Permission::Read));
            grants.push(to(Grantee::AllUsers, Permission::Write));
        }
        "authenticated-read" => grants.push(to(Grantee::AuthenticatedUsers, Permission::Read)),
        // Of a bucket they say nothing.
        "bucket-owner-read" => {
            grants.extend(another.map(|id| to(Grantee::User(id.into()), Permission::Read)));
        }
        BUCKET_OWNER_FULL_CONTROL => grants.extend(another.map(|id| AclGrant::full_control(id.into()))),
        "aws-exec-read" | "log-delivery-write" => {
            return Err(not_implemented(&format!("The canned ACL {name}")));
        }
        _ => return Err(s3_error!(InvalidArgument, "There is no such canned ACL")),
    }
    Ok(grants)
}

/// A grantee as answers show it.
pub(crate) fn shown_grantee(grantee: &Grantee, display_name: Option<String>) -> dto::Grantee {
    let (kind, id, uri) = match grantee {
        Grantee::User(id) => (dto::Type::CANONICAL_USER, Some(id.clone()), None),
        Grantee::AllUsers => (dto::Type::GROUP, None, Some(ALL_USERS.to_owned())),
        Grantee::AuthenticatedUsers => (dto::Type::GROUP, None, Some(AUTHENTICATED_USERS.to_owned())),
    };
    dto::Grantee { display_name, email_address: None, id, type_: dto::Type::from_static(kind), uri }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(headers: &[(&'static str, &str)]) -> Result<Option<AskedAcl>, String> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        AskedAcl::in_headers(&map).map_err(|error| error.code().as_str().to_owned())
    }

    #[test]
    fn grants_in_headers_are_read_with_and_without_quotes() {
        let read =
            asked(&[("x-amz-grant-read", "id=\"a\", emailAddress=\"b@c\""), ("x-amz-grant-write", "uri=d")]);
        let want = vec![
            (Named::Id("a".into()), Permission::Read),
            (Named::Email("b@c".into()), Permission::Read),
            (Named::Group("d".into()), Permission::Write),
        ];
        assert_eq!(read, Ok(Some(AskedAcl::Grants(want))));
        assert_eq!(asked(&[]), Ok(None));
        assert_eq!(asked(&[("x-amz-grant-read", "a")]), Err("InvalidArgument".into()));
        assert_eq!(asked(&[("x-amz-grant-read", "name=a")]), Err("InvalidArgument".into()));
        assert_eq!(asked(&[("x-amz-grant-fly", "id=a")]), Err("InvalidArgument".into()));
        let twice = [("x-amz-grant-read", "id=a"), ("x-amz-grant-read", "id=b")];
        assert_eq!(asked(&twice), Err("InvalidArgument".into()));
        let both = [("x-amz-acl", "private"), ("x-amz-grant-read", "id=a")];
        assert_eq!(asked(&both), Err("InvalidRequest".into()));
    }

    #[test]
    fn canned_acls_come_to_the_grants_that_s3_lists() {
        let of = |name: &str, bucket_owner| {
            canned(name, "ann", bucket_owner).map(|grants| {
                let text = |grant: &AclGrant| format!("{} {}", grant.grantee, grant.permission.name());
                grants.iter().map(text).collect::<Vec<_>>().join(", ")
            })
        };
        let full = "ann FULL_CONTROL";
        for (name, more) in [
            ("private", ""),
            ("public-read", ", AllUsers READ"),
            ("public-read-write", ", AllUsers READ, AllUsers WRITE"),
            ("authenticated-read", ", AuthenticatedUsers READ"),
            ("bucket-owner-read", ", bob READ"),
            (BUCKET_OWNER_FULL_CONTROL, ", bob FULL_CONTROL"),
        ] {
            assert_eq!(of(name, Some("bob")).unwrap(), format!("{full}{more}"), "{name}");
        }
        assert_eq!(of(BUCKET_OWNER_FULL_CONTROL, Some("ann")).unwrap(), full);
        assert_eq!(of("bucket-owner-read", None).unwrap(), full);
        assert_eq!(of("log-delivery-write", None).unwrap_err().code().as_str(), "NotImplemented");
        assert_eq!(of("open", None).unwrap_err().code().as_str(), "InvalidArgument");
    }
}
