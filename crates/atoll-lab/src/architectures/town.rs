//! A network that things are published in, asked for, and lost from.

use std::{
    cell::Cell,
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, BinaryHeap},
    rc::Rc,
    time::Duration,
};

use atoll_overlay::{
    Answer, AuthorKey, Content, ContentError, Finished, Id, Notification, Offered, OperationId, Overlay,
};
use atoll_types::{Instant, NodeId, WallTime};
use rand::{Rng, rngs::StdRng, seq::index};

use super::{
    ArchitecturesParameters, Condition, RECOVERS_IN,
    resident::{Happened, Resident},
};
use crate::{
    columns::{Column, Row},
    experiment::{JOIN_EVERY, WALL, micros, percentile, share},
    kinds::{ContentRecipe, ContentTask},
    parameters::Within,
    sessions::Sessions,
    spread::SimulatedPayload,
    world::{Core, Links, Reported, SimulatedContact, Traffic, World, stream},
};

/// All that one network goes through.
pub(super) struct Life<'a> {
    pub(super) seed: u64,
    pub(super) nodes: usize,
    pub(super) parameters: &'a ArchitecturesParameters,
    pub(super) row: Row,
}

/// Between one publication and the next: some hundred in a few minutes.
const PUBLISH_EVERY: Duration = Duration::from_millis(200);
/// After the last one: retries have ended.
const PUBLISHED_WITHIN: Duration = Duration::from_secs(60);
/// Churn goes on for so long before anything is measured.
const CHURN_WARM_UP: Duration = Duration::from_secs(600);
/// Longer than any operation takes.
const ANSWERS_WITHIN: Duration = Duration::from_secs(60);
/// How often clocks are set: entries expire after an hour.
const CLOCK_EVERY: Duration = Duration::from_secs(60);
/// A message of a few hundred words.
const BROADCAST_BYTES: u32 = 1_000;

impl ContentTask for Life<'_> {
    type Output = Vec<Row>;

    fn run<R: ContentRecipe>(self, recipe: &R) -> Vec<Row> {
        let mut town = Town::grown(recipe, &self);
        town.publish();
        let mut rows = Vec::new();
        for &condition in Condition::ALL {
            match condition {
                Condition::Calm => {}
                Condition::Churn => {
                    town.begin_churn();
                    town.run(CHURN_WARM_UP);
                }
                Condition::CentreFails => {
                    town.end_churn();
                    town.fail_the_busiest(self.parameters.centre_share.0);
                }
                Condition::Recovered => town.run(RECOVERS_IN),
            }
            let row = self.row.clone().with(Column::Condition, condition.name());
            rows.push(town.measure(condition, row));
        }
        rows
    }
}

struct Thing {
    word: String,
    content: Id,
    /// Of nodes that live.
    holders: BTreeSet<SimulatedContact>,
}

struct Asked {
    at: Instant,
    thing: usize,
}

/// A broadcast.
struct Spreading {
    number: u32,
    began: Instant,
    /// Members then, without its source.
    others: Vec<SimulatedContact>,
    /// When it came to whom.
    reached: BTreeMap<SimulatedContact, Instant>,
}

/// How the operations of one condition ended.
#[derive(Default)]
struct Ends {
    begun: usize,
    found: usize,
    /// Of those that found something.
    answered_after_micros: Vec<u64>,
}

struct Town<'a, R: ContentRecipe> {
    recipe: &'a R,
    life: &'a Life<'a>,
    world: World<Resident<R::Core>>,
    /// What was sent for broadcasts.
    tally: Rc<Cell<Traffic>>,
    /// Those of the condition that is measured.
    spreading: Vec<Spreading>,
    /// All so far.
    broadcasts: u32,
    /// Whose signature is whose.
    authors: BTreeMap<NodeId, SimulatedContact>,
    /// Who has joined and lives.
    members: Vec<SimulatedContact>,
    joining: BTreeSet<SimulatedContact>,
    things: Vec<Thing>,
    asked: BTreeMap<(SimulatedContact, OperationId), Asked>,
    ends: Ends,
    /// While nodes come and go: when each goes, the earliest first.
    sessions: BinaryHeap<Reverse<(Instant, SimulatedContact)>>,
    /// What who is coming is to provide once it has joined.
    inherited: BTreeMap<SimulatedContact, Vec<usize>>,
    clocks_set_at: Instant,
    rng: StdRng,
}

