//! The overlay between real processes.

use std::{
    collections::{BTreeMap, BTreeSet},
    process::Output,
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
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
/// them, or as many as there are.
fn wait_centre(cluster: &Cluster) {
    wait_until_nothing_lacks("every super-peer knows all others, and leaves theirs", || {
        let views: Vec<Value> = cluster.running().map(|node| node.json(&["overlay", "show"])).collect();
        let text = |value: &Value| value.as_str().expect("text").to_string();
        let is_super = |view: &Value| table_names(view).contains(&"leaves");
        let supers = views.iter().filter(|view| is_super(view));
        let centre: BTreeSet<String> = supers.map(|view| text(&view["seen_by"])).collect();
        let is_right = |view: &Value| {
            let known = table(view, "super-peers");
            let there = known.iter().filter(|node| centre.contains(**node)).count();
            let is_whole = match is_super(view) {
                true => there == centre.len() && known.len() == there,
                false => there >= centre.len().min(3),
            };
            view["kind"] == "hybrid" && view["is_member"] == true && is_whole
        };
        let is_whole = centre.len() >= views.len().min(3) && views.iter().all(is_right);
        (!is_whole).then(|| format!("nodes show {views:?}"))
    });
}

/// By XOR, as identifiers are written.
fn nearest<'a>(ring: &'a BTreeMap<String, String>, identifier: &str) -> &'a str {
    let digits =
        |text: &str| -> Vec<u32> { text.chars().map(|digit| digit.to_digit(16).expect("hex")).collect() };
    let distance = |other: &str| -> Vec<u32> {
        digits(identifier).iter().zip(digits(other)).map(|(one, other)| one ^ other).collect()
    };
    ring.iter().min_by_key(|(place, _)| distance(place)).expect("some").1
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

/// What is a right answer to a lookup at the time.
enum Right {
    /// The cluster is on its way from one kind to another: some member that both know, or the refusal
    /// of a kind that locates nothing, if one of them is such; and what is kept may not be found yet.
    Changing { may_refuse: bool },
    /// Nobody is responsible for a key: the kind says so.
    Refused,
    /// Who is responsible in this kind, by one of these: nodes by their identifiers, of a kind with a
    /// centre those in it. There are two while one comes or goes; whose name is not known yet is
    /// in none of them.
    Owners { kind: &'static str, rings: Vec<BTreeMap<String, String>>, newcomer_too: bool },
}

impl Right {
    /// No kind before it that locates nothing is changed to one that does.
    fn changing_to(kind: &str) -> Self {
        Right::Changing { may_refuse: matches!(kind, "walk" | "flood") }
    }

    fn allows(&self, key: &str, outcome: &Result<(String, String), String>) -> bool {
        match (self, outcome) {
            (Right::Changing { .. }, Ok(_)) => true,
            (Right::Changing { may_refuse: true } | Right::Refused, Err(errors)) => {
                errors.contains("not_offered")
            }
            (Right::Changing { may_refuse: false }, Err(_)) => false,
            (Right::Refused, Ok(_)) => false,
            (Right::Owners { .. }, Err(_)) => false,
            (Right::Owners { kind, rings, newcomer_too }, Ok((identifier, owner))) => {
                let is_owner = |ring: &BTreeMap<String, String>| match *kind {
                    "chord" => successor(ring, identifier) == owner,
                    "kademlia" | "hybrid" => nearest(ring, identifier) == owner,
                    "pastry" => numerically_nearest(ring, identifier) == owner,
                    // In an order of its own for each key.
                    "directory" => ring.values().any(|node| node == owner),
                    _ => unreachable!("{kind} says that {key} is {owner}'s"),
                };
                let is_newcomer = rings.iter().all(|ring| ring.values().all(|node| node != owner));
                rings.iter().any(is_owner) || (*newcomer_too && is_newcomer)
            }
        }
    }
}

/// By the shorter way round the ring.
fn numerically_nearest<'a>(ring: &'a BTreeMap<String, String>, identifier: &str) -> &'a str {
    // 120 bits are enough to tell a dozen nodes apart.
    let number = |text: &str| u128::from_str_radix(&text[..30], 16).expect("hex");
    let distance = |place: &str| {
        let way = number(place).abs_diff(number(identifier));
        way.min((1 << 120) - way)
    };
    ring.iter().min_by_key(|(place, _)| distance(place)).expect("some node").1
}

/// What is asked while something happens to a cluster, and what has to be answered.
struct Load {
    /// The last is now's.
    rights: Mutex<Vec<Right>>,
    lookups: AtomicUsize,
    reads: AtomicUsize,
    has_ended: AtomicBool,
}

