//! Experiment *search*: finding something by the words of its name, that some of the nodes have;
//! and what each search costs if publishing and upkeep are counted too.
//!
//! In networks without structure each search ends with the first hit, as in Lv, Cao, Cohen, Li,
//! Shenker, *Search and replication in unstructured peer-to-peer networks*, ICS 2002, and nobody
//! remembers what goes by, so that each meets the network as it was. Kinds with an index are
//! asked as their users would.
//!
//! Searches are measured in a network without upkeep, and upkeep in one without searches, where
//! each node provides one thing, and renews it as it has to. Both are put together for nodes that
//! publish something every so often, for which there are so many queries each.

mod network;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use atoll_overlay::{AuthorKey, Contact, Content, SearchStyle, Unstructured, UnstructuredConfig};
use atoll_types::Instant;

use self::network::{Searched, Upkeep, search_all, upkeep};
use crate::{
    columns::{Column, Row},
    experiment::{Progress, Report, Setup, WALL, content_network, hold_still},
    kinds::{Kind, Recipe, Settings, Task},
    page::Plot,
    parameters::{Share, Within, parameters, words},
    plot::Scale,
    spread::{Graph, random_graph},
    world::{Links, SimulatedContact, World},
};

/// A way to search in a network without structure.
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
    /// The same, and each node answers for its neighbours too.
    WalkIndexed,
}

words!(SearchMethod {
    Flood "flood", FloodBest "flood-best", Ring "ring", Walk "walk", WalkIndexed "walk-indexed"
});

parameters! {
    pub struct SearchParameters {
        /// Kinds with an index.
        pub overlays: Vec<Kind> = Kind::ALL.to_vec(),
        /// In a random graph: flood, flood-best (with the least TTL that finds something), ring,
        /// walk, walk-indexed (where nodes answer for their neighbours too).
        pub methods: Vec<SearchMethod> = SearchMethod::ALL.to_vec(),
        /// Sizes of the network.
        pub nodes: Vec<Within<2, 1_000_000>> = vec![Within(10_000)],
        /// Neighbours of a node in the random graph, on average; they are mutual.
        pub connections: Within<1, 512> = Within(5),
        /// Shares of the nodes that have what is searched.
        pub holder_shares: Vec<Share> = [0.0005, 0.0025, 0.01].map(Share).to_vec(),
        /// Searches for each row, each for something else.
        pub searches: Within<1, 10_000> = Within(60),
        /// Words of a name; a search gives them all.
        pub words: Within<1, 8> = Within(2),
        /// How far a flood, and the last flood of an expanding ring, goes.
        pub ttl: Within<1, 7> = Within(7),
        /// Random walkers of one search.
        pub walkers: Within<1, 255> = Within(32),
        /// Every so many steps a walker asks whether to go on.
        pub check_every: Within<1, 100> = Within(4),
        /// How many searches there are for each thing that somebody publishes, a row for each.
        pub queries_per_publication: Vec<Within<1, 1_000_000>> = [10, 1].map(Within).to_vec(),
        /// A node publishes something every so often, in place of what it published before.
        pub publish_every_s: Within<1, 1_000_000> = Within(3_600),
        /// Upkeep is measured for so long. In half an hour what is provided is renewed once.
        pub upkeep_s: Within<1, 1_000_000> = Within(1_800),
        /// Whether networks with an index grow by joining, or are set up as if they had come to rest.
        /// A random graph is as it is drawn.
        pub setup: Setup = Setup::Grown,
        + pub settings: Settings,
    }
}

const LINES: &[Column] = &[Column::Overlay, Column::Method, Column::Nodes, Column::QueriesPerPublication];
/// What does not depend on how many queries there are.
const LINES_ALONE: &[Column] = &[Column::Overlay, Column::Method, Column::Nodes];

pub(crate) const PLOTS: &[Plot] = &[
    Plot {
        title: "Messages for a search, publishing and upkeep included",
        x: (Column::HolderShare, Scale::Logarithmic),
        y: (Column::AllMessagesMean, Scale::Logarithmic),
        by: LINES,
        theory: &[],
        model: None,
    },
    Plot {
        title: "Messages for a search alone",
        x: (Column::HolderShare, Scale::Logarithmic),
        y: (Column::SearchMessagesMean, Scale::Logarithmic),
        by: LINES_ALONE,
        theory: &[],
        model: None,
    },
    Plot {
        title: "Searches that find something",
        x: (Column::HolderShare, Scale::Logarithmic),
        y: (Column::FoundShare, Scale::Linear),
        by: LINES_ALONE,
        theory: &[],
        model: None,
    },
    Plot {
        title: "Time to the first hit",
        x: (Column::HolderShare, Scale::Logarithmic),
        y: (Column::FirstHitMsMean, Scale::Linear),
        by: LINES_ALONE,
        theory: &[],
        model: None,
    },
];

