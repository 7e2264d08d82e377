//! The audit trail: every administrative act and every denied request, in a chain that
//! nobody can change unnoticed.
//!
//! ```text
//! a node:   entries ─ batched ─ batch n: hash of its batch n − 1, its signature
//! shard 0:  batches ─ linked  ─ link i: hash of link i − 1, hash of the batch
//! everyone: the newest (i, hash of link i) that it has seen grow out of the one before
//! ```
//!
//! A batch that is altered no longer has its node's signature; one that is dropped or moved
//! breaks its node's chain and the links. Whoever holds a majority of shard 0 could cut the
//! tail off, or link anew what nodes that it controls sign anew; but every node keeps as a
//! *witness* the last link that it saw, moves on only along the chain, and so any one
//! honest node shows it ([`Verifier`]).
//!
//! Administrative acts are in the trail before they are done. Denied requests follow within
//! a moment; a node that dies takes the last tenth of a second of them along, and where more
//! come than fit, the trail says how many it missed.

mod batch;
mod recorder;
mod shard;
mod verify;
mod witness;

pub use batch::{Batch, Entry, Hash, Head, Link, LinkedBatch, SignedBatch};
pub use recorder::{Auditor, COMMITS_PER_SECOND, ENTRIES_PER_BATCH, QUEUE_MAX};
pub(crate) use shard::register;
pub use verify::{Broken, Verified, Verifier};
pub use witness::{NotExtended, Witness, WitnessNote, WitnessStatement};
