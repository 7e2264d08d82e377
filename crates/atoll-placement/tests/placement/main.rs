//! The planner and the steps together, from outside: stories that read as prose, and
//! walks at random through changes of membership.

mod stories;
mod walk;
mod world;
