//! For those who come from MinIO: what docs/minio.md says, and the SDK that they have.

use std::process::Command;

use crate::harness::{ACCESS_KEY, Cluster, NodeProcess, SECRET_KEY, boto3};

/// The commands of a section of the page.
fn commands(section: &str) -> String {
    let page = include_str!("../docs/minio.md");
    let section = page.split(&format!("\n## {section}\n")).nth(1).expect("the page has the section");
    let block = section.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next());
    block.expect("the section has commands").to_owned()
}

#[test]
fn the_recipe_moves_all_buckets_and_is_done_again_for_what_has_changed() {
    let (old, new) = (Cluster::start(1), Cluster::start(1));
    let (old, new) = (&old.nodes[0], &new.nodes[0]);
    let mut recipe = commands("Moving the data");
    for (text, value) in [
        ("http://minio.example.org:9000", old.s3.as_str()),
        ("http://atoll.example.org:9000", &new.s3),
        ("OLD-ACCESS-KEY", ACCESS_KEY),
        ("OLD-SECRET-KEY", SECRET_KEY),
        ("NEW-ACCESS-KEY", ACCESS_KEY),
        ("NEW-SECRET-KEY", SECRET_KEY),
    ] {
        assert_eq!(recipe.matches(text).count(), 1, "{text} stands once in the recipe");
        recipe = recipe.replace(text, value);
    }
    let run = || {
        let mut shell = Command::new("bash");
        shell.args(["-euo", "pipefail", "-c", &recipe]).env("RCLONE_CONFIG", "/dev/null");
        let output = shell.env_remove("AWS_CA_BUNDLE").output().expect("bash runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    boto3(
        &old.s3,
        r#"
for bucket in 'photos', 'music', 'empty':
    s3.create_bucket(Bucket=bucket)
for number in range(50):
    s3.put_object(Bucket='photos', Key=f'2024/{number} ü+%.jpg', Body=os.urandom(number * 1000), ContentType='image/jpeg',
                  CacheControl='no-cache', Metadata={'n': str(number)})
s3.upload_fileobj(io.BytesIO(os.urandom(20_000_000)), 'music', 'long')
"#,
        &[],
    );
    run();
    let seen = |node: &NodeProcess| {
        let script = r#"
for bucket in 'photos', 'music', 'empty':
    for item in s3.list_objects_v2(Bucket=bucket).get('Contents', []):
        got = s3.get_object(Bucket=bucket, Key=item['Key'])
        metadata = {name: value for name, value in got['Metadata'].items() if name not in ('mtime', 'btime')}
        print(bucket, item['Key'], hashlib.sha256(got['Body'].read()).hexdigest(), got['ContentType'], got.get('CacheControl'), metadata)
"#;
        boto3(&node.s3, script, &[])
    };
    let then = seen(old);
    assert_eq!(then.lines().count(), 51);
    assert_eq!(seen(new), then);
    let unchanged = "print(s3.head_object(Bucket='photos', Key='2024/7 ü+%.jpg')['LastModified'])";
    let written = boto3(&new.s3, unchanged, &[]);
    boto3(
        &old.s3,
        r#"
s3.put_object(Bucket='photos', Key='2024/0 ü+%.jpg', Body=b'another', ContentType='image/jpeg')
s3.delete_object(Bucket='photos', Key='2024/1 ü+%.jpg')
s3.upload_fileobj(io.BytesIO(os.urandom(20_000_000)), 'music', 'long')
s3.put_object(Bucket='empty', Key='new', Body=b'new')
"#,
        &[],
    );
    run();
    assert_ne!(seen(new), then);
    assert_eq!(seen(new), seen(old));
    assert_eq!(boto3(&new.s3, unchanged, &[]), written, "what is the same is not copied again");
}

#[test]
fn minios_own_sdk_runs_unchanged() {
    let cluster = Cluster::start(1);
    let script = r#"
import urllib3
from datetime import datetime, timedelta, timezone
from minio import Minio
from minio.commonconfig import ComposeSource, CopySource, ENABLED, Filter, Tags
from minio.datatypes import PostPolicy
from minio.deleteobjects import DeleteObject
from minio.error import S3Error
from minio.lifecycleconfig import Expiration, LifecycleConfig, Rule
from minio.versioningconfig import VersioningConfig
host = endpoint.removeprefix('http://')
minio = Minio(endpoint=host, secure=False, access_key=os.environ['AWS_ACCESS_KEY_ID'], secret_key=os.environ['AWS_SECRET_ACCESS_KEY'])
http = urllib3.PoolManager()
bucket = {'bucket_name': 'bucket'}
assert not minio.bucket_exists(**bucket)
minio.make_bucket(**bucket)
assert [found.name for found in minio.list_buckets()] == ['bucket'] and minio.bucket_exists(**bucket)
# In parts, since its length is not known beforehand.
body = os.urandom(12_000_000)
minio.put_object(**bucket, object_name='dir/large', data=io.BytesIO(body), length=-1, part_size=5 << 20, metadata={'colour': 'blue'})
minio.put_object(**bucket, object_name='small', data=io.BytesIO(b'small'), length=5, content_type='text/x-small')
get = lambda name, **more: minio.get_object(**bucket, object_name=name, **more).data
assert get('dir/large') == body and get('dir/large', offset=1000, length=500) == body[1000:1500]
stat = minio.stat_object(**bucket, object_name='dir/large')
assert stat.size == len(body) and stat.metadata['x-amz-meta-colour'] == 'blue' and stat.etag.endswith('-3')
names = lambda **more: sorted(found.object_name for found in minio.list_objects(**bucket, **more))
assert names() == ['dir/', 'small'] and names(recursive=True) == ['dir/large', 'small']
source = lambda kind, name: kind(**bucket, object_name=name)
minio.copy_object(**bucket, object_name='copy', source=source(CopySource, 'small'))
minio.compose_object(**bucket, object_name='composed', sources=[source(ComposeSource, name) for name in ('dir/large', 'small')])
assert get('copy') == b'small' and get('composed') == body + b'small'
assert http.request('PUT', minio.presigned_put_object(**bucket, object_name='by-url'), body=b'by url').status == 200
assert http.request('GET', minio.presigned_get_object(**bucket, object_name='by-url')).data == b'by url'
policy = PostPolicy(**bucket, expiration=datetime.now(timezone.utc) + timedelta(hours=1))
policy.add_starts_with_condition('$key', 'forms/')
policy.add_content_length_range_condition(1, 100)
fields = {**minio.presigned_post_policy(policy=policy), 'key': 'forms/${filename}', 'file': ('f.txt', b'form')}
answer = http.request('POST', f'{endpoint}/bucket', fields=fields)
assert answer.status == 204 and get('forms/f.txt') == b'form', answer.data
tags = Tags(for_object=True)
tags['a'] = 'b'
minio.set_object_tags(**bucket, object_name='small', tags=tags)
assert minio.get_object_tags(**bucket, object_name='small') == {'a': 'b'}
rule = Rule(status=ENABLED, rule_filter=Filter(prefix='tmp/'), rule_id='old', expiration=Expiration(days=3))
minio.set_bucket_lifecycle(**bucket, config=LifecycleConfig(rules=[rule]))
assert minio.get_bucket_lifecycle(**bucket).rules[0].expiration.days == 3
statement = {'Effect': 'Allow', 'Principal': '*', 'Action': 's3:GetObject', 'Resource': 'arn:aws:s3:::bucket/forms/*'}
minio.set_bucket_policy(**bucket, policy=json.dumps({'Version': '2012-10-17', 'Statement': [statement]}))
assert json.loads(minio.get_bucket_policy(**bucket))['Statement']
minio.set_bucket_versioning(**bucket, config=VersioningConfig(status=ENABLED))
assert minio.get_bucket_versioning(**bucket).status == 'Enabled'
minio.put_object(**bucket, object_name='small', data=io.BytesIO(b'again'), length=5)
assert names(prefix='small', include_version=True) == ['small', 'small']
try:
    get('none'); assert False
except S3Error as error:
    assert error.code == 'NoSuchKey', error
found = minio.list_objects(**bucket, recursive=True, include_version=True)
errors = minio.remove_objects(**bucket, delete_object_list=[DeleteObject(one.object_name, one.version_id) for one in found])
assert not list(errors)
minio.remove_bucket(**bucket)
"#;
    boto3(&cluster.nodes[0].s3, script, &[]);
}
