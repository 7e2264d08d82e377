//! The fuzz target of frames: what a peer may send once its key is proven, read by a connection
//! that serves and asks.

use std::{
    io,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use atoll_runtime::Runtime;
use atoll_types::{ClusterId, NodeId};
use bytes::{Bytes, BytesMut};

use super::{
    Node, TlsSettings,
    connection::{CallEnd, Connection, End, Role},
    frame::{HELLO_BYTES_MAX, Hello, Kind, PIECE_BYTES_MAX, PREFIX_BYTES, Prefix, REASON_BYTES_MAX},
    stream::Source,
};
use crate::{Admission, Caller, Handler, Message, NodeKey, Protocol, Refusal};

/// Of a header or a piece so much is the input's; what is longer goes on in zeros, so that an
/// input of some hundred bytes is megabytes of bodies.
const OWN_BYTES_MAX: usize = 32;
/// Calls of ours that wait for replies, from id 0 on.
const CALLS: u64 = 4;
/// Turns that everything which was begun has to end.
const TURNS_MAX: usize = 100_000;

/// The input's frames, one after the other, as [`OWN_BYTES_MAX`] says.
struct Tape<'a> {
    bytes: &'a [u8],
    /// What was read off it, zeros included.
    read: usize,
}

impl Tape<'_> {
    fn take(&mut self, len: usize) -> &[u8] {
        let (own, rest) = self.bytes.split_at(len.min(OWN_BYTES_MAX).min(self.bytes.len()));
        self.bytes = rest;
        self.read += len;
        own
    }
}

impl Source for Tape<'_> {
    async fn read_to(&mut self, dest: &mut BytesMut, len: usize) -> io::Result<()> {
        let wanted = len.saturating_sub(dest.len());
        assert!(wanted <= PIECE_BYTES_MAX.max(Message::HEADER_BYTES_MAX));
        if wanted == PREFIX_BYTES {
            // As between two packets: what is served gets on meanwhile.
            tokio::task::yield_now().await;
            if self.bytes.len() < PREFIX_BYTES {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        dest.extend_from_slice(self.take(wanted));
        dest.resize(len, 0);
        Ok(())
    }

    async fn skip(&mut self, len: usize) -> io::Result<()> {
        self.take(len);
        Ok(())
    }
}

/// Answers with what it is asked, and counts.
#[derive(Default)]
struct Echo {
    received: AtomicUsize,
}

impl Echo {
    fn count(&self, message: &Message) {
        assert!(message.header.len() <= Message::HEADER_BYTES_MAX);
        assert!(message.body.len() <= Message::BODY_BYTES_MAX);
        self.received.fetch_add(message.header.len() + message.body.len(), Ordering::Relaxed);
    }
}

#[async_trait]
impl Handler for Echo {
    async fn call(&self, _from: Caller, request: Message) -> Result<Message, Refusal> {
        self.count(&request);
        tokio::task::yield_now().await;
        match request.header.first() {
            Some(0) => Err(Refusal { code: 7, reason: "no".into() }),
            _ => Ok(request),
        }
    }

    fn datagram(&self, _from: &Caller, payload: Bytes) {
        assert!(payload.len() <= Message::DATAGRAM_BYTES_MAX);
        self.count(&Message::with_body("", payload));
    }
}

struct AllBut(Protocol);

impl Admission for AllBut {
    fn admits(&self, _peer: &NodeId, protocol: Protocol) -> bool {
        protocol != self.0
    }
}

/// The one that the node has its tasks on.
static EXECUTOR: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    let executor = tokio::runtime::Builder::new_current_thread().enable_time().build();
    executor.expect("an executor needs no more than memory")
});

static NODE: LazyLock<Arc<Node>> = LazyLock::new(|| {
    let _within = EXECUTOR.enter();
    let key = NodeKey::from_seed([1; 32]);
    let node = Node::new(&key, None, Runtime::tokio(), TlsSettings::default());
    node.registry.set_admission(Arc::new(AllBut(Protocol::Bench)));
    Arc::new(node)
});

/// Any bytes are frames within their limits, or the connection is closed; no handler gets more
/// than was sent, and what was begun ends.
pub fn frames(bytes: &[u8]) {
    if let Some(prefix) = bytes.first_chunk()
        && let Ok(decoded) = Prefix::decode(prefix)
    {
        assert_eq!(decoded.encode(), *prefix);
    }
    if let Ok(hello) = Hello::decode(bytes) {
        assert_eq!(hello.encode()[..], bytes[..hello.encode().len()]);
        let ours = Hello::ours(Some(ClusterId([1; 16])));
        assert_eq!(ours.agree(&hello).ok(), hello.agree(&ours).ok());
    }
    EXECUTOR.block_on(read(bytes));
}

