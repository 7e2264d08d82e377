//! Locks: nobody is granted one that another certainly still holds, and fencing epochs
//! only grow.
//!
//! A holder holds from the answer to its grant for as long as the lease lasts: that time
//! begins anew with each keep-alive that was answered, at its call at the latest. It ends
//! with the call of its release. The leader's clock measures it, which storms make run up to
//! a hundredth too fast.

use std::{collections::BTreeMap, time::Duration};

use atoll_types::Instant;

use super::{Evidence, Problem};
use crate::{
    load::{Answer, Ending, Operation},
    world::DRIFT_PPM_MAX,
};

#[derive(Debug)]
struct Holding<'a> {
    lock: &'a str,
    epoch: u64,
    ttl: Duration,
    called: u64,
    returned: u64,
    returned_at: Instant,
    /// It certainly held until then, unless it let go before.
    until: Instant,
    /// When it began to let go: a place in the order.
    released: Option<u64>,
}

pub fn check(evidence: &Evidence<'_>) -> Result<(), Problem> {
    let holdings = holdings(evidence);
    let mut by_lock: BTreeMap<&str, Vec<&Holding<'_>>> = BTreeMap::new();
    for holding in holdings.values() {
        by_lock.entry(holding.lock).or_default().push(holding);
    }
    for (lock, mut holdings) in by_lock {
        holdings.sort_by_key(|holding| holding.called);
        for (at, first) in holdings.iter().enumerate() {
            for second in &holdings[at + 1..] {
                if first.epoch == second.epoch {
                    return Err(format!("{lock:?} was granted twice with epoch {}", first.epoch));
                }
                if first.returned >= second.called {
                    continue;
                }
                if second.epoch < first.epoch {
                    return Err(format!(
                        "{lock:?} was granted with epoch {} after {}",
                        second.epoch, first.epoch
                    ));
                }
                // The grant was made before its answer came; so it was early if even its
                // answer was.
                let released = first.released.is_some_and(|released| released < second.returned);
                if !released && second.returned_at < first.until {
                    return Err(format!(
                        "{lock:?} was granted with epoch {} at {:?}, while epoch {} held it until {:?}",
                        second.epoch, second.returned_at, first.epoch, first.until
                    ));
                }
            }
        }
    }
    Ok(())
}

/// How much of a lease's time has certainly not passed by any leader's clock: clocks may run
/// too fast, and the holders that are judged here go by true time.
fn certain(ttl: Duration) -> Duration {
    ttl * 1_000_000 / (1_000_000 + DRIFT_PPM_MAX)
}

/// By lock and lease.
fn holdings<'a>(evidence: &Evidence<'a>) -> BTreeMap<(&'a str, u64), Holding<'a>> {
    let mut holdings = BTreeMap::new();
    for event in evidence.events {
        if let Operation::Acquire { lock, ttl, .. } = &event.operation
            && let Ending::Answered { returned, returned_at, answer: Answer::Granted { lease, epoch } } =
                &event.ending
        {
            let holding = Holding {
                lock,
                epoch: *epoch,
                ttl: *ttl,
                called: event.called,
                returned: *returned,
                returned_at: *returned_at,
                until: event.called_at + certain(*ttl),
                released: None,
            };
            holdings.insert((lock.as_str(), *lease), holding);
        }
    }
    for event in evidence.events {
        match &event.operation {
            Operation::Keep { lock, lease } if event.answer() == Some(&Answer::Done) => {
                if let Some(holding) = holdings.get_mut(&(lock.as_str(), *lease)) {
                    holding.until = holding.until.max(event.called_at + certain(holding.ttl));
                }
            }
            Operation::Release { lock, lease } if event.ending != Ending::Nothing => {
                if let Some(holding) = holdings.get_mut(&(lock.as_str(), *lease)) {
                    holding.released = Some(holding.released.map_or(event.called, |at| at.min(event.called)));
                }
            }
            _ => {}
        }
    }
    holdings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checkers::testing::Story;

    fn acquire() -> Operation {
        let ttl = Duration::from_secs(5);
        Operation::Acquire { lock: "l".into(), owner: "me".into(), ttl, id: None }
    }

    fn grant(story: &mut Story, lease: u64, epoch: u64) {
        story.answered(acquire(), Answer::Granted { lease, epoch });
    }

    #[test]
    fn one_after_the_other_is_fine() {
        let mut story = Story::default();
        grant(&mut story, 7, 1);
        story.answered(acquire(), Answer::Held { epoch: 1 });
        story.pass(Duration::from_secs(6));
        grant(&mut story, 9, 2);
        story.answered(Operation::Release { lock: "l".into(), lease: 9 }, Answer::Done);
        grant(&mut story, 11, 3);
        assert_eq!(check(&story.evidence()), Ok(()));
    }

    #[test]
    fn a_grant_before_the_others_time_is_up_is_found() {
        let mut story = Story::default();
        grant(&mut story, 7, 1);
        story.pass(Duration::from_secs(2));
        grant(&mut story, 9, 2);
        assert!(check(&story.evidence()).unwrap_err().contains("while epoch 1"));
    }

    #[test]
    fn a_keep_alive_counts() {
        let mut story = Story::default();
        grant(&mut story, 7, 1);
        story.pass(Duration::from_secs(4));
        story.answered(Operation::Keep { lock: "l".into(), lease: 7 }, Answer::Done);
        story.pass(Duration::from_secs(3));
        let mut early = story.clone();
        grant(&mut early, 9, 2);
        assert!(check(&early.evidence()).is_err());
        story.pass(Duration::from_secs(3));
        grant(&mut story, 9, 2);
        assert_eq!(check(&story.evidence()), Ok(()));
    }

    #[test]
    fn an_epoch_that_does_not_grow_is_found() {
        let mut story = Story::default();
        grant(&mut story, 7, 2);
        story.pass(Duration::from_secs(60));
        let mut same = story.clone();
        grant(&mut same, 9, 2);
        assert!(check(&same.evidence()).unwrap_err().contains("twice"));
        grant(&mut story, 9, 1);
        assert!(check(&story.evidence()).unwrap_err().contains("after 2"));
    }
}
