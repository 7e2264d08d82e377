//! Versions: what a bucket's versioning makes of a write, and getting, deleting and
//! listing versions by their ids.
//!
//! A key's newest version is the first under `ov`, and what `oc` names if it is no delete
//! marker. At most one version is the `null` one: the newest, or the one that `oz` names.
//! A bucket whose versioning nobody has touched has `null` versions only, one a key, and
//! no record here that programs before versions would not have written.

use atoll_disk::StoreError;
use atoll_records::{ReadView, WriteView};
use atoll_types::Revision;
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    CommandName, Fault, OpenBucket, QueryName, Refused, decode, keys,
    list::{self, Met, PAGE_LIMIT_MAX, Start, object_key, walk},
    live_bucket,
    object::{Found, Got, drop_manifest, inline_of},
    open_bucket, read,
    records::{CurrentRecord, NumberRecord, VersionRecord, Written},
    scan, write,
};
use crate::{
    conditions::{FailedCondition, WriteConditions},
    manifest::{Manifest, Sealable},
    names::{BucketId, ObjectKey, VersionId},
    object::{ETag, ObjectHeaders},
    request::{VersionEntry, VersionPage, Versioning},
};

pub const GET: QueryName<GetVersion, Found> = QueryName::new("objects/get-version/1", get);
pub const LIST: QueryName<VersionList, VersionPage> = QueryName::new("objects/list-versions/1", list);
pub const DELETE: CommandName<DeleteVersions, Vec<VersionRemoval>> =
    CommandName::new("objects/delete-version/1", delete);

impl VersionRecord {
    /// The id of the version that lies at `revision`.
    pub fn id(&self, revision: Revision) -> VersionId {
        if self.null { VersionId::Null } else { VersionId::At(revision) }
    }

    fn current(&self, revision: Revision) -> CurrentRecord {
        CurrentRecord {
            revision,
            size: self.size,
            etag: self.etag,
            modified: self.modified,
            storage: self.content.manifest.storage(),
        }
    }
}

/// A version that says: deleted.
pub(super) fn delete_marker(view: &dyn WriteView) -> VersionRecord {
    VersionRecord {
        size: 0,
        etag: ETag { md5: [0; 16], parts: 0 },
        modified: view.stamp(),
        null: false,
        delete_marker: true,
        headers: ObjectHeaders::default(),
        checksum: None,
        content: Sealable::plain(Manifest::Inline),
    }
}

/// A key's newest version, delete markers included.
pub(super) fn newest(
    view: &(impl ReadView + ?Sized),
    bucket: BucketId,
    key: &[u8],
) -> Result<Option<(Revision, VersionRecord)>, StoreError> {
    let Some(pair) = scan(view, &keys::of_key(keys::VERSION, bucket, key)).next() else { return Ok(None) };
    let (store_key, value) = pair?;
    let revision = keys::revision_of(&store_key).unwrap_or_default();
    Ok(Some((revision, decode(&value)?)))
}

/// Where a key's `null` version lies.
fn null_revision(
    view: &(impl ReadView + ?Sized),
    bucket: BucketId,
    key: &[u8],
) -> Result<Option<Revision>, StoreError> {
    if let Some(NumberRecord(revision)) = read(view, &keys::null_version(bucket, key))? {
        return Ok(Some(Revision(revision)));
    }
    Ok(newest(view, bucket, key)?.filter(|(_, record)| record.null).map(|(revision, _)| revision))
}

/// The version that `id` names. The `null` version has no other name.
pub(super) fn find(
    view: &(impl ReadView + ?Sized),
    bucket: BucketId,
    key: &[u8],
    id: VersionId,
) -> Result<Option<(Revision, VersionRecord)>, StoreError> {
    let revision = match id {
        VersionId::At(revision) => revision,
        VersionId::Null => match null_revision(view, bucket, key)? {
            Some(revision) => revision,
            None => return Ok(None),
        },
    };
    let record: Option<VersionRecord> = read(view, &keys::at_revision(keys::VERSION, bucket, key, revision))?;
    Ok(record.filter(|record| record.id(revision) == id).map(|record| (revision, record)))
}

