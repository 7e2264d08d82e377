//! What only sockets can show: keys, malformed frames, silent and slow peers, limits. What
//! every transport does is in `tests/suite.rs`.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::BytesMut;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    sync::Notify,
};

use super::{
    connection::SERVED_MAX,
    frame::{Hello, Kind, PIECE_BYTES_MAX, PREFIX_BYTES, Prefix},
    stream::{Reader, Source, Writer},
    *,
};
use crate::Refusal;

/// A bound that only a failure reaches.
const LIMIT: Duration = Duration::from_secs(20);

struct Everyone;

impl Admission for Everyone {
    fn admits(&self, _peer: &NodeId, _protocol: Protocol) -> bool {
        true
    }
}

/// Echoes, counts, panics on "panic", never answers "silence".
#[derive(Default)]
struct Echo {
    calls: AtomicUsize,
    datagrams: AtomicUsize,
    gate: Notify,
}

#[async_trait]
impl Handler for Echo {
    async fn call(&self, _from: Caller, request: Message) -> Result<Message, Refusal> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        match request.header.as_ref() {
            b"panic" => panic!("as asked"),
            b"silence" => std::future::pending().await,
            b"gate" => self.gate.notified().await,
            _ => {}
        }
        Ok(request)
    }

    fn datagram(&self, _from: &Caller, payload: Bytes) {
        assert_ne!(payload, "panic", "as asked");
        self.datagrams.fetch_add(1, Ordering::SeqCst);
    }
}

fn key(number: u8) -> NodeKey {
    NodeKey::from_seed([number; 32])
}

async fn bind(number: u8, cluster: Option<ClusterId>, settings: TlsSettings) -> Arc<TlsTransport> {
    TlsTransport::bind(&key(number), cluster, "127.0.0.1:0", Runtime::tokio(), settings).await.unwrap()
}

fn serve(transport: &TlsTransport) -> Arc<Echo> {
    let echo = Arc::new(Echo::default());
    transport.set_admission(Arc::new(Everyone));
    transport.serve(Protocol::Raft, echo.clone());
    echo
}

fn introduce(a: &TlsTransport, b: &TlsTransport) {
    a.set_addresses(b.node_id(), vec![b.local_addr().to_string()]);
}

async fn pair(settings: TlsSettings) -> (Arc<TlsTransport>, Arc<TlsTransport>, Arc<Echo>) {
    let (a, b) = (bind(1, None, settings.clone()).await, bind(2, None, settings).await);
    introduce(&a, &b);
    let echo = serve(&b);
    (a, b, echo)
}

async fn call(a: &TlsTransport, b: &TlsTransport, header: &'static str) -> Result<Message, CallError> {
    a.call(b.node_id(), Protocol::Raft, Message::header(header), LIMIT).await
}

async fn until(what: &str, condition: impl Fn() -> bool) {
    let runtime = Runtime::tokio();
    let met = async {
        while !condition() {
            runtime.sleep(Duration::from_millis(2)).await;
        }
    };
    runtime.timeout(LIMIT, met).await.unwrap_or_else(|_| panic!("never: {what}"));
}

// --- Keys.

#[tokio::test]
async fn another_node_behind_an_address_is_refused() {
    let (a, b, _) = pair(TlsSettings::default()).await;
    let impostor = bind(3, None, TlsSettings::default()).await;
    let echo = serve(&impostor);
    a.set_addresses(b.node_id(), vec![impostor.local_addr().to_string()]);
    let result = call(&a, &b, "hello").await;
    assert!(matches!(result, Err(CallError::Unreachable { .. })), "{result:?}");
    assert_eq!(echo.calls.load(Ordering::SeqCst), 0);
    assert_eq!(a.counters().dials_failed, 1);
    // The right address beside the wrong one is found.
    let addresses = vec![impostor.local_addr().to_string(), b.local_addr().to_string()];
    a.set_addresses(b.node_id(), addresses);
    call(&a, &b, "hello").await.unwrap();
}

