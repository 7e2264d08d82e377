//! Objects: put, delete, get, and the segments of large manifests.

use std::ops::Bound;

use atoll_disk::StoreError;
use atoll_records::{ReadView, WriteView};
use atoll_runtime::{Broken, is_broken};
use atoll_types::{Revision, WallTime};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    CommandName, Fault, QueryName, Refused, check_epoch, decode, epoch, keys, live_bucket, open_bucket, read,
    records::{
        ChangeRecord, CurrentRecord, DroppedRecord, PendingRecord, SegmentRecord, VersionRecord, Written,
    },
    scan, scan_from,
    version::{delete_marker, newest, put_newest},
    write,
};
use crate::{
    conditions::WriteConditions,
    encryption::seal::Seal,
    manifest::{ChunkRef, Manifest, Sealable, Storage},
    names::{BucketId, ManifestId, ObjectKey, VersionId},
    object::{Checksum, ETag, ObjectHeaders},
    request::Versioning,
};

pub const PUT: CommandName<Put, Written> = CommandName::new("objects/put/1", put);
pub const PUT_SEALED: CommandName<PutSealed, Written> = CommandName::new("objects/put-sealed/1", put_sealed);
pub const DELETE: CommandName<Delete, Vec<Removal>> = CommandName::new("objects/delete/1", delete);
pub const PUT_SEGMENT: CommandName<PutSegment, ()> = CommandName::new("objects/segment/1", put_segment);
pub const GET: QueryName<Get, Found> = QueryName::new("objects/get/1", get);
pub const SEGMENTS: QueryName<Segments, Vec<SegmentRecord>> = QueryName::new("objects/segments/1", segments);

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Put {
    pub bucket: BucketId,
    pub key: ObjectKey,
    pub conditions: WriteConditions,
    /// The reclaim epoch that the chunks are stamped with; not looked at for `Inline`.
    pub epoch: u64,
    pub size: u64,
    pub etag: ETag,
    pub headers: ObjectHeaders,
    pub checksum: Option<Checksum>,
    pub content: Content,
}

/// An object's bytes as a commit brings them.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Content {
    Inline(Bytes),
    Chunks(Vec<ChunkRef>),
    /// Written before by [`PUT_SEGMENT`]; the sizes of what each holds.
    Segments {
        manifest: ManifestId,
        sizes: Vec<u64>,
    },
}

fn put(view: &mut dyn WriteView, input: Put) -> Result<Written, Fault> {
    put_with(view, input, None)
}

/// A put of what is encrypted.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PutSealed {
    pub put: Put,
    pub seal: Seal,
}

fn put_sealed(view: &mut dyn WriteView, input: PutSealed) -> Result<Written, Fault> {
    put_with(view, input.put, Some(input.seal))
}

fn put_with(view: &mut dyn WriteView, input: Put, seal: Option<Seal>) -> Result<Written, Fault> {
    let (bucket, key) = (input.bucket, input.key.as_bytes());
    let open = open_bucket(view, bucket, key)?;
    open.check_sealed(seal.is_some())?;
    let current: Option<CurrentRecord> = read(view, &keys::current(bucket, key))?;
    input.conditions.check(current.as_ref().map(|c| &c.etag)).map_err(Refused::Condition)?;
    let revision = open.revision;
    let manifest = match input.content {
        Content::Inline(bytes) => {
            view.put(&keys::at_revision(keys::INLINE, bucket, key, revision), bytes);
            Manifest::Inline
        }
        Content::Chunks(chunks) => {
            let epoch = check_epoch(view, input.epoch)?;
            log_change(view, epoch, keys::at_revision(keys::VERSION, bucket, key, revision));
            Manifest::Chunks(chunks)
        }
        Content::Segments { manifest, sizes } => {
            check_epoch(view, input.epoch)?;
            adopt_segments(view, bucket, manifest)?;
            Manifest::Segments { manifest, sizes }
        }
    };
    let version = VersionRecord {
        size: input.size,
        etag: input.etag,
        modified: view.stamp(),
        null: true,
        delete_marker: false,
        headers: input.headers,
        checksum: input.checksum,
        content: Sealable { manifest, seal },
    };
    Ok(put_newest(view, open, bucket, key, current, version)?)
}

