//! S3's protocol as ordinary clients meet it, a table a test: conditions, checksums, parts of
//! objects, buckets.

use crate::harness::{Cluster, boto3};

/// `If-Match` and its three sisters on get, head and the source of a copy; by ETag on put, copy,
/// complete and delete; `If-Range`. Each once where it holds and once where it does not.
#[test]
fn a_condition_that_does_not_hold_changes_nothing_wherever_s3_has_one() {
    let cluster = Cluster::start(1);
    let script = r#"
from datetime import datetime, timedelta, timezone
s3.create_bucket(Bucket='bucket')
etag = s3.put_object(Bucket='bucket', Key='k', Body=b'0123456789')['ETag']
other = '"d41d8cd98f00b204e9800998ecf8427e"'
written = s3.head_object(Bucket='bucket', Key='k')['LastModified']
before, after = written - timedelta(seconds=5), written + timedelta(seconds=5)
# A date that is yet to come is no condition, says RFC 9110; so both lie in the past by then.
time.sleep(max(0, (after - datetime.now(timezone.utc)).total_seconds()) + 1)

def status_of(action):
    try:
        return action()['ResponseMetadata']['HTTPStatusCode']
    except ClientError as error:
        return error.response['ResponseMetadata']['HTTPStatusCode']

def check(action, holds, fails, code):
    for conditions in holds:
        assert status_of(lambda: action(**conditions)) in (200, 204), conditions
    for conditions in fails:
        got = status_of(lambda: action(**conditions))
        assert got == code, (conditions, got)

reads = dict(
    holds=[dict(IfMatch=etag), dict(IfMatch='*'), dict(IfNoneMatch=other), dict(IfModifiedSince=before),
           dict(IfUnmodifiedSince=after), dict(IfMatch=etag, IfUnmodifiedSince=before)])
for action in [s3.get_object, s3.head_object]:
    read = lambda **conditions: action(Bucket='bucket', Key='k', **conditions)
    check(read, reads['holds'], [dict(IfMatch=other), dict(IfUnmodifiedSince=before)], 412)
    check(read, [], [dict(IfNoneMatch=etag), dict(IfNoneMatch='*'), dict(IfModifiedSince=after),
                     dict(IfNoneMatch=etag, IfModifiedSince=before)], 304)

copy = lambda **conditions: s3.copy_object(Bucket='bucket', Key='copy', CopySource='bucket/k', **conditions)
check(copy,
      [dict(CopySourceIfMatch=etag), dict(CopySourceIfNoneMatch=other), dict(CopySourceIfModifiedSince=before),
       dict(CopySourceIfUnmodifiedSince=after)],
      [dict(CopySourceIfMatch=other), dict(CopySourceIfNoneMatch=etag), dict(CopySourceIfModifiedSince=after),
       dict(CopySourceIfUnmodifiedSince=before)], 412)

# An answer to If-Range is a part if nothing changed, and otherwise the whole.
def ranged(condition):
    def add(request, **_):
        request.headers['If-Range'] = condition
    one = client(endpoint)
    one.meta.events.register('before-sign.s3.GetObject', add)
    return one.get_object(Bucket='bucket', Key='k', Range='bytes=2-4')['Body'].read()
assert ranged(etag) == b'234'
assert ranged(other) == b'0123456789'

def is_still(body):
    assert s3.get_object(Bucket='bucket', Key='k')['Body'].read() == body

put = lambda **conditions: s3.put_object(Bucket='bucket', Key='k', Body=b'new', **conditions)
check(put, [], [dict(IfMatch=other), dict(IfNoneMatch='*')], 412)
is_still(b'0123456789')
assert status_of(lambda: s3.put_object(Bucket='bucket', Key='none', Body=b'', IfMatch=etag)) == 404
check(put, [dict(IfMatch=etag)], [], None)
is_still(b'new')
etag = s3.head_object(Bucket='bucket', Key='k')['ETag']

# The aim of a copy: botocore knows no such parameters.
def copy_onto(header, value):
    def add(request, **_):
        request.headers[header] = value
    one = client(endpoint)
    one.meta.events.register('before-sign.s3.CopyObject', add)
    return status_of(lambda: one.copy_object(Bucket='bucket', Key='k', CopySource='bucket/copy'))
assert copy_onto('If-None-Match', '*') == 412
assert copy_onto('If-Match', other) == 412
is_still(b'new')
assert copy_onto('If-Match', etag) == 200
is_still(b'0123456789')
etag = s3.head_object(Bucket='bucket', Key='k')['ETag']

def complete(**conditions):
    upload = s3.create_multipart_upload(Bucket='bucket', Key='k')['UploadId']
    part = s3.upload_part(Bucket='bucket', Key='k', UploadId=upload, PartNumber=1, Body=b'of parts')['ETag']
    whole = {'Parts': [{'PartNumber': 1, 'ETag': part}]}
    return s3.complete_multipart_upload(Bucket='bucket', Key='k', UploadId=upload, MultipartUpload=whole, **conditions)
check(complete, [], [dict(IfMatch=other), dict(IfNoneMatch='*')], 412)
is_still(b'0123456789')
check(complete, [dict(IfMatch=etag)], [], None)
is_still(b'of parts')
etag = s3.head_object(Bucket='bucket', Key='k')['ETag']

delete = lambda **conditions: s3.delete_object(Bucket='bucket', Key='k', **conditions)
check(delete, [], [dict(IfMatch=other)], 412)
two = [{'Key': 'k', 'ETag': other}, {'Key': 'copy', 'ETag': s3.head_object(Bucket='bucket', Key='copy')['ETag']}]
answer = s3.delete_objects(Bucket='bucket', Delete={'Objects': two})
assert [gone['Key'] for gone in answer['Deleted']] == ['copy'], answer
assert [(failed['Key'], failed['Code']) for failed in answer['Errors']] == [('k', 'PreconditionFailed')], answer
is_still(b'of parts')
check(delete, [dict(IfMatch=etag)], [], None)
assert code_of(lambda: s3.head_object(Bucket='bucket', Key='k')) == '404'
"#;
    boto3(&cluster.nodes[0].s3, script, &[]);
}

