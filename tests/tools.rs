//! Software that was written for S3 and knows nothing of Atoll: s3cmd and restic.

use std::process::{Command, Output};

use crate::harness::{ACCESS_KEY, Cluster, SECRET_KEY};

fn s3cmd_output(cluster: &Cluster, arguments: &[&str]) -> Output {
    let host = cluster.nodes[0].s3.trim_start_matches("http://").to_owned();
    let config = cluster.path("s3cfg");
    if !config.exists() {
        std::fs::write(
            &config,
            format!(
                "[default]\naccess_key = {ACCESS_KEY}\nsecret_key = {SECRET_KEY}\nhost_base = {host}\n\
                 host_bucket = {host}\nuse_https = False\nbucket_location = us-east-1\n"
            ),
        )
        .unwrap();
    }
    let mut command = Command::new("s3cmd");
    command.arg("-c").arg(&config).arg("--no-progress").args(arguments);
    command.output().expect("s3cmd runs: `cargo xtask test` asks for it")
}

fn s3cmd(cluster: &Cluster, arguments: &[&str]) -> String {
    let output = s3cmd_output(cluster, arguments);
    assert!(output.status.success(), "s3cmd {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn s3cmd_syncs_lists_tags_and_deletes() {
    let cluster = Cluster::start(1);
    let folder = cluster.path("folder");
    for (name, size) in [("a", 10_usize), ("deep/er/b c", 100_000), ("ü", 0), ("big", 20 << 20)] {
        let path = folder.join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, vec![size as u8; size]).unwrap();
    }
    let source = format!("{}/", folder.display());
    s3cmd(&cluster, &["mb", "s3://tools"]);
    assert!(s3cmd(&cluster, &["ls"]).contains("s3://tools"));
    s3cmd(&cluster, &["sync", "--multipart-chunk-size-mb=5", &source, "s3://tools/f/"]);
    let listed = s3cmd(&cluster, &["ls", "--recursive", "s3://tools"]);
    assert_eq!(listed.lines().count(), 4, "{listed}");
    assert!(listed.contains("s3://tools/f/deep/er/b c"), "{listed}");
    let again = s3cmd(&cluster, &["sync", &source, "s3://tools/f/"]);
    assert!(!again.contains("upload:"), "nothing changed: {again}");
    let back = cluster.path("back");
    std::fs::create_dir(&back).unwrap();
    s3cmd(&cluster, &["sync", "s3://tools/f/", &format!("{}/", back.display())]);
    let same = Command::new("diff").arg("-r").args([&folder, &back]).status().unwrap();
    assert!(same.success(), "what came back differs");
    assert!(s3cmd(&cluster, &["info", "s3://tools/f/big"]).contains("20971520"));
    s3cmd(&cluster, &["cp", "s3://tools/f/big", "s3://tools/copy"]);
    s3cmd(&cluster, &["mv", "s3://tools/copy", "s3://tools/moved"]);
    s3cmd(&cluster, &["modify", "--add-header=Cache-Control: no-cache", "s3://tools/moved"]);
    s3cmd(&cluster, &["setacl", "--acl-private", "s3://tools/moved"]);
    let public = s3cmd_output(&cluster, &["setacl", "--acl-public", "s3://tools/moved"]);
    assert!(!public.status.success(), "nothing becomes public");
    assert!(!s3cmd_output(&cluster, &["rb", "s3://tools"]).status.success());
    s3cmd(&cluster, &["del", "--recursive", "--force", "s3://tools"]);
    s3cmd(&cluster, &["rb", "s3://tools"]);
}

fn restic(cluster: &Cluster, arguments: &[&str]) -> String {
    let mut command = Command::new("restic");
    command
        .args(["--no-cache", "--cleanup-cache=false"])
        .args(arguments)
        .env("RESTIC_REPOSITORY", format!("s3:{}/backups/repo", cluster.nodes[0].s3))
        .env("RESTIC_PASSWORD", "test")
        .env("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        .env("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        .env_remove("AWS_CA_BUNDLE");
    let output = command.output().expect("restic runs: `cargo xtask test` asks for it");
    assert!(output.status.success(), "restic {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn restic_backs_up_checks_restores_and_prunes() {
    let cluster = Cluster::start(1);
    let folder = cluster.path("home");
    std::fs::create_dir(&folder).unwrap();
    let write = |name: &str, seed: u8, size: usize| {
        let bytes: Vec<u8> = (0..size).map(|at| ((at * 31) >> (seed % 7)) as u8 ^ seed).collect();
        std::fs::write(folder.join(name), bytes).unwrap();
    };
    write("kept", 1, 9_000_000);
    write("replaced", 2, 3_000_000);
    restic(&cluster, &["init"]);
    let path = folder.to_str().unwrap();
    restic(&cluster, &["backup", path]);
    write("replaced", 3, 3_000_000);
    restic(&cluster, &["backup", path]);
    assert!(restic(&cluster, &["check", "--read-data"]).contains("no errors were found"));
    restic(&cluster, &["forget", "--keep-last", "1", "--prune"]);
    assert!(restic(&cluster, &["check", "--read-data"]).contains("no errors were found"));
    let back = cluster.path("restored");
    restic(&cluster, &["restore", "latest", "--target", back.to_str().unwrap()]);
    let restored = back.join(path.trim_start_matches('/'));
    let same = Command::new("diff").arg("-r").args([&folder, &restored]).status().unwrap();
    assert!(same.success(), "what was restored differs");
}
