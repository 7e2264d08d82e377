//! `atoll dev`: a cluster of real processes on this machine, for trying and developing.

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, Command},
    signal::unix::{SignalKind, signal},
};

use crate::{
    client::AdminClient,
    failure::{Failure, Fault, Outcome},
};

/// Start several node processes on loopback, and stop them all on Ctrl-C.
#[derive(Debug, clap::Args)]
pub struct Dev {
    /// How many nodes.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..=NODES_MAX))]
    nodes: u16,
    /// The first node's S3 port; admin and node ports follow it, and each further node
    /// is 10 higher.
    #[arg(long, default_value_t = 9000)]
    port: u16,
    /// The access key of a new cluster.
    #[arg(long, default_value = "atoll-dev")]
    root_access_key: String,
    /// Its secret.
    #[arg(long, default_value = "atoll-dev-secret")]
    root_secret_key: String,
}

/// More than a laptop runs anyway; the ports stay below 10,000.
const NODES_MAX: i64 = 50;
/// A debug build on a busy machine starts in a second or two.
const READY_TIME: Duration = Duration::from_secs(60);
/// A node hands over its leaderships and flushes in well under this.
const STOP_TIME: Duration = Duration::from_secs(15);

struct DevNode {
    number: u16,
    child: Child,
}

impl Dev {
    /// `data` holds a folder for each node, and is kept: the next `dev` carries on.
    pub async fn run(self, data: Option<PathBuf>) -> Outcome {
        let data = data.unwrap_or_else(|| "atoll-dev".into());
        DevCluster { dev: self, data }.run().await
    }
}

struct DevCluster {
    dev: Dev,
    data: PathBuf,
}

impl DevCluster {
    fn ports(&self, number: u16) -> [u16; 3] {
        let first = self.dev.port + (number - 1) * 10;
        [first, first + 1, first + 2]
    }

    fn folder(&self, number: u16) -> PathBuf {
        self.data.join(format!("node-{number}"))
    }

