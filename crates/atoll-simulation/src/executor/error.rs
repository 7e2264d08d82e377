//! Why a run ended where it should not have.

use std::{fmt, time::Duration};

use atoll_types::Instant;

use super::STEPS_PER_INSTANT_MAX;
use crate::Seed;

/// Why a run did not get where it should. Each says when, and with which seed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunError {
    pub seed: Seed,
    pub at: Instant,
    pub reason: StopReason,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopReason {
    /// A task panicked. In a real process that is a bug wherever it happens.
    Panicked { node: String, task: &'static str, message: String },
    /// Nothing is ready and no timer is set, so nothing will ever happen again.
    Deadlock { waiting: Vec<String> },
    /// The condition did not come true in time.
    LimitReached { limit: Duration },
    /// Tasks keep waking each other and time stands still.
    Stuck { busy: Vec<String> },
    /// A node ended by itself, on a disk that never lied.
    GaveUp { node: String, reason: String },
    /// Something woke a task from outside of the simulation's thread.
    ForeignThread,
}

impl fmt::Display for RunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {}, at {:?}: ", self.seed, self.at - Instant::ORIGIN)?;
        match &self.reason {
            StopReason::Panicked { node, task, message } => {
                write!(f, "task {task} of node {node} panicked: {message}")
            }
            StopReason::Deadlock { waiting } => {
                write!(f, "deadlock: nothing is ready and no timer is set; waiting: {}", waiting.join(", "))
            }
            StopReason::GaveUp { node, reason } => {
                write!(f, "node {node} gave up, and its disk is sound: {reason}")
            }
            StopReason::LimitReached { limit } => write!(f, "not within {limit:?}"),
            StopReason::Stuck { busy } => {
                write!(
                    f,
                    "time stands still: {STEPS_PER_INSTANT_MAX} steps in one instant; busy: {}",
                    busy.join(", ")
                )
            }
            StopReason::ForeignThread => {
                write!(f, "a task was woken from another thread, the run is not deterministic")
            }
        }
    }
}

impl std::error::Error for RunError {}
