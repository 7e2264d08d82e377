//! Experiment *lie*: some nodes lie, all of them together, and the others look keys up.
//!
//! A liar has its place in the overlay as everybody has, drawn and not chosen, and does all
//! that upkeep asks of it. It lies about keys: whoever asks it for its way is sent to other
//! liars, who say the same, and what it answers for never belongs to anybody else. In a network
//! without structure it says to have whatever anybody searches, and passes nothing on.
//!
//! Other liars hide what they should keep. In a directory only those in the middle have a say, and
//! a key is whose they are told by others than peers; so there it is index nodes that lie.

mod hide;
mod liar;
mod searches;

use crate::{
    columns::{Column, Row},
    experiment::{Progress, Report, Setup, grow_network, hold_still, measure_among, network},
    kinds::{Kind, Recipe, Settings, Task},
    page::{Plot, Theory},
    parameters::{NodeCount, Share, Within, parameters},
    plot::Scale,
    search::SearchMethod,
    world::{Links, World},
};

pub(crate) use self::hide::Keeper;
use self::{
    hide::{Hide, Hiding},
    liar::WithLiars,
};

parameters! {
    pub struct LieParameters {
        /// The kinds to run.
        pub overlays: Vec<Kind> = Kind::ALL.to_vec(),
        /// Sizes of the network, liars included.
        pub nodes: Vec<NodeCount> = vec![NodeCount(2_000)],
        /// Lookups for each row.
        pub lookups: usize = 2_000,
        /// Shares of the nodes that lie.
        pub lying_shares: Vec<Share> = [0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5].map(Share).to_vec(),
        /// Disjoint paths of Kademlia's lookups, a row for each.
        pub paths: Vec<Within<1, 16>> = [1, 2, 4, 8].map(Within).to_vec(),
        /// How many of a directory's index nodes lie, a row for each.
        pub lying_indexes: Vec<Within<0, 16>> = [0, 1, 2].map(Within).to_vec(),
        /// How many of them a read asks at once, a row for each.
        pub reads: Vec<Within<1, 16>> = [1, 2, 3].map(Within).to_vec(),
        /// Values of which it is seen whether they are found there.
        pub values: Within<1, 10_000> = Within(300),
        /// Whether the network grows by joining, or is set up as if it had come to rest. Liars begin
        /// when it stands.
        pub setup: Setup = Setup::Grown,
        /// Networks that grow besides, in which liars lie from the beginning, to those who join,
        /// too: how many others each node knows then, a row for each. Such a network grows for each row.
        pub joined_through: Vec<Within<1, 8>> = Vec::new(),
        /// How a random graph is searched, a row for each: flood, ring, walk, walk-indexed.
        pub methods: Vec<SearchMethod> =
            vec![SearchMethod::Flood, SearchMethod::Walk, SearchMethod::WalkIndexed],
        /// Searches for each row, each for something else.
        pub searches: Within<1, 10_000> = Within(20),
        /// Neighbours of a node in the random graph, on average.
        pub connections: Within<1, 512> = Within(5),
        /// The share of the nodes that have what is searched.
        pub holder_share: Share = Share(0.0025),
        + pub settings: Settings,
    }
}

const LINES: &[Column] = &[Column::Overlay, Column::Nodes, Column::DisjointPaths];

