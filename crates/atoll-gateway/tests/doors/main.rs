//! Both doors over real HTTP on loopback, on one node in this process.

mod acls;
mod admin;
mod attacks;
mod client;
mod policies;
mod s3;
mod world;
