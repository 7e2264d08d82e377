//! Clusters of real processes, and the clients that drive them.

use std::{
    io::{BufRead, BufReader, Read},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;
use tempfile::TempDir;

pub const ACCESS_KEY: &str = "atoll-test";
pub const SECRET_KEY: &str = "atoll-test-secret";

/// Far above what anything here takes: a debug build on a busy two-core machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// One node's process, its folder, and where it listens.
pub struct NodeProcess {
    child: Option<Child>,
    flags: Vec<String>,
    /// What it logs from its next start on.
    pub log: String,
    pub data: PathBuf,
    pub id: String,
    pub s3: String,
    pub admin: String,
    pub node_addr: String,
    pub ticket: Option<String>,
}

/// Several nodes in one temporary folder; stopped and deleted at the end.
pub struct Cluster {
    pub nodes: Vec<NodeProcess>,
    folder: TempDir,
}

pub fn atoll() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_atoll"));
    // A developer's own settings must not reach the tests.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("ATOLL_")) {
        command.env_remove(name);
    }
    command
}

impl NodeProcess {
    /// Starts a node in `data` and waits until it serves.
    pub fn start(data: &Path, flags: &[&str]) -> Self {
        let mut node = Self {
            child: None,
            flags: flags.iter().map(|flag| flag.to_string()).collect(),
            log: std::env::var("ATOLL_TEST_LOG").unwrap_or("info".into()),
            data: data.into(),
            id: String::new(),
            s3: "http://127.0.0.1:0".into(),
            admin: "http://127.0.0.1:0".into(),
            node_addr: "127.0.0.1:0".into(),
            ticket: None,
        };
        node.spawn(&["--root-access-key", ACCESS_KEY, "--root-secret-key", SECRET_KEY]);
        node
    }

    fn spawn(&mut self, more: &[&str]) {
        let log_path = self.data.with_extension("log");
        let log = std::fs::OpenOptions::new().create(true).append(true).open(&log_path).expect("a log file");
        let mut child = atoll()
            .arg("up")
            .args(["-o", "json", "--data"])
            .arg(&self.data)
            .args(["--s3-addr", self.s3.trim_start_matches("http://")])
            .args(["--admin-addr", self.admin.trim_start_matches("http://")])
            .args(["--node-addr", &self.node_addr])
            .args(&self.flags)
            .args(more)
            .env("ATOLL_LOG", &self.log)
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("the built binary starts");
        // One JSON value on stdout says that it serves.
        let mut text = String::new();
        let mut lines = BufReader::new(child.stdout.take().expect("stdout is piped")).lines();
        let facts: Value = loop {
            let Some(Ok(line)) = lines.next() else {
                let _ = child.kill();
                let _ = child.wait();
                panic!("a node ended before it served:\n{}", tail(&log_path));
            };
            text.push_str(&line);
            if let Ok(facts) = serde_json::from_str(&text) {
                break facts;
            }
        };
        let fact = |name: &str| facts[name].as_str().unwrap_or_default().to_string();
        self.id = fact("node");
        self.s3 = fact("s3_endpoint");
        self.admin = fact("admin_endpoint");
        self.node_addr = facts["node_addresses"][0].as_str().unwrap_or_default().to_string();
        self.ticket = facts["ticket"].as_str().map(str::to_string);
        self.child = Some(child);
    }

    /// As a power cut does it to one process: no last word.
    pub fn kill_9(&mut self) {
        let mut child = self.child.take().expect("the node runs");
        child.kill().expect("SIGKILL");
        child.wait().expect("it ended");
    }

    /// Waits until the node stops by itself; gives the last of what it logged.
    pub fn wait_ended(&mut self) -> String {
        let mut child = self.child.take().expect("the node runs");
        wait_until("the node stops by itself", || child.try_wait().expect("it can be waited for").is_some());
        tail(&self.data.with_extension("log"))
    }

    /// SIGTERM, and its exit code.
    pub fn stop(&mut self) -> Option<i32> {
        let mut child = self.child.take().expect("the node runs");
        signal(&child, "TERM");
        let until = Instant::now() + PATIENCE;
        while Instant::now() < until {
            if let Some(status) = child.try_wait().expect("it can be waited for") {
                return status.code();
            }
            pause();
        }
        let _ = child.kill();
        let _ = child.wait();
        panic!("the node did not stop on SIGTERM:\n{}", tail(&self.data.with_extension("log")));
    }

    /// Stops it in its tracks: connections stay open and silent.
    pub fn freeze(&self) {
        signal(self.child.as_ref().expect("the node runs"), "STOP");
    }

