//! Clients that ask a store as fast as it answers, for a stretch of time.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use http::header;
use rand::{Rng, rngs::StdRng};
use tokio::task::JoinSet;

use super::{
    parameters::{Mix, Operation},
    pool::{Pool, Set},
    store::{CONDITION_IGNORED, LIES, RequestError, Store, WRONG_LISTING},
};

/// Clients at each key that is put with `If-Match`.
const CLIENTS_PER_REPLACED_KEY: usize = 4;
/// After an error: a store that answers nothing else is not asked a million times.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(10);

/// What was seen of one operation.
#[derive(Clone)]
pub struct Seen {
    pub micros: Histogram<u64>,
    pub keys: u64,
    pub bytes: u64,
    pub refused: u64,
    pub errors: BTreeMap<String, u64>,
    pub first_error: Option<String>,
}

impl Default for Seen {
    fn default() -> Self {
        // 1 µs to an hour, three digits.
        let micros = Histogram::new_with_bounds(1, 3_600_000_000, 3).expect("constant bounds");
        Self { micros, keys: 0, bytes: 0, refused: 0, errors: BTreeMap::new(), first_error: None }
    }
}

impl Seen {
    pub fn add(&mut self, other: &Seen) {
        self.micros.add(&other.micros).expect("equal bounds");
        self.keys += other.keys;
        self.bytes += other.bytes;
        self.refused += other.refused;
        for (code, count) in &other.errors {
            *self.errors.entry(code.clone()).or_default() += count;
        }
        if self.first_error.is_none() {
            self.first_error.clone_from(&other.first_error);
        }
    }

    /// Answered as they should be, refusals by a condition among them.
    pub fn requests(&self) -> u64 {
        self.micros.len()
    }

    /// Answered in any way, or not at all.
    pub fn begun(&self) -> u64 {
        self.requests() + self.errors.values().sum::<u64>()
    }

    /// Only what makes all figures worthless, if there is any.
    pub fn lies(self) -> Option<Seen> {
        let codes = self.errors.len();
        let errors: BTreeMap<String, u64> =
            self.errors.into_iter().filter(|(code, _)| LIES.contains(&code.as_str())).collect();
        if errors.is_empty() {
            return None;
        }
        // It may be another's.
        let first_error = self.first_error.filter(|_| errors.len() == codes);
        Some(Seen { errors, first_error, ..Seen::default() })
    }

    fn note(&mut self, took: Duration, result: Result<Brought, RequestError>) {
        match result {
            Ok(brought) => {
                self.keys += brought.keys;
                self.bytes += brought.bytes;
            }
            Err(RequestError::Refused) => self.refused += 1,
            Err(RequestError::Failed { code, text }) => {
                *self.errors.entry(code).or_default() += 1;
                self.first_error.get_or_insert(text);
                return;
            }
        }
        self.micros.saturating_record(took.as_micros() as u64);
    }
}

/// What a request brought, or took.
#[derive(Default)]
struct Brought {
    keys: u64,
    bytes: u64,
}

/// What to ask for in a stretch.
pub struct Order {
    pub operation: Operation,
    /// With `Operation::Mixed`.
    pub mix: Option<Mix>,
    pub range_bytes: u64,
    /// How many keys a listing has.
    pub keys: u64,
}

/// When a stretch is over, and how far it is.
pub struct Stretch {
    pub until: Instant,
    /// No more than so many requests begin.
    pub requests_max: u64,
    pub begun: AtomicU64,
    pub done: Arc<AtomicU64>,
}

impl Stretch {
    fn admits_another(&self) -> bool {
        Instant::now() < self.until && self.begun.fetch_add(1, Ordering::Relaxed) < self.requests_max
    }
}

/// One of those that ask at the same time. It goes from stretch to stretch.
pub struct Asker {
    store: Arc<Store>,
    pool: Arc<Pool>,
    endpoint: usize,
    number: usize,
    rng: StdRng,
    /// Where the next page begins, and how many keys the ones before had.
    page: Option<String>,
    keys_before: u64,
    seen: BTreeMap<Operation, Seen>,
}

impl Asker {
    /// `count` of them, spread round robin over the store's endpoints.
    pub fn some(count: u16, store: &Arc<Store>, pool: &Arc<Pool>, rng: &mut StdRng) -> Vec<Asker> {
        let asker = |number: usize| Asker {
            store: store.clone(),
            pool: pool.clone(),
            endpoint: number % store.endpoints(),
            number,
            rng: rand::SeedableRng::from_rng(rng),
            page: None,
            keys_before: 0,
            seen: BTreeMap::new(),
        };
        (0..usize::from(count)).map(asker).collect()
    }

