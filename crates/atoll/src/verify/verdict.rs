//! What `atoll verify` found, as it is printed.

use std::{collections::BTreeMap, time::Duration};

use atoll_simulation::{
    Seed,
    checkers::Judgement,
    load::{Ending, Event, Kind, Operation},
};
use atoll_types::Instant;
use serde::Serialize;

use super::mishaps::Counts;
use crate::output::table;

#[derive(Debug, Serialize)]
pub struct Verdict {
    pub seed: String,
    pub sound: bool,
    pub seconds: f64,
    pub clients: usize,
    /// By kind.
    pub operations: BTreeMap<String, Outcomes>,
    /// How long nobody's write was answered, or read, at the longest.
    pub longest_without_write_seconds: f64,
    pub longest_without_read_seconds: f64,
    /// How often what befell the nodes.
    pub mishaps: Counts,
    /// Each checker, and what it found, if anything.
    pub checkers: Vec<Checked>,
}

#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Outcomes {
    pub answered: u64,
    /// They may have happened, or not.
    pub unknown: u64,
    /// Nobody was there to be asked.
    pub not_done: u64,
}

#[derive(Debug, Serialize)]
pub struct Checked {
    pub checker: &'static str,
    pub problem: Option<String>,
}

/// Those that need to see the nodes from inside; on real ones nobody does.
const INSIDE: [&str; 4] = ["raft", "references", "copies", "garbage"];

impl Verdict {
    /// `events` from `began` to `ended` were under load.
    pub fn new(seed: Seed, clients: usize, events: &[Event], began: Instant, ended: Instant) -> Self {
        let mut operations: BTreeMap<String, Outcomes> = BTreeMap::new();
        for event in events {
            let of_kind =
                operations.entry(format!("{:?}", event.operation.kind()).to_lowercase()).or_default();
            match &event.ending {
                Ending::Answered { .. } => of_kind.answered += 1,
                Ending::Open => of_kind.unknown += 1,
                Ending::Nothing => of_kind.not_done += 1,
            }
        }
        Self {
            seed: seed.to_string(),
            sound: true,
            seconds: (ended - began).as_secs_f64(),
            clients,
            operations,
            longest_without_write_seconds: longest_without(events, began, ended, is_write).as_secs_f64(),
            longest_without_read_seconds: longest_without(events, began, ended, is_read).as_secs_f64(),
            mishaps: Counts::new(),
            checkers: Vec::new(),
        }
    }

    pub fn judged(&mut self, judgement: &Judgement) {
        for checker in Judgement::checkers().filter(|checker| !INSIDE.contains(checker)) {
            let found = judgement.findings.iter().find(|found| found.checker == checker);
            self.checked(checker, found.map(|found| found.problem.clone()));
        }
    }

    pub fn checked(&mut self, checker: &'static str, problem: Option<String>) {
        self.sound &= problem.is_none();
        self.checkers.push(Checked { checker, problem });
    }

    pub fn print(&self) {
        let rows = self.operations.iter().map(|(kind, outcomes)| {
            let Outcomes { answered, unknown, not_done } = outcomes;
            [kind.clone(), answered.to_string(), unknown.to_string(), not_done.to_string()]
        });
        println!("{}\n", table(["OPERATION", "ANSWERED", "UNKNOWN", "NOT DONE"], rows));
        if !self.mishaps.is_empty() {
            let rows = self.mishaps.iter().map(|(what, count)| [(*what).to_owned(), count.to_string()]);
            println!("{}\n", table(["MISHAP", "TIMES"], rows));
        }
        let rows = self.checkers.iter().map(|Checked { checker, problem }| {
            [(*checker).to_owned(), if problem.is_none() { "holds" } else { "FAILED" }.to_owned()]
        });
        println!("{}\n", table(["CHECK", "RESULT"], rows));
        for Checked { checker, problem } in &self.checkers {
            if let Some(problem) = problem {
                println!("{checker}: {problem}\n");
            }
        }
        println!(
            "{:.0} s with {} clients; longest without a write {:.1} s, without a read {:.1} s; seed {}",
            self.seconds,
            self.clients,
            self.longest_without_write_seconds,
            self.longest_without_read_seconds,
            self.seed
        );
    }
}

fn is_read(operation: &Operation) -> bool {
    matches!(operation.kind(), Kind::Get | Kind::List)
}

fn is_write(operation: &Operation) -> bool {
    matches!(operation.kind(), Kind::Put | Kind::Delete | Kind::Copy)
}

fn longest_without(
    events: &[Event],
    began: Instant,
    ended: Instant,
    wanted: impl Fn(&Operation) -> bool,
) -> Duration {
    let mut answered: Vec<Instant> = events
        .iter()
        .filter(|event| wanted(&event.operation))
        .filter_map(|event| match &event.ending {
            Ending::Answered { returned_at, .. } => Some((*returned_at).clamp(began, ended)),
            Ending::Open | Ending::Nothing => None,
        })
        .collect();
    answered.extend([began, ended]);
    answered.sort_unstable();
    answered.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use atoll_simulation::load::{Answer, History};

    use super::*;

    #[test]
    fn the_longest_time_without_an_answer_counts_both_ends() {
        let at = |seconds| Instant::ORIGIN + Duration::from_secs(seconds);
        let mut history = History::default();
        let get = || Operation::Get { key: "a".into(), span: None };
        for seconds in [12, 13, 17] {
            let call = history.called(0, get(), at(seconds));
            history.returned(call, Answer::Found(None), at(seconds));
        }
        history.called(0, get(), at(20));
        let longest = |ended| longest_without(history.events(), at(10), at(ended), is_read);
        assert_eq!(longest(20), Duration::from_secs(4));
        assert_eq!(longest(30), Duration::from_secs(13));
        assert_eq!(longest_without(history.events(), at(10), at(30), is_write), Duration::from_secs(20));
    }
}