pub(crate) const PLOTS: &[Plot] = &[
    Plot {
        title: "Lookups that fail",
        x: (Column::LyingShare, Scale::Linear),
        y: (Column::LookupsFailedShare, Scale::Linear),
        by: LINES,
        theory: &[],
        model: None,
    },
    Plot {
        title: "Values that liars hide",
        x: (Column::LyingShare, Scale::Linear),
        y: (Column::ValuesMissedShare, Scale::Linear),
        by: &[Column::Overlay, Column::Nodes],
        theory: &[Theory {
            label: "p³: all three that should keep it",
            when: (Column::Overlay, "chord"),
            of: |share| share.powi(3),
        }],
        model: None,
    },
    Plot {
        title: "Values that lying index nodes hide",
        x: (Column::LyingIndexes, Scale::Linear),
        y: (Column::ValuesMissedShare, Scale::Linear),
        by: &[Column::Overlay, Column::Nodes, Column::Reads],
        theory: &[],
        model: None,
    },
    Plot {
        title: "Messages for a lookup",
        x: (Column::LyingShare, Scale::Linear),
        y: (Column::MessagesMean, Scale::Linear),
        by: LINES,
        theory: &[],
        model: None,
    },
    Plot {
        title: "Searches whose first hit is false, or missing",
        x: (Column::LyingShare, Scale::Linear),
        y: (Column::FalseFirstShare, Scale::Linear),
        by: &[Column::Method, Column::Nodes],
        theory: &[],
        model: None,
    },
    Plot {
        title: "Searches with no true one among their hits",
        x: (Column::LyingShare, Scale::Linear),
        y: (Column::MissingShare, Scale::Linear),
        by: &[Column::Method, Column::Nodes],
        theory: &[],
        model: None,
    },
];

/// Looks keys of honest nodes up at honest nodes, and searches what they have.
pub fn lie(seed: u64, parameters: LieParameters, tell: &mut dyn FnMut(f64)) -> Report {
    let LieParameters { overlays, nodes, lying_shares, paths, joined_through, .. } = &parameters;
    // Only Kademlia has paths to choose.
    let runs: Vec<(Kind, Option<Within<1, 16>>)> = overlays
        .iter()
        .flat_map(|&overlay| match overlay {
            Kind::Kademlia => paths.iter().map(|paths| (overlay, Some(*paths))).collect(),
            Kind::Directory => Vec::new(),
            _ => vec![(overlay, None)],
        })
        .collect();
    let sizes: usize = nodes.iter().map(|nodes| nodes.0).sum();
    let keepers: Vec<Kind> = overlays.iter().copied().filter(|kind| *kind != Kind::Directory).collect();
    let is_with_indexes = usize::from(overlays.contains(&Kind::Directory));
    let of_indexes = is_with_indexes * parameters.lying_indexes.len() * parameters.reads.len();
    let rows_of_share = runs.len() * (1 + joined_through.len()) + keepers.len() + parameters.methods.len();
    let mut progress =
        Progress::new(tell, (sizes * (lying_shares.len() * rows_of_share + of_indexes)) as f64);
    let mut rows = Vec::new();
    for &NodeCount(nodes) in nodes {
        for &(overlay, paths) in &runs {
            let row = Row::default()
                .with(Column::Overlay, overlay.name())
                .with(Column::Nodes, nodes)
                .with_some(Column::DisjointPaths, paths.map(|paths| paths.0));
            let mut settings = parameters.settings.clone();
            settings.kademlia_disjoint_paths = paths.unwrap_or(settings.kademlia_disjoint_paths);
            let task = Lie { seed, nodes, parameters: &parameters, row, progress: &mut progress };
            rows.extend(overlay.run(&settings, task));
        }
        for overlay in &keepers {
            let row = Row::default().with(Column::Overlay, overlay.name()).with(Column::Nodes, nodes);
            let hiding = lying_shares
                .iter()
                .map(|&Share(share)| (Hiding::Share(share), row.clone().with(Column::LyingShare, share)));
            let (setup, values, hiding) = (parameters.setup, parameters.values.0, hiding.collect());
            let task = Hide { seed, nodes, setup, values, hiding, progress: &mut progress };
            rows.extend(overlay.run(&parameters.settings, task));
        }
        for (&method, &Share(lying_share)) in
            lying_shares.iter().flat_map(|share| parameters.methods.iter().map(move |method| (method, share)))
        {
            rows.push(searches::searches(seed, &parameters, nodes, lying_share, method));
            progress.add(nodes as f64);
        }
        if overlays.contains(&Kind::Directory) {
            rows.extend(hidden(seed, nodes, &parameters, &mut progress));
        }
    }
    Report::new("lie", seed, &parameters, rows)
}

