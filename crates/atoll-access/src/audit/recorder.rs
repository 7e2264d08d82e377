//! A node's part: gathers what it decided, and puts it into the trail, batch by batch.

use std::{
    collections::{BTreeMap, VecDeque},
    mem,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use atoll_records::{Records, RecordsError};
use atoll_runtime::{AbortOnDrop, Runtime};
use atoll_types::{Format, FormatError, Instant, NodeId, ShardId};
use ed25519_dalek::SigningKey;
use tokio::sync::{Notify, oneshot};

use super::{
    batch::{Batch, Entry, Head, LinkedBatch},
    shard::{APPEND, HEADS, Heads, PAGE, Page, PageRequest},
    witness::{WitnessNote, WitnessStatement},
};
use crate::{AccessError, limit::Bucket};

/// Of one node. Shard 0 does a few hundred a second, for everyone.
pub const COMMITS_PER_SECOND: u32 = 10;
const COMMIT_EVERY: Duration = Duration::from_millis(1000 / COMMITS_PER_SECOND as u64);

/// With 64 entries of about 200 bytes a batch is 13 KiB; 640 a second are more than any
/// operator does, and as many denied requests as are worth reading.
pub const ENTRIES_PER_BATCH: usize = 64;
/// Of entries that are all as long as they may be: 64 KiB = 11 of them.
const BATCH_BYTES_MAX: usize = 64 << 10;

/// Entries that wait. 1,024 = what is written in 1.6 s; more than that a node that can't
/// write forgets, and counts.
pub const QUEUE_MAX: usize = 1024;

/// Denied requests are anybody's to make, and stay for ever: on average 10 a second are
/// written down, which is 170 MB a day at 200 bytes, and up to 1,200 at once. The rest is
/// counted.
const DENIALS_PER_SECOND: u32 = 10;
const DENIALS_AT_ONCE: u32 = 1200;
/// Of one address, half of that: who asks a lot hides what nobody else was denied.
const DENIALS_PER_SECOND_OF_ONE: u32 = DENIALS_PER_SECOND / 2;
const DENIALS_AT_ONCE_OF_ONE: u32 = DENIALS_AT_ONCE / 2;
/// Addresses that were denied something lately; all others share one more line.
const ADDRESSES_MAX: usize = 256;

/// How long a commit is tried before it is looked whether it happened.
const COMMIT_WAIT: Duration = Duration::from_secs(10);
/// How long an act waits for its entry: through an election.
const ACT_WAIT: Duration = Duration::from_secs(10);

struct Waiting {
    entry: Entry,
    /// Told when the entry is in the trail.
    done: Option<oneshot::Sender<()>>,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Waiting>,
    missed: u64,
    /// Denied requests that may still be written down; `None` before the first.
    denials: Option<Bucket>,
    /// The same, by address.
    of_one: BTreeMap<String, Bucket>,
}

impl Queue {
    /// Whether one more denied request from there may be written down.
    fn admits(&mut self, from: &str, now: Instant) -> bool {
        if self.waiting.len() >= QUEUE_MAX {
            return false;
        }
        let (per_second, most) = (DENIALS_PER_SECOND_OF_ONE, DENIALS_AT_ONCE_OF_ONE);
        let known = self.of_one.contains_key(from);
        if !known && self.of_one.len() >= ADDRESSES_MAX {
            self.of_one.retain(|_, bucket| !bucket.is_full(per_second, most, now));
        }
        let from = if known || self.of_one.len() < ADDRESSES_MAX { from } else { "" };
        let of_one = match self.of_one.get_mut(from) {
            Some(bucket) => bucket,
            None => self.of_one.entry(from.to_owned()).or_insert(Bucket::full(most, now)),
        };
        if !of_one.admits(per_second, most, now) {
            return false;
        }
        let denials = self.denials.get_or_insert(Bucket::full(DENIALS_AT_ONCE, now));
        denials.admits(DENIALS_PER_SECOND, DENIALS_AT_ONCE, now)
    }

    fn next_batch(&mut self) -> (Vec<Waiting>, u64) {
        let mut bytes = 0;
        let fits = self.waiting.iter().take(ENTRIES_PER_BATCH).take_while(|waiting| {
            bytes += waiting.entry.bytes();
            bytes <= BATCH_BYTES_MAX
        });
        let count = fits.count();
        (self.waiting.drain(..count).collect(), mem::take(&mut self.missed))
    }
}

struct Inner {
    runtime: Runtime,
    records: Records,
    key: SigningKey,
    node: NodeId,
    queue: Mutex<Queue>,
    /// One waits: the task that writes.
    filled: Notify,
}

/// Keeps the trail of what this node decides. Cheap to clone; writes as long as one clone
/// lives.
#[derive(Clone)]
pub struct Auditor {
    inner: Arc<Inner>,
    _writer: Arc<AbortOnDrop>,
}

impl Auditor {
    /// `key_seed` is the node's own: who checks the trail knows nodes by their keys.
    pub fn start(runtime: Runtime, records: Records, key_seed: [u8; 32]) -> Self {
        let key = SigningKey::from_bytes(&key_seed);
        let node = NodeId(key.verifying_key().to_bytes());
        let (queue, filled) = (Mutex::default(), Notify::new());
        let inner = Arc::new(Inner { runtime: runtime.clone(), records, key, node, queue, filled });
        let writer = runtime.spawn_owned("audit writer", write(inner.clone()));
        Self { inner, _writer: Arc::new(writer) }
    }

    /// Notes a denied request; it will be in the trail in a moment.
    pub fn denied(&self, entry: Entry) {
        let now = self.inner.runtime.now();
        let mut queue = self.inner.queue.lock().unwrap_or_else(PoisonError::into_inner);
        match queue.admits(&entry.from, now) {
            true => queue.waiting.push_back(Waiting { entry: entry.bounded(), done: None }),
            false => queue.missed += 1,
        }
        drop(queue);
        self.inner.filled.notify_one();
    }

    /// Puts an act into the trail; what it is may be done once this returns.
    pub async fn act(&self, entry: Entry) -> Result<(), AccessError> {
        let (done, written) = oneshot::channel();
        {
            let mut queue = self.inner.queue.lock().unwrap_or_else(PoisonError::into_inner);
            if queue.waiting.len() >= 2 * QUEUE_MAX {
                return Err(AccessError::gone());
            }
            queue.waiting.push_back(Waiting { entry: entry.bounded(), done: Some(done) });
        }
        self.inner.filled.notify_one();
        match self.inner.runtime.timeout(ACT_WAIT, written).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) | Err(_) => Err(AccessError::gone()),
        }
    }

    /// Links after the one with this index, some of them, and where the trail ends.
    pub async fn page(
        &self,
        after: u64,
        limit: u32,
        deadline: Instant,
    ) -> Result<(Vec<LinkedBatch>, Head), AccessError> {
        let request = PageRequest { after, limit }.encode();
        let reply = self.inner.records.query(ShardId::META, PAGE, request.into(), deadline).await;
        let reply = reply.map_err(|source| AccessError::Unavailable { source })?;
        let page = Page::decode(&reply).map_err(|source| AccessError::Unreadable { source })?;
        Ok((page.links, page.head))
    }

    /// What this node witnesses, signed.
    pub fn state(&self, note: WitnessNote) -> WitnessStatement {
        note.state(&self.inner.key, self.inner.runtime.wall_now())
    }
}

