//! A network in which it is noted what is said, and what follows from what an attacker says.

use std::{
    cell::RefCell,
    collections::BTreeMap,
    fmt::{self, Write},
    rc::Rc,
    time::Duration,
};

use atoll_overlay::{AuthorKey, Content, Id, Notification, Offered, Out, Overlay, VALUE_BYTES_MAX};
use atoll_types::Instant;
use rand::{Rng, rngs::StdRng, seq::IndexedRandom};
use serde::{Serialize, Serializer};

use crate::{
    experiment::{JOIN_EVERY, WALL},
    kinds::ContentRecipe,
    world::{Core, Links, OutOf, SimulatedContact, World, message_bytes, stream},
};

/// Samples of each kind of message.
const SAMPLES_MAX: usize = 64;
/// Longer than any operation takes, and any retry.
const SETTLES_IN: Duration = Duration::from_secs(60);
/// Until queries that went by, and tokens that were given, are of no use any more.
const FORGOTTEN_IN: Duration = Duration::from_secs(700);
const LIFETIME: Duration = Duration::from_secs(20 * 3600);
/// Authors of values under one key, and providers of one thing: as many as are told in one answer.
const VALUES: usize = 8;
const PROVIDERS: usize = 128;
/// Stores and reads of each sort, and nodes that leave, and fail.
const OPERATIONS: usize = 24;
const GOING: usize = 4;

/// A message, and of which of the attacker's it is a consequence. Nobody sends that along.
#[derive(Debug, Clone)]
pub(super) struct Marked<M> {
    message: M,
    of: Option<usize>,
}

impl<M: Serialize> Serialize for Marked<M> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.message.serialize(serializer)
    }
}

/// What somebody sent to somebody.
#[derive(Debug, Clone)]
pub(super) struct Sample<M> {
    pub(super) from: SimulatedContact,
    pub(super) to: SimulatedContact,
    pub(super) message: M,
}

/// A consequence of one of the attacker's messages.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sent {
    pub(super) of: usize,
    pub(super) from: SimulatedContact,
    pub(super) to: SimulatedContact,
    pub(super) bytes: u64,
}

struct Tap<M> {
    /// By kind of message: how many there were, and some of them, each as likely.
    heard: BTreeMap<String, (usize, Vec<Sample<M>>)>,
    sent: Vec<Sent>,
    rng: StdRng,
}

/// A message's variant, and that of what is in it: the innermost with a name of its own.
fn kind_of(message: &impl fmt::Debug) -> String {
    let mut path = Path::default();
    // It ends with an error where the path does: what is in a message may be long.
    let _ = write!(path, "{message:?}");
    path.0.rsplit('(').find(|part| part.starts_with(char::is_uppercase)).unwrap_or_default().to_owned()
}

/// Takes what is printed up to the first field.
#[derive(Default)]
struct Path(String);

impl fmt::Write for Path {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = text.find([' ', '{', ')']);
        self.0.push_str(&text[..end.unwrap_or(text.len())]);
        if end.is_some() { Err(fmt::Error) } else { Ok(()) }
    }
}

pub(super) struct Tapped<K: Overlay> {
    core: K,
    tap: Rc<RefCell<Tap<K::Message>>>,
}

impl<K: Content<Contact = SimulatedContact, Message: Serialize>> Tapped<K> {
    fn act<T>(
        &mut self,
        of: Option<usize>,
        out: &mut OutOf<Self>,
        act: impl FnOnce(&mut K, &mut Out<SimulatedContact, K::Message>) -> T,
    ) -> T {
        let mut its = Out::default();
        let result = act(&mut self.core, &mut its);
        let from = *self.core.contact();
        for (to, message) in its.sends {
            if let Some(of) = of {
                self.tap.borrow_mut().sent.push(Sent { of, from, to, bytes: message_bytes(&message) });
            }
            out.sends.push((to, Marked { message, of }));
        }
        out.notifications.extend(its.notifications);
        result
    }
}

impl<K: Content<Contact = SimulatedContact, Message: Serialize>> Core for Tapped<K> {
    type Message = Marked<K::Message>;
    type Notification = Notification<SimulatedContact>;

    fn handle_message(
        &mut self,
        now: Instant,
        rng: &mut StdRng,
        from: SimulatedContact,
        message: Self::Message,
        out: &mut OutOf<Self>,
    ) {
        let Marked { message, of } = message;
        if of.is_none() {
            let mut tap = self.tap.borrow_mut();
            let Tap { heard, rng, .. } = &mut *tap;
            let (count, samples) = heard.entry(kind_of(&message)).or_default();
            *count += 1;
            let to = *self.core.contact();
            let sample = || Sample { from, to, message: message.clone() };
            match rng.random_range(0..*count) {
                _ if samples.len() < SAMPLES_MAX => samples.push(sample()),
                place if place < SAMPLES_MAX => samples[place] = sample(),
                _ => {}
            }
        }
        self.act(of, out, |core, out| Overlay::handle_message(core, now, rng, from, message, out));
    }

    fn handle_timeout(&mut self, now: Instant, rng: &mut StdRng, out: &mut OutOf<Self>) {
        self.act(None, out, |core, out| Overlay::handle_timeout(core, now, rng, out));
    }

    fn poll_timeout(&self) -> Option<Instant> {
        Overlay::poll_timeout(&self.core)
    }

    fn state_bytes(&self) -> usize {
        Overlay::state_bytes(&self.core)
    }
}

