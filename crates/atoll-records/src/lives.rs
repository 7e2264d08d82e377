//! Who has forgotten: a node's starts on its disk, and what its peers saw of them (rule 4).
//!
//! A node that was set back to an old image of its disk does not know it; its peers do. With
//! every frame a node shows which of its starts it is in, and how far its log is durable. Each
//! peer keeps the newest of that, durably, and takes nothing from a node that has less:
//!
//! ```text
//! of the same start     another random number: two starts from one image
//! of a later start      its lineage must have the start that the peer knows, and that one
//!                       must have ended no earlier than the peer saw it
//! of an earlier start   set back, or a frame that was long on its way
//! ```
//!
//! The peer answers with a verdict; the node then counts all its replicas as forgotten, and
//! its disk as another one from there on, durably. What nobody left has seen can't be noticed
//! (ADR 8). It knows nothing of Raft: `driver.rs` asks before Raft sees a message.

use std::collections::{BTreeMap, BTreeSet};

use atoll_disk::{OrderedStore, StoreError, Table, WriteBatch};
use atoll_types::{Format, Generation, NodeId, ReplicaId};
use serde::{Deserialize, Serialize};

mod witness;

pub(crate) use self::witness::{Verdict, Witness};
use crate::state::decode;

/// Why a replica is said to have forgotten.
pub(crate) const SET_BACK: &str = "this disk is older than what peers have seen of it";

/// The same after a start, which knows only that it was so.
pub(crate) const NOTED: &str = "it was seen before this start that it has forgotten";

const LIVES_KEY: &[u8] = b"records/lives";

/// Starts that a lineage goes back: a peer that was away for longer takes the node at its word.
/// Sent only to peers that do not know the newest start: 64 · 20 bytes.
const LINEAGE_MAX: usize = 64;
/// Disks of one peer that are remembered. A disk is another when it comes empty, and after
/// each time that it was set back; older ones pass for new.
const DISKS_MAX: usize = 16;

/// One start of a node on one disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Life {
    /// Drawn at random when the disk is first used, and again when it was set back.
    pub disk: u64,
    /// Raised at each start.
    pub count: Generation,
    /// Drawn at each start: tells apart two that began from one image.
    pub nonce: u64,
}

/// A start that has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Ended {
    count: Generation,
    nonce: u64,
    /// How far the log was found durable by the next start.
    log_end: u64,
}

/// What a node shows of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Shown {
    pub life: Life,
    /// How far its log is durable, by the log's own count.
    flushed: u64,
    /// The starts before, the oldest first; empty for those who know this one.
    lineage: Vec<Ended>,
}

/// The newest that was seen of a peer on one disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct Seen {
    life: Life,
    flushed: u64,
}

/// What to make of a frame by what its sender shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Judgement {
    Sound,
    /// As sound, and this peer's start is new here: to be kept durably.
    Newer,
    /// It has to show its lineage first.
    Unproven,
    SetBack,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Lives {
    pub own: Life,
    ended: Vec<Ended>,
    /// They were on this disk when it was found to be set back, or something of their state
    /// could not be read.
    pub forgotten: BTreeSet<ReplicaId>,
    /// The disk in use is the last.
    peers: BTreeMap<NodeId, Vec<Seen>>,
}

impl Format for Lives {
    const NAME: &'static str = "lives";
    const VERSION: u8 = 1;
}

impl Lives {
    /// Begins a new life, durably. `log_end` is how far the log was found durable; `replicas`
    /// are those that the disk has.
    pub fn begin(
        store: &dyn OrderedStore,
        log_end: u64,
        replicas: &BTreeSet<ReplicaId>,
        random: [u64; 2],
    ) -> Result<Self, StoreError> {
        let mut lives = Self::read(store)?;
        let [disk, nonce] = random;
        if lives.own.count == Generation(0) {
            lives.own.disk = disk;
        } else {
            let Life { count, nonce, .. } = lives.own;
            lives.ended.push(Ended { count, nonce, log_end });
            let excess = lives.ended.len().saturating_sub(LINEAGE_MAX);
            lives.ended.drain(..excess);
        }
        lives.own.count.0 += 1;
        lives.own.nonce = nonce;
        lives.forgotten.retain(|replica| replicas.contains(replica));
        lives.keep(store)?;
        Ok(lives)
    }

