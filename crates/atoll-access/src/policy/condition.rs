//! Conditions: an operator, a key of the request's facts, and values.
//!
//! "IAM JSON policy elements: Condition operators" says what each means; in particular a
//! key that the request lacks makes an operator false, one with `Not` true, and one with
//! `IfExists` true.

use core::net::IpAddr;

use super::{
    date,
    evaluate::Facts,
    json::Node,
    pattern::{Pattern, Syntax},
};

/// Keys that requests here can have. A condition on another is refused: it would never
/// hold, or always.
const KEYS: [&str; 30] = [
    "aws:currenttime",
    "aws:epochtime",
    "aws:principalarn",
    "aws:principaltype",
    "aws:referer",
    "aws:securetransport",
    "aws:sourceip",
    "aws:useragent",
    "aws:userid",
    "aws:username",
    "s3:authtype",
    "s3:delimiter",
    "s3:if-match",
    "s3:if-none-match",
    "s3:max-keys",
    "s3:prefix",
    "s3:requestobjecttagkeys",
    "s3:signatureage",
    "s3:signatureversion",
    "s3:versionid",
    "s3:x-amz-acl",
    "s3:x-amz-content-sha256",
    "s3:x-amz-copy-source",
    "s3:x-amz-grant-full-control",
    "s3:x-amz-grant-read",
    "s3:x-amz-grant-write",
    "s3:x-amz-metadata-directive",
    "s3:x-amz-server-side-encryption",
    "s3:x-amz-storage-class",
    "s3:x-amz-website-redirect-location",
];

/// Followed by a tag's key, whose case counts.
const TAG_KEY: &str = "s3:requestobjecttag/";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Equals,
    Less,
    LessOrEquals,
    Greater,
    GreaterOrEquals,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    /// With wildcards, without regard to case.
    Text {
        like: bool,
        ignore_case: bool,
    },
    Number(Comparison),
    Date(Comparison),
    Bool,
    Address,
    Null,
}