    /// Asks until the stretch is over. `seen` then has what this stretch brought.
    async fn work(mut self, order: Arc<Order>, stretch: Arc<Stretch>) -> Self {
        self.seen.clear();
        while stretch.admits_another() {
            let mut operation = match &order.mix {
                Some(mix) if order.operation == Operation::Mixed => mix.draw(&mut self.rng),
                _ => order.operation,
            };
            let mut victim = None;
            if operation == Operation::Delete {
                victim = self.pool.take(&mut self.rng);
                match (victim, order.operation) {
                    (Some(_), _) => {}
                    // Puts have not made enough yet.
                    (None, Operation::Mixed) => operation = Operation::Put,
                    (None, _) => break,
                }
            }
            let sent = Instant::now();
            let (took, result) = match operation {
                // The ETag may have to be asked for first, which is not the put's time.
                Operation::PutIfMatch => self.put_if_match().await,
                _ => {
                    let result = self.once(operation, victim, &order).await;
                    (sent.elapsed(), result)
                }
            };
            let failed = matches!(result, Err(RequestError::Failed { .. }));
            self.seen.entry(operation).or_default().note(took, result);
            stretch.done.fetch_add(1, Ordering::Relaxed);
            if failed {
                tokio::time::sleep(PAUSE_AFTER_ERROR).await;
            }
        }
        self
    }

    async fn once(
        &mut self,
        operation: Operation,
        victim: Option<u64>,
        order: &Order,
    ) -> Result<Brought, RequestError> {
        let size = self.pool.size;
        match operation {
            Operation::Put => self.put_new(Set::Written).await,
            Operation::PutIfNoneMatch => self.put_if_none_match().await,
            Operation::Get => self.get(size, true).await,
            Operation::Range => self.get(order.range_bytes, false).await,
            Operation::List => self.list(order.keys).await,
            Operation::Delete => {
                let key = self.pool.key(Set::Written, victim.expect("a deletion has a victim"));
                self.store.delete(self.endpoint, &key).await.map(|()| Brought::default())
            }
            Operation::PutIfMatch | Operation::Mixed => unreachable!("taken apart before"),
        }
    }

    async fn put_new(&self, set: Set) -> Result<Brought, RequestError> {
        let number = self.pool.new_number();
        let (key, content) = (self.pool.key(set, number), self.pool.content(number));
        self.store.put(self.endpoint, &key, content, None).await?;
        self.pool.add(set, number);
        Ok(Brought { bytes: self.pool.size, keys: 0 })
    }

    async fn put_if_none_match(&self) -> Result<Brought, RequestError> {
        let number = self.pool.paired_number();
        let (key, content) = (self.pool.key(Set::Written, number), self.pool.content(number));
        self.store.put(self.endpoint, &key, content, Some((header::IF_NONE_MATCH, "*"))).await?;
        if !self.pool.spend(key) {
            return Err(RequestError::failed(CONDITION_IGNORED, "two puts made one key with If-None-Match"));
        }
        self.pool.add(Set::Written, number);
        Ok(Brought { bytes: self.pool.size, keys: 0 })
    }

    /// Rivals are neighbours, so that they meet at one key through all endpoints.
    fn replaced_index(&self) -> usize {
        self.number / CLIENTS_PER_REPLACED_KEY
    }

    async fn put_if_match(&self) -> (Duration, Result<Brought, RequestError>) {
        let index = self.replaced_index();
        let key = self.pool.replaced_key(index);
        let known = match self.pool.etag(index) {
            Some(etag) => etag,
            None => match self.store.etag(self.endpoint, &key).await {
                Ok(etag) => {
                    self.pool.replace_etag(index, None, Some(etag.clone()));
                    etag
                }
                Err(error) => return (Duration::ZERO, Err(error)),
            },
        };
        let content = self.pool.content(self.pool.new_number());
        let sent = Instant::now();
        let put = self.store.put(self.endpoint, &key, content, Some((header::IF_MATCH, &known))).await;
        let took = sent.elapsed();
        let result = match put {
            Ok(etag) => {
                self.pool.replace_etag(index, Some(&known), etag);
                if self.pool.spend(format!("{key} {known}")) {
                    Ok(Brought { bytes: self.pool.size, keys: 0 })
                } else {
                    let text = "two puts replaced one version with If-Match";
                    Err(RequestError::failed(CONDITION_IGNORED, text))
                }
            }
            Err(error) => {
                // The next that tries asks for the newest, if the one who won has not said it.
                self.pool.replace_etag(index, Some(&known), None);
                Err(error)
            }
        };
        (took, result)
    }

    async fn get(&mut self, bytes: u64, whole: bool) -> Result<Brought, RequestError> {
        let number = self.pool.pick(&mut self.rng);
        let number = number.ok_or_else(|| RequestError::failed("NoObjects", "there is nothing to get"))?;
        let offset = self.rng.random_range(0..=self.pool.size - bytes);
        let (key, content) = (self.pool.key(Set::Fixed, number), self.pool.content(number));
        self.store.get(self.endpoint, &key, &content, (offset, bytes), whole).await?;
        Ok(Brought { bytes, keys: 0 })
    }

