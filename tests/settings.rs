//! What is set on buckets and objects besides their bytes (tags, CORS, ACLs, lifecycle), and uploads
//! by form, as `aws` and boto3 meet them.

use crate::harness::{Cluster, atoll, aws, boto3};

#[test]
fn tags_of_objects_and_buckets_are_set_said_and_taken_away() {
    let cluster = Cluster::start(1);
    boto3(
        &cluster.nodes[0].s3,
        r#"
s3.create_bucket(Bucket='bucket')
def tag_set(**tags): return {'TagSet': [{'Key': key, 'Value': value} for key, value in sorted(tags.items())]}
assert code_of(lambda: s3.get_bucket_tagging(Bucket='bucket')) == 'NoSuchTagSet'
s3.put_bucket_tagging(Bucket='bucket', Tagging=tag_set(team='blue', cost='a b'))
assert s3.get_bucket_tagging(Bucket='bucket')['TagSet'] == tag_set(team='blue', cost='a b')['TagSet']
s3.delete_bucket_tagging(Bucket='bucket')
assert code_of(lambda: s3.get_bucket_tagging(Bucket='bucket')) == 'NoSuchTagSet'
many = {f't{n}': 'v' for n in range(51)}
assert code_of(lambda: s3.put_bucket_tagging(Bucket='bucket', Tagging=tag_set(**many))) == 'BadRequest'

body = os.urandom(100_000)
put = s3.put_object(Bucket='bucket', Key='k', Body=body, Tagging='a=1', Metadata={'m': 'x'})
before = s3.head_object(Bucket='bucket', Key='k')
s3.put_object_tagging(Bucket='bucket', Key='k', Tagging=tag_set(b='2', c='ü'))
assert s3.get_object_tagging(Bucket='bucket', Key='k')['TagSet'] == tag_set(b='2', c='ü')['TagSet']
got = s3.get_object(Bucket='bucket', Key='k')
assert got['Body'].read() == body and got['TagCount'] == 2 and got['Metadata'] == {'m': 'x'}
assert got['LastModified'] == before['LastModified'] and got['ETag'] == put['ETag']
s3.copy_object(Bucket='bucket', Key='copy', CopySource='bucket/k')
assert s3.get_object_tagging(Bucket='bucket', Key='copy')['TagSet'] == tag_set(b='2', c='ü')['TagSet']
s3.delete_object_tagging(Bucket='bucket', Key='k')
assert s3.get_object_tagging(Bucket='bucket', Key='k')['TagSet'] == []
assert code_of(lambda: s3.put_object_tagging(Bucket='bucket', Key='k', Tagging=tag_set(**{f't{n}': '' for n in range(11)}))) == 'BadRequest'
assert code_of(lambda: s3.put_object_tagging(Bucket='bucket', Key='k', Tagging={'TagSet': [{'Key': 'a', 'Value': '1'}] * 2})) == 'InvalidTag'
assert code_of(lambda: s3.put_object_tagging(Bucket='bucket', Key='none', Tagging=tag_set(a='1'))) == 'NoSuchKey'

s3.put_bucket_versioning(Bucket='bucket', VersioningConfiguration={'Status': 'Enabled'})
new = s3.put_object(Bucket='bucket', Key='k', Body=b'new')['VersionId']
assert s3.put_object_tagging(Bucket='bucket', Key='k', VersionId='null', Tagging=tag_set(old='y'))['VersionId'] == 'null'
assert s3.put_object_tagging(Bucket='bucket', Key='k', Tagging=tag_set(new='y'))['VersionId'] == new
assert s3.get_object_tagging(Bucket='bucket', Key='k', VersionId='null')['TagSet'] == tag_set(old='y')['TagSet']
assert code_of(lambda: s3.get_object_tagging(Bucket='bucket', Key='k', VersionId='0' * 16)) == 'NoSuchVersion'
"#,
        &[],
    );
}

