//! Questions about content under way, their deadlines and answers; and other nodes' questions.

use std::time::Duration;

use atoll_types::Instant;
use rand::{Rng, RngCore};

use super::{
    Dht, DhtOut,
    message::{ContentMessage, DhtMessage, Named, OFFERED_MAX, REPLICAS_MAX, Refused, Wish},
};
use crate::{Contact, Entry, Id, Overlay};

/// A question that was sent to one node.
#[derive(Debug, Clone)]
pub(super) struct Call<C> {
    request: u32,
    pub(super) to: C,
    /// To be sent again.
    message: ContentMessage<C>,
    attempts_left: u8,
    pub(super) deadline: Instant,
    pub(super) purpose: Purpose,
}

/// Who wants to know.
#[derive(Debug, Clone)]
pub(super) enum Purpose {
    /// The part with this number.
    Part(u32),
    /// Upkeep's: what was offered, or sent.
    HandOver(Vec<Named>),
}

/// What proves that a node asked before it sent: a keyed hash of its identifier (BEP 5's and
/// S/Kademlia's write tokens). The wire proves who speaks anyway; where a driver's does not,
/// nobody can be made to keep things in somebody else's name.
#[derive(Debug, Clone, Default)]
pub(super) struct Tokens {
    secret: [u8; 32],
    former: [u8; 32],
    drawn_at: Instant,
}

/// A token is good for one to two of these: longer than any exchange.
const TOKENS_FOR: Duration = Duration::from_secs(300);

impl Tokens {
    pub(super) fn draw(&mut self, now: Instant, rng: &mut dyn RngCore) {
        self.former = std::mem::replace(&mut self.secret, rng.random());
        self.drawn_at = now;
    }

    pub(super) fn refresh(&mut self, now: Instant, rng: &mut dyn RngCore) {
        if now.saturating_since(self.drawn_at) >= TOKENS_FOR {
            self.draw(now, rng);
        }
    }

    pub(super) fn now_for(&self, to: Id) -> u64 {
        Self::give(&self.secret, to)
    }

    fn give(secret: &[u8; 32], to: Id) -> u64 {
        let hash = blake3::keyed_hash(secret, &<[u8; 32]>::from(to));
        u64::from_be_bytes(*hash.as_bytes().first_chunk().expect("32 bytes"))
    }

    fn is_good(&self, from: Id, token: u64) -> bool {
        token == self.now_for(from) || token == Self::give(&self.former, from)
    }
}

impl<O: Overlay> Dht<O> {
    pub(super) fn call(
        &mut self,
        now: Instant,
        to: O::Contact,
        purpose: Purpose,
        message: impl FnOnce(u32) -> ContentMessage<O::Contact>,
        out: &mut DhtOut<O>,
    ) {
        let request = self.number();
        let message = message(request);
        out.send(to.clone(), DhtMessage::Content(message.clone()));
        let attempts_left = self.config.attempts.saturating_sub(1);
        let deadline = now + self.config.answer_timeout;
        self.calls.push(Call { request, to, message, attempts_left, deadline, purpose });
    }

    /// The call that this answers, if it was asked of whom it comes from.
    fn answered(&mut self, from: &O::Contact, request: u32) -> Option<Call<O::Contact>> {
        let place = self.calls.iter().position(|call| call.request == request && call.to == *from)?;
        let call = self.calls.swap_remove(place);
        if self.calls.is_empty() {
            self.calls = Vec::new();
        }
        Some(call)
    }

    pub(super) fn handle_deadlines(&mut self, now: Instant, out: &mut DhtOut<O>) {
        while let Some(place) = self.calls.iter().position(|call| call.deadline <= now) {
            let call = &mut self.calls[place];
            if call.attempts_left > 0 {
                call.attempts_left -= 1;
                call.deadline = now + self.config.answer_timeout;
                out.send(call.to.clone(), DhtMessage::Content(call.message.clone()));
                continue;
            }
            let call = self.calls.swap_remove(place);
            if let Purpose::Part(number) = call.purpose {
                self.was_silent(now, number, &call.to, out);
            }
        }
    }

