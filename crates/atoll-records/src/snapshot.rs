//! Filling a replica that the log can't help any more: it pulls a peer's state piece by
//! piece, each a bounded call, and so at its own pace; a lost call is repeated for that
//! piece alone.
//!
//! The leader's Raft message only offers a snapshot. What is pulled is a view of the
//! leader's store as of the first pull, which may be newer than the offer; its own index,
//! term and members come with it, and those Raft is told. The pulled state is written
//! under the replica's next generation, and made current by the apply worker with one
//! write (`Job::Install`); until then the old state is whole.

use std::{
    collections::BTreeMap,
    ops::Bound,
    sync::{Arc, Mutex},
    time::Duration,
};

use atoll_disk::{OrderedStore, Snapshot, StoreError, Table, WriteBatch};
use atoll_runtime::{Broken, Runtime, is_broken};
use atoll_transport::{CallError, Caller, Message, Protocol, Refusal, Transport};
use atoll_types::{Format, FormatError, Instant, NodeId, ReplicaId, ShardId};
use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::mpsc;

use crate::{
    driver::Feedback,
    procedure::Pairs,
    state::{Area, Bounds, Descriptor, Meta, Place, as_slices, replica_of},
    wire::{Piece, Pull},
};

/// 2 MiB of pairs: large enough that round trips don't count, small enough to share the
/// connection with everything else.
const PIECE_BYTES_TARGET: usize = 2 << 20;
/// The largest pair: a piece that is one pair must fit a message.
pub(crate) const PAIR_BYTES_MAX: usize = 4 << 20;
/// Snapshots that this node lets others pull at once; each pins its view of the store.
const OPEN_MAX: usize = 16;
/// A puller that was silent for as long has given up: three tries of one pull.
const OPEN_LIMIT: Duration = Duration::from_secs(30);
/// One pull: a piece at 1 MiB/s, and some.
const PULL_LIMIT: Duration = Duration::from_secs(10);
const PULL_TRIES: usize = 3;
const PULL_PAUSE: Duration = Duration::from_millis(200);
/// The leader offers again after this long without a pull.
pub(crate) const OFFER_LIMIT: Duration = Duration::from_secs(3);

const _: () = assert!(PIECE_BYTES_TARGET + PAIR_BYTES_MAX + 8 < Message::BODY_BYTES_MAX);
const _: () = assert!(OPEN_LIMIT.as_secs() >= PULL_TRIES as u64 * PULL_LIMIT.as_secs());

/// The first byte of a key without replica and generation is its area.
const AREA_AT: usize = 8 + 4;

/// Serves pulls.
pub(crate) struct Snapshots {
    pub runtime: Runtime,
    pub store: Arc<dyn OrderedStore>,
    pub open: Mutex<Open>,
    /// To the driver, which hears of what can't be read.
    pub feedback: mpsc::UnboundedSender<Feedback>,
}

#[derive(Default)]
pub(crate) struct Open {
    next: u64,
    views: BTreeMap<u64, View>,
    /// When each replica last pulled from here; the driver reads it to tell a slow puller
    /// from one that never heard the offer.
    pulled: BTreeMap<ReplicaId, Instant>,
}

#[derive(Clone)]
struct View {
    snapshot: Arc<dyn Snapshot>,
    place: Place,
    meta: Meta,
    to: ReplicaId,
    used: Instant,
}

fn refusal(reason: impl Into<String>) -> Refusal {
    /// The puller begins anew, on the next offer.
    const REFUSED_PULL: u16 = 2;
    Refusal { code: REFUSED_PULL, reason: reason.into() }
}

impl Snapshots {
    /// Closes what nobody pulls from any more.
    pub fn sweep(&self, now: Instant) {
        let mut open = self.open.lock().expect("nobody panics holding it");
        open.views.retain(|_, view| now - view.used < OPEN_LIMIT);
        open.pulled.retain(|_, last| now - *last < OPEN_LIMIT);
    }

    pub fn last_pull(&self, replica: ReplicaId) -> Option<Instant> {
        self.open.lock().expect("nobody panics holding it").pulled.get(&replica).copied()
    }

