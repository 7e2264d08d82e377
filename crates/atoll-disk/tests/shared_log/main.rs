//! The shared log against a plain model of it: under crashes, on a disk that tears and
//! forgets, and with every kind of damage to its files.

mod damage;
mod model;
mod storms;
mod trouble;
