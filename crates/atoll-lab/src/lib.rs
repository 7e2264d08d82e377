//! The lab: one workload on every kind of overlay, and what each costs.
//!
//! An experiment is a function from its parameters and a seed to rows ([`Report`]); the same
//! seed gives the same rows, to the byte. It runs on [`World`], a simulator of its own for many
//! small nodes. Nothing here prints; `atoll lab` does. It knows nothing of objects, records or
//! real connections.
//!
//! - A kind of overlay is added in `kinds`, a column in `columns`, an experiment in
//!   `experiments`; each has its place there and nowhere else.
//! - Tests in `tests/` hold the rows against what the papers published; `docs/lab.md` shows both.

mod architectures;
mod attack;
mod blocks;
mod broadcast;
mod churn;
mod columns;
mod experiment;
mod experiments;
mod failure;
mod grow;
#[cfg(test)]
mod hot;
mod kinds;
mod lie;
mod lookup;
mod page;
mod parameters;
mod plot;
mod presets;
mod search;
mod sessions;
mod spread;
mod value;
mod world;

pub use architectures::{ArchitecturesParameters, Condition, Holds, Verdict, Winner, architectures};
pub use attack::{Attack, AttackParameters, attack};
pub use blocks::{BlocksParameters, blocks};
pub use broadcast::{BroadcastParameters, broadcast};
pub use churn::{ChurnParameters, churn};
pub use columns::{Column, Row, columns_of};
pub use experiment::{Report, Setup};
pub use experiments::{EXPERIMENTS, Experiment};
pub use failure::{FailureParameters, failure};
pub use grow::{Change, GrowParameters, grow};
pub use kinds::{Architecture, BitsPerStep, Kind, Settings};
pub use lie::{LieParameters, lie};
pub use lookup::{LookupParameters, lookup};
pub use page::page;
pub use parameters::{Described, NodeCount, ParameterError, Share, Within};
pub use presets::{PRESETS, Preset};
pub use search::{SearchMethod, SearchParameters, search};
pub use sessions::Sessions;
pub use spread::Method;
pub use value::Value;
pub use world::{CONTACT_BYTES, ENVELOPE_BYTES, Links, Reported, SimulatedContact, Traffic, World};
