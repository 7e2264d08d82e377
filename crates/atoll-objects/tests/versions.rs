//! Versions on several nodes: what sweeps, lost copies and restarts leave of them, and what
//! a cluster that is being upgraded says.

mod world;

use atoll_objects::*;
use atoll_types::Acl;
use bytes::Bytes;
use world::*;

const MIB: usize = 1 << 20;

async fn three_with_bucket() -> World {
    let world = World::of(3).await;
    world.at(1).create_bucket(&bucket("photos"), "me").await.unwrap();
    world
}

async fn version(world: &World, number: u8, version: VersionId) -> Result<Bytes, GetObjectError> {
    let request = GetObject { version: Some(version), ..get_request("photos", "k") };
    get_with(world.at(number), request).await
}

async fn put_version(world: &World, bytes: &Bytes) -> VersionId {
    let put = world.at(1).put(put_request("photos", "k", bytes)).await.unwrap();
    put.version.expect("the bucket keeps versions")
}

async fn delete(world: &World, version: Option<VersionId>) -> Deleted {
    let conditions = WriteConditions::default();
    let delete =
        DeleteObject { bucket: bucket("photos"), key: key("k"), version, conditions, idempotency: None };
    world.at(1).delete(delete).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn sweeps_and_lost_copies_leave_every_version_readable_until_it_is_deleted() {
    let mut world = three_with_bucket().await;
    let before = random_bytes(1, 2 * MIB);
    put(world.at(1), "photos", "k", &before).await.unwrap();
    world.at(2).set_versioning(&bucket("photos"), Versioning::Enabled).await.unwrap();
    let bodies: Vec<Bytes> = (2..5).map(|seed| random_bytes(seed, 2 * MIB)).collect();
    let mut versions = vec![(VersionId::Null, before)];
    for body in bodies {
        versions.push((put_version(&world, &body).await, body));
    }
    assert!(delete(&world, None).await.marker);
    let wanted = world.all_chunks().await;
    world.maintain();
    let epoch = |world: &World| {
        let status = |node: &Node| node.maintenance.as_ref().unwrap().status().reclaimed_epoch;
        world.nodes.values().map(status).min().unwrap()
    };
    let now = epoch(&world);
    world.until("several sweeps", async || epoch(&world) >= now + 3).await;
    assert_eq!(world.all_chunks().await, wanted);
    for (id, body) in &versions {
        assert!(version(&world, 3, *id).await.unwrap() == *body);
    }
    world.kill(2);
    world.start(2).await;
    world.maintain_at(2);
    for (id, body) in &versions {
        assert!(version(&world, 2, *id).await.unwrap() == *body);
    }
    let (gone, kept) = (versions.remove(2), versions);
    assert!(delete(&world, Some(gone.0)).await.existed);
    world.until("its chunks are gone", async || world.all_chunks().await.len() < wanted.len()).await;
    assert!(matches!(version(&world, 1, gone.0).await, Err(GetObjectError::NoSuchVersion)));
    for (id, body) in &kept {
        assert!(version(&world, 1, *id).await.unwrap() == *body);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn before_the_last_member_is_upgraded_an_object_is_its_own_null_version() {
    let world = three_with_bucket().await;
    world.cluster_version.send_replace(VERSIONS_SINCE - 1);
    let name = bucket("photos");
    let bytes = Bytes::from("as before");
    assert_eq!(world.at(1).put(put_request("photos", "k", &bytes)).await.unwrap().version, None);
    assert_eq!(version(&world, 2, VersionId::Null).await.unwrap(), bytes);
    let other = VersionId::At(atoll_types::Revision(7));
    assert!(matches!(version(&world, 2, other).await, Err(GetObjectError::NoSuchVersion)));
    assert_eq!(world.at(1).versioning(&name).await.unwrap(), Versioning::Unset);
    let upgrading = |error| matches!(error, HeadBucketError::Unavailable(Unavailable::Upgrading { .. }));
    assert!(upgrading(world.at(1).set_versioning(&name, Versioning::Enabled).await.unwrap_err()));
    let tags = Some(BucketSetting::Tags(Default::default()));
    assert!(upgrading(world.at(1).set_bucket_setting(&name, SettingKind::Tags, tags).await.unwrap_err()));
    assert!(!delete(&world, Some(other)).await.existed);
    assert!(delete(&world, Some(VersionId::Null)).await.existed);
    assert!(matches!(get(world.at(1), "photos", "k").await, Err(GetObjectError::NoSuchKey)));

    world.cluster_version.send_replace(VERSIONS_SINCE);
    world.at(1).set_versioning(&name, Versioning::Enabled).await.unwrap();
    let id = put_version(&world, &bytes).await;
    assert_eq!(version(&world, 3, id).await.unwrap(), bytes);
}

#[tokio::test(flavor = "multi_thread")]
async fn owners_and_acls_are_kept_once_every_member_can_read_them_and_are_not_copied() {
    let world = three_with_bucket().await;
    world.cluster_version.send_replace(ACLS_SINCE - 1);
    let (at, bytes) = (world.at(1), Bytes::from("eve's"));
    let headers = ObjectHeaders { acl: Some(Acl::private("eve")), ..ObjectHeaders::default() };
    let owned = || PutObject { headers: headers.clone(), ..put_request("photos", "k", &bytes) };
    let refused = at.put(owned()).await;
    assert!(matches!(
        refused,
        Err(PutObjectError::Unavailable(Unavailable::Upgrading { needs: ACLS_SINCE, .. }))
    ));
    let upload = CreateUpload {
        bucket: bucket("photos"),
        key: key("k"),
        headers: headers.clone(),
        checksum: None,
        encryption: None,
    };
    let refused = at.create_upload(upload).await;
    assert!(matches!(refused, Err(CreateUploadError::Unavailable(Unavailable::Upgrading { .. }))));
    put(at, "photos", "k", &bytes).await.unwrap();
    let info = at.info(get_request("photos", "k")).await.unwrap();
    let set = at.set_acl(&bucket("photos"), &key("k"), None, &info, Acl::private("bob")).await;
    assert!(matches!(set, Err(GetObjectError::Unavailable(Unavailable::Upgrading { .. }))));

    world.cluster_version.send_replace(ACLS_SINCE);
    at.put(owned()).await.unwrap();
    let late = at.set_acl(&bucket("photos"), &key("k"), None, &info, Acl::private("bob")).await;
    assert!(matches!(late, Err(GetObjectError::Unavailable(Unavailable::Unsettled))), "it is another object");
    let copy = CopyObject {
        source_bucket: bucket("photos"),
        source_key: key("k"),
        source_version: None,
        source_conditions: Default::default(),
        source_customer_key: None,
        bucket: bucket("photos"),
        key: key("copy"),
        conditions: Default::default(),
        encryption: None,
        headers: None,
        acl: None,
        idempotency: None,
    };
    at.copy(copy.clone()).await.unwrap();
    let acl = async |at| world.at(2).info(get_request("photos", at)).await.unwrap().headers.acl;
    assert_eq!((acl("k").await, acl("copy").await), (headers.acl.clone(), None));
    at.copy(CopyObject { headers: Some(headers), acl: Some(Acl::private("bob")), ..copy }).await.unwrap();
    assert_eq!(acl("copy").await, Some(Acl::private("bob")));
}
