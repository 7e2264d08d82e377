//! Versioning as `aws` and boto3 meet it, over restarts.

use crate::harness::{Cluster, aws, boto3};

#[test]
fn boto3_gets_lists_copies_and_deletes_versions() {
    let cluster = Cluster::start(1);
    boto3(
        &cluster.nodes[0].s3,
        r#"
s3.create_bucket(Bucket='bucket')
assert 'Status' not in s3.get_bucket_versioning(Bucket='bucket')
assert 'VersionId' not in s3.put_object(Bucket='bucket', Key='k', Body=b'before')
def versioning(status):
    s3.put_bucket_versioning(Bucket='bucket', VersioningConfiguration={'Status': status})
    assert s3.get_bucket_versioning(Bucket='bucket')['Status'] == status
versioning('Enabled')
bodies = {'null': b'before'}
def put(body, **more):
    version = s3.put_object(Bucket='bucket', Key='k', Body=body, **more)['VersionId']
    assert version not in bodies or version == 'null'
    bodies[version] = body
    return version
small, large = put(b'small', Metadata={'a': 'b'}, Tagging='t=1'), put(os.urandom(3_000_000))
upload = s3.create_multipart_upload(Bucket='bucket', Key='k')['UploadId']
part = s3.upload_part(Bucket='bucket', Key='k', UploadId=upload, PartNumber=1, Body=b'part')['ETag']
done = lambda: s3.complete_multipart_upload(Bucket='bucket', Key='k', UploadId=upload,
    MultipartUpload={'Parts': [{'PartNumber': 1, 'ETag': part}]})
multi = done()['VersionId']
assert done()['VersionId'] == multi
bodies[multi] = b'part'
def check():
    for version, body in bodies.items():
        got = s3.get_object(Bucket='bucket', Key='k', VersionId=version)
        assert got['Body'].read() == body and got['VersionId'] == version
        assert s3.head_object(Bucket='bucket', Key='k', VersionId=version)['ContentLength'] == len(body)
check()
assert s3.head_object(Bucket='bucket', Key='k', VersionId=small)['Metadata'] == {'a': 'b'}
assert s3.get_object(Bucket='bucket', Key='k', VersionId=large, Range='bytes=5-9')['Body'].read() == bodies[large][5:10]
assert s3.get_object_tagging(Bucket='bucket', Key='k', VersionId=small)['TagSet'] == [{'Key': 't', 'Value': '1'}]
assert s3.get_object(Bucket='bucket', Key='k')['Body'].read() == b'part'

# A former version, put in its place again; a part from a former version.
copy = s3.copy_object(Bucket='bucket', Key='k', CopySource={'Bucket': 'bucket', 'Key': 'k', 'VersionId': small})
assert copy['CopySourceVersionId'] == small
bodies[copy['VersionId']] = b'small'
upload = s3.create_multipart_upload(Bucket='bucket', Key='parts')['UploadId']
part = s3.upload_part_copy(Bucket='bucket', Key='parts', UploadId=upload, PartNumber=1, CopySourceRange='bytes=10-1000009',
    CopySource={'Bucket': 'bucket', 'Key': 'k', 'VersionId': large})
assert part['CopySourceVersionId'] == large
s3.complete_multipart_upload(Bucket='bucket', Key='parts', UploadId=upload,
    MultipartUpload={'Parts': [{'PartNumber': 1, 'ETag': part['CopyPartResult']['ETag']}]})
assert s3.get_object(Bucket='bucket', Key='parts')['Body'].read() == bodies[large][10:1_000_010]

gone = s3.delete_object(Bucket='bucket', Key='k')
assert gone['DeleteMarker']
assert code_of(lambda: s3.get_object(Bucket='bucket', Key='k')) == 'NoSuchKey'
assert code_of(lambda: s3.get_object(Bucket='bucket', Key='k', VersionId=gone['VersionId'])) == 'MethodNotAllowed'
assert code_of(lambda: s3.copy_object(Bucket='bucket', Key='c', CopySource={'Bucket': 'bucket', 'Key': 'k', 'VersionId': gone['VersionId']})) == 'InvalidRequest'
assert [item['Key'] for item in s3.list_objects_v2(Bucket='bucket')['Contents']] == ['parts']
check()

versioning('Suspended')
s3.put_object(Bucket='bucket', Key='k', Body=b'x')
bodies['null'] = b'suspended'
assert s3.put_object(Bucket='bucket', Key='k', Body=b'suspended')['VersionId'] == 'null'
check()
order = ['null', gone['VersionId'], copy['VersionId'], multi, large, small]
def listed(**more):
    found = []
    for page in s3.get_paginator('list_object_versions').paginate(Bucket='bucket', **more):
        found += [(item['Key'], item['VersionId'], item['IsLatest'], 'Size' in item) for kind in ('Versions', 'DeleteMarkers') for item in page.get(kind, [])]
    return found
want = [('k', version, version == 'null', version != gone['VersionId']) for version in order]
for size in 1, 2, 3, 1000:
    assert sorted(listed(Prefix='k', PaginationConfig={'PageSize': size})) == sorted(want), (size, listed(Prefix='k'))
assert listed(Prefix='k', PaginationConfig={'PageSize': 1}) == want
assert code_of(lambda: s3.delete_bucket(Bucket='bucket')) == 'BucketNotEmpty'

marker = s3.delete_object(Bucket='bucket', Key='k')
assert marker['VersionId'] == 'null' and marker['DeleteMarker']
assert code_of(lambda: s3.head_object(Bucket='bucket', Key='k')) == '404'
back = s3.delete_object(Bucket='bucket', Key='k', VersionId='null')
assert back['DeleteMarker'] and back['VersionId'] == 'null'
s3.delete_object(Bucket='bucket', Key='k', VersionId=gone['VersionId'])
assert s3.get_object(Bucket='bucket', Key='k')['VersionId'] == copy['VersionId']

answer = s3.delete_objects(Bucket='bucket', Delete={'Objects': [
    {'Key': 'k', 'VersionId': copy['VersionId']}, {'Key': 'k', 'VersionId': '0' * 15 + '1'}, {'Key': 'parts'}]})
found = {(item['Key'], item.get('VersionId')): item for item in answer['Deleted']}
assert found['parts', None]['DeleteMarker'] and not answer.get('Errors'), answer
assert s3.get_object(Bucket='bucket', Key='k')['VersionId'] == multi
everything = [{'Key': key, 'VersionId': version} for key, version, _, _ in listed()]
s3.delete_objects(Bucket='bucket', Delete={'Objects': everything, 'Quiet': True})
assert listed() == []
s3.delete_bucket(Bucket='bucket')
"#,
        &[],
    );
}

