//! Experiment *attack*: what one hostile member gains, and what it makes others do.
//!
//! | attack | what it does |
//! |---|---|
//! | sybil | has many identities: of the keys that it draws, those nearest to a chosen key are let in, and hide what they should keep |
//! | stuff | stores under a chosen key in the names of authors that it makes up, before its owner does |
//! | replay | sends what others once sent to each other again, in its own name; and, to see what proven names are worth, in theirs |
//! | junk | sends such messages to one node without end |
//!
//! Liars that are many, each at a place of its own, are the experiment *lie*'s. What is no message at
//! all never gets to a core; the tests of its decoding have that.

mod junk;
mod replay;
mod stuff;
mod sybil;
mod tap;

use crate::{
    columns::{Column, Row},
    experiment::{Progress, Report},
    kinds::{Architecture, Kind, Settings},
    page::Plot,
    parameters::{Within, parameters, words},
    plot::Scale,
};

use self::{junk::Junk, replay::Replay, stuff::Stuff, sybil::Sybil};

/// What a hostile member does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attack {
    Sybil,
    Stuff,
    Replay,
    Junk,
}

words!(Attack { Sybil "sybil", Stuff "stuff", Replay "replay", Junk "junk" });

parameters! {
    pub struct AttackParameters {
        /// What is tried: sybil, stuff, replay, junk.
        pub attacks: Vec<Attack> = Attack::ALL.to_vec(),
        /// The kinds to run, those that locate keys, of sybil and stuff.
        pub overlays: Vec<Kind> = Kind::ALL.to_vec(),
        /// The architectures to run, of replay and junk.
        pub architectures: Vec<Architecture> = Architecture::ALL.to_vec(),
        /// Honest nodes, of sybil and stuff.
        pub nodes: Within<20, 100_000> = Within(1_000),
        /// Keys that are chosen, each for itself.
        pub keys: Within<1, 1_000> = Within(20),
        /// Identities of the adversary for each key, a row for each.
        pub identities: Vec<Within<1, 20>> = [1, 2, 3, 6].map(Within).to_vec(),
        /// Node keys that the adversary draws for each honest node, a row for each; at least as
        /// many as it uses.
        pub drawn_per_node: Vec<Within<1, 64>> = [1, 8, 64].map(Within).to_vec(),
        /// Authors that are made up for each key, a row for each.
        pub made_up_authors: Vec<Within<0, 256>> = [0, 8, 32].map(Within).to_vec(),
        /// Nodes, of replay and junk, all of which joined.
        pub joined_nodes: Within<20, 10_000> = Within(200),
        /// Messages of each kind that are sent again.
        pub samples: Within<1, 64> = Within(8),
        /// Messages to one node, a hundred a second.
        pub junk: Within<1, 1_000_000> = Within(20_000),
        + pub settings: Settings,
    }
}

pub(crate) const PLOTS: &[Plot] = &[
    Plot {
        title: "Chosen keys that an adversary owns",
        x: (Column::DrawnPerNode, Scale::Logarithmic),
        y: (Column::KeysOwnedShare, Scale::Linear),
        by: &[Column::Overlay, Column::Identities],
        theory: &[],
        model: None,
    },
    Plot {
        title: "Values under chosen keys that it hides",
        x: (Column::DrawnPerNode, Scale::Logarithmic),
        y: (Column::ValuesMissedShare, Scale::Linear),
        by: &[Column::Overlay, Column::Identities],
        theory: &[],
        model: None,
    },
];

