//! Rule 16: what a node that is not the keeper of the keys answers, while the network is
//! whole and while it is cut.

use atoll_access::{
    AccessError, BucketOf, Facts, NewUser, Ownership, Principal, Request, Rights, STALENESS_MAX,
};
use atoll_types::{AclGrant, Grantee, Permission};

use crate::pair::{KEEPER, MARGIN, OTHER, PATIENCE, Pair};

struct NoFacts;

impl Facts for NoFacts {
    fn values(&self, _key: &str) -> Option<Vec<String>> {
        None
    }
}

#[test]
fn a_revocation_holds_on_every_node_within_the_promised_time() {
    for seed in 0..5 {
        let (pair, (at, keeper), (runtime, other)) = Pair::new(seed);
        pair.run(async move {
            keeper.delete_key("AK", at.now() + PATIENCE).await.unwrap();
            runtime.sleep(STALENESS_MAX).await;
            assert_eq!(other.lookup("AK").await, Ok(None));
        });
    }
}

#[test]
fn whatever_is_taken_away_is_gone_on_every_node_within_the_promised_time() {
    for seed in 0..5 {
        let (pair, (at, keeper), (runtime, other)) = Pair::new(seed);
        pair.run(async move {
            let deadline = at.now() + PATIENCE;
            let new = NewUser { name: "ann".into(), ..NewUser::default() };
            let ann = keeper.create_user(new, deadline).await.unwrap();
            let (key, _) = keeper.create_key("ann", Rights::ALL, deadline).await.unwrap();
            keeper.change_grant(7, "ann", Rights::READ, true, deadline).await.unwrap();
            assert!(other.principal(&key).await.unwrap().is_some(), "a new key is good at once");
            runtime.sleep(STALENESS_MAX).await;
            assert!(other.rules(7).await.unwrap().grants.contains_key(&ann.canonical_id));

            let bucket = BucketOf { id: 8, name: "acls", owner: "ann" };
            let everyone = AclGrant { grantee: Grantee::AllUsers, permission: Permission::Read };
            let public = Some(Some(vec![everyone]));
            keeper.put_acl(bucket, Some(Ownership::ObjectWriter), public, deadline).await.unwrap();
            let list = async || {
                let principal = &Principal::Anonymous;
                let (bucket, facts) = (Some(bucket), &NoFacts);
                let list =
                    Request { principal, action: "s3:ListBucket", bucket, key: None, facts, object: None };
                other.decide(&list).await.unwrap().is_allowed()
            };
            runtime.sleep(STALENESS_MAX).await;
            assert!(list().await);

            keeper.put_acl(bucket, None, Some(None), deadline).await.unwrap();
            keeper.change_key(&key, Rights::WRITE, false, deadline).await.unwrap();
            keeper.change_grant(7, "ann", Rights::READ, false, deadline).await.unwrap();
            runtime.sleep(STALENESS_MAX).await;
            assert!(!other.lookup(&key).await.unwrap().unwrap().rights.has(Rights::WRITE));
            assert!(other.rules(7).await.unwrap().is_empty());
            assert!(!list().await);

            keeper.delete_user("ann", at.now() + PATIENCE).await.unwrap();
            runtime.sleep(STALENESS_MAX).await;
            assert_eq!(other.principal(&key).await, Ok(None));
        });
    }
}

#[test]
fn a_node_that_is_cut_off_answers_for_the_promised_time_and_then_says_that_it_can_t() {
    for seed in 0..5 {
        let (pair, (at, keeper), (runtime, other)) = Pair::new(seed);
        pair.network.links().cut(&[KEEPER], &[OTHER]);
        // The keeper's records live as long as their last handle.
        let revoker = keeper.clone();
        pair.run(async move { revoker.delete_key("AK", at.now() + PATIENCE).await.unwrap() });
        let (cut, clock) = (other.clone(), runtime.clone());
        pair.run(async move {
            let revoked = clock.now();
            loop {
                let asked = clock.now();
                let answer = cut.lookup("AK").await;
                let waited = clock.now().saturating_since(asked);
                assert!(waited <= STALENESS_MAX + MARGIN, "no hang: {waited:?}");
                match answer {
                    Ok(known) => {
                        assert!(known.is_some(), "it can't have heard of the revocation");
                        assert!(asked.saturating_since(revoked) <= STALENESS_MAX, "a revoked key was let in");
                    }
                    Err(error) => break assert!(matches!(error, AccessError::Unavailable { .. })),
                }
                clock.sleep(MARGIN).await;
            }
        });
        pair.network.links().heal(KEEPER, OTHER);
        pair.run(async move {
            let deadline = runtime.now() + PATIENCE;
            while other.lookup("AK").await != Ok(None) {
                assert!(runtime.now() < deadline, "it does not come back after the cut");
                runtime.sleep(MARGIN).await;
            }
        });
        drop(keeper);
    }
}

#[test]
fn many_who_wait_for_an_answer_give_up_together() {
    let (pair, _keeper, (runtime, other)) = Pair::new(9);
    pair.network.links().cut(&[KEEPER], &[OTHER]);
    pair.run(async move {
        let asked = runtime.now();
        let lookups: Vec<_> = (0..50)
            .map(|number| {
                let other = other.clone();
                runtime.spawn("lookup", async move { other.lookup(&format!("unknown-{number}")).await })
            })
            .collect();
        for lookup in lookups {
            assert!(matches!(lookup.await.unwrap(), Err(AccessError::Unavailable { .. })));
        }
        let waited = runtime.now().saturating_since(asked);
        assert!(waited <= STALENESS_MAX + MARGIN, "one after the other: {waited:?}");
    });
}
