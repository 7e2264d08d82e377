//! A shard's records as entries of a snapshot. Pure: it reads a view and gives chunks.
//!
//! Left out is what a restored bucket has no use for: uploads that are not complete with their
//! parts, manifests without a root, what waits for a sweep, and all that is about this cluster
//! and not about its users' data.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
};

use atoll_disk::StoreError;
use atoll_records::{KV_PREFIX, ReadView, Record};
use atoll_types::{Format, Revision};
use bytes::Bytes;

use super::format::{self, BucketRecord, Entries, Entry, OpenedBucket};
use crate::{
    manifest::{ChunkRef, Manifest},
    names::{BucketId, ManifestId, UploadId},
    shard::{
        decode, keys,
        records::{BucketDescriptor, BucketState, NameRecord, PartRecord, SegmentRecord, VersionRecord},
        scan_from,
    },
};

/// In this order: versions say which uploads and segments are wanted, and parts which segments.
const SECTIONS: [[u8; 2]; 8] = [
    keys::VERSION,
    keys::PART,
    keys::SEGMENT,
    keys::CURRENT,
    keys::INLINE,
    keys::NULL,
    keys::SETTING,
    keys::NAME,
];

pub(super) struct Walk {
    view: Arc<dyn ReadView + Send + Sync>,
    /// Prefixes of keys, in the order in which they are read.
    prefixes: Vec<Bytes>,
    /// The one that is being read, and the last key that was.
    at: usize,
    after: Option<Bytes>,
    open: BTreeMap<BucketId, OpenedBucket>,
    uploads: BTreeSet<UploadId>,
    manifests: BTreeSet<ManifestId>,
    told: bool,
    references: Vec<ChunkRef>,
}

impl Walk {
    /// `others` are prefixes of what other crates keep, in shard 0 only. What is under the
    /// prefix of keys and values there is the cluster's own.
    pub fn new(view: Arc<dyn ReadView + Send + Sync>, others: Option<&[Bytes]>) -> Result<Self, StoreError> {
        let mut open = BTreeMap::new();
        for pair in scan_from(&*view, Bound::Included(&keys::BUCKET), &keys::BUCKET) {
            let (key, value) = pair?;
            let descriptor: BucketDescriptor = decode(&value)?;
            if let Some((bucket, _)) = keys::bucket_of(&key).filter(|_| descriptor.state == BucketState::Open)
            {
                let BucketDescriptor { versioning, restored: newest, encrypted, .. } = descriptor;
                open.insert(bucket, OpenedBucket { bucket, versioning, newest, encrypted });
            }
        }
        let mut prefixes: Vec<Bytes> = SECTIONS.iter().map(|tag| Bytes::copy_from_slice(tag)).collect();
        match others {
            Some(others) => prefixes.extend_from_slice(others),
            None => prefixes.push(Bytes::from_static(KV_PREFIX)),
        }
        Ok(Self {
            view,
            prefixes,
            at: 0,
            after: None,
            open,
            uploads: BTreeSet::new(),
            manifests: BTreeSet::new(),
            told: false,
            references: Vec::new(),
        })
    }

    /// The next chunk of entries; `None` at the end.
    pub fn next_chunk(&mut self) -> Result<Option<Bytes>, StoreError> {
        let view = self.view.clone();
        let mut entries = Vec::new();
        let mut bytes = 0;
        while let Some(prefix) = self.prefixes.get(self.at).cloned() {
            let start = match &self.after {
                Some(after) => Bound::Excluded(after.clone()),
                None => Bound::Included(prefix.clone()),
            };
            let start = start.as_ref().map(|key| &key[..]);
            for pair in scan_from(&*view, start, &prefix) {
                let (key, value) = pair?;
                self.after = Some(key.clone());
                let length = key.len() + value.len();
                let Some(entry) = self.entry(&prefix, &key, value)? else { continue };
                entries.push(entry);
                bytes += length;
                if format::ends_entries(&key, bytes) {
                    return Ok(Some(Entries(entries).encode().into()));
                }
            }
            (self.at, self.after) = (self.at + 1, None);
        }
        if !std::mem::replace(&mut self.told, true) {
            entries.extend(self.open.values().copied().map(Entry::Open));
        }
        Ok((!entries.is_empty()).then(|| Entries(entries).encode().into()))
    }

