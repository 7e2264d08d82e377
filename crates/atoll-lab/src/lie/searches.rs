//! Searches in a network without structure whose liars answer every query with something that
//! they do not have, and let none pass. Where neighbours keep each other's indexes they put it
//! there, too, so that honest neighbours say it for them. What they say they sign themselves, for
//! nobody believes what is not signed; so a false hit is one whose content is not what was searched.

use std::{sync::Arc, time::Duration};

use atoll_overlay::{
    Answer, AuthorKey, Body, Content, Id, Notification, Offered, Overlay, Unstructured, UnstructuredConfig,
    UnstructuredMessage, Wanted,
};
use atoll_types::Instant;
use rand::{
    Rng,
    rngs::StdRng,
    seq::{IndexedRandom, index},
};

use super::LieParameters;
use crate::{
    columns::{Column, Row},
    experiment::{WALL, share},
    search::{SearchMethod, SearchParameters, author_of},
    spread::{Graph, random_graph},
    world::{Core, Links, OutOf, SimulatedContact, World, stream},
};

/// An honest node, or a liar.
struct Node {
    core: Unstructured<SimulatedContact>,
    /// Of a liar: what it signs with.
    liar: Option<AuthorKey>,
    /// The query that it lied to last: like others it answers each once.
    lied_to: u64,
}

impl Node {
    /// "I have that."
    fn lie(
        &mut self,
        message: &UnstructuredMessage<SimulatedContact>,
    ) -> Option<UnstructuredMessage<SimulatedContact>> {
        let author = self.liar.as_ref()?;
        let (query, wanted) = match message {
            UnstructuredMessage::Flood { query, wanted, .. }
            | UnstructuredMessage::Walk { query, wanted, .. } => (*query, wanted),
            _ => return None,
        };
        let Wanted::Words(words) = wanted else { return None };
        if std::mem::replace(&mut self.lied_to, query) == query {
            return None;
        }
        let name = words.join(" ");
        let content = false_content(&name);
        let expires = WALL + Duration::from_secs(3600);
        let entry = author.sign(Id::of(name.as_bytes()), 1, expires, Body::Posting { content, name });
        Some(UnstructuredMessage::Hit { query, entries: vec![entry] })
    }
}

/// What liars say that something with this name is.
fn false_content(name: &str) -> Id {
    Id::of(&[b"false ", name.as_bytes()].concat())
}

impl Core for Node {
    type Message = UnstructuredMessage<SimulatedContact>;
    type Notification = Notification<SimulatedContact>;

    fn handle_message(
        &mut self,
        now: Instant,
        rng: &mut StdRng,
        from: SimulatedContact,
        message: Self::Message,
        out: &mut OutOf<Self>,
    ) {
        let is_query =
            matches!(message, UnstructuredMessage::Flood { .. } | UnstructuredMessage::Walk { .. });
        match self.lie(&message) {
            Some(lie) => out.sends.push((from, lie)),
            None if is_query && self.liar.is_some() => {}
            None => Overlay::handle_message(&mut self.core, now, rng, from, message, out),
        }
    }

    fn handle_timeout(&mut self, now: Instant, rng: &mut StdRng, out: &mut OutOf<Self>) {
        Overlay::handle_timeout(&mut self.core, now, rng, out);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        Overlay::poll_timeout(&self.core)
    }

    fn state_bytes(&self) -> usize {
        Overlay::state_bytes(&self.core)
    }
}

