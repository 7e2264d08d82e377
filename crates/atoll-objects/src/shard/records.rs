//! The records that a shard keeps for objects: one versioned format each.

use atoll_types::{Format, FormatError, Revision, WallTime};
use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    encryption::{
        RootKeyId,
        seal::{PartSalt, Seal},
    },
    manifest::{ChunkRef, Sealable, Storage},
    names::{BucketId, ManifestId, UploadId, VersionId},
    object::{Checksum, ChecksumAlgorithm, ETag, ObjectHeaders},
    request::{BucketInfo, Versioning},
};

macro_rules! format {
    ($type:ty, $name:literal) => {
        impl Format for $type {
            const NAME: &'static str = $name;
            const VERSION: u8 = 1;
        }
    };
}

/// What a data shard knows of a bucket: the truth for every read and write in it. It is
/// never deleted: a late `bucket-open` must find that the bucket is gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BucketDescriptor {
    pub state: BucketState,
    /// The ranges of keys owned here, ascending.
    pub owned: Vec<OwnedRange>,
    pub versioning: Versioning,
    /// Of a restored bucket the newest revision that came with it: what is written here comes
    /// after it, wherever the shard's own revisions are. 0 in any other.
    pub restored: Revision,
    /// Nothing is written that is not encrypted.
    pub encrypted: bool,
}

impl BucketDescriptor {
    /// Of a bucket on which nothing was set.
    pub fn new(state: BucketState, owned: Vec<OwnedRange>) -> Self {
        Self { state, owned, versioning: Versioning::Unset, restored: Revision(0), encrypted: false }
    }
}

/// Version 2 knew nothing of restored buckets, nor of encryption.
#[derive(Serialize, Deserialize)]
struct SecondDescriptor {
    state: BucketState,
    owned: Vec<OwnedRange>,
    versioning: Versioning,
}

/// Version 1 knew no versioning.
#[derive(Serialize, Deserialize)]
struct FirstDescriptor {
    state: BucketState,
    owned: Vec<OwnedRange>,
}
format!(FirstDescriptor, "bucket descriptor");

impl Format for SecondDescriptor {
    const NAME: &'static str = "bucket descriptor";
    const VERSION: u8 = 2;

    fn decode_older(version: u8, rest: &[u8]) -> Result<Self, FormatError> {
        let FirstDescriptor { state, owned } = FirstDescriptor::decode(&[&[version], rest].concat())?;
        Ok(Self { state, owned, versioning: Versioning::Unset })
    }
}

/// A descriptor is still written in the oldest version that can say it: nothing newer is
/// written before every member knows it (rule 18), and what programs of before do in a bucket
/// whose versioning nobody has touched is what this one does.
impl Format for BucketDescriptor {
    const NAME: &'static str = "bucket descriptor";
    const VERSION: u8 = 3;

    fn encode(&self) -> Vec<u8> {
        let Self { state, versioning, restored, encrypted, .. } = *self;
        match (versioning, restored, encrypted) {
            (Versioning::Unset, Revision(0), false) => {
                FirstDescriptor { state, owned: self.owned.clone() }.encode()
            }
            (_, Revision(0), false) => {
                SecondDescriptor { state, owned: self.owned.clone(), versioning }.encode()
            }
            _ => {
                let encoded = postcard::to_extend(self, vec![Self::VERSION]);
                encoded.expect("derived types always encode")
            }
        }
    }

    fn decode_older(version: u8, rest: &[u8]) -> Result<Self, FormatError> {
        let SecondDescriptor { state, owned, versioning } =
            SecondDescriptor::decode(&[&[version], rest].concat())?;
        Ok(Self { versioning, ..Self::new(state, owned) })
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum BucketState {
    Open,
    /// Found empty, takes no more writes; its name is about to be freed.
    Sealed,
    /// Gone for good.
    Freed,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnedRange {
    pub start: Bytes,
    /// Exclusive; `None` is the end of all keys.
    pub end: Option<Bytes>,
}

#[cfg(test)]
impl OwnedRange {
    pub fn everything() -> Self {
        Self { start: Bytes::new(), end: None }
    }
}

impl BucketDescriptor {
    pub fn owns(&self, key: &[u8]) -> bool {
        self.owned.iter().any(|range| range.start <= key && range.end.as_ref().is_none_or(|end| key < end))
    }
}

/// What a listing returns of an object, and where its version lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CurrentRecord {
    pub revision: Revision,
    pub size: u64,
    pub etag: ETag,
    pub modified: WallTime,
    pub storage: Storage,
}
format!(CurrentRecord, "current object");

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionRecord {
    pub size: u64,
    pub etag: ETag,
    pub modified: WallTime,
    /// Written while the bucket had no versioning: S3's version id `null`.
    pub null: bool,
    pub delete_marker: bool,
    pub headers: ObjectHeaders,
    /// Its value is sealed if the object is.
    pub checksum: Option<Checksum>,
    pub content: Sealable<Seal>,
}
format!(VersionRecord, "object version");

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SegmentRecord {
    pub chunks: Vec<ChunkRef>,
}
format!(SegmentRecord, "manifest segment");

/// Segments that wait for their root. A commit needs `epoch` to be at most one behind,
/// so after two sweeps nobody can commit them any more, and they go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingRecord {
    pub epoch: u64,
}
format!(PendingRecord, "pending manifest");

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadRecord {
    pub initiated: WallTime,
    pub headers: ObjectHeaders,
    pub checksum: Option<ChecksumAlgorithm>,
    /// If the object is to be encrypted.
    pub seal: Option<Seal>,
}

/// Version 1 knew no encryption.
#[derive(Serialize, Deserialize)]
struct FirstUpload {
    initiated: WallTime,
    headers: ObjectHeaders,
    checksum: Option<ChecksumAlgorithm>,
}
format!(FirstUpload, "multipart upload");

/// What is not to be encrypted is written in version 1 still (rule 18).
impl Format for UploadRecord {
    const NAME: &'static str = "multipart upload";
    const VERSION: u8 = 2;

