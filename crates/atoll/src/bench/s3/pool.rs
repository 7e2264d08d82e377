//! The objects of one size in one store: what there is, what comes next, and who may have
//! which. Nothing here speaks to the store.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use rand::{Rng, rngs::StdRng};

use super::body::{Content, Contents};

/// Drawn in vain so often because others read what was drawn, nothing is deleted for now.
const DRAWS: usize = 8;

pub struct Pool {
    pub size: u64,
    contents: Contents,
    /// Where the keys begin that a listing shows.
    prefix: String,
    next: AtomicU64,
    state: Mutex<PoolState>,
    /// Nobody knows whether something was put or deleted, so a listing can't be checked.
    unsure: AtomicBool,
}

#[derive(Default)]
struct PoolState {
    /// A reader has a second reference; what has one may be deleted.
    live: Vec<Arc<u64>>,
    /// The number that a first client puts if there is none, and a second is about to.
    half_of_a_pair: Option<u64>,
    /// Conditions under which a put succeeded. None may a second time.
    spent: BTreeSet<String>,
    /// By key, the ETag that was seen last, if it may still hold.
    etags: Vec<Option<String>>,
}

impl Pool {
    pub fn new(size: u64, contents: Contents, prefix: &str) -> Self {
        Self {
            size,
            contents,
            prefix: prefix.to_owned(),
            next: AtomicU64::new(0),
            state: Mutex::default(),
            unsure: AtomicBool::new(false),
        }
    }

    fn state(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().expect("nobody panics holding it")
    }

    pub fn key(&self, number: u64) -> String {
        format!("{}objects/{}/{number:08}", self.prefix, self.size)
    }

    /// Of the objects that are there once each, which are all that listings show.
    pub fn listed_prefix(&self) -> String {
        format!("{}objects/", self.prefix)
    }

    /// Of an object that is replaced again and again.
    pub fn replaced_key(&self, index: usize) -> String {
        format!("{}replaced/{}/{index}", self.prefix, self.size)
    }

    pub fn content(&self, number: u64) -> Content {
        self.contents.of(number, self.size)
    }

    pub fn new_number(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// The same number twice, then the next.
    pub fn paired_number(&self) -> u64 {
        let mut state = self.state();
        match state.half_of_a_pair.take() {
            Some(number) => number,
            None => *state.half_of_a_pair.insert(self.new_number()),
        }
    }

    pub fn add(&self, number: u64) {
        self.state().live.push(Arc::new(number));
    }

    pub fn count(&self) -> u64 {
        self.state().live.len() as u64
    }

    /// One to read: nobody deletes it while the reference lives.
    pub fn pick(&self, rng: &mut StdRng) -> Option<Arc<u64>> {
        let state = self.state();
        if state.live.is_empty() {
            return None;
        }
        Some(state.live[rng.random_range(0..state.live.len())].clone())
    }

    /// One to delete, of which nobody else hears any more.
    pub fn take(&self, rng: &mut StdRng) -> Option<u64> {
        let mut state = self.state();
        for _ in 0..DRAWS {
            if state.live.is_empty() {
                return None;
            }
            let index = rng.random_range(0..state.live.len());
            // References are made under this lock only.
            if Arc::strong_count(&state.live[index]) == 1 {
                return Some(*state.live.swap_remove(index));
            }
        }
        None
    }

    pub fn doubt(&self) {
        self.unsure.store(true, Ordering::Relaxed);
    }

    pub fn is_sure(&self) -> bool {
        !self.unsure.load(Ordering::Relaxed)
    }

    /// Whether this is the first success under `condition`.
    pub fn spend(&self, condition: String) -> bool {
        self.state().spent.insert(condition)
    }

    pub fn replaced_keys(&self) -> usize {
        self.state().etags.len()
    }

    pub fn add_replaced(&self, etag: Option<String>) {
        self.state().etags.push(etag);
    }

    pub fn etag(&self, index: usize) -> Option<String> {
        self.state().etags[index].clone()
    }

    /// `seen` was found after `sent`; it is kept unless somebody has found another since.
    pub fn replace_etag(&self, index: usize, sent: Option<&str>, seen: Option<String>) {
        let mut state = self.state();
        if state.etags[index].as_deref() == sent {
            state.etags[index] = seen;
        }
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    #[test]
    fn what_somebody_reads_is_not_given_away_to_be_deleted() {
        let mut rng = StdRng::seed_from_u64(5);
        let pool = Pool::new(1, Contents::new(rng.clone()), "");
        pool.add(pool.new_number());
        let read = pool.pick(&mut rng).unwrap();
        assert_eq!(pool.take(&mut rng), None);
        drop(read);
        assert_eq!(pool.take(&mut rng), Some(0));
        assert_eq!(pool.take(&mut rng), None);
        assert!(pool.pick(&mut rng).is_none());
    }

    #[test]
    fn two_clients_get_each_number_of_a_pair() {
        let pool = Pool::new(1, Contents::new(StdRng::seed_from_u64(5)), "");
        let numbers: Vec<u64> = (0..5).map(|_| pool.paired_number()).collect();
        assert_eq!(numbers, [0, 0, 1, 1, 2]);
        assert_eq!(pool.new_number(), 3);
    }
}
