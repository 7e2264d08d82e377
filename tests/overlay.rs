//! The overlay between real processes.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::atomic::{AtomicBool, AtomicUsize, Ordering},
};

use serde_json::Value;

use crate::harness::{Cluster, NodeProcess, atoll, pause, wait_until, wait_until_nothing_lacks};

/// Waits until what each running node shows of the overlay is right.
fn wait_views(cluster: &Cluster, what: &str, is_right: impl Fn(&NodeProcess, &Value) -> bool) {
    wait_until_nothing_lacks(what, || {
        cluster.running().find_map(|node| {
            let view = node.json(&["overlay", "show"]);
            (!is_right(node, &view)).then(|| format!("node {} shows {view}", node.id))
        })
    });
}

/// Through any node, while the cluster runs.
fn set_kind(cluster: &Cluster, kind: &str) {
    let node = cluster.running().last().expect("a node");
    let set = node.atoll(&["cluster", "set", "overlay", kind]);
    assert!(set.status.success(), "{}", String::from_utf8_lossy(&set.stderr));
}

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

fn table_names(view: &Value) -> Vec<&str> {
    view["tables"].as_array().into_iter().flatten().filter_map(|table| table["name"].as_str()).collect()
}

/// Waits until a hybrid's super-peers all know each other, and each leaf is attached to three of
/// them, or as many as there are; gives them with their identifiers.
fn wait_centre(cluster: &Cluster) -> BTreeMap<String, String> {
    let mut centre = BTreeMap::new();
    wait_until_nothing_lacks("every super-peer knows all others, and leaves theirs", || {
        let views: Vec<Value> = cluster.running().map(|node| node.json(&["overlay", "show"])).collect();
        let text = |value: &Value| value.as_str().expect("text").to_string();
        let is_super = |view: &Value| table_names(view).contains(&"leaves");
        let supers = views.iter().filter(|view| is_super(view));
        centre = supers.map(|view| (text(&view["seen_by"]), text(&view["identifier"]))).collect();
        let is_right = |view: &Value| {
            let known = table(view, "super-peers");
            let there = known.iter().filter(|node| centre.contains_key(**node)).count();
            let is_whole = match is_super(view) {
                true => there == centre.len() && known.len() == there,
                false => there >= centre.len().min(3),
            };
            view["kind"] == "hybrid" && view["is_member"] == true && is_whole
        };
        let is_whole = centre.len() >= views.len().min(3) && views.iter().all(is_right);
        (!is_whole).then(|| format!("nodes show {views:?}"))
    });
    centre
}

/// By XOR, as identifiers are written.
fn nearest<'a>(centre: &'a BTreeMap<String, String>, identifier: &str) -> &'a str {
    let digits =
        |text: &str| -> Vec<u32> { text.chars().map(|digit| digit.to_digit(16).expect("hex")).collect() };
    let distance = |other: &str| -> Vec<u32> {
        digits(identifier).iter().zip(digits(other)).map(|(one, other)| one ^ other).collect()
    };
    centre.iter().min_by_key(|(_, place)| distance(place)).expect("some").0
}

/// Waits until every running node has the ring's next nodes, and no others, as successors.
fn wait_whole(cluster: &Cluster) {
    let ring = identifiers(cluster);
    let nodes: Vec<&str> = ring.values().map(String::as_str).collect();
    wait_views(cluster, "every node knows its neighbours", |node, view| {
        let place = nodes.iter().position(|other| *other == node.id).expect("it is one of them");
        let after: Vec<&str> = (1..nodes.len()).map(|way| nodes[(place + way) % nodes.len()]).collect();
        view["is_member"] == true
            && table(view, "successors") == after
            && table(view, "predecessor") == after[after.len() - 1..]
    });
}

fn located(node: &NodeProcess, key: &str) -> (String, String) {
    let trace = node.json(&["overlay", "trace", key]);
    assert_eq!(trace["seen_by"], node.id.as_str());
    let responsible = trace["responsible"][0].as_str().expect("a responsible node");
    (trace["identifier"].as_str().expect("an identifier").into(), responsible.into())
}

/// All nodes of a cluster are off at once: each waits for another to be there first.
#[test]
fn a_cluster_that_was_off_finds_together_again() {
    let mut cluster = Cluster::serving(3, |_| Vec::new());
    let settings = cluster.nodes[1].json(&["cluster", "settings"]);
    assert_eq!(settings["settings"]["overlay"], "hybrid", "what a new cluster has");
    wait_centre(&cluster);
    turn_off_and_on(&mut cluster);
    wait_centre(&cluster);
    set_kind(&cluster, "chord");
    wait_whole(&cluster);
    turn_off_and_on(&mut cluster);
    wait_whole(&cluster);
}

