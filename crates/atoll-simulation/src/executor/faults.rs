//! What the world does to nodes: crashes, pauses, and clocks that are wrong.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use super::{Core, NodeIndex, TaskId};
use crate::{Stalls, trace::Event};

/// Breaks nodes. May be used from the world's tasks; what it drops is dropped before the
/// next step.
#[derive(Clone)]
pub struct Faults {
    pub(super) core: Weak<Core>,
}

impl Faults {
    fn core(&self) -> Arc<Core> {
        self.core.upgrade().expect("the simulation is running")
    }

    /// Drops all of the node's tasks. What they held is gone; what they told the disk's
    /// twin is the twin's affair.
    ///
    /// # Panics
    /// If it is the world.
    pub fn crash(&self, node: NodeIndex) {
        assert_ne!(node, NodeIndex::WORLD, "the world does not crash");
        let core = self.core();
        {
            let mut state = core.state();
            let state = &mut *state;
            state.trace.record(state.now, Event::Crash, node.0 as u64);
            let place = &mut state.nodes[node.0];
            place.incarnation += 1;
            place.paused = false;
            place.backlog.clear();
            let ids: Vec<TaskId> =
                state.tasks.iter().filter(|(_, task)| task.node == node).map(|(&id, _)| id).collect();
            for id in ids {
                state.wreckage.extend(state.tasks.remove(&id).and_then(|task| task.future));
            }
        }
        let polling = core.state().polling;
        if !polling {
            core.clear_wreckage();
        }
    }

    /// Nothing on the node runs until it is resumed, while time goes on: a long stall.
    pub fn pause(&self, node: NodeIndex) {
        let core = self.core();
        let mut state = core.state();
        let state = &mut *state;
        state.trace.record(state.now, Event::Pause, node.0 as u64);
        state.nodes[node.0].paused = true;
    }

    pub fn resume(&self, node: NodeIndex) {
        let core = self.core();
        let mut state = core.state();
        let state = &mut *state;
        state.trace.record(state.now, Event::Resume, node.0 as u64);
        state.nodes[node.0].paused = false;
        let backlog = std::mem::take(&mut state.nodes[node.0].backlog);
        state.ready.extend(backlog);
    }

    /// The node's processors are busy from now on: single pieces of what it runs off the async
    /// threads are late.
    pub fn keep_busy(&self, node: NodeIndex, busy: Stalls) {
        self.core().state().nodes[node.0].busy = busy;
    }

    /// Sets the node's wall clock forward (or back) at once.
    pub fn jump_clock(&self, node: NodeIndex, by: Duration, forward: bool) {
        self.core().state().nodes[node.0].clock.jump(by, forward);
    }

    /// Makes the node's clocks run `ppm` millionths too fast (or too slow) from now on.
    pub fn drift_clock(&self, node: NodeIndex, ppm: i64) {
        let core = self.core();
        let mut state = core.state();
        let now = state.now;
        state.nodes[node.0].clock.drift(now, ppm);
    }
}
