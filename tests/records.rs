//! `atoll kv` and `atoll lock`, by themselves.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use serde_json::Value;

use crate::harness::{Cluster, wait_until};

fn text(output: std::process::Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn keys_are_put_got_compared_listed_and_deleted_at_any_node() {
    let cluster = Cluster::start(3);
    let [a, b, c] = [0, 1, 2].map(|number| &cluster.nodes[number]);
    text(a.atoll(&["kv", "put", "app/one", "1"]));
    assert_eq!(text(b.atoll(&["kv", "get", "app/one"])), "1\n");
    text(c.atoll(&["kv", "cas", "app/one", "2", "--expect", "1"]));
    let refused = c.atoll(&["kv", "cas", "app/one", "3", "--expect", "1"]);
    assert_eq!(refused.status.code(), Some(1), "{}", String::from_utf8_lossy(&refused.stderr));
    text(a.atoll(&["kv", "cas", "app/two", "x", "--absent"]));
    assert!(!a.atoll(&["kv", "cas", "app/two", "y", "--absent"]).status.success());
    let listed = b.json(&["kv", "list", "app/"]);
    let keys: Vec<&str> =
        listed.as_array().unwrap().iter().map(|record| record["key"].as_str().unwrap()).collect();
    assert_eq!(keys, ["app/one", "app/two"]);
    text(a.atoll(&["kv", "delete", "app/one"]));
    let gone = b.atoll(&["kv", "get", "app/one"]);
    assert_eq!(gone.status.code(), Some(1));
}

#[test]
fn a_watch_sees_each_change_once_and_resumes_from_a_revision() {
    let cluster = Cluster::start(1);
    let node = &cluster.nodes[0];
    let before = node.json(&["kv", "put", "w/0", "zero"])["revision"].as_u64().unwrap();
    for number in 1..=3 {
        text(node.atoll(&["kv", "put", &format!("w/{number}"), "x"]));
    }
    text(node.atoll(&["kv", "delete", "w/2"]));
    let mut watch = node
        .command(&["kv", "watch", "w/", "--after", &before.to_string(), "-o", "json"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(watch.stdout.take().unwrap()).lines();
    let mut next = || -> (String, bool) {
        let event: Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
        (event["key"].as_str().unwrap().into(), event["deleted"].as_bool().unwrap())
    };
    let seen: Vec<(String, bool)> = (0..4).map(|_| next()).collect();
    let expected = [("w/1", false), ("w/2", false), ("w/3", false), ("w/2", true)];
    assert_eq!(seen, expected.map(|(key, deleted)| (key.to_string(), deleted)));
    text(node.atoll(&["kv", "put", "w/late", "x"]));
    assert_eq!(next(), ("w/late".to_string(), false));
    watch.kill().unwrap();
    watch.wait().unwrap();
}

#[test]
fn a_lock_runs_one_command_at_a_time_and_its_epoch_grows() {
    let cluster = Cluster::start(3);
    let scratch = cluster.path("scratch");
    // Each holder appends its epoch, and fails if it is not alone.
    let script = format!(
        "mkdir {0}.alone || exit 9; echo $ATOLL_LOCK_EPOCH >> {0}; sleep 0.2; rmdir {0}.alone",
        scratch.display()
    );
    let mut holders: Vec<_> = (0..6)
        .map(|number| {
            let node = &cluster.nodes[number % 3];
            node.command(&["lock", "the-lock", "--", "sh", "-c", &script])
                .stderr(Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for holder in &mut holders {
        assert_eq!(holder.wait().unwrap().code(), Some(0));
    }
    let epochs: Vec<u64> =
        std::fs::read_to_string(&scratch).unwrap().lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(epochs.len(), 6);
    assert!(epochs.windows(2).all(|pair| pair[0] < pair[1]), "{epochs:?}");
    // The command's own exit code is passed on.
    assert_eq!(
        cluster.nodes[0].atoll(&["lock", "the-lock", "--", "sh", "-c", "exit 7"]).status.code(),
        Some(7)
    );
}

#[test]
fn a_lock_whose_holder_was_killed_becomes_free() {
    let cluster = Cluster::start(1);
    let node = &cluster.nodes[0];
    let marker = cluster.path("marker");
    let script = format!("touch {}; exec sleep 600", marker.display());
    let mut holder = node.command(&["lock", "l", "--for", "2s", "--", "sh", "-c", &script]).spawn().unwrap();
    wait_until("the first holder has it", || marker.exists());
    let busy = node.atoll(&["lock", "l", "--wait", "1s", "--", "true"]);
    assert_eq!(busy.status.code(), Some(4), "{}", String::from_utf8_lossy(&busy.stderr));
    holder.kill().unwrap();
    holder.wait().unwrap();
    assert!(node.atoll(&["lock", "l", "--wait", "30s", "--", "true"]).status.success());
}
