//! `atoll lab`: what it prints, writes and refuses. What is measured is tested in `atoll-lab`.

use std::process::Output;

use serde_json::Value;

use crate::harness::atoll;

fn lab(arguments: &[&str]) -> Output {
    atoll().arg("lab").args(arguments).output().unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn the_same_seed_gives_the_same_bytes_in_another_process() {
    let folder = tempfile::tempdir().unwrap();
    let run = |name: &str, seed: &str| {
        let page = folder.path().join(name);
        let output = lab(&[
            "run",
            "all",
            "--nodes",
            "60",
            "--overlay",
            "chord",
            "--seed",
            seed,
            "--set",
            "lookups=50",
            "-o",
            "json",
            "--report",
            page.to_str().unwrap(),
        ]);
        assert!(output.status.success(), "{}", stderr(&output));
        (output.stdout, std::fs::read(page).unwrap())
    };
    let [first, again, other] = [("a", "7"), ("b", "7"), ("c", "8")].map(|(name, seed)| run(name, seed));
    assert!(first == again, "one seed, two results");
    assert!(first.0 != other.0 && first.1 != other.1, "two seeds, one result");
}

#[test]
fn json_has_experiment_seed_parameters_and_rows() {
    let output = lab(&["run", "lookup", "--nodes", "40,80", "--seed", "5", "-o", "json"]);
    assert!(output.status.success(), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&report["experiment"], &report["seed"]), (&"lookup".into(), &5.into()));
    assert_eq!(report["parameters"]["nodes"], serde_json::json!([40, 80]));
    let rows = report["rows"].as_array().unwrap();
    assert!(
        rows.iter().any(|row| row["overlay"] == "chord" && row["nodes"] == 80 && row["hops_mean"].is_f64())
    );
    // Nothing failed and nothing was repaired: not measured, so not there.
    assert!(rows.iter().all(|row| row.get("failed_share").is_none() && row.get("repair_s").is_none()));
    assert!(!stderr(&output).contains('%'), "no progress where nobody watches");
}

#[test]
fn experiments_and_their_parameters_are_listed() {
    let listed: Value = serde_json::from_slice(&lab(&["list", "-o", "json"]).stdout).unwrap();
    let names: Vec<&str> =
        listed.as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert!(names.contains(&"lookup") && names.contains(&"failure"), "{names:?}");
    for name in names {
        let parameters: Value = serde_json::from_slice(&lab(&["list", name, "-o", "json"]).stdout).unwrap();
        assert!(
            parameters.as_array().unwrap().iter().any(|one| one["name"] == "nodes"),
            "{name}: {parameters}"
        );
    }
}

#[test]
fn a_preset_gives_its_parameters_and_flags_come_on_top() {
    let run =
        ["run", "lookup", "--preset", "kademlia", "--nodes", "30", "--set", "kademlia_alpha=1", "-o", "json"];
    let output = lab(&run);
    assert!(output.status.success(), "{}", stderr(&output));
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    let parameters = &report["parameters"];
    assert_eq!((&parameters["kademlia_k"], &parameters["kademlia_alpha"]), (&20.into(), &1.into()));
    assert!(report["rows"].as_array().unwrap().iter().all(|row| row["overlay"] == "kademlia"));
    let listed: Value = serde_json::from_slice(&lab(&["presets", "-o", "json"]).stdout).unwrap();
    assert!(listed.as_array().unwrap().iter().any(|preset| preset["name"] == "kademlia"), "{listed}");
}

#[test]
fn what_cannot_be_run_is_refused_with_what_to_do() {
    for (arguments, said, hint) in [
        (&["run", "lokup"][..], "no experiment lokup", "hint: atoll lab list"),
        (&["run", "lookup", "--set", "lookup=5"], "no parameter lookup", "did you mean lookups?"),
        (&["run", "lookup", "--overlay", "cord"], "overlays can't be cord", "hint: atoll lab list lookup"),
        (
            &["run", "failure", "--set", "failed_shares=0.5,2"],
            "a share, 0 to below 1",
            "hint: atoll lab list",
        ),
        (
            &["run", "all", "--set", "nothing=5"],
            "no experiment has a parameter nothing",
            "hint: atoll lab list",
        ),
    ] {
        let output = lab(arguments);
        assert_eq!(output.status.code(), Some(1), "{arguments:?}");
        let told = stderr(&output);
        assert!(told.contains(said) && told.contains(hint), "{told}");
    }
    let output = lab(&["run", "lookup", "--nodes", "5", "--report", "/nowhere/at/all.html"]);
    assert_eq!(output.status.code(), Some(3), "{}", stderr(&output));
}
