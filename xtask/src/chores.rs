//! What each chore runs.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
};

use crate::tidy::{House, untidy};

/// The workspace's root.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace")
}

pub(crate) fn tidy() -> Result<(), String> {
    let house = House::load(root()).map_err(|error| format!("the workspace can't be read: {error}"))?;
    let complaints = untidy(&house);
    if complaints.is_empty() {
        return Ok(());
    }
    Err(format!("{}\n\n{} untidy", complaints.join("\n"), complaints.len()))
}

pub(crate) fn ci() -> Result<(), String> {
    cargo(&["fmt", "--all", "--check"])?;
    cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"])?;
    test(&[])?;
    simulate()
}

/// All tests. They drive the built binary with the clients people use, which are
/// installed under `target/` where that can be done, and asked for where not.
pub(crate) fn test(rest: &[&str]) -> Result<(), String> {
    let clients = clients()?;
    let mut path = vec![clients.join("bin")];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let path = std::env::join_paths(path).map_err(|error| error.to_string())?;

    let nextest = works("cargo", &["nextest", "--version"]);
    let runner: &[&str] = if nextest { &["nextest", "run"] } else { &["test"] };
    let arguments = [runner, &["--workspace"], rest].concat();
    let mut command = Command::new(env!("CARGO"));
    command.args(arguments).env("PATH", path);
    const THREADS: &str = "NEXTEST_TEST_THREADS";
    if std::env::var_os(THREADS).is_none() {
        // One beyond the processors: tests of whole clusters wait more than they compute.
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        command.env(THREADS, (processors + 1).to_string());
    }
    run(&mut command)
}

/// Where the seeds are kept that ever found something: seed, minutes, nodes, and what.
const SEEDS: &str = "crates/atoll-simulation/seeds.txt";
/// Fresh seeds are drawn from the tree that is checked, so that whoever checks it before it
/// lands runs what CI will; each change brings others.
const FRESH: u64 = 3;
/// 36 s: of several storms in most, and as long in all as six of one storm each.
const FRESH_MINUTES: &str = "0.6";

/// Whole clusters under faults: the seeds that ever found something, each in two processes
/// whose traces must be equal, then fresh ones, which are printed.
pub(crate) fn simulate() -> Result<(), String> {
    // The binary that the tests were run with. By itself it would be built from dependencies
    // with other features, which takes as long as the tests did.
    cargo(&["build", "--workspace", "--tests"])?;
    let kept = std::fs::read_to_string(root().join(SEEDS)).map_err(|error| format!("{SEEDS}: {error}"))?;
    for line in kept.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()) {
        let options = line.split(':').next().unwrap_or_default();
        let &[seed, minutes, nodes] = options.split_whitespace().collect::<Vec<_>>().as_slice() else {
            return Err(format!(
                "{SEEDS}: {line:?} does not begin with seed, minutes and nodes, and a colon"
            ));
        };
        let begin = || Simulated::begin("debug", &["--seed", seed, "--minutes", minutes, "--nodes", nodes]);
        let (first, second) = (begin()?, begin()?);
        let (first, second) = (first.trace()?, second.trace()?);
        if first != second {
            return Err(format!("seed {seed} is two runs: {first} and {second}"));
        }
        eprintln!("seed {seed} is sound, and the same twice: {first}");
    }
    let first = u64::from_str_radix(&tree()?[..12], 16).map_err(|error| error.to_string())?;
    for seed in first..first + FRESH {
        let seed = format!("{seed:#x}");
        let options = ["simulate", "--seed", &seed, "--minutes", FRESH_MINUTES];
        run(Command::new(binary("debug")).args(options))?;
    }
    Ok(())
}

/// The hash of what is checked out.
fn tree() -> Result<String, String> {
    let mut git = Command::new("git");
    let output = git.current_dir(root()).args(["rev-parse", "HEAD^{tree}"]).output();
    let output = output.map_err(|error| format!("git: {error}"))?;
    let hash = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    if output.status.success() && hash.len() >= 12 { Ok(hash) } else { Err("git names no tree".into()) }
}

