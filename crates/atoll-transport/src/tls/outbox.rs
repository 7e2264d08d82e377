//! What waits to be written on one connection, and in which order it goes.
//!
//! Three lanes. *Small* frames go first. *Datagrams* keep their order among themselves.
//! *Bulk* frames, those with a body of some size, take turns piece by piece. So neither a
//! heartbeat nor a small reply waits for more than one batch.
//!
//! The outbox is bounded by bytes: who wants to send a call waits for room (the peer reads
//! slowly, so its callers are slowed down, not the node), a datagram is dropped.

use std::{
    collections::VecDeque,
    io::IoSlice,
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::Bytes;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

use super::frame::{Kind, PIECE_BYTES_MAX, PREFIX_BYTES, Prefix};

/// 16 MiB: two of the largest bodies, so that one is being written while the next is ready.
const OUTBOX_BYTES_MAX: usize = 16 << 20;
/// What is handed to the socket at once: one piece of bulk with small frames around it.
const BATCH_BYTES: usize = PIECE_BYTES_MAX;
/// Larger frames are bulk.
const SMALL_BYTES_MAX: usize = 16 << 10;
/// Bulk frames that take turns; the others wait. The receiver puts together at most
/// [`super::connection::BODIES_MAX`] bodies at once, which must not be fewer.
pub(super) const BULK_TURNS: usize = 4;
/// What an empty frame counts as, so that the number of frames is bounded as well.
const FRAME_COST_MIN: usize = 256;

/// A frame on its way out.
pub(super) struct Outgoing {
    pub(super) prefix: Prefix,
    pub(super) header: Bytes,
    pub(super) body: Bytes,
}

impl Outgoing {
    pub(super) fn new(kind: Kind, code: u16, id: u64, header: Bytes, body: Bytes) -> Self {
        let piece_len = body.len().min(PIECE_BYTES_MAX);
        let prefix = Prefix { kind, code, id, header_len: header.len(), body_len: body.len(), piece_len };
        Self { prefix, header, body }
    }

    fn cost(&self) -> u32 {
        // Within the limits of a message, which fit.
        (PREFIX_BYTES + self.header.len() + self.body.len()).max(FRAME_COST_MIN) as u32
    }
}

/// Room for one frame, kept until it is written.
pub(super) struct Room(#[expect(dead_code, reason = "held for its drop")] Option<OwnedSemaphorePermit>);

struct Queued {
    frame: Outgoing,
    /// Bytes of the body that are in batches already.
    sent: usize,
    begun: bool,
    room: Room,
}

#[derive(Default)]
struct Lanes {
    small: VecDeque<Queued>,
    datagrams: VecDeque<Queued>,
    bulk: VecDeque<Queued>,
    closed: bool,
}

pub(super) struct Outbox {
    lanes: Mutex<Lanes>,
    filled: Notify,
    room: Arc<Semaphore>,
}

/// The connection is closed; the frame was not sent.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Closed;

impl Outbox {
    pub(super) fn new() -> Self {
        Self {
            lanes: Mutex::new(Lanes::default()),
            filled: Notify::new(),
            room: Arc::new(Semaphore::new(OUTBOX_BYTES_MAX)),
        }
    }

    fn lanes(&self) -> MutexGuard<'_, Lanes> {
        self.lanes.lock().expect("no holder panics")
    }

    /// All that was pushed is written, pings and cancels excepted.
    pub(super) fn is_idle(&self) -> bool {
        self.room.available_permits() == OUTBOX_BYTES_MAX
    }

    /// Waits for room for `frame`, in line.
    pub(super) async fn room_for(&self, frame: &Outgoing) -> Result<Room, Closed> {
        let permit = self.room.clone().acquire_many_owned(frame.cost()).await.map_err(|_| Closed)?;
        Ok(Room(Some(permit)))
    }

    pub(super) fn push(&self, frame: Outgoing, room: Room) -> Result<(), Closed> {
        let mut lanes = self.lanes();
        if lanes.closed {
            return Err(Closed);
        }
        let bulk = frame.header.len() + frame.body.len() > SMALL_BYTES_MAX;
        let lane = match frame.prefix.kind {
            Kind::Datagram => &mut lanes.datagrams,
            _ if bulk => &mut lanes.bulk,
            _ => &mut lanes.small,
        };
        lane.push_back(Queued { frame, sent: 0, begun: false, room });
        drop(lanes);
        self.filled.notify_one();
        Ok(())
    }

    /// Takes `frame` if there is room now.
    pub(super) fn try_push(&self, frame: Outgoing) -> Result<(), Closed> {
        let permit = self.room.clone().try_acquire_many_owned(frame.cost()).map_err(|_| Closed)?;
        self.push(frame, Room(Some(permit)))
    }

    /// Takes a frame that must not wait and that is bounded otherwise: pings and cancels.
    pub(super) fn push_control(&self, prefix: Prefix) {
        // On a closed connection nobody needs it.
        let _ = self.push(Outgoing { prefix, header: Bytes::new(), body: Bytes::new() }, Room(None));
    }

    /// Takes back a request of which no byte was written; false if it is too late.
    pub(super) fn withdraw(&self, id: u64) -> bool {
        let mut lanes = self.lanes();
        let Lanes { small, bulk, .. } = &mut *lanes;
        for lane in [small, bulk] {
            let is_it = |queued: &Queued| {
                queued.frame.prefix.kind == Kind::Request && queued.frame.prefix.id == id && !queued.begun
            };
            if let Some(at) = lane.iter().position(is_it) {
                lane.remove(at);
                return true;
            }
        }
        false
    }

    /// Nothing more goes in or out. Gives back the ids of the requests of which no byte
    /// was written.
    pub(super) fn close(&self) -> Vec<u64> {
        let mut lanes = self.lanes();
        lanes.closed = true;
        let Lanes { small, bulk, datagrams, .. } = &mut *lanes;
        datagrams.clear();
        let unsent = small.drain(..).chain(bulk.drain(..));
        let unsent = unsent.filter(|queued| queued.frame.prefix.kind == Kind::Request && !queued.begun);
        let ids = unsent.map(|queued| queued.frame.prefix.id).collect();
        drop(lanes);
        self.room.close();
        self.filled.notify_one();
        ids
    }

    /// What to write next; waits for it. Only the writer calls this.
    pub(super) async fn next_batch(&self) -> Result<Batch, Closed> {
        loop {
            {
                let mut lanes = self.lanes();
                if lanes.closed {
                    return Err(Closed);
                }
                let batch = lanes.take_batch();
                if !batch.parts.is_empty() {
                    return Ok(batch);
                }
            }
            self.filled.notified().await;
        }
    }
}

impl Lanes {
    fn take_batch(&mut self) -> Batch {
        let mut batch = Batch::default();
        while batch.bytes < BATCH_BYTES
            && let Some(queued) = self.small.pop_front()
        {
            // A small frame is one piece.
            batch.take_piece(queued);
        }
        // One step of each larger lane in every batch, so that neither starves.
        let mut datagrams_left = BATCH_BYTES;
        while datagrams_left > 0
            && let Some(queued) = self.datagrams.pop_front()
        {
            let before = batch.bytes;
            if let Some(rest) = batch.take_piece(queued) {
                self.datagrams.push_front(rest);
            }
            datagrams_left = datagrams_left.saturating_sub(batch.bytes - before);
        }
        if let Some(queued) = self.bulk.pop_front()
            && let Some(rest) = batch.take_piece(queued)
        {
            let turn = self.bulk.len().min(BULK_TURNS - 1);
            self.bulk.insert(turn, rest);
        }
        batch
    }
}

/// Frames and pieces that are written at once.
#[derive(Default)]
pub(super) struct Batch {
    parts: Vec<Part>,
    bytes: usize,
    /// Of frames that end in this batch: given back when it is written.
    rooms: Vec<Room>,
}

struct Part {
    prefix: [u8; PREFIX_BYTES],
    header: Bytes,
    piece: Bytes,
}

impl Batch {
    /// Takes the next piece of `queued`, and returns it if there is more.
    fn take_piece(&mut self, mut queued: Queued) -> Option<Queued> {
        let body = &queued.frame.body;
        let piece = body.slice(queued.sent..body.len().min(queued.sent + PIECE_BYTES_MAX));
        let (prefix, header) = if queued.begun {
            let Prefix { kind, id, .. } = queued.frame.prefix;
            let code = kind as u8 as u16;
            let prefix = Prefix {
                code,
                body_len: piece.len(),
                piece_len: piece.len(),
                ..Prefix::bare(Kind::Piece, id)
            };
            (prefix, Bytes::new())
        } else {
            (queued.frame.prefix, queued.frame.header.clone())
        };
        queued.begun = true;
        queued.sent += piece.len();
        self.bytes += PREFIX_BYTES + header.len() + piece.len();
        self.parts.push(Part { prefix: prefix.encode(), header, piece });
        if queued.sent < queued.frame.body.len() {
            return Some(queued);
        }
        self.rooms.push(queued.room);
        None
    }

    pub(super) fn slices(&self) -> Vec<IoSlice<'_>> {
        let mut slices = Vec::with_capacity(3 * self.parts.len());
        for part in &self.parts {
            slices.push(IoSlice::new(&part.prefix));
            for bytes in [&part.header, &part.piece] {
                if !bytes.is_empty() {
                    slices.push(IoSlice::new(bytes));
                }
            }
        }
        slices
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(id: u64, body_len: usize) -> Outgoing {
        Outgoing::new(Kind::Request, 1, id, Bytes::new(), Bytes::from(vec![0; body_len]))
    }

    fn drain(outbox: &Outbox) -> Vec<Vec<(Kind, u64, usize)>> {
        let mut batches = Vec::new();
        loop {
            let batch = outbox.lanes().take_batch();
            if batch.parts.is_empty() {
                return batches;
            }
            let seen = batch.parts.iter().map(|part| {
                let prefix = Prefix::decode(&part.prefix).unwrap();
                assert_eq!(prefix.piece_len, part.piece.len());
                (prefix.kind, prefix.id, prefix.piece_len)
            });
            batches.push(seen.collect());
        }
    }

    #[test]
    fn a_small_frame_overtakes_a_large_one_between_its_pieces() {
        let outbox = Outbox::new();
        outbox.try_push(request(1, 2 * PIECE_BYTES_MAX + 5)).unwrap();
        let first = outbox.lanes().take_batch();
        assert_eq!(first.parts.len(), 1);
        outbox.try_push(request(2, 10)).unwrap();
        assert_eq!(
            drain(&outbox),
            [vec![(Kind::Request, 2, 10), (Kind::Piece, 1, PIECE_BYTES_MAX)], vec![(Kind::Piece, 1, 5)],]
        );
    }

    #[test]
    fn large_frames_take_turns_and_no_more_than_allowed_at_once() {
        let outbox = Outbox::new();
        for id in 0..BULK_TURNS as u64 + 2 {
            outbox.try_push(request(id, 3 * PIECE_BYTES_MAX)).unwrap();
        }
        let mut open = std::collections::BTreeMap::new();
        for (kind, id, len) in drain(&outbox).into_iter().flatten() {
            assert_eq!(kind == Kind::Request, !open.contains_key(&id));
            *open.entry(id).or_insert(0) += len;
            let unfinished = open.values().filter(|sent| **sent < 3 * PIECE_BYTES_MAX).count();
            assert!(unfinished <= BULK_TURNS, "{open:?}");
        }
        assert!(open.values().all(|sent| *sent == 3 * PIECE_BYTES_MAX));
    }

    #[test]
    fn datagrams_keep_their_order_whatever_their_size() {
        let outbox = Outbox::new();
        for (id, len) in [(1, PIECE_BYTES_MAX + 1), (2, 1), (3, 1)] {
            let body = Bytes::from(vec![0; len]);
            outbox.try_push(Outgoing::new(Kind::Datagram, 1, id, Bytes::new(), body)).unwrap();
        }
        let ids: Vec<u64> = drain(&outbox).into_iter().flatten().map(|(_, id, _)| id).collect();
        assert_eq!(ids, [1, 1, 2, 3]);
    }

    #[test]
    fn a_full_outbox_takes_nothing_more_until_something_is_written() {
        let outbox = Outbox::new();
        outbox.try_push(request(1, 8 << 20)).unwrap();
        assert_eq!(outbox.try_push(request(2, 8 << 20)), Err(Closed));
        drain(&outbox);
        outbox.try_push(request(3, 8 << 20)).unwrap();
    }

    #[test]
    fn a_request_can_be_withdrawn_until_it_began() {
        let outbox = Outbox::new();
        outbox.try_push(request(1, PIECE_BYTES_MAX + 1)).unwrap();
        outbox.try_push(request(2, PIECE_BYTES_MAX + 1)).unwrap();
        let _begun = outbox.lanes().take_batch();
        assert!(!outbox.withdraw(1));
        assert!(outbox.withdraw(2));
        assert_eq!(drain(&outbox), [vec![(Kind::Piece, 1, 1)]]);
    }

    #[test]
    fn closing_tells_which_requests_never_left() {
        let outbox = Outbox::new();
        outbox.try_push(request(1, PIECE_BYTES_MAX + 1)).unwrap();
        let _begun = outbox.lanes().take_batch();
        outbox.try_push(request(2, PIECE_BYTES_MAX + 1)).unwrap();
        outbox.try_push(request(3, 1)).unwrap();
        assert_eq!(outbox.close(), [3, 2]);
        assert_eq!(outbox.try_push(request(4, 1)), Err(Closed));
    }
}
