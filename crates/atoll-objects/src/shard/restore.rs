//! Restoring a bucket: its records come in under a new bucket id while nobody can see them, and
//! become a bucket with one last command.
//!
//! ```text
//! begin (shard 0)  →  import, import, … (data shard)  →  open (data shard)  →  publish (shard 0)
//! ```
//!
//! Every step may be done again. What was begun from one source is not mixed with another.

use atoll_records::{ReadView, WriteView};
use atoll_types::{Format, Revision, TransactionId, WallTime};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::{
    CommandName, Fault, QueryName, Refused, check_epoch, keys,
    name::shard_for,
    object::log_change,
    read,
    records::{
        BucketDescriptor, BucketState, CurrentRecord, NameRecord, NumberRecord, OwnedRange, PartRecord,
        RestorationRecord, SegmentRecord, VersionRecord,
    },
    write,
};
use crate::{
    encryption::{RootKeyId, seal::SealedBy},
    manifest::{ChunkRef, Manifest},
    names::{BucketId, BucketName},
    request::{BucketInfo, BucketSetting, KeyRange, Versioning},
};

pub const BEGIN: CommandName<Begin, Begun> = CommandName::new("objects/restore-begin/1", begin);
pub const FIND: QueryName<BucketName, Option<BucketInfo>> = QueryName::new("objects/restoration/1", find);
pub const IMPORT: CommandName<Import, ()> = CommandName::new("objects/import/1", import);
pub const OPEN: CommandName<Open, ()> = CommandName::new("objects/restore-open/1", open);
pub const PUBLISH: CommandName<BucketName, bool> = CommandName::new("objects/restore-publish/1", publish);

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Begin {
    pub name: BucketName,
    pub owner: String,
    pub created: WallTime,
    pub source: String,
    pub data_shards: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Begun {
    /// Now, or before from the same source: go on.
    Going(BucketInfo),
    /// It was restored from this source, and is there.
    Done,
    /// There is such a bucket.
    Taken,
    /// It is being restored from elsewhere.
    Other { source: String },
}

fn begin(view: &mut dyn WriteView, input: Begin) -> Result<Begun, Fault> {
    let Begin { name, owner, created, source, data_shards } = input;
    let before: Option<RestorationRecord> = read(view, &keys::restoration(&name))?;
    if let Some(NameRecord(there)) = read(view, &keys::name(&name))? {
        let same = before.is_some_and(|before| before.bucket.id == there.id && before.source == source);
        return Ok(if same { Begun::Done } else { Begun::Taken });
    }
    match before {
        Some(before) if !before.published && before.source == source => {
            return Ok(Begun::Going(before.bucket));
        }
        Some(before) if !before.published => return Ok(Begun::Other { source: before.source }),
        _ => {}
    }
    let id = BucketId(view.revision().0);
    let ranges = vec![KeyRange { start: Bytes::new(), shard: shard_for(id, data_shards) }];
    let bucket = BucketInfo { id, name: name.clone(), owner, created, ranges };
    let record = RestorationRecord { bucket: bucket.clone(), source, published: false };
    write(view, &keys::restoration(&name), &record);
    Ok(Begun::Going(bucket))
}

/// The bucket that is being restored under this name.
fn find(view: &dyn ReadView, name: BucketName) -> Result<Option<BucketInfo>, Fault> {
    let found: Option<RestorationRecord> = read(view, &keys::restoration(&name))?;
    Ok(found.map(|record| record.bucket))
}

/// A record of a bucket: the tag of its key, what follows the bucket's id, and the value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketRecord {
    pub tag: [u8; 2],
    pub rest: Bytes,
    pub value: Bytes,
}

impl BucketRecord {
    /// The object's key, if this is one of its versions.
    pub fn version_of(&self) -> Option<Vec<u8>> {
        if self.tag != keys::VERSION {
            return None;
        }
        keys::unescape(&self.rest).map(|(key, _)| key)
    }

    /// The upload or manifest that this is a part or segment of.
    pub fn belongs_to(&self) -> Option<TransactionId> {
        let is_piece = [keys::PART, keys::SEGMENT].contains(&self.tag);
        self.rest.first_chunk::<16>().filter(|_| is_piece).map(|id| TransactionId(*id))
    }

    /// The upload or manifest whose parts or segments this version or part consists of.
    pub fn consists_of(&self) -> Option<TransactionId> {
        let manifest = match self.tag {
            keys::VERSION => VersionRecord::decode(&self.value).ok()?.content.manifest,
            keys::PART => PartRecord::decode(&self.value).ok()?.content.manifest,
            _ => return None,
        };
        match manifest {
            Manifest::Parts { upload, .. } => Some(upload.0),
            Manifest::Segments { manifest, .. } => Some(manifest.0),
            Manifest::Inline | Manifest::Chunks(_) => None,
        }
    }

