//! ACLs and ownership controls, over HTTP.

use atoll_access::Rights;

use crate::{
    client::{Answer, Client, Request},
    policies::{anonymous, until, user},
    world::Door,
};

const ALL_USERS: &str = "http://acs.amazonaws.com/groups/global/AllUsers";

/// Ann's bucket, with ACLs enabled, and bob, who has nothing.
async fn anns(ownership: &str) -> (Door, Client, Client) {
    let door = Door::open().await;
    let (ann, bob) = (user(&door, "ann").await, user(&door, "bob").await);
    let create = Request::new("PUT", "/bucket", b"").header("x-amz-object-ownership", ownership);
    assert_eq!(ann.send(create).await.status, 200);
    (door, ann, bob)
}

async fn id_of(door: &Door, user: &str) -> String {
    door.access.user(user).await.unwrap().canonical_id.clone()
}

async fn with(client: &Client, method: &'static str, target: &str, headers: &[(&str, &str)]) -> Answer {
    let request = Request::new(method, target, b"");
    client.send(headers.iter().fold(request, |request, (name, value)| request.header(name, value))).await
}

async fn canned(client: &Client, target: &str, name: &str) -> Answer {
    with(client, "PUT", target, &[("x-amz-acl", name)]).await
}

async fn own(client: &Client, ownership: &str) -> Answer {
    let rule = format!(
        "<OwnershipControls><Rule><ObjectOwnership>{ownership}</ObjectOwnership></Rule></OwnershipControls>"
    );
    client.put("/bucket?ownershipControls=", rule.as_bytes()).await
}

/// Grantees and permissions of an answer, in order.
fn grants(answer: &Answer) -> Vec<String> {
    let text = answer.text();
    let inside = |text: &str, tag: &str| {
        let rest = text.split_once(&format!("<{tag}>"))?.1;
        Some(rest.split('<').next().unwrap_or_default().to_owned())
    };
    let grants = text.split("<Grant>").skip(1).map(|grant| {
        let grant = grant.split("</Grant>").next().unwrap_or_default();
        let who = inside(grant, "DisplayName").or(inside(grant, "URI")).unwrap_or_default();
        let who = who.rsplit('/').next().unwrap_or_default().to_owned();
        format!("{who} {}", inside(grant, "Permission").unwrap_or_default())
    });
    grants.collect()
}

fn owner(answer: &Answer) -> String {
    let text = answer.text();
    let owner = text.split_once("<Owner>").and_then(|(_, rest)| rest.split_once("</Owner>")).unwrap().0;
    owner.split_once("<DisplayName>").map_or("", |(_, rest)| rest.split('<').next().unwrap()).to_owned()
}

#[tokio::test]
async fn an_object_that_is_public_is_read_by_everyone_and_another_by_nobody() {
    let (_door, ann, bob) = anns("ObjectWriter").await;
    assert_eq!(canned(&ann, "/bucket/open", "public-read").await.status, 200);
    assert_eq!(canned(&ann, "/bucket/signed", "authenticated-read").await.status, 200);
    assert_eq!(ann.put("/bucket/shut", b"x").await.status, 200);
    assert_eq!(anonymous(&ann, "/bucket/open").await.status, 200);
    assert_eq!(bob.get("/bucket/open").await.status, 200);
    assert_eq!(bob.send(Request::new("HEAD", "/bucket/open", b"")).await.status, 200);
    assert_eq!(bob.get("/bucket/signed").await.status, 200);
    for target in ["/bucket/signed", "/bucket/shut", "/bucket/none", "/bucket/open?acl=", "/bucket"] {
        assert_eq!(anonymous(&ann, target).await.code(), "AccessDenied", "{target}");
    }
    for target in ["/bucket/shut", "/bucket/none", "/bucket/open?tagging=", "/bucket/open?acl="] {
        assert_eq!(bob.get(target).await.code(), "AccessDenied", "{target}");
    }
    assert_eq!(canned(&bob, "/bucket/open?acl=", "private").await.code(), "AccessDenied");
    assert_eq!(bob.delete("/bucket/open").await.code(), "AccessDenied");
    let acl = ann.get("/bucket/open?acl=").await;
    assert_eq!(grants(&acl), ["ann FULL_CONTROL", "AllUsers READ"]);
    assert_eq!(grants(&ann.get("/bucket/shut?acl=").await), ["ann FULL_CONTROL"]);

    // Replaced, by itself or with the object, it holds at once.
    assert_eq!(canned(&ann, "/bucket/open?acl=", "private").await.status, 200);
    assert_eq!(anonymous(&ann, "/bucket/open").await.code(), "AccessDenied");
    assert_eq!(canned(&ann, "/bucket/open?acl=", "public-read").await.status, 200);
    assert_eq!(anonymous(&ann, "/bucket/open").await.status, 200);
    assert_eq!(ann.put("/bucket/open", b"new").await.status, 200);
    assert_eq!(anonymous(&ann, "/bucket/open").await.code(), "AccessDenied");
}

