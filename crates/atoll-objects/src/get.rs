//! GET and HEAD: the manifest by one linearizable query (small objects come along with
//! it), then the chunks of the range, a few ahead of the reader.

use std::{collections::VecDeque, ops::Range, sync::Arc};

use atoll_runtime::Task;
use atoll_types::{Instant, ShardId};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};

use crate::{
    conditions::FailedRead,
    error::{GetObjectError, Unavailable},
    manifest::{ChunkRef, Manifest},
    names::{BucketId, ManifestId, UploadId},
    object::ObjectInfo,
    objects::{BUCKET_ATTEMPTS, Objects, unexpected},
    request::{BodyOut, BucketInfo, GetObject, GotObject, PartInfo},
    shard::{
        Refused,
        object::{self, Found, Got},
        upload, version,
    },
    versions::Named,
};

/// Chunks fetched ahead of the reader: about 4 MiB, at most 16. Enough for several
/// holders to work at once, and for one at 10 ms a chunk to reach 400 MiB/s.
const READ_AHEAD_CHUNKS: usize = 4;
/// Part records per query: a part of 5 MiB has some 5 chunks, so about 6 KiB an answer;
/// parts of 256 chunks make 300 KiB.
const PARTS_PER_QUERY: u32 = 32;

impl Objects {
    /// The object, as of one moment: what is written to its key later does not change
    /// the body.
    pub async fn get(&self, request: GetObject) -> Result<GotObject, GetObjectError> {
        let LookedUp { bucket, got, info } = self.look_up(&request, true).await?;
        let Got { version, inline, .. } = got;
        check_conditions(&request, &info)?;
        let range = resolve_range(&request, &info)?;
        let body: BodyOut = match (version.manifest, inline) {
            (Manifest::Inline, Some(bytes)) => {
                let part = bytes.slice(range.start as usize..range.end as usize);
                stream::iter([Ok(part)]).boxed()
            }
            (Manifest::Inline, None) => return Err(Unavailable::Vanished.into()),
            (manifest, _) => {
                let shard = bucket.shard_of(request.key.as_bytes());
                self.read_chunks(bucket.id, shard, manifest, range.clone())
            }
        };
        Ok(GotObject { info, range, body })
    }

    /// [`Objects::get`] without the bytes; a range is checked all the same.
    pub async fn head(&self, request: GetObject) -> Result<ObjectInfo, GetObjectError> {
        let LookedUp { info, .. } = self.look_up(&request, false).await?;
        check_conditions(&request, &info)?;
        resolve_range(&request, &info)?;
        Ok(info)
    }

    /// [`Objects::head`] with up to `limit` of the parts that the object was put together
    /// from, of those with higher numbers than `after`.
    pub async fn head_with_parts(
        &self,
        request: GetObject,
        after: u16,
        limit: usize,
    ) -> Result<(ObjectInfo, Vec<PartInfo>), GetObjectError> {
        let LookedUp { bucket, got, info } = self.look_up(&request, false).await?;
        check_conditions(&request, &info)?;
        let Manifest::Parts { upload, .. } = got.version.manifest else { return Ok((info, Vec::new())) };
        let shard = bucket.shard_of(request.key.as_bytes());
        let (mut parts, mut from) = (Vec::new(), after.saturating_add(1));
        while parts.len() < limit {
            let limit = PARTS_PER_QUERY.min((limit - parts.len()) as u32);
            let ask = upload::Parts { bucket: bucket.id, upload, from, limit };
            let page = self.query(shard, &upload::PART_INFOS, ask, self.deadline()).await?;
            // Replaced and swept since it was looked up.
            let page: Vec<PartInfo> = page.map_err(|_| Unavailable::Vanished)?;
            let full = page.len() == limit as usize;
            from = page.last().map_or(from, |part| part.number.saturating_add(1));
            parts.extend(page);
            if !full {
                break;
            }
        }
        Ok((info, parts))
    }

