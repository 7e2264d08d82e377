//! The one task that owns foca: frames, timers and commands in, datagrams, calls and views
//! out.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use atoll_runtime::{Runtime, watch};
use atoll_transport::{Protocol, Transport};
use atoll_types::{Format, Instant, NodeId};
use foca::{Foca, Notification, Timer};
use rand::{Rng, RngCore, rngs::StdRng, seq::IndexedRandom};
use tokio::sync::{mpsc, oneshot};

use crate::{
    MembershipSettings,
    health::LocalHealth,
    identity::Life,
    info::{Fact, FactBroadcasts, Facts, MemberInfo},
    sync::{self, SyncReply, SyncRequest},
    view::{Member, MemberState, View},
    wire::{Counters, Frame, count, frame, probed_by},
};

pub(crate) enum Command {
    Received {
        frame: Box<Frame>,
    },
    Join {
        seeds: Vec<NodeId>,
    },
    Update {
        me: Box<MemberInfo>,
    },
    Forget {
        node: NodeId,
    },
    Leave {
        done: oneshot::Sender<()>,
    },
    /// Somebody compares notes with us.
    SyncAsked {
        request: Box<SyncRequest>,
        reply: oneshot::Sender<SyncReply>,
    },
    /// Somebody answered us, or did not.
    SyncAnswered {
        peer: NodeId,
        reply: Option<Box<SyncReply>>,
    },
}

/// What the driver does by its own clock.
#[derive(Debug, PartialEq, Eq)]
enum Deed {
    Foca(Timer<Life>),
    /// Compare notes with somebody at random.
    Sync,
    /// If nobody is heard, ask those who were known.
    Search,
}

type Core = Foca<Life, foca::PostcardCodec, FocaRng, FactBroadcasts>;

/// How many are asked at once by a node that hears nobody.
const SEARCHED_AT_ONCE: usize = 3;

pub(crate) struct Driver {
    runtime: Runtime,
    transport: Arc<dyn Transport>,
    foca: Core,
    settings: MembershipSettings,
    counters: Arc<Counters>,
    commands: mpsc::WeakSender<Command>,
    rng: StdRng,
    me: Fact,
    facts: Facts,
    health: LocalHealth,
    /// By deadline, then by the order in which they were set.
    timers: BTreeMap<(Instant, u64), Deed>,
    timers_set: u64,
    seeds: BTreeSet<NodeId>,
    /// Calls under way: nobody is asked twice at the same time.
    asking: BTreeSet<NodeId>,
    /// Foca probes. Not so while it knows nobody, or was held for dead a moment ago.
    is_connected: bool,
    has_left: bool,
    /// Whom the current probe asks, until it is answered.
    probing: Option<NodeId>,
    /// The states of all but ourselves, with their beginnings.
    states: BTreeMap<NodeId, (Life, MemberState, Instant)>,
    started: Instant,
    /// Facts have changed that the view shows.
    is_view_stale: bool,
    view: watch::Sender<Arc<View>>,
}

/// More news than a node has of itself in one life.
const REVISIONS_PER_RESURRECTION: u64 = 1 << 32;