#[tokio::test]
async fn grants_are_given_by_id_address_and_group_in_headers_and_documents() {
    let (door, ann, bob) = anns("BucketOwnerPreferred").await;
    let new =
        atoll_access::NewUser { name: "eve".into(), email: "eve@example.org".into(), ..Default::default() };
    door.access.create_user(new, door.access.deadline()).await.unwrap();
    let (bobs, anns) = (id_of(&door, "bob").await, id_of(&door, "ann").await);
    let by_id = format!("id=\"{bobs}\"");
    let headers =
        [("x-amz-grant-read", by_id.as_str()), ("x-amz-grant-read-acp", "emailAddress=EVE@example.org")];
    assert_eq!(with(&ann, "PUT", "/bucket/k", &headers).await.status, 200);
    assert_eq!(grants(&ann.get("/bucket/k?acl=").await), ["bob READ", "eve READ_ACP"]);
    assert_eq!(bob.get("/bucket/k").await.status, 200);
    assert_eq!(bob.get("/bucket/k?acl=").await.code(), "AccessDenied");

    let document = |grantees: &[(&str, String, &str)]| {
        let grants: String = grantees
            .iter()
            .map(|(kind, who, permission)| {
                format!(
                    "<Grant><Grantee xmlns:xsi=\"http://www.w3.org/2001/XMLSchema-instance\" xsi:type=\"{kind}\">\
                     {who}</Grantee><Permission>{permission}</Permission></Grant>"
                )
            })
            .collect();
        format!(
            "<AccessControlPolicy><Owner><ID>{anns}</ID></Owner>\
             <AccessControlList>{grants}</AccessControlList></AccessControlPolicy>"
        )
    };
    let put = async |client: &Client, text: String| client.put("/bucket/k?acl=", text.as_bytes()).await;
    let user = |id: &str| format!("<ID>{id}</ID>");
    let group = |uri: &str| format!("<URI>{uri}</URI>");
    let bob_may = |permission| ("CanonicalUser", user(&bobs), permission);
    assert_eq!(put(&ann, document(&[bob_may("WRITE_ACP")])).await.status, 200);
    assert_eq!(bob.get("/bucket/k").await.code(), "AccessDenied");
    // Bob may say who may now, himself among them; a key without the right to manage may not.
    let everyone = ("Group", group(ALL_USERS), "READ");
    assert_eq!(put(&bob, document(&[bob_may("FULL_CONTROL"), everyone])).await.status, 200);
    assert_eq!(grants(&bob.get("/bucket/k?acl=").await), ["bob FULL_CONTROL", "AllUsers READ"]);
    assert_eq!(anonymous(&ann, "/bucket/k").await.status, 200);
    let (key, secret) = door.access.create_key("bob", Rights::READ, door.access.deadline()).await.unwrap();
    let reader = Client::new(door.address, &key, secret.expose());
    assert_eq!(reader.get("/bucket/k").await.status, 200);
    assert_eq!(reader.get("/bucket/k?acl=").await.code(), "AccessDenied");
    assert_eq!(canned(&reader, "/bucket/k?acl=", "private").await.code(), "AccessDenied");

    let many: Vec<_> = (0..101).map(|_| bob_may("READ")).collect();
    let eve = "<EmailAddress>nobody@example.org</EmailAddress>".to_owned();
    for (text, code) in [
        (document(&many), "MalformedACLError"),
        (document(&[bob_may("FLY")]), "MalformedACLError"),
        (document(&[("CanonicalUser", String::new(), "READ")]), "MalformedACLError"),
        (document(&[("CanonicalUser", user("00"), "READ")]), "InvalidArgument"),
        (
            document(&[("Group", group("http://acs.amazonaws.com/groups/global/None"), "READ")]),
            "InvalidArgument",
        ),
        (
            document(&[("Group", group("http://acs.amazonaws.com/groups/s3/LogDelivery"), "WRITE")]),
            "NotImplemented",
        ),
        (document(&[("AmazonCustomerByEmail", eve, "READ")]), "UnresolvableGrantByEmailAddress"),
        (document(&[]).replace(&anns, &bobs), "AccessDenied"),
        (String::new(), "MissingSecurityHeader"),
    ] {
        assert_eq!(put(&ann, text.clone()).await.code(), code, "{text}");
    }
    let both = [("x-amz-acl", "private"), ("x-amz-grant-read", by_id.as_str())];
    assert_eq!(with(&ann, "PUT", "/bucket/k", &both).await.code(), "InvalidRequest");
    let header =
        Request::new("PUT", "/bucket/k?acl=", document(&[]).as_bytes()).header("x-amz-acl", "private");
    assert_eq!(ann.send(header).await.code(), "UnexpectedContent");
    assert_eq!(canned(&ann, "/bucket/k", "open").await.code(), "InvalidArgument");
    assert_eq!(canned(&ann, "/bucket/k", "aws-exec-read").await.code(), "NotImplemented");
    assert_eq!(grants(&ann.get("/bucket/k?acl=").await), ["bob FULL_CONTROL", "AllUsers READ"], "it stayed");
}

