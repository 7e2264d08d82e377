//! Where each record lies in a shard (rule 10).
//!
//! | key | record |
//! |---|---|
//! | `ob` bucket | [`super::records::BucketDescriptor`]: which keys are owned here |
//! | `og` bucket, kind | [`crate::BucketSetting`]: tags, CORS, lifecycle |
//! | `oc` bucket, key | current: what a listing returns and nothing else |
//! | `ov` bucket, key, descending revision | one version: headers and manifest |
//! | `oi` bucket, key, descending revision | its bytes, if they are few |
//! | `oz` bucket, key | the revision of the `null` version, once a newer one lies before it |
//! | `os` bucket, manifest id, number | a segment of a manifest |
//! | `op` bucket, manifest id | segments whose root isn't committed yet |
//! | `ou` bucket, key, upload id | an upload in progress |
//! | `om` bucket, upload id, part number | a part, also after its upload is complete |
//! | `of` bucket, upload id | a finished upload: what completing it answered |
//! | `od` epoch, revision, number | segments and parts that no version names any more |
//! | `ol` revision | the log of records that brought new references to chunks |
//! | `oL` | up to which revision that log was cut off |
//! | `oe` | the reclaim epoch |
//! | `ox` round, shard | a snapshot of a shard; shard 0's are in shard 1 |
//! | `oy` shard | a snapshot that is being made |
//! | `on` name | shard 0 only: the bucket of that name |
//! | `ok` | shard 0 only: which root key the cluster has |
//! | `oE` | shard 0 only: the last sweep |
//! | `oF` | shard 0 only: the last round of the lifecycle |
//! | `oS` | shard 0 only: the last round of snapshots |
//! | `or` name | shard 0 only: a bucket that is being restored, or was |
//!
//! Numbers are big-endian. A bucket is its id, so a new bucket never sees an old one's
//! records. An object's key is escaped (0x00 becomes 0x00 0xFF) and ended by 0x00 0x00:
//! escaped keys sort as the keys do, none is a prefix of another, and a key's prefix is
//! a prefix of its escaped form.

use atoll_types::{Revision, ShardId};

use crate::{
    names::{BucketId, BucketName, ManifestId, UploadId},
    request::SettingKind,
};

pub const BUCKET: [u8; 2] = *b"ob";
pub const SETTING: [u8; 2] = *b"og";
pub const CURRENT: [u8; 2] = *b"oc";
pub const VERSION: [u8; 2] = *b"ov";
pub const INLINE: [u8; 2] = *b"oi";
pub const NULL: [u8; 2] = *b"oz";
pub const SEGMENT: [u8; 2] = *b"os";
pub const PENDING: [u8; 2] = *b"op";
pub const UPLOAD: [u8; 2] = *b"ou";
pub const PART: [u8; 2] = *b"om";
pub const FINISHED: [u8; 2] = *b"of";
pub const DROPPED: [u8; 2] = *b"od";
pub const CHANGE: [u8; 2] = *b"ol";
pub const CHANGES_CUT: [u8; 2] = *b"oL";
pub const EPOCH: [u8; 2] = *b"oe";
pub const NAME: [u8; 2] = *b"on";
pub const ROOT_KEY: [u8; 2] = *b"ok";
pub const LAST_SWEEP: [u8; 2] = *b"oE";
pub const LAST_LIFECYCLE: [u8; 2] = *b"oF";
pub const SNAPSHOT: [u8; 2] = *b"ox";
pub const INTENT: [u8; 2] = *b"oy";
pub const LAST_SNAPSHOTS: [u8; 2] = *b"oS";
pub const RESTORATION: [u8; 2] = *b"or";

/// Appends `key` in its escaped form, without the end mark.
fn escape(out: &mut Vec<u8>, key: &[u8]) {
    for &byte in key {
        out.push(byte);
        if byte == 0 {
            out.push(0xff);
        }
    }
}

const END: [u8; 2] = [0, 0];

/// The key at the start of `escaped`, and what follows its end mark; `None` if there is
/// no such thing.
pub fn unescape(escaped: &[u8]) -> Option<(Vec<u8>, &[u8])> {
    let mut key = Vec::with_capacity(escaped.len());
    let mut rest = escaped;
    loop {
        match rest {
            [0, 0, after @ ..] => return Some((key, after)),
            [0, 0xff, after @ ..] => {
                key.push(0);
                rest = after;
            }
            [0, ..] | [] => return None,
            [byte, after @ ..] => {
                key.push(*byte);
                rest = after;
            }
        }
    }
}

