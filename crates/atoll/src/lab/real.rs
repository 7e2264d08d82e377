//! `atoll lab run lookup --real`: the same lookups twice, by nodes in processes of their own and
//! by the same nodes, ids and all, in the simulation. What differs is sockets, threads and time.

use std::{collections::BTreeSet, time::Duration};

use atoll_gateway::admin::api::{Done, OverlayTrace, OverlayView};
use atoll_overlay::Id;
use atoll_runtime::Runtime;
use atoll_simulation::{Seed, overlay_lookups};
use atoll_types::{NodeId, OverlayKind};
use http::Method;
use rand::Rng;
use serde::Serialize;
use serde_json::json;

use crate::{
    client::{AdminClient, query},
    dev::StopSignal,
    failure::{Failure, Fault},
    output::table_of,
    verify::{Cluster, within},
};

/// More than a workstation runs without being late: each is a whole node.
pub const NODES_MAX: usize = 32;
pub const NODES_DEFAULT: usize = 16;
pub const LOOKUPS_DEFAULT: usize = 200;
/// The hybrid only if it is asked for: its super-peers may change while it is measured.
pub const KINDS_DEFAULT: [OverlayKind; 4] =
    [OverlayKind::Directory, OverlayKind::Chord, OverlayKind::Kademlia, OverlayKind::Pastry];
/// A change of the kind reaches every node, and tables fill.
const ACQUAINTED_WITHIN: Duration = Duration::from_secs(120);
/// Index nodes there are in a network as small as these, super-peers at least, and those of them
/// that a leaf is attached to.
const CENTRE: usize = 3;
/// How often lookups are done anew because the centre moved meanwhile.
const MOVES_MAX: usize = 5;

/// A ring's fingers are looked up again one each two seconds, on average; a ring as small as
/// these has three or four.
const FINGERS_REST: Duration = Duration::from_secs(12);

pub struct Real {
    pub seed: u64,
    pub kinds: Vec<OverlayKind>,
    pub nodes: usize,
    pub lookups: usize,
}

/// In the shape of the lab's reports, with their columns' meanings (docs/lab.md).
#[derive(Serialize)]
pub struct RealReport {
    experiment: &'static str,
    seed: u64,
    parameters: serde_json::Value,
    rows: Vec<RealRow>,
}

#[derive(Serialize)]
struct RealRow {
    overlay: &'static str,
    /// `processes` or `simulated`.
    network: &'static str,
    nodes: usize,
    lookups: usize,
    hops_mean: f64,
    hops_p50: u32,
    hops_p99: u32,
    timeouts_mean: f64,
    /// Of those that ended without an answer, or with another node than the other network's.
    lookups_failed_share: f64,
}

/// How one lookup ended.
struct Ended {
    responsible: Option<String>,
    hops: u32,
    timeouts: u32,
}

impl Real {
    pub async fn run(self) -> Result<RealReport, Failure> {
        let mut stop = StopSignal::new()?;
        let mut cluster = Cluster::new(Seed(self.seed), self.nodes).await?;
        let outcome = tokio::select! {
            biased;
            () = stop.received() => Err(Failure::new(Fault::Request, "stopped")),
            outcome = self.measure(&mut cluster) => outcome,
        };
        cluster.end(outcome.is_ok()).await;
        outcome
    }

    async fn measure(&self, cluster: &mut Cluster) -> Result<RealReport, Failure> {
        eprintln!("starting {} nodes", self.nodes);
        let clients = cluster.form().await?;
        let mut rows = Vec::new();
        for kind in &self.kinds {
            let name = kind.name();
            eprintln!("{name}: looking {} keys up", self.lookups);
            let value = json!({ "value": name }).to_string().into_bytes();
            let Done {} = clients[0].ask(Method::PUT, "/v1/settings/overlay", Some(value)).await?;
            let mut rng = Seed(self.seed).stream("lookups");
            let draw =
                |number| (rng.random_range(0..self.nodes), format!("lookup {number} of {}", self.seed));
            let asked: Vec<(usize, String)> = (0..self.lookups).map(draw).collect();
            let mut nodes = acquainted(&clients, *kind).await?;
            let mut real = self.look_up(&clients, *kind, &asked).await?;
            // The layout of a young cluster may still move its shards, and with them a centre.
            for _ in 0..MOVES_MAX {
                let since = acquainted(&clients, *kind).await?;
                if since.centre == nodes.centre {
                    break;
                }
                eprintln!("{name}: its centre moved, so once more");
                nodes = since;
                real = self.look_up(&clients, *kind, &asked).await?;
            }
            let simulated = self.simulate(*kind, nodes, &asked).await?;
            rows.push(row(name, "processes", self.nodes, &real, &simulated));
            rows.push(row(name, "simulated", self.nodes, &simulated, &real));
        }
        let overlays: Vec<&str> = self.kinds.iter().map(|kind| kind.name()).collect();
        let parameters =
            json!({ "real": true, "overlays": overlays, "nodes": self.nodes, "lookups": self.lookups });
        Ok(RealReport { experiment: "lookup", seed: self.seed, parameters, rows })
    }

