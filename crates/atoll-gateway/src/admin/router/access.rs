//! Paths of users, access keys and buckets. What they do is `atoll-access`'s and
//! `atoll-objects`'; nothing here tells a secret but the answer that made it.

use std::{str::FromStr, sync::Arc};

use atoll_access::{
    ChangeError, KeyRecord, NewUser, ParseRightError, Refused, Rights, UserRecord, UserRights,
};
use atoll_objects::{
    BucketInfo, BucketName, CreateBucketError, DeleteBucketError, HeadBucketError, Unavailable,
};
use axum::{
    Json, Router,
    extract::{Path, State},
    routing::{delete, get, post},
};

use super::{Answer, Doors, Input, Params, api, done};
use crate::{
    admin::{AdminError, AdminErrorKind},
    s3::forget_rules,
};

pub fn routes() -> Router<Doors> {
    Router::new()
        .route("/users", get(list_users).post(create_user))
        .route("/users/{user}", delete(delete_user))
        .route("/users/{user}/grant", post(grant_user))
        .route("/users/{user}/revoke", post(revoke_user))
        .route("/keys", get(list_keys).post(create_key))
        .route("/keys/{key}", delete(delete_key))
        .route("/keys/{key}/grant", post(grant_key))
        .route("/keys/{key}/revoke", post(revoke_key))
        .route("/keys/{key}/limit", post(limit_key))
        .route("/buckets", get(list_buckets).post(create_bucket))
        .route("/buckets/{bucket}", delete(delete_bucket))
        .route("/buckets/{bucket}/grant", post(grant_bucket))
        .route("/buckets/{bucket}/revoke", post(revoke_bucket))
}

impl From<ChangeError> for AdminError {
    fn from(error: ChangeError) -> Self {
        let message = error.to_string();
        match error {
            ChangeError::Refused(refused) => {
                let (kind, code, hint) = match refused {
                    Refused::NoSuchUser { .. } => {
                        (AdminErrorKind::NotFound, "no_such_user", Some("atoll user list shows them"))
                    }
                    Refused::NoSuchKey { .. } => {
                        (AdminErrorKind::NotFound, "no_such_key", Some("atoll key list shows them"))
                    }
                    Refused::UserExists { .. } => (AdminErrorKind::Conflict, "user_exists", None),
                    Refused::EmailTaken { .. } => (AdminErrorKind::Conflict, "email_taken", None),
                    Refused::KeyExists { .. } => (AdminErrorKind::Conflict, "key_exists", None),
                    Refused::RootStays => (AdminErrorKind::Conflict, "root_stays", None),
                    Refused::AclsDisabled | Refused::AclGrantsOthers | Refused::PublicAclBlocked => {
                        (AdminErrorKind::Conflict, "acl_refused", None)
                    }
                    Refused::Unknown => (AdminErrorKind::Internal, "unknown_act", None),
                };
                let error = AdminError::new(kind, code, message);
                if let Some(hint) = hint { error.hint(hint) } else { error }
            }
            ChangeError::Invalid { .. } => {
                AdminError::new(AdminErrorKind::Invalid, "malformed_request", message)
            }
            ChangeError::ProgramTooOld => {
                AdminError::new(AdminErrorKind::Conflict, "program_too_old", message)
                    .hint("atoll status shows their versions: install the newest everywhere first")
            }
            ChangeError::Access(_) => unavailable(&message),
        }
    }
}

fn unavailable(message: &str) -> AdminError {
    AdminError::new(AdminErrorKind::Unavailable, "unavailable", message)
        .hint("is a majority of the nodes up? atoll status")
}

impl From<Unavailable> for AdminError {
    fn from(error: Unavailable) -> Self {
        unavailable(&error.to_string())
    }
}

fn no_such_bucket(name: &BucketName) -> AdminError {
    AdminError::new(AdminErrorKind::NotFound, "no_such_bucket", format!("there is no bucket {name}"))
        .hint("atoll bucket list shows them")
}

/// The rights named; all if none is.
fn rights<R: FromStr<Err = ParseRightError>>(
    names: &[String],
    all: R,
    with: impl Fn(R, R) -> R,
    none: R,
) -> Result<R, AdminError> {
    if names.is_empty() {
        return Ok(all);
    }
    names.iter().try_fold(none, |rights, name| {
        let right = name
            .parse::<R>()
            .map_err(|error| AdminError::new(AdminErrorKind::Invalid, "no_such_right", error.to_string()))?;
        Ok(with(rights, right))
    })
}

