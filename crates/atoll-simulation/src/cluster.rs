//! Whole nodes: everything from the seams upwards, the same code as in production, with
//! the transport's, the files' and the store's twins under it.
//!
//! Node 0 founds the cluster and makes a ticket; the others join with it when they first
//! start. Clients' objects are in one bucket; how a node performs their operations is in
//! `performing.rs`.

mod inspecting;
mod performing;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
    time::Duration,
};

use atoll_gateway::admin::Admin;
use atoll_node::{Identity, Node, NodeAdmin, NodeParts, NodeProperties, PROGRAM_VERSION, StartError};
use atoll_objects::{BucketName, CreateBucketError, MaintenanceSettings, ObjectsSettings, RootKey};
use atoll_placement::{LayoutSettings, PlanSettings};
use atoll_records::Observer;
use atoll_runtime::{Runtime, watch};
use atoll_transport::memory::MemoryNetwork;
use atoll_types::{ByteSize, DiskId, Generation, Role, Roles};
use futures_util::{
    FutureExt,
    future::{self, BoxFuture},
};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::{
    checkers::RaftWatch,
    executor::lock,
    load::SHORT_CHUNKS,
    world::{Inspection, Life, Place, Program, World},
};

/// Where the clients' objects are.
const BUCKET: &str = "simulated";
/// More than ever join, and for longer than any run.
const TICKET_USES: u32 = 100;
const TICKET_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);
/// Before a process that could not start is started again, as a supervisor would.
const START_AGAIN: Duration = Duration::from_secs(1);

/// The program that is one node of a cluster.
pub struct Cluster {
    settings: LayoutSettings,
    view: ClusterView,
    raft: Arc<RaftWatch>,
    /// Whether an inspection waits for sweeps.
    sweeps: bool,
    /// What all nodes encrypt with, if the bucket of the clients' objects does.
    sealing_key: Option<RootKey>,
}

/// A node in one of its lives, and the runtime that the life has.
type Running = (Runtime, Node);

/// The nodes that run, as the harness sees them.
#[derive(Clone, Default)]
pub struct ClusterView {
    nodes: Arc<Mutex<Vec<Option<Running>>>>,
    ticket: TicketBoard,
    /// The versions of the program that machines have, where not the newest.
    programs: Arc<Mutex<BTreeMap<usize, u32>>>,
    /// The nodes that ended by themselves, and why.
    ended: Arc<Mutex<BTreeMap<usize, String>>>,
}

/// The ticket that newcomers take.
type TicketBoard = Arc<watch::Sender<Option<atoll_node::ticket::Ticket>>>;

impl Cluster {
    /// `data_shards` groups besides shard 0; few make a run fast.
    pub fn new(data_shards: u32) -> Self {
        let settings = LayoutSettings { data_shards, ..LayoutSettings::default() };
        Self {
            settings,
            view: ClusterView::default(),
            raft: Arc::default(),
            sweeps: false,
            sealing_key: None,
        }
    }

    /// How many nodes hold each chunk.
    pub fn with_copies(mut self, copies: u8) -> Self {
        self.settings.copies = copies;
        self
    }

    /// When all is calm, waits until what nobody refers to must be gone: minutes of
    /// virtual time, and seconds of real time.
    pub fn waits_for_sweeps(mut self) -> Self {
        self.sweeps = true;
        self
    }

    /// Everything that clients put is encrypted, by the bucket.
    pub fn with_encryption(mut self) -> Self {
        self.sealing_key = Some(RootKey::generate(&mut StdRng::seed_from_u64(0)));
        self
    }

    /// Keep it: the world takes the program.
    pub fn view(&self) -> ClusterView {
        self.view.clone()
    }
}

impl ClusterView {
    /// Every running node has this many members in its layout, each shard has its voters
    /// and nothing is on the move.
    pub fn is_settled(&self, members: usize) -> bool {
        let nodes = lock(&self.nodes);
        !nodes.is_empty()
            && nodes.iter().flatten().all(|(_, node)| {
                let layout = node.layout();
                layout.nodes().len() == members
                    && layout
                        .shards()
                        .values()
                        .all(|shard| shard.target.is_none() && shard.current.voters.len() >= members.min(3))
            })
    }

    /// A node in its present life, if it has begun.
    pub fn node(&self, index: usize) -> Option<(Runtime, Node)> {
        lock(&self.nodes).get(index).cloned().flatten()
    }

