//! The seals themselves: AES-256-GCM under keys that are used for one thing each.
//!
//! Every key is derived (BLAKE3's `derive_key`, a context for each purpose) from the one
//! above it and a random salt, so that a fixed nonce, or a chunk's place, is never used
//! twice under one key. A chunk's nonce is its offset in its stream and whether it is the
//! last: chunks that are swapped, left out, cut off, or taken from another object do not
//! open.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use rand::Rng;
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{KeyBytes, RootKeyId};

/// What sealing adds to some bytes: the tag.
pub(crate) const TAG_BYTES: usize = 16;
const SALT_BYTES: usize = 32;
/// Of a value that is sealed by itself.
const VALUE_SALT_BYTES: usize = 16;

/// Whose key wraps a data key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum SealedBy {
    Root(RootKeyId),
    Customer,
}

/// A data key, wrapped: what a record keeps of an object's encryption. Of a customer's key
/// it is a salted verifier and no more.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seal {
    pub by: SealedBy,
    salt: [u8; SALT_BYTES],
    wrapped: Bytes,
}

/// Makes the streams of one object or upload, and lives no longer than a request.
#[derive(Clone)]
pub struct DataKey(KeyBytes);

/// Says which stream of an upload's data key a part is; random for each attempt, since a
/// part may be uploaded twice with other bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartSalt([u8; SALT_BYTES]);

impl PartSalt {
    pub fn draw(rng: &mut impl Rng) -> Self {
        Self(rng.random())
    }
}

/// Seals and opens the chunks of one stream of bytes: an object's, or a part's.
#[derive(Clone)]
pub struct StreamKey(Arc<LessSafeKey>);

fn derive(context: &'static str, key: &[u8; 32], more: &[u8]) -> KeyBytes {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    hasher.update(key).update(more);
    Zeroizing::new(*hasher.finalize().as_bytes())
}

fn cipher(key: &KeyBytes) -> LessSafeKey {
    LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &key[..]).expect("32 bytes are a key"))
}

fn seal_with(key: &LessSafeKey, nonce: [u8; NONCE_LEN], aad: &[u8], bytes: &[u8]) -> Bytes {
    let mut sealed = BytesMut::with_capacity(bytes.len() + TAG_BYTES);
    sealed.extend_from_slice(bytes);
    let nonce = Nonce::assume_unique_for_key(nonce);
    key.seal_in_place_append_tag(nonce, Aad::from(aad), &mut sealed).expect("under GCM's 64 GiB");
    sealed.freeze()
}

fn open_with(key: &LessSafeKey, nonce: [u8; NONCE_LEN], aad: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = sealed.to_vec();
    let opened = key.open_in_place(Nonce::assume_unique_for_key(nonce), Aad::from(aad), &mut bytes).ok()?;
    let len = opened.len();
    bytes.truncate(len);
    Some(bytes)
}

/// The nonce of keys that seal one thing in their life.
const ONCE: [u8; NONCE_LEN] = [0; NONCE_LEN];

impl Seal {
    /// A fresh data key, and that key wrapped by `wrapping` for `name`: the object's key, so
    /// that a record's seal is of no use under another one.
    pub(super) fn begin(
        rng: &mut impl Rng,
        by: SealedBy,
        wrapping: &KeyBytes,
        name: &[u8],
    ) -> (Self, DataKey) {
        let (key, salt): (DataKey, [u8; SALT_BYTES]) = (DataKey(Zeroizing::new(rng.random())), rng.random());
        let wrapped = seal_with(&Self::wrapping(by, wrapping, &salt), ONCE, name, &key.0[..]);
        (Self { by, salt, wrapped }, key)
    }

    fn wrapping(by: SealedBy, wrapping: &KeyBytes, salt: &[u8]) -> LessSafeKey {
        let context = match by {
            SealedBy::Root(_) => "atoll 2026 data key wrapped by a root key",
            SealedBy::Customer => "atoll 2026 data key wrapped by a customer key",
        };
        cipher(&derive(context, wrapping, salt))
    }

    /// `None` if it was wrapped by another key or for another name, or was altered.
    pub(super) fn unwrap(&self, wrapping: &KeyBytes, name: &[u8]) -> Option<DataKey> {
        let opened = open_with(&Self::wrapping(self.by, wrapping, &self.salt), ONCE, name, &self.wrapped)?;
        let opened = Zeroizing::new(opened);
        Some(DataKey(Zeroizing::new(opened[..].try_into().ok()?)))
    }
}

impl DataKey {
    #[cfg(test)]
    pub fn bytes(&self) -> &[u8] {
        &self.0[..]
    }

    /// Of an object that was put in one piece.
    pub fn object_stream(&self) -> StreamKey {
        StreamKey(Arc::new(cipher(&derive("atoll 2026 sealed object", &self.0, &[]))))
    }