fn bucket_rights(names: &[String]) -> Result<Rights, AdminError> {
    rights(names, Rights::ALL, Rights::with, Rights::NONE)
}

fn user_rights(names: &[String]) -> Result<UserRights, AdminError> {
    rights(names, UserRights::ALL, UserRights::with, UserRights::NONE)
}

fn names(rights: impl Iterator<Item = &'static str>) -> Vec<String> {
    rights.map(str::to_owned).collect()
}

fn shown_user(user: &UserRecord) -> api::User {
    api::User {
        name: user.name.clone(),
        canonical_id: user.canonical_id.clone(),
        display_name: user.display_name.clone(),
        email: user.email.clone(),
        rights: names(user.rights.names()),
        created_millis: user.created.as_millis(),
    }
}

/// Everybody, by name.
#[utoipa::path(get, path = "/v1/users", responses((status = 200, body = api::UserList)))]
pub async fn list_users(State(doors): State<Doors>) -> Answer<api::UserList> {
    let users = doors.access.users().await.map_err(ChangeError::from)?;
    Ok(Json(api::UserList { users: users.iter().map(|user| shown_user(user)).collect() }))
}

/// A user, who may then be given keys.
#[utoipa::path(post, path = "/v1/users", request_body = api::CreateUserRequest,
    responses((status = 200, body = api::User), (status = 409, body = api::ErrorAnswer)))]
pub async fn create_user(
    State(doors): State<Doors>,
    Input(request): Input<api::CreateUserRequest>,
) -> Answer<api::User> {
    let api::CreateUserRequest { name, display_name, email } = request;
    let new = NewUser { name, display_name, email };
    let user = doors.access.create_user(new, doors.access.deadline()).await?;
    Ok(Json(shown_user(&user)))
}

/// Delete a user with all its keys and grants. It must own no bucket.
#[utoipa::path(delete, path = "/v1/users/{user}", params(("user" = String, Path)),
    responses((status = 200, body = api::Done), (status = 409, body = api::ErrorAnswer)))]
pub async fn delete_user(State(doors): State<Doors>, Path(name): Path<String>) -> Answer<api::Done> {
    let user = doors.access.user(&name).await?;
    let buckets = doors.objects.list_buckets().await?;
    if let Some(bucket) = buckets.iter().find(|bucket| bucket.owner == user.canonical_id) {
        let message = format!("{name} owns buckets: {} is one", bucket.name);
        return Err(AdminError::new(AdminErrorKind::Conflict, "owns_buckets", message)
            .hint("delete them first (atoll bucket delete), or only take its keys (atoll key delete)"));
    }
    doors.access.delete_user(&name, doors.access.deadline()).await?;
    done(Ok(()))
}

/// Give a user rights: `create-buckets`, `everything`.
#[utoipa::path(post, path = "/v1/users/{user}/grant", params(("user" = String, Path)),
    request_body = api::RightsRequest, responses((status = 200, body = api::Done)))]
pub async fn grant_user(
    State(doors): State<Doors>,
    Path(name): Path<String>,
    Input(request): Input<api::RightsRequest>,
) -> Answer<api::Done> {
    change_user(&doors, &name, &request, true).await
}

/// Take rights from a user.
#[utoipa::path(post, path = "/v1/users/{user}/revoke", params(("user" = String, Path)),
    request_body = api::RightsRequest, responses((status = 200, body = api::Done)))]
pub async fn revoke_user(
    State(doors): State<Doors>,
    Path(name): Path<String>,
    Input(request): Input<api::RightsRequest>,
) -> Answer<api::Done> {
    change_user(&doors, &name, &request, false).await
}

async fn change_user(
    doors: &Doors,
    name: &str,
    request: &api::RightsRequest,
    given: bool,
) -> Answer<api::Done> {
    let rights = user_rights(&request.rights)?;
    doors.access.change_user(name, rights, given, doors.access.deadline()).await?;
    done(Ok(()))
}

/// Access keys, without their secrets.
#[utoipa::path(get, path = "/v1/keys", params(api::KeyListRequest),
    responses((status = 200, body = api::KeyList)))]
