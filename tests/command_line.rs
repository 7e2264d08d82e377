//! What the commands print, how they fail, and how a node starts.

use std::{
    process::Output,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use crate::harness::{ACCESS_KEY, Cluster, NodeProcess, SECRET_KEY, atoll, boto3, wait_until};

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_ticket_joins_as_often_as_it_says_and_every_change_of_it_is_refused() {
    let mut cluster = Cluster::start(1);
    let ticket =
        cluster.nodes[0].json(&["ticket", "create", "--uses", "1"])["ticket"].as_str().unwrap().to_string();
    let folder = cluster.path("joiner");
    let start = |ticket: &str, folder: &std::path::Path| {
        atoll()
            .args(["up", "--join", ticket, "--data"])
            .arg(folder)
            .args(["--s3-addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0", "--node-addr", "127.0.0.1:0"])
            .output()
            .unwrap()
    };
    let mistyped =
        start(&ticket.replace(&ticket[40..41], if &ticket[40..41] == "a" { "b" } else { "a" }), &folder);
    assert_eq!(mistyped.status.code(), Some(3));
    assert!(stderr(&mistyped).contains("not a ticket"), "{}", stderr(&mistyped));

    let original = cluster.nodes[0].ticket.replace(ticket);
    cluster.join(&[]);
    let used_up = cluster.nodes[0].ticket.clone().unwrap();
    let refused = start(&used_up, &cluster.path("late"));
    assert!(!refused.status.success());
    assert!(
        stderr(&refused).contains("used up") && stderr(&refused).contains("atoll ticket create"),
        "{}",
        stderr(&refused)
    );
    wait_until("the refusal is in the audit trail", || {
        let trail = cluster.nodes[0].json(&["audit", "list"]).to_string();
        trail.contains("node:join") && trail.contains("the ticket is used up")
    });
    let brief = cluster.nodes[0].json(&["ticket", "create", "--for", "1s"]);
    let expires = UNIX_EPOCH + Duration::from_millis(brief["expires_millis"].as_u64().unwrap());
    wait_until("the ticket expires", || SystemTime::now() > expires);
    let late = start(brief["ticket"].as_str().unwrap(), &cluster.path("later"));
    assert!(!late.status.success());
    // It is forgotten some time after it expired.
    assert!(stderr(&late).contains("expired"), "{}", stderr(&late));
    cluster.nodes[0].ticket = original;
    cluster.wait_settled();
    assert_eq!(cluster.nodes[1].status()["nodes"].as_array().unwrap().len(), 2);
}

#[test]
fn two_nodes_say_that_they_are_not_yet_fault_tolerant() {
    let cluster = Cluster::start(2);
    let status = cluster.nodes[0].status();
    let notes = status["notes"].to_string();
    assert!(notes.contains("not yet fault tolerant: add a third"), "{notes}");
}

#[test]
fn a_folder_or_an_address_in_use_is_refused_with_what_to_do() {
    let cluster = Cluster::start(1);
    let node = &cluster.nodes[0];
    let start = |arguments: &[&str]| {
        let others =
            ["--s3-addr", "127.0.0.1:0", "--admin-addr", "127.0.0.1:0", "--node-addr", "127.0.0.1:0"];
        atoll().arg("up").args(others).args(arguments).output().unwrap()
    };
    let same_folder = start(&["--data", node.data.to_str().unwrap()]);
    assert_eq!(same_folder.status.code(), Some(3));
    assert!(
        stderr(&same_folder).contains("hint: name another folder with --data"),
        "{}",
        stderr(&same_folder)
    );
    let other = cluster.path("other");
    let taken = node.s3.trim_start_matches("http://");
    let output = atoll()
        .args([
            "up",
            "--s3-addr",
            taken,
            "--admin-addr",
            "127.0.0.1:0",
            "--node-addr",
            "127.0.0.1:0",
            "--data",
        ])
        .arg(other)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("--s3-addr"), "{}", stderr(&output));
}

#[test]
fn settings_come_from_flags_over_environment_over_file() {
    let folder = tempfile::TempDir::new().unwrap();
    std::fs::write(folder.path().join("atoll.toml"), "zone = \"from-file\"\ncapacity = \"5GiB\"\n").unwrap();
    let settings = folder.path().join("atoll.toml");
    let node = NodeProcess::start(
        &folder.path().join("node"),
        &["--settings", settings.to_str().unwrap(), "--zone", "from-flag"],
    );
    let status = node.status();
    assert_eq!(status["nodes"][0]["zone"], "from-flag");
    assert_eq!(status["nodes"][0]["capacity_bytes"], 5u64 << 30);

    std::fs::write(&settings, "zoen = \"typo\"\n").unwrap();
    let output = atoll()
        .args(["up", "--settings"])
        .arg(&settings)
        .arg("--data")
        .arg(folder.path().join("x"))
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(3));
    assert!(stderr(&output).contains("zoen"), "{}", stderr(&output));
}

