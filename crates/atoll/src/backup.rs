//! `atoll backup`: a snapshot of the whole cluster, copied to another S3 store, without what is
//! there already.
//!
//! ```text
//! PREFIX/chunks/<hash>       everything, each under its hash, whichever backups it is of
//! PREFIX/backups/<time>.json what a backup consists of; written last
//! ```

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use atoll_gateway::admin::api::{ShardSnapshot, SnapshotRound};
use atoll_objects::{ChunkRef, References, Root};
use atoll_types::{ByteSize, ChunkHash, Format};
use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};

use crate::{
    client::AdminClient,
    failure::{Failure, Fault, Outcome},
    other::{OtherArgs, OtherStore, S3Url},
    output::Output,
    snapshot::time,
};

/// Copy everything to another S3 store, so that the whole cluster can be lost.
///
/// What is there already is not sent again: run it as often as you like, into the same place. A
/// backup that was interrupted leaves the earlier ones as they are; the next goes on with what
/// it sent. `atoll restore --from` brings it all back, into a new cluster or beside what is here.
///
/// In a backup are all buckets with their settings, versioning, grants and policies; all objects
/// with all versions, delete markers, metadata and tags; users; keys and values (`atoll kv`). Not
/// in it are the secrets of access keys (make new ones for the restored users with `atoll key
/// create`), admin tokens, tickets, uploads that are not complete, locks, and the audit trail
/// (`atoll audit export`). Each bucket, and all keys and values together, are as they were at
/// one moment; those of different buckets may lie minutes apart, as long as the snapshot takes.
#[derive(Debug, clap::Args)]
pub struct Backup {
    /// Where to: s3://BUCKET/PREFIX. The bucket must be there.
    #[arg(long, value_name = "PLACE")]
    to: S3Url,
    #[command(flatten)]
    other: OtherArgs,
    /// How long to wait for the snapshot that is copied.
    #[arg(long, default_value = "1h", value_parser = humantime::parse_duration, value_name = "TIME")]
    wait: Duration,
    #[command(flatten)]
    output: Output,
}

/// What a backup consists of.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Manifest {
    pub format: String,
    pub version: u32,
    /// The cluster that it is of.
    pub cluster: String,
    pub round: u64,
    pub taken_millis: u64,
    pub shards: Vec<ShardSnapshot>,
    /// Distinct ones, of all sorts.
    pub chunks: u64,
    pub bytes: u64,
}

const FORMAT: &str = "atoll backup";
const VERSION: u32 = 1;

pub const CHUNKS: &str = "chunks/";
pub const BACKUPS: &str = "backups/";

/// Chunks on their way at once: 64 MiB of the largest.
pub const AT_ONCE: usize = 16;

impl Manifest {
    /// Sorts as the times do.
    fn name(&self) -> String {
        format!("{}-{}", time(self.taken_millis).replace(':', ""), self.round)
    }

    /// One line of JSON, and one with its hash.
    fn encode(&self) -> Bytes {
        let line = serde_json::to_string(self).expect("our own types are JSON");
        let hash = ChunkHash::of(line.as_bytes());
        format!("{line}\n{hash}\n").into()
    }

    pub fn decode(name: &str, bytes: &[u8]) -> Result<Self, Failure> {
        let damaged = |why: &str| {
            Failure::new(Fault::Request, format!("the backup {name} can't be used: its list is {why}"))
                .hint("name another with --backup")
        };
        let text = std::str::from_utf8(bytes).map_err(|_| damaged("damaged"))?;
        let (line, hash) = text.trim_end().split_once('\n').ok_or_else(|| damaged("cut off"))?;
        if hash != ChunkHash::of(line.as_bytes()).to_string() {
            return Err(damaged("damaged"));
        }
        let manifest: Self = serde_json::from_str(line).map_err(|_| damaged("of a newer program"))?;
        if manifest.format != FORMAT || manifest.version != VERSION {
            return Err(damaged("of a newer program"));
        }
        Ok(manifest)
    }
}

/// One backup that was made.
#[derive(Serialize)]
struct Made {
    backup: String,
    place: String,
    round: u64,
    taken_millis: u64,
    chunks: u64,
    bytes: u64,
    /// Of those, what was not there before.
    chunks_sent: u64,
    bytes_sent: u64,
}

