//! Encryption as `aws` and boto3 meet it, and what a stolen disk has of it.

use std::path::Path;

use crate::harness::{Cluster, atoll, aws, aws_output, boto3};

/// A new root key in a file.
pub fn key_file(path: &Path) -> String {
    let path = path.display().to_string();
    let made = atoll().args(["key-file", "create", &path]).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    path
}

/// Which of these lie as they are in any file under `folder`.
pub fn found_under<'a>(folder: &Path, markers: &[&'a str]) -> Vec<&'a str> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(found_under(&path, markers));
        } else if let Ok(bytes) = std::fs::read(&path) {
            let text = String::from_utf8_lossy(&bytes);
            found.extend(markers.iter().filter(|marker| text.contains(**marker)));
        }
    }
    found
}

#[test]
fn nothing_of_an_encrypted_object_lies_on_any_disk_and_a_node_without_the_key_refuses_it() {
    let keys = tempfile::tempdir().unwrap();
    let key_file = key_file(&keys.path().join("root.key"));
    let mut cluster = Cluster::with_flags(3, |number| match number {
        2 => vec![],
        _ => vec!["--key-file".into(), key_file.clone()],
    });
    let [first, second, without] = [0, 1, 2].map(|number| cluster.nodes[number].s3.clone());
    // Letters in no order, so that no compression takes them apart.
    let (secret, customer, plain) = ("kQz7vR2mXw9LbT4cYh", "dJ8nFs3GpUe6HaZyW1", "tB5rMq0KxVoC7iNgSl");
    let script = r#"
secret, customer, plain = [marker.encode() for marker in sys.argv[3:6]]
second, without = client(sys.argv[1]), client(sys.argv[2])
rules = {'Rules': [{'ApplyServerSideEncryptionByDefault': {'SSEAlgorithm': 'AES256'}}]}
for bucket in 'sealed', 'plain':
    s3.create_bucket(Bucket=bucket)
s3.put_bucket_encryption(Bucket='sealed', ServerSideEncryptionConfiguration=rules)
own = {'SSECustomerAlgorithm': 'AES256', 'SSECustomerKey': b'k' * 32}
large = lambda marker: os.urandom(40_000) + marker + os.urandom(2_500_000) + marker
for client_ in s3, second:
    assert client_.put_object(Bucket='sealed', Key='inline', Body=secret)['ServerSideEncryption'] == 'AES256'
    client_.put_object(Bucket='sealed', Key='large', Body=large(secret))
    client_.put_object(Bucket='plain', Key='asked', Body=secret, ServerSideEncryption='AES256')
    client_.put_object(Bucket='plain', Key='inline-mine', Body=customer, **own)
    client_.put_object(Bucket='plain', Key='large-mine', Body=large(customer), **own)
    client_.copy_object(Bucket='sealed', Key='copy', CopySource='plain/large-mine',
        CopySourceSSECustomerAlgorithm='AES256', CopySourceSSECustomerKey=b'k' * 32)
    upload = client_.create_multipart_upload(Bucket='sealed', Key='multi')['UploadId']
    part = client_.upload_part(Bucket='sealed', Key='multi', UploadId=upload, PartNumber=1, Body=secret)
    assert part['ServerSideEncryption'] == 'AES256'
    client_.complete_multipart_upload(Bucket='sealed', Key='multi', UploadId=upload,
        MultipartUpload={'Parts': [{'PartNumber': 1, 'ETag': part['ETag']}]})
without.put_object(Bucket='plain', Key='inline-plain', Body=plain)
without.put_object(Bucket='plain', Key='large-plain', Body=large(plain))
for bucket, key in ('sealed', 'inline'), ('sealed', 'large'), ('sealed', 'multi'), ('plain', 'asked'):
    assert code_of(lambda: without.get_object(Bucket=bucket, Key=key)) == 'NotImplemented'
for body in b'x', large(b'x'):
    assert code_of(lambda: without.put_object(Bucket='sealed', Key='refused', Body=body)) == 'NotImplemented'
    assert code_of(lambda: without.put_object(Bucket='plain', Key='refused', Body=body, ServerSideEncryption='AES256')) == 'NotImplemented'
assert without.get_object(Bucket='plain', Key='inline-mine', **own)['Body'].read() == customer
assert without.list_objects_v2(Bucket='sealed')['KeyCount'] == 4
"#;
    boto3(&first, script, &[&second, &without, secret, customer, plain]);
    let read_back = r#"
s3 = client(endpoint, retries={'max_attempts': 10})
for key in 'inline', 'large', 'multi', 'copy':
    assert sys.argv[1 + (key == 'copy')].encode() in s3.get_object(Bucket='sealed', Key=key)['Body'].read()
"#;
    boto3(&second, read_back, &[secret, customer]);
    let markers = [secret, customer, plain];
    let check = |cluster: &Cluster| {
        for node in &cluster.nodes {
            let found = found_under(&node.data, &markers);
            assert!(
                !found.contains(&secret) && !found.contains(&customer),
                "{}: {found:?}",
                node.data.display()
            );
            assert!(found.contains(&plain), "{}: the marker would not be found", node.data.display());
        }
    };
    check(&cluster);
    // What is stopped writes its state out, beside its logs.
    for node in &mut cluster.nodes {
        assert_eq!(node.stop(), Some(0));
    }
    check(&cluster);
    cluster.nodes.iter_mut().for_each(|node| node.restart());
    boto3(&first, read_back, &[secret, customer]);
}

