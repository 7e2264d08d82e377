//! A policy document, from its text to statements that can be evaluated.

use std::collections::BTreeMap;

use super::{
    condition::{self, Condition},
    json::Node,
    pattern::{Pattern, Syntax},
};
use crate::{Action, Scope};

/// S3's bound.
pub const POLICY_BYTES_MAX: usize = 20 << 10;

/// Why a text is no policy, for who wrote it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct MalformedPolicy {
    pub reason: String,
}

impl From<String> for MalformedPolicy {
    fn from(reason: String) -> Self {
        Self { reason }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Effect {
    Allow,
    Deny,
}

/// Those listed, or all but those.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Set<T> {
    Of(Vec<T>),
    AllBut(Vec<T>),
}

impl<T> Set<T> {
    pub(super) fn has(&self, is: impl Fn(&T) -> bool) -> bool {
        match self {
            Set::Of(listed) => listed.iter().any(is),
            Set::AllBut(listed) => !listed.iter().any(is),
        }
    }

    fn listed(&self) -> &[T] {
        match self {
            Set::Of(listed) | Set::AllBut(listed) => listed,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Who {
    Everyone,
    /// By name.
    User(String),
    /// By canonical id.
    Id(String),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Statement {
    pub(super) sid: Option<String>,
    pub(super) effect: Effect,
    pub(super) principals: Set<Who>,
    pub(super) actions: Set<Pattern>,
    pub(super) resources: Set<Pattern>,
    pub(super) conditions: Vec<Condition>,
}

/// A bucket policy.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    pub(super) statements: Vec<Statement>,
    /// Canonical ids of the users it names.
    pub(super) users: BTreeMap<String, String>,
}

impl Policy {
    /// Reads a document for the bucket `bucket`.
    pub fn parse(text: &str, bucket: &str) -> Result<Self, MalformedPolicy> {
        let policy = Self::read(text)?;
        for statement in &policy.statements {
            statement.fits(bucket).map_err(|reason| statement.malformed(&reason))?;
        }
        Ok(policy)
    }

    /// Reads a document that was found to fit its bucket when it was put.
    pub(crate) fn read(text: &str) -> Result<Self, MalformedPolicy> {
        if text.len() > POLICY_BYTES_MAX {
            return Err(format!("a policy has at most {POLICY_BYTES_MAX} bytes").into());
        }
        let node: Node =
            serde_json::from_str(text).map_err(|error| format!("the policy is not valid JSON: {error}"))?;
        let Node::Map(elements) = &node else { return Err("a policy is a JSON object".to_owned().into()) };
        let mut variables = false;
        let mut statements = None;
        for (name, node) in elements {
            match name.as_str() {
                "Version" => match node {
                    Node::Text(version) if version == "2012-10-17" => variables = true,
                    Node::Text(version) if version == "2008-10-17" => {}
                    _ => return Err("Version is 2012-10-17 or 2008-10-17".to_owned().into()),
                },
                "Id" => drop(text_of(name, node)?),
                "Statement" => statements = Some(node),
                _ => return Err(format!("there is no element {name:?} in a policy").into()),
            }
        }
        let statements = match statements {
            Some(Node::List(statements)) if !statements.is_empty() => statements.iter().collect(),
            Some(statement @ Node::Map(_)) => vec![statement],
            _ => return Err("Statement is missing or empty".to_owned().into()),
        };
        let mut read: Vec<Statement> = Vec::with_capacity(statements.len());
        for (at, node) in statements.into_iter().enumerate() {
            let statement = Statement::parse(node, variables)
                .map_err(|reason| format!("statement {}: {reason}", at + 1))?;
            if statement.sid.is_some() && read.iter().any(|known| known.sid == statement.sid) {
                return Err(format!("statement {}: its Sid is that of another", at + 1).into());
            }
            read.push(statement);
        }
        Ok(Self { statements: read, users: BTreeMap::new() })
    }

    /// The users that it names, and the canonical ids.
    pub fn names(&self) -> (Vec<&str>, Vec<&str>) {
        let listed = || self.statements.iter().flat_map(|statement| statement.principals.listed());
        let names = listed().filter_map(|who| match who {
            Who::User(name) => Some(name.as_str()),
            Who::Everyone | Who::Id(_) => None,
        });
        let ids = listed().filter_map(|who| match who {
            Who::Id(id) => Some(id.as_str()),
            Who::Everyone | Who::User(_) => None,
        });
        (names.collect(), ids.collect())
    }

    /// Whom the names mean.
    pub fn with_users(self, users: BTreeMap<String, String>) -> Self {
        Self { users, ..self }
    }

    /// Whether it lets in people whom nobody named ("The meaning of public").
    pub fn is_public(&self) -> bool {
        self.statements.iter().any(|statement| {
            let everyone = match &statement.principals {
                Set::Of(listed) => listed.contains(&Who::Everyone),
                Set::AllBut(_) => true,
            };
            statement.effect == Effect::Allow
                && everyone
                && !statement.conditions.iter().any(Condition::restricts)
        })
    }
}

impl Statement {
    fn malformed(&self, reason: &str) -> MalformedPolicy {
        match &self.sid {
            Some(sid) => format!("statement {sid:?}: {reason}").into(),
            None => reason.to_owned().into(),
        }
    }

    fn parse(node: &Node, variables: bool) -> Result<Self, String> {
        let Node::Map(elements) = node else { return Err("a statement is a JSON object".into()) };
        let mut sid = None;
        let mut effect = None;
        let mut principals = None;
        let mut actions = None;
        let mut resources = None;
        let mut conditions = Vec::new();
        for (name, node) in elements {
            let twice = || format!("{name} excludes its counterpart");
            match name.as_str() {
                "Sid" => sid = Some(text_of(name, node)?),
                "Effect" => {
                    effect = Some(match text_of(name, node)?.as_str() {
                        "Allow" => Effect::Allow,
                        "Deny" => Effect::Deny,
                        other => return Err(format!("Effect is Allow or Deny, not {other:?}")),
                    });
                }
                "Principal" | "NotPrincipal" => {
                    let set = set(name == "NotPrincipal", principals_of(node)?);
                    if principals.replace(set).is_some() {
                        return Err(twice());
                    }
                }
                "Action" | "NotAction" => {
                    let set = set(name == "NotAction", actions_of(name, node)?);
                    if actions.replace(set).is_some() {
                        return Err(twice());
                    }
                }
                "Resource" | "NotResource" => {
                    let set = set(name == "NotResource", resources_of(name, node, variables)?);
                    if resources.replace(set).is_some() {
                        return Err(twice());
                    }
                }
                "Condition" => conditions = condition::parse(node, variables)?,
                _ => return Err(format!("there is no element {name:?} in a statement")),
            }
        }
        Ok(Self {
            sid: sid.filter(|sid| !sid.is_empty()),
            effect: effect.ok_or("Effect is missing")?,
            principals: principals.ok_or("Principal is missing")?,
            actions: actions.ok_or("Action is missing")?,
            resources: resources.ok_or("Resource is missing")?,
            conditions,
        })
    }

    /// A policy of one bucket that speaks of another, or an action that nothing named has,
    /// is a mistake: S3 refuses both.
    fn fits(&self, bucket: &str) -> Result<(), String> {
        for pattern in self.resources.listed() {
            let (name, _) = pattern.until_slash();
            if !name.matches_plainly(bucket, false) {
                return Err("Policy has invalid resource: one of another bucket".into());
            }
        }
        let (Set::Of(actions), Set::Of(resources)) = (&self.actions, &self.resources) else { return Ok(()) };
        let has = |scope: Scope| {
            resources.iter().any(|pattern| {
                let (_, slash) = pattern.until_slash();
                match scope {
                    Scope::Bucket => !slash,
                    Scope::Object => slash || pattern.ends_in_many(),
                    Scope::Account | Scope::NewBucket => false,
                }
            })
        };
        for pattern in actions {
            let mut meant = Action::all().filter(|action| pattern.matches_plainly(action.name, true));
            if !meant.any(|action| has(action.scope)) {
                return Err("Action does not apply to any resource(s) in statement".into());
            }
        }
        Ok(())
    }
}

fn set<T>(but: bool, listed: Vec<T>) -> Set<T> {
    if but { Set::AllBut(listed) } else { Set::Of(listed) }
}

fn text_of(name: &str, node: &Node) -> Result<String, String> {
    match node {
        Node::Text(text) => Ok(text.clone()),
        _ => Err(format!("{name} is not a string")),
    }
}

/// A string, or a list of strings with something in it.
fn texts_of(name: &str, node: &Node) -> Result<Vec<String>, String> {
    match node {
        Node::List(nodes) if !nodes.is_empty() => nodes.iter().map(|node| text_of(name, node)).collect(),
        Node::List(_) => Err(format!("{name} is empty")),
        node => Ok(vec![text_of(name, node)?]),
    }
}

fn principals_of(node: &Node) -> Result<Vec<Who>, String> {
    let invalid = |text: &str| format!("Invalid principal in policy: {text:?}");
    let pairs = match node {
        Node::Text(text) if text == "*" => return Ok(vec![Who::Everyone]),
        Node::Text(text) => return Err(invalid(text)),
        Node::Map(pairs) if !pairs.is_empty() => pairs,
        _ => return Err("Principal is \"*\", or an object of AWS or CanonicalUser".into()),
    };
    let mut all = Vec::new();
    for (kind, node) in pairs {
        for text in texts_of(kind, node)? {
            all.push(match kind.as_str() {
                "AWS" if text == "*" => Who::Everyone,
                // Users here belong to no account, so the field between the colons is empty.
                "AWS" => match text.strip_prefix("arn:aws:iam:::user/") {
                    Some(name) if !name.is_empty() && !name.contains(['/', '*', '?']) => {
                        Who::User(name.into())
                    }
                    Some(_) | None => return Err(invalid(&text)),
                },
                "CanonicalUser" => Who::Id(text),
                _ => return Err(format!("there are no principals of the kind {kind:?} here")),
            });
        }
    }
    Ok(all)
}

fn actions_of(name: &str, node: &Node) -> Result<Vec<Pattern>, String> {
    let texts = texts_of(name, node)?;
    texts
        .iter()
        .map(|text| {
            let pattern = Pattern::parse(text, Syntax::Wildcards)?;
            let known = Action::all().any(|action| pattern.matches_plainly(action.name, true));
            if known { Ok(pattern) } else { Err(format!("Policy has invalid action: {text:?}")) }
        })
        .collect()
}

fn resources_of(name: &str, node: &Node, variables: bool) -> Result<Vec<Pattern>, String> {
    let syntax = if variables { Syntax::WildcardsAndVariables } else { Syntax::Wildcards };
    let texts = texts_of(name, node)?;
    texts
        .iter()
        .map(|text| match text.strip_prefix("arn:aws:s3:::") {
            Some(path) if !path.is_empty() => Pattern::parse(path, syntax),
            Some(_) | None => Err(format!("Policy has invalid resource: {text:?}")),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(elements: &str) -> Result<Policy, MalformedPolicy> {
        let defaults = [
            ("\"Effect\"", r#""Effect":"Allow""#),
            ("Principal\"", r#""Principal":"*""#),
            ("Action\"", r#""Action":"s3:GetObject""#),
            ("Resource\"", r#""Resource":"arn:aws:s3:::b/*""#),
        ];
        let mut all: Vec<&str> = vec![elements];
        all.retain(|elements| !elements.is_empty());
        all.extend(defaults.iter().filter(|(name, _)| !elements.contains(name)).map(|(_, default)| *default));
        let text = format!(r#"{{"Version":"2012-10-17","Statement":[{{{}}}]}}"#, all.join(","));
        Policy::parse(&text, "b")
    }

    #[test]
    fn what_is_known_is_read() {
        for elements in [
            "",
            r#""Sid":"a","Effect":"Deny""#,
            r#""Principal":{"AWS":["*","arn:aws:iam:::user/ann"],"CanonicalUser":"00ff"}"#,
            r#""NotPrincipal":{"AWS":"arn:aws:iam:::user/ann"}"#,
            r#""Action":["s3:Get*","S3:PUTOBJECT"]"#,
            r#""Action":"*""#,
            r#""NotAction":"s3:DeleteBucket""#,
            r#""Action":"s3:ListBucket","Resource":["arn:aws:s3:::b","arn:aws:s3:::b/*"]"#,
            r#""Action":"s3:*","Resource":"arn:aws:s3:::b*""#,
            r#""Resource":"arn:aws:s3:::*""#,
            r#""NotResource":"arn:aws:s3:::b/private/*""#,
            r#""Resource":"arn:aws:s3:::b/home/${aws:username}/*""#,
            r#""Condition":{"IpAddress":{"aws:SourceIp":"192.0.2.0/24"}}"#,
        ] {
            let read = statement(elements);
            assert!(read.is_ok(), "{elements}: {read:?}");
        }
        let one = r#"{"Statement":{"Effect":"Allow","Principal":"*","Action":"s3:GetObject","Resource":"arn:aws:s3:::b/*"}}"#;
        assert!(Policy::parse(one, "b").is_ok());
    }

    #[test]
    fn what_is_not_known_or_makes_no_sense_is_refused() {
        for elements in [
            r#""Comment":"hello""#,
            r#""Effect":"allow""#,
            r#""Effect":["Allow"]"#,
            r#""Principal":"ann""#,
            r#""Principal":{}"#,
            r#""Principal":{"AWS":"arn:aws:iam::123456789012:root"}"#,
            r#""Principal":{"AWS":"arn:aws:iam:::user/*"}"#,
            r#""Principal":{"AWS":[]}"#,
            r#""Principal":{"Service":"cloudfront.amazonaws.com"}"#,
            r#""Principal":"*","NotPrincipal":{"CanonicalUser":"00"}"#,
            r#""Action":"s3:GetObjekt""#,
            r#""Action":"iam:*""#,
            r#""Action":[]"#,
            r#""Action":"s3:GetObject","NotAction":"s3:PutObject""#,
            r#""Action":"s3:ListBucket""#,
            r#""Action":["s3:GetObject","s3:ListBucket"]"#,
            r#""Resource":"arn:aws:s3:::b""#,
            r#""Resource":"arn:aws:s3:::other/*""#,
            r#""Resource":"b/*""#,
            r#""Resource":"*""#,
            r#""Resource":"arn:aws:s3:::b/${s3:prefix}""#,
            r#""Condition":{"Weather":{"aws:SourceIp":"sunny"}}"#,
            r#""Effect":"Allow","Effect":"Deny""#,
        ] {
            assert!(statement(elements).is_err(), "{elements}");
        }
        for text in [
            "",
            "{}",
            "[]",
            "null",
            r#"{"Statement":[]}"#,
            r#"{"Version":"2020-01-01","Statement":{"Effect":"Allow","Principal":"*","Action":"s3:*","Resource":"arn:aws:s3:::b/*"}}"#,
            r#"{"Extra":1,"Statement":{"Effect":"Allow","Principal":"*","Action":"s3:*","Resource":"arn:aws:s3:::b/*"}}"#,
            &format!("{}1{}", "[".repeat(500), "]".repeat(500)),
            &" ".repeat(POLICY_BYTES_MAX + 1),
        ] {
            assert!(Policy::parse(text, "b").is_err(), "{text:.60}");
        }
    }

    #[test]
    fn public_is_what_lets_in_people_whom_nobody_named() {
        let public = |elements: &str| statement(elements).unwrap().is_public();
        assert!(public(""));
        assert!(public(r#""NotPrincipal":{"AWS":"arn:aws:iam:::user/ann"}"#));
        assert!(public(r#""Condition":{"Bool":{"aws:SecureTransport":"true"}}"#));
        assert!(public(r#""Condition":{"IpAddress":{"aws:SourceIp":["192.0.2.0/24","0.0.0.0/1"]}}"#));
        assert!(public(r#""Condition":{"NotIpAddress":{"aws:SourceIp":"192.0.2.0/24"}}"#));
        assert!(public(r#""Condition":{"StringLike":{"aws:username":"a*"}}"#));
        assert!(!public(r#""Effect":"Deny""#));
        assert!(!public(r#""Principal":{"AWS":"arn:aws:iam:::user/ann"}"#));
        assert!(!public(r#""Condition":{"IpAddress":{"aws:SourceIp":"192.0.2.0/24"}}"#));
        assert!(!public(r#""Condition":{"StringEquals":{"aws:username":["ann","bob"]}}"#));
    }
}