/// Deletes the only version of a key in a bucket without versioning, with everything that
/// it alone names. Its chunks are then named by nobody.
pub(super) fn remove_current(
    view: &mut dyn WriteView,
    bucket: BucketId,
    key: &[u8],
    current: &CurrentRecord,
) -> Result<(), StoreError> {
    let version_key = keys::at_revision(keys::VERSION, bucket, key, current.revision);
    match current.storage {
        Storage::Inline => view.delete(&keys::at_revision(keys::INLINE, bucket, key, current.revision)),
        Storage::Chunks => {}
        Storage::Segments | Storage::Parts => {
            if let Some(version) = read::<VersionRecord>(view, &version_key)? {
                drop_manifest(view, bucket, &version.content.manifest)?;
            }
        }
    }
    view.delete(&version_key);
    Ok(())
}

/// Hands the manifest's own records to the sweep; see [`DroppedRecord`].
pub(super) fn drop_manifest(
    view: &mut dyn WriteView,
    bucket: BucketId,
    manifest: &Manifest,
) -> Result<(), StoreError> {
    let dropped = match *manifest {
        Manifest::Inline | Manifest::Chunks(_) => return Ok(()),
        Manifest::Segments { manifest, .. } => DroppedRecord::Segments { bucket, manifest },
        Manifest::Parts { upload, .. } => DroppedRecord::Parts { bucket, upload },
    };
    drop_later(view, &dropped)
}

fn drop_later(view: &mut dyn WriteView, dropped: &DroppedRecord) -> Result<(), StoreError> {
    let (epoch, revision) = (epoch(view)?, view.revision());
    // One command may drop many: the next free number of this revision.
    let mut number = 0;
    while view.get(&keys::dropped(epoch, revision, number))?.is_some() {
        number += 1;
    }
    write(view, &keys::dropped(epoch, revision, number), dropped);
    Ok(())
}

/// Notes that the record under `key` brings references that holders must check.
pub(super) fn log_change(view: &mut dyn WriteView, epoch: u64, key: Vec<u8>) {
    let change = keys::change(view.revision());
    write(view, &change, &ChangeRecord { epoch, key: Bytes::from(key) });
}

/// The segments stop being pending: a root names them from now on.
pub(super) fn adopt_segments(
    view: &mut dyn WriteView,
    bucket: BucketId,
    manifest: ManifestId,
) -> Result<(), Fault> {
    let key = keys::pending(bucket, manifest);
    if view.get(&key)?.is_none() {
        return Err(Refused::NoSuchManifest.into());
    }
    view.delete(&key);
    Ok(())
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Delete {
    pub bucket: BucketId,
    pub keys: Vec<(ObjectKey, WriteConditions)>,
}

/// What became of one key of a delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Removal {
    Removed,
    /// There was nothing; S3 calls that success.
    Absent,
    Condition(crate::conditions::FailedCondition),
    /// With versioning: a delete marker is the newest version now.
    Marked {
        version: VersionId,
        existed: bool,
    },
}

fn delete(view: &mut dyn WriteView, input: Delete) -> Result<Vec<Removal>, Fault> {
    let mut open = None;
    for (key, _) in &input.keys {
        open = Some(open_bucket(view, input.bucket, key.as_bytes())?);
    }
    let Some(open) = open else { return Ok(Vec::new()) };
    let mut removals = Vec::with_capacity(input.keys.len());
    for (key, conditions) in &input.keys {
        let current_key = keys::current(input.bucket, key.as_bytes());
        let current: Option<CurrentRecord> = read(view, &current_key)?;
        let checked = conditions.check(current.as_ref().map(|c| &c.etag));
        removals.push(match (checked, current) {
            (Err(failed), _) => Removal::Condition(failed),
            (Ok(()), current) if open.versioning != Versioning::Unset => {
                let (marker, existed) = (delete_marker(view), current.is_some());
                let written = put_newest(view, open, input.bucket, key.as_bytes(), current, marker)?;
                Removal::Marked { version: written.version.unwrap_or(VersionId::Null), existed }
            }
            (Ok(()), None) => Removal::Absent,
            (Ok(()), Some(current)) => {
                remove_current(view, input.bucket, key.as_bytes(), &current)?;
                if !is_broken(Broken::CurrentLeft) {
                    view.delete(&current_key);
                }
                Removal::Removed
            }
        });
    }
    Ok(removals)
}

/// One segment of a manifest whose root comes later.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PutSegment {
    pub bucket: BucketId,
    /// Of the object or upload that the root will belong to: says which shard.
    pub key: ObjectKey,
    pub manifest: ManifestId,
    pub number: u32,
    pub epoch: u64,
    pub chunks: Vec<ChunkRef>,
}

