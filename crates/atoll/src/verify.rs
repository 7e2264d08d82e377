//! `atoll verify`: real processes, real faults, and a verdict over what clients saw.
//!
//! The clients and the checkers are those of the simulation (`atoll_simulation::load` and
//! `checkers`); all clients live in this process, so their calls and returns are in one
//! order. Nothing of the nodes is looked at from inside: they are asked through S3 and the
//! admin API, as anyone may.

mod door;
mod mishaps;
mod processes;
mod proxy;
mod verdict;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use atoll_runtime::Runtime;
use atoll_simulation::{
    Seed,
    checkers::{Evidence, Judgement},
    load::{Audit, Client, Load, Note, SharedHistory, Target},
};
use rand::Rng;
use rusty_s3::{Bucket, Credentials, UrlStyle};
use tokio::{task::JoinSet, time::sleep};

use crate::{
    client::AdminClient,
    dev::{StopSignal, token_file},
    failure::{Failure, Fault, Outcome},
    output::Output,
};
use door::{AdminDoor, Door, Strange, http_client};
use processes::{ACCESS_KEY, Process, SECRET_KEY};
use proxy::Network;
use verdict::Verdict;

/// Check a cluster by what its clients see, while its nodes are killed, paused and cut off.
///
/// Without --endpoint it starts a cluster of its own in a temporary folder, and breaks it.
/// With --endpoint it asks a running cluster and breaks nothing; it works in a bucket of
/// its own, atoll-verify-SEED, which it removes at the end.
#[derive(Debug, clap::Args)]
pub struct Verify {
    /// How long clients work and faults happen.
    #[arg(long, default_value = "5", value_parser = minutes, value_name = "MINUTES")]
    minutes: Duration,
    /// How many nodes to start.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(3..=5), conflicts_with = "endpoint")]
    nodes: u8,
    #[arg(long, default_value_t = 12, value_parser = clap::value_parser!(u16).range(1..=1000))]
    clients: u16,
    /// What clients do and what befalls the nodes is drawn from it; the order in which
    /// things happen is not. [default: drawn at random]
    #[arg(long)]
    seed: Option<Seed>,
    /// A running cluster's S3 endpoint.
    #[arg(long, value_name = "URL", requires = "access_key", requires = "secret_key")]
    endpoint: Option<String>,
    #[arg(long, env = "AWS_ACCESS_KEY_ID", hide_env_values = true)]
    access_key: Option<String>,
    #[arg(long, env = "AWS_SECRET_ACCESS_KEY", hide_env_values = true)]
    secret_key: Option<String>,
    #[arg(long, default_value = "us-east-1")]
    region: String,
    #[command(flatten)]
    output: Output,
}

/// A debug build on a busy machine forms a cluster in some ten seconds.
const FORMED_WITHIN: Duration = Duration::from_secs(120);
/// After the last fault: what the simulation holds nodes to, too.
const LIVELY_WITHIN: Duration = Duration::from_secs(60);

/// For a flag in minutes, fractions included.
pub(crate) fn minutes(text: &str) -> Result<Duration, String> {
    let minutes: f64 = text.parse().map_err(|_| "it is a number of minutes, such as 5 or 0.5".to_owned())?;
    // A day: longer is a slip of the finger.
    if minutes > 0.0 && minutes <= 1440.0 {
        Ok(Duration::from_secs_f64(minutes * 60.0))
    } else {
        Err("it is more than 0 and at most 1440".into())
    }
}

impl Verify {
    pub async fn run(self) -> Outcome {
        let mut stop = StopSignal::new()?;
        tokio::select! {
            biased;
            () = stop.received() => Err(Failure::new(Fault::Request, "stopped before there was a verdict")),
            outcome = self.verify() => outcome,
        }
    }