    pub fn part_stream(&self, number: u16, salt: &PartSalt) -> StreamKey {
        let more = [&number.to_be_bytes()[..], &salt.0].concat();
        StreamKey(Arc::new(cipher(&derive("atoll 2026 sealed part", &self.0, &more))))
    }

    /// Seals a few bytes that lie in a record: a checksum tells what it is of.
    pub fn seal_value(&self, rng: &mut impl Rng, value: &[u8]) -> Bytes {
        let salt: [u8; VALUE_SALT_BYTES] = rng.random();
        let sealed = seal_with(&self.value_key(&salt), ONCE, &[], value);
        [&salt[..], &sealed].concat().into()
    }

    /// `None` if it was sealed with another key, or altered.
    pub fn open_value(&self, sealed: &[u8]) -> Option<Bytes> {
        let (salt, sealed) = sealed.split_at_checked(VALUE_SALT_BYTES)?;
        open_with(&self.value_key(salt), ONCE, &[], sealed).map(Bytes::from)
    }

    fn value_key(&self, salt: &[u8]) -> LessSafeKey {
        cipher(&derive("atoll 2026 sealed value", &self.0, salt))
    }

    /// What stands for the MD5 in the ETag of an object with a customer's key, and says
    /// nothing of its bytes.
    pub fn etag(&self, md5: [u8; 16]) -> [u8; 16] {
        let hash = derive("atoll 2026 sealed etag", &self.0, &md5);
        let mut etag = [0; 16];
        etag.copy_from_slice(&hash[..16]);
        etag
    }
}

impl StreamKey {
    /// Offset and last are of the bytes in the clear.
    pub fn seal(&self, offset: u64, last: bool, bytes: &[u8]) -> Bytes {
        seal_with(&self.0, place(offset, last), &[], bytes)
    }

    /// `None` if these are not the bytes that were sealed for this place.
    pub fn open(&self, offset: u64, last: bool, sealed: &[u8]) -> Option<Bytes> {
        open_with(&self.0, place(offset, last), &[], sealed).map(Bytes::from)
    }
}

fn place(offset: u64, last: bool) -> [u8; NONCE_LEN] {
    let mut nonce = [0; NONCE_LEN];
    nonce[..8].copy_from_slice(&offset.to_be_bytes());
    nonce[8] = u8::from(last);
    nonce
}

#[cfg(test)]
pub fn stream_key(seed: u8) -> StreamKey {
    DataKey(Zeroizing::new([seed; 32])).object_stream()
}

#[cfg(test)]
mod tests {
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    fn data_key(seed: u64) -> DataKey {
        DataKey(Zeroizing::new(StdRng::seed_from_u64(seed).random()))
    }

    #[test]
    fn a_chunk_opens_in_its_own_place_only() {
        let (key, other) = (data_key(1).object_stream(), data_key(2).object_stream());
        let sealed = key.seal(7, false, b"some bytes");
        assert_eq!(sealed.len(), 10 + TAG_BYTES);
        assert!(!sealed.windows(4).any(|four| four == b"some"));
        assert_eq!(key.open(7, false, &sealed).unwrap(), "some bytes");
        assert_eq!(key.open(8, false, &sealed), None);
        assert_eq!(key.open(7, true, &sealed), None);
        assert_eq!(other.open(7, false, &sealed), None);
        assert_eq!(key.open(7, false, &sealed[..sealed.len() - 1]), None);
        assert_eq!(key.open(7, false, &[]), None);
        for at in 0..sealed.len() {
            let mut altered = sealed.to_vec();
            altered[at] ^= 1;
            assert_eq!(key.open(7, false, &altered), None, "byte {at}");
        }
    }

    #[test]
    fn parts_have_streams_of_their_own_each_time() {
        let mut rng = StdRng::seed_from_u64(5);
        let key = data_key(1);
        let (one, again) = (PartSalt::draw(&mut rng), PartSalt::draw(&mut rng));
        let sealed = key.part_stream(1, &one).seal(0, true, b"part");
        assert_eq!(key.part_stream(1, &one).open(0, true, &sealed).unwrap(), "part");
        assert_eq!(key.part_stream(2, &one).open(0, true, &sealed), None);
        assert_eq!(key.part_stream(1, &again).open(0, true, &sealed), None);
        assert_eq!(key.object_stream().open(0, true, &sealed), None);
    }

    #[test]
    fn a_value_is_sealed_anew_each_time_and_opens_with_its_key() {
        let mut rng = StdRng::seed_from_u64(6);
        let key = data_key(1);
        let (one, two) = (key.seal_value(&mut rng, b"crc"), key.seal_value(&mut rng, b"crc"));
        assert_ne!(one, two);
        assert_eq!(key.open_value(&one).unwrap(), "crc");
        assert_eq!(data_key(2).open_value(&one), None);
        assert_eq!(key.open_value(b"short"), None);
        assert_ne!(key.etag([1; 16]), data_key(2).etag([1; 16]));
    }
}
