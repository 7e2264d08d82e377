//! Replication transparency: the caller cannot tell one copy from three.

use crate::harness::{Cluster, boto3};

/// Everything a client is told, with what differs between any two requests left out.
const OBSERVE: &str = r#"
s3.create_bucket(Bucket='bucket')
seen = []
def note(answer):
    answer = dict(answer)
    body = answer.pop('Body', None)
    meta = answer.pop('ResponseMetadata')
    headers = sorted(name for name in meta['HTTPHeaders'])
    for name in ('LastModified', 'Contents'):
        answer.pop(name, None)
    seen.append([meta['HTTPStatusCode'], headers, answer, hashlib.md5(body.read()).hexdigest() if body else None])
for size in (0, 100, 2_500_000):
    note(s3.put_object(Bucket='bucket', Key=str(size), Body=b'r' * size))
    note(s3.get_object(Bucket='bucket', Key=str(size)))
    note(s3.head_object(Bucket='bucket', Key=str(size)))
note(s3.list_objects_v2(Bucket='bucket'))
note(s3.delete_object(Bucket='bucket', Key='0'))
print(json.dumps(seen, default=str, sort_keys=True))
"#;

#[test]
fn one_copy_and_three_look_the_same() {
    let (one, three) = (Cluster::start(1), Cluster::start(3));
    assert_eq!(boto3(&one.nodes[0].s3, OBSERVE, &[]), boto3(&three.nodes[0].s3, OBSERVE, &[]));
}

/// The control: the observation does tell different answers apart.
#[test]
#[should_panic(expected = "assertion `left == right` failed")]
fn control_other_bytes_do_not_look_the_same() {
    let cluster = Cluster::start(1);
    let other = OBSERVE.replace("Bucket='bucket'", "Bucket='other'").replace("b'r'", "b's'");
    assert_eq!(boto3(&cluster.nodes[0].s3, OBSERVE, &[]), boto3(&cluster.nodes[0].s3, &other, &[]));
}
