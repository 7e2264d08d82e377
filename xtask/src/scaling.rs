//! How a cluster scales, where a machine has fewer cores than the cluster processes: each process
//! is held to the same small share of a core, so that none takes what another needs.
#![allow(clippy::disallowed_methods, reason = "not part of a node")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::chores::{binary, root};

const USAGE: &str = "usage: cargo xtask scaling [PERCENT OF A CORE FOR EACH PROCESS, 15 if not given]";
const NODES: [usize; 3] = [1, 3, 5];
const CLIENTS: [usize; 4] = [1, 2, 4, 8];
/// Requests that a client has in flight.
const IN_FLIGHT: &str = "4";
const SECONDS: &str = "6";
/// The controller of Linux' control groups, version 1.
const CGROUPS: &str = "/sys/fs/cgroup/cpu";
/// Short against a request, or a process that has used up its share stops for as long.
const PERIOD_MICROS: u64 = 10_000;
const KEYS: [&str; 2] = ["scaling", "scaling-secret-of-a-test"];
const FIRST_PORT: usize = 19_000;
const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) fn scaling(rest: &[&str]) -> Result<(), String> {
    let percent = match rest {
        [] => 15,
        [percent] => percent.parse().ok().filter(|percent| (1..=100).contains(percent)).ok_or(USAGE)?,
        _ => return Err(USAGE.into()),
    };
    let atoll = binary("release");
    if !atoll.exists() {
        return Err(format!("{} is not there: cargo build --release", atoll.display()));
    }
    println!("Each process has {percent} % of a core, each client {IN_FLIGHT} requests in flight.\n");
    println!("| nodes | clients | puts/s | p50 | gets/s | p50 |\n|---|---|---|---|---|---|");
    for count in NODES {
        let cluster = Cluster::start(&atoll, count)?;
        let shares: Vec<Share> = cluster
            .nodes
            .iter()
            .enumerate()
            .map(|(number, node)| {
                let share = Share::new(&format!("node-{number}"), percent)?;
                share.hold(node.id())?;
                Ok(share)
            })
            .collect::<Result<_, String>>()?;
        for clients in CLIENTS {
            let rows = cluster.measure(&atoll, clients, percent)?;
            let [put, get] = ["put", "get"].map(|operation| Total::of(&rows, operation));
            println!(
                "| {count} | {clients} | {:.0} | {:.1} ms | {:.0} | {:.1} ms |",
                put.per_second, put.p50_millis, get.per_second, get.p50_millis
            );
        }
        drop(cluster);
        drop(shares);
    }
    Ok(())
}

/// What all clients did in one second, and the median of their medians.
struct Total {
    per_second: f64,
    p50_millis: f64,
}

impl Total {
    fn of(rows: &[Value], operation: &str) -> Self {
        let rows = rows.iter().filter(|row| row["operation"] == operation);
        let column = |name: &str| -> Vec<f64> { rows.clone().filter_map(|row| row[name].as_f64()).collect() };
        let mut medians = column("p50_millis");
        medians.sort_by(f64::total_cmp);
        Self {
            per_second: column("requests_per_second").iter().sum(),
            p50_millis: medians.get(medians.len() / 2).copied().unwrap_or(f64::NAN),
        }
    }
}

/// A control group, taken away when it is dropped; what ran in it has ended by then.
struct Share(PathBuf);

impl Share {
    fn new(name: &str, percent: u64) -> Result<Self, String> {
        let folder = Path::new(CGROUPS).join(format!("atoll-scaling-{name}"));
        let write = |file: &str, number: u64| fs::write(folder.join(file), number.to_string());
        fs::create_dir_all(&folder)
            .and_then(|()| write("cpu.cfs_period_us", PERIOD_MICROS))
            .and_then(|()| write("cpu.cfs_quota_us", PERIOD_MICROS * percent / 100))
            .map_err(|error| format!("{}: {error}; this needs root and cgroups v1", folder.display()))?;
        Ok(Self(folder))
    }

