//! The checker against histories whose verdict is known: made by hand, generated, and
//! generated then spoilt.

use std::time::Duration;

use atoll_simulation::{
    Seed,
    linearizability::{
        Model, Op as OpOf, Operation, Verdict, check, check_within,
        register::{Action, Condition, Input, Output, Registers, Value},
        transactions::{Answer, Contents, Store, Transaction},
    },
};
use rand::{Rng, rngs::StdRng};

type Op = Operation<Input, Output>;

/// `"put 1 0..3"`, `"put 2 if absent 0..3 refused"`, `"put 2 if 1 4..6"`, `"get 1 4..5"`,
/// `"get - 4..5"`, `"delete 7..9"`; `"put 3 5.."` never returned. One client each.
fn history(lines: &[&str]) -> Vec<Op> {
    lines.iter().enumerate().map(|(client, line)| operation(client as u64, line)).collect()
}

fn operation(client: u64, line: &str) -> Op {
    let mut words = line.split(' ').peekable();
    let verb = words.next().unwrap();
    let value = |word: &str| Value(word.parse().unwrap());
    let operand = if verb == "delete" { "-" } else { words.next().unwrap() };
    let condition = match words.next_if_eq(&"if").and_then(|_| words.next()) {
        None => Condition::None,
        Some("absent") => Condition::Absent,
        Some(word) => Condition::Is(value(word)),
    };
    let action = match verb {
        "get" => Action::Get,
        "put" => Action::Put(value(operand), condition),
        "delete" => Action::Delete(condition),
        other => panic!("no such verb: {other}"),
    };
    let (called, returned) = words.next().unwrap().split_once("..").unwrap();
    let output = match (verb, words.next()) {
        ("get", _) => Output::Found((operand != "-").then(|| value(operand))),
        (_, Some("refused")) => Output::Refused,
        (_, None) => Output::Done,
        other => panic!("cannot be: {other:?}"),
    };
    let returned = (!returned.is_empty()).then(|| (returned.parse().unwrap(), output));
    Operation { client, input: Input { key: "k".into(), action }, called: called.parse().unwrap(), returned }
}

fn is_good(lines: &[&str]) {
    let verdict = check(&Registers, &history(lines));
    assert_eq!(verdict, Verdict::Linearizable, "{verdict}");
}

fn is_bad(lines: &[&str]) {
    let verdict = check(&Registers, &history(lines));
    assert!(matches!(verdict, Verdict::NotLinearizable(_)), "{verdict}");
}

#[test]
fn nothing_and_one_thing_after_the_other_are_good() {
    is_good(&[]);
    is_good(&["get - 0..1", "put 1 2..3", "get 1 4..5", "delete 6..7", "get - 8..9"]);
}

#[test]
fn a_read_after_a_write_sees_it() {
    is_bad(&["put 1 0..1", "get - 2..3"]);
    is_bad(&["put 1 0..1", "put 2 2..3", "get 1 4..5"]);
    is_bad(&["put 1 0..1", "delete 2..3", "get 1 4..5"]);
}

#[test]
fn a_read_during_a_write_may_see_either() {
    is_good(&["put 1 0..1", "put 2 2..9", "get 1 3..4"]);
    is_good(&["put 1 0..1", "put 2 2..9", "get 2 3..4"]);
}

#[test]
fn what_one_read_saw_a_later_read_does_not_unsee() {
    is_good(&["put 1 0..1", "put 2 2..9", "get 1 3..4", "get 2 5..6"]);
    is_bad(&["put 1 0..1", "put 2 2..9", "get 2 3..4", "get 1 5..6"]);
}

#[test]
fn operations_that_touch_in_time_are_concurrent() {
    is_good(&["put 1 0..5", "get - 5..6"]);
    is_bad(&["put 1 0..5", "get - 6..7"]);
}

#[test]
fn of_two_that_create_one_is_refused() {
    is_good(&["put 1 if absent 0..5", "put 2 if absent 1..6 refused", "get 1 7..8"]);
    is_bad(&["put 1 if absent 0..5", "put 2 if absent 1..6"]);
    is_bad(&["put 1 if absent 0..5 refused", "put 2 if absent 1..6 refused"]);
}

