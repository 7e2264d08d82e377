//! Restoring buckets from snapshots, of this cluster or of a backup. What runs in the shards is
//! in `shard/restore.rs`.
//!
//! Records are committed only when all chunks that they refer to are stamped at their quorums,
//! like those of a put (rule 9). Which are missing is the answer; whoever restores brings them
//! and asks again, so what is there already is never sent.

use std::collections::BTreeSet;

use atoll_types::{ChunkHash, ShardId, WallTime};
use bytes::Bytes;
use futures_util::{StreamExt, stream};

use crate::{
    chunker::CHUNK_BYTES_MAX,
    error::{RestoreError, Unavailable},
    names::BucketName,
    objects::{Objects, unexpected},
    request::BucketInfo,
    sealing::SealError,
    shard::{
        Refused,
        restore::{self, Begin, BucketRecord, Import, Open},
    },
    snapshot::{SNAPSHOTS_SINCE, format::OpenedBucket},
};

/// Of records that go together into one command: with their keys it stays under 1 MiB.
const GROUP_BYTES_MAX: usize = 256 << 10;
/// Commands on their way at once: they share flushes.
const IMPORTS: usize = 16;
/// How often records are stamped again because a sweep overtook them.
const STAMP_ATTEMPTS: usize = 3;

/// What became of the wish to restore a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Restoring {
    /// It takes records now.
    Begun(BucketInfo),
    /// It was restored from this source before, and is there.
    Done,
}

impl Objects {
    /// Begins to restore a bucket, or goes on. `source` says from where: what is half-way there
    /// from another source is not mixed with it.
    pub async fn begin_restore(
        &self,
        name: &BucketName,
        owner: String,
        created: WallTime,
        source: String,
    ) -> Result<Restoring, RestoreError> {
        self.needs_version(SNAPSHOTS_SINCE, self.deadline()).await?;
        let data_shards = self.inner.holders.layout().settings().data_shards;
        let begin = Begin { name: name.clone(), owner, created, source, data_shards };
        let id = self.inner.runtime.transaction_id();
        let begun = self.execute(ShardId::META, id, &restore::BEGIN, begin, self.deadline()).await?;
        match begun.map_err(unexpected)? {
            restore::Begun::Going(bucket) => Ok(Restoring::Begun(bucket)),
            restore::Begun::Done => Ok(Restoring::Done),
            restore::Begun::Taken => Err(RestoreError::BucketExists(name.clone())),
            restore::Begun::Other { source } => {
                Err(RestoreError::OtherSource { bucket: name.clone(), from: source })
            }
        }
    }

    async fn restoring(&self, name: &BucketName) -> Result<BucketInfo, RestoreError> {
        let found = self.query(ShardId::META, &restore::FIND, name.clone(), self.deadline()).await?;
        found.map_err(unexpected)?.ok_or_else(|| RestoreError::NotBegun(name.clone()))
    }

    /// Takes a chunk that records to come refer to.
    pub async fn bring_chunk(&self, hash: ChunkHash, bytes: Bytes) -> Result<(), RestoreError> {
        let given = bytes.clone();
        let is_it = bytes.len() <= CHUNK_BYTES_MAX
            && self.inner.runtime.blocking(move || ChunkHash::of(&given)).await == hash;
        if !is_it {
            return Err(RestoreError::OtherBytes(hash));
        }
        // All shards are raised to one epoch in one sweep, and the import stamps once more.
        let epoch = self.recent_epoch(ShardId(1)).await?;
        self.keep_chunk(bytes, epoch).await?;
        Ok(())
    }

