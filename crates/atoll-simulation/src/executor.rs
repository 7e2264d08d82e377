//! The deterministic executor: one thread, virtual time, and a schedule that the seed
//! alone decides.
//!
//! A step takes one ready task and polls it. When nothing is ready, time leaps to the
//! next timer. A task belongs to a node, or to the world itself (node 0: the harness,
//! its clients and faults); a crash drops all of a node's tasks at once, as the end of a
//! process would.
//!
//! What makes it deterministic:
//! - Tasks and timers are numbered in the order of their creation; ties go by number.
//! - The tasks woken during one step are queued by number, not in the order in which a
//!   library happened to wake them. Within a task nobody can sort: `tokio::sync::watch`, which
//!   wakes as a generator says that nobody can seed, gave way to `atoll_runtime::watch`.
//! - A wake from another thread fails the run: a library with threads of its own has got
//!   above its seam.
//! - `tokio::sync` has no budget outside of a tokio runtime (`Budget::unconstrained` is
//!   the thread's default), so it never yields by itself.
//!
//! Nothing here holds a lock while it polls, wakes or drops what it did not make: all of
//! these may call back.

mod error;
mod faults;
mod life;

use std::{
    collections::{BTreeMap, VecDeque},
    future::Future,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
    thread::ThreadId,
    time::Duration,
};

use atoll_runtime::Runtime;
use atoll_types::Instant;
use futures_util::future::BoxFuture;
use rand::{Rng, rngs::StdRng};

use self::life::NodeExecutor;
pub use self::{
    error::{RunError, StopReason},
    faults::Faults,
};
use crate::{
    Seed, Stalls,
    clock::NodeClock,
    trace::{Event, Trace, TraceHash},
};

/// Which of the ready tasks is next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Schedule {
    /// In the order in which they became ready: easiest to follow.
    Fifo,
    /// Any, drawn from the seed: finds what depends on the order.
    Shuffled,
}

/// A node's number in the simulation, in the order in which nodes were added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeIndex(pub usize);

impl NodeIndex {
    /// The harness itself: clients, faults, checks. Never crashes.
    pub const WORLD: NodeIndex = NodeIndex(0);
}

/// What befalls a node that came to a named place ([`Runtime::fault_point`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Strike {
    /// The task stands still there for so long; the node's other tasks go on.
    Stall(Duration),
    /// Nothing on the node runs any more: who decided it ends the node, once all is done
    /// at this instant.
    Halt,
}

/// Decides what befalls nodes at named places.
pub trait FaultPoints: Send + Sync + 'static {
    /// Called under the simulation's lock: it must not call back.
    fn reached(&self, node: NodeIndex, name: &'static str) -> Option<Strike>;
}

/// A million: a burst of a thousand clients on a thousand replicas is done in fewer.
const STEPS_PER_INSTANT_MAX: u64 = 1_000_000;

/// How many names a [`StopReason`] lists: enough to see a pattern, few enough to read.
const NAMES_MAX: usize = 40;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct TaskId(u64);

/// When, and which of those at the same instant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct TimerKey(Instant, u64);

struct Task {
    name: &'static str,
    node: NodeIndex,
    /// `None` while it is being polled.
    future: Option<BoxFuture<'static, ()>>,
    waker: Arc<TaskWaker>,
    /// Set by `abort`; the future is dropped when the task's turn comes.
    aborted: bool,
}

struct Node {
    name: String,
    /// Raised by each crash: a runtime handed out before it is then good for nothing.
    incarnation: u64,
    clock: NodeClock,
    rng: StdRng,
    paused: bool,
    /// What its blocking work waits for a processor.
    busy: Stalls,
    /// Tasks that became ready during a pause.
    backlog: Vec<TaskId>,
}

struct State {
    now: Instant,
    steps: u64,
    steps_this_instant: u64,
    schedule: Schedule,
    rng: StdRng,
    trace: Trace,
    nodes: Vec<Node>,
    tasks: BTreeMap<TaskId, Task>,
    ready: VecDeque<TaskId>,
    timers: BTreeMap<TimerKey, Waker>,
    next_task: u64,
    next_timer: u64,
    /// What crashed nodes leave, to be dropped once nobody holds a lock.
    wreckage: Vec<BoxFuture<'static, ()>>,
    /// A task is being polled, so dropping others has to wait for the end of its step.
    polling: bool,
    fault_points: Option<Arc<dyn FaultPoints>>,
    failure: Option<RunError>,
}

struct Core {
    seed: Seed,
    wakes: Arc<Wakes>,
    state: Mutex<State>,
}

