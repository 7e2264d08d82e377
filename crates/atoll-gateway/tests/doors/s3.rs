//! The S3 door over real HTTP, with a client that can lie. What ordinary clients do is
//! tested with them, at the root (`tests/`); here is what they would not do.

use crate::{
    client::{Answer, Client, Connection, Request, now_seconds},
    world::Door,
};
use data_encoding::BASE64;
use futures_util::future::join_all;
use s3s::crypto::{Checksum, Crc32};

const UNSIGNED: &str = "UNSIGNED-PAYLOAD";
const UNSIGNED_TRAILER: &str = "STREAMING-UNSIGNED-PAYLOAD-TRAILER";
const SIGNED_CHUNKS: &str = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD";
const SIGNED_TRAILER: &str = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD-TRAILER";

fn crc32(bytes: &[u8]) -> String {
    BASE64.encode(&Crc32::checksum(bytes))
}

/// `aws-chunked` framing without signatures.
fn framed(chunks: &[&[u8]], trailer: &str) -> Vec<u8> {
    let mut out = Vec::new();
    for chunk in chunks {
        out.extend_from_slice(format!("{:x}\r\n", chunk.len()).as_bytes());
        out.extend_from_slice(chunk);
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(format!("0\r\n{trailer}\r\n").as_bytes());
    out
}

fn trailer_put(target: &str, decoded: usize, body: &[u8]) -> Request {
    Request::new("PUT", target, body)
        .payload(UNSIGNED_TRAILER)
        .header("content-encoding", "aws-chunked")
        .header("x-amz-decoded-content-length", &decoded.to_string())
        .header("x-amz-trailer", "x-amz-checksum-crc32")
}

#[tokio::test]
async fn what_was_put_is_got_listed_and_deleted() {
    let (_door, client) = Door::with_bucket("bucket").await;
    let put = Request::new("PUT", "/bucket/a/../key", b"hello").header("x-amz-meta-colour", "blue");
    let put = client.send(put).await;
    assert_eq!((put.status, put.header("etag")), (200, "\"5d41402abc4b2a76b9719d911017c592\""));
    let got = client.get("/bucket/a/../key").await;
    assert_eq!((got.status, &got.body[..]), (200, &b"hello"[..]));
    assert_eq!(got.header("x-amz-meta-colour"), "blue");
    assert!(got.header("server").starts_with("Atoll/"));
    assert_eq!(got.header("x-amz-request-id").len(), 16);
    let list = client.get("/bucket?list-type=2").await;
    assert!(list.text().contains("<Key>a/../key</Key>"), "{}", list.text());
    assert_eq!(client.delete("/bucket").await.code(), "BucketNotEmpty");
    assert_eq!(client.delete("/bucket/a/../key").await.status, 204);
    let gone = client.get("/bucket/a/../key").await;
    assert_eq!((gone.status, gone.code().as_str()), (404, "NoSuchKey"));
    assert!(gone.text().contains("<Resource>/bucket/a/../key</Resource><RequestId>"), "{}", gone.text());
    assert_eq!(client.delete("/bucket").await.status, 204);
}

#[tokio::test]
async fn a_large_body_streams_in_and_out_whole() {
    let (_door, client) = Door::with_bucket("bucket").await;
    let bytes: Vec<u8> = (0..1_500_000_u32).flat_map(u32::to_le_bytes).collect();
    assert_eq!(client.put("/bucket/large", &bytes).await.status, 200);
    let got = client.get("/bucket/large").await;
    assert!(got.body == bytes);
    let range =
        client.send(Request::new("GET", "/bucket/large", b"").header("range", "bytes=2999990-3000009")).await;
    assert_eq!((range.status, range.header("content-range")), (206, "bytes 2999990-3000009/6000000"));
    assert!(range.body == bytes[2_999_990..3_000_010]);
}

#[tokio::test]
async fn a_trailing_checksum_is_verified_kept_and_said_again() {
    let (_door, client) = Door::with_bucket("bucket").await;
    let crc = crc32(b"hello world");
    let body = framed(&[b"hello", b" world"], &format!("x-amz-checksum-crc32:{crc}\r\n"));
    let put = client.send(trailer_put("/bucket/good", 11, &body)).await;
    assert_eq!((put.status, put.header("x-amz-checksum-crc32")), (200, crc.as_str()), "{}", put.text());
    let got =
        client.send(Request::new("GET", "/bucket/good", b"").header("x-amz-checksum-mode", "ENABLED")).await;
    assert_eq!(&got.body[..], b"hello world");
    assert_eq!(got.header("x-amz-checksum-crc32"), crc);
    assert_eq!(got.header("content-encoding"), "");
}

#[tokio::test]
async fn a_body_that_is_not_what_was_announced_leaves_nothing_behind() {
    let (_door, client) = Door::with_bucket("bucket").await;
    let wrong = format!("x-amz-checksum-crc32:{}\r\n", crc32(b"something else"));
    let right = format!("x-amz-checksum-crc32:{}\r\n", crc32(b"hello world"));
    let chunks: &[&[u8]] = &[b"hello", b" world"];
    let cases = [
        ("wrong trailer", trailer_put("/bucket/k", 11, &framed(chunks, &wrong)), "BadDigest"),
        ("no trailer", trailer_put("/bucket/k", 11, &framed(chunks, "")), "BadDigest"),
        ("cut at a chunk", trailer_put("/bucket/k", 11, b"5\r\nhello\r\n"), "IncompleteBody"),
        ("more than said", trailer_put("/bucket/k", 5, &framed(chunks, &right)), "IncompleteBody"),
        ("no framing", trailer_put("/bucket/k", 11, b"hello world"), "InvalidRequest"),
        (
            "wrong checksum",
            Request::new("PUT", "/bucket/k", b"hello").header("x-amz-checksum-crc32", &crc32(b"other")),
            "BadDigest",
        ),
        (
            "malformed checksum",
            Request::new("PUT", "/bucket/k", b"hello").header("x-amz-checksum-sha256", "AAAA"),
            "InvalidRequest",
        ),
        (
            "wrong md5",
            Request::new("PUT", "/bucket/k", b"hello").header("content-md5", "AAAAAAAAAAAAAAAAAAAAAA=="),
            "BadDigest",
        ),
        (
            "malformed md5",
            Request::new("PUT", "/bucket/k", b"hello").header("content-md5", "hello"),
            "InvalidDigest",
        ),
        (
            "another payload than signed",
            Request::new("PUT", "/bucket/k", b"hello")
                .payload("2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9825"),
            "XAmzContentSHA256Mismatch",
        ),
    ];
    for (what, request, code) in cases {
        let answer = client.send(request).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, code), "{what}: {}", answer.text());
        assert_eq!(client.get("/bucket/k").await.code(), "NoSuchKey", "{what}");
    }
}