impl<'a, R: ContentRecipe> Town<'a, R> {
    fn grown(recipe: &'a R, life: &'a Life<'a>) -> Self {
        let mut town = Town {
            recipe,
            life,
            world: World::new(life.seed, Links::default()),
            tally: Rc::default(),
            spreading: Vec::new(),
            broadcasts: 0,
            authors: BTreeMap::new(),
            members: Vec::new(),
            joining: BTreeSet::new(),
            things: Vec::new(),
            asked: BTreeMap::new(),
            ends: Ends::default(),
            sessions: BinaryHeap::new(),
            inherited: BTreeMap::new(),
            clocks_set_at: Instant::ORIGIN,
            rng: stream(life.seed, "town"),
        };
        town.world.weigh();
        for _ in 0..life.nodes {
            town.come();
            town.run(JOIN_EVERY);
        }
        town.run(recipe.rest());
        town
    }

    /// A node comes, and joins through one that is there.
    fn come(&mut self) -> SimulatedContact {
        let (now, wall) = (self.world.now(), self.wall());
        let author = AuthorKey::from_seed(self.rng.random());
        let id = author.author();
        let known = self.world.draw_living();
        let came = self.world.next_contact();
        let mut core = self.recipe.newcomer(came, author);
        core.set_clock(now, wall);
        self.world.add(Resident::new(core, self.tally.clone()));
        self.world.with(came, |node, now, rng, out| {
            node.act(out, |core, out| core.join(now, rng, known.as_slice(), out));
        });
        self.authors.insert(id, came);
        self.joining.insert(came);
        self.take_reports();
        came
    }

    fn wall(&self) -> WallTime {
        WALL + self.world.now().saturating_since(Instant::ORIGIN)
    }

    /// Each thing is published by all that hold it.
    fn publish(&mut self) {
        let ArchitecturesParameters { things, holders: Within(count), .. } = *self.life.parameters;
        for thing in 0..things.0 {
            let word = format!("thing{thing}");
            let content = Id::of(word.as_bytes());
            self.things.push(Thing { word, content, holders: BTreeSet::new() });
            let drawn = index::sample(&mut self.rng, self.members.len(), count.min(self.members.len()));
            let holders: Vec<SimulatedContact> = drawn.iter().map(|index| self.members[index]).collect();
            for holder in holders {
                self.provide(holder, thing);
                self.run(PUBLISH_EVERY);
            }
        }
        self.run(PUBLISHED_WITHIN);
    }

    fn provide(&mut self, holder: SimulatedContact, thing: usize) {
        let Thing { word, content, .. } = &self.things[thing];
        let offered = Offered { content: *content, name: word.clone() };
        // A node that has lost everybody refuses, and holds it unseen.
        let _ = self.world.with(holder, |node, now, rng, out| {
            node.act(out, |core, out| core.provide(now, rng, offered, out))
        });
        self.things[thing].holders.insert(holder);
    }

    fn begin_churn(&mut self) {
        let recipe = self.recipe;
        for contact in self.members.clone().into_iter().filter(|contact| !recipe.stays(*contact)) {
            let rest = Sessions::Exponential.rest(self.median(), &mut self.rng);
            self.sessions.push(Reverse((self.world.now() + rest, contact)));
        }
    }

    fn end_churn(&mut self) {
        self.sessions.clear();
    }

    fn median(&self) -> Duration {
        Duration::from_secs(self.life.parameters.session_median_s.0 as u64)
    }

    /// A node goes without a word. Another comes at once, and will hold what it held.
    fn replace(&mut self, gone: SimulatedContact) {
        let things = self.lose(gone);
        let came = self.come();
        self.inherited.insert(came, things);
        let whole = Sessions::Exponential.whole(self.median(), &mut self.rng);
        self.sessions.push(Reverse((self.world.now() + whole, came)));
    }

    /// Gives what it held.
    fn lose(&mut self, gone: SimulatedContact) -> Vec<usize> {
        self.world.fail(gone);
        self.members.retain(|member| *member != gone);
        self.joining.remove(&gone);
        // Nobody waits for its answers any more.
        let before = self.asked.len();
        self.asked.retain(|(asker, _), _| *asker != gone);
        self.ends.begun -= before - self.asked.len();
        let mut things = self.inherited.remove(&gone).unwrap_or_default();
        for (number, thing) in self.things.iter_mut().enumerate() {
            if thing.holders.remove(&gone) {
                things.push(number);
            }
        }
        things
    }

    /// The centre, whatever it is: those that sent and got most, all at once.
    fn fail_the_busiest(&mut self, share: f64) {
        let mut busiest: Vec<(u64, SimulatedContact)> =
            self.world.loads().map(|(contact, bytes)| (bytes, contact)).collect();
        busiest.sort_unstable();
        let failing = ((share * busiest.len() as f64).round() as usize).max(1);
        for (_, contact) in busiest.into_iter().rev().take(failing) {
            self.lose(contact);
        }
    }

