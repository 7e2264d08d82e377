//! The simulated world: whole clusters of real nodes in one thread, on virtual time,
//! from one seed.
//!
//! It owns virtual time and the schedule ([`Simulation`]), seeds ([`Seed`]), the trace
//! that says whether two runs were the same ([`TraceHash`]), and wall clocks that are
//! wrong on purpose. Everything from the seams upwards runs in it unchanged. How that is
//! kept deterministic, and what leaks remain: `docs/adr/0001-deterministic-executor.md`.
//!
//! It contains no rule of Atoll's own: it breaks things, and says what it saw.

mod clock;
mod executor;
pub mod linearizability;
mod seed;
mod trace;

pub use executor::{Faults, NodeIndex, RunError, Schedule, Simulation, StopReason, Tracer};
pub use seed::Seed;
pub use trace::TraceHash;