#[test]
fn boto3_and_aws_encrypt_with_the_root_key_and_with_their_own() {
    let keys = tempfile::tempdir().unwrap();
    let key_file = key_file(&keys.path().join("root.key"));
    let cluster = Cluster::with_flags(1, |_| vec!["--key-file".into(), key_file.clone()]);
    let endpoint = &cluster.nodes[0].s3;
    boto3(
        endpoint,
        r#"
import base64
s3.create_bucket(Bucket='bucket')
missing = 'ServerSideEncryptionConfigurationNotFoundError'
assert code_of(lambda: s3.get_bucket_encryption(Bucket='bucket')) == missing
rules = lambda algorithm: {'Rules': [{'ApplyServerSideEncryptionByDefault': {'SSEAlgorithm': algorithm}}]}
set_rules = lambda algorithm: s3.put_bucket_encryption(Bucket='bucket', ServerSideEncryptionConfiguration=rules(algorithm))
assert code_of(lambda: set_rules('aws:kms')) == 'NotImplemented'
set_rules('AES256')
got = s3.get_bucket_encryption(Bucket='bucket')['ServerSideEncryptionConfiguration']['Rules'][0]
assert got['ApplyServerSideEncryptionByDefault'] == {'SSEAlgorithm': 'AES256'}
put = s3.put_object(Bucket='bucket', Key='default', Body=b'x')
assert put['ServerSideEncryption'] == 'AES256' and put['ETag'] == '"%s"' % hashlib.md5(b'x').hexdigest()
s3.delete_bucket_encryption(Bucket='bucket')
assert code_of(lambda: s3.get_bucket_encryption(Bucket='bucket')) == missing
assert code_of(lambda: s3.put_object(Bucket='bucket', Key='kms', Body=b'x', ServerSideEncryption='aws:kms')) == 'NotImplemented'
s3.put_bucket_versioning(Bucket='bucket', VersioningConfiguration={'Status': 'Enabled'})

own = {'SSECustomerAlgorithm': 'AES256', 'SSECustomerKey': os.urandom(32)}
other = {'SSECustomerAlgorithm': 'AES256', 'SSECustomerKey': os.urandom(32)}
managed = {'ServerSideEncryption': 'AES256'}
# What boto3 makes of a key by itself for most operations, and not for all.
def text(key):
    if not key:
        return {}
    b64 = lambda value: base64.b64encode(value).decode()
    return {'SSECustomerAlgorithm': 'AES256', 'SSECustomerKey': b64(key['SSECustomerKey']),
            'SSECustomerKeyMD5': b64(hashlib.md5(key['SSECustomerKey']).digest())}
source = lambda key: {'CopySource' + name: value for name, value in key.items()}
def is_own(answer):
    return answer['SSECustomerAlgorithm'] == 'AES256' and len(answer['SSECustomerKeyMD5']) == 24
def is_managed(answer):
    return answer['ServerSideEncryption'] == 'AES256' and 'SSECustomerKeyMD5' not in answer
for asked, key, holds in (managed, {}, is_managed), (own, own, is_own):
    for body in b'', b'small', os.urandom(1_500_000):
        put = s3.put_object(Bucket='bucket', Key='k', Body=body, Metadata={'a': 'b'}, **asked)
        assert holds(put) and (put['ETag'] == '"%s"' % hashlib.md5(body).hexdigest()) == (asked is managed)
        later = s3.put_object(Bucket='bucket', Key='k', Body=b'later')
        version = {'Bucket': 'bucket', 'Key': 'k', 'VersionId': put['VersionId']}
        got = s3.get_object(ChecksumMode='ENABLED', **version, **key)
        assert got['Body'].read() == body and holds(got) and got['Metadata'] == {'a': 'b'}
        checksums = {name for name in got if name.startswith('Checksum') and name != 'ChecksumType'}
        assert checksums == {name for name in put if name.startswith('Checksum') and name != 'ChecksumType'} and checksums
        assert all(got[name] == put[name] for name in checksums)
        head = s3.head_object(**version, **key)
        assert holds(head) and head['ContentLength'] == len(body) and head['ETag'] == put['ETag']
        if body:
            first, last = len(body) // 3, len(body) - 1
            got = s3.get_object(Range=f'bytes={first}-{last}', **version, **key)
            assert got['Body'].read() == body[first:] and got['ContentLength'] == last - first + 1
        attributes = s3.get_object_attributes(ObjectAttributes=['ObjectSize', 'Checksum'], **version, **text(key))
        assert attributes['ObjectSize'] == len(body) and attributes['Checksum']
        if asked is own:
            assert code_of(lambda: s3.get_object(**version)) == 'InvalidRequest'
            assert code_of(lambda: s3.head_object(**version)) == '400'
            assert code_of(lambda: s3.get_object(**version, **other)) == 'AccessDenied'
            assert code_of(lambda: s3.head_object(**version, **other)) == '403'
        else:
            assert code_of(lambda: s3.get_object(**version, **own)) == 'InvalidRequest'
        # Names and tags stay readable.
        s3.put_object_tagging(Tagging={'TagSet': [{'Key': 't', 'Value': '1'}]}, **version)
        assert s3.get_object_tagging(**version)['TagSet'] == [{'Key': 't', 'Value': '1'}]
        for to, to_key, to_holds in ({}, {}, lambda a: 'ServerSideEncryption' not in a), (managed, {}, is_managed), (other, other, is_own):
            copy = s3.copy_object(Bucket='bucket', Key='copy', CopySource=version, **to, **source(key))
            assert to_holds(copy) and copy['CopySourceVersionId'] == put['VersionId']
            got = s3.get_object(Bucket='bucket', Key='copy', **to_key)
            assert got['Body'].read() == body and to_holds(got) and got['Metadata'] == {'a': 'b'}
        if asked is own:
            assert code_of(lambda: s3.copy_object(Bucket='bucket', Key='copy', CopySource=version)) == 'InvalidRequest'
            assert code_of(lambda: s3.copy_object(Bucket='bucket', Key='copy', CopySource=version, **source(other))) == 'AccessDenied'
    # Encrypted in another way, an object may be copied onto itself.
    s3.put_object(Bucket='bucket', Key='itself', Body=b'i')
    assert holds(s3.copy_object(Bucket='bucket', Key='itself', CopySource='bucket/itself', **asked))

    pieces = [os.urandom(5 << 20), os.urandom(1 << 20)]
    created = s3.create_multipart_upload(Bucket='bucket', Key='multi', **asked)
    assert holds(created)
    upload = {'Bucket': 'bucket', 'Key': 'multi', 'UploadId': created['UploadId']}
    put_part = lambda number, key: s3.upload_part(PartNumber=number, Body=pieces[number - 1], **upload, **key)
    for wrong in ({}, other) if asked is own else (own,):
        assert code_of(lambda: put_part(1, wrong)) == 'InvalidRequest'
    first = put_part(1, key)
    s3.put_object(Bucket='bucket', Key='piece', Body=pieces[1], **other)
    second = s3.upload_part_copy(PartNumber=2, CopySource='bucket/piece', **upload, **key, **source(other))
    assert holds(first) and holds(second)
    parts = [{'PartNumber': 1, 'ETag': first['ETag']}, {'PartNumber': 2, 'ETag': second['CopyPartResult']['ETag']}]
    done = s3.complete_multipart_upload(MultipartUpload={'Parts': parts}, **upload, **text(key))
    assert done['ETag'].endswith('-2"') and (asked is own or is_managed(done))
    got = s3.get_object(Bucket='bucket', Key='multi', **key)
    assert got['Body'].read() == b''.join(pieces) and holds(got) and got['ETag'] == done['ETag']
    border = len(pieces[0])
    got = s3.get_object(Bucket='bucket', Key='multi', Range=f'bytes={border - 9}-{border + 9}', **key)
    assert got['Body'].read() == b''.join(pieces)[border - 9:border + 10]

    # As boto3's transfers do it: several parts at once, with checksums.
    large = os.urandom(20_000_000)
    s3.upload_fileobj(io.BytesIO(large), 'bucket', 'transfer', ExtraArgs=asked)
    back = io.BytesIO()
    s3.download_fileobj('bucket', 'transfer', back, ExtraArgs=key)
    assert back.getvalue() == large
"#,
        &[],
    );
    let (own_key, wrong_key) = (keys.path().join("own"), keys.path().join("wrong"));
    std::fs::write(&own_key, [7; 32]).unwrap();
    std::fs::write(&wrong_key, [8; 32]).unwrap();
    let file = keys.path().join("file");
    std::fs::write(&file, vec![5; 9_000_000]).unwrap();
    let (file, back) = (file.display().to_string(), keys.path().join("back"));
    let key = |path: &Path| format!("fileb://{}", path.display());
    aws(endpoint, &["s3", "cp", &file, "s3://bucket/managed", "--sse", "AES256"]);
    aws(endpoint, &["s3", "cp", "s3://bucket/managed", &back.display().to_string()]);
    assert_eq!(std::fs::read(&back).unwrap(), vec![5; 9_000_000]);
    let own = ["--sse-c", "AES256", "--sse-c-key", &key(&own_key)];
    aws(endpoint, &[&["s3", "cp", &file, "s3://bucket/own"], &own[..]].concat());
    std::fs::remove_file(&back).unwrap();
    aws(endpoint, &[&["s3", "cp", "s3://bucket/own", &back.display().to_string()], &own[..]].concat());
    assert_eq!(std::fs::read(&back).unwrap(), vec![5; 9_000_000]);
    let wrong = key(&wrong_key);
    let wrong = ["s3", "cp", "s3://bucket/own", "-", "--sse-c", "AES256", "--sse-c-key", &wrong];
    assert!(!aws_output(endpoint, &wrong).status.success());
}