#[test]
fn a_swap_needs_what_it_names() {
    is_good(&["put 1 0..1", "put 2 if 1 2..5", "put 3 if 1 3..6 refused", "get 2 7..8"]);
    is_good(&["put 1 0..1", "put 2 if 1 2..5", "put 3 if 2 3..6", "get 3 7..8"]);
    is_bad(&["put 1 0..1", "put 2 if 1 2..5", "put 3 if 1 3..6"]);
    is_bad(&["put 1 0..1", "put 2 if 1 2..3 refused"]);
    is_bad(&["put 2 if 1 2..3"]);
    is_good(&["put 1 0..1", "delete if 1 2..3", "get - 4..5", "delete if 1 6..7 refused"]);
}

#[test]
fn an_unknown_write_may_have_happened_or_not_but_not_both_ways() {
    is_good(&["put 1 0..1", "put 2 2..", "get 1 8..9"]);
    is_good(&["put 1 0..1", "put 2 2..", "get 2 8..9"]);
    is_good(&["put 1 0..1", "put 2 2..", "get 1 3..4", "get 2 8..9"]);
    is_bad(&["put 1 0..1", "put 2 2..", "get 2 3..4", "get 1 8..9"]);
    is_bad(&["put 1 0..1", "get 2 2..3", "put 2 4.."]);
}

#[test]
fn an_unknown_condition_is_checked_when_it_takes_effect() {
    is_good(&["put 1 if absent 0..", "put 2 if absent 3..4 refused", "get 1 5..6"]);
    is_bad(&["put 1 0..1", "put 2 if absent 2..", "get 2 5..6"]);
    is_good(&["put 1 0..1", "put 2 if absent 2..", "delete 3..4", "get 2 5..6"]);
}

#[test]
fn an_answer_412_to_ones_own_success_is_found() {
    // The retry was refused by what the first try had written.
    is_bad(&["get - 0..1", "put 1 if absent 2..5 refused", "get 1 6..7"]);
}

