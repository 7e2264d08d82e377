//! This node's part in the cluster's overlay: the core of the kind that the cluster agreed on,
//! and its driver over the transport's datagrams.
//!
//! ```text
//! admin API ─► Overlays ─ commands ─► driver ─► core ─► out ─► datagrams (atoll/overlay/1)
//!                                       ▲
//!               datagrams ─► inbox ─────┘
//! ```
//!
//! The layout says which kind it is, and who may speak at all; a change of it makes the old
//! core leave and the new one join, and what was asked meanwhile is asked again there. What a
//! peer sends is cut off by size, queued by peer, decoded, counted if it is refused, and
//! believed by the core no further than its paper needs.
//!
//! It keeps nothing on disk: an overlay is found anew at each start.

mod ask;
mod contact;
mod driver;
mod frame;
mod inbox;
mod sizes;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use atoll_membership::View;
use atoll_overlay::{
    AuthorKey, Chord, ChordConfig, ContentError, Dht, DhtConfig, Directory, DirectoryConfig, Finished,
    Hybrid, HybridConfig, Id, Kademlia, KademliaConfig, LocateError, Located, Pastry, PastryConfig,
    SearchStyle, Unstructured, UnstructuredConfig,
};
use atoll_placement::Layout;
use atoll_runtime::{AbortOnDrop, Runtime, watch};
use atoll_transport::{Caller, Handler, Message, Protocol, Refusal, Transport};
use atoll_types::{OverlayKind, ShardId};
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};

pub use self::{
    ask::OverlayAdmin,
    contact::NodeContact,
    driver::{Operation, Shown},
    sizes::{TableSizeError, TableSizes},
};
/// What fuzz targets see of it.
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz {
    pub(crate) use super::frame::Frame as Overlay;
}

use self::{
    driver::{Command, Driver, Ended, Estate, Surroundings},
    frame::{FRAME_BYTES_MAX, FrameError},
    inbox::Inbox,
};

/// Of one node's callers; the admin API serves a handful.
const COMMANDS_MAX: usize = 64;

/// How this node plays each kind.
///
/// The papers' defaults suit millions of home computers, which answer within a second and stay
/// for an hour. Members of a cluster answer within a tenth of that and should find each other
/// right after a start, and there are hundreds of them; so they look sooner.
#[derive(Debug, Clone)]
pub struct OverlaySettings {
    /// 0.5 s for an answer; clients register every 2 s, and values are compared every minute.
    pub directory: DirectoryConfig,
    /// 0.5 s for an answer, 2 s between two rounds of upkeep, some five messages each.
    pub chord: ChordConfig,
    /// 0.5 s for an answer, a bucket refreshed each minute.
    pub kademlia: KademliaConfig,
    /// 0.5 s for an answer, leaf sets compared every 2 s.
    pub pastry: PastryConfig,
    /// A plain flood of TTL 4, which with six neighbours each is enough for some hundred nodes:
    /// 0.1 s for a hop, so 0.8 s for each question. 0.5 s for a neighbour's answer, every 2 s.
    pub flood: UnstructuredConfig,
    /// The same network, searched by 16 walkers that ask every fourth step whether to go on, 0.1 s
    /// for a step; nodes keep their neighbours' indexes.
    pub walk: UnstructuredConfig,
    /// 0.5 s for an answer; super-peers ask each other every second, leaves theirs every 5 s, and
    /// two of three super-peers must agree whose a key is.
    pub hybrid: HybridConfig,
    /// 0.5 s for an answer; missing copies are looked for every 5 s and compared every minute,
    /// and what is published is published again every 10 minutes.
    pub content: DhtConfig,
}