pub async fn list_keys(
    State(doors): State<Doors>,
    Params(request): Params<api::KeyListRequest>,
) -> Answer<api::KeyList> {
    let keys = doors.access.keys().await.map_err(ChangeError::from)?;
    let users = doors.access.users().await.map_err(ChangeError::from)?;
    let shown = |key: &Arc<KeyRecord>| api::Key {
        access_key: key.access_key.clone(),
        user: key.user.clone(),
        canonical_id: users
            .iter()
            .find(|user| user.name == key.user)
            .map(|user| user.canonical_id.clone())
            .unwrap_or_default(),
        rights: names(key.rights.names()),
        requests_per_second: key.requests_per_second,
        created_millis: key.created.as_millis(),
    };
    let asked = |key: &&Arc<KeyRecord>| request.user.as_ref().is_none_or(|user| *user == key.user);
    Ok(Json(api::KeyList { keys: keys.iter().filter(asked).map(shown).collect() }))
}

/// A key for a user. The answer has its secret, which nobody is told again.
#[utoipa::path(post, path = "/v1/keys", request_body = api::CreateKeyRequest,
    responses((status = 200, body = api::CreatedKey), (status = 404, body = api::ErrorAnswer)))]
pub async fn create_key(
    State(doors): State<Doors>,
    Input(request): Input<api::CreateKeyRequest>,
) -> Answer<api::CreatedKey> {
    let rights = bucket_rights(&request.rights)?;
    let user = doors.access.user(&request.user).await?;
    let (access_key, secret) =
        doors.access.create_key(&request.user, rights, doors.access.deadline()).await?;
    Ok(Json(api::CreatedKey {
        access_key,
        secret_key: secret.expose().into(),
        canonical_id: user.canonical_id.clone(),
        user: user.name.clone(),
        display_name: user.display_name.clone(),
        email: user.email.clone(),
    }))
}

/// Delete a key. It is refused everywhere within 5 s.
#[utoipa::path(delete, path = "/v1/keys/{key}", params(("key" = String, Path)),
    responses((status = 200, body = api::Done), (status = 404, body = api::ErrorAnswer)))]
pub async fn delete_key(State(doors): State<Doors>, Path(key): Path<String>) -> Answer<api::Done> {
    doors.access.delete_key(&key, doors.access.deadline()).await?;
    done(Ok(()))
}

/// Let a key do more of what its user may: `read`, `write`, `manage`.
#[utoipa::path(post, path = "/v1/keys/{key}/grant", params(("key" = String, Path)),
    request_body = api::RightsRequest, responses((status = 200, body = api::Done)))]
pub async fn grant_key(
    State(doors): State<Doors>,
    Path(key): Path<String>,
    Input(request): Input<api::RightsRequest>,
) -> Answer<api::Done> {
    change_key(&doors, &key, &request, true).await
}

/// Let a key do less; with all rights taken it is refused everywhere within 5 s.
#[utoipa::path(post, path = "/v1/keys/{key}/revoke", params(("key" = String, Path)),
    request_body = api::RightsRequest, responses((status = 200, body = api::Done)))]
pub async fn revoke_key(
    State(doors): State<Doors>,
    Path(key): Path<String>,
    Input(request): Input<api::RightsRequest>,
) -> Answer<api::Done> {
    change_key(&doors, &key, &request, false).await
}

/// Let a key make at most so many requests a second, through each node; more get 503.
#[utoipa::path(post, path = "/v1/keys/{key}/limit", params(("key" = String, Path)),
    request_body = api::LimitKeyRequest, responses((status = 200, body = api::Done)))]
pub async fn limit_key(
    State(doors): State<Doors>,
    Path(key): Path<String>,
    Input(request): Input<api::LimitKeyRequest>,
) -> Answer<api::Done> {
    doors.access.limit_key(&key, request.requests_per_second, doors.access.deadline()).await?;
    done(Ok(()))
}

async fn change_key(
    doors: &Doors,
    key: &str,
    request: &api::RightsRequest,
    given: bool,
) -> Answer<api::Done> {
    let rights = bucket_rights(&request.rights)?;
    doors.access.change_key(key, rights, given, doors.access.deadline()).await?;
    done(Ok(()))
}

pub(super) fn bucket_name(name: &str) -> Result<BucketName, AdminError> {
    BucketName::new(name)
        .map_err(|error| AdminError::new(AdminErrorKind::Invalid, "invalid_bucket_name", error.to_string()))
}

async fn bucket(doors: &Doors, name: &str) -> Result<Arc<BucketInfo>, AdminError> {
    let name = bucket_name(name)?;
    doors.objects.head_bucket(&name).await.map_err(|error| match error {
        HeadBucketError::NoSuchBucket(_) => no_such_bucket(&name),
        HeadBucketError::Unavailable(error) => error.into(),
    })
}

