//! Transactions, leases and watches: what `atoll kv` and `atoll lock` are made of.

mod world;

use std::time::Duration;

use atoll_records::{
    Change, Compare, Condition, Done, LeaseError, Operation, Read, Transaction, TransactionError,
    TransactionRefused, WatchError,
};
use atoll_types::Revision;
use bytes::Bytes;
use world::{PATIENCE, SHARD, World};

fn put(key: &'static str, value: &'static str) -> Operation {
    Operation::Put { key: key.into(), value: value.into(), lease: None }
}

fn compare(key: &'static str, condition: Condition) -> Compare {
    Compare { key: key.into(), condition }
}

impl World {
    async fn transact(&self, transaction: Transaction) -> Result<(bool, Vec<Done>), TransactionError> {
        let id = self.runtime.transaction_id();
        let deadline = self.runtime.now() + PATIENCE;
        let result = self.nodes[&1].transact(SHARD, id, &transaction, deadline).await?;
        Ok((result.succeeded, result.results))
    }

    async fn put(&self, key: &'static str, value: &'static str) -> Revision {
        let id = self.runtime.transaction_id();
        let deadline = self.runtime.now() + PATIENCE;
        let transaction = Transaction { then: vec![put(key, value)], ..Transaction::default() };
        self.nodes[&1].transact(SHARD, id, &transaction, deadline).await.unwrap().revision
    }

    /// Keys and values, and whether more follow.
    async fn list(&self, read: Read) -> (Vec<String>, bool) {
        let deadline = self.runtime.now() + PATIENCE;
        let result = self.nodes[&1].read(SHARD, &read, deadline).await.unwrap();
        let text = |bytes: &Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        let records = result.records.iter();
        (records.map(|record| text(&record.key) + "=" + &text(&record.value)).collect(), result.more)
    }

    async fn lock(&self, node: u8, name: &'static str, ttl: Duration) -> Result<(u64, u64), LeaseError> {
        let id = self.runtime.transaction_id();
        let deadline = self.runtime.now() + PATIENCE;
        let holder = Bytes::from(format!("node {node}"));
        let granted =
            self.nodes[&node].grant_lease(SHARD, id, ttl, holder, Some(name.into()), deadline).await?;
        Ok((granted.lease.0, granted.epoch))
    }

    async fn keep(&self, lease: u64) -> Result<(), LeaseError> {
        let id = self.runtime.transaction_id();
        let deadline = self.runtime.now() + PATIENCE;
        self.nodes[&1].keep_lease(SHARD, id, atoll_records::LeaseId(lease), deadline).await
    }

    async fn release(&self, lease: u64) -> Result<(), LeaseError> {
        let id = self.runtime.transaction_id();
        let deadline = self.runtime.now() + PATIENCE;
        self.nodes[&1].release_lease(SHARD, id, atoll_records::LeaseId(lease), deadline).await
    }
}

#[tokio::test]
async fn a_transaction_takes_the_branch_that_its_comparisons_say() {
    let world = World::founded(1).await;
    let first = world.put("a", "1").await;
    let attempt = |condition: Condition| Transaction {
        compare: vec![compare("a", condition), compare("b", Condition::Absent)],
        then: vec![put("b", "2"), Operation::Delete { key: "a".into() }],
        otherwise: vec![Operation::Get { key: "a".into() }],
    };
    let (succeeded, results) = world.transact(attempt(Condition::ValueIs("x".into()))).await.unwrap();
    assert!(!succeeded);
    let Done::Got(Some(record)) = &results[0] else { panic!("{results:?}") };
    assert_eq!((record.revision, &record.value[..]), (first, &b"1"[..]));

    let (succeeded, results) = world.transact(attempt(Condition::RevisionIs(first))).await.unwrap();
    assert!(succeeded);
    assert_eq!(results, [Done::Put, Done::Deleted(true)]);
    let all = world.list(Read::prefix("", 10)).await;
    assert_eq!(all, (vec!["b=2".into()], false));
}

