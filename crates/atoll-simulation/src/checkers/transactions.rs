//! Transactions over records are linearizable, over all keys that they have in common.

use super::{Evidence, Problem};
use crate::{
    linearizability::{
        self, Operation as Op,
        transactions::{Answer as Answered, Store},
    },
    load::{Answer, Ending, Operation},
};

pub fn check(evidence: &Evidence<'_>) -> Result<(), Problem> {
    let mut operations = Vec::new();
    for event in evidence.events {
        let Operation::Transact { transaction, .. } = &event.operation else { continue };
        let returned = match &event.ending {
            Ending::Answered { returned, answer: Answer::Transacted { committed, read, .. }, .. } => {
                Some((*returned, Answered { committed: *committed, read: read.clone() }))
            }
            Ending::Open => None,
            Ending::Answered { .. } | Ending::Nothing => continue,
        };
        let (client, called) = (event.client, event.called);
        operations.push(Op { client, input: transaction.clone(), called, returned });
    }
    let verdict = linearizability::check(&Store, &operations);
    if verdict.is_linearizable() { Ok(()) } else { Err(verdict.to_string()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        checkers::testing::Story,
        linearizability::{register::Value, transactions::Transaction},
    };

    fn transact(story: &mut Story, writes: &[(&str, u64)], reads: &[&str], read: &[Option<u64>]) {
        let transaction = Transaction {
            reads: reads.iter().map(|key| (*key).to_owned()).collect(),
            compares: Vec::new(),
            writes: writes.iter().map(|(key, value)| ((*key).to_owned(), Some(Value(*value)))).collect(),
        };
        let read = read.iter().map(|value| value.map(Value)).collect();
        let answer = Answer::Transacted { committed: true, read, revision: 0 };
        story.answered(Operation::Transact { transaction, id: None }, answer);
    }

    #[test]
    fn half_of_a_transaction_is_found() {
        let mut story = Story::default();
        transact(&mut story, &[("a", 1), ("b", 2)], &[], &[]);
        transact(&mut story, &[], &["a", "b"], &[Some(1), Some(2)]);
        assert_eq!(check(&story.evidence()), Ok(()));
        transact(&mut story, &[], &["a", "b"], &[Some(1), None]);
        assert!(check(&story.evidence()).is_err());
    }
}