/// The tasks woken since the scheduler last looked.
struct Wakes {
    home: ThreadId,
    woken: Mutex<Vec<TaskId>>,
    foreign: AtomicBool,
}

struct TaskWaker {
    id: TaskId,
    queued: AtomicBool,
    wakes: Arc<Wakes>,
}

impl Wake for TaskWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if std::thread::current().id() != self.wakes.home {
            self.wakes.foreign.store(true, Ordering::SeqCst);
        }
        if !self.queued.swap(true, Ordering::SeqCst) {
            lock(&self.wakes.woken).push(self.id);
        }
    }
}

/// Locks even after a panic: the run has failed then, and is only being taken down.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One simulated world: its nodes, its time, its schedule. Dropping it drops all tasks.
pub struct Simulation {
    core: Arc<Core>,
}

impl Simulation {
    pub fn new(seed: Seed, schedule: Schedule) -> Self {
        let wakes = Arc::new(Wakes {
            home: std::thread::current().id(),
            woken: Mutex::default(),
            foreign: AtomicBool::new(false),
        });
        let state = State {
            now: Instant::ORIGIN,
            steps: 0,
            steps_this_instant: 0,
            schedule,
            rng: seed.stream("schedule"),
            trace: Trace::new(),
            nodes: Vec::new(),
            tasks: BTreeMap::new(),
            ready: VecDeque::new(),
            timers: BTreeMap::new(),
            next_task: 0,
            next_timer: 0,
            wreckage: Vec::new(),
            polling: false,
            fault_points: None,
            failure: None,
        };
        let simulation = Self { core: Arc::new(Core { seed, wakes, state: Mutex::new(state) }) };
        simulation.add_node("world");
        simulation
    }

    pub fn seed(&self) -> Seed {
        self.core.seed
    }

    /// Virtual time since the run began.
    pub fn now(&self) -> Instant {
        self.core.state().now
    }

    /// How many times a task was polled.
    pub fn steps(&self) -> u64 {
        self.core.state().steps
    }

    /// The hash of all that was decided until now.
    pub fn trace_hash(&self) -> TraceHash {
        self.core.state().trace.hash()
    }

    /// Adds something that happened outside of the executor to the trace.
    pub fn note(&self, what: &[u8]) {
        self.tracer().note(what);
    }

    /// For the network and the disks to add what they did to the trace.
    pub fn tracer(&self) -> Tracer {
        Tracer { core: Arc::downgrade(&self.core) }
    }

    pub fn add_node(&self, name: impl Into<String>) -> NodeIndex {
        let name = name.into();
        let rng = self.core.seed.stream(&format!("node {name}"));
        let mut state = self.core.state();
        state.nodes.push(Node {
            name,
            incarnation: 0,
            clock: NodeClock::right(),
            rng,
            paused: false,
            busy: Stalls::NONE,
            backlog: Vec::new(),
        });
        NodeIndex(state.nodes.len() - 1)
    }

    /// The runtime for `node`'s present life: after its next crash it spawns nothing,
    /// its sleeps never end, and a new one is to be asked for.
    pub fn node_runtime(&self, node: NodeIndex) -> Runtime {
        self.runtime(node, true)
    }

    /// The same, by true time: for what stands in for the world around the node, such as its
    /// network and its disk.
    pub fn surroundings_runtime(&self, node: NodeIndex) -> Runtime {
        self.runtime(node, false)
    }

    fn runtime(&self, node: NodeIndex, own_clock: bool) -> Runtime {
        let incarnation = self.core.state().nodes[node.0].incarnation;
        Runtime::new(Arc::new(NodeExecutor { core: Arc::clone(&self.core), node, incarnation, own_clock }))
    }

    /// The harness's own runtime.
    pub fn world_runtime(&self) -> Runtime {
        self.node_runtime(NodeIndex::WORLD)
    }

    /// Who decides what befalls nodes at named places; nothing does without.
    pub fn set_fault_points(&self, fault_points: Arc<dyn FaultPoints>) {
        self.core.state().fault_points = Some(fault_points);
    }

    /// A handle with which tasks of the world crash, pause and confuse nodes.
    pub fn faults(&self) -> Faults {
        Faults { core: Arc::downgrade(&self.core) }
    }

