//! What is set on a bucket besides its versioning, and what changes of its objects in place:
//! their tags and ACLs.

use std::collections::BTreeMap;

use atoll_records::{ReadView, WriteView};
use atoll_types::{Acl, Revision, WallTime};
use serde::{Deserialize, Serialize};

use super::{
    CommandName, Fault, QueryName, Refused, keys, live_bucket, open_bucket, open_descriptor, read,
    records::{CurrentRecord, VersionRecord},
    version::{find, newest},
    write,
};
use crate::{
    names::{BucketId, ObjectKey, VersionId},
    request::{BucketSetting, SettingKind, Versioning},
};

pub const SET: CommandName<Set, ()> = CommandName::new("objects/bucket-set/1", set);
pub const GET: QueryName<Get, Option<BucketSetting>> = QueryName::new("objects/bucket-setting/1", get);
pub const TAG: CommandName<Tag, Tagged> = CommandName::new("objects/tag/1", tag);
pub const SET_ACL: CommandName<SetAcl, Tagged> = CommandName::new("objects/acl/1", set_acl);

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Set {
    pub bucket: BucketId,
    pub kind: SettingKind,
    /// `None` takes it away.
    pub setting: Option<BucketSetting>,
}

fn set(view: &mut dyn WriteView, input: Set) -> Result<(), Fault> {
    open_descriptor(view, input.bucket)?;
    let key = keys::setting(input.bucket, input.kind);
    match input.setting {
        None => view.delete(&key),
        Some(setting) if setting.kind() != input.kind => return Err(Refused::Malformed.into()),
        Some(setting) => write(view, &key, &setting),
    }
    Ok(())
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Get {
    pub bucket: BucketId,
    pub kind: SettingKind,
}

fn get(view: &dyn ReadView, input: Get) -> Result<Option<BucketSetting>, Fault> {
    live_bucket(view, input.bucket)?;
    Ok(read(view, &keys::setting(input.bucket, input.kind))?)
}

/// Replaces the tags of a version, which stays what it was otherwise.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Tag {
    pub bucket: BucketId,
    pub key: ObjectKey,
    /// The newest, if none is named.
    pub version: Option<VersionId>,
    pub tags: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Tagged {
    Done {
        version: Option<VersionId>,
    },
    NoSuchKey,
    NoSuchVersion,
    Marker {
        version: VersionId,
        modified: WallTime,
    },
    /// Of an ACL: it is not what was looked at any more.
    Changed,
}

fn tag(view: &mut dyn WriteView, input: Tag) -> Result<Tagged, Fault> {
    let Tag { bucket, key, version, tags } = input;
    change(view, bucket, &key, version, |_, record| {
        record.headers.tags = tags;
        true
    })
}

/// Replaces the ACL of a version, which stays what it was otherwise.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SetAcl {
    pub bucket: BucketId,
    pub key: ObjectKey,
    pub version: Option<VersionId>,
    /// What was looked at to decide whether the caller may: of anything else it was not decided.
    pub revision: Revision,
    pub before: Option<Acl>,
    pub acl: Acl,
}

fn set_acl(view: &mut dyn WriteView, input: SetAcl) -> Result<Tagged, Fault> {
    let SetAcl { bucket, key, version, revision, before, acl } = input;
    change(view, bucket, &key, version, |found, record| {
        let same = found == revision && record.headers.acl == before;
        if same {
            record.headers.acl = Some(acl);
        }
        same
    })
}

