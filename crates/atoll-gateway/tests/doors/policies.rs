//! Bucket policies and the public access block, over HTTP.

use atoll_access::{NewUser, Rights, STALENESS_MAX};
use serde_json::{Value, json};

use crate::{
    client::{Answer, Client, Connection, FORM_END, Request, form_head},
    world::Door,
};

pub async fn user(door: &Door, name: &str) -> Client {
    let new = NewUser { name: name.into(), ..NewUser::default() };
    door.access.create_user(new, door.access.deadline()).await.unwrap();
    let (key, secret) = door.access.create_key(name, Rights::ALL, door.access.deadline()).await.unwrap();
    Client::new(door.address, &key, secret.expose())
}

fn statement(effect: &str, principal: Value, action: Value, condition: Value) -> Value {
    let resource = ["arn:aws:s3:::bucket", "arn:aws:s3:::bucket/*"];
    json!({ "Effect": effect, "Principal": principal, "Action": action, "Resource": resource, "Condition": condition })
}

fn policy(statements: &[Value]) -> String {
    json!({ "Version": "2012-10-17", "Statement": statements }).to_string()
}

async fn put(client: &Client, policy: &str) -> Answer {
    client.put("/bucket?policy=", policy.as_bytes()).await
}

pub async fn anonymous(client: &Client, target: &str) -> Answer {
    client.send_as_it_is(Request::new("GET", target, b"").header("host", "x")).await
}

