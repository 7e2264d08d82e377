//! Does the simulation find anything? Atoll is broken on purpose, one rule at a time
//! ([`Broken`]), and a checker must notice, one of those that judge sound runs too. The
//! score is in `docs/testing.md`.
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
use atoll_simulation::{Seed, checkers::Judgement, seeds};

type Scenario = fn(Seed) -> Judgement;

/// The judgement of a run in which a rule is broken; `None` if the run itself failed.
fn broken_run(scenario: Scenario, seed: Seed, rule: Broken) -> Option<Judgement> {
    let run = AssertUnwindSafe(|| {
        let _on = rule.switched_on();
        scenario(seed)
    });
    catch_unwind(run).ok()
}

/// Breaks a rule in the runs of a scenario until the checker speaks, which it does at
/// seed `first`; the sound runs of the same seeds pass.
fn is_caught(rule: Broken, scenario: Scenario, checker: &str, first: u64) {
    logs::if_asked();
    let seeds = seeds(first..first + 1);
    let mut heard = Vec::new();
    for &seed in &seeds {
        let sound = scenario(seed);
        assert!(sound.is_sound(), "seed {seed}: nothing is broken, and yet: {sound}");
        let judgement = broken_run(scenario, seed, rule);
        if judgement.as_ref().is_some_and(|judgement| judgement.is_found_by(checker)) {
            println!("{rule:?}: {checker} finds it at seed {}", seed.0);
            return;
        }
        heard.push(match judgement {
            Some(judgement) => judgement.findings.iter().map(|finding| finding.checker).collect(),
            None => vec!["the run failed"],
        });
    }
    panic!("{rule:?}: {checker} did not find it in {} seeds; heard were {heard:?}", seeds.len());
}

macro_rules! cases {
    ($($name:ident: $rule:ident, $scenario:path, $checker:literal, $first:literal;)*) => {
        $(
            #[test]
            fn $name() {
                is_caught(Broken::$rule, $scenario, $checker, $first);
            }
        )*
    };
}

cases! {
    a_retry_under_another_id_is_found: RetryAsAnother, records::partitions, "linearizability", 0;
    a_transaction_done_twice_is_found: DoneTwice, records::partitions, "linearizability", 0;
    results_forgotten_too_early_are_found: ForgetResults, records::partitions, "linearizability", 0;
    a_commit_by_the_leader_alone_is_found: CommitAlone, records::depositions, "linearizability", 1;
    an_acknowledgement_before_the_flush_is_found: AckBeforeFlush, records::blackouts, "linearizability", 0;
    a_promise_before_the_flush_is_found: PromiseBeforeFlush, records::blackouts, "replicas", 1;
    a_state_stored_in_two_steps_is_found: TornState, records::blackouts, "replicas", 0;
    a_note_that_is_not_looked_at_is_found: NoteIgnored, records::shortened_log, "linearizability", 0;
    damage_taken_for_the_logs_end_is_found: CutAtDamage, records::damaged_log, "linearizability", 0;
    a_vote_with_a_damaged_log_is_found: DamagedVotes, records::shortened_log, "liveness", 0;
    a_vote_of_an_emptied_disk_is_found: EmptyVotes, records::emptied_disk, "linearizability", 0;
    a_vote_of_an_old_disk_is_found: OldDiskVotes, records::old_disk, "linearizability", 0;
    a_log_trimmed_before_the_store_is_flushed_is_found: TrimUnflushed, records::checkpoint, "replicas", 0;
    a_snapshot_without_results_is_found: SnapshotWithoutResults, records::replacement, "replicas", 0;
    a_stamp_that_goes_back_is_found: StampBack, records::clocks, "stamps", 3;
    a_lease_cut_short_is_found: LeaseCutShort, records::locks, "locks", 0;
    a_lost_epoch_is_found: EpochLost, records::locks, "locks", 0;
}

/// The switch can be seen in a binary that has it; `docs/testing.md` says how one looks
/// that a release has it not.
#[test]
fn a_build_with_the_switch_shows_it() {
    let binary = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let marker = broken::MARKER.as_bytes();
    assert!(binary.windows(marker.len()).any(|bytes| bytes == marker));
}
