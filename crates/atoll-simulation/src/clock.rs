//! A node's wall clock, which may be wrong: set off, drifting, jumping.

use std::time::Duration;

use atoll_types::{Instant, WallTime};

/// The world's true wall time at virtual time zero: 2025-01-01T00:00:00Z. Any value
/// would do that is not so small that a clock set back falls below zero.
const EPOCH_MILLIS: i128 = 1_735_689_600_000;

pub(crate) struct WallClock {
    /// Where the present drift began, in virtual time and in this clock's own.
    since: Instant,
    wall_nanos: i128,
    drift_ppm: i64,
}

impl WallClock {
    pub(crate) fn right() -> Self {
        Self { since: Instant::ORIGIN, wall_nanos: EPOCH_MILLIS * 1_000_000, drift_ppm: 0 }
    }

    fn nanos(&self, now: Instant) -> i128 {
        let passed = i128::from(now.as_nanos()) - i128::from(self.since.as_nanos());
        self.wall_nanos + passed + passed * i128::from(self.drift_ppm) / 1_000_000
    }

    pub(crate) fn now(&self, now: Instant) -> WallTime {
        WallTime::from_millis((self.nanos(now) / 1_000_000).max(0) as u64)
    }

    /// Moves the clock at once, as an operator or a careless time daemon would.
    pub(crate) fn jump(&mut self, by: Duration, forward: bool) {
        let by = by.as_nanos() as i128;
        self.wall_nanos += if forward { by } else { -by };
    }

    /// From `now` on the clock runs this many millionths too fast. What it shows now
    /// does not change.
    pub(crate) fn drift(&mut self, now: Instant, ppm: i64) {
        self.wall_nanos = self.nanos(now);
        self.since = now;
        self.drift_ppm = ppm;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn a_drifting_clock_shows_no_jump_when_its_drift_changes() {
        let mut clock = WallClock::right();
        let start = clock.now(Instant::ORIGIN);
        clock.drift(Instant::ORIGIN, 1000);
        let later = Instant::ORIGIN + HOUR;
        assert_eq!(clock.now(later).saturating_since(start), Duration::from_millis(3_603_600));
        clock.drift(later, -1000);
        assert_eq!(clock.now(later).saturating_since(start), Duration::from_millis(3_603_600));
        assert_eq!(clock.now(later + HOUR).saturating_since(start), Duration::from_millis(7_200_000));
    }

    #[test]
    fn a_clock_jumps_both_ways() {
        let mut clock = WallClock::right();
        let start = clock.now(Instant::ORIGIN);
        clock.jump(HOUR, true);
        assert_eq!(clock.now(Instant::ORIGIN).saturating_since(start), HOUR);
        clock.jump(2 * HOUR, false);
        assert_eq!(start.saturating_since(clock.now(Instant::ORIGIN)), HOUR);
    }
}
