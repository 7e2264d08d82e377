//! Atoll broken on purpose, one rule at a time, to see that a checker notices.
//!
//! Product code asks [`is_broken`] beside the line that keeps a rule. A release build has
//! only `false` there, and nothing of it is left: the switch exists in debug builds, and in
//! optimised ones of the cargo feature `broken`, which nothing but a search for seeds turns
//! on (`cargo xtask tidy` looks). Where it exists it is off, until a simulated run, which
//! lives in one thread, holds a [`SwitchedOn`].
//!
//! What finds each of them, and how fast: `docs/testing.md` and
//! `crates/atoll-simulation/tests/broken`.

/// What can be broken; the numbers are those of DESIGN.md's data rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Broken {
    /// 1: a leader that was deposed unknowingly answers reads: no heartbeat round is asked for.
    ReadWithoutRound,
    /// 1: a read is answered from what has been applied, however little that is.
    ReadBeforeApplied,
    /// 2: an internal retry carries another transaction id: 412 to one's own success.
    RetryAsAnother,
    /// 2: a shard does not look whether it has done a transaction before.
    DoneTwice,
    /// 2: a result is remembered for a few entries only.
    ForgetResults,
    /// 2: a snapshot comes without the results of transactions.
    SnapshotWithoutResults,
    /// 3: stamps follow the clock of whoever leads, back too.
    StampBack,
    /// 3: a new leader gives leases no time of their own.
    LeaseCutShort,
    /// 4: a replica that starts again does not know whom it voted for.
    ForgetVote,
    /// 4: a replica whose log is damaged goes on with what is left, and its peers believe it.
    DamagedVotes,
    /// 4: a log that ends before what was flushed of it looks like one that was torn, to its
    /// node and to the peers that saw it.
    NoteIgnored,
    /// 5: damage in the middle of the log is taken for its end, by the peers that saw it too.
    CutAtDamage,
    /// 4: a disk that was set back is believed.
    OldDiskVotes,
    /// 4: a replica of whose state something can't be read goes on as it is.
    UnreadableStays,
    /// 4: an empty replica grants votes.
    EmptyVotes,
    /// 5: an entry counts as durable when its write begins.
    AckBeforeFlush,
    /// 5: votes and acknowledgements leave before what they promise is on disk.
    PromiseBeforeFlush,
    /// 5: a replica's place in the log and its state are stored one after the other.
    TornState,
    /// 5: the log lets go of entries whose effects the store has yet to flush.
    TrimUnflushed,
    /// A leader counts itself as a majority.
    CommitAlone,
    /// 8: a chunk is served as it was read.
    ServeUnverified,
    /// 8: a chunk counts as stored when it is written.
    ChunkUnflushed,
    /// 8: a pack's name is not flushed.
    NameNotFlushed,
    /// 8: the index of chunks and how far it goes are stored one after the other.
    TornIndex,
    /// 8: a removal is noted in the index only.
    RemovalUnwritten,
    /// 9: a put of a chunk that is there leaves its stamp as it is.
    StampNotRaised,
    /// 9: a removal does not look at the stamp again.
    RemoveUnseen,
    /// 9: a commit does not look how old its chunks' stamps are.
    EpochUnchecked,
    /// 9: a sweep takes what was stamped since the last one.
    ReclaimEarly,
    /// 9: a sweep does not see what pending uploads refer to.
    PartsUnreferenced,
    /// 9: a sweep takes nothing.
    GarbageKept,
    /// 7: one holder is enough for a put.
    OneHolder,
    /// 7: a slot counts as moved, and its old copies go, when nothing was copied.
    MoveWithoutCopy,
    /// 7: a holder takes writes under any layout, and for slots that it no longer has.
    StaleWrite,
    /// 7: a slot is listed while writes to it are under way, and its old copies go without a
    /// last look at what the new holders lack.
    FinalPassSkipped,
    /// 7: nobody looks whether copies are missing.
    NoRepair,
    /// 10: a page of a listing ends with a key that it does not show.
    ListBorder,
    /// 10: a deleted object stays in the index.
    CurrentLeft,
    /// 11: nobody remembers that an upload was completed: asked again, there is none.
    CompletionForgotten,
    /// 12: a shard takes writes for ranges, and buckets, that it no longer has.
    AnyRange,
    /// 14: a lock that was free for a moment counts its epochs anew.
    EpochLost,
}

#[cfg(not(any(debug_assertions, feature = "broken")))]
#[inline(always)]
pub const fn is_broken(_rule: Broken) -> bool {
    false
}

#[cfg(any(debug_assertions, feature = "broken"))]
pub use switch::{MARKER, SwitchedOn, is_broken};

#[cfg(any(debug_assertions, feature = "broken"))]
mod switch {
    use std::{cell::Cell, marker::PhantomData};

    use super::Broken;

    /// In every program that has the switch, and in no other: to be searched for in binaries.
    pub const MARKER: &str = "this build of Atoll can be broken on purpose";

    thread_local! {
        static BROKEN: Cell<Option<Broken>> = const { Cell::new(None) };
    }

    /// Whether the run in this thread breaks `rule`.
    pub fn is_broken(rule: Broken) -> bool {
        BROKEN.get() == Some(rule) && !std::hint::black_box(MARKER).is_empty()
    }

    /// Breaks one rule in this thread for as long as it lives.
    #[must_use]
    pub struct SwitchedOn {
        /// Not for other threads.
        _here: PhantomData<*const ()>,
    }

    impl Broken {
        /// # Panics
        /// If something is broken already.
        pub fn switched_on(self) -> SwitchedOn {
            let before = BROKEN.replace(Some(self));
            assert_eq!(before, None, "one thing is broken at a time");
            SwitchedOn { _here: PhantomData }
        }
    }

    impl Drop for SwitchedOn {
        fn drop(&mut self) {
            BROKEN.set(None);
        }
    }
}

#[cfg(all(test, any(debug_assertions, feature = "broken")))]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_switched_on_is_broken_and_only_so_long() {
        assert!(!is_broken(Broken::CommitAlone));
        let on = Broken::CommitAlone.switched_on();
        assert!(is_broken(Broken::CommitAlone) && !is_broken(Broken::DoneTwice));
        drop(on);
        assert!(!is_broken(Broken::CommitAlone));
    }
}
