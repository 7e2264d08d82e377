//! The world itself, before anything of Atoll's runs in it: a program so small that one
//! sees that it is right, and the same with a fault, which the world must find.

mod logs;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use atoll_disk::{OrderedStore, Table, WriteBatch};
use atoll_simulation::{
    Seed,
    linearizability::register::{Action, Condition, Input, Output, Value},
    load::{Load, Operation, Outcome, Target},
    seeds,
    world::{Life, Place, Program, Storm, World, stable},
};
use atoll_transport::{Admission, Caller, Handler, Message, Protocol, Refusal};
use atoll_types::NodeId;
use futures_util::{FutureExt, future::BoxFuture};

/// Node 0 holds the only copy; the others ask it.
#[derive(Clone, Copy, Default)]
struct SingleCopy {
    fault: Option<Fault>,
}

#[derive(Clone, Copy, PartialEq)]
enum Fault {
    /// Acknowledges what is not flushed.
    ForgetsToFlush,
    /// The other nodes answer a get from what they saw last.
    ServesStaleReads,
    /// A condition is checked by the node that was asked, not by the one that writes.
    ChecksTooEarly,
}

struct Copy {
    fault: Option<Fault>,
    place: Place,
    /// One operation at a time, as one copy has it.
    turn: tokio::sync::Mutex<()>,
    cache: Mutex<BTreeMap<String, Output>>,
}

impl Program for SingleCopy {
    fn start(&self, place: Place) -> BoxFuture<'static, Arc<dyn Life>> {
        let fault = self.fault;
        async move {
            let copy = Arc::new(Copy { fault, place, turn: Default::default(), cache: Default::default() });
            copy.place.transport.set_admission(Arc::new(Everyone));
            copy.place.transport.serve(Protocol::Bench, Arc::new(Answers(copy.clone())));
            copy as Arc<dyn Life>
        }
        .boxed()
    }
}

struct Everyone;

impl Admission for Everyone {
    fn admits(&self, _peer: &NodeId, _protocol: Protocol) -> bool {
        true
    }
}

impl Copy {
    fn present(&self, key: &str) -> Option<Value> {
        let stored = self.place.store.get(Table::Local, key.as_bytes()).unwrap();
        stored.map(|bytes| Value(u64::from_be_bytes(bytes[..].try_into().unwrap())))
    }

    async fn here(&self, input: &Input) -> Output {
        let _turn = self.turn.lock().await;
        let (output, next) = input.action.apply(self.present(&input.key));
        let mut batch = WriteBatch::default();
        match next {
            Some(value) => batch.put(Table::Local, input.key.clone(), value.0.to_be_bytes().to_vec()),
            None => batch.delete(Table::Local, input.key.clone()),
        }
        let (store, flush) = (self.place.store.clone(), self.fault != Some(Fault::ForgetsToFlush));
        self.place
            .runtime
            .blocking(move || {
                store.write(batch).unwrap();
                if flush {
                    store.flush().unwrap();
                }
            })
            .await;
        output
    }

    async fn there(&self, input: &Input) -> Option<Output> {
        let request = Message::header(postcard::to_stdvec(input).unwrap());
        let limit = Duration::from_secs(3);
        let reply = self.place.transport.call(World::id(0), Protocol::Bench, request, limit).await.ok()?;
        Some(postcard::from_bytes(&reply.header).unwrap())
    }

    async fn ask(&self, mut input: Input) -> Option<Output> {
        if self.place.index == 0 {
            return Some(self.here(&input).await);
        }
        if self.fault == Some(Fault::ServesStaleReads) && input.action == Action::Get {
            let cached = self.cache.lock().unwrap().get(&input.key).copied();
            if cached.is_some() {
                return cached;
            }
        }
        if let (Some(Fault::ChecksTooEarly), Action::Put(value, condition)) = (self.fault, input.action) {
            let get = Input { key: input.key.clone(), action: Action::Get };
            let Some(Output::Found(present)) = self.there(&get).await else { return None };
            if !condition.holds(present) {
                return Some(Output::Refused);
            }
            input.action = Action::Put(value, Condition::None);
        }
        let output = self.there(&input).await?;
        if input.action == Action::Get {
            self.cache.lock().unwrap().insert(input.key, output);
        }
        Some(output)
    }
}

impl Target for Copy {
    fn perform(self: Arc<Self>, operation: Operation) -> BoxFuture<'static, Outcome> {
        async move {
            let Some(input) = operation.on_register() else { return Outcome::NotDone };
            self.ask(input).await.into()
        }
        .boxed()
    }
}

impl Life for Copy {}

struct Answers(Arc<Copy>);

#[async_trait]
impl Handler for Answers {
    async fn call(&self, _from: Caller, request: Message) -> Result<Message, Refusal> {
        let output = self.0.here(&postcard::from_bytes(&request.header).unwrap()).await;
        Ok(Message::header(postcard::to_stdvec(&output).unwrap()))
    }
}

fn stormy(seed: Seed, fault: Option<Fault>) -> World {
    logs::if_asked();
    let mut world = World::new(seed, SingleCopy { fault });
    world.nodes(3);
    world.clients(6, Load::default());
    world.run_until(stable);
    world.storm(Storm::drawn(&mut seed.stream("storm options")), Duration::from_secs(60));
    world.run_until(stable);
    world
}

#[test]
fn a_single_copy_is_linearizable_in_any_storm() {
    let (mut operations, mut unknown) = (0, 0);
    let seeds = seeds(0..20);
    for &seed in &seeds {
        let mut world = stormy(seed, None);
        world.check();
        let (called, open) = world.operations();
        operations += called;
        unknown += open;
    }
    assert!(operations > 500 * seeds.len(), "only {operations} operations in {} storms", seeds.len());
    assert!(unknown < operations / 4, "{unknown} of {operations} unknown");
}

fn is_found(fault: Fault) {
    let shows = |seed: &Seed| stormy(*seed, Some(fault)).judge().is_found_by("linearizability");
    assert!(seeds(0..20).iter().any(shows), "twenty storms did not show it");
}

#[test]
fn a_copy_that_forgets_to_flush_is_found() {
    is_found(Fault::ForgetsToFlush);
}

#[test]
fn a_stale_read_is_found() {
    is_found(Fault::ServesStaleReads);
}

#[test]
fn a_condition_that_is_checked_too_early_is_found() {
    is_found(Fault::ChecksTooEarly);
}

#[test]
fn the_same_seed_is_the_same_world() {
    let hash = |seed| stormy(Seed(seed), None).trace_hash();
    assert_eq!(hash(3), hash(3));
    assert_ne!(hash(3), hash(4));
}
