//! Where a restore reads from: a backup in another store, or this cluster's own snapshots.

use std::collections::{BTreeMap, BTreeSet};

use atoll_gateway::admin::api::{ShardSnapshot, SnapshotRound};
use atoll_objects::{ChunkRef, Entries, Entry};
use atoll_types::{ChunkHash, Format};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};

use super::plan::Plan;
use crate::{
    backup::{AT_ONCE, BACKUPS, CHUNKS, Contents, Manifest},
    client::AdminClient,
    failure::{Failure, Fault},
    other::{OtherArgs, OtherStore, S3Url},
    snapshot::time,
};

/// How many are named where many are missing.
pub const NAMED_MAX: usize = 20;

pub enum Source<'a> {
    Backup {
        store: Box<OtherStore>,
        name: String,
        manifest: Manifest,
        /// What lies in the other store, and how long it is.
        there: BTreeMap<String, u64>,
    },
    Snapshot {
        client: &'a AdminClient,
        round: SnapshotRound,
    },
}

impl<'a> Source<'a> {
    pub async fn backup(other: &OtherArgs, place: &S3Url, name: Option<&str>) -> Result<Self, Failure> {
        let store = OtherStore::new(other, place)?;
        let backups = store.list(BACKUPS).await?;
        let names: Vec<&str> = backups.keys().filter_map(|name| name.strip_suffix(".json")).collect();
        let none = |what: String| {
            let failure = Failure::new(Fault::Request, format!("there is no backup {what}in {place}"));
            match names.is_empty() {
                true => failure.hint("is it the PLACE that was given to `atoll backup --to`?"),
                false => failure.hint(format!("there are: {}", names.join(", "))),
            }
        };
        let name = match name {
            Some(name) => {
                names.iter().find(|there| **there == name).ok_or_else(|| none(format!("{name} ")))?
            }
            None => names.last().ok_or_else(|| none(String::new()))?,
        };
        let name = name.to_string();
        let list = store.get(&format!("{BACKUPS}{name}.json")).await?;
        let manifest = Manifest::decode(&name, &list.ok_or_else(|| none(format!("{name} ")))?)?;
        let there = store.list(CHUNKS).await?;
        Ok(Source::Backup { store: Box::new(store), name, manifest, there })
    }

    /// The newest that was taken by then.
    pub async fn snapshot(client: &'a AdminClient, at_millis: u64) -> Result<Self, Failure> {
        let rounds = client.snapshots().await?.rounds;
        let complete = || rounds.iter().filter(|round| round.complete);
        let found =
            complete().filter(|round| round.taken_millis <= at_millis).max_by_key(|round| round.round);
        match found {
            Some(round) => Ok(Source::Snapshot { client, round: round.clone() }),
            None => {
                let message = format!("no snapshot was taken by {}", time(at_millis));
                let oldest = complete().map(|round| time(round.taken_millis)).next();
                let oldest = oldest.map(|oldest| format!("the oldest is of {oldest}: "));
                Err(Failure::new(Fault::Request, message)
                    .hint(format!("{}atoll snapshot list shows them", oldest.unwrap_or_default())))
            }
        }
    }