    pub async fn serve(&self, from: &Caller, request: &Message) -> Result<Message, Refusal> {
        let pull = Pull::decode(&request.header).map_err(|error| refusal(error.to_string()))?;
        let view = match pull.snapshot {
            None => self.open_view(&pull).await?,
            Some(number) => self.view(number)?,
        };
        let (number, view) = view;
        if view.to != pull.to || view.meta.members.nodes.get(&pull.to) != Some(&from.node) {
            return Err(refusal("the snapshot is for another replica"));
        }
        let after = pull.after.clone();
        let replica = view.place.replica;
        let piece = self
            .runtime
            .blocking(move || {
                let (body, last) = read_piece(&*view.snapshot, view.place, after.as_deref())?;
                Ok::<_, StoreError>((view.meta, body, last))
            })
            .await;
        let (meta, body, last) = piece.map_err(|error| self.cannot_read(replica, &error))?;
        if last {
            // If the answer is lost the puller begins anew; kept open until it is forgotten,
            // a few dozen finished ones would leave no room for the next.
            self.open.lock().expect("nobody panics holding it").views.remove(&number);
        }
        Ok(Message::with_body(Piece { snapshot: number, meta, last }.encode(), body))
    }

    /// Of a replica of which nobody can be filled nobody should be led either.
    fn cannot_read(&self, replica: ReplicaId, error: &StoreError) -> Refusal {
        if let Some(unreadable) = Feedback::unreadable(replica, error, true) {
            // The driver may be gone; then nobody is led.
            let _ = self.feedback.send(unreadable);
        }
        refusal(error.to_string())
    }

    fn view(&self, number: u64) -> Result<(u64, View), Refusal> {
        let now = self.runtime.now();
        let mut open = self.open.lock().expect("nobody panics holding it");
        let view = open.views.get_mut(&number).ok_or_else(|| refusal("the snapshot is closed"))?;
        view.used = now;
        let view = view.clone();
        open.pulled.insert(view.to, now);
        Ok((number, view))
    }

    async fn open_view(&self, pull: &Pull) -> Result<(u64, View), Refusal> {
        let (store, from, shard) = (self.store.clone(), pull.from, pull.shard);
        let found = self.runtime.blocking(move || view_of(&*store, shard, from)).await;
        let found = found.map_err(|error| self.cannot_read(from, &error))?;
        let (snapshot, place, meta) = found.ok_or_else(|| refusal("the replica is not here"))?;
        let now = self.runtime.now();
        let view = View { snapshot: snapshot.into(), place, meta, to: pull.to, used: now };
        let mut open = self.open.lock().expect("nobody panics holding it");
        open.views.retain(|_, other| now - other.used < OPEN_LIMIT && other.to != pull.to);
        if open.views.len() >= OPEN_MAX {
            return Err(refusal("too many snapshots are open"));
        }
        open.next += 1;
        let number = open.next;
        open.views.insert(number, view.clone());
        open.pulled.insert(pull.to, now);
        Ok((number, view))
    }
}

pub(crate) type Found = Option<(Box<dyn Snapshot>, Place, Meta)>;

pub(crate) fn view_of(
    store: &dyn OrderedStore,
    shard: ShardId,
    replica: ReplicaId,
) -> Result<Found, StoreError> {
    let snapshot = store.snapshot()?;
    let Some(descriptor) = Descriptor::read(&*snapshot, replica)? else { return Ok(None) };
    let place = descriptor.place();
    let Some(meta) = Meta::read(&*snapshot, place)? else { return Ok(None) };
    Ok((descriptor.shard == shard).then_some((snapshot, place, meta)))
}

/// The pairs after `after`, and whether they are the last.
fn read_piece(
    snapshot: &dyn Snapshot,
    place: Place,
    after: Option<&[u8]>,
) -> Result<(Bytes, bool), StoreError> {
    let (first, end) = place.whole();
    let start = match after {
        Some(after) => Bound::Excluded([&place.prefix(Area::Meta)[..AREA_AT], after].concat()),
        // The meta record travels in the header.
        None => Bound::Excluded(match first {
            Bound::Included(first) => first,
            Bound::Excluded(_) | Bound::Unbounded => unreachable!("a place begins at its first key"),
        }),
    };
    let range = (start, end);
    let (start, end) = as_slices(&range);
    let mut body = BytesMut::new();
    for pair in snapshot.range(Table::Records, start, end) {
        let (key, value) = pair?;
        let key = &key[AREA_AT..];
        if is_broken(Broken::SnapshotWithoutResults) && key[0] == Area::Outcomes as u8 {
            continue;
        }
        body.put_u32(key.len() as u32);
        body.put_u32(value.len() as u32);
        body.put_slice(key);
        body.put_slice(&value);
        if body.len() >= PIECE_BYTES_TARGET {
            return Ok((body.freeze(), false));
        }
    }
    Ok((body.freeze(), true))
}