    async fn run(self) -> Outcome {
        let highest = u32::from(self.dev.port) + u32::from(self.dev.nodes) * 10;
        if highest > u32::from(u16::MAX) {
            return Err(Failure::new(
                Fault::Configuration,
                format!("{} nodes from port {} need ports up to {highest}", self.dev.nodes, self.dev.port),
            ));
        }
        let mut stop = StopSignal::new()?;
        let mut nodes = Vec::new();
        let outcome = tokio::select! {
            biased;
            () = stop.received() => Ok(()),
            outcome = self.start_and_watch(&mut nodes) => outcome,
        };
        eprintln!("stopping {} nodes", nodes.len());
        for node in &nodes {
            if let Some(pid) = node.child.id() {
                let pid = nix::unistd::Pid::from_raw(pid as i32);
                // Gone already is as good as stopped.
                let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM);
            }
        }
        for node in &mut nodes {
            if !matches!(tokio::time::timeout(STOP_TIME, node.child.wait()).await, Ok(Ok(_))) {
                eprintln!("node {} did not stop in {STOP_TIME:?}; killing it", node.number);
                // It may have ended just now.
                let _ = node.child.kill().await;
            }
        }
        outcome
    }

    async fn start_and_watch(&self, nodes: &mut Vec<DevNode>) -> Outcome {
        nodes.push(self.start(1, None)?);
        let [s3, admin, _] = self.ports(1);
        let client = AdminClient::new(&format!("http://127.0.0.1:{admin}"), None, Some(&self.folder(1)));
        self.wait_ready(&client, nodes).await?;
        let client = AdminClient::new(&format!("http://127.0.0.1:{admin}"), None, Some(&self.folder(1)));
        if self.dev.nodes > 1 {
            let ticket =
                client.create_ticket(u32::from(self.dev.nodes) - 1, Duration::from_secs(600)).await?;
            for number in 2..=self.dev.nodes {
                nodes.push(self.start(number, Some(&ticket.ticket))?);
            }
        }
        println!(
            "{} nodes; S3 at http://127.0.0.1:{s3}, admin at http://127.0.0.1:{admin}\n\n  \
             export AWS_ACCESS_KEY_ID={} AWS_SECRET_ACCESS_KEY={} AWS_REGION=us-east-1 AWS_ENDPOINT_URL=http://127.0.0.1:{s3}\n  \
             export ATOLL_ADMIN=http://127.0.0.1:{admin} ATOLL_DATA={}\n  \
             atoll status\n\nCtrl-C stops them all.",
            self.dev.nodes,
            self.dev.root_access_key,
            self.dev.root_secret_key,
            std::path::absolute(self.folder(1)).unwrap_or(self.folder(1)).display(),
        );
        loop {
            for node in nodes.iter_mut() {
                if let Ok(Some(status)) = node.child.try_wait() {
                    // The others carry on: that is what they are for.
                    eprintln!("node {} ended: {status}", node.number);
                }
            }
            nodes.retain(|node| node.child.id().is_some());
            if nodes.is_empty() {
                return Err(Failure::new(Fault::Internal, "every node ended"));
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    fn start(&self, number: u16, ticket: Option<&str>) -> Result<DevNode, Failure> {
        let program = std::env::current_exe().map_err(|error| {
            Failure::new(Fault::Internal, "can't find this program's own file").caused_by(&error)
        })?;
        let [s3, admin, node] = self.ports(number);
        let mut command = Command::new(program);
        command.arg("up").arg("--data").arg(self.folder(number));
        for (flag, port) in [("--s3-addr", s3), ("--admin-addr", admin), ("--node-addr", node)] {
            command.arg(flag).arg(format!("127.0.0.1:{port}"));
        }
        command.arg("--root-access-key").arg(&self.dev.root_access_key);
        command.env("ATOLL_ROOT_SECRET_KEY", &self.dev.root_secret_key);
        command.arg("--stop-with-stdin");
        if let Some(ticket) = ticket {
            command.arg("--join").arg(ticket);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C reaches this process only, which stops them in its own time.
            .process_group(0)
            .spawn()
            .map_err(|error| {
                Failure::new(Fault::Internal, format!("can't start node {number}")).caused_by(&error)
            })?;
        if let Some(stdout) = child.stdout.take() {
            tokio::spawn(relay_lines(number, stdout));
        }
        if let Some(stderr) = child.stderr.take() {
            tokio::spawn(relay_lines(number, stderr));
        }
        Ok(DevNode { number, child })
    }

    async fn wait_ready(&self, client: &AdminClient, nodes: &mut [DevNode]) -> Outcome {
        let ready = async {
            while !client.is_ready().await {
                if let Ok(Some(status)) = nodes[0].child.try_wait() {
                    return Err(Failure::new(
                        Fault::Configuration,
                        format!("the first node ended: {status}"),
                    )
                    .hint("its own words are above; another `atoll` may hold the ports (see --port)"));
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            Ok(())
        };
        tokio::time::timeout(READY_TIME, ready).await.unwrap_or_else(|_| {
            Err(Failure::new(Fault::Internal, format!("the first node was not ready within {READY_TIME:?}")))
        })
    }
}

/// Ctrl-C or SIGTERM, whichever comes first.
pub struct StopSignal {
    interrupt: tokio::signal::unix::Signal,
    terminate: tokio::signal::unix::Signal,
}

impl StopSignal {
    pub fn new() -> Result<Self, Failure> {
        let listen = |kind| {
            signal(kind)
                .map_err(|error| Failure::new(Fault::Internal, "can't listen for signals").caused_by(&error))
        };
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    pub async fn received(&mut self) {
        tokio::select! {
            biased;
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Prints a node's lines with its number, in its colour on a terminal.
async fn relay_lines(number: u16, stream: impl AsyncRead + Unpin) {
    const COLOURS: [u8; 6] = [36, 33, 35, 32, 34, 31];
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let label = if colour {
        format!("\x1b[{}mnode {number} │\x1b[0m", COLOURS[usize::from(number - 1) % COLOURS.len()])
    } else {
        format!("node {number} |")
    };
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        eprintln!("{label} {line}");
    }
}

/// Where the token lies that `up` left for the CLI.
pub fn token_file(data: &Path) -> PathBuf {
    data.join("admin-token")
}