#[test]
fn without_a_node_or_a_token_a_command_says_what_to_do() {
    let nobody = atoll().args(["--admin", "http://127.0.0.1:1", "status"]).output().unwrap();
    assert_eq!(nobody.status.code(), Some(4));
    assert!(stderr(&nobody).contains("hint: start one with `atoll up`"), "{}", stderr(&nobody));

    let cluster = Cluster::start(1);
    let node = &cluster.nodes[0];
    let stranger =
        atoll().args(["--admin", &node.admin, "--data", "/nonexistent", "status"]).output().unwrap();
    assert_eq!(stranger.status.code(), Some(3));
    assert!(stderr(&stranger).contains("ATOLL_TOKEN"), "{}", stderr(&stranger));
    let wrong =
        atoll().args(["--admin", &node.admin, "status"]).env("ATOLL_TOKEN", "wrong").output().unwrap();
    assert_eq!(wrong.status.code(), Some(3));
    let token = std::fs::read_to_string(node.data.join("admin-token")).unwrap();
    let right =
        atoll().args(["--admin", &node.admin, "status"]).env("ATOLL_TOKEN", token.trim()).output().unwrap();
    assert!(right.status.success(), "{}", stderr(&right));
}

#[test]
fn health_readiness_metrics_and_the_description_need_no_token() {
    let cluster = Cluster::start(1);
    let get = |path: &str| {
        let url = format!("{}{path}", cluster.nodes[0].admin);
        String::from_utf8(std::process::Command::new("curl").args(["-sf", &url]).output().unwrap().stdout)
            .unwrap()
    };
    assert_eq!(get("/health"), "ok\n");
    assert_eq!(get("/ready"), "ready\n");
    assert!(get("/metrics").contains("atoll_"), "{}", get("/metrics"));
    assert!(get("/openapi.json").contains("/v1/status"));
    assert_eq!(get("/v1/status"), "");
}

#[test]
fn dev_starts_three_nodes_and_stops_them_all() {
    let folder = tempfile::TempDir::new().unwrap();
    // Ports that other tests, which take any free one, rarely have.
    let mut dev = atoll()
        .args(["dev", "--nodes", "3", "--port", "17310", "--root-access-key", ACCESS_KEY])
        .args(["--root-secret-key", SECRET_KEY, "--data"])
        .arg(folder.path())
        .spawn()
        .unwrap();
    let first = folder.path().join("node-1");
    wait_until("three nodes are there", || {
        let output = atoll()
            .args(["--admin", "http://127.0.0.1:17311", "--data"])
            .arg(&first)
            .args(["status", "-o", "json"])
            .output()
            .unwrap();
        serde_json::from_slice::<serde_json::Value>(&output.stdout).is_ok_and(|status| {
            status["nodes"].as_array().is_some_and(|nodes| nodes.len() == 3) && status["health"] == "healthy"
        })
    });
    boto3("http://127.0.0.1:17330", "s3.create_bucket(Bucket='bucket')", &[]);
    std::process::Command::new("kill").args(["-INT", &dev.id().to_string()]).status().unwrap();
    assert_eq!(dev.wait().unwrap().code(), Some(0));
    let output = atoll().args(["--admin", "http://127.0.0.1:17311", "status"]).output().unwrap();
    assert_eq!(output.status.code(), Some(4), "the nodes still run");
}

#[test]
fn a_simulation_prints_its_verdict_and_what_it_cannot_read_it_says() {
    let run = || {
        let how = ["simulate", "--seed", "0x2a", "--minutes", "0.05", "--nodes", "3", "--calm", "-o", "json"];
        atoll().args(how).output().unwrap()
    };
    let output = run();
    assert!(output.status.success(), "{}", stderr(&output));
    assert_eq!(stderr(&output), "seed 0x2a\n");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((report["seed"].as_str(), report["nodes"].as_u64()), (Some("0x2a"), Some(3)));
    assert!(report["operations"].as_u64().unwrap() > 100, "{report}");
    assert!(report["checks"].as_array().unwrap().iter().all(|check| check["failure"].is_null()), "{report}");
    let again: serde_json::Value = serde_json::from_slice(&run().stdout).unwrap();
    assert_eq!(report["trace"], again["trace"], "another process runs the same");

    for (arguments, why) in [
        (["--seed", "tuesday"], "a seed is a number of 64 bits, such as 0x2a or 42"),
        (["--nodes", "0"], "0 is not in 1..=50"),
        (["--minutes", "-1"], "more than 0"),
        (["--soak", "soon"], "a number of hours"),
    ] {
        let arguments = [&format!("{}={}", arguments[0], arguments[1])];
        let output = atoll().arg("simulate").args(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(2));
        assert!(stderr(&output).contains(why), "{}", stderr(&output));
    }
}
