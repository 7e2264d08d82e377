//! Encryption from the handle to the disk and back: who can read what, and that nothing of
//! an encrypted object lies anywhere in the clear.

mod world;

use std::collections::BTreeMap;

use atoll_objects::*;
use bytes::Bytes;
use rand::{SeedableRng, rngs::StdRng};
use world::*;

const MIB: usize = 1 << 20;

fn root(seed: u64) -> RootKey {
    RootKey::generate(&mut StdRng::seed_from_u64(seed))
}

/// Nodes with root keys by these seeds, in a cluster that knows encryption.
async fn with_root_keys(keys: &[Option<u64>]) -> World {
    let count = keys.len() as u8;
    let keys = (1..).zip(keys).filter_map(|(number, seed)| Some((number, root((*seed)?)))).collect();
    let world = World::with_keys(count, 1..=count, keys).await;
    world.cluster_version.send_replace(ENCRYPTION_SINCE);
    world.at(1).create_bucket(&bucket("photos"), "me").await.unwrap();
    world
}

fn customer(seed: u8) -> CustomerKey {
    CustomerKey::new([seed; 32])
}

/// Bytes that are found again wherever a dozen of them lie together.
fn marked(len: usize) -> Bytes {
    b"kept to ourselves; ".iter().copied().cycle().take(len).collect::<Vec<_>>().into()
}

fn lies_in_the_clear(world: &World) -> bool {
    world.holds(&marked(19))
}

async fn put_with(
    objects: &Objects,
    at: &str,
    bytes: &Bytes,
    encryption: Option<Encryption>,
) -> Result<PutResult, PutObjectError> {
    objects.put(PutObject { encryption, ..put_request("photos", at.to_owned(), bytes) }).await
}

const SIZES: [usize; 7] = [0, 1, 16 << 10, (16 << 10) + 1, MIB, MIB + 1, 5 * MIB + 7];

