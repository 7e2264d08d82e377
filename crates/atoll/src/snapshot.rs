//! `atoll snapshot`, and what `backup` and `restore` read of snapshots.

use std::time::{Duration, Instant};

use atoll_gateway::admin::api::{SnapshotBegun, SnapshotList, SnapshotRound};
use atoll_types::ChunkHash;
use bytes::Bytes;
use http::Method;

use crate::{
    client::AdminClient,
    failure::{Failure, Fault, Outcome},
    output::{Output, age, table},
};

#[derive(Debug, clap::Subcommand)]
pub enum SnapshotCommand {
    /// The snapshots that are kept: points to which `atoll restore --at` can go back.
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Take one of all shards now, and wait until it is there.
    Take {
        /// How long to wait: a shard with a million objects takes about a minute.
        #[arg(long, default_value = "1h", value_parser = humantime::parse_duration, value_name = "TIME")]
        wait: Duration,
        #[command(flatten)]
        output: Output,
    },
}

impl SnapshotCommand {
    pub async fn run(self, client: &AdminClient) -> Outcome {
        match self {
            SnapshotCommand::List { output } => {
                let list = client.snapshots().await?;
                output.show(&list, |list| print(&list.rounds));
            }
            SnapshotCommand::Take { wait, output } => {
                let round = client.take_snapshot(wait).await?;
                output.show(&round, |round| print(std::slice::from_ref(round)));
            }
        }
        Ok(())
    }
}

fn print(rounds: &[SnapshotRound]) {
    let rows = rounds.iter().map(|round| {
        [
            round.round.to_string(),
            time(round.taken_millis),
            round.shards.len().to_string(),
            if round.complete { "yes" } else { "no" }.into(),
            age(round.taken_millis),
        ]
    });
    println!("{}", table(["ROUND", "TAKEN", "SHARDS", "COMPLETE", "AGE"], rows));
}

/// As `--at` takes it.
pub fn time(millis: u64) -> String {
    let time = std::time::UNIX_EPOCH + Duration::from_millis(millis);
    humantime::format_rfc3339_millis(time).to_string()
}

/// Between two looks whether all shards have their snapshots.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl AdminClient {
    pub async fn snapshots(&self) -> Result<SnapshotList, Failure> {
        self.get("/v1/snapshots").await
    }

    /// Takes one more, and waits for it. Nodes turn to the newest round, so if another is begun
    /// meanwhile that one may be complete and this one never: it does as well, being later.
    pub async fn take_snapshot(&self, wait: Duration) -> Result<SnapshotRound, Failure> {
        let SnapshotBegun { round } = self.post("/v1/snapshots", &()).await?;
        let until = Instant::now() + wait;
        loop {
            let list = self.snapshots().await?;
            let (complete, begun): (Vec<_>, Vec<_>) = list
                .rounds
                .into_iter()
                .filter(|found| found.round >= round)
                .partition(|found| found.complete);
            match complete.into_iter().next() {
                Some(found) => return Ok(found),
                None if Instant::now() >= until => {
                    let shards = begun.iter().map(|found| found.shards.len()).max().unwrap_or(0);
                    let message = format!("only {shards} shards have their snapshot after {wait:?}");
                    return Err(Failure::new(Fault::Unavailable, message)
                        .hint("does every shard have a leader? atoll status; else give it longer: --wait"));
                }
                None => tokio::time::sleep(LOOK_EVERY).await,
            }
        }
    }

    /// A chunk of the cluster, verified.
    pub async fn chunk(&self, hash: ChunkHash) -> Result<Bytes, Failure> {
        let bytes = self.bytes(Method::GET, &format!("/v1/chunks/{hash}"), None).await?;
        if ChunkHash::of(&bytes) != hash {
            let message = format!("the node gave other bytes than those of chunk {hash}");
            return Err(Failure::new(Fault::Unavailable, message));
        }
        Ok(bytes)
    }
}
