//! A node of a town: content over an overlay, and broadcasts over whom it knows at the moment.

use std::{cell::Cell, rc::Rc};

use atoll_overlay::{
    Broadcast, BroadcastOut, Content, Delivered, Inventory, InventoryMessage, Notification, Out, Overlay,
};
use atoll_types::Instant;
use rand::rngs::StdRng;
use serde::{Serialize, Serializer};

use crate::{
    spread::SimulatedPayload,
    world::{Core, OutOf, SimulatedContact, Traffic, message_bytes},
};

type BroadcastMessage = InventoryMessage<SimulatedPayload>;

/// A connection's frame says which of the two it is, and is counted with each message anyway.
#[derive(Debug, Clone)]
pub(super) enum Said<M> {
    Overlay(M),
    Broadcast(BroadcastMessage),
}

impl<M: Serialize> Serialize for Said<M> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Said::Overlay(message) => message.serialize(serializer),
            Said::Broadcast(message) => message.serialize(serializer),
        }
    }
}

#[derive(Debug, Clone)]
pub(super) enum Happened {
    Overlay(Notification<SimulatedContact>),
    Delivered(Delivered<SimulatedPayload>),
}

pub(super) struct Resident<K> {
    pub(super) core: K,
    broadcasts: Inventory<SimulatedContact, SimulatedPayload>,
    /// What all residents have sent for broadcasts.
    tally: Rc<Cell<Traffic>>,
}

impl<K: Content<Contact = SimulatedContact, Message: Serialize>> Resident<K> {
    pub(super) fn new(core: K, tally: Rc<Cell<Traffic>>) -> Self {
        let broadcasts = Inventory::new(*core.contact(), []);
        Self { core, broadcasts, tally }
    }

    /// Lets the overlay act.
    pub(super) fn act<T>(
        &mut self,
        out: &mut OutOf<Self>,
        act: impl FnOnce(&mut K, &mut Out<SimulatedContact, K::Message>) -> T,
    ) -> T {
        let mut its = Out::default();
        let result = act(&mut self.core, &mut its);
        out.sends.extend(its.sends.into_iter().map(|(to, message)| (to, Said::Overlay(message))));
        out.notifications.extend(its.notifications.into_iter().map(Happened::Overlay));
        result
    }

    /// Lets the broadcasts act, whose neighbours are everybody in the overlay's tables now, dead or
    /// alive.
    fn spread(
        &mut self,
        out: &mut OutOf<Self>,
        act: impl FnOnce(
            &mut Inventory<SimulatedContact, SimulatedPayload>,
            &mut BroadcastOut<SimulatedContact, BroadcastMessage, SimulatedPayload>,
        ),
    ) {
        let mut its = Out::default();
        act(&mut self.broadcasts, &mut its);
        for (to, message) in its.sends {
            let mut tally = self.tally.get();
            tally.sent += 1;
            tally.sent_bytes += message_bytes(&message);
            tally.payloads += u64::from(matches!(message, InventoryMessage::Data { .. }));
            self.tally.set(tally);
            out.sends.push((to, Said::Broadcast(message)));
        }
        out.notifications.extend(its.notifications.into_iter().map(Happened::Delivered));
    }

    pub(super) fn broadcast(
        &mut self,
        now: Instant,
        rng: &mut StdRng,
        payload: SimulatedPayload,
        out: &mut OutOf<Self>,
    ) {
        self.broadcasts.set_neighbours(self.core.contacts());
        self.spread(out, |broadcasts, out| broadcasts.broadcast(now, rng, payload, out));
    }
}

impl<K: Content<Contact = SimulatedContact, Message: Serialize>> Core for Resident<K> {
    type Message = Said<K::Message>;
    type Notification = Happened;

    fn handle_message(
        &mut self,
        now: Instant,
        rng: &mut StdRng,
        from: SimulatedContact,
        message: Self::Message,
        out: &mut OutOf<Self>,
    ) {
        match message {
            Said::Overlay(message) => {
                self.act(out, |core, out| Overlay::handle_message(core, now, rng, from, message, out));
            }
            Said::Broadcast(message) => {
                if matches!(message, InventoryMessage::Data { .. }) {
                    // It is announced to all.
                    self.broadcasts.set_neighbours(self.core.contacts());
                }
                self.spread(out, |broadcasts, out| broadcasts.handle_message(now, rng, from, message, out));
            }
        }
    }

    fn handle_timeout(&mut self, now: Instant, rng: &mut StdRng, out: &mut OutOf<Self>) {
        self.act(out, |core, out| Overlay::handle_timeout(core, now, rng, out));
        self.spread(out, |broadcasts, out| broadcasts.handle_timeout(now, rng, out));
    }

    fn poll_timeout(&self) -> Option<Instant> {
        Overlay::poll_timeout(&self.core).into_iter().chain(self.broadcasts.poll_timeout()).min()
    }

    /// Of the overlay, by which architectures differ.
    fn state_bytes(&self) -> usize {
        Overlay::state_bytes(&self.core)
    }
}