    async fn verify(self) -> Outcome {
        let seed = self.seed.unwrap_or_else(|| Seed(Runtime::tokio().rng().random()));
        eprintln!("seed {seed}");
        let verdict = match &self.endpoint {
            Some(endpoint) => self.running_cluster(seed, endpoint).await?,
            None => self.own_cluster(seed).await?,
        };
        self.output.show(&verdict, Verdict::print);
        if verdict.sound {
            return Ok(());
        }
        Err(Failure::new(Fault::Internal, "what clients saw is not what was promised")
            .hint("please report it, with the verdict above and what the nodes logged"))
    }

    fn door(&self, seed: Seed, s3: &str, keys: (&str, &str), strange: &Strange) -> Result<Door, Failure> {
        let name = format!("atoll-verify-{:x}", seed.0);
        let bad = |error: &dyn std::error::Error| {
            Failure::new(Fault::Configuration, format!("{s3} is not an S3 endpoint")).caused_by(error)
        };
        let url = s3.parse().map_err(|error| bad(&error))?;
        let bucket =
            Bucket::new(url, UrlStyle::Path, name, self.region.clone()).map_err(|error| bad(&error))?;
        let credentials = Credentials::new(keys.0, keys.1);
        Ok(Door { http: http_client(), bucket, credentials, admin: None, strange: strange.clone() })
    }

    async fn running_cluster(&self, seed: Seed, endpoint: &str) -> Result<Verdict, Failure> {
        let keys = (self.access_key.as_deref().unwrap_or(""), self.secret_key.as_deref().unwrap_or(""));
        let strange = Strange::default();
        let door = Arc::new(self.door(seed, endpoint, keys, &strange)?);
        make_bucket(&door).await?;
        let load = Load { transactions: 0, locks: 0, watches: 0, ..over_http() };
        let crowd = Crowd::new(seed, load, usize::from(self.clients), vec![door.clone()]);
        let began = crowd.runtime.now();
        sleep(self.minutes).await;
        let mut verdict = crowd.verdict(began, &strange).await;
        if let Err(reason) = door.remove_bucket().await {
            verdict.checked("removed the bucket", Some(reason));
        }
        Ok(verdict)
    }

    async fn own_cluster(&self, seed: Seed) -> Result<Verdict, Failure> {
        let folder = Folder::new(seed)?;
        let network = Network::new(usize::from(self.nodes));
        // The proxies end with it.
        let mut tasks = JoinSet::new();
        let mut nodes = Vec::new();
        for number in 0..usize::from(self.nodes) {
            nodes.push(Process::new(number, &folder.path, &network, &mut tasks).await?);
        }
        let token = form(&mut nodes).await?;
        let strange = Strange::default();
        let doors = nodes.iter().map(|node| {
            let mut door = self.door(seed, &node.s3(), (ACCESS_KEY, SECRET_KEY), &strange)?;
            door.admin = Some(AdminDoor { url: node.admin(), token: token.clone() });
            Ok(Arc::new(door))
        });
        let doors = doors.collect::<Result<Vec<_>, Failure>>()?;
        settle(&doors).await?;
        make_bucket(&doors[0]).await?;

        let crowd = Crowd::new(seed, over_http(), usize::from(self.clients), doors.clone());
        let began = crowd.runtime.now();
        let end = tokio::time::Instant::now() + self.minutes;
        let mishaps = mishaps::befall(&mut nodes, &network, &mut seed.stream("mishaps"), end).await?;
        let mut verdict = crowd.verdict(began, &strange).await;
        verdict.mishaps = mishaps;
        let ended = nodes.iter_mut().position(Process::has_ended);
        verdict.checked("processes", ended.map(|number| format!("node {number} ended by itself")));
        for node in &mut nodes {
            node.kill().await;
        }
        if verdict.sound {
            folder.remove();
        } else {
            eprintln!("the nodes' folders and logs stay in {}", folder.path.display());
        }
        Ok(verdict)
    }
}

/// Everything that can be asked over HTTP, by clients in a hurry.
fn over_http() -> Load {
    Load {
        over_http: true,
        large: 5,
        upload_pause: Duration::from_secs(1)..=Duration::from_secs(5),
        ..Load::everything()
    }
}

