//! The log of changes, and the query by which caches follow it.

use std::ops::Bound;

use atoll_disk::StoreError;
use atoll_records::{Query, ReadView, WriteView};
use atoll_types::{Format, FormatError};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::names;

pub(crate) const CHANGES: &str = "access/changes/1";

/// Lines of records that are gone, kept for caches that slept: so many, and up to twice as
/// many. Who slept longer gets everything anew.
pub(super) const GONE_MAX: usize = 1024;

/// A page ends after this: a policy is 20 KiB at most, and a header of a frame holds less
/// than a body; 256 KiB is a thousand keys.
const PAGE_BYTES_MAX: usize = 256 << 10;

pub(super) fn version(view: &dyn ReadView) -> Result<u64, StoreError> {
    number(view, names::VERSION)
}

pub(super) fn is_kept(view: &dyn ReadView) -> Result<bool, StoreError> {
    Ok(view.get(names::FORMAT)?.is_some())
}

fn number(view: &dyn ReadView, key: &[u8]) -> Result<u64, StoreError> {
    Ok(view.get(key)?.and_then(|bytes| bytes.as_ref().try_into().ok()).map_or(0, u64::from_be_bytes))
}

fn big_endian(number: u64) -> Bytes {
    Bytes::copy_from_slice(&number.to_be_bytes())
}

/// Writes a record, and notes that.
pub(super) fn put(view: &mut dyn WriteView, name: &[u8], bytes: Vec<u8>) -> Result<(), StoreError> {
    if is_kept(view)? && view.get(name)?.is_none() && view.get(&names::of(names::LINE_OF, name))?.is_some() {
        let gone = number(view, names::GONE)?;
        view.put(names::GONE, big_endian(gone.saturating_sub(1)));
    }
    view.put(name, bytes.into());
    note(view, name)
}

/// Deletes a record, and notes that if it was there.
pub(super) fn delete(view: &mut dyn WriteView, name: &[u8]) -> Result<(), StoreError> {
    if view.get(name)?.is_none() && is_kept(view)? {
        return Ok(());
    }
    view.delete(name);
    note(view, name)?;
    if !is_kept(view)? {
        return Ok(());
    }
    let gone = number(view, names::GONE)? + 1;
    view.put(names::GONE, big_endian(gone));
    // Looking through all lines is worth while for many at once.
    if gone >= 2 * GONE_MAX as u64 { trim(view) } else { Ok(()) }
}

pub(super) fn note(view: &mut dyn WriteView, name: &[u8]) -> Result<(), StoreError> {
    let next = version(view)? + 1;
    view.put(names::VERSION, big_endian(next));
    if !is_kept(view)? {
        return Ok(());
    }
    let line_of = names::of(names::LINE_OF, name);
    if let Some(before) = view.get(&line_of)? {
        view.delete(&names::of(names::LOG, &before));
    }
    view.put(&line_of, big_endian(next));
    view.put(&names::of(names::LOG, &next.to_be_bytes()), Bytes::copy_from_slice(name));
    Ok(())
}

