//! The overlay between real processes.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::harness::{Cluster, NodeProcess, wait_until};

/// Where each running node stands in the space of identifiers.
fn identifiers(cluster: &Cluster) -> BTreeMap<String, String> {
    let shown = cluster.running().map(|node| node.json(&["overlay", "show"]));
    let text = |value: &Value| value.as_str().expect("text").to_string();
    shown.map(|view| (text(&view["identifier"]), text(&view["seen_by"]))).collect()
}

/// Chord's definition: the first node at or after the key.
fn successor<'a>(ring: &'a BTreeMap<String, String>, identifier: &str) -> &'a str {
    ring.range(identifier.to_string()..).next().or(ring.iter().next()).expect("some node").1
}

fn table<'a>(view: &'a Value, name: &str) -> Vec<&'a str> {
    let tables = view["tables"].as_array().expect("tables").iter();
    let rows = tables.filter(|table| table["name"] == name).flat_map(|table| table["rows"].as_array());
    rows.flatten().map(|row| row["node"].as_str().expect("a node")).collect()
}

/// Waits until every running node has the ring's next nodes, and no others, as successors.
fn wait_whole(cluster: &Cluster) {
    let ring = identifiers(cluster);
    let nodes: Vec<&str> = ring.values().map(String::as_str).collect();
    wait_until("every node knows its neighbours", || {
        cluster.running().all(|node| {
            let view = node.json(&["overlay", "show"]);
            let place = nodes.iter().position(|other| *other == node.id).expect("it is one of them");
            let after: Vec<&str> = (1..nodes.len()).map(|way| nodes[(place + way) % nodes.len()]).collect();
            view["is_member"] == true
                && table(&view, "successors") == after
                && table(&view, "predecessor") == after[after.len() - 1..]
        })
    });
}

fn located(node: &NodeProcess, key: &str) -> (String, String) {
    let trace = node.json(&["overlay", "trace", key]);
    assert_eq!(trace["seen_by"], node.id.as_str());
    let responsible = trace["responsible"][0].as_str().expect("a responsible node");
    (trace["identifier"].as_str().expect("an identifier").into(), responsible.into())
}

#[test]
fn eight_processes_agree_on_who_is_responsible_for_every_key() {
    let mut cluster = Cluster::serving(8, |_| Vec::new());
    wait_whole(&cluster);
    let ring = identifiers(&cluster);
    assert_eq!(ring.len(), 8);
    let mut owners = BTreeMap::new();
    for number in 0..12 {
        let key = format!("key {number}");
        for node in cluster.running() {
            let (identifier, responsible) = located(node, &key);
            assert_eq!(responsible, successor(&ring, &identifier), "{key} asked at {}", node.id);
            *owners.entry(responsible).or_insert(0) += 1;
        }
    }
    assert!(owners.len() >= 4, "keys are spread: {owners:?}");

    // One is killed: its keys are its successor's at once, before anybody has noticed.
    cluster.nodes[3].kill_9();
    let ring = identifiers(&cluster);
    for number in 0..4 {
        for node in cluster.running() {
            let (identifier, responsible) = located(node, &format!("key {number}"));
            assert_eq!(responsible, successor(&ring, &identifier), "asked at {}", node.id);
        }
    }
    wait_whole(&cluster);

    // It comes back, another leaves in order, and no frame was refused by anybody.
    cluster.nodes[3].restart();
    wait_whole(&cluster);
    assert_eq!(cluster.nodes[5].stop(), Some(0));
    wait_whole(&cluster);
    for node in cluster.running() {
        let frames = &node.json(&["overlay", "show"])["frames"];
        assert!(frames["received"].as_u64() > Some(0), "{frames}");
        assert_eq!((&frames["malformed"], &frames["dropped"]), (&0.into(), &0.into()), "{frames}");
    }
    let text = String::from_utf8(cluster.nodes[0].atoll(&["overlay", "show"]).stdout).expect("text");
    assert!(text.contains("chord as seen by node") && text.contains("SUCCESSORS"), "{text}");
    let text =
        String::from_utf8(cluster.nodes[0].atoll(&["overlay", "trace", "key 1"]).stdout).expect("text");
    assert!(text.contains("responsible: "), "{text}");
}

/// All nodes of a cluster are off at once: each waits for another to be there first.
#[test]
fn a_cluster_that_was_off_finds_together_again() {
    let mut cluster = Cluster::start(3);
    wait_whole(&cluster);
    for node in &mut cluster.nodes {
        node.kill_9();
    }
    std::thread::scope(|scope| {
        for node in &mut cluster.nodes {
            scope.spawn(|| node.restart());
        }
    });
    wait_whole(&cluster);
}
