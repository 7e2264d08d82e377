//! A network for tests of cores, so small that one sees what is right: contact n stands at n of
//! 256. It delivers in order, a message a microsecond; else time passes only when nothing is on
//! its way.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use atoll_types::Instant;
use rand::{Rng, RngCore, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};

use crate::{Contact, Finished, Id, Located, Notification, Out, Overlay};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct At(pub(crate) u8);

impl Contact for At {
    fn id(&self) -> Id {
        at(self.0)
    }
}

pub(crate) fn at(place: u8) -> Id {
    Id::from_halves(u128::from(place) << 120, 0)
}

pub(crate) struct Net<O: Overlay> {
    pub(crate) now: Instant,
    pub(crate) rng: StdRng,
    pub(crate) nodes: BTreeMap<u8, O>,
    /// They get nothing, and do nothing.
    pub(crate) dead: BTreeSet<u8>,
    /// They get something only from those to whom they have sent something.
    pub(crate) closed: BTreeSet<u8>,
    /// From whom to whom something was sent, if the first is closed.
    opened: BTreeSet<(u8, u8)>,
    /// Of what is on its way, so much is lost.
    pub(crate) loss: f64,
    pub(crate) wire: VecDeque<(At, At, O::Message)>,
    /// What was sent, in order.
    pub(crate) sent: Vec<(u8, u8, O::Message)>,
    pub(crate) finished: Vec<(u8, Located<At>)>,
    pub(crate) operations: Vec<(u8, Finished<At>)>,
    pub(crate) joined: Vec<u8>,
}

impl<O: Overlay<Contact = At>> Net<O> {
    pub(crate) fn new() -> Self {
        Net {
            now: Instant::ORIGIN,
            rng: StdRng::seed_from_u64(7),
            nodes: BTreeMap::new(),
            dead: BTreeSet::new(),
            closed: BTreeSet::new(),
            opened: BTreeSet::new(),
            loss: 0.0,
            wire: VecDeque::new(),
            sent: Vec::new(),
            finished: Vec::new(),
            operations: Vec::new(),
            joined: Vec::new(),
        }
    }

    pub(crate) fn converged(places: &[u8], make: impl Fn(At, &[(Id, At)]) -> O) -> Self {
        let mut net = Self::new();
        let mut ring: Vec<(Id, At)> = places.iter().map(|place| (at(*place), At(*place))).collect();
        ring.sort_unstable();
        net.nodes = places.iter().map(|place| (*place, make(At(*place), &ring))).collect();
        net
    }

    /// Each joins through the first, 5 s apart; then an hour passes.
    pub(crate) fn grown(places: &[u8], make: impl Fn(At) -> O) -> Self {
        let mut net = Self::new();
        for (index, place) in places.iter().enumerate() {
            net.join(make(At(*place)), &places[..index.min(1)]);
            net.run(Duration::from_secs(5));
        }
        net.run(Duration::from_secs(3600));
        net
    }

    pub(crate) fn join(&mut self, node: O, known: &[u8]) {
        let known: Vec<At> = known.iter().map(|place| At(*place)).collect();
        let place = node.contact().0;
        self.nodes.insert(place, node);
        self.with(place, |node, now, rng, out| node.join(now, rng, &known, out));
    }

    pub(crate) fn with<T>(
        &mut self,
        place: u8,
        act: impl FnOnce(&mut O, Instant, &mut dyn RngCore, &mut Out<At, O::Message>) -> T,
    ) -> T {
        let mut out = Out::default();
        let node = self.nodes.get_mut(&place).expect("a node");
        let result = act(node, self.now, &mut self.rng, &mut out);
        for (to, message) in out.sends {
            self.sent.push((place, to.0, message.clone()));
            if self.closed.contains(&place) {
                self.opened.insert((place, to.0));
            }
            self.wire.push_back((At(place), to, message));
        }
        for notification in out.notifications {
            match notification {
                Notification::LookupFinished(located) => self.finished.push((place, located)),
                Notification::OperationFinished(finished) => self.operations.push((place, finished)),
                Notification::Joined => self.joined.push(place),
                Notification::JoinFailed => {}
            }
        }
        result
    }

    /// Lets one node get a message from anybody.
    pub(crate) fn hear(&mut self, place: u8, from: u8, message: O::Message) {
        self.with(place, |node, now, rng, out| node.handle_message(now, rng, At(from), message, out));
    }

    pub(crate) fn deliver(&mut self) {
        while let Some((from, to, message)) = self.wire.pop_front() {
            self.now = self.now + Duration::from_micros(1);
            let is_lost = self.loss > 0.0 && self.rng.random_bool(self.loss);
            let is_shut = self.closed.contains(&to.0) && !self.opened.contains(&(to.0, from.0));
            if self.nodes.contains_key(&to.0) && !self.dead.contains(&to.0) && !is_lost && !is_shut {
                self.hear(to.0, from.0, message);
            }
        }
    }

    pub(crate) fn run(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            self.deliver();
            let living = self.nodes.iter().filter(|(place, _)| !self.dead.contains(place));
            let next = living.filter_map(|(place, node)| Some((node.poll_timeout()?, *place))).min();
            match next.filter(|(when, _)| *when <= end) {
                Some((when, place)) => {
                    self.now = self.now.max(when);
                    self.with(place, |node, now, rng, out| node.handle_timeout(now, rng, out));
                }
                None => break,
            }
        }
        self.now = self.now.max(end);
    }

    pub(crate) fn freeze(&mut self) {
        self.nodes.values_mut().for_each(Overlay::freeze);
    }

    pub(crate) fn locate(&mut self, from: u8, key: Id) -> Located<At> {
        let lookup =
            self.with(from, |node, now, rng, out| node.locate(now, rng, key, out)).expect("a member");
        self.run(Duration::from_secs(60));
        let found = |(place, located): &(u8, Located<At>)| *place == from && located.lookup == lookup;
        let place = self.finished.iter().position(found).expect("the lookup ended");
        self.finished.remove(place).1
    }

    pub(crate) fn living(&self) -> Vec<u8> {
        self.nodes.keys().filter(|place| !self.dead.contains(place)).copied().collect()
    }

    /// Asks every living node for every fifth key; `distance` is the kind's, and the nearest
    /// node is responsible.
    pub(crate) fn check_all_lookups<D: Ord>(&mut self, distance: impl Fn(Id, Id) -> D) {
        let living = self.living();
        for from in &living {
            for key in (0..=255).step_by(5).map(at) {
                let expected = living.iter().min_by_key(|place| distance(key, at(**place))).expect("some");
                let located = self.locate(*from, key);
                let first = located.outcome.map(|found| found[0]);
                assert_eq!(first, Ok(At(*expected)), "{key:?} asked at {from}");
            }
        }
    }
}
