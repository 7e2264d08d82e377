//! The executor seam: everything above it that spawns, sleeps, reads a clock, draws
//! randomness or leaves the async threads does so through a [`Runtime`].
//!
//! In production a `Runtime` is tokio ([`Runtime::tokio`]). In `atoll-simulation` it is
//! one thread with virtual time and a seed, so the same code runs to the byte the same.
//! `tokio::sync` needs no executor and is used freely above the seam, but for its `watch`, in
//! whose place stands [`watch`]; `tokio::time`, `tokio::spawn`, `std::time::Instant::now` and thread-local randomness are not
//! (clippy.toml names them).
//!
//! It knows nothing of sockets or files: those are `atoll-transport` and `atoll-disk`.

pub mod broken;
mod production;
pub mod watch;

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use atoll_types::{Instant, TransactionId, WallTime};
use futures_util::future::{self, BoxFuture, Either};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::sync::oneshot;

pub use broken::{Broken, is_broken};

/// What an executor must offer. Implemented by production (tokio) and by the simulation.
pub trait Executor: Send + Sync + 'static {
    fn now(&self) -> Instant;
    fn wall_now(&self) -> WallTime;
    /// Runs `task` to its end, unless it is aborted. `name` is for traces.
    fn spawn(&self, name: &'static str, task: BoxFuture<'static, ()>) -> Box<dyn AbortTask>;
    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()>;
    /// Runs `work` where it may block or burn a core: hashing, the ordered store, files.
    /// The simulation runs it in place.
    fn run_blocking(&self, work: Box<dyn FnOnce() + Send>);
    /// A fresh seed, from the OS in production and from the run's seed in the simulation.
    fn seed(&self) -> [u8; 32];
    /// What befalls a node at this place, until it is over. Nothing does in production.
    fn fault_point(&self, _name: &'static str) -> Option<BoxFuture<'static, ()>> {
        None
    }
}

/// Stops one task at its next await.
pub trait AbortTask: Send + Sync {
    fn abort(&self);
}

/// A cheap handle on an executor.
#[derive(Clone)]
pub struct Runtime {
    executor: Arc<dyn Executor>,
}

/// The time given to an operation ran out; what it did until then is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("timed out")]
pub struct Elapsed;

/// A spawned task's result: `None` if the task was aborted or panicked.
/// Dropping it lets the task run on.
pub struct Task<T> {
    result: oneshot::Receiver<T>,
    abort: Box<dyn AbortTask>,
}

impl<T> Task<T> {
    pub fn abort(&self) {
        self.abort.abort();
    }
}

impl<T> Future for Task<T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        Pin::new(&mut self.result).poll(cx).map(Result::ok)
    }
}

/// Aborts its task when it goes out of scope.
pub struct AbortOnDrop(Box<dyn AbortTask>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Runtime {
    pub fn new(executor: Arc<dyn Executor>) -> Self {
        Self { executor }
    }

    /// The production executor, on the tokio runtime this is called from.
    pub fn tokio() -> Self {
        Self::new(Arc::new(production::TokioExecutor::current()))
    }

    pub fn now(&self) -> Instant {
        self.executor.now()
    }

    pub fn wall_now(&self) -> WallTime {
        self.executor.wall_now()
    }

    pub fn spawn<T: Send + 'static>(
        &self,
        name: &'static str,
        future: impl Future<Output = T> + Send + 'static,
    ) -> Task<T> {
        let (tx, result) = oneshot::channel();
        let abort = self.executor.spawn(
            name,
            Box::pin(async move {
                // The caller may have let go of the task; its result is then nobody's.
                let _ = tx.send(future.await);
            }),
        );
        Task { result, abort }
    }

    /// For background loops owned by a value: the loop ends with its owner.
    pub fn spawn_owned(
        &self,
        name: &'static str,
        future: impl Future<Output = ()> + Send + 'static,
    ) -> AbortOnDrop {
        AbortOnDrop(self.executor.spawn(name, Box::pin(future)))
    }

    pub fn sleep(&self, duration: Duration) -> BoxFuture<'static, ()> {
        self.executor.sleep_until(self.now() + duration)
    }

    pub fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        self.executor.sleep_until(deadline)
    }

    /// `future`'s result, or [`Elapsed`] after `limit`; `future` is dropped then.
    pub async fn timeout<T>(&self, limit: Duration, future: impl Future<Output = T>) -> Result<T, Elapsed> {
        self.timeout_at(self.now() + limit, future).await
    }

    pub async fn timeout_at<T>(
        &self,
        deadline: Instant,
        future: impl Future<Output = T>,
    ) -> Result<T, Elapsed> {
        let sleep = self.executor.sleep_until(deadline);
        match future::select(pin!(future), sleep).await {
            Either::Left((value, _)) => Ok(value),
            Either::Right(((), _)) => Err(Elapsed),
        }
    }

    /// Runs `work` off the async threads and waits for it. It runs to its end even if
    /// the caller stops waiting.
    ///
    /// # Panics
    /// If `work` panicked: the panic is not swallowed.
    pub async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (tx, rx) = oneshot::channel();
        self.executor.run_blocking(Box::new(move || {
            // The waiting caller may be gone; the work still had to be done.
            let _ = tx.send(work());
        }));
        rx.await.expect("blocking work panicked")
    }

    /// A place where an accident would be interesting, by its name: what is done by now,
    /// and what is not. Does nothing in production; in the simulation a seed may have the
    /// node stand still here, or lose power.
    pub async fn fault_point(&self, name: &'static str) {
        if let Some(accident) = self.executor.fault_point(name) {
            accident.await;
        }
    }

    /// A generator of its own for the caller to keep: seeded, never shared.
    pub fn rng(&self) -> StdRng {
        StdRng::from_seed(self.executor.seed())
    }

    /// A fresh transaction id (rule 2).
    pub fn transaction_id(&self) -> TransactionId {
        TransactionId(self.rng().random())
    }
}
