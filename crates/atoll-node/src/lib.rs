//! One node put together from the parts: identity, joining, the layout's follower and
//! controller, and what the admin API asks. The only crate that reads the environment
//! and files of settings.
//!
//! [`Node`] is the same in production ([`up`]) and in the simulation, which hands it other
//! seams. It decides nothing about placement (`atoll-placement` does) and knows nothing of
//! what objects or records contain.

mod admin;
mod controller;
mod editor;
mod follower;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod gossip;
mod https;
mod identity;
mod join;
pub mod key_file;
mod kv;
mod link;
mod metrics;
mod node;
mod overlay;
mod recover;
mod replicas;
mod reports;
pub mod settings;
mod standing;
mod start;
pub mod ticket;
mod token;
mod truths;
mod up;
mod wire;
mod witness;

pub use admin::NodeAdmin;
pub use identity::{Identity, IdentityError};
pub use node::{Node, NodeParts, NodeProperties, procedures};
pub use overlay::{
    AskError, NodeContact, Operation, OverlayParts, OverlaySettings, Overlays, Shown, TableSizeError,
    TableSizes,
};
pub use recover::{Examination, Losses, RecoverError, examine};
pub use start::StartError;
pub use truths::PROGRAM_VERSION;
pub use up::{Facts, NodeFailed, RunningNode, UpError, up};
