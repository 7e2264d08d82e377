//! The checkers together, on histories of a store that is right, and on the same with one
//! answer changed: the first are sound, and each change is found by the checker that is
//! for it.

use std::{collections::BTreeMap, time::Duration};

use atoll_simulation::{
    Seed,
    checkers::{Evidence, Judgement},
    linearizability::{
        register::{Condition, Value},
        transactions::{Contents, Transaction},
    },
    load::{Answer, Ending, Event, History, Operation, Page, PageEntry, RecordChange, Size},
};
use atoll_types::Instant;
use rand::{Rng, rngs::StdRng, seq::SliceRandom};

const CLIENTS: usize = 6;
const OPERATIONS: usize = 1500;
const KEYS: [&str; 6] = ["a", "a/1", "a/2", "b", "b/1", "c"];
const RECORDS: [&str; 3] = ["r1", "r2", "r3"];

/// One copy of everything, where each operation takes effect at one moment.
#[derive(Default)]
struct Store {
    objects: BTreeMap<String, Value>,
    records: Contents,
    revision: u64,
    changes: Vec<RecordChange>,
    /// The lock's epoch, and until when it is held.
    lock: (u64, Instant),
}

impl Store {
    fn apply(&mut self, operation: &Operation, now: Instant) -> Answer {
        match operation {
            Operation::Get { key, .. } => Answer::Found(self.objects.get(key).copied()),
            Operation::Put { key, value, condition, .. }
                if condition.holds(self.objects.get(key).copied()) =>
            {
                self.objects.insert(key.clone(), *value);
                Answer::Done
            }
            Operation::Delete { key, condition, .. } if condition.holds(self.objects.get(key).copied()) => {
                self.objects.remove(key);
                Answer::Done
            }
            Operation::Put { .. } | Operation::Delete { .. } => Answer::Refused,
            Operation::List { limit, .. } => {
                let mut left = self.objects.iter();
                let entries = left.by_ref().take(*limit).map(|(key, value)| PageEntry {
                    key: key.clone(),
                    etag: value.etag(),
                    size: value.body().len() as u64,
                });
                let entries: Vec<PageEntry> = entries.collect();
                let last = entries.last().map(|entry| entry.key.clone());
                let next = if left.next().is_some() { last } else { None };
                Answer::Page(Page { entries, prefixes: Vec::new(), next })
            }
            Operation::Transact { transaction, .. } => {
                self.revision += 1;
                let answer = transaction.apply(&mut self.records);
                if answer.committed {
                    let revision = self.revision;
                    let writes = transaction.writes.iter().cloned();
                    self.changes.extend(writes.map(|(key, value)| RecordChange { revision, key, value }));
                }
                let (committed, read) = (answer.committed, answer.read);
                Answer::Transacted { committed, read, revision: self.revision }
            }
            Operation::Watch { after, .. } => {
                let from = after.unwrap_or_default();
                let changes = self.changes.iter().filter(|change| change.revision > from).cloned().collect();
                Answer::Changes { from, upto: self.revision, changes }
            }
            Operation::Acquire { ttl, .. } => {
                let (epoch, until) = self.lock;
                if now < until {
                    return Answer::Held { epoch };
                }
                self.lock = (epoch + 1, now + *ttl);
                Answer::Granted { lease: epoch + 1, epoch: epoch + 1 }
            }
            _ => unreachable!("not drawn"),
        }
    }
}

fn drawn(rng: &mut StdRng, number: u64, seen: &mut u64) -> Operation {
    let key = KEYS[rng.random_range(0..KEYS.len())].to_owned();
    let condition = if rng.random_bool(0.2) { Condition::Absent } else { Condition::None };
    match rng.random_range(0..100) {
        0..30 => Operation::Get { key, span: None },
        30..55 => Operation::Put { key, value: Value::sized(number, Size::Word, false), condition, id: None },
        55..65 => Operation::Delete { key, condition: Condition::None, id: None },
        65..75 => Operation::List { prefix: String::new(), delimiter: None, after: None, limit: 4 },
        75..90 => {
            let mut records: Vec<String> = RECORDS.iter().map(|&key| key.to_owned()).collect();
            records.shuffle(rng);
            let writes =
                vec![(records[0].clone(), Some(Value(number))), (records[1].clone(), Some(Value(number)))];
            Operation::Transact {
                transaction: Transaction { reads: records, writes, ..Default::default() },
                id: None,
            }
        }
        90..96 => {
            let after = Some(*seen);
            *seen = (*seen).max(number / 20);
            Operation::Watch { prefix: "r".into(), after }
        }
        _ => {
            let ttl = Duration::from_secs(1);
            Operation::Acquire { lock: "l".into(), owner: "me".into(), ttl, id: None }
        }
    }
}

