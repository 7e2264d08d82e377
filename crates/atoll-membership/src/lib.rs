//! Who is there: every node's view of the others, kept by gossip.
//!
//! SWIM (Das, Gupta, Motivala 2002) finds out who answers and spreads it; the protocol is
//! `foca`'s, a pure core, and this crate drives it over the transport's datagrams
//! (`driver.rs`). What foca does not have is added here:
//!
//! - **Facts about members** ([`MemberInfo`]: zone, capacity, addresses, layout version)
//!   spread as foca's custom broadcasts. Those reach only who is there at the time, so
//!   nodes also compare what they know by calls (`sync.rs`): when they join, when they
//!   hear of someone of whom they know nothing, and now and then with somebody at random.
//! - **Lives**: a member is a node id and the generation of its start, so a restarted node
//!   takes its own place at once instead of arguing with its past.
//! - **Local health** after Lifeguard (Dadgar, Phillips, Currey 2018): a node that has
//!   reason to think that it is itself slow asks less often and waits longer before it
//!   calls others dead (`health.rs`).
//! - **Finding back** after a cut: nodes that see nobody go on asking everybody they knew.
//!
//! The transport proves who sent a frame; that the frame says so too is checked. What a
//! member says of *others* cannot be checked: an admitted node that lies about them is
//! believed until they contradict it. Whoever is removed is refused by the transport's
//! admission; this crate keeps no list of who may be a member.
//!
//! Tests, over the in-memory transport: `tests/gossip.rs`.

mod driver;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod health;
mod identity;
mod info;
mod sync;
mod view;
mod wire;

use std::{
    num::{NonZeroU8, NonZeroUsize},
    sync::Arc,
    time::Duration,
};

use atoll_runtime::{AbortOnDrop, Runtime, watch};
use atoll_transport::{Protocol, Transport};
use atoll_types::NodeId;
use tokio::sync::{mpsc, oneshot};

pub use info::{InfoError, MemberInfo};
pub use view::{Member, MemberState, View};
pub use wire::{Counts, DATAGRAM_BYTES_MAX};

use driver::{Command, Driver};
use wire::{Counters, Inbox};

/// How quickly a silent node counts as suspect, then as dead.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MembershipSettings {
    /// One member is asked in each. With half a second a node that stopped is asked by
    /// somebody within about 0.8 s (e / (e − 1) periods), whatever the cluster's size.
    /// Longer costs detection time, shorter costs a datagram per node and period.
    pub probe_period: Duration,
    /// How long to wait for the answer before others are sent to ask. An answer that comes
    /// later but within the period counts. Above the round trip between your zones; must
    /// be below half the period.
    pub probe_timeout: Duration,
    /// How long a suspect has to speak up. With 3 s a node that was killed is dead to all
    /// after 0.8 + 0.5 + 3 ≈ 4.3 s. Longer forgives longer stalls. Raft does not wait for
    /// this: its own time-outs are shorter.
    pub suspicion: Duration,
    /// How often a node compares what it knows with another's.
    pub sync_every: Duration,
    /// How often a node that hears nobody asks those it knows.
    pub search_every: Duration,
    /// How often a node tries to reach those it holds for dead, to find back after a cut.
    pub revive_every: Duration,
}

impl Default for MembershipSettings {
    fn default() -> Self {
        Self {
            probe_period: Duration::from_millis(500),
            probe_timeout: Duration::from_millis(200),
            suspicion: Duration::from_secs(3),
            sync_every: Duration::from_secs(10),
            search_every: Duration::from_secs(1),
            revive_every: Duration::from_secs(2),
        }
    }
}

