//! The holders of chunks as one store: writes go to all of a slot's holders at once and
//! count when the layout's quorums are met; reads try the nearest and hedge.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use atoll_placement::{Layout, WriteTargets};
use atoll_runtime::{Broken, Elapsed, Runtime, Task, is_broken};
use atoll_transport::{Message, Protocol, Transport};
use atoll_types::{ChunkHash, Format, Instant, NodeId, Slot};
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::{
    chunker::Chunk,
    error::Unavailable,
    holder::Holder,
    peers::{HedgeDelay, Peers},
    wire::{ChunkReply, ChunkRequest, HASHES_MAX, ListedChunk},
};

/// One chunk to or from one peer: 4 MiB at 1 MiB/s, with room for a queue before it. A
/// slower peer counts as failed; others answer meanwhile.
const CALL_LIMIT: Duration = Duration::from_secs(10);
/// Between attempts to reach a quorum or find a chunk: an election or a layout takes a
/// few hundred milliseconds.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// All chunks of the cluster. Cheap to clone.
#[derive(Clone)]
pub struct Holders {
    inner: Arc<Inner>,
}

struct Inner {
    runtime: Runtime,
    transport: Arc<dyn Transport>,
    holder: Arc<Holder>,
    peers: Peers,
    hedge: Mutex<HedgeDelay>,
}

/// What one holder did with a write.
struct Wrote {
    node: NodeId,
    reply: Result<ChunkReply, String>,
}

impl Holders {
    pub fn new(runtime: Runtime, transport: Arc<dyn Transport>, holder: Arc<Holder>) -> Self {
        let inner = Inner {
            runtime,
            transport,
            holder,
            peers: Peers::default(),
            hedge: Mutex::new(HedgeDelay::default()),
        };
        Self { inner: Arc::new(inner) }
    }

    pub fn holder(&self) -> &Arc<Holder> {
        &self.inner.holder
    }

    pub fn layout(&self) -> Arc<Layout> {
        self.inner.holder.layout()
    }