    pub fn default_prefix(&self) -> &'static str {
        match self {
            Source::Backup { .. } => "",
            Source::Snapshot { .. } => "restored-",
        }
    }

    /// For people, and to tell apart what is half-way restored.
    pub fn name(&self) -> String {
        match self {
            Source::Backup { name, manifest, .. } => format!("backup {name} of cluster {}", manifest.cluster),
            Source::Snapshot { round, .. } => format!("snapshot {}", round.round),
        }
    }

    pub fn taken_millis(&self) -> u64 {
        match self {
            Source::Backup { manifest, .. } => manifest.taken_millis,
            Source::Snapshot { round, .. } => round.taken_millis,
        }
    }

    pub fn shards(&self) -> &[ShardSnapshot] {
        match self {
            Source::Backup { manifest, .. } => &manifest.shards,
            Source::Snapshot { round, .. } => &round.shards,
        }
    }

    /// Verified; if it is not to be had, or is other bytes, the failure names it.
    pub async fn chunk(&self, hash: ChunkHash) -> Result<Bytes, Failure> {
        match self {
            Source::Backup { store, .. } => {
                let bytes = store.get(&format!("{CHUNKS}{hash}")).await?;
                let bytes = bytes.ok_or_else(|| missing(&[hash]))?;
                if ChunkHash::of(&bytes) != hash {
                    let message = format!("the chunk {hash} of the backup is damaged");
                    return Err(Failure::new(Fault::Request, message)
                        .hint("an intact copy under its name in the backup's chunks/ mends it"));
                }
                Ok(bytes)
            }
            Source::Snapshot { client, .. } => client.chunk(hash).await,
        }
    }

    /// Reads what the shards consist of, and sees to it that all of it is there.
    pub async fn contents(&self) -> Result<Vec<(u32, Contents)>, Failure> {
        let mut all = Vec::new();
        for snapshot in self.shards() {
            let contents = Contents::read(snapshot, |hash| self.chunk(hash)).await?;
            all.push((snapshot.shard, contents));
        }
        Ok(all)
    }

    /// The chunks of these that are not there, or are cut off.
    pub fn absent(&self, chunks: impl Iterator<Item = ChunkRef>) -> Vec<ChunkHash> {
        let Source::Backup { there, .. } = self else { return Vec::new() };
        let is_absent =
            |chunk: &ChunkRef| there.get(&chunk.hash.to_string()) != Some(&u64::from(chunk.bytes));
        chunks.filter(is_absent).map(|chunk| chunk.hash).collect()
    }

    pub async fn decoded(&self, shard: u32, chunk: ChunkRef) -> Result<Entries, Failure> {
        let bytes = self.chunk(chunk.hash).await.map_err(|failure| {
            failure.about(format!("the records of shard {shard} can't be restored, and nothing was"))
        })?;
        Entries::decode(&bytes).map_err(|error| {
            let message = format!("the chunk {} is not readable by this program", chunk.hash);
            Failure::new(Fault::Request, message).caused_by(&error).hint("is it of a newer version?")
        })
    }

    /// The chunks of entries that records are in, with their shard.
    pub fn entries<'b>(&self, plan: &'b Plan) -> impl Iterator<Item = (u32, ChunkRef)> + use<'b> {
        let of_shard =
            |(shard, contents): &'b (u32, Contents)| contents.entries.iter().map(|chunk| (*shard, *chunk));
        plan.contents.iter().flat_map(of_shard)
    }

    /// Reads every chunk that is to be restored.
    pub async fn verify(&self, plan: &Plan) -> Result<(), Failure> {
        let mut verified = BTreeSet::new();
        for (shard, chunk) in self.entries(plan) {
            let mut hashes = BTreeSet::new();
            for entry in self.decoded(shard, chunk).await?.0 {
                if let Entry::Record { bucket, record } = entry
                    && plan.buckets.contains_key(&bucket)
                {
                    hashes.extend(record.references().unwrap_or_default().iter().map(|chunk| chunk.hash));
                }
            }
            hashes.retain(|hash| verified.insert(*hash));
            stream::iter(hashes.into_iter().map(|hash| async move { self.chunk(hash).await.map(drop) }))
                .buffer_unordered(AT_ONCE)
                .try_collect::<Vec<()>>()
                .await?;
        }
        Ok(())
    }
}

/// All of them by name.
pub fn missing(hashes: &[ChunkHash]) -> Failure {
    let mut names: Vec<String> = hashes.iter().take(NAMED_MAX).map(ChunkHash::to_string).collect();
    if hashes.len() > NAMED_MAX {
        names.push(format!("and {} more", hashes.len() - NAMED_MAX));
    }
    let message = match hashes.len() {
        1 => format!("the chunk {} of the backup is missing or cut off", names[0]),
        count => format!("{count} chunks of the backup are missing or cut off: {}", names.join(", ")),
    };
    Failure::new(Fault::Request, message)
        .hint("while the cluster runs, `atoll backup` brings what is missing; or use another with --backup")
}
