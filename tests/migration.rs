//! Migration transparency: a client reads in a loop while the machine that holds its bytes
//! is drained and removed.

use crate::harness::{Background, Cluster, boto3, boto3_command, wait_until};

const READ_ON: &str = r#"
import select
bodies = json.loads(sys.argv[1])
print('ready', flush=True)
turns = 0
while turns == 0 or not select.select([sys.stdin], [], [], 0)[0]:
    for key, digest in bodies.items():
        got = s3.get_object(Bucket='bucket', Key=key)['Body'].read()
        assert hashlib.sha256(got).hexdigest() == digest, key
    turns += 1
print(turns)
"#;

const FILL: &str = r#"
s3.create_bucket(Bucket='bucket')
digests = {}
for number in range(30):
    body = os.urandom(500 if number % 2 else 2_000_000)
    s3.put_object(Bucket='bucket', Key=f'k{number}', Body=body)
    digests[f'k{number}'] = hashlib.sha256(body).hexdigest()
print(json.dumps(digests))
"#;

#[test]
fn reads_go_on_while_a_node_joins_and_the_holder_is_drained_away() {
    let mut cluster = Cluster::start(3);
    let endpoint = cluster.nodes[1].s3.clone();
    let digests = boto3(&endpoint, FILL, &[]);
    let mut reader = Background::start(boto3_command(&endpoint, READ_ON, &[&digests]));
    assert_eq!(reader.line(), "ready");

    cluster.join(&[]);
    cluster.wait_settled();
    let leaving = cluster.nodes[0].id.clone();
    assert!(cluster.nodes[1].atoll(&["node", "drain", &leaving[..12]]).status.success());
    wait_until("the drained node is empty", || {
        let status = cluster.nodes[1].status();
        let nodes = status["nodes"].as_array().unwrap();
        nodes.iter().any(|node| node["id"] == leaving.as_str() && node["is_empty"] == true)
    });
    let removed = cluster.nodes[1].atoll(&["node", "remove", &leaving[..12], "--yes"]);
    assert!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));
    cluster.nodes[0].kill_9();
    reader.finish();

    // Everything is at the three that stay.
    boto3(&endpoint, READ_ON, &[&digests]);
}

#[test]
fn a_node_that_still_holds_something_is_not_removed() {
    let cluster = Cluster::start(3);
    let refused = cluster.nodes[1].atoll(&["node", "remove", &cluster.nodes[0].id, "--yes"]);
    assert!(!refused.status.success());
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("still holds something") && text.contains("atoll node drain"), "{text}");
}

/// The control: without a drain, two machines that go take bytes with them.
#[test]
#[should_panic(expected = "boto3 script failed")]
fn control_machines_that_go_without_a_drain_are_missed() {
    let mut cluster = Cluster::start(3);
    let endpoint = cluster.nodes[1].s3.clone();
    let digests = boto3(&endpoint, FILL, &[]);
    cluster.nodes[0].kill_9();
    cluster.nodes[2].kill_9();
    boto3(&endpoint, READ_ON, &[&digests]);
}