#[test]
fn attributes_tell_sizes_checksums_and_parts_page_by_page() {
    let cluster = Cluster::start(1);
    boto3(
        &cluster.nodes[0].s3,
        r#"
s3.create_bucket(Bucket='bucket')
every = ['ETag', 'Checksum', 'ObjectParts', 'StorageClass', 'ObjectSize']
put = s3.put_object(Bucket='bucket', Key='k', Body=b'hello', ChecksumAlgorithm='SHA256')
said = s3.get_object_attributes(Bucket='bucket', Key='k', ObjectAttributes=every)
assert said['ObjectSize'] == 5 and said['ETag'].strip('"') == put['ETag'].strip('"') and said['StorageClass'] == 'STANDARD'
assert said['Checksum']['ChecksumSHA256'] == put['ChecksumSHA256'] and 'ObjectParts' not in said
assert 'ETag' not in s3.get_object_attributes(Bucket='bucket', Key='k', ObjectAttributes=['ObjectSize'])

upload = s3.create_multipart_upload(Bucket='bucket', Key='m', ChecksumAlgorithm='CRC32')['UploadId']
bodies = {2: os.urandom(5 << 20), 3: os.urandom(5 << 20), 7: b'end'}
parts = []
for number, body in bodies.items():
    part = s3.upload_part(Bucket='bucket', Key='m', UploadId=upload, PartNumber=number, Body=body, ChecksumAlgorithm='CRC32')
    parts.append({'PartNumber': number, 'ETag': part['ETag'], 'ChecksumCRC32': part['ChecksumCRC32']})
s3.complete_multipart_upload(Bucket='bucket', Key='m', UploadId=upload, MultipartUpload={'Parts': parts})
said = s3.get_object_attributes(Bucket='bucket', Key='m', ObjectAttributes=every)
assert said['ObjectSize'] == sum(map(len, bodies.values()))
found = said['ObjectParts']
assert found['TotalPartsCount'] == 3 and not found['IsTruncated'], found
assert [(part['PartNumber'], part['Size'], part['ChecksumCRC32']) for part in found['Parts']] == \
    [(part['PartNumber'], len(bodies[part['PartNumber']]), part['ChecksumCRC32']) for part in parts]
page = s3.get_object_attributes(Bucket='bucket', Key='m', ObjectAttributes=['ObjectParts'], MaxParts=2)['ObjectParts']
assert page['IsTruncated'] and page['NextPartNumberMarker'] == 3 and len(page['Parts']) == 2
page = s3.get_object_attributes(Bucket='bucket', Key='m', ObjectAttributes=['ObjectParts'], MaxParts=2, PartNumberMarker=3)['ObjectParts']
assert not page['IsTruncated'] and [part['PartNumber'] for part in page['Parts']] == [7]
assert code_of(lambda: s3.get_object_attributes(Bucket='bucket', Key='none', ObjectAttributes=every)) == 'NoSuchKey'
"#,
        &[],
    );
}

#[test]
fn uploads_and_parts_are_listed_by_all_their_markers() {
    let cluster = Cluster::start(1);
    boto3(
        &cluster.nodes[0].s3,
        r#"
s3.create_bucket(Bucket='bucket')
made = set()
for key in ['a', 'b', 'b', 'b', 'dir/1', 'dir/2', 'dir2/x', 'z ü']:
    made.add((key, s3.create_multipart_upload(Bucket='bucket', Key=key)['UploadId']))
def pages(**more):
    uploads, prefixes = [], []
    for page in s3.get_paginator('list_multipart_uploads').paginate(Bucket='bucket', **more):
        uploads += [(item['Key'], item['UploadId']) for item in page.get('Uploads', [])]
        prefixes += [item['Prefix'] for item in page.get('CommonPrefixes', [])]
    return uploads, prefixes
for size in 1, 2, 3, 1000:
    uploads, _ = pages(PaginationConfig={'PageSize': size})
    assert len(uploads) == len(made) and set(uploads) == made, size
    assert [key for key, _ in uploads] == sorted(key for key, _ in made)
    uploads, prefixes = pages(Delimiter='/', PaginationConfig={'PageSize': size})
    assert prefixes == ['dir/', 'dir2/'] and len(uploads) == 5, (size, uploads, prefixes)
assert [key for key, _ in pages(Prefix='dir/')[0]] == ['dir/1', 'dir/2']
assert {item['Key'] for item in s3.list_multipart_uploads(Bucket='bucket', KeyMarker='b')['Uploads']} == {'dir/1', 'dir/2', 'dir2/x', 'z ü'}

upload = s3.create_multipart_upload(Bucket='bucket', Key='parts')['UploadId']
source = os.urandom(6_000_000)
s3.put_object(Bucket='bucket', Key='source', Body=source)
for number in [1, 2, 5, 10_000]:
    s3.upload_part(Bucket='bucket', Key='parts', UploadId=upload, PartNumber=number, Body=b'x' * number)
numbers = []
for page in s3.get_paginator('list_parts').paginate(Bucket='bucket', Key='parts', UploadId=upload, PaginationConfig={'PageSize': 1}):
    numbers += [part['PartNumber'] for part in page.get('Parts', [])]
assert numbers == [1, 2, 5, 10_000]
copied = s3.upload_part_copy(Bucket='bucket', Key='parts', UploadId=upload, PartNumber=1, CopySource='bucket/source', CopySourceRange='bytes=0-5242879')
last = s3.upload_part_copy(Bucket='bucket', Key='parts', UploadId=upload, PartNumber=2, CopySource='bucket/source', CopySourceRange='bytes=5242880-5999999')
assert code_of(lambda: s3.upload_part_copy(Bucket='bucket', Key='parts', UploadId=upload, PartNumber=3, CopySource='bucket/source', CopySourceRange='bytes=5242880-6000000')) in ('InvalidRange', 'InvalidArgument')
assert code_of(lambda: s3.upload_part_copy(Bucket='bucket', Key='parts', UploadId=upload, PartNumber=3, CopySource='bucket/source', CopySourceRange='bytes=5-')) == 'InvalidArgument'
assert code_of(lambda: s3.upload_part(Bucket='bucket', Key='parts', UploadId=upload, PartNumber=10_001, Body=b'')) == 'InvalidArgument'
s3.complete_multipart_upload(Bucket='bucket', Key='parts', UploadId=upload, MultipartUpload={'Parts': [
    {'PartNumber': 1, 'ETag': copied['CopyPartResult']['ETag']}, {'PartNumber': 2, 'ETag': last['CopyPartResult']['ETag']}]})
assert s3.get_object(Bucket='bucket', Key='parts')['Body'].read() == source
"#,
        &[],
    );
}

