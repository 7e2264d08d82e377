//! The decision: may this principal do this to that?

use std::sync::Arc;

use atoll_types::Permission;

use crate::{
    FoundObject, ObjectAcls, UserRights,
    acl::{bucket_allows, object_allows},
    action::{AclOf, Action, Scope},
    guard::{GuardedBucket, ReadPolicy},
    policy::{Ask, Facts, Verdict},
    records::{BucketId, KeyRecord, UserRecord},
};

/// Who asks, as the door proved it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    /// Nobody signed the request.
    Anonymous,
    /// The request was signed with one of this user's keys.
    User { user: Arc<UserRecord>, key: Arc<KeyRecord> },
    /// The request carried an admin token.
    Operator { name: String },
}

impl Principal {
    /// The canonical id, where there is one.
    pub fn canonical_id(&self) -> Option<&str> {
        match self {
            Principal::User { user, .. } => Some(&user.canonical_id),
            Principal::Anonymous | Principal::Operator { .. } => None,
        }
    }

    /// May do everything with every bucket.
    pub fn is_superuser(&self) -> bool {
        matches!(self, Principal::User { user, .. } if user.rights.has(UserRights::EVERYTHING))
    }
}

/// The canonical id of the root user, and of nobody else: those of others are drawn.
pub fn canonical_id(user: &str) -> String {
    data_encoding::HEXLOWER.encode(&blake3::derive_key("atoll 2026 canonical user id", user.as_bytes()))
}

/// The bucket that a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BucketOf<'a> {
    pub id: BucketId,
    pub name: &'a str,
    /// The owner's canonical id.
    pub owner: &'a str,
}

/// What is asked for.
#[derive(Clone, Copy)]
pub struct Request<'a> {
    pub principal: &'a Principal,
    /// S3's name for it (`s3:GetObject`), or `admin:` and the admin API's.
    pub action: &'a str,
    /// `None` for what is about no bucket, or about one that is still to be made.
    pub bucket: Option<BucketOf<'a>>,
    /// `None` for what is about no object.
    pub key: Option<&'a str>,
    /// What conditions may look at, but for who asks.
    pub facts: &'a dyn Facts,
    /// Without it no object's ACL allows anything.
    pub object: Option<&'a dyn ObjectAcls>,
}

/// A request's facts, and those of who asks.
struct FactsOf<'a>(&'a Request<'a>);

impl Facts for FactsOf<'_> {
    fn values(&self, key: &str) -> Option<Vec<String>> {
        let user = match self.0.principal {
            Principal::User { user, .. } => Some(user),
            Principal::Anonymous | Principal::Operator { .. } => None,
        };
        let one = match key {
            "aws:username" => user?.name.clone(),
            "aws:userid" => user?.canonical_id.clone(),
            "aws:principalarn" => format!("arn:aws:iam:::user/{}", user?.name),
            "aws:principaltype" => (if user.is_some() { "User" } else { "Anonymous" }).to_owned(),
            key => return self.0.facts.values(key),
        };
        Some(vec![one])
    }
}

/// The answer, with the rule that gave it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    Allowed { rule: String },
    Denied { rule: String },
}

impl Decision {
    pub fn is_allowed(&self) -> bool {
        matches!(self, Decision::Allowed { .. })
    }

    pub fn rule(&self) -> &str {
        match self {
            Decision::Allowed { rule } | Decision::Denied { rule } => rule,
        }
    }
}

fn allowed(rule: &str) -> Decision {
    Decision::Allowed { rule: rule.into() }
}

fn denied(rule: &str) -> Decision {
    Decision::Denied { rule: rule.into() }
}

/// What nobody can be kept from by a bucket's policy who owns the bucket, or may do
/// everything: else a policy could lock everyone out for good.
const ALWAYS_OWNERS: [&str; 3] = ["s3:GetBucketPolicy", "s3:PutBucketPolicy", "s3:DeleteBucketPolicy"];

/// Nothing allows it yet, and nothing keeps the ACL of the object that it is about from
/// allowing it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RestsOnObject(pub(crate) Permission);

