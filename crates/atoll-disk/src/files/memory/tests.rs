use super::*;

fn disk() -> (MemoryDisk, MemoryFiles) {
    let disk = MemoryDisk::new(1);
    let files = disk.files(&Runtime::tokio());
    (disk, files)
}

async fn write(files: &MemoryFiles, path: &str, bytes: &'static [u8]) -> Arc<dyn File> {
    let file = files.open(path, true).await.unwrap();
    file.write_at(0, vec![Bytes::from_static(bytes)]).await.unwrap();
    file
}

/// What is left of a file after each of many crashes at the same moment.
fn after_crashes(disk: &MemoryDisk, path: &str) -> BTreeSet<Option<Vec<u8>>> {
    let outcome = |seed| {
        let image = disk.image();
        image.crash(&mut StdRng::seed_from_u64(seed));
        image.contents(path)
    };
    // Each outcome of those below has a chance of 1/64 at least; to miss one, of 1 in 10⁶.
    (0..1000).map(outcome).collect()
}

#[tokio::test]
async fn bytes_survive_a_crash_if_they_were_flushed_and_names_if_their_folder_was() {
    let (disk, files) = disk();
    let file = write(&files, "a", b"one").await;
    assert_eq!(after_crashes(&disk, "a"), [None, Some(vec![]), Some(b"one".to_vec())].into());
    file.sync().await.unwrap();
    assert_eq!(after_crashes(&disk, "a"), [None, Some(b"one".to_vec())].into());
    files.sync_folder("").await.unwrap();
    assert_eq!(after_crashes(&disk, "a"), [Some(b"one".to_vec())].into());
    write(&files, "a", b"two").await;
    assert_eq!(after_crashes(&disk, "a"), [Some(b"one".to_vec()), Some(b"two".to_vec())].into());
}

#[tokio::test]
async fn an_unflushed_write_may_arrive_in_part() {
    let (disk, files) = disk();
    let file = files.open("a", true).await.unwrap();
    files.sync_folder("").await.unwrap();
    file.write_and_sync(0, vec![vec![1; 3 * SECTOR].into()]).await.unwrap();
    file.write_at(100, vec![vec![2; 2 * SECTOR].into()]).await.unwrap();
    let outcomes = after_crashes(&disk, "a");
    // Three sectors are touched; each has the old bytes or the new.
    assert_eq!(outcomes.len(), 8);
    for outcome in outcomes.into_iter().flatten() {
        assert_eq!(outcome.len(), 3 * SECTOR);
        assert!(outcome[..100].iter().chain(&outcome[100 + 2 * SECTOR..]).all(|byte| *byte == 1));
        for range in [100..SECTOR, SECTOR..2 * SECTOR, 2 * SECTOR..100 + 2 * SECTOR] {
            assert!(outcome[range.clone()].iter().all(|byte| *byte == outcome[range.start]));
        }
    }
}

#[tokio::test]
async fn a_rename_happens_or_not_and_lasts_once_its_folder_is_synced() {
    let (disk, files) = disk();
    files.create_folder("f").await.unwrap();
    files.sync_folder("").await.unwrap();
    let old = write(&files, "f/x", b"old").await;
    old.sync().await.unwrap();
    files.sync_folder("f").await.unwrap();
    let new = write(&files, "f/x.new", b"new").await;
    new.sync().await.unwrap();
    files.rename("f/x.new", "f/x").await.unwrap();
    assert_eq!(after_crashes(&disk, "f/x"), [Some(b"old".to_vec()), Some(b"new".to_vec())].into());
    files.sync_folder("f").await.unwrap();
    assert_eq!(after_crashes(&disk, "f/x"), [Some(b"new".to_vec())].into());
    files.remove("f/x").await.unwrap();
    assert!(!files.exists("f/x").await.unwrap());
    assert_eq!(after_crashes(&disk, "f/x"), [None, Some(b"new".to_vec())].into());
    // A removed file can be read by those who have it open.
    assert_eq!(new.read_at(0, 9).await.unwrap(), &b"new"[..]);
}