    /// The root key without which this version can't be read, if it needs one.
    pub fn needs_root_key(&self) -> Option<RootKeyId> {
        if self.tag != keys::VERSION {
            return None;
        }
        match VersionRecord::decode(&self.value).ok()?.content.seal?.by {
            SealedBy::Root(id) => Some(id),
            SealedBy::Customer => None,
        }
    }

    /// Whether it has an ACL, which programs before ACLs can't read.
    pub fn has_acl(&self) -> bool {
        self.tag == keys::VERSION
            && VersionRecord::decode(&self.value).is_ok_and(|version| version.headers.acl.is_some())
    }

    /// Whether its manifest, if it has one, adds up: asked before a command takes it.
    pub fn is_sound(&self) -> bool {
        match self.tag {
            keys::VERSION => {
                VersionRecord::decode(&self.value).is_ok_and(|VersionRecord { size, content, .. }| {
                    content.manifest.is_of(size, content.seal.is_some())
                })
            }
            keys::PART => {
                PartRecord::decode(&self.value).is_ok_and(|PartRecord { size, content, .. }| {
                    content.manifest.is_of(size, content.seal.is_some())
                })
            }
            _ => true,
        }
    }

    /// What the record refers to. An error for what is no record of a bucket: it may come from
    /// anywhere.
    pub fn references(&self) -> Result<Vec<ChunkRef>, Refused> {
        fn sound<T: Format>(bytes: &[u8]) -> Result<T, Refused> {
            T::decode(bytes).map_err(|_| Refused::Malformed)
        }
        let manifest = match self.tag {
            keys::SEGMENT => return Ok(sound::<SegmentRecord>(&self.value)?.chunks),
            keys::VERSION => sound::<VersionRecord>(&self.value)?.content.manifest,
            keys::PART => sound::<PartRecord>(&self.value)?.content.manifest,
            keys::CURRENT => return sound::<CurrentRecord>(&self.value).map(|_| Vec::new()),
            keys::NULL => return sound::<NumberRecord>(&self.value).map(|_| Vec::new()),
            keys::SETTING => return sound::<BucketSetting>(&self.value).map(|_| Vec::new()),
            keys::INLINE => return Ok(Vec::new()),
            _ => return Err(Refused::Malformed),
        };
        match manifest {
            Manifest::Chunks(chunks) => Ok(chunks),
            Manifest::Inline | Manifest::Segments { .. } | Manifest::Parts { .. } => Ok(Vec::new()),
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Import {
    pub bucket: BucketId,
    /// That the chunks which they refer to are stamped with.
    pub epoch: u64,
    /// At most one of them with references: the log of references has one entry a revision.
    pub records: Vec<BucketRecord>,
}

fn import(view: &mut dyn WriteView, input: Import) -> Result<(), Fault> {
    if view.get(&keys::of_bucket(keys::BUCKET, input.bucket))?.is_some() {
        // Opened: all was imported, and users write there by now.
        return Ok(());
    }
    let mut referring = 0;
    for record in input.records {
        let key = keys::in_bucket(record.tag, input.bucket, &record.rest);
        if !record.references()?.is_empty() {
            let epoch = check_epoch(view, input.epoch)?;
            log_change(view, epoch, key.clone());
            referring += 1;
        }
        view.put(&key, record.value);
    }
    if referring > 1 { Err(Refused::Malformed.into()) } else { Ok(()) }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Open {
    pub bucket: BucketId,
    pub versioning: Versioning,
    /// The newest revision that came with it.
    pub restored: Revision,
    pub encrypted: bool,
}

fn open(view: &mut dyn WriteView, input: Open) -> Result<(), Fault> {
    let key = keys::of_bucket(keys::BUCKET, input.bucket);
    if view.get(&key)?.is_none() {
        let Open { versioning, restored, encrypted, .. } = input;
        let owned = vec![OwnedRange { start: Bytes::new(), end: None }];
        let new = BucketDescriptor::new(BucketState::Open, owned);
        write(view, &key, &BucketDescriptor { versioning, restored, encrypted, ..new });
    }
    Ok(())
}

/// The bucket is seen from now on. False if somebody has made one of that name meanwhile.
fn publish(view: &mut dyn WriteView, name: BucketName) -> Result<bool, Fault> {
    let Some(record) = read::<RestorationRecord>(view, &keys::restoration(&name))? else {
        return Err(Refused::UnknownBucket.into());
    };
    if let Some(NameRecord(there)) = read(view, &keys::name(&name))? {
        return Ok(there.id == record.bucket.id);
    }
    if record.published {
        // It was there, and somebody has deleted it.
        return Err(Refused::FreedBucket.into());
    }
    write(view, &keys::name(&name), &NameRecord(record.bucket.clone()));
    write(view, &keys::restoration(&name), &RestorationRecord { published: true, ..record });
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shard::{
        fake::{BUCKET, FakeShard, inline, key},
        name, object, version,
    };

    fn name() -> BucketName {
        BucketName::new("restored").unwrap()
    }

    fn begin_from(shard: &mut FakeShard, source: &str) -> Begun {
        let (owner, created, source) = ("ann".into(), WallTime(7), source.into());
        shard.execute(&BEGIN, Begin { name: name(), owner, created, source, data_shards: 4 }).unwrap()
    }

    #[test]
    fn a_bucket_is_begun_once_and_seen_when_it_is_published() {
        let mut meta = FakeShard::default();
        let Begun::Going(bucket) = begin_from(&mut meta, "a") else { panic!("nothing is there") };
        assert_eq!(begin_from(&mut meta, "a"), Begun::Going(bucket.clone()));
        assert_eq!(begin_from(&mut meta, "b"), Begun::Other { source: "a".into() });
        assert_eq!(meta.query(&name::LOOKUP, name()), Ok(None));
        assert_eq!(meta.execute(&PUBLISH, name()), Ok(true));
        assert_eq!(meta.query(&name::LOOKUP, name()), Ok(Some(bucket.clone())));
        assert_eq!(begin_from(&mut meta, "a"), Begun::Done);
        assert_eq!(begin_from(&mut meta, "b"), Begun::Taken);
        // Deleted by its owner, it may be restored again, as another bucket.
        meta.execute(&name::FREE, name::Free { name: name(), bucket: bucket.id }).unwrap();
        assert_eq!(meta.execute(&PUBLISH, name()), Err(Refused::FreedBucket));
        let Begun::Going(again) = begin_from(&mut meta, "b") else { panic!("it is free") };
        assert_ne!(again.id, bucket.id);
    }

    #[test]
    fn what_is_written_to_a_restored_bucket_is_newer_than_what_came_with_it() {
        let mut old = FakeShard { revision: 1000, ..FakeShard::new() };
        let versioned = Versioning::Enabled;
        let set = super::super::bucket::SetVersioning { bucket: BUCKET, versioning: versioned };
        old.execute(&super::super::bucket::SET_VERSIONING, set).unwrap();
        let first = old.put(b"k", inline("old")).unwrap();

        let mut new = FakeShard::default();
        let records = old.records.iter().filter(|(key, _)| !key.starts_with(&keys::BUCKET));
        let records: Vec<BucketRecord> = records
            .map(|(key, value)| {
                let (_, rest) = keys::bucket_of(key).unwrap();
                BucketRecord {
                    tag: [key[0], key[1]],
                    rest: Bytes::copy_from_slice(rest),
                    value: value.clone(),
                }
            })
            .collect();
        let import = Import { bucket: BUCKET, epoch: 1, records };
        new.execute(&IMPORT, import.clone()).unwrap();
        let open = Open { bucket: BUCKET, versioning: versioned, restored: first.revision, encrypted: false };
        new.execute(&OPEN, open).unwrap();
        assert!(new.revision < first.revision.0);

        let second = new.put(b"k", inline("new")).unwrap();
        assert!(second.revision > first.revision);
        let newest = version::newest(&new, BUCKET, b"k").unwrap().unwrap();
        assert_eq!(newest.0, second.revision);
        let get = object::Get { bucket: BUCKET, key: key(b"k"), content: true };
        let object::Found::Versioned(got) = new.query(&object::GET, get).unwrap() else {
            panic!("it was just put")
        };
        assert_eq!(got.inline, Some("new".into()));
        // A late import changes nothing.
        let before = new.records.clone();
        new.execute(&IMPORT, import).unwrap();
        assert_eq!(new.records, before);
    }

    #[test]
    fn what_is_no_record_of_a_bucket_is_not_imported() {
        let mut shard = FakeShard::default();
        let bad = |tag, value: &'static [u8]| {
            let record = BucketRecord { tag, rest: Bytes::from_static(b"k"), value: value.into() };
            Import { bucket: BUCKET, epoch: 1, records: vec![record] }
        };
        for (tag, value) in
            [(keys::VERSION, &b"x"[..]), (keys::BUCKET, b""), (keys::EPOCH, b""), (*b"zz", b"")]
        {
            assert_eq!(shard.execute(&IMPORT, bad(tag, value)), Err(Refused::Malformed));
        }
        assert!(shard.records.is_empty());
    }
}
