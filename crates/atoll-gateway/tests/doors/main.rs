//! Both doors over real HTTP on loopback, on one node in this process.

mod admin;
mod client;
mod s3;
mod world;
