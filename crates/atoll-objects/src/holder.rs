//! This node as a holder of chunks: checks each write against the layout, and serves
//! the other nodes' requests.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use atoll_disk::{ChunkError, ChunkStore};
use atoll_placement::{Layout, WriteRefused};
use atoll_runtime::{Broken, Runtime, is_broken, watch};
use atoll_transport::{Caller, Handler, Message, Refusal};
use atoll_types::{ChunkHash, Format, NodeId, Slot};
use bytes::Bytes;
use tokio::sync::{Mutex, RwLock, mpsc};

use crate::{
    layout_link::{LAYOUT_WAIT, LayoutLink},
    wire::{ChunkReply, ChunkRequest, HASHES_MAX, LIST_LIMIT_MAX, ListedChunk},
};

/// Refusal codes of the protocol: the message itself was wrong.
const MALFORMED: u16 = 1;
const OVER_LIMIT: u16 = 2;

/// This node's chunks, as the layout lets them be written.
pub struct Holder {
    pub runtime: Runtime,
    pub me: NodeId,
    pub chunks: ChunkStore,
    pub layout: watch::Receiver<Arc<Layout>>,
    pub link: Arc<dyn LayoutLink>,
    suspicious: mpsc::Sender<ChunkHash>,
    gate: WriteGate,
    /// Sent to other nodes since the start.
    pub bytes_served: AtomicU64,
}

/// Tells when no write that was let in under an older layout is still under way: what
/// is listed after that is everything there will ever be from then.
#[derive(Default)]
struct WriteGate {
    /// Writers share it from their check to their answer.
    writing: RwLock<()>,
    /// The layout version for which the writers of older ones have all left.
    settled: Mutex<u64>,
}

impl WriteGate {
    async fn settle(&self, version: u64) {
        let mut settled = self.settled.lock().await;
        if *settled < version {
            drop(self.writing.write().await);
            *settled = version;
        }
    }
}

impl Holder {
    pub fn new(
        runtime: Runtime,
        me: NodeId,
        chunks: ChunkStore,
        layout: watch::Receiver<Arc<Layout>>,
        link: Arc<dyn LayoutLink>,
        suspicious: mpsc::Sender<ChunkHash>,
    ) -> Self {
        Self {
            runtime,
            me,
            chunks,
            layout,
            link,
            suspicious,
            gate: WriteGate::default(),
            bytes_served: AtomicU64::new(0),
        }
    }

    pub fn layout(&self) -> Arc<Layout> {
        self.layout.borrow().clone()
    }

    /// Waits a moment for a layout of at least `version`; the one that is there then.
    pub async fn layout_from(&self, version: u64) -> Arc<Layout> {
        if self.layout().version() < version {
            self.link.newer_layout_exists(version);
            let mut layout = self.layout.clone();
            let arrived = layout.wait_for(|layout| layout.version() >= version);
            // Too late or never: the caller sees by the version what it got.
            let _ = self.runtime.timeout(LAYOUT_WAIT, arrived).await;
        }
        self.layout()
    }

    /// Waits until every write that was let in under a layout older than the current
    /// one has ended.
    pub async fn settle_writes(&self) -> Arc<Layout> {
        let layout = self.layout();
        self.gate.settle(layout.version()).await;
        layout
    }

    /// Stores a chunk whose bytes were hashed here if `verified`.
    pub async fn put(
        &self,
        hash: ChunkHash,
        bytes: Bytes,
        stamp: u64,
        layout_version: u64,
        verified: bool,
    ) -> ChunkReply {
        self.layout_from(layout_version).await;
        let _writing = self.gate.writing.read().await;
        // Looked at inside the gate: a layout that comes later finds us in it.
        if let Err(refused) = self.check_write(hash, layout_version) {
            return refused.into();
        }
        self.runtime.fault_point("objects: a write was let in, its chunk is not stored").await;
        let put = if verified {
            self.chunks.put_verified(hash, bytes, stamp).await
        } else {
            self.chunks.put(hash, bytes, stamp).await
        };
        self.runtime.fault_point("objects: a chunk is durable, its sender is not told").await;
        match put {
            Ok(_) => ChunkReply::Stored,
            Err(error) => failed(error),
        }
    }

    fn check_write(&self, hash: ChunkHash, layout_version: u64) -> Result<(), WriteRefused> {
        if is_broken(Broken::StaleWrite) {
            return Ok(());
        }
        self.layout().check_write(&self.me, hash.slot(), layout_version)
    }

    /// Raises stamps; says of each hash whether the chunk is here.
    pub async fn stamp(&self, hashes: &[ChunkHash], stamp: u64, layout_version: u64) -> ChunkReply {
        self.layout_from(layout_version).await;
        let _writing = self.gate.writing.read().await;
        let raise = hashes.iter().map(async |hash| {
            if self.check_write(*hash, layout_version).is_err() {
                return Ok(false);
            }
            self.chunks.raise_stamp(*hash, stamp).await
        });
        // All at once: they share a flush.
        match futures_util::future::try_join_all(raise).await {
            Ok(flags) => ChunkReply::Flags(flags),
            Err(error) => failed(error),
        }
    }

