//! Every protocol between nodes, in one place. Message types live with their owner, in
//! the file named here.

/// A protocol's registered name and version: `atoll/<name>/<version>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u16)]
pub enum Protocol {
    /// A stranger proves its ticket. `atoll-node/src/join.rs`
    Join = 1,
    /// SWIM datagrams. `atoll-membership/src/wire.rs`
    Membership = 2,
    /// Raft messages between replicas (datagrams) and snapshots (calls). `atoll-records/src/wire.rs`
    Raft = 3,
    /// Commands and queries on their way to a shard's leader. `atoll-records/src/wire.rs`
    Records = 4,
    /// Chunks between holders. `atoll-objects/src/wire.rs`
    Chunks = 5,
    /// The layout and what nodes tell each other about themselves. `atoll-node/src/wire.rs`
    Cluster = 6,
    /// Echo and bulk for `atoll bench transport`. `atoll-transport/src/bench.rs`
    Bench = 7,
    /// Datagrams of the overlay's cores. `atoll-node/src/overlay/frame.rs`
    Overlay = 8,
}

impl Protocol {
    pub const ALL: [Protocol; 8] = [
        Protocol::Join,
        Protocol::Membership,
        Protocol::Raft,
        Protocol::Records,
        Protocol::Chunks,
        Protocol::Cluster,
        Protocol::Bench,
        Protocol::Overlay,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Protocol::Join => "atoll/join/1",
            Protocol::Membership => "atoll/membership/1",
            Protocol::Raft => "atoll/raft/1",
            Protocol::Records => "atoll/records/1",
            Protocol::Chunks => "atoll/chunks/1",
            Protocol::Cluster => "atoll/cluster/1",
            Protocol::Bench => "atoll/bench/1",
            Protocol::Overlay => "atoll/overlay/1",
        }
    }

    pub const fn code(self) -> u16 {
        self as u16
    }

    pub fn from_code(code: u16) -> Option<Protocol> {
        Self::ALL.into_iter().find(|protocol| protocol.code() == code)
    }
}
