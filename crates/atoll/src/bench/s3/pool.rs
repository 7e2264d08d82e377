//! The objects of one size in one store: what there is, what comes next, and who may have
//! which. Nothing here speaks to the store.

use std::{
    collections::BTreeSet,
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use rand::{Rng, rngs::StdRng};

use super::body::{Content, Contents};

/// What is read does not depend on how fast the store takes puts, and nobody deletes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Set {
    /// Made beforehand, to be got and listed.
    Fixed,
    /// What puts left, to be deleted.
    Written,
}

pub struct Pool {
    pub size: u64,
    contents: Contents,
    /// Where the keys begin that a listing shows.
    prefix: String,
    next: AtomicU64,
    state: Mutex<PoolState>,
}

#[derive(Default)]
struct PoolState {
    fixed: Vec<u64>,
    written: Vec<u64>,
    /// The number that a first client puts if there is none, and a second is about to.
    half_of_a_pair: Option<u64>,
    /// Conditions under which a put succeeded. None may a second time.
    spent: BTreeSet<String>,
    /// By key, the ETag that was seen last, if it may still hold.
    etags: Vec<Option<String>>,
}

impl PoolState {
    fn of(&mut self, set: Set) -> &mut Vec<u64> {
        match set {
            Set::Fixed => &mut self.fixed,
            Set::Written => &mut self.written,
        }
    }
}

impl Pool {
    pub fn new(size: u64, contents: Contents, prefix: &str) -> Self {
        Self { size, contents, prefix: prefix.to_owned(), next: AtomicU64::new(0), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, PoolState> {
        self.state.lock().expect("nobody panics holding it")
    }

    pub fn key(&self, set: Set, number: u64) -> String {
        let folder = match set {
            Set::Fixed => "objects",
            Set::Written => "written",
        };
        format!("{}{folder}/{}/{number:08}", self.prefix, self.size)
    }

    /// Of `Set::Fixed` at all sizes, which is all that listings show.
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

    pub fn add(&self, set: Set, number: u64) {
        self.state().of(set).push(number);
    }

    pub fn count(&self, set: Set) -> u64 {
        self.state().of(set).len() as u64
    }

    /// One to read.
    pub fn pick(&self, rng: &mut StdRng) -> Option<u64> {
        let state = self.state();
        if state.fixed.is_empty() {
            return None;
        }
        Some(state.fixed[rng.random_range(0..state.fixed.len())])
    }

    /// One to delete, of which nobody else hears any more.
    pub fn take(&self, rng: &mut StdRng) -> Option<u64> {
        let mut state = self.state();
        if state.written.is_empty() {
            return None;
        }
        let index = rng.random_range(0..state.written.len());
        Some(state.written.swap_remove(index))
    }

    /// Leaves `count` to be deleted: another store has no more.
    pub fn forget_beyond(&self, count: u64) {
        self.state().written.truncate(count as usize);
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
    fn what_is_read_is_what_was_made_for_it_and_is_never_deleted() {
        let mut rng = StdRng::seed_from_u64(5);
        let pool = Pool::new(1, Contents::new(rng.clone()), "");
        pool.add(Set::Fixed, pool.new_number());
        assert_eq!(pool.take(&mut rng), None);
        for _ in 0..3 {
            pool.add(Set::Written, pool.new_number());
        }
        assert!((0..100).all(|_| pool.pick(&mut rng) == Some(0)));
        pool.forget_beyond(2);
        let mut taken = [pool.take(&mut rng), pool.take(&mut rng)];
        taken.sort_unstable();
        assert_eq!(taken, [Some(1), Some(2)]);
        assert_eq!(pool.take(&mut rng), None);
        assert_eq!((pool.count(Set::Fixed), pool.pick(&mut rng)), (1, Some(0)));
        assert!(pool.key(Set::Fixed, 0).starts_with(&pool.listed_prefix()));
        assert!(!pool.key(Set::Written, 1).starts_with(&pool.listed_prefix()));
    }

    #[test]
    fn two_clients_get_each_number_of_a_pair() {
        let pool = Pool::new(1, Contents::new(StdRng::seed_from_u64(5)), "");
        let numbers: Vec<u64> = (0..5).map(|_| pool.paired_number()).collect();
        assert_eq!(numbers, [0, 0, 1, 1, 2]);
        assert_eq!(pool.new_number(), 3);
    }
}
