//! Counters that only grow, for whoever shows them.

use std::sync::atomic::{AtomicU64, Ordering};

/// One counter.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub fn add(&self, count: u64) {
        self.0.fetch_add(count, Ordering::Relaxed);
    }

    fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// The counters as they are written.
        #[derive(Debug, Default)]
        pub(crate) struct Metrics {
            $(pub $name: Counter,)*
        }

        /// What the records of this node have counted since their start.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct RecordsMetrics {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl Metrics {
            pub fn read(&self) -> RecordsMetrics {
                RecordsMetrics { $($name: self.$name.read(),)* }
            }
        }

        impl RecordsMetrics {
            /// Names and values, in a fixed order.
            pub fn all(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name),)*]
            }
        }
    };
}

counters! {
    /// Commands and queries asked for on this node.
    operations,
    /// Tries that brought no answer: nobody led, or the outcome stayed unknown.
    retries,
    /// Operations given up at their deadline.
    operations_unavailable,
    /// Rounds of the driver; few for many operations means that they share flushes.
    rounds,
    /// Batches written to the log, each with one flush.
    log_batches,
    /// Entries written to the log.
    log_entries,
    /// Entries applied.
    entries_applied,
    /// Batches that those were written to the store in.
    apply_rounds,
    /// Frames from peers that could not be decoded.
    frames_refused,
    /// Messages from peers that did not fit their group's state (rule 17).
    messages_refused,
    /// Replicas that stopped: forgotten, or met what they can't go on from.
    replicas_stopped,
    /// Replicas of this node that were filled by a snapshot.
    snapshots_installed,
}
