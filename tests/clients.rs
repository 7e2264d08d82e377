//! What `aws`, boto3 and rclone do with a bucket, on one node.

use std::process::Command;

use crate::harness::{Cluster, aws, aws_output, boto3, rclone};

#[test]
fn the_aws_command_line_makes_fills_lists_and_empties_a_bucket() {
    let cluster = Cluster::start(1);
    let endpoint = &cluster.nodes[0].s3;
    let file = cluster.path("file");
    std::fs::write(&file, vec![7; 3 << 20]).unwrap();
    let file = file.to_str().unwrap();

    aws(endpoint, &["s3", "mb", "s3://first"]);
    assert!(aws(endpoint, &["s3", "ls"]).contains("first"));
    aws(endpoint, &["s3", "cp", file, "s3://first/a/b"]);
    let back = cluster.path("back");
    aws(endpoint, &["s3", "cp", "s3://first/a/b", back.to_str().unwrap()]);
    assert_eq!(std::fs::read(back).unwrap(), vec![7; 3 << 20]);
    assert!(aws(endpoint, &["s3", "ls", "s3://first/"]).contains("PRE a/"));
    assert!(aws(endpoint, &["s3", "ls", "--recursive", "s3://first"]).contains("3145728 a/b"));
    let full = aws_output(endpoint, &["s3", "rb", "s3://first"]);
    assert!(String::from_utf8_lossy(&full.stderr).contains("BucketNotEmpty"));
    aws(endpoint, &["s3", "rm", "--recursive", "s3://first"]);
    aws(endpoint, &["s3", "rb", "s3://first"]);
    assert!(!aws(endpoint, &["s3", "ls"]).contains("first"));
}