/// Offers the public key of one node and signs with the secret of another.
#[tokio::test]
async fn a_key_that_is_shown_but_not_held_is_refused() {
    let (a, b, echo) = pair(TlsSettings::default()).await;
    let thief = bind(3, None, TlsSettings::default()).await;
    let forged = Identity::forged(&key(3), &a.node_id());
    let connector = tokio_rustls::TlsConnector::from(Arc::new(forged.client_config(b.node_id())));
    let socket = TcpStream::connect(b.local_addr()).await.unwrap();
    // The dialler's side may be done before the acceptor looked at its signature.
    if let Ok(mut stream) = connector.connect(identity::server_name(), socket).await {
        let mut byte = [0];
        assert!(!matches!(stream.read(&mut byte).await, Ok(1)), "nothing is said to a thief");
    }
    until("the handshake fails", || b.counters().handshakes_failed == 1).await;
    assert_eq!(b.counters().connections_accepted, 0);
    assert_eq!(echo.calls.load(Ordering::SeqCst), 0);
    drop(thief);
}

/// A way to `b` that keeps what goes to it.
async fn tapped(b: &TlsTransport) -> (std::net::SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, to) = (listener.local_addr().unwrap(), b.local_addr());
    let captured = Arc::new(Mutex::new(Vec::new()));
    let tap = captured.clone();
    drop(Runtime::tokio().spawn("tap", async move {
        let (near, _) = listener.accept().await.unwrap();
        let (mut from_a, mut to_a) = near.into_split();
        let (mut from_b, mut to_b) = TcpStream::connect(to).await.unwrap().into_split();
        let there = async {
            let mut bytes = [0; 4096];
            while let Ok(count @ 1..) = from_a.read(&mut bytes).await {
                tap.lock().unwrap().extend_from_slice(&bytes[..count]);
                to_b.write_all(&bytes[..count]).await.unwrap();
            }
        };
        let _ = tokio::join!(there, tokio::io::copy(&mut from_b, &mut to_a));
    }));
    (address, captured)
}

/// All that a dialler sent, a call included, sent again by somebody who heard it.
#[tokio::test]
async fn a_handshake_that_was_captured_is_worth_nothing_when_it_is_sent_again() {
    let (a, b, echo) = pair(TlsSettings::default()).await;
    let (address, captured) = tapped(&b).await;
    a.set_addresses(b.node_id(), vec![address.to_string()]);
    call(&a, &b, "hello").await.unwrap();
    let captured = captured.lock().unwrap().clone();
    let accepted = b.counters().connections_accepted;
    let mut replay = TcpStream::connect(b.local_addr()).await.unwrap();
    replay.write_all(&captured).await.unwrap();
    until("the handshake fails", || b.counters().handshakes_failed == 1).await;
    assert_eq!(b.counters().connections_accepted, accepted);
    assert_eq!(echo.calls.load(Ordering::SeqCst), 1, "the first time");
}

#[tokio::test]
async fn nodes_of_two_clusters_refuse_each_other_and_say_why() {
    let settings = TlsSettings::default();
    let a = bind(1, Some(ClusterId([1; 16])), settings.clone()).await;
    let b = bind(2, Some(ClusterId([2; 16])), settings.clone()).await;
    let joiner = bind(3, None, settings).await;
    serve(&b);
    introduce(&a, &b);
    introduce(&joiner, &b);
    match call(&a, &b, "hello").await {
        Err(CallError::Unreachable { reason, .. }) => {
            assert!(reason.contains("belongs to the cluster"), "{reason}")
        }
        other => panic!("{other:?}"),
    }
    call(&joiner, &b, "hello").await.unwrap();
}

// --- Malformed frames.

/// A connection to `b` below the frames, and what to compare afterwards.
async fn raw(a: &TlsTransport, b: &TlsTransport) -> (Reader, Writer) {
    let address = b.local_addr().to_string();
    let (_, reader, writer, _) = dial::dial_address(&a.node, b.node_id(), &address, true).await.unwrap();
    (reader, writer)
}

async fn write(writer: &mut Writer, bytes: &[u8]) -> io::Result<()> {
    writer.write_all(&mut [io::IoSlice::new(bytes)]).await
}