    /// Runs until `condition` holds, looking whenever all is done at an instant.
    pub fn run_until(&self, mut condition: impl FnMut() -> bool, limit: Duration) -> Result<(), RunError> {
        let deadline = self.now() + limit;
        loop {
            self.core.run_instant()?;
            if condition() {
                return Ok(());
            }
            match self.core.next_timer() {
                None => return Err(self.core.deadlock()),
                Some(next) if next > deadline => {
                    self.core.advance_to(deadline);
                    return Err(self.core.error(StopReason::LimitReached { limit }));
                }
                Some(next) => self.core.advance_to(next),
            }
        }
    }

    /// Runs until `deadline`, or until `condition` holds, and says whether it does. Looks
    /// whenever all is done at an instant. Having nothing to do for a while is fine.
    pub fn run_while_not(
        &self,
        mut condition: impl FnMut() -> bool,
        deadline: Instant,
    ) -> Result<bool, RunError> {
        loop {
            self.core.run_instant()?;
            if condition() {
                return Ok(true);
            }
            match self.core.next_timer() {
                Some(next) if next <= deadline => self.core.advance_to(next),
                _ => {
                    self.core.advance_to(deadline.max(self.now()));
                    self.core.run_instant()?;
                    return Ok(condition());
                }
            }
        }
    }

    /// Runs for exactly this long. Having nothing to do for a while is fine.
    pub fn run_for(&self, duration: Duration) -> Result<(), RunError> {
        self.run_while_not(|| false, self.now() + duration).map(drop)
    }

    /// Runs `future` as a task of the world, and everything else with it, until it is done.
    pub fn block_on<T: Send + 'static>(
        &self,
        limit: Duration,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, RunError> {
        let result = Arc::new(Mutex::new(None));
        let slot = Arc::clone(&result);
        let task = self.world_runtime().spawn("block_on", async move {
            let value = future.await;
            *lock(&slot) = Some(value);
        });
        let done = self.run_until(|| lock(&result).is_some(), limit);
        if done.is_err() {
            task.abort();
        }
        done?;
        Ok(lock(&result).take().expect("run_until saw it"))
    }
}

impl Drop for Simulation {
    fn drop(&mut self) {
        // Tasks hold the core through their sleeps and runtimes, in a ring.
        let tasks: Vec<Task> = {
            let mut state = self.core.state();
            for node in &mut state.nodes {
                node.incarnation += 1;
            }
            std::mem::take(&mut state.tasks).into_values().collect()
        };
        drop(tasks);
    }
}

/// Adds to the trace.
#[derive(Clone)]
pub struct Tracer {
    core: Weak<Core>,
}

impl Tracer {
    pub fn note(&self, what: &[u8]) {
        if let Some(core) = self.core.upgrade() {
            let mut state = core.state();
            let now = state.now;
            state.trace.record_bytes(now, Event::Note, what);
        }
    }
}

impl Core {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn error(&self, reason: StopReason) -> RunError {
        RunError { seed: self.seed, at: self.state().now, reason }
    }

    fn now_since_start(&self) -> Duration {
        self.state().now - Instant::ORIGIN
    }

    fn description(&self, id: TaskId) -> String {
        let state = self.state();
        state.tasks.get(&id).map(|task| state.describe(task)).unwrap_or_default()
    }

    fn next_timer(&self) -> Option<Instant> {
        self.state().timers.first_key_value().map(|(key, _)| key.0)
    }

    fn deadlock(&self) -> RunError {
        let waiting = {
            let state = self.state();
            state.tasks.values().take(NAMES_MAX).map(|task| state.describe(task)).collect()
        };
        self.error(StopReason::Deadlock { waiting })
    }

    /// Moves time to `now` and wakes all whose time has come.
    fn advance_to(&self, now: Instant) {
        let due: Vec<Waker> = {
            let mut state = self.state();
            let state = &mut *state;
            debug_assert!(now >= state.now, "time does not go back");
            state.now = now;
            state.steps_this_instant = 0;
            let mut due = Vec::new();
            while let Some(entry) = state.timers.first_entry() {
                let TimerKey(deadline, number) = *entry.key();
                if deadline > now {
                    break;
                }
                due.push(entry.remove());
                state.trace.record(now, Event::Timer, number);
            }
            due
        };
        for waker in due {
            waker.wake();
        }
    }

    /// Runs all that can run without time going on.
    fn run_instant(&self) -> Result<(), RunError> {
        while self.step() {
            if self.wakes.foreign.load(Ordering::SeqCst) {
                return Err(self.error(StopReason::ForeignThread));
            }
            let mut state = self.state();
            if let Some(failure) = &state.failure {
                return Err(failure.clone());
            }
            state.steps_this_instant += 1;
            if state.steps_this_instant > STEPS_PER_INSTANT_MAX {
                state.queue_woken(&self.wakes);
                let busy = state
                    .ready
                    .iter()
                    .filter_map(|id| state.tasks.get(id))
                    .take(NAMES_MAX)
                    .map(|task| state.describe(task))
                    .collect();
                drop(state);
                return Err(self.error(StopReason::Stuck { busy }));
            }
        }
        Ok(())
    }

