//! Nothing deleted comes back.

use super::{Evidence, Problem, writes};
use crate::load::{Answer, Operation};

pub fn check(evidence: &Evidence<'_>) -> Result<(), Problem> {
    let writes = writes::of_objects(evidence.events);
    for event in evidence.events {
        let (Operation::Get { key, .. }, Some(Answer::Found(Some(found)))) =
            (&event.operation, event.answer())
        else {
            continue;
        };
        let Some(writes) = writes.get(key.as_str()) else { continue };
        let mut its_own = writes.iter().filter(|write| write.value == Some(*found)).peekable();
        if its_own.peek().is_none() {
            continue;
        }
        let its_own: Vec<_> = its_own.collect();
        let deleted = writes.iter().find(|later| {
            later.value.is_none()
                && later.returned.is_some_and(|returned| returned < event.called)
                && its_own.iter().all(|write| write.is_before(later))
        });
        if let Some(deleted) = deleted {
            return Err(format!(
                "client {} found {found:?} under {key:?} at {}, which was deleted: {deleted:?}",
                event.client, event.called
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::testing::Story;

    #[test]
    fn what_was_deleted_stays_away() {
        let mut story = Story::default();
        story.put("a", 1);
        story.delete("a");
        story.get("a", None);
        story.put("a", 2);
        story.get("a", Some(2));
        assert_eq!(check(&story.evidence()), Ok(()));
        story.get("a", Some(1));
        assert!(check(&story.evidence()).unwrap_err().contains("deleted"));
    }

    #[test]
    fn a_put_beside_the_deletion_may_come_after_it() {
        let mut story = Story::default();
        let put = story.call_put("a", 1);
        story.delete("a");
        story.done(put);
        story.get("a", Some(1));
        assert_eq!(check(&story.evidence()), Ok(()));
    }

    #[test]
    fn a_put_without_an_answer_may_come_after_it() {
        let mut story = Story::default();
        story.unknown_put("a", 1);
        story.delete("a");
        story.get("a", Some(1));
        assert_eq!(check(&story.evidence()), Ok(()));
    }
}