    pub(crate) async fn look_up(
        &self,
        request: &GetObject,
        content: bool,
    ) -> Result<LookedUp, GetObjectError> {
        let no_such = || GetObjectError::NoSuchBucket(request.bucket.clone());
        let deadline = self.deadline();
        let mut bucket = self.bucket(&request.bucket, deadline).await?.ok_or_else(no_such)?;
        for _ in 0..BUCKET_ATTEMPTS {
            let found = match self.find(&bucket, request, content, deadline).await? {
                Ok(found) => found,
                Err(Refused::NoSuchVersion) => return Err(GetObjectError::NoSuchVersion),
                Err(refused) => {
                    bucket = self.follow_bucket(&bucket, &refused, deadline).await?.ok_or_else(no_such)?;
                    continue;
                }
            };
            let (got, versioned) = match found {
                Found::Nothing => return Err(GetObjectError::NoSuchKey),
                Found::Marker { version, modified } => {
                    return Err(match request.version {
                        None => GetObjectError::Deleted { marker: version },
                        Some(_) => GetObjectError::DeleteMarker { version, modified },
                    });
                }
                Found::Object(got) => (got, false),
                Found::Versioned(got) => (got, true),
            };
            let info = object_info(&got, versioned);
            return Ok(LookedUp { bucket, got, info });
        }
        Err(Unavailable::Unsettled.into())
    }

    async fn find(
        &self,
        info: &BucketInfo,
        request: &GetObject,
        content: bool,
        deadline: Instant,
    ) -> Result<Result<Found, Refused>, Unavailable> {
        let (bucket, key) = (info.id, request.key.clone());
        let shard = info.shard_of(key.as_bytes());
        match self.named_version(request.version, deadline).await? {
            Named::Newest => {
                self.query(shard, &object::GET, object::Get { bucket, key, content }, deadline).await
            }
            Named::Nothing => Ok(Err(Refused::NoSuchVersion)),
            Named::Version(version) => {
                let get = version::GetVersion { bucket, key, version, content };
                self.query(shard, &version::GET, get, deadline).await
            }
        }
    }

    /// The bytes of `range`, chunk by chunk.
    pub(crate) fn read_chunks(
        &self,
        bucket: BucketId,
        shard: ShardId,
        manifest: Manifest,
        range: Range<u64>,
    ) -> BodyOut {
        let reader = Reader {
            manifest: ManifestReader::new(self.clone(), bucket, shard, manifest, range),
            ahead: VecDeque::new(),
            failed: false,
        };
        stream::unfold(reader, async |mut reader| Some((reader.next().await?, reader))).boxed()
    }

    /// All chunks of a manifest: for copies, which are at most 5 GiB.
    pub(crate) async fn all_chunks(
        &self,
        bucket: BucketId,
        shard: ShardId,
        manifest: Manifest,
        size: u64,
    ) -> Result<Vec<ChunkRef>, Unavailable> {
        let mut reader = ManifestReader::new(self.clone(), bucket, shard, manifest, 0..size);
        let mut chunks = Vec::new();
        while let Some(piece) = reader.next().await? {
            chunks.push(piece.chunk);
        }
        Ok(chunks)
    }
}

/// One version of an object as a shard gave it, and where.
pub(crate) struct LookedUp {
    pub bucket: Arc<BucketInfo>,
    pub got: Got,
    pub info: ObjectInfo,
}

fn object_info(got: &Got, versioned: bool) -> ObjectInfo {
    let Got { revision, version, .. } = got;
    let parts = match &version.manifest {
        Manifest::Parts { parts, .. } => parts.clone(),
        _ => Vec::new(),
    };
    ObjectInfo {
        size: version.size,
        etag: version.etag,
        modified: version.modified,
        revision: *revision,
        version: versioned.then(|| version.id(*revision)),
        headers: version.headers.clone(),
        checksum: version.checksum.clone(),
        parts,
    }
}

pub(crate) fn check_conditions(request: &GetObject, info: &ObjectInfo) -> Result<(), GetObjectError> {
    request.conditions.check(info).map_err(|failed| match failed {
        FailedRead::PreconditionFailed => GetObjectError::PreconditionFailed,
        FailedRead::NotModified => GetObjectError::NotModified(Box::new(info.clone())),
    })
}

fn resolve_range(request: &GetObject, info: &ObjectInfo) -> Result<Range<u64>, GetObjectError> {
    match request.range {
        None => Ok(0..info.size),
        Some(range) => range.resolve(info).ok_or(GetObjectError::InvalidRange { size: info.size }),
    }
}