#[test]
fn boto3_gets_back_what_it_put_with_headers_ranges_and_metadata() {
    let cluster = Cluster::start(1);
    boto3(
        &cluster.nodes[0].s3,
        r#"
s3.create_bucket(Bucket='bucket')
for size in [0, 1, 4096, 16*1024, 16*1024+1, 1<<20, 9_000_001]:
    body = os.urandom(size)
    put = s3.put_object(Bucket='bucket', Key='k', Body=body, ContentType='text/x-test', CacheControl='no-cache',
                        ContentDisposition='inline', ContentLanguage='de', Metadata={'colour': 'blue'})
    assert put['ETag'] == '"' + hashlib.md5(body).hexdigest() + '"', put
    got = s3.get_object(Bucket='bucket', Key='k')
    assert got['Body'].read() == body
    assert (got['ContentType'], got['CacheControl'], got['ContentDisposition'], got['ContentLanguage']) == \
        ('text/x-test', 'no-cache', 'inline', 'de')
    assert got['Metadata'] == {'colour': 'blue'} and got['ContentLength'] == size
    head = s3.head_object(Bucket='bucket', Key='k')
    assert head['ContentLength'] == size and head['ETag'] == put['ETag']
    if size > 100:
        for ask, want in [('bytes=0-0', body[:1]), ('bytes=10-99', body[10:100]), ('bytes=-7', body[-7:]),
                          (f'bytes={size-5}-', body[-5:]), (f'bytes={size//2}-{size*2}', body[size//2:])]:
            part = s3.get_object(Bucket='bucket', Key='k', Range=ask)
            assert part['Body'].read() == want, ask
            assert part['ResponseMetadata']['HTTPStatusCode'] == 206
        assert code_of(lambda: s3.get_object(Bucket='bucket', Key='k', Range=f'bytes={size}-')) == 'InvalidRange'
s3.copy_object(Bucket='bucket', Key='copy', CopySource={'Bucket': 'bucket', 'Key': 'k'})
assert s3.get_object(Bucket='bucket', Key='copy')['Body'].read() == body
assert s3.head_object(Bucket='bucket', Key='copy')['Metadata'] == {'colour': 'blue'}
s3.copy_object(Bucket='bucket', Key='copy', CopySource={'Bucket': 'bucket', 'Key': 'k'}, MetadataDirective='REPLACE', Metadata={'a': 'b'})
assert s3.head_object(Bucket='bucket', Key='copy')['Metadata'] == {'a': 'b'}
s3.delete_object(Bucket='bucket', Key='k')
assert code_of(lambda: s3.get_object(Bucket='bucket', Key='k')) == 'NoSuchKey'
assert code_of(lambda: s3.get_object(Bucket='nowhere', Key='k')) == 'NoSuchBucket'
"#,
        &[],
    );
}

#[test]
fn listings_page_group_and_begin_where_they_are_told() {
    let cluster = Cluster::start(1);
    boto3(
        &cluster.nodes[0].s3,
        r#"
s3.create_bucket(Bucket='bucket')
keys = sorted([f'dir{i}/file{j}' for i in range(12) for j in range(3)] + ['a', 'b c', 'ü/é', 'z+&<>"%', 'dir', 'dir1', '..', '../x', '//', 'a//b'],
              key=lambda key: key.encode())
for key in keys:
    s3.put_object(Bucket='bucket', Key=key, Body=b'x')
def v2(**more):
    found, prefixes, token = [], [], None
    while True:
        page = s3.list_objects_v2(Bucket='bucket', MaxKeys=5, **more, **({'ContinuationToken': token} if token else {}))
        found += [item['Key'] for item in page.get('Contents', [])]
        prefixes += [item['Prefix'] for item in page.get('CommonPrefixes', [])]
        assert page['KeyCount'] <= 5
        token = page.get('NextContinuationToken')
        if not page['IsTruncated']:
            return found, prefixes
assert v2() == (keys, []), v2()
assert v2(Prefix='dir1') == ([key for key in keys if key.startswith('dir1')], [])
assert v2(Delimiter='/', Prefix='dir') == (['dir', 'dir1'], sorted({key.split('/')[0] + '/' for key in keys if key.startswith('dir') and '/' in key}))
assert v2(StartAfter='dir5/file1')[0] == [key for key in keys if key.encode() > b'dir5/file1']
v1 = [item['Key'] for page in s3.get_paginator('list_objects').paginate(Bucket='bucket', PaginationConfig={'PageSize': 7}) for item in page['Contents']]
assert v1 == keys
answer = s3.delete_objects(Bucket='bucket', Delete={'Objects': [{'Key': key} for key in keys] + [{'Key': 'not there'}]})
assert len(answer['Deleted']) == len(keys) + 1 and not answer.get('Errors')
assert v2() == ([], [])
"#,
        &[],
    );
}

#[test]
fn keys_are_any_bytes_that_s3_allows() {
    let cluster = Cluster::start(1);
    boto3(
        &cluster.nodes[0].s3,
        r#"
s3.create_bucket(Bucket='bucket')
for key in ['..', '../../etc/passwd', '//', '/', './a', 'a/../b', 'x' * 1024, 'ÿ' * 512, ' ', 'a\tb', 'a%2Fb', 'a+b', '\U0001f600', 'con.txt', 'a?b#c', 'a\\b']:
    s3.put_object(Bucket='bucket', Key=key, Body=key.encode())
    assert s3.get_object(Bucket='bucket', Key=key)['Body'].read() == key.encode(), key
    assert s3.list_objects_v2(Bucket='bucket', Prefix=key)['Contents'][0]['Key'] == key
    s3.delete_object(Bucket='bucket', Key=key)
assert code_of(lambda: s3.put_object(Bucket='bucket', Key='x' * 1025, Body=b'')) == 'KeyTooLongError'
for name in ['ab', 'Upper', 'a..b', '-a', '1.2.3.4', 'x' * 64]:
    assert code_of(lambda: boto3_unchecked(name)) == 'InvalidBucketName', name
"#
        .replace(
            "s3.create_bucket(Bucket='bucket')",
            r#"
unchecked = client(endpoint)
unchecked.meta.events.unregister('before-parameter-build.s3', botocore.handlers.validate_bucket_name)
def boto3_unchecked(name):
    return unchecked.create_bucket(Bucket=name)
s3.create_bucket(Bucket='bucket')"#,
        )
        .as_str(),
        &[],
    );
}

#[test]
fn multipart_uploads_are_put_together_in_order_and_aborted() {
    let cluster = Cluster::start(1);
    boto3(
        &cluster.nodes[0].s3,
        r#"
s3.create_bucket(Bucket='bucket')
parts = [os.urandom(5 << 20), os.urandom(6_000_000), os.urandom(1000)]
upload = s3.create_multipart_upload(Bucket='bucket', Key='m', Metadata={'a': 'b'})['UploadId']
done = []
for number, part in enumerate(parts, 1):
    etag = s3.upload_part(Bucket='bucket', Key='m', UploadId=upload, PartNumber=number, Body=part)['ETag']
    done.append({'PartNumber': number, 'ETag': etag})
assert [part['Size'] for part in s3.list_parts(Bucket='bucket', Key='m', UploadId=upload)['Parts']] == [len(part) for part in parts]
assert [item['UploadId'] for item in s3.list_multipart_uploads(Bucket='bucket')['Uploads']] == [upload]
def complete(parts):
    return s3.complete_multipart_upload(Bucket='bucket', Key='m', UploadId=upload, MultipartUpload={'Parts': parts})
assert code_of(lambda: complete(done[::-1])) == 'InvalidPartOrder'
assert code_of(lambda: complete([dict(done[0], ETag='"' + '0' * 32 + '"')])) == 'InvalidPart'
first = complete(done)
assert complete(done)['ETag'] == first['ETag']
digest = hashlib.md5(b''.join(hashlib.md5(part).digest() for part in parts)).hexdigest()
assert first['ETag'] == f'"{digest}-3"', first
got = s3.get_object(Bucket='bucket', Key='m')
assert got['Body'].read() == b''.join(parts) and got['Metadata'] == {'a': 'b'}
assert s3.get_object(Bucket='bucket', Key='m', Range='bytes=5242870-5242889')['Body'].read() == b''.join(parts)[5242870:5242890]
upload = s3.create_multipart_upload(Bucket='bucket', Key='gone')['UploadId']
s3.upload_part(Bucket='bucket', Key='gone', UploadId=upload, PartNumber=1, Body=b'x')
s3.abort_multipart_upload(Bucket='bucket', Key='gone', UploadId=upload)
assert code_of(lambda: s3.upload_part(Bucket='bucket', Key='gone', UploadId=upload, PartNumber=2, Body=b'x')) == 'NoSuchUpload'
upload = s3.create_multipart_upload(Bucket='bucket', Key='small')['UploadId']
small = [{'PartNumber': n, 'ETag': s3.upload_part(Bucket='bucket', Key='small', UploadId=upload, PartNumber=n, Body=b'x')['ETag']} for n in (1, 2)]
assert code_of(lambda: s3.complete_multipart_upload(Bucket='bucket', Key='small', UploadId=upload, MultipartUpload={'Parts': small})) == 'EntityTooSmall'
"#,
        &[],
    );
}

#[test]
fn conditions_are_checked_in_the_commit() {
    let cluster = Cluster::start(1);
    boto3(
        &cluster.nodes[0].s3,
        r#"
s3.create_bucket(Bucket='bucket')
first = s3.put_object(Bucket='bucket', Key='k', Body=b'1', IfNoneMatch='*')['ETag']
assert code_of(lambda: s3.put_object(Bucket='bucket', Key='k', Body=b'2', IfNoneMatch='*')) == 'PreconditionFailed'
second = s3.put_object(Bucket='bucket', Key='k', Body=b'2', IfMatch=first)['ETag']
assert code_of(lambda: s3.put_object(Bucket='bucket', Key='k', Body=b'3', IfMatch=first)) == 'PreconditionFailed'
assert code_of(lambda: s3.put_object(Bucket='bucket', Key='none', Body=b'3', IfMatch=first)) in ('NoSuchKey', 'PreconditionFailed')
assert code_of(lambda: s3.get_object(Bucket='bucket', Key='k', IfMatch=first)) == 'PreconditionFailed'
assert code_of(lambda: s3.get_object(Bucket='bucket', Key='k', IfNoneMatch=second)) == '304'
assert s3.get_object(Bucket='bucket', Key='k', IfMatch=second)['Body'].read() == b'2'
assert code_of(lambda: s3.copy_object(Bucket='bucket', Key='k', CopySource='bucket/k', CopySourceIfMatch=first, MetadataDirective='REPLACE')) == 'PreconditionFailed'
s3.copy_object(Bucket='bucket', Key='new', CopySource='bucket/k', IfNoneMatch='*')
assert code_of(lambda: s3.copy_object(Bucket='bucket', Key='new', CopySource='bucket/k', IfNoneMatch='*')) == 'PreconditionFailed'
upload = s3.create_multipart_upload(Bucket='bucket', Key='k')['UploadId']
part = s3.upload_part(Bucket='bucket', Key='k', UploadId=upload, PartNumber=1, Body=b'x')['ETag']
assert code_of(lambda: s3.complete_multipart_upload(Bucket='bucket', Key='k', UploadId=upload, IfNoneMatch='*',
    MultipartUpload={'Parts': [{'PartNumber': 1, 'ETag': part}]})) == 'PreconditionFailed'
"#,
        &[],
    );
}

#[test]
fn bad_requests_get_s3s_own_errors_and_harm_nothing() {
    let cluster = Cluster::start(1);
    boto3(
        &cluster.nodes[0].s3,
        r#"
import urllib.request, urllib.error
s3.create_bucket(Bucket='bucket')
s3.put_object(Bucket='bucket', Key='k', Body=b'kept')
def raw(method, path, headers={}, body=None):
    try:
        return urllib.request.urlopen(urllib.request.Request(endpoint + path, method=method, headers=headers, data=body)).status
    except urllib.error.HTTPError as error:
        return error.code
assert raw('GET', '/bucket/k') == 403
assert raw('GET', '/bucket/k', {'Authorization': 'AWS key:signature', 'Date': 'Sun, 22 Nov 2026 00:00:00 GMT'}) in (400, 403)
assert raw('GET', '/bucket/k', {'Authorization': 'AWS4-HMAC-SHA256 nonsense'}) in (400, 403)
wrong = boto3.client('s3', endpoint_url=endpoint, aws_secret_access_key='wrong' * 8, aws_access_key_id='atoll-test')
assert code_of(lambda: wrong.get_object(Bucket='bucket', Key='k')) == 'SignatureDoesNotMatch'
stranger = boto3.client('s3', endpoint_url=endpoint, aws_secret_access_key='wrong' * 8, aws_access_key_id='nobody')
assert code_of(lambda: stranger.get_object(Bucket='bucket', Key='k')) == 'InvalidAccessKeyId'
assert code_of(lambda: s3.put_object(Bucket='bucket', Key='k', Body=b'x', ContentMD5='AAAAAAAAAAAAAAAAAAAAAA==')) == 'BadDigest'
assert code_of(lambda: s3.put_object(Bucket='bucket', Key='k', Body=b'x', ServerSideEncryption='aws:kms')) == 'NotImplemented'
assert code_of(lambda: s3.put_bucket_website(Bucket='bucket', WebsiteConfiguration={'IndexDocument': {'Suffix': 'i'}})) == 'NotImplemented'
url = client(endpoint, signature_version='s3v4').generate_presigned_url('get_object', Params={'Bucket': 'bucket', 'Key': 'k'}, ExpiresIn=60)
assert urllib.request.urlopen(url).read() == b'kept'
altered = url.replace('X-Amz-Expires=60', 'X-Amz-Expires=61')
try:
    urllib.request.urlopen(altered); assert False
except urllib.error.HTTPError as error:
    assert error.code == 403
brief = client(endpoint, signature_version='s3v4').generate_presigned_url('get_object', Params={'Bucket': 'bucket', 'Key': 'k'}, ExpiresIn=1)
until = time.time() + 60
while True:
    try:
        assert urllib.request.urlopen(brief).read() == b'kept' and time.time() < until
    except urllib.error.HTTPError as error:
        assert (error.code, b'AccessDenied' in error.read()) == (403, True)
        break
"#,
        &[],
    );
}

#[test]
fn rclone_syncs_a_folder_and_finds_no_difference() {
    let cluster = Cluster::start(1);
    let endpoint = &cluster.nodes[0].s3;
    let folder = cluster.path("folder");
    for (name, size) in [("a", 10), ("deep/er/b", 100_000), ("deep/c d", 0), ("big", 20 << 20)] {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, vec![size as u8; size]).unwrap();
    }
    let folder = folder.to_str().unwrap();
    rclone(endpoint, &["mkdir", "atoll:synced"]);
    rclone(endpoint, &["sync", folder, "atoll:synced", "--s3-upload-cutoff", "8M", "--s3-chunk-size", "5M"]);
    rclone(endpoint, &["check", "--download", folder, "atoll:synced"]);
    std::fs::remove_file(format!("{folder}/a")).unwrap();
    rclone(endpoint, &["sync", folder, "atoll:synced"]);
    assert_eq!(
        rclone(endpoint, &["lsf", "-R", "--files-only", "atoll:synced"]),
        "big\ndeep/c d\ndeep/er/b\n"
    );
    rclone(endpoint, &["purge", "atoll:synced"]);
}

#[test]
fn a_put_larger_than_the_nodes_memory_may_grow_is_streamed() {
    let cluster = Cluster::start(1);
    let node = &cluster.nodes[0];
    let resident = || -> u64 {
        let output = Command::new("ps").args(["-C", "atoll", "-o", "rss="]).output().unwrap();
        let sizes = String::from_utf8_lossy(&output.stdout);
        sizes.lines().filter_map(|line| line.trim().parse::<u64>().ok()).max().unwrap_or_default()
    };
    let before = resident();
    boto3(
        &node.s3,
        r#"
class Endless(io.RawIOBase):
    def __init__(self, size): self.size, self.at = size, 0
    def readable(self): return True
    def seekable(self): return True
    def tell(self): return self.at
    def seek(self, at, whence=0):
        self.at = at if whence == 0 else self.size + at if whence == 2 else self.at + at
        return self.at
    def readinto(self, buffer):
        n = min(len(buffer), self.size - self.at)
        n = min(n, len(pattern) - self.at % len(pattern))
        buffer[:n] = pattern[self.at % len(pattern):][:n]
        self.at += n
        return n
size = 700 << 20
pattern = os.urandom((1 << 16) + 7)
s3.create_bucket(Bucket='bucket')
s3.put_object(Bucket='bucket', Key='large', Body=io.BufferedReader(Endless(size), 1 << 16), ContentLength=size)
assert s3.head_object(Bucket='bucket', Key='large')['ContentLength'] == size
got = 0
for block in s3.get_object(Bucket='bucket', Key='large')['Body'].iter_chunks(1 << 20):
    got += len(block)
assert got == size
"#,
        &[],
    );
    let grown = resident().saturating_sub(before) / 1024;
    assert!(grown < 300, "700 MiB went through, and the node grew by {grown} MiB");
}