/// A replica that is to be filled, and where from.
pub(crate) struct Filling {
    pub runtime: Runtime,
    pub transport: Arc<dyn Transport>,
    pub store: Arc<dyn OrderedStore>,
    pub shard: ShardId,
    pub replica: ReplicaId,
    pub from: ReplicaId,
    pub node: NodeId,
    /// Raft would not take a snapshot that is not newer than this.
    pub newer_than: u64,
}

/// Why a replica was not filled. Its state is what it was; the leader will offer again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FillError {
    #[error("can't pull from the offering replica")]
    Call(#[from] CallError),
    #[error("the piece is malformed")]
    Malformed(#[from] FormatError),
    #[error("the piece's pairs are malformed")]
    Pairs,
    #[error("the snapshot changed under the pull")]
    Changed,
    #[error("the snapshot is of no use here: {0}")]
    Useless(&'static str),
    #[error("the pulled state can't be stored")]
    Store(#[from] StoreError),
}

impl Filling {
    /// Pulls everything into the next generation. It is not current yet.
    pub async fn pull(&self) -> Result<(Place, Meta), FillError> {
        let (store, replica) = (self.store.clone(), self.replica);
        let place = self.runtime.blocking(move || next_generation(&*store, replica)).await?;
        let place = place.ok_or(FillError::Useless("the replica was removed"))?;
        let mut snapshot = None;
        let mut after = None;
        let mut meta: Option<Meta> = None;
        loop {
            let pull = Pull { shard: self.shard, from: self.from, to: replica, snapshot, after };
            let reply = self.call(&pull).await?;
            let piece = Piece::decode(&reply.header)?;
            match &meta {
                None => {
                    self.check(&piece.meta)?;
                    meta = Some(piece.meta);
                }
                Some(meta) if *meta != piece.meta => return Err(FillError::Changed),
                Some(_) => {}
            }
            snapshot = Some(piece.snapshot);
            let store = self.store.clone();
            let (body, last) = (reply.body, piece.last);
            let stored = self.runtime.blocking(move || store_piece(&*store, place, body)).await?;
            match stored {
                None => return Err(FillError::Pairs),
                Some(_) if last => return Ok((place, meta.expect("set by the first piece"))),
                Some(None) => return Err(FillError::Pairs),
                Some(last_key) => after = last_key,
            }
        }
    }

    async fn call(&self, pull: &Pull) -> Result<Message, CallError> {
        let mut tries = 0;
        loop {
            let request = Message::header(pull.encode());
            match self.transport.call(self.node, Protocol::Raft, request, PULL_LIMIT).await {
                Ok(reply) => return Ok(reply),
                Err(error @ (CallError::Refused(_) | CallError::TooLarge { .. })) => return Err(error),
                Err(error) => {
                    tries += 1;
                    if tries == PULL_TRIES {
                        return Err(error);
                    }
                    self.runtime.sleep(PULL_PAUSE).await;
                }
            }
        }
    }

    fn check(&self, meta: &Meta) -> Result<(), FillError> {
        let members = &meta.members;
        if !members.is_sound() {
            return Err(FillError::Useless("its members are not sound"));
        }
        if members.all().all(|member| member != self.replica) {
            return Err(FillError::Useless("this replica is not among its members"));
        }
        if meta.applied.0 <= self.newer_than || meta.applied_term == 0 {
            return Err(FillError::Useless("it is older than what is here"));
        }
        Ok(())
    }
}

/// Where the next state goes; what an earlier try left there is removed.
fn next_generation(store: &dyn OrderedStore, replica: ReplicaId) -> Result<Option<Place>, StoreError> {
    let Some(descriptor) = Descriptor::read(&*store.snapshot()?, replica)? else { return Ok(None) };
    let place = Place { replica, generation: descriptor.generation + 1 };
    delete_range(store, &place.whole())?;
    Ok(Some(place))
}

/// Deletes what crashes left behind: generations that are not current, and the state of
/// replicas that were removed.
pub(crate) fn delete_leftovers(store: &dyn OrderedStore, known: &[Descriptor]) -> Result<(), StoreError> {
    let snapshot = store.snapshot()?;
    let mut next = ReplicaId(0);
    loop {
        let start = next.0.to_be_bytes();
        let first = snapshot.range(Table::Records, Bound::Included(&start), Bound::Unbounded).next();
        let Some(pair) = first else { return Ok(()) };
        let key = match pair {
            Ok((key, _)) => key,
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(error, "what may be left of replicas stays: it can't be read");
                return Ok(());
            }
        };
        let Some(replica) = replica_of(&key) else { return Ok(()) };
        match known.iter().find(|descriptor| descriptor.replica == replica) {
            Some(descriptor) => {
                for range in descriptor.place().other_generations() {
                    delete_readable(store, &range)?;
                }
            }
            None => delete_readable(store, &Place::every_generation(replica))?,
        }
        next = ReplicaId(replica.0 + 1);
    }
}

/// Deletes a range of [`Table::Records`] in bounded batches. After an error some of it is
/// left.
pub(crate) fn delete_range(store: &dyn OrderedStore, range: &Bounds) -> Result<(), StoreError> {
    let (start, end) = as_slices(range);
    match delete_until_unreadable(store, store.snapshot()?.range(Table::Records, start, end))? {
        None => Ok(()),
        Some(error) => Err(error),
    }
}

/// Deletes what nobody will ask for again, a replica's that is gone or a generation's that
/// is not current. Where a part can't be read it stays and takes space: ids and generations
/// are not used again.
pub(crate) fn delete_readable(store: &dyn OrderedStore, range: &Bounds) -> Result<(), StoreError> {
    let (start, end) = as_slices(range);
    let snapshot = store.snapshot()?;
    let Some(error) = delete_until_unreadable(store, snapshot.range(Table::Records, start, end))? else {
        return Ok(());
    };
    tracing::warn!(error = &error as &dyn std::error::Error, "what can't be read is not deleted");
    delete_until_unreadable(store, snapshot.range_backwards(Table::Records, start, end)).map(drop)
}

/// Says why it ended early, if it did.
fn delete_until_unreadable(
    store: &dyn OrderedStore,
    pairs: Pairs<'_>,
) -> Result<Option<StoreError>, StoreError> {
    /// Some hundred KiB.
    const KEYS_PER_BATCH: usize = 4096;
    let mut batch = WriteBatch::default();
    let mut unreadable = None;
    for pair in pairs {
        match pair {
            Ok((key, _)) => batch.delete(Table::Records, key),
            Err(error) => {
                unreadable = Some(error);
                break;
            }
        }
        if batch.len() >= KEYS_PER_BATCH {
            store.write(std::mem::take(&mut batch))?;
        }
    }
    if !batch.is_empty() {
        store.write(batch)?;
    }
    Ok(unreadable)
}

/// Stores a piece's pairs; the last key, if it has any. `None` if the piece is malformed.
fn store_piece(
    store: &dyn OrderedStore,
    place: Place,
    body: Bytes,
) -> Result<Option<Option<Bytes>>, StoreError> {
    let prefix = place.prefix(Area::Meta);
    let mut rest = body;
    let mut last = None;
    let mut batch = WriteBatch::default();
    while !rest.is_empty() {
        let Some((key, value, left)) = split_pair(&rest) else { return Ok(None) };
        let known = [Area::Records, Area::Outcomes, Area::OutcomesByRevision, Area::Changes];
        if !key.first().is_some_and(|area| known.iter().any(|known| *known as u8 == *area)) {
            return Ok(None);
        }
        batch.put(Table::Records, [&prefix[..AREA_AT], &key].concat(), value);
        last = Some(key);
        rest = left;
    }
    if !batch.is_empty() {
        store.write(batch)?;
    }
    Ok(Some(last))
}

fn split_pair(bytes: &Bytes) -> Option<(Bytes, Bytes, Bytes)> {
    let length = |at: usize| Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?) as usize);
    let key_end = 8usize.checked_add(length(0)?)?;
    let value_end = key_end.checked_add(length(4)?)?;
    (value_end <= bytes.len())
        .then(|| (bytes.slice(8..key_end), bytes.slice(key_end..value_end), bytes.slice(value_end..)))
}

