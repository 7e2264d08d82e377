//! One client: draws an operation, asks a target, remembers what it saw, and goes on.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use atoll_runtime::Runtime;
use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{
    Answer, Kind, Load, Operation, Outcome, SharedHistory, Size, Span, Target, keys, locks, options::chance,
    records::RecordsClient, uploads, watches::Watcher,
};
use crate::{
    executor::lock,
    linearizability::register::{Condition, Value},
};

/// Told of every answer, for a trace of the run.
pub type Note = Arc<dyn Fn(&[u8]) + Send + Sync>;

/// How often an operation is asked that may be asked again.
const TRIES: usize = 5;

/// Asks, and writes down what came of it.
pub(super) struct Caller {
    pub number: u64,
    pub runtime: Runtime,
    pub rng: StdRng,
    pub targets: Vec<Arc<dyn Target>>,
    pub history: SharedHistory,
    pub note: Note,
    /// Of a hundred operations, how many go to another target than the client's own.
    pub elsewhere: u32,
    /// See [`Load::remembered`].
    pub remembered: Duration,
}

impl Caller {
    /// Which target the next operation goes to.
    pub fn choose(&mut self) -> usize {
        if chance(&mut self.rng, self.elsewhere) {
            self.rng.random_range(0..self.targets.len())
        } else {
            self.number as usize % self.targets.len()
        }
    }

    pub async fn ask(&mut self, operation: Operation) -> Outcome {
        let target = self.choose();
        self.ask_at(target, operation).await
    }

    /// Asks one target; then others, as long as nobody answers and it may be asked again.
    pub async fn ask_at(&mut self, mut target: usize, operation: Operation) -> Outcome {
        let call = lock(&self.history).called(self.number, operation.clone(), self.runtime.now());
        let tries = if operation.may_be_asked_again() { TRIES } else { 1 };
        let mut was_sent = false;
        let asked = self.runtime.now();
        for _ in 0..tries {
            let performed = self.targets[target].clone().perform(operation.clone());
            let outcome = self.runtime.timeout(Load::LIMIT, performed).await.unwrap_or(Outcome::Unknown);
            match outcome {
                // It may have been completed by the first try, and long forgotten.
                Outcome::Answered(Answer::NoUpload)
                    if was_sent && self.runtime.now() - asked >= self.remembered =>
                {
                    return Outcome::Unknown;
                }
                Outcome::Answered(answer) => {
                    lock(&self.history).returned(call, answer.clone(), self.runtime.now());
                    (self.note)(format!("{} {operation:?} {answer:?}", self.number).as_bytes());
                    return Outcome::Answered(answer);
                }
                Outcome::NotDone if was_sent => self.runtime.sleep(Load::REFUSED).await,
                Outcome::NotDone => {
                    lock(&self.history).not_done(call);
                    self.runtime.sleep(Load::REFUSED).await;
                    return Outcome::NotDone;
                }
                Outcome::Unknown => was_sent = true,
            }
            target = self.rng.random_range(0..self.targets.len());
        }
        Outcome::Unknown
    }

    /// For work that goes on beside the client's own: another client, of a number that no
    /// other has.
    pub fn beside(&mut self, count: u64) -> Caller {
        Caller {
            number: self.number + ASIDE * count,
            runtime: self.runtime.clone(),
            rng: StdRng::seed_from_u64(self.rng.random()),
            targets: self.targets.clone(),
            history: self.history.clone(),
            note: self.note.clone(),
            elsewhere: self.elsewhere,
            remembered: self.remembered,
        }
    }
}

/// More than there are clients.
const ASIDE: u64 = 1 << 20;

pub struct Client {
    caller: Caller,
    load: Load,
    names: Vec<String>,
    /// Operations so far: makes values, ids and numbers.
    count: u64,
    /// What it last saw of each key: what a condition names.
    seen: BTreeMap<String, Value>,
    records: RecordsClient,
    watcher: Watcher,
}

impl Client {
    /// Clients of one history have different numbers, below 2^20; `number` modulo the
    /// number of targets is the client's own.
    pub fn new(
        number: u64,
        load: Load,
        runtime: Runtime,
        rng: StdRng,
        targets: Vec<Arc<dyn Target>>,
        history: SharedHistory,
        note: Note,
    ) -> Self {
        let (elsewhere, remembered) = (load.elsewhere, load.remembered);
        Self {
            names: keys::names(&load),
            caller: Caller { number, runtime, rng, targets, history, note, elsewhere, remembered },
            load,
            count: 0,
            seen: BTreeMap::new(),
            records: RecordsClient::default(),
            watcher: Watcher::default(),
        }
    }