/// Answers of each sort that are looked at before something is believed.
const ANSWERS: usize = 6;

impl Load {
    fn expect(&self, right: Right) {
        self.rights.lock().expect("nobody panics holding it").push(right);
    }

    /// From now on this is right, and some answers are looked at.
    fn settled(&self, right: Right) {
        self.expect(right);
        let counts = || [&self.lookups, &self.reads].map(|count| count.load(Ordering::Relaxed));
        let before = counts();
        let enough = || counts().iter().zip(before).all(|(now, before)| *now >= before + ANSWERS);
        wait_until("lookups and reads are answered", || self.has_ended.load(Ordering::Relaxed) || enough());
    }

    /// Asks, and gives the answer with whether one of what was right since then allows it.
    fn check<T>(&self, ask: impl FnOnce() -> T, allows: impl Fn(&Right, &T) -> bool) -> (T, bool) {
        let count = || self.rights.lock().expect("nobody panics holding it").len();
        let first = count().saturating_sub(1);
        let answer = ask();
        let rights = self.rights.lock().expect("nobody panics holding it");
        let is_right = rights[first..].iter().any(|right| allows(right, &answer));
        (answer, is_right)
    }

    fn look_up(&self, ask: &dyn Fn(&[&str]) -> Output) {
        let key = format!("key {}", self.lookups.load(Ordering::Relaxed));
        let ask = || {
            let output = ask(&["overlay", "trace", &key, "-o", "json"]);
            let trace: Option<Value> = serde_json::from_slice(&output.stdout).ok();
            let text = |value: &Value| value.as_str().expect("text").to_string();
            let found = trace.map(|trace| (text(&trace["identifier"]), text(&trace["responsible"][0])));
            found.ok_or_else(|| String::from_utf8_lossy(&output.stderr).into_owned())
        };
        let (outcome, is_right) = self.check(ask, |right, outcome| right.allows(&key, outcome));
        assert!(is_right, "{key}: {outcome:?}");
        self.lookups.fetch_add(1, Ordering::Relaxed);
    }

    /// Of what [`put_values`] put.
    fn read(&self, ask: &dyn Fn(&[&str]) -> Output) {
        let number = self.reads.load(Ordering::Relaxed) % 8;
        let (key, value) = (format!("old {number}"), format!("value {number}"));
        let ask = || ask(&["overlay", "get", &key, "-o", "json"]);
        let (output, is_right) = self.check(ask, |right, output: &Output| {
            let errors = String::from_utf8_lossy(&output.stderr);
            let values: Option<Value> = serde_json::from_slice(&output.stdout).ok();
            match values {
                Some(values) => values["values"][0]["value"] == value.as_str(),
                None => matches!(right, Right::Changing { .. }) && errors.contains("no_such_value"),
            }
        });
        assert!(is_right, "{key}: {}", String::from_utf8_lossy(&output.stderr));
        self.reads.fetch_add(1, Ordering::Relaxed);
    }
}

/// Looks keys up at the first node and reads values at the second while something happens, one
/// after the other. None may fail, or be answered wrongly.
fn with_load(cluster: &mut Cluster, right: Right, act: impl FnOnce(&mut Cluster, &Load)) {
    let count = AtomicUsize::default;
    let load = Load {
        rights: Mutex::new(vec![right]),
        lookups: count(),
        reads: count(),
        has_ended: AtomicBool::new(false),
    };
    let askers: Vec<_> = (0..2).map(|index| cluster.nodes[index].asker()).collect();
    std::thread::scope(|scope| {
        let ending = Ending(&load.has_ended);
        for (asker, is_reader) in askers.iter().zip([false, true]) {
            let load = &load;
            scope.spawn(move || {
                // An asker that fails ends what waits for its answers.
                let failing = Ending(&load.has_ended);
                while !load.has_ended.load(Ordering::Relaxed) {
                    if is_reader {
                        load.read(asker)
                    } else {
                        load.look_up(asker)
                    }
                    // Not for the nodes' sake: the machine has other tests to run.
                    pause();
                }
                std::mem::forget(failing);
            });
        }
        act(cluster, &load);
        drop(ending);
    });
}

/// Who divides the keys among themselves, by their identifiers.
fn owners(cluster: &Cluster, kind: &'static str) -> BTreeMap<String, String> {
    let of_centre = match kind {
        "directory" => Some("clients"),
        "hybrid" => Some("leaves"),
        _ => None,
    };
    let text = |value: &Value| value.as_str().expect("text").to_string();
    let views = cluster.running().map(|node| node.json(&["overlay", "show"]));
    let owners = views.filter(|view| of_centre.is_none_or(|table| table_names(view).contains(&table)));
    owners.map(|view| (text(&view["identifier"]), text(&view["seen_by"]))).collect()
}

