//! One node put together from the parts: identity, joining, the layout's follower and
//! controller, and what the admin API asks. The only crate that reads the environment
//! and files of settings.

mod editor;
mod follower;
mod identity;
pub mod settings;
pub mod ticket;
mod truths;
mod wire;
