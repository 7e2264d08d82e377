//! What of buckets and objects is encrypted, and with which key: the way from a request to
//! a [`Sealing`], and back from a record's seal to its data key.

use std::{sync::Arc, time::Duration};

use atoll_types::{Instant, ShardId};

use crate::{
    encryption::{
        self, CustomerKey, Encryption, EncryptionError, EncryptionKind, RootKey, RootKeyId, Sealing,
        seal::{DataKey, Seal, SealedBy},
    },
    error::{CreateUploadError, HeadBucketError, PutObjectError, SetEncryptionError, Unavailable},
    names::{BucketName, ObjectKey},
    object::Checksum,
    objects::{Objects, unexpected},
    request::BucketInfo,
    shard::{bucket, root_key},
};

/// From this cluster version on there is encryption (rule 18).
pub const ENCRYPTION_SINCE: u32 = 4;

/// How long a node goes by what a bucket once said of its encryption: a question a second, or
/// one for each write to a bucket that is written to less often.
const KNOWN_FOR: Duration = Duration::from_secs(1);
/// How long who changes a bucket's encryption waits until it says so: longer than any node
/// goes by what was before, so that nothing whose put begins after the answer ever lies on a
/// disk in the clear. A fourth more, for clocks that do not run alike.
const SETTLING: Duration = Duration::from_millis(1250);
/// Nodes hear within this time of each other that the cluster's version was raised; one that
/// has not heard would take what is in the clear.
pub const VERSION_HEARD_WITHIN: Duration = Duration::from_secs(6);

const _: () = assert!(SETTLING.as_millis() > KNOWN_FOR.as_millis());

/// Why there is no data key for a write.
pub(crate) enum SealError {
    NoSuchBucket(BucketName),
    Encryption(EncryptionError),
    Unavailable(Unavailable),
}

impl From<EncryptionError> for SealError {
    fn from(error: EncryptionError) -> Self {
        SealError::Encryption(error)
    }
}

impl From<Unavailable> for SealError {
    fn from(error: Unavailable) -> Self {
        SealError::Unavailable(error)
    }
}

macro_rules! seal_error_into {
    ($($error:ident),*) => {
        $(impl From<SealError> for $error {
            fn from(error: SealError) -> Self {
                match error {
                    SealError::NoSuchBucket(name) => $error::NoSuchBucket(name),
                    SealError::Encryption(error) => $error::Encryption(error),
                    SealError::Unavailable(error) => $error::Unavailable(error),
                }
            }
        })*
    };
}
seal_error_into!(PutObjectError, CreateUploadError, SetEncryptionError);

impl Seal {
    pub(crate) fn kind(&self) -> EncryptionKind {
        match self.by {
            SealedBy::Root(_) => EncryptionKind::Managed,
            SealedBy::Customer => EncryptionKind::Customer,
        }
    }
}

impl DataKey {
    /// For a record: the bytes that a checksum is of can be guessed from it.
    pub(crate) fn seal_checksum(&self, objects: &Objects, checksum: &Checksum) -> Checksum {
        let value = self.seal_value(&mut objects.inner.runtime.rng(), &checksum.value);
        Checksum { value, ..*checksum }
    }

    pub(crate) fn open_checksum(&self, checksum: &Checksum) -> Option<Checksum> {
        Some(Checksum { value: self.open_value(&checksum.value)?, ..*checksum })
    }
}

impl Objects {
    /// How what is to be written at `key` is sealed: as asked, or as the bucket has it. Gives
    /// where the bucket is, which may not be where it was.
    pub(crate) async fn sealing(
        &self,
        info: Arc<BucketInfo>,
        key: &ObjectKey,
        asked: Option<&Encryption>,
        deadline: Instant,
    ) -> Result<(Arc<BucketInfo>, Option<Sealing>), SealError> {
        let (info, encryption) = match asked {
            Some(asked) => (info, asked.clone()),
            None => match self.encrypts(info, deadline).await? {
                (info, true) => (info, Encryption::Managed),
                (info, false) => return Ok((info, None)),
            },
        };
        let root = match encryption.kind() {
            EncryptionKind::Managed => Some(self.root_key(deadline).await?),
            EncryptionKind::Customer => None,
        };
        self.needs_version(ENCRYPTION_SINCE, deadline).await?;
        let mut rng = self.inner.runtime.rng();
        Ok((info, Some(Sealing::begin(&mut rng, &encryption, root, key.as_bytes())?)))
    }

    /// The data key of what lies at `key`; `None` if it is not encrypted.
    pub(crate) fn open_seal(
        &self,
        seal: Option<&Seal>,
        customer: Option<&CustomerKey>,
        key: &ObjectKey,
    ) -> Result<Option<DataKey>, EncryptionError> {
        encryption::open(seal, self.inner.root_key.as_ref(), customer, key.as_bytes())
    }