/// Starts the first node, and the others with its ticket. The admin token of all.
async fn form(nodes: &mut [Process]) -> Result<String, Failure> {
    let (first, others) = nodes.split_first_mut().expect("there are three at least");
    first.start(None)?;
    let client = || AdminClient::new(&first.admin(), None, Some(first.folder()));
    within(FORMED_WITHIN, "the first node does not answer", async || client().is_ready().await).await?;
    let ticket = client().create_ticket(others.len() as u32, Duration::from_secs(600)).await?;
    let token = std::fs::read_to_string(token_file(first.folder())).map_err(|error| {
        Failure::new(Fault::Internal, "the first node left no admin token").caused_by(&error)
    })?;
    for node in others {
        node.start(Some(&ticket.ticket))?;
    }
    Ok(token.trim().to_owned())
}

/// Until every node answers, and sees all of them healthy.
async fn settle(doors: &[Arc<Door>]) -> Result<(), Failure> {
    for door in doors {
        let settled = async || {
            door.status()
                .await
                .is_some_and(|status| status.nodes.len() == doors.len() && status.health == "healthy")
        };
        within(FORMED_WITHIN, "the nodes do not become a healthy cluster", settled).await?;
    }
    Ok(())
}

pub async fn within(
    limit: Duration,
    otherwise: &str,
    condition: impl AsyncFn() -> bool,
) -> Result<(), Failure> {
    let wait = async {
        while !condition().await {
            sleep(Duration::from_millis(200)).await;
        }
    };
    let waited = tokio::time::timeout(limit, wait).await;
    waited.map_err(|_| Failure::new(Fault::Internal, format!("{otherwise} within {limit:?}")))
}

async fn make_bucket(door: &Door) -> Result<(), Failure> {
    door.make_bucket().await.map_err(|reason| {
        Failure::new(Fault::Unavailable, format!("the bucket {} can't be made: {reason}", door.bucket.name()))
            .hint("is the endpoint right (--endpoint), and the keys (--access-key, --secret-key)?")
    })
}

/// The clients, at work from the first moment.
struct Crowd {
    seed: Seed,
    runtime: Runtime,
    clients: JoinSet<()>,
    count: usize,
    kinds: BTreeSet<atoll_simulation::load::Kind>,
    targets: Vec<Arc<dyn Target>>,
    history: SharedHistory,
    go_on: Arc<AtomicBool>,
}

impl Crowd {
    fn new(seed: Seed, load: Load, count: usize, doors: Vec<Arc<Door>>) -> Self {
        let runtime = Runtime::tokio();
        let targets: Vec<Arc<dyn Target>> = doors.into_iter().map(|door| door as Arc<dyn Target>).collect();
        let (history, go_on) = (SharedHistory::default(), Arc::new(AtomicBool::new(true)));
        let kinds = load.kinds().into_iter().collect();
        let mut clients = JoinSet::new();
        for number in 0..count {
            let client = Client::new(
                number as u64,
                load.clone(),
                runtime.clone(),
                seed.stream(&format!("client {number}")),
                targets.clone(),
                history.clone(),
                unheard(),
            );
            clients.spawn(client.run(go_on.clone()));
        }
        Self { seed, runtime, clients, count, kinds, targets, history, go_on }
    }

    /// Ends the clients, waits until everything is answered again, reads everything, and
    /// judges.
    async fn verdict(self, began: atoll_types::Instant, strange: &Strange) -> Verdict {
        let Crowd { seed, runtime, clients, count, kinds, targets, history, go_on } = self;
        let ended = runtime.now();
        go_on.store(false, Ordering::Relaxed);
        clients.join_all().await;
        let rng = seed.stream("audit");
        let mut audit = Audit::new(kinds, runtime, rng, targets, history.clone(), unheard());
        let promptness = audit.try_everything(LIVELY_WITHIN).await;
        audit.read_everything().await;
        let history = snapshot(&history);
        let evidence = Evidence { events: &history, promptness: &promptness, ..Evidence::default() };
        let mut verdict = Verdict::new(seed, count, &history, began, ended);
        verdict.judged(&Judgement::of(&evidence));
        verdict.checked("answers", strange.first());
        verdict
    }
}

