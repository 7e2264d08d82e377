//! `atoll recover`: a survivor goes on when a majority is gone for good (rule 6).
//!
//! ```text
//! offline, on the survivor   reads layout and store, says what may be lost
//!                            writes the layout of a new epoch
//! the next start, on every   the replicas that this layout leaves alone become their
//! survivor                   shards' only voters; what nobody has begins empty
//! shard 0's leader           puts the layout in the place of the one that shard 0 has
//! ```
//!
//! The epoch that a data folder has taken part in is kept beside the layout, so a start
//! that was cut short does it again, and one that finds nothing new does nothing.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use atoll_disk::{
    Files, FjallStore, OpenFolderError, OrderedStore, RealFiles, Recovery as RecoveredLog, SharedLog,
    StoreError, WholeFileError, read_whole, replace_whole,
};
use atoll_placement::{Layout, NodeState, RecoverError as Impossible, Recovery};
use atoll_records::{Records, ReplicaAddress, go_on_alone, replicas_in};
use atoll_runtime::Runtime;
use atoll_transport::NodeKey;
use atoll_types::{Format, NodeId, ReplicaId, ShardId};
use serde::{Deserialize, Serialize};

use crate::{
    follower::{LAYOUT_FILE, LayoutFileError, LayoutFollower},
    identity::{Identity, IdentityError},
    start::StartError,
};

const EPOCH_FILE: &str = "epoch";

/// The newest epoch that this data folder took part in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Epoch(u64);

impl Format for Epoch {
    const NAME: &'static str = "epoch";
    const VERSION: u8 = 1;
}