impl Driver {
    pub(crate) fn new(
        runtime: Runtime,
        transport: Arc<dyn Transport>,
        me: MemberInfo,
        settings: MembershipSettings,
        counters: Arc<Counters>,
        commands: mpsc::WeakSender<Command>,
    ) -> (Self, watch::Receiver<Arc<View>>) {
        let life = Life { node: me.node, generation: me.generation, resurrections: 0 };
        let facts = Facts::new(me.node);
        let me = Fact { revision: 1, info: Arc::new(me) };
        facts.set_own(me.clone());
        let foca = Foca::with_custom_broadcast(
            life,
            settings.foca(),
            FocaRng(runtime.rng()),
            foca::PostcardCodec,
            FactBroadcasts(facts.clone()),
        );
        let (view, receiver) = watch::channel(Arc::new(View::default()));
        let mut driver = Self {
            rng: runtime.rng(),
            started: runtime.now(),
            runtime,
            transport,
            foca,
            settings,
            counters,
            commands,
            me,
            facts,
            health: LocalHealth::default(),
            timers: BTreeMap::new(),
            timers_set: 0,
            seeds: BTreeSet::new(),
            asking: BTreeSet::new(),
            is_connected: false,
            has_left: false,
            probing: None,
            states: BTreeMap::new(),
            is_view_stale: false,
            view,
        };
        driver.set_timer(driver.settings.sync_every, Deed::Sync);
        driver.set_timer(driver.settings.search_every, Deed::Search);
        driver.publish();
        (driver, receiver)
    }

    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>) {
        loop {
            // Also under a flood of frames: what is due is done first.
            while let Some(first) = self.timers.first_entry() {
                let (deadline, _) = *first.key();
                let late = self.runtime.now().saturating_since(deadline);
                if self.runtime.now() < deadline {
                    break;
                }
                let deed = first.remove();
                self.do_deed(deed, late);
                self.settle();
            }
            let next = self.timers.first_key_value().map(|((deadline, _), _)| *deadline);
            // Two timers repeat for ever, so there always is a next.
            let sleep = self.runtime.sleep_until(next.unwrap_or(self.runtime.now()));
            tokio::select! {
                biased;
                command = commands.recv() => {
                    let Some(command) = command else { return };
                    self.obey(command);
                    self.settle();
                }
                () = sleep => {}
            }
        }
    }

    fn set_timer(&mut self, after: Duration, deed: Deed) {
        self.timers_set += 1;
        self.timers.insert((self.runtime.now() + after, self.timers_set), deed);
    }

    fn obey(&mut self, command: Command) {
        match command {
            Command::Received { frame } if !self.has_left => self.receive(*frame),
            Command::Received { .. } => {}
            Command::Join { seeds } => {
                let own = self.me.info.node;
                self.seeds.extend(seeds.into_iter().filter(|seed| *seed != own));
                self.search();
            }
            Command::Update { me } => {
                let MemberInfo { node, generation, .. } = *self.me.info;
                self.tell(MemberInfo { node, generation, ..*me });
            }
            Command::Forget { node } => {
                if self.states.get(&node).is_some_and(|(_, state, _)| *state == MemberState::Dead) {
                    self.states.remove(&node);
                    self.facts.forget(&node);
                    self.seeds.remove(&node);
                    self.is_view_stale = true;
                }
            }
            Command::Leave { done } => {
                if !self.has_left {
                    self.with_foca(|foca, out| foca.leave_cluster(out));
                    self.has_left = true;
                }
                // Whoever asked may have stopped waiting.
                let _ = done.send(());
            }
            Command::SyncAsked { request, reply } => {
                let SyncRequest { me, known } = *request;
                // The asker is new to us or has changed: the others want to know, too.
                if self.facts.learn(me.clone()) {
                    self.spread(&me);
                }
                // The asker may have given up.
                let _ = reply.send(SyncReply {
                    me: *self.foca.identity(),
                    facts: self.facts.newer_than(&known),
                    members: self.foca.iter_members().cloned().collect(),
                });
            }
            Command::SyncAnswered { peer, reply } => {
                self.asking.remove(&peer);
                if let Some(reply) = reply.filter(|_| !self.has_left) {
                    self.take_notes(*reply);
                }
            }
        }
    }

    fn receive(&mut self, frame: Frame) {
        let own = *self.foca.identity();
        if frame.suspects.contains(&own) {
            self.health.suspected();
        }
        if frame.is_ack && self.probing.take().is_some() {
            self.health.probe_answered();
        }
        tracing::trace!(src = ?frame.src, "frame");
        let packet = frame.packet;
        self.with_foca(|foca, out| foca.handle_data(&packet, out));
    }

    fn take_notes(&mut self, reply: SyncReply) {
        for fact in reply.facts {
            self.facts.learn(fact);
        }
        // Addresses first: foca speaks to whom it hears of.
        self.tell_addresses();
        let (seed, members) = (reply.me, reply.members);
        self.with_foca(|foca, mut out| {
            foca.apply_many(members.into_iter(), false, &mut out)?;
            foca.announce(seed, out)
        });
    }

    fn do_deed(&mut self, deed: Deed, late: Duration) {
        match deed {
            Deed::Foca(timer) => {
                if matches!(timer, Timer::ProbeRandomMember(_)) {
                    // Late by a probe's whole time-out: we would not have heard an answer.
                    if late > self.settings.probe_timeout {
                        self.health.timer_was_late();
                    }
                    if let Some(silent) = self.probing.take() {
                        count(&self.counters.probes_unanswered);
                        self.health.probe_unanswered(silent);
                    }
                }
                self.with_foca(|foca, out| foca.handle_timer(timer, out));
            }
            Deed::Sync => {
                let others: Vec<NodeId> = self.foca.iter_members().map(|member| member.id().node).collect();
                if let Some(other) = others.choose(&mut self.rng) {
                    self.ask(*other);
                }
                let after = self.jittered(self.settings.sync_every);
                self.set_timer(after, Deed::Sync);
            }
            Deed::Search => {
                if !self.is_connected || self.foca.num_members() == 0 {
                    self.search();
                }
                let after = self.jittered(self.settings.search_every);
                self.set_timer(after, Deed::Search);
            }
        }
    }

    /// Between 0.75 and 1.25 of `period`, so that nodes which started together do not act
    /// together.
    fn jittered(&mut self, period: Duration) -> Duration {
        period.mul_f64(self.rng.random_range(0.75..1.25))
    }

    /// Compares notes with some of those who are or were known.
    fn search(&mut self) {
        let mut known: BTreeSet<NodeId> = self.facts.nodes().into_iter().collect();
        known.extend(&self.seeds);
        known.remove(&self.me.info.node);
        let known: Vec<NodeId> = known.into_iter().collect();
        let chosen: Vec<NodeId> = known.choose_multiple(&mut self.rng, SEARCHED_AT_ONCE).copied().collect();
        for node in chosen {
            self.ask(node);
        }
    }

    fn ask(&mut self, peer: NodeId) {
        if self.has_left || !self.asking.insert(peer) {
            return;
        }
        let request = SyncRequest { me: self.me.clone(), known: self.facts.versions() };
        let (transport, commands) = (self.transport.clone(), self.commands.clone());
        // Not waited for: its answer comes back as a command.
        drop(self.runtime.spawn("membership sync", async move {
            let reply = sync::ask(transport, peer, request).await.map(Box::new);
            if let Some(commands) = commands.upgrade() {
                // A driver that is gone needs no answer.
                let _ = commands.send(Command::SyncAnswered { peer, reply }).await;
            }
        }));
    }

    fn spread(&mut self, fact: &Fact) {
        if let Err(error) = self.foca.add_broadcast(&fact.encode()) {
            // Its size was checked.
            tracing::error!(%error, "facts about a member were not spread");
        }
    }

    /// Runs foca, then does what it wants done.
    fn with_foca(&mut self, step: impl FnOnce(&mut Core, &mut Out) -> Result<(), foca::Error>) {
        let mut out = Out::default();
        match step(&mut self.foca, &mut out) {
            Ok(()) => {}
            Err(foca::Error::Encode(_) | foca::Error::NotConnected | foca::Error::IncompleteProbeCycle) => {
                tracing::error!("the membership protocol stumbled; it recovers at its next probe");
            }
            Err(error) => {
                count(&self.counters.frames_refused);
                tracing::debug!(%error, "a member's packet was refused");
            }
        }
        for (to, packet) in out.packets {
            if let Some(probed) = probed_by(&packet) {
                self.probing = Some(probed);
            }
            count(&self.counters.frames_sent);
            self.transport.send(to.node, Protocol::Membership, frame(&packet));
        }
        for (timer, after) in out.timers {
            let stretched = match &timer {
                Timer::ProbeRandomMember(_)
                | Timer::SendIndirectProbe { .. }
                | Timer::ChangeSuspectToDown { .. } => self.health.stretch(after),
                _ => after,
            };
            self.set_timer(stretched, Deed::Foca(timer));
        }
        for event in out.events {
            match event {
                Event::Active => self.is_connected = true,
                Event::Idle => self.is_connected = false,
                Event::Rejoined(life) => {
                    count(&self.counters.resurrections);
                    self.is_connected = false;
                    if life.generation != self.me.info.generation {
                        // They may hold news of this very generation, from before.
                        self.me.revision += REVISIONS_PER_RESURRECTION;
                        let info = MemberInfo { generation: life.generation, ..(*self.me.info).clone() };
                        self.tell(info);
                    }
                    tracing::info!("others held this node for dead; it joins them again");
                }
                Event::Up(life) => {
                    // Heard of, and nothing known: ask itself, or whoever may know.
                    if self.facts.info_of(&life.node).is_none_or(|info| info.generation < life.generation) {
                        self.ask(life.node);
                    }
                }
            }
        }
    }

    /// What this node says of itself from here on.
    fn tell(&mut self, info: MemberInfo) {
        self.me = Fact { revision: self.me.revision + 1, info: Arc::new(info) };
        self.facts.set_own(self.me.clone());
        self.spread(&self.me.clone());
        self.is_view_stale = true;
    }

    /// After every step: what was learned is told to the transport and to the view.
    fn settle(&mut self) {
        self.tell_addresses();
        self.counters.local_health.store(u64::from(self.health.score()), Ordering::Relaxed);
        if self.is_view_stale || self.has_state_changed() {
            self.is_view_stale = false;
            self.publish();
        }
    }

    fn tell_addresses(&mut self) {
        for node in self.facts.take_fresh() {
            self.is_view_stale = true;
            if let Some(info) = self.facts.info_of(&node) {
                self.transport.set_addresses(node, info.addresses.clone());
            }
        }
    }

    /// Whether foca sees anyone otherwise than `states` does. Foca tells of arrivals and
    /// deaths, not of suspicions, so after each step all members are looked at.
    fn has_state_changed(&self) -> bool {
        let known = |member: &foca::Member<Life>| {
            let state = self.states.get(&member.id().node);
            state.is_some_and(|(life, state, _)| life == member.id() && *state == state_of(member))
        };
        let active = self.states.values().filter(|(_, state, _)| *state != MemberState::Dead).count();
        self.foca.num_members() != active || !self.foca.iter_members().all(known)
    }

    fn publish(&mut self) {
        let now = self.runtime.now();
        let mut active: BTreeMap<NodeId, (Life, MemberState)> = BTreeMap::new();
        for member in self.foca.iter_members() {
            let state = if member.state() == foca::State::Suspect {
                MemberState::Suspect
            } else {
                MemberState::Alive
            };
            active.insert(member.id().node, (*member.id(), state));
        }
        for (node, (life, state, since)) in &mut self.states {
            let (life_now, state_now) = active.remove(node).unwrap_or((*life, MemberState::Dead));
            if *state != state_now || life.generation != life_now.generation {
                tracing::info!(?node, from = ?*state, to = ?state_now, "member");
                *since = now;
            }
            (*life, *state) = (life_now, state_now);
        }
        for (node, (life, state)) in active {
            tracing::info!(?node, to = ?state, "new member");
            self.states.insert(node, (life, state, now));
        }
        let own = *self.foca.identity();
        let states = self.states.iter().map(|(node, state)| (*node, *state));
        let states = states.chain([(own.node, (own, MemberState::Alive, self.started))]);
        let former = self.view.borrow().clone();
        let member = |(node, (life, state, since)): (NodeId, (Life, MemberState, Instant))| {
            let info = self.facts.info_of(&node);
            (node, Member { node, generation: life.generation, state, since, info })
        };
        let view = View { members: states.map(member).collect() };
        if view != *former {
            self.view.send_replace(Arc::new(view));
        }
    }
}

