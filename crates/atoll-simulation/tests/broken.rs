//! Does the simulation find anything? Atoll is broken on purpose, one rule at a time
//! ([`Broken`]), and a checker must notice, of those that judge sound runs too: the words
//! it says are part of each case. The score is in `docs/testing.md`.
//!
//! A test replays a seed that is known to show its fault, and the same seed with Atoll
//! whole, in which nothing may be said. To search for seeds:
//!
//! ```text
//! ATOLL_SEED=0..200 cargo nextest run --release -p atoll-simulation --features broken --test broken --no-capture
//! ```
#![cfg(any(debug_assertions, feature = "broken"))]

mod logs;
mod one_shard;

#[path = "broken/records.rs"]
mod records;

use std::panic::{AssertUnwindSafe, catch_unwind};

use atoll_runtime::{Broken, broken};
use atoll_simulation::{Seed, seeds};

/// What judges a run, and the words by which its complaint is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Checker {
    /// `linearizability.rs`
    Linearizability,
    /// Replicas that applied the same entries hold the same.
    ReplicasAgree,
    /// Stamps follow the order of commits.
    StampOrder,
    /// A lock has one holder at a time.
    OneHolder,
    /// The epochs of a lock grow.
    EpochsGrow,
}

impl Checker {
    fn words(self) -> &'static str {
        match self {
            Checker::Linearizability => "not linearizable",
            Checker::ReplicasAgree => "replicas differ",
            Checker::StampOrder => "a stamp went back",
            Checker::OneHolder => "a lock has two holders",
            Checker::EpochsGrow => "an epoch did not grow",
        }
    }
}

/// What a checker says of this run, if one speaks.
fn complaint(scenario: fn(Seed), seed: Seed, broken: Option<Broken>) -> Option<String> {
    let panic = catch_unwind(AssertUnwindSafe(|| {
        let _on = broken.map(Broken::switched_on);
        scenario(seed);
    }));
    let panic = panic.err()?;
    let message = panic.downcast_ref::<String>().cloned();
    Some(message.or(panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default())
}

/// Breaks a rule in the runs of a scenario until a checker says its words, at `first` at
/// the latest; the sound runs up to there pass.
fn is_caught(rule: Broken, scenario: fn(Seed), checker: Checker, first: u64) {
    logs::if_asked();
    let seeds = seeds(first..first + 1);
    let mut others = Vec::new();
    for &seed in &seeds {
        if let Some(words) = complaint(scenario, seed, None) {
            panic!("seed {seed}: nothing is broken, and yet: {words}");
        }
        let words = complaint(scenario, seed, Some(rule));
        match words {
            Some(words) if words.contains(checker.words()) => {
                println!("{rule:?}: {checker:?} finds it at seed {seed}");
                return;
            }
            Some(words) => others.push(format!("{seed}: {}", words.lines().next().unwrap_or_default())),
            None => {}
        }
    }
    panic!("{rule:?}: {checker:?} did not find it in {} seeds; others said {others:#?}", seeds.len());
}

macro_rules! cases {
    ($($name:ident: $rule:ident, $scenario:path, $checker:ident, $first:literal;)*) => {
        $(
            #[test]
            fn $name() {
                is_caught(Broken::$rule, $scenario, Checker::$checker, $first);
            }
        )*
    };
}

cases! {
    a_retry_under_another_id_is_found: RetryAsAnother, records::partitions, Linearizability, 0;
    a_transaction_done_twice_is_found: DoneTwice, records::partitions, Linearizability, 0;
    results_forgotten_too_early_are_found: ForgetResults, records::partitions, Linearizability, 0;
    a_commit_by_the_leader_alone_is_found: CommitAlone, records::depositions, Linearizability, 0;
    an_acknowledgement_before_the_flush_is_found: AckBeforeFlush, records::blackouts, Linearizability, 1;
    a_promise_before_the_flush_is_found: PromiseBeforeFlush, records::blackouts, Linearizability, 5;
    a_state_stored_in_two_steps_is_found: TornState, records::blackouts, Linearizability, 0;
    a_note_that_is_not_looked_at_is_found: NoteIgnored, records::shortened_log, Linearizability, 5;
    damage_taken_for_the_logs_end_is_found: CutAtDamage, records::damaged_log, Linearizability, 5;
    a_vote_of_an_emptied_disk_is_found: EmptyVotes, records::emptied_disk, Linearizability, 0;
    a_vote_of_an_old_disk_is_found: OldDiskVotes, records::old_disk, Linearizability, 0;
    a_log_trimmed_before_the_store_is_flushed_is_found: TrimUnflushed, records::checkpoint, ReplicasAgree, 1;
    a_snapshot_without_results_is_found: SnapshotWithoutResults, records::replacement, ReplicasAgree, 0;
    a_stamp_that_goes_back_is_found: StampBack, records::clocks, StampOrder, 3;
    a_lease_cut_short_is_found: LeaseCutShort, records::locks, OneHolder, 0;
    a_lost_epoch_is_found: EpochLost, records::locks, EpochsGrow, 0;
}

/// The switch can be seen in a binary that has it; `docs/testing.md` says how one looks
/// that a release has it not.
#[test]
fn a_build_with_the_switch_shows_it() {
    let binary = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let marker = broken::MARKER.as_bytes();
    assert!(binary.windows(marker.len()).any(|bytes| bytes == marker));
}