#[tokio::test]
async fn signed_chunks_are_taken_and_a_changed_one_is_refused() {
    let (_door, client) = Door::with_bucket("bucket").await;
    let chunks: [&[u8]; 3] = [&[b'a'; 8192], b"tail", b""];
    let signed_put = |target: &str| {
        let mut request = Request::new("PUT", target, b"")
            .payload(SIGNED_CHUNKS)
            .header("x-amz-decoded-content-length", "8196");
        let key = client.sign(&mut request);
        let mut signature = key.seed.clone();
        for chunk in chunks {
            signature = key.chunk_signature(&signature, chunk);
            let line = format!("{:x};chunk-signature={signature}\r\n", chunk.len());
            request.body.extend_from_slice(&[line.as_bytes(), chunk, b"\r\n"].concat());
        }
        request
    };
    let put = client.send_as_it_is(signed_put("/bucket/good")).await;
    assert_eq!(put.status, 200, "{}", put.text());
    assert_eq!(client.get("/bucket/good").await.body.len(), 8196);
    let mut forged = signed_put("/bucket/forged");
    let tail = forged.body.windows(4).position(|window| window == b"tail").unwrap();
    forged.body[tail] = b'T';
    let answer = client.send_as_it_is(forged).await;
    assert_eq!((answer.status, answer.code().as_str()), (403, "SignatureDoesNotMatch"), "{}", answer.text());
    assert_eq!(client.get("/bucket/forged").await.code(), "NoSuchKey");
}

