//! A cluster is backed up to another one's S3, lost, and built again in a third.

use std::{
    process::{Command, Output},
    time::{Duration, SystemTime},
};

use serde_json::Value;

use crate::{
    encryption::{found_under, key_file},
    harness::{ACCESS_KEY, Cluster, NodeProcess, SECRET_KEY, boto3, boto3_command},
};

const FILL: &str = r#"
import hashlib
def noise(seed, size):
    return hashlib.shake_128(seed.encode()).digest(size)
s3.create_bucket(Bucket='plain')
for n in range(30):
    s3.put_object(Bucket='plain', Key=f'folder/{n}', Body=f'value {n}'.encode(), ContentType='text/plain', Metadata={'n': str(n)})
s3.put_object(Bucket='plain', Key='large', Body=noise('large', 3_000_000), Tagging='a=b', CacheControl='no-cache')
s3.put_object(Bucket='plain', Key='strange key/\u00e4 \x01+%', Body=b'x')

s3.create_bucket(Bucket='photos')
s3.put_object(Bucket='photos', Key='k', Body=b'before versions')
def versioning(status):
    s3.put_bucket_versioning(Bucket='photos', VersioningConfiguration={'Status': status})
versioning('Enabled')
for n in range(3):
    s3.put_object(Bucket='photos', Key='k', Body=noise(f'k{n}', 400_000 * n + 10))
s3.delete_object(Bucket='photos', Key='k')
upload = s3.create_multipart_upload(Bucket='photos', Key='parts', Metadata={'of': 'parts'})['UploadId']
parts = [{'PartNumber': n, 'ETag': s3.upload_part(Bucket='photos', Key='parts', UploadId=upload, PartNumber=n,
    Body=noise(f'part {n}', size))['ETag']} for n, size in ((1, 5 << 20), (3, 100_000))]
s3.complete_multipart_upload(Bucket='photos', Key='parts', UploadId=upload, MultipartUpload={'Parts': parts})
begun = s3.create_multipart_upload(Bucket='photos', Key='begun')['UploadId']
s3.upload_part(Bucket='photos', Key='begun', UploadId=begun, PartNumber=1, Body=b'never completed')
s3.put_object(Bucket='photos', Key='deleted', Body=b'deleted')
s3.delete_object(Bucket='photos', Key='deleted')
versioning('Suspended')
s3.put_object(Bucket='photos', Key='k', Body=b'suspended')
s3.put_bucket_tagging(Bucket='photos', Tagging={'TagSet': [{'Key': 'team', 'Value': 'blue'}]})
s3.put_bucket_cors(Bucket='photos', CORSConfiguration={'CORSRules': [{'AllowedOrigins': ['*'], 'AllowedMethods': ['GET']}]})
s3.put_bucket_lifecycle_configuration(Bucket='photos', LifecycleConfiguration={'Rules': [
    {'ID': 'old', 'Status': 'Enabled', 'Filter': {'Prefix': 'tmp/'}, 'Expiration': {'Days': 30}}]})
s3.put_bucket_ownership_controls(Bucket='photos', OwnershipControls={'Rules': [{'ObjectOwnership': 'ObjectWriter'}]})
s3.put_bucket_acl(Bucket='photos', ACL='authenticated-read')
s3.put_object_acl(Bucket='photos', Key='parts', ACL='public-read')
s3.put_bucket_policy(Bucket='photos', Policy=json.dumps({'Version': '2012-10-17', 'Statement': [
    {'Effect': 'Allow', 'Principal': {'AWS': 'arn:aws:iam:::user/ann'}, 'Action': 's3:GetObject', 'Resource': 'arn:aws:s3:::photos/*'}]}))
"#;

/// Everything that a client can see of the buckets named, as JSON.
const DUMP: &str = r#"
def optional(action, *fields):
    try:
        answer = action()
        return [answer.get(field) for field in fields]
    except ClientError as error:
        return error.response['Error']['Code']
