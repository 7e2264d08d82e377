//! The workspace's own chores, as `cargo xtask <chore>`: `tidy`, `test`, `simulate`,
//! `traces`, `fuzz`, `scaling`, `ci`.
//!
//! Nothing here is part of the product, and nothing of the product is needed to run it.

mod chores;
mod fuzz;
mod scaling;
mod tidy;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask <chore>

  tidy      the house rules that a compiler does not check
  test      all tests, and what they need (what the README names)
  simulate  the seeds that ever found something, and some that nobody ever ran
  traces    one seed in a debug and in a release build: the same run, to the byte
  fuzz      the decoders of what others send, under libFuzzer
  scaling   how puts and gets grow with nodes and clients, each held to a share of a core
  ci        what CI runs: format, lints, tests, simulations";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["tidy"] => chores::tidy(),
        ["test", ref rest @ ..] => chores::test(rest),
        ["simulate"] => chores::simulate(),
        ["traces"] => chores::traces(),
        ["fuzz", ref rest @ ..] => fuzz::fuzz(rest),
        ["scaling", ref rest @ ..] => scaling::scaling(rest),
        ["ci"] => chores::ci(),
        _ => Err(USAGE.into()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("{message}");
            ExitCode::FAILURE
        }
    }
}