/// A part that is copied whole is taken as it lies there: 2 GiB of zeros are 2,560 parts of an
/// object of 5 TiB, on a disk that has one chunk of them.
#[test]
fn an_object_of_five_tebibytes_is_put_together_read_and_deleted() {
    let cluster = Cluster::start(1);
    boto3(
        &cluster.nodes[0].s3,
        r#"
import io
from concurrent.futures import ThreadPoolExecutor
GIB, COUNT = 1 << 30, 2560
class Zeros(io.RawIOBase):
    at = 0
    def readable(self): return True
    def seekable(self): return True
    def tell(self): return self.at
    def seek(self, to, whence=0):
        self.at = to + (0, self.at, 2 * GIB)[whence]
        return self.at
    def read(self, count=-1):
        left = 2 * GIB - self.at
        count = left if count is None or count < 0 else min(count, left)
        self.at += count
        return bytes(count)
s3.create_bucket(Bucket='bucket')
source = s3.put_object(Bucket='bucket', Key='source', Body=Zeros())['ETag']
upload = s3.create_multipart_upload(Bucket='bucket', Key='large')['UploadId']
def copy(number):
    part = s3.upload_part_copy(Bucket='bucket', Key='large', UploadId=upload, PartNumber=number, CopySource='bucket/source')
    return {'PartNumber': number, 'ETag': part['CopyPartResult']['ETag']}
with ThreadPoolExecutor(8) as pool:
    parts = list(pool.map(copy, range(1, COUNT + 1)))
assert {part['ETag'] for part in parts} == {source}
s3.complete_multipart_upload(Bucket='bucket', Key='large', UploadId=upload, MultipartUpload={'Parts': parts})
head = s3.head_object(Bucket='bucket', Key='large')
assert head['ContentLength'] == 5 << 40 and head['ETag'].endswith(f'-{COUNT}"'), head
last = (5 << 40) - 1
for first in 0, 1234 * 2 * GIB - 5, last - 9:
    got = s3.get_object(Bucket='bucket', Key='large', Range=f'bytes={first}-{first + 9}')
    assert got['ContentRange'] == f'bytes {first}-{first + 9}/{last + 1}' and got['Body'].read() == bytes(10)
assert s3.list_objects_v2(Bucket='bucket')['Contents'][0]['Size'] == 5 << 40
s3.delete_object(Bucket='bucket', Key='large')
assert [item['Key'] for item in s3.list_objects_v2(Bucket='bucket')['Contents']] == ['source']
"#,
        &[],
    );
}

#[test]
fn a_browser_may_read_and_upload_what_the_buckets_rules_allow() {
    let cluster = Cluster::start(1);
    boto3(
        &cluster.nodes[0].s3,
        r#"
import urllib.request, urllib.error
s3.create_bucket(Bucket='bucket')
s3.put_object(Bucket='bucket', Key='k', Body=b'hello')
def ask(method, url, **headers):
    request = urllib.request.Request(url, method=method, headers={name.replace('_', '-'): value for name, value in headers.items()})
    try:
        answer = urllib.request.urlopen(request)
        return answer.status, dict((name.lower(), value) for name, value in answer.headers.items()), answer.read()
    except urllib.error.HTTPError as error:
        return error.code, dict((name.lower(), value) for name, value in error.headers.items()), error.read()
preflight = lambda method, origin='https://app.example', **more: ask('OPTIONS', endpoint + '/bucket/k', Origin=origin, Access_Control_Request_Method=method, **more)
assert preflight('GET')[0] == 403
assert code_of(lambda: s3.get_bucket_cors(Bucket='bucket')) == 'NoSuchCORSConfiguration'
rules = [{'ID': 'app', 'AllowedOrigins': ['https://*.example'], 'AllowedMethods': ['GET', 'PUT'], 'AllowedHeaders': ['x-amz-*', 'content-type'],
          'ExposeHeaders': ['ETag'], 'MaxAgeSeconds': 300}, {'AllowedOrigins': ['*'], 'AllowedMethods': ['HEAD']}]
s3.put_bucket_cors(Bucket='bucket', CORSConfiguration={'CORSRules': rules})
assert s3.get_bucket_cors(Bucket='bucket')['CORSRules'] == rules
status, headers, _ = preflight('PUT', Access_Control_Request_Headers='Content-Type, x-amz-meta-a')
assert status == 200 and headers['access-control-allow-origin'] == 'https://app.example', headers
assert headers['access-control-max-age'] == '300' and 'PUT' in headers['access-control-allow-methods']
assert headers['access-control-allow-headers'] == 'content-type, x-amz-meta-a'
assert preflight('DELETE')[0] == 403 and preflight('PUT', origin='https://other')[0] == 403
assert preflight('PUT', Access_Control_Request_Headers='authorization')[0] == 403
assert preflight('NOTHING')[0] == 400 and ask('OPTIONS', endpoint + '/bucket/k')[0] == 400
assert preflight('HEAD', origin='https://other')[1]['access-control-allow-origin'] == '*'
assert ask('OPTIONS', endpoint + '/nowhere/k', Origin='https://app.example', Access_Control_Request_Method='GET')[0] == 404
url = client(endpoint, signature_version='s3v4').generate_presigned_url('get_object', Params={'Bucket': 'bucket', 'Key': 'k'})
status, headers, body = ask('GET', url, Origin='https://app.example')
assert body == b'hello' and headers['access-control-allow-origin'] == 'https://app.example', headers
assert headers['access-control-expose-headers'] == 'ETag' and 'Origin' in headers['vary']
assert 'access-control-allow-origin' not in ask('GET', url, Origin='https://other')[1]
assert 'access-control-allow-origin' not in ask('GET', url)[1]
assert ask('GET', endpoint + '/bucket/k', Origin='https://app.example')[0] == 403
assert code_of(lambda: s3.put_bucket_cors(Bucket='bucket', CORSConfiguration={'CORSRules': [{'AllowedOrigins': ['*'], 'AllowedMethods': ['PATCH']}]})) == 'InvalidRequest'
s3.delete_bucket_cors(Bucket='bucket')
assert preflight('GET')[0] == 403
"#,
        &[],
    );
}

