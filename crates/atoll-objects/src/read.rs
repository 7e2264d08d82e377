//! The bytes of an object, from its manifest: the chunks of a range, a few ahead of the
//! reader, opened where they are sealed.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use atoll_runtime::Task;
use atoll_types::ShardId;
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};

use crate::{
    encryption::seal::{DataKey, StreamKey},
    error::Unavailable,
    manifest::{ChunkRef, Manifest, chunks_are_of},
    names::{BucketId, ManifestId, UploadId},
    objects::{Objects, unexpected},
    request::BodyOut,
    shard::{object, upload},
};

/// Chunks fetched ahead of the reader: about 4 MiB, at most 16. Enough for several
/// holders to work at once, and for one at 10 ms a chunk to reach 400 MiB/s.
const READ_AHEAD_CHUNKS: usize = 4;
/// Part records per query: a part of 5 MiB has some 5 chunks, so about 6 KiB an answer;
/// parts of 256 chunks make 300 KiB.
pub(crate) const PARTS_PER_QUERY: u32 = 32;

impl Objects {
    /// The bytes of `range`, chunk by chunk.
    pub(crate) fn read_chunks(&self, manifest: ReadManifest, range: Range<u64>) -> BodyOut {
        let reader = Reader {
            manifest: ManifestReader::new(self.clone(), manifest, range),
            ahead: VecDeque::new(),
            failed: false,
        };
        stream::unfold(reader, async |mut reader| Some((reader.next().await?, reader))).boxed()
    }

    /// All chunks of a manifest in the clear: for copies, which are at most 5 GiB.
    pub(crate) async fn all_chunks(
        &self,
        bucket: BucketId,
        shard: ShardId,
        manifest: Manifest,
        size: u64,
    ) -> Result<Vec<ChunkRef>, Unavailable> {
        let manifest = ReadManifest { bucket, shard, manifest, size, key: None };
        let mut reader = ManifestReader::new(self.clone(), manifest, 0..size);
        let mut chunks = Vec::new();
        while let Some(piece) = reader.next().await? {
            chunks.push(piece.chunk);
        }
        Ok(chunks)
    }
}

/// A chunk, and which of its bytes are wanted.
struct Piece {
    chunk: ChunkRef,
    wanted: Range<usize>,
    sealed: Option<Sealed>,
}

/// What was sealed as one: an object's bytes, or a part's.
struct Stream {
    key: StreamKey,
    /// Within the object.
    start: u64,
    size: u64,
}

/// What a chunk was sealed as.
struct Sealed {
    stream: Arc<Stream>,
    /// Within the object.
    offset: u64,
    end: u64,
}

impl Sealed {
    fn open(&self, bytes: &[u8]) -> Result<Bytes, Unavailable> {
        let Stream { key, start, size } = &*self.stream;
        let last = self.end == start.saturating_add(*size);
        key.open(self.offset - start, last, bytes).ok_or(Unavailable::Tampered)
    }
}

type Fetch = Task<Result<Bytes, Unavailable>>;

/// Keeps a few chunks on their way.
struct Reader {
    manifest: ManifestReader,
    /// With what is wanted of each.
    ahead: VecDeque<(Range<usize>, Fetch)>,
    failed: bool,
}

impl Reader {
    async fn next(&mut self) -> Option<Result<Bytes, Unavailable>> {
        if self.failed {
            return None;
        }
        let next = self.try_next().await.transpose();
        self.failed = matches!(next, Some(Err(_)));
        next
    }

    async fn try_next(&mut self) -> Result<Option<Bytes>, Unavailable> {
        while self.ahead.len() < READ_AHEAD_CHUNKS {
            let Some(piece) = self.manifest.next().await? else { break };
            let objects = &self.manifest.objects;
            let mut fetch = objects.inner.holders.fetch_ahead(piece.chunk.hash, objects.deadline());
            if let Some(sealed) = piece.sealed {
                let runtime = objects.inner.runtime.clone();
                fetch = objects.inner.runtime.spawn("chunk open", async move {
                    let bytes = fetch.await.unwrap_or_else(|| Err(stopping()))?;
                    runtime.blocking(move || sealed.open(&bytes)).await
                });
            }
            self.ahead.push_back((piece.wanted, fetch));
        }
        let Some((wanted, fetch)) = self.ahead.pop_front() else { return Ok(None) };
        let bytes = fetch.await.unwrap_or_else(|| Err(stopping()))?;
        if wanted.end > bytes.len() {
            // The bytes hash to the name in the manifest, so its length there is wrong.
            return Err(Unavailable::Refused("a manifest names a chunk with another length".into()));
        }
        Ok(Some(bytes.slice(wanted)))
    }
}

/// Each record by itself may be sound, in a backup that somebody made up.
fn contradicted() -> Unavailable {
    Unavailable::Refused("a manifest and what it refers to are of different sizes".into())
}

fn stopping() -> Unavailable {
    Unavailable::Refused("the node is stopping".into())
}

/// What of a manifest is still to be read, in order. What is sealed says as which stream;
/// of a part its record does.
enum Step {
    Chunks { chunks: VecDeque<ChunkRef>, stream: Option<Arc<Stream>> },
    Segment { manifest: ManifestId, number: u32, bytes: u64, stream: Option<Arc<Stream>> },
    Part { upload: UploadId, number: u16, bytes: u64 },
}

/// A manifest, where its records are, and how to read what it names.
pub(crate) struct ReadManifest {
    pub bucket: BucketId,
    pub shard: ShardId,
    pub manifest: Manifest,
    /// Of the object.
    pub size: u64,
    /// `None` if it is not encrypted.
    pub key: Option<DataKey>,
}

