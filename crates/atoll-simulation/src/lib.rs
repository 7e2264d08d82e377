//! The simulated world: whole clusters of real nodes in one thread, on virtual time,
//! from one seed.
//!
//! It owns virtual time and the schedule ([`Simulation`]), seeds ([`Seed`]), the trace
//! that says whether two runs were the same ([`TraceHash`]), links that stall ([`Network`]),
//! wall clocks that are wrong on purpose, whole worlds of nodes and accidents
//! ([`world::World`]), what clients do to them ([`load`]), the verdict over what these
//! saw ([`checkers`]), and all of it as one run with a report ([`run()`]). Everything from
//! the seams upwards runs in it unchanged. How that is kept deterministic, and what leaks
//! remain: `docs/adr/0001-deterministic-executor.md`.
//!
//! It contains no rule of Atoll's own: it breaks things, and says what it saw.

pub mod checkers;
mod clock;
pub mod cluster;
mod executor;
pub mod linearizability;
pub mod load;
mod network;
mod overlays;
mod run;
mod seed;
mod swarm;
mod trace;
pub mod world;

pub use executor::{
    FaultPoints, Faults, NodeIndex, RunError, Schedule, Simulation, StopReason, Strike, Tracer,
};
pub use network::{Network, Stalls};
pub use overlays::{OverlayMember, OverlayWorld, overlay_lookups, places_at_rest, places_of};
pub use run::{Check, Failure, Report, RunOptions, run};
pub use seed::{ParseSeedError, Seed, seeds};
pub use swarm::{Change, Swarm, Synchrony};
pub use trace::TraceHash;