#[test]
fn a_form_uploads_what_its_policy_allows_and_nothing_else() {
    let cluster = Cluster::start(1);
    boto3(
        &cluster.nodes[0].s3,
        r#"
import urllib.request, urllib.error
s3 = client(endpoint, signature_version='s3v4')
s3.create_bucket(Bucket='bucket')
def send(post, body, **change):
    fields = {**post['fields'], **change}
    boundary, out = 'x-boundary-x', b''
    for name, value in fields.items():
        if value is not None:
            out += f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
    out += f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="f.txt"\r\nContent-Type: text/plain\r\n\r\n'.encode() + body + f'\r\n--{boundary}--\r\n'.encode()
    request = urllib.request.Request(post['url'], method='POST', data=out, headers={'Content-Type': f'multipart/form-data; boundary={boundary}'})
    try:
        answer = urllib.request.urlopen(request)
        return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
def form(key='up/file', fields={}, conditions=[], **more):
    conditions = [{name: value} for name, value in fields.items()] + conditions
    return s3.generate_presigned_post('bucket', key, Fields=fields, Conditions=conditions, **more)
tagging = '<Tagging><TagSet><Tag><Key>t</Key><Value>1</Value></Tag></TagSet></Tagging>'
post = form(fields={'Content-Type': 'text/x-form', 'x-amz-meta-colour': 'blue', 'success_action_status': '201', 'tagging': tagging},
            conditions=[['content-length-range', 3, 200_000]])
body = os.urandom(150_000)
status, text = send(post, body)
assert status == 201 and '<Key>up/file</Key>' in text, (status, text)
got = s3.get_object(Bucket='bucket', Key='up/file')
assert got['Body'].read() == body and got['ContentType'] == 'text/x-form' and got['Metadata'] == {'colour': 'blue'} and got['TagCount'] == 1
def refused(code, answer):
    assert answer[0] >= 400 and f'<Code>{code}</Code>' in answer[1], (code, answer)
refused('EntityTooLarge', send(post, b'x' * 200_001))
refused('EntityTooSmall', send(post, b'x'))
refused('InvalidPolicyDocument', send(post, b'hello', **{'Content-Type': 'text/html'}))
refused('AccessDenied', send(post, b'hello', **{'x-amz-meta-other': 'x'}))
refused('SignatureDoesNotMatch', send(post, b'hello', **{'x-amz-signature': '0' * 64}))
refused('AccessDenied', send(post, b'hello', **{'x-amz-signature': None}))
refused('AccessDenied', send(form(ExpiresIn=-10), b'hello'))
refused('NotImplemented', send(form(fields={'x-amz-server-side-encryption': 'AES256'}), b'hello'))
refused('AccessControlListNotSupported', send(form(fields={'acl': 'public-read'}), b'hello'))
old = client(endpoint, signature_version='s3').generate_presigned_post('bucket', 'v2')
assert send(old, b'hello')[0] >= 400
for target in ['/done', 'done?x=1', '']:
    refused('InvalidArgument', send(form(key='up/elsewhere', fields={'success_action_redirect': target}), b'hello'))
anywhere = form(key='dir/${filename}', conditions=[['starts-with', '$key', 'dir/']])
assert send(anywhere, b'hello', key='dir/mine')[0] == 204
refused('InvalidPolicyDocument', send(anywhere, b'hello', key='other/mine'))
assert [item['Key'] for item in s3.list_objects_v2(Bucket='bucket')['Contents']] == ['dir/mine', 'up/file']
"#,
        &[],
    );
}

