//! Nodes that end by themselves, and what is done about it: a node halted at a fault point
//! is ended, one that gave up is started again, and one whose disk is beyond use gets an
//! empty one.
//!
//! A node may give up only where its disk lies ([`World::has_liar`]), or was full: anything
//! else is a failure of the run.

use std::{cell::Cell, sync::Arc, time::Duration};

use atoll_disk::{MemoryDisk, MemoryStore};
use atoll_types::Instant;
use rand::Rng;

use super::World;
use crate::{
    NodeIndex, RunError,
    executor::{StopReason, lock},
};

/// What happened to a node that the world must act on, once all is done at that instant.
#[derive(Debug)]
pub(super) enum Signal {
    PowerLost { node: NodeIndex },
    Killed { node: NodeIndex },
    GaveUp { index: usize, life: u64, reason: String, at_start: bool },
}

/// For a program to say that its node can't go on.
#[derive(Clone)]
pub struct GiveUp {
    pub(super) signals: Signals,
    pub(super) index: usize,
    pub(super) life: u64,
}

pub(super) type Signals = Arc<std::sync::Mutex<Vec<Signal>>>;

impl GiveUp {
    /// It refuses to start on what its disk holds.
    pub fn at_start(&self, reason: String) {
        self.say(reason, true);
    }

    /// It ran, and its disk failed.
    pub fn later(&self, reason: String) {
        self.say(reason, false);
    }

    fn say(&self, reason: String, at_start: bool) {
        lock(&self.signals).push(Signal::GaveUp { index: self.index, life: self.life, reason, at_start });
    }
}

/// A supervisor waits for a moment, and an operator is quick in virtual time.
const START_AGAIN: Duration = Duration::from_secs(2);

impl World {
    /// As [`World::run_for`], for who has something to say of a failure.
    pub fn go_on_for(&mut self, duration: Duration) -> Result<(), RunError> {
        self.supervise(|_| false, self.simulation.now() + duration).map(drop)
    }

    /// As [`World::run_until_within`], for who has something to say of a failure.
    pub fn go_on_until(
        &mut self,
        condition: impl Fn(&World) -> bool,
        limit: Duration,
    ) -> Result<(), RunError> {
        let deadline = self.simulation.now() + limit;
        if self.supervise(condition, deadline)? {
            return Ok(());
        }
        Err(self.failed(StopReason::LimitReached { limit }))
    }

    fn failed(&self, reason: StopReason) -> RunError {
        RunError { seed: self.seed(), at: self.simulation.now(), reason }
    }

    /// Runs to the deadline, or until `condition` holds, and says whether it does.
    fn supervise(&mut self, condition: impl Fn(&World) -> bool, deadline: Instant) -> Result<bool, RunError> {
        loop {
            let next_start = self.to_start.first_key_value().map(|((at, _), ())| *at);
            let met = Cell::new(false);
            let interrupt = || {
                met.set(condition(self));
                met.get() || !lock(&self.signals).is_empty()
            };
            self.simulation.run_while_not(interrupt, next_start.unwrap_or(deadline).min(deadline))?;
            let calm = lock(&self.signals).is_empty();
            if calm && (met.get() || self.simulation.now() >= deadline) {
                return Ok(met.get());
            }
            self.attend()?;
        }
    }

    fn attend(&mut self) -> Result<(), RunError> {
        let signals = std::mem::take(&mut *lock(&self.signals));
        for signal in signals {
            match signal {
                Signal::PowerLost { node } => {
                    if let Some(index) = self.running(node) {
                        self.crash(index);
                    }
                }
                Signal::Killed { node } => {
                    if let Some(index) = self.running(node) {
                        self.kill(index);
                    }
                }
                Signal::GaveUp { index, life, reason, at_start } => {
                    let machine = &self.machines[index];
                    if !machine.running || machine.lives != life + 1 {
                        continue;
                    }
                    let lies = self.liar == Some(index);
                    if !lies && !machine.was_full {
                        let node = format!("n{index}");
                        return Err(self.failed(StopReason::GaveUp { node, reason }));
                    }
                    self.befell("node: gave up on its disk");
                    tracing::info!(index, reason, "a node gave up");
                    self.kill(index);
                    if at_start && lies {
                        self.replace_disk(index);
                    }
                    self.to_start.insert((self.simulation.now() + START_AGAIN, index), ());
                }
            }
        }
        let now = self.simulation.now();
        while let Some(entry) = self.to_start.first_entry() {
            let (at, index) = *entry.key();
            if at > now {
                break;
            }
            entry.remove();
            let machine = &self.machines[index];
            if !machine.running && !machine.gone {
                self.restart(index);
            }
        }
        Ok(())
    }

    fn running(&self, node: NodeIndex) -> Option<usize> {
        self.machines.iter().position(|machine| machine.node == node && machine.running)
    }

    /// The machine gets a new empty disk in the place of its own.
    ///
    /// # Panics
    /// If the node runs, or if another machine's disk lies.
    pub fn replace_disk(&mut self, index: usize) {
        assert!(!self.machines[index].running, "node {index} runs");
        self.lies(index);
        self.befell("node: new empty disk");
        let seed = self.rng.random();
        let machine = &mut self.machines[index];
        // Its tallies stay those of the machine.
        machine.former.push(machine.disk.counts());
        machine.disk = MemoryDisk::new(seed);
        machine.disk.set_faults(super::usual_disk());
        machine.store = MemoryStore::new();
    }

    /// The machine whose disk has lied or forgotten what it had flushed.
    pub fn has_liar(&self) -> Option<usize> {
        self.liar
    }

    /// # Panics
    /// If another machine's disk lies: of three copies two must be true.
    pub(super) fn lies(&mut self, index: usize) {
        let liar = *self.liar.get_or_insert(index);
        assert_eq!(liar, index, "a second machine's disk would lie");
    }
}