    /// Until `go_on` says no more.
    pub async fn run(mut self, go_on: Arc<AtomicBool>) {
        while go_on.load(Ordering::Relaxed) {
            let think = self.caller.rng.random_range(self.load.think.clone());
            self.caller.runtime.sleep(think).await;
            self.count += 1;
            match self.load.draw(&mut self.caller.rng) {
                Kind::Get => self.get().await,
                Kind::Put => self.put().await,
                Kind::Delete => self.delete().await,
                Kind::Copy => self.copy().await,
                Kind::List => self.list().await,
                Kind::Upload => self.upload(&go_on).await,
                Kind::Transact => {
                    let fresh = self.fresh();
                    self.records.transact(&mut self.caller, fresh, self.load.over_http).await;
                }
                Kind::Lock => locks::hold(&mut self.caller, self.load.over_http, &go_on).await,
                Kind::Watch => self.watcher.watch(&mut self.caller).await,
            }
        }
    }

    /// A number that no other client and no other operation of this one has.
    fn fresh(&self) -> u64 {
        self.caller.number * 1_000_000 + self.count
    }

    fn key(&mut self) -> String {
        keys::draw(&mut self.caller.rng, &self.load, &self.names)
    }

    fn condition(&mut self, key: &str) -> Condition {
        let seen = self.seen.get(key).copied();
        match (chance(&mut self.caller.rng, self.load.conditional), seen) {
            (true, Some(value)) if self.caller.rng.random_bool(0.8) => Condition::Is(value),
            (true, _) => Condition::Absent,
            (false, _) => Condition::None,
        }
    }

    fn id(&mut self) -> Option<u128> {
        chance(&mut self.caller.rng, self.load.again).then(|| self.caller.rng.random())
    }

    fn saw(&mut self, key: String, present: Option<Value>) {
        match present {
            Some(value) => self.seen.insert(key, value),
            None => self.seen.remove(&key),
        };
    }

    async fn get(&mut self) {
        let key = self.key();
        let mut span = None;
        if let Some(value) = self.seen.get(&key)
            && chance(&mut self.caller.rng, self.load.spans)
        {
            let length = value.length();
            if length > 0 {
                let first = self.caller.rng.random_range(0..length);
                span = Some(Span { first, last: self.caller.rng.random_range(first..length) });
            }
        }
        let outcome = self.caller.ask(Operation::Get { key: key.clone(), span }).await;
        if let Outcome::Answered(Answer::Found(found)) = outcome {
            self.saw(key, found);
        }
    }

    async fn put(&mut self) {
        let key = self.key();
        let size = Size::drawn(&mut self.caller.rng, self.load.large);
        let (value, condition, id) =
            (Value::sized(self.fresh(), size, !self.load.over_http), self.condition(&key), self.id());
        let outcome = self.caller.ask(Operation::Put { key: key.clone(), value, condition, id }).await;
        if outcome == Outcome::Answered(Answer::Done) {
            self.saw(key, Some(value));
        }
    }

    async fn delete(&mut self) {
        let key = self.key();
        let (condition, id) = (self.condition(&key), self.id());
        let outcome = self.caller.ask(Operation::Delete { key: key.clone(), condition, id }).await;
        if outcome == Outcome::Answered(Answer::Done) {
            self.saw(key, None);
        }
    }

    async fn copy(&mut self) {
        let known: Vec<(&String, &Value)> = self.seen.iter().collect();
        if known.is_empty() {
            return;
        }
        let (from, value) = known[self.caller.rng.random_range(0..known.len())];
        let (from, value) = (from.clone(), *value);
        let to = self.key();
        let condition = if self.load.over_http { Condition::None } else { self.condition(&to) };
        let id = self.id();
        let copy = Operation::Copy { from: from.clone(), value, to: to.clone(), condition, id };
        match self.caller.ask(copy).await {
            Outcome::Answered(Answer::Done) => self.saw(to, Some(value)),
            Outcome::Answered(Answer::SourceRefused) => self.saw(from, None),
            _ => {}
        }
    }

    /// A few pages, one after the other.
    async fn list(&mut self) {
        let (prefix, delimiter, mut after, limit) = keys::draw_listing(&mut self.caller.rng, &self.names);
        for _ in 0..4 {
            let (prefix, delimiter) = (prefix.clone(), delimiter.clone());
            let outcome = self.caller.ask(Operation::List { prefix, delimiter, after, limit }).await;
            match outcome {
                Outcome::Answered(Answer::Page(page)) if page.next.is_some() => after = page.next,
                _ => return,
            }
        }
    }

    /// Goes on beside the client, if it is a slow one.
    async fn upload(&mut self, go_on: &Arc<AtomicBool>) {
        let key = self.key();
        let size = Size::drawn_in_parts(&mut self.caller.rng, self.load.large);
        let (value, condition) =
            (Value::sized(self.fresh(), size, !self.load.over_http), self.condition(&key));
        let abort = chance(&mut self.caller.rng, 15);
        if chance(&mut self.caller.rng, self.load.slow_uploads) {
            let pause = self.load.upload_pause.clone();
            let mut caller = self.caller.beside(self.count);
            let (runtime, go_on) = (caller.runtime.clone(), go_on.clone());
            drop(runtime.spawn("slow upload", async move {
                uploads::upload(&mut caller, key, value, condition, abort, Some(pause), &go_on).await;
            }));
            return;
        }
        let done = uploads::upload(&mut self.caller, key.clone(), value, condition, abort, None, go_on).await;
        if done {
            self.saw(key, Some(value));
        }
    }
}
