//! What is known in memory of one replica's log: where each entry lies, and what has
//! been asked for but is not on disk yet.
//!
//! Two layers. *Durable*: `first`, `slots` and `state` say what is on disk, and change
//! when a batch has been flushed. *Pending*: appended and not flushed, laid over it from
//! `Pending::start` on. Readers see both, because Raft reads its own entries back before
//! they are durable. A batch that failed takes its layer away again.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::{Append, format::EntryAt};

/// Where a durable entry lies: `offset` is that of its header in the segment's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Slot {
    pub term: u64,
    pub segment: u32,
    pub offset: u32,
    pub len: u32,
}

impl Slot {
    /// `at` is relative to a batch that lies at `batch_offset`.
    pub(super) fn new(at: EntryAt, segment: u32, batch_offset: u32) -> Self {
        Self { term: at.term, segment, offset: batch_offset + at.offset, len: at.len }
    }

    fn bytes(&self) -> u64 {
        self.len as u64 + super::format::ENTRY_HEADER as u64
    }
}

/// The part that must be kept even if there are no entries: it holds the newest state,
/// and says that the replica exists and where its log begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Anchor {
    pub segment: u32,
    pub bytes: u64,
}

/// How many bytes in each segment somebody still needs.
#[derive(Debug, Default)]
pub(super) struct Live(BTreeMap<u32, u64>);

impl Live {
    pub(super) fn in_segment(&self, segment: u32) -> u64 {
        self.0.get(&segment).copied().unwrap_or(0)
    }

    fn add(&mut self, segment: u32, bytes: u64) {
        *self.0.entry(segment).or_default() += bytes;
    }

    fn subtract(&mut self, segment: u32, bytes: u64) {
        let left = self.0.get_mut(&segment).expect("live bytes were counted in this segment");
        *left = left.checked_sub(bytes).expect("no more live bytes are taken away than were counted");
        if *left == 0 {
            self.0.remove(&segment);
        }
    }
}

#[derive(Debug, Clone)]
struct PendingEntry {
    ticket: u64,
    term: u64,
    bytes: Bytes,
}

#[derive(Debug)]
struct Pending {
    /// Of the newest append to this replica; the layer ends when it is durable.
    ticket: u64,
    /// Where the log begins anew, if it does.
    restart: Option<u64>,
    /// Index of the first of `entries`; durable slots from here on are out of sight.
    start: u64,
    entries: VecDeque<PendingEntry>,
    state: Option<Bytes>,
    removed: bool,
}

/// Where an entry's bytes are to be had.
pub(super) enum Place {
    Memory(Bytes),
    Disk(Slot),
}

#[derive(Debug)]
pub(super) struct Replica {
    first: u64,
    slots: VecDeque<Slot>,
    state: Option<Bytes>,
    /// `None` until its first batch is durable.
    anchor: Option<Anchor>,
    /// The batch in which it appeared last; 0: none.
    pub last_sequence: u64,
    /// Set at open, for good: parts of it were lost, so nothing may be built on the rest.
    pub forgotten: bool,
    pending: Option<Pending>,
}

impl Replica {
    pub(super) fn new() -> Self {
        Self {
            first: 1,
            slots: VecDeque::new(),
            state: None,
            anchor: None,
            last_sequence: 0,
            forgotten: false,
            pending: None,
        }
    }

    /// One that was found on disk.
    pub(super) fn recovered(
        first: u64,
        slots: VecDeque<Slot>,
        state: Option<Bytes>,
        anchor: Anchor,
        last_sequence: u64,
        forgotten: bool,
        live: &mut Live,
    ) -> Self {
        live.add(anchor.segment, anchor.bytes);
        for slot in &slots {
            live.add(slot.segment, slot.bytes());
        }
        Self { first, slots, state, anchor: Some(anchor), last_sequence, forgotten, pending: None }
    }

    // What readers see.

    pub(super) fn first(&self) -> u64 {
        self.pending.as_ref().and_then(|pending| pending.restart).unwrap_or(self.first)
    }

    /// `first() - 1` if there are no entries.
    pub(super) fn last(&self) -> u64 {
        match &self.pending {
            Some(pending) => pending.start + pending.entries.len() as u64 - 1,
            None => self.durable_end() - 1,
        }
    }

    pub(super) fn state(&self) -> Option<&Bytes> {
        self.pending.as_ref().and_then(|pending| pending.state.as_ref()).or(self.state.as_ref())
    }

    pub(super) fn is_removed(&self) -> bool {
        self.pending.as_ref().is_some_and(|pending| pending.removed)
    }

    pub(super) fn term_of(&self, index: u64) -> Option<u64> {
        if index < self.first() {
            return None;
        }
        if let Some(pending) = &self.pending
            && index >= pending.start
        {
            return pending.entries.get((index - pending.start) as usize).map(|entry| entry.term);
        }
        self.slot(index).map(|slot| slot.term)
    }

    pub(super) fn entry(&self, index: u64) -> Option<(u64, Place)> {
        if index < self.first() {
            return None;
        }
        if let Some(pending) = &self.pending
            && index >= pending.start
        {
            let entry = pending.entries.get((index - pending.start) as usize)?;
            return Some((entry.term, Place::Memory(entry.bytes.clone())));
        }
        self.slot(index).map(|slot| (slot.term, Place::Disk(slot)))
    }

