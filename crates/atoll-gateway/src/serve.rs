//! Connections: accept, speak HTTP/1.1 or HTTP/2, give up on clients that neither send
//! nor take anything, and end in order.

use std::{
    convert::Infallible,
    future::Future,
    io,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use atoll_runtime::Runtime;
use futures_util::{
    FutureExt,
    future::{self, BoxFuture, Either},
};
use http::{Request, Response};
use hyper::{
    body::{Body, Incoming},
    service::{Service, service_fn},
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto::Builder, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use prometheus_client::metrics::gauge::Gauge;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};

use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

use crate::s3::{ConnectionInfo, Counted, S3Gateway};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How long a client may take for a request's headers, and how long a connection may lie
/// idle between two requests: S3 itself keeps them some 20 s.
const HEADERS_WAIT: Duration = Duration::from_secs(30);

/// How long a client may take nothing of an answer that is waiting for it.
const WRITE_IDLE_MAX: Duration = Duration::from_secs(60);

/// A connection costs some 20 KiB when idle and a socket: 4,096 of them 80 MiB, and within
/// the common limit of files with room for the store's. Further ones wait in the kernel.
const CONNECTIONS_MAX: usize = 4096;

/// How long clients are waited for.
#[derive(Clone, Copy)]
struct Patience {
    headers: Duration,
    write_idle: Duration,
}

/// How a door is served.
struct Way {
    tls: Option<TlsAcceptor>,
    drain_wait: Duration,
    patience: Patience,
    connections_max: usize,
}

const PATIENCE: Patience = Patience { headers: HEADERS_WAIT, write_idle: WRITE_IDLE_MAX };

/// How long requests may run on after the stop was asked for: a large object at the pace
/// of a slow client takes longer, but its client can ask again elsewhere.
const S3_DRAIN_WAIT: Duration = Duration::from_secs(20);

/// Watches never end by themselves.
const ADMIN_DRAIN_WAIT: Duration = Duration::from_secs(2);

/// After an accept that failed (no file handle left): something has to be closed first.
const ACCEPT_RETRY: Duration = Duration::from_millis(100);

/// How long a client may take for the TLS handshake.
const HANDSHAKE_WAIT: Duration = Duration::from_secs(10);

/// Serves S3 on `listener`, over TLS if given what it takes, until `shutdown` is ready; then
/// lets the requests under way finish, and returns.
pub async fn serve_s3(
    listener: TcpListener,
    gateway: S3Gateway,
    tls: Option<Arc<ServerConfig>>,
    runtime: Runtime,
    shutdown: impl Future<Output = ()>,
) {
    let open = gateway.metrics().connections.clone();
    let service = service_fn(move |request| {
        let gateway = gateway.clone();
        async move { Ok::<_, Infallible>(gateway.handle(request).await) }
    });
    let (tls, drain_wait) = (tls.map(TlsAcceptor::from), S3_DRAIN_WAIT);
    let way = Way { tls, drain_wait, patience: PATIENCE, connections_max: CONNECTIONS_MAX };
    serve(listener, way, service, open, runtime, shutdown).await;
}

/// Serves the admin API ([`crate::admin::router`]) in the same way.
pub async fn serve_admin(
    listener: TcpListener,
    router: axum::Router,
    runtime: Runtime,
    shutdown: impl Future<Output = ()>,
) {
    let service = TowerToHyperService::new(router);
    let drain_wait = ADMIN_DRAIN_WAIT;
    let way = Way { tls: None, drain_wait, patience: PATIENCE, connections_max: CONNECTIONS_MAX };
    serve(listener, way, service, Gauge::default(), runtime, shutdown).await;
}

async fn serve<S, B>(
    listener: TcpListener,
    way: Way,
    service: S,
    open: Gauge,
    runtime: Runtime,
    shutdown: impl Future<Output = ()>,
) where
    S: Service<Request<Incoming>, Response = Response<B>> + Clone + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
    B: Body + Send + 'static,
    B::Data: Send,
    B::Error: Into<BoxError>,
{
    let Way { tls, drain_wait, patience, connections_max } = way;
    let mut http = Builder::new(TokioExecutor::new());
    http.http1().timer(TokioTimer::new()).header_read_timeout(patience.headers);
    http.http2().timer(TokioTimer::new()).keep_alive_interval(patience.headers);
    let graceful = GracefulShutdown::new();
    let permits = Arc::new(Semaphore::new(connections_max));
    let mut shutdown = pin!(shutdown);
    loop {
        let accepted = async {
            let permit = permits.clone().acquire_owned().await.expect("never closed");
            (permit, listener.accept().await)
        };
        let (permit, accepted) = match future::select(&mut shutdown, pin!(accepted)).await {
            Either::Left(((), _)) => break,
            Either::Right((accepted, _)) => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted");
                runtime.sleep(ACCEPT_RETRY).await;
                continue;
            }
        };
        // Answers go out as they are written: small ones do not wait for a full segment.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection closed as it opened");
            continue;
        }
        let stream = PatientStream::new(stream, runtime.clone(), patience.write_idle);
        let held = (permit, Counted::in_gauge(&open));
        let connection = ConnectionInfo { peer, secure: tls.is_some() };
        let service = Introduced { inner: service.clone(), connection };
        let (http, watcher) = (http.clone(), graceful.watcher());
        let (tls, clock) = (tls.clone(), runtime.clone());
        drop(runtime.spawn("client connection", async move {
            let _held = held;
            let served = match tls {
                None => {
                    let io = TokioIo::new(Greeted::new(stream, clock, patience.headers));
                    watcher.watch(http.serve_connection(io, service).into_owned()).await
                }
                Some(tls) => match clock.timeout(HANDSHAKE_WAIT, tls.accept(stream)).await {
                    Ok(Ok(stream)) => {
                        let io = TokioIo::new(Greeted::new(stream, clock, patience.headers));
                        watcher.watch(http.serve_connection(io, service).into_owned()).await
                    }
                    Ok(Err(error)) => Err(error.into()),
                    Err(_) => Err("no handshake in time".into()),
                },
            };
            if let Err(error) = served {
                // Clients hang up in the middle all the time.
                tracing::debug!(error = &*error, "a connection broke off");
            }
        }));
    }
    drop(listener);
    if runtime.timeout(drain_wait, graceful.shutdown()).await.is_err() {
        tracing::warn!("requests were still running when the door closed");
    }
}

