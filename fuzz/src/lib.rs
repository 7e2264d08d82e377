//! Mutations of seeds: how ordinary tests run the fuzz targets, a few thousand inputs each, the
//! same ones every time. What guides `cargo xtask fuzz` is coverage instead (`main.rs`).
//!
//! A target is a function of bytes, in the crate whose decoder it calls (`fuzz.rs` there): it
//! panics if something does not hold. It is compiled into tests and with `--cfg fuzzing` only.

use std::panic::{AssertUnwindSafe, catch_unwind};

use rand::{Rng, SeedableRng, rngs::StdRng};

/// Some tenths of a second for most targets, in a debug build.
const MUTATIONS: usize = 4_000;
/// Changes that one mutation makes at most.
const CHANGES_MAX: usize = 6;
/// What lengths and numbers break at.
const EDGES: [u8; 8] = [0, 1, 0x7f, 0x80, 0xff, b'"', b'\r', b'\n'];

/// Runs a target over its seeds, and over what becomes of them.
///
/// # Panics
/// If the target does; the input is in the message, to be kept as a test.
pub fn exercise(target: fn(&[u8]), seeds: Vec<Vec<u8>>) {
    exercise_times(target, seeds, MUTATIONS);
}

/// [`exercise`], for targets that take longer.
pub fn exercise_times(target: fn(&[u8]), seeds: Vec<Vec<u8>>, mutations: usize) {
    assert!(!seeds.is_empty(), "a target without seeds");
    let try_out = |bytes: &[u8]| {
        if catch_unwind(AssertUnwindSafe(|| target(bytes))).is_err() {
            panic!("the target does not hold for b\"{}\"", bytes.escape_ascii());
        }
    };
    try_out(&[]);
    seeds.iter().for_each(|seed| try_out(seed));
    let mut rng = StdRng::seed_from_u64(1);
    for round in 0..mutations {
        let mut bytes = seeds[round % seeds.len()].clone();
        for _ in 0..rng.random_range(1..=CHANGES_MAX) {
            change(&mut bytes, &seeds, &mut rng);
        }
        try_out(&bytes);
    }
}

fn change(bytes: &mut Vec<u8>, seeds: &[Vec<u8>], rng: &mut StdRng) {
    let edge = EDGES[rng.random_range(0..EDGES.len())];
    if bytes.is_empty() {
        bytes.push(edge);
        return;
    }
    let at = rng.random_range(0..bytes.len());
    let to = rng.random_range(at..=bytes.len().min(at + 64));
    match rng.random_range(0..8) {
        0 => bytes[at] ^= 1 << rng.random_range(0..8),
        1 => bytes[at] = rng.random(),
        2 => bytes[at] = edge,
        3 => bytes.insert(at, edge),
        4 => bytes.truncate(at),
        5 => drop(bytes.drain(at..to)),
        6 => {
            let again = bytes[at..to].to_vec();
            bytes.splice(at..at, again);
        }
        _ => {
            let other = &seeds[rng.random_range(0..seeds.len())];
            let from = rng.random_range(0..=other.len());
            bytes.splice(at.., other[from..].iter().copied());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "does not hold for b\"")]
    fn a_target_that_fails_for_few_inputs_is_found_and_its_input_told() {
        exercise(|bytes| assert!(!bytes.starts_with(b"so!")), vec![b"some".to_vec(), b"so!".to_vec()]);
    }

    #[test]
    fn mutations_are_many_and_the_same_every_time() {
        let run = || {
            let (mut rng, seeds) = (StdRng::seed_from_u64(1), [b"seed".to_vec(), b"another".to_vec()]);
            let mut all = std::collections::BTreeSet::new();
            for round in 0..1_000 {
                let mut bytes = seeds[round % seeds.len()].clone();
                change(&mut bytes, &seeds, &mut rng);
                all.insert(bytes);
            }
            all
        };
        assert!(run().len() > 200);
        assert_eq!(run(), run());
    }
}
