//! Gets, puts, deletes, copies and completed uploads are linearizable, per key.
//!
//! A copy is a read of its source and a write of its destination, each somewhere between
//! its call and its return. What listings show is judged by `listings`.

use std::collections::BTreeSet;

use super::{Evidence, Problem};
use crate::{
    linearizability::{
        self, Operation as Op,
        register::{Action, Condition, Input, Output, Registers, Value},
    },
    load::{Answer, Ending, Event, Operation},
};

pub fn check(evidence: &Evidence<'_>) -> Result<(), Problem> {
    let mut operations: Vec<_> = evidence.events.iter().flat_map(on_registers).collect();
    make_alike(&mut operations, BTreeSet::new());
    let verdict = linearizability::check(&Registers, &operations);
    if verdict.is_linearizable() { Ok(()) } else { Err(verdict.to_string()) }
}

/// Writes whose value nobody ever saw or named differ in nothing that matters, so they all
/// write one value: writes of unknown outcome then become alike, and the search need not try
/// each set of them. `told`: contents that were seen otherwise.
pub(super) fn make_alike(operations: &mut [Op<Input, Output>], mut told: BTreeSet<u64>) {
    let named = |operation: &Op<Input, Output>| {
        let condition = match operation.input.action {
            Action::Get => None,
            Action::Has(value) => Some(value),
            Action::Put(_, condition) | Action::Delete(condition) => match condition {
                Condition::Is(value) => Some(value),
                Condition::None | Condition::Absent => None,
            },
        };
        let found = match operation.returned {
            Some((_, Output::Found(found))) => found,
            _ => None,
        };
        [condition, found]
    };
    told.extend(operations.iter().flat_map(named).flatten().map(Value::content));
    for operation in operations {
        if let Action::Put(value, _) = &mut operation.input.action
            && !told.contains(&value.content())
        {
            *value = NEVER_SEEN;
        }
    }
}

/// Of a client and a size that there are not.
pub(super) const NEVER_SEEN: Value = Value(u64::MAX);

/// What an event says about registers: nothing, one operation or two.
pub(super) fn on_registers(event: &Event) -> Vec<Op<Input, Output>> {
    let op = |key: &str, action: Action, output: Option<Output>| {
        let returned = match (&event.ending, output) {
            (Ending::Answered { returned, .. }, Some(output)) => Some((*returned, output)),
            _ => None,
        };
        let input = Input { key: key.to_owned(), action };
        Op { client: event.client, input, called: event.called, returned }
    };
    let written = |key: &str, action: Action| match event.answer() {
        Some(Answer::Done) => vec![op(key, action, Some(Output::Done))],
        Some(Answer::Refused) => vec![op(key, action, Some(Output::Refused))],
        None if event.is_open() => vec![op(key, action, None)],
        // It did nothing, and its condition was not looked at.
        _ => Vec::new(),
    };
    match &event.operation {
        Operation::Get { key, .. } => match event.answer() {
            Some(Answer::Found(found)) => vec![op(key, Action::Get, Some(Output::Found(*found)))],
            _ => Vec::new(),
        },
        Operation::Put { key, value, condition, .. }
        | Operation::CompleteUpload { key, value, condition, .. } => {
            written(key, Action::Put(*value, *condition))
        }
        Operation::Delete { key, condition, .. } => written(key, Action::Delete(*condition)),
        Operation::Copy { from, value, to, condition, .. } => {
            let mut operations = written(to, Action::Put(*value, *condition));
            match event.answer() {
                Some(Answer::Done | Answer::Refused) => {
                    operations.push(op(from, Action::Has(*value), Some(Output::Done)));
                }
                Some(Answer::SourceRefused) => {
                    operations.push(op(from, Action::Has(*value), Some(Output::Refused)));
                }
                _ => {}
            }
            operations
        }
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::testing::Story;

    fn copy(value: u64) -> Operation {
        let (from, to, condition) = ("a".into(), "b".into(), Condition::None);
        Operation::Copy { from, value: Value(value), to, condition, id: None }
    }

    #[test]
    fn a_copy_reads_one_key_and_writes_another() {
        let mut story = Story::default();
        story.put("a", 1);
        story.answered(copy(1), Answer::Done);
        story.get("b", Some(1));
        story.put("a", 2);
        story.answered(copy(1), Answer::SourceRefused);
        assert_eq!(check(&story.evidence()), Ok(()));
        story.answered(copy(1), Answer::Done);
        assert!(check(&story.evidence()).unwrap_err().contains("\"a\""));
    }

    #[test]
    fn a_copy_that_is_refused_for_nothing_is_found() {
        let mut story = Story::default();
        story.put("a", 1);
        story.answered(copy(1), Answer::SourceRefused);
        assert!(check(&story.evidence()).is_err());
    }

    #[test]
    fn an_upload_is_there_once_it_is_complete() {
        let complete = || Operation::CompleteUpload {
            key: "a".into(),
            upload: "u".into(),
            value: Value(1),
            condition: Condition::Absent,
        };
        let mut story = Story::default();
        story.answered(complete(), Answer::Done);
        story.get("a", Some(1));
        story.answered(complete(), Answer::Refused);
        story.answered(complete(), Answer::NoUpload);
        assert_eq!(check(&story.evidence()), Ok(()));
        story.get("a", None);
        assert!(check(&story.evidence()).is_err());
    }

    /// Each set of the unknown writes would be a place of its own in the search: 2⁴⁰.
    #[test]
    fn forty_writes_that_nobody_saw_are_one() {
        let mut story = Story::default();
        story.put("a", 1);
        for value in 100..140 {
            story.unknown_put("a", value);
            story.get("a", Some(1));
        }
        assert_eq!(check(&story.evidence()), Ok(()));
        story.put("a", 2);
        story.get("a", Some(1));
        assert!(check(&story.evidence()).unwrap_err().contains("not linearizable"));
    }

    #[test]
    fn a_write_without_an_answer_may_have_happened_and_may_not() {
        let mut story = Story::default();
        story.put("a", 1);
        story.unknown_put("a", 2);
        story.get("a", Some(1));
        assert_eq!(check(&story.evidence()), Ok(()));
        story.get("a", Some(2));
        assert_eq!(check(&story.evidence()), Ok(()));
        story.get("a", Some(1));
        assert!(check(&story.evidence()).is_err());
    }
}
