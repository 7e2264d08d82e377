//! What the transport counts, for `/metrics`.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// Bytes on the wire, encryption included.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    bytes_in: AtomicU64,
    bytes_out: AtomicU64,
}

/// Counts one connection's bytes, and with them the node's.
#[derive(Debug)]
pub(super) struct Meter {
    node: Arc<Traffic>,
    connection: Traffic,
}

impl Meter {
    pub(super) fn new(node: Arc<Traffic>) -> Self {
        Self { node, connection: Traffic::default() }
    }

    pub(super) fn read(&self, bytes: usize) {
        for traffic in [&self.node, &self.connection] {
            traffic.bytes_in.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    pub(super) fn written(&self, bytes: usize) {
        for traffic in [&self.node, &self.connection] {
            traffic.bytes_out.fetch_add(bytes as u64, Ordering::Relaxed);
        }
    }

    /// This connection's bytes in and out.
    pub(super) fn totals(&self) -> (u64, u64) {
        let Traffic { bytes_in, bytes_out } = &self.connection;
        (bytes_in.load(Ordering::Relaxed), bytes_out.load(Ordering::Relaxed))
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// A reading of all counters. They start at zero with the transport and only grow,
        /// the `…_open` ones excepted.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct TransportCounters {
            /// Bytes received from peers, encryption included.
            pub bytes_in: u64,
            /// Bytes sent to peers, encryption included.
            pub bytes_out: u64,
            /// Connections that this node dialled and that are open.
            pub connections_dialled_open: u64,
            /// Connections from others that are open.
            pub connections_accepted_open: u64,
            $($(#[$doc])* pub $name: u64,)*
        }

        #[derive(Debug, Default)]
        pub(super) struct Counters {
            pub(super) traffic: Arc<Traffic>,
            $(pub(super) $name: Counter,)*
        }

        impl Counters {
            pub(super) fn read(&self) -> TransportCounters {
                TransportCounters {
                    bytes_in: self.traffic.bytes_in.load(Ordering::Relaxed),
                    bytes_out: self.traffic.bytes_out.load(Ordering::Relaxed),
                    connections_dialled_open: 0,
                    connections_accepted_open: 0,
                    $($name: self.$name.0.load(Ordering::Relaxed),)*
                }
            }
        }
    };
}

counters! {
    /// Connections that this node dialled successfully.
    connections_dialled,
    /// Attempts to dial that failed: nobody there, not in time, or somebody else.
    dials_failed,
    /// Connections from others that finished their handshake.
    connections_accepted,
    /// Connections from others dropped before they proved a key: too many at once, too
    /// slow, not speaking TLS, or of another cluster or version.
    handshakes_failed,
    /// Connections from others closed because of a limit on how many there may be.
    connections_refused,
    /// Requests and datagrams refused by admission.
    frames_not_admitted,
    /// Connections closed because the peer sent what is no frame.
    frames_malformed,
    /// Connections closed because the peer fell silent.
    peers_silent,
    calls_answered,
    calls_refused,
    calls_unreachable,
    calls_timed_out,
    calls_disconnected,
    /// Calls by peers that were handed to a handler.
    calls_served,
    datagrams_sent,
    datagrams_received,
    /// Datagrams dropped here: no connection, or no room in its queue.
    datagrams_dropped,
}

#[derive(Debug, Default)]
pub(super) struct Counter(AtomicU64);

impl Counter {
    pub(super) fn count(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}
