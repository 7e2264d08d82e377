//! A request's body on its way in, before `s3s` sees it: a client that stops sending is
//! given up after [`BODY_IDLE_MAX`]; a declared `aws-chunked` chunk over
//! [`CHUNK_BYTES_MAX`] is refused before it is read (`s3s` buffers a chunk whole); a
//! small body's `Content-MD5` or checksum header is verified where no object is put.
//!
//! Why it broke off is left in the [`RequestContext`]; what nobody read of it comes back
//! as its [`Rest`].

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use atoll_runtime::Runtime;
use atoll_types::Instant;
use bytes::Bytes;
use futures_util::{FutureExt, future::BoxFuture};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, SizeHint};
use tokio::sync::oneshot;

use super::{
    checksum::AnnouncedDigest,
    context::{BodyFailure, RequestContext},
};

/// 30 s without a byte: outlives a TCP retransmission back-off of a lossy link (1 + 2 + 4
/// + 8 s), and frees what a vanished client holds.
pub(crate) const BODY_IDLE_MAX: Duration = Duration::from_secs(30);

/// 16 MiB: clients send 64 KiB to 1 MiB; 64 uploads at once stay within 1 GiB even if all
/// use it.
pub(crate) const CHUNK_BYTES_MAX: u64 = 16 << 20;

/// The error that breaks the stream off; its kind is in the [`RequestContext`].
type BoxError = Box<dyn std::error::Error + Send + Sync>;

pub(crate) struct GuardedBody<B> {
    /// `None` only while this is dropped.
    inner: Option<B>,
    /// Where the body goes if it is dropped before its end.
    rest: Option<oneshot::Sender<Rest<B>>>,
    /// Something was asked of it: a client that waits for `100 Continue` has got it.
    begun: bool,
    runtime: Runtime,
    context: RequestContext,
    /// `None` if the body is not `aws-chunked`.
    framing: Option<ChunkFraming>,
    digest: Option<AnnouncedDigest>,
    last_progress: Instant,
    /// Made when the body is first found waiting, kept for the next time.
    idle: Option<BoxFuture<'static, ()>>,
    /// The last byte was read.
    ended: bool,
    /// It broke off: nothing more comes out of it.
    failed: bool,
}

/// What nobody read of a body. A connection is of no further use while this is in the way.
pub(crate) struct Rest<B> {
    body: B,
    begun: bool,
}

/// 1 MiB, some milliseconds' worth: reading on costs less than a new connection, and a
/// client that is still sending sees the answer instead of a reset.
const REST_BYTES_MAX: usize = 1 << 20;

/// How long the answer waits for that.
const REST_WAIT: Duration = Duration::from_secs(1);

impl<B: Body<Data = Bytes> + Unpin> Rest<B> {
    pub(crate) fn unread(body: B) -> Self {
        Self { body, begun: false }
    }

    /// Reads a little further. Whether that was all, so that the connection can go on.
    pub(crate) async fn drain(mut self, runtime: &Runtime, awaits_continue: bool) -> bool {
        if awaits_continue && !self.begun {
            // Reading would invite the client to send what nobody wants.
            return false;
        }
        let mut bytes = 0;
        let drained = runtime.timeout(REST_WAIT, async {
            while let Some(frame) = self.body.frame().await {
                let Ok(frame) = frame else { return false };
                bytes += frame.data_ref().map_or(0, Bytes::len);
                if bytes > REST_BYTES_MAX {
                    return false;
                }
            }
            true
        });
        drained.await.unwrap_or(false)
    }
}

impl<B> Drop for GuardedBody<B> {
    fn drop(&mut self) {
        if let (Some(body), Some(rest), false) = (self.inner.take(), self.rest.take(), self.ended) {
            // Nobody may be waiting for it any more.
            let _ = rest.send(Rest { body, begun: self.begun });
        }
    }
}

impl<B> GuardedBody<B> {
    pub(crate) fn new(
        inner: B,
        runtime: Runtime,
        context: RequestContext,
        aws_chunked: bool,
        digest: Option<AnnouncedDigest>,
    ) -> (Self, oneshot::Receiver<Rest<B>>) {
        let (sender, rest) = oneshot::channel();
        let body = Self {
            inner: Some(inner),
            rest: Some(sender),
            begun: false,
            last_progress: runtime.now(),
            runtime,
            context,
            framing: aws_chunked.then(ChunkFraming::default),
            digest,
            idle: None,
            ended: false,
            failed: false,
        };
        (body, rest)
    }

