//! The fuzz target of policies: texts as they are, and policies put together from words that the
//! language knows, each asked about a few requests.

use super::{
    Ask, Facts, MalformedPolicy, POLICY_BYTES_MAX, Policy, Verdict,
    document::{Effect, Statement},
    iso_time, parse_time,
};
use crate::Action;

const BUCKET: &str = "b";
/// As the fixed width of `iso_time` needs it: up to the end of the year 9999.
const ISO_MILLIS_MAX: i64 = 253_402_300_799_999;

/// The input up to the first zero byte is a policy, what is behind it are the requests' facts.
/// If it begins with a zero byte, the rest chooses the words of a policy.
pub fn policy(bytes: &[u8]) {
    match bytes.split_first() {
        None => {}
        Some((0, choices)) => {
            let mut choices = Choices { bytes: choices };
            let text = choices.policy();
            judge(&text, &Fact(choices.text().to_owned()));
        }
        Some(_) => {
            let (text, fact) =
                bytes.split_at(bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len()));
            let fact = String::from_utf8_lossy(fact.get(1..).unwrap_or_default()).into_owned();
            if let Some(millis) = parse_time(&fact).filter(|millis| (0..=ISO_MILLIS_MAX).contains(millis)) {
                let time = atoll_types::WallTime::from_millis(millis as u64);
                assert_eq!(parse_time(&iso_time(time)), Some(millis / 1000 * 1000));
            }
            judge(&String::from_utf8_lossy(text), &Fact(fact));
        }
    }
}

fn judge(text: &str, facts: &Fact) {
    let read = Policy::read(text);
    let policy = match (&read, Policy::parse(text, BUCKET)) {
        (Ok(read), Ok(policy)) => {
            assert_eq!(*read, policy, "what was put is what is read later");
            policy
        }
        (Ok(read), Err(MalformedPolicy { .. })) => read.clone(),
        (Err(_), Ok(_)) => panic!("a policy was put that nobody can read"),
        (Err(_), Err(_)) => return,
    };
    assert!(text.len() <= POLICY_BYTES_MAX);
    let named = policy.names().0.into_iter().map(|name| (name.to_owned(), "00ff".to_owned())).collect();
    let policy = policy.with_users(named);
    policy.is_public();
    for user in [None, Some(("ann", "00ff"))] {
        for (action, key) in
            [("s3:GetObject", Some(facts.0.as_str())), ("s3:PutObject", Some("a/b")), ("s3:ListBucket", None)]
        {
            check(&policy, &Ask { user, action, bucket: BUCKET, key, facts });
        }
    }
}

/// The verdict follows from those of the statements one by one: a denial wins.
fn check(policy: &Policy, ask: &Ask<'_>) {
    let alone =
        |statement: &Statement| Policy { statements: vec![statement.clone()], users: policy.users.clone() };
    let verdicts: Vec<Verdict> = policy.statements.iter().map(|one| alone(one).evaluate(ask)).collect();
    let denied = verdicts.iter().any(|verdict| matches!(verdict, Verdict::Denied { .. }));
    let allowed = verdicts.iter().any(|verdict| matches!(verdict, Verdict::Allowed { .. }));
    let verdict = policy.evaluate(ask);
    match verdict {
        Verdict::Denied { .. } => assert!(denied),
        Verdict::Allowed { .. } => assert!(allowed && !denied),
        Verdict::Silent => assert!(!allowed && !denied),
    }
    // In another order it is the same.
    let mut turned = policy.clone();
    turned.statements.reverse();
    assert_eq!(std::mem::discriminant(&turned.evaluate(ask)), std::mem::discriminant(&verdict));
    // Turned into denials, statements that allow never let anybody in.
    for statement in &mut turned.statements {
        statement.effect = Effect::Deny;
    }
    let refused = matches!(turned.evaluate(ask), Verdict::Denied { .. });
    assert_eq!(refused, denied || allowed);
}

/// One text as the value of every fact.
struct Fact(String);

impl Facts for Fact {
    fn values(&self, key: &str) -> Option<Vec<String>> {
        match key {
            "aws:username" => Some(vec!["ann".into()]),
            "aws:userid" => Some(vec!["00ff".into()]),
            // Some are there twice, and some are not.
            "s3:requestobjecttagkeys" => Some(vec![self.0.clone(), "a".into()]),
            "aws:referer" | "s3:versionid" => None,
            _ => Some(vec![self.0.clone()]),
        }
    }
}

/// Words, chosen by the input's bytes.
struct Choices<'a> {
    bytes: &'a [u8],
}

impl<'a> Choices<'a> {
    fn byte(&mut self) -> u8 {
        let (first, rest) = self.bytes.split_first().unwrap_or((&0, &[]));
        self.bytes = rest;
        *first
    }

    fn of<T: Copy>(&mut self, words: &[T]) -> T {
        words[usize::from(self.byte()) % words.len()]
    }

