//! One connection after its handshake: calls in both directions, datagrams, keep-alive.
//!
//! Three tasks: the *reader* takes frames apart and never waits for anything but the
//! socket, so the peer's writer always gets on; the *writer* empties the [`Outbox`]; the
//! *ticker* sends a ping when nothing else was sent, and gives the peer up when nothing
//! was heard. Any byte counts as a sign of life, so a slow link with a large body on it
//! is not taken for a dead one. The first of them to fail closes the connection, and
//! with it every call in flight ends at once.

use std::{
    collections::BTreeMap,
    io,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use atoll_runtime::watch;
use atoll_types::Instant;
use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::{
    Node,
    counters::Meter,
    frame::{FrameError, Kind, PIECE_BYTES_MAX, PREFIX_BYTES, Prefix, reason_bytes},
    outbox::{BULK_TURNS, Closed, Outbox, Outgoing},
    stream::{Reader, Source, Writer},
};
use crate::{Caller, Handler, Message, Protocol, Refusal, registry::answer};

/// Bodies that one peer's frames may be in the middle of: those that take turns in its
/// outbox and one datagram, with room. 8 × 8 MiB = 64 MiB.
pub(super) const BODIES_MAX: usize = 8;
const _: () = assert!(BODIES_MAX > BULK_TURNS);

/// Calls of one connection that wait for a reply; the next waits for its turn. Many of a
/// control line's wait for long: commands for an election's end, watches for news.
const CALLS_MAX: usize = 1024;
/// Bytes of the requests of those calls: some four of the largest.
const CALLS_BYTES_MAX: usize = 36 << 20;
const _: () = assert!(CALLS_BYTES_MAX > 4 * (Message::BODY_BYTES_MAX + Message::HEADER_BYTES_MAX));
/// What is served at once for one peer's connection. Twice what it asks for, so that a
/// node is only told `BUSY` if calls that it gave up are still being served.
pub(super) const SERVED_MAX: usize = 2 * CALLS_MAX;
const SERVED_BYTES_MAX: usize = 2 * CALLS_BYTES_MAX;
/// What a stranger may have us do at once: it needs one.
const JOINS_MAX: usize = 4;
/// A stranger's proof and its addresses fit a hundred times.
const JOIN_BODY_BYTES_MAX: usize = 64 << 10;
/// Header and body this small are read into one allocation.
const TOGETHER_BYTES_MAX: usize = 16 << 10;

/// Who dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Dialled { control: bool },
    Accepted,
}

/// Where the replies go, by id.
type Calls = BTreeMap<u64, oneshot::Sender<Result<Message, CallEnd>>>;

pub(super) struct Connection {
    node: Arc<Node>,
    peer: Caller,
    role: Role,
    outbox: Outbox,
    /// Calls of ours that wait for a reply. None once closed.
    calls: Mutex<Option<Calls>>,
    calls_room: Semaphore,
    calls_bytes_room: Semaphore,
    next_id: AtomicU64,
    /// Calls of the peer's that are being served, and whether it stopped waiting.
    served: Mutex<BTreeMap<u64, bool>>,
    served_room: Arc<Semaphore>,
    served_bytes_room: Arc<Semaphore>,
    joins_room: Arc<Semaphore>,
    /// When a call or datagram last passed, in nanoseconds of [`Instant`].
    used: AtomicU64,
    ended: watch::Sender<bool>,
}