    fn hold(&self, process: u32) -> Result<(), String> {
        fs::write(self.0.join("cgroup.procs"), process.to_string()).map_err(|error| error.to_string())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

struct Cluster {
    nodes: Vec<Child>,
    folder: PathBuf,
}

impl Cluster {
    fn start(atoll: &Path, count: usize) -> Result<Self, String> {
        let folder = root().join("target/tmp/scaling");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).map_err(|error| error.to_string())?;
        let mut cluster = Self { nodes: Vec::new(), folder };
        let mut ticket = None;
        for number in 0..count {
            let serving = cluster.start_node(atoll, number, ticket.as_deref())?;
            ticket = ticket.or_else(|| serving["ticket"].as_str().map(str::to_owned));
        }
        let begun = Instant::now();
        while !cluster.is_settled(atoll, count) {
            if begun.elapsed() > PATIENCE {
                return Err(format!("{count} nodes are not in order after {PATIENCE:?}"));
            }
            sleep(Duration::from_millis(500));
        }
        Ok(cluster)
    }

    /// Gives what it says once it serves.
    fn start_node(&mut self, atoll: &Path, number: usize, ticket: Option<&str>) -> Result<Value, String> {
        let data = self.data(number);
        let log = fs::File::create(data.with_extension("log")).map_err(|error| error.to_string())?;
        let mut command = Command::new(atoll);
        command.args(["up", "-o", "json", "--data"]).arg(&data).stdout(Stdio::piped()).stderr(log);
        for (place, option) in ["--s3-addr", "--admin-addr", "--node-addr"].into_iter().enumerate() {
            command.args([option, &format!("127.0.0.1:{}", port(number, place))]);
        }
        command.args(["--root-access-key", KEYS[0], "--root-secret-key", KEYS[1]]);
        if let Some(ticket) = ticket {
            command.args(["--join", ticket]);
        }
        let mut node = command.spawn().map_err(|error| format!("{command:?}: {error}"))?;
        let output = node.stdout.take().expect("it is piped");
        self.nodes.push(node);
        let said = serde_json::Deserializer::from_reader(output).into_iter::<Value>().next();
        said.ok_or_else(|| format!("node {number} ended before it served"))?
            .map_err(|error| format!("what node {number} says is no JSON: {error}"))
    }

    fn data(&self, number: usize) -> PathBuf {
        self.folder.join(format!("node-{number}"))
    }

    /// Whether all are there, nothing moves, and nothing is missing.
    fn is_settled(&self, atoll: &Path, count: usize) -> bool {
        let mut status = Command::new(atoll);
        status.args(["--admin", &format!("http://127.0.0.1:{}", port(0, 1)), "--data"]).arg(self.data(0));
        let status = status.args(["status", "-o", "json"]).output();
        let Some(status) =
            status.ok().and_then(|output| serde_json::from_slice::<Value>(&output.stdout).ok())
        else {
            return false;
        };
        let moves = ["slots_moving", "shards_moving", "copies_missing"];
        status["nodes"].as_array().is_some_and(|nodes| nodes.len() == count)
            && status["health"] == "healthy"
            && moves.iter().all(|what| status["moves"][what] == 0)
    }

    /// Each client is a process of its own, at one node, the next client at the next.
    fn measure(&self, atoll: &Path, clients: usize, percent: u64) -> Result<Vec<Value>, String> {
        let mut running = Vec::new();
        for number in 0..clients {
            let share = Share::new(&format!("client-{number}"), percent)?;
            let mut command = Command::new(atoll);
            command.args(["bench", "s3", "-o", "json", "--operations", "put,get", "--sizes", "4KiB"]);
            command.args(["--clients", IN_FLIGHT, "--seconds", SECONDS, "--objects", "64"]);
            command.args(["--access-key", KEYS[0], "--secret-key", KEYS[1], "--endpoint"]);
            command.arg(format!("http://127.0.0.1:{}", port(number % self.nodes.len(), 0)));
            let client = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
            let client = client.map_err(|error| format!("{command:?}: {error}"))?;
            share.hold(client.id())?;
            running.push((client, share));
        }
        let mut rows = Vec::new();
        for (client, _share) in running {
            let output = client.wait_with_output().map_err(|error| error.to_string())?;
            let report: Value = serde_json::from_slice(&output.stdout)
                .map_err(|error| format!("a client ended with {}: {error}", output.status))?;
            rows.extend(report["rows"].as_array().into_iter().flatten().cloned());
        }
        Ok(rows)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for node in &mut self.nodes {
            let _ = node.kill();
            let _ = node.wait();
        }
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn port(node: usize, place: usize) -> usize {
    FIRST_PORT + node * 10 + place
}
