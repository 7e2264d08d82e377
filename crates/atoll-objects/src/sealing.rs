//! What of buckets and objects is encrypted, and with which key: the way from a request to
//! a [`Sealing`], and back from a record's seal to its data key.

use std::time::Duration;

use atoll_types::{Instant, ShardId};

use crate::{
    encryption::{
        self, CustomerKey, Encryption, EncryptionError, EncryptionKind, RootKey, RootKeyId, Sealing,
        seal::{DataKey, Seal, SealedBy},
    },
    error::{
        CreateUploadError, GetObjectError, HeadBucketError, PutObjectError, SetEncryptionError, Unavailable,
    },
    names::{BucketName, ObjectKey},
    object::Checksum,
    objects::{BUCKET_ATTEMPTS, Objects, unexpected},
    request::BucketInfo,
    shard::{Refused, bucket, root_key},
};

/// From this cluster version on there is encryption (rule 18).
pub const ENCRYPTION_SINCE: u32 = 4;

/// How long a node goes by what a bucket once said of its encryption: a question a second
/// for each bucket that is written to.
const KNOWN_FOR: Duration = Duration::from_secs(1);
/// How long who changes a bucket's encryption waits until it says so: longer than any node
/// goes by what was before, so that nothing that is put after the answer ever lies on a disk
/// in the clear. A fourth more, for clocks that do not run alike.
const SETTLING: Duration = Duration::from_millis(1250);

const _: () = assert!(SETTLING.as_millis() > KNOWN_FOR.as_millis());

/// Why there is no data key for a write.
pub(crate) enum SealError {
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
    /// How what is to be written at `key` is sealed: as asked, or as the bucket has it.
    pub(crate) async fn sealing(
        &self,
        info: &BucketInfo,
        key: &ObjectKey,
        asked: Option<&Encryption>,
        deadline: Instant,
    ) -> Result<Option<Sealing>, SealError> {
        let encryption = match asked {
            Some(asked) => asked.clone(),
            None if self.encrypts(info, deadline).await? => Encryption::Managed,
            None => return Ok(None),
        };
        let root = match encryption.kind() {
            EncryptionKind::Managed => Some(self.root_key(deadline).await?),
            EncryptionKind::Customer => None,
        };
        self.needs_version(ENCRYPTION_SINCE, deadline).await?;
        let mut rng = self.inner.runtime.rng();
        Ok(Some(Sealing::begin(&mut rng, &encryption, root, key.as_bytes())?))
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
    async fn root_key(&self, deadline: Instant) -> Result<&RootKey, SealError> {
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

    /// Which root key the cluster has, if any was ever used.
    pub async fn cluster_root_key(&self) -> Result<Option<RootKeyId>, Unavailable> {
        let deadline = self.deadline();
        if !self.has_version(ENCRYPTION_SINCE, deadline).await? {
            return Ok(None);
        }
        self.query(ShardId::META, &root_key::GET, (), deadline).await?.map_err(unexpected)
    }

    /// Whether the bucket takes nothing in the clear, as of a moment ago; its shard refuses
    /// what a longer wait lets through.
    async fn encrypts(&self, info: &BucketInfo, deadline: Instant) -> Result<bool, Unavailable> {
        if !self.has_version(ENCRYPTION_SINCE, deadline).await? {
            return Ok(false);
        }
        let now = self.inner.runtime.now();
        let known = self.encrypted_buckets().get(&info.id).copied();
        if let Some((encrypted, _)) = known.filter(|(_, asked)| now.saturating_since(*asked) < KNOWN_FOR) {
            return Ok(encrypted);
        }
        match self.query(info.shard_of(&[]), &bucket::ENCRYPTED, info.id, deadline).await? {
            Ok(encrypted) => {
                let mut buckets = self.encrypted_buckets();
                buckets.retain(|_, (_, asked)| now.saturating_since(*asked) < KNOWN_FOR);
                buckets.insert(info.id, (encrypted, now));
                Ok(encrypted)
            }
            // The bucket is elsewhere or gone: the write itself finds out.
            Err(_) => Ok(false),
        }
    }

    pub async fn bucket_encryption(&self, bucket: &BucketName) -> Result<bool, HeadBucketError> {
        let no_such = || HeadBucketError::NoSuchBucket(bucket.clone());
        let deadline = self.deadline();
        if !self.has_version(ENCRYPTION_SINCE, deadline).await? {
            self.head_bucket(bucket).await?;
            return Ok(false);
        }
        let mut info = self.bucket(bucket, deadline).await?.ok_or_else(no_such)?;
        for _ in 0..BUCKET_ATTEMPTS {
            match self.query(info.shard_of(&[]), &bucket::ENCRYPTED, info.id, deadline).await? {
                Ok(encrypted) => return Ok(encrypted),
                Err(refused) => {
                    info = self.follow_bucket(&info, &refused, deadline).await?.ok_or_else(no_such)?;
                }
            }
        }
        Err(Unavailable::Unsettled.into())
    }

    /// Whether everything that is put into the bucket from now on is encrypted by the root
    /// key, unless it brings its own. What is in it stays as it is. Takes [`SETTLING`].
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
        let mut info = self.bucket(bucket, deadline).await?.ok_or_else(no_such)?;
        for _ in 0..BUCKET_ATTEMPTS {
            let mut refused: Option<Refused> = None;
            for range in &info.ranges {
                let set = bucket::SetEncrypted { bucket: info.id, encrypted };
                let id = self.inner.runtime.transaction_id();
                let done = self.execute(range.shard, id, &bucket::SET_ENCRYPTED, set, deadline).await?;
                refused = refused.or(done.err());
            }
            match refused {
                None => {
                    self.encrypted_buckets().remove(&info.id);
                    self.inner.runtime.sleep(SETTLING).await;
                    return Ok(());
                }
                Some(no) => info = self.follow_bucket(&info, &no, deadline).await?.ok_or_else(no_such)?,
            }
        }
        Err(Unavailable::Unsettled.into())
    }
}

impl GetObjectError {
    /// What the checksum of an object does not open to was altered.
    pub(crate) fn altered() -> Self {
        GetObjectError::Encryption(EncryptionError::Altered)
    }
}
