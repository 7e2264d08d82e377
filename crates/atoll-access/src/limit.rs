//! How often something may be done: requests a second for each key that has a limit, on this
//! node by itself. In memory: a node that starts again begins with full measure.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use atoll_types::Instant;

use crate::KeyRecord;

/// A token bucket: what may still be done, in thousandths, as of a time.
#[derive(Debug)]
pub(crate) struct Bucket {
    tokens: u64,
    filled: Instant,
}

impl Bucket {
    pub(crate) fn full(most: u32, now: Instant) -> Self {
        Self { tokens: u64::from(most) * 1000, filled: now }
    }

    /// Takes what came in since the last time.
    fn fill(&mut self, per_second: u32, most: u32, now: Instant) {
        let millis = now.saturating_since(self.filled).as_millis() as u64;
        let came = millis.saturating_mul(u64::from(per_second));
        self.tokens = self.tokens.saturating_add(came).min(u64::from(most) * 1000);
        self.filled = now;
    }

    /// Whether one more may be done now.
    pub(crate) fn admits(&mut self, per_second: u32, most: u32, now: Instant) -> bool {
        self.fill(per_second, most, now);
        match self.tokens.checked_sub(1000) {
            Some(left) => {
                self.tokens = left;
                true
            }
            None => false,
        }
    }

    pub(crate) fn is_full(&mut self, per_second: u32, most: u32, now: Instant) -> bool {
        self.fill(per_second, most, now);
        self.tokens == u64::from(most) * 1000
    }
}

/// Holds a line for each key with a limit that was used here: there are no more of them than
/// keys, and keys without one cost nothing.
#[derive(Default)]
pub(crate) struct Limits {
    buckets: Mutex<BTreeMap<String, Bucket>>,
}

impl Limits {
    /// Whether one more request is within the key's limit. A second's worth may come at
    /// once.
    pub(crate) fn admits(&self, key: &KeyRecord, now: Instant) -> bool {
        let Some(per_second) = key.requests_per_second else { return true };
        let most = per_second.max(1);
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = match buckets.get_mut(&key.access_key) {
            Some(bucket) => bucket,
            None => buckets.entry(key.access_key.clone()).or_insert(Bucket::full(most, now)),
        };
        bucket.admits(per_second, most, now)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::{Rights, Secret};

    fn key(name: &str, requests_per_second: Option<u32>) -> KeyRecord {
        KeyRecord {
            access_key: name.into(),
            secret: Secret::new("secret-secret"),
            user: "ann".into(),
            rights: Rights::ALL,
            requests_per_second,
            created: Default::default(),
        }
    }

    #[test]
    fn a_key_gets_a_second_s_worth_at_once_and_then_its_pace() {
        let limits = Limits::default();
        let (ten, free) = (key("ten", Some(10)), key("free", None));
        let admitted = |key, at, times| (0..times).filter(|_| limits.admits(key, at)).count();
        let start = Instant::default();
        assert_eq!(admitted(&ten, start, 100), 10);
        assert_eq!(admitted(&ten, start + Duration::from_millis(99), 100), 0);
        assert_eq!(admitted(&ten, start + Duration::from_millis(250), 100), 2);
        assert_eq!(admitted(&ten, start + Duration::from_secs(3600), 100), 10);
        assert_eq!(admitted(&free, start, 1000), 1000);
        let slow = key("slow", Some(0));
        assert_eq!(admitted(&slow, start, 100) + admitted(&slow, start + Duration::from_secs(9), 100), 1);
    }
}