/// All five, by header and by trailer, of a whole object and of one in parts, composite and full.
#[test]
fn every_checksum_is_verified_kept_and_told_whichever_way_it_comes() {
    let cluster = Cluster::start(1);
    let script = r#"
import base64, zlib
s3.create_bucket(Bucket='bucket')

def reflected(polynomial, bits):
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = (byte >> 1) ^ (polynomial if byte & 1 else 0)
        table.append(byte)
    def crc(data, before=bytes(bits // 8)):
        ones = (1 << bits) - 1
        value = int.from_bytes(before, 'big') ^ ones
        for byte in data:
            value = table[(value ^ byte) & 0xff] ^ (value >> 8)
        return (value ^ ones).to_bytes(bits // 8, 'big')
    return crc

SUMS = {
    'CRC32': lambda data, before=bytes(4): zlib.crc32(data, int.from_bytes(before, 'big')).to_bytes(4, 'big'),
    'CRC32C': reflected(0x82f63b78, 32),
    'CRC64NVME': reflected(0x9a6c9329ac4bc9b5, 64),
    'SHA1': lambda data: hashlib.sha1(data).digest(),
    'SHA256': lambda data: hashlib.sha256(data).digest(),
}
assert SUMS['CRC32C'](b'123456789').hex() == 'e3069283'
assert SUMS['CRC64NVME'](b'123456789').hex() == 'ae8b14860a799888'
text = lambda raw: base64.b64encode(raw).decode()

import http.client, urllib.parse
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
plain = client(endpoint, request_checksum_calculation='when_required')

def by_trailer(key, name, value, body):
    """As SDKs send it over TLS: unsigned chunks, and the sum after them."""
    framed = b'%x\r\n%s\r\n0\r\n%s:%s\r\n\r\n' % (len(body), body, name.encode(), value.encode())
    request = AWSRequest('PUT', f'{endpoint}/bucket/{urllib.parse.quote(key)}', data=framed, headers={
        'content-encoding': 'aws-chunked', 'x-amz-decoded-content-length': str(len(body)), 'x-amz-trailer': name})
    request.context.update(client_config=Config(), checksum={'request_algorithm': {'in': 'trailer'}})
    S3SigV4Auth(boto3.Session().get_credentials(), 's3', 'us-east-1').add_auth(request)
    assert request.headers['x-amz-content-sha256'] == 'STREAMING-UNSIGNED-PAYLOAD-TRAILER'
    at = urllib.parse.urlsplit(request.url)
    connection = http.client.HTTPConnection(at.netloc)
    connection.request('PUT', at.path, framed, dict(request.headers.items()))
    answer = connection.getresponse()
    return answer.status, answer.read()

part = bytes(range(256)) * 20480
last = b'the end'
for name, sum_of in SUMS.items():
    field, body = f'Checksum{name}', b'whole ' + name.encode()
    right, wrong = text(sum_of(body)), text(sum_of(b'something else'))
    put = lambda value: plain.put_object(Bucket='bucket', Key=name, Body=body, **{field: value})
    assert code_of(lambda: put(wrong)) == 'BadDigest', name
    assert code_of(lambda: s3.head_object(Bucket='bucket', Key=name)) == '404'
    assert put(right)[field] == right
    told = s3.head_object(Bucket='bucket', Key=name, ChecksumMode='ENABLED')
    assert (told[field], told['ChecksumType']) == (right, 'FULL_OBJECT'), told
    sum_of_part = sum_of(part)
    header = f'x-amz-checksum-{name.lower()}'
    status, answer = by_trailer(f'{name} by trailer', header, wrong, body)
    assert (status, b'BadDigest' in answer) == (400, True), answer
    status, answer = by_trailer(f'{name} by trailer', header, right, body)
    assert status == 200, answer
    told = s3.head_object(Bucket='bucket', Key=f'{name} by trailer', ChecksumMode='ENABLED')
    assert told[field] == right, told

    for kind in ['COMPOSITE', 'FULL_OBJECT']:
        # As AWS has it: sums of sums of CRC64NVME there are none, nor whole ones of a hash.
        if (name, kind) == ('CRC64NVME', 'COMPOSITE') or (name.startswith('SHA') and kind == 'FULL_OBJECT'):
            begun = lambda: plain.create_multipart_upload(Bucket='bucket', Key='k', ChecksumAlgorithm=name, ChecksumType=kind)
            assert code_of(begun) == 'InvalidRequest', (name, kind)
            continue
        key = f'{name} {kind}'
        upload = plain.create_multipart_upload(Bucket='bucket', Key=key, ChecksumAlgorithm=name, ChecksumType=kind)['UploadId']
        parts = []
        for number, data in enumerate([part, last], 1):
            value = text(sum_of_part if data is part else sum_of(data))
            sent = plain.upload_part(Bucket='bucket', Key=key, UploadId=upload, PartNumber=number, Body=data, **{field: value})
            parts.append({'PartNumber': number, 'ETag': sent['ETag'], field: value})
        swapped = [{**parts[0], field: parts[1][field]}, parts[1]]
        finish = lambda parts: plain.complete_multipart_upload(
            Bucket='bucket', Key=key, UploadId=upload, ChecksumType=kind, MultipartUpload={'Parts': parts})
        assert code_of(lambda: finish(swapped)) in ('InvalidPart', 'BadDigest'), (name, kind)
        done = finish(parts)
        composite = kind == 'COMPOSITE'
        expected = text(sum_of(sum_of_part + sum_of(last))) + '-2' if composite else text(sum_of(last, sum_of_part))
        assert (done[field], done['ChecksumType']) == (expected, kind), done
        told = s3.head_object(Bucket='bucket', Key=key, ChecksumMode='ENABLED')
        assert (told[field], told['ChecksumType']) == (expected, kind), told
        attributes = s3.get_object_attributes(Bucket='bucket', Key=key, ObjectAttributes=['Checksum', 'ObjectParts'])
        assert attributes['Checksum'][field] == expected, attributes
"#;
    boto3(&cluster.nodes[0].s3, script, &[]);
}

#[test]
fn a_part_of_an_object_is_got_by_range_or_number_and_said_as_the_client_asks() {
    let cluster = Cluster::start(1);
    let script = r#"
s3.create_bucket(Bucket='bucket')
s3.put_object(Bucket='bucket', Key='k', Body=b'0123456789', ContentType='text/plain', Metadata={'colour': 'blue'})
for asked, body, said in [
    ('bytes=2-4', b'234', 'bytes 2-4/10'), ('bytes=7-', b'789', 'bytes 7-9/10'),
    ('bytes=-3', b'789', 'bytes 7-9/10'), ('bytes=8-99', b'89', 'bytes 8-9/10'), ('bytes=-99', b'0123456789', 'bytes 0-9/10'),
]:
    answer = s3.get_object(Bucket='bucket', Key='k', Range=asked)
    assert (answer['Body'].read(), answer['ContentRange'], answer['ContentLength']) == (body, said, len(body)), asked
    assert answer['ResponseMetadata']['HTTPStatusCode'] == 206
    assert s3.head_object(Bucket='bucket', Key='k', Range=asked)['ContentLength'] == len(body)
assert code_of(lambda: s3.get_object(Bucket='bucket', Key='k', Range='bytes=10-')) == 'InvalidRange'

answer = s3.get_object(
    Bucket='bucket', Key='k', ResponseContentType='text/x-plan', ResponseContentLanguage='de',
    ResponseContentDisposition='attachment; filename="plan"', ResponseCacheControl='no-store',
    ResponseContentEncoding='identity', ResponseExpires='Thu, 01 Dec 2050 16:00:00 GMT')
assert (answer['ContentType'], answer['ContentLanguage'], answer['CacheControl'], answer['ContentEncoding']) == \
    ('text/x-plan', 'de', 'no-store', 'identity'), answer
assert answer['ContentDisposition'] == 'attachment; filename="plan"', answer
assert answer['ExpiresString'] == 'Thu, 01 Dec 2050 16:00:00 GMT', answer
answer = s3.get_object(Bucket='bucket', Key='k')
assert (answer['ContentType'], answer['Metadata']) == ('text/plain', {'colour': 'blue'})

upload = s3.create_multipart_upload(Bucket='bucket', Key='parts')['UploadId']
bodies = [b'a' * (5 << 20), b'the end']
parts = [{'PartNumber': 3 * number, 'ETag': s3.upload_part(
    Bucket='bucket', Key='parts', UploadId=upload, PartNumber=3 * number, Body=body)['ETag']} for number, body in enumerate(bodies, 1)]
s3.complete_multipart_upload(Bucket='bucket', Key='parts', UploadId=upload, MultipartUpload={'Parts': parts})
# By the numbers that they were uploaded with.
for number, body in enumerate(bodies, 1):
    answer = s3.get_object(Bucket='bucket', Key='parts', PartNumber=3 * number)
    assert (answer['PartsCount'], answer['Body'].read() == body) == (2, True), answer
assert code_of(lambda: s3.get_object(Bucket='bucket', Key='parts', PartNumber=1)) == 'InvalidRange'

# Names and values of what users say of an object have 2 KiB together.
put = lambda size: s3.put_object(Bucket='bucket', Key='told', Body=b'', Metadata={'a': 'x' * size})
assert put(2047)['ETag']
assert code_of(lambda: put(2048)) == 'MetadataTooLarge'
"#;
    boto3(&cluster.nodes[0].s3, script, &[]);
}

#[test]
fn a_bucket_is_made_once_found_by_its_owner_and_deleted_when_it_is_empty() {
    let cluster = Cluster::start(1);
    let script = r#"
assert s3.create_bucket(Bucket='first')['Location'] == '/first'
assert code_of(lambda: s3.create_bucket(Bucket='first')) == 'BucketAlreadyOwnedByYou'
for name in ['Upper', 'a', 'with..dots', '192.168.0.1', 'x' * 64, '-a-']:
    plain = client(endpoint)
    plain.meta.events.unregister('before-parameter-build.s3', __import__('botocore.handlers').handlers.validate_bucket_name)
    assert code_of(lambda: plain.create_bucket(Bucket=name)) == 'InvalidBucketName', name
assert s3.head_bucket(Bucket='first')['ResponseMetadata']['HTTPStatusCode'] == 200
assert code_of(lambda: s3.head_bucket(Bucket='second')) == '404'
assert s3.get_bucket_location(Bucket='first')['LocationConstraint'] is None
assert [bucket['Name'] for bucket in s3.list_buckets()['Buckets']] == ['first']
s3.put_object(Bucket='first', Key='k', Body=b'')
assert code_of(lambda: s3.delete_bucket(Bucket='first')) == 'BucketNotEmpty'
s3.delete_object(Bucket='first', Key='k')
s3.delete_bucket(Bucket='first')
assert code_of(lambda: s3.delete_bucket(Bucket='first')) == 'NoSuchBucket'
"#;
    boto3(&cluster.nodes[0].s3, script, &[]);
}
