//! Plumtree over HyParView: payloads go along a tree of neighbours, word of them over the other
//! links, and who hears of a payload that does not come mends the tree.
//!
//! Leitão, Pereira, Rodrigues: *Epidemic broadcast trees*, SRDS 2007; "SRDS 2007" beside the
//! code. The tree is what is left of flooding: a link over which a payload comes for the second
//! time is made lazy. The paper's optimisation, which exchanges a long way for a shorter one
//! (section 3.8), is left out: with it the tree depends on who sent last.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    hyparview::{HyParView, Sends},
    seen::{Kept, Seen},
    *,
};

/// Payloads that a node has heard of and does not have yet; word of more is not noted.
const MISSING_MAX: usize = 256;
/// Who announced the same: a node has five neighbours.
const ANNOUNCERS_MAX: usize = 16;

#[derive(Debug, Clone, Default)]
pub struct TreeConfig {
    pub views: HyParViewConfig,
}

/// How long to wait for a payload that was announced before asking for it: 1 s, more than the
/// way down the tree takes with 10,000 nodes (8 steps of 80 ms). Too low, and links are made
/// eager over which the payload would have come a second time.
const GRAFT_AFTER: Duration = Duration::from_secs(1);
/// And before asking the next who announced it: a round trip.
const GRAFT_AGAIN_AFTER: Duration = Duration::from_millis(500);

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TreeMessage<C, P> {
    View(HyParViewMessage<C>),
    Gossip {
        hops: u32,
        payload: P,
    },
    IHave {
        id: Id,
    },
    /// Send me that, and from now on what comes next: this link is part of the tree.
    Graft {
        id: Id,
    },
    /// It came before: this link is not part of the tree.
    Prune,
}

#[derive(Debug, Clone)]
struct Missing<C> {
    /// At most `ANNOUNCERS_MAX`.
    announcers: VecDeque<C>,
    deadline: Instant,
}

/// One node's part of the tree.
#[derive(Debug, Clone)]
pub struct Tree<C, P> {
    views: HyParView<C>,
    /// Together the active view, each neighbour in one of them.
    eager: BTreeSet<C>,
    lazy: BTreeSet<C>,
    seen: Seen,
    kept: Kept<P>,
    /// At most `MISSING_MAX`.
    missing: BTreeMap<Id, Missing<C>>,
    /// Kept for its room.
    sends: Sends<C>,
}

impl<C: Contact, P: Payload> Tree<C, P> {
    pub fn new(me: C, config: &TreeConfig) -> Self {
        Self {
            views: HyParView::new(me, Arc::new(config.views.clone())),
            eager: BTreeSet::new(),
            lazy: BTreeSet::new(),
            seen: Seen::default(),
            kept: Kept::default(),
            missing: BTreeMap::new(),
            sends: Vec::new(),
        }
    }

    /// Becomes part of what the known contacts are part of; with none, the first node.
    pub fn join(&mut self, now: Instant, rng: &mut dyn RngCore, known: &[C], out: &mut OutOf<Self>) {
        self.views.join(now, rng, known, &mut self.sends);
        self.carry_out(out);
    }

    /// Sends what the views want sent, and takes their changes over: `NeighborUp` makes a link
    /// eager, `NeighborDown` takes it out (SRDS 2007, algorithm 3).
    fn carry_out(&mut self, out: &mut OutOf<Self>) {
        for (to, message) in self.sends.drain(..) {
            out.send(to, TreeMessage::View(message));
        }
        let active = self.views.active();
        self.eager.retain(|contact| active.contains(contact));
        self.lazy.retain(|contact| active.contains(contact));
        for contact in active.iter().filter(|contact| !self.lazy.contains(contact)) {
            self.eager.insert(contact.clone());
        }
    }

    fn make_eager(&mut self, contact: &C) {
        if self.lazy.remove(contact) {
            self.eager.insert(contact.clone());
        }
    }

    fn make_lazy(&mut self, contact: &C) {
        if self.eager.remove(contact) {
            self.lazy.insert(contact.clone());
        }
    }

