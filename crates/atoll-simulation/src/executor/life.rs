//! One life of one node, as its tasks see it: what a `Runtime` hands out in the simulation.

use std::{
    future::Future,
    pin::Pin,
    sync::{Arc, Weak, atomic::AtomicBool},
    task::{Context, Poll, Wake},
    time::Duration,
};

use atoll_runtime::{AbortTask, Executor};
use atoll_types::{Instant, WallTime};
use futures_util::{FutureExt, future::BoxFuture};
use rand::{Rng, RngCore};

use super::{Core, NodeIndex, State, Strike, Task, TaskId, TaskWaker, TimerKey};
use crate::{Stalls, trace::Event};

/// One life of one node, as its tasks see it.
pub(super) struct NodeExecutor {
    pub(super) core: Arc<Core>,
    pub(super) node: NodeIndex,
    pub(super) incarnation: u64,
    /// By the node's monotonic clock, or by true time.
    pub(super) own_clock: bool,
}

impl NodeExecutor {
    /// False once the node crashed: whoever still holds this handle is a leftover.
    fn lives(&self, state: &State) -> bool {
        state.nodes[self.node.0].incarnation == self.incarnation
    }

    fn spawn(&self, name: &'static str, future: BoxFuture<'static, ()>) -> Option<TaskId> {
        let refused = {
            let mut state = self.core.state();
            if self.lives(&state) {
                let id = TaskId(state.next_task);
                state.next_task += 1;
                let wakes = Arc::clone(&self.core.wakes);
                let waker = Arc::new(TaskWaker { id, queued: AtomicBool::new(true), wakes });
                let task = Task { name, node: self.node, future: Some(future), waker, aborted: false };
                state.tasks.insert(id, task);
                state.ready.push_back(id);
                return Some(id);
            }
            future
        };
        drop(refused);
        None
    }
}

impl Executor for NodeExecutor {
    fn now(&self) -> Instant {
        let state = self.core.state();
        if self.own_clock { state.nodes[self.node.0].clock.monotonic(state.now) } else { state.now }
    }

    fn wall_now(&self) -> WallTime {
        let state = self.core.state();
        state.nodes[self.node.0].clock.wall(state.now)
    }

    fn spawn(&self, name: &'static str, task: BoxFuture<'static, ()>) -> Box<dyn AbortTask> {
        let id = self.spawn(name, task);
        Box::new(Abort { core: Arc::downgrade(&self.core), id })
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        if !self.lives(&self.core.state()) {
            return futures_util::future::pending().boxed();
        }
        let clock = self.own_clock.then_some(self.node);
        Box::pin(Sleep { core: Arc::downgrade(&self.core), clock, deadline, timer: None })
    }

    /// A task of its own, so that others get turns between the call and the work, as
    /// with real threads, and so that a crash may come first.
    fn run_blocking(&self, work: Box<dyn FnOnce() + Send>) {
        let late = {
            let mut state = self.core.state();
            let node = &mut state.nodes[self.node.0];
            let Stalls { chance, longest } = node.busy;
            // Nothing is drawn where nothing is late, so that calm runs stay as they are.
            let is_late = chance > 0.0 && node.rng.random_bool(chance);
            is_late.then(|| node.rng.random_range(Duration::ZERO..=longest))
        };
        let turn = late.map(|late| self.sleep_until(self.now() + late));
        let work = async move {
            if let Some(turn) = turn {
                turn.await;
            }
            work();
        };
        self.spawn("blocking", work.boxed());
    }

    fn fault_point(&self, name: &'static str) -> Option<BoxFuture<'static, ()>> {
        let stall = {
            let mut state = self.core.state();
            let state = &mut *state;
            if !self.lives(state) {
                return None;
            }
            let strike = state.fault_points.as_ref()?.reached(self.node, name)?;
            state.trace.record_bytes(state.now, Event::Note, name.as_bytes());
            match strike {
                Strike::Stall(stall) => stall,
                Strike::Halt => {
                    state.nodes[self.node.0].paused = true;
                    return Some(futures_util::future::pending().boxed());
                }
            }
        };
        Some(self.sleep_until(self.now() + stall))
    }

    fn seed(&self) -> [u8; 32] {
        let mut seed = [0; 32];
        self.core.state().nodes[self.node.0].rng.fill_bytes(&mut seed);
        seed
    }
}

struct Abort {
    core: Weak<Core>,
    id: Option<TaskId>,
}

impl AbortTask for Abort {
    fn abort(&self) {
        let (Some(core), Some(id)) = (self.core.upgrade(), self.id) else { return };
        let waker = {
            let mut state = core.state();
            let Some(task) = state.tasks.get_mut(&id) else { return };
            task.aborted = true;
            Arc::clone(&task.waker)
        };
        waker.wake();
    }
}

/// Waits until a clock shows `deadline`.
struct Sleep {
    core: Weak<Core>,
    /// Of this node, or the true one.
    clock: Option<NodeIndex>,
    deadline: Instant,
    /// Set while its timer is in the heap, unless that has fired meanwhile.
    timer: Option<TimerKey>,
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(core) = self.core.upgrade() else { return Poll::Pending };
        let mut state = core.state();
        // Where the drift has changed since, the timer may have been early.
        let due = self.clock.map_or(self.deadline, |node| state.nodes[node.0].clock.when(self.deadline));
        if state.now >= due {
            let replaced = self.timer.take().and_then(|key| state.timers.remove(&key));
            drop(state);
            drop(replaced);
            return Poll::Ready(());
        }
        let key = match self.timer {
            Some(key) if state.timers.contains_key(&key) => key,
            _ => {
                let key = TimerKey(due, state.next_timer);
                state.next_timer += 1;
                key
            }
        };
        self.timer = Some(key);
        let replaced = state.timers.insert(key, cx.waker().clone());
        drop(state);
        drop(replaced);
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        let (Some(core), Some(key)) = (self.core.upgrade(), self.timer) else { return };
        let waker = core.state().timers.remove(&key);
        drop(waker);
    }
}