#[cfg(test)]
mod tests {
    use atoll_disk::MemoryStore;

    use super::*;

    #[test]
    fn a_generation_is_read_and_stored_piece_by_piece() {
        let store = MemoryStore::new();
        let from = Place { replica: ReplicaId(1), generation: 4 };
        let to = Place { replica: ReplicaId(2), generation: 1 };
        let mut batch = WriteBatch::default();
        for number in 0..30u8 {
            batch.put(Table::Records, from.key(Area::Records, &[number]), vec![number; 300_000]);
        }
        batch.put(Table::Records, from.key(Area::Outcomes, b"id"), b"result".to_vec());
        batch.put(Table::Records, from.key(Area::Meta, &[]), b"not sent".to_vec());
        let neighbour = Place { replica: ReplicaId(1), generation: 5 };
        batch.put(Table::Records, neighbour.key(Area::Records, b"x"), b"not sent".to_vec());
        store.write(batch).unwrap();

        let snapshot = store.snapshot().unwrap();
        let mut after = None;
        let mut pieces = 0;
        loop {
            let (body, last) = read_piece(&*snapshot, from, after.as_deref()).unwrap();
            pieces += 1;
            after = store_piece(&store, to, body).unwrap().unwrap();
            if last {
                break;
            }
            assert!(after.is_some());
        }
        assert!(pieces > 1);
        let pairs = |place: Place| -> Vec<(Bytes, Bytes)> {
            let snapshot = store.snapshot().unwrap();
            let range = place.whole();
            let (start, end) = as_slices(&range);
            let pairs = snapshot.range(Table::Records, start, end);
            pairs.map(|pair| pair.unwrap()).map(|(key, value)| (key.slice(AREA_AT..), value)).collect()
        };
        assert_eq!(pairs(to)[..], pairs(from)[1..]);
    }