/// Everything of one bucket under `tag`.
pub fn of_bucket(tag: [u8; 2], bucket: BucketId) -> Vec<u8> {
    [&tag[..], &bucket.0.to_be_bytes()].concat()
}

/// All keys of a bucket that begin with `prefix`.
pub fn with_prefix(tag: [u8; 2], bucket: BucketId, prefix: &[u8]) -> Vec<u8> {
    let mut out = of_bucket(tag, bucket);
    escape(&mut out, prefix);
    out
}

/// Exactly this key: the whole store key under `CURRENT`, a prefix under the others.
pub fn of_key(tag: [u8; 2], bucket: BucketId, key: &[u8]) -> Vec<u8> {
    let mut out = with_prefix(tag, bucket, key);
    out.extend(END);
    out
}

pub fn setting(bucket: BucketId, kind: SettingKind) -> Vec<u8> {
    let mut out = of_bucket(SETTING, bucket);
    out.push(kind as u8);
    out
}

pub fn current(bucket: BucketId, key: &[u8]) -> Vec<u8> {
    of_key(CURRENT, bucket, key)
}

/// Under `VERSION` or `INLINE`: newer revisions sort first.
pub fn at_revision(tag: [u8; 2], bucket: BucketId, key: &[u8], revision: Revision) -> Vec<u8> {
    let mut out = of_key(tag, bucket, key);
    out.extend((!revision.0).to_be_bytes());
    out
}

/// The revision at the end of a key made by [`at_revision`].
pub fn revision_of(rest: &[u8]) -> Option<Revision> {
    rest.last_chunk::<8>().map(|bytes| Revision(!u64::from_be_bytes(*bytes)))
}

pub fn null_version(bucket: BucketId, key: &[u8]) -> Vec<u8> {
    of_key(NULL, bucket, key)
}

pub fn segments(bucket: BucketId, manifest: ManifestId) -> Vec<u8> {
    let mut out = of_bucket(SEGMENT, bucket);
    out.extend(manifest.0.as_bytes());
    out
}

pub fn segment(bucket: BucketId, manifest: ManifestId, number: u32) -> Vec<u8> {
    let mut out = segments(bucket, manifest);
    out.extend(number.to_be_bytes());
    out
}

pub fn pending(bucket: BucketId, manifest: ManifestId) -> Vec<u8> {
    let mut out = of_bucket(PENDING, bucket);
    out.extend(manifest.0.as_bytes());
    out
}

/// Bucket and manifest of a key made by [`pending`].
pub fn pending_of(key: &[u8]) -> Option<(BucketId, ManifestId)> {
    let rest = key.strip_prefix(&PENDING)?;
    let (bucket, rest) = rest.split_first_chunk::<8>()?;
    let manifest = <[u8; 16]>::try_from(rest).ok()?;
    Some((BucketId(u64::from_be_bytes(*bucket)), ManifestId(atoll_types::TransactionId(manifest))))
}

pub fn upload(bucket: BucketId, key: &[u8], upload: UploadId) -> Vec<u8> {
    let mut out = of_key(UPLOAD, bucket, key);
    out.extend(upload.0.as_bytes());
    out
}

pub fn parts(bucket: BucketId, upload: UploadId) -> Vec<u8> {
    let mut out = of_bucket(PART, bucket);
    out.extend(upload.0.as_bytes());
    out
}

pub fn part(bucket: BucketId, upload: UploadId, number: u16) -> Vec<u8> {
    let mut out = parts(bucket, upload);
    out.extend(number.to_be_bytes());
    out
}

/// The number at the end of a key made by [`part`].
pub fn part_number_of(key: &[u8]) -> Option<u16> {
    key.last_chunk::<2>().map(|bytes| u16::from_be_bytes(*bytes))
}

pub fn finished(bucket: BucketId, upload: UploadId) -> Vec<u8> {
    let mut out = of_bucket(FINISHED, bucket);
    out.extend(upload.0.as_bytes());
    out
}

