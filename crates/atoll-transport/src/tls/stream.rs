//! A TLS session over a socket, as a reader and a writer that work at the same time.
//!
//! Not `tokio-rustls`' stream, which reads the socket in steps of 4 KiB (what rustls'
//! buffer asks for): here the socket is read in large steps into a buffer of our own,
//! plaintext goes from rustls straight to where it is wanted, and what is written leaves
//! in full records, many to a system call. The session is behind a lock that is held for
//! the cryptography of one step and never over an await.

use std::{
    io::{self, IoSlice, Write},
    sync::{Arc, Mutex, MutexGuard},
};

use bytes::BytesMut;
use rustls::Connection;
use tokio::{
    io::AsyncReadExt,
    net::{
        TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
};

use super::counters::Meter;

/// An idle connection costs this.
const RAW_BYTES_MIN: usize = 16 << 10;
/// A busy one this: some 15 records to a system call.
const RAW_BYTES_MAX: usize = 256 << 10;
/// Records that wait for the socket: one piece and a little.
const SEND_BYTES_MAX: usize = 288 << 10;

pub(super) struct Reader {
    session: Session,
    socket: OwnedReadHalf,
    /// What came from the socket and is still encrypted: `raw[start..end]`.
    raw: Vec<u8>,
    start: usize,
    end: usize,
    meter: Arc<Meter>,
}

pub(super) struct Writer {
    session: Session,
    socket: OwnedWriteHalf,
    meter: Arc<Meter>,
}

#[derive(Clone)]
struct Session(Arc<Mutex<Connection>>);

impl Session {
    fn lock(&self) -> MutexGuard<'_, Connection> {
        self.0.lock().expect("no holder panics")
    }
}

/// Splits a session whose handshake is done.
pub(super) fn split(socket: TcpStream, mut connection: Connection, meter: Arc<Meter>) -> (Reader, Writer) {
    connection.set_buffer_limit(Some(SEND_BYTES_MAX));
    let session = Session(Arc::new(Mutex::new(connection)));
    let (read_half, write_half) = socket.into_split();
    let reader = Reader {
        session: session.clone(),
        socket: read_half,
        raw: vec![0; RAW_BYTES_MIN],
        start: 0,
        end: 0,
        meter: meter.clone(),
    };
    (reader, Writer { session, socket: write_half, meter })
}

/// Where frames come from.
pub(super) trait Source {
    /// Reads until `dest` is `len` bytes long, and not a byte more.
    async fn read_to(&mut self, dest: &mut BytesMut, len: usize) -> io::Result<()>;

    /// Reads `len` bytes and forgets them.
    async fn skip(&mut self, len: usize) -> io::Result<()>;
}

impl Source for Reader {
    async fn read_to(&mut self, dest: &mut BytesMut, len: usize) -> io::Result<()> {
        self.read(len.saturating_sub(dest.len()), |chunk| dest.extend_from_slice(chunk)).await
    }

    async fn skip(&mut self, len: usize) -> io::Result<()> {
        self.read(len, |_| {}).await
    }
}

impl Reader {
    async fn read(&mut self, mut wanted: usize, mut sink: impl FnMut(&[u8])) -> io::Result<()> {
        loop {
            wanted -= self.decrypt(wanted, &mut sink)?;
            if wanted == 0 {
                return Ok(());
            }
            self.fill().await?;
        }
    }

    /// Hands over up to `wanted` bytes of what has arrived; how many it were.
    fn decrypt(&mut self, wanted: usize, sink: &mut impl FnMut(&[u8])) -> io::Result<usize> {
        let mut session = self.session.lock();
        let mut taken = 0;
        while taken < wanted {
            match session.reader().into_first_chunk() {
                Ok([]) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(chunk) => {
                    let chunk = &chunk[..chunk.len().min(wanted - taken)];
                    let len = chunk.len();
                    sink(chunk);
                    io::BufRead::consume(&mut session.reader(), len);
                    taken += len;
                    continue;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
            if self.start == self.end {
                break;
            }
            let mut encrypted = &self.raw[self.start..self.end];
            let read = session.read_tls(&mut encrypted)?;
            self.start += read;
            session
                .process_new_packets()
                .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
        Ok(taken)
    }

    /// Waits for more from the socket. Only when all that came before is used up.
    async fn fill(&mut self) -> io::Result<()> {
        debug_assert_eq!(self.start, self.end, "nothing is overwritten");
        let read = self.socket.read(&mut self.raw).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.meter.read(read);
        (self.start, self.end) = (0, read);
        if read == self.raw.len() && read < RAW_BYTES_MAX {
            self.raw.resize((2 * read).min(RAW_BYTES_MAX), 0);
        }
        Ok(())
    }
}

impl Writer {
    /// Writes all of `slices`; they are on their way, not yet acknowledged.
    pub(super) async fn write_all(&mut self, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
        // Empty slices at the front would look like a write of nothing.
        IoSlice::advance_slices(&mut slices, 0);
        loop {
            let blocked = {
                let mut session = self.session.lock();
                if !slices.is_empty() {
                    let taken = session.writer().write_vectored(slices)?;
                    IoSlice::advance_slices(&mut slices, taken);
                }
                self.flush(&mut session)?
            };
            if blocked {
                self.socket.writable().await?;
            } else if slices.is_empty() {
                return Ok(());
            }
        }
    }

    /// Gives the socket what it takes; true if it takes no more.
    fn flush(&self, session: &mut Connection) -> io::Result<bool> {
        while session.wants_write() {
            match session.write_tls(&mut SocketWrite(&self.socket)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => self.meter.written(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }
}

/// The socket as rustls wants it: takes what fits, or says that it would block.
struct SocketWrite<'a>(&'a OwnedWriteHalf);

impl Write for SocketWrite<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