fn state_of(member: &foca::Member<Life>) -> MemberState {
    match member.state() {
        foca::State::Alive => MemberState::Alive,
        foca::State::Suspect => MemberState::Suspect,
        foca::State::Down => MemberState::Dead,
    }
}

enum Event {
    Active,
    Idle,
    Rejoined(Life),
    Up(Life),
}

/// What foca wants done, collected during one step.
#[derive(Default)]
struct Out {
    packets: Vec<(Life, Vec<u8>)>,
    timers: Vec<(Timer<Life>, Duration)>,
    events: Vec<Event>,
}

impl foca::Runtime<Life> for Out {
    fn notify(&mut self, notification: Notification<'_, Life>) {
        let event = match notification {
            Notification::Active => Event::Active,
            Notification::Idle | Notification::Defunct => Event::Idle,
            Notification::Rejoin(life) => Event::Rejoined(*life),
            Notification::MemberUp(life) | Notification::Rename(_, life) => Event::Up(*life),
            Notification::MemberDown(_) => return,
        };
        self.events.push(event);
    }

    fn send_to(&mut self, to: Life, data: &[u8]) {
        self.packets.push((to, data.to_vec()));
    }

    fn submit_after(&mut self, timer: Timer<Life>, after: Duration) {
        self.timers.push((timer, after));
    }
}

/// Our generator in the trait of the generation that foca wants.
struct FocaRng(StdRng);

impl rand_core::TryRng for FocaRng {
    type Error = std::convert::Infallible;

    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok(self.0.next_u32())
    }

    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        Ok(self.0.next_u64())
    }

    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        self.0.fill_bytes(bytes);
        Ok(())
    }
}
