//! Paths of snapshots and of restoring.

use std::collections::BTreeMap;

use atoll_access::{BucketOf, BucketRules, UserRecord};
use atoll_objects::{
    BucketId, BucketName, Entries, Entry, OpenedBucket, RestoreError, Restoring, Versioning,
};
use atoll_types::{ChunkHash, Format, Revision, WallTime};
use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Path, State},
    routing::{get, post, put},
};
use data_encoding::HEXLOWER_PERMISSIVE;

use super::{Answer, Doors, Input, Params, access::bucket_name, api, done};
use crate::admin::{AdminError, AdminErrorKind};

/// The longest chunk is 4 MiB, and one of entries far shorter.
const CHUNK_REQUEST_BYTES_MAX: usize = 5 << 20;

pub fn routes() -> Router<Doors> {
    let large = Router::new()
        .route("/chunks/{hash}", put(bring_chunk).get(read_chunk))
        .route("/restore/records/{bucket}", post(import_records))
        .layer(DefaultBodyLimit::max(CHUNK_REQUEST_BYTES_MAX));
    Router::new()
        .route("/snapshots", get(list_snapshots).post(begin_snapshots))
        .route("/restore/users", post(restore_user))
        .route("/restore/buckets", post(begin_restore))
        .route("/restore/buckets/{bucket}/finish", post(finish_restore))
        .merge(large)
}

impl From<RestoreError> for AdminError {
    fn from(error: RestoreError) -> Self {
        let message = error.to_string();
        let (kind, code) = match error {
            RestoreError::BucketExists(_) => (AdminErrorKind::Conflict, "bucket_exists"),
            RestoreError::OtherSource { .. } => (AdminErrorKind::Conflict, "other_source"),
            RestoreError::NotBegun(_) => (AdminErrorKind::NotFound, "not_begun"),
            RestoreError::OtherBytes(_) => (AdminErrorKind::Invalid, "other_bytes"),
            RestoreError::Malformed => (AdminErrorKind::Invalid, "malformed_records"),
            RestoreError::Unavailable(error) => return error.into(),
        };
        AdminError::new(kind, code, message)
    }
}

fn malformed(message: impl Into<String>) -> AdminError {
    AdminError::new(AdminErrorKind::Invalid, "malformed_request", message)
}

fn chunk_hash(text: &str) -> Result<ChunkHash, AdminError> {
    text.parse().map_err(|_| malformed("a chunk's hash has 64 hexadecimal digits"))
}

fn record<T: Format>(hexadecimal: &str) -> Result<T, AdminError> {
    let bytes = HEXLOWER_PERMISSIVE.decode(hexadecimal.as_bytes());
    let bytes = bytes.map_err(|_| malformed("a record is hexadecimal"))?;
    T::decode(&bytes).map_err(|error| malformed(error.to_string()))
}

/// Take a snapshot of every shard now. It is there when its round is complete.
#[utoipa::path(post, path = "/v1/snapshots", responses((status = 200, body = api::SnapshotBegun)))]
pub async fn begin_snapshots(State(doors): State<Doors>) -> Answer<api::SnapshotBegun> {
    Ok(Json(api::SnapshotBegun { round: doors.objects.begin_snapshots().await? }))
}

/// The snapshots that are kept, round by round.
#[utoipa::path(get, path = "/v1/snapshots", params(api::SnapshotListRequest),
    responses((status = 200, body = api::SnapshotList)))]
pub async fn list_snapshots(
    State(doors): State<Doors>,
    Params(request): Params<api::SnapshotListRequest>,
) -> Answer<api::SnapshotList> {
    let (kept, all) = doors.objects.snapshots().await?;
    let mut rounds: BTreeMap<u64, Vec<api::ShardSnapshot>> = BTreeMap::new();
    for snapshot in kept {
        if request.round.is_some_and(|round| round != snapshot.round) {
            continue;
        }
        let root = snapshot.root.iter();
        rounds.entry(snapshot.round).or_default().push(api::ShardSnapshot {
            shard: snapshot.of.0,
            revision: snapshot.revision.0,
            taken_millis: snapshot.taken.as_millis(),
            root: root
                .map(|chunk| api::ChunkName { hash: chunk.hash.to_string(), bytes: chunk.bytes })
                .collect(),
        });
    }
    let rounds = rounds.into_iter().map(|(round, mut shards)| {
        shards.sort_by_key(|snapshot| snapshot.shard);
        let taken_millis = shards.iter().map(|snapshot| snapshot.taken_millis).max().unwrap_or_default();
        api::SnapshotRound { round, taken_millis, complete: shards.len() == all.len(), shards }
    });
    Ok(Json(api::SnapshotList { rounds: rounds.collect() }))
}