    pub fn thaw(&self) {
        signal(self.child.as_ref().expect("the node runs"), "CONT");
    }

    /// Again in its folder, at its addresses.
    pub fn restart(&mut self) {
        assert!(self.child.is_none(), "the node still runs");
        self.spawn(&[]);
    }

    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// An `atoll` command that talks to this node.
    pub fn atoll(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("the built binary starts")
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = atoll();
        command.args(["--admin", &self.admin]).arg("--data").arg(&self.data).args(arguments);
        command
    }

    /// Runs commands that talk to this node, for a thread of its own.
    pub fn asker(&self) -> impl Fn(&[&str]) -> Output + Send + Sync + 'static {
        let (admin, data) = (self.admin.clone(), self.data.clone());
        move |arguments| {
            let mut command = atoll();
            command.args(["--admin", &admin]).arg("--data").arg(&data).args(arguments);
            command.output().expect("the built binary starts")
        }
    }

    /// The same, which must succeed and print JSON.
    pub fn json(&self, arguments: &[&str]) -> Value {
        let output = self.atoll(&[arguments, &["-o", "json"]].concat());
        assert!(output.status.success(), "atoll {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        serde_json::from_slice(&output.stdout).expect("JSON")
    }

    pub fn status(&self) -> Value {
        self.json(&["status"])
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Cluster {
    /// `count` nodes, settled: every shard has its replicas, every slot its holders.
    pub fn start(count: usize) -> Self {
        Self::with_flags(count, |_| Vec::new())
    }

    pub fn with_flags(count: usize, flags: impl Fn(usize) -> Vec<String>) -> Self {
        let cluster = Self::serving(count, flags);
        cluster.wait_settled();
        cluster
    }

    /// `count` nodes that serve, while replicas and slots may still move.
    pub fn serving(count: usize, flags: impl Fn(usize) -> Vec<String>) -> Self {
        let folder = TempDir::new().expect("a temporary folder");
        let mut cluster = Self { nodes: Vec::new(), folder };
        for number in 0..count {
            let flags = flags(number);
            cluster.join(&flags.iter().map(String::as_str).collect::<Vec<_>>());
        }
        cluster
    }

    /// Adds a node, the first as a cluster of its own.
    pub fn join(&mut self, flags: &[&str]) -> usize {
        let number = self.nodes.len();
        let data = self.folder.path().join(format!("node-{number}"));
        let ticket = self.nodes.first().map(|first| first.ticket.clone().expect("the founder has a ticket"));
        let mut flags = flags.to_vec();
        if let Some(ticket) = &ticket {
            flags.extend(["--join", ticket]);
        }
        self.nodes.push(NodeProcess::start(&data, &flags));
        number
    }

    pub fn running(&self) -> impl Iterator<Item = &NodeProcess> {
        self.nodes.iter().filter(|node| node.is_running())
    }

    /// Waits until a running node says that nothing moves and nothing is missing.
    pub fn wait_settled(&self) {
        let expected = self.nodes.len();
        wait_until("the cluster settles", || {
            let Some(node) = self.running().next() else { return false };
            let output = node.atoll(&["status", "-o", "json"]);
            let Ok(status) = serde_json::from_slice::<Value>(&output.stdout) else { return false };
            let nodes = status["nodes"].as_array().map_or(0, Vec::len);
            nodes >= expected.min(self.running().count())
                && status["health"] == "healthy"
                && status["moves"]["slots_moving"] == 0
                && status["moves"]["shards_moving"] == 0
                && status["moves"]["copies_missing"] == 0
        });
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// Waits for a condition, with a bound; the pause only sets how often it is looked at.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    wait_until_nothing_lacks(what, || (!condition()).then(String::new));
}

/// The same for what can say what it still lacks; the last of that is in the failure.
pub fn wait_until_nothing_lacks(what: &str, mut lacking: impl FnMut() -> Option<String>) {
    let until = Instant::now() + PATIENCE;
    while let Some(lacking) = lacking() {
        assert!(Instant::now() < until, "waited {PATIENCE:?} in vain until {what}: {lacking}");
        pause();
    }
}

/// Paces polling; nothing is timed by it.
pub fn pause() {
    std::thread::sleep(Duration::from_millis(50));
}

/// As Ctrl-C does.
pub fn interrupt(child: &Child) {
    signal(child, "INT");
}

fn signal(child: &Child, name: &str) {
    let status = Command::new("kill").args([&format!("-{name}"), &child.id().to_string()]).status();
    assert!(status.expect("kill runs").success(), "SIG{name} could not be sent");
}

fn tail(path: &Path) -> String {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

/// Runs a boto3 script against `endpoint`. It finds `s3`, a client with boto3's default
/// retries, and `client(endpoint)` for more; `args` are `sys.argv[1:]`. What it prints is
/// the result; an exception fails the test.
pub fn boto3(endpoint: &str, script: &str, args: &[&str]) -> String {
    let output = boto3_command(endpoint, script, args).output().expect("python3 runs");
    assert!(
        output.status.success(),
        "boto3 script failed:\n{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text")
}

const PRELUDE: &str = r#"
import boto3, botocore, hashlib, io, json, os, sys, threading, time
from botocore.client import Config
from botocore.exceptions import ClientError

def client(endpoint, **settings):
    settings.setdefault('connect_timeout', 5)
    return boto3.client('s3', endpoint_url=endpoint, config=Config(**settings))

def code_of(action):
    try:
        action()
        return None
    except ClientError as error:
        return error.response['Error']['Code']

endpoint = os.environ['ENDPOINT']
s3 = client(endpoint)
"#;

pub fn boto3_command(endpoint: &str, script: &str, args: &[&str]) -> Command {
    let mut command = Command::new("python3");
    command.arg("-c").arg(format!("{PRELUDE}\n{script}")).args(args).env("ENDPOINT", endpoint);
    credentials(&mut command);
    command
}

/// Runs `aws`, which must succeed; gives what it printed.
pub fn aws(endpoint: &str, arguments: &[&str]) -> String {
    let output = aws_output(endpoint, arguments);
    assert!(output.status.success(), "aws {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn aws_output(endpoint: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new("aws");
    command.args(["--endpoint-url", endpoint]).args(arguments);
    credentials(&mut command);
    command.output().expect("aws runs: `cargo xtask test` installs it")
}

/// Runs `rclone` with a remote named `atoll`, which must succeed.
pub fn rclone(endpoint: &str, arguments: &[&str]) -> String {
    let output = rclone_command(endpoint, arguments).output();
    let output = output.expect("rclone runs: `cargo xtask test` asks for it");
    assert!(output.status.success(), "rclone {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

pub fn rclone_command(endpoint: &str, arguments: &[&str]) -> Command {
    let mut command = Command::new("rclone");
    command
        .args(arguments)
        .env("RCLONE_CONFIG_ATOLL_TYPE", "s3")
        .env("RCLONE_CONFIG_ATOLL_PROVIDER", "Other")
        .env("RCLONE_CONFIG_ATOLL_ENDPOINT", endpoint)
        .env("RCLONE_CONFIG_ATOLL_ACCESS_KEY_ID", ACCESS_KEY)
        .env("RCLONE_CONFIG_ATOLL_SECRET_ACCESS_KEY", SECRET_KEY)
        .env("RCLONE_CONFIG_ATOLL_REGION", "us-east-1")
        .env("RCLONE_CONFIG", "/dev/null")
        // A folder of certificates for other places keeps rclone from starting.
        .env_remove("AWS_CA_BUNDLE");
    command
}

fn credentials(command: &mut Command) {
    command
        .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        .env("AWS_REGION", "us-east-1")
        .env("AWS_DEFAULT_REGION", "us-east-1")
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("AWS_CONFIG_FILE", "/dev/null")
        .env("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
        .env_remove("AWS_CA_BUNDLE");
}

/// A background process that is ended with the test, and asked for its output.
pub struct Background {
    child: Child,
}

impl Background {
    pub fn start(mut command: Command) -> Self {
        let child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).stdin(Stdio::piped()).spawn();
        Self { child: child.expect("it starts") }
    }

    /// Closes its standard input, which our scripts take as the sign to end, and gives
    /// what it printed.
    pub fn finish(mut self) -> String {
        drop(self.child.stdin.take());
        let mut text = String::new();
        let mut errors = String::new();
        let stdout = self.child.stdout.as_mut().expect("stdout is piped");
        stdout.read_to_string(&mut text).expect("text");
        let stderr = self.child.stderr.as_mut().expect("stderr is piped");
        stderr.read_to_string(&mut errors).expect("text");
        let status = self.child.wait().expect("it ended");
        assert!(status.success(), "a background script failed:\n{text}\n{errors}");
        text
    }

    /// The next line that it prints.
    pub fn line(&mut self) -> String {
        let stdout = self.child.stdout.as_mut().expect("stdout is piped");
        let mut line = Vec::new();
        let mut byte = [0];
        while stdout.read(&mut byte).is_ok_and(|read| read == 1) && byte[0] != b'\n' {
            line.push(byte[0]);
        }
        String::from_utf8(line).expect("text")
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
