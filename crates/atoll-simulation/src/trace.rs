//! What happened, as one running hash: two runs are the same run if and only if their
//! hashes are equal.

use std::fmt;

use atoll_types::Instant;

/// The hash of everything that was decided so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceHash([u8; 32]);

impl fmt::Display for TraceHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for byte in &self.0[..16] {
            write!(f, "{byte:02x}")?;
        }
        Ok(())
    }
}

/// What kind of thing an entry records. The numbers are part of the hash.
#[derive(Debug, Clone, Copy)]
#[repr(u8)]
pub(crate) enum Event {
    Poll = 1,
    Finish = 2,
    Timer = 3,
    Crash = 4,
    Pause = 5,
    Resume = 6,
    /// Something outside the executor: a link delivers, a client's operation ends.
    Note = 7,
}

pub(crate) struct Trace {
    hasher: blake3::Hasher,
    /// Entries on their way into the hasher, which likes them in bulk.
    pending: Vec<u8>,
}

/// 16 KiB: from here on BLAKE3 hashes several of its 1 KiB leaves at once.
const PENDING_BYTES_MAX: usize = 16 << 10;

impl Trace {
    pub(crate) fn new() -> Self {
        Self { hasher: blake3::Hasher::new(), pending: Vec::with_capacity(PENDING_BYTES_MAX) }
    }

    pub(crate) fn record(&mut self, now: Instant, event: Event, subject: u64) {
        self.pending.push(event as u8);
        self.pending.extend_from_slice(&now.as_nanos().to_le_bytes());
        self.pending.extend_from_slice(&subject.to_le_bytes());
        self.pass_on();
    }

    pub(crate) fn record_bytes(&mut self, now: Instant, event: Event, bytes: &[u8]) {
        self.record(now, event, bytes.len() as u64);
        self.pending.extend_from_slice(bytes);
        self.pass_on();
    }

    fn pass_on(&mut self) {
        if self.pending.len() >= PENDING_BYTES_MAX {
            self.hasher.update(&self.pending);
            self.pending.clear();
        }
    }

    pub(crate) fn hash(&self) -> TraceHash {
        let mut hasher = self.hasher.clone();
        hasher.update(&self.pending);
        TraceHash(*hasher.finalize().as_bytes())
    }
}