/// A chunk's bytes, from wherever they are, verified.
#[utoipa::path(get, path = "/v1/chunks/{hash}", params(("hash" = String, Path)),
    responses((status = 200, body = Vec<u8>), (status = 503, body = api::ErrorAnswer)))]
pub async fn read_chunk(State(doors): State<Doors>, Path(hash): Path<String>) -> Result<Bytes, AdminError> {
    Ok(doors.objects.chunk(chunk_hash(&hash)?).await?)
}

/// Bring a chunk that records to come refer to.
#[utoipa::path(put, path = "/v1/chunks/{hash}", params(("hash" = String, Path)), request_body = Vec<u8>,
    responses((status = 200, body = api::Done), (status = 400, body = api::ErrorAnswer)))]
pub async fn bring_chunk(
    State(doors): State<Doors>,
    Path(hash): Path<String>,
    bytes: Bytes,
) -> Answer<api::Done> {
    doors.objects.bring_chunk(chunk_hash(&hash)?, bytes).await?;
    done(Ok(()))
}

/// Make a user as it was.
#[utoipa::path(post, path = "/v1/restore/users", request_body = api::RestoreUserRequest,
    responses((status = 200, body = api::Done), (status = 409, body = api::ErrorAnswer)))]
pub async fn restore_user(
    State(doors): State<Doors>,
    Input(request): Input<api::RestoreUserRequest>,
) -> Answer<api::Done> {
    let user: UserRecord = record(&request.record)?;
    doors.access.restore_user(user, doors.access.deadline()).await?;
    done(Ok(()))
}

/// Begin to restore a bucket under a name that is free, or go on with it.
#[utoipa::path(post, path = "/v1/restore/buckets", request_body = api::RestoreBucketRequest,
    responses((status = 200, body = api::RestoreBucketAnswer), (status = 409, body = api::ErrorAnswer)))]
pub async fn begin_restore(
    State(doors): State<Doors>,
    Input(request): Input<api::RestoreBucketRequest>,
) -> Answer<api::RestoreBucketAnswer> {
    let api::RestoreBucketRequest { name, owner_canonical_id, created_millis, source } = request;
    let (name, created) = (bucket_name(&name)?, WallTime::from_millis(created_millis));
    let begun = doors.objects.begin_restore(&name, owner_canonical_id, created, source).await?;
    Ok(Json(api::RestoreBucketAnswer { done: begun == Restoring::Done }))
}

/// Records of a bucket that is being restored: a chunk of entries, of which only such records
/// are allowed. To which bucket they belonged does not matter.
#[utoipa::path(post, path = "/v1/restore/records/{bucket}", params(("bucket" = String, Path)),
    request_body = Vec<u8>, responses((status = 200, body = api::Imported)))]
pub async fn import_records(
    State(doors): State<Doors>,
    Path(name): Path<String>,
    bytes: Bytes,
) -> Answer<api::Imported> {
    let entries = Entries::decode(&bytes).map_err(|error| malformed(error.to_string()))?.0;
    let mut records = Vec::with_capacity(entries.len());
    for entry in entries {
        match entry {
            Entry::Record { record, .. } => records.push(record),
            _ => return Err(malformed("only records of buckets are restored this way")),
        }
    }
    let missing = doors.objects.import(&bucket_name(&name)?, records).await?;
    Ok(Json(api::Imported { missing: missing.iter().map(ChunkHash::to_string).collect() }))
}

/// All its records are there: make it a bucket that users see.
#[utoipa::path(post, path = "/v1/restore/buckets/{bucket}/finish", params(("bucket" = String, Path)),
    request_body = api::FinishRestoreRequest, responses((status = 200, body = api::Done)))]
pub async fn finish_restore(
    State(doors): State<Doors>,
    Path(name): Path<String>,
    Input(request): Input<api::FinishRestoreRequest>,
) -> Answer<api::Done> {
    let name: BucketName = bucket_name(&name)?;
    let versioning = match request.versioning.as_str() {
        "unset" => Versioning::Unset,
        "enabled" => Versioning::Enabled,
        "suspended" => Versioning::Suspended,
        other => return Err(malformed(format!("there is no versioning {other:?}"))),
    };
    let rules = request.rules.as_deref().map(record::<BucketRules>).transpose()?;
    let bucket = doors.objects.restored_bucket(&name).await?;
    if let Some(rules) = rules {
        if rules.has_acls() {
            doors.objects.knows_acls().await?;
        }
        let of = BucketOf { id: bucket.id.0, name: bucket.name.as_str(), owner: &bucket.owner };
        doors.access.restore_rules(of, rules, doors.access.deadline()).await?;
    }
    let (newest, encrypted) = (Revision(request.newest_revision), request.encrypted);
    let as_it_was = OpenedBucket { bucket: BucketId(0), versioning, newest, encrypted };
    doors.objects.finish_restore(&name, as_it_was).await?;
    done(Ok(()))
}
