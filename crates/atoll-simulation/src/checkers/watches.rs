//! A watch tells every change once, in order, and no other.
//!
//! Each answer says from which revision to which it tells all. So what was committed at a
//! revision between must be in it, and what is in it must have been written.

use std::collections::BTreeMap;

use super::{Evidence, Problem};
use crate::{
    linearizability::{register::Value, transactions::Transaction},
    load::{Answer, Operation, RecordChange},
};

pub fn check(evidence: &Evidence<'_>) -> Result<(), Problem> {
    let mut committed: BTreeMap<u64, &Transaction> = BTreeMap::new();
    let mut open: Vec<&Transaction> = Vec::new();
    for event in evidence.events {
        let Operation::Transact { transaction, .. } = &event.operation else { continue };
        match event.answer() {
            Some(Answer::Transacted { committed: true, revision, .. }) if !transaction.writes.is_empty() => {
                let other = committed.insert(*revision, transaction);
                if other.is_some() {
                    return Err(format!("two transactions were told that they are revision {revision}"));
                }
            }
            None if event.is_open() => open.push(transaction),
            _ => {}
        }
    }
    for event in evidence.events {
        let (Operation::Watch { prefix, .. }, Some(Answer::Changes { from, upto, changes })) =
            (&event.operation, event.answer())
        else {
            continue;
        };
        let told = format!("the watch of client {} from {from} to {upto}", event.client);
        if !changes.is_sorted_by_key(|change| change.revision)
            || changes.iter().any(|change| change.revision <= *from || change.revision > *upto)
        {
            return Err(format!("{told} is not in order: {changes:?}"));
        }
        let mut by_revision: BTreeMap<u64, Vec<&RecordChange>> = BTreeMap::new();
        for change in changes {
            by_revision.entry(change.revision).or_default().push(change);
        }
        if from < upto {
            for (revision, transaction) in committed.range(from + 1..=*upto) {
                let wanted = writes_under(transaction, prefix);
                let found = by_revision.get(revision).map(|changes| as_writes(changes)).unwrap_or_default();
                if !explains(&wanted, &found) {
                    return Err(format!(
                        "{told} tells {found:?} of revision {revision}, which wrote {wanted:?}"
                    ));
                }
            }
        }
        for (revision, changes) in by_revision {
            let found = as_writes(&changes);
            let is_known = committed.contains_key(&revision)
                || open.iter().any(|transaction| explains(&writes_under(transaction, prefix), &found));
            if !is_known {
                return Err(format!("{told} tells of revision {revision} what nobody wrote: {found:?}"));
            }
        }
    }
    Ok(())
}

type Writes = BTreeMap<String, Option<Value>>;

fn writes_under(transaction: &Transaction, prefix: &str) -> Writes {
    transaction.writes.iter().filter(|(key, _)| key.starts_with(prefix)).cloned().collect()
}

fn as_writes(changes: &[&RecordChange]) -> Writes {
    changes.iter().map(|change| (change.key.clone(), change.value)).collect()
}

/// A deletion of what was not there is no change.
fn explains(wrote: &Writes, found: &Writes) -> bool {
    found.iter().all(|change| wrote.get(change.0) == Some(change.1))
        && wrote.iter().all(|(key, value)| value.is_none() || found.contains_key(key))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::testing::Story;

    fn wrote(story: &mut Story, revision: u64, key: &str, value: u64) {
        let transaction =
            Transaction { writes: vec![(key.into(), Some(Value(value)))], ..Transaction::default() };
        let answer = Answer::Transacted { committed: true, read: Vec::new(), revision };
        story.answered(Operation::Transact { transaction, id: None }, answer);
    }

    fn told(story: &mut Story, from: u64, upto: u64, changes: &[(u64, &str, u64)]) {
        let change = |(revision, key, value): &(u64, &str, u64)| RecordChange {
            revision: *revision,
            key: (*key).into(),
            value: Some(Value(*value)),
        };
        let changes = changes.iter().map(change).collect();
        let watch = Operation::Watch { prefix: "r".into(), after: Some(from) };
        story.answered(watch, Answer::Changes { from, upto, changes });
    }

    fn written() -> Story {
        let mut story = Story::default();
        wrote(&mut story, 5, "r1", 1);
        wrote(&mut story, 7, "r2", 2);
        story
    }

    #[test]
    fn all_changes_in_order_are_fine_and_those_outside_are_not_asked_for() {
        let mut story = written();
        told(&mut story, 4, 9, &[(5, "r1", 1), (7, "r2", 2)]);
        told(&mut story, 5, 7, &[(7, "r2", 2)]);
        told(&mut story, 7, 7, &[]);
        assert_eq!(check(&story.evidence()), Ok(()));
    }

    #[test]
    fn a_change_that_is_left_out_is_found() {
        let mut story = written();
        told(&mut story, 4, 9, &[(7, "r2", 2)]);
        assert!(check(&story.evidence()).unwrap_err().contains("revision 5"));
    }

    #[test]
    fn a_change_that_nobody_made_is_found() {
        let mut story = written();
        told(&mut story, 4, 9, &[(5, "r1", 1), (6, "r1", 8), (7, "r2", 2)]);
        assert!(check(&story.evidence()).unwrap_err().contains("nobody wrote"));
    }

    #[test]
    fn changes_out_of_order_are_found() {
        let mut story = written();
        told(&mut story, 4, 9, &[(7, "r2", 2), (5, "r1", 1)]);
        assert!(check(&story.evidence()).unwrap_err().contains("order"));
    }
}
