//! The newest value of something, and a word to all who wait when it changes.
//!
//! `tokio::sync::watch`, except for who is woken first: tokio spreads its waiters over lists by
//! a generator that is seeded by the process, so futures that share a task would go on in
//! another order from run to run, and the same seed would not be the same run (ADR 1). Here
//! they are woken in the order in which they began to wait. The value, its versions and its
//! lock are tokio's; the waking is `Notify`'s.

#![expect(clippy::disallowed_types, reason = "wrapped here, so that nobody waits through it")]

use std::sync::Arc;

use tokio::sync::{Notify, watch};

pub use tokio::sync::watch::Ref;

/// The sender is gone, so the value will not change any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("nobody is left who could change the value")]
pub struct Closed;

/// Wakes the receivers when a sender has gone; they look whether it was the last.
#[derive(Debug)]
struct Told(Arc<Notify>);

impl Drop for Told {
    fn drop(&mut self) {
        self.0.notify_waiters();
    }
}

#[derive(Debug)]
pub struct Sender<T> {
    // Dropped in this order: who is woken by `told` finds the value closed.
    value: watch::Sender<T>,
    told: Told,
}

#[derive(Debug)]
pub struct Receiver<T> {
    value: watch::Receiver<T>,
    told: Arc<Notify>,
}

impl<T: Default> Default for Sender<T> {
    fn default() -> Self {
        Self::new(T::default())
    }
}

impl<T> Clone for Sender<T> {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), told: Told(self.told.0.clone()) }
    }
}

impl<T> Clone for Receiver<T> {
    fn clone(&self) -> Self {
        Self { value: self.value.clone(), told: self.told.clone() }
    }
}

pub fn channel<T>(value: T) -> (Sender<T>, Receiver<T>) {
    let sender = Sender::new(value);
    let receiver = sender.subscribe();
    (sender, receiver)
}

impl<T> Sender<T> {
    pub fn new(value: T) -> Self {
        Self { value: watch::Sender::new(value), told: Told(Arc::new(Notify::new())) }
    }

    /// Has seen the value that there is now.
    pub fn subscribe(&self) -> Receiver<T> {
        Receiver { value: self.value.subscribe(), told: self.told.0.clone() }
    }

    pub fn borrow(&self) -> Ref<'_, T> {
        self.value.borrow()
    }

    pub fn send_replace(&self, value: T) -> T {
        let before = self.value.send_replace(value);
        self.told.0.notify_waiters();
        before
    }

    pub fn send_modify(&self, modify: impl FnOnce(&mut T)) {
        self.send_if_modified(|value| {
            modify(value);
            true
        });
    }

    /// `modify` says whether it changed anything; so does what this returns.
    pub fn send_if_modified(&self, modify: impl FnOnce(&mut T) -> bool) -> bool {
        let modified = self.value.send_if_modified(modify);
        if modified {
            self.told.0.notify_waiters();
        }
        modified
    }
}

impl<T> Receiver<T> {
    /// The newest value. It is locked until the reference goes: never hold it over an await.
    pub fn borrow(&self) -> Ref<'_, T> {
        self.value.borrow()
    }

    /// As `borrow`, and the value counts as seen.
    pub fn borrow_and_update(&mut self) -> Ref<'_, T> {
        self.value.borrow_and_update()
    }

    pub fn mark_unchanged(&mut self) {
        self.value.mark_unchanged();
    }

    /// Whether there is a value that was not seen yet.
    pub fn has_changed(&self) -> Result<bool, Closed> {
        self.value.has_changed().map_err(|_| Closed)
    }

    /// Waits for a value that was not seen yet, which then counts as seen.
    pub async fn changed(&mut self) -> Result<(), Closed> {
        loop {
            // Hears of every change from here on; what came before is looked at after this.
            let told = self.told.notified();
            if self.value.has_changed().map_err(|_| Closed)? {
                self.value.mark_unchanged();
                return Ok(());
            }
            told.await;
        }
    }

    /// Waits until the value, as it is now or comes to be, suits; it then counts as seen.
    pub async fn wait_for(&mut self, mut suits: impl FnMut(&T) -> bool) -> Result<Ref<'_, T>, Closed> {
        loop {
            // Hears of every change from here on; what came before is looked at after this.
            let told = self.told.notified();
            let closed = self.value.has_changed().is_err();
            if suits(&self.value.borrow_and_update()) {
                return Ok(self.value.borrow());
            }
            if closed {
                return Err(Closed);
            }
            told.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        pin::pin,
        sync::{Arc, Mutex},
        task::{Context, Poll, Wake, Waker},
    };

    use futures_util::{FutureExt, StreamExt, stream::FuturesUnordered};

    use super::*;

    #[test]
    fn a_change_is_told_once_and_the_newest_value_is_found() {
        let (sender, mut receiver) = channel(1);
        assert_eq!(receiver.has_changed(), Ok(false));
        assert_eq!(receiver.changed().now_or_never(), None);
        sender.send_replace(2);
        sender.send_replace(3);
        assert_eq!(receiver.changed().now_or_never(), Some(Ok(())));
        assert_eq!(*receiver.borrow(), 3);
        assert_eq!(receiver.changed().now_or_never(), None);
        assert!(!sender.send_if_modified(|_| false));
        assert_eq!(receiver.changed().now_or_never(), None);
        drop(sender);
        assert_eq!(receiver.changed().now_or_never(), Some(Err(Closed)));
    }

    #[test]
    fn who_waits_hears_of_the_sender_s_end() {
        let (sender, mut receiver) = channel(1);
        let mut other = sender.subscribe();
        let mut suits = pin!(other.wait_for(|value| *value == 2));
        let mut changed = pin!(receiver.changed());
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(woken.clone());
        let mut context = Context::from_waker(&waker);
        assert!(suits.as_mut().poll(&mut context).is_pending());
        assert!(changed.as_mut().poll(&mut context).is_pending());
        drop(sender);
        assert_eq!(*woken.0.lock().unwrap(), 2);
        assert!(matches!(suits.as_mut().poll(&mut context), Poll::Ready(Err(Closed))));
        assert_eq!(changed.as_mut().poll(&mut context), Poll::Ready(Err(Closed)));
    }

    #[test]
    fn a_value_that_suits_is_found_though_the_sender_has_gone() {
        let (sender, mut receiver) = channel(1);
        sender.send_replace(2);
        drop(sender);
        let found = receiver.wait_for(|value| *value == 2).now_or_never().unwrap();
        assert_eq!(found.map(|value| *value), Ok(2));
    }

    #[derive(Default)]
    struct Woken(Mutex<u32>);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            *self.0.lock().unwrap() += 1;
        }
    }

    /// A `FuturesUnordered` polls in the order of wakes. With tokio's own `watch` this fails
    /// in almost every run.
    #[test]
    fn futures_of_one_task_go_on_in_the_order_in_which_they_began_to_wait() {
        let (sender, receiver) = channel(1);
        let mut waiting: FuturesUnordered<_> = (0..100)
            .map(|number| {
                let mut receiver = receiver.clone();
                async move { receiver.wait_for(|value| *value == 2).await.map(|_| number) }
            })
            .collect();
        assert!(waiting.next().now_or_never().is_none());
        sender.send_replace(2);
        let order: Vec<u32> = waiting.map(|number| number.unwrap()).collect().now_or_never().unwrap();
        assert!(order.is_sorted(), "{order:?}");
    }
}
