//! Flooding and push gossip: whoever hears of a payload for the first time sends it on.
//!
//! Flooding sends it to all neighbours but the one that it came from, and reaches whoever the
//! graph of neighbours connects. Push gossip sends it to a few of them, drawn anew each time;
//! of N nodes that each send to f drawn ones, a share 1 − e⁻ᶠ hears of it (Eugster, Guerraoui,
//! Kermarrec, Massoulié, *Epidemic information dissemination in distributed systems*, IEEE
//! Computer 2004), so f of ln N and a little more reaches all with high probability.

use rand::seq::IndexedRandom;
use serde::{Deserialize, Serialize};

use super::{seen::Seen, *};

/// The payload, and how many nodes it went through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushMessage<P> {
    hops: u32,
    payload: P,
}

/// One node's side of flooding, or of push gossip.
#[derive(Debug, Clone)]
pub struct Push<C, P> {
    me: C,
    neighbours: Vec<C>,
    /// To how many a payload is sent on; none is all (flooding).
    fanout: Option<usize>,
    seen: Seen,
    payload: std::marker::PhantomData<P>,
}

impl<C: Contact, P: Payload> Push<C, P> {
    pub fn flooding(me: C, neighbours: impl IntoIterator<Item = C>) -> Self {
        let neighbours = neighbours_of(&me, neighbours);
        let payload = std::marker::PhantomData;
        Self { me, neighbours, fanout: None, seen: Seen::default(), payload }
    }

    /// To `fanout` drawn neighbours each time.
    pub fn gossip(me: C, neighbours: impl IntoIterator<Item = C>, fanout: usize) -> Self {
        Self { fanout: Some(fanout), ..Self::flooding(me, neighbours) }
    }

    /// The overlay's tables have changed.
    pub fn set_neighbours(&mut self, neighbours: impl IntoIterator<Item = C>) {
        self.neighbours = neighbours_of(&self.me, neighbours);
    }

    fn send_on(
        &self,
        rng: &mut dyn RngCore,
        from: Option<&C>,
        message: &PushMessage<P>,
        out: &mut BroadcastOut<C, PushMessage<P>, P>,
    ) {
        let others = self.neighbours.iter().filter(|neighbour| Some(*neighbour) != from);
        match self.fanout {
            None => others.for_each(|to| out.send(to.clone(), message.clone())),
            Some(fanout) => {
                let others: Vec<&C> = others.collect();
                others
                    .choose_multiple(&mut &mut *rng, fanout)
                    .for_each(|to| out.send((*to).clone(), message.clone()));
            }
        }
    }
}

impl<C: Contact, P: Payload> Broadcast for Push<C, P> {
    type Contact = C;
    type Payload = P;
    type Message = PushMessage<P>;

    fn broadcast(&mut self, _now: Instant, rng: &mut dyn RngCore, payload: P, out: &mut OutOf<Self>) {
        if self.seen.add(payload.id()) {
            self.send_on(rng, None, &PushMessage { hops: 1, payload }, out);
        }
    }

    fn handle_message(
        &mut self,
        _now: Instant,
        rng: &mut dyn RngCore,
        from: C,
        message: PushMessage<P>,
        out: &mut OutOf<Self>,
    ) {
        if !self.seen.add(message.payload.id()) {
            return;
        }
        let PushMessage { hops, payload } = message;
        let next = PushMessage { hops: hops.saturating_add(1), payload: payload.clone() };
        self.send_on(rng, Some(&from), &next, out);
        out.notify(Delivered { payload, hops });
    }

    fn handle_timeout(&mut self, _now: Instant, _rng: &mut dyn RngCore, _out: &mut OutOf<Self>) {}

    fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    fn neighbours(&self) -> Vec<C> {
        self.neighbours.clone()
    }

    fn carries_payload(_message: &PushMessage<P>) -> bool {
        true
    }

    fn state_bytes(&self) -> usize {
        size_of::<Self>() + self.neighbours.capacity() * size_of::<C>() + self.seen.heap_bytes()
    }
}
