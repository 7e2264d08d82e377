//! What is to be restored, and under which names: read, and checked, before anything is written.

use std::collections::{BTreeMap, BTreeSet};

use atoll_access::{KeptRecord, ROOT_USER, UserRecord};
use atoll_gateway::admin::api::User;
use atoll_objects::{BucketId, BucketInfo, BucketName, BucketRecord, Entry, OpenedBucket, Versioning};
use atoll_types::{Revision, TransactionId};

use super::source::{NAMED_MAX, Source, missing};
use crate::{
    backup::Contents,
    failure::{Failure, Fault},
};

pub struct Plan {
    /// By their ids in the source.
    pub buckets: BTreeMap<BucketId, PlannedBucket>,
    /// Names and records.
    pub users: BTreeMap<String, Vec<u8>>,
    pub kv: BTreeMap<String, Vec<u8>>,
    /// Of each shard.
    pub contents: Vec<(u32, Contents)>,
    names: Names,
}

/// For errors: whose pieces are whose.
#[derive(Default)]
struct Names {
    objects: BTreeMap<TransactionId, String>,
    /// Of parts that are long enough to have segments: to which upload they belong.
    parts: BTreeMap<TransactionId, TransactionId>,
}

impl Names {
    fn note(&mut self, record: &BucketRecord) {
        let Some(pieces) = record.consists_of() else { return };
        match (record.version_of(), record.belongs_to()) {
            (Some(key), _) => drop(self.objects.insert(pieces, key.escape_ascii().to_string())),
            (None, Some(upload)) => drop(self.parts.insert(pieces, upload)),
            (None, None) => {}
        }
    }

    /// The key of the object that a record is of, if that can be told.
    fn of(&self, record: &BucketRecord) -> Option<String> {
        if let Some(key) = record.version_of() {
            return Some(key.escape_ascii().to_string());
        }
        let id = record.belongs_to()?;
        self.objects.get(self.parts.get(&id).unwrap_or(&id)).cloned()
    }
}

pub struct PlannedBucket {
    pub id: BucketId,
    pub name: String,
    /// Its name in the source.
    pub was: String,
    pub owner: String,
    pub created_millis: u64,
    pub versioning: Versioning,
    pub newest: Revision,
    pub encrypted: bool,
    pub versions: u64,
    /// That versions in it are encrypted with.
    pub root_keys: BTreeSet<String>,
    pub rules: Option<Vec<u8>>,
}

/// What all entries together say.
#[derive(Default)]
struct Found {
    buckets: Vec<BucketInfo>,
    open: BTreeMap<BucketId, OpenedBucket>,
    versions: BTreeMap<BucketId, u64>,
    root_keys: BTreeMap<BucketId, BTreeSet<String>>,
    users: Vec<(UserRecord, Vec<u8>)>,
    rules: BTreeMap<BucketId, Vec<u8>>,
    kv: BTreeMap<String, Vec<u8>>,
    names: Names,
    /// Records some of whose chunks are not there.
    hit: Vec<(BucketId, BucketRecord)>,
}

impl Plan {
    /// `users` are those of this cluster.
    pub async fn make(
        source: &Source<'_>,
        prefix: &str,
        only: &[String],
        users: &[User],
    ) -> Result<Self, Failure> {
        let contents = source.contents().await?;
        let mut absent: Vec<_> = source
            .absent(contents.iter().flat_map(|(_, contents)| contents.all()).collect::<Vec<_>>().into_iter());
        absent.sort_unstable();
        absent.dedup();
        let mut found = Found::default();
        for (shard, contents) in &contents {
            for chunk in &contents.entries {
                if absent.contains(&chunk.hash) {
                    continue;
                }
                for entry in source.decoded(*shard, *chunk).await?.0 {
                    found.take(entry, &absent).map_err(|error| {
                        let message = format!("shard {shard} has records that this program does not know");
                        Failure::new(Fault::Request, message).caused_by(&error)
                    })?;
                }
            }
        }
        if !absent.is_empty() {
            let failure = missing(&absent);
            let hit = found.hit();
            return Err(match hit.is_empty() {
                true => failure,
                false => failure.about(format!("nothing is restored, since these are not whole: {hit}")),
            });
        }
        found.planned(prefix, only, users, contents)
    }
}