fn turn_off_and_on(cluster: &mut Cluster) {
    for node in &mut cluster.nodes {
        node.kill_9();
    }
    std::thread::scope(|scope| {
        for node in &mut cluster.nodes {
            scope.spawn(|| node.restart());
        }
    });
}

/// Of a directory, whether they run or not: the voters of shard 0, of which a young cluster has
/// fewer for a while.
const INDEX_NODES: usize = 3;

/// Waits until every running node plays this kind and has all others in its tables, and nobody
/// else; of a directory, until each is registered with all index nodes that run, and they
/// say so of all others. A node that was stopped may have been an index node, and still be one.
fn wait_acquainted(cluster: &Cluster, kind: &str) {
    wait_until_nothing_lacks("every node knows all others", || {
        let views: Vec<Value> = cluster.running().map(|node| node.json(&["overlay", "show"])).collect();
        let id = |view: &Value| view["seen_by"].as_str().expect("a node").to_string();
        let is_index = |view: &&Value| table_names(view).contains(&"clients");
        let running: BTreeSet<String> = views.iter().map(id).collect();
        let indexes: BTreeSet<String> = views.iter().filter(is_index).map(id).collect();
        let is_acquainted = |view: &&Value| {
            let tables = view["tables"].as_array().expect("tables").iter();
            let rows = tables.filter_map(|table| table["rows"].as_array()).flatten();
            let rows: Vec<(&str, &Value)> =
                rows.map(|row| (row["node"].as_str().expect("a node"), &row["place"])).collect();
            let known: BTreeSet<String> = rows.iter().map(|(node, _)| node.to_string()).collect();
            let others: BTreeSet<String> =
                running.iter().filter(|other| **other != id(view)).cloned().collect();
            let clients = table(view, "clients");
            let running_known: BTreeSet<String> = known.intersection(&running).cloned().collect();
            let knows_all = match (kind, is_index(view)) {
                ("directory", false) => {
                    let is_silent_for_good = |node: &str| !running.contains(node);
                    let mut rows = rows.iter();
                    known.len() >= INDEX_NODES
                        && running_known == indexes
                        && rows.all(|(node, place)| *place == "registered" || is_silent_for_good(node))
                }
                // Not only as fellows, which it knows from the layout.
                ("directory", true) => others.iter().all(|other| clients.contains(&other.as_str())),
                _ => known == others,
            };
            view["is_member"] == true && view["kind"] == kind && knows_all
        };
        let lacking = views.iter().find(|view| !is_acquainted(view));
        lacking.map(|view| format!("node {} shows {view}", id(view)))
    });
}

fn value(node: &NodeProcess, key: &str) -> Option<String> {
    let output = node.atoll(&["overlay", "get", key, "-o", "json"]);
    let values: Value = serde_json::from_slice(&output.stdout).ok()?;
    values["values"][0]["value"].as_str().map(str::to_string)
}

/// How many keep a value: of a directory, the index nodes that run. The ninth node may have been
/// made one while it was there; then there are two.
fn keepers(cluster: &Cluster) -> usize {
    let mut views = cluster.running().map(|node| node.json(&["overlay", "show"])).peekable();
    match views.peek().expect("a node")["kind"] == "directory" {
        true => views.filter(|view| table_names(view).contains(&"clients")).count(),
        false => 3,
    }
}

/// Kills -9 the first of those that keep a value, and reads it through all others at once.
fn check_a_holder_is_killed(cluster: &mut Cluster, key: &str) {
    let keepers = keepers(cluster);
    assert!((2..=3).contains(&keepers), "{keepers} nodes keep what is stored");
    let writer = cluster.running().next().expect("a node");
    let stored = writer.json(&["overlay", "put", key, "kept", "--for", "30m"]);
    let kept_by: Vec<&str> =
        stored["kept_by"].as_array().expect("nodes").iter().flat_map(Value::as_str).collect();
    assert_eq!(kept_by.len(), keepers, "{stored}; afterwards it shows {}", writer.json(&["overlay", "show"]));
    let first = cluster.nodes.iter().position(|node| node.id == kept_by[0]).expect("one of us");
    cluster.nodes[first].kill_9();
    for node in cluster.running() {
        assert_eq!(value(node, key).as_deref(), Some("kept"), "read at {}", node.id);
    }
    cluster.nodes[first].restart();
}