fn at_rest(cluster: &Cluster, kind: &'static str) -> Right {
    Right::Owners { kind, rings: vec![owners(cluster, kind)], newcomer_too: false }
}

fn wait_kind(cluster: &Cluster, kind: &'static str) {
    match kind {
        "chord" => wait_whole(cluster),
        "hybrid" => wait_centre(cluster),
        "walk" | "flood" => wait_views(cluster, "every node has three neighbours", |_, view| {
            view["kind"] == kind && view["is_member"] == true && table(view, "neighbours").len() >= 3
        }),
        _ => wait_acquainted(cluster, kind),
    }
}

/// The cluster changes its kind under load, until what was kept before is found, and keys are
/// whose they should be.
fn change_kind(cluster: &Cluster, load: &Load, kind: &'static str) {
    load.expect(Right::changing_to(kind));
    set_kind(cluster, kind);
    wait_kind(cluster, kind);
    wait_values(cluster);
    load.settled(match kind {
        "walk" | "flood" => Right::Refused,
        _ => at_rest(cluster, kind),
    });
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
fn come_and_go(cluster: &mut Cluster, load: &Load, kind: &'static str) {
    let without = owners(cluster, kind);
    load.expect(Right::Owners { kind, rings: vec![without.clone()], newcomer_too: true });
    let ninth = cluster.join(&[]);
    wait_kind(cluster, kind);
    load.settled(at_rest(cluster, kind));
    let rings = vec![without, owners(cluster, kind)];
    load.expect(Right::Owners { kind, rings, newcomer_too: true });
    assert_eq!(cluster.nodes[ninth].stop(), Some(0));
    cluster.nodes.truncate(ninth);
    wait_kind(cluster, kind);
    load.settled(at_rest(cluster, kind));
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
    let right = at_rest(&cluster, "chord");
    with_load(&mut cluster, right, |cluster, load| come_and_go(cluster, load, "chord"));

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
        with_load(&mut cluster, Right::changing_to(kind), |cluster, load| {
            change_kind(cluster, load, kind);
            come_and_go(cluster, load, kind);
        });
        let settings = cluster.nodes[2].json(&["cluster", "settings"]);
        assert_eq!(settings["settings"]["overlay"], kind);
        wait_values(&cluster);
        check_a_holder_is_killed(&mut cluster, &format!("of {kind}"));
        wait_acquainted(&cluster, kind);
        check_provided(&cluster, kind);
    }
    let right = Right::changing_to("chord");
    with_load(&mut cluster, right, |cluster, load| change_kind(cluster, load, "chord"));
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
    with_load(&mut cluster, Right::changing_to("directory"), |cluster, load| {
        change_kind(cluster, load, "directory");
        // An index node, before a ninth may be one and leave two, both of which may be asked.
        let view = |index: &usize| cluster.nodes[*index].json(&["overlay", "show"]);
        let index = (2..8).find(|index| table_names(&view(index)).contains(&"clients"));
        let index = index.expect("three of eight are, two of which may be the first two");
        assert_eq!(cluster.nodes[index].stop(), Some(0));
        cluster.nodes[index].restart();
        wait_kind(cluster, "directory");
        load.settled(at_rest(cluster, "directory"));
        come_and_go(cluster, load, "directory");
    });
    wait_values(&cluster);
    check_a_holder_is_killed(&mut cluster, "of directory");
    wait_acquainted(&cluster, "directory");
    check_provided(&cluster, "directory");

    with_load(&mut cluster, Right::changing_to("hybrid"), |cluster, load| {
        change_kind(cluster, load, "hybrid");
        come_and_go(cluster, load, "hybrid");
    });
    let centre = owners(&cluster, "hybrid");
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
        let right = Right::changing_to(kind);
        with_load(&mut cluster, right, |cluster, load| change_kind(cluster, load, kind));
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

/// The same nodes, keys and askers in processes and in the simulation, with tables so small that
/// most lookups go through two or three nodes.
#[test]
fn twelve_processes_need_the_hops_that_the_simulation_says() {
    let arguments = ["lab", "run", "lookup", "--real", "--nodes", "12", "--set", "lookups=256", "-o", "json"];
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
        // A directory's lookup is one question.
        assert!(real["overlay"] == "directory" || real["hops_p50"].as_u64() >= Some(2), "{report}");
        assert!(real["overlay"] == "directory" || real["hops_p99"].as_u64() >= Some(3), "{report}");
    }
}
