//! `atoll lab run lookup --real`: the same lookups twice, by nodes in processes of their own and
//! by the same nodes, ids and all, in the simulation. What differs is sockets, threads and time.
//!
//! A dozen nodes with the tables of production all know each other, and no lookup takes more than
//! a hop. So theirs are small here, the simulation's too: as large as a lookup takes the hops of
//! a network a thousand times as large.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use atoll_gateway::admin::api::{Done, OverlayTrace, OverlayView};
use atoll_node::{OverlaySettings, TableSizes};
use atoll_overlay::Id;
use atoll_runtime::Runtime;
use atoll_simulation::{Seed, overlay_lookups, places_at_rest, places_of};
use atoll_types::{NodeId, OverlayKind};
use http::Method;
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
/// Of each network. A mean over these is within 2 % of the mean over all keys.
pub const LOOKUPS_DEFAULT: usize = 512;
/// Times that a kind's nodes find each other anew where it is chance whom a node has in its tables:
/// hops are a mean over these networks. One of Pastry's is 2 % from the next, of sixteen nodes.
pub const NETWORKS_DEFAULT: usize = 3;
/// Simulated ones to each of them: they cost less.
const SIMULATED_TO_EACH: usize = 4;
/// As small as a core takes them.
pub const SIZES_DEFAULT: TableSizes =
    TableSizes { chord_successors: 1, kademlia_k: 1, pastry_bits_per_digit: 1, pastry_leaves_each: 1 };
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

pub struct Real {
    pub seed: u64,
    pub kinds: Vec<OverlayKind>,
    pub nodes: usize,
    pub lookups: usize,
    pub networks: usize,
    pub sizes: TableSizes,
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

/// Who asks for which key.
type Asked = Vec<(usize, String)>;

/// How one lookup ended.
struct Ended {
    responsible: Option<String>,
    hops: u32,
    timeouts: u32,
}

/// All lookups of one kind, by processes or simulated.
#[derive(Default)]
struct Tally {
    hops: Vec<u32>,
    timeouts: u32,
    failed: usize,
}

impl Tally {
    fn add(&mut self, ended: &[Ended], others: &[Ended]) {
        for (one, other) in ended.iter().zip(others) {
            self.hops.push(one.hops);
            self.timeouts += one.timeouts;
            self.failed += usize::from(one.responsible.is_none() || one.responsible != other.responsible);
        }
    }
}

impl Real {
    pub async fn run(self) -> Result<RealReport, Failure> {
        let mut stop = StopSignal::new()?;
        let flags = vec!["--overlay-tables".to_owned(), self.sizes.to_string()];
        let mut cluster = Cluster::new(Seed(self.seed), self.nodes, flags).await?;
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
        let mut tallies: BTreeMap<OverlayKind, [Tally; 2]> = BTreeMap::new();
        // Kind after kind, and all over again: each time its nodes have to find each other.
        for network in 0..self.networks {
            let again = |kind: &&OverlayKind| network == 0 || is_chance(**kind);
            for kind in self.kinds.iter().filter(again) {
                let tally = tallies.entry(*kind).or_default();
                self.compare(&clients, *kind, network, tally).await?;
            }
        }
        let mut rows = Vec::new();
        for kind in &self.kinds {
            let [real, simulated] = tallies.remove(kind).unwrap_or_default();
            rows.push(row(kind.name(), "processes", self.nodes, real));
            rows.push(row(kind.name(), "simulated", self.nodes, simulated));
        }
        let overlays: Vec<&str> = self.kinds.iter().map(|kind| kind.name()).collect();
        let TableSizes { chord_successors, kademlia_k, pastry_bits_per_digit, pastry_leaves_each } =
            self.sizes;
        let parameters = json!({
            "real": true,
            "overlays": overlays,
            "nodes": self.nodes,
            "lookups": self.lookups,
            "networks": self.networks,
            "chord_successors": chord_successors,
            "kademlia_k": kademlia_k,
            "pastry_bits_per_digit": pastry_bits_per_digit,
            "pastry_leaves_each": pastry_leaves_each,
        });
        Ok(RealReport { experiment: "lookup", seed: self.seed, parameters, rows })
    }