    fn run(&mut self, duration: Duration) {
        let end = self.world.now() + duration;
        loop {
            let clocks = self.clocks_set_at + CLOCK_EVERY;
            let gone =
                self.sessions.peek().map(|Reverse(next)| *next).filter(|(at, _)| *at <= end.min(clocks));
            match gone {
                Some((at, contact)) => {
                    self.sessions.pop();
                    self.advance(at);
                    self.replace(contact);
                }
                None if clocks <= end => {
                    self.advance(clocks);
                    self.set_clocks();
                }
                None => return self.advance(end),
            }
        }
    }

    fn advance(&mut self, until: Instant) {
        self.world.run_until(until);
        self.take_reports();
    }

    fn set_clocks(&mut self) {
        self.clocks_set_at = self.world.now();
        let wall = self.wall();
        let all: Vec<SimulatedContact> = self.world.living().map(|(contact, _)| contact).collect();
        for contact in all {
            self.world.with(contact, |node, now, _, _| node.core.set_clock(now, wall));
        }
    }

    fn take_reports(&mut self) {
        for Reported { at, by, notification } in self.world.take_reports() {
            let notification = match notification {
                Happened::Overlay(notification) => notification,
                Happened::Delivered(delivered) => {
                    let number = delivered.payload.number();
                    let spreading = self.spreading.iter_mut().find(|one| one.number == number);
                    spreading.into_iter().for_each(|one| {
                        one.reached.entry(by).or_insert(at);
                    });
                    continue;
                }
            };
            match notification {
                Notification::Joined => {
                    if self.joining.remove(&by) {
                        self.members.push(by);
                        for thing in self.inherited.remove(&by).unwrap_or_default() {
                            self.provide(by, thing);
                        }
                    }
                }
                Notification::OperationFinished(finished) => self.ended(at, by, finished),
                Notification::JoinFailed | Notification::LookupFinished(_) => {}
            }
        }
    }

    /// Found is what somebody has who lives.
    fn ended(&mut self, at: Instant, by: SimulatedContact, finished: Finished<SimulatedContact>) {
        let Some(Asked { at: began, thing }) = self.asked.remove(&(by, finished.operation)) else { return };
        let (Ok(Answer::Hits(entries)) | Ok(Answer::Providers(entries))) = finished.outcome else { return };
        let holders = &self.things[thing].holders;
        if entries
            .iter()
            .any(|entry| self.authors.get(&entry.author).is_some_and(|who| holders.contains(who)))
        {
            self.ends.found += 1;
            self.ends.answered_after_micros.push(micros(at.saturating_since(began)));
        }
    }

    /// A drawn member asks for a drawn thing that somebody else has.
    fn ask(&mut self, for_providers: bool) {
        let there: Vec<usize> =
            (0..self.things.len()).filter(|thing| !self.things[*thing].holders.is_empty()).collect();
        if there.is_empty() || self.members.len() < 2 {
            return;
        }
        let thing = there[self.rng.random_range(0..there.len())];
        let asker = self.members[self.rng.random_range(0..self.members.len())];
        let Thing { word, content, .. } = &self.things[thing];
        let (word, content) = (word.clone(), *content);
        let begun: Result<OperationId, ContentError> = self.world.with(asker, |node, now, rng, out| {
            node.act(out, |core, out| match for_providers {
                true => core.providers(now, rng, content, out),
                false => core.search(now, rng, &word, out),
            })
        });
        self.ends.begun += 1;
        if let Ok(operation) = begun {
            self.asked.insert((asker, operation), Asked { at: self.world.now(), thing });
        }
        self.take_reports();
    }