/// Makes `version`, a delete marker or not, the newest of `key`. What was before stays or
/// goes as the bucket's versioning has it.
pub(super) fn put_newest(
    view: &mut dyn WriteView,
    open: OpenBucket,
    bucket: BucketId,
    key: &[u8],
    before: Option<CurrentRecord>,
    mut version: VersionRecord,
) -> Result<Written, StoreError> {
    let OpenBucket { versioning, revision, .. } = open;
    match versioning {
        Versioning::Unset => {
            if let Some(before) = before {
                super::object::remove_current(view, bucket, key, &before)?;
            }
        }
        Versioning::Enabled => {
            if let Some((revision, record)) = newest(view, bucket, key)?
                && record.null
            {
                write(view, &keys::null_version(bucket, key), &NumberRecord(revision.0));
            }
        }
        Versioning::Suspended => {
            if let Some(revision) = null_revision(view, bucket, key)? {
                remove(view, bucket, key, revision)?;
                view.delete(&keys::null_version(bucket, key));
            }
        }
    }
    version.null = versioning != Versioning::Enabled;
    let current_key = keys::current(bucket, key);
    if version.delete_marker {
        view.delete(&current_key);
    } else {
        write(view, &current_key, &version.current(revision));
    }
    write(view, &keys::at_revision(keys::VERSION, bucket, key, revision), &version);
    Ok(Written {
        revision,
        modified: version.modified,
        size: version.size,
        etag: version.etag,
        version: (versioning != Versioning::Unset).then(|| version.id(revision)),
        // Who wrote a sealed one knows it; others could not read it.
        checksum: version.checksum.filter(|_| version.content.seal.is_none()),
    })
}

/// Deletes the version at `revision` with everything that it alone names.
fn remove(
    view: &mut dyn WriteView,
    bucket: BucketId,
    key: &[u8],
    revision: Revision,
) -> Result<(), StoreError> {
    let version_key = keys::at_revision(keys::VERSION, bucket, key, revision);
    if let Some(record) = read::<VersionRecord>(view, &version_key)? {
        drop_manifest(view, bucket, &record.content.manifest)?;
    }
    view.delete(&keys::at_revision(keys::INLINE, bucket, key, revision));
    view.delete(&version_key);
    Ok(())
}

/// Deletes one version for good; if it was the newest, the one before it is seen again.
pub(super) fn remove_version(
    view: &mut dyn WriteView,
    bucket: BucketId,
    key: &[u8],
    revision: Revision,
    record: &VersionRecord,
) -> Result<(), StoreError> {
    let was_newest = newest(view, bucket, key)?.is_some_and(|(newest, _)| newest == revision);
    remove(view, bucket, key, revision)?;
    if record.null {
        view.delete(&keys::null_version(bucket, key));
    }
    if was_newest {
        let current_key = keys::current(bucket, key);
        match newest(view, bucket, key)? {
            Some((revision, record)) if !record.delete_marker => {
                write(view, &current_key, &record.current(revision));
            }
            _ => view.delete(&current_key),
        }
    }
    Ok(())
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeleteVersions {
    pub bucket: BucketId,
    /// The conditions are on the version named.
    pub versions: Vec<(ObjectKey, VersionId, WriteConditions)>,
}

/// What became of one version of a delete.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum VersionRemoval {
    Removed { marker: bool },
    Absent,
    Condition(FailedCondition),
}