async fn read(bytes: &[u8]) {
    let echo = Arc::new(Echo::default());
    for protocol in Protocol::ALL.into_iter().filter(|protocol| *protocol != Protocol::Raft) {
        NODE.registry.serve(protocol, echo.clone());
    }
    let peer = Caller { node: NodeId([2; 32]), channel_binding: [0; 32] };
    let connection = Connection::new(NODE.clone(), peer, Role::Accepted);
    let mut replies = connection.begin_fuzzing(CALLS);
    let mut tape = Tape { bytes, read: 0 };
    let end = match connection.try_read_frames(&mut tape).await {
        Ok(never) => match never {},
        Err(end) => end,
    };
    assert!(matches!(end, End::Io(_) | End::Malformed(_) | End::Here(_)), "{end}");
    let mut replied = 0;
    for reply in &mut replies {
        match reply.try_recv() {
            Ok(Ok(message)) => replied += message.header.len() + message.body.len(),
            Ok(Err(CallEnd::Refused(refusal))) => {
                assert!(refusal.reason.len() <= REASON_BYTES_MAX);
                replied += refusal.reason.len();
            }
            Ok(Err(other)) => panic!("a peer can't say {other:?}"),
            Err(_) => {}
        }
    }
    let mut turns = 0;
    while !connection.is_at_rest() {
        tokio::task::yield_now().await;
        turns += 1;
        assert!(turns < TURNS_MAX, "what was asked is never answered, or its room never free again");
    }
    connection.close(End::Here("read to the end"));
    assert!(echo.received.load(Ordering::Relaxed) + replied <= tape.read);
}

pub fn frames_seeds() -> Vec<Vec<u8>> {
    let whole = |kind, code: u16, id, header: &[u8], body_len: usize| {
        let piece_len = body_len.min(PIECE_BYTES_MAX);
        let prefix = Prefix { kind, code, id, header_len: header.len(), body_len, piece_len };
        [&prefix.encode()[..], header, &vec![7; body_len.min(OWN_BYTES_MAX)]].concat()
    };
    let piece = |of: Kind, id, piece_len: usize| {
        let code = of as u16;
        let prefix = Prefix { code, body_len: piece_len, piece_len, ..Prefix::bare(Kind::Piece, id) };
        [&prefix.encode()[..], &[8; OWN_BYTES_MAX]].concat()
    };
    let records = Protocol::Records.code();
    let small = whole(Kind::Request, records, 9, b"a header", 20);
    let long = [
        whole(Kind::Request, records, 10, b"a header", 3 * PIECE_BYTES_MAX - 1),
        piece(Kind::Request, 10, PIECE_BYTES_MAX),
        whole(Kind::Datagram, Protocol::Membership.code(), 11, b"", 100),
        piece(Kind::Request, 10, PIECE_BYTES_MAX - 1),
    ];
    let reply = [
        whole(Kind::Reply, 0, 1, b"a header", PIECE_BYTES_MAX + 1),
        whole(Kind::Refusal, 7, 2, b"no", 0),
        piece(Kind::Reply, 1, 1),
    ];
    let others = [
        Prefix::bare(Kind::Ping, 0).encode().to_vec(),
        Prefix::bare(Kind::Cancel, 9).encode().to_vec(),
        whole(Kind::Hello, 0, 0, &Hello::ours(None).encode(), 0),
    ];
    let not_served = [Protocol::Raft, Protocol::Bench, Protocol::Join]
        .map(|protocol| whole(Kind::Request, protocol.code(), 12 + u64::from(protocol.code()), b"h", 40));
    let hello = [&Hello::ours(Some(ClusterId([1; 16]))).encode()[..], &[0; HELLO_BYTES_MAX / 16]].concat();
    vec![
        hello,
        small.clone(),
        [small, long.concat(), reply.concat()].concat(),
        long.concat(),
        reply.concat(),
        not_served.concat(),
        others.concat(),
    ]
}

#[cfg(test)]
mod tests {
    #[test]
    fn frames_hold() {
        fuzz::exercise_times(super::frames, super::frames_seeds(), 1_000);
    }
}