#[test]
fn unknown_writes_by_the_dozen_do_not_drown_the_search() {
    let mut lines: Vec<String> = (0..40).map(|n| format!("put {} {n}..", 100 + n)).collect();
    lines.extend((0..200).map(|n| format!("put {} {}..{}", 1000 + n, 1000 + 4 * n, 1001 + 4 * n)));
    lines.extend((0..200).map(|n| format!("get {} {}..{}", 1000 + n, 1002 + 4 * n, 1003 + 4 * n)));
    is_good(&lines.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn a_bad_history_is_decided_in_spite_of_many_unknown_writes() {
    let shape = Shape { operations: 2_000, keys: 4, clients: 10, unknown_per_mille: 60 };
    let mut operations = generate(&mut Seed(3).stream("history"), &shape);
    let (index, stale) = (0..operations.len())
        .filter(|&index| matches!(operations[index].returned, Some((_, Output::Found(_)))))
        .rev()
        .find_map(|index| Some((index, stale_value(&operations, &operations[index])?)))
        .unwrap();
    operations[index].returned.as_mut().unwrap().1 = Output::Found(Some(stale));
    let verdict = check(&Registers, &operations);
    assert!(matches!(verdict, Verdict::NotLinearizable(_)), "{verdict}");
}

#[test]
fn a_search_that_gives_up_is_undecided_which_is_not_good() {
    let operations = generate(&mut Seed(1).stream("history"), &Shape { keys: 1, ..Shape::default() });
    let verdict = check_within(&Registers, &operations, 100);
    assert!(matches!(verdict, Verdict::Undecided { .. }), "{verdict}");
    assert!(!verdict.is_linearizable());
}

#[test]
fn a_contradiction_says_where_it_got_stuck() {
    let verdict = check(&Registers, &history(&["put 1 0..1", "put 2 2..3", "get 1 4..5"]));
    assert_eq!(
        verdict.to_string(),
        "not linearizable: on \"k\", 2 of 3 operations fit together, to the state Some(Value(2)), where none of \
         these fits next:\n  client 2, 4..5: Input { key: \"k\", action: Get } -> Found(Some(Value(1)))"
    );
}

/// What a generated history looks like.
struct Shape {
    operations: usize,
    keys: usize,
    clients: u64,
    unknown_per_mille: u32,
}

impl Default for Shape {
    fn default() -> Self {
        Self { operations: 1_000, keys: 5, clients: 10, unknown_per_mille: 10 }
    }
}

/// A history that a single copy produced: each operation takes effect at an instant
/// drawn between its call and its return; an unknown one at any time after its call, or
/// never.
fn generate(rng: &mut StdRng, shape: &Shape) -> Vec<Op> {
    struct Planned {
        client: u64,
        called: u64,
        effect: Option<u64>,
        returned: Option<u64>,
    }

    let end = shape.operations as u64 / shape.clients * 100;
    let mut planned = Vec::new();
    let mut free_at = vec![0; shape.clients as usize];
    for index in 0..shape.operations {
        let client = index % shape.clients as usize;
        let called = free_at[client] + rng.random_range(1..40);
        let returned = called + rng.random_range(1..120);
        free_at[client] = returned;
        let client = client as u64;
        planned.push(if rng.random_range(0..1000) < shape.unknown_per_mille {
            let effect = rng.random_bool(0.7).then(|| rng.random_range(called..=end.max(called)));
            Planned { client, called, effect, returned: None }
        } else {
            Planned {
                client,
                called,
                effect: Some(rng.random_range(called..=returned)),
                returned: Some(returned),
            }
        });
    }
    // Those without an effect last: what they would have written was never there.
    planned.sort_by_key(|planned| planned.effect.unwrap_or(u64::MAX));
    let mut store = std::collections::BTreeMap::<String, Value>::new();
    let mut last_values: Vec<Value> = vec![Value(0)];
    let mut operations = Vec::new();
    for (index, planned) in planned.into_iter().enumerate() {
        let key = format!("key {}", rng.random_range(0..shape.keys));
        let present = store.get(&key).copied();
        let written = Value(index as u64 + 1);
        let condition = match rng.random_range(0..6) {
            0 => Condition::Absent,
            1 | 2 => Condition::Is(present.unwrap_or(Value(0))),
            3 => Condition::Is(last_values[rng.random_range(0..last_values.len())]),
            _ => Condition::None,
        };
        let action = match rng.random_range(0..10) {
            0..=4 => Action::Get,
            5 => Action::Delete(condition),
            _ => Action::Put(written, condition),
        };
        let mut output = action.apply(present).0;
        if planned.effect.is_some() {
            let next;
            (output, next) = action.apply(present);
            match next {
                Some(value) => store.insert(key.clone(), value),
                None => store.remove(&key),
            };
        }
        if matches!(action, Action::Put(..)) {
            last_values.push(written);
        }
        let returned = planned.returned.map(|at| (at, output));
        operations.push(Operation {
            client: planned.client,
            input: Input { key, action },
            called: planned.called,
            returned,
        });
    }
    operations
}

#[test]
fn generated_histories_are_good() {
    for seed in 0..40 {
        let mut rng = Seed(seed).stream("history");
        let shape =
            Shape { clients: 2 + seed % 20, unknown_per_mille: (seed % 5) as u32 * 10, ..Shape::default() };
        let verdict = check(&Registers, &generate(&mut rng, &shape));
        assert!(verdict.is_linearizable(), "seed {seed}: {verdict}");
    }
}

/// For each read, a value that it cannot have seen: overwritten by a put that began
/// after the value's own had returned, and that had returned before the read began.
fn stale_value(operations: &[Op], read: &Op) -> Option<Value> {
    let puts = || {
        operations.iter().filter_map(|operation| match (operation.input.action, &operation.returned) {
            (Action::Put(value, _), Some((returned, Output::Done)))
                if operation.input.key == read.input.key =>
            {
                Some((value, operation.called, *returned))
            }
            _ => None,
        })
    };
    puts().find_map(|(stale, _, stale_returned)| {
        let overwritten = puts().any(|(value, called, returned)| {
            value != stale && called > stale_returned && returned < read.called
        });
        overwritten.then_some(stale)
    })
}

#[test]
fn a_generated_history_with_one_stale_read_is_bad() {
    let mut spoilt = 0;
    for seed in 0..20 {
        let mut rng = Seed(seed).stream("history");
        let operations = generate(&mut rng, &Shape { operations: 400, ..Shape::default() });
        let reads: Vec<usize> = (0..operations.len())
            .filter(|&index| matches!(operations[index].returned, Some((_, Output::Found(_)))))
            .collect();
        for _ in 0..10 {
            let index = reads[rng.random_range(0..reads.len())];
            let Some(stale) = stale_value(&operations, &operations[index]) else { continue };
            let mut bad = operations.clone();
            let returned = bad[index].returned.as_mut().unwrap();
            returned.1 = Output::Found(Some(stale));
            let verdict = check(&Registers, &bad);
            assert!(
                matches!(verdict, Verdict::NotLinearizable(_)),
                "seed {seed}, operation {index}: {verdict}"
            );
            spoilt += 1;
        }
    }
    assert!(spoilt > 100, "only {spoilt} reads could be spoilt");
}

#[test]
fn a_generated_history_with_one_lost_write_is_bad() {
    let mut spoilt = 0;
    for seed in 0..40 {
        let mut rng = Seed(seed).stream("history");
        let mut operations =
            generate(&mut rng, &Shape { operations: 400, unknown_per_mille: 0, ..Shape::default() });
        // A value that somebody read, but nobody wrote.
        let read = operations.iter().find_map(|operation| match operation.returned {
            Some((_, Output::Found(Some(value)))) => Some(value),
            _ => None,
        });
        let Some(read) = read else { continue };
        operations
            .retain(|operation| !matches!(operation.input.action, Action::Put(value, _) if value == read));
        let verdict = check(&Registers, &operations);
        assert!(matches!(verdict, Verdict::NotLinearizable(_)), "seed {seed}: {verdict}");
        spoilt += 1;
    }
    assert!(spoilt > 30, "only {spoilt} histories could be spoilt");
}

/// Tries every order of every set that has all operations with an outcome.
fn is_explained<M: Model>(model: &M, operations: &[OpOf<M>]) -> bool {
    fn go_on<M: Model>(model: &M, operations: &[OpOf<M>], done: u32, state: &M::State) -> bool {
        let undone = |index: &usize| done & (1 << index) == 0;
        let left = || (0..operations.len()).filter(undone);
        let returned = |index: usize| operations[index].returned.as_ref().map(|(at, _)| *at);
        if left().all(|index| returned(index).is_none()) {
            return true;
        }
        left().any(|index| {
            let operation = &operations[index];
            left().all(|other| returned(other).is_none_or(|returned| returned >= operation.called))
                && model
                    .step(state, &operation.input, operation.returned.as_ref().map(|(_, output)| output))
                    .is_some_and(|next| go_on(model, operations, done | 1 << index, &next))
        })
    }
    go_on(model, operations, 0, &model.initial())
}

/// Few values and little time, so that everything is in everything's way.
fn tiny_register(rng: &mut StdRng) -> Vec<Op> {
    let value = |rng: &mut StdRng| Value(rng.random_range(1..=4));
    (0..rng.random_range(3..=8))
        .map(|client| {
            let condition = match rng.random_range(0..4) {
                0 => Condition::Absent,
                1 => Condition::Is(value(rng)),
                _ => Condition::None,
            };
            let action = match rng.random_range(0..6) {
                0 | 1 => Action::Get,
                2 => Action::Delete(condition),
                3 => Action::Has(value(rng)),
                _ => Action::Put(value(rng), condition),
            };
            let output = match action {
                Action::Get => Output::Found(rng.random_bool(0.7).then(|| value(rng))),
                _ if rng.random_bool(0.6) => Output::Done,
                _ => Output::Refused,
            };
            let called = rng.random_range(0..12);
            let returned = rng.random_bool(0.6).then(|| (called + rng.random_range(0..8), output));
            Operation { client, input: Input { key: "k".into(), action }, called, returned }
        })
        .collect()
}

fn tiny_transactions(rng: &mut StdRng) -> Vec<Operation<Transaction, Answer>> {
    const KEYS: [&str; 3] = ["a", "b", "c"];
    let some = |rng: &mut StdRng, most: usize| -> Vec<(String, Option<Value>)> {
        (0..rng.random_range(0..=most))
            .map(|_| {
                let value = rng.random_bool(0.6).then(|| Value(rng.random_range(1..=2)));
                (KEYS[rng.random_range(0..3)].to_owned(), value)
            })
            .collect()
    };
    (0..rng.random_range(3..=7))
        .map(|client| {
            let (read, compares, writes) = (some(rng, 2), some(rng, 1), some(rng, 2));
            let answer = Answer {
                committed: compares.is_empty() || rng.random_bool(0.5),
                read: read.iter().map(|(_, value)| *value).collect(),
            };
            let reads = read.into_iter().map(|(key, _)| key).collect();
            let called = rng.random_range(0..12);
            let returned = rng.random_bool(0.55).then(|| (called + rng.random_range(0..8), answer));
            Operation { client, input: Transaction { reads, compares, writes }, called, returned }
        })
        .collect()
}

fn agrees_with_trying_all<M: Model>(model: &M, tiny: impl Fn(&mut StdRng) -> Vec<OpOf<M>>) {
    let mut good = 0;
    for seed in 0..8_000 {
        let operations = tiny(&mut Seed(seed).stream("tiny"));
        let (verdict, explained) = (check(model, &operations), is_explained(model, &operations));
        assert_eq!(verdict.is_linearizable(), explained, "seed {seed}: {verdict}\n{operations:#?}");
        good += u32::from(explained);
    }
    assert!((800..7_200).contains(&good), "{good} of 8,000 are good");
}

#[test]
fn of_tiny_register_histories_the_search_says_what_trying_every_order_says() {
    agrees_with_trying_all(&Registers, tiny_register);
}

#[test]
fn of_tiny_transaction_histories_the_search_says_what_trying_every_order_says() {
    agrees_with_trying_all(&Store, tiny_transactions);
}

/// As of a minute of storms on one hot key: a third of all writes unknown.
#[test]
fn hundreds_of_unknown_outcomes_on_one_key_are_decided() {
    for seed in 0..3 {
        let shape = Shape { operations: 2_000, keys: 1, clients: 25, unknown_per_mille: 200 };
        let mut operations = generate(&mut Seed(seed).stream("history"), &shape);
        let verdict = check(&Registers, &operations);
        assert!(verdict.is_linearizable(), "seed {seed}: {verdict}");
        let spoilt = (0..operations.len())
            .rev()
            .filter(|&index| matches!(operations[index].returned, Some((_, Output::Found(_)))))
            .find_map(|index| Some((index, stale_value(&operations, &operations[index])?)));
        let (index, stale) = spoilt.unwrap();
        operations[index].returned.as_mut().unwrap().1 = Output::Found(Some(stale));
        let verdict = check(&Registers, &operations);
        assert!(matches!(verdict, Verdict::NotLinearizable(_)), "seed {seed}: {verdict}");
    }
}

/// Issue 3's bound: 10,000 operations on 20 keys with 1 % unknown within 10 s, good or bad.
#[test]
#[allow(clippy::disallowed_methods, reason = "how long the checker takes is the test")]
fn ten_thousand_operations_are_decided_within_ten_seconds() {
    let shape = Shape { operations: 10_000, keys: 20, clients: 20, unknown_per_mille: 10 };
    for seed in 0..3 {
        let mut operations = generate(&mut Seed(seed).stream("history"), &shape);
        let start = std::time::Instant::now();
        let verdict = check(&Registers, &operations);
        assert!(verdict.is_linearizable(), "seed {seed}: {verdict}");
        assert!(start.elapsed() < Duration::from_secs(10), "seed {seed}: good took {:?}", start.elapsed());
        let (index, stale) = (0..operations.len())
            .rev()
            .filter(|&index| matches!(operations[index].returned, Some((_, Output::Found(_)))))
            .find_map(|index| Some((index, stale_value(&operations, &operations[index])?)))
            .unwrap();
        operations[index].returned.as_mut().unwrap().1 = Output::Found(Some(stale));
        let start = std::time::Instant::now();
        let verdict = check(&Registers, &operations);
        assert!(matches!(verdict, Verdict::NotLinearizable(_)), "seed {seed}: {verdict}");
        assert!(start.elapsed() < Duration::from_secs(10), "seed {seed}: bad took {:?}", start.elapsed());
    }
}

fn transaction(
    reads: &[&str],
    compares: &[(&str, Option<u64>)],
    writes: &[(&str, Option<u64>)],
) -> Transaction {
    let pairs = |pairs: &[(&str, Option<u64>)]| {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), value.map(Value))).collect()
    };
    Transaction {
        reads: reads.iter().map(|key| (*key).to_owned()).collect(),
        compares: pairs(compares),
        writes: pairs(writes),
    }
}