/// Whoever looks at it stops, also when what happens meanwhile fails.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Looks keys up at the first two nodes, one after the other, while something happens; gives how
/// many. None may fail.
fn with_lookups(cluster: &mut Cluster, act: impl FnOnce(&mut Cluster)) -> usize {
    let (has_ended, count) = (AtomicBool::new(false), AtomicUsize::new(0));
    let askers: Vec<_> = (0..2).map(|index| cluster.nodes[index].asker()).collect();
    std::thread::scope(|scope| {
        let ending = Ending(&has_ended);
        for asker in &askers {
            let (has_ended, count) = (&has_ended, &count);
            scope.spawn(move || {
                while !has_ended.load(Ordering::Relaxed) {
                    let key = format!("key {}", count.fetch_add(1, Ordering::Relaxed));
                    let output = asker(&["overlay", "trace", &key]);
                    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
                    assert!(output.status.success(), "{key}: {errors}");
                    // Not for the nodes' sake: the machine has other tests to run.
                    pause();
                }
            });
        }
        act(cluster);
        drop(ending);
    });
    let count = count.into_inner();
    assert!(count > 2, "{count} lookups");
    count
}

/// Each node puts a value, to be found after all that follows.
fn put_values(cluster: &Cluster) {
    for (number, node) in cluster.nodes.iter().enumerate() {
        let stored = node.json(&["overlay", "put", &format!("old {number}"), &format!("value {number}")]);
        assert_eq!(stored["kept_by"].as_array().map(Vec::len), Some(3), "{stored}");
    }
}

fn wait_values(cluster: &Cluster) {
    for (number, node) in cluster.nodes.iter().rev().enumerate() {
        let (key, text) = (format!("old {number}"), format!("value {number}"));
        wait_until("the value has moved", || value(node, &key).as_deref() == Some(text.as_str()));
    }
}

/// A ninth node joins, and leaves in order.
fn come_and_go(cluster: &mut Cluster, wait: impl Fn(&Cluster)) {
    let ninth = cluster.join(&[]);
    wait(cluster);
    assert_eq!(cluster.nodes[ninth].stop(), Some(0));
    cluster.nodes.truncate(ninth);
    wait(cluster);
}

#[test]
fn structured_kinds_agree_on_who_is_responsible_and_outlive_their_keepers() {
    let mut cluster = Cluster::serving(8, |_| Vec::new());
    set_kind(&cluster, "chord");
    wait_whole(&cluster);
    let ring = identifiers(&cluster);
    assert_eq!(ring.len(), 8);
    let mut owners = BTreeSet::new();
    for number in 0..12 {
        let key = format!("key {number}");
        for node in cluster.running() {
            let (identifier, responsible) = located(node, &key);
            assert_eq!(responsible, successor(&ring, &identifier), "{key} asked at {}", node.id);
            owners.insert(responsible);
        }
    }
    // All twelve are one node's in one of six thousand clusters.
    assert!(owners.len() >= 2, "keys are spread: {owners:?}");
    put_values(&cluster);

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
    cluster.nodes[3].restart();
    wait_whole(&cluster);
    check_a_holder_is_killed(&mut cluster, "of chord");
    wait_whole(&cluster);
    assert_eq!(cluster.nodes[5].stop(), Some(0));
    wait_whole(&cluster);
    cluster.nodes[5].restart();
    wait_whole(&cluster);
    let lookups = with_lookups(&mut cluster, |cluster| come_and_go(cluster, wait_whole));
    assert!(lookups > 10, "{lookups} lookups");

    // No frame was refused by anybody.
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

    // A kind that there is not, and those that there are.
    let refused = cluster.nodes[0].atoll(&["cluster", "set", "overlay", "ring"]);
    assert!(!refused.status.success());
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(text.contains("no_such_kind"), "{text}");
    for kind in ["kademlia", "pastry"] {
        with_lookups(&mut cluster, |cluster| {
            set_kind(cluster, kind);
            wait_acquainted(cluster, kind);
            come_and_go(cluster, |cluster| wait_acquainted(cluster, kind));
        });
        let settings = cluster.nodes[2].json(&["cluster", "settings"]);
        assert_eq!(settings["settings"]["overlay"], kind);
        wait_values(&cluster);
        check_a_holder_is_killed(&mut cluster, &format!("of {kind}"));
        wait_acquainted(&cluster, kind);
        check_provided(&cluster, kind);
    }
}