/// Why nothing can be recovered here. The data folder is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RecoverError {
    #[error("the data folder can't be used")]
    Folder(#[from] OpenFolderError),
    #[error("the data folder can't be read or written")]
    File(#[from] WholeFileError),
    #[error("the data folder's identity can't be used")]
    Identity(#[from] IdentityError),
    #[error("the data folder's layout can't be used")]
    Layout(#[from] LayoutFileError),
    #[error("the ordered store can't be opened")]
    Store(#[from] StoreError),
    #[error("this data folder belongs to no member of a cluster")]
    NoMember,
    #[error("this node was removed from its cluster")]
    Removed,
    /// Without shard 0 there is no cluster to go on with.
    #[error("this node has no replica of shard 0: recover on one of {}", nodes(.holders))]
    WithoutShard0 { holders: Vec<NodeId> },
    #[error("no node of the cluster is called {name}")]
    UnknownSurvivor { name: String },
    #[error("several nodes are called {name}: write more of the id")]
    AmbiguousSurvivor { name: String },
    #[error(transparent)]
    Impossible(#[from] Impossible),
}

fn nodes(nodes: &[NodeId]) -> String {
    nodes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// What a recovery would do; nothing is changed until [`Examination::recover`].
pub struct Examination {
    files: Arc<RealFiles>,
    me: NodeId,
    former: Layout,
    recovery: Recovery,
}

/// In numbers, for people.
#[derive(Debug, Clone, Serialize)]
pub struct Losses {
    pub node: String,
    pub epoch: u64,
    /// The nodes that the cluster goes on with.
    pub survivors: Vec<String>,
    /// Their keys are refused from then on.
    pub given_up: Vec<String>,
    pub shards: usize,
    /// Most of their voters are given up: their newest writes may be missing.
    pub shards_behind: usize,
    /// Nobody has anything of them: they begin empty.
    pub shards_lost: usize,
    pub slots: usize,
    /// An acknowledged chunk of these may have been on the given up only.
    pub slots_behind: usize,
    /// Nobody has any chunk of these.
    pub slots_lost: usize,
}

/// Looks at the data folder of a node that is stopped. `survivors`: others that are still
/// there, by their ids or the beginnings of them.
pub async fn examine(data: &Path, survivors: &[String]) -> Result<Examination, RecoverError> {
    let runtime = Runtime::tokio();
    if !data.is_dir() {
        // Not made by looking at it.
        return Err(RecoverError::NoMember);
    }
    let files = Arc::new(RealFiles::open(data, runtime.clone())?);
    let identity = Identity::read(files.as_ref()).await?.ok_or(RecoverError::NoMember)?;
    let me = NodeKey::from_seed(identity.key_seed).node_id();
    let former = LayoutFollower::saved(files.as_ref()).await?;
    let former = former.filter(|_| identity.cluster.is_some()).ok_or(RecoverError::NoMember)?;
    if former.is_removed(&me) {
        return Err(RecoverError::Removed);
    }
    let others = survivors.iter().map(|name| named(&former, name)).collect::<Result<BTreeSet<_>, _>>()?;
    let folder = files.folder().join("store");
    let found =
        runtime.blocking(move || FjallStore::open(&folder).and_then(|store| replicas_in(&store))).await?;
    let filled: BTreeSet<ReplicaId> =
        found.iter().filter(|(_, _, filled)| *filled).map(|(_, replica, _)| *replica).collect();
    let unusable = former
        .replicas_on(&me)
        .filter(|(_, replica)| replica.disk != identity.disk || !filled.contains(&replica.id))
        .map(|(_, replica)| replica.id)
        .collect();
    let recovery = former.recover(&me, &others, &unusable)?;
    if recovery.shards_lost.contains(&ShardId::META) {
        let shard = former.shards().get(&ShardId::META);
        let holders = shard.into_iter().flat_map(|shard| shard.all()).map(|replica| replica.node);
        return Err(RecoverError::WithoutShard0 { holders: holders.filter(|node| *node != me).collect() });
    }
    Ok(Examination { files, me, former, recovery })
}

fn named(layout: &Layout, name: &str) -> Result<NodeId, RecoverError> {
    let mut found = layout.nodes().keys().filter(|node| node.to_string().starts_with(name));
    match (found.next(), found.next()) {
        (Some(node), None) => Ok(*node),
        (None, _) => Err(RecoverError::UnknownSurvivor { name: name.into() }),
        (Some(_), Some(_)) => Err(RecoverError::AmbiguousSurvivor { name: name.into() }),
    }
}

impl Examination {
    pub fn losses(&self) -> Losses {
        let recovery = &self.recovery;
        let names = |survive: bool| -> Vec<String> {
            let kept = |node: &&NodeId| recovery.layout.node(node).is_some();
            self.former.nodes().keys().filter(|node| kept(node) == survive).map(ToString::to_string).collect()
        };
        Losses {
            node: self.me.to_string(),
            epoch: recovery.layout.epoch(),
            survivors: names(true),
            given_up: names(false),
            shards: self.former.shards().len(),
            shards_behind: recovery.shards_behind.len(),
            shards_lost: recovery.shards_lost.len(),
            slots: atoll_types::Slot::COUNT,
            slots_behind: recovery.slots_behind,
            slots_lost: recovery.slots_lost,
        }
    }

    /// Whether each survivor could be asked at any time: then there is nothing to recover.
    pub fn is_needless(&self) -> bool {
        self.recovery.shards_behind.is_empty()
            && self.recovery.shards_lost.is_empty()
            && self.former.nodes().values().all(|node| node.state == NodeState::Active)
            && self.recovery.layout.nodes().len() == self.former.nodes().len()
    }

    /// From the next start on, this node goes on without those given up.
    pub async fn recover(self) -> Result<(), RecoverError> {
        replace_whole(self.files.as_ref(), "", LAYOUT_FILE, self.recovery.layout.encode()).await?;
        Ok(())
    }
}

/// A start under an epoch that this folder has not taken part in.
pub(crate) struct Adoption {
    epoch: u64,
    /// The shards that this node is to keep alone, and its replica of each.
    alone: BTreeMap<ShardId, ReplicaId>,
}

impl Adoption {
    /// What a member has to adopt before anything runs, if its layout says so.
    pub async fn due(
        files: &dyn Files,
        me: &NodeId,
        layout: &Layout,
    ) -> Result<Option<Adoption>, StartError> {
        let known = match read_whole(files, EPOCH_FILE).await.map_err(LayoutFileError::from)? {
            Some(bytes) => Epoch::decode(&bytes).map_err(LayoutFileError::from)?.0,
            None => Layout::FIRST_EPOCH,
        };
        if known >= layout.epoch() {
            return Ok(None);
        }
        let alone =
            layout.shards().iter().filter_map(|(shard, placement)| match &placement.current.voters[..] {
                [sole] if sole.node == *me => Some((*shard, sole.id)),
                _ => None,
            });
        Ok(Some(Adoption { epoch: layout.epoch(), alone: alone.collect() }))
    }

    /// Before the records start.
    pub async fn force(
        &self,
        runtime: &Runtime,
        store: &Arc<dyn OrderedStore>,
        log: &SharedLog,
        recovered: &mut RecoveredLog,
        me: NodeId,
    ) -> Result<(), StartError> {
        let replicas: Vec<ReplicaId> = self.alone.values().copied().collect();
        go_on_alone(runtime, store, log, recovered, me, &replicas).await?;
        Ok(())
    }

    /// Once the records run: what nobody has is founded anew, and the folder has taken part.
    pub async fn finish(&self, records: &Records, files: &dyn Files, me: NodeId) -> Result<(), StartError> {
        let here: BTreeSet<ReplicaId> =
            records.status().await.into_iter().map(|replica| replica.replica).collect();
        for (shard, replica) in self.alone.iter().filter(|(_, replica)| !here.contains(replica)) {
            tracing::error!(%shard, %replica, "nobody has anything of this shard: it begins empty");
            let founder = ReplicaAddress { replica: *replica, node: me };
            records.create_replica(*shard, *replica, Some(vec![founder])).await?;
        }
        keep_epoch(files, self.epoch).await
    }
}

/// The folder takes part in this epoch.
pub(crate) async fn keep_epoch(files: &dyn Files, epoch: u64) -> Result<(), StartError> {
    let bytes = Epoch(epoch).encode();
    replace_whole(files, "", EPOCH_FILE, bytes).await.map_err(LayoutFileError::from)?;
    Ok(())
}