impl Found {
    fn take(
        &mut self,
        entry: Entry,
        absent: &[atoll_types::ChunkHash],
    ) -> Result<(), atoll_types::FormatError> {
        match entry {
            Entry::Bucket(bucket) => self.buckets.push(bucket),
            Entry::Open(open) => drop(self.open.insert(open.bucket, open)),
            Entry::Record { bucket, record } => {
                if record.version_of().is_some() {
                    *self.versions.entry(bucket).or_default() += 1;
                }
                if let Some(root_key) = record.needs_root_key() {
                    self.root_keys.entry(bucket).or_default().insert(root_key.to_string());
                }
                self.names.note(&record);
                let references = record.references().unwrap_or_default();
                if references.iter().any(|chunk| absent.binary_search(&chunk.hash).is_ok()) {
                    self.hit.push((bucket, record));
                }
            }
            Entry::Kv { key, value } => {
                // Keys are text: the admin API takes no others.
                drop(self.kv.insert(String::from_utf8_lossy(&key).into_owned(), value.to_vec()));
            }
            Entry::Other { key, value } => match KeptRecord::read(&key, &value)? {
                Some(KeptRecord::User(user)) => self.users.push((user, value.to_vec())),
                Some(KeptRecord::Rules { bucket, .. }) => {
                    self.rules.insert(BucketId(bucket), value.to_vec());
                }
                None => {}
            },
        }
        Ok(())
    }

    fn hit(&self) -> String {
        let named = |(bucket, record): &(BucketId, BucketRecord)| {
            let info = self.buckets.iter().find(|info| info.id == *bucket);
            let name = info.map_or_else(|| bucket.to_string(), |info| info.name.to_string());
            format!("{name}/{}", self.names.of(record).unwrap_or_default())
        };
        some_of(self.hit.iter().map(named).collect())
    }

    fn planned(
        self,
        prefix: &str,
        only: &[String],
        here: &[User],
        contents: Vec<(u32, Contents)>,
    ) -> Result<Plan, Failure> {
        let whole = prefix.is_empty() && only.is_empty();
        if let Some(unknown) =
            only.iter().find(|name| !self.buckets.iter().any(|b| b.name.as_str() == **name))
        {
            let names: Vec<&str> = self.buckets.iter().map(|bucket| bucket.name.as_str()).collect();
            return Err(Failure::new(Fault::Request, format!("no bucket {unknown:?} is in it"))
                .hint(format!("there are: {}", names.join(", "))));
        }
        let mut users = BTreeMap::new();
        let mut known: Vec<&str> = here.iter().map(|user| user.canonical_id.as_str()).collect();
        if whole {
            for (user, record) in &self.users {
                let other = here.iter().find(|there| there.name == user.name);
                if other.is_some_and(|other| other.canonical_id != user.canonical_id) {
                    let message =
                        format!("there is another user {:?} here, with another canonical id", user.name);
                    return Err(Failure::new(Fault::Request, message).hint(
                        "restore into a new cluster, or only buckets under other names: --prefix TEXT",
                    ));
                }
                if user.name != ROOT_USER {
                    users.insert(user.name.clone(), record.clone());
                    known.push(&user.canonical_id);
                }
            }
        }
        let root = here.iter().find(|user| user.name == ROOT_USER).map(|user| user.canonical_id.clone());
        let mut buckets = BTreeMap::new();
        for info in &self.buckets {
            // Made or deleted while the snapshot was taken.
            let Some(open) = self.open.get(&info.id) else { continue };
            if !only.is_empty() && !only.iter().any(|name| name == info.name.as_str()) {
                continue;
            }
            let name = format!("{prefix}{}", info.name);
            BucketName::new(&name).map_err(|error| {
                Failure::from_error(Fault::Request, &error).hint("choose another beginning: --prefix TEXT")
            })?;
            let owner = known.iter().find(|id| **id == info.owner).map(|id| id.to_string());
            let bucket = PlannedBucket {
                id: info.id,
                name,
                was: info.name.to_string(),
                owner: owner.or_else(|| root.clone()).unwrap_or_default(),
                created_millis: info.created.as_millis(),
                versioning: open.versioning,
                newest: open.newest,
                encrypted: open.encrypted,
                versions: self.versions.get(&info.id).copied().unwrap_or_default(),
                root_keys: self.root_keys.get(&info.id).cloned().unwrap_or_default(),
                rules: self.rules.get(&info.id).filter(|_| whole).cloned(),
            };
            buckets.insert(info.id, bucket);
        }
        let kv = self.kv.into_iter().filter(|_| only.is_empty());
        let kv = kv.map(|(key, value)| (format!("{prefix}{key}"), value)).collect();
        Ok(Plan { buckets, users, kv, contents, names: self.names })
    }
}

impl Plan {
    /// For an error: which objects these entries are of.
    pub fn objects_in(&self, bucket: &PlannedBucket, entries: &[Entry]) -> String {
        let keys = entries.iter().filter_map(|entry| match entry {
            Entry::Record { record, .. } if record.references().is_ok_and(|chunks| !chunks.is_empty()) => {
                self.names.of(record)
            }
            _ => None,
        });
        match some_of(keys.collect()) {
            keys if keys.is_empty() => format!("the bucket {}", bucket.was),
            keys => format!("the bucket {} (one of {keys})", bucket.was),
        }
    }
}

/// Each once, and not too many.
fn some_of(mut names: Vec<String>) -> String {
    names.sort_unstable();
    names.dedup();
    names.truncate(NAMED_MAX);
    names.join(", ")
}
