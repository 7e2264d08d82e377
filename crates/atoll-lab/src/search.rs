//! Experiment *search*: finding something by a word of its name, that some of the nodes have.
//!
//! So far in networks without structure: each search ends with the first hit, as in Lv, Cao,
//! Cohen, Li, Shenker, *Search and replication in unstructured peer-to-peer networks*, ICS 2002,
//! and nobody remembers what goes by, so that each meets the network as it was.

use std::{sync::Arc, time::Duration};

use atoll_overlay::{
    Answer, AuthorKey, Content, Id, Notification, Offered, Overlay, SearchStyle, Unstructured,
    UnstructuredConfig,
};
use atoll_types::{Instant, WallTime};
use rand::{Rng, seq::index};

use crate::{
    columns::{Column, Row},
    experiment::{Progress, Report, micros, share},
    page::Plot,
    parameters::{Share, Within, parameters, words},
    plot::Scale,
    spread::{Graph, random_graph},
    world::{Links, SimulatedContact, World, stream},
};

/// A way to search.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SearchMethod {
    /// Flooding with one TTL for all searches.
    Flood,
    /// Flooding as if an oracle told for each search the least TTL that finds something.
    FloodBest,
    /// Floods of growing TTL until something is found.
    Ring,
    /// Random walkers.
    Walk,
}

words!(SearchMethod { Flood "flood", FloodBest "flood-best", Ring "ring", Walk "walk" });

parameters! {
    pub struct SearchParameters {
        /// flood, flood-best (with the least TTL that finds something), ring, walk.
        pub methods: Vec<SearchMethod> = SearchMethod::ALL.to_vec(),
        /// Sizes of the network.
        pub nodes: Vec<Within<2, 1_000_000>> = vec![Within(10_000)],
        /// Neighbours of a node in the random graph, on average; they are mutual.
        pub connections: Within<1, 512> = Within(5),
        /// Shares of the nodes that have what is searched.
        pub holder_shares: Vec<Share> = [0.0005, 0.0025, 0.01].map(Share).to_vec(),
        /// Searches for each row, each for something else.
        pub searches: Within<1, 10_000> = Within(60),
        /// How far a flood, and the last flood of an expanding ring, goes.
        pub ttl: Within<1, 7> = Within(7),
        /// Random walkers of one search.
        pub walkers: Within<1, 255> = Within(32),
        /// Every so many steps a walker asks whether to go on.
        pub check_every: Within<1, 100> = Within(4),
    }
}

const LINES: &[Column] = &[Column::Method, Column::Nodes];

pub(crate) const PLOTS: &[Plot] = &[
    Plot {
        title: "Messages for a search",
        x: (Column::HolderShare, Scale::Logarithmic),
        y: (Column::SearchMessagesMean, Scale::Logarithmic),
        by: LINES,
        theory: &[],
        model: None,
    },
    Plot {
        title: "Searches that find something",
        x: (Column::HolderShare, Scale::Logarithmic),
        y: (Column::FoundShare, Scale::Linear),
        by: LINES,
        theory: &[],
        model: None,
    },
    Plot {
        title: "Time to the first hit",
        x: (Column::HolderShare, Scale::Logarithmic),
        y: (Column::FirstHitMsMean, Scale::Linear),
        by: LINES,
        theory: &[],
        model: None,
    },
];

/// Searches a random graph by each method. `tell` hears what share of the work is done.
pub fn search(seed: u64, parameters: SearchParameters, tell: &mut dyn FnMut(f64)) -> Report {
    let SearchParameters { methods, nodes, connections, holder_shares, .. } = &parameters;
    let sizes: usize = nodes.iter().map(|nodes| nodes.0).sum();
    let mut progress = Progress::new(tell, (sizes * holder_shares.len() * methods.len()) as f64);
    let mut rows = Vec::new();
    for &Within(nodes) in nodes {
        let graph = random_graph(nodes, connections.0, seed);
        for &Share(holder_share) in holder_shares {
            for &method in methods {
                let row = Row::default()
                    .with(Column::Overlay, "random")
                    .with(Column::Method, method.name())
                    .with(Column::Nodes, nodes)
                    .with(Column::Connections, connections.0)
                    .with(Column::HolderShare, holder_share);
                rows.push(measure(seed, &parameters, &graph, method, holder_share, row));
                progress.add(nodes as f64);
            }
        }
    }
    Report::new("search", seed, &parameters, rows)
}

type Net = World<Unstructured<SimulatedContact>>;

/// Any day.
const WALL: WallTime = WallTime::from_millis(1_800_000_000_000);