/// There is no trace of real time.
fn unheard() -> Note {
    Arc::new(|_| {})
}

fn snapshot(history: &Arc<Mutex<atoll_simulation::load::History>>) -> Vec<atoll_simulation::load::Event> {
    history.lock().expect("nobody panics holding it").events().to_vec()
}

/// Nodes in processes of their own, on loopback, for other commands to ask.
pub struct Cluster {
    nodes: Vec<Process>,
    /// Of each node's `atoll up`, besides those that all have.
    flags: Vec<String>,
    folder: Folder,
    network: Network,
    /// The proxies end with it.
    tasks: JoinSet<()>,
}

/// With three ports for each of many nodes, somebody else's connection takes one now and then
/// between the choice and the node's start.
const STARTS_MAX: usize = 5;

impl Cluster {
    pub async fn new(seed: Seed, count: usize, flags: Vec<String>) -> Result<Self, Failure> {
        let folder = Folder::new(seed)?;
        let (network, mut tasks) = (Network::new(count), JoinSet::new());
        let mut nodes = Vec::new();
        for number in 0..count {
            nodes.push(Process::new(number, &folder.path, &network, &mut tasks).await?);
        }
        Ok(Self { nodes, flags, folder, network, tasks })
    }

    /// Starts them; a client for each, in their order. They may not have found each other yet.
    pub async fn form(&mut self) -> Result<Vec<AdminClient>, Failure> {
        self.nodes[0].start_with(None, &self.flags)?;
        self.wait_ready(0, None).await?;
        let first = AdminClient::new(&self.nodes[0].admin(), None, Some(self.nodes[0].folder()));
        let uses = self.nodes.len() as u32;
        let ticket = first.create_ticket(uses, Duration::from_secs(600)).await?.ticket;
        for node in &mut self.nodes[1..] {
            node.start_with(Some(&ticket), &self.flags)?;
        }
        for number in 1..self.nodes.len() {
            self.wait_ready(number, Some(&ticket)).await?;
        }
        Ok(self.nodes.iter().map(|node| AdminClient::new(&node.admin(), None, Some(node.folder()))).collect())
    }

    /// Until the node answers. If it ends, it is started again at other ports.
    async fn wait_ready(&mut self, number: usize, ticket: Option<&str>) -> Result<(), Failure> {
        let end = tokio::time::Instant::now() + FORMED_WITHIN;
        let mut starts = 1;
        loop {
            let node = &mut self.nodes[number];
            if AdminClient::new(&node.admin(), None, Some(node.folder())).is_ready().await {
                return Ok(());
            }
            if tokio::time::Instant::now() >= end {
                let message = format!("node {number} does not answer within {FORMED_WITHIN:?}");
                return Err(Failure::new(Fault::Internal, message));
            }
            if node.has_ended() {
                if starts >= STARTS_MAX {
                    return Err(Failure::new(Fault::Internal, format!("node {number} ends at each start")));
                }
                starts += 1;
                *node = Process::new(number, &self.folder.path, &self.network, &mut self.tasks).await?;
                node.start_with(ticket, &self.flags)?;
            }
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Kills them; what they leave is kept only to be looked at.
    pub async fn end(mut self, all_is_well: bool) {
        for node in &mut self.nodes {
            node.kill().await;
        }
        if all_is_well {
            self.folder.remove();
        } else {
            eprintln!("the nodes' folders and logs stay in {}", self.folder.path.display());
        }
    }
}

/// A temporary folder for the nodes.
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn new(seed: Seed) -> Result<Self, Failure> {
        let path: &Path = &std::env::temp_dir();
        let path = path.join(format!("atoll-verify-{:x}-{}", seed.0, std::process::id()));
        std::fs::create_dir_all(&path).map_err(|error| {
            Failure::new(Fault::Configuration, format!("can't make the folder {}", path.display()))
                .caused_by(&error)
        })?;
        Ok(Self { path })
    }

    fn remove(&self) {
        // It is temporary in any case.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}
