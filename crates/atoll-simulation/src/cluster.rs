//! Whole nodes: everything from the seams upwards, the same code as in production, with
//! the transport's, the files' and the store's twins under it.
//!
//! Node 0 founds the cluster and makes a ticket; the others join with it when they first
//! start. Clients' operations are objects in one bucket, some so small that they live in
//! their record, some cut into chunks. A value tells its object's bytes, so a get that
//! brings anything else has been served wrong bytes.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use atoll_gateway::admin::Admin;
use atoll_node::{Identity, Node, NodeAdmin, NodeParts, NodeProperties, StartError};
use atoll_objects::{
    BucketName, CreateBucketError, DeleteObject, DeleteObjectError, ETag, ETagCondition, GetObject,
    GetObjectError, MaintenanceSettings, ObjectKey, PutBody, PutObject, PutObjectError, ReadConditions,
    WriteConditions,
};
use atoll_placement::{LayoutSettings, PlanSettings};
use atoll_runtime::Runtime;
use atoll_transport::memory::MemoryNetwork;
use atoll_types::{ByteSize, DiskId, Generation, Role, Roles, Zone};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, future::BoxFuture, stream};
use md5::{Digest, Md5};
use rand::Rng;
use tokio::sync::watch;

use crate::{
    executor::lock,
    linearizability::register::{Action, Condition, Input, Output, Value},
    world::{Life, Place, Program, World},
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
    ticket: Arc<watch::Sender<Option<atoll_node::ticket::Ticket>>>,
    view: ClusterView,
}

/// A node in one of its lives, and the runtime that the life has.
type Running = (Runtime, Node);

/// The nodes that run, as the harness sees them.
#[derive(Clone, Default)]
pub struct ClusterView {
    nodes: Arc<Mutex<Vec<Option<Running>>>>,
}

impl Cluster {
    /// `data_shards` groups besides shard 0; few make a run fast.
    pub fn new(data_shards: u32) -> Self {
        let settings = LayoutSettings { data_shards, ..LayoutSettings::default() };
        Self { settings, ticket: Arc::new(watch::Sender::new(None)), view: ClusterView::default() }
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
        let (settings, ticket, view) = (self.settings.clone(), self.ticket.clone(), self.view.clone());
        async move {
            let node = loop {
                match start(&place, settings.clone(), &ticket).await {
                    Ok(node) => break node,
                    Err(error) if error.is_unavailable() => place.runtime.sleep(START_AGAIN).await,
                    Err(error) => panic!("{}", chain(&error)),
                }
            };
            if place.index == 0 && ticket.borrow().is_none() {
                make_bucket(&node, &place.runtime).await;
                let made = node.create_ticket(TICKET_USES, TICKET_LIFETIME).await;
                if let Ok((made, _)) = made {
                    ticket.send_replace(Some(made));
                }
            }
            view.set(place.index, place.runtime.clone(), node.clone());
            Arc::new(RunningNode { index: place.index, node, view }) as Arc<dyn Life>
        }
        .boxed()
    }
}

