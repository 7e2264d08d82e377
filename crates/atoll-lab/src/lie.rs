//! Experiment *lie*: some nodes lie, all of them together, and the others look keys up.
//!
//! A liar has its place in the overlay as everybody has, drawn and not chosen, and does all
//! that upkeep asks of it. It lies about keys: whoever asks it for its way is sent to other
//! liars, who say the same, and what it answers for never belongs to anybody else.

mod liar;

use crate::{
    columns::{Column, Row},
    experiment::{Progress, Report, Setup, measure_among, network},
    kinds::{Kind, Recipe, Settings, Task},
    page::Plot,
    parameters::{NodeCount, Share, Within, parameters},
    plot::Scale,
};

use self::liar::WithLiars;

parameters! {
    pub struct LieParameters {
        /// The kinds to run.
        pub overlays: Vec<Kind> = Kind::ALL.to_vec(),
        /// Sizes of the network, liars included.
        pub nodes: Vec<NodeCount> = vec![NodeCount(10_000)],
        /// Lookups for each row.
        pub lookups: usize = 2_000,
        /// Shares of the nodes that lie.
        pub lying_shares: Vec<Share> = [0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5].map(Share).to_vec(),
        /// Disjoint paths of Kademlia's lookups, a row for each.
        pub paths: Vec<Within<1, 16>> = [1, 2, 4, 8].map(Within).to_vec(),
        /// Whether the network is set up as if it had come to rest, or grows by joining. Liars
        /// lie to those who join, too.
        pub setup: Setup = Setup::Converged,
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
        title: "Messages for a lookup",
        x: (Column::LyingShare, Scale::Linear),
        y: (Column::MessagesMean, Scale::Linear),
        by: LINES,
        theory: &[],
        model: None,
    },
];

/// Looks keys of honest nodes up at honest nodes.
pub fn lie(seed: u64, parameters: LieParameters, tell: &mut dyn FnMut(f64)) -> Report {
    let LieParameters { overlays, nodes, lying_shares, paths, .. } = &parameters;
    // Only Kademlia has paths to choose.
    let runs: Vec<(Kind, Option<Within<1, 16>>)> = overlays
        .iter()
        .flat_map(|&overlay| match overlay {
            Kind::Kademlia => paths.iter().map(|paths| (overlay, Some(*paths))).collect(),
            _ => vec![(overlay, None)],
        })
        .collect();
    let sizes: usize = nodes.iter().map(|nodes| nodes.0).sum();
    let mut progress = Progress::new(tell, (sizes * lying_shares.len() * runs.len()) as f64);
    let mut rows = Vec::new();
    for &NodeCount(nodes) in nodes {
        for &Share(lying_share) in lying_shares {
            for &(overlay, paths) in &runs {
                let row = Row::default()
                    .with(Column::Overlay, overlay.name())
                    .with(Column::Nodes, nodes)
                    .with(Column::LyingShare, lying_share)
                    .with_some(Column::DisjointPaths, paths.map(|paths| paths.0));
                let mut settings = parameters.settings.clone();
                settings.kademlia_disjoint_paths = paths.unwrap_or(settings.kademlia_disjoint_paths);
                rows.push(
                    overlay.run(&settings, Lie { seed, nodes, lying_share, parameters: &parameters, row }),
                );
                progress.add(nodes as f64);
            }
        }
    }
    Report::new("lie", seed, &parameters, rows)
}

struct Lie<'a> {
    seed: u64,
    nodes: usize,
    lying_share: f64,
    parameters: &'a LieParameters,
    row: Row,
}

impl Task for Lie<'_> {
    type Output = Row;

    fn run<R: Recipe>(self, recipe: &R) -> Row {
        let recipe = WithLiars::new(recipe, self.lying_share);
        let mut world = network(&recipe, self.nodes, self.seed, self.parameters.setup);
        world.freeze();
        if world.living().all(|(contact, _)| recipe.is_liar(contact)) {
            // Nobody is left to ask.
            return self.row;
        }
        let is_honest = |contact| !recipe.is_liar(contact);
        measure_among(&recipe, &mut world, self.seed, self.parameters.lookups, is_honest, self.row)
    }
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
}