/// Searches each kind with an index, and a random graph by each method. `tell` hears what share
/// of the work is done.
pub fn search(seed: u64, parameters: SearchParameters, tell: &mut dyn FnMut(f64)) -> Report {
    let SearchParameters { overlays, methods, nodes, holder_shares, .. } = &parameters;
    let sizes: usize = nodes.iter().map(|nodes| nodes.0).sum();
    // Upkeep costs about as much as one share.
    let networks = (overlays.len() + methods.len()) * (holder_shares.len() + 1);
    let mut progress = Progress::new(tell, (sizes * networks) as f64);
    let mut rows = Vec::new();
    for &Within(nodes) in nodes {
        for &overlay in overlays {
            let row = Row::default().with(Column::Overlay, overlay.name()).with(Column::Nodes, nodes);
            let task = SearchKind { seed, nodes, parameters: &parameters, row, progress: &mut progress };
            rows.extend(overlay.run(&parameters.settings, task));
        }
        rows.extend(search_without_structure(seed, nodes, &parameters, &mut progress));
    }
    Report::new("search", seed, &parameters, rows)
}

struct SearchKind<'a, 'b> {
    seed: u64,
    nodes: usize,
    parameters: &'a SearchParameters,
    row: Row,
    progress: &'a mut Progress<'b>,
}

impl Task for SearchKind<'_, '_> {
    type Output = Vec<Row>;

    fn run<R: Recipe>(self, recipe: &R) -> Vec<Row> {
        let SearchKind { seed, nodes, parameters, row, progress } = self;
        let mut network = content_network(recipe, nodes, seed, parameters.setup, author_of);
        let upkeep = upkeep(network.clone(), Duration::from_secs(parameters.upkeep_s.0 as u64));
        progress.add(nodes as f64);
        hold_still(&mut network);
        let mut rows = Vec::new();
        for &Share(holder_share) in &parameters.holder_shares {
            let searched = search_all(vec![network.clone()], seed, parameters, holder_share);
            let row = row.clone().with(Column::HolderShare, holder_share);
            rows.extend(rows_of(&row, &searched, upkeep, parameters));
            progress.add(nodes as f64);
        }
        rows
    }
}

fn search_without_structure(
    seed: u64,
    nodes: usize,
    parameters: &SearchParameters,
    progress: &mut Progress,
) -> Vec<Row> {
    if parameters.methods.is_empty() {
        return Vec::new();
    }
    let graph = random_graph(nodes, parameters.connections.0, seed);
    let contacts = World::<Unstructured<SimulatedContact>>::contacts(seed, nodes);
    let authors: Vec<AuthorKey> = contacts.into_iter().map(author_of).collect();
    let random = |config| random_network(seed, &graph, &authors, config);
    let mut upkeeps: BTreeMap<bool, Upkeep> = BTreeMap::new();
    let mut rows = Vec::new();
    for &method in &parameters.methods {
        // How somebody searches makes no difference while nobody does.
        let index_neighbours = method == SearchMethod::WalkIndexed;
        let upkeep = *upkeeps.entry(index_neighbours).or_insert_with(|| {
            let config = UnstructuredConfig { index_neighbours, ..UnstructuredConfig::default() };
            upkeep(random(config), Duration::from_secs(parameters.upkeep_s.0 as u64))
        });
        progress.add(nodes as f64);
        for &Share(holder_share) in &parameters.holder_shares {
            let worlds = method.styles(parameters).into_iter().map(|style| {
                let mut world = random(UnstructuredConfig {
                    style,
                    index_neighbours,
                    enough: 1,
                    ..UnstructuredConfig::default()
                });
                world.freeze();
                world
            });
            let searched = search_all(worlds.collect(), seed, parameters, holder_share);
            let row = Row::default()
                .with(Column::Overlay, "random")
                .with(Column::Method, method.name())
                .with(Column::Nodes, nodes)
                .with(Column::Connections, parameters.connections.0)
                .with(Column::HolderShare, holder_share);
            rows.extend(rows_of(&row, &searched, upkeep, parameters));
            progress.add(nodes as f64);
        }
    }
    rows
}

/// One for each number of queries for a publication.
fn rows_of(row: &Row, searched: &Searched, upkeep: Upkeep, parameters: &SearchParameters) -> Vec<Row> {
    let Upkeep { per_second, bytes_per_node } = upkeep;
    let row = searched
        .add_to(row.clone())
        .with(Column::UpkeepMessagesPerNodeS, per_second.messages)
        .with(Column::UpkeepBytesPerNodeS, per_second.bytes)
        .with(Column::BytesPerNode, bytes_per_node);
    let publication =
        searched.publication().messages + per_second.messages * parameters.publish_every_s.0 as f64;
    let with_queries = |&Within(queries): &Within<1, 1_000_000>| {
        let all = searched.search().messages + publication / queries as f64;
        row.clone().with(Column::QueriesPerPublication, queries).with(Column::AllMessagesMean, all)
    };
    parameters.queries_per_publication.iter().map(with_queries).collect()
}

/// Each node signs with a key of its own, which follows from its identifier.
pub(crate) fn author_of(contact: SimulatedContact) -> AuthorKey {
    AuthorKey::from_seed(contact.id().into())
}

