//! Nobody is served bytes that nobody wrote.

use super::{Evidence, Problem};
use crate::load::{Answer, Operation};

pub fn check(evidence: &Evidence<'_>) -> Result<(), Problem> {
    for event in evidence.events {
        if let (Operation::Get { key, .. }, Some(Answer::WrongBytes(what))) =
            (&event.operation, event.answer())
        {
            return Err(format!("client {} was served wrong bytes of {key:?}: {what}", event.client));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::testing::Story;

    #[test]
    fn wrong_bytes_are_reported() {
        let mut story = Story::default();
        story.put("a", 1);
        story.get("a", Some(1));
        assert_eq!(check(&story.evidence()), Ok(()));
        let get = Operation::Get { key: "a".into(), span: None };
        story.answered(get, Answer::WrongBytes("byte 3 is another".into()));
        assert!(check(&story.evidence()).unwrap_err().contains("byte 3"));
    }
}
