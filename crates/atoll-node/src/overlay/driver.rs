//! Runs one core: frames, timers and commands in, datagrams and answers out. The same for
//! every kind, and the same in the simulation.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use atoll_membership::View;
use atoll_overlay::{
    Content, ContentError, Finished, Id, Kept, LocateError, Located, LookupId, Notification, Offered,
    OperationId, Out, Overlay, Shelf, Table,
};
use atoll_placement::Layout;
use atoll_runtime::{Runtime, watch};
use atoll_transport::{Protocol, Transport};
use atoll_types::{Instant, NodeId, OverlayKind};
use rand::{
    rngs::StdRng,
    seq::{IndexedRandom, IteratorRandom},
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::{mpsc, oneshot};

use super::{Counters, contact::NodeContact, count, frame, inbox::Inbox};

/// Members whom a node asks to let it in, one after the other. If three of them are silent,
/// looking again at who is there is better than asking a fourth.
const JOIN_THROUGH: usize = 3;
/// How often a node asks some member for its place, in case that the overlay had fallen apart
/// in two: one message and its answer, so often that parts find back within a minute.
const MEET_EVERY: Duration = Duration::from_secs(15);
/// Commands that wait until this node has joined. Their callers wait for seconds; there is no
/// use in more than a node would begin at once.
const WAITING_MAX: usize = 256;
/// Frames that are handled before timers are looked at again.
const FRAMES_AT_ONCE: usize = 64;

/// What the node asks of its overlay.
pub enum Command {
    Locate {
        key: Id,
        reply: oneshot::Sender<Result<Located<NodeContact>, LocateError>>,
    },
    Operate {
        operation: Operation,
        reply: oneshot::Sender<Result<Finished<NodeContact>, ContentError>>,
    },
    StopProviding {
        content: Id,
        reply: oneshot::Sender<bool>,
    },
    Show {
        reply: oneshot::Sender<Shown>,
    },
    /// Say goodbye, and do nothing any more.
    Leave {
        done: oneshot::Sender<()>,
    },
}

/// An operation on content.
#[derive(Debug, Clone)]
pub enum Operation {
    Store { key: Id, value: Vec<u8>, lifetime: Duration },
    Fetch { key: Id },
    Provide(Offered),
    Providers { content: Id },
    Search { words: String },
}

/// What a node knows of its overlay.
#[derive(Debug, Clone)]
pub struct Shown {
    pub kind: OverlayKind,
    pub me: NodeContact,
    pub is_member: bool,
    pub tables: Vec<Table<NodeContact>>,
    pub state_bytes: usize,
    /// For others.
    pub kept: Kept,
}

/// Why a driver's run is over.
pub enum Ended {
    /// It was told to leave, or nobody is there to tell it anything any more.
    Left,
    /// The cluster wants another kind. These were asked and not answered yet.
    KindChanged(Estate),
}

/// What one core leaves to the next.
#[derive(Default)]
pub struct Estate {
    /// What was asked, and not answered.
    pub unanswered: VecDeque<Command>,
    pub shelf: Shelf,
}

/// What drivers share, one after the other.
pub struct Surroundings {
    pub runtime: Runtime,
    pub transport: Arc<dyn Transport>,
    pub layout: watch::Receiver<Arc<Layout>>,
    pub view: watch::Receiver<Arc<View>>,
    pub inbox: Arc<Inbox>,
    pub counters: Arc<Counters>,
    pub commands: mpsc::Receiver<Command>,
}

pub struct Driver<'a, O: Overlay> {
    around: &'a mut Surroundings,
    kind: OverlayKind,
    core: O,
    rng: StdRng,
    out: Out<O::Contact, O::Message>,
    is_member: bool,
    meet_at: Instant,
    /// Until this node has joined; at most `WAITING_MAX`.
    waiting: VecDeque<Command>,
    /// As many as the core lets begin.
    lookups: BTreeMap<LookupId, Lookup>,
    operations: BTreeMap<OperationId, Asked>,
}

struct Lookup {
    key: Id,
    reply: oneshot::Sender<Result<Located<NodeContact>, LocateError>>,
}

struct Asked {
    operation: Operation,
    reply: oneshot::Sender<Result<Finished<NodeContact>, ContentError>>,
}