async fn write(inner: Arc<Inner>) {
    let mut head: Option<Head> = None;
    loop {
        let began = inner.runtime.now();
        let (waiting, missed) = inner.queue.lock().unwrap_or_else(PoisonError::into_inner).next_batch();
        if waiting.is_empty() && missed == 0 {
            inner.filled.notified().await;
            continue;
        }
        let (entries, done): (Vec<Entry>, Vec<_>) =
            waiting.into_iter().map(|waiting| (waiting.entry, waiting.done)).unzip();
        head = Some(inner.commit(head, entries, missed).await);
        for done in done.into_iter().flatten() {
            // Who gave up waiting has told its caller so.
            let _ = done.send(());
        }
        inner.runtime.sleep_until(began + COMMIT_EVERY).await;
    }
}

impl Inner {
    /// Tries until it is done.
    async fn commit(&self, head: Option<Head>, entries: Vec<Entry>, missed: u64) -> Head {
        let mut own = match head {
            Some(head) => head,
            None => self.own_head().await,
        };
        loop {
            let (number, previous) = (own.index + 1, own.hash);
            let batch = Batch { node: self.node, number, previous, entries: entries.clone(), missed };
            let hash = batch.hash();
            let input = batch.sign(&self.key).encode();
            match self.append(input).await {
                Ok(()) => return Head { index: number, hash },
                // So long ago that shard 0 does not remember the answer.
                Err(found) if found.hash == hash => return found,
                // Somebody wrote in this node's name: an earlier start of it whose last batch
                // was still under way. Its chain goes on from there.
                Err(found) => own = found,
            }
        }
    }

