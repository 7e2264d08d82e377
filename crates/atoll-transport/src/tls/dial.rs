//! From an address to a connection, on both sides: TCP, TLS, hello.

use std::{io, sync::Arc, time::Duration};

use atoll_types::NodeId;
use bytes::BytesMut;
use futures_util::{StreamExt, stream::FuturesUnordered};
use rustls::Connection as TlsConnection;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{
    Node,
    connection::{Connection, Role},
    counters::Meter,
    frame::{FrameError, Hello, HelloError, Kind, PREFIX_BYTES, Prefix},
    identity::{Proven, server_name},
    stream::{self, Reader, Source, Writer},
};
use crate::Caller;

/// An address that hasn't answered within this is not waited for alone (RFC 8305's
/// connection attempt delay).
const NEXT_ADDRESS_AFTER: Duration = Duration::from_millis(250);

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub(super) enum HandshakeError {
    #[error("{address}: {error}")]
    Address { address: String, error: Box<HandshakeError> },
    #[error("{0}")]
    Io(#[from] io::Error),
    #[error("{0}")]
    Tls(#[from] rustls::Error),
    #[error("{0}")]
    Frame(#[from] FrameError),
    #[error("{0}")]
    Hello(#[from] HelloError),
    #[error("no answer in time")]
    TimedOut,
    #[error("no address is known")]
    NoAddress,
    #[error("another node answered")]
    OtherNode,
}

/// A connection to `peer` by the first of its addresses that leads to it.
pub(super) async fn dial(
    node: &Arc<Node>,
    peer: NodeId,
    addresses: &[String],
    control: bool,
) -> Result<Arc<Connection>, HandshakeError> {
    let attempts = addresses.iter().enumerate().map(|(at, address)| async move {
        node.runtime.sleep(NEXT_ADDRESS_AFTER * at as u32).await;
        dial_address(node, peer, address, control)
            .await
            .map_err(|error| HandshakeError::Address { address: address.clone(), error: Box::new(error) })
    });
    let mut attempts: FuturesUnordered<_> = attempts.collect();
    let mut first_error = None;
    while let Some(result) = attempts.next().await {
        match result {
            Ok((connection, reader, writer, meter)) => {
                connection.start(reader, writer, meter);
                return Ok(connection);
            }
            Err(error) => {
                first_error.get_or_insert(error);
            }
        }
    }
    Err(first_error.unwrap_or(HandshakeError::NoAddress))
}

/// A connection that isn't started yet.
pub(super) type Made = (Arc<Connection>, Reader, Writer, Arc<Meter>);

pub(super) async fn dial_address(
    node: &Arc<Node>,
    peer: NodeId,
    address: &str,
    control: bool,
) -> Result<Made, HandshakeError> {
    let settings = &node.settings;
    let socket = node.runtime.timeout(settings.connect_limit, TcpStream::connect(address)).await;
    let socket = socket.map_err(|_| HandshakeError::TimedOut)??;
    socket.set_nodelay(true)?;
    let made = node.runtime.timeout(settings.handshake_limit, async {
        let connector = TlsConnector::from(Arc::new(node.identity.client_config(peer)));
        let (socket, tls) = connector.connect(server_name(), socket).await?.into_inner();
        let tls = TlsConnection::Client(tls);
        let proven = Proven::of(&tls)?;
        if proven.node != peer {
            return Err(HandshakeError::OtherNode);
        }
        let meter = Arc::new(Meter::new(node.counters.traffic.clone()));
        let (mut reader, mut writer) = stream::split(socket, tls, meter.clone());
        let ours = Hello::ours(node.cluster());
        write_hello(&mut writer, &ours).await?;
        let theirs = read_hello(&mut reader).await?;
        ours.agree(&theirs)?;
        let caller = Caller { node: proven.node, channel_binding: proven.channel_binding };
        Ok((Connection::new(node.clone(), caller, Role::Dialled { control }), reader, writer, meter))
    });
    made.await.map_err(|_| HandshakeError::TimedOut)?
}

/// The accepting side.
pub(super) async fn accept(node: &Arc<Node>, socket: TcpStream) -> Result<Made, HandshakeError> {
    socket.set_nodelay(true)?;
    let made = node.runtime.timeout(node.settings.handshake_limit, async {
        let acceptor = TlsAcceptor::from(node.server_config.clone());
        let (socket, tls) = acceptor.accept(socket).await?.into_inner();
        let tls = TlsConnection::Server(tls);
        let proven = Proven::of(&tls)?;
        let meter = Arc::new(Meter::new(node.counters.traffic.clone()));
        let (mut reader, mut writer) = stream::split(socket, tls, meter.clone());
        let theirs = read_hello(&mut reader).await?;
        let ours = Hello::ours(node.cluster());
        // Said even if it won't do, so that the dialler can tell its operator why.
        write_hello(&mut writer, &ours).await?;
        ours.agree(&theirs)?;
        let caller = Caller { node: proven.node, channel_binding: proven.channel_binding };
        Ok((Connection::new(node.clone(), caller, Role::Accepted), reader, writer, meter))
    });
    made.await.map_err(|_| HandshakeError::TimedOut)?
}

async fn write_hello(writer: &mut Writer, hello: &Hello) -> io::Result<()> {
    let header = hello.encode();
    let prefix = Prefix { header_len: header.len(), ..Prefix::bare(Kind::Hello, 0) };
    let bytes = [prefix.encode().as_slice(), &header].concat();
    writer.write_all(&mut [io::IoSlice::new(&bytes)]).await
}

async fn read_hello(reader: &mut Reader) -> Result<Hello, HandshakeError> {
    let mut bytes = BytesMut::with_capacity(PREFIX_BYTES);
    reader.read_to(&mut bytes, PREFIX_BYTES).await?;
    let prefix = Prefix::decode(bytes.first_chunk().expect("so many were read"))?;
    if prefix.kind != Kind::Hello {
        return Err(FrameError::NoHello(prefix.kind).into());
    }
    bytes.clear();
    reader.read_to(&mut bytes, prefix.header_len).await?;
    Ok(Hello::decode(&bytes)?)
}
