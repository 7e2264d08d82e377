//! A body on its way in: read, cut, hashed and stored at once, with a bounded part of it
//! in memory.
//!
//! ```text
//! client → batches of 2 MiB → MD5 and digests (one blocking job after the other)
//!                           → cut, BLAKE3    (the same, beside them)  → chunks → holders
//!                             (and sealed between the two, if it is to be encrypted)
//! ```
//!
//! While one batch is hashed the next is received, and up to [`IN_FLIGHT_BYTES`] of
//! chunks are on their way to the holders. MD5, at about 700 MiB/s a core, sets the pace;
//! nothing else waits for it.

use std::{collections::VecDeque, time::Duration};

use atoll_runtime::{Runtime, Task};
use atoll_types::{ChunkHash, Instant, ShardId};
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt;
use md5::{Digest, Md5};

use crate::{
    chunker::{Chunk, Cutter},
    encryption::seal::StreamKey,
    error::{PutObjectError, Unavailable},
    manifest::ChunkRef,
    object::{BodyDigest, Checksum},
    objects::{Objects, unexpected},
    request::PutBody,
    shard::reference,
};

/// Objects up to this size live in their record (one commit, no chunk). 16 KiB: a log
/// entry that is still small beside a flush, while a chunk of it would cost two.
pub const INLINE_BYTES_MAX: usize = 16 << 10;
/// S3's limit on one put and on one part.
pub const BODY_BYTES_MAX: u64 = 5 << 30;
/// What is hashed and cut at once: 3 ms of MD5, and twice a common chunk.
const BATCH_BYTES: usize = 2 << 20;
/// Chunks that are on their way to the holders, per put. Two of the largest; at 300
/// MiB/s, 27 ms: six flushes of a common disk.
const IN_FLIGHT_BYTES: usize = 8 << 20;
/// The same for all puts of a node. Eight puts at full width; at 100 MiB/s, 0.6 s of
/// disk: far below the patience that begins when a chunk's turn has come.
pub const NODE_IN_FLIGHT_BYTES: usize = 64 << 20;
/// How often a long put looks whether a sweep has begun, to stamp its chunks again in
/// time. Sweeps are an hour apart and two must pass before a chunk can go.
const EPOCH_AGE_MAX: Duration = Duration::from_secs(300);

const _: () = assert!(IN_FLIGHT_BYTES >= 2 * crate::chunker::CHUNK_BYTES_MAX);
const _: () = assert!(NODE_IN_FLIGHT_BYTES >= IN_FLIGHT_BYTES);

/// A body that has arrived whole and matches what was announced.
pub struct Ingested {
    pub content: IngestedContent,
    pub size: u64,
    pub md5: [u8; 16],
    pub checksum: Option<Checksum>,
}

pub enum IngestedContent {
    Inline(Bytes),
    /// Stored at the quorums of their slots, stamped with `epoch`.
    Chunks {
        chunks: Vec<ChunkRef>,
        epoch: u64,
        sealed: bool,
    },
}

/// The hashes over the whole body; they travel to the blocking pool and back.
struct BodyHashes {
    md5: Md5,
    digests: Vec<Box<dyn BodyDigest>>,
}

impl BodyHashes {
    fn update(&mut self, pieces: &[Bytes]) {
        for piece in pieces {
            self.md5.update(piece);
            self.digests.iter_mut().for_each(|digest| digest.update(piece));
        }
    }

    fn finish(self, announced: Option<[u8; 16]>) -> Result<([u8; 16], Option<Checksum>), PutObjectError> {
        let md5: [u8; 16] = self.md5.finalize().into();
        if announced.is_some_and(|announced| announced != md5) {
            return Err(PutObjectError::BadDigest);
        }
        let mut kept = None;
        for digest in self.digests {
            let checksum = digest.finish().map_err(|algorithm| PutObjectError::BadChecksum { algorithm })?;
            kept = kept.or(checksum);
        }
        Ok((md5, kept))
    }
}

enum Hashing {
    Idle(BodyHashes),
    Running(Task<BodyHashes>),
}

impl Hashing {
    /// Waits for the batch before, and begins this one.
    async fn push(self, runtime: &Runtime, pieces: Vec<Bytes>) -> Result<Self, Unavailable> {
        let mut hashes = self.rest().await?;
        let pool = runtime.clone();
        let update = async move {
            let update = move || {
                hashes.update(&pieces);
                hashes
            };
            pool.blocking(update).await
        };
        Ok(Hashing::Running(runtime.spawn("body hashes", update)))
    }

    async fn rest(self) -> Result<BodyHashes, Unavailable> {
        match self {
            Hashing::Idle(hashes) => Ok(hashes),
            Hashing::Running(task) => finished(task).await,
        }
    }
}