/// A directory's rows.
fn hidden(seed: u64, nodes: usize, parameters: &LieParameters, progress: &mut Progress) -> Vec<Row> {
    let mut rows = Vec::new();
    for &Within(lying) in &parameters.lying_indexes {
        for &reads in &parameters.reads {
            let row = Row::default()
                .with(Column::Overlay, Kind::Directory.name())
                .with(Column::Nodes, nodes)
                .with(Column::LyingIndexes, lying)
                .with(Column::Reads, reads.0);
            let settings = Settings { directory_reads: reads, ..parameters.settings.clone() };
            let (setup, values) = (parameters.setup, parameters.values.0);
            let hiding = vec![(Hiding::FirstAppointed(lying), row)];
            rows.extend(
                Kind::Directory.run(&settings, Hide { seed, nodes, setup, values, hiding, progress }),
            );
        }
    }
    rows
}

struct Lie<'a, 'b> {
    seed: u64,
    nodes: usize,
    parameters: &'a LieParameters,
    row: Row,
    progress: &'a mut Progress<'b>,
}

impl Task for Lie<'_, '_> {
    type Output = Vec<Row>;

    fn run<R: Recipe>(self, recipe: &R) -> Vec<Row> {
        let Lie { seed, nodes, parameters, row, progress } = self;
        let LieParameters { lying_shares, joined_through, setup, .. } = parameters;
        let mut honest = network(recipe, nodes, seed, *setup);
        hold_still(&mut honest);
        let mut rows = Vec::new();
        for &Share(lying_share) in lying_shares {
            let recipe = WithLiars::new(recipe, lying_share);
            let mut measure = |mut world, row| {
                rows.push(measured(&recipe, &mut world, seed, parameters.lookups, row));
                progress.add(nodes as f64);
            };
            let row = row.clone().with(Column::LyingShare, lying_share);
            measure(honest.clone().remake(|_, core| recipe.node(core)), row.clone());
            for &Within(known) in joined_through {
                let recipe = WithLiars::new(recipe.honest, lying_share);
                let mut world = World::new(seed, Links::default());
                grow_network(&recipe, &mut world, nodes, known);
                hold_still(&mut world);
                measure(world, row.clone().with(Column::JoinedThrough, known));
            }
        }
        rows
    }
}

