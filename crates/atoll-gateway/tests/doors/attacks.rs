//! What those meet who try more than they may: one byte altered anywhere, requests captured
//! and sent again, clocks that are off, keys revoked in mid-use, path tricks, header and XML
//! bombs, floods. `docs/security.md` says what happens for each; here it is shown.

use std::time::Duration;

use atoll_access::{Rights, STALENESS_MAX};

use crate::{
    client::{Answer, Client, Connection, FORM_END, Request, form_head, now_seconds},
    world::{ACCESS_KEY, Door},
};

/// A request as it goes over the wire, signed.
fn signed(client: &Client, request: Request) -> Request {
    let mut request = request;
    client.sign(&mut request);
    request
}

fn is_refused(answer: &Answer) -> bool {
    // 501: the byte made it a service that is not S3.
    [400, 403, 501].contains(&answer.status)
}

#[tokio::test]
async fn a_request_altered_by_one_byte_is_refused_wherever_the_byte_is() {
    let (_door, client) = Door::with_bucket("bucket").await;
    client.put("/bucket/k", b"kept").await;
    let put = Request::new("PUT", "/bucket/k?x-id=PutObject", b"other").header("x-amz-meta-a", "b");
    let original = signed(&client, put);
    // Each byte of the target, of each signed header and of the body, by one bit.
    let flipped = |byte: u8| if byte == b'~' { b'}' } else { byte ^ 1 };
    let mut forgeries = Vec::new();
    for at in 1..original.target.len() {
        let mut forged = original.clone();
        let mut bytes = forged.target.into_bytes();
        bytes[at] = flipped(bytes[at]);
        forged.target = String::from_utf8(bytes).unwrap();
        // What is no target at all is refused by HTTP itself.
        if forged.target.bytes().all(|byte| byte.is_ascii_graphic()) && !forged.target.contains('#') {
            forgeries.push(forged);
        }
    }
    for (at, (_, value)) in original.headers.iter().enumerate() {
        for byte in 0..value.len() {
            let mut forged = original.clone();
            let mut bytes = value.clone().into_bytes();
            bytes[byte] = flipped(bytes[byte]);
            forged.headers[at].1 = String::from_utf8(bytes).unwrap();
            forgeries.push(forged);
        }
    }
    for at in 0..original.body.len() {
        let mut forged = original.clone();
        forged.body[at] ^= 1;
        forgeries.push(forged);
    }
    let count = forgeries.len();
    assert!(count > 250, "{count}");
    for forged in forgeries {
        let what = format!("{} {:?}", forged.target, forged.headers);
        let answer = client.send_as_it_is(forged).await;
        assert!(is_refused(&answer), "{}: {what}", answer.status);
    }
    assert_eq!(client.get("/bucket/k").await.text(), "kept");
    assert_eq!(client.send_as_it_is(original).await.status, 200, "unaltered it is good");
}

#[tokio::test]
async fn a_captured_request_is_good_for_a_quarter_of_an_hour_as_in_s3_and_then_no_more() {
    let (_door, client) = Door::with_bucket("bucket").await;
    client.put("/bucket/k", b"v").await;
    let at = |ago: i64| {
        let mut get = Request::new("GET", "/bucket/k", b"");
        get.signed_at = (now_seconds() as i64 - ago) as u64;
        signed(&client, get)
    };
    // Inside its window SigV4 knows no difference between the first and the second time: that
    // is S3's protocol. What was captured can be repeated, not altered.
    let captured = at(14 * 60);
    for _ in 0..2 {
        assert_eq!(client.send_as_it_is(captured.clone()).await.status, 200);
    }
    for skewed in [at(16 * 60), at(-16 * 60), at(24 * 3600)] {
        let answer = client.send_as_it_is(skewed).await;
        assert_eq!((answer.status, answer.code().as_str()), (403, "RequestTimeTooSkewed"));
    }
    // A write that is conditional takes effect once, however often it is repeated.
    let once = signed(&client, Request::new("PUT", "/bucket/once", b"1").header("if-none-match", "*"));
    assert_eq!(client.send_as_it_is(once.clone()).await.status, 200);
    assert_eq!(client.send_as_it_is(once).await.status, 412);
}

