//! Runs as `atoll simulate` makes them.

mod logs;

use std::time::Duration;

use atoll_simulation::{RunOptions, Seed, run};

fn short(seed: u64) -> RunOptions {
    RunOptions { duration: Duration::from_secs(8), nodes: 3, clients: 4, ..RunOptions::new(Seed(seed)) }
}

#[test]
fn a_run_tells_what_happened_and_the_same_options_are_the_same_run() {
    logs::if_asked();
    let report = run(&short(1));
    assert_eq!(report.failure(), None);
    assert!(report.storms >= 1 && report.virtual_seconds >= 8.0, "{report:?}");
    assert!(report.operations > 20, "{report:?}");
    let counted = report.outcomes.values().map(|outcomes| outcomes.answered + outcomes.unknown);
    assert_eq!(counted.sum::<u64>(), report.operations as u64);
    assert!(report.checks.iter().any(|check| check.name == "linearizability"), "{report:?}");
    assert_eq!(run(&short(1)), report);
    assert_ne!(run(&short(2)).trace, report.trace);
}