/// A chunk, and which of its bytes are wanted.
struct Piece {
    chunk: ChunkRef,
    wanted: Range<usize>,
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
            let fetch = objects.inner.holders.fetch_ahead(piece.chunk.hash, objects.deadline());
            self.ahead.push_back((piece.wanted, fetch));
        }
        let Some((wanted, fetch)) = self.ahead.pop_front() else { return Ok(None) };
        let bytes =
            fetch.await.unwrap_or_else(|| Err(Unavailable::Refused("the node is stopping".into())))?;
        if wanted.end > bytes.len() {
            // The bytes hash to the name in the manifest, so its length there is wrong.
            return Err(Unavailable::Refused("a manifest names a chunk with another length".into()));
        }
        Ok(Some(bytes.slice(wanted)))
    }
}

/// What of a manifest is still to be read, in order.
enum Step {
    Chunks(VecDeque<ChunkRef>),
    Segment { manifest: ManifestId, number: u32, bytes: u64 },
    Part { upload: UploadId, number: u16, bytes: u64 },
}

/// Walks a manifest and gives the chunks that a range touches. Segments and parts are
/// looked up when the walk comes to them; those before the range never.
struct ManifestReader {
    objects: Objects,
    bucket: BucketId,
    shard: ShardId,
    steps: VecDeque<Step>,
    /// Where the first step begins.
    offset: u64,
    range: Range<u64>,
}

impl ManifestReader {
    fn new(
        objects: Objects,
        bucket: BucketId,
        shard: ShardId,
        manifest: Manifest,
        range: Range<u64>,
    ) -> Self {
        let steps = match manifest {
            Manifest::Parts { upload, parts } => {
                parts.into_iter().map(|(number, bytes)| Step::Part { upload, number, bytes }).collect()
            }
            other => steps_of(other).collect(),
        };
        Self { objects, bucket, shard, steps, offset: 0, range }
    }

    async fn next(&mut self) -> Result<Option<Piece>, Unavailable> {
        loop {
            if self.offset >= self.range.end {
                return Ok(None);
            }
            match self.steps.pop_front() {
                None => return Ok(None),
                Some(Step::Chunks(mut chunks)) => {
                    let Some(chunk) = chunks.pop_front() else { continue };
                    self.steps.push_front(Step::Chunks(chunks));
                    let start = self.offset;
                    self.offset += u64::from(chunk.bytes);
                    if self.offset > self.range.start {
                        let from = self.range.start.saturating_sub(start) as usize;
                        let to = (self.range.end.min(self.offset) - start) as usize;
                        return Ok(Some(Piece { chunk, wanted: from..to }));
                    }
                }
                Some(Step::Segment { bytes, .. } | Step::Part { bytes, .. })
                    if self.offset + bytes <= self.range.start =>
                {
                    self.offset += bytes;
                }
                Some(Step::Segment { manifest, number, .. }) => {
                    let ask = object::Segments { bucket: self.bucket, manifest, from: number, limit: 1 };
                    let deadline = self.objects.deadline();
                    let found = self.objects.query(self.shard, &object::SEGMENTS, ask, deadline).await?;
                    let segment = found.map_err(unexpected)?.pop().ok_or(Unavailable::Vanished)?;
                    self.steps.push_front(Step::Chunks(segment.chunks.into()));
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
        for (found_number, record) in found {
            match self.steps.front() {
                Some(Step::Part { number, .. }) if *number == found_number => {
                    self.steps.pop_front();
                    looked_up.extend(steps_of(record.manifest));
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
fn steps_of(manifest: Manifest) -> impl Iterator<Item = Step> {
    let (chunks, segments) = match manifest {
        Manifest::Chunks(chunks) => (Some(Step::Chunks(chunks.into())), None),
        Manifest::Segments { manifest, sizes } => (None, Some((manifest, sizes))),
        // An inline object has no chunks, and parts are not made of parts.
        Manifest::Inline | Manifest::Parts { .. } => (None, None),
    };
    let segments = segments.into_iter().flat_map(|(manifest, sizes)| {
        sizes.into_iter().zip(0..).map(move |(bytes, number)| Step::Segment { manifest, number, bytes })
    });
    chunks.into_iter().chain(segments)
}