dump = {}
for bucket in sys.argv[1:]:
    versions = []
    for page in s3.get_paginator('list_object_versions').paginate(Bucket=bucket):
        for kind in 'Versions', 'DeleteMarkers':
            for item in page.get(kind, []):
                entry = [kind, item['Key'], item['VersionId'], item['IsLatest'], str(item['LastModified']), item['Owner']]
                if kind == 'Versions':
                    named = dict(Bucket=bucket, Key=item['Key'], VersionId=item['VersionId'])
                    got = s3.get_object(**named)
                    entry += [hashlib.sha256(got['Body'].read()).hexdigest(), got['ETag'], got['ContentType'],
                        got.get('CacheControl'), got['Metadata'], s3.get_object_tagging(**named)['TagSet'],
                        optional(lambda: s3.get_object_acl(**named), 'Owner', 'Grants')]
                versions.append(entry)
    dump[bucket] = [versions,
        [item['Key'] for item in s3.list_objects_v2(Bucket=bucket).get('Contents', [])],
        s3.get_bucket_versioning(Bucket=bucket).get('Status'),
        optional(lambda: s3.get_bucket_acl(Bucket=bucket), 'Owner', 'Grants'),
        optional(lambda: s3.get_bucket_ownership_controls(Bucket=bucket), 'OwnershipControls'),
        optional(lambda: s3.get_bucket_tagging(Bucket=bucket), 'TagSet'),
        optional(lambda: s3.get_bucket_cors(Bucket=bucket), 'CORSRules'),
        optional(lambda: s3.get_bucket_lifecycle_configuration(Bucket=bucket), 'Rules'),
        optional(lambda: s3.get_bucket_policy(Bucket=bucket), 'Policy')]
print(json.dumps(dump, sort_keys=True, indent=1))
"#;

const ALL: [&str; 3] = ["plain", "photos", "anns"];

fn dump(node: &NodeProcess, buckets: &[&str]) -> String {
    boto3(&node.s3, DUMP, buckets)
}

/// A command of `node`'s that also speaks to the store which keeps the backups.
fn with_store(node: &NodeProcess, store: &NodeProcess, arguments: &[&str]) -> Output {
    let mut command: Command = node.command(arguments);
    command
        .args(["--endpoint", &store.s3])
        .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        .env_remove("AWS_SESSION_TOKEN");
    command.output().expect("the built binary starts")
}