/// Reads until the other side closes.
async fn read_to_end(mut reader: Reader) {
    let all = async {
        loop {
            let mut bytes = BytesMut::new();
            if reader.read_to(&mut bytes, 1).await.is_err() {
                return;
            }
        }
    };
    Runtime::tokio().timeout(LIMIT, all).await.expect("the connection is closed");
}

fn request(id: u64, header: &[u8], body_len: usize) -> Vec<u8> {
    let prefix = Prefix {
        code: Protocol::Raft.code(),
        header_len: header.len(),
        body_len,
        piece_len: body_len.min(PIECE_BYTES_MAX),
        ..Prefix::bare(Kind::Request, id)
    };
    let mut bytes = prefix.encode().to_vec();
    bytes.extend_from_slice(header);
    bytes.resize(bytes.len() + prefix.piece_len, 7);
    bytes
}

async fn assert_closes(name: &str, frames: &[u8]) {
    let (a, b, _) = pair(TlsSettings::default()).await;
    let (reader, mut writer) = raw(&a, &b).await;
    // It may be closed before all is written.
    let _ = write(&mut writer, frames).await;
    read_to_end(reader).await;
    assert_eq!(b.counters().frames_malformed, 1, "{name}");
    call(&a, &b, "hello").await.unwrap();
}

#[tokio::test]
async fn what_is_no_frame_closes_its_connection_and_nothing_else() {
    let piece = |code: u16, id: u64, len: usize| {
        let prefix = Prefix { code, body_len: len, piece_len: len, ..Prefix::bare(Kind::Piece, id) };
        let mut bytes = prefix.encode().to_vec();
        bytes.resize(PREFIX_BYTES + len, 0);
        bytes
    };
    let of_request = Kind::Request as u16;
    let mut huge = request(1, b"", 0);
    huge[16..20].copy_from_slice(&u32::MAX.to_be_bytes());
    let hello = Prefix { header_len: 20, ..Prefix::bare(Kind::Hello, 0) }.encode().to_vec();
    let too_many = (0..20).flat_map(|id| request(id, b"", PIECE_BYTES_MAX + 1)).collect();
    let reason = Prefix { header_len: 2, ..Prefix::bare(Kind::Refusal, 1) };
    let cases: [(&str, Vec<u8>); 10] = [
        ("an unknown kind", vec![0xff; PREFIX_BYTES]),
        ("a body over the limit", huge),
        ("a second hello", [hello, vec![0; 20]].concat()),
        ("a piece of nothing", piece(of_request, 5, 10)),
        ("a piece of a ping", piece(Kind::Ping as u16, 5, 10)),
        (
            "a piece that is too long",
            [request(1, b"", PIECE_BYTES_MAX + 1), piece(of_request, 1, 2)].concat(),
        ),
        ("a body begun twice", request(1, b"", PIECE_BYTES_MAX + 1).repeat(2)),
        ("an id that is in use", request(1, b"silence", 0).repeat(2)),
        ("too many bodies at once", too_many),
        ("a reason that is no text", [reason.encode().as_slice(), &[0xff, 0xff]].concat()),
    ];
    for (name, frames) in cases {
        assert_closes(name, &frames).await;
    }
}

#[tokio::test]
async fn random_and_mutated_frames_never_do_more_than_close_their_connection() {
    let (a, b, echo) = pair(TlsSettings::default()).await;
    for seed in 0..150u64 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut bytes: Vec<u8> = (0..rng.random_range(1..6))
            .flat_map(|id| {
                let header = vec![b'x'; rng.random_range(0..40)];
                let body_len =
                    if rng.random_bool(0.2) { PIECE_BYTES_MAX + 9 } else { rng.random_range(0..100) };
                request(id, &header, body_len)
            })
            .collect();
        if rng.random_bool(0.3) {
            rng.fill(bytes.as_mut_slice());
        } else {
            for _ in 0..rng.random_range(1..5) {
                // Where it hurts: in the first frames' prefixes.
                let at = rng.random_range(0..bytes.len().min(120));
                bytes[at] = rng.random();
            }
        }
        bytes.truncate(rng.random_range(1..=bytes.len()));
        let (reader, mut writer) = raw(&a, &b).await;
        let _ = write(&mut writer, &bytes).await;
        drop(writer);
        let closed = Runtime::tokio().timeout(LIMIT, read_to_end(reader)).await;
        closed.unwrap_or_else(|_| panic!("seed {seed} left its connection open"));
    }
    assert!(b.counters().frames_malformed > 25, "{:?}", b.counters());
    assert!(echo.calls.load(Ordering::SeqCst) > 0, "some frames were whole");
    call(&a, &b, "hello").await.unwrap();
}