    async fn list(&self, slot: Slot, after: Option<ChunkHash>, limit: u32, version: u64) -> ChunkReply {
        if self.layout_from(version).await.version() < version {
            return ChunkReply::Behind { have: self.layout().version() };
        }
        if !is_broken(Broken::FinalPassSkipped) {
            self.settle_writes().await;
        }
        match self.page(slot, after, limit.min(LIST_LIMIT_MAX) as usize).await {
            Ok((chunks, next)) => ChunkReply::Listed { chunks, next },
            Err(error) => failed(error),
        }
    }

    /// A page of the whole chunks of a slot, and where the next begins.
    pub async fn page(
        &self,
        slot: Slot,
        after: Option<ChunkHash>,
        limit: usize,
    ) -> Result<(Vec<ListedChunk>, Option<ChunkHash>), ChunkError> {
        let page = self.chunks.list(slot, after, limit).await?;
        let next = page.last().filter(|_| page.len() >= limit).map(|last| last.hash);
        let whole = page.into_iter().filter(|chunk| !chunk.damaged);
        let listed =
            whole.map(|chunk| ListedChunk { hash: chunk.hash, bytes: chunk.len, stamp: chunk.stamp });
        Ok((listed.collect(), next))
    }

    /// Whether the layout wants this node to have the slot's chunks.
    pub fn holds(&self, slot: Slot) -> bool {
        self.layout().holders(slot).any(|holder| holder.node == self.me)
    }

    /// Somebody missed a chunk here. Repair looks into it if it should be here; if it has
    /// more to do than it can note, its walks find the rest.
    pub fn note_missing(&self, hash: ChunkHash) {
        if self.holds(hash.slot()) {
            let _ = self.suspicious.try_send(hash);
        }
    }

    /// Removes chunks of a slot that this node doesn't hold any more. False, and nothing
    /// removed, if it holds the slot again. No write is let in between the look at the
    /// layout and the removal, so nothing acknowledged under a newer one can go.
    pub async fn drop_left(&self, slot: Slot, hashes: &[ChunkHash]) -> Result<bool, ChunkError> {
        let _nobody_writes = self.gate.writing.write().await;
        if self.holds(slot) {
            return Ok(false);
        }
        let removals = hashes.iter().map(|hash| self.chunks.remove_if(*hash, u64::MAX));
        futures_util::future::try_join_all(removals).await?;
        Ok(true)
    }

    async fn has(&self, hashes: &[ChunkHash]) -> ChunkReply {
        let mut flags = Vec::with_capacity(hashes.len());
        for hash in hashes {
            match self.chunks.contains(*hash).await {
                Ok(flag) => flags.push(flag),
                Err(error) => return failed(error),
            }
        }
        ChunkReply::Flags(flags)
    }
}

impl From<WriteRefused> for ChunkReply {
    fn from(refused: WriteRefused) -> Self {
        match refused {
            WriteRefused::StaleLayout { changed } => ChunkReply::StaleLayout { changed },
            WriteRefused::Behind { have } => ChunkReply::Behind { have },
            WriteRefused::NotAHolder => ChunkReply::NotAHolder,
        }
    }
}

/// The asker learns that this disk did not do it; what exactly is for this node's log.
fn failed(error: ChunkError) -> ChunkReply {
    match error {
        ChunkError::Full { .. } => ChunkReply::Full,
        ChunkError::Damaged { .. } => ChunkReply::Missing,
        error => {
            tracing::warn!(error = &error as &dyn std::error::Error, "a chunk request failed");
            ChunkReply::Failed { reason: error.to_string() }
        }
    }
}

/// Serves [`atoll_transport::Protocol::Chunks`].
pub struct ChunkHandler(pub Arc<Holder>);

#[async_trait]
impl Handler for ChunkHandler {
    async fn call(&self, _from: Caller, request: Message) -> Result<Message, Refusal> {
        let holder = &self.0;
        let asked = ChunkRequest::decode(&request.header)
            .map_err(|error| Refusal { code: MALFORMED, reason: error.to_string() })?;
        let mut body = Bytes::new();
        let reply = match asked {
            ChunkRequest::Put { hash, stamp, layout_version } => {
                holder.put(hash, request.body, stamp, layout_version, false).await
            }
            ChunkRequest::Stamp { hashes, .. } | ChunkRequest::Has { hashes }
                if hashes.len() > HASHES_MAX =>
            {
                let reason = format!("{} hashes; {HASHES_MAX} is the most", hashes.len());
                return Err(Refusal { code: OVER_LIMIT, reason });
            }
            ChunkRequest::Stamp { hashes, stamp, layout_version } => {
                holder.stamp(&hashes, stamp, layout_version).await
            }
            ChunkRequest::Get { hash } => match holder.chunks.get(hash).await {
                Ok(Some(bytes)) => {
                    holder.bytes_served.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                    body = bytes;
                    ChunkReply::Found
                }
                Ok(None) => {
                    holder.note_missing(hash);
                    ChunkReply::Missing
                }
                Err(error) => {
                    holder.note_missing(hash);
                    failed(error)
                }
            },
            ChunkRequest::Has { hashes } => holder.has(&hashes).await,
            ChunkRequest::List { slot, after, limit, layout_version } => {
                holder.list(slot, after, limit, layout_version).await
            }
        };
        Ok(Message::with_body(reply.encode(), body))
    }
}
