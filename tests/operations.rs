//! What operators do: stop a node for maintenance, take a drain back, remove a dead node,
//! change the number of copies, and meet a damaged data folder.

use serde_json::Value;

use crate::harness::{Background, Cluster, NodeProcess, atoll, boto3, boto3_command, wait_until};

/// How many shards each node leads, by the word of one.
fn led_by(node: &NodeProcess, nodes: &[NodeProcess]) -> Vec<usize> {
    let status = node.status();
    let leaders: Vec<&str> =
        status["shards"].as_array().unwrap().iter().filter_map(|shard| shard["leader"].as_str()).collect();
    nodes.iter().map(|node| leaders.iter().filter(|leader| **leader == node.id).count()).collect()
}

/// 65 shards over three nodes: 21 or 22 each, or about so while one is on its way.
fn wait_spread(cluster: &Cluster) {
    wait_until("leadership is spread", || {
        led_by(&cluster.nodes[0], &cluster.nodes).iter().all(|led| (20..=24).contains(led))
    });
}

#[test]
fn leadership_is_spread_and_a_node_stopped_in_order_hands_over_its_own() {
    let mut cluster = Cluster::start(3);
    wait_spread(&cluster);
    // No retry, so nothing may fail; and long before anybody could notice a death.
    let script = r#"
import select
once = client(endpoint, retries={'total_max_attempts': 1})
once.create_bucket(Bucket='bucket')
print('ready', flush=True)
longest, turns = 0, 0
while not select.select([sys.stdin], [], [], 0)[0]:
    started = time.monotonic()
    once.put_object(Bucket='bucket', Key=f'k-{turns}', Body=b'x')
    assert once.get_object(Bucket='bucket', Key=f'k-{turns}')['Body'].read() == b'x'
    longest = max(longest, time.monotonic() - started)
    turns += 1
print(int(longest * 1000), turns, flush=True)
"#;
    let mut work = Background::start(boto3_command(&cluster.nodes[0].s3, script, &[]));
    assert_eq!(work.line(), "ready");
    assert_eq!(cluster.nodes[1].stop(), Some(0));
    let led = led_by(&cluster.nodes[0], &cluster.nodes);
    assert_eq!((led[1], led[0] + led[2]), (0, 65), "shards were left without a leader");
    let printed = work.finish();
    let longest: u64 = printed.split_whitespace().next().unwrap().parse().unwrap();
    assert!(longest < 3000, "a put and a get took {longest} ms while a node stopped in order");
    cluster.nodes[1].restart();
    wait_spread(&cluster);
}

#[test]
fn a_drain_is_taken_back_and_a_dead_node_removed_by_force() {
    let mut cluster = Cluster::start(4);
    boto3(
        &cluster.nodes[0].s3,
        "s3.create_bucket(Bucket='bucket'); s3.put_object(Bucket='bucket', Key='k', Body=b'k' * 5_000_000)",
        &[],
    );
    let leaver = cluster.nodes[3].id.clone();
    let state = |cluster: &Cluster| -> Value {
        let status = cluster.nodes[0].status();
        let nodes = status["nodes"].as_array().unwrap();
        nodes
            .iter()
            .find(|node| node["id"] == leaver.as_str())
            .map_or(Value::Null, |node| node["state"].clone())
    };
    assert!(cluster.nodes[0].atoll(&["node", "drain", &leaver]).status.success());
    assert_eq!(state(&cluster), "draining");
    let early = cluster.nodes[0].atoll(&["node", "remove", &leaver, "--yes"]);
    assert_eq!(early.status.code(), Some(1), "a node that still holds something was removed");
    assert!(cluster.nodes[0].atoll(&["node", "undrain", &leaver]).status.success());
    cluster.wait_settled();
    assert_eq!(state(&cluster), "active");

    cluster.nodes[3].kill_9();
    let removed = cluster.nodes[0].atoll(&["node", "remove", &leaver, "--force", "--yes"]);
    assert!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));
    wait_until("the others have taken over", || state(&cluster).is_null());
    cluster.wait_settled();
    // It comes back after all, with a layout that knows nothing of it: the others tell it.
    let mut back = cluster.nodes.pop().expect("the fourth");
    back.restart();
    let said = back.wait_ended();
    assert!(
        said.contains("this node was removed from its cluster") && said.contains("a new ticket"),
        "{said}"
    );
    // As it says: the next to join has the same folder, empty.
    std::fs::remove_dir_all(&back.data).expect("its folder");
    cluster.join(&[]);
    cluster.wait_settled();
    let read = "assert s3.get_object(Bucket='bucket', Key='k')['Body'].read() == b'k' * 5_000_000";
    boto3(&cluster.nodes[1].s3, read, &[]);

    assert!(cluster.nodes[1].atoll(&["cluster", "set", "copies", "2"]).status.success());
    cluster.wait_settled();
    boto3(&cluster.nodes[2].s3, read, &[]);
    let wrong = cluster.nodes[1].atoll(&["cluster", "set", "copies", "0"]);
    assert_eq!(wrong.status.code(), Some(1));
}

#[test]
fn a_damaged_data_folder_is_refused_with_the_file_and_left_alone() {
    let mut cluster = Cluster::start(1);
    cluster.nodes[0].kill_9();
    let data = cluster.nodes[0].data.clone();
    for name in ["identity", "layout"] {
        let file = data.join(name);
        let sound = std::fs::read(&file).unwrap();
        let mut damaged = sound.clone();
        let middle = damaged.len() / 2;
        damaged[middle] ^= 0x10;
        std::fs::write(&file, &damaged).unwrap();
        let output = atoll()
            .args(["up", "--s3-addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0"])
            .args(["--node-addr", "127.0.0.1:0", "--data"])
            .arg(&data)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{name}: {text}");
        assert!(text.contains(name) && text.contains("damaged"), "{name}: {text}");
        assert_eq!(std::fs::read(&file).unwrap(), damaged, "{name} was changed");
        std::fs::write(&file, &sound).unwrap();
    }
    cluster.nodes[0].restart();
    boto3(&cluster.nodes[0].s3, "s3.create_bucket(Bucket='bucket')", &[]);
}
