//! What nodes know of shard 0 and write into it, on virtual time.

mod audit;
mod pair;
mod revocation;