/// Clients whose operations overlap; one in a hundred has no answer, and half of those took
/// effect.
fn history(seed: u64) -> Vec<Event> {
    let mut rng = Seed(seed).stream("history");
    let (mut store, mut history, mut now, mut seen) =
        (Store::default(), History::default(), Instant::ORIGIN, 0);
    let mut under_way: Vec<Option<(atoll_simulation::load::Call, Operation, Option<Answer>)>> =
        (0..CLIENTS).map(|_| None).collect();
    for number in 1..=OPERATIONS as u64 * 3 {
        now = now + Duration::from_millis(rng.random_range(0..20));
        let client = rng.random_range(0..CLIENTS);
        under_way[client] = match under_way[client].take() {
            None => {
                let operation = drawn(&mut rng, number, &mut seen);
                Some((history.called(client as u64, operation.clone(), now), operation, None))
            }
            Some((_, operation, None)) if rng.random_bool(0.01) => {
                if rng.random_bool(0.5) {
                    store.apply(&operation, now);
                }
                None
            }
            Some((call, operation, None)) => {
                let answer = store.apply(&operation, now);
                Some((call, operation, Some(answer)))
            }
            Some((call, _, Some(answer))) => {
                history.returned(call, answer, now);
                None
            }
        };
    }
    history.events().to_vec()
}

fn judged(events: &[Event]) -> Judgement {
    Judgement::of(&Evidence { events, ..Evidence::default() })
}

#[test]
fn what_a_right_store_answers_is_sound() {
    for seed in 0..20 {
        let judgement = judged(&history(seed));
        assert!(judgement.is_sound(), "seed {seed}: {judgement}");
    }
}

/// Changes an answer in the second half, the first that `change` accepts, and says whether
/// the checker finds it.
fn finds(checker: &str, change: impl Fn(&[Event], &Operation, &mut Answer) -> bool) {
    let (mut changed, mut found) = (0, 0);
    for seed in 0..20 {
        let mut events = history(seed);
        let before = events.clone();
        let half = events.len() / 2;
        let done = events[half..].iter_mut().any(|event| match &mut event.ending {
            Ending::Answered { answer, .. } => change(&before[..half], &event.operation, answer),
            Ending::Open | Ending::Nothing => false,
        });
        changed += usize::from(done);
        found += usize::from(done && judged(&events).is_found_by(checker));
    }
    assert!(changed >= 15, "{checker}: only {changed} histories could be changed");
    // A few answers may be changed to what would have been right as well: to those of
    // another order of operations that overlapped.
    assert!(found * 5 >= changed * 4, "{checker} found {found} of {changed}");
}

/// What was put under the key long ago, and certainly replaced.
fn old_value(before: &[Event], key: &str) -> Option<Value> {
    let quarter = &before[..before.len() / 2];
    quarter.iter().find_map(|event| match (&event.operation, event.answer()) {
        (Operation::Put { key: put, value, .. }, Some(Answer::Done)) if put == key => Some(*value),
        _ => None,
    })
}

#[test]
fn an_old_value_is_found() {
    finds("linearizability", |before, operation, answer| {
        let (Operation::Get { key, .. }, Answer::Found(Some(found))) = (operation, answer) else {
            return false;
        };
        old_value(before, key).is_some_and(|old| std::mem::replace(found, old) != old)
    });
}

#[test]
fn a_value_that_nobody_wrote_is_found() {
    finds("linearizability", |_, operation, answer| {
        let (Operation::Get { .. }, Answer::Found(found)) = (operation, answer) else { return false };
        *found = Some(Value(77_777_777));
        true
    });
}

#[test]
fn a_write_that_was_refused_and_said_to_be_done_is_found() {
    // A write over what is there, said to have found nothing; unless nobody looks at it
    // before the next.
    let mut found = 0;
    for seed in 0..20 {
        let mut events = history(seed);
        let half = events.len() / 2;
        for event in &mut events[half..] {
            if let (Operation::Put { condition: Condition::Absent, .. }, Ending::Answered { answer, .. }) =
                (&event.operation, &mut event.ending)
                && *answer == Answer::Refused
            {
                *answer = Answer::Done;
            }
        }
        found += usize::from(judged(&events).is_found_by("linearizability"));
    }
    assert_eq!(found, 20);
}

#[test]
fn an_entry_that_is_left_out_of_a_page_is_found() {
    finds("listings", |_, _, answer| {
        let Answer::Page(page) = answer else { return false };
        // Not the last, which says how far the page goes; and of a key that is rarely
        // written.
        let at = page.entries.len().saturating_sub(2);
        page.entries.len() > 2 && page.entries.remove(at).size > 0
    });
}

#[test]
fn half_of_a_transaction_is_found() {
    finds("transactions", |_, _, answer| {
        let Answer::Transacted { read, .. } = answer else { return false };
        let all = read.iter().all(Option::is_some);
        read[0] = None;
        all
    });
}

#[test]
fn a_change_that_is_not_told_or_told_twice_is_found() {
    finds("watches", |_, _, answer| {
        let Answer::Changes { changes, .. } = answer else { return false };
        changes.len() > 1 && changes.pop().is_some()
    });
    finds("watches", |_, _, answer| {
        let Answer::Changes { changes, .. } = answer else { return false };
        let Some(last) = changes.last().cloned() else { return false };
        let first = changes[0].revision;
        changes.push(RecordChange { revision: first, ..last });
        changes.last().map(|last| last.revision)
            != changes.get(changes.len() - 2).map(|change| change.revision)
    });
}

#[test]
fn a_lock_that_two_have_is_found() {
    finds("locks", |before, _, answer| {
        let Answer::Granted { epoch, .. } = answer else { return false };
        let granted = before.iter().rev().find_map(|event| match event.answer() {
            Some(Answer::Granted { epoch, .. }) => Some(*epoch),
            _ => None,
        });
        granted.is_some_and(|other| std::mem::replace(epoch, other) != other)
    });
}
