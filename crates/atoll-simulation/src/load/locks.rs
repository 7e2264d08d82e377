//! Locks: taken, kept for a while, and given back, or forgotten.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use rand::Rng;

use super::{Answer, Operation, Outcome, client::Caller};

const LOCKS: usize = 2;

/// Tries to take a lock once, and holds it for some seconds.
pub(super) async fn hold(caller: &mut Caller, over_http: bool, go_on: &Arc<AtomicBool>) {
    let lock = format!("lock {}", caller.rng.random_range(0..LOCKS));
    let ttl = Duration::from_secs(caller.rng.random_range(1..=4));
    let owner = format!("client {}", caller.number);
    let id = (!over_http).then(|| caller.rng.random());
    let acquire = Operation::Acquire { lock: lock.clone(), owner, ttl, id };
    let Outcome::Answered(Answer::Granted { lease, .. }) = caller.ask(acquire).await else { return };
    for _ in 0..caller.rng.random_range(0..4) {
        let most = ttl.mul_f64(if caller.rng.random_bool(0.9) { 0.6 } else { 1.5 });
        let wait = caller.rng.random_range(Duration::ZERO..=most);
        caller.runtime.sleep(wait).await;
        if !go_on.load(Ordering::Relaxed) {
            return;
        }
        match caller.ask(Operation::Keep { lock: lock.clone(), lease }).await {
            Outcome::Answered(Answer::Gone) | Outcome::NotDone => return,
            _ => {}
        }
    }
    if caller.rng.random_bool(0.7) {
        caller.ask(Operation::Release { lock, lease }).await;
    }
}
