//! Listings: a page is one query. It walks the keys in order and, where a delimiter
//! rolls keys up, seeks past everything under the common prefix, so a page costs what it
//! shows and not what it skips.

use std::ops::Bound;

use atoll_records::ReadView;
use atoll_runtime::{Broken, is_broken};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    Fault, QueryName, decode, keys, live_bucket,
    records::{CurrentRecord, UploadRecord},
};
use crate::{
    names::{BucketId, ObjectKey, UploadId},
    object::ListEntry,
    request::{UploadInfo, UploadPage},
};

pub const OBJECTS: QueryName<List, Listed> = QueryName::new("objects/list/1", objects);
pub const UPLOADS: QueryName<UploadList, UploadPage> = QueryName::new("objects/uploads/1", uploads);

/// S3's page limit; more is cut to it. 1,000 entries of up to 1,100 bytes stay near 1 MiB.
pub const PAGE_LIMIT_MAX: usize = 1000;

/// How many neighbours a walk steps over before it seeks past a common prefix: a seek
/// costs some ten steps, and most folders of few files are passed without one.
const STEPS_BEFORE_SEEK: usize = 8;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct List {
    pub bucket: BucketId,
    pub prefix: Bytes,
    pub delimiter: Option<Bytes>,
    pub start_after: Option<Bytes>,
    pub limit: u32,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    pub entries: Vec<ListEntry>,
    pub common_prefixes: Vec<Bytes>,
    /// The last key or common prefix shown, if there is more after it.
    pub next: Option<Bytes>,
}

/// What a walk meets next.
pub(super) enum Met<'a> {
    /// A key, what follows its end mark in the store, and the record.
    Key {
        key: &'a [u8],
        rest: &'a [u8],
        value: &'a Bytes,
    },
    CommonPrefix(&'a [u8]),
}

/// Where a walk begins.
pub(super) enum Start<'a> {
    First,
    /// After everything of this key, and after a common prefix if it is one.
    After(&'a [u8]),
    /// After this very store key.
    AfterRecord(Vec<u8>),
    /// At this store key, or the next.
    FromRecord(Vec<u8>),
}

/// The common prefix that `key` is rolled up to.
fn common_prefix<'k>(key: &'k [u8], prefix: &[u8], delimiter: Option<&[u8]>) -> Option<&'k [u8]> {
    let delimiter = delimiter.filter(|delimiter| !delimiter.is_empty())?;
    let rest = key.strip_prefix(prefix)?;
    let at = rest.windows(delimiter.len()).position(|window| window == delimiter)?;
    Some(&key[..prefix.len() + at + delimiter.len()])
}

/// Walks all keys with `prefix` under `tag` until `visit` says false.
pub(super) fn walk(
    view: &dyn ReadView,
    tag: [u8; 2],
    bucket: BucketId,
    prefix: &[u8],
    delimiter: Option<&[u8]>,
    start: Start<'_>,
    mut visit: impl FnMut(Met<'_>) -> Result<bool, Fault>,
) -> Result<(), Fault> {
    let base = keys::with_prefix(tag, bucket, prefix);
    let Some(end) = keys::after_prefix(base.clone()) else { return Ok(()) };
    let key_at = keys::of_bucket(tag, bucket).len();
    let mut from = match start {
        Start::First => Bound::Included(base),
        Start::After(key) => {
            let rolled = common_prefix(key, prefix, delimiter) == Some(key);
            let passed =
                if rolled { keys::with_prefix(tag, bucket, key) } else { keys::of_key(tag, bucket, key) };
            match keys::after_prefix(passed) {
                // A start before the prefix changes nothing.
                Some(passed) => Bound::Included(passed.max(base)),
                None => return Ok(()),
            }
        }
        // A start before the prefix changes nothing, and skips nothing.
        Start::AfterRecord(record) if record < base => Bound::Included(base),
        Start::AfterRecord(record) => Bound::Excluded(record),
        Start::FromRecord(record) => Bound::Included(record.max(base)),
    };
    'seek: loop {
        let start = match &from {
            Bound::Included(key) if *key >= end => return Ok(()),
            Bound::Excluded(key) if *key >= end => return Ok(()),
            Bound::Included(key) => Bound::Included(&key[..]),
            Bound::Excluded(key) => Bound::Excluded(&key[..]),
            Bound::Unbounded => Bound::Unbounded,
        };
        // The common prefix just shown, and how many keys under it were stepped over.
        let mut inside: Option<(Vec<u8>, usize)> = None;
        for pair in view.range(start, Bound::Excluded(&end)) {
            let (store_key, value) = pair?;
            let escaped = store_key.get(key_at..).ok_or_else(malformed_key)?;
            let (key, rest) = keys::unescape(escaped).ok_or_else(malformed_key)?;
            if let Some((shown, steps)) = &mut inside {
                if key.starts_with(shown) {
                    *steps += 1;
                    if *steps < STEPS_BEFORE_SEEK {
                        continue;
                    }
                    match keys::after_prefix(keys::with_prefix(tag, bucket, shown)) {
                        Some(after) => from = Bound::Included(after),
                        None => return Ok(()),
                    }
                    continue 'seek;
                }
                inside = None;
            }
            match common_prefix(&key, prefix, delimiter) {
                Some(rolled) => {
                    if !visit(Met::CommonPrefix(rolled))? {
                        return Ok(());
                    }
                    inside = Some((rolled.to_vec(), 0));
                }
                None => {
                    if !visit(Met::Key { key: &key, rest, value: &value })? {
                        return Ok(());
                    }
                }
            }
        }
        return Ok(());
    }
}