/// Tries each attack on each kind.
pub fn attack(seed: u64, parameters: AttackParameters, tell: &mut dyn FnMut(f64)) -> Report {
    let AttackParameters { attacks, overlays, architectures, .. } = &parameters;
    let networks = |attack: &Attack| match attack {
        Attack::Sybil => overlays.len() * parameters.identities.len() * parameters.drawn_per_node.len(),
        Attack::Stuff => overlays.len() * parameters.made_up_authors.len(),
        Attack::Replay | Attack::Junk => architectures.len(),
    };
    let mut progress = Progress::new(tell, attacks.iter().map(networks).sum::<usize>() as f64);
    let mut rows = Vec::new();
    for attack in attacks {
        let row = |overlay: &str, Within(nodes): Within<20, 100_000>| {
            Row::default()
                .with(Column::Overlay, overlay)
                .with(Column::Nodes, nodes)
                .with(Column::Attack, attack.name())
        };
        let settings = &parameters.settings;
        match attack {
            Attack::Sybil => {
                for overlay in overlays {
                    for Within(identities) in &parameters.identities {
                        for Within(drawn) in &parameters.drawn_per_node {
                            let row = row(overlay.name(), parameters.nodes)
                                .with(Column::Identities, *identities)
                                .with(Column::DrawnPerNode, *drawn);
                            let (identities, drawn) = (*identities, *drawn);
                            let task = Sybil { seed, parameters: &parameters, identities, drawn, row };
                            rows.push(overlay.run(settings, task));
                            progress.add(1.0);
                        }
                    }
                }
            }
            Attack::Stuff => {
                for overlay in overlays {
                    for Within(authors) in &parameters.made_up_authors {
                        let row = row(overlay.name(), parameters.nodes).with(Column::MadeUpAuthors, *authors);
                        let task = Stuff { seed, parameters: &parameters, authors: *authors, row };
                        rows.push(overlay.run(settings, task));
                        progress.add(1.0);
                    }
                }
            }
            Attack::Replay => {
                for architecture in architectures {
                    let row = row(architecture.name(), Within(parameters.joined_nodes.0));
                    let task = Replay { seed, parameters: &parameters, row };
                    rows.extend(architecture.run(settings, task));
                    progress.add(1.0);
                }
            }
            Attack::Junk => {
                for architecture in architectures {
                    let row = row(architecture.name(), Within(parameters.joined_nodes.0));
                    let task = Junk { seed, parameters: &parameters, row };
                    rows.push(architecture.run(settings, task));
                    progress.add(1.0);
                }
            }
        }
    }
    Report::new("attack", seed, &parameters, rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(attack: Attack, change: impl FnOnce(&mut AttackParameters)) -> Vec<Row> {
        let mut parameters = AttackParameters {
            attacks: vec![attack],
            nodes: Within(200),
            joined_nodes: Within(60),
            samples: Within(4),
            junk: Within(2_000),
            ..AttackParameters::default()
        };
        change(&mut parameters);
        super::attack(1, parameters, &mut |_| ()).rows
    }

    fn number(row: &Row, column: Column) -> f64 {
        row.number(column).expect("measured")
    }

    /// It draws 64 keys for each node, so the nearest to nearly each key are its own.
    #[test]
    fn who_owns_a_key_needs_as_many_identities_to_hide_it_as_there_are_keepers() {
        let rows = run(Attack::Sybil, |parameters| {
            parameters.keys = Within(10);
            parameters.identities = [2, 3].map(Within).to_vec();
            parameters.drawn_per_node = vec![Within(64)];
        });
        for row in &rows {
            let (owned, missed) =
                (number(row, Column::KeysOwnedShare), number(row, Column::ValuesMissedShare));
            let identities = number(row, Column::Identities);
            let overlay = row.shown(Column::Overlay);
            match overlay.as_str() {
                // Index nodes and super-peers are others, wherever it stands.
                "directory" | "hybrid" => assert_eq!((owned, missed), (0.0, 0.0), "{overlay}"),
                // Who misses something asks on.
                "pastry" => assert!(owned >= 0.8 && missed <= 0.4, "{owned}, {missed}"),
                _ if identities < 3.0 => assert!(owned >= 0.8 && missed <= 0.2, "{overlay} {missed}"),
                _ => assert!(owned >= 0.8 && missed >= 0.6, "{overlay} {missed}"),
            }
        }
        assert_eq!(rows.len(), 2 * Kind::ALL.len());
    }

    #[test]
    fn a_key_that_one_member_has_filled_takes_its_owners_value_still() {
        let rows = run(Attack::Stuff, |parameters| {
            parameters.keys = Within(10);
            parameters.made_up_authors = vec![Within(16)];
        });
        assert_eq!(rows.len(), Kind::ALL.len());
        for row in rows {
            assert_eq!(number(&row, Column::ValuesMissedShare), 0.0, "{}", row.shown(Column::Overlay));
        }
    }

    /// A long answer goes to who asks, and to nobody else who could be named. Who says goodbye makes
    /// others look for somebody in its place.
    #[test]
    fn with_proven_names_nobody_is_made_to_send_much_to_somebody_else() {
        let structured = |kind: &Architecture| kind.name() != "flood" && kind.name() != "walk";
        let rows = run(Attack::Replay, |parameters| parameters.architectures.retain(structured));
        assert_eq!(rows.len(), 2 * 5);
        for row in rows {
            let (answer, third) = (number(&row, Column::AnswerTimesMax), number(&row, Column::ThirdTimesMax));
            let what = format!("{} {}", row.shown(Column::Overlay), row.shown(Column::ThirdWorst));
            match row.shown(Column::Sender).as_str() {
                "proven" => assert!(third < 20.0, "{what}: {third}"),
                // What a forged name would be good for.
                _ => assert!(answer > 50.0, "{what}: {answer}"),
            }
        }
    }

    #[test]
    fn junk_fills_no_memory_and_hides_nothing() {
        for row in run(Attack::Junk, |_| ()) {
            let overlay = row.shown(Column::Overlay);
            let (before, most) =
                (number(&row, Column::StateBeforeBytes), number(&row, Column::StateMeanwhileBytesMax));
            assert!(most < before + 32_768.0, "{overlay}: {before} and then {most}");
            assert_eq!(number(&row, Column::ValuesMissedShare), 0.0, "{overlay}");
        }
    }
}