/// In this order: the right door; what the key may; what the bucket's policy denies; the
/// bucket's owner and whoever may do everything; the bucket's grants; what its policy
/// allows; where ACLs are enabled the bucket's, or else the object's, by
/// [`decide_by_object`]. Who is named by none of them may do nothing.
pub(crate) fn decide(
    request: &Request<'_>,
    guarded: Option<&GuardedBucket>,
) -> Result<Decision, RestsOnObject> {
    let decision = decide_without_acls(request, guarded);
    let enabled = guarded.filter(|guarded| guarded.rules.ownership.has_acls());
    let acl = Action::find(request.action).and_then(Action::acl);
    let (Some(guarded), Some((of, permission))) = (enabled, acl) else { return Ok(decision) };
    if decision != denied(NO_RULE) {
        return Ok(decision);
    }
    match of {
        AclOf::Object => Err(RestsOnObject(permission)),
        AclOf::Bucket => match bucket_allows(&guarded.rules, request.principal, permission) {
            Some(rule) => Ok(Decision::Allowed { rule }),
            None => Ok(decision),
        },
    }
}

/// The rest of the decision. Whether nothing is there is told to those who may list the bucket.
pub(crate) fn decide_by_object(
    request: &Request<'_>,
    guarded: &GuardedBucket,
    RestsOnObject(permission): RestsOnObject,
    found: &FoundObject,
) -> Decision {
    let rule = match found {
        FoundObject::There(Some(acl)) => object_allows(&guarded.rules, acl, request.principal, permission),
        FoundObject::There(None) => None,
        FoundObject::Missing if permission == Permission::Read => {
            let list = Request { action: "s3:ListBucket", key: None, object: None, ..*request };
            return decide(&list, Some(guarded)).unwrap_or_else(|_| denied(NO_RULE));
        }
        FoundObject::Missing => None,
    };
    rule.map_or_else(|| denied(NO_RULE), |rule| Decision::Allowed { rule })
}

/// The only denial that an ACL may turn: all others were meant.
const NO_RULE: &str = "no rule allows it";