#[test]
fn a_form_names_its_object_and_more_by_its_file() {
    let cluster = Cluster::start(1);
    let file = cluster.path("café; 1.txt");
    std::fs::write(&file, "the file").unwrap();
    boto3(
        &cluster.nodes[0].s3,
        r#"
import subprocess
s3 = client(endpoint, signature_version='s3v4')
s3.create_bucket(Bucket='bucket')
def send(form, named=''):
    fields = [argument for field in form['fields'].items() for argument in ('--form-string', '%s=%s' % field)]
    answer = subprocess.run(['curl', '--silent', '--write-out', '\n%{http_code} %{redirect_url}', *fields,
        '--form', f'file=@"{sys.argv[1]}"{named}', form['url']], capture_output=True, check=True)
    return answer.stdout.decode().rsplit('\n', 1)
for named, name in [('', 'café; 1.txt'), (';filename=plain.txt', 'plain.txt'), (r';filename="C:\\dir\\a b.txt"', 'a b.txt'),
                    (';filename="x/../y/${filename}"', '${filename}')]:
    body, said = send(s3.generate_presigned_post('bucket', 'up/${filename}'), named)
    assert said == '204 ', (named, body, said)
    assert [item['Key'] for item in s3.list_objects_v2(Bucket='bucket')['Contents']] == ['up/' + name]
    assert s3.get_object(Bucket='bucket', Key='up/' + name)['Body'].read() == b'the file'
    s3.delete_object(Bucket='bucket', Key='up/' + name)
# In every field, and before the policy looks at them.
form = s3.generate_presigned_post('bucket', 'f.txt/copy', Conditions=[
    ['eq', '$x-amz-meta-of', 'f.txt-f.txt'], ['starts-with', '$success_action_redirect', endpoint]])
form['fields'] |= {'key': '${filename}/copy', 'x-amz-meta-of': '${filename}-${filename}',
    'success_action_redirect': endpoint + '/done?of=${filename}'}
body, said = send(form, ';filename=other.txt')
assert '<Code>InvalidPolicyDocument</Code>' in body, (body, said)
body, said = send(form, ';filename=f.txt')
assert said.startswith(f'303 {endpoint}/done?of=f.txt&'), (body, said)
assert s3.head_object(Bucket='bucket', Key='f.txt/copy')['Metadata'] == {'of': 'f.txt-f.txt'}
assert s3.list_objects_v2(Bucket='bucket')['KeyCount'] == 1
"#,
        &[file.to_str().unwrap()],
    );
}