/// Puts beside each request whose connection it came over.
#[derive(Clone)]
struct Introduced<S> {
    inner: S,
    connection: ConnectionInfo,
}

impl<S: Service<Request<Incoming>>> Service<Request<Incoming>> for Introduced<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn call(&self, mut request: Request<Incoming>) -> S::Future {
        request.extensions_mut().insert(self.connection);
        self.inner.call(request)
    }
}

/// A socket that gives up when its peer takes nothing for [`WRITE_IDLE_MAX`]. Reading has
/// limits of its own: hyper's for headers, the guarded body's for bodies.
struct PatientStream {
    inner: TcpStream,
    runtime: Runtime,
    write_idle: Duration,
    /// The timer of the write that waits; `None` while none does.
    waiting: Option<BoxFuture<'static, ()>>,
}

impl PatientStream {
    fn new(inner: TcpStream, runtime: Runtime, write_idle: Duration) -> Self {
        Self { inner, runtime, write_idle, waiting: None }
    }

    fn patient<T>(&mut self, cx: &mut Context<'_>, poll: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.waiting = None;
            return poll;
        }
        let (runtime, write_idle) = (&self.runtime, self.write_idle);
        let timer = self.waiting.get_or_insert_with(|| runtime.sleep(write_idle));
        ready!(timer.poll_unpin(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing")))
    }
}

impl AsyncRead for PatientStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl AsyncWrite for PatientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.patient(cx, poll)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let poll = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.patient(cx, poll)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

/// A stream that gives up when its peer does not begin to speak: hyper's own timer runs from
/// the headers on, and not while it finds out which HTTP it is.
struct Greeted<S> {
    inner: S,
    /// How much was read, while that decides.
    read: usize,
    /// `None` once the version is known.
    timer: Option<BoxFuture<'static, ()>>,
}

/// HTTP/2's preface (RFC 9113 section 3.4): what is that far the same, or differs, is one or
/// the other.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

impl<S> Greeted<S> {
    fn new(inner: S, runtime: Runtime, wait: Duration) -> Self {
        Self { inner, read: 0, timer: Some(runtime.sleep(wait)) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Greeted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let poll = Pin::new(&mut self.inner).poll_read(cx, buffer);
        let Some(timer) = &mut self.timer else { return poll };
        if poll.is_pending() && timer.poll_unpin(cx).is_ready() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client says nothing")));
        }
        let came = &buffer.filled()[before..];
        let expected = &PREFACE[self.read..];
        let compared = came.len().min(expected.len());
        self.read += compared;
        if came[..compared] != expected[..compared] || self.read == PREFACE.len() {
            self.timer = None;
        }
        poll
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Greeted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        // It is answered.
        self.timer = None;
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.timer = None;
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use http_body_util::Full;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    /// Short enough to be waited out, long enough for a busy machine to answer in.
    const SHORT: Patience =
        Patience { headers: Duration::from_millis(300), write_idle: Duration::from_millis(300) };

    /// A door for two clients that answers with more than a socket holds.
    async fn open(patience: Patience) -> (std::net::SocketAddr, atoll_runtime::AbortOnDrop, Gauge) {
        let runtime = Runtime::tokio();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let service = service_fn(|_: Request<Incoming>| async {
            Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(vec![0; 64 << 20]))))
        });
        let (connections, own) = (Gauge::default(), runtime.clone());
        let drain_wait = ADMIN_DRAIN_WAIT;
        let way = Way { tls: None, drain_wait, patience, connections_max: 2 };
        let served = serve(listener, way, service, connections.clone(), own, future::pending());
        (address, runtime.spawn_owned("door", served), connections)
    }

    /// Bounds a wait for what must happen.
    async fn soon<T>(what: impl Future<Output = T>) -> T {
        Runtime::tokio().timeout(Duration::from_secs(20), what).await.expect("it happens")
    }

    #[tokio::test]
    async fn a_client_that_never_ends_its_headers_is_given_up() {
        let (address, _door, _) = open(SHORT).await;
        for start in ["", "PRI * HTTP", "GET / HTTP/1.1\r\nhost: x\r\nx-slow: "] {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(start.as_bytes()).await.unwrap();
            let mut answer = Vec::new();
            // Closed, with or without an answer.
            let _ = soon(stream.read_to_end(&mut answer)).await;
            assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 408"), "{answer:?}");
        }
    }

    #[tokio::test]
    async fn a_connection_beyond_the_most_waits_until_another_ends() {
        let (address, _door, connections) = open(PATIENCE).await;
        let busy = async || {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
            stream
        };
        let (mut first, mut second) = (busy().await, busy().await);
        let mut byte = [0];
        soon(first.read_exact(&mut byte)).await.unwrap();
        soon(second.read_exact(&mut byte)).await.unwrap();
        let mut third = busy().await;
        assert_eq!(connections.get(), 2);
        drop(first);
        soon(third.read_exact(&mut byte)).await.unwrap();
        assert_eq!(connections.get(), 2);
        drop(second);
    }

    #[tokio::test]
    async fn a_client_that_takes_nothing_of_its_answer_is_given_up() {
        let (address, _door, connections) = open(SHORT).await;
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut first = [0];
        soon(stream.read_exact(&mut first)).await.unwrap();
        let runtime = Runtime::tokio();
        soon(async {
            while connections.get() > 0 {
                runtime.sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
    }
}
