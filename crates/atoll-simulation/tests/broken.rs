//! Does the simulation find anything? Atoll is broken on purpose, one rule at a time
//! ([`Broken`]), and a checker must notice, one of those that judge sound runs too. The
//! score is in `docs/testing.md`.
//!
//! A test runs seed after seed, once with Atoll whole, when nothing may be said, and once
//! broken, until the checker speaks. To search for more than a few:
//!
//! ```text
//! ATOLL_SEED=0..200 cargo nextest run --release -p atoll-simulation --features broken --test broken --no-capture
//! ```
#![cfg(any(debug_assertions, feature = "broken"))]

mod chunk_storm;
mod logs;
mod one_shard;

#[path = "broken/clusters.rs"]
mod clusters;
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

/// Seeds that a test tries. Whatever changes a run's schedule changes which seed shows a
/// fault; a fault that one seed in three shows is found in twelve in 99 of 100 cases.
const SEEDS: u64 = 12;

/// Breaks a rule in the runs of a scenario until the checker speaks; the sound runs of the
/// same seeds pass.
fn is_caught(rule: Broken, scenario: Scenario, checker: &str) {
    logs::if_asked();
    let seeds = seeds(0..SEEDS);
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

/// One node's chunk packs, beside a model of what they hold.
fn chunks(seed: Seed) -> Judgement {
    chunk_storm::storm(seed).0
}

macro_rules! cases {
    ($($name:ident: $rule:ident, $scenario:path, $checker:literal;)*) => {
        $(
            #[test]
            fn $name() {
                is_caught(Broken::$rule, $scenario, $checker);
            }
        )*
    };
}

cases! {
    a_retry_under_another_id_is_found: RetryAsAnother, records::partitions, "linearizability";
    a_transaction_done_twice_is_found: DoneTwice, records::partitions, "linearizability";
    results_forgotten_too_early_are_found: ForgetResults, records::partitions, "linearizability";
    a_commit_by_the_leader_alone_is_found: CommitAlone, records::depositions, "linearizability";
    an_acknowledgement_before_the_flush_is_found: AckBeforeFlush, records::blackouts, "linearizability";
    a_promise_before_the_flush_is_found: PromiseBeforeFlush, records::blackouts, "replicas";
    a_state_stored_in_two_steps_is_found: TornState, records::blackouts, "replicas";
    a_note_that_is_not_looked_at_is_found: NoteIgnored, records::shortened_log, "linearizability";
    damage_taken_for_the_logs_end_is_found: CutAtDamage, records::damaged_log, "linearizability";
    a_vote_with_a_damaged_log_is_found: DamagedVotes, records::shortened_log, "liveness";
    a_read_without_a_round_is_found: ReadWithoutRound, records::depositions, "linearizability";
    a_read_of_what_is_not_applied_yet_is_found: ReadBeforeApplied, records::busy, "linearizability";
    a_forgotten_vote_is_found: ForgetVote, records::elections, "raft";
    a_vote_of_an_emptied_disk_is_found: EmptyVotes, records::emptied_disk, "linearizability";
    a_leader_that_cannot_read_its_state_is_found: UnreadableStays, records::unreadable_state, "liveness";
    a_vote_of_an_old_disk_is_found: OldDiskVotes, records::old_disk, "linearizability";
    a_log_trimmed_before_the_store_is_flushed_is_found: TrimUnflushed, records::checkpoint, "replicas";
    a_snapshot_without_results_is_found: SnapshotWithoutResults, records::replacement, "replicas";
    a_stamp_that_goes_back_is_found: StampBack, records::clocks, "stamps";
    an_unverified_chunk_is_found: ServeUnverified, chunks, "chunks";
    a_chunk_acknowledged_before_its_flush_is_found: ChunkUnflushed, chunks, "chunks";
    a_pack_without_a_durable_name_is_found: NameNotFlushed, chunks, "chunks";
    an_index_stored_in_two_steps_is_found: TornIndex, chunks, "chunks";
    a_removal_that_is_not_written_is_found: RemovalUnwritten, chunks, "chunks";
    a_stamp_that_is_not_raised_is_found: StampNotRaised, chunks, "chunks";
    a_removal_that_does_not_look_again_is_found: RemoveUnseen, chunks, "chunks";
    a_commit_that_does_not_look_at_its_stamps_is_found: EpochUnchecked, clusters::sweeps, "references";
    a_sweep_that_takes_too_much_is_found: ReclaimEarly, clusters::sweeps, "references";
    a_sweep_that_does_not_see_uploads_is_found: PartsUnreferenced, clusters::sweeps, "references";
    a_sweep_that_takes_nothing_is_found: GarbageKept, clusters::sweeps, "garbage";
    a_put_content_with_one_holder_is_found: OneHolder, clusters::full_disks, "references";
    a_move_that_copies_nothing_is_found: MoveWithoutCopy, clusters::relocation, "references";
    a_write_under_an_old_layout_is_found: StaleWrite, clusters::late_writers, "references";
    copies_dropped_before_the_final_pass_are_found: FinalPassSkipped, clusters::slow_holders, "references";
    copies_that_nobody_restores_are_found: NoRepair, clusters::absence, "copies";
    a_completed_upload_that_is_forgotten_is_found: CompletionForgotten, clusters::lost_answers, "uploads";
    a_key_dropped_at_a_pages_border_is_found: ListBorder, clusters::calm, "listings";
    a_deleted_object_in_the_index_is_found: CurrentLeft, clusters::calm, "listings";
    a_write_to_a_bucket_that_is_gone_is_found: AnyRange, clusters::another_bucket, "linearizability";
    a_lease_cut_short_is_found: LeaseCutShort, records::locks, "locks";
    a_lost_epoch_is_found: EpochLost, records::locks, "locks";
}

/// The switch can be seen in a binary that has it; `docs/testing.md` says how one looks
/// that a release has it not.
#[test]
fn a_build_with_the_switch_shows_it() {
    let binary = std::fs::read(std::env::current_exe().unwrap()).unwrap();
    let marker = broken::MARKER.as_bytes();
    assert!(binary.windows(marker.len()).any(|bytes| bytes == marker));
}
