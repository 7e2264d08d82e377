//! Known systems by name: parameters as they were published. Only such as our kinds play truly.

use crate::experiments::Experiment;

pub struct Preset {
    pub name: &'static str,
    /// What it is, and where its parameters stand.
    pub about: &'static str,
    /// The experiments that it says something about.
    pub experiments: &'static [&'static str],
    /// By name and text; each experiment takes those that it knows.
    parameters: &'static [(&'static str, &'static str)],
}

const LOOKUPS: &[&str] = &["lookup", "failure", "churn", "grow", "lie"];
/// Of systems that were for searching.
const LOOKUPS_AND_SEARCH: &[&str] = &["lookup", "failure", "churn", "grow", "lie", "search"];

pub static PRESETS: &[Preset] = &[
    Preset {
        name: "napster",
        about: "Napster, 1999, as OpenNap's authors wrote its protocol down: a client asks the one server that it is connected to",
        experiments: LOOKUPS_AND_SEARCH,
        parameters: &[
            ("overlays", "directory"),
            ("directory_indexes", "1"),
            ("directory_reads", "1"),
            ("methods", "none"),
        ],
    },
    Preset {
        name: "chord",
        about: "Stoica et al., ToN 2003, V: iterative, successor lists of 20 that are used in routing",
        experiments: LOOKUPS,
        parameters: &[
            ("overlays", "chord"),
            ("chord_successors", "20"),
            ("chord_route_by_successors", "true"),
            ("chord_recursive", "false"),
            ("methods", "none"),
        ],
    },
    Preset {
        name: "kademlia",
        about: "Maymounkov and Mazières 2002: k = 20, α = 3, one path; b = 1 as their basic protocol, where their implementation used 5",
        experiments: LOOKUPS,
        parameters: &[
            ("overlays", "kademlia"),
            ("kademlia_k", "20"),
            ("kademlia_alpha", "3"),
            ("kademlia_bits_per_step", "1"),
            ("kademlia_disjoint_paths", "1"),
            ("methods", "none"),
        ],
    },
    Preset {
        name: "ethereum",
        about: "how its nodes find each other (discv4): k = 16, α = 3, one path; that blocks go whole to √n peers is not played here",
        experiments: LOOKUPS,
        parameters: &[
            ("overlays", "kademlia"),
            ("kademlia_k", "16"),
            ("kademlia_alpha", "3"),
            ("kademlia_bits_per_step", "1"),
            ("kademlia_disjoint_paths", "1"),
            ("methods", "none"),
        ],
    },
    Preset {
        name: "pastry",
        about: "Rowstron and Druschel 2001: b = 4, a leaf set of 16",
        experiments: LOOKUPS,
        parameters: &[
            ("overlays", "pastry"),
            ("pastry_bits_per_digit", "4"),
            ("pastry_leaves_each", "8"),
            ("methods", "none"),
        ],
    },
    Preset {
        name: "gnutella",
        about: "Gnutella 0.4: queries flood with TTL 7; four neighbours, as its early clients are said to have kept",
        experiments: &["search"],
        parameters: &[("overlays", "none"), ("methods", "flood"), ("ttl", "7"), ("connections", "4")],
    },
    Preset {
        name: "kazaa",
        about: "Liang, Kumar, Ross 2004: one super-node to each ordinary node, up to 160 of these; queries do not flood here",
        experiments: LOOKUPS_AND_SEARCH,
        parameters: &[
            ("overlays", "hybrid"),
            ("hybrid_attachments", "1"),
            ("hybrid_leaves_high", "160"),
            ("hybrid_witnesses", "1"),
            ("methods", "none"),
        ],
    },
    Preset {
        name: "edonkey",
        about: "a client logs in to one server, and Kad goes on without; 768 clients each here, as our tables hold, over a million there (lugdunum)",
        experiments: LOOKUPS_AND_SEARCH,
        parameters: &[
            ("overlays", "hybrid"),
            ("hybrid_attachments", "1"),
            ("hybrid_leaves_high", "768"),
            ("hybrid_witnesses", "1"),
            ("methods", "none"),
        ],
    },
    Preset {
        name: "bitcoin",
        about: "inv and getdata as before compact blocks: 8 connections opened (and as many accepted, the mean if everybody listens), blocks of 1 MB",
        experiments: &["broadcast", "blocks"],
        parameters: &[
            ("overlays", "none"),
            ("random_graph", "true"),
            ("methods", "inventory"),
            ("connections", "16"),
            ("payload_bytes", "1000000"),
        ],
    },
];

impl Preset {
    pub fn named(name: &str) -> Option<&'static Preset> {
        PRESETS.iter().find(|preset| preset.name == name)
    }

    /// What it gives to an experiment; none if it says nothing about it.
    pub fn parameters_for(&self, experiment: &Experiment) -> Option<Vec<(String, String)>> {
        let known = experiment.parameters();
        let is_known = |name: &str| known.iter().any(|described| described.name == name);
        self.experiments.contains(&experiment.name).then(|| {
            let given = self.parameters.iter().filter(|(name, _)| is_known(name));
            given.map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// With few nodes: that they are understood, and every parameter by some experiment.
    #[test]
    fn every_preset_runs_with_the_experiments_that_it_is_for() {
        for preset in PRESETS {
            let mut used = std::collections::BTreeSet::new();
            for name in preset.experiments {
                let experiment = Experiment::named(name).expect("an experiment");
                let mut given = preset.parameters_for(experiment).expect("parameters");
                used.extend(given.iter().map(|(name, _)| name.clone()));
                // The shortest that each of them can be.
                for (name, text) in [
                    ("nodes", "20"),
                    ("lookups", "5"),
                    ("medians_s", "600"),
                    ("warm_up_s", "60"),
                    ("measured_s", "60"),
                    ("times", "1"),
                    ("searches", "2"),
                    ("upkeep_s", "60"),
                    ("holder_shares", "0.2"),
                    ("broadcasts", "1"),
                    ("values", "5"),
                ] {
                    if experiment.parameters().iter().any(|described| described.name == name) {
                        given.push((name.to_owned(), text.to_owned()));
                    }
                }
                let report = experiment.run(1, &given, &mut |_| ()).expect("a preset's parameters are valid");
                assert!(!report.rows.is_empty(), "{} says nothing about {name}", preset.name);
            }
            assert_eq!(used.len(), preset.parameters.len(), "{}: {used:?}", preset.name);
        }
    }
}
