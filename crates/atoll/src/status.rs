//! `atoll status`

use std::time::Duration;

use atoll_gateway::admin::api::{NodeStatus, Status};
use atoll_types::ByteSize;

use crate::{
    client::AdminClient,
    failure::{Failure, Outcome},
    output::{Output, table},
};

/// The cluster as the node sees it: nodes, shards, copies, and what moves.
#[derive(Debug, clap::Args)]
pub struct StatusCommand {
    /// Every shard, with its leader and voters.
    #[arg(long)]
    shards: bool,
    #[command(flatten)]
    output: Output,
}

impl StatusCommand {
    pub async fn run(self, client: &AdminClient) -> Outcome {
        let status = client.status().await?;
        self.output.show(&status, |status| print(status, self.shards));
        Ok(())
    }
}

impl AdminClient {
    pub async fn status(&self) -> Result<Status, Failure> {
        self.get("/v1/status").await
    }
}

pub fn short(id: &str) -> &str {
    id.get(..10).unwrap_or(id)
}

fn print(status: &Status, shards: bool) {
    println!("Cluster {}: {}", short(&status.cluster), status.health);
    println!("As seen by node {}, layout {}.", short(&status.seen_by), status.layout_version);
    for note in &status.notes {
        println!("  ! {note}");
    }
    println!();
    print_nodes(&status.nodes);
    println!();
    let led = status.shards.iter().filter(|shard| shard.leader.is_some()).count();
    let moves = &status.moves;
    println!(
        "Shards   {} of {} have a leader, {} change replicas",
        led,
        status.shards.len(),
        moves.shards_moving
    );
    println!("Copies   {} missing, {} slots move", moves.copies_missing, moves.slots_moving);
    if moves.bytes_to_move > 0 || moves.slots_moving > 0 {
        let left = match moves.seconds_left {
            Some(seconds) => {
                format!(", about {} left", humantime::format_duration(Duration::from_secs(seconds)))
            }
            None => String::new(),
        };
        println!(
            "Moving   {} to go at {}/s{left}",
            ByteSize(moves.bytes_to_move),
            ByteSize(moves.bytes_per_second)
        );
    }
    if shards {
        let rows = status.shards.iter().map(|shard| {
            let list = |ids: &[String]| ids.iter().map(|id| short(id)).collect::<Vec<_>>().join(" ");
            [
                shard.shard.to_string(),
                shard.leader.as_deref().map_or("none".into(), |id| short(id).into()),
                list(&shard.voters),
                list(&shard.learners),
                if shard.changing { "changing".into() } else { "settled".into() },
            ]
        });
        println!("\n{}", table(["SHARD", "LEADER", "VOTERS", "LEARNERS", "STATE"], rows));
    }
}

pub fn print_nodes(nodes: &[NodeStatus]) {
    let rows = nodes.iter().map(|node| {
        [
            short(&node.id).to_string(),
            node.liveness.clone(),
            if node.is_empty && node.state != "active" {
                format!("{}, empty", node.state)
            } else {
                node.state.clone()
            },
            node.zone.clone(),
            ByteSize(node.capacity_bytes).to_string(),
            node.stored_bytes.map_or("?".into(), |bytes| ByteSize(bytes).to_string()),
            node.slots.to_string(),
            format!("{}/{}", node.shards_led, node.replicas),
            node.clock_skew_millis.map_or("?".into(), |millis| format!("{millis} ms")),
            node.addresses.first().cloned().unwrap_or_default(),
        ]
    });
    let header = [
        "NODE",
        "SEEN",
        "STATE",
        "ZONE",
        "CAPACITY",
        "STORED",
        "SLOTS",
        "LEADS/REPLICAS",
        "CLOCK",
        "ADDRESS",
    ];
    println!("{}", table(header, rows));
}