    fn fail(&mut self, failure: BodyFailure) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        self.context.fail_body(failure);
        self.failed = true;
        Poll::Ready(Some(Err(failure.into())))
    }

    /// Ready when nothing arrived for [`BODY_IDLE_MAX`].
    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let deadline = self.last_progress + BODY_IDLE_MAX;
            let idle = self.idle.get_or_insert_with(|| self.runtime.sleep_until(deadline));
            ready!(idle.poll_unpin(cx));
            self.idle = None;
            // The timer is not moved at each byte; it is looked at again when it rings.
            if self.runtime.now() >= self.last_progress + BODY_IDLE_MAX {
                return Poll::Ready(());
            }
        }
    }
}

impl<B> Body for GuardedBody<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let Some(inner) = this.inner.as_mut().filter(|_| !this.ended && !this.failed) else {
            return Poll::Ready(None);
        };
        this.begun = true;
        match Pin::new(inner).poll_frame(cx) {
            Poll::Pending => match this.poll_idle(cx) {
                Poll::Pending => Poll::Pending,
                Poll::Ready(()) => this.fail(BodyFailure::TimedOut),
            },
            Poll::Ready(Some(Ok(frame))) => {
                this.last_progress = this.runtime.now();
                if let Some(data) = frame.data_ref() {
                    if let Some(framing) = &mut this.framing
                        && let Err(failure) = framing.advance(data)
                    {
                        return this.fail(failure);
                    }
                    if let Some(digest) = &mut this.digest {
                        digest.update(data);
                    }
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(_))) => this.fail(BodyFailure::Disconnected),
            Poll::Ready(None) => {
                this.ended = true;
                let holds = this.digest.take().is_none_or(AnnouncedDigest::holds);
                if holds { Poll::Ready(None) } else { this.fail(BodyFailure::BadDigest) }
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        // Not before the digest was looked at.
        self.ended || (self.digest.is_none() && self.inner.as_ref().is_none_or(B::is_end_stream))
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.as_ref().map(B::size_hint).unwrap_or_default()
    }
}

impl<B> GuardedBody<B>
where
    B: Body<Data = Bytes> + Send + Unpin + 'static,
{
    pub(crate) fn into_s3s(self) -> s3s::Body {
        s3s::Body::http_body_unsync(self.map_err(|error| error))
    }
}

/// Follows the framing of `aws-chunked` (AWS's "SigV4 streaming": `size[;extension]CRLF
/// data CRLF`, a last chunk of size 0, then trailers) far enough to know each declared
/// size before its data.
#[derive(Debug, Default)]
struct ChunkFraming {
    state: FramingState,
}

#[derive(Debug)]
enum FramingState {
    /// In a size line: what the digits say so far, and how many bytes the line has.
    Size { size: u64, line_bytes: usize, in_digits: bool },
    /// This much data and CRLF is left.
    Data { left: u64 },
    /// After the last chunk: `s3s` has limits of its own for these.
    Trailers,
}

impl Default for FramingState {
    fn default() -> Self {
        FramingState::Size { size: 0, line_bytes: 0, in_digits: true }
    }
}

impl ChunkFraming {
    /// 8 hexadecimal digits and `;chunk-signature=` with 64 more make 91.
    const LINE_BYTES_MAX: usize = 1024;