    #[test]
    fn what_crashes_left_behind_goes_at_the_next_start_and_nothing_else() {
        let store = MemoryStore::new();
        let place = |replica, generation| Place { replica: ReplicaId(replica), generation };
        let mut batch = WriteBatch::default();
        for (replica, generation) in [(1, 1), (2, 1), (2, 2), (2, 3), (3, 1), (9, 7), (10, 0), (10, 1)] {
            batch.put(Table::Records, place(replica, generation).key(Area::Records, b"k"), b"v".to_vec());
        }
        store.write(batch).unwrap();
        let descriptor = |replica, generation| Descriptor {
            shard: ShardId(1),
            replica: ReplicaId(replica),
            generation,
            began_at: 1,
        };
        delete_leftovers(&store, &[descriptor(1, 1), descriptor(2, 2), descriptor(10, 1)]).unwrap();
        let snapshot = store.snapshot().unwrap();
        let left: Vec<Bytes> = snapshot
            .range(Table::Records, Bound::Unbounded, Bound::Unbounded)
            .map(|pair| pair.unwrap().0)
            .collect();
        let kept = [(1, 1), (2, 2), (10, 1)];
        assert_eq!(
            left,
            kept.map(|(replica, generation)| place(replica, generation).key(Area::Records, b"k"))
        );
    }

    #[test]
    fn a_malformed_piece_is_refused() {
        let store = MemoryStore::new();
        let place = Place { replica: ReplicaId(2), generation: 1 };
        let refused = |body: &'static [u8]| store_piece(&store, place, Bytes::from_static(body)).unwrap();
        assert_eq!(refused(b"\0\0\0\x02\0\0\0\x01\x01k"), None, "cut short");
        assert_eq!(refused(b"\0\0\0\x02\0\0\0\x01\0kv"), None, "a meta record");
        assert_eq!(refused(b"\xff\xff\xff\xff\xff\xff\xff\xff"), None, "too long");
        assert!(refused(b"\0\0\0\x02\0\0\0\x01\x01kv").is_some());
    }
}
