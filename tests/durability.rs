//! What was acknowledged is there after every process was killed at once.
//!
//! Processes only: that what was not flushed is lost, directory entries included, is shown
//! on the disk twin in the simulation.

use crate::harness::{Background, Cluster, boto3, boto3_command};

/// Puts until it can't any more, then says what was acknowledged.
const PUT_ON: &str = r#"
s3.create_bucket(Bucket='bucket')
mine = client(endpoint, retries={'total_max_attempts': 1}, read_timeout=10)
done = {}
print('ready', flush=True)
try:
    number = 0
    while True:
        body = os.urandom(100 if number % 3 else 1_500_000)
        mine.put_object(Bucket='bucket', Key=f'k{number}', Body=body)
        done[f'k{number}'] = hashlib.sha256(body).hexdigest()
        if number == 20: print('twenty', flush=True)
        number += 1
except Exception:
    print(json.dumps(done))
"#;

fn kill_all_and_look(nodes: usize) {
    let mut cluster = Cluster::start(nodes);
    let endpoint = cluster.nodes[0].s3.clone();
    let mut puts = Background::start(boto3_command(&endpoint, PUT_ON, &[]));
    assert_eq!(puts.line(), "ready");
    assert_eq!(puts.line(), "twenty");
    for node in &mut cluster.nodes {
        node.kill_9();
    }
    let acknowledged = puts.finish();
    std::thread::scope(|scope| {
        for node in &mut cluster.nodes {
            scope.spawn(|| node.restart());
        }
    });
    boto3(
        &endpoint,
        r#"
acknowledged = json.loads(sys.argv[1])
assert len(acknowledged) > 20
for key, digest in acknowledged.items():
    assert hashlib.sha256(s3.get_object(Bucket='bucket', Key=key)['Body'].read()).hexdigest() == digest, key
listed = {item['Key'] for page in s3.get_paginator('list_objects_v2').paginate(Bucket='bucket') for item in page['Contents']}
assert set(acknowledged) <= listed
"#,
        &[&acknowledged],
    );
}

#[test]
fn one_node_killed_in_mid_write_keeps_what_it_acknowledged() {
    kill_all_and_look(1);
}

#[test]
fn three_nodes_killed_at_once_keep_what_they_acknowledged() {
    kill_all_and_look(3);
}

#[test]
fn a_graceful_stop_exits_with_zero_and_carries_on_where_it_was() {
    let mut cluster = Cluster::start(1);
    let endpoint = cluster.nodes[0].s3.clone();
    boto3(
        &endpoint,
        "s3.create_bucket(Bucket='bucket'); s3.put_object(Bucket='bucket', Key='k', Body=b'kept')",
        &[],
    );
    assert_eq!(cluster.nodes[0].stop(), Some(0));
    cluster.nodes[0].restart();
    boto3(&endpoint, "assert s3.get_object(Bucket='bucket', Key='k')['Body'].read() == b'kept'", &[]);
}