    /// One network of processes, and those simulated to it.
    async fn compare(
        &self,
        clients: &[AdminClient],
        kind: OverlayKind,
        network: usize,
        [of_processes, of_simulated]: &mut [Tally; 2],
    ) -> Result<(), Failure> {
        let name = kind.name();
        self.choose(clients, kind).await?;
        let asked = self.asked(network);
        let mut nodes = self.acquainted(clients, kind).await?;
        eprintln!("{name}: looking {} keys up", self.lookups);
        let mut real = look_up(clients, &asked).await?;
        // The layout of a young cluster may still move its shards, and with them a centre.
        for _ in 0..MOVES_MAX {
            let since = self.acquainted(clients, kind).await?;
            if since.centre == nodes.centre {
                break;
            }
            eprintln!("{name}: its centre moved, so once more");
            nodes = since;
            real = look_up(clients, &asked).await?;
        }
        let simulated = if is_chance(kind) { SIMULATED_TO_EACH } else { 1 };
        for number in 0..simulated {
            let seed = Seed(self.seed.wrapping_add((network * simulated + number) as u64));
            let simulated = self.simulate(seed, kind, &nodes, &asked).await?;
            if number == 0 {
                of_processes.add(&real, &simulated);
            }
            of_simulated.add(&simulated, &real);
        }
        Ok(())
    }

    /// Its nodes begin without tables, also if it is the kind that there is.
    async fn choose(&self, clients: &[AdminClient], kind: OverlayKind) -> Result<(), Failure> {
        let set = async |kind: OverlayKind| {
            let value = json!({ "value": kind.name() }).to_string().into_bytes();
            let Done {} = clients[0].ask(Method::PUT, "/v1/settings/overlay", Some(value)).await?;
            Ok::<_, Failure>(())
        };
        let is_played = async |kind: OverlayKind| {
            views(clients).await.is_ok_and(|views| views.iter().all(|view| view.kind == kind.name()))
        };
        if views(clients).await?.iter().any(|view| view.kind == kind.name()) {
            set(OverlayKind::Flood).await?;
            let forgotten = "the nodes do not all leave the kind that there is";
            within(ACQUAINTED_WITHIN, forgotten, async || is_played(OverlayKind::Flood).await).await?;
        }
        set(kind).await
    }

    /// Keys that lie evenly among the identifiers, one in each of as many ranges: fewer say as much
    /// as more that are drawn. Nodes ask in turn.
    fn asked(&self, network: usize) -> Asked {
        let ranges = self.lookups as u128;
        let range_of = |name: &str| {
            let [first, second, third, fourth, ..] = <[u8; 32]>::from(Id::of(name.as_bytes()));
            (u128::from(u32::from_be_bytes([first, second, third, fourth])) * ranges) >> 32
        };
        let mut keys: BTreeMap<u128, String> = BTreeMap::new();
        for number in 0_u64.. {
            if keys.len() == self.lookups {
                break;
            }
            let name = format!("lookup {number} of {} in {network}", self.seed);
            keys.entry(range_of(&name)).or_insert(name);
        }
        keys.into_values().enumerate().map(|(number, key)| (number % self.nodes, key)).collect()
    }