pub(super) fn malformed_key() -> Fault {
    Fault::Store(atoll_disk::StoreError {
        operation: "read a key of a listing",
        source: "a key without its end mark, or without what follows it".into(),
    })
}

pub(super) fn object_key(key: &[u8]) -> Result<ObjectKey, Fault> {
    ObjectKey::new(Bytes::copy_from_slice(key)).map_err(|error| {
        Fault::Store(atoll_disk::StoreError { operation: "read a key of a listing", source: Box::new(error) })
    })
}

fn objects(view: &dyn ReadView, input: List) -> Result<Listed, Fault> {
    live_bucket(view, input.bucket)?;
    let limit = (input.limit as usize).min(PAGE_LIMIT_MAX);
    let mut page = Listed::default();
    if limit == 0 {
        return Ok(page);
    }
    let start = input.start_after.as_deref().map_or(Start::First, Start::After);
    let mut last = Bytes::new();
    let delimiter = input.delimiter.as_deref();
    walk(view, keys::CURRENT, input.bucket, &input.prefix, delimiter, start, |met| {
        if page.entries.len() + page.common_prefixes.len() == limit {
            page.next = Some(last.clone());
            if let Met::Key { key, .. } = met
                && is_broken(Broken::ListBorder)
            {
                page.next = Some(Bytes::copy_from_slice(key));
            }
            return Ok(false);
        }
        match met {
            Met::Key { key, value, .. } => {
                let record: CurrentRecord = decode(value)?;
                let key = object_key(key)?;
                last = key.clone().into_bytes();
                let CurrentRecord { size, etag, modified, .. } = record;
                page.entries.push(ListEntry { key, size, etag, modified });
            }
            Met::CommonPrefix(rolled) => {
                last = Bytes::copy_from_slice(rolled);
                page.common_prefixes.push(last.clone());
            }
        }
        Ok(true)
    })?;
    Ok(page)
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UploadList {
    pub bucket: BucketId,
    pub prefix: Bytes,
    pub delimiter: Option<Bytes>,
    pub after: Option<(Bytes, Option<UploadId>)>,
    pub limit: u32,
}

fn uploads(view: &dyn ReadView, input: UploadList) -> Result<UploadPage, Fault> {
    live_bucket(view, input.bucket)?;
    let limit = (input.limit as usize).min(PAGE_LIMIT_MAX);
    let mut page = UploadPage::default();
    if limit == 0 {
        return Ok(page);
    }
    let start = match &input.after {
        None => Start::First,
        Some((key, None)) => Start::After(key),
        Some((key, Some(upload))) => Start::AfterRecord(keys::upload(input.bucket, key, *upload)),
    };
    let mut last = None;
    let delimiter = input.delimiter.as_deref();
    walk(view, keys::UPLOAD, input.bucket, &input.prefix, delimiter, start, |met| {
        if page.uploads.len() + page.common_prefixes.len() == limit {
            page.next = last.clone();
            return Ok(false);
        }
        match met {
            Met::Key { key, rest, value } => {
                let id = <[u8; 16]>::try_from(rest).map_err(|error| {
                    Fault::Store(atoll_disk::StoreError {
                        operation: "read an upload's id",
                        source: Box::new(error),
                    })
                })?;
                let upload = UploadId(atoll_types::TransactionId(id));
                let UploadRecord { initiated, checksum, .. } = decode(value)?;
                let key = object_key(key)?;
                last = Some((key.clone().into_bytes(), Some(upload)));
                page.uploads.push(UploadInfo { key, upload, initiated, checksum });
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
#[path = "list_tests.rs"]
mod tests;
