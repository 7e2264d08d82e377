//! Transactions over records are linearizable, over all keys that they have in common.

use std::collections::{BTreeMap, BTreeSet};

use super::{Evidence, Problem, linearizability::NEVER_SEEN};
use crate::{
    linearizability::{
        self, Model, Operation as Op,
        register::Value,
        transactions::{Answer as Answered, Store, Transaction},
    },
    load::{Answer, Ending, Operation},
};

pub fn check(evidence: &Evidence<'_>) -> Result<(), Problem> {
    let mut operations = on_records(evidence);
    tell_outcomes(&mut operations);
    make_alike(&mut operations);
    let verdict = linearizability::check(&Store, &operations);
    if verdict.is_linearizable() { Ok(()) } else { Err(verdict.to_string()) }
}

fn on_records(evidence: &Evidence<'_>) -> Vec<Op<Transaction, Answered>> {
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
    operations
}

/// A value that was seen has been written: its writer took effect before the first who saw
/// it returned, and if it compared, it saw values itself. A storm leaves hundreds of unknown
/// outcomes on one group of records, and the search cannot try every row of so many.
fn tell_outcomes(operations: &mut [Op<Transaction, Answered>]) {
    let mut writers = BTreeMap::<(String, Value), usize>::new();
    for write in operations.iter().flat_map(|operation| Store.gives(&operation.input)) {
        *writers.entry(write).or_default() += 1;
    }
    loop {
        let mut seen = BTreeMap::<(String, Value), u64>::new();
        for operation in operations.iter() {
            let Some((returned, answer)) = &operation.returned else { continue };
            for held in Store.needs(&operation.input, answer) {
                let first = seen.entry(held).or_insert(*returned);
                *first = (*first).min(*returned);
            }
        }
        let mut told = false;
        for operation in operations.iter_mut().filter(|operation| operation.returned.is_none()) {
            // What two have written tells of neither.
            let own = Store.gives(&operation.input).into_iter().filter(|write| writers[write] == 1);
            let Some(first) = own.filter_map(|write| seen.get(&write).copied()).min() else { continue };
            // What it read is still unknown.
            operation.input.reads.clear();
            operation.returned = Some((first, Answered { committed: true, read: Vec::new() }));
            told = true;
        }
        if !told {
            return;
        }
    }
}

