//! `atoll restore`: buckets, users, keys and values from a backup, or from one of the cluster's
//! own snapshots.
//!
//! Nobody sees anything of it before all of it is there: records come in under bucket ids that
//! no name leads to, and the last step names them. What is missing or damaged in a backup is
//! found before that.

mod plan;
mod source;

use std::collections::BTreeMap;

use atoll_gateway::admin::api::{
    Done, FinishRestoreRequest, Imported, KvPutRequest, KvRecord, KvWritten, RestoreBucketAnswer,
    RestoreBucketRequest, RestoreUserRequest, UserList,
};
use atoll_objects::{Entries, Entry, Versioning};
use atoll_types::{ChunkHash, Format};
use data_encoding::{BASE64, HEXLOWER};
use futures_util::{StreamExt, TryStreamExt, stream};
use http::Method;
use serde::Serialize;

use crate::{
    backup::AT_ONCE,
    client::{AdminClient, path_segment, query},
    failure::{Failure, Fault, Outcome},
    other::{OtherArgs, S3Url},
    output::Output,
    snapshot::time,
};
use plan::{Plan, PlannedBucket};
use source::Source;

/// Bring back what a backup or a snapshot has, beside what is here.
///
/// `--from` reads a backup, for a new cluster after the old one was lost: buckets come back under
/// their own names, with grants and policies, and so do users and keys and values. `--at` reads the
/// newest snapshot of this cluster that was taken by that time (`atoll snapshot list`): buckets
/// come back as `restored-NAME`, and keys as `restored-KEY`, so that nothing of today is touched; grants
/// and policies, which speak of the old names, do not come along.
///
/// Nothing is ever written over. All chunks are verified by their hashes. If one is missing or
/// damaged it is named, and nothing is restored. Interrupted, run it again: it goes
/// on, from the same backup (--backup, if there is a newer one) or snapshot (--at as a time).
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("source").required(true).args(["from", "at"]))]
pub struct Restore {
    /// A backup's place: s3://BUCKET/PREFIX.
    #[arg(long, value_name = "PLACE")]
    from: Option<S3Url>,
    /// Which backup there. [default: the newest]
    #[arg(long, value_name = "NAME", requires = "from")]
    backup: Option<String>,
    /// A time, such as 2026-11-27T03:00:00Z, or how long ago, such as 2h.
    #[arg(long, value_name = "TIME", value_parser = parse_time)]
    at: Option<u64>,
    /// What restored names begin with. [default: nothing with --from, `restored-` with --at]
    #[arg(long, value_name = "TEXT")]
    prefix: Option<String>,
    /// Only this bucket, and no keys and values; may be given several times.
    #[arg(long = "bucket", value_name = "NAME")]
    buckets: Vec<String>,
    /// Read and verify everything, and say what would be restored.
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    other: OtherArgs,
    #[command(flatten)]
    output: Output,
}

/// Milliseconds since 1970.
fn parse_time(text: &str) -> Result<u64, String> {
    let now = std::time::SystemTime::now();
    let time = match humantime::parse_duration(text) {
        Ok(ago) => now.checked_sub(ago),
        Err(_) => humantime::parse_rfc3339_weak(text).ok(),
    };
    let since = time.and_then(|time| time.duration_since(std::time::UNIX_EPOCH).ok());
    let since = since.ok_or("a time looks like 2026-11-27T03:00:00Z, and how long ago like 2h")?;
    Ok(since.as_millis() as u64)
}

#[derive(Serialize)]
struct Restored {
    restored: bool,
    from: String,
    taken_millis: u64,
    buckets: Vec<RestoredBucket>,
    users: usize,
    keys_and_values: usize,
    /// Those that were not here.
    chunks_brought: u64,
    bytes_brought: u64,
}

#[derive(Serialize)]
struct RestoredBucket {
    name: String,
    was: String,
    versions: u64,
    /// Root keys that what is encrypted in it needs, and the node that was asked has not.
    root_keys_missing: Vec<String>,
}

impl Restore {
    pub async fn run(self, client: &AdminClient) -> Outcome {
        let source = match (&self.from, self.at) {
            (Some(place), _) => Source::backup(&self.other, place, self.backup.as_deref()).await?,
            (None, Some(at)) => Source::snapshot(client, at).await?,
            (None, None) => unreachable!("clap asks for one of them"),
        };
        let prefix = self.prefix.clone().unwrap_or_else(|| source.default_prefix().into());
        let users: UserList = client.get("/v1/users").await?;
        let root_key = client.status().await?.root_key;
        let plan = Plan::make(&source, &prefix, &self.buckets, &users.users).await?;
        let mut restored = Restored {
            restored: !self.dry_run,
            from: source.name(),
            taken_millis: source.taken_millis(),
            buckets: plan
                .buckets
                .values()
                .map(|bucket| RestoredBucket {
                    name: bucket.name.clone(),
                    was: bucket.was.clone(),
                    versions: bucket.versions,
                    root_keys_missing: bucket
                        .root_keys
                        .iter()
                        .filter(|needed| root_key.as_ref() != Some(needed))
                        .cloned()
                        .collect(),
                })
                .collect(),
            users: plan.users.len(),
            keys_and_values: plan.kv.len(),
            chunks_brought: 0,
            bytes_brought: 0,
        };
        if self.dry_run {
            source.verify(&plan).await?;
        } else {
            bring_back(client, &source, &plan, &mut restored).await?;
        }
        self.output.show(&restored, print);
        Ok(())
    }
}