    fn encode(&self) -> Vec<u8> {
        if self.seal.is_none() {
            let (initiated, headers, checksum) = (self.initiated, self.headers.clone(), self.checksum);
            return FirstUpload { initiated, headers, checksum }.encode();
        }
        postcard::to_extend(self, vec![Self::VERSION]).expect("derived types always encode")
    }

    fn decode_older(version: u8, rest: &[u8]) -> Result<Self, FormatError> {
        let FirstUpload { initiated, headers, checksum } = FirstUpload::decode(&[&[version], rest].concat())?;
        Ok(Self { initiated, headers, checksum, seal: None })
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartRecord {
    pub size: u64,
    pub etag: ETag,
    pub modified: WallTime,
    /// Its value is sealed if the upload is.
    pub checksum: Option<Checksum>,
    /// `Chunks` or `Segments`.
    pub content: Sealable<PartSalt>,
}
format!(PartRecord, "part");

/// Completing an upload twice answers the same; kept for two sweeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinishedRecord {
    pub epoch: u64,
    pub written: Written,
}
format!(FinishedRecord, "finished upload");

/// What a write of an object answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "WrittenWire", into = "WrittenWire")]
pub struct Written {
    pub revision: Revision,
    pub modified: WallTime,
    pub size: u64,
    pub etag: ETag,
    pub checksum: Option<Checksum>,
    /// `None` in a bucket whose versioning nobody has touched.
    pub version: Option<VersionId>,
}

/// As programs before versions wrote and read it, unless there is a version to tell:
/// the first two tails are encoded as an `Option` is.
#[derive(Serialize, Deserialize)]
struct WrittenWire {
    revision: Revision,
    modified: WallTime,
    size: u64,
    etag: ETag,
    tail: WrittenTail,
}

#[derive(Serialize, Deserialize)]
enum WrittenTail {
    Plain,
    Checksum(Checksum),
    Versioned { checksum: Option<Checksum>, version: VersionId },
}

impl From<Written> for WrittenWire {
    fn from(written: Written) -> Self {
        let Written { revision, modified, size, etag, checksum, version } = written;
        let tail = match (version, checksum) {
            (Some(version), checksum) => WrittenTail::Versioned { checksum, version },
            (None, Some(checksum)) => WrittenTail::Checksum(checksum),
            (None, None) => WrittenTail::Plain,
        };
        Self { revision, modified, size, etag, tail }
    }
}

impl From<WrittenWire> for Written {
    fn from(wire: WrittenWire) -> Self {
        let WrittenWire { revision, modified, size, etag, tail } = wire;
        let (checksum, version) = match tail {
            WrittenTail::Plain => (None, None),
            WrittenTail::Checksum(checksum) => (Some(checksum), None),
            WrittenTail::Versioned { checksum, version } => (checksum, Some(version)),
        };
        Self { revision, modified, size, etag, checksum, version }
    }
}

/// Manifest records that no version names any more. They stay for two sweeps, so that
/// a reader that began before goes on to the end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum DroppedRecord {
    Segments { bucket: BucketId, manifest: ManifestId },
    Parts { bucket: BucketId, upload: UploadId },
}
format!(DroppedRecord, "dropped manifest");

/// A record that brought new references: its store key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeRecord {
    pub epoch: u64,
    pub key: Bytes,
}
format!(ChangeRecord, "reference change");

/// A snapshot that is being made: what it will refer to is not known yet, so nothing is
/// reclaimed meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IntentRecord {
    pub round: u64,
    pub begun: WallTime,
    /// The entry that wrote it: another intent for the same round is another one.
    pub revision: Revision,
}
format!(IntentRecord, "snapshot intent");