    fn advance(&mut self, mut bytes: &[u8]) -> Result<(), BodyFailure> {
        while !bytes.is_empty() {
            match &mut self.state {
                FramingState::Trailers => return Ok(()),
                FramingState::Data { left } => {
                    let taken = (*left).min(bytes.len() as u64);
                    *left -= taken;
                    bytes = &bytes[taken as usize..];
                    if *left == 0 {
                        self.state = FramingState::default();
                    }
                }
                FramingState::Size { size, line_bytes, in_digits } => {
                    let (byte, rest) = (bytes[0], &bytes[1..]);
                    bytes = rest;
                    *line_bytes += 1;
                    if *line_bytes > Self::LINE_BYTES_MAX {
                        return Err(BodyFailure::MalformedChunk);
                    }
                    match byte {
                        b'\n' => {
                            self.state = match *size {
                                0 => FramingState::Trailers,
                                size => FramingState::Data { left: size + 2 },
                            };
                        }
                        b';' | b'\r' => *in_digits = false,
                        _ if !*in_digits => {}
                        _ => {
                            let digit = (byte as char).to_digit(16).ok_or(BodyFailure::MalformedChunk)?;
                            *size = *size << 4 | u64::from(digit);
                            if *size > CHUNK_BYTES_MAX {
                                let max = CHUNK_BYTES_MAX;
                                return Err(BodyFailure::ChunkTooLarge { declared: *size, max });
                            }
                        }
                    }
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    };

    use atoll_runtime::{AbortTask, Executor};
    use atoll_types::WallTime;
    use futures_util::{future, task::noop_waker_ref};

    use super::*;

    /// A clock that stands still until it is moved.
    #[derive(Default)]
    struct Clock(Arc<AtomicU64>);

    impl Clock {
        fn advance(&self, by: Duration) {
            self.0.fetch_add(by.as_nanos() as u64, Ordering::SeqCst);
        }
    }

    impl Executor for Clock {
        fn now(&self) -> Instant {
            Instant::from_nanos(self.0.load(Ordering::SeqCst))
        }

        fn wall_now(&self) -> WallTime {
            WallTime::default()
        }

        fn spawn(&self, _name: &'static str, _task: BoxFuture<'static, ()>) -> Box<dyn AbortTask> {
            unreachable!("a body spawns nothing")
        }

        fn sleep_until(&self, deadline: Instant) -> BoxFuture<'static, ()> {
            let clock = Clock(self.0.clone());
            Box::pin(future::poll_fn(move |_| match clock.now() >= deadline {
                true => Poll::Ready(()),
                false => Poll::Pending,
            }))
        }

        fn run_blocking(&self, _work: Box<dyn FnOnce() + Send>) {
            unreachable!("a body does nothing else")
        }

        fn seed(&self) -> [u8; 32] {
            [0; 32]
        }
    }

    /// Has a byte whenever one was given.
    #[derive(Clone, Default)]
    struct Trickle(Arc<AtomicU64>);

    impl Body for Trickle {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            match self.0.swap(0, Ordering::SeqCst) {
                0 => Poll::Pending,
                _ => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x"))))),
            }
        }
    }

    #[test]
    fn a_body_that_stops_arriving_is_given_up_and_a_slow_one_is_not() {
        let (clock, trickle) = (Arc::new(Clock::default()), Trickle::default());
        let context = RequestContext::of(&http::Extensions::new());
        let runtime = Runtime::new(clock.clone());
        let (mut body, _rest) = GuardedBody::new(trickle.clone(), runtime, context.clone(), false, None);
        let mut cx = Context::from_waker(noop_waker_ref());
        let mut poll = move || Pin::new(&mut body).poll_frame(&mut cx);
        let almost = BODY_IDLE_MAX - Duration::from_millis(1);
        for _ in 0..5 {
            assert!(poll().is_pending());
            clock.advance(almost);
            assert!(poll().is_pending());
            trickle.0.store(1, Ordering::SeqCst);
            assert!(matches!(poll(), Poll::Ready(Some(Ok(_)))));
        }
        assert!(poll().is_pending());
        clock.advance(almost);
        assert!(poll().is_pending());
        clock.advance(Duration::from_millis(1));
        assert!(matches!(poll(), Poll::Ready(Some(Err(_)))));
        assert_eq!(context.body_failure(), Some(BodyFailure::TimedOut));
        trickle.0.store(1, Ordering::SeqCst);
        assert!(matches!(poll(), Poll::Ready(None)), "nothing more comes of it");
    }

    /// Feeds `bytes` in pieces of every size: the framing must not care.
    fn check(bytes: &[u8]) -> Result<(), BodyFailure> {
        let mut results = (1..=bytes.len()).map(|piece| {
            let mut framing = ChunkFraming::default();
            bytes.chunks(piece).try_for_each(|piece| framing.advance(piece))
        });
        let first = results.next().unwrap();
        assert!(results.all(|result| result == first));
        first
    }

    #[test]
    fn a_declared_chunk_over_the_limit_is_refused_before_its_data() {
        let over = BodyFailure::ChunkTooLarge { declared: 0x1000001, max: CHUNK_BYTES_MAX };
        assert_eq!(check(b"1000001\r\n"), Err(over));
        assert_eq!(check(b"3\r\nabc\r\n1000001;chunk-signature=0\r\n"), Err(over));
        assert_eq!(check(b"1000000\r\n"), Ok(()));
        assert!(check(b"ffffffffffffffffffff\r\n").is_err());
    }

    #[test]
    fn data_and_trailers_are_not_taken_for_sizes() {
        assert_eq!(
            check(b"a;chunk-signature=zz\r\nfffffffff\n\r\n0\r\nx-amz-checksum-crc32:zzzz\r\n\r\n"),
            Ok(())
        );
    }

    #[test]
    fn a_size_that_is_no_number_is_refused() {
        assert_eq!(check(b"xyz\r\n"), Err(BodyFailure::MalformedChunk));
    }
}