#[tokio::test]
async fn a_bucket_s_acl_lets_list_write_and_read_or_set_itself() {
    let (door, ann, bob) = anns("ObjectWriter").await;
    ann.put("/bucket/k", b"ann's").await;
    assert_eq!(bob.get("/bucket?list-type=2").await.code(), "AccessDenied");
    assert_eq!(canned(&ann, "/bucket?acl=", "public-read").await.status, 200);
    assert_eq!(grants(&ann.get("/bucket?acl=").await), ["ann FULL_CONTROL", "AllUsers READ"]);
    for target in ["/bucket?list-type=2", "/bucket?uploads=", "/bucket?versions="] {
        assert_eq!(anonymous(&ann, target).await.status, 200, "{target}");
    }
    // Who may list is told what is missing, and of what is there nothing else.
    assert_eq!(anonymous(&ann, "/bucket/none").await.code(), "NoSuchKey");
    assert_eq!(anonymous(&ann, "/bucket/k").await.code(), "AccessDenied");
    assert_eq!(bob.put("/bucket/bobs", b"x").await.code(), "AccessDenied");
    assert_eq!(bob.get("/bucket?acl=").await.code(), "AccessDenied");

    let bobs = format!("id={}", id_of(&door, "bob").await);
    let headers = [("x-amz-grant-write", bobs.as_str()), ("x-amz-grant-write-acp", bobs.as_str())];
    assert_eq!(with(&ann, "PUT", "/bucket?acl=", &headers).await.status, 200);
    assert_eq!(anonymous(&ann, "/bucket?list-type=2").await.code(), "AccessDenied");
    assert_eq!(bob.put("/bucket/bobs", b"bob's").await.status, 200);
    assert_eq!(bob.put("/bucket/k", b"bob's").await.status, 200);
    assert_eq!(bob.delete("/bucket/k").await.status, 204);
    for target in ["/bucket?list-type=2", "/bucket?acl=", "/bucket?policy=", "/bucket?ownershipControls="] {
        assert_eq!(bob.get(target).await.code(), "AccessDenied", "{target}");
    }
    assert_eq!(bob.delete("/bucket").await.code(), "AccessDenied");
    let all = format!("{bobs}, uri=\"{ALL_USERS}\"");
    assert_eq!(with(&bob, "PUT", "/bucket?acl=", &[("x-amz-grant-full-control", &all)]).await.status, 200);
    assert_eq!(grants(&bob.get("/bucket?acl=").await), ["bob FULL_CONTROL", "AllUsers FULL_CONTROL"]);

    // What nobody signed belongs to nobody who could sign; the bucket's owner may still all.
    let put = Request::new("PUT", "/bucket/nobodys", b"x").header("host", "x");
    assert_eq!(ann.send_as_it_is(put).await.status, 200);
    assert_eq!(anonymous(&ann, "/bucket/nobodys").await.code(), "AccessDenied");
    assert_eq!(ann.get("/bucket/nobodys").await.status, 200);
    assert_eq!(own(&ann, "BucketOwnerEnforced").await.code(), "InvalidBucketAclWithObjectOwnership");
    let delete = ann.delete("/bucket?ownershipControls=").await;
    assert_eq!(delete.code(), "InvalidBucketAclWithObjectOwnership");
    assert_eq!(canned(&ann, "/bucket?acl=", "private").await.status, 200);
    assert_eq!(ann.delete("/bucket?ownershipControls=").await.status, 204);
    assert!(ann.get("/bucket?ownershipControls=").await.text().contains("BucketOwnerEnforced"));
}