    /// Stores a chunk at its holders, stamped with `epoch`, and returns when the quorums
    /// of its slot have it durably. The others get it in the background.
    pub async fn store(&self, chunk: Chunk, epoch: u64, deadline: Instant) -> Result<(), Unavailable> {
        let slot = chunk.hash.slot();
        let mut stored = BTreeSet::new();
        loop {
            let targets = self.layout().write_targets(slot);
            let round = self.store_once(&chunk, epoch, &targets, &mut stored);
            let (short, newer) = match self.inner.runtime.timeout_at(deadline, round).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(StoreFailed::Full)) => return Err(Unavailable::DiskFull),
                Ok(Err(StoreFailed::Short { reason, newer })) => {
                    (Self::short(&targets, &stored, reason), newer)
                }
                Err(Elapsed) => return Err(Self::short(&targets, &stored, "no answer in time".into())),
            };
            if self.inner.runtime.now() + RETRY_PAUSE >= deadline {
                return Err(short);
            }
            match newer {
                Some(version) => drop(self.inner.holder.layout_from(version).await),
                None => self.inner.runtime.sleep(RETRY_PAUSE).await,
            }
        }
    }

    fn short(targets: &WriteTargets, stored: &BTreeSet<NodeId>, reason: String) -> Unavailable {
        let unmet = targets.quorums.iter().find(|quorum| !quorum.is_met(stored));
        let needed = unmet.map_or(0, |quorum| quorum.needed);
        let got = unmet.map_or(0, |q| q.members.iter().filter(|member| stored.contains(member)).count());
        Unavailable::Holders { got, needed, last: (!reason.is_empty()).then(|| reason.into()) }
    }

    /// One round: sends to everyone who doesn't have it, until the quorums are met or
    /// can't be.
    async fn store_once(
        &self,
        chunk: &Chunk,
        epoch: u64,
        targets: &WriteTargets,
        stored: &mut BTreeSet<NodeId>,
    ) -> Result<(), StoreFailed> {
        let missing: Vec<NodeId> = targets.nodes.iter().copied().filter(|n| !stored.contains(n)).collect();
        let (reports, mut wrote) = mpsc::channel(missing.len().max(1));
        let mut failed: BTreeSet<NodeId> = BTreeSet::new();
        let now = self.inner.runtime.now();
        // A peer that just failed, or is swamped, is left out where the others suffice:
        // repair brings it the chunk. Otherwise its backlog would hold our memory.
        let mut reluctant = Vec::new();
        for node in missing {
            let room = if node == self.inner.holder.me {
                None
            } else {
                match self.inner.peers.room(node, chunk.bytes.len(), now) {
                    Some(permit) => Some(permit),
                    None => {
                        reluctant.push(node);
                        continue;
                    }
                }
            };
            self.send_write(node, room, chunk, epoch, targets.layout_version, reports.clone());
        }
        let without: BTreeSet<NodeId> = reluctant.iter().copied().collect();
        if !targets.can_be_met(&without) {
            for node in reluctant {
                let room = Some(self.inner.peers.wait_for_room(node, chunk.bytes.len()).await);
                self.send_write(node, room, chunk, epoch, targets.layout_version, reports.clone());
            }
        } else {
            failed.extend(without);
        }
        drop(reports);

        let (mut reason, mut newer, mut full) = (String::new(), None, false);
        loop {
            if targets.is_met(stored) || is_broken(Broken::OneHolder) && !stored.is_empty() {
                return Ok(());
            }
            if !targets.can_be_met(&failed) && !is_broken(Broken::OneHolder) {
                break;
            }
            let Some(Wrote { node, reply }) = wrote.recv().await else { break };
            match reply {
                Ok(ChunkReply::Stored) => {
                    stored.insert(node);
                    continue;
                }
                Ok(ChunkReply::StaleLayout { changed }) => newer = newer.max(Some(changed)),
                Ok(ChunkReply::Full) => full = true,
                Ok(reply) => reason = format!("node {} answered {reply:?}", node.short()),
                Err(error) => reason = error,
            }
            failed.insert(node);
        }
        if full && newer.is_none() && reason.is_empty() {
            return Err(StoreFailed::Full);
        }
        Err(StoreFailed::Short { reason, newer })
    }

    /// Starts one holder's write; it goes on when nobody waits for its report any more.
    fn send_write(
        &self,
        node: NodeId,
        room: Option<OwnedSemaphorePermit>,
        chunk: &Chunk,
        stamp: u64,
        layout_version: u64,
        reports: mpsc::Sender<Wrote>,
    ) {
        let (this, hash, bytes) = (self.clone(), chunk.hash, chunk.bytes.clone());
        self.inner.runtime.spawn("chunk write", async move {
            this.inner.runtime.fault_point("objects: a chunk is on its way under a layout").await;
            let reply = if node == this.inner.holder.me {
                Ok(this.inner.holder.put(hash, bytes, stamp, layout_version, true).await)
            } else {
                let request = ChunkRequest::Put { hash, stamp, layout_version };
                this.call(node, request, bytes).await.map(|(reply, _)| reply)
            };
            drop(room);
            // The put may be content with the others already.
            let _ = reports.send(Wrote { node, reply }).await;
        });
    }

    /// Asks one peer; what went wrong is only worth telling.
    async fn call(
        &self,
        node: NodeId,
        request: ChunkRequest,
        body: Bytes,
    ) -> Result<(ChunkReply, Bytes), String> {
        let message = Message::with_body(request.encode(), body);
        let answer = self.inner.transport.call(node, Protocol::Chunks, message, CALL_LIMIT).await;
        let now = self.inner.runtime.now();
        match answer {
            Ok(message) => {
                self.inner.peers.answered(node);
                let reply = ChunkReply::decode(&message.header).map_err(|error| error.to_string())?;
                Ok((reply, message.body))
            }
            Err(error) => {
                if !matches!(error, atoll_transport::CallError::Refused(_)) {
                    self.inner.peers.failed(node, now);
                }
                Err(error.to_string())
            }
        }
    }

    /// Raises the stamps of chunks to `epoch` at the quorums of their slots (rule 9).
    /// Where a holder lacks one, it is brought from another.
    pub async fn stamp(
        &self,
        hashes: &[ChunkHash],
        epoch: u64,
        deadline: Instant,
    ) -> Result<(), Unavailable> {
        for hashes in hashes.chunks(HASHES_MAX) {
            for hash in self.stamp_page(hashes, epoch, deadline).await {
                // Not to be had within moments: then it was reclaimed, and waiting won't
                // bring it back.
                let soon = deadline.min(self.inner.runtime.now() + 5 * RETRY_PAUSE);
                let bytes = self.fetch(hash, soon).await?;
                self.store(Chunk { hash, bytes }, epoch, deadline).await?;
            }
        }
        Ok(())
    }

    /// Raises the stamps of those that are somewhere, as [`Holders::stamp`] does; gives those
    /// that nobody has.
    pub async fn stamp_what_is_there(
        &self,
        hashes: &[ChunkHash],
        epoch: u64,
        deadline: Instant,
    ) -> Result<Vec<ChunkHash>, Unavailable> {
        let mut missing = Vec::new();
        for hashes in hashes.chunks(HASHES_MAX) {
            for hash in self.stamp_page(hashes, epoch, deadline).await {
                match self.fetch_once(hash).await {
                    Ok(bytes) => self.store(Chunk { hash, bytes }, epoch, deadline).await?,
                    Err(_) => missing.push(hash),
                }
            }
        }
        Ok(missing)
    }

    /// Asks every holder once, until the quorums are met or all have answered; gives the
    /// chunks whose quorums were not met.
    async fn stamp_page(&self, hashes: &[ChunkHash], stamp: u64, deadline: Instant) -> BTreeSet<ChunkHash> {
        let layout = self.layout();
        let mut by_node: BTreeMap<NodeId, Vec<ChunkHash>> = BTreeMap::new();
        for hash in hashes {
            for node in layout.write_targets(hash.slot()).nodes {
                by_node.entry(node).or_default().push(*hash);
            }
        }
        let (answers, mut answered) = mpsc::channel(by_node.len().max(1));
        for (node, hashes) in by_node {
            let (this, answers, layout_version) = (self.clone(), answers.clone(), layout.version());
            self.inner.runtime.spawn("chunk stamps", async move {
                let reply = if node == this.inner.holder.me {
                    Ok(this.inner.holder.stamp(&hashes, stamp, layout_version).await)
                } else {
                    let request = ChunkRequest::Stamp { hashes: hashes.clone(), stamp, layout_version };
                    this.call(node, request, Bytes::new()).await.map(|(reply, _)| reply)
                };
                let flags = match reply {
                    Ok(ChunkReply::Flags(flags)) => flags,
                    _ => Vec::new(),
                };
                let has = hashes.into_iter().zip(flags).filter(|(_, has)| *has);
                let has: Vec<ChunkHash> = has.map(|(hash, _)| hash).collect();
                // The others may have been enough.
                let _ = answers.send((node, has)).await;
            });
        }
        drop(answers);
        let mut unmet: BTreeSet<ChunkHash> = hashes.iter().copied().collect();
        let mut stamped: BTreeMap<ChunkHash, BTreeSet<NodeId>> = BTreeMap::new();
        while !unmet.is_empty() {
            let answer = self.inner.runtime.timeout_at(deadline, answered.recv()).await;
            let Ok(Some((node, hashes))) = answer else { break };
            for hash in hashes {
                let nodes = stamped.entry(hash).or_default();
                nodes.insert(node);
                if layout.write_targets(hash.slot()).is_met(nodes) {
                    unmet.remove(&hash);
                }
            }
        }
        unmet
    }

    /// A chunk from wherever it can be had, verified.
    pub async fn fetch(&self, hash: ChunkHash, deadline: Instant) -> Result<Bytes, Unavailable> {
        loop {
            let reason = match self.inner.runtime.timeout_at(deadline, self.fetch_once(hash)).await {
                Ok(Ok(bytes)) => return Ok(bytes),
                Ok(Err(reason)) => reason,
                Err(Elapsed) => "no answer in time".into(),
            };
            if self.inner.runtime.now() + RETRY_PAUSE >= deadline {
                return Err(Unavailable::Holders { got: 0, needed: 1, last: Some(reason.into()) });
            }
            self.inner.runtime.sleep(RETRY_PAUSE).await;
        }
    }

    /// Tries every candidate once: this node first, then the others, the next one as soon
    /// as one fails or takes unusually long.
    pub async fn fetch_once(&self, hash: ChunkHash) -> Result<Bytes, String> {
        let me = self.inner.holder.me;
        let mut candidates = self.layout().read_candidates(hash.slot(), &me);
        candidates.retain(|node| *node != me);
        match self.inner.holder.chunks.get(hash).await {
            Ok(Some(bytes)) => return Ok(bytes),
            Ok(None) | Err(_) => self.inner.holder.note_missing(hash),
        }
        let now = self.inner.runtime.now();
        // Stable: among the sound ones the layout's order stays.
        candidates.sort_by_key(|node| self.inner.peers.is_suspect_or_slow(*node, now));

        let mut candidates = candidates.into_iter();
        let (answers, mut arrived) = mpsc::channel(8);
        let mut running: Vec<NodeId> = Vec::new();
        let mut reason = String::from("no holder has it");
        let mut next = true;
        loop {
            if std::mem::take(&mut next)
                && let Some(node) = candidates.next()
            {
                self.send_read(node, hash, answers.clone());
                running.push(node);
            }
            if running.is_empty() {
                return Err(reason);
            }
            let delay = self.inner.hedge.lock().unwrap_or_else(PoisonError::into_inner).delay();
            let answer = if candidates.len() > 0 {
                self.inner.runtime.timeout(delay, arrived.recv()).await.ok()
            } else {
                Some(arrived.recv().await)
            };
            match answer {
                Some(Some((node, Ok(bytes)))) => {
                    // Whoever was asked before and is still silent is asked later for a while.
                    let now = self.inner.runtime.now();
                    running.iter().take_while(|other| **other != node).for_each(|slow| {
                        self.inner.peers.was_slow(*slow, now);
                    });
                    return Ok(bytes);
                }
                Some(Some((node, Err(error)))) => {
                    reason = error;
                    running.retain(|other| *other != node);
                    next = true;
                }
                // We hold a sender, so the channel stays open.
                Some(None) => return Err(reason),
                None => next = true,
            }
        }
    }

    fn send_read(
        &self,
        node: NodeId,
        hash: ChunkHash,
        answers: mpsc::Sender<(NodeId, Result<Bytes, String>)>,
    ) {
        let this = self.clone();
        let read = async move {
            let started = this.inner.runtime.now();
            let answer = match this.call(node, ChunkRequest::Get { hash }, Bytes::new()).await {
                Ok((ChunkReply::Found, bytes)) => {
                    let kept = bytes.clone();
                    if this.inner.runtime.blocking(move || ChunkHash::of(&kept)).await == hash {
                        let took = this.inner.runtime.now() - started;
                        this.inner.hedge.lock().unwrap_or_else(PoisonError::into_inner).observe(took);
                        Ok(bytes)
                    } else {
                        tracing::warn!(%hash, node = %node.short(), "a peer sent other bytes than the chunk's");
                        Err(format!("node {} sent damaged bytes", node.short()))
                    }
                }
                Ok((reply, _)) => Err(format!("node {} answered {reply:?}", node.short())),
                Err(error) => Err(error),
            };
            // A reader that was served by another source has gone.
            let _ = answers.send((node, answer)).await;
        };
        self.inner.runtime.spawn("chunk read", read);
    }

    /// [`Holders::fetch`] begun at once, whether or not it is waited for.
    pub fn fetch_ahead(&self, hash: ChunkHash, deadline: Instant) -> Task<Result<Bytes, Unavailable>> {
        let this = self.clone();
        self.inner.runtime.spawn("chunk fetch", async move { this.fetch(hash, deadline).await })
    }

    /// A page of a peer's chunks in a slot, once it knows `layout_version`.
    pub async fn list_at(
        &self,
        node: NodeId,
        slot: Slot,
        after: Option<ChunkHash>,
        limit: u32,
        layout_version: u64,
    ) -> Result<(Vec<ListedChunk>, Option<ChunkHash>), String> {
        let request = ChunkRequest::List { slot, after, limit, layout_version };
        match self.call(node, request, Bytes::new()).await? {
            (ChunkReply::Listed { chunks, next }, _) => Ok((chunks, next)),
            (reply, _) => Err(format!("node {} answered {reply:?}", node.short())),
        }
    }

    /// Which of these a peer has whole.
    pub async fn has_at(&self, node: NodeId, hashes: Vec<ChunkHash>) -> Result<Vec<bool>, String> {
        match self.call(node, ChunkRequest::Has { hashes }, Bytes::new()).await? {
            (ChunkReply::Flags(flags), _) => Ok(flags),
            (reply, _) => Err(format!("node {} answered {reply:?}", node.short())),
        }
    }

    /// Puts a chunk at one peer: for the final pass of a slot that leaves this node.
    pub async fn put_at(&self, node: NodeId, chunk: Chunk, stamp: u64) -> Result<(), String> {
        let layout_version = self.layout().version();
        let request = ChunkRequest::Put { hash: chunk.hash, stamp, layout_version };
        match self.call(node, request, chunk.bytes).await? {
            (ChunkReply::Stored, _) => Ok(()),
            (reply, _) => Err(format!("node {} answered {reply:?}", node.short())),
        }
    }
}

enum StoreFailed {
    Full,
    Short { reason: String, newer: Option<u64> },
}