/// A network that has grown, come to rest, and been used.
pub(super) struct Used<K: Overlay>
where
    Tapped<K>: Core<Message = Marked<K::Message>>,
{
    pub(super) world: World<Tapped<K>>,
    tap: Rc<RefCell<Tap<K::Message>>>,
    pub(super) rng: StdRng,
    /// Under which there are values of authors who live: in kinds without structure others have none.
    pub(super) keys: Vec<Id>,
}

impl<K: Content<Contact = SimulatedContact, Message: Serialize>> Used<K> {
    pub(super) fn new<R: ContentRecipe<Core = K>>(recipe: &R, nodes: usize, seed: u64) -> Self {
        let tap = Tap { heard: BTreeMap::new(), sent: Vec::new(), rng: stream(seed, "tap") };
        let mut used = Used {
            world: World::new(seed, Links::default()),
            tap: Rc::new(RefCell::new(tap)),
            rng: stream(seed, "attack"),
            keys: Vec::new(),
        };
        for _ in 0..nodes {
            used.come(recipe);
            used.world.run(JOIN_EVERY);
        }
        used.world.run(recipe.rest());
        used.live(recipe);
        used.world.take_reports();
        used
    }

    fn come<R: ContentRecipe<Core = K>>(&mut self, recipe: &R) {
        let known = self.world.draw_living();
        let me = self.world.next_contact();
        let mut core = recipe.newcomer(me, AuthorKey::from_seed(self.rng.random()));
        core.set_clock(Instant::ORIGIN, WALL);
        self.world.add(Tapped { core, tap: self.tap.clone() });
        self.with(me, |core, now, rng, out| core.join(now, rng, known.as_slice(), out));
    }

    /// All that nodes say to each other is said once, and the longest answers are there to be given.
    fn live<R: ContentRecipe<Core = K>>(&mut self, recipe: &R) {
        let thing = Offered { content: Id::of(b"thing"), name: "popular thing".to_owned() };
        let full = Id::of(b"full");
        let mut authors: Vec<(Id, SimulatedContact)> = Vec::new();
        for number in 0..PROVIDERS {
            let provider = self.drawn();
            let offered = thing.clone();
            self.with(provider, |core, now, rng, out| core.provide(now, rng, offered, out).ok());
            if number < VALUES {
                authors.push((full, self.store(full, VALUE_BYTES_MAX)));
            }
            self.world.run(JOIN_EVERY);
        }
        for number in 0..OPERATIONS {
            let key = Id::of(&number.to_be_bytes());
            authors.push((key, self.store(key, 100)));
            self.world.run(SETTLES_IN / 10);
            for key in [key, full] {
                let reader = self.drawn();
                self.with(reader, |core, now, rng, out| core.fetch(now, rng, key, out).ok());
            }
            let seeker = self.drawn();
            self.with(seeker, |core, now, rng, out| core.search(now, rng, "popular", out).ok());
            let seeker = self.drawn();
            let content = thing.content;
            self.with(seeker, |core, now, rng, out| core.providers(now, rng, content, out).ok());
            self.world.run(SETTLES_IN / 10);
        }
        for _ in 0..GOING {
            let leaving = self.drawn();
            self.with(leaving, |core, now, _, out| core.leave(now, out));
            self.world.fail(leaving);
            let failing = self.drawn();
            self.world.fail(failing);
            self.come(recipe);
            self.come(recipe);
        }
        self.world.run(FORGOTTEN_IN);
        authors.retain(|(_, author)| self.world.is_living(*author));
        self.keys = authors.into_iter().map(|(key, _)| key).collect();
        self.keys.dedup();
    }

    /// At a node that is drawn, which it gives.
    fn store(&mut self, key: Id, bytes: usize) -> SimulatedContact {
        let author = self.drawn();
        let value = vec![7; bytes];
        self.with(author, |core, now, rng, out| core.store(now, rng, key, value, LIFETIME, out).ok());
        author
    }

    pub(super) fn drawn(&mut self) -> SimulatedContact {
        self.world.draw_living().expect("some live")
    }

    pub(super) fn with<T>(
        &mut self,
        contact: SimulatedContact,
        act: impl FnOnce(&mut K, Instant, &mut StdRng, &mut Out<SimulatedContact, K::Message>) -> T,
    ) -> T {
        self.world
            .with(contact, |node, now, rng, out| node.act(None, out, |core, out| act(core, now, rng, out)))
    }

    /// Whom a node would turn to, drawn.
    pub(super) fn contact_of(&mut self, contact: SimulatedContact) -> Option<SimulatedContact> {
        let contacts = self.world.core(contact)?.core.contacts();
        contacts.choose(&mut self.rng).copied()
    }

    /// What was heard, by kind of message.
    pub(super) fn heard(&self) -> BTreeMap<String, Vec<Sample<K::Message>>> {
        let tap = self.tap.borrow();
        tap.heard.iter().map(|(kind, (_, samples))| (kind.clone(), samples.clone())).collect()
    }

    /// Sends a message in the name of `from`, and gives what it takes on the wire.
    pub(super) fn inject(
        &mut self,
        of: usize,
        from: SimulatedContact,
        to: SimulatedContact,
        message: K::Message,
    ) -> u64 {
        let bytes = message_bytes(&message);
        self.world.with(from, |_, _, _, out| out.sends.push((to, Marked { message, of: Some(of) })));
        bytes
    }

    pub(super) fn take_sent(&mut self) -> Vec<Sent> {
        std::mem::take(&mut self.tap.borrow_mut().sent)
    }
}
