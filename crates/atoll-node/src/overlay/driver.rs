//! Runs one core: frames, timers and commands in, datagrams and answers out. The same for
//! every kind, and the same in the simulation.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use atoll_membership::View;
use atoll_overlay::{Id, LocateError, Located, LookupId, Notification, Out, Overlay, Table};
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
    Show {
        reply: oneshot::Sender<Shown>,
    },
    /// Say goodbye, and do nothing any more.
    Leave {
        done: oneshot::Sender<()>,
    },
}

/// What a node knows of its overlay.
#[derive(Debug, Clone)]
pub struct Shown {
    pub kind: OverlayKind,
    pub me: NodeContact,
    pub is_member: bool,
    pub tables: Vec<Table<NodeContact>>,
    pub state_bytes: usize,
}

/// Why a driver's run is over.
pub enum Ended {
    /// It was told to leave, or nobody is there to tell it anything any more.
    Left,
    /// The cluster wants another kind. These were asked and not answered yet.
    KindChanged { unanswered: VecDeque<Command> },
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
}

struct Lookup {
    key: Id,
    reply: oneshot::Sender<Result<Located<NodeContact>, LocateError>>,
}

impl<'a, O> Driver<'a, O>
where
    O: Overlay<Contact = NodeContact>,
    O::Message: Serialize + DeserializeOwned,
{
    pub fn new(around: &'a mut Surroundings, kind: OverlayKind, core: O, waiting: VecDeque<Command>) -> Self {
        Self {
            rng: around.runtime.rng(),
            meet_at: around.runtime.now() + MEET_EVERY,
            around,
            kind,
            core,
            out: Out::default(),
            is_member: false,
            waiting,
            lookups: BTreeMap::new(),
        }
    }

    pub async fn run(mut self) -> Ended {
        self.join();
        loop {
            self.carry_out();
            let now = self.around.runtime.now();
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
                    if super::kind_of(&self.around.layout.borrow_and_update()) != self.kind {
                        return self.make_way();
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
    /// yet; with nobody else in the layout, as the first.
    fn join(&mut self) {
        let me = self.core.contact().node;
        let layout = self.around.layout.borrow_and_update().clone();
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
        if is_lowest {
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
                });
            }
            Command::Locate { .. } if !self.is_member && self.waiting.len() < WAITING_MAX => {
                self.waiting.push_back(command);
            }
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
            // Nothing was begun.
            Notification::OperationFinished(_) => {}
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

    /// The next kind's core answers what this one has not.
    fn make_way(mut self) -> Ended {
        let lookups = std::mem::take(&mut self.lookups);
        let again = lookups.into_values().map(|Lookup { key, reply }| Command::Locate { key, reply });
        self.waiting.extend(again);
        self.leave();
        Ended::KindChanged { unanswered: std::mem::take(&mut self.waiting) }
    }
}