async fn start(
    place: &Place,
    founding: LayoutSettings,
    ticket: &watch::Sender<Option<atoll_node::ticket::Ticket>>,
) -> Result<Node, StartError> {
    let mut rng = place.runtime.rng();
    let identity = Identity::start(place.files.as_ref(), || Identity {
        key_seed: rng.random(),
        disk: DiskId(rng.random()),
        generation: Generation(0),
        cluster: None,
    });
    let identity = identity.await?;
    let join = if place.index == 0 || identity.cluster.is_some() {
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
            zone: Zone::default(),
            capacity: ByteSize::gib(100),
            roles: Roles::NONE.with(Role::Storage).with(Role::Gateway),
            addresses: vec![MemoryNetwork::address(place.id)],
        },
        join,
        root_key: None,
        founding,
        planning: PlanSettings::default(),
        maintenance: hurried(),
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

async fn make_bucket(node: &Node, runtime: &Runtime) {
    loop {
        match node.objects().create_bucket(&bucket(), "simulation").await {
            Ok(_) | Err(CreateBucketError::AlreadyOwnedByYou(_)) => return,
            Err(CreateBucketError::Unavailable(_)) => runtime.sleep(START_AGAIN).await,
            Err(error) => panic!("{error}"),
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn bucket() -> BucketName {
    BucketName::new(BUCKET).expect("a legal name")
}

fn key(name: &str) -> ObjectKey {
    ObjectKey::new(name.to_owned()).expect("a legal key")
}

/// The object that stands for a value: sizes on both sides of the inline limit, one chunk
/// and several.
fn body(Value(value): Value) -> Bytes {
    /// In units of eight bytes: 8 B, 16 KiB, 16 KiB and 8 B, 100 KB, 2.4 MB.
    const LENGTHS: [usize; 8] = [1, 2048, 2049, 1, 12_500, 1, 300_000, 100];
    let length = LENGTHS[(value % 8) as usize];
    let words = (0..length as u64).flat_map(|word| (value ^ (word.wrapping_mul(word) << 24)).to_le_bytes());
    words.collect::<Vec<u8>>().into()
}

fn etag(value: Value) -> ETag {
    ETag { md5: Md5::digest(body(value)).into(), parts: 0 }
}

fn conditions(condition: Condition) -> WriteConditions {
    match condition {
        Condition::None => WriteConditions::default(),
        Condition::Absent => {
            WriteConditions { if_none_match: Some(ETagCondition::Any), ..WriteConditions::default() }
        }
        Condition::Is(value) => WriteConditions {
            if_match: Some(ETagCondition::OneOf(vec![etag(value).to_string()])),
            ..WriteConditions::default()
        },
    }
}

impl RunningNode {
    async fn get(&self, name: &str) -> Option<Output> {
        let request = GetObject {
            bucket: bucket(),
            key: key(name),
            range: None,
            conditions: ReadConditions::default(),
        };
        let mut got = match self.node.objects().get(request).await {
            Ok(got) => got,
            Err(GetObjectError::NoSuchKey) => return Some(Output::Found(None)),
            Err(GetObjectError::Unavailable(_)) => return None,
            Err(error) => panic!("get {name}: {}", chain(&error)),
        };
        let mut bytes = Vec::new();
        while let Some(piece) = got.body.next().await {
            bytes.extend_from_slice(&piece.ok()?);
        }
        let value = Value(u64::from_le_bytes(bytes[..8].try_into().expect("every object has eight bytes")));
        assert!(bytes == body(value), "{name} was served wrong bytes");
        Some(Output::Found(Some(value)))
    }

    async fn put(&self, name: &str, value: Value, condition: Condition) -> Option<Output> {
        let bytes = body(value);
        let length = bytes.len() as u64;
        let pieces: Vec<_> = bytes.chunks(64 << 10).map(|piece| Ok(bytes.slice_ref(piece))).collect();
        let request = PutObject {
            bucket: bucket(),
            key: key(name),
            headers: Default::default(),
            conditions: conditions(condition),
            idempotency: None,
            body: PutBody { length: Some(length), ..PutBody::new(stream::iter(pieces).boxed()) },
        };
        match self.node.objects().put(request).await {
            Ok(_) => Some(Output::Done),
            Err(PutObjectError::PreconditionFailed | PutObjectError::NoSuchKey) => Some(Output::Refused),
            Err(PutObjectError::Unavailable(_)) => None,
            Err(error) => panic!("put {name}: {}", chain(&error)),
        }
    }

    async fn delete(&self, name: &str, condition: Condition) -> Option<Output> {
        let request = DeleteObject {
            bucket: bucket(),
            key: key(name),
            conditions: conditions(condition),
            idempotency: None,
        };
        match self.node.objects().delete(request).await {
            Ok(_) => Some(Output::Done),
            Err(DeleteObjectError::PreconditionFailed | DeleteObjectError::NoSuchKey) => {
                Some(Output::Refused)
            }
            Err(DeleteObjectError::Unavailable(_)) => None,
            Err(error) => panic!("delete {name}: {}", chain(&error)),
        }
    }
}

impl Life for RunningNode {
    fn perform(self: Arc<Self>, input: Input) -> BoxFuture<'static, Option<Output>> {
        async move {
            match input.action {
                Action::Get => self.get(&input.key).await,
                Action::Put(value, condition) => self.put(&input.key, value, condition).await,
                Action::Delete(condition) => self.delete(&input.key, condition).await,
            }
        }
        .boxed()
    }
}
