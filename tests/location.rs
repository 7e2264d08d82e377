//! Location transparency: the same URL path and keys work at every node, and nothing in an
//! answer says where the bytes were.

use crate::harness::{Cluster, boto3};

const PUT_AT_ONE_GET_AT_ALL: &str = r#"
ends = sys.argv[1:]
s3.create_bucket(Bucket='bucket')
bodies = {f'{size}-{i}': os.urandom(size) for size in (10, 3_000_000) for i in range(4)}
for number, (key, body) in enumerate(bodies.items()):
    client(ends[number % len(ends)]).put_object(Bucket='bucket', Key=key, Body=body)
def facts(answer):
    return {name: value for name, value in answer.items() if name not in ('Body', 'ResponseMetadata')}
for key, body in bodies.items():
    answers = [client(end).get_object(Bucket='bucket', Key=key) for end in ends]
    assert all(answer['Body'].read() == body for answer in answers), key
    assert len({json.dumps(facts(answer), default=str, sort_keys=True) for answer in answers}) == 1
listings = [[item['Key'] for item in client(end).list_objects_v2(Bucket='bucket')['Contents']] for end in ends]
assert all(listing == sorted(bodies) for listing in listings)
"#;

#[test]
fn the_same_names_work_at_every_node() {
    let cluster = Cluster::start(3);
    let ends: Vec<&str> = cluster.nodes.iter().map(|node| node.s3.as_str()).collect();
    boto3(ends[0], PUT_AT_ONE_GET_AT_ALL, &ends);
}

/// The control: two nodes that are not one cluster do not pass for one.
#[test]
#[should_panic(expected = "boto3 script failed")]
fn control_two_separate_clusters_fail_this() {
    let (one, other) = (Cluster::start(1), Cluster::start(1));
    boto3(&one.nodes[0].s3, PUT_AT_ONE_GET_AT_ALL, &[&one.nodes[0].s3, &other.nodes[0].s3]);
}
