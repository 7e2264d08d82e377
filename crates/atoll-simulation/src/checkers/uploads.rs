//! An upload that was begun is there until it is completed or aborted, however long that
//! takes and however many sweeps pass.

use std::collections::BTreeMap;

use super::{Evidence, Problem};
use crate::load::{Answer, Operation};

pub fn check(evidence: &Evidence<'_>) -> Result<(), Problem> {
    // When somebody first began to end each upload that was begun.
    let mut ended: BTreeMap<&str, Option<u64>> = BTreeMap::new();
    for event in evidence.events {
        if let (Operation::CreateUpload { .. }, Some(Answer::Upload(upload))) =
            (&event.operation, event.answer())
        {
            ended.insert(upload, None);
        }
    }
    for event in evidence.events {
        let (Operation::CompleteUpload { upload, .. } | Operation::AbortUpload { upload, .. }) =
            &event.operation
        else {
            continue;
        };
        if let Some(end) = ended.get_mut(upload.as_str()) {
            *end = Some(end.map_or(event.called, |end| end.min(event.called)));
        }
    }
    for event in evidence.events {
        let (Operation::UploadPart { key, upload, .. }
        | Operation::CompleteUpload { key, upload, .. }
        | Operation::AbortUpload { key, upload }) = &event.operation
        else {
            continue;
        };
        let (Some(Answer::NoUpload), Some(returned)) = (event.answer(), event.returned()) else { continue };
        let Some(end) = ended.get(upload.as_str()) else { continue };
        let by_itself = *end == Some(event.called);
        if by_itself || end.is_none_or(|end| end > returned) {
            return Err(format!(
                "client {} was told at {} that there is no upload {upload} of {key:?}, which it had begun",
                event.client, event.called
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checkers::testing::Story,
        linearizability::register::{Condition, Value},
    };

    fn begun() -> Story {
        let mut story = Story::default();
        let create = Operation::CreateUpload { key: "a".into(), value: Value(1) };
        story.answered(create, Answer::Upload("u".into()));
        story
    }

    fn part() -> Operation {
        Operation::UploadPart { key: "a".into(), upload: "u".into(), value: Value(1), part: 1 }
    }

    fn complete() -> Operation {
        let (key, upload, value) = ("a".into(), "u".into(), Value(1));
        Operation::CompleteUpload { key, upload, value, condition: Condition::None }
    }

    fn abort() -> Operation {
        Operation::AbortUpload { key: "a".into(), upload: "u".into() }
    }

    #[test]
    fn an_upload_ends_when_it_is_completed_or_aborted() {
        for end in [complete(), abort()] {
            let mut story = begun();
            story.answered(part(), Answer::Done);
            story.answered(end, Answer::Done);
            story.answered(part(), Answer::NoUpload);
            story.answered(abort(), Answer::NoUpload);
            assert_eq!(check(&story.evidence()), Ok(()));
        }
    }

    #[test]
    fn one_that_vanishes_is_found_whatever_is_asked_of_it() {
        for asked in [part(), complete(), abort()] {
            let mut story = begun();
            story.answered(asked, Answer::NoUpload);
            assert!(check(&story.evidence()).unwrap_err().contains("no upload u"));
        }
    }

    #[test]
    fn of_an_upload_that_is_being_aborted_nothing_is_known() {
        let mut story = begun();
        story.call(abort());
        story.answered(part(), Answer::NoUpload);
        assert_eq!(check(&story.evidence()), Ok(()));
    }
}