#[tokio::test(flavor = "multi_thread")]
async fn what_is_encrypted_reads_back_and_lies_nowhere_in_the_clear() {
    let world = with_root_keys(&[Some(1)]).await;
    let objects = world.at(1);
    let mine = || Some(Encryption::Customer(customer(7)));
    for size in SIZES {
        let bytes = marked(size);
        let managed =
            put_with(objects, &format!("m{size}"), &bytes, Some(Encryption::Managed)).await.unwrap();
        let own = put_with(objects, &format!("c{size}"), &bytes, mine()).await.unwrap();
        let kinds = [managed.encryption, own.encryption];
        assert_eq!(kinds, [Some(EncryptionKind::Managed), Some(EncryptionKind::Customer)]);
        assert_ne!(own.etag, managed.etag, "an ETag tells of bytes that a customer's key encrypts");
        for (at, customer_key) in [(format!("m{size}"), None), (format!("c{size}"), Some(customer(7)))] {
            let request = GetObject { customer_key, ..get_request("photos", at) };
            assert_eq!(get_with(objects, request.clone()).await.unwrap(), bytes);
            for (first, last) in [(0, 0), (5, 20), (MIB as u64 - 3, MIB as u64 + 2), (4_000_000, u64::MAX)] {
                if first < size as u64 {
                    let range = Some(ByteRange::Between(first, last));
                    let expected = bytes.slice(first as usize..size.min(last.saturating_add(1) as usize));
                    assert_eq!(
                        get_with(objects, GetObject { range, ..request.clone() }).await.unwrap(),
                        expected
                    );
                }
            }
            let info = objects.head(request).await.unwrap();
            assert_eq!(info.size, size as u64);
        }
    }
    assert!(!lies_in_the_clear(&world));
    put_with(objects, "plain", &marked(100), None).await.unwrap();
    assert!(lies_in_the_clear(&world), "the marker would not be found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_encrypts_takes_nothing_in_the_clear_from_then_on() {
    let world = with_root_keys(&[Some(1), Some(1), None]).await;
    let name = bucket("photos");
    put_with(world.at(2), "before", &marked(50), None).await.unwrap();
    assert!(!world.at(1).bucket_encryption(&name).await.unwrap());
    world.at(1).set_bucket_encryption(&name, true).await.unwrap();
    assert!(world.at(3).bucket_encryption(&name).await.unwrap());
    for size in [10, 3 * MIB] {
        let put = put_with(world.at(2), "after", &marked(size), None).await.unwrap();
        assert_eq!(put.encryption, Some(EncryptionKind::Managed));
        let refused = put_with(world.at(3), "after", &marked(size), None).await;
        assert!(matches!(refused, Err(PutObjectError::Encryption(EncryptionError::NoRootKey))));
    }
    let unreadable = get(world.at(3), "photos", "after").await;
    assert!(matches!(unreadable, Err(GetObjectError::Encryption(EncryptionError::NoRootKey))));
    // What needs no key is told all the same, and what is not encrypted is served.
    let info = world.at(3).info(get_request("photos", "after")).await.unwrap();
    assert_eq!((info.size, info.encryption), (3 * MIB as u64, Some(EncryptionKind::Managed)));
    assert_eq!(get(world.at(3), "photos", "before").await.unwrap(), marked(50));
    world.at(1).set_bucket_encryption(&name, false).await.unwrap();
    assert_eq!(put_with(world.at(2), "again", &marked(9), None).await.unwrap().encryption, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_another_root_key_neither_reads_nor_writes_what_is_encrypted() {
    let world = with_root_keys(&[Some(1), Some(2)]).await;
    put_with(world.at(1), "k", &marked(50), Some(Encryption::Managed)).await.unwrap();
    let (has, needs) = (root(2).id(), root(1).id());
    assert_eq!(world.at(2).cluster_root_key().await.unwrap(), Some(needs));
    let other = EncryptionError::OtherRootKey { has, needs };
    let put = put_with(world.at(2), "l", &marked(50), Some(Encryption::Managed)).await;
    assert!(matches!(put, Err(PutObjectError::Encryption(why)) if why == other));
    let read = get(world.at(2), "photos", "k").await;
    assert!(matches!(read, Err(GetObjectError::Encryption(why)) if why == other));
    put_with(world.at(2), "plain", &marked(50), None).await.unwrap();
    // A customer's key needs no root key.
    let mine = Some(Encryption::Customer(customer(1)));
    put_with(world.at(2), "mine", &marked(50), mine).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_customers_object_opens_with_its_key_and_nothing_else() {
    let world = with_root_keys(&[None]).await;
    let objects = world.at(1);
    put_with(objects, "k", &marked(100_000), Some(Encryption::Customer(customer(1)))).await.unwrap();
    put_with(objects, "plain", &marked(10), None).await.unwrap();
    let refused = async |at: &str, customer_key, why| {
        let request = GetObject { customer_key, ..get_request("photos", at.to_owned()) };
        let got = get_with(objects, request.clone()).await;
        assert!(matches!(got, Err(GetObjectError::Encryption(got)) if got == why), "{got:?}");
        let head = objects.head(request).await;
        assert!(matches!(head, Err(GetObjectError::Encryption(got)) if got == why), "{head:?}");
    };
    refused("k", None, EncryptionError::CustomerKeyMissing).await;
    refused("k", Some(customer(2)), EncryptionError::CustomerKeyWrong).await;
    refused("plain", Some(customer(1)), EncryptionError::CustomerKeyUseless).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn copies_are_encrypted_as_they_are_asked_for_whatever_their_source_is() {
    let world = with_root_keys(&[Some(1)]).await;
    let objects = world.at(1);
    let kinds: BTreeMap<&str, Option<Encryption>> = BTreeMap::from([
        ("plain", None),
        ("managed", Some(Encryption::Managed)),
        ("mine", Some(Encryption::Customer(customer(1)))),
    ]);
    let key_of = |kind: &str| (kind == "mine").then(|| customer(1));
    for size in [100, 2 * MIB + 9] {
        let bytes = random_bytes(3, size);
        for (from, encryption) in &kinds {
            put_with(objects, from, &bytes, encryption.clone()).await.unwrap();
            for (to, encryption) in &kinds {
                let at = format!("{from}-{to}");
                let copy = CopyObject {
                    source_bucket: bucket("photos"),
                    source_key: key(from.to_string()),
                    source_version: None,
                    source_conditions: Default::default(),
                    source_customer_key: key_of(from),
                    bucket: bucket("photos"),
                    key: key(at.clone()),
                    conditions: Default::default(),
                    encryption: encryption.clone(),
                    headers: None,
                    acl: None,
                    idempotency: None,
                };
                objects.copy(copy).await.unwrap();
                let request = GetObject { customer_key: key_of(to), ..get_request("photos", at) };
                assert_eq!(get_with(objects, request).await.unwrap(), bytes);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_is_encrypted_part_by_part_with_the_key_that_it_began_with() {
    let world = with_root_keys(&[Some(1)]).await;
    let objects = world.at(1);
    let (first, second) = (marked(5 * MIB + 3), marked(MIB + 1));
    for (encryption, own) in
        [(Encryption::Managed, None), (Encryption::Customer(customer(1)), Some(customer(1)))]
    {
        let create = CreateUpload {
            bucket: bucket("photos"),
            key: key("multi"),
            headers: Default::default(),
            checksum: None,
            encryption: Some(encryption),
        };
        let upload = objects.create_upload(create).await.unwrap().upload;
        let part = |number, bytes: &Bytes, customer_key: Option<CustomerKey>| UploadPart {
            bucket: bucket("photos"),
            key: key("multi"),
            upload,
            number,
            customer_key,
            body: body(bytes),
        };
        for (wrong, why) in match own {
            None => vec![(Some(customer(2)), EncryptionError::CustomerKeyUseless)],
            Some(_) => vec![
                (None, EncryptionError::CustomerKeyMissing),
                (Some(customer(2)), EncryptionError::CustomerKeyWrong),
            ],
        } {
            let refused = objects.upload_part(part(1, &first, wrong)).await;
            let refused =
                matches!(refused, Err(UploadPartError::Put(PutObjectError::Encryption(got))) if got == why);
            assert!(refused, "{why}");
        }
        let mut parts = Vec::new();
        // The first one twice: the bytes of the second attempt count.
        for (number, bytes) in [(1, &second), (1, &first), (2, &second)] {
            let uploaded = objects.upload_part(part(number, bytes, own.clone())).await.unwrap();
            parts.push((number, uploaded.part.etag.to_string()));
        }
        let source = UploadPartCopy {
            source: GetObject {
                range: Some(ByteRange::Between(10, MIB as u64)),
                customer_key: Some(customer(9)),
                ..get_request("photos", "source")
            },
            bucket: bucket("photos"),
            key: key("multi"),
            upload,
            number: 2,
            customer_key: own.clone(),
            digest: |_| sum_digest(None),
        };
        put_with(objects, "source", &second, Some(Encryption::Customer(customer(9)))).await.unwrap();
        let (copied, _) = objects.upload_part_copy(source).await.unwrap();
        let complete = CompleteUpload {
            bucket: bucket("photos"),
            key: key("multi"),
            upload,
            parts: vec![parts[1].clone(), (2, copied.part.etag.to_string())],
            conditions: Default::default(),
            checksum: None,
            customer_key: None,
        };
        objects.complete_upload(complete).await.unwrap();
        let whole = [&first[..], &second[10..=MIB]].concat();
        let request = GetObject { customer_key: own, ..get_request("photos", "multi") };
        assert_eq!(get_with(objects, request.clone()).await.unwrap(), whole);
        for (from, to) in
            [(MIB - 2, MIB + 2), (first.len() - 2, first.len() + 2), (first.len(), whole.len() - 1)]
        {
            let range = Some(ByteRange::Between(from as u64, to as u64));
            let got = get_with(objects, GetObject { range, ..request.clone() }).await.unwrap();
            assert_eq!(got, whole[from..=to]);
        }
    }
    assert!(!lies_in_the_clear(&world));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_older_members_do_not_know_is_not_written() {
    let world = with_root_keys(&[Some(1)]).await;
    world.cluster_version.send_replace(ENCRYPTION_SINCE - 1);
    let put = put_with(world.at(1), "k", &marked(5), Some(Encryption::Managed)).await;
    assert!(matches!(put, Err(PutObjectError::Unavailable(Unavailable::Upgrading { .. }))));
    let set = world.at(1).set_bucket_encryption(&bucket("photos"), true).await;
    assert!(matches!(set, Err(SetEncryptionError::Unavailable(Unavailable::Upgrading { .. }))));
    put_with(world.at(1), "k", &marked(5), None).await.unwrap();
    assert_eq!(get(world.at(1), "photos", "k").await.unwrap(), marked(5));
}
