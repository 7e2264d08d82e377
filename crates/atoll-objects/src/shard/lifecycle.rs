//! What a lifecycle's round does in a shard. Everything is decided again here: between the
//! listing that found something due and this command, somebody may have written.

use std::time::Duration;

use atoll_records::WriteView;
use atoll_types::{Revision, WallTime};
use serde::{Deserialize, Serialize};

use super::{
    CommandName, Fault, keys,
    object::remove_current,
    open_bucket, read,
    records::{CurrentRecord, SweepRecord},
    scan,
    version::{delete_marker, find, newest, put_newest, remove_version},
    write,
};
use crate::{
    names::{BucketId, ObjectKey, VersionId},
    request::Versioning,
};

pub const CLAIM: CommandName<Claim, bool> = CommandName::new("objects/lifecycle-claim/1", claim);
pub const EXPIRE: CommandName<ExpireMany, Vec<bool>> = CommandName::new("objects/expire/1", expire);

/// In shard 0: one node has the round to do, if the last was begun long enough ago. If it
/// stops half-way, the next round does the rest.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Claim {
    pub interval: Duration,
}

fn claim(view: &mut dyn WriteView, input: Claim) -> Result<bool, Fault> {
    let last: Option<SweepRecord> = read(view, &keys::LAST_LIFECYCLE)?;
    let begun: WallTime = view.stamp();
    if last.is_some_and(|last| begun.saturating_since(last.begun) < input.interval) {
        return Ok(false);
    }
    let epoch = last.map_or(0, |last| last.epoch) + 1;
    write(view, &keys::LAST_LIFECYCLE, &SweepRecord { begun, epoch });
    Ok(true)
}

/// What is to go, and what must still be so.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Expire {
    /// The object, if nobody has written since: as a delete without a version does it.
    Current(Revision),
    /// A version, unless it is the newest by now.
    Noncurrent(VersionId),
    /// A delete marker, if no other version of its key is left.
    LoneMarker(VersionId),
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ExpireMany {
    pub bucket: BucketId,
    pub items: Vec<(ObjectKey, Expire)>,
}

/// Of each, whether it went.
fn expire(view: &mut dyn WriteView, input: ExpireMany) -> Result<Vec<bool>, Fault> {
    let bucket = input.bucket;
    let mut gone = Vec::with_capacity(input.items.len());
    for (key, item) in &input.items {
        let key = key.as_bytes();
        let open = open_bucket(view, bucket, key)?;
        gone.push(match *item {
            Expire::Current(revision) => {
                let current_key = keys::current(bucket, key);
                match read::<CurrentRecord>(view, &current_key)? {
                    Some(current) if current.revision == revision => {
                        if open.versioning == Versioning::Unset {
                            remove_current(view, bucket, key, &current)?;
                            view.delete(&current_key);
                        } else {
                            let marker = delete_marker(view);
                            put_newest(view, open, bucket, key, Some(current), marker)?;
                        }
                        true
                    }
                    _ => false,
                }
            }
            Expire::Noncurrent(id) => match find(view, bucket, key, id)? {
                Some((revision, record))
                    if newest(view, bucket, key)?.is_some_and(|(newest, _)| newest != revision) =>
                {
                    remove_version(view, bucket, key, revision, &record)?;
                    true
                }
                _ => false,
            },
            Expire::LoneMarker(id) => match find(view, bucket, key, id)? {
                Some((revision, record)) if record.delete_marker => {
                    let all = keys::of_key(keys::VERSION, bucket, key);
                    let alone = scan(view, &all).take(2).count() == 1;
                    if alone {
                        remove_version(view, bucket, key, revision, &record)?;
                    }
                    alone
                }
                _ => false,
            },
        });
    }
    Ok(gone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::{
        bucket,
        fake::{BUCKET, FakeShard, inline, key},
        object,
    };

    fn expire_one(shard: &mut FakeShard, item: Expire) -> bool {
        let items = vec![(key(b"k"), item)];
        shard.execute(&EXPIRE, ExpireMany { bucket: BUCKET, items }).unwrap()[0]
    }

    fn delete(shard: &mut FakeShard) -> VersionId {
        let keys = vec![(key(b"k"), Default::default())];
        match shard.execute(&object::DELETE, object::Delete { bucket: BUCKET, keys }).unwrap()[0] {
            object::Removal::Marked { version, .. } => version,
            _ => VersionId::Null,
        }
    }

    #[test]
    fn an_object_that_was_written_again_meanwhile_stays() {
        let mut shard = FakeShard::new();
        let first = shard.put(b"k", inline("one")).unwrap();
        let second = shard.put(b"k", inline("two")).unwrap();
        assert!(!expire_one(&mut shard, Expire::Current(first.revision)));
        assert!(expire_one(&mut shard, Expire::Current(second.revision)));
        assert!(!expire_one(&mut shard, Expire::Current(second.revision)));
        assert_eq!(shard.records.len(), 1);
    }

    #[test]
    fn with_versions_an_object_gets_a_marker_and_only_what_is_not_the_newest_goes_for_good() {
        let mut shard = FakeShard::new();
        let versioning = Versioning::Enabled;
        shard.execute(&bucket::SET_VERSIONING, bucket::SetVersioning { bucket: BUCKET, versioning }).unwrap();
        let first = shard.put(b"k", inline("one")).unwrap();
        let old = Expire::Noncurrent(first.version.unwrap());
        assert!(!expire_one(&mut shard, old));
        assert!(expire_one(&mut shard, Expire::Current(first.revision)));
        let marker = crate::shard::version::newest(&shard, BUCKET, b"k").unwrap().unwrap();
        let lone = Expire::LoneMarker(marker.1.id(marker.0));
        assert!(!expire_one(&mut shard, lone));
        assert!(expire_one(&mut shard, old));
        assert!(expire_one(&mut shard, lone));
        let marker = delete(&mut shard);
        shard.put(b"k", inline("again")).unwrap();
        assert!(!expire_one(&mut shard, Expire::LoneMarker(marker)));
    }

    #[test]
    fn one_claims_a_round() {
        let mut shard = FakeShard::default();
        let claim = |shard: &mut FakeShard| {
            shard.execute(&CLAIM, Claim { interval: Duration::from_millis(1500) }).unwrap()
        };
        // A revision of the twin takes a second.
        assert!(claim(&mut shard));
        assert!(!claim(&mut shard));
        assert!(claim(&mut shard));
    }
}
