//! The lab: one workload on every kind of overlay, and what each costs.
//!
//! An experiment is a function from its parameters and a seed to rows ([`Report`]); the same
//! seed gives the same rows, to the byte. It runs on [`World`], a simulator of its own for many
//! small nodes. Nothing here prints; `atoll lab` does. It knows nothing of objects, records or
//! real connections.
//!
//! Tests in `tests/` hold the rows against what the papers published; `docs/lab.md` shows both.

mod experiment;
mod failure;
mod lookup;
mod world;

pub use experiment::{Kind, Report, Row, Setup};
pub use failure::{FailureParameters, failure};
pub use lookup::{LookupParameters, lookup};
pub use world::{Links, Reported, SimulatedContact, Traffic, World};
