//! How a replica's state lies in the ordered store: the key layout, and the two records
//! a replica keeps about itself.
//!
//! ```text
//! Local    "records/lives"                               → lives::Lives
//!          "records/replica/" replica(8)                 → Descriptor
//! Records  replica(8) generation(4) area(1) …
//!            area 0                                      → Meta
//!            area 1  the owner's key                     → the owner's value
//!            area 2  transaction id(16)                  → dedup::Outcome
//!            area 3  revision(8)                         → transaction id(16)
//!            area 4  revision(8) position(4)             → watch::Change
//! ```
//!
//! A snapshot is received under the next generation and made current by writing the
//! descriptor: one key decides which of the two exists, so a crash in the middle leaves
//! the old state whole and some garbage, which the next start removes.

use std::{collections::BTreeMap, ops::Bound};

use atoll_disk::{OrderedStore, Snapshot, StoreError, Table};
use atoll_types::{Format, NodeId, ReplicaId, Revision, ShardId, WallTime};
use bytes::Bytes;
use raft::eraftpb::ConfState;
use serde::{Deserialize, Serialize};

/// The log index that the founding replicas start behind, as if a snapshot had put them
/// there. Not 0: an empty replica, which stands at 0, can thus never be filled by log
/// entries alone (they lack the founding configuration) and is always sent a snapshot.
pub(crate) const FOUNDING_INDEX: u64 = 1;
pub(crate) const FOUNDING_TERM: u64 = 1;

const DESCRIPTOR_PREFIX: &[u8] = b"records/replica/";

/// The parts of a replica's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Area {
    Meta = 0,
    Records = 1,
    Outcomes = 2,
    OutcomesByRevision = 3,
    Changes = 4,
}

/// A range of the store's keys.
pub(crate) type Bounds = (Bound<Vec<u8>>, Bound<Vec<u8>>);

/// Where in the store one generation of one replica's state lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub replica: ReplicaId,
    pub generation: u32,
}

/// Bytes before the owner's key: replica, generation, area.
pub(crate) const PREFIX_BYTES: usize = 8 + 4 + 1;

impl Place {
    pub fn prefix(self, area: Area) -> [u8; PREFIX_BYTES] {
        let mut prefix = [0; PREFIX_BYTES];
        prefix[..8].copy_from_slice(&self.replica.0.to_be_bytes());
        prefix[8..12].copy_from_slice(&self.generation.to_be_bytes());
        prefix[12] = area as u8;
        prefix
    }

    pub fn key(self, area: Area, key: &[u8]) -> Bytes {
        let mut full = Vec::with_capacity(PREFIX_BYTES + key.len());
        full.extend_from_slice(&self.prefix(area));
        full.extend_from_slice(key);
        full.into()
    }

    /// All keys of one area.
    pub fn area(self, area: Area) -> Bounds {
        let start = self.prefix(area).to_vec();
        let mut end = start.clone();
        end[12] += 1;
        (Bound::Included(start), Bound::Excluded(end))
    }

    /// All keys of the generation.
    pub fn whole(self) -> Bounds {
        let start = self.prefix(Area::Meta).to_vec();
        let mut end = start.clone();
        end[12] = u8::MAX;
        (Bound::Included(start), Bound::Excluded(end))
    }

    /// Every generation of the replica, current or left over.
    pub fn every_generation(replica: ReplicaId) -> Bounds {
        (
            Bound::Included(replica.0.to_be_bytes().to_vec()),
            Bound::Excluded((replica.0 + 1).to_be_bytes().to_vec()),
        )
    }

    /// The replica's generations before this one, and those after it.
    pub fn other_generations(self) -> [Bounds; 2] {
        let (first, end) = Self::every_generation(self.replica);
        let next = Place { generation: self.generation + 1, ..self };
        let own = |place: Place| place.prefix(Area::Meta).to_vec();
        [(first, Bound::Excluded(own(self))), (Bound::Included(own(next)), end)]
    }
}

/// The replica that a key of [`Table::Records`] belongs to.
pub(crate) fn replica_of(key: &[u8]) -> Option<ReplicaId> {
    Some(ReplicaId(u64::from_be_bytes(key.get(..8)?.try_into().ok()?)))
}

pub(crate) fn as_slices(range: &Bounds) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (range.0.as_ref().map(Vec::as_slice), range.1.as_ref().map(Vec::as_slice))
}

/// That this node has a replica; kept in `Table::Local`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Descriptor {
    pub shard: ShardId,
    pub replica: ReplicaId,
    /// Which generation of the state is current. 0: none yet, the replica is empty.
    pub generation: u32,
    /// The index that this generation began at: of the snapshot that brought it, or of the
    /// founding.
    pub began_at: u64,
}

impl Format for Descriptor {
    const NAME: &'static str = "replica descriptor";
    const VERSION: u8 = 1;
}

impl Descriptor {
    pub fn key(replica: ReplicaId) -> Bytes {
        [DESCRIPTOR_PREFIX, &replica.0.to_be_bytes()].concat().into()
    }

    pub fn place(&self) -> Place {
        Place { replica: self.replica, generation: self.generation }
    }

    pub fn read(snapshot: &dyn Snapshot, replica: ReplicaId) -> Result<Option<Self>, StoreError> {
        snapshot.get(Table::Local, &Self::key(replica))?.map(|bytes| decode(&bytes)).transpose()
    }

