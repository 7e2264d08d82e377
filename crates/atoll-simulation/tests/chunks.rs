//! Chunk packs in crash storms: what was answered for survives. That broken packs are
//! found: `tests/broken`.
//!
//! One seed: `ATOLL_SEED=0x2a cargo nextest run -p atoll-simulation --test chunks`.

mod chunk_storm;

use atoll_simulation::seeds;

#[test]
fn chunks_and_stamps_that_were_answered_for_survive_every_crash() {
    let mut acknowledged = 0;
    for seed in seeds(0..40) {
        let (judgement, answered) = chunk_storm::storm(seed);
        assert!(judgement.is_sound(), "{judgement}\nreplay with ATOLL_SEED={seed}");
        acknowledged += answered;
    }
    assert!(acknowledged > 5_000, "a storm in which hardly anything happened: {acknowledged}");
}