#[test]
fn acls_say_private_until_ownership_controls_let_them_say_more() {
    let cluster = Cluster::start(1);
    let endpoint = &cluster.nodes[0].s3;
    boto3(
        endpoint,
        r#"
s3.create_bucket(Bucket='bucket', ObjectOwnership='BucketOwnerEnforced')
s3.put_object(Bucket='bucket', Key='k', Body=b'x', ACL='bucket-owner-full-control')
owned = s3.get_bucket_ownership_controls(Bucket='bucket')['OwnershipControls']
assert owned == {'Rules': [{'ObjectOwnership': 'BucketOwnerEnforced'}]}
s3.put_bucket_ownership_controls(Bucket='bucket', OwnershipControls=owned)
acl = s3.get_object_acl(Bucket='bucket', Key='k')
assert [grant['Permission'] for grant in acl['Grants']] == ['FULL_CONTROL']
s3.put_object_acl(Bucket='bucket', Key='k', AccessControlPolicy={'Grants': acl['Grants'], 'Owner': acl['Owner']})
s3.put_object_acl(Bucket='bucket', Key='k', ACL='private')
s3.put_bucket_acl(Bucket='bucket', ACL='private')
everyone = {'Grantee': {'Type': 'Group', 'URI': 'http://acs.amazonaws.com/groups/global/AllUsers'}, 'Permission': 'READ'}
for action in [lambda: s3.put_bucket_acl(Bucket='bucket', ACL='public-read'), lambda: s3.put_object_acl(Bucket='bucket', Key='k', ACL='public-read'),
               lambda: s3.put_object(Bucket='bucket', Key='k', Body=b'y', ACL='public-read'), lambda: s3.put_bucket_acl(Bucket='bucket', GrantRead='id=x'),
               lambda: s3.put_bucket_acl(Bucket='bucket', AccessControlPolicy={'Grants': [everyone], 'Owner': acl['Owner']})]:
    assert code_of(action) == 'AccessControlListNotSupported'
assert s3.get_object(Bucket='bucket', Key='k')['Body'].read() == b'x'
"#,
        &[],
    );
    assert!(aws(endpoint, &["s3api", "get-bucket-acl", "--bucket", "bucket"]).contains("FULL_CONTROL"));
    cluster.nodes[0].json(&["user", "create", "bob", "--email", "bob@example.org"]);
    let key = cluster.nodes[0].json(&["key", "create", "--user", "bob"]);
    let text = |name: &str| key[name].as_str().unwrap().to_owned();
    boto3(
        endpoint,
        r#"
import urllib.request, urllib.error
bob = boto3.client('s3', endpoint_url=endpoint, aws_access_key_id=sys.argv[1], aws_secret_access_key=sys.argv[2])
bobs = sys.argv[3]
everyone = 'http://acs.amazonaws.com/groups/global/AllUsers'
def anonymous(path):
    try:
        return urllib.request.urlopen(f'{endpoint}/{path}').read()
    except urllib.error.HTTPError as error:
        return error.code
def grants(acl): return [(g['Grantee'].get('ID', g['Grantee'].get('URI')), g['Permission']) for g in acl['Grants']]
assert code_of(lambda: s3.create_bucket(Bucket='shared', ACL='public-read')) == 'InvalidBucketAclWithObjectOwnership'
s3.create_bucket(Bucket='shared', ObjectOwnership='ObjectWriter', GrantWrite=f'id="{bobs}"')
mine = s3.get_bucket_acl(Bucket='shared')['Owner']['ID']
assert grants(s3.get_bucket_acl(Bucket='shared')) == [(bobs, 'WRITE')]
s3.put_object(Bucket='shared', Key='open', Body=b'x', ACL='public-read')
s3.put_object(Bucket='shared', Key='shut', Body=b'x')
assert (anonymous('shared/open'), anonymous('shared/shut'), anonymous('shared')) == (b'x', 403, 403)
assert grants(s3.get_object_acl(Bucket='shared', Key='open')) == [(mine, 'FULL_CONTROL'), (everyone, 'READ')]
bob.put_object(Bucket='shared', Key='bobs', Body=b'y')
assert bob.get_object_acl(Bucket='shared', Key='bobs')['Owner']['ID'] == bobs
assert code_of(lambda: bob.list_objects_v2(Bucket='shared')) == code_of(lambda: bob.get_object(Bucket='shared', Key='shut')) == 'AccessDenied'
s3.put_object_acl(Bucket='shared', Key='shut', GrantRead='emailAddress="bob@example.org"')
assert bob.get_object(Bucket='shared', Key='shut')['Body'].read() == b'x'
acl = s3.get_object_acl(Bucket='shared', Key='shut')
s3.put_object_acl(Bucket='shared', Key='open', AccessControlPolicy={'Owner': acl['Owner'], 'Grants': acl['Grants']})
assert grants(s3.get_object_acl(Bucket='shared', Key='open')) == [(bobs, 'READ')] and anonymous('shared/open') == 403
s3.put_bucket_acl(Bucket='shared', ACL='public-read')
assert b'<Key>bobs</Key>' in anonymous('shared') and anonymous('shared/none') == 404
# A form says it in a field, which a policy's conditions are about, too.
def send(fields):
    form = client(endpoint, signature_version='s3v4').generate_presigned_post('shared', 'form', Fields=fields, Conditions=[{k: v} for k, v in fields.items()])
    fields = [*form['fields'].items(), ('file', 'from a form')]
    body = ''.join(f'--x\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n' for k, v in fields) + '--x--\r\n'
    request = urllib.request.Request(form['url'], method='POST', data=body.encode(), headers={'Content-Type': 'multipart/form-data; boundary=x'})
    try:
        return urllib.request.urlopen(request).status
    except urllib.error.HTTPError as error:
        return error.code
assert send({'acl': 'public-read'}) == 204 and anonymous('shared/form') == b'from a form'
assert send({'x-amz-grant-read': f'id={bobs}'}) == 204 and anonymous('shared/form') == 403
assert bob.get_object(Bucket='shared', Key='form')['Body'].read() == b'from a form'
assert send({'acl': 'open'}) == 400
s3.put_bucket_policy(Bucket='shared', Policy=json.dumps({'Version': '2012-10-17', 'Statement': [{'Effect': 'Deny', 'Principal': '*',
    'Action': 's3:PutObject', 'Resource': 'arn:aws:s3:::shared/*', 'Condition': {'StringEquals': {'s3:x-amz-acl': 'public-read'}}}]}))
until = time.monotonic() + 5
while send({'acl': 'public-read'}) != 403:
    assert time.monotonic() < until
assert send({'acl': 'private'}) == 204
url = client(endpoint, signature_version='s3v4').generate_presigned_url('put_object', Params={'Bucket': 'shared', 'Key': 'url', 'ACL': 'authenticated-read'})
urllib.request.urlopen(urllib.request.Request(url, method='PUT', data=b'z', headers={'x-amz-acl': 'authenticated-read'}))
assert bob.get_object(Bucket='shared', Key='url')['Body'].read() == b'z' and anonymous('shared/url') == 403
"#,
        &[&text("access_key"), &text("secret_key"), &text("canonical_id")],
    );
    let acl = ["s3api", "put-object-acl", "--bucket", "shared", "--key", "url", "--acl", "public-read"];
    aws(endpoint, &acl);
    let said = aws(endpoint, &["s3api", "get-object-acl", "--bucket", "shared", "--key", "url"]);
    assert!(said.contains("AllUsers"), "{said}");
    let trail = cluster.nodes[0].json(&["audit", "list"]).to_string();
    assert!(trail.contains("s3:PutObjectAcl"), "{trail}");
}