#[tokio::test]
async fn what_lies_in_a_folder_that_was_not_synced_is_lost_with_it() {
    let (disk, files) = disk();
    files.create_folder("f/g").await.unwrap();
    write(&files, "f/g/x", b"x").await.sync().await.unwrap();
    files.sync_folder("f/g").await.unwrap();
    files.sync_folder("f").await.unwrap();
    assert_eq!(after_crashes(&disk, "f/g/x"), [None, Some(b"x".to_vec())].into());
    files.sync_folder("").await.unwrap();
    assert_eq!(after_crashes(&disk, "f/g/x"), [Some(b"x".to_vec())].into());
    assert_eq!(files.list("").await.unwrap(), ["f"]);
    assert_eq!(files.list("f/g").await.unwrap(), ["x"]);
}

#[tokio::test]
async fn after_a_crash_or_a_kill_the_handles_from_before_are_dead() {
    let (disk, files) = disk();
    let file = write(&files, "a", b"one").await;
    disk.kill();
    assert!(file.read_at(0, 3).await.is_err());
    assert!(files.exists("a").await.is_err());
    let files = disk.files(&Runtime::tokio());
    let file = files.open("a", false).await.unwrap();
    assert_eq!(file.read_at(0, 3).await.unwrap(), &b"one"[..]);
    disk.crash(&mut StdRng::seed_from_u64(0));
    assert!(file.sync().await.is_err());
}

#[tokio::test]
async fn a_failed_flush_loses_what_it_was_to_write_and_the_next_one_says_nothing() {
    let (disk, files) = disk();
    let file = files.open("a", true).await.unwrap();
    files.sync_folder("").await.unwrap();
    disk.set_faults(DiskFaults { sync_error: 1.0, ..DiskFaults::default() });
    assert!(file.write_and_sync(0, vec![Bytes::from_static(b"lost")]).await.is_err());
    disk.set_faults(DiskFaults::default());
    file.sync().await.unwrap();
    assert_eq!(file.read_at(0, 4).await.unwrap(), &b"lost"[..]);
    assert_eq!(after_crashes(&disk, "a"), [Some(vec![])].into());
}

#[tokio::test]
async fn faults_strike_as_asked_and_are_counted() {
    let (disk, files) = disk();
    let file = write(&files, "a", &[0; 4096]).await;
    disk.set_faults(DiskFaults { read_error: 1.0, ..DiskFaults::default() });
    assert!(file.read_at(0, 9).await.is_err());
    disk.set_faults(DiskFaults { flipped_bit: 1.0, ..DiskFaults::default() });
    let ones = |bytes: &[u8]| bytes.iter().map(|byte| byte.count_ones()).sum::<u32>();
    assert_eq!(ones(&file.read_at(0, 4096).await.unwrap()), 1);
    disk.set_faults(DiskFaults { lost_write: 1.0, ..DiskFaults::default() });
    file.write_at(0, vec![Bytes::from_static(&[255; 4096])]).await.unwrap();
    disk.set_faults(DiskFaults::default());
    assert_eq!(ones(&file.read_at(0, 4096).await.unwrap()), 1);
    disk.set_faults(DiskFaults { misplaced_write: 1.0, ..DiskFaults::default() });
    for _ in 0..8 {
        file.write_at(0, vec![Bytes::from_static(&[255; SECTOR])]).await.unwrap();
    }
    assert!(ones(&disk.contents("a").unwrap()[SECTOR..]) >= 8 * SECTOR as u32);
    disk.set_faults(DiskFaults { capacity: Some(8192), ..DiskFaults::default() });
    let error = file.write_at(8000, vec![Bytes::from_static(&[1; 193])]).await.unwrap_err();
    assert!(error.is_full());
    let counts = disk.counts();
    let expected =
        FaultCounts { read_errors: 1, flipped_bits: 1, lost_writes: 1, misplaced_writes: 8, ..counts };
    assert_eq!(counts, expected);
}