#[test]
fn versions_are_there_after_every_node_was_killed() {
    let mut cluster = Cluster::start(3);
    let endpoint = cluster.nodes[0].s3.clone();
    aws(&endpoint, &["s3api", "create-bucket", "--bucket", "kept"]);
    let enabled = "Status=Enabled";
    aws(
        &endpoint,
        &["s3api", "put-bucket-versioning", "--bucket", "kept", "--versioning-configuration", enabled],
    );
    let script = r#"
for number in range(5):
    s3.put_object(Bucket='kept', Key='k', Body=str(number).encode() * 100_000)
s3.delete_object(Bucket='kept', Key='k')
"#;
    boto3(&endpoint, script, &[]);
    cluster.nodes.iter_mut().for_each(|node| node.kill_9());
    cluster.nodes.iter_mut().for_each(|node| node.restart());
    let endpoint = cluster.nodes[1].s3.clone();
    boto3(
        &endpoint,
        r#"
s3 = client(endpoint, retries={'max_attempts': 10})
assert s3.get_bucket_versioning(Bucket='kept')['Status'] == 'Enabled'
page = s3.list_object_versions(Bucket='kept')
assert len(page['DeleteMarkers']) == 1 and len(page['Versions']) == 5
for number, version in zip(range(4, -1, -1), page['Versions']):
    assert s3.get_object(Bucket='kept', Key='k', VersionId=version['VersionId'])['Body'].read() == str(number).encode() * 100_000
"#,
        &[],
    );
}
