//! `cargo xtask fuzz`: builds the targets of `fuzz/` for libFuzzer, with the stable compiler,
//! and runs each for a while. What it reports is libFuzzer's own count.
//!
//! The corpus stays under `target/fuzz/corpus` and the next run goes on from it; what crashed
//! lies under `target/fuzz/crashes`, and belongs into a test.

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use crate::chores::{root, run};

const USAGE: &str = "\
usage: cargo xtask fuzz [TARGET…] [--minutes N]    each target, or all, for so long (10)
       cargo xtask fuzz TARGET --replay FILE       one input, as a crash left it";

/// Coverage as libFuzzer wants it. The nightly compiler's `-Zsanitizer` says the same and adds
/// the address sanitizer, for unsafe code, of which there is none here.
const RUSTFLAGS: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
     -Cllvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing";

/// An input of 4 KiB says all that these formats can say, and is tried thousands of times a
/// second; the longer ones that limits are for are in the crates' own tests.
const INPUT_BYTES_MAX: u32 = 4 << 10;
/// A layout says something of each of 4,096 slots.
const FORMATS_BYTES_MAX: u32 = 24 << 10;
/// An input that takes longer hangs.
const SECONDS_MAX: u32 = 10;
/// For the whole process, corpus included; one input's share is the targets' to bound.
const MEMORY_MIB_MAX: u32 = 2 << 10;

pub(crate) fn fuzz(arguments: &[&str]) -> Result<(), String> {
    let Asked { targets, minutes, replay } = Asked::parse(arguments)?;
    let binary = build()?;
    let known = known(&binary)?;
    if let Some(unknown) = targets.iter().find(|target| !known.contains(target)) {
        return Err(format!("there is no target {unknown:?}, but {}\n{USAGE}", known.join(", ")));
    }
    if let Some(input) = replay {
        let [target] = &targets[..] else { return Err(USAGE.into()) };
        return run(Command::new(&binary).env("ATOLL_FUZZ_TARGET", target).arg(input));
    }
    let targets = if targets.is_empty() { known } else { targets };
    let mut crashed = Vec::new();
    for target in targets {
        if let Err(crash) = run_target(&binary, &target, minutes) {
            eprintln!("{crash}");
            crashed.push(target);
        }
    }
    if crashed.is_empty() { Ok(()) } else { Err(format!("did not hold: {}", crashed.join(", "))) }
}

struct Asked {
    targets: Vec<String>,
    minutes: u32,
    replay: Option<PathBuf>,
}

impl Asked {
    fn parse(arguments: &[&str]) -> Result<Self, String> {
        let mut asked = Self { targets: Vec::new(), minutes: 10, replay: None };
        let mut arguments = arguments.iter();
        while let Some(&argument) = arguments.next() {
            match argument {
                "--minutes" => {
                    let minutes = arguments.next().and_then(|minutes| minutes.parse().ok());
                    asked.minutes = minutes.filter(|minutes| *minutes > 0).ok_or(USAGE)?;
                }
                "--replay" => {
                    let input = arguments.next().ok_or(USAGE)?;
                    let input = fs::canonicalize(input).map_err(|error| format!("{input}: {error}"))?;
                    asked.replay = Some(input);
                }
                flag if flag.starts_with('-') => return Err(USAGE.into()),
                target => asked.targets.push(target.to_owned()),
            }
        }
        Ok(asked)
    }
}

fn folder() -> PathBuf {
    root().join("target/fuzz")
}

fn build() -> Result<PathBuf, String> {
    // Named, so that build scripts and macros are built without coverage, and thus can be linked.
    let host = host()?;
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--package", "fuzz", "--features", "libfuzzer", "--profile", "fuzz"]);
    cargo.args(["--target", &host, "--target-dir"]).arg(folder()).env("RUSTFLAGS", RUSTFLAGS);
    run(&mut cargo)?;
    Ok(folder().join(host).join("fuzz/fuzz"))
}

fn host() -> Result<String, String> {
    let told = Command::new("rustc").arg("-vV").output().map_err(|error| format!("rustc: {error}"))?;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    let host = told.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).ok_or_else(|| "rustc does not say what machine this is".into())
}

/// The targets that the binary has, by its own word.
fn known(binary: &Path) -> Result<Vec<String>, String> {
    let told = Command::new(binary).env_remove("ATOLL_FUZZ_TARGET").output();
    let told = told.map_err(|error| format!("{}: {error}", binary.display()))?;
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    Ok(told.split_whitespace().map(str::to_owned).collect())
}

