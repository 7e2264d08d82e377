//! The experiments by name, for whoever gets names and texts from a user.

use crate::{
    architectures::architectures,
    attack::attack,
    blocks::blocks,
    broadcast::broadcast,
    churn::churn,
    experiment::Report,
    failure::failure,
    grow::grow,
    lie::lie,
    lookup::lookup,
    page::Plot,
    parameters::{Described, ParameterError, Parameters},
    search::search,
};

/// An experiment that can be run by its name.
pub struct Experiment {
    pub name: &'static str,
    /// What it measures, in one line.
    pub about: &'static str,
    pub(crate) plots: &'static [Plot],
    described: fn() -> Vec<Described>,
    run: Run,
}

type Run = fn(&'static str, u64, &[(String, String)], &mut dyn FnMut(f64)) -> Result<Report, ParameterError>;

/// In the order in which `run all` runs them.
pub static EXPERIMENTS: &[Experiment] = &[
    Experiment {
        name: "lookup",
        about: "hops, latency and messages of lookups as networks grow",
        plots: crate::lookup::PLOTS,
        described: crate::LookupParameters::described,
        run: |name, seed, given, tell| Ok(lookup(seed, read(name, given)?, tell)),
    },
    Experiment {
        name: "failure",
        about: "lookups after a share of all nodes failed at once, before any repair and after",
        plots: crate::failure::PLOTS,
        described: crate::FailureParameters::described,
        run: |name, seed, given, tell| Ok(failure(seed, read(name, given)?, tell)),
    },
    Experiment {
        name: "churn",
        about: "success, staleness and upkeep while nodes come and go, against how long they stay",
        plots: crate::churn::PLOTS,
        described: crate::ChurnParameters::described,
        run: |name, seed, given, tell| Ok(churn(seed, read(name, given)?, tell)),
    },
    Experiment {
        name: "grow",
        about: "what a join, a leave and a failure cost as networks grow, and until when",
        plots: crate::grow::PLOTS,
        described: crate::GrowParameters::described,
        run: |name, seed, given, tell| Ok(grow(seed, read(name, given)?, tell)),
    },
    Experiment {
        name: "search",
        about: "messages until something is found by its name, against how rare it is",
        plots: crate::search::PLOTS,
        described: crate::SearchParameters::described,
        run: |name, seed, given, tell| Ok(search(seed, read(name, given)?, tell)),
    },
    Experiment {
        name: "lie",
        about: "lookups while a share of the nodes lies, all of them together",
        plots: crate::lie::PLOTS,
        described: crate::LieParameters::described,
        run: |name, seed, given, tell| Ok(lie(seed, read(name, given)?, tell)),
    },
    Experiment {
        name: "attack",
        about: "what one hostile member gains by many identities, made-up authors, messages sent again, and junk",
        plots: crate::attack::PLOTS,
        described: crate::AttackParameters::described,
        run: |name, seed, given, tell| Ok(attack(seed, read(name, given)?, tell)),
    },
    Experiment {
        name: "broadcast",
        about: "one message to all nodes by each method, before and after many of them crash",
        plots: crate::broadcast::PLOTS,
        described: crate::BroadcastParameters::described,
        run: |name, seed, given, tell| Ok(broadcast(seed, read(name, given)?, tell)),
    },
    Experiment {
        name: "blocks",
        about: "blocks by inventories over narrow links, against connections, bandwidth and size, beside a model",
        plots: crate::blocks::PLOTS,
        described: crate::BlocksParameters::described,
        run: |name, seed, given, tell| Ok(blocks(seed, read(name, given)?, tell)),
    },
    Experiment {
        name: "architectures",
        about: "one mixed workload on every architecture: what each costs, who wins, and what textbooks claim",
        plots: crate::architectures::PLOTS,
        described: crate::ArchitecturesParameters::described,
        run: |name, seed, given, tell| Ok(architectures(seed, read(name, given)?, tell)),
    },
];

impl Experiment {
    pub fn named(name: &str) -> Option<&'static Experiment> {
        EXPERIMENTS.iter().find(|experiment| experiment.name == name)
    }

    /// Its parameters in order.
    pub fn parameters(&self) -> Vec<Described> {
        (self.described)()
    }

    /// Runs it with the given parameters, by name and text; those not given have their
    /// defaults. `tell` hears now and then what share of the work is done. The same seed and
    /// parameters give the same report.
    pub fn run(
        &self,
        seed: u64,
        given: &[(String, String)],
        tell: &mut dyn FnMut(f64),
    ) -> Result<Report, ParameterError> {
        (self.run)(self.name, seed, given, tell)
    }
}

fn read<P: Parameters>(experiment: &'static str, given: &[(String, String)]) -> Result<P, ParameterError> {
    let mut parameters = P::default();
    for (name, text) in given {
        let set = parameters.set(name, text);
        let invalid = |reason| ParameterError::Invalid { name: name.clone(), text: text.clone(), reason };
        if !set.map_err(invalid)? {
            let known = P::described().iter().map(|described| described.name).collect();
            return Err(ParameterError::Unknown { experiment, name: name.clone(), known });
        }
    }
    Ok(parameters)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(name: &str, given: &[(&str, &str)]) -> Result<Report, ParameterError> {
        let given: Vec<(String, String)> =
            given.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect();
        Experiment::named(name).expect("an experiment").run(1, &given, &mut |_| ())
    }

    #[test]
    fn an_experiment_runs_by_its_name_with_what_it_is_told() {
        let mut told = Vec::new();
        let given = [("nodes".to_owned(), "5,50".to_owned()), ("lookups".to_owned(), "10".to_owned())];
        let report = Experiment::named("lookup")
            .expect("one")
            .run(7, &given, &mut |share| told.push(share))
            .expect("runs");
        assert_eq!((report.experiment, report.seed), ("lookup", 7));
        let nodes: Vec<_> = report.rows.iter().map(|row| row.number(crate::Column::Nodes)).collect();
        assert_eq!(nodes[0], Some(5.0));
        assert!(told.is_sorted() && told.last() == Some(&1.0), "{told:?}");
    }

    #[test]
    fn an_unknown_or_bad_parameter_is_named() {
        assert!(matches!(
            run("failure", &[("node", "5")]),
            Err(ParameterError::Unknown { experiment: "failure", name, known }) if name == "node" && known.contains(&"nodes")
        ));
        assert!(matches!(
            run("lookup", &[("nodes", "5"), ("overlays", "cord")]),
            Err(ParameterError::Invalid { name, reason, .. }) if name == "overlays" && reason.contains("chord")
        ));
    }
}
