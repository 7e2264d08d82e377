//! Buckets and objects on one node, from the handle to the disk and back. What runs
//! inside a shard has its own tests beside it.

mod world;

use std::sync::Arc;

use atoll_objects::*;
use bytes::Bytes;
use futures_util::StreamExt;
use md5::{Digest, Md5};
use world::*;

const MIB: usize = 1 << 20;

async fn with_bucket() -> World {
    let world = World::one().await;
    world.at(1).create_bucket(&bucket("photos"), "me").await.unwrap();
    world
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_every_size_are_read_back_with_their_etag_and_headers() {
    let world = with_bucket().await;
    let sizes = [0, 1, 16 << 10, (16 << 10) + 1, 300_000, 2 * MIB, 2 * MIB + 1, 9 * MIB];
    for (seed, size) in sizes.into_iter().enumerate() {
        let bytes = random_bytes(seed as u64, size);
        let at = format!("a/{size}");
        let mut request = put_request("photos", at.clone(), &bytes);
        request.headers.content_type = Some("image/x-noise".into());
        request.headers.user.insert("colour".into(), "grün".into());
        request.body.length = Some(size as u64);
        request.body.content_md5 = Some(Md5::digest(&bytes).into());
        let put = world.at(1).put(request).await.unwrap();
        assert_eq!(put.etag.md5, <[u8; 16]>::from(Md5::digest(&bytes)));

        let got = world.at(1).get(get_request("photos", at.clone())).await.unwrap();
        assert_eq!((got.info.size, got.info.etag, got.info.revision), (size as u64, put.etag, put.revision));
        assert_eq!(got.info.headers.content_type.as_deref(), Some("image/x-noise"));
        assert_eq!(got.info.headers.user["colour"], "grün");
        assert_eq!(world.at(1).head(get_request("photos", at.clone())).await.unwrap(), got.info);
        assert!(get(world.at(1), "photos", at).await.unwrap() == bytes, "{size} bytes differ");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_range_of_a_large_object_is_read_exactly() {
    let world = with_bucket().await;
    let bytes = random_bytes(7, 6 * MIB + 123);
    put(world.at(1), "photos", "big", &bytes).await.unwrap();
    let len = bytes.len() as u64;
    let read = async |range| {
        let request = GetObject { range: Some(range), ..get_request("photos", "big") };
        get_with(world.at(1), request).await
    };
    for (first, last) in
        [(0, 0), (0, len - 1), (1, MIB as u64), (3 * MIB as u64 - 5, 5 * MIB as u64), (len - 1, len)]
    {
        let expected = bytes.slice(first as usize..(last + 1).min(len) as usize);
        assert!(read(ByteRange::Between(first, last)).await.unwrap() == expected, "{first}-{last}");
    }
    assert!(read(ByteRange::Last(1000)).await.unwrap() == bytes.slice(bytes.len() - 1000..));
    assert!(read(ByteRange::From(len - 10)).await.unwrap() == bytes.slice(bytes.len() - 10..));
    assert!(
        matches!(read(ByteRange::From(len)).await, Err(GetObjectError::InvalidRange { size }) if size == len)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_not_what_was_announced_leaves_no_object() {
    let world = with_bucket().await;
    for size in [100, 3 * MIB] {
        let bytes = random_bytes(1, size);
        let put_with = async |change: &dyn Fn(&mut PutBody)| {
            let mut request = put_request("photos", "bad", &bytes);
            change(&mut request.body);
            world.at(1).put(request).await.unwrap_err()
        };
        let wrong_md5 = put_with(&|body| body.content_md5 = Some([0; 16])).await;
        assert!(matches!(wrong_md5, PutObjectError::BadDigest), "{wrong_md5:?}");
        let short = put_with(&|body| body.length = Some(size as u64 + 1)).await;
        assert!(matches!(short, PutObjectError::IncompleteBody { .. }), "{short:?}");
        let long = put_with(&|body| body.length = Some(size as u64 - 1)).await;
        assert!(matches!(long, PutObjectError::IncompleteBody { .. }), "{long:?}");
        let huge = put_with(&|body| body.length = Some(6 << 30)).await;
        assert!(matches!(huge, PutObjectError::EntityTooLarge { .. }), "{huge:?}");
        let mut broken = put_request("photos", "bad", &bytes);
        broken.body.stream =
            broken.body.stream.chain(futures_util::stream::iter([Err("the line broke".into())])).boxed();
        assert!(matches!(world.at(1).put(broken).await, Err(PutObjectError::Body(_))));
        assert!(matches!(get(world.at(1), "photos", "bad").await, Err(GetObjectError::NoSuchKey)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_further_checksum_is_kept_or_refused() {
    let world = with_bucket().await;
    for size in [100, 5 * MIB] {
        let bytes = random_bytes(2, size);
        let sum: u64 = bytes.iter().map(|byte| u64::from(*byte)).sum();
        let mut good = put_request("photos", "sum", &bytes);
        good.body.digests.push(sum_digest(Some(sum)));
        let put = world.at(1).put(good).await.unwrap();
        let kept = Checksum {
            algorithm: ChecksumAlgorithm::Crc32c,
            value: Bytes::copy_from_slice(&sum.to_be_bytes()),
            parts: 0,
        };
        assert_eq!(put.checksum.as_ref(), Some(&kept));
        assert_eq!(world.at(1).head(get_request("photos", "sum")).await.unwrap().checksum, Some(kept));
        let mut bad = put_request("photos", "sum", &bytes);
        bad.body.digests.push(sum_digest(Some(sum + 1)));
        let refused = world.at(1).put(bad).await;
        assert!(matches!(refused, Err(PutObjectError::BadChecksum { algorithm }) if algorithm == "SUM"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_racing_creators_exactly_one_wins_and_of_racing_changers_none_is_lost() {
    let world = Arc::new(with_bucket().await);
    let racers = (0..16).map(|number| {
        let world = world.clone();
        tokio_task(async move {
            let bytes = Bytes::from(format!("racer {number}"));
            let mut request = put_request("photos", "race", &bytes);
            request.conditions.if_none_match = Some(ETagCondition::Any);
            world.at(1).put(request).await
        })
    });
    let results = futures_util::future::join_all(racers).await;
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    assert!(results.iter().all(|r| matches!(r, Ok(_) | Err(PutObjectError::PreconditionFailed))));

    // Each appends its own letter to what it read, and retries until its change is in.
    put(world.at(1), "photos", "list", &Bytes::new()).await.unwrap();
    let changers = (b'a'..b'i').map(|letter| {
        let world = world.clone();
        tokio_task(async move {
            loop {
                let mut got = world.at(1).get(get_request("photos", "list")).await.unwrap();
                let mut text = Vec::new();
                while let Some(piece) = got.body.next().await {
                    text.extend_from_slice(&piece.unwrap());
                }
                text.push(letter);
                let mut request = put_request("photos", "list", &text.into());
                request.conditions.if_match = Some(ETagCondition::OneOf(vec![got.info.etag.to_string()]));
                match world.at(1).put(request).await {
                    Ok(_) => return,
                    Err(PutObjectError::PreconditionFailed) => continue,
                    Err(error) => panic!("{error}"),
                }
            }
        })
    });
    futures_util::future::join_all(changers).await;
    let mut text = get(world.at(1), "photos", "list").await.unwrap().to_vec();
    text.sort_unstable();
    assert_eq!(text, b"abcdefgh");
}

/// Runs beside the test, on the runtime's threads.
fn tokio_task<T: Send + 'static>(
    future: impl Future<Output = T> + Send + 'static,
) -> impl Future<Output = T> {
    let task = atoll_runtime::Runtime::tokio().spawn("test", future);
    async move { task.await.expect("the task neither panicked nor was stopped") }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_under_the_same_id_gets_the_first_answer() {
    let world = with_bucket().await;
    let id = world.runtime.transaction_id();
    for size in [10, 2 * MIB] {
        let at = format!("once/{size}");
        let request = || {
            let mut request = put_request("photos", at.clone(), &random_bytes(1, size));
            request.conditions.if_none_match = Some(ETagCondition::Any);
            request.idempotency = Some(atoll_types::TransactionId([size as u8; 16]));
            request
        };
        let first = world.at(1).put(request()).await.unwrap();
        assert_eq!(world.at(1).put(request()).await.unwrap(), first);
        let mut other = request();
        other.idempotency = Some(id);
        assert!(matches!(world.at(1).put(other).await, Err(PutObjectError::PreconditionFailed)));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn buckets_come_and_go_and_a_new_one_sees_nothing_of_the_old() {
    let world = World::one().await;
    let objects = world.at(1);
    let name = bucket("photos");
    assert!(matches!(objects.head_bucket(&name).await, Err(HeadBucketError::NoSuchBucket(_))));
    assert!(matches!(put(objects, "photos", "k", &Bytes::new()).await, Err(PutObjectError::NoSuchBucket(_))));
    let first = objects.create_bucket(&name, "me").await.unwrap();
    assert!(matches!(objects.create_bucket(&name, "me").await, Err(CreateBucketError::AlreadyOwnedByYou(_))));
    assert!(matches!(objects.create_bucket(&name, "you").await, Err(CreateBucketError::AlreadyExists(_))));
    assert_eq!(objects.list_buckets().await.unwrap(), [(*first).clone()]);

    put(objects, "photos", "k", &Bytes::from("x")).await.unwrap();
    assert!(matches!(objects.delete_bucket(&name).await, Err(DeleteBucketError::NotEmpty(_))));
    let delete = DeleteObject {
        bucket: name.clone(),
        key: key("k"),
        version: None,
        conditions: Default::default(),
        idempotency: None,
    };
    assert!(objects.delete(delete.clone()).await.unwrap().existed);
    assert_eq!(objects.delete(delete).await.unwrap(), Deleted::default());
    let create = CreateUpload {
        bucket: name.clone(),
        key: key("up"),
        headers: Default::default(),
        checksum: None,
        encryption: None,
    };
    objects.create_upload(create).await.unwrap();
    objects.delete_bucket(&name).await.unwrap();
    assert!(matches!(objects.delete_bucket(&name).await, Err(DeleteBucketError::NoSuchBucket(_))));
    assert!(matches!(get(objects, "photos", "k").await, Err(GetObjectError::NoSuchBucket(_))));
    assert!(matches!(put(objects, "photos", "k", &Bytes::new()).await, Err(PutObjectError::NoSuchBucket(_))));

    let second = objects.create_bucket(&name, "you").await.unwrap();
    assert_ne!(second.id, first.id);
    assert!(matches!(get(objects, "photos", "k").await, Err(GetObjectError::NoSuchKey)));
}

fn listing(name: &str, delimiter: &'static str, limit: usize) -> ListObjects {
    ListObjects {
        bucket: bucket(name),
        prefix: Bytes::new(),
        delimiter: (!delimiter.is_empty()).then(|| Bytes::from(delimiter)),
        start_after: None,
        limit,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_follow_one_another_and_many_keys_go_at_once() {
    let world = with_bucket().await;
    let keys: Vec<String> = (0..25).map(|number| format!("dir{}/{number:02}", number % 3)).collect();
    for at in &keys {
        put(world.at(1), "photos", at.clone(), &Bytes::from("x")).await.unwrap();
    }
    let page = world.at(1).list(listing("photos", "/", 2)).await.unwrap();
    assert_eq!(page.common_prefixes, ["dir0/", "dir1/"]);
    let rest = ListObjects { start_after: page.next, ..listing("photos", "/", 2) };
    let page = world.at(1).list(rest).await.unwrap();
    assert_eq!((page.common_prefixes, page.next), (vec![Bytes::from("dir2/")], None));

    let many =
        keys.iter().map(|at| key(at.clone())).chain([key("never/there")]).map(DeleteKey::from).collect();
    let deleted = world.at(1).delete_many(&bucket("photos"), many).await.unwrap();
    assert_eq!(deleted.len(), 26);
    assert!(deleted[..25].iter().all(|(_, result)| matches!(result, Ok(Deleted { existed: true, .. }))));
    assert!(matches!(deleted[25], (_, Ok(Deleted { existed: false, .. }))));
    assert_eq!(world.at(1).list(listing("photos", "", 1000)).await.unwrap(), ObjectPage::default());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_has_the_bytes_of_one_version_and_outlives_its_source() {
    let world = with_bucket().await;
    world.at(1).create_bucket(&bucket("album"), "me").await.unwrap();
    for size in [10, 5 * MIB] {
        let bytes = random_bytes(3, size);
        put(world.at(1), "photos", "source", &bytes).await.unwrap();
        let copy = CopyObject {
            source_bucket: bucket("photos"),
            source_key: key("source"),
            source_version: None,
            source_conditions: Default::default(),
            source_customer_key: None,
            bucket: bucket("album"),
            key: key(format!("copy/{size}")),
            conditions: WriteConditions { if_none_match: Some(ETagCondition::Any), ..Default::default() },
            encryption: None,
            headers: None,
            acl: None,
            idempotency: None,
        };
        let chunks = world.all_chunks().await.len();
        world.at(1).copy(copy.clone()).await.unwrap();
        assert_eq!(world.all_chunks().await.len(), chunks, "a copy stores no chunk again");
        let again = world.at(1).copy(copy).await;
        assert!(matches!(again, Err(CopyObjectError::Destination(PutObjectError::PreconditionFailed))));
        put(world.at(1), "photos", "source", &Bytes::from("other")).await.unwrap();
        assert!(get(world.at(1), "album", format!("copy/{size}")).await.unwrap() == bytes);
    }
}

fn part(upload: UploadId, number: u16, bytes: &Bytes) -> UploadPart {
    UploadPart {
        bucket: bucket("photos"),
        key: key("multi"),
        upload,
        number,
        customer_key: None,
        body: body(bytes),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_multipart_upload_becomes_one_object() {
    let world = with_bucket().await;
    let objects = world.at(1);
    let mut create = CreateUpload {
        bucket: bucket("photos"),
        key: key("multi"),
        headers: Default::default(),
        checksum: None,
        encryption: None,
    };
    create.headers.content_language = Some("de".into());
    let upload = objects.create_upload(create).await.unwrap().upload;
    let bytes: Vec<Bytes> =
        [6 * MIB, 5 * MIB, 77].into_iter().zip(1..).map(|(n, seed)| random_bytes(seed, n)).collect();
    let mut parts = Vec::new();
    // Out of order, and the second twice.
    for number in [3, 1, 2, 2] {
        let uploaded = objects.upload_part(part(upload, number, &bytes[number as usize - 1])).await;
        let info = uploaded.unwrap().part;
        parts.retain(|(other, _)| *other != number);
        parts.push((number, info.etag.to_string()));
    }
    assert!(matches!(
        objects.upload_part(part(upload, 0, &bytes[0])).await,
        Err(UploadPartError::InvalidPartNumber { .. })
    ));
    let unknown = UploadId(world.runtime.transaction_id());
    assert!(matches!(
        objects.upload_part(part(unknown, 1, &bytes[0])).await,
        Err(UploadPartError::NoSuchUpload)
    ));
    let complete = |parts: &[(u16, String)]| CompleteUpload {
        bucket: bucket("photos"),
        key: key("multi"),
        upload,
        parts: parts.to_vec(),
        conditions: Default::default(),
        checksum: None,
        customer_key: None,
    };
    assert!(matches!(
        objects.complete_upload(complete(&parts)).await,
        Err(CompleteUploadError::InvalidPartOrder)
    ));
    assert!(matches!(
        objects.complete_upload(complete(&[])).await,
        Err(CompleteUploadError::InvalidPartList)
    ));
    parts.sort();
    let list = ListParts {
        bucket: bucket("photos"),
        key: key("multi"),
        upload,
        after: 1,
        limit: 1,
        customer_key: None,
    };
    let page = objects.list_parts(list).await.unwrap().page;
    assert_eq!((page.parts[0].number, page.parts.len(), page.truncated), (2, 1, true));

    let uploads = ListUploads {
        bucket: bucket("photos"),
        prefix: Bytes::new(),
        delimiter: None,
        after: None,
        limit: 10,
    };
    assert_eq!(objects.list_uploads(uploads.clone()).await.unwrap().uploads.len(), 1);
    let done = objects.complete_upload(complete(&parts)).await.unwrap();
    assert_eq!(objects.complete_upload(complete(&parts)).await.unwrap(), done);
    assert!(objects.list_uploads(uploads).await.unwrap().uploads.is_empty());

    let whole: Bytes = bytes.concat().into();
    let got = objects.head(get_request("photos", "multi")).await.unwrap();
    assert_eq!(got.headers.content_language.as_deref(), Some("de"));
    assert_eq!((got.size, got.etag.parts, got.parts.len()), (whole.len() as u64, 3, 3));
    assert!(get(objects, "photos", "multi").await.unwrap() == whole);
    for range in
        [ByteRange::Part(2), ByteRange::Part(3), ByteRange::Between(6 * MIB as u64 - 7, 6 * MIB as u64 + 7)]
    {
        let expected = range.resolve(&got).unwrap();
        let request = GetObject { range: Some(range), ..get_request("photos", "multi") };
        let read = get_with(objects, request).await.unwrap();
        assert!(read == whole.slice(expected.start as usize..expected.end as usize), "{range:?}");
    }
    let copy = CopyObject {
        source_bucket: bucket("photos"),
        source_key: key("multi"),
        source_version: None,
        source_conditions: Default::default(),
        source_customer_key: None,
        bucket: bucket("photos"),
        key: key("copied"),
        conditions: Default::default(),
        encryption: None,
        headers: None,
        acl: None,
        idempotency: None,
    };
    objects.copy(copy).await.unwrap();
    put(objects, "photos", "multi", &Bytes::new()).await.unwrap();
    assert!(get(objects, "photos", "copied").await.unwrap() == whole);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_may_be_another_object_or_a_range_of_it_and_an_upload_may_be_aborted() {
    let world = with_bucket().await;
    let objects = world.at(1);
    let source = random_bytes(9, 7 * MIB);
    let mut request = put_request("photos", "source", &source);
    request.body.digests.push(sum_digest(None));
    let stored = objects.put(request).await.unwrap();
    let create = async |checksum| {
        let (bucket, key) = (bucket("photos"), key("multi"));
        let create = CreateUpload { bucket, key, headers: Default::default(), checksum, encryption: None };
        objects.create_upload(create).await.unwrap().upload
    };
    let copy = async |upload, source| {
        let (bucket, key, digest) = (bucket("photos"), key("multi"), |_| sum_digest(None));
        let copy = UploadPartCopy { source, bucket, key, upload, number: 1, customer_key: None, digest };
        let with_key = UploadPartCopy { customer_key: Some(CustomerKey::new([1; 32])), ..copy.clone() };
        let useless = PutObjectError::Encryption(EncryptionError::CustomerKeyUseless);
        let refused = objects.upload_part_copy(with_key).await.unwrap_err();
        assert_eq!(refused.to_string(), UploadPartError::Put(useless).to_string(), "it is not ignored");
        objects.upload_part_copy(copy).await.unwrap().0.part
    };
    let whole = get_request("photos", "source");
    let range = GetObject { range: Some(ByteRange::Between(100, 6 * MIB as u64)), ..whole.clone() };
    for asked in [None, Some(ChecksumAlgorithm::Crc32c), Some(ChecksumAlgorithm::Sha256)] {
        let upload = create(asked).await;
        for (from, expected) in [(&range, source.slice(100..=6 * MIB)), (&whole, source.clone())] {
            let part = copy(upload, from.clone()).await;
            assert_eq!((part.size, part.etag.md5), (expected.len() as u64, Md5::digest(&expected).into()));
        }
        let part = copy(upload, whole.clone()).await;
        assert_eq!(part.etag, stored.etag);
        // As it lies there with it, where that is what is asked for; or computed.
        let sum = asked.is_some().then(|| stored.checksum.clone().unwrap());
        assert_eq!(part.checksum, sum);
        objects.abort_upload(&bucket("photos"), &key("multi"), upload).await.unwrap();
        let again = objects.abort_upload(&bucket("photos"), &key("multi"), upload).await;
        assert!(matches!(again, Err(UploadError::NoSuchUpload)));
    }
    // What was taken as it lay there is there when its source is not.
    let upload = create(None).await;
    let part = copy(upload, whole).await;
    let delete = DeleteObject {
        bucket: bucket("photos"),
        key: key("source"),
        version: None,
        conditions: Default::default(),
        idempotency: None,
    };
    objects.delete(delete).await.unwrap();
    let complete = CompleteUpload {
        bucket: bucket("photos"),
        key: key("multi"),
        upload,
        parts: vec![(1, part.etag.to_string())],
        conditions: Default::default(),
        checksum: None,
        customer_key: None,
    };
    objects.complete_upload(complete).await.unwrap();
    assert!(get(objects, "photos", "multi").await.unwrap() == source);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_manifest_of_many_segments_is_written_and_read_in_place() {
    let world = with_bucket().await;
    // The same MiB again and again: many chunks, few of them different.
    let piece = random_bytes(11, MIB);
    let count = 400;
    let stream = futures_util::stream::iter((0..count).map(move |_| Ok(piece.clone()))).boxed();
    let request = PutObject { body: PutBody::new(stream), ..put_request("photos", "long", &Bytes::new()) };
    let put = world.at(1).put(request).await.unwrap();
    assert_eq!(put.size, (count * MIB) as u64);
    let segment = [&b"os"[..], &world.at(1).head_bucket(&bucket("photos")).await.unwrap().id.0.to_be_bytes()];
    assert!(world.has_record(1, &segment.concat()), "it was too short for segments");
    let piece = random_bytes(11, MIB);
    for at in [0, 1, 299 * MIB - 10, 399 * MIB + 5] {
        let range = ByteRange::Between(at as u64, (at + 99) as u64);
        let request = GetObject { range: Some(range), ..get_request("photos", "long") };
        let read = get_with(world.at(1), request).await.unwrap();
        let expected: Vec<u8> = (at..at + 100).map(|index| piece[index % MIB]).collect();
        assert!(read == expected, "at {at}");
    }
}
