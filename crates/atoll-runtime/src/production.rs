//! Production: tokio's threads, the OS's clocks and randomness. The one place that
//! reads them.
#![allow(clippy::disallowed_methods)]

use std::{sync::OnceLock, time::SystemTime};

use atoll_types::{Instant, WallTime};
use futures_util::future::BoxFuture;
use rand::{TryRngCore, rngs::OsRng};

use crate::{AbortTask, Executor};

pub(crate) struct TokioExecutor {
    handle: tokio::runtime::Handle,
}

impl TokioExecutor {
    pub(crate) fn current() -> Self {
        Self { handle: tokio::runtime::Handle::current() }
    }
}

/// The process's time zero, one for all handles.
fn origin() -> std::time::Instant {
    static ORIGIN: OnceLock<std::time::Instant> = OnceLock::new();
    *ORIGIN.get_or_init(std::time::Instant::now)
}

impl AbortTask for tokio::task::AbortHandle {
    fn abort(&self) {
        tokio::task::AbortHandle::abort(self);
    }
}

impl Executor for TokioExecutor {
    fn now(&self) -> Instant {
        Instant::from_nanos(origin().elapsed().as_nanos() as u64)
    }

    fn wall_now(&self) -> WallTime {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        WallTime::from_millis(since.as_millis() as u64)
    }

    fn spawn(&self, _name: &'static str, task: BoxFuture<'static, ()>) -> Box<dyn AbortTask> {
        Box::new(self.handle.spawn(task).abort_handle())
    }

    fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
        let deadline = origin() + (deadline - Instant::ORIGIN);
        // Created inside the future: a sleep may be made outside a tokio context.
        Box::pin(async move { tokio::time::sleep_until(deadline.into()).await })
    }

    fn run_blocking(&self, work: Box<dyn FnOnce() + Send>) {
        self.handle.spawn_blocking(work);
    }

    fn seed(&self) -> [u8; 32] {
        let mut seed = [0; 32];
        OsRng.try_fill_bytes(&mut seed).expect("the OS gives randomness");
        seed
    }
}
