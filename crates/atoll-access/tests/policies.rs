//! The evaluator of bucket policies against a plain model of the language: small policies
//! and requests of few names, so that they meet often. The model reads the policy as it
//! was drawn, not its JSON, and shares no code with the evaluator.

use std::collections::BTreeMap;

use atoll_access::policy::{Ask, Facts, Policy, Verdict};
use proptest::{collection::vec, option, prelude::*, sample::select};
use serde_json::{Value, json};

#[derive(Debug, Clone)]
enum Who {
    Everyone,
    User(&'static str),
    Id(&'static str),
}

#[derive(Debug, Clone)]
struct Condition {
    operator: &'static str,
    key: &'static str,
    values: Vec<&'static str>,
}

#[derive(Debug, Clone)]
struct Statement {
    deny: bool,
    not_principal: bool,
    principals: Vec<Who>,
    not_action: bool,
    actions: Vec<&'static str>,
    not_resource: bool,
    resources: Vec<&'static str>,
    conditions: Vec<Condition>,
}

#[derive(Debug, Clone)]
struct Request {
    user: Option<&'static str>,
    action: &'static str,
    key: Option<&'static str>,
    facts: BTreeMap<&'static str, &'static str>,
}

const USERS: [(&str, &str); 3] = [("ann", "id-a"), ("bob", "id-b"), ("eve", "id-e")];
const TEXTS: [&str; 6] = ["", "a", "ab", "a/b", "ann", "7"];

fn who() -> impl Strategy<Value = Who> {
    prop_oneof![
        Just(Who::Everyone),
        select(&USERS[..2]).prop_map(|(name, _)| Who::User(name)),
        select(&USERS[..2]).prop_map(|(_, id)| Who::Id(id)),
    ]
}

fn condition() -> impl Strategy<Value = Condition> {
    let text = select(vec![
        "StringEquals",
        "StringNotEquals",
        "StringLike",
        "StringNotLike",
        "StringEqualsIgnoreCase",
        "StringEqualsIfExists",
        "StringNotLikeIfExists",
        "ForAllValues:StringLike",
        "ForAnyValue:StringLike",
    ]);
    let values = vec(select(vec!["", "a", "A", "a*", "?", "*/b", "${aws:username}", "7"]), 1..3);
    let text = (text, select(vec!["s3:prefix", "aws:username"]), values);
    let number = (
        select(vec!["NumericEquals", "NumericNotEquals", "NumericLessThan", "NumericGreaterThanEquals"]),
        Just("s3:max-keys"),
        vec(select(vec!["5", "7", "7.0", "10"]), 1..3),
    );
    let address = (
        select(vec!["IpAddress", "NotIpAddress"]),
        Just("aws:sourceip"),
        vec(select(vec!["192.0.2.0/25", "192.0.2.130", "0.0.0.0/0", "2001:db8::/33"]), 1..3),
    );
    let other = (
        select(vec!["Null", "Bool"]),
        select(vec!["aws:securetransport", "s3:prefix"]),
        vec(select(vec!["true", "false"]), 1..2),
    );
    prop_oneof![3 => text, 1 => number, 1 => address, 1 => other]
        .prop_map(|(operator, key, values)| Condition { operator, key, values })
}

fn statement() -> impl Strategy<Value = Statement> {
    let actions = vec!["s3:*", "s3:GetObject", "s3:get*", "s3:ListBucket", "s3:PutObject", "*"];
    let resources = vec!["b", "b/*", "b/a*", "b/?", "b/a/b", "*", "b*", "b/${aws:username}"];
    (
        any::<bool>(),
        prop::bool::weighted(0.15),
        vec(who(), 1..3),
        prop::bool::weighted(0.15),
        vec(select(actions), 1..3),
        prop::bool::weighted(0.15),
        vec(select(resources), 1..3),
        vec(condition(), 0..3),
    )
        .prop_map(
            |(deny, not_principal, principals, not_action, actions, not_resource, resources, conditions)| {
                Statement {
                    deny,
                    not_principal,
                    principals,
                    not_action,
                    actions,
                    not_resource,
                    resources,
                    conditions,
                }
            },
        )
}

fn request() -> impl Strategy<Value = Request> {
    (
        option::of(select(&USERS[..]).prop_map(|(name, _)| name)),
        select(vec!["s3:GetObject", "s3:PutObject", "s3:ListBucket", "s3:GetBucketPolicy"]),
        option::of(select(vec!["a", "ab", "a/b", "ann", "x"])),
        option::of(select(&TEXTS[..])),
        option::of(select(vec!["5", "7", "many"])),
        option::of(select(vec!["192.0.2.1", "192.0.2.130", "2001:db8::1"])),
        option::of(select(vec!["true", "false"])),
    )
        .prop_map(|(user, action, key, prefix, max_keys, address, secure)| {
            let facts = [
                ("s3:prefix", prefix),
                ("s3:max-keys", max_keys),
                ("aws:sourceip", address),
                ("aws:securetransport", secure),
                ("aws:username", user),
            ];
            let facts = facts.into_iter().filter_map(|(key, value)| Some((key, value?))).collect();
            Request { user, action, key, facts }
        })
}

// The document.

fn one_or_list(values: &[&str]) -> Value {
    match values {
        [one] => json!(one),
        many => json!(many),
    }
}

fn document(statements: &[Statement]) -> String {
    let statements: Vec<Value> = statements
        .iter()
        .map(|statement| {
            let mut kinds: BTreeMap<&str, Vec<String>> = BTreeMap::new();
            for who in &statement.principals {
                let (kind, text) = match who {
                    Who::Everyone => ("AWS", "*".to_owned()),
                    Who::User(name) => ("AWS", format!("arn:aws:iam:::user/{name}")),
                    Who::Id(id) => ("CanonicalUser", id.to_string()),
                };
                kinds.entry(kind).or_default().push(text);
            }
            // JSON names are unique: values of one operator and key would have to be merged.
            let mut conditions: BTreeMap<String, Value> = BTreeMap::new();
            for condition in &statement.conditions {
                conditions.insert(
                    condition.operator.into(),
                    json!({ (condition.key): one_or_list(&condition.values) }),
                );
            }
            let name = |not: bool, name: &str| if not { format!("Not{name}") } else { name.into() };
            let resources: Vec<String> =
                statement.resources.iter().map(|path| format!("arn:aws:s3:::{path}")).collect();
            json!({
                "Effect": if statement.deny { "Deny" } else { "Allow" },
                (name(statement.not_principal, "Principal")): kinds,
                (name(statement.not_action, "Action")): one_or_list(&statement.actions),
                (name(statement.not_resource, "Resource")): resources,
                "Condition": conditions,
            })
        })
        .collect();
    json!({ "Version": "2012-10-17", "Statement": statements }).to_string()
}

// The model.

/// By the definition: a star is any prefix taken away.
fn glob(pattern: &[char], text: &[char]) -> bool {
    match pattern.split_first() {
        None => text.is_empty(),
        Some(('*', rest)) => (0..=text.len()).any(|taken| glob(rest, &text[taken..])),
        Some(('?', rest)) => !text.is_empty() && glob(rest, &text[1..]),
        Some((c, rest)) => text.first() == Some(c) && glob(rest, &text[1..]),
    }
}

fn like(pattern: &str, text: &str, request: &Request) -> bool {
    // No name in these tests has a wildcard in it.
    let pattern = match (pattern.contains("${aws:username}"), request.user) {
        (true, None) => return false,
        (_, user) => pattern.replace("${aws:username}", user.unwrap_or_default()),
    };
    glob(&pattern.chars().collect::<Vec<_>>(), &text.chars().collect::<Vec<_>>())
}

fn condition_holds(condition: &Condition, request: &Request) -> bool {
    let fact = request.facts.get(condition.key).copied();
    if condition.operator == "Null" {
        return condition.values[0] == if fact.is_none() { "true" } else { "false" };
    }
    let operator = condition.operator.trim_start_matches("ForAllValues:").trim_start_matches("ForAnyValue:");
    let Some(fact) = fact else {
        let any = condition.operator.starts_with("ForAnyValue:");
        let lenient = condition.operator.starts_with("ForAllValues:")
            || operator.ends_with("IfExists")
            || operator.contains("Not");
        return lenient && !any;
    };
    let operator = operator.trim_end_matches("IfExists");
    let is_equal = |value: &str| match (value, request.user) {
        ("${aws:username}", None) => false,
        ("${aws:username}", Some(user)) => fact == user,
        (value, _) => fact == value,
    };
    let number = |text: &str| text.parse::<f64>().ok();
    let within = |network: &str| match (network, fact) {
        ("192.0.2.0/25", "192.0.2.1") => true,
        ("192.0.2.130", "192.0.2.130") => true,
        ("0.0.0.0/0", fact) => !fact.contains(':'),
        ("2001:db8::/33", "2001:db8::1") => true,
        _ => false,
    };
    let any = |fits: &dyn Fn(&str) -> bool| condition.values.iter().any(|value| fits(value));
    match operator {
        "StringEquals" => any(&is_equal),
        "StringNotEquals" => !any(&is_equal),
        "StringEqualsIgnoreCase" => any(&|value| is_equal(value) || fact.eq_ignore_ascii_case(value)),
        "StringLike" => any(&|value| like(value, fact, request)),
        "StringNotLike" => !any(&|value| like(value, fact, request)),
        "NumericEquals" => any(&|value| number(fact).is_some_and(|fact| Some(fact) == number(value))),
        "NumericNotEquals" => !any(&|value| number(fact).is_some_and(|fact| Some(fact) == number(value))),
        "NumericLessThan" => any(&|value| number(fact).is_some_and(|fact| fact < number(value).unwrap())),
        "NumericGreaterThanEquals" => {
            any(&|value| number(fact).is_some_and(|fact| fact >= number(value).unwrap()))
        }
        "IpAddress" => any(&within),
        "NotIpAddress" => !any(&within),
        "Bool" => any(&|value| fact == value),
        other => panic!("the model does not know {other}"),
    }
}

fn applies(statement: &Statement, request: &Request) -> bool {
    let id = request.user.map(|user| USERS.iter().find(|(name, _)| *name == user).unwrap().1);
    let principal = statement.principals.iter().any(|who| match who {
        Who::Everyone => true,
        Who::User(name) => request.user == Some(name),
        Who::Id(meant) => id == Some(meant),
    });
    let lower = |text: &str| text.to_ascii_lowercase().chars().collect::<Vec<_>>();
    let action = statement.actions.iter().any(|action| glob(&lower(action), &lower(request.action)));
    let path = request.key.map_or("b".to_owned(), |key| format!("b/{key}"));
    let resource = statement.resources.iter().any(|resource| like(resource, &path, request));
    // Of two with one operator the document has the last.
    let mut conditions: BTreeMap<&str, &Condition> = BTreeMap::new();
    for condition in &statement.conditions {
        conditions.insert(condition.operator, condition);
    }
    principal != statement.not_principal
        && action != statement.not_action
        && resource != statement.not_resource
        && conditions.values().all(|condition| condition_holds(condition, request))
}

struct Given<'a>(&'a Request);

impl Facts for Given<'_> {
    fn values(&self, key: &str) -> Option<Vec<String>> {
        self.0.facts.get(key).map(|value| vec![value.to_string()])
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn the_evaluator_decides_as_the_language_says(
        statements in vec(statement(), 1..5),
        requests in vec(request(), 1..6),
    ) {
        let text = document(&statements);
        let Ok(policy) = Policy::parse(&text, "b") else {
            // Actions that nothing named has: the model knows no such thing.
            return Ok(());
        };
        let users = USERS.iter().map(|(name, id)| (name.to_string(), id.to_string())).collect();
        let policy = policy.with_users(users);
        for request in &requests {
            let user = request.user.map(|user| *USERS.iter().find(|(name, _)| *name == user).unwrap());
            let facts = Given(request);
            let ask = Ask { user, action: request.action, bucket: "b", key: request.key, facts: &facts };
            let meant: Vec<(usize, bool)> = statements
                .iter()
                .enumerate()
                .filter(|(_, statement)| applies(statement, request))
                .map(|(at, statement)| (at, statement.deny))
                .collect();
            let named = |at: usize| (at + 1).to_string();
            let expected = match (meant.iter().find(|(_, deny)| *deny), meant.first()) {
                (Some((at, _)), _) => Verdict::Denied { statement: named(*at) },
                (None, Some((at, _))) => Verdict::Allowed { statement: named(*at) },
                (None, None) => Verdict::Silent,
            };
            prop_assert_eq!(policy.evaluate(&ask), expected, "{} for {:?}", text, request);
        }
    }

    #[test]
    fn no_text_makes_the_reader_fail_otherwise_than_by_an_error(
        statements in vec(statement(), 1..3),
        at in any::<prop::sample::Index>(),
        byte in any::<u8>(),
        cut in any::<bool>(),
    ) {
        let mut bytes = document(&statements).into_bytes();
        let at = at.index(bytes.len());
        match cut {
            true => bytes.truncate(at),
            false => bytes[at] = byte,
        }
        let text = String::from_utf8_lossy(&bytes);
        if let Ok(policy) = Policy::parse(&text, "b") {
            let _ = policy.is_public();
        }
    }
}
