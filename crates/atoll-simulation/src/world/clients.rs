//! Clients: random gets, puts and deletes, most with conditions, on few hot keys.

use std::{
    collections::BTreeMap,
    ops::RangeInclusive,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use atoll_runtime::Runtime;
use rand::{Rng, rngs::StdRng};

use super::{Station, World};
use crate::{
    Tracer,
    executor::lock,
    linearizability::{
        History,
        register::{Action, Condition, Input, Output, Value},
    },
};

/// What each client does, again and again.
#[derive(Debug, Clone, PartialEq)]
pub struct Load {
    pub keys: usize,
    /// How long it thinks between two operations.
    pub think: RangeInclusive<Duration>,
    /// Of a hundred operations, how many are gets and how many deletes; the rest are puts.
    pub gets: u32,
    pub deletes: u32,
    /// Of a hundred puts and deletes, how many have a condition.
    pub conditional: u32,
    /// Of a hundred operations, how many go to some other node than the client's own.
    pub elsewhere: u32,
}

impl Default for Load {
    fn default() -> Self {
        Self {
            keys: 5,
            think: Duration::ZERO..=Duration::from_millis(200),
            gets: 45,
            deletes: 5,
            conditional: 60,
            elsewhere: 20,
        }
    }
}

impl Load {
    /// How long a client waits for an answer.
    pub const LIMIT: Duration = Duration::from_secs(10);
    /// One way between a client and its node, at most.
    const DELAY_MAX: Duration = Duration::from_millis(2);
    /// How long it waits when nobody is there to be asked.
    const REFUSED: Duration = Duration::from_millis(100);
}

struct Client {
    number: usize,
    load: Load,
    runtime: Runtime,
    rng: StdRng,
    stations: Vec<Arc<Station>>,
    history: Arc<Mutex<History<Input, Output>>>,
    tracer: Tracer,
    /// What it last saw of each key: what a condition names.
    seen: BTreeMap<String, Value>,
}

impl World {
    /// Adds clients of the nodes there are now; they go on until [`World::check`].
    pub fn clients(&mut self, count: usize, load: Load) {
        for _ in 0..count {
            let number = self.clients;
            self.clients += 1;
            let client = Client {
                number,
                load: load.clone(),
                runtime: self.simulation.world_runtime(),
                rng: self.seed().stream(&format!("client {number}")),
                stations: self.machines.iter().map(|machine| machine.station.clone()).collect(),
                history: self.history.clone(),
                tracer: self.simulation.tracer(),
                seen: BTreeMap::new(),
            };
            let go_on = self.clients_go_on.clone();
            self.simulation.world_runtime().spawn("client", client.run(go_on));
        }
    }
}

impl Client {
    async fn run(mut self, go_on: Arc<AtomicBool>) {
        let mut count = 0;
        while go_on.load(Ordering::Relaxed) {
            let think = self.rng.random_range(self.load.think.clone());
            self.runtime.sleep(think).await;
            count += 1;
            let input = self.next(count);
            let own = self.number % self.stations.len();
            let elsewhere = self.rng.random_range(0..100) < self.load.elsewhere;
            let node = if elsewhere { self.rng.random_range(0..self.stations.len()) } else { own };
            self.operate(node, input).await;
        }
    }

    /// Each value is written once in a run: the client's number and a count of its own.
    fn next(&mut self, count: u64) -> Input {
        let key = format!("key {}", self.rng.random_range(0..self.load.keys));
        let seen = self.seen.get(&key).copied();
        let condition = match (self.rng.random_range(0..100) < self.load.conditional, seen) {
            (true, Some(value)) if self.rng.random_bool(0.8) => Condition::Is(value),
            (true, _) => Condition::Absent,
            (false, _) => Condition::None,
        };
        let drawn = self.rng.random_range(0..100);
        let action = if drawn < self.load.gets {
            Action::Get
        } else if drawn < self.load.gets + self.load.deletes {
            Action::Delete(condition)
        } else {
            Action::Put(Value(self.number as u64 * 1_000_000 + count), condition)
        };
        Input { key, action }
    }

    async fn delay(&mut self) {
        let delay = self.rng.random_range(Duration::ZERO..=Load::DELAY_MAX);
        self.runtime.sleep(delay).await;
    }

    async fn operate(&mut self, node: usize, input: Input) {
        let station = self.stations[node].clone();
        let Some((runtime, life)) = lock(&station.life).clone() else {
            // Connection refused: it was not sent, so it is not part of the history.
            return self.runtime.sleep(Load::REFUSED).await;
        };
        let called_at = self.runtime.now();
        let call = lock(&self.history).called(self.number as u64, input.clone());
        self.delay().await;
        let task = runtime.spawn("operation", life.perform(input.clone()));
        let Ok(Some(Some(output))) = self.runtime.timeout(Load::LIMIT, task).await else { return };
        self.delay().await;
        lock(&self.history).returned(call, output);
        self.tracer.note(format!("{} {input:?} {output:?}", self.number).as_bytes());
        *lock(&station.answered) = Some(called_at);
        let present = match (input.action, output) {
            (Action::Get, Output::Found(found)) => found,
            (Action::Put(value, _), Output::Done) => Some(value),
            (Action::Delete(_), Output::Done) => None,
            _ => return,
        };
        match present {
            Some(value) => self.seen.insert(input.key, value),
            None => self.seen.remove(&input.key),
        };
    }
}