    async fn simulate(
        &self,
        seed: Seed,
        kind: OverlayKind,
        nodes: &Nodes,
        asked: &[(usize, String)],
    ) -> Result<Vec<Ended>, Failure> {
        let asked: Vec<(usize, Id)> =
            asked.iter().map(|(asker, key)| (*asker, Id::of(key.as_bytes()))).collect();
        let (Nodes { ids, centre }, settings) = (nodes.clone(), self.settings());
        // Not in a task of tokio's: its budget for one turn would stop the simulated tasks.
        let simulate = move || overlay_lookups(seed, kind, &settings, &ids, &centre, &asked);
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

    fn settings(&self) -> OverlaySettings {
        self.sizes.apply(OverlaySettings::default())
    }

    /// Waits until each node plays this kind and its tables are right; where there is a centre,
    /// until it knows all, and all know it.
    async fn acquainted(&self, clients: &[AdminClient], kind: OverlayKind) -> Result<Nodes, Failure> {
        let settings = self.settings();
        let all_know = async || {
            views(clients).await.is_ok_and(|views| know_each_other(&views, kind, &settings).unwrap_or(false))
        };
        within(ACQUAINTED_WITHIN, "the nodes do not all know each other", all_know).await?;
        let views = views(clients).await?;
        let ids = views.iter().map(|view| id(&view.seen_by)).collect::<Result<_, Failure>>()?;
        let centre = views.iter().filter(|view| is_centre(view, kind)).map(|view| id(&view.seen_by));
        Ok(Nodes { ids, centre: centre.collect::<Result<_, Failure>>()? })
    }
}

/// Whether it is chance whom a node has in its tables: whom it met first, or who answered soonest.
fn is_chance(kind: OverlayKind) -> bool {
    matches!(kind, OverlayKind::Kademlia | OverlayKind::Pastry)
}

async fn look_up(clients: &[AdminClient], asked: &[(usize, String)]) -> Result<Vec<Ended>, Failure> {
    let mut ended = Vec::new();
    for (asker, key) in asked {
        let path = query("/v1/overlay/trace", &[("key", key)]);
        let trace: OverlayTrace = clients[*asker].get(&path).await?;
        let responsible = trace.responsible.first().cloned();
        ended.push(Ended { responsible, hops: trace.hops, timeouts: trace.timeouts });
    }
    Ok(ended)
}

async fn views(clients: &[AdminClient]) -> Result<Vec<OverlayView>, Failure> {
    let mut views = Vec::new();
    for client in clients {
        views.push(client.get("/v1/overlay").await?);
    }
    Ok(views)
}

fn id(node: &str) -> Result<NodeId, Failure> {
    node.parse().map_err(|error: atoll_types::ParseIdError| {
        Failure::new(Fault::Internal, "a node gave an answer this program does not know").caused_by(&error)
    })
}

/// Of one network, in the nodes' order.
#[derive(Clone)]
struct Nodes {
    ids: Vec<NodeId>,
    /// A directory's index nodes, a hybrid's super-peers.
    centre: Vec<NodeId>,
}

fn is_centre(view: &OverlayView, kind: OverlayKind) -> bool {
    let theirs = match kind {
        OverlayKind::Directory => "clients",
        OverlayKind::Hybrid => "leaves",
        _ => return false,
    };
    view.tables.iter().any(|table| table.name == theirs)
}

fn know_each_other(
    views: &[OverlayView],
    kind: OverlayKind,
    settings: &OverlaySettings,
) -> Result<bool, Failure> {
    let has_centre = matches!(kind, OverlayKind::Directory | OverlayKind::Hybrid);
    let centre: BTreeSet<&str> =
        views.iter().filter(|view| is_centre(view, kind)).map(|view| view.seen_by.as_str()).collect();
    if has_centre && centre.len() < CENTRE.min(views.len()) {
        return Ok(false);
    }
    let ids = views.iter().map(|view| id(&view.seen_by)).collect::<Result<Vec<_>, _>>()?;
    for (view, me) in views.iter().zip(&ids) {
        let rows = || view.tables.iter().flat_map(|table| table.rows.iter().map(move |row| (table, row)));
        let known: BTreeSet<&str> = rows().map(|(_, row)| row.node.as_str()).collect();
        let knows_enough = match (places_at_rest(kind, settings, &ids, *me), is_centre(view, kind)) {
            (Some(places), _) => {
                let rows = rows().map(|(table, row)| Ok((&*table.name, &*row.place, id(&row.node)?)));
                places_of(kind, rows.collect::<Result<Vec<_>, Failure>>()?.into_iter()) == places
            }
            (None, true) if kind == OverlayKind::Hybrid => {
                known.is_superset(&centre.iter().copied().filter(|id| *id != view.seen_by).collect())
            }
            (None, true) => known.len() == views.len() - 1,
            (None, false) if kind == OverlayKind::Hybrid => known.is_superset(&nearest(view, &centre)),
            (None, false) => known == centre && rows().all(|(_, row)| row.place == "registered"),
        };
        if !(view.is_member && view.kind == kind.name() && knows_enough) {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Those super-peers that a leaf is attached to once it has found its place.
fn nearest<'a>(leaf: &OverlayView, centre: &BTreeSet<&'a str>) -> BTreeSet<&'a str> {
    let id = |node: &str| node.parse().ok().map(|node: NodeId| Id::of(node.as_bytes()));
    let mut sorted: Vec<&str> = centre.iter().copied().collect();
    sorted.sort_by_key(|node| Some(id(node)?.xor(id(&leaf.seen_by)?)));
    sorted.into_iter().take(CENTRE).collect()
}

fn row(overlay: &'static str, network: &'static str, nodes: usize, tally: Tally) -> RealRow {
    let Tally { mut hops, timeouts, failed } = tally;
    hops.sort_unstable();
    let count = hops.len().max(1);
    let percentile = |percent: usize| hops.get((hops.len() * percent / 100).min(count - 1)).copied();
    RealRow {
        overlay,
        network,
        nodes,
        lookups: hops.len(),
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