    /// Commits records of a bucket that is being restored, or gives the chunks that are missing
    /// for it; then nothing was committed.
    pub async fn import(
        &self,
        name: &BucketName,
        records: Vec<BucketRecord>,
    ) -> Result<Vec<ChunkHash>, RestoreError> {
        let bucket = self.restoring(name).await?;
        let shard = bucket.shard_of(&[]);
        let mut hashes = BTreeSet::new();
        for record in &records {
            let references = record.references().map_err(|_| RestoreError::Malformed)?;
            if !record.is_sound() {
                return Err(RestoreError::Malformed);
            }
            hashes.extend(references.iter().map(|reference| reference.hash));
        }
        let hashes: Vec<ChunkHash> = hashes.into_iter().collect();
        if records.iter().any(BucketRecord::has_acl) {
            self.knows_acls().await?;
        }
        self.take_root_key_of(&records).await?;
        for _ in 0..STAMP_ATTEMPTS {
            let epoch = self.reclaim_epoch(shard).await?;
            let missing = self.inner.holders.stamp_what_is_there(&hashes, epoch, self.deadline()).await?;
            if !missing.is_empty() {
                return Ok(missing);
            }
            self.inner.runtime.fault_point("objects: stamped for a restore, not committed").await;
            let imports = groups(&records).into_iter().map(|records| {
                let import = Import { bucket: bucket.id, epoch, records };
                let id = self.inner.runtime.transaction_id();
                async move { self.execute(shard, id, &restore::IMPORT, import, self.deadline()).await }
            });
            let mut stale = false;
            for done in stream::iter(imports).buffered(IMPORTS).collect::<Vec<_>>().await {
                match done? {
                    Ok(()) => {}
                    Err(Refused::StaleEpoch { .. }) => stale = true,
                    Err(Refused::Malformed) => return Err(RestoreError::Malformed),
                    Err(refused) => return Err(unexpected(refused).into()),
                }
            }
            if !stale {
                return Ok(Vec::new());
            }
        }
        Err(Unavailable::Unsettled.into())
    }

    /// The root key that what comes in is encrypted with becomes the cluster's, if this node has
    /// it: no other that is used first gets between. A cluster that has one keeps it; reading
    /// goes by what each node has.
    async fn take_root_key_of(&self, records: &[BucketRecord]) -> Result<(), Unavailable> {
        let Some(mine) = self.root_key_id() else { return Ok(()) };
        if !records.iter().any(|record| record.needs_root_key() == Some(mine)) {
            return Ok(());
        }
        match self.root_key(self.deadline()).await {
            Err(SealError::Unavailable(error)) => Err(error),
            _ => Ok(()),
        }
    }

    /// The bucket under its new id, to which rules may be given before anybody sees it.
    pub async fn restored_bucket(&self, name: &BucketName) -> Result<BucketInfo, RestoreError> {
        self.restoring(name).await
    }

    /// All its records are there: makes it a bucket.
    pub async fn finish_restore(
        &self,
        name: &BucketName,
        as_it_was: OpenedBucket,
    ) -> Result<(), RestoreError> {
        let bucket = self.restoring(name).await?;
        let OpenedBucket { versioning, newest, encrypted, .. } = as_it_was;
        let open = Open { bucket: bucket.id, versioning, restored: newest, encrypted };
        let id = self.inner.runtime.transaction_id();
        let opened = self.execute(bucket.shard_of(&[]), id, &restore::OPEN, open, self.deadline()).await?;
        opened.map_err(unexpected)?;
        let id = self.inner.runtime.transaction_id();
        let published =
            self.execute(ShardId::META, id, &restore::PUBLISH, name.clone(), self.deadline()).await?;
        self.forget_bucket(name);
        match published {
            Ok(true) => Ok(()),
            Ok(false) => Err(RestoreError::BucketExists(name.clone())),
            Err(Refused::UnknownBucket | Refused::FreedBucket) => Err(RestoreError::NotBegun(name.clone())),
            Err(refused) => Err(unexpected(refused).into()),
        }
    }
}

/// Records as commands take them: of those that refer to chunks one each.
fn groups(records: &[BucketRecord]) -> Vec<Vec<BucketRecord>> {
    let mut groups = Vec::new();
    let (mut group, mut bytes) = (Vec::new(), 0);
    for record in records {
        if record.references().is_ok_and(|references| !references.is_empty()) {
            groups.push(vec![record.clone()]);
            continue;
        }
        bytes += record.rest.len() + record.value.len();
        group.push(record.clone());
        if bytes >= GROUP_BYTES_MAX {
            groups.push(std::mem::take(&mut group));
            bytes = 0;
        }
    }
    if !group.is_empty() {
        groups.push(group);
    }
    groups
}
