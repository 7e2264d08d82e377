//! `atoll up`: run a node.

use std::{net::SocketAddr, path::PathBuf};

use atoll_node::{
    RunningNode, UpError,
    settings::{self, SettingsError, SettingsSource},
    ticket::Ticket,
};
use serde::Serialize;

use crate::{
    dev::StopSignal,
    failure::{Failure, Fault, Outcome},
    logs::{self, LogFormat},
    output::Output,
};

/// Start a node, or carry on with what its data folder has.
///
/// Without --join a fresh node founds a cluster of its own and prints a ticket, with which
/// further nodes join.
#[derive(Debug, clap::Args)]
pub struct Up {
    /// Join the cluster that issued this ticket; ignored by a node that is a member.
    #[arg(long, value_name = "TICKET")]
    join: Option<String>,
    /// Where S3 is served. [default: 127.0.0.1:9000]
    #[arg(long, value_name = "ADDRESS")]
    s3_addr: Option<SocketAddr>,
    /// Where the admin API is served. [default: 127.0.0.1:9001]
    #[arg(long, value_name = "ADDRESS")]
    admin_addr: Option<SocketAddr>,
    /// Where other nodes connect. [default: 0.0.0.0:9002]
    #[arg(long, value_name = "ADDRESS")]
    node_addr: Option<SocketAddr>,
    /// The host:port that other nodes are told, when it differs (NAT, several networks).
    #[arg(long, value_name = "HOST:PORT")]
    advertise_addr: Option<String>,
    /// The failure domain: rack, room or site. [default: default]
    #[arg(long)]
    zone: Option<String>,
    /// How much this node offers, such as 500GiB. [default: the file system's size]
    #[arg(long, value_name = "SIZE")]
    capacity: Option<String>,
    /// The first access key of a new cluster. [default: drawn at random]
    #[arg(long, value_name = "KEY")]
    root_access_key: Option<String>,
    /// Its secret.
    #[arg(long, value_name = "SECRET")]
    root_secret_key: Option<String>,
    /// A name under which clients reach S3: bucket.NAME then means that bucket. Several are
    /// separated by commas.
    #[arg(long, value_name = "NAME")]
    s3_domains: Option<String>,
    /// Serve S3 over HTTPS, with a certificate of the node's own unless one is given.
    #[arg(long)]
    s3_https: bool,
    /// The certificate chain for HTTPS, in PEM; read once, at start.
    #[arg(long, value_name = "FILE")]
    s3_cert: Option<PathBuf>,
    /// Its private key, in PEM.
    #[arg(long, value_name = "FILE")]
    s3_key: Option<PathBuf>,
    /// The file with the root key that objects are encrypted with; the same key at every
    /// node, and not in the data folder. `atoll key-file create` makes one.
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// A shorter day for the lifecycle rules of buckets, such as 10s: for tests.
    #[arg(long, value_name = "DURATION", hide = true)]
    lifecycle_day: Option<String>,
    /// How often snapshots are taken, such as 1h, or `off`. [env: ATOLL_SNAPSHOT_EVERY] [default: 1h]
    #[arg(long, value_name = "TIME")]
    snapshot_every: Option<String>,
    /// For how long they are kept. [env: ATOLL_SNAPSHOT_KEEP] [default: 7d]
    #[arg(long, value_name = "TIME")]
    snapshot_keep: Option<String>,
    /// Sizes of the overlay's tables, such as kademlia_k=1: for experiments.
    #[arg(long, value_name = "NAME=SIZE,…", hide = true)]
    overlay_tables: Option<String>,
    /// The settings file. [env: ATOLL_SETTINGS] [default: atoll.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    settings: Option<PathBuf>,
    /// How logs are written to stderr; ATOLL_LOG sets what is logged.
    #[arg(long, value_enum, default_value_t)]
    log_format: LogFormat,
    /// Stop when standard input ends: with the process that holds the other end.
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
    #[command(flatten)]
    output: Output,
}

/// What `up` tells: once, when the node serves.
#[derive(Serialize)]
struct Screen {
    version: &'static str,
    node: String,
    cluster: String,
    data: PathBuf,
    s3_endpoint: String,
    s3_own_cert: Option<PathBuf>,
    admin_endpoint: String,
    node_addresses: Vec<String>,
    access_key: Option<String>,
    secret_key: Option<String>,
    ticket: Option<String>,
}