    pub fn read(store: &dyn OrderedStore) -> Result<Self, StoreError> {
        let found = store.get(Table::Local, LIVES_KEY)?;
        Ok(found.map(|bytes| decode(&bytes)).transpose()?.unwrap_or_default())
    }

    pub fn keep(&self, store: &dyn OrderedStore) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        batch.put(Table::Local, LIVES_KEY, self.encode());
        store.write(batch)?;
        store.flush()
    }

    /// The newest start seen of a peer, on the disk in use.
    pub fn seen(&self, node: NodeId) -> Life {
        let seen = self.peers.get(&node).and_then(|disks| disks.last());
        seen.map(|seen| seen.life).unwrap_or_default()
    }

    /// What to show a peer that has seen this start of ours.
    pub fn show(&self, peer_saw: Life, flushed: u64) -> Shown {
        let lineage = if peer_saw == self.own { Vec::new() } else { self.ended.clone() };
        Shown { life: self.own, flushed, lineage }
    }

    /// Compares what a peer shows with the newest that was seen of it, and takes note.
    pub fn judge(&mut self, from: NodeId, shown: &Shown) -> Judgement {
        let disks = self.peers.entry(from).or_default();
        let life = shown.life;
        let newest = Seen { life, flushed: shown.flushed };
        let current = disks.len().saturating_sub(1);
        let known = disks.iter().position(|seen| seen.life.disk == life.disk);
        match known {
            None => {
                disks.push(newest);
                let excess = disks.len().saturating_sub(DISKS_MAX);
                disks.drain(..excess);
                Judgement::Newer
            }
            // It has another disk now, or this one was found out before.
            Some(place) if place != current => Judgement::SetBack,
            Some(place) => {
                let seen = &mut disks[place];
                if seen.life == life {
                    seen.flushed = seen.flushed.max(shown.flushed);
                    return Judgement::Sound;
                }
                if life.count <= seen.life.count {
                    return Judgement::SetBack;
                }
                match shown.lineage.iter().find(|ended| ended.count >= seen.life.count) {
                    None => Judgement::Unproven,
                    // Longer ago than it can show.
                    Some(ended) if ended.count > seen.life.count => {
                        *seen = newest;
                        Judgement::Newer
                    }
                    Some(ended) if ended.nonce == seen.life.nonce && ended.log_end >= seen.flushed => {
                        *seen = newest;
                        Judgement::Newer
                    }
                    Some(_) => Judgement::SetBack,
                }
            }
        }
    }

    /// A peer has seen newer of this disk than it holds: from here on it is another disk, and
    /// none of its replicas knows anything.
    pub fn forget(&mut self, replicas: impl IntoIterator<Item = ReplicaId>, random: [u64; 2]) {
        let [disk, nonce] = random;
        self.own = Life { disk, count: Generation(1), nonce };
        self.ended.clear();
        self.forgotten.extend(replicas);
    }
}

#[cfg(test)]
mod tests {
    use atoll_disk::MemoryStore;

    use super::*;

    const NODE: NodeId = NodeId([7; 32]);

    /// A node with a disk that can be set back, and a number for each thing drawn.
    struct Node {
        store: MemoryStore,
        log_end: u64,
        drawn: u64,
        lives: Lives,
    }

    impl Node {
        fn new() -> Self {
            let mut node =
                Self { store: MemoryStore::default(), log_end: 0, drawn: 0, lives: Lives::default() };
            node.start();
            node
        }

        fn start(&mut self) {
            self.drawn += 2;
            let random = [self.drawn, self.drawn + 1];
            self.lives = Lives::begin(&self.store, self.log_end, &BTreeSet::new(), random).unwrap();
        }

        fn image(&self) -> (MemoryStore, u64) {
            (self.store.image(), self.log_end)
        }

        fn bring_back(&mut self, image: &(MemoryStore, u64)) {
            (self.store, self.log_end) = (image.0.image(), image.1);
            self.start();
        }