    // Pending.

    fn pending(&mut self, ticket: u64) -> &mut Pending {
        let start = self.durable_end();
        let pending = self.pending.get_or_insert_with(|| Pending {
            ticket,
            restart: None,
            start,
            entries: VecDeque::new(),
            state: None,
            removed: false,
        });
        pending.ticket = ticket;
        pending
    }

    /// Lays `append` over what is there. Its place was checked.
    pub(super) fn append(&mut self, ticket: u64, append: &Append) {
        let pending = self.pending(ticket);
        if let Some(after) = append.start_after {
            pending.restart = Some(after + 1);
            pending.start = after + 1;
            pending.entries.clear();
        }
        if let Some(state) = &append.state {
            pending.state = Some(state.clone());
        }
        if let Some(entry) = append.entries.first() {
            if entry.index < pending.start {
                pending.start = entry.index;
                pending.entries.clear();
            } else {
                pending.entries.truncate((entry.index - pending.start) as usize);
            }
        }
        pending.entries.extend(append.entries.iter().map(|entry| PendingEntry {
            ticket,
            term: entry.term,
            bytes: entry.bytes.clone(),
        }));
    }

    pub(super) fn remove(&mut self, ticket: u64) {
        self.pending(ticket).removed = true;
    }

    /// Takes back all that is pending. True if nothing is left of the replica.
    pub(super) fn withdraw(&mut self) -> bool {
        self.pending = None;
        self.anchor.is_none()
    }

    /// All up to `ticket` has been applied: the layer over it goes.
    pub(super) fn settle(&mut self, ticket: u64) {
        let Some(pending) = &mut self.pending else { return };
        if pending.ticket <= ticket {
            self.pending = None;
            return;
        }
        while pending.entries.front().is_some_and(|entry| entry.ticket <= ticket) {
            pending.entries.pop_front();
            pending.start += 1;
        }
    }

    // Durable.

    pub(super) fn durable_first(&self) -> u64 {
        self.first
    }

    pub(super) fn durable_state(&self) -> Option<&Bytes> {
        self.state.as_ref()
    }

    pub(super) fn anchor(&self) -> Option<Anchor> {
        self.anchor
    }

    fn durable_end(&self) -> u64 {
        self.first + self.slots.len() as u64
    }

    pub(super) fn slot(&self, index: u64) -> Option<Slot> {
        self.slots.get(index.checked_sub(self.first)? as usize).copied()
    }

    /// Durable entries in `segment`, ascending.
    pub(super) fn slots_in(&self, segment: u32) -> impl Iterator<Item = (u64, Slot)> {
        (self.first..).zip(self.slots.iter().copied()).filter(move |(_, slot)| slot.segment == segment)
    }

    /// A part with new entries or a new state is on disk.
    pub(super) fn appended(
        &mut self,
        restart: bool,
        index: u64,
        slots: impl Iterator<Item = Slot>,
        state: Option<Bytes>,
        anchor: Anchor,
        live: &mut Live,
    ) {
        if restart {
            self.truncate(self.first, live);
            self.first = index;
        }
        let mut slots = slots.peekable();
        if slots.peek().is_some() {
            self.truncate(index, live);
        }
        for slot in slots {
            live.add(slot.segment, slot.bytes());
            self.slots.push_back(slot);
        }
        if state.is_some() || self.state.is_none() {
            self.re_anchor(anchor, live);
            self.state = state;
        }
    }

    /// The newest part that vouches for this replica lies there now.
    pub(super) fn re_anchor(&mut self, anchor: Anchor, live: &mut Live) {
        live.add(anchor.segment, anchor.bytes);
        if let Some(old) = self.anchor.replace(anchor) {
            live.subtract(old.segment, old.bytes);
        }
    }

    /// A copy of an entry is on disk; it counts unless the entry has changed meanwhile.
    pub(super) fn moved(&mut self, index: u64, from: Slot, to: Slot, live: &mut Live) {
        if self.slot(index) == Some(from) {
            live.subtract(from.segment, from.bytes());
            live.add(to.segment, to.bytes());
            self.slots[(index - self.first) as usize] = to;
        }
    }

    fn truncate(&mut self, from: u64, live: &mut Live) {
        let keep = from.saturating_sub(self.first) as usize;
        for slot in self.slots.drain(keep.min(self.slots.len())..) {
            live.subtract(slot.segment, slot.bytes());
        }
    }

    /// Forgets entries up to `through`, as far as they are durable and in sight.
    pub(super) fn trim(&mut self, through: u64, live: &mut Live) {
        let mut end = self.durable_end();
        if let Some(pending) = &self.pending {
            end = end.min(pending.start);
        }
        while self.first <= through && self.first < end {
            let slot = self.slots.pop_front().expect("entries below the durable end have slots");
            live.subtract(slot.segment, slot.bytes());
            self.first += 1;
        }
        // A burst must not hold its memory for ever; a quarter leaves room to breathe.
        if self.slots.len() < self.slots.capacity() / 4 {
            self.slots.shrink_to(self.slots.len() * 2);
        }
    }

    /// Everything it holds is needed no longer.
    pub(super) fn release(&mut self, live: &mut Live) {
        self.truncate(self.first, live);
        if let Some(anchor) = self.anchor.take() {
            live.subtract(anchor.segment, anchor.bytes);
        }
    }
}