#[derive(Debug, Clone, PartialEq)]
enum Value {
    Pattern(Pattern),
    Number(f64),
    Date(i64),
    Bool(bool),
    Address(IpAddr, u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quantifier {
    All,
    Any,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Condition {
    operator: Operator,
    negated: bool,
    if_exists: bool,
    quantifier: Option<Quantifier>,
    /// In lower case, but for a tag's key.
    key: String,
    /// Any of them will do.
    values: Vec<Value>,
}

/// The whole `Condition` element.
pub(super) fn parse(node: &Node, variables: bool) -> Result<Vec<Condition>, String> {
    let Node::Map(operators) = node else { return Err("Condition is not an object".into()) };
    let mut conditions = Vec::new();
    for (operator, keys) in operators {
        let Node::Map(keys) = keys else { return Err(format!("{operator} is not an object")) };
        for (key, values) in keys {
            let condition = Condition::parse(operator, key, values, variables);
            conditions.push(condition.map_err(|reason| format!("condition {operator}: {reason}"))?);
        }
    }
    Ok(conditions)
}

impl Condition {
    fn parse(operator: &str, key: &str, values: &Node, variables: bool) -> Result<Self, String> {
        let (quantifier, name) = match operator.split_once(':') {
            Some(("ForAllValues", name)) => (Some(Quantifier::All), name),
            Some(("ForAnyValue", name)) => (Some(Quantifier::Any), name),
            Some(_) => return Err("there is no such operator".into()),
            None => (None, operator),
        };
        let (name, if_exists) = match name.strip_suffix("IfExists") {
            Some(name) => (name, true),
            None => (name, false),
        };
        let (operator, negated) = operator_called(name).ok_or("there is no such operator")?;
        if operator == Operator::Null && (if_exists || quantifier.is_some()) {
            return Err("Null takes neither IfExists nor a quantifier".into());
        }
        let key = known_key(key)?;
        let values = match values {
            Node::List(values) if values.is_empty() => return Err(format!("{key} has no value")),
            Node::List(values) => values.iter().collect(),
            value => vec![value],
        };
        let values =
            values.into_iter().map(|value| value_of(operator, value, variables)).collect::<Result<_, _>>()?;
        Ok(Self { operator, negated, if_exists, quantifier, key, values })
    }

    pub(super) fn holds(&self, facts: &dyn Facts) -> bool {
        let found = facts.values(&self.key);
        if self.operator == Operator::Null {
            return self.values.contains(&Value::Bool(found.is_none()));
        }
        let Some(found) = found else {
            return match self.quantifier {
                Some(Quantifier::All) => true,
                Some(Quantifier::Any) => self.if_exists,
                None => self.if_exists || self.negated,
            };
        };
        let fits = |fact: &String| self.values.iter().any(|value| self.compares(fact, value, facts));
        match (self.quantifier, self.negated) {
            (Some(Quantifier::All), negated) => found.iter().all(|fact| fits(fact) != negated),
            (Some(Quantifier::Any), negated) => found.iter().any(|fact| fits(fact) != negated),
            (None, negated) => found.iter().any(fits) != negated,
        }
    }

    fn compares(&self, fact: &str, value: &Value, facts: &dyn Facts) -> bool {
        match (self.operator, value) {
            (Operator::Text { ignore_case, .. }, Value::Pattern(pattern)) => {
                pattern.matches(fact, facts, ignore_case)
            }
            (Operator::Number(comparison), Value::Number(value)) => {
                number(fact).is_some_and(|fact| compare(comparison, &fact, value))
            }
            (Operator::Date(comparison), Value::Date(value)) => {
                date::parse(fact).is_some_and(|fact| compare(comparison, &fact, value))
            }
            (Operator::Bool, Value::Bool(value)) => fact.eq_ignore_ascii_case(&value.to_string()),
            (Operator::Address, Value::Address(network, bits)) => {
                fact.parse::<IpAddr>().is_ok_and(|fact| is_within(fact.to_canonical(), *network, *bits))
            }
            // Values are of their operator's kind.
            _ => false,
        }
    }

    /// Lets in only those whom somebody named: an address, or a user. ("The meaning of
    /// public" has more such keys, none of which requests here have.)
    pub(super) fn restricts(&self) -> bool {
        if self.negated || self.if_exists || self.quantifier == Some(Quantifier::All) {
            return false;
        }
        match self.key.as_str() {
            // "Very broad IP ranges" are public: more than /8, or more than /32 of version 6.
            "aws:sourceip" => self.values.iter().all(|value| match value {
                Value::Address(IpAddr::V4(_), bits) => *bits >= 8,
                Value::Address(IpAddr::V6(_), bits) => *bits >= 32,
                _ => false,
            }),
            "aws:userid" | "aws:username" | "aws:principalarn" => {
                self.values.iter().all(|value| matches!(value, Value::Pattern(pattern) if pattern.is_fixed()))
            }
            _ => false,
        }
    }
}

fn operator_called(name: &str) -> Option<(Operator, bool)> {
    let text = |like, ignore_case| Operator::Text { like, ignore_case };
    Some(match name {
        "StringEquals" => (text(false, false), false),
        "StringNotEquals" => (text(false, false), true),
        "StringEqualsIgnoreCase" => (text(false, true), false),
        "StringNotEqualsIgnoreCase" => (text(false, true), true),
        // Both take wildcards in ARNs.
        "StringLike" | "ArnLike" | "ArnEquals" => (text(true, false), false),
        "StringNotLike" | "ArnNotLike" | "ArnNotEquals" => (text(true, false), true),
        "Bool" => (Operator::Bool, false),
        "IpAddress" => (Operator::Address, false),
        "NotIpAddress" => (Operator::Address, true),
        "Null" => (Operator::Null, false),
        name => {
            let (kind, comparison): (fn(Comparison) -> Operator, &str) = match name {
                name if name.starts_with("Numeric") => (Operator::Number, &name["Numeric".len()..]),
                name if name.starts_with("Date") => (Operator::Date, &name["Date".len()..]),
                _ => return None,
            };
            match comparison {
                "Equals" => (kind(Comparison::Equals), false),
                "NotEquals" => (kind(Comparison::Equals), true),
                "LessThan" => (kind(Comparison::Less), false),
                "LessThanEquals" => (kind(Comparison::LessOrEquals), false),
                "GreaterThan" => (kind(Comparison::Greater), false),
                "GreaterThanEquals" => (kind(Comparison::GreaterOrEquals), false),
                _ => return None,
            }
        }
    })
}

fn known_key(key: &str) -> Result<String, String> {
    if let Some(prefix) = key.get(..TAG_KEY.len())
        && prefix.eq_ignore_ascii_case(TAG_KEY)
        && key.len() > TAG_KEY.len()
    {
        return Ok(format!("{TAG_KEY}{}", &key[TAG_KEY.len()..]));
    }
    let lower = key.to_ascii_lowercase();
    if KEYS.contains(&lower.as_str()) { Ok(lower) } else { Err(format!("the key {key:?} is not known here")) }
}

fn value_of(operator: Operator, node: &Node, variables: bool) -> Result<Value, String> {
    let text = match node {
        Node::Text(text) => text.clone(),
        Node::Bool(value) => value.to_string(),
        Node::Number(number) => number.clone(),
        Node::Null | Node::List(_) | Node::Map(_) => return Err("a value is a string".into()),
    };
    match operator {
        Operator::Text { like, .. } => {
            let syntax = match (like, variables) {
                (true, true) => Syntax::WildcardsAndVariables,
                (true, false) => Syntax::Wildcards,
                (false, true) => Syntax::Variables,
                (false, false) => Syntax::Literal,
            };
            Pattern::parse(&text, syntax).map(Value::Pattern)
        }
        Operator::Number(_) => {
            number(&text).map(Value::Number).ok_or_else(|| format!("{text:?} is not a number"))
        }
        Operator::Date(_) => {
            date::parse(&text).map(Value::Date).ok_or_else(|| format!("{text:?} is not a date"))
        }
        Operator::Bool | Operator::Null => match text.as_str() {
            "true" => Ok(Value::Bool(true)),
            "false" => Ok(Value::Bool(false)),
            text => Err(format!("{text:?} is neither true nor false")),
        },
        Operator::Address => {
            address(&text).ok_or_else(|| format!("{text:?} is not an address or a range of them"))
        }
    }
}

fn number(text: &str) -> Option<f64> {
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

fn compare<T: PartialOrd>(comparison: Comparison, fact: &T, value: &T) -> bool {
    match comparison {
        Comparison::Equals => fact == value,
        Comparison::Less => fact < value,
        Comparison::LessOrEquals => fact <= value,
        Comparison::Greater => fact > value,
        Comparison::GreaterOrEquals => fact >= value,
    }
}

/// RFC 4632 and 4291: `192.0.2.0/24`, `2001:db8::/32`, or one address.
fn address(text: &str) -> Option<Value> {
    let (network, bits) = text.split_once('/').map_or((text, None), |(network, bits)| (network, Some(bits)));
    let network: IpAddr = network.parse().ok()?;
    let most = if network.is_ipv4() { 32 } else { 128 };
    let bits = match bits {
        Some(bits) if bits.bytes().all(|byte| byte.is_ascii_digit()) => bits.parse::<u8>().ok()?,
        Some(_) => return None,
        None => most,
    };
    (bits <= most).then_some(Value::Address(network, bits))
}

fn is_within(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    let same = |a: u128, b: u128, width: u32| {
        let shift = width - u32::from(bits);
        // A shift by the whole width is none.
        a.checked_shr(shift).unwrap_or(0) == b.checked_shr(shift).unwrap_or(0)
    };
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(b)) => same(u128::from(a.to_bits()), u128::from(b.to_bits()), 32),
        (IpAddr::V6(a), IpAddr::V6(b)) => same(a.to_bits(), b.to_bits(), 128),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Values = &'static [&'static str];

    struct Pairs<'a>(&'a [(&'a str, &'a [&'a str])]);

    impl Facts for Pairs<'_> {
        fn values(&self, key: &str) -> Option<Vec<String>> {
            let found = self.0.iter().find(|(name, _)| *name == key)?;
            Some(found.1.iter().map(|value| value.to_string()).collect())
        }
    }

    fn check(condition: &str, facts: &[(&str, &[&str])]) -> bool {
        let node = serde_json::from_str(condition).unwrap();
        let conditions = parse(&node, true).unwrap();
        conditions.iter().all(|condition| condition.holds(&Pairs(facts)))
    }

    #[test]
    fn each_operator_compares_its_kind() {
        let prefix = |values: Values| [("s3:prefix", values)];
        assert!(check(r#"{"StringEquals":{"s3:prefix":["a","b"]}}"#, &prefix(&["b"])));
        assert!(!check(r#"{"StringEquals":{"s3:prefix":"a*"}}"#, &prefix(&["ab"])));
        assert!(check(r#"{"StringLike":{"s3:prefix":"a*"}}"#, &prefix(&["ab"])));
        assert!(!check(r#"{"StringNotLike":{"s3:prefix":["x","a*"]}}"#, &prefix(&["ab"])));
        assert!(check(r#"{"StringEqualsIgnoreCase":{"S3:Prefix":"AB"}}"#, &prefix(&["ab"])));
        let keys = |values: Values| [("s3:max-keys", values)];
        assert!(check(r#"{"NumericLessThan":{"s3:max-keys":"10"}}"#, &keys(&["9"])));
        assert!(!check(r#"{"NumericLessThan":{"s3:max-keys":10}}"#, &keys(&["10"])));
        assert!(check(r#"{"NumericLessThanEquals":{"s3:max-keys":10}}"#, &keys(&["10"])));
        assert!(!check(r#"{"NumericLessThan":{"s3:max-keys":10}}"#, &keys(&["many"])));
        let time = |values: Values| [("aws:currenttime", values)];
        assert!(check(
            r#"{"DateGreaterThan":{"aws:CurrentTime":"2026-01-01"}}"#,
            &time(&["2026-01-01T00:00:01Z"])
        ));
        assert!(!check(
            r#"{"DateLessThan":{"aws:CurrentTime":"1000000"}}"#,
            &time(&["2026-01-01T00:00:01Z"])
        ));
        assert!(check(r#"{"Bool":{"aws:SecureTransport":false}}"#, &[("aws:securetransport", &["false"])]));
        let from = |values: Values| [("aws:sourceip", values)];
        assert!(check(r#"{"IpAddress":{"aws:SourceIp":["10.0.0.0/8","192.0.2.7"]}}"#, &from(&["192.0.2.7"])));
        assert!(!check(r#"{"IpAddress":{"aws:SourceIp":"192.0.2.0/31"}}"#, &from(&["192.0.2.2"])));
        assert!(check(r#"{"IpAddress":{"aws:SourceIp":"0.0.0.0/0"}}"#, &from(&["::ffff:192.0.2.2"])));
        assert!(check(r#"{"IpAddress":{"aws:SourceIp":"2001:db8::/32"}}"#, &from(&["2001:db8:1::2"])));
        assert!(check(r#"{"NotIpAddress":{"aws:SourceIp":"192.0.2.0/24"}}"#, &from(&["198.51.100.1"])));
    }

    #[test]
    fn what_a_request_lacks_fails_unless_it_is_denied_or_need_not_exist() {
        assert!(!check(r#"{"StringEquals":{"s3:prefix":"a"}}"#, &[]));
        assert!(check(r#"{"StringNotEquals":{"s3:prefix":"a"}}"#, &[]));
        assert!(check(r#"{"StringEqualsIfExists":{"s3:prefix":"a"}}"#, &[]));
        assert!(!check(r#"{"StringEqualsIfExists":{"s3:prefix":"a"}}"#, &[("s3:prefix", &["b"])]));
        assert!(check(r#"{"Null":{"s3:prefix":"true"}}"#, &[]));
        assert!(!check(r#"{"Null":{"s3:prefix":"true"}}"#, &[("s3:prefix", &[""])]));
        assert!(check(r#"{"Null":{"s3:prefix":"false"}}"#, &[("s3:prefix", &[""])]));
    }

    #[test]
    fn quantifiers_look_at_each_of_several_values() {
        let tags = |values: Values| [("s3:requestobjecttagkeys", values)];
        let all = r#"{"ForAllValues:StringEquals":{"s3:RequestObjectTagKeys":["a","b"]}}"#;
        assert!(check(all, &tags(&["a", "b", "a"])) && check(all, &[]) && !check(all, &tags(&["a", "c"])));
        let any = r#"{"ForAnyValue:StringEquals":{"s3:RequestObjectTagKeys":["a","b"]}}"#;
        assert!(check(any, &tags(&["c", "a"])) && !check(any, &[]) && !check(any, &tags(&["c"])));
        let none = r#"{"ForAllValues:StringNotEquals":{"s3:RequestObjectTagKeys":["a"]}}"#;
        assert!(check(none, &tags(&["b"])) && !check(none, &tags(&["a", "b"])));
        let tag = r#"{"StringEquals":{"s3:RequestObjectTag/Team":"red"}}"#;
        assert!(check(tag, &[("s3:requestobjecttag/Team", &["red"])]));
        assert!(!check(tag, &[("s3:requestobjecttag/team", &["red"])]), "a tag's case counts");
    }

    #[test]
    fn what_is_not_known_is_refused() {
        for condition in [
            r#"{"StringMatches":{"s3:prefix":"a"}}"#,
            r#"{"stringequals":{"s3:prefix":"a"}}"#,
            r#"{"ForSomeValues:StringEquals":{"s3:prefix":"a"}}"#,
            r#"{"StringEquals":{"s3:unheard-of":"a"}}"#,
            r#"{"StringEquals":{"aws:PrincipalOrgID":"o-1"}}"#,
            r#"{"StringEquals":{"s3:ExistingObjectTag/a":"b"}}"#,
            r#"{"StringEquals":{"s3:RequestObjectTag/":"b"}}"#,
            r#"{"StringEquals":{"s3:prefix":[]}}"#,
            r#"{"StringEquals":{"s3:prefix":{"a":"b"}}}"#,
            r#"{"StringEquals":{"s3:prefix":null}}"#,
            r#"{"StringEquals":"s3:prefix"}"#,
            r#"{"StringLike":{"s3:prefix":"${aws:unknown}"}}"#,
            r#"{"NumericEquals":{"s3:max-keys":"ten"}}"#,
            r#"{"NumericEquals":{"s3:max-keys":"inf"}}"#,
            r#"{"DateEquals":{"aws:CurrentTime":"today"}}"#,
            r#"{"Bool":{"aws:SecureTransport":"yes"}}"#,
            r#"{"NullIfExists":{"s3:prefix":"true"}}"#,
            r#"{"IpAddress":{"aws:SourceIp":"192.0.2.0/33"}}"#,
            r#"{"IpAddress":{"aws:SourceIp":"192.0.2.0/+8"}}"#,
            r#"{"IpAddress":{"aws:SourceIp":"192.0.2"}}"#,
            r#"[]"#,
        ] {
            assert!(parse(&serde_json::from_str(condition).unwrap(), true).is_err(), "{condition}");
        }
    }
}
