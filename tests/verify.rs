//! `atoll verify`: a verdict over real processes that are killed, paused and cut off, and
//! over a cluster that runs already.

use serde_json::Value;

use crate::harness::{ACCESS_KEY, Cluster, SECRET_KEY, atoll, boto3};

fn verified(arguments: &[&str]) -> Value {
    let output = atoll().args(["verify", "-o", "json"]).args(arguments).output().unwrap();
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{stdout}\n{stderr}");
    serde_json::from_str(&stdout).unwrap()
}

fn answered(verdict: &Value, kind: &str) -> u64 {
    verdict["operations"][kind]["answered"].as_u64().unwrap_or_default()
}

#[test]
fn a_cluster_that_is_broken_all_the_while_keeps_its_promises() {
    let verdict = verified(&["--minutes", "0.25", "--clients", "6", "--seed", "0x5"]);
    assert_eq!(verdict["sound"], true);
    assert_eq!(verdict["seed"], "0x5");
    for kind in ["get", "put", "delete", "list", "transact"] {
        assert!(answered(&verdict, kind) > 0, "no {kind} was answered: {verdict}");
    }
    let mishaps = verdict["mishaps"].as_object().unwrap();
    assert!(!mishaps.is_empty(), "nothing happened: {verdict}");
    let checkers = verdict["checkers"].as_array().unwrap();
    assert!(checkers.iter().any(|checked| checked["checker"] == "linearizability"));
}

#[test]
fn a_running_cluster_is_verified_in_a_bucket_that_is_removed() {
    let cluster = Cluster::start(1);
    let node = &cluster.nodes[0];
    let keys = ["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY];
    let how = ["--endpoint", &node.s3, "--minutes", "0.1", "--clients", "4", "--seed", "0x6"];
    let verdict = verified(&[&how[..], &keys[..]].concat());
    assert_eq!(verdict["sound"], true);
    assert!(verdict["mishaps"].as_object().unwrap().is_empty());
    assert!(answered(&verdict, "put") > 0, "{verdict}");
    boto3(&node.s3, "assert s3.list_buckets()['Buckets'] == []", &[]);
}

#[test]
fn an_endpoint_where_nobody_listens_is_told_apart_from_a_broken_promise() {
    let keys = ["--access-key", ACCESS_KEY, "--secret-key", SECRET_KEY];
    let output = atoll().args(["verify", "--endpoint", "http://127.0.0.1:1"]).args(keys).output().unwrap();
    assert_eq!(output.status.code(), Some(4));
    assert!(String::from_utf8_lossy(&output.stderr).contains("nobody listens there"));
}
