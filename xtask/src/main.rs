//! The workspace's own chores, as `cargo xtask <chore>`: `tidy`, `test`, `ci`.
//!
//! Nothing here is part of the product, and nothing of the product is needed to run it.

mod chores;
mod tidy;

use std::process::ExitCode;

const USAGE: &str = "\
usage: cargo xtask <chore>

  tidy   the house rules that a compiler does not check
  test   all tests, and what they need (what the README names)
  ci     what CI runs: format, lints, tests";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let done = match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["tidy"] => chores::tidy(),
        ["test", ref rest @ ..] => chores::test(rest),
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
