//! Texts with wildcards and policy variables.

use super::evaluate::Facts;

/// The variables that can be written in `${…}`: what is always known of who asks.
const VARIABLES: [&str; 2] = ["aws:username", "aws:userid"];

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Exactly(char),
    /// `?`
    One,
    /// `*`
    Many,
    /// `${aws:username}`: its value, literally.
    Variable(&'static str),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Pattern(Vec<Token>);

/// How a text is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Syntax {
    /// `*` and `?` are wildcards; `${…}` is not read.
    Wildcards,
    /// Both, as resources and `StringLike` are in version 2012-10-17.
    WildcardsAndVariables,
    /// `StringEquals`: variables only.
    Variables,
    /// As it is.
    Literal,
}

impl Syntax {
    fn with_wildcards(self) -> bool {
        matches!(self, Syntax::Wildcards | Syntax::WildcardsAndVariables)
    }

    fn with_variables(self) -> bool {
        matches!(self, Syntax::Variables | Syntax::WildcardsAndVariables)
    }
}

impl Pattern {
    pub(super) fn parse(text: &str, syntax: Syntax) -> Result<Self, String> {
        let mut tokens = Vec::new();
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            if syntax.with_variables() && rest.starts_with("${") {
                let end = rest.find('}').ok_or_else(|| format!("{text:?} opens a variable without end"))?;
                tokens.push(variable(&rest[2..end])?);
                rest = &rest[end + 1..];
                continue;
            }
            tokens.push(match c {
                '*' if syntax.with_wildcards() => Token::Many,
                '?' if syntax.with_wildcards() => Token::One,
                c => Token::Exactly(c),
            });
            rest = &rest[c.len_utf8()..];
        }
        Ok(Self(tokens))
    }

    /// Means one text and no other.
    pub(super) fn is_fixed(&self) -> bool {
        self.0.iter().all(|token| matches!(token, Token::Exactly(_)))
    }

    /// A variable without a value matches nothing.
    pub(super) fn matches(&self, text: &str, facts: &dyn Facts, ignore_case: bool) -> bool {
        let mut tokens = Vec::with_capacity(self.0.len());
        for token in &self.0 {
            match token {
                Token::Variable(name) => match facts.values(name).as_deref() {
                    Some([value]) => tokens.extend(value.chars().map(Token::Exactly)),
                    Some(_) | None => return false,
                },
                token => tokens.push(token.clone()),
            }
        }
        let text: Vec<char> = text.chars().collect();
        matches(&tokens, &text, ignore_case)
    }

    /// Without anybody's facts.
    pub(super) fn matches_plainly(&self, text: &str, ignore_case: bool) -> bool {
        let text: Vec<char> = text.chars().collect();
        matches(&self.0, &text, ignore_case)
    }

    /// The pattern up to the first `/` that is written in it, and whether there is one.
    pub(super) fn until_slash(&self) -> (Self, bool) {
        let slash = self.0.iter().position(|token| *token == Token::Exactly('/'));
        (Self(self.0[..slash.unwrap_or(self.0.len())].to_vec()), slash.is_some())
    }

    pub(super) fn ends_in_many(&self) -> bool {
        self.0.last() == Some(&Token::Many)
    }
}

fn variable(name: &str) -> Result<Token, String> {
    match name {
        "*" | "?" | "$" => Ok(Token::Exactly(name.chars().next().expect("it is one character"))),
        name => {
            let known = VARIABLES.iter().find(|known| known.eq_ignore_ascii_case(name)).copied();
            known.map(Token::Variable).ok_or_else(|| format!("there is no variable {name:?}"))
        }
    }
}

/// Each `*` takes as little as will do; when what follows does not fit, the last one takes
/// one more. So a pattern costs at most its length times the text's.
fn matches(pattern: &[Token], text: &[char], ignore_case: bool) -> bool {
    let same = |a: char, b: char| a == b || (ignore_case && a.to_lowercase().eq(b.to_lowercase()));
    let (mut at, mut read) = (0, 0);
    let mut last_many: Option<(usize, usize)> = None;
    while read < text.len() {
        match pattern.get(at) {
            Some(Token::Many) => {
                last_many = Some((at, read));
                at += 1;
                continue;
            }
            Some(Token::One) => {
                (at, read) = (at + 1, read + 1);
                continue;
            }
            Some(Token::Exactly(c)) if same(*c, text[read]) => {
                (at, read) = (at + 1, read + 1);
                continue;
            }
            Some(Token::Exactly(_) | Token::Variable(_)) | None => {}
        }
        let Some((many, taken)) = last_many else { return false };
        last_many = Some((many, taken + 1));
        (at, read) = (many + 1, taken + 1);
    }
    pattern[at..].iter().all(|token| *token == Token::Many)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Ann;

    impl Facts for Ann {
        fn values(&self, key: &str) -> Option<Vec<String>> {
            (key == "aws:username").then(|| vec!["ann*".into()])
        }
    }

    fn check(pattern: &str, text: &str) -> bool {
        Pattern::parse(pattern, Syntax::WildcardsAndVariables).unwrap().matches(text, &Ann, false)
    }

    #[test]
    fn stars_take_any_text_and_question_marks_one_character() {
        assert!(check("a*b*c", "abbbxc") && check("*", "") && check("a?c", "aüc") && check("a**", "a"));
        assert!(!check("a*b*c", "abbbxcd") && !check("a?c", "ac") && !check("", "a") && !check("b", "a/b"));
        assert!(check("b/*", "b/x/y/../z") && check("b/*", "b/"));
    }

    #[test]
    fn variables_are_literal_and_unknown_ones_are_refused() {
        assert!(check("home/${aws:username}/*", "home/ann*/x"));
        assert!(!check("home/${aws:username}/*", "home/anne/x"), "a star in a name is a star");
        assert!(!check("home/${aws:userid}/*", "home//x"), "without a value nothing fits");
        assert!(check("${*}${?}${$}", "*?$") && !check("${*}", "a"));
        for unknown in ["${aws:unknown}", "${", "${aws:username"] {
            assert!(Pattern::parse(unknown, Syntax::Variables).is_err(), "{unknown}");
        }
        assert!(Pattern::parse("${aws:unknown}", Syntax::Wildcards).is_ok(), "as version 2008-10-17 has it");
    }

    #[test]
    fn a_pattern_made_to_take_long_does_not() {
        let pattern = "*a".repeat(500) + "b";
        assert!(!check(&pattern, &"a".repeat(1024)));
    }
}
