//! A majority is gone for good, and a survivor goes on (`atoll recover`).

use crate::harness::{Cluster, atoll, boto3, wait_until};

/// Small and large objects, and a record.
const WRITE: &str = r#"
s3.create_bucket(Bucket='bucket')
for n in range(20): s3.put_object(Bucket='bucket', Key=f'small-{n}', Body=f'value {n}'.encode())
s3.put_object(Bucket='bucket', Key='large', Body=b'l' * 9_000_000)
"#;
const READ: &str = r#"
for n in range(20): assert s3.get_object(Bucket='bucket', Key=f'small-{n}')['Body'].read() == f'value {n}'.encode()
assert s3.get_object(Bucket='bucket', Key='large')['Body'].read() == b'l' * 9_000_000
s3.put_object(Bucket='bucket', Key='after', Body=b'after')
assert s3.get_object(Bucket='bucket', Key='after')['Body'].read() == b'after'
"#;

fn recover(cluster: &Cluster, node: usize, arguments: &[&str]) -> std::process::Output {
    let data = &cluster.nodes[node].data;
    atoll().arg("recover").arg("--data").arg(data).args(arguments).output().unwrap()
}

#[test]
fn a_survivor_of_three_goes_on_alone_and_grows_again() {
    let mut cluster = Cluster::start(3);
    boto3(&cluster.nodes[1].s3, WRITE, &[]);
    assert!(cluster.nodes[0].atoll(&["kv", "put", "key", "value"]).status.success());
    let used = recover(&cluster, 2, &["--yes"]);
    assert_eq!(used.status.code(), Some(3), "a running node was recovered");

    // Node 2, which neither founded the cluster nor issued its ticket.
    for node in 0..3 {
        cluster.nodes[node].kill_9();
    }
    let refused = recover(&cluster, 2, &[]);
    assert_eq!(refused.status.code(), Some(1), "it did not ask");
    let dry = recover(&cluster, 2, &["--dry-run", "-o", "json"]);
    let dry: serde_json::Value = serde_json::from_slice(&dry.stdout).unwrap();
    assert_eq!(dry["recovered"], false);
    assert_eq!(dry["given_up"].as_array().unwrap().len(), 2);
    assert_eq!((&dry["shards_behind"], &dry["shards_lost"]), (&65.into(), &0.into()));
    assert_eq!((&dry["slots_behind"], &dry["slots_lost"]), (&4096.into(), &0.into()));
    let done = recover(&cluster, 2, &["--yes"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));

    cluster.nodes[2].restart();
    wait_until("the survivor leads everything", || {
        cluster.nodes[2].status()["shards"]
            .as_array()
            .unwrap()
            .iter()
            .all(|shard| shard["leader"].is_string())
    });
    boto3(&cluster.nodes[2].s3, READ, &[]);
    let got = cluster.nodes[2].atoll(&["kv", "get", "key"]);
    assert_eq!(String::from_utf8_lossy(&got.stdout).trim(), "value");
    assert_eq!(cluster.nodes[2].status()["nodes"].as_array().unwrap().len(), 1);

    let trail = cluster.nodes[2].json(&["audit", "list"]).to_string();
    let given_up = |node: usize| trail.contains(&cluster.nodes[node].id);
    assert!(trail.contains("node:recover") && given_up(0) && given_up(1), "{trail}");

    // One that was given up comes back: it is refused, and has no say.
    cluster.nodes[0].restart();
    boto3(&cluster.nodes[2].s3, READ, &[]);
    assert_eq!(cluster.nodes[2].status()["nodes"].as_array().unwrap().len(), 1);
    let alone = boto3(
        &cluster.nodes[0].s3,
        "print(code_of(lambda: client(endpoint, retries={'total_max_attempts': 1}).put_object(Bucket='bucket', Key='k', Body=b'')))",
        &[],
    );
    assert_ne!(alone.trim(), "None", "a node that was given up took a write");
    cluster.nodes[0].kill_9();

    // New nodes join as always, and then the survivor may die.
    let ticket = cluster.nodes[2].json(&["ticket", "create"])["ticket"].as_str().unwrap().to_string();
    cluster.nodes[0].ticket = Some(ticket);
    let fourth = cluster.join(&[]);
    let fifth = cluster.join(&[]);
    wait_until("there are three nodes again", || {
        let status = cluster.nodes[2].status();
        status["nodes"].as_array().unwrap().len() == 3
            && status["health"] == "healthy"
            && status["moves"]["slots_moving"] == 0
            && status["moves"]["shards_moving"] == 0
    });
    cluster.nodes[2].kill_9();
    boto3(&cluster.nodes[fourth].s3, READ, &[]);
    cluster.nodes[2].restart();
    boto3(&cluster.nodes[fifth].s3, READ, &[]);
}

#[test]
fn two_survivors_of_four_keep_what_either_has() {
    let mut cluster = Cluster::start(4);
    boto3(&cluster.nodes[1].s3, WRITE, &[]);
    // What was acknowledged by two of three copies is soon on all three.
    cluster.wait_settled();
    for node in [0, 1, 2] {
        cluster.nodes[node].kill_9();
    }
    let other = cluster.nodes[3].id.clone();
    let done = recover(&cluster, 2, &["--survivor", &other, "--yes", "-o", "json"]);
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let losses: serde_json::Value = serde_json::from_slice(&done.stdout).unwrap();
    assert_eq!((&losses["shards_lost"], &losses["slots_lost"]), (&0.into(), &0.into()));

    cluster.nodes[2].restart();
    let last_words = cluster.nodes[3].wait_ended();
    assert!(last_words.contains("start this node again to take part"), "{last_words}");
    cluster.nodes[3].restart();
    wait_until("every shard has a leader", || {
        let status = cluster.nodes[3].status();
        status["nodes"].as_array().unwrap().len() == 2
            && status["shards"].as_array().unwrap().iter().all(|shard| shard["leader"].is_string())
    });
    boto3(&cluster.nodes[3].s3, READ, &[]);
    boto3(&cluster.nodes[2].s3, READ, &[]);
}

#[test]
fn where_nothing_is_lost_nothing_is_recovered() {
    let mut cluster = Cluster::start(1);
    cluster.nodes[0].kill_9();
    let output = recover(&cluster, 0, &["--yes"]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(text.contains("nothing is lost") && text.contains("hint: start this one"), "{text}");
    let nowhere = atoll().args(["recover", "--data", "/nonexistent/folder"]).output().unwrap();
    assert_eq!(nowhere.status.code(), Some(3));
    assert!(String::from_utf8_lossy(&nowhere.stderr).contains("belongs to no member"));
    cluster.nodes[0].restart();
}