    /// This node's root key, if it is the cluster's. The first that is used becomes that:
    /// what one node wrote under another, the others could not read.
    pub(crate) async fn root_key(&self, deadline: Instant) -> Result<&RootKey, SealError> {
        let mine = self.inner.root_key.as_ref().ok_or(EncryptionError::NoRootKey)?;
        self.needs_version(ENCRYPTION_SINCE, deadline).await?;
        let needs = match self.inner.cluster_root_key.get() {
            Some(known) => *known,
            None => {
                let id = self.inner.runtime.transaction_id();
                let claimed = self.execute(ShardId::META, id, &root_key::CLAIM, mine.id(), deadline).await?;
                let claimed = claimed.map_err(unexpected)?;
                *self.inner.cluster_root_key.get_or_init(|| claimed)
            }
        };
        if needs == mine.id() {
            Ok(mine)
        } else {
            Err(EncryptionError::OtherRootKey { has: mine.id(), needs }.into())
        }
    }

    /// Which root key this node was given.
    pub fn root_key_id(&self) -> Option<RootKeyId> {
        self.inner.root_key.as_ref().map(RootKey::id)
    }

    /// Which root key the cluster has, if any was ever used.
    pub async fn cluster_root_key(&self) -> Result<Option<RootKeyId>, Unavailable> {
        let deadline = self.deadline();
        if !self.has_version(ENCRYPTION_SINCE, deadline).await? {
            return Ok(None);
        }
        self.query(ShardId::META, &root_key::GET, (), deadline).await?.map_err(unexpected)
    }

    /// Whether the bucket takes nothing in the clear, as of a moment ago; its shard refuses
    /// what a longer wait lets through. Gives where the bucket is, which is asked for it: what
    /// was deleted and made again may encrypt by now.
    async fn encrypts(
        &self,
        info: Arc<BucketInfo>,
        deadline: Instant,
    ) -> Result<(Arc<BucketInfo>, bool), SealError> {
        if !self.has_encryption(deadline).await? {
            return Ok((info, false));
        }
        let now = self.inner.runtime.now();
        let known = self.encrypted_buckets().get(&info.id).copied();
        if let Some((encrypted, _)) = known.filter(|(_, asked)| now.saturating_since(*asked) < KNOWN_FOR) {
            return Ok((info, encrypted));
        }
        let name = info.name.clone();
        let asked = self.ask_known_bucket(info, &bucket::ENCRYPTED, |bucket| bucket, deadline).await?;
        let (info, encrypted) = asked.ok_or(SealError::NoSuchBucket(name))?;
        let mut buckets = self.encrypted_buckets();
        buckets.retain(|_, (_, asked)| now.saturating_since(*asked) < KNOWN_FOR);
        buckets.insert(info.id, (encrypted, now));
        drop(buckets);
        Ok((info, encrypted))
    }

    /// The bucket refused what is in the clear: it is asked anew.
    pub(crate) fn must_be_sealed(&self, info: &BucketInfo) -> Unavailable {
        self.encrypted_buckets().remove(&info.id);
        Unavailable::Unsettled
    }

    async fn has_encryption(&self, deadline: Instant) -> Result<bool, Unavailable> {
        let has = self.has_version(ENCRYPTION_SINCE, deadline).await?;
        if has {
            self.inner.encryption_heard.get_or_init(|| self.inner.runtime.now());
        }
        Ok(has)
    }

    pub async fn bucket_encryption(&self, bucket: &BucketName) -> Result<bool, HeadBucketError> {
        let no_such = || HeadBucketError::NoSuchBucket(bucket.clone());
        let deadline = self.deadline();
        if !self.has_version(ENCRYPTION_SINCE, deadline).await? {
            self.head_bucket(bucket).await?;
            return Ok(false);
        }
        self.ask_bucket(bucket, &bucket::ENCRYPTED, |bucket| bucket, deadline).await?.ok_or_else(no_such)
    }

    /// Whether every put and upload that begins in the bucket from now on is encrypted by the
    /// root key, unless it brings its own. What is in it stays as it is. Takes [`SETTLING`], and
    /// longer while others may not have heard that there is encryption.
    pub async fn set_bucket_encryption(
        &self,
        bucket: &BucketName,
        encrypted: bool,
    ) -> Result<(), SetEncryptionError> {
        let no_such = || SetEncryptionError::NoSuchBucket(bucket.clone());
        let deadline = self.deadline();
        if encrypted {
            self.root_key(deadline).await?;
        }
        self.needs_version(ENCRYPTION_SINCE, deadline).await?;
        let set = |bucket| bucket::SetEncrypted { bucket, encrypted };
        self.tell_bucket(bucket, &bucket::SET_ENCRYPTED, set, deadline).await?.ok_or_else(no_such)?;
        let now = self.inner.runtime.now();
        let heard = *self.inner.encryption_heard.get_or_init(|| now);
        let all_heard = (heard + VERSION_HEARD_WITHIN).saturating_since(now);
        self.inner.runtime.sleep(SETTLING.max(all_heard)).await;
        Ok(())
    }
}
