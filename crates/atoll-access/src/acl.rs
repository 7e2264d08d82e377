//! What ACLs allow: those of buckets, which lie among their rules, and those of objects, which
//! lie with the objects and are read where nothing else allows what is asked.

use async_trait::async_trait;
use atoll_types::{Acl, AclGrant, Grantee, Instant, Permission};

use crate::{
    Access, AccessError, BucketOf, ChangeError, Principal, PublicAccessBlock,
    access::LOOKUP_WAIT,
    records::{Act, BucketRules, Ownership},
};

/// What there is under the key that a request names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FoundObject {
    /// Nothing, or a delete marker.
    Missing,
    /// `None`: it is the bucket owner's, and private.
    There(Option<Acl>),
}

/// Reads the ACL of the object that a request is about, once, if the decision rests on it.
#[async_trait]
pub trait ObjectAcls: Send + Sync {
    async fn found(&self) -> Result<FoundObject, AccessError>;
}

/// For requests about what is known.
#[async_trait]
impl ObjectAcls for FoundObject {
    async fn found(&self) -> Result<FoundObject, AccessError> {
        Ok(self.clone())
    }
}

/// The grant that gives the principal this, if there is one.
fn granting<'a>(
    grants: &'a [AclGrant],
    principal: &Principal,
    wanted: Permission,
    block: PublicAccessBlock,
) -> Option<&'a AclGrant> {
    grants.iter().find(|grant| {
        let is_meant = match &grant.grantee {
            Grantee::User(id) => principal.canonical_id() == Some(id),
            Grantee::AuthenticatedUsers => matches!(principal, Principal::User { .. }),
            Grantee::AllUsers => true,
        };
        is_meant
            && grant.permission.includes(wanted)
            && !(grant.grantee.is_public() && block.ignore_public_acls)
    })
}

fn rule_of(whose: &str, grant: &AclGrant) -> String {
    format!("the {whose}'s ACL, {} to {}", grant.permission.name(), grant.grantee)
}

/// The rule by which a bucket's ACL allows it, if it does.
pub(crate) fn bucket_allows(
    rules: &BucketRules,
    principal: &Principal,
    wanted: Permission,
) -> Option<String> {
    let block = rules.public_access_block.unwrap_or_default();
    let grant = granting(rules.acl.as_deref()?, principal, wanted, block)?;
    Some(rule_of("bucket", grant))
}

/// The rule by which an object's ACL allows it, if it does. Its owner may always read and
/// replace the ACL itself.
pub(crate) fn object_allows(
    rules: &BucketRules,
    acl: &Acl,
    principal: &Principal,
    wanted: Permission,
) -> Option<String> {
    let is_owner = principal.canonical_id() == Some(&acl.owner);
    if is_owner && matches!(wanted, Permission::ReadAcp | Permission::WriteAcp) {
        return Some("the object's owner".into());
    }
    let block = rules.public_access_block.unwrap_or_default();
    Some(rule_of("object", granting(&acl.grants, principal, wanted, block)?))
}

