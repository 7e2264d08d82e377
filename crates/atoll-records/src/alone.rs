//! Going on alone: what `atoll recover` makes of a replica whose other voters are gone for
//! good. Raft has no way to agree on that, so the survivor's own word is written into its
//! state, before any group runs.
//!
//! The replica becomes the only voter, with all that its log has, acknowledged or not. The
//! log may hold changes of members that were made when the others were still there; they
//! are void ([`Alone`]), or they would bring the dead back.

use std::sync::Arc;

use atoll_disk::{
    LogVerdict, OrderedStore, RecoveredReplica, Recovery, SharedLog, StoreError, Table, WriteBatch,
};
use atoll_runtime::Runtime;
use atoll_types::{Format, NodeId, ReplicaId, ShardId};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    StartError,
    lives::Lives,
    log::{self, OpenError},
    records::{delete, read_replicas},
    state::{Area, Descriptor, Members, Meta, decode},
};

const ALONE_PREFIX: &[u8] = b"records/alone/";

/// That a replica went on alone; kept in `Table::Local`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Alone {
    /// Changes of members in log entries up to this one are void.
    pub void_through: u64,
}

impl Format for Alone {
    const NAME: &'static str = "replica alone";
    const VERSION: u8 = 1;
}

impl Alone {
    pub fn key(replica: ReplicaId) -> Bytes {
        [ALONE_PREFIX, &replica.0.to_be_bytes()].concat().into()
    }

    pub fn read(store: &dyn OrderedStore, replica: ReplicaId) -> Result<Option<Self>, StoreError> {
        store.get(Table::Local, &Self::key(replica))?.map(|bytes| decode(&bytes)).transpose()
    }
}

/// The replicas that a node's store has, and whether each was ever filled: what there is to
/// recover with.
pub fn replicas_in(store: &dyn OrderedStore) -> Result<Vec<(ShardId, ReplicaId, bool)>, StoreError> {
    let replicas = read_replicas(store)?;
    replicas.into_iter().map(|(found, meta)| Ok((found.shard, found.replica, meta?.is_some()))).collect()
}

/// Makes each of these replicas, where it is here and was ever filled, its shard's only
/// member. An empty one is removed: its shard has to be founded anew. Doing it again changes
/// nothing. To be called before [`crate::Records::start`], with the same parts.
pub async fn go_on_alone(
    runtime: &Runtime,
    store: &Arc<dyn OrderedStore>,
    log: &SharedLog,
    recovery: &mut Recovery,
    me: NodeId,
    replicas: &[ReplicaId],
) -> Result<(), StartError> {
    let reading = store.clone();
    let found = runtime.blocking(move || read_replicas(&*reading)).await?;
    let (store_of_lives, going_on) = (store.clone(), replicas.to_vec());
    let remember = move || {
        let mut lives = Lives::read(&*store_of_lives)?;
        let marked = lives.forgotten.len();
        lives.forgotten.retain(|replica| !going_on.contains(replica));
        if lives.forgotten.len() < marked { lives.keep(&*store_of_lives) } else { Ok(()) }
    };
    // Nobody is left who remembers better than a disk that was set back.
    runtime.blocking(remember).await?;
    for (descriptor, meta) in found.into_iter().filter(|(found, _)| replicas.contains(&found.replica)) {
        let replica = descriptor.replica;
        let Some(mut meta) = meta? else {
            let store = store.clone();
            runtime.blocking(move || delete(&*store, replica)).await?;
            log.remove(replica).await?;
            recovery.replicas.remove(&replica);
            continue;
        };
        let members = Members { voters: vec![replica], nodes: [(replica, me)].into(), ..Members::default() };
        if meta.members == members {
            continue;
        }
        let last = log_or_begin_anew(log, recovery, &descriptor, &meta).await?;
        tracing::warn!(shard = %descriptor.shard, %replica, through = last, "goes on alone");
        meta.members = members;
        let mut batch = WriteBatch::default();
        batch.put(Table::Local, Alone::key(replica), Alone { void_through: last }.encode());
        batch.put(Table::Records, descriptor.place().key(Area::Meta, &[]), meta.encode());
        let store = store.clone();
        runtime.blocking(move || store.write(batch).and_then(|()| store.flush())).await?;
    }
    Ok(())
}

/// The newest entry of the replica's log. One that has forgotten something begins anew at
/// the stored state: nobody is left who remembers better.
async fn log_or_begin_anew(
    log: &SharedLog,
    recovery: &mut Recovery,
    descriptor: &Descriptor,
    meta: &Meta,
) -> Result<u64, StartError> {
    let replica = descriptor.replica;
    let has_forgotten = match &recovery.verdict {
        LogVerdict::Damaged { forgotten, .. } => forgotten.contains(&replica),
        LogVerdict::Clean | LogVerdict::TornTail { .. } => false,
    };
    if !has_forgotten {
        match log::open(log, descriptor, recovery.replicas.get(&replica), Some(meta)).await {
            Ok(_) => return Ok(log.last_index(replica)),
            Err(OpenError::Log(atoll_disk::LogError::Damaged { .. }) | OpenError::Forgotten(_)) => {}
            Err(OpenError::Log(error)) => return Err(error.into()),
        }
    }
    let (index, term) = (meta.applied.0, meta.applied_term);
    log.remove(replica).await?;
    log.append(vec![log::founding(replica, index, term)]).await?;
    if let LogVerdict::Damaged { forgotten, .. } = &mut recovery.verdict {
        forgotten.remove(&replica);
    }
    recovery.replicas.insert(
        replica,
        RecoveredReplica {
            state: log.state(replica),
            first_index: log.first_index(replica),
            last_index: log.last_index(replica),
        },
    );
    Ok(index)
}