    /// An operator asks node `by` to have another drained, and to remove it once it is
    /// empty; again and again until it has happened.
    ///
    /// # Panics
    /// If `by` does not run.
    pub fn drain_and_remove(&self, by: usize, leaver: usize) {
        let (runtime, node) = lock(&self.nodes)[by].clone().expect("the node runs");
        let leaver = World::id(leaver).to_string();
        let admin = NodeAdmin::new(node);
        let clock = runtime.clone();
        runtime.spawn("operator", async move {
            while admin.drain_node(&leaver).await.is_err() {
                clock.sleep(START_AGAIN).await;
            }
            while admin.remove_node(&leaver, false).await.is_err() {
                clock.sleep(START_AGAIN).await;
            }
        });
    }

    /// Whether one of these can let a newcomer in, with the ticket that there is.
    pub fn ticket_names_one_of(&self, members: &BTreeSet<usize>) -> bool {
        let ticket = self.ticket.borrow();
        let mut issuers = ticket.iter().flat_map(|ticket| &ticket.issuers);
        issuers.any(|issuer| members.iter().any(|member| World::id(*member) == issuer.node))
    }

    /// An operator has node `by` make a new ticket, which names more of those who are
    /// members now; again and again until it is made.
    ///
    /// # Panics
    /// If `by` does not run.
    pub fn renew_ticket(&self, by: usize) {
        let (runtime, node) = lock(&self.nodes)[by].clone().expect("the node runs");
        let (ticket, clock) = (self.ticket.clone(), runtime.clone());
        runtime.spawn("operator", async move {
            loop {
                if let Ok((made, _)) = node.create_ticket(TICKET_USES, TICKET_LIFETIME).await {
                    ticket.send_replace(Some(made));
                    return;
                }
                clock.sleep(START_AGAIN).await;
            }
        });
    }

    /// The program that a machine runs from its next start on.
    pub fn install(&self, index: usize, version: u32) {
        lock(&self.programs).insert(index, version);
    }

    /// Why a node ended by itself, if it has.
    pub fn ended(&self, index: usize) -> Option<String> {
        lock(&self.ended).get(&index).cloned()
    }

    /// The cluster's version, by the word of node `by`: asked of it now, to be looked at
    /// once some time has passed.
    pub fn ask_version(&self, by: usize) -> Arc<Mutex<Option<u32>>> {
        let answer = Arc::new(Mutex::new(None));
        if let Some((runtime, node)) = lock(&self.nodes).get(by).cloned().flatten() {
            let answer = answer.clone();
            runtime.spawn("operator", async move {
                let status = NodeAdmin::new(node).status().await;
                *lock(&answer) = status.ok().map(|status| status.cluster_version);
            });
        }
        answer
    }

    /// As node `by` has heard.
    pub fn is_member(&self, by: usize, member: usize) -> bool {
        let nodes = lock(&self.nodes);
        nodes[by].as_ref().is_some_and(|(_, node)| node.layout().node(&World::id(member)).is_some())
    }

    fn set(&self, index: usize, runtime: Runtime, node: Node) {
        let mut nodes = lock(&self.nodes);
        if nodes.len() <= index {
            nodes.resize(index + 1, None);
        }
        nodes[index] = Some((runtime, node));
    }

    /// The node of a machine that went down.
    fn clear(&self, index: usize) -> Option<(Runtime, Node)> {
        lock(&self.nodes).get_mut(index).and_then(Option::take)
    }
}

struct RunningNode {
    index: usize,
    runtime: Runtime,
    node: Node,
    view: ClusterView,
}

impl Drop for RunningNode {
    fn drop(&mut self) {
        // Dropped after the lock is let go of: it ends the node's tasks.
        let node = self.view.clear(self.index);
        drop(node);
    }
}

