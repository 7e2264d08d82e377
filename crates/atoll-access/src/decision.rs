//! The decision: may this principal do this to that?

/// Who asks, as the door proved it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// Nobody signed the request.
    Anonymous,
    /// The request was signed with one of this user's keys.
    User { user: String, access_key: String },
    /// The request carried an admin token.
    Operator { name: String },
}

/// The id that S3 shows for a user wherever it shows an owner: 64 hexadecimal digits that
/// say nothing and never change.
pub fn canonical_id(user: &str) -> String {
    data_encoding::HEXLOWER.encode(&blake3::derive_key("atoll 2026 canonical user id", user.as_bytes()))
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resource<'a> {
    Cluster,
    Bucket { bucket: &'a str },
    Object { bucket: &'a str, key: &'a str },
}

/// The answer, with the rule that gave it: what an audit trail needs to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    Allowed { rule: &'static str },
    Denied { rule: &'static str },
}

impl Decision {
    pub fn is_allowed(self) -> bool {
        matches!(self, Decision::Allowed { .. })
    }
}

/// Every key belongs to the root user, who may do all S3 actions; an operator may do all
/// admin actions; nobody else may do anything. `action` is S3's name for it
/// (`s3:GetObject`), or `admin:` and the admin API's.
pub(crate) fn decide(principal: &Principal, action: &str, _resource: Resource<'_>) -> Decision {
    match principal {
        Principal::User { .. } if action.starts_with("s3:") => Decision::Allowed { rule: "root user" },
        Principal::Operator { .. } if action.starts_with("admin:") => {
            Decision::Allowed { rule: "admin token" }
        }
        Principal::Anonymous => Decision::Denied { rule: "anonymous" },
        Principal::User { .. } | Principal::Operator { .. } => Decision::Denied { rule: "wrong door" },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_open_the_s3_door_and_tokens_the_admin_door_and_nothing_opens_both() {
        let user = Principal::User { user: "root".into(), access_key: "AK".into() };
        let operator = Principal::Operator { name: "node a".into() };
        let object = Resource::Object { bucket: "b", key: "k" };
        assert!(decide(&user, "s3:GetObject", object).is_allowed());
        assert!(!decide(&user, "admin:status", Resource::Cluster).is_allowed());
        assert!(decide(&operator, "admin:status", Resource::Cluster).is_allowed());
        assert!(!decide(&operator, "s3:GetObject", object).is_allowed());
        assert!(!decide(&Principal::Anonymous, "s3:GetObject", object).is_allowed());
    }
}