impl Objects {
    /// Takes a body in. `shard` is where it will be committed; `inline` allows a small
    /// one to be kept in memory for its record. With a key, what is kept is sealed.
    pub(crate) async fn ingest(
        &self,
        shard: ShardId,
        body: PutBody,
        inline: bool,
        key: Option<StreamKey>,
    ) -> Result<Ingested, PutObjectError> {
        let PutBody { mut stream, length, content_md5, digests } = body;
        if length.is_some_and(|length| length > BODY_BYTES_MAX) {
            return Err(PutObjectError::EntityTooLarge { max: BODY_BYTES_MAX });
        }
        let mut hashing = Hashing::Idle(BodyHashes { md5: Md5::new(), digests });
        let mut batch = Batch::default();
        let mut size = 0_u64;
        let mut chunked: Option<ChunkedBody> = None;

        loop {
            let piece = stream.next().await.transpose().map_err(PutObjectError::Body)?;
            let ended = piece.is_none();
            if let Some(piece) = piece {
                size += piece.len() as u64;
                if size > BODY_BYTES_MAX {
                    return Err(PutObjectError::EntityTooLarge { max: BODY_BYTES_MAX });
                }
                if let Some(announced) = length.filter(|announced| size > *announced) {
                    return Err(PutObjectError::IncompleteBody { announced, got: size });
                }
                batch.push(piece);
            }
            if let Some(announced) = length.filter(|announced| ended && size < *announced) {
                return Err(PutObjectError::IncompleteBody { announced, got: size });
            }
            let small = inline && chunked.is_none() && batch.bytes <= INLINE_BYTES_MAX;
            if ended && small {
                let mut hashes = hashing.rest().await?;
                // 16 KiB take MD5 some 25 µs: less than a trip to the blocking pool and back.
                hashes.update(&batch.pieces);
                let (md5, checksum) = hashes.finish(content_md5)?;
                let content = IngestedContent::Inline(match &key {
                    None => batch.join(),
                    Some(key) => key.seal(0, true, &batch.join()),
                });
                return Ok(Ingested { content, size, md5, checksum });
            }
            if !ended && batch.bytes < BATCH_BYTES {
                continue;
            }
            let body = match &mut chunked {
                Some(body) => body,
                None => chunked.insert(ChunkedBody::start(self.clone(), shard, key.clone()).await?),
            };
            let pieces = std::mem::take(&mut batch).pieces;
            hashing = hashing.push(&self.inner.runtime, pieces.clone()).await?;
            body.push(pieces).await?;
            if ended {
                break;
            }
        }
        let sealed = key.is_some();
        // The loop is left by its last batch, which began this if nothing did before.
        let Some(body) = chunked else { return Err(stopped().into()) };
        let (chunks, epoch) = body.finish().await?;
        let (md5, checksum) = hashing.rest().await?.finish(content_md5)?;
        Ok(Ingested { content: IngestedContent::Chunks { chunks, epoch, sealed }, size, md5, checksum })
    }
}

/// A task that gives nothing was stopped with its runtime: the node is going down.
fn stopped() -> Unavailable {
    Unavailable::Refused("the node is stopping".into())
}

async fn finished<T>(task: Task<T>) -> Result<T, Unavailable> {
    task.await.ok_or_else(stopped)
}

/// Pieces as they came from the network.
#[derive(Default)]
struct Batch {
    pieces: Vec<Bytes>,
    bytes: usize,
}

impl Batch {
    fn push(&mut self, piece: Bytes) {
        self.bytes += piece.len();
        self.pieces.push(piece);
    }

    fn join(mut self) -> Bytes {
        if self.pieces.len() == 1 {
            // Copied all the same: the piece may be a slice of a much larger buffer, and
            // it is kept until the commit.
            return Bytes::copy_from_slice(&self.pieces.remove(0));
        }
        let mut joined = BytesMut::with_capacity(self.bytes);
        self.pieces.iter().for_each(|piece| joined.extend_from_slice(piece));
        joined.freeze()
    }
}

/// A body that becomes chunks.
struct ChunkedBody {
    objects: Objects,
    shard: ShardId,
    epoch: u64,
    /// When `epoch` was read.
    epoch_read: Instant,
    /// Taken with the first bytes.
    key: Option<StreamKey>,
    cutting: Option<Task<(Cutter, Vec<Chunk>)>>,
    chunks: Vec<ChunkRef>,
    /// In the order of the body; the first is waited for.
    storing: VecDeque<(usize, Task<Result<(), Unavailable>>)>,
    storing_bytes: usize,
}

impl ChunkedBody {
    async fn start(objects: Objects, shard: ShardId, key: Option<StreamKey>) -> Result<Self, Unavailable> {
        let epoch = objects.recent_epoch(shard).await?;
        let epoch_read = objects.inner.runtime.now();
        Ok(Self {
            objects,
            shard,
            epoch,
            epoch_read,
            key,
            cutting: None,
            chunks: Vec::new(),
            storing: VecDeque::new(),
            storing_bytes: 0,
        })
    }