/// That the same seed is the same run whoever compiled it. Not in CI: a release build takes
/// longer than all the rest.
pub(crate) fn traces() -> Result<(), String> {
    cargo(&["build", "--workspace", "--tests"])?;
    cargo(&["build", "--package", "atoll", "--release"])?;
    for seed in ["1", "2"] {
        let begin = |profile| Simulated::begin(profile, &["--seed", seed, "--minutes", "1"]);
        let (debug, release) = (begin("debug")?, begin("release")?);
        let (debug, release) = (debug.trace()?, release.trace()?);
        if debug != release {
            return Err(format!("seed {seed} is {debug} in a debug build, and {release} in a release build"));
        }
        eprintln!("seed {seed} is {debug} in both");
    }
    Ok(())
}

/// A process that simulates one seed.
struct Simulated {
    described: String,
    process: Child,
}

impl Simulated {
    fn begin(profile: &str, options: &[&str]) -> Result<Self, String> {
        let mut command = Command::new(binary(profile));
        command.arg("simulate").args(options).stdout(Stdio::piped());
        let described = format!("{command:?}");
        let process = command.spawn().map_err(|error| format!("{described}: {error}"))?;
        Ok(Self { described, process })
    }

    fn trace(self) -> Result<String, String> {
        let described = self.described;
        let output = self.process.wait_with_output().map_err(|error| format!("{described}: {error}"))?;
        let text = String::from_utf8_lossy(&output.stdout);
        let last = text.lines().last().unwrap_or_default();
        match last.strip_prefix("trace ").filter(|_| output.status.success()) {
            Some(trace) => Ok(trace.to_owned()),
            None => Err(format!("{described} ended with {}:\n{text}", output.status)),
        }
    }
}

/// The atoll that cargo built.
pub(crate) fn binary(profile: &str) -> PathBuf {
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    target.join(profile).join("atoll")
}

/// What other people wrote for S3 and the integration tests drive, each with how to ask
/// whether it is there.
const TOOLS: [(&str, &str); 4] =
    [("rclone", "version"), ("s3cmd", "--version"), ("restic", "version"), ("curl", "--version")];

/// A folder of Python's with `aws`, boto3 and MinIO's SDK, made once; and the other tools,
/// installed where that can be done.
fn clients() -> Result<PathBuf, String> {
    let missing = || TOOLS.iter().filter(|(tool, ask)| !works(tool, &[ask])).map(|(tool, _)| *tool);
    if missing().next().is_some() {
        // Without root or Debian this fails, and the message below says what to do.
        let tools: Vec<&str> = missing().collect();
        let installed = run(Command::new("apt-get").arg("update"))
            .and_then(|()| run(Command::new("apt-get").args(["install", "--yes"]).args(&tools)));
        if installed.is_err() || missing().next().is_some() {
            let tools = missing().collect::<Vec<_>>().join(" ");
            return Err(format!(
                "the tests need {tools}: install it with your package manager (apt install {tools}, \
                 dnf install {tools}, brew install {tools})"
            ));
        }
    }
    // Mounts are tested where there can be any.
    if !works("fusermount3", &["-V"]) && !works("fusermount", &["-V"]) {
        let _ = run(Command::new("apt-get").args(["install", "--yes", "fuse3"]));
    }
    let folder = root().join("target/test-clients");
    let python = folder.join("bin/python3");
    if works(&python, &["-c", "import boto3, awscli, minio"]) {
        return Ok(folder);
    }
    run(Command::new("python3").arg("-m").arg("venv").arg(&folder)).map_err(|error| {
        format!("{error}\nthe tests need Python 3 with venv: install it (apt install python3-venv)")
    })?;
    let packages = ["boto3", "awscli", "minio"];
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(packages))?;
    Ok(folder)
}

fn works(program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> bool {
    let status = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

fn cargo(arguments: &[&str]) -> Result<(), String> {
    run(Command::new(env!("CARGO")).args(arguments))
}

pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    let shown = format!("{:?}", command.get_program());
    let shown = command.get_args().fold(shown, |shown, argument| format!("{shown} {}", argument.display()));
    eprintln!("{shown}");
    let status = command.current_dir(root()).status().map_err(|error| format!("{shown}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{shown}: {status}")) }
}
