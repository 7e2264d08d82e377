//! One bucket mounted through two nodes, as a folder that both may write to.

use std::{
    fs,
    io::Write,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use crate::harness::{Cluster, boto3, rclone, rclone_command, wait_until};

/// Why nothing can be mounted here, if that is so.
fn cannot_mount() -> Option<String> {
    if let Err(error) = fs::File::options().read(true).write(true).open("/dev/fuse") {
        return Some(format!("/dev/fuse can't be opened: {error}"));
    }
    let works =
        |tool: &&str| Command::new(tool).arg("-V").output().is_ok_and(|output| output.status.success());
    let none = !["fusermount3", "fusermount"].iter().any(works);
    none.then(|| "there is neither fusermount3 nor fusermount (apt install fuse3)".into())
}

struct Mount {
    child: Child,
    folder: PathBuf,
}

impl Mount {
    /// Mounts the bucket, or gives why the kernel does not let it.
    fn of(endpoint: &str, bucket: &str, folder: PathBuf) -> Result<Self, String> {
        fs::create_dir(&folder).unwrap();
        let log = folder.with_extension("log");
        let mut command = rclone_command(endpoint, &["mount"]);
        // Writes go through files here and are sent when one is closed; of what was seen or
        // written nothing is kept, since rclone does not always find out that it is old.
        let kept = ["--vfs-cache-mode", "writes", "--vfs-write-back", "0", "--dir-cache-time", "0"];
        command.args(kept).args(["--attr-timeout", "0", "--vfs-cache-max-age", "100ms"]);
        command.args(["--vfs-cache-poll-interval", "200ms", &format!("atoll:{bucket}")]).arg(&folder);
        command.arg("--cache-dir").arg(folder.with_extension("cache"));
        let child = command.stderr(fs::File::create(&log).unwrap()).stdout(Stdio::null()).spawn().unwrap();
        let mut mount = Self { child, folder };
        let mut ended = false;
        wait_until("the bucket is mounted", || {
            ended = mount.child.try_wait().unwrap().is_some();
            ended || mount.is_there()
        });
        if !ended {
            return Ok(mount);
        }
        let said = fs::read_to_string(log).unwrap();
        let refused = ["not permitted", "Permission denied"].iter().any(|why| said.contains(why));
        assert!(refused, "rclone did not mount: {said}");
        Err(said)
    }

    fn is_there(&self) -> bool {
        let mounts = fs::read_to_string("/proc/mounts").unwrap();
        mounts.contains(&format!(" {} ", self.folder.display()))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // On this signal it unmounts.
        let _ = Command::new("kill").arg(self.child.id().to_string()).status();
        let _ = self.child.wait();
        for tool in ["fusermount3", "fusermount"] {
            if self.is_there() {
                let _ = Command::new(tool).arg("-uz").arg(&self.folder).stderr(Stdio::null()).status();
            }
        }
    }
}

fn names_in(folder: &Path) -> Vec<String> {
    // rclone fails now and then while an object is replaced.
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// Longer than rclone keeps anything here, which is 100 ms, looked at each 200 ms. Whoever reads
/// more often keeps it from forgetting an old file, though listings through its node show the new one: of
/// forty changes four were not seen with 50 ms, of sixty all with this.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Waits until the other mount shows what was written. Sent is a file just after its closing,
/// and of one that it made itself rclone knows nothing newer for a minute, unless its folder
/// is listed.
fn becomes(path: &Path, wanted: &[u8]) {
    let mut next_look = Instant::now();
    wait_until(&format!("{} is what was written", path.display()), || {
        if Instant::now() < next_look {
            return false;
        }
        names_in(path.parent().expect("it lies in a folder"));
        let is_wanted = fs::read(path).is_ok_and(|seen| seen == wanted);
        next_look = Instant::now() + LOOK_EVERY;
        is_wanted
    });
}

#[test]
fn what_is_closed_in_a_mount_through_one_node_is_seen_whole_through_another() {
    if let Some(why) = cannot_mount() {
        println!("skipped: {why}");
        return;
    }
    let cluster = Cluster::start(2);
    let endpoints = [0, 1].map(|number| cluster.nodes[number].s3.as_str());
    rclone(endpoints[0], &["mkdir", "atoll:shared"]);
    let mounts = [("one", endpoints[0]), ("two", endpoints[1])]
        .map(|(name, endpoint)| Mount::of(endpoint, "shared", cluster.path(name)));
    let [one, two] = match mounts {
        [Ok(one), Ok(two)] => [one, two],
        [Err(why), _] | [_, Err(why)] => {
            println!("skipped: nothing can be mounted here: {why}");
            return;
        }
    };
    let bytes = |seed: usize, size: u32| -> Vec<u8> {
        (0..size).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8 ^ seed as u8).collect()
    };
    // Each writes in turn, also over what the other wrote.
    const BELOW: &str = "folder/below/file";
    let rounds =
        [("file", 5), (BELOW, 70_000), ("file", 20_000_000), ("file", 5), (BELOW, 70_000), ("empty", 0)];
    for (round, (name, size)) in rounds.into_iter().enumerate() {
        for (turn, from, to) in [(0, &one, &two), (1, &two, &one)] {
            let new = bytes(2 * round + turn, size);
            fs::create_dir_all(from.path("folder/below")).unwrap();
            fs::write(from.path(name), &new).unwrap();
            becomes(&to.path(name), &new);
        }
    }
    // Changed in place, appended to, moved and deleted.
    let mut whole = bytes(2 * 4 + 1, 70_000);
    whole[30_000..30_013].copy_from_slice(b"in the middle");
    let file = fs::File::options().write(true).open(two.path(BELOW)).unwrap();
    file.write_all_at(b"in the middle", 30_000).unwrap();
    drop(file);
    becomes(&one.path(BELOW), &whole);
    whole.extend(b"at the end");
    let mut file = fs::File::options().append(true).open(one.path(BELOW)).unwrap();
    file.write_all(b"at the end").unwrap();
    drop(file);
    becomes(&two.path(BELOW), &whole);
    fs::rename(one.path(BELOW), one.path("moved")).unwrap();
    becomes(&two.path("moved"), &whole);
    wait_until("what was moved is gone", || names_in(&two.path("folder/below")).is_empty());
    fs::remove_file(two.path("file")).unwrap();
    let seen = || {
        let mut names = names_in(&one.folder);
        names.sort();
        names.retain(|name| name != "folder");
        names
    };
    wait_until("what was deleted is gone", || seen() == ["empty", "moved"]);
    let script = "print(sorted(item['Key'] for item in s3.list_objects_v2(Bucket='shared')['Contents']))";
    assert_eq!(boto3(endpoints[0], script, &[]).trim(), "['empty', 'moved']");
}