#[tokio::test]
async fn signed_chunks_with_a_signed_trailer_are_taken_and_a_changed_trailer_is_refused() {
    let (_door, client) = Door::with_bucket("bucket").await;
    let crc = crc32(b"hello world");
    let put = |target: &str, said: &str, signed: &str| {
        let mut request = trailer_put(target, 11, b"").payload(SIGNED_TRAILER);
        let key = client.sign(&mut request);
        let mut signature = key.seed.clone();
        for chunk in [&b"hello world"[..], b""] {
            signature = key.chunk_signature(&signature, chunk);
            request.body.extend(format!("{:x};chunk-signature={signature}\r\n", chunk.len()).as_bytes());
            request.body.extend_from_slice(chunk);
            if !chunk.is_empty() {
                request.body.extend_from_slice(b"\r\n");
            }
        }
        let signature = key.trailer_signature(&signature, &format!("x-amz-checksum-crc32:{signed}\n"));
        let trailers = format!("x-amz-checksum-crc32:{said}\r\nx-amz-trailer-signature:{signature}\r\n\r\n");
        request.body.extend_from_slice(trailers.as_bytes());
        request
    };
    let good = client.send_as_it_is(put("/bucket/good", &crc, &crc)).await;
    assert_eq!((good.status, good.header("x-amz-checksum-crc32")), (200, crc.as_str()), "{}", good.text());
    assert_eq!(&client.get("/bucket/good").await.body[..], b"hello world");
    let other = crc32(b"other");
    for (what, said, signed, status) in
        [("another than was signed", &crc, &other, 403), ("of something else", &other, &other, 400)]
    {
        let answer = client.send_as_it_is(put("/bucket/bad", said, signed)).await;
        assert_eq!(answer.status, status, "{what}: {}", answer.text());
        assert_eq!(client.get("/bucket/bad").await.code(), "NoSuchKey", "{what}");
    }
}

#[tokio::test]
async fn a_declared_chunk_over_the_limit_is_refused_before_it_arrives() {
    let (door, client) = Door::with_bucket("bucket").await;
    // 4 GiB are declared, nothing of them is sent.
    let mut request =
        trailer_put("/bucket/k", 1 << 32, b"ffffffff\r\n").header("content-length", "4294967296");
    client.sign(&mut request);
    let mut connection = Connection::open(door.address).await;
    connection.send(&request).await;
    let answer = connection.answer("PUT").await;
    assert_eq!((answer.status, answer.code().as_str()), (400, "InvalidRequest"), "{}", answer.text());
    assert_eq!(answer.header("connection"), "close");
    assert!(connection.is_closed().await);
}

#[tokio::test]
async fn only_what_was_signed_just_now_by_a_known_key_gets_in() {
    let (door, client) = Door::with_bucket("bucket").await;
    client.put("/bucket/k", b"secret").await;
    let get = Request::new("GET", "/bucket/k", b"");

    let anonymous = client.send_as_it_is(get.clone().header("host", "x")).await;
    assert_eq!((anonymous.status, anonymous.code().as_str()), (403, "AccessDenied"));
    let stranger = crate::client::Client::new(door.address, "NOBODY", "secret");
    assert_eq!(stranger.send(get.clone()).await.code(), "InvalidAccessKeyId");
    let guesser = crate::client::Client::new(door.address, crate::world::ACCESS_KEY, "guess");
    assert_eq!(guesser.send(get.clone()).await.code(), "SignatureDoesNotMatch");

    let mut late = get.clone();
    late.signed_at = now_seconds() - 16 * 60;
    let late = client.send(late).await;
    assert_eq!((late.status, late.code().as_str()), (403, "RequestTimeTooSkewed"));

    let mut moved = get.clone();
    client.sign(&mut moved);
    moved.target = "/bucket/other".into();
    assert_eq!(client.send_as_it_is(moved).await.code(), "SignatureDoesNotMatch");

    let sig_v2 = get.header("authorization", "AWS AKTEST:c2lnbmF0dXJl").header("host", "x");
    let sig_v2 = client.send_as_it_is(sig_v2).await;
    assert_eq!((sig_v2.status, sig_v2.code().as_str()), (400, "InvalidRequest"));
}

#[tokio::test]
async fn a_bucket_of_somebody_else_than_expected_is_left_alone() {
    let (_door, client) = Door::with_bucket("bucket").await;
    let owner = atoll_access::canonical_id(atoll_access::ROOT_USER);
    for (expected, status) in [(owner.as_str(), 200), ("123456789012", 403)] {
        let put = Request::new("PUT", "/bucket/k", b"").header("x-amz-expected-bucket-owner", expected);
        assert_eq!(client.send(put).await.status, status);
    }
}