    fn entry(&mut self, prefix: &[u8], key: &Bytes, value: Bytes) -> Result<Option<Entry>, StoreError> {
        let tag = match <[u8; 2]>::try_from(prefix) {
            Ok(keys::NAME) => return Ok(Some(Entry::Bucket(decode::<NameRecord>(&value)?.0))),
            Ok(tag) => tag,
            Err(_) if prefix == KV_PREFIX => {
                // What belongs to a lease goes with its holder, who is not restored.
                let record = Record::stored(key, &value)?.filter(|record| record.lease.is_none());
                return Ok(record.map(|record| Entry::Kv { key: record.key, value: record.value }));
            }
            Err(_) => return Ok(Some(Entry::Other { key: key.clone(), value })),
        };
        let Some((bucket, rest)) = keys::bucket_of(key) else { return Ok(None) };
        let Some(open) = self.open.get_mut(&bucket) else { return Ok(None) };
        // Manifest ids and upload ids alike are what comes first.
        let id = || rest.first_chunk::<16>().copied().map(atoll_types::TransactionId);
        let manifest = match tag {
            keys::VERSION => {
                open.newest = open.newest.max(keys::revision_of(key).unwrap_or(Revision(0)));
                decode::<VersionRecord>(&value)?.content.manifest
            }
            keys::PART if !id().is_some_and(|id| self.uploads.contains(&UploadId(id))) => return Ok(None),
            keys::PART => decode::<PartRecord>(&value)?.content.manifest,
            keys::SEGMENT if !id().is_some_and(|id| self.manifests.contains(&ManifestId(id))) => {
                return Ok(None);
            }
            keys::SEGMENT => Manifest::Chunks(decode::<SegmentRecord>(&value)?.chunks),
            _ => Manifest::Inline,
        };
        match manifest {
            Manifest::Inline => {}
            Manifest::Chunks(chunks) => self.references.extend(chunks),
            Manifest::Segments { manifest, .. } => drop(self.manifests.insert(manifest)),
            Manifest::Parts { upload, .. } => drop(self.uploads.insert(upload)),
        }
        let rest = key.slice(key.len() - rest.len()..);
        Ok(Some(Entry::Record { bucket, record: BucketRecord { tag, rest, value } }))
    }

    /// What all entries together refer to, sorted, each once.
    pub fn into_references(self) -> Vec<ChunkRef> {
        let mut references = self.references;
        references.sort_unstable_by_key(|reference| reference.hash);
        references.dedup();
        references
    }
}

#[cfg(test)]
mod tests {
    use atoll_types::ChunkHash;

    use super::*;
    use crate::shard::{
        fake::{BUCKET, FakeShard, inline, key},
        object::{self, Content},
        upload,
    };

    fn walked(shard: FakeShard) -> (Vec<Entry>, Vec<ChunkRef>, usize) {
        let shard = Shared { records: shard.records, revision: shard.revision };
        let mut walk = Walk::new(Arc::new(shard), None).ok().unwrap();
        let (mut entries, mut chunks) = (Vec::new(), 0);
        while let Some(chunk) = walk.next_chunk().unwrap() {
            assert!(chunk.len() <= 2 * format::ENTRIES_BYTES_MAX);
            entries.extend(Entries::decode(&chunk).unwrap().0);
            chunks += 1;
        }
        (entries, walk.into_references(), chunks)
    }

    /// The twin's records without its counters, which are for one thread.
    struct Shared {
        records: BTreeMap<Vec<u8>, Bytes>,
        revision: u64,
    }