    fn measure(&mut self, condition: Condition, mut row: Row) -> Row {
        let ArchitecturesParameters { operations_per_node, measured_s, broadcasts, .. } =
            self.life.parameters;
        let broadcasts = broadcasts.0 as u32;
        let operations = ((operations_per_node * self.life.nodes as f64).round() as u32).max(2);
        let measured = Duration::from_secs(measured_s.0 as u64);
        // What fails must be met by who asks, before upkeep has mended it.
        if condition != Condition::CentreFails {
            let (before, began) = (self.world.traffic(), self.world.now());
            self.run(measured);
            let [messages, bytes] = self.rates(before, began);
            row = row.with(Column::UpkeepMessagesPerNodeS, messages).with(Column::UpkeepBytesPerNodeS, bytes);
        }

        self.ends = Ends::default();
        self.asked.clear();
        let (before, began) = (self.world.traffic(), self.world.now());
        let loads_before: BTreeMap<SimulatedContact, u64> = self.world.loads().collect();
        let every = measured / operations;
        self.spreading.clear();
        let told_before = self.tally.get();
        for number in 0..operations {
            // Evenly among the operations; those of the first part are in time for all to have ended.
            let due =
                (number * broadcasts).div_ceil(operations)..((number + 1) * broadcasts).div_ceil(operations);
            due.for_each(|_| self.broadcast());
            self.ask(number % 2 == 0);
            self.run(every);
        }
        let sent = (self.world.traffic() - before).sent;
        let [_, bytes] = self.rates(before, began);
        let seconds = self.world.now().saturating_since(began).as_secs_f64();
        let loads: Vec<u64> = self
            .world
            .loads()
            .map(|(contact, load)| load - loads_before.get(&contact).copied().unwrap_or_default())
            .collect();
        let (busiest, all) = (loads.iter().copied().max().unwrap_or_default(), loads.iter().sum::<u64>());
        let waited_until = self.world.now() + ANSWERS_WITHIN;
        while !self.asked.is_empty() && self.world.now() < waited_until {
            self.run(Duration::from_millis(100));
        }

        let Ends { begun, found, answered_after_micros: mut after } = std::mem::take(&mut self.ends);
        after.sort_unstable();
        let states: Vec<usize> = self.world.living().map(|(_, node)| node.state_bytes()).collect();
        let contacts: usize = self.world.living().map(|(_, node)| node.core.contacts().len()).sum();
        let row = row
            .with(Column::Operations, begun)
            .with_some(Column::OperationsFoundShare, share(found as f64, begun))
            .with_some(Column::AnswerMsMean, share(after.iter().sum::<u64>() as f64 / 1000.0, after.len()))
            .with_some(Column::AnswerMsP99, percentile(&after, 99).map(|micros| micros as f64 / 1000.0))
            .with_some(Column::OperationMessagesMean, share(sent as f64, begun))
            .with(Column::TrafficBytesPerNodeS, bytes)
            .with(Column::BusiestBytesPerS, busiest as f64 / seconds)
            .with_some(
                Column::BusiestTimesMean,
                (all > 0).then(|| busiest as f64 * loads.len() as f64 / all as f64),
            )
            .with(Column::BytesPerNode, self.world.bytes_per_node())
            .with_some(Column::StateBytesMax, states.iter().copied().max())
            .with_some(Column::ContactsMean, share(contacts as f64, states.len()));
        self.reached(row, self.tally.get() - told_before)
    }

    /// Messages and bytes sent by a node in a second, since.
    fn rates(&self, before: Traffic, began: Instant) -> [f64; 2] {
        let traffic = self.world.traffic() - before;
        let node_seconds = self.life.nodes as f64 * self.world.now().saturating_since(began).as_secs_f64();
        [traffic.sent, traffic.sent_bytes].map(|sum| sum as f64 / node_seconds)
    }

    /// By inventories, from a drawn member, over whom nodes know when it comes to them.
    fn broadcast(&mut self) {
        if self.members.is_empty() {
            return;
        }
        let source = self.members[self.rng.random_range(0..self.members.len())];
        self.broadcasts += 1;
        let number = self.broadcasts;
        let payload = SimulatedPayload::new(number, BROADCAST_BYTES);
        let others: Vec<SimulatedContact> =
            self.members.iter().copied().filter(|member| *member != source).collect();
        let began = self.world.now();
        self.spreading.push(Spreading { number, began, others, reached: BTreeMap::new() });
        self.world.with(source, |node, now, rng, out| node.broadcast(now, rng, payload, out));
        self.take_reports();
    }

    /// How the broadcasts went; `told` is what was sent for them.
    fn reached(&self, row: Row, told: Traffic) -> Row {
        let (mut reached, mut last_ms) = (Vec::new(), Vec::new());
        let receivers: usize = self.spreading.iter().map(|one| one.others.len() + 1).sum();
        for Spreading { began, others, reached: by, .. } in &self.spreading {
            // Of those who were members then, and live.
            let others = others.iter().filter(|other| self.world.is_living(**other));
            let (mut count, mut heard, mut last) = (0_usize, 0_usize, *began);
            for other in others {
                count += 1;
                if let Some(at) = by.get(other) {
                    heard += 1;
                    last = last.max(*at);
                }
            }
            reached.extend(share(heard as f64, count));
            last_ms.extend((heard > 0).then(|| micros(last.saturating_since(*began)) as f64 / 1000.0));
        }
        let of = |sum: u64| share(sum as f64, receivers);
        row.with(Column::Broadcasts, self.spreading.len())
            .with_some(Column::ReachedShareMean, share(reached.iter().sum(), reached.len()))
            .with_some(Column::PayloadsPerNode, of(told.payloads))
            .with_some(Column::BroadcastMessagesPerNode, of(told.sent))
            .with_some(Column::BroadcastBytesPerNode, of(told.sent_bytes))
            .with_some(Column::LastMsMean, share(last_ms.iter().sum(), last_ms.len()))
    }
}