impl MembershipSettings {
    fn foca(&self) -> foca::Config {
        let params = |frequency, members| {
            let num_members = NonZeroUsize::new(members).unwrap_or(NonZeroUsize::MIN);
            Some(foca::PeriodicParams { frequency, num_members })
        };
        foca::Config {
            probe_period: self.probe_period,
            probe_rtt: self.probe_timeout,
            suspect_to_down_after: self.suspicion,
            // As memberlist: three others ask on our behalf.
            num_indirect_probes: NonZeroUsize::new(3).unwrap_or(NonZeroUsize::MIN),
            // memberlist's 4 · log10(n + 1) for n = 300; less would do for few nodes, and
            // costs next to nothing there.
            max_transmissions: NonZeroU8::new(10).unwrap_or(NonZeroU8::MIN),
            // A dead life must not be mistaken for a living one; lives are few and small.
            remove_down_after: Some(Duration::from_secs(24 * 3600)),
            // The frame's version takes a byte.
            max_packet_size: NonZeroUsize::new(DATAGRAM_BYTES_MAX - 1).unwrap_or(NonZeroUsize::MIN),
            notify_down_members: true,
            periodic_announce: params(Duration::from_secs(30), 1),
            periodic_announce_to_down_members: params(self.revive_every, 2),
            periodic_gossip: params(Duration::from_millis(200), 3),
        }
    }
}

/// The membership of one node. It ends with the last clone of this handle, without a word
/// to the others unless [`leave`](Self::leave) was called.
#[derive(Clone)]
pub struct Membership {
    commands: mpsc::Sender<Command>,
    view: watch::Receiver<Arc<View>>,
    counters: Arc<Counters>,
    _driver: Arc<AbortOnDrop>,
}

impl Membership {
    /// Commands and frames waiting for the driver. Each node sends a few datagrams a
    /// period; a thousand is what 300 nodes send in a second, so what does not fit came
    /// while the driver stood still, and SWIM copes with loss.
    const QUEUE_MAX: usize = 1024;

    /// Begins to take part. Nobody is told before [`join`](Self::join), or before somebody
    /// asks. `me.generation` must be higher than in any earlier start of this node.
    pub fn start(
        runtime: Runtime,
        transport: Arc<dyn Transport>,
        me: MemberInfo,
        settings: MembershipSettings,
    ) -> Result<Self, InfoError> {
        me.check()?;
        let (commands, queue) = mpsc::channel(Self::QUEUE_MAX);
        let counters = Arc::new(Counters::default());
        let inbox = Inbox { commands: commands.downgrade(), counters: counters.clone() };
        transport.serve(Protocol::Membership, Arc::new(inbox));
        let (driver, view) =
            Driver::new(runtime.clone(), transport, me, settings, counters.clone(), commands.downgrade());
        let task = runtime.spawn_owned("membership", driver.run(queue));
        Ok(Self { commands, view, counters, _driver: Arc::new(task) })
    }

    /// Looks for these nodes, and through them for all others, until one answers. Where
    /// they listen must have been told to the transport. Known members need not be
    /// repeated: a node that hears nobody goes on asking everybody it ever knew.
    pub async fn join(&self, seeds: Vec<NodeId>) {
        self.send(Command::Join { seeds }).await;
    }

    /// Everyone this node knows of, itself included. Changes when somebody's state or
    /// facts change.
    pub fn view(&self) -> watch::Receiver<Arc<View>> {
        self.view.clone()
    }

    /// Replaces what the others are told about this node. `me.node` and `me.generation`
    /// stay what they were.
    pub async fn update_me(&self, me: MemberInfo) -> Result<(), InfoError> {
        me.check()?;
        self.send(Command::Update { me: Box::new(me) }).await;
        Ok(())
    }

    /// Drops a dead member from the view: for nodes that were removed from the cluster.
    pub async fn forget(&self, node: NodeId) {
        self.send(Command::Forget { node }).await;
    }

    /// Tells the others that this node goes, so that they need not find out. Afterwards it
    /// sends nothing any more.
    pub async fn leave(&self) {
        let (done, left) = oneshot::channel();
        self.send(Command::Leave { done }).await;
        // A driver that is gone has left in its way.
        let _ = left.await;
    }

    /// What happened so far, for metrics.
    pub fn counts(&self) -> Counts {
        self.counters.read()
    }

    async fn send(&self, command: Command) {
        // The driver lives as long as this handle; if it panicked there is nobody to tell.
        if self.commands.send(command).await.is_err() {
            tracing::error!("the membership driver is gone");
        }
    }
}