#[tokio::test]
async fn what_does_not_speak_tls_is_dropped() {
    let (a, b, _) = pair(TlsSettings::default()).await;
    for bytes in [b"GET / HTTP/1.1\r\n\r\n".as_slice(), &[0; 1000], &[0x16, 0x03, 0x01, 0xff, 0xff]] {
        let mut socket = TcpStream::connect(b.local_addr()).await.unwrap();
        socket.write_all(bytes).await.unwrap();
        socket.shutdown().await.unwrap();
        // Closed, by whatever it says before.
        let _ = socket.read_to_end(&mut Vec::new()).await;
    }
    until("all fail", || b.counters().handshakes_failed == 3).await;
    call(&a, &b, "hello").await.unwrap();
}

#[tokio::test]
async fn a_frame_instead_of_a_hello_ends_the_handshake() {
    let (a, b, echo) = pair(TlsSettings::default()).await;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(a.node.identity.client_config(b.node_id())));
    let socket = TcpStream::connect(b.local_addr()).await.unwrap();
    let mut stream = connector.connect(identity::server_name(), socket).await.unwrap();
    stream.write_all(&request(1, b"hello", 0)).await.unwrap();
    let _ = stream.read_to_end(&mut Vec::new()).await;
    until("the handshake fails", || b.counters().handshakes_failed == 1).await;
    assert_eq!(echo.calls.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_peer_of_a_later_version_is_spoken_to_in_ours() {
    let (a, b, _) = pair(TlsSettings::default()).await;
    let connector = tokio_rustls::TlsConnector::from(Arc::new(a.node.identity.client_config(b.node_id())));
    let socket = TcpStream::connect(b.local_addr()).await.unwrap();
    let (socket, tls) = connector.connect(identity::server_name(), socket).await.unwrap().into_inner();
    let meter = Arc::new(counters::Meter::new(Arc::default()));
    let (mut reader, mut writer) = stream::split(socket, rustls::Connection::Client(tls), meter);
    let hello = Hello { version_min: Hello::VERSION, version_max: Hello::VERSION + 1, cluster: None };
    let said = [hello.encode().as_slice(), b"and more that only it knows"].concat();
    let prefix = Prefix { header_len: said.len(), ..Prefix::bare(Kind::Hello, 0) };
    let frames = [prefix.encode().as_slice(), &said, &request(9, b"hello", 0)].concat();
    write(&mut writer, &frames).await.unwrap();
    let mut bytes = BytesMut::new();
    reader.read_to(&mut bytes, PREFIX_BYTES + 20 + PREFIX_BYTES).await.unwrap();
    let reply = Prefix::decode(bytes[PREFIX_BYTES + 20..].first_chunk().unwrap()).unwrap();
    assert_eq!((reply.kind, reply.id), (Kind::Reply, 9));
}

// --- Peers that are silent, slow, or too many.

/// Forwards bytes between two sockets, until it is told to keep them.
struct Proxy {
    address: String,
    cut: Arc<AtomicBool>,
    _task: AbortOnDrop,
}

impl Proxy {
    async fn to(target: SocketAddr) -> Self {
        let runtime = Runtime::tokio();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let cut = Arc::new(AtomicBool::new(false));
        let task = {
            let (runtime, cut) = (runtime.clone(), cut.clone());
            async move {
                // Kept here, so that a cut closes nothing.
                let mut forwards = Vec::new();
                loop {
                    let (near, _) = listener.accept().await.unwrap();
                    let far = TcpStream::connect(target).await.unwrap();
                    let (near_in, near_out) = near.into_split();
                    let (far_in, far_out) = far.into_split();
                    for (from, to) in [(near_in, far_out), (far_in, near_out)] {
                        forwards.push(runtime.spawn_owned("forward", forward(from, to, cut.clone())));
                    }
                }
            }
        };
        Self { address, cut, _task: runtime.spawn_owned("proxy", task) }
    }
}

async fn forward(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    cut: Arc<AtomicBool>,
) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let read = from.read(&mut buffer).await.unwrap_or(0);
        if cut.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        if read == 0 || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

fn impatient() -> TlsSettings {
    TlsSettings {
        keep_alive_every: Duration::from_millis(100),
        dead_after: Duration::from_millis(500),
        handshake_limit: Duration::from_millis(700),
        ..TlsSettings::default()
    }
}

#[tokio::test]
async fn a_cut_network_is_noticed_without_a_word_from_it() {
    let (a, b, echo) = pair(impatient()).await;
    let proxy = Proxy::to(b.local_addr()).await;
    a.set_addresses(b.node_id(), vec![proxy.address.clone()]);
    call(&a, &b, "hello").await.unwrap();
    let (result, ()) = tokio::join!(biased; call(&a, &b, "silence"), async {
        until("the call arrives", || echo.calls.load(Ordering::SeqCst) == 2).await;
        proxy.cut.store(true, Ordering::SeqCst);
    });
    assert_eq!(result, Err(CallError::Disconnected { peer: b.node_id() }));
    assert_eq!(a.counters().peers_silent, 1);
    until("the other end notices too", || b.counters().peers_silent == 1).await;
    // A dial into the cut ends by its deadline.
    let result = call(&a, &b, "hello").await;
    assert!(matches!(result, Err(CallError::Unreachable { .. })), "{result:?}");
}

#[tokio::test]
async fn an_idle_connection_is_kept_alive() {
    let (a, b, _) = pair(impatient()).await;
    call(&a, &b, "hello").await.unwrap();
    let runtime = Runtime::tokio();
    let later = runtime.now() + impatient().dead_after * 3;
    until("thrice the time of death", || runtime.now() >= later).await;
    call(&a, &b, "hello").await.unwrap();
    let counters = a.counters();
    assert_eq!((counters.connections_dialled, counters.peers_silent), (1, 0));
}

#[tokio::test]
async fn an_unused_connection_is_closed_and_dialled_again_when_needed() {
    let settings = TlsSettings { control_unused_limit: Duration::from_millis(200), ..impatient() };
    let (a, b, _) = pair(settings).await;
    call(&a, &b, "hello").await.unwrap();
    until("closed", || a.counters().connections_dialled_open == 0).await;
    call(&a, &b, "hello").await.unwrap();
    assert_eq!(a.counters().connections_dialled, 2);
}

#[tokio::test]
async fn a_stranger_that_does_nothing_is_shown_out() {
    let settings = TlsSettings { stranger_unused_limit: Duration::from_millis(200), ..impatient() };
    let (a, b) = (bind(1, None, settings.clone()).await, bind(2, None, settings).await);
    introduce(&a, &b);
    a.channel_binding(b.node_id(), LIMIT).await.unwrap();
    until("closed", || b.counters().connections_accepted_open == 0).await;
}

#[tokio::test]
async fn half_a_handshake_holds_its_place_only_for_a_while() {
    let settings = TlsSettings { handshakes_max: 2, ..impatient() };
    let (a, b, _) = pair(settings).await;
    let mut idle = Vec::new();
    for _ in 0..2 {
        idle.push(TcpStream::connect(b.local_addr()).await.unwrap());
    }
    // Those and their places are given up; until then, ours may be turned away.
    until("both time out", || b.counters().handshakes_failed >= 2).await;
    while call(&a, &b, "hello").await.is_err() {
        Runtime::tokio().sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_peer_holds_no_more_connections_than_allowed() {
    let settings = TlsSettings { accepted_per_peer_max: 3, ..TlsSettings::default() };
    let (a, b, _) = pair(settings).await;
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push(raw(&a, &b).await);
    }
    until("the oldest are closed", || b.counters().connections_accepted_open == 3).await;
    let (oldest, _writer) = held.remove(0);
    read_to_end(oldest).await;
    let (mut newest, mut writer) = held.pop().unwrap();
    write(&mut writer, &request(1, b"hello", 0)).await.unwrap();
    newest.read_to(&mut BytesMut::new(), PREFIX_BYTES).await.unwrap();
}

#[tokio::test]
async fn strangers_hold_no_more_connections_than_allowed() {
    let settings = TlsSettings { strangers_max: 2, ..TlsSettings::default() };
    let b = bind(100, None, settings).await;
    let mut held = Vec::new();
    for number in 1..=2 {
        let a = bind(number, None, TlsSettings::default()).await;
        introduce(&a, &b);
        a.channel_binding(b.node_id(), LIMIT).await.unwrap();
        held.push(a);
    }
    until("both are in", || b.counters().connections_accepted == 2).await;
    let third = bind(3, None, TlsSettings::default()).await;
    introduce(&third, &b);
    let _ = third.channel_binding(b.node_id(), LIMIT).await;
    until("the third is refused", || b.counters().connections_refused > 0).await;
    assert_eq!(b.counters().connections_accepted, 2);
}

#[tokio::test]
async fn a_restarted_peer_is_found_again_at_its_address() {
    let (a, b, _) = pair(TlsSettings::default()).await;
    call(&a, &b, "hello").await.unwrap();
    let address = b.local_addr().to_string();
    b.close();
    drop(b);
    // The listening socket goes with its task, which may take a moment.
    let again = loop {
        let settings = TlsSettings::default();
        match TlsTransport::bind(&key(2), None, &address, Runtime::tokio(), settings).await {
            Ok(again) => break again,
            Err(error) if error.source.kind() == io::ErrorKind::AddrInUse => tokio::task::yield_now().await,
            Err(error) => panic!("{error:?}"),
        }
    };
    serve(&again);
    let found = async {
        while call(&a, &again, "hello").await.is_err() {
            Runtime::tokio().sleep(Duration::from_millis(10)).await;
        }
    };
    Runtime::tokio().timeout(LIMIT, found).await.expect("found within backoff");
}

#[tokio::test]
async fn a_handler_that_panics_fails_its_call_and_no_other() {
    let (a, b, _) = pair(TlsSettings::default()).await;
    match call(&a, &b, "panic").await {
        Err(CallError::Refused(refusal)) => assert_eq!(refusal.code, Refusal::HANDLER_FAILED),
        other => panic!("{other:?}"),
    }
    call(&a, &b, "hello").await.unwrap();
    assert_eq!(a.counters().connections_dialled, 1);
}

#[tokio::test]
async fn a_handler_of_datagrams_that_panics_ends_its_connection_only() {
    let (a, b, echo) = pair(TlsSettings::default()).await;
    call(&a, &b, "hello").await.unwrap();
    a.send(b.node_id(), Protocol::Raft, Bytes::from_static(b"panic"));
    until("the connection ends", || b.counters().connections_accepted_open == 0).await;
    // Before the other end has noticed, a datagram may still be lost.
    let lasting = async {
        while echo.datagrams.load(Ordering::SeqCst) == 0 {
            a.send(b.node_id(), Protocol::Raft, Bytes::from_static(b"fine"));
            Runtime::tokio().sleep(Duration::from_millis(5)).await;
        }
    };
    Runtime::tokio().timeout(LIMIT, lasting).await.expect("the next connection works");
}

#[tokio::test]
async fn a_peer_with_too_many_calls_is_told_so() {
    let (a, b, echo) = pair(TlsSettings::default()).await;
    let (mut reader, mut writer) = raw(&a, &b).await;
    // One over what is served at once; a transport of ours would have waited.
    for id in 0..=SERVED_MAX as u64 {
        write(&mut writer, &request(id, b"silence", 0)).await.unwrap();
    }
    let mut bytes = BytesMut::new();
    reader.read_to(&mut bytes, PREFIX_BYTES).await.unwrap();
    let prefix = Prefix::decode(bytes.first_chunk().unwrap()).unwrap();
    assert_eq!((prefix.kind, prefix.code, prefix.id), (Kind::Refusal, Refusal::BUSY, SERVED_MAX as u64));
    until("the others are served", || echo.calls.load(Ordering::SeqCst) == SERVED_MAX).await;
    call(&a, &b, "hello").await.unwrap();
}

#[tokio::test]
async fn a_reply_that_nobody_waits_for_is_not_sent() {
    let (a, b, echo) = pair(TlsSettings::default()).await;
    let (reader, mut writer) = raw(&a, &b).await;
    write(&mut writer, &request(1, b"gate", 0)).await.unwrap();
    until("it is served", || echo.calls.load(Ordering::SeqCst) == 1).await;
    write(&mut writer, &Prefix::bare(Kind::Cancel, 1).encode()).await.unwrap();
    write(&mut writer, &request(2, b"hello", 0)).await.unwrap();
    until("the cancel was read", || echo.calls.load(Ordering::SeqCst) == 2).await;
    echo.gate.notify_one();
    write(&mut writer, &request(3, b"hello", 0)).await.unwrap();
    let mut reader = reader;
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let mut bytes = BytesMut::new();
        reader.read_to(&mut bytes, PREFIX_BYTES).await.unwrap();
        let prefix = Prefix::decode(bytes.first_chunk().unwrap()).unwrap();
        reader.skip(prefix.header_len + prefix.piece_len).await.unwrap();
        if prefix.kind != Kind::Ping {
            seen.push((prefix.kind, prefix.id));
        }
    }
    assert_eq!(seen, [(Kind::Reply, 2), (Kind::Reply, 3)]);
}

#[tokio::test]
async fn a_node_that_stops_answers_what_it_began_and_takes_nothing_more() {
    let (a, b, echo) = pair(TlsSettings::default()).await;
    let stop = async {
        until("it is served", || echo.calls.load(Ordering::SeqCst) == 1).await;
        let stopped = async {
            b.shut_down(LIMIT).await;
        };
        let late = async {
            let late = call(&a, &b, "late").await;
            assert!(matches!(late, Err(CallError::Refused(Refusal { code: Refusal::BUSY, .. }))), "{late:?}");
            echo.gate.notify_one();
        };
        tokio::join!(biased; stopped, late);
    };
    let (result, ()) = tokio::join!(biased; call(&a, &b, "gate"), stop);
    assert_eq!(result, Ok(Message::header("gate")));
    until("all is closed", || a.counters().connections_dialled_open == 0).await;
    assert_eq!(echo.calls.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_node_that_stops_does_not_wait_for_ever() {
    let (a, b, echo) = pair(TlsSettings::default()).await;
    let (result, ()) = tokio::join!(biased; call(&a, &b, "silence"), async {
        until("it is served", || echo.calls.load(Ordering::SeqCst) == 1).await;
        b.shut_down(Duration::from_millis(50)).await;
    });
    assert_eq!(result, Err(CallError::Disconnected { peer: b.node_id() }));
}

/// Who reads slowly holds up who wants to send to it, and nobody else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_stops_reading_is_given_up_and_others_are_served_meanwhile() {
    let settings = TlsSettings { write_limit: Duration::from_millis(600), ..impatient() };
    let (a, b, _) = pair(settings.clone()).await;
    let c = bind(3, None, settings).await;
    introduce(&c, &b);
    // Asks for replies and reads none, while it keeps sending signs of life.
    let (_reader, mut writer) = raw(&a, &b).await;
    for id in 0..40 {
        let body = vec![1; PIECE_BYTES_MAX];
        let mut frame = request(id, b"", body.len());
        frame.truncate(PREFIX_BYTES);
        write(&mut writer, &[frame, body].concat()).await.unwrap();
    }
    let pings = async {
        while write(&mut writer, &Prefix::bare(Kind::Ping, 0).encode()).await.is_ok() {
            call(&c, &b, "hello").await.unwrap();
            Runtime::tokio().sleep(Duration::from_millis(50)).await;
        }
    };
    Runtime::tokio().timeout(LIMIT, pings).await.expect("the slow reader is closed");
    assert_eq!(b.counters().peers_silent, 1);
}
