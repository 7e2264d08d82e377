//! The built binary, real processes, real clients: `aws`, boto3, rclone, restic and others.
//!
//! What belongs here: what a user sees, across processes and through clients that other
//! people wrote. What does not: anything that a test inside a crate can show, and faults
//! that the simulation injects better (it does worse, faster, and from a seed).
//!
//! Each transparency has a file of its own, with a control that must fail.

// Nothing here runs in the simulation: the tests drive processes, in real time.
#![allow(clippy::disallowed_methods)]

mod harness;

mod access;
mod audit;
mod backup;
mod bench;
mod clients;
mod command_line;
mod concurrency;
mod durability;
mod encryption;
mod failure;
mod lab;
mod location;
mod migration;
mod minio;
mod mount;
mod object_store;
mod operations;
mod overlay;
mod parallelism;
mod protocol;
mod records;
mod recovery;
mod replication;
mod settings;
mod tools;
mod verify;
mod versions;
