//! Any kind of overlay with liars among its nodes.

use std::{cell::RefCell, rc::Rc, sync::Arc, time::Duration};

use atoll_overlay::{
    AuthorKey, Contact, Dht, DhtConfig, Entry, Id, LocateError, LookupId, Out, Overlay, Table,
};
use atoll_types::Instant;
use rand::RngCore;

use crate::{
    kinds::{ContentMessageOf, MessageOf, Recipe, dht},
    world::SimulatedContact,
};

/// Sorted by id.
type Ring = Vec<(Id, SimulatedContact)>;

/// Whether a node is of such a share of all nodes, drawn: by the end of its identifier, of which
/// its place does not depend.
pub(super) fn is_of_share(contact: SimulatedContact, share: f64) -> bool {
    let [.., a, b, c, d] = <[u8; 32]>::from(contact.id());
    f64::from(u32::from_be_bytes([a, b, c, d])) < share * 2_f64.powi(32)
}

/// A kind whose nodes are honest or lie.
pub(super) struct WithLiars<'a, R> {
    pub(super) honest: &'a R,
    share: f64,
    /// They know each other, as if by another way than the overlay.
    liars: Rc<RefCell<Ring>>,
}

impl<'a, R: Recipe> WithLiars<'a, R> {
    pub(super) fn new(honest: &'a R, share: f64) -> Self {
        Self { honest, share, liars: Rc::default() }
    }

    pub(super) fn is_liar(&self, contact: SimulatedContact) -> bool {
        is_of_share(contact, self.share)
    }

    /// Made of an honest one.
    pub(super) fn node(&self, core: R::Core) -> Node<'a, R> {
        let me = *core.contact();
        let liars = self.is_liar(me).then(|| {
            let mut liars = self.liars.borrow_mut();
            let place = liars.partition_point(|(id, _)| *id < me.id());
            liars.insert(place, (me.id(), me));
            self.liars.clone()
        });
        Node { core, recipe: self.honest, liars }
    }
}

impl<'a, R: Recipe> Recipe for WithLiars<'a, R> {
    type Core = Node<'a, R>;
    type WithContent = Dht<Self::Core>;

    fn with_content(&self, core: Self::Core, author: AuthorKey) -> Self::WithContent {
        dht(core, author)
    }

    fn newcomer(&self, me: SimulatedContact, author: AuthorKey) -> Self::WithContent {
        Dht::new(self.outside(me), author, Arc::new(DhtConfig::default()))
    }

    fn outside(&self, me: SimulatedContact) -> Node<'a, R> {
        self.node(self.honest.outside(me))
    }

    fn converged(
        &self,
        me: SimulatedContact,
        ring: &[(Id, SimulatedContact)],
        round_trip: &dyn Fn(SimulatedContact) -> Duration,
    ) -> Node<'a, R> {
        self.node(self.honest.converged(me, ring, round_trip))
    }

    fn responsible(&self, key: Id, ring: &[(Id, SimulatedContact)]) -> SimulatedContact {
        self.honest.responsible(key, ring)
    }

    fn lie(&self, question: &MessageOf<R>, liars: &[(Id, SimulatedContact)]) -> Option<MessageOf<R>> {
        self.honest.lie(question, liars)
    }

    /// Those who lie show a wrong way, and keep what they are given.
    fn hide(&self, _question: &ContentMessageOf<Self>) -> Option<ContentMessageOf<Self>> {
        None
    }

    fn brings<'m>(&self, _message: &'m mut ContentMessageOf<Self>) -> Option<&'m mut Vec<Entry>> {
        None
    }

    fn rest(&self) -> Duration {
        self.honest.rest()
    }

    fn appointed(&self) -> Vec<SimulatedContact> {
        self.honest.appointed()
    }

    fn stays(&self, contact: SimulatedContact) -> bool {
        self.honest.stays(contact)
    }
}

/// One node of such a kind.
pub(super) struct Node<'a, R: Recipe> {
    core: R::Core,
    recipe: &'a R,
    /// Of a liar.
    liars: Option<Rc<RefCell<Ring>>>,
}

impl<R: Recipe> Clone for Node<'_, R> {
    fn clone(&self) -> Self {
        Self { core: self.core.clone(), recipe: self.recipe, liars: self.liars.clone() }
    }
}

type OutOf<R> = Out<SimulatedContact, MessageOf<R>>;

impl<R: Recipe> Overlay for Node<'_, R> {
    type Contact = SimulatedContact;
    type Message = MessageOf<R>;

    fn contact(&self) -> &SimulatedContact {
        self.core.contact()
    }

    fn join(&mut self, now: Instant, rng: &mut dyn RngCore, known: &[SimulatedContact], out: &mut OutOf<R>) {
        self.core.join(now, rng, known, out);
    }

    fn leave(&mut self, now: Instant, out: &mut OutOf<R>) {
        self.core.leave(now, out);
    }

    fn locate(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        key: Id,
        out: &mut OutOf<R>,
    ) -> Result<LookupId, LocateError> {
        self.core.locate(now, rng, key, out)
    }

    fn responsible(&self, key: Id, count: usize) -> Vec<SimulatedContact> {
        self.core.responsible(key, count)
    }

    fn neighbourhood(&self) -> u32 {
        self.core.neighbourhood()
    }

    fn is_keeper(&self) -> bool {
        self.core.is_keeper()
    }

    fn meet(&mut self, now: Instant, rng: &mut dyn RngCore, others: &[SimulatedContact], out: &mut OutOf<R>) {
        self.core.meet(now, rng, others, out);
    }

    fn tables(&self) -> Vec<Table<SimulatedContact>> {
        self.core.tables()
    }

    fn handle_message(
        &mut self,
        now: Instant,
        rng: &mut dyn RngCore,
        from: SimulatedContact,
        message: MessageOf<R>,
        out: &mut OutOf<R>,
    ) {
        let lie = self.liars.as_ref().and_then(|liars| self.recipe.lie(&message, &liars.borrow()));
        match lie {
            Some(lie) => out.sends.push((from, lie)),
            None => self.core.handle_message(now, rng, from, message, out),
        }
    }

    fn handle_timeout(&mut self, now: Instant, rng: &mut dyn RngCore, out: &mut OutOf<R>) {
        self.core.handle_timeout(now, rng, out);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.core.poll_timeout()
    }

    fn freeze(&mut self) {
        self.core.freeze();
    }

    fn contacts(&self) -> Vec<SimulatedContact> {
        self.core.contacts()
    }

    fn state_bytes(&self) -> usize {
        self.core.state_bytes()
    }
}