#[tokio::test]
async fn a_key_that_is_revoked_in_mid_use_is_refused_on_connections_that_stay_open() {
    let (door, client) = Door::with_bucket("bucket").await;
    client.put("/bucket/k", b"v").await;
    let (name, secret) = door.access.create_key("root", Rights::ALL, door.access.deadline()).await.unwrap();
    let user = Client::new(door.address, &name, secret.expose());
    let mut connection = Connection::open(door.address).await;
    connection.send(&signed(&user, Request::new("GET", "/bucket/k", b""))).await;
    assert_eq!(connection.answer("GET").await.status, 200);
    door.access.delete_key(&name, door.access.deadline()).await.unwrap();
    let deadline = door.runtime.now() + STALENESS_MAX;
    loop {
        connection.send(&signed(&user, Request::new("GET", "/bucket/k", b""))).await;
        let answer = connection.answer("GET").await;
        if answer.status == 403 {
            assert_eq!(answer.code(), "InvalidAccessKeyId");
            break;
        }
        assert!(door.runtime.now() < deadline, "still accepted");
        door.runtime.sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn no_path_leads_out_of_a_bucket() {
    let (_door, client) = Door::with_bucket("bucket").await;
    assert_eq!(client.put("/other", b"").await.status, 200);
    client.put("/other/k", b"other's").await;
    // A key is bytes: dots and slashes mean nothing in it.
    for target in ["/bucket/../other/k", "/bucket/%2e%2e/other/k", "/bucket/..%2Fother%2Fk", "/bucket/./k"] {
        let put = client.put(target, b"inside").await;
        assert!(put.status == 200 || is_refused(&put), "{target}: {}", put.status);
        let got = client.get(target).await;
        assert!(got.status != 200 || got.text() == "inside", "{target}");
    }
    assert_eq!(client.get("/other/k").await.text(), "other's");
    for target in ["//bucket/k", "/bucket%2Fk", "/%00/k", "/../../etc/passwd", "/bucket%00/k"] {
        let answer = client.get(target).await;
        assert!([400, 403, 404].contains(&answer.status), "{target}: {}", answer.status);
    }
}

#[tokio::test]
async fn headers_and_xml_without_end_are_refused_and_cost_little() {
    let (door, client) = Door::with_bucket("bucket").await;
    client.put("/bucket/k", b"v").await;
    let bomb = |count: usize, bytes: usize| {
        let mut request = Request::new("GET", "/bucket/k", b"").header("host", "x");
        for number in 0..count {
            request = request.header(&format!("x-amz-meta-{number}"), &"a".repeat(bytes));
        }
        request
    };
    for (count, bytes) in [(5000, 10), (1, 2 << 20)] {
        let mut connection = Connection::open(door.address).await;
        connection.send(&bomb(count, bytes)).await;
        let status = connection.status_or_closed().await;
        assert!(status.is_none_or(|status| [400, 403, 413, 431].contains(&status)), "{status:?}");
    }
    let xml = |body: String| Request::new("POST", "/bucket?delete=", body.as_bytes());
    let deep = format!("{}{}", "<Delete>".repeat(100_000), "</Delete>".repeat(100_000));
    assert_eq!(client.send(xml(deep)).await.code(), "MalformedXML");
    // A billion laughs: entities are not expanded.
    let entities = (1..10).fold("<!ENTITY l0 \"lol\">".to_owned(), |text, level| {
        format!("{text}<!ENTITY l{level} \"{}\">", format!("&l{};", level - 1).repeat(10))
    });
    let laughs = format!("<!DOCTYPE Delete [{entities}]><Delete><Object><Key>&l9;</Key></Object></Delete>");
    let answer = client.send(xml(laughs)).await;
    assert!(answer.status == 400 || !answer.text().contains("lollol"), "{}", answer.status);
    let external = "<!DOCTYPE Delete [<!ENTITY x SYSTEM \"file:///etc/passwd\">]><Delete><Object><Key>&x;</Key></Object></Delete>";
    let answer = client.send(xml(external.into())).await;
    assert!(!answer.text().contains("root:"), "{}", answer.text());
    let many = format!("<Delete>{}</Delete>", "<Object><Key>k</Key></Object>".repeat(1001));
    assert_eq!(client.send(xml(many)).await.code(), "MalformedXML");
    let announced = Request::new("POST", "/bucket?delete=", b"").header("content-length", "9000000000");
    let mut connection = Connection::open(door.address).await;
    connection.send(&signed(&client, announced)).await;
    assert!([400, 413].contains(&connection.answer("POST").await.status), "refused before it arrives");
    assert_eq!(client.get("/bucket/k").await.text(), "v");
}

#[tokio::test]
async fn a_key_with_a_limit_is_slowed_down_and_others_are_not() {
    let (door, client) = Door::with_bucket("bucket").await;
    client.put("/bucket/k", b"v").await;
    let (name, secret) = door.access.create_key("root", Rights::ALL, door.access.deadline()).await.unwrap();
    let limited = Client::new(door.address, &name, secret.expose());
    let burst = async |client: &Client| {
        let mut slowed = 0;
        for _ in 0..30 {
            let answer = client.get("/bucket/k").await;
            match answer.status {
                200 => {}
                503 => {
                    assert_eq!((answer.code().as_str(), answer.header("retry-after")), ("SlowDown", "1"));
                    slowed += 1;
                }
                other => panic!("{other}: {}", answer.text()),
            }
        }
        slowed
    };
    assert_eq!(burst(&limited).await, 0, "off by default");
    door.access.limit_key(&name, Some(2), door.access.deadline()).await.unwrap();
    let deadline = door.runtime.now() + STALENESS_MAX;
    while burst(&limited).await == 0 {
        assert!(door.runtime.now() < deadline, "the limit does not hold");
    }
    assert_eq!(burst(&client).await, 0);
    // Who does not know the secret can't use up what the key may.
    let guesser = Client::new(door.address, &name, "guess");
    for _ in 0..30 {
        assert_eq!(guesser.get("/bucket/k").await.code(), "SignatureDoesNotMatch");
    }
}

/// Files of forms lie in memory while they are read, a few at a time.
#[tokio::test]
async fn who_sends_forms_slowly_without_a_signature_keeps_no_signed_form_waiting() {
    let (door, client) = Door::with_bucket("bucket").await;
    let begin = async |head: &str| {
        let mut connection = Connection::open(door.address).await;
        connection.begin_form("bucket", head, 4).await;
        connection
    };
    // Never ended, and more of each than there are places.
    let (mut slow, in_its_fields) = (Vec::new(), "--form-boundary\r\nContent-Disposition: form-d");
    for _ in 0..10 {
        slow.push(begin(&form_head(&[("key", "unsigned")])).await);
        slow.push(begin(in_its_fields).await);
    }
    // Whose signature does not hold is told so before its file is asked for.
    let stranger = Client::new(door.address, ACCESS_KEY, "guess");
    let mut forgeries = Vec::new();
    for _ in 0..10 {
        forgeries.push(begin(&stranger.form_head("bucket", "forged")).await);
    }
    for forged in &mut forgeries {
        let answer = forged.answer("POST").await;
        assert_eq!((answer.status, answer.code().as_str()), (403, "SignatureDoesNotMatch"));
    }
    let mut signed = begin(&client.form_head("bucket", "signed")).await;
    signed.send_bytes(&[b"file", FORM_END].concat()).await;
    let answer = signed.answer("POST").await;
    assert_eq!(answer.status, 204, "{}", answer.text());
    assert_eq!(client.get("/bucket/signed").await.text(), "file");
    // One of them goes on, when it is its turn, and is refused as nobody may write here.
    drop(slow);
    let mut unsigned = begin(&form_head(&[("key", "unsigned")])).await;
    unsigned.send_bytes(&[b"file", FORM_END].concat()).await;
    assert_eq!(unsigned.answer("POST").await.code(), "AccessDenied");
    assert_eq!(client.get("/bucket/unsigned").await.status, 404);
}
