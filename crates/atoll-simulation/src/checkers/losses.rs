//! Nothing acknowledged is lost: once a put is acknowledged, a get finds it, or what came
//! later. Simpler than a search for an order, and says what was lost.

use super::{
    Evidence, Problem,
    writes::{self, Presence},
};
use crate::load::{Answer, Operation};

pub fn check(evidence: &Evidence<'_>) -> Result<(), Problem> {
    let writes = writes::of_objects(evidence.events);
    for event in evidence.events {
        let (Operation::Get { key, .. }, Some(Answer::Found(found)), Some(returned)) =
            (&event.operation, event.answer(), event.returned())
        else {
            continue;
        };
        let writes = writes.get(key.as_str()).map_or(&[][..], Vec::as_slice);
        if found.is_none() && writes::presence(writes, event.called, returned) == Presence::Present {
            return Err(format!(
                "client {} found nothing under {key:?} at {}, where an object was put and not deleted",
                event.client, event.called
            ));
        }
        let Some(found) = found else { continue };
        let its_own: Vec<_> = writes.iter().filter(|write| write.value == Some(*found)).collect();
        let replaced = writes.iter().find(|later| {
            later.value.is_some_and(|value| value != *found)
                && later.returned.is_some_and(|returned| returned < event.called)
                && !its_own.is_empty()
                && its_own.iter().all(|write| write.is_before(later))
        });
        if let Some(later) = replaced {
            return Err(format!(
                "client {} found {found:?} under {key:?} at {}, which {later:?} had replaced",
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
    fn what_was_put_is_found_until_it_is_deleted() {
        let mut story = Story::default();
        story.get("a", None);
        story.put("a", 1);
        story.get("a", Some(1));
        story.put("a", 2);
        story.get("a", Some(2));
        story.delete("a");
        story.get("a", None);
        assert_eq!(check(&story.evidence()), Ok(()));
    }

    #[test]
    fn nothing_where_something_was_put_is_a_loss() {
        let mut story = Story::default();
        story.put("a", 1);
        story.get("a", None);
        assert!(check(&story.evidence()).unwrap_err().contains("found nothing"));
    }

    #[test]
    fn something_older_is_a_loss() {
        let mut story = Story::default();
        story.put("a", 1);
        story.put("a", 2);
        story.get("a", Some(1));
        assert!(check(&story.evidence()).unwrap_err().contains("had replaced"));
    }

    #[test]
    fn what_may_have_been_deleted_or_written_again_is_no_loss() {
        let mut story = Story::default();
        story.put("a", 1);
        let delete = story.call_delete("a");
        story.get("a", None);
        story.get("a", Some(1));
        story.done(delete);
        story.unknown_put("a", 3);
        story.put("a", 4);
        story.get("a", Some(3));
        assert_eq!(check(&story.evidence()), Ok(()));
    }
}