    impl ReadView for Shared {
        fn revision(&self) -> Revision {
            Revision(self.revision)
        }

        fn get(&self, key: &[u8]) -> Result<Option<Bytes>, StoreError> {
            Ok(self.records.get(key).cloned())
        }

        fn range(&self, start: Bound<&[u8]>, end: Bound<&[u8]>) -> atoll_records::Pairs<'_> {
            let pairs = self.records.range::<[u8], _>((start, end));
            Box::new(pairs.map(|(key, value)| Ok((Bytes::from(key.clone()), value.clone()))))
        }

        fn range_backwards(&self, start: Bound<&[u8]>, end: Bound<&[u8]>) -> atoll_records::Pairs<'_> {
            let pairs = self.records.range::<[u8], _>((start, end)).rev();
            Box::new(pairs.map(|(key, value)| Ok((Bytes::from(key.clone()), value.clone()))))
        }
    }

    fn chunk(number: u64) -> ChunkRef {
        ChunkRef { hash: ChunkHash::of(&number.to_be_bytes()), bytes: 5 << 20 }
    }

    #[test]
    fn everything_of_open_buckets_is_told_and_what_nobody_can_see_is_not() {
        let mut shard = FakeShard::new();
        for number in 0..500 {
            shard.put(format!("{number}").as_bytes(), inline("small")).unwrap();
        }
        let large = shard.put(b"large", Content::Chunks(vec![chunk(1), chunk(2)])).unwrap();
        // An upload that is complete, and one that is not.
        for (name, complete) in [(b"whole", true), (b"begun", false)] {
            let id = UploadId(atoll_types::TransactionId([name[0]; 16]));
            let of = upload::Upload { bucket: BUCKET, key: key(name), upload: id };
            let create = upload::Create { upload: of.clone(), headers: Default::default(), checksum: None };
            shard.execute(&upload::CREATE, create).unwrap();
            let etag = crate::object::ETag { md5: [1; 16], parts: 0 };
            let part = upload::PutPart {
                upload: of.clone(),
                number: 1,
                epoch: 1,
                size: 5 << 20,
                etag,
                checksum: None,
                content: Content::Chunks(vec![chunk(u64::from(name[0]))]),
            };
            shard.execute(&upload::PUT_PART, part).unwrap();
            if complete {
                let parts = vec![(1, etag.to_string())];
                let conditions = Default::default();
                let complete = upload::Complete { upload: of, parts, conditions, checksum: None };
                shard.execute(&upload::COMPLETE, complete).unwrap();
            }
        }
        // A manifest whose root never came.
        let manifest = ManifestId(atoll_types::TransactionId([9; 16]));
        let segment = object::PutSegment {
            bucket: BUCKET,
            key: key(b"pending"),
            manifest,
            number: 0,
            epoch: 1,
            chunks: vec![chunk(99)],
        };
        shard.execute(&object::PUT_SEGMENT, segment).unwrap();

        let (entries, references, chunks) = walked(shard);
        let mut expected = vec![chunk(1), chunk(2), chunk(u64::from(b'w'))];
        expected.sort_by_key(|reference| reference.hash);
        assert_eq!(references, expected);
        let count = |wanted: [u8; 2]| {
            let is = |entry: &&Entry| matches!(entry, Entry::Record { record, .. } if record.tag == wanted);
            entries.iter().filter(is).count()
        };
        assert_eq!((count(keys::VERSION), count(keys::CURRENT), count(keys::INLINE)), (502, 502, 500));
        assert_eq!((count(keys::PART), count(keys::SEGMENT)), (1, 0));
        assert!(entries.iter().any(
            |entry| matches!(entry, Entry::Open(open) if open.bucket == BUCKET && open.newest > large.revision)
        ));
        assert!((10..60).contains(&chunks), "{chunks}");
    }
}