#[tokio::test]
async fn an_object_is_its_writer_s_or_the_bucket_owner_s_as_the_controls_say() {
    let (door, ann, bob) = anns("ObjectWriter").await;
    let bobs = format!("id={}", id_of(&door, "bob").await);
    let writers = async || with(&ann, "PUT", "/bucket?acl=", &[("x-amz-grant-write", &bobs)]).await;
    assert_eq!(writers().await.status, 200);
    assert_eq!(bob.put("/bucket/bobs", b"x").await.status, 200);
    let acl = bob.get("/bucket/bobs?acl=").await;
    assert_eq!((owner(&acl).as_str(), grants(&acl)), ("bob", vec!["bob FULL_CONTROL".to_owned()]));
    assert_eq!(bob.get("/bucket/bobs").await.status, 200);
    // Its owner may always say who may, itself included.
    let nobody = [("x-amz-grant-write", format!("id={}", id_of(&door, "ann").await))];
    let nobody: Vec<_> = nobody.iter().map(|(name, value)| (*name, value.as_str())).collect();
    assert_eq!(with(&bob, "PUT", "/bucket/bobs?acl=", &nobody).await.status, 200);
    assert_eq!(bob.get("/bucket/bobs").await.code(), "AccessDenied");
    assert_eq!(canned(&bob, "/bucket/bobs?acl=", "public-read").await.status, 200);
    assert_eq!(anonymous(&ann, "/bucket/bobs").await.status, 200);
    assert_eq!(canned(&bob, "/bucket/given", "bucket-owner-full-control").await.status, 200);
    let acl = bob.get("/bucket/given?acl=").await;
    assert_eq!(owner(&acl), "bob");
    assert_eq!(grants(&acl), ["bob FULL_CONTROL", "ann FULL_CONTROL"]);

    assert_eq!(own(&ann, "BucketOwnerPreferred").await.status, 200);
    assert_eq!(canned(&bob, "/bucket/given", "bucket-owner-full-control").await.status, 200);
    let acl = ann.get("/bucket/given?acl=").await;
    assert_eq!((owner(&acl).as_str(), grants(&acl)), ("ann", vec!["ann FULL_CONTROL".to_owned()]));
    assert_eq!(bob.get("/bucket/given").await.code(), "AccessDenied");
    assert_eq!(canned(&bob, "/bucket/kept", "bucket-owner-read").await.status, 200);
    assert_eq!(grants(&bob.get("/bucket/kept?acl=").await), ["bob FULL_CONTROL", "ann READ"]);

    // Disabled, all ACLs say nothing; enabled again, they say what they said.
    assert_eq!(canned(&ann, "/bucket?acl=", "private").await.status, 200);
    assert_eq!(own(&ann, "BucketOwnerEnforced").await.status, 200);
    assert_eq!(anonymous(&ann, "/bucket/bobs").await.code(), "AccessDenied");
    assert_eq!(bob.get("/bucket/bobs?acl=").await.code(), "AccessDenied");
    assert_eq!(owner(&ann.get("/bucket/bobs?acl=").await), "ann");
    assert_eq!(canned(&ann, "/bucket/k", "public-read").await.code(), "AccessControlListNotSupported");
    assert_eq!(own(&ann, "ObjectWriter").await.status, 200);
    assert_eq!(anonymous(&ann, "/bucket/bobs").await.status, 200);
    assert_eq!(own(&ann, "Mine").await.code(), "MalformedXML");
}