fn run_target(binary: &Path, target: &str, minutes: u32) -> Result<(), String> {
    let (corpus, crashes) = (folder().join("corpus").join(target), folder().join("crashes").join(target));
    for folder in [&corpus, &crashes] {
        fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    let log = folder().join(format!("{target}.log"));
    let written = fs::File::create(&log).map_err(|error| format!("{}: {error}", log.display()))?;
    eprintln!("{target}: {minutes} min, told in {}", log.display());
    let mut command = Command::new(binary);
    command.env("ATOLL_FUZZ_TARGET", target).env("ATOLL_FUZZ_SEEDS", &corpus);
    command.arg(&corpus).arg(format!("-artifact_prefix={}/", crashes.display()));
    let longest = if target == "formats" { FORMATS_BYTES_MAX } else { INPUT_BYTES_MAX };
    command.arg(format!("-max_total_time={}", minutes * 60)).arg(format!("-max_len={longest}"));
    command.arg(format!("-timeout={SECONDS_MAX}")).arg(format!("-rss_limit_mb={MEMORY_MIB_MAX}"));
    command.arg("-print_final_stats=1");
    let words = root().join("fuzz").join(format!("{target}.dict"));
    if words.exists() {
        command.arg(format!("-dict={}", words.display()));
    }
    let status = command.stdout(Stdio::null()).stderr(written).status();
    let status = status.map_err(|error| format!("{}: {error}", binary.display()))?;
    let told = fs::read(&log).map_err(|error| format!("{}: {error}", log.display()))?;
    let told = Told::parse(&String::from_utf8_lossy(&told));
    if let Some(crash) = told.crash {
        return Err(format!(
            "{target}: {}\nreplay: cargo xtask fuzz {target} --replay {crash}",
            told.cause.unwrap_or_else(|| "crashed".into())
        ));
    }
    if !status.success() {
        return Err(format!("{target}: ended with {status}; see {}", log.display()));
    }
    let Told { executions, edges, inputs, .. } = told;
    eprintln!("{target}: {executions} executions, {edges} edges, {inputs} inputs kept, no crash");
    Ok(())
}

/// What libFuzzer wrote.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    executions: u64,
    edges: u64,
    /// That reach something which no other does.
    inputs: u64,
    cause: Option<String>,
    crash: Option<String>,
}

impl Told {
    fn parse(text: &str) -> Self {
        let mut told = Self::default();
        let mut panicked = false;
        for line in text.lines() {
            let mut words = line.split_whitespace();
            while let Some(word) = words.next() {
                match word {
                    "cov:" => told.edges = number(words.next()),
                    "corp:" => told.inputs = number(words.next()),
                    "stat::number_of_executed_units:" => told.executions = number(words.next()),
                    _ => {}
                }
            }
            if line.starts_with("thread '") && line.contains("panicked at") {
                told.cause = Some(line.to_owned());
                panicked = true;
            } else if panicked {
                told.cause = told.cause.map(|cause| format!("{cause} {line}"));
                panicked = false;
            }
            if line.contains("ERROR: libFuzzer") {
                told.cause.get_or_insert_with(|| line.to_owned());
            }
            if let Some((_, path)) = line.split_once("Test unit written to ") {
                told.crash = Some(path.to_owned());
            }
        }
        told
    }
}

/// Of `87` and of `87/12Kb`.
fn number(word: Option<&str>) -> u64 {
    let digits = word.and_then(|word| word.split('/').next());
    digits.and_then(|digits| digits.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_tells_its_counts() {
        let text = "#4\tINITED cov: 31 ft: 40 corp: 2/9b exec/s: 0 rss: 60Mb\n\
             #900\tDONE   cov: 87 ft: 120 corp: 12/4Kb lim: 80 exec/s: 90 rss: 61Mb\n\
             stat::number_of_executed_units: 900\n";
        let want = Told { executions: 900, edges: 87, inputs: 12, ..Told::default() };
        assert_eq!(Told::parse(text), want);
    }

    #[test]
    fn a_crash_tells_its_cause_and_where_its_input_lies() {
        let text = "thread '<unnamed>' (7) panicked at crates/a/src/b.rs:7:9:\n\
             attempt to add with overflow\n\
             ==7== ERROR: libFuzzer: deadly signal\n\
             artifact_prefix='/c/'; Test unit written to /c/crash-1f\n";
        let told = Told::parse(text);
        assert_eq!(told.crash.as_deref(), Some("/c/crash-1f"));
        let cause = told.cause.unwrap();
        assert!(cause.ends_with("crates/a/src/b.rs:7:9: attempt to add with overflow"), "{cause}");
        let slow = Told::parse("==7== ERROR: libFuzzer: timeout after 10 seconds\n");
        assert_eq!(slow.cause.as_deref(), Some("==7== ERROR: libFuzzer: timeout after 10 seconds"));
    }

    #[test]
    fn what_is_asked_is_read() {
        let asked = Asked::parse(&["ticket", "--minutes", "3", "log"]).unwrap();
        assert_eq!((asked.targets, asked.minutes), (vec!["ticket".to_owned(), "log".to_owned()], 3));
        for wrong in [&["--minutes"][..], &["--minutes", "0"], &["--hours", "1"], &["--replay"]] {
            assert!(Asked::parse(wrong).is_err(), "{wrong:?}");
        }
    }
}