/// Searches for what honest nodes have at honest nodes: those that end with their first hit, and
/// those that wait for more.
pub(super) fn searches(
    seed: u64,
    parameters: &LieParameters,
    nodes: usize,
    lying_share: f64,
    method: SearchMethod,
) -> Row {
    let row = Row::default()
        .with(Column::Overlay, "random")
        .with(Column::Method, method.name())
        .with(Column::Nodes, nodes)
        .with(Column::Connections, parameters.connections.0)
        .with(Column::LyingShare, lying_share)
        .with(Column::HolderShare, parameters.holder_share.0);
    let graph = random_graph(nodes, parameters.connections.0, seed);
    let mut rng = stream(seed, "liars");
    let liars = index::sample(&mut rng, nodes, (lying_share * nodes as f64).round() as usize);
    let mut is_liar = vec![false; nodes];
    liars.iter().for_each(|liar| is_liar[liar] = true);
    if is_liar.iter().all(|is_liar| *is_liar) {
        // Nobody is left to ask.
        return row;
    }
    let without_a_true_one = |enough| {
        let missing = missing(seed, parameters, &graph, &is_liar, method, enough);
        share(missing as f64, parameters.searches.0)
    };
    row.with(Column::Searches, parameters.searches.0)
        .with_some(Column::FalseFirstShare, without_a_true_one(1))
        .with_some(Column::MissingShare, without_a_true_one(UnstructuredConfig::default().enough))
}

/// How many searches, of which each ends with so many hits, have no true one among them.
fn missing(
    seed: u64,
    parameters: &LieParameters,
    graph: &Graph,
    is_liar: &[bool],
    method: SearchMethod,
    enough: usize,
) -> usize {
    let style = method.styles(&SearchParameters::default()).pop().expect("at least one");
    let index_neighbours = method == SearchMethod::WalkIndexed;
    let config =
        Arc::new(UnstructuredConfig { style, index_neighbours, enough, ..UnstructuredConfig::default() });
    let mut world: World<Node> = World::new(seed, Links::default());
    let (mut honest, mut poisoners) = (Vec::new(), Vec::new());
    for (neighbours, is_liar) in graph.iter().zip(is_liar) {
        let me = world.next_contact();
        let author = author_of(me);
        let mut core = Unstructured::linked(me, author.clone(), config.clone(), neighbours.clone());
        core.set_clock(Instant::ORIGIN, WALL);
        core.freeze();
        match is_liar {
            false => honest.push(me),
            true if index_neighbours => poisoners.push(me),
            true => {}
        }
        world.add(Node { core, liar: is_liar.then_some(author), lied_to: 0 });
    }
    let holders = ((parameters.holder_share.0 * graph.len() as f64).round() as usize).clamp(1, honest.len());
    let mut rng = stream(seed, "searches");
    let mut missing = 0;
    for number in 0..parameters.searches.0 {
        let asker = honest[rng.random_range(0..honest.len())];
        let name = format!("thing{number} of{number}");
        let content = Id::of(name.as_bytes());
        let holders: Vec<SimulatedContact> = honest.choose_multiple(&mut rng, holders).copied().collect();
        let (of_holders, of_poisoners) = (
            holders.iter().map(|holder| (*holder, content)),
            poisoners.iter().map(|liar| (*liar, false_content(&name))),
        );
        let provided: Vec<(SimulatedContact, Id)> = of_holders.chain(of_poisoners).collect();
        for (provider, content) in &provided {
            let offered = Offered { content: *content, name: name.clone() };
            world
                .with(*provider, |node, now, rng, out| node.core.provide(now, rng, offered, out))
                .expect("one thing at a time");
        }
        world.run_until_quiet();
        world.take_reports();
        world
            .with(asker, |node, now, rng, out| node.core.search(now, rng, &name, out))
            .expect("it has one search at a time");
        world.run_until_quiet();
        let is_true = |notification: &Notification<SimulatedContact>| match notification {
            Notification::OperationFinished(finished) => match &finished.outcome {
                Ok(Answer::Hits(hits)) => hits.iter().any(
                    |hit| matches!(&hit.body, Body::Posting { content: found, .. } if *found == content),
                ),
                _ => false,
            },
            _ => false,
        };
        missing += usize::from(!world.take_reports().iter().any(|report| is_true(&report.notification)));
        for (provider, content) in provided {
            world.with(provider, |node, _, _, _| node.core.stop_providing(content));
        }
    }
    missing
}