    /// Takes the next bytes, and sends off the chunks of the ones before.
    async fn push(&mut self, pieces: Vec<Bytes>) -> Result<(), Unavailable> {
        let (mut cutter, ready) = match self.cutting.take() {
            Some(cutting) => finished(cutting).await?,
            None => (Cutter::new(self.objects.inner.settings.chunks, self.key.take()), Vec::new()),
        };
        let runtime = self.objects.inner.runtime.clone();
        self.cutting = Some(self.objects.inner.runtime.spawn("body chunks", async move {
            runtime
                .blocking(move || {
                    let chunks = cutter.push(&pieces);
                    (cutter, chunks)
                })
                .await
        }));
        self.store(ready).await
    }

    async fn store(&mut self, chunks: Vec<Chunk>) -> Result<(), Unavailable> {
        for chunk in chunks {
            let bytes = chunk.bytes.len();
            while self.storing_bytes + bytes > IN_FLIGHT_BYTES && !self.storing.is_empty() {
                self.wait_for_one().await?;
            }
            self.refresh_epoch().await?;
            self.chunks.push(ChunkRef { hash: chunk.hash, bytes: bytes as u32 });
            let room = self.objects.inner.ingest_room.clone();
            let permit = room.acquire_many_owned(bytes as u32).await.map_err(|_| stopped())?;
            let (holders, epoch) = (self.objects.inner.holders.clone(), self.epoch);
            let deadline = self.objects.deadline();
            let store = async move {
                let stored = holders.store(chunk, epoch, deadline).await;
                drop(permit);
                stored
            };
            self.storing.push_back((bytes, self.objects.inner.runtime.spawn("chunk store", store)));
            self.storing_bytes += bytes;
        }
        Ok(())
    }

    async fn wait_for_one(&mut self) -> Result<(), Unavailable> {
        if let Some((bytes, task)) = self.storing.pop_front() {
            finished(task).await??;
            self.storing_bytes -= bytes;
        }
        Ok(())
    }

    /// Chunks of a put that lasts through a sweep are stamped again with the new epoch,
    /// before the next sweep can take them.
    async fn refresh_epoch(&mut self) -> Result<(), Unavailable> {
        let now = self.objects.inner.runtime.now();
        if now.saturating_since(self.epoch_read) < EPOCH_AGE_MAX {
            return Ok(());
        }
        let epoch = self.objects.reclaim_epoch(self.shard).await?;
        self.epoch_read = now;
        if epoch > self.epoch {
            while !self.storing.is_empty() {
                self.wait_for_one().await?;
            }
            self.objects.stamp_chunks(&self.chunks, epoch).await?;
            self.epoch = epoch;
        }
        Ok(())
    }

    async fn finish(mut self) -> Result<(Vec<ChunkRef>, u64), Unavailable> {
        if let Some(cutting) = self.cutting.take() {
            let (cutter, mut chunks) = finished(cutting).await?;
            let last = self.objects.inner.runtime.blocking(move || cutter.finish()).await;
            chunks.extend(last);
            self.store(chunks).await?;
        }
        while !self.storing.is_empty() {
            self.wait_for_one().await?;
        }
        Ok((self.chunks, self.epoch))
    }
}

/// How long an epoch once read will do for a new put. An old epoch is never wrong, only
/// more likely to be refused at the commit; sweeps are an hour apart.
const EPOCH_GOOD_FOR: Duration = Duration::from_secs(30);

impl Objects {
    /// The shard's reclaim epoch, as of now.
    pub(crate) async fn reclaim_epoch(&self, shard: ShardId) -> Result<u64, Unavailable> {
        let now = self.inner.runtime.now();
        let epoch = self.query(shard, &reference::EPOCH, (), self.deadline()).await?.map_err(unexpected)?;
        self.epochs().insert(shard, (epoch, now));
        Ok(epoch)
    }

    /// The shard's reclaim epoch, as of a moment ago: enough to stamp new chunks with, since
    /// what relies on the stamps is checked at the commit. Saves most puts a query.
    pub(crate) async fn recent_epoch(&self, shard: ShardId) -> Result<u64, Unavailable> {
        let known = self.epochs().get(&shard).copied();
        match known {
            Some((epoch, at)) if self.inner.runtime.now().saturating_since(at) < EPOCH_GOOD_FOR => Ok(epoch),
            _ => self.reclaim_epoch(shard).await,
        }
    }

    pub(crate) async fn stamp_chunks(&self, chunks: &[ChunkRef], epoch: u64) -> Result<(), Unavailable> {
        let hashes: Vec<ChunkHash> = chunks.iter().map(|chunk| chunk.hash).collect();
        self.inner.holders.stamp(&hashes, epoch, self.deadline()).await
    }
}
