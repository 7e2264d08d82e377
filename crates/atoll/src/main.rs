//! Atoll's command line: one binary that serves, and the commands that talk to it.
//!
//! The only crate that prints and reads flags. Commands on a cluster go through the admin API,
//! the same that anyone may use.

// The command line stands above the node: nothing here runs in the simulation, so it
// uses tokio and the clocks directly.
#![allow(clippy::disallowed_methods)]

mod audit;
mod backup;
mod bench;
mod bucket;
mod client;
mod cluster;
mod dev;
mod failure;
mod key;
mod key_file;
mod kv;
mod lab;
mod lock;
mod logs;
mod node;
mod other;
mod output;
mod overlay;
mod recover;
mod restore;
mod simulate;
mod snapshot;
mod status;
mod sure;
mod ticket;
mod up;
mod user;
mod verify;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use client::{AdminArgs, AdminClient};

/// glibc's gives the pages of each chunk back to the kernel, and a third of a transfer's time
/// goes into getting them again (measured with `atoll bench transport`). Mimalloc 3 kept 60 MiB
/// for a node that had come to rest and used 8; this one gives back what rests for some seconds.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Enough to keep several disks busy while as many threads hash. Each keeps the pages of what
/// it allocated: with tokio's 512 a node under load grew to 135 threads and 1.5 GiB, with 16 to
/// 390 MiB, and large gets were 1.5 times as fast (two cores, `atoll bench s3`).
const BLOCKING_THREADS_MAX: usize = 16;

/// Atoll turns machines you own into one system.
///
/// Start a node with `atoll up`; it prints how to use it and how to add machines.
#[derive(Debug, Parser)]
#[command(name = "atoll", version, propagate_version = true, arg_required_else_help = true)]
struct Cli {
    #[command(flatten)]
    admin: AdminArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Up(Box<up::Up>),
    Dev(dev::Dev),
    Status(status::StatusCommand),
    /// Drain and remove nodes.
    #[command(subcommand)]
    Node(node::NodeCommand),
    /// Users: who owns buckets, and whom keys speak for.
    #[command(subcommand)]
    User(user::UserCommand),
    /// Access keys, with which users sign their S3 requests.
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// The root key, with which objects are encrypted.
    #[command(subcommand)]
    KeyFile(key_file::KeyFileCommand),
    /// Buckets, their owners, and to whom they are granted.
    #[command(subcommand)]
    Bucket(bucket::BucketCommand),
    /// What administrators did and what was denied, and whether that trail is whole.
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Tickets, with which new nodes join.
    #[command(subcommand)]
    Ticket(ticket::TicketCommand),
    /// Strongly consistent keys and values.
    #[command(subcommand)]
    Kv(kv::KvCommand),
    Lock(lock::Lock),
    /// What the whole cluster agrees on.
    #[command(subcommand)]
    Cluster(cluster::ClusterCommand),
    /// How nodes find each other and content without asking a centre.
    #[command(subcommand)]
    Overlay(overlay::OverlayCommand),
    Recover(recover::Recover),
    /// Snapshots of all shards, taken every hour and kept for a week.
    #[command(subcommand)]
    Snapshot(snapshot::SnapshotCommand),
    Backup(backup::Backup),
    Restore(restore::Restore),
    /// Measure a store or a wire from outside.
    #[command(subcommand)]
    Bench(bench::BenchCommand),
    /// Experiments on overlays: what each kind costs, measured on simulated networks.
    #[command(subcommand)]
    Lab(lab::LabCommand),
    Simulate(simulate::Simulate),
    Verify(verify::Verify),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            return failure::Failure::new(failure::Fault::Internal, "can't start threads")
                .caused_by(&error)
                .print();
        }
    };
    let code = runtime.block_on(run(cli));
    // What still runs ends with the process. Taken down in order, tasks would find the threads
    // gone that they wait for, and panic on the user's screen.
    std::mem::forget(runtime);
    code
}

async fn run(cli: Cli) -> ExitCode {
    let client = || AdminClient::from_args(&cli.admin);
    let outcome = match cli.command {
        Command::Up(up) => up.run(cli.admin.data.clone()).await,
        Command::Dev(dev) => dev.run(cli.admin.data.clone()).await,
        Command::Status(status) => status.run(&client()).await,
        Command::Node(node) => node.run(&client()).await,
        Command::User(user) => user.run(&client()).await,
        Command::Key(key) => key.run(&client()).await,
        Command::KeyFile(key_file) => key_file.run(),
        Command::Bucket(bucket) => bucket.run(&client()).await,
        Command::Audit(audit) => audit.run(&client()).await,
        Command::Ticket(ticket) => ticket.run(&client()).await,
        Command::Kv(kv) => kv.run(&client()).await,
        Command::Lock(lock) => return lock.run(&client()).await,
        Command::Recover(recover) => recover.run(cli.admin.data.clone()).await,
        Command::Snapshot(snapshot) => snapshot.run(&client()).await,
        Command::Backup(backup) => backup.run(&client()).await,
        Command::Restore(restore) => restore.run(&client()).await,
        Command::Bench(bench) => bench.run().await,
        Command::Cluster(cluster) => cluster.run(&client()).await,
        Command::Lab(lab) => lab.run().await,
        Command::Overlay(overlay) => overlay.run(&client()).await,
        Command::Verify(verify) => verify.run().await,
        Command::Simulate(simulate) => return simulate.run().await,
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.print(),
    }
}
