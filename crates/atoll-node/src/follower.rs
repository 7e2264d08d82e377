//! What this node knows of the layout: kept on disk, published to everyone inside the
//! node, and the rule on whom to let in.
//!
//! A layout arrives from shard 0 (by the controller, which pushes what it wrote) or from
//! any peer that has a newer one. Older ones are ignored, so it doesn't matter who sends
//! it how often.

use std::sync::Arc;

use atoll_disk::{Files, WholeFileError, read_whole, replace_whole};
use atoll_placement::{Layout, Replica};
use atoll_records::{ReplicaAddress, ShardMap, ShardReplicas};
use atoll_runtime::watch;
use atoll_transport::{Admission, Protocol, Transport};
use atoll_types::{Format, FormatError, NodeId};
use tokio::sync::Mutex;

pub(crate) const LAYOUT_FILE: &str = "layout";

pub struct LayoutFollower {
    me: NodeId,
    files: Arc<dyn Files>,
    transport: Arc<dyn Transport>,
    layout: watch::Sender<Arc<Layout>>,
    shard_map: watch::Sender<Arc<ShardMap>>,
    /// Why this node can't go on.
    ended: watch::Sender<Option<Ended>>,
    /// Held while a layout is written and published, so that versions only grow.
    changing: Mutex<()>,
}

/// Why a node can't go on in its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Ended {
    #[error("this node was removed from its cluster, for good")]
    Removed,
    /// Its replicas are to go on without those given up, which only a start can do.
    #[error("the cluster was recovered under epoch {epoch}: start this node again to take part")]
    Recovered { epoch: u64 },
    #[error("this program knows cluster version {program}, the cluster has {needed}: install a newer one")]
    ProgramTooOld { needed: u32, program: u32 },
}

/// The layout could not be kept. The node goes on with the one it has.
#[derive(Debug, thiserror::Error)]
pub enum LayoutFileError {
    #[error(transparent)]
    File(#[from] WholeFileError),
    #[error(transparent)]
    Format(#[from] FormatError),
}

impl LayoutFollower {
    /// The layout last kept in this folder.
    pub async fn saved(files: &dyn Files) -> Result<Option<Layout>, LayoutFileError> {
        match read_whole(files, LAYOUT_FILE).await? {
            Some(bytes) => Ok(Some(Layout::decode(&bytes)?)),
            None => Ok(None),
        }
    }

    /// Follows from `layout` on, which is made durable first.
    pub async fn start(
        me: NodeId,
        files: Arc<dyn Files>,
        transport: Arc<dyn Transport>,
        layout: Layout,
    ) -> Result<Arc<Self>, LayoutFileError> {
        replace_whole(files.as_ref(), "", LAYOUT_FILE, layout.encode()).await?;
        tell_addresses(transport.as_ref(), &layout);
        let follower = Arc::new(Self {
            me,
            files,
            layout: watch::Sender::new(Arc::new(layout.clone())),
            shard_map: watch::Sender::new(Arc::new(shard_map(&layout))),
            transport: transport.clone(),
            ended: watch::Sender::new(None),
            changing: Mutex::new(()),
        });
        transport.set_admission(Arc::new(MembersOnly { layout: follower.subscribe() }));
        Ok(follower)
    }

    pub fn current(&self) -> Arc<Layout> {
        self.layout.borrow().clone()
    }

    pub fn subscribe(&self) -> watch::Receiver<Arc<Layout>> {
        self.layout.subscribe()
    }

    pub fn shard_map(&self) -> watch::Receiver<Arc<ShardMap>> {
        self.shard_map.subscribe()
    }

    /// This node can't go on.
    pub fn end(&self, why: Ended) {
        self.ended.send_replace(Some(why));
    }

    /// Waits until this node can't go on.
    pub async fn ended(&self) -> Ended {
        let mut ended = self.ended.subscribe();
        let ended = ended.wait_for(Option::is_some).await.ok().and_then(|ended| *ended);
        // The sender lives as long as the follower.
        ended.expect("waited for")
    }

    /// Takes `layout` if it is newer than what is known; says whether it was.
    pub async fn offer(&self, layout: Layout) -> Result<bool, LayoutFileError> {
        let _changing = self.changing.lock().await;
        let former = self.current();
        if (layout.epoch(), layout.version()) <= (former.epoch(), former.version()) {
            return Ok(false);
        }
        replace_whole(self.files.as_ref(), "", LAYOUT_FILE, layout.encode()).await?;
        tracing::debug!(version = layout.version(), node = ?self.me, "layout");
        if layout.is_removed(&self.me) || layout.epoch() > former.epoch() {
            let ended = match layout.is_removed(&self.me) {
                true => Ended::Removed,
                false => Ended::Recovered { epoch: layout.epoch() },
            };
            self.end(ended);
            return Ok(true);
        }
        tell_addresses(self.transport.as_ref(), &layout);
        let map = Arc::new(shard_map(&layout));
        let layout = Arc::new(layout);
        self.layout.send_replace(layout.clone());
        self.shard_map.send_replace(map);
        for node in former.nodes().keys().filter(|node| layout.is_removed(node)) {
            self.transport.disconnect(*node);
        }
        Ok(true)
    }
}

fn tell_addresses(transport: &dyn Transport, layout: &Layout) {
    for (node, properties) in layout.nodes() {
        transport.set_addresses(*node, properties.addresses.clone());
    }
}

/// The layout's shards in the shape that Raft's driver wants.
fn shard_map(layout: &Layout) -> ShardMap {
    let addresses = |pairs: Vec<_>| -> Vec<ReplicaAddress> {
        pairs.into_iter().map(|(replica, node)| ReplicaAddress { replica, node }).collect()
    };
    let shards = layout.shard_map().into_iter().map(|(shard, entry)| {
        let (voters, learners) = (addresses(entry.voters), addresses(entry.learners));
        (shard, ShardReplicas { voters, learners })
    });
    ShardMap { version: layout.version(), shards: shards.collect() }
}

/// A replica set of the layout, for [`atoll_records::Records::reconfigure`].
pub fn shard_replicas(set: &atoll_placement::ReplicaSet) -> ShardReplicas {
    let addresses = |replicas: &[Replica]| {
        replicas.iter().map(|replica| ReplicaAddress { replica: replica.id, node: replica.node }).collect()
    };
    ShardReplicas { voters: addresses(&set.voters), learners: addresses(&set.learners) }
}

/// Members speak every protocol, strangers only `join`, removed keys nothing.
struct MembersOnly {
    layout: watch::Receiver<Arc<Layout>>,
}

impl Admission for MembersOnly {
    fn admits(&self, peer: &NodeId, protocol: Protocol) -> bool {
        let layout = self.layout.borrow();
        if layout.is_removed(peer) {
            return false;
        }
        protocol == Protocol::Join || layout.node(peer).is_some()
    }

    fn is_removed(&self, peer: &NodeId) -> bool {
        self.layout.borrow().is_removed(peer)
    }
}