pub fn dropped(epoch: u64, revision: Revision, number: u32) -> Vec<u8> {
    [&DROPPED[..], &epoch.to_be_bytes(), &revision.0.to_be_bytes(), &number.to_be_bytes()].concat()
}

pub fn change(revision: Revision) -> Vec<u8> {
    [&CHANGE[..], &revision.0.to_be_bytes()].concat()
}

/// The revision of a key made by [`change`].
pub fn change_of(key: &[u8]) -> Option<Revision> {
    key.last_chunk::<8>().map(|bytes| Revision(u64::from_be_bytes(*bytes)))
}

pub fn name(name: &BucketName) -> Vec<u8> {
    [&NAME[..], name.as_str().as_bytes()].concat()
}

pub fn snapshot(round: u64, of: ShardId) -> Vec<u8> {
    [&SNAPSHOT[..], &round.to_be_bytes(), &of.0.to_be_bytes()].concat()
}

/// Round and shard of a key made by [`snapshot`].
pub fn snapshot_of(key: &[u8]) -> Option<(u64, ShardId)> {
    let rest = key.strip_prefix(&SNAPSHOT)?;
    let (round, of) = rest.split_first_chunk::<8>()?;
    let of = <[u8; 4]>::try_from(of).ok()?;
    Some((u64::from_be_bytes(*round), ShardId(u32::from_be_bytes(of))))
}

pub fn intent(of: ShardId) -> Vec<u8> {
    [&INTENT[..], &of.0.to_be_bytes()].concat()
}

pub fn restoration(name: &BucketName) -> Vec<u8> {
    [&RESTORATION[..], name.as_str().as_bytes()].concat()
}

/// The record of which `rest` follows the bucket's id.
pub fn in_bucket(tag: [u8; 2], bucket: BucketId, rest: &[u8]) -> Vec<u8> {
    [&of_bucket(tag, bucket)[..], rest].concat()
}

/// The bucket of a record's key, and what follows its id.
pub fn bucket_of(key: &[u8]) -> Option<(BucketId, &[u8])> {
    let (bucket, rest) = key.get(2..)?.split_first_chunk::<8>()?;
    Some((BucketId(u64::from_be_bytes(*bucket)), rest))
}

/// The first key after everything that begins with `prefix`; `None` if nothing comes
/// after it.
pub fn after_prefix(mut prefix: Vec<u8>) -> Option<Vec<u8>> {
    while let Some(last) = prefix.pop() {
        if last < 0xff {
            prefix.push(last + 1);
            return Some(prefix);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn weird_key() -> impl Strategy<Value = Vec<u8>> {
        prop::collection::vec(prop_oneof![Just(0u8), Just(0xff), Just(1), Just(b'/'), any::<u8>()], 0..12)
    }

    proptest! {
        #[test]
        fn escaped_keys_sort_as_the_keys_do(a in weird_key(), b in weird_key()) {
            let bucket = BucketId(7);
            prop_assert_eq!(current(bucket, &a).cmp(&current(bucket, &b)), a.cmp(&b));
            prop_assert_eq!(
                current(bucket, &a).starts_with(&with_prefix(CURRENT, bucket, &b)),
                a.starts_with(&b)
            );
        }

        #[test]
        fn a_key_is_read_back_and_what_follows_it(key in weird_key(), rest in weird_key()) {
            let mut escaped = of_key(UPLOAD, BucketId(7), &key)[10..].to_vec();
            escaped.extend(&rest);
            prop_assert_eq!(unescape(&escaped), Some((key, &rest[..])));
        }
    }

    #[test]
    fn newer_versions_sort_first_and_no_key_lies_between_anothers_versions() {
        let at = |key: &[u8], revision| at_revision(VERSION, BucketId(1), key, Revision(revision));
        assert!(at(b"a", 9) < at(b"a", 8));
        assert!(at(b"a", 1) < at(b"a\0", u64::MAX));
    }

    #[test]
    fn after_a_prefix_comes_the_next_possible_key() {
        assert_eq!(after_prefix(vec![1, 2]), Some(vec![1, 3]));
        assert_eq!(after_prefix(vec![1, 0xff, 0xff]), Some(vec![2]));
        assert_eq!(after_prefix(vec![0xff]), None);
    }
}