impl SearchMethod {
    /// Tried one after the other until something is found; only the last one counts.
    pub(crate) fn styles(self, parameters: &SearchParameters) -> Vec<SearchStyle> {
        let byte = |number: usize| u8::try_from(number).expect("at most 255");
        let ttl = byte(parameters.ttl.0);
        let flood = |ttl| SearchStyle::Flood { ttl };
        match self {
            SearchMethod::Flood => vec![flood(ttl)],
            SearchMethod::FloodBest => (1..=ttl).map(flood).collect(),
            SearchMethod::Ring => vec![SearchStyle::ExpandingRing { ttl_max: ttl }],
            SearchMethod::Walk | SearchMethod::WalkIndexed => {
                let (walkers, check_every) = (byte(parameters.walkers.0), byte(parameters.check_every.0));
                vec![SearchStyle::Walk { walkers, check_every }]
            }
        }
    }
}

fn random_network(
    seed: u64,
    graph: &Graph,
    authors: &[AuthorKey],
    config: UnstructuredConfig,
) -> World<Unstructured<SimulatedContact>> {
    let config = Arc::new(config);
    let mut world = World::new(seed, Links::default());
    for (neighbours, author) in graph.iter().zip(authors) {
        let me = world.next_contact();
        let mut node = Unstructured::linked(me, author.clone(), config.clone(), neighbours.clone());
        node.set_clock(Instant::ORIGIN, WALL);
        world.add(node);
    }
    world
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_method_finds_and_costs_what_it_should() {
        let parameters = SearchParameters {
            overlays: Vec::new(),
            nodes: vec![Within(500)],
            holder_shares: vec![Share(0.02)],
            searches: Within(10),
            upkeep_s: Within(60),
            queries_per_publication: vec![Within(10)],
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
        // A node and its five neighbours have something six times as often as one; but 32
        // walkers take four steps at least.
        assert!(messages(SearchMethod::WalkIndexed) < messages(SearchMethod::Walk));
        assert_eq!(of(SearchMethod::Walk, Column::PublishMessagesMean), 0.0);
        let publish = of(SearchMethod::WalkIndexed, Column::PublishMessagesMean);
        assert!((4.0..6.0).contains(&publish), "one for each neighbour: {publish}");
    }

    /// The design's aim, at ten queries for a publication, upkeep included.
    #[test]
    fn a_hybrid_finds_everything_with_fewer_messages_than_the_best_flood_and_the_best_walk() {
        let parameters = SearchParameters {
            overlays: vec![Kind::Hybrid],
            methods: vec![SearchMethod::FloodBest, SearchMethod::Walk, SearchMethod::WalkIndexed],
            nodes: vec![Within(1_000)],
            holder_shares: vec![Share(0.002), Share(0.01)],
            searches: Within(100),
            queries_per_publication: vec![Within(10)],
            ..SearchParameters::default()
        };
        let rows = search(3, parameters, &mut |_| ()).rows;
        let number = |row: &Row, column| row.number(column).expect("measured");
        let (hybrid, others) = rows.split_at(2);
        for row in hybrid {
            assert!(number(row, Column::FoundShare) >= 0.99);
            let share = number(row, Column::HolderShare);
            let all = number(row, Column::AllMessagesMean);
            for other in others.iter().filter(|other| number(other, Column::HolderShare) == share) {
                let least = number(other, Column::AllMessagesMean);
                assert!(all < least / 2.0, "{share}: {all}, {} {least}", other.shown(Column::Method));
            }
        }
    }

    /// A name of two words: its content and each word are looked up, and three nodes are asked
    /// whether they want it, and get it; a search looks each word up and asks two or three.
    #[test]
    fn posting_lists_find_everything_for_what_looking_up_costs() {
        let parameters = SearchParameters {
            methods: Vec::new(),
            nodes: vec![Within(300)],
            holder_shares: vec![Share(0.01)],
            searches: Within(10),
            ..SearchParameters::default()
        };
        let rows = search(3, parameters, &mut |_| ()).rows;
        assert_eq!(rows.len(), 2 * SearchParameters::default().overlays.len());
        for pair in rows.chunks(2) {
            let number = |index: usize, column| pair[index].number(column).expect("measured");
            let name = pair[0].shown(Column::Overlay);
            assert_eq!(number(0, Column::FoundShare), 1.0, "{name}");
            let all = [0, 1].map(|index| number(index, Column::AllMessagesMean));
            assert_eq!([0, 1].map(|index| number(index, Column::QueriesPerPublication)), [10.0, 1.0]);
            let search = number(0, Column::SearchMessagesMean);
            let publication =
                number(0, Column::PublishMessagesMean) + 3_600.0 * number(0, Column::UpkeepMessagesPerNodeS);
            for (all, queries) in all.into_iter().zip([10.0, 1.0]) {
                assert!((all - search - publication / queries).abs() < 0.01, "{name}: {all}");
            }
            if pair[0].shown(Column::Overlay) == Kind::Chord.name() {
                // Three entries, each to three nodes in four messages, less what a node has to do
                // itself; and three lookups of at most a dozen messages.
                let publish = number(0, Column::PublishMessagesMean);
                assert!((30.0..72.0).contains(&publish), "{publish}");
                // Two lookups, two to three questions each.
                assert!((8.0..36.0).contains(&search), "{search}");
            }
        }
    }
}