fn delete(view: &mut dyn WriteView, input: DeleteVersions) -> Result<Vec<VersionRemoval>, Fault> {
    for (key, _, _) in &input.versions {
        open_bucket(view, input.bucket, key.as_bytes())?;
    }
    let mut removals = Vec::with_capacity(input.versions.len());
    for (key, id, conditions) in &input.versions {
        let key = key.as_bytes();
        let found = find(view, input.bucket, key, *id)?;
        let etag = found.as_ref().filter(|(_, record)| !record.delete_marker).map(|(_, record)| &record.etag);
        removals.push(match (conditions.check(etag), &found) {
            (Err(failed), _) => VersionRemoval::Condition(failed),
            (Ok(()), None) => VersionRemoval::Absent,
            (Ok(()), Some((revision, record))) => {
                remove_version(view, input.bucket, key, *revision, record)?;
                VersionRemoval::Removed { marker: record.delete_marker }
            }
        });
    }
    Ok(removals)
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GetVersion {
    pub bucket: BucketId,
    pub key: ObjectKey,
    pub version: VersionId,
    /// Bring inline bytes along.
    pub content: bool,
}

fn get(view: &dyn ReadView, input: GetVersion) -> Result<Found, Fault> {
    let (bucket, key) = (input.bucket, input.key.as_bytes());
    let descriptor = live_bucket(view, bucket)?;
    if !descriptor.owns(key) {
        return Err(Refused::WrongShard.into());
    }
    let (revision, version) = find(view, bucket, key, input.version)?.ok_or(Refused::NoSuchVersion)?;
    if version.delete_marker {
        return Ok(Found::Marker { version: version.id(revision), modified: version.modified });
    }
    let inline = inline_of(view, bucket, key, revision, &version, input.content)?;
    let got = Got { revision, version, inline };
    Ok(if descriptor.versioning == Versioning::Unset { Found::Object(got) } else { Found::Versioned(got) })
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct VersionList {
    pub bucket: BucketId,
    pub prefix: Bytes,
    pub delimiter: Option<Bytes>,
    /// Only versions of keys after this one, or older ones of this key.
    pub after: Option<(Bytes, Option<VersionId>)>,
    pub limit: u32,
}

/// Newest first within a key, as they lie.
fn list(view: &dyn ReadView, input: VersionList) -> Result<VersionPage, Fault> {
    live_bucket(view, input.bucket)?;
    let limit = (input.limit as usize).min(PAGE_LIMIT_MAX);
    let mut page = VersionPage::default();
    if limit == 0 {
        return Ok(page);
    }
    // A key of which something newer was on the page before.
    let mut begun: Option<Vec<u8>> = None;
    let start = match &input.after {
        None => Start::First,
        Some((key, None)) => Start::After(key),
        Some((key, Some(id))) => {
            let revision = match id {
                VersionId::At(revision) => Some(*revision),
                VersionId::Null => null_revision(view, input.bucket, key)?,
            };
            match revision {
                Some(revision) => {
                    begun = Some(key.to_vec());
                    Start::AfterRecord(keys::at_revision(keys::VERSION, input.bucket, key, revision))
                }
                // The `null` version is gone, and with it the place: rather the key's
                // other versions twice than not at all.
                None => Start::FromRecord(keys::of_key(keys::VERSION, input.bucket, key)),
            }
        }
    };
    let mut last = None;
    let delimiter = input.delimiter.as_deref();
    walk(view, keys::VERSION, input.bucket, &input.prefix, delimiter, start, |met| {
        if page.versions.len() + page.common_prefixes.len() == limit {
            page.next = last.clone();
            return Ok(false);
        }
        match met {
            Met::Key { key, rest, value } => {
                let revision = keys::revision_of(rest).ok_or_else(list::malformed_key)?;
                let record: VersionRecord = decode(value)?;
                let latest = begun.as_deref() != Some(key);
                begun = Some(key.to_vec());
                let (key, version) = (object_key(key)?, record.id(revision));
                last = Some((key.clone().into_bytes(), Some(version)));
                let VersionRecord { size, etag, modified, delete_marker, .. } = record;
                page.versions.push(VersionEntry {
                    key,
                    version,
                    revision,
                    latest,
                    delete_marker,
                    size,
                    etag,
                    modified,
                });
            }
            Met::CommonPrefix(rolled) => {
                let rolled = Bytes::copy_from_slice(rolled);
                last = Some((rolled.clone(), None));
                page.common_prefixes.push(rolled);
            }
        }
        Ok(true)
    })?;
    Ok(page)
}

#[cfg(test)]
#[path = "version_tests.rs"]
mod tests;