fn put_segment(view: &mut dyn WriteView, input: PutSegment) -> Result<(), Fault> {
    open_bucket(view, input.bucket, input.key.as_bytes())?;
    let epoch = check_epoch(view, input.epoch)?;
    let pending_key = keys::pending(input.bucket, input.manifest);
    let pending: Option<PendingRecord> = read(view, &pending_key)?;
    if pending.is_none() && input.number > 0 {
        // Swept in between: the earlier segments are gone, the put must start over.
        return Err(Refused::NoSuchManifest.into());
    }
    // Stamped again since: then the whole manifest was.
    let stamped = pending.map_or(input.epoch, |pending| pending.epoch.max(input.epoch));
    write(view, &pending_key, &PendingRecord { epoch: stamped });
    let key = keys::segment(input.bucket, input.manifest, input.number);
    write(view, &key, &SegmentRecord { chunks: input.chunks });
    log_change(view, epoch, key);
    Ok(())
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Get {
    pub bucket: BucketId,
    pub key: ObjectKey,
    /// Bring inline bytes along; a HEAD doesn't want them.
    pub content: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Got {
    pub revision: Revision,
    pub version: VersionRecord,
    pub inline: Option<Bytes>,
}

/// What lies under a key. The first two are encoded as the `Option` that programs before
/// versions wrote and read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Found {
    Nothing,
    Object(Got),
    /// The same, in a bucket whose versions are told.
    Versioned(Got),
    /// A delete marker.
    Marker {
        version: VersionId,
        modified: WallTime,
    },
}

/// The newest version, with its inline bytes.
fn get(view: &dyn ReadView, input: Get) -> Result<Found, Fault> {
    let (bucket, key) = (input.bucket, input.key.as_bytes());
    let descriptor = live_bucket(view, bucket)?;
    if !descriptor.owns(key) {
        return Err(Refused::WrongShard.into());
    }
    let versioned = descriptor.versioning != Versioning::Unset;
    // By way of the current record: two point reads, which filters answer fast, where a
    // scan for the newest version would touch every level of the store.
    let Some(current) = read::<CurrentRecord>(view, &keys::current(bucket, key))? else {
        let newest = if versioned { newest(view, bucket, key)? } else { None };
        return Ok(newest.map_or(Found::Nothing, |(revision, marker)| Found::Marker {
            version: marker.id(revision),
            modified: marker.modified,
        }));
    };
    let revision = current.revision;
    let version_key = keys::at_revision(keys::VERSION, bucket, key, revision);
    let Some(version) = read::<VersionRecord>(view, &version_key)? else { return Ok(Found::Nothing) };
    let inline = inline_of(view, bucket, key, revision, &version, input.content)?;
    let got = Got { revision, version, inline };
    Ok(if versioned { Found::Versioned(got) } else { Found::Object(got) })
}

/// A version's bytes, if they lie beside it and are wanted.
pub(super) fn inline_of(
    view: &dyn ReadView,
    bucket: BucketId,
    key: &[u8],
    revision: Revision,
    version: &VersionRecord,
    wanted: bool,
) -> Result<Option<Bytes>, StoreError> {
    match version.content.manifest {
        Manifest::Inline if wanted => view.get(&keys::at_revision(keys::INLINE, bucket, key, revision)),
        _ => Ok(None),
    }
}

/// Segments of one manifest, from a number on.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Segments {
    pub bucket: BucketId,
    pub manifest: ManifestId,
    pub from: u32,
    pub limit: u32,
}

fn segments(view: &dyn ReadView, input: Segments) -> Result<Vec<SegmentRecord>, Fault> {
    let prefix = keys::segments(input.bucket, input.manifest);
    let start = keys::segment(input.bucket, input.manifest, input.from);
    let mut found = Vec::new();
    for pair in scan_from(view, Bound::Included(&start), &prefix).take(input.limit as usize) {
        found.push(decode(&pair?.1)?);
    }
    Ok(found)
}

/// Deletes a manifest's segments; how many there were.
pub(super) fn delete_segments(
    view: &mut dyn WriteView,
    bucket: BucketId,
    manifest: ManifestId,
) -> Result<usize, StoreError> {
    let mut found = Vec::new();
    for pair in scan(view, &keys::segments(bucket, manifest)) {
        found.push(pair?.0);
    }
    for key in &found {
        view.delete(key);
    }
    Ok(found.len())
}

#[cfg(test)]
#[path = "object_tests.rs"]
mod tests;