    pub(super) fn handle_content(
        &mut self,
        now: Instant,
        from: O::Contact,
        message: ContentMessage<O::Contact>,
        out: &mut DhtOut<O>,
    ) {
        match message {
            ContentMessage::Offer { request, offered } => {
                let offered = &offered[..offered.len().min(OFFERED_MAX)];
                let wishes = offered.iter().map(|named| self.wish(named)).collect();
                let token = self.tokens.now_for(from.id());
                let replicas = offered.first().map_or(Vec::new(), |named| self.replicas(named.key));
                let answer = ContentMessage::Wanted { request, token, wishes, replicas };
                out.send(from, DhtMessage::Content(answer));
            }
            ContentMessage::Keep { request, token, entries } => {
                let is_good = self.tokens.is_good(from.id(), token);
                let keep = |entry| if is_good { self.keep(now, &from, entry) } else { Err(Refused::NoToken) };
                let outcomes = entries.into_iter().take(OFFERED_MAX).map(keep).collect();
                out.send(from, DhtMessage::Content(ContentMessage::Kept { request, outcomes }));
            }
            ContentMessage::Get { request, key, class } => {
                let entries = self.cellar.get(key, class, self.wall(now));
                let replicas = self.replicas(key);
                out.send(from, DhtMessage::Content(ContentMessage::Got { request, entries, replicas }));
            }
            ContentMessage::Cache { token, entries } => {
                if self.tokens.is_good(from.id(), token) {
                    self.keep_copies(now, entries);
                }
            }
            ContentMessage::Wanted { request, token, wishes, replicas } => {
                let Some(call) = self.answered(&from, request) else { return };
                match (call.purpose, call.message) {
                    (Purpose::Part(number), ContentMessage::Offer { .. }) => {
                        self.part_wanted(now, number, &from, token, &wishes, replicas, out);
                    }
                    (Purpose::HandOver(offered), ContentMessage::Offer { .. }) => {
                        self.hand_over_wanted(now, from, token, &offered, &wishes, out);
                    }
                    _ => {}
                }
            }
            ContentMessage::Kept { request, outcomes } => {
                let Some(call) = self.answered(&from, request) else { return };
                match (call.purpose, call.message) {
                    (Purpose::Part(number), ContentMessage::Keep { .. }) => {
                        self.part_kept(now, number, &from, &outcomes, out);
                    }
                    (Purpose::HandOver(sent), ContentMessage::Keep { .. }) => {
                        self.handed_over(now, &from, &sent);
                    }
                    _ => {}
                }
            }
            ContentMessage::Got { request, entries, replicas } => {
                let Some(call) = self.answered(&from, request) else { return };
                if let (Purpose::Part(number), ContentMessage::Get { .. }) = (call.purpose, call.message) {
                    self.part_got(now, number, &from, entries, replicas, out);
                }
            }
        }
    }

    pub(super) fn replicas(&self, key: Id) -> Vec<O::Contact> {
        self.core.responsible(key, self.config.replicas.min(REPLICAS_MAX))
    }

    /// Whether the key is this node's to keep, as far as it can tell. One place more than there
    /// are replicas: who asks may know of one that left, of which this node has not heard.
    fn is_mine(&self, key: Id) -> bool {
        self.core.responsible(key, self.config.replicas + 1).contains(self.core.contact())
    }

    fn wish(&self, named: &Named) -> Wish {
        if self.cellar.has(named) {
            Wish::Have
        } else if self.is_mine(named.key) {
            Wish::Want
        } else {
            Wish::NotMine
        }
    }

    fn keep(&mut self, now: Instant, from: &O::Contact, entry: Entry) -> Result<(), Refused> {
        if !self.is_mine(entry.key) {
            return Err(Refused::NotMine);
        }
        entry.check(self.wall(now)).map_err(Refused::Unsound)?;
        self.cellar.put(entry, Some(from.clone()))
    }
}