impl Access {
    /// Sets a bucket's ownership, its ACL or both; `None` leaves it. Of an ACL the inner `None`
    /// is private. Holds on this node at once, on all others as a revocation does.
    pub async fn put_acl(
        &self,
        bucket: BucketOf<'_>,
        ownership: Option<Ownership>,
        acl: Option<Option<Vec<AclGrant>>>,
        deadline: Instant,
    ) -> Result<(), ChangeError> {
        let act = Act::PutAcl { bucket: bucket.id, owner: bucket.owner.into(), ownership, acl };
        self.act(act, deadline).await?;
        self.inner.refreshed(LOOKUP_WAIT).await?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::{
        Decision, Facts, KeyRecord, PolicyRecord, Request, Rights, Secret, UserRecord, UserRights,
        decision::{RestsOnObject, decide, decide_by_object},
        guard::GuardedBucket,
    };

    struct NoFacts;

    impl Facts for NoFacts {
        fn values(&self, _key: &str) -> Option<Vec<String>> {
            None
        }
    }

    fn with_key(name: &str, rights: Rights) -> Principal {
        let user = UserRecord {
            name: name.into(),
            canonical_id: name.into(),
            display_name: name.into(),
            email: String::new(),
            rights: UserRights::NONE,
            created: Default::default(),
        };
        let key = KeyRecord {
            access_key: "AK".into(),
            secret: Secret::new("secret-secret"),
            user: name.into(),
            rights,
            requests_per_second: None,
            created: Default::default(),
        };
        Principal::User { user: Arc::new(user), key: Arc::new(key) }
    }

    fn user(name: &str) -> Principal {
        with_key(name, Rights::ALL)
    }

    fn rules(grants: &[AclGrant]) -> BucketRules {
        let acl = Some(grants.to_vec());
        BucketRules { ownership: Ownership::ObjectWriter, acl, ..BucketRules::default() }
    }

    fn to(grantee: Grantee, permission: Permission) -> AclGrant {
        AclGrant { grantee, permission }
    }

    fn to_bob(permission: Permission) -> AclGrant {
        to(Grantee::User("bob".into()), permission)
    }

    /// The rule that allows it in ann's bucket, to an object of eve's with these grants.
    fn allowed(
        principal: &Principal,
        action: &str,
        rules: &BucketRules,
        grants: &[AclGrant],
    ) -> Option<String> {
        let found = FoundObject::There(Some(Acl { owner: "eve".into(), grants: grants.to_vec() }));
        rule_for(principal, action, rules, &found)
    }

    fn rule_for(
        principal: &Principal,
        action: &str,
        rules: &BucketRules,
        found: &FoundObject,
    ) -> Option<String> {
        let bucket = Some(BucketOf { id: 1, name: "anns", owner: "ann" });
        let key = (!action.contains("Bucket")).then_some("k");
        let request = Request { principal, action, bucket, key, facts: &NoFacts, object: None };
        let guarded = GuardedBucket::of(rules.clone());
        let decision = decide(&request, Some(&guarded))
            .unwrap_or_else(|rests: RestsOnObject| decide_by_object(&request, &guarded, rests, found));
        matches!(decision, Decision::Allowed { .. }).then(|| decision.rule().to_owned())
    }

    /// Every action of the table for every permission: what an ACL allows, and nothing more.
    #[test]
    fn each_permission_allows_what_s3_lists_for_it_and_nothing_else() {
        use Permission::{FullControl, Read, ReadAcp, Write, WriteAcp};
        let of_buckets = [
            (Read, &["s3:ListBucket", "s3:ListBucketMultipartUploads", "s3:ListBucketVersions"][..]),
            (Write, &["s3:DeleteObject", "s3:PutObject"]),
            (ReadAcp, &["s3:GetBucketAcl"]),
            (WriteAcp, &["s3:PutBucketAcl"]),
        ];
        let of_objects = [
            (Read, &["s3:GetObject", "s3:GetObjectVersion"][..]),
            (Write, &[]),
            (ReadAcp, &["s3:GetObjectAcl", "s3:GetObjectVersionAcl"]),
            (WriteAcp, &["s3:PutObjectAcl", "s3:PutObjectVersionAcl"]),
        ];
        let check = |rules: &BucketRules, grants: &[AclGrant], wanted: Vec<&str>| {
            let bob = user("bob");
            let actions = crate::Action::all().filter(|action| action.scope != crate::Scope::Account);
            let actions = actions.filter(|action| action.scope != crate::Scope::NewBucket);
            let mut got: Vec<_> = actions
                .filter(|action| allowed(&bob, action.name, rules, grants).is_some())
                .map(|action| action.name)
                .collect();
            got.sort_unstable();
            assert_eq!(got, wanted);
        };
        for (of_bucket, table) in [(true, of_buckets), (false, of_objects)] {
            let all = table.iter().flat_map(|(_, actions)| actions.iter().copied());
            let mut all: Vec<_> = all.collect();
            all.sort_unstable();
            for (permission, wanted) in
                table.iter().map(|(p, wanted)| (*p, wanted.to_vec())).chain([(FullControl, all)])
            {
                let grant = [to_bob(permission)];
                match of_bucket {
                    true => check(&rules(&grant), &[], wanted),
                    false => check(&rules(&[]), &grant, wanted),
                }
            }
        }
    }

    #[test]
    fn grants_mean_whom_they_name() {
        let none = rules(&[]);
        let read = |grantee| [to(grantee, Permission::Read)];
        let get = |who: &Principal, grantee| allowed(who, "s3:GetObject", &none, &read(grantee));
        let (bob, nobody) = (user("bob"), Principal::Anonymous);
        let operator = Principal::Operator { name: "node a".into() };
        assert_eq!(get(&nobody, Grantee::AllUsers).unwrap(), "the object's ACL, READ to AllUsers");
        assert_eq!(get(&bob, Grantee::User("bob".into())).unwrap(), "the object's ACL, READ to bob");
        assert!(get(&bob, Grantee::AllUsers).is_some() && get(&bob, Grantee::AuthenticatedUsers).is_some());
        assert_eq!(get(&nobody, Grantee::AuthenticatedUsers), None);
        assert_eq!(get(&bob, Grantee::User("eve".into())), None);
        assert_eq!(get(&operator, Grantee::AllUsers), None);
        let listed = rules(&read(Grantee::AllUsers));
        let rule = allowed(&nobody, "s3:ListBucket", &listed, &[]);
        assert_eq!(rule.unwrap(), "the bucket's ACL, READ to AllUsers");
        let reader = with_key("bob", Rights::READ);
        let full = [to_bob(Permission::FullControl)];
        assert!(allowed(&reader, "s3:GetObject", &none, &full).is_some());
        assert_eq!(allowed(&reader, "s3:PutObjectAcl", &none, &full), None, "no key does more than it may");
    }

    #[test]
    fn an_object_s_owner_may_read_and_replace_its_acl_and_no_more() {
        let eve = user("eve");
        let may = |action| allowed(&eve, action, &rules(&[]), &[]);
        assert_eq!(may("s3:GetObjectAcl").unwrap(), "the object's owner");
        assert!(may("s3:PutObjectVersionAcl").is_some());
        for action in ["s3:GetObject", "s3:DeleteObject", "s3:PutBucketAcl"] {
            assert_eq!(may(action), None, "{action}");
        }
        assert_eq!(rule_for(&eve, "s3:GetObjectAcl", &rules(&[]), &FoundObject::There(None)), None);
        let rule = allowed(&user("ann"), "s3:GetObject", &rules(&[]), &[]);
        assert_eq!(rule.unwrap(), "the bucket's owner", "whosever the object is");
    }

    #[test]
    fn acls_say_nothing_where_they_are_disabled_ignored_or_denied() {
        let public = [to(Grantee::AllUsers, Permission::FullControl)];
        let get = |rules: &BucketRules| allowed(&Principal::Anonymous, "s3:GetObject", rules, &public);
        let list = |rules: &BucketRules| allowed(&Principal::Anonymous, "s3:ListBucket", rules, &public);
        let open = rules(&public);
        assert!(get(&open).is_some() && list(&open).is_some());
        let disabled = BucketRules { ownership: Ownership::BucketOwnerEnforced, ..open.clone() };
        assert_eq!((get(&disabled), list(&disabled)), (None, None));
        let block = PublicAccessBlock { ignore_public_acls: true, ..PublicAccessBlock::default() };
        let ignored = BucketRules { public_access_block: Some(block), ..open.clone() };
        assert_eq!((get(&ignored), list(&ignored)), (None, None));
        let named = [to_bob(Permission::Read)];
        assert!(allowed(&user("bob"), "s3:GetObject", &ignored, &named).is_some());
        let text = r#"{"Version":"2012-10-17","Statement":{"Effect":"Deny","Principal":"*","Action":"s3:*","Resource":["arn:aws:s3:::anns","arn:aws:s3:::anns/*"]}}"#;
        let policy = Some(PolicyRecord { text: text.into(), users: Default::default() });
        let denied = BucketRules { policy, ..open };
        assert_eq!((get(&denied), list(&denied)), (None, None));
    }

    #[test]
    fn what_is_missing_is_told_to_those_who_may_list() {
        let missing = |rules: &BucketRules, action| {
            rule_for(&Principal::Anonymous, action, rules, &FoundObject::Missing).is_some()
        };
        let listed = rules(&[to(Grantee::AllUsers, Permission::Read)]);
        assert!(missing(&listed, "s3:GetObject"));
        assert!(!missing(&rules(&[]), "s3:GetObject"));
        assert!(!missing(&listed, "s3:PutObjectAcl"));
    }
}