fn decide_without_acls(request: &Request<'_>, guarded: Option<&GuardedBucket>) -> Decision {
    if request.action.starts_with("admin:") {
        return match request.principal {
            Principal::Operator { .. } => allowed("admin token"),
            Principal::Anonymous | Principal::User { .. } => denied("wrong door"),
        };
    }
    let Some(action) = Action::find(request.action) else { return denied("unknown action") };
    let user = match request.principal {
        Principal::Operator { .. } => return denied("wrong door"),
        Principal::Anonymous => None,
        Principal::User { user, key } => {
            if !key.rights.has(action.right) {
                return denied("the key's rights");
            }
            Some(user)
        }
    };
    let everything = request.principal.is_superuser();
    let Some(bucket) = &request.bucket else {
        return match (action.scope, user) {
            (_, None) => denied("anonymous"),
            (Scope::Account, Some(_)) => allowed("every user"),
            (Scope::NewBucket, Some(user)) if everything || user.rights.has(UserRights::CREATE_BUCKETS) => {
                allowed("the user may create buckets")
            }
            (Scope::NewBucket, Some(_)) => denied("the user may not create buckets"),
            (Scope::Bucket | Scope::Object, Some(_)) => denied("no bucket"),
        };
    };
    let owner = user.is_some_and(|user| user.canonical_id == bucket.owner);
    let verdict = match guarded.and_then(|guarded| guarded.policy.as_ref()) {
        None => Verdict::Silent,
        Some(ReadPolicy::Policy { policy, .. }) => policy.evaluate(&Ask {
            user: user.map(|user| (user.name.as_str(), user.canonical_id.as_str())),
            action: action.name,
            bucket: bucket.name,
            key: request.key,
            facts: &FactsOf(request),
        }),
        Some(ReadPolicy::Unreadable) => Verdict::Denied { statement: "unreadable".into() },
    };
    if let Verdict::Denied { statement } = &verdict
        && !((owner || everything) && ALWAYS_OWNERS.contains(&action.name))
    {
        return Decision::Denied { rule: format!("the bucket's policy, statement {statement}") };
    }
    if everything {
        return allowed("the user may do everything");
    }
    if owner {
        return allowed("the bucket's owner");
    }
    let granted = user.zip(guarded).and_then(|(user, guarded)| guarded.rules.grants.get(&user.canonical_id));
    if granted.is_some_and(|rights| rights.has(action.right)) {
        return allowed("a grant");
    }
    if let Verdict::Allowed { statement } = verdict {
        let block = guarded.and_then(|guarded| guarded.rules.public_access_block).unwrap_or_default();
        let public = guarded.is_some_and(|guarded| {
            matches!(guarded.policy, Some(ReadPolicy::Policy { is_public: true, .. }))
        });
        if block.restrict_public_buckets && public {
            return denied("the bucket's public access block");
        }
        return Decision::Allowed { rule: format!("the bucket's policy, statement {statement}") };
    }
    denied(NO_RULE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{BucketRules, PolicyRecord, PublicAccessBlock, Rights, Secret};

    struct NoFacts;

    impl Facts for NoFacts {
        fn values(&self, _key: &str) -> Option<Vec<String>> {
            None
        }
    }

    fn principal(name: &str, rights: UserRights, key_rights: Rights) -> Principal {
        let user = UserRecord {
            name: name.into(),
            canonical_id: format!("id of {name}"),
            display_name: name.into(),
            email: String::new(),
            rights,
            created: Default::default(),
        };
        let key = KeyRecord {
            access_key: "AK".into(),
            secret: Secret::new("secret-secret"),
            user: name.into(),
            rights: key_rights,
            requests_per_second: None,
            created: Default::default(),
        };
        Principal::User { user: Arc::new(user), key: Arc::new(key) }
    }

    fn user(name: &str) -> Principal {
        principal(name, UserRights::CREATE_BUCKETS, Rights::ALL)
    }

    const ANNS: BucketOf<'static> = BucketOf { id: 1, name: "anns", owner: "id of ann" };

    fn ask(principal: &Principal, action: &str, bucket: Option<BucketOf<'_>>, rules: &BucketRules) -> bool {
        rule(principal, action, bucket, rules).is_allowed()
    }

    fn rule(
        principal: &Principal,
        action: &str,
        bucket: Option<BucketOf<'_>>,
        rules: &BucketRules,
    ) -> Decision {
        let key = action.contains("Object").then_some("k");
        let request = Request { principal, action, bucket, key, facts: &NoFacts, object: None };
        decide(&request, Some(&GuardedBucket::of(rules.clone()))).unwrap()
    }

    fn with_policy(statements: &str) -> BucketRules {
        let text = format!(r#"{{"Version":"2012-10-17","Statement":[{statements}]}}"#);
        let users = [("bob".to_owned(), "id of bob".to_owned())].into();
        BucketRules { policy: Some(PolicyRecord { text, users }), ..BucketRules::default() }
    }

    const EVERYONE_READS: &str =
        r#"{"Effect":"Allow","Principal":"*","Action":"s3:GetObject","Resource":"arn:aws:s3:::anns/*"}"#;
    const NOBODY: &str = r#"{"Sid":"no","Effect":"Deny","Principal":"*","Action":"s3:*","Resource":["arn:aws:s3:::anns","arn:aws:s3:::anns/*"]}"#;

    #[test]
    fn a_policy_lets_in_whom_it_names_and_nobody_else() {
        let rules = with_policy(EVERYONE_READS);
        let bob = user("bob");
        for who in [&Principal::Anonymous, &bob] {
            assert!(ask(who, "s3:GetObject", Some(ANNS), &rules));
            assert!(!ask(who, "s3:PutObject", Some(ANNS), &rules));
        }
        let bobs = r#"{"Effect":"Allow","Principal":{"AWS":"arn:aws:iam:::user/bob"},"Action":"s3:PutObject","Resource":"arn:aws:s3:::anns/*"}"#;
        let rules = with_policy(bobs);
        assert!(ask(&bob, "s3:PutObject", Some(ANNS), &rules));
        assert!(!ask(&user("eve"), "s3:PutObject", Some(ANNS), &rules));
        assert!(!ask(&Principal::Anonymous, "s3:PutObject", Some(ANNS), &rules));
        let reader = principal("bob", UserRights::NONE, Rights::READ);
        assert!(!ask(&reader, "s3:PutObject", Some(ANNS), &rules), "no key does more than it may");
    }

    #[test]
    fn what_a_policy_denies_is_denied_to_owner_and_root_too_but_for_the_policy_itself() {
        let rules = with_policy(&format!("{EVERYONE_READS},{NOBODY}"));
        let root = principal("root", UserRights::ALL, Rights::ALL);
        for who in [&user("ann"), &root] {
            let decision = rule(who, "s3:GetObject", Some(ANNS), &rules);
            assert_eq!(decision, denied("the bucket's policy, statement no"));
            for action in ALWAYS_OWNERS {
                assert!(ask(who, action, Some(ANNS), &rules), "{action}");
            }
            assert!(!ask(who, "s3:PutBucketAcl", Some(ANNS), &rules));
        }
        let mut granted = rules.clone();
        granted.grants.insert("id of bob".into(), Rights::ALL);
        assert!(!ask(&user("bob"), "s3:DeleteBucketPolicy", Some(ANNS), &granted));
    }

    #[test]
    fn the_public_access_block_shuts_out_whom_only_a_public_policy_lets_in() {
        let block = PublicAccessBlock { restrict_public_buckets: true, ..PublicAccessBlock::default() };
        let mut rules = with_policy(EVERYONE_READS);
        rules.public_access_block = Some(block);
        for who in [&Principal::Anonymous, &user("bob")] {
            let decision = rule(who, "s3:GetObject", Some(ANNS), &rules);
            assert_eq!(decision, denied("the bucket's public access block"));
        }
        assert!(ask(&user("ann"), "s3:GetObject", Some(ANNS), &rules));
        rules.grants.insert("id of bob".into(), Rights::READ);
        assert!(ask(&user("bob"), "s3:GetObject", Some(ANNS), &rules));
    }

    #[test]
    fn a_policy_that_can_t_be_read_denies_everything() {
        let rules = with_policy(r#"{"Effect":"Maybe"}"#);
        let ann = user("ann");
        assert!(!ask(&ann, "s3:GetObject", Some(ANNS), &rules));
        assert!(ask(&ann, "s3:DeleteBucketPolicy", Some(ANNS), &rules));
    }

    #[test]
    fn keys_open_the_s3_door_and_tokens_the_admin_door_and_nothing_opens_both() {
        let none = BucketRules::default();
        let root = principal("root", UserRights::ALL, Rights::ALL);
        let operator = Principal::Operator { name: "node a".into() };
        assert!(ask(&root, "s3:GetObject", Some(ANNS), &none));
        assert!(!ask(&root, "admin:status", None, &none));
        assert!(ask(&operator, "admin:status", None, &none));
        assert!(!ask(&operator, "s3:GetObject", Some(ANNS), &none));
        assert!(!ask(&Principal::Anonymous, "s3:GetObject", Some(ANNS), &none));
        assert!(!ask(&Principal::Anonymous, "s3:ListAllMyBuckets", None, &none));
    }

    #[test]
    fn a_bucket_is_its_owner_s_and_of_those_it_is_granted_to() {
        let mut rules = BucketRules::default();
        let (ann, bob) = (user("ann"), user("bob"));
        for action in ["s3:GetObject", "s3:PutObject", "s3:PutBucketPolicy", "s3:DeleteBucket"] {
            assert!(ask(&ann, action, Some(ANNS), &rules), "{action}");
            assert!(!ask(&bob, action, Some(ANNS), &rules), "{action}");
        }
        rules.grants.insert("id of bob".into(), Rights::READ);
        assert!(ask(&bob, "s3:GetObject", Some(ANNS), &rules));
        assert!(ask(&bob, "s3:ListBucket", Some(ANNS), &rules));
        assert!(!ask(&bob, "s3:PutObject", Some(ANNS), &rules));
        assert!(!ask(&bob, "s3:DeleteBucket", Some(ANNS), &rules));
    }

    #[test]
    fn a_key_may_do_less_than_its_user_and_never_more() {
        let none = BucketRules::default();
        let reader = principal("ann", UserRights::CREATE_BUCKETS, Rights::READ);
        assert!(ask(&reader, "s3:GetObject", Some(ANNS), &none));
        assert!(!ask(&reader, "s3:PutObject", Some(ANNS), &none));
        assert!(!ask(&reader, "s3:CreateBucket", None, &none));
        let revoked = principal("root", UserRights::ALL, Rights::NONE);
        assert!(!ask(&revoked, "s3:GetObject", Some(ANNS), &none));
        assert!(!ask(&revoked, "s3:ListAllMyBuckets", None, &none));
        let bob = principal("bob", UserRights::NONE, Rights::ALL);
        assert!(!ask(&bob, "s3:CreateBucket", None, &none));
        assert!(ask(&bob, "s3:ListAllMyBuckets", None, &none));
    }

    #[test]
    fn an_action_that_nobody_knows_is_allowed_to_nobody() {
        let root = principal("root", UserRights::ALL, Rights::ALL);
        assert!(!ask(&root, "s3:Everything", Some(ANNS), &BucketRules::default()));
    }
}
