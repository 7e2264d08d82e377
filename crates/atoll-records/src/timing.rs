//! Raft's clock. With these, reads and writes go on within 3 s of the leader's death:
//! 1.8 s at most until the first candidate, and some milliseconds until it leads.

use std::time::Duration;

pub(crate) const TICK: Duration = Duration::from_millis(100);
/// 200 ms.
pub(crate) const HEARTBEAT_TICKS: usize = 2;
/// 1 s = 5 heartbeats: outlives a few lost ones and a stalled process. For as long after
/// a heartbeat a replica gives nobody else its vote, and a leader that heard of no
/// majority for as long steps down.
pub(crate) const ELECTION_TICKS: usize = 10;
/// 1.1 s: one tick past the others' refusal to vote, or the first try would be in vain.
pub(crate) const ELECTION_TICKS_MIN: usize = ELECTION_TICKS + 1;
/// 1.8 s; a candidate is drawn from 7 ticks, and two in the same tick are still 100 ms
/// of phase apart from each other as a rule.
pub(crate) const ELECTION_TICKS_MAX: usize = 18;

const _: () = assert!(ELECTION_TICKS >= 5 * HEARTBEAT_TICKS);
const _: () = assert!(ELECTION_TICKS_MAX > ELECTION_TICKS_MIN);