    async fn look_up(
        &self,
        clients: &[AdminClient],
        kind: OverlayKind,
        asked: &[(usize, String)],
    ) -> Result<Vec<Ended>, Failure> {
        if kind == OverlayKind::Chord {
            wait_for_fingers(clients).await?;
        }
        let mut ended = Vec::new();
        for (asker, key) in asked {
            let path = query("/v1/overlay/trace", &[("key", key)]);
            let trace: OverlayTrace = clients[*asker].get(&path).await?;
            let responsible = trace.responsible.first().cloned();
            ended.push(Ended { responsible, hops: trace.hops, timeouts: trace.timeouts });
        }
        Ok(ended)
    }

    async fn simulate(
        &self,
        kind: OverlayKind,
        nodes: Nodes,
        asked: &[(usize, String)],
    ) -> Result<Vec<Ended>, Failure> {
        let asked: Vec<(usize, Id)> =
            asked.iter().map(|(asker, key)| (*asker, Id::of(key.as_bytes()))).collect();
        let seed = Seed(self.seed);
        // Not in a task of tokio's: its budget for one turn would stop the simulated tasks.
        let simulate = move || overlay_lookups(seed, kind, &nodes.ids, &nodes.centre, &asked);
        let located = Runtime::tokio().blocking(simulate).await;
        let located = located
            .map_err(|error| Failure::new(Fault::Internal, "the simulation stopped").caused_by(&error))?;
        let ended = located.into_iter().map(|located| match located {
            Some(located) => {
                let responsible = located.outcome.ok().map(|found| found[0].node.to_string());
                Ended { responsible, hops: located.hops, timeouts: located.timeouts }
            }
            None => Ended { responsible: None, hops: 0, timeouts: 0 },
        });
        Ok(ended.collect())
    }
}

/// Of one network, in the nodes' order.
struct Nodes {
    ids: Vec<NodeId>,
    /// A directory's index nodes, a hybrid's super-peers.
    centre: Vec<NodeId>,
}

/// Waits until each node plays this kind and knows all others; where there is a centre, until it
/// knows all, and all know it.
async fn acquainted(clients: &[AdminClient], kind: OverlayKind) -> Result<Nodes, Failure> {
    let views = async || {
        let mut views = Vec::new();
        for client in clients {
            views.push(client.get::<OverlayView>("/v1/overlay").await?);
        }
        Ok::<_, Failure>(views)
    };
    let all_know = async || views().await.is_ok_and(|views| know_each_other(&views, kind));
    within(ACQUAINTED_WITHIN, "the nodes do not all know each other", all_know).await?;
    let views = views().await?;
    let id = |view: &OverlayView| {
        view.seen_by.parse().map_err(|error: atoll_types::ParseIdError| {
            Failure::new(Fault::Internal, "a node gave an answer this program does not know")
                .caused_by(&error)
        })
    };
    let ids = views.iter().map(id).collect::<Result<_, Failure>>()?;
    let centre = views.iter().filter(|view| is_centre(view, kind)).map(id).collect::<Result<_, Failure>>()?;
    Ok(Nodes { ids, centre })
}

fn is_centre(view: &OverlayView, kind: OverlayKind) -> bool {
    let theirs = match kind {
        OverlayKind::Directory => "clients",
        OverlayKind::Hybrid => "leaves",
        _ => return false,
    };
    view.tables.iter().any(|table| table.name == theirs)
}

