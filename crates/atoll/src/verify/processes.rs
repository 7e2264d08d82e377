//! Nodes in processes of their own, on loopback, in one folder: started, killed, stopped
//! in their tracks.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::Stdio,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tokio::{
    process::{Child, Command},
    task::JoinSet,
};

use super::proxy::Network;
use crate::failure::{Failure, Fault};

pub const ACCESS_KEY: &str = "atoll-verify";
pub const SECRET_KEY: &str = "atoll-verify-secret";

pub struct Process {
    number: usize,
    folder: PathBuf,
    ports: [u16; 3],
    advertised: String,
    child: Option<Child>,
    network: Network,
}

/// A port that nobody has. Somebody may take it before the node does, which then says so.
fn free_port() -> Result<u16, Failure> {
    let bound = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    bound
        .map(|address| address.port())
        .map_err(|error| Failure::new(Fault::Internal, "no port is free").caused_by(&error))
}

impl Process {
    pub async fn new(
        number: usize,
        folder: &Path,
        network: &Network,
        tasks: &mut JoinSet<()>,
    ) -> Result<Self, Failure> {
        let ports = [free_port()?, free_port()?, free_port()?];
        let proxy = network
            .proxy(number, ports[2], tasks)
            .await
            .map_err(|error| Failure::new(Fault::Internal, "can't listen on loopback").caused_by(&error))?;
        let folder = folder.join(format!("node-{number}"));
        let (advertised, network) = (proxy.to_string(), network.clone());
        Ok(Self { number, folder, ports, advertised, child: None, network })
    }

    pub fn s3(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[0])
    }

    pub fn admin(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports[1])
    }

    pub fn folder(&self) -> &Path {
        &self.folder
    }

    pub fn is_running(&self) -> bool {
        self.child.is_some()
    }

    /// Its first life or the next; only the first needs a ticket, unless it founds.
    pub fn start(&mut self, ticket: Option<&str>) -> Result<(), Failure> {
        self.start_with(ticket, &[])
    }

    /// The same with more flags.
    pub fn start_with(&mut self, ticket: Option<&str>, flags: &[String]) -> Result<(), Failure> {
        let cannot = |what: &str, error: &std::io::Error| {
            Failure::new(Fault::Internal, format!("can't start node {}: {what}", self.number))
                .caused_by(error)
        };
        let program = std::env::current_exe().map_err(|error| cannot("no program", &error))?;
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(self.folder.with_extension("log"));
        let log = log.map_err(|error| cannot("no log file", &error))?;
        let mut command = Command::new(program);
        // A user's own settings are not for these nodes.
        for (name, _) in
            std::env::vars().filter(|(name, _)| name.starts_with("ATOLL_") && name != "ATOLL_LOG")
        {
            command.env_remove(name);
        }
        command.arg("up").arg("--data").arg(&self.folder);
        for (flag, port) in ["--s3-addr", "--admin-addr", "--node-addr"].into_iter().zip(self.ports) {
            command.arg(flag).arg(format!("127.0.0.1:{port}"));
        }
        command.arg("--advertise-addr").arg(&self.advertised);
        command.arg("--root-access-key").arg(ACCESS_KEY).env("ATOLL_ROOT_SECRET_KEY", SECRET_KEY);
        if let Some(ticket) = ticket {
            command.arg("--join").arg(ticket);
        }
        command.args(flags);
        let child = command
            // When we end, however, they do.
            .arg("--stop-with-stdin")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            // Ctrl-C reaches this process only.
            .process_group(0)
            .spawn()
            .map_err(|error| cannot("no process", &error))?;
        self.network.set_process(self.number, child.id());
        self.child = Some(child);
        Ok(())
    }

    /// As a power cut does it to one process: no last word.
    pub async fn kill(&mut self) {
        self.network.set_process(self.number, None);
        if let Some(mut child) = self.child.take() {
            // Gone already is as good.
            let _ = child.kill().await;
        }
    }

    fn signal(&self, signal: Signal) {
        if let Some(pid) = self.child.as_ref().and_then(Child::id) {
            // Gone already is as good.
            let _ = kill(Pid::from_raw(pid as i32), signal);
        }
    }

    /// Stops it in its tracks: connections stay open and silent.
    pub fn pause(&self) {
        self.signal(Signal::SIGSTOP);
    }

    pub fn resume(&self) {
        self.signal(Signal::SIGCONT);
    }

    /// A node that ended by itself, which none should.
    pub fn has_ended(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(Some(_))))
    }
}
