//! Publishing and searching in one network, of whatever kind.

use std::time::Duration;

use atoll_overlay::{Answer, Content, Id, Notification, Offered};
use rand::{Rng, seq::index};
use serde::Serialize;

use super::SearchParameters;
use crate::{
    columns::{Column, Row},
    experiment::{micros, share},
    world::{SimulatedContact, Traffic, World, stream},
};

/// Until what was published is where it belongs.
const SETTLES_IN: Duration = Duration::from_secs(60);

/// Of something, on average.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Cost {
    pub(super) messages: f64,
    pub(super) bytes: f64,
}

impl Cost {
    fn mean(traffic: Traffic, count: usize) -> Self {
        let mean = |sum: u64| share(sum as f64, count).unwrap_or(0.0);
        Self { messages: mean(traffic.sent), bytes: mean(traffic.sent_bytes) }
    }
}

/// What it takes to keep a network in which each node provides one thing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Upkeep {
    /// Sent by a node.
    pub(super) per_second: Cost,
    pub(super) bytes_per_node: f64,
}

/// What searches of one network came to.
#[derive(Debug, Default)]
pub(super) struct Searched {
    searches: usize,
    /// Until the first hit, of those that found something.
    found_after: Vec<Duration>,
    searching: Traffic,
    publications: usize,
    publishing: Traffic,
}

impl Searched {
    pub(super) fn search(&self) -> Cost {
        Cost::mean(self.searching, self.searches)
    }

    pub(super) fn publication(&self) -> Cost {
        Cost::mean(self.publishing, self.publications)
    }

    pub(super) fn add_to(&self, row: Row) -> Row {
        let found_micros: u64 = self.found_after.iter().copied().map(micros).sum();
        row.with(Column::Searches, self.searches)
            .with_some(Column::FoundShare, share(self.found_after.len() as f64, self.searches))
            .with(Column::SearchMessagesMean, self.search().messages)
            .with(Column::SearchBytesMean, self.search().bytes)
            .with_some(Column::FirstHitMsMean, share(found_micros as f64 / 1000.0, self.found_after.len()))
            .with(Column::PublishMessagesMean, self.publication().messages)
    }
}

/// What a node sends in a second to keep the network, and in it what each provides, while nobody
/// searches.
pub(super) fn upkeep<O>(mut world: World<O>, duration: Duration) -> Upkeep
where
    O: Content<Contact = SimulatedContact, Message: Serialize>,
{
    let contacts: Vec<SimulatedContact> = world.living().map(|(contact, _)| contact).collect();
    for (number, contact) in contacts.iter().enumerate() {
        provide(&mut world, *contact, &format!("stock{number} of{number}"));
    }
    world.run(SETTLES_IN);
    let before = world.traffic();
    world.run(duration);
    let Cost { messages, bytes } = Cost::mean(world.traffic() - before, contacts.len());
    let seconds = duration.as_secs_f64();
    let per_second = Cost { messages: messages / seconds, bytes: bytes / seconds };
    Upkeep { per_second, bytes_per_node: world.bytes_per_node() }
}

/// Publishes something at a share of the nodes and searches it at one, again and again. The
/// worlds are tried one after the other until something is found, and the last one that was tried
/// counts.
pub(super) fn search_all<O>(
    mut worlds: Vec<World<O>>,
    seed: u64,
    parameters: &SearchParameters,
    holder_share: f64,
) -> Searched
where
    O: Content<Contact = SimulatedContact, Message: Serialize>,
{
    let contacts: Vec<SimulatedContact> = worlds[0].living().map(|(contact, _)| contact).collect();
    let holders = ((holder_share * contacts.len() as f64).round() as usize).clamp(1, contacts.len());
    let mut rng = stream(seed, "searches");
    let mut done = Searched { searches: parameters.searches.0, ..Searched::default() };
    for number in 0..parameters.searches.0 {
        let asker = contacts[rng.random_range(0..contacts.len())];
        let holders: Vec<SimulatedContact> = index::sample(&mut rng, contacts.len(), holders)
            .into_iter()
            .map(|index| contacts[index])
            .collect();
        let words: Vec<String> =
            (0..parameters.words.0).map(|word| format!("thing{number}word{word}")).collect();
        let last = worlds.len() - 1;
        for (round, world) in worlds.iter_mut().enumerate() {
            let once = search_once(world, asker, &holders, &words.join(" "));
            if once.found_after.is_some() || round == last {
                done.found_after.extend(once.found_after);
                done.searching += once.searching;
                done.publications += holders.len();
                done.publishing += once.publishing;
                break;
            }
        }
    }
    done
}

fn provide<O>(world: &mut World<O>, contact: SimulatedContact, name: &str)
where
    O: Content<Contact = SimulatedContact, Message: Serialize>,
{
    let offered = Offered { content: Id::of(name.as_bytes()), name: name.to_owned() };
    world
        .with(contact, |core, now, rng, out| core.provide(now, rng, offered, out))
        .expect("one thing at a time");
}

struct Once {
    found_after: Option<Duration>,
    searching: Traffic,
    publishing: Traffic,
}

fn search_once<O>(
    world: &mut World<O>,
    asker: SimulatedContact,
    holders: &[SimulatedContact],
    name: &str,
) -> Once
where
    O: Content<Contact = SimulatedContact, Message: Serialize>,
{
    let before = world.traffic();
    holders.iter().for_each(|holder| provide(world, *holder, name));
    world.run_until_quiet();
    world.take_reports();
    let (published, began) = (world.traffic(), world.now());
    world
        .with(asker, |core, now, rng, out| core.search(now, rng, name, out))
        .expect("it has one search at a time");
    // On to the last walker's last step: all of it is what the search costs.
    world.run_until_quiet();
    let ended = world.take_reports().into_iter().find_map(|reported| match reported.notification {
        Notification::OperationFinished(finished) => Some((reported.at, finished.outcome)),
        _ => None,
    });
    let found_after = match ended {
        Some((at, Ok(Answer::Hits(hits)))) if !hits.is_empty() => Some(at.saturating_since(began)),
        _ => None,
    };
    let searching = world.traffic() - published;
    for holder in holders {
        world.with(*holder, |core, _, _, _| core.stop_providing(Id::of(name.as_bytes())));
    }
    Once { found_after, searching, publishing: published - before }
}
