//! Requests a second for each key that has a limit, on this node by itself. In memory: a
//! node that starts again begins with full measure.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use atoll_types::Instant;

use crate::KeyRecord;

/// What a key may still do, in thousandths of a request, as of a time.
struct Bucket {
    tokens: u64,
    filled: Instant,
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
        let most = u64::from(per_second.max(1)) * 1000;
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let bucket = match buckets.get_mut(&key.access_key) {
            Some(bucket) => bucket,
            None => buckets.entry(key.access_key.clone()).or_insert(Bucket { tokens: most, filled: now }),
        };
        let millis = now.saturating_since(bucket.filled).as_millis() as u64;
        bucket.tokens = bucket.tokens.saturating_add(millis.saturating_mul(u64::from(per_second))).min(most);
        bucket.filled = now;
        match bucket.tokens.checked_sub(1000) {
            Some(left) => {
                bucket.tokens = left;
                true
            }
            None => false,
        }
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
