//! What clients do, whoever answers them.
//!
//! A client draws operations from a seed, asks a [`Target`] to perform them, and writes
//! what it saw into a [`History`], from which the checkers judge. It knows no cluster and
//! no network: a target is a node of a simulated world, or a URL (`atoll verify`).
//!
//! ```text
//! Load (what, how often) ─► Client ─ Operation ─► Target ─ Outcome ─► History ─► checkers
//! ```
//!
//! Every [`Value`](crate::linearizability::register::Value) is written once, and tells
//! its bytes, so a read that brings anything else was served wrong bytes.

mod audit;
mod client;
mod history;
mod keys;
mod locks;
mod operation;
mod options;
mod records;
mod uploads;
mod value;
mod watches;

pub use audit::{Audit, Promptness};
pub use client::{Client, Note};
pub use history::{Call, Ending, Event, History, SharedHistory};
pub use operation::{Answer, Kind, Operation, Outcome, Page, PageEntry, RecordChange, Span, Target};
pub use options::Load;
pub use value::{SHORT_CHUNKS, Size};
