//! The audit trail as nodes write it: what is in it, at what cost, and what happens when
//! shard 0 is out of reach.

use std::time::Duration;

use atoll_access::{
    Access, BucketOf, Decision, Facts, Principal, Request,
    audit::{COMMITS_PER_SECOND, Entry, LinkedBatch, Verified, Verifier},
};
use atoll_runtime::Runtime;

use crate::pair::{KEEPER, MARGIN, OTHER, PATIENCE, Pair};

struct Whence(&'static str);

impl Facts for Whence {
    fn values(&self, key: &str) -> Option<Vec<String>> {
        (key == "aws:sourceip").then(|| vec![self.0.into()])
    }
}

async fn anonymous(access: &Access, key: &str) {
    let bucket = Some(BucketOf { id: 1, name: "bucket", owner: "somebody" });
    let (principal, facts) = (&Principal::Anonymous, &Whence("192.0.2.1"));
    let request = Request { principal, action: "s3:GetObject", bucket, key: Some(key), facts, object: None };
    let decision = access.decide(&request).await.unwrap();
    assert!(matches!(decision, Decision::Denied { .. }));
}

async fn operator(access: &Access) -> Result<Decision, atoll_access::AccessError> {
    let principal = &Principal::Operator { name: "node a".into() };
    let action = "admin:POST /v1/users";
    access
        .decide(&Request {
            principal,
            action,
            bucket: None,
            key: None,
            facts: &Whence("192.0.2.2"),
            object: None,
        })
        .await
}

async fn whole(access: &Access) -> (Vec<LinkedBatch>, Verified) {
    let mut links: Vec<LinkedBatch> = Vec::new();
    loop {
        let after = links.last().map_or(0, |linked| linked.link.index);
        let (page, _) = access.audit_page(after, 1000, access.deadline()).await.unwrap();
        if page.is_empty() {
            break;
        }
        links.extend(page);
    }
    let mut verifier = Verifier::default();
    for linked in &links {
        verifier.take(linked).unwrap();
    }
    (links, verifier.finish().unwrap())
}

fn entries(links: &[LinkedBatch]) -> Vec<Entry> {
    links.iter().flat_map(|linked| linked.signed.batch.entries.clone()).collect()
}

/// Waits until the trail has, or misses, so many.
async fn until_noted(runtime: &Runtime, access: &Access, count: u64) -> (Vec<LinkedBatch>, Verified) {
    let deadline = runtime.now() + PATIENCE;
    loop {
        let (links, verified) = whole(access).await;
        if verified.entries + verified.missed >= count {
            return (links, verified);
        }
        assert!(runtime.now() < deadline, "{verified:?}");
        runtime.sleep(MARGIN).await;
    }
}

#[test]
fn what_is_denied_and_what_is_done_is_in_the_trail_with_its_rule() {
    for seed in 0..5 {
        let (pair, (_, keeper), (runtime, other)) = Pair::new(seed);
        pair.run(async move {
            anonymous(&other, "a/b").await;
            assert!(operator(&keeper).await.unwrap().is_allowed());
            let (links, _) = whole(&keeper).await;
            let done = entries(&links).into_iter().find(|entry| entry.allowed).expect("before it is done");
            assert_eq!((done.who.as_str(), done.what.as_str()), ("operator node a", "admin:POST /v1/users"));
            assert_eq!((done.from.as_str(), done.rule.as_str()), ("192.0.2.2", "admin token"));
            let (links, verified) = until_noted(&runtime, &other, 2).await;
            let denied = entries(&links).into_iter().find(|entry| !entry.allowed).unwrap();
            assert_eq!((denied.who.as_str(), denied.on.as_str()), ("anonymous", "bucket/a/b"));
            assert_eq!((denied.from.as_str(), denied.rule.as_str()), ("192.0.2.1", "no rule allows it"));
            assert_eq!(verified.nodes.len(), 2, "each signed what it decided");
        });
    }
}

#[test]
fn a_flood_of_denied_requests_costs_ten_commits_a_second_and_what_finds_no_room_is_counted() {
    const FLOOD: u64 = 5000;
    let (pair, _keeper, (runtime, other)) = Pair::new(1);
    pair.run(async move {
        let began = runtime.now();
        for number in 0..FLOOD {
            anonymous(&other, &number.to_string()).await;
        }
        let (links, verified) = until_noted(&runtime, &other, FLOOD).await;
        assert_eq!(verified.entries + verified.missed, FLOOD, "each once");
        assert!(verified.entries >= 600 && verified.missed > 0, "{verified:?}");
        let seconds = runtime.now().saturating_since(began).as_secs_f64();
        let most = seconds * f64::from(COMMITS_PER_SECOND) + 1.0;
        assert!(links.len() as f64 <= most, "{} commits in {seconds} s", links.len());
        let order: Vec<u64> = entries(&links).iter().map(|entry| entry.on[7..].parse().unwrap()).collect();
        assert!(order.is_sorted(), "in the order in which they were decided");
    });
}

#[test]
fn a_node_that_starts_again_goes_on_with_its_own_chain() {
    let (pair, _keeper, (runtime, other)) = Pair::new(2);
    let again = pair.auditor(OTHER, &runtime);
    pair.run(async move {
        anonymous(&other, "before").await;
        let (links, _) = until_noted(&runtime, &other, 1).await;
        let mut entry = entries(&links)[0].clone();
        entry.on = "after".into();
        again.act(entry).await.unwrap();
        // The earlier start wrote meanwhile: it finds out, and goes on from there.
        anonymous(&other, "both").await;
        let (links, verified) = until_noted(&runtime, &other, 3).await;
        let on: Vec<String> = entries(&links).into_iter().map(|entry| entry.on).collect();
        assert_eq!(on, ["bucket/before", "after", "bucket/both"]);
        assert_eq!(verified.nodes.values().map(|head| head.index).collect::<Vec<_>>(), [3]);
    });
}

#[test]
fn without_shard_0_no_act_is_allowed_and_what_was_denied_is_noted_later() {
    let (pair, (_, keeper), (runtime, other)) = Pair::new(3);
    pair.network.links().cut(&[KEEPER], &[OTHER]);
    let (cut, clock) = (other.clone(), runtime.clone());
    pair.run(async move {
        anonymous(&cut, "while cut").await;
        let asked = clock.now();
        assert!(operator(&cut).await.is_err(), "nothing is done without a trace");
        assert!(clock.now().saturating_since(asked) < Duration::from_secs(15));
    });
    pair.network.links().heal(KEEPER, OTHER);
    pair.run(async move {
        let (links, _) = until_noted(&runtime, &other, 2).await;
        assert!(entries(&links).iter().any(|entry| entry.on == "bucket/while cut"));
    });
    drop(keeper);
}
