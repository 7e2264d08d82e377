//! What each chore runs.

use std::{
    path::{Path, PathBuf},
    process::{Command, Stdio},
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
    test(&[])
}

/// All tests. They drive the built binary with the clients people use, which are
/// installed under `target/` where that can be done, and asked for where not.
pub(crate) fn test(rest: &[&str]) -> Result<(), String> {
    let clients = clients()?;
    let mut path = vec![clients.join("bin")];
    path.extend(std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default()));
    let path = std::env::join_paths(path).map_err(|error| error.to_string())?;

    cargo(&["build", "--package", "atoll"])?;
    let nextest = works("cargo", &["nextest", "--version"]);
    let runner: &[&str] = if nextest { &["nextest", "run"] } else { &["test"] };
    let arguments = [runner, &["--workspace"], rest].concat();
    run(Command::new(env!("CARGO")).args(arguments).env("PATH", path))
}

/// A folder of Python's with `aws` and boto3, made once; and rclone, installed where that
/// can be done.
fn clients() -> Result<PathBuf, String> {
    if !works("rclone", &["version"]) {
        // Without root or Debian this fails, and the message below says what to do.
        let installed = run(Command::new("apt-get").arg("update"))
            .and_then(|()| run(Command::new("apt-get").args(["install", "--yes", "rclone"])));
        if installed.is_err() || !works("rclone", &["version"]) {
            return Err("the tests need rclone: install it with your package manager (apt install rclone, \
                        dnf install rclone, brew install rclone)"
                .into());
        }
    }
    let folder = root().join("target/test-clients");
    let python = folder.join("bin/python3");
    if works(&python, &["-c", "import boto3, awscli"]) {
        return Ok(folder);
    }
    run(Command::new("python3").arg("-m").arg("venv").arg(&folder)).map_err(|error| {
        format!("{error}\nthe tests need Python 3 with venv: install it (apt install python3-venv)")
    })?;
    run(Command::new(&python).args(["-m", "pip", "install", "--quiet", "boto3", "awscli"]))?;
    Ok(folder)
}

fn works(program: impl AsRef<std::ffi::OsStr>, arguments: &[&str]) -> bool {
    let status = Command::new(program).args(arguments).stdout(Stdio::null()).stderr(Stdio::null()).status();
    status.is_ok_and(|status| status.success())
}

fn cargo(arguments: &[&str]) -> Result<(), String> {
    run(Command::new(env!("CARGO")).args(arguments))
}

fn run(command: &mut Command) -> Result<(), String> {
    let shown = format!("{:?}", command.get_program());
    let shown = command.get_args().fold(shown, |shown, argument| format!("{shown} {}", argument.display()));
    eprintln!("{shown}");
    let status = command.current_dir(root()).status().map_err(|error| format!("{shown}: {error}"))?;
    if status.success() { Ok(()) } else { Err(format!("{shown}: {status}")) }
}