fn committed(
    client: u64,
    input: Transaction,
    times: (u64, u64),
    read: &[Option<u64>],
) -> Operation<Transaction, Answer> {
    let read = read.iter().map(|value| value.map(Value)).collect();
    Operation { client, input, called: times.0, returned: Some((times.1, Answer { committed: true, read })) }
}

#[test]
fn half_a_transaction_is_never_seen() {
    let both = committed(1, transaction(&[], &[], &[("a", Some(1)), ("b", Some(1))]), (0, 9), &[]);
    let read = |values: &[Option<u64>]| committed(2, transaction(&["a", "b"], &[], &[]), (3, 4), values);
    let verdict = |values: &[Option<u64>]| check(&Store, &[both.clone(), read(values)]).is_linearizable();
    assert!(verdict(&[None, None]));
    assert!(verdict(&[Some(1), Some(1)]));
    assert!(!verdict(&[Some(1), None]));
    // Two reads of one key each are held together by the transaction.
    let a = committed(2, transaction(&["a"], &[], &[]), (3, 4), &[Some(1)]);
    let b = committed(2, transaction(&["b"], &[], &[]), (5, 6), &[None]);
    assert!(!check(&Store, &[both, a, b]).is_linearizable());
}

#[test]
fn write_skew_is_found() {
    // Each saw the other's key empty and wrote its own: fine alone, impossible together.
    let first = committed(1, transaction(&[], &[("a", None)], &[("b", Some(1))]), (0, 9), &[]);
    let second = committed(2, transaction(&[], &[("b", None)], &[("a", Some(2))]), (0, 9), &[]);
    assert!(check(&Store, std::slice::from_ref(&first)).is_linearizable());
    assert!(!check(&Store, &[first, second]).is_linearizable());
}

#[test]
fn transactions_in_a_row_are_good() {
    let mut rng = Seed(1).stream("transactions");
    let mut contents = Contents::new();
    let operations: Vec<_> = (0..500)
        .map(|index| {
            let key = |rng: &mut StdRng| format!("{}", rng.random_range(0..6));
            let (read, compared, written) = (key(&mut rng), key(&mut rng), key(&mut rng));
            let expected = if rng.random_bool(0.8) { contents.get(&compared).copied() } else { None };
            let input = Transaction {
                reads: vec![read],
                compares: vec![(compared, expected)],
                writes: vec![(written, rng.random_bool(0.8).then_some(Value(index)))],
            };
            let answer = input.apply(&mut contents);
            Operation {
                client: index % 7,
                input,
                called: 10 * index,
                returned: Some((10 * index + 25, answer)),
            }
        })
        .collect();
    let verdict = check(&Store, &operations);
    assert!(verdict.is_linearizable(), "{verdict}");
}