/// A change holds within the promised time.
pub async fn until(door: &Door, what: &str, mut ask: impl AsyncFnMut() -> bool) {
    let deadline = door.runtime.now() + STALENESS_MAX;
    while !ask().await {
        assert!(door.runtime.now() < deadline, "{what}");
        door.runtime.sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn anonymous_requests_get_in_where_a_policy_lets_them_and_nowhere_else() {
    let (door, client) = Door::with_bucket("bucket").await;
    client.put("/bucket/public/k", b"seen").await;
    client.put("/bucket/k", b"hidden").await;
    assert_eq!(anonymous(&client, "/bucket/public/k").await.code(), "AccessDenied");
    let text = r#"{"Version":"2012-10-17","Statement":[{"Sid":"read","Effect":"Allow","Principal":"*","Action":"s3:GetObject","Resource":"arn:aws:s3:::bucket/public/*"}]}"#;
    assert_eq!(client.get("/bucket?policy=").await.code(), "NoSuchBucketPolicy");
    assert_eq!(put(&client, text).await.status, 204);
    assert_eq!(client.get("/bucket?policy=").await.text(), text, "byte for byte");
    assert!(client.get("/bucket?policyStatus=").await.text().contains("<IsPublic>true</IsPublic>"));
    until(&door, "it is let in", async || anonymous(&client, "/bucket/public/k").await.status == 200).await;
    for target in
        ["/bucket/k", "/bucket", "/bucket/public/none", "/bucket?policy=", "/bucket/public/../k", "/"]
    {
        assert_eq!(anonymous(&client, target).await.code(), "AccessDenied", "{target}");
    }
    let forged =
        Request::new("PUT", "/bucket/public/k", b"x").header("host", "x").header("content-length", "1");
    assert_eq!(client.send_as_it_is(forged).await.code(), "AccessDenied");

    let block = |public: bool, restrict: bool| {
        format!(
            "<PublicAccessBlockConfiguration><BlockPublicPolicy>{public}</BlockPublicPolicy>\
             <RestrictPublicBuckets>{restrict}</RestrictPublicBuckets></PublicAccessBlockConfiguration>"
        )
    };
    let target = "/bucket?publicAccessBlock=";
    assert_eq!(client.get(target).await.code(), "NoSuchPublicAccessBlockConfiguration");
    assert_eq!(client.put(target, block(true, true).as_bytes()).await.status, 200);
    let kept = client.get(target).await.text();
    assert!(kept.contains("<RestrictPublicBuckets>true</RestrictPublicBuckets>"), "{kept}");
    assert!(kept.contains("<IgnorePublicAcls>false</IgnorePublicAcls>"), "{kept}");
    until(&door, "it is shut out", async || anonymous(&client, "/bucket/public/k").await.status == 403).await;
    assert_eq!(put(&client, text).await.code(), "AccessDenied", "public policies are blocked");
    assert_eq!(client.send(Request::new("DELETE", target, b"")).await.status, 204);
    assert_eq!(put(&client, text).await.status, 204);
    assert_eq!(client.send(Request::new("DELETE", "/bucket?policy=", b"")).await.status, 204);
    until(&door, "it is over", async || anonymous(&client, "/bucket/public/k").await.status == 403).await;
    assert_eq!(client.get("/bucket?policyStatus=").await.code(), "NoSuchBucketPolicy");
}

#[tokio::test]
async fn a_policy_s_users_actions_and_conditions_are_what_counts() {
    let (door, client) = Door::with_bucket("bucket").await;
    let (ann, bob) = (user(&door, "ann").await, user(&door, "bob").await);
    client.put("/bucket/home/ann/k", b"1").await;
    let anns = json!({ "AWS": "arn:aws:iam:::user/ann" });
    let rules = policy(&[
        statement("Allow", anns.clone(), json!(["s3:GetObject", "s3:PutObject"]), json!({})),
        statement(
            "Allow",
            anns.clone(),
            json!("s3:ListBucket"),
            json!({ "StringLike": { "s3:prefix": "home/${aws:username}/*" },
                    "NumericLessThanEquals": { "s3:max-keys": 10 } }),
        ),
        statement(
            "Deny",
            json!("*"),
            json!("s3:PutObject"),
            json!({ "StringNotEquals": { "s3:RequestObjectTag/Team": "red" } }),
        ),
        statement(
            "Deny",
            anns,
            json!("s3:GetObject"),
            json!({ "NotIpAddress": { "aws:SourceIp": "127.0.0.0/8" } }),
        ),
    ]);
    assert_eq!(put(&client, &rules).await.status, 204);
    until(&door, "ann gets in", async || ann.get("/bucket/home/ann/k").await.status == 200).await;
    assert_eq!(bob.get("/bucket/home/ann/k").await.code(), "AccessDenied");
    let list = async |query: &str| ann.get(&format!("/bucket?{query}")).await.status;
    assert_eq!(list("list-type=2&max-keys=10&prefix=home%2Fann%2F").await, 200);
    assert_eq!(list("list-type=2&max-keys=11&prefix=home%2Fann%2F").await, 403);
    assert_eq!(list("list-type=2&max-keys=10&prefix=home%2Fbob%2F").await, 403);
    assert_eq!(list("list-type=2&max-keys=10").await, 403);
    let tagged = |tags: &str| Request::new("PUT", "/bucket/home/ann/new", b"2").header("x-amz-tagging", tags);
    assert_eq!(ann.send(tagged("Team=blue")).await.code(), "AccessDenied");
    // It needs the right to tag as well.
    assert_eq!(ann.send(tagged("Team=red")).await.code(), "AccessDenied");
    assert_eq!(
        client.put("/bucket/k", b"2").await.code(),
        "AccessDenied",
        "whom it denies, root is among them"
    );
    assert_eq!(client.send(tagged("Team=red")).await.status, 200);
    // Nobody is locked out of the policy itself.
    let nobody = policy(&[statement("Deny", json!("*"), json!("s3:*"), json!({}))]);
    assert_eq!(put(&client, &nobody).await.status, 204);
    until(&door, "all are shut out", async || client.get("/bucket/home/ann/k").await.status == 403).await;
    assert_eq!(client.send(Request::new("DELETE", "/bucket?policy=", b"")).await.status, 204);
    until(&door, "and in again", async || client.get("/bucket/home/ann/k").await.status == 200).await;
}

#[tokio::test]
async fn a_policy_that_is_not_understood_is_refused_and_the_one_before_holds() {
    let (door, client) = Door::with_bucket("bucket").await;
    let _ann = user(&door, "ann").await;
    let good = policy(&[statement("Allow", json!("*"), json!("s3:GetObject"), json!({}))]);
    assert_eq!(put(&client, &good).await.status, 204);
    for bad in [
        "{".to_owned(),
        policy(&[]),
        policy(&[statement("Allow", json!("*"), json!("s3:Fly"), json!({}))]),
        policy(&[statement(
            "Allow",
            json!({ "AWS": "arn:aws:iam:::user/nobody" }),
            json!("s3:GetObject"),
            json!({}),
        )]),
        policy(&[statement("Allow", json!({ "CanonicalUser": "00" }), json!("s3:GetObject"), json!({}))]),
        policy(&[statement(
            "Allow",
            json!("*"),
            json!("s3:GetObject"),
            json!({ "Moon": { "aws:SourceIp": "full" } }),
        )]),
        good.replace("arn:aws:s3:::bucket", "arn:aws:s3:::another"),
        good.replace("\"Effect\"", "\"Effect\":\"Deny\",\"Effect\""),
        good.replacen('{', "{\"Comment\":\"new\",", 1),
    ] {
        let refused = put(&client, &bad).await;
        assert_eq!((refused.status, refused.code().as_str()), (400, "MalformedPolicy"), "{bad}");
    }
    assert_eq!(client.get("/bucket?policy=").await.text(), good);
}

#[tokio::test]
async fn a_later_bucket_of_the_same_name_inherits_nothing() {
    let (door, client) = Door::with_bucket("bucket").await;
    let bob = user(&door, "bob").await;
    let everyone = policy(&[statement("Allow", json!("*"), json!("s3:*"), json!({}))]);
    assert_eq!(put(&client, &everyone).await.status, 204);
    until(&door, "bob gets in", async || bob.get("/bucket?list-type=2").await.status == 200).await;
    assert_eq!(client.send(Request::new("DELETE", "/bucket", b"")).await.status, 204);
    assert_eq!(client.put("/bucket", b"").await.status, 200);
    assert_eq!(bob.get("/bucket?list-type=2").await.code(), "AccessDenied");
    assert_eq!(client.get("/bucket?policy=").await.code(), "NoSuchBucketPolicy");
}

/// What a put says in its headers a form says in its fields.
#[tokio::test]
async fn conditions_look_at_a_form_s_fields_as_at_a_put_s_headers() {
    let (door, client) = Door::with_bucket("bucket").await;
    let denied_if = |key: &str, value: &str| {
        statement("Deny", json!("*"), json!("s3:PutObject"), json!({ "StringEquals": { key: value } }))
    };
    let rules = policy(&[
        statement("Allow", json!("*"), json!(["s3:PutObject", "s3:PutObjectTagging"]), json!({})),
        denied_if("s3:RequestObjectTag/team", "red"),
        denied_if("s3:x-amz-storage-class", "STANDARD"),
    ]);
    assert_eq!(put(&client, &rules).await.status, 204);
    let tagging = |team: &str| {
        format!("<Tagging><TagSet><Tag><Key>team</Key><Value>{team}</Value></Tag></TagSet></Tagging>")
    };
    let post = async |field: (&str, &str)| {
        let mut connection = Connection::open(door.address).await;
        connection.begin_form("bucket", &form_head(&[("key", "k"), field]), 4).await;
        connection.send_bytes(&[b"file", FORM_END].concat()).await;
        let answer = connection.answer("POST").await;
        (answer.status, answer.code())
    };
    let (red, blue) = (tagging("red"), tagging("blue"));
    let denied = (403, "AccessDenied".to_owned());
    until(&door, "the policy holds", async || post(("tagging", &blue)).await.0 == 204).await;
    assert_eq!(post(("tagging", &red)).await, denied);
    assert_eq!(post(("x-amz-storage-class", "STANDARD")).await, denied);
    assert_eq!(post(("x-amz-meta-a", "b")).await.0, 204);
}