    /// Up to fifteen bytes of the input, if they are a text.
    fn text(&mut self) -> &'a str {
        let len = usize::from(self.byte() % 16).min(self.bytes.len());
        let (text, rest) = self.bytes.split_at(len);
        self.bytes = rest;
        std::str::from_utf8(text).unwrap_or("*")
    }

    fn quoted(&mut self) -> String {
        serde_json::Value::from(self.text()).to_string()
    }

    fn policy(&mut self) -> String {
        let version = self.of(&["2012-10-17", "2008-10-17"]);
        let count = 1 + self.byte() % 4;
        let statements: Vec<String> = (0..count).map(|_| self.statement()).collect();
        format!(r#"{{"Version":"{version}","Statement":[{}]}}"#, statements.join(","))
    }

    fn statement(&mut self) -> String {
        let effect = self.of(&["Allow", "Deny"]);
        let not = |choice: u8| if choice == 0 { "Not" } else { "" };
        let (not_who, not_what, not_where) =
            (not(self.byte() % 4), not(self.byte() % 4), not(self.byte() % 4));
        let who = self.of(&[
            r#""*""#,
            r#"{"AWS":"arn:aws:iam:::user/ann"}"#,
            r#"{"AWS":["arn:aws:iam:::user/bob","arn:aws:iam:::user/ann"]}"#,
            r#"{"CanonicalUser":"00ff"}"#,
        ]);
        let action = match self.byte() % 4 {
            0 => "*",
            1 => "s3:Get*",
            2 => "s3:?utObject",
            _ => {
                let known: Vec<&str> = Action::all().map(|action| action.name).collect();
                self.of(&known)
            }
        };
        let place = match self.byte() % 5 {
            0 => r#""arn:aws:s3:::b/*""#.to_owned(),
            1 => r#""arn:aws:s3:::*""#.to_owned(),
            2 => r#""arn:aws:s3:::b""#.to_owned(),
            3 => r#""arn:aws:s3:::b/${aws:username}/?""#.to_owned(),
            _ => serde_json::Value::from(format!("arn:aws:s3:::b/{}", self.text())).to_string(),
        };
        let conditions: Vec<String> = (0..self.byte() % 3).map(|_| self.condition()).collect();
        format!(
            r#"{{"Effect":"{effect}","{not_who}Principal":{who},"{not_what}Action":"{action}","{not_where}Resource":{place},"Condition":{{{}}}}}"#,
            conditions.join(",")
        )
    }

    fn condition(&mut self) -> String {
        let quantifier = self.of(&["", "", "ForAllValues:", "ForAnyValue:"]);
        let operator = self.of(&[
            "StringEquals",
            "StringNotEqualsIgnoreCase",
            "StringLike",
            "StringNotLike",
            "NumericLessThan",
            "NumericNotEquals",
            "DateGreaterThan",
            "DateEquals",
            "Bool",
            "IpAddress",
            "NotIpAddress",
            "ArnLike",
            "Null",
        ]);
        let if_exists = self.of(&["", "", "IfExists"]);
        let key = self.of(&[
            "aws:SourceIp",
            "aws:CurrentTime",
            "aws:Referer",
            "s3:prefix",
            "s3:max-keys",
            "aws:SecureTransport",
            "s3:RequestObjectTagKeys",
            "s3:RequestObjectTag/a",
            "aws:username",
        ]);
        let value = match self.byte() % 6 {
            0 => r#""true""#.to_owned(),
            1 => r#"["10.0.0.0/8","::1"]"#.to_owned(),
            2 => r#""2026-11-27T10:00:00Z""#.to_owned(),
            3 => "17".to_owned(),
            _ => self.quoted(),
        };
        format!(r#""{quantifier}{operator}{if_exists}":{{"{key}":{value}}}"#)
    }
}

pub fn policy_seeds() -> Vec<Vec<u8>> {
    let texts = [
        r#"{"Statement":{"Effect":"Allow","Principal":"*","Action":"s3:GetObject","Resource":"arn:aws:s3:::b/*"}}"#,
        r#"{"Version":"2012-10-17","Id":"i","Statement":[{"Sid":"a","Effect":"Deny","NotPrincipal":{"AWS":["arn:aws:iam:::user/ann"],"CanonicalUser":"00ff"},"NotAction":["s3:Get*","S3:PUTOBJECT"],"NotResource":["arn:aws:s3:::b/home/${aws:username}/${*}"],"Condition":{"StringLikeIfExists":{"s3:prefix":["a*","?b"]},"ForAnyValue:StringEquals":{"s3:RequestObjectTagKeys":"a"}}}]}"#,
        r#"{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Principal":"*","Action":"*","Resource":"arn:aws:s3:::b*","Condition":{"IpAddress":{"aws:SourceIp":["192.0.2.0/24","2001:db8::/32"]},"DateLessThan":{"aws:CurrentTime":"2026-11-27T10:00:00.5+02:00"},"NumericGreaterThanEquals":{"s3:max-keys":1.5e3},"Bool":{"aws:SecureTransport":true},"Null":{"aws:Referer":"true"}}}]}"#,
    ];
    let facts = ["", "a/b", "2026-11-27T10:00:00Z", "1795737599", "192.0.2.7", "1000"];
    let with = |text: &str, fact: &str| [text.as_bytes(), &[0], fact.as_bytes()].concat();
    let mut seeds: Vec<Vec<u8>> =
        texts.iter().flat_map(|text| facts.iter().map(move |fact| with(text, fact))).collect();
    for start in 0..8_u8 {
        seeds.push((0..48).map(|at: u8| if at == 0 { 0 } else { at.wrapping_mul(start * 2 + 3) }).collect());
    }
    seeds
}