impl Program for Cluster {
    fn start(&self, place: Place) -> BoxFuture<'static, Arc<dyn Life>> {
        let (settings, view) = (self.settings.clone(), self.view.clone());
        let ticket = view.ticket.clone();
        let raft = self.raft.of(place.index);
        let program = lock(&view.programs).get(&place.index).copied().unwrap_or(PROGRAM_VERSION);
        let sealing_key = self.sealing_key.clone();
        async move {
            let node = loop {
                let own = OwnParts {
                    observer: raft.clone(),
                    program_version: program,
                    sealing_key: sealing_key.clone(),
                };
                match start(&place, settings.clone(), &ticket, own).await {
                    Ok(node) => break node,
                    Err(error) if error.is_unavailable() => place.runtime.sleep(START_AGAIN).await,
                    Err(error) => {
                        place.give_up.at_start(chain(&error));
                        return future::pending().await;
                    }
                }
            };
            if place.index == 0 && ticket.borrow().is_none() {
                make_bucket(&node, &place.runtime, sealing_key.is_some()).await;
                let made = node.create_ticket(TICKET_USES, TICKET_LIFETIME).await;
                if let Ok((made, _)) = made {
                    ticket.send_replace(Some(made));
                }
            }
            let (failing, give_up) = (node.clone(), place.give_up.clone());
            drop(place.runtime.spawn("failed", async move { give_up.later(failing.disk_failed().await) }));
            view.set(place.index, place.runtime.clone(), node.clone());
            let (mourned, ended) = (node.clone(), view.ended.clone());
            place.runtime.spawn("last words", async move {
                let reason = mourned.failed().await.to_string();
                lock(&ended).insert(place.index, reason);
            });
            let (index, runtime) = (place.index, place.runtime);
            Arc::new(RunningNode { index, runtime, node, view }) as Arc<dyn Life>
        }
        .boxed()
    }

    fn was_set_back(&self, index: usize) {
        self.raft.was_set_back(index);
    }

    fn inspect(&self, runtime: Runtime) -> BoxFuture<'static, Inspection> {
        let (view, raft, sweeps) = (self.view.clone(), self.raft.clone(), self.sweeps);
        async move {
            let chunks = inspecting::chunks(&view, &runtime, sweeps).await;
            Inspection { violations: raft.violations(), chunks }
        }
        .boxed()
    }
}

/// What a node has of its own besides its place.
struct OwnParts {
    observer: Arc<dyn Observer>,
    program_version: u32,
    sealing_key: Option<RootKey>,
}

async fn start(
    place: &Place,
    founding: LayoutSettings,
    ticket: &watch::Sender<Option<atoll_node::ticket::Ticket>>,
    own: OwnParts,
) -> Result<Node, StartError> {
    let OwnParts { observer, program_version, sealing_key } = own;
    let mut rng = place.runtime.rng();
    let identity = Identity::start(place.files.as_ref(), || Identity {
        key_seed: rng.random(),
        disk: DiskId(rng.random()),
        generation: Generation(0),
        cluster: None,
    });
    let identity = identity.await?;
    let founds = place.index == 0 && ticket.borrow().is_none();
    let join = if founds || identity.cluster.is_some() {
        None
    } else {
        let mut ticket = ticket.subscribe();
        let ticket = ticket.wait_for(Option::is_some).await.expect("the program outlives its nodes");
        ticket.clone()
    };
    Node::start(NodeParts {
        runtime: place.runtime.clone(),
        transport: place.transport.clone(),
        files: place.files.clone(),
        store: Arc::new(place.store.clone()),
        identity,
        properties: NodeProperties {
            zone: place.zone.clone(),
            capacity: ByteSize::gib(100),
            roles: Roles::NONE.with(Role::Storage).with(Role::Gateway),
            addresses: vec![MemoryNetwork::address(place.id)],
            program_version,
        },
        join,
        root_key: None,
        founding,
        planning: PlanSettings::default(),
        sealing_key,
        objects: ObjectsSettings { chunks: SHORT_CHUNKS, ..ObjectsSettings::default() },
        maintenance: hurried(),
        // Nothing that is checked here depends on it; tests/overlay.rs runs it by itself.
        overlay: None,
        observer: Some(observer),
    })
    .await
}

/// A run lasts minutes: what production does in hours and days must fall into them, so
/// that puts and gets meet sweeps and walks.
fn hurried() -> MaintenanceSettings {
    MaintenanceSettings {
        check_every: Duration::from_secs(5),
        walk_every: Duration::from_secs(60),
        sweep_every: Duration::from_secs(15),
        scrub_every: Duration::from_secs(300),
        ..MaintenanceSettings::default()
    }
}

async fn make_bucket(node: &Node, runtime: &Runtime, encrypted: bool) {
    loop {
        match node.objects().create_bucket(&bucket(), "simulation").await {
            Ok(_) | Err(CreateBucketError::AlreadyOwnedByYou(_)) => break,
            Err(CreateBucketError::Unavailable(_)) => runtime.sleep(START_AGAIN).await,
            Err(error) => panic!("{error}"),
        }
    }
    while encrypted && node.objects().set_bucket_encryption(&bucket(), true).await.is_err() {
        runtime.sleep(START_AGAIN).await;
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn bucket() -> BucketName {
    BucketName::new(BUCKET).expect("a legal name")
}

impl Life for RunningNode {}