/// How a call ended, if not with a reply.
#[derive(Debug)]
pub(super) enum CallEnd {
    Refused(Refusal),
    /// Not a byte of it was written.
    NotSent,
    Broken,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    #[error("the connection failed")]
    Io(#[from] io::Error),
    #[error("the peer sent what is no frame")]
    Malformed(#[from] FrameError),
    #[error("the peer fell silent")]
    Silent,
    #[error("the peer stopped reading")]
    Stalled,
    #[error("unused")]
    Unused,
    /// A bug here.
    #[error("its task panicked")]
    Panicked,
    #[error("closed here: {0}")]
    Here(&'static str),
}

impl From<Closed> for End {
    fn from(Closed: Closed) -> Self {
        End::Here("closed")
    }
}

/// A request or reply or datagram whose body is still arriving.
struct Incoming {
    prefix: Prefix,
    header: Bytes,
    /// Nobody wants it if `purpose` is None: it is skipped, and only its length counts.
    body: BytesMut,
    received: usize,
    purpose: Option<Purpose>,
}

enum Purpose {
    Serve { protocol: Protocol, handler: Arc<dyn Handler>, rooms: [Option<OwnedSemaphorePermit>; 2] },
    Reply,
    Datagram { handler: Arc<dyn Handler> },
}

impl Connection {
    pub(super) fn new(node: Arc<Node>, peer: Caller, role: Role) -> Arc<Self> {
        let now = node.runtime.now();
        Arc::new(Self {
            node,
            peer,
            role,
            outbox: Outbox::new(),
            calls: Mutex::new(Some(BTreeMap::new())),
            calls_room: Semaphore::new(CALLS_MAX),
            calls_bytes_room: Semaphore::new(CALLS_BYTES_MAX),
            next_id: AtomicU64::new(1),
            served: Mutex::new(BTreeMap::new()),
            served_room: Arc::new(Semaphore::new(SERVED_MAX)),
            served_bytes_room: Arc::new(Semaphore::new(SERVED_BYTES_MAX)),
            joins_room: Arc::new(Semaphore::new(JOINS_MAX)),
            used: AtomicU64::new(now.as_nanos()),
            ended: watch::Sender::new(false),
        })
    }

    /// Starts its tasks. They end with the connection.
    pub(super) fn start(self: &Arc<Self>, reader: Reader, writer: Writer, meter: Arc<Meter>) {
        let runtime = &self.node.runtime;
        let this = self.clone();
        drop(
            runtime
                .spawn("connection reader", async move { this.run(this.clone().read_frames(reader)).await }),
        );
        let this = self.clone();
        drop(runtime.spawn("connection writer", async move { this.run(this.write_frames(writer)).await }));
        let this = self.clone();
        drop(runtime.spawn("connection ticker", async move { this.run(this.keep_alive(meter)).await }));
    }

    async fn run(&self, task: impl Future<Output = End>) {
        // A handler of datagrams runs on the reader; if it panics, the calls of this
        // connection must not wait for their deadlines.
        let task = AssertUnwindSafe(task).catch_unwind();
        tokio::select! {
            biased;
            () = self.ended() => {}
            end = task => self.close(end.unwrap_or(End::Panicked)),
        }
    }

    pub(super) fn peer(&self) -> &Caller {
        &self.peer
    }

    pub(super) fn has_ended(&self) -> bool {
        *self.ended.borrow()
    }

    pub(super) async fn ended(&self) {
        // The sender lives in `self`, so this only ends when the connection does.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    /// Ends the connection: its calls fail now, those that were not sent yet as such.
    pub(super) fn close(&self, end: End) {
        if self.ended.send_replace(true) {
            return;
        }
        self.log(&end);
        let unsent = self.outbox.close();
        let mut calls = self.calls().take().unwrap_or_default();
        for id in unsent {
            if let Some(call) = calls.remove(&id) {
                let _ = call.send(Err(CallEnd::NotSent));
            }
        }
        self.calls_room.close();
        self.calls_bytes_room.close();
    }

    fn log(&self, end: &End) {
        let peer = self.peer.node.short();
        let role = self.role;
        match end {
            End::Malformed(error) => {
                self.node.counters.frames_malformed.count();
                tracing::warn!(peer, ?role, %error, "closed a connection: the peer sent what is no frame");
            }
            End::Silent | End::Stalled => {
                self.node.counters.peers_silent.count();
                tracing::info!(peer, ?role, %end, "closed a connection");
            }
            End::Io(error) => tracing::debug!(peer, ?role, %error, "a connection ended"),
            End::Panicked => tracing::error!(peer, ?role, "closed a connection: its task panicked"),
            End::Unused | End::Here(_) => tracing::debug!(peer, ?role, %end, "closed a connection"),
        }
    }

    fn calls(&self) -> MutexGuard<'_, Option<Calls>> {
        self.calls.lock().expect("no holder panics")
    }

    fn served(&self) -> MutexGuard<'_, BTreeMap<u64, bool>> {
        self.served.lock().expect("no holder panics")
    }

    /// How many calls wait for a reply: what a caller chooses among connections by.
    pub(super) fn load(&self) -> usize {
        CALLS_MAX - self.calls_room.available_permits()
    }

    fn mark_used(&self) {
        self.used.store(self.node.runtime.now().as_nanos(), Ordering::Relaxed);
    }

    // --- Calls of ours.

    pub(super) async fn call(&self, protocol: Protocol, request: Message) -> Result<Message, CallEnd> {
        let _turn = self.calls_room.acquire().await.map_err(|_| CallEnd::NotSent)?;
        // Within the limits of a message, which fit.
        let bytes = (request.header.len() + request.body.len()) as u32;
        let _bytes = self.calls_bytes_room.acquire_many(bytes).await.map_err(|_| CallEnd::NotSent)?;
        self.mark_used();
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let frame = Outgoing::new(Kind::Request, protocol.code(), id, request.header, request.body);
        let room = self.outbox.room_for(&frame).await.map_err(|Closed| CallEnd::NotSent)?;
        let (tx, reply) = oneshot::channel();
        self.calls().as_mut().ok_or(CallEnd::NotSent)?.insert(id, tx);
        let mut waiting = Waiting { connection: self, id, ended: false };
        let pushed = self.outbox.push(frame, room);
        let result = match pushed {
            Ok(()) => reply.await.unwrap_or(Err(CallEnd::Broken)),
            Err(Closed) => Err(CallEnd::NotSent),
        };
        waiting.ended = true;
        result
    }

    pub(super) fn send(&self, protocol: Protocol, payload: Bytes) -> Result<(), Closed> {
        self.mark_used();
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        self.outbox.try_push(Outgoing::new(Kind::Datagram, protocol.code(), id, Bytes::new(), payload))
    }

    fn complete(&self, id: u64, result: Result<Message, CallEnd>) {
        let call = self.calls().as_mut().and_then(|calls| calls.remove(&id));
        if let Some(call) = call {
            let _ = call.send(result);
        }
    }

    /// A connection that a target reads frames into, with a writer that throws away what it
    /// sends, and calls of its own under the ids below `calls`.
    #[cfg(any(test, fuzzing))]
    pub(super) fn begin_fuzzing(
        self: &Arc<Self>,
        calls: u64,
    ) -> Vec<oneshot::Receiver<Result<Message, CallEnd>>> {
        let this = self.clone();
        drop(
            self.node
                .runtime
                .spawn("throw away", async move { while this.outbox.next_batch().await.is_ok() {} }),
        );
        let begin = |id| {
            let (tx, reply) = oneshot::channel();
            self.calls().as_mut().expect("it is open").insert(id, tx);
            reply
        };
        (0..calls).map(begin).collect()
    }

    /// Nothing is being served, and all room for that is free again.
    #[cfg(any(test, fuzzing))]
    pub(super) fn is_at_rest(&self) -> bool {
        self.served().is_empty()
            && self.served_room.available_permits() == SERVED_MAX
            && self.served_bytes_room.available_permits() == SERVED_BYTES_MAX
            && self.joins_room.available_permits() == JOINS_MAX
    }

    // --- Reading.

    async fn read_frames(self: Arc<Self>, mut reader: Reader) -> End {
        match self.try_read_frames(&mut reader).await {
            Ok(never) => match never {},
            Err(end) => end,
        }
    }

    pub(super) async fn try_read_frames(
        self: &Arc<Self>,
        reader: &mut impl Source,
    ) -> Result<std::convert::Infallible, End> {
        let mut unfinished: BTreeMap<(Kind, u64), Incoming> = BTreeMap::new();
        let mut bytes = BytesMut::with_capacity(PREFIX_BYTES);
        loop {
            bytes.clear();
            reader.read_to(&mut bytes, PREFIX_BYTES).await?;
            let prefix = Prefix::decode(bytes.first_chunk().expect("so many were read"))?;
            match prefix.kind {
                Kind::Hello => return Err(FrameError::SecondHello.into()),
                Kind::Ping => {}
                Kind::Cancel => {
                    if let Some(cancelled) = self.served().get_mut(&prefix.id) {
                        *cancelled = true;
                    }
                }
                Kind::Refusal => {
                    let mut reason = BytesMut::with_capacity(prefix.header_len);
                    reader.read_to(&mut reason, prefix.header_len).await?;
                    let reason = String::from_utf8(reason.to_vec()).map_err(|_| FrameError::WrongReason)?;
                    self.complete(prefix.id, Err(CallEnd::Refused(Refusal { code: prefix.code, reason })));
                }
                Kind::Request | Kind::Reply | Kind::Datagram => {
                    if unfinished.contains_key(&(prefix.kind, prefix.id)) {
                        return Err(FrameError::IdInUse(prefix.id).into());
                    }
                    let incoming = self.read_first(reader, prefix).await?;
                    if incoming.received == prefix.body_len {
                        self.finish(incoming);
                    } else if unfinished.len() < BODIES_MAX {
                        unfinished.insert((prefix.kind, prefix.id), incoming);
                    } else {
                        return Err(FrameError::TooManyBodies.into());
                    }
                }
                Kind::Piece => {
                    let key = (prefix.continues()?, prefix.id);
                    let incoming = unfinished.get_mut(&key).ok_or(FrameError::StrayPiece)?;
                    let (kind, piece_len, body_len) = (key.0, prefix.piece_len, incoming.prefix.body_len);
                    if piece_len != (body_len - incoming.received).min(PIECE_BYTES_MAX) {
                        return Err(FrameError::WrongPiece { kind, piece_len, body_len }.into());
                    }
                    incoming.received += piece_len;
                    match incoming.purpose {
                        Some(_) => reader.read_to(&mut incoming.body, incoming.received).await?,
                        None => reader.skip(piece_len).await?,
                    }
                    if incoming.received == body_len {
                        self.finish(unfinished.remove(&key).expect("just seen"));
                    }
                }
            }
        }
    }

    /// Reads the rest of a body's first frame, if somebody wants it.
    async fn read_first(&self, reader: &mut impl Source, prefix: Prefix) -> Result<Incoming, End> {
        let Prefix { header_len, body_len, piece_len, .. } = prefix;
        let purpose = self.purpose_of(&prefix)?;
        let mut incoming =
            Incoming { prefix, header: Bytes::new(), body: BytesMut::new(), received: piece_len, purpose };
        if incoming.purpose.is_none() {
            reader.skip(header_len + piece_len).await?;
        } else if header_len + body_len <= TOGETHER_BYTES_MAX {
            incoming.body.reserve(header_len + body_len);
            reader.read_to(&mut incoming.body, header_len + body_len).await?;
            incoming.header = incoming.body.split_to(header_len).freeze();
        } else {
            let mut header = BytesMut::with_capacity(header_len);
            reader.read_to(&mut header, header_len).await?;
            incoming.header = header.freeze();
            incoming.body.reserve(body_len);
            reader.read_to(&mut incoming.body, piece_len).await?;
        }
        Ok(incoming)
    }

    /// What a frame is for, decided before its body is read: None if nobody wants it.
    fn purpose_of(&self, prefix: &Prefix) -> Result<Option<Purpose>, End> {
        match prefix.kind {
            Kind::Request => match self.admit(prefix)? {
                Ok(purpose) => Ok(Some(purpose)),
                Err(refusal) => {
                    if matches!(refusal.code, Refusal::NOT_ADMITTED | Refusal::REMOVED) {
                        self.node.counters.frames_not_admitted.count();
                    }
                    self.outbox
                        .try_push(refusal_frame(prefix.id, &refusal))
                        .map_err(|Closed| End::Here("the peer reads no refusals"))?;
                    Ok(None)
                }
            },
            Kind::Reply => {
                let wanted = self.calls().as_ref().is_some_and(|calls| calls.contains_key(&prefix.id));
                Ok(wanted.then_some(Purpose::Reply))
            }
            Kind::Datagram => {
                let protocol = Protocol::from_code(prefix.code);
                let routed = protocol.map(|protocol| self.node.registry.route(&self.peer.node, protocol));
                let handler = match routed {
                    Some(Ok(handler)) => Some(handler),
                    Some(Err(Refusal { code: Refusal::NOT_ADMITTED | Refusal::REMOVED, .. })) => {
                        self.node.counters.frames_not_admitted.count();
                        None
                    }
                    // A protocol of a later version, or one that isn't served yet.
                    Some(Err(_)) | None => None,
                };
                Ok(handler.map(|handler| Purpose::Datagram { handler }))
            }
            _ => Ok(None),
        }
    }

    fn admit(&self, prefix: &Prefix) -> Result<Result<Purpose, Refusal>, FrameError> {
        if self.served().contains_key(&prefix.id) {
            return Err(FrameError::IdInUse(prefix.id));
        }
        let Some(protocol) = Protocol::from_code(prefix.code) else {
            let reason = format!("the protocol {} is not known here", prefix.code);
            return Ok(Err(Refusal { code: Refusal::NOT_SERVED, reason }));
        };
        let handler = match self.node.registry.route(&self.peer.node, protocol) {
            Ok(handler) => handler,
            Err(refusal) => return Ok(Err(refusal)),
        };
        if protocol == Protocol::Join && prefix.body_len > JOIN_BODY_BYTES_MAX {
            return Ok(Err(Refusal::not_admitted(protocol)));
        }
        let busy = || Refusal { code: Refusal::BUSY, reason: "too many calls at once".into() };
        let room = if protocol == Protocol::Join { &self.joins_room } else { &self.served_room };
        let Ok(turn) = room.clone().try_acquire_owned() else { return Ok(Err(busy())) };
        // Within the limits of a message, which fit.
        let bytes = (prefix.header_len + prefix.body_len) as u32;
        let Ok(bytes) = self.served_bytes_room.clone().try_acquire_many_owned(bytes) else {
            return Ok(Err(busy()));
        };
        Ok(Ok(Purpose::Serve { protocol, handler, rooms: [Some(turn), Some(bytes)] }))
    }

    fn finish(self: &Arc<Self>, incoming: Incoming) {
        let Incoming { prefix, header, body, purpose, .. } = incoming;
        let message = Message { header, body: body.freeze() };
        match purpose {
            None => {}
            Some(Purpose::Reply) => self.complete(prefix.id, Ok(message)),
            Some(Purpose::Datagram { handler }) => {
                self.mark_used();
                self.node.counters.datagrams_received.count();
                handler.datagram(&self.peer, message.body);
            }
            Some(Purpose::Serve { protocol, handler, rooms }) => {
                self.mark_used();
                self.node.counters.calls_served.count();
                self.served().insert(prefix.id, false);
                let this = self.clone();
                // Let go of: it runs to its end even if the connection doesn't live so long.
                drop(self.node.runtime.spawn("serve call", async move {
                    let call = answer(handler, this.peer.clone(), protocol, message);
                    let result = AssertUnwindSafe(call).catch_unwind().await;
                    let result = result.unwrap_or_else(|_| {
                        tracing::error!(protocol = protocol.name(), "a handler panicked");
                        Err(Refusal { code: Refusal::HANDLER_FAILED, reason: "the handler failed".into() })
                    });
                    drop(rooms);
                    this.reply(prefix.id, result).await;
                }));
            }
        }
    }

    async fn reply(&self, id: u64, result: Result<Message, Refusal>) {
        let frame = match result {
            Ok(reply) => Outgoing::new(Kind::Reply, 0, id, reply.header, reply.body),
            Err(refusal) => refusal_frame(id, &refusal),
        };
        // If the connection closed meanwhile, the caller knows.
        if !self.is_cancelled(id)
            && let Ok(room) = self.outbox.room_for(&frame).await
            && !self.is_cancelled(id)
        {
            let _ = self.outbox.push(frame, room);
        }
        // Only now, so that the call counts as served until its reply is in the outbox.
        self.served().remove(&id);
    }

    fn is_cancelled(&self, id: u64) -> bool {
        self.served().get(&id).is_none_or(|cancelled| *cancelled)
    }

    /// No call of the peer's is being served, and all replies are written.
    pub(super) fn is_drained(&self) -> bool {
        self.has_ended() || (self.served().is_empty() && self.outbox.is_idle())
    }

    // --- Writing, and keeping alive.

    async fn write_frames(&self, mut writer: Writer) -> End {
        loop {
            let batch = match self.outbox.next_batch().await {
                Ok(batch) => batch,
                Err(closed) => return closed.into(),
            };
            if let Err(error) = writer.write_all(&mut batch.slices()).await {
                return error.into();
            }
        }
    }

    async fn keep_alive(&self, meter: Arc<Meter>) -> End {
        let runtime = &self.node.runtime;
        let settings = &self.node.settings;
        let mut heard = runtime.now();
        let mut got_on = heard;
        let (mut bytes_in, mut bytes_out) = meter.totals();
        loop {
            runtime.sleep(settings.keep_alive_every).await;
            let now = runtime.now();
            let (now_in, now_out) = meter.totals();
            if now_in != bytes_in {
                heard = now;
            } else if now.saturating_since(heard) >= settings.dead_after {
                return End::Silent;
            }
            if now_out != bytes_out {
                got_on = now;
            } else {
                // Had the last ping left, bytes would have been written.
                if now.saturating_since(got_on) >= settings.write_limit {
                    return End::Stalled;
                }
                self.outbox.push_control(Prefix::bare(Kind::Ping, 0));
            }
            (bytes_in, bytes_out) = (now_in, now_out);
            if self.is_unused(now) {
                return End::Unused;
            }
        }
    }

    fn is_unused(&self, now: Instant) -> bool {
        let settings = &self.node.settings;
        let limit = match self.role {
            Role::Dialled { control: true } => settings.control_unused_limit,
            Role::Dialled { control: false } => settings.bulk_unused_limit,
            Role::Accepted if self.node.is_stranger(&self.peer.node) => settings.stranger_unused_limit,
            Role::Accepted => return false,
        };
        let used = Instant::from_nanos(self.used.load(Ordering::Relaxed));
        let in_use = self.load() > 0 || !self.served().is_empty();
        !in_use && now.saturating_since(used) >= limit
    }
}

fn refusal_frame(id: u64, refusal: &Refusal) -> Outgoing {
    let reason = Bytes::copy_from_slice(reason_bytes(refusal));
    Outgoing::new(Kind::Refusal, refusal.code, id, reason, Bytes::new())
}

/// A call that waits for its reply. If its caller stops waiting, the peer is told to keep
/// the reply, or never sees the request.
struct Waiting<'a> {
    connection: &'a Connection,
    id: u64,
    ended: bool,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let Connection { outbox, .. } = self.connection;
        if let Some(calls) = self.connection.calls().as_mut() {
            calls.remove(&self.id);
        }
        if !outbox.withdraw(self.id) {
            outbox.push_control(Prefix::bare(Kind::Cancel, self.id));
        }
    }
}