/// What two nodes provide is found by a word, and by its name, until one takes it back.
fn check_provided(cluster: &Cluster, kind: &str) {
    let (photos, plans) = (format!("Holiday photos of {kind}"), format!("Holiday plans of {kind}"));
    cluster.nodes[1].json(&["overlay", "provide", &photos]);
    cluster.nodes[2].json(&["overlay", "provide", &plans]);
    let found = cluster.nodes[6].json(&["overlay", "find", "HOLIDAY", "photos", kind]);
    assert_eq!(found["hits"].as_array().map(Vec::len), Some(1), "{found}");
    assert_eq!(found["hits"][0]["provider"], cluster.nodes[1].id.as_str());
    let providers = cluster.nodes[7].json(&["overlay", "providers", &plans]);
    assert_eq!(providers["providers"][0]["node"], cluster.nodes[2].id.as_str(), "{providers}");
    let stopped = cluster.nodes[2].json(&["overlay", "provide", &plans, "--stop"]);
    assert_eq!(stopped["was_provided"], true);
}

#[test]
fn a_directory_a_hybrid_and_networks_without_structure_outlive_their_keepers() {
    let mut cluster = Cluster::serving(8, |_| Vec::new());
    set_kind(&cluster, "chord");
    wait_whole(&cluster);
    put_values(&cluster);
    with_lookups(&mut cluster, |cluster| {
        set_kind(cluster, "directory");
        wait_acquainted(cluster, "directory");
        come_and_go(cluster, |cluster| wait_acquainted(cluster, "directory"));
        // An index node, too.
        let view = |index: &usize| cluster.nodes[*index].json(&["overlay", "show"]);
        let index = (2..8).find(|index| table_names(&view(index)).contains(&"clients"));
        let index = index.expect("three of eight are, two of which may be the first two");
        assert_eq!(cluster.nodes[index].stop(), Some(0));
        cluster.nodes[index].restart();
        wait_acquainted(cluster, "directory");
    });
    wait_values(&cluster);
    check_a_holder_is_killed(&mut cluster, "of directory");
    wait_acquainted(&cluster, "directory");
    check_provided(&cluster, "directory");

    with_lookups(&mut cluster, |cluster| {
        set_kind(cluster, "hybrid");
        wait_centre(cluster);
        come_and_go(cluster, |cluster| drop(wait_centre(cluster)));
    });
    let centre = wait_centre(&cluster);
    for node in cluster.running() {
        let (identifier, responsible) = located(node, "key 1");
        assert_eq!(responsible, nearest(&centre, &identifier), "asked at {}", node.id);
    }
    wait_values(&cluster);
    check_a_holder_is_killed(&mut cluster, "of hybrid");
    wait_centre(&cluster);
    check_provided(&cluster, "hybrid");

    // Without structure: nobody is responsible, and what somebody has read is read from there.
    for kind in ["walk", "flood"] {
        set_kind(&cluster, kind);
        wait_views(&cluster, "every node has three neighbours", |_, view| {
            view["kind"] == kind && view["is_member"] == true && table(view, "neighbours").len() >= 3
        });
        let refused = cluster.nodes[0].atoll(&["overlay", "trace", "key"]);
        assert!(String::from_utf8_lossy(&refused.stderr).contains("not_offered"));
        check_provided(&cluster, kind);
        let key = format!("of {kind}");
        let stored = cluster.nodes[0].json(&["overlay", "put", &key, "kept"]);
        assert_eq!(stored["kept_by"][0], cluster.nodes[0].id.as_str());
        assert_eq!(value(&cluster.nodes[4], &key).as_deref(), Some("kept"));
        cluster.nodes[0].kill_9();
        assert_eq!(value(&cluster.nodes[6], &key).as_deref(), Some("kept"));
        cluster.nodes[0].restart();
    }
    let missing = cluster.nodes[0].atoll(&["overlay", "get", "nothing"]);
    assert!(!missing.status.success() && String::from_utf8_lossy(&missing.stderr).contains("no_such_value"));
}

/// The same nodes, keys and askers in processes and in the simulation. With 16 as in the docs it
/// takes three times as long.
#[test]
fn eight_processes_need_the_hops_that_the_simulation_says() {
    let arguments = ["lab", "run", "lookup", "--real", "--nodes", "8", "--set", "lookups=60", "-o", "json"];
    let output = atoll().args(arguments).output().expect("the built binary starts");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let rows = report["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 8, "{report}");
    for pair in rows.chunks(2) {
        let [real, simulated] = pair else { unreachable!("eight are four pairs") };
        assert_eq!((&real["network"], &simulated["network"]), (&"processes".into(), &"simulated".into()));
        assert_eq!(real["overlay"], simulated["overlay"]);
        assert_eq!(real["lookups_failed_share"], 0.0, "{report}");
        let hops = |row: &Value| row["hops_mean"].as_f64().expect("a number");
        assert!((hops(real) / hops(simulated) - 1.0).abs() <= 0.05, "{report}");
    }
}