/// All buckets, by name, with their owners and grants.
#[utoipa::path(get, path = "/v1/buckets", responses((status = 200, body = api::BucketList)))]
pub async fn list_buckets(State(doors): State<Doors>) -> Answer<api::BucketList> {
    let users = doors.access.users().await.map_err(ChangeError::from)?;
    let name_of = |id: &str| users.iter().find(|user| user.canonical_id == id).map(|user| user.name.clone());
    let mut buckets = Vec::new();
    for bucket in doors.objects.list_buckets().await? {
        let rules = doors.access.rules(bucket.id.0).await.map_err(ChangeError::from)?;
        let grants = rules.grants.iter().filter_map(|(id, rights)| {
            Some(api::BucketGrant { user: name_of(id)?, rights: names(rights.names()) })
        });
        buckets.push(api::BucketStatus {
            name: bucket.name.to_string(),
            owner: name_of(&bucket.owner),
            owner_canonical_id: bucket.owner.clone(),
            created_millis: bucket.created.as_millis(),
            grants: grants.collect(),
        });
    }
    Ok(Json(api::BucketList { buckets }))
}

/// A bucket for a user.
#[utoipa::path(post, path = "/v1/buckets", request_body = api::CreateBucketRequest,
    responses((status = 200, body = api::Done), (status = 409, body = api::ErrorAnswer)))]
pub async fn create_bucket(
    State(doors): State<Doors>,
    Input(request): Input<api::CreateBucketRequest>,
) -> Answer<api::Done> {
    let name = bucket_name(&request.name)?;
    let owner = doors.access.user(&request.owner).await?;
    let created = doors.objects.create_bucket(&name, &owner.canonical_id).await;
    done(created.map(drop).map_err(|error| match error {
        CreateBucketError::AlreadyOwnedByYou(_) | CreateBucketError::AlreadyExists(_) => {
            let message = format!("there is a bucket {name} already");
            AdminError::new(AdminErrorKind::Conflict, "bucket_exists", message)
        }
        CreateBucketError::Unavailable(error) => error.into(),
    }))
}

/// Delete an empty bucket.
#[utoipa::path(delete, path = "/v1/buckets/{bucket}", params(("bucket" = String, Path)),
    responses((status = 200, body = api::Done), (status = 409, body = api::ErrorAnswer)))]
pub async fn delete_bucket(State(doors): State<Doors>, Path(name): Path<String>) -> Answer<api::Done> {
    let bucket = bucket(&doors, &name).await?;
    doors.objects.delete_bucket(&bucket.name).await.map_err(|error| match error {
        DeleteBucketError::NoSuchBucket(name) => no_such_bucket(&name),
        DeleteBucketError::NotEmpty(name) => {
            let message = format!("the bucket {name} is not empty");
            AdminError::new(AdminErrorKind::Conflict, "bucket_not_empty", message)
        }
        DeleteBucketError::Unavailable(error) => error.into(),
    })?;
    forget_rules(&doors.access, bucket.id).await;
    done(Ok(()))
}

/// Let a user do something with a bucket: `read`, `write`, `manage`.
#[utoipa::path(post, path = "/v1/buckets/{bucket}/grant", params(("bucket" = String, Path)),
    request_body = api::GrantRequest, responses((status = 200, body = api::Done)))]
pub async fn grant_bucket(
    State(doors): State<Doors>,
    Path(name): Path<String>,
    Input(request): Input<api::GrantRequest>,
) -> Answer<api::Done> {
    change_grant(&doors, &name, &request, true).await
}

/// Take it back; it holds everywhere within 5 s.
#[utoipa::path(post, path = "/v1/buckets/{bucket}/revoke", params(("bucket" = String, Path)),
    request_body = api::GrantRequest, responses((status = 200, body = api::Done)))]
pub async fn revoke_bucket(
    State(doors): State<Doors>,
    Path(name): Path<String>,
    Input(request): Input<api::GrantRequest>,
) -> Answer<api::Done> {
    change_grant(&doors, &name, &request, false).await
}

async fn change_grant(
    doors: &Doors,
    name: &str,
    request: &api::GrantRequest,
    given: bool,
) -> Answer<api::Done> {
    let rights = bucket_rights(&request.rights)?;
    let bucket = bucket(doors, name).await?;
    let deadline = doors.access.deadline();
    doors.access.change_grant(bucket.id.0, &request.user, rights, given, deadline).await?;
    done(Ok(()))
}