impl Backup {
    pub async fn run(self, client: &AdminClient) -> Outcome {
        let store = OtherStore::new(&self.other, &self.to)?;
        // Before anything is begun here: it says at once if the place is not to be had.
        let there = store.list(CHUNKS).await?;
        let cluster = client.status().await?.cluster;
        let SnapshotRound { round, taken_millis, shards, .. } = client.take_snapshot(self.wait).await?;
        let mut wanted: BTreeMap<ChunkHash, u32> = BTreeMap::new();
        for snapshot in &shards {
            let contents = Contents::read(snapshot, |hash| client.chunk(hash)).await?;
            wanted.extend(contents.all().map(|chunk| (chunk.hash, chunk.bytes)));
        }
        let is_there = |hash: &ChunkHash, bytes: u32| there.get(&hash.to_string()) == Some(&u64::from(bytes));
        let missing: Vec<(ChunkHash, u32)> = wanted
            .iter()
            .map(|(hash, bytes)| (*hash, *bytes))
            .filter(|(hash, bytes)| !is_there(hash, *bytes))
            .collect();
        let store = &store;
        stream::iter(missing.iter().map(|(hash, _)| async move {
            let bytes = client.chunk(*hash).await?;
            store.put(&format!("{CHUNKS}{hash}"), bytes).await
        }))
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<()>>()
        .await?;
        let manifest = Manifest {
            format: FORMAT.into(),
            version: VERSION,
            cluster,
            round,
            taken_millis,
            shards,
            chunks: wanted.len() as u64,
            bytes: wanted.values().map(|bytes| u64::from(*bytes)).sum(),
        };
        let name = manifest.name();
        store.put(&format!("{BACKUPS}{name}.json"), manifest.encode()).await?;
        let made = Made {
            backup: name,
            place: self.to.to_string(),
            round,
            taken_millis,
            chunks: manifest.chunks,
            bytes: manifest.bytes,
            chunks_sent: missing.len() as u64,
            bytes_sent: missing.iter().map(|(_, bytes)| u64::from(*bytes)).sum(),
        };
        self.output.show(&made, |made| {
            println!("{}", made.backup);
            eprintln!(
                "\n{} in {} chunks, of which {} in {} were sent.\nBring it back with:\n\n  atoll restore --from {} --backup {}",
                ByteSize(made.bytes),
                made.chunks,
                ByteSize(made.bytes_sent),
                made.chunks_sent,
                made.place,
                made.backup,
            );
        });
        Ok(())
    }
}

/// What one shard's snapshot consists of.
pub struct Contents {
    /// Of the root, and the lists of references.
    lists: Vec<ChunkRef>,
    pub entries: Vec<ChunkRef>,
    references: BTreeSet<(ChunkHash, u32)>,
}

impl Contents {
    /// Reads the root and the lists, whose chunks `fetch` gives, verified.
    pub async fn read<F>(snapshot: &ShardSnapshot, fetch: impl Fn(ChunkHash) -> F) -> Result<Self, Failure>
    where
        F: Future<Output = Result<Bytes, Failure>>,
    {
        let newer = |error: &dyn std::error::Error| {
            let message = format!("the snapshot of shard {} is not readable by this program", snapshot.shard);
            Failure::new(Fault::Request, message).caused_by(error).hint("is it of a newer version?")
        };
        let mut root = Vec::new();
        let mut lists = Vec::new();
        for chunk in &snapshot.root {
            let hash: ChunkHash = chunk.hash.parse().map_err(|error| newer(&error))?;
            root.extend_from_slice(&fetch(hash).await?);
            lists.push(ChunkRef { hash, bytes: chunk.bytes });
        }
        let Root { entries, references: of_references } =
            Root::decode(&root).map_err(|error| newer(&error))?;
        let mut references = BTreeSet::new();
        for list in of_references {
            let found = References::decode(&fetch(list.hash).await?).map_err(|error| newer(&error))?;
            references.extend(found.0.iter().map(|chunk| (chunk.hash, chunk.bytes)));
            lists.push(list);
        }
        Ok(Self { lists, entries, references })
    }

    pub fn all(&self) -> impl Iterator<Item = ChunkRef> {
        let references = self.references.iter().map(|(hash, bytes)| ChunkRef { hash: *hash, bytes: *bytes });
        self.lists.iter().chain(&self.entries).copied().chain(references)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_was_altered_or_cut_off_is_not_used() {
        let manifest = Manifest {
            format: FORMAT.into(),
            version: VERSION,
            cluster: "c".into(),
            round: 7,
            taken_millis: 1_700_000_000_123,
            shards: Vec::new(),
            chunks: 0,
            bytes: 0,
        };
        assert_eq!(manifest.name(), "2023-11-14T221320.123Z-7");
        let bytes = manifest.encode();
        assert_eq!(Manifest::decode("n", &bytes).unwrap().round, 7);
        let mut altered = bytes.to_vec();
        altered[bytes.len() / 2] ^= 1;
        assert!(Manifest::decode("n", &altered).is_err());
        assert!(Manifest::decode("n", &bytes[..bytes.len() / 2]).is_err());
        assert!(Manifest::decode("n", b"").is_err());
    }
}