fn print(restored: &Restored) {
    for bucket in &restored.buckets {
        println!("{}", bucket.name);
    }
    eprintln!(
        "\n{} {} buckets, {} users, {} keys and values from {}, as of {}.",
        if restored.restored { "Restored" } else { "All is sound. Would restore" },
        restored.buckets.len(),
        restored.users,
        restored.keys_and_values,
        restored.from,
        time(restored.taken_millis),
    );
    let mut needed_in: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for bucket in &restored.buckets {
        for root_key in &bucket.root_keys_missing {
            needed_in.entry(root_key).or_default().push(&bucket.name);
        }
    }
    for (root_key, buckets) in needed_in {
        eprintln!(
            "What is encrypted in {} needs the root key {root_key}, which this node does not have: it is refused \
             until nodes are started with `--key-file` and that key. All else is served.",
            buckets.join(", "),
        );
    }
    if restored.restored && restored.users > 0 {
        eprintln!("A backup has no secrets: make new access keys with `atoll key create --user NAME`.");
    }
}

async fn bring_back(
    client: &AdminClient,
    source: &Source<'_>,
    plan: &Plan,
    restored: &mut Restored,
) -> Outcome {
    let mut to_do = Vec::new();
    for bucket in plan.buckets.values() {
        let request = RestoreBucketRequest {
            name: bucket.name.clone(),
            owner_canonical_id: bucket.owner.clone(),
            created_millis: bucket.created_millis,
            source: format!("{}, bucket {}", source.name(), bucket.id.0),
        };
        let answer: RestoreBucketAnswer = client.post("/v1/restore/buckets", &request).await?;
        if !answer.done {
            to_do.push(bucket);
        }
    }
    for (hash, entries) in source.entries(plan) {
        let entries: Entries = source.decoded(hash, entries).await?;
        for bucket in &to_do {
            let of_bucket =
                |entry: &Entry| matches!(entry, Entry::Record { bucket: of, .. } if *of == bucket.id);
            let records: Vec<Entry> = entries.0.iter().filter(|entry| of_bucket(entry)).cloned().collect();
            if !records.is_empty() {
                import(client, source, plan, bucket, records, restored).await?;
            }
        }
    }
    for (name, record) in &plan.users {
        let request = RestoreUserRequest { record: HEXLOWER.encode(record) };
        let _: Done = client
            .post("/v1/restore/users", &request)
            .await
            .map_err(|failure| failure.about(format!("the user {name} can't be restored")))?;
    }
    for bucket in &to_do {
        let request = FinishRestoreRequest {
            versioning: match bucket.versioning {
                Versioning::Unset => "unset",
                Versioning::Enabled => "enabled",
                Versioning::Suspended => "suspended",
            }
            .into(),
            newest_revision: bucket.newest.0,
            encrypted: bucket.encrypted,
            rules: bucket.rules.as_ref().map(|rules| HEXLOWER.encode(rules)),
        };
        let path = format!("/v1/restore/buckets/{}/finish", path_segment(&bucket.name));
        let _: Done = client.post(&path, &request).await?;
    }
    for (key, value) in &plan.kv {
        put_value(client, key, value).await?;
    }
    Ok(())
}

/// Commits records; first brings the chunks that they refer to and that are not here.
async fn import(
    client: &AdminClient,
    source: &Source<'_>,
    plan: &Plan,
    bucket: &PlannedBucket,
    records: Vec<Entry>,
    restored: &mut Restored,
) -> Outcome {
    let path = format!("/v1/restore/records/{}", path_segment(&bucket.name));
    let body = Entries(records.clone()).encode();
    loop {
        let answer: Imported = client.ask(Method::POST, &path, Some(body.clone())).await?;
        if answer.missing.is_empty() {
            return Ok(());
        }
        let brought = stream::iter(answer.missing.iter().map(|hash| async move {
            let parsed: ChunkHash = hash.parse().map_err(|_| {
                Failure::new(Fault::Internal, format!("the node asks for a chunk {hash:?}, which is no hash"))
            })?;
            let bytes = source.chunk(parsed).await?;
            let length = bytes.len() as u64;
            let _: Done = client.ask(Method::PUT, &format!("/v1/chunks/{hash}"), Some(bytes.into())).await?;
            Ok::<u64, Failure>(length)
        }))
        .buffer_unordered(AT_ONCE)
        .try_collect::<Vec<u64>>()
        .await;
        let brought = brought.map_err(|failure| {
            failure.about(format!("{} can't be restored, and nothing was", plan.objects_in(bucket, &records)))
        })?;
        restored.chunks_brought += brought.len() as u64;
        restored.bytes_brought += brought.iter().sum::<u64>();
    }
}

/// Writes over no other value.
async fn put_value(client: &AdminClient, key: &str, value: &[u8]) -> Outcome {
    let text = std::str::from_utf8(value).ok();
    let request = KvPutRequest {
        key: key.into(),
        value: text.map(str::to_owned),
        value_base64: text.is_none().then(|| BASE64.encode(value)),
        condition: atoll_gateway::admin::api::KvCondition { if_absent: true, ..Default::default() },
    };
    let put: Result<KvWritten, Failure> = client.post("/v1/kv/put", &request).await;
    let Err(failure) = put else { return Ok(()) };
    if failure.fault() != Fault::Request {
        return Err(failure);
    }
    let there: KvRecord = client.get(&query("/v1/kv/record", &[("key", key)])).await?;
    if (&there.value, &there.value_base64) == (&request.value, &request.value_base64) {
        return Ok(());
    }
    Err(Failure::new(Fault::Request, format!("the key {key:?} is there with another value, which stays"))
        .hint("restore beside it, with --prefix TEXT"))
}
