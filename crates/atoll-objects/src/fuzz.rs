//! Fuzz targets: what shards keep of buckets and objects, what snapshots hold of it, and what
//! nodes ask each other's chunk stores. Records of a snapshot may come from another cluster, or
//! from nobody's.

use atoll_types::{
    Acl, ChunkHash, Format, Revision, TransactionId, WallTime,
    fuzzing::{self, Checked},
};
use bytes::Bytes;

use crate::{
    manifest::{ChunkRef, Manifest, Sealable},
    names::{ManifestId, UploadId},
    object::{Checksum, ChecksumAlgorithm, ETag, ObjectHeaders},
    request::BucketSetting,
    shard::{Answer, Ask, keys, object, records, restore::BucketRecord, upload},
    snapshot::format as snapshot,
    wire,
};

const FORMATS: &[Checked] = &[
    Checked::of::<Answer<records::Written>>(),
    Checked::of::<Ask<object::Put>>(),
    Checked::of::<Ask<upload::Complete>>(),
    Checked::of::<BucketSetting>(),
    Checked::of::<records::BucketDescriptor>(),
    Checked::of::<records::ChangeRecord>(),
    Checked::of::<records::CurrentRecord>(),
    Checked::of::<records::DroppedRecord>(),
    Checked::of::<records::FinishedRecord>(),
    Checked::of::<records::IntentRecord>(),
    Checked::of::<records::NameRecord>(),
    Checked::of::<records::NumberRecord>(),
    Checked::of::<records::PendingRecord>(),
    Checked::of::<records::RestorationRecord>(),
    Checked::of::<records::RootKeyRecord>(),
    Checked::of::<records::SnapshotRecord>(),
    Checked::of::<records::SweepRecord>(),
    Checked::of::<records::UploadRecord>(),
    Checked::of::<snapshot::Entries>(),
    Checked::of::<snapshot::References>(),
    Checked::of::<snapshot::Root>(),
    Checked::of::<wire::ChunkReply>(),
    Checked::of::<wire::ChunkRequest>(),
];

/// The first byte chooses a format for the rest.
pub fn formats(bytes: &[u8]) {
    fuzzing::check(FORMATS, bytes);
}

pub fn formats_seeds() -> Vec<Vec<u8>> {
    fuzzing::seeds(FORMATS)
}

/// Those that have a manifest or are part of one.
const MANIFESTS: &[Checked] = &[
    Checked::of::<records::VersionRecord>(),
    Checked::of::<records::PartRecord>(),
    Checked::of::<records::SegmentRecord>(),
];
const TAGS: [[u8; 2]; 3] = [keys::VERSION, keys::PART, keys::SEGMENT];

/// The first byte chooses a record for the rest. What a restore would take of it names no more
/// chunks than it has room for, and can be added up.
pub fn manifest(bytes: &[u8]) {
    fuzzing::check(MANIFESTS, bytes);
    let Some((&which, value)) = bytes.split_first() else { return };
    let tag = TAGS[usize::from(which) % TAGS.len()];
    let record = BucketRecord { tag, rest: Bytes::new(), value: Bytes::copy_from_slice(value) };
    let Ok(references) = record.references() else { return };
    assert!(references.len() <= value.len() / size_of::<ChunkHash>());
    record.consists_of();
    if !record.is_sound() {
        return;
    }
    let content = match tag {
        keys::VERSION => records::VersionRecord::decode(value).map(|record| record.content.manifest),
        keys::PART => records::PartRecord::decode(value).map(|record| record.content.manifest),
        _ => return,
    };
    let sizes = match content.expect("its references were read") {
        Manifest::Segments { sizes, .. } => sizes,
        Manifest::Parts { parts, .. } => parts.into_iter().map(|(_, size)| size).collect(),
        Manifest::Inline | Manifest::Chunks(_) => return,
    };
    let sum = sizes.iter().try_fold(0_u64, |sum, size| sum.checked_add(*size));
    assert!(sum.is_some(), "a reader would count beyond the end of its numbers");
}

pub fn manifest_seeds() -> Vec<Vec<u8>> {
    let id = TransactionId([7; 16]);
    let chunk = |bytes| ChunkRef { hash: ChunkHash::of(b"a chunk"), bytes };
    let manifests = [
        (0, Manifest::Inline),
        (600, Manifest::Chunks(vec![chunk(300), chunk(300)])),
        (301, Manifest::Segments { manifest: ManifestId(id), sizes: vec![1, 300] }),
        (u64::MAX, Manifest::Segments { manifest: ManifestId(id), sizes: vec![u64::MAX - 1, 1] }),
        (301, Manifest::Parts { upload: UploadId(id), parts: vec![(1, 300), (3, 1)] }),
    ];
    let etag = ETag { md5: [7; 16], parts: 2 };
    let checksum =
        Checksum { algorithm: ChecksumAlgorithm::Sha1, value: Bytes::from_static(&[1; 20]), parts: 2 };
    let mut headers = ObjectHeaders { content_type: Some("text/plain".into()), ..Default::default() };
    headers.user.insert("a".into(), "b".into());
    let mut seeds = Vec::new();
    for (size, manifest) in manifests {
        let version = records::VersionRecord {
            size,
            etag,
            modified: WallTime::from_millis(Revision(9).0),
            null: true,
            delete_marker: false,
            headers: headers.clone(),
            checksum: Some(checksum.clone()),
            content: Sealable::plain(manifest.clone()),
        };
        seeds.push([vec![0], version.encode()].concat());
        let part = records::PartRecord {
            size,
            etag,
            modified: version.modified,
            checksum: None,
            content: Sealable::plain(manifest),
        };
        seeds.push([vec![1], part.encode()].concat());
    }
    headers.acl = Some(Acl::private("ann"));
    let owned = records::VersionRecord {
        size: 0,
        etag,
        modified: WallTime::from_millis(9),
        null: true,
        delete_marker: false,
        headers,
        checksum: None,
        content: Sealable::plain(Manifest::Inline),
    };
    seeds.push([vec![0], owned.encode()].concat());
    let segment = records::SegmentRecord { chunks: vec![chunk(1), chunk(2)] };
    seeds.push([vec![2], segment.encode()].concat());
    seeds
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_hold() {
        fuzz::exercise(formats, formats_seeds());
    }

    #[test]
    fn manifests_hold() {
        fuzz::exercise(manifest, manifest_seeds());
    }
}