    async fn append(&self, input: Vec<u8>) -> Result<(), Head> {
        let id = self.runtime.transaction_id();
        let input: bytes::Bytes = input.into();
        loop {
            let deadline = self.runtime.now() + COMMIT_WAIT;
            let appended = self.records.execute(ShardId::META, id, APPEND, input.clone(), deadline).await;
            match appended {
                Ok(executed) if executed.committed => return Ok(()),
                Ok(executed) => match Heads::decode(&executed.output) {
                    Ok(heads) => return Err(heads.node),
                    Err(error) => self.pause(&error).await,
                },
                Err(error) => self.pause(&error).await,
            }
        }
    }

    async fn own_head(&self) -> Head {
        loop {
            let deadline = self.runtime.now() + COMMIT_WAIT;
            let asked: Result<bytes::Bytes, RecordsError> = self
                .records
                .query(ShardId::META, HEADS, self.node.as_bytes().to_vec().into(), deadline)
                .await;
            let heads = asked.map(|reply| Heads::decode(&reply));
            match heads {
                Ok(Ok(heads)) => return heads.node,
                Ok(Err(error)) => {
                    let error: FormatError = error;
                    self.pause(&error).await;
                }
                Err(error) => self.pause(&error).await,
            }
        }
    }

    async fn pause(&self, error: &(dyn std::error::Error + Sync)) {
        tracing::debug!(%error, "the audit trail can't be written right now");
        self.runtime.sleep(COMMIT_EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn denied_requests_are_written_at_a_steady_pace_and_in_bursts() {
        let mut queue = Queue::default();
        let start = Instant::default();
        let admitted =
            |queue: &mut Queue, from: &str, at, times| (0..times).filter(|_| queue.admits(from, at)).count();
        let of_one = DENIALS_AT_ONCE_OF_ONE as usize;
        assert_eq!(admitted(&mut queue, "a", start, 2000), of_one);
        // However much one asks, another's are written down.
        assert_eq!(admitted(&mut queue, "b", start, 100), 100);
        assert_eq!(admitted(&mut queue, "b", start, 2000), of_one - 100);
        assert_eq!(admitted(&mut queue, "c", start, 2000), 0);
        let soon = start + Duration::from_secs(3);
        assert_eq!(admitted(&mut queue, "a", soon, 2000), 15);
        assert_eq!(admitted(&mut queue, "c", soon, 2000), 15);
        let later = start + Duration::from_secs(100_000);
        let many = (0..5000).map(|number| admitted(&mut queue, &number.to_string(), later, 1));
        assert_eq!(many.sum::<usize>(), ADDRESSES_MAX + of_one);
        assert!(queue.of_one.len() <= ADDRESSES_MAX + 1);
        assert_eq!(admitted(&mut queue, "a", later + Duration::from_secs(1000), 2000), of_one);
    }
}
