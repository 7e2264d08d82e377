//! Parallelism transparency: one get is served by several nodes at once, under one URL.

use serde_json::Value;

use crate::harness::{Cluster, boto3};

/// Bytes that each node has sent to others as chunks, from its metrics.
fn chunk_bytes_served(cluster: &Cluster) -> Vec<u64> {
    cluster
        .nodes
        .iter()
        .map(|node| {
            let output =
                std::process::Command::new("curl").args(["-s", &format!("{}/metrics", node.admin)]).output();
            let text = String::from_utf8(output.expect("curl runs").stdout).expect("text");
            let line = text.lines().find(|line| line.starts_with("atoll_chunk_bytes_served_total"));
            line.and_then(|line| line.rsplit(' ').next()).and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0)
                as u64
        })
        .collect()
}

const SIZE: u64 = 64 << 20;

fn put_and_get(cluster: &Cluster, at: usize) {
    boto3(
        &cluster.nodes[at].s3,
        "
s3.create_bucket(Bucket='bucket')
body = os.urandom(64 << 20)
s3.put_object(Bucket='bucket', Key='k', Body=body)
assert s3.get_object(Bucket='bucket', Key='k')['Body'].read() == body",
        &[],
    );
}

#[test]
fn one_large_get_is_served_by_several_nodes() {
    // With four nodes and three copies, whoever answers has three quarters of the chunks
    // itself; the rest comes from the others.
    let cluster = Cluster::start(4);
    let before = chunk_bytes_served(&cluster);
    put_and_get(&cluster, 0);
    let served: Vec<u64> =
        chunk_bytes_served(&cluster).iter().zip(before).map(|(after, before)| after - before).collect();
    let helpers = served[1..].iter().filter(|bytes| **bytes > SIZE / 64).count();
    assert!(helpers >= 2, "chunks came from {helpers} other nodes: {served:?}");
}

/// The control: a single node has nobody to help it, and the measure says so.
#[test]
#[should_panic(expected = "chunks came from 0 other nodes")]
fn control_one_node_is_helped_by_nobody() {
    let cluster = Cluster::start(1);
    put_and_get(&cluster, 0);
    let served = chunk_bytes_served(&cluster);
    let status: Value = cluster.nodes[0].status();
    assert_eq!(status["nodes"].as_array().map(Vec::len), Some(1));
    let helpers = served[1..].iter().filter(|bytes| **bytes > SIZE / 64).count();
    assert!(helpers >= 2, "chunks came from {helpers} other nodes: {served:?}");
}