#[test]
fn what_a_lifecycle_lets_expire_goes_and_nothing_else() {
    let day = || vec!["--lifecycle-day".to_owned(), "2s".to_owned()];
    let cluster = Cluster::with_flags(1, |_| day());
    boto3(
        &cluster.nodes[0].s3,
        r#"
s3.create_bucket(Bucket='plain')
s3.create_bucket(Bucket='versions')
s3.put_bucket_versioning(Bucket='versions', VersioningConfiguration={'Status': 'Enabled'})
assert code_of(lambda: s3.get_bucket_lifecycle_configuration(Bucket='plain')) == 'NoSuchLifecycleConfiguration'
def rules(bucket, *rules):
    rules = [{'ID': f'r{n}', 'Status': 'Enabled', 'Filter': {'Prefix': ''}, **rule} for n, rule in enumerate(rules)]
    s3.put_bucket_lifecycle_configuration(Bucket=bucket, LifecycleConfiguration={'Rules': rules})
    assert s3.get_bucket_lifecycle_configuration(Bucket=bucket)['Rules'] == rules
put = lambda bucket, key, **more: s3.put_object(Bucket=bucket, Key=key, Body=os.urandom(20_000), **more)
for key in ['log/a', 'log/b', 'kept']:
    put('plain', key)
put('plain', 'tagged', Tagging='tmp=y'); put('plain', 'other', Tagging='tmp=n')
old = s3.create_multipart_upload(Bucket='plain', Key='log/up')['UploadId']
kept = s3.create_multipart_upload(Bucket='plain', Key='up')['UploadId']
s3.upload_part(Bucket='plain', Key='log/up', UploadId=old, PartNumber=1, Body=b'x')
for _ in range(4):
    put('versions', 'k')
newest = s3.head_object(Bucket='versions', Key='k')['VersionId']
put('versions', 'gone'); put('versions', 'lone')
lone = s3.list_object_versions(Bucket='versions', Prefix='lone')['Versions'][0]['VersionId']
s3.delete_object(Bucket='versions', Key='lone')
s3.delete_object(Bucket='versions', Key='lone', VersionId=lone)
rules('plain', {'Filter': {'Prefix': 'log/'}, 'Expiration': {'Days': 1}, 'AbortIncompleteMultipartUpload': {'DaysAfterInitiation': 1}},
      {'Filter': {'Tag': {'Key': 'tmp', 'Value': 'y'}}, 'Expiration': {'Days': 1}}, {'Status': 'Disabled', 'Expiration': {'Days': 1}})
rules('versions', {'Filter': {'Prefix': 'k'}, 'NoncurrentVersionExpiration': {'NoncurrentDays': 1, 'NewerNoncurrentVersions': 1}},
      {'Filter': {'Prefix': 'gone'}, 'Expiration': {'Days': 1}}, {'Expiration': {'ExpiredObjectDeleteMarker': True}})
until = time.monotonic() + 50
def state():
    plain = [item['Key'] for item in s3.list_objects_v2(Bucket='plain').get('Contents', [])]
    uploads = [item['UploadId'] for item in s3.list_multipart_uploads(Bucket='plain').get('Uploads', [])]
    page = s3.list_object_versions(Bucket='versions')
    versions = [item['Key'] for item in page.get('Versions', [])]
    markers = [item['Key'] for item in page.get('DeleteMarkers', [])]
    return plain, uploads, versions, markers
want = (['kept', 'other', 'tagged'][:2], [kept], ['gone', 'k', 'k'], ['gone'])
while state() != want and time.monotonic() < until:
    time.sleep(0.2)
assert state() == want, state()
assert s3.head_object(Bucket='versions', Key='k')['VersionId'] == newest
s3.delete_bucket_lifecycle(Bucket='plain')
assert code_of(lambda: s3.get_bucket_lifecycle_configuration(Bucket='plain')) == 'NoSuchLifecycleConfiguration'
assert code_of(lambda: s3.put_bucket_lifecycle_configuration(Bucket='plain', LifecycleConfiguration={'Rules': [
    {'ID': 'x', 'Status': 'Enabled', 'Filter': {'Prefix': ''}, 'Transitions': [{'Days': 1, 'StorageClass': 'GLACIER'}]}]})) == 'NotImplemented'
"#,
        &[],
    );
}

#[test]
fn a_bucket_is_asked_by_its_host_as_well() {
    let cluster = Cluster::start(1);
    let endpoint = cluster.nodes[0].s3.replace("127.0.0.1", "localhost");
    boto3(
        &endpoint,
        r#"
import socket, urllib.request
real = socket.getaddrinfo
asked = []
def resolve(host, *more, **named):
    asked.append(host)
    return real('127.0.0.1' if host.endswith('localhost') else host, *more, **named)
socket.getaddrinfo = resolve
s3 = client(endpoint, s3={'addressing_style': 'virtual'}, signature_version='s3v4')
s3.create_bucket(Bucket='my.bucket')
s3.create_bucket(Bucket='bucket')
s3.put_object(Bucket='bucket', Key='a/../k ü', Body=b'hello')
assert s3.get_object(Bucket='bucket', Key='a/../k ü')['Body'].read() == b'hello'
assert [item['Key'] for item in s3.list_objects_v2(Bucket='bucket')['Contents']] == ['a/../k ü']
s3.copy_object(Bucket='bucket', Key='copy', CopySource={'Bucket': 'bucket', 'Key': 'a/../k ü'})
assert urllib.request.urlopen(s3.generate_presigned_url('get_object', Params={'Bucket': 'bucket', 'Key': 'copy'})).read() == b'hello'
s3.put_bucket_cors(Bucket='bucket', CORSConfiguration={'CORSRules': [{'AllowedOrigins': ['*'], 'AllowedMethods': ['GET']}]})
preflight = urllib.request.Request(endpoint.replace('localhost', 'bucket.localhost') + '/copy', method='OPTIONS',
    headers={'Origin': 'https://app', 'Access-Control-Request-Method': 'GET'})
assert urllib.request.urlopen(preflight).headers['access-control-allow-origin'] == '*'
assert 'bucket.localhost' in asked, asked
path = client(endpoint, s3={'addressing_style': 'path'})
assert path.get_object(Bucket='bucket', Key='copy')['Body'].read() == b'hello'
s3.delete_objects(Bucket='bucket', Delete={'Objects': [{'Key': 'a/../k ü'}, {'Key': 'copy'}]})
s3.delete_bucket(Bucket='bucket')
"#,
        &[],
    );
}