    /// Gives one ready task its turn; false if there is none.
    fn step(&self) -> bool {
        let (id, turn) = {
            let mut state = self.state();
            state.queue_woken(&self.wakes);
            let Some(id) = state.next_ready() else { return false };
            (id, state.begin_turn(id))
        };
        match turn {
            Turn::Nothing => {}
            Turn::Poll(future, waker) => self.poll(id, future, waker),
        }
        self.clear_wreckage();
        true
    }

    fn poll(&self, id: TaskId, mut future: BoxFuture<'static, ()>, waker: Waker) {
        // With a subscriber, each line of a replay says when, where and in what.
        let span = tracing::info_span!("step", at = ?self.now_since_start(), task = self.description(id));
        let _inside = span.enter();
        let mut context = Context::from_waker(&waker);
        let polled = catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(&mut context)));
        let mut state = self.state();
        let state = &mut *state;
        state.polling = false;
        match polled {
            Ok(Poll::Pending) => {
                // A crash during the poll took the task away; the future goes with it.
                if let Some(task) = state.tasks.get_mut(&id) {
                    task.future = Some(future);
                    return;
                }
            }
            Ok(Poll::Ready(())) => {
                state.trace.record(state.now, Event::Finish, id.0);
            }
            Err(panic) => {
                let (node, name) = match state.tasks.get(&id) {
                    Some(task) => (state.nodes[task.node.0].name.clone(), task.name),
                    None => ("that crashed".into(), "of a crashed node"),
                };
                let message = panic
                    .downcast_ref::<&str>()
                    .map(|text| (*text).to_owned())
                    .or_else(|| panic.downcast_ref::<String>().cloned())
                    .unwrap_or_else(|| "(no message)".into());
                let reason = StopReason::Panicked { node, task: name, message };
                let at = state.now;
                state.failure.get_or_insert(RunError { seed: self.seed, at, reason });
            }
        }
        // Not here: dropping it may call back, and the lock is held.
        state.wreckage.push(future);
        state.tasks.remove(&id);
    }

    /// Drops what crashed and finished tasks left, which may crash or finish more.
    fn clear_wreckage(&self) {
        loop {
            let wreckage = std::mem::take(&mut self.state().wreckage);
            if wreckage.is_empty() {
                return;
            }
            drop(wreckage);
        }
    }
}

/// What is to be done with the task whose turn it is.
enum Turn {
    /// It finished, or its node crashed or stands still, or it was aborted.
    Nothing,
    Poll(BoxFuture<'static, ()>, Waker),
}

impl State {
    /// Queues what was woken since the last look, in the order of the tasks' numbers.
    fn queue_woken(&mut self, wakes: &Wakes) {
        let mut woken = lock(&wakes.woken);
        woken.sort_unstable();
        self.ready.extend(woken.drain(..));
    }

    fn next_ready(&mut self) -> Option<TaskId> {
        if self.schedule == Schedule::Shuffled && self.ready.len() > 1 {
            let chosen = self.rng.random_range(0..self.ready.len());
            return self.ready.swap_remove_back(chosen);
        }
        self.ready.pop_front()
    }

    fn begin_turn(&mut self, id: TaskId) -> Turn {
        let Some(task) = self.tasks.get_mut(&id) else { return Turn::Nothing };
        let node = &mut self.nodes[task.node.0];
        if node.paused {
            node.backlog.push(id);
            return Turn::Nothing;
        }
        if task.aborted {
            let task = self.tasks.remove(&id).expect("just seen");
            self.trace.record(self.now, Event::Finish, id.0);
            self.wreckage.extend(task.future);
            return Turn::Nothing;
        }
        task.waker.queued.store(false, Ordering::SeqCst);
        let future = task.future.take().expect("a task is not polled within its own poll");
        let waker = Waker::from(Arc::clone(&task.waker));
        self.steps += 1;
        self.polling = true;
        self.trace.record(self.now, Event::Poll, id.0);
        Turn::Poll(future, waker)
    }

    fn describe(&self, task: &Task) -> String {
        format!("{}/{}", self.nodes[task.node.0].name, task.name)
    }
}