/// As for objects: values that nobody saw or named are one, and so is what was read without
/// telling anybody. Transactions of unknown outcome then become alike.
fn make_alike(operations: &mut [Op<Transaction, Answered>]) {
    let mut told = BTreeSet::new();
    for operation in operations.iter() {
        let read = operation.returned.iter().flat_map(|(_, answer)| answer.read.iter().copied());
        let compared = operation.input.compares.iter().map(|(_, value)| *value);
        told.extend(read.chain(compared).flatten());
    }
    for operation in operations {
        if operation.returned.is_none() {
            operation.input.reads.clear();
        }
        for value in operation.input.writes.iter_mut().filter_map(|(_, value)| value.as_mut()) {
            if !told.contains(value) {
                *value = NEVER_SEEN;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;
    use crate::{checkers::testing::Story, linearizability::transactions::Contents};

    fn transaction(reads: &[&str], writes: &[(&str, Option<u64>)]) -> Transaction {
        Transaction {
            reads: reads.iter().map(|key| (*key).to_owned()).collect(),
            compares: Vec::new(),
            writes: writes.iter().map(|(key, value)| ((*key).to_owned(), value.map(Value))).collect(),
        }
    }

    fn transact(story: &mut Story, transaction: Transaction, committed: bool, read: Vec<Option<Value>>) {
        let answer = Answer::Transacted { committed, read, revision: 0 };
        story.answered(Operation::Transact { transaction, id: None }, answer);
    }

    fn reads(story: &mut Story, reads: &[&str], read: &[Option<u64>]) {
        let read = read.iter().map(|value| value.map(Value)).collect();
        transact(story, transaction(reads, &[]), true, read);
    }

    #[test]
    fn half_of_a_transaction_is_found() {
        let mut story = Story::default();
        transact(&mut story, transaction(&[], &[("a", Some(1)), ("b", Some(2))]), true, Vec::new());
        reads(&mut story, &["a", "b"], &[Some(1), Some(2)]);
        assert_eq!(check(&story.evidence()), Ok(()));
        reads(&mut story, &["a", "b"], &[Some(1), None]);
        assert!(check(&story.evidence()).is_err());
    }

    #[test]
    fn of_an_unknown_outcome_that_was_seen_all_has_happened() {
        let mut story = Story::default();
        let write = transaction(&["a"], &[("a", Some(1)), ("b", Some(2))]);
        story.call(Operation::Transact { transaction: write, id: None });
        let mut second = story.clone();
        reads(&mut story, &["a"], &[Some(1)]);
        reads(&mut story, &["b"], &[Some(2)]);
        assert_eq!(check(&story.evidence()), Ok(()));
        reads(&mut second, &["a"], &[Some(1)]);
        reads(&mut second, &["b"], &[None]);
        assert!(check(&second.evidence()).is_err());
    }

    #[test]
    fn what_a_seen_outcome_compared_was_there() {
        let mut story = Story::default();
        let mut swap = transaction(&[], &[("a", Some(2))]);
        swap.compares.push(("a".to_owned(), Some(Value(1))));
        let first = Operation::Transact { transaction: transaction(&[], &[("a", Some(1))]), id: None };
        story.call(Operation::Transact { transaction: swap, id: None });
        let mut never_written = story.clone();
        story.call(first.clone());
        reads(&mut story, &["a"], &[Some(2)]);
        assert_eq!(check(&story.evidence()), Ok(()));
        reads(&mut never_written, &["a"], &[Some(2)]);
        never_written.call(first);
        assert!(check(&never_written.evidence()).is_err());
    }

    /// Transactions on three records, a quarter of unknown outcome, of which half happened.
    /// `lie` alters what one of the last read.
    fn story(seed: u64, transactions: u64, lie: bool) -> Story {
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut story, mut contents, mut known) = (Story::default(), Contents::new(), Contents::new());
        for number in 0..transactions {
            let mut drawn = Transaction::default();
            for (place, key) in ["a", "b", "c"].into_iter().enumerate() {
                if rng.random_bool(0.5) {
                    drawn.reads.push(key.to_owned());
                }
                if rng.random_bool(0.3) {
                    drawn.compares.push((key.to_owned(), known.get(key).copied()));
                }
                match rng.random_range(0..100) {
                    0..35 => drawn.writes.push((key.to_owned(), Some(Value(number * 3 + place as u64)))),
                    35..40 => drawn.writes.push((key.to_owned(), None)),
                    _ => {}
                }
            }
            if rng.random_bool(0.25) {
                story.call(Operation::Transact { transaction: drawn.clone(), id: None });
                if rng.random_bool(0.5) {
                    drawn.apply(&mut contents);
                }
                continue;
            }
            let mut answer = drawn.apply(&mut contents);
            if rng.random_bool(0.3) {
                known = contents.clone();
            }
            if lie
                && number + transactions / 10 >= transactions
                && let Some(read) = answer.read.first_mut()
            {
                // It may be there by chance, but hardly in a long story.
                *read = Some(Value(3));
            }
            transact(&mut story, drawn, answer.committed, answer.read);
        }
        story
    }

    #[test]
    fn hundreds_of_unknown_outcomes_are_decided() {
        for seed in 0..3 {
            assert_eq!(check(&story(seed, 1500, false).evidence()), Ok(()), "seed {seed}");
            let problem = check(&story(seed, 1500, true).evidence()).expect_err("a lie");
            assert!(problem.contains("not linearizable"), "seed {seed}: {problem}");
        }
    }

    #[test]
    fn what_is_told_and_made_alike_changes_no_verdict() {
        let (mut good, mut bad) = (0, 0);
        for seed in 0..2000 {
            let story = story(seed, 12, seed % 2 == 0);
            let plain = linearizability::check(&Store, &on_records(&story.evidence()));
            let checked = check(&story.evidence());
            assert_eq!(checked.is_ok(), plain.is_linearizable(), "seed {seed}: {plain}");
            *(if checked.is_ok() { &mut good } else { &mut bad }) += 1;
        }
        assert!(good > 500 && bad > 500, "{good} good, {bad} bad");
    }
}