/// Walks a manifest and gives the chunks that a range touches. Segments and parts are
/// looked up when the walk comes to them; those before the range never.
struct ManifestReader {
    objects: Objects,
    bucket: BucketId,
    shard: ShardId,
    key: Option<DataKey>,
    steps: VecDeque<Step>,
    /// Where the first step begins.
    offset: u64,
    range: Range<u64>,
}

impl ManifestReader {
    fn new(objects: Objects, read: ReadManifest, range: Range<u64>) -> Self {
        let ReadManifest { bucket, shard, manifest, size, key } = read;
        let steps = match manifest {
            Manifest::Parts { upload, parts } => {
                parts.into_iter().map(|(number, bytes)| Step::Part { upload, number, bytes }).collect()
            }
            other => {
                let stream =
                    key.as_ref().map(|key| Arc::new(Stream { key: key.object_stream(), start: 0, size }));
                steps_of(other, stream).collect()
            }
        };
        Self { objects, bucket, shard, key, steps, offset: 0, range }
    }

    async fn next(&mut self) -> Result<Option<Piece>, Unavailable> {
        loop {
            if self.offset >= self.range.end {
                return Ok(None);
            }
            match self.steps.pop_front() {
                None => return Ok(None),
                Some(Step::Chunks { mut chunks, stream }) => {
                    let Some(chunk) = chunks.pop_front() else { continue };
                    self.steps.push_front(Step::Chunks { chunks, stream: stream.clone() });
                    let start = self.offset;
                    self.offset = self.offset.saturating_add(chunk.content_bytes(stream.is_some()));
                    if self.offset > self.range.start {
                        let from = self.range.start.saturating_sub(start) as usize;
                        let to = (self.range.end.min(self.offset) - start) as usize;
                        let sealed = stream.map(|stream| Sealed { stream, offset: start, end: self.offset });
                        return Ok(Some(Piece { chunk, wanted: from..to, sealed }));
                    }
                }
                Some(Step::Segment { bytes, .. } | Step::Part { bytes, .. })
                    if self.offset.saturating_add(bytes) <= self.range.start =>
                {
                    self.offset += bytes;
                }
                Some(Step::Segment { manifest, number, bytes, stream }) => {
                    let ask = object::Segments { bucket: self.bucket, manifest, from: number, limit: 1 };
                    let deadline = self.objects.deadline();
                    let found = self.objects.query(self.shard, &object::SEGMENTS, ask, deadline).await?;
                    let segment = found.map_err(unexpected)?.pop().ok_or(Unavailable::Vanished)?;
                    if !chunks_are_of(&segment.chunks, bytes, stream.is_some()) {
                        return Err(contradicted());
                    }
                    self.steps.push_front(Step::Chunks { chunks: segment.chunks.into(), stream });
                }
                Some(part @ Step::Part { .. }) => {
                    self.steps.push_front(part);
                    self.look_up_parts().await?;
                }
            }
        }
    }

    /// Replaces the first parts by what they are made of.
    async fn look_up_parts(&mut self) -> Result<(), Unavailable> {
        let Some(&Step::Part { upload, number: first, .. }) = self.steps.front() else { return Ok(()) };
        let ask = upload::Parts { bucket: self.bucket, upload, from: first, limit: PARTS_PER_QUERY };
        let deadline = self.objects.deadline();
        let found =
            self.objects.query(self.shard, &upload::PARTS, ask, deadline).await?.map_err(unexpected)?;
        let mut looked_up = Vec::new();
        let mut start = self.offset;
        for (found_number, record) in found {
            match self.steps.front() {
                Some(&Step::Part { number, bytes: size, .. }) if number == found_number => {
                    self.steps.pop_front();
                    let manifest = &record.content.manifest;
                    let is_whole = matches!(manifest, Manifest::Chunks(_) | Manifest::Segments { .. });
                    if !is_whole || !manifest.is_of(size, record.content.seal.is_some()) {
                        return Err(contradicted());
                    }
                    let stream = match (&self.key, &record.content.seal) {
                        (None, None) => None,
                        (Some(key), Some(salt)) => {
                            let key = key.part_stream(found_number, salt);
                            Some(Arc::new(Stream { key, start, size }))
                        }
                        (None, Some(_)) | (Some(_), None) => return Err(Unavailable::Tampered),
                    };
                    looked_up.extend(steps_of(record.content.manifest, stream));
                    start = start.saturating_add(size);
                }
                _ => break,
            }
        }
        if looked_up.is_empty()
            && matches!(self.steps.front(), Some(Step::Part { number, .. }) if *number == first)
        {
            return Err(Unavailable::Vanished);
        }
        for step in looked_up.into_iter().rev() {
            self.steps.push_front(step);
        }
        Ok(())
    }
}

/// The steps of a manifest that names chunks or segments.
fn steps_of(manifest: Manifest, stream: Option<Arc<Stream>>) -> impl Iterator<Item = Step> {
    let (chunks, segments) = match manifest {
        Manifest::Chunks(chunks) => {
            (Some(Step::Chunks { chunks: chunks.into(), stream: stream.clone() }), None)
        }
        Manifest::Segments { manifest, sizes } => (None, Some((manifest, sizes))),
        // An inline object has no chunks, and parts are not made of parts.
        Manifest::Inline | Manifest::Parts { .. } => (None, None),
    };
    let segments = segments.into_iter().flat_map(move |(manifest, sizes)| {
        let stream = stream.clone();
        sizes.into_iter().zip(0..).map(move |(bytes, number)| {
            let stream = stream.clone();
            Step::Segment { manifest, number, bytes, stream }
        })
    });
    chunks.into_iter().chain(segments)
}