impl<'a, O> Driver<'a, O>
where
    O: Content<Contact = NodeContact>,
    O::Message: Serialize + DeserializeOwned,
{
    pub fn new(around: &'a mut Surroundings, kind: OverlayKind, mut core: O, estate: Estate) -> Self {
        core.set_clock(around.runtime.now(), around.runtime.wall_now());
        core.put_shelf(around.runtime.now(), estate.shelf);
        Self {
            rng: around.runtime.rng(),
            meet_at: around.runtime.now() + MEET_EVERY,
            around,
            kind,
            core,
            out: Out::default(),
            is_member: false,
            waiting: estate.unanswered,
            lookups: BTreeMap::new(),
            operations: BTreeMap::new(),
        }
    }

    pub async fn run(mut self) -> Ended {
        self.join();
        loop {
            self.carry_out();
            let now = self.around.runtime.now();
            self.core.set_clock(now, self.around.runtime.wall_now());
            if self.core.poll_timeout().is_some_and(|due| due <= now) {
                self.core.handle_timeout(now, &mut self.rng, &mut self.out);
                continue;
            }
            if self.meet_at <= now {
                self.meet(now);
                continue;
            }
            let due = self.core.poll_timeout().map_or(self.meet_at, |due| due.min(self.meet_at));
            tokio::select! {
                biased;
                changed = self.around.layout.changed() => {
                    if changed.is_err() {
                        return Ended::Left;
                    }
                    let layout = self.around.layout.borrow_and_update().clone();
                    if super::kind_of(&layout) != self.kind {
                        return self.make_way();
                    }
                    if let Some(centre) = super::centre_of(self.kind, &layout) {
                        self.core.meet(now, &mut self.rng, &centre, &mut self.out);
                    }
                }
                command = self.around.commands.recv() => match command {
                    Some(Command::Leave { done }) => {
                        self.leave();
                        // Whoever told us to leave may have left already.
                        let _ = done.send(());
                        return Ended::Left;
                    }
                    Some(command) => self.begin(command),
                    None => return Ended::Left,
                },
                () = self.around.inbox.arrived() => self.take_frames(),
                () = self.around.runtime.sleep_until(due) => {}
            }
        }
    }

    /// Through members that this node holds for reachable, or any if it has not heard of any
    /// yet; with nobody else in the layout, as the first. Through the centre, if there is one.
    fn join(&mut self) {
        let me = self.core.contact().node;
        // Not marked as seen: what else is new in it is not looked at here.
        let layout = self.around.layout.borrow().clone();
        if let Some(centre) = super::centre_of(self.kind, &layout) {
            return self.core.join(self.around.runtime.now(), &mut self.rng, &centre, &mut self.out);
        }
        let view = self.around.view.borrow().clone();
        let others: Vec<NodeId> = layout.nodes().keys().copied().filter(|node| *node != me).collect();
        let reachable: Vec<NodeId> = others.iter().copied().filter(|node| view.is_reachable(node)).collect();
        let through = if reachable.is_empty() { &others } else { &reachable };
        let known: Vec<NodeContact> =
            through.choose_multiple(&mut self.rng, JOIN_THROUGH).copied().map(NodeContact::from).collect();
        self.core.join(self.around.runtime.now(), &mut self.rng, &known, &mut self.out);
    }

    /// Nobody let us in. If all nodes were off at once, each now waits for another to be there
    /// first: the one with the lowest id is. Should there be an overlay after all, the two
    /// become one when their nodes meet.
    fn join_again(&mut self) {
        let now = self.around.runtime.now();
        let me = self.core.contact().node;
        self.is_member = false;
        self.core.leave(now, &mut self.out);
        let view = self.around.view.borrow().clone();
        let layout = self.around.layout.borrow().clone();
        let is_lowest =
            layout.nodes().keys().find(|node| **node == me || view.is_reachable(node)) == Some(&me);
        // Without its centre there is no overlay of a kind that has one.
        if is_lowest && super::centre_of(self.kind, &layout).is_none() {
            self.core.join(now, &mut self.rng, &[], &mut self.out);
        } else {
            self.join();
        }
    }

    fn meet(&mut self, now: Instant) {
        self.meet_at = now + MEET_EVERY;
        let me = self.core.contact().node;
        let view = self.around.view.borrow().clone();
        let layout = self.around.layout.borrow().clone();
        if super::centre_of(self.kind, &layout).is_some() {
            // Whom it knows it is told by each new layout.
            return;
        }
        let others = layout.nodes().keys().filter(|node| **node != me && view.is_reachable(node));
        if let Some(other) = others.choose(&mut self.rng) {
            self.core.meet(now, &mut self.rng, &[NodeContact::from(*other)], &mut self.out);
        }
    }

    fn begin(&mut self, command: Command) {
        let now = self.around.runtime.now();
        match command {
            Command::Show { reply } => {
                // Whoever asked may have gone; so too below.
                let _ = reply.send(Shown {
                    kind: self.kind,
                    me: *self.core.contact(),
                    is_member: self.is_member,
                    tables: self.core.tables(),
                    state_bytes: self.core.state_bytes(),
                    kept: self.core.kept(),
                });
            }
            Command::Locate { .. } | Command::Operate { .. }
                if !self.is_member && self.waiting.len() < WAITING_MAX =>
            {
                self.waiting.push_back(command);
            }
            Command::StopProviding { content, reply } => {
                let _ = reply.send(self.core.stop_providing(content));
            }
            Command::Operate { operation, reply } => match self.operate(now, operation.clone()) {
                Ok(id) => {
                    self.operations.insert(id, Asked { operation, reply });
                }
                Err(error) => {
                    let _ = reply.send(Err(error));
                }
            },
            Command::Locate { key, reply } => {
                match self.core.locate(now, &mut self.rng, key, &mut self.out) {
                    Ok(lookup) => {
                        self.lookups.insert(lookup, Lookup { key, reply });
                    }
                    Err(error) => {
                        let _ = reply.send(Err(error));
                    }
                }
            }
            Command::Leave { done } => {
                let _ = done.send(());
            }
        }
    }

    fn operate(&mut self, now: Instant, operation: Operation) -> Result<OperationId, ContentError> {
        let (core, rng, out) = (&mut self.core, &mut self.rng, &mut self.out);
        match operation {
            Operation::Store { key, value, lifetime } => core.store(now, rng, key, value, lifetime, out),
            Operation::Fetch { key } => core.fetch(now, rng, key, out),
            Operation::Provide(offered) => core.provide(now, rng, offered, out),
            Operation::Providers { content } => core.providers(now, rng, content, out),
            Operation::Search { words } => core.search(now, rng, &words, out),
        }
    }

    fn take_frames(&mut self) {
        for _ in 0..FRAMES_AT_ONCE {
            let Some((from, bytes)) = self.around.inbox.pop() else { break };
            let message = match frame::decode::<O::Message>(self.kind, &bytes) {
                Ok(message) => message,
                Err(error) => {
                    self.around.counters.refused(&error);
                    tracing::debug!(from = ?from, %error, "an overlay frame was refused");
                    continue;
                }
            };
            count(&self.around.counters.received);
            let now = self.around.runtime.now();
            self.core.handle_message(now, &mut self.rng, from.into(), message, &mut self.out);
            self.carry_out();
        }
    }

    /// Sends what the core wants sent, and passes on what became true.
    fn carry_out(&mut self) {
        self.send();
        // What is begun here may finish here.
        loop {
            let notifications = std::mem::take(&mut self.out.notifications);
            if notifications.is_empty() {
                break;
            }
            for notification in notifications {
                self.notice(notification);
            }
            self.send();
        }
    }

    fn send(&mut self) {
        if self.out.sends.is_empty() {
            return;
        }
        let layout = self.around.layout.borrow().clone();
        for (to, message) in self.out.sends.drain(..) {
            // Somebody named a node that is no member, or is none any more.
            if layout.node(&to.node).is_none() {
                continue;
            }
            let frame = frame::encode(self.kind, message);
            count(&self.around.counters.sent);
            self.around.transport.send(to.node, Protocol::Overlay, frame.into());
        }
    }

    fn notice(&mut self, notification: Notification<NodeContact>) {
        match notification {
            Notification::Joined => {
                self.is_member = true;
                for command in std::mem::take(&mut self.waiting) {
                    self.begin(command);
                }
            }
            Notification::JoinFailed => self.join_again(),
            Notification::OperationFinished(finished) => {
                if let Some(asked) = self.operations.remove(&finished.operation) {
                    let _ = asked.reply.send(Ok(finished));
                }
            }
            Notification::LookupFinished(located) => {
                if let Some(lookup) = self.lookups.remove(&located.lookup) {
                    let _ = lookup.reply.send(Ok(located));
                }
            }
        }
    }

    fn leave(&mut self) {
        self.core.leave(self.around.runtime.now(), &mut self.out);
        self.carry_out();
    }

    /// The next kind's core answers what this one has not, and keeps what this one kept.
    fn make_way(mut self) -> Ended {
        let lookups = std::mem::take(&mut self.lookups).into_values();
        let lookups = lookups.map(|Lookup { key, reply }| Command::Locate { key, reply });
        let operations = std::mem::take(&mut self.operations).into_values();
        let operations = operations.map(|Asked { operation, reply }| Command::Operate { operation, reply });
        self.waiting.extend(lookups.chain(operations));
        self.leave();
        let unanswered = std::mem::take(&mut self.waiting);
        Ended::KindChanged(Estate { unanswered, shelf: self.core.take_shelf() })
    }
}
