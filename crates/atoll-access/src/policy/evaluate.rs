//! What a policy says of one request.

use super::document::{Effect, Policy, Statement, Who};

/// What conditions may look at. Keys are in lower case (but for the tag in
/// `s3:requestobjecttag/<tag>`); `None` is what the request does not have.
pub trait Facts: Sync {
    fn values(&self, key: &str) -> Option<Vec<String>>;
}

/// What is asked of a policy.
#[derive(Clone, Copy)]
pub struct Ask<'a> {
    /// Name and canonical id; `None` for a request that nobody signed.
    pub user: Option<(&'a str, &'a str)>,
    pub action: &'a str,
    pub bucket: &'a str,
    pub key: Option<&'a str>,
    pub facts: &'a dyn Facts,
}

/// Names the statement that said so, by its `Sid` or its number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Denied {
        statement: String,
    },
    Allowed {
        statement: String,
    },
    /// Nothing was said of such a request.
    Silent,
}

impl Policy {
    /// A statement that denies wins over any that allow.
    pub fn evaluate(&self, ask: &Ask<'_>) -> Verdict {
        let resource = match ask.key {
            Some(key) => format!("{}/{key}", ask.bucket),
            None => ask.bucket.to_owned(),
        };
        let mut verdict = Verdict::Silent;
        for (at, statement) in self.statements.iter().enumerate() {
            let decided = matches!(verdict, Verdict::Allowed { .. });
            if decided && statement.effect == Effect::Allow || !self.applies(statement, ask, &resource) {
                continue;
            }
            let name = statement.sid.clone().unwrap_or_else(|| (at + 1).to_string());
            match statement.effect {
                Effect::Deny => return Verdict::Denied { statement: name },
                Effect::Allow => verdict = Verdict::Allowed { statement: name },
            }
        }
        verdict
    }

    fn applies(&self, statement: &Statement, ask: &Ask<'_>, resource: &str) -> bool {
        let is_meant = |who: &Who| match (who, ask.user) {
            (Who::Everyone, _) => true,
            (Who::User(name), Some((_, id))) => self.users.get(name).is_some_and(|meant| meant == id),
            (Who::Id(meant), Some((_, id))) => meant == id,
            (Who::User(_) | Who::Id(_), None) => false,
        };
        statement.actions.has(|pattern| pattern.matches_plainly(ask.action, true))
            && statement.principals.has(is_meant)
            && statement.resources.has(|pattern| pattern.matches(resource, ask.facts, false))
            && statement.conditions.iter().all(|condition| condition.holds(ask.facts))
    }
}