impl Default for OverlaySettings {
    fn default() -> Self {
        let answer_timeout = Duration::from_millis(500);
        Self {
            directory: DirectoryConfig {
                answer_timeout,
                register_every: Duration::from_secs(2),
                compare_every: Duration::from_secs(60),
                ..DirectoryConfig::default()
            },
            chord: ChordConfig {
                answer_timeout,
                upkeep_every: Duration::from_secs(2),
                ..ChordConfig::default()
            },
            kademlia: KademliaConfig {
                answer_timeout,
                refresh_every: Duration::from_secs(60),
                ..KademliaConfig::default()
            },
            pastry: PastryConfig {
                answer_timeout,
                upkeep_every: Duration::from_secs(2),
                ..PastryConfig::default()
            },
            flood: UnstructuredConfig {
                style: SearchStyle::Flood { ttl: 4 },
                answer_timeout,
                hop_timeout: Duration::from_millis(100),
                upkeep_every: Duration::from_secs(2),
                ..UnstructuredConfig::default()
            },
            walk: UnstructuredConfig {
                style: SearchStyle::Walk { walkers: 16, check_every: 4 },
                walk_steps: 32,
                index_neighbours: true,
                answer_timeout,
                hop_timeout: Duration::from_millis(100),
                upkeep_every: Duration::from_secs(2),
                ..UnstructuredConfig::default()
            },
            hybrid: HybridConfig {
                answer_timeout,
                witnesses: 3,
                keep_every: Duration::from_secs(5),
                upkeep_every: Duration::from_secs(1),
                tell_every: Duration::from_millis(100),
                compare_every: Duration::from_secs(5),
                kademlia: Arc::new(KademliaConfig {
                    answer_timeout,
                    refresh_every: Duration::from_secs(300),
                    ..(*HybridConfig::default().kademlia).clone()
                }),
                ..HybridConfig::default()
            },
            content: DhtConfig {
                answer_timeout,
                check_every: Duration::from_secs(5),
                compare_every: Duration::from_secs(60),
                republish_every: Duration::from_secs(600),
                ..DhtConfig::default()
            },
        }
    }
}

/// Frames so far.
#[derive(Debug, Default)]
pub struct Counters {
    pub sent: AtomicU64,
    /// Given to the core.
    pub received: AtomicU64,
    pub malformed: AtomicU64,
    /// Of another kind of overlay, while the cluster changes from one to the other.
    pub other_kind: AtomicU64,
    /// There was no room: the peer sends faster than this node reads.
    pub dropped: AtomicU64,
}

impl Counters {
    /// Their names and meanings for `/metrics`, and how much they are now.
    pub fn numbers(&self) -> [(&'static str, &'static str, u64); 5] {
        let now = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        [
            ("atoll_overlay_frames_sent", "Overlay frames sent", now(&self.sent)),
            ("atoll_overlay_frames_received", "Overlay frames given to the core", now(&self.received)),
            (
                "atoll_overlay_frames_malformed",
                "Overlay frames refused: too large, or not what the protocol says",
                now(&self.malformed),
            ),
            (
                "atoll_overlay_frames_of_other_kind",
                "Overlay frames refused: of another kind, while the cluster changes its kind",
                now(&self.other_kind),
            ),
            (
                "atoll_overlay_frames_dropped",
                "Overlay frames refused for want of room: a peer sends faster than this node reads",
                now(&self.dropped),
            ),
        ]
    }