fn json(output: Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

fn refusal(output: Output) -> String {
    assert_eq!(output.status.code(), Some(1), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}

#[test]
fn a_cluster_that_is_lost_is_built_again_from_its_backup() {
    const PLACE: &str = "s3://backups/of/atoll";
    let mut lost = Cluster::start(3);
    let keeper = Cluster::start(1);
    let store = &keeper.nodes[0];
    let old = &lost.nodes[0];
    old.json(&["user", "create", "ann", "--display-name", "Ann A.", "--email", "ann@example.org"]);
    assert!(old.atoll(&["user", "revoke", "ann", "create-buckets"]).status.success());
    boto3(&old.s3, FILL, &[]);
    assert!(old.atoll(&["bucket", "create", "anns", "--owner", "ann"]).status.success());
    assert!(old.atoll(&["bucket", "grant", "plain", "--user", "ann", "read"]).status.success());
    boto3(&old.s3, "s3.put_object(Bucket='anns', Key='hers', Body=b'hers')", &[]);
    for (key, value) in [("config/a", "1"), ("config/b", "zwei")] {
        assert!(old.atoll(&["kv", "put", key, value]).status.success());
    }

    // Nowhere to put it, and nothing begun.
    let backup = || with_store(old, store, &["backup", "--to", PLACE, "-o", "json"]);
    let nowhere = backup();
    assert_eq!(nowhere.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&nowhere.stderr).contains("no bucket \"backups\""));
    boto3(&store.s3, "s3.create_bucket(Bucket='backups')", &[]);
    let first = json(backup());
    assert_eq!(first["chunks"], first["chunks_sent"]);
    assert!(number(&first["bytes_sent"]) > 9_000_000);
    let then = dump(old, &ALL);

    // The second sends what is new, and little else.
    boto3(
        &old.s3,
        r#"
s3.put_object(Bucket='plain', Key='new', Body=hashlib.shake_128(b'new').digest(1_000_000))
s3.delete_object(Bucket='plain', Key='folder/7')
s3.put_object(Bucket='photos', Key='k', Body=b'another null version')
"#,
        &[],
    );
    let second = json(backup());
    let sent = number(&second["bytes_sent"]);
    assert!((1_000_000..1_500_000).contains(&sent), "{sent}");
    assert!(number(&second["bytes"]) > 10_000_000);
    // One that was interrupted before its end: no list, and some chunks are not there.
    let objects = r#"
def keys(folder):
    pages = s3.get_paginator('list_objects_v2').paginate(Bucket='backups', Prefix='of/atoll/' + folder)
    return sorted((item['Size'], item['Key']) for page in pages for item in page['Contents'])
"#;
    let interrupt = "for _, key in keys('chunks/')[-3:-1] + keys('backups/')[-1:]: s3.delete_object(Bucket='backups', Key=key)";
    boto3(&store.s3, &format!("{objects}\n{interrupt}"), &[]);
    let third = json(backup());
    assert_eq!((&third["chunks"], number(&third["chunks_sent"]) < 10), (&second["chunks"], true), "{third}");
    let now = dump(old, &ALL);
    assert_ne!(then, now);

    for node in &mut lost.nodes {
        node.kill_9();
        std::fs::remove_dir_all(&node.data).expect("the folder is deleted");
    }

    let rebuilt = Cluster::start(1);
    let new = &rebuilt.nodes[0];
    let restore =
        |more: &[&str]| with_store(new, store, &[&["restore", "--from", PLACE, "-o", "json"], more].concat());
    assert!(refusal(restore(&["--backup", "of-yesterday"])).contains("there is no backup of-yesterday"));
    assert!(refusal(restore(&["--bucket", "nobodys"])).contains("there are: "));

    // Of the chunks with data one is altered, then missing: it is named, and nothing comes back.
    let spoil = r#"
size, key = keys('chunks/')[-1]
body = s3.get_object(Bucket='backups', Key=key)['Body'].read()
s3.put_object(Bucket='backups', Key='kept', Body=body)
s3.put_object(Bucket='backups', Key=key, Body=body[:1000] + bytes([body[1000] ^ 1]) + body[1001:])
print(key)
"#;
    let key = boto3(&store.s3, &format!("{objects}\n{spoil}"), &[]);
    let key = key.trim();
    let hash = key.rsplit('/').next().unwrap();
    let refused = refusal(restore(&["--dry-run"]));
    assert!(refused.contains(&format!("the chunk {hash} of the backup is damaged")), "{refused}");
    let refused = refusal(restore(&[]));
    assert!(
        refused.contains(hash) && refused.contains("nothing was") && refused.contains("parts"),
        "{refused}"
    );
    boto3(&store.s3, "s3.delete_object(Bucket='backups', Key=sys.argv[1])", &[key]);
    let refused = refusal(restore(&[]));
    assert!(
        refused.contains(hash) && refused.contains("missing") && refused.contains("photos/parts"),
        "{refused}"
    );
    assert_eq!(new.json(&["bucket", "list"])["buckets"], serde_json::json!([]));
    assert_eq!(new.json(&["user", "list"])["users"].as_array().unwrap().len(), 1);
    let mend =
        "s3.copy_object(Bucket='backups', Key=sys.argv[1], CopySource={'Bucket': 'backups', 'Key': 'kept'})";
    boto3(&store.s3, mend, &[key]);

    let dry = json(restore(&["--dry-run"]));
    assert_eq!((&dry["restored"], &dry["keys_and_values"]), (&Value::Bool(false), &2.into()));
    let restored = json(restore(&[]));
    assert_eq!(restored["buckets"].as_array().unwrap().len(), 3);
    // What the refused attempt brought was not brought again.
    assert!(number(&restored["chunks_brought"]) < number(&third["chunks"]));
    assert_eq!(dump(new, &ALL), now);
    for (key, value) in [("config/a", "1"), ("config/b", "zwei")] {
        assert_eq!(String::from_utf8_lossy(&new.atoll(&["kv", "get", key]).stdout).trim(), value);
    }
    // Ann has a new key, all that was hers, and what she was granted.
    let user = new.json(&["user", "list"])["users"].as_array().unwrap()[0].clone();
    assert_eq!((&user["name"], &user["display_name"]), (&"ann".into(), &"Ann A.".into()));
    assert_eq!(user["rights"], serde_json::json!([]));
    let ann = new.json(&["key", "create", "--user", "ann"]);
    let mut as_ann = boto3_command(
        &new.s3,
        r#"
assert s3.get_object(Bucket='anns', Key='hers')['Body'].read() == b'hers'
assert s3.get_object(Bucket='plain', Key='folder/1')['Body'].read() == b'value 1'
assert s3.list_buckets()['Owner']['DisplayName'] == 'Ann A.'
"#,
        &[],
    );
    as_ann.env("AWS_ACCESS_KEY_ID", ann["access_key"].as_str().unwrap());
    as_ann.env("AWS_SECRET_ACCESS_KEY", ann["secret_key"].as_str().unwrap());
    let as_ann = as_ann.output().unwrap();
    assert!(as_ann.status.success(), "{}", String::from_utf8_lossy(&as_ann.stderr));

    // Done again it changes nothing; another backup is not put over it; beside it there is room.
    assert_eq!(json(restore(&[]))["chunks_brought"], 0);
    let refused = refusal(restore(&["--backup", first["backup"].as_str().unwrap()]));
    assert!(refused.contains("bucket_exists"), "{refused}");
    json(restore(&["--backup", first["backup"].as_str().unwrap(), "--prefix", "old-", "--bucket", "plain"]));
    let earlier = dump(new, &["old-plain"]).replace("old-plain", "plain");
    let of_then: Value = serde_json::from_str(&then).unwrap();
    assert_eq!(serde_json::from_str::<Value>(&earlier).unwrap()["plain"], of_then["plain"]);

    // What is written now is newer than all that came back.
    boto3(
        &new.s3,
        r#"
s3.put_bucket_versioning(Bucket='photos', VersioningConfiguration={'Status': 'Enabled'})
new = s3.put_object(Bucket='photos', Key='k', Body=b'new')['VersionId']
assert s3.get_object(Bucket='photos', Key='k')['Body'].read() == b'new'
assert s3.list_object_versions(Bucket='photos', Prefix='k')['Versions'][0]['VersionId'] == new
"#,
        &[],
    );

    // And the new cluster has snapshots of its own to go back to.
    new.json(&["snapshot", "take"]);
    let taken = dump(new, &["photos"]);
    boto3(
        &new.s3,
        r#"
for page in s3.get_paginator('list_object_versions').paginate(Bucket='photos'):
    for item in page['Versions'] + page['DeleteMarkers']:
        s3.delete_object(Bucket='photos', Key=item['Key'], VersionId=item['VersionId'])
"#,
        &[],
    );
    assert!(new.atoll(&["kv", "put", "config/a", "changed"]).status.success());
    let back = new.json(&["restore", "--at", "0s"]);
    assert_eq!((&back["users"], &back["keys_and_values"]), (&0.into(), &2.into()));
    // As policies and grants are, its ACLs are left to whoever brings it back.
    boto3(
        &new.s3,
        r#"
name = 'restored-photos'
owned = s3.get_bucket_ownership_controls(Bucket=name)['OwnershipControls']['Rules']
assert owned == [{'ObjectOwnership': 'BucketOwnerEnforced'}]
assert len(s3.get_object_acl(Bucket=name, Key='parts')['Grants']) == len(s3.get_bucket_acl(Bucket=name)['Grants']) == 1
s3.put_bucket_ownership_controls(Bucket=name, OwnershipControls={'Rules': [{'ObjectOwnership': 'ObjectWriter'}]})
s3.put_bucket_acl(Bucket=name, ACL='authenticated-read')
assert len(s3.get_object_acl(Bucket=name, Key='parts')['Grants']) == 2
"#,
        &[],
    );
    let restored = dump(new, &["restored-photos"]).replace("restored-photos", "photos");
    let mut wanted: Value = serde_json::from_str(&taken).unwrap();
    // Its policy speaks of the bucket's old name.
    *wanted["photos"].as_array_mut().unwrap().last_mut().unwrap() = "NoSuchBucketPolicy".into();
    assert_eq!(serde_json::from_str::<Value>(&restored).unwrap(), wanted);
    let value = new.atoll(&["kv", "get", "restored-config/a"]);
    assert_eq!(String::from_utf8_lossy(&value.stdout).trim(), "1");
    let rounds = new.json(&["snapshot", "list"]);
    assert!(rounds["rounds"].as_array().unwrap().iter().any(|round| round["complete"] == true));
    // Of several it is the newest that was taken by the time that is named.
    boto3(&new.s3, "s3.create_bucket(Bucket='stages')", &[]);
    let [first, second] = ["one", "two"].map(|stage| {
        boto3(&new.s3, "s3.put_object(Bucket='stages', Key='k', Body=sys.argv[1].encode())", &[stage]);
        number(&new.json(&["snapshot", "take"])["taken_millis"])
    });
    boto3(&new.s3, "s3.put_object(Bucket='stages', Key='k', Body=b'three')", &[]);
    for (millis, prefix, stage) in
        [(first, "at-", "one"), (second - 1, "before-", "one"), (second, "then-", "two")]
    {
        let time = SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
        let time = humantime::format_rfc3339_millis(time).to_string();
        new.json(&["restore", "--at", &time, "--prefix", prefix, "--bucket", "stages"]);
        let read = "print(s3.get_object(Bucket=sys.argv[1], Key='k')['Body'].read().decode())";
        assert_eq!(boto3(&new.s3, read, &[&format!("{prefix}stages")]).trim(), stage);
    }
    let too_early = new.atoll(&["restore", "--at", "2020-01-01T00:00:00Z"]);
    assert!(refusal(too_early).contains("no snapshot was taken by 2020"));
}

/// Fills two buckets, one of which encrypts, and prints what is in them.
const FILL_SEALED: &str = r#"
secret, customer, plain = [marker.encode() for marker in sys.argv[1:4]]
own = {'SSECustomerAlgorithm': 'AES256', 'SSECustomerKey': b'k' * 32}
for bucket in 'sealed', 'open':
    s3.create_bucket(Bucket=bucket)
    s3.put_bucket_versioning(Bucket=bucket, VersioningConfiguration={'Status': 'Enabled'})
rules = {'Rules': [{'ApplyServerSideEncryptionByDefault': {'SSEAlgorithm': 'AES256'}}]}
s3.put_bucket_encryption(Bucket='sealed', ServerSideEncryptionConfiguration=rules)
large = lambda marker: os.urandom(40_000) + marker + os.urandom(2_500_000) + marker
written = []
def note(kind, bucket, key, body, answer):
    written.append([kind, bucket, key, answer['VersionId'], hashlib.sha256(body).hexdigest(), answer['ETag']])
def put(kind, bucket, key, body, **how):
    note(kind, bucket, key, body, s3.put_object(Bucket=bucket, Key=key, Body=body, Metadata={'of': key}, **how))
def multipart(kind, bucket, marker, **how):
    upload = {'Bucket': bucket, 'Key': f'{kind}-parts', 'UploadId': s3.create_multipart_upload(
        Bucket=bucket, Key=f'{kind}-parts', **({'Metadata': {'of': f'{kind}-parts'}} | how))['UploadId']}
    key = {name: value for name, value in how.items() if name.startswith('SSECustomer')}
    pieces = [marker + os.urandom(5 << 20), os.urandom(300_000) + marker]
    parts = [{'PartNumber': n, 'ETag': s3.upload_part(PartNumber=n, Body=piece, **upload, **key)['ETag']}
             for n, piece in enumerate(pieces, 1)]
    note(kind, bucket, upload['Key'], b''.join(pieces), s3.complete_multipart_upload(MultipartUpload={'Parts': parts}, **upload))
for kind, bucket, marker, how in [
        ('sealed', 'sealed', secret, {}), ('sealed', 'open', secret, {'ServerSideEncryption': 'AES256'}),
        ('own', 'sealed', customer, own), ('own', 'open', customer, own), ('plain', 'open', plain, {})]:
    for key, body in ('inline', b'first ' + marker), ('inline', b'second ' + marker), ('large', large(marker)), ('empty', b''):
        put(kind, bucket, f'{kind}-{key}', body, **how)
    multipart(kind, bucket, marker, **how)
print(json.dumps(written))
"#;

/// Reads what was written, as a node with the root key or without; gives what refused says.
const READ_SEALED: &str = r#"
written, has_root_key = json.loads(sys.argv[1]), sys.argv[2] == 'True'
own = {'SSECustomerAlgorithm': 'AES256', 'SSECustomerKey': b'k' * 32}
messages = set()
for kind, bucket, key, version, digest, etag in written:
    named = {'Bucket': bucket, 'Key': key, 'VersionId': version, **(own if kind == 'own' else {})}
    if kind == 'sealed' and not has_root_key:
        try:
            s3.get_object(**named); assert False, named
        except ClientError as error:
            assert error.response['Error']['Code'] == 'NotImplemented', error
            messages.add(error.response['Error']['Message'])
        continue
    got = s3.get_object(ChecksumMode='ENABLED', **named)
    body = got['Body'].read()
    assert hashlib.sha256(body).hexdigest() == digest and got['ETag'] == etag and got['Metadata'] == {'of': key}, named
    assert got.get('ServerSideEncryption') == ('AES256' if kind == 'sealed' else None), named
    assert got.get('SSECustomerAlgorithm') == ('AES256' if kind == 'own' else None), named
    if len(body) > 3_000_000:
        ranged = s3.get_object(Range='bytes=1234567-2999999', **named)['Body'].read()
        assert ranged == body[1234567:3_000_000], named
    if kind == 'own':
        del named['SSECustomerKey'], named['SSECustomerAlgorithm']
        assert code_of(lambda: s3.get_object(**named)) == 'InvalidRequest'
# The bucket encrypts as it did.
rules = s3.get_bucket_encryption(Bucket='sealed')['ServerSideEncryptionConfiguration']['Rules']
assert rules[0]['ApplyServerSideEncryptionByDefault']['SSEAlgorithm'] == 'AES256'
put = lambda: s3.put_object(Bucket='sealed', Key='new', Body=b'new')
if has_root_key:
    assert put()['ServerSideEncryption'] == 'AES256'
else:
    assert code_of(put) == 'NotImplemented'
s3.put_object(Bucket='open', Key='new', Body=b'new')
s3.put_object(Bucket='sealed', Key='new', Body=b'new', **own)
print(sorted(messages))
"#;

#[test]
fn what_is_encrypted_is_encrypted_in_a_backup_and_read_by_who_has_its_key() {
    const PLACE: &str = "s3://backups/sealed";
    let folder = tempfile::tempdir().unwrap();
    let [key, other] = ["root.key", "other.key"].map(|name| key_file(&folder.path().join(name)));
    let with_key = |key: &str| vec!["--key-file".to_owned(), key.to_owned()];
    let mut lost = Cluster::with_flags(1, |_| with_key(&key));
    let keeper = Cluster::start(1);
    let store = &keeper.nodes[0];
    let id = lost.nodes[0].status()["root_key"].as_str().expect("it has a key file").to_owned();
    let markers @ [secret, customer, plain] =
        ["kQz7vR2mXw9LbT4cYh", "dJ8nFs3GpUe6HaZyW1", "tB5rMq0KxVoC7iNgSl"];
    let written = boto3(&lost.nodes[0].s3, FILL_SEALED, &markers);
    let read = |node: &NodeProcess, root_key: &str| boto3(&node.s3, READ_SEALED, &[&written, root_key]);
    boto3(&store.s3, "s3.create_bucket(Bucket='backups')", &[]);
    json(with_store(&lost.nodes[0], store, &["backup", "--to", PLACE, "-o", "json"]));
    read(&lost.nodes[0], "True");
    lost.nodes[0].kill_9();
    std::fs::remove_dir_all(&lost.nodes[0].data).expect("the folder is deleted");

    // Who has the other store has nothing of what is encrypted, and all that is not.
    let found = found_under(&store.data, &markers);
    assert!(!found.contains(&secret) && !found.contains(&customer), "{found:?}");
    assert!(found.contains(&plain), "the marker would not be found");
    let plain_is_there = r#"
pages = s3.get_paginator('list_objects_v2').paginate(Bucket='backups')
chunks = [s3.get_object(Bucket='backups', Key=item['Key'])['Body'].read() for page in pages for item in page['Contents']]
print([min(sum(marker.encode() in chunk for chunk in chunks), 2) for marker in sys.argv[1:]])
"#;
    let found = boto3(&store.s3, plain_is_there, &markers);
    assert_eq!(found.trim(), "[0, 0, 2]", "objects with each marker, two for more");

    // With the key, and a second node that has another: it is the first's that is the cluster's.
    let rebuilt = Cluster::with_flags(2, |number| with_key([&key, &other][number]));
    let [new, mistaken] = [0, 1].map(|number| &rebuilt.nodes[number]);
    let restore = |node: &NodeProcess, more: &[&str]| {
        json(with_store(node, store, &[&["restore", "--from", PLACE, "-o", "json"], more].concat()))
    };
    let missing = |restored: &Value| {
        let mut of: Vec<(String, Value)> = restored["buckets"]
            .as_array()
            .unwrap()
            .iter()
            .map(|bucket| (bucket["name"].as_str().unwrap().into(), bucket["root_keys_missing"].clone()))
            .collect();
        of.sort_by(|one, other| one.0.cmp(&other.0));
        of
    };
    let none = serde_json::json!([]);
    let here = serde_json::json!([id]);
    let of = |keys: &Value| vec![("open".to_owned(), keys.clone()), ("sealed".to_owned(), keys.clone())];
    assert_eq!(missing(&restore(mistaken, &["--dry-run"])), of(&here));
    assert_eq!(missing(&restore(new, &["--dry-run"])), of(&none));
    assert_eq!(missing(&restore(new, &[])), of(&none));
    let refused = read(mistaken, "False");
    assert!(refused.contains(&id), "{refused}");
    assert_eq!(read(new, "True").trim(), "[]");

    // Without it what needs it is refused, and the rest is there; and all of it once it is found.
    let mut keyless = Cluster::start(1);
    let node = &mut keyless.nodes[0];
    let said = with_store(node, store, &["restore", "--from", PLACE]);
    assert!(said.status.success());
    let said = String::from_utf8_lossy(&said.stderr);
    assert!(said.contains(&format!("What is encrypted in sealed, open needs the root key {id}")), "{said}");
    let refused = read(node, "False");
    assert!(refused.contains("--key-file"), "{refused}");
    assert_eq!(node.stop(), Some(0));
    let flags = with_key(&key);
    *node = NodeProcess::start(&node.data.clone(), &flags.iter().map(String::as_str).collect::<Vec<_>>());
    assert_eq!(read(node, "True").trim(), "[]");
}