#[tokio::test]
async fn copies_uploads_and_versions_have_acls_of_their_own() {
    let (_door, ann, bob) = anns("ObjectWriter").await;
    let versioning = "<VersioningConfiguration><Status>Enabled</Status></VersioningConfiguration>";
    assert_eq!(ann.put("/bucket?versioning=", versioning.as_bytes()).await.status, 200);
    let open = canned(&ann, "/bucket/k", "public-read").await;
    let open = format!("/bucket/k?versionId={}", open.header("x-amz-version-id"));
    assert_eq!(ann.put("/bucket/k", b"shut").await.status, 200);
    assert_eq!(anonymous(&ann, "/bucket/k").await.code(), "AccessDenied");
    assert_eq!(anonymous(&ann, &open).await.status, 200);
    assert_eq!(grants(&ann.get(&open.replace('?', "?acl=&")).await).len(), 2);
    assert_eq!(canned(&ann, &open.replace('?', "?acl=&"), "private").await.status, 200);
    assert_eq!(anonymous(&ann, &open).await.code(), "AccessDenied");

    assert_eq!(canned(&ann, "/bucket/open", "public-read").await.status, 200);
    let copy = async |client: &Client, from: &str, to: &str, acl: &str| {
        with(client, "PUT", to, &[("x-amz-copy-source", from), ("x-amz-acl", acl)]).await
    };
    assert_eq!(copy(&ann, "/bucket/open", "/bucket/copy", "private").await.status, 200);
    assert_eq!(anonymous(&ann, "/bucket/copy").await.code(), "AccessDenied");
    assert_eq!(copy(&ann, "/bucket/copy", "/bucket/copied", "public-read").await.status, 200);
    assert_eq!(anonymous(&ann, "/bucket/copied").await.status, 200);
    // Bob copies what he may read, and nothing else.
    assert_eq!(bob.put("/bobs", b"").await.status, 200);
    assert_eq!(copy(&bob, "/bucket/open", "/bobs/k", "private").await.status, 200);
    assert_eq!(copy(&bob, "/bucket/copy", "/bobs/k", "private").await.code(), "AccessDenied");
    assert_eq!(copy(&bob, "/bucket/none", "/bobs/k", "private").await.code(), "AccessDenied");

    let upload = with(&ann, "POST", "/bucket/up?uploads=", &[("x-amz-acl", "public-read")]).await.text();
    let upload = upload.split_once("<UploadId>").unwrap().1.split('<').next().unwrap().to_owned();
    let part = ann.put(&format!("/bucket/up?partNumber=1&uploadId={upload}"), b"whole").await;
    let parts = format!(
        "<CompleteMultipartUpload><Part><PartNumber>1</PartNumber><ETag>{}</ETag></Part></CompleteMultipartUpload>",
        part.header("etag")
    );
    let complete = Request::new("POST", &format!("/bucket/up?uploadId={upload}"), parts.as_bytes());
    assert_eq!(ann.send(complete).await.status, 200);
    assert_eq!(anonymous(&ann, "/bucket/up").await.text(), "whole");
    let lost = with(&ann, "PUT", "/bucket/k?tagging=", &[("x-amz-acl", "public-read")]).await;
    assert_eq!(lost.code(), "AccessControlListNotSupported", "what takes no ACL does not lose one");
}