#[test]
fn https_is_served_with_the_nodes_own_certificate_or_a_given_one() {
    let own = Cluster::with_flags(1, |_| vec!["--s3-https".into()]);
    let (cert, key) = (own.nodes[0].data.join("s3-cert.pem"), own.nodes[0].data.join("s3-key.pem"));
    let script = r#"
import ssl
trusting = lambda cert: boto3.client('s3', endpoint_url=endpoint, verify=cert, config=Config(retries={'max_attempts': 0}))
s3 = trusting(sys.argv[1])
s3.create_bucket(Bucket='bucket')
body = os.urandom(3_000_000)
s3.put_object(Bucket='bucket', Key='k', Body=body)
assert s3.get_object(Bucket='bucket', Key='k')['Body'].read() == body
try:
    trusting(True).list_buckets(); assert False
except botocore.exceptions.SSLError:
    pass
import http.client, urllib.request, urllib.error
try:
    urllib.request.urlopen(endpoint.replace('https', 'http')); assert False
except (urllib.error.URLError, OSError, http.client.HTTPException):
    pass
"#;
    assert!(own.nodes[0].s3.starts_with("https://"), "{}", own.nodes[0].s3);
    boto3(&own.nodes[0].s3, script, &[cert.to_str().unwrap()]);
    let flags = |cert: &std::path::Path, key: &std::path::Path| {
        vec!["--s3-cert".to_owned(), cert.display().to_string(), "--s3-key".into(), key.display().to_string()]
    };
    let given = Cluster::with_flags(1, |_| flags(&cert, &key));
    boto3(&given.nodes[0].s3, script, &[cert.to_str().unwrap()]);
    assert!(!given.nodes[0].data.join("s3-cert.pem").exists(), "none is made where one is given");

    let wrong = atoll()
        .args(["up", "--s3-addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0", "--node-addr", "127.0.0.1:0"])
        .arg("--data")
        .arg(own.path("other"))
        .args(flags(&key, &cert))
        .output()
        .expect("the built binary starts");
    let said = String::from_utf8_lossy(&wrong.stderr);
    assert!(!wrong.status.success() && said.contains("hint: name a certificate chain"), "{said}");
}

#[test]
fn clients_speak_http2_or_http1_over_tls_as_they_agree_and_either_without() {
    let secure = Cluster::with_flags(1, |_| vec!["--s3-https".into()]);
    let plain = Cluster::start(1);
    let script = r#"
import subprocess
cert, body = sys.argv[1], os.urandom(3_000_000)
s3 = boto3.client('s3', endpoint_url=endpoint, verify=cert or None, config=Config(signature_version='s3v4'))
s3.create_bucket(Bucket='bucket')
def url(operation, key):
    return s3.generate_presigned_url(operation, Params={'Bucket': 'bucket', 'Key': key})
def curl(*arguments, body=b''):
    trust = ['--cacert', cert] if cert else []
    answer = subprocess.run(['curl', '--silent', '--show-error', '--fail', *trust, *arguments], input=body, capture_output=True)
    assert answer.returncode == 0, (arguments, answer.stderr)
    return answer.stdout
two = '--http2' if cert else '--http2-prior-knowledge'
for flag, version in ('--http1.1', b'1.1'), (two, b'2'):
    put = curl(flag, '--upload-file', '-', '--write-out', '%{http_version}', url('put_object', version.decode()), body=body)
    assert put == version, put
    out = f'{sys.argv[2]}/whole'
    assert curl(flag, '--output', out, '--write-out', '%{http_version}', url('get_object', version.decode())) == version
    assert open(out, 'rb').read() == body
    assert curl(flag, '--range', '1000-1999999', url('get_object', version.decode())) == body[1000:2_000_000]
    head = curl(flag, '--head', url('head_object', version.decode())).decode().lower()
    assert head.startswith('http/%s 200' % version.decode()) and 'content-length: 3000000' in head, head
if not cert:
    # curl 7.88 uses no connection twice that it began with the preface.
    sys.exit()
# Many at once on one connection, which only HTTP/2 can.
for number in range(20):
    s3.put_object(Bucket='bucket', Key=f'{number}', Body=body[number * 100_000:][:100_000])
several = [argument for number in range(20) for argument in ('--output', f'{sys.argv[2]}/{number}', url('get_object', f'{number}'))]
connects = curl(two, '--parallel', '--write-out', '%{num_connects}\n', *several).split()
assert len(connects) == 20 and sum(map(int, connects)) == 1, connects
for number in range(20):
    assert open(f'{sys.argv[2]}/{number}', 'rb').read() == body[number * 100_000:][:100_000]
"#;
    for (cluster, cert) in [(&secure, secure.nodes[0].data.join("s3-cert.pem")), (&plain, "".into())] {
        let folder = tempfile::tempdir().unwrap();
        boto3(&cluster.nodes[0].s3, script, &[cert.to_str().unwrap(), folder.path().to_str().unwrap()]);
    }
}