/// Changes in place what does not make another version.
fn change(
    view: &mut dyn WriteView,
    bucket: BucketId,
    key: &ObjectKey,
    version: Option<VersionId>,
    change: impl FnOnce(Revision, &mut VersionRecord) -> bool,
) -> Result<Tagged, Fault> {
    let key = key.as_bytes();
    let versioning = open_bucket(view, bucket, key)?.versioning;
    let found = match version {
        Some(id) => match find(view, bucket, key, id)? {
            None => return Ok(Tagged::NoSuchVersion),
            found => found,
        },
        None if versioning != Versioning::Unset => newest(view, bucket, key)?,
        None => match read::<CurrentRecord>(view, &keys::current(bucket, key))? {
            None => None,
            Some(current) => {
                let version_key = keys::at_revision(keys::VERSION, bucket, key, current.revision);
                read::<VersionRecord>(view, &version_key)?.map(|record| (current.revision, record))
            }
        },
    };
    let Some((revision, mut record)) = found else { return Ok(Tagged::NoSuchKey) };
    let id = record.id(revision);
    if record.delete_marker {
        return Ok(match version {
            Some(_) => Tagged::Marker { version: id, modified: record.modified },
            None => Tagged::NoSuchKey,
        });
    }
    if !change(revision, &mut record) {
        return Ok(Tagged::Changed);
    }
    write(view, &keys::at_revision(keys::VERSION, bucket, key, revision), &record);
    Ok(Tagged::Done { version: (versioning != Versioning::Unset).then_some(id) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::{
        bucket,
        fake::{BUCKET, FakeShard, inline, key},
    };

    fn tags(text: &str) -> BTreeMap<String, String> {
        BTreeMap::from([("t".to_owned(), text.to_owned())])
    }

    fn set_tags(shard: &mut FakeShard, version: Option<VersionId>, text: &str) -> Tagged {
        let tag = Tag { bucket: BUCKET, key: key(b"k"), version, tags: tags(text) };
        shard.execute(&TAG, tag).unwrap()
    }

    #[test]
    fn tags_are_replaced_in_place_and_only_of_the_version_named() {
        let mut shard = FakeShard::new();
        assert_eq!(set_tags(&mut shard, None, "x"), Tagged::NoSuchKey);
        let first = shard.put(b"k", inline("one")).unwrap();
        assert_eq!(set_tags(&mut shard, None, "one"), Tagged::Done { version: None });
        let versioning = Versioning::Enabled;
        shard.execute(&bucket::SET_VERSIONING, bucket::SetVersioning { bucket: BUCKET, versioning }).unwrap();
        let second = shard.put(b"k", inline("two")).unwrap();
        assert_eq!(set_tags(&mut shard, None, "two"), Tagged::Done { version: second.version });
        let null = Some(VersionId::Null);
        assert_eq!(set_tags(&mut shard, null, "null"), Tagged::Done { version: null });
        let record = |shard: &FakeShard, revision| -> VersionRecord {
            read(shard, &keys::at_revision(keys::VERSION, BUCKET, b"k", revision)).unwrap().unwrap()
        };
        let (one, two) = (record(&shard, first.revision), record(&shard, second.revision));
        assert_eq!((one.headers.tags, one.etag), (tags("null"), first.etag));
        assert_eq!((two.headers.tags, two.modified), (tags("two"), second.modified));
        let other = Some(VersionId::At(first.revision));
        assert_eq!(set_tags(&mut shard, other, "x"), Tagged::NoSuchVersion);
    }

    #[test]
    fn an_acl_is_replaced_only_where_it_is_still_what_was_looked_at() {
        let mut shard = FakeShard::new();
        let first = shard.put(b"k", inline("one")).unwrap();
        let set = |shard: &mut FakeShard, revision, before: Option<&str>, owner: &str| {
            let (key, before, acl) = (key(b"k"), before.map(Acl::private), Acl::private(owner));
            let set = SetAcl { bucket: BUCKET, key, version: None, revision, before, acl };
            shard.execute(&SET_ACL, set).unwrap()
        };
        let done = Tagged::Done { version: None };
        assert_eq!(set(&mut shard, first.revision, Some("ann"), "bob"), Tagged::Changed);
        assert_eq!(set(&mut shard, first.revision, None, "ann"), done);
        assert_eq!(set(&mut shard, first.revision, None, "bob"), Tagged::Changed);
        assert_eq!(set(&mut shard, first.revision, Some("ann"), "bob"), done);
        assert_eq!(set_tags(&mut shard, None, "t"), done, "tags leave it alone");
        let version_key = keys::at_revision(keys::VERSION, BUCKET, b"k", first.revision);
        let record: VersionRecord = read(&shard, &version_key).unwrap().unwrap();
        assert_eq!((record.headers.acl, record.headers.tags), (Some(Acl::private("bob")), tags("t")));
        let second = shard.put(b"k", inline("two")).unwrap();
        assert_eq!(set(&mut shard, first.revision, Some("bob"), "eve"), Tagged::Changed);
        assert_eq!(set(&mut shard, second.revision, None, "eve"), done, "a new object has none");
    }

    #[test]
    fn what_is_set_on_a_bucket_goes_with_it() {
        let mut shard = FakeShard::new();
        let kind = SettingKind::Tags;
        let setting = Some(BucketSetting::Tags(tags("b")));
        let set = |setting| Set { bucket: BUCKET, kind, setting };
        let get = |shard: &FakeShard| shard.query(&GET, Get { bucket: BUCKET, kind });
        shard.execute(&SET, set(setting.clone())).unwrap();
        assert_eq!(get(&shard), Ok(setting.clone()));
        shard.execute(&SET, set(None)).unwrap();
        assert_eq!(get(&shard), Ok(None));
        shard.execute(&SET, set(setting.clone())).unwrap();
        shard.execute(&bucket::SEAL, BUCKET).unwrap();
        assert_eq!(shard.execute(&SET, set(setting)), Err(Refused::SealedBucket));
        shard.execute(&bucket::FREE, BUCKET).unwrap();
        assert_eq!(shard.records.len(), 1, "{:?}", shard.records);
    }
}