fn measured<'a, R: Recipe>(
    recipe: &WithLiars<'a, R>,
    world: &mut World<liar::Node<'a, R>>,
    seed: u64,
    lookups: usize,
    row: Row,
) -> Row {
    let is_honest = |contact| !recipe.is_liar(contact);
    if !world.living().any(|(contact, _)| is_honest(contact)) {
        // Nobody is left to ask.
        return row;
    }
    measure_among(recipe, world, seed, lookups, is_honest, row)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed(kind: Kind, lying_share: f64, paths: usize) -> f64 {
        let parameters = LieParameters {
            overlays: vec![kind],
            nodes: vec![NodeCount(1_000)],
            lying_shares: vec![Share(lying_share)],
            paths: vec![Within(paths)],
            lookups: 300,
            methods: Vec::new(),
            setup: Setup::Converged,
            ..LieParameters::default()
        };
        let rows = lie(1, parameters, &mut |_| ()).rows;
        rows[0].number(Column::LookupsFailedShare).expect("lookups were made")
    }

    #[test]
    fn liars_lead_lookups_astray() {
        assert_eq!(failed(Kind::Chord, 0.0, 1), 0.0);
        // Two of three steps on average are asked of nodes that may lie: 1 − 0.8² at least.
        assert!(failed(Kind::Chord, 0.2, 1) > 0.36);
        assert!(failed(Kind::Kademlia, 0.7, 1) > failed(Kind::Kademlia, 0.2, 1));
    }

    /// Of three, one in the first place for a third of the keys; two, in both of the first two.
    #[test]
    fn lying_index_nodes_hide_what_only_they_are_asked_for() {
        let parameters = LieParameters {
            overlays: vec![Kind::Directory],
            nodes: vec![NodeCount(100)],
            values: Within(90),
            methods: Vec::new(),
            ..LieParameters::default()
        };
        let rows = lie(1, parameters, &mut |_| ()).rows;
        let missed: Vec<f64> =
            rows.iter().map(|row| row.number(Column::ValuesMissedShare).expect("measured")).collect();
        // 0, 1 and 2 lie; each with 1, 2 and 3 reads. σ is 0.05 at most.
        let expected = [0.0, 0.0, 0.0, 1.0 / 3.0, 0.0, 0.0, 2.0 / 3.0, 1.0 / 3.0, 0.0];
        for (missed, expected) in missed.iter().zip(expected) {
            let is_right = if expected == 0.0 { *missed == 0.0 } else { (missed - expected).abs() < 0.15 };
            assert!(is_right, "{missed} instead of {expected}");
        }
        assert_eq!(missed.len(), 9);
    }

    /// A value is missed if all three that should keep it hide it; in Pastry, where the first says who
    /// the others are, if that one does and most of those do who are asked for others.
    #[test]
    fn a_value_is_hidden_by_three_only() {
        let parameters = LieParameters {
            overlays: vec![Kind::Chord, Kind::Kademlia, Kind::Pastry],
            nodes: vec![NodeCount(2_000)],
            lying_shares: vec![Share(0.0), Share(0.5)],
            paths: Vec::new(),
            lookups: 1,
            methods: Vec::new(),
            // Growing takes ten times as long, and as much is hidden then (docs/lab.md).
            setup: Setup::Converged,
            ..LieParameters::default()
        };
        let rows = lie(1, parameters, &mut |_| ()).rows;
        let missed: Vec<f64> = rows.iter().filter_map(|row| row.number(Column::ValuesMissedShare)).collect();
        assert_eq!(missed.len(), 6);
        for (missed, expected) in missed.chunks(2).zip([0.125, 0.125, 0.33]) {
            let (honest, missed) = (missed[0], missed[1]);
            assert_eq!(honest, 0.0);
            // σ is 0.03 at most.
            assert!((missed - expected).abs() < 0.09, "{missed} instead of {expected}");
        }
    }

    /// Six have it, and thirty say so. A hit is believed for its
    /// signature, which tells who says so and not that it is true.
    #[test]
    fn liars_nearby_are_heard_first_and_true_hits_come_too() {
        let parameters = LieParameters {
            overlays: Vec::new(),
            nodes: vec![NodeCount(300)],
            lying_shares: vec![Share(0.0), Share(0.1)],
            methods: vec![SearchMethod::Flood, SearchMethod::Walk],
            holder_share: Share(0.02),
            searches: Within(40),
            ..LieParameters::default()
        };
        let rows = lie(1, parameters, &mut |_| ()).rows;
        let of = |row: usize, column| rows[row].number(column).expect("measured");
        for honest in [0, 1] {
            assert!(of(honest, Column::FalseFirstShare) <= 0.05 && of(honest, Column::MissingShare) <= 0.05);
        }
        for lied_to in [2, 3] {
            let (first, missing) = (of(lied_to, Column::FalseFirstShare), of(lied_to, Column::MissingShare));
            assert!(first > 0.5, "five liars for each that has it, and {first} are heard first");
            assert!(missing < first, "{missing} of those who wait for more, and {first}");
        }
    }

    /// An eclipse: who knows liars only, when it joins, hears of nobody else.
    #[test]
    fn a_node_that_joins_through_several_is_seldom_captured() {
        let parameters = LieParameters {
            overlays: vec![Kind::Kademlia],
            nodes: vec![NodeCount(300)],
            lying_shares: vec![Share(0.1)],
            paths: vec![Within(8)],
            lookups: 300,
            methods: Vec::new(),
            joined_through: vec![Within(1), Within(4)],
            ..LieParameters::default()
        };
        let rows = lie(1, parameters, &mut |_| ()).rows;
        let failed = |known| {
            let row = rows.iter().find(|row| row.number(Column::JoinedThrough) == Some(known));
            row.and_then(|row| row.number(Column::LookupsFailedShare)).expect("measured")
        };
        assert!(failed(1.0) > 0.1 && failed(4.0) < 0.01, "{} and {}", failed(1.0), failed(4.0));
    }
}