        fn shown_to(&self, peer: &Lives) -> Shown {
            self.lives.show(peer.seen(NODE), self.log_end)
        }

        fn meet(&self, peer: &mut Lives) -> Judgement {
            let shown = self.shown_to(peer);
            peer.judge(NODE, &shown)
        }
    }

    #[test]
    fn whoever_starts_again_with_all_it_had_is_sound() {
        let (mut node, mut peer) = (Node::new(), Lives::default());
        assert_eq!(node.meet(&mut peer), Judgement::Newer);
        for _ in 0..100 {
            node.log_end += 5;
            assert_eq!(node.meet(&mut peer), Judgement::Sound);
            node.start();
            assert_eq!(node.meet(&mut peer), Judgement::Newer);
        }
        // Starts that the peer did not see, more than a lineage holds.
        for _ in 0..LINEAGE_MAX + 2 {
            node.start();
            node.log_end += 1;
        }
        assert_eq!(node.meet(&mut peer), Judgement::Newer);
    }

    #[test]
    fn an_image_of_the_same_start_is_noticed_by_the_log() {
        let (mut node, mut peer) = (Node::new(), Lives::default());
        node.log_end = 10;
        let image = node.image();
        node.log_end = 11;
        node.meet(&mut peer);
        node.bring_back(&image);
        assert_eq!(node.meet(&mut peer), Judgement::SetBack);
        // It went on, and was started again, without having been told.
        node.log_end = 50;
        node.start();
        assert_eq!(node.meet(&mut peer), Judgement::SetBack);
    }

    #[test]
    fn an_image_that_two_starts_began_from_is_noticed_by_their_numbers() {
        let (mut node, mut peer) = (Node::new(), Lives::default());
        let image = node.image();
        node.start();
        node.meet(&mut peer);
        node.bring_back(&image);
        node.log_end = 10;
        assert_eq!(node.meet(&mut peer), Judgement::SetBack);
        node.start();
        assert_eq!(node.meet(&mut peer), Judgement::SetBack);
    }

    #[test]
    fn an_older_start_is_noticed() {
        let (mut node, mut peer) = (Node::new(), Lives::default());
        let image = node.image();
        for _ in 0..4 {
            node.start();
            node.meet(&mut peer);
        }
        node.bring_back(&image);
        assert_eq!(node.meet(&mut peer), Judgement::SetBack);
    }

    #[test]
    fn a_disk_that_was_found_out_is_another_one_and_does_not_come_back() {
        let (mut node, mut peer) = (Node::new(), Lives::default());
        let image = node.image();
        node.log_end = 10;
        node.meet(&mut peer);
        node.bring_back(&image);
        assert_eq!(node.meet(&mut peer), Judgement::SetBack);
        let before = node.image();
        node.lives.forget([ReplicaId(4)], [100, 101]);
        assert_eq!(node.meet(&mut peer), Judgement::Newer);
        assert_eq!(node.meet(&mut peer), Judgement::Sound);
        assert!(node.lives.forgotten.contains(&ReplicaId(4)));
        node.bring_back(&before);
        assert_eq!(node.meet(&mut peer), Judgement::SetBack);
    }

    #[test]
    fn a_start_without_its_lineage_waits_until_it_is_shown() {
        let (mut node, mut peer) = (Node::new(), Lives::default());
        node.meet(&mut peer);
        let mut early = node.shown_to(&peer);
        node.start();
        early.life = node.lives.own;
        early.lineage.clear();
        assert_eq!(peer.judge(NODE, &early), Judgement::Unproven);
        assert_eq!(node.meet(&mut peer), Judgement::Newer);
    }

    #[test]
    fn marks_go_with_the_replicas_that_they_are_of() {
        let mut node = Node::new();
        node.lives.forget([ReplicaId(4), ReplicaId(5)], [100, 101]);
        node.lives.keep(&node.store).unwrap();
        let left = [ReplicaId(5), ReplicaId(6)].into();
        let lives = Lives::begin(&node.store, 0, &left, [1, 2]).unwrap();
        assert_eq!(lives.forgotten, [ReplicaId(5)].into());
    }
}