    fn refused(&self, error: &FrameError) {
        count(match error {
            FrameError::OtherKind => &self.other_kind,
            FrameError::TooLarge { .. } | FrameError::Format(_) => &self.malformed,
        });
    }
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The overlay does not answer: this node stops, or is busy with other questions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    #[error("this node takes no part in an overlay")]
    Gone,
    #[error(transparent)]
    Refused(#[from] LocateError),
    #[error(transparent)]
    Content(#[from] ContentError),
}

/// What an overlay is made of.
pub struct OverlayParts {
    pub runtime: Runtime,
    pub transport: Arc<dyn Transport>,
    pub layout: watch::Receiver<Arc<Layout>>,
    pub view: watch::Receiver<Arc<View>>,
    /// Signs what this node publishes.
    pub author: AuthorKey,
    pub settings: OverlaySettings,
}

/// This node's overlay, of whatever kind it is at the time.
pub struct Overlays {
    commands: mpsc::Sender<Command>,
    counters: Arc<Counters>,
    _task: AbortOnDrop,
}

/// Where the layout names none: its cluster was founded before there was another default.
const KIND_DEFAULT: OverlayKind = OverlayKind::Chord;

/// The kind that the cluster agreed on.
pub fn kind_of(layout: &Layout) -> OverlayKind {
    layout.settings().overlay.unwrap_or(KIND_DEFAULT)
}

/// Who is in the middle of a kind that has a centre: the voters of shard 0. The layout chose them
/// to stay, spread over zones, and names others when they die or leave, and everybody knows it.
fn centre_of(kind: OverlayKind, layout: &Layout) -> Option<Vec<NodeContact>> {
    if kind != OverlayKind::Directory {
        return None;
    }
    let voters = layout.shards().get(&ShardId::META).map(|shard| &shard.goal().voters);
    Some(voters.into_iter().flatten().map(|voter| NodeContact::from(voter.node)).collect())
}

impl Overlays {
    pub fn start(parts: OverlayParts) -> Self {
        let OverlayParts { runtime, transport, layout, view, author, settings } = parts;
        let (commands, receiver) = mpsc::channel(COMMANDS_MAX);
        let (inbox, counters) = (Arc::new(Inbox::default()), Arc::new(Counters::default()));
        let handler = OverlayHandler { inbox: inbox.clone(), counters: counters.clone() };
        transport.serve(Protocol::Overlay, Arc::new(handler));
        let around = Surroundings {
            runtime: runtime.clone(),
            transport,
            layout,
            view,
            inbox,
            counters: counters.clone(),
            commands: receiver,
        };
        let task = runtime.spawn_owned("overlay", play(around, author, settings));
        Self { commands, counters, _task: task }
    }

    /// Who is responsible for the key, and who was asked on the way. While this node joins, or
    /// changes to another kind, it waits.
    pub async fn locate(&self, key: Id) -> Result<Located<NodeContact>, AskError> {
        Ok(self.ask(|reply| Command::Locate { key, reply }).await??)
    }

    /// Stores, fetches, provides or searches; waits as [`locate`](Self::locate) does.
    pub async fn operate(&self, operation: Operation) -> Result<Finished<NodeContact>, AskError> {
        Ok(self.ask(|reply| Command::Operate { operation, reply }).await??)
    }

    /// False if this node did not provide it.
    pub async fn stop_providing(&self, content: Id) -> Result<bool, AskError> {
        self.ask(|reply| Command::StopProviding { content, reply }).await
    }

    pub async fn show(&self) -> Result<Shown, AskError> {
        self.ask(|reply| Command::Show { reply }).await
    }

    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Tells the neighbours that this node goes.
    pub async fn leave(&self) {
        // If nobody is there to leave, it has left.
        let _ = self.ask(|done| Command::Leave { done }).await;
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, AskError> {
        let (reply, answer) = oneshot::channel();
        self.commands.send(command(reply)).await.map_err(|_| AskError::Gone)?;
        answer.await.map_err(|_| AskError::Gone)
    }
}

/// One core after the other, as the cluster changes its kind.
async fn play(mut around: Surroundings, author: AuthorKey, settings: OverlaySettings) {
    let me = NodeContact::from(around.transport.node_id());
    let (chord, kademlia) = (Arc::new(settings.chord), Arc::new(settings.kademlia));
    let (pastry, content) = (Arc::new(settings.pastry), Arc::new(settings.content));
    let (flood, directory) = (Arc::new(settings.flood), Arc::new(settings.directory));
    let (walk, hybrid) = (Arc::new(settings.walk), Arc::new(settings.hybrid));
    let mut estate = Estate::default();
    loop {
        let kind = kind_of(&around.layout.borrow_and_update());
        let (author, content) = (author.clone(), content.clone());
        let ended = match kind {
            OverlayKind::Directory => {
                let core = Directory::new(me, author, directory.clone(), Vec::new());
                Driver::new(&mut around, kind, core, estate).run().await
            }
            OverlayKind::Chord => {
                let core = Dht::new(Chord::new(me, chord.clone()), author, content);
                Driver::new(&mut around, kind, core, estate).run().await
            }
            OverlayKind::Kademlia => {
                let core = Dht::new(Kademlia::new(me, kademlia.clone()), author, content);
                Driver::new(&mut around, kind, core, estate).run().await
            }
            OverlayKind::Pastry => {
                let core = Dht::new(Pastry::new(me, pastry.clone()), author, content);
                Driver::new(&mut around, kind, core, estate).run().await
            }
            OverlayKind::Flood => {
                let core = Unstructured::new(me, author, flood.clone());
                Driver::new(&mut around, kind, core, estate).run().await
            }
            OverlayKind::Hybrid => {
                let core = Dht::new(Hybrid::new(me, hybrid.clone()), author, content);
                Driver::new(&mut around, kind, core, estate).run().await
            }
            OverlayKind::Walk => {
                let core = Unstructured::new(me, author, walk.clone());
                Driver::new(&mut around, kind, core, estate).run().await
            }
        };
        match ended {
            Ended::Left => return,
            Ended::KindChanged(left) => estate = left,
        }
    }
}

struct OverlayHandler {
    inbox: Arc<Inbox>,
    counters: Arc<Counters>,
}

#[async_trait]
impl Handler for OverlayHandler {
    async fn call(&self, _from: Caller, _request: Message) -> Result<Message, Refusal> {
        Err(Refusal { code: DATAGRAMS_ONLY, reason: "overlays speak by datagrams".into() })
    }

    fn datagram(&self, from: &Caller, payload: Bytes) {
        if payload.len() > FRAME_BYTES_MAX {
            count(&self.counters.malformed);
        } else if !self.inbox.push(from.node, payload) {
            count(&self.counters.dropped);
        }
    }
}

/// This protocol's only refusal.
const DATAGRAMS_ONLY: u16 = 1;