/// A shard's snapshot: chunks that hold its records, and those that name what they refer to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotRecord {
    /// When its intent was committed; the records are of a moment later.
    pub taken: WallTime,
    /// Of the shard: everything up to it is in the snapshot, nothing after it.
    pub revision: Revision,
    /// The chunks of a [`crate::snapshot::Root`].
    pub root: Vec<ChunkRef>,
}
format!(SnapshotRecord, "shard snapshot");

/// In shard 0: a bucket that is being restored, or was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestorationRecord {
    pub bucket: BucketInfo,
    /// Which bucket of which backup or snapshot: another one must not be mixed into it.
    pub source: String,
    pub published: bool,
}
format!(RestorationRecord, "restoration");

/// Shard 0's record of a bucket's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameRecord(pub BucketInfo);
format!(NameRecord, "bucket name");

/// Shard 0's record of which root key the cluster has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootKeyRecord(pub RootKeyId);
format!(RootKeyRecord, "root key");

/// When the last sweep was begun, by shard 0's stamps, and the epoch that it raises all
/// shards to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SweepRecord {
    pub begun: WallTime,
    pub epoch: u64,
}
format!(SweepRecord, "sweep");

/// A plain number: the reclaim epoch, a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct NumberRecord(pub u64);
format!(NumberRecord, "number");

#[cfg(test)]
mod tests {
    use super::*;

    /// As programs before versions had it.
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct FormerWritten {
        revision: Revision,
        modified: WallTime,
        size: u64,
        etag: ETag,
        checksum: Option<Checksum>,
    }

    fn written(checksum: Option<Checksum>, version: Option<VersionId>) -> Written {
        let etag = ETag { md5: [7; 16], parts: 2 };
        Written { revision: Revision(300), modified: WallTime(4), size: 5, etag, checksum, version }
    }

    fn checksum() -> Option<Checksum> {
        Some(Checksum { algorithm: ChecksumAlgorithm::Sha1, value: Bytes::from_static(&[1; 20]), parts: 2 })
    }

    #[test]
    fn what_a_write_answers_without_versions_is_what_it_always_was() {
        for checksum in [None, checksum()] {
            let now = written(checksum.clone(), None);
            let bytes = postcard::to_stdvec(&now).unwrap();
            let former: FormerWritten = postcard::from_bytes(&bytes).unwrap();
            assert_eq!(former.checksum, checksum);
            assert_eq!(postcard::to_stdvec(&former).unwrap(), bytes);
            assert_eq!(postcard::from_bytes::<Written>(&bytes).unwrap(), now);
        }
        for version in [VersionId::Null, VersionId::At(Revision(9))] {
            for checksum in [None, checksum()] {
                let now = written(checksum, Some(version));
                let bytes = postcard::to_stdvec(&now).unwrap();
                assert_eq!(postcard::from_bytes::<Written>(&bytes).unwrap(), now);
            }
        }
    }

    #[test]
    fn a_descriptor_of_before_is_read_and_written_again_until_versioning_is_set() {
        // Open, owning everything: as the first program wrote it.
        let bytes = [1, 0, 1, 0, 0];
        let mut descriptor = BucketDescriptor::decode(&bytes).unwrap();
        assert_eq!(descriptor.owned, [OwnedRange::everything()]);
        assert_eq!((descriptor.state, descriptor.versioning), (BucketState::Open, Versioning::Unset));
        assert_eq!(descriptor.encode(), bytes);
        descriptor.versioning = Versioning::Suspended;
        // As the program before encryption wrote it.
        assert_eq!(descriptor.encode(), [2, 0, 1, 0, 0, 2]);
        assert_eq!(BucketDescriptor::decode(&descriptor.encode()).as_ref(), Ok(&descriptor));
        descriptor.encrypted = true;
        let bytes = descriptor.encode();
        assert_eq!(bytes[0], 3);
        assert_eq!(BucketDescriptor::decode(&bytes), Ok(descriptor.clone()));
        (descriptor.encrypted, descriptor.restored) = (false, Revision(300));
        let bytes = descriptor.encode();
        assert_eq!(bytes[0], 3);
        assert_eq!(BucketDescriptor::decode(&bytes), Ok(descriptor));
        assert!(BucketDescriptor::decode(&[4, 0, 0]).is_err());
    }

    #[test]
    fn an_upload_that_is_not_encrypted_is_written_as_before_encryption() {
        let (initiated, headers) = (WallTime(5), ObjectHeaders::default());
        let checksum = Some(ChecksumAlgorithm::Sha1);
        let former = FirstUpload { initiated, headers: headers.clone(), checksum }.encode();
        let record = UploadRecord { initiated, headers, checksum, seal: None };
        assert_eq!(record.encode(), former);
        assert_eq!(UploadRecord::decode(&former), Ok(record));
    }
}