#[tokio::test]
async fn a_revoked_key_is_refused_within_the_promised_time() {
    let (door, client) = Door::with_bucket("bucket").await;
    let deadline = door.runtime.now() + atoll_access::STALENESS_MAX;
    door.access.delete_key(crate::world::ACCESS_KEY, deadline).await.unwrap();
    loop {
        let answer = client.get("/bucket?list-type=2").await;
        if answer.status == 403 {
            assert_eq!(answer.code(), "InvalidAccessKeyId");
            break;
        }
        assert!(door.runtime.now() < deadline, "still accepted");
        door.runtime.sleep(std::time::Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn of_racing_conditional_puts_exactly_one_wins() {
    let (_door, client) = Door::with_bucket("bucket").await;
    let put = |number: u32| {
        let client = client.clone();
        async move {
            let request =
                Request::new("PUT", "/bucket/k", number.to_string().as_bytes()).header("if-none-match", "*");
            client.send(request).await
        }
    };
    let answers = join_all((0..16).map(put)).await;
    let won: Vec<_> = (0..16).filter(|number| answers[*number as usize].status == 200).collect();
    assert_eq!(won.len(), 1);
    assert!(
        answers
            .iter()
            .filter(|answer| answer.status != 200)
            .all(|answer| answer.code() == "PreconditionFailed")
    );
    assert_eq!(client.get("/bucket/k").await.text(), won[0].to_string());
}

#[tokio::test]
async fn a_retry_of_one_call_gets_the_first_answer_and_another_call_its_own() {
    let (_door, client) = Door::with_bucket("bucket").await;
    let put = |id: &str| {
        Request::new("PUT", "/bucket/k", b"once")
            .header("if-none-match", "*")
            .header("amz-sdk-invocation-id", id)
    };
    assert_eq!(client.send(put("one")).await.status, 200);
    assert_eq!(client.send(put("one")).await.status, 200);
    assert_eq!(client.send(put("two")).await.status, 412);
}

#[tokio::test]
async fn a_connection_survives_refused_bodies_and_is_closed_in_order_if_not() {
    let (door, client) = Door::with_bucket("bucket").await;
    let mut connection = Connection::open(door.address).await;
    let mut small = Request::new("PUT", "/no-such-bucket/k", &[0; 100_000]).payload(UNSIGNED);
    client.sign(&mut small);
    let mut get = Request::new("GET", "/bucket?list-type=2", b"");
    client.sign(&mut get);
    connection.send(&small).await;
    assert_eq!(connection.answer("PUT").await.code(), "NoSuchBucket");
    connection.send(&get).await;
    assert_eq!(connection.answer("GET").await.status, 200);
    // Nobody invites this body in, and nobody waits for it.
    let mut waiting = Request::new("PUT", "/no-such-bucket/k", b"")
        .payload(UNSIGNED)
        .header("expect", "100-continue")
        .header("content-length", "5000000000");
    client.sign(&mut waiting);
    connection.send(&waiting).await;
    let answer = connection.answer("PUT").await;
    assert_eq!((answer.code().as_str(), answer.header("connection")), ("NoSuchBucket", "close"));
    assert!(connection.is_closed().await);
}

#[tokio::test]
async fn a_client_that_waits_is_told_to_go_on() {
    let (door, client) = Door::with_bucket("bucket").await;
    let mut connection = Connection::open(door.address).await;
    let mut waiting = Request::new("PUT", "/bucket/k", b"")
        .payload(UNSIGNED)
        .header("expect", "100-continue")
        .header("content-length", "5");
    client.sign(&mut waiting);
    connection.send(&waiting).await;
    assert_eq!(connection.answer("PUT").await.status, 100);
    connection.send_bytes(b"hello").await;
    assert_eq!(connection.answer("PUT").await.status, 200);
    assert_eq!(&client.get("/bucket/k").await.body[..], b"hello");
    // With nothing to go on with, the connection ends: botocore would not use it rightly.
    let mut empty =
        Request::new("PUT", "/bucket/empty", b"").payload(UNSIGNED).header("expect", "100-continue");
    client.sign(&mut empty);
    let mut connection = Connection::open(door.address).await;
    connection.send(&empty).await;
    let answer = connection.answer("PUT").await;
    assert_eq!((answer.status, answer.header("connection")), (200, "close"));
}

#[tokio::test]
async fn an_xml_body_is_checked_against_its_digest_and_its_shape() {
    let (_door, client) = Door::with_bucket("bucket").await;
    client.put("/bucket/k", b"").await;
    let xml = b"<Delete><Object><Key>k</Key></Object><Object><Key>none</Key></Object></Delete>";
    let post = |body: &[u8], md5: &str| {
        let request = Request::new("POST", "/bucket?delete=", body);
        if md5.is_empty() { request } else { request.header("content-md5", md5) }
    };
    let wrong = client.send(post(xml, "AAAAAAAAAAAAAAAAAAAAAA==")).await;
    assert_eq!((wrong.status, wrong.code().as_str()), (400, "BadDigest"), "{}", wrong.text());
    assert_eq!(client.send(post(b"<Delete><Object>", "")).await.code(), "MalformedXML");
    assert_eq!(client.send(post(b"<Delete></Delete>", "")).await.code(), "MalformedXML");
    assert_eq!(client.get("/bucket/k").await.status, 200);
    let deleted = client.send(post(xml, "")).await;
    assert!(deleted.text().contains("<Deleted><Key>none</Key></Deleted>"), "{}", deleted.text());
    assert_eq!(client.get("/bucket/k").await.status, 404);
}

#[tokio::test]
async fn what_is_not_here_says_so_and_does_nothing() {
    let (_door, client) = Door::with_bucket("bucket").await;
    let refused =
        |answer: Answer| assert_eq!((answer.status, answer.code().as_str()), (501, "NotImplemented"));
    let put = |name: &str, value: &str| Request::new("PUT", "/bucket/k", b"").header(name, value);
    refused(client.send(put("x-amz-server-side-encryption", "AES256")).await);
    refused(client.send(put("x-amz-object-lock-mode", "COMPLIANCE")).await);
    let acl = client.send(put("x-amz-acl", "public-read")).await;
    assert_eq!((acl.status, acl.code().as_str()), (400, "AccessControlListNotSupported"));
    refused(
        client
            .put(
                "/bucket?website=",
                b"<WebsiteConfiguration><IndexDocument><Suffix>i</Suffix></IndexDocument></WebsiteConfiguration>",
            )
            .await,
    );
    assert_eq!(client.get("/bucket/k").await.status, 404);
}

#[tokio::test]
async fn a_multipart_upload_becomes_one_object_once() {
    let (_door, client) = Door::with_bucket("bucket").await;
    let created = client.send(Request::new("POST", "/bucket/k?uploads=", b"")).await.text();
    let id = created.split("<UploadId>").nth(1).unwrap().split('<').next().unwrap().to_owned();
    let first = vec![7; 5 << 20];
    let mut parts = String::new();
    for (number, body) in [(1, &first[..]), (2, b"end")] {
        let part = client.put(&format!("/bucket/k?partNumber={number}&uploadId={id}"), body).await;
        assert_eq!(part.status, 200, "{}", part.text());
        parts +=
            &format!("<Part><PartNumber>{number}</PartNumber><ETag>{}</ETag></Part>", part.header("etag"));
    }
    let complete = format!("<CompleteMultipartUpload>{parts}</CompleteMultipartUpload>");
    let complete = || Request::new("POST", &format!("/bucket/k?uploadId={id}"), complete.as_bytes());
    let done = client.send(complete()).await;
    assert_eq!(done.status, 200, "{}", done.text());
    let again = client.send(complete()).await;
    assert_eq!((again.status, again.text()), (200, done.text()));
    let other = client.send(complete().header("if-none-match", "*")).await;
    assert_eq!(other.status, 200, "the upload is complete already: {}", other.text());
    let whole =
        client.send(Request::new("GET", "/bucket/k", b"").header("x-amz-checksum-mode", "ENABLED")).await;
    assert!(whole.body == [&first[..], b"end"].concat());
    // Made of the parts' CRC64s, it is that of the whole.
    assert_eq!(whole.header("x-amz-checksum-type"), "FULL_OBJECT");
    assert_eq!(
        whole.header("x-amz-checksum-crc64nvme"),
        BASE64.encode(&s3s::crypto::Crc64Nvme::checksum(&whole.body))
    );
}

async fn enable_versions(client: &Client) {
    let xml = b"<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    let set = client.put("/bucket?versioning=", xml).await;
    assert_eq!(set.status, 200, "{}", set.text());
}

#[tokio::test]
async fn a_retry_of_one_call_makes_one_version_and_one_delete_marker() {
    let (_door, client) = Door::with_bucket("bucket").await;
    enable_versions(&client).await;
    let put = |id: &str| Request::new("PUT", "/bucket/k", b"hello").header("amz-sdk-invocation-id", id);
    let first = client.send(put("one")).await;
    let version = first.header("x-amz-version-id").to_owned();
    assert_eq!(version.len(), 16);
    assert_eq!(client.send(put("one")).await.header("x-amz-version-id"), version);
    assert_ne!(client.send(put("two")).await.header("x-amz-version-id"), version);
    let delete = |id: &str, target: &str| {
        let request = Request::new("DELETE", target, b"");
        request.header("amz-sdk-invocation-id", id)
    };
    let marker = client.send(delete("three", "/bucket/k")).await;
    assert_eq!((marker.status, marker.header("x-amz-delete-marker")), (204, "true"));
    let marker = marker.header("x-amz-version-id").to_owned();
    assert_eq!(client.send(delete("three", "/bucket/k")).await.header("x-amz-version-id"), marker);
    let list = client.get("/bucket?versions=").await.text();
    assert_eq!(list.matches("<Version>").count(), 2, "{list}");
    assert_eq!(list.matches("<DeleteMarker>").count(), 1, "{list}");
    // Under one name by mistake, deletes of two versions are still two.
    for version in [&version, &marker] {
        let gone = client.send(delete("four", &format!("/bucket/k?versionId={version}"))).await;
        assert_eq!(gone.header("x-amz-version-id"), version);
    }
    let list = client.get("/bucket?versions=").await.text();
    assert_eq!((list.matches("<Version>").count(), list.matches("<DeleteMarker>").count()), (1, 0), "{list}");
}

#[tokio::test]
async fn of_racing_conditional_puts_one_makes_a_version() {
    let (_door, client) = Door::with_bucket("bucket").await;
    enable_versions(&client).await;
    client.put("/bucket/k", b"before").await;
    client.delete("/bucket/k").await;
    let puts = (0..8_u8).map(|number| {
        let (client, body) = (client.clone(), [number]);
        async move { client.send(Request::new("PUT", "/bucket/k", &body).header("if-none-match", "*")).await }
    });
    let won = join_all(puts).await.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(won, 1);
    let list = client.get("/bucket?versions=").await.text();
    assert_eq!(list.matches("<Version>").count(), 2, "{list}");
}

#[tokio::test]
async fn what_names_no_version_is_refused_and_a_marker_can_only_be_deleted() {
    let (_door, client) = Door::with_bucket("bucket").await;
    let plain = client.put("/bucket/k", b"null").await;
    assert_eq!(plain.header("x-amz-version-id"), "");
    assert_eq!(client.get("/bucket/k?versionId=null").await.header("x-amz-version-id"), "");
    enable_versions(&client).await;
    assert_eq!(client.get("/bucket/k").await.header("x-amz-version-id"), "null");
    let bad = client.get("/bucket/k?versionId=nonsense").await;
    assert_eq!((bad.status, bad.code().as_str()), (400, "InvalidArgument"));
    let none = client.get("/bucket/k?versionId=00000000000000ff").await;
    assert_eq!((none.status, none.code().as_str()), (404, "NoSuchVersion"));
    let marker = client.delete("/bucket/k").await.header("x-amz-version-id").to_owned();
    let hidden = client.get("/bucket/k").await;
    assert_eq!((hidden.status, hidden.code().as_str()), (404, "NoSuchKey"));
    assert_eq!(hidden.header("x-amz-delete-marker"), "true");
    assert_eq!(hidden.header("x-amz-version-id"), marker);
    let target = format!("/bucket/k?versionId={marker}");
    for method in ["GET", "HEAD"] {
        let answer = client.send(Request::new(method, &target, b"")).await;
        assert_eq!((answer.status, answer.header("x-amz-delete-marker")), (405, "true"));
        assert_eq!(answer.header("allow"), "DELETE");
    }
    let gone = client.delete(&target).await;
    assert_eq!((gone.status, gone.header("x-amz-delete-marker")), (204, "true"));
    assert_eq!(&client.get("/bucket/k").await.body[..], b"null");
    for target in
        ["/bucket?version-id-marker=null&versions=", "/bucket?key-marker=k&version-id-marker=x&versions="]
    {
        assert_eq!(client.get(target).await.code(), "InvalidArgument", "{target}");
    }
}
