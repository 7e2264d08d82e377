//! Who holds what: the layout, the questions asked of it, and the planner that makes the
//! next one.
//!
//! A [`Layout`] is one versioned decision for the whole cluster: the nodes, which replicas
//! each shard has, and which nodes hold each of the 4,096 slots that chunks fall into. It
//! is kept in shard 0 and cached by every node. [`plan`] makes the next layout from what
//! is observed; the steps in [`change`](Layout::drain) advance it when an operator asks
//! for something or when a move is finished. A layout is never edited in place: each of
//! these gives a new one with a higher version.
//!
//! Whoever runs the planner goes round like this, and after each step writes the new
//! layout where all can read it, if nobody else was faster:
//!
//! ```text
//! leaders report what their groups are      → Layout::shards_changed
//! holders report passes                     → MoveReports → Layout::slots_moved
//! former holders report their final passes  → Layout::slots_released
//! what is observed of all admitted nodes    → plan
//! ```
//!
//! Each step is idempotent and ignores reports on what is over, so reports may be
//! repeated, late or lost.
//!
//! A pure core: no clock, no randomness, no I/O. The same inputs give the same layout, to
//! the byte, on every platform. It does not know how chunks are copied or how Raft changes
//! its members, only what has to be true before and after.

mod assign;
mod change;
mod layout;
mod plan;
mod query;
mod quota;
mod recover;
mod rendezvous;
mod reports;
mod shard;
mod slot;
mod voters;

pub use change::ChangeError;
pub use layout::{Layout, LayoutError, LayoutNode, LayoutSettings, NodeState};
pub use plan::{ObservedMember, Plan, PlanSettings, Reason, ShardChange, SlotMove, Warning, plan};
pub use query::{CopyTask, Quorum, ShardMapEntry, SlotsOf, WriteRefused, WriteTargets};
pub use recover::{RecoverError, Recovery};
pub use reports::MoveReports;
pub use shard::{Replica, ReplicaSet, ShardPlacement};
pub use slot::{Holder, SlotProgress};
