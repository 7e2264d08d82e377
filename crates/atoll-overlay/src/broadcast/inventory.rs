//! Inventories: word of a payload goes to all neighbours, the payload to whoever asks for it.
//!
//! As Bitcoin spreads blocks and transactions (Nakamoto 2008; the messages `inv`, `getdata`,
//! `block` of its protocol), and Ethereum the hashes of what it does not push. A node asks one
//! neighbour at a time, and the next that announced it when the first does not answer.

use std::{
    collections::{BTreeMap, VecDeque},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{
    seen::{Kept, Seen},
    *,
};

/// How long a node waits for a payload that it asked for: 20 s, in which a megabyte comes over
/// half a megabit a second. Bitcoin waits minutes.
const ASKED_TIMEOUT: Duration = Duration::from_secs(20);
/// Payloads that a node has heard of and does not have yet; word of more is not noted, and
/// comes again from other neighbours.
const WANTED_MAX: usize = 256;
/// Neighbours that are noted to have announced the same: as many may fail one after the other.
const ANNOUNCERS_MAX: usize = 16;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum InventoryMessage<P> {
    /// The sender has it.
    Inv {
        id: Id,
    },
    /// Send it to me.
    GetData {
        id: Id,
    },
    Data {
        hops: u32,
        payload: P,
    },
}

/// A payload that was announced and has not come.
#[derive(Debug, Clone)]
struct Wanted<C> {
    /// Who is asked, until `deadline`.
    asked: C,
    deadline: Instant,
    /// Who else has it; at most `ANNOUNCERS_MAX`.
    others: VecDeque<C>,
}

/// One node's side of spreading by inventories.
#[derive(Debug, Clone)]
pub struct Inventory<C, P> {
    me: C,
    neighbours: Vec<C>,
    seen: Seen,
    pub(super) kept: Kept<P>,
    /// At most `WANTED_MAX`.
    wanted: BTreeMap<Id, Wanted<C>>,
}

impl<C: Contact, P: Payload> Inventory<C, P> {
    pub fn new(me: C, neighbours: impl IntoIterator<Item = C>) -> Self {
        let neighbours = neighbours_of(&me, neighbours);
        Self { me, neighbours, seen: Seen::default(), kept: Kept::default(), wanted: BTreeMap::new() }
    }

    /// The overlay's tables have changed.
    pub fn set_neighbours(&mut self, neighbours: impl IntoIterator<Item = C>) {
        self.neighbours = neighbours_of(&self.me, neighbours);
    }

    fn announce(&self, id: Id, but: Option<&C>, out: &mut OutOf<Self>) {
        for neighbour in self.neighbours.iter().filter(|neighbour| Some(*neighbour) != but) {
            out.send(neighbour.clone(), InventoryMessage::Inv { id });
        }
    }
}

impl<C: Contact, P: Payload> Broadcast for Inventory<C, P> {
    type Contact = C;
    type Payload = P;
    type Message = InventoryMessage<P>;

    fn broadcast(&mut self, _now: Instant, _rng: &mut dyn RngCore, payload: P, out: &mut OutOf<Self>) {
        let id = payload.id();
        if self.seen.add(id) {
            self.kept.add(id, payload, 0);
            self.announce(id, None, out);
        }
    }

    fn handle_message(
        &mut self,
        now: Instant,
        _rng: &mut dyn RngCore,
        from: C,
        message: InventoryMessage<P>,
        out: &mut OutOf<Self>,
    ) {
        match message {
            InventoryMessage::Inv { id } => {
                if self.seen.contains(id) {
                    return;
                }
                if let Some(wanted) = self.wanted.get_mut(&id) {
                    if wanted.asked != from
                        && wanted.others.len() < ANNOUNCERS_MAX
                        && !wanted.others.contains(&from)
                    {
                        wanted.others.push_back(from);
                    }
                } else if self.wanted.len() < WANTED_MAX {
                    let deadline = now + ASKED_TIMEOUT;
                    self.wanted.insert(id, Wanted { asked: from.clone(), deadline, others: VecDeque::new() });
                    out.send(from, InventoryMessage::GetData { id });
                }
            }
            InventoryMessage::GetData { id } => {
                if let Some((payload, hops)) = self.kept.find(id) {
                    out.send(from, InventoryMessage::Data { hops: hops.saturating_add(1), payload });
                }
            }
            InventoryMessage::Data { hops, payload } => {
                let id = payload.id();
                // Only what was asked for: nobody pushes megabytes onto others.
                if self.wanted.remove(&id).is_some() && self.seen.add(id) {
                    self.kept.add(id, payload.clone(), hops);
                    self.announce(id, Some(&from), out);
                    out.notify(Delivered { payload, hops });
                }
            }
        }
    }

    fn handle_timeout(&mut self, now: Instant, _rng: &mut dyn RngCore, out: &mut OutOf<Self>) {
        let late: Vec<Id> =
            self.wanted.iter().filter(|(_, wanted)| wanted.deadline <= now).map(|(id, _)| *id).collect();
        for id in late {
            let Some(wanted) = self.wanted.get_mut(&id) else { continue };
            match wanted.others.pop_front() {
                Some(next) => {
                    wanted.asked = next.clone();
                    wanted.deadline = now + ASKED_TIMEOUT;
                    out.send(next, InventoryMessage::GetData { id });
                }
                // Whoever announces it next is asked anew.
                None => {
                    self.wanted.remove(&id);
                }
            }
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.wanted.values().map(|wanted| wanted.deadline).min()
    }

    fn neighbours(&self) -> Vec<C> {
        self.neighbours.clone()
    }

    fn carries_payload(message: &InventoryMessage<P>) -> bool {
        matches!(message, InventoryMessage::Data { .. })
    }

    fn state_bytes(&self) -> usize {
        size_of::<Self>()
            + self.neighbours.capacity() * size_of::<C>()
            + self.seen.heap_bytes()
            + self.wanted.len() * size_of::<(Id, Wanted<C>)>()
    }
}
