//! The verdict over a run: what clients saw, and what the harness saw of the nodes, judged
//! by checkers that know what was promised and nothing of how it is kept.
//!
//! A checker is a file here, with a name, so that a report says which one spoke. Each is a
//! function of the [`Evidence`] alone, so histories made by hand test it.

mod bytes;
mod chunks;
mod linearizability;
mod listings;
pub(crate) mod liveness;
mod locks;
mod losses;
mod raft;
mod returns;
mod transactions;
mod uploads;
mod watches;
mod writes;

use std::fmt;

pub use chunks::Census;
pub use raft::RaftWatch;

use crate::load::{Event, Promptness};

/// What there is to judge from.
#[derive(Debug, Clone, Copy, Default)]
pub struct Evidence<'a> {
    /// What clients saw, the audit's reads included.
    pub events: &'a [Event],
    /// How soon everything was answered again once the faults had stopped.
    pub promptness: &'a [Promptness],
    /// What of Raft's invariants was broken, where somebody watched.
    pub violations: &'a [String],
    /// Where the chunks were at the end, if somebody looked.
    pub chunks: Option<&'a Census>,
}

/// What a checker has against a run, in words.
pub(crate) type Problem = String;

type Check = fn(&Evidence<'_>) -> Result<(), Problem>;

/// All of them, by name.
const CHECKERS: [(&str, Check); 14] = [
    ("bytes", bytes::check),
    ("lost", losses::check),
    ("deleted", returns::check),
    ("linearizability", linearizability::check),
    ("transactions", transactions::check),
    ("listings", listings::check),
    ("uploads", uploads::check),
    ("locks", locks::check),
    ("watches", watches::check),
    ("liveness", liveness::check),
    ("raft", raft::check),
    ("references", chunks::check_references),
    ("copies", chunks::check_copies),
    ("garbage", chunks::check_garbage),
];

/// What one checker found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub checker: &'static str,
    pub problem: Problem,
}

/// What all checkers found: nothing, if all is well.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Judgement {
    pub findings: Vec<Finding>,
}

impl Judgement {
    /// Has every checker look at the evidence.
    pub fn of(evidence: &Evidence<'_>) -> Judgement {
        let spoke = |(checker, check): (&'static str, Check)| {
            check(evidence).err().map(|problem| Finding { checker, problem })
        };
        Judgement { findings: CHECKERS.into_iter().filter_map(spoke).collect() }
    }

    /// All that could have spoken.
    pub fn checkers() -> impl Iterator<Item = &'static str> {
        CHECKERS.into_iter().map(|(name, _)| name)
    }

    pub fn is_sound(&self) -> bool {
        self.findings.is_empty()
    }

    /// Whether this checker found something.
    pub fn is_found_by(&self, checker: &str) -> bool {
        self.findings.iter().any(|finding| finding.checker == checker)
    }
}

impl fmt::Display for Judgement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_sound() {
            return f.write_str("sound");
        }
        for (at, Finding { checker, problem }) in self.findings.iter().enumerate() {
            let separator = if at == 0 { "" } else { "\n" };
            write!(f, "{separator}{checker}: {problem}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod testing;