/// Forgets the oldest lines of records that are gone.
fn trim(view: &mut dyn WriteView) -> Result<(), StoreError> {
    let mut gone = Vec::new();
    for pair in view.range(Bound::Included(names::LOG), Bound::Excluded(&names::end(names::LOG))) {
        let (line, name) = pair?;
        if view.get(&name)?.is_none() {
            gone.push((line, name));
        }
    }
    let Some(many) = gone.len().checked_sub(GONE_MAX) else { return Ok(()) };
    view.put(names::GONE, big_endian(GONE_MAX as u64));
    for (line, name) in gone.into_iter().take(many) {
        view.put(names::TRIMMED, Bytes::copy_from_slice(&line[names::LOG.len()..]));
        view.delete(&line);
        view.delete(&names::of(names::LINE_OF, &name));
    }
    Ok(())
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ChangesRequest {
    /// What the asker has; 0 for nothing.
    pub(crate) newer_than: u64,
    /// The newest version there was when the asker last began anew: of what was gone
    /// before then it never heard.
    pub(crate) began_at: u64,
}

impl Format for ChangesRequest {
    const NAME: &'static str = "access changes request";
    const VERSION: u8 = 1;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ChangesReply {
    /// There is no log yet; the asker asks as before.
    NotKept,
    Page {
        /// Forget everything first: what the asker has is too old to be mended.
        anew: bool,
        changed: Vec<Changed>,
        /// What the asker has with this page.
        version: u64,
        /// The newest there is.
        newest: u64,
    },
}

impl Format for ChangesReply {
    const NAME: &'static str = "access changes";
    const VERSION: u8 = 1;
}

/// One record as it is now; `None` if it is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Changed {
    pub(crate) name: Bytes,
    pub(crate) value: Option<Bytes>,
}

pub(super) struct TellChanges;

impl Query for TellChanges {
    fn run(&self, view: &dyn ReadView, input: &[u8]) -> Result<Vec<u8>, StoreError> {
        Ok(tell(view, input)?.encode())
    }
}

fn tell(view: &dyn ReadView, input: &[u8]) -> Result<ChangesReply, StoreError> {
    if !is_kept(view)? {
        return Ok(ChangesReply::NotKept);
    }
    // A request that does not decode comes from a newer program: give it everything.
    let request = ChangesRequest::decode(input).unwrap_or(ChangesRequest { newer_than: 0, began_at: 0 });
    let mut known = request.newer_than;
    let newest = version(view)?;
    let trimmed = number(view, names::TRIMMED)?;
    // A version from the future is of another cluster's life: one that was set back.
    let anew = known == 0 || known.max(request.began_at) < trimmed || known > newest;
    if anew {
        known = 0;
    }
    let (start, end) = (names::of(names::LOG, &known.to_be_bytes()), names::end(names::LOG));
    let mut changed = Vec::new();
    let mut bytes = 0;
    let mut version = known;
    for pair in view.range(Bound::Excluded(&start), Bound::Excluded(&end)) {
        if bytes >= PAGE_BYTES_MAX {
            return Ok(ChangesReply::Page { anew, changed, version, newest });
        }
        let (line, name) = pair?;
        version = line_version(&line)?;
        let value = view.get(&name)?;
        bytes += name.len() + value.as_ref().map_or(0, Bytes::len) + 16;
        changed.push(Changed { name, value });
    }
    Ok(ChangesReply::Page { anew, changed, version: newest, newest })
}

fn line_version(line: &[u8]) -> Result<u64, StoreError> {
    let malformed = || FormatError::Malformed { format: "access log" };
    let digits = line.get(names::LOG.len()..).and_then(|digits| digits.try_into().ok());
    digits
        .map(u64::from_be_bytes)
        .ok_or_else(|| StoreError { operation: "decode", source: malformed().into() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Secret, TokenHash,
        records::{
            Act, KeyRecord,
            fake::{Cache, Shard},
            first,
        },
    };

    fn token(number: usize) -> Act {
        Act::PutToken { hash: TokenHash([7; 32]), name: format!("node {number}") }
    }

    #[test]
    fn a_cache_gets_everything_first_and_then_what_changed() {
        let mut shard = Shard::converted();
        shard.act(token(1));
        let mut cache = Cache::default();
        cache.follow(&shard);
        assert!(cache.has("access/token/node 1") && cache.has("access/user/root"));
        shard.act(token(2));
        shard.act(Act::DeleteToken { name: "node 1".into() });
        assert_eq!(cache.follow(&shard), 2, "changes, and nothing else");
        assert!(cache.has("access/token/node 2") && !cache.has("access/token/node 1"));
        assert_eq!(cache.follow(&shard), 0);
    }

    #[test]
    fn a_record_that_changes_often_has_one_line() {
        let mut shard = Shard::converted();
        for _ in 0..50 {
            shard.act(token(1));
        }
        let lines = shard.0.keys().filter(|key| key.starts_with(names::LOG)).count();
        assert_eq!(lines, 2, "root and the token");
    }

    #[test]
    fn large_answers_come_in_pages_that_add_up_whatever_changes_between_them() {
        let mut shard = Shard::converted();
        for number in 0..4000 {
            shard.act(token(number));
        }
        let mut cache = Cache::default();
        assert!(!cache.follow_once(&shard), "one page can't be enough");
        // What the cache was told of goes, what it was not told of goes too.
        for number in (0..4000).step_by(3) {
            shard.act(Act::DeleteToken { name: format!("node {number}") });
        }
        cache.follow(&shard);
        assert_eq!(cache.records, shard.records());
    }

    #[test]
    fn who_slept_through_too_many_deletions_begins_anew() {
        let mut shard = Shard::converted();
        shard.act(token(0));
        let mut cache = Cache::default();
        cache.follow(&shard);
        shard.act(Act::DeleteToken { name: "node 0".into() });
        for number in 1..2 * GONE_MAX {
            shard.act(token(number));
            shard.act(Act::DeleteToken { name: format!("node {number}") });
        }
        let lines = shard.0.keys().filter(|key| key.starts_with(names::LOG)).count();
        assert_eq!(lines, GONE_MAX + 1, "root, and those that are gone");
        cache.follow(&shard);
        assert_eq!(cache.records, shard.records());
        assert!(!cache.has("access/token/node 0"));
    }

    #[test]
    fn what_older_programs_kept_is_converted_once_and_followed_from_then_on() {
        let mut shard = Shard::default();
        let secret = Secret::new("secret-secret");
        shard.change(first::Change::FoundRoot { access_key: "AK".into(), secret: secret.clone() });
        shard.change(first::Change::PutToken { hash: TokenHash([7; 32]), name: "node 1".into() });
        let mut cache = Cache::default();
        assert!(!cache.follow_once(&shard), "there is no log to follow");
        for _ in 0..2 {
            shard.act(Act::Convert);
            cache.follow(&shard);
            assert_eq!(cache.records, shard.records());
        }
        let key = KeyRecord::decode(&cache.records[&b"access/key/AK"[..]]).unwrap();
        assert_eq!((key.user.as_str(), key.secret), ("root", secret));
        assert_eq!(key.rights, crate::Rights::ALL);
        // One that was under way when the version was raised.
        shard.change(first::Change::DeleteKey { access_key: "AK".into() });
        cache.follow(&shard);
        assert!(!cache.has("access/key/AK"));
    }
}