fn network(seed: u64, graph: &Graph, style: SearchStyle) -> Net {
    let config = Arc::new(UnstructuredConfig { style, enough: 1, ..UnstructuredConfig::default() });
    // One for all: who says that something is there makes no difference here, and keys are dear.
    let author = AuthorKey::from_seed([1; 32]);
    let mut world = World::new(seed, Links::default());
    for neighbours in graph {
        let me = world.next_contact();
        let mut node = Unstructured::linked(me, author.clone(), config.clone(), neighbours.clone());
        node.set_clock(Instant::ORIGIN, WALL);
        node.freeze();
        world.add(node);
    }
    world
}

/// What one search came to.
struct Searched {
    /// Until the first hit.
    found_after: Option<Duration>,
    messages: u64,
}

fn measure(
    seed: u64,
    parameters: &SearchParameters,
    graph: &Graph,
    method: SearchMethod,
    holder_share: f64,
    row: Row,
) -> Row {
    let byte = |number: usize| u8::try_from(number).expect("at most 255");
    let ttl = byte(parameters.ttl.0);
    let flood = |ttl| SearchStyle::Flood { ttl };
    let styles = match method {
        SearchMethod::Flood => vec![flood(ttl)],
        SearchMethod::FloodBest => (1..=ttl).map(flood).collect(),
        SearchMethod::Ring => vec![SearchStyle::ExpandingRing { ttl_max: ttl }],
        SearchMethod::Walk => {
            let (walkers, check_every) = (byte(parameters.walkers.0), byte(parameters.check_every.0));
            vec![SearchStyle::Walk { walkers, check_every }]
        }
    };
    let mut worlds: Vec<Net> = styles.into_iter().map(|style| network(seed, graph, style)).collect();
    let mut rng = stream(seed, "searches");
    let holders = ((holder_share * graph.len() as f64).round() as usize).clamp(1, graph.len());
    let mut done = Vec::new();
    for number in 0..parameters.searches.0 {
        let asker = rng.random_range(0..graph.len());
        let holders = index::sample(&mut rng, graph.len(), holders).into_vec();
        let word = format!("thing{number}");
        let last = worlds.len() - 1;
        for (round, world) in worlds.iter_mut().enumerate() {
            let searched = search_once(world, asker, &holders, &word);
            if searched.found_after.is_some() || round == last {
                done.push(searched);
                break;
            }
        }
    }
    let found: Vec<u64> = done.iter().filter_map(|searched| searched.found_after).map(micros).collect();
    let messages: u64 = done.iter().map(|searched| searched.messages).sum();
    row.with(Column::Searches, done.len())
        .with_some(Column::FoundShare, share(found.len() as f64, done.len()))
        .with_some(Column::SearchMessagesMean, share(messages as f64, done.len()))
        .with_some(Column::FirstHitMsMean, share(found.iter().sum::<u64>() as f64 / 1000.0, found.len()))
}

fn search_once(world: &mut Net, asker: usize, holders: &[usize], word: &str) -> Searched {
    let contacts: Vec<SimulatedContact> = world.living().map(|(contact, _)| contact).collect();
    let content = Id::of(word.as_bytes());
    for holder in holders {
        let offered = Offered { content, name: word.to_owned() };
        world
            .with(contacts[*holder], |core, now, rng, out| core.provide(now, rng, offered, out))
            .expect("one thing at a time");
    }
    world.take_reports();
    let (sent_before, began) = (world.traffic().sent, world.now());
    world
        .with(contacts[asker], |core, now, rng, out| core.search(now, rng, word, out))
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
    let messages = world.traffic().sent - sent_before;
    for holder in holders {
        world.with(contacts[*holder], |core, _, _, _| core.stop_providing(content));
    }
    Searched { found_after, messages }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_method_finds_and_costs_what_it_should() {
        let parameters = SearchParameters {
            nodes: vec![Within(500)],
            holder_shares: vec![Share(0.02)],
            searches: Within(10),
            ..SearchParameters::default()
        };
        let rows = search(3, parameters, &mut |_| ()).rows;
        let of = |method: SearchMethod, column| {
            let row = rows.iter().find(|row| row.shown(Column::Method) == method.name());
            row.and_then(|row| row.number(column)).expect("measured")
        };
        let messages = |method| of(method, Column::SearchMessagesMean);
        for method in SearchMethod::ALL.iter().copied() {
            assert!(of(method, Column::FoundShare) > 0.8, "{method:?}");
        }
        // A flood that reaches everybody goes over each link both ways, but for the way that it
        // came, 2,000; and again where a copy that gets farther comes later.
        let flood = messages(SearchMethod::Flood);
        assert!((2_000.0..5_000.0).contains(&flood), "{flood}");
        assert!(messages(SearchMethod::FloodBest) < messages(SearchMethod::Ring));
        assert!(messages(SearchMethod::Ring) < flood / 2.0);
        assert!(messages(SearchMethod::Walk) < flood / 2.0);
    }
}