    pub fn read_all(store: &dyn OrderedStore) -> Result<Vec<Self>, StoreError> {
        let mut end = DESCRIPTOR_PREFIX.to_vec();
        *end.last_mut().expect("the prefix is not empty") += 1;
        let snapshot = store.snapshot()?;
        let pairs = snapshot.range(Table::Local, Bound::Included(DESCRIPTOR_PREFIX), Bound::Excluded(&end));
        pairs.map(|pair| pair.and_then(|(_, bytes)| decode(&bytes))).collect()
    }
}

/// What a replica knows about itself besides its records; written with every batch of
/// applied entries, and part of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Meta {
    /// The newest entry in this state.
    pub applied: Revision,
    pub applied_term: u64,
    /// The newest entry's stamp; stamps never go back.
    pub stamp: WallTime,
    pub members: Members,
    /// Everything that was ever written, hashed in order: equal on two replicas that
    /// applied the same entries to the same effect.
    pub hash: [u8; 32],
    pub changes: ChangesMeta,
}

impl Format for Meta {
    const NAME: &'static str = "replica state";
    const VERSION: u8 = 1;
}

/// The extent of the change log (`watch.rs`).
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChangesMeta {
    /// Changes at or below this revision are gone.
    pub compacted: Revision,
    pub count: u64,
    pub bytes: u64,
}

/// Raft's `ConfState` in our own encoding, and where each replica is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Members {
    pub voters: Vec<ReplicaId>,
    pub learners: Vec<ReplicaId>,
    /// Not empty during a joint change.
    pub voters_outgoing: Vec<ReplicaId>,
    pub learners_next: Vec<ReplicaId>,
    pub auto_leave: bool,
    pub nodes: BTreeMap<ReplicaId, NodeId>,
}

fn ids(replicas: &[ReplicaId]) -> Vec<u64> {
    replicas.iter().map(|replica| replica.0).collect()
}

fn replicas(ids: &[u64]) -> Vec<ReplicaId> {
    let mut replicas: Vec<_> = ids.iter().copied().map(ReplicaId).collect();
    // Raft keeps hash sets; the state must be equal on every replica.
    replicas.sort_unstable();
    replicas
}

impl Members {
    pub fn conf_state(&self) -> ConfState {
        ConfState {
            voters: ids(&self.voters),
            learners: ids(&self.learners),
            voters_outgoing: ids(&self.voters_outgoing),
            learners_next: ids(&self.learners_next),
            auto_leave: self.auto_leave,
            ..ConfState::default()
        }
    }

    pub fn from_conf_state(conf: &ConfState, nodes: BTreeMap<ReplicaId, NodeId>) -> Self {
        let mut members = Self {
            voters: replicas(&conf.voters),
            learners: replicas(&conf.learners),
            voters_outgoing: replicas(&conf.voters_outgoing),
            learners_next: replicas(&conf.learners_next),
            auto_leave: conf.auto_leave,
            nodes,
        };
        let all: Vec<_> = members.all().collect();
        members.nodes.retain(|replica, _| all.contains(replica));
        members
    }

    pub fn all(&self) -> impl Iterator<Item = ReplicaId> {
        self.voters
            .iter()
            .chain(&self.learners)
            .chain(&self.voters_outgoing)
            .chain(&self.learners_next)
            .copied()
    }

    pub fn is_voter(&self, replica: ReplicaId) -> bool {
        self.voters.contains(&replica) || self.voters_outgoing.contains(&replica)
    }

    pub fn is_joint(&self) -> bool {
        !self.voters_outgoing.is_empty()
    }

    /// Whether `raft` would take this configuration; it panics on one that it would not.
    pub fn is_sound(&self) -> bool {
        let distinct = |list: &[ReplicaId]| {
            let mut sorted = list.to_vec();
            sorted.sort_unstable();
            sorted.dedup();
            sorted.len() == list.len() && !list.contains(&ReplicaId(0))
        };
        !self.voters.is_empty()
            && [&self.voters, &self.learners, &self.voters_outgoing, &self.learners_next]
                .into_iter()
                .all(|list| distinct(list))
            && self.learners.iter().all(|id| !self.is_voter(*id))
            && self
                .learners_next
                .iter()
                .all(|id| self.voters_outgoing.contains(id) && !self.voters.contains(id))
            && (self.is_joint() || !self.auto_leave)
    }
}

impl Meta {
    pub fn founding(members: Members) -> Self {
        Self {
            applied: Revision(FOUNDING_INDEX),
            applied_term: FOUNDING_TERM,
            stamp: WallTime::default(),
            members,
            hash: [0; 32],
            changes: ChangesMeta { compacted: Revision(FOUNDING_INDEX), ..ChangesMeta::default() },
        }
    }

    pub fn read(snapshot: &dyn Snapshot, place: Place) -> Result<Option<Self>, StoreError> {
        snapshot.get(Table::Records, &place.prefix(Area::Meta))?.map(|bytes| decode(&bytes)).transpose()
    }
}

/// Decodes what this crate itself wrote to the store.
pub(crate) fn decode<T: Format>(bytes: &[u8]) -> Result<T, StoreError> {
    T::decode(bytes).map_err(|source| StoreError { operation: "decode", source: Box::new(source) })
}