#[tokio::test]
async fn the_public_access_block_and_policies_stand_before_acls() {
    let (door, ann, bob) = anns("ObjectWriter").await;
    let block = |block: bool, ignore: bool| {
        format!(
            "<PublicAccessBlockConfiguration><BlockPublicAcls>{block}</BlockPublicAcls>\
             <IgnorePublicAcls>{ignore}</IgnorePublicAcls></PublicAccessBlockConfiguration>"
        )
    };
    let set = async |text: String| ann.put("/bucket?publicAccessBlock=", text.as_bytes()).await.status;
    let bobs = format!("id={}", id_of(&door, "bob").await);
    assert_eq!(canned(&ann, "/bucket/open", "public-read").await.status, 200);
    assert_eq!(with(&ann, "PUT", "/bucket/bobs", &[("x-amz-grant-read", &bobs)]).await.status, 200);
    assert_eq!(set(block(true, false)).await, 200);
    for target in ["/bucket/k", "/bucket/open?acl=", "/bucket?acl="] {
        for name in ["public-read", "public-read-write", "authenticated-read"] {
            assert_eq!(canned(&ann, target, name).await.code(), "AccessDenied", "{target} {name}");
        }
    }
    assert_eq!(anonymous(&ann, "/bucket/open").await.status, 200, "what is there stays");
    assert_eq!(set(block(true, true)).await, 200);
    let shut = async || anonymous(&ann, "/bucket/open").await.status == 403;
    until(&door, "groups are ignored", shut).await;
    assert_eq!(bob.get("/bucket/open").await.code(), "AccessDenied");
    assert_eq!(bob.get("/bucket/bobs").await.status, 200, "who is named is not public");

    assert_eq!(ann.delete("/bucket?publicAccessBlock=").await.status, 204);
    until(&door, "it is open again", async || anonymous(&ann, "/bucket/open").await.status == 200).await;
    let deny = r#"{"Version":"2012-10-17","Statement":[{"Effect":"Deny","Principal":"*","Action":"s3:PutObject","Resource":"arn:aws:s3:::bucket/*","Condition":{"StringEquals":{"s3:x-amz-acl":"public-read"}}},{"Sid":"shut","Effect":"Deny","Principal":"*","Action":"s3:GetObject","Resource":"arn:aws:s3:::bucket/open"}]}"#;
    assert_eq!(ann.put("/bucket?policy=", deny.as_bytes()).await.status, 204);
    until(&door, "a denial wins", async || anonymous(&ann, "/bucket/open").await.status == 403).await;
    assert_eq!(canned(&ann, "/bucket/k", "public-read").await.code(), "AccessDenied");
    assert_eq!(canned(&ann, "/bucket/k", "private").await.status, 200);
}

#[tokio::test]
async fn who_may_only_write_does_not_say_who_may_read() {
    let (door, ann, _bob) = anns("ObjectWriter").await;
    let (key, secret) = door
        .access
        .create_key("ann", Rights::READ.with(Rights::WRITE), door.access.deadline())
        .await
        .unwrap();
    let writer = Client::new(door.address, &key, secret.expose());
    assert_eq!(canned(&writer, "/bucket/k", "public-read").await.code(), "AccessDenied");
    assert_eq!(ann.get("/bucket/k").await.code(), "NoSuchKey", "nothing was written");
    assert_eq!(canned(&writer, "/bucket/k", "bucket-owner-full-control").await.status, 200);
    assert_eq!(canned(&writer, "/bucket/k", "private").await.status, 200);
}

#[tokio::test]
async fn a_bucket_is_made_with_an_acl_only_where_its_ownership_has_some() {
    let door = Door::open().await;
    let client = door.client();
    let create = async |name: &str, headers: &[(&str, &str)]| with(&client, "PUT", name, headers).await;
    for header in [("x-amz-acl", "public-read"), ("x-amz-grant-read", "id=x")] {
        assert_eq!(create("/made", &[header]).await.code(), "InvalidBucketAclWithObjectOwnership");
    }
    let writer = ("x-amz-object-ownership", "ObjectWriter");
    assert_eq!(create("/made", &[writer, ("x-amz-acl", "open")]).await.code(), "InvalidArgument");
    assert_eq!(client.get("/made?acl=").await.code(), "NoSuchBucket");
    assert_eq!(create("/made", &[writer, ("x-amz-acl", "public-read")]).await.status, 200);
    assert_eq!(grants(&client.get("/made?acl=").await), ["root FULL_CONTROL", "AllUsers READ"]);
    assert_eq!(anonymous(&client, "/made?list-type=2").await.status, 200);
    assert_eq!(create("/plain", &[("x-amz-acl", "private")]).await.status, 200);
    assert!(client.get("/plain?ownershipControls=").await.text().contains("BucketOwnerEnforced"));
}
