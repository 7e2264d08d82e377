//! The audit trail, as operators meet it: what is in it, and that it can't be changed
//! unnoticed, neither in the cluster nor in an export.

use serde_json::Value;

use crate::harness::{Cluster, NodeProcess, boto3, wait_until};

fn lines(path: &std::path::Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn write(path: &std::path::Path, lines: &[Value]) {
    let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
    std::fs::write(path, text).unwrap();
}

/// What `atoll audit verify` says, and its exit code.
fn verified(node: &NodeProcess, arguments: &[&str]) -> (Option<i32>, String) {
    let output = node.atoll(&[&["audit", "verify"], arguments].concat());
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8_lossy(&text).into_owned())
}

/// The same, and whether it found the trail whole with all its witnesses.
fn verify(node: &NodeProcess, arguments: &[&str]) -> (bool, String) {
    let (code, text) = verified(node, arguments);
    (code == Some(0), text)
}

#[test]
fn the_trail_says_who_did_what_and_shows_whatever_is_done_to_it() {
    let mut cluster = Cluster::serving(2, |_| Vec::new());
    let [first, second] = &cluster.nodes[..] else { panic!("two nodes") };
    first.json(&["user", "create", "ann"]);
    let key = first.json(&["key", "create", "--user", "ann"]);
    for act in [
        &["cluster", "set", "overlay", "kademlia"][..],
        &["bucket", "create", "plans", "--owner", "root"],
        &["bucket", "grant", "--user", "ann", "plans", "read"],
    ] {
        let done = first.atoll(act);
        assert!(done.status.success(), "{act:?}: {}", String::from_utf8_lossy(&done.stderr));
    }
    boto3(
        &second.s3,
        r#"
import urllib.request, urllib.error
key = json.loads(sys.argv[1])
s3.create_bucket(Bucket='roots')
ann = boto3.client('s3', endpoint_url=endpoint, aws_access_key_id=key['access_key'], aws_secret_access_key=key['secret_key'])
assert code_of(lambda: ann.get_object(Bucket='roots', Key='secret/plan')) == 'AccessDenied'
guess = boto3.client('s3', endpoint_url=endpoint, aws_access_key_id=key['access_key'], aws_secret_access_key='guess')
assert code_of(lambda: guess.list_buckets()) == 'SignatureDoesNotMatch'
nobody = boto3.client('s3', endpoint_url=endpoint, aws_access_key_id='NOBODY', aws_secret_access_key='guess')
assert code_of(lambda: nobody.list_buckets()) == 'InvalidAccessKeyId'
try:
    urllib.request.urlopen(endpoint + '/roots/k'); assert False
except urllib.error.HTTPError as error:
    assert error.code == 403
"#,
        &[&key.to_string()],
    );
    let find = |who: &str, what: &str, on: &str, rule: &str| {
        let links = first.json(&["audit", "list"]);
        let entries = links.as_array().unwrap().iter().flat_map(|link| link["entries"].as_array().unwrap());
        let has = |entry: &Value, field: &str, text: &str| entry[field].as_str().unwrap().contains(text);
        entries
            .filter(|entry| {
                has(entry, "who", who)
                    && has(entry, "what", what)
                    && has(entry, "on", on)
                    && has(entry, "rule", rule)
                    && (has(entry, "from", "127.0.0.1") || what.starts_with("node:"))
            })
            .count()
    };
    let access_key = key["access_key"].as_str().unwrap();
    for (who, what, on, rule) in [
        ("operator", "admin:POST /v1/users", r#""name":"ann""#, "admin token"),
        ("operator", "admin:POST /v1/keys", r#""user":"ann""#, "admin token"),
        ("operator", "admin:PUT /v1/settings/{name}", r#"overlay {"value":"kademlia"}"#, "admin token"),
        (
            "operator",
            "admin:POST /v1/buckets/{bucket}/grant",
            r#"plans/grant {"rights":["read"],"user":"ann"}"#,
            "admin token",
        ),
        ("user root", "s3:CreateBucket", "roots", "the user may create buckets"),
        ("user ann, key", "s3:GetObject", "roots/secret/plan", "no rule allows it"),
        (&format!("key {access_key}, not proven"), "s3:GET", "", "SignatureDoesNotMatch"),
        ("key NOBODY, not proven", "s3:GET", "", "InvalidAccessKeyId"),
        ("anonymous", "s3:GetObject", "roots/k", "no rule allows it"),
        ("ticket", "node:join", second.id.as_str(), "the ticket"),
    ] {
        wait_until(&format!("{who} {what} is in the trail"), || find(who, what, on, rule) == 1);
    }
    let secret = key["secret_key"].as_str().unwrap();
    assert!(!first.json(&["audit", "list"]).to_string().contains(secret));
    // Both nodes have seen it all.
    let all_seen = || {
        let (whole, text) = verify(first, &["-o", "json"]);
        let Ok(report) = serde_json::from_str::<Value>(&text) else { return false };
        let seen = report["witnesses"].as_array().unwrap();
        assert_eq!(report["signers"].as_array().unwrap().len(), 2, "{report}");
        whole && seen.len() == 2 && seen.iter().all(|seen| seen["links"] == report["links"])
    };
    wait_until("both nodes are witnesses of the whole trail", all_seen);

    let export = cluster.path("export");
    let file = export.to_str().unwrap();
    assert!(first.atoll(&["audit", "export", "--to", file]).status.success());
    // Offline from here on.
    let (whole, text) = verify(first, &[file]);
    assert!(whole && text.contains("the trail is whole"), "{text}");
    let original = lines(&export);
    let first_link = original.iter().position(|line| line.get("link").is_some()).unwrap();
    assert_eq!(first_link, 3, "a header and two witnesses");
    let tampered = cluster.path("tampered");
    let broken = |what: &str, lines: &[Value], expected: &str| {
        write(&tampered, lines);
        let (code, text) = verified(first, &[tampered.to_str().unwrap()]);
        assert!(code == Some(1) && text.contains(expected), "{what}: {text}");
    };
    let mut altered = original.clone();
    altered[first_link + 1]["link"]["entries"][0]["who"] = "operator somebody else".into();
    broken("an altered entry", &altered, "is not the one that was linked");
    let mut dropped = original.clone();
    dropped.remove(first_link + 1);
    broken("a dropped batch", &dropped, "is missing");
    let mut swapped = original.clone();
    swapped.swap(first_link, first_link + 1);
    broken("swapped batches", &swapped, "is missing");
    let mut emptied = original.clone();
    emptied[first_link]["link"]["entries"] = Value::Array(Vec::new());
    broken("dropped entries", &emptied, "is not the one that was linked");
    broken("a cut tail", &original[..original.len() - 1], "its tail was cut off");
    // Whoever cuts the tail drops the witnesses in the file as well; one that was kept
    // elsewhere shows it.
    let mut cut = original[..original.len() - 1].to_vec();
    cut.drain(1..first_link);
    write(&tampered, &cut);
    let (code, text) = verified(first, &[tampered.to_str().unwrap()]);
    assert!(code == Some(5) && text.contains("no witness was heard"), "the file alone can't tell: {text}");
    let mut withheld = original.clone();
    withheld.remove(1);
    write(&tampered, &withheld);
    let (code, text) = verified(first, &[tampered.to_str().unwrap()]);
    assert!(code == Some(5) && text.contains("1 of 2 witnesses were not heard"), "{text}");
    write(&tampered, &cut);
    let kept = cluster.path("witness");
    std::fs::write(&kept, second.atoll(&["audit", "witness"]).stdout).unwrap();
    let (whole, text) = verify(first, &[tampered.to_str().unwrap(), "--witness", kept.to_str().unwrap()]);
    assert!(!whole && text.contains("its tail was cut off"), "{text}");
    let (whole, text) = verify(first, &[file, "--witness", kept.to_str().unwrap()]);
    assert!(whole, "{text}");

    // A member that can't be asked, which is not the one that keeps shard 0.
    let away = second.id.clone();
    cluster.nodes[1].kill_9();
    let first = &cluster.nodes[0];
    let (code, text) = verified(first, &["-o", "json"]);
    assert!(code == Some(5) && text.contains(&format!("\"unheard\": [\n    \"{away}\"")), "{code:?} {text}");
    let (whole, text) = verify(first, &["--witness", kept.to_str().unwrap()]);
    assert!(whole, "what it said before is enough: {text}");
}