#[tokio::test]
async fn a_range_is_read_in_pages_and_in_both_directions() {
    let world = World::founded(1).await;
    for key in ["a1", "a2", "a3", "b1"] {
        world.put(key, "x").await;
    }
    assert_eq!(world.list(Read::prefix("a", 2)).await, (vec!["a1=x".into(), "a2=x".into()], true));
    let backwards = Read::Range { start: "a2".into(), end: None, limit: 2, backwards: true };
    assert_eq!(world.list(backwards).await, (vec!["b1=x".into(), "a3=x".into()], true));
    let keys = Read::Keys(vec!["b1".into(), "nothing".into(), "a1".into()]);
    assert_eq!(world.list(keys).await, (vec!["b1=x".into(), "a1=x".into()], false));
    let upside_down = Read::Range { start: "b".into(), end: Some("a".into()), limit: 9, backwards: false };
    assert_eq!(world.list(upside_down).await, (vec![], false));
}

#[tokio::test]
async fn a_refused_transaction_changes_nothing() {
    let world = World::founded(1).await;
    let no_lease =
        Operation::Put { key: "b".into(), value: "1".into(), lease: Some(atoll_records::LeaseId(12345)) };
    let refused =
        world.transact(Transaction { then: vec![put("a", "1"), no_lease], ..Transaction::default() }).await;
    assert!(matches!(refused, Err(TransactionError::Refused(TransactionRefused::NoLease(_)))), "{refused:?}");
    let empty = world.transact(Transaction { then: vec![put("", "1")], ..Transaction::default() }).await;
    assert_eq!(empty, Err(TransactionError::Refused(TransactionRefused::Key)));
    assert_eq!(world.list(Read::prefix("", 9)).await, (vec![], false));
}

#[tokio::test]
async fn a_locks_epoch_grows_with_every_holder() {
    let world = World::founded(1).await;
    let ttl = Duration::from_secs(60);
    let (lease, epoch) = world.lock(1, "door", ttl).await.unwrap();
    assert_eq!(epoch, 1);
    let held = world.lock(1, "door", ttl).await.unwrap_err();
    let LeaseError::Held(held) = held else { panic!("{held}") };
    assert_eq!((&held.holder[..], held.lease.0, held.epoch), (&b"node 1"[..], lease, 1));
    world.release(lease).await.unwrap();
    assert!(matches!(world.release(lease).await, Err(LeaseError::Gone { .. })));
    assert!(matches!(world.keep(lease).await, Err(LeaseError::Gone { .. })));
    assert_eq!(world.lock(1, "door", ttl).await.unwrap().1, 2);
    let deadline = world.runtime.now() + PATIENCE;
    let locks = world.nodes[&1].locks(SHARD, Bytes::new(), deadline).await.unwrap();
    assert_eq!((locks.len(), &locks[0].name[..], locks[0].epoch), (1, &b"door"[..], 2));
}

#[tokio::test]
async fn a_lease_that_nobody_keeps_expires_with_all_it_holds_and_a_kept_one_does_not() {
    let world = World::founded(1).await;
    let (lost, _) = world.lock(1, "lost", Duration::from_secs(1)).await.unwrap();
    let (kept, _) = world.lock(1, "kept", Duration::from_secs(1)).await.unwrap();
    for (key, lease) in [("of lost", lost), ("of kept", kept)] {
        let lease = Some(atoll_records::LeaseId(lease));
        let operation = Operation::Put { key: key.into(), value: "x".into(), lease };
        world.transact(Transaction { then: vec![operation], ..Transaction::default() }).await.unwrap();
    }
    let begun = world.runtime.now();
    loop {
        world.keep(kept).await.unwrap();
        if let Ok((_, epoch)) = world.lock(1, "lost", Duration::from_secs(60)).await {
            assert_eq!(epoch, 2);
            break;
        }
        assert!(world.runtime.now() - begun < PATIENCE, "the lease never expired");
        world.runtime.sleep(Duration::from_millis(50)).await;
    }
    assert!(world.runtime.now() - begun >= Duration::from_millis(900), "it expired early");
    assert_eq!(world.list(Read::prefix("", 9)).await, (vec!["of kept=x".into()], false));
}