    async fn list(&mut self, expected: u64) -> Result<Brought, RequestError> {
        let page = self.page.take();
        let (keys, next) =
            self.store.list(self.endpoint, &self.pool.listed_prefix(), page.as_deref()).await?;
        let so_far = if page.is_some() { self.keys_before } else { 0 } + keys;
        self.keys_before = so_far;
        let whole = next.is_none();
        self.page = next;
        if whole && so_far != expected {
            let text = format!("a listing showed {so_far} of {expected} keys");
            return Err(RequestError::failed(WRONG_LISTING, text));
        }
        Ok(Brought { keys, bytes: 0 })
    }
}

/// All ask at once until the stretch is over and the last answer is there. `tick` is called
/// now and then meanwhile.
pub async fn ask(
    askers: &mut Vec<Asker>,
    order: &Arc<Order>,
    stretch: &Arc<Stretch>,
    mut tick: impl FnMut(),
) -> (BTreeMap<Operation, Seen>, f64) {
    let began = Instant::now();
    let mut working = JoinSet::new();
    for asker in askers.drain(..) {
        working.spawn(asker.work(order.clone(), stretch.clone()));
    }
    let mut ticks = tokio::time::interval(Duration::from_millis(250));
    let mut seen: BTreeMap<Operation, Seen> = BTreeMap::new();
    loop {
        tokio::select! {
            biased;
            done = working.join_next() => {
                let Some(done) = done else { break };
                let asker = done.expect("an asker does not panic");
                for (operation, more) in &asker.seen {
                    seen.entry(*operation).or_default().add(more);
                }
                askers.push(asker);
            }
            _ = ticks.tick() => tick(),
        }
    }
    (seen, began.elapsed().as_secs_f64())
}

/// Puts objects until `set` has `count`.
pub async fn fill(
    askers: Vec<Asker>,
    set: Set,
    count: u64,
    mut tick: impl FnMut(u64),
) -> Result<(), RequestError> {
    let Some(pool) = askers.first().map(|asker| asker.pool.clone()) else { return Ok(()) };
    let missing = Arc::new(AtomicU64::new(count.saturating_sub(pool.count(set))));
    let mut working = JoinSet::new();
    for asker in askers {
        let missing = missing.clone();
        working.spawn(async move {
            let less = |left: u64| left.checked_sub(1);
            while missing.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok() {
                asker.put_new(set).await?;
            }
            Ok::<(), RequestError>(())
        });
    }
    let mut ticks = tokio::time::interval(Duration::from_millis(250));
    loop {
        tokio::select! {
            biased;
            done = working.join_next() => match done {
                Some(done) => done.expect("an asker does not panic")?,
                None => return Ok(()),
            },
            _ = ticks.tick() => tick(pool.count(set)),
        }
    }
}

/// Makes the objects that are replaced, once.
pub async fn fill_replaced(store: &Store, pool: &Pool, clients: u16) -> Result<(), RequestError> {
    for index in pool.replaced_keys()..usize::from(clients).div_ceil(CLIENTS_PER_REPLACED_KEY) {
        let content = pool.content(pool.new_number());
        pool.add_replaced(store.put(0, &pool.replaced_key(index), content, None).await?);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use rand::SeedableRng;

    use super::*;
    use crate::bench::s3::{body::Contents, store::StorePlace};

    #[test]
    fn rivals_for_a_key_ask_different_endpoints() {
        let endpoints = ["http://127.0.0.1:1", "http://127.0.0.1:2"].map(str::to_owned);
        let place = StorePlace {
            endpoints: &endpoints,
            access_key: "key",
            secret_key: "secret",
            region: "us-east-1",
            bucket: "bucket",
            prefix: None,
        };
        let mut rng = StdRng::seed_from_u64(5);
        let pool = Arc::new(Pool::new(8, Contents::new(rng.clone()), ""));
        let store = Arc::new(Store::new(&place).expect("two endpoints"));
        let askers = Asker::some(8, &store, &pool, &mut rng);
        let met: BTreeSet<(usize, usize)> =
            askers.iter().map(|asker| (asker.replaced_index(), asker.endpoint)).collect();
        assert_eq!(met, BTreeSet::from([(0, 0), (0, 1), (1, 0), (1, 1)]));
    }

    #[test]
    fn of_a_warm_up_only_lies_are_kept() {
        let mut seen = Seen::default();
        seen.note(Duration::from_millis(1), Ok(Brought { keys: 1, bytes: 1 }));
        seen.note(Duration::from_millis(1), Err(RequestError::failed("SlowDown", "later")));
        assert!(seen.clone().lies().is_none());
        seen.note(Duration::from_millis(1), Err(RequestError::failed(WRONG_LISTING, "a key is hidden")));
        assert_eq!(seen.begun(), 3);
        let lies = seen.lies().expect("one lie");
        assert_eq!(lies.errors, BTreeMap::from([(WRONG_LISTING.to_owned(), 1)]));
        assert_eq!((lies.requests(), lies.keys, lies.first_error), (0, 0, None));
    }
}
