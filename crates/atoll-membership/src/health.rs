//! Local health: how much a node trusts its own ears.
//!
//! A node that is starved of CPU, or whose own link is bad, hears no answers and would
//! call healthy others dead. Lifeguard's remedy (Dadgar, Phillips, Currey, "Lifeguard:
//! Local Health Awareness for More Accurate Failure Detection", DSN-W 2018, section IV.A)
//! is a counter that evidence against oneself raises and success lowers; the node's
//! periods and time-outs are multiplied by it. foca has no such thing, but its timers pass
//! through our driver, which stretches them.
//!
//! Evidence here: a timer of our own fired late; two different members in a row did not
//! answer; somebody suspects us. Lifeguard also counts each single unanswered probe for
//! which helpers sent a "nack"; foca's helpers send none, and without them one dead member
//! would slow the detection of itself, so a single member's silence counts for nothing.
//! Lifeguard's shrinking suspicion time-out is left out: it matters where many small
//! machines share one overloaded network.

use std::time::Duration;

use atoll_types::NodeId;

/// Lifeguard's S: at worst, probes come and suspicions last nine times as long.
const WORST: u32 = 8;

#[derive(Debug, Default)]
pub(crate) struct LocalHealth {
    score: u32,
    last_silent: Option<NodeId>,
}

impl LocalHealth {
    pub(crate) fn score(&self) -> u32 {
        self.score
    }

    pub(crate) fn stretch(&self, duration: Duration) -> Duration {
        duration * (1 + self.score)
    }

    fn worse(&mut self) {
        self.score = (self.score + 1).min(WORST);
    }

    pub(crate) fn probe_answered(&mut self) {
        self.score = self.score.saturating_sub(1);
        self.last_silent = None;
    }

    pub(crate) fn probe_unanswered(&mut self, member: NodeId) {
        if self.last_silent.is_some_and(|other| other != member) {
            self.worse();
        }
        self.last_silent = Some(member);
    }

    pub(crate) fn timer_was_late(&mut self) {
        self.worse();
    }

    pub(crate) fn suspected(&mut self) {
        self.worse();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_silent_member_is_its_own_fault_and_two_are_ours() {
        let (a, b) = (NodeId([1; 32]), NodeId([2; 32]));
        let mut health = LocalHealth::default();
        health.probe_unanswered(a);
        health.probe_unanswered(a);
        assert_eq!(health.score(), 0);
        health.probe_unanswered(b);
        assert_eq!(health.stretch(Duration::from_secs(1)), Duration::from_secs(2));
        health.probe_answered();
        assert_eq!(health.score(), 0);
    }

    #[test]
    fn health_has_a_bottom() {
        let mut health = LocalHealth::default();
        (0..100).for_each(|_| health.timer_was_late());
        assert_eq!(health.score(), WORST);
    }
}
