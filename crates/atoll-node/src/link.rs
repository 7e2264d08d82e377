//! What objects report of slots that move, kept until the layout shows that it was heard:
//! a report is repeated with every round, so that no leader misses it.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use atoll_objects::{LayoutLink, ReportError};
use atoll_placement::Layout;
use atoll_runtime::watch;
use atoll_types::{NodeId, Slot};

pub struct Link {
    me: NodeId,
    state: Mutex<Reported>,
    /// The newest layout version that somebody acted on.
    wanted: watch::Sender<u64>,
}

#[derive(Default)]
struct Reported {
    filled: BTreeMap<Slot, u64>,
    released: BTreeSet<Slot>,
}

impl Link {
    pub fn new(me: NodeId) -> Arc<Self> {
        Arc::new(Self { me, state: Mutex::default(), wanted: watch::Sender::new(0) })
    }

    pub fn wanted(&self) -> watch::Receiver<u64> {
        self.wanted.subscribe()
    }

    /// What is still to be heard, in view of this layout.
    pub fn pending(&self, layout: &Layout) -> (Vec<(Slot, u64)>, Vec<Slot>) {
        let mut state = self.lock();
        if !state.filled.is_empty() {
            let tasks: BTreeMap<Slot, u64> =
                layout.copy_tasks(&self.me).into_iter().map(|task| (task.slot, task.changed)).collect();
            state.filled.retain(|slot, changed| tasks.get(slot) == Some(changed));
        }
        if !state.released.is_empty() {
            let retiring: BTreeSet<Slot> = layout.slots_of(&self.me).retiring.into_iter().collect();
            state.released.retain(|slot| retiring.contains(slot));
        }
        (
            state.filled.iter().map(|(slot, changed)| (*slot, *changed)).collect(),
            state.released.iter().copied().collect(),
        )
    }

    fn lock(&self) -> MutexGuard<'_, Reported> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl LayoutLink for Link {
    fn newer_layout_exists(&self, version: u64) {
        self.wanted.send_if_modified(|wanted| {
            let newer = version > *wanted;
            *wanted = version.max(*wanted);
            newer
        });
    }

    async fn slots_filled(&self, slots: Vec<(Slot, u64)>) -> Result<(), ReportError> {
        self.lock().filled.extend(slots);
        Ok(())
    }

    async fn slots_released(&self, slots: Vec<Slot>) -> Result<(), ReportError> {
        self.lock().released.extend(slots);
        Ok(())
    }
}
