//! Deletes the segments that nobody needs, oldest first, and copies forward what quiet
//! replicas hold in an old one when that is little.

use std::{sync::Arc, time::Duration};

use atoll_types::ReplicaId;

use super::{
    Inner, LogEntry, LogError, Planned, PlannedPlace, Shared, Work, recovery::segment_path, replica::Slot,
};
use crate::files::DiskError;

/// Closed segments that are left to empty by themselves. Most of what a young segment
/// holds is trimmed soon; copying it would be waste.
const SEGMENTS_LEFT_ALONE: usize = 4;
/// Above [`SEGMENTS_LEFT_ALONE`] the oldest is copied if at most a quarter of it is live:
/// each byte written is then copied at most 1/4 + 1/16 + … = 1/3 times on average.
const LIVE_SHARE_COPIED: f64 = 0.25;
/// With this many, somebody does not trim, and room matters more than copying.
const SEGMENTS_TOO_MANY: usize = 32;
const LIVE_SHARE_COPIED_WHEN_TOO_MANY: f64 = 0.75;
/// Copies go in batches of this size between the appends of others: 5 ms of writing on a
/// disk that writes 200 MB/s.
const COPY_BATCH_BYTES: usize = 1 << 20;

/// After a segment that could not be read, or a full disk: minutes do not matter, and one
/// warning a minute is enough.
const RETRY_AFTER: Duration = Duration::from_secs(60);

enum Step {
    /// Segments up to this one.
    Delete(u32),
    Copy(Vec<Holding>),
}

/// What a replica has in the segment.
struct Holding {
    replica: ReplicaId,
    slots: Vec<(u64, Slot)>,
}

pub(super) async fn run(shared: Arc<Shared>) {
    loop {
        loop {
            let step = shared.lock().next_step(shared.settings.segment_bytes);
            let result = match step {
                Some(Step::Delete(through)) => shared.delete_through(through).await,
                Some(Step::Copy(holdings)) => shared.copy_forward(holdings).await,
                None => break,
            };
            match result {
                Ok(()) => {}
                Err(LogError::Closed | LogError::Poisoned(_)) => return,
                Err(error) => {
                    // Old segments only take room: there is time to look again.
                    tracing::warn!(%error, "log: old segments can't be collected");
                    shared.runtime.sleep(RETRY_AFTER).await;
                }
            }
        }
        shared.collect_due.notified().await;
    }
}

impl Inner {
    fn next_step(&self, segment_bytes: u64) -> Option<Step> {
        // The old segments show that these have forgotten something: without them the next
        // start would take them for sound.
        if self.stopped.is_some() || self.replicas.values().any(|replica| replica.forgotten) {
            return None;
        }
        let closed: Vec<u32> = self.segments.range(..self.newest).map(|(id, _)| *id).collect();
        let empty = closed.iter().take_while(|id| self.live.in_segment(**id) == 0).last();
        if let Some(last) = empty {
            return Some(Step::Delete(*last));
        }
        let oldest = *closed.first()?;
        if closed.len() <= SEGMENTS_LEFT_ALONE {
            return None;
        }
        let share = if closed.len() < SEGMENTS_TOO_MANY {
            LIVE_SHARE_COPIED
        } else {
            LIVE_SHARE_COPIED_WHEN_TOO_MANY
        };
        if self.live.in_segment(oldest) as f64 > share * segment_bytes as f64 {
            return None;
        }
        let holdings = self.replicas.iter().filter_map(|(id, replica)| {
            let slots: Vec<_> = replica.slots_in(oldest).collect();
            let anchored = replica.anchor().is_some_and(|anchor| anchor.segment == oldest);
            (anchored || !slots.is_empty()).then_some(Holding { replica: *id, slots })
        });
        Some(Step::Copy(holdings.collect()))
    }
}

impl Shared {
    async fn delete_through(&self, through: u32) -> Result<(), LogError> {
        let ids: Vec<u32> = {
            let mut inner = self.lock();
            // Not `through + 1`: that one may have been lost, which must not look new again.
            inner.oldest = *inner.segments.range(through + 1..).next().expect("the newest stays").0;
            inner.segments.range(..=through).map(|(id, _)| *id).collect()
        };
        {
            // In both slots: should one be lost, the other must not miss the segments.
            let mut file = self.note.lock().await;
            let note = self.lock().note();
            file.write_both(note).await.map_err(|error| self.poison(error))?;
        }
        for id in ids {
            self.files.remove(&segment_path(id)).await.map_err(LogError::Read)?;
            self.lock().segments.remove(&id);
        }
        Ok(())
    }

    async fn copy_forward(&self, holdings: Vec<Holding>) -> Result<(), LogError> {
        for Holding { replica, slots } in holdings {
            let mut rest = slots.into_iter().peekable();
            // At least once, for the state.
            loop {
                let mut plan = Vec::new();
                let mut from = Vec::new();
                let mut bytes = 0;
                while let Some((index, slot)) = rest.next_if(|_| bytes < COPY_BATCH_BYTES) {
                    bytes += slot.len as usize;
                    // Trimmed meanwhile, segment and all: the index says so.
                    let Some(file) = self.lock().segments.get(&slot.segment).cloned() else { continue };
                    plan.push(Planned { index, term: slot.term, place: PlannedPlace::Disk(slot, file) });
                    from.push(slot);
                }
                let entries = self.fetch(replica, plan).await?;
                let entries: Vec<(LogEntry, Slot)> = entries.into_iter().zip(from).collect();
                let works = vec![Work::Move { replica, entries }];
                let copied = self.lock().enqueue_or_stopped(works, bytes)?;
                self.queued.notify_one();
                copied.await.unwrap_or(Err(LogError::Closed))?;
                if rest.peek().is_none() {
                    break;
                }
            }
        }
        Ok(())
    }

    fn poison(&self, error: DiskError) -> LogError {
        let error = LogError::Poisoned(error);
        self.lock().stopped.get_or_insert(error.clone());
        self.queued.notify_one();
        error
    }
}
