//! A node's clocks, which may be wrong: the wall clock set off and jumping, and both running
//! too fast or too slow, for they count the swings of one crystal.

use std::time::Duration;

use atoll_types::{Instant, WallTime};

/// The world's true wall time at virtual time zero: 2025-01-01T00:00:00Z. Any value
/// would do that is not so small that a clock set back falls below zero.
const EPOCH_MILLIS: i128 = 1_735_689_600_000;

pub(crate) struct NodeClock {
    /// Where the present drift began, in virtual time, by the monotonic clock, and by the
    /// wall clock.
    since: Instant,
    monotonic: Instant,
    wall_nanos: i128,
    drift_ppm: i64,
}

impl NodeClock {
    pub(crate) fn right() -> Self {
        Self {
            since: Instant::ORIGIN,
            monotonic: Instant::ORIGIN,
            wall_nanos: EPOCH_MILLIS * 1_000_000,
            drift_ppm: 0,
        }
    }

    /// What the clocks count from `since` to `now`.
    fn counted(&self, now: Instant) -> i128 {
        let passed = i128::from(now.as_nanos()) - i128::from(self.since.as_nanos());
        passed + passed * i128::from(self.drift_ppm) / 1_000_000
    }

    pub(crate) fn wall(&self, now: Instant) -> WallTime {
        WallTime::from_millis(((self.wall_nanos + self.counted(now)) / 1_000_000).max(0) as u64)
    }

    pub(crate) fn monotonic(&self, now: Instant) -> Instant {
        Instant::from_nanos(self.monotonic.as_nanos().saturating_add_signed(self.counted(now) as i64))
    }

    /// When the monotonic clock will show `shown` at the earliest, if its drift stays.
    pub(crate) fn when(&self, shown: Instant) -> Instant {
        if self.drift_ppm == 0 && self.since == self.monotonic {
            return shown;
        }
        let to_count = i128::from(shown.as_nanos()) - i128::from(self.monotonic.as_nanos());
        let passed = to_count * 1_000_000 / (1_000_000 + i128::from(self.drift_ppm));
        let nanos = (i128::from(self.since.as_nanos()) + passed).clamp(0, i128::from(u64::MAX));
        let mut at = Instant::from_nanos(nanos as u64);
        // Divisions cut off.
        while at < Instant::from_nanos(u64::MAX) && self.monotonic(at) < shown {
            at = Instant::from_nanos(at.as_nanos() + 1);
        }
        at
    }

    /// Moves the wall clock at once, as an operator or a careless time daemon would.
    pub(crate) fn jump(&mut self, by: Duration, forward: bool) {
        let by = by.as_nanos() as i128;
        self.wall_nanos += if forward { by } else { -by };
    }

    /// From `now` on the clocks run this many millionths too fast. What they show now
    /// does not change.
    pub(crate) fn drift(&mut self, now: Instant, ppm: i64) {
        (self.monotonic, self.wall_nanos) = (self.monotonic(now), self.wall_nanos + self.counted(now));
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
        let mut clock = NodeClock::right();
        let start = clock.wall(Instant::ORIGIN);
        clock.drift(Instant::ORIGIN, 1000);
        let later = Instant::ORIGIN + HOUR;
        assert_eq!(clock.wall(later).saturating_since(start), Duration::from_millis(3_603_600));
        assert_eq!(clock.monotonic(later), Instant::ORIGIN + Duration::from_millis(3_603_600));
        clock.drift(later, -1000);
        assert_eq!(clock.wall(later).saturating_since(start), Duration::from_millis(3_603_600));
        assert_eq!(clock.monotonic(later), Instant::ORIGIN + Duration::from_millis(3_603_600));
        assert_eq!(clock.wall(later + HOUR).saturating_since(start), Duration::from_millis(7_200_000));
        assert_eq!(clock.monotonic(later + HOUR), Instant::ORIGIN + 2 * HOUR);
    }

    #[test]
    fn a_clock_jumps_both_ways_and_the_monotonic_one_does_not() {
        let mut clock = NodeClock::right();
        let start = clock.wall(Instant::ORIGIN);
        clock.jump(HOUR, true);
        assert_eq!(clock.wall(Instant::ORIGIN).saturating_since(start), HOUR);
        clock.jump(2 * HOUR, false);
        assert_eq!(start.saturating_since(clock.wall(Instant::ORIGIN)), HOUR);
        assert_eq!(clock.monotonic(Instant::ORIGIN + HOUR), Instant::ORIGIN + HOUR);
    }

    #[test]
    fn what_the_monotonic_clock_will_show_it_shows_then_and_not_before() {
        let mut clock = NodeClock::right();
        for (hours, ppm) in [(0, 0), (1, 9_973), (2, -9_967), (3, 0), (4, 1)] {
            let now = Instant::ORIGIN + hours * HOUR;
            clock.drift(now, ppm);
            for nanos in [1, 999, 1_000_000_007, 123_456_789_123] {
                let shown = clock.monotonic(now) + Duration::from_nanos(nanos);
                let at = clock.when(shown);
                assert!(clock.monotonic(at) >= shown, "{ppm} {nanos}");
                assert!(clock.monotonic(Instant::from_nanos(at.as_nanos() - 1)) < shown, "{ppm} {nanos}");
            }
        }
    }
}