impl Up {
    pub async fn run(self, data: Option<PathBuf>) -> Outcome {
        logs::start(self.log_format);
        let ticket = self.join.as_deref().map(str::parse::<Ticket>).transpose().map_err(|error| {
            Failure::new(Fault::Configuration, "this is not a ticket")
                .caused_by(&error)
                .hint("make one where the cluster runs: atoll ticket create")
        })?;
        let flags = SettingsSource {
            data,
            s3_addr: self.s3_addr,
            admin_addr: self.admin_addr,
            node_addr: self.node_addr,
            advertise_addr: self.advertise_addr,
            zone: self.zone,
            capacity: self.capacity,
            root_access_key: self.root_access_key,
            root_secret_key: self.root_secret_key,
            lifecycle_day: self.lifecycle_day,
            snapshot_every: self.snapshot_every,
            snapshot_keep: self.snapshot_keep,
            overlay_tables: self.overlay_tables,
            s3_domains: self.s3_domains,
            s3_https: self.s3_https.then_some(true),
            s3_cert: self.s3_cert,
            s3_key: self.s3_key,
            key_file: self.key_file,
        };
        let settings = settings::load(flags, self.settings).map_err(settings_failure)?;
        let mut stop = StopSignal::new()?;
        let node = tokio::select! {
            biased;
            () = stop.received() => return Ok(()),
            node = atoll_node::up(settings, ticket) => node.map_err(up_failure)?,
        };
        let screen = screen(&node);
        self.output.show(&screen, print_screen);
        let ended = tokio::select! {
            biased;
            () = stop.received() => None,
            () = stdin_ended(self.stop_with_stdin) => None,
            error = node.failed() => Some(error),
        };
        match ended {
            None => {
                tracing::info!("stopping");
                node.stop().await;
                Ok(())
            }
            Some(error) => {
                let hint = error.hint();
                // What a person has to mend has a hint.
                let fault = if hint.is_some() { Fault::Configuration } else { Fault::Internal };
                let failure = Failure::new(fault, "the node stopped itself").caused_by(&error);
                Err(match hint {
                    Some(hint) => failure.hint(hint),
                    None => failure,
                })
            }
        }
    }
}

/// Resolves at the end of standard input, if that was asked for.
async fn stdin_ended(asked: bool) {
    if !asked {
        return std::future::pending().await;
    }
    let mut sink = tokio::io::sink();
    // However it ends, the other side is gone.
    let _ = tokio::io::copy(&mut tokio::io::stdin(), &mut sink).await;
}

pub fn settings_failure(error: SettingsError) -> Failure {
    Failure::from_error(Fault::Configuration, &error).hint("atoll up --help lists the settings")
}

fn up_failure(error: UpError) -> Failure {
    let hint = error.hint();
    let fault = if error.is_unavailable() { Fault::Unavailable } else { Fault::Configuration };
    let failure = Failure::from_error(fault, &error);
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

fn screen(node: &RunningNode) -> Screen {
    let facts = node.facts();
    Screen {
        version: env!("CARGO_PKG_VERSION"),
        node: facts.node.to_string(),
        cluster: facts.cluster.to_string(),
        data: std::path::absolute(&facts.data).unwrap_or_else(|_| facts.data.clone()),
        s3_endpoint: format!("{}://{}", if facts.https { "https" } else { "http" }, reachable(facts.s3_addr)),
        s3_own_cert: facts
            .own_cert
            .as_ref()
            .map(|path| std::path::absolute(path).unwrap_or_else(|_| path.clone())),
        admin_endpoint: format!("http://{}", reachable(facts.admin_addr)),
        node_addresses: facts.node_addresses.clone(),
        access_key: facts.root_key.as_ref().map(|key| key.access_key.clone()),
        secret_key: facts.root_key.as_ref().map(|key| key.secret_key.clone()),
        ticket: facts.ticket.as_ref().map(Ticket::to_string),
    }
}

/// An address that a client on this machine can use.
fn reachable(address: SocketAddr) -> SocketAddr {
    if !address.ip().is_unspecified() {
        return address;
    }
    let loopback: std::net::IpAddr = if address.is_ipv4() {
        std::net::Ipv4Addr::LOCALHOST.into()
    } else {
        std::net::Ipv6Addr::LOCALHOST.into()
    };
    SocketAddr::new(loopback, address.port())
}

fn print_screen(screen: &Screen) {
    let short = |id: &str| id[..10].to_string();
    println!(
        "Atoll {}, node {} of cluster {}\n",
        screen.version,
        short(&screen.node),
        short(&screen.cluster)
    );
    println!("  S3 endpoint   {}", screen.s3_endpoint);
    println!("  Admin API     {}", screen.admin_endpoint);
    println!("  Other nodes   {}", screen.node_addresses.join(", "));
    println!("  Data folder   {}", screen.data.display());
    match (&screen.access_key, &screen.secret_key) {
        (Some(access), Some(secret)) => {
            println!("  Access key    {access}");
            println!("  Secret key    {secret}");
        }
        _ => println!("  Access key    as it was when the cluster was created"),
    }
    println!("\nPoint any S3 client at it:\n");
    if let (Some(access), Some(secret)) = (&screen.access_key, &screen.secret_key) {
        println!("  export AWS_ACCESS_KEY_ID={access} AWS_SECRET_ACCESS_KEY={secret}");
    }
    println!("  export AWS_REGION=us-east-1 AWS_ENDPOINT_URL={}", screen.s3_endpoint);
    if let Some(cert) = &screen.s3_own_cert {
        println!("  export AWS_CA_BUNDLE={}", cert.display());
    }
    println!("  aws s3 mb s3://first && aws s3 cp README.md s3://first/ && aws s3 ls s3://first\n");
    match &screen.ticket {
        Some(ticket) => {
            println!(
                "Add a machine (10 joins within an hour; more: atoll ticket create):\n\n  atoll up --join {ticket}\n"
            );
        }
        None => println!("Add a machine: `atoll ticket create` here, `atoll up --join TICKET` there.\n"),
    }
    println!("How it is: `atoll status`. Ctrl-C stops this node; nothing is lost.");
}
