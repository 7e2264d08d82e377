//! Users, keys and grants, as operators and S3 clients meet them.

use serde_json::Value;

use crate::harness::{Cluster, NodeProcess, SECRET_KEY, boto3, wait_until};

/// Gives a boto3 script `as_user(name)`, a client with the key of that user.
fn boto3_as(endpoint: &str, keys: &[(&str, &Value)], script: &str) -> String {
    let keys: Value = keys.iter().map(|(name, key)| (name.to_string(), (*key).clone())).collect();
    let prelude = r#"
keys = json.loads(sys.argv[1])
def as_user(name, **more):
    key = keys[name]
    return boto3.client('s3', endpoint_url=endpoint, aws_access_key_id=key['access_key'],
                        aws_secret_access_key=key['secret_key'], **more)
"#;
    boto3(endpoint, &format!("{prelude}\n{script}"), &[&keys.to_string()])
}

fn user_with_key(node: &NodeProcess, name: &str) -> Value {
    let address = format!("{name}@example.org");
    node.json(&["user", "create", name, "--display-name", &name.to_uppercase(), "--email", &address]);
    node.json(&["key", "create", "--user", name])
}

fn succeeds(node: &NodeProcess, arguments: &[&str]) {
    let output = node.atoll(arguments);
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn users_own_buckets_and_others_get_in_where_they_are_granted() {
    let cluster = Cluster::start(1);
    let node = &cluster.nodes[0];
    let (ann, bob) = (user_with_key(node, "ann"), user_with_key(node, "bob"));
    assert_eq!(ann["display_name"], "ANN");
    assert_eq!(ann["canonical_id"].as_str().unwrap().len(), 64);
    assert_ne!(ann["canonical_id"], bob["canonical_id"]);
    let keys = [("ann", &ann), ("bob", &bob)];
    boto3_as(
        &node.s3,
        &keys,
        r#"
ann, bob = as_user('ann'), as_user('bob')
ann.create_bucket(Bucket='anns')
ann.put_object(Bucket='anns', Key='k', Body=b'1')
s3.create_bucket(Bucket='roots')
answer = ann.list_buckets()
assert [bucket['Name'] for bucket in answer['Buckets']] == ['anns'], answer
assert answer['Owner'] == {'DisplayName': 'ANN', 'ID': keys['ann']['canonical_id']}, answer
assert [bucket['Name'] for bucket in bob.list_buckets()['Buckets']] == []
assert sorted(bucket['Name'] for bucket in s3.list_buckets()['Buckets']) == ['anns', 'roots']
acl = ann.get_bucket_acl(Bucket='anns')
assert acl['Owner']['ID'] == keys['ann']['canonical_id'] == acl['Grants'][0]['Grantee']['ID']
for action in [
    lambda: bob.get_object(Bucket='anns', Key='k'),
    lambda: bob.get_object(Bucket='anns', Key='none'),
    lambda: bob.put_object(Bucket='anns', Key='k', Body=b'2'),
    lambda: bob.list_objects_v2(Bucket='anns'),
    lambda: bob.delete_object(Bucket='anns', Key='k'),
    lambda: bob.delete_bucket(Bucket='anns'),
    lambda: bob.get_bucket_policy(Bucket='anns'),
    lambda: bob.create_multipart_upload(Bucket='anns', Key='k'),
]:
    assert code_of(action) == 'AccessDenied'
deleted = bob.delete_objects(Bucket='anns', Delete={'Objects': [{'Key': 'k'}, {'Key': 'none'}]})
assert [error['Code'] for error in deleted['Errors']] == ['AccessDenied'] * 2 and not deleted.get('Deleted')
assert code_of(lambda: bob.create_bucket(Bucket='anns')) == 'BucketAlreadyExists'
bob.create_bucket(Bucket='bobs')
# A copy needs both sides.
assert code_of(lambda: bob.copy_object(Bucket='bobs', Key='k', CopySource='anns/k')) == 'AccessDenied'
assert s3.get_object(Bucket='anns', Key='k')['Body'].read() == b'1', 'root may everything'
expect = lambda owner: code_of(lambda: s3.get_object(Bucket='anns', Key='k', ExpectedBucketOwner=owner))
assert expect(keys['ann']['canonical_id']) is None and expect(keys['bob']['canonical_id']) == 'AccessDenied'
"#,
    );
    succeeds(node, &["bucket", "grant", "anns", "--user", "bob", "read"]);
    let listed = node.json(&["bucket", "list"]);
    let anns = listed["buckets"].as_array().unwrap().iter().find(|bucket| bucket["name"] == "anns").unwrap();
    assert_eq!(anns["owner"], "ann");
    assert_eq!(anns["grants"], serde_json::json!([{"user": "bob", "rights": ["read"]}]));
    boto3_as(
        &node.s3,
        &keys,
        r#"
bob = as_user('bob')
until = time.time() + 5
while code_of(lambda: bob.get_object(Bucket='anns', Key='k')) and time.time() < until:
    time.sleep(0.1)
assert bob.get_object(Bucket='anns', Key='k')['Body'].read() == b'1'
assert code_of(lambda: bob.get_object(Bucket='anns', Key='none')) == 'NoSuchKey', 'who may list may know'
bob.copy_object(Bucket='bobs', Key='k', CopySource='anns/k')
assert code_of(lambda: bob.put_object(Bucket='anns', Key='k', Body=b'2')) == 'AccessDenied'
"#,
    );
    // Each is given and taken by a command, and holds within 5 s.
    let key = bob["access_key"].as_str().unwrap();
    let soon = |expected: &str, action: &str| {
        let script = format!(
            r#"
bob, once = as_user('bob'), as_user('bob', config=Config(retries={{'total_max_attempts': 1}}))
until = time.time() + 5
while (got := code_of(lambda: {action})) != {expected} and time.time() < until:
    time.sleep(0.1)
assert got == {expected}, got
"#
        );
        boto3_as(&node.s3, &keys, &script);
    };
    let write = "bob.put_object(Bucket='bobs', Key='k', Body=b'2')";
    // Taken away again, as the right may hold a moment longer.
    let create = "(bob.create_bucket(Bucket='others'), bob.delete_bucket(Bucket='others'))";
    for (command, expected, action) in [
        (
            &["bucket", "revoke", "anns", "--user", "bob"][..],
            "'AccessDenied'",
            "bob.get_object(Bucket='anns', Key='k')",
        ),
        (&["key", "revoke", key, "write"], "'AccessDenied'", write),
        (&["key", "grant", key, "write"], "None", write),
        (&["user", "revoke", "bob", "create-buckets"], "'AccessDenied'", create),
        (&["user", "grant", "bob", "create-buckets"], "None", create),
        (&["key", "limit", key, "1"], "'SlowDown'", "[once.list_buckets() for _ in range(20)]"),
        (&["key", "limit", key, "off"], "None", "[once.list_buckets() for _ in range(20)]"),
    ] {
        succeeds(node, command);
        soon(expected, action);
    }
    let refused = node.atoll(&["user", "delete", "ann", "--yes"]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("owns buckets"));
    boto3_as(&node.s3, &keys, "as_user('bob').delete_object(Bucket='bobs', Key='k')");
    succeeds(node, &["bucket", "delete", "bobs", "--yes"]);
    succeeds(node, &["user", "delete", "bob", "--yes"]);
    let names: Vec<String> = node.json(&["user", "list"])["users"]
        .as_array()
        .unwrap()
        .iter()
        .map(|user| user["name"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(names, ["ann", "root"]);
}

#[test]
fn what_is_revoked_on_one_node_is_refused_on_the_other_within_five_seconds() {
    let cluster = Cluster::serving(2, |_| Vec::new());
    let [first, second] = &cluster.nodes[..] else { panic!("two nodes") };
    let (ann, bob) = (user_with_key(first, "ann"), user_with_key(first, "bob"));
    let keys = [("ann", &ann), ("bob", &bob)];
    boto3_as(
        &second.s3,
        &keys,
        r#"
as_user('ann').create_bucket(Bucket='anns')
as_user('ann').put_object(Bucket='anns', Key='k', Body=b'1')
as_user('bob').create_bucket(Bucket='bobs')
"#,
    );
    let key = |key: &Value| key["access_key"].as_str().unwrap().to_owned();
    let asked = r#"
until = time.time() + 5.5
def refused_with(action, code):
    while (got := code_of(action)) != code:
        assert time.time() < until, got
        time.sleep(0.05)
"#;
    succeeds(first, &["key", "revoke", &key(&ann), "write"]);
    let script = r#"
ann = as_user('ann')
refused_with(lambda: ann.put_object(Bucket='anns', Key='k', Body=b'2'), 'AccessDenied')
assert ann.get_object(Bucket='anns', Key='k')['Body'].read() in (b'1', b'2')
"#;
    boto3_as(&second.s3, &keys, &format!("{asked}{script}"));
    succeeds(first, &["key", "delete", &key(&bob), "--yes"]);
    let script = "refused_with(lambda: as_user('bob').list_buckets(), 'InvalidAccessKeyId')";
    boto3_as(&second.s3, &keys, &format!("{asked}{script}"));
}

#[test]
fn secrets_are_told_once_and_lie_where_only_their_owner_reads() {
    use std::os::unix::fs::PermissionsExt;

    let mut cluster = Cluster::serving(0, |_| Vec::new());
    // The operator made the folder, and others may look into it.
    let folder = cluster.path("node-0");
    std::fs::create_dir(&folder).unwrap();
    std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o755)).unwrap();
    cluster.join(&[]);
    let node = &mut cluster.nodes[0];
    assert_eq!(node.stop(), Some(0));
    node.log = "trace".into();
    node.restart();
    let ann = user_with_key(node, "ann");
    boto3_as(
        &node.s3,
        &[("ann", &ann)],
        r#"
import urllib.request, urllib.error
as_user('ann').create_bucket(Bucket='anns')
sealed = {'SSECustomerAlgorithm': 'AES256', 'SSECustomerKey': 'a key that only its customer has'}
as_user('ann').put_object(Bucket='anns', Key='k', Body=b'1', **sealed)
assert as_user('ann').get_object(Bucket='anns', Key='k', **sealed)['Body'].read() == b'1'
wrong = boto3.client('s3', endpoint_url=endpoint, aws_access_key_id=keys['ann']['access_key'], aws_secret_access_key='wrong')
assert code_of(lambda: wrong.list_buckets()) == 'SignatureDoesNotMatch'
assert code_of(lambda: wrong.put_object(Bucket='anns', Key='k', Body=b'1', **sealed)) == 'SignatureDoesNotMatch'
malformed = urllib.request.Request(endpoint + '/anns?delete', data=b'<Delete><Secret>plan', method='POST')
try:
    urllib.request.urlopen(malformed); assert False
except urllib.error.HTTPError as error:
    assert 400 <= error.code < 500, error.code
"#,
    );
    let log = std::fs::read_to_string(node.data.with_extension("log")).unwrap();
    assert!(log.contains("TRACE") && log.contains("DEBUG"), "it logs whatever there is");
    assert!(!log.contains("s3s::") && !log.contains(" s3s:"), "it tells what a signature should have been");
    let token = std::fs::read_to_string(node.data.join("admin-token")).unwrap();
    let secrets = [
        ann["secret_key"].as_str().unwrap(),
        SECRET_KEY,
        token.trim(),
        "a key that only its customer has",
        "YSBrZXkgdGhhdCBvbmx5IGl0cyBjdXN0b21lciBoYXM=",
    ];
    for told in [
        node.atoll(&["key", "list", "-o", "json"]).stdout,
        node.atoll(&["user", "list", "-o", "json"]).stdout,
        node.atoll(&["status", "-o", "json"]).stdout,
        node.atoll(&["audit", "list", "-o", "json"]).stdout,
        log.into_bytes(),
        metrics(node),
    ] {
        let told = String::from_utf8_lossy(&told);
        assert!(!told.is_empty());
        for secret in secrets {
            assert!(!told.contains(secret), "{secret} is told");
        }
    }
    // Whatever lies in it: nobody else gets at it.
    let entries: Vec<_> = std::fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap()).collect();
    assert!(entries.iter().any(|entry| entry.file_name() == "store"));
    for entry in entries {
        let mode = entry.metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o077, 0, "{:?} has {mode:o}", entry.path());
    }
    // And into a folder that it made itself nobody looks at all.
    let made = cluster.join(&[]);
    assert_eq!(cluster.nodes[made].data.metadata().unwrap().permissions().mode() & 0o077, 0);
}

fn metrics(node: &NodeProcess) -> Vec<u8> {
    let url = format!("{}/metrics", node.admin);
    let script = "import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1]).read().decode())";
    let mut text = Vec::new();
    wait_until("the metrics are told", || {
        let output = std::process::Command::new("python3").args(["-c", script, &url]).output().unwrap();
        text = output.stdout;
        output.status.success()
    });
    text
}