fn know_each_other(views: &[OverlayView], kind: OverlayKind) -> bool {
    let has_centre = matches!(kind, OverlayKind::Directory | OverlayKind::Hybrid);
    let centre: BTreeSet<&str> =
        views.iter().filter(|view| is_centre(view, kind)).map(|view| view.seen_by.as_str()).collect();
    let knows = |view: &OverlayView| {
        let rows = || view.tables.iter().flat_map(|table| &table.rows);
        let known: BTreeSet<&str> = rows().map(|row| row.node.as_str()).collect();
        let knows_enough = match (kind, is_centre(view, kind)) {
            (OverlayKind::Directory, false) => known == centre && rows().all(|row| row.place == "registered"),
            (OverlayKind::Hybrid, true) => {
                known.is_superset(&centre.iter().copied().filter(|id| *id != view.seen_by).collect())
            }
            (OverlayKind::Hybrid, false) => known.is_superset(&nearest(view, &centre)),
            _ => known.len() == views.len() - 1,
        };
        view.is_member && view.kind == kind.name() && knows_enough
    };
    (!has_centre || centre.len() >= CENTRE.min(views.len())) && views.iter().all(knows)
}

/// Those super-peers that a leaf is attached to once it has found its place.
fn nearest<'a>(leaf: &OverlayView, centre: &BTreeSet<&'a str>) -> BTreeSet<&'a str> {
    let id = |node: &str| node.parse().ok().map(|node: NodeId| Id::of(node.as_bytes()));
    let mut sorted: Vec<&str> = centre.iter().copied().collect();
    sorted.sort_by_key(|node| Some(id(node)?.xor(id(&leaf.seen_by)?)));
    sorted.into_iter().take(CENTRE).collect()
}

/// Waits until no node's tables have changed for a while: knowing all others is not to have the
/// right ones as fingers.
async fn wait_for_fingers(clients: &[AdminClient]) -> Result<(), Failure> {
    let tables = async || {
        let mut tables = Vec::new();
        for client in clients {
            let view: OverlayView = client.get("/v1/overlay").await?;
            let rows = view.tables.into_iter().flat_map(|table| table.rows);
            tables.push(rows.map(|row| (row.place, row.node)).collect::<Vec<_>>());
        }
        Ok::<_, Failure>(tables)
    };
    let runtime = Runtime::tokio();
    let rest = async {
        let mut former = tables().await?;
        loop {
            runtime.sleep(FINGERS_REST).await;
            let now = tables().await?;
            if now == former {
                return Ok(());
            }
            former = now;
        }
    };
    let late = |_| Failure::new(Fault::Internal, format!("fingers still change after {ACQUAINTED_WITHIN:?}"));
    runtime.timeout(ACQUAINTED_WITHIN, rest).await.map_err(late)?
}

fn row(
    overlay: &'static str,
    network: &'static str,
    nodes: usize,
    ended: &[Ended],
    others: &[Ended],
) -> RealRow {
    let failed =
        |(one, other): &(&Ended, &Ended)| one.responsible.is_none() || one.responsible != other.responsible;
    let failed = ended.iter().zip(others).filter(failed).count();
    let mut hops: Vec<u32> = ended.iter().map(|one| one.hops).collect();
    hops.sort_unstable();
    let count = ended.len().max(1);
    let percentile = |percent: usize| hops.get((hops.len() * percent / 100).min(count - 1)).copied();
    let timeouts: u32 = ended.iter().map(|one| one.timeouts).sum();
    RealRow {
        overlay,
        network,
        nodes,
        lookups: ended.len(),
        hops_mean: f64::from(hops.iter().sum::<u32>()) / count as f64,
        hops_p50: percentile(50).unwrap_or(0),
        hops_p99: percentile(99).unwrap_or(0),
        timeouts_mean: f64::from(timeouts) / count as f64,
        lookups_failed_share: failed as f64 / count as f64,
    }
}

pub fn print(report: &RealReport) {
    println!("{} by real processes, seed {}", report.experiment, report.seed);
    let header = ["OVERLAY", "NETWORK", "NODES", "LOOKUPS", "HOPS_MEAN", "HOPS_P50", "HOPS_P99"];
    let header = header.into_iter().chain(["TIMEOUTS_MEAN", "LOOKUPS_FAILED_SHARE"]).map(str::to_owned);
    let rows = report.rows.iter().map(|row| {
        vec![
            row.overlay.to_owned(),
            row.network.to_owned(),
            row.nodes.to_string(),
            row.lookups.to_string(),
            format!("{:.2}", row.hops_mean),
            row.hops_p50.to_string(),
            row.hops_p99.to_string(),
            format!("{:.2}", row.timeouts_mean),
            format!("{:.4}", row.lookups_failed_share),
        ]
    });
    println!("{}\n", table_of(header.collect::<Vec<_>>(), rows));
}