#[tokio::test]
async fn a_lease_outlives_its_leader_and_expires_under_the_next() {
    let mut world = World::founded(3).await;
    let (lease, _) = world.lock(1, "door", Duration::from_secs(2)).await.unwrap();
    let leader = world.leader().await;
    if leader == 1 {
        // The test speaks through node 1.
        world.nodes[&1].hand_over(PATIENCE).await;
    }
    let leader = world.leader().await;
    world.kill(leader);
    assert!(matches!(world.lock(1, "door", Duration::from_secs(2)).await, Err(LeaseError::Held(_))));
    world.keep(lease).await.unwrap();
    let begun = world.runtime.now();
    while world.lock(1, "door", Duration::from_secs(60)).await.is_err() {
        assert!(world.runtime.now() - begun < PATIENCE, "the lease never expired");
        world.runtime.sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_watch_tells_every_change_under_its_prefix_in_order_and_no_other() {
    let world = World::founded(1).await;
    let begin = world.put("before", "x").await;
    let mut watch = world.nodes[&1].watch(SHARD, "records/kv/a", begin);
    let first = world.put("a1", "1").await;
    world.put("b", "not told").await;
    let last = {
        let transaction = Transaction {
            then: vec![put("a2", "2"), Operation::Delete { key: "a1".into() }],
            ..Transaction::default()
        };
        let id = world.runtime.transaction_id();
        let deadline = world.runtime.now() + PATIENCE;
        world.nodes[&1].transact(SHARD, id, &transaction, deadline).await.unwrap().revision
    };
    let mut told: Vec<Change> = Vec::new();
    while told.len() < 3 {
        told.extend(watch.next().await.unwrap());
    }
    let told: Vec<_> =
        told.iter().map(|change| (change.revision, &change.key[11..], change.value.is_some())).collect();
    assert_eq!(told, [(first, &b"a1"[..], true), (last, b"a1", false), (last, b"a2", true)]);
    assert!(watch.revision() >= last);
}

#[tokio::test]
async fn a_watch_goes_on_from_its_revision_when_the_leader_dies() {
    let mut world = World::founded(3).await;
    world.nodes[&1].hand_over(PATIENCE).await;
    let begin = world.put("before", "x").await;
    let mut watch = world.nodes[&1].watch(SHARD, "records/kv/", begin);
    world.put("a", "1").await;
    let mut told = Vec::new();
    while told.is_empty() {
        told.extend(watch.next().await.unwrap());
    }
    let leader = world.leader().await;
    if leader != 1 {
        world.kill(leader);
    }
    world.put("b", "2").await;
    let deadline = world.runtime.now() + PATIENCE;
    while told.len() < 2 {
        match watch.next().await {
            Ok(changes) => told.extend(changes),
            Err(error) => assert!(!matches!(error, WatchError::Compacted { .. }), "{error}"),
        }
        assert!(world.runtime.now() < deadline);
    }
    let keys: Vec<_> = told.iter().map(|change| &change.key[11..]).collect();
    assert_eq!(keys, [b"a", b"b"]);
}

#[tokio::test]
async fn a_watcher_that_was_away_too_long_is_told_so() {
    let world = World::founded(1).await;
    let begin = world.put("a", "x").await;
    // 4 MiB of changes are kept.
    for _ in 0..20 {
        let value = Bytes::from(vec![0; 300 << 10]);
        let operation = Operation::Put { key: "big".into(), value, lease: None };
        world.transact(Transaction { then: vec![operation], ..Transaction::default() }).await.unwrap();
    }
    let mut watch = world.nodes[&1].watch(SHARD, "", begin);
    assert!(matches!(watch.next().await, Err(WatchError::Compacted { compacted }) if compacted > begin));
    let deadline = world.runtime.now() + PATIENCE;
    let now = world.nodes[&1].read(SHARD, &Read::Keys(vec![]), deadline).await.unwrap().revision;
    let mut watch = world.nodes[&1].watch(SHARD, "", now);
    world.put("b", "y").await;
    assert_eq!(watch.next().await.unwrap().len(), 1);
}