    /// `EagerPush` and `LazyPush` (algorithm 2).
    fn push(&mut self, from: Option<&C>, payload: &P, hops: u32, out: &mut OutOf<Self>) {
        let id = payload.id();
        for to in self.eager.iter().filter(|to| Some(*to) != from) {
            out.send(to.clone(), TreeMessage::Gossip { hops, payload: payload.clone() });
        }
        for to in self.lazy.iter().filter(|to| Some(*to) != from) {
            out.send(to.clone(), TreeMessage::IHave { id });
        }
    }
}

impl<C: Contact, P: Payload> Broadcast for Tree<C, P> {
    type Contact = C;
    type Payload = P;
    type Message = TreeMessage<C, P>;

    fn broadcast(&mut self, _now: Instant, _rng: &mut dyn RngCore, payload: P, out: &mut OutOf<Self>) {
        if self.seen.add(payload.id()) {
            self.kept.add(payload.id(), payload.clone(), 0);
            self.push(None, &payload, 1, out);
        }
    }

    fn handle_message(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        from: C,
        message: TreeMessage<C, P>,
        out: &mut OutOf<Self>,
    ) {
        match message {
            TreeMessage::View(message) => {
                self.views.handle_message(now, rng, from, message, &mut self.sends);
                self.carry_out(out);
            }
            TreeMessage::Gossip { hops, payload } => {
                let id = payload.id();
                if self.seen.add(id) {
                    self.missing.remove(&id);
                    self.kept.add(id, payload.clone(), hops);
                    self.make_eager(&from);
                    self.push(Some(&from), &payload, hops.saturating_add(1), out);
                    out.notify(Delivered { payload, hops });
                } else {
                    self.make_lazy(&from);
                    out.send(from, TreeMessage::Prune);
                }
            }
            TreeMessage::IHave { id } => {
                if self.seen.contains(id) {
                    return;
                }
                if let Some(missing) = self.missing.get_mut(&id) {
                    if missing.announcers.len() < ANNOUNCERS_MAX && !missing.announcers.contains(&from) {
                        missing.announcers.push_back(from);
                    }
                } else if self.missing.len() < MISSING_MAX {
                    let missing = Missing { announcers: [from].into(), deadline: now + GRAFT_AFTER };
                    self.missing.insert(id, missing);
                }
            }
            TreeMessage::Graft { id } => {
                self.make_eager(&from);
                if let Some((payload, hops)) = self.kept.find(id) {
                    out.send(from, TreeMessage::Gossip { hops: hops.saturating_add(1), payload });
                }
            }
            TreeMessage::Prune => self.make_lazy(&from),
        }
    }

    fn handle_timeout(&mut self, now: Instant, rng: &mut dyn RngCore, out: &mut OutOf<Self>) {
        self.views.handle_timeout(now, rng, &mut self.sends);
        self.carry_out(out);
        let late: Vec<Id> =
            self.missing.iter().filter(|(_, missing)| missing.deadline <= now).map(|(id, _)| *id).collect();
        for id in late {
            let Some(missing) = self.missing.get_mut(&id) else { continue };
            match missing.announcers.pop_front() {
                Some(announcer) => {
                    missing.deadline = now + GRAFT_AGAIN_AFTER;
                    self.make_eager(&announcer);
                    out.send(announcer, TreeMessage::Graft { id });
                }
                // Word from somebody else begins anew.
                None => {
                    self.missing.remove(&id);
                }
            }
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        let missing = self.missing.values().map(|missing| missing.deadline);
        missing.chain(self.views.poll_timeout()).min()
    }

    fn neighbours(&self) -> Vec<C> {
        self.eager.union(&self.lazy).cloned().collect()
    }

    fn carries_payload(message: &TreeMessage<C, P>) -> bool {
        matches!(message, TreeMessage::Gossip { .. })
    }

    fn state_bytes(&self) -> usize {
        size_of::<Self>()
            + self.views.heap_bytes()
            + (self.eager.len() + self.lazy.len()) * size_of::<C>()
            + self.seen.heap_bytes()
            + self.missing.len() * size_of::<(Id, Missing<C>)>()
    }
}
